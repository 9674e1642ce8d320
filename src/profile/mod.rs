//! How the families of clients resume: one file each, behind one trait.
//!
//! A profile only reads: requests, answer heads, events. It says what a request asks for, what its client must be told,
//! and what an event means; `proxy` does it. The core knows none of them.
//!
//! | file | clients |
//! |---|---|
//! | `generic` | EventSource and whatever else comes back with `Last-Event-ID` |
//! | `auto` | any: finds out which |
//! | `mcp` | the SDKs of the Model Context Protocol, streamable HTTP |
//! | `a2a` | the SDKs of Agent2Agent, JSON-RPC |
//! | `langgraph` | the SDKs of LangGraph Platform, `useStream` |
//! | `ai_sdk` | AI SDK: `useChat`, `WorkflowChatTransport`; assistant-ui |
//! | `tanstack` | TanStack AI |
//! | `ag_ui` | AG-UI, CopilotKit |
//! | `openai` | the OpenAI API: chat completions and Responses, of whatever serves them |
//! | `anthropic` | Anthropic's Messages API |
//! | `gemini` | the SDKs of the Gemini API |
//! | `dify` | readers of Dify's service API |
//! | `flowise` | readers of Flowise predictions |

mod a2a;
mod ag_ui;
mod ai_sdk;
mod anthropic;
mod ask;
mod auto;
mod dify;
mod flowise;
mod gemini;
mod generic;
mod json_rpc;
mod langgraph;
mod mcp;
mod openai;
mod replies;
mod request;
mod session;
mod tanstack;

use std::fmt::Debug;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

pub use self::{
    ask::{Ask, Ended, Follow, From, Reply, Stop, Target},
    replies::Replies,
    request::Request,
    session::session_name,
};
pub use crate::turn::{Dialect, Rewrite, Terminal};
use crate::{
    sse::{Message, TurnId},
    turn::Outcome,
};
use a2a::A2a;
use ag_ui::AgUi;
use ai_sdk::AiSdk;
use anthropic::Anthropic;
use auto::Auto;
use dify::Dify;
use flowise::Flowise;
use gemini::Gemini;
use generic::Generic;
use langgraph::LangGraph;
use mcp::Mcp;
use openai::OpenAi;
use tanstack::TanStack;

/// The profiles of families, in the order in which `auto` asks them.
static PROFILES: &[&dyn Profile] =
    &[&Mcp, &A2a, &LangGraph, &AiSdk, &TanStack, &AgUi, &OpenAi, &Anthropic, &Gemini, &Dify, &Flowise];

/// What is special about one family of clients and the backends they talk to. Pure functions: all of them may be asked at
/// any time.
pub trait Profile: Dialect + Debug + Send + Sync {
    /// The name in configuration, status answers and stores.
    fn name(&self) -> &'static str;

    /// Under `auto`: whether the request certainly comes from this family. Its body is not there while it is asked whether
    /// the request [passes](Profile::passes).
    fn recognises(&self, _request: &Request) -> bool {
        false
    }

    /// Under `auto`: whether an answer with these headers certainly goes to this family.
    fn recognises_answer(&self, _headers: &HeaderMap) -> bool {
        false
    }

    /// Under `auto`: whether a turn that begins with this event is certainly in this family's dialect.
    fn recognises_event(&self, _first: &Message<'_>) -> bool {
        false
    }

    /// Whether the request is to pass unrecorded, as through any proxy: its client's leaving means something to the backend.
    /// Asked before the body is read.
    fn passes(&self, _request: &Request) -> bool {
        false
    }

    /// The session of a request, where the route does not say how to find it.
    fn session(&self, _request: &Request) -> Option<String> {
        None
    }

    /// What the request asks for, if it is not to start a turn.
    fn asks(&self, _request: &Request) -> Option<Ask> {
        None
    }

    /// Whether a backend that answers a [`Stop`] with this status knows nothing of it, or cannot do it.
    fn must_stop_here(&self, status: StatusCode) -> bool {
        status.is_server_error() || matches!(status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED)
    }

    /// What is answered in place of [`Stop::stopped`] where the turn had ended like this before, and the client is told.
    fn had_ended(&self, _target: &Target, _outcome: Outcome) -> Option<Reply> {
        None
    }

    /// What the client of a request with an event id of ours understands.
    fn replies(&self, request: &Request) -> Replies {
        Replies::of(request.method(), request.headers())
    }

    /// Whether the answer must begin with an event that has the cursor for its id, and no content: cut off before the first
    /// event, its client comes back with that.
    fn primes(&self, _request: &Request) -> bool {
        false
    }

    /// Whether clients of this family stumble over lines that are not the backend's. A start is answered without event ids,
    /// `retry:` and comments then; who resumes by an event id, or on Holdover's own URLs, gets them.
    fn bare(&self) -> bool {
        false
    }

    /// Whether backends of this family can themselves resume behind an id of theirs. A turn that ended without its last
    /// event is then continued by asking the backend.
    fn resumes_natively(&self) -> bool {
        false
    }

    /// Whether it matters if some client got a turn to its end: [`Ended::SentOnce`] asks for it.
    fn notes_delivery(&self) -> bool {
        false
    }

    /// The id that the request has in its own protocol, as JSON; kept for [`Loss::request_id`].
    fn request_id(&self, _request: &Request) -> Option<String> {
        None
    }

    /// Adds to the answer's headers what its clients look for. They are recorded with the turn.
    fn adorn(&self, _headers: &mut HeaderMap, _turn: &TurnId, _request: &Request) {}

    /// Other names that the turn goes by, as request and answer tell.
    fn names(&self, _request: &Request, _headers: &HeaderMap) -> Vec<String> {
        Vec::new()
    }

    /// Whether one of the first events may tell another name.
    fn names_in_events(&self) -> bool {
        false
    }

    /// Another name that this event, one of the first, gives its turn.
    fn name_in(&self, _event: &Message<'_>) -> Option<String> {
        None
    }

    /// The dialect's own event that tells a client that its turn was lost: a whole block, without an id.
    fn lost(&self, _loss: &Loss<'_>) -> Option<Bytes> {
        None
    }

    /// Whether that event is the answer its client waits for, which it will come back for until it has it. It gets an id, so
    /// that a client that comes back nevertheless is not told twice.
    fn answers_loss(&self) -> bool {
        false
    }

    /// What a client is sent that comes back to a turn that ended well and has all of it: a whole block, without an id. `None`
    /// where the status says enough.
    fn over(&self, _last: &Message<'_>) -> Option<Bytes> {
        None
    }
}

/// A turn that ended without its backend's doing.
#[derive(Debug)]
pub struct Loss<'a> {
    /// How it ended.
    pub outcome: Outcome,
    /// A sentence for people.
    pub message: &'a str,
    /// The id that the request had in its own protocol, as JSON.
    pub request_id: Option<&'a str>,
    /// The first event of the turn, if it is kept.
    pub first: Option<Message<'a>>,
}

/// The names that a route's `profile` takes.
pub fn names() -> impl Iterator<Item = &'static str> {
    [Auto.name(), Generic.name()].into_iter().chain(PROFILES.iter().map(|profile| profile.name()))
}

/// The profile of this name. One that this version does not know is as good as none.
pub fn named(name: &str) -> &'static dyn Profile {
    if name == Auto.name() {
        return &Auto;
    }
    PROFILES.iter().copied().find(|profile| profile.name() == name).unwrap_or(&Generic)
}

/// The profile of a request on a route with this `profile`.
pub fn of_request(route: &str, request: &Request) -> &'static dyn Profile {
    if route == Auto.name() { Auto::by_request(request) } else { named(route) }
}

/// The profile of a turn, once its answer's headers are there.
pub fn of_answer(of_request: &'static dyn Profile, headers: &HeaderMap) -> &'static dyn Profile {
    if of_request.name() == Auto.name() { Auto::by_answer(headers) } else { of_request }
}

/// What a request on a route with this `profile` may ask for, and which profile says so. `auto` may have several answers: the
/// right one is that whose turn exists.
pub fn asks(route: &str, request: &Request) -> Vec<(&'static dyn Profile, Ask)> {
    if route == Auto.name() {
        return Auto::asks(request);
    }
    let profile = named(route);
    profile.asks(request).map(|ask| (profile, ask)).into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_knows_the_same_profiles() {
        assert_eq!(names().collect::<Vec<_>>(), crate::config::PROFILES);
        for name in names() {
            assert_eq!(named(name).name(), name);
        }
    }
}
