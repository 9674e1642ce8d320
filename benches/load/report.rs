//! What a run found, as a table and as JSON.

use std::fmt;

use serde::Serialize;

use super::{
    measure::{Load, Loaded, Quantiles},
    micro::Micro,
    system::Kind,
};

/// All figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) event_bytes: usize,
    /// CPUs of the system under test, and of backend and client; not set if they share.
    pub(crate) system_cpus: Option<String>,
    pub(crate) other_cpus: Option<String>,
    /// Load average of the machine before the run.
    pub(crate) load_before: String,
    pub(crate) optimised: bool,
    pub(crate) loads: Vec<UnderLoad>,
    pub(crate) systems: Vec<AtRest>,
    pub(crate) micro: Option<Micro>,
}

/// One load, on all systems in turn.
#[derive(Debug, Serialize)]
pub(crate) struct UnderLoad {
    pub(crate) load: Load,
    pub(crate) systems: Vec<Runs>,
}

/// All repetitions of one load on one system.
#[derive(Debug, Serialize)]
pub(crate) struct Runs {
    pub(crate) system: Kind,
    pub(crate) runs: Vec<Loaded>,
}

/// What is measured once per system.
#[derive(Debug, Serialize)]
pub(crate) struct AtRest {
    pub(crate) system: Kind,
    /// Resident bytes per silent live stream.
    pub(crate) bytes_per_stream: Option<f64>,
    pub(crate) reconnect_live: Option<Quantiles>,
    pub(crate) reconnect_finished: Option<Quantiles>,
    pub(crate) replay_mb_per_second: Option<Vec<f64>>,
}

/// Share of the load that must have been delivered. Who is behind finds many events at each wake-up, and looks cheap.
const KEEPS_UP: f64 = 0.98;

impl Runs {
    /// The median of a figure over the repetitions.
    fn median(&self, figure: impl Fn(&Loaded) -> f64) -> f64 {
        median(self.runs.iter().map(figure).collect())
    }
}

impl UnderLoad {
    fn cpu(&self, kind: Kind) -> Option<f64> {
        self.systems.iter().find(|runs| runs.system == kind).map(|runs| runs.median(|run| run.cpu_us))
    }
}

/// The middle one; of an even number, the upper of the two. Zero of none.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.system_cpus, &self.other_cpus) {
            (Some(system), Some(other)) => write!(f, "system under test on CPU {system}, the rest on {other}")?,
            _ => write!(f, "all on the same CPUs")?,
        }
        writeln!(f, "; load average before: {}", self.load_before)?;
        if !self.optimised {
            writeln!(f, "NOT OPTIMISED: these figures say nothing")?;
        }
        for under in &self.loads {
            load_table(f, under)?;
        }
        if !self.systems.is_empty() {
            rest_table(f, &self.systems)?;
        }
        if let Some(Micro { split_and_stamp_ns, append_and_read_ns }) = self.micro {
            write!(f, "\nin memory: split and stamp {split_and_stamp_ns:.0} ns, ")?;
            writeln!(f, "append and read {append_and_read_ns:.0} ns per event")?;
        }
        Ok(())
    }
}

fn load_table(f: &mut fmt::Formatter<'_>, under: &UnderLoad) -> fmt::Result {
    let Load { streams, rate } = under.load;
    let repetitions = under.systems.iter().map(|runs| runs.runs.len()).max().unwrap_or_default();
    writeln!(f, "\n{streams} streams x {rate} events/s, medians of {repetitions}")?;
    write!(f, "{:<15}{:>9}{:>9}{:>8}{:>10}", "", "CPU us", "of it", "x", "x")?;
    writeln!(f, "{:>10}{:>12}{:>9}{:>9}", "events", "events/s", "p50", "p99")?;
    write!(f, "{:<15}{:>9}{:>9}{:>8}{:>10}", "system", "/event", "Redis", "nginx", "pingora")?;
    writeln!(f, "{:>10}{:>12}{:>9}{:>9}", "/s", "per core", "us", "us")?;
    for runs in &under.systems {
        let cpu = runs.median(|run| run.cpu_us);
        let measured = runs.system != Kind::Direct;
        let figure = |value: Option<f64>, digits| cell(value.filter(|_| measured), digits);
        let ratio = |of: Kind| figure(under.cpu(of).map(|other| cpu / other), 2);
        write!(f, "{:<15}{:>9}", runs.system.name(), figure(Some(cpu), 1))?;
        let store = (runs.system == Kind::Redis).then(|| runs.median(|run| run.cpu_us - run.proxy_cpu_us));
        write!(f, "{:>9}", cell(store, 1))?;
        write!(f, "{:>8}{:>10}", ratio(Kind::Nginx), ratio(Kind::Pingora))?;
        write!(f, "{:>10.0}", runs.median(|run| run.events_per_second))?;
        write!(f, "{:>12}", figure(Some(1e6 / cpu), 0))?;
        write!(f, "{:>9.0}", runs.median(|run| run.latency.p50_us))?;
        write!(f, "{:>9.0}", runs.median(|run| run.latency.p99_us))?;
        let kept_up = runs.median(|run| run.events_per_second) >= KEEPS_UP * streams as f64 * f64::from(rate);
        writeln!(f, "{}", if kept_up { "" } else { "  behind: not comparable" })?;
    }
    Ok(())
}

fn rest_table(f: &mut fmt::Formatter<'_>, systems: &[AtRest]) -> fmt::Result {
    writeln!(
        f,
        "\n{:<15}{:>12}{:>20}{:>20}{:>14}",
        "", "KiB per", "reconnect, live", "reconnect, ended", "replay 25 MB"
    )?;
    writeln!(f, "{:<15}{:>12}{:>20}{:>20}{:>14}", "system", "idle stream", "p50/p99 us", "p50/p99 us", "MB/s")?;
    let quantiles =
        |q: Option<Quantiles>| q.map_or_else(|| "-".into(), |q| format!("{:.0} / {:.0}", q.p50_us, q.p99_us));
    for row in systems {
        write!(f, "{:<15}", row.system.name())?;
        write!(f, "{:>12}", cell(row.bytes_per_stream.map(|bytes| bytes / 1024.0), 1))?;
        write!(f, "{:>20}{:>20}", quantiles(row.reconnect_live), quantiles(row.reconnect_finished))?;
        writeln!(f, "{:>14}", cell(row.replay_mb_per_second.clone().map(median), 0))?;
    }
    Ok(())
}

fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}
