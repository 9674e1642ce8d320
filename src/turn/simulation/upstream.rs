//! A backend: bytes of an event stream in chunks, and what comes of it for a follower who misses nothing.

use bytes::Bytes;

use super::random::Random;
use crate::{
    sse::{Piece, Seq, Stamper},
    turn::{Block, Cap, Input, Limits, Millis},
};

/// What the backend does, and how long after what it did before.
pub(super) fn plan(random: &mut Random, limits: &Limits) -> Vec<(Millis, Input)> {
    let slowness = random.pick(&[1, 20, 300]);
    let largest = random.pick(&[7, 100, 5_000]);
    let mut stream = stream(random, limits);
    if largest == 5_000 && random.chance(15) {
        // More than is kept of what passes unrecorded.
        stream.extend_from_slice(b"data: ");
        stream.resize(stream.len() + (3 << 19), b'x');
    }
    let mut plan = Vec::new();
    let mut rest = Bytes::from(stream);
    while !rest.is_empty() {
        let chunk = rest.split_to(random.within(1, largest).min(rest.len() as u64) as usize);
        plan.push((random.within(0, slowness), Input::Chunk(chunk)));
    }
    match random.within(0, 9) {
        0 => plan.push((0, Input::Broken("upstream_reset".into()))),
        // It says no more, and its silence has to end the turn.
        1 => {}
        _ => plan.push((random.within(0, 500), Input::Eof)),
    }
    plan
}

fn stream(random: &mut Random, limits: &Limits) -> Vec<u8> {
    let mut out = Vec::new();
    let end = random.pick(&["\n", "\n", "\r\n", "\r"]);
    let ids = random.chance(40);
    let events = random.pick(&[0, 3, 30, 120]);
    for n in 0..random.within(events / 2, events) {
        match random.within(0, 39) {
            0 => out.extend(format!("retry: {n}{end}{end}").bytes()),
            1 => out.extend(format!(": ping {n}{end}{end}").bytes()),
            2 => out.extend(format!(": note {n}{end}").bytes()),
            3 => out.extend(format!("id: only-{n}{end}{end}").bytes()),
            4 => out.extend(format!("event: kind{end}").bytes()),
            _ => {}
        }
        if ids && random.chance(80) {
            out.extend(format!("id: native-{n}{end}").bytes());
        }
        let size = match random.within(0, 99) {
            0 if random.chance(30) => limits.max_event as u64 + 1,
            0..5 => random.within(1_000, 9_000),
            _ => random.within(0, 60),
        };
        out.extend(format!("data: {n} {}{end}{end}", "x".repeat(size as usize)).bytes());
    }
    if random.chance(20) {
        out.extend(b"data: the end is mis");
    }
    out
}

/// What has come of the bytes so far, made without a log.
pub(super) struct Expected {
    /// Everything a follower from the start gets, in order.
    pub(super) stream: Vec<u8>,
    /// Where each block ends in it.
    pub(super) ends: Vec<usize>,
    /// The backend's id of each block.
    pub(super) native_ids: Vec<Option<Bytes>>,
    /// When each block came.
    pub(super) arrived: Vec<Millis>,
    stamper: Option<Stamper>,
    too_long: bool,
}

impl Expected {
    pub(super) fn new(stamper: Stamper) -> Self {
        Self {
            stream: Vec::new(),
            ends: Vec::new(),
            native_ids: Vec::new(),
            arrived: Vec::new(),
            stamper: Some(stamper),
            too_long: false,
        }
    }

    /// The backend did this. `cap`: what the recorder says afterwards of why it records no longer.
    pub(super) fn happened(&mut self, now: Millis, input: &Input, cap: Option<Cap>, limits: &Limits) {
        let mut pieces = Vec::new();
        let mut behind = Bytes::new();
        match (input, &mut self.stamper) {
            (Input::Chunk(chunk), Some(stamper)) => self.too_long = stamper.feed(chunk.clone(), &mut pieces).is_err(),
            (Input::Chunk(chunk), None) => behind = chunk.clone(),
            (Input::Eof, stamper) => {
                behind = stamper.take().map(|s| s.finish(&mut pieces)).unwrap_or_default();
            }
            _ => {}
        }
        for piece in pieces {
            match piece {
                Piece::Aside(lines) => self.stream.extend(lines),
                Piece::Event(event) => {
                    self.stream.extend(event.bytes);
                    self.ends.push(self.stream.len());
                    self.native_ids.push(event.native_id);
                    self.arrived.push(now);
                }
            }
        }
        if let (Input::Chunk(_), Some(_)) = (input, &self.stamper) {
            let large = self.stream.len() as u64 > limits.max_turn_bytes;
            match cap {
                None => assert!(!self.too_long && !large, "recording had to end"),
                Some(Cap::MaxEvent) => assert!(self.too_long),
                Some(Cap::MaxTurnBytes) => assert!(large),
                Some(Cap::MemoryLimit) => {}
            }
            if cap.is_some() {
                behind = self.stamper.take().expect("it is there").unread();
            }
        }
        self.stream.extend(behind);
    }

    /// Where the bytes behind block `seq` begin.
    pub(super) fn behind(&self, seq: Seq) -> Option<usize> {
        match seq {
            0 => Some(0),
            seq => self.ends.get(seq as usize - 1).copied(),
        }
    }

    /// All blocks, as a store has to keep them.
    pub(super) fn blocks(&self) -> Vec<Block> {
        let starts = [0].into_iter().chain(self.ends.iter().copied());
        let bytes = starts.zip(&self.ends).map(|(start, end)| Bytes::copy_from_slice(&self.stream[start..*end]));
        bytes.zip(&self.native_ids).map(|(bytes, id)| Block { bytes, native_id: id.clone() }).collect()
    }
}
