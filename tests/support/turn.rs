//! A turn, from all three sides.

use std::sync::atomic::{AtomicUsize, Ordering};

use super::{Backend, Client, Event, Exchange, Holdover};

/// A turn that runs.
pub(crate) struct Turn {
    /// Its name.
    pub(crate) id: String,
    /// The client that started it; the head of the answer is read.
    pub(crate) client: Client,
    /// The backend's side; the head of the answer is sent.
    pub(crate) upstream: Exchange,
}

impl Turn {
    /// Starts one by `POST /chat`.
    pub(crate) async fn start(holdover: &Holdover, backend: &Backend) -> Self {
        Self::start_with(holdover, backend, &[]).await
    }

    /// Starts one by `POST /chat` with headers.
    pub(crate) async fn start_with(holdover: &Holdover, backend: &Backend, headers: &[(&str, &str)]) -> Self {
        let mut client = holdover.connect().await;
        client.request("POST", "/chat", headers, fresh_body()).await;
        Self::opened(client, backend).await
    }

    /// The turn that `client` has just asked for.
    pub(crate) async fn opened(mut client: Client, backend: &Backend) -> Self {
        let mut upstream = backend.next().await;
        upstream.stream().await;
        let head = client.head().await;
        assert_eq!(head.status(), 200, "{head:?}");
        let id = head.get("holdover-turn").expect("a recorded answer names its turn").to_owned();
        Self { id, client, upstream }
    }

    /// Sends an event, and waits until the client has it.
    pub(crate) async fn event(&mut self, text: &str) -> Event {
        self.upstream.event(text).await;
        let event = self.client.next_event().await;
        assert_eq!(event.data(), text);
        event
    }

    /// Sends events `1` to `count`, and waits until the client has them.
    pub(crate) async fn events(&mut self, count: usize) -> Vec<Event> {
        let mut all = Vec::with_capacity(count);
        for number in 1..=count {
            all.push(self.event(&number.to_string()).await);
        }
        all
    }

    /// Ends the answer, and waits until the client has seen it.
    pub(crate) async fn end(self) -> String {
        let Self { id, mut client, upstream, .. } = self;
        upstream.end().await;
        let (rest, ending) = client.rest().await;
        assert!(ending.is_clean() && rest.is_empty(), "{ending:?} behind {rest:?}");
        id
    }

    /// An event id of this turn.
    pub(crate) fn id_of(&self, seq: u64) -> String {
        format!("{}-{seq}", self.id)
    }

    /// Where it is resumed.
    pub(crate) fn stream_path(&self) -> String {
        format!("/.holdover/turns/{}/stream", self.id)
    }
}

impl Holdover {
    /// A turn of so many events that has ended, and these events.
    pub(crate) async fn ended_turn(&self, backend: &Backend, count: usize) -> (String, Vec<Event>) {
        let mut turn = Turn::start(self, backend).await;
        let events = turn.events(count).await;
        (turn.end().await, events)
    }

    /// A connection that has sent a request with an event id.
    pub(crate) async fn resume(&self, method: &str, target: &str, last_event_id: &str) -> Client {
        let mut client = self.connect().await;
        client.request(method, target, &[("Last-Event-ID", last_event_id)], "").await;
        client
    }
}

/// A request body like no other: equal ones may be taken for retries of each other.
pub(crate) fn fresh_body() -> String {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    format!("{{\"prompt\":{}}}", NUMBER.fetch_add(1, Ordering::Relaxed))
}
