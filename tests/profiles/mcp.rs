//! The official SDKs of the Model Context Protocol, on both sides.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::support::{Backend, Client, Cut, FaultProxy, Holdover, How, Program, Report, Script, eventually};

/// Steps of a call: as many reports of progress, and then the result.
const STEPS: usize = 20;

const CONFIG: &str = "[[route]]\nname = \"mcp\"\npath = \"/mcp\"\nreconnect = \"50ms\"\n";

/// A revision in which calls can be resumed.
const REVISION: (&str, &str) = ("MCP-Protocol-Version", "2025-11-25");

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sdk {
    Node1,
    Node2,
    Python,
}

use Sdk::{Node1, Node2, Python};

impl Sdk {
    fn server(self) -> Script {
        match self {
            Node1 => Script::node("backends/mcp_server.mjs").args(["--major", "1"]),
            Node2 => Script::node("backends/mcp_server.mjs").args(["--major", "2"]),
            Python => Script::python("backends/mcp_server.py"),
        }
    }

    fn client(self) -> Script {
        match self {
            Node1 => Script::node("mcp.mjs").args(["--major", "1"]),
            Node2 => Script::node("mcp.mjs").args(["--major", "2"]),
            Python => Script::python("mcp_client.py"),
        }
    }
}

/// A server, a Holdover before it, and what cuts connections in front of both.
struct Stage {
    server: Program,
    server_address: SocketAddr,
    holdover: Holdover,
    faults: FaultProxy,
}

impl Stage {
    async fn new(server: Script) -> Self {
        let (server, server_address) = server.listening().await;
        let holdover = Holdover::setup().upstream(server_address).config(CONFIG).start().await;
        let faults = FaultProxy::start(holdover.addr(), []).await;
        Self { server, server_address, holdover, faults }
    }

    async fn server(&self, path: &str) -> Value {
        let url = format!("http://{}{path}", self.server_address);
        self.holdover.http().get(url).send().await.unwrap().json().await.unwrap()
    }

    /// Lets tools go on to this step.
    async fn allow(&self, step: usize) {
        self.server(&format!("/allow?steps={step}")).await;
    }

    fn client(&self, sdk: Sdk) -> Script {
        sdk.client().args(["--url", &format!("http://{}/mcp", self.faults.address())])
    }

    /// A client that is connected and calls the tool when it is [let go](Program::feed).
    async fn connected(&self, script: Script) -> Program {
        let mut client = script.args(["--steps", &STEPS.to_string(), "--live", "--pause"]).start();
        client.note("connected").await;
        client
    }

    /// Waits until the server's tools have run like this.
    async fn ran(&self, started: u64, finished: u64, aborted: u64) {
        let ran = json!([started, finished, aborted]);
        eventually(format!("{ran} runs at the server"), || async {
            let stats = self.server("/stats").await;
            (json!([stats["started"], stats["finished"], stats["aborted"]]) == ran).then_some(())
        })
        .await;
    }

    async fn last_event_ids(&self) -> Vec<String> {
        serde_json::from_value(self.server("/stats").await["last_event_ids"].clone()).unwrap()
    }

    /// Waits until the n-th event stream since `before` has begun.
    async fn streams(&self, before: usize, number: usize) {
        self.faults.streams_are(before + number).await;
    }

    /// How many event streams were recorded.
    async fn turns(&self) -> f64 {
        self.holdover.metric("holdover_turns_started_total", &[]).await
    }
}

/// What a client has to say of a call.
fn whole() -> Vec<(String, String)> {
    let progress = (1..=STEPS).map(|step| ("progress".to_owned(), step.to_string()));
    progress.chain([("result".to_owned(), format!("counted to {STEPS}"))]).collect()
}

fn said(report: &Report) -> Vec<(String, String)> {
    report.events.iter().map(|event| (event.kind.clone(), event.data.clone())).collect()
}

/// Runs a call whose connections are cut: each time the server may go on as far as the cut needs, and no further before the
/// client is back.
async fn survives(sdk: Sdk, server: Script, tool: &str, cuts: &[(usize, usize, How)]) -> Report {
    let stage = Stage::new(server).await;
    let mut client = stage.connected(stage.client(sdk).args(["--tool", tool])).await;
    let before = stage.faults.streams();
    stage.faults.schedule(cuts.iter().map(|(events, bytes, how)| Cut::inside(*events, *bytes, *how)));
    client.feed(String::new());
    let mut needed = 0;
    for (number, (events, bytes, _)) in cuts.iter().enumerate() {
        needed += events + usize::from(*bytes > 0);
        stage.allow(needed.min(STEPS + 1)).await;
        stage.streams(before, number + 2).await;
    }
    stage.allow(STEPS + 1).await;
    let report = client.report().await;
    assert_eq!(report.ended, "clean", "{sdk:?}: {report:#?}");
    assert_eq!(stage.faults.cuts(), cuts.len());
    stage.ran(1, 1, 0).await;
    let ours = stage.last_event_ids().await.iter().any(|id| id.len() > 20);
    assert!(!ours, "an id of Holdover's reached the server");
    report
}

/// The first connection gets a priming event, and so does each later one: they count as events.
const CUTS: [(usize, usize, How); 4] = [(3, 0, How::Fin), (2, 25, How::Reset), (4, 0, How::Reset), (3, 60, How::Fin)];

async fn typescript_survives(server: fn() -> Script) {
    for sdk in [Node1, Node2] {
        let report = survives(sdk, server(), "count", &CUTS).await;
        assert_eq!(said(&report), whole(), "{report:#?}");
    }
}

#[tokio::test]
async fn calls_of_typescript_1_are_finished() {
    typescript_survives(|| Node1.server()).await;
}

#[tokio::test]
async fn calls_of_typescript_2_are_finished() {
    typescript_survives(|| Node2.server()).await;
}

#[tokio::test]
async fn calls_of_python_are_finished() {
    typescript_survives(|| Python.server()).await;
}

#[tokio::test]
async fn calls_of_servers_with_event_stores_are_finished() {
    for server in [Node1, Node2, Python] {
        let report = survives(Node2, server.server().args(["--store"]), "count", &CUTS).await;
        assert_eq!(said(&report), whole(), "{report:#?}");
    }
}

/// Its client asks again with the id it had before a resumed connection broke, and takes two breaks in a row for the end: it
/// sees progress twice, but one result.
#[tokio::test]
async fn the_python_client_survives_two_cuts() {
    for (server, cuts) in [(Python, [CUTS[0], CUTS[1]]), (Node2, [CUTS[3], CUTS[2]])] {
        let report = survives(Python, server.server(), "count", &cuts).await;
        let mut seen = said(&report);
        let result = seen.pop();
        seen.sort_by_key(|(_, step)| step.parse::<usize>().unwrap());
        seen.dedup();
        seen.extend(result);
        assert_eq!(seen, whole(), "{report:#?}");
    }
}

/// Nothing but the priming event is there to come back with: of a call that has said nothing yet, and of a connection that
/// was cut again at once.
#[tokio::test]
async fn cuts_before_the_next_event_lose_nothing() {
    let primed = (1, 0, How::Fin);
    for sdk in [Node1, Node2] {
        let cuts = [primed, (1, 0, How::Reset), (3, 0, How::Reset), primed, (1, 0, How::Reset)];
        let report = survives(sdk, Node1.server(), "count", &cuts).await;
        assert_eq!(said(&report), whole(), "{report:#?}");
    }
    let report = survives(Python, Node1.server(), "count", &[primed]).await;
    assert_eq!(said(&report), whole(), "{report:#?}");
}

/// The server has answered and forgotten the call when its client comes back for the result.
#[tokio::test]
async fn a_result_that_is_cut_is_replayed() {
    for sdk in [Node1, Node2, Python] {
        let stage = Stage::new(Node2.server()).await;
        let mut client = stage.connected(stage.client(sdk)).await;
        stage.faults.schedule([Cut::inside(1 + STEPS, 30, How::Reset)]);
        client.feed(String::new());
        stage.allow(STEPS + 1).await;
        let report = client.report().await;
        assert_eq!((&*report.ended, said(&report)), ("clean", whole()), "{sdk:?}: {report:#?}");
        assert_eq!(stage.faults.cuts(), 1);
        stage.ran(1, 1, 0).await;
    }
}

/// A server that closes the stream of a call on purpose, to be asked for the rest: its own ids come back to it.
#[tokio::test]
async fn servers_that_are_polled_get_their_own_ids() {
    for server in [Node1, Node2, Python] {
        for sdk in [Node1, Node2, Python] {
            let stage = Stage::new(server.server().args(["--store"])).await;
            let mut client = stage.connected(stage.client(sdk).args(["--tool", "poll"])).await;
            stage.allow(1).await;
            let before = stage.faults.streams();
            client.feed(String::new());
            stage.streams(before, 2).await;
            stage.allow(STEPS + 1).await;
            let report = client.report().await;
            assert_eq!((&*report.ended, said(&report)), ("clean", whole()), "{sdk:?} of {server:?}: {report:#?}");
            stage.ran(1, 1, 0).await;
            let ids = stage.last_event_ids().await;
            assert!(ids.len() == 1 && ids[0].parse::<u64>().is_ok(), "{ids:?}");
        }
    }
}

/// What the server goes on with is a turn of its own. Who is cut off before its first event finds it.
#[tokio::test]
async fn a_poll_that_is_cut_is_not_sent_twice() {
    for sdk in [Node1, Node2] {
        let stage = Stage::new(Node1.server().args(["--store"])).await;
        let mut client = stage.connected(stage.client(sdk).args(["--tool", "poll"])).await;
        stage.allow(1).await;
        let before = stage.faults.streams();
        // The priming events of Holdover's and of the server's, one of progress: whole. Then only what is primed.
        stage.faults.schedule([Cut::after(4, How::Fin), Cut::after(1, How::Reset), Cut::after(3, How::Fin)]);
        client.feed(String::new());
        stage.streams(before, 3).await;
        stage.allow(5).await;
        stage.streams(before, 4).await;
        stage.allow(STEPS + 1).await;
        let report = client.report().await;
        assert_eq!((&*report.ended, said(&report)), ("clean", whole()), "{sdk:?}: {report:#?}");
        stage.ran(1, 1, 0).await;
        assert_eq!(stage.last_event_ids().await.len(), 1);
    }
}

#[tokio::test]
async fn the_stream_of_what_is_unasked_passes() {
    for (sdk, server) in [(Node1, Node1), (Node2, Node2), (Python, Python)] {
        let stage = Stage::new(server.server().args(["--unasked"])).await;
        let mut client = stage.connected(stage.client(sdk).args(["--announce", "hello"])).await;
        let heard = async || (stage.server("/stats").await["unasked"] == 1).then_some(());
        eventually("the stream of what is unasked", heard).await;
        stage.holdover.metric_is("holdover_turns_live", &[], 0.0).await;
        client.feed(String::new());
        let report = client.report().await;
        let hello = ("log".to_owned(), "hello".to_owned());
        assert_eq!((&*report.ended, said(&report).pop()), ("clean", Some(hello)), "{sdk:?}: {report:#?}");
    }
}

#[tokio::test]
async fn answers_that_are_no_streams_pass() {
    for (sdk, server) in [(Node1, Node1), (Node2, Node2), (Python, Python)] {
        let stage = Stage::new(server.server().args(["--json"])).await;
        let mut client = stage.connected(stage.client(sdk)).await;
        client.feed(String::new());
        stage.allow(STEPS + 1).await;
        let report = client.report().await;
        assert_eq!((&*report.ended, said(&report).pop()), ("clean", whole().pop()), "{report:#?}");
        assert_eq!((report.opens, stage.turns().await), (0, 0.0), "{sdk:?}");
    }
}

/// Since 2026-07-28 to leave is to cancel; before that a message says it.
#[tokio::test]
async fn a_cancelled_call_ends_at_the_server() {
    let new = ["--revision", "2026-07-28"];
    for (sdk, server, revision) in [
        (Node2, Node2, &new[..]),
        (Node2, Python, &new[..]),
        (Python, Node2, &new[..]),
        (Node1, Node1, &[]),
        (Node2, Node2, &[]),
    ] {
        let stage = Stage::new(server.server()).await;
        let script = stage.client(sdk).args(revision).args(["--cancel-at", "2"]);
        let mut client = stage.connected(script).await;
        stage.allow(2).await;
        client.feed(String::new());
        let report = client.report().await;
        let kinds: Vec<_> = report.events.iter().map(|event| &*event.kind).collect();
        assert_eq!((&*report.ended, &kinds[..]), ("clean", &["progress", "progress", "cancelled"][..]), "{report:#?}");
        stage.ran(1, 0, 1).await;
        if !revision.is_empty() {
            assert_eq!(stage.turns().await, 0.0, "{sdk:?} of {server:?}");
        }
    }
}

/// Its client would wait for the result for ever, or for its own timeout.
#[tokio::test]
async fn a_call_whose_server_is_gone_is_an_error() {
    for sdk in [Node1, Node2, Python] {
        let mut stage = Stage::new(Node2.server()).await;
        let mut client = stage.connected(stage.client(sdk)).await;
        client.feed(String::new());
        stage.allow(2).await;
        client.note("event").await;
        stage.server.kill();
        let report = client.report().await;
        assert_eq!(report.ended, "error", "{sdk:?}: {report:#?}");
        assert!(report.errors.iter().any(|error| error.contains("The answer is not complete")), "{report:#?}");
    }
}

/// An error does not count as the answer with a client of version 1: it comes back, and must be told once.
#[tokio::test]
async fn who_was_told_of_a_loss_is_not_told_again() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(CONFIG).start().await;
    let mut client = holdover.connect().await;
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{"name":"x"}}"#;
    let accept = ("Accept", "application/json, text/event-stream");
    client.request("POST", "/mcp", &[REVISION, accept, ("Content-Type", "application/json")], call).await;
    let mut turn = backend.next().await;
    turn.stream().await;
    turn.event(r#"{"jsonrpc":"2.0","method":"notifications/progress"}"#).await;
    assert_eq!(client.head().await.status(), 200);
    let [priming, event] = client.next_events(2).await.try_into().unwrap();
    assert_eq!((priming.data(), priming.place().1, event.place().1), ("", 0, 1));
    turn.reset();
    assert!(!client.rest().await.1.is_clean());
    let id = |seq| format!("{}-{seq}", event.place().0);
    let mut told = asked(&holdover, &id(1)).await;
    assert_eq!(told.head().await.status(), 200);
    let loss = told.next_event().await;
    let said: Value = serde_json::from_str(loss.data()).unwrap();
    assert_eq!((&said["id"], &said["error"]["code"], loss.place().1), (&json!(7), &json!(-32603), 2));
    assert!(told.rest().await.1.is_clean());
    assert_eq!(asked(&holdover, &id(2)).await.head().await.status(), 204);
}

/// A client that comes back with this id.
async fn asked(holdover: &Holdover, id: &str) -> Client {
    let mut client = holdover.connect().await;
    let headers = [REVISION, ("Accept", "text/event-stream"), ("Last-Event-ID", id)];
    client.request("GET", "/mcp", &headers, "").await;
    client
}

#[tokio::test]
async fn ids_that_name_nothing_and_ids_that_name_no_place() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).config(CONFIG).start().await;
    let unknown = format!("{}-3", "a".repeat(28));
    assert_eq!(asked(&holdover, &unknown).await.head().await.status(), 404);

    let mut client = holdover.connect().await;
    let call = r#"{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{}}"#;
    let headers = [REVISION, ("Authorization", "Bearer alice"), ("Accept", "text/event-stream")];
    client.request("POST", "/mcp", &headers, call).await;
    let mut turn = backend.next().await;
    turn.stream().await;
    turn.event(r#"{"jsonrpc":"2.0","id":7,"result":{}}"#).await;
    turn.end().await;
    client.head().await;
    let name = client.next_events(2).await[1].place().0.to_owned();
    let ended = async || (holdover.status_as(&name, Some("Bearer alice")).await["state"] == "completed").then_some(());
    eventually("the turn to end", ended).await;

    let foreign = format!("{name}-0");
    assert_eq!(asked(&holdover, &foreign).await.head().await.status(), 404, "it is somebody else's");
    for (id, events) in [(format!("{name}-0"), 2), (format!("{name}-x"), 2), (format!("{name}-1"), 0)] {
        let mut client = holdover.connect().await;
        let headers = [REVISION, ("Authorization", "Bearer alice"), ("Last-Event-ID", &id)];
        client.request("GET", "/mcp", &headers, "").await;
        assert_eq!(client.head().await.status(), if events == 0 { 204 } else { 200 }, "{id}");
        let seqs: Vec<_> = client.next_events(events).await.iter().map(|event| event.place().1).collect();
        assert_eq!(seqs, (0..events as u64).collect::<Vec<_>>(), "{id}");
    }
    assert_eq!(backend.requests().len(), 1, "none of these is the server's");

    // Any other id is the server's own.
    let mut client = asked(&holdover, "42_1790").await;
    let mut own = backend.next().await;
    assert_eq!(own.request.get("last-event-id"), Some("42_1790"));
    own.stream().await;
    own.event("x").await;
    assert!(client.head().await.get("holdover-turn").is_none());
    own.end().await;
    assert_eq!(client.body().await, "data: x\n\n");
}

/// The same objects come out of each library, whether it asks the server itself or through Holdover.
#[tokio::test]
async fn calls_read_the_same_through_holdover() {
    for server in [Node1, Node2, Python] {
        let stage = Stage::new(server.server()).await;
        stage.allow(STEPS + 1).await;
        for sdk in [Node1, Node2, Python] {
            let read = |address: SocketAddr| {
                let url = format!("http://{address}/mcp");
                sdk.client().args(["--url", &url, "--steps", &STEPS.to_string()]).start().report()
            };
            let (direct, through) = (read(stage.server_address).await, read(stage.holdover.addr()).await);
            assert_eq!(said(&direct), whole(), "{sdk:?} of {server:?}: {direct:#?}");
            assert_eq!(direct.events, through.events, "{sdk:?} of {server:?}");
            assert_eq!((&direct.errors, direct.opens), (&through.errors, through.opens));
        }
    }
}

/// The snippets of the page, as they stand there.
#[tokio::test]
async fn the_snippets_survive() {
    let progress: Vec<_> = (1..=STEPS).map(|step| step.to_string()).collect();
    let result = format!("counted to {STEPS}");
    for (script, cuts, lines) in [
        (Script::node("snippets/mcp_call.mjs"), &CUTS[..], [progress, vec![result.clone()]].concat()),
        // It asks for no progress: before the result, and inside it.
        (Script::python("snippets/mcp_call.py"), &[(1, 0, How::Fin), (1, 30, How::Reset)], vec![result]),
    ] {
        let stage = Stage::new(Node2.server()).await;
        // The first stream answers `initialize`.
        let cuts = cuts.iter().map(|(events, bytes, how)| Cut::inside(*events, *bytes, *how));
        stage.faults.schedule([Cut::after(usize::MAX, How::Fin)].into_iter().chain(cuts.clone()));
        stage.allow(STEPS + 1).await;
        let mut program = script.env("MCP_URL", format!("http://{}/mcp", stage.faults.address())).start();
        assert_eq!(program.rest().await, lines);
        assert_eq!(stage.faults.cuts(), cuts.count());
        stage.ran(1, 1, 0).await;
    }
}

#[test]
fn the_page_has_the_snippets_that_run() {
    let read = |path: &str| std::fs::read_to_string(crate::support::program::root().join(path)).expect("it is there");
    let page = read("docs/clients/mcp.md");
    for (language, snippet) in [("js", "node/snippets/mcp_call.mjs"), ("python", "python/snippets/mcp_call.py")] {
        let block = format!("```{language}\n{}```\n", read(&format!("tests/clients/{snippet}")));
        assert!(page.contains(&block), "{snippet} does not stand in the page as it is");
    }
}
