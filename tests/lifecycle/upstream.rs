//! Upstreams that end, break, fall silent, or go on for ever.

use crate::support::{Backend, Ending, Holdover, Turn, eventually};

#[tokio::test]
async fn an_upstream_that_breaks_is_a_failed_turn_and_no_clean_end() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    for reset in [false, true] {
        let mut turn = Turn::start(&holdover, &backend).await;
        turn.events(2).await;
        let cursor = turn.id_of(1);
        let Turn { id, mut client, mut upstream, .. } = turn;
        upstream.chunk(": aside\ndata: hal").await;
        if reset {
            upstream.reset();
        } else {
            upstream.close().await;
        }
        let (rest, ending) = client.rest().await;
        assert_eq!(ending, Ending::Broken, "an SDK would take a clean end for a whole answer");
        assert!(!rest.windows(3).any(|bytes| bytes == b"hal"), "half an event was delivered: {rest:?}");
        let status = holdover.state_is(&id, "failed").await;
        assert_eq!(status["last_seq"], 2);
        assert!(status["reason"].as_str().unwrap().starts_with("upstream_"), "{status}");
        let mut resumed = holdover.resume("GET", "/chat", &cursor).await;
        assert_eq!(resumed.head().await.status(), 200);
        assert_eq!(resumed.next_event().await.data(), "2");
        let (rest, ending) = resumed.rest().await;
        assert_eq!(ending, Ending::Broken);
        assert!(!rest.windows(3).any(|bytes| bytes == b"hal"), "half an event is replayed: {rest:?}");
    }
    let metrics = holdover.metrics().await;
    metrics.assert_books_balance();
    assert_eq!(metrics.sum("holdover_turns_finished_total", &[("outcome", "failed")]), 2.0);
}

#[tokio::test]
async fn a_clean_end_is_clean_and_what_followed_the_last_blank_line_is_there() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    let Turn { id, mut client, mut upstream, .. } = turn;
    upstream.chunk(": goodbye\n").await;
    upstream.end().await;
    let (rest, ending) = client.rest().await;
    assert_eq!((&rest[..], ending), (&b": goodbye\n"[..], Ending::Clean(vec![])));
    let status = holdover.state_is(&id, "completed").await;
    assert_eq!((&status["last_seq"], &status["reason"]), (&1.into(), &"eof".into()));
}

#[tokio::test]
async fn an_empty_stream_is_a_whole_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let turn = Turn::start(&holdover, &backend).await;
    let path = turn.stream_path();
    let id = turn.end().await;
    assert_eq!(holdover.state_is(&id, "completed").await["last_seq"], 0);
    let mut replay = holdover.connect().await;
    replay.request("GET", &path, &[], "").await;
    let head = replay.head().await;
    assert!(matches!(head.status(), 200 | 204), "{head:?}");
    assert_eq!(replay.rest().await, ("".into(), Ending::Clean(vec![])));
}

#[tokio::test]
async fn a_turn_has_a_longest_life_and_a_longest_silence() {
    let backend = Backend::start().await;
    for (limit, state, reason) in [("max_turn", "expired", "max_turn"), ("max_silence", "failed", "max_silence")] {
        let holdover = Holdover::before(&backend).config(format!("[[route]]\n{limit} = \"1s\"\n")).start().await;
        let mut turn = Turn::start(&holdover, &backend).await;
        turn.event("one").await;
        let Turn { id, mut client, mut upstream, .. } = turn;
        upstream.aborted().await;
        assert_eq!(client.rest().await.1, Ending::Broken, "{limit}");
        assert_eq!(holdover.state_is(&id, state).await["reason"], reason, "{limit}");
        holdover.metrics().await.assert_books_balance();
    }
}

/// Silence is of the upstream: whoever speaks is not silent.
#[tokio::test]
async fn an_upstream_that_speaks_now_and_then_is_not_silent() {
    let backend = Backend::start().await;
    let holdover =
        Holdover::before(&backend).config("[[route]]\nmax_silence = \"2s\"\nkeepalive = \"1s\"\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    for round in 0..4 {
        turn.event(&round.to_string()).await;
        // Each keep-alive line stands for a second in which nothing came.
        assert_eq!(turn.client.until(":\n").await, ":\n");
    }
    assert_eq!(holdover.status(&turn.id).await["state"], "running");
    turn.end().await;
}

#[tokio::test]
async fn an_event_over_the_limit_ends_the_recording_and_not_the_answer() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\nmax_event = \"1KiB\"\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.events(2).await;
    let cursor = turn.id_of(1);
    let Turn { id, mut client, mut upstream, .. } = turn;
    let large = format!("data: {}\n\n", "x".repeat(5000));
    let rest = format!("{large}data: 4\n\ndata: 5\n\n");
    upstream.chunk(&large).await;
    upstream.chunk("data: 4\n\n").await;
    assert_eq!(client.until("data: 4\n\n").await, format!("{large}data: 4\n\n"), "every byte, and no ids");
    assert_eq!(holdover.status(&id).await["truncated"], "max_event");
    upstream.chunk("data: 5\n\n").await;
    upstream.end().await;
    assert_eq!(client.rest().await, ("data: 5\n\n".into(), Ending::Clean(vec![])), "{rest:?}");
    let status = holdover.state_is(&id, "completed").await;
    assert_eq!((&status["truncated"], &status["last_seq"]), (&"max_event".into(), &2.into()));
    assert_eq!(holdover.metric("holdover_turns_capped_total", &[("cap", "max_event")]).await, 1.0);
    // Who comes back gets what is recorded, and must not take it for all there was.
    let mut resumed = holdover.resume("GET", "/chat", &cursor).await;
    resumed.head().await;
    assert_eq!(resumed.next_event().await.data(), "2");
    assert_eq!(resumed.rest().await.1, Ending::Broken);
}

#[tokio::test]
async fn a_turn_over_its_size_ends_the_recording_and_not_the_answer() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\nmax_turn_bytes = \"1KiB\"\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.events(2).await;
    let Turn { id, mut client, mut upstream, .. } = turn;
    let sent: Vec<String> = (0..50).map(|n| format!("data: {n} {}\n\n", "x".repeat(50))).collect();
    for event in &sent {
        upstream.chunk(event).await;
    }
    upstream.end().await;
    let (rest, ending) = client.rest().await;
    assert!(ending.is_clean());
    // Stamped up to the cap, verbatim behind it.
    let plain: String = String::from_utf8_lossy(&rest)
        .lines()
        .filter(|line| !line.starts_with("id: "))
        .map(|l| format!("{l}\n"))
        .collect();
    assert_eq!(plain, sent.concat());
    let status = holdover.state_is(&id, "completed").await;
    assert_eq!(status["truncated"], "max_turn_bytes");
    assert!(status["bytes"].as_u64().unwrap() < 1300, "{status}");
}

/// A gap is always said.
#[tokio::test]
async fn who_resumes_behind_a_cap_is_told_of_the_gap() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\nmax_event = \"1KiB\"\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.events(2).await;
    let (cursor, stream) = (turn.id_of(2), turn.stream_path());
    turn.upstream.chunk(format!("data: {}\n\n", "x".repeat(5000))).await;
    turn.client.until("\n\n").await;
    let Turn { id, mut client, upstream, .. } = turn;
    upstream.end().await;
    client.rest().await;
    holdover.state_is(&id, "completed").await;
    for (method, target) in [("GET", "/chat"), ("POST", "/chat"), ("GET", stream.as_str())] {
        let mut resumed = holdover.resume(method, target, &cursor).await;
        let head = resumed.head().await;
        assert!(head.get("holdover-gap").is_some(), "{method} {target}: {head:?}");
    }
}

#[tokio::test]
async fn an_upstream_is_not_held_open_after_its_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    for _ in 0..3 {
        holdover.ended_turn(&backend, 2).await;
    }
    let followers = || async { (holdover.metric("holdover_followers", &[]).await == 0.0).then_some(()) };
    eventually("followers to be gone", followers).await;
    assert_eq!((backend.finished(), backend.aborted()), (3, 0));
}
