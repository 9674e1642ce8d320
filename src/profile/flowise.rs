//! Flowise predictions.
//!
//! An event is a line `message:` (or `message`), which is no field of the standard, and `data:` with JSON that names its kind
//! in `event`. The last one is always `end`. No client of it resumes by itself.

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Value as Json, json};

use super::{Ask, Loss, Profile, Reply, Request, Stop, Target, Terminal};
use crate::{
    sse::Message,
    turn::{Dialect, Outcome},
};

/// See the module.
#[derive(Debug)]
pub(super) struct Flowise;

impl Dialect for Flowise {
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        let event = event.json()?;
        match event.get("event")?.as_str()? {
            "end" if event.get("data").and_then(Json::as_str) == Some("[DONE]") => Some(Terminal::DONE),
            "abort" => Some(Terminal::soft(Outcome::Cancelled)),
            "error" => Some(Terminal::soft(Outcome::Failed)),
            _ => None,
        }
    }
}

impl Profile for Flowise {
    fn name(&self) -> &'static str {
        "flowise"
    }

    fn recognises(&self, request: &Request) -> bool {
        let prediction = ["prediction", "internal-prediction"];
        request.method() == Method::POST
            && prediction.into_iter().any(|verb| request.path_ends(["api", "v1", verb, "*"]).is_some())
    }

    fn session(&self, request: &Request) -> Option<String> {
        let name = |pointer| request.text_at(pointer).filter(|name| !name.is_empty());
        name("/chatId").or_else(|| name("/overrideConfig/sessionId"))
    }

    fn asks(&self, request: &Request) -> Option<Ask> {
        if request.method() != Method::PUT {
            return None;
        }
        let chat = request.path_ends(["chatmessage", "abort", "*", "*"])?.pop()?;
        let body = json!({ "status": 200, "message": "Chat message aborted" });
        let stopped = Reply { status: StatusCode::OK, body: Some(body) };
        Some(Ask::Stop(Stop { target: Target::Session(chat), stopped }))
    }

    fn lost(&self, loss: &Loss<'_>) -> Option<Bytes> {
        // Its readers wait for `end`.
        let error = json!({ "event": "error", "data": loss.message });
        Some(format!("message:\ndata:{error}\n\n").into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_session_is_the_chat() {
        let of = |body| Flowise.session(&Request::of("POST", "/api/v1/prediction/f1", &[], body));
        assert_eq!(of(r#"{"chatId":"c1","overrideConfig":{"sessionId":"s1"}}"#).as_deref(), Some("c1"));
        assert_eq!(of(r#"{"overrideConfig":{"sessionId":"s1"}}"#).as_deref(), Some("s1"));
        assert_eq!(of(r#"{"chatId":null}"#), None);
    }

    #[test]
    fn it_is_recognised_by_its_path() {
        assert!(Flowise.recognises(&Request::of("POST", "/api/v1/prediction/f1", &[], "{}")));
        assert!(Flowise.recognises(&Request::of("POST", "/flowise/api/v1/internal-prediction/f1", &[], "{}")));
        assert!(!Flowise.recognises(&Request::of("POST", "/prediction/f1", &[], "{}")));
    }

    #[test]
    fn a_chat_is_stopped_by_its_name() {
        let asked = Flowise.asks(&Request::of("PUT", "/api/v1/chatmessage/abort/f1/c1", &[], ""));
        assert_eq!(asked.unwrap().target(), &Target::Session("c1".to_owned()));
        assert!(Flowise.asks(&Request::of("GET", "/api/v1/chatmessage/abort/f1/c1", &[], "")).is_none());
    }

    #[test]
    fn the_last_events_say_how_it_went() {
        let said = |block: &str| Flowise.terminal(&Message::parse(block.as_bytes()).unwrap());
        assert_eq!(said("message\ndata:{\"event\":\"end\",\"data\":\"[DONE]\"}\n\n"), Some(Terminal::DONE));
        assert_eq!(said("message\ndata:{\"event\":\"abort\"}\n\n"), Some(Terminal::soft(Outcome::Cancelled)));
        assert_eq!(said("message\ndata:{\"event\":\"error\"}\n\n"), Some(Terminal::soft(Outcome::Failed)));
        assert_eq!(said("message:\ndata:{\"event\":\"token\",\"data\":\"end\"}\n\n"), None);
    }

    #[test]
    fn a_lost_turn_is_an_error_event() {
        let loss = Loss { outcome: Outcome::Expired, message: "Too long.", request_id: None, first: None };
        let block = Flowise.lost(&loss).unwrap();
        assert_eq!(&block[..], b"message:\ndata:{\"data\":\"Too long.\",\"event\":\"error\"}\n\n");
    }
}
