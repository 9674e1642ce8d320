//! A backend whose every byte the test decides.
//!
//! Each request becomes an [`Exchange`]. A test takes them one by one ([`Backend::start`], [`Backend::next`]) and steps
//! the answer event by event, or gives a function that answers all of them ([`Backend::answering`]).

use std::{
    future::Future,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinSet,
};

use super::{
    DEADLINE,
    wire::{Body, Framing, Head, Piece, Wire},
    within,
};

/// The head of an event stream whose end is told by chunks.
pub(crate) const EVENT_STREAM: &str =
    "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n";

/// See the module. Dropped, it is gone with all its connections.
pub(crate) struct Backend {
    address: SocketAddr,
    books: Arc<Books>,
    exchanges: tokio::sync::Mutex<mpsc::UnboundedReceiver<Exchange>>,
    _serving: JoinSet<()>,
}

/// What happened so far.
#[derive(Debug, Default)]
struct Books {
    requests: Mutex<Vec<Head>>,
    connections: AtomicUsize,
    finished: AtomicUsize,
    aborted: AtomicUsize,
}

impl Backend {
    /// A backend that is stepped by [`Backend::next`].
    pub(crate) async fn start() -> Self {
        let (sender, exchanges) = mpsc::unbounded_channel();
        Self::serve(exchanges, move |exchange| drop(sender.send(exchange))).await
    }

    /// A backend that answers by itself.
    pub(crate) async fn answering<F>(answer: impl Fn(Exchange) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let (_, exchanges) = mpsc::unbounded_channel();
        Self::serve(exchanges, move |exchange| drop(tokio::spawn(answer(exchange)))).await
    }

    /// A backend that answers every request with this event stream, in one piece.
    pub(crate) async fn streaming(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        Self::answering(move |mut exchange| {
            let body = body.clone();
            async move {
                exchange.stream().await;
                exchange.chunk(&body).await;
                exchange.end().await;
            }
        })
        .await
    }

    async fn serve(
        exchanges: mpsc::UnboundedReceiver<Exchange>,
        take: impl Fn(Exchange) + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (books, take) = (Arc::new(Books::default()), Arc::new(take));
        let mut serving = JoinSet::new();
        let kept = books.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let number = kept.connections.fetch_add(1, Ordering::Relaxed);
                connections.spawn(connection(stream, number, kept.clone(), take.clone()));
            }
        });
        Self { address, books, exchanges: exchanges.into(), _serving: serving }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The next request.
    pub(crate) async fn next(&self) -> Exchange {
        let exchange = async { self.exchanges.lock().await.recv().await };
        within(DEADLINE, "a request at the backend", exchange).await.expect("the backend is there")
    }

    /// The heads of all requests so far.
    pub(crate) fn requests(&self) -> Vec<Head> {
        self.books.requests.lock().expect("nobody panics with it").clone()
    }

    /// Answers that were sent whole.
    pub(crate) fn finished(&self) -> usize {
        self.books.finished.load(Ordering::Relaxed)
    }

    /// Answers whose client was seen to leave before the end.
    pub(crate) fn aborted(&self) -> usize {
        self.books.aborted.load(Ordering::Relaxed)
    }
}

async fn connection(stream: TcpStream, number: usize, books: Arc<Books>, take: Arc<impl Fn(Exchange) + ?Sized>) {
    let mut wire = Wire::new(stream);
    while let Some(request) = wire.head().await {
        books.requests.lock().expect("nobody panics with it").push(request.clone());
        let (give_back, given_back) = oneshot::channel();
        let body = Body::new(Framing::of_request(&request));
        take(Exchange { request, connection: number, wire, body, chunked: true, books: books.clone(), give_back });
        match given_back.await {
            Ok(wire_again) => wire = wire_again,
            Err(_) => return,
        }
    }
}

/// A request and the answer to it. Dropped before [`Exchange::end`], the connection is closed.
pub(crate) struct Exchange {
    /// The head of the request.
    pub(crate) request: Head,
    /// Which connection it came on, from 0.
    pub(crate) connection: usize,
    wire: Wire,
    body: Body,
    chunked: bool,
    books: Arc<Books>,
    give_back: oneshot::Sender<Wire>,
}

impl Exchange {
    /// The next piece of the request body.
    pub(crate) async fn piece(&mut self) -> Piece {
        within(DEADLINE, "a piece of the request body", self.wire.piece(&mut self.body)).await
    }

    /// The whole request body; `None` if it breaks off.
    pub(crate) async fn body(&mut self) -> Option<Bytes> {
        let mut all = BytesMut::new();
        loop {
            match self.piece().await {
                Piece::Data(bytes) => all.extend_from_slice(&bytes),
                Piece::End(ending) => return ending.is_clean().then(|| all.freeze()),
            }
        }
    }

    /// Sends bytes as they are; `false` if the client is gone.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        within(DEADLINE, "the answer to be taken", self.wire.write(bytes.as_ref())).await
    }

    /// Sends a response head: status line and fields, each with its line break.
    pub(crate) async fn head(&mut self, head: impl AsRef<str>) {
        let head = head.as_ref();
        self.chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
        self.send(format!("{head}\r\n")).await;
    }

    /// Sends the head of an event stream.
    pub(crate) async fn stream(&mut self) {
        self.head(EVENT_STREAM).await;
    }

    /// Sends the head of an event stream with more fields, each with its line break.
    pub(crate) async fn stream_with(&mut self, fields: &str) {
        self.head(format!("{EVENT_STREAM}{fields}")).await;
    }

    /// Sends a piece of the body, in the framing of the head; `false` if the client is gone.
    pub(crate) async fn chunk(&mut self, bytes: impl AsRef<[u8]>) -> bool {
        let bytes = bytes.as_ref();
        if !self.chunked {
            return self.send(bytes).await;
        }
        let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
        chunk.extend_from_slice(bytes);
        chunk.extend_from_slice(b"\r\n");
        self.send(chunk).await
    }

    /// Sends `data: <text>` as an event.
    pub(crate) async fn event(&mut self, text: impl AsRef<str>) -> bool {
        self.chunk(format!("data: {}\n\n", text.as_ref())).await
    }

    /// Ends the answer; the connection takes the next request.
    pub(crate) async fn end(self) {
        self.end_with("").await;
    }

    /// Ends the answer with trailers, each with its line break.
    pub(crate) async fn end_with(mut self, trailers: &str) {
        if self.chunked {
            self.send(format!("0\r\n{trailers}\r\n")).await;
        }
        self.books.finished.fetch_add(1, Ordering::Relaxed);
        while !self.body.ended() {
            // What was not read of the request stands before the next one.
            if let Piece::End(ending) = self.wire.piece(&mut self.body).await
                && !ending.is_clean()
            {
                return;
            }
        }
        let _ = self.give_back.send(self.wire);
    }

    /// Answers with a small body.
    pub(crate) async fn answer(mut self, status: &str, fields: &str, body: impl AsRef<[u8]>) {
        let body = body.as_ref();
        self.head(format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {}\r\n", body.len())).await;
        self.send(body).await;
        self.end().await;
    }

    /// Breaks the answer off by closing the connection.
    pub(crate) async fn close(mut self) {
        let _ = self.wire.stream.shutdown().await;
    }

    /// Breaks the answer off by a reset.
    pub(crate) fn reset(self) {
        self.wire.stream.set_zero_linger().expect("a connected socket takes options");
    }

    /// Waits until the client closes, which counts the answer as aborted.
    pub(crate) async fn aborted(&mut self) {
        within(DEADLINE, "the backend's client to leave", self.left()).await;
    }

    /// Like [`Exchange::aborted`], for as long as it takes.
    pub(crate) async fn left(&mut self) {
        self.wire.closed().await;
        self.books.aborted.fetch_add(1, Ordering::Relaxed);
    }

    /// The connection itself, for what is no HTTP any more.
    pub(crate) fn raw(&mut self) -> &mut Wire {
        &mut self.wire
    }
}
