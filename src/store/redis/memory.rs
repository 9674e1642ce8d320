//! How full the servers are. One that is nearly full takes no new turns, so that those it has can end.

use std::{sync::atomic::Ordering, time::Duration};

use futures_util::future::join_all;
use redis::{FromRedisValue as _, cmd};
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::{
    connection::{Lane, Link},
    map::Connected,
    server::ServerInfo,
};
use crate::store::StoreError;

/// How often the servers are asked.
const LOOK: Duration = Duration::from_secs(5);
/// Percent of `maxmemory` from which on a server takes no new turns, and below which it takes them again.
pub(super) const NEARLY_FULL: (u64, u64) = (85, 80);

/// Whether a server with so many bytes of so many in use is to take new turns no more. `now`: whether that is so already.
pub(super) fn is_full(memory: Option<(u64, u64)>, now: bool) -> bool {
    let percent = if now { NEARLY_FULL.1 } else { NEARLY_FULL.0 };
    memory.is_some_and(|(used, limit)| u128::from(used) * 100 >= u128::from(limit) * u128::from(percent))
}

impl Link {
    /// Watches how full the servers are, for ever.
    pub(super) async fn watch_memory(&self) {
        let mut status = self.status();
        let mut tick = interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = tick.tick() => {}
                Ok(()) = status.changed() => {}
            }
            if status.borrow_and_update().generation().is_some() {
                // What is wrong with a server, its calls find out.
                let _ = self.infos().await;
            }
        }
    }

    /// What all servers say of themselves now.
    pub(super) async fn infos(&self) -> Result<Vec<(String, ServerInfo)>, StoreError> {
        let map = self.map()?;
        let started = Instant::now();
        let infos = join_all(map.servers().into_iter().map(async |server| {
            let until = started + self.command_timeout;
            let reply = self.exchange(server, Lane::Commands, &cmd("INFO"), false, until).await;
            let info = reply.and_then(|info| Ok(String::from_redis_value(info)?));
            let info = info.map_err(|error| self.failed(server, Lane::Commands, &error))?;
            let info = ServerInfo::parse(&info);
            self.note_memory(server, &info);
            Ok((server.address.clone(), info))
        }));
        let infos: Result<Vec<(String, ServerInfo)>, StoreError> = infos.await.into_iter().collect();
        self.metrics.store_call("health", started.elapsed(), infos.is_ok());
        let infos = infos?;
        let full = map.servers().iter().filter(|server| server.full.load(Ordering::Relaxed)).count();
        self.metrics.store_servers.with_label_values(&["full"]).set(full as i64);
        let memory = infos.iter().map(|(_, info)| info.memory_use());
        // The one that is full first.
        let fullest = memory.max_by_key(|(used, limit)| (used * 1000).checked_div(*limit).unwrap_or(0));
        if let Some((used, limit)) = fullest {
            self.metrics.store_memory_used.set(used.try_into().unwrap_or(i64::MAX));
            self.metrics.store_memory_limit.set(limit.try_into().unwrap_or(i64::MAX));
        }
        Ok(infos)
    }

    fn note_memory(&self, server: &Connected, info: &ServerInfo) {
        let was = server.full.load(Ordering::Relaxed);
        let is = is_full(info.memory(), was);
        server.full.store(is, Ordering::Relaxed);
        let (used, limit) = info.memory_use();
        if is && !was {
            tracing::error!(
                redis = server.address,
                used,
                limit,
                "Redis is nearly full: it is given no new turns; raise maxmemory or shorten store.retain_after_end"
            );
        } else if was && !is {
            tracing::info!(redis = server.address, used, limit, "Redis has room again: new turns are stored");
        }
    }

    /// Whether the server at this address takes no new turns.
    pub(super) fn is_full(&self, address: &str) -> bool {
        let map = self.current.load();
        map.as_ref().and_then(|map| map.at(address)).is_some_and(|server| server.full.load(Ordering::Relaxed))
    }

    /// An error if the server of a key is so full that it is to take no new turns.
    pub(super) fn check_room(&self, key: &str) -> Result<(), StoreError> {
        match self.serving(key) {
            Some(server) if server.full.load(Ordering::Relaxed) => {
                let percent = NEARLY_FULL.0;
                Err(StoreError::Full(format!("{percent} % of the memory at {} is in use", server.address).into()))
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_full_from_one_mark_on_until_it_is_below_another() {
        assert!(!is_full(None, true) && !is_full(Some((84, 100)), false) && is_full(Some((85, 100)), false));
        assert!(is_full(Some((80, 100)), true) && !is_full(Some((79, 100)), true));
        assert!(is_full(Some((u64::MAX, u64::MAX)), false));
    }
}
