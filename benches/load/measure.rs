//! The measures. Each one checks every event it meets.

use std::{
    cell::{Cell, RefCell},
    io::{Read as _, Write as _},
    net::TcpStream,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use memchr::memmem;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{
    backend::Backend,
    client::{Checker, Chunked, Request, Stream, header},
    clock,
    event::{BYTES, Order},
    system::System,
};

/// So many streams, each with so many events per second.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Load {
    pub(crate) streams: usize,
    pub(crate) rate: u32,
}

/// What one load did to one system.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Loaded {
    /// CPU time of all processes per delivered event, in microseconds.
    pub(crate) cpu_us: f64,
    /// The same of the proxy alone.
    pub(crate) proxy_cpu_us: f64,
    pub(crate) events_per_second: f64,
    /// From the backend's stamp to the client's read.
    pub(crate) latency: Quantiles,
}

/// Times in microseconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Quantiles {
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// What the clients of one load have got.
#[derive(Default)]
struct Tally {
    /// Streams whose first event is there.
    begun: Cell<usize>,
    delivered: Cell<u64>,
    recording: Cell<bool>,
    /// Nanoseconds, while recording.
    latencies: RefCell<Vec<u64>>,
}

/// How long all streams together may take to begin, or to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// Between the begin of the last stream and the measurement.
const SETTLE: Duration = Duration::from_millis(500);
/// Events of a turn that is resumed, and after how many.
const RESUMED: (u64, u64) = (200, 100);
/// Events of a turn that is replayed: 25 MB.
const REPLAYED: u64 = 100_000;

impl Quantiles {
    /// Of times in nanoseconds; at least one.
    fn of(mut nanos: Vec<u64>) -> Self {
        nanos.sort_unstable();
        let at = |share: f64| nanos[((nanos.len() - 1) as f64 * share).round() as usize] as f64 / 1e3;
        Self { p50_us: at(0.5), p99_us: at(0.99) }
    }
}

/// Puts `load` on the system and looks on for the length of `window`.
pub(crate) async fn load(system: &System, backend: &Backend, load: Load, window: Duration) -> Result<Loaded> {
    let order = Order { rate: load.rate, ..Order::default() };
    let (mut clients, tally) = follow_many(system, order, load.streams).await?;
    sleep(SETTLE).await;
    let (proxy_before, all_before) = system.cpu()?;
    let (from, delivered) = (Instant::now(), tally.delivered.get());
    tally.recording.set(true);
    sleep(window).await;
    tally.recording.set(false);
    let (proxy, all) = system.cpu()?;
    let (elapsed, delivered) = (from.elapsed(), tally.delivered.get() - delivered);
    backend.finish();
    join(&mut clients).await?;
    ensure!(delivered > 0, "{} delivered nothing in {window:?}", system.kind.name());
    Ok(Loaded {
        cpu_us: (all - all_before).as_secs_f64() * 1e6 / delivered as f64,
        proxy_cpu_us: (proxy - proxy_before).as_secs_f64() * 1e6 / delivered as f64,
        events_per_second: delivered as f64 / elapsed.as_secs_f64(),
        latency: Quantiles::of(tally.latencies.take()),
    })
}

/// Resident bytes per stream that lives and is silent. The system must be fresh: memory that it got back from earlier
/// streams would hide what these need.
pub(crate) async fn idle(system: &System, backend: &Backend, streams: usize) -> Result<f64> {
    let before = system.resident()?;
    let order = Order { events: 3, hold: true, ..Order::default() };
    let (mut clients, _) = follow_many(system, order, streams).await?;
    sleep(SETTLE).await;
    let grown = system.resident()?.saturating_sub(before);
    backend.finish();
    join(&mut clients).await?;
    Ok(grown as f64 / streams as f64)
}

/// Time from a reconnecting client's SYN to the first byte of an event, for the second half of a turn that has ended, or
/// lives on.
pub(crate) async fn reconnect(system: &System, backend: &Backend, live: bool, times: usize) -> Result<Quantiles> {
    let (events, after) = RESUMED;
    let (turn, mut starter) = begin(system, Order { events, hold: live, rate: 0 }).await?;
    if !live {
        while starter.read(|_| {}).await? {}
    }
    let rest = Request { path: "/turn".into(), after: Some((turn, after)) };
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let from = clock::now();
        let mut stream = rest.open(system.address).await?;
        let mut first = None;
        while stream.n() < events && stream.read(|_| first = first.or(Some(clock::now()))).await? {}
        ensure!(stream.n() == events, "a resume of event {} on ended with event {}", after + 1, stream.n());
        took.push(first.context("a resume without an event")? - from);
    }
    if live {
        backend.finish();
        while starter.read(|_| {}).await? {}
    }
    Ok(Quantiles::of(took))
}

/// Megabytes of events per second at which one client gets a turn of 25 MB that has ended; of each time.
pub(crate) async fn replay(system: &System, times: usize) -> Result<Vec<f64>> {
    let (turn, mut starter) = begin(system, Order { events: REPLAYED, ..Order::default() }).await?;
    while starter.read(|_| {}).await? {}
    let request = Request::new(format!("/.holdover/turns/{turn}/stream")).head(system.address, true);
    // Touched once before, so that no time goes into new pages; checked after, so that none goes into that.
    let mut answer = vec![1; 2 * REPLAYED as usize * BYTES];
    let mut rates = Vec::with_capacity(times);
    for _ in 0..times {
        let from = Instant::now();
        let length = fetch(system, &request, &mut answer)?;
        let elapsed = from.elapsed();
        check_whole(&answer[..length])?;
        rates.push(REPLAYED as f64 * BYTES as f64 / 1e6 / elapsed.as_secs_f64());
    }
    Ok(rates)
}

/// Reads an answer to its end, and nothing else.
fn fetch(system: &System, request: &str, answer: &mut [u8]) -> Result<usize> {
    let mut socket = TcpStream::connect(system.address)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.write_all(request.as_bytes())?;
    let mut length = 0;
    loop {
        match socket.read(&mut answer[length..])? {
            0 => return Ok(length),
            more => length += more,
        }
    }
}

fn check_whole(answer: &[u8]) -> Result<()> {
    let body = memmem::find(answer, b"\r\n\r\n").context("an answer without a header")? + 4;
    header(&answer[..body])?;
    let (mut framing, mut checker) = (Chunked::default(), Checker::after(0));
    framing.decode(&answer[body..], |text| checker.feed(text, &mut |_| {}))?;
    ensure!(framing.ended() && checker.last, "a replay ended early");
    Ok(())
}

/// Starts a turn and waits for its first event.
async fn begin(system: &System, order: Order) -> Result<(String, Stream)> {
    let mut stream = Request::new(order.path()).open(system.address).await?;
    let turn = stream.turn.clone().context("the answer does not name its turn")?;
    let wanted = if order.hold { order.events } else { 1 };
    while stream.n() < wanted && stream.read(|_| {}).await? {}
    Ok((turn, stream))
}

/// Starts many clients and waits until each has an event.
async fn follow_many(system: &System, order: Order, streams: usize) -> Result<(JoinSet<Result<()>>, Rc<Tally>)> {
    let tally = Rc::new(Tally::default());
    let mut clients = JoinSet::new();
    for n in 0..streams {
        clients.spawn_local(follow(system.address, order, tally.clone()));
        if n % 50 == 49 {
            // A crowd, not a flood: no accept queue overflows.
            sleep(Duration::from_millis(5)).await;
        }
    }
    let begun = async {
        while tally.begun.get() < streams {
            if let Some(ended) = clients.try_join_next() {
                ended??;
                bail!("a stream ended while the others began");
            }
            sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    };
    timeout(PATIENCE, begun).await.with_context(|| {
        format!("{}: only {} of {streams} streams have begun", system.kind.name(), tally.begun.get())
    })??;
    Ok((clients, tally))
}

async fn follow(address: std::net::SocketAddr, order: Order, tally: Rc<Tally>) -> Result<()> {
    let mut stream = Request::new(order.path()).open(address).await?;
    let mut more = true;
    while more {
        more = stream
            .read(|event| {
                if event.n == 1 {
                    tally.begun.set(tally.begun.get() + 1);
                }
                tally.delivered.set(tally.delivered.get() + 1);
                if tally.recording.get() {
                    tally.latencies.borrow_mut().push(clock::now() - event.sent);
                }
            })
            .await?;
    }
    Ok(())
}

async fn join(clients: &mut JoinSet<Result<()>>) -> Result<()> {
    let all = async {
        while let Some(ended) = clients.join_next().await {
            ended??;
        }
        Ok(())
    };
    timeout(PATIENCE, all).await.context("streams do not end")?
}
