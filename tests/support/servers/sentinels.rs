//! A master, its replicas, and the sentinels that watch them.

use super::{Make, Recipe, Server, eventually};

/// The name by which sentinels know the master.
const NAME: &str = "main";

/// See the module. All have addresses of their own.
pub(crate) struct Sentinels {
    /// The first one is the master to begin with.
    pub(crate) servers: Vec<Server>,
    pub(crate) sentinels: Vec<Server>,
}

impl Sentinels {
    /// A master with replicas that have all it has, and three sentinels who know them and each other. A master that is
    /// silent for a second and a half is replaced.
    pub(crate) async fn start(make: Make, replicas: usize) -> Self {
        let own = ["--repl-diskless-sync-delay", "0", "--repl-ping-replica-period", "1"];
        let servers: Vec<Server> = (0..=replicas).map(|_| Recipe::new(make).alone().with(&own).start()).collect();
        let (host, port) = (servers[0].host.to_string(), servers[0].port.to_string());
        for replica in &servers[1..] {
            replica.command::<()>(&["REPLICAOF", &host, &port]).await;
        }
        let configuration = format!(
            "sentinel monitor {NAME} {host} {port} 2\nsentinel down-after-milliseconds {NAME} 1500\n\
             sentinel failover-timeout {NAME} 5000\n"
        );
        let sentinel = || Recipe::sentinel(make, configuration.clone()).alone().start();
        let sentinels: Vec<Server> = (0..3).map(|_| sentinel()).collect();
        let all = Self { servers, sentinels };
        all.settled().await;
        all
    }

    /// Waits until every server that runs is the master or its replica in sync, and all sentinels know of all.
    pub(crate) async fn settled(&self) {
        let running = self.servers.iter().filter(|server| server.runs()).count();
        let others = format!("slaves={},", self.servers.len() - 1);
        let sentinels = format!("sentinels={}", self.sentinels.len());
        eventually("master, replicas and sentinels know of each other", async || {
            let Some(master) = self.master().await else { return false };
            let replication = self.servers[master].try_command::<String>("", &["INFO", "replication"]).await;
            let in_sync = replication.is_ok_and(|info| info.matches("state=online").count() == running - 1);
            let mut known = in_sync;
            for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.runs()) {
                let info = sentinel.try_command::<String>("", &["INFO", "sentinel"]).await.unwrap_or_default();
                known &= info.contains(&others) && info.contains(&sentinels) && info.contains("status=ok");
            }
            known
        })
        .await;
    }

    /// The server that the sentinels take for the master, if one of them answers.
    pub(crate) async fn master(&self) -> Option<usize> {
        for sentinel in self.sentinels.iter().filter(|sentinel| sentinel.runs()) {
            let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", NAME];
            if let Ok((host, port)) = sentinel.try_command::<(String, u16)>("", &asked).await {
                return self.servers.iter().position(|s| s.host.to_string() == host && s.port == port);
            }
        }
        None
    }

    /// Waits until the sentinels have made another server the master, and it is one; says which.
    pub(crate) async fn failed_over(&self, from: usize) -> usize {
        let mut to = from;
        eventually("another master", async || {
            to = self.master().await.unwrap_or(from);
            let info = self.servers[to].try_command::<String>("", &["INFO", "replication"]).await;
            to != from && info.is_ok_and(|info| info.contains("role:master"))
        })
        .await;
        to
    }

    /// As Holdover's configuration names it.
    pub(crate) fn url(&self) -> String {
        let sentinels: Vec<String> = self.sentinels.iter().map(|s| format!("{}:{}", s.host, s.port)).collect();
        format!("redis-sentinel://{}/{NAME}/0", sentinels.join(","))
    }
}
