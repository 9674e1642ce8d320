//! The owner of a turn dies, freezes or leaves.

use std::time::Duration;

use serde_json::json;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{Pair, stays, stream_of};
use crate::support::{
    Backend, Client, Ending, Exchange, Holdover, Redis, Turn, events, eventually, fresh_body, within,
};

/// Sends an event every few milliseconds for as long as somebody reads.
async fn endless(mut exchange: Exchange) {
    let mut pace = interval(Duration::from_millis(10));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    exchange.stream().await;
    for number in 1_u64.. {
        pace.tick().await;
        if !exchange.event(number.to_string()).await {
            return;
        }
    }
}

/// The whole events of a stream that broke off.
async fn shown_until_broken(mut client: Client) -> Vec<u8> {
    let mut shown = Vec::new();
    loop {
        match client.event_or_end().await {
            Ok(event) => shown.extend_from_slice(&event.bytes),
            Err(ending) => {
                assert_eq!(ending, Ending::Broken);
                return shown;
            }
        }
    }
}

/// The bytes of a turn whose stream must not end cleanly.
async fn replay_of_a_part(node: &Holdover, turn: &str) -> Vec<u8> {
    let (bytes, ending) = node.following(&stream_of(turn)).await.rest().await;
    assert_eq!(ending, Ending::Broken, "a part may not pass for the whole");
    bytes.to_vec()
}

#[tokio::test]
async fn what_a_killed_node_has_shown_is_replayed_at_the_others() {
    let (backend, redis) = (Backend::answering(endless).await, Redis::start().await);
    let pair = Pair::on(backend, redis, "", "concurrent = \"reject\"").await;
    let third = pair.third().start().await;
    let (mut turns, mut watched) = (Vec::new(), Vec::new());
    for number in 0..10 {
        let mut client = pair.one.connect().await;
        let headers = [("X-Session", format!("s{number}"))].map(|(name, value)| (name, value.leak() as &str));
        client.request("POST", "/chat", &headers, fresh_body()).await;
        let id = client.head().await.get("holdover-turn").unwrap().to_owned();
        for follower in [client, pair.other.following(&stream_of(&id)).await, third.following(&stream_of(&id)).await] {
            watched.push((number, tokio::spawn(shown_until_broken(follower))));
        }
        turns.push(id);
    }
    for id in &turns {
        pair.other.last_seq_is_at_least(id, 50).await;
    }
    pair.one.kill9().await;
    let mut kept = Vec::new();
    for id in &turns {
        let ended = pair.other.state_is(id, "interrupted").await;
        assert_eq!(ended["reason"], "owner_lost");
        let whole = replay_of_a_part(&pair.other, id).await;
        assert_eq!(replay_of_a_part(&third, id).await, whole);
        let contiguous = events(&whole).iter().zip(1..).all(|(event, seq)| event.place() == (id.as_str(), seq));
        assert!(contiguous && ended["last_seq"] == events(&whole).len());
        kept.push(whole);
    }
    for (number, shown) in watched {
        let shown = within(Duration::from_secs(10), "the end of a dead node's turn", shown).await.unwrap();
        assert!(kept[number].starts_with(&shown), "turn {number}: what was shown is replayable");
    }
    // Each session is free: the route refuses a second turn in it.
    for number in 0..10 {
        let mut client = third.connect().await;
        client.request("POST", "/chat", &[("X-Session", &format!("s{number}"))], fresh_body()).await;
        assert_eq!(client.head().await.status(), 200);
    }
}

#[tokio::test]
async fn a_dead_nodes_turns_are_over_within_fifteen_seconds_of_a_ten_second_lease() {
    let pair = Pair::with("lease = \"10s\"", "").await;
    let mut turn = Turn::start_with(&pair.one, &pair.backend, &[("X-Session", "s")]).await;
    let shown = turn.events(2).await;
    let mut elsewhere = pair.other.following(&stream_of(&turn.id)).await;
    elsewhere.next_events(2).await;
    pair.one.kill9().await;
    let since = Instant::now();
    assert_eq!(
        pair.other.stop(&turn.id).await,
        json!({"result": "owner_unreachable"}),
        "its sign of life is still there"
    );
    let end =
        within(Duration::from_secs(15).saturating_sub(since.elapsed()), "the end", elsewhere.event_or_end()).await;
    assert_eq!(end.unwrap_err(), Ending::Broken);
    let status = pair.other.status(&turn.id).await;
    assert_eq!((&status["state"], &status["last_seq"]), (&json!("interrupted"), &json!(2)));
    assert_eq!(pair.other.stop(&turn.id).await, json!({"result": "already_ended"}));
    assert_eq!(events(&replay_of_a_part(&pair.other, &turn.id).await), shown);
    let running = pair.other.request("GET", "/.holdover/sessions/s/stream").send().await.unwrap();
    assert_eq!(running.status(), 204, "the session is free");
}

#[tokio::test]
async fn a_node_that_wakes_after_its_lease_writes_nothing_more() {
    a_zombie_writes_nothing(&Pair::with("", REJECT).await).await;
}

/// One turn per session.
pub(super) const REJECT: &str = "concurrent = \"reject\"";

pub(super) async fn a_zombie_writes_nothing(pair: &Pair) {
    let session = [("X-Session", "s")];
    let mut turn = Turn::start_with(&pair.one, &pair.backend, &session).await;
    let shown = turn.events(3).await;
    let mut elsewhere = pair.other.following(&stream_of(&turn.id)).await;
    assert_eq!(elsewhere.next_events(3).await, shown);
    pair.one.signal("STOP");
    assert_eq!(elsewhere.event_or_end().await.unwrap_err(), Ending::Broken);
    let ended = pair.other.state_is(&turn.id, "interrupted").await;
    let newer = Turn::start_with(&pair.other, &pair.backend, &session).await;
    for text in ["too", "late"] {
        assert!(turn.upstream.event(text).await, "the system still takes it");
    }

    pair.one.signal("CONT");
    turn.upstream.aborted().await;
    // What could not be stored was not shown.
    assert_eq!(turn.client.rest().await, ("".into(), Ending::Broken));
    eventually("the zombie to be refused", || async {
        (pair.one.metric("holdover_writes_fenced_total", &[]).await == 1.0).then_some(())
    })
    .await;
    let unchanged = || async {
        let (status, owner) = (pair.other.status(&turn.id).await, pair.one.status(&turn.id).await);
        let current = pair.other.request("GET", "/.holdover/sessions/s").send().await.unwrap();
        status == ended && owner["state"] == "interrupted" && current.text().await.unwrap().contains(&newer.id)
    };
    stays(Duration::from_secs(3), "the turn is over and the session is the newer turn's", unchanged).await;
    assert_eq!(events(&replay_of_a_part(&pair.other, &turn.id).await), shown);
    newer.end().await;
    // It is a good node again.
    let (id, shown) = pair.one.ended_turn(&pair.backend, 2).await;
    assert_eq!(events(&pair.other.whole(&id).await), shown);
    pair.one.metrics().await.assert_books_balance();
}

#[tokio::test]
async fn a_stop_that_a_frozen_owner_cannot_hear_says_so_and_is_heard_later() {
    let pair = Pair::with("lease = \"20s\"", "").await;
    let mut turn = Turn::start(&pair.one, &pair.backend).await;
    turn.event("one").await;
    pair.one.signal("STOP");
    assert_eq!(pair.other.stop(&turn.id).await, json!({"result": "owner_unreachable"}));
    assert_eq!(pair.other.status(&turn.id).await["state"], "running");
    pair.one.signal("CONT");
    turn.upstream.aborted().await;
    pair.other.state_is(&turn.id, "cancelled").await;
}

#[tokio::test]
async fn a_rolling_restart_loses_nothing() {
    let pair = Pair::start().await;
    let mut turns = Vec::new();
    for _ in 0..5 {
        let mut turn = Turn::start(&pair.one, &pair.backend).await;
        turn.events(2).await;
        turns.push(turn);
    }
    pair.one.signal("TERM");
    eventually("the node to drain", || async {
        (pair.one.ready().await.1["checks"]["drain"]["ok"] == false).then_some(())
    })
    .await;
    let refused = pair.one.request("POST", "/chat").body(fresh_body()).send().await.unwrap();
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    Turn::start(&pair.other, &pair.backend).await.end().await;
    let mut resumed = Vec::new();
    for (turn, node) in turns.iter().zip([&pair.one, &pair.other].into_iter().cycle()) {
        let mut client = node.resume("GET", "/chat", &turn.id_of(1)).await;
        assert_eq!(client.head().await.status(), 200);
        resumed.push(client);
    }
    let mut ended = Vec::new();
    for (mut turn, mut resumed) in turns.into_iter().zip(resumed) {
        assert!(!pair.one.exited());
        let last = turn.event("last").await;
        assert_eq!(resumed.next_events(2).await[1], last);
        let id = turn.end().await;
        assert!(resumed.rest().await.1.is_clean());
        ended.push((id, last));
    }
    assert!(pair.one.wait_exit(Duration::from_secs(10)).await.success());
    for (id, last) in ended {
        assert_eq!(pair.other.status(&id).await["state"], "completed");
        assert_eq!(events(&pair.other.whole(&id).await).pop(), Some(last));
    }
}

#[tokio::test]
async fn a_drain_that_takes_too_long_interrupts_and_says_so_everywhere() {
    let pair = Pair::start().await;
    let hasty = pair.third().env("HOLDOVER__DRAIN__MAX", "1s").start().await;
    let mut turn = Turn::start_with(&hasty, &pair.backend, &[("X-Session", "s")]).await;
    let shown = turn.events(2).await;
    let mut elsewhere = pair.other.following(&stream_of(&turn.id)).await;
    elsewhere.next_events(2).await;
    hasty.signal("TERM");
    assert!(hasty.wait_exit(Duration::from_secs(10)).await.success());
    turn.upstream.aborted().await;
    for client in [&mut turn.client, &mut elsewhere] {
        assert_eq!(client.event_or_end().await.unwrap_err(), Ending::Broken);
    }
    let status = pair.other.status(&turn.id).await;
    assert_eq!((&status["state"], &status["reason"]), (&json!("interrupted"), &json!("drain")));
    assert_eq!(events(&replay_of_a_part(&pair.other, &turn.id).await), shown);
}
