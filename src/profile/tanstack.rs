//! TanStack AI (`@tanstack/ai-client` and the hooks on it).
//!
//! Behind a connection that is cut it sends the request again with `Last-Event-ID`; a page that is loaded joins the run it
//! has stored (`GET …?offset=-1&runId=`). It reads line by line and takes an id for that of the data line *behind* it, and it
//! calls a run broken whose resumed stream ends without `RUN_FINISHED` or `RUN_ERROR`.

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use serde_json::json;

use super::{Ask, Follow, From, Loss, Profile, Replies, Request, Target, Terminal};
use crate::{
    sse::{Cursor, Message},
    turn::{Dialect, Outcome},
};

/// See the module.
#[derive(Debug)]
pub(super) struct TanStack;

/// Names the run, as the client does.
const RUN: &str = "x-run-id";

/// A run that cannot be joined is forgotten at any error status. Who has all of one must be told how it ended once more, which
/// takes a body.
const REPLIES: Replies = Replies { nothing_left: StatusCode::OK, ..Replies::POST };

impl Dialect for TanStack {
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        if event.data() == b"[DONE]" {
            return Some(Terminal::DONE);
        }
        match event.json()?["type"].as_str()? {
            // An agent's turn is several runs.
            "RUN_FINISHED" => Some(Terminal::soft(Outcome::Completed)),
            "RUN_ERROR" => Some(Terminal::soft(Outcome::Failed)),
            _ => None,
        }
    }

    fn ids_go_first(&self) -> bool {
        true
    }
}

impl Profile for TanStack {
    fn name(&self) -> &'static str {
        "tanstack"
    }

    fn recognises(&self, request: &Request) -> bool {
        match *request.method() {
            Method::POST => request.header(RUN).is_some_and(|run| {
                let is_in_body =
                    || request.text_at("/runId").as_deref() == Some(run) && request.text_at("/threadId").is_some();
                request.body().is_none() || is_in_body()
            }),
            Method::GET => self.asks(request).is_some(),
            _ => false,
        }
    }

    fn session(&self, request: &Request) -> Option<String> {
        request.text_at("/threadId")
    }

    fn asks(&self, request: &Request) -> Option<Ask> {
        let (run, offset) = (request.query("runId")?, request.query("offset")?);
        if *request.method() != Method::GET || run.is_empty() {
            return None;
        }
        let (target, from) = match Cursor::parse(offset.as_bytes()) {
            Cursor::After(id) => (Target::Turn(id.turn), From::After(id.seq)),
            Cursor::Now => (Target::Name(run), From::Now),
            Cursor::Start | Cursor::Foreign => (Target::Name(run), From::After(0)),
        };
        Some(Ask::Follow(Follow { from, ..Follow::whole(target, REPLIES) }))
    }

    fn replies(&self, _: &Request) -> Replies {
        REPLIES
    }

    fn names(&self, request: &Request, _: &HeaderMap) -> Vec<String> {
        let run = request.header(RUN).map(str::to_owned).or_else(|| request.text_at("/runId"));
        run.into_iter().filter(|run| !run.is_empty()).collect()
    }

    fn names_in_events(&self) -> bool {
        true
    }

    /// A page that is loaded again knows the run by what the backend called it.
    fn name_in(&self, event: &Message<'_>) -> Option<String> {
        let event = event.json()?;
        let run = event["runId"].as_str().filter(|_| event["type"] == "RUN_STARTED")?;
        Some(run.to_owned())
    }

    fn lost(&self, loss: &Loss<'_>) -> Option<Bytes> {
        let error = json!({ "message": loss.message });
        Some(format!("data: {}\n\n", json!({ "type": "RUN_ERROR", "message": loss.message, "error": error })).into())
    }

    /// The last word once more, without the id by which it would be taken for a repetition. For a run that was stopped before
    /// it had one, the client makes it out of `[DONE]`.
    fn over(&self, last: &Message<'_>) -> Option<Bytes> {
        let word = self.terminal(last).map_or(&b"[DONE]"[..], |_| last.data());
        Some([b"data: ", word, b"\n\n"].concat().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: &str = "abcdefghijklmnopqrstuvwxyz23";

    fn message(data: &str) -> Vec<u8> {
        format!("data: {data}\n\n").into_bytes()
    }

    fn joined(target: &str) -> Option<(Target, String)> {
        match TanStack.asks(&Request::of("GET", target, &[], ""))? {
            Ask::Follow(follow) => Some((follow.target, format!("{:?}", follow.from))),
            Ask::Stop(stop) => panic!("{stop:?}"),
        }
    }

    #[test]
    fn a_run_is_joined_by_the_clients_name_for_it() {
        let run = || Target::Name("run 1".to_owned());
        assert_eq!(joined("/chat?offset=-1&runId=run+1"), Some((run(), "After(0)".into())));
        assert_eq!(joined("/chat?runId=run%201&offset=now"), Some((run(), "Now".into())));
        assert_eq!(joined("/chat?runId=run%201&offset=memory:v1:run:3"), Some((run(), "After(0)".into())));
        let turn = Target::Turn(TURN.parse().unwrap());
        assert_eq!(joined(&format!("/chat?runId=run&offset={TURN}-7")), Some((turn, "After(7)".into())));
        for other in ["/chat?runId=r", "/chat?offset=-1", "/chat?runId=&offset=-1", "/chat?threadId=t"] {
            assert_eq!(joined(other), None, "{other}");
        }
        assert!(TanStack.asks(&Request::of("POST", "/chat?offset=-1&runId=r", &[], "")).is_none());
    }

    #[test]
    fn a_start_is_told_by_its_run_in_header_and_body() {
        let start = |run, body| Request::of("POST", "/chat", &[("x-run-id", run)], body);
        let body = r#"{"threadId":"t","runId":"r","messages":[]}"#;
        let request = start("r", body);
        assert!(TanStack.recognises(&request));
        assert_eq!(TanStack.session(&request).as_deref(), Some("t"));
        assert_eq!(TanStack.names(&request, &HeaderMap::new()), ["r"]);
        assert!(TanStack.recognises(&start("r", "").with_body(None)), "before the body is there");
        assert!(!TanStack.recognises(&start("other", body)));
        assert!(!TanStack.recognises(&start("r", "{}")));
        assert!(!TanStack.recognises(&Request::of("POST", "/chat", &[], body)), "AG-UI clients send the same body");
        assert!(TanStack.recognises(&Request::of("GET", "/chat?offset=-1&runId=r", &[], "")));
    }

    #[test]
    fn a_run_also_goes_by_the_backends_name() {
        let name = |data: &str| TanStack.name_in(&Message::parse(&message(data)).unwrap());
        assert_eq!(name(r#"{"type":"RUN_STARTED","runId":"r2","threadId":"t"}"#).as_deref(), Some("r2"));
        assert_eq!(name(r#"{"type":"RUN_FINISHED","runId":"r2"}"#), None);
        assert_eq!(name("[DONE]"), None);
    }

    #[test]
    fn the_last_events_tell_how_the_run_went() {
        let said = |data: &str| TanStack.terminal(&Message::parse(&message(data)).unwrap());
        assert_eq!(said(r#"{"type":"RUN_FINISHED"}"#), Some(Terminal::soft(Outcome::Completed)));
        assert_eq!(said(r#"{"type":"RUN_ERROR","message":"x"}"#), Some(Terminal::soft(Outcome::Failed)));
        assert_eq!(said("[DONE]"), Some(Terminal::DONE));
        assert_eq!(said(r#"{"type":"TEXT_MESSAGE_END"}"#), None);
    }

    #[test]
    fn who_has_everything_is_told_the_last_word_again() {
        let over = |data: &str| TanStack.over(&Message::parse(&message(data)).unwrap());
        let finished = r#"{"type":"RUN_FINISHED","runId":"r"}"#;
        assert_eq!(over(finished).as_deref(), Some(&*message(finished)));
        assert_eq!(over(r#"{"type":"TEXT_MESSAGE_END"}"#).as_deref(), Some(&*message("[DONE]")));
    }

    #[test]
    fn a_lost_run_is_an_error_event() {
        let loss = Loss { outcome: Outcome::Interrupted, message: "It broke.", request_id: None, first: None };
        let event = Message::parse(&TanStack.lost(&loss).unwrap()).unwrap().json().unwrap();
        assert_eq!((&event["type"], &event["message"]), (&json!("RUN_ERROR"), &json!("It broke.")));
        assert_eq!(
            TanStack.terminal(&Message::parse(&message(&event.to_string())).unwrap()),
            Some(Terminal::soft(Outcome::Failed))
        );
    }
}
