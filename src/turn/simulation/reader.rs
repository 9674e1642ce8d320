//! A client: connects, reads now and then, drops, comes back with the last seq it got.

use std::sync::Arc;

use super::{random::Random, upstream::Expected};
use crate::{
    sse::Seq,
    turn::{End, Log, Position, Read, Watcher},
};

/// See the module.
pub(super) struct Reader {
    log: Arc<Log>,
    position: Position,
    changed: Watcher,
    /// Where in the expected stream it stands; `None`: its cursor is ahead of that.
    at: Option<usize>,
    /// Whether it has to look without being woken: it was not told yet to wait.
    hungry: bool,
    /// How it ended, once it has.
    pub(super) over: Option<Over>,
}

/// How a connection ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Over {
    End(End),
    /// It was too far behind in what passed unrecorded.
    Lost,
}

impl Reader {
    /// As `node` does it: who comes after recording was capped gets what is recorded.
    pub(super) fn connect(log: &Arc<Log>, cursor: Seq) -> Self {
        let position = match log.capped() {
            None => Position::after(cursor),
            Some(_) => Position::recorded_after(cursor),
        };
        Self { position, changed: log.subscribe(), log: log.clone(), at: None, hungry: true, over: None }
    }

    /// Comes back after a broken connection with the id of the last whole block.
    pub(super) fn reconnect(&mut self) {
        *self = Self::connect(&self.log, self.position.seq());
    }

    /// Whether there is a reason to read: nobody reads that was not woken.
    pub(super) fn awake(&self) -> bool {
        self.over.is_none() && (self.hungry || self.changed.has_changed())
    }

    /// Reads once, and judges what it gets.
    pub(super) fn read(&mut self, expected: &Expected, random: &mut Random) {
        self.changed.look();
        self.at = self.at.or_else(|| expected.behind(self.position.seq()));
        let most_bytes = random.pick(&[1, 50, 3_000, usize::MAX]);
        let most_blocks = random.pick(&[1, 5, u64::MAX]);
        let before = self.position.seq();
        let read = self.log.read(&mut self.position, most_bytes, most_blocks);
        self.hungry = matches!(read, Read::Data(_));
        match read {
            Read::Data(data) => {
                let at = self.at.as_mut().expect("nothing is given to a cursor ahead of the log");
                assert!(!data.is_empty(), "an empty read");
                for piece in &data {
                    let there = &expected.stream[*at..(*at + piece.len()).min(expected.stream.len())];
                    assert!(!piece.is_empty() && piece == there, "at byte {at}: {piece:?} instead of {there:?}");
                    *at += piece.len();
                }
                let blocks = self.position.seq() - before;
                assert!(blocks <= most_blocks);
                let bytes: usize = data.iter().map(|piece| piece.len()).sum();
                assert!(blocks <= 1 || bytes <= most_bytes, "{blocks} blocks of {bytes} > {most_bytes} bytes");
                let whole = expected.behind(self.position.seq()).expect("it was given this block");
                assert!(whole <= *at, "the cursor claims more than was given");
            }
            Read::Wait => {}
            Read::Gap { .. } => panic!("the owner's log is whole"),
            Read::Lost => {
                assert!(self.log.capped().is_some());
                self.over = Some(Over::Lost);
            }
            Read::End(end) => self.over = Some(Over::End(end)),
        }
    }

    /// Whether it got everything there is.
    pub(super) fn has_all(&self, expected: &Expected) -> bool {
        self.at.is_none_or(|at| at == expected.stream.len())
    }

    /// Seq of the last block it got.
    pub(super) fn seq(&self) -> Seq {
        self.position.seq()
    }
}
