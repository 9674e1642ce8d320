//! Redis Cluster.

use super::{Make, Recipe, Server, eventually};

const SLOTS: usize = 16_384;

/// Masters that share all slots evenly, in their order, and others behind them.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    ids: Vec<String>,
}

impl Cluster {
    /// Starts so many masters, and others that know them and have no slots.
    pub(crate) async fn start(masters: usize, others: usize, arguments: &[&str]) -> Self {
        let own = ["--cluster-node-timeout", "3000", "--cluster-require-full-coverage", "no"];
        let recipe = Recipe::new(Make::System).with(&own).with(arguments);
        Self::of((0..masters + others).map(|_| recipe.clone()).collect(), masters).await
    }

    /// Starts so many masters, at addresses of their own, each with a replica that takes over after a second and a half.
    pub(crate) async fn with_replicas(make: Make, masters: usize) -> Self {
        let own = ["--cluster-node-timeout", "1500", "--cluster-require-full-coverage", "no"];
        let own = [&own[..], &["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"]].concat();
        let recipe = || Recipe::new(make).alone().with(&own);
        let cluster = Self::of((0..masters * 2).map(|_| recipe()).collect(), masters).await;
        for replica in masters..masters * 2 {
            cluster.replicate(replica, replica - masters).await;
        }
        for master in 0..masters {
            cluster.in_sync(master).await;
        }
        cluster
    }

    /// Starts so many masters of any make.
    pub(crate) async fn of_make(make: Make, masters: usize) -> Self {
        Self::of(vec![Recipe::new(make); masters], masters).await
    }

    async fn of(recipes: Vec<Recipe>, masters: usize) -> Self {
        let start = |recipe: Recipe| {
            let announced = ["--cluster-enabled", "yes", "--cluster-announce-ip", &recipe.host.to_string()];
            recipe.with(&announced).start()
        };
        let servers: Vec<Server> = recipes.into_iter().map(start).collect();
        let mut ids = Vec::new();
        for (at, server) in servers.iter().enumerate() {
            ids.push(server.command(&["CLUSTER", "MYID"]).await);
            server.command::<()>(&["CLUSTER", "SET-CONFIG-EPOCH", &(at + 1).to_string()]).await;
            if at < masters {
                let [first, last] = [at, at + 1].map(|at| at * SLOTS / masters);
                let slots: Vec<String> = (first..last).map(|slot| slot.to_string()).collect();
                let words: Vec<&str> = ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(|s| &**s)).collect();
                server.command::<()>(&words).await;
            }
            if at > 0 {
                let (host, port) = (server.host.to_string(), server.port.to_string());
                servers[0].command::<()>(&["CLUSTER", "MEET", &host, &port]).await;
            }
        }
        let cluster = Self { servers, ids };
        let known = format!("cluster_known_nodes:{}", cluster.servers.len());
        for server in &cluster.servers {
            eventually("the cluster is there", async || {
                let info: String = server.command(&["CLUSTER", "INFO"]).await;
                info.contains("cluster_state:ok") && info.lines().any(|line| line == known)
            })
            .await;
        }
        cluster
    }

    /// Makes a server without slots the replica of a master.
    pub(crate) async fn replicate(&self, replica: usize, master: usize) {
        eventually("the replica knows its master", async || {
            self.servers[replica].try_command::<()>("", &["CLUSTER", "REPLICATE", &self.ids[master]]).await.is_ok()
        })
        .await;
    }

    /// Waits until a master has a replica that has all it has, and all others know of it.
    pub(crate) async fn in_sync(&self, master: usize) {
        let is_replica = format!(" {} ", self.ids[master]);
        eventually("a replica has all that its master has", async || {
            let info = self.servers[master].command::<String>(&["INFO", "replication"]).await;
            let mut known = info.contains("state=online");
            for server in self.servers.iter().filter(|server| server.runs()) {
                let nodes: String = server.command(&["CLUSTER", "NODES"]).await;
                known &= nodes.lines().any(|line| line.contains("slave") && line.contains(&is_replica));
            }
            known
        })
        .await;
    }

    /// The master that has a key, as the last server sees it.
    pub(crate) async fn owner_of(&self, key: &str) -> usize {
        let last = self.servers.iter().rfind(|server| server.runs()).expect("one of them runs");
        let slot: usize = self.slot_of(key).await.parse().unwrap();
        let nodes: String = last.command(&["CLUSTER", "NODES"]).await;
        let has = |words: &[&str]| {
            words.iter().skip(8).any(|range| {
                // Not one that is on its way: `[slot->-id]`.
                let (first, last) = range.split_once('-').unwrap_or((range, range));
                let bounds = first.parse::<usize>().ok().zip(last.parse::<usize>().ok());
                bounds.is_some_and(|(first, last)| (first..=last).contains(&slot))
            })
        };
        let mut lines = nodes.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        let owner = lines.find(|words| has(words)).expect("somebody has each slot");
        self.ids.iter().position(|id| id == owner[0]).expect("all servers are known")
    }

    async fn slot_of(&self, key: &str) -> String {
        let asked = self.servers.iter().rfind(|server| server.runs()).expect("one of them runs");
        asked.command::<usize>(&["CLUSTER", "KEYSLOT", key]).await.to_string()
    }

    /// The id of a server in the cluster.
    pub(crate) fn id(&self, server: usize) -> &str {
        &self.ids[server]
    }

    /// Begins to move the slot of a key.
    pub(crate) async fn begin_to_move(&self, key: &str, from: usize, to: usize) {
        let slot = self.slot_of(key).await;
        self.servers[to].command::<()>(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &self.ids[from]]).await;
        self.servers[from].command::<()>(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &self.ids[to]]).await;
    }

    /// Moves a key of a slot that is being moved.
    pub(crate) async fn move_key(&self, key: &str, from: usize, to: usize) {
        let (host, port) = (self.servers[to].host.to_string(), self.servers[to].port.to_string());
        let moved: String = self.servers[from].command(&["MIGRATE", &host, &port, key, "0", "10000"]).await;
        assert_eq!(moved, "OK");
    }

    /// Ends the move of a slot: the one that has it now says so first.
    pub(crate) async fn end_move(&self, key: &str, from: usize, to: usize) {
        let slot = self.slot_of(key).await;
        for at in [to, from] {
            self.servers[at].command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &self.ids[to]]).await;
        }
    }

    /// As Holdover's configuration names it, with `cluster = true`.
    pub(crate) fn url(&self) -> String {
        let servers: Vec<String> = self.servers.iter().map(|s| format!("{}:{}", s.host, s.port)).collect();
        format!("redis://{}", servers.join(","))
    }
}
