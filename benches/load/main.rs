//! The load harness: Holdover beside its peers, in one interleaved run on one machine.
//!
//! A plain backend sends numbered, time-stamped events; a client checks every one (a single gap or double fails the run)
//! and measures. Between them stands, in turn, each system under test. Backend and client are threads of this process;
//! the systems are processes of their own, on a CPU of their own where there are two.
//!
//! `scripts/bench` runs it; `docs/performance.md` says what the figures mean.

mod backend;
mod client;
mod clock;
mod event;
mod measure;
mod micro;
mod plain;
mod process;
mod report;
mod system;

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Command, ExitCode},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};

use self::{
    backend::Backend,
    measure::Load,
    process::Cores,
    report::{AtRest, Report, Runs, UnderLoad},
    system::{Kind, Place, System},
};

/// Measure Holdover beside its peers.
#[derive(Debug, Parser)]
#[command(name = "load", max_term_width = 100, args_conflicts_with_subcommands = true)]
struct Options {
    #[command(subcommand)]
    serve: Option<Serve>,
    /// Systems to measure [default: all whose programs are there]
    #[arg(long, value_delimiter = ',')]
    systems: Vec<Kind>,
    /// What to measure [default: all]
    #[arg(long, value_delimiter = ',')]
    only: Vec<Measure>,
    /// Loads, as STREAMSxRATE
    #[arg(long, value_delimiter = ',', default_value = "200x30,1000x30", value_parser = parse_load)]
    loads: Vec<Load>,
    /// How often each load is put on each system
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    repetitions: u32,
    /// How long each of them is looked at, in seconds
    #[arg(long, default_value_t = 3.0)]
    window: f64,
    /// Streams that live and are silent
    #[arg(long, default_value_t = 1000)]
    idle_streams: usize,
    /// A Redis that is there; its CPU is not counted [default: start one]
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Given by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// Parts that the harness starts in processes of their own, or that are started by hand under a profiler.
#[derive(Debug, Subcommand)]
enum Serve {
    /// Pass on requests with nothing but Pingora
    Pingora { listen: SocketAddr, upstream: SocketAddr },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// CPU, throughput and latency of live streams
    Load,
    /// Memory of silent streams
    Idle,
    /// Time to the first byte of a resume
    Reconnect,
    /// Speed of a long replay
    Replay,
    /// Single operations in memory
    Micro,
}

/// Reconnects of each kind.
const RECONNECTS: usize = 400;
const REPLAYS: usize = 5;

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(Serve::Pingora { listen, upstream }) = options.serve {
        plain::run(listen, upstream);
    }
    match measure_and_report(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure_and_report(options: &Options) -> Result<()> {
    client::prove()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = tokio::task::LocalSet::new().block_on(&runtime, async {
        tokio::select! {
            report = options.run() => report,
            // What was started ends with the run that started it.
            () = told_to_end() => bail!("told to end"),
        }
    })?;
    print!("{report}");
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    fs::create_dir_all(&directory)?;
    let file = directory.join("load.json");
    fs::write(&file, serde_json::to_string_pretty(&report)? + "\n")?;
    println!("\nall figures: {}", file.display());
    Ok(())
}

impl Options {
    async fn run(&self) -> Result<Report> {
        let load_before = fs::read_to_string("/proc/loadavg")?.split(' ').take(1).collect();
        // Before any thread is made, so that all of them stay off the CPU of the system under test.
        let cores = Cores::split()?;
        let backend = Backend::start()?;
        let scratch = tempfile::tempdir()?;
        let place = Place {
            backend: backend.address,
            cores: cores.clone(),
            directory: scratch.path().to_owned(),
            redis: self.redis.clone(),
        };
        let kinds = self.kinds();
        let mut report = Report {
            event_bytes: event::BYTES,
            system_cpus: cores.system,
            other_cpus: cores.rest,
            load_before,
            optimised: !cfg!(debug_assertions),
            loads: Vec::new(),
            systems: Vec::new(),
            micro: None,
        };
        if self.wants(Measure::Load) {
            report.loads = self.loads(&kinds, &place, &backend).await?;
        }
        if [Measure::Idle, Measure::Reconnect, Measure::Replay].into_iter().any(|measure| self.wants(measure)) {
            for &kind in kinds.iter().filter(|kind| **kind != Kind::Direct) {
                report.systems.push(self.at_rest(kind, &place, &backend).await.with_context(|| kind.name())?);
            }
        }
        if self.wants(Measure::Micro) {
            report.micro = Some(micro::run()?);
        }
        Ok(report)
    }

    fn wants(&self, measure: Measure) -> bool {
        self.only.is_empty() || self.only.contains(&measure)
    }

    fn kinds(&self) -> Vec<Kind> {
        if !self.systems.is_empty() {
            return self.systems.clone();
        }
        let here = |kind: &Kind| match kind {
            Kind::Nginx => installed("nginx", "-v"),
            Kind::Redis => self.redis.is_some() || installed("redis-server", "--version"),
            Kind::Direct | Kind::Pingora | Kind::Holdover => true,
        };
        let (kinds, missing): (Vec<Kind>, Vec<Kind>) = Kind::value_variants().iter().partition(|kind| here(kind));
        for kind in missing {
            eprintln!("load: no {}: its program is not installed", kind.name());
        }
        kinds
    }

    /// Puts each load on each system in turn, so that what disturbs the machine for a while disturbs all.
    async fn loads(&self, kinds: &[Kind], place: &Place, backend: &Backend) -> Result<Vec<UnderLoad>> {
        let mut systems = Vec::new();
        for &kind in kinds {
            systems.push(System::start(kind, place).await?);
        }
        let mut found = Vec::new();
        for &load in &self.loads {
            let mut all: Vec<_> = kinds.iter().map(|&system| Runs { system, runs: Vec::new() }).collect();
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
        let system = System::start(kind, place).await?;
        let mut found = AtRest {
            system: kind,
            bytes_per_stream: None,
            reconnect_live: None,
            reconnect_finished: None,
            replay_mb_per_second: None,
        };
        if self.wants(Measure::Idle) {
            found.bytes_per_stream = Some(measure::idle(&system, backend, self.idle_streams).await?);
        }
        if self.wants(Measure::Reconnect) && kind.records() {
            found.reconnect_live = Some(measure::reconnect(&system, backend, true, RECONNECTS).await?);
            found.reconnect_finished = Some(measure::reconnect(&system, backend, false, RECONNECTS).await?);
        }
        if self.wants(Measure::Replay) && kind.records() {
            found.replay_mb_per_second = Some(measure::replay(&system, REPLAYS).await?);
        }
        Ok(found)
    }
}

async fn told_to_end() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return std::future::pending().await };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

fn installed(program: &str, ask: &str) -> bool {
    Command::new(program).arg(ask).output().is_ok_and(|output| output.status.success())
}

fn parse_load(text: &str) -> Result<Load, String> {
    let parsed = text.split_once('x').and_then(|(streams, rate)| {
        Some(Load { streams: streams.parse().ok().filter(|n| *n > 0)?, rate: rate.parse().ok().filter(|n| *n > 0)? })
    });
    parsed.ok_or_else(|| "write STREAMSxRATE, such as 200x30".into())
}
