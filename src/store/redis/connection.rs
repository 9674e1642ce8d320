//! The connection to Redis: everybody calls through it, [`super::supervisor`] keeps it.
//!
//! Calls never wait for a connection: without one they are told so at once. In a cluster, each command goes to the server
//! that has its keys. The client library has a cluster client of its own; it is not used, because its calls wait for its
//! reconnections, it refuses pipelines across slots, and it has no lanes.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use futures_util::future::join_all;
use redis::{Cmd, FromRedisValue, RedisError, RedisResult, Value, cmd, pipe};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout, timeout_at},
};

use super::{
    jitter,
    map::{Connected, Map},
    request::{Request, key_of},
    server::ServerInfo,
    settings::{Servers, Settings},
    slots::Redirection,
};
use crate::store::StoreError;

/// Told of every call: its name, how long it took, whether it was answered.
pub type Observer = Arc<dyn Fn(&'static str, Duration, bool) + Send + Sync>;

/// Timeouts in a row after which a connection counts as broken: one may be a slow moment of the server.
const TIMEOUTS: u32 = 2;
/// Wait before a command is sent again whose keys are on the move.
const ON_THE_MOVE: Duration = Duration::from_millis(20);

/// Which connection a call takes, so that a long replay does not stand in front of appends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Lane {
    Commands,
    Bulk,
}

/// How the connection is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Status {
    /// There is none; why.
    Down(Arc<str>),
    /// There is one.
    Up {
        /// Grows with every new connection.
        generation: u64,
        /// Why it does not lead to all keys, if so.
        lacking: Option<Arc<str>>,
    },
}

impl Status {
    /// The number of the connection, if there is one.
    pub(super) fn generation(&self) -> Option<u64> {
        match self {
            Self::Up { generation, .. } => Some(*generation),
            Self::Down(_) => None,
        }
    }
}

/// What redirections tell of a map that is not known here yet.
#[derive(Default)]
pub(super) struct Hints {
    /// The server that knows it.
    pub(super) knows: Option<Arc<Connected>>,
    /// Addresses of servers that are not in this one.
    pub(super) strangers: Vec<String>,
}

/// See the module.
pub(super) struct Link {
    pub(super) servers: Servers,
    pub(super) connect_timeout: Duration,
    pub(super) command_timeout: Duration,
    pub(super) lease: Duration,
    observer: Observer,
    pub(super) current: ArcSwapOption<Map>,
    pub(super) status: watch::Sender<Status>,
    /// Says that the map is no longer right.
    pub(super) outdated: Notify,
    /// What redirections told of a newer one.
    hints: Mutex<Hints>,
    /// The number of the latest map with a new connection.
    pub(super) generation: AtomicU64,
    /// How many connections there have been.
    pub(super) connections: AtomicU64,
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
            outdated: Notify::new(),
            hints: Mutex::default(),
            generation: AtomicU64::new(0),
            connections: AtomicU64::new(0),
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
        let map = self.map()?;
        let commands = request.commands();
        let [command] = commands[..] else { return self.send_all(&map, lane, request, &commands).await };
        let reply = self.send_one(&map, lane, command, request).await?;
        Ok(if request.pipeline().is_some() { Value::Array(vec![reply]) } else { reply })
    }

    /// The map, unless there is none.
    pub(super) fn map(&self) -> Result<Arc<Map>, StoreError> {
        self.current.load_full().ok_or_else(|| {
            StoreError::Unavailable(match &*self.status.borrow() {
                Status::Down(why) => why.clone(),
                Status::Up { .. } => "the connection is being replaced".into(),
            })
        })
    }

    /// Sends a command to the server that has its key, and after it where that server says.
    async fn send_one(
        &self,
        map: &Map,
        lane: Lane,
        command: &Cmd,
        request: &impl Request,
    ) -> Result<Value, StoreError> {
        let until = Instant::now() + self.command_timeout;
        let key = key_of(command).unwrap_or_default();
        let mut server = map.server(key).map_err(StoreError::Unavailable)?.clone();
        let mut asking = false;
        let mut hops = 0;
        loop {
            let mut reply = self.exchange(&server, lane, command, asking, until).await;
            if let Err(error) = &reply
                && error.code() == Some("NOSCRIPT")
                && let Some(whole) = request.with_source()
            {
                reply = self.exchange(&server, lane, &whole, asking, until).await;
            }
            let error = match reply {
                Ok(value) => return Ok(value),
                Err(error) => error,
            };
            let Some(redirection) = Redirection::of(&error, server.host()) else {
                return Err(self.failed(&server, lane, &error));
            };
            hops += 1;
            // The first time, the other server is ready. Where it is not, the slot has just moved, or is moving.
            if hops > 1 || redirection == Redirection::TryAgain {
                let wait = jitter(ON_THE_MOVE);
                if Instant::now() + wait >= until {
                    return Err(StoreError::Unavailable(error.to_string().into()));
                }
                sleep(wait).await;
            }
            let map = self.map()?;
            let next = match &redirection {
                Redirection::Moved(address) | Redirection::Ask(address) => map.at(address),
                Redirection::TryAgain => None,
            };
            self.learn(&server, &redirection, next.is_some());
            asking = next.is_some() && matches!(redirection, Redirection::Ask(_));
            server = match next {
                Some(server) => server.clone(),
                None => map.server(key).map_err(StoreError::Unavailable)?.clone(),
            };
        }
    }

    /// Sends the commands of a pipeline, to each server its own and in order.
    async fn send_all(
        &self,
        map: &Map,
        lane: Lane,
        request: &impl Request,
        commands: &[&Cmd],
    ) -> Result<Value, StoreError> {
        let mut replies: Vec<Result<Value, StoreError>> = Vec::with_capacity(commands.len());
        let mut groups: Vec<(&Arc<Connected>, Vec<usize>)> = Vec::new();
        for (at, command) in commands.iter().enumerate() {
            replies.push(Ok(Value::Nil));
            match map.server(key_of(command).unwrap_or_default()) {
                Err(why) => replies[at] = Err(StoreError::Unavailable(why)),
                Ok(server) => match groups.iter_mut().find(|(known, _)| Arc::ptr_eq(known, server)) {
                    Some((_, group)) => group.push(at),
                    None => groups.push((server, vec![at])),
                },
            }
        }
        let sent = groups.iter().map(|(server, group)| self.send_group(map, server, lane, request, commands, group));
        for (replied, (_, group)) in join_all(sent).await.into_iter().zip(&groups) {
            for (reply, at) in replied.into_iter().zip(group) {
                replies[*at] = reply;
            }
        }
        Ok(Value::Array(replies.into_iter().collect::<Result<_, _>>()?))
    }

    async fn send_group(
        &self,
        map: &Map,
        server: &Arc<Connected>,
        lane: Lane,
        request: &impl Request,
        commands: &[&Cmd],
        group: &[usize],
    ) -> Vec<Result<Value, StoreError>> {
        let part;
        let pipeline = match request.pipeline() {
            Some(whole) if group.len() == commands.len() => whole,
            _ => {
                let mut own = pipe();
                group.iter().for_each(|at| {
                    own.add_command(commands[*at].clone());
                });
                part = own;
                &part
            }
        };
        let mut connection = server.connection(lane);
        let sent = connection.send_packed_commands(pipeline, 0, group.len());
        let sent = timeout(self.command_timeout, sent).await.unwrap_or_else(|_| Err(timed_out()));
        let sent = match sent {
            Ok(sent) if sent.len() == group.len() => sent,
            Ok(_) => return group.iter().map(|_| Err(StoreError::Corrupt("a reply is missing".into()))).collect(),
            Err(error) => {
                let error = self.failed(server, lane, &error);
                return group.iter().map(|_| Err(error.clone())).collect();
            }
        };
        server.answered(lane);
        let mut replies = Vec::with_capacity(group.len());
        let mut redirected = false;
        for (at, reply) in group.iter().zip(sent) {
            let reply = reply.extract_error();
            redirected |= reply.as_ref().is_err_and(|error| Redirection::of(error, server.host()).is_some());
            replies.push(match reply {
                // What came behind a redirected command must not be done before it.
                _ if redirected => self.send_one(map, lane, commands[*at], commands[*at]).await,
                Ok(value) => Ok(value),
                Err(error) => Err(self.failed(server, lane, &error)),
            });
        }
        replies
    }

    /// Sends a command to a server and reads its reply.
    async fn exchange(
        &self,
        server: &Connected,
        lane: Lane,
        command: &Cmd,
        asking: bool,
        until: Instant,
    ) -> RedisResult<Value> {
        let mut connection = server.connection(lane);
        let send = async {
            if !asking {
                return connection.send_packed_command(command).await;
            }
            let mut both = pipe();
            both.cmd("ASKING").add_command(command.clone());
            connection.send_packed_commands(&both, 1, 1).await.map(|mut replies| replies.pop().unwrap_or_default())
        };
        let reply = timeout_at(until, send).await.unwrap_or_else(|_| Err(timed_out()));
        // A reply that is an error may also come as a value.
        let reply = reply.and_then(Value::extract_error);
        if !reply.as_ref().is_err_and(RedisError::is_timeout) {
            server.answered(lane);
        }
        reply
    }

    /// What an error means to whoever called. One that a connection does not survive has it replaced.
    fn failed(&self, server: &Arc<Connected>, lane: Lane, error: &RedisError) -> StoreError {
        if server.is_broken_by(error, lane) {
            self.replace(server, &error.to_string());
        } else if error.code() == Some("CLUSTERDOWN") {
            self.outdated.notify_one();
        }
        store_error(error)
    }

    /// Has the supervisor replace a connection.
    fn replace(&self, server: &Arc<Connected>, why: &str) {
        if server.broken.set(why.into()).is_err() {
            return;
        }
        tracing::warn!(
            redis = server.address,
            why,
            "lost the connection to Redis: running turns go on from memory until it is back"
        );
        self.tell_status();
        self.outdated.notify_one();
    }

    /// Has the supervisor look for what a redirection tells.
    fn learn(&self, from: &Arc<Connected>, redirection: &Redirection, known: bool) {
        let mut hints = self.hints();
        match redirection {
            Redirection::Moved(_) => hints.knows = Some(from.clone()),
            // The server that a slot moves to may not have any yet.
            Redirection::Ask(address) if !known && !hints.strangers.contains(address) => {
                hints.strangers.push(address.clone());
            }
            Redirection::Ask(_) | Redirection::TryAgain => return,
        }
        drop(hints);
        self.outdated.notify_one();
    }

    pub(super) fn hints(&self) -> MutexGuard<'_, Hints> {
        self.hints.lock().expect("no code panics while it holds this lock")
    }

    /// Tells how the connection is, if that has changed.
    pub(super) fn tell_status(&self) {
        let Some(map) = self.current.load_full() else { return };
        let lacking = map.lacking();
        let status = match lacking {
            Some(why) if map.servers().is_empty() => Status::Down(why),
            lacking => Status::Up { generation: map.generation, lacking },
        };
        self.set_status(status);
    }

    pub(super) fn set_status(&self, status: Status) {
        self.status.send_if_modified(|now| {
            let news = *now != status;
            *now = status;
            news
        });
    }

    /// How the connection is, now and from now on.
    pub(super) fn status(&self) -> watch::Receiver<Status> {
        self.status.subscribe()
    }

    /// The servers' name, for people.
    pub(super) fn name(&self) -> &str {
        &self.servers.name
    }

    /// Whether the absence of a node's sign of life, this key, can be taken for its death: the server of it has been
    /// there, and the same, for as long as such a sign lives.
    pub(super) fn is_steady(&self, key: &str) -> bool {
        self.current.load().as_ref().is_some_and(|map| map.is_steady(key.as_bytes(), self.lease))
    }

    /// What all servers say of themselves now.
    pub(super) async fn infos(&self) -> Result<Vec<(String, ServerInfo)>, StoreError> {
        let map = self.map()?;
        let started = Instant::now();
        let infos = join_all(map.servers().into_iter().map(async |server| {
            let until = started + self.command_timeout;
            let reply = self.exchange(server, Lane::Commands, &cmd("INFO"), false, until).await;
            let info = reply.and_then(|info| Ok(String::from_redis_value(info)?));
            let info = info.map_err(|error| self.failed(server, Lane::Commands, &error))?;
            Ok((server.address.clone(), ServerInfo::parse(&info)))
        }));
        let infos: Result<_, _> = infos.await.into_iter().collect();
        (self.observer)("health", started.elapsed(), infos.is_ok());
        infos
    }

    /// Tries all connections: an idle one that was cut is found here; one that is in use, by its calls.
    pub(super) async fn ping(&self) {
        let Some(map) = self.current.load_full() else { return };
        let lanes = map.servers().into_iter().flat_map(|server| [(server, Lane::Commands), (server, Lane::Bulk)]);
        join_all(lanes.map(async |(server, lane)| {
            let started = Instant::now();
            let reply = self.exchange(server, lane, &cmd("PING"), false, started + self.command_timeout).await;
            (self.observer)("ping", started.elapsed(), reply.is_ok());
            if let Err(error) = reply {
                let error = self.failed(server, lane, &error);
                tracing::debug!(redis = server.address, %error, "Redis does not answer a ping");
            }
        }))
        .await;
    }

    /// A connection of its own for messages: to the server where messages on this channel are sent. In a cluster, those
    /// of other servers arrive there, too.
    pub(super) async fn subscribe(&self, channel: &str) -> RedisResult<Subscription> {
        let server = self.serving(channel).ok_or_else(|| {
            RedisError::from(std::io::Error::new(std::io::ErrorKind::NotConnected, "there is no connection yet"))
        })?;
        let connect = async {
            let pubsub = server.client.get_async_pubsub().await?;
            let (mut sink, stream) = pubsub.split();
            sink.subscribe(channel).await?;
            Ok(Subscription { server: server.clone(), stream, _sink: sink })
        };
        timeout(self.connect_timeout + self.command_timeout, connect).await.map_err(|_| timed_out())?
    }

    /// Whether a subscription is still at the right server.
    pub(super) fn is_current(&self, channel: &str, subscription: &Subscription) -> bool {
        self.serving(channel).is_some_and(|server| Arc::ptr_eq(&server, &subscription.server))
    }

    fn serving(&self, key: &str) -> Option<Arc<Connected>> {
        self.current.load().as_ref()?.server(key.as_bytes()).ok().cloned()
    }
}

/// An open connection for messages.
pub(super) struct Subscription {
    server: Arc<Connected>,
    pub(super) stream: redis::aio::PubSubStream,
    /// The connection ends with it.
    _sink: redis::aio::PubSubSink,
}

impl Connected {
    fn connection(&self, lane: Lane) -> redis::aio::MultiplexedConnection {
        match lane {
            Lane::Commands => self.commands.clone(),
            Lane::Bulk => self.bulk.clone(),
        }
    }

    fn answered(&self, lane: Lane) {
        self.timeouts[lane as usize].store(0, Ordering::Relaxed);
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
}

fn timed_out() -> RedisError {
    std::io::Error::from(std::io::ErrorKind::TimedOut).into()
}

fn store_error(error: &RedisError) -> StoreError {
    let text = error.to_string().into();
    if has_code(error, "OOM") { StoreError::Full(text) } else { StoreError::Unavailable(text) }
}

/// Whether a server error is of this kind. Redis 6.2 gives an error inside a script as a message that quotes it.
fn has_code(error: &RedisError, code: &str) -> bool {
    error.code() == Some(code) || error.detail().is_some_and(|detail| detail.contains(&format!("-{code} ")))
}
