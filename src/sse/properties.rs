//! What the module promises for any stream in any chunking, judged by parsers that know nothing of it.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use eventsource_stream::Eventsource;
use futures_util::{FutureExt, StreamExt, stream};
use proptest::{collection::vec, prelude::*, sample::select};

use super::{
    Cursor, Event, EventId, Piece, Stamper, TurnId,
    whatwg::{self, Dispatched},
    with_retry,
};

const TURN: &str = "abcdefghijklmnopqrstuvwxyz23";
const BOM: &[u8] = b"\xef\xbb\xbf";

/// All that came out for a stream.
struct Output {
    pieces: Vec<Piece>,
    tail: Bytes,
}

impl Output {
    /// Feeds the stream in chunks of the given lengths, over and over.
    fn of(stream: &[u8], chunks: &[usize]) -> Self {
        let mut stamper = Stamper::new(turn(), usize::MAX);
        let mut pieces = Vec::new();
        let mut rest = stream;
        for &len in chunks.iter().cycle() {
            let (chunk, more) = rest.split_at(len.min(rest.len()));
            stamper.feed(Bytes::copy_from_slice(chunk), &mut pieces).expect("nothing is too long");
            rest = more;
            if rest.is_empty() {
                break;
            }
        }
        let tail = stamper.finish(&mut pieces);
        Self { pieces, tail }
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.pieces.iter().filter_map(|piece| match piece {
            Piece::Event(event) => Some(event),
            Piece::Aside(_) => None,
        })
    }

    /// What a client receives.
    fn joined(&self) -> Vec<u8> {
        let piece = |piece: &Piece| match piece {
            Piece::Aside(lines) => lines.clone(),
            Piece::Event(event) => event.bytes.clone(),
        };
        self.pieces.iter().map(piece).chain([self.tail.clone()]).collect::<Vec<_>>().concat()
    }
}

fn turn() -> TurnId {
    TURN.parse().expect("it has the form")
}

fn our_id(index: usize) -> String {
    format!("{TURN}-{}", index + 1)
}

fn without_ids(events: &[Dispatched]) -> Vec<(&str, &str, &str)> {
    events.iter().map(|event| (&*event.kind, &*event.data, &*event.retry)).collect()
}

/// Bytes that are mostly made of what means something in an event stream.
fn any_stream() -> impl Strategy<Value = Vec<u8>> {
    let names: Vec<&[u8]> = vec![b"data: ", b"data:", b"data", b"id: ", b"id:", b"id", b"event: ", b"event:", b"event"];
    let words: Vec<&[u8]> = vec![b"retry: ", b"retry", b"5", b":", b": ", b" ", b"x", b"DATA: ", b"\0", BOM, b"\x0b"];
    let utf8: Vec<&[u8]> = vec![b"\xef\xbb", b"\xbf", b"\xe2\x82\xac", b"\xf0\x9f", b"\xff", b"\x80", b"\xe2\x80\xa8"];
    let ids: Vec<&[u8]> = vec![b"zyxwvutsrqponmlkjihgfedcba76-7", b"abcdefghijklmnopqrstuvwxyz23-1"];
    let ends: Vec<&[u8]> = vec![b"\n", b"\r", b"\r\n", b"\n\n", b"\r\r", b"\r\n\r\n", b"\n\r"];
    let token = prop_oneof![
        12 => select(names).prop_map(<[u8]>::to_vec),
        12 => select(words).prop_map(<[u8]>::to_vec),
        4 => select(utf8).prop_map(<[u8]>::to_vec),
        2 => select(ids).prop_map(<[u8]>::to_vec),
        20 => select(ends).prop_map(<[u8]>::to_vec),
        4 => select(vec!["data: x\n", "data: x\r", "data: x\r\n", "data: x\n\n", "id: 5\r\n", "\r\nid: 6\n", ": c\r"])
            .prop_map(|line| line.as_bytes().to_vec()),
        3 => vec(any::<u8>(), 0..4),
        1 => (1usize..20_000).prop_map(|len| vec![b'y'; len]),
    ];
    (prop::bool::weighted(0.1), vec(token, 0..60))
        .prop_map(|(bom, tokens)| [if bom { BOM } else { b"" }, &tokens.concat()].concat())
}

/// A stream as a sound backend writes it: one kind of line ending, data in every block. With ids of its own, or without.
fn sound_stream(ids: bool) -> impl Strategy<Value = String> {
    let text = select(vec!["", "x", "{\"delta\":\"é\"}", " two  blanks", "id: 5", "[DONE]", "a:b", "\u{feff}"]);
    let name = select(vec!["data: ", "data:", "event: ", "retry: 1", ": ", ":", "unknown: ", "x"]);
    let line = (name, text.clone()).prop_map(|(name, text)| format!("{name}{text}"));
    let id = text.prop_map(move |text| ids.then(|| format!("id: {text}")));
    let block = (vec(line.clone(), 0..4), id, vec(line, 0..3)).prop_map(|(before, id, after)| {
        before.into_iter().chain(id).chain(["data: always".to_owned()]).chain(after).chain(["".to_owned()])
    });
    let ending = select(vec!["\n", "\r", "\r\n"]);
    (prop::bool::ANY, ending, vec(block, 0..8)).prop_map(|(bom, ending, blocks)| {
        let lines = blocks.into_iter().flatten().map(|line| line + ending);
        [if bom { "\u{feff}".to_owned() } else { String::new() }].into_iter().chain(lines).collect()
    })
}

fn chunks() -> impl Strategy<Value = Vec<usize>> {
    prop_oneof![Just(vec![usize::MAX]), Just(vec![1]), vec(1usize..30, 1..8)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4 * ProptestConfig::default().cases, ..ProptestConfig::default() })]

    #[test]
    fn a_parser_reads_the_same_with_our_ids(stream in any_stream(), chunks in chunks()) {
        let (before, after) = (whatwg::parse(&stream), whatwg::parse(&Output::of(&stream, &chunks).joined()));
        prop_assert_eq!(without_ids(&before.events), without_ids(&after.events));
        prop_assert_eq!(before.retry, after.retry);
        for (index, event) in after.events.iter().enumerate() {
            prop_assert_eq!(&event.last_event_id, &our_id(index));
        }
    }

    #[test]
    fn native_ids_are_those_a_parser_would_have_seen(stream in any_stream(), chunks in chunks()) {
        let output = Output::of(&stream, &chunks);
        let mut last = String::new();
        let seen = output.events().map(|event| {
            if let Some(id) = &event.native_id {
                last = String::from_utf8_lossy(id).into_owned();
            }
            last.clone()
        });
        let expected = whatwg::parse(&stream).events.into_iter().map(|event| event.last_event_id);
        prop_assert_eq!(seen.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }

    /// Without a byte order mark: that parser panics at one.
    #[test]
    fn another_parser_agrees(stream in sound_stream(true), chunks in chunks()) {
        let stream = stream.trim_start_matches('\u{feff}');
        let read = |bytes: Vec<u8>| -> Vec<_> {
            // This one waits for what follows a CR, also where an event ends.
            stream::iter([Ok::<_, Infallible>([bytes, b":\n".to_vec()].concat())])
                .eventsource()
                .map(|event| event.expect("the stream is sound"))
                .map(|event| (event.event, event.data, event.id))
                .collect::<Vec<_>>()
                .now_or_never()
                .expect("nothing waits")
        };
        let before = read(stream.into());
        let after = read(Output::of(stream.as_bytes(), &chunks).joined());
        prop_assert_eq!(before.len(), stream.matches("data: always").count());
        prop_assert_eq!(before.len(), after.len());
        for (index, (before, after)) in before.into_iter().zip(after).enumerate() {
            prop_assert_eq!((before.0, before.1, our_id(index)), after);
        }
    }

    /// But for an LF that follows, in a chunk of its own, a CR that ended an event: it may be dropped.
    #[test]
    fn chunking_does_not_matter(stream in any_stream(), one in chunks(), other in chunks()) {
        let (one, other) = (Output::of(&stream, &one), Output::of(&stream, &other));
        let all = |output: &Output| String::from_utf8_lossy(&output.joined()).replace("\r\n", "\r");
        prop_assert_eq!(all(&one), all(&other));
        let events = |output: &Output| -> Vec<_> {
            let text = |event: &Event| String::from_utf8_lossy(&event.bytes).replace("\r\n", "\r");
            output.events().map(|event| (text(event), event.native_id.clone())).collect()
        };
        prop_assert_eq!(events(&one), events(&other));
    }

    #[test]
    fn chunking_does_not_matter_to_a_byte_in_sound_streams(stream in sound_stream(true), one in chunks(), other in chunks()) {
        prop_assert_eq!(Output::of(stream.as_bytes(), &one).joined(), Output::of(stream.as_bytes(), &other).joined());
    }

    #[test]
    fn nothing_changes_but_the_id_lines(stream in sound_stream(false), chunks in chunks()) {
        let output = Output::of(stream.as_bytes(), &chunks);
        let mut bytes = String::from_utf8(output.joined()).unwrap();
        for index in 0..output.events().count() {
            let at = bytes.find(&format!("id: {}", our_id(index))).expect("each event has its id");
            let line = bytes[at..].find(['\r', '\n']).expect("the line ends");
            let ending = if bytes[at + line..].starts_with("\r\n") { 2 } else { 1 };
            bytes.replace_range(at..at + line + ending, "");
        }
        prop_assert_eq!(bytes, stream);
    }

    #[test]
    fn every_event_has_data_and_asides_have_nothing_to_read(stream in any_stream(), chunks in chunks()) {
        let output = Output::of(&stream, &chunks);
        for (index, event) in output.events().enumerate() {
            let parsed = whatwg::parse(&event.bytes).events;
            prop_assert_eq!(parsed.len(), 1);
            prop_assert_eq!(&parsed[0].last_event_id, &our_id(index));
        }
        for piece in output.pieces {
            let Piece::Aside(aside) = piece else { continue };
            if aside == BOM {
                continue;
            }
            prop_assert!(aside.ends_with(b"\n") || aside.ends_with(b"\r"));
            for line in whatwg::complete_lines(&aside) {
                prop_assert!(!line.is_empty());
                let name = whatwg::field(&line).map(|(name, _)| name);
                prop_assert!(!matches!(name, Some("data" | "event" | "id")), "{:?}", line);
            }
        }
    }

    /// Line by line, as clients read that take an id before its event is whole; also from any event on, where the first
    /// line of a resumed connection may lose a byte order mark.
    #[test]
    fn no_id_but_ours_is_ever_a_line(stream in any_stream(), chunks in chunks()) {
        let output = Output::of(&stream, &chunks);
        for from in 0..=output.pieces.len().min(3) {
            let rest = Output { pieces: output.pieces[from..].to_vec(), tail: output.tail.clone() };
            let skipped = output.events().count() - rest.events().count();
            let mut next = skipped;
            for line in whatwg::complete_lines(&[&rest.joined()[..], b"\n"].concat()) {
                if let Some(("id", value)) = whatwg::field(&line) {
                    prop_assert_eq!(value, our_id(next));
                    next += 1;
                }
            }
            prop_assert_eq!(next - skipped, rest.events().count());
        }
    }

    #[test]
    fn whoever_resumes_reads_the_same_rest(stream in any_stream(), chunks in chunks()) {
        let output = Output::of(&stream, &chunks);
        let all = whatwg::parse(&output.joined()).events;
        let ends = output.pieces.iter().enumerate().filter(|(_, piece)| matches!(piece, Piece::Event(_)));
        for (seen, (end, _)) in ends.enumerate() {
            let rest = Output { pieces: output.pieces[end + 1..].to_vec(), tail: output.tail.clone() };
            let resumed = whatwg::parse(&rest.joined()).events;
            let read = |events: &[Dispatched]| -> Vec<_> {
                events.iter().map(|e| (e.kind.clone(), e.data.clone(), e.last_event_id.clone())).collect()
            };
            prop_assert_eq!(read(&resumed), read(&all[seen + 1..]));
        }
    }

    #[test]
    fn memory_is_bounded_and_nothing_is_lost_by_it(stream in any_stream(), chunks in chunks(), limit in 4usize..200) {
        let mut stamper = Stamper::new(turn(), limit);
        let mut pieces = Vec::new();
        let mut rest = &stream[..];
        let mut tail = None;
        for &len in chunks.iter().cycle() {
            let (chunk, more) = rest.split_at(len.min(rest.len()));
            rest = more;
            if stamper.feed(Bytes::copy_from_slice(chunk), &mut pieces).is_err() {
                tail = Some([&stamper.unread()[..], rest].concat());
                break;
            }
            prop_assert!(stamper.held() <= limit);
            if rest.is_empty() {
                tail = Some(stamper.finish(&mut pieces).to_vec());
                break;
            }
        }
        let output = Output { pieces, tail: tail.expect("the loop ends so").into() };
        // Unread bytes are as they came: a mark that was not the first thing of the stream may now be.
        prop_assume!(stream.starts_with(BOM) || !output.joined().starts_with(BOM));
        let (before, after) = (whatwg::parse(&stream), whatwg::parse(&output.joined()));
        prop_assert_eq!(without_ids(&before.events), without_ids(&after.events));
    }

    #[test]
    fn retry_changes_nothing_else(stream in any_stream(), millis in 0u64..100_000) {
        let retry = Duration::from_millis(millis);
        for event in Output::of(&stream, &[usize::MAX]).events() {
            let (before, after) = (whatwg::parse(&event.bytes), whatwg::parse(&with_retry(&event.bytes, retry)));
            prop_assert_eq!(after.events.len(), 1);
            let own = super::has_retry(&event.bytes);
            prop_assert_eq!(&after.retry, &if own { before.retry } else { millis.to_string() });
            let plain = |event: &Dispatched| Dispatched { retry: String::new(), ..event.clone() };
            prop_assert_eq!(plain(&after.events[0]), plain(&before.events[0]));
        }
    }

    #[test]
    fn any_bytes_make_a_cursor(text in vec(any::<u8>(), 0..80)) {
        if let Cursor::After(id) = Cursor::parse(&text)
            && id.seq > 0
        {
            prop_assert_eq!(id.to_string().into_bytes(), text.trim_ascii());
        }
    }

    #[test]
    fn any_text_like_an_id_makes_a_cursor(text in "[a-z2-7]{27,29}-?-[0-9+ ]{0,22}") {
        if let Cursor::After(id) = Cursor::parse(text.as_bytes()) {
            let whole = id.to_string() == text.trim();
            let damaged = id.seq == 0 && text.starts_with(id.turn.as_str());
            prop_assert!(whole || damaged, "{id}");
        }
    }

    #[test]
    fn an_event_id_survives_its_text(tag in any::<[u8; 5]>(), random in any::<[u8; 13]>(), seq in any::<u64>()) {
        let id = EventId { turn: TurnId::new(tag, random), seq };
        let text = id.to_string();
        prop_assert!(text.len() <= EventId::MAX_LEN);
        prop_assert_eq!(Cursor::parse(text.as_bytes()), Cursor::After(id));
    }
}
