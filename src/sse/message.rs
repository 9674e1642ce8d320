//! One recorded block, as a parser understands it.

use std::borrow::Cow;

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
}
