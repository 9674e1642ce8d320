//! A stepped backend, a Holdover, and what cuts in front of it.

use serde_json::Value;
use tokio::sync::{Mutex, mpsc};

use super::dialects::Dialect;
use crate::support::{
    Backend, Cut, DEADLINE, Exchange, FaultProxy, Holdover, How, Parsed, Program, Random, Script, within,
};

/// What a backend says that lets pages of every origin ask, and knows of no `Last-Event-ID`.
const FOR_ALL_ORIGINS: &str = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: *\r\n";

/// So many bytes of an event at most get through before a cut inside it. No event is shorter.
const INSIDE: usize = 20;

/// What CopilotKit asks its runtime first.
const INFO: &str = r#"{"version": "1.75.0", "agents": {"default": {"name": "default", "description": ""}}}"#;

pub(super) struct Stage {
    pub(super) backend: Backend,
    turns: Mutex<mpsc::UnboundedReceiver<Exchange>>,
    pub(super) holdover: Holdover,
    pub(super) faults: FaultProxy,
}

impl Stage {
    pub(super) async fn with(cuts: impl IntoIterator<Item = Cut>) -> Self {
        let (sender, turns) = mpsc::unbounded_channel();
        let backend = Backend::answering(move |exchange| {
            let sender = sender.clone();
            async move {
                match exchange.request.method() {
                    "OPTIONS" => exchange.answer("204 No Content", FOR_ALL_ORIGINS, "").await,
                    "GET" if exchange.request.target().ends_with("/info") => {
                        let fields = format!("{FOR_ALL_ORIGINS}Content-Type: application/json\r\n");
                        exchange.answer("200 OK", &fields, INFO).await;
                    }
                    "GET" => exchange.answer("404 Not Found", FOR_ALL_ORIGINS, "").await,
                    // Without a receiver the test is over.
                    _ => drop(sender.send(exchange)),
                }
            }
        });
        let backend = backend.await;
        let holdover = Holdover::start(&backend).await;
        let faults = FaultProxy::start(holdover.addr(), cuts).await;
        Self { backend, turns: turns.into(), holdover, faults }
    }

    /// Where clients ask.
    pub(super) fn url(&self) -> String {
        format!("http://{}/chat", self.faults.address())
    }

    /// A client of `shimmed.mjs` that asks here.
    pub(super) fn client(&self, client: &str, arguments: &[&str]) -> Program {
        let url = self.url();
        let script = Script::node("shimmed.mjs").args(["--client", client, "--url", &url, "--timeout", "50000"]);
        script.args(arguments).start()
    }

    /// The next start at the backend, and what it asks for.
    pub(super) async fn turn(&self) -> (Exchange, Value) {
        let turn = async { self.turns.lock().await.recv().await };
        let mut turn = within(DEADLINE, "a start at the backend", turn).await.expect("the backend is there");
        let body = turn.body().await.expect("a whole body");
        (turn, serde_json::from_slice(&body).expect("a body of JSON"))
    }

    /// The next start, with its head answered in a dialect.
    pub(super) async fn opened(&self, dialect: &Dialect) -> (Exchange, Vec<String>) {
        let (mut turn, request) = self.turn().await;
        turn.stream_with(&format!("{FOR_ALL_ORIGINS}{}", dialect.fields)).await;
        (turn, (dialect.events)(&request))
    }

    /// Runs the backend's side of a turn. It goes on only when the client is back from each cut.
    pub(super) async fn run(&self, dialect: &Dialect, cuts: usize) {
        let (mut turn, events) = self.opened(dialect).await;
        let mut sent = 0;
        for cut in 0..cuts {
            // Enough for the cut to be reached, and a few that are missed.
            let until = events.len().min(dialect.cuts[cut] + 3);
            for event in &events[sent..until] {
                assert!(turn.event(event).await, "the backend was left");
            }
            sent = until;
            self.faults.streams_are(cut + 2).await;
        }
        for event in &events[sent..] {
            assert!(turn.event(event).await, "the backend was left");
        }
        turn.end().await;
    }

    /// Starts of turns at the backend.
    pub(super) fn starts(&self) -> usize {
        self.backend.requests().iter().filter(|request| request.method() == "POST").count()
    }

    /// Waits until the turn has been stopped.
    pub(super) async fn cancelled(&self) {
        self.holdover.metric_is("holdover_turns_finished_total", &[("outcome", "cancelled")], 1.0).await;
    }

    /// What must hold when one turn has been read.
    pub(super) async fn judge(&self, cuts: usize) {
        assert_eq!((self.starts(), self.backend.aborted()), (1, 0), "at the backend");
        assert_eq!(self.faults.cuts(), cuts);
        self.holdover.metric_is("holdover_turns_finished_total", &[("outcome", "completed")], 1.0).await;
        self.holdover.metrics().await.assert_books_balance();
    }
}

/// The cuts of a dialect: closed or reset, between or inside events. The first is never a reset, which could take the
/// response head along: before that, a broken connection is as fatal as it ever was.
pub(super) fn cuts(dialect: &Dialect, random: &mut Random) -> Vec<Cut> {
    let mut delivered = 0;
    let cuts = dialect.cuts.iter().enumerate().map(|(number, position)| {
        let events = position - delivered;
        delivered = *position;
        let how = if number > 0 && random.toss() { How::Reset } else { How::Fin };
        let bytes = if random.toss() { 1 + random.below(INSIDE) } else { 0 };
        Cut::inside(events, bytes, how)
    });
    cuts.collect()
}

pub(super) fn data(events: &[Parsed]) -> Vec<String> {
    events.iter().map(|event| event.data.clone()).collect()
}
