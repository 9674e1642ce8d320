//! A server of LangGraph's API whose runs are stepped by a test. It aborts a run when its client leaves.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Notify, mpsc};

use super::*;
use crate::support::{Backend, Exchange};

/// Which kind of server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// As LangGraph Platform: ids of its own, `Location` and `Content-Location`, CRLF, heartbeats; runs can be joined (from
    /// now on) and cancelled. Only `Content-Location` is exposed to other origins.
    Own,
    /// Streams runs, and nothing else.
    Bare,
}

/// See the module.
pub(super) struct Platform {
    pub(super) backend: Backend,
    kind: Kind,
    runs: tokio::sync::Mutex<mpsc::UnboundedReceiver<Exchange>>,
    cancelled: Arc<Notify>,
    over: Arc<Notify>,
}

/// What lets pages of every origin ask.
const CORS: &str = "Access-Control-Allow-Origin: *\r\n";

impl Platform {
    pub(super) async fn start(kind: Kind) -> Self {
        let (sender, runs) = mpsc::unbounded_channel();
        let cancelled = Arc::new(Notify::new());
        let over = Arc::new(Notify::new());
        let (cancelling, ending) = (cancelled.clone(), over.clone());
        let backend = Backend::answering(move |exchange| {
            let (sender, cancelled, over) = (sender.clone(), cancelling.clone(), ending.clone());
            async move {
                let (method, path) = (exchange.request.method().to_owned(), exchange.request.target().to_owned());
                let path = path.split('?').next().expect("a path");
                let json = format!("{CORS}Content-Type: application/json\r\n");
                match (&*method, kind) {
                    ("OPTIONS", _) => {
                        let allowed = "Access-Control-Allow-Headers: authorization, content-type\r\n";
                        exchange.answer("204 No Content", &format!("{CORS}{allowed}"), "").await;
                    }
                    // Without a receiver the test is over.
                    ("POST", _) if path.ends_with("/runs/stream") => drop(sender.send(exchange)),
                    ("GET", _) if path.ends_with("/state") => {
                        exchange
                            .answer("200 OK", &json, r#"{"values":{},"next":[],"tasks":[],"checkpoint":null}"#)
                            .await;
                    }
                    ("POST", _) if path.ends_with("/history") => exchange.answer("200 OK", &json, "[]").await,
                    ("GET", Kind::Own) if path.ends_with("/stream") => {
                        let mut exchange = exchange;
                        exchange.stream_with(&located(path.trim_end_matches("/stream"))).await;
                        exchange.end().await;
                    }
                    ("POST", Kind::Own) if path.ends_with("/cancel") => {
                        cancelled.notify_one();
                        // As the real one does: the stream ends before the cancel is answered.
                        over.notified().await;
                        exchange.answer("202 Accepted", CORS, "").await;
                    }
                    ("GET", Kind::Own) if path.contains("/runs/") => {
                        exchange.answer("200 OK", &json, r#"{"status":"success"}"#).await;
                    }
                    _ => exchange.answer("404 Not Found", &json, r#"{"detail":"Not Found"}"#).await,
                }
            }
        });
        Self { backend: backend.await, kind, runs: runs.into(), cancelled, over }
    }

    /// The next start, not answered yet.
    pub(super) async fn asked(&self) -> Exchange {
        let run = async { self.runs.lock().await.recv().await };
        within(CLIENT, "a start at the server", run).await.expect("the server is there")
    }

    /// The next run. Its answer has begun.
    pub(super) async fn run(&self) -> Run {
        static NUMBER: AtomicUsize = AtomicUsize::new(1);
        let id = format!("01a1fd7a-c0a3-7746-bf3e-{:012x}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let mut exchange = self.asked().await;
        let thread = exchange.request.target().trim_end_matches("/runs/stream").to_owned();
        match self.kind {
            Kind::Own => exchange.stream_with(&located(&format!("{thread}/runs/{id}"))).await,
            Kind::Bare => exchange.stream_with(CORS).await,
        }
        Run { id, kind: self.kind, exchange, sent: 0, over: self.over.clone() }
    }

    /// Waits until a client has cancelled a run here.
    pub(super) async fn cancelled(&self) {
        within(CLIENT, "a run to be cancelled at the server", self.cancelled.notified()).await;
    }

    /// Requests that started a run.
    pub(super) fn starts(&self) -> usize {
        self.count("POST", "/runs/stream")
    }

    /// Requests with this method and end of their path.
    pub(super) fn count(&self, method: &str, end: &str) -> usize {
        let path = |target: &str| target.split('?').next().is_some_and(|path| path.ends_with(end));
        self.backend.requests().iter().filter(|request| request.method() == method && path(request.target())).count()
    }

    /// Event ids of ours that came here.
    pub(super) fn ids_of_ours(&self) -> Vec<String> {
        let ids = self.backend.requests();
        let ids = ids.iter().filter_map(|request| request.get("last-event-id"));
        ids.filter(|id| id.len() > 28 && id.as_bytes()[28] == b'-').map(str::to_owned).collect()
    }
}

fn located(run: &str) -> String {
    format!(
        "Location: {run}/stream\r\nContent-Location: {run}\r\n{CORS}Access-Control-Expose-Headers: content-location\r\n"
    )
}

/// A run that streams.
pub(super) struct Run {
    /// As the server calls it.
    pub(super) id: String,
    kind: Kind,
    exchange: Exchange,
    sent: usize,
    over: Arc<Notify>,
}

impl Run {
    /// Sends its events up to the n-th.
    pub(super) async fn send_until(&mut self, n: usize) {
        for n in self.sent + 1..=n {
            let (kind, data) = event(&self.id, n);
            let block = match self.kind {
                Kind::Own if n % 5 == 0 => {
                    format!(": heartbeat\r\n\r\nevent: {kind}\r\ndata: {data}\r\nid: 17952540436{n:02}-0\r\n\r\n")
                }
                Kind::Own => format!("event: {kind}\r\ndata: {data}\r\nid: 17952540436{n:02}-0\r\n\r\n"),
                Kind::Bare => format!("event: {kind}\ndata: {data}\n\n"),
            };
            assert!(self.exchange.chunk(block).await, "the server was left");
        }
        self.sent = self.sent.max(n);
    }

    /// Ends it as servers do: without a word.
    pub(super) async fn end(self) {
        self.exchange.end().await;
        self.over.notify_one();
    }

    /// Breaks it off.
    pub(super) async fn close(self) {
        self.exchange.close().await;
    }

    /// Waits until its client has left.
    pub(super) async fn aborted(&mut self) {
        self.exchange.aborted().await;
    }
}
