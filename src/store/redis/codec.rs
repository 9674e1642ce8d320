//! Blocks and headers as bytes in the store. Pure functions; whatever bytes come back, decoding them gives blocks or
//! [`Unreadable`].
//!
//! A batch is a row of records `varint len | block | varint n | native id`, where `n` is 0 for a block without native id
//! and otherwise its length + 1. A header is a row of `varint len | name | varint len | value` behind the
//! profile and the request's id in its own protocol (empty without), which are strings of the same form.

use std::sync::Arc;

use bytes::{Buf, Bytes};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::turn::{Block, Head};

/// The bytes are not of the form this version writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub(super) &'static str);

/// The blocks of a batch as one value.
pub fn encode_blocks(blocks: &[Block]) -> Bytes {
    let mut out = Vec::with_capacity(blocks.iter().map(|b| b.bytes.len() + 6).sum());
    for Block { bytes, native_id } in blocks {
        put_bytes(&mut out, bytes);
        match native_id {
            None => put_varint(&mut out, 0),
            Some(id) => {
                put_varint(&mut out, id.len() as u64 + 1);
                out.extend_from_slice(id);
            }
        }
    }
    out.into()
}

/// The blocks in a value. They are slices of it.
pub fn decode_blocks(mut value: Bytes) -> Result<Vec<Block>, Unreadable> {
    let mut blocks = Vec::new();
    while value.has_remaining() {
        let bytes = take_bytes(&mut value)?;
        if bytes.is_empty() {
            return Err(Unreadable("an empty block"));
        }
        let native_id = match take_varint(&mut value)? {
            0 => None,
            n => Some(take(&mut value, n - 1)?),
        };
        blocks.push(Block { bytes, native_id });
    }
    Ok(blocks)
}

/// A header as one value. Order and repeated fields are kept.
pub(super) fn encode_head(head: &Head) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, head.profile.as_bytes());
    put_bytes(&mut out, head.request_id.as_deref().unwrap_or_default().as_bytes());
    for (name, value) in &head.headers {
        put_bytes(&mut out, name.as_str().as_bytes());
        put_bytes(&mut out, value.as_bytes());
    }
    out
}

/// The header in a value.
pub(super) fn decode_head(mut value: Bytes) -> Result<Head, Unreadable> {
    let mut string = || -> Result<Arc<str>, Unreadable> {
        let bytes = take_bytes(&mut value)?;
        Ok(str::from_utf8(&bytes).map_err(|_| Unreadable("a name that is not UTF-8"))?.into())
    };
    let (profile, request_id) = (string()?, Some(string()?).filter(|id| !id.is_empty()));
    let mut headers = HeaderMap::new();
    while value.has_remaining() {
        let name = HeaderName::from_bytes(&take_bytes(&mut value)?).map_err(|_| Unreadable("a bad header name"))?;
        let field = HeaderValue::from_maybe_shared(take_bytes(&mut value)?);
        let field = field.map_err(|_| Unreadable("a bad header value"))?;
        headers.try_append(name, field).map_err(|_| Unreadable("too many header fields"))?;
    }
    Ok(Head { headers, profile, request_id })
}

/// Appends a number, 7 bits per byte, lowest first.
pub(super) fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

/// Appends bytes with their length before them.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Takes what [`put_varint`] wrote.
pub(super) fn take_varint(value: &mut Bytes) -> Result<u64, Unreadable> {
    let mut n = 0u64;
    for shift in (0..64).step_by(7) {
        let byte = value.try_get_u8().map_err(|_| Unreadable("cut off inside a number"))?;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            break;
        }
        n |= bits << shift;
        if byte < 0x80 {
            return Ok(n);
        }
    }
    Err(Unreadable("a number of more than 64 bits"))
}

/// Takes what [`put_bytes`] wrote.
pub(super) fn take_bytes(value: &mut Bytes) -> Result<Bytes, Unreadable> {
    let len = take_varint(value)?;
    take(value, len)
}

/// Takes `len` bytes.
pub(super) fn take(value: &mut Bytes, len: u64) -> Result<Bytes, Unreadable> {
    match usize::try_from(len) {
        Ok(len) if len <= value.len() => Ok(value.split_to(len)),
        _ => Err(Unreadable("shorter than it says")),
    }
}

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, option, prelude::*};

    use super::*;

    fn bytes(len: std::ops::Range<usize>) -> impl Strategy<Value = Bytes> {
        vec(any::<u8>(), len).prop_map(Bytes::from)
    }

    fn blocks() -> impl Strategy<Value = Vec<Block>> {
        let block = (bytes(1..300), option::of(bytes(0..200)));
        vec(block.prop_map(|(bytes, native_id)| Block { bytes, native_id }), 0..20)
    }

    proptest! {
        #[test]
        fn blocks_come_back_as_they_were(blocks in blocks()) {
            prop_assert_eq!(decode_blocks(encode_blocks(&blocks)), Ok(blocks));
        }

        #[test]
        fn a_value_that_was_cut_short_never_gives_other_blocks(blocks in blocks(), cut in any::<prop::sample::Index>()) {
            let whole = encode_blocks(&blocks);
            let cut = cut.index(whole.len() + 1);
            if let Ok(read) = decode_blocks(whole.slice(..cut)) {
                prop_assert_eq!(&read[..], &blocks[..read.len()]);
            }
        }

        #[test]
        fn hostile_bytes_never_panic(value in bytes(0..200)) {
            if let Ok(blocks) = decode_blocks(value.clone()) {
                prop_assert!(blocks.iter().map(|b| b.bytes.len()).sum::<usize>() <= value.len());
            }
            let _ = decode_head(value);
        }

        #[test]
        fn numbers_come_back_as_they_were(n in any::<u64>()) {
            let mut out = Vec::new();
            put_varint(&mut out, n);
            prop_assert_eq!(take_varint(&mut Bytes::from(out)), Ok(n));
        }

        #[test]
        fn headers_come_back_as_they_were(
            fields in vec(("[a-z][a-z-]{0,20}", "[ -~]{0,40}"), 0..30),
            profile in "[a-z-]{0,9}",
            request_id in option::of("[ -~]{1,9}"),
        ) {
            let mut headers = HeaderMap::new();
            for (name, value) in &fields {
                headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
            }
            let (profile, request_id) = (profile.into(), request_id.map(Into::into));
            let head = Head { headers, profile, request_id };
            prop_assert_eq!(decode_head(encode_head(&head).into()), Ok(head));
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let read = |bytes: &'static [u8]| decode_blocks(Bytes::from_static(bytes));
        assert_eq!(read(b"\x05abc"), Err(Unreadable("shorter than it says")));
        assert_eq!(read(b"\x03abc"), Err(Unreadable("cut off inside a number")));
        assert_eq!(read(b"\x00\x00"), Err(Unreadable("an empty block")));
        assert_eq!(read(&[0xff; 11]), Err(Unreadable("a number of more than 64 bits")));
        assert_eq!(read(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), Err(Unreadable("shorter than it says")));
        assert_eq!(decode_head(Bytes::from_static(b"\0\0\x01 \x01v")), Err(Unreadable("a bad header name")));
        assert_eq!(decode_head(Bytes::from_static(b"\0\0\x01n\x01\n")), Err(Unreadable("a bad header value")));
    }
}
