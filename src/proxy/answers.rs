//! What clients are told: every header and every error answer of Holdover's own, in one place.

use std::{fmt, time::Duration};

use bytes::Bytes;
use http::{
    HeaderName, HeaderValue, StatusCode, Version,
    header::{
        ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ALLOW,
        CACHE_CONTROL, CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, ORIGIN, RETRY_AFTER, SET_COOKIE, TRANSFER_ENCODING,
        VARY,
    },
};
use pingora::{Result, http::ResponseHeader, proxy::Session};

use crate::{
    sse::{Seq, TurnId},
    turn::{Head, Outcome},
};

/// Names the turn of a recorded answer.
pub(super) const HOLDOVER_TURN: HeaderName = HeaderName::from_static("holdover-turn");
/// Where to resume a recorded answer.
pub(super) const HOLDOVER_RESUME: HeaderName = HeaderName::from_static("holdover-resume");
/// The seq after which a resumed answer begins.
pub(super) const HOLDOVER_FROM: HeaderName = HeaderName::from_static("holdover-from");
/// The seqs that a resumed answer lacks: `<first>-<last>`, or `<first>-` where all that follows is missing.
pub(super) const HOLDOVER_GAP: HeaderName = HeaderName::from_static("holdover-gap");
/// How the turn of a resumed answer ended, where it has ended.
pub(super) const HOLDOVER_STATE: HeaderName = HeaderName::from_static("holdover-state");
const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// What scripts of other origins may read of a recorded answer.
const EXPOSED: [&str; 6] =
    ["Holdover-Turn", "Holdover-Resume", "Holdover-From", "Holdover-Gap", "Holdover-State", "Location"];

/// What they may read besides, where it stands on the answer: headers by which clients resume.
const EXPOSED_IF_THERE: [&str; 5] = [
    "content-location",
    "x-resumable-stream-id",
    "x-vercel-ai-ui-message-stream",
    "x-workflow-run-id",
    "x-workflow-stream-tail-index",
];

/// Header fields of a connection, not of the answer (RFC 9110 §7.6.1), and the length of a body that is not sent as it
/// came.
const NOT_REPLAYED: [&str; 9] = [
    "connection",
    "content-length",
    "keep-alive",
    "proxy-authenticate",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// An error that a client is told of.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    /// The status.
    pub(super) status: StatusCode,
    /// One word for programs.
    pub(super) code: &'static str,
    /// A sentence for people: what was wrong, and what to do.
    pub(super) message: String,
    /// When trying again may help.
    pub(super) retry_after: Option<Duration>,
    /// Whether the connection can serve another request.
    pub(super) keep_connection: bool,
    /// What a 405 names instead (RFC 9110 §15.5.6 asks for it).
    pub(super) allow: Option<&'static str>,
}

impl Problem {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), retry_after: None, keep_connection: true, allow: None }
    }

    pub(super) fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }

    /// For methods that a URL does not take.
    pub(super) fn allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    /// For requests whose end on the wire is not certain.
    pub(super) fn closing(mut self) -> Self {
        self.keep_connection = false;
        self
    }

    /// Also said of turns that belong to somebody else: nobody is told which.
    pub(super) fn unknown_turn() -> Self {
        Self::new(StatusCode::NOT_FOUND, "unknown_turn", "There is no such turn, or it is no longer kept.")
    }

    /// Told to who started a turn that somebody stopped before there was an answer. No status that SDKs take for a reason
    /// to try again.
    pub(super) fn stopped() -> Self {
        Self::new(StatusCode::GONE, "stopped", "The turn was stopped before the backend answered.")
    }

    /// What went wrong with the backend, by the status that says it.
    pub(super) fn upstream(status: StatusCode) -> Self {
        let (code, message) = match status {
            StatusCode::GATEWAY_TIMEOUT => ("upstream_timeout", "The backend did not answer in time."),
            _ => ("upstream_failed", "The backend cannot be reached, or broke off."),
        };
        Self::new(status, code, message).closing()
    }

    pub(super) fn body_too_large(limit: Option<usize>) -> Self {
        let limit = limit.map_or_else(String::new, |bytes| format!(" ({bytes} bytes)"));
        let message = format!("The request body is larger than this route takes: max_request_body{limit}.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message).closing()
    }

    /// An error that Pingora met.
    pub(super) fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::REQUEST_TIMEOUT => {
                Self::new(status, "request_timeout", "The request did not arrive in time.").closing()
            }
            StatusCode::PAYLOAD_TOO_LARGE => Self::body_too_large(None),
            StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT => Self::upstream(status),
            _ if status.is_client_error() => {
                Self::new(status, "bad_request", "The request cannot be understood.").closing()
            }
            _ => Self::new(status, "internal", "Something went wrong in the proxy.").closing(),
        }
    }

    /// Told to who stops a turn whose node does not act on it.
    pub(super) fn owner_unreachable() -> Self {
        let message = "The wish to stop the turn is noted, but the node that runs it did not act on it. Try again.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "owner_unreachable", message).retry_after(Duration::from_secs(2))
    }

    pub(super) fn store_down() -> Self {
        let message = "The store that keeps turns cannot be reached. Try again.";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "store_unavailable", message).retry_after(Duration::from_secs(2))
    }
}

/// The header with which a client follows a turn: as the backend gave it, and where to resume.
pub(super) struct Following<'a> {
    pub(super) head: &'a Head,
    pub(super) turn: &'a TurnId,
    pub(super) base_path: &'a str,
    /// Set on resumed answers.
    pub(super) from: Option<Seq>,
    pub(super) gap: Option<Gap>,
    /// Set on resumed answers of turns that have ended.
    pub(super) state: Option<Outcome>,
}

/// What a resumed answer lacks.
#[derive(Debug, Clone, Copy)]
pub(super) enum Gap {
    /// These seqs.
    Between(Seq, Seq),
    /// Everything from this seq on: recording ended there, and the turn did not.
    From(Seq),
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Between(first, last) => write!(f, "{first}-{last}"),
            Self::From(first) => write!(f, "{first}-"),
        }
    }
}

impl Following<'_> {
    /// The header of the stream itself.
    pub(super) fn stream(&self, version: Version) -> ResponseHeader {
        let mut header = self.build(StatusCode::OK);
        // A cookie of the start may have been replaced since.
        let cookies = self.from.is_none_or(|from| from == 0);
        for (name, value) in self.head.headers.iter().filter(|(name, _)| cookies || **name != SET_COOKIE) {
            append(&mut header, name, value.clone());
        }
        insert(&mut header, CACHE_CONTROL, "no-cache, no-transform");
        insert(&mut header, X_ACCEL_BUFFERING, "no");
        self.mark(&mut header);
        if version == Version::HTTP_11 {
            // Without it the answer would end with the connection, which could not be reused.
            insert(&mut header, TRANSFER_ENCODING, "chunked");
        }
        header
    }

    /// An answer without events, as the backend's would look: the CORS headers of the start stand on it.
    pub(super) fn empty(&self, status: StatusCode) -> ResponseHeader {
        let mut header = self.build(status);
        for (name, value) in &self.head.headers {
            if name.as_str().starts_with("access-control-") || *name == VARY {
                append(&mut header, name, value.clone());
            }
        }
        if status == StatusCode::OK {
            insert(&mut header, CONTENT_TYPE, "text/event-stream");
        }
        if status != StatusCode::NO_CONTENT {
            insert(&mut header, CONTENT_LENGTH, "0");
        }
        insert(&mut header, CACHE_CONTROL, "no-store");
        self.mark(&mut header);
        header
    }

    fn build(&self, status: StatusCode) -> ResponseHeader {
        ResponseHeader::build(status, Some(self.head.headers.len() + 8)).expect("the status is valid")
    }

    fn mark(&self, header: &mut ResponseHeader) {
        insert(header, HOLDOVER_TURN, self.turn.as_str());
        insert(header, HOLDOVER_RESUME, &format!("{}/turns/{}/stream", self.base_path, self.turn));
        if let Some(from) = self.from {
            insert(header, HOLDOVER_FROM, &from.to_string());
        }
        if let Some(gap) = self.gap {
            insert(header, HOLDOVER_GAP, &gap.to_string());
        }
        if let Some(state) = self.state {
            insert(header, HOLDOVER_STATE, state.as_str());
        }
        expose(header);
    }
}

/// Takes out of an upstream's answer what was said about its connection, but for what an upgrade needs and for framing.
/// Pingora leaves it in, and frames an answer to HTTP/1.0 in chunks, which that version does not know (RFC 9112 §6.1).
pub(super) fn leave_connection_out(header: &mut ResponseHeader, version: Version) {
    if header.status == StatusCode::SWITCHING_PROTOCOLS {
        return;
    }
    for name in nominated(header).iter().map(String::as_str).chain(["keep-alive", "proxy-connection"]) {
        if !matches!(name, "content-length" | "transfer-encoding") {
            header.remove_header(name);
        }
    }
    if version == Version::HTTP_10 {
        header.remove_header(&TRANSFER_ENCODING);
    }
}

/// The fields that the header says are of its connection only, in lower case.
fn nominated(header: &ResponseHeader) -> Vec<String> {
    let fields = header.headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    fields.flat_map(|value| value.split(',')).map(|name| name.trim().to_ascii_lowercase()).collect()
}

/// The part of an upstream's answer that is recorded and replayed.
pub(super) fn recordable(header: &ResponseHeader) -> Head {
    let nominated = nominated(header);
    let of_connection =
        |name: &HeaderName| NOT_REPLAYED.contains(&name.as_str()) || nominated.iter().any(|n| n == name.as_str());
    let kept = header.headers.iter().filter(|(name, _)| !of_connection(name));
    Head { headers: kept.map(|(name, value)| (name.clone(), value.clone())).collect(), ..Head::default() }
}

/// Lets scripts of other origins read our headers, where the backend lets them read the answer at all.
fn expose(header: &mut ResponseHeader) {
    if !header.headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN) {
        return;
    }
    let given = header.headers.get_all(ACCESS_CONTROL_EXPOSE_HEADERS).iter().filter_map(|v| v.to_str().ok());
    let mut all: Vec<String> = given.flat_map(|v| v.split(',')).map(|name| name.trim().to_owned()).collect();
    let there = EXPOSED_IF_THERE.into_iter().filter(|name| header.headers.contains_key(*name));
    for name in EXPOSED.into_iter().chain(there) {
        if !all.iter().any(|known| known.eq_ignore_ascii_case(name)) {
            all.push(name.to_owned());
        }
    }
    insert(header, ACCESS_CONTROL_EXPOSE_HEADERS, &all.join(", "));
}

/// Adds `Last-Event-ID` to what a preflight answer allows: fetch sends it on a resume, and a backend that has never heard
/// of it forbids it.
pub(super) fn widen_preflight(header: &mut ResponseHeader) {
    use http::header::ACCESS_CONTROL_ALLOW_HEADERS;
    let allowed: Vec<String> = header
        .headers
        .get_all(ACCESS_CONTROL_ALLOW_HEADERS)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    // `*` allows it, except with credentials, where naming it beside the star is what browsers want.
    let answers_preflight = header.headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN);
    if answers_preflight && !allowed.iter().any(|name| name.eq_ignore_ascii_case("last-event-id")) {
        let widened: Vec<String> = allowed.into_iter().chain(["last-event-id".to_owned()]).collect();
        insert(header, ACCESS_CONTROL_ALLOW_HEADERS, &widened.join(", "));
    }
}

/// Writes an error answer: JSON, never cached, readable for the page that asked. It must be the same for everybody who
/// asks, so that it tells nothing: without the CORS headers a page cannot even see the status.
pub(super) async fn problem(session: &mut Session, problem: &Problem) -> Result<()> {
    let mut header = ResponseHeader::build(problem.status, Some(8))?;
    readable_for_origin(session, &mut header);
    problem_under(session, header, problem).await
}

/// Writes an error answer that tells something of a turn: `header` says who may read it.
pub(super) async fn problem_under(session: &mut Session, mut header: ResponseHeader, problem: &Problem) -> Result<()> {
    let body = serde_json::json!({ "error": { "code": problem.code, "message": problem.message } });
    insert(&mut header, CONTENT_TYPE, "application/json");
    if let Some(after) = problem.retry_after {
        insert(&mut header, RETRY_AFTER, &after.as_secs().max(1).to_string());
    }
    if let Some(methods) = problem.allow {
        insert(&mut header, ALLOW, methods);
    }
    if !problem.keep_connection {
        session.set_keepalive(None);
    }
    whole(session, header, body.to_string().into()).await
}

/// Writes a JSON answer.
pub(super) async fn json(session: &mut Session, mut header: ResponseHeader, body: &serde_json::Value) -> Result<()> {
    insert(&mut header, CONTENT_TYPE, "application/json");
    whole(session, header, body.to_string().into()).await
}

/// Writes an answer with a body that is at hand.
pub(super) async fn whole(session: &mut Session, mut header: ResponseHeader, body: Bytes) -> Result<()> {
    insert(&mut header, CONTENT_LENGTH, &body.len().to_string());
    insert(&mut header, CACHE_CONTROL, "no-store");
    if session.req_header().method == http::Method::HEAD {
        return session.write_response_header(Box::new(header), true).await;
    }
    session.write_response_header(Box::new(header), false).await?;
    session.write_response_body(Some(body), true).await
}

/// Lets the page that asked read the answer.
pub(super) fn readable_for_origin(session: &Session, header: &mut ResponseHeader) {
    if let Some(origin) = session.req_header().headers.get(ORIGIN).cloned() {
        append(header, &ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        insert(header, ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
        insert(header, VARY, "Origin");
    }
}

pub(super) fn insert(header: &mut ResponseHeader, name: HeaderName, value: &str) {
    header.insert_header(name, value).expect("own header values are valid");
}

fn append(header: &mut ResponseHeader, name: &HeaderName, value: HeaderValue) {
    header.append_header(name.clone(), value).expect("a value that was received is valid");
}
