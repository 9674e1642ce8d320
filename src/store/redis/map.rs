//! The connected servers, and which of them has which keys.

use std::{
    sync::{Arc, Mutex, OnceLock, atomic::AtomicU32},
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
    /// No other connection of this process has it.
    pub(super) number: u64,
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
    /// When it was last found to have been emptied behind its open connections.
    pub(super) emptied: Mutex<Option<Instant>>,
}

impl Connected {
    /// The host alone.
    pub(super) fn host(&self) -> &str {
        self.address.rsplit_once(':').map_or(&self.address, |(host, _)| host)
    }

    /// Notes that the server was emptied.
    pub(super) fn set_emptied(&self) {
        *self.emptied.lock().expect("no code panics while it holds this lock") = Some(Instant::now());
    }

    /// Whether the server has kept what it has for so long.
    fn kept_for(&self, long: Duration) -> bool {
        let emptied = *self.emptied.lock().expect("no code panics while it holds this lock");
        emptied.is_none_or(|at| at.elapsed() >= long)
    }
}

/// Which connection leads to which slots, to be compared with a later map.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outline(Vec<(u16, u16, u64)>);

impl Outline {
    /// First and last slot, and the number of the connection; in order, without what cannot be reached.
    pub(super) fn parts(&self) -> &[(u16, u16, u64)] {
        &self.0
    }

    /// Whether this connection led to all of these slots.
    pub(super) fn led(&self, first: u16, last: u16, number: u64) -> bool {
        let mut next = u32::from(first);
        for &(from, to, whose) in self.0.iter().filter(|(from, to, _)| *from <= last && first <= *to) {
            if whose != number || u32::from(from) > next {
                return false;
            }
            next = u32::from(to) + 1;
        }
        next > u32::from(last)
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
        self.share(key).is_some_and(|share| {
            share.usable().is_ok_and(|server| server.kept_for(long)) && share.steady_since.elapsed() >= long
        })
    }

    /// Which connection leads to which slots now.
    pub(super) fn outline(&self) -> Outline {
        let usable = |share: &Share| Some((share.first, share.last, share.usable().ok()?.number));
        Outline(self.shares.iter().filter_map(usable).collect())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_one_connection_led_to_throughout_was_its() {
        let outline = Outline(vec![(0, 99, 1), (100, 199, 1), (200, 299, 2), (400, SLOTS - 1, 1)]);
        assert!(outline.led(0, 199, 1) && outline.led(50, 150, 1) && outline.led(400, SLOTS - 1, 1));
        assert!(!outline.led(0, 199, 2) && !outline.led(150, 250, 1) && !outline.led(0, 300, 1));
        assert!(!outline.led(390, 410, 1) && !outline.led(300, 399, 1) && !Outline::default().led(0, 0, 1));
    }
}
