//! What a request can ask for besides a new turn.

use std::{fmt, sync::Arc};

use http::{HeaderName, StatusCode};
use serde_json::Value as Json;

use super::Replies;
use crate::{
    sse::{Cursor, Message, Seq, TurnId},
    turn::Rewrite,
};

/// See the module.
#[derive(Debug)]
pub enum Ask {
    /// To go on with a turn.
    Follow(Follow),
    /// To stop a turn.
    Stop(Stop),
}

impl Ask {
    /// The turn that is meant.
    pub fn target(&self) -> &Target {
        match self {
            Self::Follow(Follow { target, .. }) | Self::Stop(Stop { target, .. }) => target,
        }
    }
}

/// How a request says which turn it means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// By our own name of it.
    Turn(TurnId),
    /// By its session: the running turn, or the last one while it is kept.
    Session(String),
    /// By another name that its profile gave it ([`super::Profile::names`], [`super::Profile::name_in`]).
    Name(String),
}

/// A request to go on with a turn.
#[derive(Debug)]
pub struct Follow {
    /// Which turn.
    pub target: Target,
    /// Where to begin.
    pub from: From,
    /// How the client must be told what it cannot have.
    pub replies: Replies,
    /// What of a turn that has ended is sent.
    pub ended: Ended,
    /// Whether a turn that is not known is the backend's affair: it may know. Otherwise `replies` says so.
    pub or_backend: bool,
    /// Events that count for nothing when they stand last (`[DONE]`): a turn with only such left has nothing left.
    pub trailer: Option<fn(&Message<'_>) -> bool>,
    /// A header that tells the index, from 0, of the last event there is that counts.
    pub tail_index: Option<HeaderName>,
    /// What is done to each block on its way.
    pub rewrite: Option<Rewrite>,
    /// Only the backend's own lines are sent ([`super::Profile::bare`]).
    pub bare: bool,
}

impl Follow {
    /// The whole turn, whether it runs or has ended.
    pub fn whole(target: Target, replies: Replies) -> Self {
        let from = From::After(0);
        Self {
            target,
            from,
            replies,
            ended: Ended::Sent,
            or_backend: false,
            trailer: None,
            tail_index: None,
            rewrite: None,
            bare: false,
        }
    }
}

/// Where to begin.
#[derive(Clone)]
pub enum From {
    /// After this seq; 0 is the start.
    After(Seq),
    /// So many events before the last one that there is now.
    Last(u64),
    /// With what comes from now on.
    Now,
    /// Behind the events at the begin of the turn for which this holds.
    Behind(Arc<dyn Fn(&Message<'_>) -> bool + Send + Sync>),
}

impl From {
    /// The place that a cursor names in `turn`, whose name is known from the URL. A cursor that is malformed, negative or
    /// of another turn means the start: never "no cursor", and never an empty answer.
    pub fn cursor(cursor: &Cursor, turn: &TurnId) -> Self {
        match cursor {
            Cursor::After(id) if id.turn == *turn => Self::After(id.seq),
            Cursor::Now => Self::Now,
            Cursor::After(_) | Cursor::Start | Cursor::Foreign => Self::After(0),
        }
    }
}

impl fmt::Debug for From {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::After(seq) => write!(f, "After({seq})"),
            Self::Last(n) => write!(f, "Last({n})"),
            Self::Now => f.write_str("Now"),
            Self::Behind(_) => f.write_str("Behind"),
        }
    }
}

/// What is sent of a turn that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// What is behind the cursor.
    Sent,
    /// The same, unless some client got the turn to its end.
    SentOnce,
    /// Nothing.
    NothingLeft,
}

/// A request to stop a turn, on a URL that may be the backend's: it is asked first. If it agrees (2xx), it has a few
/// seconds to end its answer in its own words. If it does not know the URL, the turn is stopped here.
#[derive(Debug)]
pub struct Stop {
    /// Which turn.
    pub target: Target,
    /// What the client is told where the backend does not know the URL.
    pub stopped: Reply,
}

/// A small answer in the client's own dialect.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The body; none with 204.
    pub body: Option<Json>,
}
