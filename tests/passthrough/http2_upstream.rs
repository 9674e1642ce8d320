//! Backends that speak HTTP/2.

use http::{HeaderMap, HeaderValue};

use super::{BOTH, PLAIN};
use crate::support::{
    Client, Ending, Holdover, events,
    h2c::{H2c, LastFrame},
    h2c_backend::{H2cBackend, Stream},
    within,
};

async fn before(backend: &H2cBackend) -> Holdover {
    Holdover::setup().upstream(backend.address()).config(format!("[upstream]\nhttp2 = true\n{PLAIN}")).start().await
}

/// A turn whose head the client has.
async fn started(holdover: &Holdover, backend: &H2cBackend, body: &str) -> (String, Client, Stream) {
    let mut client = holdover.connect().await;
    client.request("POST", "/chat?q=1", &[("Connection", "x-hop"), ("X-Hop", "1"), ("X-End", "2")], body).await;
    let mut stream = backend.next().await;
    let request = &stream.request;
    assert_eq!(request.uri().path_and_query().unwrap(), "/chat?q=1");
    assert_eq!((request.headers().get("host"), request.headers().get("x-hop")), (None, None));
    assert_eq!(request.headers()["x-end"], "2");
    assert_eq!(request.headers()["accept-encoding"], "identity");
    assert_eq!(request.uri().authority().expect("HTTP/2 has a host"), "chat.test");
    assert_eq!(stream.body().await, body);
    stream.head("text/event-stream");
    let head = client.head().await;
    assert_eq!(head.status(), 200);
    (head.get("holdover-turn").expect("it is recorded").to_owned(), client, stream)
}

#[tokio::test]
async fn turns_share_a_connection_and_are_recorded() {
    let backend = H2cBackend::start().await;
    let holdover = before(&backend).await;
    let (first, mut one, mut upstream) = started(&holdover, &backend, "first").await;
    let (second, mut two, mut other) = started(&holdover, &backend, "second").await;
    for round in ["a", "b"] {
        upstream.send(format!("data: {round}\n\n"));
        other.send(format!("data: {round}{round}\n\n"));
        assert_eq!(one.next_event().await.data(), round);
        assert_eq!(two.next_event().await.data(), format!("{round}{round}"));
    }
    upstream.end();
    assert!(one.rest().await.1.is_clean());
    other.send("data: last\n\n");
    other.end();
    let (rest, ending) = two.rest().await;
    assert!(ending.is_clean());
    assert_eq!(events(&rest)[0].data(), "last");
    for (id, last) in [(first, 2), (second, 3)] {
        assert_eq!(holdover.state_is(&id, "completed").await["last_seq"], last);
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_stop_resets_the_stream_and_not_the_connection() {
    let backend = H2cBackend::start().await;
    let holdover = before(&backend).await;
    for round in ["one", "two"] {
        let (id, mut client, mut upstream) = started(&holdover, &backend, round).await;
        upstream.send("data: x\n\n");
        client.next_event().await;
        let mut stop = holdover.connect().await;
        stop.request("DELETE", &format!("/.holdover/turns/{id}"), &[], "").await;
        assert_eq!(stop.head().await.status(), 200);
        assert_eq!(upstream.aborted().await, h2::Reason::CANCEL);
        assert_eq!(client.rest().await.1, Ending::Broken);
    }
    assert_eq!(backend.connections(), 1);
}

#[tokio::test]
async fn a_stream_that_breaks_is_no_clean_end() {
    let backend = H2cBackend::start().await;
    let holdover = before(&backend).await;
    let (id, mut client, mut upstream) = started(&holdover, &backend, "broken").await;
    upstream.send("data: x\n\ndata: hal");
    client.next_event().await;
    upstream.reset();
    assert_eq!(client.rest().await.1, Ending::Broken);
    assert_eq!(holdover.state_is(&id, "failed").await["last_seq"], 1);
}

#[tokio::test]
async fn other_answers_pass_with_their_trailers() {
    let backend = H2cBackend::start().await;
    let holdover = before(&backend).await;
    for path in BOTH {
        let mut client = H2c::connect(holdover.addr()).await;
        let asked = client.request("POST", path, &[], &["up", "load"], LastFrame::Empty);
        let serve = async {
            let mut stream = backend.next().await;
            assert_eq!(stream.body().await, "upload", "{path}");
            stream.head("text/plain");
            stream.send("down");
            stream.send("load");
            stream.end_with(HeaderMap::from_iter([("x-sum".parse().unwrap(), HeaderValue::from_static("1"))]));
        };
        let (mut answer, ()) =
            within(crate::support::DEADLINE, "an answer", async { tokio::join!(asked, serve) }).await;
        assert_eq!((answer.head.status.as_u16(), answer.get("transfer-encoding")), (200, None));
        assert_eq!(answer.body().await, "download", "{path}");
        assert_eq!(answer.trailers().await.expect("they pass")["x-sum"], "1", "{path}");
        // An HTTP/1 client gets the body.
        let mut client = holdover.connect().await;
        client.request("GET", path, &[], "").await;
        let mut stream = backend.next().await;
        stream.head("text/plain");
        stream.send("plain");
        stream.end();
        assert_eq!(client.head().await.status(), 200);
        assert_eq!(client.body().await, "plain");
    }
}
