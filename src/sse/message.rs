//! One recorded block, as a parser understands it.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};

use super::split::{Field, lines};

/// The event in a block: what a client's parser would dispatch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message<'a> {
    event: &'a [u8],
    data: Cow<'a, [u8]>,
}

impl<'a> Message<'a> {
    /// Reads a block. `None` if it has no `data:` line: such a block dispatches nothing.
    pub fn parse(block: &'a [u8]) -> Option<Self> {
        let (mut event, mut data): (&[u8], Option<Cow<'a, [u8]>>) = (b"", None);
        for line in lines(block).filter(|line| !line.text.is_empty()) {
            match Field::of(line.text) {
                Field::Event => event = line.value(),
                Field::Data => match &mut data {
                    None => data = Some(line.value().into()),
                    Some(before) => {
                        let before = before.to_mut();
                        before.push(b'\n');
                        before.extend_from_slice(line.value());
                    }
                },
                Field::Id | Field::Retry | Field::Comment | Field::Unknown | Field::Marked => {}
            }
        }
        Some(Self { event, data: data? })
    }

    /// The name of the event; empty where the block gives none, which parsers call `message`.
    pub fn event(&self) -> &[u8] {
        self.event
    }

    /// Its data, lines joined with LF.
    pub fn data(&self) -> &[u8] {
        &self.data
    }

    /// Its data as JSON, if it is that.
    pub fn json(&self) -> Option<serde_json::Value> {
        serde_json::from_slice(&self.data).ok()
    }
}

/// The block with other data: what `change` makes of the lines joined with LF. `None` if it has none, or `change` gives none.
/// Every other byte stays.
pub fn with_data(block: &[u8], change: impl FnOnce(&[u8]) -> Option<Vec<u8>>) -> Option<Bytes> {
    let data = change(Message::parse(block)?.data())?;
    let is_data = |text: &[u8]| !text.is_empty() && Field::of(text) == Field::Data;
    let (mut changed, mut written) = (BytesMut::with_capacity(block.len() + 32), false);
    for line in lines(block) {
        if !is_data(line.text) {
            changed.extend_from_slice(line.raw);
        } else if !std::mem::replace(&mut written, true) {
            for text in data.split(|byte| *byte == b'\n') {
                for piece in [b"data: ", text, &line.raw[line.text.len()..]] {
                    changed.extend_from_slice(piece);
                }
            }
        }
    }
    Some(changed.freeze())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_and_data_are_what_a_parser_dispatches() {
        let read = |block: &'static str| {
            let message = Message::parse(block.as_bytes())?;
            let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
            Some((text(message.event()), text(message.data())))
        };
        let some = |event: &str, data: &str| Some((event.to_owned(), data.to_owned()));
        assert_eq!(read("data: x\nid: 1\n\n"), some("", "x"));
        assert_eq!(read(": note\r\nevent: end\r\ndata\r\n\r\n"), some("end", ""));
        assert_eq!(read("data:a\ndata: b\ndata:  c\n\n"), some("", "a\nb\n c"));
        assert_eq!(read("event: a\nevent: b\rmessage:\rdata: {}\r\r"), some("b", "{}"));
        assert_eq!(read("event: ping\n\n"), None);
        assert_eq!(read(""), None);
    }

    #[test]
    fn data_is_read_as_json() {
        let message = Message::parse(b"data: {\"a\":\ndata: 1}\n\n").unwrap();
        assert_eq!(message.json(), Some(serde_json::json!({ "a": 1 })));
        assert_eq!(Message::parse(b"data: [DONE]\n\n").unwrap().json(), None);
    }

    #[test]
    fn other_data_leaves_every_other_byte_alone() {
        let changed = |block: &'static str, data: Option<&str>| {
            let changed = with_data(block.as_bytes(), |_| data.map(|data| data.as_bytes().to_vec()))?;
            Some(String::from_utf8(changed.to_vec()).unwrap())
        };
        assert_eq!(changed("data:x\nid: 1\n\n", Some("y")).as_deref(), Some("data: y\nid: 1\n\n"));
        let lines = ": n\r\nevent: e\r\ndata: a\r\ndata: b\r\nretry: 5\r\nid: 1\r\n\r\n";
        let both = ": n\r\nevent: e\r\ndata: c\r\ndata: d\r\nretry: 5\r\nid: 1\r\n\r\n";
        assert_eq!(changed(lines, Some("c\nd")).as_deref(), Some(both));
        assert_eq!(changed("data: x\n\n", None), None);
        assert_eq!(changed(": x\n", Some("y")), None);
    }
}
