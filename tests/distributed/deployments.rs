//! Three nodes on a deployment of several servers, whose master dies while turns run.

use std::time::Instant;

use serde_json::json;
use tokio::{sync::watch, task::JoinHandle};

use super::{config_at, outages, stream_of};
use crate::support::{
    Backend, Holdover, events, eventually,
    servers::{Cluster, Make, Sentinels},
};

/// Turns that run when the master dies.
const TURNS: usize = 12;

/// Nodes on one deployment, and turns of the first two of them, which send ten events a second.
struct Trio {
    nodes: Vec<Holdover>,
    turns: Vec<Running>,
    /// Ends all answers.
    end: watch::Sender<bool>,
    backend: Backend,
}

struct Running {
    id: String,
    owner: usize,
    /// The client that started it.
    client: JoinHandle<outages::Shown>,
    /// One at another node, from the first event on.
    elsewhere: JoinHandle<outages::Shown>,
}

impl Trio {
    async fn start(url: &str, store: &str) -> Self {
        let (end, over) = watch::channel(false);
        let backend = outages::paced(over).await;
        let config = config_at(url, store, "");
        let node = || Holdover::before(&backend).config(config.as_str()).start();
        let (one, two, three) = tokio::join!(node(), node(), node());
        let nodes = vec![one, two, three];
        for node in &nodes {
            eventually("the node to be ready", || async { (node.ready().await.0 == 200).then_some(()) }).await;
        }
        let mut turns = Vec::new();
        for number in 0..TURNS {
            let owner = number % 2;
            let (id, client) = outages::start(&nodes[owner], &[("X-Session", &format!("s{number}"))]).await;
            let elsewhere = outages::watching(nodes[owner + 1].following(&stream_of(&id)).await);
            turns.push(Running { id, owner, client, elsewhere });
        }
        let trio = Self { nodes, turns, end, backend };
        for Running { id, .. } in &trio.turns {
            trio.nodes[2].last_seq_is_at_least(id, 5).await;
        }
        trio
    }

    async fn degraded(&self, turn: &Running) {
        let degraded = || async { outages::degraded(&self.nodes[turn.owner], &turn.id).await.then_some(()) };
        eventually(format!("{} to be degraded", turn.id), degraded).await;
    }

    /// All is as before: every node is ready, every turn is stored and seen at the third node as it goes on.
    async fn recovered(&self, since: Instant) {
        for node in &self.nodes {
            eventually("the node to be ready", || async { (node.ready().await.0 == 200).then_some(()) }).await;
        }
        for turn in &self.turns {
            let owner = &self.nodes[turn.owner];
            let stored = || async { (!outages::degraded(owner, &turn.id).await).then_some(()) };
            eventually(format!("{} to be stored", turn.id), stored).await;
            if turn.id == self.turns[0].id {
                eprintln!("stored again {:?} after the death of its master", since.elapsed());
            }
            let last = owner.status(&turn.id).await["last_seq"].as_u64().unwrap();
            self.nodes[2].last_seq_is_at_least(&turn.id, last + 3).await;
        }
    }

    /// Resumes and stops turns at nodes that do not own them, ends the others, and finds all of them whole at every node.
    async fn whole_everywhere(mut self) {
        let mut resumed = Vec::new();
        for (number, turn) in self.turns.iter().enumerate() {
            let mut client = self.nodes[2].resume("GET", "/chat", &format!("{}-{}", turn.id, number + 1)).await;
            let head = client.head().await;
            assert_eq!((head.status(), head.get("holdover-turn")), (200, Some(&*turn.id)));
            resumed.push(outages::watching(client));
        }
        for turn in &self.turns[..3] {
            assert_eq!(self.nodes[2].stop(&turn.id).await, json!({"result": "stopped"}));
        }
        self.end.send_replace(true);
        for (number, (turn, resumed)) in self.turns.drain(..).zip(resumed).enumerate() {
            let [shown, elsewhere, rest] = [turn.client.await, turn.elsewhere.await, resumed.await].map(Result::unwrap);
            assert!(shown.ending.is_clean(), "turn {number}: {:?}", shown.ending);
            assert!(shown.longest < outages::UNNOTICED, "turn {number}: its client waited {:?}", shown.longest);
            let sent = events(&shown.bytes);
            for (event, seq) in sent.iter().zip(1..) {
                assert_eq!((event.place(), event.data()), ((&*turn.id, seq), &*seq.to_string()), "turn {number}");
            }
            assert!(elsewhere.ending.is_clean() && elsewhere.bytes == shown.bytes, "turn {number} elsewhere");
            assert!(rest.ending.is_clean(), "turn {number} resumed");
            assert_eq!(events(&rest.bytes), sent[number + 1..], "turn {number} resumed");
            let state = if number < 3 { "cancelled" } else { "completed" };
            for node in &self.nodes {
                assert_eq!(node.state_is(&turn.id, state).await["last_seq"], sent.len());
                assert_eq!(node.whole(&turn.id).await, shown.bytes, "turn {number}");
            }
        }
        for node in &self.nodes {
            node.metrics().await.assert_books_balance();
        }
        assert_eq!(self.backend.requests().len(), TURNS, "nothing was run again");
    }
}

/// The master dies while turns run, a replica takes over, and the dead one comes back as its replica.
async fn live_through_a_failover_by_sentinels(make: Make) {
    let mut redis = Sentinels::start(make, 1).await;
    let trio = Trio::start(&redis.url(), "").await;
    redis.servers[0].kill();
    let since = Instant::now();
    trio.degraded(&trio.turns[0]).await;
    assert_eq!(redis.failed_over(0).await, 1);
    trio.recovered(since).await;
    redis.servers[0].start_again();
    redis.settled().await;
    trio.whole_everywhere().await;
}

#[tokio::test]
async fn turns_live_through_a_failover_by_sentinels() {
    live_through_a_failover_by_sentinels(Make::System).await;
}

#[tokio::test]
async fn turns_live_through_a_failover_by_sentinels_of_valkey_9() {
    live_through_a_failover_by_sentinels(Make::Valkey9).await;
}

/// A master dies while turns run, those of the other masters' slots go on as before, and its replica takes over.
async fn live_through_a_failover_in_a_cluster(make: Make) {
    let mut redis = Cluster::with_replicas(make, 3).await;
    let trio = Trio::start(&redis.url(), "cluster = true").await;
    let mut owners = Vec::new();
    for turn in &trio.turns {
        // The slot is that of the tag alone.
        owners.push(redis.owner_of(&format!("holdover:{{{}}}", &turn.id[..8])).await);
    }
    let dead = owners[0];
    redis.servers[dead].kill();
    let since = Instant::now();
    trio.degraded(&trio.turns[0]).await;
    if let Some(other) = owners.iter().position(|owner| *owner != dead) {
        let turn = &trio.turns[other];
        let seq = trio.nodes[turn.owner].status(&turn.id).await["last_seq"].as_u64().unwrap();
        trio.nodes[2].last_seq_is_at_least(&turn.id, seq + 3).await;
    }
    trio.recovered(since).await;
    assert_eq!(redis.owner_of(&format!("holdover:{{{}}}", &trio.turns[0].id[..8])).await, dead + 3);
    redis.servers[dead].start_again();
    redis.in_sync(dead + 3).await;
    trio.whole_everywhere().await;
}

#[tokio::test]
async fn turns_live_through_the_death_of_a_master_in_a_cluster() {
    live_through_a_failover_in_a_cluster(Make::System).await;
}

#[tokio::test]
async fn turns_live_through_the_death_of_a_master_in_a_cluster_of_redis_8() {
    live_through_a_failover_in_a_cluster(Make::Redis8).await;
}
