//! What the events of a turn say of its end.
//!
//! Only the end of the upstream's answer ends a turn; but what its last events said decides what kind of end it was. They
//! are looked at when the upstream ends, breaks or falls silent, and at no other time: reading costs nothing per event.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use super::{log::Log, record::Outcome};
use crate::sse::{Message, Seq};

/// Reads the terminal events of one family of backends.
pub trait Dialect: fmt::Debug + Send + Sync {
    /// What this event says of the end of its turn. `None` for nearly all.
    fn terminal(&self, event: &Message<'_>) -> Option<Terminal>;

    /// Whether ids stand in front of their events, for clients that take an id for that of the data behind it.
    fn ids_go_first(&self) -> bool {
        false
    }
}

/// What a terminal event says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Terminal {
    /// How the turn went, if the event says it.
    pub outcome: Option<Outcome>,
    /// Nothing follows this event: a backend that breaks or falls silent behind it has said all.
    pub last: bool,
}

impl Terminal {
    /// The turn went like this, and more may follow (a run within a turn, usage figures, `[DONE]`).
    pub const fn soft(outcome: Outcome) -> Self {
        Self { outcome: Some(outcome), last: false }
    }

    /// The turn went like this, and nothing follows.
    pub const fn hard(outcome: Outcome) -> Self {
        Self { outcome: Some(outcome), last: true }
    }

    /// Nothing follows; how the turn went was said before, or went without saying: `[DONE]`.
    pub const DONE: Self = Self { outcome: None, last: true };
}

/// A dialect without terminal events.
#[derive(Debug)]
pub(super) struct Silent;

impl Dialect for Silent {
    fn terminal(&self, _: &Message<'_>) -> Option<Terminal> {
        None
    }
}

/// Changes a recorded block for one client.
#[derive(Clone)]
pub struct Rewrite(pub Arc<RewriteBlock>);

/// Gets a block as it is recorded, and gives what is sent instead.
pub type RewriteBlock = dyn Fn(&[u8]) -> Bytes + Send + Sync;

impl fmt::Debug for Rewrite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rewrite")
    }
}

/// How many of the last events are looked at. A terminal event is followed by few others.
const LAST: Seq = 4;

/// What the last events of a log say together: the newest word on how it went, and whether nothing was to follow.
pub fn terminal(dialect: &dyn Dialect, log: &Log) -> Option<Terminal> {
    let blocks = log.batch(log.last().saturating_sub(LAST), usize::MAX, LAST)?.blocks;
    let said = blocks.iter().rev().map(|block| dialect.terminal(&Message::parse(&block.bytes)?));
    let said: Vec<_> = said.collect();
    // More came behind a last event that others follow: it was the last of something else.
    let last = said.iter().map_while(|said| *said).any(|terminal| terminal.last);
    let outcome = said.iter().flatten().find_map(|terminal| terminal.outcome);
    said.iter().any(Option::is_some).then_some(Terminal { outcome, last })
}
