//! Builders for black-box tests: the real binary between a scripted backend and raw clients.
//!
//! | module | what it gives |
//! |---|---|
//! | [`holdover`] | the process: configuration, addresses, metrics, signals, its log when a test fails |
//! | [`backend`] | an HTTP/1.1 server whose every byte a test decides, event by event |
//! | [`client`] | one raw HTTP/1.1 connection, to be cut, half closed or never read |
//! | [`h2c`], [`h2c_backend`] | client and server for HTTP/2 |
//! | [`answer`] | whole answers as text, to be compared |
//! | [`fault`] | a TCP proxy that cuts event streams after or inside chosen events |
//! | [`redis`] | a Redis server to be killed, frozen and started again |
//! | [`link`] | a TCP proxy that is slow, silent or gone for a while |
//! | [`namespace`] | a network of its own, with cables to be pulled |
//! | [`clock`] | a wall clock to be set, for one process |
//! | [`servers`] | servers of all makes, clusters of them, and sentinels |
//! | [`turn`] | a running turn from all three sides |
//! | [`dialect`] | whole turns as backends of well-known APIs write them |
//! | [`program`] | child processes: real clients, and backends nobody here wrote |
//! | [`random`] | seeds, printed when a test fails |
//! | [`wire`], [`sse`] | HTTP/1.1 framing and events, for all of them |
//!
//! Ports come from the system. Everything that waits has a deadline and names what it waited for.

pub(crate) mod answer;
pub(crate) mod backend;
pub(crate) mod client;
pub(crate) mod clock;
pub(crate) mod dialect;
pub(crate) mod fault;
pub(crate) mod h2c;
pub(crate) mod h2c_backend;
pub(crate) mod holdover;
pub(crate) mod link;
pub(crate) mod namespace;
pub(crate) mod program;
pub(crate) mod random;
pub(crate) mod redis;
pub(crate) mod servers;
pub(crate) mod sse;
pub(crate) mod turn;
pub(crate) mod wire;

use std::{fmt::Display, future::Future, time::Duration};

use tokio::time::{Instant, sleep, timeout};

pub(crate) use backend::{Backend, Exchange};
pub(crate) use client::Client;
pub(crate) use fault::{Cut, FaultProxy, How};
pub(crate) use holdover::Holdover;
pub(crate) use link::{Link, Quality};
pub(crate) use program::{Parsed, Program, Report, Script};
pub(crate) use random::Random;
pub(crate) use redis::Redis;
pub(crate) use sse::{Event, events, without_retry};
pub(crate) use turn::{Turn, fresh_body};
pub(crate) use wire::{Ending, Head, Piece};

/// How long anything may take that is not slow by design. Wide, because test machines are busy.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// How often a condition is looked at that nobody announces.
const LOOK_AGAIN: Duration = Duration::from_millis(10);

/// Waits for `future`, and panics with `what` it waited for if that takes longer than `limit`.
#[track_caller]
pub(crate) fn within<F: Future>(limit: Duration, what: impl Display, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    async move {
        match timeout(limit, future).await {
            Ok(output) => output,
            Err(_) => panic!("waited {limit:?} for {what} ({caller})"),
        }
    }
}

/// Waits until `condition` gives a value.
#[track_caller]
pub(crate) fn eventually<T, F>(what: impl Display, mut condition: impl FnMut() -> F) -> impl Future<Output = T>
where
    F: Future<Output = Option<T>>,
{
    let caller = std::panic::Location::caller();
    async move {
        let give_up = Instant::now() + DEADLINE;
        loop {
            if let Some(value) = condition().await {
                return value;
            }
            assert!(Instant::now() < give_up, "waited {DEADLINE:?} for {what} ({caller})");
            sleep(LOOK_AGAIN).await;
        }
    }
}
