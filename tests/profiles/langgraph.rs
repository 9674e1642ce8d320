//! LangGraph: the JavaScript SDK in three majors, both clients of the Python SDK, and `useStream` on a page.
//!
//! Each runs in front of a server as LangGraph Platform's, which has ids and a `Location` of its own, and of one that has
//! neither.

mod page;
mod platform;
mod sdks;
mod strangers;

use std::{net::SocketAddr, time::Duration};

use serde_json::{Value, json};

use self::platform::{Kind, Platform, Run};
use crate::support::{Cut, FaultProxy, Holdover, How, Parsed, Program, Report, Script, eventually, within};

/// What every client sends, so that runs can be found by their names.
const ALICE: &str = "authorization: Bearer alice";

/// How long a client may take to begin: on a busy machine, interpreters and browsers are slow to start.
const CLIENT: Duration = Duration::from_secs(60);

/// Tokens of one run. Before them stands its metadata, behind them the thread's values.
const TOKENS: usize = 12;

/// Events of one run.
const EVENTS: usize = TOKENS + 2;

/// The n-th token, from 1.
fn token(n: usize) -> String {
    format!("t{n:02} ")
}

/// What the assistant says in the end.
fn answer() -> String {
    (1..=TOKENS).map(token).collect()
}

/// Kind and data of the n-th event, from 1, of a run.
fn event(run: &str, n: usize) -> (&'static str, Value) {
    match n {
        1 => ("metadata", json!({ "run_id": run, "attempt": 1 })),
        EVENTS => {
            let human = json!({ "type": "human", "content": "Hello", "id": "h1" });
            ("values", json!({ "messages": [human, { "type": "ai", "content": answer(), "id": "m1" }] }))
        }
        _ => {
            let chunk = json!({ "type": "AIMessageChunk", "content": token(n - 1), "id": "m1" });
            ("messages", json!([chunk, { "langgraph_node": "agent" }]))
        }
    }
}

/// All events of a run.
fn whole(run: &str) -> Vec<(String, Value)> {
    (1..=EVENTS).map(|n| event(run, n)).map(|(kind, data)| (kind.to_owned(), data)).collect()
}

/// What a client read.
fn read(events: &[Parsed]) -> Vec<(String, Value)> {
    let data = |event: &Parsed| serde_json::from_str(&event.data).expect("drivers report JSON");
    events.iter().map(|event| (event.kind.clone(), data(event))).collect()
}

/// A server, a Holdover, and what cuts in front of it.
struct Stage {
    platform: Platform,
    holdover: Holdover,
    faults: FaultProxy,
}

impl Stage {
    async fn with(kind: Kind, cuts: impl IntoIterator<Item = Cut>) -> Self {
        Self::configured(kind, cuts, "").await
    }

    async fn configured(kind: Kind, cuts: impl IntoIterator<Item = Cut>, config: &str) -> Self {
        let platform = Platform::start(kind).await;
        let holdover = Holdover::before(&platform.backend).config(config).start().await;
        let faults = FaultProxy::start(holdover.addr(), cuts).await;
        Self { platform, holdover, faults }
    }

    /// Starts a client of the API.
    fn client(&self, script: Script) -> Program {
        on(script, self.faults.address())
    }

    /// Runs the server's side of a run in steps: so many events are sent at each of the cuts, and then the client must
    /// have come back, except behind the last event.
    async fn step(&self, run: &mut Run, sent: &[usize]) {
        for (cut, until) in sent.iter().enumerate() {
            run.send_until(*until).await;
            if *until < EVENTS {
                self.faults.streams_are(cut + 2).await;
            }
        }
        run.send_until(EVENTS).await;
    }

    /// What must hold whoever the client was.
    async fn judge(&self, run: &str, report: &Report) {
        assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
        assert_eq!(read(&report.events), whole(run), "{}", report.client);
        self.judge_server().await;
    }

    async fn judge_server(&self) {
        assert_eq!((self.platform.starts(), self.platform.backend.aborted()), (1, 0), "at the server");
        assert_eq!(self.platform.ids_of_ours(), Vec::<String>::new());
        self.holdover.metrics().await.assert_books_balance();
    }
}

/// Starts a client of the API at `address`.
fn on(script: Script, address: SocketAddr) -> Program {
    script.args(["--url", &format!("http://{address}"), "--header", ALICE, "--timeout", "55000"]).start()
}

fn js(major: &str) -> Script {
    Script::node("langgraph.mjs").args(["--major", major])
}

fn python() -> Script {
    Script::python("langgraph_client.py")
}

fn python_sync() -> Script {
    python().args(["--sync"])
}

/// Asks for something as everybody's principal.
async fn ask(holdover: &Holdover, method: &str, path: &str, headers: &[(&str, &str)]) -> reqwest::Response {
    let mut request = holdover.request(method, path).header("authorization", "Bearer alice");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.send().await.expect("an answer")
}
