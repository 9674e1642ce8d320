//! The task that drives a [`Recorder`]: reads the upstream, asks the store, obeys stops and clocks.

use std::{future::Future, sync::Arc};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::{
    Node,
    live::{Command, LiveTurn, Opening},
};
use crate::{
    store::{SessionPolicy, Started, StoreError},
    turn::{Cap, Dialect, End, Input, Limits, Millis, Notice, Outcome, Recorder, StoreCall, StoreReply},
};

/// What comes from the upstream of a turn.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FromUpstream {
    /// Bytes of the body.
    Chunk(Bytes),
    /// The body is complete.
    Eof,
    /// The upstream broke; the word says how.
    Broken(Arc<str>),
}

/// The upstream side of one turn. Dropping it closes the upstream.
///
/// A trait, so that the way a request goes upstream can be swapped without touching what is recorded.
pub trait TurnSource: Send + 'static {
    /// What comes next. Cancel-safe: nothing is lost when the future is dropped.
    fn next(&mut self) -> impl Future<Output = FromUpstream> + Send;
}

/// One recording, from the answer's header to the terminal state.
pub(super) struct Recording<S> {
    pub(super) node: Arc<Node>,
    pub(super) turn: Arc<LiveTurn>,
    pub(super) commands: mpsc::UnboundedReceiver<Command>,
    pub(super) source: S,
    pub(super) limits: Limits,
    pub(super) dialect: &'static dyn Dialect,
    /// Whether the store took the turn before the upstream was asked.
    pub(super) in_store: bool,
}

impl<S: TurnSource> Recording<S> {
    /// Spawns the task. The turn counts as started from here on.
    pub(super) fn spawn(self) {
        let ledger = Ledger::open(self.node.clone(), self.turn.clone());
        self.turn.set_opening(Opening::Streaming);
        tokio::spawn(self.run(ledger));
    }

    async fn run(self, mut ledger: Ledger) {
        let Self { node, turn, mut commands, source, limits, dialect, in_store } = self;
        let clock = node.clock();
        let id = turn.admitted().id;
        let mut source = Some(source);
        // The upstream's end, kept back until it is known whether the backend was made to end.
        let mut ended: Option<FromUpstream> = None;
        let mut call: Option<BoxFuture<'static, StoreReply>> = None;
        let mut recorder = Recorder::new(
            id,
            turn.log().clone(),
            node.budget().clone(),
            limits,
            node.store().durability(),
            in_store,
            clock.now(),
        )
        .speaking(dialect);
        recorder.handle(clock.now(), Input::Followed(turn.followed()));
        let timer = sleep_until(Instant::now());
        tokio::pin!(timer);
        loop {
            if call.is_none()
                && let Some(next) = recorder.next_call(clock.now())
            {
                call = Some(ask(node.clone(), turn.clone(), next).boxed());
            }
            if !recorder.wants_upstream() {
                source = None;
            }
            ledger.observe(&mut recorder);
            if recorder.done() {
                break;
            }
            // Clocks are moved forward lazily: most events only push a deadline further away.
            if let Some(wake) = recorder.next_wake().map(|at| Instant::from_std(clock.instant(at)))
                && (wake < timer.deadline() || timer.is_elapsed())
            {
                timer.as_mut().reset(wake);
            }
            let full = turn.followers() > 0 && turn.log().unrecorded_is_full();
            let upstream = async {
                if ended.is_some() {
                    turn.backend_has_answered().await;
                    return ended.take().expect("it was there in the line above");
                }
                match &mut source {
                    Some(source) if !full => source.next().await,
                    _ => std::future::pending().await,
                }
            };
            let reply = async {
                match &mut call {
                    Some(call) => call.await,
                    None => std::future::pending().await,
                }
            };
            let input = tokio::select! {
                came = upstream => match came {
                    FromUpstream::Chunk(bytes) => Input::Chunk(bytes),
                    end if turn.backend_is_asked() => {
                        ended = Some(end);
                        continue;
                    }
                    end => {
                        // What the backend was made to do comes before what it did.
                        while let Ok(command) = commands.try_recv() {
                            recorder.handle(clock.now(), command.input(&turn));
                        }
                        match end {
                            FromUpstream::Broken(how) => Input::Broken(how),
                            _ => Input::Eof,
                        }
                    }
                },
                reply = reply => {
                    call = None;
                    Input::Reply(reply)
                }
                Some(command) = commands.recv() => command.input(&turn),
                () = turn.log().unrecorded_taken(), if full => Input::Tick,
                () = &mut timer => Input::Tick,
            };
            if let Input::Chunk(bytes) = &input {
                ledger.chunk(bytes.len() + recorder.held());
            }
            recorder.handle(clock.now(), input);
        }
        ledger.close();
    }
}

impl Command {
    fn input(self, turn: &LiveTurn) -> Input {
        match self {
            Self::Stop(outcome, reason) => Input::Stop(outcome, reason),
            Self::StopSoon => Input::StopSoon,
            Self::FollowersChanged => Input::Followed(turn.followed()),
        }
    }
}

/// Carries out one store call.
async fn ask(node: Arc<Node>, turn: Arc<LiveTurn>, call: StoreCall) -> StoreReply {
    let record = turn.admitted();
    let (id, epoch, log) = (&record.id, &record.epoch, turn.log());
    let store = node.store();
    let reply = match &call {
        StoreCall::Start => store.start(record, log, SessionPolicy::Replace).await.map(|started| match started {
            Started::Fresh => StoreReply::Started,
            Started::Busy(_) | Started::Fenced => StoreReply::Fenced,
        }),
        StoreCall::SetHead => match log.head() {
            Some(head) => store.set_head(id, epoch, &head).await.map(|()| StoreReply::HeadSet),
            None => Ok(StoreReply::HeadSet),
        },
        StoreCall::Append(batch) => store.append(id, epoch, batch).await.map(StoreReply::Appended),
        StoreCall::Finish(end) => store.finish(id, epoch, log, end).await.map(StoreReply::Finished),
    };
    reply.unwrap_or_else(|error| {
        tracing::debug!(turn = id.short(), %error, "store call failed; it will be repeated");
        match error {
            StoreError::Full(_) => StoreReply::Full,
            StoreError::Unavailable(_) | StoreError::Corrupt(_) => StoreReply::Unavailable,
        }
    })
}

/// Keeps the books of one turn: metrics, log lines, the node's list. Dropped without [`Ledger::close`] (the runtime ends,
/// a bug), it ends the turn as interrupted, so that `started = finished + live` holds whatever happens.
struct Ledger {
    node: Arc<Node>,
    turn: Arc<LiveTurn>,
    detached_since: Option<Millis>,
    degraded: bool,
    last_chunk: Option<Instant>,
    events: u64,
    bytes: u64,
    closed: bool,
}

impl Ledger {
    fn open(node: Arc<Node>, turn: Arc<LiveTurn>) -> Self {
        let metrics = node.metrics();
        let whole = metrics.books();
        metrics.turns_started.with_label_values(&[&*turn.admitted().route]).inc();
        metrics.turns_live.with_label_values(&["attached"]).inc();
        drop(whole);
        Self { node, turn, detached_since: None, degraded: false, last_chunk: None, events: 0, bytes: 0, closed: false }
    }

    /// Before a chunk is handled: how long the upstream was silent, and whether there is room for it.
    fn chunk(&mut self, bytes: usize) {
        let now = Instant::now();
        if let Some(before) = self.last_chunk.replace(now) {
            self.node.metrics().upstream_gap.observe((now - before).as_secs_f64());
        }
        self.node.make_room(bytes as u64);
    }

    fn observe(&mut self, recorder: &mut Recorder) {
        let metrics = self.node.metrics();
        let (events, bytes) = self.turn.log().recorded();
        if events > self.events {
            if self.events == 0 {
                let waited = self.node.clock().now().saturating_sub(self.turn.admitted().started_at);
                metrics.first_event.observe(waited as f64 / 1e3);
            }
            metrics.events_recorded.inc_by(events - self.events);
            self.events = events;
        }
        metrics.bytes_recorded.inc_by(bytes - self.bytes);
        self.bytes = bytes;
        let (degraded, detached) = (recorder.degraded(), recorder.detached_since());
        if degraded != self.degraded {
            self.degraded = degraded;
            self.turn.set_degraded(degraded);
        }
        if detached != self.detached_since {
            self.set_detached(detached);
        }
        for notice in recorder.take_notices() {
            self.notice(notice);
        }
    }

    fn set_detached(&mut self, since: Option<Millis>) {
        let live = &self.node.metrics().turns_live;
        let was = std::mem::replace(&mut self.detached_since, since);
        self.turn.set_detached_since(since);
        let whole = self.node.metrics().books();
        if was.is_none() && since.is_some() {
            live.with_label_values(&["attached"]).dec();
            live.with_label_values(&["detached"]).inc();
        } else if let (Some(was), None) = (was, since) {
            live.with_label_values(&["detached"]).dec();
            live.with_label_values(&["attached"]).inc();
            drop(whole);
            self.observe_detached(was);
        }
    }

    fn observe_detached(&self, since: Millis) {
        let alone = self.node.clock().now().saturating_sub(since);
        self.node.metrics().detached.observe(alone as f64 / 1e3);
    }

    fn notice(&self, notice: Notice) {
        let metrics = self.node.metrics();
        let turn = self.turn.admitted().id;
        let turn = turn.short();
        match notice {
            Notice::Degraded => {
                metrics.turns_degraded.inc();
                tracing::warn!(turn, "the store is behind: the turn goes on from memory and is stored later");
            }
            Notice::Restored => tracing::info!(turn, "the store has the whole turn again"),
            Notice::Repairing { blocks } => {
                metrics.blocks_repaired.inc_by(blocks);
                tracing::warn!(turn, blocks, "the store has forgotten a part of the turn: writing it again");
            }
            Notice::Capped(cap) => {
                metrics.turns_capped.with_label_values(&[cap.as_str()]).inc();
                let what = match cap {
                    Cap::MaxEvent => "an event is larger than the route's max_event",
                    Cap::MaxTurnBytes => "the turn is larger than the route's max_turn_bytes",
                    Cap::MemoryLimit => "store.memory_limit is used up by running turns",
                };
                tracing::warn!(turn, what, "recording ended before the turn: who reconnects will miss the rest");
            }
            Notice::Fenced => {
                metrics.writes_fenced.inc();
                tracing::warn!(turn, "another node has taken the turn over; its followers here are sent away");
            }
            Notice::Abandoned => {
                metrics.turns_abandoned.inc();
                tracing::error!(turn, "the store did not come back in time: the end of the turn is not stored");
            }
        }
    }

    fn close(mut self) {
        self.settle();
    }

    fn settle(&mut self) {
        if std::mem::replace(&mut self.closed, true) {
            return;
        }
        let at = self.node.clock().now();
        self.turn.log().end(End { outcome: Outcome::Interrupted, reason: "owner_gone".into(), at });
        let end = self.turn.log().ended().expect("it was ended in the line above");
        let admitted = self.turn.admitted();
        let metrics = self.node.metrics();
        let state = if self.detached_since.is_some() { "detached" } else { "attached" };
        {
            let _whole = metrics.books();
            metrics.turns_live.with_label_values(&[state]).dec();
            metrics.turns_finished.with_label_values(&[&*admitted.route, end.outcome.as_str()]).inc();
        }
        if let Some(since) = self.detached_since {
            self.observe_detached(since);
        }
        tracing::info!(
            turn = admitted.id.short(),
            route = &*admitted.route,
            outcome = end.outcome.as_str(),
            reason = &*end.reason,
            events = self.turn.log().last(),
            bytes = self.turn.log().bytes(),
            ms = end.at.saturating_sub(admitted.started_at),
            "turn ended"
        );
        self.node.turn_over(&self.turn);
    }
}

impl Drop for Ledger {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        self.settle();
        // The recorder is gone without having told the store.
        if let (Ok(runtime), Some(end)) = (tokio::runtime::Handle::try_current(), self.turn.log().ended()) {
            let (node, turn) = (self.node.clone(), self.turn.clone());
            runtime.spawn(async move {
                let record = turn.admitted();
                let _ = node.store().finish(&record.id, &record.epoch, turn.log(), &end).await;
            });
        }
    }
}
