//! Consecutive blocks in one piece of memory.

use bytes::{Bytes, BytesMut};

use super::Block;
use crate::sse::Seq;

/// See the module.
#[derive(Debug)]
pub(super) struct Segment {
    /// Seq of its first block.
    first: Seq,
    bytes: Bytes,
    /// End offset of each block.
    ends: Vec<u32>,
    /// Which blocks have an id of the backend's, and where in `native_ids` it ends. Copied out of the stamper's memory:
    /// a reference into it would keep the bytes of all the events around the id.
    natives: Vec<(u32, u32)>,
    native_ids: Bytes,
}

impl Segment {
    /// Copies `blocks` and the ids that `natives` has for them. `first`: seq of the first block.
    pub(super) fn copied(first: Seq, blocks: &[Bytes], natives: &[(Seq, Bytes)]) -> Self {
        let mut bytes = BytesMut::with_capacity(blocks.iter().map(Bytes::len).sum());
        let mut ends = Vec::with_capacity(blocks.len());
        for block in blocks {
            bytes.extend_from_slice(block);
            ends.push(bytes.len() as u32);
        }
        let mut native_ids = BytesMut::with_capacity(natives.iter().map(|(_, id)| id.len()).sum());
        let mut at = Vec::with_capacity(natives.len());
        for (seq, id) in natives {
            native_ids.extend_from_slice(id);
            at.push(((seq - first) as u32, native_ids.len() as u32));
        }
        Self { first, bytes: bytes.freeze(), ends, natives: at, native_ids: native_ids.freeze() }
    }

    /// Seq of its last block.
    pub(super) fn last(&self) -> Seq {
        self.first + self.ends.len() as Seq - 1
    }

    fn start_of(&self, seq: Seq) -> usize {
        match (seq - self.first) as usize {
            0 => 0,
            n => self.ends[n - 1] as usize,
        }
    }

    fn end_of(&self, seq: Seq) -> usize {
        self.ends[(seq - self.first) as usize] as usize
    }

    /// Last seq such that the blocks from `seq` to it fit into `room` bytes; `seq - 1` if not even that one fits.
    pub(super) fn fitting(&self, seq: Seq, room: usize) -> Seq {
        let limit = self.start_of(seq).saturating_add(room);
        let fit = self.ends.partition_point(|&end| end as usize <= limit);
        (self.first + fit as Seq - 1).max(seq - 1)
    }

    /// The bytes of the blocks from `from` to `to`.
    pub(super) fn slice(&self, from: Seq, to: Seq) -> Bytes {
        self.bytes.slice(self.start_of(from)..self.end_of(to))
    }

    pub(super) fn block(&self, seq: Seq) -> Block {
        Block { bytes: self.slice(seq, seq), native_id: self.native_id((seq - self.first) as u32) }
    }

    fn native_id(&self, index: u32) -> Option<Bytes> {
        let found = self.natives.binary_search_by_key(&index, |(at, _)| *at).ok()?;
        let start = found.checked_sub(1).map_or(0, |before| self.natives[before].1);
        Some(self.native_ids.slice(start as usize..self.natives[found].1 as usize))
    }
}
