//! The process: drain, reload, sudden death.

use std::time::{Duration, Instant};

use crate::support::{Backend, Ending, Holdover, Turn, eventually, fresh_body};

const SOON: Duration = Duration::from_secs(10);

/// Sends SIGTERM, and waits until the node says that it drains.
async fn drain(holdover: &Holdover) {
    holdover.signal("TERM");
    eventually("readiness to fail", || async {
        let (status, ready) = holdover.ready().await;
        (status == 503 && ready["checks"]["drain"]["ok"] == false).then_some(())
    })
    .await;
    assert_eq!(holdover.metric("holdover_draining", &[]).await, 1.0);
}

#[tokio::test]
async fn a_drain_serves_what_runs_and_starts_nothing() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (ended, _) = holdover.ended_turn(&backend, 2).await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.events(2).await;
    drain(&holdover).await;
    let mut refused = holdover.connect().await;
    refused.request("POST", "/chat", &[], fresh_body()).await;
    let head = refused.head().await;
    assert_eq!(head.status(), 503);
    assert!(head.get("retry-after").is_some_and(|after| after.parse::<u32>().unwrap() >= 1), "{head:?}");
    assert_eq!(backend.requests().len(), 2, "it never went upstream");
    let livez = holdover.http().get(format!("http://{}/livez", holdover.admin())).send().await.unwrap();
    assert_eq!(livez.status(), 200);
    let mut live = holdover.resume("GET", "/chat", &turn.id_of(1)).await;
    assert_eq!(live.head().await.status(), 200);
    assert_eq!(live.next_event().await.data(), "2");
    let mut replay = holdover.resume("GET", "/chat", &format!("{ended}-1")).await;
    assert_eq!(replay.head().await.status(), 200);
    assert_eq!(replay.next_event().await.data(), "2");
    turn.event("3").await;
    assert_eq!(live.next_event().await.data(), "3");
    assert!(!holdover.exited(), "it waits for the running turn");
    turn.upstream.event("4").await;
    turn.upstream.end().await;
    assert_eq!(turn.client.next_event().await.data(), "4");
    assert_eq!(turn.client.rest().await, ("".into(), Ending::Clean(vec![])));
    assert_eq!(live.next_event().await.data(), "4");
    assert!(live.rest().await.1.is_clean());
    let status = holdover.wait_exit(SOON).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn an_idle_node_ends_at_once() {
    let backend = Backend::start().await;
    for signal in ["TERM", "INT"] {
        let holdover = Holdover::start(&backend).await;
        holdover.ended_turn(&backend, 1).await;
        let asked = Instant::now();
        holdover.signal(signal);
        assert!(holdover.wait_exit(SOON).await.success());
        assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    }
}

#[tokio::test]
async fn what_still_runs_at_the_end_of_the_drain_is_interrupted() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[drain]\nmax = \"1s\"\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    let asked = Instant::now();
    drain(&holdover).await;
    assert_eq!(turn.client.rest().await.1, Ending::Broken);
    turn.upstream.aborted().await;
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(holdover.wait_exit(SOON).await.success());
    let ended = holdover.logged("turn ended").await;
    assert_eq!((&ended["outcome"], &ended["reason"]), (&"interrupted".into(), &"drain".into()));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    drain(&holdover).await;
    let asked = Instant::now();
    holdover.signal("TERM");
    holdover.wait_exit(SOON).await;
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    assert_eq!(turn.client.rest().await.1, Ending::Broken);
    turn.upstream.aborted().await;
}

#[tokio::test]
async fn a_reload_takes_new_routes_and_keeps_running_turns() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\nname = \"before\"\n").start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    holdover.rewrite("[[route]]\nname = \"after\"\nmax_request_body = \"10B\"\n");
    holdover.signal("HUP");
    holdover.logged("configuration reloaded").await;
    let mut refused = holdover.connect().await;
    refused.request("POST", "/chat", &[], "more than ten bytes").await;
    assert_eq!(refused.head().await.status(), 413);
    turn.event("two").await;
    let mut resumed = holdover.resume("GET", "/chat", &turn.id_of(1)).await;
    assert_eq!(resumed.head().await.status(), 200);
    assert_eq!(resumed.next_event().await.data(), "two");
    let id = turn.end().await;
    assert_eq!(holdover.state_is(&id, "completed").await["route"], "before");
    let mut short = holdover.connect().await;
    short.request("POST", "/chat", &[], "short").await;
    let next = Turn::opened(short, &backend).await;
    assert_eq!(holdover.status(&next.id).await["route"], "after");
}

#[tokio::test]
async fn a_reload_of_nonsense_keeps_what_was_and_says_why() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[[route]]\nname = \"before\"\n").start().await;
    holdover.rewrite("[[route]]\nname = \"after\"\nmax_tunr = \"1s\"\n[listen]\nwrite_timeout = 5\n");
    holdover.signal("HUP");
    let line = holdover.logged("the configuration was not reloaded").await;
    assert_eq!(line["level"], "ERROR");
    let said = line["message"].as_str().unwrap();
    for problem in ["max_tunr", "write_timeout"] {
        assert!(said.contains(problem), "all problems at once: {said}");
    }
    let turn = Turn::start(&holdover, &backend).await;
    assert_eq!(holdover.status(&turn.id).await["route"], "before");
}

#[tokio::test]
async fn a_killed_node_breaks_its_clients_and_a_new_one_knows_nothing() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (ended, _) = holdover.ended_turn(&backend, 1).await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.events(2).await;
    holdover.kill9().await;
    assert_eq!(turn.client.rest().await.1, Ending::Broken, "nobody takes this for a whole answer");
    turn.upstream.aborted().await;
    let reborn = Holdover::start(&backend).await;
    for id in [ended, turn.id] {
        let cursor = format!("{id}-1");
        for (method, status) in [("GET", 204), ("POST", 404)] {
            let mut resumed = reborn.resume(method, "/chat", &cursor).await;
            assert_eq!(resumed.head().await.status(), status, "{method}");
        }
        let status = reborn.request("GET", &format!("/.holdover/turns/{id}")).send().await.unwrap();
        assert_eq!(status.status(), 404);
    }
    assert_eq!(backend.requests().len(), 2, "nothing was run again");
    reborn.ended_turn(&backend, 1).await;
}

#[tokio::test]
async fn the_log_tells_of_turns_and_keeps_secrets() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut client = holdover.connect().await;
    let headers = [("Authorization", "Bearer s3cr3t-token"), ("Cookie", "sid=s3cr3t-cookie")];
    client.request("POST", "/chat?token=s3cr3t-query", &headers, "s3cr3t-body").await;
    let mut turn = Turn::opened(client, &backend).await;
    turn.event("s3cr3t-event").await;
    let mut resumed = holdover.connect().await;
    let cursor = turn.id_of(0);
    resumed.request("GET", "/chat", &[headers[0], ("Last-Event-ID", &cursor)], "").await;
    resumed.head().await;
    assert_eq!(resumed.next_event().await.data(), "s3cr3t-event");
    let id = turn.end().await;
    assert!(resumed.rest().await.1.is_clean());
    let ended = holdover.logged("turn ended").await;
    assert_eq!((&ended["outcome"], &ended["events"]), (&"completed".into(), &1.into()));
    let asked = holdover.http().get(holdover.url(&format!("/.holdover/turns/{id}/stream?after=0"))).send().await;
    assert_eq!(asked.unwrap().status(), 404, "it has an owner");
    let logged = || async { (holdover.logs().matches("\"request\"").count() >= 3).then_some(()) };
    eventually("the requests to be logged", logged).await;
    let log = holdover.logs();
    for secret in ["s3cr3t", id.as_str()] {
        assert!(!log.contains(secret), "{secret} is in the log");
    }
}
