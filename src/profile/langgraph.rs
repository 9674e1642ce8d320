//! LangGraph Platform and its SDKs (JavaScript, Python, `useStream`).
//!
//! A run streams as the answer to `POST /threads/{thread}/runs/stream`. A client that loses it asks for
//! `GET /threads/{thread}/runs/{run}/stream`, a path that it takes from the header `Location`, relative to the URL it has for
//! the API; the run itself it takes from `Content-Location`. Without `Location` it never comes back. A run on no thread has
//! the same paths without the thread.
//!
//! Servers have ids of their own for a run that was started as resumable (those of a Redis stream), and answer a finished
//! run, or a cursor that is none of theirs, with an empty stream.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use serde_json::json;

use super::{Ask, Follow, From, Loss, Profile, Replies, Reply, Request, Stop, Target, Terminal};
use crate::{
    sse::{Cursor, Message, TurnId},
    turn::{Dialect, Outcome},
};

/// See the module.
#[derive(Debug)]
pub(super) struct LangGraph;

/// What the SDKs understand. JavaScript sends a request again for 20 s on 410, 425, 429 and 5xx, and takes 404 for final;
/// Python takes 204 for a fault.
const REPLIES: Replies =
    Replies { nothing_left: StatusCode::OK, unknown: StatusCode::NOT_FOUND, patient: false, ahead_is_conflict: false };

/// What a request is, by its method and path.
#[derive(Debug, PartialEq, Eq)]
enum Call {
    /// Starts a run, on this thread if any.
    Start(Option<String>),
    /// Joins a run.
    Join(String),
    /// Cancels a run.
    Cancel(String),
    /// Subscribes to all runs of a thread, those to come included. It has no end, and who leaves it unsubscribes.
    Subscribe,
}

impl Call {
    fn of(request: &Request) -> Option<Self> {
        let run = |verb| {
            let on_thread = request.path_ends(["threads", "*", "runs", "*", verb]);
            on_thread.or_else(|| request.path_ends(["runs", "*", verb]))?.pop()
        };
        match *request.method() {
            Method::POST => {
                if let Some(mut thread) = request.path_ends(["threads", "*", "runs", "stream"]) {
                    return Some(Self::Start(thread.pop()));
                }
                if request.path_ends(["threads", "*", "stream", "events"]).is_some() {
                    return Some(Self::Subscribe);
                }
                let start = || request.path_ends(["runs", "stream"]).map(|_| Self::Start(None));
                run("cancel").map(Self::Cancel).or_else(start)
            }
            Method::GET if request.path_ends(["threads", "*", "stream"]).is_some() => Some(Self::Subscribe),
            Method::GET => run("stream").map(Self::Join),
            _ => None,
        }
    }
}

impl Dialect for LangGraph {
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        match event.event() {
            b"end" => Some(Terminal::DONE),
            b"error" => Some(Terminal::soft(Outcome::Failed)),
            _ => None,
        }
    }
}

impl Profile for LangGraph {
    fn name(&self) -> &'static str {
        "langgraph"
    }

    fn recognises(&self, request: &Request) -> bool {
        let on_thread = || request.path_ends(["threads", "*", "runs", "*", "stream"]).is_some();
        match Call::of(request) {
            Some(Call::Start(_)) => request.json().is_some_and(|body| body.get("assistant_id").is_some()),
            Some(Call::Join(_)) => on_thread(),
            // A GET of this form may be anybody's.
            Some(Call::Subscribe) => request.method() == Method::POST,
            Some(Call::Cancel(_)) | None => false,
        }
    }

    fn recognises_answer(&self, headers: &HeaderMap) -> bool {
        let at = |name| headers.get(name).and_then(|value| value.to_str().ok()).map(relative);
        match (at(header::LOCATION), at(header::CONTENT_LOCATION)) {
            (Some(location), Some(run)) => run_of(run).is_some() && location.strip_suffix("/stream") == Some(run),
            _ => false,
        }
    }

    fn recognises_event(&self, first: &Message<'_>) -> bool {
        self.name_in(first).is_some()
    }

    fn passes(&self, request: &Request) -> bool {
        match Call::of(request) {
            Some(Call::Subscribe) => true,
            // It asks to be taken at its leaving.
            Some(Call::Join(_)) => request
                .query("cancel_on_disconnect")
                .is_some_and(|value| ["1", "true", "yes"].contains(&&*value.to_ascii_lowercase())),
            _ => false,
        }
    }

    fn session(&self, request: &Request) -> Option<String> {
        match Call::of(request)? {
            Call::Start(thread) => thread,
            _ => None,
        }
    }

    fn asks(&self, request: &Request) -> Option<Ask> {
        let target = |run: String| run.parse().map_or(Target::Name(run), Target::Turn);
        match Call::of(request)? {
            Call::Join(run) => {
                let from = match cursor(request) {
                    Cursor::Start => From::After(0),
                    Cursor::Now => From::Now,
                    // Names its turn by itself.
                    Cursor::After(_) => return None,
                    Cursor::Foreign if is_native(request) => return None,
                    Cursor::Foreign => From::After(0),
                };
                let target = target(run);
                let or_backend = matches!(target, Target::Name(_));
                Some(Ask::Follow(Follow { from, or_backend, ..Follow::whole(target, REPLIES) }))
            }
            Call::Cancel(run) => {
                // Of a 202 the SDKs read no body.
                let stopped = Reply { status: StatusCode::ACCEPTED, body: None };
                Some(Ask::Stop(Stop { target: target(run), stopped }))
            }
            Call::Start(_) | Call::Subscribe => None,
        }
    }

    fn replies(&self, request: &Request) -> Replies {
        match Call::of(request) {
            Some(Call::Join(_)) => REPLIES,
            _ => Replies::of(request.method(), request.headers()),
        }
    }

    fn resumes_natively(&self) -> bool {
        true
    }

    fn adorn(&self, headers: &mut HeaderMap, turn: &TurnId, request: &Request) {
        for name in [header::LOCATION, header::CONTENT_LOCATION] {
            let told = headers.get(&name).and_then(|value| value.to_str().ok());
            // The JavaScript SDK puts its API's URL in front of whatever stands there.
            if let Some(path) = told.map(relative).filter(|path| Some(*path) != told).map(str::to_owned) {
                set(headers, name, &path);
            }
        }
        let told = |name| Some(headers.get(name)?.to_str().ok()?.to_owned());
        match (told(header::LOCATION), told(header::CONTENT_LOCATION)) {
            (Some(_), Some(_)) => {}
            (Some(stream), None) => {
                if let Some(run) = stream.strip_suffix("/stream").filter(|run| run_of(run).is_some()) {
                    set(headers, header::CONTENT_LOCATION, run);
                }
            }
            (None, Some(run)) if run_of(&run).is_some() => set(headers, header::LOCATION, &format!("{run}/stream")),
            (None, _) => {
                if let Some(run) = own_run(request, turn) {
                    set(headers, header::LOCATION, &format!("{run}/stream"));
                    set(headers, header::CONTENT_LOCATION, &run);
                }
            }
        }
    }

    fn names(&self, request: &Request, headers: &HeaderMap) -> Vec<String> {
        // Who joins a run behind its begin gets a part of it, which is not to be had for the whole.
        if matches!(Call::of(request), Some(Call::Join(_))) && cursor(request) != Cursor::Start {
            return Vec::new();
        }
        let told = |name| headers.get(name).and_then(|value| value.to_str().ok());
        let run = told(header::CONTENT_LOCATION).or_else(|| told(header::LOCATION)?.strip_suffix("/stream"));
        run.and_then(run_of).map(str::to_owned).into_iter().collect()
    }

    fn names_in_events(&self) -> bool {
        true
    }

    fn name_in(&self, event: &Message<'_>) -> Option<String> {
        let is_metadata = event.event() == b"metadata";
        let metadata = is_metadata.then(|| event.json())??;
        metadata.get("run_id")?.as_str().map(str::to_owned)
    }

    fn lost(&self, loss: &Loss<'_>) -> Option<Bytes> {
        let error = json!({ "error": format!("Turn{}", capitalised(loss.outcome.as_str())), "message": loss.message });
        Some(format!("event: error\ndata: {error}\n\n").into())
    }
}

/// Where the request's `Last-Event-ID` points; the start if it has none.
fn cursor(request: &Request) -> Cursor {
    request.headers().get("last-event-id").map_or(Cursor::Start, |id| Cursor::parse(id.as_bytes()))
}

/// Whether the request's cursor has the form of a server's own: `<milliseconds>-<number>`.
fn is_native(request: &Request) -> bool {
    let id = request.header("last-event-id").unwrap_or_default().trim();
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    id.split_once('-').is_some_and(|(time, number)| digits(time) && digits(number))
}

/// A location without scheme and authority.
fn relative(location: &str) -> &str {
    let authority = location.split_once("://").map(|(_, rest)| rest);
    authority.map_or(location, |rest| rest.find('/').map_or("/", |at| &rest[at..]))
}

/// The run in `/threads/{thread}/runs/{run}` or `/runs/{run}`.
fn run_of(location: &str) -> Option<&str> {
    let (front, run) = location.rsplit_once('/')?;
    (front.ends_with("/runs") && !run.is_empty()).then_some(run)
}

/// A run's path for a turn whose backend gave none: of the request's path what is behind the API's URL, and the run's name,
/// which is the turn's if the request does not name one.
fn own_run(request: &Request, turn: &TurnId) -> Option<String> {
    let call = Call::of(request)?;
    let segments = match call {
        Call::Start(Some(_)) => 3,
        Call::Start(None) => 1,
        Call::Join(_) if request.path_ends(["threads", "*", "runs", "*", "stream"]).is_some() => 4,
        Call::Join(_) => 2,
        Call::Cancel(_) | Call::Subscribe => return None,
    };
    let path = request.path().strip_suffix("/stream")?;
    let (at, _) = path.rmatch_indices('/').nth(segments - 1)?;
    let path = &path[at..];
    Some(if matches!(call, Call::Start(_)) { format!("{path}/{turn}") } else { path.to_owned() })
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    // A path of a request is made of what may stand in a header.
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn capitalised(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or(String::new(), |first| first.to_ascii_uppercase().to_string() + letters.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: &str = "abcdefghijklmnopqrstuvwxyz23";
    const RUN: &str = "/threads/t1/runs/r1";

    fn get(target: &str, last_event_id: &str) -> Request {
        Request::of("GET", target, &[("last-event-id", last_event_id)], "")
    }

    fn post(target: &str) -> Request {
        Request::of("POST", target, &[], r#"{"assistant_id":"agent"}"#)
    }

    fn headers(fields: &[(HeaderName, &str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap())).collect()
    }

    /// `Location` and `Content-Location` after an answer with these headers.
    fn adorned(request: &Request, fields: &[(HeaderName, &str)]) -> [Option<String>; 2] {
        let mut headers = headers(fields);
        LangGraph.adorn(&mut headers, &TURN.parse().unwrap(), request);
        [header::LOCATION, header::CONTENT_LOCATION].map(|name| Some(headers.get(name)?.to_str().unwrap().to_owned()))
    }

    fn paths(run: &str) -> [Option<String>; 2] {
        [Some(format!("{run}/stream")), Some(run.to_owned())]
    }

    #[test]
    fn the_session_is_the_thread() {
        assert_eq!(LangGraph.session(&post("/api/threads/t%201/runs/stream")).as_deref(), Some("t 1"));
        for other in ["/runs/stream", "/threads/t1/runs", "/threads/t1/runs/r1/cancel", "/threads/t1/stream/events"] {
            assert_eq!(LangGraph.session(&post(other)), None, "{other}");
        }
        assert_eq!(LangGraph.session(&get("/threads/t1/runs/r1/stream", "")), None);
    }

    #[test]
    fn locations_of_the_backend_are_kept_and_completed() {
        let start = post("/threads/t1/runs/stream");
        let (location, run) = ((header::LOCATION, "/threads/t1/runs/r1/stream"), (header::CONTENT_LOCATION, RUN));
        assert_eq!(adorned(&start, &[location.clone(), run.clone()]), paths(RUN));
        assert_eq!(adorned(&start, &[location]), paths(RUN));
        assert_eq!(adorned(&start, &[run]), paths(RUN));
        assert_eq!(adorned(&start, &[(header::CONTENT_LOCATION, "http://inner:8000/runs/r2")]), paths("/runs/r2"));
    }

    #[test]
    fn without_one_the_turn_is_the_run() {
        let made = |request: &Request| adorned(request, &[]);
        assert_eq!(made(&post("/api/threads/t%201/runs/stream")), paths(&format!("/threads/t%201/runs/{TURN}")));
        assert_eq!(made(&post("/runs/stream")), paths(&format!("/runs/{TURN}")));
        assert_eq!(made(&get("/api/threads/t1/runs/r1/stream", "-1")), paths(RUN));
        assert_eq!(made(&get("/runs/r1/stream", "-1")), paths("/runs/r1"));
        assert_eq!(made(&post("/chat")), [None, None]);
    }

    #[test]
    fn a_turn_goes_by_the_name_of_its_run() {
        let answer = headers(&[(header::CONTENT_LOCATION, RUN)]);
        assert_eq!(LangGraph.names(&post("/threads/t1/runs/stream"), &answer), ["r1"]);
        assert_eq!(LangGraph.names(&get("/threads/t1/runs/r1/stream", "-1"), &answer), ["r1"]);
        // From its middle on it is not the run.
        assert!(LangGraph.names(&get("/threads/t1/runs/r1/stream", "1795254075913-0"), &answer).is_empty());
        let metadata = Message::parse(b"event: metadata\ndata: {\"run_id\":\"r1\",\"attempt\":1}\n\n").unwrap();
        assert_eq!(LangGraph.name_in(&metadata).as_deref(), Some("r1"));
    }

    #[test]
    fn a_join_follows_the_run_from_its_start_or_cursor() {
        let from = |target: &str, id: &str| match LangGraph.asks(&get(target, id)) {
            Some(Ask::Follow(Follow { target, from, or_backend, .. })) => {
                Some((target, format!("{from:?}"), or_backend))
            }
            _ => None,
        };
        let (named, stream) = (Target::Name("r1".to_owned()), "/threads/t1/runs/r1/stream");
        for start in ["", "-1", "0-0", "nonsense"] {
            assert_eq!(from(stream, start), Some((named.clone(), "After(0)".to_owned(), true)), "{start}");
        }
        let own = Some((Target::Turn(TURN.parse().unwrap()), "After(0)".to_owned(), false));
        assert_eq!(from(&format!("/api/runs/{TURN}/stream"), "-1"), own);
        // The backend's to answer, and the resumes that need no URL.
        assert_eq!(from(stream, "1795254075913-0"), None);
        assert_eq!(from(stream, &format!("{TURN}-3")), None);
        assert_eq!(LangGraph.replies(&get(stream, "")), REPLIES);
    }

    #[test]
    fn a_run_is_cancelled_by_its_name() {
        let Some(Ask::Stop(stop)) = LangGraph.asks(&post("/threads/t1/runs/r1/cancel?wait=0&action=interrupt")) else {
            panic!("it is a stop");
        };
        assert_eq!(stop.target, Target::Name("r1".to_owned()));
        assert!(LangGraph.asks(&post("/threads/t1/runs/stream")).is_none());
        assert!(LangGraph.asks(&get("/threads/t1/runs/r1/cancel", "")).is_none());
    }

    #[test]
    fn subscriptions_and_joins_that_cancel_pass() {
        assert!(LangGraph.passes(&post("/threads/t1/stream/events")));
        assert!(LangGraph.passes(&get("/threads/t1/stream", "")));
        assert!(LangGraph.passes(&get("/threads/t1/runs/r1/stream?cancel_on_disconnect=1", "")));
        assert!(!LangGraph.passes(&get("/threads/t1/runs/r1/stream?cancel_on_disconnect=0", "")));
        assert!(!LangGraph.passes(&post("/threads/t1/runs/stream")));
    }

    #[test]
    fn it_is_recognised_only_when_certain() {
        assert!(LangGraph.recognises(&post("/threads/t1/runs/stream")));
        assert!(LangGraph.recognises(&post("/runs/stream")));
        assert!(LangGraph.recognises(&get("/threads/t1/runs/r1/stream", "")));
        assert!(!LangGraph.recognises(&Request::of("POST", "/threads/t1/runs/stream", &[], "{}")));
        assert!(!LangGraph.recognises(&get("/runs/r1/stream", "")));
        assert!(!LangGraph.recognises(&get("/threads/t1/stream", "")));
        let both = [(header::LOCATION, "/runs/r1/stream"), (header::CONTENT_LOCATION, "/runs/r1")];
        assert!(LangGraph.recognises_answer(&headers(&both)));
        assert!(!LangGraph.recognises_answer(&headers(&both[..1])));
    }

    #[test]
    fn the_last_events_say_how_it_went() {
        let said = |block: &'static [u8]| LangGraph.terminal(&Message::parse(block).unwrap());
        assert_eq!(said(b"event: end\ndata\n\n"), Some(Terminal::DONE));
        assert_eq!(said(b"event: error\ndata: {}\n\n"), Some(Terminal::soft(Outcome::Failed)));
        assert_eq!(said(b"event: values\ndata: {\"event\":\"error\"}\n\n"), None);
    }

    #[test]
    fn a_lost_turn_is_an_error_event() {
        let loss = Loss { outcome: Outcome::Interrupted, message: "It \"broke\".", request_id: None, first: None };
        let block = LangGraph.lost(&loss).unwrap();
        let event = Message::parse(&block).unwrap();
        assert_eq!(event.event(), b"error");
        assert_eq!(event.json().unwrap(), json!({ "error": "TurnInterrupted", "message": "It \"broke\"." }));
    }
}
