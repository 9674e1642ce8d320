//! Agent2Agent, versions 0.3 and 1.0, over JSON-RPC and REST.
//!
//! Its clients never resume by themselves. Their callers subscribe to a task again by its id. The protocol means that as "what
//! comes from now on", so a route has to ask for more: on a route that names this profile the turn is answered with from its
//! start, under the id of the new request, since clients refuse answers to another. Under `auto` a subscription is the
//! backend's.

use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde_json::{Value as Json, json};

use super::{Ask, Follow, Loss, Profile, Replies, Request, Rewrite, Target, Terminal, json_rpc};
use crate::{
    sse::{Message, with_data},
    turn::{Dialect, Outcome},
};

/// Methods that subscribe to a task again.
const SUBSCRIBES: [&str; 2] = ["tasks/resubscribe", "SubscribeToTask"];

/// See the module.
#[derive(Debug)]
pub(super) struct A2a;

/// What one event of an answer says.
enum Update<'a> {
    /// A message in place of a task: it is the whole answer.
    Message(&'a Json),
    /// Something about a task.
    Task {
        id: &'a Json,
        /// Its state, as either version writes it: `completed`, `TASK_STATE_COMPLETED`.
        state: Option<&'a str>,
        /// Version 0.3: nothing follows.
        last: bool,
    },
}

impl<'a> Update<'a> {
    /// Reads what JSON-RPC has in `result`, and REST bare.
    fn of(message: &'a Json) -> Option<Self> {
        let payload = message.get("result").unwrap_or(message);
        let state = |object: &'a Json| object.pointer("/status/state").and_then(Json::as_str);
        // Version 0.3 names the kind in the object itself, and only in JSON-RPC.
        if let Some(kind) = payload.get("kind").and_then(Json::as_str).filter(|_| message.get("result").is_some()) {
            let last = payload.get("final") == Some(&Json::Bool(true));
            return match kind {
                "message" => Some(Self::Message(payload)),
                "task" => Some(Self::Task { id: payload.get("id")?, state: state(payload), last }),
                "status-update" => Some(Self::Task { id: payload.get("taskId")?, state: state(payload), last }),
                "artifact-update" => Some(Self::Task { id: payload.get("taskId")?, state: None, last }),
                _ => None,
            };
        }
        let member = |name| payload.get(name).filter(|member| member.is_object());
        if let Some(message) = member("message") {
            return message.get("messageId").map(|_| Self::Message(message));
        }
        let (object, id) = match (member("task"), member("statusUpdate").or_else(|| member("artifactUpdate"))) {
            (Some(task), _) => (task, "id"),
            (_, update) => (update?, "taskId"),
        };
        Some(Self::Task { id: object.get(id)?, state: state(object), last: false })
    }

    /// The id of the task.
    fn task(&self) -> Option<String> {
        let id = match self {
            Self::Message(message) => message.get("taskId")?,
            Self::Task { id, .. } => id,
        };
        id.as_str().filter(|id| !id.is_empty()).map(str::to_owned)
    }
}

/// Whether a JSON-RPC result is one of the many that answer one request here. In other protocols a result is the end.
pub(super) fn is_update(message: &Json) -> bool {
    Update::of(message).is_some()
}

/// The error events of REST, versions 1.0 and 0.3.
fn is_rest_error(event: &Message<'_>, message: &Json) -> bool {
    let bare = || message.get("code").is_some() && message.get("message").is_some();
    event.event() == b"error" && (message.pointer("/error/status").is_some() || bare())
}

impl Dialect for A2a {
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        let message = event.json()?;
        if json_rpc::answers(&message) == Some(false) || is_rest_error(event, &message) {
            return Some(Terminal::hard(Outcome::Failed));
        }
        let Update::Task { state, last, .. } = Update::of(&message)? else {
            return Some(Terminal::hard(Outcome::Completed));
        };
        let state = state?;
        match state.strip_prefix("TASK_STATE_").unwrap_or(state).to_ascii_lowercase().as_str() {
            "completed" => Some(Terminal::hard(Outcome::Completed)),
            "failed" | "rejected" => Some(Terminal::hard(Outcome::Failed)),
            "canceled" | "cancelled" => Some(Terminal::hard(Outcome::Cancelled)),
            // The agent waits for input: this answer is over, though the task is not.
            _ => last.then_some(Terminal::hard(Outcome::Completed)),
        }
    }
}

impl Profile for A2a {
    fn name(&self) -> &'static str {
        "a2a"
    }

    /// Only for the error event of a turn that was lost: under `auto` nothing else of this profile is wanted.
    fn recognises_event(&self, first: &Message<'_>) -> bool {
        let Some(message) = first.json() else { return false };
        message.get("jsonrpc").is_some() && is_update(&message)
    }

    fn session(&self, request: &Request) -> Option<String> {
        let message = ["/params/message", "/message"];
        let ids = ["contextId", "taskId"];
        let paths = ids.iter().flat_map(|id| message.iter().map(move |message| format!("{message}/{id}")));
        paths.filter_map(|path| request.text_at(&path)).find(|id| !id.is_empty())
    }

    fn asks(&self, request: &Request) -> Option<Ask> {
        let by_method = || {
            json_rpc::method(request).filter(|method| SUBSCRIBES.contains(method))?;
            request.text_at("/params/id")
        };
        let by_path = || {
            let last = request.path_ends(["tasks", "*"])?.pop()?;
            last.strip_suffix(":subscribe").map(str::to_owned)
        };
        let task = by_method().or_else(by_path)?;
        let follow = Follow::whole(Target::Name(task), self.replies(request));
        let rewrite = json_rpc::id(request).map(answer_under);
        Some(Ask::Follow(Follow { rewrite, or_backend: true, ..follow }))
    }

    fn replies(&self, request: &Request) -> Replies {
        // Its clients take any event stream that ends for an end, and everything else for an error.
        let nothing_left = StatusCode::OK;
        Replies { nothing_left, unknown: StatusCode::NOT_FOUND, ..Replies::of(request.method(), request.headers()) }
    }

    fn request_id(&self, request: &Request) -> Option<String> {
        json_rpc::id(request)
    }

    fn names_in_events(&self) -> bool {
        true
    }

    fn name_in(&self, event: &Message<'_>) -> Option<String> {
        Update::of(&event.json()?)?.task()
    }

    fn lost(&self, loss: &Loss<'_>) -> Option<Bytes> {
        json_rpc::lost(loss).or_else(|| {
            // REST: version 1.0 reads `error`, 0.3 the members beside it.
            let error = json!({ "code": 500, "status": "INTERNAL", "message": loss.message, "details": [] });
            let body = json!({ "code": -32603, "message": loss.message, "error": error });
            Some(format!("event: error\ndata: {body}\n\n").into())
        })
    }
}

/// Puts this JSON-RPC id in the place of the one a block has. Nothing else of it changes.
fn answer_under(id: String) -> Rewrite {
    Rewrite(Arc::new(move |block| {
        let renamed = |data: &[u8]| {
            let (from, to) = id_in(data)?;
            Some([&data[..from], id.as_bytes(), &data[to..]].concat())
        };
        with_data(block, renamed).unwrap_or_else(|| Bytes::copy_from_slice(block))
    }))
}

/// Where the value of the member `id` of a JSON object stands.
fn id_in(data: &[u8]) -> Option<(usize, usize)> {
    serde_json::from_slice::<serde_json::Map<String, Json>>(data).ok()?;
    // It is an object and valid: what is left to find are strings and the depth.
    let (mut at, mut depth, mut key) = (0, 0, None);
    while at < data.len() {
        match data[at] {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            b'"' => {
                let end = string_end(data, at);
                if depth == 1 && key.is_none() {
                    key = Some(&data[at..end]);
                }
                at = end - 1;
            }
            b',' if depth == 1 => key = None,
            b':' if depth == 1 && key == Some(b"\"id\"") => {
                let from = at + 1 + data[at + 1..].iter().take_while(|byte| byte.is_ascii_whitespace()).count();
                return match data[from] {
                    b'"' => Some((from, string_end(data, from))),
                    b'{' | b'[' => None,
                    _ => {
                        Some((from, from + data[from..].iter().take_while(|byte| !b",} \t\r\n".contains(byte)).count()))
                    }
                };
            }
            _ => {}
        }
        at += 1;
    }
    None
}

/// Behind the string that begins here.
fn string_end(data: &[u8], begin: usize) -> usize {
    let mut at = begin + 1;
    while data[at] != b'"' {
        at += 1 + usize::from(data[at] == b'\\');
    }
    at + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    fn post(body: &str) -> Request {
        Request::of("POST", "/a2a", &[], body)
    }

    fn terminal(block: &str) -> Option<Terminal> {
        A2a.terminal(&Message::parse(block.as_bytes()).unwrap())
    }

    fn result(result: &str) -> String {
        format!("data: {{\"jsonrpc\":\"2.0\",\"id\":3,\"result\":{result}}}\n\n")
    }

    #[test]
    fn terminal_states_of_both_versions_end_a_turn() {
        let (completed, failed, cancelled) = [Outcome::Completed, Outcome::Failed, Outcome::Cancelled]
            .map(|outcome| Some(Terminal::hard(outcome)))
            .into();
        for (state, expected) in [
            ("completed", completed),
            ("failed", failed),
            ("rejected", failed),
            ("canceled", cancelled),
            ("working", None),
            ("submitted", None),
            ("input-required", None),
        ] {
            let v0 = format!(r#"{{"kind":"status-update","taskId":"t","status":{{"state":"{state}"}},"final":false}}"#);
            assert_eq!(terminal(&result(&v0)), expected, "0.3 {state}");
            let state = format!("TASK_STATE_{}", state.to_uppercase().replace('-', "_"));
            let v1 = format!(r#"{{"statusUpdate":{{"taskId":"t","status":{{"state":"{state}"}}}}}}"#);
            assert_eq!(terminal(&result(&v1)), expected, "1.0 {state}");
            assert_eq!(terminal(&format!("data: {v1}\n\n")), expected, "1.0 over REST {state}");
            let task = format!(r#"{{"task":{{"id":"t","status":{{"state":"{state}"}}}}}}"#);
            assert_eq!(terminal(&result(&task)), expected, "1.0 task {state}");
        }
        let waits = r#"{"kind":"status-update","taskId":"t","status":{"state":"input-required"},"final":true}"#;
        assert_eq!(terminal(&result(waits)), completed);
        assert_eq!(terminal(&result(r#"{"kind":"message","messageId":"m","parts":[]}"#)), completed);
        assert_eq!(terminal(&result(r#"{"message":{"messageId":"m","parts":[]}}"#)), completed);
        assert_eq!(terminal(&result(r#"{"kind":"artifact-update","taskId":"t","artifact":{}}"#)), None);
    }

    #[test]
    fn errors_of_both_bindings_end_a_turn() {
        let failed = Some(Terminal::hard(Outcome::Failed));
        let error = r#"{"jsonrpc":"2.0","id":3,"error":{"code":-32603,"message":"no"}}"#;
        assert_eq!(terminal(&format!("data: {error}\n\n")), failed);
        assert_eq!(terminal(&format!("event: error\ndata: {error}\n\n")), failed);
        assert_eq!(terminal("event: error\ndata: {\"code\":-32603,\"message\":\"no\"}\n\n"), failed);
        assert_eq!(terminal("event: error\ndata: {\"error\":{\"code\":500,\"status\":\"INTERNAL\"}}\n\n"), failed);
        assert_eq!(terminal("data: {\"code\":1,\"message\":\"no\"}\n\n"), None);
    }

    #[test]
    fn the_first_event_that_has_it_names_the_task() {
        let named = |block: &str| A2a.name_in(&Message::parse(block.as_bytes()).unwrap());
        for update in [
            r#"{"kind":"task","id":"t1","contextId":"c"}"#,
            r#"{"kind":"status-update","taskId":"t1"}"#,
            r#"{"kind":"artifact-update","taskId":"t1"}"#,
            r#"{"task":{"id":"t1"}}"#,
            r#"{"statusUpdate":{"taskId":"t1"}}"#,
            r#"{"artifactUpdate":{"taskId":"t1"}}"#,
        ] {
            assert_eq!(named(&result(update)).as_deref(), Some("t1"), "{update}");
        }
        assert_eq!(named("data: {\"task\":{\"id\":\"t1\"}}\n\n").as_deref(), Some("t1"));
        for other in
            [r#"{"kind":"task","id":""}"#, r#"{"task":{"id":7}}"#, r#"{"id":"t1"}"#, r#"{"taskId":"t1"}"#, "[]"]
        {
            assert_eq!(named(&result(other)), None, "{other}");
        }
    }

    #[test]
    fn results_of_other_protocols_are_no_updates() {
        for other in [
            r#"{"content":[{"type":"text","text":"x"}]}"#,
            r#"{"task":{"taskId":"t","status":"working"}}"#,
            r#"{"taskId":"t","status":"working"}"#,
            r#"{"tools":[]}"#,
            "{}",
        ] {
            let message: Json =
                serde_json::from_str(&format!(r#"{{"jsonrpc":"2.0","id":1,"result":{other}}}"#)).unwrap();
            assert!(!is_update(&message), "{other}");
        }
    }

    #[test]
    fn the_session_is_the_context_or_else_the_task() {
        let session = |message: &str| A2a.session(&post(&format!(r#"{{"params":{{"message":{message}}}}}"#)));
        assert_eq!(session(r#"{"contextId":"c","taskId":"t"}"#).as_deref(), Some("c"));
        assert_eq!(session(r#"{"contextId":"","taskId":"t"}"#).as_deref(), Some("t"));
        assert_eq!(session("{}"), None);
        assert_eq!(A2a.session(&post(r#"{"message":{"contextId":"c"}}"#)).as_deref(), Some("c"));
    }

    #[test]
    fn a_subscription_is_answered_under_its_own_id() {
        for method in SUBSCRIBES {
            let request =
                post(&format!(r#"{{"jsonrpc":"2.0","id":"new","method":"{method}","params":{{"id":"t1"}}}}"#));
            let Some(Ask::Follow(follow)) = A2a.asks(&request) else { panic!("{method}") };
            assert_eq!(follow.target, Target::Name("t1".into()));
            assert!(follow.or_backend);
            let Rewrite(rewrite) = follow.rewrite.unwrap();
            let block = b"event: x\r\ndata: {\"result\":{\"id\":\"t1\"},\"id\" : 3 }\r\nid: T-1\r\n\r\n";
            let rewritten = b"event: x\r\ndata: {\"result\":{\"id\":\"t1\"},\"id\" : \"new\" }\r\nid: T-1\r\n\r\n";
            assert_eq!(&rewrite(block)[..], rewritten);
            for other in [&b"data: {\"result\":{\"id\":1}}\nid: T-1\n\n"[..], b"data: [DONE]\n\n", b": x\n"] {
                assert_eq!(&rewrite(other)[..], other);
            }
        }
        let Some(Ask::Follow(rest)) = A2a.asks(&Request::of("POST", "/v1/tasks/t%201:subscribe", &[], "")) else {
            panic!("REST")
        };
        assert_eq!(rest.target, Target::Name("t 1".into()));
        assert!(rest.rewrite.is_none());
    }

    #[test]
    fn what_is_no_subscription_asks_for_nothing() {
        for body in [
            "",
            r#"{"jsonrpc":"2.0","id":1,"method":"message/stream","params":{"id":"t"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tasks/cancel","params":{"id":"t"}}"#,
            r#"{"jsonrpc":"2.0","id":1,"method":"tasks/resubscribe","params":{}}"#,
            r#"{"id":1,"method":"tasks/resubscribe","params":{"id":"t"}}"#,
        ] {
            assert!(A2a.asks(&post(body)).is_none(), "{body}");
        }
        assert!(A2a.asks(&Request::of("GET", "/v1/tasks/t", &[], "")).is_none());
    }

    #[test]
    fn ids_are_found_wherever_they_stand() {
        let found = |text: &'static str| id_in(text.as_bytes()).map(|(from, to)| &text[from..to]);
        assert_eq!(found(r#"{"id":1}"#), Some("1"));
        assert_eq!(found(r#"{"a":"\"id\":2","id":"x\"y","b":{"id":4}}"#), Some(r#""x\"y""#));
        assert_eq!(found(r#"{"b":{"id":4},"c":["id",5],"id" : null}"#), Some("null"));
        assert_eq!(found(r#"{"a":"id","b":[{"id":4}]}"#), None);
        assert_eq!(found(r#"{"id":{"x":1}}"#), None);
        for text in ["", "[1]", "{", r#"{"id":}"#, r#""id""#] {
            assert_eq!(found(text), None, "{text}");
        }
    }

    #[test]
    fn a_lost_turn_is_told_in_the_form_of_its_binding() {
        let lost = |request_id| {
            let loss = Loss { outcome: Outcome::Interrupted, message: "It is gone.", request_id, first: None };
            A2a.lost(&loss).unwrap()
        };
        let (rpc, rest) = (lost(Some("3")), lost(None));
        let (rpc, rest) = (Message::parse(&rpc).unwrap(), Message::parse(&rest).unwrap());
        let said = rpc.json().unwrap();
        assert_eq!((&said["id"], &said["error"]["message"]), (&json!(3), &json!("It is gone.")));
        assert_eq!(rest.event(), b"error");
        for event in [rpc, rest] {
            assert_eq!(A2a.terminal(&event), Some(Terminal::hard(Outcome::Failed)));
        }
    }
}
