//! Redis in its three forms, and what can go wrong with it.

use std::net::SocketAddr;

use tokio::time::sleep;

use super::plan::{Blow, Fault};
use crate::support::{
    clock::WallClock,
    eventually,
    servers::{Cluster, Make, Recipe, Sentinels, Server},
};

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

/// See the module.
pub(super) enum Deployment {
    Single(Box<Server>, WallClock),
    Sentinel(Sentinels),
    Cluster(Cluster),
}

impl Deployment {
    pub(super) async fn start(kind: Kind) -> Self {
        match kind {
            Kind::Single => {
                let clock = WallClock::right();
                let server = Recipe::new(Make::System).alone().env(clock.environment()).start();
                Self::Single(Box::new(server), clock)
            }
            Kind::Sentinel => Self::Sentinel(Sentinels::start(Make::System, 1).await),
            Kind::Cluster => Self::Cluster(Cluster::with_replicas(Make::System, 3).await),
        }
    }

    fn servers(&self) -> &[Server] {
        match self {
            Self::Single(server, _) => std::slice::from_ref(server),
            Self::Sentinel(all) => &all.servers,
            Self::Cluster(all) => &all.servers,
        }
    }

    fn server(&mut self, at: usize) -> &mut Server {
        match self {
            Self::Single(server, _) => server,
            Self::Sentinel(all) => &mut all.servers[at],
            Self::Cluster(all) => &mut all.servers[at],
        }
    }

    /// How Holdover's configuration names it. `instead`: where a lone server is reached.
    pub(super) fn url(&self, instead: SocketAddr) -> String {
        match self {
            Self::Single(..) => format!("redis://{instead}/0"),
            Self::Sentinel(all) => all.url(),
            Self::Cluster(all) => all.url(),
        }
    }

    /// Where the first server listens.
    pub(super) fn first(&self) -> SocketAddr {
        address(&self.servers()[0])
    }

    /// Waits until nothing is amiss: all servers are there, and each replica has what its master has.
    pub(super) async fn is_whole(&self) {
        match self {
            Self::Single(..) => {}
            Self::Sentinel(all) => all.settled().await,
            Self::Cluster(all) => {
                for server in &all.servers {
                    eventually("the cluster to be whole", || async {
                        let info: String = server.try_command("", &["CLUSTER", "INFO"]).await.ok()?;
                        let nodes: String = server.try_command("", &["CLUSTER", "NODES"]).await.ok()?;
                        let replicas = nodes.lines().filter(|line| line.contains("slave")).count();
                        let well = info.contains("cluster_slots_ok:16384") && replicas == 3;
                        let replication: String = server.try_command("", &["INFO", "replication"]).await.ok()?;
                        let has_other = replication.contains("state=online") || replication.contains("status:up");
                        (well && has_other && !nodes.contains("fail")).then_some(())
                    })
                    .await;
                }
            }
        }
    }

    /// The servers that take writes.
    async fn masters(&self) -> Vec<usize> {
        if let Self::Sentinel(all) = self {
            // One that was succeeded takes itself for a master until the sentinels tell it.
            return vec![eventually("a sentinel to name the master", || all.master()).await];
        }
        let mut masters = Vec::new();
        for at in 0..self.servers().len() {
            if self.is_master(at).await {
                masters.push(at);
            }
        }
        assert!(!masters.is_empty(), "no master");
        masters
    }

    async fn replication(&self, at: usize) -> String {
        self.servers()[at].try_command("", &["INFO", "replication"]).await.unwrap_or_default()
    }

    async fn is_master(&self, at: usize) -> bool {
        self.replication(at).await.contains("role:master")
    }

    /// The replica that would succeed a master.
    async fn replica_of(&self, master: usize) -> usize {
        let address = address(&self.servers()[master]);
        let (host, port) = (format!("master_host:{}\r", address.ip()), format!("master_port:{}\r", address.port()));
        for at in (0..self.servers().len()).filter(|at| *at != master) {
            let info = self.replication(at).await;
            if info.contains(&host) && info.contains(&port) {
                return at;
            }
        }
        panic!("server {master} has no replica");
    }

    /// Does its part of a fault, for as long as that lasts, and mends what does not mend itself.
    pub(super) async fn strike(&mut self, blow: &Blow) {
        use Fault::*;
        if matches!(blow.fault, KillMaster | LoseAcked | FreezeMaster | KillReplica | KillSentinel) {
            // What is to take over must be there, or all is lost by right.
            self.is_whole().await;
        }
        let masters = self.masters().await;
        let master = masters[blow.pick % masters.len()];
        let heir = match (&self, blow.fault) {
            (Self::Single(..), _) => None,
            (_, KillMaster | LoseAcked | FreezeMaster | KillReplica) => Some(self.replica_of(master).await),
            _ => None,
        };
        match blow.fault {
            KillMaster | LoseAcked => {
                if let (LoseAcked, Some(heir)) = (blow.fault, heir) {
                    self.detach(heir, master).await;
                    sleep(blow.lasting).await;
                }
                self.server(master).kill();
                match heir {
                    Some(heir) => self.is_succeeded(master, heir).await,
                    None => sleep(blow.lasting).await,
                }
                self.comes_back(master, heir).await;
            }
            KillReplica => {
                let replica = heir.expect("who has no replica does not meet this");
                self.server(replica).kill();
                sleep(blow.lasting).await;
                self.comes_back(replica, Some(master)).await;
            }
            PauseMaster | FreezeMaster => {
                self.server(master).freeze();
                match heir {
                    Some(heir) => self.is_succeeded(master, heir).await,
                    None => sleep(blow.lasting).await,
                }
                self.server(master).thaw();
            }
            KillSentinel => {
                let Self::Sentinel(all) = self else { unreachable!("there are no sentinels") };
                let at = blow.pick % all.sentinels.len();
                all.sentinels[at].kill();
                sleep(blow.lasting).await;
                all.sentinels[at].start_again();
            }
            Flush => self.tell(&[master], "FLUSHALL").await,
            DropCalls => self.tell(&masters, "CLIENT KILL TYPE normal").await,
            DropInboxes => {
                // They may be at any server of a cluster.
                let all: Vec<usize> = (0..self.servers().len()).collect();
                self.tell(&all, "CLIENT KILL TYPE pubsub").await;
            }
            Fill => {
                self.tell(&masters, "CONFIG SET maxmemory 1").await;
                sleep(blow.lasting).await;
                self.tell(&masters, "CONFIG SET maxmemory 0").await;
            }
            StoreClock => {
                let Self::Single(_, clock) = self else { unreachable!("the others have no clock of their own") };
                clock.set(blow.jump());
                sleep(blow.lasting).await;
                clock.set(0);
            }
            fault => unreachable!("{fault} is not for Redis"),
        }
    }

    async fn tell(&self, servers: &[usize], words: &str) {
        let words: Vec<&str> = words.split(' ').collect();
        for at in servers {
            self.servers()[*at].command::<redis::Value>(&words).await;
        }
    }

    /// Has a replica no longer hear what its master takes.
    async fn detach(&self, replica: usize, master: usize) {
        if let Self::Sentinel(_) = self {
            return self.tell(&[replica], "REPLICAOF 127.0.0.1 1").await;
        }
        // A cluster allows no such thing. It cannot log in again: its master knows no password.
        self.tell(&[replica], "CONFIG SET masterauth wrong").await;
        self.tell(&[master], "CLIENT KILL TYPE replica").await;
    }

    async fn is_succeeded(&self, master: usize, heir: usize) {
        match self {
            Self::Single(..) => unreachable!("it has no heir"),
            Self::Sentinel(all) => drop(all.failed_over(master).await),
            Self::Cluster(all) => {
                for at in (0..all.servers.len()).filter(|at| *at != master) {
                    eventually(format!("{heir} to succeed {master}"), || async {
                        let info: String = all.servers[at].try_command("", &["CLUSTER", "INFO"]).await.ok()?;
                        (info.contains("cluster_slots_ok:16384") && self.is_master(heir).await).then_some(())
                    })
                    .await;
                }
                self.tell(&[heir], "CONFIG SET masterauth ").await;
            }
        }
    }

    /// A killed server comes back, empty, as a replica where there is a master. In a cluster it knows by itself.
    async fn comes_back(&mut self, at: usize, master: Option<usize>) {
        self.server(at).start_again();
        if let (Self::Sentinel(all), Some(master)) = (&*self, master) {
            let master = address(&all.servers[master]);
            self.tell(&[at], &format!("REPLICAOF {} {}", master.ip(), master.port())).await;
        }
    }
}

fn address(server: &Server) -> SocketAddr {
    SocketAddr::from((server.host, server.port))
}
