//! Holdover's own URLs under `listen.base_path`: turns and sessions.

use std::{borrow::Cow, time::Duration};

use http::{Method, StatusCode, header};
use percent_encoding::percent_decode_str;
use pingora::{Result, http::ResponseHeader, proxy::Session};

use super::{
    Gateway,
    answers::{self, Problem},
    body,
    resume::{self, Resumed},
};
use crate::{
    node::{FindError, Found, Stopped},
    principal::Principal,
    profile::{Follow, From, Replies, Target},
    sse::{Cursor, TurnId},
    turn::Digest,
};

/// Longest `?wait=` of a session.
const MAX_WAIT: Duration = Duration::from_secs(60);

/// What a path below the base path names.
enum Named<'a> {
    Turn(&'a str),
    TurnStream(&'a str),
    Session(Cow<'a, str>),
    SessionStream(Cow<'a, str>),
}

impl<'a> Named<'a> {
    fn parse(path: &'a str) -> Option<Self> {
        let decode = |text: &'a str| percent_decode_str(text).decode_utf8().ok().filter(|text| !text.is_empty());
        let segments: Vec<&str> = path.strip_prefix('/')?.split('/').collect();
        match segments[..] {
            ["turns", turn] => Some(Self::Turn(turn)),
            ["turns", turn, "stream"] => Some(Self::TurnStream(turn)),
            ["sessions", key] => Some(Self::Session(decode(key)?)),
            ["sessions", key, "stream"] => Some(Self::SessionStream(decode(key)?)),
            _ => None,
        }
    }
}

impl Gateway {
    /// Answers a request below the base path; `path` is what stands behind it.
    pub(super) async fn control(&self, session: &mut Session, path: &str, principal: Option<Principal>) -> Result<()> {
        let method = session.req_header().method.clone();
        if method == Method::OPTIONS {
            return preflight(session).await;
        }
        body::discard(session).await?;
        let asker = principal.as_ref().map(|p| *p.as_bytes());
        let asker = asker.as_ref();
        match (Named::parse(path), &method) {
            (Some(Named::Turn(turn)), &Method::GET | &Method::HEAD) => self.status(session, turn, asker).await,
            (Some(Named::Turn(turn)), &Method::DELETE) => self.stop(session, turn, asker).await,
            (Some(Named::TurnStream(turn)), &Method::GET) => self.stream(session, turn, principal.as_ref()).await,
            // What `Holdover-Resume` names can be stopped under the same name.
            (Some(Named::TurnStream(turn)), &Method::DELETE) => self.stop(session, turn, asker).await,
            (Some(Named::Session(name)), &Method::GET) => self.session_status(session, &name, principal.as_ref()).await,
            (Some(Named::SessionStream(name)), &Method::GET) => {
                self.session_stream(session, &name, principal.as_ref()).await
            }
            (Some(target), _) => {
                let allow = match target {
                    Named::Turn(_) => "GET, HEAD, DELETE, OPTIONS",
                    Named::TurnStream(_) => "GET, DELETE, OPTIONS",
                    Named::Session(_) | Named::SessionStream(_) => "GET, OPTIONS",
                };
                let message = format!("This URL takes {allow}.");
                let problem = Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", message);
                answers::problem(session, &problem.allow(allow)).await
            }
            (None, _) => {
                let base = self.base_path();
                let message =
                    format!("Below {base} there are /turns/<turn>[/stream], /sessions/<key>[/stream] and /resume.js.");
                answers::problem(session, &Problem::new(StatusCode::NOT_FOUND, "not_found", message)).await
            }
        }
    }

    async fn found(&self, turn: &str, asker: Option<&Digest>) -> std::result::Result<Found, Problem> {
        let turn: TurnId = turn.parse().map_err(|_| Problem::unknown_turn())?;
        self.node.find(&turn, asker).await.map_err(|error| problem_of(&error))
    }

    async fn status(&self, session: &mut Session, turn: &str, asker: Option<&Digest>) -> Result<()> {
        match self.found(turn, asker).await {
            Ok(found) => self.tell_status(session, &found).await,
            Err(problem) => answers::problem(session, &problem).await,
        }
    }

    async fn tell_status(&self, session: &mut Session, found: &Found) -> Result<()> {
        let header = self.with_cors_of(found, StatusCode::OK);
        answers::json(session, header, &status_of(found)).await
    }

    async fn stop(&self, session: &mut Session, turn: &str, asker: Option<&Digest>) -> Result<()> {
        let found = match self.found(turn, asker).await {
            Ok(found) => found,
            Err(problem) => return answers::problem(session, &problem).await,
        };
        let result = match self.node.stop(&found).await {
            Ok(Stopped::Stopped) => "stopped",
            Ok(Stopped::AlreadyEnded) => "already_ended",
            Ok(Stopped::OwnerUnreachable) => "owner_unreachable",
            Err(_) => return answers::problem(session, &Problem::store_down()).await,
        };
        let header = self.with_cors_of(&found, StatusCode::OK);
        answers::json(session, header, &serde_json::json!({ "result": result })).await
    }

    async fn stream(&self, session: &mut Session, turn: &str, principal: Option<&Principal>) -> Result<()> {
        let Ok(turn) = turn.parse::<TurnId>() else {
            return answers::problem(session, &Problem::unknown_turn()).await;
        };
        let from = cursor_of(session, &turn);
        self.resume_own(session, turn, from, principal).await
    }

    async fn resume_own(
        &self,
        session: &mut Session,
        turn: TurnId,
        from: From,
        principal: Option<&Principal>,
    ) -> Result<()> {
        let follow = Follow { from, ..Follow::whole(Target::Turn(turn), Replies::STREAM) };
        match self.resume(session, follow, principal).await? {
            Resumed::Answered => Ok(()),
            Resumed::AtBackend(_) => answers::problem(session, &Problem::unknown_turn()).await,
        }
    }

    /// Whether somebody may attach to turns by their session: without identity, whoever guesses a name would read along.
    pub(super) fn sessions_are_open_to(&self, principal: Option<&Principal>) -> bool {
        principal.is_some() || self.settings.load().identity.anonymous_sessions
    }

    fn session_key(&self, name: &str, principal: Option<&Principal>) -> Option<Digest> {
        let key = || *self.identity().session_key(principal, name).as_bytes();
        self.sessions_are_open_to(principal).then(key)
    }

    async fn session_status(&self, session: &mut Session, name: &str, principal: Option<&Principal>) -> Result<()> {
        let asker = principal.map(|p| *p.as_bytes());
        let found = match self.session_key(name, principal) {
            None => Err(FindError::Unknown),
            Some(key) => match self.node.session(&key).await {
                Ok(Some(turn)) => self.node.find(&turn, asker.as_ref()).await,
                Ok(None) => Err(FindError::Unknown),
                Err(error) => Err(error.into()),
            },
        };
        match found {
            Ok(found) => self.tell_status(session, &found).await,
            Err(error) => answers::problem(session, &problem_of(&error)).await,
        }
    }

    async fn session_stream(&self, session: &mut Session, name: &str, principal: Option<&Principal>) -> Result<()> {
        let Some(key) = self.session_key(name, principal) else {
            return answers::problem(session, &Problem::unknown_turn()).await;
        };
        let wait = match query(session, &["wait"]) {
            None => Duration::ZERO,
            Some(text) => match parse_wait(&text) {
                Some(wait) => wait.min(MAX_WAIT),
                None => {
                    let message = "`wait` takes a time such as 8s or 500ms.";
                    let problem = Problem::new(StatusCode::BAD_REQUEST, "bad_wait", message);
                    return answers::problem(session, &problem).await;
                }
            },
        };
        let asker = principal.map(|p| *p.as_bytes());
        let running = tokio::select! {
            running = self.node.running_in(&key, asker.as_ref(), wait) => running,
            gone = resume::client_left(session) => return Err(gone),
        };
        match running {
            Ok(found) => {
                let turn = found.record.id;
                let from = cursor_of(session, &turn);
                self.resume_own(session, turn, from, principal).await
            }
            Err(FindError::Unknown) => {
                let mut header = ResponseHeader::build(StatusCode::NO_CONTENT, Some(4))?;
                answers::readable_for_origin(session, &mut header);
                session.write_response_header(Box::new(header), true).await
            }
            Err(FindError::Store(_)) => answers::problem(session, &Problem::store_down()).await,
        }
    }

    /// A header that lets those read who may read the turn. Before the backend has said who that is: its own origin alone.
    pub(super) fn with_cors_of(&self, found: &Found, status: StatusCode) -> ResponseHeader {
        match &found.record.head {
            Some(head) => {
                let (turn, base_path) = (&found.record.id, self.base_path());
                let following =
                    answers::Following { head, turn, base_path: &base_path, from: None, gap: None, state: None };
                following.empty(status)
            }
            None => ResponseHeader::build(status, Some(4)).expect("the status is valid"),
        }
    }
}

fn problem_of(error: &FindError) -> Problem {
    match error {
        FindError::Unknown => Problem::unknown_turn(),
        FindError::Store(_) => Problem::store_down(),
    }
}

fn status_of(found: &Found) -> serde_json::Value {
    let record = &found.record;
    let live = found.live.as_ref();
    serde_json::json!({
        "turn": record.id.as_str(),
        "session": record.session.as_ref().map(|s| &s.name),
        "state": record.end.as_ref().map_or("running", |end| end.outcome.as_str()),
        "reason": record.end.as_ref().map(|end| &*end.reason),
        "route": &*record.route,
        "profile": record.head.as_ref().map(|head| &*head.profile),
        "started_at": record.started_at,
        "ended_at": record.end.as_ref().map(|end| end.at),
        "first_seq": (record.last > 0).then_some(1),
        "last_seq": record.last,
        "bytes": record.bytes,
        "truncated": record.cap,
        "followers": live.map_or(0, |turn| turn.followers()),
        "detached_since": live.and_then(|turn| turn.detached_since()),
        "degraded": live.is_some_and(|turn| turn.degraded()),
    })
}

/// The cursor of a request whose URL names the turn: header first, as clients send it by themselves, then the query.
fn cursor_of(session: &Session, turn: &TurnId) -> From {
    let header = session.req_header().headers.get("last-event-id");
    if let Some(value) = header.filter(|value| !value.is_empty()) {
        return From::cursor(&Cursor::parse(value.as_bytes()), turn);
    }
    if let Some(after) = query(session, &["after"]) {
        return after.parse().map_or_else(|_| From::cursor(&Cursor::parse(after.as_bytes()), turn), From::After);
    }
    let cursor = query(session, &["last_event_id", "lastEventId"]);
    cursor.map_or(From::After(0), |text| From::cursor(&Cursor::parse(text.as_bytes()), turn))
}

/// The first query parameter of one of these names.
fn query(session: &Session, names: &[&str]) -> Option<String> {
    let query = session.req_header().uri.query()?;
    url::form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| names.contains(&name.as_ref()))
        .map(|(_, value)| value.into_owned())
}

fn parse_wait(text: &str) -> Option<Duration> {
    if let Some(millis) = text.strip_suffix("ms") {
        return millis.parse().ok().map(Duration::from_millis);
    }
    text.strip_suffix('s').unwrap_or(text).parse().ok().map(Duration::from_secs)
}

/// Lets a page of any origin ask. What it may read, the backend's CORS headers decide, which stand on every answer of a
/// turn; to stop one it must know its id.
async fn preflight(session: &mut Session) -> Result<()> {
    let mut header = ResponseHeader::build(StatusCode::NO_CONTENT, Some(8))?;
    answers::readable_for_origin(session, &mut header);
    answers::insert(&mut header, header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, DELETE");
    if let Some(wanted) = session.req_header().headers.get(header::ACCESS_CONTROL_REQUEST_HEADERS).cloned() {
        header.insert_header(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted)?;
    }
    answers::insert(&mut header, header::ACCESS_CONTROL_MAX_AGE, "600");
    session.write_response_header(Box::new(header), true).await
}
