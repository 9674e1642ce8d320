//! The backend's side: what it is to say in each turn, and what it said.
//!
//! Each start names a part. Its events follow from its number, so that everybody can tell what is right.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep};

use crate::support::{Backend, Exchange, Random};

/// One turn, as it is to be.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Part {
    pub(super) number: usize,
    pub(super) events: u64,
    pub(super) pace_ms: u64,
    /// Whether the backend breaks its answer off behind the last event.
    pub(super) breaks: bool,
}

impl Part {
    /// A part out of a seed, of half a second to eight.
    pub(super) fn any(number: usize, random: &mut Random) -> Self {
        let pace_ms = [20, 50, 100, 200][random.below(4)];
        let events = (500 / pace_ms) + random.below(7_500 / pace_ms as usize) as u64;
        Self { number, events, pace_ms, breaks: random.below(6) == 0 }
    }

    /// The data of an event.
    pub(super) fn text(&self, seq: u64) -> String {
        let mut random = Random::seeded((self.number as u64) << 32 | seq);
        let length = if random.below(50) == 0 { 20_000 } else { random.below(200) };
        let filling: String = (0..length).map(|at| char::from(b'a' + ((seq as usize + at) % 26) as u8)).collect();
        format!("{{\"part\":{},\"seq\":{seq},\"text\":\"{filling}\"}}", self.number)
    }

    /// An event as clients get it.
    pub(super) fn event(&self, turn: &str, seq: u64) -> String {
        format!("data: {}\nid: {turn}-{seq}\n\n", self.text(seq))
    }
}

/// How an answer of the backend was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// All events were sent, and the end.
    Ended,
    /// All events were sent, and then the connection was closed.
    Broke,
    /// Nobody listened any more.
    Left,
}

/// What the backend did with a part.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Played {
    /// How often it was asked to.
    pub(super) runs: usize,
    /// Events sent.
    pub(super) sent: u64,
    /// How it was over, and when.
    pub(super) over: Option<(Over, Instant)>,
}

/// What the backend has done.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    parts: Mutex<HashMap<usize, Played>>,
    /// Requests that should never have come.
    strays: Mutex<Vec<String>>,
}

impl Ledger {
    pub(super) fn played(&self, number: usize) -> Played {
        self.parts.lock().unwrap().get(&number).copied().unwrap_or_default()
    }

    pub(super) fn strays(&self) -> Vec<String> {
        self.strays.lock().unwrap().clone()
    }

    fn note(&self, number: usize, change: impl FnOnce(&mut Played)) {
        change(self.parts.lock().unwrap().entry(number).or_default());
    }
}

/// A backend that plays whatever part a start names.
pub(super) async fn backend(ledger: Arc<Ledger>) -> Backend {
    Backend::answering(move |exchange| play(exchange, ledger.clone())).await
}

async fn play(mut exchange: Exchange, ledger: Arc<Ledger>) {
    let head = exchange.request.clone();
    let body = exchange.body().await;
    let part: Option<Part> = body.and_then(|body| serde_json::from_slice(&body).ok());
    let Some(part) = part.filter(|_| head.method() == "POST" && head.get("last-event-id").is_none()) else {
        ledger.strays.lock().unwrap().push(format!("{head:?}"));
        return exchange.answer("404 Not Found", "", "").await;
    };
    ledger.note(part.number, |played| played.runs += 1);
    exchange.stream().await;
    for seq in 1..=part.events {
        sleep(Duration::from_millis(part.pace_ms)).await;
        if !exchange.event(part.text(seq)).await {
            return ledger.note(part.number, |played| played.over = Some((Over::Left, Instant::now())));
        }
        ledger.note(part.number, |played| played.sent = seq);
    }
    let over = if part.breaks { Over::Broke } else { Over::Ended };
    if part.breaks {
        exchange.close().await;
    } else {
        exchange.end().await;
    }
    ledger.note(part.number, |played| played.over = Some((over, Instant::now())));
}
