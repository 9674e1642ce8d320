//! One HTTP/1.1 connection of a client, in full control of what is sent and what is read.

use std::{net::SocketAddr, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;

use super::{
    DEADLINE,
    sse::{Event, take_event},
    wire::{Body, Ending, Framing, Head, Piece, Wire},
    within,
};

/// See the module. Dropped, the connection is closed.
#[derive(Debug)]
pub(crate) struct Client {
    wire: Wire,
    /// Of the request that was sent last: it decides whether the answer has a body.
    method: String,
    body: Body,
    /// Of an event that is not whole yet.
    partial: BytesMut,
}

impl Client {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = within(DEADLINE, "a connection", TcpStream::connect(address)).await.expect("somebody listens");
        Self::over(stream)
    }

    fn over(stream: TcpStream) -> Self {
        Self {
            wire: Wire::new(stream),
            method: String::new(),
            body: Body::new(Framing::Length(0)),
            partial: BytesMut::new(),
        }
    }

    /// Connects, if somebody listens.
    pub(crate) async fn try_connect(address: SocketAddr) -> Option<Self> {
        let stream = within(DEADLINE, "a connection, or none", TcpStream::connect(address)).await.ok()?;
        Some(Self::over(stream))
    }

    /// Sends a whole request and reads the head of its answer; `None` if the connection ends before.
    pub(crate) async fn try_request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Option<Head> {
        self.method = method.to_owned();
        let mut request =
            format!("{method} {target} HTTP/1.1\r\nHost: chat.test\r\nContent-Length: {}\r\n", body.len());
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        if !self.try_send(request + "\r\n" + body).await {
            return None;
        }
        let head = within(DEADLINE, "a response head, or none", self.wire.head()).await?;
        self.body = Body::new(Framing::of_response(&head, method));
        Some(head)
    }

    /// Sends bytes as they are.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let sent = within(DEADLINE, "bytes to be taken", self.wire.write(bytes.as_ref())).await;
        assert!(sent, "the connection is closed");
    }

    /// Sends bytes to somebody who may have closed the connection.
    pub(crate) async fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within(DEADLINE, "bytes to be taken", self.wire.write(bytes.as_ref())).await
    }

    /// Sends a request head; `Host` is added.
    pub(crate) async fn send_head(&mut self, method: &str, target: &str, headers: &[(&str, &str)]) {
        self.method = method.to_owned();
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: chat.test\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        self.send(head + "\r\n").await;
    }

    /// Sends a whole request; `Host` and, for a body, `Content-Length` are added.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        target: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) {
        let (body, length) = (body.as_ref(), body.as_ref().len().to_string());
        let mut headers = headers.to_vec();
        if !body.is_empty() || method == "POST" {
            headers.push(("Content-Length", &length));
        }
        self.send_head(method, target, &headers).await;
        self.send(body).await;
    }

    /// Reads the head of the answer, interim ones included.
    pub(crate) async fn any_head(&mut self) -> Head {
        self.head_within(DEADLINE).await
    }

    /// Reads the head of an answer that may take its time.
    pub(crate) async fn head_within(&mut self, limit: Duration) -> Head {
        let head = within(limit, "a response head", self.wire.head()).await;
        let head = head.expect("the connection was closed before a response head");
        self.body = Body::new(Framing::of_response(&head, &self.method));
        head
    }

    /// Reads the head of the final answer.
    pub(crate) async fn head(&mut self) -> Head {
        loop {
            let head = self.any_head().await;
            if head.status() >= 200 {
                return head;
            }
        }
    }

    /// The next piece of the answer's body.
    pub(crate) async fn piece(&mut self) -> Piece {
        within(DEADLINE, "a piece of the body", self.wire.piece(&mut self.body)).await
    }

    /// Bytes as they come, without framing; `None` at the end of the connection.
    pub(crate) async fn raw(&mut self) -> Option<Bytes> {
        within(DEADLINE, "bytes", self.wire.raw()).await
    }

    /// Exactly so many bytes, without framing.
    pub(crate) async fn raw_exactly(&mut self, length: usize) -> Bytes {
        let mut all = BytesMut::new();
        while all.len() < length {
            all.extend_from_slice(&self.raw().await.expect("the connection was closed too early"));
        }
        assert_eq!(all.len(), length, "more came than expected: {all:?}");
        all.freeze()
    }

    /// The rest of the body, and how it ended.
    pub(crate) async fn rest(&mut self) -> (Bytes, Ending) {
        let mut all = std::mem::take(&mut self.partial);
        loop {
            match self.piece().await {
                Piece::Data(bytes) => all.extend_from_slice(&bytes),
                Piece::End(ending) => return (all.freeze(), ending),
            }
        }
    }

    /// The rest of the body, which must end cleanly.
    pub(crate) async fn body(&mut self) -> Bytes {
        let (bytes, ending) = self.rest().await;
        assert!(ending.is_clean(), "the answer broke off behind {:?}", String::from_utf8_lossy(&bytes));
        bytes
    }

    /// The next event; an end instead is a failure.
    pub(crate) async fn next_event(&mut self) -> Event {
        match self.event_or_end().await {
            Ok(event) => event,
            Err(ending) => panic!("{ending:?} instead of an event, behind {:?}", self.partial),
        }
    }

    /// The next event, or how the stream ended.
    pub(crate) async fn event_or_end(&mut self) -> Result<Event, Ending> {
        loop {
            if let Some(event) = take_event(&mut self.partial) {
                return Ok(event);
            }
            match self.piece().await {
                Piece::Data(bytes) => self.partial.extend_from_slice(&bytes),
                Piece::End(ending) => return Err(ending),
            }
        }
    }

    /// The next events.
    pub(crate) async fn next_events(&mut self, count: usize) -> Vec<Event> {
        let mut all = Vec::with_capacity(count);
        for _ in 0..count {
            all.push(self.next_event().await);
        }
        all
    }

    /// Waits until this text has come; gives everything up to the end of what came with it.
    pub(crate) async fn until(&mut self, text: &str) -> Bytes {
        loop {
            if memchr::memmem::find(&self.partial, text.as_bytes()).is_some() {
                return self.partial.split().freeze();
            }
            match self.piece().await {
                Piece::Data(bytes) => self.partial.extend_from_slice(&bytes),
                Piece::End(ending) => panic!("{ending:?} instead of {text:?}, behind {:?}", self.partial),
            }
        }
    }

    /// Waits until the other side closes the connection.
    pub(crate) async fn closed(&mut self) {
        within(DEADLINE, "the connection to be closed", self.wire.closed()).await;
    }

    /// Cuts the connection with a reset.
    pub(crate) fn reset(self) {
        self.wire.stream.set_zero_linger().expect("a connected socket takes options");
    }

    /// Takes little at a time from the network, so that not reading is noticed soon.
    pub(crate) async fn connect_narrow(address: SocketAddr) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.set_recv_buffer_size(4096).expect("a socket takes options");
        let stream = within(DEADLINE, "a connection", socket.connect(address)).await.expect("somebody listens");
        Self::over(stream)
    }
}
