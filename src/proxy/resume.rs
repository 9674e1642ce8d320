//! A request that names a place in a turn: it starts none, and goes to the backend only where the backend itself can go on
//! behind an id of its own.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, Method, StatusCode};
use pingora::{Error, ErrorType, Result, proxy::Session};

use super::{
    Gateway, LAST_EVENT_ID,
    answers::{self, Gap, Problem},
    body,
    deliver::{self, BROKEN},
    farewell,
    purpose::Matched,
    source::Upload,
};
use crate::{
    config::{OnGap, PathParams, Route},
    node::{FindError, FollowError, Found, Place},
    principal::Principal,
    profile::{self, Ended, Follow, From, Profile, Replies, Request, Target},
    sse::{EventId, Message, Seq, TurnId},
    store::Durability,
    turn::{self, Digest, Log, Outcome},
};

/// How far before its cursor a turn is read to find an id of the backend's.
const NATIVE_IDS: Seq = 256;

/// How long an EventSource is held while the store is away or does not know its turn: any status but 200 would end it for
/// good.
const HOLD: Duration = Duration::from_secs(5);

/// What became of a resume.
#[derive(Debug)]
pub(super) enum Resumed {
    /// It was answered.
    Answered,
    /// The turn is over here, but not at its backend, which can go on behind this id of its own.
    AtBackend(Bytes),
}

impl Gateway {
    /// Goes on with the turn that a `Last-Event-ID` names.
    pub(super) async fn resume(
        &self,
        session: &mut Session,
        mut follow: Follow,
        principal: Option<&Principal>,
    ) -> Result<Resumed> {
        body::discard(session).await?;
        let asker = principal.map(|p| *p.as_bytes());
        let Target::Turn(turn) = follow.target else {
            return Err(Error::explain(ErrorType::InternalError, "an event id names its turn"));
        };
        match self.find_patiently(&turn, asker.as_ref(), &follow.replies).await {
            Ok(found) => {
                // The turn knows better than its URL who comes back to it; on our own URLs all are answered alike.
                if let (Some(head), false) = (&found.record.head, follow.replies.ahead_is_conflict) {
                    let request = Request::new(session.req_header().clone(), PathParams::default(), &Route::default());
                    follow.replies = profile::named(&head.profile).replies(&request);
                }
                self.continue_turn(session, found, follow).await
            }
            Err(error) => self.not_found(session, &follow.replies, &error).await.map(|()| Resumed::Answered),
        }
    }

    /// Finds a turn, for a client that an error would end for good: what may be there in a moment is waited for.
    async fn find_patiently(
        &self,
        turn: &TurnId,
        asker: Option<&Digest>,
        replies: &Replies,
    ) -> std::result::Result<Found, FindError> {
        let deadline = tokio::time::Instant::now() + HOLD;
        // A store that is elsewhere may have lost a turn that its owner is about to write again.
        let may_appear = self.node.store().durability() != Durability::Held;
        loop {
            match self.node.find(turn, asker).await {
                Err(error)
                    if replies.patient
                        && (may_appear || error != FindError::Unknown)
                        && tokio::time::Instant::now() < deadline =>
                {
                    tokio::time::sleep(Duration::from_millis(250)).await;
                }
                found => return found,
            }
        }
    }

    /// Says that the turn is not to be had.
    pub(super) async fn not_found(&self, session: &mut Session, replies: &Replies, error: &FindError) -> Result<()> {
        match error {
            FindError::Unknown => {
                self.count_resume("unknown");
                unknown(session, replies).await
            }
            FindError::Store(_) => self.store_down(session, replies).await,
        }
    }

    /// A start that was recognised as a retry follows its turn from the first event. False: it turned out to be no turn.
    /// It may get lost as the one before it was, and be sent once more: `mark` is what it is recognised by then.
    pub(super) async fn attach(&self, session: &mut Session, found: Found, mark: Option<&Digest>) -> Result<bool> {
        let replies = Replies::of(&session.req_header().method, &session.req_header().headers);
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
            Err(error) => return self.refuse(session, &replies, &error).await.map(|()| true),
        };
        // Only now is it certain that the body need not go upstream.
        body::discard(session).await?;
        let written_at = self.node.clock().now();
        let profile = place.log.head().map(|head| profile::named(&head.profile));
        let bare = profile.is_some_and(|profile| profile.bare());
        let follow = Follow { bare, ..Follow::whole(Target::Turn(id), replies) };
        let followed = self.deliver_from(session, &found, &route, place, follow, None).await;
        if followed.is_err() && live.is_none_or(|turn| turn.log().ended().is_none()) {
            self.node.client_lost(&id, mark, Some(written_at)).await;
        }
        followed.map(|()| true)
    }

    /// Goes on with a turn that was found.
    pub(super) async fn continue_turn(&self, session: &mut Session, found: Found, follow: Follow) -> Result<Resumed> {
        // Any other request would start something there.
        let can_ask_backend = session.req_header().method == Method::GET && !follow.replies.ahead_is_conflict;
        let route = self.route_named(&found.record.route);
        let place = async {
            let (after, counted) = self.locate(&found, &follow).await?;
            let mut place = self.node.place(&found, after, route.followers as usize).await?;
            place.nothing_left = self.is_empty_behind(&found, &place, &follow).await?;
            Ok::<_, FollowError>((place, counted))
        };
        let placed = tokio::select! {
            placed = place => placed,
            gone = client_left(session) => return Err(gone),
        };
        match placed {
            Ok((place, counted)) => {
                let tail = follow.tail_index.clone().zip(counted.map(|counted| counted as i64 - 1));
                if can_ask_backend && let Some(native_id) = self.goes_on_at_backend(&found, &place).await {
                    self.count_resume("at_backend");
                    return Ok(Resumed::AtBackend(native_id));
                }
                self.deliver_from(session, &found, &route, place, follow, tail).await
            }
            Err(error) => self.refuse(session, &follow.replies, &error).await,
        }
        .map(|()| Resumed::Answered)
    }

    /// The seq after which the client wants to go on; and how many events that count there were then, where it is told that.
    async fn locate(&self, found: &Found, follow: &Follow) -> std::result::Result<(Seq, Option<Seq>), FollowError> {
        let counted = match (&follow.from, &follow.tail_index) {
            (From::Last(_), _) | (_, Some(_)) => Some(counted(&*self.node.log(found, 0).await?, follow.trailer)),
            _ => None,
        };
        let after = match &follow.from {
            From::After(seq) => *seq,
            From::Now => found.record.last,
            From::Last(count) => counted.unwrap_or_default().saturating_sub(*count),
            From::Behind(had) => {
                let log = self.node.log(found, 0).await?;
                let had = |seq: &Seq| log.message(*seq, |message| had(message)).unwrap_or(true);
                (log.base() + 1..=log.last()).take_while(had).last().unwrap_or(log.base())
            }
        };
        Ok((after, counted))
    }

    /// Whether a turn that has ended has nothing for this client: it was sent once, is not sent at all, or has only events
    /// left that count for nothing.
    async fn is_empty_behind(
        &self,
        found: &Found,
        place: &Place,
        follow: &Follow,
    ) -> std::result::Result<bool, FollowError> {
        // A copy of its log learns of the end last.
        let Some(end) = found.record.end.clone().or_else(|| place.end()) else { return Ok(place.nothing_left) };
        match (follow.ended, follow.trailer) {
            (Ended::NothingLeft, _) => Ok(true),
            (Ended::SentOnce, _) if end.is_clean() && self.was_delivered(&found.record.id).await => Ok(true),
            (_, Some(_)) if end.is_clean() => {
                let log = self.node.log(found, place.after).await?;
                Ok(place.after >= counted(&log, follow.trailer))
            }
            _ => Ok(place.nothing_left),
        }
    }

    /// All of a turn that has ended, where it can be had.
    async fn whole_log(&self, found: &Found) -> Option<Arc<Log>> {
        self.node.log(found, 0).await.ok()
    }

    /// The backend's own id behind which it can go on with a turn that ended here without its last event.
    async fn goes_on_at_backend(&self, found: &Found, place: &Place) -> Option<Bytes> {
        let end = place.end().filter(|_| place.nothing_left || place.log.capped().is_some())?;
        let profile = profile::named(&place.log.head()?.profile);
        if !profile.resumes_natively() || matches!(end.outcome, Outcome::Cancelled | Outcome::Superseded) {
            return None;
        }
        let before = place.after.saturating_sub(NATIVE_IDS);
        let log = self.node.log(found, before).await.ok()?;
        let at_the_end = place.after == log.last();
        let over = turn::terminal(profile, &log).is_some();
        (at_the_end && !over).then(|| log.native_id(place.after)).flatten()
    }

    async fn refuse(&self, session: &mut Session, replies: &Replies, error: &FollowError) -> Result<()> {
        match error {
            FollowError::TooMany => {
                self.count_resume("too_many_followers");
                let message = "This turn is followed by as many connections as its route allows. Try again.";
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too_many_followers", message);
                not_now(session, replies, problem.retry_after(Duration::from_secs(5))).await
            }
            FollowError::Draining => {
                self.count_resume("draining");
                let message = "This turn has not begun, and this node is shutting down. Ask another one.";
                let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "draining", message);
                not_now(session, replies, problem.retry_after(Duration::from_secs(2))).await
            }
            FollowError::NotAStream => self.not_found(session, replies, &FindError::Unknown).await,
            FollowError::Find(error) => self.not_found(session, replies, error).await,
        }
    }

    /// Answers with the turn from a place in it.
    async fn deliver_from(
        &self,
        session: &mut Session,
        found: &Found,
        route: &Route,
        mut place: Place,
        follow: Follow,
        tail: Option<(HeaderName, i64)>,
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
        let turn = &found.record.id;
        let head = place.log.head().unwrap_or_default();
        let base_path = self.base_path();
        let end = place.end().or_else(|| found.record.end.clone());
        let following = answers::Following {
            head: &head,
            turn,
            base_path: &base_path,
            from: Some(place.after),
            gap: gap_of(&place),
            state: end.as_ref().map(|end| end.outcome),
        };
        if place.nothing_left {
            if let Some((first, last)) = place.gap
                && follow.replies.ahead_is_conflict
            {
                self.count_resume("gap");
                return self.gap(session, found, &place, first, last).await;
            }
            self.count_resume("nothing_left");
            let header = following.empty(follow.replies.nothing_left);
            let over = end.as_ref().is_some_and(|end| end.is_clean());
            let is_awaited = !over && profile::named(&head.profile).answers_loss() && place.gap.is_none();
            if let Some(end) = end
                && (follow.replies.nothing_left == StatusCode::OK || is_awaited)
                && let Some(log) = self.whole_log(found).await
                && let Some(event) = farewell::said_afterwards(turn, &log, &end)
            {
                return answers::whole(session, following.empty(StatusCode::OK), event).await;
            }
            return session.write_response_header(Box::new(header), true).await;
        }
        self.count_resume(if place.gap.is_some() {
            "gap"
        } else if end.is_some() {
            "replayed"
        } else {
            "live"
        });
        let mut header = following.stream(session.req_header().version);
        if let Some((name, tail)) = tail {
            answers::insert(&mut header, name, &tail.to_string());
        }
        let profile = profile::named(&head.profile);
        let request = Request::new(session.req_header().clone(), PathParams::default(), route);
        let priming = priming(profile, &request, turn, place.after);
        let reading = place.follow(super::pace(route), follow.rewrite, self.node.metrics().clone());
        let reading = if follow.bare { reading.bare() } else { reading };
        let lost = deliver::deliver(session, header, priming, reading, Upload::none(), self.node.metrics()).await?;
        if let Some(end) = lost {
            let last_words = self.whole_log(found).await.and_then(|log| farewell::said_at_once(turn, &log, &end));
            deliver::part(session, last_words).await?;
        }
        self.delivered(turn, profile).await;
        Ok(())
    }

    /// Goes on behind an event with which a turn ended here: by asking the backend, unless it was asked before.
    pub(super) async fn continue_at_backend(
        &self,
        session: &mut Session,
        matched: &Matched,
        event: &EventId,
        native_id: &[u8],
        principal: Option<Principal>,
    ) -> Result<()> {
        let asker = principal.as_ref().map(|p| *p.as_bytes());
        if let Ok(Some(turn)) = self.node.store().noted(&self.continuation_key(event)).await
            && let Ok(found) = self.node.find(&turn, asker.as_ref()).await
            && (found.record.end.is_none() || found.record.last > 0)
        {
            let follow = matched.resume(session, &EventId { turn, seq: 0 });
            return self.continue_turn(session, found, follow).await.map(drop);
        }
        session.req_header_mut().insert_header(LAST_EVENT_ID, native_id)?;
        let request = matched.request(session).with_body(Some(Bytes::new()));
        self.start(session, matched, request, principal, Some(event)).await
    }

    /// Notes which turn continues another one behind this event.
    pub(super) async fn note_continuation(&self, event: &EventId, turn: &TurnId) {
        let (key, kept) = (self.continuation_key(event), self.names_are_kept());
        if let Err(error) = self.node.store().note(&key, turn, kept).await {
            tracing::warn!(turn = turn.short(), %error, "a continuation is not stored: who comes back asks the backend again");
        }
    }

    fn continuation_key(&self, event: &EventId) -> Digest {
        self.identity().mark(None, &[b"behind", event.to_string().as_bytes()])
    }

    /// Notes that some client got a turn to its end, where that matters.
    pub(super) async fn delivered(&self, turn: &TurnId, profile: &dyn Profile) {
        if profile.notes_delivery() {
            let kept = self.settings.load().store.retain_after_end;
            // A note that is lost costs one replay too many, which `replay_finished` allows for.
            let _ = self.node.store().note(&self.delivery_key(turn), turn, kept).await;
        }
    }

    async fn was_delivered(&self, turn: &TurnId) -> bool {
        self.node.store().noted(&self.delivery_key(turn)).await.is_ok_and(|noted| noted.is_some())
    }

    fn delivery_key(&self, turn: &TurnId) -> Digest {
        self.identity().mark(None, &[b"delivered", turn.as_str().as_bytes()])
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
            state: place.end().map(|end| end.outcome),
        };
        let header = following.empty(StatusCode::CONFLICT);
        let message = format!(
            "Events {first} to {last} of this turn are not kept; the first one that is, is {}.",
            place.log.base() + 1
        );
        answers::problem_under(session, header, &Problem::new(StatusCode::CONFLICT, "gap", message)).await
    }

    async fn store_down(&self, session: &mut Session, replies: &Replies) -> Result<()> {
        self.count_resume("store_down");
        not_now(session, replies, Problem::store_down()).await
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

/// How many events there are that count, for a client to which the last ones do not ([`Follow::trailer`]).
fn counted(log: &Log, trailer: Option<fn(&Message<'_>) -> bool>) -> Seq {
    let counts = |seq: &Seq| trailer.is_none_or(|trailer| !log.message(*seq, trailer).unwrap_or(false));
    (log.base() + 1..=log.shown()).rev().find(counts).unwrap_or(0)
}

/// What the answer to a request must begin with: an event without content, so that a client that is cut off before the next
/// one comes back with this cursor.
pub(super) fn priming(profile: &dyn Profile, request: &Request, turn: &TurnId, seq: Seq) -> Option<Bytes> {
    profile.primes(request).then(|| format!("data:\nid: {turn}-{seq}\n\n").into())
}

/// Says that there is no such turn. 204 means: do not come back.
async fn unknown(session: &mut Session, replies: &Replies) -> Result<()> {
    if replies.unknown != StatusCode::NO_CONTENT {
        let problem = Problem { status: replies.unknown, ..Problem::unknown_turn() };
        return answers::problem(session, &problem).await;
    }
    let mut header = pingora::http::ResponseHeader::build(StatusCode::NO_CONTENT, Some(4))?;
    answers::readable_for_origin(session, &mut header);
    session.write_response_header(Box::new(header), true).await
}

/// Tells of what may pass. An EventSource retries a broken connection for ever, and gives up at an error status.
pub(super) async fn not_now(session: &mut Session, replies: &Replies, problem: Problem) -> Result<()> {
    if replies.patient {
        return Err(Error::explain(BROKEN, problem.code).into_down());
    }
    answers::problem(session, &problem).await
}

/// Waits until the client leaves. Its request body has been read.
pub(super) async fn client_left(session: &mut Session) -> Box<Error> {
    match session.downstream_session.read_body_or_idle(true).await {
        Err(error) => error.into_down(),
        Ok(_) => Error::explain(ErrorType::ConnectionClosed, "more came than the request").into_down(),
    }
}
