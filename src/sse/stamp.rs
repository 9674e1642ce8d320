//! Bytes of an upstream response in, stamped events out.

use std::{fmt, mem};

use bytes::{BufMut, Bytes, BytesMut};
use memchr::memchr;

use super::{
    Seq, TurnId,
    split::{Ending, Field, Found, Seen, Splitter, What, lines},
};

/// One piece of a stamper's output, in stream order.
#[derive(Clone, PartialEq, Eq)]
pub enum Piece {
    /// Bare lines that stand in front of the next event and say nothing by themselves: comments, and the `retry:` and
    /// unknown lines of a block without data. Also the byte order mark of the stream, alone. To be delivered at once;
    /// has no seq.
    Aside(Bytes),
    /// A whole event.
    Event(Event),
}

/// An event as the backend sent it, with Holdover's id as its last line (or its first, see [`Stamper::ids_first`]).
#[derive(Clone, PartialEq, Eq)]
pub struct Event {
    /// From its first line that is not a comment to its blank line.
    pub bytes: Bytes,
    /// The backend's own id, if it set one since the event before. Empty: it took its last one back.
    pub native_id: Option<Bytes>,
}

/// Occurs when the upstream sends an event, or a line in front of one, of more bytes than allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an event is longer than {limit} bytes")]
pub struct TooLong {
    /// What is allowed, in bytes.
    pub limit: usize,
}

/// Turns the bytes of one upstream response into events with ids of one turn.
///
/// What leaves it never refers to what went in: it is copied to where one allocation serves many events, so that a log
/// that keeps a small event does not keep the buffer it was read into.
pub struct Stamper {
    /// What every id line begins with: `id: <turn>-`.
    prefix: [u8; PREFIX],
    /// The seq of the next event.
    next: Seq,
    ids_first: bool,
    max_event: usize,
    splitter: Splitter,
    /// The begin of what is not complete yet.
    held: Vec<u8>,
    /// The id the backend set since the last event.
    native_id: Option<Bytes>,
    arena: Arena,
}

/// Memory for small outputs: each takes its part, and the block is freed with the last of them.
#[derive(Default)]
struct Arena {
    free: BytesMut,
    /// Size of the last block.
    last: usize,
}

const PREFIX: usize = "id: ".len() + TurnId::LEN + "-".len();

/// The longest id line with its ending, in bytes.
const ID_LINE: usize = PREFIX + MAX_DIGITS + 2;

/// Digits of the greatest seq.
const MAX_DIGITS: usize = 20;

/// How much memory a stamper keeps for the incomplete event while it is not needed, in bytes.
const KEEP_HELD: usize = 4 * 1024;

/// Shows sizes only: an event is a user's content, and its id a capability.
impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} bytes)", self.bytes.len())
    }
}

/// Shows sizes only, as [`Event`] does.
impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Aside(lines) => write!(f, "Aside({} bytes)", lines.len()),
            Self::Event(event) => event.fmt(f),
        }
    }
}

impl Stamper {
    /// A stamper whose first event gets seq 1. `max_event` is the greatest length of one event as the backend sends it,
    /// in bytes, and so what the stamper holds at most besides the chunk it is fed.
    pub fn new(turn: TurnId, max_event: usize) -> Self {
        let mut prefix = [0; PREFIX];
        prefix[..4].copy_from_slice(b"id: ");
        prefix[4..PREFIX - 1].copy_from_slice(turn.as_str().as_bytes());
        prefix[PREFIX - 1] = b'-';
        Self {
            prefix,
            next: 1,
            ids_first: false,
            max_event,
            splitter: Splitter::default(),
            held: Vec::new(),
            native_id: None,
            arena: Arena::default(),
        }
    }

    /// Whether the id becomes the first line of each event. It must not where the client takes an id for seen once it has
    /// the line; it must where a client takes it for that of the next data line.
    pub fn ids_first(self, ids_first: bool) -> Self {
        Self { ids_first, ..self }
    }

    /// Takes the next bytes of the response and pushes what they complete to `out`.
    ///
    /// A line ending of CR and LF that falls into two chunks is waited for, except where the line before ended with CR
    /// alone: there the event leaves at once, and an LF that follows after all is dropped.
    ///
    /// # Errors
    ///
    /// [`TooLong`] if an event exceeds the limit, however it is cut into chunks. What came before it is in `out`; for
    /// the rest there is [`Stamper::unread`].
    pub fn feed(&mut self, chunk: Bytes, out: &mut Vec<Piece>) -> Result<(), TooLong> {
        if self.held.is_empty() {
            let (used, result) = self.stamp(&chunk, false, out);
            self.held.extend_from_slice(&chunk[used..]);
            return result;
        }
        let mut held = mem::take(&mut self.held);
        held.extend_from_slice(&chunk);
        let (used, result) = self.stamp(&held, false, out);
        if used > 0 {
            held.drain(..used);
            held.shrink_to(KEEP_HELD);
        }
        self.held = held;
        result
    }

    /// The clean end of the response. A CR that might have become a CRLF is a whole ending now, which may complete an
    /// event. Returns what stands behind the last blank line, without id lines: a parser discards it, but there are
    /// readers that go line by line.
    pub fn finish(mut self, out: &mut Vec<Piece>) -> Bytes {
        let held = mem::take(&mut self.held);
        // Whatever is too long here was so when it was fed.
        let (used, _) = self.stamp(&held, true, out);
        let mut tail = BytesMut::with_capacity(held.len() - used);
        copy_edited(&held[used..], false, &mut tail);
        tail.freeze()
    }

    /// The bytes of the response that were taken but did not leave, as they came: for going on without a record.
    pub fn unread(self) -> Bytes {
        self.held.into()
    }

    /// How many bytes were taken but did not leave: never more than an event may have.
    pub fn held(&self) -> usize {
        self.held.len()
    }

    /// Stamps what `bytes` complete, and says how many that takes.
    fn stamp(&mut self, bytes: &[u8], eof: bool, out: &mut Vec<Piece>) -> (usize, Result<(), TooLong>) {
        let too_long = Err(TooLong { limit: self.max_event });
        let mut at = 0;
        while at < bytes.len() {
            let rest = &bytes[at..];
            let Some(Found { len, what }) = self.splitter.next(rest, eof) else {
                return (at, if rest.len() > self.max_event { too_long } else { Ok(()) });
            };
            if len > self.max_event {
                return (at, too_long);
            }
            let raw = &rest[..len];
            match what {
                What::Blank => {}
                What::Bom | What::Comment => {
                    out.push(Piece::Aside(self.arena.write(len, |to| to.put_slice(raw))));
                }
                What::Block { lines, ending, seen } if seen.data => {
                    let (lines, blank) = raw.split_at(lines);
                    out.push(Piece::Event(self.event(lines, blank, ending, seen)));
                }
                What::Block { lines, .. } => out.extend(self.aside(&raw[..lines]).map(Piece::Aside)),
            }
            at += len;
        }
        (at, Ok(()))
    }

    fn event(&mut self, lines: &[u8], blank: &[u8], ending: Ending, seen: Seen) -> Event {
        let mut native_id = None;
        let (prefix, next) = (self.prefix, self.next);
        let put_id = |to: &mut BytesMut| {
            to.put_slice(&prefix);
            put_decimal(next, to);
            // As the line did that stood last, of whatever kind: a CR must not meet the LF of the blank line.
            to.put_slice(ending.as_bytes());
        };
        let ids_first = self.ids_first;
        let bytes = self.arena.write(lines.len() + ID_LINE + blank.len(), |to| {
            if ids_first {
                put_id(to);
            }
            if seen.id || seen.marked {
                native_id = copy_edited(lines, false, to);
            } else {
                to.put_slice(lines);
            }
            if !ids_first {
                put_id(to);
            }
            to.put_slice(blank);
        });
        self.next += 1;
        self.set_native_id(native_id);
        Event { bytes, native_id: self.native_id.take() }
    }

    /// What is left of a block without data: without its blank line, some clients would take it for an event.
    fn aside(&mut self, lines: &[u8]) -> Option<Bytes> {
        let mut native_id = None;
        let bytes = self.arena.write(lines.len(), |to| native_id = copy_edited(lines, true, to));
        self.set_native_id(native_id);
        (!bytes.is_empty()).then_some(bytes)
    }

    fn set_native_id(&mut self, id: Option<&[u8]>) {
        if let Some(id) = id {
            self.native_id = Some(self.arena.write(id.len(), |to| to.put_slice(id)));
        }
    }
}

/// A stamped block, or whatever else consists of lines, without its id lines.
pub fn without_ids(block: &[u8]) -> Bytes {
    let mut bare = BytesMut::with_capacity(block.len());
    copy_edited(block, false, &mut bare);
    bare.freeze()
}

/// Copies lines without the id lines among them, and returns the last id that counts.
///
/// A line that must not be read where it comes to stand becomes a comment: one with a byte order mark, and, if
/// `mute_type`, an `event:` that would give its type to the next event.
fn copy_edited<'a>(bytes: &'a [u8], mute_type: bool, to: &mut BytesMut) -> Option<&'a [u8]> {
    let mut id = None;
    for line in lines(bytes) {
        match Field::of(line.text) {
            Field::Id => {
                // WHATWG HTML §9.2.6: an id with a NUL is ignored.
                id = Some(line.value()).filter(|id| memchr(0, id).is_none()).or(id);
                continue;
            }
            Field::Marked => to.put_u8(b':'),
            Field::Event if mute_type => to.put_u8(b':'),
            _ => {}
        }
        to.put_slice(line.raw);
    }
    id
}

/// Writes a number as decimal digits.
fn put_decimal(mut number: u64, to: &mut BytesMut) {
    let mut digits = [0; MAX_DIGITS];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    to.put_slice(&digits[at..]);
}

impl Arena {
    /// Greatest size of one allocation, in bytes: some dozens of the events that chat backends send.
    const BLOCK: usize = 8 * 1024;
    /// Size of the first. Each is twice the one before it: a turn that says little takes little.
    const FIRST: usize = 1024;

    /// What `fill` writes, about `len` bytes.
    fn write(&mut self, len: usize, fill: impl FnOnce(&mut BytesMut)) -> Bytes {
        // A large output gets memory of its own, so that no more than a quarter of a block is left unused.
        if len > Self::BLOCK / 4 {
            let mut own = BytesMut::with_capacity(len);
            fill(&mut own);
            return own.freeze();
        }
        if self.free.capacity() < len {
            self.last = (self.last * 2).clamp(Self::FIRST, Self::BLOCK);
            self.free = BytesMut::with_capacity(self.last.max(len));
        }
        fill(&mut self.free);
        self.free.split().freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN: &str = "abcdefghijklmnopqrstuvwxyz23";

    /// Asides in brackets, events with the turn written `T` and their native id behind a `~`, the tail behind a `$`.
    fn shown(chunks: &[&str]) -> String {
        let mut stamper = Stamper::new(TURN.parse().unwrap(), 1000);
        let mut out = Vec::new();
        for chunk in chunks {
            stamper.feed(Bytes::copy_from_slice(chunk.as_bytes()), &mut out).unwrap();
            out.push(Piece::Aside(Bytes::from_static(b"/")));
        }
        out.pop();
        let tail = stamper.finish(&mut out);
        let mut shown = String::new();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        for piece in out {
            match piece {
                Piece::Aside(lines) if lines == b"/"[..] => shown += "/",
                Piece::Aside(lines) => shown += &format!("[{}]", text(&lines)),
                Piece::Event(event) => {
                    shown += &text(&event.bytes).replace(TURN, "T");
                    if let Some(id) = event.native_id {
                        shown += &format!("~{}~", text(&id));
                    }
                }
            }
        }
        if !tail.is_empty() {
            shown += &format!("${}", text(&tail));
        }
        shown
    }

    #[track_caller]
    fn check<const N: usize>(chunks: [&str; N], expected: &str) {
        assert_eq!(shown(&chunks), expected);
    }

    #[test]
    fn the_id_goes_last_and_data_stays_first() {
        check(["data: a\n\nevent: e\ndata: b\n: c\n\n"], "data: a\nid: T-1\n\nevent: e\ndata: b\n: c\nid: T-2\n\n");
        check(["data\n\n"], "data\nid: T-1\n\n");
    }

    #[test]
    fn ids_can_be_taken_out_again() {
        let bare = |block: &str| String::from_utf8(without_ids(block.as_bytes()).to_vec()).unwrap();
        assert_eq!(bare("data: a\nid: T-1\n\n"), "data: a\n\n");
        assert_eq!(bare(": c\r\ndata: {\r\ndata: }\r\nid: T-1\r\n\r\n"), ": c\r\ndata: {\r\ndata: }\r\n\r\n");
    }

    #[test]
    fn the_id_goes_first_where_the_dialect_wants_it() {
        let mut stamper = Stamper::new(TURN.parse().unwrap(), 1000).ids_first(true);
        let mut out = Vec::new();
        stamper.feed(Bytes::from_static(b"id: 5\r\ndata: a\r\n\r\ndata: b\n\n"), &mut out).unwrap();
        let text = |piece: &Piece| match piece {
            Piece::Event(event) => String::from_utf8(event.bytes.to_vec()).unwrap().replace(TURN, "T"),
            Piece::Aside(_) => panic!("an aside"),
        };
        let all: Vec<_> = out.iter().map(text).collect();
        assert_eq!(all, ["id: T-1\r\ndata: a\r\n\r\n", "id: T-2\ndata: b\n\n"]);
    }

    #[test]
    fn each_line_keeps_its_ending_and_the_id_takes_the_last() {
        check(["data: a\r\n\r\n"], "data: a\r\nid: T-1\r\n\r\n");
        check(["data: a\r\rdata: b\r\r"], "data: a\rid: T-1\r\rdata: b\rid: T-2\r\r");
        check(["data: a\r\ndata: b\n\r\n"], "data: a\r\ndata: b\nid: T-1\n\r\n");
        check(["data: a\r\r\n"], "data: a\rid: T-1\r\r\n");
        check(["data: a\n\rx"], "data: a\nid: T-1\n\r$x");
    }

    #[test]
    fn a_removed_line_does_not_join_cr_and_lf() {
        check(["data: a\rid: 5\n\n"], "data: a\rid: T-1\n\n~5~");
        check(["retry: 1\rid: 5\n\ndata: a\n\n"], "[retry: 1\r]data: a\nid: T-1\n\n~5~");
    }

    #[test]
    fn chunks_may_end_anywhere() {
        check(["da", "ta: a", "\n", "\ndata: b\n\nd"], "///data: a\nid: T-1\n\ndata: b\nid: T-2\n\n$d");
    }

    #[test]
    fn half_a_crlf_is_waited_for() {
        check(["data: a\r", "\n\r", "\n"], "//data: a\r\nid: T-1\r\n\r\n");
        check(["data: a\r\n\r", "data: b"], "/data: a\r\nid: T-1\r\n\r$data: b");
        check(["data: a\n\r", "\n"], "/data: a\nid: T-1\n\r\n");
    }

    #[test]
    fn half_a_crlf_counts_at_the_end() {
        check(["data: a\r\n\r"], "data: a\r\nid: T-1\r\n\r");
        check([": a\r"], "[: a\r]");
    }

    #[test]
    fn where_lines_end_with_cr_the_event_leaves_at_once() {
        check(
            ["data: a\r\r", "\ndata: b\r\r", "data: c\r\r"],
            "data: a\rid: T-1\r\r/data: b\rid: T-2\r\r/data: c\rid: T-3\r\r",
        );
        check(["data: a\r\r", ": ping\r", "\n\r"], "data: a\rid: T-1\r\r/[: ping\r]/");
    }

    #[test]
    fn a_byte_order_mark_leads_and_hides_no_field() {
        check(["\u{feff}data: a\n\n"], "[\u{feff}]data: a\nid: T-1\n\n");
        check(["\u{feff}id: 5\n\ndata: a\n\n"], "[\u{feff}]data: a\nid: T-1\n\n~5~");
        check(["\u{feff}"], "[\u{feff}]");
    }

    #[test]
    fn a_byte_order_mark_elsewhere_is_not_read_by_who_resumes_there() {
        check(["data: a\n\n\u{feff}data: b\n\n"], "data: a\nid: T-1\n\n[:\u{feff}data: b\n]");
        check(["\u{feff}\u{feff}id: 5\ndata: b\n\n"], "[\u{feff}]:\u{feff}id: 5\ndata: b\nid: T-1\n\n");
    }

    #[test]
    fn a_split_byte_order_mark_is_one() {
        let mut stamper = Stamper::new(TURN.parse().unwrap(), 1000);
        let mut out = Vec::new();
        for byte in "\u{feff}data: a\n\n".bytes() {
            stamper.feed(Bytes::copy_from_slice(&[byte]), &mut out).unwrap();
        }
        assert_eq!(out[0], Piece::Aside("\u{feff}".into()));
        assert_eq!(out.len(), 2);
    }

    #[test]
    fn ids_of_the_backend_are_taken_off() {
        for line in ["id: 5", "id:5"] {
            check([&format!("{line}\ndata: a\n\n")], "data: a\nid: T-1\n\n~5~");
            check([&format!("data: a\n{line}\n: c\n\n")], "data: a\n: c\nid: T-1\n\n~5~");
        }
        check(["id: 5\ndata: a\nid: 6\n\n"], "data: a\nid: T-1\n\n~6~");
        check(["id\ndata: a\n\n"], "data: a\nid: T-1\n\n~~");
        check(["id: 5\0\ndata: a\n\n"], "data: a\nid: T-1\n\n");
        check(["id: 5\nid: 6\0\ndata: a\n\n"], "data: a\nid: T-1\n\n~5~");
    }

    #[test]
    fn the_id_of_a_block_without_data_goes_to_the_next_event_once() {
        check(["id: 5\n\ndata: a\n\ndata: b\n\n"], "data: a\nid: T-1\n\n~5~data: b\nid: T-2\n\n");
        check(["id: 5\n\nid: 6\ndata: a\n\n"], "data: a\nid: T-1\n\n~6~");
    }

    #[test]
    fn a_block_without_data_becomes_bare_lines() {
        check([": ping\r\n\r\ndata: a\n\n"], "[: ping\r\n]data: a\nid: T-1\n\n");
        check(["retry: 5\nid: 5\nx: y\n\ndata: a\n\n"], "[retry: 5\nx: y\n]data: a\nid: T-1\n\n~5~");
        check(["\n\r\n\rdata: a\n\n\n\n\n"], "data: a\nid: T-1\n\n");
    }

    #[test]
    fn a_type_without_data_does_not_become_that_of_the_next_event() {
        check(["event: e\n\ndata: a\n\n"], "[:event: e\n]data: a\nid: T-1\n\n");
        check(["event\n\n"], "[:event\n]");
    }

    #[test]
    fn a_keep_alive_does_not_wait_for_the_next_event() {
        check([": a\n", ": b\ndata: a", "\n: c\n", "\n"], "[: a\n]/[: b\n]//data: a\n: c\nid: T-1\n\n");
        check(["retry: 5\n", ": a\n", "\n"], "//[retry: 5\n: a\n]");
    }

    #[test]
    fn the_tail_is_given_back_without_ids() {
        check(["data: a\n\ndata: b\nid: 5\n"], "data: a\nid: T-1\n\n$data: b\n");
        check(["data: b\nid: 5"], "$data: b\n");
        check(["da"], "$da");
        check([], "");
    }

    #[test]
    fn an_event_that_is_too_long_ends_it_in_any_chunking() {
        let stream = "data: 1\n\n: ok\ndata: 234567\n\ndata: 8\n\n";
        let second = "data: 234567\n\n";
        for size in 1..=stream.len() {
            let run = |limit| {
                let mut stamper = Stamper::new(TURN.parse().unwrap(), limit);
                let mut out = Vec::new();
                let mut fed = 0;
                let result = stream.as_bytes().chunks(size).try_for_each(|chunk| {
                    fed += chunk.len();
                    stamper.feed(Bytes::copy_from_slice(chunk), &mut out)
                });
                (result, out.len(), fed, stamper.unread())
            };
            assert_eq!(run(second.len()), (Ok(()), 4, stream.len(), Bytes::new()));
            let (result, pieces, fed, unread) = run(second.len() - 1);
            assert_eq!(result, Err(TooLong { limit: second.len() - 1 }));
            assert_eq!(pieces, 2, "what came before is kept");
            assert_eq!(unread, &stream.as_bytes()[stream.find(second).unwrap()..fed]);
        }
    }

    #[test]
    fn small_events_share_memory_and_large_ones_do_not() {
        let mut stamper = Stamper::new(TURN.parse().unwrap(), 1 << 20);
        let mut out = Vec::new();
        stamper.feed(Bytes::from_static(b"data: a\n\ndata: b\n\n"), &mut out).unwrap();
        let small = |piece: &Piece| match piece {
            Piece::Event(event) => event.bytes.as_ptr_range(),
            Piece::Aside(_) => panic!("an aside"),
        };
        assert_eq!(small(&out[0]).end, small(&out[1]).start);
        let large = format!("data: {}\n\ndata: c\n\n", "x".repeat(Arena::BLOCK));
        stamper.feed(large.into(), &mut out).unwrap();
        assert_eq!(small(&out[1]).end, small(&out[3]).start);
    }

    #[test]
    fn seqs_are_written_in_full() {
        for number in [0, 1, 9, 10, 123, u64::MAX] {
            let mut to = BytesMut::new();
            put_decimal(number, &mut to);
            assert_eq!(to, number.to_string());
        }
    }

    #[test]
    fn debug_output_keeps_the_content_to_itself() {
        let event = Event { bytes: Bytes::from_static(b"data: secret\n\n"), native_id: None };
        assert_eq!(format!("{:?}", Piece::Event(event)), "Event(14 bytes)");
    }
}
