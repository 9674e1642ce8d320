//! Copies of turns that other nodes record, or that have ended, for this node's followers.
//!
//! A mirror is a [`Log`] that a task fills: first from the stream, page by page, then by the owner's letters, as long as
//! these follow on what is there. Whatever is missing is read from the stream, at once when a letter shows the gap,
//! within a second when none comes. All followers of a turn on this node share a mirror if it begins early enough for
//! them; when nobody holds it any more, its task ends.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use bytes::Bytes;
use redis::{Value, from_redis_value, pipe};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Inner,
    codec::{Unreadable, decode_blocks},
    connection::Lane,
    inbox::Letter,
    message::{Frame, Message},
    meta::{self, Meta},
    scripts::WATCH,
};
use crate::{
    sse::{Seq, TurnId},
    store::StoreError,
    turn::{Block, End, Log, NodeId, Outcome, TurnRecord},
};

/// How long a mirror waits for a letter before it looks by itself.
const LOOK: Duration = Duration::from_secs(1);
/// How often the owner is told that its turn is followed here.
const WATCH_EVERY: Duration = Duration::from_secs(3);
/// Bytes that a page of the stream should have.
const PAGE_BYTES: usize = 128 << 10;
/// Entries of the first page, and of the largest.
const PAGE_ENTRIES: (usize, usize) = (16, 256);
/// Nudges that wait for a mirror. What does not fit is read from the stream.
const NUDGES: usize = 64;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Mirrors {
    turns: Mutex<HashMap<TurnId, Vec<Mirror>>>,
}

#[derive(Debug)]
struct Mirror {
    log: Weak<Log>,
    nudges: mpsc::Sender<Nudge>,
}

/// Why a mirror should wake.
#[derive(Debug, Clone)]
enum Nudge {
    /// A batch.
    Frame(Frame),
    /// Something is new in the store.
    Look,
}

impl Mirrors {
    /// Hands on a batch.
    pub(super) fn take(&self, frame: Frame) {
        self.nudge(&frame.turn, || Nudge::Frame(frame.clone()));
    }

    /// Has a turn's mirrors look into the store.
    pub(super) fn look(&self, id: &TurnId) {
        self.nudge(id, || Nudge::Look);
    }

    /// Has all mirrors look into the store.
    pub(super) fn look_all(&self) {
        for mirror in self.lock().values().flatten() {
            let _ = mirror.nudges.try_send(Nudge::Look);
        }
    }

    fn nudge(&self, id: &TurnId, nudge: impl Fn() -> Nudge) {
        for mirror in self.lock().get(id).into_iter().flatten() {
            let _ = mirror.nudges.try_send(nudge());
        }
    }

    /// A mirror of the turn that begins at or before `after` and is not cut off from it.
    fn usable(&self, record: &TurnRecord, after: Seq) -> Option<Arc<Log>> {
        let mirrors = self.lock();
        let logs = mirrors.get(&record.id)?.iter().filter_map(|mirror| mirror.log.upgrade());
        logs.into_iter().find(|log| log.base() <= after && (log.ended().is_none() || record.end.is_some()))
    }

    /// Whether somebody holds a mirror of the turn.
    fn has(&self, id: &TurnId) -> bool {
        self.lock().get(id).is_some_and(|mirrors| mirrors.iter().any(|mirror| mirror.log.strong_count() > 0))
    }

    fn insert(&self, id: TurnId, mirror: Mirror) {
        self.lock().entry(id).or_default().push(mirror);
    }

    /// Forgets what nobody holds any more.
    pub(super) fn sweep(&self) {
        self.lock().retain(|_, mirrors| {
            mirrors.retain(|mirror| mirror.log.strong_count() > 0);
            !mirrors.is_empty()
        });
    }

    /// How many turns are mirrored.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.lock().len()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TurnId, Vec<Mirror>>> {
        self.turns.lock().expect("no code panics while it holds this lock")
    }
}

impl Inner {
    /// The log of a turn, filled from the store.
    pub(super) fn mirror(self: &Arc<Self>, record: &TurnRecord, after: Seq) -> Arc<Log> {
        // A cursor may be ahead of what the store has yet.
        let after = after.min(record.last);
        if let Some(log) = self.mirrors.usable(record, after) {
            return log;
        }
        // One that begins too late for somebody is enough: the next is for everybody.
        let after = if self.mirrors.has(&record.id) { 0 } else { after };
        let log = Log::starting_after(after, self.budget.clone(), false);
        if let Some(head) = &record.head {
            log.set_head(head.clone());
        }
        let (nudges, nudged) = mpsc::channel(NUDGES);
        self.mirrors.insert(record.id, Mirror { log: Arc::downgrade(&log), nudges });
        let filler = Filler {
            inner: self.clone(),
            id: record.id,
            log: Arc::downgrade(&log),
            next: after,
            page: PAGE_ENTRIES.0,
            owner: record.node.clone(),
            running: record.end.is_none(),
            told: None,
            missing_since: None,
        };
        tokio::spawn(filler.run(nudged));
        log
    }
}

/// The task behind a mirror.
struct Filler {
    inner: Arc<Inner>,
    id: TurnId,
    log: Weak<Log>,
    /// Seq of the last block in the log.
    next: Seq,
    /// Entries of the next page.
    page: usize,
    owner: NodeId,
    running: bool,
    /// When the owner was last told that its turn is followed.
    told: Option<Instant>,
    /// Since when the store has not known the turn.
    missing_since: Option<Instant>,
}

/// What a look into the store showed.
enum Looked {
    /// There may be more at once.
    More,
    /// Everything there is.
    Everything,
    /// The turn is over, and the log says so.
    Over,
}

/// Why a mirror cannot go on.
enum Broken {
    /// Not now.
    Store(StoreError),
    /// Never.
    Stream(Unreadable),
}

impl From<StoreError> for Broken {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Unreadable> for Broken {
    fn from(error: Unreadable) -> Self {
        Self::Stream(error)
    }
}

impl Filler {
    async fn run(mut self, mut nudged: mpsc::Receiver<Nudge>) {
        while let Some(log) = self.log.upgrade() {
            if self.running && self.told.is_none_or(|at| at.elapsed() >= WATCH_EVERY) {
                self.watch().await;
            }
            match self.look(&log).await {
                Ok(Looked::More) => continue,
                Ok(Looked::Everything) => {}
                Ok(Looked::Over) => break,
                Err(Broken::Store(error)) => {
                    tracing::debug!(turn = self.id.short(), %error, "a mirror waits for the store");
                }
                Err(Broken::Stream(error)) => {
                    tracing::error!(turn = self.id.short(), %error, "a stored turn is unreadable: its followers are cut");
                    self.give_up(&log, "unreadable");
                    break;
                }
            }
            drop(log);
            self.wait(&mut nudged).await;
        }
    }

    /// Takes letters as long as they follow on what is there; returns when there is a reason to look.
    async fn wait(&mut self, nudged: &mut mpsc::Receiver<Nudge>) {
        let mut until = Instant::now() + LOOK;
        loop {
            let nudge = tokio::select! {
                nudge = nudged.recv() => nudge,
                () = sleep_until(until) => return,
            };
            let Some(Nudge::Frame(frame)) = nudge else { return };
            let Some(log) = self.log.upgrade() else { return };
            let Ok(blocks) = decode_blocks(frame.blocks) else { return };
            if frame.prev > self.next {
                return;
            }
            if self.push(&log, frame.prev, blocks) {
                until = Instant::now() + LOOK;
            }
            if self.told.is_none_or(|at| at.elapsed() >= WATCH_EVERY) {
                return;
            }
        }
    }

    /// Tells the owner that its turn is followed here: by letter, and in the turn itself, in case the letter is lost.
    async fn watch(&mut self) {
        let inner = &self.inner;
        inner.post(Letter::To(self.owner.clone(), Message::Watch(self.id, inner.node.clone())));
        let word = WATCH.on(&[inner.keys.meta(&self.id)]).arg(&*inner.node.0);
        if inner.link.call::<Value>("watch", Lane::Commands, &word).await.is_ok() {
            self.told = Some(Instant::now());
        }
    }

    /// Reads the turn's state and the next page of its blocks.
    async fn look(&mut self, log: &Log) -> Result<Looked, Broken> {
        let keys = &self.inner.keys;
        let mut look = pipe();
        // The state first: what it says has ended is whole in the page after it.
        look.cmd("HMGET").arg(keys.meta(&self.id)).arg(&meta::FIELDS);
        look.cmd("XRANGE").arg(keys.blocks(&self.id)).arg(self.next + 1).arg("+").arg("COUNT").arg(self.page);
        let (values, entries): (Vec<Option<Vec<u8>>>, Vec<Value>) =
            self.inner.link.call("read", Lane::Bulk, &look).await?;
        let Some(Meta { record, tail }) = meta::read(self.id, values)? else { return Ok(self.missing(log)) };
        self.missing_since = None;
        self.owner = record.node.clone();
        self.running = record.end.is_none();
        if let Some(head) = &record.head
            && log.head().is_none()
        {
            log.set_head(head.clone());
        }
        let full = entries.len() >= self.page;
        self.take_page(log, entries)?;
        if full {
            return Ok(Looked::More);
        }
        let Some(end) = record.end else {
            if self.inner.is_dead(&record.node).await? && self.inner.end_orphan(&self.id, &record.node).await? {
                return Ok(Looked::More);
            }
            return Ok(Looked::Everything);
        };
        if self.next < record.last {
            tracing::error!(
                turn = self.id.short(),
                "the store has lost blocks of an ended turn: its followers are cut"
            );
            return Ok(self.give_up(log, "store_lost"));
        }
        if !tail.is_empty() {
            log.push_aside(tail);
        }
        if let Some(cap) = record.cap {
            log.cut_short(cap);
        }
        log.end(end);
        Ok(Looked::Over)
    }

    /// Puts a page of the stream into the log.
    fn take_page(&mut self, log: &Log, entries: Vec<Value>) -> Result<(), Unreadable> {
        let (count, mut bytes) = (entries.len(), 0);
        for entry in entries {
            let Entry { first, last, value } = Entry::read(entry)?;
            bytes += value.len();
            let blocks = decode_blocks(value)?;
            if first + blocks.len() as Seq != last + 1 {
                return Err(Unreadable("an entry with another number of blocks than it says"));
            }
            if first > self.next + 1 {
                return Err(Unreadable("a stream with a hole"));
            }
            self.push(log, first - 1, blocks);
        }
        if let Some(each) = bytes.checked_div(count) {
            self.page = (PAGE_BYTES / each.max(1)).clamp(1, PAGE_ENTRIES.1);
        }
        Ok(())
    }

    /// Appends the blocks behind `prev` that the log does not have. `false`: it has them all.
    fn push(&mut self, log: &Log, prev: Seq, blocks: Vec<Block>) -> bool {
        let known = usize::try_from(self.next.saturating_sub(prev)).unwrap_or(usize::MAX);
        if known >= blocks.len() {
            return false;
        }
        for block in blocks.into_iter().skip(known) {
            self.next += 1;
            log.push_block(block);
        }
        log.wake();
        true
    }

    /// The store does not know the turn: its owner will write it again, if it lives and has it.
    fn missing(&mut self, log: &Log) -> Looked {
        let since = *self.missing_since.get_or_insert_with(Instant::now);
        if since.elapsed() < self.inner.settings.lease * 3 / 2 {
            return Looked::Everything;
        }
        tracing::warn!(turn = self.id.short(), "the store has lost a turn: its followers are cut");
        self.give_up(log, "store_lost")
    }

    /// Ends the log for its followers, who may not take what they have for the whole turn.
    fn give_up(&self, log: &Log, reason: &str) -> Looked {
        log.end(End { outcome: Outcome::Interrupted, reason: reason.into(), at: super::liveness::now() });
        Looked::Over
    }
}

/// An entry of the stream.
struct Entry {
    first: Seq,
    last: Seq,
    value: Bytes,
}

impl Entry {
    /// Reads `[id, [field, value]]`, where the id is `<last>-<count>`.
    fn read(entry: Value) -> Result<Self, Unreadable> {
        const BAD: Unreadable = Unreadable("an entry of another form");
        let (id, fields): (String, Vec<Value>) = from_redis_value(entry).map_err(|_| BAD)?;
        let (last, count) = id.split_once('-').ok_or(BAD)?;
        let (last, count) = (last.parse::<Seq>().map_err(|_| BAD)?, count.parse::<Seq>().map_err(|_| BAD)?);
        let mut fields = fields.into_iter();
        match (fields.next(), fields.next()) {
            (Some(Value::BulkString(name)), Some(Value::BulkString(value)))
                if name == b"d" && (1..=last).contains(&count) =>
            {
                Ok(Self { first: last - count + 1, last, value: value.into() })
            }
            _ => Err(BAD),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, field: &str) -> Value {
        let text = |text: &str| Value::BulkString(text.into());
        Value::Array(vec![text(id), Value::Array(vec![text(field), text("value")])])
    }

    #[test]
    fn an_entry_says_which_blocks_it_has() {
        let read = Entry::read(entry("7-3", "d")).ok().map(|entry| (entry.first, entry.last, entry.value));
        assert_eq!(read, Some((5, 7, Bytes::from_static(b"value"))));
    }

    #[test]
    fn entries_of_another_form_are_refused() {
        for (id, field) in [("7", "d"), ("7-0", "d"), ("7-8", "d"), ("x-1", "d"), ("7-3", "z"), ("", "d")] {
            assert!(Entry::read(entry(id, field)).is_err(), "{id} {field}");
        }
        assert!(Entry::read(Value::Nil).is_err());
        assert!(Entry::read(Value::Array(vec![])).is_err());
    }
}
