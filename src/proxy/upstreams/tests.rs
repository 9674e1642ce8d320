use std::{io::Write, sync::OnceLock, time::Instant};

use pingora::{protocols::ALPN, upstreams::peer::Peer};
use tokio::net::{TcpListener, TcpSocket};

use super::*;

/// A resolver whose answers a test sets. A name without an entry does not resolve.
#[derive(Default)]
struct Zone(Mutex<HashMap<String, Vec<SocketAddr>>>);

impl Zone {
    fn set(&self, host: &str, addresses: &[SocketAddr]) {
        lock(&self.0).insert(host.to_owned(), addresses.to_vec());
    }

    fn remove(&self, host: &str) {
        lock(&self.0).remove(host);
    }
}

#[async_trait]
impl Resolve for Zone {
    async fn resolve(&self, host: &str, _port: u16) -> io::Result<Vec<SocketAddr>> {
        lock(&self.0).get(host).cloned().ok_or_else(|| io::Error::other("no such name"))
    }
}

fn backend(host: &str, port: u16) -> Backend {
    Backend { tls: false, host: host.to_owned(), port }
}

fn settings(urls: &[Backend]) -> Upstream {
    Upstream { urls: urls.to_vec(), host: HostHeader::Upstream, ..Upstream::default() }
}

fn named(zone: &Arc<Zone>, hosts: &[&str]) -> Upstreams {
    let urls: Vec<_> = hosts.iter().map(|host| backend(host, 80)).collect();
    Upstreams::with_resolver(&settings(&urls), Arc::clone(zone) as Arc<dyn Resolve>).unwrap()
}

/// A port that stays ours while nobody listens on it, so that no other test can come to live there.
struct Place {
    address: SocketAddr,
    _held: TcpSocket,
}

impl Place {
    fn closed() -> Self {
        let held = socket("127.0.0.1:0".parse().unwrap());
        Self { address: held.local_addr().unwrap(), _held: held }
    }

    fn open(&self) -> TcpListener {
        socket(self.address).listen(16).unwrap()
    }
}

fn socket(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}

/// The addresses of so many picks in a row.
fn picks(upstreams: &Upstreams, count: usize) -> Vec<SocketAddr> {
    (0..count).map(|_| upstreams.pick(&[]).expect("a target").0.address).collect()
}

async fn eventually(what: &str, mut met: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !met() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn equals_take_turns_until_one_dies() {
    let (place, other) = (Place::closed(), Place::closed());
    let (one, two) = (place.address, other.address);
    let (first, _second) = (place.open(), other.open());
    let urls = [backend("127.0.0.1", one.port()), backend("127.0.0.1", two.port())];
    let upstreams = Upstreams::new(&settings(&urls)).unwrap();
    upstreams.refresh().await;
    upstreams.check().await;
    assert_eq!(picks(&upstreams, 4), [one, two, one, two]);

    drop(first);
    upstreams.check().await;
    assert_eq!(picks(&upstreams, 3), [two, two, two]);
    let health = upstreams.health();
    assert_eq!(health[0].backend, format!("http://{one} [{one}]"));
    assert!(!health[0].healthy && health[0].detail.contains("refused"), "{health:?}");
    assert!(health[1].healthy && health[1].detail == "ok", "{health:?}");
    assert!(upstreams.ready());

    let _back = place.open();
    upstreams.check().await;
    assert!(picks(&upstreams, 2).contains(&one));
}

#[tokio::test]
async fn when_all_fail_there_is_still_one_to_try() {
    let place = Place::closed();
    let upstreams = Upstreams::new(&settings(&[backend("127.0.0.1", place.address.port())])).unwrap();
    upstreams.refresh().await;
    upstreams.check().await;
    assert!(!upstreams.ready());
    let (target, _) = upstreams.pick(&[]).unwrap();
    assert_eq!(target.address, place.address);
    // Also when it is the only one and was tried.
    assert_eq!(upstreams.pick(&[target]).unwrap().0, target);
}

#[tokio::test]
async fn a_retry_goes_where_the_request_has_not_been() {
    let (place, closed) = (Place::closed(), Place::closed());
    let (one, two) = (place.address, closed.address);
    let _first = place.open();
    let zone = Arc::new(Zone::default());
    zone.set("a.test", &[one, two]);
    let upstreams = named(&zone, &["a.test"]);
    upstreams.refresh().await;
    let (target, _) = upstreams.pick(&[]).unwrap();
    let (other, _) = upstreams.pick(&[target]).unwrap();
    assert_ne!(target, other);
    // Even to one that fails its checks, rather than to the one that has just failed the request.
    upstreams.check().await;
    let healthy = upstreams.pick(&[]).unwrap().0;
    assert_eq!((healthy.address, upstreams.pick(&[healthy]).unwrap().0.address), (one, two));
}

#[tokio::test]
async fn a_name_without_addresses_is_said_and_comes_back() {
    let zone = Arc::new(Zone::default());
    let upstreams = named(&zone, &["a.test"]);
    assert!(upstreams.pick(&[]).is_none());
    assert_eq!(upstreams.health()[0].detail, "not resolved yet");

    upstreams.refresh().await;
    let report = BackendHealth {
        backend: "http://a.test".to_owned(),
        healthy: false,
        detail: "the name does not resolve: no such name".to_owned(),
    };
    assert_eq!(upstreams.health(), [report]);
    assert!(upstreams.pick(&[]).is_none() && !upstreams.ready());

    zone.set("a.test", &[]);
    upstreams.refresh().await;
    assert_eq!(upstreams.health()[0].detail, "the name has no addresses");

    zone.set("a.test", &["192.0.2.1:80".parse().unwrap()]);
    upstreams.refresh().await;
    assert!(upstreams.ready() && upstreams.pick(&[]).is_some());
}

#[tokio::test]
async fn a_refresh_follows_the_name_and_a_failed_one_changes_nothing() {
    let (one, two): (SocketAddr, SocketAddr) = ("192.0.2.1:80".parse().unwrap(), "192.0.2.2:80".parse().unwrap());
    let zone = Arc::new(Zone::default());
    zone.set("a.test", &[one]);
    let upstreams = named(&zone, &["a.test"]);
    upstreams.refresh().await;
    assert_eq!(picks(&upstreams, 2), [one, one]);

    zone.set("a.test", &[two]);
    upstreams.refresh().await;
    assert_eq!(picks(&upstreams, 2), [two, two]);

    zone.remove("a.test");
    upstreams.refresh().await;
    assert_eq!(picks(&upstreams, 2), [two, two]);
    let health = upstreams.health();
    assert!(health[0].healthy && health[0].detail.starts_with("last known address, for"), "{health:?}");
}

#[tokio::test]
async fn one_address_can_serve_two_names() {
    let shared = "192.0.2.1:80".parse().unwrap();
    let zone = Arc::new(Zone::default());
    zone.set("a.test", &[shared]);
    zone.set("b.test", &[shared]);
    let upstreams = named(&zone, &["a.test", "b.test"]);
    upstreams.refresh().await;
    let mut hosts: Vec<_> = (0..2).map(|_| upstreams.host(upstreams.pick(&[]).unwrap().0).unwrap()).collect();
    hosts.sort();
    assert_eq!(hosts, ["a.test", "b.test"]);

    let preserving = Upstream { host: HostHeader::Preserve, ..settings(&[backend("a.test", 80)]) };
    let upstreams = Upstreams::with_resolver(&preserving, zone).unwrap();
    upstreams.refresh().await;
    assert_eq!(upstreams.host(upstreams.pick(&[]).unwrap().0), None);
}

#[tokio::test]
async fn running_it_keeps_names_and_health_current_until_told_to_stop() {
    let (place, other) = (Place::closed(), Place::closed());
    let (one, two) = (place.address, other.address);
    let (first, _second) = (place.open(), other.open());
    let zone = Arc::new(Zone::default());
    let quick = Duration::from_millis(5);
    let settings =
        Upstream { dns_refresh: Some(quick), health_check_interval: Some(quick), ..settings(&[backend("a.test", 80)]) };
    let upstreams = Arc::new(Upstreams::with_resolver(&settings, Arc::clone(&zone) as Arc<dyn Resolve>).unwrap());
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&upstreams).run(stopped));

    zone.set("a.test", &[one, two]);
    eventually("both addresses", || upstreams.candidates().len() == 2).await;
    drop(first);
    eventually("the dead one is left out", || picks(&upstreams, 4) == [two; 4]).await;
    let _back = place.open();
    eventually("the revived one is back", || picks(&upstreams, 2).contains(&one)).await;

    stop.send(true).unwrap();
    tokio::time::timeout(Duration::from_secs(20), running).await.expect("it stops").unwrap();
}

#[tokio::test]
async fn a_name_that_fails_at_start_is_tried_again_although_refresh_is_off() {
    let zone = Arc::new(Zone::default());
    let settings = Upstream { dns_refresh: None, health_check_interval: None, ..settings(&[backend("a.test", 80)]) };
    let upstreams = Arc::new(Upstreams::with_resolver(&settings, Arc::clone(&zone) as Arc<dyn Resolve>).unwrap());
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(Arc::clone(&upstreams).run(stopped));
    eventually("the first failure", || lock(&upstreams.sets[0].findings.unresolved).is_some()).await;
    zone.set("a.test", &["192.0.2.1:80".parse().unwrap()]);
    eventually("an address", || upstreams.pick(&[]).is_some()).await;
    drop(stop);
    tokio::time::timeout(Duration::from_secs(20), running).await.expect("it stops").unwrap();
}

#[tokio::test]
async fn the_system_resolves_names_and_leaves_addresses_alone() {
    let upstreams = Upstreams::new(&settings(&[backend("localhost", 81), backend("::1", 82)])).unwrap();
    upstreams.refresh().await;
    let addresses: Vec<_> = upstreams.candidates().into_iter().map(|(target, _)| target.address).collect();
    assert!(addresses.iter().any(|address| address.ip().is_loopback() && address.port() == 81), "{addresses:?}");
    assert!(addresses.contains(&"[::1]:82".parse().unwrap()), "{addresses:?}");
}

#[test]
fn every_peer_has_every_timeout() {
    let limits = Upstream { read_timeout: Some(Duration::from_secs(600)), ..Upstream::default() };
    let address = "192.0.2.1:443".parse().unwrap();
    let tls = Backend { tls: true, host: "a.test".to_owned(), port: 443 };
    let secure = peer(&limits, &tls, address);
    let options = &secure.options;
    assert_eq!(options.connection_timeout, Some(limits.connect_timeout));
    assert_eq!(options.total_connection_timeout, Some(limits.connect_timeout));
    assert_eq!(options.read_timeout, limits.read_timeout);
    assert_eq!(options.idle_timeout, Some(limits.pool_idle_timeout));
    assert_eq!(options.write_timeout, Some(WRITE_TIMEOUT));
    assert!(options.tcp_keepalive.is_some() && options.h2_ping_interval.is_some());
    assert!(options.verify_cert && options.verify_hostname);
    assert_eq!((secure.sni(), secure.tls()), ("a.test", true));

    let short = Upstream { read_timeout: Some(Duration::from_secs(1)), verify: false, ..limits };
    let open = peer(&short, &Backend { host: "192.0.2.1".to_owned(), ..tls }, address);
    assert_eq!(open.options.read_timeout, Some(short.response_header_timeout));
    assert!(!open.options.verify_cert && !open.options.verify_hostname);
    assert_eq!(open.sni(), "192.0.2.1", "an empty name would switch verification off");
    assert_eq!(peer(&Upstream::default(), &backend("a.test", 80), address).options.read_timeout, None);
}

#[test]
fn http2_is_negotiated_with_tls_and_known_without() {
    let address = "192.0.2.1:443".parse().unwrap();
    let alpn = |http2, tls| {
        let backend = Backend { tls, ..backend("a.test", 443) };
        peer(&Upstream { http2, ..Upstream::default() }, &backend, address).options.alpn
    };
    assert!(matches!(alpn(false, false), ALPN::H1));
    assert!(matches!(alpn(false, true), ALPN::H1));
    assert!(matches!(alpn(true, true), ALPN::H2H1));
    assert!(matches!(alpn(true, false), ALPN::H2));
}

#[test]
fn authorities_that_do_not_load_are_told_at_start() {
    let folder = tempfile::tempdir().unwrap();
    let broken = folder.path().join("broken.pem");
    std::fs::write(&broken, "no certificate\n").unwrap();
    for path in [folder.path().join("missing.pem"), broken] {
        let urls = vec![Backend { tls: true, ..backend("a.test", 443) }];
        let error = Upstreams::new(&Upstream { urls, ca: Some(path.clone()), ..Upstream::default() }).err().unwrap();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        // Plain backends have no use for it.
        let plain = Upstream { urls: vec![backend("a.test", 80)], ca: Some(path), ..Upstream::default() };
        assert!(Upstreams::new(&plain).is_ok());
    }
}

/// What this thread logs, as text.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.0).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_name_that_stops_resolving_is_warned_of_once_per_change() {
    // Keeps other tests from caching the call site as of interest to nobody.
    static GLOBAL: OnceLock<()> = OnceLock::new();
    GLOBAL.get_or_init(|| drop(tracing_subscriber::fmt().with_writer(io::sink).try_init()));
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt().with_writer(move || writer.clone()).finish();
    let _logging = tracing::subscriber::set_default(subscriber);
    let warnings = || String::from_utf8_lossy(&lock(&lines.0)).matches("WARN").count();

    let zone = Arc::new(Zone::default());
    let upstreams = named(&zone, &["a.test"]);
    upstreams.refresh().await;
    upstreams.refresh().await;
    assert_eq!(warnings(), 1);
    zone.set("a.test", &["192.0.2.1:80".parse().unwrap()]);
    upstreams.refresh().await;
    zone.remove("a.test");
    upstreams.refresh().await;
    upstreams.refresh().await;
    assert_eq!(warnings(), 2);
}
