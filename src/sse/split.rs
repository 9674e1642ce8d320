//! Lines and blocks in bytes that arrive in any pieces, as WHATWG HTML §9.2.6 ("Interpreting an event stream") cuts them.

use memchr::{memchr, memchr2};

/// The byte order mark a stream may begin with.
const BOM: &[u8] = b"\xef\xbb\xbf";

/// How a line ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Ending {
    #[default]
    Lf,
    Cr,
    CrLf,
}

/// What a line is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Field {
    Data,
    Event,
    Id,
    Retry,
    Comment,
    /// A name no parser knows.
    Unknown,
    /// A line that begins with a byte order mark. No parser knows its name either, unless the line happens to be the
    /// first of a connection: then the mark is dropped and the rest is read. Resuming can put any event there.
    Marked,
}

/// A line of bytes that are all there.
pub(super) struct Line<'a> {
    /// The line without its ending.
    pub(super) text: &'a [u8],
    /// The line with its ending; the last line may have none.
    pub(super) raw: &'a [u8],
}

/// Which lines a block has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) data: bool,
    pub(super) event: bool,
    pub(super) id: bool,
    pub(super) marked: bool,
}

/// What stands at the front of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The byte order mark of the stream.
    Bom,
    /// A comment line in front of a block. It says nothing to a parser, so it need not wait for the block.
    Comment,
    /// A blank line that ends nothing.
    Blank,
    /// A block of at least one line with its blank line.
    Block {
        /// Length of the block without the blank line, in bytes.
        lines: usize,
        /// How the last line ends.
        ending: Ending,
        /// Which lines there are.
        seen: Seen,
    },
}

/// A find at the front of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    /// How many bytes it takes.
    pub(super) len: usize,
    pub(super) what: What,
}

/// Finds one thing after the other, and remembers how far it has looked while one is incomplete.
#[derive(Debug, Default)]
pub(super) struct Splitter {
    /// Where the first incomplete line begins, from the front of the bytes.
    line: usize,
    /// How far that line was searched for its end: a line of megabytes in many chunks is searched once.
    searched: usize,
    /// The complete lines before it.
    seen: Seen,
    /// How the last complete line of the stream ended.
    ending: Ending,
    /// The place where a byte order mark may stand is behind us.
    begun: bool,
}

impl Ending {
    pub(super) fn as_bytes(self) -> &'static [u8] {
        match self {
            Self::Lf => b"\n",
            Self::Cr => b"\r",
            Self::CrLf => b"\r\n",
        }
    }
}

impl Field {
    /// Classifies a line that is not blank.
    pub(super) fn of(line: &[u8]) -> Self {
        let (name, field): (&[u8], _) = match line.first() {
            Some(b':') => return Self::Comment,
            Some(b'd') => (b"data", Self::Data),
            Some(b'e') => (b"event", Self::Event),
            Some(b'i') => (b"id", Self::Id),
            Some(b'r') => (b"retry", Self::Retry),
            _ if line.starts_with(BOM) => return Self::Marked,
            _ => return Self::Unknown,
        };
        match line.strip_prefix(name) {
            Some([] | [b':', ..]) => field,
            _ => Self::Unknown,
        }
    }
}

impl<'a> Line<'a> {
    /// What stands behind the colon and one blank; empty without a colon.
    pub(super) fn value(&self) -> &'a [u8] {
        let value = memchr(b':', self.text).map_or(&[][..], |colon| &self.text[colon + 1..]);
        value.strip_prefix(b" ").unwrap_or(value)
    }
}

/// Where the line that reaches to `from` or beyond ends, and how.
fn line_end(bytes: &[u8], from: usize) -> Option<(usize, Ending)> {
    let at = from + memchr2(b'\n', b'\r', &bytes[from..])?;
    let ending = match (bytes[at], bytes.get(at + 1)) {
        (b'\n', _) => Ending::Lf,
        (_, Some(b'\n')) => Ending::CrLf,
        _ => Ending::Cr,
    };
    Some((at, ending))
}

/// The lines of bytes that are all there.
pub(super) fn lines(mut bytes: &[u8]) -> impl Iterator<Item = Line<'_>> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let (text, whole) =
            line_end(bytes, 0).map_or((bytes.len(), bytes.len()), |(end, ending)| (end, end + ending.as_bytes().len()));
        let (raw, rest) = bytes.split_at(whole);
        bytes = rest;
        Some(Line { text: &raw[..text], raw })
    })
}

impl Splitter {
    /// What `bytes` begin with, or nothing while it is incomplete. The next call gets the bytes behind the find, or the
    /// same bytes with more behind them. `eof` says that no more will come, which makes a CR at the end a whole ending.
    pub(super) fn next(&mut self, bytes: &[u8], eof: bool) -> Option<Found> {
        if !self.begun {
            if BOM.starts_with(bytes) && bytes.len() < BOM.len() {
                return None;
            }
            self.begun = true;
            if bytes.starts_with(BOM) {
                return Some(Found { len: BOM.len(), what: What::Bom });
            }
        }
        loop {
            let Some((end, ending)) = line_end(bytes, self.searched) else {
                self.searched = bytes.len();
                return None;
            };
            let next = end + ending.as_bytes().len();
            let line = &bytes[self.line..end];
            let before_block = self.line == 0;
            let what = match (before_block, line.first()) {
                (true, None) => Some(What::Blank),
                (true, Some(b':')) => Some(What::Comment),
                (false, None) => Some(What::Block { lines: self.line, ending: self.ending, seen: self.seen }),
                _ => None,
            };
            // A CR at the very end may be half of a CRLF, whose LF is waited for. Not where lines end with a bare CR: this
            // one most likely does as well, and the event must not wait for the next. An LF that follows after all is a
            // blank line that ends nothing.
            let half = ending == Ending::Cr && next == bytes.len() && !eof;
            if half && (what.is_none() || self.ending != Ending::Cr) {
                self.searched = end;
                return None;
            }
            self.ending = ending;
            if let Some(what) = what {
                (self.line, self.searched, self.seen) = (0, 0, Seen::default());
                return Some(Found { len: next, what });
            }
            match Field::of(line) {
                Field::Data => self.seen.data = true,
                Field::Event => self.seen.event = true,
                Field::Id => self.seen.id = true,
                Field::Marked => self.seen.marked = true,
                Field::Retry | Field::Comment | Field::Unknown => {}
            }
            (self.line, self.searched) = (next, next);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_name_is_all_before_the_colon() {
        for (line, field) in [
            ("data", Field::Data),
            ("data:", Field::Data),
            ("data: x", Field::Data),
            ("data:data", Field::Data),
            ("id", Field::Id),
            ("id:x", Field::Id),
            ("event:x", Field::Event),
            ("retry: 1", Field::Retry),
            (":", Field::Comment),
            (":data: x", Field::Comment),
            (" data: x", Field::Unknown),
            ("data : x", Field::Unknown),
            ("Data: x", Field::Unknown),
            ("dataset: x", Field::Unknown),
            ("i", Field::Unknown),
            ("id\0: x", Field::Unknown),
            ("\u{feff}data: x", Field::Marked),
        ] {
            assert_eq!(Field::of(line.as_bytes()), field, "{line:?}");
        }
    }

    #[test]
    fn a_value_loses_one_blank() {
        for (line, value) in [("id", ""), ("id:", ""), ("id: ", ""), ("id:x", "x"), ("id:  x: y", " x: y")] {
            let line = lines(line.as_bytes()).next().unwrap();
            assert_eq!(line.value(), value.as_bytes());
        }
    }

    #[test]
    fn lines_end_with_any_ending_or_none() {
        let raw: Vec<_> = lines(b"a\rb\r\n\n\rc\n\r\nd").map(|line| line.raw).collect();
        assert_eq!(raw, [&b"a\r"[..], b"b\r\n", b"\n", b"\r", b"c\n", b"\r\n", b"d"]);
        let text: Vec<_> = lines(b"a\r\n\nb\r").map(|line| line.text).collect();
        assert_eq!(text, [&b"a"[..], b"", b"b"]);
    }

    #[test]
    fn a_long_line_in_many_chunks_is_searched_once() {
        let mut splitter = Splitter::default();
        let bytes = [b"data: ".as_slice(), &[b'x'; 10_000]].concat();
        for len in (1..bytes.len()).step_by(100) {
            assert_eq!(splitter.next(&bytes[..len], false), None);
            assert_eq!(splitter.searched, len);
        }
    }
}
