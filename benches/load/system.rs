//! The systems under test: how each is set up and started.

use std::{
    ffi::OsString,
    fs,
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::ValueEnum;
use serde::Serialize;

use super::{
    client::Request,
    event::Order,
    process::{Cores, Process},
};

/// What can stand between the client and the backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// Nothing.
    Direct,
    /// nginx without buffering.
    Nginx,
    /// Pingora that only passes on.
    Pingora,
    /// Holdover, turns in memory.
    Holdover,
    /// Holdover, turns in Redis.
    Redis,
}

/// What all systems of a run share.
pub(crate) struct Place {
    pub(crate) backend: SocketAddr,
    pub(crate) cores: Cores,
    /// For configurations and logs.
    pub(crate) directory: PathBuf,
    /// A Redis that is there; one is started where this is not set.
    pub(crate) redis: Option<String>,
}

/// A running system.
pub(crate) struct System {
    pub(crate) kind: Kind,
    /// Where clients reach it.
    pub(crate) address: SocketAddr,
    /// The proxy first, then what it needs.
    processes: Vec<Process>,
}

/// How long a system may take to serve its first turn.
const START: Duration = Duration::from_secs(10);

impl Kind {
    /// Its name in the report.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Nginx => "nginx",
            Self::Pingora => "pingora",
            Self::Holdover => "holdover",
            Self::Redis => "holdover+redis",
        }
    }

    /// Whether a turn can be resumed.
    pub(crate) fn records(self) -> bool {
        matches!(self, Self::Holdover | Self::Redis)
    }
}

impl System {
    /// Starts it and has it serve one turn.
    pub(crate) async fn start(kind: Kind, place: &Place) -> Result<Self> {
        let address = if kind == Kind::Direct { place.backend } else { free_address()? };
        let mut system = Self { kind, address, processes: Vec::new() };
        let started = match system.spawn(place) {
            Ok(()) => system.ready().await,
            failed => failed,
        };
        started.with_context(|| format!("{} does not start", kind.name()))?;
        Ok(system)
    }

    fn spawn(&mut self, place: &Place) -> Result<()> {
        let command = match self.kind {
            Kind::Direct => return Ok(()),
            Kind::Nginx => nginx(self.address, place)?,
            Kind::Pingora => {
                let mut command = Command::new(std::env::current_exe()?);
                command.args(["pingora", &self.address.to_string(), &place.backend.to_string()]);
                command
            }
            Kind::Holdover => holdover(self.address, place)?,
            Kind::Redis => {
                let mut command = holdover(self.address, place)?;
                command.arg("--redis").arg(self.redis(place)?);
                command
            }
        };
        let log = place.directory.join(format!("{}.log", self.kind.name()));
        self.processes.insert(0, Process::start(&command, place.cores.system.as_deref(), &log)?);
        Ok(())
    }

    /// The URL of a Redis: the one given, or one started for this system, next to backend and client.
    fn redis(&mut self, place: &Place) -> Result<String> {
        if let Some(url) = &place.redis {
            return Ok(url.clone());
        }
        let port = free_address()?.port().to_string();
        let mut command = Command::new("redis-server");
        command.args(["--bind", "127.0.0.1", "--port", &port, "--save", "", "--appendonly", "no"]);
        let log = place.directory.join("redis.log");
        self.processes.push(Process::start(&command, place.cores.rest.as_deref(), &log)?);
        Ok(format!("redis://127.0.0.1:{port}/0"))
    }

    async fn ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        loop {
            for process in &mut self.processes {
                process.check()?;
            }
            match one_turn(self.address).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(Duration::from_millis(20)).await,
                served => return served,
            }
        }
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
}

async fn one_turn(address: SocketAddr) -> Result<()> {
    let order = Order { events: 1, ..Order::default() };
    let mut stream = Request::new(order.path()).open(address).await?;
    while stream.read(|_| {}).await? {}
    Ok(())
}

fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

/// The binary that cargo built with this harness, or the one that `HOLDOVER_BIN` names.
fn holdover(listen: SocketAddr, place: &Place) -> Result<Command> {
    let binary = std::env::var_os("HOLDOVER_BIN").unwrap_or_else(|| OsString::from(env!("CARGO_BIN_EXE_holdover")));
    let mut command = Command::new(binary);
    command.args(["run", "--log-level", "warn", "--upstream", &format!("http://{}", place.backend)]);
    command.args(["--listen", &listen.to_string(), "--admin-listen", &free_address()?.to_string()]);
    Ok(command)
}

/// One worker that passes on every byte as it comes, over kept connections, and writes no access log.
fn nginx(listen: SocketAddr, place: &Place) -> Result<Command> {
    let prefix = place.directory.join(format!("nginx-{}", listen.port()));
    fs::create_dir_all(&prefix)?;
    let file = prefix.join("nginx.conf");
    fs::write(&file, nginx_conf(listen, place.backend, &prefix))?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&prefix).arg("-c").arg(&file).arg("-e").arg(prefix.join("error.log"));
    Ok(command)
}

fn nginx_conf(listen: SocketAddr, backend: SocketAddr, prefix: &Path) -> String {
    let prefix = prefix.display();
    // A single process, so that ending it ends all of nginx.
    format!(
        "daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 16384; pid {prefix}/pid;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {prefix}/body; proxy_temp_path {prefix}/proxy; fastcgi_temp_path {prefix}/fastcgi;
  uwsgi_temp_path {prefix}/uwsgi; scgi_temp_path {prefix}/scgi;
  upstream backend {{ server {backend}; keepalive 64; }}
  server {{
    listen {listen} backlog=4096;
    location / {{
      proxy_pass http://backend; proxy_http_version 1.1; proxy_set_header Connection \"\";
      proxy_buffering off; proxy_read_timeout 600s;
    }}
  }}
}}
"
    )
}
