//! The backends: which addresses their names have, which of them can be reached, and which one gets the next request.
//!
//! Discovery and health are Pingora's ([`Backends`]), one set per configured URL: two URLs may share an address and still
//! differ in what they are called and how they are spoken to. The choice is made here, over all sets together, because
//! it must end in *some* address: a health check that fails is a reason to prefer another backend, not to answer 502
//! without having tried.

use std::{
    collections::{BTreeSet, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures_util::future::join_all;
use http::Extensions;
use pingora::{
    Error, ErrorType,
    connectors::{ConnectorOptions, TransportConnector, http::Connector},
    lb::{self, Backends, discovery::ServiceDiscovery, health_check::HealthCheck},
    protocols::{TcpKeepalive, l4::socket},
    tls::{RootCertStore, load_ca_file_into_store, load_platform_certs_incl_env_into_store},
    upstreams::peer::HttpPeer,
};
use tokio::{
    sync::watch,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use crate::config::{Backend, HostHeader, Upstream};

/// How long one name may take to resolve. The system's resolver goes on behind it; its answer is not waited for.
const RESOLVE_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon a name that never resolved is tried again.
const FIRST_RESOLVE_RETRY: Duration = Duration::from_secs(1);
/// Connections to backends that are kept while no request needs them.
pub(crate) const KEPT_CONNECTIONS: usize = 1024;
/// How long the backend may take nothing of a request while there is something to send.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
/// How often an HTTP/2 connection is asked whether it still lives.
const PING_INTERVAL: Duration = Duration::from_secs(30);
/// Requests that share one HTTP/2 connection.
const STREAMS_PER_CONNECTION: usize = 100;

/// The backends of one `[upstream]`.
pub struct Upstreams {
    settings: Upstream,
    /// In the order of [`Upstream::urls`]; [`Target::url`] is a position in it.
    sets: Vec<Set>,
    /// Makes the connections of requests that may become turns, and keeps them.
    connector: Connector,
    /// Counts choices, so that equals take turns.
    turn: AtomicUsize,
    /// Pingora forbids overlapping updates of one [`Backends`].
    refreshing: tokio::sync::Mutex<()>,
}

/// One address of one backend, as chosen for an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    url: usize,
    address: SocketAddr,
}

/// What readiness says of one address, or of a name that has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendHealth {
    /// The URL as configured, with the address in brackets once there is one.
    pub backend: String,
    /// Whether requests are sent there while others are healthy too.
    pub healthy: bool,
    /// Why not, or that the addresses are the last known ones; else `ok`.
    pub detail: String,
}

/// Why the backends cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamsError {
    /// `upstream.ca` cannot be read, or holds something else than certificates.
    #[error("upstream.ca: {path} does not give certificates: {reason}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A backend is `https`, `upstream.ca` is not set, and the system has no certificate authorities.
    #[error("the system has no certificate authorities for https backends: set upstream.ca ({0})")]
    NoAuthorities(String),
}

/// Turns a name into addresses.
#[async_trait]
pub(crate) trait Resolve: Send + Sync + 'static {
    /// All addresses of a host, in any order.
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The resolver of the system.
struct System;

#[async_trait]
impl Resolve for System {
    async fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        match timeout(RESOLVE_TIMEOUT, tokio::net::lookup_host((host, port))).await {
            Ok(addresses) => Ok(addresses?.collect()),
            Err(_) => Err(io::Error::new(io::ErrorKind::TimedOut, format!("no answer in {RESOLVE_TIMEOUT:?}"))),
        }
    }
}

/// One configured URL.
struct Set {
    backend: Backend,
    backends: Backends,
    findings: Arc<Findings>,
}

/// What resolving and checking last said of one URL.
#[derive(Default)]
struct Findings {
    /// Why the last resolution failed. A failure is told once, when it begins.
    unresolved: Mutex<Option<String>>,
    /// Why the last check of an address failed.
    failures: Mutex<HashMap<SocketAddr, String>>,
}

/// Every value behind these locks is replaced whole, so a panic elsewhere leaves none half written.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Upstreams {
    /// Prepares the backends. Resolves no name and opens no connection: until [`Upstreams::refresh`] has run once,
    /// there is nothing to pick.
    ///
    /// # Errors
    ///
    /// When a backend is `https` and there are no certificate authorities to check it with.
    pub fn new(settings: &Upstream) -> Result<Self, UpstreamsError> {
        Self::with_resolver(settings, Arc::new(System))
    }

    pub(crate) fn with_resolver(settings: &Upstream, resolver: Arc<dyn Resolve>) -> Result<Self, UpstreamsError> {
        let probes = settings.urls.iter().any(|url| url.tls).then(|| tls_connector(settings)).transpose()?;
        let mut options = ConnectorOptions::new(KEPT_CONNECTIONS);
        options.ca_file = probes.as_ref().and(settings.ca.as_ref()).map(|path| path.to_string_lossy().into_owned());
        let set = |backend: &Backend| {
            let findings = Arc::new(Findings::default());
            let mut backends = Backends::new(Box::new(Names {
                backend: backend.clone(),
                resolver: Arc::clone(&resolver),
                findings: Arc::clone(&findings),
            }));
            backends.set_health_check(Box::new(Probe {
                backend: backend.clone(),
                settings: settings.clone(),
                connector: probes.clone().filter(|_| backend.tls),
                findings: Arc::clone(&findings),
            }));
            Set { backend: backend.clone(), backends, findings }
        };
        let sets = settings.urls.iter().map(set).collect();
        Ok(Self {
            settings: settings.clone(),
            sets,
            connector: Connector::new(Some(options)),
            turn: AtomicUsize::new(0),
            refreshing: Default::default(),
        })
    }

    /// The address for the next attempt, and how to reach it. Equals take turns. Addresses not yet tried for this
    /// request come before tried ones, and among those healthy ones before failing ones. `None` only while no name has
    /// ever resolved.
    ///
    /// The peer's `read_timeout` counts for the head and for each read of the body alike, so it is the longer of
    /// `response_header_timeout` and `read_timeout`, and off where the latter is off. Who reads a recorded answer, or
    /// keeps the two apart by itself, takes it off.
    pub fn pick(&self, tried: &[Target]) -> Option<(Target, Box<HttpPeer>)> {
        let candidates = self.candidates();
        let rank = |(target, healthy): &(Target, bool)| (tried.contains(target), !healthy);
        let best = candidates.iter().map(rank).min()?;
        let equals: Vec<_> = candidates.iter().filter(|candidate| rank(candidate) == best).collect();
        let (target, _) = *equals[self.turn.fetch_add(1, Ordering::Relaxed) % equals.len()];
        let backend = &self.sets[target.url].backend;
        Some((target, Box::new(peer(&self.settings, backend, target.address))))
    }

    /// What makes connections to the peers of [`Upstreams::pick`].
    pub(super) fn connector(&self) -> &Connector {
        &self.connector
    }

    /// The `Host` the backend must see instead of the client's; `None` where the client's is preserved.
    pub fn host(&self, target: Target) -> Option<String> {
        match self.settings.host {
            HostHeader::Preserve => None,
            HostHeader::Upstream => Some(self.sets[target.url].backend.authority()),
        }
    }

    /// How often a request is tried again when no connection could be made.
    pub fn max_retries(&self) -> usize {
        self.settings.max_retries as usize
    }

    /// What is known of each address, and of each name that has none.
    pub fn health(&self) -> Vec<BackendHealth> {
        let mut report = Vec::new();
        for set in &self.sets {
            let unresolved = lock(&set.findings.unresolved).clone();
            let addresses = set.addresses();
            if addresses.is_empty() {
                let detail = unresolved.clone().unwrap_or_else(|| "not resolved yet".to_owned());
                report.push(BackendHealth { backend: set.backend.to_string(), healthy: false, detail });
            }
            for (address, healthy) in addresses {
                let failure = lock(&set.findings.failures).get(&address).cloned().filter(|_| !healthy);
                let stale = unresolved.as_ref().map(|reason| format!("last known address, for {reason}"));
                let detail = failure.or(stale).unwrap_or_else(|| "ok".to_owned());
                report.push(BackendHealth { backend: format!("{} [{address}]", set.backend), healthy, detail });
            }
        }
        report
    }

    /// Whether a request sent now would find a backend that is not known to fail.
    pub fn ready(&self) -> bool {
        self.candidates().iter().any(|(_, healthy)| *healthy)
    }

    /// Resolves every name once. A name that fails keeps the addresses it had.
    pub async fn refresh(&self) {
        let _alone = self.refreshing.lock().await;
        // What went wrong is in the findings and has been told.
        join_all(self.sets.iter().map(|set| async { drop(set.backends.update(|_| {}).await) })).await;
    }

    /// Checks every address once.
    pub async fn check(&self) {
        join_all(self.sets.iter().map(|set| set.backends.run_health_check(true))).await;
    }

    /// Keeps names resolved and addresses checked until `shutdown` turns true or its sender is gone. Resolves and checks
    /// at once when started.
    pub async fn run(self: Arc<Self>, mut shutdown: watch::Receiver<bool>) {
        let work = async {
            self.refresh().await;
            tokio::join!(self.keep_resolved(), self.keep_checked())
        };
        tokio::select! {
            _ = work => {}
            _ = shutdown.wait_for(|stop| *stop) => {}
        }
    }

    async fn keep_resolved(&self) {
        loop {
            let unresolved = self.sets.iter().any(|set| set.backends.get_backend().is_empty());
            match self.settings.dns_refresh {
                Some(pause) if unresolved => sleep(pause.min(FIRST_RESOLVE_RETRY)).await,
                None if unresolved => sleep(FIRST_RESOLVE_RETRY).await,
                Some(pause) => sleep(pause).await,
                None => std::future::pending().await,
            }
            self.refresh().await;
        }
    }

    async fn keep_checked(&self) {
        let Some(pause) = self.settings.health_check_interval else { std::future::pending().await };
        let mut ticks = interval(pause);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.check().await;
        }
    }

    fn candidates(&self) -> Vec<(Target, bool)> {
        let targets = |(url, set): (usize, &Set)| {
            let addresses = set.addresses().into_iter();
            addresses.map(move |(address, healthy)| (Target { url, address }, healthy))
        };
        self.sets.iter().enumerate().flat_map(targets).collect()
    }
}

impl Set {
    /// The current addresses, and whether each is healthy.
    fn addresses(&self) -> Vec<(SocketAddr, bool)> {
        let backends = self.backends.get_backend();
        let known = |backend: &lb::Backend| Some((*backend.addr.as_inet()?, self.backends.ready(backend)));
        backends.iter().filter_map(known).collect()
    }
}

/// The addresses of one backend's name, for Pingora.
struct Names {
    backend: Backend,
    resolver: Arc<dyn Resolve>,
    findings: Arc<Findings>,
}

#[async_trait]
impl ServiceDiscovery for Names {
    async fn discover(&self) -> pingora::Result<(BTreeSet<lb::Backend>, HashMap<u64, bool>)> {
        let resolved = self.resolver.resolve(&self.backend.host, self.backend.port).await;
        let reason = match resolved {
            Ok(addresses) if !addresses.is_empty() => {
                if lock(&self.findings.unresolved).take().is_some() {
                    tracing::info!(backend = %self.backend, "the name resolves again");
                }
                lock(&self.findings.failures).retain(|address, _| addresses.contains(address));
                let backend = |address| lb::Backend {
                    addr: socket::SocketAddr::Inet(address),
                    weight: 1,
                    ext: Extensions::new(),
                };
                return Ok((addresses.into_iter().map(backend).collect(), HashMap::new()));
            }
            Ok(_) => "the name has no addresses".to_owned(),
            Err(error) => format!("the name does not resolve: {error}"),
        };
        if lock(&self.findings.unresolved).replace(reason.clone()).is_none() {
            tracing::warn!(backend = %self.backend, reason, "no new addresses; the known ones stay in use");
        }
        Error::e_explain(ErrorType::InternalError, reason)
    }
}

/// Checks one address by connecting to it, TLS included.
struct Probe {
    backend: Backend,
    settings: Upstream,
    /// For `https` only. Plain connections need none of its certificates.
    connector: Option<Arc<TransportConnector>>,
    findings: Arc<Findings>,
}

impl Probe {
    async fn connect(&self, address: SocketAddr) -> Result<(), String> {
        if let Some(connector) = &self.connector {
            let peer = peer(&self.settings, &self.backend, address);
            return connector.new_stream(&peer).await.map(drop).map_err(|error| error.to_string());
        }
        let pause = self.settings.connect_timeout;
        match timeout(pause, tokio::net::TcpStream::connect(address)).await {
            Ok(connected) => connected.map(drop).map_err(|error| error.to_string()),
            Err(_) => Err(format!("no connection in {pause:?}")),
        }
    }
}

#[async_trait]
impl HealthCheck for Probe {
    async fn check(&self, target: &lb::Backend) -> pingora::Result<()> {
        let Some(address) = target.addr.as_inet() else { return Ok(()) };
        match self.connect(*address).await {
            Ok(()) => {
                lock(&self.findings.failures).remove(address);
                Ok(())
            }
            Err(reason) => {
                lock(&self.findings.failures).insert(*address, reason.clone());
                Error::e_explain(ErrorType::ConnectError, reason)
            }
        }
    }

    fn health_threshold(&self, _success: bool) -> usize {
        1
    }

    fn backend_summary(&self, target: &lb::Backend) -> String {
        format!("backend {} [{}]", self.backend, target.addr)
    }
}

/// How to reach one address of a backend. Pingora's own defaults are no timeouts at all.
fn peer(settings: &Upstream, backend: &Backend, address: SocketAddr) -> HttpPeer {
    // Never an empty SNI: Pingora then checks no certificate. For an address rustls sends none and checks the address.
    let mut peer = HttpPeer::new(address, backend.tls, backend.host.clone());
    let options = &mut peer.options;
    options.connection_timeout = Some(settings.connect_timeout);
    options.total_connection_timeout = Some(settings.connect_timeout);
    options.read_timeout = settings.read_timeout.map(|pause| pause.max(settings.response_header_timeout));
    options.write_timeout = Some(WRITE_TIMEOUT);
    options.idle_timeout = Some(settings.pool_idle_timeout);
    options.tcp_keepalive = Some(TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 3,
        #[cfg(target_os = "linux")]
        user_timeout: Duration::ZERO,
    });
    options.verify_cert = settings.verify;
    options.verify_hostname = settings.verify;
    match (settings.http2, backend.tls) {
        (false, _) => options.set_http_version(1, 1),
        (true, true) => options.set_http_version(2, 1),
        (true, false) => options.set_http_version(2, 2),
    }
    options.max_h2_streams = STREAMS_PER_CONNECTION;
    options.h2_ping_interval = Some(PING_INTERVAL);
    peer
}

/// A connector with the authorities of `upstream.ca` or of the system. They are loaded here first, because Pingora's
/// connector panics over a file that does not load.
fn tls_connector(settings: &Upstream) -> Result<Arc<TransportConnector>, UpstreamsError> {
    let mut store = RootCertStore::empty();
    let loaded = match &settings.ca {
        Some(path) => load_ca_file_into_store(path, &mut store),
        None => load_platform_certs_incl_env_into_store(&mut store),
    };
    let reason = match loaded {
        Ok(()) if !store.is_empty() => {
            let mut options = ConnectorOptions::new(1);
            options.ca_file = settings.ca.as_ref().map(|path| path.to_string_lossy().into_owned());
            return Ok(Arc::new(TransportConnector::new(Some(options))));
        }
        Ok(()) => "there is none".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(match settings.ca.clone() {
        Some(path) => UpstreamsError::Authorities { path, reason },
        None => UpstreamsError::NoAuthorities(reason),
    })
}

#[cfg(test)]
mod tests;
