//! Pages of other origins: what the backend allows them is allowed on everything that comes from the buffer too.

use super::code_of;
use crate::support::{Backend, Head, Holdover};

const ORIGIN: (&str, &str) = ("Origin", "https://app.test");

/// The backend's CORS headers on a turn.
const ALLOWED: &str = "Access-Control-Allow-Origin: https://app.test\r\nAccess-Control-Allow-Credentials: true\r\n\
                       Access-Control-Expose-Headers: X-Model, location\r\nVary: Origin\r\n";

fn assert_readable(head: &Head) {
    assert_eq!(head.all("access-control-allow-origin"), ["https://app.test"], "{head:?}");
    assert_eq!(head.all("access-control-allow-credentials"), ["true"], "{head:?}");
    assert!(head.lists("vary", "origin"), "{head:?}");
    for name in ["X-Model", "Location", "Holdover-Turn", "Holdover-Resume", "Holdover-From", "Holdover-Gap"] {
        assert!(head.lists("access-control-expose-headers", name), "{name} is not exposed: {head:?}");
    }
}

#[tokio::test]
async fn what_comes_from_the_buffer_is_readable_like_the_start() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut client = holdover.connect().await;
    client.request("POST", "/chat", &[ORIGIN], "{}").await;
    let mut upstream = backend.next().await;
    upstream.stream_with(ALLOWED).await;
    let head = client.head().await;
    assert_readable(&head);
    let id = head.get("holdover-turn").unwrap().to_owned();
    upstream.chunk("data: 1\n\ndata: 2\n\n").await;
    upstream.end().await;
    client.body().await;
    let (before, last) = (format!("{id}-1"), format!("{id}-2"));
    let (stream, ahead) = (format!("/.holdover/turns/{id}/stream"), format!("{id}-9"));
    for (method, target, cursor, status) in [
        ("GET", "/chat", &before, 200),
        ("GET", "/chat", &last, 204),
        ("POST", "/chat", &before, 200),
        ("POST", "/chat", &last, 200),
        ("GET", stream.as_str(), &before, 200),
        ("GET", stream.as_str(), &last, 204),
        ("GET", stream.as_str(), &ahead, 409),
        ("GET", &stream[..stream.len() - "/stream".len()], &last, 200),
    ] {
        let mut client = holdover.connect().await;
        client.request(method, target, &[ORIGIN, ("Last-Event-ID", cursor)], "").await;
        let head = client.head().await;
        assert_eq!(head.status(), status, "{method} {target} {cursor}");
        assert_readable(&head);
    }
}

#[tokio::test]
async fn a_preflight_lets_the_event_id_through_where_the_backend_allows_anything() {
    let backend = Backend::answering(|exchange| async move {
        let allowed = match exchange.request.target() {
            "/allowed" => {
                "Access-Control-Allow-Origin: https://app.test\r\nAccess-Control-Allow-Headers: content-type\r\n"
            }
            "/star" => "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: *\r\n",
            "/known" => "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: Last-Event-ID, x\r\n",
            "/silent" => "Access-Control-Allow-Origin: *\r\n",
            _ => "",
        };
        exchange.answer("204 No Content", allowed, "").await;
    })
    .await;
    let holdover = Holdover::start(&backend).await;
    for (path, wanted) in [
        ("/allowed", Some("content-type, last-event-id")),
        ("/star", Some("*, last-event-id")),
        ("/known", Some("Last-Event-ID, x")),
        ("/silent", Some("last-event-id")),
        ("/forbidden", None),
    ] {
        let mut client = holdover.connect().await;
        let asked =
            [ORIGIN, ("Access-Control-Request-Method", "POST"), ("Access-Control-Request-Headers", "last-event-id")];
        client.request("OPTIONS", path, &asked, "").await;
        let head = client.head().await;
        assert_eq!((head.status(), head.get("access-control-allow-headers")), (204, wanted), "{path}: {head:?}");
    }
    let mut client = holdover.connect().await;
    client.request("OPTIONS", "/allowed", &[ORIGIN], "").await;
    assert_eq!(client.head().await.get("access-control-allow-headers"), Some("content-type"), "this is no preflight");
}

#[tokio::test]
async fn a_preflight_of_holdovers_own_urls_never_asks_the_backend() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    for path in ["/.holdover/turns/aaaaaaaaaaaaaaaaaaaaaaaaaaaa", "/.holdover/sessions/x/stream", "/.holdover/nothing"]
    {
        let mut client = holdover.connect().await;
        let headers = "authorization, last-event-id";
        let asked = [ORIGIN, ("Access-Control-Request-Method", "DELETE"), ("Access-Control-Request-Headers", headers)];
        client.request("OPTIONS", path, &asked, "").await;
        let head = client.head().await;
        assert_eq!(head.status(), 204, "{path}");
        assert_eq!(head.get("access-control-allow-origin"), Some("https://app.test"));
        assert_eq!(head.get("access-control-allow-credentials"), Some("true"));
        assert_eq!(head.get("access-control-allow-headers"), Some(headers));
        assert!(["GET", "HEAD", "DELETE"].iter().all(|method| head.lists("access-control-allow-methods", method)));
        assert!(head.get("content-length").is_none(), "{head:?}");
    }
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn an_error_of_ours_is_readable_for_the_page_that_asked() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    for (method, path, status) in [
        ("GET", "/.holdover/turns/aaaaaaaaaaaaaaaaaaaaaaaaaaaa", 404),
        ("POST", "/chat", 404),
        ("GET", "/chat", 204),
        ("GET", "/.holdover/sessions/x/stream?wait=soon", 404),
    ] {
        let mut client = holdover.connect().await;
        client.request(method, path, &[ORIGIN, ("Last-Event-ID", "aaaaaaaaaaaaaaaaaaaaaaaaaaaa-1")], "").await;
        let head = client.head().await;
        assert_eq!(head.status(), status, "{method} {path}");
        assert_eq!(head.get("access-control-allow-origin"), Some("https://app.test"), "{method} {path}");
        if status == 404 {
            assert_eq!(code_of(&client.body().await), "unknown_turn");
        }
    }
    assert!(backend.requests().is_empty());
}
