//! Tells Redis again what it has forgotten of this node's running turns.
//!
//! A recorder notices a forgetful store with its next block. A turn that is silent would be unknown to the other nodes until
//! then. So after a new connection, and when Redis has lost this node's sign of life, all own turns are compared with
//! their logs. A recorder may write at the same time: both write the same blocks, and the scripts' comparison lets each
//! of them in once.

use std::sync::Arc;

use redis::{Value, cmd};

use super::{
    Inner, Reply,
    codec::{encode_blocks, encode_head},
    connection::Lane,
    meta,
    scripts::{APPEND, DISCARD, HEAD, Invocation, START},
};
use crate::{
    sse::TurnId,
    store::StoreError,
    turn::{Batch, Epoch, Log, TurnRecord},
};

/// The largest batch: as a recorder's.
const BATCH: (usize, u64) = (256 << 10, 1024);

impl Inner {
    /// A call that claims a turn.
    pub(super) fn claim_call(&self, record: &TurnRecord, mode: &str, over: Option<&TurnId>) -> Invocation {
        let key = record.session.as_ref().map(|session| &session.key);
        START
            .on(&self.keys.turn_and_session(&record.id, key))
            .arg(&*record.epoch.0)
            .arg(record.id.as_str())
            .arg(self.running_ttl())
            .arg(mode)
            .arg(over.map_or("", TurnId::as_str))
            .arg(record.started_at)
            .arg(meta::start_fields(record))
    }

    /// A call that appends a batch, whose blocks are encoded already.
    pub(super) fn append_call(&self, id: &TurnId, epoch: &Epoch, batch: &Batch, blocks: &[u8]) -> Invocation {
        APPEND
            .on(&[self.keys.meta(id), self.keys.blocks(id)])
            .arg(&*epoch.0)
            .arg(batch.prev)
            .arg(batch.last())
            .arg(batch.blocks.len())
            .arg(blocks)
            .arg(batch.blocks.iter().map(|block| block.bytes.len()).sum::<usize>())
            .arg(batch.head.as_deref().map(encode_head))
    }

    /// Has Redis know all own turns that have been claimed, as far as they are recorded.
    pub(super) async fn rewrite_own(&self) -> Result<(), StoreError> {
        for (record, log) in self.own.claimed() {
            self.rewrite(&record, &log).await?;
        }
        Ok(())
    }

    async fn rewrite(&self, record: &TurnRecord, log: &Arc<Log>) -> Result<(), StoreError> {
        let id = &record.id;
        let mode = if record.session.is_some() { "again" } else { "" };
        let claim = self.claim_call(record, mode, None);
        let claimed: Reply = self.link.call("start", Lane::Commands, &claim).await?;
        if claimed.code() != Some(1) {
            // It has ended, or is another node's: its recorder finds out.
            return Ok(());
        }
        if !self.own.contains(id) {
            // Its recorder has taken it back meanwhile; one that has ended is not touched by this.
            let key = record.session.as_ref().map(|session| &session.key);
            let discard = DISCARD.on(&self.keys.turn_and_session(id, key)).arg(&*record.epoch.0).arg(id.as_str());
            self.link.call::<Value>("discard", Lane::Commands, &discard).await?;
            return Ok(());
        }
        if let Some(head) = log.head() {
            let keep = HEAD.on(&[self.keys.meta(id)]).arg(&*record.epoch.0).arg(encode_head(&head));
            let reply: Reply = self.link.call("set_head", Lane::Commands, &keep).await?;
            self.heed(id, &reply);
        }
        let mut get = cmd("HGET");
        get.arg(self.keys.meta(id)).arg("n");
        let stored: Option<String> = self.link.call("find", Lane::Commands, &get).await?;
        let Some(mut stored) = stored.and_then(|text| text.parse().ok()) else { return Ok(()) };
        while let Some(batch) = log.batch(stored, BATCH.0, BATCH.1) {
            let append = self.append_call(id, &record.epoch, &batch, &encode_blocks(&batch.blocks));
            let reply: Reply = self.link.call("append", Lane::Commands, &append).await?;
            // The recorder is at it, too: it writes the rest.
            if reply.code() != Some(1) {
                return Ok(());
            }
            self.heed(id, &reply);
            stored = batch.last();
        }
        Ok(())
    }
}
