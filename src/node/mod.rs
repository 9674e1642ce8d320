//! One Holdover process: its live turns, the tasks that record them, and everybody who follows them.
//!
//! * [`Node`]: finds, follows and stops turns, here or on other nodes.
//! * `starts`: what happens before a request goes upstream.
//! * `recording`: the task that drives a [`crate::turn::Recorder`].
//! * `room`: which turns are given up when memory runs short.
//! * [`Follow`]: one client's reading of a log.

mod alarm;
mod clock;
mod follow;
mod live;
mod recording;
mod room;
mod starts;

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use subtle::ConstantTimeEq;
use tokio::sync::watch;

pub use clock::Clock;
pub use follow::{Delivery, Follow, Pace};
pub use live::{Asking, Following, LiveTurn, Opening};
pub use recording::{FromUpstream, TurnSource};
pub use starts::{Begun, Pending, Refused, Start};

use live::Visitors;
use room::Room;

use crate::{
    metrics::Metrics,
    sse::{Seq, TurnId},
    store::{Opened, StopRequested, StoreError, StoreEvent, TurnStore},
    turn::{Budget, Digest, End, Log, NodeId, Outcome, Position, Rewrite, TurnRecord, Wish},
};

/// What a node is built from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Most turns that may run at once.
    pub max_turns: usize,
    /// Whether new turns run from memory while the store is away; else they are refused.
    pub degrade: bool,
    /// How long an ended turn is still served from this node's memory. Zero where the store is this process.
    pub linger: Duration,
}

/// See the module.
pub struct Node {
    id: NodeId,
    clock: Clock,
    store: Arc<dyn TurnStore>,
    budget: Arc<Budget>,
    metrics: Arc<Metrics>,
    settings: Settings,
    live: Mutex<HashMap<TurnId, Arc<LiveTurn>>>,
    visitors: Arc<Visitors>,
    room: Room,
    /// Number of turns that are admitted and not over. Watched by the drain.
    running: watch::Sender<usize>,
    draining: watch::Sender<bool>,
    /// Most turns that may run at once; replaced on a reload.
    max_turns: AtomicUsize,
    /// Changes whenever a turn is admitted: wakes those who wait for a session's next turn.
    admitted: watch::Sender<()>,
}

/// Why a turn is not to be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FindError {
    /// No such turn, or it belongs to somebody else: nobody is told which.
    #[error("no such turn")]
    Unknown,
    /// The turn may exist, but the store that would know is away.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A turn that the asker may see.
#[derive(Debug)]
pub struct Found {
    /// What the store or the owner knows of it.
    pub record: TurnRecord,
    /// The turn itself, if this node owns it.
    pub live: Option<Arc<LiveTurn>>,
}

/// Why a turn cannot be followed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FollowError {
    /// Gone, or never there.
    #[error(transparent)]
    Find(#[from] FindError),
    /// The route's limit of followers is reached.
    #[error("too many followers")]
    TooMany,
    /// The start turned out to be no event stream.
    #[error("the answer was no event stream")]
    NotAStream,
    /// This node is about to end, and the turn, which has not begun, is another's.
    #[error("the node is shutting down")]
    Draining,
}

/// A place in a turn to go on from.
#[derive(Debug)]
pub struct Place {
    /// The log.
    pub log: Arc<Log>,
    /// The seq after which delivery begins.
    pub after: Seq,
    /// What is missing between the cursor and there.
    pub gap: Option<(Seq, Seq)>,
    /// The turn is over and there is nothing behind the cursor.
    pub nothing_left: bool,
    following: Option<Following>,
}

/// How a stop went. It says the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stopped {
    /// The owner stops, or has stopped, the upstream.
    Stopped,
    /// There was nothing to stop.
    AlreadyEnded,
    /// The wish is recorded, but the owner shows no sign of life.
    OwnerUnreachable,
}

/// How long a cursor ahead of the log is held: the tail, or a repair, may be on its way.
const AHEAD: Duration = Duration::from_secs(5);
/// How long a resume waits for the answer of an upstream that another node has asked.
const OPENING: Duration = Duration::from_secs(300);
/// How long a stop waits to see the turn end.
const STOP_WAIT: Duration = Duration::from_secs(2);

impl Node {
    /// A node without turns.
    pub fn new(
        id: NodeId,
        store: Arc<dyn TurnStore>,
        budget: Arc<Budget>,
        metrics: Arc<Metrics>,
        settings: Settings,
    ) -> Arc<Self> {
        metrics.buffered_limit.set(budget.limit().try_into().unwrap_or(i64::MAX));
        Arc::new(Self {
            id,
            clock: Clock::start(),
            store,
            budget,
            metrics,
            live: Mutex::default(),
            visitors: Arc::default(),
            room: Room::default(),
            running: watch::channel(0).0,
            draining: watch::channel(false).0,
            max_turns: AtomicUsize::new(settings.max_turns),
            settings,
            admitted: watch::channel(()).0,
        })
    }

    /// The clock of this node's turns.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The store behind it.
    pub fn store(&self) -> &Arc<dyn TurnStore> {
        &self.store
    }

    /// The metrics it counts in.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Bytes held by logs.
    pub fn budget(&self) -> &Arc<Budget> {
        &self.budget
    }

    /// The turns of this node, running or lingering.
    pub fn turns(&self) -> Vec<Arc<LiveTurn>> {
        self.live().values().cloned().collect()
    }

    /// A turn that `asker` may see.
    pub async fn find(&self, id: &TurnId, asker: Option<&Digest>) -> Result<Found, FindError> {
        let live = self.live().get(id).cloned();
        let record = match &live {
            Some(turn) => turn.record(),
            None => self.store.find(id).await?.ok_or(FindError::Unknown)?,
        };
        if !may_see(&record, asker) {
            return Err(FindError::Unknown);
        }
        Ok(Found { record, live })
    }

    /// The turn a session points to: the running one, or the last one while it is kept.
    pub async fn session(&self, key: &Digest) -> Result<Option<TurnId>, StoreError> {
        self.store.session(key).await
    }

    /// The running turn of a session, waiting up to `wait` for one to start.
    pub async fn running_in(&self, key: &Digest, asker: Option<&Digest>, wait: Duration) -> Result<Found, FindError> {
        let deadline = tokio::time::Instant::now() + wait;
        let mut admitted = self.admitted.subscribe();
        loop {
            admitted.borrow_and_update();
            if let Some(id) = self.session(key).await?
                && let Ok(found) = self.find(&id, asker).await
                && found.record.end.is_none()
            {
                return Ok(found);
            }
            // Starts on other nodes wake nobody here: look again now and then.
            let look_again = deadline.min(tokio::time::Instant::now() + Duration::from_millis(200));
            if tokio::time::Instant::now() >= deadline {
                return Err(FindError::Unknown);
            }
            let _ = tokio::time::timeout_at(look_again, admitted.changed()).await;
        }
    }

    /// Finds the place of a cursor, and waits for it where it is on its way: for the answer's header (a resume may come
    /// before the upstream has answered), and for a cursor ahead of the log. `joining` counts as a follower meanwhile.
    pub async fn place(&self, found: &Found, after: Seq, max_followers: usize) -> Result<Place, FollowError> {
        let following = match &found.live {
            Some(turn) => turn.join(max_followers),
            None => self.visitors.join(found.record.id, max_followers),
        };
        let mut following = following.ok_or(FollowError::TooMany)?;
        let (record, log) = tokio::select! {
            opened = self.open(found, after) => opened?,
            () = following.sent_away() => return Err(FollowError::Draining),
        };
        if record.end.is_some() {
            // It is filled by and by: only a block behind the cursor, or the end, tells whether anything is left.
            changes_until(&log, AHEAD, |log| log.last() > after || log.ended().is_some()).await;
        }
        changes_until(&log, AHEAD, |log| log.last() >= after || log.ended().is_some()).await;
        Ok(Place::of(log, after, Some(following)))
    }

    /// The log of a turn from `after` or earlier, once its answer has begun.
    async fn open(&self, found: &Found, after: Seq) -> Result<(TurnRecord, Arc<Log>), FollowError> {
        if let Some(turn) = &found.live {
            turn.opened().await.map_err(|_| FollowError::NotAStream)?;
            return Ok((turn.record(), turn.log().clone()));
        }
        let opened = self.store.open(&found.record.id, after).await.map_err(FindError::from)?;
        let Opened { record, log } = opened.ok_or(FindError::Unknown)?;
        changes_until(&log, OPENING, |log| log.head().is_some() || log.ended().is_some()).await;
        if log.head().is_none() {
            return Err(FollowError::NotAStream);
        }
        Ok((record, log))
    }

    /// The log of a turn with all that followers may read of it now, from `after` or earlier.
    pub async fn log(&self, found: &Found, after: Seq) -> Result<Arc<Log>, FollowError> {
        let (record, log) = self.open(found, after).await?;
        let there = |log: &Log| log.ended().is_some() || (record.end.is_none() && log.last() >= record.last);
        changes_until(&log, AHEAD, there).await;
        if !there(&log) {
            let why = StoreError::Unavailable("the turn did not arrive in time".into());
            return Err(FindError::Store(why).into());
        }
        Ok(log)
    }

    /// The client that started a turn reads it from its first event.
    pub fn follow_first(&self, turn: &LiveTurn, pace: Pace, following: Option<Following>) -> Follow {
        Follow::new(turn.log().clone(), Position::after(0), pace, self.metrics.clone(), following)
    }

    /// Stops a turn, wherever it runs, and waits a moment to see it end.
    pub async fn stop(&self, found: &Found) -> Result<Stopped, StoreError> {
        self.stop_as(found, Wish::Stop).await
    }

    /// Says that the backend has agreed to stop the turn: it ends as cancelled, as soon as the backend ends it, and in a
    /// few seconds at the latest.
    pub async fn stop_soon(&self, found: &Found) -> Result<Stopped, StoreError> {
        self.stop_as(found, Wish::StopSoon).await
    }

    /// Says that the backend is about to be asked to stop the turn, so that an end meanwhile waits for its answer: until
    /// the turn is stopped, or `asked` is false. What is to be held on this node while it is asked.
    pub async fn asking_stop(&self, found: &Found, asked: bool) -> Option<Asking> {
        match &found.live {
            Some(turn) if asked => return Some(turn.asking_backend()),
            None if found.record.end.is_none() => {
                if let Err(error) = self.store.ask_stop(&found.record, asked).await {
                    tracing::debug!(turn = found.record.id.short(), %error, "the owner does not know of a stop");
                }
            }
            _ => {}
        }
        None
    }

    async fn stop_as(&self, found: &Found, wish: Wish) -> Result<Stopped, StoreError> {
        if found.record.end.is_some() {
            return Ok(Stopped::AlreadyEnded);
        }
        if let Some(turn) = &found.live {
            turn.obey(wish);
            if wish == Wish::StopSoon {
                return Ok(Stopped::Stopped);
            }
            let _ = tokio::time::timeout(STOP_WAIT, turn.over()).await;
            return Ok(Stopped::Stopped);
        }
        match self.store.request_stop(&found.record.id, wish).await? {
            StopRequested::NotRunning => Ok(Stopped::AlreadyEnded),
            StopRequested::OwnerUnreachable => Ok(Stopped::OwnerUnreachable),
            StopRequested::Told if wish == Wish::StopSoon => Ok(Stopped::Stopped),
            StopRequested::Told => {
                let deadline = tokio::time::Instant::now() + STOP_WAIT;
                while tokio::time::Instant::now() < deadline {
                    let record = self.store.find(&found.record.id).await?;
                    if record.is_none_or(|r| r.end.is_some()) {
                        return Ok(Stopped::Stopped);
                    }
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Ok(Stopped::OwnerUnreachable)
            }
        }
    }

    /// Carries out what other nodes ask of this one's turns. Runs until the process ends.
    pub async fn serve_events(self: Arc<Self>) {
        loop {
            match self.store.next_event().await {
                StoreEvent::Stop(id, wish) => {
                    if let Some(turn) = self.live().get(&id) {
                        turn.obey(wish);
                        turn.asked_elsewhere(false);
                    }
                }
                StoreEvent::Asked(id, asked) => {
                    if let Some(turn) = self.live().get(&id) {
                        turn.asked_elsewhere(asked);
                    }
                }
                StoreEvent::Watched(id) => {
                    let turn = self.live().get(&id).cloned();
                    if let Some(turn) = turn {
                        turn.watched_elsewhere();
                    }
                }
            }
        }
    }

    /// Changes how many turns may run at once. What runs, runs on.
    pub fn set_max_turns(&self, max: usize) {
        self.max_turns.store(max, Ordering::Relaxed);
    }

    /// Whether new turns are refused because the process is about to end.
    pub fn draining(&self) -> bool {
        *self.draining.borrow()
    }

    /// Refuses new turns from now on.
    pub fn start_draining(&self) {
        self.draining.send_replace(true);
        self.metrics.draining.set(1);
    }

    /// Has clients that follow turns of other nodes here go on there, where they are served without this node. Whoever comes
    /// meanwhile is served for as long as `after`, too, so that no client is sent away as often as it comes.
    pub async fn send_visitors_away(&self, after: Duration) -> Infallible {
        self.visitors.send_away(after).await
    }

    /// Waits until no turn runs, at most for `max`; what runs then is interrupted. Whether all turns came to their own end.
    pub async fn drained(&self, max: Duration) -> bool {
        let mut running = self.running.subscribe();
        if tokio::time::timeout(max, running.wait_for(|n| *n == 0)).await.is_err() {
            tracing::warn!(turns = *running.borrow(), "drain.max is over: interrupting the turns that still run");
            for turn in self.turns() {
                turn.stop(Outcome::Interrupted, "drain");
            }
            let _ = tokio::time::timeout(Duration::from_secs(2), running.wait_for(|n| *n == 0)).await;
            return false;
        }
        true
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<TurnId, Arc<LiveTurn>>> {
        self.live.lock().expect("no code panics while it holds this lock")
    }
}

impl Place {
    fn of(log: Arc<Log>, after: Seq, following: Option<Following>) -> Self {
        let (base, last) = (log.base(), log.last());
        let ended = log.ended().is_some();
        let mut place = Self { log, after, gap: None, nothing_left: false, following };
        if after > last {
            place.gap = Some((last + 1, after));
            place.nothing_left = true;
        } else if after < base {
            place.gap = Some((after + 1, base));
            place.after = base;
        } else {
            place.nothing_left = ended && after == last && after > 0;
        }
        place
    }

    /// Goes on from the first block that is kept, instead of behind the gap.
    pub fn restart(&mut self) {
        self.after = self.log.base();
        self.nothing_left = false;
    }

    /// The end of the turn, if it is over.
    pub fn end(&self) -> Option<End> {
        self.log.ended()
    }

    /// Reads on from here.
    pub fn follow(self, pace: Pace, rewrite: Option<Rewrite>, metrics: Arc<Metrics>) -> Follow {
        let position = match self.log.capped() {
            None => Position::after(self.after),
            Some(_) => Position::recorded_after(self.after),
        };
        Follow::new(self.log, position, pace, metrics, self.following).rewritten(rewrite)
    }
}

/// Constant-time where secrets are compared. A turn that was started without identity is a capability by its id alone.
fn may_see(record: &TurnRecord, asker: Option<&Digest>) -> bool {
    match (&record.principal, asker) {
        (None, _) => true,
        (Some(starter), Some(asker)) => starter.ct_eq(asker).into(),
        (Some(_), None) => false,
    }
}

/// Waits until `log` is as `wanted`, at most for `limit`.
async fn changes_until(log: &Log, limit: Duration, wanted: impl Fn(&Log) -> bool) {
    let mut changed = log.subscribe();
    let waiting = async {
        while !wanted(log) {
            changed.changed().await;
        }
    };
    let _ = tokio::time::timeout(limit, waiting).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::Epoch;

    #[test]
    fn a_turn_is_open_to_its_starter_and_one_without_identity_to_who_has_its_id() {
        let (alice, bob) = ([1; 32], [2; 32]);
        let started_by = |principal| TurnRecord {
            id: TurnId::new([0; 5], [0; 13]),
            epoch: Epoch("e".into()),
            node: NodeId("n".into()),
            principal,
            session: None,
            route: "default".into(),
            started_at: 0,
            head: None,
            last: 0,
            bytes: 0,
            cap: None,
            end: None,
        };
        assert!(may_see(&started_by(Some(alice)), Some(&alice)));
        assert!(!may_see(&started_by(Some(alice)), Some(&bob)));
        assert!(!may_see(&started_by(Some(alice)), None));
        assert!(may_see(&started_by(None), Some(&bob)));
        assert!(may_see(&started_by(None), None));
    }
}
