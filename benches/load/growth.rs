//! What Holdover costs as something grows: streams, followers of a turn, the length of a turn, retained turns.
//!
//! Everything else is held equal, so that a cost that is the same at all sizes is a flat line. `scripts/plots` draws them.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use serde::Serialize;
use tokio::task::JoinSet;

use super::{
    Circumstances,
    backend::Backend,
    client::Request,
    event::Order,
    measure::{self, Load},
    report::{cell, median, row, rule},
    system::{Kind, Place, System},
};

/// All figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Growth {
    circumstances: Circumstances,
    streams: Vec<Streams>,
    followers: Vec<Followers>,
    length: Vec<Length>,
    retained: Vec<Retained>,
}

/// So many streams share one load.
#[derive(Debug, Serialize)]
struct Streams {
    streams: usize,
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
    /// The same load through nginx.
    nginx_cpu_us: Option<f64>,
}

/// So many followers have each turn, and all together are the same number.
#[derive(Debug, Serialize)]
struct Followers {
    followers: usize,
    turns: usize,
    /// Per delivered event.
    cpu_us: f64,
    p50_us: f64,
    p99_us: f64,
}

/// A turn of so many events.
#[derive(Debug, Serialize)]
struct Length {
    events: u64,
    /// CPU per event, recorded and delivered to one client as fast as it goes.
    cpu_us: f64,
    /// Resident memory per event of the ended turn.
    bytes_per_event: f64,
    replay_mb_per_second: f64,
    reconnect_p50_us: f64,
}

/// So many turns that have ended are kept.
#[derive(Debug, Serialize)]
struct Retained {
    turns: usize,
    /// CPU of one more turn of [`SHORT`] events, from request to end.
    cpu_us_per_turn: f64,
    /// Resident memory per turn.
    bytes_per_turn: f64,
    reconnect_p50_us: f64,
}

const STREAMS: [usize; 5] = [100, 300, 1000, 3000, 9000];
/// Events per second of all streams together.
const TOGETHER: usize = 9000;
const FOLLOWERS: [usize; 7] = [1, 3, 10, 30, 100, 300, 1000];
/// Followers of all turns together, and events per second of each turn.
const READERS: usize = 1000;
const RATE: u32 = 10;
const LENGTHS: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
const RETAINED: [usize; 4] = [10, 100, 1_000, 10_000];
const SHORT: u64 = 20;
const WINDOW: Duration = Duration::from_secs(3);
const RECONNECTS: usize = 200;
/// Turns that run at a time while many are made.
const AT_A_TIME: usize = 20;

const ROOMY: &str = "[store]
memory_limit = \"8GiB\"
retain_after_end = \"1h\"
[limits]
max_turns = 20000
[[route]]
followers = 2000
max_turn_bytes = \"2GiB\"
";

/// Measures all four.
pub(crate) async fn run(place: &Place, backend: &Backend, circumstances: Circumstances) -> Result<Growth> {
    let place = Place { config: ROOMY.to_owned(), ..place.clone() };
    Ok(Growth {
        circumstances,
        streams: streams(&place, backend).await.context("streams")?,
        followers: followers(&place, backend).await.context("followers")?,
        length: length(&place, backend).await.context("length")?,
        retained: retained(&place).await.context("retained turns")?,
    })
}

async fn streams(place: &Place, backend: &Backend) -> Result<Vec<Streams>> {
    let nginx = System::start(Kind::Nginx, place).await.inspect_err(|error| eprintln!("load: {error:#}")).ok();
    let holdover = System::start(Kind::Holdover, place).await?;
    let mut found = Vec::new();
    for streams in STREAMS {
        eprintln!("load: {streams} streams");
        let load = Load { streams, rate: (TOGETHER / streams) as u32 };
        let run = measure::load(&holdover, backend, load, WINDOW).await?;
        let plain = match &nginx {
            Some(nginx) => Some(measure::load(nginx, backend, load, WINDOW).await?.cpu_us),
            None => None,
        };
        let (p50_us, p99_us) = (run.latency.p50_us, run.latency.p99_us);
        found.push(Streams { streams, cpu_us: run.cpu_us, p50_us, p99_us, nginx_cpu_us: plain });
    }
    Ok(found)
}

async fn followers(place: &Place, backend: &Backend) -> Result<Vec<Followers>> {
    let system = System::start(Kind::Holdover, place).await?;
    let mut found = Vec::new();
    for followers in FOLLOWERS {
        eprintln!("load: {followers} followers");
        let turns = READERS / followers;
        let run = measure::fan_out(&system, backend, (turns, followers, RATE), WINDOW).await?;
        let (p50_us, p99_us) = (run.latency.p50_us, run.latency.p99_us);
        found.push(Followers { followers, turns, cpu_us: run.cpu_us, p50_us, p99_us });
    }
    Ok(found)
}

async fn length(place: &Place, backend: &Backend) -> Result<Vec<Length>> {
    let mut found = Vec::new();
    for events in LENGTHS {
        eprintln!("load: a turn of {events} events");
        let system = System::start(Kind::Holdover, place).await?;
        // What a first turn makes the process take for good is not the turn's.
        one_turn(&system, SHORT).await?;
        let (memory, (cpu, _)) = (system.resident()?, system.cpu()?);
        let turn = one_turn(&system, events).await?;
        let (grown, cpu) = (system.resident()?.saturating_sub(memory), system.cpu()?.0 - cpu);
        let reconnects = middle(&system, &turn, events).await?;
        let rates = measure::replay(&system, backend, events, 5).await?;
        found.push(Length {
            events,
            cpu_us: cpu.as_secs_f64() * 1e6 / events as f64,
            bytes_per_event: grown as f64 / events as f64,
            replay_mb_per_second: median(rates),
            reconnect_p50_us: reconnects,
        });
    }
    Ok(found)
}

async fn retained(place: &Place) -> Result<Vec<Retained>> {
    /// Turns whose cost is measured, with the others there.
    const MORE: usize = 200;
    let mut found = Vec::new();
    for turns in RETAINED {
        eprintln!("load: {turns} retained turns");
        let system = System::start(Kind::Holdover, place).await?;
        // What the first turns make the process take for good is not theirs.
        many_turns(&system, AT_A_TIME).await?;
        let memory = system.resident()?;
        let ids = many_turns(&system, turns).await?;
        let bytes_per_turn = system.resident()?.saturating_sub(memory) as f64 / turns as f64;
        let mut took = Vec::new();
        for id in ids.iter().cycle().take(RECONNECTS) {
            took.push(resumed(&system, id, SHORT / 2, SHORT).await?);
        }
        let (cpu, _) = system.cpu()?;
        many_turns(&system, MORE).await?;
        let cpu_us_per_turn = (system.cpu()?.0 - cpu).as_secs_f64() * 1e6 / MORE as f64;
        found.push(Retained { turns, cpu_us_per_turn, bytes_per_turn, reconnect_p50_us: median(took) });
    }
    Ok(found)
}

/// A turn from its first event to its last, as fast as it goes; gives its name.
async fn one_turn(system: &System, events: u64) -> Result<String> {
    let order = Order { events, ..Order::default() };
    let mut stream = Request::new(order.path()).open(system.address).await?.in_bulk();
    while stream.read(|_| {}).await? {}
    stream.turn.context("the answer does not name its turn")
}

async fn many_turns(system: &System, turns: usize) -> Result<Vec<String>> {
    let (mut ids, mut running) = (Vec::with_capacity(turns), JoinSet::new());
    let order = Order { events: SHORT, ..Order::default() };
    for started in 0..turns {
        if started >= AT_A_TIME
            && let Some(ended) = running.join_next().await
        {
            ids.push(ended??);
        }
        let address = system.address;
        running.spawn_local(async move {
            let mut stream = Request::new(order.path()).open(address).await?;
            while stream.read(|_| {}).await? {}
            stream.turn.context("the answer does not name its turn")
        });
    }
    while let Some(ended) = running.join_next().await {
        ids.push(ended??);
    }
    Ok(ids)
}

/// Median microseconds from a reconnect to the first event after the middle of a turn, of which a little is read.
async fn middle(system: &System, turn: &str, events: u64) -> Result<f64> {
    let mut took = Vec::new();
    for _ in 0..RECONNECTS {
        took.push(resumed(system, turn, events / 2, events / 2 + 1).await?);
    }
    Ok(median(took))
}

/// Microseconds from a reconnect to the first event after `after`; reads on up to event `upto`.
async fn resumed(system: &System, turn: &str, after: u64, upto: u64) -> Result<f64> {
    let from = Instant::now();
    let mut stream = system.rest(turn, after).open(system.address).await?;
    let mut first = None;
    while stream.n() < upto && stream.read(|_| first = first.or(Some(from.elapsed()))).await? {}
    Ok(first.context("a resume without an event")?.as_secs_f64() * 1e6)
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.circumstances.fmt(f)?;
        let table = |f: &mut fmt::Formatter<'_>, what: &str, heads: &[&str], rows: Vec<(String, Vec<f64>)>| {
            writeln!(f)?;
            row(f, what, heads.iter().map(|head| (*head).to_owned()), "")?;
            rule(f, heads.len())?;
            for (size, figures) in rows {
                let digits = |value: f64| if value < 1000.0 { 1 } else { 0 };
                row(f, &size, figures.into_iter().map(|value| cell(Some(value), digits(value))), "")?;
            }
            Ok(())
        };
        let rows = self
            .streams
            .iter()
            .map(|s| (s.streams.to_string(), vec![s.cpu_us, s.nginx_cpu_us.unwrap_or(f64::NAN), s.p50_us, s.p99_us]));
        table(f, "streams, 9000 events/s", &["CPU us/event", "nginx", "p50 us", "p99 us"], rows.collect())?;
        let rows = self.followers.iter().map(|s| (s.followers.to_string(), vec![s.cpu_us, s.p50_us, s.p99_us]));
        table(f, "followers per turn", &["CPU us/event", "p50 us", "p99 us"], rows.collect())?;
        let rows = self.length.iter().map(|s| {
            let figures = vec![s.cpu_us, s.bytes_per_event, s.replay_mb_per_second, s.reconnect_p50_us];
            (s.events.to_string(), figures)
        });
        let heads = ["CPU us/event", "bytes/event", "replay MB/s", "reconnect us"];
        table(f, "events in a turn", &heads, rows.collect())?;
        let rows = self
            .retained
            .iter()
            .map(|s| (s.turns.to_string(), vec![s.cpu_us_per_turn, s.bytes_per_turn, s.reconnect_p50_us]));
        table(f, "retained turns", &["CPU us/turn", "bytes/turn", "reconnect us"], rows.collect())
    }
}
