//! The systems under test: started, asked for turns, measured, ended.

use std::{
    net::{SocketAddr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::{
    client::Request,
    event::{BYTES, Order},
    process::{Cores, Process},
    setup,
};

/// What can stand between the client and the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Nothing.
    Direct,
    /// nginx without buffering.
    Nginx,
    /// haproxy.
    Haproxy,
    /// Pingora that only passes on.
    Pingora,
    /// Holdover, turns in memory.
    Holdover,
    /// Holdover, turns in Redis: an event is delivered once Redis has it.
    Redis,
    /// Holdover, turns in Redis: delivered at once, written in windows.
    RedisWindow,
    /// A Node service with Vercel's library, and Redis.
    ResumableStream,
    /// A FastAPI service with XADD and XREAD, and Redis.
    Fastapi,
}

/// What all systems of a run share.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) backend: SocketAddr,
    pub(crate) cores: Cores,
    /// For configurations and logs.
    pub(crate) directory: PathBuf,
    /// A Redis that is there; one is started where this is not set.
    pub(crate) redis: Option<String>,
    /// What Holdover's configuration says besides its defaults.
    pub(crate) config: String,
}

/// A running system.
pub(crate) struct System {
    pub(crate) kind: Kind,
    /// Where clients reach it.
    pub(crate) address: SocketAddr,
    /// The proxy first, then what it needs.
    processes: Vec<Process>,
    redis: Option<String>,
}

/// How long a system may take to serve its first turn.
const START: Duration = Duration::from_secs(10);

impl Kind {
    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Haproxy => "haproxy",
            Self::Pingora => "pingora",
            Self::Holdover => "holdover",
            Self::Redis => "holdover+redis",
            Self::RedisWindow => "holdover+redis, window",
            Self::ResumableStream => "resumable-stream",
            Self::Fastapi => "fastapi + xadd",
        }
    }

    /// Whether it is Holdover.
    pub(crate) fn is_ours(self) -> bool {
        matches!(self, Self::Holdover | Self::Redis | Self::RedisWindow)
    }

    /// Whether a turn can be resumed.
    pub(crate) fn records(self) -> bool {
        self.is_ours() || matches!(self, Self::ResumableStream | Self::Fastapi)
    }

    /// Whether a turn can be resumed after its end.
    pub(crate) fn keeps_ended(self) -> bool {
        self.records() && self != Self::ResumableStream
    }

    /// Whether it needs Redis.
    pub(crate) fn needs_redis(self) -> bool {
        self.records() && self != Self::Holdover
    }

    /// Most streams that it can be given within 20,000 open files: FastAPI has a third connection for each, to Redis.
    pub(crate) fn most_streams(self) -> usize {
        if self == Self::Fastapi { 6000 } else { 9500 }
    }
}

impl System {
    /// Starts it and has it serve one turn.
    pub(crate) async fn start(kind: Kind, place: &Place) -> Result<Self> {
        let mut system = Self { kind, address: place.backend, processes: Vec::new(), redis: place.redis.clone() };
        let started = match system.spawn(place) {
            Ok(()) => system.ready().await,
            failed => failed,
        };
        started.with_context(|| format!("{} does not start", kind.name()))?;
        Ok(system)
    }

    /// Starts another node of it, on the same Redis.
    pub(crate) async fn another_node(&self, place: &Place) -> Result<Self> {
        let place = Place { redis: self.redis.clone(), directory: place.directory.join("another"), ..place.clone() };
        std::fs::create_dir_all(&place.directory)?;
        Self::start(self.kind, &place).await
    }

    fn spawn(&mut self, place: &Place) -> Result<()> {
        if self.kind == Kind::Direct {
            return Ok(());
        }
        self.address = free_address()?;
        if self.kind.needs_redis() && self.redis.is_none() {
            let address = free_address()?;
            let log = place.directory.join("redis.log");
            self.processes.push(Process::start(&setup::redis(address), place.cores.rest.as_deref(), &log)?);
            self.redis = Some(format!("redis://{address}/0"));
        }
        let command = setup::command(self.kind, self.address, self.redis.as_deref().unwrap_or_default(), place)?;
        let log = place.directory.join(format!("{}.log", self.address.port()));
        self.processes.insert(0, Process::start(&command, place.cores.system.as_deref(), &log)?);
        Ok(())
    }

    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            self.check()?;
            match one_turn(self.address).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
                served => return served,
            }
        }
    }

    /// Fails if one of its processes has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.processes.iter_mut().try_for_each(Process::check)
    }

    /// The request for what follows event `after` of a turn, as a client of this system makes it.
    pub(crate) fn rest(&self, turn: &str, after: u64) -> Request {
        let (path, last_event_id) = match self.kind {
            Kind::ResumableStream => (format!("/streams/{turn}?skip={}", after * BYTES as u64), None),
            Kind::Fastapi => (format!("/streams/{turn}"), Some(format!("0-{after}"))),
            _ if after == 0 => (format!("/.holdover/turns/{turn}/stream"), None),
            _ => ("/turn".to_owned(), Some(format!("{turn}-{after}"))),
        };
        Request { path, after, last_event_id }
    }

    /// CPU time taken so far by the proxy, and by all processes.
    pub(crate) fn cpu(&self) -> Result<(Duration, Duration)> {
        let each = self.processes.iter().map(Process::cpu).collect::<Result<Vec<_>>>()?;
        Ok((each.first().copied().unwrap_or_default(), each.iter().sum()))
    }

    /// Resident bytes of the proxy.
    pub(crate) fn resident(&self) -> Result<u64> {
        self.processes.first().map_or(Ok(0), Process::resident)
    }

    /// Files and sockets that the proxy has open.
    pub(crate) fn open_files(&self) -> Result<usize> {
        self.processes.first().map_or(Ok(0), Process::open_files)
    }
}

async fn one_turn(address: SocketAddr) -> Result<()> {
    let order = Order { events: 1, ..Order::default() };
    let mut stream = Request::new(order.path()).open(address).await?;
    while stream.read(|_| {}).await? {}
    Ok(())
}

/// A port that is free now.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}
