//! The AI SDK's chat, majors 5 to 7, and what speaks its UI message stream: `useChat`, `WorkflowChatTransport` of
//! `@ai-sdk/workflow`, assistant-ui.
//!
//! None of them sends an event id. A page that is loaded asks for its chat (`GET {api}/{chat}/stream`) and takes 204 or the
//! whole turn from its first event: it rebuilds the message from the parts. The workflow transport names the run and how many
//! parts it has; assistant-ui asks for a URL of its application's making that has the stream's id in it.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use serde_json::{Value as Json, json};

use super::{Ask, Ended, Follow, From, Loss, Profile, Replies, Reply, Request, Stop, Target, Terminal};
use crate::{
    config::ReplayFinished,
    sse::{Message, TurnId},
    turn::{Dialect, Outcome},
};

/// See the module.
#[derive(Debug)]
pub(super) struct AiSdk;

/// On every answer in this dialect, from servers that use the SDK's own helpers.
const UI_MESSAGE_STREAM: &str = "x-vercel-ai-ui-message-stream";
/// Where the workflow transport looks for the run.
const RUN: HeaderName = HeaderName::from_static("x-workflow-run-id");
/// Where assistant-ui looks for the stream's id.
const STREAM: HeaderName = HeaderName::from_static("x-resumable-stream-id");
/// Index, from 0, of the last part there is: what a negative `startIndex` is counted from.
const TAIL_INDEX: HeaderName = HeaderName::from_static("x-workflow-stream-tail-index");

/// How `useChat` is told that there is nothing: 204. It takes every other status but 2xx for an error.
const CHAT: Replies = Replies { unknown: StatusCode::NO_CONTENT, ..Replies::POST };

/// The workflow transport takes an empty stream for one that was cut and asks again at once, for ever; an error status ends
/// it.
const WORKFLOW: Replies = Replies { nothing_left: StatusCode::GONE, ..Replies::POST };

impl Dialect for AiSdk {
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        if is_done(event) {
            return Some(Terminal::DONE);
        }
        let part = event.json()?;
        let outcome = match part["type"].as_str()? {
            "finish" if part["finishReason"] == "error" => Outcome::Failed,
            "finish" => Outcome::Completed,
            "abort" => Outcome::Cancelled,
            "error" => Outcome::Failed,
            _ => return None,
        };
        // Of several streams that are merged into one, each has a `finish`.
        Some(Terminal::soft(outcome))
    }
}

impl Profile for AiSdk {
    fn name(&self) -> &'static str {
        "ai-sdk"
    }

    /// The SDK's own body: a chat's id, and its messages, or the last of them, in parts.
    fn recognises(&self, request: &Request) -> bool {
        let Some(body) = request.json().filter(|_| *request.method() == Method::POST) else { return false };
        let last = body["messages"].as_array().and_then(|messages| messages.last());
        let in_parts = |message: &Json| message["role"].is_string() && message["parts"].is_array();
        body["id"].is_string() && last.or_else(|| body.get("message")).is_some_and(in_parts)
    }

    fn recognises_answer(&self, headers: &HeaderMap) -> bool {
        headers.contains_key(UI_MESSAGE_STREAM)
    }

    fn recognises_event(&self, first: &Message<'_>) -> bool {
        first.event().is_empty() && first.json().is_some_and(|part| part["type"] == "start")
    }

    fn session(&self, request: &Request) -> Option<String> {
        request.text_at("/id")
    }

    fn asks(&self, request: &Request) -> Option<Ask> {
        match *request.method() {
            Method::GET => follow(request).map(Ask::Follow),
            Method::POST => stop(request, "stop"),
            Method::DELETE => stop(request, "stop").or_else(|| stop(request, "stream")),
            _ => None,
        }
    }

    fn notes_delivery(&self) -> bool {
        true
    }

    /// A backend that has runs or streams of its own knows how to resume them.
    fn adorn(&self, headers: &mut HeaderMap, turn: &TurnId, _: &Request) {
        for name in [RUN, STREAM] {
            let own = || HeaderValue::from_str(turn.as_str()).expect("a turn's name is base32");
            headers.entry(name).or_insert_with(own);
        }
    }

    fn lost(&self, loss: &Loss<'_>) -> Option<Bytes> {
        Some(format!("data: {}\n\n", json!({ "type": "error", "errorText": loss.message })).into())
    }
}

fn follow(request: &Request) -> Option<Follow> {
    let stream = request.path_ends(["*", "stream"]).and_then(|mut captured| captured.pop());
    let start_index = request.query("startIndex");
    match (stream, start_index) {
        // Before it has seen a run, the transport asks by the chat.
        (Some(run), Some(index)) => Some(Follow {
            from: part(&index),
            trailer: is_done,
            tail_index: Some(TAIL_INDEX),
            ..Follow::whole(named(run), WORKFLOW)
        }),
        (Some(chat), None) => Some(match named(chat) {
            turn @ Target::Turn(_) => Follow::whole(turn, CHAT),
            session => Follow { ended: ended(request), ..Follow::whole(session, CHAT) },
        }),
        // The application decides where the stream's id stands. One that is not ours is the backend's.
        (None, _) => {
            let last = request.path_ends(["*"])?.pop()?;
            Some(Follow { or_backend: true, ..Follow::whole(Target::Turn(last.parse().ok()?), CHAT) })
        }
    }
}

/// A chat that is not known is the backend's affair: the route may have other URLs like this.
fn stop(request: &Request, verb: &str) -> Option<Ask> {
    let target = named(request.path_ends(["*", verb])?.pop()?);
    let body = Some(json!({ "result": "stopped" }));
    Some(Ask::Stop(Stop { target, stopped: Reply { status: StatusCode::OK, body } }))
}

/// What stands for a chat, a run or a stream in a URL.
fn named(name: String) -> Target {
    name.parse().map_or(Target::Session(name), Target::Turn)
}

/// The part with this index, from 0 or, if negative, from the end. Malformed means the start.
fn part(index: &str) -> From {
    match index.trim().parse::<i64>() {
        Ok(index) if index < 0 => From::Last(index.unsigned_abs()),
        Ok(index) => From::After(index.unsigned_abs()),
        Err(_) => From::After(0),
    }
}

fn ended(request: &Request) -> Ended {
    match request.replay_finished() {
        ReplayFinished::Undelivered => Ended::SentOnce,
        ReplayFinished::Always => Ended::Sent,
        ReplayFinished::Never => Ended::NothingLeft,
    }
}

fn is_done(event: &Message<'_>) -> bool {
    event.data() == b"[DONE]"
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Route;

    const TURN: &str = "abcdefghijklmnopqrstuvwxyz23";

    fn asked(method: &str, target: &str) -> Option<Ask> {
        AiSdk.asks(&Request::of(method, target, &[], ""))
    }

    #[track_caller]
    fn followed(target: &str) -> Follow {
        match asked("GET", target) {
            Some(Ask::Follow(follow)) => follow,
            other => panic!("{other:?}"),
        }
    }

    fn session(name: &str) -> Target {
        Target::Session(name.to_owned())
    }

    #[test]
    fn a_page_asks_for_its_chat_and_gets_all_of_the_turn_or_nothing() {
        let follow = followed("/api/chat/a%2Fb%20c/stream");
        assert_eq!(follow.target, session("a/b c"));
        assert_eq!(format!("{:?}", follow.from), "After(0)");
        assert_eq!(
            (follow.replies.nothing_left, follow.replies.unknown),
            (StatusCode::NO_CONTENT, StatusCode::NO_CONTENT)
        );
        assert!(!follow.or_backend && !follow.replies.patient);
    }

    #[test]
    fn the_route_decides_on_turns_that_have_ended() {
        for (setting, ended) in [
            (ReplayFinished::Undelivered, Ended::SentOnce),
            (ReplayFinished::Always, Ended::Sent),
            (ReplayFinished::Never, Ended::NothingLeft),
        ] {
            let route = Route { replay_finished: setting, ..Route::default() };
            let request = Request::of("GET", "/chat/c/stream", &[], "").on(&route);
            let Some(Ask::Follow(follow)) = AiSdk.asks(&request) else { panic!("it asks for a chat") };
            assert_eq!(follow.ended, ended);
        }
    }

    #[test]
    fn a_run_is_read_from_any_part() {
        for (index, from) in [
            ("0", "After(0)"),
            ("7", "After(7)"),
            ("-20", "Last(20)"),
            ("", "After(0)"),
            ("x", "After(0)"),
            ("1.5", "After(0)"),
        ] {
            let follow = followed(&format!("/api/chat/{TURN}/stream?startIndex={index}"));
            assert_eq!(follow.target, Target::Turn(TURN.parse().unwrap()));
            assert_eq!(format!("{:?}", follow.from), from, "{index:?}");
            assert_eq!(
                (follow.replies.nothing_left, follow.replies.unknown),
                (StatusCode::GONE, StatusCode::NOT_FOUND)
            );
            assert_eq!((follow.ended, follow.tail_index), (Ended::Sent, Some(TAIL_INDEX)));
        }
        assert_eq!(followed("/api/chat/c/stream?startIndex=0").target, session("c"));
        let done = Message::parse(b"data: [DONE]\n\n").unwrap();
        assert!((followed("/api/chat/c/stream?startIndex=0").trailer)(&done));
    }

    #[test]
    fn a_stream_is_found_wherever_the_application_puts_its_id() {
        for target in [format!("/api/resume/{TURN}"), format!("/api/chat/{TURN}/stream")] {
            let follow = followed(&target);
            assert_eq!(follow.target, Target::Turn(TURN.parse().unwrap()));
            assert_eq!(follow.ended, Ended::Sent);
        }
        for target in ["/api/chat", "/api/chat/c", "/stream", "/api//stream"] {
            assert!(asked("GET", target).is_none(), "{target}");
        }
    }

    #[test]
    fn a_chat_is_stopped_by_either_url() {
        for (method, target) in
            [("POST", "/api/chat/c%201/stop"), ("DELETE", "/api/chat/c%201/stop"), ("DELETE", "/api/chat/c%201/stream")]
        {
            match asked(method, target) {
                Some(Ask::Stop(stop)) => assert_eq!(stop.target, session("c 1")),
                other => panic!("{other:?}"),
            }
        }
        for (method, target) in [("POST", "/api/chat/c/stream"), ("POST", "/api/chat"), ("PUT", "/api/chat/c/stop")] {
            assert!(asked(method, target).is_none(), "{method} {target}");
        }
    }

    #[test]
    fn a_start_names_its_chat() {
        let request = |body: &str| Request::of("POST", "/api/chat", &[], body);
        let sdk = r#"{"id":"c","trigger":"submit-message","messages":[{"id":"m","role":"user","parts":[]}]}"#;
        let template = r#"{"id":"c","message":{"id":"m","role":"user","parts":[]},"selectedChatModel":"x"}"#;
        for body in [sdk, template] {
            assert!(AiSdk.recognises(&request(body)), "{body}");
            assert_eq!(AiSdk.session(&request(body)).as_deref(), Some("c"));
        }
        for body in [
            r#"{"id":"c"}"#,
            r#"{"id":1,"method":"x"}"#,
            r#"{"messages":[{"role":"user","content":""}],"id":"c"}"#,
            "[]",
            "",
        ] {
            assert!(!AiSdk.recognises(&request(body)), "{body}");
        }
    }

    #[test]
    fn answers_and_first_events_are_recognised() {
        let headers =
            HeaderMap::from_iter([(HeaderName::from_static(UI_MESSAGE_STREAM), HeaderValue::from_static("v1"))]);
        assert!(AiSdk.recognises_answer(&headers));
        assert!(!AiSdk.recognises_answer(&HeaderMap::new()));
        let first = |block: &'static [u8]| AiSdk.recognises_event(&Message::parse(block).unwrap());
        assert!(first(b"data: {\"type\":\"start\",\"messageId\":\"m\"}\n\n"));
        assert!(!first(b"event: start\ndata: {\"type\":\"start\"}\n\n"));
        assert!(!first(b"data: {\"type\":\"message_start\"}\n\n"));
    }

    #[test]
    fn an_answer_names_its_run_unless_the_backend_does() {
        let turn = TURN.parse().unwrap();
        let mut headers = HeaderMap::new();
        headers.insert(RUN, HeaderValue::from_static("wrun_1"));
        AiSdk.adorn(&mut headers, &turn, &Request::of("POST", "/api/chat", &[], ""));
        assert_eq!(
            (&headers[RUN], &headers[STREAM]),
            (&HeaderValue::from_static("wrun_1"), &HeaderValue::from_static(TURN))
        );
    }

    #[test]
    fn the_last_parts_tell_how_the_turn_went() {
        let said = |data: &str| AiSdk.terminal(&Message::parse(format!("data: {data}\n\n").as_bytes()).unwrap());
        assert_eq!(said("[DONE]"), Some(Terminal::DONE));
        assert_eq!(said(r#"{"type":"finish"}"#), Some(Terminal::soft(Outcome::Completed)));
        assert_eq!(said(r#"{"type":"finish","finishReason":"stop"}"#), Some(Terminal::soft(Outcome::Completed)));
        assert_eq!(said(r#"{"type":"finish","finishReason":"error"}"#), Some(Terminal::soft(Outcome::Failed)));
        assert_eq!(said(r#"{"type":"error","errorText":"x"}"#), Some(Terminal::soft(Outcome::Failed)));
        assert_eq!(said(r#"{"type":"abort"}"#), Some(Terminal::soft(Outcome::Cancelled)));
        for other in [r#"{"type":"finish-step"}"#, r#"{"type":"text-delta","delta":"finish"}"#, "finish", "{}"] {
            assert_eq!(said(other), None, "{other}");
        }
    }

    #[test]
    fn a_lost_turn_is_an_error_part() {
        let loss = Loss { outcome: Outcome::Interrupted, message: "It \"broke\".", request_id: None, first: None };
        let block = AiSdk.lost(&loss).unwrap();
        assert!(block.ends_with(b"\n\n"));
        let part = Message::parse(&block).unwrap().json().unwrap();
        assert_eq!(part, json!({ "type": "error", "errorText": "It \"broke\"." }));
    }
}
