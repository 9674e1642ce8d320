//! What somebody without identity, or a page of another origin, cannot get at.

use super::code_of;
use crate::support::{Backend, Holdover, Turn, fresh_body};

const CHAT: (&str, &str) = ("X-Chat", "c1");
const ORIGIN: (&str, &str) = ("Origin", "https://other.test");

#[tokio::test]
async fn who_guesses_a_session_is_given_no_key_to_its_turn() {
    let backend = Backend::start().await;
    for concurrent in ["reject", "attach", "supersede"] {
        let config = format!("[[route]]\nsession = \"header:x-chat\"\nconcurrent = \"{concurrent}\"\n");
        let holdover = Holdover::before(&backend).config(config).start().await;
        let mut turn = Turn::start_with(&holdover, &backend, &[CHAT]).await;
        turn.event("one").await;
        let mut stranger = holdover.connect().await;
        stranger.request("POST", "/chat", &[CHAT], fresh_body()).await;
        let head = stranger.head().await;
        assert_eq!((head.status(), head.get("holdover-turn")), (409, None), "{concurrent}");
        let body = stranger.body().await;
        assert_eq!(code_of(&body), "session_busy");
        assert!(!String::from_utf8_lossy(&body).contains(&turn.id), "{concurrent}: {body:?}");
        turn.event("two").await;
        turn.end().await;
    }
}

/// A cookie may be who asks, although it is not configured to be.
#[tokio::test]
async fn equal_requests_with_other_cookies_are_no_retries_of_each_other() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let body = fresh_body();
    let mut turn = Turn::opened(
        {
            let mut client = holdover.connect().await;
            client.request("POST", "/chat", &[("Cookie", "sid=alice")], &body).await;
            client
        },
        &backend,
    )
    .await;
    turn.event("for alice").await;
    let retry = ("X-Stainless-Retry-Count", "1");
    let mut alice = holdover.connect().await;
    alice.request("POST", "/chat", &[("Cookie", "sid=alice"), retry], &body).await;
    assert_eq!(alice.head().await.get("holdover-turn"), Some(turn.id.as_str()));
    let mut bob = holdover.connect().await;
    bob.request("POST", "/chat", &[("Cookie", "sid=bob"), retry], &body).await;
    let mut other = Turn::opened(bob, &backend).await;
    assert_ne!(other.id, turn.id);
    other.event("for bob").await;
    other.end().await;
    turn.end().await;
}

/// Only the backend says which origins may read, and it has said nothing yet.
#[tokio::test]
async fn before_the_backend_has_answered_no_other_origin_can_read_of_its_turn() {
    let backend = Backend::start().await;
    let config =
        "[identity]\nanonymous_sessions = true\n[[route]]\nsession = \"header:x-chat\"\nconcurrent = \"reject\"\n";
    let holdover = Holdover::before(&backend).config(config).start().await;
    let mut client = holdover.connect().await;
    client.request("POST", "/chat", &[CHAT], fresh_body()).await;
    let mut upstream = backend.next().await;
    for fields in ["", "Access-Control-Allow-Origin: https://other.test\r\n"] {
        let allowed = !fields.is_empty();
        if allowed {
            upstream.stream_with(fields).await;
            client.head().await;
        }
        for (method, path, status) in [("GET", "/.holdover/sessions/c1", 200), ("POST", "/chat", 409)] {
            let mut page = holdover.connect().await;
            page.request(method, path, &[CHAT, ORIGIN], if method == "GET" { String::new() } else { fresh_body() })
                .await;
            let head = page.head().await;
            assert_eq!(head.status(), status, "{method} {path}");
            assert_eq!(head.get("access-control-allow-origin").is_some(), allowed, "{method} {path}: {head:?}");
        }
    }
}
