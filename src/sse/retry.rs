//! Telling a client how long to wait before it reconnects.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memrchr2;

use super::split::{Field, lines};

/// Whether the bytes (an event, or the lines before one) have a `retry:` line.
pub fn has_retry(bytes: &[u8]) -> bool {
    lines(bytes).any(|line| Field::of(line.text) == Field::Retry)
}

/// The event of a [`Stamper`](super::Stamper) with `retry: <milliseconds>` in front of its last line (the id's, as a rule), for the first event
/// of a connection. An event that has a `retry:` line is left as it is. A block of `retry:` alone would be an event
/// without data to some clients.
pub fn with_retry(event: &Bytes, retry: Duration) -> Bytes {
    if has_retry(event) {
        return event.clone();
    }
    let (stamped, _) = split_ending(event);
    let (unended, ending) = split_ending(stamped);
    let at = memrchr2(b'\n', b'\r', unended).map_or(0, |end| end + 1);
    let line = format!("retry: {}", retry.as_millis());
    let mut out = BytesMut::with_capacity(event.len() + line.len() + ending.len());
    out.put_slice(&event[..at]);
    out.put_slice(line.as_bytes());
    out.put_slice(ending);
    out.put_slice(&event[at..]);
    out.freeze()
}

/// Cuts off the line ending the bytes end with.
fn split_ending(bytes: &[u8]) -> (&[u8], &[u8]) {
    let len = match bytes {
        [.., b'\r', b'\n'] => 2,
        [.., b'\r' | b'\n'] => 1,
        _ => 0,
    };
    bytes.split_at(bytes.len() - len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn retried(event: &'static str) -> String {
        let event = with_retry(&Bytes::from_static(event.as_bytes()), Duration::from_millis(1500));
        String::from_utf8(event.to_vec()).unwrap()
    }

    #[test]
    fn retry_stands_before_the_id_and_takes_its_ending() {
        assert_eq!(retried("data: x\nid: t-1\n\n"), "data: x\nretry: 1500\nid: t-1\n\n");
        assert_eq!(retried("data: x\r\nid: t-1\r\n\r\n"), "data: x\r\nretry: 1500\r\nid: t-1\r\n\r\n");
        assert_eq!(retried("data: x\rid: t-1\r\r"), "data: x\rretry: 1500\rid: t-1\r\r");
        assert_eq!(retried("data: x\nid: t-1\r\r\n"), "data: x\nretry: 1500\rid: t-1\r\r\n");
        assert_eq!(retried("data: x\r\nid: t-1\n\r"), "data: x\r\nretry: 1500\nid: t-1\n\r");
    }

    #[test]
    fn the_backends_retry_wins() {
        for event in ["retry: 9\ndata: x\nid: t-1\n\n", "data: x\rretry:9\rid: t-1\r\r", "data\nretry\nid: t-1\n\n"] {
            assert_eq!(retried(event), event);
        }
        assert!(has_retry(b": hello\nretry: 5\n"));
        assert!(!has_retry(b": retry: 5\nretrying: 5\ndata: retry: 5\n"));
    }
}
