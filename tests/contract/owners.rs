//! Who may follow, see and stop a turn: for everybody else it does not exist.

use super::code_of;
use crate::support::{Backend, Client, Holdover, Turn};

const UNKNOWN: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaa";

/// The whole answer as it stands on the wire, without the date.
async fn answer(holdover: &Holdover, method: &str, target: &str, headers: &[(&str, &str)]) -> String {
    let mut client: Client = holdover.connect().await;
    let mut headers = headers.to_vec();
    headers.push(("Connection", "close"));
    client.request(method, target, &headers, "").await;
    let mut bytes = Vec::new();
    while let Some(more) = client.raw().await {
        bytes.extend_from_slice(&more);
    }
    let text = String::from_utf8(bytes).expect("answers of ours are text");
    text.split_inclusive('\n').filter(|line| !line.to_ascii_lowercase().starts_with("date:")).collect()
}

#[tokio::test]
async fn a_foreign_turn_answers_byte_for_byte_like_an_unknown_one() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mine = ("Authorization", "Bearer alice");
    let mut turn = Turn::start_with(&holdover, &backend, &[mine]).await;
    turn.events(2).await;
    let strangers: [&[(&str, &str)]; 4] = [
        &[],
        &[("Authorization", "Bearer mallory")],
        &[("X-Api-Key", "Bearer alice")],
        &[("Authorization", "bearer alice")],
    ];
    for stranger in strangers {
        for origin in [None, Some(("Origin", "https://app.test"))] {
            for (method, target, by_header) in [
                ("GET", "/.holdover/turns/TURN", false),
                ("DELETE", "/.holdover/turns/TURN", false),
                ("GET", "/.holdover/turns/TURN/stream", false),
                ("GET", "/.holdover/turns/TURN/stream?after=1", false),
                ("DELETE", "/.holdover/turns/TURN/stream", false),
                ("POST", "/.holdover/turns/TURN/stream", false),
                ("GET", "/chat", true),
                ("POST", "/chat", true),
            ] {
                let mut said = Vec::new();
                for id in [&turn.id, UNKNOWN] {
                    let cursor = format!("{id}-1");
                    let mut headers = stranger.to_vec();
                    headers.extend(origin);
                    if by_header {
                        headers.push(("Last-Event-ID", &cursor));
                    }
                    said.push(answer(&holdover, method, &target.replace("TURN", id), &headers).await);
                }
                assert_eq!(said[0], said[1], "{method} {target} of {stranger:?}");
                assert!(!said[0].is_empty());
            }
        }
    }
    assert_eq!(holdover.status_as(&turn.id, Some(mine.1)).await["state"], "running", "nobody could stop it");
    let mut again = holdover.connect().await;
    let cursor = turn.id_of(1);
    again.request("GET", "/chat", &[mine, ("Last-Event-ID", &cursor)], "").await;
    assert_eq!(again.head().await.status(), 200);
    assert_eq!(again.next_event().await.data(), "2");
    assert_eq!(backend.requests().len(), 1);
    turn.end().await;
}

#[tokio::test]
async fn without_identity_the_name_of_the_turn_is_the_key_to_it() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (id, _) = holdover.ended_turn(&backend, 2).await;
    for headers in [&[][..], &[("Authorization", "Bearer anybody")]] {
        let seen = answer(&holdover, "GET", &format!("/.holdover/turns/{id}"), headers).await;
        assert!(seen.starts_with("HTTP/1.1 200 "), "{seen}");
    }
}

#[tokio::test]
async fn who_names_two_identities_is_asked_to_name_one() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut client = holdover.connect().await;
    let two = [("Authorization", "Bearer a"), ("Authorization", "Bearer b")];
    client.request("POST", "/chat", &two, "{}").await;
    assert_eq!(client.head().await.status(), 400);
    assert_eq!(code_of(&client.body().await), "ambiguous");
    assert!(backend.requests().is_empty());
}

#[tokio::test]
async fn a_cookie_can_be_the_identity() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config("[identity]\nfrom = [\"cookie:sid\"]\n").start().await;
    let turn = Turn::start_with(&holdover, &backend, &[("Cookie", "theme=dark; sid=alice")]).await;
    let path = format!("/.holdover/turns/{}", turn.id);
    for (cookie, status) in [("sid=alice", 200), ("sid=alice; theme=light", 200), ("sid=bob", 404), ("theme=dark", 404)]
    {
        let seen = answer(&holdover, "GET", &path, &[("Cookie", cookie)]).await;
        assert!(seen.starts_with(&format!("HTTP/1.1 {status} ")), "{cookie}: {seen}");
    }
}
