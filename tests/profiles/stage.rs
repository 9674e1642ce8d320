//! A backend of some API whose turns are stepped, a Holdover before it, and what cuts connections in front of both.

use std::net::SocketAddr;

use serde_json::Value;
use tokio::sync::{Mutex, mpsc};

use crate::support::{
    Backend, Cut, DEADLINE, Exchange, FaultProxy, Holdover, How, Program, Report, Script, dialect::Blocks, within,
};

/// See the module.
pub(super) struct Stage {
    pub(super) backend: Backend,
    turns: Mutex<mpsc::UnboundedReceiver<Exchange>>,
    pub(super) holdover: Holdover,
    pub(super) faults: FaultProxy,
}

/// One cut: after so many events of its connection and so many bytes of the next one.
pub(super) type At = (usize, usize, How);

/// What a backend of OpenAI's API says of a response it does not keep.
pub(super) const NOT_KEPT: &str =
    r#"{"error":{"message":"the backend does not keep it","type":"invalid_request_error"}}"#;

impl Stage {
    /// Requests on these paths are the test's to answer ([`Stage::turn`]); the backend knows nothing else.
    pub(super) async fn new(known: &'static [&'static str], config: &str, cuts: &[At]) -> Self {
        let (sender, turns) = mpsc::unbounded_channel();
        let backend = Backend::answering(move |exchange| {
            let sender = sender.clone();
            async move {
                let path = exchange.request.target().split('?').next().expect("split gives one part at least");
                if known.contains(&path) {
                    // Without a receiver the test is over.
                    let _ = sender.send(exchange);
                } else {
                    exchange.answer("404 Not Found", "Content-Type: application/json\r\n", NOT_KEPT).await;
                }
            }
        });
        let backend = backend.await;
        let holdover = Holdover::before(&backend).config(config).start().await;
        let cuts = cuts.iter().map(|(events, bytes, how)| Cut::inside(*events, *bytes, *how));
        let faults = FaultProxy::start(holdover.addr(), cuts).await;
        Self { backend, turns: turns.into(), holdover, faults }
    }

    /// Where clients connect.
    pub(super) fn address(&self) -> SocketAddr {
        self.faults.address()
    }

    /// The next request at the backend that it knows.
    pub(super) async fn turn(&self) -> Exchange {
        let turn = async { self.turns.lock().await.recv().await };
        // The client may still be loading its library, on a machine that is busy.
        within(4 * DEADLINE, "a start at the backend", turn).await.expect("the backend is there")
    }

    /// Starts a client of this path.
    pub(super) fn client(&self, script: Script, path: &str) -> Program {
        script.args(["--url", &format!("http://{}{path}", self.address())]).start()
    }

    /// Runs the backend's side of a turn whose connections are cut, with `--live` clients; gives what the client says.
    pub(super) async fn play(&self, mut client: Program, blocks: &Blocks, cuts: &[At]) -> Report {
        // Who has not read the first event does not know what to ask for.
        let known = async { drop(client.note("event").await) };
        self.play_cut(blocks, cuts, 1, known).await;
        client.report().await
    }

    /// Runs the backend's side of a turn whose connections are cut, once the client has `known` the `first` events.
    pub(super) async fn play_cut(&self, blocks: &Blocks, cuts: &[At], first: usize, known: impl Future<Output = ()>) {
        let mut turn = self.turn().await;
        turn.stream().await;
        for block in &blocks[..first] {
            turn.chunk(block).await;
        }
        known.await;
        let (mut sent, mut delivered) = (first, 0);
        for (number, (events, ..)) in cuts.iter().enumerate() {
            delivered += events;
            // One more than is needed for the cut: what follows is replayed in part, and in part live.
            let enough = blocks.len().min(delivered + 2);
            for block in &blocks[sent.min(enough)..enough] {
                turn.chunk(block).await;
            }
            sent = sent.max(enough);
            self.faults.streams_are(number + 2).await;
        }
        for block in &blocks[sent..] {
            turn.chunk(block).await;
        }
        turn.end().await;
    }

    /// Runs a turn until a `--live` client has read so many of its events.
    pub(super) async fn play_until(&self, client: &mut Program, blocks: &[String]) -> Exchange {
        let mut turn = self.turn().await;
        turn.stream().await;
        for block in blocks {
            turn.chunk(block).await;
            client.note("event").await;
        }
        turn
    }

    /// The backend's side of a turn that meets no cut.
    pub(super) async fn play_whole(&self, blocks: &Blocks) {
        let mut turn = self.turn().await;
        turn.stream().await;
        for block in blocks {
            turn.chunk(block).await;
        }
        turn.end().await;
    }

    /// How many turns the backend was asked for.
    pub(super) fn turns_at_backend(&self, starts: &str) -> usize {
        self.backend.requests().iter().filter(|request| request.target() == starts).count()
    }

    /// Asserts that there was one turn, that it ended like this, and that nothing else was recorded.
    pub(super) async fn one_turn(&self, starts: &str, outcome: &str) {
        assert_eq!(self.turns_at_backend(starts), 1, "turns at the backend");
        self.holdover.metric_is("holdover_turns_finished_total", &[("outcome", outcome)], 1.0).await;
        let metrics = self.holdover.metrics().await;
        assert_eq!(metrics.sum("holdover_turns_started_total", &[]), 1.0);
        metrics.assert_books_balance();
    }
}

/// The data of each block, as JSON.
pub(super) fn data_of(blocks: &[String]) -> Vec<Value> {
    let data = |block: &String| block.lines().find_map(|line| line.strip_prefix("data: ")).map(str::to_owned);
    blocks.iter().filter_map(data).filter(|data| data != "[DONE]").map(|data| json_of(&data)).collect()
}

/// The data of each event that a client reports, as JSON.
pub(super) fn seen(report: &Report) -> Vec<Value> {
    report.events.iter().map(|event| json_of(&event.data)).collect()
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}
