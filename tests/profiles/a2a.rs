//! The official SDKs of Agent2Agent, on both sides. Their clients do not come back by themselves; their callers subscribe to
//! the task again.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::{Cut, FaultProxy, Holdover, How, Program, Report, Script, eventually};

/// Steps of the agent's.
const STEPS: usize = 12;

/// What an agent says of a task: itself, that it works, its steps, that it is done.
const UPDATES: usize = 2 + STEPS + 1;

const OPTED_IN: &str =
    "[identity]\nanonymous_sessions = true\n[[route]]\nname = \"agent\"\nprofile = \"a2a\"\nreconnect = \"50ms\"\n";

/// A client, and where it finds the agent.
type Client = (&'static str, fn() -> Script, &'static str);

const CLIENTS: [Client; 4] = [
    ("JavaScript 1.0", || Script::node("a2a.mjs"), "/a2a"),
    ("JavaScript 1.0 over REST", || Script::node("a2a.mjs").args(["--rest"]), "/rest"),
    ("JavaScript 0.3", || Script::node("a2a.mjs").args(["--version", "0.3"]), "/a2a"),
    ("Python", || Script::python("a2a_client.py"), "/a2a"),
];

/// An agent, a Holdover before it, and what cuts connections in front of both.
struct Stage {
    _agent: Program,
    address: SocketAddr,
    holdover: Holdover,
    faults: FaultProxy,
}

impl Stage {
    async fn new(config: &str, cuts: &[Cut]) -> Self {
        let (agent, address) = Script::python("backends/a2a_server.py").listening().await;
        let holdover = Holdover::setup().upstream(address).config(config).start().await;
        let faults = FaultProxy::start(holdover.addr(), cuts.iter().copied()).await;
        Self { _agent: agent, address, holdover, faults }
    }

    async fn agent(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.address);
        self.holdover.http().get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Lets the agent go on to this step.
    async fn allow(&self, step: usize) {
        self.agent(&format!("/allow?steps={step}")).await;
    }

    fn client(&self, (_, script, path): Client) -> Program {
        script().args(["--live", "--url", &format!("http://{}{path}", self.faults.address())]).start()
    }

    /// Waits until the agent has counted this.
    async fn counts(&self, started: usize, finished: usize, subscribed: usize) {
        let counted = json!({ "started": started, "finished": finished, "subscribed": subscribed });
        let there = async || (self.agent("/stats").await == counted).then_some(());
        eventually(format!("{counted} at the agent"), there).await;
    }
}

/// The updates of a report without what differs between two runs.
fn updates(report: &Report) -> Vec<(String, Value)> {
    let update = |event: &crate::support::Parsed| {
        let mut value = serde_json::from_str(&event.data).unwrap();
        leave_out(&mut value);
        (event.kind.clone(), value)
    };
    report.events.iter().map(update).collect()
}

fn leave_out(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for name in ["id", "taskId", "contextId", "messageId", "timestamp"] {
                members.remove(name);
            }
            members.values_mut().for_each(leave_out);
        }
        Value::Array(items) => items.iter_mut().for_each(leave_out),
        _ => {}
    }
}

/// Three times, by FIN and RST, after an update and inside one; the last time when the agent has finished the task.
#[tokio::test]
async fn a_subscription_brings_the_whole_task_where_it_is_opted_in() {
    for client in CLIENTS {
        let cuts = [Cut::after(3, How::Fin), Cut::inside(6, 40, How::Reset), Cut::inside(UPDATES - 1, 60, How::Fin)];
        let stage = Stage::new(OPTED_IN, &cuts).await;
        let program = stage.client(client);
        for (number, needed) in [1, 6, STEPS + 1].into_iter().enumerate() {
            stage.allow(needed).await;
            stage.faults.streams_are(number + 2).await;
        }
        let report = program.report().await;
        let name = client.0;
        assert_eq!(report.ended, "clean", "{name}: {report:#?}");
        assert_eq!((report.errors.len(), stage.faults.cuts()), (3, 3), "{name}: {report:#?}");
        let updates = updates(&report);
        let last = &updates[updates.len() - UPDATES..];
        let mut seen = 0;
        for had in [3, 6, UPDATES - 1] {
            assert_eq!(updates[seen..seen + had], last[..had], "{name}: from the first update on");
            seen += had;
        }
        assert_eq!(updates.len(), seen + UPDATES, "{name}");
        stage.counts(1, 1, 0).await;
        stage.holdover.metric_is("holdover_turns_finished_total", &[("outcome", "completed")], 1.0).await;
    }
}

/// The protocol means "from now on".
#[tokio::test]
async fn a_subscription_is_the_agents_where_nothing_is_said() {
    let stage = Stage::new("", &[Cut::after(3, How::Reset)]).await;
    let mut program = stage.client(CLIENTS[0]);
    stage.allow(1).await;
    program.note("lost").await;
    stage.counts(1, 0, 1).await;
    stage.allow(STEPS + 1).await;
    let report = program.report().await;
    assert_eq!((&*report.ended, report.errors.len()), ("clean", 1), "{report:#?}");
    stage.counts(1, 1, 1).await;
}

#[tokio::test]
async fn a_task_nobody_knows_is_the_agents() {
    let stage = Stage::new(OPTED_IN, &[]).await;
    let ask = json!({ "jsonrpc": "2.0", "id": 1, "method": "SubscribeToTask", "params": { "id": "nobody-knows" } });
    let answer = stage.holdover.request("POST", "/a2a").header("a2a-version", "1.0").json(&ask).send().await.unwrap();
    assert!(answer.headers().get("holdover-turn").is_none());
    assert_eq!(answer.json::<Value>().await.unwrap()["error"]["code"], -32001, "as the agent says it");
    stage.counts(0, 0, 1).await;
}

/// A task is found by who started it only.
#[tokio::test]
async fn a_task_of_somebody_else_is_not_found() {
    let stage = Stage::new("[[route]]\nname = \"agent\"\nprofile = \"a2a\"\n", &[]).await;
    let script = CLIENTS[0].1().args(["--header", "Authorization: Bearer alice"]);
    let url = format!("http://{}/a2a", stage.faults.address());
    let mut program = script.args(["--live", "--url", &url]).start();
    stage.allow(1).await;
    let first: Value = serde_json::from_str(program.note("event").await["data"].as_str().unwrap()).unwrap();
    let ask = json!({ "jsonrpc": "2.0", "id": 1, "method": "SubscribeToTask", "params": { "id": first["id"] } });
    for (number, other) in ["Bearer bob", ""].into_iter().enumerate() {
        let mut request = stage.holdover.request("POST", "/a2a").header("a2a-version", "1.0").json(&ask);
        if !other.is_empty() {
            request = request.header("authorization", other);
        }
        let answer = request.send().await.unwrap();
        // The agent asks nobody who they are.
        assert_eq!(answer.status(), 200);
        stage.counts(1, 0, number + 1).await;
    }
    stage.allow(STEPS + 1).await;
    assert_eq!(program.report().await.ended, "clean");
}

/// The same objects come out of each library, whether it asks the agent itself or through Holdover.
#[tokio::test]
async fn updates_read_the_same_through_holdover() {
    let stage = Stage::new(OPTED_IN, &[]).await;
    stage.allow(STEPS + 1).await;
    for (name, script, path) in CLIENTS {
        let read = |address: SocketAddr| script().args(["--url", &format!("http://{address}{path}")]).start().report();
        let (direct, through) = (read(stage.address).await, read(stage.holdover.addr()).await);
        assert_eq!(updates(&direct), updates(&through), "{name}");
        assert_eq!((direct.events.len(), &direct.errors), (UPDATES, &Vec::new()), "{name}: {direct:#?}");
        assert_eq!((&*through.ended, &through.errors), ("clean", &Vec::new()), "{name}");
    }
}

/// The snippet of the page, as it stands there.
#[tokio::test]
async fn the_snippet_survives() {
    let cuts = [Cut::after(3, How::Fin), Cut::inside(6, 40, How::Reset), Cut::inside(UPDATES - 1, 60, How::Fin)];
    let stage = Stage::new(OPTED_IN, &cuts).await;
    stage.allow(STEPS + 1).await;
    let script = Script::node("snippets/a2a_task.mjs");
    let mut program = script.env("A2A_URL", format!("http://{}/a2a", stage.faults.address())).start();
    let steps: Vec<_> = (1..=STEPS).map(|step| format!("step {step}")).collect();
    assert_eq!(program.rest().await, steps);
    assert_eq!(stage.faults.cuts(), 3);
    stage.counts(1, 1, 0).await;
}

#[test]
fn the_page_has_the_snippet_that_runs() {
    let read = |path: &str| std::fs::read_to_string(crate::support::program::root().join(path)).expect("it is there");
    let block = format!("```js\n{}```\n", read("tests/clients/node/snippets/a2a_task.mjs"));
    assert!(read("docs/clients/a2a.md").contains(&block), "the snippet does not stand in the page as it is");
}
