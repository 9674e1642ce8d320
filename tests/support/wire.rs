//! HTTP/1.1 on the wire, for both ends: heads, body framing, and how a body ended.

use std::fmt;

use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// A request or response head as it came: its first line, and its fields in their order.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// The first line.
    pub(crate) line: String,
    /// Names as they were written.
    pub(crate) fields: Vec<(String, String)>,
}

impl Head {
    /// Parses a head without the blank line that ends it.
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes);
        let mut lines = text.split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let field = |line: &str| {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            (name.to_owned(), value.trim().to_owned())
        };
        Self { line, fields: lines.filter(|line| !line.is_empty()).map(field).collect() }
    }

    /// The field's first value.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// All values of a field.
    pub(crate) fn all(&self, name: &str) -> Vec<&str> {
        let named = self.fields.iter().filter(|(known, _)| known.eq_ignore_ascii_case(name));
        named.map(|(_, value)| value.as_str()).collect()
    }

    /// Whether one of the members of a list field is `member`.
    pub(crate) fn lists(&self, name: &str, member: &str) -> bool {
        self.all(name).iter().flat_map(|value| value.split(',')).any(|known| known.trim().eq_ignore_ascii_case(member))
    }

    /// Of a response: its status code.
    pub(crate) fn status(&self) -> u16 {
        self.word(1).parse().unwrap_or_else(|_| panic!("no status line: {:?}", self.line))
    }

    /// Of a request: its method.
    pub(crate) fn method(&self) -> &str {
        self.word(0)
    }

    /// Of a request: its target.
    pub(crate) fn target(&self) -> &str {
        self.word(1)
    }

    fn word(&self, index: usize) -> &str {
        self.line.split(' ').nth(index).unwrap_or_default()
    }
}

impl fmt::Debug for Head {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.line)?;
        self.fields.iter().try_for_each(|(name, value)| writeln!(f, "{name}: {value}"))
    }
}

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Framing {
    Length(u64),
    Chunked,
    UntilClose,
}

impl Framing {
    /// Of a request with this head.
    pub(crate) fn of_request(head: &Head) -> Self {
        Self::told(head).unwrap_or(Self::Length(0))
    }

    /// Of a response with this head to a request of this method.
    pub(crate) fn of_response(head: &Head, method: &str) -> Self {
        match head.status() {
            100..=199 | 204 | 304 => Self::Length(0),
            _ if method == "HEAD" => Self::Length(0),
            _ => Self::told(head).unwrap_or(Self::UntilClose),
        }
    }

    fn told(head: &Head) -> Option<Self> {
        if head.lists("transfer-encoding", "chunked") {
            return Some(Self::Chunked);
        }
        head.get("content-length").map(|length| Self::Length(length.parse().expect("a number of bytes")))
    }
}

/// How a body ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As its framing says; with the trailers it had.
    Clean(Vec<(String, String)>),
    /// Before that: the connection was closed or reset.
    Broken,
}

impl Ending {
    /// Whether the body is whole.
    pub(crate) fn is_clean(&self) -> bool {
        matches!(self, Self::Clean(_))
    }
}

/// What comes next of a body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    Data(Bytes),
    End(Ending),
}

/// The body that is being read.
#[derive(Debug)]
pub(crate) struct Body {
    framing: Framing,
    /// Bytes left: of the body, or of the chunk.
    left: u64,
    /// Whether the line break behind a chunk is still to come.
    in_chunk: bool,
    ended: Option<Ending>,
}

impl Body {
    pub(crate) fn new(framing: Framing) -> Self {
        let left = if let Framing::Length(length) = framing { length } else { 0 };
        Self { framing, left, in_chunk: false, ended: None }
    }

    pub(crate) fn ended(&self) -> bool {
        self.ended.is_some()
    }
}

/// A connection with what was read of it ahead.
#[derive(Debug)]
pub(crate) struct Wire {
    pub(crate) stream: TcpStream,
    buffer: BytesMut,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a connected socket takes options");
        Self { stream, buffer: BytesMut::new() }
    }

    /// Writes; `false` if the other side is gone.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }

    /// Reads more; `false` at the end of the connection, whatever ended it.
    pub(crate) async fn more(&mut self) -> bool {
        matches!(self.stream.read_buf(&mut self.buffer).await, Ok(1..))
    }

    /// Everything that was read and not used, and what comes next; `None` at the end.
    pub(crate) async fn raw(&mut self) -> Option<Bytes> {
        if self.buffer.is_empty() && !self.more().await {
            return None;
        }
        Some(self.buffer.split().freeze())
    }

    /// The next head; `None` if the connection ends before it.
    pub(crate) async fn head(&mut self) -> Option<Head> {
        let block = self.until(b"\r\n\r\n").await?;
        Some(Head::parse(&block))
    }

    /// The next piece of a body. May be dropped and called again.
    pub(crate) async fn piece(&mut self, body: &mut Body) -> Piece {
        if let Some(ending) = &body.ended {
            return Piece::End(ending.clone());
        }
        let piece = match body.framing {
            Framing::Length(_) if body.left == 0 => Piece::End(Ending::Clean(Vec::new())),
            Framing::Length(_) => self.some_of(body).await,
            Framing::UntilClose => match self.raw().await {
                Some(bytes) => Piece::Data(bytes),
                None => Piece::End(Ending::Clean(Vec::new())),
            },
            Framing::Chunked => self.chunked(body).await,
        };
        if let Piece::End(ending) = &piece {
            body.ended = Some(ending.clone());
        }
        piece
    }

    async fn chunked(&mut self, body: &mut Body) -> Piece {
        if body.left == 0 {
            if body.in_chunk {
                match self.until(b"\r\n").await {
                    Some(rest) => assert!(rest.is_empty(), "a chunk is longer than it says: {rest:?}"),
                    None => return Piece::End(Ending::Broken),
                }
                body.in_chunk = false;
            }
            let Some(line) = self.until(b"\r\n").await else { return Piece::End(Ending::Broken) };
            let size = String::from_utf8_lossy(&line);
            let size = size.split(';').next().unwrap_or_default().trim();
            body.left = u64::from_str_radix(size, 16).unwrap_or_else(|_| panic!("no chunk size: {size:?}"));
            if body.left == 0 {
                return Piece::End(self.trailers().await);
            }
            body.in_chunk = true;
        }
        self.some_of(body).await
    }

    async fn trailers(&mut self) -> Ending {
        let mut block = BytesMut::from(&b"\r\n"[..]);
        loop {
            match self.until(b"\r\n").await {
                None => return Ending::Broken,
                Some(line) if line.is_empty() => return Ending::Clean(Head::parse(&block).fields),
                Some(line) => block.extend_from_slice(&[&line[..], b"\r\n"].concat()),
            }
        }
    }

    async fn some_of(&mut self, body: &mut Body) -> Piece {
        if self.buffer.is_empty() && !self.more().await {
            return Piece::End(Ending::Broken);
        }
        let length = self.buffer.len().min(usize::try_from(body.left).unwrap_or(usize::MAX));
        body.left -= length as u64;
        Piece::Data(self.buffer.split_to(length).freeze())
    }

    /// What stands before `end`, which is used up with it.
    async fn until(&mut self, end: &[u8]) -> Option<Bytes> {
        loop {
            if let Some(at) = memchr::memmem::find(&self.buffer, end) {
                let before = self.buffer.split_to(at).freeze();
                self.buffer.advance(end.len());
                return Some(before);
            }
            if !self.more().await {
                return None;
            }
        }
    }

    /// Waits until the other side closes or resets.
    pub(crate) async fn closed(&mut self) {
        while self.more().await {}
    }
}
