//! The upstream side of a request as Pingora's subrequest: the whole of its proxy (retries, hop-by-hop rules, pooling,
//! HTTP/2) with us in the client's place, so that the upstream does not notice when the real client goes.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, Version, header};
use pingora::{
    Error, ErrorType, Result,
    protocols::http::{HttpTask, subrequest::server::SubrequestHandle},
    proxy::{
        Session,
        subrequest::{BodyMode, Ctx},
    },
};
use tokio::sync::mpsc;

use crate::node::{FromUpstream, TurnSource};

/// Marks a subrequest, and tells its filters what the main request has found out.
#[derive(Debug, Clone)]
pub(super) struct Mark {
    /// Ask for an answer without content coding, so that its events can be read.
    pub(super) identity_coding: bool,
    /// The request said `Content-Length: 0`, which a subrequest without a body loses.
    pub(super) no_content: bool,
    /// The body limit of the route; it has been enforced already.
    pub(super) max_body: usize,
    /// Where the backend is to go on, in its own words. A subrequest is made of the request's bytes as they came, which may
    /// have an id of ours there.
    pub(super) last_event_id: Option<HeaderValue>,
}

/// A request on its way upstream.
pub(super) struct Upstream {
    /// Takes the request body. Dropping all of them is, to the upstream side, the client's leaving.
    pub(super) body: mpsc::Sender<HttpTask>,
    /// Gives the answer.
    pub(super) answer: mpsc::Receiver<HttpTask>,
}

/// Sends the request of `session` upstream, in a task of its own.
pub(super) fn send(session: &mut Session, mark: Mark) -> Result<Upstream> {
    let has_body = !session.as_mut().is_body_empty();
    let body_mode = if has_body { BodyMode::ExpectBody } else { BodyMode::NoBody };
    let spawner = session
        .subrequest_spawner
        .take()
        .ok_or_else(|| Error::explain(ErrorType::InternalError, "no subrequest can be made of this request"))?;
    let original = as_http1(session, has_body)?;
    let ctx = Ctx::builder().body_mode(body_mode).user_ctx(Box::new(mark)).build();
    let (prepared, handle) = spawner.create_subrequest(session.as_downstream(), ctx);
    if let Some(original) = original {
        *session.req_header_mut() = original;
    }
    tokio::spawn(prepared.run());
    let SubrequestHandle { tx, rx, .. } = handle;
    Ok(Upstream { body: tx, answer: rx })
}

/// A subrequest is read from HTTP/1.1 bytes; Pingora 0.9.1 writes those of an HTTP/2 request with version 2 and without
/// `Host`, and refuses them then. Rewrites the request until the bytes are taken; returns what to restore.
fn as_http1(session: &mut Session, has_body: bool) -> Result<Option<pingora::http::RequestHeader>> {
    if !session.downstream_session.is_http2() {
        return Ok(None);
    }
    let original = session.req_header().clone();
    let request = session.req_header_mut();
    request.set_version(Version::HTTP_11);
    if let Some(authority) = original.uri.authority() {
        request.insert_header(header::HOST, authority.as_str())?;
    }
    if has_body && !request.headers.contains_key(header::CONTENT_LENGTH) {
        request.insert_header(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"))?;
    }
    Ok(Some(original))
}

/// The rest of an answer whose header was read.
pub(super) struct Answer {
    tasks: mpsc::Receiver<HttpTask>,
    /// Keeps "the client" there for ever.
    _client: mpsc::Sender<HttpTask>,
    ended: bool,
}

impl Answer {
    pub(super) fn new(upstream: Upstream) -> Self {
        Self { tasks: upstream.answer, _client: upstream.body, ended: false }
    }
}

impl TurnSource for Answer {
    async fn next(&mut self) -> FromUpstream {
        if self.ended {
            return FromUpstream::Eof;
        }
        loop {
            match self.tasks.recv().await {
                Some(HttpTask::Body(Some(bytes), end)) => {
                    self.ended = end;
                    if !bytes.is_empty() {
                        return FromUpstream::Chunk(bytes);
                    }
                    if end {
                        return FromUpstream::Eof;
                    }
                }
                Some(HttpTask::Body(None, false)) => {}
                Some(HttpTask::Body(None, true) | HttpTask::Done | HttpTask::Trailer(_)) => return FromUpstream::Eof,
                Some(HttpTask::Failed(error)) => return FromUpstream::Broken(reason(&error)),
                Some(HttpTask::Header(..) | HttpTask::UpgradedBody(..)) => {
                    return FromUpstream::Broken("upstream_protocol".into());
                }
                // The subrequest ends without a word when the upstream breaks in the middle of the body.
                None => return FromUpstream::Broken("upstream_closed".into()),
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

/// The client's request body on its way up, and with it the news that the client has left.
pub(super) struct Upload {
    to_upstream: Option<mpsc::Sender<HttpTask>>,
    done: bool,
    sent: u64,
    limit: usize,
}

impl Upload {
    pub(super) fn new(to_upstream: mpsc::Sender<HttpTask>, limit: usize) -> Self {
        Self { to_upstream: Some(to_upstream), done: false, sent: 0, limit }
    }

    /// For requests that do not go up.
    pub(super) fn none() -> Self {
        Self { to_upstream: None, done: true, sent: 0, limit: 0 }
    }

    /// Sends a body that was read before; `None` where the request announced none.
    pub(super) async fn whole(&mut self, body: Option<Bytes>) {
        self.done = true;
        if let (Some(body), Some(upstream)) = (body, &self.to_upstream) {
            let _ = upstream.send(HttpTask::Body((!body.is_empty()).then_some(body), true)).await;
        }
    }

    /// What comes next from the client. Waits until the upstream side has room for it, so that [`Upload::pass_on`] never
    /// does: a backend that reads no more for now must not keep its answer from being read. Cancel-safe.
    pub(super) async fn read(&self, session: &mut Session) -> Result<Option<Bytes>> {
        if let (false, Some(upstream)) = (self.done, &self.to_upstream) {
            // An error: the backend has answered without reading it all, and the rest goes nowhere.
            drop(upstream.reserve().await);
        }
        session.downstream_session.read_body_or_idle(self.done).await
    }

    /// Passes on what came from the client. An error: it is gone, or sent too much.
    pub(super) async fn pass_on(&mut self, read: Result<Option<Bytes>>, session: &mut Session) -> Result<()> {
        let read = match read {
            Ok(read) => read,
            Err(error) => {
                // Half a request must not pass for a whole one.
                self.fail(Error::explain(ErrorType::ConnectionClosed, "the client left in its request body")).await;
                return Err(error.into_down());
            }
        };
        if self.done {
            return Ok(());
        }
        self.sent += read.as_ref().map_or(0, |bytes| bytes.len() as u64);
        if self.sent > self.limit as u64 {
            let over = || Error::explain(ErrorType::HTTPStatus(413), "the request body is over max_request_body");
            self.fail(over()).await;
            return Err(over().into_down());
        }
        self.done = read.is_none() || session.as_mut().is_body_done();
        if let Some(upstream) = &self.to_upstream {
            // The upstream may have answered without reading the whole body; the rest of it goes nowhere then.
            let _ = upstream.send(HttpTask::Body(read, self.done)).await;
        }
        Ok(())
    }

    async fn fail(&mut self, why: Box<Error>) {
        if let (false, Some(upstream)) = (self.done, &self.to_upstream) {
            let _ = upstream.send(HttpTask::Failed(why)).await;
        }
    }
}
