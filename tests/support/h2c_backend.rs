//! A backend that speaks HTTP/2 without TLS, in control of its frames.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use h2::{
    Reason, RecvStream, SendStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, Request, Response};
use tokio::{
    net::TcpListener,
    sync::{Mutex, mpsc},
    task::JoinHandle,
};

use super::{DEADLINE, within};

/// See the module. Dropped, it accepts nothing more.
pub(crate) struct H2cBackend {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    requests: Mutex<mpsc::UnboundedReceiver<Stream>>,
    accepting: JoinHandle<()>,
}

/// One request, and what answers it.
pub(crate) struct Stream {
    /// Its head, and its body.
    pub(crate) request: Request<RecvStream>,
    answer: SendResponse<Bytes>,
    body: Option<SendStream<Bytes>>,
}

impl H2cBackend {
    /// Begins to accept connections.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (send, requests) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = connections.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (send, counted) = (send.clone(), counted.clone());
                tokio::spawn(async move {
                    // Health checks connect and say nothing.
                    let Ok(mut connection) = server::handshake(stream).await else { return };
                    counted.fetch_add(1, Ordering::Relaxed);
                    while let Some(Ok((request, answer))) = connection.accept().await {
                        let _ = send.send(Stream { request, answer, body: None });
                    }
                });
            }
        });
        Self { address, connections, requests: Mutex::new(requests), accepting }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Connections over which HTTP/2 was spoken.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// The next request.
    pub(crate) async fn next(&self) -> Stream {
        within(DEADLINE, "a request in HTTP/2", async { self.requests.lock().await.recv().await })
            .await
            .expect("it accepts as long as it lives")
    }
}

impl Drop for H2cBackend {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Stream {
    /// The whole request body.
    pub(crate) async fn body(&mut self) -> Bytes {
        let mut all = BytesMut::new();
        let body = self.request.body_mut();
        while let Some(piece) = within(DEADLINE, "a piece of the request body", body.data()).await {
            let piece = piece.expect("the request is whole");
            let _ = body.flow_control().release_capacity(piece.len());
            all.extend_from_slice(&piece);
        }
        all.freeze()
    }

    /// Sends the head of the answer.
    pub(crate) fn head(&mut self, content_type: &str) {
        let head = Response::builder().header("content-type", content_type).body(()).expect("a response");
        self.body = Some(self.answer.send_response(head, false).expect("the stream is open"));
    }

    /// Sends a piece of the body.
    pub(crate) fn send(&mut self, piece: impl Into<Bytes>) {
        self.open().send_data(piece.into(), false).expect("the stream is open");
    }

    /// Ends the answer.
    pub(crate) fn end(mut self) {
        self.open().send_data(Bytes::new(), true).expect("the stream is open");
    }

    /// Ends the answer with trailers.
    pub(crate) fn end_with(mut self, trailers: HeaderMap) {
        self.open().send_trailers(trailers).expect("the stream is open");
    }

    /// Breaks the answer off.
    pub(crate) fn reset(mut self) {
        self.open().send_reset(Reason::INTERNAL_ERROR);
    }

    /// Waits until the other side resets the stream.
    pub(crate) async fn aborted(&mut self) -> Reason {
        let body = self.open();
        let reset = std::future::poll_fn(|context| body.poll_reset(context));
        within(DEADLINE, "a reset of the stream", reset).await.expect("the connection lives")
    }

    fn open(&mut self) -> &mut SendStream<Bytes> {
        self.body.as_mut().expect("the head was sent")
    }
}
