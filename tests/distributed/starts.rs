//! One turn per start, whichever node the client comes to.

use serde_json::json;

use super::{Pair, stream_of};
use crate::support::{Client, Holdover, Turn, eventually, fresh_body};

/// A client that has sent a start.
async fn post(node: &Holdover, headers: &[(&str, &str)], body: &str) -> Client {
    let mut client = node.connect().await;
    client.request("POST", "/chat", headers, body).await;
    client
}

/// Reads the head of a stream; gives the name of its turn.
async fn turn_of(client: &mut Client) -> String {
    let head = client.head().await;
    assert_eq!(head.status(), 200, "{head:?}");
    head.get("holdover-turn").expect("a recorded answer names its turn").to_owned()
}

#[tokio::test]
async fn the_same_idempotency_key_at_both_nodes_at_once_is_one_turn() {
    one_turn_per_key(&Pair::start().await).await;
}

pub(super) async fn one_turn_per_key(pair: &Pair) {
    for round in 0..10 {
        let (key, body) = (format!("key-{round}"), fresh_body());
        let headers = [("Idempotency-Key", key.as_str())];
        let (mut first, mut second) =
            tokio::join!(post(&pair.one, &headers, &body), post(&pair.other, &headers, &body));
        let mut upstream = pair.backend.next().await;
        upstream.stream().await;
        upstream.event("once").await;
        assert_eq!(turn_of(&mut first).await, turn_of(&mut second).await);
        assert_eq!(first.next_event().await, second.next_event().await);
        upstream.end().await;
        assert!(first.rest().await.1.is_clean() && second.rest().await.1.is_clean());
    }
    assert_eq!(pair.backend.requests().len(), 10);
    let mut attached = 0.0;
    for node in [&pair.one, &pair.other] {
        attached += node.metric("holdover_starts_attached_total", &[("rule", "idempotency_key")]).await;
    }
    assert_eq!(attached, 10.0);
}

#[tokio::test]
async fn a_counted_retry_at_the_other_node_follows_the_turn_that_runs() {
    let pair = Pair::start().await;
    let body = fresh_body();
    let mut first = post(&pair.one, &[("X-Stainless-Retry-Count", "0")], &body).await;
    let mut upstream = pair.backend.next().await;
    upstream.stream().await;
    upstream.event("once").await;
    let id = turn_of(&mut first).await;
    let shown = first.next_event().await;
    first.reset();
    let mut again = post(&pair.other, &[("X-Stainless-Retry-Count", "1")], &body).await;
    assert_eq!(turn_of(&mut again).await, id);
    assert_eq!(again.next_event().await, shown);
    upstream.end().await;
    assert!(again.rest().await.1.is_clean());
    let mut later = post(&pair.other, &[("X-Stainless-Retry-Count", "2")], &body).await;
    assert_eq!(turn_of(&mut later).await, id, "also when it is over");
    assert_eq!(later.next_event().await, shown);
    assert_eq!(pair.backend.requests().len(), 1);
}

#[tokio::test]
async fn a_start_whose_client_was_lost_is_found_again_at_the_other_node() {
    let pair = Pair::start().await;
    let body = fresh_body();
    let first = post(&pair.one, &[], &body).await;
    let mut upstream = pair.backend.next().await;
    first.reset();
    let mut again = post(&pair.other, &[], &body).await;
    upstream.stream().await;
    upstream.event("once").await;
    let id = turn_of(&mut again).await;
    assert_eq!(again.next_event().await.place(), (id.as_str(), 1));
    assert_eq!(pair.one.status(&id).await["state"], "running");
    assert_eq!(pair.other.metric("holdover_starts_attached_total", &[("rule", "lost_client")]).await, 1.0);
    assert_eq!(pair.backend.requests().len(), 1);
}

#[tokio::test]
async fn a_session_that_runs_at_one_node_is_refused_at_the_other() {
    let pair = Pair::with("", "concurrent = \"reject\"").await;
    let session = [("X-Session", "s")];
    let turn = Turn::start_with(&pair.one, &pair.backend, &session).await;
    let mut refused = post(&pair.other, &session, &fresh_body()).await;
    assert_eq!(refused.head().await.status(), 409);
    let said = String::from_utf8(refused.body().await.to_vec()).unwrap();
    assert!(said.contains("session_busy") && said.contains(&turn.id), "{said}");
    let elsewhere = Turn::start_with(&pair.other, &pair.backend, &[("X-Session", "another")]).await;
    elsewhere.end().await;
    turn.end().await;
    Turn::start_with(&pair.other, &pair.backend, &session).await.end().await;
    assert_eq!(pair.backend.requests().len(), 3);
}

#[tokio::test]
async fn a_session_that_runs_at_one_node_is_attached_to_at_the_other() {
    let pair = Pair::with("", "concurrent = \"attach\"").await;
    let session = [("X-Session", "s")];
    let mut turn = Turn::start_with(&pair.one, &pair.backend, &session).await;
    let shown = turn.events(2).await;
    let mut second = post(&pair.other, &session, &fresh_body()).await;
    assert_eq!(turn_of(&mut second).await, turn.id);
    assert_eq!(second.next_events(2).await, shown);
    assert_eq!(turn.event("more").await, second.next_event().await);
    turn.end().await;
    assert!(second.rest().await.1.is_clean());
    assert_eq!(pair.backend.requests().len(), 1);
}

#[tokio::test]
async fn a_session_that_runs_at_one_node_is_superseded_from_the_other() {
    let pair = Pair::with("", "concurrent = \"supersede\"").await;
    let session = [("X-Session", "s")];
    let mut turn = Turn::start_with(&pair.one, &pair.backend, &session).await;
    turn.event("old").await;
    let newer = post(&pair.other, &session, &fresh_body()).await;
    turn.upstream.aborted().await;
    let newer = Turn::opened(newer, &pair.backend).await;
    assert_ne!(newer.id, turn.id);
    assert!(turn.client.rest().await.1.is_clean());
    for node in [&pair.one, &pair.other] {
        node.state_is(&turn.id, "superseded").await;
        let current = node.request("GET", "/.holdover/sessions/s").send().await.unwrap();
        assert_eq!(current.json::<serde_json::Value>().await.unwrap()["turn"], newer.id);
    }
    newer.end().await;
}

#[tokio::test]
async fn a_foreign_turn_looks_unknown_at_every_node() {
    let pair = Pair::start().await;
    let (alice, bob) = (("Authorization", "Bearer alice"), ("Authorization", "Bearer bob"));
    let mut turn = Turn::start_with(&pair.one, &pair.backend, &[alice, ("X-Session", "s")]).await;
    turn.event("secret").await;
    assert_eq!(pair.other.status_as(&turn.id, Some(alice.1)).await["last_seq"], 1);
    let nobodys: String = turn.id.chars().rev().collect();
    for node in [&pair.one, &pair.other] {
        for who in [&[bob][..], &[]] {
            for (method, path, header) in [
                ("GET", "/.holdover/turns/<turn>", None),
                ("DELETE", "/.holdover/turns/<turn>", None),
                ("GET", "/.holdover/turns/<turn>/stream", None),
                ("GET", "/chat", Some("<turn>-0")),
                ("POST", "/chat", Some("<turn>-1")),
            ] {
                let mut answers = Vec::new();
                for id in [&turn.id, &nobodys] {
                    let header = header.map(|header| header.replace("<turn>", id));
                    let mut headers = who.to_vec();
                    headers.extend(header.as_deref().map(|id| ("Last-Event-ID", id)));
                    answers.push(node.answer(method, &path.replace("<turn>", id), &headers).await);
                }
                assert_eq!(answers[0], answers[1], "{method} {path}");
                let expected = if (method, path) == ("GET", "/chat") { "HTTP/1.1 204 " } else { "HTTP/1.1 404 " };
                assert!(answers[0].starts_with(expected), "{method} {path}: {}", answers[0]);
            }
        }
        // A session is a name within its principal's namespace.
        let theirs = node.request("GET", "/.holdover/sessions/s").header(bob.0, bob.1).send().await.unwrap();
        assert_eq!(theirs.status(), 404);
    }
    // Nor does a key of Alice's lead Bob anywhere.
    let body = fresh_body();
    let key = ("Idempotency-Key", "the same");
    let first = Turn::opened(post(&pair.one, &[alice, key], &body).await, &pair.backend).await;
    let second = Turn::opened(post(&pair.other, &[bob, key], &body).await, &pair.backend).await;
    assert_ne!(first.id, second.id);
    let mut resumed = pair.other.connect().await;
    resumed.request("GET", &stream_of(&turn.id), &[alice], "").await;
    assert_eq!(resumed.head().await.status(), 200);
    assert_eq!(resumed.next_event().await.data(), "secret");
    let stopped = pair.other.request("DELETE", &format!("/.holdover/turns/{}", turn.id)).header(alice.0, alice.1);
    assert_eq!(stopped.send().await.unwrap().json::<serde_json::Value>().await.unwrap(), json!({"result": "stopped"}));
    eventually("the stop to be seen", || async {
        (pair.one.status_as(&turn.id, Some(alice.1)).await["state"] == "cancelled").then_some(())
    })
    .await;
}
