//! How far the store has followed the log of a running turn, and what to ask of it next.
//!
//! One call is in flight at a time. Whatever arrived meanwhile goes into the next one (group commit), and every call can be
//! repeated: a store compares epoch and last seq before it writes. A store that forgot blocks, or the whole turn, is
//! given them again from the log.

use std::time::Duration;

use super::{
    log::{Batch, Log},
    record::{Cap, End, Millis, Wish, millis},
};
use crate::sse::Seq;

/// How a store follows the log of a running turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The log in memory is the record: nothing has to be appended.
    Held,
    /// A block is shown to followers once the store has it; after the deadline the turn goes on from memory, marked
    /// degraded.
    Acked {
        /// How long a block may wait for the store.
        deadline: Duration,
    },
    /// A block is shown at once and stored as soon as possible.
    Behind,
}

/// Reply to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Appended {
    /// The blocks are kept.
    Applied {
        /// Somebody asked for the turn to be stopped.
        stop: Option<Wish>,
    },
    /// The store's last block is another than the batch follows on: nothing was written. Lower than what was
    /// acknowledged before: the store forgot (failover); higher: an earlier attempt got through.
    At(Seq),
    /// Another owner has the turn, or it ended: nothing was written.
    Fenced,
    /// The store does not know the turn (expired, evicted, flushed).
    Gone,
}

/// Reply to a finish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Finished {
    /// The terminal state is written.
    Applied,
    /// Some other end was written before; it stays.
    Already(End),
    /// The store's last block is not the one the end was to follow: nothing was written.
    At(Seq),
    /// The store does not know the turn.
    Gone,
}

/// What the store is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreCall {
    /// Claim the turn (again).
    Start,
    /// Keep the answer's header.
    SetHead,
    /// Keep these blocks.
    Append(Batch),
    /// Write the terminal state.
    Finish(End),
}

/// What came of a [`StoreCall`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreReply {
    /// The turn is claimed.
    Started,
    /// The header is kept.
    HeadSet,
    /// Reply to an append.
    Appended(Appended),
    /// Reply to a finish.
    Finished(Finished),
    /// The claim was refused: somebody else owns the turn.
    Fenced,
    /// No reply: the call may or may not have been carried out.
    Unavailable,
    /// The store has no room.
    Full,
}

/// Something the operator counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Notice {
    /// The store is behind its deadline: followers are served from memory alone.
    Degraded,
    /// The store has everything again.
    Restored,
    /// The store had forgotten blocks; they are being written again.
    Repairing {
        /// How many blocks.
        blocks: Seq,
    },
    /// Recording ended before the turn.
    Capped(Cap),
    /// Another owner took the turn over.
    Fenced,
    /// The turn ended and the store could not be told in time: it is gone with this process.
    Abandoned,
}

/// Largest batch in bytes: keeps one append below 0.2 ms of Redis time and within hosted services' request limits.
const BATCH_BYTES: usize = 256 << 10;
/// Largest batch in blocks.
const BATCH_BLOCKS: u64 = 1024;
/// Waits between attempts while the store is unavailable, in milliseconds.
const BACKOFF: (Millis, Millis) = (50, 500);
/// Wait while the store is full, in milliseconds.
const FULL: Millis = 1_000;

/// A deadline that was seen so much too late, in milliseconds, was missed by this process, which stood still, and not by the
/// store. Less than a lease: who stood still for longer may have lost the turn, and must hear of it before it shows more.
const STOOD_STILL: Millis = 1_000;

/// How far a store of [`Durability::Behind`] may be behind before the operator is told, in milliseconds.
const BEHIND: Millis = 2_000;

/// See the module.
#[derive(Debug)]
pub(super) struct Keeping {
    policy: Durability,
    /// How long blocks are gathered before they are written together.
    window: Millis,
    /// Whether the store has claimed the turn.
    started: bool,
    head_kept: bool,
    /// The store has the log up to here.
    durable: Seq,
    in_flight: bool,
    /// Last seq of the append in flight.
    sent: Seq,
    /// Whether that was the end of the log when it was sent.
    sent_all: bool,
    sent_at: Millis,
    /// Since when something is asked for that the store has not answered.
    asked_since: Option<Millis>,
    /// Since when the oldest block that the store lacks waits for it, or earlier.
    unsaved_since: Option<Millis>,
    /// The same of the oldest block behind the append in flight.
    newer_since: Option<Millis>,
    /// Since when the end waits to be written.
    ending_since: Option<Millis>,
    /// When to ask again after a call that came to nothing.
    retry_at: Option<Millis>,
    backoff: Millis,
    degraded: bool,
    /// Whether the log holds back what the store lacks. While degraded: only to let the store catch up.
    holding: bool,
    finished: bool,
    notices: Vec<Notice>,
}

/// What a reply means for the turn.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    GoOn,
    Stop(Wish),
    /// Another owner has the turn.
    Fenced,
    /// The terminal state is written, and it is this one if `Some`.
    Ended(Option<End>),
}

impl Keeping {
    /// `started`: the store took the claim before the upstream was asked.
    pub(super) fn new(policy: Durability, window: Millis, started: bool) -> Self {
        Self {
            policy,
            window,
            started,
            head_kept: false,
            durable: 0,
            in_flight: false,
            sent: 0,
            sent_all: false,
            sent_at: 0,
            asked_since: None,
            unsaved_since: None,
            newer_since: None,
            ending_since: None,
            retry_at: None,
            backoff: 0,
            degraded: false,
            holding: matches!(policy, Durability::Acked { .. }),
            finished: false,
            notices: Vec::new(),
        }
    }

    /// Blocks were pushed to the log.
    pub(super) fn pushed(&mut self, now: Millis) {
        if self.policy == Durability::Held {
            return;
        }
        if self.in_flight && self.unsaved_since.is_some() {
            self.newer_since.get_or_insert(now);
        } else {
            self.unsaved_since.get_or_insert(now);
        }
    }

    /// The end is decided.
    pub(super) fn ending(&mut self, now: Millis) {
        self.ending_since.get_or_insert(now);
    }

    /// The next call, if one is due. `end`: the turn is over and this is to be its terminal state.
    pub(super) fn next_call(&mut self, now: Millis, log: &Log, end: Option<&End>) -> Option<StoreCall> {
        if self.in_flight || self.finished || self.retry_at.is_some_and(|at| now < at) {
            return None;
        }
        self.retry_at = None;
        let call = self.due(log, end)?;
        if let StoreCall::Append(batch) = &call {
            if end.is_none() && self.gathered_at().is_some_and(|at| now < at) {
                return None;
            }
            self.sent = batch.last();
            self.sent_all = self.sent == log.last();
        }
        self.in_flight = true;
        self.sent_at = now;
        self.asked_since.get_or_insert(now);
        Some(call)
    }

    fn due(&self, log: &Log, end: Option<&End>) -> Option<StoreCall> {
        if !self.started {
            return Some(StoreCall::Start);
        }
        if !self.head_kept && log.head().is_some() {
            return Some(StoreCall::SetHead);
        }
        if self.policy != Durability::Held
            && let Some(batch) = log.batch(self.durable, BATCH_BYTES, BATCH_BLOCKS)
        {
            return Some(StoreCall::Append(batch));
        }
        end.cloned().map(StoreCall::Finish)
    }

    /// Takes the reply to the call in flight.
    pub(super) fn reply(&mut self, now: Millis, reply: StoreReply, log: &Log) -> Verdict {
        self.in_flight = false;
        if !matches!(reply, StoreReply::Unavailable | StoreReply::Full) {
            self.asked_since = None;
        }
        // But for an append that was applied, what is in the log now waits as long as the oldest of it.
        let newer = self.newer_since.take();
        match reply {
            StoreReply::Started => self.started = true,
            StoreReply::HeadSet => self.head_kept = true,
            StoreReply::Appended(Appended::Applied { stop }) => {
                self.backoff = 0;
                if self.sent_all {
                    self.unsaved_since = newer;
                }
                self.advance(now, self.sent, log);
                if let Some(wish) = stop {
                    return Verdict::Stop(wish);
                }
            }
            StoreReply::Appended(Appended::At(seq)) | StoreReply::Finished(Finished::At(seq)) => {
                return self.at(now, seq, log);
            }
            StoreReply::Appended(Appended::Gone) | StoreReply::Finished(Finished::Gone) => {
                self.forgotten(now, 0);
                self.started = false;
                self.head_kept = false;
            }
            StoreReply::Appended(Appended::Fenced) | StoreReply::Fenced => return self.fenced(),
            StoreReply::Finished(Finished::Applied) => return self.ended(None),
            StoreReply::Finished(Finished::Already(end)) => return self.ended(Some(end)),
            StoreReply::Unavailable => self.pause(now),
            StoreReply::Full => {
                self.retry_at = Some(now + FULL);
                // What has no room for a new turn will not have it soon.
                if !self.started {
                    self.degrade(log);
                }
            }
        }
        Verdict::GoOn
    }

    /// The store's last block is `seq`, and that was not expected.
    fn at(&mut self, now: Millis, seq: Seq, log: &Log) -> Verdict {
        if seq > log.last() {
            return self.fenced();
        }
        if seq > self.durable {
            self.advance(now, seq, log);
        } else {
            self.forgotten(now, seq);
        }
        Verdict::GoOn
    }

    /// The store has blocks up to `seq` only. A store that forgets again and again is not asked without a pause.
    fn forgotten(&mut self, now: Millis, seq: Seq) {
        if seq < self.durable {
            self.notices.push(Notice::Repairing { blocks: self.durable - seq });
            self.durable = seq;
            self.unsaved_since.get_or_insert(now);
        }
        self.pause(now);
    }

    fn pause(&mut self, now: Millis) {
        self.backoff = (self.backoff * 2).clamp(BACKOFF.0, BACKOFF.1);
        self.retry_at = Some(now + self.backoff);
    }

    fn fenced(&mut self) -> Verdict {
        self.notices.push(Notice::Fenced);
        self.finished = true;
        Verdict::Fenced
    }

    fn ended(&mut self, other: Option<End>) -> Verdict {
        self.finished = true;
        if self.degraded {
            self.restore();
        }
        Verdict::Ended(other)
    }

    fn advance(&mut self, now: Millis, seq: Seq, log: &Log) {
        self.durable = seq;
        log.show(seq);
        if seq == log.last() {
            self.unsaved_since = None;
        }
        if self.sent_all && seq >= self.sent {
            self.catch_up(now, log);
        }
    }

    /// Leaves the degraded state once the store has all that followers were shown. For that, what comes meanwhile is
    /// held back again, if the store answers in time and has nearly everything.
    fn catch_up(&mut self, now: Millis, log: &Log) {
        let slow = now >= self.sent_at.saturating_add(self.patience());
        if !self.degraded || slow || self.ending_since.is_some() {
            return;
        }
        if matches!(self.policy, Durability::Acked { .. }) {
            self.hold(true, log);
        }
        if !self.holding || self.durable >= log.shown() {
            self.restore();
        }
    }

    fn restore(&mut self) {
        self.degraded = false;
        self.notices.push(Notice::Restored);
    }

    fn hold(&mut self, hold: bool, log: &Log) {
        if self.holding != hold {
            self.holding = hold;
            log.set_hold_back(hold);
        }
    }

    /// Goes on from memory when the store has kept something waiting for longer than the deadline.
    pub(super) fn check_deadline(&mut self, now: Millis, log: &Log) {
        let Some(late) = self.deadline().and_then(|at| now.checked_sub(at)) else { return };
        if late < STOOD_STILL || self.policy == Durability::Behind {
            return self.degrade(log);
        }
        // The waits begin anew: the store was not asked meanwhile, or its answer not heard.
        for since in [&mut self.asked_since, &mut self.unsaved_since, &mut self.newer_since, &mut self.ending_since] {
            *since = since.map(|_| now);
        }
    }

    /// Goes on from memory, wherever the store is.
    pub(super) fn degrade(&mut self, log: &Log) {
        if !self.degraded {
            self.degraded = true;
            self.notices.push(Notice::Degraded);
        }
        self.hold(false, log);
    }

    /// When [`Keeping::check_deadline`] or [`Keeping::next_call`] has something to do, if nothing else happens.
    pub(super) fn next_wake(&self) -> Option<Millis> {
        if self.finished {
            return None;
        }
        let gathered = if self.in_flight || self.retry_at.is_some() { None } else { self.gathered_at() };
        [self.retry_at, self.deadline(), gathered].into_iter().flatten().min()
    }

    /// When the blocks that the store lacks have been gathered for long enough.
    fn gathered_at(&self) -> Option<Millis> {
        let since = self.unsaved_since.filter(|_| self.window > 0)?;
        Some(since.saturating_add(self.window))
    }

    fn deadline(&self) -> Option<Millis> {
        if self.policy == Durability::Held || (self.degraded && !self.holding) {
            return None;
        }
        let waiting = [self.asked_since, self.unsaved_since, self.ending_since].into_iter().flatten().min()?;
        Some(waiting.saturating_add(self.patience()))
    }

    fn patience(&self) -> Millis {
        match self.policy {
            Durability::Acked { deadline } => millis(deadline),
            Durability::Held | Durability::Behind => BEHIND,
        }
    }

    pub(super) fn durable(&self) -> Seq {
        self.durable
    }

    pub(super) fn degraded(&self) -> bool {
        self.degraded
    }

    pub(super) fn note(&mut self, notice: Notice) {
        self.notices.push(notice);
    }

    pub(super) fn take_notices(&mut self) -> Vec<Notice> {
        std::mem::take(&mut self.notices)
    }
}
