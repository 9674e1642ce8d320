//! What is bounded is refused or ended with a reason.

use serde_json::Value;

use crate::support::{Backend, Client, Ending, Holdover, Turn, eventually, fresh_body};

/// Reads an answer of ours that says "not now"; gives its code.
async fn not_now(client: &mut Client) -> String {
    let head = client.head().await;
    assert_eq!(head.status(), 503, "{head:?}");
    let after: u64 = head.get("retry-after").expect("it says when to try again").parse().unwrap();
    assert!(after >= 1);
    let body: Value = serde_json::from_slice(&client.body().await).unwrap();
    body["error"]["code"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_turn_has_so_many_followers() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\nfollowers = 2\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    let mut second = holdover.resume("POST", "/chat", &turn.id_of(1)).await;
    assert_eq!(second.head().await.status(), 200);
    for (method, target) in [("POST", "/chat".to_owned()), ("GET", turn.stream_path())] {
        let mut third = holdover.resume(method, &target, &turn.id_of(1)).await;
        assert_eq!(not_now(&mut third).await, "too_many_followers", "{method} {target}");
    }
    drop(second);
    let room = || async {
        let mut third = holdover.resume("POST", "/chat", &turn.id_of(1)).await;
        (third.head().await.status() == 200).then_some(())
    };
    eventually("room for another follower", room).await;
}

/// An EventSource gives up for good at a 503.
#[tokio::test]
async fn an_event_source_over_the_limit_of_followers_is_not_sent_away_for_good() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\nfollowers = 1\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    let mut second = holdover.resume("GET", "/chat", &turn.id_of(1)).await;
    // Held, or the connection is broken: anything but a status.
    assert_eq!(second.raw().await, None);
}

#[tokio::test]
async fn a_node_runs_so_many_turns() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[limits]\nmax_turns = 1\n").start().await;
    let turn = Turn::start(&holdover, &backend).await;
    let mut second = holdover.connect().await;
    second.request("POST", "/chat", &[], fresh_body()).await;
    assert_eq!(not_now(&mut second).await, "max_turns");
    assert_eq!(backend.requests().len(), 1, "it never went upstream");
    assert_eq!(holdover.metric("holdover_starts_refused_total", &[("reason", "max_turns")]).await, 1.0);
    let id = turn.end().await;
    holdover.state_is(&id, "completed").await;
    Turn::start(&holdover, &backend).await.end().await;
}

/// A turn of so many bytes of data.
async fn large_turn(holdover: &Holdover, backend: &Backend, bytes: usize) -> String {
    let mut turn = Turn::start(holdover, backend).await;
    turn.event(&"x".repeat(bytes)).await;
    turn.end().await
}

#[tokio::test]
async fn ended_turns_make_room_for_new_ones() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[store]\nmemory_limit = \"1MiB\"\n").start().await;
    let mut ids = Vec::new();
    for _ in 0..60 {
        ids.push(large_turn(&holdover, &backend, 30_000).await);
    }
    assert!(holdover.metric("holdover_turns_shed_total", &[]).await >= 20.0);
    assert!(holdover.metric("holdover_buffered_bytes", &[]).await <= f64::from(1 << 20));
    assert_eq!(holdover.metric("holdover_turns_capped_total", &[]).await, 0.0);
    let oldest = holdover.request("GET", &format!("/.holdover/turns/{}", ids[0])).send().await.unwrap();
    assert_eq!(oldest.status(), 404, "the oldest is shed first");
    assert_eq!(holdover.status(&ids[59]).await["last_seq"], 1, "the newest is kept");
    let mut gone = holdover.resume("GET", "/chat", &format!("{}-0", ids[0])).await;
    assert_eq!(gone.head().await.status(), 204);
}

/// What is sheddable is shed before a recording is ended for it.
#[tokio::test]
async fn ended_turns_make_room_for_one_large_event() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[store]\nmemory_limit = \"1MiB\"\n").start().await;
    for _ in 0..4 {
        large_turn(&holdover, &backend, 400_000).await;
    }
    assert_eq!(holdover.metric("holdover_turns_capped_total", &[]).await, 0.0);
}

#[tokio::test]
async fn running_turns_that_use_up_the_memory_go_on_unrecorded_and_new_ones_wait() {
    let backend = Backend::start().await;
    let config = "[store]\nmemory_limit = \"1MiB\"\n";
    let holdover = Holdover::before(&backend).config(config).start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    for _ in 0..2 {
        turn.event(&"x".repeat(600_000)).await;
    }
    let Turn { id, mut client, mut upstream, .. } = turn;
    upstream.event("behind").await;
    assert_eq!(client.until("data: behind\n\n").await, "data: behind\n\n", "the live client gets it as it came");
    assert_eq!(holdover.status(&id).await["truncated"], "memory_limit");
    let mut second = holdover.connect().await;
    second.request("POST", "/chat", &[], fresh_body()).await;
    assert_eq!(not_now(&mut second).await, "memory_limit");
    upstream.end().await;
    assert_eq!(client.rest().await, ("".into(), Ending::Clean(vec![])));
    holdover.state_is(&id, "completed").await;
    large_turn(&holdover, &backend, 1000).await;
}
