//! What a client that cannot have what it asks for must be told so that it stops asking, and loses nothing it could have.
//!
//! The wrong answer makes some real client loop thousands of times, or give up a turn that goes on.

use http::{HeaderMap, Method, StatusCode, header};

/// See the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replies {
    /// The turn is over and nothing is behind the cursor. 200 stands for an event stream without events.
    pub nothing_left: StatusCode,
    /// There is no such turn, it is no longer kept, or it is somebody else's.
    pub unknown: StatusCode,
    /// Any status but 200 ends this client for good, and a broken connection does not: what may pass is waited for, and then
    /// the connection is broken.
    pub patient: bool,
    /// A cursor that is ahead of a turn that has ended is a conflict (409).
    pub ahead_is_conflict: bool,
}

impl Replies {
    /// GET on the backend's URL: EventSource and kin. Only 204 stops them, and an error status ends them for good.
    pub const EVENT_SOURCE: Self = Self {
        nothing_left: StatusCode::NO_CONTENT,
        unknown: StatusCode::NO_CONTENT,
        patient: true,
        ahead_is_conflict: false,
    };
    /// POST from a browser: fetch-event-source. It stops at a stream that ends cleanly, and retries everything else.
    pub const BROWSER_POST: Self = Self { nothing_left: StatusCode::OK, ..Self::POST };
    /// Another method than GET, not from a browser.
    pub const POST: Self = Self {
        nothing_left: StatusCode::NO_CONTENT,
        unknown: StatusCode::NOT_FOUND,
        patient: false,
        ahead_is_conflict: false,
    };
    /// Holdover's own URL, which names the turn.
    pub const STREAM: Self = Self { ahead_is_conflict: true, ..Self::POST };

    /// What a request with a `Last-Event-ID` understands, as far as its method and headers tell.
    pub fn of(method: &Method, headers: &HeaderMap) -> Self {
        let from_browser = headers.contains_key(header::ORIGIN) || headers.contains_key("sec-fetch-mode");
        let no_cache =
            headers.get(header::CACHE_CONTROL).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"no-cache"));
        match *method {
            Method::GET => Self::EVENT_SOURCE,
            _ if from_browser && !no_cache => Self::BROWSER_POST,
            _ => Self::POST,
        }
    }
}
