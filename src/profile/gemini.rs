//! The Gemini API: `…:streamGenerateContent?alt=sse`.
//!
//! Its SDKs read no more of the standard than the server writes: in JavaScript all that stands behind `data:` in a block is
//! JSON, and a block that begins with anything else is skipped; in Python every other line is the begin of an error. So the
//! stream goes to them without id, `retry:` and comment lines. They cannot resume; what they get is a turn that goes on
//! without them.
//!
//! A server that fails in the middle writes its error as bare JSON, which is no event, and the older JavaScript SDK takes an
//! event with an error for an empty part of the answer: a turn that was lost has to break the connection.
//!
//! Without `alt=sse` the answer is a JSON array, and passes.

use http::Method;
use serde_json::Value as Json;

use super::{Profile, Request, Terminal};
use crate::{
    sse::Message,
    turn::{Dialect, Outcome},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Gemini;

impl Dialect for Gemini {
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        let event = event.json()?;
        if event.get("error").is_some_and(Json::is_object) {
            return Some(Terminal::soft(Outcome::Failed));
        }
        // Other candidates may go on, and usage figures may follow.
        let finished = event.pointer("/candidates/0/finishReason")?.is_string();
        finished.then(|| Terminal::soft(Outcome::Completed))
    }
}

impl Profile for Gemini {
    fn name(&self) -> &'static str {
        "gemini"
    }

    fn recognises(&self, request: &Request) -> bool {
        request.method() == Method::POST && request.path().ends_with(":streamGenerateContent")
    }

    fn recognises_event(&self, first: &Message<'_>) -> bool {
        let first = first.json();
        first.is_some_and(|first| {
            first.get("candidates").is_some_and(Json::is_array) && first.get("modelVersion").is_some()
        })
    }

    fn bare(&self) -> bool {
        true
    }

    fn names_in_events(&self) -> bool {
        true
    }

    fn name_in(&self, event: &Message<'_>) -> Option<String> {
        event.json()?.get("responseId")?.as_str().map(str::to_owned)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(data: &str) -> String {
        format!("data: {data}\r\n\r\n")
    }

    fn said(data: &str) -> Option<Terminal> {
        Gemini.terminal(&Message::parse(message(data).as_bytes()).unwrap())
    }

    #[test]
    fn it_is_recognised_by_its_path() {
        let of = |path| Gemini.recognises(&Request::of("POST", path, &[], "{}"));
        assert!(of("/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"));
        assert!(of("/v1/projects/p/locations/l/publishers/google/models/m:streamGenerateContent?alt=sse"));
        assert!(!of("/v1beta/models/gemini-2.5-flash:generateContent"));
    }

    #[test]
    fn the_last_events_say_how_it_went() {
        let finished = r#"{"candidates":[{"content":{"parts":[]},"finishReason":"STOP"}],"responseId":"r"}"#;
        assert_eq!(said(finished), Some(Terminal::soft(Outcome::Completed)));
        assert_eq!(said(r#"{"error":{"code":500,"status":"INTERNAL"}}"#), Some(Terminal::soft(Outcome::Failed)));
        assert_eq!(said(r#"{"candidates":[{"content":{"parts":[{"text":"STOP"}]}}]}"#), None);
    }

    #[test]
    fn a_turn_goes_by_its_response_id() {
        let block = message(r#"{"candidates":[],"modelVersion":"m","responseId":"r1"}"#);
        let first = Message::parse(block.as_bytes()).unwrap();
        assert_eq!(Gemini.name_in(&first).as_deref(), Some("r1"));
        assert!(Gemini.recognises_event(&first));
    }
}
