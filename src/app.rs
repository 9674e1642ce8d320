//! Builds the services on one tokio runtime, runs them, and drains them on SIGTERM.
//!
//! Pingora's `Server` is not used: its SIGTERM closes the listeners at once and then sleeps for its whole grace period,
//! where a proxy of long turns must go on serving resumes and leave when the last turn is over.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use pingora::{
    apps::HttpServerOptions, apps::http_app::HttpServer, proxy::HttpProxy, server::configuration::ServerConf,
};
use tokio::sync::watch;

use crate::{
    admin::Admin,
    config::{self, Config, IdentitySource, StoreKind},
    listener::{Connections, Inherited, InheritedError, Listener},
    metrics::Metrics,
    node::{Node, Settings},
    principal::{Identifier, IdentityKey, JwtKey, JwtSettings, Source, SourceError, Sources, SubrequestSettings},
    proxy::{Front, Gateway, Shared, Upstreams},
    store::{
        TurnStore,
        memory::MemoryStore,
        redis::{self, RedisStore},
    },
    turn::{Budget, NodeId, durability::Durability},
};

/// Why the process cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The sockets that came with the process cannot be used.
    #[error("the sockets given to this process (LISTEN_FDS): {0}")]
    Inherited(#[from] InheritedError),
    /// A listener cannot be bound: the port is taken, or may not be used.
    #[error("cannot listen on {address} ({key}): {source}; choose another address or stop what listens there")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// The setting that names it.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A file that an identity source needs cannot be used.
    #[error("identity: {0}")]
    Identity(#[from] SourceError),
    /// A file that the backends' connections need cannot be used.
    #[error("upstream: {0}")]
    Upstream(#[from] crate::proxy::UpstreamsError),
    /// A file that the store's connection needs cannot be used.
    #[error("store: {0}")]
    Store(#[from] redis::SettingsError),
}

/// A proxy with its listeners bound, not serving yet.
pub struct App {
    public: Listener,
    admin: Listener,
    shared: Arc<Shared>,
    identity_ready: Arc<AtomicBool>,
    /// The secret as configured or agreed on; for building identities anew on a reload.
    secret: Arc<ArcSwap<[u8; 32]>>,
}

impl App {
    /// Builds everything and binds the listeners that did not come with the process. A store or backend that is away does not
    /// keep it from starting.
    pub async fn build(config: Config, inherited: Inherited) -> Result<Self, StartError> {
        let public = bind(inherited.public, config.listen.public, "listen.public").await?;
        let admin = bind(inherited.admin, config.admin.listen, "admin.listen").await?;
        let metrics = Arc::new(Metrics::new());
        let budget = Budget::new(config.store.memory_limit as u64);
        let id =
            NodeId(IdentityKey::random_secret()[..8].iter().map(|b| format!("{b:02x}")).collect::<String>().into());
        let store = store(&config, &id, &budget, &metrics)?;
        let settings = Settings {
            max_turns: config.limits.max_turns as usize,
            degrade: config.store.on_failure == config::OnFailure::Degrade,
            linger: match config.store.kind {
                StoreKind::Memory => Duration::ZERO,
                StoreKind::Redis => Duration::from_secs(15),
            },
        };
        let secret = IdentityKey::random_secret();
        let identifier = identifier(&config, &secret)?;
        let upstreams = Arc::new(Upstreams::new(&config.upstream)?);
        let node = Node::new(id, store, budget, metrics, settings);
        let shared = Arc::new(Shared {
            node,
            settings: ArcSwap::from_pointee(config),
            identifier: ArcSwap::from_pointee(identifier),
            upstreams,
        });
        let secret = Arc::new(ArcSwap::from_pointee(secret));
        Ok(Self { public, admin, shared, identity_ready: Arc::default(), secret })
    }

    /// Where clients reach it.
    pub fn address(&self) -> SocketAddr {
        self.public.address()
    }

    /// Where operators reach it.
    pub fn admin_address(&self) -> SocketAddr {
        self.admin.address()
    }

    /// Serves until `signals` say to end. `reload` gives new settings on SIGHUP.
    pub async fn run(self, mut signals: Signals, reload: impl Fn() -> Result<Config, String>) {
        let Self { public, admin, shared, identity_ready, secret } = self;
        let (stop, stopped) = watch::channel(false);
        let (leave, leaving) = watch::channel(false);
        let (accept_no_more, accepts_no_more) = watch::channel(false);
        let node = shared.node.clone();
        let addresses = (public.address(), admin.address());
        tokio::spawn(node.clone().serve_events());
        tokio::spawn(shared.upstreams.clone().run(stopped.clone()));
        let settings = shared.settings.load_full();
        let options = Connections { first_byte: settings.listen.header_timeout, ..Connections::default() };
        let admin_app = Admin::new(node.clone(), shared.upstreams.clone(), identity_ready.clone());
        let admin_app = Arc::new(HttpServer::new_app(admin_app));
        let admin = tokio::spawn(admin.serve(admin_app, Connections::default(), stopped.clone(), stopped.clone()));
        // Traffic comes in only once it is known who is who, or known that it cannot be known now.
        agree_on_secret(&shared, &secret, &identity_ready).await;
        let public = public.accepting_until(accepts_no_more);
        let proxy = tokio::spawn(public.serve(Arc::new(http_proxy(shared.clone())), options, leaving, stopped));
        tracing::info!(public = %addresses.0, admin = %addresses.1, version = env!("CARGO_PKG_VERSION"), "holdover is ready");
        while signals.next().await == Signal::Reload {
            apply(&shared, &secret, reload());
        }
        let config::Drain { max, move_after, accept } = shared.settings.load().drain;
        tracing::info!(?max, "draining: no new turns; resumes are served until the running turns are over");
        accept_no_more.send_replace(!accept);
        leave.send_replace(true);
        node.start_draining();
        let moved = async {
            match settings.store.kind {
                StoreKind::Redis => node.send_visitors_away(move_after).await,
                // Nobody else has these turns.
                StoreKind::Memory => std::future::pending().await,
            }
        };
        tokio::select! {
            never = moved => match never {},
            all = idle(&node, max) => tracing::info!(all_ended_by_themselves = all, "drained: no turn is running"),
            () = signals.terminated() => {
                tracing::warn!("second signal: ending at once, running turns are interrupted");
            }
        }
        node.store().leave().await;
        stop.send_replace(true);
        let _ = tokio::time::timeout(Duration::from_secs(1), async { tokio::join!(proxy, admin) }).await;
        tracing::info!("stopped");
    }
}

/// Waits until no turn runs and every request is answered, at most for `max`; turns that run then are interrupted. Whether
/// none had to be.
async fn idle(node: &Node, max: Duration) -> bool {
    let deadline = tokio::time::Instant::now() + max;
    let all = node.drained(max).await;
    // What is left are plain requests, and followers that read the rest of a turn.
    let patience = deadline.max(tokio::time::Instant::now() + Duration::from_secs(2));
    while node.metrics().requests_in_flight.get() > 0 && tokio::time::Instant::now() < patience {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    all
}

/// What the operating system tells the process.
pub struct Signals(tokio::sync::mpsc::UnboundedReceiver<Signal>);

/// See [`Signals`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP.
    Reload,
    /// SIGTERM or SIGINT.
    Terminate,
}

impl Signals {
    /// Catches SIGHUP, SIGTERM and SIGINT from now on.
    pub fn catch() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let (send, signals) = tokio::sync::mpsc::unbounded_channel();
        for (kind, meaning) in [
            (SignalKind::hangup(), Signal::Reload),
            (SignalKind::terminate(), Signal::Terminate),
            (SignalKind::interrupt(), Signal::Terminate),
        ] {
            let (mut caught, send) = (signal(kind)?, send.clone());
            tokio::spawn(async move { while caught.recv().await.is_some() && send.send(meaning).is_ok() {} });
        }
        Ok(Self(signals))
    }

    async fn next(&mut self) -> Signal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }

    async fn terminated(&mut self) {
        while self.next().await != Signal::Terminate {}
    }
}

async fn bind(
    inherited: Option<std::net::TcpListener>,
    address: SocketAddr,
    key: &'static str,
) -> Result<Listener, StartError> {
    match inherited {
        Some(socket) => Ok(Listener::inherited(socket).map_err(InheritedError::Unusable)?),
        None => Listener::bind(address).await.map_err(|source| StartError::Bind { address, key, source }),
    }
}

fn http_proxy(shared: Arc<Shared>) -> Front {
    let settings = shared.settings.load_full();
    let https = settings.upstream.urls.iter().any(|backend| backend.tls);
    let conf = ServerConf {
        max_retries: 16,
        upstream_keepalive_pool_size: crate::proxy::KEPT_CONNECTIONS,
        // `Upstreams::new` has read the file: Pingora panics where it cannot.
        ca_file: settings.upstream.ca.as_ref().filter(|_| https).map(|file| file.display().to_string()),
        ..ServerConf::default()
    };
    let mut proxy = HttpProxy::new(Gateway::new(shared), Arc::new(conf));
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(Duration::from_secs(300));
    proxy.server_options = Some(options);
    proxy.handle_init_modules();
    Front::new(proxy, settings.listen.header_timeout)
}

fn store(
    config: &Config,
    id: &NodeId,
    budget: &Arc<Budget>,
    metrics: &Arc<Metrics>,
) -> Result<Arc<dyn TurnStore>, StartError> {
    match config.store.kind {
        StoreKind::Memory => {
            metrics.store_up.set(1);
            Ok(MemoryStore::new(config.store.retain_after_end, budget.clone()))
        }
        StoreKind::Redis => {
            Ok(RedisStore::connect(redis_settings(config), id.clone(), budget.clone(), metrics.clone())?)
        }
    }
}

/// Looks at the store that a configuration names, as a node would use it. `None`: there is nothing to look at.
pub async fn probe_store(config: &Config) -> Result<Option<redis::Report>, StartError> {
    match config.store.kind {
        StoreKind::Memory => Ok(None),
        StoreKind::Redis => Ok(Some(redis::probe(&redis_settings(config)).await?)),
    }
}

fn redis_settings(config: &Config) -> redis::Settings {
    let store = config.store.clone();
    redis::Settings {
        url: store.url,
        cluster: store.cluster,
        prefix: store.prefix,
        durability: match store.durability {
            config::Durability::Acked => Durability::Acked { deadline: store.ack_deadline },
            config::Durability::Behind => Durability::Behind,
        },
        retain_after_end: store.retain_after_end,
        seal: store.seal,
        max_turn: config.routes.iter().map(|route| route.max_turn).max().unwrap_or_default(),
        lease: store.lease,
        connect_timeout: store.connect_timeout,
        command_timeout: store.command_timeout,
        username: store.username,
        password: store.password,
        ca: store.ca,
        cert: store.cert,
        key: store.key,
    }
}

/// The configured secret, stretched or cut by no one: any length will do for HMAC.
fn identity_key(config: &Config, shared: &[u8; 32]) -> IdentityKey {
    match &config.identity.secret {
        Some(secret) => IdentityKey::from_secret(secret.expose().as_bytes()),
        None => IdentityKey::from_secret(shared),
    }
}

fn identifier(config: &Config, shared: &[u8; 32]) -> Result<Identifier, SourceError> {
    let from = config.identity.from.iter().map(|source| source_of(config, source)).collect();
    Identifier::new(identity_key(config, shared), Sources { from, ca_file: config.upstream.ca.clone() })
}

fn source_of(config: &Config, source: &IdentitySource) -> Source {
    match source {
        IdentitySource::Header(name) => Source::Header(name.clone()),
        IdentitySource::Cookie(name) => Source::Cookie(name.clone()),
        IdentitySource::Jwt(claim) => {
            let jwt = &config.identity.jwt;
            let key = match (&jwt.secret, &jwt.jwks_file, &jwt.jwks_url) {
                (Some(secret), ..) => JwtKey::Secret(secret.expose().as_bytes().to_vec()),
                (_, Some(file), _) => JwtKey::File(file.clone()),
                (_, _, Some(url)) => JwtKey::Url { url: url.clone(), refresh: jwt.jwks_refresh },
                // The check of the configuration has refused this; an empty secret verifies nothing.
                (None, None, None) => JwtKey::Secret(Vec::new()),
            };
            Source::Jwt(JwtSettings {
                header: jwt.header.clone(),
                claim: claim.clone(),
                issuers: jwt.issuer.iter().cloned().collect(),
                audiences: jwt.audience.iter().cloned().collect(),
                leeway: jwt.leeway,
                ..JwtSettings::new(key)
            })
        }
        IdentitySource::Subrequest => {
            let ask = &config.identity.subrequest;
            let base = config.upstream.urls.first().map(ToString::to_string).unwrap_or_default();
            let base = base.parse().expect("a backend is displayed as its URL");
            Source::Subrequest(SubrequestSettings {
                headers: ask.headers.clone(),
                identity_header: ask.identity_header.clone(),
                timeout: ask.timeout,
                cache: ask.cache.unwrap_or_default(),
                ..SubrequestSettings::new(base, ask.path.clone())
            })
        }
    }
}

/// How often the nodes look whether they still share the secret: a store that lost it is given it again.
const SECRET_AGAIN: Duration = Duration::from_secs(10);
/// How long the start of service waits for the secret.
const SECRET_WAIT: Duration = Duration::from_secs(2);

/// Takes the secret that all nodes share from the store, and sees to it that it stays there. While it cannot be had,
/// turns are bound to identities by a secret of this node alone, and the node does not count as ready.
async fn agree_on_secret(shared: &Arc<Shared>, secret: &Arc<ArcSwap<[u8; 32]>>, ready: &Arc<AtomicBool>) {
    if shared.settings.load().identity.secret.is_some() {
        ready.store(true, Ordering::Relaxed);
        return;
    }
    let (agreed, mut first) = watch::channel(false);
    let (shared, secret, ready) = (shared.clone(), secret.clone(), ready.clone());
    tokio::spawn(async move {
        loop {
            let mine = **secret.load();
            let pause = match shared.node.store().shared_secret(mine).await {
                Ok(theirs) => {
                    if theirs != mine {
                        secret.store(Arc::new(theirs));
                        match identifier(&shared.settings.load_full(), &theirs) {
                            Ok(identifier) => shared.identifier.store(Arc::new(identifier)),
                            Err(error) => tracing::error!(%error, "the identity sources cannot be used any more"),
                        }
                    }
                    ready.store(true, Ordering::Relaxed);
                    agreed.send_replace(true);
                    SECRET_AGAIN
                }
                Err(_) => Duration::from_millis(200),
            };
            tokio::time::sleep(pause).await;
        }
    });
    if tokio::time::timeout(SECRET_WAIT, first.wait_for(|agreed| *agreed)).await.is_err() {
        tracing::error!(
            "the store does not give the key that binds turns to who started them: turns of now cannot be resumed with \
             credentials once it is back; set identity.secret to be independent of it"
        );
    }
}

/// Takes over new routes and limits, or keeps the old ones and says why.
fn apply(shared: &Shared, secret: &ArcSwap<[u8; 32]>, loaded: Result<Config, String>) {
    let old = shared.settings.load_full();
    let loaded = loaded.and_then(|config| {
        // What is bound to connections and files that are open stays as it is.
        let kept = Config { upstream: old.upstream.clone(), store: old.store.clone(), ..config.clone() };
        let identifier = identifier(&kept, &secret.load()).map_err(|error| error.to_string())?;
        Ok((config, kept, identifier))
    });
    let (config, kept, identifier) = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => {
            tracing::error!("the configuration was not reloaded, the old one stays in effect:\n{problems}");
            return;
        }
    };
    for (key, changed) in [
        ("listen.public", old.listen.public != config.listen.public),
        ("listen.header_timeout", old.listen.header_timeout != config.listen.header_timeout),
        ("admin", old.admin.listen != config.admin.listen),
        ("upstream", old.upstream != config.upstream),
        ("store", old.store != config.store),
        ("log", old.log != config.log),
    ] {
        if changed {
            tracing::warn!(key, "a change of this needs a restart; the old value stays");
        }
    }
    shared.node.set_max_turns(kept.limits.max_turns as usize);
    shared.settings.store(Arc::new(kept));
    shared.identifier.store(Arc::new(identifier));
    tracing::info!("configuration reloaded: routes, limits, identity and drain are in effect");
}
