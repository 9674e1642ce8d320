//! A turn on the node that owns it.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
};

use tokio::{
    sync::{mpsc, watch},
    time::{Duration, sleep},
};

use crate::{
    sse::TurnId,
    turn::{Log, Outcome, TurnRecord, Wish},
};

/// How long one word from another node that somebody follows a turn there is good for.
const WATCH: Duration = Duration::from_secs(10);
/// Over how long followers are sent away, so that they do not come to the other nodes all at once.
const SPREAD: Duration = Duration::from_secs(2);
/// In so many steps.
const STEPS: u32 = 20;

/// Whether the upstream has answered, and with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// Not yet.
    Pending,
    /// With an event stream.
    Streaming,
    /// With something else, or not at all.
    NotAStream,
}

/// What the recording task is told.
#[derive(Debug)]
pub(super) enum Command {
    Stop(Outcome, &'static str),
    /// The backend has agreed to stop.
    StopSoon,
    /// Somebody came or went: look at [`LiveTurn::followed`]. (Sending the state itself would race.)
    FollowersChanged,
}

/// A turn on the node that owns it, from its admission until a while after its end.
#[derive(Debug)]
pub struct LiveTurn {
    /// As admitted; [`LiveTurn::record`] adds what the log knows.
    admitted: TurnRecord,
    log: Arc<Log>,
    commands: mpsc::UnboundedSender<Command>,
    opening: watch::Sender<Opening>,
    /// Followers connected to this node.
    followers: AtomicUsize,
    /// Counts the words from other nodes that the turn is followed there; a word is forgotten after [`WATCH`].
    watches: AtomicU64,
    watched: AtomicBool,
    degraded: AtomicBool,
    /// Since when nobody follows; 0: somebody does.
    detached_since: AtomicU64,
    /// Whether it was told to end for its memory.
    given_up: AtomicBool,
    /// Stops that the backend was asked for and has not answered.
    asked: watch::Sender<usize>,
}

impl LiveTurn {
    pub(super) fn new(admitted: TurnRecord, log: Arc<Log>, commands: mpsc::UnboundedSender<Command>) -> Arc<Self> {
        Arc::new(Self {
            admitted,
            log,
            commands,
            opening: watch::channel(Opening::Pending).0,
            followers: AtomicUsize::new(0),
            watches: AtomicU64::new(0),
            watched: AtomicBool::new(false),
            degraded: AtomicBool::new(false),
            detached_since: AtomicU64::new(0),
            given_up: AtomicBool::new(false),
            asked: watch::channel(0).0,
        })
    }

    /// What is known of the turn now.
    pub fn record(&self) -> TurnRecord {
        let mut record = self.admitted.clone();
        record.head = self.log.head();
        record.last = self.log.last();
        record.bytes = self.log.bytes();
        record.cap = self.log.capped();
        record.end = self.log.ended();
        record
    }

    /// As it was admitted.
    pub fn admitted(&self) -> &TurnRecord {
        &self.admitted
    }

    /// Its blocks.
    pub fn log(&self) -> &Arc<Log> {
        &self.log
    }

    /// Followers connected to this node.
    pub fn followers(&self) -> usize {
        self.followers.load(Ordering::Relaxed)
    }

    /// Whether followers are served from memory alone because the store is behind.
    pub fn degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }

    pub(super) fn set_degraded(&self, degraded: bool) {
        self.degraded.store(degraded, Ordering::Relaxed);
    }

    /// Since when nobody follows the turn, in milliseconds since the Unix epoch.
    pub fn detached_since(&self) -> Option<u64> {
        Some(self.detached_since.load(Ordering::Relaxed)).filter(|since| *since > 0)
    }

    pub(super) fn set_detached_since(&self, since: Option<u64>) {
        self.detached_since.store(since.unwrap_or(0), Ordering::Relaxed);
    }

    /// To be held while the backend is asked to stop the turn. It may end its answer before it says that it does so.
    pub fn asking_backend(self: &Arc<Self>) -> Asking {
        self.asked.send_modify(|asked| *asked += 1);
        Asking(self.clone())
    }

    /// Whether the backend has been asked for a stop and has not answered.
    pub(super) fn backend_is_asked(&self) -> bool {
        *self.asked.borrow() > 0
    }

    /// Waits until it has.
    pub(super) async fn backend_has_answered(&self) {
        // The sender lives as long as the turn.
        let _ = self.asked.subscribe().wait_for(|asked| *asked == 0).await;
    }

    /// Asks for the end.
    pub(super) fn stop(&self, outcome: Outcome, reason: &'static str) {
        let _ = self.commands.send(Command::Stop(outcome, reason));
    }

    /// Asks for the end, so that its memory becomes free.
    pub(super) fn give_up(&self, outcome: Outcome, reason: &'static str) {
        self.given_up.store(true, Ordering::Relaxed);
        self.stop(outcome, reason);
    }

    /// Whether that was asked for.
    pub(super) fn given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// Carries out somebody's wish.
    pub(super) fn obey(&self, wish: Wish) {
        let _ = self.commands.send(match wish {
            Wish::StopSoon => Command::StopSoon,
            Wish::Stop | Wish::Supersede => Command::Stop(wish.outcome(), wish.reason()),
        });
    }

    pub(super) fn set_opening(&self, opening: Opening) {
        self.opening.send_replace(opening);
    }

    /// Waits until the upstream has answered; an error if it was no event stream.
    pub async fn opened(&self) -> Result<(), Opening> {
        let mut opening = self.opening.subscribe();
        match opening.wait_for(|o| *o != Opening::Pending).await.as_deref() {
            Ok(Opening::Streaming) => Ok(()),
            _ => Err(Opening::NotAStream),
        }
    }

    /// Waits until the turn is over, or turns out never to have been one.
    pub(super) async fn over(&self) {
        let mut changed = self.log.subscribe();
        let ended = async {
            while self.log.ended().is_none() {
                changed.changed().await;
            }
        };
        let never_opened = async {
            if self.opened().await.is_ok() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            () = ended => {}
            () = never_opened => {}
        }
    }

    /// Counts one more follower on this node, unless there are `max` already.
    pub fn join(self: &Arc<Self>, max: usize) -> Option<Following> {
        let joined = self.followers.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| (n < max).then_some(n + 1));
        if joined.ok()? == 0 {
            let _ = self.commands.send(Command::FollowersChanged);
        }
        Some(Following(Followed::Here(self.clone())))
    }

    /// Takes another node's word that somebody follows the turn there.
    pub(super) fn watched_elsewhere(self: &Arc<Self>) {
        let word = self.watches.fetch_add(1, Ordering::Relaxed) + 1;
        self.watched.store(true, Ordering::Relaxed);
        let _ = self.commands.send(Command::FollowersChanged);
        let turn = self.clone();
        tokio::spawn(async move {
            sleep(WATCH).await;
            if turn.watches.load(Ordering::Relaxed) == word {
                turn.watched.store(false, Ordering::Relaxed);
                turn.left();
            }
        });
    }

    fn left(&self) {
        if !self.followed() {
            let _ = self.commands.send(Command::FollowersChanged);
        }
    }

    /// Whether anybody follows the turn, here or on another node.
    pub(super) fn followed(&self) -> bool {
        self.followers() > 0 || self.watched.load(Ordering::Relaxed)
    }
}

/// A stop that the backend is being asked for.
#[derive(Debug)]
pub struct Asking(Arc<LiveTurn>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.asked.send_modify(|asked| *asked -= 1);
    }
}

/// Followers on this node of turns that live elsewhere or are over.
#[derive(Debug, Default)]
pub(super) struct Visitors {
    turns: Mutex<HashMap<TurnId, usize>>,
    /// How many have come so far: each has its number.
    arrived: AtomicU64,
    /// Those with a lower number are to go on at another node.
    leaving: watch::Sender<u64>,
}

impl Visitors {
    /// Counts one more follower of this turn, unless there are `max` already.
    pub(super) fn join(self: &Arc<Self>, turn: TurnId, max: usize) -> Option<Following> {
        let mut turns = self.lock();
        let followers = turns.get(&turn).copied().unwrap_or_default();
        if followers >= max {
            return None;
        }
        turns.insert(turn, followers + 1);
        let (number, leaving) = (self.arrived.fetch_add(1, Ordering::Relaxed), self.leaving.subscribe());
        Some(Following(Followed::Elsewhere { visitors: self.clone(), turn, number, leaving }))
    }

    /// Sends away who has been here for so long, now and from now on.
    pub(super) async fn send_away(&self, after: Duration) -> Infallible {
        loop {
            let until = self.arrived.load(Ordering::Relaxed);
            sleep(after.max(SPREAD / STEPS)).await;
            let from = *self.leaving.borrow();
            for step in (1..=u64::from(STEPS)).filter(|_| until > from) {
                self.leaving.send_replace(from + (until - from) * step / u64::from(STEPS));
                sleep(SPREAD / STEPS).await;
            }
        }
    }

    fn leave(&self, turn: &TurnId) {
        let mut turns = self.lock();
        match turns.get_mut(turn) {
            Some(followers) if *followers > 1 => *followers -= 1,
            _ => drop(turns.remove(turn)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TurnId, usize>> {
        self.turns.lock().expect("no code panics while it holds this lock")
    }
}

/// Keeps a turn counted as followed while it lives.
#[derive(Debug)]
pub struct Following(Followed);

#[derive(Debug)]
enum Followed {
    Here(Arc<LiveTurn>),
    Elsewhere { visitors: Arc<Visitors>, turn: TurnId, number: u64, leaving: watch::Receiver<u64> },
}

impl Following {
    /// Waits until the follower is to go on at another node, because this one is about to end.
    pub(super) async fn sent_away(&mut self) {
        if let Followed::Elsewhere { number, leaving, .. } = &mut self.0
            && leaving.wait_for(|below| *number < *below).await.is_ok()
        {
            return;
        }
        std::future::pending().await
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        match &self.0 {
            Followed::Here(turn) => {
                turn.followers.fetch_sub(1, Ordering::Relaxed);
                turn.left();
            }
            Followed::Elsewhere { visitors, turn, .. } => visitors.leave(turn),
        }
    }
}
