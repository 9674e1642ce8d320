//! The fault campaign: three nodes on Redis, clients that come and go, and whatever can fail, failing.
//!
//! | module | what it is |
//! |---|---|
//! | [`plan`] | which faults, when and for how long: out of a seed |
//! | [`deployment`] | Redis alone, with sentinels, as a cluster; and what befalls it |
//! | [`stage`] | the nodes between backend and Redis; and what befalls them |
//! | [`script`] | the backend, which numbers every event |
//! | [`cast`] | the clients, which cut, resume, and check every event |
//! | [`verdict`] | what must be true afterwards |
//!
//! As a test, each deployment meets every kind of fault that fits it once. `scripts/faults` runs it for longer, out of seeds.

mod cast;
mod deployment;
mod plan;
mod script;
mod stage;
mod verdict;

use std::{env, str::FromStr, time::Duration};

use tokio::time::Instant;

use crate::support::Random;

use self::{
    deployment::Kind,
    plan::{Fault, Round},
    stage::Stage,
    verdict::{Tally, judge},
};

/// How long a node owns its turns without a sign of life.
const LEASE: Duration = Duration::from_secs(3);

#[tokio::test]
async fn a_lone_redis_and_its_nodes_may_fail() {
    use Fault::*;
    campaign(
        Kind::Single,
        &[
            &[KillNode, PauseNode, DrainNode],
            &[Flush, DropInboxes, StoreClock, KillMaster],
            &[FreezeNode, NodeClock],
            &[PauseMaster, SlowLink, DropCalls, Fill, FreezeMaster],
            &[PullFront, PullBack, SilentLink, CutLink],
        ],
    )
    .await;
}

#[tokio::test]
async fn what_sentinels_watch_may_fail() {
    use Fault::*;
    campaign(Kind::Sentinel, &[&[LoseAcked, KillSentinel], &[KillReplica, KillMaster, KillNode], &[FreezeMaster]])
        .await;
}

#[tokio::test]
async fn a_cluster_may_fail() {
    use Fault::*;
    campaign(Kind::Cluster, &[&[LoseAcked, DropInboxes], &[KillReplica, KillMaster, Flush], &[FreezeMaster, KillNode]])
        .await;
}

/// One seed and these rounds; or, where the environment says so, as many seeds as it wants, with random rounds. Goes on where
/// something is wrong, and fails at the end.
async fn campaign(kind: Kind, short: &[&[Fault]]) {
    let wanted = Wanted::read();
    if !wanted.kinds.contains(&kind) {
        return;
    }
    let mut all = Campaign { kind, tally: Tally::default(), broken: Vec::new() };
    if let Some(seeds) = wanted.seeds {
        let until = Instant::now() + wanted.time;
        let faults: Vec<Fault> = wanted.faults.iter().copied().filter(|fault| fault.fits(kind)).collect();
        for seed in seeds {
            if faults.is_empty() || (wanted.time > Duration::ZERO && Instant::now() > until) {
                break;
            }
            let mut random = Random::seeded(seed);
            let rounds = (0..wanted.rounds).map(|_| Round::any(kind, &faults, &mut random)).collect();
            all.run(seed, rounds, &mut random).await;
        }
    } else {
        let mut random = Random::seeded(SHORT);
        let rounds = short.iter().map(|faults| Round::of(kind, faults, &mut random)).collect();
        all.run(SHORT, rounds, &mut random).await;
    }
    println!("faults: {}: {}", kind.name(), all.tally);
    assert!(all.broken.is_empty(), "{} seeds or rounds broke promises: {}", all.broken.len(), all.broken.join("; "));
}

/// The seed of the short campaign.
const SHORT: u64 = 1;

/// All that happens to one kind of deployment.
struct Campaign {
    kind: Kind,
    tally: Tally,
    /// How what went wrong is replayed.
    broken: Vec<String>,
}

impl Campaign {
    async fn run(&mut self, seed: u64, rounds: Vec<Round>, random: &mut Random) {
        let pulls = |round: &Round| round.blows.iter().any(|b| matches!(b.fault, Fault::PullBack | Fault::PullFront));
        let with_network = rounds.iter().any(pulls);
        let mut set = None;
        for (number, round) in rounds.iter().enumerate() {
            let name = self.kind.name();
            println!("faults: {name} seed {seed}, round {number}: {round}");
            let mut stage = match set.take() {
                Some(stage) => stage,
                None => Stage::set(self.kind, with_network).await,
            };
            let told = stage.play(round, random).await;
            stage.settle().await;
            let wrong = judge(&stage, round, &told, &mut self.tally).await;
            if wrong.is_empty() {
                set = Some(stage);
                continue;
            }
            // The next round begins afresh.
            let logs = stage.write_logs(&format!("{name}-{seed}-{number}"));
            let again = replay(name, seed, rounds.len());
            let shown = wrong.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("\n");
            println!(
                "faults: {} broken promises in round {number} of seed {seed} ({round}):\n{shown}\n\
                 logs of the nodes: {}\nreplay it with {again}\n",
                wrong.len(),
                logs.display(),
            );
            self.broken.push(again);
        }
        println!("faults: {} after seed {seed}: {}", self.kind.name(), self.tally);
    }
}

fn replay(kind: &str, seed: u64, rounds: usize) -> String {
    match env::var("HOLDOVER_FAULTS") {
        Err(_) if env::var("HOLDOVER_FAULTS_SEED").is_err() => "cargo test --test main faults::".to_owned(),
        Err(_) => format!("scripts/faults --on {kind} --seed {seed} --rounds {rounds}"),
        Ok(faults) => format!("scripts/faults --on {kind} --seed {seed} --rounds {rounds} --faults {faults}"),
    }
}

/// What the environment asks for.
struct Wanted {
    /// `HOLDOVER_FAULTS_SEED`: a seed, or a first one followed by `..`. None: the short campaign.
    seeds: Option<Box<dyn Iterator<Item = u64>>>,
    /// `HOLDOVER_FAULTS_ROUNDS`: rounds of each seed.
    rounds: usize,
    /// `HOLDOVER_FAULTS_SECONDS`: after so long no seed is begun any more.
    time: Duration,
    /// `HOLDOVER_FAULTS`: which, by their names.
    faults: Vec<Fault>,
    /// `HOLDOVER_FAULTS_ON`: which deployments.
    kinds: Vec<Kind>,
}

impl Wanted {
    fn read() -> Self {
        let seeds: Option<Box<dyn Iterator<Item = u64>>> = env::var("HOLDOVER_FAULTS_SEED").ok().map(|text| {
            let number =
                |text: &str| u64::from_str(text).expect("HOLDOVER_FAULTS_SEED is a number, or a number and ..");
            match text.strip_suffix("..") {
                Some(first) => Box::new(number(first)..) as Box<dyn Iterator<Item = u64>>,
                None => Box::new(std::iter::once(number(&text))),
            }
        });
        let number = |name: &str, usual| env::var(name).map_or(usual, |text| text.parse().expect("a number"));
        Self {
            seeds,
            rounds: number("HOLDOVER_FAULTS_ROUNDS", 4) as usize,
            time: Duration::from_secs(number("HOLDOVER_FAULTS_SECONDS", 0)),
            faults: named("HOLDOVER_FAULTS", &Fault::ALL),
            kinds: named("HOLDOVER_FAULTS_ON", &Kind::ALL),
        }
    }
}

/// Those of `all` that a variable names, or all of them.
fn named<T: Copy>(variable: &str, all: &[(T, &str)]) -> Vec<T> {
    let Ok(text) = env::var(variable) else { return all.iter().map(|(one, _)| *one).collect() };
    let known = |name: &str| all.iter().find(|(_, known)| *known == name).map(|(one, _)| *one);
    let names = || all.iter().map(|(_, name)| *name).collect::<Vec<_>>().join(", ");
    text.split(',')
        .map(|name| known(name).unwrap_or_else(|| panic!("{variable}: {name:?} is none of {}", names())))
        .collect()
}
