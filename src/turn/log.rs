//! The recorded blocks of one turn: the only source for live delivery and for replay.
//!
//! One recorder appends, any number of followers read. Recent blocks stand alone, as they came from the stamper; once
//! they add up to [`SEGMENT`] bytes they are copied into one contiguous segment with an offset table of 4 bytes per block.
//! A follower that is behind gets slices of segments: no copy, and many blocks in one write.

mod budget;
mod segment;
#[cfg(test)]
mod tests;
mod unrecorded;
mod watcher;

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::{Bytes, BytesMut};
use tokio::sync::Notify;

pub use self::{budget::Budget, watcher::Watcher};
use self::{
    budget::Share,
    segment::Segment,
    unrecorded::{Unrecorded, WINDOW},
    watcher::Changes,
};
use super::record::{Cap, End, Head};
use crate::sse::{Message, Seq};

/// Bytes after which the recent blocks are folded into a segment. Small, so that a turn never holds much more than it
/// recorded.
const SEGMENT: usize = 16 << 10;

/// What the record of an id of the backend's takes besides its bytes.
const NATIVE_ID: usize = size_of::<(u32, u32)>();

/// A recorded block: bare lines that stand before the event, and the stamped event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Block {
    /// Aside lines and event, as they go to clients.
    pub bytes: Bytes,
    /// The backend's own id of this event, where it sent one.
    pub native_id: Option<Bytes>,
}

/// Consecutive blocks on their way to a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Seq before the first block.
    pub prev: Seq,
    /// With the turn's first block, the answer's header: who has a block has the header, too.
    pub head: Option<Arc<Head>>,
    /// At least one block.
    pub blocks: Vec<Block>,
}

impl Batch {
    /// Seq of the last block.
    pub fn last(&self) -> Seq {
        self.prev + self.blocks.len() as Seq
    }
}

/// Where a follower stands. Made by [`Position::after`]; moved by [`Log::read`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    after: Seq,
    /// Bytes of the block behind `after` that were given already: aside lines are delivered before their event is there.
    given: usize,
    /// Bytes given of what passed unrecorded; `None` for who came after it began.
    unrecorded: Option<u64>,
}

impl Position {
    /// Everything after this seq.
    pub fn after(seq: Seq) -> Self {
        Self { after: seq, given: 0, unrecorded: Some(0) }
    }

    /// Everything after this seq that is recorded. Who comes back after recording was capped may have seen some of what
    /// passed since, and nobody can tell how much: such a follower is [`Read::Lost`] there.
    pub fn recorded_after(seq: Seq) -> Self {
        Self { unrecorded: None, ..Self::after(seq) }
    }

    /// Seq of the last block that was given whole.
    pub fn seq(&self) -> Seq {
        self.after
    }

    /// Whether the follower is in what passes unrecorded, where bytes come as the upstream cut them.
    pub fn in_unrecorded(&self) -> bool {
        self.unrecorded.is_some_and(|given| given > 0)
    }
}

/// What a follower gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Read {
    /// Bytes to send, in order.
    Data(Vec<Bytes>),
    /// Nothing yet.
    Wait,
    /// These blocks are no longer, or were never, in the log; the position has moved behind them.
    Gap {
        /// First missing seq.
        first: Seq,
        /// Last missing seq.
        last: Seq,
    },
    /// What passed unrecorded is no longer in the window: the follower cannot go on.
    Lost,
    /// The turn is over and everything was given.
    End(End),
}

/// See the module.
#[derive(Debug)]
pub struct Log {
    inner: Mutex<Inner>,
    changes: Arc<Changes>,
    /// Told when a follower reads of what passes unrecorded.
    taken: Notify,
}

#[derive(Debug)]
struct Inner {
    head: Option<Arc<Head>>,
    /// Seq before the first block held.
    base: Seq,
    segments: VecDeque<Segment>,
    recent: Vec<Bytes>,
    recent_bytes: usize,
    /// Seq of the last block.
    last: Seq,
    /// Followers may read up to here.
    shown: Seq,
    /// Whether blocks wait for [`Log::show`].
    hold_back: bool,
    /// Aside lines before the next block; at the end of the turn, what followed the last blank line.
    aside: BytesMut,
    bytes: u64,
    /// The backend's ids of the recent blocks.
    recent_natives: Vec<(Seq, Bytes)>,
    unrecorded: Option<Unrecorded>,
    end: Option<End>,
    share: Share,
}

impl Log {
    /// An empty log. With `hold_back`, followers see a block only once [`Log::show`] has released it.
    pub fn new(budget: Arc<Budget>, hold_back: bool) -> Arc<Self> {
        Self::starting_after(0, budget, hold_back)
    }

    /// A log whose first block will be `seq + 1`: a copy of the rest of a turn that another node records.
    pub fn starting_after(seq: Seq, budget: Arc<Budget>, hold_back: bool) -> Arc<Self> {
        let inner = Inner {
            head: None,
            base: seq,
            segments: VecDeque::new(),
            recent: Vec::new(),
            recent_bytes: 0,
            last: seq,
            shown: seq,
            hold_back,
            aside: BytesMut::new(),
            bytes: 0,
            recent_natives: Vec::new(),
            unrecorded: None,
            end: None,
            share: Share::of(budget),
        };
        Arc::new(Self { inner: Mutex::new(inner), changes: Arc::default(), taken: Notify::new() })
    }

    /// Wakes at every change. Take it before reading, so that no change is missed.
    pub fn subscribe(&self) -> Watcher {
        self.changes.watch()
    }

    /// Sets the answer's header: the turn has begun to answer.
    pub fn set_head(&self, head: Arc<Head>) {
        self.lock().head = Some(head);
        self.changes.tell();
    }

    /// The answer's header, once there.
    pub fn head(&self) -> Option<Arc<Head>> {
        self.lock().head.clone()
    }

    /// Adds lines that stand before the next event. Followers at the end of the log get them without it. Call
    /// [`Log::wake`] after the last of a chunk.
    pub fn push_aside(&self, lines: Bytes) {
        let mut inner = self.lock();
        inner.charge(lines.len());
        inner.aside.extend_from_slice(&lines);
    }

    /// Appends an event, with the aside lines before it, as the next block. Call [`Log::wake`] after the last of a chunk.
    pub fn push_event(&self, event: Bytes, native_id: Option<Bytes>) {
        let mut inner = self.lock();
        inner.charge(event.len());
        let bytes = inner.behind_aside(event);
        inner.append(Block { bytes, native_id });
    }

    /// Appends a block that another node recorded. Call [`Log::wake`] after the last.
    pub fn push_block(&self, block: Block) {
        let mut inner = self.lock();
        inner.charge(block.bytes.len());
        inner.append(block);
    }

    /// Tells followers to look again at what was pushed. Those who wait for [`Log::show`] are left in peace.
    pub fn wake(&self) {
        let inner = self.lock();
        if inner.shown == inner.last {
            drop(inner);
            self.changes.tell();
        }
    }

    /// Releases blocks up to `seq` to followers.
    pub fn show(&self, seq: Seq) {
        let mut inner = self.lock();
        let seq = seq.min(inner.last);
        if seq > inner.shown {
            inner.shown = seq;
            drop(inner);
            self.changes.tell();
        }
    }

    /// Whether new blocks wait for [`Log::show`]. Switching it off releases all.
    pub fn set_hold_back(&self, hold_back: bool) {
        let mut inner = self.lock();
        inner.hold_back = hold_back;
        let last = inner.last;
        drop(inner);
        if !hold_back {
            self.show(last);
        }
    }

    /// Ends recording, not the turn: what comes from now on goes through [`Log::push_unrecorded`].
    pub fn cap(&self, cap: Cap) {
        self.lock().unrecorded.get_or_insert_with(|| Unrecorded::beginning(cap));
    }

    /// Says of a copy that its turn's recording was capped: what passed then is not to be had here, so a follower that
    /// gets to the last block is [`Read::Lost`].
    pub fn cut_short(&self, cap: Cap) {
        self.lock().unrecorded.get_or_insert_with(|| Unrecorded::elsewhere(cap));
        self.changes.tell();
    }

    /// Why recording ended early, if it did.
    pub fn capped(&self) -> Option<Cap> {
        self.lock().unrecorded.as_ref().map(|u| u.cap)
    }

    /// Passes bytes to the followers that are there, after [`Log::cap`].
    pub fn push_unrecorded(&self, bytes: Bytes) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        if let Some(unrecorded) = &mut inner.unrecorded {
            unrecorded.push(bytes, &mut inner.share);
            self.changes.tell();
        }
    }

    /// Whether followers are behind in what passes unrecorded: more would push out what even the fastest has not read. What
    /// is recorded never waits for anybody; what is not passes as through a plain proxy, at its client's pace.
    pub fn unrecorded_is_full(&self) -> bool {
        self.lock().unrecorded.as_ref().is_some_and(|unrecorded| unrecorded.unread() > (WINDOW / 2) as u64)
    }

    /// Waits until a follower has read of what passes unrecorded.
    pub async fn unrecorded_taken(&self) {
        self.taken.notified().await;
    }

    /// Ends the turn for followers. The first end stays, and what was held back until then is never shown.
    pub fn end(&self, end: End) {
        let mut inner = self.lock();
        if inner.end.is_none() {
            inner.end = Some(end);
            // It is kept for a while: in no more memory than it needs.
            inner.fold();
            inner.shrink();
            drop(inner);
            self.changes.tell();
        }
    }

    /// The end, once there.
    pub fn ended(&self) -> Option<End> {
        self.lock().end.clone()
    }

    /// Seq of the last block, and bytes recorded so far.
    pub fn recorded(&self) -> (Seq, u64) {
        let inner = self.lock();
        (inner.last, inner.bytes)
    }

    /// Seq of the last block.
    pub fn last(&self) -> Seq {
        self.lock().last
    }

    /// Seq before the first block held: 0 for a whole log.
    pub fn base(&self) -> Seq {
        self.lock().base
    }

    /// Seq up to which followers may read.
    pub fn shown(&self) -> Seq {
        self.lock().shown
    }

    /// Bytes recorded so far, aside lines included.
    pub fn bytes(&self) -> u64 {
        self.lock().bytes
    }

    /// What stands behind the last block: lines that wait for their event or, once the turn is over, never got one.
    pub fn aside(&self) -> Bytes {
        Bytes::copy_from_slice(&self.lock().aside)
    }

    /// What a follower at `position` gets next: at most about `max_bytes` (at least one block) and `max_blocks`.
    pub fn read(&self, position: &mut Position, max_bytes: usize, max_blocks: u64) -> Read {
        let before = position.unrecorded;
        let read = self.lock().read(position, max_bytes, max_blocks);
        if position.unrecorded != before {
            self.taken.notify_one();
        }
        read
    }

    /// The blocks after `after` that fit into `max_bytes` (at least one) for a store; `None` when there is none.
    pub fn batch(&self, after: Seq, max_bytes: usize, max_blocks: u64) -> Option<Batch> {
        let inner = self.lock();
        let upto = inner.last.min(after.saturating_add(max_blocks));
        let (_, last) = inner.slices(after, 0, upto, max_bytes);
        let blocks: Vec<_> = (after + 1..=last).map(|seq| inner.block(seq)).collect();
        let head = inner.head.clone().filter(|_| after == 0);
        (!blocks.is_empty()).then_some(Batch { prev: after, head, blocks })
    }

    /// The first block of the turn, if it is kept.
    pub fn first_block(&self) -> Option<Bytes> {
        let inner = self.lock();
        (inner.base == 0 && inner.last > 0).then(|| inner.block(1).bytes)
    }

    /// Reads one block as an event; `None` if it is not kept.
    pub fn message<T>(&self, seq: Seq, read: impl FnOnce(&Message<'_>) -> T) -> Option<T> {
        let block = {
            let inner = self.lock();
            (inner.base + 1..=inner.last).contains(&seq).then(|| inner.block(seq))?
        };
        Message::parse(&block.bytes).as_ref().map(read)
    }

    /// The backend's own id that was valid at `seq`: the last one up to there, if it is kept and not far back.
    pub fn native_id(&self, seq: Seq) -> Option<Bytes> {
        const BACK: Seq = 256;
        let inner = self.lock();
        let kept = inner.base + 1..=inner.last;
        let newest_first = (seq.saturating_sub(BACK)..=seq).rev().filter(|seq| kept.contains(seq));
        newest_first.map(|seq| inner.block(seq).native_id).find_map(|id| id).filter(|id| !id.is_empty())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds this lock")
    }
}

impl Inner {
    fn charge(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.share.take(bytes);
    }

    /// The event with the aside lines before it.
    fn behind_aside(&mut self, event: Bytes) -> Bytes {
        if self.aside.is_empty() {
            return event;
        }
        let mut block = BytesMut::with_capacity(self.aside.len() + event.len());
        block.extend_from_slice(&std::mem::take(&mut self.aside));
        block.extend_from_slice(&event);
        block.freeze()
    }

    fn append(&mut self, block: Block) {
        self.last += 1;
        if let Some(id) = block.native_id {
            self.share.take(id.len() + NATIVE_ID);
            self.recent_natives.push((self.last, id));
        }
        self.recent_bytes += block.bytes.len();
        self.recent.push(block.bytes);
        if self.recent_bytes >= SEGMENT {
            self.fold();
        }
        if !self.hold_back {
            self.shown = self.last;
        }
    }

    fn fold(&mut self) {
        if !self.recent.is_empty() {
            let first = self.first_recent();
            self.segments.push_back(Segment::copied(first, &self.recent, &self.recent_natives));
            self.recent.clear();
            self.recent_natives.clear();
            self.recent_bytes = 0;
        }
    }

    fn shrink(&mut self) {
        self.recent.shrink_to_fit();
        self.recent_natives.shrink_to_fit();
        self.segments.shrink_to_fit();
    }

    /// Seq of the first recent block, or of the next one if there is none.
    fn first_recent(&self) -> Seq {
        self.last + 1 - self.recent.len() as Seq
    }

    fn read(&mut self, position: &mut Position, max_bytes: usize, max_blocks: u64) -> Read {
        if position.after < self.base {
            let gap = Read::Gap { first: position.after + 1, last: self.base };
            *position = Position::after(self.base);
            return gap;
        }
        if position.after < self.shown {
            let upto = self.shown.min(position.after.saturating_add(max_blocks));
            let (data, last) = self.slices(position.after, position.given, upto, max_bytes);
            position.after = last;
            position.given = 0;
            return Read::Data(data.into_iter().filter(|b| !b.is_empty()).collect());
        }
        if self.shown < self.last || position.after > self.last {
            // A log that will not grow shows no more: not what was held back, nor what a cursor ahead of it waits for.
            return self.end.clone().map_or(Read::Wait, Read::End);
        }
        if position.given < self.aside.len() {
            let rest = Bytes::copy_from_slice(&self.aside[position.given..]);
            position.given = self.aside.len();
            return Read::Data(vec![rest]);
        }
        if let Some(unrecorded) = &mut self.unrecorded
            && let Some(read) = unrecorded.read(position)
        {
            return read;
        }
        self.end.clone().map_or(Read::Wait, Read::End)
    }

    /// Slices that cover the blocks after `after` up to `upto`, the first without its first `given` bytes, within
    /// `max_bytes` but for the first block; and the seq they reach.
    fn slices(&self, after: Seq, given: usize, upto: Seq, max_bytes: usize) -> (Vec<Bytes>, Seq) {
        let mut out = Vec::new();
        let mut room = max_bytes;
        let mut at = after;
        let mut skip = given;
        let folded = self.segments.partition_point(|s| s.last() <= after);
        for segment in self.segments.range(folded..) {
            let most = upto.min(segment.last());
            let fitting = segment.fitting(at + 1, room);
            let stop = if at == after { fitting.max(at + 1) } else { fitting }.min(most);
            if stop > at {
                let whole = segment.slice(at + 1, stop);
                room = room.saturating_sub(whole.len());
                out.push(whole.slice(skip..));
                (at, skip) = (stop, 0);
            }
            if at < segment.last() {
                return (out, at);
            }
        }
        let first_recent = self.first_recent();
        for block in self.recent.iter().skip((at + 1).saturating_sub(first_recent) as usize) {
            if at >= upto || (at > after && block.len() > room) {
                break;
            }
            room = room.saturating_sub(block.len());
            out.push(block.slice(skip..));
            (at, skip) = (at + 1, 0);
        }
        (out, at)
    }

    fn block(&self, seq: Seq) -> Block {
        let first_recent = self.first_recent();
        if seq < first_recent {
            return self.segments[self.segments.partition_point(|s| s.last() < seq)].block(seq);
        }
        let native = self.recent_natives.binary_search_by_key(&seq, |(s, _)| *s).ok();
        Block {
            bytes: self.recent[(seq - first_recent) as usize].clone(),
            native_id: native.map(|at| self.recent_natives[at].1.clone()),
        }
    }
}
