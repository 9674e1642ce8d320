//! Gemini, Dify and Flowise: their SDKs, which never resume, and the reader of the documentation, which does.

mod dify;
mod flowise;
mod gemini;

use std::net::SocketAddr;

use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};

use crate::support::{
    Backend, Cut, DEADLINE, Exchange, FaultProxy, Holdover, How, Parsed, Program, Report, Script, eventually, within,
};

const ALICE: &str = "authorization: Bearer alice";

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

/// The reader of the documentation, cut three times, gets every one of these blocks' data once.
async fn survives_by_hand(server: &Server, stream: &[String], path: &str, body: &Value) {
    let holdover = Holdover::start(&server.backend).await;
    let cuts = [Cut::inside(2, 15, How::Fin), Cut::after(1, How::Reset), Cut::inside(0, 5, How::Fin)];
    let faults = FaultProxy::start(holdover.addr(), cuts).await;
    let script = Script::node("by_hand.mjs").args(["--method", "POST", "--body", &body.to_string(), "--header", ALICE]);
    let client = on(script, faults.address(), path);
    let mut turn = server.turn().await;
    for (number, block) in stream.iter().enumerate() {
        turn.chunk(block).await;
        if number + 1 == 4 {
            faults.streams_are(cuts.len() + 1).await;
        }
    }
    turn.end().await;
    let report = client.report().await;
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
    let data = |block: &String| block.lines().find_map(|line| Some(line.strip_prefix("data:")?.trim().to_owned()));
    let data: Vec<_> = stream.iter().filter_map(data).collect();
    assert_eq!(report.events.iter().map(|event| event.data.clone()).collect::<Vec<_>>(), data);
    assert_eq!((server.backend.aborted(), faults.cuts()), (0, cuts.len()));
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
