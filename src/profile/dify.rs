//! Dify's service API: chat, completion and workflow apps.
//!
//! Every event is `data:` with JSON that names its kind in `event` and its task in `task_id`. Between them the server sends
//! `event: ping` blocks without data. No client of it resumes by itself.

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
pub(super) struct Dify;

impl Dialect for Dify {
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        let event = event.json()?;
        match kind(&event)? {
            // A chat's voice may come behind it.
            "message_end" => Some(Terminal::soft(Outcome::Completed)),
            "error" => Some(Terminal::soft(Outcome::Failed)),
            "workflow_finished" => {
                let outcome = match event.pointer("/data/status").and_then(Json::as_str) {
                    Some("failed") => Outcome::Failed,
                    Some("stopped") => Outcome::Cancelled,
                    _ => Outcome::Completed,
                };
                // In a chat the end of the message is still to come.
                let in_chat = event.get("message_id").is_some_and(|id| !id.is_null());
                Some(if in_chat { Terminal::soft(outcome) } else { Terminal::hard(outcome) })
            }
            _ => None,
        }
    }
}

impl Profile for Dify {
    fn name(&self) -> &'static str {
        "dify"
    }

    fn recognises(&self, request: &Request) -> bool {
        let path = request.path();
        let run = path.ends_with("/workflows/run") || request.path_ends(["workflows", "*", "run"]).is_some();
        (run || path.ends_with("/chat-messages") || path.ends_with("/completion-messages"))
            && request.text_at("/response_mode").is_some()
    }

    fn recognises_event(&self, first: &Message<'_>) -> bool {
        let first = first.json();
        first.as_ref().is_some_and(|first| kind(first).is_some() && task(first).is_some())
    }

    fn session(&self, request: &Request) -> Option<String> {
        request.text_at("/conversation_id").filter(|id| !id.is_empty())
    }

    fn asks(&self, request: &Request) -> Option<Ask> {
        if request.method() != Method::POST {
            return None;
        }
        let task = ["chat-messages", "completion-messages", "tasks"]
            .into_iter()
            .find_map(|of| request.path_ends([of, "*", "stop"]))?
            .pop()?;
        let stopped = Reply { status: StatusCode::OK, body: Some(json!({ "result": "success" })) };
        Some(Ask::Stop(Stop { target: Target::Name(task), stopped }))
    }

    fn names_in_events(&self) -> bool {
        true
    }

    fn name_in(&self, event: &Message<'_>) -> Option<String> {
        task(&event.json()?).map(str::to_owned)
    }

    fn lost(&self, loss: &Loss<'_>) -> Option<Bytes> {
        let first = loss.first.as_ref().and_then(Message::json).unwrap_or_default();
        let mut error = json!({
            "event": "error", "status": 503, "code": format!("turn_{}", loss.outcome.as_str()), "message": loss.message,
        });
        for name in ["task_id", "message_id", "conversation_id", "workflow_run_id"] {
            if let Some(id) = first.get(name) {
                error[name] = id.clone();
            }
        }
        Some(format!("data: {error}\n\n").into())
    }
}

fn kind(event: &Json) -> Option<&str> {
    event.get("event")?.as_str()
}

fn task(event: &Json) -> Option<&str> {
    event.get("task_id")?.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(data: &str) -> Option<Terminal> {
        Dify.terminal(&Message::parse(format!("data: {data}\n\n").as_bytes()).unwrap())
    }

    #[test]
    fn the_session_is_the_conversation() {
        let of = |body| Dify.session(&Request::of("POST", "/v1/chat-messages", &[], body));
        assert_eq!(of(r#"{"conversation_id":"c1"}"#).as_deref(), Some("c1"));
        // A first message has none yet.
        assert_eq!(of(r#"{"conversation_id":""}"#), None);
        assert_eq!(of("{}"), None);
    }

    #[test]
    fn it_is_recognised_by_path_and_mode() {
        let of = |path, body| Dify.recognises(&Request::of("POST", path, &[], body));
        for path in ["/v1/chat-messages", "/v1/completion-messages", "/v1/workflows/run", "/v1/workflows/w1/run"] {
            assert!(of(path, r#"{"response_mode":"streaming"}"#), "{path}");
            assert!(!of(path, "{}"), "{path}");
        }
        assert!(!of("/v1/messages", r#"{"response_mode":"streaming"}"#));
    }

    #[test]
    fn a_task_is_stopped_by_its_name() {
        let of = |method, path| match Dify.asks(&Request::of(method, path, &[], r#"{"user":"u"}"#)) {
            Some(Ask::Stop(stop)) => Some(stop.target),
            _ => None,
        };
        for path in ["/v1/chat-messages/t1/stop", "/v1/completion-messages/t1/stop", "/v1/workflows/tasks/t1/stop"] {
            assert_eq!(of("POST", path), Some(Target::Name("t1".to_owned())), "{path}");
        }
        assert_eq!(of("GET", "/v1/chat-messages/t1/stop"), None);
        assert_eq!(of("POST", "/v1/chat-messages"), None);
        let event = Message::parse(br#"data: {"event":"message","task_id":"t1","answer":"a"}"#).unwrap();
        assert_eq!(Dify.name_in(&event).as_deref(), Some("t1"));
    }

    #[test]
    fn the_last_events_say_how_it_went() {
        assert_eq!(said(r#"{"event":"message_end","task_id":"t"}"#), Some(Terminal::soft(Outcome::Completed)));
        assert_eq!(said(r#"{"event":"error","status":400}"#), Some(Terminal::soft(Outcome::Failed)));
        let finished = |status, message| {
            said(&format!(r#"{{"event":"workflow_finished","data":{{"status":"{status}"}}{message}}}"#))
        };
        assert_eq!(finished("succeeded", ""), Some(Terminal::hard(Outcome::Completed)));
        assert_eq!(finished("stopped", ""), Some(Terminal::hard(Outcome::Cancelled)));
        assert_eq!(finished("failed", r#","message_id":"m""#), Some(Terminal::soft(Outcome::Failed)));
        assert_eq!(said(r#"{"event":"message","answer":"message_end"}"#), None);
        assert_eq!(said("text"), None);
    }

    #[test]
    fn a_lost_turn_is_an_error_event_of_its_task() {
        let first = Message::parse(br#"data: {"event":"message","task_id":"t1","message_id":"m1","answer":"a"}"#);
        let loss = Loss { outcome: Outcome::Expired, message: "Too long.", request_id: None, first };
        let event = Message::parse(&Dify.lost(&loss).unwrap()).unwrap().json().unwrap();
        assert_eq!(
            event,
            json!({
                "event": "error", "status": 503, "code": "turn_expired", "message": "Too long.",
                "task_id": "t1", "message_id": "m1",
            })
        );
    }
}
