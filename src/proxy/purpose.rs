//! What a request is for, as far as its head tells.

use http::{Method, header};
use pingora::{http::RequestHeader, proxy::Session};

use super::{Context, Gateway, Kind, LAST_EVENT_ID, pace};
use crate::{
    config::{Config, PathParams, Route},
    node::Pace,
    profile::{self, Follow, From, Request},
    sse::{Cursor, EventId},
};

/// What a request is for.
pub(super) enum Purpose {
    /// Nothing of ours: it goes Pingora's own way.
    Pass,
    /// Holdover's own URLs; what stands behind the base path.
    Own(String),
    /// To go on with the turn of an event id.
    Resume(EventId),
    /// What a profile takes for one of its own, on a path whose route does not record this method.
    Ask(Matched, Request),
    /// To start a turn, or what a profile takes it for.
    Start(Matched, Request),
}

impl Purpose {
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Pass => Kind::Passed,
            Self::Own(_) => Kind::Control,
            Self::Resume(_) | Self::Ask(..) => Kind::Resume,
            Self::Start(..) => Kind::Start,
        }
    }
}

/// The route of a request.
#[derive(Default)]
pub(super) struct Matched {
    pub(super) route: Route,
    pub(super) params: PathParams,
}

impl Matched {
    pub(super) fn pace(&self) -> Pace {
        pace(&self.route)
    }

    /// The request as profiles look at it, without its body.
    pub(super) fn request(&self, session: &Session) -> Request {
        Request::new(session.req_header().clone(), self.params.clone(), &self.route)
    }

    /// What its client gets that comes back with an event id of ours.
    pub(super) fn resume(&self, session: &Session, id: &EventId) -> Follow {
        let request = self.request(session);
        let replies = profile::of_request(&self.route.profile, &request).replies(&request);
        Follow { from: From::After(id.seq), ..Follow::whole(profile::Target::Turn(id.turn), replies) }
    }
}

impl Gateway {
    fn matched(&self, request: &RequestHeader) -> Option<Matched> {
        let settings = self.settings.load();
        let (_, route, params) = settings.route(&request.method, request.uri.path())?;
        Some(Matched { route: route.clone(), params })
    }

    /// The first route that takes the path, with whatever method, if it is recorded: the URLs at which its clients go on with
    /// their turns need not be named in the configuration.
    pub(super) fn matched_by_path(&self, request: &RequestHeader) -> Option<Matched> {
        let settings = self.settings.load();
        let mut taken =
            settings.routes.iter().filter_map(|route| Some((route, route.path.matches(request.uri.path())?)));
        let (route, params) = taken.next().filter(|(route, _)| route.record)?;
        Some(Matched { route: route.clone(), params })
    }

    /// What a request is for, as far as its head tells.
    pub(super) fn purpose(&self, session: &mut Session, settings: &Config, ctx: &mut Context) -> Purpose {
        let request = session.req_header();
        let path = request.uri.path();
        let own = path.strip_prefix(settings.listen.base_path.as_str());
        if let Some(own) = own.filter(|path| path.is_empty() || path.starts_with('/')) {
            return Purpose::Own(own.to_owned());
        }
        let matched = self.matched(request).filter(|matched| matched.route.record);
        if let Some(matched) = &matched {
            ctx.max_body = matched.route.max_request_body;
        }
        if matches!(request.method, Method::HEAD | Method::OPTIONS) {
            return Purpose::Pass;
        }
        let cursor = request.headers.get(&LAST_EVENT_ID).map(|value| Cursor::parse(value.as_bytes()));
        if let Some(Cursor::After(id)) = cursor {
            return Purpose::Resume(id);
        }
        if !may_become_turn(session) {
            return Purpose::Pass;
        }
        if let Some(matched) = matched {
            let request = matched.request(session);
            return if profile::named(&matched.route.profile).passes(&request) {
                Purpose::Pass
            } else {
                Purpose::Start(matched, request)
            };
        }
        if session.as_mut().is_body_empty()
            && let Some(matched) = self.matched_by_path(session.req_header())
        {
            let (request, route) = (matched.request(session), &matched.route.profile);
            if !profile::named(route).passes(&request) && !profile::asks(route, &request).is_empty() {
                return Purpose::Ask(matched, request);
            }
        }
        Purpose::Pass
    }
}

/// Requests whose answer cannot be a turn go Pingora's own way: upgrades, and ranges, which have no stream for an answer.
fn may_become_turn(session: &Session) -> bool {
    let request = session.req_header();
    !(session.is_upgrade_req()
        || request.headers.contains_key(header::UPGRADE)
        || request.headers.contains_key(header::RANGE))
}
