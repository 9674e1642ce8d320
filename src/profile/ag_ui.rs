//! AG-UI, and CopilotKit, whose runtime speaks it: an agent that runs in a thread.
//!
//! Its clients do not resume by themselves; with the shim they do, by the turn's own URL. A request carries its whole
//! input, the thread's name included; CopilotKit may wrap it, to send all methods to one endpoint. Several runs may follow
//! each other in one answer, so that only its end ends the turn.

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
pub(super) struct AgUi;

impl Dialect for AgUi {
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        match event.json()?["type"].as_str()? {
            "RUN_FINISHED" => Some(Terminal::soft(Outcome::Completed)),
            "RUN_ERROR" => Some(Terminal::soft(Outcome::Failed)),
            _ => None,
        }
    }
}

impl Profile for AgUi {
    fn name(&self) -> &'static str {
        "ag-ui"
    }

    fn recognises(&self, request: &Request) -> bool {
        if connects(request) || stops(request).is_some() {
            return true;
        }
        let is_input = |input: &Json| {
            let strings = ["threadId", "runId"].iter().all(|key| input[key].is_string());
            strings && ["messages", "tools", "context"].iter().all(|key| input[key].is_array())
        };
        let body = request.json();
        body.is_some_and(|body| is_input(body) || body["method"] == "agent/run" && is_input(&body["body"]))
    }

    fn recognises_event(&self, first: &Message<'_>) -> bool {
        first.json().is_some_and(|data| data["type"] == "RUN_STARTED" && data["threadId"].is_string())
    }

    /// CopilotKit asks so for what is in a thread already: the runtime replays it, and no run begins.
    fn passes(&self, request: &Request) -> bool {
        connects(request)
    }

    fn session(&self, request: &Request) -> Option<String> {
        match request.text_at("/method").as_deref() {
            Some("agent/run") => request.text_at("/body/threadId"),
            // The other methods start nothing: what they answer must not stand for the thread's run.
            Some(method) if method.starts_with("agent/") => None,
            _ => request.text_at("/threadId"),
        }
    }

    fn asks(&self, request: &Request) -> Option<Ask> {
        let target = Target::Session(stops(request)?);
        let stopped = Reply { status: StatusCode::OK, body: Some(json!({ "stopped": true })) };
        Some(Ask::Stop(Stop { target, stopped }))
    }

    fn lost(&self, loss: &Loss<'_>) -> Option<Bytes> {
        let data = json!({ "type": "RUN_ERROR", "message": loss.message, "code": loss.outcome.as_str() });
        Some(format!("data: {data}\n\n").into())
    }
}

fn connects(request: &Request) -> bool {
    request.method() == Method::POST && request.path_ends(["agent", "*", "connect"]).is_some()
}

/// The thread whose run is to be stopped.
fn stops(request: &Request) -> Option<String> {
    if request.method() != Method::POST {
        return None;
    }
    if let Some(mut captured) = request.path_ends(["agent", "*", "stop", "*"]) {
        return captured.pop();
    }
    request.text_at("/method").filter(|method| method == "agent/stop")?;
    request.text_at("/params/threadId")
}

#[cfg(test)]
mod tests {
    use super::*;

    const INPUT: &str = r#"{"threadId":"t1","runId":"r1","state":{},"messages":[],"tools":[],"context":[]}"#;

    fn post(path: &str, body: &str) -> Request {
        Request::of("POST", path, &[], body)
    }

    fn single(method: &str, body: &str) -> Request {
        post(
            "/api/copilotkit",
            &format!(r#"{{"method":"{method}","params":{{"agentId":"a","threadId":"t1"}},"body":{body}}}"#),
        )
    }

    #[test]
    fn a_run_that_ends_is_not_the_end() {
        let says = |block: &str| AgUi.terminal(&Message::parse(block.as_bytes()).unwrap());
        assert_eq!(says("data: {\"type\":\"RUN_FINISHED\"}\n\n"), Some(Terminal::soft(Outcome::Completed)));
        assert_eq!(says("data: {\"type\":\"RUN_ERROR\",\"message\":\"x\"}\n\n"), Some(Terminal::soft(Outcome::Failed)));
        assert_eq!(says("data: {\"type\":\"TEXT_MESSAGE_END\"}\n\n"), None);
        assert_eq!(says("data: RUN_FINISHED\n\n"), None);
    }

    #[test]
    fn a_run_is_recognised_and_has_its_thread_for_a_session() {
        for request in [post("/agent", INPUT), post("/api/copilotkit/agent/a/run", INPUT), single("agent/run", INPUT)] {
            assert!(AgUi.recognises(&request), "{}", request.path());
            assert_eq!(AgUi.session(&request).as_deref(), Some("t1"));
            assert!(!AgUi.passes(&request) && AgUi.asks(&request).is_none());
        }
        for other in [post("/chat", r#"{"threadId":"t1"}"#), post("/chat", "x"), single("info", "{}")] {
            assert!(!AgUi.recognises(&other));
        }
    }

    #[test]
    fn what_looks_into_a_thread_is_no_run_of_it() {
        let connect = post("/api/copilotkit/agent/a/connect", INPUT);
        assert!(AgUi.recognises(&connect) && AgUi.passes(&connect));
        assert_eq!(AgUi.session(&single("agent/connect", INPUT)), None);
        assert!(!AgUi.passes(&post("/connect", INPUT)));
    }

    #[test]
    fn a_thread_is_stopped_by_path_and_by_body() {
        let of_path = post("/api/copilotkit/agent/a/stop/t%201", "");
        for (request, thread) in [(of_path, "t 1"), (single("agent/stop", "{}"), "t1")] {
            assert!(AgUi.recognises(&request));
            let Some(Ask::Stop(stop)) = AgUi.asks(&request) else { panic!("{} stops nothing", request.path()) };
            assert_eq!(stop.target, Target::Session(thread.into()));
        }
        assert!(AgUi.asks(&Request::of("GET", "/agent/a/stop/t1", &[], "")).is_none());
    }

    #[test]
    fn streams_are_recognised_by_their_first_event() {
        let is = |block: &str| AgUi.recognises_event(&Message::parse(block.as_bytes()).unwrap());
        assert!(is("data: {\"type\":\"RUN_STARTED\",\"threadId\":\"t\",\"runId\":\"r\"}\n\n"));
        assert!(!is("data: {\"type\":\"start\"}\n\n"));
    }

    #[test]
    fn a_lost_turn_is_a_run_error() {
        let loss = Loss { outcome: Outcome::Interrupted, message: "gone", request_id: None, first: None };
        let block = AgUi.lost(&loss).unwrap();
        let message = Message::parse(&block).unwrap();
        assert_eq!(message.json().unwrap()["message"], "gone");
        assert_eq!(AgUi.terminal(&message), Some(Terminal::soft(Outcome::Failed)));
    }
}
