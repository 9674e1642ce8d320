//! Memory for logs runs short: what is given up, in which order, and what never is.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::future::join_all;
use tokio::time::sleep;

use crate::support::{Backend, Client, Exchange, Holdover, Redis, Turn, eventually, fresh_body, within};

const TURNS: usize = 10_000;
const LIMIT: usize = 16 << 20;
/// Bytes of the one event of each turn, about: all together are more than twice the limit.
const EVENT: usize = 4000;
/// Clients at a time, each with one turn.
const CLIENTS: usize = 32;
/// What a running turn may take besides its log: its task, its request, its connection to the backend.
const PER_TURN: usize = 160 << 10;

/// Says one thing and then nothing more, like a model that thinks for long.
async fn one_event(mut exchange: Exchange) {
    exchange.stream().await;
    if exchange.event("x".repeat(EVENT)).await {
        exchange.left().await;
    }
}

/// Starts a turn, waits for its event, and leaves; gives the turn's id. A refusal is tried again, as clients do.
async fn start_and_leave(holdover: &Holdover) -> String {
    loop {
        let mut client: Client = holdover.connect().await;
        client.request("POST", "/chat", &[], fresh_body()).await;
        let head = client.head().await;
        if head.status() == 503 {
            sleep(Duration::from_millis(250)).await;
            continue;
        }
        assert_eq!(head.status(), 200, "{head:?}");
        client.next_event().await;
        return head.get("holdover-turn").unwrap().to_owned();
    }
}

/// Ten thousand users leave, and their turns run on: the node keeps to its limit, and gives up the turns that were alone
/// for longest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_thousand_detached_turns_stay_within_the_limit() {
    let backend = Backend::answering(one_event).await;
    let config = format!("[limits]\nmax_turns = 20000\n[store]\nmemory_limit = \"{}KiB\"\n", LIMIT >> 10);
    let holdover = Holdover::before(&backend).config(config).env("HOLDOVER__LOG__LEVEL", "info").start().await;
    let before = holdover.resident();
    let followed = {
        let mut client = holdover.connect().await;
        client.request("POST", "/chat", &[], fresh_body()).await;
        let id = client.head().await.get("holdover-turn").unwrap().to_owned();
        client.next_event().await;
        (id, client)
    };
    let left: Mutex<Vec<String>> = Mutex::default();
    let begun = AtomicUsize::new(0);
    let crowd = join_all((0..CLIENTS).map(|_| async {
        while begun.fetch_add(1, Ordering::Relaxed) < TURNS {
            let id = start_and_leave(&holdover).await;
            left.lock().unwrap().push(id);
        }
    }));
    let watch = async {
        loop {
            let metrics = holdover.metrics().await;
            metrics.assert_books_balance();
            let buffered = metrics.sum("holdover_buffered_bytes", &[]);
            assert!(buffered <= LIMIT as f64, "the logs hold {buffered} bytes");
            let live = metrics.sum("holdover_turns_live", &[]) as usize;
            let grown = holdover.resident().saturating_sub(before);
            assert!(grown <= LIMIT + live * PER_TURN + (64 << 20), "grown by {grown} bytes with {live} turns");
            sleep(Duration::from_millis(200)).await;
        }
    };
    tokio::select! {
        _ = within(Duration::from_secs(300), "all to have come and left", crowd) => {}
        () = watch => {}
    }
    let left = left.into_inner().unwrap();
    assert_eq!(left.len(), TURNS);
    // Those who were told to end do so by and by.
    let (stopped, running) = eventually("the books to agree", || async {
        let metrics = holdover.metrics().await;
        let stopped = metrics.sum("holdover_turns_shed_total", &[("state", "detached")]);
        let expired = metrics.sum("holdover_turns_finished_total", &[("outcome", "expired")]);
        (stopped == expired).then_some((stopped as usize, metrics.sum("holdover_turns_live", &[]) as usize))
    })
    .await;
    assert!(running * EVENT <= LIMIT, "{running} turns still run");
    assert_eq!(stopped + running, TURNS + 1, "each is running or was counted");
    assert_eq!(holdover.metric("holdover_turns_capped_total", &[]).await, 0.0);
    // Some thirty leave at a time, in no order; around the border they may be mixed.
    let mixed = 4 * CLIENTS;
    for (number, id) in left.iter().enumerate().step_by(97) {
        let answer = holdover.request("GET", &format!("/.holdover/turns/{id}")).send().await.unwrap();
        let runs = answer.status() == 200 && answer.json::<serde_json::Value>().await.unwrap()["state"] == "running";
        if number + mixed < stopped {
            assert!(!runs, "the {number}th of {stopped} stopped turns runs");
        } else if number > stopped + mixed {
            assert!(runs, "the {number}th turn was stopped, when only {stopped} had to be");
        }
    }
    let (id, mut client) = followed;
    assert_eq!(holdover.status(&id).await["state"], "running", "a turn that is followed is never given up");
    holdover.request("DELETE", &format!("/.holdover/turns/{id}")).send().await.unwrap();
    assert!(client.rest().await.1.is_clean());
}

/// Whose client has just left is not taken for one that nobody wants.
#[tokio::test]
async fn a_turn_that_was_just_left_keeps_its_memory() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[store]\nmemory_limit = \"1MiB\"\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event(&"x".repeat(1_000_000)).await;
    let Turn { id, client, mut upstream } = turn;
    drop(client);
    holdover.metric_is("holdover_turns_live", &[("state", "detached")], 1.0).await;
    let mut second = holdover.connect().await;
    second.request("POST", "/chat", &[], fresh_body()).await;
    assert_eq!(second.head().await.status(), 503);
    upstream.event("more").await;
    eventually("the event to be recorded", || async { (holdover.status(&id).await["last_seq"] == 2).then_some(()) })
        .await;
    let mut back = holdover.resume("GET", "/chat", &format!("{id}-1")).await;
    assert_eq!(back.head().await.status(), 200);
    assert_eq!(back.next_event().await.data(), "more");
    assert_eq!(holdover.metric("holdover_turns_shed_total", &[]).await, 0.0);
}

/// With Redis, an ended turn lingers in memory for those who still read it, and can be given up: Redis has it.
#[tokio::test]
async fn ended_turns_that_redis_has_make_room_and_are_served_from_there() {
    let (backend, redis) = tokio::join!(Backend::start(), Redis::start());
    let config = format!("[store]\nkind = \"redis\"\nurl = \"{}\"\nmemory_limit = \"1MiB\"\n", redis.url());
    let holdover = Holdover::before(&backend).config(config).start().await;
    let mut ids = Vec::new();
    for _ in 0..30 {
        let mut turn = Turn::start(&holdover, &backend).await;
        turn.event(&"x".repeat(100_000)).await;
        ids.push(turn.end().await);
    }
    // Three times the limit went through: most left this node's memory, and none was given up.
    assert!(holdover.metric("holdover_buffered_bytes", &[]).await <= f64::from(1 << 20));
    for given_up in ["holdover_turns_shed_total", "holdover_turns_capped_total"] {
        assert_eq!(holdover.metric(given_up, &[]).await, 0.0, "{given_up}");
    }
    for id in [&ids[0], &ids[29]] {
        let mut client = holdover.connect().await;
        client.request("GET", &format!("/.holdover/turns/{id}/stream"), &[], "").await;
        assert_eq!(client.head().await.status(), 200);
        assert_eq!(client.next_event().await.data().len(), 100_000);
        assert!(client.rest().await.1.is_clean());
    }
}
