//! Tells Redis again what it has forgotten of this node's turns.
//!
//! A recorder notices a forgetful store with its next block. A turn that is silent would be unknown to the other nodes until
//! then, and nobody would notice that the end of one that is over is missing. So whenever Redis may have lost something
//! (`doubt`), own turns are compared with their logs: those that run, and those that ended a moment ago. A recorder may
//! write at the same time: both write the same blocks, and the scripts' comparison lets each of them in once. A turn that
//! has ended in Redis is left alone, whatever the end.

use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use redis::{Value, cmd, pipe};

use super::{
    Inner, Reply,
    codec::{encode_blocks, encode_head},
    connection::Lane,
    doubt::Doubted,
    ended::Ended,
    liveness::millis,
    meta,
    scripts::{APPEND, DISCARD, HEAD, Invocation, START},
    slots::slot_of,
};
use crate::{
    sse::{Seq, TurnId},
    store::StoreError,
    turn::{Batch, End, Epoch, Log, TurnRecord},
};

/// The largest batch: as a recorder's.
const BATCH: (usize, u64) = (256 << 10, 1024);
/// Turns that are compared at the same time.
const AT_ONCE: usize = 32;

/// A turn that Redis has taken.
struct Taken {
    /// As it was claimed.
    record: TurnRecord,
    log: Arc<Log>,
    /// How it ended, if it has.
    end: Option<End>,
}

impl Inner {
    /// A call that claims a turn.
    pub(super) fn claim_call(&self, record: &TurnRecord, mode: &str, over: Option<&TurnId>) -> Invocation {
        let key = record.session.as_ref().map(|session| &session.key);
        let ttl = if mode == "ended" { millis(self.settings.retain_after_end) } else { self.running_ttl() };
        START
            .on(&self.keys.turn_and_session(&record.id, key))
            .arg(&*record.epoch.0)
            .arg(record.id.as_str())
            .arg(ttl)
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

    /// Has Redis know the shared secret again, before a node that has just begun proposes another: by that one, turns of now
    /// would be nobody's.
    async fn rewrite_secret(&self) -> Result<(), StoreError> {
        let Some(secret) = *self.known_secret() else { return Ok(()) };
        let mut set = cmd("SET");
        set.arg(self.keys.secret()).arg(&secret).arg("NX");
        self.link.call::<Option<String>>("secret", Lane::Commands, &set).await.map(drop)
    }

    /// Has Redis know all own turns in the doubted slots as far as they are recorded, and the ends of those that are over.
    pub(super) async fn rewrite_own(&self, doubted: &Doubted) -> Result<(), StoreError> {
        let secret = self.rewrite_secret().await;
        let running = self.own.claimed().into_iter().map(|(record, log)| Taken { record, log, end: None });
        let ended = self.ended.all().into_iter();
        let ended = ended.map(|Ended { record, log, end, .. }| Taken { record, log, end: Some(end) });
        let is_doubted = |turn: &Taken| doubted.contains(slot_of(self.keys.meta(&turn.record.id).as_bytes()));
        let turns = running.chain(ended).filter(is_doubted).collect::<Vec<_>>();
        let mut rewritten = stream::iter(turns)
            .map(async |turn| {
                let state = if turn.end.is_some() { "ended" } else { "running" };
                self.rewrite(&turn).await.map(|written| written.then_some(state))
            })
            .buffer_unordered(AT_ONCE);
        // All of them are tried: in a cluster, some servers may be there and others not.
        let (mut turns, mut failed) = (0, secret.err());
        while let Some(written) = rewritten.next().await {
            match written {
                Ok(Some(state)) => {
                    turns += 1;
                    self.link.metrics.turns_rewritten.with_label_values(&[state]).inc();
                }
                Ok(None) => {}
                Err(error) => failed = Some(error),
            }
        }
        if turns > 0 {
            tracing::warn!(turns, "Redis had forgotten turns of this node, or parts of them: they are written again");
        }
        failed.map_or(Ok(()), Err)
    }

    /// Writes what Redis lacks of a turn. `false`: it lacked nothing, or the turn is none of this node's any more.
    async fn rewrite(&self, turn: &Taken) -> Result<bool, StoreError> {
        let Taken { record, log, end } = turn;
        let id = &record.id;
        if !self.is_wanting(turn).await? {
            return Ok(false);
        }
        let mode = match (&record.session, end) {
            (None, None) => "",
            (_, None) => "again",
            (_, Some(_)) => "ended",
        };
        let claimed: Reply = self.link.call("start", Lane::Commands, &self.claim_call(record, mode, None)).await?;
        if claimed.code() != Some(1) {
            // It has ended, or is another node's: its recorder finds out.
            return Ok(false);
        }
        let key = record.session.as_ref().map(|session| &session.key);
        if end.is_none() && !self.own.contains(id) {
            // Its recorder has taken it back meanwhile; one that has ended is not touched by this.
            let discard = DISCARD.on(&self.keys.turn_and_session(id, key)).arg(&*record.epoch.0).arg(id.as_str());
            self.link.call::<Value>("discard", Lane::Commands, &discard).await?;
            return Ok(false);
        }
        if let Some(head) = log.head() {
            let keep = HEAD.on(&[self.keys.meta(id)]).arg(&*record.epoch.0).arg(encode_head(&head));
            let reply: Reply = self.link.call("set_head", Lane::Commands, &keep).await?;
            self.heed(id, &reply);
        }
        let Some(stored) = self.stored(id).await? else { return Ok(false) };
        if self.write_blocks(record, log, stored).await?
            && let Some(end) = end
        {
            let reply = self.write_end(id, &record.epoch, key, Some(log), end, false).await?;
            if matches!(reply.code(), Some(1 | 2)) {
                self.seal_soon(id, &record.epoch, log);
            }
        }
        Ok(true)
    }

    /// Whether Redis lacks something of a turn that it believes running, or does not know.
    async fn is_wanting(&self, turn: &Taken) -> Result<bool, StoreError> {
        let Taken { record, log, end } = turn;
        let mut look = pipe();
        look.cmd("HMGET").arg(self.keys.meta(&record.id)).arg("ep").arg("st").arg("n");
        look.cmd("EXISTS").arg(self.keys.blocks(&record.id));
        let (fields, blocks): ([Option<String>; 3], bool) = self.link.call("find", Lane::Commands, &look).await?;
        let [epoch, state, stored] = fields;
        let Some(epoch) = epoch else { return Ok(true) };
        let is_ours = *epoch == *record.epoch.0 && state.as_deref() == Some("R");
        let last = log.last();
        // The header is stored before the first block.
        let has_all = blocks && last > 0 && stored.and_then(|text| text.parse().ok()) == Some(last);
        Ok(is_ours && (end.is_some() || !has_all))
    }

    /// The seq of the last block that Redis has of a turn.
    async fn stored(&self, id: &TurnId) -> Result<Option<Seq>, StoreError> {
        let mut get = redis::cmd("HGET");
        get.arg(self.keys.meta(id)).arg("n");
        let stored: Option<String> = self.link.call("find", Lane::Commands, &get).await?;
        Ok(stored.and_then(|text| text.parse().ok()))
    }

    /// Appends the blocks behind this seq. `false`: somebody else is at it.
    async fn write_blocks(&self, record: &TurnRecord, log: &Log, mut stored: Seq) -> Result<bool, StoreError> {
        let id = &record.id;
        while let Some(batch) = log.batch(stored, BATCH.0, BATCH.1) {
            let append = self.append_call(id, &record.epoch, &batch, &encode_blocks(&batch.blocks));
            let reply: Reply = self.link.call("append", Lane::Commands, &append).await?;
            if reply.code() != Some(1) {
                return Ok(false);
            }
            self.heed(id, &reply);
            self.link.metrics.blocks_repaired.inc_by(batch.blocks.len() as u64);
            stored = batch.last();
        }
        Ok(true)
    }
}
