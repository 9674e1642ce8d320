//! What passes live, unstamped and unrecorded, after recording was capped.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Position, Read, budget::Share};
use crate::turn::record::Cap;

/// Memory for what passes unrecorded. A follower further behind than this is cut.
pub(super) const WINDOW: usize = 1 << 20;

/// What a piece takes besides its bytes: many small ones must not take much more than the window.
const PIECE: usize = 64;

/// See the module.
#[derive(Debug)]
pub(super) struct Unrecorded {
    pub(super) cap: Cap,
    window: VecDeque<Piece>,
    /// Memory of the window.
    held: usize,
    /// Stream offset of the window's first byte.
    base: u64,
    /// Stream offset behind its last byte.
    end: u64,
    /// The furthest that any follower has read.
    read_to: u64,
}

#[derive(Debug)]
struct Piece {
    /// Stream offset of its first byte.
    start: u64,
    bytes: Bytes,
}

impl Unrecorded {
    /// Nothing has passed yet.
    pub(super) fn beginning(cap: Cap) -> Self {
        Self { cap, window: VecDeque::new(), held: 0, base: 0, end: 0, read_to: 0 }
    }

    /// What passed was never here.
    pub(super) fn elsewhere(cap: Cap) -> Self {
        Self { base: 1, end: 1, ..Self::beginning(cap) }
    }

    pub(super) fn push(&mut self, bytes: Bytes, share: &mut Share) {
        if bytes.is_empty() {
            return;
        }
        let piece = Piece { start: self.end, bytes };
        self.end += piece.bytes.len() as u64;
        self.held += piece.memory();
        share.take(piece.memory());
        self.window.push_back(piece);
        while self.held > WINDOW
            && self.window.len() > 1
            && let Some(oldest) = self.window.pop_front()
        {
            self.held -= oldest.memory();
            share.give_back(oldest.memory());
            self.base = oldest.end();
        }
    }

    /// Bytes that no follower has read.
    pub(super) fn unread(&self) -> u64 {
        self.end - self.read_to.max(self.base)
    }

    /// What is new at `position`, if anything is.
    pub(super) fn read(&mut self, position: &mut Position) -> Option<Read> {
        let Some(given) = position.unrecorded.filter(|given| *given >= self.base) else {
            return Some(Read::Lost);
        };
        let read = self.window.partition_point(|piece| piece.end() <= given);
        let mut data: Vec<_> = self.window.range(read..).map(|piece| piece.bytes.clone()).collect();
        let first = data.first_mut()?;
        *first = first.slice((given - self.window[read].start) as usize..);
        position.unrecorded = Some(self.end);
        self.read_to = self.end;
        Some(Read::Data(data))
    }
}

impl Piece {
    fn end(&self) -> u64 {
        self.start + self.bytes.len() as u64
    }

    fn memory(&self) -> usize {
        self.bytes.len() + PIECE
    }
}
