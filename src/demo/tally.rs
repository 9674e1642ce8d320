//! How many turns the backend began, finished and aborted, in total and per chat: what the page shows as the backend's
//! side of the story.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// Chats kept apart; the least recently used one is forgotten first. The totals count all.
const CHATS: usize = 256;

/// Counters of the backend's turns. `started = finished + aborted + running` holds at every moment.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Counts {
    turns_started: u64,
    turns_finished: u64,
    /// The client left before the last event.
    turns_aborted: u64,
    /// Events written to a client's connection.
    events_sent: u64,
}

/// All counters of one backend.
#[derive(Default)]
pub(super) struct Tally(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    total: Counts,
    /// Least recently used first.
    chats: VecDeque<(String, Counts)>,
}

/// The answer to `GET /api/stats`.
#[derive(Serialize)]
pub(super) struct Report {
    #[serde(flatten)]
    total: Counts,
    chats: BTreeMap<String, Counts>,
}

/// A turn that runs. Dropped without [`RunningTurn::finish`], it counts as aborted, whichever way its task ended.
pub(super) struct RunningTurn {
    tally: Arc<Tally>,
    chat: String,
    number: u64,
    finished: bool,
}

impl Tally {
    /// Counts a new turn of `chat`.
    pub(super) fn start(self: &Arc<Self>, chat: String) -> RunningTurn {
        let mut inner = self.lock();
        inner.total.turns_started += 1;
        let known = inner.chats.iter().position(|(id, _)| *id == chat);
        let mut counts = known.and_then(|at| inner.chats.remove(at)).map_or_else(Counts::default, |(_, counts)| counts);
        counts.turns_started += 1;
        if inner.chats.len() == CHATS {
            inner.chats.pop_front();
        }
        inner.chats.push_back((chat.clone(), counts));
        RunningTurn { tally: Arc::clone(self), chat, number: counts.turns_started, finished: false }
    }

    /// All counters as they stand.
    pub(super) fn report(&self) -> Report {
        let inner = self.lock();
        Report { total: inner.total, chats: inner.chats.iter().cloned().collect() }
    }

    fn add(&self, chat: &str, count: impl Fn(&mut Counts)) {
        let mut inner = self.lock();
        count(&mut inner.total);
        if let Some((_, counts)) = inner.chats.iter_mut().rev().find(|(id, _)| id == chat) {
            count(counts);
        }
    }

    /// Counters stay usable whatever happened to the thread that held them.
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RunningTurn {
    /// Which turn of its chat this is, from 1.
    pub(super) fn number(&self) -> u64 {
        self.number
    }

    /// An event was written.
    pub(super) fn event_sent(&self) {
        self.tally.add(&self.chat, |counts| counts.events_sent += 1);
    }

    /// The client has the whole answer.
    pub(super) fn finish(mut self) {
        self.finished = true;
        self.tally.add(&self.chat, |counts| counts.turns_finished += 1);
    }
}

impl Drop for RunningTurn {
    fn drop(&mut self) {
        if !self.finished {
            self.tally.add(&self.chat, |counts| counts.turns_aborted += 1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_turn_is_aborted_and_a_finished_one_is_not() {
        let tally = Arc::new(Tally::default());
        let first = tally.start("a".into());
        first.event_sent();
        first.finish();
        assert_eq!(tally.start("a".into()).number(), 2);
        let expected = Counts { turns_started: 2, turns_finished: 1, turns_aborted: 1, events_sent: 1 };
        let report = tally.report();
        assert_eq!((report.total, report.chats["a"]), (expected, expected));
    }

    #[test]
    fn old_chats_are_forgotten_and_the_totals_keep_them() {
        let tally = Arc::new(Tally::default());
        let running = tally.start("oldest".into());
        for n in 0..CHATS {
            tally.start(format!("chat {n}")).finish();
        }
        running.finish();
        let report = tally.report();
        assert_eq!(report.chats.len(), CHATS);
        assert!(!report.chats.contains_key("oldest"));
        assert_eq!(report.total.turns_finished, CHATS as u64 + 1);
    }
}
