//! The OpenAI API, and what speaks it: vLLM, llama.cpp, LiteLLM, OpenRouter, Ollama's `/v1`.
//!
//! Its libraries never resume a stream by themselves. A chat completion that is cut is an error to them; a response (of
//! the Responses API) has an id, and its caller may go on with `responses.retrieve(id, {stream: true, starting_after})`.
//! Few backends can serve that, and those that can only for responses in the background. Here every response that is kept
//! can be continued, by the `sequence_number` that each of its events carries.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::{Ask, Follow, From, Loss, Profile, Replies, Reply, Request, Stop, Target, Terminal};
use crate::{
    sse::Message,
    turn::{Dialect, Outcome},
};

/// See the module.
#[derive(Debug)]
pub(super) struct OpenAi;

/// What this family's libraries understand: an answer without a body is an error to them, and a stream without events is one
/// that has ended.
const REPLIES: Replies = Replies { nothing_left: StatusCode::OK, ..Replies::POST };

/// The same for whoever sends a start again with an event id, of which only the libraries are known. Anthropic's is their kin.
pub(super) fn replies(request: &Request) -> Replies {
    match request.header("x-stainless-lang") {
        Some(_) => REPLIES,
        None => Replies::of(request.method(), request.headers()),
    }
}

impl Dialect for OpenAi {
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        if is_done(event) {
            return Some(Terminal::DONE);
        }
        let data = event.json()?;
        match data["type"].as_str() {
            // An answer that met its length limit is whole, as far as it was to go.
            Some("response.completed" | "response.incomplete") => Some(Terminal::hard(Outcome::Completed)),
            Some("response.failed") => Some(Terminal::hard(Outcome::Failed)),
            Some("error") => Some(Terminal::soft(Outcome::Failed)),
            Some(_) => None,
            // Some servers send `[DONE]` behind it as well.
            None => data.get("error").is_some_and(|error| !error.is_null()).then_some(Terminal::soft(Outcome::Failed)),
        }
    }
}

impl Profile for OpenAi {
    fn name(&self) -> &'static str {
        "openai"
    }

    fn recognises(&self, request: &Request) -> bool {
        let is_response = || {
            // Plain `/responses` may be anything; the API's own body is unmistakable, and its own path is enough where the
            // body is too large to be looked at.
            request.path_ends(["v1", "responses"]).is_some()
                || request.json().is_some_and(|body| {
                    body["stream"] == true && (body.get("input").is_some() || body.get("prompt").is_some())
                })
        };
        request.method() == Method::POST
            && (request.path_ends(["chat", "completions"]).is_some()
                || request.path_ends(["responses"]).is_some() && is_response())
    }

    fn recognises_event(&self, first: &Message<'_>) -> bool {
        is_of_response(first) || first.json().is_some_and(|data| data["object"] == "chat.completion.chunk")
    }

    /// A conversation that the backend keeps. (The response that a request goes on from names another one each time.)
    fn session(&self, request: &Request) -> Option<String> {
        request.text_at("/conversation").or_else(|| request.text_at("/conversation/id"))
    }

    fn asks(&self, request: &Request) -> Option<Ask> {
        match *request.method() {
            Method::GET if request.query("stream")? == "true" => {
                let id = request.path_ends(["responses", "*"])?.pop()?;
                let mut follow = Follow::whole(Target::Name(id), REPLIES);
                if let Some(after) = request.query("starting_after").and_then(|number| number.parse().ok()) {
                    follow.from = From::Behind(Arc::new(move |event| is_up_to(event, after)));
                }
                follow.or_backend = true;
                follow.trailer = is_done;
                Some(Ask::Follow(follow))
            }
            Method::POST => {
                let id = request.path_ends(["responses", "*", "cancel"])?.pop()?;
                let stopped = Reply { status: StatusCode::OK, body: Some(response(&id, "cancelled")) };
                Some(Ask::Stop(Stop { target: Target::Name(id), stopped }))
            }
            _ => None,
        }
    }

    /// The API refuses (400) to cancel what does not run in the background, because its client could just leave.
    fn must_stop_here(&self, status: StatusCode) -> bool {
        status.is_server_error()
            || matches!(status, StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
    }

    fn had_ended(&self, target: &Target, outcome: Outcome) -> Option<Reply> {
        let Target::Name(id) = target else { return None };
        let status = match outcome {
            Outcome::Completed => "completed",
            Outcome::Cancelled | Outcome::Superseded => "cancelled",
            Outcome::Failed => "failed",
            Outcome::Interrupted | Outcome::Expired => "incomplete",
        };
        Some(Reply { status: StatusCode::OK, body: Some(response(id, status)) })
    }

    fn replies(&self, request: &Request) -> Replies {
        replies(request)
    }

    fn names_in_events(&self) -> bool {
        true
    }

    fn name_in(&self, event: &Message<'_>) -> Option<String> {
        let data = event.json().filter(|data| data["type"] == "response.created")?;
        Some(data["response"]["id"].as_str()?.to_owned())
    }

    /// The nested error is what the libraries raise; the flat one is what the API describes.
    fn lost(&self, loss: &Loss<'_>) -> Option<Bytes> {
        let (message, code) = (loss.message, loss.outcome.as_str());
        let error = json!({ "type": "server_error", "code": code, "message": message, "param": null });
        if loss.first.as_ref().is_some_and(|first| !is_of_response(first)) {
            return Some(format!("data: {}\n\n", json!({ "error": error })).into());
        }
        let data = json!({ "type": "error", "code": code, "message": message, "param": null, "error": error });
        Some(format!("event: error\ndata: {data}\n\n").into())
    }
}

fn is_done(event: &Message<'_>) -> bool {
    event.data() == b"[DONE]"
}

fn is_of_response(event: &Message<'_>) -> bool {
    event.json().is_some_and(|data| data["type"].as_str().is_some_and(|kind| kind.starts_with("response.")))
}

fn is_up_to(event: &Message<'_>, after: u64) -> bool {
    event.json().and_then(|data| data["sequence_number"].as_u64()).is_some_and(|number| number <= after)
}

/// A response in a state, as far as its id alone tells.
fn response(id: &str, status: &str) -> Json {
    json!({
        "id": id,
        "object": "response",
        "status": status,
        "error": null,
        "incomplete_details": null,
        "output": [],
        "metadata": {},
        "tools": [],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn says(block: &str) -> Option<Terminal> {
        OpenAi.terminal(&Message::parse(block.as_bytes()).unwrap())
    }

    fn response_event(kind: &str, number: u64) -> String {
        format!(
            "event: {kind}\ndata: {{\"type\":\"{kind}\",\"sequence_number\":{number},\"response\":{{\"id\":\"r1\"}}}}\n\n"
        )
    }

    #[test]
    fn terminal_events_are_told_from_others() {
        assert_eq!(says("data: [DONE]\n\n"), Some(Terminal::DONE));
        assert_eq!(says("data: {\"error\":{\"message\":\"x\"}}\n\n"), Some(Terminal::soft(Outcome::Failed)));
        assert_eq!(
            says("event: error\ndata: {\"type\":\"error\",\"message\":\"x\"}\n\n").unwrap().outcome,
            Some(Outcome::Failed)
        );
        for (kind, outcome) in [
            ("response.completed", Outcome::Completed),
            ("response.incomplete", Outcome::Completed),
            ("response.failed", Outcome::Failed),
        ] {
            assert_eq!(says(&response_event(kind, 9)), Some(Terminal::hard(outcome)));
        }
        for other in ["data: {\"choices\":[],\"error\":null}\n\n", "data: DONE\n\n", "data: {\"type\":\"ping\"}\n\n"] {
            assert_eq!(says(other), None, "{other}");
        }
        assert_eq!(says(&response_event("response.output_text.done", 4)), None);
    }

    #[test]
    fn its_starts_are_recognised() {
        let is = |method, path, body| OpenAi.recognises(&Request::of(method, path, &[], body));
        assert!(is("POST", "/v1/chat/completions", ""));
        assert!(is("POST", "/openai/deployments/x/chat/completions?api-version=1", "{}"));
        assert!(is("POST", "/v1/responses", ""));
        assert!(is("POST", "/api/responses", r#"{"input":"Hello","stream":true}"#));
        for (method, path, body) in [
            ("POST", "/api/responses", r#"{"answer":42}"#),
            ("POST", "/api/responses", ""),
            ("GET", "/v1/chat/completions", ""),
            ("POST", "/v1/responses/r1/cancel", ""),
            ("POST", "/completions", ""),
        ] {
            assert!(!is(method, path, body), "{method} {path} {body}");
        }
    }

    #[test]
    fn its_streams_are_recognised_by_their_first_event() {
        let is = |block: &str| OpenAi.recognises_event(&Message::parse(block.as_bytes()).unwrap());
        assert!(is(&response_event("response.created", 0)));
        assert!(is("data: {\"id\":\"c\",\"object\":\"chat.completion.chunk\",\"choices\":[]}\n\n"));
        assert!(!is("data: {\"type\":\"message_start\"}\n\n"));
        assert!(!is("data: Hello\n\n"));
    }

    #[test]
    fn a_response_is_continued_behind_a_number() {
        let asks = |target: &str| OpenAi.asks(&Request::of("GET", target, &[], ""));
        let Some(Ask::Follow(follow)) = asks("/v1/responses/r1?stream=true&starting_after=3") else {
            panic!("it is not taken for a resume")
        };
        assert_eq!((follow.target, follow.replies.nothing_left), (Target::Name("r1".into()), StatusCode::OK));
        assert!(follow.or_backend);
        let From::Behind(is_before) = follow.from else { panic!("{:?}", follow.from) };
        let before = |number| is_before(&Message::parse(response_event("response.x", number).as_bytes()).unwrap());
        assert_eq!([2, 3, 4].map(before), [true, true, false]);
        let done = Message::parse(b"data: [DONE]\n\n").unwrap();
        assert!(!is_before(&done) && (follow.trailer)(&done));
        for whole in ["", "&starting_after=", "&starting_after=-1", "&starting_after=x"] {
            let Some(Ask::Follow(follow)) = asks(&format!("/v1/responses/r1?stream=true{whole}")) else {
                panic!("{whole}")
            };
            assert!(matches!(follow.from, From::After(0)), "{whole}: {:?}", follow.from);
        }
        for other in
            ["/v1/responses/r1", "/v1/responses/r1?stream=false", "/v1/responses?stream=true", "/v1/x/r1?stream=true"]
        {
            assert!(asks(other).is_none(), "{other}");
        }
    }

    #[test]
    fn its_libraries_want_a_stream_where_nothing_is_left() {
        let nothing_left =
            |headers: &[_]| OpenAi.replies(&Request::of("POST", "/v1/responses", headers, "")).nothing_left;
        assert_eq!(nothing_left(&[("x-stainless-lang", "js")]), StatusCode::OK);
        // Other clients take that for a reason to come back.
        assert_eq!(nothing_left(&[]), StatusCode::NO_CONTENT);
    }

    #[test]
    fn a_response_is_cancelled_by_its_id() {
        let asks = |method, path| OpenAi.asks(&Request::of(method, path, &[], ""));
        let Some(Ask::Stop(stop)) = asks("POST", "/v1/responses/r1/cancel") else {
            panic!("it is not taken for a stop")
        };
        assert_eq!(stop.target, Target::Name("r1".into()));
        let body = stop.stopped.body.unwrap();
        assert_eq!((&body["id"], &body["status"]), (&json!("r1"), &json!("cancelled")));
        let ended = OpenAi.had_ended(&stop.target, Outcome::Completed).unwrap().body.unwrap();
        assert_eq!(
            (&ended["id"], &ended["status"]),
            (&json!("r1"), &json!("completed")),
            "it is too late to cancel it"
        );
        assert!(OpenAi.must_stop_here(StatusCode::BAD_REQUEST) && !OpenAi.must_stop_here(StatusCode::FORBIDDEN));
        assert!(asks("POST", "/v1/responses").is_none());
        assert!(asks("GET", "/v1/responses/r1/cancel").is_none());
    }

    #[test]
    fn a_response_names_its_turn_once() {
        let name = |block: &str| OpenAi.name_in(&Message::parse(block.as_bytes()).unwrap());
        assert_eq!(name(&response_event("response.created", 0)).as_deref(), Some("r1"));
        // What a backend itself resumes begins in the middle, and is no turn to be found by this name.
        assert_eq!(name(&response_event("response.in_progress", 1)), None);
        assert_eq!(name("data: {\"id\":\"chatcmpl-1\"}\n\n"), None);
    }

    #[test]
    fn a_conversation_is_a_session() {
        let session = |body| OpenAi.session(&Request::of("POST", "/v1/responses", &[], body));
        assert_eq!(session(r#"{"conversation":"conv_1"}"#).as_deref(), Some("conv_1"));
        assert_eq!(session(r#"{"conversation":{"id":"conv_2"}}"#).as_deref(), Some("conv_2"));
        assert_eq!(session(r#"{"previous_response_id":"r1"}"#), None);
    }

    #[test]
    fn a_lost_turn_is_an_error_in_the_words_of_its_api() {
        let lost = |first: Option<&str>| {
            let first = first.map(|block| Message::parse(block.as_bytes()).unwrap());
            OpenAi.lost(&Loss { outcome: Outcome::Interrupted, message: "gone", request_id: None, first }).unwrap()
        };
        for (first, event) in [
            (Some("data: {\"object\":\"chat.completion.chunk\"}\n\n".to_owned()), ""),
            (Some(response_event("response.created", 0)), "error"),
            (None, "error"),
        ] {
            let block = lost(first.as_deref());
            let message = Message::parse(&block).unwrap();
            assert_eq!(message.event(), event.as_bytes());
            assert_eq!(message.json().unwrap()["error"]["message"], "gone");
            assert_eq!(OpenAi.terminal(&message).unwrap().outcome, Some(Outcome::Failed));
        }
    }
}
