//! The task that keeps the connection.
//!
//! It connects for ever, whatever the reason it failed for, and replaces a connection that broke, stopped answering, or
//! leads to a server that takes no writes any more. In a cluster it does so for each server by itself, and asks again
//! who has which slots when a call was sent elsewhere.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use futures_util::future::join_all;
use redis::{Client, RedisResult, Value, cmd};
use tokio::time::{Instant, sleep, timeout};

use super::{
    connection::{Link, Status},
    jitter,
    map::{Connected, Map, Share},
    server::{Examined, examine},
    slots::{Range, SLOTS, read_slots},
};

/// Waits between attempts to connect.
pub(super) const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The longest wait in a cluster: it mends itself, and most of it goes on meanwhile.
const REARRANGE: Duration = Duration::from_millis(500);
/// How often an idle connection is tried.
const WATCHDOG: Duration = Duration::from_secs(1);

/// Slots, and how their server is reached.
struct Part {
    first: u16,
    last: u16,
    client: Client,
    /// As in [`Connected::address`].
    address: String,
}

impl Link {
    /// Keeps the connection, for ever.
    pub(super) async fn supervise(&self) {
        let mut wait = BACKOFF.0;
        let mut said: Option<Arc<str>> = None;
        loop {
            let old = self.current.load_full();
            let lacking = match self.arrange(old.as_deref()).await {
                Ok(map) => {
                    let lacking = map.lacking();
                    self.current.store(Some(Arc::new(map)));
                    self.tell_status();
                    lacking
                }
                Err(why) => {
                    // In a cluster, some servers may still be there.
                    if old.is_none_or(|map| map.servers().is_empty()) {
                        self.current.store(None);
                        self.set_status(Status::Down(why.clone()));
                    }
                    Some(why)
                }
            };
            let Some(why) = lacking else {
                (wait, said) = (BACKOFF.0, None);
                tokio::select! {
                    () = self.outdated.notified() => {}
                    () = self.keep_trying() => {}
                }
                // Whoever has noticed it is not alone: one new map for all of them.
                sleep(jitter(wait)).await;
                continue;
            };
            // Once per reason: attempts go on every two seconds at most.
            if said.as_ref() != Some(&why) {
                tracing::error!(redis = self.name(), why = &*why, "cannot use Redis: trying again until it is there");
                said = Some(why);
            }
            tokio::select! {
                () = sleep(jitter(wait)) => {}
                () = self.keep_trying() => {}
            }
            wait = (wait * 2).min(if self.servers.seeds().is_some() { REARRANGE } else { BACKOFF.1 });
        }
    }

    async fn keep_trying(&self) {
        loop {
            sleep(WATCHDOG).await;
            self.ping().await;
        }
    }

    /// A new map: what is good in the old one, and connections for the rest. An error if no server can be used.
    async fn arrange(&self, old: Option<&Map>) -> Result<Map, Arc<str>> {
        let parts = self.parts(old).await?;
        let mut addresses: Vec<(&str, &Client)> = Vec::new();
        for part in &parts {
            if !addresses.iter().any(|(known, _)| *known == part.address) {
                addresses.push((&part.address, &part.client));
            }
        }
        let connected = |address: &str| old.and_then(|old| old.at(address)).cloned();
        let servers = join_all(addresses.iter().map(async |(address, client)| match connected(address) {
            Some(server) => Ok(server),
            None => self.connect(client, address).await.map(Arc::new),
        }));
        let servers = servers.await;
        let mut others = old.map(|old| old.others.clone()).unwrap_or_default();
        let strangers = std::mem::take(&mut self.hints().strangers);
        for address in strangers {
            if let Some((host, port)) = address.rsplit_once(':')
                && let Ok(port) = port.parse()
                && let Ok(client) = self.servers.client_at(host, port)
                && connected(&address).is_none()
                && let Ok(server) = self.connect(&client, &address).await
            {
                others.push(Arc::new(server));
            }
        }
        others.retain(|other| {
            other.broken.get().is_none() && !addresses.iter().any(|(address, _)| *address == other.address)
        });
        if let Some(Err(why)) = servers.first()
            && servers.iter().all(Result::is_err)
        {
            return Err(why.clone());
        }
        let now = Instant::now();
        let before = self.generation.load(Ordering::Relaxed);
        let shares = parts.iter().map(|part| {
            let at = addresses.iter().position(|(address, _)| *address == part.address);
            let server = servers[at.expect("every part has its address in the list")].clone();
            // After an outage, living nodes need a moment to renew their signs of life. A node that has just begun
            // finds them as they are, unless the server itself has just begun.
            let steady_since = match (&server, old) {
                (Ok(server), Some(old)) => old.steady_since(part.first, part.last, server),
                (Ok(server), None) if before == 0 => now.checked_sub(server.info.up.min(self.lease)),
                _ => None,
            };
            Share { first: part.first, last: part.last, server, steady_since: steady_since.unwrap_or(now) }
        });
        let mut map = Map { generation: before, shares: shares.collect(), others };
        let fresh = |server: &&Arc<Connected>| connected(&server.address).is_none();
        for server in map.servers().into_iter().filter(fresh) {
            if let Some(warning) = server.info.warning() {
                tracing::warn!(redis = server.address, "{warning}");
            }
            tracing::info!(redis = server.address, version = server.info.version, "connected to Redis");
        }
        map.generation += u64::from(map.servers().iter().any(fresh));
        self.generation.store(map.generation, Ordering::Relaxed);
        Ok(map)
    }

    /// Who has which slots.
    async fn parts(&self, old: Option<&Map>) -> Result<Vec<Part>, Arc<str>> {
        let Some(seeds) = self.servers.seeds() else {
            // One server, and it has not changed unless it broke.
            let (client, address) = self.master().await?;
            return Ok(vec![Part { first: 0, last: SLOTS - 1, client, address }]);
        };
        let ranges = self.ranges(old, seeds).await?;
        let parts = ranges.into_iter().map(|Range { first, last, host, port }| {
            let client = self.servers.client_at(&host, port)?;
            Ok(Part { first, last, client, address: format!("{host}:{port}") })
        });
        parts.collect::<RedisResult<_>>().map_err(|error| error.to_string().into())
    }

    /// The server that takes writes, where there is one.
    async fn master(&self) -> Result<(Client, String), Arc<str>> {
        let limit = self.connect_timeout * 2 + self.command_timeout;
        let client = timeout(limit, self.servers.master()).await.map_err(|_| "finding the master took too long")?;
        let client = client.map_err(|error| error.to_string())?;
        let address = client.get_connection_info().addr().to_string();
        Ok((client, address))
    }

    /// What a cluster says of its slots: the server that knows of a change, else most of the connected servers, else the
    /// first seed that answers.
    async fn ranges(&self, old: Option<&Map>, seeds: &[Client]) -> Result<Vec<Range>, Arc<str>> {
        let knows = self.hints().knows.take();
        if let Some(server) = knows
            && server.broken.get().is_none()
            && let Ok(ranges) = self.ask_for_slots(&server).await
        {
            return Ok(ranges);
        }
        let known = old.map(Map::servers).unwrap_or_default();
        let answers = join_all(known.into_iter().map(|server| self.ask_for_slots(server))).await;
        let answers: Vec<_> = answers.into_iter().flatten().collect();
        let votes = |answer: &&Vec<Range>| answers.iter().filter(|other| other == answer).count();
        if let Some(most) = answers.iter().max_by_key(votes) {
            return Ok(most.clone());
        }
        let mut last: Arc<str> = "no server of the cluster is named".into();
        for seed in seeds {
            let address = seed.get_connection_info().addr().to_string();
            let limit = self.connect_timeout + self.command_timeout;
            let asked = async {
                let config = self.servers.config();
                let mut connection = seed.get_multiplexed_async_connection_with_config(config).await?;
                cmd("CLUSTER").arg("SLOTS").query_async::<Value>(&mut connection).await
            };
            last = match timeout(limit, asked).await {
                Ok(Ok(reply)) => match read_slots(reply, host_of(&address)) {
                    Ok(ranges) if !ranges.is_empty() => return Ok(ranges),
                    Ok(_) => format!("{address}: no server of the cluster has any slots").into(),
                    Err(error) => format!("{address}: {}", error.0).into(),
                },
                Ok(Err(error)) if error.to_string().contains("cluster support disabled") => {
                    format!("{address} is no cluster: leave store.cluster out").into()
                }
                Ok(Err(error)) => format!("{address}: {error}").into(),
                Err(_) => format!("{address}: connecting took too long").into(),
            };
        }
        Err(last)
    }

    async fn ask_for_slots(&self, server: &Connected) -> Result<Vec<Range>, Arc<str>> {
        let mut connection = server.commands.clone();
        let mut question = cmd("CLUSTER");
        question.arg("SLOTS");
        let asked = timeout(self.command_timeout, question.query_async::<Value>(&mut connection)).await;
        let reply = asked.map_err(|_| "no answer")?.map_err(|error| error.to_string())?;
        let ranges = read_slots(reply, server.host()).map_err(|error| error.0)?;
        if ranges.is_empty() { Err("no slots".into()) } else { Ok(ranges) }
    }

    async fn connect(&self, client: &Client, address: &str) -> Result<Connected, Arc<str>> {
        let connect = async {
            let config = self.servers.config();
            let mut commands = client.get_multiplexed_async_connection_with_config(config).await?;
            let bulk = client.get_multiplexed_async_connection_with_config(config).await?;
            let examined = examine(&mut commands, &self.keys).await?;
            RedisResult::Ok((commands, bulk, examined))
        };
        // Two connections and few commands: each has its own limit, and all together this one.
        let connected = timeout(self.connect_timeout * 2 + self.command_timeout, connect).await;
        let (commands, bulk, Examined { info, unfit }) = match connected {
            Ok(connected) => connected.map_err(|error| self.name_in_cluster(address, error.to_string()))?,
            Err(_) => return Err(self.name_in_cluster(address, "connecting took too long".to_owned())),
        };
        if !unfit.is_empty() {
            let all = unfit.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
            return Err(self.name_in_cluster(address, all));
        }
        // A master that was frozen answers when it wakes, and takes writes until it is told that it was succeeded: nodes that
        // went back to it would take the others for dead, and be taken for dead by them.
        if self.servers.seeds().is_none() && self.master().await?.1 != address {
            return Err("the sentinels name another master by now".into());
        }
        Ok(Connected {
            number: self.connections.fetch_add(1, Ordering::Relaxed),
            client: client.clone(),
            address: address.to_owned(),
            info,
            commands,
            bulk,
            timeouts: Default::default(),
            broken: Default::default(),
            full: Default::default(),
            emptied: Default::default(),
        })
    }

    /// In a cluster, an error says which server it is of.
    fn name_in_cluster(&self, address: &str, error: String) -> Arc<str> {
        if self.servers.seeds().is_some() { format!("{address}: {error}").into() } else { error.into() }
    }
}

pub(super) fn host_of(address: &str) -> &str {
    address.rsplit_once(':').map_or(address, |(host, _)| host)
}
