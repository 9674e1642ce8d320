//! Model Context Protocol over Streamable HTTP.
//!
//! Up to revision 2025-11-25 a client whose stream breaks, and that has seen an event id on it, comes back with a GET on the
//! same URL and `Last-Event-ID`. Holdover's ids make that so for every server, whether it has an event store or not. Since
//! revision 2026-07-28 nothing is resumed, and to leave is to cancel: such requests pass.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};

use super::{Loss, Profile, Replies, Request, Terminal, a2a, json_rpc};
use crate::{
    sse::Message,
    turn::{Dialect, Outcome},
};

/// The header that names the session. A server may do without sessions.
const SESSION: &str = "mcp-session-id";

/// The header that names the revision, since 2025-06-18, on every request but the first. Revisions are dates, so their order
/// is that of text.
const REVISION: &str = "mcp-protocol-version";

/// From this revision on the end of a connection is the end of its request.
const NOT_RESUMABLE: &str = "2026-07-28";

/// From this revision on clients understand an event without content.
const PRIMED: &str = "2025-11-25";

/// Requests of this protocol by the begin of their methods. (`ping` and the like are no proof.)
const METHODS: [&str; 8] = [
    "initialize",
    "tools/",
    "resources/",
    "prompts/",
    "completion/complete",
    "logging/setLevel",
    "server/discover",
    "subscriptions/",
];

/// See the module.
#[derive(Debug)]
pub(super) struct Mcp;

impl Dialect for Mcp {
    /// The answer to the request ends its stream. Whatever else a server sends there are notifications and requests of its
    /// own.
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        let message = event.json()?;
        let is_result = json_rpc::answers(&message).filter(|_| !a2a::is_update(&message))?;
        Some(Terminal::hard(if is_result { Outcome::Completed } else { Outcome::Failed }))
    }
}

impl Profile for Mcp {
    fn name(&self) -> &'static str {
        "mcp"
    }

    fn recognises(&self, request: &Request) -> bool {
        let headers = request.headers();
        let named = || json_rpc::method(request).is_some_and(|method| METHODS.iter().any(|m| method.starts_with(m)));
        headers.contains_key(SESSION) || headers.contains_key(REVISION) || (request.accepts_event_stream() && named())
    }

    fn recognises_answer(&self, headers: &HeaderMap) -> bool {
        headers.contains_key(SESSION)
    }

    fn recognises_event(&self, first: &Message<'_>) -> bool {
        let Some(message) = first.json() else { return false };
        let method = message.get("method").and_then(|method| method.as_str());
        message.get("jsonrpc").is_some() && method.is_some_and(|method| method.starts_with("notifications/"))
    }

    /// A GET opens the stream on which a server speaks unasked: it has no end, and a server that can resume it has ids of its
    /// own for it.
    fn passes(&self, request: &Request) -> bool {
        *request.method() == Method::GET || request.header(REVISION).is_some_and(|revision| revision >= NOT_RESUMABLE)
    }

    fn session(&self, request: &Request) -> Option<String> {
        request.header(SESSION).map(str::to_owned)
    }

    /// A client gives up after two attempts that were no event stream; 204 ends them at once, and without an error.
    fn replies(&self, _: &Request) -> Replies {
        Replies {
            nothing_left: StatusCode::NO_CONTENT,
            unknown: StatusCode::NOT_FOUND,
            patient: true,
            ahead_is_conflict: false,
        }
    }

    /// A call that says nothing until its result can be resumed, too. And a TypeScript client that comes back and is cut off
    /// before an event forgets where it was.
    fn primes(&self, request: &Request) -> bool {
        let comes_back = request.headers().contains_key("last-event-id");
        comes_back || request.header(REVISION).is_some_and(|revision| revision >= PRIMED)
    }

    fn resumes_natively(&self) -> bool {
        true
    }

    fn request_id(&self, request: &Request) -> Option<String> {
        json_rpc::id(request)
    }

    fn lost(&self, loss: &Loss<'_>) -> Option<Bytes> {
        json_rpc::lost(loss)
    }

    /// A version 1 client does not take an error for the answer, and comes back once more.
    fn answers_loss(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: (&str, &str) = ("accept", "application/json, text/event-stream");

    fn post(headers: &[(&'static str, &str)], body: &str) -> Request {
        Request::of("POST", "/mcp", headers, body)
    }

    #[test]
    fn requests_are_recognised_by_headers_or_method() {
        let call = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#;
        assert!(Mcp.recognises(&post(&[("mcp-session-id", "s")], "")));
        assert!(Mcp.recognises(&post(&[("mcp-protocol-version", "2025-11-25")], "")));
        assert!(Mcp.recognises(&post(&[BOTH], call)));
        assert!(Mcp.recognises(&post(&[BOTH], r#"{"jsonrpc":"2.0","id":0,"method":"initialize"}"#)));
        assert!(!Mcp.recognises(&post(&[], call)), "it takes no event stream");
        assert!(!Mcp.recognises(&post(&[BOTH], r#"{"id":1,"method":"tools/call"}"#)));
        assert!(!Mcp.recognises(&post(&[BOTH], r#"{"jsonrpc":"2.0","id":1,"method":"message/stream"}"#)));
        assert!(!Mcp.recognises(&post(&[BOTH], "")));
    }

    #[test]
    fn unasked_streams_and_the_revisions_without_resuming_pass() {
        let of = |method, revision| Mcp.passes(&Request::of(method, "/mcp", &[("mcp-protocol-version", revision)], ""));
        assert!(of("GET", "2025-11-25"));
        for (revision, passes) in
            [("2025-03-26", false), ("2025-11-25", false), ("2026-07-28", true), ("2027-01-01", true)]
        {
            assert_eq!(of("POST", revision), passes, "{revision}");
        }
        assert!(!Mcp.passes(&post(&[], "")));
    }

    #[test]
    fn clients_that_understand_it_are_primed_and_those_that_come_back() {
        let of = |revision| Mcp.primes(&post(&[("mcp-protocol-version", revision)], ""));
        assert!(of("2025-11-25"));
        assert!(!of("2025-06-18"));
        assert!(!Mcp.primes(&post(&[], "")));
        assert!(Mcp.primes(&Request::of("GET", "/mcp", &[("last-event-id", "x")], "")));
    }

    #[test]
    fn the_answer_ends_the_stream_and_nothing_else_does() {
        let terminal = |data: &str| Mcp.terminal(&Message::parse(format!("data: {data}\n\n").as_bytes()).unwrap());
        assert_eq!(terminal(r#"{"jsonrpc":"2.0","id":1,"result":{}}"#), Some(Terminal::hard(Outcome::Completed)));
        let error = r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"no"}}"#;
        assert_eq!(terminal(error), Some(Terminal::hard(Outcome::Failed)));
        for other in [
            r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"result":1}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{}}"#,
            r#"{"jsonrpc":"2.0","id":1,"result":{"kind":"status-update","taskId":"t"}}"#,
            r#"{"result":{}}"#,
            "[]",
            "",
        ] {
            assert_eq!(terminal(other), None, "{other}");
        }
    }

    #[test]
    fn a_lost_call_is_answered_under_its_own_id() {
        for (body, id) in [
            (r#"{"jsonrpc":"2.0","id":7,"method":"tools/call"}"#, Some("7")),
            (r#"{"jsonrpc":"2.0","id":"a\"b","method":"tools/call"}"#, Some(r#""a\"b""#)),
            (r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#, None),
            (r#"[{"jsonrpc":"2.0","id":7,"method":"tools/call"}]"#, None),
            (r#"{"jsonrpc":"2.0","id":7,"result":{}}"#, None),
        ] {
            let request_id = Mcp.request_id(&post(&[], body));
            assert_eq!(request_id.as_deref(), id, "{body}");
            let loss = Loss {
                outcome: Outcome::Interrupted,
                message: "It is gone.",
                request_id: request_id.as_deref(),
                first: None,
            };
            let event = Mcp.lost(&loss);
            assert_eq!(event.is_some(), id.is_some());
            if let Some(event) = event {
                let message = Message::parse(&event).unwrap().json().unwrap();
                assert_eq!(message["id"].to_string(), id.unwrap());
                assert_eq!(message["error"]["message"], "It is gone.");
                assert_eq!(json_rpc::answers(&message), Some(false));
            }
        }
    }

    #[test]
    fn the_session_is_that_of_the_header() {
        assert_eq!(Mcp.session(&post(&[("mcp-session-id", "s-1")], "")).as_deref(), Some("s-1"));
        assert_eq!(Mcp.session(&post(&[], "{}")), None);
    }
}
