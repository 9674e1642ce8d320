//! Memory for the logs of a node: who gives it up when it runs short, and in which order.
//!
//! First what has ended, the oldest first: it can be read again by nobody or, with Redis, there. Then turns that run and
//! that nobody has followed for a while, the longest alone first: to record them no further would lose their rest too,
//! and they would go on costing money. Only then new turns are refused, and recordings end before their turns.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use super::{Node, live::LiveTurn};
use crate::{
    sse::TurnId,
    turn::{Budget, Millis, Outcome},
};

/// The share of the limit that is kept free for what runs: a turn that is told to end needs a moment for it, and
/// meanwhile others go on recording.
const RESERVE: u64 = 16;
/// The share of the limit that is freed beyond what is needed now when turns are told to end: so that the next chunks
/// find room, and the turns are not looked through for each of them.
const AHEAD: u64 = 32;
/// A turn whose client has just left is kept: who comes back by itself is back by then.
const ALONE: Millis = 10_000;
/// How often the running turns are looked through for some to give up.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Room {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Ended turns whose logs linger here for their followers, in the order of their ends.
    lingering: VecDeque<TurnId>,
    looked_at: Option<Instant>,
}

impl Room {
    /// Notes that the log of an ended turn stays for a while.
    pub(super) fn lingers(&self, turn: TurnId) {
        self.lock().lingering.push_back(turn);
    }

    /// Notes that it is gone.
    pub(super) fn gone(&self, turn: &TurnId) {
        // It is among the first: all linger equally long.
        let mut inner = self.lock();
        if let Some(at) = inner.lingering.iter().position(|id| id == turn) {
            inner.lingering.remove(at);
        }
    }

    fn oldest_lingering(&self) -> Option<TurnId> {
        self.lock().lingering.pop_front()
    }

    /// Whether the running turns are to be looked through now.
    fn look(&self) -> bool {
        let now = Instant::now();
        let mut inner = self.lock();
        let due = inner.looked_at.is_none_or(|at| now >= at + LOOK_AGAIN);
        if due {
            inner.looked_at = Some(now);
        }
        due
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Node {
    /// Whether a new turn would use what is reserved for those that run.
    pub(super) fn short_of_memory(&self) -> bool {
        self.budget.exceeded_by(reserve(&self.budget))
    }

    /// Gives up turns until `bytes` more fit, or nothing may be given up. What runs gives its memory back by and by.
    pub(super) fn make_room(&self, bytes: u64) {
        self.metrics.buffered_bytes.set(self.budget.used().try_into().unwrap_or(i64::MAX));
        let bytes = bytes.saturating_add(reserve(&self.budget));
        if !self.budget.exceeded_by(bytes) {
            return;
        }
        // The store has these, too, and serves them from now on.
        while self.budget.exceeded_by(bytes)
            && let Some(turn) = self.room.oldest_lingering()
        {
            self.live().remove(&turn);
        }
        let ended = self.store.shed(bytes);
        if ended > 0 {
            self.metrics.turns_shed.with_label_values(&["ended"]).inc_by(ended as u64);
        }
        if self.budget.exceeded_by(bytes) && self.room.look() {
            self.give_up_detached(bytes);
        }
    }

    fn give_up_detached(&self, bytes: u64) {
        let alone_before = self.clock.now().saturating_sub(ALONE);
        let limit = self.budget.limit();
        let mut missing = (self.budget.used() + bytes + limit / AHEAD).saturating_sub(limit);
        let mut alone = Vec::new();
        for turn in self.live().values() {
            if turn.given_up() {
                missing = missing.saturating_sub(turn.log().bytes());
            } else if let Some(since) = turn.detached_since().filter(|since| *since <= alone_before)
                && turn.log().ended().is_none()
            {
                alone.push((since, turn.clone()));
            }
        }
        alone.sort_by_key(|(since, _)| *since);
        let mut turns = 0u64;
        for (_, turn) in alone {
            if missing == 0 {
                break;
            }
            missing = missing.saturating_sub(turn.log().bytes());
            turn.give_up(Outcome::Expired, "memory_limit");
            turns += 1;
        }
        if turns > 0 {
            self.metrics.turns_shed.with_label_values(&["detached"]).inc_by(turns);
            tracing::warn!(
                turns,
                "memory for logs runs short: stopping the turns that nobody has followed for longest"
            );
        }
    }

    /// Takes an ended turn off the books, and off the list once its followers had time to read the rest here.
    pub(super) fn turn_over(self: &Arc<Self>, turn: &Arc<LiveTurn>) {
        self.running.send_modify(|n| *n -= 1);
        let (node, id) = (self.clone(), turn.admitted().id);
        if self.settings.linger.is_zero() {
            node.live().remove(&id);
        } else if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            self.room.lingers(id);
            runtime.spawn(async move {
                tokio::time::sleep(node.settings.linger).await;
                node.room.gone(&id);
                node.live().remove(&id);
            });
        }
    }
}

fn reserve(budget: &Budget) -> u64 {
    budget.limit() / RESERVE
}
