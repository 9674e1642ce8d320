//! All systems side by side.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use super::{
    Circumstances, Measure, Options,
    backend::Backend,
    measure::{self, REPLAYED},
    report::{AtRest, AtTop, Report, Runs, UnderLoad},
    setup,
    system::{Kind, Place, System},
};

/// Reconnects of each kind.
const RECONNECTS: usize = 400;
const REPLAYS: usize = 5;
/// Clients that replay one turn at once.
const MANY: usize = 100;
/// Streams that share the largest load a system can take.
const CEILING_STREAMS: usize = 1000;
const CEILING_WINDOW: Duration = Duration::from_millis(1500);

impl Options {
    pub(crate) async fn compare(
        &self,
        place: &Place,
        backend: &Backend,
        circumstances: Circumstances,
    ) -> Result<Report> {
        let kinds = self.kinds();
        let mut report = Report { circumstances, loads: Vec::new(), ceilings: Vec::new(), systems: Vec::new() };
        if self.wants(Measure::Load) || self.wants(Measure::Ceiling) {
            let mut systems = Vec::new();
            for &kind in &kinds {
                systems.push(System::start(kind, place).await?);
            }
            if self.wants(Measure::Load) {
                report.loads = self.loads(&systems, backend).await?;
            }
            if self.wants(Measure::Ceiling) {
                report.ceilings = ceilings(&systems, backend, &report.loads).await?;
            }
        }
        if [Measure::Idle, Measure::Reconnect, Measure::Replay].into_iter().any(|measure| self.wants(measure)) {
            for &kind in kinds.iter().filter(|kind| **kind != Kind::Direct) {
                report.systems.push(self.at_rest(kind, place, backend).await.with_context(|| kind.name())?);
            }
        }
        Ok(report)
    }

    fn kinds(&self) -> Vec<Kind> {
        if !self.systems.is_empty() {
            return self.systems.clone();
        }
        let here = |kind: &Kind| setup::installed(*kind, self.redis.is_some());
        let (kinds, missing): (Vec<Kind>, Vec<Kind>) = Kind::value_variants().iter().partition(|kind| here(kind));
        for kind in missing {
            eprintln!("load: no {}: its program is not installed", kind.name());
        }
        kinds
    }

    /// Puts each load on each system in turn, so that what disturbs the machine for a while disturbs all. Who is behind at
    /// one load is spared the larger ones: they would tell nothing new, and take long.
    async fn loads(&self, systems: &[System], backend: &Backend) -> Result<Vec<UnderLoad>> {
        let mut found: Vec<UnderLoad> = Vec::new();
        for &load in &self.loads {
            let fit = |kind| found.iter().all(|under| under.kept_up(kind) || under.is_above(load));
            let systems: Vec<_> = systems.iter().filter(|system| fit(system.kind)).collect();
            let mut all: Vec<_> = systems.iter().map(|system| Runs { system: system.kind, runs: Vec::new() }).collect();
            for repetition in 1..=self.repetitions {
                eprintln!("load: {} x {}/s, {repetition} of {}", load.streams, load.rate, self.repetitions);
                for (system, runs) in systems.iter().zip(&mut all) {
                    let window = Duration::from_secs_f64(self.window);
                    let run = measure::load(system, backend, load, window).await;
                    runs.runs.push(run.with_context(|| system.kind.name())?);
                }
            }
            found.push(UnderLoad { load, systems: all });
        }
        Ok(found)
    }

    /// What is measured one system after the other, each started anew.
    async fn at_rest(&self, kind: Kind, place: &Place, backend: &Backend) -> Result<AtRest> {
        eprintln!("load: {} at rest", kind.name());
        let mut found = AtRest::of(kind);
        if self.wants(Measure::Idle) {
            let system = System::start(kind, place).await?;
            found.bytes_per_stream = measure::idle(&system, backend, &self.idle_streams).await.context("idle")?;
        }
        if !kind.records() {
            return Ok(found);
        }
        let system = System::start(kind, place).await?;
        if self.wants(Measure::Reconnect) {
            let times = RECONNECTS;
            found.reconnect_live = Some(measure::reconnect(&system, &system, backend, true, times).await?);
            if kind.keeps_ended() {
                found.reconnect_ended = Some(measure::reconnect(&system, &system, backend, false, times).await?);
            }
            if kind.needs_redis() {
                let other = system.another_node(place).await?;
                let live = measure::reconnect(&system, &other, backend, true, times).await;
                found.reconnect_elsewhere = Some(live.context("another node")?);
            }
        }
        if self.wants(Measure::Replay) {
            found.replay_mb_per_second =
                measure::replay(&system, backend, REPLAYED, REPLAYS).await.context("replay")?;
            found.replay_to_many = Some(measure::replay_to_many(&system, backend, MANY).await.context("replays")?);
            if kind.is_ours() && kind.needs_redis() {
                found.replay_elsewhere = measure::replay_elsewhere(&system, place, backend, REPLAYS).await?;
            }
        }
        Ok(found)
    }
}

/// The first guess is what the CPU per event of the last load comes to.
async fn ceilings(systems: &[System], backend: &Backend, loads: &[UnderLoad]) -> Result<Vec<AtTop>> {
    const GUESS: f64 = 10_000.0;
    let mut found = Vec::new();
    for system in systems {
        eprintln!("load: ceiling of {}", system.kind.name());
        let cpu = loads.iter().rev().find_map(|under| under.proxy_cpu(system.kind)).filter(|cpu| *cpu > 0.0);
        let guess = match system.kind {
            Kind::Direct => 60_000.0,
            _ => cpu.map_or(GUESS, |cpu| 0.9e6 / cpu),
        };
        let ceiling = measure::ceiling(system, backend, CEILING_STREAMS, guess, CEILING_WINDOW).await;
        found.push(AtTop { system: system.kind, ceiling: ceiling.with_context(|| system.kind.name())? });
    }
    Ok(found)
}
