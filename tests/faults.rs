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

/// One seed and these rounds; or, where the environment says so, as many seeds as it wants, with random rounds.
async fn campaign(kind: Kind, short: &[&[Fault]]) {
    let wanted = Wanted::read();
    if !wanted.kinds.contains(&kind) {
        return;
    }
    let mut tally = Tally::default();
    if let Some(seeds) = wanted.seeds {
        let until = Instant::now() + wanted.time;
        for seed in seeds {
            let faults: Vec<Fault> = wanted.faults.iter().copied().filter(|fault| fault.fits(kind)).collect();
            if faults.is_empty() || (wanted.time > Duration::ZERO && Instant::now() > until) {
                break;
            }
            let mut random = Random::seeded(seed);
            let rounds = (0..wanted.rounds).map(|_| Round::any(kind, &faults, &mut random)).collect();
            run(kind, seed, rounds, &mut random, &mut tally).await;
            println!("faults: {} after seed {seed}: {tally}", kind.name());
        }
    } else {
        let mut random = Random::seeded(SHORT);
        let rounds = short.iter().map(|faults| Round::of(kind, faults, &mut random)).collect();
        run(kind, SHORT, rounds, &mut random, &mut tally).await;
    }
    println!("faults: {}: {tally}", kind.name());
}

/// The seed of the short campaign.
const SHORT: u64 = 1;

async fn run(kind: Kind, seed: u64, rounds: Vec<Round>, random: &mut Random, tally: &mut Tally) {
    let pulls = |round: &Round| round.blows.iter().any(|b| matches!(b.fault, Fault::PullBack | Fault::PullFront));
    let mut stage = Stage::set(kind, rounds.iter().any(pulls)).await;
    for (number, round) in rounds.iter().enumerate() {
        println!("faults: {} seed {seed}, round {number}: {round}", kind.name());
        let told = stage.play(round, random).await;
        stage.settle().await;
        let wrong = judge(&stage, round, &told, tally).await;
        if wrong.is_empty() {
            continue;
        }
        let name = kind.name();
        let logs = stage.write_logs(&format!("{name}-{seed}"));
        // Dropped before the test fails, or all of the logs would be printed.
        drop(stage);
        let shown = wrong.iter().take(5).map(String::as_str).collect::<Vec<_>>().join("\n");
        panic!(
            "{} broken promises in round {number} ({round}):\n{shown}\nlogs of the nodes: {}\nreplay it with {}",
            wrong.len(),
            logs.display(),
            replay(name, seed, rounds.len())
        );
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
