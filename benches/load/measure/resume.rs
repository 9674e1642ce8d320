//! Clients that come back: time to the first byte, and long replays.

use std::{
    cell::Cell,
    io::{Read as _, Write as _},
    net::TcpStream,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use memchr::memmem;
use serde::Serialize;
use tokio::{task::JoinSet, time::timeout};

use super::{Quantiles, begin};
use crate::{
    backend::Backend,
    client::{Checker, Chunked, Stream, Wrong, header},
    clock,
    event::{BYTES, Order},
    process,
    system::{Place, System},
};

/// Events of a turn that is resumed, and after how many.
const RESUMED: (u64, u64) = (200, 100);
/// Events of a turn that is replayed: 25 MB.
pub(crate) const REPLAYED: u64 = 100_000;
/// How long a replay may take; what has come by then counts.
const LONGEST: Duration = Duration::from_secs(10);
const SILENT: Duration = Duration::from_secs(20);

/// A replay to many clients at once.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Replayed {
    pub(crate) clients: usize,
    /// To all together.
    pub(crate) mb_per_second: f64,
    /// Share of one CPU that the client took. Near 1, it was the limit.
    pub(crate) client_busy: f64,
    /// Why not all have got all, if so.
    pub(crate) incomplete: Option<String>,
}

/// Time from a reconnecting client's SYN to the first byte of an event, for the second half of a turn that has ended, or
/// lives on, on the node that runs it or another one.
pub(crate) async fn reconnect(
    system: &System,
    at: &System,
    backend: &Backend,
    live: bool,
    times: usize,
) -> Result<Quantiles> {
    let (events, after) = RESUMED;
    let (turn, mut starter) = begin(system, Order { events, hold: live, rate: 0 }).await?;
    if !live {
        while starter.read(|_| {}).await? {}
    }
    let rest = system.rest(&turn, after);
    let mut took = Vec::with_capacity(times);
    for _ in 0..times {
        let from = clock::now();
        let mut stream = rest.open(at.address).await?;
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

/// Megabytes of events per second at which one client gets a turn of so many events; of each time. The turn has ended, if
/// the system keeps it then.
pub(crate) async fn replay(system: &System, backend: &Backend, events: u64, times: usize) -> Result<Vec<f64>> {
    let (turn, mut starter) = long_turn(system, events).await?;
    let request = system.rest(&turn, 0).head(system.address, true);
    let last = (!system.kind.keeps_ended()).then(|| format!("\"n\":\"{events:010}\""));
    // Touched once before, so that no time goes into new pages; checked after, so that none goes into that.
    let mut answer = vec![1; (events as usize + 100) * (BYTES + 60)];
    let mut rates = Vec::with_capacity(times);
    let began = Instant::now();
    while rates.len() < times && (rates.is_empty() || began.elapsed() < LONGEST) {
        let from = Instant::now();
        let length = fetch(system, &request, &mut answer, last.as_deref())?;
        let elapsed = from.elapsed();
        check_whole(&answer[..length], events, last.is_none())?;
        rates.push(events as f64 * BYTES as f64 / 1e6 / elapsed.as_secs_f64());
    }
    backend.finish();
    while starter.read(|_| {}).await? {}
    Ok(rates)
}

/// The same from nodes that did not run the turn, each of which has it from Redis alone.
pub(crate) async fn replay_elsewhere(
    system: &System,
    place: &Place,
    backend: &Backend,
    times: usize,
) -> Result<Vec<f64>> {
    let (turn, _) = long_turn(system, REPLAYED).await?;
    let mut answer = vec![1; (REPLAYED as usize + 100) * (BYTES + 60)];
    let mut rates = Vec::with_capacity(times);
    for _ in 0..times {
        let other = system.another_node(place).await?;
        let request = system.rest(&turn, 0).head(other.address, true);
        let from = Instant::now();
        let length = fetch(&other, &request, &mut answer, None)?;
        let elapsed = from.elapsed();
        check_whole(&answer[..length], REPLAYED, true)?;
        rates.push(REPLAYED as f64 * BYTES as f64 / 1e6 / elapsed.as_secs_f64());
    }
    backend.finish();
    Ok(rates)
}

/// The same to many clients at once, which check while they read.
pub(crate) async fn replay_to_many(system: &System, backend: &Backend, clients: usize) -> Result<Replayed> {
    let (turn, mut starter) = long_turn(system, REPLAYED).await?;
    let request = system.rest(&turn, 0);
    let got = Rc::new(Cell::new(0));
    let (from, own) = (Instant::now(), process::own_cpu()?);
    let mut all = JoinSet::new();
    for _ in 0..clients {
        let (request, address, got) = (request.clone(), system.address, got.clone());
        all.spawn_local(async move {
            let mut stream = request.open(address).await?.in_bulk();
            while stream.n() < REPLAYED && stream.read(|_| got.set(got.get() + 1)).await? {}
            ensure!(stream.n() == REPLAYED, "a replay ended with event {}", stream.n());
            Ok(())
        });
    }
    let joined = timeout(LONGEST, async {
        while let Some(ended) = all.join_next().await {
            ended??;
        }
        anyhow::Ok(())
    });
    let ended = joined.await;
    let (elapsed, own) = (from.elapsed(), process::own_cpu()? - own);
    drop(all);
    let incomplete = match ended {
        Ok(Ok(())) => None,
        Err(_) => Some(format!("not over after {} s", LONGEST.as_secs())),
        // A gap or a double is an error of Holdover or of this harness, and fails the run.
        Ok(Err(error)) if system.kind.is_ours() || error.chain().any(|cause| cause.is::<Wrong>()) => return Err(error),
        Ok(Err(error)) => Some(format!("{error:#}")),
    };
    backend.finish();
    let ended = timeout(SILENT, async {
        while starter.read(|_| {}).await? {}
        anyhow::Ok(())
    })
    .await;
    match ended {
        Ok(Ok(())) => {}
        _ if incomplete.is_some() => {}
        Ok(failed) => failed?,
        Err(_) => bail!("the turn that was replayed does not end"),
    }
    Ok(Replayed {
        clients,
        mb_per_second: (got.get() * BYTES) as f64 / 1e6 / elapsed.as_secs_f64(),
        client_busy: own.div_duration_f64(elapsed),
        incomplete,
    })
}

/// A turn of many events, ended where that does not lose it.
async fn long_turn(system: &System, events: u64) -> Result<(String, Stream)> {
    let ended = system.kind.keeps_ended();
    let (turn, mut starter) = begin(system, Order { events, hold: !ended, rate: 0 }).await?;
    while starter.n() < events && starter.read(|_| {}).await? {}
    if ended {
        while starter.read(|_| {}).await? {}
    }
    Ok((turn, starter))
}

/// Reads an answer, and nothing else, to its end or to the event that contains `last`.
fn fetch(system: &System, request: &str, answer: &mut [u8], last: Option<&str>) -> Result<usize> {
    let mut socket = TcpStream::connect(system.address)?;
    socket.set_read_timeout(Some(SILENT))?;
    socket.write_all(request.as_bytes())?;
    let mut length = 0;
    loop {
        match socket.read(&mut answer[length..])? {
            0 => return Ok(length),
            more => length += more,
        }
        if let Some(last) = last {
            let tail = &answer[length.saturating_sub(2 * BYTES)..length];
            if let Some(at) = memmem::find(tail, last.as_bytes())
                && memmem::find(&tail[at..], b"\n\n").is_some()
            {
                return Ok(length);
            }
        }
    }
}

fn check_whole(answer: &[u8], events: u64, ended: bool) -> Result<()> {
    let body = memmem::find(answer, b"\r\n\r\n").context("an answer without a header")? + 4;
    header(&answer[..body])?;
    let (mut framing, mut checker, mut n) = (Chunked::default(), Checker::after(0), 0);
    framing.decode(&answer[body..], |text| checker.feed(text, &mut |event| n = event.n))?;
    ensure!(n == events, "a replay of {events} events ended with event {n}");
    ensure!(!ended || (framing.ended() && checker.last), "a replay ended early");
    Ok(())
}
