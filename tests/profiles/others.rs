//! Gemini, Dify and Flowise: their SDKs, which never resume, and the snippets of the documentation, which do.

mod dify;
mod flowise;
mod gemini;

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use crate::support::{
    Backend, Cut, DEADLINE, Exchange, FaultProxy, Holdover, How, Parsed, Program, Report, Script, eventually, within,
};

/// A backend whose starts are stepped, and that answers everything else by itself.
struct Server {
    backend: Backend,
    starts: Mutex<mpsc::UnboundedReceiver<Exchange>>,
}

impl Server {
    /// `start` is part of the path of what starts a turn. Of the rest, `knows` says what it answers to a path; 404 to all
    /// others.
    async fn new(start: &'static str, knows: &'static [(&'static str, &'static str)]) -> Self {
        let (sender, starts) = mpsc::unbounded_channel();
        let backend = Backend::answering(move |exchange| {
            let sender = sender.clone();
            async move {
                let target = exchange.request.target().to_owned();
                let answer = knows.iter().find(|(path, _)| target.contains(path));
                match answer {
                    Some((_, body)) => exchange.answer("200 OK", "Content-Type: application/json\r\n", body).await,
                    // Without a receiver the test is over.
                    None if target.contains(start) && !target.contains("/stop") => drop(sender.send(exchange)),
                    None => exchange.answer("404 Not Found", "", "").await,
                }
            }
        });
        Self { backend: backend.await, starts: starts.into() }
    }

    /// The next start. Its answer has begun.
    async fn turn(&self) -> Exchange {
        let start = async { self.starts.lock().await.recv().await };
        let mut exchange = within(DEADLINE, "a start at the backend", start).await.expect("the backend is there");
        exchange.stream().await;
        exchange
    }

    /// Answers the next start with a whole stream.
    async fn answer(&self, stream: &[String]) {
        let mut turn = self.turn().await;
        for block in stream {
            turn.chunk(block).await;
        }
        turn.end().await;
    }
}

fn on(script: Script, address: SocketAddr, path: &str) -> Program {
    script.args(["--url", &format!("http://{address}{path}")]).start()
}

/// What clients understood, as JSON.
fn read(events: &[Parsed]) -> Vec<Value> {
    events.iter().map(|event| serde_json::from_str(&event.data).expect("drivers report JSON")).collect()
}

/// What a library makes of a stream: from the backend itself, and through Holdover.
async fn both(server: &Server, stream: &[String], script: impl Fn() -> Script, path: &str) -> [Report; 2] {
    let holdover = Holdover::start(&server.backend).await;
    let direct = on(script(), server.backend.address(), path);
    server.answer(stream).await;
    let direct = direct.report().await;
    let through = on(script(), holdover.addr(), path);
    server.answer(stream).await;
    let through = through.report().await;
    assert_eq!((&direct.ended, &direct.errors), (&through.ended, &through.errors), "{through:#?}");
    assert_eq!(direct.events, through.events, "{}", direct.client);
    holdover.metric_is("holdover_turns_finished_total", &[("outcome", "completed")], 1.0).await;
    [direct, through]
}

/// A snippet of the documentation, cut three times, prints what these blocks say. `base` goes behind the address in the
/// `variable` that tells it whom to ask.
async fn prints(server: &Server, stream: &[String], snippet: &str, (variable, base): (&str, &str), text: &str) {
    let holdover = Holdover::start(&server.backend).await;
    let cuts = [Cut::inside(2, 15, How::Fin), Cut::after(1, How::Reset), Cut::inside(0, 5, How::Fin)];
    let faults = FaultProxy::start(holdover.addr(), cuts).await;
    let script = Script::node(snippet).env(variable, format!("http://{}{base}", faults.address()));
    let mut program = script.env("GEMINI_API_KEY", "k").start();
    let mut turn = server.turn().await;
    for (number, block) in stream.iter().enumerate() {
        turn.chunk(block).await;
        if number + 1 == 4 {
            faults.streams_are(cuts.len() + 1).await;
        }
    }
    turn.end().await;
    assert_eq!(program.rest().await.join("\n"), text);
    assert_eq!((server.backend.requests().len(), server.backend.aborted(), faults.cuts()), (1, 0, cuts.len()));
}

/// What stands in the documents is what runs here.
#[test]
fn snippets_are_the_files_that_run() {
    let root = crate::support::program::root();
    let read = |path: String| std::fs::read_to_string(root.join(path)).expect("it is there");
    let pages = [
        ("langgraph", "langgraph_chat"),
        ("dify", "resume_by_hand"),
        ("dify", "dify_chat"),
        ("flowise", "flowise_prediction"),
        ("gemini", "gemini_stream"),
    ];
    for (page, snippet) in pages {
        let block = format!("```js\n{}```\n", read(format!("tests/clients/node/snippets/{snippet}.mjs")));
        assert!(
            read(format!("docs/clients/{page}.md")).contains(&block),
            "{snippet} does not stand in {page}.md as it is"
        );
    }
}

/// A turn started by plain HTTP as Alice's, once it has so many events; with its name.
async fn begun(
    server: &Server,
    holdover: &Holdover,
    path: &str,
    body: &Value,
    blocks: &[String],
) -> (crate::support::Client, Exchange, String) {
    let mut client = holdover.connect().await;
    let headers = [("Authorization", "Bearer alice"), ("Content-Type", "application/json")];
    client.request("POST", path, &headers, body.to_string()).await;
    let mut turn = server.turn().await;
    for block in blocks {
        turn.chunk(block).await;
    }
    let name = client.head().await.get("holdover-turn").expect("it is recorded").to_owned();
    client.next_events(blocks.len()).await;
    (client, turn, name)
}

/// Waits until a turn of Alice's has a state.
async fn state_is(holdover: &Holdover, turn: &str, state: &str) {
    let is = async || (holdover.status_as(turn, Some("Bearer alice")).await["state"] == state).then_some(());
    eventually(format!("the turn to be {state}"), is).await;
}
