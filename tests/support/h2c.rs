//! An HTTP/2 client with prior knowledge, in control of its frames.

use std::net::SocketAddr;

use bytes::{Bytes, BytesMut};
use h2::client::SendRequest;
use http::{Request, response::Parts};
use tokio::{net::TcpStream, task::JoinHandle};

use super::{DEADLINE, within};

/// One connection. Dropped, it is closed.
pub(crate) struct H2c {
    requests: SendRequest<Bytes>,
    connection: JoinHandle<()>,
}

/// How a request body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LastFrame {
    /// With its last bytes.
    Full,
    /// With an empty frame of its own, as curl and browsers do when they do not know the length before.
    Empty,
}

/// An answer whose body is read as it comes.
pub(crate) struct Answer {
    /// Its head.
    pub(crate) head: Parts,
    body: h2::RecvStream,
}

impl H2c {
    /// Connects.
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("somebody listens");
        let (requests, connection) = within(DEADLINE, "settings", h2::client::handshake(stream)).await.expect("h2c");
        Self { requests, connection: tokio::spawn(async move { drop(connection.await) }) }
    }

    /// Sends a request and reads the head of its answer.
    pub(crate) async fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[&'static str],
        last: LastFrame,
    ) -> Answer {
        let mut request = Request::builder().method(method).uri(format!("http://chat.test{path}"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(()).expect("a request");
        let (answer, mut send) = self.requests.send_request(request, body.is_empty()).expect("it can be sent");
        for (index, piece) in body.iter().enumerate() {
            let end = last == LastFrame::Full && index + 1 == body.len();
            send.send_data(Bytes::from_static(piece.as_bytes()), end).expect("the stream is open");
        }
        if last == LastFrame::Empty && !body.is_empty() {
            send.send_data(Bytes::new(), true).expect("the stream is open");
        }
        let answer = within(DEADLINE, "a response head", answer).await.expect("an answer");
        let (head, body) = answer.into_parts();
        Answer { head, body }
    }
}

impl H2c {
    /// Waits until the other side has ended the connection.
    pub(crate) async fn closed(&mut self) {
        within(DEADLINE, "the connection to be closed", &mut self.connection).await.expect("it is not aborted");
    }
}

impl Drop for H2c {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Answer {
    /// The value of a header.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name).and_then(|value| value.to_str().ok())
    }

    /// The next piece of the body: `None` at its clean end, an error where it breaks off.
    pub(crate) async fn piece(&mut self) -> Option<Result<Bytes, h2::Error>> {
        let piece = within(DEADLINE, "a piece of the body", self.body.data()).await?;
        if let Ok(bytes) = &piece {
            let _ = self.body.flow_control().release_capacity(bytes.len());
        }
        Some(piece)
    }

    /// What came behind the body.
    pub(crate) async fn trailers(&mut self) -> Option<http::HeaderMap> {
        within(DEADLINE, "trailers", self.body.trailers()).await.expect("the answer is whole")
    }

    /// The rest of the body, which must end cleanly.
    pub(crate) async fn body(&mut self) -> Bytes {
        let mut all = BytesMut::new();
        while let Some(piece) = self.piece().await {
            all.extend_from_slice(&piece.expect("the answer is whole"));
        }
        all.freeze()
    }
}
