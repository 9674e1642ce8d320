//! Carries out what a profile takes a request to ask for: to go on with a turn, or to stop one, that its URL or body names in
//! the clients' own way.

use pingora::{Result, http::ResponseHeader, proxy::Session};
use tokio::time::timeout;

use super::{
    Gateway, Matched, answers,
    resume::{self, Resumed},
    source::{self, Mark, Upload},
    start,
};
use crate::{
    node::{FindError, Found, Stopped},
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
            match (self.find_target(profile, ask.target(), principal).await, ask) {
                (Ok(found), Ask::Follow(follow)) => {
                    return match self.continue_turn(session, found, follow).await? {
                        Resumed::Answered => Ok(true),
                        Resumed::AtBackend(_) => Ok(false),
                    };
                }
                (Ok(found), Ask::Stop(stop)) => {
                    return self.pass_stop_on(session, matched, request, profile, &found, &stop).await.map(|()| true);
                }
                (Err(FindError::Unknown), Ask::Follow(follow)) if !follow.or_backend => {
                    unknown.get_or_insert(follow.replies);
                }
                (Err(FindError::Unknown), _) => {}
                (Err(error), Ask::Follow(follow)) => {
                    return self.not_found(session, &follow.replies, &error).await.map(|()| true);
                }
                (Err(_), Ask::Stop(_)) => {
                    return answers::problem(session, &answers::Problem::store_down()).await.map(|()| true);
                }
            }
        }
        match unknown {
            Some(replies) => self.not_found(session, &replies, &FindError::Unknown).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// The turn that a target names, if it is one of the profile's.
    async fn find_target(
        &self,
        profile: &dyn Profile,
        target: &Target,
        principal: Option<&Principal>,
    ) -> std::result::Result<Found, FindError> {
        // Without identity, whoever guesses a name would read along.
        let by_name = self.sessions_are_open_to(principal);
        let turn = match target {
            Target::Turn(turn) => Some(*turn),
            _ if !by_name => None,
            Target::Session(name) => self.node.session(self.identity().session_key(principal, name).as_bytes()).await?,
            Target::Name(name) => self.node.store().noted(&self.name_key(profile, name, principal)).await?,
        };
        let asker = principal.map(|p| *p.as_bytes());
        let found = self.node.find(&turn.ok_or(FindError::Unknown)?, asker.as_ref()).await?;
        let is_of_profile = found.record.head.as_ref().is_none_or(|head| *head.profile == *profile.name());
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
        profile: &dyn Profile,
        found: &Found,
        stop: &Stop,
    ) -> Result<()> {
        let no_content = request.header("content-length") == Some("0");
        let max_body = matched.route.max_request_body;
        let mark = Mark { identity_coding: false, no_content, max_body, last_event_id: None };
        let mut upstream = source::send(session, mark)?;
        let mut upload = Upload::new(upstream.body.clone(), matched.route.max_request_body);
        upload.whole((!session.as_mut().is_body_empty()).then(|| request.body().cloned().unwrap_or_default())).await;
        let limit = self.settings.load().upstream.read_timeout.unwrap_or(start::STOP_ANSWER).min(start::STOP_ANSWER);
        let answer = tokio::select! {
            answer = timeout(limit, start::final_header(&mut upstream)) => answer.ok().flatten(),
            gone = resume::client_left(session) => return Err(gone),
        };
        match answer {
            Some((header, end)) if !profile.must_stop_here(header.status) => {
                if header.status.is_success() {
                    // Where this cannot be told, the backend still ends the turn.
                    let _ = self.node.stop_soon(found).await;
                }
                start::pipe(session, header, end, upstream, upload, Some(limit)).await
            }
            _ => {
                drop((upstream, upload));
                let ended = found.record.end.as_ref().and_then(|end| profile.had_ended(&stop.target, end.outcome));
                let answer = ended.as_ref().unwrap_or(&stop.stopped);
                match self.node.stop(found).await {
                    Ok(Stopped::Stopped | Stopped::AlreadyEnded | Stopped::OwnerUnreachable) => {
                        reply(session, self.with_cors_of(found, answer.status), answer).await
                    }
                    Err(_) => answers::problem(session, &answers::Problem::store_down()).await,
                }
            }
        }
    }
}

async fn reply(session: &mut Session, header: ResponseHeader, reply: &Reply) -> Result<()> {
    match &reply.body {
        Some(body) => answers::json(session, header, body).await,
        None => session.write_response_header(Box::new(header), true).await,
    }
}
