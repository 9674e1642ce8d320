//! The clients: they start turns, follow them at any node, lose their connections, and come back with what they have.
//!
//! Each checks every event as it comes. What a client may believe in the end is compared with the truth by `verdict`.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::script::Part;
use crate::support::{Client, Ending, Event, Head, Random};

/// A client that hears nothing for so long looks elsewhere.
const SILENCE: Duration = Duration::from_secs(4);
/// How long a client waits for an answer to a start or a resume. A cursor ahead of the store is held for 5 s.
const ANSWER: Duration = Duration::from_secs(8);
/// Before a client comes back.
const PAUSE: Duration = Duration::from_millis(150);
/// How long a turn may be unknown when nothing is amiss any more.
const UNKNOWN: Duration = Duration::from_secs(10);
/// How long a client may take to its end when nothing is amiss any more.
const PATIENCE: Duration = Duration::from_secs(60);
/// What of a client's story is kept for the report.
const TRAIL: usize = 24;

/// What all clients of a round share.
pub(super) struct House {
    /// Where nodes are, as far as clients know.
    pub(super) nodes: Mutex<Vec<SocketAddr>>,
    /// Whether nodes may be cut off from the backend.
    pub(super) backend_cut: AtomicBool,
    /// Since when nothing is amiss any more.
    pub(super) mended: watch::Sender<Option<Instant>>,
}

impl House {
    fn any(&self, random: &mut Random) -> SocketAddr {
        let nodes = self.nodes.lock().unwrap();
        nodes[random.below(nodes.len())]
    }

    /// An error when a client has tried for too long: clients give up, tests fail.
    fn patience(&self) -> Result<(), String> {
        if self.mended_for() > PATIENCE { Err("it came to no end".to_owned()) } else { Ok(()) }
    }

    /// For how long nothing has been amiss.
    fn mended_for(&self) -> Duration {
        self.mended.borrow().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// A turn and all who have to do with it.
pub(super) struct Performance {
    pub(super) part: Part,
    pub(super) session: String,
    authorization: Option<String>,
    idempotent: bool,
    /// Whether a start without an answer is sent again.
    retried: bool,
    /// What the turn is called; set by who started it.
    turn: watch::Sender<Option<String>>,
    /// The last seq anybody was shown.
    pub(super) shown: AtomicU64,
    /// Whether somebody asked for it to be stopped.
    pub(super) stop_asked: AtomicBool,
    /// A start that came to nothing: nobody need wait.
    given_up: OnceLock<()>,
}

/// What a client has in the end.
#[derive(Debug)]
pub(super) struct Account {
    pub(super) who: String,
    /// The last event it has.
    pub(super) has: u64,
    pub(super) resumes: usize,
    /// How often it was told that something is missing.
    pub(super) gaps: usize,
    /// What it believes; an error is a broken promise by itself.
    pub(super) belief: Result<Belief, String>,
    pub(super) trail: VecDeque<String>,
}

/// What a client was told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Belief {
    /// A clean end: this is all.
    Whole,
    /// The turn ended otherwise.
    Ended(String),
    /// There is no such turn (any more).
    Unknown,
    /// The start never became a turn.
    NeverStarted,
    /// It has left.
    Left,
}

impl Performance {
    /// `retried`: whether a start may be sent again under its key. Redis may forget keys that it loses.
    pub(super) fn any(number: usize, retried: bool, random: &mut Random) -> Self {
        let idempotent = random.toss();
        Self {
            part: Part::any(number, random),
            session: format!("s{number}"),
            authorization: random.toss().then(|| format!("Bearer {}", random.below(4))),
            idempotent,
            retried: idempotent && retried,
            turn: watch::channel(None).0,
            shown: AtomicU64::new(0),
            stop_asked: AtomicBool::new(false),
            given_up: OnceLock::new(),
        }
    }

    pub(super) fn turn(&self) -> Option<String> {
        self.turn.borrow().clone()
    }

    /// Headers of who may have it, and more.
    pub(super) fn headers<'a>(&'a self, more: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let own = self.authorization.iter().map(|value| ("Authorization", value.as_str()));
        own.chain(more.iter().copied()).collect()
    }

    async fn is_known(&self) -> Option<String> {
        let mut turn = self.turn.subscribe();
        let known = turn.wait_for(|turn| turn.is_some() || self.given_up.get().is_some()).await.ok()?;
        known.clone()
    }
}

/// One client of one turn.
pub(super) struct Actor {
    house: Arc<House>,
    of: Arc<Performance>,
    random: Random,
    account: Account,
    /// How often it will cut its own connection.
    cuts: usize,
    /// Answers in a row that were no help.
    unhelped: usize,
}

/// How a connection was over for a client.
enum After {
    /// It comes back.
    Again,
    Done(Belief),
}

impl Actor {
    pub(super) fn new(who: String, house: Arc<House>, of: Arc<Performance>, seed: u64) -> Self {
        let mut random = Random::seeded(seed);
        let cuts = random.below(5);
        let account = Account {
            who,
            has: 0,
            resumes: 0,
            gaps: 0,
            belief: Ok(Belief::Left),
            trail: VecDeque::with_capacity(TRAIL),
        };
        Self { house, of, random, account, cuts, unhelped: 0 }
    }

    fn note(&mut self, what: impl Into<String>) {
        self.unhelped = 0;
        self.tell(what);
    }

    /// Notes one more answer of those that make a client come again: the first few say all.
    fn note_unhelped(&mut self, what: impl Into<String>) {
        self.unhelped += 1;
        if self.unhelped <= 4 {
            self.tell(what);
        }
    }

    fn tell(&mut self, what: impl Into<String>) {
        if self.account.trail.len() == TRAIL {
            self.account.trail.pop_front();
        }
        self.account.trail.push_back(what.into());
    }

    /// Starts the turn, and follows it to its end.
    pub(super) async fn lead(mut self) -> Account {
        let belief = self.start().await;
        if self.of.turn().is_none() {
            let _ = self.of.given_up.set(());
            self.of.turn.send_modify(|_| {});
        }
        self.account.belief = belief;
        self.account
    }

    /// Follows the turn that somebody else starts, from somewhere to its end.
    pub(super) async fn follow(mut self) -> Account {
        if self.of.is_known().await.is_none() {
            return self.account;
        }
        sleep(Duration::from_millis(self.random.below(2500) as u64)).await;
        let shown = self.of.shown.load(Ordering::Relaxed) as usize;
        if self.random.toss() {
            self.account.has = self.random.below(shown + 1) as u64;
        }
        self.account.belief = self.stay(None).await;
        self.account
    }

    /// Asks for the turn to be stopped.
    pub(super) async fn stop(mut self) -> Account {
        let Some(turn) = self.of.is_known().await else { return self.account };
        sleep(Duration::from_millis(self.random.below(4000) as u64)).await;
        let node = self.house.any(&mut self.random);
        self.of.stop_asked.store(true, Ordering::Relaxed);
        if let Some(mut client) = connect(node).await {
            let of = self.of.clone();
            let target = format!("/.holdover/turns/{turn}");
            let head = timely(client.try_request("DELETE", &target, &of.headers(&[]), "")).await;
            self.note(format!("DELETE at {node}: {head:?}"));
        }
        self.account
    }

    async fn start(&mut self) -> Result<Belief, String> {
        let of = self.of.clone();
        let body = serde_json::to_string(&of.part).expect("a part is JSON");
        let key = format!("start-{}", of.part.number);
        let mut headers = of.headers(&[("X-Session", &of.session), ("Content-Type", "application/json")]);
        if of.idempotent {
            headers.push(("Idempotency-Key", &key));
        }
        loop {
            self.house.patience()?;
            let node = self.house.any(&mut self.random);
            let Some(mut client) = connect(node).await else {
                self.note(format!("no connection to {node}"));
                sleep(PAUSE).await;
                continue;
            };
            let Some(head) = timely(client.try_request("POST", "/chat", &headers, &body)).await else {
                self.note(format!("no answer to the start at {node}"));
                if of.retried {
                    continue;
                }
                return self.find().await;
            };
            match (head.status(), head.get("holdover-turn")) {
                (200, Some(turn)) => {
                    self.note(format!("started {turn} at {node}"));
                    self.of.turn.send_replace(Some(turn.to_owned()));
                    return self.stay(Some((client, node))).await;
                }
                (503, _) => {
                    self.note(format!("503 at {node}"));
                    sleep(PAUSE).await;
                }
                // Told that it failed, and true: it may have reached the backend, so it is not sent again.
                (502 | 504, _) if self.house.backend_cut.load(Ordering::Relaxed) => {
                    self.note(format!("{} at {node}", head.status()));
                    return self.find().await;
                }
                _ => return Err(format!("a start was answered by {node}: {head:?}")),
            }
        }
    }

    /// A start without an answer: its session may lead to its turn.
    async fn find(&mut self) -> Result<Belief, String> {
        let of = self.of.clone();
        loop {
            let node = self.house.any(&mut self.random);
            let target = format!("/.holdover/sessions/{}", of.session);
            if let Some(mut client) = connect(node).await
                && let Some(head) = timely(client.try_request("GET", &target, &of.headers(&[]), "")).await
            {
                self.note_unhelped(format!("the session at {node}: {}", head.status()));
                if head.status() == 200
                    && let Ok(body) = timeout(ANSWER, client.body()).await
                    && let Ok(status) = serde_json::from_slice::<serde_json::Value>(&body)
                    && let Some(turn) = status["turn"].as_str()
                {
                    self.of.turn.send_replace(Some(turn.to_owned()));
                    return self.stay(None).await;
                }
            }
            if self.house.mended_for() > UNKNOWN {
                return Ok(Belief::NeverStarted);
            }
            sleep(PAUSE).await;
        }
    }

    /// Stays with the turn until it is told how that ended, on as many connections as it takes.
    async fn stay(&mut self, mut first: Option<(Client, SocketAddr)>) -> Result<Belief, String> {
        loop {
            self.house.patience()?;
            let after = match first.take() {
                Some((client, node)) => self.read(client, node, None).await?,
                None => self.resume().await?,
            };
            match after {
                After::Done(belief) => return Ok(belief),
                After::Again => sleep(PAUSE * self.random.below(4) as u32).await,
            }
        }
    }

    async fn resume(&mut self) -> Result<After, String> {
        let (of, node) = (self.of.clone(), self.house.any(&mut self.random));
        let turn = of.turn().expect("it is known by now");
        let has = self.account.has;
        let id = format!("{turn}-{has}");
        let stream = format!("/.holdover/turns/{turn}/stream");
        let after = format!("{stream}?after={has}");
        let event_source = [("Accept", "text/event-stream"), ("Last-Event-ID", id.as_str())];
        let (method, target, headers) = match self.random.below(4) {
            _ if has == 0 => ("GET", stream.as_str(), of.headers(&[])),
            0 => ("GET", "/chat", of.headers(&event_source)),
            1 => ("POST", "/chat", of.headers(&event_source[1..])),
            2 => ("GET", stream.as_str(), of.headers(&event_source)),
            _ => ("GET", after.as_str(), of.headers(&[])),
        };
        let Some(mut client) = connect(node).await else {
            self.note(format!("no connection to {node}"));
            return Ok(After::Again);
        };
        let Some(head) = timely(client.try_request(method, target, &headers, "")).await else {
            self.note(format!("{method} {target} behind {has} at {node}: no answer"));
            return Ok(After::Again);
        };
        self.account.resumes += 1;
        let said = format!("{method} {target} behind {has} at {node}: {}", summary(&head));
        if head.status() == 200 {
            self.note(said)
        } else {
            self.note_unhelped(said)
        }
        self.account.gaps += usize::from(head.get("holdover-gap").is_some());
        let state = head.get("holdover-state").filter(|_| head.get("holdover-gap").is_none());
        match (head.status(), state) {
            (200, _) => {
                let from = head.get("holdover-from").and_then(|from| from.parse().ok());
                let Some(from) = from else { return Err(format!("a resumed answer without Holdover-From: {head:?}")) };
                if from != has && head.get("holdover-gap").is_none() {
                    return Err(format!("asked behind {has}, answered behind {from} without a word: {head:?}"));
                }
                self.account.has = from;
                let ended = head.get("holdover-state").map(belief_in).filter(|belief| *belief != Belief::Whole);
                self.read(client, node, ended).await
            }
            (204, Some(state)) => Ok(After::Done(belief_in(state))),
            // Told to be ahead of what is there, or that there is no such turn: it may be there again in a moment.
            (204 | 404 | 409 | 503, _) => {
                if self.house.mended_for() > UNKNOWN {
                    let ended = head.get("holdover-state").map(belief_in);
                    return Ok(After::Done(ended.unwrap_or(Belief::Unknown)));
                }
                Ok(After::Again)
            }
            _ => Err(format!("{method} {target} behind {has} was answered by {node}: {head:?}")),
        }
    }

    /// Reads until the connection is over, by either side. `ended`: the head has said so of the turn, and how.
    async fn read(&mut self, mut client: Client, node: SocketAddr, ended: Option<Belief>) -> Result<After, String> {
        let cut_after = if self.cuts > 0 { 1 + self.random.below(40) } else { usize::MAX };
        for _ in 0..cut_after {
            match timeout(SILENCE, client.event_or_end()).await {
                Err(_) => {
                    self.note(format!("silence at {node} behind {}", self.account.has));
                    return Ok(After::Again);
                }
                Ok(Ok(event)) => self.take(&event, node)?,
                Ok(Err(Ending::Broken)) => {
                    self.note(format!("broken by {node} behind {}", self.account.has));
                    return Ok(ended.map_or(After::Again, After::Done));
                }
                Ok(Err(Ending::Clean(_))) => {
                    self.note(format!("a clean end at {node} behind {}", self.account.has));
                    return Ok(After::Done(Belief::Whole));
                }
            }
        }
        self.cuts -= 1;
        self.note(format!("cut behind {}", self.account.has));
        if self.random.toss() {
            client.reset();
        }
        Ok(After::Again)
    }

    /// Compares an event with what it must be.
    fn take(&mut self, event: &Event, node: SocketAddr) -> Result<(), String> {
        let (turn, seq) = (self.of.turn().expect("it is known by now"), self.account.has + 1);
        let mut seen = &event.bytes[..];
        while let Some(rest) = seen.strip_prefix(b":\n") {
            seen = rest;
        }
        let expected = self.of.part.event(&turn, seq);
        if seen != expected.as_bytes() || seq > self.of.part.events {
            let seen: String = String::from_utf8_lossy(seen).chars().take(300).collect();
            let expected: String = expected.chars().take(300).collect();
            return Err(format!("event {seq} at {node}\n      expected {expected:?}\n      seen     {seen:?}"));
        }
        self.account.has = seq;
        self.of.shown.fetch_max(seq, Ordering::Relaxed);
        Ok(())
    }
}

async fn connect(node: SocketAddr) -> Option<Client> {
    timely(Client::try_connect(node)).await
}

/// Nothing, where it takes longer than a client waits.
async fn timely<T>(answer: impl Future<Output = Option<T>>) -> Option<T> {
    timeout(ANSWER, answer).await.ok().flatten()
}

fn belief_in(state: &str) -> Belief {
    if state == "completed" { Belief::Whole } else { Belief::Ended(state.to_owned()) }
}

fn summary(head: &Head) -> String {
    let of_ours = head.fields.iter().filter(|(name, _)| name.to_ascii_lowercase().starts_with("holdover-"));
    let words: Vec<String> =
        of_ours.filter(|(name, _)| !name.ends_with("esume")).map(|(n, v)| format!("{n}: {v}")).collect();
    format!("{} {}", head.status(), words.join(", "))
}
