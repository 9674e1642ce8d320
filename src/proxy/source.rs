//! The upstream side of a request that may become a turn: sent over Pingora's connections, and read by whoever wants the
//! answer.
//!
//! Pingora's own path ties the backend to the client. Here the two have nothing to do with each other: an [`Exchange`] belongs
//! to the task that records the answer, or to the one that passes it on, and that task reads the socket itself. Pools, TLS,
//! HTTP/1.1 and HTTP/2 are Pingora's; what is sent ([`Outgoing`]) and how often is decided here, by the rules of its own path.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt as _};
use http::{HeaderValue, Method, StatusCode, Version, header};
use pingora::{
    Error, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    protocols::http::{HttpTask, client::HttpSession, v2::client::Http2Session},
    proxy::Session,
    upstreams::peer::{HttpPeer, Peer as _},
};
use tokio::sync::mpsc;

use super::{
    Gateway, answers, outgoing,
    upstreams::{Target, Upstreams},
};
use crate::node::{FromUpstream, TurnSource};

/// Attempts at most, whatever is configured and whatever the backends say.
const ATTEMPTS: usize = 16;

/// Pieces of a request body that wait for the backend to take them.
const PIECES: usize = 4;

/// A request that is ready to be sent.
pub(super) struct Outgoing {
    upstreams: Arc<Upstreams>,
    head: RequestHeader,
    /// The version that the answer is passed on in, if it is.
    version: Version,
    has_body: bool,
    body: Body,
}

/// A request on a connection to a backend, and its answer. Dropped before its end, it is to the backend as if its client had
/// left.
pub(super) struct Exchange {
    upstreams: Arc<Upstreams>,
    body: Body,
    /// `None` while a piece of the request body is on its way, and when there is nothing more to read.
    connection: Option<Box<Connection>>,
    writing: Option<Writing>,
    /// Why the request body could not be sent. The backend may have answered without it.
    unsent: Option<Box<Error>>,
    ended: bool,
}

struct Connection {
    session: HttpSession,
    peer: Box<HttpPeer>,
}

/// A write owns the connection until it is done, so that giving up the wait for it leaves nothing half written.
type Writing = BoxFuture<'static, (Box<Connection>, Result<()>)>;

/// Where the request body comes from.
enum Body {
    /// It was read before. `bool`: it has been given to this attempt.
    Whole(Bytes, bool),
    /// As the client sends it.
    Pieces(mpsc::Receiver<Piece>),
    /// All of it is on its way, or there is none.
    Sent,
    /// No more will come of it, and it is not whole.
    Cut,
}

/// A piece of a request body.
enum Piece {
    /// `bool`: it is the last.
    Bytes(Option<Bytes>, bool),
    /// The client left, or sent too much: half a request must not pass for a whole one.
    Broken,
}

/// What is known of a request before it is sent.
pub(super) struct Prepared {
    /// Ask for an answer without content coding, so that its events can be read.
    pub(super) identity_coding: bool,
    /// Most bytes of the request body.
    pub(super) max_body: usize,
    /// The body, if it has been read.
    pub(super) body: Option<Bytes>,
}

/// Prepares the request of `session` for a backend; nothing is sent before [`Outgoing::open`]. A body that has not been read
/// goes up through the [`Upload`].
pub(super) fn prepare(gateway: &Gateway, session: &mut Session, prepared: Prepared) -> Result<(Outgoing, Upload)> {
    let has_body = !session.as_mut().is_body_empty();
    let mut head = outgoing::of_client(session.req_header())?;
    gateway.tell_of_client(session, &mut head)?;
    if prepared.identity_coding {
        head.insert_header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"))?;
    }
    let (body, upload) = match prepared.body {
        _ if !has_body => (Body::Sent, Upload::none()),
        Some(body) => (Body::Whole(body, false), Upload::none()),
        None => {
            let (send, pieces) = mpsc::channel(PIECES);
            (Body::Pieces(pieces), Upload::new(send, prepared.max_body))
        }
    };
    let (upstreams, version) = (gateway.upstreams.clone(), session.req_header().version);
    Ok((Outgoing { upstreams, head, version, has_body, body }, upload))
}

impl Outgoing {
    /// Sends the request and waits for the head of its answer. `true`: that is all of it. An address that takes no connection
    /// is followed by another; once a connection was made, only a request that changes nothing is sent again, and only where
    /// the connection had been idle.
    pub(super) async fn open(mut self) -> Result<(Box<ResponseHeader>, bool, Exchange)> {
        let mut tried = Vec::new();
        loop {
            match self.attempt(&mut tried).await {
                Ok((mut header, end, exchange)) => {
                    self.reframe(&mut header, end)?;
                    return Ok((header, end, exchange));
                }
                Err(error) if error.retry() && tried.len() < ATTEMPTS => {
                    tracing::debug!(error = super::for_log(&error), "another attempt at a backend");
                }
                Err(error) => {
                    tell(&error);
                    return Err(error);
                }
            }
        }
    }

    async fn attempt(&mut self, tried: &mut Vec<Target>) -> Result<(Box<ResponseHeader>, bool, Exchange)> {
        let picked = self.upstreams.pick(tried);
        let (target, mut peer) = picked
            .ok_or_else(|| Error::explain(ErrorType::HTTPStatus(502), "no address of a backend is known").into_up())?;
        tried.push(target);
        // Who reads the answer has a clock of its own.
        peer.options.read_timeout = None;
        let (session, reused) = match self.upstreams.connector().get_http_session(&*peer).await {
            Ok(connected) => connected,
            Err(mut error) => {
                // Nothing was sent yet: another try cannot run a turn twice.
                error.set_retry(tried.len() <= self.upstreams.max_retries());
                return Err(error.into_up());
            }
        };
        let body = std::mem::replace(&mut self.body, Body::Cut);
        let mut exchange = Exchange {
            upstreams: self.upstreams.clone(),
            body,
            connection: Some(Box::new(Connection { session, peer: peer.clone() })),
            writing: None,
            unsent: None,
            ended: false,
        };
        let error = match self.converse(&mut exchange, target).await {
            Ok((header, end)) => return Ok((header, end, exchange)),
            Err(error) => error,
        };
        let mut error = error.more_context(format!("backend {peer}"));
        self.body = std::mem::replace(&mut exchange.body, Body::Cut);
        if self.head.method.is_safe() && self.body.rewind() {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        if matches!(error.etype(), ErrorType::H2Downgrade | ErrorType::InvalidH2) {
            if peer.options.alpn.get_min_http_version() == 1 {
                self.upstreams.connector().prefer_h1(&*peer);
            } else {
                error.set_retry(false);
            }
        }
        Err(error)
    }

    /// Sends the request over a connection, and reads the head of the answer.
    async fn converse(&self, exchange: &mut Exchange, target: Target) -> Result<(Box<ResponseHeader>, bool)> {
        let Connection { session, peer } = &mut **exchange.connection.as_mut().expect("it was made just now");
        session.set_read_timeout(None);
        session.set_write_timeout(peer.options.write_timeout);
        let mut head = self.head.clone();
        if let Some(host) = self.upstreams.host(target) {
            head.insert_header(header::HOST, host)?;
        }
        let sent = match session {
            HttpSession::H1(http1) => {
                let head = outgoing::in_http1(head, self.has_body)?;
                http1.write_request_header(Box::new(head)).await.map(drop)
            }
            HttpSession::H2(http2) => {
                let head = outgoing::in_http2(head, peer.is_tls())?;
                http2.write_request_header(Box::new(head), !self.has_body)
            }
            HttpSession::Custom(()) => unreachable!("no other protocol is set up"),
        };
        sent.map_err(|error| error.into_up())?;
        loop {
            match exchange.next_task().await? {
                HttpTask::Header(header, end) if !header.status.is_informational() => {
                    exchange.body.forget();
                    return Ok((header, end));
                }
                // 100 was answered when the body was read; other interim answers end here, as with Pingora's HTTP/2.
                HttpTask::Header(header, _) if header.status != StatusCode::SWITCHING_PROTOCOLS => {}
                _ => {
                    let reason = "the backend changed the protocol without being asked";
                    return Err(Error::explain(ErrorType::InvalidHTTPHeader, reason).into_up());
                }
            }
        }
    }

    /// Frames an answer for who asked: in chunks where its length is not known, and without what concerns the backend's
    /// connection only.
    fn reframe(&self, header: &mut ResponseHeader, end: bool) -> Result<()> {
        let bodyless = self.head.method == Method::HEAD
            || matches!(header.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        let framed = header.headers.contains_key(header::CONTENT_LENGTH)
            || header.headers.contains_key(header::TRANSFER_ENCODING);
        if header.version == Version::HTTP_2 {
            header.set_version(Version::HTTP_11);
        }
        if !(bodyless || framed || end) {
            header.set_version(Version::HTTP_11);
            header.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        }
        answers::leave_connection_out(header, self.version);
        Ok(())
    }
}

impl Exchange {
    /// What comes next from the backend; the request body goes up meanwhile. May be dropped and called again. Nothing comes
    /// after an error or the end.
    pub(super) async fn next_task(&mut self) -> Result<HttpTask> {
        loop {
            if let Some(writing) = &mut self.writing {
                let (connection, written) = writing.await;
                self.writing = None;
                self.connection = Some(connection);
                if let Err(error) = written {
                    self.body = Body::Cut;
                    self.unsent = Some(error);
                }
            }
            let Some(connection) = &mut self.connection else {
                return Err(Error::explain(ErrorType::ConnectionClosed, "the exchange is over").into_up());
            };
            let read = if matches!(self.body, Body::Sent | Body::Cut) {
                connection.read().await
            } else {
                tokio::select! {
                    read = connection.read() => read,
                    piece = self.body.next() => {
                        self.write(piece)?;
                        continue;
                    }
                }
            };
            return match read {
                Ok(task) => {
                    if task.is_end() {
                        self.release();
                    }
                    Ok(task)
                }
                Err(error) => {
                    self.give_up();
                    Err(self.unsent.take().unwrap_or(error).into_up())
                }
            };
        }
    }

    /// Begins to send a piece of the request body.
    fn write(&mut self, piece: Option<Piece>) -> Result<()> {
        match piece {
            Some(Piece::Bytes(bytes, last)) => {
                if last && !matches!(self.body, Body::Whole(..)) {
                    self.body = Body::Sent;
                }
                let connection = self.connection.take().expect("it was read from just now");
                self.writing = Some(connection.write(bytes, last).boxed());
                Ok(())
            }
            Some(Piece::Broken) => {
                self.give_up();
                Err(Error::explain(ErrorType::ConnectionClosed, "the client left in its request body").into_down())
            }
            // Its client is gone without having said so: what the backend makes of it is worth reading.
            None => {
                self.body = Body::Cut;
                Ok(())
            }
        }
    }

    /// The answer is whole: the connection serves others, if the request is too.
    fn release(&mut self) {
        self.ended = true;
        let whole = matches!(self.body, Body::Sent | Body::Whole(_, true));
        let Some(connection) = self.connection.take() else { return };
        if whole || matches!(connection.session, HttpSession::H2(_)) {
            hand_back(self.upstreams.clone(), connection);
        }
    }

    fn give_up(&mut self) {
        self.writing = None;
        if let Some(connection) = self.connection.take_if(|connection| matches!(connection.session, HttpSession::H2(_)))
        {
            hand_back(self.upstreams.clone(), connection);
        }
        self.connection = None;
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.give_up();
    }
}

/// Gives a connection to whoever needs one next. One of HTTP/2 loses this request's stream only, with a reset if that has not
/// ended. The runtime is gone only where the process ends.
fn hand_back(upstreams: Arc<Upstreams>, connection: Box<Connection>) {
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(async move {
            let Connection { session, peer } = *connection;
            upstreams.connector().release_http_session(session, &*peer, peer.idle_timeout()).await;
        });
    }
}

impl Connection {
    /// What comes next of the answer. May be dropped and called again.
    async fn read(&mut self) -> Result<HttpTask> {
        match &mut self.session {
            HttpSession::H1(http1) => http1.read_response_task().await,
            HttpSession::H2(http2) => read_http2(http2).await,
            HttpSession::Custom(()) => unreachable!("no other protocol is set up"),
        }
    }

    async fn write(mut self: Box<Self>, bytes: Option<Bytes>, last: bool) -> (Box<Self>, Result<()>) {
        let written = match &mut self.session {
            HttpSession::H1(http1) => {
                async {
                    if let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) {
                        http1.write_body(&bytes).await?;
                    }
                    if last {
                        http1.finish_body().await?;
                    }
                    Ok(())
                }
                .await
            }
            HttpSession::H2(http2) => match bytes.filter(|bytes| !bytes.is_empty()) {
                Some(bytes) => http2.write_request_body(bytes, last).await,
                None if last => http2.finish_request_body(),
                None => Ok(()),
            },
            HttpSession::Custom(()) => unreachable!("no other protocol is set up"),
        };
        (self, written)
    }
}

async fn read_http2(http2: &mut Http2Session) -> Result<HttpTask> {
    if http2.response_header().is_none() {
        http2.read_response_header().await?;
        let end = http2.check_response_end_or_error()?;
        let header = http2.response_header().expect("it was read in the line above").clone();
        let announced = header.headers.get(header::CONTENT_LENGTH);
        let more = announced.is_some_and(|length| length.as_bytes().iter().any(|digit| *digit != b'0'));
        let bodyless = http2.request_header().is_some_and(|request| request.method == Method::HEAD)
            || matches!(header.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
        if end && more && !bodyless {
            return Error::e_explain(ErrorType::H2Error, "an answer that ended before its body");
        }
        return Ok(HttpTask::Header(Box::new(header), end));
    }
    while let Some(bytes) = http2.read_response_body().await? {
        let end = http2.check_response_end_or_error()?;
        if end || !bytes.is_empty() {
            return Ok(HttpTask::Body(Some(bytes), end));
        }
    }
    let trailers = http2.read_trailers().await?;
    Ok(trailers.map_or(HttpTask::Done, |trailers| HttpTask::Trailer(Some(Box::new(trailers)))))
}

impl Body {
    /// Makes it ready for another attempt; false if it cannot be sent again.
    fn rewind(&mut self) -> bool {
        if let Self::Whole(_, given) = self {
            *given = false;
        }
        matches!(self, Self::Whole(..) | Self::Sent)
    }

    /// There will be no other attempt: what was given need not be kept.
    fn forget(&mut self) {
        if matches!(self, Self::Whole(_, true)) {
            *self = Self::Sent;
        }
    }

    /// The next piece. May be dropped and called again. `None`: no more will come, and nobody has said that it was the last.
    async fn next(&mut self) -> Option<Piece> {
        match self {
            Self::Whole(body, given) if !*given => {
                *given = true;
                Some(Piece::Bytes(Some(body.clone()), true))
            }
            Self::Pieces(pieces) => pieces.recv().await,
            Self::Whole(..) | Self::Sent | Self::Cut => std::future::pending().await,
        }
    }
}

impl TurnSource for Exchange {
    async fn next(&mut self) -> FromUpstream {
        loop {
            if self.ended {
                return FromUpstream::Eof;
            }
            match self.next_task().await {
                Ok(HttpTask::Body(Some(bytes), _)) if !bytes.is_empty() => return FromUpstream::Chunk(bytes),
                Ok(HttpTask::Body(..) | HttpTask::Done | HttpTask::Trailer(_)) => {}
                Ok(HttpTask::Header(..) | HttpTask::UpgradedBody(..) | HttpTask::Failed(_)) => {
                    self.give_up();
                    return FromUpstream::Broken("upstream_protocol".into());
                }
                Err(error) => {
                    tell(&error);
                    return FromUpstream::Broken(reason(&error));
                }
            }
        }
    }
}

/// One word for metrics and status answers.
fn reason(error: &Error) -> Arc<str> {
    match error.etype() {
        ErrorType::ReadTimedout => "upstream_timeout",
        ErrorType::ConnectionClosed => "upstream_closed",
        ErrorType::ReadError => "upstream_reset",
        _ => "upstream_error",
    }
    .into()
}

/// Tells operators of a backend that failed. Clients leave all the time.
fn tell(error: &Error) {
    if *error.esource() != pingora::ErrorSource::Downstream {
        tracing::warn!(error = super::for_log(error), "the backend failed");
    }
}

/// The next of an answer that is no turn; a failure if the backend breaks off, or says nothing for `silence`.
pub(super) async fn next_of_plain(exchange: &mut Exchange, silence: Option<Duration>) -> HttpTask {
    let next = match silence {
        None => exchange.next_task().await,
        Some(silence) => match tokio::time::timeout(silence, exchange.next_task()).await {
            Ok(next) => next,
            Err(_) => {
                let why = "the backend was silent for upstream.read_timeout";
                Err(Error::explain(ErrorType::ReadTimedout, why).into_up())
            }
        },
    };
    next.unwrap_or_else(HttpTask::Failed)
}

/// The client's request body on its way up, and with it the news that the client has left.
pub(super) struct Upload {
    pieces: Option<mpsc::Sender<Piece>>,
    sent: u64,
    limit: usize,
}

impl Upload {
    fn new(pieces: mpsc::Sender<Piece>, limit: usize) -> Self {
        Self { pieces: Some(pieces), sent: 0, limit }
    }

    /// Where nothing is left to send.
    pub(super) fn none() -> Self {
        Self { pieces: None, sent: 0, limit: 0 }
    }

    /// What comes next from the client. Waits until the upstream side has room for it, so that [`Upload::pass_on`] never
    /// does: a backend that reads no more for now must not keep its answer from being read. Cancel-safe.
    pub(super) async fn read(&self, session: &mut Session) -> Result<Option<Bytes>> {
        if let Some(pieces) = &self.pieces {
            // An error: the backend has answered without reading it all, and the rest goes nowhere.
            drop(pieces.reserve().await);
        }
        session.downstream_session.read_body_or_idle(self.pieces.is_none()).await
    }

    /// Passes on what came from the client. An error: it is gone, or sent too much.
    pub(super) async fn pass_on(&mut self, read: Result<Option<Bytes>>, session: &mut Session) -> Result<()> {
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                self.fail().await;
                return Err(error.into_down());
            }
        };
        let Some(pieces) = &self.pieces else { return Ok(()) };
        self.sent += read.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.sent > self.limit as u64 {
            self.fail().await;
            let over = Error::explain(ErrorType::HTTPStatus(413), "the request body is over max_request_body");
            return Err(over.into_down());
        }
        let last = read.is_none() || session.as_mut().is_body_done();
        // The upstream may have answered without reading the whole body; the rest of it goes nowhere then.
        let _ = pieces.send(Piece::Bytes(read, last)).await;
        if last {
            self.pieces = None;
        }
        Ok(())
    }

    async fn fail(&mut self) {
        if let Some(pieces) = self.pieces.take() {
            let _ = pieces.send(Piece::Broken).await;
        }
    }
}
