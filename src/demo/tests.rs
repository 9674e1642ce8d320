//! The backend over real connections.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::watch,
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};

use super::{Backend, answer};

const DEADLINE: Duration = Duration::from_secs(10);

/// A backend that serves on a free port until dropped.
struct Server {
    url: String,
    client: Client,
    shutdown: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let backend = Backend::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let url = format!("http://{}", backend.address());
        let (shutdown, watch) = watch::channel(false);
        let task = tokio::spawn(backend.serve(watch));
        Self { url, client: Client::builder().no_proxy().build().unwrap(), shutdown, task }
    }

    async fn get(&self, path: &str) -> Response {
        self.client.get(format!("{}{path}", self.url)).send().await.unwrap()
    }

    async fn chat(&self, body: impl Into<String>) -> Response {
        self.client.post(format!("{}/api/chat", self.url)).body(body.into()).send().await.unwrap()
    }

    async fn stats(&self) -> Value {
        self.get("/api/stats").await.json().await.unwrap()
    }

    /// The counters once they are as `wanted`, or the last ones seen.
    async fn stats_when(&self, wanted: impl Fn(&Value) -> bool) -> Value {
        let end = Instant::now() + DEADLINE;
        loop {
            let stats = self.stats().await;
            if wanted(&stats) || Instant::now() > end {
                return stats;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }
}

fn message(chat: &str, pace: u64) -> String {
    json!({"id": chat, "message": "Plan a weekend in Lisbon.", "pace": pace}).to_string()
}

fn counts(stats: &Value) -> [u64; 3] {
    ["turns_started", "turns_finished", "turns_aborted"].map(|key| stats[key].as_u64().unwrap())
}

#[tokio::test]
async fn a_turn_streams_the_whole_answer_and_counts_as_finished() {
    let server = Server::start().await;
    for turn in 1..=2 {
        let response = server.chat(message("a", 0)).await;
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        assert_eq!(response.headers()["access-control-allow-origin"], "*");
        let expected: String = answer::events(turn).iter().map(|event| format!("data: {}\n\n", json!(event))).collect();
        assert_eq!(response.text().await.unwrap(), expected);
    }
    let stats = server.stats_when(|stats| stats["turns_finished"] == 2).await;
    assert_eq!(counts(&stats), [2, 2, 0]);
    assert_eq!(counts(&stats["chats"]["a"]), [2, 2, 0]);
    assert_eq!(stats["events_sent"], answer::events(1).len() + answer::events(2).len());
}

#[tokio::test]
async fn a_client_that_leaves_aborts_its_turn_while_the_agent_is_silent() {
    let server = Server::start().await;
    let mut body = server.chat(message("gone", 1000)).await.bytes_stream();
    timeout(DEADLINE, body.next()).await.unwrap().unwrap().unwrap();
    drop(body);
    let stats = server.stats_when(|stats| stats["turns_aborted"] == 1).await;
    assert_eq!(counts(&stats), [1, 0, 1]);
    assert_eq!(counts(&stats["chats"]["gone"]), [1, 0, 1]);
    // A backend that notices only by writing gets one more event into the socket before that fails.
    assert_eq!(stats["events_sent"], 1);
}

#[tokio::test]
async fn shutdown_drops_connections_and_aborts_turns() {
    let server = Server::start().await;
    let mut body = server.chat(message("drained", 50)).await.bytes_stream();
    timeout(DEADLINE, body.next()).await.unwrap().unwrap().unwrap();
    server.shutdown.send(true).unwrap();
    timeout(DEADLINE, server.task).await.unwrap().unwrap();
    let rest = timeout(DEADLINE, async {
        while let Some(piece) = body.next().await {
            piece?;
        }
        Ok::<_, reqwest::Error>(())
    });
    assert!(rest.await.unwrap().is_err(), "a cut answer must not look like a whole one");
    assert!(server.client.get(&server.url).send().await.is_err());
}

#[tokio::test]
async fn bad_input_is_refused_with_a_reason_and_starts_no_turn() {
    let server = Server::start().await;
    let long = "x".repeat(5000);
    for (body, status, reason) in [
        ("not json".to_owned(), 400, "must be JSON"),
        (String::new(), 400, "must be JSON"),
        (json!({"id": "a"}).to_string(), 400, "missing field `message`"),
        (json!({"id": "", "message": "hello"}).to_string(), 400, "\"id\""),
        (json!({"id": "a", "message": " "}).to_string(), 400, "\"message\""),
        (json!({"id": "a", "message": long}).to_string(), 400, "\"message\""),
        (json!({"id": "a", "message": "hello", "pace": 1001}).to_string(), 400, "\"pace\""),
        ("x".repeat(65 * 1024), 413, "longer than 65536 bytes"),
    ] {
        let response = server.chat(body).await;
        assert_eq!(response.status(), status);
        let error: Value = response.json().await.unwrap();
        let text = error["error"].as_str().unwrap();
        assert!(text.contains(reason), "{text:?} does not say {reason:?}");
    }
    assert_eq!(counts(&server.stats().await), [0, 0, 0]);
    assert_eq!(server.chat(message("a", 0)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn paths_and_methods_are_kept_apart() {
    let server = Server::start().await;
    assert_eq!(server.get("/nothing").await.status(), StatusCode::NOT_FOUND);
    for (method, path, allow) in [(Method::GET, "/api/chat", "POST, OPTIONS"), (Method::PUT, "/", "GET, HEAD, OPTIONS")]
    {
        let response = server.client.request(method, format!("{}{path}", server.url)).send().await.unwrap();
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(response.headers()["allow"], allow);
    }
    let preflight = server.client.request(Method::OPTIONS, format!("{}/api/chat", server.url));
    let preflight = preflight.header("origin", "http://elsewhere.example").send().await.unwrap();
    assert_eq!(preflight.status(), StatusCode::NO_CONTENT);
    assert_eq!(preflight.headers()["access-control-allow-headers"], "content-type");
}

#[tokio::test]
async fn the_page_and_its_parts_are_served() {
    let server = Server::start().await;
    let page = server.get("/").await;
    assert!(page.headers()["content-security-policy"].to_str().unwrap().starts_with("default-src 'self'"));
    let html = page.text().await.unwrap();
    for (path, kind) in [
        ("/page.js", "text/javascript"),
        ("/pane.js", "text/javascript"),
        ("/stream.js", "text/javascript"),
        ("/view.js", "text/javascript"),
        ("/chat.js", "text/javascript"),
        ("/page.css", "text/css"),
        ("/icon.svg", "image/svg+xml"),
    ] {
        let response = server.get(path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with(kind), "{path}");
    }
    // The policy would block them in the browser, where no test of this crate looks.
    assert!(!html.contains("style=") && !html.contains(" on"), "inline style or handler in the page");
    assert_eq!(server.get("/api/where").await.json::<Value>().await.unwrap(), json!({"direct": server.url}));
    let head = server.client.head(&server.url).send().await.unwrap();
    assert_eq!(head.headers()["content-length"], html.len().to_string().as_str());
}

#[tokio::test]
async fn a_connection_carries_requests_one_after_another() {
    let server = Server::start().await;
    let mut connection = TcpStream::connect(server.url.strip_prefix("http://").unwrap()).await.unwrap();
    let body = message("kept", 0);
    for _ in 0..2 {
        let request = format!("POST /api/chat HTTP/1.1\r\nHost: demo\r\nContent-Length: {}\r\n\r\n{body}", body.len());
        connection.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n0\r\n\r\n") {
            let read = timeout(DEADLINE, connection.read_buf(&mut answer)).await.unwrap().unwrap();
            assert_ne!(read, 0, "closed after {}", String::from_utf8_lossy(&answer));
        }
        assert!(answer.starts_with(b"HTTP/1.1 200"));
    }
    assert_eq!(counts(&server.stats_when(|stats| stats["turns_finished"] == 2).await), [2, 2, 0]);
}
