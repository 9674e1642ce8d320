//! Nothing grows that should not: a steady load of turns that are cut and resumed. `scripts/bench --soak` does the same for
//! hours.

use std::{
    cell::RefCell,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::{interval, sleep};

use crate::support::{Backend, Client, Exchange, Holdover, Random, eventually, fresh_body, within};

/// How long the load lasts. The first third is not judged.
const LASTS: Duration = Duration::from_secs(30);
const CLIENTS: usize = 24;
const EVENTS: usize = 20;
/// What memory may grow by in the last third: the allocator's breath.
const BREATH: usize = 3 << 20;

async fn some_events(mut exchange: Exchange) {
    exchange.stream().await;
    for number in 1..=EVENTS {
        if !exchange.event(format!("{number} {}", "x".repeat(200))).await {
            return;
        }
        sleep(Duration::from_millis(5)).await;
    }
    exchange.end().await;
}

/// One turn, from its first event to its end, over as many connections as it takes.
async fn cut_and_resumed(holdover: &Holdover, random: &RefCell<Random>) {
    let mut client: Client = holdover.connect().await;
    client.request("POST", "/chat", &[], fresh_body()).await;
    let head = client.head().await;
    assert_eq!(head.status(), 200, "{head:?}");
    let id = head.get("holdover-turn").unwrap().to_owned();
    let mut seen = 0;
    loop {
        let cut = seen + 1 + random.borrow_mut().below(EVENTS);
        while seen < cut {
            match client.event_or_end().await {
                Ok(event) => {
                    seen += 1;
                    assert!(event.data().starts_with(&format!("{seen} ")), "{:?} as the {seen}th", event.data());
                }
                Err(ending) => {
                    assert!(ending.is_clean() && seen == EVENTS, "{ending:?} after {seen} events");
                    return;
                }
            }
        }
        client = holdover.resume("GET", "/chat", &format!("{id}-{seen}")).await;
        match client.head().await.status() {
            204 if seen == EVENTS => return,
            status => assert_eq!(status, 200),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory_is_flat_under_a_steady_load_of_cuts_and_resumes() {
    let backend = Backend::answering(some_events).await;
    let config =
        "[store]\nretain_after_end = \"1s\"\n[listen]\nkeepalive = \"off\"\n[upstream]\npool_idle_timeout = \"1s\"\n";
    let holdover = Holdover::before(&backend).config(config).env("HOLDOVER__LOG__LEVEL", "info").start().await;
    let files = holdover.open_files();
    let until = Instant::now() + LASTS;
    let random = RefCell::new(Random::any());
    let load = join_all((0..CLIENTS).map(|_| async {
        while Instant::now() < until {
            cut_and_resumed(&holdover, &random).await;
        }
    }));
    let (mut samples, mut every) = (Vec::new(), interval(Duration::from_millis(200)));
    let watch = async {
        loop {
            every.tick().await;
            samples.push(holdover.resident());
        }
    };
    tokio::select! {
        _ = within(4 * LASTS, "the load to end", load) => {}
        () = watch => {}
    }
    let turns = holdover.metric("holdover_turns_finished_total", &[("outcome", "completed")]).await;
    let resumes = holdover.metric("holdover_resumes_total", &[]).await;
    assert!(turns >= 500.0 && resumes >= 500.0, "no load: {turns} turns, {resumes} resumes");
    let third = samples.len() / 3;
    let (middle, last) = (median(&samples[third..2 * third]), median(&samples[2 * third..]));
    println!("{turns} turns, {resumes} resumes; {middle} bytes, then {last}");
    assert!(last <= middle + BREATH, "memory grows: {middle} bytes, then {last}, in {} samples", samples.len());
    eventually("everything to be let go", || async {
        let metrics = holdover.metrics().await;
        let held = ["holdover_turns_live", "holdover_followers"].map(|name| metrics.sum(name, &[]));
        // One connection is the one that asks.
        (held == [0.0, 0.0] && holdover.open_files() <= files + 4).then_some(())
    })
    .await;
}

fn median(samples: &[usize]) -> usize {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted[sorted.len() / 2]
}
