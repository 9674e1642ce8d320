//! Turns whose backend has not answered yet.

use serde_json::Value;

use super::code_of;
use crate::support::{Backend, Holdover, Turn, eventually, fresh_body};

const CONFIG: &str = "[identity]\nanonymous_sessions = true\n[[route]]\nname = \"chat\"\nsession = \"header:x-chat\"\n";
const CHAT: (&str, &str) = ("X-Chat", "c1");

/// The id of the session's turn, which its own client does not know before the backend answers.
async fn id_of_session(holdover: &Holdover) -> String {
    let status = holdover.request("GET", "/.holdover/sessions/c1").send().await.unwrap();
    status.json::<Value>().await.unwrap()["turn"].as_str().expect("it is known").to_owned()
}

#[tokio::test]
async fn a_stop_closes_the_upstream_that_has_not_answered() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(CONFIG).start().await;
    let mut client = holdover.connect().await;
    client.request("POST", "/chat", &[CHAT], "{}").await;
    let mut upstream = backend.next().await;
    let id = id_of_session(&holdover).await;
    let mut parked = holdover.connect().await;
    parked.request("GET", &format!("/.holdover/turns/{id}/stream"), &[], "").await;
    let stop = holdover.request("DELETE", &format!("/.holdover/turns/{id}")).send().await.unwrap();
    assert_eq!(stop.json::<Value>().await.unwrap(), serde_json::json!({ "result": "stopped" }));
    upstream.aborted().await;
    assert_eq!(client.head().await.status(), 410);
    assert_eq!(code_of(&client.body().await), "stopped");
    assert_eq!(parked.head().await.status(), 404, "there never was a turn");
    eventually("the session to be free", || async {
        let stream = holdover.request("GET", "/.holdover/sessions/c1/stream").send().await.unwrap();
        (stream.status() == 204).then_some(())
    })
    .await;
    holdover.metrics().await.assert_books_balance();
}

#[tokio::test]
async fn a_turn_is_superseded_before_its_backend_has_answered() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(format!("{CONFIG}concurrent = \"supersede\"\n")).start().await;
    let mut first = holdover.connect().await;
    first.request("POST", "/chat", &[CHAT], fresh_body()).await;
    let mut deserted = backend.next().await;
    let mut second = holdover.connect().await;
    second.request("POST", "/chat", &[CHAT], fresh_body()).await;
    deserted.aborted().await;
    let mut turn = Turn::opened(second, &backend).await;
    turn.event("the newer").await;
    assert_eq!(first.head().await.status(), 410);
    turn.end().await;
}

/// Its body was not read before admission, so it is still on its way when the turn is found.
#[tokio::test]
async fn a_retried_start_with_a_body_of_unknown_length_follows_its_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let key = ("Idempotency-Key", "one");
    let mut turn = Turn::start_with(&holdover, &backend, &[key]).await;
    turn.event("one").await;
    let mut retry = holdover.connect().await;
    retry.send_head("POST", "/chat", &[key, ("Transfer-Encoding", "chunked")]).await;
    retry.send("3\r\none\r\n").await;
    holdover.metric_is("holdover_starts_attached_total", &[("rule", "idempotency_key")], 1.0).await;
    retry.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(retry.head().await.get("holdover-turn"), Some(turn.id.as_str()));
    assert_eq!(retry.next_event().await.data(), "one");
    turn.event("two").await;
    assert_eq!(retry.next_event().await.data(), "two");
    turn.end().await;
    assert!(retry.rest().await.1.is_clean());
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_resume_that_asks_whether_to_send_its_body_is_told() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (id, _) = holdover.ended_turn(&backend, 2).await;
    let mut client = holdover.connect().await;
    let cursor = format!("{id}-1");
    let headers = [("Last-Event-ID", cursor.as_str()), ("Content-Length", "2"), ("Expect", "100-continue")];
    client.send_head("POST", "/chat", &headers).await;
    assert_eq!(client.any_head().await.status(), 100);
    client.send("{}").await;
    assert_eq!(client.head().await.status(), 200);
    assert_eq!(client.next_event().await.data(), "2");
}

/// What hardly becomes a turn is given up with its client, as by any proxy.
#[tokio::test]
async fn a_plain_get_that_is_left_before_its_answer_is_given_up() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut client = holdover.connect().await;
    client.request("GET", "/poll", &[], "").await;
    let mut upstream = backend.next().await;
    client.reset();
    upstream.aborted().await;
}

/// An error status ends an EventSource for good; a connection that breaks is tried again.
#[tokio::test]
async fn an_event_source_that_is_one_too_many_is_not_turned_away_for_good() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\nfollowers = 1\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    let cursor = turn.id_of(1);
    let mut program = holdover.resume("POST", "/chat", &cursor).await;
    assert_eq!(program.head().await.status(), 503);
    let mut source = holdover.resume("GET", "/chat", &cursor).await;
    assert_eq!(source.raw().await, None, "it is cut without an answer");
    turn.end().await;
}
