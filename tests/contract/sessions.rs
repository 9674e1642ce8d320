//! Turns found by the name of their session.

use std::time::Duration;

use serde_json::Value;

use super::code_of;
use crate::support::{Backend, Holdover, Turn, within};

const CONFIG: &str = "[[route]]\nname = \"chat\"\nsession = \"header:x-chat\"\n";
const ALICE: (&str, &str) = ("Authorization", "Bearer alice");
const BOB: (&str, &str) = ("Authorization", "Bearer bob");

#[tokio::test]
async fn a_session_leads_to_its_turn() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(CONFIG).start().await;
    let mut turn = Turn::start_with(&holdover, &backend, &[ALICE, ("X-Chat", "chat 1/ü")]).await;
    turn.events(2).await;
    let path = "/.holdover/sessions/chat%201%2F%C3%BC";
    let asked = |who: (&'static str, &'static str), path: String| {
        let request = holdover.request("GET", &path).header(who.0, who.1);
        async move { request.send().await.unwrap() }
    };
    let status: Value = asked(ALICE, path.to_owned()).await.json().await.unwrap();
    assert_eq!((status["turn"].as_str(), status["session"].as_str()), (Some(turn.id.as_str()), Some("chat 1/ü")));
    let mut follower = holdover.connect().await;
    follower.request("GET", &format!("{path}/stream"), &[ALICE], "").await;
    assert_eq!(follower.head().await.get("holdover-turn"), Some(turn.id.as_str()));
    assert_eq!(follower.next_event().await.data(), "1");
    let mut later = holdover.connect().await;
    let cursor = turn.id_of(1);
    later.request("GET", &format!("{path}/stream"), &[ALICE, ("Last-Event-ID", &cursor)], "").await;
    assert_eq!(later.head().await.get("holdover-from"), Some("1"));
    assert_eq!(later.next_event().await.data(), "2");
    // The same name is another session to somebody else.
    let foreign = asked(BOB, path.to_owned()).await;
    assert_eq!((foreign.status().as_u16(), code_of(&foreign.bytes().await.unwrap()).as_str()), (404, "unknown_turn"));
    assert_eq!(asked(BOB, format!("{path}/stream")).await.status(), 204);
    let id = turn.end().await;
    assert_eq!(asked(ALICE, format!("{path}/stream")).await.status(), 204, "nothing runs");
    let status: Value = asked(ALICE, path.to_owned()).await.json().await.unwrap();
    assert_eq!((status["turn"].as_str(), status["state"].as_str()), (Some(id.as_str()), Some("completed")));
    assert_eq!(asked(ALICE, "/.holdover/sessions/never/stream".to_owned()).await.status(), 204);
    assert_eq!(asked(ALICE, "/.holdover/sessions/never".to_owned()).await.status(), 404);
}

#[tokio::test]
async fn who_waits_for_a_session_gets_the_turn_that_starts() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(CONFIG).start().await;
    let mut early = holdover.connect().await;
    early.request("GET", "/.holdover/sessions/c1/stream?wait=30s", &[ALICE], "").await;
    // Its request is in before the start is: an answer on the same node shows that it was read.
    let status = holdover.request("GET", "/.holdover/sessions/c1").header(ALICE.0, ALICE.1).send().await.unwrap();
    assert_eq!(status.status(), 404);
    let mut turn = Turn::start_with(&holdover, &backend, &[ALICE, ("X-Chat", "c1")]).await;
    turn.event("one").await;
    let head = within(Duration::from_secs(5), "the turn", early.head()).await;
    assert_eq!((head.status(), head.get("holdover-turn")), (200, Some(turn.id.as_str())));
    assert_eq!(early.next_event().await.data(), "one");
}

#[tokio::test]
async fn who_waits_in_vain_is_told_so() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(CONFIG).start().await;
    for (wait, status) in [("300ms", 204), ("0s", 204), ("0", 204), ("soon", 400), ("-1s", 400)] {
        let path = format!("/.holdover/sessions/c1/stream?wait={wait}");
        let answer = holdover.request("GET", &path).header(ALICE.0, ALICE.1).send().await.unwrap();
        assert_eq!(answer.status(), status, "{wait}");
        if status == 400 {
            assert_eq!(code_of(&answer.bytes().await.unwrap()), "bad_wait");
        }
    }
}

#[tokio::test]
async fn without_identity_a_session_is_found_only_where_that_is_allowed() {
    let backend = Backend::start().await;
    for (allowed, status, stream) in [(false, 404, 404), (true, 200, 200)] {
        let config = format!("[identity]\nanonymous_sessions = {allowed}\n{CONFIG}");
        let holdover = Holdover::before(&backend).config(config).start().await;
        let mut turn = Turn::start_with(&holdover, &backend, &[("X-Chat", "c1")]).await;
        turn.event("one").await;
        let seen = holdover.request("GET", "/.holdover/sessions/c1").send().await.unwrap();
        assert_eq!(seen.status(), status, "anonymous_sessions = {allowed}");
        let mut follower = holdover.connect().await;
        follower.request("GET", "/.holdover/sessions/c1/stream", &[], "").await;
        assert_eq!(follower.head().await.status(), stream, "anonymous_sessions = {allowed}");
        turn.end().await;
    }
}

#[tokio::test]
async fn a_session_is_found_wherever_the_route_says_it_stands() {
    let backend = Backend::start().await;
    let config = r#"
        [identity]
        anonymous_sessions = true
        [[route]]
        name = "body"
        path = "/body"
        session = "body:/chat/id"
        [[route]]
        name = "path"
        path = "/threads/{thread}/runs"
        session = "path:thread"
        [[route]]
        name = "query"
        path = "/query"
        session = "query:thread"
        [[route]]
        name = "multipart"
        path = "/multipart"
        session = "multipart:chat"
    "#;
    let holdover = Holdover::before(&backend).config(config).start().await;
    let form = "--XX\r\ncontent-disposition: form-data; name=\"chat\"\r\n\r\nin-form\r\n--XX--\r\n";
    let form_type = ("Content-Type", "multipart/form-data; boundary=XX");
    for (target, header, body, session, route) in [
        ("/body", None, r#"{"chat":{"id":"in-body"}}"#, "in-body", "body"),
        ("/threads/in-path/runs/stream", None, "{}", "in-path", "path"),
        ("/query?thread=in-query", None, "{}", "in-query", "query"),
        ("/multipart", Some(form_type), form, "in-form", "multipart"),
    ] {
        let mut client = holdover.connect().await;
        client.request("POST", target, &header.into_iter().collect::<Vec<_>>(), body).await;
        let mut turn = Turn::opened(client, &backend).await;
        assert_eq!(turn.upstream.body().await.unwrap(), body, "the body goes up as it came");
        let status = holdover.request("GET", &format!("/.holdover/sessions/{session}")).send().await.unwrap();
        let status: Value = status.json().await.unwrap();
        assert_eq!(
            (status["turn"].as_str(), status["route"].as_str()),
            (Some(turn.id.as_str()), Some(route)),
            "{target}"
        );
        turn.end().await;
    }
}
