//! Accepts connections and hands them to a Pingora application.
//!
//! Pingora's own service binds by name, never tells which port it got, and panics when it cannot bind. Here binding is a
//! step of its own, so that a port that is taken is an error message and port 0 can be used.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::AsRawFd,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use pingora::{
    apps::{HttpServerApp, ReusedHttpStream, ServerApp},
    protocols::{GetSocketDigest, SocketDigest, http::ServerSession, l4::stream::Stream},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// A bound address. Connections wait in the accept queue until [`Listener::serve`].
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
}

/// How connections are kept.
#[derive(Debug, Clone, Copy)]
pub struct Connections {
    /// How long a new connection may stay silent.
    pub first_byte: Duration,
    /// How long data may stay unacknowledged before a client counts as gone. A client that vanished without a word is
    /// noticed by this, or by probes while nothing is sent.
    pub unacknowledged: Duration,
}

impl Default for Connections {
    fn default() -> Self {
        Self { first_byte: Duration::from_secs(60), unacknowledged: Duration::from_secs(60) }
    }
}

impl Listener {
    /// Binds `address`; port 0 takes a free one. Errors as binding does: the port is taken, or may not be used.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        let tcp = TcpListener::bind(address).await?;
        let address = tcp.local_addr()?;
        Ok(Self { tcp, address })
    }

    /// Where it can be reached from this machine: the bound address, with loopback in place of "any interface".
    pub fn address(&self) -> SocketAddr {
        let any_to_loopback = match self.address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        SocketAddr::new(any_to_loopback, self.address.port())
    }

    /// Serves until `shutdown` turns true, then drops every connection that is left.
    pub async fn serve<A: HttpServerApp + Send + Sync + 'static>(
        self,
        app: Arc<A>,
        options: Connections,
        shutdown: watch::Receiver<bool>,
    ) {
        let app = Versions { http1: Arc::new(Http1(app.clone())), any: app };
        let mut connections = JoinSet::new();
        let mut stop = shutdown.clone();
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        tokio::pin!(stopped);
        loop {
            tokio::select! {
                () = &mut stopped => break,
                Some(_) = connections.join_next() => {}
                accepted = self.tcp.accept() => match accepted {
                    Ok((stream, _)) => {
                        let (app, shutdown) = (app.clone(), shutdown.clone());
                        connections.spawn(async move { serve_connection(stream, &app, options, &shutdown).await });
                    }
                    // Out of descriptors: the listener stays readable, so without a pause this would spin.
                    Err(error) => {
                        tracing::error!(%error, address = %self.address, "cannot accept a connection");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        app.any.http_cleanup().await;
    }
}

/// An application twice: Pingora, where it may speak HTTP/2 without TLS, waits for the 24 bytes of its preface before it
/// looks at a request, for ever if the request is shorter. So what is no preface never gets there.
struct Versions<A> {
    any: Arc<A>,
    http1: Arc<Http1<A>>,
}

impl<A> Clone for Versions<A> {
    fn clone(&self) -> Self {
        Self { any: self.any.clone(), http1: self.http1.clone() }
    }
}

/// An application that is spoken to in HTTP/1 only.
struct Http1<A>(Arc<A>);

#[async_trait]
impl<A: HttpServerApp + Send + Sync + 'static> HttpServerApp for Http1<A> {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        self.0.process_new_http(session, shutdown).await
    }
}

/// What an HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn serve_connection<A: HttpServerApp + Send + Sync + 'static>(
    stream: TcpStream,
    app: &Versions<A>,
    options: Connections,
    shutdown: &watch::Receiver<bool>,
) {
    if let Err(error) = configure(&stream, options) {
        tracing::debug!(%error, "connection without its socket options");
    }
    let Ok(http2) = timeout(options.first_byte, begins_http2(&stream)).await else { return };
    let fd = stream.as_raw_fd();
    let mut stream = Stream::from(stream);
    stream.set_socket_digest(SocketDigest::from_raw_fd(fd));
    if http2 {
        app.any.process_new(Box::new(stream), shutdown).await;
    } else {
        app.http1.process_new(Box::new(stream), shutdown).await;
    }
}

/// Whether the client begins with the preface of HTTP/2. Waits until that is certain.
async fn begins_http2(stream: &TcpStream) -> bool {
    let mut beginning = [0; PREFACE.len()];
    loop {
        match stream.peek(&mut beginning).await {
            Ok(received) if received == PREFACE.len() => return beginning == PREFACE,
            Ok(received) if received > 0 && PREFACE.starts_with(&beginning[..received]) => {
                // A peek does not wait for more than there was.
                sleep(Duration::from_millis(10)).await;
            }
            // Something else, or the client is gone: reading will tell.
            _ => return false,
        }
    }
}

fn configure(stream: &TcpStream, options: Connections) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let probes = TcpKeepalive::new().with_time(Duration::from_secs(30)).with_interval(Duration::from_secs(10));
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(options.unacknowledged))?;
    Ok(())
}
