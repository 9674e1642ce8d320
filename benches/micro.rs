//! What recording adds to a proxy, step by step, alone and in memory: time per event of 250 bytes.
//!
//! `cargo bench --bench micro`; `docs/performance.md` has the figures.

use std::{hint::black_box, sync::Arc};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use holdover::{
    sse::{Piece, Stamper, TurnId},
    store::redis::{decode_blocks, encode_blocks},
    turn::{Block, Budget, Log, Position, Read},
};

const EVENT: usize = 250;
/// Events of one measured call where a single one would mostly measure the clock.
const MANY: u64 = 1000;
/// Events that a store is given together: one in a quiet turn, some in a busy one.
const BATCHES: [usize; 3] = [1, 4, 64];

fn event() -> Bytes {
    let mut event = b"data: {\"type\":\"text-delta\",\"delta\":\"".to_vec();
    event.resize(EVENT - 4, b'x');
    event.extend_from_slice(b"\"}\n\n");
    event.into()
}

fn turn() -> TurnId {
    TurnId::new([1; 5], [2; 13])
}

fn stamped(count: usize) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let fed = Stamper::new(turn(), 1 << 20).feed(Bytes::from(event().repeat(count)), &mut pieces);
    assert!(fed.is_ok() && pieces.len() == count, "an event was lost");
    let bytes = |piece| match piece {
        Piece::Event(event) => event.bytes,
        Piece::Aside(lines) => lines,
    };
    pieces.into_iter().map(bytes).collect()
}

/// Find the event in a chunk and write its id.
fn split_and_stamp(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("split_and_stamp");
    for per_chunk in [1, 16] {
        let chunk = Bytes::from(event().repeat(per_chunk));
        group.throughput(Throughput::Elements(per_chunk as u64));
        group.bench_function(format!("{per_chunk}_per_chunk"), |bencher| {
            let (mut stamper, mut pieces) = (Stamper::new(turn(), 1 << 20), Vec::new());
            bencher.iter(|| {
                stamper.feed(black_box(chunk.clone()), &mut pieces).expect("the event is within the limit");
                black_box(&mut pieces).clear();
            });
        });
    }
    group.finish();
}

/// Append an event to the log and read it as a follower that keeps up.
fn append_and_read(criterion: &mut Criterion) {
    let events = stamped(MANY as usize);
    let mut group = criterion.benchmark_group("append_and_read");
    group.throughput(Throughput::Elements(MANY));
    group.bench_function("following", |bencher| {
        let log = || (Log::new(Budget::new(u64::MAX), false), Position::after(0));
        let follow = |(log, mut position): (Arc<Log>, Position)| {
            for event in &events {
                log.push_event(event.clone(), None);
                log.wake();
                assert!(matches!(black_box(log.read(&mut position, 1 << 16, u64::MAX)), Read::Data(_)));
            }
            log
        };
        bencher.iter_batched(log, follow, BatchSize::LargeInput);
    });
    group.bench_function("replay", |bencher| {
        let log = Log::new(Budget::new(u64::MAX), false);
        events.iter().for_each(|event| log.push_event(event.clone(), None));
        bencher.iter(|| {
            let mut position = Position::after(0);
            while let Read::Data(data) = log.read(&mut position, 256 << 10, u64::MAX) {
                black_box(data);
            }
            assert_eq!(position.seq(), MANY);
        });
    });
    group.finish();
}

/// The blocks of one append, as they are stored in Redis.
fn record_encoding(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record_encoding");
    for count in BATCHES {
        let blocks: Vec<_> = stamped(count).into_iter().map(|bytes| Block { bytes, native_id: None }).collect();
        let value = encode_blocks(&blocks);
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(format!("encode_{count}"), |bencher| bencher.iter(|| encode_blocks(black_box(&blocks))));
        group.bench_function(format!("decode_{count}"), |bencher| {
            bencher.iter(|| decode_blocks(black_box(value.clone())).expect("it was just encoded"));
        });
    }
    group.finish();
}

criterion_group!(benches, split_and_stamp, append_and_read, record_encoding);
criterion_main!(benches);
