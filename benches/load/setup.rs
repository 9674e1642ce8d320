//! How each system under test is set up: its command line and configuration.

use std::{
    ffi::OsString,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Result, bail};

use super::system::{Kind, Place, free_address};

/// How long events are gathered for Redis where they are gathered. Long enough for several events of one turn.
const WINDOW: &str = "200ms";

/// The command that runs the proxy of a system.
pub(crate) fn command(kind: Kind, listen: SocketAddr, redis: &str, place: &Place) -> Result<Command> {
    Ok(match kind {
        Kind::Direct => bail!("there is nothing to start"),
        Kind::Nginx => nginx(listen, place)?,
        Kind::Haproxy => haproxy(listen, place)?,
        Kind::Pingora => {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["pingora", &listen.to_string(), &place.backend.to_string()]);
            command
        }
        Kind::Holdover => holdover(listen, place)?,
        Kind::Redis => {
            let mut command = holdover(listen, place)?;
            command.args(["--redis", redis]);
            command
        }
        Kind::RedisWindow => {
            let mut command = holdover(listen, place)?;
            command.args(["--redis", redis]);
            command.env("HOLDOVER__STORE__DURABILITY", "behind").env("HOLDOVER__STORE__FLUSH_WINDOW", WINDOW);
            command
        }
        Kind::ResumableStream => {
            let folder = peers().join("node");
            let node = fs::read_dir(folder.join("node_modules"))?
                .filter_map(|entry| Some(entry.ok()?.path().join("bin/node")))
                .find(|node| node.exists())
                .unwrap_or_else(|| "node".into());
            peer(node, &folder.join("server.mjs"), listen, redis, place)
        }
        Kind::Fastapi => {
            let python = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/peers/bin/python");
            peer(python, &peers().join("python/server.py"), listen, redis, place)
        }
    })
}

/// Whether a system's programs are there.
pub(crate) fn installed(kind: Kind, redis_is_given: bool) -> bool {
    let runs = |program: &str, ask: &str| Command::new(program).arg(ask).output().is_ok_and(|o| o.status.success());
    let programs = match kind {
        Kind::Nginx => runs("nginx", "-v"),
        Kind::Haproxy => runs("haproxy", "-v"),
        Kind::ResumableStream => peers().join("node/node_modules").exists(),
        Kind::Fastapi => Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/peers").exists(),
        _ => true,
    };
    programs && (!kind.needs_redis() || redis_is_given || runs("redis-server", "--version"))
}

/// A Redis that keeps nothing on disk.
pub(crate) fn redis(listen: SocketAddr) -> Command {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &listen.port().to_string(), "--save", "", "--appendonly", "no"]);
    command.args(["--maxclients", "12000"]);
    command
}

fn peers() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/load/peers")
}

fn peer(interpreter: PathBuf, program: &Path, listen: SocketAddr, redis: &str, place: &Place) -> Command {
    let mut command = Command::new(interpreter);
    command.arg(program).arg(listen.port().to_string()).arg(format!("http://{}", place.backend)).arg(redis);
    command
}

/// The binary that cargo built with this harness, or the one that `HOLDOVER_BIN` names.
fn holdover(listen: SocketAddr, place: &Place) -> Result<Command> {
    let binary = std::env::var_os("HOLDOVER_BIN").unwrap_or_else(|| OsString::from(env!("CARGO_BIN_EXE_holdover")));
    let mut command = Command::new(binary);
    command.args(["run", "--log-level", "warn", "--upstream", &format!("http://{}", place.backend)]);
    command.args(["--listen", &listen.to_string(), "--admin-listen", &free_address()?.to_string()]);
    if !place.config.is_empty() {
        let file = place.directory.join(format!("holdover-{}.toml", listen.port()));
        fs::write(&file, &place.config)?;
        command.arg("--config").arg(file);
    }
    Ok(command)
}

/// One worker that passes on every byte as it comes, over kept connections, and writes no access log.
fn nginx(listen: SocketAddr, place: &Place) -> Result<Command> {
    let prefix = place.directory.join(format!("nginx-{}", listen.port()));
    fs::create_dir_all(&prefix)?;
    let file = prefix.join("nginx.conf");
    let backend = place.backend;
    // A single process, so that ending it ends all of nginx.
    let conf = format!(
        "daemon off; master_process off; worker_processes 1; worker_rlimit_nofile 20000; pid {prefix}/pid;
events {{ worker_connections 19900; }}
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
",
        prefix = prefix.display()
    );
    fs::write(&file, conf)?;
    let mut command = Command::new("nginx");
    command.arg("-p").arg(&prefix).arg("-c").arg(&file).arg("-e").arg(prefix.join("error.log"));
    Ok(command)
}

/// One thread that passes on every byte as it comes, over kept connections, and writes no log.
fn haproxy(listen: SocketAddr, place: &Place) -> Result<Command> {
    let file = place.directory.join(format!("haproxy-{}.cfg", listen.port()));
    let backend = place.backend;
    let conf = format!(
        "global
  nbthread 1
  maxconn 9900
defaults
  mode http
  option http-no-delay
  timeout connect 5s
  timeout client 600s
  timeout server 600s
frontend clients
  bind {listen} backlog 4096
  default_backend service
backend service
  http-reuse always
  server one {backend}
"
    );
    fs::write(&file, conf)?;
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-f").arg(&file);
    Ok(command)
}
