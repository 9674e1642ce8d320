//! What independent parsers make of a stamped stream: the same events as of the original, with contiguous ids.
//!
//! The judges are Chromium's EventSource and httpx-sse. `HOLDOVER_SEED=x` replays the streams of a failure.

use bytes::Bytes;
use data_encoding::BASE64;
use holdover::sse::{Piece, Stamper, TurnId};
use serde_json::{Value, json};

use crate::support::{Parsed, Random, Script};

/// Streams of one run.
const STREAMS: usize = 300;

/// A byte order mark.
const BOM: &[u8] = b"\xef\xbb\xbf";

const TURN: &str = "abcdefghijklmnopqrstuvwxyz23";

/// Bytes that are mostly made of what means something in an event stream.
fn stream(random: &mut Random) -> Vec<u8> {
    const WORDS: [&[u8]; 44] = [
        b"data: ",
        b"data: ",
        b"data:",
        b"data",
        b"data: x\n\n",
        b"data: \xe2\x82\xac\r\n",
        b"data: a\rdata: b\r",
        b"id: ",
        b"id:",
        b"id",
        b"id: 7\n",
        b"id: x\0y\n",
        b"id: abcdefghijklmnopqrstuvwxyz23-9\r\n",
        b"event: ",
        b"event:",
        b"event",
        b"event: token\n",
        b"event: \r\n",
        b"retry: 5",
        b"retry: 5\n",
        b"retry: x\r",
        b": ",
        b":",
        b": ping\r\n\r\n",
        b": note\n",
        b"unknown: y\n",
        b"DATA: no\n",
        b" ",
        b"x",
        b"\0",
        b"\x0b",
        b"\xef\xbb\xbf",
        b"\xc3\xa9",
        b"\xe2\x80\xa8",
        b"\xf0\x9f\x98\x80",
        b"\n",
        b"\r",
        b"\r\n",
        b"\n\n",
        b"\r\r",
        b"\r\n\r\n",
        b"\n\r",
        b"\n\n\n",
        b"\r\n\n",
    ];
    let mut bytes = if random.below(8) == 0 { BOM.to_vec() } else { Vec::new() };
    for _ in 0..random.below(50) {
        bytes.extend_from_slice(WORDS[random.below(WORDS.len())]);
    }
    if random.below(20) == 0 {
        bytes.splice(0..0, [b"data: ", &[b'y'; 70_000][..], b"\n\n"].concat());
    }
    bytes
}

/// What Holdover makes of a stream that comes in pieces of random sizes.
fn stamped(stream: &[u8], random: &mut Random) -> Vec<u8> {
    let mut stamper = Stamper::new(TURN.parse::<TurnId>().expect("it has the form"), usize::MAX);
    let (mut pieces, mut rest) = (Vec::new(), stream);
    let most = [1, 3, 30, 100_000][random.below(4)];
    while !rest.is_empty() {
        let (chunk, more) = rest.split_at((1 + random.below(most)).min(rest.len()));
        stamper.feed(Bytes::copy_from_slice(chunk), &mut pieces).expect("nothing is too long");
        rest = more;
    }
    let tail = stamper.finish(&mut pieces);
    let bytes = pieces.into_iter().map(|piece| match piece {
        Piece::Aside(lines) => lines,
        Piece::Event(event) => event.bytes,
    });
    bytes.chain([tail]).collect::<Vec<_>>().concat()
}

/// Runs a judge over streams; gives what it read from each.
async fn judged(judge: Script, streams: impl Iterator<Item = &Vec<u8>>) -> Vec<Vec<Parsed>> {
    let mut judge = judge.start();
    judge.feed(streams.map(|stream| format!("{}\n", json!({ "bytes": BASE64.encode(stream) }))).collect());
    let read = |line: String| -> Vec<Parsed> {
        let mut verdict: Value = serde_json::from_str(&line).expect("judges print JSON");
        serde_json::from_value(verdict["events"].take()).expect("a judge names id, type and data")
    };
    judge.rest().await.into_iter().map(read).collect()
}

/// Has `judge` read streams before and after; `same` compares.
async fn agrees(judge: Script, mut same: impl FnMut(&[u8], &[Parsed], &[Parsed])) {
    let mut random = Random::any();
    let originals: Vec<_> = (0..STREAMS).map(|_| stream(&mut random)).collect();
    let stamped: Vec<_> = originals.iter().map(|original| stamped(original, &mut random)).collect();
    let verdicts = judged(judge, originals.iter().chain(&stamped)).await;
    assert_eq!(verdicts.len(), 2 * STREAMS, "the judge gave up");
    let (before, after) = verdicts.split_at(STREAMS);
    assert!(before.iter().flatten().count() > STREAMS, "the streams say too little");
    for (index, original) in originals.iter().enumerate() {
        same(original, &before[index], &after[index]);
    }
}

/// Without the ids, and what they belong to.
fn said(event: &Parsed) -> (&str, &str) {
    (&event.kind, &event.data)
}

/// Behind a byte order mark that is alone in its line it skips a line, which the standard does not; Holdover sends no such
/// line, so these streams are left out.
#[tokio::test]
async fn chromium() {
    agrees(Script::node("judge.mjs"), |stream, before, after| {
        if stream.strip_prefix(BOM).is_some_and(|rest| rest.starts_with(b"\r") || rest.starts_with(b"\n")) {
            return;
        }
        let shown = String::from_utf8_lossy(stream);
        let [before, read] = [before, after].map(|events| events.iter().map(said).collect::<Vec<_>>());
        assert_eq!(read, before, "{shown:?}");
        let ids: Vec<_> = after.iter().map(|event| event.id.clone().unwrap_or_default()).collect();
        assert_eq!(ids, (1..=after.len()).map(|n| format!("{TURN}-{n}")).collect::<Vec<_>>(), "{shown:?}");
    })
    .await;
}

/// It yields an event without data at every blank line behind a field that is none of `data`. Holdover sends no block
/// without data, so these are left out; a byte order mark it takes for text, so a stream that begins with one is too.
#[tokio::test]
async fn httpx_sse() {
    agrees(Script::python("judge.py"), |stream, before, after| {
        if stream.starts_with(BOM) {
            return;
        }
        let told = |events: &[Parsed]| -> Vec<(String, String)> {
            let owned = |event: &Parsed| (event.kind.clone(), event.data.clone());
            events.iter().filter(|event| !event.data.is_empty()).map(owned).collect()
        };
        assert_eq!(told(after), told(before), "{:?}", String::from_utf8_lossy(stream));
    })
    .await;
}
