//! What happens to one turn on its owner: bytes, stops, limits, the end; and what the store must be told.
//!
//! A state machine without I/O: [`Recorder::handle`] takes what happened, [`Recorder::next_call`] says what to ask of the
//! store, [`Recorder::next_wake`] when to look again. `node` drives it.

#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;

use super::{
    dialect::{self, Dialect, Silent, Terminal},
    durability::{Durability, Keeping, Notice, StoreCall, StoreReply, Verdict},
    log::{Budget, Log},
    record::{Cap, End, Millis, Outcome, Wish, millis},
};
use crate::sse::{Piece, Seq, Stamper, TurnId};

/// What a route allows a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Longest life.
    pub max_turn: Duration,
    /// Longest silence of the upstream.
    pub max_silence: Duration,
    /// What happens when no follower is left.
    pub detached: Detached,
    /// Largest event in bytes; a larger one ends recording.
    pub max_event: usize,
    /// Largest turn in bytes; a larger one ends recording.
    pub max_turn_bytes: u64,
    /// How long the store may take to learn of the end before the owner gives up.
    pub give_up: Duration,
    /// How long blocks are gathered before the store is given them together. Below the store's deadline.
    pub flush_window: Duration,
}

/// What happens to a turn that nobody follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Detached {
    /// It is stopped after this time, as [`Outcome::Expired`].
    Expire(Duration),
    /// It is stopped after this time (zero: at once), as [`Outcome::Cancelled`]: the route wants a client's leaving to
    /// count as its stop.
    Cancel(Duration),
}

/// Something that happened to the turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    /// The upstream sent bytes.
    Chunk(Bytes),
    /// The upstream ended its answer.
    Eof,
    /// The upstream broke; the word says how.
    Broken(Arc<str>),
    /// The turn is to end now, like this.
    Stop(Outcome, &'static str),
    /// The backend has agreed to stop: the turn is to end as cancelled, in the backend's own words if it finds them soon.
    StopSoon,
    /// Whether anybody follows the turn.
    Followed(bool),
    /// The reply to the store call in flight.
    Reply(StoreReply),
    /// Time has passed.
    Tick,
}

/// How long a backend that has agreed to stop may take to end its answer.
const STOP_GRACE: Millis = 5_000;

/// How long a backend may be silent behind an event that nothing follows, before the turn is over without its end.
const LINGER: Millis = 5_000;

/// See the module.
pub struct Recorder {
    log: Arc<Log>,
    budget: Arc<Budget>,
    limits: Limits,
    dialect: &'static dyn Dialect,
    /// `None` once recording is over.
    stamper: Option<Stamper>,
    pieces: Vec<Piece>,
    keeping: Keeping,
    started_at: Millis,
    last_byte_at: Millis,
    /// Whether the events before the present silence were asked if anything is to follow; the answer was yes.
    asked_in_silence: bool,
    /// When the turn is cancelled, if its backend has not ended it by then.
    stops_at: Option<Millis>,
    detached_since: Option<Millis>,
    /// The terminal state, as far as this owner decides it.
    end: Option<End>,
    /// Whether the store and the followers know the end.
    done: bool,
}

impl Recorder {
    /// A recorder of an answer whose header is there. `in_store`: the store has claimed the turn already.
    pub fn new(
        id: TurnId,
        log: Arc<Log>,
        budget: Arc<Budget>,
        limits: Limits,
        durability: Durability,
        in_store: bool,
        now: Millis,
    ) -> Self {
        Self {
            log,
            dialect: &Silent,
            asked_in_silence: false,
            stops_at: None,
            budget,
            stamper: Some(Stamper::new(id, limits.max_event)),
            pieces: Vec::new(),
            keeping: Keeping::new(durability, millis(limits.flush_window), in_store),
            started_at: now,
            last_byte_at: now,
            detached_since: None,
            end: None,
            done: false,
            limits,
        }
    }

    /// The turn is in this dialect. To be said before anything else.
    #[must_use]
    pub fn speaking(mut self, dialect: &'static dyn Dialect) -> Self {
        self.dialect = dialect;
        self.stamper = self.stamper.map(|stamper| stamper.ids_first(dialect.ids_go_first()));
        self
    }

    /// Takes what happened at `now`.
    pub fn handle(&mut self, now: Millis, input: Input) {
        if self.done {
            return;
        }
        match input {
            Input::Chunk(bytes) => self.chunk(now, bytes),
            Input::Eof => self.eof(now),
            Input::Broken(reason) => self.broken(now, reason),
            Input::Stop(outcome, reason) => self.end(now, outcome, reason.into()),
            Input::StopSoon => self.stop_soon(now),
            Input::Followed(true) => self.detached_since = None,
            Input::Followed(false) => {
                self.detached_since.get_or_insert(now);
            }
            Input::Reply(reply) => self.reply(now, reply),
            Input::Tick => {}
        }
        self.check_clocks(now);
    }

    /// The next store call, if one is due; its reply comes back as [`Input::Reply`].
    pub fn next_call(&mut self, now: Millis) -> Option<StoreCall> {
        if self.done {
            return None;
        }
        self.keeping.next_call(now, &self.log, self.end.as_ref())
    }

    /// When a [`Input::Tick`] is due, if nothing else happens.
    pub fn next_wake(&self) -> Option<Millis> {
        if self.done {
            return None;
        }
        let clock = match &self.end {
            Some(_) => self.gives_up_at(),
            None => self.limits_at().map(|(at, ..)| at).into_iter().fold(self.asks_at(), Millis::min),
        };
        Some(clock.min(self.keeping.next_wake().unwrap_or(Millis::MAX)))
    }

    /// Whether the upstream is still wanted.
    pub fn wants_upstream(&self) -> bool {
        self.end.is_none() && !self.done
    }

    /// Whether nothing is left to do.
    pub fn done(&self) -> bool {
        self.done
    }

    /// Whether followers are served from memory alone because the store is behind.
    pub fn degraded(&self) -> bool {
        self.keeping.degraded()
    }

    /// The store has the log up to this seq.
    pub fn durable(&self) -> Seq {
        self.keeping.durable()
    }

    /// Bytes of an event that is not complete: they will be recorded together with what completes it.
    pub fn held(&self) -> usize {
        self.stamper.as_ref().map_or(0, Stamper::held)
    }

    /// Since when nobody follows the turn.
    pub fn detached_since(&self) -> Option<Millis> {
        self.detached_since
    }

    /// How far the store is, for a model that compares states.
    #[cfg(test)]
    pub(super) fn keeping(&self) -> &impl std::fmt::Debug {
        &self.keeping
    }

    /// What happened that an operator counts.
    pub fn take_notices(&mut self) -> Vec<Notice> {
        self.keeping.take_notices()
    }

    fn chunk(&mut self, now: Millis, bytes: Bytes) {
        if self.end.is_some() {
            return;
        }
        self.last_byte_at = now;
        self.asked_in_silence = false;
        let Some(stamper) = &mut self.stamper else {
            self.log.push_unrecorded(bytes);
            return;
        };
        let fed = stamper.feed(bytes, &mut self.pieces);
        self.push_pieces(now);
        if fed.is_err() {
            self.cap(Cap::MaxEvent);
        } else if self.log.bytes() > self.limits.max_turn_bytes {
            self.cap(Cap::MaxTurnBytes);
        } else if self.budget.exceeded_by(0) {
            self.cap(Cap::MemoryLimit);
        }
    }

    fn push_pieces(&mut self, now: Millis) {
        if self.pieces.is_empty() {
            return;
        }
        for piece in self.pieces.drain(..) {
            match piece {
                Piece::Aside(lines) => self.log.push_aside(lines),
                Piece::Event(event) => {
                    self.keeping.pushed(now);
                    self.log.push_event(event.bytes, event.native_id);
                }
            }
        }
        self.log.wake();
    }

    /// Ends recording, not the turn: the live client is not harmed.
    fn cap(&mut self, cap: Cap) {
        let Some(stamper) = self.stamper.take() else { return };
        self.keeping.note(Notice::Capped(cap));
        self.log.cap(cap);
        self.log.push_unrecorded(stamper.unread());
    }

    fn eof(&mut self, now: Millis) {
        if self.end.is_some() {
            return;
        }
        if let Some(stamper) = self.stamper.take() {
            let tail = stamper.finish(&mut self.pieces);
            self.push_pieces(now);
            if !tail.is_empty() {
                self.log.push_aside(tail);
                self.log.wake();
            }
        }
        if self.stops_at.is_some() {
            return self.stopped(now);
        }
        match self.terminal().and_then(|terminal| terminal.outcome) {
            Some(Outcome::Failed) => self.end(now, Outcome::Failed, End::ERROR_EVENT.into()),
            Some(outcome) => self.end(now, outcome, "eof".into()),
            None => self.end(now, Outcome::Completed, "eof".into()),
        }
    }

    /// A backend that breaks behind its last event has said all, and one that was told to stop may do it in any way.
    fn broken(&mut self, now: Millis, reason: Arc<str>) {
        if self.stops_at.is_some() {
            return self.stopped(now);
        }
        match self.terminal() {
            Some(terminal) if terminal.last => self.last_event_seen(now, terminal),
            _ => self.end(now, Outcome::Failed, reason),
        }
    }

    fn last_event_seen(&mut self, now: Millis, terminal: Terminal) {
        match terminal.outcome {
            Some(Outcome::Failed) => self.end(now, Outcome::Failed, End::ERROR_EVENT.into()),
            outcome => self.end(now, outcome.unwrap_or(Outcome::Completed), "last_event".into()),
        }
    }

    /// What the events say of the end; nothing once they pass unrecorded.
    fn terminal(&self) -> Option<Terminal> {
        if self.log.capped().is_some() {
            return None;
        }
        dialect::terminal(self.dialect, &self.log)
    }

    fn stop_soon(&mut self, now: Millis) {
        self.stops_at.get_or_insert(now.saturating_add(STOP_GRACE));
    }

    fn stopped(&mut self, now: Millis) {
        self.end(now, Wish::StopSoon.outcome(), Wish::StopSoon.reason().into());
    }

    /// The first end counts.
    fn end(&mut self, now: Millis, outcome: Outcome, reason: Arc<str>) {
        self.end.get_or_insert(End { outcome, reason, at: now });
        self.keeping.ending(now);
    }

    fn reply(&mut self, now: Millis, reply: StoreReply) {
        match self.keeping.reply(now, reply, &self.log) {
            Verdict::GoOn => {}
            Verdict::Stop(Wish::StopSoon) => self.stop_soon(now),
            Verdict::Stop(wish) => self.end(now, wish.outcome(), wish.reason().into()),
            Verdict::Fenced => self.finish(End { outcome: Outcome::Interrupted, reason: "fenced".into(), at: now }),
            Verdict::Ended(Some(other)) => self.finish(other),
            Verdict::Ended(None) => {
                let end = self.end.clone().expect("a finish is only asked for with an end");
                self.finish(end);
            }
        }
    }

    /// Blocks that a store refused to take stay unseen: nobody could replay them.
    fn finish(&mut self, end: End) {
        self.end = Some(end.clone());
        self.done = true;
        self.log.end(end);
    }

    fn check_clocks(&mut self, now: Millis) {
        if self.done {
            return;
        }
        let passed = self.limits_at().into_iter().find(|(at, ..)| now >= *at);
        if let Some((_, outcome, reason)) = passed.filter(|_| self.end.is_none()) {
            self.end(now, outcome, reason.into());
        }
        if self.end.is_none() && now >= self.asks_at() {
            self.asked_in_silence = true;
            if let Some(terminal) = self.terminal().filter(|terminal| terminal.last) {
                self.last_event_seen(now, terminal);
            }
        }
        self.keeping.check_deadline(now, &self.log);
        let Some(end) = self.end.clone() else { return };
        let give_up = now >= self.gives_up_at();
        if give_up || self.keeping.degraded() {
            // The store is away: followers of this node need not wait for it to hear of the end.
            self.keeping.degrade(&self.log);
            self.log.end(end);
        }
        if give_up {
            self.keeping.note(Notice::Abandoned);
            self.done = true;
        }
    }

    /// When the limits end the turn, and how.
    fn limits_at(&self) -> [(Millis, Outcome, &'static str); 4] {
        let Limits { max_turn, max_silence, detached, .. } = &self.limits;
        let (after, outcome, reason) = match *detached {
            Detached::Expire(after) => (after, Outcome::Expired, "max_detached"),
            Detached::Cancel(after) => (after, Outcome::Cancelled, "client_left"),
        };
        let detached = self.detached_since.map_or(Millis::MAX, |since| since.saturating_add(millis(after)));
        [
            (self.stops_at.unwrap_or(Millis::MAX), Wish::StopSoon.outcome(), Wish::StopSoon.reason()),
            (detached, outcome, reason),
            (self.started_at.saturating_add(millis(*max_turn)), Outcome::Expired, "max_turn"),
            (self.last_byte_at.saturating_add(millis(*max_silence)), Outcome::Failed, "max_silence"),
        ]
    }

    /// When a silent backend's last events are asked whether anything is to follow: once in each silence.
    fn asks_at(&self) -> Millis {
        if self.asked_in_silence || self.log.last() == 0 {
            return Millis::MAX;
        }
        self.last_byte_at.saturating_add(LINGER)
    }

    fn gives_up_at(&self) -> Millis {
        let ended_at = self.end.as_ref().map_or(Millis::MAX, |end| end.at);
        ended_at.saturating_add(millis(self.limits.give_up))
    }
}
