//! Programs around real libraries, as child processes: clients, judges, and backends nobody here wrote.
//!
//! They stand in `tests/clients`; their command line and the report a client ends with are described in
//! `tests/clients/node/report.mjs`.

use std::{
    ffi::OsStr,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    thread::{self, JoinHandle},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use tokio::sync::mpsc;

use super::within;

/// How long a client may take as a whole, its browser's start included.
const CLIENT: Duration = Duration::from_secs(60);

/// How a program is to be started.
pub(crate) struct Script(Command);

impl Script {
    /// A file below `tests/clients/node`.
    pub(crate) fn node(file: &str) -> Self {
        Self::run("node/bin/node", &clients().join("node").join(file))
    }

    /// A file below `tests/clients/python`.
    pub(crate) fn python(file: &str) -> Self {
        Self::run("venv/bin/python", &clients().join("python").join(file))
    }

    /// A script for one of the interpreters that `scripts/setup` installs.
    pub(crate) fn run(interpreter: &str, file: &Path) -> Self {
        let interpreter = root().join(".deps").join(interpreter);
        assert!(interpreter.exists(), "{} is missing: run scripts/setup test", interpreter.display());
        let mut command = Command::new(interpreter);
        command.arg(file);
        Self(command)
    }

    /// With more arguments.
    pub(crate) fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.0.args(arguments);
        self
    }

    /// With a variable of the environment.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Starts it.
    pub(crate) fn start(self) -> Program {
        Program::start(self.0)
    }

    /// Starts a backend and waits until it listens.
    pub(crate) async fn listening(self) -> (Program, SocketAddr) {
        let mut program = self.start();
        let line = program.line().await.expect("a backend says where it listens");
        let address = line.strip_prefix("listening ").and_then(|text| text.parse().ok());
        (program, address.unwrap_or_else(|| panic!("no address: {line:?}")))
    }
}

/// The project's folder.
pub(crate) fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn clients() -> PathBuf {
    root().join("tests/clients")
}

/// A running program. Dropped, it is killed; if the test failed, what it complained about is printed.
pub(crate) struct Program {
    child: Child,
    /// Open for as long as the program is to run: backends end with it.
    input: Option<ChildStdin>,
    lines: mpsc::UnboundedReceiver<String>,
    errors: Option<JoinHandle<String>>,
}

impl Program {
    /// Starts a command.
    pub(crate) fn start(mut command: Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let (output, mut errors) =
            (child.stdout.take().expect("it is piped"), child.stderr.take().expect("it is piped"));
        let (sender, lines) = mpsc::unbounded_channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                // Nobody may be listening any more.
                let _ = sender.send(line);
            }
        });
        let errors = thread::spawn(move || {
            let mut text = Vec::new();
            let _ = errors.read_to_end(&mut text);
            String::from_utf8_lossy(&text).into_owned()
        });
        Self { input: child.stdin.take(), child, lines, errors: Some(errors) }
    }

    /// Writes this to its standard input and closes it.
    pub(crate) fn feed(&mut self, text: String) {
        let mut input = self.input.take().expect("it is fed once");
        // It may write before it has read everything.
        thread::spawn(move || input.write_all(text.as_bytes()));
    }

    /// The next line it prints; `None` at the end.
    pub(crate) async fn line(&mut self) -> Option<String> {
        within(CLIENT, "a line of a program", self.lines.recv()).await
    }

    /// The next line that is a JSON object with this key.
    pub(crate) async fn note(&mut self, key: &str) -> Value {
        loop {
            let line = self.line().await.unwrap_or_else(|| panic!("the program ended before it said {key:?}"));
            let mut note: Value = serde_json::from_str(&line).expect("programs print JSON");
            if let Some(value) = note.get_mut(key) {
                return value.take();
            }
        }
    }

    /// All lines to its end.
    pub(crate) async fn rest(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        while let Some(line) = self.line().await {
            all.push(line);
        }
        all
    }

    /// What a client reports at its end.
    pub(crate) async fn report(mut self) -> Report {
        let last = self.rest().await.pop().expect("a client ends with a report");
        serde_json::from_str(&last).unwrap_or_else(|error| panic!("{error}: {last}"))
    }

    /// Waits until it has ended, and says whether it was content.
    pub(crate) async fn succeeded(&mut self) -> bool {
        self.rest().await;
        let ended = super::eventually("the program to end", || {
            let status = self.child.try_wait().expect("it is our child");
            async move { status }
        });
        ended.await.success()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it is our child");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if thread::panicking()
            && let Some(errors) = self.errors.take().and_then(|errors| errors.join().ok())
            && !errors.is_empty()
        {
            eprintln!("--- a program complained\n{errors}\n---");
        }
    }
}

/// What a client saw.
#[derive(Debug, Deserialize)]
pub(crate) struct Report {
    /// The library.
    pub(crate) client: String,
    /// What it parsed, in order.
    pub(crate) events: Vec<Parsed>,
    /// Responses that began an event stream.
    pub(crate) opens: usize,
    /// What went wrong, recovered or not.
    pub(crate) errors: Vec<String>,
    /// How it left off.
    pub(crate) ended: String,
}

/// An event as a library understood it.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub(crate) struct Parsed {
    #[serde(default)]
    pub(crate) id: Option<String>,
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) data: String,
}

/// SIGKILL for a process that one of our programs has started.
pub(crate) fn kill9(pid: u64) {
    let sent = Command::new("sh").args(["-c", &format!("kill -9 {pid}")]).status();
    assert!(sent.expect("there is a shell").success(), "process {pid} cannot be killed");
}
