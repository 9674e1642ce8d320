//! `useChat` of the AI SDK, majors 5 to 7.

mod browsers;
mod runs;

use std::net::SocketAddr;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::counting::Counting;
use crate::support::{Backend, Cut, FaultProxy, Holdover, How, Parsed, Report, Script, eventually};

const ROUTE: &str = "[[route]]\nname = \"chat\"\npath = \"/api/chat\"\nprofile = \"ai-sdk\"\n";

/// Who asks, unless a test says otherwise.
const ALICE: &str = "Authorization: Bearer alice";

const MAJORS: [&str; 3] = ["5", "6", "7"];

/// Words of a turn's text.
const WORDS: usize = 4;

/// Chunks the model of a turn sends, up to the end of its text.
const CHUNKS: usize = 18;

/// Events of a turn, up to the end of its text.
const EVENTS: usize = 21;

async fn backend() -> Counting {
    Counting::start(Script::node("backends/ai_sdk_server.mjs")).await
}

async fn before(backend: &Counting) -> Holdover {
    Holdover::setup().upstream(backend.address).config(ROUTE).start().await
}

/// A page with a chat on it; it carries out `plan`.
fn page(address: SocketAddr, major: &str, plan: &str) -> Script {
    let url = format!("http://{address}/api/chat");
    let body = json!({ "parts": true, "events": WORDS }).to_string();
    Script::node("ai_sdk_use_chat.mjs").args(["--url", &url, "--major", major, "--plan", plan, "--body", &body])
}

/// The same as Alice.
fn alice(address: SocketAddr, major: &str, plan: &str) -> Script {
    page(address, major, plan).args(["--header", ALICE])
}

/// A page whose turn waits behind so many chunks.
fn paused(address: SocketAddr, major: &str, plan: &str, chunks: usize) -> Script {
    let body = json!({ "parts": true, "events": WORDS, "pause": chunks }).to_string();
    alice(address, major, plan).args(["--body", &body])
}

/// The parts of the message that a turn makes. `type` and what it is about.
fn message() -> Vec<(&'static str, Value)> {
    let text: String = (1..=WORDS).map(|n| format!("t{n} ")).collect();
    vec![
        ("step-start", Value::Null),
        ("reasoning", "The user asks.".into()),
        ("tool-weather", json!([{ "city": "Ulm" }, { "city": "Ulm", "degrees": 21 }])),
        ("step-start", Value::Null),
        ("text", text.into()),
    ]
}

/// What a page reports of its messages, in the terms of [`message`].
fn parts(events: &[Parsed]) -> Vec<(&str, Value)> {
    let read = |event: &Parsed| {
        let part: Value = serde_json::from_str(&event.data).unwrap();
        match part {
            Value::Object(part) if part.contains_key("input") => json!([part["input"], part["output"]]),
            part => part["text"].clone(),
        }
    };
    events.iter().map(|event| (&*event.kind, read(event))).collect()
}

/// One message, which is whole, and no error.
#[track_caller]
fn assert_whole(report: &Report) {
    assert_eq!(parts(&report.events), message(), "{report:#?}");
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
}

/// No message, no error, and 204.
#[track_caller]
fn assert_nothing(report: &Report) {
    assert_eq!((&*report.ended, &*report.events, report.opens), ("clean", &[][..], 0), "{report:#?}");
    assert_eq!(report.errors, ["204"]);
}

/// The status of an answer to Alice, or to somebody else.
async fn asks(holdover: &Holdover, method: &str, path: &str, who: &str) -> u16 {
    let asked = holdover.request(method, path).header("authorization", who).send().await.unwrap();
    asked.status().as_u16()
}

/// Cut behind and inside every event, in reasoning, tool input and text, the page is loaded again in mid-turn.
async fn reload(major: &str) {
    let backend = backend().await;
    let holdover = before(&backend).await;
    let cuts = (1..=EVENTS).flat_map(|events| {
        let bytes = if events % 2 == 0 && events < EVENTS { 1 + events } else { 0 };
        let how = if events % 3 == 0 { How::Reset } else { How::Fin };
        [Cut::inside(events, bytes, how), Cut::after(usize::MAX, how)]
    });
    let faults = FaultProxy::start(holdover.addr(), cuts).await;
    let pauses: Vec<_> = (1..=EVENTS).map(|events| events.min(CHUNKS).to_string()).collect();
    let page = alice(faults.address(), major, "reload").args(["--pauses", &pauses.join(",")]);
    // Many pages in one program: each of them may take its time.
    let report = page.args(["--go", &backend.gate(), "--timeout", "300000"]).start().report().await;
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
    for turn in 1..=EVENTS {
        let id = format!("a-chat-{turn} message-{turn}");
        let of_turn: Vec<_> = report.events.iter().filter(|part| part.id.as_ref() == Some(&id)).cloned().collect();
        assert_eq!(parts(&of_turn), message(), "cut in event {turn}: {report:#?}");
    }
    assert_eq!(report.events.len(), EVENTS * message().len(), "nothing else");
    assert_eq!((faults.cuts(), faults.streams()), (EVENTS, 2 * EVENTS));
    backend.counts(EVENTS as u64, EVENTS as u64, 0).await;
    assert_eq!(backend.stats().await["asked"], 0);
    holdover.metrics().await.assert_books_balance();
}

#[tokio::test]
async fn a_reload_brings_the_whole_turn_to_major_5() {
    reload("5").await;
}

#[tokio::test]
async fn a_reload_brings_the_whole_turn_to_major_6() {
    reload("6").await;
}

#[tokio::test]
async fn a_reload_brings_the_whole_turn_to_major_7() {
    reload("7").await;
}

/// Behind the last events there is nothing to wait for: the turn has ended when the page comes back.
#[tokio::test]
async fn a_reload_behind_a_cut_at_the_end_brings_the_turn_again() {
    let backend = backend().await;
    // Whether a client got the last bytes, a server cannot know.
    let config = format!("{ROUTE}replay_finished = \"always\"\n");
    let holdover = Holdover::setup().upstream(backend.address).config(config).start().await;
    let cuts = (EVENTS + 1..=EVENTS + 3).map(|events| Cut::after(events, How::Fin));
    let faults = FaultProxy::start(holdover.addr(), cuts).await;
    for turn in 1..=3 {
        let chat = format!("chat-{turn}");
        let cut = alice(faults.address(), "7", "start").args(["--chat", &chat]).start().report().await;
        assert_eq!((cut.opens, cut.errors.len()), (1, 1), "{cut:#?}");
        holdover.metric_is("holdover_turns_finished_total", &[("outcome", "completed")], f64::from(turn)).await;
        let again = || alice(holdover.addr(), "7", "resume").args(["--chat", &chat]).start().report();
        assert_whole(&again().await);
        assert_whole(&again().await);
    }
    backend.counts(3, 3, 0).await;
}

#[tokio::test]
async fn a_second_tab_reads_along() {
    join_all(MAJORS.map(async |major| {
        let backend = backend().await;
        let holdover = before(&backend).await;
        let tabs = alice(holdover.addr(), major, "tabs").args(["--pauses", "8", "--go", &backend.gate()]);
        let report = tabs.start().report().await;
        assert_eq!(parts(&report.events), [message(), message()].concat(), "{report:#?}");
        assert_eq!((&*report.ended, report.opens, &*report.errors), ("clean", 2, &[][..]));
        backend.counts(1, 1, 0).await;
    }))
    .await;
}

/// A turn that ended while nobody listened.
#[tokio::test]
async fn a_page_that_comes_after_the_end_gets_the_turn_once() {
    join_all(MAJORS.map(async |major| {
        let backend = backend().await;
        let holdover = before(&backend).await;
        let mut left = paused(holdover.addr(), major, "start", 8).start();
        backend.waits(1).await;
        left.kill();
        backend.go().await;
        holdover.metric_is("holdover_turns_finished_total", &[("outcome", "completed")], 1.0).await;
        assert_whole(&alice(holdover.addr(), major, "resume").start().report().await);
        eventually("the turn to count as delivered", async || {
            (asks(&holdover, "GET", "/api/chat/a-chat/stream", "Bearer alice").await == 204).then_some(())
        })
        .await;
        assert_nothing(&alice(holdover.addr(), major, "resume").start().report().await);
        backend.counts(1, 1, 0).await;
    }))
    .await;
}

#[tokio::test]
async fn the_route_may_never_replay_what_has_ended() {
    let backend = backend().await;
    let config = format!("{ROUTE}replay_finished = \"never\"\n");
    let holdover = Holdover::setup().upstream(backend.address).config(config).start().await;
    let mut left = paused(holdover.addr(), "7", "start", 8).start();
    backend.waits(1).await;
    left.kill();
    backend.go().await;
    holdover.metric_is("holdover_turns_finished_total", &[("outcome", "completed")], 1.0).await;
    assert_nothing(&alice(holdover.addr(), "7", "resume").start().report().await);
}

#[tokio::test]
async fn chats_that_are_unknown_or_somebody_elses_have_nothing_to_resume() {
    let backend = backend().await;
    let holdover = before(&backend).await;
    let mut hers = paused(holdover.addr(), "7", "start", 8).start();
    backend.waits(1).await;
    join_all(MAJORS.map(async |major| {
        let unknown = alice(holdover.addr(), major, "resume").args(["--chat", "another chat"]);
        let foreign = page(holdover.addr(), major, "resume").args(["--header", "Authorization: Bearer bob"]);
        let anonymous = page(holdover.addr(), major, "resume");
        for script in [unknown, foreign, anonymous] {
            assert_nothing(&script.start().report().await);
        }
    }))
    .await;
    let stats = backend.stats().await;
    assert_eq!((&stats["started"], &stats["asked"]), (&json!(1), &json!(0)), "no new turn, no question");
    backend.go().await;
    assert!(hers.succeeded().await);
    backend.counts(1, 1, 0).await;
}

/// A chat that is stopped by its URL, at a backend that has none like it.
#[tokio::test]
async fn a_stop_reaches_a_backend_that_has_no_stop() {
    for (method, path) in
        [("POST", "/api/chat/a-chat/stop"), ("DELETE", "/api/chat/a-chat/stop"), ("DELETE", "/api/chat/a-chat/stream")]
    {
        let backend = backend().await;
        let holdover = before(&backend).await;
        let page = paused(holdover.addr(), "7", "start", 15).start();
        backend.waits(1).await;
        assert_eq!(asks(&holdover, method, path, "Bearer bob").await, 404, "it is the backend's answer");
        assert_eq!(asks(&holdover, method, path, "Bearer alice").await, 200);
        holdover.metric_is("holdover_turns_finished_total", &[("outcome", "cancelled")], 1.0).await;
        backend.counts(1, 0, 1).await;
        let report = page.report().await;
        assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
        assert_eq!(parts(&report.events).last(), Some(&("text", "t1 t2 ".into())));
    }
}

/// The page knows the name of its chat long before the backend answers.
#[tokio::test]
async fn a_stop_does_not_wait_for_the_answer_it_is_to_prevent() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(ROUTE).start().await;
    let mut page = holdover.connect().await;
    let fields = [("Authorization", "Bearer alice"), ("Content-Type", "application/json")];
    page.request("POST", "/api/chat", &fields, json!({ "id": "a-chat", "messages": [] }).to_string()).await;
    let mut upstream = backend.next().await;
    let (stopped, ()) = tokio::join!(asks(&holdover, "POST", "/api/chat/a-chat/stop", "Bearer alice"), async {
        backend.next().await.answer("404 Not Found", "", "no such path").await;
    });
    assert_eq!(stopped, 200);
    upstream.aborted().await;
    assert_eq!(page.head().await.status(), 410, "there never was a turn");
    holdover.metrics().await.assert_books_balance();
}

/// A backend that can stop ends the turn in its own words.
#[tokio::test]
async fn a_stop_is_the_backends_where_it_has_one() {
    let backend = Counting::start(Script::node("backends/ai_sdk_server.mjs").args(["--stops"])).await;
    let holdover = before(&backend).await;
    let page = paused(holdover.addr(), "7", "start", 15).start();
    backend.waits(1).await;
    let stop = holdover.request("POST", "/api/chat/a-chat/stop").header("authorization", "Bearer alice").send();
    assert_eq!(stop.await.unwrap().text().await.unwrap(), "stopping");
    holdover.metric_is("holdover_turns_finished_total", &[("outcome", "cancelled")], 1.0).await;
    let report = page.report().await;
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
    backend.counts(1, 1, 0).await;
}

/// `stop()` of the SDK closes its connection, as a page that is left does.
#[tokio::test]
async fn its_own_stop_is_a_disconnect() {
    join_all(MAJORS.map(async |major| {
        let backend = backend().await;
        let holdover = before(&backend).await;
        let stopped = paused(holdover.addr(), major, "stop", 15).start().report().await;
        assert_eq!((&*stopped.ended, &*stopped.errors), ("clean", &[][..]));
        backend.waits(1).await;
        backend.go().await;
        holdover.metric_is("holdover_turns_finished_total", &[("outcome", "completed")], 1.0).await;
        assert_whole(&alice(holdover.addr(), major, "resume").start().report().await);
        backend.counts(1, 1, 0).await;
    }))
    .await;
}

#[tokio::test]
async fn a_message_is_the_same_through_holdover() {
    let backend = backend().await;
    let holdover = before(&backend).await;
    for major in MAJORS {
        let read = async |address| alice(address, major, "start").start().report().await;
        let [direct, through] = [read(backend.address).await, read(holdover.addr()).await];
        let objects = |report: &Report| -> Vec<_> {
            report.events.iter().map(|part| (part.kind.clone(), part.data.clone())).collect()
        };
        assert_eq!(objects(&direct), objects(&through), "major {major}");
        for report in [direct, through] {
            assert_whole(&report);
        }
    }
}

/// With nothing configured but who asks: request and answer tell what they are.
#[tokio::test]
async fn auto_finds_out() {
    let backend = backend().await;
    let holdover = Holdover::setup().upstream(backend.address).start().await;
    let mut left = paused(holdover.addr(), "6", "start", 8).start();
    backend.waits(1).await;
    left.kill();
    let resumed = alice(holdover.addr(), "6", "resume").start();
    holdover.metric_is("holdover_resumes_total", &[("result", "live")], 1.0).await;
    backend.go().await;
    assert_whole(&resumed.report().await);
    backend.counts(1, 1, 0).await;
}

/// The data stream of major 4 is no event stream.
#[tokio::test]
async fn the_older_data_stream_passes_as_it_comes() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(ROUTE).start().await;
    let mut client = holdover.connect().await;
    client.request("POST", "/api/chat", &[("Content-Type", "application/json")], r#"{"id":"c","messages":[]}"#).await;
    let mut upstream = backend.next().await;
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain; charset=utf-8\r\nx-vercel-ai-data-stream: v1\r\n\
        Transfer-Encoding: chunked\r\n";
    upstream.head(head).await;
    let head = client.head().await;
    assert_eq!((head.get("x-vercel-ai-data-stream"), head.get("holdover-turn")), (Some("v1"), None));
    // Each is there before the next one is sent.
    for line in ["f:{\"messageId\":\"m\"}\n", "0:\"Hel\"\n", "0:\"lo\"\n", "d:{\"finishReason\":\"stop\"}\n"] {
        upstream.chunk(line).await;
        assert_eq!(client.until(line).await, line);
    }
    upstream.end().await;
    assert_eq!(client.body().await, "");
}
