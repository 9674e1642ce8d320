//! Cursors nobody should have sent, and cursors of what is not there.

use std::time::{Duration, Instant};

use super::code_of;
use crate::support::{Backend, Holdover, Turn, without_retry};

const UNKNOWN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaa";

#[tokio::test]
async fn where_the_url_names_the_turn_a_useless_cursor_means_from_the_start() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (other, _) = holdover.ended_turn(&backend, 1).await;
    let (id, recorded) = holdover.ended_turn(&backend, 3).await;
    let whole: Vec<_> = recorded.iter().flat_map(|event| without_retry(&event.bytes)).collect();
    let hostile = [
        format!("{other}-1"),
        format!("{UNKNOWN}-1"),
        format!("{id}--1"),
        format!("{id}-18446744073709551616"),
        format!("{id}-1.5"),
        format!("{id}-"),
        format!("{id}-0"),
        id.to_uppercase(),
        "-1".to_owned(),
        "-7".to_owned(),
        "0-0".to_owned(),
        "1526919030474-55".to_owned(),
        "../../etc/passwd".to_owned(),
        "'; DROP TABLE turns; --".to_owned(),
        "\u{feff}\u{202e}é".to_owned(),
        "9".repeat(8000),
    ];
    for cursor in &hostile {
        let encoded: String = url::form_urlencoded::byte_serialize(cursor.as_bytes()).collect();
        let by_query = ["after", "last_event_id", "lastEventId"].map(|name| format!("?{name}={encoded}"));
        for (query, header) in [("", true)].into_iter().chain(by_query.iter().map(|query| (query.as_str(), false))) {
            let mut client = holdover.connect().await;
            let headers: &[(&str, &str)] = if header { &[("Last-Event-ID", cursor)] } else { &[] };
            client.request("GET", &format!("/.holdover/turns/{id}/stream{query}"), headers, "").await;
            let head = client.head().await;
            let what = format!("{:.60} as {query:.20}", cursor);
            assert_eq!((head.status(), head.get("holdover-from")), (200, Some("0")), "{what}: {head:?}");
            assert_eq!(without_retry(&client.body().await), whole, "{what}");
        }
    }
    assert_eq!(backend.requests().len(), 2);
}

/// Ids of our form are never the backend's business, whatever they name.
#[tokio::test]
async fn an_id_of_our_form_starts_nothing_and_goes_nowhere() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (id, _) = holdover.ended_turn(&backend, 3).await;
    let cursors = [
        (format!("{UNKNOWN}-0"), 204, 404),
        (format!("{UNKNOWN}-1"), 204, 404),
        (format!("{UNKNOWN}-{}", u64::MAX), 204, 404),
        (format!("{id}-4"), 204, 204),
        (format!("{id}-{}", u64::MAX), 204, 204),
        (format!("  {id}-3  "), 204, 204),
        (format!("{id}-0"), 200, 200),
    ];
    for (cursor, get, post) in &cursors {
        for (method, status) in [("GET", *get), ("POST", *post)] {
            let mut client = holdover.resume(method, "/chat", cursor).await;
            assert_eq!(client.head().await.status(), status, "{method} {cursor}");
            client.body().await;
        }
    }
    assert_eq!(backend.requests().len(), 1);
    assert_eq!(holdover.metric("holdover_turns_started_total", &[]).await, 1.0);
}

#[tokio::test]
async fn a_damaged_id_of_ours_starts_nothing() {
    let backend = Backend::streaming("data: second\n\n").await;
    let holdover = Holdover::start(&backend).await;
    let mut client = holdover.connect().await;
    client.request("POST", "/chat", &[], "").await;
    let id = client.head().await.get("holdover-turn").expect("it is recorded").to_owned();
    for rest in ["", "-", "--1", "-01", "-1.5", "-18446744073709551616"] {
        let mut client = holdover.resume("GET", "/chat", &format!("{id}{rest}")).await;
        client.head().await;
        assert_eq!(backend.requests().len(), 1, "{rest:?} went upstream");
    }
}

/// A backend may have ids of its own, and resume by itself.
#[tokio::test]
async fn an_id_that_is_not_ours_goes_to_the_backend_untouched() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    for cursor in ["backend-4", "1526919030474-55", "-1", "now", "evt_123"] {
        let mut client = holdover.resume("GET", "/events", cursor).await;
        let upstream = backend.next().await;
        assert_eq!(upstream.request.all("last-event-id"), [cursor]);
        upstream.answer("200 OK", "", "native").await;
        assert_eq!(client.head().await.status(), 200);
        assert_eq!(client.body().await, "native");
    }
}

#[tokio::test]
async fn ahead_of_a_finished_turn_is_a_gap() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (id, _) = holdover.ended_turn(&backend, 3).await;
    let stream = format!("/.holdover/turns/{id}/stream");
    for (method, target, status) in [("GET", "/chat", 204), ("POST", "/chat", 204), ("GET", stream.as_str(), 409)] {
        let mut client = holdover.resume(method, target, &format!("{id}-7")).await;
        let head = client.head().await;
        assert_eq!((head.status(), head.get("holdover-gap")), (status, Some("4-7")), "{method} {target}: {head:?}");
        if status == 409 {
            assert_eq!(code_of(&client.body().await), "gap");
        }
    }
}

#[tokio::test]
async fn ahead_of_a_running_turn_is_held_until_the_tail_arrives() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.events(2).await;
    let mut ahead = holdover.resume("GET", "/chat", &turn.id_of(3)).await;
    // It is counted as a follower before it is answered: it waits inside.
    holdover.metric_is("holdover_followers", &[], 1.0).await;
    let waiting = || async { (holdover.status(&turn.id).await["followers"] == 2).then_some(()) };
    crate::support::eventually("the resume to wait", waiting).await;
    turn.event("3").await;
    turn.event("4").await;
    let head = ahead.head().await;
    assert_eq!((head.status(), head.get("holdover-from"), head.get("holdover-gap")), (200, Some("3"), None));
    assert_eq!(ahead.next_event().await.data(), "4");
}

#[tokio::test]
async fn ahead_of_a_running_turn_for_five_seconds_is_a_gap() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.events(2).await;
    let asked = Instant::now();
    let mut generic = holdover.resume("GET", "/chat", &turn.id_of(5)).await;
    let mut own = holdover.resume("GET", &turn.stream_path(), &turn.id_of(5)).await;
    let head = generic.head().await;
    assert_eq!((head.status(), head.get("holdover-gap")), (204, Some("3-5")), "{head:?}");
    let head = own.head().await;
    assert_eq!((head.status(), head.get("holdover-gap")), (409, Some("3-5")), "{head:?}");
    let held = asked.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(8)).contains(&held), "held {held:?}");
    assert_eq!(backend.requests().len(), 1);
}
