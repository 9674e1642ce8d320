//! A real HTTP server for this module's tests: it answers every request on every connection by a function of its head.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use url::Url;

/// Header line of an answer behind which the connection is closed, at whatever point the answer then is.
pub(super) const CLOSE: &str = "connection: close\r\n";

type Answer = dyn Fn(&str) -> String + Send + Sync;

/// Stops, connections and all, when dropped.
pub(super) struct Responder {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<(u64, String)>>>,
    task: JoinHandle<()>,
}

impl Responder {
    /// `answer` gets a request's head and gives the bytes of the answer; the connection is closed behind an
    /// answer with [`CLOSE`] and in place of an empty one.
    pub(super) async fn start(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (answer, log): (Arc<Answer>, _) = (Arc::new(answer), Arc::clone(&seen));
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (stream, _) = listener.accept().await.unwrap();
                connections.spawn(serve(stream, number, Arc::clone(&answer), Arc::clone(&log)));
            }
        });
        Self { address, seen, task }
    }

    pub(super) fn url(&self, path: &str) -> Url {
        format!("http://{}{path}", self.address).parse().unwrap()
    }

    /// The heads of all requests so far.
    pub(super) fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(_, head)| head.clone()).collect()
    }

    /// The connection each request came on, counted from 0.
    pub(super) fn connections(&self) -> Vec<u64> {
        self.seen.lock().unwrap().iter().map(|(connection, _)| *connection).collect()
    }

    /// Ends the server and waits until its port refuses connections.
    pub(super) async fn stop(mut self) {
        self.task.abort();
        assert!((&mut self.task).await.unwrap_err().is_cancelled());
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream, number: u64, answer: Arc<Answer>, log: Arc<Mutex<Vec<(u64, String)>>>) {
    let mut read = Vec::new();
    loop {
        while let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
            let head = String::from_utf8(read.drain(..end + 4).collect()).unwrap();
            log.lock().unwrap().push((number, head.clone()));
            let answer = answer(&head);
            if stream.write_all(answer.as_bytes()).await.is_err() || answer.is_empty() || answer.contains(CLOSE) {
                return;
            }
        }
        if matches!(stream.read_buf(&mut read).await, Ok(0) | Err(_)) {
            return;
        }
    }
}

/// An answer with a body; `headers` are lines that each end with CRLF.
pub(super) fn reply(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n{headers}\r\n{body}", body.len())
}
