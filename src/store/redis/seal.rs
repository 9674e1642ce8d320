//! Ended turns, compressed: the same blocks under the same ids in far fewer bytes.
//!
//! An entry of the stream has blocks as they were appended (field `d`) or compressed (field `z`). When a turn has ended, its
//! owner, which still has the log, writes all of it again in large compressed entries, beside the others, and then swaps the
//! two. A reader that has got to some block goes on behind it in either. What comes to nothing leaves the turn as it is.

use std::{
    io,
    sync::{Arc, Weak},
};

use bytes::Bytes;
use tokio::{sync::mpsc, task::spawn_blocking};
use zstd::bulk::{Compressor, Decompressor};

use super::{
    Inner, Reply,
    codec::{Unreadable, encode_blocks, put_varint, take_varint},
    connection::Lane,
    scripts::SEAL,
};
use crate::{
    sse::{Seq, TurnId},
    store::StoreError,
    turn::{Epoch, Log},
};

/// Most blocks of an entry, in bytes before compression and in number.
const ENTRY: (usize, u64) = (64 << 10, 256);
/// Compressed bytes in one call: it keeps Redis busy for well below a millisecond.
const CALL: usize = 128 << 10;
/// The first level is nearly as good as higher ones here, and costs half.
const LEVEL: i32 = 1;
/// Turns that wait to be sealed. More stay as they are.
pub(super) const WAITING: usize = 1024;
/// The largest entry that is read: one block alone may be as large as a route lets it be.
const LARGEST: u64 = 256 << 20;

/// A turn to be sealed.
#[derive(Debug)]
pub(super) struct Sealing {
    pub(super) id: TurnId,
    pub(super) epoch: Epoch,
    pub(super) log: Weak<Log>,
}

/// A compressed entry.
struct Entry {
    last: Seq,
    count: usize,
    value: Vec<u8>,
}

impl Inner {
    /// Has a turn sealed that has ended, if that is wanted.
    pub(super) fn seal_soon(&self, id: &TurnId, epoch: &Epoch, log: &Arc<Log>) {
        if self.settings.seal {
            let _ = self.sealings.try_send(Sealing { id: *id, epoch: epoch.clone(), log: Arc::downgrade(log) });
        }
    }

    /// Seals turns, one after the other, for ever.
    pub(super) async fn seal_ended(&self, mut turns: mpsc::Receiver<Sealing>) {
        let mut compressor = None;
        while let Some(turn) = turns.recv().await {
            let Some(log) = turn.log.upgrade() else { continue };
            let compressing = spawn_blocking(move || {
                let mut compressor = compressor.map_or_else(|| Compressor::new(LEVEL), Ok)?;
                let entries = entries(&log, &mut compressor)?;
                io::Result::Ok((compressor, entries, log.last()))
            });
            let compressed = compressing.await.unwrap_or_else(|error| Err(io::Error::other(error)));
            let (used, entries, last) = match compressed {
                Ok((used, entries, last)) => (Some(used), entries, last),
                Err(error) => {
                    tracing::debug!(turn = turn.id.short(), %error, "a turn cannot be compressed; it stays as it is");
                    (None, None, 0)
                }
            };
            compressor = used;
            let Some(entries) = entries else { continue };
            match self.seal(&turn, last, &entries).await {
                Ok(true) => {
                    let bytes: usize = entries.iter().map(|entry| entry.value.len()).sum();
                    self.link.metrics.stored_turn_bytes.with_label_values(&["sealed"]).observe(bytes as f64);
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(turn = turn.id.short(), %error, "a turn is not sealed; it stays as it is")
                }
            }
        }
    }

    async fn seal(&self, turn: &Sealing, last: Seq, entries: &[Entry]) -> Result<bool, StoreError> {
        let keys = [self.keys.meta(&turn.id), self.keys.blocks(&turn.id), self.keys.sealed(&turn.id)];
        let (mut before, mut rest) = (0, entries);
        while let Some((first, others)) = rest.split_first() {
            let mut bytes = first.value.len();
            let more = others.iter().take_while(|entry| {
                bytes += entry.value.len();
                bytes <= CALL
            });
            let (call, behind) = rest.split_at(1 + more.count());
            let is_last = behind.is_empty();
            let mut seal = SEAL.on(&keys).arg(&*turn.epoch.0).arg(last).arg(before).arg(if is_last { "1" } else { "" });
            for entry in call {
                seal = seal.arg(entry.last).arg(entry.count).arg(&entry.value[..]);
                before = entry.last;
            }
            let reply: Reply = self.link.call("seal", Lane::Bulk, &seal).await?;
            if reply.code() != Some(1) {
                return Ok(false);
            }
            rest = behind;
        }
        Ok(!entries.is_empty())
    }
}

/// The whole log in compressed entries; `None` if that saves less than a tenth.
fn entries(log: &Log, compressor: &mut Compressor<'static>) -> io::Result<Option<Vec<Entry>>> {
    let (mut entries, mut raw, mut compressed) = (Vec::new(), 0, 0);
    let mut at = 0;
    while let Some(batch) = log.batch(at, ENTRY.0, ENTRY.1) {
        let blocks = encode_blocks(&batch.blocks);
        let value = compress(&blocks, compressor)?;
        raw += blocks.len();
        compressed += value.len();
        at = batch.last();
        entries.push(Entry { last: at, count: batch.blocks.len(), value });
    }
    Ok((compressed * 10 < raw * 9).then_some(entries))
}

/// The length of blocks, and the blocks compressed.
fn compress(blocks: &[u8], compressor: &mut Compressor<'static>) -> io::Result<Vec<u8>> {
    let compressed = compressor.compress(blocks)?;
    let mut value = Vec::with_capacity(compressed.len() + 5);
    put_varint(&mut value, blocks.len() as u64);
    value.extend_from_slice(&compressed);
    Ok(value)
}

/// Reads what was compressed here, with one context for many entries.
#[derive(Default)]
pub(super) struct Unsealer(Option<Decompressor<'static>>);

impl Unsealer {
    /// The blocks in a compressed entry, as [`super::codec::decode_blocks`] takes them.
    pub(super) fn open(&mut self, mut value: Bytes) -> Result<Bytes, Unreadable> {
        const BAD: Unreadable = Unreadable("a compressed entry that cannot be read");
        let len = take_varint(&mut value)?;
        if len > LARGEST {
            return Err(BAD);
        }
        if self.0.is_none() {
            self.0 = Some(Decompressor::new().map_err(|_| BAD)?);
        }
        let Some(decompressor) = &mut self.0 else { return Err(BAD) };
        let blocks = decompressor.decompress(&value, len as usize).map_err(|_| BAD)?;
        if blocks.len() as u64 == len { Ok(blocks.into()) } else { Err(BAD) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::turn::{Block, Budget};

    fn compressor() -> Compressor<'static> {
        Compressor::new(LEVEL).unwrap()
    }

    #[test]
    fn entries_are_as_large_as_they_may_be_and_no_larger() {
        let log = Log::new(Budget::new(u64::MAX), false);
        for len in [vec![100; 600], vec![70_000], vec![30_000; 5]].concat() {
            log.push_event(vec![b'x'; len].into(), None);
        }
        let entries = entries(&log, &mut compressor()).unwrap().unwrap();
        let counts: Vec<_> = entries.iter().map(|entry| (entry.last, entry.count)).collect();
        assert_eq!(counts, [(256, 256), (512, 256), (600, 88), (601, 1), (603, 2), (605, 2), (606, 1)]);
    }

    #[test]
    fn what_cannot_be_compressed_is_left_alone() {
        let log = Log::new(Budget::new(u64::MAX), false);
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 56) as u8
        });
        log.push_event(noise.take(4096).collect(), None);
        assert!(entries(&log, &mut compressor()).unwrap().is_none());
        assert!(entries(&Log::new(Budget::new(9), false), &mut compressor()).unwrap().is_none(), "nothing at all");
    }

    #[test]
    fn a_length_that_cannot_be_is_refused() {
        for len in [0, 1, 9, u64::MAX] {
            let mut value = compress(b"12345", &mut compressor()).unwrap();
            value.remove(0);
            let mut wrong = Vec::new();
            put_varint(&mut wrong, len);
            wrong.extend_from_slice(&value);
            assert!(Unsealer::default().open(wrong.into()).is_err(), "{len}");
        }
    }

    proptest! {
        #[test]
        fn blocks_come_back_as_they_were(blocks in vec(vec(any::<u8>(), 1..100), 1..20)) {
            let blocks: Vec<_> = blocks.into_iter().map(|b| Block { bytes: b.into(), native_id: None }).collect();
            let encoded = encode_blocks(&blocks);
            let value = compress(&encoded, &mut compressor()).unwrap();
            prop_assert_eq!(Unsealer::default().open(value.into()), Ok(encoded));
        }

        #[test]
        fn hostile_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
            let _ = Unsealer::default().open(bytes.into());
        }
    }
}
