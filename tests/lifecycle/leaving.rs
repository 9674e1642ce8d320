//! Clients that leave, stall, or only listen.

use std::time::{Duration, Instant};

use crate::support::{Backend, Client, Ending, Holdover, Turn, eventually, fresh_body, without_retry};

const SESSIONS: &str = "[identity]\nanonymous_sessions = true\n[[route]]\nsession = \"header:x-chat\"\n";

/// How a client goes.
fn leave(client: Client, reset: bool) {
    if reset {
        client.reset();
    }
}

async fn is_detached(holdover: &Holdover, id: &str) {
    eventually("the turn to be detached", || async {
        let status = holdover.status(id).await;
        (status["followers"] == 0 && !status["detached_since"].is_null()).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_client_that_leaves_before_the_header_has_its_turn_all_the_same() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(SESSIONS).start().await;
    for (session, reset) in [("fin", false), ("reset", true)] {
        let mut client = holdover.connect().await;
        client.request("POST", "/chat", &[("X-Chat", session)], fresh_body()).await;
        let mut upstream = backend.next().await;
        upstream.body().await;
        leave(client, reset);
        let path = format!("/.holdover/sessions/{session}");
        let status = || async {
            let answer = holdover.request("GET", &path).send().await.unwrap();
            (answer.status() == 200).then_some(answer.json::<serde_json::Value>().await.unwrap())
        };
        eventually("the client to be seen leaving", || async { (status().await?["followers"] == 0).then_some(()) })
            .await;
        upstream.stream().await;
        for text in ["one", "two", "three"] {
            assert!(upstream.event(text).await, "the upstream goes on");
        }
        upstream.end().await;
        let ended =
            eventually("the turn to end", || async { status().await.filter(|s| s["state"] == "completed") }).await;
        assert_eq!(ended["last_seq"], 3);
        let id = ended["turn"].as_str().unwrap();
        let mut resumed = holdover.connect().await;
        resumed.request("GET", &format!("/.holdover/turns/{id}/stream"), &[], "").await;
        resumed.head().await;
        assert_eq!(resumed.next_events(3).await[2].data(), "three");
    }
    assert_eq!((backend.finished(), backend.aborted()), (2, 0));
}

#[tokio::test]
async fn who_leaves_before_an_answer_that_is_no_turn_ends_it() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut client = holdover.connect().await;
    client.request("POST", "/chat", &[], fresh_body()).await;
    let mut upstream = backend.next().await;
    upstream.body().await;
    drop(client);
    upstream.head("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n").await;
    upstream.chunk("for nobody").await;
    upstream.aborted().await;
}

#[tokio::test]
async fn a_client_that_leaves_changes_nothing_for_its_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    for reset in [false, true] {
        // Silent: nothing is written while nobody is there, so that only the connection itself tells of the end.
        for silent in [false, true] {
            let mut turn = Turn::start(&holdover, &backend).await;
            let mut all = turn.events(2).await;
            let cursor = turn.id_of(2);
            let Turn { id, client, mut upstream, .. } = turn;
            leave(client, reset);
            if silent {
                is_detached(&holdover, &id).await;
            }
            for number in 3..=20 {
                assert!(upstream.event(number.to_string()).await, "the upstream goes on");
            }
            upstream.end().await;
            assert_eq!(holdover.state_is(&id, "completed").await["last_seq"], 20);
            let mut resumed = holdover.resume("POST", "/chat", &cursor).await;
            assert_eq!(resumed.head().await.status(), 200);
            all.extend(resumed.next_events(18).await);
            assert!(resumed.rest().await.1.is_clean());
            let data: Vec<_> = all.iter().map(|event| event.data().parse::<u32>().unwrap()).collect();
            assert_eq!(data, (1..=20).collect::<Vec<_>>(), "nothing lost and nothing twice");
        }
    }
    assert_eq!((backend.finished(), backend.aborted()), (4, 0));
    let metrics = holdover.metrics().await;
    metrics.assert_books_balance();
    assert_eq!(metrics.sum("holdover_turns_finished_total", &[("outcome", "completed")]), 4.0);
    // Where the turn was not silent it may have been over before the client was missed.
    let detached = metrics.sum("holdover_detached_seconds_count", &[]);
    assert!((2.0..=4.0).contains(&detached), "{detached}");
}

#[tokio::test]
async fn live_turns_are_counted_as_attached_or_detached() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    let live = "holdover_turns_live";
    holdover.metric_is(live, &[("state", "attached")], 1.0).await;
    let cursor = turn.id_of(1);
    let Turn { id, client, upstream, .. } = turn;
    drop(client);
    holdover.metric_is(live, &[("state", "detached")], 1.0).await;
    holdover.metric_is(live, &[("state", "attached")], 0.0).await;
    holdover.metrics().await.assert_books_balance();
    let mut back = holdover.resume("GET", "/chat", &cursor).await;
    back.head().await;
    holdover.metric_is(live, &[("state", "attached")], 1.0).await;
    holdover.metric_is(live, &[("state", "detached")], 0.0).await;
    assert_eq!(holdover.status(&id).await["detached_since"], serde_json::Value::Null);
    upstream.end().await;
    assert!(back.rest().await.1.is_clean());
    holdover.metric_is(live, &[], 0.0).await;
    holdover.metrics().await.assert_books_balance();
}

/// The recorder waits for nobody: one client reads nothing, another one everything.
#[tokio::test]
async fn a_client_that_never_reads_slows_nobody_and_is_cut() {
    const EVENTS: usize = 300;
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[listen]\nwrite_timeout = \"2s\"\n").start().await;
    let mut stalled = Client::connect_narrow(holdover.addr()).await;
    stalled.request("POST", "/chat", &[], fresh_body()).await;
    let Turn { id, client: mut stalled, mut upstream, .. } = Turn::opened(stalled, &backend).await;
    upstream.event("first").await;
    assert_eq!(stalled.next_event().await.data(), "first");
    let mut reader = holdover.resume("GET", "/chat", &format!("{id}-1")).await;
    assert_eq!(reader.head().await.status(), 200);
    let began = Instant::now();
    let large = "x".repeat(64 << 10);
    let sending = async {
        for _ in 0..EVENTS {
            assert!(upstream.event(&large).await, "the upstream goes on");
        }
        upstream.end().await;
    };
    let reading = async {
        for seq in 2..2 + EVENTS as u64 {
            assert_eq!(reader.next_event().await.place(), (id.as_str(), seq));
        }
        assert!(reader.rest().await.1.is_clean());
    };
    tokio::join!(sending, reading);
    let took = began.elapsed();
    assert_eq!(holdover.state_is(&id, "completed").await["last_seq"], EVENTS as u64 + 1);
    holdover.metric_is("holdover_followers_cut_total", &[("reason", "write_timeout")], 1.0).await;
    assert!(took < Duration::from_secs(10), "{took:?} for {EVENTS} events");
    // What was under way when the connection was cut still arrives; the end does not.
    assert_eq!(stalled.rest().await.1, Ending::Broken);
    assert_eq!((backend.finished(), backend.aborted()), (1, 0));
}

#[tokio::test]
async fn two_followers_get_the_same_bytes() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let turn = Turn::start(&holdover, &backend).await;
    let mut second = holdover.connect().await;
    second.request("GET", &turn.stream_path(), &[], "").await;
    second.head().await;
    let Turn { client: mut first, mut upstream, .. } = turn;
    for chunk in ["data: a\n", "\n", ": note\n\nevent: x\r\nda", "ta: b\r\n\r\n", "data: c\n\ndata: d\n\n"] {
        upstream.chunk(chunk).await;
    }
    upstream.end().await;
    let (one, two) = tokio::join!(first.body(), second.body());
    assert_eq!(without_retry(&one), without_retry(&two));
    assert_eq!(crate::support::events(&one).len(), 4);
}

#[tokio::test]
async fn a_silent_turn_is_kept_alive_with_comment_lines() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\nkeepalive = \"1s\"\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    assert_eq!(turn.client.until(":\n").await, ":\n");
    assert_eq!(turn.client.until(":\n").await, ":\n");
    turn.event("two").await;
    // It is of the connection: nothing of it is recorded.
    let mut replay = holdover.resume("GET", "/chat", &turn.id_of(1)).await;
    replay.head().await;
    let two = replay.next_event().await;
    assert_eq!(without_retry(&two.bytes), format!("data: two\nid: {}\n\n", turn.id_of(2)).as_bytes());
}

#[tokio::test]
async fn where_the_route_says_so_a_leaving_client_stops_its_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\non_disconnect = \"cancel\"\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    let mut second = holdover.resume("GET", "/chat", &turn.id_of(1)).await;
    second.head().await;
    let Turn { id, client, mut upstream, .. } = turn;
    drop(client);
    upstream.event("two").await;
    assert_eq!(second.next_event().await.data(), "two", "one who stays is enough");
    drop(second);
    upstream.aborted().await;
    assert_eq!(holdover.state_is(&id, "cancelled").await["reason"], "client_left");
}

#[tokio::test]
async fn a_client_that_comes_back_within_the_grace_keeps_its_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\non_disconnect = { grace = \"2s\" }\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    let cursor = turn.id_of(1);
    let Turn { id, client, mut upstream, .. } = turn;
    drop(client);
    is_detached(&holdover, &id).await;
    let mut back = holdover.resume("GET", "/chat", &cursor).await;
    back.head().await;
    upstream.event("two").await;
    assert_eq!(back.next_event().await.data(), "two");
    let left = Instant::now();
    drop(back);
    upstream.aborted().await;
    assert!(left.elapsed() > Duration::from_millis(1900), "the grace began anew: {:?}", left.elapsed());
    assert_eq!(holdover.state_is(&id, "cancelled").await["reason"], "client_left");
}

#[tokio::test]
async fn a_turn_that_nobody_follows_expires() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\nmax_detached = \"1s\"\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    let Turn { id, client, mut upstream, .. } = turn;
    drop(client);
    upstream.aborted().await;
    assert_eq!(holdover.state_is(&id, "expired").await["reason"], "max_detached");
    holdover.metrics().await.assert_books_balance();
}
