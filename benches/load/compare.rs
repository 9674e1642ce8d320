//! All systems side by side.

use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::ValueEnum as _;

use super::{
    Measure, Options,
    backend::Backend,
    clock,
    measure::{self, Ceiling, REPLAYED},
    report::{AtRest, AtTop, Report, UnderLoad},
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
    /// Fills the report, so that an end before the end leaves what was found.
    pub(crate) async fn compare(&self, place: &Place, backend: &Backend, report: &mut Report) -> Result<()> {
        let kinds = self.kinds();
        if self.wants(Measure::Load) || self.wants(Measure::Ceiling) {
            let mut systems = Vec::new();
            for &kind in &kinds {
                match System::start(kind, place).await {
                    Ok(system) => systems.push(system),
                    failed => report.note(kind, failed.map(drop)),
                }
            }
            if self.wants(Measure::Load) {
                self.loads(&systems, backend, report).await;
            }
            if self.wants(Measure::Ceiling) {
                ceilings(&systems, backend, report).await;
            }
        }
        if [Measure::Idle, Measure::Reconnect, Measure::Replay].into_iter().any(|measure| self.wants(measure)) {
            for &kind in kinds.iter().filter(|kind| **kind != Kind::Direct) {
                say(format_args!("{} at rest", kind.name()));
                let mut found = AtRest::of(kind);
                let done = self.at_rest(&mut found, place, backend).await;
                report.systems.push(found);
                report.note(kind, done);
            }
        }
        Ok(())
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
    async fn loads(&self, systems: &[System], backend: &Backend, report: &mut Report) {
        for &load in &self.loads {
            let mut under = UnderLoad { load, systems: Vec::new() };
            let fit = |kind| report.loads.iter().all(|under| under.kept_up(kind) || under.is_above(load));
            let mut systems: Vec<_> = systems.iter().filter(|system| fit(system.kind)).collect();
            for repetition in 1..=self.repetitions {
                say(format_args!("{} x {}/s, {repetition} of {}", load.streams, load.rate, self.repetitions));
                let mut still_there = Vec::new();
                for system in systems {
                    match measure::load(system, backend, load, Duration::from_secs_f64(self.window)).await {
                        Ok(run) => {
                            under.add(system.kind, run);
                            still_there.push(system);
                        }
                        failed => report.note(system.kind, failed.map(drop)),
                    }
                }
                systems = still_there;
            }
            report.loads.push(under);
        }
    }

    /// What is measured one system after the other, each started anew.
    async fn at_rest(&self, found: &mut AtRest, place: &Place, backend: &Backend) -> Result<()> {
        let kind = found.system;
        if self.wants(Measure::Idle) {
            let system = System::start(kind, place).await?;
            found.bytes_per_stream = measure::idle(&system, backend, &self.idle_streams).await.context("idle")?;
        }
        if !kind.records() {
            return Ok(());
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
        Ok(())
    }
}

/// The first guess is what the CPU per event of the last load comes to. Who was behind at a load has shown the most it
/// delivers.
async fn ceilings(systems: &[System], backend: &Backend, report: &mut Report) {
    const GUESS: f64 = 10_000.0;
    for system in systems {
        let kind = system.kind;
        say(format_args!("ceiling of {}", kind.name()));
        if let Some(behind) = report.behind(kind) {
            report.ceilings.push(AtTop { system: kind, ceiling: Ceiling { at: None, over: Some(behind) } });
            continue;
        }
        let cpu = report.loads.iter().rev().find_map(|under| under.proxy_cpu(kind)).filter(|cpu| *cpu > 0.0);
        let guess = match kind {
            Kind::Direct => 60_000.0,
            _ => cpu.map_or(GUESS, |cpu| 0.9e6 / cpu),
        };
        match measure::ceiling(system, backend, CEILING_STREAMS, guess, CEILING_WINDOW).await {
            Ok(ceiling) => report.ceilings.push(AtTop { system: kind, ceiling }),
            failed => report.note(kind, failed.map(drop)),
        }
    }
}

/// Tells whoever waits how far it is.
fn say(what: std::fmt::Arguments<'_>) {
    eprintln!("load: {:4.0} s: {what}", clock::now() as f64 / 1e9);
}
