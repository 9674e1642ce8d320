//! The embedded default: turns of this process, bounded by bytes, gone with it.
//!
//! The log that the recorder writes is the record; nothing is copied. What has ended is kept for the retention time, or
//! until its bytes are needed.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;

use super::{
    Appended, Durability, Finished, Health, Opened, SessionPolicy, Started, StopRequested, StoreError, StoreEvent,
    TurnStore,
};
use crate::{
    sse::{Seq, TurnId},
    turn::{Batch, Budget, Digest, End, Epoch, Head, Log, TurnRecord, Wish},
};

/// See the module.
#[derive(Debug)]
pub struct MemoryStore {
    retain_after_end: Duration,
    budget: Arc<Budget>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    turns: HashMap<TurnId, Kept>,
    /// Ended turns in the order they expire: retention is the same for all.
    ended: VecDeque<(Instant, TurnId)>,
    sessions: HashMap<Digest, Pointer>,
    notes: HashMap<Digest, Note>,
    /// When notes were last swept.
    swept: Option<Instant>,
    secret: Option<[u8; 32]>,
}

#[derive(Debug)]
struct Kept {
    record: TurnRecord,
    log: Arc<Log>,
}

#[derive(Debug, Default)]
struct Pointer {
    running: Option<TurnId>,
    last: Option<TurnId>,
}

#[derive(Debug)]
struct Note {
    value: TurnId,
    expires: Instant,
}

/// Notes live for seconds to hours; sweeping them this often keeps starts cheap.
const SWEEP: Duration = Duration::from_secs(10);

impl MemoryStore {
    /// A store that keeps ended turns for `retain_after_end`, and all logs within `budget`.
    pub fn new(retain_after_end: Duration, budget: Arc<Budget>) -> Arc<Self> {
        Arc::new(Self { retain_after_end, budget, inner: Mutex::default() })
    }

    /// The state, with what has expired removed.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        let mut inner = self.inner.lock().expect("no code panics while it holds this lock");
        let now = Instant::now();
        while inner.ended.front().is_some_and(|(expires, _)| *expires <= now) {
            inner.drop_oldest();
        }
        if inner.swept.is_none_or(|at| now >= at + SWEEP) {
            inner.swept = Some(now);
            inner.notes.retain(|_, note| note.expires > now);
        }
        inner
    }
}

impl Inner {
    /// Drops the turn that ended first.
    fn drop_oldest(&mut self) -> bool {
        let Some((_, id)) = self.ended.pop_front() else { return false };
        if let Some(Kept { record, .. }) = self.turns.remove(&id)
            && let Some(session) = record.session
        {
            self.unpoint(&session.key, &id);
        }
        true
    }

    fn unpoint(&mut self, key: &Digest, id: &TurnId) {
        let Some(pointer) = self.sessions.get_mut(key) else { return };
        pointer.running.take_if(|running| running == id);
        pointer.last.take_if(|last| last == id);
        if pointer.running.is_none() && pointer.last.is_none() {
            self.sessions.remove(key);
        }
    }

    /// The turn, if `epoch` owns it and it runs.
    fn owned(&mut self, id: &TurnId, epoch: &Epoch) -> Option<&mut Kept> {
        self.turns.get_mut(id).filter(|kept| kept.record.epoch == *epoch && kept.record.end.is_none())
    }
}

impl Kept {
    /// The record as it is now: while the turn runs, the log is ahead of what was noted.
    fn now(&self) -> TurnRecord {
        let mut record = self.record.clone();
        record.last = self.log.last();
        record.bytes = self.log.bytes();
        record.cap = self.log.capped();
        record
    }
}

#[async_trait]
impl TurnStore for MemoryStore {
    fn durability(&self) -> Durability {
        Durability::Held
    }

    async fn start(&self, record: &TurnRecord, log: &Arc<Log>, policy: SessionPolicy) -> Result<Started, StoreError> {
        let mut inner = self.lock();
        if let Some(kept) = inner.turns.get(&record.id) {
            let again = kept.record.epoch == record.epoch && kept.record.end.is_none();
            return Ok(if again { Started::Fresh } else { Started::Fenced });
        }
        if let Some(session) = &record.session {
            let pointer = inner.sessions.entry(session.key).or_default();
            if policy == SessionPolicy::Refuse
                && let Some(running) = pointer.running
            {
                return Ok(Started::Busy(running));
            }
            *pointer = Pointer { running: Some(record.id), last: Some(record.id) };
        }
        inner.turns.insert(record.id, Kept { record: record.clone(), log: log.clone() });
        Ok(Started::Fresh)
    }

    async fn set_head(&self, id: &TurnId, epoch: &Epoch, head: &Arc<Head>) -> Result<(), StoreError> {
        if let Some(kept) = self.lock().owned(id, epoch) {
            kept.record.head = Some(head.clone());
        }
        Ok(())
    }

    async fn append(&self, id: &TurnId, epoch: &Epoch, batch: &Batch) -> Result<Appended, StoreError> {
        let mut inner = self.lock();
        if !inner.turns.contains_key(id) {
            return Ok(Appended::Gone);
        }
        let Some(kept) = inner.owned(id, epoch) else { return Ok(Appended::Fenced) };
        if kept.record.last != batch.prev || batch.last() > kept.log.last() {
            return Ok(Appended::At(kept.record.last));
        }
        kept.record.last = batch.last();
        if let Some(head) = &batch.head {
            kept.record.head.get_or_insert_with(|| head.clone());
        }
        Ok(Appended::Applied { stop: None })
    }

    async fn finish(&self, id: &TurnId, epoch: &Epoch, _log: &Arc<Log>, end: &End) -> Result<Finished, StoreError> {
        let mut inner = self.lock();
        let Some(kept) = inner.turns.get_mut(id) else { return Ok(Finished::Gone) };
        if let Some(first) = &kept.record.end {
            return Ok(Finished::Already(first.clone()));
        }
        if kept.record.epoch != *epoch {
            return Ok(Finished::Gone);
        }
        kept.record.end = Some(end.clone());
        kept.record.head = kept.record.head.take().or_else(|| kept.log.head());
        if let Some(session) = kept.record.session.as_ref().map(|s| s.key)
            && let Some(pointer) = inner.sessions.get_mut(&session)
        {
            pointer.running.take_if(|running| running == id);
        }
        inner.ended.push_back((Instant::now() + self.retain_after_end, *id));
        Ok(Finished::Applied)
    }

    async fn discard(&self, record: &TurnRecord) -> Result<(), StoreError> {
        let mut inner = self.lock();
        if inner.owned(&record.id, &record.epoch).is_some() {
            inner.turns.remove(&record.id);
            if let Some(session) = &record.session {
                inner.unpoint(&session.key, &record.id);
            }
        }
        Ok(())
    }

    async fn find(&self, id: &TurnId) -> Result<Option<TurnRecord>, StoreError> {
        Ok(self.lock().turns.get(id).map(Kept::now))
    }

    async fn open(&self, id: &TurnId, _after: Seq) -> Result<Option<Opened>, StoreError> {
        let inner = self.lock();
        Ok(inner.turns.get(id).map(|kept| Opened { record: kept.now(), log: kept.log.clone() }))
    }

    async fn session(&self, key: &Digest) -> Result<Option<TurnId>, StoreError> {
        Ok(self.lock().sessions.get(key).and_then(|pointer| pointer.running.or(pointer.last)))
    }

    /// All turns of this store are of this process, which stops them itself.
    async fn request_stop(&self, _id: &TurnId, _wish: Wish) -> Result<StopRequested, StoreError> {
        Ok(StopRequested::NotRunning)
    }

    async fn claim(&self, key: &Digest, value: &TurnId, ttl: Duration) -> Result<TurnId, StoreError> {
        let now = Instant::now();
        let mut inner = self.lock();
        let fresh = Note { value: *value, expires: now + ttl };
        let note = inner.notes.entry(*key).or_insert(Note { value: *value, expires: now + ttl });
        if note.expires <= now {
            *note = fresh;
        }
        Ok(note.value)
    }

    async fn note(&self, key: &Digest, value: &TurnId, ttl: Duration) -> Result<(), StoreError> {
        self.lock().notes.insert(*key, Note { value: *value, expires: Instant::now() + ttl });
        Ok(())
    }

    async fn noted(&self, key: &Digest) -> Result<Option<TurnId>, StoreError> {
        let now = Instant::now();
        Ok(self.lock().notes.get(key).filter(|note| note.expires > now).map(|note| note.value))
    }

    async fn shared_secret(&self, proposed: [u8; 32]) -> Result<[u8; 32], StoreError> {
        Ok(*self.lock().secret.get_or_insert(proposed))
    }

    async fn next_event(&self) -> StoreEvent {
        std::future::pending().await
    }

    async fn health(&self) -> Health {
        let (used, limit) = (self.budget.used(), self.budget.limit());
        let detail = format!("memory: {used} of {limit} bytes in use");
        Health { ok: true, detail }
    }

    fn shed(&self, bytes: u64) -> usize {
        let mut inner = self.lock();
        let mut dropped = 0;
        while self.budget.exceeded_by(bytes) && inner.drop_oldest() {
            dropped += 1;
        }
        dropped
    }

    async fn leave(&self) {}
}
