//! Anthropic's Messages API.
//!
//! Its libraries never resume a stream, and the API has no request for it: a message that is cut is an error. They send a
//! start again that they lost before its answer, which admission recognises. What is here tells how a message ended.

use bytes::Bytes;
use http::Method;
use serde_json::json;

use super::{Loss, Profile, Replies, Request, Terminal, openai};
use crate::{
    sse::Message,
    turn::{Dialect, Outcome},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Anthropic;

impl Dialect for Anthropic {
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        match event.event() {
            b"message_stop" => Some(Terminal::hard(Outcome::Completed)),
            b"error" => (event.json()?["type"] == "error").then_some(Terminal::soft(Outcome::Failed)),
            _ => None,
        }
    }
}

impl Profile for Anthropic {
    fn name(&self) -> &'static str {
        "anthropic"
    }

    /// The version is a header that every request of the API has.
    fn recognises(&self, request: &Request) -> bool {
        request.method() == Method::POST
            && request.path_ends(["messages"]).is_some()
            && (request.header("anthropic-version").is_some() || request.path_ends(["v1", "messages"]).is_some())
    }

    fn recognises_event(&self, first: &Message<'_>) -> bool {
        first.event() == b"message_start"
            && first.json().is_some_and(|data| data["type"] == "message_start" && data["message"].is_object())
    }

    fn replies(&self, request: &Request) -> Replies {
        openai::replies(request)
    }

    fn lost(&self, loss: &Loss<'_>) -> Option<Bytes> {
        let error = json!({ "type": "api_error", "message": loss.message });
        Some(format!("event: error\ndata: {}\n\n", json!({ "type": "error", "error": error })).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_events_are_told_from_others() {
        let says = |block: &str| Anthropic.terminal(&Message::parse(block.as_bytes()).unwrap());
        assert_eq!(
            says("event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n"),
            Some(Terminal::hard(Outcome::Completed))
        );
        let error = "event: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\"}}\n\n";
        assert_eq!(says(error), Some(Terminal::soft(Outcome::Failed)));
        assert_eq!(says("event: ping\ndata: {\"type\":\"ping\"}\n\n"), None);
        assert_eq!(says("event: message_delta\ndata: {\"delta\":{\"stop_reason\":\"end_turn\"}}\n\n"), None);
        assert_eq!(says("event: error\ndata: of another dialect\n\n"), None);
    }

    #[test]
    fn its_starts_and_streams_are_recognised() {
        let is = |method, path, headers: &[_]| Anthropic.recognises(&Request::of(method, path, headers, ""));
        let version = [("anthropic-version", "2023-06-01")];
        assert!(is("POST", "/v1/messages", &[]));
        assert!(is("POST", "/claude/messages?beta=true", &version));
        assert!(!is("POST", "/messages?sessionId=1", &[]));
        assert!(!is("POST", "/v1/messages/batches", &version));
        assert!(!is("GET", "/v1/messages", &version));
        let streams = |block: &str| Anthropic.recognises_event(&Message::parse(block.as_bytes()).unwrap());
        assert!(streams("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\"}}\n\n"));
        assert!(!streams("event: message_start\ndata: Hello\n\n"));
    }

    #[test]
    fn a_lost_turn_is_an_error_event() {
        let loss = Loss { outcome: Outcome::Expired, message: "gone", request_id: None, first: None };
        let block = Anthropic.lost(&loss).unwrap();
        let message = Message::parse(&block).unwrap();
        assert_eq!(message.event(), b"error");
        assert_eq!(message.json().unwrap()["error"]["message"], "gone");
        assert_eq!(Anthropic.terminal(&message), Some(Terminal::soft(Outcome::Failed)));
    }
}
