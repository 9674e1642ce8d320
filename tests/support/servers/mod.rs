//! Real Redis and Valkey servers, one by one, as a cluster, or under sentinels. The store's own tests share this file.

#![allow(dead_code, reason = "the tests of the store and the black-box tests use a part each")]

mod cluster;
mod sentinels;

use std::{
    ffi::OsString,
    net::{Ipv4Addr, TcpListener},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use redis::{Client, FromRedisValue, RedisResult, cmd};
use tempfile::TempDir;

#[allow(unused_imports, reason = "as above")]
pub(crate) use self::{cluster::Cluster, sentinels::Sentinels};

/// How long a server may take, on a busy machine too.
const DEADLINE: Duration = Duration::from_secs(60);

/// Who made a server. `scripts/setup test` installs them all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Make {
    /// Debian's Redis, 7.0 or newer: where nothing is said of the version.
    #[default]
    System,
    /// The oldest that Holdover works with.
    Redis6,
    Redis8,
    Valkey9,
}

impl Make {
    /// How the version that the server tells of itself begins.
    pub(crate) fn version(self) -> &'static str {
        match self {
            Self::System => "redis_version:7.",
            Self::Redis6 => "redis_version:6.2.",
            Self::Redis8 => "redis_version:8.",
            Self::Valkey9 => "valkey_version:9.",
        }
    }

    fn program(self) -> PathBuf {
        let name = match self {
            Self::System => return "redis-server".into(),
            Self::Redis6 => "redis-6",
            Self::Redis8 => "redis-8",
            Self::Valkey9 => "valkey-9",
        };
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join(".deps/servers").join(name);
        assert!(program.exists(), "{} is missing: run scripts/setup test", program.display());
        program
    }
}

/// How a server is to be started.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    make: Make,
    host: Ipv4Addr,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    /// Lines of the configuration of a sentinel, which keeps its state there.
    sentinel: Option<String>,
}

impl Recipe {
    /// At 127.0.0.1, with nothing on disk.
    pub(crate) fn new(make: Make) -> Self {
        let arguments = ["--save", "", "--appendonly", "no"].map(Into::into).to_vec();
        Self { make, host: Ipv4Addr::LOCALHOST, arguments, environment: vec![], sentinel: None }
    }

    /// A sentinel with this configuration.
    pub(crate) fn sentinel(make: Make, configuration: String) -> Self {
        Self { arguments: vec![], sentinel: Some(configuration), ..Self::new(make) }
    }

    /// At an address of its own.
    pub(crate) fn alone(self) -> Self {
        let host = own_host();
        // Else the others would hear of the address that its connections come from.
        match self.sentinel {
            Some(lines) => Self { host, sentinel: Some(format!("{lines}sentinel announce-ip {host}\n")), ..self },
            None => Self { host, ..self }.with(&["--replica-announce-ip", &host.to_string()]),
        }
    }

    /// With more arguments.
    pub(crate) fn with(mut self, arguments: &[impl AsRef<str>]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| argument.as_ref().into()));
        self
    }

    /// With variables of the environment.
    pub(crate) fn env(mut self, variables: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.environment.extend(variables.into_iter().map(|(name, value)| (name.to_owned(), value)));
        self
    }

    /// Starts a server on a free port and waits until it answers.
    pub(crate) fn start(&self) -> Server {
        for _ in 0..20 {
            let mut server = self.reserve();
            if server.try_start() {
                return server;
            }
            // Somebody else took the port meanwhile.
        }
        panic!("{:?} does not start; is it installed?", self.make);
    }

    /// A server that can be started later.
    pub(crate) fn reserve(&self) -> Server {
        let port = free_port(self.host);
        Server { host: self.host, port, process: None, dir: tempfile::tempdir().unwrap(), recipe: self.clone() }
    }
}

/// A loopback address nobody else uses. Connections come from 127.0.0.1, so nothing can take a port there while its server
/// is away, not even an attempt to connect to it.
pub(crate) fn own_host() -> Ipv4Addr {
    static HOSTS: AtomicU32 = AtomicU32::new(0);
    let host = HOSTS.fetch_add(1, Ordering::Relaxed);
    Ipv4Addr::from(0x7f80_0000 | ((std::process::id() ^ (host << 16)) & 0x007f_ffff))
}

/// A port that was free a moment ago.
fn free_port(host: Ipv4Addr) -> u16 {
    // The servers of a cluster take one more, 10,000 above.
    let free = || TcpListener::bind((host, 0)).unwrap().local_addr().unwrap().port();
    std::iter::repeat_with(free).find(|port| *port < 55_000).expect("an endless iterator")
}

/// A process. Killed when dropped.
pub(crate) struct Server {
    pub(crate) host: Ipv4Addr,
    pub(crate) port: u16,
    process: Option<Child>,
    dir: TempDir,
    recipe: Recipe,
}

impl Server {
    /// Starts the system's Redis at 127.0.0.1.
    pub(crate) fn start(arguments: &[&str]) -> Self {
        Recipe::new(Make::System).with(arguments).start()
    }

    /// Starts a sentinel that watches a master of this name, and leaves it to others to say when it is gone.
    pub(crate) fn start_sentinel(master: &str, port: u16) -> Self {
        Recipe::sentinel(Make::System, format!("sentinel monitor {master} 127.0.0.1 {port} 1\n")).start()
    }

    /// A port that was free a moment ago.
    pub(crate) fn free_port() -> u16 {
        free_port(Ipv4Addr::LOCALHOST)
    }

    /// Has the server remember what it holds now: that is what it knows when it is started again.
    pub(crate) async fn remember(&self) {
        self.command::<()>(&["SAVE"]).await;
    }

    /// Kills the server. What it held is lost, but for what it was to remember.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Whether the process is there, frozen or not.
    pub(crate) fn runs(&self) -> bool {
        self.process.is_some()
    }

    /// Starts a killed or reserved server at its port.
    pub(crate) fn start_again(&mut self) {
        let deadline = Instant::now() + DEADLINE;
        while !self.try_start() {
            assert!(Instant::now() < deadline, "{:?} does not start at {}:{}", self.recipe.make, self.host, self.port);
        }
    }

    /// `false` if it ended again, or never answered.
    fn try_start(&mut self) -> bool {
        assert!(self.process.is_none(), "it runs already");
        let mut command = Command::new(self.recipe.make.program());
        if let Some(configuration) = &self.recipe.sentinel {
            let path = self.dir.path().join("sentinel.conf");
            if !path.exists() {
                std::fs::write(&path, configuration).unwrap();
            }
            command.arg(path).arg("--sentinel");
        }
        command.args(["--port", &self.port.to_string(), "--bind", &self.host.to_string(), "--dir"]);
        command.arg(self.dir.path()).args(&self.recipe.arguments);
        command.envs(self.recipe.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut process = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let answers = answers(&self.client(""), &mut process);
        if answers {
            self.process = Some(process);
        } else {
            let _ = process.kill();
            let _ = process.wait();
        }
        answers
    }

    /// Stops the process without closing its connections.
    pub(crate) fn freeze(&self) {
        self.signal("-STOP");
    }

    /// Lets a frozen process go on.
    pub(crate) fn thaw(&self) {
        self.signal("-CONT");
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().expect("it runs").id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status().unwrap();
        assert!(sent.success());
    }

    /// Sends a command over a connection of its own.
    pub(crate) async fn command<T: FromRedisValue>(&self, words: &[&str]) -> T {
        self.command_as("", words).await
    }

    /// The same, with a password.
    pub(crate) async fn command_as<T: FromRedisValue>(&self, password: &str, words: &[&str]) -> T {
        self.try_command(password, words).await.unwrap()
    }

    /// The same on a server that may be away, or cut its clients off, as one does whose role changes.
    pub(crate) async fn try_command<T: FromRedisValue>(&self, password: &str, words: &[&str]) -> RedisResult<T> {
        let mut connection = self.client(password).get_multiplexed_async_connection().await?;
        let mut command = cmd(words[0]);
        command.arg(&words[1..]);
        command.query_async(&mut connection).await
    }

    fn client(&self, password: &str) -> Client {
        let login = if password.is_empty() { String::new() } else { format!(":{password}@") };
        Client::open(format!("redis://{login}{}:{}", self.host, self.port)).unwrap()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

/// Waits until the server answers; `false` if it ended instead.
fn answers(client: &Client, process: &mut Child) -> bool {
    let deadline = Instant::now() + DEADLINE;
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

/// Waits until a condition holds.
async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition().await {
        assert!(Instant::now() < deadline, "waited {DEADLINE:?} for this: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
