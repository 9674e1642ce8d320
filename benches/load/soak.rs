//! A steady load for hours: clients whose connections are cut, at any place, and who come back for the rest. Nothing of
//! the process may grow.

use std::{
    cell::Cell,
    fmt,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{interval, sleep},
};

use super::{
    Circumstances,
    client::Request,
    event::Order,
    measure::Load,
    system::{Kind, Place, System},
};

/// What a soak found.
#[derive(Debug, Serialize)]
pub(crate) struct Soak {
    circumstances: Circumstances,
    load: Load,
    seconds: f64,
    turns: u64,
    cuts: u64,
    events: u64,
    samples: Vec<Sample>,
    /// Mean of the resident bytes that are judged, and what they grow by in an hour.
    resident: f64,
    bytes_per_hour: f64,
}

#[derive(Clone, Copy, Debug, Serialize)]
struct Sample {
    second: f64,
    resident: u64,
    open_files: usize,
}

#[derive(Default)]
struct Count {
    turns: Cell<u64>,
    cuts: Cell<u64>,
    events: Cell<u64>,
}

/// So that what is retained is as much at the end of the first third as at the end.
const CONFIG: &str = "[store]\nretain_after_end = \"60s\"\n";
/// A turn lasts so many seconds, from the first to the second.
const LASTS: (u64, u64) = (10, 60);
/// A client stays away for at most so long.
const AWAY: u64 = 3_000;
/// Memory that grows by less than this share of itself in an hour is flat.
const FLAT: f64 = 0.05;
/// What an allocator may grow by between two looks at it: a short soak cannot tell it from a slope.
const BREATH: f64 = (4 << 20) as f64;

/// Puts `load` on a Holdover for so long.
pub(crate) async fn run(place: &Place, load: Load, time: Duration, circumstances: Circumstances) -> Result<Soak> {
    let place = Place { config: CONFIG.to_owned(), ..place.clone() };
    let mut system = System::start(Kind::Holdover, &place).await?;
    let (count, until) = (Rc::new(Count::default()), Instant::now() + time);
    let mut clients = JoinSet::new();
    for seed in 0..load.streams as u64 {
        let (address, count) = (system.address, count.clone());
        clients.spawn_local(async move {
            let mut random = Random(seed);
            // Not all at once, then or later.
            sleep(Duration::from_millis(random.below(LASTS.0 * 1000))).await;
            while Instant::now() < until {
                turn(address, load.rate, &mut random, &count).await.with_context(|| format!("client {seed}"))?;
            }
            anyhow::Ok(())
        });
    }
    let (from, mut samples) = (Instant::now(), Vec::new());
    let mut every = interval((time / 200).clamp(Duration::from_millis(200), Duration::from_secs(10)));
    while Instant::now() < until {
        every.tick().await;
        system.check()?;
        while let Some(ended) = clients.try_join_next() {
            ended??;
        }
        let second = from.elapsed().as_secs_f64();
        samples.push(Sample { second, resident: system.resident()?, open_files: system.open_files()? });
        if samples.len() % 60 == 0 {
            eprintln!("load: {second:.0} s, {} KiB, {} turns", system.resident()? >> 10, count.turns.get());
        }
    }
    let seconds = from.elapsed().as_secs_f64();
    // Turns that run are followed to their ends: each is checked whole.
    while let Some(ended) = clients.join_next().await {
        ended??;
    }
    let (resident, bytes_per_hour) = slope(&samples[samples.len() / 3..]);
    let (turns, cuts, events) = (count.turns.get(), count.cuts.get(), count.events.get());
    Ok(Soak { circumstances, load, seconds, turns, cuts, events, samples, resident, bytes_per_hour })
}

/// One turn, over as many connections as it takes.
async fn turn(address: std::net::SocketAddr, rate: u32, random: &mut Random, count: &Count) -> Result<()> {
    let seconds = LASTS.0 + random.below(LASTS.1 - LASTS.0);
    let events = u64::from(rate) * seconds;
    let order = Order { events, rate, hold: false };
    let mut stream = Request::new(order.path()).open(address).await?;
    let turn = stream.turn.clone().context("the answer does not name its turn")?;
    loop {
        let cut = stream.n() + 1 + random.below(events);
        let mut more = true;
        while more && stream.n() < cut {
            more = stream.read(|_| count.events.set(count.events.get() + 1)).await?;
        }
        let after = stream.n();
        if !more {
            ensure!(after == events, "a turn of {events} events ended with {after}");
            count.turns.set(count.turns.get() + 1);
            return Ok(());
        }
        drop(stream);
        count.cuts.set(count.cuts.get() + 1);
        sleep(Duration::from_millis(random.below(AWAY))).await;
        if after == events {
            // Its last event is there; that the end follows is checked on the other turns.
            count.turns.set(count.turns.get() + 1);
            return Ok(());
        }
        let rest = Request { path: "/turn".into(), after, last_event_id: Some(format!("{turn}-{after}")) };
        stream = rest.open(address).await?;
    }
}

/// Mean, and least-squares growth per hour.
fn slope(samples: &[Sample]) -> (f64, f64) {
    let n = samples.len() as f64;
    let mean = |of: &dyn Fn(&Sample) -> f64| samples.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(&|s| s.second), mean(&|s| s.resident as f64));
    let above: f64 = samples.iter().map(|s| (s.second - x) * (s.resident as f64 - y)).sum();
    let below: f64 = samples.iter().map(|s| (s.second - x).powi(2)).sum();
    (y, above / below * 3600.0)
}

impl Soak {
    /// Fails if memory grows.
    pub(crate) fn verdict(&self) -> Result<()> {
        let grown = self.bytes_per_hour * self.seconds / 3600.0 * 2.0 / 3.0;
        ensure!(
            self.bytes_per_hour <= FLAT * self.resident || grown <= BREATH,
            "memory grows by {:.1} MiB an hour",
            self.bytes_per_hour / f64::from(1 << 20)
        );
        Ok(())
    }
}

impl fmt::Display for Soak {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const MIB: f64 = (1 << 20) as f64;
        self.circumstances.fmt(f)?;
        let Self { load, seconds, turns, cuts, events, .. } = self;
        writeln!(f, "\n{} clients x {} events/s for {:.0} minutes", load.streams, load.rate, seconds / 60.0)?;
        writeln!(f, "{turns} turns, {cuts} cuts and resumes, {events} events: no gap, no double")?;
        let third = &self.samples[self.samples.len() / 3..];
        let (least, most) = third.iter().fold((u64::MAX, 0), |(a, b), s| (a.min(s.resident), b.max(s.resident)));
        write!(f, "resident after the first third: {:.1} MiB on average, ", self.resident / MIB)?;
        writeln!(f, "{:.1} to {:.1} MiB", least as f64 / MIB, most as f64 / MIB)?;
        let files = third.iter().map(|s| s.open_files).max().unwrap_or_default();
        writeln!(f, "slope: {:+.2} MiB per hour; at most {files} open files", self.bytes_per_hour / MIB)
    }
}

/// SplitMix64: every client has its own sequence, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % limit
    }
}
