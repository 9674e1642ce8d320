//! The Holdover process under test.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{BufRead as _, BufReader},
    net::{SocketAddr, TcpListener},
    os::fd::OwnedFd,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Mutex},
    thread,
    time::Duration,
};

use reqwest::Method;
use tempfile::TempDir;
use tokio::sync::watch;

use super::{
    Backend, Client, DEADLINE, eventually,
    namespace::{Cable, Namespace},
    within,
};

/// How a process is to be started.
pub(crate) struct Setup {
    /// What stands in front of its command line.
    entering: Vec<String>,
    listen: SocketAddr,
    /// Sockets that it is given, each with its name; instead of those it would bind.
    sockets: Vec<(TcpListener, &'static str)>,
    upstreams: Vec<String>,
    config: String,
    environment: Vec<(String, String)>,
}

impl Setup {
    /// With the public listener at this address.
    pub(crate) fn at(mut self, address: SocketAddr) -> Self {
        self.listen = address;
        self
    }

    /// With a socket that listens already, as systemd hands it over; two at most.
    pub(crate) fn socket(mut self, socket: &TcpListener, name: &'static str) -> Self {
        self.sockets.push((socket.try_clone().expect("a socket can be cloned"), name));
        self
    }

    /// With this configuration file.
    pub(crate) fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = toml.into();
        self
    }

    /// With one more backend.
    pub(crate) fn upstream(mut self, address: SocketAddr) -> Self {
        self.upstreams.push(format!("http://{address}"));
        self
    }

    /// With a variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// In a network of its own, listening on its front.
    pub(crate) fn inside(mut self, namespace: &Namespace) -> Self {
        self.entering = namespace.entering().map(str::to_owned).to_vec();
        self.listen = (namespace.inside(Cable::Front), 0).into();
        self
    }

    /// Starts it and waits until it is ready.
    pub(crate) async fn start(self) -> Holdover {
        let folder = tempfile::tempdir().expect("a folder for the configuration");
        let file = folder.path().join("holdover.toml");
        std::fs::write(&file, &self.config).expect("the configuration can be written");
        let mut command = command_with(self.entering, self.sockets);
        let admin = SocketAddr::from((self.listen.ip(), 0));
        command.args(["run", "--listen", &self.listen.to_string(), "--admin-listen", &admin.to_string(), "--config"]);
        command.arg(&file);
        for upstream in &self.upstreams {
            command.args(["--upstream", upstream]);
        }
        let inherited = std::env::vars_os().map(|(name, _)| name);
        for name in inherited.filter(|name| name.to_string_lossy().starts_with("HOLDOVER")) {
            command.env_remove(name);
        }
        command.env("HOLDOVER__LOG__FORMAT", "json").env("HOLDOVER__LOG__LEVEL", "info,holdover=debug");
        command.envs(self.environment);
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary can be started");
        let pid = child.id();
        let stderr = child.stderr.take().expect("stderr is piped");
        let (lines, exit) = (Arc::new(Lines::default()), watch::channel(None).0);
        let child = Arc::new(Mutex::new(child));
        let reading = {
            let (lines, exit, child) = (lines.clone(), exit.clone(), child.clone());
            thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                    lines.push(line);
                }
                let status = child.lock().expect("nobody panics with it").wait().expect("it is our child");
                exit.send_replace(Some(status));
            })
        };
        let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
        let mut process = Holdover {
            public: unknown,
            admin: unknown,
            pid,
            child,
            lines,
            exit: exit.subscribe(),
            reading: Some(reading),
            http: reqwest::Client::builder().no_proxy().timeout(DEADLINE).build().expect("a plain client"),
            folder,
        };
        let ready = process.logged("holdover is ready").await;
        let address = |key: &str| ready[key].as_str().and_then(|text| text.parse().ok()).expect("an address");
        (process.public, process.admin) = (address("public"), address("admin"));
        process
    }
}

/// The binary, with these sockets behind its standard streams (sd_listen_fds(3)).
fn command_with(entering: Vec<String>, sockets: Vec<(TcpListener, &'static str)>) -> Command {
    let program = env!("CARGO_BIN_EXE_holdover");
    if sockets.is_empty() {
        let words = [entering, vec![program.to_owned()]].concat();
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        command.stdin(Stdio::null()).stdout(Stdio::null());
        return command;
    }
    let names: Vec<&str> = sockets.iter().map(|(_, name)| *name).collect();
    let mut command = Command::new("sh");
    command.env("LISTEN_FDS", sockets.len().to_string()).env("LISTEN_FDNAMES", names.join(":"));
    command.stdin(Stdio::null()).stdout(Stdio::null());
    for (at, (socket, _)) in sockets.into_iter().enumerate() {
        let socket = Stdio::from(OwnedFd::from(socket));
        if at == 0 {
            command.stdin(socket)
        } else {
            command.stdout(socket)
        };
    }
    // The process that the shell becomes keeps its number.
    let script = "exec 3<&0 4<&1 </dev/null >/dev/null; LISTEN_PID=$$ exec \"$@\"";
    command.args(["-c", script, "sh", program]);
    command
}

/// What the process wrote.
#[derive(Debug, Default)]
struct Lines {
    all: Mutex<Vec<String>>,
}

impl Lines {
    fn push(&self, line: String) {
        self.all.lock().expect("nobody panics with it").push(line);
    }

    fn all(&self) -> Vec<String> {
        self.all.lock().expect("nobody panics with it").clone()
    }
}

/// A running process. Dropped, it is killed; if the test failed, its log is printed.
pub(crate) struct Holdover {
    public: SocketAddr,
    admin: SocketAddr,
    pid: u32,
    child: Arc<Mutex<std::process::Child>>,
    lines: Arc<Lines>,
    exit: watch::Receiver<Option<ExitStatus>>,
    reading: Option<thread::JoinHandle<()>>,
    http: reqwest::Client,
    folder: TempDir,
}

impl Holdover {
    /// To be configured.
    pub(crate) fn before(backend: &Backend) -> Setup {
        Self::setup().upstream(backend.address())
    }

    /// To be configured, without a backend yet.
    pub(crate) fn setup() -> Setup {
        Setup {
            entering: Vec::new(),
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            sockets: Vec::new(),
            upstreams: Vec::new(),
            config: String::new(),
            environment: Vec::new(),
        }
    }

    /// With nothing but a backend.
    pub(crate) async fn start(backend: &Backend) -> Self {
        Self::before(backend).start().await
    }

    /// Where clients connect.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.public
    }

    /// Where operators connect.
    pub(crate) fn admin(&self) -> SocketAddr {
        self.admin
    }

    /// A path here, for `reqwest`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.public)
    }

    /// A raw connection.
    pub(crate) async fn connect(&self) -> Client {
        Client::connect(self.public).await
    }

    /// A client that does plain HTTP.
    pub(crate) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    /// A plain request.
    pub(crate) fn request(&self, method: &str, path: &str) -> reqwest::RequestBuilder {
        self.http.request(Method::from_bytes(method.as_bytes()).expect("a method"), self.url(path))
    }

    /// What `/metrics` says now.
    pub(crate) async fn metrics(&self) -> Metrics {
        let page = self.http.get(format!("http://{}/metrics", self.admin)).send().await.expect("metrics are served");
        Metrics::parse(&page.text().await.expect("metrics are text"))
    }

    /// The sum of a metric over everything that carries these labels; 0 if there is none yet.
    pub(crate) async fn metric(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.metrics().await.sum(name, labels)
    }

    /// Waits until a metric has a value.
    pub(crate) async fn metric_is(&self, name: &str, labels: &[(&str, &str)], value: f64) {
        let what = format!("{name}{labels:?} to be {value}");
        eventually(what, || async { (self.metric(name, labels).await == value).then_some(()) }).await;
    }

    /// What `/readyz` says: its status and its checks.
    pub(crate) async fn ready(&self) -> (u16, serde_json::Value) {
        let answer = self.http.get(format!("http://{}/readyz", self.admin)).send().await.expect("it is served");
        (answer.status().as_u16(), answer.json().await.expect("it is JSON"))
    }

    /// The status of a turn, asked for without identity.
    pub(crate) async fn status(&self, turn: &str) -> serde_json::Value {
        self.status_as(turn, None).await
    }

    /// The status of a turn, asked for with an `Authorization`.
    pub(crate) async fn status_as(&self, turn: &str, authorization: Option<&str>) -> serde_json::Value {
        let mut request = self.request("GET", &format!("/.holdover/turns/{turn}"));
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        let answer = request.send().await.expect("an answer");
        assert_eq!(answer.status(), 200, "status of {turn}");
        answer.json().await.expect("it is JSON")
    }

    /// Waits until a turn has reached a state; gives its status then.
    pub(crate) async fn state_is(&self, turn: &str, state: &str) -> serde_json::Value {
        let what = format!("turn {turn} to be {state}");
        eventually(what, || async { Some(self.status(turn).await).filter(|status| status["state"] == state) }).await
    }

    /// Bytes of memory that it uses.
    pub(crate) fn resident(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).expect("it runs, on Linux");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a process has memory");
        line.trim().trim_end_matches(" kB").parse::<usize>().expect("a number of KiB") << 10
    }

    /// Files and sockets that it has open.
    pub(crate) fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid)).expect("it runs, on Linux").count()
    }

    /// Sends a signal by name, such as `TERM`.
    pub(crate) fn signal(&self, name: &str) {
        assert!(self.exit.borrow().is_none(), "the process is gone");
        let sent = Command::new("sh").args(["-c", &format!("kill -{name} {}", self.pid)]).status();
        assert!(sent.expect("there is a shell").success(), "the signal cannot be sent");
    }

    /// SIGKILL, and waits until it is gone.
    pub(crate) async fn kill9(&self) {
        self.child.lock().expect("nobody panics with it").kill().expect("it can be killed");
        self.wait_exit(DEADLINE).await;
    }

    /// Waits until the process is gone.
    pub(crate) async fn wait_exit(&self, limit: Duration) -> ExitStatus {
        let mut exit = self.exit.clone();
        let status = within(limit, "the process to end", exit.wait_for(Option::is_some)).await;
        status.expect("the thread that waits for it lives").expect("it was just seen")
    }

    /// Whether the process has ended.
    pub(crate) fn exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    /// Replaces the configuration file; SIGHUP reads it.
    pub(crate) fn rewrite(&self, toml: &str) {
        std::fs::write(self.folder.path().join("holdover.toml"), toml).expect("the configuration can be written");
    }

    /// What it wrote so far.
    pub(crate) fn logs(&self) -> String {
        self.lines.all().join("\n")
    }

    /// Waits for the first log line whose message contains `text`.
    pub(crate) async fn logged(&self, text: &str) -> serde_json::Value {
        let found = eventually(format!("the log line {text:?}"), || async {
            let lines = self.lines.all();
            let line = lines.iter().find(|line| line.contains(text)).map(|line| serde_json::from_str(line));
            assert!(line.is_some() || !self.exited(), "it ended before it said {text:?}:\n{}", lines.join("\n"));
            line
        });
        found.await.expect("log lines are JSON")
    }
}

impl Drop for Holdover {
    fn drop(&mut self) {
        if let Ok(mut child) = self.child.lock() {
            // It may have ended by itself.
            let _ = child.kill();
        }
        if let Some(reading) = self.reading.take() {
            let _ = reading.join();
        }
        if thread::panicking() {
            eprintln!("--- log of holdover, process {}\n{}\n---", self.pid, self.logs());
        }
    }
}

/// A page of metrics.
#[derive(Debug)]
pub(crate) struct Metrics(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

impl Metrics {
    fn parse(page: &str) -> Self {
        Self(page.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(Sample::parse).collect())
    }

    /// The sum over everything of this name that carries these labels.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let carries = |sample: &&Sample| labels.iter().all(|(key, value)| sample.label(key) == Some(*value));
        self.0.iter().filter(|sample| sample.name == name).filter(carries).map(|sample| sample.value).sum()
    }

    /// Asserts what must hold at every moment: turns started are finished or live.
    pub(crate) fn assert_books_balance(&self) {
        let [started, finished, live] = ["turns_started_total", "turns_finished_total", "turns_live"]
            .map(|name| self.sum(&format!("holdover_{name}"), &[]));
        assert_eq!(started, finished + live, "started = finished + live: {}", self.shown("holdover_turns_"));
    }

    fn shown(&self, prefix: &str) -> String {
        let mut text = String::new();
        for sample in self.0.iter().filter(|sample| sample.name.starts_with(prefix)) {
            let _ = writeln!(text, "{}{:?} {}", sample.name, sample.labels, sample.value);
        }
        text
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        let pairs = labels.trim_end_matches('}').split("\",").filter_map(|pair| pair.split_once("=\""));
        let labels = pairs.map(|(key, value)| (key.to_owned(), value.trim_end_matches('"').to_owned())).collect();
        Self { name: name.to_owned(), labels, value: value.parse().expect("a number") }
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}
