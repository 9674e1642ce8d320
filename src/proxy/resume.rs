//! A request that names a place in a turn: it never starts one and never goes upstream.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode, header};
use pingora::{Error, ErrorType, Result, proxy::Session};

use super::{
    Gateway,
    answers::{self, Gap, Problem},
    body,
    deliver::{self, BROKEN},
    source::Upload,
};
use crate::{
    config::{OnGap, Route},
    node::{FindError, FollowError, Found, Place},
    principal::Principal,
    sse::{Cursor, Seq, TurnId},
    store::Durability,
    turn::Digest,
};

/// How a client asked, which decides what it understands as "nothing left" and "unknown" (`docs/http.md`; a wrong answer
/// makes some real client loop).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asked {
    /// GET on the backend's URL: EventSource and kin. Only 204 stops them, and an error status ends them for good.
    EventSource,
    /// POST from a browser: fetch-event-source. It stops at a stream that ends cleanly, and retries everything else.
    BrowserPost,
    /// Another method than GET, not from a browser.
    Post,
    /// Holdover's own URL, which names the turn.
    Stream,
}

impl Asked {
    /// How a request on a backend's URL asks.
    pub(super) fn of(method: &Method, headers: &HeaderMap) -> Self {
        let from_browser = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-mode");
        let no_cache =
            headers.get(header::CACHE_CONTROL).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"no-cache"));
        match *method {
            Method::GET => Self::EventSource,
            _ if from_browser && !no_cache => Self::BrowserPost,
            _ => Self::Post,
        }
    }

    fn nothing_left(self) -> StatusCode {
        match self {
            Self::BrowserPost => StatusCode::OK,
            Self::EventSource | Self::Post | Self::Stream => StatusCode::NO_CONTENT,
        }
    }
}

/// Where to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum From {
    /// After this seq; 0 is the start.
    After(Seq),
    /// What comes from now on.
    Now,
}

impl From {
    /// The place that a cursor names in `turn`, whose name is known from the URL. A cursor that is malformed, negative or
    /// of another turn means the start: never "no cursor", and never an empty answer.
    pub(super) fn cursor(cursor: &Cursor, turn: &TurnId) -> Self {
        match cursor {
            Cursor::After(id) if id.turn == *turn => Self::After(id.seq),
            Cursor::Now => Self::Now,
            Cursor::After(_) | Cursor::Start | Cursor::Foreign => Self::After(0),
        }
    }
}

/// How long an EventSource is held while the store is away or does not know its turn: any status but 200 would end it for
/// good.
const HOLD: Duration = Duration::from_secs(5);

impl Gateway {
    /// Goes on with the turn that a `Last-Event-ID` names.
    pub(super) async fn resume(
        &self,
        session: &mut Session,
        turn: &TurnId,
        from: From,
        principal: Option<&Principal>,
    ) -> Result<()> {
        let asked = Asked::of(&session.req_header().method, &session.req_header().headers);
        body::discard(session).await?;
        self.resume_as(session, turn, from, principal, asked).await
    }

    /// Goes on with a turn, for a client that asked in a certain way.
    pub(super) async fn resume_as(
        &self,
        session: &mut Session,
        turn: &TurnId,
        from: From,
        principal: Option<&Principal>,
        asked: Asked,
    ) -> Result<()> {
        let asker = principal.map(|p| *p.as_bytes());
        let deadline = tokio::time::Instant::now() + HOLD;
        // A store that is elsewhere may have lost a turn that its owner is about to write again.
        let may_appear = self.node.store().durability() != Durability::Held;
        let found = loop {
            match self.node.find(turn, asker.as_ref()).await {
                Err(error)
                    if asked == Asked::EventSource
                        && (may_appear || error != FindError::Unknown)
                        && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                found => break found,
            }
        };
        match found {
            Ok(found) => self.continue_turn(session, found, from, asked).await,
            Err(FindError::Unknown) => {
                self.count_resume("unknown");
                self.unknown(session, asked).await
            }
            Err(FindError::Store(_)) => self.store_down(session, asked).await,
        }
    }

    /// A start that was recognised as a retry follows its turn from the first event. False: it turned out to be no turn.
    /// It may get lost as the one before it was, and be sent once more: `mark` is what it is recognised by then.
    pub(super) async fn attach(&self, session: &mut Session, found: Found, mark: Option<&Digest>) -> Result<bool> {
        let asked = Asked::of(&session.req_header().method, &session.req_header().headers);
        let route = self.route_named(&found.record.route);
        let (id, live) = (found.record.id, found.live.clone());
        let body_read = session.as_mut().is_body_done();
        let placed = tokio::select! {
            placed = self.node.place(&found, 0, route.followers as usize) => placed,
            gone = client_left(session), if body_read => {
                self.node.client_lost(&id, mark, None).await;
                return Err(gone);
            }
        };
        let place = match placed {
            Ok(place) => place,
            Err(FollowError::NotAStream | FollowError::Find(FindError::Unknown)) => return Ok(false),
            Err(error) => return self.refuse(session, asked, &error).await.map(|()| true),
        };
        // Only now is it certain that the body need not go upstream.
        body::discard(session).await?;
        let written_at = self.node.clock().now();
        let followed = self.deliver_from(session, &found, &route, place, asked).await;
        if followed.is_err() && live.is_none_or(|turn| turn.log().ended().is_none()) {
            self.node.client_lost(&id, mark, Some(written_at)).await;
        }
        followed.map(|()| true)
    }

    async fn continue_turn(&self, session: &mut Session, found: Found, from: From, asked: Asked) -> Result<()> {
        let route = self.route_named(&found.record.route);
        let after = match from {
            From::After(seq) => seq,
            From::Now => found.record.last,
        };
        let placed = tokio::select! {
            placed = self.node.place(&found, after, route.followers as usize) => placed,
            gone = client_left(session) => return Err(gone),
        };
        match placed {
            Ok(place) => self.deliver_from(session, &found, &route, place, asked).await,
            Err(error) => self.refuse(session, asked, &error).await,
        }
    }

    async fn refuse(&self, session: &mut Session, asked: Asked, error: &FollowError) -> Result<()> {
        match error {
            FollowError::TooMany => {
                self.count_resume("too_many_followers");
                let message = "This turn is followed by as many connections as its route allows. Try again.";
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_followers", message);
                not_now(session, asked, problem.retry_after(Duration::from_secs(5))).await
            }
            FollowError::NotAStream | FollowError::Find(FindError::Unknown) => {
                self.count_resume("unknown");
                self.unknown(session, asked).await
            }
            FollowError::Find(FindError::Store(_)) => self.store_down(session, asked).await,
        }
    }

    /// Answers with the turn from a place in it.
    async fn deliver_from(
        &self,
        session: &mut Session,
        found: &Found,
        route: &Route,
        mut place: Place,
        asked: Asked,
    ) -> Result<()> {
        if let Some((first, last)) = place.gap
            && !place.nothing_left
        {
            match route.on_gap {
                OnGap::Restart => place.restart(),
                OnGap::Skip => {}
                OnGap::Error => {
                    self.count_resume("gap");
                    return self.gap(session, found, &place, first, last).await;
                }
            }
        }
        let head = place.log.head().unwrap_or_default();
        let base_path = self.base_path();
        let following = answers::Following {
            head: &head,
            turn: &found.record.id,
            base_path: &base_path,
            from: Some(place.after),
            gap: gap_of(&place),
        };
        if place.nothing_left {
            if let Some((first, last)) = place.gap
                && asked == Asked::Stream
            {
                self.count_resume("gap");
                return self.gap(session, found, &place, first, last).await;
            }
            self.count_resume("nothing_left");
            let header = following.empty(asked.nothing_left());
            return session.write_response_header(Box::new(header), true).await;
        }
        self.count_resume(if place.gap.is_some() {
            "gap"
        } else if place.end().is_some() {
            "replayed"
        } else {
            "live"
        });
        let header = following.stream(session.req_header().version);
        let follow = place.follow(super::pace(route), self.node.metrics().clone());
        deliver::deliver(session, header, follow, Upload::none(), self.node.metrics()).await
    }

    async fn gap(&self, session: &mut Session, found: &Found, place: &Place, first: Seq, last: Seq) -> Result<()> {
        let head = place.log.head().unwrap_or_default();
        let base_path = self.base_path();
        let following = answers::Following {
            head: &head,
            turn: &found.record.id,
            base_path: &base_path,
            from: None,
            gap: Some(Gap::Between(first, last)),
        };
        let header = following.empty(StatusCode::CONFLICT);
        let message = format!(
            "Events {first} to {last} of this turn are not kept; the first one that is, is {}.",
            place.log.base() + 1
        );
        answers::problem_under(session, header, &Problem::new(StatusCode::CONFLICT, "gap", message)).await
    }

    async fn unknown(&self, session: &mut Session, asked: Asked) -> Result<()> {
        if asked != Asked::EventSource {
            return answers::problem(session, &Problem::unknown_turn()).await;
        }
        // To an EventSource 204 means: do not come back. Any error status would too, but as an error.
        let mut header = pingora::http::ResponseHeader::build(StatusCode::NO_CONTENT, Some(4))?;
        answers::readable_for_origin(session, &mut header);
        session.write_response_header(Box::new(header), true).await
    }

    async fn store_down(&self, session: &mut Session, asked: Asked) -> Result<()> {
        self.count_resume("store_down");
        not_now(session, asked, Problem::store_down()).await
    }

    fn count_resume(&self, result: &str) {
        self.node.metrics().resumes.with_label_values(&[result]).inc();
    }
}

/// What a client that goes on at `place` will never get.
fn gap_of(place: &Place) -> Option<Gap> {
    let cut_short = || place.log.capped().map(|_| Gap::From(place.log.last() + 1));
    place.gap.map(|(first, last)| Gap::Between(first, last)).or_else(cut_short)
}

/// Tells of what may pass. An EventSource retries a broken connection for ever, and gives up at an error status.
pub(super) async fn not_now(session: &mut Session, asked: Asked, problem: Problem) -> Result<()> {
    match asked {
        Asked::EventSource => Err(Error::explain(BROKEN, problem.code).into_down()),
        Asked::BrowserPost | Asked::Post | Asked::Stream => answers::problem(session, &problem).await,
    }
}

/// Waits until the client leaves. Its request body has been read.
pub(super) async fn client_left(session: &mut Session) -> Box<Error> {
    match session.downstream_session.read_body_or_idle(true).await {
        Err(error) => error.into_down(),
        Ok(_) => Error::explain(ErrorType::ConnectionClosed, "more came than the request").into_down(),
    }
}
