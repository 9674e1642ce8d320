//! A TCP proxy that cuts event streams.
//!
//! It understands HTTP/1.1 answers well enough to count events in them, chunk by chunk, and passes everything on as it
//! comes. The n-th event stream that passes meets the n-th cut of the script; all later ones pass whole. Answers to HEAD
//! are not understood: nobody asks for an event stream with it. [`FaultProxy::cut_all`] cuts at a moment instead.

use std::{
    collections::VecDeque,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::watch,
    task::JoinSet,
};

use super::{
    eventually,
    wire::{Framing, Head},
};

/// How a connection is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum How {
    /// Closed, as a proxy that times out does.
    Fin,
    /// Reset, as a network that changes does.
    Reset,
}

/// Where an event stream is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cut {
    events: usize,
    bytes: usize,
    how: How,
}

impl Cut {
    /// After so many whole events.
    pub(crate) fn after(events: usize, how: How) -> Self {
        Self::inside(events, 0, how)
    }

    /// After so many whole events and so many bytes of the next one.
    pub(crate) fn inside(events: usize, bytes: usize, how: How) -> Self {
        Self { events, bytes, how }
    }

    /// `count` cuts out of a seed, each after at most `most` events, half of them inside an event.
    pub(crate) fn seeded(seed: u64, count: usize, most: usize) -> Vec<Self> {
        let mut state = seed;
        let mut random = move |below: usize| {
            // SplitMix64: small, and every seed gives another sequence.
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = state;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            ((mixed ^ (mixed >> 31)) % below as u64) as usize
        };
        let mut cut = |_| {
            let how = if random(2) == 0 { How::Fin } else { How::Reset };
            let bytes = if random(2) == 0 { 0 } else { 1 + random(12) };
            Self::inside(random(most + 1), bytes, how)
        };
        (0..count).map(&mut cut).collect()
    }
}

/// See the module. Dropped, it closes its connections.
pub(crate) struct FaultProxy {
    address: SocketAddr,
    books: Arc<Books>,
    _serving: JoinSet<()>,
}

#[derive(Debug, Default)]
struct Books {
    connections: AtomicUsize,
    streams: AtomicUsize,
    cuts: AtomicUsize,
    /// How all connections are cut that are open when it changes.
    all: watch::Sender<Option<How>>,
    script: Mutex<VecDeque<Cut>>,
}

impl FaultProxy {
    /// A proxy to `target` that cuts as `script` says.
    pub(crate) async fn start(target: SocketAddr, script: impl IntoIterator<Item = Cut>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let books = Arc::new(Books { script: Mutex::new(script.into_iter().collect()), ..Books::default() });
        let mut serving = JoinSet::new();
        let kept = books.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                kept.connections.fetch_add(1, Ordering::Relaxed);
                if let Ok(server) = TcpStream::connect(target).await {
                    connections.spawn(pass(client, server, kept.clone()));
                }
            }
        });
        Self { address, books, _serving: serving }
    }

    /// From now on, event streams that begin meet these cuts.
    pub(crate) fn schedule(&self, cuts: impl IntoIterator<Item = Cut>) {
        *self.books.script.lock().expect("nobody panics with it") = cuts.into_iter().collect();
    }

    /// Where clients connect.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections so far.
    pub(crate) fn connections(&self) -> usize {
        self.books.connections.load(Ordering::Relaxed)
    }

    /// Event streams so far that have begun.
    pub(crate) fn streams(&self) -> usize {
        self.books.streams.load(Ordering::Relaxed)
    }

    /// Waits until this many event streams have begun.
    pub(crate) async fn streams_are(&self, least: usize) {
        let what = format!("event stream number {least} to begin");
        eventually(what, || async { (self.streams() >= least).then_some(()) }).await;
    }

    /// Cuts every connection that is open, whatever passes on it.
    pub(crate) fn cut_all(&self, how: How) {
        self.books.all.send_replace(Some(how));
    }

    /// Cuts so far, those of [`FaultProxy::cut_all`] not counted.
    pub(crate) fn cuts(&self) -> usize {
        self.books.cuts.load(Ordering::Relaxed)
    }
}

async fn pass(mut client: TcpStream, mut server: TcpStream, books: Arc<Books>) {
    for stream in [&client, &server] {
        stream.set_nodelay(true).expect("a connected socket takes options");
    }
    let mut all = books.all.subscribe();
    let cut = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        tokio::select! {
            cut = down(from_server, to_client, &books) => cut,
            () = up(from_client, to_server) => unreachable!("it waits for the other direction"),
            _ = all.changed() => *all.borrow(),
        }
    };
    drop(server);
    match cut {
        Some(How::Reset) => client.set_zero_linger().expect("a connected socket takes options"),
        Some(How::Fin) | None => {
            let _ = client.shutdown().await;
            // Closing with something unread would be a reset.
            let _ = tokio::io::copy(&mut client, &mut tokio::io::sink()).await;
        }
    }
}

/// Passes on what the client sends, its half-close too.
async fn up(mut client: ReadHalf<'_>, mut server: WriteHalf<'_>) {
    let _ = tokio::io::copy(&mut client, &mut server).await;
    let _ = server.shutdown().await;
    std::future::pending().await
}

/// Passes answers on to their end, or to a cut.
async fn down(mut server: ReadHalf<'_>, mut client: WriteHalf<'_>, books: &Books) -> Option<How> {
    let mut answers = Answers { state: State::Head(Vec::new()), cut: None, line: 0 };
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = server.read(&mut buffer).await.ok().filter(|length| *length > 0)?;
        let cut = buffer[..length].iter().position(|byte| answers.take(*byte, books));
        let passed = cut.map_or(length, |at| at + 1);
        client.write_all(&buffer[..passed]).await.ok()?;
        if cut.is_some() {
            books.cuts.fetch_add(1, Ordering::Relaxed);
            return answers.cut.map(|cut| cut.how);
        }
    }
}

/// The answers on one connection, byte by byte.
struct Answers {
    state: State,
    /// What is left of the cut that this stream meets.
    cut: Option<Cut>,
    /// Bytes of the line that is being read, without its end.
    line: usize,
}

enum State {
    Head(Vec<u8>),
    Length(u64),
    ChunkSize(Vec<u8>),
    Chunk(u64),
    /// Bytes left of the line break behind a chunk.
    ChunkEnd(u8),
    Trailers(Vec<u8>),
    UntilClose,
}

impl Answers {
    /// Whether the connection is cut behind this byte.
    fn take(&mut self, byte: u8, books: &Books) -> bool {
        match &mut self.state {
            State::Head(head) => {
                head.push(byte);
                if head.ends_with(b"\r\n\r\n") {
                    let head = Head::parse(&std::mem::take(head));
                    return self.begin(&head, books);
                }
            }
            State::Length(left) => {
                *left -= 1;
                if *left == 0 {
                    self.state = State::Head(Vec::new());
                }
                return self.counts(byte);
            }
            State::UntilClose => return self.counts(byte),
            State::ChunkSize(line) => {
                line.push(byte);
                if let Some(size) = line.strip_suffix(b"\r\n") {
                    let size = String::from_utf8_lossy(size);
                    let size = u64::from_str_radix(size.trim(), 16).expect("a chunk size");
                    self.state = if size == 0 { State::Trailers(Vec::new()) } else { State::Chunk(size) };
                }
            }
            State::Chunk(left) => {
                *left -= 1;
                if *left == 0 {
                    self.state = State::ChunkEnd(2);
                }
                return self.counts(byte);
            }
            State::ChunkEnd(left) => {
                *left -= 1;
                if *left == 0 {
                    self.state = State::ChunkSize(Vec::new());
                }
            }
            State::Trailers(lines) => {
                lines.push(byte);
                if lines == b"\r\n" || lines.ends_with(b"\r\n\r\n") {
                    self.state = State::Head(Vec::new());
                }
            }
        }
        false
    }

    fn begin(&mut self, head: &Head, books: &Books) -> bool {
        self.state = match Framing::of_response(head, "") {
            _ if head.status() == 101 => State::UntilClose,
            Framing::Length(0) => State::Head(Vec::new()),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::ChunkSize(Vec::new()),
            Framing::UntilClose => State::UntilClose,
        };
        let streams =
            head.status() == 200 && head.get("content-type").is_some_and(|t| t.starts_with("text/event-stream"));
        self.line = 0;
        self.cut = None;
        if streams {
            books.streams.fetch_add(1, Ordering::Relaxed);
            self.cut = books.script.lock().expect("nobody panics with it").pop_front();
        }
        self.reached()
    }

    /// Counts a byte of a body.
    fn counts(&mut self, byte: u8) -> bool {
        let Some(cut) = &mut self.cut else { return false };
        if cut.events == 0 {
            cut.bytes = cut.bytes.saturating_sub(1);
        } else if byte == b'\n' {
            let blank = self.line == 0;
            self.line = 0;
            cut.events -= usize::from(blank);
        } else if byte != b'\r' {
            self.line += 1;
        }
        self.reached()
    }

    fn reached(&self) -> bool {
        self.cut.is_some_and(|cut| cut.events == 0 && cut.bytes == 0)
    }
}
