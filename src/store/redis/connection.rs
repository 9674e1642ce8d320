//! The connection to Redis: one task keeps it, everybody calls through it.
//!
//! Calls never wait for a connection: without one they are told so at once. The supervisor connects for ever, whatever
//! the reason it failed for, and replaces a connection that broke, stopped answering, or leads to a server that takes no
//! writes any more.

use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use redis::{Cmd, FromRedisValue, Pipeline, RedisError, RedisResult, Value, aio::MultiplexedConnection, cmd};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use super::{
    jitter,
    server::ServerInfo,
    settings::{Servers, Settings},
};
use crate::store::StoreError;

/// Told of every call: its name, how long it took, whether it was answered.
pub type Observer = Arc<dyn Fn(&'static str, Duration, bool) + Send + Sync>;

/// Waits between attempts to connect.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How often an idle connection is tried.
const WATCHDOG: Duration = Duration::from_secs(1);
/// Timeouts in a row after which a connection counts as broken: one may be a slow moment of the server.
const TIMEOUTS: u32 = 2;

/// Something to send.
pub(super) trait Request: Sync {
    /// Sends it and waits for the reply.
    fn send(&self, connection: &mut MultiplexedConnection) -> impl Future<Output = RedisResult<Value>> + Send;
}

impl Request for Cmd {
    async fn send(&self, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        connection.send_packed_command(self).await
    }
}

impl Request for Pipeline {
    async fn send(&self, connection: &mut MultiplexedConnection) -> RedisResult<Value> {
        self.query_async(connection).await
    }
}

/// Which connection a call takes, so that a long replay does not stand in front of appends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    Commands,
    Bulk,
}

struct Connected {
    generation: u64,
    commands: MultiplexedConnection,
    bulk: MultiplexedConnection,
}

/// How the connection is.
#[derive(Debug, Clone)]
pub(super) enum Status {
    /// There is none; why.
    Down(Arc<str>),
    /// There is one.
    Up {
        /// Grows with every connection.
        generation: u64,
    },
}

impl Status {
    /// The number of the connection, if there is one.
    pub(super) fn generation(&self) -> Option<u64> {
        match self {
            Self::Up { generation } => Some(*generation),
            Self::Down(_) => None,
        }
    }
}

/// See the module.
pub(super) struct Link {
    servers: Servers,
    connect_timeout: Duration,
    command_timeout: Duration,
    lease: Duration,
    observer: Observer,
    current: ArcSwapOption<Connected>,
    status: watch::Sender<Status>,
    /// The latest connection that somebody found broken.
    broken: watch::Sender<u64>,
    /// Timeouts in a row, per lane.
    timeouts: [AtomicU32; 2],
    /// Since when the server is believed to know all nodes' signs of life.
    steady_since: Mutex<Option<Instant>>,
}

impl Link {
    pub(super) fn new(servers: Servers, settings: &Settings, observer: Observer) -> Self {
        Self {
            servers,
            connect_timeout: settings.connect_timeout,
            command_timeout: settings.command_timeout,
            lease: settings.lease,
            observer,
            current: ArcSwapOption::empty(),
            status: watch::channel(Status::Down("not connected yet".into())).0,
            broken: watch::channel(0).0,
            timeouts: Default::default(),
            steady_since: Mutex::new(None),
        }
    }

    /// Sends a request and reads its reply, within the command timeout.
    pub(super) async fn call<T: FromRedisValue>(
        &self,
        operation: &'static str,
        lane: Lane,
        request: &impl Request,
    ) -> Result<T, StoreError> {
        let started = Instant::now();
        let reply = self.send(lane, request).await;
        (self.observer)(operation, started.elapsed(), reply.is_ok());
        T::from_redis_value(reply?).map_err(|error| StoreError::Corrupt(error.to_string().into()))
    }

    async fn send(&self, lane: Lane, request: &impl Request) -> Result<Value, StoreError> {
        let Some(connected) = self.current.load_full() else {
            let why = match &*self.status.borrow() {
                Status::Down(why) => why.clone(),
                Status::Up { .. } => "the connection is being replaced".into(),
            };
            return Err(StoreError::Unavailable(why));
        };
        let mut connection = match lane {
            Lane::Commands => connected.commands.clone(),
            Lane::Bulk => connected.bulk.clone(),
        };
        let reply = match timeout(self.command_timeout, request.send(&mut connection)).await {
            Ok(reply) => reply.and_then(Value::extract_error),
            Err(_) => Err(RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut))),
        };
        match reply {
            Ok(value) => {
                self.timeouts[lane as usize].store(0, Ordering::Relaxed);
                Ok(value)
            }
            Err(error) => {
                if self.is_broken_by(&error, lane) {
                    self.replace(connected.generation, &error.to_string());
                }
                Err(store_error(&error))
            }
        }
    }

    fn is_broken_by(&self, error: &RedisError, lane: Lane) -> bool {
        if error.is_timeout() {
            return self.timeouts[lane as usize].fetch_add(1, Ordering::Relaxed) + 1 >= TIMEOUTS;
        }
        error.is_io_error()
            || error.is_connection_dropped()
            || error.is_unrecoverable_error()
            || ["READONLY", "NOAUTH", "WRONGPASS"].into_iter().any(|code| has_code(error, code))
    }

    /// Has the supervisor replace a connection.
    fn replace(&self, generation: u64, why: &str) {
        let newer = self.broken.send_if_modified(|broken| {
            let newer = generation > *broken;
            *broken = generation.max(*broken);
            newer
        });
        if newer {
            self.current.store(None);
            self.status.send_replace(Status::Down(why.into()));
        }
    }

    /// How the connection is, now and from now on.
    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// The servers' name, for people.
    pub(super) fn name(&self) -> &str {
        &self.servers.name
    }

    /// Whether a node's missing sign of life can be taken for its death: the server has been there, and the same, for as
    /// long as such a sign lives.
    pub(super) fn is_steady(&self) -> bool {
        let since = *self.steady_since.lock().expect("no code panics while it holds this lock");
        self.current.load().is_some() && since.is_some_and(|since| since.elapsed() >= self.lease)
    }

    /// A connection of its own for messages.
    pub(super) async fn subscribe(
        &self,
        channel: &str,
    ) -> RedisResult<(redis::aio::PubSubSink, redis::aio::PubSubStream)> {
        let connect = async {
            let pubsub = self.servers.master().await?.get_async_pubsub().await?;
            let (mut sink, stream) = pubsub.split();
            sink.subscribe(channel).await?;
            Ok((sink, stream))
        };
        let timed_out = |_| RedisError::from(std::io::Error::from(std::io::ErrorKind::TimedOut));
        timeout(self.connect_timeout + self.command_timeout, connect).await.map_err(timed_out)?
    }

    /// Keeps the connection, for ever.
    pub(super) async fn supervise(&self) {
        let mut generation = 0;
        let mut wait = BACKOFF.0;
        let mut said: Option<String> = None;
        loop {
            match self.connect(generation + 1).await {
                Ok((connected, server)) => {
                    generation += 1;
                    wait = BACKOFF.0;
                    said = None;
                    self.announce(connected, &server);
                    let why = self.until_broken(generation).await;
                    tracing::warn!(
                        redis = self.name(),
                        why,
                        "lost the connection to Redis: running turns go on from memory until it is back"
                    );
                }
                Err(why) => {
                    self.status.send_replace(Status::Down(why.as_str().into()));
                    // Once per reason: attempts go on every two seconds at most.
                    if said.as_ref() != Some(&why) {
                        tracing::error!(redis = self.name(), why, "cannot use Redis: trying again until it is there");
                        said = Some(why);
                    }
                }
            }
            sleep(jitter(wait)).await;
            wait = (wait * 2).min(BACKOFF.1);
        }
    }

    async fn connect(&self, generation: u64) -> Result<(Connected, ServerInfo), String> {
        let connect = async {
            let client = self.servers.master().await?;
            let config = self.servers.config();
            let mut commands = client.get_multiplexed_async_connection_with_config(config).await?;
            let bulk = client.get_multiplexed_async_connection_with_config(config).await?;
            let info: String = cmd("INFO").query_async(&mut commands).await?;
            RedisResult::Ok((Connected { generation, commands, bulk }, ServerInfo::parse(&info)))
        };
        // Name resolution, two connections, one command: each has its own limit, and all together this one.
        let connected = timeout(self.connect_timeout * 3 + self.command_timeout, connect).await;
        let (connected, server) = match connected {
            Ok(Ok(connected)) => connected,
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_) => return Err("connecting took too long".to_owned()),
        };
        server.check().map_err(|unfit| unfit.to_string())?;
        Ok((connected, server))
    }

    fn announce(&self, connected: Connected, server: &ServerInfo) {
        let generation = connected.generation;
        if let Some(warning) = server.warning() {
            tracing::warn!(redis = self.name(), "{warning}");
        }
        tracing::info!(redis = self.name(), version = server.version, "connected to Redis");
        // After an outage, living nodes need a moment to renew their signs of life. A node that has just begun finds
        // them as they are, unless the server itself has just begun.
        let now = Instant::now();
        let since = if generation == 1 { now.checked_sub(server.up.min(self.lease)) } else { None };
        *self.steady_since.lock().expect("no code panics while it holds this lock") = Some(since.unwrap_or(now));
        self.timeouts.iter().for_each(|count| count.store(0, Ordering::Relaxed));
        self.current.store(Some(Arc::new(connected)));
        self.status.send_replace(Status::Up { generation });
    }

    /// Tries the connection every second until somebody finds it broken. Returns why.
    async fn until_broken(&self, generation: u64) -> String {
        let mut broken = self.broken.subscribe();
        loop {
            tokio::select! {
                _ = broken.wait_for(|broken| *broken >= generation) => break,
                () = sleep(WATCHDOG) => {}
            }
            // An idle connection that was cut is found here; one that is in use, by its calls.
            let ping = cmd("PING");
            let (commands, bulk) = tokio::join!(
                self.call::<String>("ping", Lane::Commands, &ping),
                self.call::<String>("ping", Lane::Bulk, &ping),
            );
            if let Err(error) = commands.and(bulk) {
                tracing::debug!(redis = self.name(), %error, "Redis does not answer a ping");
            }
        }
        match &*self.status.borrow() {
            Status::Down(why) => why.to_string(),
            Status::Up { .. } => "the connection was replaced".to_owned(),
        }
    }
}

/// What an error means to whoever called.
fn store_error(error: &RedisError) -> StoreError {
    let text = error.to_string().into();
    if has_code(error, "OOM") { StoreError::Full(text) } else { StoreError::Unavailable(text) }
}

/// Whether a server error is of this kind. Redis 6.2 gives an error inside a script as a message that quotes it.
fn has_code(error: &RedisError, code: &str) -> bool {
    error.code() == Some(code) || error.detail().is_some_and(|detail| detail.contains(&format!("-{code} ")))
}
