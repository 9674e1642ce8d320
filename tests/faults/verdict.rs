//! What must be true when nothing is amiss any more, whatever it was that failed.

use std::{fmt, fmt::Write as _, sync::atomic::Ordering, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::{
    LEASE,
    cast::{Account, Belief, Performance},
    plan::{Excuses, Round},
    script::{Over, Played},
    stage::{Stage, Told},
};
use crate::support::{Client, Ending, Holdover};

/// How long a turn may read as running without an owner: one and a half leases, one more where Redis was away, and what a
/// busy machine adds.
const RUNNING: Duration =
    LEASE.saturating_mul(5).checked_div(2).expect("two is not zero").saturating_add(Duration::from_secs(8));

/// For how long after its end a turn is told again to a Redis that has forgotten it, at least.
const KEPT: Duration = Duration::from_secs(12);

/// What happened, counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) faults: std::collections::BTreeMap<String, usize>,
    turns: usize,
    never_started: usize,
    completed: usize,
    failed: usize,
    cancelled: usize,
    interrupted: usize,
    forgotten: usize,
    clients: usize,
    resumes: usize,
    gaps_told: usize,
    events: u64,
    /// Events that a whole turn lacked for somebody.
    lost: usize,
    /// Events, or starts, that were there twice.
    doubled: usize,
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { turns, never_started, completed, failed, cancelled, interrupted, forgotten, .. } = self;
        let Self { clients, resumes, gaps_told, events, lost, doubled, faults, .. } = self;
        write!(
            f,
            "turns {turns} (completed {completed}, failed {failed}, cancelled {cancelled}, interrupted {interrupted}, \
             forgotten {forgotten}, never started {never_started}); clients {clients}, resumes {resumes}, \
             events {events}, gaps told {gaps_told}, lost {lost}, doubled {doubled}; faults"
        )?;
        faults.iter().try_for_each(|(name, count)| write!(f, " {name} {count}"))
    }
}

/// Looks at all turns of a round from all nodes. Gives what is wrong.
pub(super) async fn judge(stage: &Stage, round: &Round, told: &[Told], tally: &mut Tally) -> Vec<String> {
    let mut wrong = Vec::new();
    for blow in round.blows.iter().filter(|blow| stage.allows(blow.fault)) {
        *tally.faults.entry(blow.fault.to_string()).or_default() += 1;
    }
    for turn in told {
        let mut case =
            Case { stage, of: &turn.of, played: stage.ledger.played(turn.of.part.number), wrong: Vec::new() };
        case.judge(round.excuses, &turn.accounts, tally).await;
        if !case.wrong.is_empty() {
            wrong.push(case.report(&turn.accounts).await);
        }
    }
    wrong.extend(
        stage.ledger.strays().iter().map(|stray| format!("this should never have reached the backend: {stray}")),
    );
    for node in &stage.nodes {
        wrong.extend(unbalanced(&node.process).await);
    }
    wrong
}

/// What is wrong with a node's books.
async fn unbalanced(node: &Holdover) -> Option<String> {
    let metrics = node.metrics().await;
    let [started, finished, live] = ["turns_started_total", "turns_finished_total", "turns_live"]
        .map(|name| metrics.sum(&format!("holdover_{name}"), &[]));
    (started != finished + live)
        .then(|| format!("books of {}: started {started}, finished {finished}, live {live}", node.addr()))
}

/// One turn before the judge.
struct Case<'a> {
    stage: &'a Stage,
    of: &'a Performance,
    played: Played,
    wrong: Vec<String>,
}

impl Case<'_> {
    async fn judge(&mut self, excuses: Excuses, accounts: &[Account], tally: &mut Tally) {
        tally.turns += 1;
        tally.clients += accounts.len();
        tally.resumes += accounts.iter().map(|account| account.resumes).sum::<usize>();
        tally.gaps_told += accounts.iter().map(|account| account.gaps).sum::<usize>();
        tally.events += accounts.iter().map(|account| account.has).sum::<u64>();
        if self.played.runs > 1 {
            tally.doubled += 1;
            self.wrong.push(format!("the backend was asked {} times", self.played.runs));
        }
        for account in accounts {
            if let Err(why) = &account.belief {
                self.wrong.push(format!("{}: {why}", account.who));
            }
        }
        let Some(turn) = self.of.turn() else {
            tally.never_started += 1;
            let excused = excuses.interrupted || excuses.forgotten || excuses.cut_short;
            if self.played.runs > 0 && !excused {
                self.wrong.push("the backend was asked, but nobody can find the turn".to_owned());
            }
            return;
        };
        let Some(status) = self.settled(&turn).await else {
            tally.forgotten += 1;
            if !self.may_be_forgotten(excuses) {
                self.wrong.push("there is no such turn any more".to_owned());
            }
            let stopped = self.of.stop_asked.load(Ordering::Relaxed);
            let whole = |account: &&Account| account.belief == Ok(Belief::Whole) && !stopped;
            for account in accounts.iter().filter(whole).filter(|account| account.has < self.of.part.events) {
                self.wrong.push(format!("{} takes {} events for all", account.who, account.has));
                tally.lost += 1;
            }
            return;
        };
        let state = status["state"].as_str().unwrap_or_default().to_owned();
        let last = status["last_seq"].as_u64().unwrap_or_default();
        self.judge_end(&state, last, excuses);
        match &*state {
            "completed" => tally.completed += 1,
            "failed" => tally.failed += 1,
            "cancelled" => tally.cancelled += 1,
            _ => tally.interrupted += 1,
        }
        if self.played.runs == 0 {
            // A start that was told to have failed, and whose claim nobody could take back: it has no answer to be replayed.
            return self.judge_session().await;
        }
        for node in &self.stage.nodes {
            if let Err(why) = replayed(&node.process, self.of, &turn, &state, last).await {
                self.wrong.push(format!("replay at {}: {why}", node.process.addr()));
                tally.lost += 1;
            }
        }
        for account in accounts {
            // Right about the backend, where a turn that had ended from memory lost its owner before Redis was told.
            let told_so = match self.played.over {
                Some((Over::Ended, _)) => account.belief == Ok(Belief::Whole),
                Some((Over::Broke, _)) => matches!(&account.belief, Ok(Belief::Ended(told)) if *told == "failed"),
                _ => false,
            };
            if excuses.unstored && told_so && account.has == self.of.part.events {
                continue;
            }
            if let Some(why) = misled(account, &state, last, excuses) {
                self.wrong.push(why);
                tally.lost += 1;
            }
        }
        self.judge_session().await;
    }

    /// The status of the turn when all nodes agree on it and it does not run any more; `None` when all have forgotten it.
    async fn settled(&mut self, turn: &str) -> Option<Value> {
        let give_up = Instant::now() + RUNNING;
        let mut seen: Vec<Option<Value>> = Vec::new();
        while Instant::now() < give_up {
            seen.clear();
            for node in &self.stage.nodes {
                seen.push(status(&node.process, self.of, turn).await);
            }
            let facts =
                |status: &Option<Value>| status.as_ref().map(|s| [&s["state"], &s["last_seq"]].map(Value::clone));
            let agreed = seen.iter().all(|status| facts(status) == facts(&seen[0]));
            if agreed && seen[0].as_ref().is_none_or(|status| status["state"] != "running") {
                return seen.swap_remove(0);
            }
            sleep(Duration::from_millis(100)).await;
        }
        self.wrong.push(format!("the nodes do not agree, or the turn runs without an owner: {seen:?}"));
        seen.into_iter().flatten().find(|status| status["state"] != "running")
    }

    /// Whether the turn is one that nobody could tell Redis again: its owner was lost, or it had long been over.
    fn may_be_forgotten(&self, excuses: Excuses) -> bool {
        let over = self.played.over;
        let left = over.is_none_or(|(how, _)| how == Over::Left);
        let owner_may_be_lost = excuses.unstored || (excuses.cut_short && (excuses.zombies || left));
        let before = over.zip(self.stage.forgot_at).and_then(|((_, at), forgot)| forgot.checked_duration_since(at));
        let nobody_had_it = before.is_some_and(|before| excuses.interrupted || before > KEPT);
        owner_may_be_lost || (excuses.forgotten && nobody_had_it)
    }

    /// Whether the backend's story and the turn's are one.
    fn judge_end(&mut self, state: &str, last: u64, excuses: Excuses) {
        let Played { sent, over, .. } = self.played;
        let (all, over) = (self.of.part.events, over.map(|(over, _)| over));
        let shown = self.of.shown.load(Ordering::Relaxed);
        let right = match state {
            "completed" => over == Some(Over::Ended) && last == all,
            "failed" => over == Some(Over::Broke) && last == all,
            "cancelled" => self.of.stop_asked.load(Ordering::Relaxed),
            "interrupted" => excuses.interrupted && last <= sent + 1,
            _ => false,
        };
        if !right {
            self.wrong.push(format!("{state} with {last} events, where the backend sent {sent} of {all}: {over:?}"));
        }
        if shown > last && !excuses.cut_short {
            self.wrong.push(format!("{shown} events were shown, {last} are kept"));
        }
    }

    /// Its session must be free.
    async fn judge_session(&mut self) {
        let node = &self.stage.nodes[self.of.part.number % self.stage.nodes.len()].process;
        let answer = get(node, self.of, &format!("/.holdover/sessions/{}/stream", self.of.session)).await;
        if answer.status() != 204 {
            self.wrong.push(format!("its session is not free: {}", answer.status()));
        }
    }

    /// Everything that helps to find out why.
    async fn report(&self, accounts: &[Account]) -> String {
        let turn = self.of.turn().unwrap_or_default();
        let mut text = format!("part {:?}, turn {turn:?}\n", self.of.part);
        let _ = writeln!(text, "  the backend: {:?}", self.played);
        for wrong in &self.wrong {
            let _ = writeln!(text, "  WRONG {wrong}");
        }
        for Account { who, has, belief, trail, .. } in accounts {
            let _ = writeln!(text, "  {who} has {has}, believes {belief:?}");
            for line in trail {
                let _ = writeln!(text, "    {line}");
            }
        }
        if turn.is_empty() {
            return text;
        }
        for node in &self.stage.nodes {
            let status = status(&node.process, self.of, &turn).await;
            let _ = writeln!(text, "  status at {}: {status:?}", node.process.addr());
        }
        for line in self.stage.lines_about(&turn).iter().take(60) {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

async fn get(node: &Holdover, of: &Performance, path: &str) -> reqwest::Response {
    let mut request = node.request("GET", path);
    for (name, value) in of.headers(&[]) {
        request = request.header(name, value);
    }
    request.send().await.expect("a node that is ready answers")
}

/// `None`: there is no such turn.
async fn status(node: &Holdover, of: &Performance, turn: &str) -> Option<Value> {
    let answer = get(node, of, &format!("/.holdover/turns/{turn}")).await;
    if answer.status() == 404 {
        return None;
    }
    Some(answer.json().await.expect("it is JSON"))
}

/// Compares a whole turn as a node gives it, and how it ends there.
async fn replayed(node: &Holdover, of: &Performance, turn: &str, state: &str, last: u64) -> Result<(), String> {
    let mut client = node.connect().await;
    client.request("GET", &format!("/.holdover/turns/{turn}/stream"), &of.headers(&[]), "").await;
    let head = client.head().await;
    if head.status() != 200 || head.get("holdover-gap").is_some() {
        return Err(format!("{head:?}"));
    }
    let (ending, seen) = whole(&mut client, of, turn).await?;
    let clean = ending.is_clean();
    if seen != last || clean != matches!(state, "completed" | "cancelled") {
        return Err(format!("{seen} events of {last}, and {ending:?} of a turn that is {state}"));
    }
    Ok(())
}

async fn whole(client: &mut Client, of: &Performance, turn: &str) -> Result<(Ending, u64), String> {
    let mut seen = 0;
    loop {
        match client.event_or_end().await {
            Err(ending) => return Ok((ending, seen)),
            Ok(event) => {
                seen += 1;
                let bytes = event.bytes.strip_prefix(b":\n").unwrap_or(&event.bytes);
                let expected = of.part.event(turn, seen);
                if bytes != expected.as_bytes() {
                    return Err(format!("event {seen} is {:?}, not {expected:?}", event.bytes));
                }
            }
        }
    }
}

/// What a client believes that is not so.
fn misled(account: &Account, state: &str, last: u64, excuses: Excuses) -> Option<String> {
    let Account { who, has, belief, .. } = account;
    let wrong = match belief.as_ref().ok()? {
        Belief::Whole => *has != last || !matches!(state, "completed" | "cancelled"),
        Belief::Ended(told) => told != state || (*has > last && !excuses.cut_short),
        Belief::Unknown | Belief::NeverStarted => true,
        Belief::Left => false,
    };
    wrong.then(|| format!("{who} has {has} and believes {belief:?} of a turn that is {state} with {last} events"))
}
