//! In front of real frameworks, which nobody here wrote. They stop a turn when their client leaves, and know nothing of
//! resuming; behind Holdover they finish it.

mod ai_sdk;
mod fastapi;

use std::net::SocketAddr;

use serde_json::Value;

use crate::support::{Holdover, eventually};

/// How a backend counts its turns.
#[derive(Debug, PartialEq, Eq)]
struct Stats {
    started: u64,
    finished: u64,
    aborted: u64,
}

impl Stats {
    const ONE_FINISHED: Self = Self { started: 1, finished: 1, aborted: 0 };
    const ONE_ABORTED: Self = Self { started: 1, finished: 0, aborted: 1 };
}

/// Waits until a backend has counted to `stats`, and checks that it was never bothered with an event id of ours.
async fn counts(backend: SocketAddr, stats: Stats) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let ids = eventually(format!("{stats:?} at the backend"), || async {
        let page = http.get(format!("http://{backend}/stats")).send().await.unwrap();
        let page: Value = page.json().await.unwrap();
        let count = |name: &str| page[name].as_u64().unwrap();
        let now = Stats { started: count("started"), finished: count("finished"), aborted: count("aborted") };
        assert!(now.started <= stats.started, "{now:?}");
        (now == stats).then(|| page["last_event_ids"].clone())
    });
    assert_eq!(ids.await, Value::Array(Vec::new()));
}

/// Waits until a turn has this many events at least.
async fn recorded(holdover: &Holdover, least: f64) {
    eventually(format!("{least} events to be recorded"), || async {
        (holdover.metric("holdover_events_recorded_total", &[]).await >= least).then_some(())
    })
    .await;
}
