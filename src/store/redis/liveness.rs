//! Which nodes are alive, and the end of dead nodes' turns.
//!
//! A node's sign of life is a key that it renews. Its absence counts only when the server answered that it is absent,
//! twice and some time apart, and has been the same server for as long as such a key lives: an outage of Redis is no
//! evidence of a node's death. What keeps turns whole is not this judgement but the epoch: whoever is ended wrongly, or
//! comes back, is refused by the next script.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::join_all;
use redis::{cmd, pipe};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    Inner,
    connection::Lane,
    doubt::{self, Doubts, Marked},
    ended::KEPT,
    inbox::Letter,
    message::Message,
    scripts::BEAT,
};
use crate::{
    sse::TurnId,
    store::StoreError,
    turn::{End, Millis, NodeId, Outcome},
};

/// Beats per lease: one may be lost, and the absence of a key is seen twice, within one and a half leases.
const BEATS: u32 = 5;

/// What was seen of other nodes.
#[derive(Debug, Default)]
pub(super) struct Sightings {
    nodes: Mutex<HashMap<NodeId, Seen>>,
}

#[derive(Debug, Clone, Copy)]
enum Seen {
    /// The key was there.
    Alive(Instant),
    /// The key has been absent since then.
    Absent(Instant),
}

impl Sightings {
    fn lock(&self) -> MutexGuard<'_, HashMap<NodeId, Seen>> {
        self.nodes.lock().expect("no code panics while it holds this lock")
    }

    /// Notes an answer of the server. Returns since when the node has been absent.
    fn note(&self, node: &NodeId, there: bool) -> Option<Instant> {
        let mut nodes = self.lock();
        let now = Instant::now();
        let seen = match nodes.get(node) {
            Some(Seen::Absent(since)) if !there => Seen::Absent(*since),
            _ if there => Seen::Alive(now),
            _ => Seen::Absent(now),
        };
        nodes.insert(node.clone(), seen);
        match seen {
            Seen::Alive(_) => None,
            Seen::Absent(since) => Some(since),
        }
    }

    /// Whether the node was seen alive within `recent`.
    fn alive(&self, node: &NodeId, recent: Duration) -> bool {
        matches!(self.lock().get(node), Some(Seen::Alive(at)) if at.elapsed() < recent)
    }

    fn forget(&self, node: &NodeId) {
        self.lock().remove(node);
    }
}

impl Inner {
    fn beat_interval(&self) -> Duration {
        self.settings.lease / BEATS
    }

    /// Renews this node's sign of life and looks for dead nodes, for ever.
    pub(super) async fn live(&self) {
        let mut status = self.link.status();
        let mut tick = interval(self.beat_interval());
        let mut doubts = Doubts::default();
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                // A new connection may lead to a server that does not know this node.
                Ok(()) = status.changed() => {
                    self.own.unlist_all();
                    self.sightings.lock().clear();
                }
            }
            self.mirrors.sweep();
            self.ended.drop_older(KEPT.1);
            if status.borrow_and_update().generation().is_none() {
                continue;
            }
            let lived = async {
                self.beat(&mut doubts).await?;
                self.end_abandoned().await?;
                if let Some(doubted) = doubts.doubted() {
                    self.rewrite_own(&doubted).await?;
                    doubts.clear();
                }
                self.ended.drop_older(KEPT.0.min(self.settings.retain_after_end));
                self.reap_dead().await
            };
            if let Err(error) = lived.await {
                tracing::debug!(%error, "a beat failed; the next one makes up for it");
            }
        }
    }

    /// Renews the sign of life and the marks, and finds out what Redis may have lost.
    async fn beat(&self, doubts: &mut Doubts) -> Result<(), StoreError> {
        let map = self.link.map()?;
        let sign = self.keys.node(&self.node);
        let found = self.renew(&sign).await?;
        let marks = doubt::marks(&map, &self.keys, &self.node, &self.marks());
        let marked = join_all(marks.iter().map(async |(number, key)| {
            let found = if *key == sign { Ok(found) } else { self.renew(key).await };
            Some(Marked { number: *number, key: key.clone(), found: found.ok()? })
        }));
        let emptied = doubts.looked(&map, marked.await.into_iter().flatten().collect(), self.settings.lease);
        for server in map.servers().into_iter().filter(|server| emptied.contains(&server.number)) {
            tracing::warn!(redis = server.address, "Redis has lost its data: what this node knows is written again");
            server.set_emptied();
        }
        *self.marks() = marks;
        if doubts.doubted().is_some() {
            self.own.unlist_all();
        }
        let keys = &self.keys;
        let mut enlist = pipe();
        enlist.cmd("ZADD").arg(keys.nodes()).arg(now()).arg(&*self.node.0);
        let unlisted = self.own.unlisted();
        if !unlisted.is_empty() {
            enlist.cmd("SADD").arg(keys.turns_of(&self.node));
            unlisted.iter().for_each(|id| {
                enlist.arg(id.as_str());
            });
        }
        self.link.call::<()>("beat", Lane::Commands, &enlist).await?;
        self.own.set_listed(&unlisted);
        Ok(())
    }

    /// Renews a sign of life or a mark. `false`: Redis did not have it any more.
    async fn renew(&self, key: &str) -> Result<bool, StoreError> {
        let beat = BEAT.on(&[key]).arg(millis(self.settings.lease));
        self.link.call("beat", Lane::Commands, &beat).await
    }

    fn marks(&self) -> MutexGuard<'_, HashMap<u64, String>> {
        self.marks.lock().expect("no code panics while it holds this lock")
    }

    /// Ends own turns that nobody records any more: their recorder gave up, or its end could not be written.
    async fn end_abandoned(&self) -> Result<(), StoreError> {
        for (id, epoch) in self.own.abandoned() {
            let session = self.own.session(&id).flatten();
            let end = End { outcome: Outcome::Interrupted, reason: "abandoned".into(), at: now() };
            let reply = self.write_end(&id, &epoch, session.as_ref(), None, &end).await?;
            if reply.code() == Some(1) {
                tracing::warn!(turn = id.short(), "ended a turn that nobody records any more");
            }
            self.forget_own(&id, &epoch);
        }
        Ok(())
    }

    /// Ends the turns of all nodes that are dead.
    async fn reap_dead(&self) -> Result<(), StoreError> {
        let mut all = cmd("ZRANGEBYSCORE");
        all.arg(self.keys.nodes()).arg("-inf").arg("+inf");
        let nodes: Vec<String> = self.link.call("nodes", Lane::Commands, &all).await?;
        for node in nodes.into_iter().map(|node| NodeId(node.into())) {
            if node != self.node && self.is_dead(&node).await? && self.is_elected(&node).await? {
                self.reap(&node).await?;
            }
        }
        Ok(())
    }

    /// One living node ends a dead one's turns.
    async fn is_elected(&self, node: &NodeId) -> Result<bool, StoreError> {
        let mut claim = cmd("SET");
        claim.arg(self.keys.reaper(node)).arg(&*self.node.0).arg("NX").arg("PX").arg(millis(self.settings.lease));
        let claimed: Option<String> = self.link.call("reap", Lane::Commands, &claim).await?;
        Ok(claimed.is_some())
    }

    async fn reap(&self, node: &NodeId) -> Result<(), StoreError> {
        let mut members = cmd("SMEMBERS");
        members.arg(self.keys.turns_of(node));
        let turns: Vec<String> = self.link.call("reap", Lane::Commands, &members).await?;
        let mut ended = 0;
        for id in turns.iter().filter_map(|text| text.parse::<TurnId>().ok()) {
            ended += u32::from(self.end_orphan(&id, node).await?);
        }
        // Last, so that a reaper that dies halfway leaves the rest to another one.
        let mut forget = pipe();
        forget.cmd("DEL").arg(self.keys.turns_of(node));
        forget.cmd("DEL").arg(self.keys.reaper(node));
        forget.cmd("ZREM").arg(self.keys.nodes()).arg(&*node.0);
        self.link.call::<()>("reap", Lane::Commands, &forget).await?;
        self.sightings.forget(node);
        tracing::warn!(%node, turns = ended, "a node is gone: its running turns ended as interrupted");
        Ok(())
    }

    /// Ends a turn of a dead node. `false`: it had ended, or is another node's.
    pub(super) async fn end_orphan(&self, id: &TurnId, node: &NodeId) -> Result<bool, StoreError> {
        let Some(meta) = self.meta(id).await? else { return Ok(false) };
        let record = meta.record;
        if record.end.is_some() || record.node != *node {
            return Ok(false);
        }
        let session = record.session.map(|session| session.key);
        let end = End { outcome: Outcome::Interrupted, reason: "owner_lost".into(), at: now() };
        let reply = self.write_end(id, &record.epoch, session.as_ref(), None, &end).await?;
        // Its followers: here, and on the node that last said so.
        self.mirrors.look(id);
        if let Some(watcher) = reply.node(2) {
            self.post(Letter::To(watcher, Message::Look(*id)));
        }
        Ok(true)
    }

    /// Whether a node is dead beyond doubt.
    pub(super) async fn is_dead(&self, node: &NodeId) -> Result<bool, StoreError> {
        if *node == self.node || self.sightings.alive(node, self.beat_interval() / 2) {
            return Ok(false);
        }
        let Some(since) = self.sightings.note(node, self.is_there(node).await?) else { return Ok(false) };
        let sign = self.keys.node(node);
        // Less than a beat, or else the next look at it would often come a moment too early.
        if since.elapsed() < self.beat_interval() * 3 / 4 || !self.link.is_steady(&sign) {
            return Ok(false);
        }
        // A server that has just been emptied has forgotten the living, too.
        let number = self.link.map()?.server(sign.as_bytes()).map_err(StoreError::Unavailable)?.number;
        let mark = self.marks().get(&number).cloned();
        match mark {
            Some(mark) => self.exists(&mark).await,
            None => Ok(false),
        }
    }

    /// Whether a node's sign of life is there.
    pub(super) async fn is_there(&self, node: &NodeId) -> Result<bool, StoreError> {
        self.exists(&self.keys.node(node)).await
    }

    async fn exists(&self, key: &str) -> Result<bool, StoreError> {
        let mut exists = cmd("EXISTS");
        exists.arg(key);
        self.link.call("alive", Lane::Commands, &exists).await
    }
}

/// The time, for ends that no recorder writes.
pub(super) fn now() -> Millis {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since)
}

/// A duration as Redis takes it.
pub(super) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
