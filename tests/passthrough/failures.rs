//! Backends that are away, slow, or break off.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::net::TcpListener;

use super::{BOTH, PLAIN};
use crate::support::{Backend, Client, Ending, Holdover};

/// An address where nobody listens.
async fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    listener.local_addr().expect("it is bound")
}

/// Reads an error answer of ours; gives its code.
async fn problem(client: &mut Client, status: u16) -> String {
    let head = client.head().await;
    assert_eq!((head.status(), head.get("content-type")), (status, Some("application/json")), "{head:?}");
    assert_eq!(head.get("cache-control"), Some("no-store"));
    let body: Value = serde_json::from_slice(&client.body().await).expect("it is JSON");
    assert!(body["error"]["message"].as_str().is_some_and(|message| message.len() > 10), "{body}");
    body["error"]["code"].as_str().expect("it has a code").to_owned()
}

#[tokio::test]
async fn a_backend_that_is_away_is_a_502() {
    let holdover = Holdover::setup().upstream(nobody().await).config(PLAIN).start().await;
    for path in BOTH {
        for method in ["GET", "POST"] {
            let mut client = holdover.connect().await;
            client.request(method, path, &[], "").await;
            assert_eq!(problem(&mut client, 502).await, "upstream_failed", "{method} {path}");
        }
    }
    assert_eq!(holdover.metric("holdover_turns_started_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_backend_that_breaks_before_its_head_is_a_502() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        for half in ["", "HTTP/1.1 200 OK\r\nContent-Type: text/ev"] {
            let mut client = holdover.connect().await;
            client.request("POST", path, &[], "once").await;
            let mut exchange = backend.next().await;
            exchange.body().await;
            exchange.send(half).await;
            exchange.close().await;
            assert_eq!(problem(&mut client, 502).await, "upstream_failed", "{path}, after {half:?}");
        }
    }
    assert_eq!(backend.requests().len(), 4, "a POST is never sent twice");
}

#[tokio::test]
async fn a_backend_that_answers_nonsense_is_a_502() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        let mut client = holdover.connect().await;
        client.request("POST", path, &[], "").await;
        let mut exchange = backend.next().await;
        exchange.send("SSH-2.0-OpenSSH_9.2\r\n\r\n").await;
        assert_eq!(problem(&mut client, 502).await, "upstream_failed", "{path}");
    }
}

#[tokio::test]
async fn a_backend_that_does_not_answer_in_time_is_a_504() {
    is_a_504("/chat", "").await;
}

#[tokio::test]
async fn off_recorded_routes_head_and_body_have_one_clock() {
    is_a_504("/plain", "read_timeout = \"300ms\"").await;
}

async fn is_a_504(path: &str, more: &str) {
    let backend = Backend::start().await;
    let config = format!("[upstream]\nresponse_header_timeout = \"300ms\"\n{more}\n{PLAIN}");
    let holdover = Holdover::before(&backend).config(config).start().await;
    for method in ["GET", "POST"] {
        let mut client = holdover.connect().await;
        client.request(method, path, &[], "").await;
        let mut exchange = backend.next().await;
        exchange.body().await;
        assert_eq!(problem(&mut client, 504).await, "upstream_timeout", "{method} {path}");
        exchange.aborted().await;
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_not_passed_on_as_whole() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        for method in ["GET", "POST"] {
            for head in ["Transfer-Encoding: chunked\r\n", "Content-Length: 100\r\n"] {
                let mut client = holdover.connect().await;
                client.request(method, path, &[], "").await;
                let mut exchange = backend.next().await;
                exchange.body().await;
                exchange.head(format!("HTTP/1.1 200 OK\r\n{head}")).await;
                exchange.chunk("half").await;
                assert_eq!(client.head().await.status(), 200);
                assert_eq!(client.until("half").await, "half");
                exchange.close().await;
                assert_eq!(client.rest().await.1, Ending::Broken, "{method} {path} {head}");
            }
        }
    }
}

#[tokio::test]
async fn one_dead_backend_of_several_is_not_noticed() {
    let backend = Backend::streaming("data: x\n\n").await;
    let holdover = Holdover::setup()
        .upstream(nobody().await)
        .upstream(backend.address())
        .config(format!("[upstream]\nhealth_check_interval = \"off\"\n{PLAIN}"))
        .start()
        .await;
    for round in 0..6 {
        for path in BOTH {
            let mut client = holdover.connect().await;
            client.request("POST", path, &[], format!("{round}")).await;
            assert_eq!(client.head().await.status(), 200, "{path}, round {round}");
            client.body().await;
        }
    }
    assert_eq!(backend.requests().len(), 12, "each request reached the backend once");
}

#[tokio::test]
async fn readiness_names_the_backend_that_is_away() {
    let backend = Backend::streaming("data: x\n\n").await;
    let dead = nobody().await;
    let config = "[upstream]\nhealth_check_interval = \"100ms\"\n";
    let holdover = Holdover::setup().upstream(dead).upstream(backend.address()).config(config).start().await;
    let checked = || async {
        let (status, ready) = holdover.ready().await;
        let backends = ready["checks"]["upstream"]["backends"].as_array().expect("a list").clone();
        let of = |address: SocketAddr| {
            let found =
                backends.iter().find(|one| one["backend"].as_str().unwrap_or_default().contains(&address.to_string()));
            found.expect("each backend is listed")["ok"].as_bool().expect("it is said")
        };
        (status == 200 && !of(dead) && of(backend.address())).then_some(())
    };
    crate::support::eventually("the dead backend to be found", checked).await;
    let alone = Holdover::setup().upstream(dead).config(config).start().await;
    let unready = || async { (alone.ready().await.0 == 503).then_some(()) };
    crate::support::eventually("a node without backends not to be ready", unready).await;
}

/// A pooled connection that its backend has closed is noticed before a request is lost on it.
#[tokio::test]
async fn a_connection_that_was_closed_while_idle_loses_no_request() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        let mut client = holdover.connect().await;
        for round in 0..5 {
            client.request("POST", path, &[], format!("{round}")).await;
            let mut exchange = backend.next().await;
            exchange.body().await;
            // A whole answer, and then the connection is closed without a word.
            exchange.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            let closed = exchange.close();
            client.head_within(Duration::from_secs(5)).await;
            assert_eq!(client.body().await, "ok", "{path}, round {round}");
            closed.await;
        }
    }
    assert_eq!(backend.requests().len(), 10);
}

/// Of a connection that had been idle nobody knows whether the backend has seen the request. One that changes nothing is sent
/// again, and no other.
#[tokio::test]
async fn what_an_idle_connection_lost_is_sent_again_if_it_changes_nothing() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        for (method, again) in [("GET", true), ("POST", false)] {
            let mut client = holdover.connect().await;
            let mut seen = Vec::new();
            // A request may come before the connection of the one before it is back in the pool.
            let lost = loop {
                assert!(seen.len() < 100, "no connection was used twice: {seen:?}");
                client.request(method, path, &[], "").await;
                let mut exchange = backend.next().await;
                exchange.body().await;
                if seen.contains(&exchange.connection) {
                    break exchange;
                }
                seen.push(exchange.connection);
                exchange.answer("200 OK", "", "first").await;
                assert_eq!(client.head().await.status(), 200);
                client.body().await;
            };
            let before = backend.requests().len();
            lost.close().await;
            if again {
                backend.next().await.answer("200 OK", "", "again").await;
                assert_eq!(client.head().await.status(), 200, "{method} {path}");
                assert_eq!(client.body().await, "again");
            } else {
                assert_eq!(problem(&mut client, 502).await, "upstream_failed", "{method} {path}");
                assert_eq!(backend.requests().len(), before, "{method} {path}");
            }
        }
    }
}
