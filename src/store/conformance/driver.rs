//! Both sides of a turn, for tests: its recorder's and its followers'.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::{ALL_BLOCKS, ALL_BYTES, DEADLINE, Fixture};
use crate::{
    sse::{Seq, TurnId},
    store::{Appended, Finished, SessionPolicy, Started, TurnStore},
    turn::{Batch, Block, Budget, Digest, End, Epoch, Log, NodeId, Outcome, Position, Read, Session, TurnRecord},
};

/// A turn id in this session.
pub(in crate::store) fn turn_in(session: &Digest) -> TurnId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut random = [0; 13];
    random[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    TurnId::new(session[..5].try_into().unwrap(), random)
}

/// The record of a new turn, with its own epoch.
pub(in crate::store) fn record(node: &NodeId, session: Option<Digest>) -> TurnRecord {
    let id = turn_in(&session.unwrap_or([77; 32]));
    TurnRecord {
        id,
        epoch: Epoch(format!("epoch of {id}").into()),
        node: node.clone(),
        principal: Some([5; 32]),
        session: session.map(|key| Session { key, name: "a chat, “quoted”".into() }),
        route: "chat".into(),
        started_at: 1_700_000_000_000,
        head: None,
        last: 0,
        bytes: 0,
        cap: None,
        end: None,
    }
}

/// An end.
pub(in crate::store) fn end(outcome: Outcome, reason: &str) -> End {
    End { outcome, reason: reason.into(), at: 1_700_000_000_123 }
}

/// A recorder's side of a turn.
pub(in crate::store) struct Owner {
    pub(in crate::store) store: Arc<dyn TurnStore>,
    pub(in crate::store) record: TurnRecord,
    pub(in crate::store) log: Arc<Log>,
}

impl Owner {
    pub(in crate::store) async fn start(fixture: &Fixture) -> Self {
        Self::start_as(fixture, record(&fixture.node, None)).await
    }

    pub(in crate::store) async fn start_as(fixture: &Fixture, record: TurnRecord) -> Self {
        let owner = Self::without_start(fixture, record);
        assert_eq!(owner.claim(SessionPolicy::Replace).await, Started::Fresh);
        owner
    }

    pub(in crate::store) fn without_start(fixture: &Fixture, record: TurnRecord) -> Self {
        Self { store: fixture.store.clone(), record, log: Log::new(Budget::new(u64::MAX), false) }
    }

    pub(in crate::store) async fn claim(&self, policy: SessionPolicy) -> Started {
        self.store.start(&self.record, &self.log, policy).await.unwrap()
    }

    /// Records blocks without keeping them.
    pub(in crate::store) fn push(&self, blocks: &[&'static str]) {
        for block in blocks {
            self.log.push_event(Bytes::from_static(block.as_bytes()), None);
        }
        self.log.wake();
    }

    /// What was recorded after `prev`.
    pub(in crate::store) fn batch(&self, prev: Seq) -> Batch {
        self.log.batch(prev, ALL_BYTES, ALL_BLOCKS).unwrap()
    }

    pub(in crate::store) async fn append(&self, batch: &Batch) -> Appended {
        self.store.append(&self.record.id, &self.record.epoch, batch).await.unwrap()
    }

    /// Records blocks and has them kept.
    pub(in crate::store) async fn keep(&self, blocks: &[&'static str]) {
        let prev = self.log.last();
        self.push(blocks);
        assert!(matches!(self.append(&self.batch(prev)).await, Appended::Applied { .. }));
    }

    pub(in crate::store) async fn write_end(&self, end: &End) -> Finished {
        self.store.finish(&self.record.id, &self.record.epoch, &self.log, end).await.unwrap()
    }

    /// Ends the turn, for the store first.
    pub(in crate::store) async fn complete(&self) {
        let end = end(Outcome::Completed, "eof");
        assert_eq!(self.write_end(&end).await, Finished::Applied);
        self.log.end(end);
    }

    pub(in crate::store) async fn found(&self) -> Option<TurnRecord> {
        self.store.find(&self.record.id).await.unwrap()
    }

    /// Opens the turn as a follower would.
    pub(in crate::store) async fn open(&self, after: Seq) -> Arc<Log> {
        self.store.open(&self.record.id, after).await.unwrap().expect("the turn is there").log
    }
}

/// Waits until `check` holds.
pub(in crate::store) async fn eventually(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !check().await {
        assert!(began.elapsed() < DEADLINE, "not in time: {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

/// Reads a log until `enough` says so of what was read, or the turn ends. Returns all of it and the end.
pub(in crate::store) async fn read_until(
    log: &Log,
    after: Seq,
    enough: impl Fn(&[u8]) -> bool,
) -> (String, Option<Read>) {
    let mut position = Position::after(after);
    let mut changed = log.subscribe();
    let mut all = Vec::new();
    let reading = async {
        loop {
            match log.read(&mut position, ALL_BYTES, ALL_BLOCKS) {
                Read::Data(pieces) => pieces.iter().for_each(|piece| all.extend_from_slice(piece)),
                Read::Wait if enough(&all) => return None,
                Read::Wait => changed.changed().await,
                other => return Some(other),
            }
        }
    };
    let read = timeout(DEADLINE, reading).await;
    let text = String::from_utf8_lossy(&all).into_owned();
    match read {
        Ok(end) => (text, end),
        Err(_) => panic!("not in time: only {text:?} was read"),
    }
}

/// Reads a log to the end of its turn.
pub(in crate::store) async fn read_to_end(log: &Log, after: Seq) -> (String, End) {
    match read_until(log, after, |_| false).await {
        (text, Some(Read::End(end))) => (text, end),
        (text, other) => panic!("{other:?} after {text:?}"),
    }
}

/// All blocks of a log that has them.
pub(in crate::store) async fn blocks_of(log: &Log, after: Seq, last: Seq) -> Vec<Block> {
    eventually("all blocks are there", async || log.last() >= last).await;
    let (mut blocks, mut at) = (Vec::new(), after);
    while let Some(batch) = log.batch(at, ALL_BYTES, ALL_BLOCKS) {
        at = batch.last();
        blocks.extend(batch.blocks);
    }
    blocks
}
