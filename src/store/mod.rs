//! Keeps recorded turns so that they can be followed from any node and after their end.
//!
//! [`TurnStore`] is the contract; [`memory`] and [`redis`] fulfil it, and one conformance suite (`conformance/`)
//! judges both. A store never decides what happens to a turn: that is [`crate::turn::Recorder`]'s, which asks for one
//! call at a time per turn and is told the reply.

pub mod memory;
pub mod redis;

#[cfg(test)]
mod conformance;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{
    sse::{Seq, TurnId},
    turn::{Batch, Digest, End, Epoch, Head, Log, TurnRecord, Wish},
};

pub use crate::turn::durability::{Appended, Durability, Finished};

/// Why a store call gave no reply. The call may or may not have been carried out; every call can be repeated.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store cannot be reached, did not answer in time, or answered that it cannot serve now.
    #[error("the store is unavailable: {0}")]
    Unavailable(Arc<str>),
    /// The store has no room and refuses to grow (Redis: OOM under `noeviction`). Ends and stops still work.
    #[error("the store is full: {0}")]
    Full(Arc<str>),
    /// What the store holds cannot be understood: written by another version, or damaged.
    #[error("the store holds something unreadable: {0}")]
    Corrupt(Arc<str>),
}

/// What happens when a start finds its session taken by a running turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SessionPolicy {
    /// The session points to the newest turn; older ones run on.
    Replace,
    /// The start is refused with the turn that runs.
    Refuse,
}

/// Reply to [`TurnStore::start`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// The turn is claimed, its session points to it. Also said when the same epoch starts the same turn again.
    Fresh,
    /// The session is taken by this running turn ([`SessionPolicy::Refuse`]).
    Busy(TurnId),
    /// Another owner has the turn, or it ended: do not write to it.
    Fenced,
}

/// Reply to [`TurnStore::request_stop`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopRequested {
    /// The owner has been told; it is believed to be alive.
    Told,
    /// The wish is recorded, but the owner shows no sign of life.
    OwnerUnreachable,
    /// The turn had already ended, or is not known.
    NotRunning,
}

/// A turn opened for reading.
#[derive(Debug)]
pub struct Opened {
    /// What is known of it now.
    pub record: TurnRecord,
    /// Its blocks, from the cursor it was opened at or earlier; filled while the turn goes on, ended when the turn has
    /// ended. Kept up to date only as long as somebody holds it.
    pub log: Arc<Log>,
}

/// What other nodes ask of this one's turns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreEvent {
    /// Stop this turn.
    Stop(TurnId, Wish),
    /// Somebody on another node follows this turn. Repeated every few seconds while it is so.
    Watched(TurnId),
}

/// One check of [`TurnStore::health`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Health {
    /// Whether turns can be stored now.
    pub ok: bool,
    /// For the operator: what was found, and what to do if it is not ok.
    pub detail: String,
}

/// Where recorded turns are kept. All methods may be called from any task; a call for one turn is made only after the
/// one before it has returned. Errors are never final.
#[async_trait]
pub trait TurnStore: Send + Sync + 'static {
    /// How this store follows running turns.
    fn durability(&self) -> Durability;

    /// Claims the turn and points its session to it, before the upstream is asked. `log` is the turn's log, empty at the
    /// first call and whole when a forgotten turn is started again; a store that keeps turns in this process keeps it.
    async fn start(&self, record: &TurnRecord, log: &Arc<Log>, session: SessionPolicy) -> Result<Started, StoreError>;

    /// Keeps the answer's header.
    async fn set_head(&self, id: &TurnId, epoch: &Epoch, head: &Arc<Head>) -> Result<(), StoreError>;

    /// Keeps blocks, if `epoch` still owns the turn and the batch follows on what is kept.
    async fn append(&self, id: &TurnId, epoch: &Epoch, batch: &Batch) -> Result<Appended, StoreError>;

    /// Writes the terminal state, if `epoch` still owns the turn, the turn runs, and `log` is kept up to its last block.
    /// The turn is then kept for the retention time and no longer the session's running turn. What the log knows besides
    /// its blocks (what followed the last blank line, the cap) is kept with it.
    async fn finish(&self, id: &TurnId, epoch: &Epoch, log: &Arc<Log>, end: &End) -> Result<Finished, StoreError>;

    /// Takes back a [`TurnStore::start`] whose answer was no event stream.
    async fn discard(&self, record: &TurnRecord) -> Result<(), StoreError>;

    /// What is known of a turn.
    async fn find(&self, id: &TurnId) -> Result<Option<TurnRecord>, StoreError>;

    /// Opens a turn for reading its blocks after `after`.
    async fn open(&self, id: &TurnId, after: Seq) -> Result<Option<Opened>, StoreError>;

    /// The turn the session points to: the running one, or the last one while it is kept.
    async fn session(&self, key: &Digest) -> Result<Option<TurnId>, StoreError>;

    /// Asks the owner of a running turn to stop it.
    async fn request_stop(&self, id: &TurnId, wish: Wish) -> Result<StopRequested, StoreError>;

    /// Notes `value` under `key` for `ttl` unless the key is taken; returns the value that is there then.
    async fn claim(&self, key: &Digest, value: &TurnId, ttl: Duration) -> Result<TurnId, StoreError>;

    /// Notes `value` under `key` for `ttl`, replacing what is there.
    async fn note(&self, key: &Digest, value: &TurnId, ttl: Duration) -> Result<(), StoreError>;

    /// What was noted under `key`.
    async fn noted(&self, key: &Digest) -> Result<Option<TurnId>, StoreError>;

    /// The secret that all nodes share: `proposed`, unless one is kept already.
    async fn shared_secret(&self, proposed: [u8; 32]) -> Result<[u8; 32], StoreError>;

    /// The next event for this node's turns. Pending for ever where there are no other nodes.
    async fn next_event(&self) -> StoreEvent;

    /// Whether turns can be stored now.
    async fn health(&self) -> Health;

    /// Frees memory by dropping what has ended, oldest first, until `bytes` are free or nothing ended is left. Returns
    /// the number of turns that cannot be replayed any more.
    fn shed(&self, bytes: u64) -> usize;

    /// Says good-bye to the other nodes: this one will not come back.
    async fn leave(&self);
}
