//! What is written down of a busy run.

use serde_json::Value;

use crate::support::{Backend, Client, DEADLINE, Ending, Holdover, Redis, Turn, eventually};

/// A request full of what must not be written down.
const HEADERS: [(&str, &str); 5] = [
    ("Authorization", "Bearer canary-token"),
    ("Cookie", "sid=canary-cookie"),
    ("X-Secret", "canary-header"),
    ("X-Session", "canary-session"),
    ("Idempotency-Key", "canary-key"),
];

/// A request to the node; whatever it answers is read to its end.
async fn ask(node: &Holdover, method: &str, target: &str, headers: &[(&str, &str)], body: &str) {
    let mut client: Client = node.connect().await;
    let headers: Vec<_> = headers.iter().copied().chain([("Connection", "close")]).collect();
    client.request(method, target, &headers, body).await;
    while client.raw().await.is_some() {}
}

async fn busy_run(level: &str) -> (String, Vec<String>) {
    let (backend, mut redis) = (Backend::start().await, Redis::start().await);
    let config = format!(
        "[store]\nkind = \"redis\"\nurl = \"{}\"\nlease = \"2s\"\n\
         username = \"default\"\npassword = \"canary-password\"\n\
         [identity]\nsecret = \"canary-identity-secret\"\n[drain]\nmax = \"1s\"\n\
         [[route]]\nname = \"chat\"\npath = \"/chat\"\nsession = \"header:x-session\"\nmax_request_body = \"1KiB\"\n",
        redis.url()
    );
    redis.command::<()>("CONFIG SET requirepass canary-password").await;
    let node = Holdover::before(&backend).config(config.as_str()).env("HOLDOVER__LOG__LEVEL", level).start().await;
    let mut ids = Vec::new();

    // A turn that is followed, resumed in every way, stopped; and one that breaks.
    let mut client = node.connect().await;
    client.request("POST", "/chat?key=canary-query", &HEADERS, "canary-body").await;
    let mut turn = Turn::opened(client, &backend).await;
    turn.upstream.chunk("id: canary-upstream-id\ndata: canary-event\n\n").await;
    turn.client.next_event().await;
    let mut client = node.connect().await;
    client.request("POST", "/chat?key=canary-query", &HEADERS[..1], "canary-second").await;
    let mut broken = Turn::opened(client, &backend).await;
    broken.event("canary-event").await;
    for method in ["GET", "DELETE"] {
        let own = [HEADERS[0]];
        ask(&node, method, &format!("/.holdover/turns/{}?after=canary-query", turn.id), &own, "").await;
        let foreign = [("Authorization", "Bearer canary-stranger"), ("Last-Event-ID", &*turn.id_of(0))];
        ask(&node, method, "/chat?key=canary-query", &foreign, "").await;
    }
    assert_eq!(turn.client.rest().await.1, Ending::Clean(vec![]));
    broken.upstream.reset();
    assert_eq!(broken.client.rest().await.1, Ending::Broken);
    ids.extend([turn.id.clone(), broken.id.clone()]);
    for id in &ids {
        ask(&node, "GET", &format!("/.holdover/turns/{id}/stream?last_event_id={id}-0"), &HEADERS[..1], "").await;
        ask(&node, "GET", &format!("/.holdover/sessions/canary-session/stream?after={id}-0"), &HEADERS[..1], "").await;
        ask(&node, "POST", "/chat", &[HEADERS[0], ("Last-Event-ID", &format!("{id}-1"))], "canary-body").await;
    }
    // What is refused, and what fails.
    ask(&node, "POST", "/chat?key=canary-query", &HEADERS, &"canary-body ".repeat(200)).await;
    ask(&node, "TRACE", "/chat?key=canary-query", &HEADERS, "").await;
    ask(&node, "GET", "/chat", &[("Authorization", "Bearer canary-1"), ("Authorization", "Bearer canary-2")], "").await;
    let mut client = node.connect().await;
    client.send("GET /chat?canary-query HTTP/1.1\r\nHost: h\r\ncanary-header : x\r\n\r\n").await;
    while client.raw().await.is_some() {}
    let mut client = node.connect().await;
    client.request("GET", "/plain?key=canary-query", &HEADERS, "").await;
    backend.next().await.reset();
    while client.raw().await.is_some() {}
    node.rewrite("[store]\npassword = \"canary-reloaded\"\npasswort = \"canary-reloaded\"\n[identity]\nsecret = [\"canary-reloaded\"]\n");
    node.signal("HUP");
    node.logged("not reloaded").await;
    // A turn without its store, and a backend that is away.
    let mut client = node.connect().await;
    client.request("POST", "/chat", &HEADERS[..4], "canary-third").await;
    let mut turn = Turn::opened(client, &backend).await;
    redis.kill9();
    turn.event("canary-event").await;
    eventually("the turn to be degraded", || async {
        (node.status_as(&turn.id, Some(HEADERS[0].1)).await["degraded"] == true).then_some(())
    })
    .await;
    ask(&node, "GET", &format!("/.holdover/turns/{}/stream", "a".repeat(28)), &HEADERS[..1], "").await;
    ids.push(turn.end().await);
    drop(backend);
    ask(&node, "POST", "/chat?key=canary-query", &HEADERS[..4], "canary-fourth").await;
    // The turn of the lost store is not over: the second signal ends it.
    node.signal("TERM");
    node.logged("draining").await;
    node.signal("TERM");
    node.wait_exit(DEADLINE).await;
    (node.logs(), ids)
}

#[tokio::test]
async fn nothing_of_what_passes_is_written_down() {
    for level in ["info,holdover=debug", "trace"] {
        let (logs, ids) = busy_run(level).await;
        let lines: Vec<Value> =
            logs.lines().map(|line| serde_json::from_str(line).expect("every line is JSON")).collect();
        assert!(lines.len() > 20, "{logs}");
        for line in &lines {
            assert!(
                line["timestamp"].is_string() && line["level"].is_string() && line["message"].is_string(),
                "{line}"
            );
        }
        for said in ["holdover is ready", "turn ended", "the store is behind", "the backend failed", "draining"] {
            assert!(logs.contains(said), "nothing was written about {said:?}");
        }
        for line in logs.lines() {
            assert!(!line.contains("canary"), "at {level}: {line}");
            assert!(!ids.iter().any(|id| line.contains(id.as_str())), "at {level}: {line}");
        }
    }
}
