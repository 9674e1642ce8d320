//! Three nodes before one backend, on Redis; and what is done to them while turns run.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{
    LEASE,
    cast::{Account, Actor, House, Performance},
    deployment::{Deployment, Kind},
    plan::{Blow, Fault, Round},
    script::{self, Ledger},
};
use crate::support::{
    Backend, DEADLINE, Holdover, Link, Quality, Random,
    clock::WallClock,
    eventually,
    namespace::{Cable, Namespace},
    program::root,
};

const NODES: usize = 3;
/// Turns of a round, for each second that it lasts.
const TURNS_PER_SECOND: usize = 3;

/// See the module.
pub(super) struct Stage {
    kind: Kind,
    deployment: Deployment,
    pub(super) ledger: Arc<Ledger>,
    backend: Backend,
    pub(super) nodes: Vec<Node>,
    /// Nodes that have left, or are about to. Their logs may be wanted.
    gone: Vec<Node>,
    /// Of the last node, if this machine allows it.
    network: Option<Network>,
    house: Arc<House>,
    /// Parts so far.
    parts: usize,
    /// When Redis last began anew, with nothing.
    pub(super) forgot_at: Option<Instant>,
}

/// One of the places.
pub(super) struct Node {
    pub(super) process: Holdover,
    /// To Redis, where that is one server.
    link: Link,
    clock: WallClock,
}

/// A place with cables.
struct Network {
    namespace: Namespace,
    to_backend: Link,
}

/// A turn of a round, and what its clients say.
pub(super) struct Told {
    pub(super) of: Arc<Performance>,
    pub(super) accounts: Vec<Account>,
}

impl Stage {
    pub(super) async fn set(kind: Kind, with_network: bool) -> Self {
        let ledger = Arc::new(Ledger::default());
        let (deployment, backend) = tokio::join!(Deployment::start(kind), script::backend(ledger.clone()));
        let network = match with_network.then(Namespace::make) {
            Some(Ok(namespace)) => {
                let to_backend = Link::at(namespace.outside(Cable::Back), backend.address()).await;
                Some(Network { namespace, to_backend })
            }
            Some(Err(why)) => {
                eprintln!("faults: no cables are pulled, this machine allows no network namespaces: {why}");
                None
            }
            None => None,
        };
        let house = Arc::new(House {
            nodes: Default::default(),
            backend_cut: AtomicBool::new(false),
            mended: watch::channel(None).0,
        });
        let mut stage = Self {
            kind,
            deployment,
            ledger,
            backend,
            nodes: Vec::new(),
            gone: Vec::new(),
            network,
            house,
            parts: 0,
            forgot_at: None,
        };
        for place in 0..NODES {
            let node = stage.node(place).await;
            stage.nodes.push(node);
        }
        stage.publish();
        stage
    }

    /// A new node at a place.
    async fn node(&self, place: usize) -> Node {
        let network = self.network.as_ref().filter(|_| place == NODES - 1);
        let link = match network {
            Some(network) => Link::at(network.namespace.outside(Cable::Back), self.deployment.first()).await,
            None => Link::to(self.deployment.first()).await,
        };
        let clock = WallClock::right();
        let backend = network.map_or(self.backend.address(), |network| network.to_backend.address());
        let mut setup = Holdover::setup().upstream(backend).config(self.config(&link));
        if self.kind == Kind::Single {
            for (name, value) in clock.environment() {
                setup = setup.env(name, value);
            }
        }
        if let Some(network) = network {
            setup = setup.inside(&network.namespace);
        }
        Node { process: setup.start().await, link, clock }
    }

    fn config(&self, link: &Link) -> String {
        format!(
            r#"
            [store]
            kind = "redis"
            url = "{}"
            cluster = {}
            lease = "{}ms"
            [identity]
            anonymous_sessions = true
            [drain]
            max = "3s"
            [[route]]
            name = "chat"
            path = "/chat"
            session = "header:x-session"
            concurrent = "reject"
            reconnect = "off"
            keepalive = "1s"
            "#,
            self.deployment.url(link.address()),
            self.kind == Kind::Cluster,
            LEASE.as_millis(),
        )
    }

    fn publish(&self) {
        *self.house.nodes.lock().unwrap() = self.nodes.iter().map(|node| node.process.addr()).collect();
    }

    /// Lets turns run while the round's faults happen, and gives what everybody says at the end.
    pub(super) async fn play(&mut self, round: &Round, random: &mut Random) -> Vec<Told> {
        self.house.mended.send_replace(None);
        let cut = round.blows.iter().any(|blow| blow.fault == Fault::PullBack && self.allows(blow.fault));
        self.house.backend_cut.store(cut, Ordering::Relaxed);
        let span = round.span().as_millis() as usize + 500;
        let count = 4 + TURNS_PER_SECOND * span / 1000;
        let mut performances = Vec::new();
        let mut acting = JoinSet::new();
        for at in 0..count {
            self.parts += 1;
            let of = Arc::new(Performance::any(self.parts, round.steady, random));
            performances.push(of.clone());
            let delay = std::time::Duration::from_millis(random.below(span) as u64);
            let followers = 1 + random.below(3);
            let stopped = random.below(8) == 0;
            let mut actor = |role: &str| {
                let who = format!("{role} of part {}", of.part.number);
                Actor::new(who, self.house.clone(), of.clone(), random.below(usize::MAX) as u64)
            };
            let starter = actor("starter");
            acting.spawn(async move {
                sleep(delay).await;
                (at, starter.lead().await)
            });
            for number in 0..followers {
                let follower = actor(&format!("follower {number}"));
                acting.spawn(async move { (at, follower.follow().await) });
            }
            if stopped {
                let stopper = actor("stopper");
                acting.spawn(async move { (at, stopper.stop().await) });
            }
        }
        for blow in round.blows.iter().filter(|blow| self.allows(blow.fault)).collect::<Vec<_>>() {
            sleep(blow.after).await;
            self.strike(blow).await;
            if blow.forgets(self.kind) {
                self.forgot_at = Some(Instant::now());
            }
        }
        for node in &self.nodes {
            eventually("a node to be ready", || async { (node.process.ready().await.0 == 200).then_some(()) }).await;
        }
        self.house.mended.send_replace(Some(Instant::now()));
        let mut told: Vec<Told> = performances.into_iter().map(|of| Told { of, accounts: Vec::new() }).collect();
        while let Some(account) = acting.join_next().await {
            let (at, account) = account.expect("clients do not panic");
            told[at].accounts.push(account);
        }
        told
    }

    /// Whether this machine can do such a thing.
    pub(super) fn allows(&self, fault: Fault) -> bool {
        self.network.is_some() || !matches!(fault, Fault::PullBack | Fault::PullFront)
    }

    /// Does a fault, and mends what does not mend itself.
    async fn strike(&mut self, blow: &Blow) {
        let place = blow.pick % NODES;
        match blow.fault {
            Fault::KillNode => {
                self.nodes[place].process.kill9().await;
                sleep(blow.lasting).await;
                self.replace(place).await;
            }
            Fault::DrainNode => {
                self.nodes[place].process.signal("TERM");
                self.replace(place).await;
            }
            Fault::PauseNode | Fault::FreezeNode => {
                self.nodes[place].process.signal("STOP");
                sleep(blow.lasting).await;
                self.nodes[place].process.signal("CONT");
            }
            Fault::NodeClock => {
                self.nodes[place].clock.set(blow.jump());
                sleep(blow.lasting).await;
                self.nodes[place].clock.set(0);
            }
            Fault::SlowLink => self.links(blow, Quality::Slow(blow.delay())).await,
            Fault::SilentLink => self.links(blow, Quality::Silent).await,
            Fault::CutLink => self.links(blow, Quality::Gone).await,
            Fault::PullBack | Fault::PullFront => {
                let Some(network) = &self.network else { return };
                let cable = if blow.fault == Fault::PullBack { Cable::Back } else { Cable::Front };
                network.namespace.pull(cable);
                sleep(blow.lasting).await;
                network.namespace.plug(cable);
            }
            _ => self.deployment.strike(blow).await,
        }
    }

    /// One node's link to Redis, or all of them where that is no evidence against anybody.
    async fn links(&self, blow: &Blow, quality: Quality) {
        let all = matches!(quality, Quality::Slow(_)) && blow.pick.is_multiple_of(2);
        let place = blow.pick % NODES;
        let met = self.nodes.iter().enumerate().filter(|(at, _)| all || *at == place).map(|(_, node)| node);
        let met: Vec<&Node> = met.collect();
        met.iter().for_each(|node| node.link.set(quality));
        sleep(blow.lasting).await;
        met.iter().for_each(|node| node.link.set(Quality::Good));
    }

    async fn replace(&mut self, place: usize) {
        let node = self.node(place).await;
        let old = std::mem::replace(&mut self.nodes[place], node);
        self.gone.push(old);
        self.publish();
    }

    /// Waits until the next round may begin: Redis is whole, and who was to leave has left.
    pub(super) async fn settle(&mut self) {
        self.deployment.is_whole().await;
        for node in &self.gone {
            if !node.process.exited() {
                node.process.wait_exit(DEADLINE).await;
            }
        }
    }

    /// Writes the logs of all nodes into a folder, and gives the lines about a turn.
    pub(super) fn write_logs(&self, name: &str) -> PathBuf {
        let folder = root().join("target/faults").join(name);
        std::fs::create_dir_all(&folder).expect("a folder for the logs");
        for (number, node) in self.all().enumerate() {
            let file = folder.join(format!("node-{number}-{}.log", node.addr().port()));
            std::fs::write(file, node.logs()).expect("the log can be written");
        }
        folder
    }

    fn all(&self) -> impl Iterator<Item = &Holdover> {
        self.gone.iter().chain(&self.nodes).map(|node| &node.process)
    }

    /// What the nodes wrote about a turn.
    pub(super) fn lines_about(&self, turn: &str) -> Vec<String> {
        // As they name it.
        let short = &turn[8..14];
        let lines = self.all().flat_map(|node| {
            let port = node.addr().port();
            let about: Vec<String> =
                node.logs().lines().filter(|line| line.contains(short)).map(str::to_owned).collect();
            about.into_iter().map(move |line| format!("{port}: {line}"))
        });
        lines.collect()
    }
}
