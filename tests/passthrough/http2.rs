//! HTTP/2 clients, with prior knowledge.

use super::{BOTH, PLAIN, mirror};
use crate::support::{
    Backend, Holdover,
    h2c::{H2c, LastFrame},
};

#[tokio::test]
async fn requests_and_answers_pass() {
    let backend = Backend::answering(mirror).await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    let mut client = H2c::connect(holdover.addr()).await;
    for path in BOTH {
        for (method, body, last) in [
            ("GET", &[][..], LastFrame::Full),
            ("POST", &["hello"], LastFrame::Full),
            ("POST", &["hel", "lo"], LastFrame::Empty),
            ("PUT", &[], LastFrame::Full),
        ] {
            let mut answer = client.request(method, &format!("{path}?q=1"), &[("x-a", "1")], body, last).await;
            assert_eq!(answer.head.status, 200, "{method} {path} {last:?}");
            let seen = String::from_utf8(answer.body().await.to_vec()).unwrap();
            assert!(seen.starts_with(&format!("{method} {path}?q=1 HTTP/1.1\n")), "{seen}");
            assert!(seen.to_ascii_lowercase().contains("\nhost: chat.test\n"), "{seen}");
            assert!(seen.contains("\nx-a: 1\n"), "{seen}");
            assert!(seen.ends_with(&format!("\n\n{}", body.concat())) || body.is_empty(), "{method} {path}: {seen}");
        }
    }
}

#[tokio::test]
async fn a_turn_is_recorded_and_resumed() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut client = H2c::connect(holdover.addr()).await;
    let start = async {
        let mut answer = client.request("POST", "/chat", &[], &["{}"], LastFrame::Full).await;
        assert_eq!(answer.get("transfer-encoding"), None);
        let id = answer.get("holdover-turn").expect("it is recorded").to_owned();
        let first = answer.piece().await.unwrap().unwrap();
        assert_eq!(first, format!("data: one\nretry: 1000\nid: {id}-1\n\n"));
        (answer, id)
    };
    let serve = async {
        let mut exchange = backend.next().await;
        assert_eq!(exchange.body().await.unwrap(), "{}");
        exchange.stream().await;
        exchange.event("one").await;
        exchange
    };
    let ((mut answer, id), mut exchange) = tokio::join!(start, serve);
    exchange.event("two").await;
    assert_eq!(answer.piece().await.unwrap().unwrap(), format!("data: two\nid: {id}-2\n\n"));
    let cursor = format!("{id}-1");
    let mut resumed = client.request("GET", "/chat", &[("last-event-id", &cursor)], &[], LastFrame::Full).await;
    assert_eq!((resumed.head.status.as_u16(), resumed.get("holdover-from")), (200, Some("1")));
    exchange.end().await;
    assert_eq!(resumed.body().await, format!("data: two\nretry: 1000\nid: {id}-2\n\n"));
    assert_eq!(answer.body().await, "");
    let last = format!("{id}-2");
    let mut nothing = client.request("GET", "/chat", &[("last-event-id", &last)], &[], LastFrame::Full).await;
    assert_eq!(nothing.head.status, 204);
    assert_eq!(nothing.body().await, "");
    assert_eq!(backend.requests().len(), 1);
}

/// cloudflare/pingora#935: an upload whose length is not known ends with an empty frame, which was written upstream as a
/// second last chunk. The next request on that connection met the rest of it.
#[tokio::test]
async fn an_upload_without_length_leaves_the_upstream_connection_clean() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        let mut client = H2c::connect(holdover.addr()).await;
        let mut connections = Vec::new();
        for round in 0..6 {
            let upload = client.request("POST", path, &[], &["one ", "two"], LastFrame::Empty);
            let serve = async {
                let mut exchange = backend.next().await;
                assert_eq!(exchange.request.get("transfer-encoding"), Some("chunked"), "{path}, round {round}");
                assert_eq!(exchange.body().await.expect("the body is whole"), "one two", "{path}, round {round}");
                connections.push(exchange.connection);
                exchange.answer("200 OK", "", "got it").await;
            };
            let (mut answer, ()) = tokio::join!(upload, serve);
            assert_eq!(answer.head.status, 200, "{path}, round {round}");
            assert_eq!(answer.body().await, "got it");
        }
        let used_again = connections.windows(2).any(|pair| pair[0] == pair[1]);
        assert!(used_again, "{path}: no connection was used twice, so nothing was shown: {connections:?}");
    }
}

#[tokio::test]
async fn a_broken_turn_ends_in_a_reset_and_the_connection_goes_on() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut client = H2c::connect(holdover.addr()).await;
    let start = client.request("POST", "/chat", &[], &["{}"], LastFrame::Full);
    let serve = async {
        let mut exchange = backend.next().await;
        exchange.stream().await;
        exchange.event("one").await;
        exchange
    };
    let (mut answer, exchange) = tokio::join!(start, serve);
    assert!(answer.piece().await.unwrap().is_ok());
    exchange.reset();
    assert!(answer.piece().await.is_some_and(|piece| piece.is_err()), "a clean end would pass for a whole answer");
    let next = client.request("GET", "/chat", &[], &[], LastFrame::Full);
    let serve = async { backend.next().await.answer("200 OK", "", "next").await };
    let (mut next, ()) = tokio::join!(next, serve);
    assert_eq!(next.body().await, "next");
}
