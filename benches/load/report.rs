//! What a comparison found, as a table and as JSON.

use std::fmt;

use anyhow::{Result, ensure};
use serde::Serialize;

use super::{
    Circumstances,
    client::Wrong,
    measure::{Ceiling, Load, Loaded, Quantiles, Replayed},
    system::Kind,
};

/// All figures of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) circumstances: Circumstances,
    pub(crate) loads: Vec<UnderLoad>,
    pub(crate) ceilings: Vec<AtTop>,
    pub(crate) systems: Vec<AtRest>,
    /// What could not be measured, and why.
    failures: Vec<String>,
    /// Whether one of them is an event that was missing or doubled, or Holdover's.
    wrong: bool,
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

#[derive(Debug, Serialize)]
pub(crate) struct AtTop {
    pub(crate) system: Kind,
    pub(crate) ceiling: Ceiling,
}

/// What is measured once per system.
#[derive(Debug, Serialize)]
pub(crate) struct AtRest {
    pub(crate) system: Kind,
    /// Resident bytes per silent live stream, with so many of them.
    pub(crate) bytes_per_stream: Vec<(usize, f64)>,
    pub(crate) reconnect_live: Option<Quantiles>,
    pub(crate) reconnect_ended: Option<Quantiles>,
    /// To a live turn, on a node that does not run it.
    pub(crate) reconnect_elsewhere: Option<Quantiles>,
    pub(crate) replay_mb_per_second: Vec<f64>,
    /// The same from a node that did not run the turn.
    pub(crate) replay_elsewhere: Vec<f64>,
    pub(crate) replay_to_many: Option<Replayed>,
}

/// A share of a CPU that is as good as all of it.
const FULL: f64 = 0.93;

impl Runs {
    /// The median of a figure over the repetitions.
    fn median(&self, figure: impl Fn(&Loaded) -> f64) -> f64 {
        median(self.runs.iter().map(figure))
    }
}

impl Report {
    pub(crate) fn of(circumstances: Circumstances) -> Self {
        let (loads, ceilings, systems) = Default::default();
        Self { circumstances, loads, ceilings, systems, failures: Vec::new(), wrong: false }
    }

    /// Notes a failure. A peer may break down: that is a figure, too.
    pub(crate) fn note(&mut self, kind: Kind, done: Result<()>) {
        let Err(error) = done else { return };
        self.wrong |= kind.is_ours() || error.chain().any(|cause| cause.is::<Wrong>());
        let failure = format!("{}: {error:#}", kind.name());
        eprintln!("load: {failure}");
        self.failures.push(failure);
    }

    /// What a system did at the first load that it did not deliver.
    pub(crate) fn behind(&self, kind: Kind) -> Option<Loaded> {
        let under = self.loads.iter().find(|under| under.of(kind).is_some() && !under.kept_up(kind))?;
        under.of(kind)?.runs.last().copied()
    }

    /// Fails where the run did.
    pub(crate) fn verdict(&self) -> Result<()> {
        ensure!(!self.wrong, "{}", self.failures.join("; "));
        Ok(())
    }
}

impl UnderLoad {
    pub(crate) fn add(&mut self, system: Kind, run: Loaded) {
        match self.systems.iter_mut().find(|runs| runs.system == system) {
            Some(runs) => runs.runs.push(run),
            None => self.systems.push(Runs { system, runs: vec![run] }),
        }
    }

    fn of(&self, kind: Kind) -> Option<&Runs> {
        self.systems.iter().find(|runs| runs.system == kind)
    }

    fn cpu(&self, kind: Kind) -> Option<f64> {
        self.of(kind).map(|runs| runs.median(|run| run.cpu_us))
    }

    pub(crate) fn proxy_cpu(&self, kind: Kind) -> Option<f64> {
        self.of(kind).map(|runs| runs.median(|run| run.proxy_cpu_us))
    }

    /// Whether a system delivered this load, most times.
    pub(crate) fn kept_up(&self, kind: Kind) -> bool {
        let kept = |runs: &Runs| runs.median(|run| f64::from(u8::from(run.keeps_up(self.load)))) > 0.0;
        self.of(kind).is_some_and(kept)
    }

    pub(crate) fn is_above(&self, load: Load) -> bool {
        self.load.events_per_second() > load.events_per_second()
    }
}

impl AtRest {
    pub(crate) fn of(system: Kind) -> Self {
        Self {
            system,
            bytes_per_stream: Vec::new(),
            reconnect_live: None,
            reconnect_ended: None,
            reconnect_elsewhere: None,
            replay_mb_per_second: Vec::new(),
            replay_elsewhere: Vec::new(),
            replay_to_many: None,
        }
    }
}

/// The middle one; of an even number, the upper of the two. Zero of none.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or_default()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.circumstances.fmt(f)?;
        for under in &self.loads {
            load_table(f, under)?;
        }
        if !self.ceilings.is_empty() {
            ceiling_table(f, &self.ceilings)?;
        }
        if !self.systems.is_empty() {
            rest_table(f, &self.systems)?;
        }
        if !self.failures.is_empty() {
            writeln!(f, "\nnot measured: {}", self.failures.join("; "))?;
        }
        Ok(())
    }
}

fn load_table(f: &mut fmt::Formatter<'_>, under: &UnderLoad) -> fmt::Result {
    let Load { streams, rate } = under.load;
    let repetitions = under.systems.iter().map(|runs| runs.runs.len()).max().unwrap_or_default();
    writeln!(f, "\n{streams} streams x {rate} events/s, medians of {repetitions}\n")?;
    let heads = ["CPU us/event", "of it Redis", "x nginx", "x pingora", "events/s", "per core", "p50 us", "p99 us"];
    row(f, "system", heads.map(str::to_owned), "")?;
    rule(f, heads.len())?;
    for runs in &under.systems {
        let cpu = runs.median(|run| run.cpu_us);
        let measured = runs.system != Kind::Direct;
        let figure = |value: Option<f64>, digits| cell(value.filter(|_| measured), digits);
        let ratio = |of: Kind| figure(under.cpu(of).map(|other| cpu / other), 2);
        let redis = runs.system.needs_redis().then(|| runs.median(|run| run.cpu_us - run.proxy_cpu_us));
        let cells = [
            figure(Some(cpu), 1),
            cell(redis, 1),
            ratio(Kind::Nginx),
            ratio(Kind::Pingora),
            cell(Some(runs.median(|run| run.events_per_second)), 0),
            figure(Some(1e6 / cpu), 0),
            cell(Some(runs.median(|run| run.latency.p50_us)), 0),
            cell(Some(runs.median(|run| run.latency.p99_us)), 0),
        ];
        let last = runs.runs.last().filter(|_| !under.kept_up(runs.system));
        row(f, runs.system.name(), cells, last.map_or("", |run| why_behind(run)))?;
    }
    Ok(())
}

/// Who is behind, or what it was measured with.
fn why_behind(run: &Loaded) -> &'static str {
    if run.proxy_busy >= FULL {
        "behind: its CPU is used up"
    } else if run.rest_busy >= FULL {
        "behind: the CPU of backend, client and Redis is used up"
    } else {
        "behind"
    }
}

fn ceiling_table(f: &mut fmt::Formatter<'_>, ceilings: &[AtTop]) -> fmt::Result {
    writeln!(f, "\nlargest load that is delivered, 1000 streams, one CPU\n")?;
    let heads = ["events/s", "its CPU %", "other CPU %", "p50 us", "p99 us"];
    row(f, "system", heads.map(str::to_owned), "")?;
    rule(f, heads.len())?;
    for AtTop { system, ceiling } in ceilings {
        let figure = |of: fn(&Loaded) -> f64, digits| cell(ceiling.at.or(ceiling.over).as_ref().map(of), digits);
        let cells = [
            figure(|run| run.events_per_second, 0),
            figure(|run| 100.0 * run.proxy_busy, 0),
            figure(|run| 100.0 * run.rest_busy, 0),
            figure(|run| run.latency.p50_us, 0),
            figure(|run| run.latency.p99_us, 0),
        ];
        let note = match &ceiling.over {
            Some(_) if ceiling.at.is_none() => "while it is behind",
            Some(over) if over.proxy_busy < FULL => "at least: backend, client or Redis were the limit",
            Some(_) => "",
            None => "at least: no larger load was tried",
        };
        row(f, system.name(), cells, note)?;
    }
    Ok(())
}

fn rest_table(f: &mut fmt::Formatter<'_>, systems: &[AtRest]) -> fmt::Result {
    writeln!(f, "\nidle streams, reconnects (p50 / p99 us), replay of 25 MB (MB/s)\n")?;
    let steps: Vec<usize> = systems
        .iter()
        .map(|row| &row.bytes_per_stream)
        .max_by_key(|b| b.len())
        .map_or_else(Vec::new, |longest| longest.iter().map(|(streams, _)| *streams).collect());
    let mut heads: Vec<String> = steps.iter().map(|streams| format!("KiB, {streams}")).collect();
    heads.extend(["live", "ended", "other node", "replay", "other node", "to 100"].map(str::to_owned));
    let columns = heads.len();
    row(f, "system", heads, "")?;
    rule(f, columns)?;
    let times = |q: Option<Quantiles>| q.map_or_else(|| "-".into(), |q| format!("{:.0} / {:.0}", q.p50_us, q.p99_us));
    let rate = |rates: &[f64]| cell((!rates.is_empty()).then(|| median(rates.iter().copied())), 0);
    for found in systems {
        let kib = |streams: &usize| {
            let bytes = found.bytes_per_stream.iter().find(|(n, _)| n == streams).map(|(_, bytes)| bytes / 1024.0);
            cell(bytes, 1)
        };
        let mut cells: Vec<String> = steps.iter().map(kib).collect();
        cells.extend([found.reconnect_live, found.reconnect_ended, found.reconnect_elsewhere].map(times));
        cells.push(rate(&found.replay_mb_per_second));
        cells.push(rate(&found.replay_elsewhere));
        cells.push(cell(found.replay_to_many.as_ref().map(|many| many.mb_per_second), 0));
        let note = match &found.replay_to_many {
            Some(Replayed { incomplete: Some(why), .. }) => format!("to 100: {why}"),
            Some(many) if many.client_busy >= FULL => "to 100: the client was the limit".into(),
            _ => String::new(),
        };
        row(f, found.system.name(), cells, &note)?;
    }
    Ok(())
}

/// A row of a table that reads as text and as Markdown; what else is to be said stands in its last column.
pub(crate) fn row(
    f: &mut fmt::Formatter<'_>,
    name: &str,
    cells: impl IntoIterator<Item = String>,
    note: &str,
) -> fmt::Result {
    write!(f, "| {name:<22} |")?;
    for cell in cells {
        write!(f, " {cell:>12} |")?;
    }
    writeln!(f, " {note} |")
}

pub(crate) fn rule(f: &mut fmt::Formatter<'_>, columns: usize) -> fmt::Result {
    writeln!(f, "|{}|{}---|", "-".repeat(24), format!("{}:|", "-".repeat(13)).repeat(columns))
}

pub(crate) fn cell(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.digits$}"))
}
