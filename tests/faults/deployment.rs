//! Redis in its three forms, each as operators run it, and what can go wrong with it.

use std::net::SocketAddr;

use tokio::time::sleep;

use super::plan::{Blow, Fault};
use crate::support::{Redis, clock::WallClock, eventually};

/// In which form Redis is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// One server.
    Single,
    /// A master and a replica, watched by three sentinels.
    Sentinel,
    /// Three masters with a replica each.
    Cluster,
}

impl Kind {
    /// All, by the names of the command line.
    pub(super) const ALL: [(Self, &str); 3] =
        [(Self::Single, "single"), (Self::Sentinel, "sentinel"), (Self::Cluster, "cluster")];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).expect("all are in the list").1
    }
}

/// Asks a sentinel.
const MASTER: &str = "SENTINEL GET-MASTER-ADDR-BY-NAME holdover";

/// See the module.
pub(super) struct Deployment {
    kind: Kind,
    servers: Vec<Redis>,
    sentinels: Vec<Redis>,
    /// Of the server, if it stands alone.
    clock: WallClock,
}

impl Deployment {
    pub(super) async fn start(kind: Kind) -> Self {
        let clock = WallClock::right();
        let mut all = Self { kind, servers: Vec::new(), sentinels: Vec::new(), clock };
        match kind {
            Kind::Single => all.servers.push(Redis::reserved().env(all.clock.environment()).started().await),
            Kind::Sentinel => all.start_watched().await,
            Kind::Cluster => all.start_cluster().await,
        }
        all.is_whole().await;
        all
    }

    async fn start_watched(&mut self) {
        for at in 0..2 {
            let server = announced(Redis::reserved(), "replica-announce-ip", "replica-announce-port");
            let server = server.with(&["--repl-diskless-sync-delay", "0", "--repl-timeout", "5"]);
            self.servers.push(server.started().await);
            if at > 0 {
                self.follow(at, self.servers[0].address()).await;
            }
        }
        let master = self.servers[0].address();
        for _ in 0..3 {
            let sentinel = Redis::reserved();
            let own = sentinel.address();
            let configuration = format!(
                "sentinel announce-ip {}\nsentinel announce-port {}\nsentinel monitor holdover {} {} 2\n\
                 sentinel down-after-milliseconds holdover 1000\nsentinel failover-timeout holdover 4000\n",
                own.ip(),
                own.port(),
                master.ip(),
                master.port()
            );
            self.sentinels.push(sentinel.sentinel(&configuration).started().await);
        }
    }

    async fn start_cluster(&mut self) {
        for _ in 0..6 {
            let server = Redis::reserved();
            let host = server.address().ip().to_string();
            let server = server.with(&["--cluster-enabled", "yes", "--cluster-announce-ip", &host]);
            let server = server.with(&["--cluster-node-timeout", "1500", "--cluster-require-full-coverage", "no"]);
            let server = server.with(&["--repl-diskless-sync-delay", "0", "--repl-timeout", "5"]);
            self.servers.push(server.started().await);
        }
        let mut ids = Vec::new();
        for (at, server) in self.servers.iter().enumerate() {
            server.command::<()>(&format!("CLUSTER SET-CONFIG-EPOCH {}", at + 1)).await;
            ids.push(server.command::<String>("CLUSTER MYID").await);
            let first = self.servers[0].address();
            if at > 0 {
                server.command::<()>(&format!("CLUSTER MEET {} {}", first.ip(), first.port())).await;
            }
        }
        for (at, [from, to]) in [[0, 5460], [5461, 10922], [10923, 16383]].into_iter().enumerate() {
            self.servers[at].command::<()>(&format!("CLUSTER ADDSLOTSRANGE {from} {to}")).await;
        }
        for at in 3..6 {
            let (server, word) = (&self.servers[at], format!("CLUSTER REPLICATE {}", ids[at - 3]));
            eventually("a replica to know its master", || server.ask::<()>(&word)).await;
        }
    }

    /// How Holdover's configuration names it. `instead`: where the lone server is reached.
    pub(super) fn url(&self, instead: Option<SocketAddr>) -> String {
        let list = |servers: &[Redis]| servers.iter().map(|s| s.address().to_string()).collect::<Vec<_>>().join(",");
        match self.kind {
            Kind::Single => format!("redis://{}/0", instead.unwrap_or_else(|| self.servers[0].address())),
            Kind::Sentinel => format!("redis-sentinel://{}/holdover/0", list(&self.sentinels)),
            Kind::Cluster => format!("redis://{}", list(&self.servers)),
        }
    }

    /// Where the first server listens.
    pub(super) fn first(&self) -> SocketAddr {
        self.servers[0].address()
    }

    /// Waits until nothing is amiss: all servers are there, and each replica has what its master has.
    pub(super) async fn is_whole(&self) {
        match self.kind {
            Kind::Single => {}
            Kind::Sentinel => {
                let expected = ["num-slaves 1 ", "num-other-sentinels 2 ", "flags master "];
                for sentinel in &self.sentinels {
                    eventually("a sentinel to see all of it well", || async {
                        let said: Vec<String> = sentinel.ask("SENTINEL MASTER holdover").await?;
                        let said = said.join(" ") + " ";
                        let replicas: Vec<Vec<String>> = sentinel.ask("SENTINEL REPLICAS holdover").await?;
                        let well = replicas.iter().all(|words| words.join(" ").contains(" flags slave "));
                        (well && expected.iter().all(|words| said.contains(words))).then_some(())
                    })
                    .await;
                }
            }
            Kind::Cluster => {
                for server in &self.servers {
                    eventually("the cluster to be whole", || async {
                        let info: String = server.ask("CLUSTER INFO").await?;
                        let nodes: String = server.ask("CLUSTER NODES").await?;
                        let said = ["cluster_state:ok", "cluster_slots_ok:16384", "cluster_known_nodes:6"];
                        let slaves = nodes.lines().filter(|line| line.contains("slave")).count();
                        let well = slaves == 3 && !nodes.contains("fail") && !nodes.contains("handshake");
                        (well && said.iter().all(|words| info.contains(words))).then_some(())
                    })
                    .await;
                }
            }
        }
        for server in self.servers.iter().skip(1) {
            eventually(format!("{} to follow or to be followed", server.address()), || async {
                let info: String = server.ask("INFO replication").await?;
                (info.contains("master_link_status:up") || info.contains("state=online")).then_some(())
            })
            .await;
        }
    }

    /// The servers that take writes.
    async fn masters(&self) -> Vec<usize> {
        let mut masters = Vec::new();
        if self.kind == Kind::Sentinel {
            // One that was succeeded takes itself for a master until the sentinels tell it.
            let named = eventually("a sentinel to name the master", || async {
                let named: Option<(String, u16)> = self.sentinels[1].ask(MASTER).await;
                let named = named.map(|(host, port)| format!("{host}:{port}"))?;
                self.servers.iter().position(|server| server.address().to_string() == named)
            });
            return vec![named.await];
        }
        for at in 0..self.servers.len() {
            if self.is_master(at).await {
                masters.push(at);
            }
        }
        assert!(!masters.is_empty(), "no master");
        masters
    }

    async fn is_master(&self, at: usize) -> bool {
        let info: Option<String> = self.servers[at].ask("INFO replication").await;
        info.is_some_and(|info| info.contains("role:master"))
    }

    /// The replica that would succeed a master.
    async fn replica_of(&self, master: usize) -> usize {
        let port = format!("master_port:{}\r", self.servers[master].address().port());
        for at in 0..self.servers.len() {
            if at != master && self.servers[at].command::<String>("INFO replication").await.contains(&port) {
                return at;
            }
        }
        panic!("server {master} has no replica");
    }

    async fn follow(&self, at: usize, master: SocketAddr) {
        self.servers[at].command::<()>(&format!("REPLICAOF {} {}", master.ip(), master.port())).await;
    }

    /// Does its part of a fault, for as long as that lasts, and mends what does not mend itself.
    pub(super) async fn strike(&mut self, blow: &Blow) {
        if matches!(
            blow.fault,
            Fault::KillMaster | Fault::LoseAcked | Fault::FreezeMaster | Fault::KillReplica | Fault::KillSentinel
        ) {
            // What is to take over must be there, or all is lost by right.
            self.is_whole().await;
        }
        let masters = self.masters().await;
        let master = masters[blow.pick % masters.len()];
        match blow.fault {
            Fault::KillMaster if self.kind == Kind::Single => {
                self.servers[0].kill9();
                sleep(blow.lasting).await;
                self.servers[0].restart().await;
            }
            Fault::KillMaster => {
                let heir = self.replica_of(master).await;
                self.servers[master].kill9();
                self.is_succeeded(master, heir).await;
                self.comes_back(master, heir).await;
            }
            Fault::LoseAcked => {
                let heir = self.replica_of(master).await;
                self.detach(heir, master).await;
                sleep(blow.lasting).await;
                self.servers[master].kill9();
                self.is_succeeded(master, heir).await;
                if self.kind == Kind::Cluster {
                    self.servers[heir].command::<()>("CONFIG SET masterauth ").await;
                }
                self.comes_back(master, heir).await;
            }
            Fault::PauseMaster => {
                self.servers[master].freeze();
                sleep(blow.lasting).await;
                self.servers[master].thaw();
            }
            Fault::FreezeMaster => {
                let heir = if self.kind == Kind::Single { None } else { Some(self.replica_of(master).await) };
                self.servers[master].freeze();
                match heir {
                    None => sleep(blow.lasting).await,
                    Some(heir) => self.is_succeeded(master, heir).await,
                }
                self.servers[master].thaw();
            }
            Fault::KillReplica => {
                let replica = self.replica_of(master).await;
                self.servers[replica].kill9();
                sleep(blow.lasting).await;
                self.comes_back(replica, master).await;
            }
            Fault::KillSentinel => {
                let at = blow.pick % self.sentinels.len();
                self.sentinels[at].kill9();
                sleep(blow.lasting).await;
                self.sentinels[at].restart().await;
            }
            Fault::Flush => self.servers[master].flush_all().await,
            Fault::DropCalls => self.tell(&masters, "CLIENT KILL TYPE normal").await,
            Fault::DropInboxes => {
                // They may be at any server of a cluster.
                let all: Vec<usize> = (0..self.servers.len()).collect();
                self.tell(&all, "CLIENT KILL TYPE pubsub").await;
            }
            Fault::Fill => {
                self.tell(&masters, "CONFIG SET maxmemory 1").await;
                sleep(blow.lasting).await;
                self.tell(&masters, "CONFIG SET maxmemory 0").await;
            }
            Fault::StoreClock => {
                self.clock.set(blow.jump());
                sleep(blow.lasting).await;
                self.clock.set(0);
            }
            fault => unreachable!("{fault} is not for Redis"),
        }
    }

    async fn tell(&self, servers: &[usize], words: &str) {
        for at in servers {
            self.servers[*at].command::<redis::Value>(words).await;
        }
    }

    /// Has a replica no longer hear what its master takes.
    async fn detach(&self, replica: usize, master: usize) {
        if self.kind == Kind::Sentinel {
            return self.servers[replica].command::<()>("REPLICAOF 127.0.0.1 1").await;
        }
        // A cluster allows no such thing. It cannot log in again: its master knows no password.
        self.servers[replica].command::<()>("CONFIG SET masterauth wrong").await;
        self.servers[master].command::<redis::Value>("CLIENT KILL TYPE replica").await;
    }

    async fn is_succeeded(&self, master: usize, heir: usize) {
        let new = self.servers[heir].address();
        eventually(format!("{new} to succeed its master"), || async {
            if !self.is_master(heir).await {
                return None;
            }
            match self.kind {
                Kind::Single => None,
                Kind::Sentinel => {
                    let named: (String, u16) = self.sentinels[0].ask(MASTER).await?;
                    (named == (new.ip().to_string(), new.port())).then_some(())
                }
                Kind::Cluster => {
                    let others = (0..self.servers.len()).filter(|at| *at != master);
                    for at in others {
                        let info: String = self.servers[at].ask("CLUSTER INFO").await?;
                        if !info.contains("cluster_slots_ok:16384") {
                            return None;
                        }
                    }
                    Some(())
                }
            }
        })
        .await;
    }

    /// A killed server comes back, empty, as a replica.
    async fn comes_back(&mut self, at: usize, master: usize) {
        let address = self.servers[master].address();
        self.servers[at].restart().await;
        if self.kind == Kind::Sentinel {
            self.follow(at, address).await;
        }
    }
}

fn announced(server: Redis, ip: &str, port: &str) -> Redis {
    let address = server.address();
    server.with(&[&format!("--{ip}"), &address.ip().to_string(), &format!("--{port}"), &address.port().to_string()])
}
