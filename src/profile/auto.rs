//! The profile of a route that names none: it is taken from the request, else from the answer, else from the first event.

use http::HeaderMap;

use super::{Ask, Follow, Loss, PROFILES, Profile, Replies, Request, Terminal};
use crate::{sse::Message, turn::Dialect};

/// Stands for the profile as long as nothing has told which it is.
#[derive(Debug)]
pub(super) struct Auto;

impl Auto {
    /// The profile that is certain of this request.
    pub(super) fn by_request(request: &Request) -> &'static dyn Profile {
        PROFILES.iter().copied().find(|profile| profile.recognises(request)).unwrap_or(&Self)
    }

    /// The profile that is certain of an answer with these headers.
    pub(super) fn by_answer(headers: &HeaderMap) -> &'static dyn Profile {
        PROFILES.iter().copied().find(|profile| profile.recognises_answer(headers)).unwrap_or(&Self)
    }

    /// What any profile takes the request to ask for. Which one is right, only the turn it names can tell; where there
    /// is none, the request is the backend's.
    pub(super) fn asks(request: &Request) -> Vec<(&'static dyn Profile, Ask)> {
        let asks = PROFILES.iter().filter_map(|profile| Some((*profile, profile.asks(request)?)));
        let forwarded = asks.map(|(profile, ask)| match ask {
            Ask::Follow(follow) => (profile, Ask::Follow(Follow { or_backend: true, ..follow })),
            Ask::Stop(stop) => (profile, Ask::Stop(stop)),
        });
        forwarded.collect()
    }
}

impl Dialect for Auto {
    /// Terminal events of one dialect are no events of another. But nobody can tell that a stream is one answer of one
    /// backend: an agent may pass on the answers of several, with silence between them.
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal> {
        let said = PROFILES.iter().find_map(|profile| profile.terminal(event))?;
        Some(Terminal { last: false, ..said })
    }
}

impl Profile for Auto {
    fn name(&self) -> &'static str {
        "auto"
    }

    fn passes(&self, request: &Request) -> bool {
        PROFILES.iter().any(|profile| profile.recognises(request) && profile.passes(request))
    }

    fn replies(&self, request: &Request) -> Replies {
        Replies::of(request.method(), request.headers())
    }

    fn lost(&self, loss: &Loss<'_>) -> Option<bytes::Bytes> {
        let first = loss.first.as_ref()?;
        PROFILES.iter().find(|profile| profile.recognises_event(first))?.lost(loss)
    }
}
