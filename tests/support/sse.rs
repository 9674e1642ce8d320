//! Events as bytes.

use bytes::{Bytes, BytesMut};

/// One event as it stood on the wire, with its blank line and with the bare lines in front of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    /// All its bytes.
    pub(crate) bytes: Bytes,
}

impl Event {
    /// The value of the last field of this name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        let text = std::str::from_utf8(&self.bytes).expect("test events are text");
        let value = |line: &'_ str| -> Option<usize> {
            let rest = line.strip_prefix(name)?.strip_prefix(':')?;
            Some(line.len() - rest.strip_prefix(' ').unwrap_or(rest).len())
        };
        text.lines().filter_map(|line| value(line).map(|at| &line[at..])).next_back()
    }

    /// Its id.
    pub(crate) fn id(&self) -> &str {
        self.field("id").unwrap_or_else(|| panic!("an event without an id: {:?}", self.bytes))
    }

    /// Its data.
    pub(crate) fn data(&self) -> &str {
        self.field("data").unwrap_or_else(|| panic!("an event without data: {:?}", self.bytes))
    }

    /// The turn and the seq its id names.
    pub(crate) fn place(&self) -> (&str, u64) {
        let (turn, seq) = self.id().rsplit_once('-').expect("an id of ours has a dash");
        (turn, seq.parse().expect("an id of ours ends with a number"))
    }
}

/// Cuts bytes into events. They must end with one.
pub(crate) fn events(bytes: &[u8]) -> Vec<Event> {
    let mut rest = BytesMut::from(bytes);
    let mut all = Vec::new();
    while let Some(event) = take_event(&mut rest) {
        all.push(event);
    }
    assert!(rest.is_empty(), "bytes behind the last event: {rest:?}");
    all
}

/// Takes the first event out of a buffer of LF or CRLF lines, if it is whole.
pub(crate) fn take_event(buffer: &mut BytesMut) -> Option<Event> {
    let mut line_start = 0;
    for at in memchr::memchr_iter(b'\n', buffer) {
        if matches!(buffer[line_start..at], [] | [b'\r']) {
            return Some(Event { bytes: buffer.split_to(at + 1).freeze() });
        }
        line_start = at + 1;
    }
    None
}

/// The bytes without `retry:` lines, which are of a connection and not of the turn.
pub(crate) fn without_retry(bytes: &[u8]) -> Vec<u8> {
    let lines = bytes.split_inclusive(|byte| *byte == b'\n');
    lines.filter(|line| !line.starts_with(b"retry:")).flatten().copied().collect()
}
