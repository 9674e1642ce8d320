//! Turns are found, followed and stopped at any node.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, interval};

use super::{Pair, stays, stream_of};
use crate::support::{Backend, Ending, Redis, Turn, events, eventually, fresh_body, within};

#[tokio::test]
async fn a_turn_of_one_node_is_resumed_followed_and_stopped_at_the_other() {
    resumed_followed_and_stopped(&Pair::start().await).await;
}

pub(super) async fn resumed_followed_and_stopped(Pair { one, other, backend, .. }: &Pair) {
    let mut turn = Turn::start(one, backend).await;
    let shown = turn.events(3).await;
    let mut resumed = other.resume("GET", "/chat", &turn.id_of(1)).await;
    let head = resumed.head().await;
    assert_eq!((head.status(), head.get("holdover-from")), (200, Some("1")));
    assert_eq!(head.get("holdover-turn"), Some(turn.id.as_str()));
    assert_eq!(resumed.next_events(2).await, shown[1..]);
    for text in ["4", "5", "6"] {
        assert_eq!(turn.event(text).await, resumed.next_event().await);
    }
    let status = other.status(&turn.id).await;
    assert_eq!(
        (&status["state"], &status["last_seq"], &status["first_seq"]),
        (&json!("running"), &json!(6), &json!(1))
    );
    assert_eq!(status["route"], "chat");

    assert_eq!(other.stop(&turn.id).await, json!({"result": "stopped"}));
    turn.upstream.aborted().await;
    for client in [&mut turn.client, &mut resumed] {
        assert_eq!(client.rest().await, ("".into(), Ending::Clean(vec![])));
    }
    for node in [one, other] {
        assert_eq!(node.state_is(&turn.id, "cancelled").await["last_seq"], 6);
        assert_eq!(node.stop(&turn.id).await, json!({"result": "already_ended"}));
    }
    one.metrics().await.assert_books_balance();
}

#[tokio::test]
async fn a_turn_that_is_over_is_replayed_at_the_other_node() {
    let pair = Pair::start().await;
    let (id, shown) = pair.one.ended_turn(&pair.backend, 5).await;
    let status = pair.other.status(&id).await;
    assert_eq!((&status["state"], &status["last_seq"]), (&json!("completed"), &json!(5)));
    assert_eq!(events(&pair.other.whole(&id).await), shown);
    for k in 1..5 {
        let mut rest = pair.other.following(&format!("{}?after={k}", stream_of(&id))).await;
        assert_eq!(events(&rest.body().await), shown[k..], "after {k}");
    }
    for (method, path) in [("GET", "/chat".to_owned()), ("POST", "/chat".to_owned()), ("GET", stream_of(&id))] {
        let mut nothing = pair.other.resume(method, &path, &format!("{id}-5")).await;
        assert_eq!(nothing.head().await.status(), 204, "{method} {path}");
    }
    // The owner is gone for good; the turn is not.
    pair.one.signal("TERM");
    assert!(pair.one.wait_exit(Duration::from_secs(10)).await.success());
    assert_eq!(events(&pair.other.whole(&id).await), shown);
}

#[tokio::test]
async fn everybody_reads_the_same_bytes_whatever_node_they_came_to() {
    let pair = Pair::start().await;
    let mut turn = Turn::start(&pair.one, &pair.backend).await;
    turn.upstream.chunk(": hello\n\ndata: 1\n\n").await;
    let mut all = turn.client.next_event().await.bytes.to_vec();
    let mut live = Vec::new();
    for node in [&pair.one, &pair.other, &pair.one, &pair.other] {
        live.push(node.following(&stream_of(&turn.id)).await);
    }
    let body: String =
        (2..400).map(|n| format!("event: e{n}\r\ndata: {}\r\nid: theirs-{n}\r\n\r\n", "x".repeat(n))).collect();
    let body = format!("{body}: a comment\n\nretry: 700\n\ndata: multi\ndata: line\n\n: a last word\n\n");
    // Chunks of all sizes, most of them inside events.
    let (mut rest, mut size) = (body.as_bytes(), 1);
    while !rest.is_empty() {
        let (chunk, behind) = rest.split_at(size.min(rest.len()));
        assert!(turn.upstream.chunk(chunk).await, "the upstream is read");
        (rest, size) = (behind, size * 7 % 1009 + 1);
    }
    turn.upstream.end().await;
    all.extend_from_slice(&turn.client.body().await);
    assert!(all.len() > body.len());
    for mut client in live {
        assert_eq!(client.body().await, all);
    }
    for node in [&pair.one, &pair.other] {
        assert_eq!(node.whole(&turn.id).await, all);
    }
}

#[tokio::test]
async fn a_session_is_attached_to_at_the_other_node_before_during_and_after_its_turn() {
    let pair = Pair::start().await;
    let path = "/.holdover/sessions/s1";
    let stream = format!("{path}/stream");
    let mut early = pair.other.connect().await;
    early.request("GET", &format!("{stream}?wait=30s"), &[], "").await;
    // The session is claimed before the backend is asked: who comes meanwhile parks.
    let mut client = pair.one.connect().await;
    client.request("POST", "/chat", &[("X-Session", "s1")], fresh_body()).await;
    let mut upstream = pair.backend.next().await;
    let mut parked = pair.other.connect().await;
    parked.request("GET", &stream, &[], "").await;
    let pending = pair.other.request("GET", path).send().await.unwrap().json::<serde_json::Value>().await.unwrap();
    assert_eq!((&pending["state"], &pending["session"]), (&json!("running"), &json!("s1")));
    upstream.stream().await;
    upstream.event("one").await;
    let head = client.head().await;
    let id = head.get("holdover-turn").unwrap();
    assert_eq!(pending["turn"], id);
    for attached in [&mut early, &mut parked] {
        assert_eq!(attached.head().await.get("holdover-turn"), Some(id));
        assert_eq!(attached.next_event().await.place(), (id, 1));
    }
    upstream.end().await;
    for attached in [&mut early, &mut parked] {
        assert!(attached.rest().await.1.is_clean());
    }
    let over = pair.other.request("GET", path).send().await.unwrap().json::<serde_json::Value>().await.unwrap();
    assert_eq!((&over["turn"], &over["state"]), (&json!(id), &json!("completed")));
    assert_eq!(pair.other.request("GET", &stream).send().await.unwrap().status(), 204, "nothing runs");
}

#[tokio::test]
async fn the_detached_clock_sees_followers_at_other_nodes() {
    let pair = Pair::with("", "max_detached = \"1s\"").await;
    let Turn { id, client, mut upstream, .. } = Turn::start(&pair.one, &pair.backend).await;
    upstream.event("first").await;
    let mut follower = pair.other.following(&stream_of(&id)).await;
    follower.next_event().await;
    drop(client);
    eventually("the client to be gone", || async { (pair.one.status(&id).await["followers"] == 0).then_some(()) })
        .await;
    // Longer than the clock, and than one word of the other node would be believed.
    let until = Instant::now() + Duration::from_secs(12);
    let mut pace = interval(Duration::from_millis(500));
    while Instant::now() < until {
        pace.tick().await;
        assert!(upstream.event("more").await, "the upstream is read");
        assert_eq!(follower.next_event().await.data(), "more");
    }
    assert_eq!(pair.one.status(&id).await["state"], "running");
    drop(follower);
    within(Duration::from_secs(13), "the deserted turn to be stopped", upstream.left()).await;
    assert_eq!(pair.one.state_is(&id, "expired").await["reason"], "max_detached");
}

#[tokio::test]
async fn followers_at_the_other_node_share_its_connections_to_redis() {
    let pair = Pair::with("", "followers = 200").await;
    let mut turn = Turn::start(&pair.one, &pair.backend).await;
    turn.event("first").await;
    let mut followers = vec![pair.other.following(&stream_of(&turn.id)).await];
    followers[0].next_event().await;
    let with_one = pair.redis.connections().await;
    while followers.len() < 100 {
        followers.push(pair.other.following(&stream_of(&turn.id)).await);
    }
    let shown = turn.event("second").await;
    for (number, follower) in followers.iter_mut().enumerate() {
        let last = follower.next_events(if number == 0 { 1 } else { 2 }).await.pop();
        assert_eq!(last.as_ref(), Some(&shown));
    }
    assert_eq!(pair.redis.connections().await, with_one);
    let looks = || async {
        pair.redis.connections().await == with_one && pair.other.metric("holdover_followers", &[]).await == 100.0
    };
    stays(Duration::from_secs(2), "100 followers, no more connections", looks).await;
    turn.upstream.end().await;
    for follower in &mut followers {
        assert!(follower.rest().await.1.is_clean());
    }
}

#[tokio::test]
async fn a_route_takes_only_so_many_followers_at_the_other_node_too() {
    let pair = Pair::with("", "followers = 2").await;
    let mut turn = Turn::start(&pair.one, &pair.backend).await;
    turn.event("first").await;
    let _first = pair.other.following(&stream_of(&turn.id)).await;
    let second = pair.other.following(&stream_of(&turn.id)).await;
    let answer = || async { pair.other.request("GET", &stream_of(&turn.id)).send().await.unwrap() };
    let refused = answer().await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    drop(second);
    eventually("the place to be free", || async { (answer().await.status() == 200).then_some(()) }).await;
}

#[tokio::test]
async fn deployments_with_different_prefixes_share_a_redis_unseen() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let pair = Pair::on(backend, redis, "prefix = \"a\"", "").await;
    let stranger = pair.third().env("HOLDOVER__STORE__PREFIX", "b").start().await;
    let (id, _) = pair.one.ended_turn(&pair.backend, 1).await;
    assert_eq!(pair.other.status(&id).await["state"], "completed");
    assert_eq!(stranger.request("GET", &stream_of(&id)).send().await.unwrap().status(), 404);
}
