//! The same in Chromium.

use super::*;

fn chromium(address: SocketAddr, backend: &Counting, major: &str, plan: &str) -> Script {
    let url = format!("http://{address}/api/chat");
    let body = json!({ "parts": true, "events": WORDS }).to_string();
    let script = Script::node("ai_sdk_chromium.mjs").args(["--url", &url, "--major", major, "--plan", plan]);
    script.args(["--body", &body, "--pause", "15", "--go", &backend.gate()])
}

/// A phone that was away. The user is told by a cookie; its page asks for its chat when it is loaded and finds none. (In major
/// 6 the hook must be given a `Chat`, else it keeps the parts it has in front of those that are replayed, whoever replays them;
/// major 5 always does.)
#[tokio::test]
async fn a_page_that_becomes_visible_again_goes_on() {
    for (major, chat) in [("6", &["--own-chat"][..]), ("7", &[])] {
        let backend = backend().await;
        let config = format!("[identity]\nfrom = [\"cookie:sid\"]\n{ROUTE}");
        let holdover = Holdover::setup().upstream(backend.address).config(config).start().await;
        let faults = FaultProxy::start(holdover.addr(), [Cut::inside(EVENTS - 5, 9, How::Fin)]).await;
        let page = chromium(faults.address(), &backend, major, "visible").args(["--cookie", "sid=alice"]).args(chat);
        let report = page.start().report().await;
        assert_eq!(parts(&report.events), message(), "major {major}: {report:#?}");
        // The chat was unknown; and the break is an error that the SDK reports before it recovers.
        assert_eq!(report.errors, ["204", "network error"], "{report:#?}");
        assert_eq!((&*report.ended, report.opens), ("clean", 2));
        backend.counts(1, 1, 0).await;
    }
}

#[tokio::test]
async fn a_page_of_another_origin_is_reloaded() {
    for major in MAJORS {
        let backend = backend().await;
        let config = format!("[identity]\nanonymous_sessions = true\n{ROUTE}");
        let holdover = Holdover::setup().upstream(backend.address).config(config).start().await;
        let report = chromium(holdover.addr(), &backend, major, "reload").start().report().await;
        assert_eq!(parts(&report.events), message(), "major {major}: {report:#?}");
        assert_eq!((&*report.ended, report.opens, &*report.errors), ("clean", 2, &["204".to_owned()][..]));
        backend.counts(1, 1, 0).await;
    }
}
