//! The load harness: Holdover beside its peers, in one interleaved run on one machine.
//!
//! A plain backend sends numbered, time-stamped events; a client checks every one (a single gap or double fails the run)
//! and measures. Between them stands, in turn, each system under test. Backend and client are threads of this process;
//! the systems are processes of their own, on a CPU of their own where there are two.
//!
//! * [`compare`]: all systems side by side, the default.
//! * [`growth`]: what Holdover costs as streams, followers, turns grow in number or length.
//! * [`soak`]: a steady load of cuts and resumes, for hours.
//!
//! `scripts/bench` runs it; `docs/performance.md` says what the figures mean.

mod backend;
mod client;
mod clock;
mod compare;
mod event;
mod growth;
mod measure;
mod plain;
mod process;
mod report;
mod setup;
mod soak;
mod system;

use std::{fmt, fs, net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand, ValueEnum};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};

use self::{
    backend::Backend,
    measure::Load,
    process::Cores,
    report::Report,
    system::{Kind, Place},
};

/// Of Holdover: a hundred clients replay one turn at once.
const FOLLOWED: &str = "[[route]]\nfollowers = 128\n";

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
    #[arg(long, default_value_t = 2.0)]
    window: f64,
    /// Numbers of streams that live and are silent
    #[arg(long, value_delimiter = ',', default_value = "3000,9000")]
    idle_streams: Vec<usize>,
    /// A Redis that is there; its CPU is not counted [default: start one]
    #[arg(long, value_name = "URL")]
    redis: Option<String>,
    /// Measure how cost grows with streams, followers, turns and their length, instead
    #[arg(long)]
    growth: bool,
    /// Put a steady load of cuts and resumes on Holdover for so long (30s, 40m, 1h), instead
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    soak: Option<Duration>,
    /// The load of a soak
    #[arg(long, default_value = "200x5", value_parser = parse_load)]
    soak_load: Load,
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
    /// The most events per second
    Ceiling,
    /// Memory of silent streams
    Idle,
    /// Time to the first byte of a resume
    Reconnect,
    /// Speed of a long replay
    Replay,
}

/// On what, and under which circumstances, something was measured.
#[derive(Debug, Serialize)]
struct Circumstances {
    event_bytes: usize,
    /// CPUs of the system under test, and of backend and client; not set if they share.
    system_cpus: Option<String>,
    other_cpus: Option<String>,
    /// Load average of the machine before the run.
    load_before: String,
    optimised: bool,
}

fn main() -> ExitCode {
    let options = Options::parse();
    if let Some(Serve::Pingora { listen, upstream }) = options.serve {
        plain::run(listen, upstream);
    }
    match options.measure() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("load: {error:#}");
            ExitCode::FAILURE
        }
    }
}

impl Options {
    fn measure(&self) -> Result<()> {
        client::prove()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        tokio::task::LocalSet::new().block_on(&runtime, self.run())
    }

    async fn run(&self) -> Result<()> {
        let load_before = fs::read_to_string("/proc/loadavg")?.split(' ').take(1).collect();
        // Before any thread is made, so that all of them stay off the CPU of the system under test. A soak runs beside
        // whatever else the machine does.
        let cores = if self.soak.is_some() { Cores::default() } else { Cores::split()? };
        let backend = Backend::start()?;
        let scratch = tempfile::tempdir()?;
        let place = Place {
            backend: backend.address,
            cores: cores.clone(),
            directory: scratch.path().to_owned(),
            redis: self.redis.clone(),
            config: FOLLOWED.to_owned(),
        };
        let circumstances = Circumstances {
            event_bytes: event::BYTES,
            system_cpus: cores.system,
            other_cpus: cores.rest,
            load_before,
            optimised: !cfg!(debug_assertions),
        };
        if let Some(time) = self.soak {
            let report = unless_told_to_end(soak::run(&place, self.soak_load, time, circumstances)).await?;
            report_on(&report, "soak")?;
            return report.verdict();
        }
        if self.growth {
            let report = unless_told_to_end(growth::run(&place, &backend, circumstances)).await?;
            return report_on(&report, "growth");
        }
        let mut report = Report::of(circumstances);
        // What has been found by then is worth having.
        let done = unless_told_to_end(self.compare(&place, &backend, &mut report)).await;
        report_on(&report, "load")?;
        done.and_then(|()| report.verdict())
    }

    fn wants(&self, measure: Measure) -> bool {
        self.only.is_empty() || self.only.contains(&measure)
    }
}

/// Prints it, and writes all of it to a file.
fn report_on(report: &(impl fmt::Display + Serialize), name: &str) -> Result<()> {
    print!("{report}");
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    fs::create_dir_all(&directory)?;
    let file = directory.join(name).with_extension("json");
    fs::write(&file, serde_json::to_string_pretty(report)? + "\n")?;
    println!("\nall figures: {}", file.display());
    Ok(())
}

impl fmt::Display for Circumstances {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.system_cpus, &self.other_cpus) {
            (Some(system), Some(other)) => write!(f, "system under test on CPU {system}, the rest on {other}")?,
            _ => write!(f, "all on the same CPUs")?,
        }
        writeln!(f, "; load average before: {}", self.load_before)?;
        if !self.optimised {
            writeln!(f, "NOT OPTIMISED: these figures say nothing")?;
        }
        Ok(())
    }
}

/// What was started ends with the run that started it.
async fn unless_told_to_end<T>(run: impl Future<Output = Result<T>>) -> Result<T> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        done = run => done,
        _ = terminate.recv() => bail!("told to end"),
        _ = tokio::signal::ctrl_c() => bail!("told to end"),
    }
}

fn parse_load(text: &str) -> Result<Load, String> {
    let parsed = text.split_once('x').and_then(|(streams, rate)| {
        Some(Load { streams: streams.parse().ok().filter(|n| *n > 0)?, rate: rate.parse().ok().filter(|n| *n > 0)? })
    });
    parsed.ok_or_else(|| "write STREAMSxRATE, such as 200x30".into())
}

fn parse_time(text: &str) -> Result<Duration, String> {
    let (digits, unit) = text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()));
    let seconds = match unit {
        "s" => Some(1),
        "m" => Some(60),
        "h" => Some(3600),
        _ => None,
    };
    let time = digits.parse::<u64>().ok().filter(|n| *n > 0).zip(seconds);
    time.map(|(n, unit)| Duration::from_secs(n * unit)).ok_or_else(|| "write 30s, 40m or 1h".into())
}
