//! What happens before a request goes upstream: is it a retry of a start that is known, is there room, whose is the
//! session.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use ring::rand::{SecureRandom, SystemRandom};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep},
};

use super::{
    FindError, Found, Node,
    live::{Command, LiveTurn, Opening},
    recording::{Recording, TurnSource},
};
use crate::{
    sse::TurnId,
    store::{SessionPolicy, Started, StoreError},
    turn::{
        Dialect, Digest, Epoch, Head, Limits, Log, Millis, Session, TurnRecord, Wish,
        admission::{self, Marks, Rule},
        durability::Durability,
    },
};

/// A request that may become a turn.
#[derive(Debug, Clone)]
pub struct Start {
    /// Name of the route.
    pub route: Arc<str>,
    /// What the route allows.
    pub limits: Limits,
    /// Who asks.
    pub principal: Option<Digest>,
    /// The session, if the route names one.
    pub session: Option<Session>,
    /// What happens when the session is taken.
    pub concurrent: crate::config::Concurrent,
    /// What the start can be recognised by.
    pub marks: Marks,
}

/// What becomes of a start.
#[derive(Debug)]
pub enum Begun {
    /// It goes upstream.
    Fresh(Pending),
    /// It is a retry of this turn.
    Attach(Found, Rule),
    /// Its session is taken by this turn, and the route refuses a second one.
    Busy(TurnId),
}

/// Why no turn can be started now.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// The process is about to end.
    #[error("this node is shutting down")]
    Draining,
    /// `limits.max_turns` is reached.
    #[error("too many turns are running")]
    TooManyTurns,
    /// `store.memory_limit` is used up by running turns.
    #[error("the memory for running turns is used up")]
    Memory,
    /// The store is away and `store.on_failure = "reject"`.
    #[error("the store is unavailable")]
    Store(#[from] StoreError),
}

impl Refused {
    /// The name in metrics.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Draining => "draining",
            Self::TooManyTurns => "max_turns",
            Self::Memory => "memory_limit",
            Self::Store(_) => "store",
        }
    }
}

/// How long a start waits for the turn it is a retry of to become known to the store.
const APPEAR: Duration = Duration::from_secs(1);
/// How long a superseded turn may take to free its session.
const SUPERSEDE: Duration = Duration::from_secs(3);
/// A store that has not replied by now does not hold up the request.
const PROMPT: Duration = Duration::from_millis(250);
/// How often a start looks whether what it waits for has come.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

impl Node {
    /// Admits a start: one turn per start, limits, the session's policy, the claim in the store. The request goes
    /// upstream only if the answer is [`Begun::Fresh`].
    pub async fn begin(self: &Arc<Self>, start: Start) -> Result<Begun, Refused> {
        let id = new_turn_id(start.session.as_ref());
        if let Some((found, rule)) = self.recognise(&start, &id).await {
            self.metrics.starts_attached.with_label_values(&[rule.as_str()]).inc();
            return Ok(Begun::Attach(found, rule));
        }
        self.admit(start, id).await.inspect_err(|refused| {
            self.metrics.starts_refused.with_label_values(&[refused.as_str()]).inc();
        })
    }

    async fn admit(self: &Arc<Self>, start: Start, id: TurnId) -> Result<Begun, Refused> {
        self.make_room(0);
        if self.short_of_memory() {
            return Err(Refused::Memory);
        }
        self.take_room()?;
        let record = TurnRecord {
            id,
            epoch: new_epoch(),
            node: self.id.clone(),
            principal: start.principal,
            session: start.session.clone(),
            route: start.route.clone(),
            started_at: self.clock.now(),
            head: None,
            last: 0,
            bytes: 0,
            cap: None,
            end: None,
        };
        let hold_back = matches!(self.store.durability(), Durability::Acked { .. });
        let log = Log::new(self.budget.clone(), hold_back);
        // In the list before the store knows it: a resume that comes right after the claim finds the turn here.
        let (commands, receiver) = mpsc::unbounded_channel();
        let turn = LiveTurn::new(record, log, commands);
        self.live().insert(id, turn.clone());
        let mut pending = Pending {
            node: self.clone(),
            turn,
            commands: Some(receiver),
            limits: start.limits.clone(),
            in_store: false,
            marks: start.marks,
        };
        match self.claim_session(&pending.turn, &start).await {
            Ok(None) => pending.in_store = true,
            Ok(Some(begun)) => return Ok(begun),
            Err(error) if !self.settings.degrade => return Err(error.into()),
            Err(error) => {
                tracing::warn!(turn = id.short(), %error, "the store did not take the turn: it starts from memory alone");
            }
        }
        if let Some(body) = &start.marks.body {
            let _ = promptly(self.store.note(body, &id, admission::BODY_REMEMBERED)).await;
        }
        self.admitted.send_replace(());
        Ok(Begun::Fresh(pending))
    }

    /// Counts one more running turn, if there may be one.
    fn take_room(&self) -> Result<(), Refused> {
        let counted = self.running.send_if_modified(|running| {
            let room = *running < self.max_turns.load(Ordering::Relaxed);
            *running += usize::from(room);
            room
        });
        if !counted {
            return Err(Refused::TooManyTurns);
        }
        // Looked at when the turn counts: a drain that begins now waits for it, or is seen here.
        if self.draining() {
            self.running.send_modify(|running| *running -= 1);
            return Err(Refused::Draining);
        }
        Ok(())
    }

    /// Claims the turn in the store. `Some`: the session is taken, and the route's policy says what that means.
    async fn claim_session(self: &Arc<Self>, turn: &LiveTurn, start: &Start) -> Result<Option<Begun>, StoreError> {
        use crate::config::Concurrent;
        let policy = match start.concurrent {
            Concurrent::Allow => SessionPolicy::Replace,
            Concurrent::Reject | Concurrent::Attach | Concurrent::Supersede => SessionPolicy::Refuse,
        };
        let give_up = Instant::now() + SUPERSEDE;
        loop {
            let busy = match promptly(self.store.start(turn.admitted(), turn.log(), policy)).await? {
                Started::Busy(busy) => busy,
                Started::Fresh | Started::Fenced => return Ok(None),
            };
            let found = self.find(&busy, start.principal.as_ref()).await;
            match (start.concurrent, found) {
                (Concurrent::Attach, Ok(found)) => {
                    self.metrics.starts_attached.with_label_values(&[Rule::Session.as_str()]).inc();
                    return Ok(Some(Begun::Attach(found, Rule::Session)));
                }
                (Concurrent::Supersede, Ok(found)) if Instant::now() < give_up => {
                    self.stop_as(&found, Wish::Supersede).await?;
                }
                // It was taken back in this moment: its answer was no event stream.
                (_, Err(FindError::Unknown)) if Instant::now() < give_up => {}
                (_, Err(FindError::Store(error))) => return Err(error),
                _ => return Ok(Some(Begun::Busy(busy))),
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// The turn that this start is a retry of.
    async fn recognise(&self, start: &Start, id: &TurnId) -> Option<(Found, Rule)> {
        let asker = start.principal.as_ref();
        if let Some(key) = &start.marks.idempotency {
            let ttl = start.limits.max_turn + start.limits.give_up;
            let first = promptly(self.store.claim(key, id, ttl)).await.ok()?;
            if first != *id {
                if let Some(found) = self.appears(&first, asker).await {
                    return Some((found, Rule::IdempotencyKey));
                }
                let _ = promptly(self.store.note(key, id, ttl)).await;
            }
        }
        let body = start.marks.body?;
        let first = promptly(self.store.noted(&body)).await.ok()??;
        if start.marks.retry {
            let found = self.find(&first, asker).await.ok()?;
            return Some((found, Rule::RetryCount));
        }
        let found = self.find(&first, asker).await.ok()?;
        let deadline = Instant::now() + admission::HOLD;
        loop {
            if promptly(self.store.noted(&lost_mark(&body))).await.ok()? == Some(first) {
                // One loss, one retry: a third identical request is somebody else's.
                self.forget(&lost_mark(&body), &first).await;
                return Some((found, Rule::LostClient));
            }
            if !admission::may_be_silent_retry(self.clock.now(), found.record.started_at) || Instant::now() >= deadline
            {
                return None;
            }
            sleep(LOOK_AGAIN).await;
        }
    }

    /// A turn that was just claimed, perhaps on another node, and may not be in the store yet.
    async fn appears(&self, id: &TurnId, asker: Option<&Digest>) -> Option<Found> {
        let deadline = Instant::now() + APPEAR;
        loop {
            match self.find(id, asker).await {
                Ok(found) => return Some(found),
                Err(_) if Instant::now() >= deadline => return None,
                Err(_) => sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// Notes that the client of a start is gone, so that its silent second try finds the turn. `header_written`: when its
    /// response header was.
    pub async fn client_lost(&self, turn: &TurnId, body: Option<&Digest>, header_written: Option<Millis>) {
        if let Some(body) = body
            && admission::counts_as_lost(self.clock.now(), header_written)
        {
            let _ = self.store.note(&lost_mark(body), turn, admission::LOST_REMEMBERED).await;
        }
    }

    /// Notes a turn under `key` for `ttl`. A store that does not reply soon holds up nobody.
    pub async fn note(&self, key: &Digest, turn: &TurnId, ttl: Duration) -> Result<(), StoreError> {
        promptly(self.store.note(key, turn, ttl)).await
    }

    /// Drops a note, unless somebody else's has taken its place.
    async fn forget(&self, key: &Digest, value: &TurnId) {
        if self.store.noted(key).await.is_ok_and(|noted| noted.as_ref() == Some(value)) {
            let _ = self.store.note(key, value, Duration::from_millis(1)).await;
        }
    }
}

/// An admitted start whose upstream has not answered yet. Dropped, it is as if it had never been.
#[derive(Debug)]
pub struct Pending {
    node: Arc<Node>,
    turn: Arc<LiveTurn>,
    /// `None` once the recording has it.
    commands: Option<mpsc::UnboundedReceiver<Command>>,
    limits: Limits,
    in_store: bool,
    marks: Marks,
}

impl Pending {
    /// The turn to be.
    pub fn turn(&self) -> &Arc<LiveTurn> {
        &self.turn
    }

    /// Waits until somebody asks for the end. Cancel-safe.
    pub async fn stopped(&mut self) {
        if let Some(commands) = &mut self.commands {
            loop {
                match commands.recv().await {
                    Some(Command::Stop(..) | Command::StopSoon) => return,
                    // The recording will look for itself.
                    Some(Command::FollowersChanged) => {}
                    None => break,
                }
            }
        }
        std::future::pending().await
    }

    /// What the start can be recognised by.
    pub fn body_mark(&self) -> Option<Digest> {
        self.marks.body
    }

    /// The upstream answers with an event stream: records it.
    pub fn record(mut self, head: Arc<Head>, source: impl TurnSource, dialect: &'static dyn Dialect) {
        self.turn.log().set_head(head);
        if let Some(commands) = self.commands.take() {
            let (node, turn) = (self.node.clone(), self.turn.clone());
            let limits = self.limits.clone();
            Recording { node, turn, commands, source, limits, dialect, in_store: self.in_store }.spawn();
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.commands.is_none() {
            return;
        }
        self.node.running.send_modify(|n| *n -= 1);
        let (node, turn, in_store, marks) = (self.node.clone(), self.turn.clone(), self.in_store, self.marks);
        let undone = async move {
            // A claim that cannot be taken back expires, and its session is freed by the next start.
            if in_store {
                let _ = node.store.discard(turn.admitted()).await;
            }
            // Nobody is to wait for this turn.
            for mark in [marks.idempotency, marks.body].into_iter().flatten() {
                node.forget(&mark, &turn.admitted().id).await;
            }
            // Told last: who waited for it may be a start of its own now, and must not find this one again.
            node.live().remove(&turn.admitted().id);
            turn.set_opening(Opening::NotAStream);
        };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(undone);
        }
    }
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("id", &self.id).finish_non_exhaustive()
    }
}

/// A store call that a request waits for.
async fn promptly<T>(call: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let reply = tokio::time::timeout(PROMPT, call).await;
    reply.unwrap_or_else(|_| Err(StoreError::Unavailable(format!("no answer within {PROMPT:?}").into())))
}

/// The key under which a lost client is noted, derived from the start's own.
fn lost_mark(body: &Digest) -> Digest {
    let mut key = *body;
    key[0] ^= 0xff;
    key
}

/// A new turn id; turns of one session share their slot tag.
fn new_turn_id(session: Option<&Session>) -> TurnId {
    let tag = match session {
        Some(session) => session.key[..5].try_into().expect("a digest has more than 5 bytes"),
        None => random(),
    };
    TurnId::new(tag, random())
}

fn new_epoch() -> Epoch {
    Epoch(data_encoding::HEXLOWER.encode(&random::<12>()).into())
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the operating system has randomness");
    bytes
}
