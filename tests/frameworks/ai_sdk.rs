//! AI SDK `streamText` on Node, and the SDK's own chat as its client.

use super::*;
use crate::support::{Program, Report, Script};

const CHAT: &str = "\
    [identity]\nanonymous_sessions = true\n\
    [[route]]\nname = \"chat\"\npath = \"/api/chat\"\nsession = \"body:/id\"\n";

async fn start() -> (Program, SocketAddr) {
    Script::node("backends/ai_sdk_server.mjs").listening().await
}

/// A chat that asks for so many words.
fn chat(address: SocketAddr, words: usize) -> Program {
    let body = format!(r#"{{"id":"a-chat","text":"Hello","events":{words}}}"#);
    Script::node("ai_sdk_chat.mjs").args(["--url", &format!("http://{address}/api/chat"), "--body", &body]).start()
}

fn text(words: usize) -> String {
    (1..=words).map(|n| format!("t{n} ")).collect()
}

#[tokio::test]
async fn a_chat_reads_the_same_through_holdover() {
    let (_framework, address) = start().await;
    let holdover = Holdover::setup().upstream(address).config(CHAT).start().await;
    let (direct, through) = (chat(address, 30).report().await, chat(holdover.addr(), 30).report().await);
    let parts = |report: &Report| -> Vec<_> {
        report.events.iter().map(|part| (part.kind.clone(), part.data.clone())).collect()
    };
    assert!(parts(&direct).contains(&("text".to_owned(), text(30))), "{direct:#?}");
    assert_eq!(parts(&through), parts(&direct));
    for report in [direct, through] {
        assert_eq!((&*report.ended, report.opens, &*report.errors), ("clean", 1, &[][..]));
    }
    counts(address, Stats { started: 2, finished: 2, aborted: 0 }).await;
}

#[tokio::test]
async fn its_turn_dies_with_the_client() {
    let (_framework, address) = start().await;
    let mut client = chat(address, 100_000);
    let started = Stats { started: 1, finished: 0, aborted: 0 };
    counts(address, started).await;
    client.kill();
    counts(address, Stats::ONE_ABORTED).await;
}

#[tokio::test]
async fn its_turn_outlives_the_client_behind_holdover() {
    let (_framework, address) = start().await;
    let holdover = Holdover::setup().upstream(address).config(CHAT).start().await;
    let mut client = chat(holdover.addr(), 300);
    recorded(&holdover, 10.0).await;
    client.kill();
    let mut attached = holdover.connect().await;
    attached.request("GET", "/.holdover/sessions/a-chat/stream", &[], "").await;
    let head = attached.head().await;
    assert_eq!(head.status(), 200);
    let body = attached.body().await;
    let parts: Vec<Value> = crate::support::events(&body)
        .iter()
        .filter(|event| event.data() != "[DONE]")
        .map(|event| serde_json::from_str(event.data()).unwrap())
        .collect();
    let deltas: String = parts.iter().filter_map(|part| part["delta"].as_str()).collect();
    assert_eq!(deltas, text(300));
    assert_eq!((&parts[0]["type"], &parts[0]["messageId"]), (&"start".into(), &"message-1".into()));
    assert_eq!(parts.last().unwrap()["type"], "finish");
    holdover.state_is(head.get("holdover-turn").unwrap(), "completed").await;
    counts(address, Stats::ONE_FINISHED).await;
}

/// It takes a clean early end for a whole answer.
#[tokio::test]
async fn its_crash_is_an_error_to_the_chat() {
    let (mut framework, address) = start().await;
    let holdover = Holdover::setup().upstream(address).config(CHAT).start().await;
    let client = chat(holdover.addr(), 100_000);
    recorded(&holdover, 10.0).await;
    framework.kill();
    let report = client.report().await;
    assert_eq!(report.ended, "error", "{report:#?}");
    holdover.metric_is("holdover_turns_finished_total", &[("outcome", "failed")], 1.0).await;
}
