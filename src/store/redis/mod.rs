//! The distributed engine: turns in Redis, shared by all nodes.
//!
//! A turn is a hash and a stream (`keys`, `meta`, `codec`); every change of it is one Lua script that first compares
//! the owner's epoch and the last seq (`scripts`). Nothing of a turn's blocks is kept in this process: what Redis
//! forgets, the turn's recorder writes again.
//!
//! * `connection`, `supervisor`: one task keeps the connection; calls never wait for it.
//! * `map`, `slots`, `request`: which server of a cluster a call is for.
//! * `server`, `probe`, `memory`: whether a server will do, and has room.
//! * `liveness`: signs of life, and the end of dead nodes' turns.
//! * `seal`: ended turns, compressed.
//! * `inbox`, `message`, `mirror`: how followers on other nodes are served.
//! * `own`, `ended`: which turns this node owns, or owned a moment ago.
//! * `doubt`, `rewrite`: what Redis may have forgotten, and how it is told again.
//!
//! Nothing but the scripts' epoch decides who may write; everything else may be late, lost or wrong.

mod calls;
mod codec;
mod connection;
mod doubt;
mod ended;
mod health;
mod inbox;
mod keys;
mod liveness;
mod map;
mod memory;
mod message;
mod meta;
mod mirror;
mod own;
mod probe;
mod request;
mod rewrite;
mod scripts;
mod seal;
mod server;
mod settings;
mod slots;
mod supervisor;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use redis::{FromRedisValue, Value, cmd, pipe};
use tokio::{sync::mpsc, task::AbortHandle};

use self::{
    codec::encode_head,
    connection::{Lane, Link},
    ended::EndedTurns,
    inbox::{Letter, OUTBOX, frame_to, wish_of},
    keys::Keys,
    liveness::{Sightings, millis},
    message::{Frame, Message},
    meta::Meta,
    mirror::Mirrors,
    own::OwnTurns,
    scripts::{ASK, DISCARD, FINISH, HEAD, STOP},
    seal::{Sealing, WAITING},
    settings::Servers,
};
pub use self::{
    codec::{Unreadable, decode_blocks, encode_blocks},
    probe::{Report, probe},
    server::Problem,
    settings::{Settings, SettingsError},
};
use super::{
    Appended, Durability, Finished, Health, Opened, SessionPolicy, Started, StopRequested, StoreError, StoreEvent,
    TurnStore,
};
use crate::{
    metrics::Metrics,
    sse::{Seq, TurnId},
    turn::{Batch, Budget, Digest, End, Epoch, Head, Log, NodeId, Outcome, TurnRecord, Wish},
};

/// Events that wait for [`TurnStore::next_event`].
const EVENTS: usize = 4096;
/// How often something is tried again that another node may have changed meanwhile.
const ATTEMPTS: usize = 3;
/// How long an end waits for the answer of a backend that is being asked for a stop, and how often it looks.
const ASKED: (Duration, Duration) = (Duration::from_secs(5), Duration::from_millis(20));

/// See the module.
pub struct RedisStore {
    inner: Arc<Inner>,
    events: tokio::sync::Mutex<mpsc::Receiver<StoreEvent>>,
    /// Renews this node's sign of life.
    live: AbortHandle,
    others: [AbortHandle; 5],
}

/// What the store's calls and tasks share.
struct Inner {
    settings: Settings,
    node: NodeId,
    budget: Arc<Budget>,
    keys: Keys,
    link: Link,
    own: OwnTurns,
    ended: EndedTurns,
    /// The secret that all nodes share, once it is known: Redis is told it again when it has lost it.
    secret: Mutex<Option<[u8; 32]>>,
    mirrors: Mirrors,
    sightings: Sightings,
    /// This node's mark at each server, by the number of its connection (`doubt`).
    marks: Mutex<HashMap<u64, String>>,
    sealings: mpsc::Sender<Sealing>,
    outbox: mpsc::Sender<Letter>,
    events: mpsc::Sender<StoreEvent>,
}

impl RedisStore {
    /// A store that begins to connect at once and never gives up; until it has connected, all calls are answered with
    /// [`StoreError::Unavailable`]. Must be called on a Tokio runtime.
    pub fn connect(
        settings: Settings,
        node: NodeId,
        budget: Arc<Budget>,
        metrics: Arc<Metrics>,
    ) -> Result<Arc<Self>, SettingsError> {
        let servers = Servers::from(&settings)?;
        let (outbox, letters) = mpsc::channel(OUTBOX);
        let (sealings, to_seal) = mpsc::channel(WAITING);
        let (announced, events) = mpsc::channel(EVENTS);
        let inner = Arc::new(Inner {
            link: Link::new(servers, &settings, Keys::new(settings.prefix.clone()), metrics),
            keys: Keys::new(settings.prefix.clone()),
            settings,
            node,
            budget,
            own: OwnTurns::default(),
            ended: EndedTurns::default(),
            secret: Mutex::default(),
            marks: Mutex::default(),
            mirrors: Mirrors::default(),
            sightings: Sightings::default(),
            sealings,
            outbox,
            events: announced,
        });
        let [one, two, three, four, five, six] = std::array::from_fn(|_| inner.clone());
        let live = tokio::spawn(async move { one.live().await }).abort_handle();
        let others = [
            tokio::spawn(async move { two.link.supervise().await }),
            tokio::spawn(async move { three.receive().await }),
            tokio::spawn(async move { four.deliver(letters).await }),
            tokio::spawn(async move { five.link.watch_memory().await }),
            tokio::spawn(async move { six.seal_ended(to_seal).await }),
        ];
        let others = others.map(|task| task.abort_handle());
        Ok(Arc::new(Self { inner, events: tokio::sync::Mutex::new(events), live, others }))
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.live.abort();
        self.others.iter().for_each(AbortHandle::abort);
    }
}

/// A script's reply: a number that says what happened, and what belongs to it.
struct Reply(Vec<Value>);

impl FromRedisValue for Reply {
    fn from_redis_value(value: Value) -> Result<Self, redis::ParsingError> {
        Vec::from_redis_value(value).map(Self)
    }
}

impl Reply {
    fn code(&self) -> Option<i64> {
        match self.0.first() {
            Some(Value::Int(code)) => Some(*code),
            _ => None,
        }
    }

    fn bytes(&self, at: usize) -> Option<&[u8]> {
        match self.0.get(at) {
            Some(Value::BulkString(bytes)) => Some(bytes),
            _ => None,
        }
    }

    fn seq(&self, at: usize) -> Result<Seq, StoreError> {
        let bytes = self.bytes(at).ok_or(Unreadable("a reply without a seq"))?;
        Ok(meta::number(bytes)?)
    }

    fn turn(&self, at: usize) -> Result<TurnId, StoreError> {
        let bytes = self.bytes(at).ok_or(Unreadable("a reply without a turn"))?;
        read_turn(bytes)
    }

    fn node(&self, at: usize) -> Option<NodeId> {
        std::str::from_utf8(self.bytes(at)?).ok().map(|node| NodeId(node.into()))
    }

    fn unknown<T>(&self) -> Result<T, StoreError> {
        Err(Unreadable("an unknown reply of a script").into())
    }
}

impl From<Unreadable> for StoreError {
    fn from(error: Unreadable) -> Self {
        Self::Corrupt(error.0.into())
    }
}

fn read_turn(text: &[u8]) -> Result<TurnId, StoreError> {
    let id = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
    Ok(id.ok_or(Unreadable("a bad turn id"))?)
}

/// Between half and all of `wait`, so that many nodes do not come at once.
fn jitter(wait: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness, the whole wait will do.
    let _ = ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut random);
    wait - wait.mul_f64(f64::from(u16::from_le_bytes(random)) / f64::from(u16::MAX) / 2.0)
}

impl Inner {
    /// What the store knows of a turn.
    async fn meta(&self, id: &TurnId) -> Result<Option<Meta>, StoreError> {
        let mut get = cmd("HMGET");
        get.arg(self.keys.meta(id)).arg(&meta::FIELDS);
        let values = self.link.call("find", Lane::Commands, &get).await?;
        Ok(meta::read(*id, values)?)
    }

    /// The same, after the turn was ended if its owner is dead.
    async fn find(&self, id: &TurnId) -> Result<Option<TurnRecord>, StoreError> {
        let Some(Meta { record, .. }) = self.meta(id).await? else { return Ok(None) };
        // In a cluster, the owner's sign of life may be with a server that is away, which says nothing of the owner.
        if record.end.is_some() || !self.is_dead(&record.node).await.unwrap_or(false) {
            return Ok(Some(record));
        }
        self.end_orphan(id, &record.node).await?;
        Ok(self.meta(id).await?.map(|meta| meta.record))
    }

    /// Writes an end if the epoch owns the turn. With a log, only behind its last block; with `ask`, only if no backend is
    /// being asked to stop the turn.
    async fn write_end(
        &self,
        id: &TurnId,
        epoch: &Epoch,
        session: Option<&Digest>,
        log: Option<&Log>,
        end: &End,
        ask: bool,
    ) -> Result<Reply, StoreError> {
        let last = log.map(|log| log.last().to_string()).unwrap_or_default();
        let mut fields = meta::end_fields(end);
        fields.extend(log.into_iter().flat_map(meta::log_fields));
        // What a backend does that has agreed to stop, it does because of that.
        let by_backend = matches!(end.outcome, Outcome::Completed | Outcome::Failed);
        let stopped = Wish::StopSoon.outcome().as_str();
        let finish = FINISH
            .on(&self.keys.turn_and_session(id, session))
            .arg(&*epoch.0)
            .arg(last)
            .arg(id.as_str())
            .arg(millis(self.settings.retain_after_end))
            .arg(if by_backend { stopped } else { "" })
            .arg(Wish::StopSoon.reason())
            .arg(if by_backend && ask { "1" } else { "" })
            .arg(fields);
        self.link.call("finish", Lane::Commands, &finish).await
    }

    /// The secret that all nodes share, as far as this one knows.
    fn known_secret(&self) -> MutexGuard<'_, Option<[u8; 32]>> {
        self.secret.lock().expect("no code panics while it holds this lock")
    }

    /// How long a running turn is kept.
    fn running_ttl(&self) -> u64 {
        millis(self.settings.max_turn.saturating_add(self.settings.retain_after_end))
    }

    /// Forgets an own turn; its watchers are told to look.
    fn forget_own(&self, id: &TurnId, epoch: &Epoch) {
        for node in self.own.remove(id, epoch).into_iter().flatten() {
            self.post(Letter::To(node, Message::Look(*id)));
        }
        self.post(Letter::Unlist(*id));
    }

    /// Takes the word that a watching node left in the turn.
    fn heed(&self, id: &TurnId, reply: &Reply) {
        if let Some(node) = reply.node(2) {
            self.watched(id, node);
        }
    }
}
