//! What clients can do with a recorded turn, on any route.

mod cors;
mod cursors;
mod owners;
mod sessions;
mod strangers;
mod unanswered;

use serde_json::Value;

use crate::support::{
    Backend, Client, Cut, Ending, FaultProxy, Holdover, How, Turn, events, fresh_body, without_retry,
};

/// Of a request.
type Headers<'a> = &'a [(&'a str, &'a str)];

/// Every way an event stream may be written: comments, CRLF, several data lines, ids and `retry:` of the backend's own,
/// an event without `data:`. Six events.
const MIXED: [&str; 6] = [
    ": hello\n\ndata: one\n\n",
    "event: token\r\ndata: two\r\n\r\n",
    "data: three\ndata: lines\ndata\n\n",
    "id: backend-4\ndata: {\"four\":4}\n\n",
    "retry: 3000\ndata: five\n\n",
    ":\n\nevent: ping\n\n: before six\ndata: six\n\n",
];

#[tokio::test]
async fn a_recorded_answer_says_where_to_resume_and_keeps_what_the_backend_said() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut client = holdover.connect().await;
    client.request("POST", "/chat?x=1", &[], "{}").await;
    let mut upstream = backend.next().await;
    assert_eq!(upstream.request.target(), "/chat?x=1");
    assert_eq!(upstream.body().await.unwrap(), "{}");
    upstream.stream_with("X-Model: m1\r\nSet-Cookie: a=1\r\nSet-Cookie: b=2\r\nCache-Control: max-age=60\r\n").await;
    let head = client.head().await;
    let id = head.get("holdover-turn").expect("it names its turn").to_owned();
    assert_eq!(id.len(), 28);
    assert_eq!(head.get("holdover-resume"), Some(format!("/.holdover/turns/{id}/stream").as_str()));
    assert_eq!(head.all("cache-control"), ["no-cache, no-transform"]);
    assert_eq!(head.all("x-accel-buffering"), ["no"]);
    assert_eq!(head.all("transfer-encoding"), ["chunked"]);
    assert_eq!(head.get("x-model"), Some("m1"));
    assert_eq!(head.all("set-cookie"), ["a=1", "b=2"]);
    for absent in ["content-length", "holdover-from", "holdover-gap", "access-control-expose-headers"] {
        assert_eq!(head.get(absent), None, "{absent}");
    }
    upstream.event("one").await;
    assert_eq!(client.next_event().await.place(), (id.as_str(), 1));
    upstream.event("two").await;
    assert_eq!(client.next_event().await.place(), (id.as_str(), 2));
    upstream.end().await;
    assert!(client.rest().await.1.is_clean());
    let mut again = holdover.resume("GET", "/chat", &format!("{id}-1")).await;
    let head = again.head().await;
    assert_eq!((head.status(), head.get("holdover-from"), head.get("holdover-gap")), (200, Some("1"), None));
    assert_eq!((head.get("holdover-turn"), head.get("x-model")), (Some(id.as_str()), Some("m1")));
    holdover.metrics().await.assert_books_balance();
}

#[tokio::test]
async fn every_form_of_a_resume_gives_exactly_the_rest() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (id, recorded) = holdover.ended_turn(&backend, 4).await;
    let (stream, cursor) = (format!("/.holdover/turns/{id}/stream"), format!("{id}-2"));
    let by_header = [("Last-Event-ID", cursor.as_str())];
    let mut forms: Vec<(&str, String, Headers<'_>, usize)> = vec![
        ("GET", stream.clone(), &by_header, 2),
        ("GET", format!("{stream}?after=2"), &[], 2),
        ("GET", format!("{stream}?after={cursor}"), &[], 2),
        ("GET", format!("{stream}?last_event_id={cursor}"), &[], 2),
        ("GET", format!("{stream}?lastEventId={cursor}"), &[], 2),
        ("GET", stream.clone(), &[], 0),
        ("GET", format!("{stream}?after=0"), &[], 0),
        ("GET", format!("{stream}?after=-1"), &[], 0),
    ];
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "PROPFIND"] {
        for target in ["/chat", "/another/path?q=1"] {
            forms.push((method, target.to_owned(), &by_header, 2));
        }
    }
    for (method, target, headers, from) in forms {
        let mut client = holdover.connect().await;
        client.request(method, &target, headers, if method == "GET" { "" } else { "{}" }).await;
        let head = client.head().await;
        assert_eq!(head.status(), 200, "{method} {target}: {head:?}");
        assert_eq!(head.get("holdover-from"), Some(from.to_string().as_str()), "{method} {target}");
        let rest: Vec<_> = recorded[from..].iter().flat_map(|event| without_retry(&event.bytes)).collect();
        assert_eq!(without_retry(&client.body().await), rest, "{method} {target}");
    }
    assert_eq!(backend.requests().len(), 1, "no resume reaches the backend");
    assert_eq!(holdover.metric("holdover_turns_started_total", &[]).await, 1.0);
}

#[tokio::test]
async fn a_live_turn_is_followed_from_any_cursor() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.events(3).await;
    let mut behind = holdover.resume("GET", "/chat", &turn.id_of(1)).await;
    let mut level = holdover.resume("POST", "/chat", &turn.id_of(3)).await;
    assert_eq!((behind.head().await.status(), level.head().await.status()), (200, 200));
    assert_eq!(behind.next_event().await.data(), "2");
    assert_eq!(behind.next_event().await.data(), "3");
    turn.event("4").await;
    assert_eq!((behind.next_event().await.data(), level.next_event().await.data()), ("4", "4"));
    assert_eq!(holdover.status(&turn.id).await["followers"], 3);
    turn.end().await;
    assert!(behind.rest().await.1.is_clean() && level.rest().await.1.is_clean());
    assert_eq!(backend.requests().len(), 1);
}

#[tokio::test]
async fn a_cursor_of_now_gets_only_what_comes() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.events(2).await;
    let mut late = holdover.resume("GET", &turn.stream_path(), "now").await;
    assert_eq!(late.head().await.get("holdover-from"), Some("2"));
    turn.event("3").await;
    assert_eq!(late.next_event().await.data(), "3");
}

/// For every k: what was received before the cut and what is resumed after it make the whole.
#[tokio::test]
async fn cut_after_every_event_and_inside_it_the_rest_is_byte_equal() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    for k in 0..=MIXED.len() {
        for (bytes, how) in [(0, How::Fin), (0, How::Reset), (7, How::Fin), (7, How::Reset)] {
            // A reset may overtake events, so k is what has arrived, at most the k of the cut.
            for live in [false, true] {
                cut_and_resume(&holdover, &backend, Cut::inside(k, bytes, how), live.then_some(k)).await;
            }
        }
    }
    let turns = backend.requests().len();
    assert_eq!(turns, (MIXED.len() + 1) * 8, "one turn for each cut");
    holdover.metric_is("holdover_turns_finished_total", &[("outcome", "completed")], turns as f64).await;
    holdover.metrics().await.assert_books_balance();
}

/// `live`: the backend goes on with the event after this one only once the client has resumed.
async fn cut_and_resume(holdover: &Holdover, backend: &Backend, cut: Cut, live: Option<usize>) {
    let proxy = FaultProxy::start(holdover.addr(), [cut]).await;
    let mut client = Client::connect(proxy.address()).await;
    client.request("POST", "/chat", &[], fresh_body()).await;
    let mut upstream = backend.next().await;
    upstream.stream().await;
    let head = client.head().await;
    let id = head.get("holdover-turn").expect("it names its turn");
    let path = head.get("holdover-resume").expect("it says where to resume").to_owned();
    let early = live.map_or(MIXED.len(), |k| (k + 1).min(MIXED.len()));
    for event in &MIXED[..early] {
        upstream.chunk(event).await;
    }
    let mut upstream = Some(upstream);
    if live.is_none() || early == MIXED.len() {
        upstream.take().expect("it was just put there").end().await;
    }
    let mut received = Vec::new();
    while let Ok(event) = client.event_or_end().await {
        received.push(event);
    }
    if upstream.is_none() {
        holdover.state_is(id, "completed").await;
    }
    let mut resumed = match received.last() {
        Some(event) => holdover.resume("POST", "/chat", event.id()).await,
        None => {
            let mut client = holdover.connect().await;
            client.request("GET", &path, &[], "").await;
            client
        }
    };
    let status = resumed.head().await.status();
    if let Some(mut upstream) = upstream {
        for event in &MIXED[early..] {
            upstream.chunk(event).await;
        }
        upstream.end().await;
    }
    let rest = resumed.body().await;
    let mut all = holdover.connect().await;
    all.request("GET", &path, &[], "").await;
    all.head().await;
    let whole = without_retry_of_ours(&all.body().await);
    let joined: Vec<u8> = received.iter().flat_map(|event| event.bytes.to_vec()).chain(rest.to_vec()).collect();
    assert_eq!(
        String::from_utf8_lossy(&without_retry_of_ours(&joined)),
        String::from_utf8_lossy(&whole),
        "{cut:?}, live: {live:?}, after {} events",
        received.len()
    );
    assert_eq!(events(&whole).len(), MIXED.len());
    assert_eq!(status == 204, received.len() == MIXED.len(), "nothing left is told by 204");
}

/// The backend's `retry: 3000` is of the turn; ours is of the connection.
fn without_retry_of_ours(bytes: &[u8]) -> Vec<u8> {
    String::from_utf8_lossy(bytes).replace("retry: 1000\n", "").replace("retry: 1000\r\n", "").into_bytes()
}

#[tokio::test]
async fn nothing_left_is_said_as_each_kind_of_client_understands_it() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (id, _) = holdover.ended_turn(&backend, 2).await;
    let unknown = "aaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    let stream = |turn: &str| format!("/.holdover/turns/{turn}/stream");
    let origin = ("Origin", "https://app.test");
    let table: &[(&str, &str, bool, Headers<'_>, u16, u16)] = &[
        ("EventSource", "GET", false, &[], 204, 204),
        ("EventSource of a browser", "GET", false, &[origin, ("Sec-Fetch-Mode", "cors")], 204, 204),
        ("fetch-event-source", "POST", false, &[origin], 200, 404),
        ("fetch-event-source, same origin", "POST", false, &[("Sec-Fetch-Mode", "cors")], 200, 404),
        ("browser that does not cache", "POST", false, &[origin, ("Cache-Control", "no-cache")], 204, 404),
        ("program", "POST", false, &[], 204, 404),
        ("program with PUT", "PUT", false, &[], 204, 404),
        ("stream URL", "GET", true, &[], 204, 404),
        ("stream URL in a browser", "GET", true, &[origin, ("Sec-Fetch-Mode", "cors")], 204, 404),
    ];
    for (who, method, own, headers, finished, of_unknown) in table {
        for (turn, status) in [(id.as_str(), *finished), (unknown, *of_unknown)] {
            let cursor = format!("{turn}-2");
            let mut headers = headers.to_vec();
            headers.push(("Last-Event-ID", &cursor));
            let target = if *own { stream(turn) } else { "/chat".to_owned() };
            let mut client = holdover.connect().await;
            client.request(method, &target, &headers, if *method == "GET" { "" } else { "{}" }).await;
            let head = client.head().await;
            assert_eq!(head.status(), status, "{who}, {turn}: {head:?}");
            let body = client.body().await;
            match status {
                200 => {
                    assert_eq!((head.get("content-type"), &body[..]), (Some("text/event-stream"), &b""[..]), "{who}")
                }
                204 => assert!(body.is_empty() && head.get("content-length").is_none(), "{who}: {head:?}"),
                _ => assert_eq!(code_of(&body), "unknown_turn", "{who}"),
            }
            if status < 300 && turn == id {
                assert_eq!(
                    (head.get("holdover-turn"), head.get("holdover-from")),
                    (Some(id.as_str()), Some("2")),
                    "{who}"
                );
            }
            // The connection is good for more.
            client.request("GET", &format!("/.holdover/turns/{id}"), &[], "").await;
            assert_eq!(client.head().await.status(), 200, "{who}, next request on the connection");
        }
    }
    assert_eq!(backend.requests().len(), 1);
}

/// The error code of an answer of ours.
fn code_of(body: &[u8]) -> String {
    let body: Value = serde_json::from_slice(body).unwrap_or_else(|_| panic!("no JSON: {body:?}"));
    body["error"]["code"].as_str().expect("an error has a code").to_owned()
}

#[tokio::test]
async fn the_status_of_a_turn_tells_all_there_is_to_know() {
    let backend = Backend::start().await;
    let config = "[[route]]\nname = \"chat\"\npath = \"/chat\"\nsession = \"header:x-chat\"\n";
    let holdover = Holdover::before(&backend).config(config).start().await;
    let mut turn = Turn::start_with(&holdover, &backend, &[("X-Chat", "c 1")]).await;
    let empty = holdover.status(&turn.id).await;
    assert_eq!((&empty["first_seq"], &empty["last_seq"]), (&Value::Null, &0.into()));
    let bytes: usize = turn.events(3).await.iter().map(|event| without_retry(&event.bytes).len()).sum();
    let running = holdover.status(&turn.id).await;
    let started_at = running["started_at"].as_u64().unwrap();
    assert_eq!(
        running,
        serde_json::json!({
            "turn": turn.id, "session": "c 1", "state": "running", "reason": null, "route": "chat",
            "profile": "auto",
            "started_at": started_at, "ended_at": null, "first_seq": 1, "last_seq": 3, "bytes": bytes,
            "truncated": null, "followers": 1, "detached_since": null, "degraded": false,
        })
    );
    let Turn { id, client, upstream, .. } = turn;
    client.reset();
    crate::support::eventually("the turn to be detached", || async {
        let status = holdover.status(&id).await;
        (status["followers"] == 0 && status["detached_since"].as_u64()? >= started_at).then_some(())
    })
    .await;
    upstream.end().await;
    let ended = holdover.state_is(&id, "completed").await;
    assert_eq!((&ended["reason"], &ended["last_seq"]), (&"eof".into(), &3.into()));
    assert!(ended["ended_at"].as_u64().unwrap() >= started_at);
    let head = holdover.request("HEAD", &format!("/.holdover/turns/{id}")).send().await.unwrap();
    assert_eq!((head.status().as_u16(), head.text().await.unwrap().as_str()), (200, ""));
}

#[tokio::test]
async fn a_stop_closes_the_upstream_and_says_the_truth() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    for by in ["", "/stream"] {
        let mut turn = Turn::start(&holdover, &backend).await;
        turn.events(2).await;
        let path = format!("/.holdover/turns/{}{by}", turn.id);
        let stopped = holdover.request("DELETE", &path).send().await.unwrap();
        assert_eq!(stopped.status(), 200);
        assert_eq!(stopped.json::<Value>().await.unwrap(), serde_json::json!({ "result": "stopped" }));
        turn.upstream.aborted().await;
        assert!(turn.client.rest().await.1.is_clean(), "who is stopped is done");
        let status = holdover.status(&turn.id).await;
        assert_eq!(
            (&status["state"], &status["reason"], &status["last_seq"]),
            (&"cancelled".into(), &"stop".into(), &2.into())
        );
        let again = holdover.request("DELETE", &path).send().await.unwrap();
        assert_eq!(again.json::<Value>().await.unwrap(), serde_json::json!({ "result": "already_ended" }));
        let mut replay = holdover.resume("GET", "/chat", &turn.id_of(1)).await;
        assert_eq!(replay.head().await.status(), 200);
        assert_eq!(replay.next_event().await.data(), "2");
        assert!(replay.rest().await.1.is_clean());
    }
    let unknown = holdover.request("DELETE", "/.holdover/turns/aaaaaaaaaaaaaaaaaaaaaaaaaaaa").send().await.unwrap();
    assert_eq!((unknown.status().as_u16(), code_of(&unknown.bytes().await.unwrap()).as_str()), (404, "unknown_turn"));
    assert_eq!(backend.aborted(), 2);
    holdover.metrics().await.assert_books_balance();
}

#[tokio::test]
async fn holdovers_own_urls_say_what_they_take() {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let (id, _) = holdover.ended_turn(&backend, 1).await;
    for (method, path, status, code) in [
        ("POST", format!("/.holdover/turns/{id}"), 405, "method_not_allowed"),
        ("PUT", format!("/.holdover/turns/{id}/stream"), 405, "method_not_allowed"),
        ("POST", "/.holdover/sessions/x".to_owned(), 405, "method_not_allowed"),
        ("GET", "/.holdover".to_owned(), 404, "not_found"),
        ("GET", "/.holdover/".to_owned(), 404, "not_found"),
        ("GET", "/.holdover/turns".to_owned(), 404, "not_found"),
        ("GET", format!("/.holdover/turns/{id}/stream/x"), 404, "not_found"),
        ("GET", "/.holdover/turns/x".to_owned(), 404, "unknown_turn"),
        ("GET", "/.holdover/turns/x/stream".to_owned(), 404, "unknown_turn"),
    ] {
        let answer = holdover.request(method, &path).send().await.unwrap();
        assert_eq!(answer.status(), status, "{method} {path}");
        assert_eq!(code_of(&answer.bytes().await.unwrap()), code, "{method} {path}");
    }
    let aside = holdover.http().get(holdover.url("/.holdovers")).send();
    let (answer, ()) = tokio::join!(aside, async { backend.next().await.answer("200 OK", "", "backend").await });
    assert_eq!(answer.unwrap().text().await.unwrap(), "backend", "only the base path itself is ours");
}

#[tokio::test]
async fn a_resume_before_the_first_byte_parks_and_then_follows() {
    let backend = Backend::start().await;
    let config = "[identity]\nanonymous_sessions = true\n[[route]]\nsession = \"header:x-chat\"\n";
    let holdover = Holdover::before(&backend).config(config).start().await;
    let mut client = holdover.connect().await;
    client.request("POST", "/chat", &[("X-Chat", "c1")], "{}").await;
    let mut upstream = backend.next().await;
    // The backend has not answered; the session has its turn all the same.
    let mut early = holdover.connect().await;
    early.request("GET", "/.holdover/sessions/c1/stream", &[], "").await;
    let status = holdover.request("GET", "/.holdover/sessions/c1").send().await.unwrap();
    assert_eq!(status.json::<Value>().await.unwrap()["state"], "running");
    upstream.stream().await;
    upstream.event("one").await;
    assert_eq!((client.head().await.status(), early.head().await.status()), (200, 200));
    let (first, parked) = (client.next_event().await, early.next_event().await);
    assert_eq!(first.bytes, parked.bytes);
    upstream.close().await;
    assert_eq!((client.rest().await.1, early.rest().await.1), (Ending::Broken, Ending::Broken));
}
