//! Looks at the servers that settings name, as a node would use them, and tells all that is wrong with them at once.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::join_all;
use redis::{Client, FromRedisValue, RedisError, RedisResult, cmd};
use tokio::time::timeout;

use super::{
    keys::Keys,
    memory::{NEARLY_FULL, is_full},
    server::{Examined, Problem, examine},
    settings::{Servers, Settings, SettingsError},
    slots::{Range, SLOTS, read_slots},
    supervisor::host_of,
};
use crate::turn::NodeId;

/// What was seen of a store's servers.
#[derive(Debug, Default)]
pub struct Report {
    /// A line about each server that takes writes.
    pub servers: Vec<String>,
    /// What is wrong, and with which server.
    pub problems: Vec<(String, Problem)>,
}

/// Connects to the servers that `settings` name and looks at them. Leaves nothing there.
pub async fn probe(settings: &Settings) -> Result<Report, SettingsError> {
    let probe = Probe {
        servers: Servers::from(settings)?,
        keys: Keys::new(settings.prefix.clone()),
        limit: settings.connect_timeout * 2 + settings.command_timeout,
    };
    let mut report = Report::default();
    if let Some((sentinels, master)) = probe.servers.sentinels() {
        probe.sentinels(sentinels, master, &mut report).await;
    } else if let Some(seeds) = probe.servers.seeds() {
        probe.cluster(seeds, &mut report).await;
    } else {
        match probe.servers.master().await {
            Ok(client) => probe.server(&client, &mut report).await,
            Err(error) => report.blame(&probe.servers.name, unreachable(&error)),
        }
    }
    Ok(report)
}

impl Report {
    fn blame(&mut self, server: &str, problem: Problem) {
        self.problems.push((server.to_owned(), problem));
    }
}

struct Probe {
    servers: Servers,
    keys: Keys,
    /// How long a look at one server may take.
    limit: Duration,
}

impl Probe {
    async fn within<T>(&self, look: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
        timeout(self.limit, look)
            .await
            .unwrap_or_else(|_| Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()))
    }

    async fn ask<T: FromRedisValue>(&self, client: &Client, question: &redis::Cmd) -> RedisResult<T> {
        self.within(async {
            let config = self.servers.config();
            let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
            question.query_async(&mut connection).await
        })
        .await
    }

    /// All sentinels, and the master that they name.
    async fn sentinels(&self, sentinels: &[Client], master: &str, report: &mut Report) {
        let mut question = cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(master);
        let asked = sentinels.iter().map(|sentinel| self.ask::<Option<(String, u16)>>(sentinel, &question));
        let mut named: BTreeMap<(String, u16), Vec<String>> = BTreeMap::new();
        for (sentinel, answer) in sentinels.iter().zip(join_all(asked).await) {
            let address = address_of(sentinel);
            match answer {
                Ok(Some(server)) => named.entry(server).or_default().push(address),
                Ok(None) => report.blame(
                    &address,
                    Problem::new(
                        format!("the sentinel knows no master named {master}"),
                        "end store.url with the name that `sentinel monitor` gives it",
                    ),
                ),
                Err(error) => report.blame(&address, unreachable(&error)),
            }
        }
        if named.len() > 1 {
            let views = named.iter().map(|((host, port), who)| format!("{} say {host}:{port}", who.join(", ")));
            let message = format!("the sentinels name different masters: {}", views.collect::<Vec<_>>().join("; "));
            report.blame(master, Problem::new(message, "wait for a failover to end, or mend the sentinels"));
        }
        for (host, port) in named.keys() {
            match self.servers.client_at(host, *port) {
                Ok(client) => self.server(&client, report).await,
                Err(error) => report.blame(&format!("{host}:{port}"), unreachable(&error)),
            }
        }
    }

    /// All servers that are named, and all masters that these know.
    async fn cluster(&self, seeds: &[Client], report: &mut Report) {
        let mut question = cmd("CLUSTER");
        question.arg("SLOTS");
        let asked = seeds.iter().map(|seed| self.ask::<redis::Value>(seed, &question));
        let mut known: Option<Vec<Range>> = None;
        for (seed, answer) in seeds.iter().zip(join_all(asked).await) {
            let address = address_of(seed);
            match answer.map(|reply| read_slots(reply, host_of(&address))) {
                Ok(Ok(ranges)) if !ranges.is_empty() => known = known.or(Some(ranges)),
                Ok(Ok(_)) => {
                    report
                        .blame(&address, Problem::new("no server of the cluster has any slots", "create the cluster"));
                }
                Ok(Err(error)) => report.blame(&address, Problem::new(error.0, "")),
                Err(error) if error.to_string().contains("cluster support disabled") => {
                    report.blame(&address, Problem::new("the server is no cluster", "leave store.cluster out"));
                }
                Err(error) => report.blame(&address, unreachable(&error)),
            }
        }
        let Some(ranges) = known else { return };
        let served: u32 = ranges.iter().map(|range| u32::from(range.last - range.first) + 1).sum();
        if served < u32::from(SLOTS) {
            let message = format!("no server of the cluster has {} of the {SLOTS} slots", u32::from(SLOTS) - served);
            report.blame(&self.servers.name, Problem::new(message, "see `redis-cli --cluster check`"));
        }
        let mut masters: Vec<(String, u16)> = ranges.into_iter().map(|range| (range.host, range.port)).collect();
        masters.sort();
        masters.dedup();
        for (host, port) in masters {
            match self.servers.client_at(&host, port) {
                Ok(client) => self.server(&client, report).await,
                Err(error) => report.blame(&format!("{host}:{port}"), unreachable(&error)),
            }
        }
    }

    /// A server that is to take writes.
    async fn server(&self, client: &Client, report: &mut Report) {
        let address = address_of(client);
        let looked = self.within(async {
            let config = self.servers.config();
            let mut connection = client.get_multiplexed_async_connection_with_config(config).await?;
            examine(&mut connection, &self.keys).await
        });
        let Examined { info, unfit } = match looked.await {
            Ok(examined) => examined,
            Err(error) => return report.blame(&address, unreachable(&error)),
        };
        let memory = match info.memory() {
            Some((used, limit)) => format!(", {used} of {limit} bytes in use"),
            None => String::new(),
        };
        report.servers.push(format!("Redis {} at {address}{memory}", info.version));
        let usable = unfit.is_empty();
        unfit.into_iter().for_each(|problem| report.blame(&address, problem));
        if let Some(warning) = info.warning() {
            report.blame(&address, warning);
        }
        if is_full(info.memory(), false) {
            let message = format!("{} % of its memory are in use: it would be given no new turns", NEARLY_FULL.0);
            report.blame(&address, Problem::new(message, "raise maxmemory or shorten store.retain_after_end"));
        }
        let channel = self.keys.inbox(&NodeId("probe".into()));
        let listened = self.within(async { client.get_async_pubsub().await?.subscribe(&channel).await });
        match listened.await {
            Err(error) if usable && error.code() == Some("NOPERM") => {
                let channels = self.keys.patterns().1;
                let help = format!("give it +subscribe +unsubscribe {channels} (ACL SETUSER)");
                report.blame(&address, Problem::new("the user may not subscribe to the nodes' channels", help));
            }
            Err(error) if usable => report.blame(&address, unreachable(&error)),
            _ => {}
        }
    }
}

fn address_of(client: &Client) -> String {
    client.get_connection_info().addr().to_string()
}

/// Why a server cannot be spoken to.
fn unreachable(error: &RedisError) -> Problem {
    let text = error.to_string();
    let help = match error.code() {
        Some("WRONGPASS" | "NOAUTH") => {
            "set store.username and store.password, by HOLDOVER__STORE__PASSWORD_FILE for one"
        }
        Some("NOPERM") => "give the user this right, too (ACL SETUSER)",
        _ if text.to_lowercase().contains("authentication") => "set store.username and store.password",
        _ if text.to_lowercase().contains("certificate") => "name the server's authority in store.ca",
        _ if error.is_io_error() || error.is_timeout() => "start it, or mend store.url and what is on the way",
        _ => "",
    };
    Problem::new(format!("cannot be used: {text}"), help)
}
