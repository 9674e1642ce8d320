//! The store before real servers: the promises of every store, and those that only a shared one makes.

mod cluster;
mod failover;
mod faults;
mod makes;
mod nodes;
/// Shared with the black-box tests.
#[path = "../../../../tests/support/servers/mod.rs"]
mod servers;

use std::{any::Any, sync::Mutex};

use bytes::Bytes;
use tokio::time::{Instant, timeout};

use self::servers::{Cluster, Make, Recipe, Server};
use super::*;
use crate::{
    config::{RedisScheme, RedisUrl, Secret},
    store::conformance::{DEADLINE, Fixture, Owner, conformance, end, eventually, read_to_end, read_until, record},
    turn::{Cap, Outcome, Read},
};

/// A lease short enough to wait for.
const LEASE: Duration = Duration::from_secs(1);

fn settings(server: &Server) -> Settings {
    Settings {
        url: RedisUrl { hosts: vec![("127.0.0.1".into(), server.port)], ..RedisUrl::default() },
        cluster: false,
        prefix: "holdover".into(),
        durability: Durability::Acked { deadline: Duration::from_millis(500) },
        retain_after_end: Duration::from_secs(60),
        max_turn: Duration::from_secs(600),
        lease: LEASE,
        connect_timeout: Duration::from_secs(1),
        command_timeout: Duration::from_secs(1),
        username: None,
        password: None,
        ca: None,
        cert: None,
        key: None,
    }
}

/// A node of its own name, connected.
async fn node(name: &str, settings: Settings) -> Fixture {
    let node = NodeId(name.into());
    let store = connect(&node, settings);
    connected(&*store).await;
    Fixture { store, node, _guard: Box::new(()) }
}

fn connect(node: &NodeId, settings: Settings) -> Arc<RedisStore> {
    RedisStore::connect(settings, node.clone(), Budget::new(u64::MAX), Arc::new(|_, _, _| {})).unwrap()
}

async fn connected(store: &dyn TurnStore) {
    eventually("the store is connected", async || store.health().await.ok).await;
}

async fn build(retain_after_end: Duration) -> Fixture {
    let server = Server::start(&[]);
    let fixture = node("here", Settings { retain_after_end, ..settings(&server) }).await;
    Fixture { _guard: Box::new(server) as Box<dyn Any>, ..fixture }
}

conformance!(build);

/// An owner and a reader before one server.
async fn two_nodes(server: &Server) -> (Fixture, Fixture) {
    (node("owner", settings(server)).await, node("reader", settings(server)).await)
}

/// Opens the owner's turn on another node.
async fn open_at(reader: &Fixture, owner: &Owner, after: Seq) -> Arc<Log> {
    reader.store.open(&owner.record.id, after).await.unwrap().expect("the turn is there").log
}

/// Appends as a recorder does: starts again what is forgotten, follows the store's seq, tries again.
async fn keep_at_last(owner: &Owner) {
    let mut at = 0;
    eventually("the store has the whole log", async || {
        let Some(batch) = owner.log.batch(at, 64, 3) else { return true };
        match owner.store.append(&owner.record.id, &owner.record.epoch, &batch).await {
            Ok(Appended::Applied { .. }) => at = batch.last(),
            Ok(Appended::At(seq)) => at = seq,
            Ok(Appended::Gone) => {
                at = 0;
                let _ = owner.store.start(&owner.record, &owner.log, SessionPolicy::Replace).await;
            }
            Ok(Appended::Fenced) => panic!("fenced"),
            Err(_) => {}
        }
        owner.log.batch(at, 1, 1).is_none()
    })
    .await;
}

/// Certificates for `localhost`, and the port of a server that has them.
struct Authority {
    dir: tempfile::TempDir,
    port: u16,
}

impl Authority {
    fn new() -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let authority = Self { dir: tempfile::tempdir().unwrap(), port: Server::free_port() };
        authority.make("req -x509 -newkey rsa:2048 -nodes -days 2 -keyout ca.key -out ca.pem -subj /CN=authority");
        std::fs::write(authority.file("names"), "subjectAltName=DNS:localhost").unwrap();
        for name in ["server", "client"] {
            authority.make(&format!("req -newkey rsa:2048 -nodes -keyout {name}.key -out {name}.csr -subj /CN={name}"));
            authority.make(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names \
                 -out {name}.pem"
            ));
        }
        authority
    }

    fn make(&self, arguments: &str) {
        let words = arguments.split(' ').filter(|word| !word.is_empty());
        let made = std::process::Command::new("openssl").args(words).current_dir(self.dir.path()).output().unwrap();
        assert!(made.status.success(), "{arguments}: {}", String::from_utf8_lossy(&made.stderr));
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    /// Arguments of a server that shows and demands certificates, and more of them.
    fn server(&self, more: &[&str]) -> Vec<String> {
        let path = |name: &str| self.file(name).to_str().unwrap().to_owned();
        let (ca, cert, key) = (path("ca.pem"), path("server.pem"), path("server.key"));
        let own = ["--tls-ca-cert-file", &ca, "--tls-cert-file", &cert, "--tls-key-file", &key, "--tls-port"];
        let own = own.map(str::to_owned).into_iter().chain([self.port.to_string()]);
        own.chain(more.iter().map(|&word| word.to_owned())).collect()
    }

    /// Settings of a client that shows its certificate.
    fn member(&self, server: &Server) -> Settings {
        let hosts = vec![("localhost".into(), self.port)];
        let url = RedisUrl { scheme: RedisScheme::Tls, hosts, ..RedisUrl::default() };
        let [ca, cert, key] = ["ca.pem", "client.pem", "client.key"].map(|name| Some(self.file(name)));
        Settings { url, ca, cert, key, ..settings(server) }
    }
}

#[tokio::test]
async fn tls_shows_and_demands_certificates() {
    let authority = Authority::new();
    let arguments = authority.server(&[]);
    let server = Server::start(&arguments.iter().map(|word| &**word).collect::<Vec<_>>());
    let member = authority.member(&server);
    let stranger = Settings { cert: None, key: None, ..member.clone() };
    let stranger = connect(&NodeId("stranger".into()), stranger);
    let home = node("home", member.clone()).await;
    Owner::start(&home).await.keep(&["a"]).await;
    assert!(!stranger.health().await.ok, "the server demands a certificate");
    let doubtful = connect(&NodeId("doubtful".into()), Settings { ca: None, ..member });
    eventually("the unknown authority is told", async || {
        doubtful.health().await.detail.to_lowercase().contains("certificate")
    })
    .await;
}

#[tokio::test]
async fn a_socket_file_will_do() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("redis.sock");
    let server = Server::start(&["--unixsocket", path.to_str().unwrap()]);
    let url = RedisUrl { scheme: RedisScheme::Unix, hosts: vec![], socket: Some(path), ..RedisUrl::default() };
    let home = node("home", Settings { url, ..settings(&server) }).await;
    Owner::start(&home).await.keep(&["a"]).await;
}

#[tokio::test]
async fn calls_are_observed() {
    let server = Server::start(&[]);
    let seen = Arc::new(Mutex::new(Vec::new()));
    let observer: Observer = {
        let seen = seen.clone();
        Arc::new(move |operation, _, ok| seen.lock().unwrap().push((operation, ok)))
    };
    let store = RedisStore::connect(settings(&server), NodeId("node".into()), Budget::new(9), observer).unwrap();
    connected(&*store).await;
    let record = record(&NodeId("node".into()), None);
    assert_eq!(store.find(&record.id).await, Ok(None));
    assert!(seen.lock().unwrap().contains(&("find", true)));
}

#[tokio::test]
async fn the_documented_rights_suffice() {
    let server = Server::start(&[]);
    the_rights_suffice(&server, settings(&server)).await;
}

/// The rights that `docs/operations/redis.md` tells operators to give.
async fn the_rights_suffice(server: &Server, settings: Settings) {
    let page = include_str!("../../../../docs/operations/redis.md");
    let from = page.find("ACL SETUSER").expect("the page has the command");
    let rule = page[from..].split("```").next().unwrap().replace('\\', " ");
    let words: Vec<&str> = rule.split_whitespace().collect();
    server.command::<()>(&words).await;
    let limited =
        Settings { username: Some(Secret::new("holdover")), password: Some(Secret::new("PASSWORD")), ..settings };
    let home = node("home", limited.clone()).await;
    let away = node("away", limited).await;
    let owner = Owner::start_as(&home, record(&home.node, Some([1; 32]))).await;
    owner.keep(&["a"]).await;
    let log = open_at(&away, &owner, 0).await;
    let discarded = Owner::start(&home).await;
    home.store.discard(&discarded.record).await.unwrap();
    home.store.claim(&[2; 32], &owner.record.id, LEASE).await.unwrap();
    home.store.note(&[2; 32], &owner.record.id, LEASE).await.unwrap();
    home.store.shared_secret([1; 32]).await.unwrap();
    assert_eq!(away.store.session(&[1; 32]).await, Ok(Some(owner.record.id)));
    assert_eq!(away.store.request_stop(&owner.record.id, Wish::Stop).await, Ok(StopRequested::Told));
    owner.keep(&["b"]).await;
    drop((home, owner, discarded));
    assert_eq!(read_to_end(&log, 0).await.1.outcome, Outcome::Interrupted, "reaping needs no other rights");
    away.store.leave().await;
    let denied: Vec<String> = server.command(&["ACL", "LOG"]).await;
    assert_eq!(denied, Vec::<String>::new());
}
