//! Accepts connections and hands them to a Pingora application.
//!
//! Pingora's own service binds by name, never tells which port it got, and panics when it cannot bind. Here binding is a
//! step of its own, so that a port that is taken is an error message and port 0 can be used.

mod socket;

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use listenfd::ListenFd;
use pingora::{
    apps::{HttpServerApp, ServerApp},
    protocols::http::ServerSession,
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

pub use self::socket::Socket;

/// A bound address. Connections wait in the accept queue until [`Listener::serve`].
#[derive(Debug)]
pub struct Listener {
    tcp: TcpListener,
    address: SocketAddr,
    /// Turns true when connections are left to whoever else accepts at the same socket.
    closed: Option<watch::Receiver<bool>>,
}

/// Sockets that were bound by who started this process and go on existing behind it: systemd's socket activation.
#[derive(Debug, Default)]
pub struct Inherited {
    /// Named `public`, or the only one there is.
    pub public: Option<std::net::TcpListener>,
    /// Named `admin`.
    pub admin: Option<std::net::TcpListener>,
}

/// Why inherited sockets cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InheritedError {
    /// One of them listens to nothing, is no TCP socket, or is none at all.
    #[error("not a listening TCP socket: {0}")]
    Unusable(#[source] io::Error),
    /// Several came, and one is called neither `public` nor `admin`, or two are called the same.
    #[error(
        "one is called {0:?}; with several, name one `public` and one `admin` (FileDescriptorName= of the socket unit)"
    )]
    Name(String),
}

impl Inherited {
    /// Takes them, and what tells of them, out of the environment (sd_listen_fds(3)).
    pub fn take() -> Result<Self, InheritedError> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        // None, if they are meant for another process.
        let mut sockets = ListenFd::from_env();
        let mut inherited = Self::default();
        for at in 0..sockets.len() {
            let name = names.split(':').nth(at).unwrap_or_default();
            let place = match name {
                "admin" => &mut inherited.admin,
                _ if name == "public" || sockets.len() == 1 => &mut inherited.public,
                _ => return Err(InheritedError::Name(name.to_owned())),
            };
            if place.is_some() {
                return Err(InheritedError::Name(name.to_owned()));
            }
            *place = sockets.take_tcp_listener(at).map_err(InheritedError::Unusable)?;
        }
        Ok(inherited)
    }
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
        Self::of(TcpListener::bind(address).await?)
    }

    /// Takes a socket that listens already. Errors as registering it with the runtime does.
    pub fn inherited(socket: std::net::TcpListener) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Self::of(TcpListener::from_std(socket)?)
    }

    fn of(tcp: TcpListener) -> io::Result<Self> {
        Ok(Self { address: tcp.local_addr()?, tcp, closed: None })
    }

    /// Accepts no connection any more once `closed` turns true. Those that are open are served on.
    pub fn accepting_until(self, closed: watch::Receiver<bool>) -> Self {
        Self { closed: Some(closed), ..self }
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

    /// Serves until `shutdown` turns true, then drops every connection that is left. From when `leaving` turns true on,
    /// connections take no more requests than they have, and HTTP/2 clients are told so (GOAWAY).
    pub async fn serve<A: HttpServerApp + Send + Sync + 'static>(
        self,
        app: Arc<A>,
        options: Connections,
        leaving: watch::Receiver<bool>,
        shutdown: watch::Receiver<bool>,
    ) {
        let mut connections = JoinSet::new();
        let mut stop = shutdown;
        let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
        let closed = async move {
            let told = match self.closed {
                Some(mut closed) => closed.wait_for(|closed| *closed).await.is_ok(),
                None => false,
            };
            if !told {
                std::future::pending::<()>().await;
            }
        };
        tokio::pin!(stopped, closed);
        let mut accepting = true;
        loop {
            tokio::select! {
                // Nothing is accepted behind the word that nothing is.
                biased;
                () = &mut stopped => break,
                () = &mut closed, if accepting => accepting = false,
                Some(_) = connections.join_next() => {}
                accepted = self.tcp.accept(), if accepting => match accepted {
                    Ok((stream, _)) => {
                        let (app, leaving) = (app.clone(), leaving.clone());
                        connections.spawn(async move { serve_connection(stream, &app, options, &leaving).await });
                    }
                    // Out of descriptors: the listener stays readable, so without a pause this would spin.
                    Err(error) => {
                        tracing::error!(%error, address = %self.address, "cannot accept a connection");
                        sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
        app.http_cleanup().await;
    }
}

/// What an HTTP/2 connection begins with (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

async fn serve_connection<A: HttpServerApp + Send + Sync + 'static>(
    stream: TcpStream,
    app: &Arc<A>,
    options: Connections,
    leaving: &watch::Receiver<bool>,
) {
    if let Err(error) = configure(&stream, options) {
        tracing::debug!(%error, "connection without its socket options");
    }
    let Ok(http2) = timeout(options.first_byte, begins_http2(&stream)).await else { return };
    let stream = Box::new(Socket::new(stream));
    // Pingora, where it may speak HTTP/2 without TLS, waits for the 24 bytes of its preface before it looks at a request, for
    // ever if the request is shorter. So what is no preface never gets there.
    if http2 {
        app.process_new(stream, leaving).await;
    } else {
        serve_http1(stream, app, leaving).await;
    }
}

/// Serves the requests of one connection, one after the other.
async fn serve_http1<A: HttpServerApp + Send + Sync + 'static>(
    stream: Box<Socket>,
    app: &Arc<A>,
    leaving: &watch::Receiver<bool>,
) {
    let mut session = ServerSession::new_http1(stream);
    // What Pingora does by itself. The application may know better.
    session.set_keepalive((!*leaving.borrow()).then_some(60));
    while let Some(reused) = app.process_new_http(session, leaving).await {
        let (stream, settings) = reused.consume();
        session = ServerSession::new_http1(stream);
        if let Some(settings) = settings {
            settings.apply_to_session(&mut session);
        }
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
