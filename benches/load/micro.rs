//! What Holdover adds to a proxy, alone and in memory: nanoseconds per event of one thread.
//!
//! A loop of its own, not criterion: two figures of some tens of nanoseconds do not need statistics that every build of
//! the test suite would pay for.

use std::{hint::black_box, sync::Arc, time::Instant};

use anyhow::Result;
use bytes::Bytes;
use holdover::{
    sse::{Piece, Stamper, TurnId},
    turn::{Budget, Log, Position, Read},
};
use serde::Serialize;

use super::event::{BYTES, Event, Template};

/// Nanoseconds per event.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Micro {
    /// Find the event in a chunk and write its id.
    pub(crate) split_and_stamp_ns: f64,
    /// Append it to the log and read it as a follower that keeps up.
    pub(crate) append_and_read_ns: f64,
}

/// Events per repetition; the best of so many repetitions counts, since whatever disturbs only adds.
const EVENTS: usize = 20_000;
const REPETITIONS: usize = 10;

pub(crate) fn run() -> Result<Micro> {
    let event = Bytes::copy_from_slice(Template::new().write(Event { n: 1, sent: 1, last: false }));
    let id = TurnId::new([1; 5], [2; 13]);
    let mut pieces = Vec::new();
    let split_and_stamp_ns = best(|| {
        let mut stamper = Stamper::new(id, 1 << 20);
        for _ in 0..EVENTS {
            stamper.feed(black_box(event.clone()), &mut pieces)?;
            black_box(&mut pieces).clear();
        }
        Ok(())
    })?;
    let mut stamper = Stamper::new(id, 1 << 20);
    stamper.feed(Bytes::from(event.repeat(EVENTS)), &mut pieces)?;
    let stamped: Vec<_> = pieces.into_iter().filter_map(into_event).collect();
    anyhow::ensure!(stamped.len() == EVENTS && stamped.iter().all(|event| event.len() > BYTES), "events were lost");
    let append_and_read_ns = best(|| {
        let log = Log::new(Budget::new(u64::MAX), false);
        let mut position = Position::after(0);
        for event in &stamped {
            log.push_event(black_box(event.clone()), None);
            log.wake();
            let read = black_box(Arc::as_ref(&log).read(&mut position, 1 << 16, u64::MAX));
            anyhow::ensure!(matches!(read, Read::Data(_)), "a follower does not get what was appended");
        }
        Ok(())
    })?;
    Ok(Micro { split_and_stamp_ns, append_and_read_ns })
}

fn into_event(piece: Piece) -> Option<Bytes> {
    match piece {
        Piece::Event(event) => Some(event.bytes),
        Piece::Aside(_) => None,
    }
}

fn best(mut repetition: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut best = f64::MAX;
    for _ in 0..REPETITIONS {
        let from = Instant::now();
        repetition()?;
        best = best.min(from.elapsed().as_secs_f64() * 1e9 / EVENTS as f64);
    }
    Ok(best)
}
