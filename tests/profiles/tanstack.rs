//! `useChat` of TanStack AI, over its `fetchServerSentEvents`.

use std::net::SocketAddr;

use serde_json::{Value, json};

use super::counting::Counting;
use crate::support::{Cut, FaultProxy, Holdover, How, Parsed, Report, Script};

const ROUTE: &str = "[[route]]\nname = \"chat\"\npath = \"/chat\"\nprofile = \"tanstack\"\n";

const ALICE: &str = "Authorization: Bearer alice";

/// Events of a turn.
const EVENTS: usize = 23;

async fn backend(arguments: &[&str]) -> Counting {
    Counting::start(Script::node("backends/tanstack_server.mjs").args(arguments)).await
}

async fn before(backend: &Counting) -> Holdover {
    Holdover::setup().upstream(backend.address).config(ROUTE).start().await
}

fn page(address: SocketAddr) -> Script {
    Script::node("tanstack_use_chat.mjs").args(["--url", &format!("http://{address}/chat"), "--header", ALICE])
}

/// The parts of the message that a turn makes.
fn message() -> Vec<(&'static str, Value)> {
    vec![
        ("thinking", "The user asks.".into()),
        ("tool-call", json!([{ "city": "Ulm" }, { "degrees": 21 }])),
        ("tool-result", r#"{"degrees":21}"#.into()),
        ("text", "t1 t2 t3 t4 ".into()),
    ]
}

fn parts(events: &[Parsed]) -> Vec<(&str, Value)> {
    let read = |event: &Parsed| {
        let part: Value = serde_json::from_str(&event.data).unwrap();
        match &*event.kind {
            "tool-call" => json!([part["input"], part["output"]]),
            _ => part["content"].clone(),
        }
    };
    events.iter().map(|event| (&*event.kind, read(event))).collect()
}

#[track_caller]
fn assert_whole(report: &Report) {
    assert_eq!(parts(&report.events), message(), "{report:#?}");
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
}

/// Cut behind and inside every event, and once more in what it resumes. Before its first event a client has no id to come
/// back with; behind the last one it has everything, and asks all the same.
#[tokio::test]
async fn it_resumes_wherever_it_is_cut() {
    let backend = backend(&[]).await;
    let holdover = before(&backend).await;
    let cuts = (1..=EVENTS).flat_map(|events| {
        // The id of the second event is not taken without its data.
        let bytes = if events % 2 == 0 && events < EVENTS { 1 + events * 3 } else { 0 };
        let how = if events % 3 == 0 { How::Reset } else { How::Fin };
        let second = if events < EVENTS { Cut::after(1, How::Fin) } else { Cut::after(usize::MAX, How::Fin) };
        let whole = (events < EVENTS).then_some(Cut::after(usize::MAX, How::Fin));
        [Some(Cut::inside(events, bytes, how)), Some(second), whole].into_iter().flatten()
    });
    let faults = FaultProxy::start(holdover.addr(), cuts).await;
    let report =
        page(faults.address()).args(["--turns", &EVENTS.to_string(), "--timeout", "300000"]).start().report().await;
    for turn in 1..=EVENTS {
        let id = format!("a-thread-{turn} 0");
        let of_turn: Vec<_> = report.events.iter().filter(|part| part.id.as_ref() == Some(&id)).cloned().collect();
        assert_eq!(parts(&of_turn), message(), "cut in event {turn}: {report:#?}");
    }
    assert_eq!(report.events.len(), EVENTS * message().len(), "nothing else");
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
    backend.counts(EVENTS as u64, EVENTS as u64, 0).await;
    holdover.metrics().await.assert_books_balance();
}

/// The client pairs an id with the data line behind it: where ids stand behind the data, a cut repeats an event.
#[tokio::test]
async fn it_takes_ids_for_those_of_the_next_event() {
    let backend = backend(&[]).await;
    let config = ROUTE.replace("tanstack", "generic");
    let holdover = Holdover::setup().upstream(backend.address).config(config).start().await;
    // Behind the second word.
    let faults = FaultProxy::start(holdover.addr(), [Cut::after(EVENTS - 4, How::Fin)]).await;
    let report = page(faults.address()).start().report().await;
    assert_eq!(parts(&report.events).last(), Some(&("text", "t1 t2 t2 t3 t4 ".into())), "{report:#?}");
}

#[tokio::test]
async fn ids_stand_in_front_of_their_events() {
    let backend = backend(&[]).await;
    for config in [ROUTE, ""] {
        let holdover = Holdover::setup().upstream(backend.address).config(config).start().await;
        let start =
            holdover.request("POST", "/chat").header("x-run-id", "r").header("content-type", "application/json");
        let answer = start.body(r#"{"threadId":"t","runId":"r","messages":[]}"#).send().await.unwrap();
        let turn = answer.headers()["holdover-turn"].to_str().unwrap().to_owned();
        let body = answer.text().await.unwrap();
        assert!(body.starts_with(&format!("id: {turn}-1\nretry: 1000\ndata: {{\"type\":\"RUN_STARTED\"")), "{body}");
        assert!(body.contains(&format!("\n\nid: {turn}-{EVENTS}\ndata: {{\"type\":\"RUN_FINISHED\"")), "{body}");
    }
}

#[tokio::test]
async fn a_reload_joins_the_run() {
    for arguments in [&[][..], &["--own-runs"]] {
        for pause in ["19", "21"] {
            let backend = backend(arguments).await;
            let holdover = before(&backend).await;
            let mut left = page(holdover.addr()).args(["--plan", "leave", "--pause", pause]).start();
            let storage = left.note("storage").await;
            left.kill();
            let join = page(holdover.addr()).args(["--plan", "join", "--storage", storage.as_str().unwrap()]);
            assert_whole(&join.args(["--go", &backend.gate()]).start().report().await);
            backend.counts(1, 1, 0).await;
            assert_eq!(backend.stats().await["asked"], 0);
        }
    }
}

#[tokio::test]
async fn a_message_is_the_same_through_holdover() {
    let backend = backend(&[]).await;
    let holdover = before(&backend).await;
    let read = async |address| page(address).start().report().await;
    let [direct, through] = [read(backend.address).await, read(holdover.addr()).await];
    for report in [&direct, &through] {
        assert_whole(report);
    }
    assert_eq!(direct.opens, through.opens);
}

/// Without identity no name opens a run, and another one's run is as good as none.
#[tokio::test]
async fn runs_that_are_unknown_or_somebody_elses_cannot_be_joined() {
    let backend = backend(&[]).await;
    let holdover = before(&backend).await;
    let hers = page(holdover.addr()).start().report().await;
    assert_whole(&hers);
    let start = holdover.request("POST", "/chat").header("x-run-id", "r1").header("authorization", "Bearer alice");
    let body = r#"{"threadId":"t","runId":"r1","messages":[]}"#;
    start.header("content-type", "application/json").body(body).send().await.unwrap().text().await.unwrap();
    let join = async |run: &str, offset: &str, who: &str| {
        let path = format!("/chat?offset={offset}&runId={run}");
        let answer = holdover.request("GET", &path).header("authorization", who).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap().matches("data: ").count())
    };
    for offset in ["-1", "nonsense", "memory:v1:r1:3"] {
        assert_eq!(join("r1", offset, "Bearer alice").await, (200, EVENTS), "{offset}");
    }
    assert_eq!(join("r1", "-1", "Bearer bob").await.0, 404);
    assert_eq!(join("r2", "-1", "Bearer alice").await.0, 404);
    backend.counts(2, 2, 0).await;
    assert_eq!(backend.stats().await["asked"], 0);
}

/// Who comes back to a run that was stopped is told so, and does not take it for broken.
#[tokio::test]
async fn a_run_that_was_stopped_ends_for_its_page() {
    let backend = backend(&[]).await;
    let holdover = before(&backend).await;
    let reading = page(holdover.addr()).args(["--pause", "19"]).start();
    backend.waits(1).await;
    let session = holdover.request("GET", "/.holdover/sessions/a-thread-1").header("authorization", "Bearer alice");
    let session: Value = session.send().await.unwrap().json().await.unwrap();
    let stop = format!("/.holdover/turns/{}", session["turn"].as_str().unwrap());
    holdover.request("DELETE", &stop).header("authorization", "Bearer alice").send().await.unwrap();
    let report = reading.report().await;
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
    assert_eq!(parts(&report.events).last(), Some(&("text", "t1 t2 ".into())));
    backend.counts(1, 0, 1).await;
}
