//! Streams that live: CPU, throughput, latency, memory.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures_util::future::try_join_all;
use serde::Serialize;
use tokio::{task::JoinSet, time::sleep};

use super::{CROWD, Quantiles, SETTLE, Tally, begin, follow_many, join};
use crate::{backend::Backend, client::Request, event::Order, process, system::System};

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
    /// Share of one CPU that the proxy took, and that backend and client and Redis took together.
    pub(crate) proxy_busy: f64,
    pub(crate) rest_busy: f64,
}

/// The most that a system delivers.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Ceiling {
    /// The largest load that was delivered.
    pub(crate) at: Option<Loaded>,
    /// What the next larger one did.
    pub(crate) over: Option<Loaded>,
}

/// Share of the load that must have been delivered. Who is behind finds many events at each wake-up, and looks cheap.
const KEEPS_UP: f64 = 0.98;
/// From one try at the ceiling to the next.
const STEP: f64 = 1.15;
const STEPS: usize = 7;

impl Load {
    pub(crate) fn events_per_second(self) -> f64 {
        self.streams as f64 * f64::from(self.rate)
    }

    fn requests(self) -> Vec<Request> {
        let order = Order { rate: self.rate, ..Order::default() };
        (0..self.streams).map(|_| Request::new(order.path())).collect()
    }
}

impl Loaded {
    pub(crate) fn keeps_up(&self, load: Load) -> bool {
        self.events_per_second >= KEEPS_UP * load.events_per_second()
    }
}

/// Puts `load` on the system and looks on for the length of `window`.
pub(crate) async fn load(system: &System, backend: &Backend, load: Load, window: Duration) -> Result<Loaded> {
    let (mut clients, tally) = follow_many(system, load.requests()).await?;
    look_on(system, backend, &mut clients, &tally, window).await
}

/// `turns` turns with `followers` each, every one with `rate` events per second.
pub(crate) async fn fan_out(
    system: &System,
    backend: &Backend,
    (turns, followers, rate): (usize, usize, u32),
    window: Duration,
) -> Result<Loaded> {
    let (mut starters, mut requests) = (Vec::new(), Vec::new());
    let mut left = turns;
    while left > 0 {
        let crowd = left.min(CROWD);
        left -= crowd;
        let begun = (0..crowd).map(|_| begin(system, Order { rate, ..Order::default() }));
        for (turn, starter) in try_join_all(begun).await? {
            requests.extend((1..followers).map(|_| system.rest(&turn, 0)));
            starters.push(starter);
        }
    }
    let (mut clients, tally) = follow_many(system, requests).await?;
    for mut starter in starters {
        let tally = tally.clone();
        clients.spawn_local(async move {
            while starter.read(|event| tally.take(event)).await? {}
            Ok(())
        });
    }
    look_on(system, backend, &mut clients, &tally, window).await
}

async fn look_on(
    system: &System,
    backend: &Backend,
    clients: &mut JoinSet<Result<()>>,
    tally: &Tally,
    window: Duration,
) -> Result<Loaded> {
    sleep(SETTLE).await;
    let ((proxy_before, all_before), own_before) = (system.cpu()?, process::own_cpu()?);
    let (from, delivered) = (Instant::now(), tally.delivered.get());
    tally.recording.set(true);
    sleep(window).await;
    tally.recording.set(false);
    let ((proxy, all), own) = (system.cpu()?, process::own_cpu()?);
    let (elapsed, delivered) = (from.elapsed(), tally.delivered.get() - delivered);
    backend.finish();
    join(clients).await?;
    ensure!(delivered > 0, "{} delivered nothing in {window:?}", system.kind.name());
    let (proxy, all, own) = (proxy - proxy_before, all - all_before, own - own_before);
    Ok(Loaded {
        cpu_us: all.as_secs_f64() * 1e6 / delivered as f64,
        proxy_cpu_us: proxy.as_secs_f64() * 1e6 / delivered as f64,
        events_per_second: delivered as f64 / elapsed.as_secs_f64(),
        latency: Quantiles::of(tally.latencies.take()),
        proxy_busy: proxy.div_duration_f64(elapsed),
        rest_busy: (own + all - proxy).div_duration_f64(elapsed),
    })
}

/// Looks for the largest load that is delivered, from a first guess in events per second.
pub(crate) async fn ceiling(
    system: &System,
    backend: &Backend,
    streams: usize,
    guess: f64,
    window: Duration,
) -> Result<Ceiling> {
    let rate = |total: f64| Load { streams, rate: (total / streams as f64).round().max(1.0) as u32 };
    let mut found = Ceiling { at: None, over: None };
    let mut total = guess;
    for _ in 0..STEPS {
        let next = rate(total);
        let run = load(system, backend, next, window).await?;
        if run.keeps_up(next) {
            found.at = Some(run);
            if found.over.is_some() {
                break;
            }
            total = next.events_per_second() * STEP;
        } else {
            found.over = Some(run);
            if found.at.is_some() || next.rate == 1 {
                break;
            }
            total = next.events_per_second() / STEP;
        }
    }
    Ok(found)
}

/// Resident bytes per stream that lives and is silent, with so many and then more of them. The system must be fresh: memory
/// that it got back from earlier streams would hide what these need.
pub(crate) async fn idle(system: &System, backend: &Backend, steps: &[usize]) -> Result<Vec<(usize, f64)>> {
    let before = system.resident()?;
    let order = Order { events: 3, hold: true, ..Order::default() };
    let (mut all, mut found, mut there) = (JoinSet::new(), Vec::new(), 0);
    for &streams in steps.iter().filter(|streams| **streams <= system.kind.most_streams()) {
        let requests = (there..streams).map(|_| Request::new(order.path())).collect();
        let (mut clients, _) = follow_many(system, requests).await?;
        all.spawn_local(async move { join(&mut clients).await });
        there = streams;
        sleep(SETTLE).await;
        found.push((streams, system.resident()?.saturating_sub(before) as f64 / streams as f64));
    }
    backend.finish();
    while let Some(ended) = all.join_next().await {
        ended??;
    }
    Ok(found)
}
