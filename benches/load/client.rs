//! A client that checks what it gets: every event of a turn, in order, once. Anything else is an error, and an error
//! fails the run.

use std::{fmt, net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use memchr::{memchr, memmem, memrchr};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use super::event::{Event, Template, decimal};

/// A request for a turn, or for the rest of one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) path: String,
    /// Number of the last event that is there already.
    pub(crate) after: u64,
    pub(crate) last_event_id: Option<String>,
}

/// The answer to a request, being read.
pub(crate) struct Stream {
    socket: TcpStream,
    /// What came from the socket and is not decoded yet.
    raw: Vec<u8>,
    framing: Chunked,
    /// The answer's name for the turn, if the system under test records it.
    pub(crate) turn: Option<String>,
    checker: Checker,
}

/// Takes the chunked coding of HTTP/1.1 (RFC 9112 §7.1) off a body.
#[derive(Default)]
pub(crate) struct Chunked {
    state: Framing,
}

#[derive(Default)]
enum Framing {
    #[default]
    Size,
    Data(usize),
    DataEnd,
    Ended,
}

/// Reads the lines of an event stream and fails at the first event that is missing, doubled or wrongly named.
pub(crate) struct Checker {
    /// The begin of a line that is not complete yet.
    line: Vec<u8>,
    /// Number of the last event.
    n: u64,
    /// Whether the event that ends the turn was there.
    pub(crate) last: bool,
}

/// Bytes taken at a time of a long answer.
const BULK: usize = 256 << 10;
/// An event is missing or doubled. Whatever else a peer does may be reported; this fails the run.
#[derive(Debug)]
pub(crate) struct Wrong(String);

/// How long the system under test may stay silent while something is due.
const PATIENCE: Duration = Duration::from_secs(20);

impl Request {
    pub(crate) fn new(path: impl Into<String>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }

    /// The request on the wire. `close`: the connection is for this request alone.
    pub(crate) fn head(&self, host: SocketAddr, close: bool) -> String {
        let mut head = format!("GET {} HTTP/1.1\r\nhost: {host}\r\naccept: text/event-stream\r\n", self.path);
        if let Some(id) = &self.last_event_id {
            head += &format!("last-event-id: {id}\r\n");
        }
        if close {
            head += "connection: close\r\n";
        }
        head + "\r\n"
    }

    /// Sends it on a connection of its own and reads the answer's header.
    pub(crate) async fn open(&self, to: SocketAddr) -> Result<Stream> {
        timeout(PATIENCE, self.opened(to)).await.with_context(|| format!("no answer to {}", self.path))?
    }

    async fn opened(&self, to: SocketAddr) -> Result<Stream> {
        let mut socket = TcpStream::connect(to).await?;
        socket.set_nodelay(true)?;
        socket.write_all(self.head(to, false).as_bytes()).await?;
        let mut raw = Vec::with_capacity(4 << 10);
        let body = loop {
            ensure!(socket.read_buf(&mut raw).await? > 0, "the connection closed before the header");
            if let Some(end) = memmem::find(&raw, b"\r\n\r\n") {
                break end + 4;
            }
        };
        let turn = header(&raw[..body])?;
        raw.drain(..body);
        let checker = Checker::after(self.after);
        Ok(Stream { socket, raw, framing: Chunked::default(), turn, checker })
    }
}

/// Checks the header of an answer, and returns its name for the turn.
pub(crate) fn header(head: &[u8]) -> Result<Option<String>> {
    let head = std::str::from_utf8(head)?;
    let mut lines = head.lines();
    let status = lines.next().unwrap_or_default();
    ensure!(status.starts_with("HTTP/1.1 200"), "the answer is {status:?}");
    let (mut turn, mut chunked) = (None, false);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        chunked |= name.eq_ignore_ascii_case("transfer-encoding") && value == "chunked";
        if ["holdover-turn", "x-stream-id"].iter().any(|known| name.eq_ignore_ascii_case(known)) {
            turn = Some(value.to_owned());
        }
    }
    ensure!(chunked, "the answer is not chunked: {head}");
    Ok(turn)
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Wrong {}

impl Stream {
    /// Waits for more of the answer and hands its events to `each`. Returns whether there can be more.
    pub(crate) async fn read(&mut self, mut each: impl FnMut(&Event)) -> Result<bool> {
        let Self { socket, raw, framing, checker, .. } = self;
        loop {
            let used = framing.decode(raw, |text| checker.feed(text, &mut each))?;
            raw.drain(..used);
            if framing.ended() {
                ensure!(checker.last, "the answer ended cleanly after event {}, before the turn did", checker.n);
                return Ok(false);
            }
            if used > 0 {
                return Ok(true);
            }
            let came = timeout(PATIENCE, socket.read_buf(raw)).await.context("an event did not come")??;
            ensure!(came > 0, "the connection broke after event {}", checker.n);
        }
    }

    /// Number of the last event that came.
    pub(crate) fn n(&self) -> u64 {
        self.checker.n
    }

    /// Takes more at a time from now on: for long answers.
    pub(crate) fn in_bulk(mut self) -> Self {
        self.raw.reserve(BULK);
        self
    }
}

impl Chunked {
    /// Hands the body bytes in `raw` on. Returns how much of it was used; the rest is needed again, with more.
    pub(crate) fn decode(&mut self, raw: &[u8], mut body: impl FnMut(&[u8]) -> Result<()>) -> Result<usize> {
        let mut at = 0;
        loop {
            let rest = &raw[at..];
            match self.state {
                Framing::Size => {
                    let Some(end) = memmem::find(rest, b"\r\n") else { return Ok(at) };
                    let size = usize::from_str_radix(std::str::from_utf8(&rest[..end])?, 16)?;
                    if size == 0 {
                        // No trailers are sent here: the blank line ends the body.
                        if rest.len() < end + 4 {
                            return Ok(at);
                        }
                        ensure!(rest[end..].starts_with(b"\r\n\r\n"), "a trailer");
                        self.state = Framing::Ended;
                        at += end + 4;
                    } else {
                        self.state = Framing::Data(size);
                        at += end + 2;
                    }
                }
                Framing::Data(left) => {
                    if rest.is_empty() {
                        return Ok(at);
                    }
                    let here = left.min(rest.len());
                    body(&rest[..here])?;
                    self.state = if here == left { Framing::DataEnd } else { Framing::Data(left - here) };
                    at += here;
                }
                Framing::DataEnd => {
                    if rest.len() < 2 {
                        return Ok(at);
                    }
                    ensure!(rest.starts_with(b"\r\n"), "a chunk that does not end where it said");
                    self.state = Framing::Size;
                    at += 2;
                }
                Framing::Ended => {
                    ensure!(rest.is_empty(), "bytes after the end of the answer");
                    return Ok(at);
                }
            }
        }
    }

    pub(crate) fn ended(&self) -> bool {
        matches!(self.state, Framing::Ended)
    }
}

/// Shows that a gap, a double and a wrong id are noticed: a check that cannot fail would make any figure look good.
pub(crate) fn prove() -> Result<()> {
    let notices = |numbers: &[u64], id: u64| {
        let mut checker = Checker::after(0);
        let stream = numbers.iter().flat_map(|&n| Template::new().write(Event { n, sent: 0, last: false }).to_vec());
        let stream: Vec<u8> = stream.chain(format!("id: turn-{id}\n").into_bytes()).collect();
        // In pieces that end anywhere, as from a socket.
        stream.chunks(7).any(|piece| checker.feed(piece, &mut |_| {}).is_err())
    };
    ensure!(!notices(&[1, 2, 3], 3), "the check refuses a whole turn");
    ensure!(notices(&[1, 3], 3), "the check misses a gap");
    ensure!(notices(&[1, 2, 2], 2), "the check misses a double");
    ensure!(notices(&[1, 2], 1), "the check misses a wrong id");
    Ok(())
}

impl Checker {
    /// A checker of what follows event `n`.
    pub(crate) fn after(n: u64) -> Self {
        Self { line: Vec::new(), n, last: false }
    }

    /// Takes the next bytes of the stream.
    pub(crate) fn feed(&mut self, mut text: &[u8], each: &mut impl FnMut(&Event)) -> Result<()> {
        while let Some(end) = memchr(b'\n', text) {
            if self.line.is_empty() {
                self.line(&text[..end], each)?;
            } else {
                self.line.extend_from_slice(&text[..end]);
                let line = std::mem::take(&mut self.line);
                self.line(&line, each)?;
            }
            text = &text[end + 1..];
        }
        self.line.extend_from_slice(text);
        Ok(())
    }

    fn line(&mut self, line: &[u8], each: &mut impl FnMut(&Event)) -> Result<()> {
        if let Some(event) = Event::parse(line)? {
            if event.n != self.n + 1 {
                let what = if event.n <= self.n { "a double" } else { "a gap" };
                bail!(Wrong(format!("{what}: event {} came after event {}", event.n, self.n)));
            }
            ensure!(!self.last, "an event after the last");
            self.n = event.n;
            self.last = event.last;
            each(&event);
        } else if let Some(id) = line.strip_prefix(b"id: ") {
            let seq = memrchr(b'-', id).and_then(|dash| decimal(&id[dash + 1..]));
            ensure!(seq == Some(self.n), "event {} is named {}", self.n, String::from_utf8_lossy(id));
        }
        Ok(())
    }
}
