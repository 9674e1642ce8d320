//! A Redis server that a test starts, kills, freezes and starts again.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio, id},
    sync::atomic::{AtomicU32, Ordering},
};

use redis::{Cmd, FromRedisValue, aio::MultiplexedConnection};
use tempfile::TempDir;
use tokio::time::sleep;

use super::{DEADLINE, LOOK_AGAIN, within};

/// See the module. Dropped, it is killed. What it held is gone with each process: nothing is written to disk, but for what
/// sentinels and servers of a cluster know of each other.
pub(crate) struct Redis {
    address: SocketAddr,
    folder: TempDir,
    /// In front of what every server is told.
    sentinel: bool,
    arguments: Vec<String>,
    environment: Vec<(&'static str, String)>,
    child: Option<Child>,
}

impl Redis {
    /// A server that answers.
    pub(crate) async fn start() -> Self {
        for _ in 0..10 {
            let mut redis = Self::reserved();
            if redis.try_start().await {
                return redis;
            }
        }
        panic!("redis-server does not start: is it installed?");
    }

    /// An address where a server can be started later.
    pub(crate) fn reserved() -> Self {
        let host = own_address();
        let free = || TcpListener::bind((host, 0)).and_then(|listener| listener.local_addr()).expect("a free port");
        // Servers of a cluster take one more, 10,000 above.
        let address = std::iter::repeat_with(free).find(|address| address.port() < 55_000).expect("there are many");
        Self {
            address,
            folder: tempfile::tempdir().expect("a folder for the server"),
            sentinel: false,
            arguments: Vec::new(),
            environment: Vec::new(),
            child: None,
        }
    }

    /// With more arguments, from its next start on.
    pub(crate) fn with(mut self, arguments: &[&str]) -> Self {
        self.arguments.extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// With variables of the environment.
    pub(crate) fn env(mut self, variables: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.environment.extend(variables);
        self
    }

    /// As a sentinel of this configuration, which it keeps up to date by itself.
    pub(crate) fn sentinel(mut self, configuration: &str) -> Self {
        std::fs::write(self.folder.path().join("sentinel.conf"), configuration).expect("a file can be written");
        self.sentinel = true;
        self
    }

    /// Started where it was reserved.
    pub(crate) async fn started(mut self) -> Self {
        self.restart().await;
        self
    }

    /// Starts the server again, empty, where it was before.
    pub(crate) async fn restart(&mut self) {
        assert!(self.try_start().await, "redis-server does not start again at {}", self.address);
    }

    async fn try_start(&mut self) -> bool {
        assert!(self.child.is_none(), "it runs already");
        let (host, port) = (self.address.ip().to_string(), self.address.port().to_string());
        let mut command = Command::new("redis-server");
        if self.sentinel {
            command.arg(self.folder.path().join("sentinel.conf")).arg("--sentinel");
        } else {
            command.args(["--save", "", "--appendonly", "no"]);
        }
        command.args(["--bind", &host, "--port", &port, "--dir"]).arg(self.folder.path()).args(&self.arguments);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("redis-server can be started");
        let answers = async {
            while child.try_wait().expect("it is our child").is_none() {
                if self.try_command::<String>(&redis::cmd("PING")).await.is_some() {
                    return true;
                }
                sleep(LOOK_AGAIN).await;
            }
            false
        };
        let answers = within(DEADLINE, "redis-server to answer", answers).await;
        self.child = answers.then_some(child);
        answers
    }

    /// As Holdover's configuration names it.
    pub(crate) fn url(&self) -> String {
        format!("redis://{}/0", self.address)
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) fn kill9(&mut self) {
        let mut child = self.child.take().expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it is our child");
    }

    /// Stops the process where it stands: connections stay open, nothing is answered.
    pub(crate) fn freeze(&self) {
        self.signal("STOP");
    }

    /// Lets a frozen process go on.
    pub(crate) fn thaw(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id();
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status();
        assert!(sent.expect("there is a shell").success(), "the signal cannot be sent");
    }

    /// Sends a command, over a connection of its own.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &str) -> T {
        self.ask(words).await.unwrap_or_else(|| panic!("{} refuses {words:?}", self.address))
    }

    /// The same to one that may be away or refuse it. One that is frozen is waited for.
    pub(crate) async fn ask<T: FromRedisValue>(&self, words: &str) -> Option<T> {
        let mut words = words.split(' ');
        let mut command = redis::cmd(words.next().expect("a command has a name"));
        for word in words {
            command.arg(word);
        }
        within(DEADLINE, "a reply of redis-server", self.try_command(&command)).await
    }

    /// Forgets everything.
    pub(crate) async fn flush_all(&self) {
        self.command::<()>("FLUSHALL").await;
    }

    /// The number of connections, without the one that asks.
    pub(crate) async fn connections(&self) -> usize {
        self.command::<String>("CLIENT LIST").await.lines().count() - 1
    }

    async fn try_command<T: FromRedisValue>(&self, command: &Cmd) -> Option<T> {
        let client = redis::Client::open(self.url()).expect("the address is one");
        let mut connection: MultiplexedConnection = client.get_multiplexed_async_connection().await.ok()?;
        command.query_async(&mut connection).await.ok()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.child.is_some() {
            self.kill9();
        }
    }
}

/// A loopback address nobody else uses. Connections come from 127.0.0.1, so nothing can take the port while the server
/// is away, not even an attempt to connect to it.
fn own_address() -> Ipv4Addr {
    static SERVERS: AtomicU32 = AtomicU32::new(0);
    let server = SERVERS.fetch_add(1, Ordering::Relaxed);
    let host = (id() ^ (server << 16)) & 0x007f_ffff;
    Ipv4Addr::from(0x7f80_0000 | host)
}
