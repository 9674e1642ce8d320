//! One turn per start (DESIGN §6), and what a second start in a session does.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{Backend, Client, Ending, Exchange, Holdover, Turn, fresh_body};

/// A client that has sent a start.
async fn ask(holdover: &Holdover, headers: &[(&str, &str)], body: &str) -> Client {
    let mut client = holdover.connect().await;
    client.request("POST", "/chat", headers, body).await;
    client
}

/// The turn that a client's answer names.
async fn turn_of(client: &mut Client) -> String {
    let head = client.head().await;
    assert_eq!(head.status(), 200, "{head:?}");
    head.get("holdover-turn").expect("it is recorded").to_owned()
}

/// The next request at the backend, its stream begun.
async fn streaming(backend: &Backend) -> Exchange {
    let mut upstream = backend.next().await;
    upstream.stream().await;
    upstream
}

const CHAT: (&str, &str) = ("X-Chat", "c1");
const ALICE: (&str, &str) = ("Authorization", "Bearer alice");
const BOB: (&str, &str) = ("Authorization", "Bearer bob");

async fn with_policy(backend: &Backend, policy: &str) -> Holdover {
    let config = format!("[[route]]\nsession = \"header:x-chat\"\nconcurrent = \"{policy}\"\n");
    Holdover::before(backend).config(config).start().await
}

#[tokio::test]
async fn two_starts_in_a_session_run_side_by_side_where_that_is_allowed() {
    let backend = Backend::start().await;
    let holdover = with_policy(&backend, "allow").await;
    let first = Turn::start_with(&holdover, &backend, &[ALICE, CHAT]).await;
    let second = Turn::start_with(&holdover, &backend, &[ALICE, CHAT]).await;
    assert_ne!(first.id, second.id);
    assert_eq!(first.id[..8], second.id[..8], "turns of a session share their tag");
    let session = holdover.request("GET", "/.holdover/sessions/c1").header(ALICE.0, ALICE.1).send().await.unwrap();
    assert_eq!(session.json::<Value>().await.unwrap()["turn"], second.id, "the session has its newest turn");
    first.end().await;
    second.end().await;
}

#[tokio::test]
async fn a_second_start_is_refused_where_the_route_says_so() {
    let backend = Backend::start().await;
    let holdover = with_policy(&backend, "reject").await;
    let first = Turn::start_with(&holdover, &backend, &[ALICE, CHAT]).await;
    let mut second = ask(&holdover, &[ALICE, CHAT], &fresh_body()).await;
    assert_eq!(second.head().await.status(), 409);
    let body: Value = serde_json::from_slice(&second.body().await).unwrap();
    assert_eq!(body["error"]["code"], "session_busy");
    assert!(body["error"]["message"].as_str().unwrap().contains(&first.id), "it names the turn that runs: {body}");
    let elsewhere = Turn::start_with(&holdover, &backend, &[BOB, CHAT]).await;
    elsewhere.end().await;
    let id = first.end().await;
    let mut status = holdover.status_as(&id, Some(ALICE.1)).await;
    while status["state"] == "running" {
        status = holdover.status_as(&id, Some(ALICE.1)).await;
    }
    Turn::start_with(&holdover, &backend, &[ALICE, CHAT]).await.end().await;
    assert_eq!(backend.requests().len(), 3);
}

#[tokio::test]
async fn a_second_start_follows_the_first_where_the_route_says_so() {
    let backend = Backend::start().await;
    let holdover = with_policy(&backend, "attach").await;
    let mut first = Turn::start_with(&holdover, &backend, &[ALICE, CHAT]).await;
    first.event("one").await;
    let mut second = ask(&holdover, &[ALICE, CHAT], &fresh_body()).await;
    assert_eq!(turn_of(&mut second).await, first.id);
    assert_eq!(second.next_event().await.data(), "one");
    first.event("two").await;
    assert_eq!(second.next_event().await.data(), "two");
    first.end().await;
    assert!(second.rest().await.1.is_clean());
    assert_eq!(backend.requests().len(), 1);
    assert_eq!(holdover.metric("holdover_starts_attached_total", &[("rule", "session")]).await, 1.0);
}

#[tokio::test]
async fn a_second_start_replaces_the_first_where_the_route_says_so() {
    let backend = Backend::start().await;
    let holdover = with_policy(&backend, "supersede").await;
    let mut first = Turn::start_with(&holdover, &backend, &[ALICE, CHAT]).await;
    first.event("one").await;
    let mut second = Turn::start_with(&holdover, &backend, &[ALICE, CHAT]).await;
    assert_ne!(second.id, first.id);
    first.upstream.aborted().await;
    assert!(first.client.rest().await.1.is_clean(), "who is superseded is done");
    assert_eq!(holdover.status_as(&first.id, Some(ALICE.1)).await["state"], "superseded");
    second.event("other").await;
    second.end().await;
}

#[tokio::test]
async fn the_same_idempotency_key_is_the_same_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let key = ("Idempotency-Key", "k-1");
    let mut first = Turn::start_with(&holdover, &backend, &[ALICE, key]).await;
    first.event("one").await;
    let mut again = ask(&holdover, &[ALICE, key], "another body").await;
    assert_eq!(turn_of(&mut again).await, first.id);
    assert_eq!(again.next_event().await.data(), "one");
    let mut other = Turn::start_with(&holdover, &backend, &[BOB, key]).await;
    assert_ne!(other.id, first.id, "somebody else's key is another key");
    other.event("other").await;
    other.end().await;
    let id = first.end().await;
    let mut late = ask(&holdover, &[ALICE, key], "once more").await;
    assert_eq!(turn_of(&mut late).await, id, "also after the end");
    assert_eq!(late.next_event().await.data(), "one");
    assert!(late.rest().await.1.is_clean());
    assert_eq!(backend.requests().len(), 2);
    assert_eq!(holdover.metric("holdover_starts_attached_total", &[("rule", "idempotency_key")]).await, 2.0);
}

/// Both come before the backend has answered either.
#[tokio::test]
async fn two_starts_with_one_key_at_once_are_one_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (key, body) = ([("Idempotency-Key", "k-1")], fresh_body());
    let (mut one, mut two) = tokio::join!(ask(&holdover, &key, &body), ask(&holdover, &key, &body));
    let mut upstream = streaming(&backend).await;
    upstream.event("one").await;
    assert_eq!(turn_of(&mut one).await, turn_of(&mut two).await);
    assert_eq!((one.next_event().await.data(), two.next_event().await.data()), ("one", "one"));
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_client_that_counts_its_retries_gets_its_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let body = fresh_body();
    let mut first = ask(&holdover, &[ALICE, ("X-Stainless-Retry-Count", "0")], &body).await;
    let mut upstream = streaming(&backend).await;
    upstream.event("one").await;
    let id = turn_of(&mut first).await;
    let retry = ("X-Stainless-Retry-Count", "1");
    let mut again = ask(&holdover, &[ALICE, retry], &body).await;
    assert_eq!(turn_of(&mut again).await, id);
    assert_eq!(again.next_event().await.data(), "one");
    for (who, body) in [(ALICE, fresh_body()), (BOB, body)] {
        let mut other = ask(&holdover, &[who, retry], &body).await;
        let upstream = streaming(&backend).await;
        assert_ne!(turn_of(&mut other).await, id, "{who:?}: not what is retried");
        upstream.end().await;
    }
    assert_eq!(holdover.metric("holdover_starts_attached_total", &[("rule", "retry_count")]).await, 1.0);
}

/// What a browser does by itself when a reused connection dies under a POST.
#[tokio::test]
async fn the_same_post_again_after_a_lost_client_is_the_same_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    for after_header in [false, true] {
        let body = fresh_body();
        let mut lost = ask(&holdover, &[], &body).await;
        let mut upstream = backend.next().await;
        if after_header {
            upstream.stream().await;
            turn_of(&mut lost).await;
        }
        lost.reset();
        let mut again = ask(&holdover, &[], &body).await;
        if !after_header {
            upstream.stream().await;
        }
        upstream.event("one").await;
        turn_of(&mut again).await;
        assert_eq!(again.next_event().await.data(), "one", "after the header: {after_header}");
        upstream.end().await;
        assert!(again.rest().await.1.is_clean());
    }
    assert_eq!(backend.requests().len(), 2);
    assert_eq!(holdover.metric("holdover_starts_attached_total", &[("rule", "lost_client")]).await, 2.0);
    assert_eq!(holdover.metric("holdover_turns_started_total", &[]).await, 2.0);
}

#[tokio::test]
async fn equal_prompts_of_two_live_clients_are_two_turns() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let body = fresh_body();
    let mut one = ask(&holdover, &[ALICE], &body).await;
    let mut first = streaming(&backend).await;
    let id = turn_of(&mut one).await;
    let asked = Instant::now();
    let mut two = ask(&holdover, &[ALICE], &body).await;
    let mut second = streaming(&backend).await;
    assert!(asked.elapsed() < Duration::from_secs(2), "the second one was held for {:?}", asked.elapsed());
    assert_ne!(turn_of(&mut two).await, id);
    first.event("first").await;
    second.event("second").await;
    assert_eq!((one.next_event().await.data(), two.next_event().await.data()), ("first", "second"));
    assert_eq!(holdover.metric("holdover_starts_attached_total", &[]).await, 0.0);
}

/// A cursor on a start names a turn by itself: it is a resume, whatever else the request says.
#[tokio::test]
async fn a_start_that_brings_a_cursor_is_a_resume() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.events(2).await;
    let cursor = turn.id_of(1);
    let headers = [("Last-Event-ID", cursor.as_str()), ("Idempotency-Key", "new"), ("X-Chat", "new")];
    let mut again = ask(&holdover, &headers, &fresh_body()).await;
    assert_eq!(turn_of(&mut again).await, turn.id);
    assert_eq!(again.next_event().await.data(), "2");
    assert_eq!(backend.requests().len(), 1);
}

/// The key of a start that never became a turn is free for the next try.
#[tokio::test]
async fn a_start_that_failed_can_be_tried_again() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (key, body) = (("Idempotency-Key", "k-1"), fresh_body());
    let mut first = ask(&holdover, &[key], &body).await;
    backend.next().await.answer("500 Internal Server Error", "", "sorry").await;
    assert_eq!(first.head().await.status(), 500);
    assert_eq!(first.body().await, "sorry");
    let mut again = ask(&holdover, &[key, ("X-Stainless-Retry-Count", "1")], &body).await;
    let mut upstream = streaming(&backend).await;
    upstream.event("one").await;
    turn_of(&mut again).await;
    assert_eq!(again.next_event().await.data(), "one");
    upstream.close().await;
    assert_eq!(again.rest().await.1, Ending::Broken);
}
