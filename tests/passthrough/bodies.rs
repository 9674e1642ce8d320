//! Bodies: large ones, streamed ones, both ways at once, and how their ends are told.

use bytes::Bytes;

use super::{BOTH, PLAIN};
use crate::support::{Backend, Client, Ending, Holdover, Piece, Turn};

const LARGE: usize = 30_000_000;

/// Bytes that do not repeat in steps of any buffer.
fn large() -> Bytes {
    (0..LARGE as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

#[tokio::test]
async fn thirty_megabytes_go_up() {
    let backend = Backend::answering(|mut exchange| async move {
        let Some(body) = exchange.body().await else { return };
        let same = if body == large() { "same" } else { "different" };
        exchange.answer("200 OK", "", same).await;
    })
    .await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    let body = large();
    for path in BOTH {
        let mut client = holdover.connect().await;
        client.request("POST", path, &[], &body).await;
        assert_eq!(client.head().await.status(), 200, "{path} with a length");
        assert_eq!(client.body().await, "same", "{path} with a length");
        client.send_head("POST", path, &[("Transfer-Encoding", "chunked")]).await;
        for chunk in body.chunks(1_000_003) {
            client.send(format!("{:X}\r\n", chunk.len())).await;
            client.send(chunk).await;
            client.send("\r\n").await;
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(client.head().await.status(), 200, "{path} in chunks");
        assert_eq!(client.body().await, "same", "{path} in chunks");
    }
}

#[tokio::test]
async fn thirty_megabytes_come_down() {
    let backend = Backend::answering(|mut exchange| async move {
        exchange.body().await;
        let body = large();
        if exchange.request.target().ends_with("length") {
            exchange.answer("200 OK", "", body).await;
            return;
        }
        exchange.head("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n").await;
        for chunk in body.chunks(1_000_003) {
            exchange.chunk(chunk).await;
        }
        exchange.end().await;
    })
    .await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    let body = large();
    for path in BOTH {
        let mut client = holdover.connect().await;
        for (method, how) in [("GET", "length"), ("GET", "chunks"), ("POST", "length"), ("POST", "chunks")] {
            client.request(method, &format!("{path}/{how}"), &[], "").await;
            client.head().await;
            assert!(client.body().await == body, "{method} {path} {how}");
        }
    }
}

/// Neither side waits for the other to finish.
#[tokio::test]
async fn a_request_body_streams_while_its_answer_does() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        let mut client = holdover.connect().await;
        client.send_head("POST", path, &[("Transfer-Encoding", "chunked")]).await;
        let mut exchange = backend.next().await;
        exchange.head("HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n").await;
        assert_eq!(client.head().await.status(), 200);
        for round in ["one", "two", "three"] {
            client.send(format!("{:x}\r\n{round}\r\n", round.len())).await;
            assert_eq!(exchange.piece().await, Piece::Data(round.into()), "{path}");
            exchange.chunk(format!("{round}!")).await;
            assert_eq!(client.until("!").await, format!("{round}!"), "{path}");
        }
        client.send("0\r\n\r\n").await;
        assert_eq!(exchange.piece().await, Piece::End(Ending::Clean(vec![])), "{path}");
        exchange.end().await;
        assert_eq!(client.body().await, "", "{path}");
    }
}

/// A backend may begin its stream before it has read the whole request.
#[tokio::test]
async fn a_turn_gets_the_rest_of_its_request() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut client = holdover.connect().await;
    client.send_head("POST", "/chat", &[("Transfer-Encoding", "chunked")]).await;
    client.send("3\r\none\r\n").await;
    let mut turn = Turn::opened(client, &backend).await;
    turn.event("begun").await;
    turn.client.send("3\r\ntwo\r\n0\r\n\r\n").await;
    assert_eq!(turn.upstream.body().await.expect("the body is whole"), "onetwo");
    turn.event("done").await;
    turn.end().await;
}

#[tokio::test]
async fn who_asks_whether_to_send_the_body_is_told() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        for chunked in [false, true] {
            let mut client = holdover.connect().await;
            let framing = if chunked { ("Transfer-Encoding", "chunked") } else { ("Content-Length", "5") };
            client.send_head("POST", path, &[framing, ("Expect", "100-continue")]).await;
            let what = format!("{path}, chunked: {chunked}");
            // The backend may be the one who says so; this one does as soon as it has the head.
            let told = async {
                let head = client.any_head().await;
                assert_eq!(head.status(), 100, "{what}");
                client.send(if chunked { "5\r\nhello\r\n0\r\n\r\n" } else { "hello" }).await;
            };
            let served = async {
                let mut exchange = backend.next().await;
                if exchange.request.get("expect").is_some() {
                    exchange.send("HTTP/1.1 100 Continue\r\n\r\n").await;
                }
                assert_eq!(exchange.body().await.expect("the body is whole"), "hello", "{what}");
                exchange.answer("200 OK", "", "thanks").await;
            };
            tokio::join!(told, served);
            assert_eq!(client.head().await.status(), 200, "{what}");
            assert_eq!(client.body().await, "thanks", "{what}");
        }
    }
}

/// Pingora reads trailers and drops them, which HTTP allows (RFC 9110 §6.5.1). The body is whole all the same.
#[tokio::test]
async fn trailers_are_dropped_and_the_body_is_whole() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        let mut client = holdover.connect().await;
        client.request("GET", path, &[], "").await;
        let mut exchange = backend.next().await;
        exchange.head("HTTP/1.1 200 OK\r\nTrailer: X-Sum\r\nTransfer-Encoding: chunked\r\n").await;
        exchange.chunk("body").await;
        exchange.end_with("X-Sum: 1\r\n").await;
        client.head().await;
        assert_eq!(client.rest().await, ("body".into(), Ending::Clean(vec![])), "{path}");
        client.request("GET", path, &[], "").await;
        backend.next().await.answer("200 OK", "", "next").await;
        client.head().await;
        assert_eq!(client.body().await, "next", "{path}: the connection goes on");
    }
}

#[tokio::test]
async fn the_end_of_an_event_stream_is_told_in_any_way() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let stream = "data: one\n\ndata: two\n\n";
    let head = "HTTP/1.1 200 OK\r\nContent-Type: Text/Event-Stream; charset=utf-8\r\n";
    for (framing, body) in [
        (format!("Content-Length: {}\r\n", stream.len()), stream.to_owned()),
        ("Connection: close\r\n".to_owned(), stream.to_owned()),
        ("Transfer-Encoding: chunked\r\n".to_owned(), format!("{:x}\r\n{stream}\r\n0\r\n\r\n", stream.len())),
    ] {
        let mut client = holdover.connect().await;
        client.request("POST", "/chat", &[], &framing).await;
        let mut exchange = backend.next().await;
        exchange.send(format!("{head}{framing}\r\n{body}")).await;
        exchange.close().await;
        let head = client.head().await;
        let id = head.get("holdover-turn").expect("it is recorded").to_owned();
        assert_eq!(client.next_events(2).await[1].place(), (id.as_str(), 2), "{framing}");
        assert!(client.rest().await.1.is_clean(), "{framing}");
        assert_eq!(holdover.state_is(&id, "completed").await["last_seq"], 2, "{framing}");
    }
}

#[tokio::test]
async fn an_answer_that_is_no_turn_ends_with_its_client() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        for (method, reset) in [("GET", false), ("POST", false), ("POST", true)] {
            let mut client = holdover.connect().await;
            client.request(method, path, &[], "").await;
            let mut exchange = backend.next().await;
            exchange.head("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nTransfer-Encoding: chunked\r\n").await;
            exchange.chunk("half").await;
            client.head().await;
            assert_eq!(client.until("half").await, "half");
            if reset {
                client.reset();
            } else {
                drop(client);
            }
            exchange.aborted().await;
        }
    }
    assert_eq!(holdover.metric("holdover_turns_started_total", &[]).await, 0.0);
}

#[tokio::test]
async fn a_request_that_breaks_off_does_not_pass_for_a_whole_one() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(PLAIN).start().await;
    for path in BOTH {
        for (framing, half) in
            [(("Transfer-Encoding", "chunked"), "5\r\nhello\r\n"), (("Content-Length", "2000000"), "hello")]
        {
            let mut client: Client = holdover.connect().await;
            client.send_head("POST", path, &[framing]).await;
            client.send(half).await;
            let mut exchange = backend.next().await;
            assert_eq!(exchange.piece().await, Piece::Data("hello".into()), "{path}");
            drop(client);
            assert_eq!(exchange.piece().await, Piece::End(Ending::Broken), "{path} {framing:?}");
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_silent_too_long_is_cut() {
    let backend = Backend::start().await;
    let config = format!("{PLAIN}\n[upstream]\nread_timeout = \"300ms\"\nresponse_header_timeout = \"300ms\"\n");
    let holdover = Holdover::before(&backend).config(config).start().await;
    for path in BOTH {
        let mut client = holdover.connect().await;
        client.request("POST", path, &[], "{}").await;
        let mut exchange = backend.next().await;
        exchange.head("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n").await;
        exchange.chunk("half").await;
        assert_eq!(client.head().await.status(), 200, "{path}");
        assert!(!client.rest().await.1.is_clean(), "{path}");
    }
}
