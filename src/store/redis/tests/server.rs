//! A real Redis server of a test's own.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use redis::{Client, FromRedisValue, RedisResult, cmd};
use tempfile::TempDir;

/// Killed when dropped.
pub(super) struct Server {
    pub(super) port: u16,
    process: Child,
    dir: TempDir,
    kind: Kind,
    arguments: Vec<String>,
}

enum Kind {
    Server,
    /// Watches a master.
    Sentinel {
        master: String,
        port: u16,
    },
}

impl Server {
    /// Starts a server on a free port.
    pub(super) fn start(arguments: &[&str]) -> Self {
        Self::start_as(Kind::Server, arguments)
    }

    fn start_as(kind: Kind, arguments: &[&str]) -> Self {
        let arguments: Vec<String> = arguments.iter().map(|&argument| argument.into()).collect();
        for _ in 0..20 {
            let dir = tempfile::tempdir().unwrap();
            let port = Self::free_port();
            let mut process = spawn(&kind, port, &dir, &arguments);
            if answers(port, &mut process) {
                return Self { port, process, dir, kind, arguments };
            }
            // Somebody else took the port meanwhile.
        }
        panic!("redis-server does not start; is it installed?");
    }

    /// Starts a sentinel that watches a master of this name.
    pub(super) fn start_sentinel(master: &str, port: u16) -> Self {
        Self::start_as(Kind::Sentinel { master: master.to_owned(), port }, &[])
    }

    /// A port that was free a moment ago.
    pub(super) fn free_port() -> u16 {
        // The servers of a cluster take one more, 10,000 above.
        let free = || TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        std::iter::repeat_with(free).find(|port| *port < 55_000).expect("an endless iterator")
    }

    /// Has the server remember what it holds now: that is what it knows when it is started again.
    pub(super) async fn remember(&self) {
        self.command::<()>(&["SAVE"]).await;
    }

    /// Kills the server. What it held is lost, but for what it was to remember.
    pub(super) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    /// Starts a killed server again on the same port.
    pub(super) fn start_again(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            self.process = spawn(&self.kind, self.port, &self.dir, &self.arguments);
            if answers(self.port, &mut self.process) {
                return;
            }
            assert!(Instant::now() < deadline, "redis-server does not start again");
        }
    }

    /// Stops the process without closing its connections.
    pub(super) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen process go on.
    pub(super) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").arg(signal).arg(self.process.id().to_string()).status().unwrap();
        assert!(sent.success());
    }

    /// Sends a command over a connection of its own.
    pub(super) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.command_as("", words).await
    }

    /// The same, with a password.
    pub(super) async fn command_as<T: FromRedisValue>(&self, password: &str, words: &[&str]) -> T {
        self.try_command(password, words).await.unwrap()
    }

    /// The same on a server that may cut its clients off, as one does whose role changes.
    pub(super) async fn try_command<T: FromRedisValue>(&self, password: &str, words: &[&str]) -> RedisResult<T> {
        let login = if password.is_empty() { String::new() } else { format!(":{password}@") };
        let client = Client::open(format!("redis://{login}127.0.0.1:{}", self.port)).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await?;
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(kind: &Kind, port: u16, dir: &TempDir, arguments: &[String]) -> Child {
    let mut command = Command::new("redis-server");
    if let Kind::Sentinel { master, port } = kind {
        // A sentinel keeps its state in its configuration file.
        let path = dir.path().join("sentinel.conf");
        std::fs::write(&path, format!("sentinel monitor {master} 127.0.0.1 {port} 1\n")).unwrap();
        command.arg(path).arg("--sentinel");
    } else {
        command.args(["--save", "", "--appendonly", "no"]);
    }
    command
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(dir.path())
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server is installed")
}

/// Waits until the server answers; `false` if it ended instead.
fn answers(port: u16, process: &mut Child) -> bool {
    let client = Client::open(format!("redis://127.0.0.1:{port}")).unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while Instant::now() < deadline {
        if process.try_wait().unwrap().is_some() {
            return false;
        }
        let connection = client.get_connection_with_timeout(Duration::from_millis(200));
        if connection.and_then(|mut connection| cmd("PING").query::<String>(&mut connection)).is_ok() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    false
}
