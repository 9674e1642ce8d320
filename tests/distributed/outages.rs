//! Redis is away, slow or forgetful.

use std::time::Duration;

use serde_json::json;
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{Instant, MissedTickBehavior, interval},
};

use super::{Pair, config, stays, stream_of};
use crate::support::{Backend, Client, Ending, Exchange, Holdover, Redis, Turn, eventually, fresh_body, within};

/// How long Redis is away.
const AWAY: Duration = Duration::from_secs(10);
/// What a client may notice of it: the store's deadline, and a busy machine.
pub(super) const UNNOTICED: Duration = Duration::from_millis(1500);

/// A backend that sends ten events a second, until `over` or as many as the request asks for.
pub(super) async fn paced(over: watch::Receiver<bool>) -> Backend {
    Backend::answering(move |exchange| send_paced(exchange, over.clone())).await
}

async fn send_paced(mut exchange: Exchange, over: watch::Receiver<bool>) {
    let most = exchange.request.get("x-events").map_or(usize::MAX, |text| text.parse().unwrap());
    let mut pace = interval(Duration::from_millis(100));
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    exchange.stream().await;
    for number in 1..=most {
        pace.tick().await;
        if *over.borrow() || !exchange.event(number.to_string()).await {
            break;
        }
    }
    exchange.end().await;
}

/// What a live client was shown, and the longest it waited for anything.
pub(super) struct Shown {
    pub(super) bytes: Vec<u8>,
    pub(super) ending: Ending,
    pub(super) longest: Duration,
}

pub(super) fn watching(mut client: Client) -> JoinHandle<Shown> {
    tokio::spawn(async move {
        let mut shown = Shown { bytes: Vec::new(), ending: Ending::Broken, longest: Duration::ZERO };
        loop {
            let since = Instant::now();
            let next = within(Duration::from_secs(60), "an event", client.event_or_end()).await;
            shown.longest = shown.longest.max(since.elapsed());
            match next {
                Ok(event) => shown.bytes.extend_from_slice(&event.bytes),
                Err(ending) => return Shown { ending, ..shown },
            }
        }
    })
}

/// Starts a turn that goes by itself.
pub(super) async fn start(node: &Holdover, headers: &[(&str, &str)]) -> (String, JoinHandle<Shown>) {
    let mut client = node.connect().await;
    client.request("POST", "/chat", headers, fresh_body()).await;
    let head = client.head().await;
    assert_eq!(head.status(), 200, "{head:?}");
    (head.get("holdover-turn").unwrap().to_owned(), watching(client))
}

pub(super) async fn degraded(node: &Holdover, turn: &str) -> bool {
    node.status(turn).await["degraded"] == true
}

/// Twenty turns live through ten seconds without Redis, and are whole at the other node afterwards.
async fn live_through(leave: fn(&mut Redis), come_back: impl AsyncFnOnce(&mut Redis)) {
    let (end, over) = watch::channel(false);
    let (backend, redis) = (paced(over).await, Redis::start().await);
    let mut pair = Pair::on(backend, redis, "", "").await;
    let mut turns = Vec::new();
    for number in 0..20 {
        turns.push(start(&pair.one, &[("X-Session", &format!("s{number}"))]).await);
    }
    let (first, _) = &turns[0];
    let mut elsewhere = Some(watching(pair.other.following(&stream_of(first)).await));
    for (id, _) in &turns {
        pair.other.last_seq_is_at_least(id, 5).await;
    }

    leave(&mut pair.redis);
    let since = Instant::now();
    let (ending_meanwhile, ended_meanwhile) = start(&pair.one, &[("X-Events", "15")]).await;
    for (id, _) in &turns {
        eventually(format!("{id} to be degraded"), || async { degraded(&pair.one, id).await.then_some(()) }).await;
    }
    let runs_degraded = || async {
        let status = pair.one.status(first).await;
        status["state"] == "running" && status["degraded"] == true
    };
    stays(AWAY.saturating_sub(since.elapsed()), "the turn runs, degraded", runs_degraded).await;
    let ended = ended_meanwhile.await.unwrap();
    assert!(ended.ending.is_clean() && ended.longest < UNNOTICED, "{:?} {:?}", ended.ending, ended.longest);

    come_back(&mut pair.redis).await;
    eventually("the other node to be ready", || async { (pair.other.ready().await.0 == 200).then_some(()) }).await;
    for (id, _) in &turns {
        eventually(format!("{id} to be stored"), || async { (!degraded(&pair.one, id).await).then_some(()) }).await;
    }
    // The other node may need a moment more to be connected again.
    eventually(format!("session s0 to lead to {first}"), || async {
        let session = pair.other.request("GET", "/.holdover/sessions/s0").send().await.unwrap();
        (session.json::<serde_json::Value>().await.unwrap()["turn"] == *first).then_some(())
    })
    .await;
    let stored = pair.one.status(first).await["last_seq"].as_u64().unwrap();
    pair.other.last_seq_is_at_least(first, stored + 3).await;

    end.send_replace(true);
    let mut longest = Duration::ZERO;
    for (number, (id, watched)) in turns.iter_mut().enumerate() {
        let shown = watched.await.unwrap();
        assert!(shown.ending.is_clean(), "turn {number}");
        longest = longest.max(shown.longest);
        pair.other.state_is(id, "completed").await;
        assert_eq!(pair.other.whole(id).await, shown.bytes, "turn {number}");
        if number == 0 {
            // Who reads at the other node waits for Redis; what it gets is right, and its end is true.
            let there = elsewhere.take().unwrap().await.unwrap();
            assert!(shown.bytes.starts_with(&there.bytes));
            assert!(!there.ending.is_clean() || there.bytes == shown.bytes, "a clean end of a part");
        }
    }
    assert!(longest < UNNOTICED, "a live client waited {longest:?}");
    pair.other.state_is(&ending_meanwhile, "completed").await;
    assert_eq!(pair.other.whole(&ending_meanwhile).await, ended.bytes);
    pair.one.metrics().await.assert_books_balance();
    assert_eq!(pair.backend.requests().len(), 21);
}

#[tokio::test]
async fn turns_live_through_ten_seconds_without_redis_that_comes_back_empty() {
    live_through(Redis::kill9, async |redis| redis.restart().await).await;
}

#[tokio::test]
async fn turns_live_through_ten_seconds_of_a_frozen_redis() {
    live_through(|redis| redis.freeze(), async |redis| redis.thaw()).await;
}

#[tokio::test]
async fn a_redis_that_forgets_everything_is_told_again() {
    told_again(&Pair::start().await).await;
}

pub(super) async fn told_again(pair: &Pair) {
    let mut turn = Turn::start_with(&pair.one, &pair.backend, &[("X-Session", "s")]).await;
    let mut all = turn.events(3).await;
    let mut elsewhere = pair.other.following(&stream_of(&turn.id)).await;
    assert_eq!(elsewhere.next_events(3).await, all);
    for round in 0..3 {
        pair.redis.flush_all().await;
        for text in ["a", "b"] {
            all.push(turn.event(text).await);
            assert_eq!(elsewhere.next_event().await, all[all.len() - 1], "round {round}");
        }
    }
    pair.redis.flush_all().await;
    let id = turn.end().await;
    assert!(elsewhere.rest().await.1.is_clean());
    let whole: Vec<u8> = all.iter().flat_map(|event| event.bytes.to_vec()).collect();
    assert_eq!(pair.other.whole(&id).await, whole);
    let session = pair.other.request("GET", "/.holdover/sessions/s").send().await.unwrap();
    assert_eq!(session.json::<serde_json::Value>().await.unwrap()["turn"], id);
    assert!(pair.one.metric("holdover_blocks_repaired_total", &[]).await >= 3.0);
}

#[tokio::test]
async fn a_turn_that_redis_forgets_right_after_its_end_is_told_again() {
    let mut pair = Pair::start().await;
    for restart in [false, true] {
        let mut turn = Turn::start_with(&pair.one, &pair.backend, &[("X-Session", "s")]).await;
        let shown = turn.events(3).await;
        let id = turn.end().await;
        pair.one.state_is(&id, "completed").await;
        if restart {
            pair.redis.kill9();
            pair.redis.restart().await;
        } else {
            pair.redis.flush_all().await;
        }
        let known = || async {
            let answer = pair.other.request("GET", &format!("/.holdover/turns/{id}")).send().await.unwrap();
            (answer.status() == 200).then_some(answer)
        };
        eventually("the turn to be known again", known).await;
        let status = pair.other.state_is(&id, "completed").await;
        assert_eq!((&status["last_seq"], &status["session"]), (&json!(3), &json!("s")));
        assert_eq!(crate::support::events(&pair.other.whole(&id).await), shown);
        let session = pair.other.request("GET", "/.holdover/sessions/s").send().await.unwrap();
        assert_eq!(session.json::<serde_json::Value>().await.unwrap()["turn"], id);
    }
}

#[tokio::test]
async fn without_redis_at_start_turns_run_from_memory_and_are_stored_later() {
    let (backend, redis) = (Backend::start().await, Redis::reserved());
    let mut pair = Pair::on(backend, redis, "", "").await;
    assert_eq!(pair.one.ready().await.0, 503);
    let mut turn = Turn::start(&pair.one, &pair.backend).await;
    let shown = turn.events(3).await;
    eventually("the turn to be degraded", || async { degraded(&pair.one, &turn.id).await.then_some(()) }).await;
    let mut resumed = pair.one.resume("GET", "/chat", &turn.id_of(1)).await;
    assert_eq!(resumed.head().await.status(), 200);
    assert_eq!(resumed.next_events(2).await, shown[1..]);

    pair.redis.restart().await;
    for node in [&pair.one, &pair.other] {
        eventually("the node to be ready", || async { (node.ready().await.0 == 200).then_some(()) }).await;
    }
    eventually("the turn to be stored", || async { (!degraded(&pair.one, &turn.id).await).then_some(()) }).await;
    let mut elsewhere = pair.other.following(&stream_of(&turn.id)).await;
    assert_eq!(elsewhere.next_events(3).await, shown);
    assert_eq!(turn.event("4").await, elsewhere.next_event().await);
    turn.end().await;
    assert!(elsewhere.rest().await.1.is_clean());
}

#[tokio::test]
async fn a_deployment_that_wants_its_turns_stored_refuses_them_without_redis() {
    let (backend, mut redis) = (Backend::start().await, Redis::reserved());
    let config = config(&redis, "on_failure = \"reject\"", "");
    let node = Holdover::before(&backend).config(config).start().await;
    let refused = async || {
        let answer = node.request("POST", "/chat").body(fresh_body()).send().await.unwrap();
        assert_eq!(answer.status(), 503);
        assert!(answer.headers().contains_key("retry-after"));
        assert!(answer.text().await.unwrap().contains("\"store\""));
    };
    refused().await;
    assert_eq!(backend.requests().len(), 0, "nothing went upstream");
    // What is no turn needs no store.
    let (plain, asked) = tokio::join!(node.request("GET", "/plain").send(), async {
        backend.next().await.answer("200 OK", "", "plain").await;
    });
    let ((), plain) = (asked, plain.unwrap());
    assert_eq!((plain.status().as_u16(), plain.text().await.unwrap().as_str()), (200, "plain"));

    redis.restart().await;
    eventually("the node to be ready", || async { (node.ready().await.0 == 200).then_some(()) }).await;
    let mut turn = Turn::start(&node, &backend).await;
    redis.freeze();
    // The turn that runs goes on; the next one is refused.
    turn.events(2).await;
    refused().await;
    assert_eq!(backend.requests().len(), 2);
    redis.thaw();
    turn.end().await;
}

#[tokio::test]
async fn a_frozen_redis_does_not_hold_up_starts_for_long() {
    let pair = Pair::start().await;
    Turn::start(&pair.one, &pair.backend).await.end().await;
    pair.redis.freeze();
    for _ in 0..5 {
        let mut client = pair.one.connect().await;
        client.request("POST", "/chat", &[("Idempotency-Key", &fresh_body())], fresh_body()).await;
        let opened = Turn::opened(client, &pair.backend);
        let mut turn = within(Duration::from_secs(3), "a turn from memory", opened).await;
        turn.event("one").await;
        turn.end().await;
    }
    pair.redis.thaw();
}

#[tokio::test]
async fn without_redis_turns_are_resumed_where_they_run_and_only_there() {
    let mut pair = Pair::start().await;
    let mut turn = Turn::start(&pair.one, &pair.backend).await;
    let shown = turn.events(2).await;
    pair.redis.kill9();
    eventually("the outage to be seen", || async { (pair.other.ready().await.0 == 503).then_some(()) }).await;
    // An EventSource at the other node gives up for good at a status: it is held, and then sent away without one.
    let mut event_source = pair.other.connect().await;
    let cursor = turn.id_of(1);
    let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", cursor.as_str())];
    event_source.request("GET", "/chat", &headers, "").await;
    let mut here = pair.one.following(&format!("{}?after=1", stream_of(&turn.id))).await;
    assert_eq!(here.next_event().await, shown[1]);
    assert_eq!(turn.event("3").await, here.next_event().await);
    for (method, path) in [
        ("GET", stream_of(&turn.id)),
        ("GET", format!("/.holdover/turns/{}", turn.id)),
        ("DELETE", format!("/.holdover/turns/{}", turn.id)),
        ("GET", "/.holdover/sessions/s".to_owned()),
        ("GET", "/.holdover/sessions/s/stream".to_owned()),
    ] {
        let answer = pair.other.request(method, &path).send().await.unwrap();
        assert_eq!(answer.status(), 503, "{method} {path}");
        assert!(answer.headers().contains_key("retry-after"), "{method} {path}");
    }
    let mut again = pair.other.resume("POST", "/chat", &cursor).await;
    assert_eq!(again.head().await.status(), 503);
    assert_eq!(event_source.raw().await, None, "not a byte");
    assert_eq!(pair.one.stop(&turn.id).await, json!({"result": "stopped"}));
}

/// An EventSource that comes to the other node while Redis is away, and is still held when it is back.
async fn held_until(leave: fn(&mut Redis), come_back: impl AsyncFnOnce(&mut Redis)) {
    let mut pair = Pair::start().await;
    let mut turn = Turn::start(&pair.one, &pair.backend).await;
    let shown = turn.events(2).await;
    leave(&mut pair.redis);
    eventually("the outage to be seen", || async { (pair.other.ready().await.0 == 503).then_some(()) }).await;
    let mut event_source = pair.other.connect().await;
    let cursor = turn.id_of(1);
    let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", cursor.as_str())];
    event_source.request("GET", "/chat", &headers, "").await;
    come_back(&mut pair.redis).await;
    let head = event_source.head().await;
    assert_eq!((head.status(), head.get("holdover-from")), (200, Some("1")));
    assert_eq!(event_source.next_event().await, shown[1]);
    assert_eq!(turn.event("3").await, event_source.next_event().await);
}

#[tokio::test]
async fn an_event_source_is_held_until_a_frozen_redis_goes_on() {
    held_until(|redis| redis.freeze(), async |redis| redis.thaw()).await;
}

#[tokio::test]
async fn an_event_source_is_held_until_an_empty_redis_knows_its_turn_again() {
    held_until(Redis::kill9, async |redis| redis.restart().await).await;
}
