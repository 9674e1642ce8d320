use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::turn::record::Outcome;

const MIB: usize = 1 << 20;

fn log() -> Arc<Log> {
    Log::new(Budget::new(u64::MAX), false)
}

fn end() -> End {
    End { outcome: Outcome::Completed, reason: "eof".into(), at: 1 }
}

/// `len` bytes that tell which block they are of.
fn block(seq: Seq, len: usize) -> Bytes {
    format!("{seq}:").bytes().chain(std::iter::repeat(b'x')).take(len).collect()
}

/// Pushes blocks of these sizes and returns their bytes.
fn push(log: &Log, sizes: impl IntoIterator<Item = usize>) -> Vec<Bytes> {
    let mut pushed = Vec::new();
    for len in sizes {
        let bytes = block(log.last() + 1, len);
        log.push_event(bytes.clone(), None);
        pushed.push(bytes);
    }
    log.wake();
    pushed
}

fn data(read: Read) -> Vec<u8> {
    match read {
        Read::Data(pieces) => pieces.concat(),
        other => panic!("{other:?} instead of data"),
    }
}

fn all(log: &Log, position: &mut Position) -> Vec<u8> {
    data(log.read(position, usize::MAX, u64::MAX))
}

fn woken(changed: &mut Watcher) -> bool {
    let woken = changed.has_changed();
    changed.look();
    woken
}

#[test]
fn every_block_is_read_from_every_cursor_within_its_limits() {
    // Segments of many blocks, of one large block, and recent blocks.
    let sizes = [[100; 300].as_slice(), &[SEGMENT, SEGMENT - 1, 1, 3 * SEGMENT, 20], &[50; 30]].concat();
    let log = log();
    let blocks = push(&log, sizes);
    for (bytes, most) in
        [(1, u64::MAX), (170, 3), (5_000, 1), (20_000, u64::MAX), (usize::MAX, 7), (usize::MAX, u64::MAX)]
    {
        for cursor in 0..blocks.len() {
            let mut position = Position::after(cursor as Seq);
            let mut at = cursor;
            while at < blocks.len() {
                let read = data(log.read(&mut position, bytes, most));
                let to = position.seq() as usize;
                assert_eq!(read, blocks[at..to].concat());
                let few = to - at == 1 || (read.len() <= bytes && (to - at) as u64 <= most);
                assert!(few, "{} blocks of {} bytes, limits {most} and {bytes}", to - at, read.len());
                let room = bytes.saturating_sub(read.len());
                let full = to == blocks.len() || (to - at) as u64 == most || blocks[to].len() > room;
                assert!(full, "there was room for block {}", to + 1);
                at = to;
            }
            assert_eq!(log.read(&mut position, bytes, most), Read::Wait);
        }
    }
}

#[test]
fn a_batch_is_what_a_reader_gets_cut_into_blocks() {
    let log = log();
    let blocks = push(&log, [100, SEGMENT, 20_000, 20_000, 10]);
    let batch = |after, bytes, most| log.batch(after, bytes, most).map(|batch| (batch.prev, batch.last()));
    assert_eq!(batch(0, usize::MAX, u64::MAX), Some((0, 5)));
    assert_eq!(batch(2, 25_000, u64::MAX), Some((2, 3)), "the second does not fit");
    assert_eq!(batch(2, 40_010, u64::MAX), Some((2, 5)));
    assert_eq!(batch(1, 1, u64::MAX), Some((1, 2)), "at least one");
    assert_eq!(batch(0, usize::MAX, 2), Some((0, 2)));
    assert_eq!(batch(5, usize::MAX, u64::MAX), None);
    let whole = log.batch(0, usize::MAX, u64::MAX).unwrap();
    assert_eq!(whole.blocks.into_iter().map(|block| block.bytes).collect::<Vec<_>>(), blocks);
}

#[test]
fn native_ids_stay_with_their_blocks_when_they_are_folded() {
    let log = log();
    let id = |seq: Seq| (!seq.is_multiple_of(3)).then(|| Bytes::from("n".repeat(seq as usize % 5)));
    for seq in 1..=400 {
        log.push_event(block(seq, 100), id(seq));
    }
    for after in [0, 150, 163, 164, 165, 330, 399] {
        let batch = log.batch(after, usize::MAX, u64::MAX).unwrap();
        for (seq, block) in (after + 1..).zip(batch.blocks) {
            assert_eq!(block.native_id, id(seq), "block {seq} in a batch after {after}");
        }
    }
}

#[test]
fn aside_lines_are_given_once_whatever_becomes_of_their_block() {
    for sizes in [[10, 10], [SEGMENT, 10]] {
        let log = log();
        let (mut early, mut late) = (Position::after(0), Position::after(0));
        log.push_aside(": a\n".into());
        assert_eq!(all(&log, &mut early), b": a\n");
        assert_eq!((early.seq(), log.read(&mut early, 1, 1)), (0, Read::Wait));
        log.push_aside(": b\n".into());
        assert_eq!(all(&log, &mut early), b": b\n");
        let blocks = push(&log, sizes);
        assert_eq!(all(&log, &mut early), blocks.concat(), "folded or not");
        assert_eq!(all(&log, &mut late), [&b": a\n: b\n"[..], &blocks.concat()].concat());
        assert_eq!(log.batch(0, 1, 1).unwrap().blocks[0].bytes, [&b": a\n: b\n"[..], &blocks[0]].concat());
        log.push_aside(": tail".into());
        log.end(end());
        assert_eq!(all(&log, &mut early), b": tail");
        assert_eq!(log.read(&mut early, 1, 1), Read::End(end()));
        assert_eq!(log.aside(), ": tail");
    }
}

#[test]
fn many_aside_lines_are_not_copied_again_for_each() {
    let log = log();
    let mut position = Position::after(0);
    let started = std::time::Instant::now();
    for _ in 0..500_000 {
        log.push_aside(":\n".into());
    }
    assert_eq!(all(&log, &mut position).len(), 1_000_000);
    assert!(started.elapsed().as_secs() < 5, "quadratic: {:?}", started.elapsed());
}

#[test]
fn held_back_blocks_wait_to_be_shown_and_wake_nobody() {
    let log = Log::new(Budget::new(u64::MAX), true);
    let mut changed = log.subscribe();
    let mut position = Position::after(0);
    let blocks = push(&log, [10, 20, 30]);
    log.push_aside(": behind them\n".into());
    log.wake();
    assert_eq!(log.read(&mut position, usize::MAX, 9), Read::Wait);
    assert!(!woken(&mut changed));
    assert_eq!(log.batch(0, usize::MAX, 9).unwrap().last(), 3, "the store gets them");
    log.show(2);
    assert!(woken(&mut changed));
    assert_eq!(all(&log, &mut position), blocks[..2].concat());
    assert_eq!(log.read(&mut position, usize::MAX, 9), Read::Wait);
    log.show(1);
    assert!(!woken(&mut changed));
    log.show(99);
    assert_eq!((all(&log, &mut position), log.shown()), (blocks[2].to_vec(), 3));
    assert_eq!(all(&log, &mut position), b": behind them\n");
    woken(&mut changed);
    log.set_hold_back(false);
    assert!(!woken(&mut changed), "nothing was held back");
    push(&log, [10]);
    assert!(woken(&mut changed));
}

#[test]
fn what_is_held_back_at_the_end_is_never_shown() {
    let log = Log::new(Budget::new(u64::MAX), true);
    push(&log, [10, 20]);
    log.show(1);
    let mut position = Position::after(0);
    log.end(end());
    log.end(End { outcome: Outcome::Failed, ..end() });
    assert_eq!(all(&log, &mut position).len(), 10);
    assert_eq!(log.read(&mut position, usize::MAX, 9), Read::End(end()), "the first end stays");
    assert_eq!(log.read(&mut Position::after(2), usize::MAX, 9), Read::End(end()));
}

#[test]
fn a_cursor_ahead_of_the_log_waits_for_it() {
    let log = log();
    push(&log, [10]);
    let mut position = Position::after(2);
    assert_eq!(log.read(&mut position, usize::MAX, 9), Read::Wait);
    let blocks = push(&log, [10, 10]);
    assert_eq!(all(&log, &mut position), blocks[1]);
    log.end(end());
    assert_eq!(log.read(&mut Position::after(9), usize::MAX, 9), Read::End(end()));
}

#[test]
fn a_copy_that_begins_late_says_what_it_lacks() {
    let log = Log::starting_after(7, Budget::new(u64::MAX), false);
    log.push_block(Block { bytes: block(8, 30), native_id: Some("n8".into()) });
    let mut position = Position::after(3);
    assert_eq!(log.read(&mut position, usize::MAX, 9), Read::Gap { first: 4, last: 7 });
    assert_eq!((all(&log, &mut position), position.seq(), log.base()), (block(8, 30).to_vec(), 8, 7));
    assert_eq!(log.batch(7, usize::MAX, 9).unwrap().blocks[0].native_id, Some("n8".into()));
}

#[test]
fn a_copy_of_a_capped_turn_ends_in_a_loss() {
    let log = log();
    push(&log, [10]);
    log.cut_short(Cap::MaxEvent);
    log.end(end());
    let mut position = Position::after(0);
    assert_eq!(all(&log, &mut position).len(), 10);
    assert_eq!(log.read(&mut position, usize::MAX, 9), Read::Lost);
    assert_eq!(log.read(&mut position, usize::MAX, 9), Read::Lost);
}

#[test]
fn what_passes_unrecorded_follows_the_last_block() {
    let log = log();
    log.push_unrecorded("too early".into());
    push(&log, [10]);
    let mut position = Position::after(0);
    log.cap(Cap::MaxTurnBytes);
    log.cap(Cap::MaxEvent);
    assert_eq!(log.capped(), Some(Cap::MaxTurnBytes));
    log.push_unrecorded("ab".into());
    assert!(!position.in_unrecorded());
    all(&log, &mut position);
    assert_eq!(all(&log, &mut position), b"ab");
    assert!(position.in_unrecorded());
    for piece in ["c", "", "de", "f"] {
        log.push_unrecorded(piece.into());
    }
    assert_eq!(all(&log, &mut position), b"cdef");
    assert_eq!(log.read(&mut position, usize::MAX, 9), Read::Wait);
    log.push_unrecorded("g".into());
    log.end(end());
    assert_eq!(all(&log, &mut position), b"g");
    assert_eq!(log.read(&mut position, usize::MAX, 9), Read::End(end()));
    assert_eq!(log.bytes(), 10);
}

#[test]
fn the_window_of_what_passes_unrecorded_is_bounded_in_memory() {
    for size in [1, 100, 10_000, 3 * MIB] {
        let budget = Budget::new(u64::MAX);
        let log = Log::new(budget.clone(), false);
        log.cap(Cap::MemoryLimit);
        let mut slow = Position::after(0);
        let mut fast = Position::after(0);
        let mut most = 0;
        for _ in 0..(3 * MIB / size).max(3) {
            log.push_unrecorded(vec![b'x'; size].into());
            assert_eq!(all(&log, &mut fast).len(), size);
            most = most.max(budget.used());
        }
        assert!(most <= (unrecorded::WINDOW + 64 + size) as u64, "{most} bytes for pieces of {size}");
        assert_eq!(log.read(&mut slow, usize::MAX, 9), Read::Lost);
    }
}

#[test]
fn the_budget_gets_back_all_that_a_log_held() {
    let budget = Budget::new(100_000);
    let log = Log::new(budget.clone(), false);
    log.push_aside(": a\n".into());
    push(&log, [50, SEGMENT]);
    assert_eq!(budget.used(), log.bytes());
    log.push_event(block(3, 10), Some("native".into()));
    assert_eq!(budget.used(), log.bytes() + 6 + NATIVE_ID as u64);
    log.cap(Cap::MaxEvent);
    log.push_unrecorded(vec![0; 70_000].into());
    assert!(budget.used() > 86_000 && !budget.exceeded_by(5_000) && budget.exceeded_by(u64::MAX));
    let other = Log::new(budget.clone(), false);
    push(&other, [1_000]);
    drop(log);
    assert_eq!(budget.used(), 1_000);
    drop(other);
    assert_eq!(budget.used(), 0);
}
