//! The turns of this node that ended a moment ago, with their logs. A replica that takes over may lack the end of such a
//! turn, or all of it, and its recorder is no longer there to notice.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use tokio::time::Instant;

use crate::turn::{Budget, End, Log, TurnRecord};

/// How long an ended turn is kept, and how long if Redis has not been asked since whether it has everything.
pub(super) const KEPT: (Duration, Duration) = (Duration::from_secs(15), Duration::from_secs(300));

/// See the module.
#[derive(Debug, Default)]
pub(super) struct EndedTurns {
    /// In the order of their ends. The logs count against the node's budget like all logs.
    turns: Mutex<VecDeque<Ended>>,
}

/// A turn whose end Redis has acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    /// As it was claimed.
    pub(super) record: TurnRecord,
    pub(super) log: Arc<Log>,
    pub(super) end: End,
    since: Instant,
}

impl EndedTurns {
    pub(super) fn keep(&self, record: TurnRecord, log: Arc<Log>, end: End) {
        self.lock().push_back(Ended { record, log, end, since: Instant::now() });
    }

    pub(super) fn all(&self) -> Vec<Ended> {
        self.lock().iter().cloned().collect()
    }

    /// Drops what ended longer ago than this.
    pub(super) fn drop_older(&self, age: Duration) {
        let mut turns = self.lock();
        while turns.front().is_some_and(|turn| turn.since.elapsed() >= age) {
            turns.pop_front();
        }
    }

    /// Drops the oldest until so many bytes are free, or none is left.
    pub(super) fn shed(&self, budget: &Budget, bytes: u64) {
        let mut turns = self.lock();
        while budget.exceeded_by(bytes) && turns.pop_front().is_some() {}
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Ended>> {
        self.turns.lock().expect("no code panics while it holds this lock")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        store::conformance::{end, record},
        turn::{NodeId, Outcome},
    };

    #[test]
    fn the_oldest_are_dropped_first_and_only_as_many_as_are_needed() {
        let budget = Budget::new(100);
        let turns = EndedTurns::default();
        let mut ids = Vec::new();
        for _ in 0..3 {
            let log = Log::new(budget.clone(), false);
            log.push_event(vec![b'x'; 30].into(), None);
            let record = record(&NodeId("node".into()), None);
            ids.push(record.id);
            turns.keep(record, log, end(Outcome::Completed, "eof"));
        }
        turns.shed(&budget, 5);
        assert_eq!(turns.all().len(), 3, "there was room");
        turns.shed(&budget, 50);
        let left: Vec<_> = turns.all().iter().map(|turn| turn.record.id).collect();
        assert_eq!((left, budget.used()), (vec![ids[2]], 30));
        turns.drop_older(KEPT.0);
        assert_eq!(turns.all().len(), 1);
        turns.drop_older(Duration::ZERO);
        assert_eq!((turns.all().len(), budget.used()), (0, 0));
    }
}
