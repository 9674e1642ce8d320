//! Requests that no SDK sends, or not for a run that is there.

use super::*;
use crate::support::{Client, events};

const THREAD: &str = "/threads/a-thread";

/// A run of Alice's with so many events, by plain HTTP. Gives its turn.
async fn begun(stage: &Stage, count: usize) -> (String, Run, Client) {
    let mut client = stage.holdover.connect().await;
    let headers = [("Authorization", "Bearer alice"), ("Content-Type", "application/json")];
    let body = format!(r#"{{"assistant_id":"agent","input":{}}}"#, crate::support::fresh_body());
    client.request("POST", &format!("{THREAD}/runs/stream"), &headers, body).await;
    let mut run = stage.platform.run().await;
    run.send_until(count).await;
    let head = client.head().await;
    client.next_events(count).await;
    (head.get("holdover-turn").expect("it is recorded").to_owned(), run, client)
}

/// The seqs of the events in a whole answer.
async fn seqs(answer: reqwest::Response) -> Vec<(String, u64)> {
    let bytes = answer.bytes().await.expect("a whole answer");
    let place = |event: &crate::support::Event| (event.place().0.to_owned(), event.place().1);
    events(&bytes).iter().map(place).collect()
}

fn all_of(turn: &str, from: u64) -> Vec<(String, u64)> {
    (from..=EVENTS as u64).map(|seq| (turn.to_owned(), seq)).collect()
}

#[tokio::test]
async fn a_start_without_location_gets_one_relative_to_the_api() {
    let stage = Stage::with(Kind::Bare, []).await;
    let mut client = stage.holdover.connect().await;
    let headers = [("Origin", "http://elsewhere.test"), ("Content-Type", "application/json")];
    client.request("POST", "/api/v2/threads/a%20b/runs/stream", &headers, r#"{"assistant_id":"agent"}"#).await;
    let run = stage.platform.run().await;
    let head = client.head().await;
    let turn = head.get("holdover-turn").expect("it is recorded");
    assert_eq!(head.get("content-location"), Some(&*format!("/threads/a%20b/runs/{turn}")));
    assert_eq!(head.get("location"), Some(&*format!("/threads/a%20b/runs/{turn}/stream")));
    for name in ["location", "content-location"] {
        assert!(head.lists("access-control-expose-headers", name), "{head:?}");
    }
    run.end().await;
}

#[tokio::test]
async fn cursors_of_every_kind() {
    let stage = Stage::with(Kind::Own, []).await;
    let (other, run, _) = begun(&stage, EVENTS).await;
    run.end().await;
    let (turn, run, _) = begun(&stage, EVENTS).await;
    let stream = format!("{THREAD}/runs/{}/stream", run.id);
    run.end().await;
    stage.holdover.metric_is("holdover_turns_finished_total", &[], 2.0).await;
    let resume = async |id: &str| ask(&stage.holdover, "GET", &stream, &[("last-event-id", id)]).await;
    for start in ["-1", "0-0", "nonsense", &format!("{turn}-x"), &format!("{turn}-0")] {
        assert_eq!(seqs(resume(start).await).await, all_of(&turn, 1), "{start}");
    }
    assert_eq!(seqs(ask(&stage.holdover, "GET", &stream, &[]).await).await, all_of(&turn, 1));
    assert_eq!(seqs(resume(&format!("{turn}-4")).await).await, all_of(&turn, 5));
    // An id names its turn by itself, wherever it is sent.
    assert_eq!(seqs(resume(&format!("{other}-4")).await).await, all_of(&other, 5));
    // What Holdover has nothing of, the server may have: it is asked with its own id.
    assert_eq!(stage.platform.count("GET", "/stream"), 0);
    let answer = resume(&format!("{turn}-{EVENTS}")).await;
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()),
        (200, "text/event-stream")
    );
    assert_eq!(seqs(answer).await, []);
    assert_eq!(stage.platform.count("GET", "/stream"), 1);
    let requests = stage.platform.backend.requests();
    let asked = requests.iter().rfind(|request| request.method() == "GET").expect("it was asked");
    assert_eq!(asked.get("last-event-id"), Some(&*format!("17952540436{EVENTS:02}-0")));
    assert_eq!(stage.platform.ids_of_ours(), Vec::<String>::new());
}

#[tokio::test]
async fn nothing_left_is_an_empty_stream() {
    let stage = Stage::with(Kind::Bare, []).await;
    let (turn, run, _) = begun(&stage, EVENTS).await;
    run.end().await;
    stage.holdover.metric_is("holdover_turns_finished_total", &[], 1.0).await;
    let stream = format!("{THREAD}/runs/{turn}/stream");
    let answer = ask(&stage.holdover, "GET", &stream, &[("last-event-id", &format!("{turn}-{EVENTS}"))]).await;
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["content-type"].to_str().unwrap()),
        (200, "text/event-stream")
    );
    assert_eq!(answer.text().await.unwrap(), "");
    assert_eq!(stage.platform.starts(), 1);
}

/// Behind a broken one stands the dialect's error event.
#[tokio::test]
async fn nothing_left_of_a_broken_run_is_an_error_event() {
    let stage = Stage::with(Kind::Bare, []).await;
    let (turn, run, mut client) = begun(&stage, 3).await;
    run.close().await;
    assert!(!client.rest().await.1.is_clean());
    let join = Script::python("langgraph_client.py").args(["--action", "join", "--run", &turn]);
    let report = stage.client(join.args(["--last-event-id", &format!("{turn}-3")])).report().await;
    assert_eq!(report.ended, "clean", "{report:#?}");
    let [error] = &report.events[..] else { panic!("{report:#?}") };
    assert_eq!(error.kind, "error");
    let data: Value = serde_json::from_str(&error.data).unwrap();
    assert_eq!(data["error"], "TurnFailed");
}

/// Only the server can say what is not ours, and it is never asked to start anything.
#[tokio::test]
async fn unknown_runs() {
    let stage = Stage::configured(Kind::Bare, [], "[[route]]\nname = \"agent\"\nprofile = \"langgraph\"\n").await;
    let unknown = "abcdefghijklmnopqrstuvwxyz23";
    // Named as only Holdover names runs, so the server is not asked.
    let made = ask(&stage.holdover, "GET", &format!("{THREAD}/runs/{unknown}/stream"), &[]).await;
    assert_eq!((made.status().as_u16(), stage.platform.count("GET", "/stream")), (404, 0));
    let id = [("last-event-id", "abcdefghijklmnopqrstuvwxyz23-5")];
    let resumed = ask(&stage.holdover, "GET", &format!("{THREAD}/runs/r1/stream"), &id).await;
    assert_eq!((resumed.status().as_u16(), stage.platform.count("GET", "/stream")), (404, 0));
    let named = ask(&stage.holdover, "GET", &format!("{THREAD}/runs/r1/stream"), &[]).await;
    assert_eq!((named.status().as_u16(), stage.platform.count("GET", "/stream")), (404, 1));
    assert_eq!(named.text().await.unwrap(), r#"{"detail":"Not Found"}"#);
    let cancel = ask(&stage.holdover, "POST", &format!("{THREAD}/runs/r1/cancel"), &[]).await;
    assert_eq!((cancel.status().as_u16(), stage.platform.count("POST", "/cancel")), (404, 1));
    assert_eq!(stage.platform.starts(), 0);
}

/// Somebody else's run is as good as none, by whatever name; and nobody else stops it.
#[tokio::test]
async fn foreign_runs() {
    let stage = Stage::with(Kind::Bare, []).await;
    let (turn, mut run, _client) = begun(&stage, 3).await;
    for name in [&turn, &run.id] {
        let path = format!("{THREAD}/runs/{name}");
        let bob = |method, end: &str| {
            let request = stage.holdover.request(method, &format!("{path}/{end}"));
            request.header("authorization", "Bearer bob").header("last-event-id", "-1").send()
        };
        assert_eq!(bob("GET", "stream").await.unwrap().status(), 404);
        assert_eq!(bob("POST", "cancel").await.unwrap().status(), 404);
    }
    run.send_until(EVENTS).await;
    run.end().await;
    let joined = ask(&stage.holdover, "GET", &format!("{THREAD}/runs/{turn}/stream"), &[]).await;
    assert_eq!(seqs(joined).await, all_of(&turn, 1));
}

#[tokio::test]
async fn expired_runs() {
    let stage = Stage::configured(Kind::Bare, [], "[store]\nretain_after_end = \"1s\"\n").await;
    let (turn, run, _) = begun(&stage, EVENTS).await;
    run.end().await;
    let stream = format!("{THREAD}/runs/{turn}/stream");
    let gone = async || {
        let answer = ask(&stage.holdover, "GET", &stream, &[("last-event-id", &format!("{turn}-3"))]).await;
        (answer.status() == 404).then_some(())
    };
    eventually("the turn to be forgotten", gone).await;
    assert_eq!(stage.platform.starts(), 1);
}

/// A subscription to a thread has no end, and to leave it is to unsubscribe: none of Holdover's business.
#[tokio::test]
async fn subscriptions_pass() {
    let server = crate::support::Backend::start().await;
    let holdover = Holdover::start(&server).await;
    let passing = [("POST", "/threads/t1/stream/events"), ("GET", "/threads/t1/runs/r1/stream?cancel_on_disconnect=1")];
    for (method, path) in passing {
        let mut client = holdover.connect().await;
        client.request(method, path, &[("Authorization", "Bearer alice")], "").await;
        let mut exchange = server.next().await;
        exchange.stream().await;
        exchange.chunk("id: 1795254043615-0\ndata: {\"seq\":1}\n\n").await;
        let head = client.head().await;
        assert_eq!((head.status(), head.get("holdover-turn")), (200, None), "{path}");
        assert_eq!(client.next_event().await.id(), "1795254043615-0");
        drop(client);
        exchange.aborted().await;
    }
}
