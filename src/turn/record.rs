//! What is known of a turn besides its blocks.

use std::{fmt, str::FromStr, sync::Arc, time::Duration};

use http::HeaderMap;
use serde::Serialize;

use crate::sse::{NotOurs, Seq, TurnId};

/// Milliseconds since the Unix epoch, from a clock that never runs backwards within one process.
pub type Millis = u64;

/// A duration in milliseconds; what is too long for that is for ever.
pub(super) fn millis(duration: Duration) -> Millis {
    duration.as_millis().try_into().unwrap_or(Millis::MAX)
}

/// A keyed hash: of an identity, a session name, or a start request. Opaque here; `principal` makes them.
pub type Digest = [u8; 32];

/// Fencing token of a turn's owner. Unique among all who ever claim the turn; taking a turn over changes it, so that what
/// a former owner still sends is refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Epoch(pub Arc<str>);

/// Name of one Holdover process, new at every start.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct NodeId(pub Arc<str>);

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What the client calls chat, thread or conversation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Keyed hash of principal and name: the key under which the session's turn is found.
    pub key: Digest,
    /// The name as the client gave it, for the status answer.
    pub name: String,
}

/// How a turn ended. Written once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The upstream ended its answer.
    Completed,
    /// The upstream broke, or sent nothing for too long.
    Failed,
    /// Somebody asked for the stop.
    Cancelled,
    /// The owner died, or was drained before the turn ended.
    Interrupted,
    /// A newer start of the same session replaced it.
    Superseded,
    /// It ran, or went without a follower, for longer than the route allows.
    Expired,
}

impl Outcome {
    /// All outcomes, in the order of the metrics table.
    pub const ALL: [Self; 6] =
        [Self::Completed, Self::Failed, Self::Cancelled, Self::Interrupted, Self::Superseded, Self::Expired];

    /// The name in metrics, status answers and stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::Interrupted => "interrupted",
            Self::Superseded => "superseded",
            Self::Expired => "expired",
        }
    }
}

impl FromStr for Outcome {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        Self::ALL.into_iter().find(|o| o.as_str() == text).ok_or(NotOurs)
    }
}

/// Why somebody wants a turn to end that is running, perhaps on another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wish {
    /// A client asked for it.
    Stop,
    /// A client asked the backend itself, which has agreed: it may end its answer in its own words first.
    StopSoon,
    /// A newer start takes its session.
    Supersede,
}

impl Wish {
    /// The terminal state that it leads to.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::Stop | Self::StopSoon => Outcome::Cancelled,
            Self::Supersede => Outcome::Superseded,
        }
    }

    /// The reason in the turn's [`End`].
    pub fn reason(self) -> &'static str {
        match self {
            Self::Stop | Self::StopSoon => "stop",
            Self::Supersede => "superseded",
        }
    }

    /// The name in stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::StopSoon => "stop_soon",
            Self::Stop | Self::Supersede => self.reason(),
        }
    }
}

impl FromStr for Wish {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        [Self::Stop, Self::StopSoon, Self::Supersede].into_iter().find(|wish| wish.as_str() == text).ok_or(NotOurs)
    }
}

/// The end of a turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The terminal state.
    pub outcome: Outcome,
    /// Why, in one word or a few: `eof`, `upstream_reset`, `max_detached`, `stop`, …
    pub reason: Arc<str>,
    /// When.
    pub at: Millis,
}

impl End {
    /// The reason of a turn whose backend reported an error and then ended its answer.
    pub const ERROR_EVENT: &str = "error_event";

    /// Whether followers see a clean end, because the backend's answer had one, or because it was cut on purpose.
    /// Everything else breaks their connection: SDKs take a clean early end for a complete answer.
    pub fn is_clean(&self) -> bool {
        match self.outcome {
            Outcome::Completed | Outcome::Cancelled | Outcome::Superseded => true,
            Outcome::Failed => *self.reason == *Self::ERROR_EVENT,
            Outcome::Interrupted | Outcome::Expired => false,
        }
    }
}

/// Why recording ended before the turn did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cap {
    /// One event was larger than the route's `max_event`.
    MaxEvent,
    /// The turn grew larger than the route's `max_turn_bytes`.
    MaxTurnBytes,
    /// The node's `store.memory_limit` is used up by live turns.
    MemoryLimit,
}

impl Cap {
    /// The name in metrics, status answers and stores.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MaxEvent => "max_event",
            Self::MaxTurnBytes => "max_turn_bytes",
            Self::MemoryLimit => "memory_limit",
        }
    }
}

impl FromStr for Cap {
    type Err = NotOurs;

    fn from_str(text: &str) -> Result<Self, NotOurs> {
        [Self::MaxEvent, Self::MaxTurnBytes, Self::MemoryLimit].into_iter().find(|c| c.as_str() == text).ok_or(NotOurs)
    }
}

/// The begin of the recorded answer. Its status is always 200.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// End-to-end header fields as the backend gave them, and those its clients look for.
    pub headers: HeaderMap,
    /// Name of the profile of its clients; empty if none is known.
    pub profile: Arc<str>,
    /// The id that the request has in its own protocol (JSON-RPC), as JSON.
    pub request_id: Option<Arc<str>>,
}

/// What a store keeps of a turn besides its blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct TurnRecord {
    /// Its name.
    pub id: TurnId,
    /// Fencing token of the present owner.
    pub epoch: Epoch,
    /// The owner.
    pub node: NodeId,
    /// Who started it; `None` for a start without identity.
    pub principal: Option<Digest>,
    /// Its session, if the route names one.
    pub session: Option<Session>,
    /// Name of the route.
    pub route: Arc<str>,
    /// When it was admitted.
    pub started_at: Millis,
    /// The answer's header; `None` until the upstream has answered.
    pub head: Option<Arc<Head>>,
    /// Seq of the last block the store has.
    pub last: Seq,
    /// Bytes of all its blocks.
    pub bytes: u64,
    /// Why recording ended early, if it did.
    pub cap: Option<Cap>,
    /// The terminal state; `None` while it runs.
    pub end: Option<End>,
}
