//! The connected servers, and which of them has which keys.

use std::{
    sync::{Arc, OnceLock, atomic::AtomicU32},
    time::Duration,
};

use redis::{Client, aio::MultiplexedConnection};
use tokio::time::Instant;

use super::{
    server::ServerInfo,
    slots::{SLOTS, slot_of},
};

/// A server that takes writes, and the connections to it.
pub(super) struct Connected {
    pub(super) client: Client,
    /// Host and port, as a cluster names it; or the path of its socket.
    pub(super) address: String,
    pub(super) info: ServerInfo,
    pub(super) commands: MultiplexedConnection,
    pub(super) bulk: MultiplexedConnection,
    /// Timeouts in a row, per lane.
    pub(super) timeouts: [AtomicU32; 2],
    /// Why the connections cannot be used any more, once somebody has found out.
    pub(super) broken: OnceLock<Arc<str>>,
}

impl Connected {
    /// The host alone.
    pub(super) fn host(&self) -> &str {
        self.address.rsplit_once(':').map_or(&self.address, |(host, _)| host)
    }
}

/// Neighbouring slots that one server has.
pub(super) struct Share {
    pub(super) first: u16,
    pub(super) last: u16,
    /// The server, or why there is no connection to it.
    pub(super) server: Result<Arc<Connected>, Arc<str>>,
    /// Since when it is believed to know the signs of life of all nodes whose keys are here.
    pub(super) steady_since: Instant,
}

/// See the module. A server that is no cluster has all slots.
pub(super) struct Map {
    /// Grows with every new connection.
    pub(super) generation: u64,
    /// Disjoint, in order.
    pub(super) shares: Vec<Share>,
    /// Servers that have nothing yet but are getting it.
    pub(super) others: Vec<Arc<Connected>>,
}

impl Map {
    /// Who has a key.
    fn share(&self, key: &[u8]) -> Option<&Share> {
        if let [share] = self.shares.as_slice()
            && (share.first, share.last) == (0, SLOTS - 1)
        {
            return Some(share);
        }
        let slot = slot_of(key);
        let at = self.shares.partition_point(|share| share.last < slot);
        self.shares.get(at).filter(|share| share.first <= slot)
    }

    /// The server of a key, or why it cannot be asked.
    pub(super) fn server(&self, key: &[u8]) -> Result<&Arc<Connected>, Arc<str>> {
        match self.share(key) {
            Some(share) => share.usable(),
            None => Err(format!("no server of the cluster has slot {}", slot_of(key)).into()),
        }
    }

    /// A server by its address.
    pub(super) fn at(&self, address: &str) -> Option<&Arc<Connected>> {
        self.servers().into_iter().find(|server| server.address == address)
    }

    /// All servers that can be asked.
    pub(super) fn servers(&self) -> Vec<&Arc<Connected>> {
        let mut servers: Vec<&Arc<Connected>> = Vec::new();
        let others = self.others.iter().filter(|server| server.broken.get().is_none());
        for server in self.shares.iter().filter_map(|share| share.usable().ok()).chain(others) {
            if !servers.iter().any(|known| Arc::ptr_eq(known, server)) {
                servers.push(server);
            }
        }
        servers
    }

    /// Why some keys have no server that can be asked, if so.
    pub(super) fn lacking(&self) -> Option<Arc<str>> {
        if let Some(why) = self.shares.iter().find_map(|share| share.usable().err()) {
            return Some(why);
        }
        let served: u32 = self.shares.iter().map(|share| u32::from(share.last - share.first) + 1).sum();
        let missing = u32::from(SLOTS) - served;
        (missing > 0).then(|| format!("no server of the cluster has {missing} of the {SLOTS} slots").into())
    }

    /// Whether the server of a key has been there, and the same, for so long.
    pub(super) fn is_steady(&self, key: &[u8], long: Duration) -> bool {
        self.share(key).is_some_and(|share| share.usable().is_ok() && share.steady_since.elapsed() >= long)
    }

    /// Since when the same server has had all of these slots; `None` if it has not.
    pub(super) fn steady_since(&self, first: u16, last: u16, server: &Arc<Connected>) -> Option<Instant> {
        let mut since = None;
        for share in self.shares.iter().filter(|share| share.first <= last && first <= share.last) {
            if !share.server.as_ref().is_ok_and(|had| Arc::ptr_eq(had, server)) {
                return None;
            }
            since = since.max(Some(share.steady_since));
        }
        since
    }
}

impl Share {
    fn usable(&self) -> Result<&Arc<Connected>, Arc<str>> {
        let server = self.server.as_ref().map_err(Arc::clone)?;
        match server.broken.get() {
            None => Ok(server),
            Some(why) => Err(why.clone()),
        }
    }
}
