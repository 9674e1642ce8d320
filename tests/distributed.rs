//! Several nodes on one Redis, which come and go, and Redis with them.

/// Sentinels and clusters whose masters die.
mod deployments;
/// Turns are found, followed and stopped at any node.
mod following;
/// Servers of all makes and versions.
mod makes;
/// Redis is away, slow or forgetful.
mod outages;
/// The owner of a turn dies, freezes or leaves.
mod owners;
/// Nodes are restarted while clients use them.
mod rolling;
/// One turn per start, whichever node the client comes to.
mod starts;
/// Very many followers at once.
mod storm;

use std::{fmt::Display, future::Future, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, interval};

use crate::support::{Backend, Client, Holdover, Redis, eventually, holdover::Setup};

/// Two nodes before one backend, on one Redis.
struct Pair {
    one: Holdover,
    other: Holdover,
    backend: Backend,
    redis: Redis,
}

impl Pair {
    async fn start() -> Self {
        Self::with("", "").await
    }

    /// With more settings of the store, and of the route.
    async fn with(store: &str, route: &str) -> Self {
        let (backend, redis) = tokio::join!(Backend::start(), Redis::start());
        Self::on(backend, redis, store, route).await
    }

    async fn on(backend: Backend, redis: Redis, store: &str, route: &str) -> Self {
        let config = config(&redis, store, route);
        let setup = || Holdover::before(&backend).config(config.as_str());
        let (one, other) = tokio::join!(setup().start(), setup().start());
        Self { one, other, backend, redis }
    }

    /// One more node like these.
    fn third(&self) -> Setup {
        Holdover::before(&self.backend).config(config(&self.redis, "", ""))
    }
}

fn config(redis: &Redis, store: &str, route: &str) -> String {
    config_at(&redis.url(), store, route)
}

/// A short lease, sessions that anybody finds, and nothing on the wire that differs between connections.
fn config_at(url: &str, store: &str, route: &str) -> String {
    let lease = if store.contains("lease") { "" } else { "lease = \"2s\"" };
    format!(
        r#"
        [store]
        kind = "redis"
        url = "{url}"
        {lease}
        {store}
        [identity]
        anonymous_sessions = true
        [[route]]
        name = "chat"
        session = "header:x-session"
        reconnect = "off"
        {route}
        "#
    )
}

impl Holdover {
    /// A client that has read the head of a stream at this path.
    async fn following(&self, path: &str) -> Client {
        let mut client = self.connect().await;
        client.request("GET", path, &[], "").await;
        let head = client.head().await;
        assert_eq!(head.status(), 200, "{path}: {head:?}");
        client
    }

    /// The bytes of a whole turn, which must end cleanly.
    async fn whole(&self, turn: &str) -> Vec<u8> {
        self.following(&stream_of(turn)).await.body().await.to_vec()
    }

    /// Waits until the store has this much of a turn, and this node sees it.
    async fn last_seq_is_at_least(&self, turn: &str, seq: u64) {
        let enough = || async { (self.status(turn).await["last_seq"].as_u64() >= Some(seq)).then_some(()) };
        eventually(format!("{seq} events of {turn}"), enough).await;
    }

    /// Asks for a turn to be stopped.
    async fn stop(&self, turn: &str) -> Value {
        let answer = self.request("DELETE", &format!("/.holdover/turns/{turn}")).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        answer.json().await.unwrap()
    }
}

fn stream_of(turn: &str) -> String {
    format!("/.holdover/turns/{turn}/stream")
}

/// Asserts at every look that a condition holds, for so long.
async fn stays<F: Future<Output = bool>>(limit: Duration, what: impl Display, condition: impl Fn() -> F) {
    let until = Instant::now() + limit;
    let mut look = interval(Duration::from_millis(50));
    while Instant::now() < until {
        assert!(condition().await, "no longer so: {what}");
        look.tick().await;
    }
}
