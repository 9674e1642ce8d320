//! This node's inbox, and the letters it sends to others'.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;
use futures_util::StreamExt as _;
use redis::{cmd, pipe};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval, sleep},
};

use super::{
    Inner,
    connection::{Lane, Subscription},
    jitter,
    message::{Frame, Message},
    supervisor::BACKOFF,
};
use crate::{
    sse::TurnId,
    store::{StoreError, StoreEvent},
    turn::{NodeId, Wish},
};

/// How often the inbox is tried. Twice without an echo, and it is opened anew.
const ECHO: Duration = Duration::from_secs(5);
/// Letters on their way out. More are not sent: readers find what they say in the store.
pub(super) const OUTBOX: usize = 256;
/// Blocks in one pipeline of letters, in bytes.
const PIPELINE: usize = 1 << 20;

/// Something to send when there is time.
#[derive(Debug)]
pub(super) enum Letter {
    /// A message to a node.
    To(NodeId, Message),
    /// The turn has ended: it no longer belongs in the node's set.
    Unlist(TurnId),
}

impl Letter {
    fn weight(&self) -> usize {
        match self {
            Self::To(_, Message::Frames(frames)) => frames.iter().map(|frame| frame.blocks.len()).sum(),
            _ => 0,
        }
    }
}

impl Inner {
    /// Sends a letter, later, if there is room.
    pub(super) fn post(&self, letter: Letter) {
        let _ = self.outbox.try_send(letter);
    }

    /// Sends what was posted, for ever. What gathers while one pipeline is on its way goes into the next.
    pub(super) async fn deliver(&self, mut letters: mpsc::Receiver<Letter>) {
        while let Some(first) = letters.recv().await {
            let mut weight = first.weight();
            let mut batch = vec![first];
            while weight < PIPELINE
                && let Ok(letter) = letters.try_recv()
            {
                weight += letter.weight();
                batch.push(letter);
            }
            let mut pipeline = pipe();
            for (node, message) in merged(batch.iter()) {
                pipeline.cmd("PUBLISH").arg(self.keys.inbox(node)).arg(message.encode());
            }
            for id in batch.iter().filter_map(|letter| if let Letter::Unlist(id) = letter { Some(id) } else { None }) {
                pipeline.cmd("SREM").arg(self.keys.turns_of(&self.node)).arg(id.as_str());
            }
            if let Err(error) = self.link.call::<()>("publish", Lane::Commands, &pipeline).await {
                tracing::debug!(%error, "letters to other nodes are lost; they find in the store what these said");
            }
        }
    }

    /// Reads the inbox, for ever.
    pub(super) async fn receive(&self) {
        let channel = self.keys.inbox(&self.node);
        let mut wait = BACKOFF.0;
        let mut status = self.link.status();
        loop {
            // The sender lives as long as the link.
            let _ = status.wait_for(|status| status.generation().is_some()).await;
            match self.link.subscribe(&channel).await {
                Ok(subscription) => {
                    wait = BACKOFF.0;
                    self.read_inbox(&channel, subscription).await;
                    tracing::debug!("the inbox is closed; opening it again");
                }
                Err(error) => tracing::debug!(%error, "the inbox cannot be opened"),
            }
            sleep(jitter(wait)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    /// Reads until the connection breaks, messages stop arriving, or they are sent to another server.
    async fn read_inbox(&self, channel: &str, mut subscription: Subscription) {
        let mut status = self.link.status();
        let mut tick = interval(ECHO);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut nonce, mut echoed) = (0, 0);
        let mut sent = Instant::now();
        let mut fresh = true;
        loop {
            tokio::select! {
                message = subscription.stream.next() => {
                    let Some(message) = message else { return };
                    match Message::decode(Bytes::copy_from_slice(message.get_payload_bytes())) {
                        Ok(Message::Echo(n)) => {
                            echoed = n;
                            // An older one tells that messages arrive, and not how soon.
                            if n == nonce + 1 || n == nonce {
                                self.link.metrics.inbox_lag.observe(sent.elapsed().as_secs_f64());
                            }
                        }
                        Ok(message) => self.obey(message),
                        Err(error) => tracing::warn!(%error, "a message from another node is unreadable"),
                    }
                }
                Ok(()) = status.changed() => {
                    if status.borrow_and_update().generation().is_some() && !self.link.is_current(channel, &subscription) {
                        return;
                    }
                }
                _ = tick.tick() => {
                    if nonce >= echoed + 2 {
                        return;
                    }
                    let mut echo = cmd("PUBLISH");
                    echo.arg(channel).arg(Message::Echo(nonce + 1).encode());
                    sent = Instant::now();
                    // Only an echo that was sent can fail to come back.
                    if self.link.call::<u64>("echo", Lane::Commands, &echo).await.is_ok() {
                        nonce += 1;
                    }
                    if fresh {
                        // What was said while nobody listened.
                        fresh = self.catch_up().await.is_err();
                    }
                }
            }
        }
    }

    /// Looks for what missed messages may have said.
    async fn catch_up(&self) -> Result<(), StoreError> {
        self.mirrors.look_all();
        let own = self.own.ids();
        if own.is_empty() {
            return Ok(());
        }
        let mut wishes = pipe();
        for id in &own {
            wishes.cmd("HGET").arg(self.keys.meta(id)).arg("stop");
        }
        let wishes: Vec<Option<String>> = self.link.call("wishes", Lane::Commands, &wishes).await?;
        for (id, wish) in own.iter().zip(wishes) {
            if let Some(wish) = wish {
                self.announce(StoreEvent::Stop(*id, wish_of(wish.as_bytes())));
            }
        }
        Ok(())
    }

    fn obey(&self, message: Message) {
        match message {
            Message::Stop(id, wish) if self.own.contains(&id) => self.announce(StoreEvent::Stop(id, wish)),
            Message::Ask(id, asked) if self.own.contains(&id) => self.announce(StoreEvent::Asked(id, asked)),
            Message::Watch(id, node) => self.watched(&id, node),
            Message::Look(id) => self.mirrors.look(&id),
            Message::Frames(frames) => frames.into_iter().for_each(|frame| self.mirrors.take(frame)),
            // A stop for a turn that is over, or an echo, which never gets here.
            Message::Stop(..) | Message::Ask(..) | Message::Echo(_) => {}
        }
    }

    /// Notes that another node follows one of this node's turns.
    pub(super) fn watched(&self, id: &TurnId, node: NodeId) {
        let elsewhere = node != self.node;
        if self.own.watched(id, node) && elsewhere {
            self.announce(StoreEvent::Watched(*id));
        }
    }

    /// Tells this process. If it does not listen, it learns of a stop with its next append, and of a watcher by the next
    /// message.
    pub(super) fn announce(&self, event: StoreEvent) {
        let _ = self.events.try_send(event);
    }
}

/// One message per node where there were several with batches, in order.
fn merged<'a>(letters: impl Iterator<Item = &'a Letter>) -> Vec<(&'a NodeId, Message)> {
    let mut out: Vec<(&NodeId, Message)> = Vec::new();
    let mut open: HashMap<&NodeId, usize> = HashMap::new();
    for letter in letters {
        let Letter::To(node, message) = letter else { continue };
        match message {
            Message::Frames(frames) => match open.get(node) {
                Some(&at) => {
                    if let (_, Message::Frames(all)) = &mut out[at] {
                        all.extend(frames.iter().cloned());
                    }
                }
                None => {
                    open.insert(node, out.len());
                    out.push((node, Message::Frames(frames.clone())));
                }
            },
            other => {
                // What follows must not overtake it.
                open.remove(node);
                out.push((node, other.clone()));
            }
        }
    }
    out
}

/// A letter with one batch.
pub(super) fn frame_to(node: NodeId, frame: Frame) -> Letter {
    Letter::To(node, Message::Frames(vec![frame]))
}

/// A wish as a turn's record has it. One of a later version is at least a stop.
pub(super) fn wish_of(text: &[u8]) -> Wish {
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).unwrap_or(Wish::Stop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_to_one_node_go_together_and_nothing_overtakes() {
        let turn = TurnId::new([1; 5], [2; 13]);
        let [a, b] = ["a", "b"].map(|name| NodeId(name.into()));
        let frame = |prev| Frame { turn, prev, blocks: Bytes::new() };
        let letters = [
            frame_to(a.clone(), frame(0)),
            frame_to(b.clone(), frame(0)),
            frame_to(a.clone(), frame(1)),
            Letter::Unlist(turn),
            Letter::To(a.clone(), Message::Look(turn)),
            frame_to(a.clone(), frame(2)),
        ];
        let expected = vec![
            (&a, Message::Frames(vec![frame(0), frame(1)])),
            (&b, Message::Frames(vec![frame(0)])),
            (&a, Message::Look(turn)),
            (&a, Message::Frames(vec![frame(2)])),
        ];
        assert_eq!(merged(letters.iter()), expected);
    }
}
