//! Carries out what a profile takes a request to ask for: to go on with a turn, or to stop one, that its URL or body names in
//! the clients' own way.

use pingora::{Error, ErrorType, Result, http::ResponseHeader, proxy::Session};
use tokio::time::timeout;

use super::{
    Gateway, answers, body,
    purpose::Matched,
    resume::{self, Resumed},
    source::{self, Prepared, Upload},
    start,
};
use crate::{
    node::{FindError, FollowError, Found, Stopped},
    principal::Principal,
    profile::{self, Ask, Profile, Reply, Request, Stop, Target},
    turn::Digest,
};

impl Gateway {
    /// Answers a request that a profile takes for something else than a start. False: it is the backend's.
    pub(super) async fn answer_ask(
        &self,
        session: &mut Session,
        matched: &Matched,
        request: &Request,
        principal: Option<&Principal>,
    ) -> Result<bool> {
        let mut unknown = None;
        for (profile, ask) in profile::asks(&matched.route.profile, request) {
            let found = tokio::select! {
                found = self.find_target(profile, &ask, principal) => found,
                gone = resume::client_left(session), if session.downstream_session.is_body_done() => return Err(gone),
            };
            match (found, ask) {
                (Ok(found), Ask::Follow(follow)) => {
                    return match self.continue_turn(session, found, follow).await? {
                        Resumed::Answered => Ok(true),
                        // The request itself asks for it there.
                        Resumed::AtBackend(_) => Ok(false),
                    };
                }
                (Ok(found), Ask::Stop(stop)) => {
                    return self.pass_stop_on(session, matched, request, profile, &found, &stop).await.map(|()| true);
                }
                (Err(FindError::Unknown), Ask::Follow(follow)) if !follow.or_backend => {
                    unknown.get_or_insert(follow.replies);
                }
                (Err(error @ FindError::Store(_)), Ask::Follow(follow)) if !follow.or_backend => {
                    return self.not_found(session, &follow.replies, &error).await.map(|()| true);
                }
                // It may be a mere guess that this is about a turn at all.
                (Err(_), _) => {}
            }
        }
        match unknown {
            Some(replies) => self.not_found(session, &replies, &FindError::Unknown).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// The turn that the request names, if it is one of the profile's.
    async fn find_target(
        &self,
        profile: &dyn Profile,
        ask: &Ask,
        principal: Option<&Principal>,
    ) -> std::result::Result<Found, FindError> {
        // Without identity, whoever guesses a name would read along.
        let by_name = self.sessions_are_open_to(principal);
        let turn = match ask.target() {
            Target::Turn(turn) => Some(*turn),
            _ if !by_name => None,
            Target::Session(name) => self.node.session(self.identity().session_key(principal, name).as_bytes()).await?,
            Target::Name(name) => self.node.store().noted(&self.name_key(profile, name, principal)).await?,
        };
        let asker = principal.map(|p| *p.as_bytes());
        let found = self.node.find(&turn.ok_or(FindError::Unknown)?, asker.as_ref()).await?;
        // Only an answer that has begun tells whether this is the turn that is meant, and a turn at all.
        let head = match &found.record.head {
            Some(head) => Some(head.clone()),
            // A stop does not wait for that: the backend is asked before anything is done here.
            None if matches!(ask, Ask::Stop(_)) => return Ok(found),
            None => match self.node.log(&found, 0).await {
                Ok(log) => log.head(),
                Err(FollowError::Find(error)) => return Err(error),
                Err(FollowError::NotAStream | FollowError::TooMany | FollowError::Draining) => None,
            },
        };
        let is_of_profile = head.is_some_and(|head| *head.profile == *profile.name());
        is_of_profile.then_some(found).ok_or(FindError::Unknown)
    }

    /// The key of another name that a turn goes by.
    pub(super) fn name_key(&self, profile: &dyn Profile, name: &str, principal: Option<&Principal>) -> Digest {
        self.identity().mark(principal, &[b"name", profile.name().as_bytes(), name.as_bytes()])
    }

    /// Asks the backend to stop the turn; stops it here if the backend does not know how.
    async fn pass_stop_on(
        &self,
        session: &mut Session,
        matched: &Matched,
        request: &Request,
        profile: &'static dyn Profile,
        found: &Found,
        stop: &Stop,
    ) -> Result<()> {
        let max_body = matched.route.max_request_body;
        let body = match request.body().cloned() {
            Some(body) => Some(body),
            None => body::read(session, max_body).await?,
        };
        let Some(body) = body else {
            return answers::problem(session, &answers::Problem::body_too_large(Some(max_body))).await;
        };
        let prepared = Prepared { identity_coding: false, max_body, body: Some(body) };
        let (outgoing, _) = source::prepare(self, session, prepared)?;
        let asking = self.node.asking_stop(found, true).await;
        let limit = self.settings.load().upstream.read_timeout.unwrap_or(start::STOP_ANSWER).min(start::STOP_ANSWER);
        // A page that asks for a stop may leave at once: it is carried out all the same.
        let (gateway, id, asker) = (self.clone(), found.record.id, found.record.principal);
        let carried_out = tokio::spawn(async move {
            let answer = timeout(limit, outgoing.open()).await.ok().and_then(Result::ok);
            let found = gateway.node.find(&id, asker.as_ref()).await;
            let status = answer.as_ref().map(|(header, ..)| header.status);
            let here = status.is_none_or(|status| profile.must_stop_here(status));
            let stopped = match (found, status) {
                (Ok(found), _) if here => Some(gateway.node.stop(&found).await),
                (Ok(found), Some(status)) if status.is_success() => Some(gateway.node.stop_soon(&found).await),
                (Ok(found), _) => {
                    gateway.node.asking_stop(&found, false).await;
                    None
                }
                _ => None,
            };
            drop(asking);
            (answer.filter(|_| !here), stopped)
        });
        let carried_out = tokio::select! {
            carried_out = carried_out => carried_out,
            gone = resume::client_left(session) => return Err(gone),
        };
        let (answer, stopped) =
            carried_out.map_err(|_| Error::explain(ErrorType::InternalError, "a stop was not carried out"))?;
        match (answer, stopped) {
            // Where the turn cannot be told, the backend still ends it.
            (Some((header, end, exchange)), _) => {
                start::pipe(session, header, end, exchange, Upload::none(), Some(limit)).await
            }
            (None, Some(Ok(Stopped::Stopped | Stopped::AlreadyEnded))) => {
                let ended = found.record.end.as_ref().and_then(|end| profile.had_ended(&stop.target, end.outcome));
                let answer = ended.as_ref().unwrap_or(&stop.stopped);
                reply(session, self.with_cors_of(found, answer.status), answer).await
            }
            (None, Some(Ok(Stopped::OwnerUnreachable))) => {
                answers::problem(session, &answers::Problem::owner_unreachable()).await
            }
            (None, Some(Err(_)) | None) => answers::problem(session, &answers::Problem::store_down()).await,
        }
    }
}

async fn reply(session: &mut Session, header: ResponseHeader, reply: &Reply) -> Result<()> {
    match &reply.body {
        Some(body) => answers::json(session, header, body).await,
        None => session.write_response_header(Box::new(header), true).await,
    }
}
