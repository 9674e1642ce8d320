//! One client's reading of a log: replay, then live, from one source and without a seam.

use std::{pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep_until};

use super::live::Following;
use crate::{
    metrics::Metrics,
    sse::{self, Seq},
    turn::{End, Log, Position, Read, Rewrite, Watcher},
};

/// Most bytes that are handed out at once. A follower that is far behind takes them in few large writes.
const CHUNK: usize = 256 << 10;

/// What a connection gets besides the recorded bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pace {
    /// A comment line after so long without anything else.
    pub keepalive: Option<Duration>,
    /// The `retry:` inside the first event.
    pub reconnect: Option<Duration>,
}

/// What is to be done for the client next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Send these.
    Data(Vec<Bytes>),
    /// End the answer as the backend did.
    End(End),
    /// The turn ended too early. Say so, or break the connection: a clean end alone would pass for a complete answer.
    Lost(End),
    /// Break the connection: the rest cannot be delivered, and a clean end would pass for a complete answer.
    Broken(&'static str),
}

/// See the module.
pub struct Follow {
    log: Arc<Log>,
    position: Position,
    changed: Watcher,
    pace: Pace,
    /// Whether the first event is still to come.
    first: bool,
    last_sent: Instant,
    /// Armed lazily: it fires at most once per keep-alive time, whatever is sent in between.
    timer: Option<Pin<Box<Sleep>>>,
    /// What was recorded before this follower came counts as replayed.
    replay_until: Seq,
    rewrite: Option<Rewrite>,
    metrics: Arc<Metrics>,
    following: Option<Following>,
}

impl Follow {
    pub(super) fn new(
        log: Arc<Log>,
        position: Position,
        pace: Pace,
        metrics: Arc<Metrics>,
        following: Option<Following>,
    ) -> Self {
        metrics.followers.inc();
        let now = Instant::now();
        Self {
            changed: log.subscribe(),
            replay_until: log.last(),
            timer: pace.keepalive.map(|idle| Box::pin(sleep_until(now + idle))),
            last_sent: now,
            first: pace.reconnect.is_some(),
            log,
            position,
            pace,
            rewrite: None,
            metrics,
            following,
        }
    }

    /// Each block is changed on its way.
    pub(super) fn rewritten(mut self, rewrite: Option<Rewrite>) -> Self {
        self.rewrite = rewrite;
        self
    }

    /// Nothing but the backend's own lines: no ids, no `retry:`, no comments.
    pub fn bare(mut self) -> Self {
        (self.pace, self.first, self.timer) = (Pace::default(), false, None);
        self.rewritten(Some(Rewrite(Arc::new(sse::without_ids))))
    }

    /// What is read.
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// The seq up to which the client has everything.
    pub fn seq(&self) -> Seq {
        self.position.seq()
    }

    /// What is to be done next; waits for it. May be dropped and called again.
    pub async fn next(&mut self) -> Delivery {
        loop {
            self.changed.look();
            if let Some(delivery) = self.read() {
                self.last_sent = Instant::now();
                return delivery;
            }
            let idle = async {
                match &mut self.timer {
                    Some(timer) => timer.await,
                    None => std::future::pending().await,
                }
            };
            let sent_away = async {
                match &mut self.following {
                    Some(following) => following.sent_away().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = self.changed.changed() => {}
                () = sent_away => return Delivery::Broken("draining"),
                () = idle => {
                    if let Some(line) = self.keep_alive() {
                        return Delivery::Data(vec![line]);
                    }
                }
            }
        }
    }

    fn read(&mut self) -> Option<Delivery> {
        let before = self.position.seq();
        let most = if self.first || self.rewrite.is_some() { 1 } else { u64::MAX };
        match self.log.read(&mut self.position, CHUNK, most) {
            Read::Data(mut data) if self.rewrite.is_some() => {
                self.rewrite(before, &mut data);
                Some(Delivery::Data(self.count(before, data)))
            }
            Read::Data(data) => Some(Delivery::Data(self.count(before, data))),
            Read::Wait => None,
            Read::Gap { .. } => Some(Delivery::Broken("gap")),
            Read::Lost => Some(Delivery::Broken("behind")),
            Read::End(end) if end.is_clean() => Some(Delivery::End(end)),
            Read::End(end) => Some(Delivery::Lost(end)),
        }
    }

    fn rewrite(&self, before: Seq, data: &mut [Bytes]) {
        if let (Some(Rewrite(rewrite)), Some(block)) = (&self.rewrite, data.last_mut())
            && self.position.seq() > before
        {
            *block = rewrite(block);
        }
    }

    fn count(&mut self, before: Seq, mut data: Vec<Bytes>) -> Vec<Bytes> {
        let after = self.position.seq();
        // A backend that sets the reconnection time itself is left alone.
        if self.first && data.iter().any(|piece| sse::has_retry(piece)) {
            self.first = false;
        }
        if before < self.replay_until {
            self.metrics.events_replayed.inc_by(after.min(self.replay_until) - before);
            self.metrics.bytes_replayed.inc_by(data.iter().map(|d| d.len() as u64).sum());
        }
        if self.first && after > before {
            self.first = false;
            if let (Some(reconnect), Some(event)) = (self.pace.reconnect, data.last_mut()) {
                *event = sse::with_retry(event, reconnect);
            }
        }
        data
    }

    /// The comment line, if it is time for it; arms the timer anew.
    fn keep_alive(&mut self) -> Option<Bytes> {
        let idle = self.pace.keepalive?;
        let now = Instant::now();
        let due = self.last_sent + idle;
        let silent = now >= due;
        if silent {
            self.last_sent = now;
        }
        let next = if silent { now + idle } else { due };
        self.timer.as_mut()?.as_mut().reset(next);
        // What passes unrecorded may stand in the middle of a line.
        (silent && !self.position.in_unrecorded()).then_some(Bytes::from_static(b":\n"))
    }
}

impl Drop for Follow {
    fn drop(&mut self) {
        self.metrics.followers.dec();
    }
}
