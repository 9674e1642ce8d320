//! The Pingora side: what happens to each request.
//!
//! | file | responsibility |
//! |---|---|
//! | `front` | the listener's side: a deadline for request heads |
//! | `hygiene` | refuses what no proxy should forward |
//! | `purpose` | what a request is for, as far as its head tells |
//! | `start` | a request that may become a turn: admitted, sent upstream once, recorded |
//! | `resume` | a request that goes on with a turn |
//! | `asks` | a request that goes on with a turn, or stops one, in its clients' own way |
//! | `names` | the other names that clients know turns by |
//! | `control` | Holdover's own URLs |
//! | `shim` | the fetch shim, as files |
//! | `deliver` | hands a turn to one client |
//! | `farewell` | what a client is told whose turn was lost |
//! | `body` | request bodies that are read here |
//! | `source` | the upstream side of what may become a turn |
//! | `outgoing` | the head of a request as a backend gets it |
//! | `upstreams`, `forwarded` | which backend, and connections to it; what it is told of the client |
//! | `answers` | every header and error of Holdover's own |
//!
//! Every request passes [`Gateway::request_filter`]. What may become a turn is sent upstream and answered there; what may not
//! goes Pingora's own way, through the filters below it.

mod answers;
mod asks;
mod body;
mod control;
mod deliver;
mod farewell;
mod forwarded;
mod front;
mod hygiene;
mod names;
mod outgoing;
mod purpose;
mod resume;
mod shim;
mod source;
mod start;
mod upstreams;

use std::{any::Any, sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, Method, StatusCode, header};
use pingora::{
    Error, ErrorSource, ErrorType, Result,
    http::{RequestHeader, ResponseHeader},
    modules::http::HttpModules,
    proxy::{FailToProxy, ProxyHttp, Session},
    upstreams::peer::HttpPeer,
};
use prometheus::IntGauge;

use self::{answers::Problem, deliver::BROKEN, purpose::Purpose, resume::Resumed, upstreams::Target};
use crate::{
    config::{Config, Route},
    node::{Node, Pace},
    principal::{Identifier, IdentityError},
    profile::Replies,
    sse::Cursor,
};
pub use front::Front;
pub(crate) use upstreams::KEPT_CONNECTIONS;
pub use upstreams::{Upstreams, UpstreamsError};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The proxy. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    shared: Arc<Shared>,
}

/// What all requests share.
pub struct Shared {
    /// This process's turns.
    pub node: Arc<Node>,
    /// The settings, replaced as a whole on SIGHUP.
    pub settings: ArcSwap<Config>,
    /// Who is asking; replaced together with the settings.
    pub identifier: ArcSwap<Identifier>,
    /// The backends.
    pub upstreams: Arc<Upstreams>,
}

impl std::ops::Deref for Gateway {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.shared
    }
}

fn pace(route: &Route) -> Pace {
    Pace { keepalive: route.keepalive, reconnect: route.reconnect }
}

/// What is kept of a request between its filters.
pub struct Context {
    since: Instant,
    kind: Kind,
    /// Request body bytes seen on Pingora's own way, against the route's limit.
    body: usize,
    max_body: usize,
    /// The addresses tried so far; the last one is the present attempt's.
    tried: Vec<Target>,
    in_flight: Option<InFlight>,
}

/// Counts a request while it lives.
struct InFlight(IntGauge);

impl InFlight {
    fn begin(gauge: IntGauge) -> Self {
        gauge.inc();
        Self(gauge)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// What a request was, for metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Passed,
    Start,
    Resume,
    Control,
    Rejected,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Start => "start",
            Self::Resume => "resume",
            Self::Control => "control",
            Self::Rejected => "rejected",
        }
    }
}

impl Gateway {
    /// A gateway to `shared`.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }

    fn base_path(&self) -> String {
        self.settings.load().listen.base_path.clone()
    }

    fn identity(&self) -> Arc<Identifier> {
        self.identifier.load_full()
    }

    /// The route of a turn that was started before. After a reload it may be gone; what matters then is the default.
    fn route_named(&self, name: &str) -> Route {
        let settings = self.settings.load();
        settings.routes.iter().find(|route| route.name == name).cloned().unwrap_or_default()
    }

    /// Tells the backend who its client is, in the head of a request to it.
    fn tell_of_client(&self, session: &Session, request: &mut RequestHeader) -> Result<()> {
        let client = session.client_addr().and_then(|address| address.as_inet()).copied();
        forwarded::apply(request, client, false, &self.settings.load().listen.trusted_proxies)
    }

    /// Answers the request, or says that it goes Pingora's own way.
    async fn handle(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        let settings = self.settings.load_full();
        let limits = hygiene::Limits { max_header_bytes: settings.listen.max_header_bytes };
        if let Err(rejection) = hygiene::check(session.req_header(), raw_head(session).as_deref(), limits) {
            ctx.kind = Kind::Rejected;
            self.node.metrics().requests_rejected.with_label_values(&[rejection.reason()]).inc();
            let mut problem = Problem::new(rejection.status(), rejection.reason(), rejection.to_string());
            if rejection.status() == StatusCode::METHOD_NOT_ALLOWED {
                problem = problem.allow(hygiene::ALLOW);
            }
            answers::problem(session, &problem.closing()).await?;
            return Ok(true);
        }
        let purpose = self.purpose(session, &settings, ctx);
        if matches!(purpose, Purpose::Pass) {
            return Ok(false);
        }
        session.set_write_timeout(Some(settings.listen.write_timeout));
        if let Purpose::Own(path) = &purpose
            && let Some(file) = shim::file(path)
            && session.req_header().method != Method::OPTIONS
        {
            ctx.kind = Kind::Control;
            file.serve(session).await?;
            return Ok(true);
        }
        let principal = match self.identity().identify(&session.req_header().headers).await {
            Ok(principal) => principal,
            // A preflight carries no credentials.
            Err(_) if session.req_header().method == Method::OPTIONS => None,
            // It may be a mere guess that this is about a turn.
            Err(_) if matches!(purpose, Purpose::Ask(..)) => return Ok(false),
            Err(error) => {
                ctx.kind = Kind::Rejected;
                self.node.metrics().requests_rejected.with_label_values(&[error.reason()]).inc();
                match purpose {
                    Purpose::Resume(_) if error == IdentityError::Unavailable => {
                        let replies = Replies::of(&session.req_header().method, &session.req_header().headers);
                        resume::not_now(session, &replies, identity_problem(&error)).await?;
                    }
                    _ => answers::problem(session, &identity_problem(&error)).await?,
                }
                return Ok(true);
            }
        };
        ctx.kind = purpose.kind();
        match purpose {
            Purpose::Pass => return Ok(false),
            Purpose::Own(path) => self.control(session, &path, principal).await?,
            Purpose::Resume(id) => {
                let matched = self.matched_by_path(session.req_header()).unwrap_or_default();
                let follow = matched.resume(session, &id);
                if let Resumed::AtBackend(native_id) = self.resume(session, follow, principal.as_ref()).await? {
                    self.continue_at_backend(session, &matched, &id, &native_id, principal).await?;
                }
            }
            Purpose::Ask(matched, request) => {
                body::discard(session).await?;
                let request = request.with_body(Some(Bytes::new()));
                let answered = self.answer_ask(session, &matched, &request, principal.as_ref()).await?;
                if !answered {
                    ctx.kind = Kind::Passed;
                }
                return Ok(answered);
            }
            Purpose::Start(matched, request) => {
                let request = match self.read(session, &matched, request).await? {
                    Ok(request) => request,
                    Err(problem) => return answers::problem(session, &problem).await.map(|()| true),
                };
                ctx.kind = Kind::Resume;
                if !self.answer_ask(session, &matched, &request, principal.as_ref()).await? {
                    ctx.kind = Kind::Start;
                    self.start(session, &matched, request, principal, None).await?;
                }
            }
        }
        Ok(true)
    }
}

fn accepts_event_stream(request: &RequestHeader) -> bool {
    let accepted = request.headers.get_all(header::ACCEPT).iter();
    accepted.filter_map(|value| value.to_str().ok()).any(|value| value.contains("text/event-stream"))
}

fn identity_problem(error: &IdentityError) -> Problem {
    let status = match error {
        IdentityError::Ambiguous => StatusCode::BAD_REQUEST,
        IdentityError::Invalid(_) | IdentityError::Unauthorized => StatusCode::UNAUTHORIZED,
        IdentityError::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
    };
    Problem::new(status, error.reason(), format!("It is not known who asks: {error}.")).closing()
}

/// The head of an HTTP/1 request as it came in.
fn raw_head(session: &Session) -> Option<Bytes> {
    session.as_downstream().as_http1().map(|http1| http1.get_headers_raw_bytes())
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        let (since, kind) = (Instant::now(), Kind::Passed);
        Context { since, kind, body: 0, max_body: usize::MAX, tried: Vec::new(), in_flight: None }
    }

    /// No modules: compression here would break the flow of events, and each module costs a call per chunk.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        front::head_arrived();
        ctx.in_flight = Some(InFlight::begin(self.node.metrics().requests_in_flight.clone()));
        // Who uses a connection again would come back to a node that is about to end.
        let keepalive = self.settings.load().listen.keepalive.filter(|_| !self.node.draining());
        session.set_keepalive(keepalive.map(|idle| idle.as_secs().max(1)));
        Ok(())
    }

    fn persist_connection_context(&self, _: &Session, _: &Context) -> Option<Box<dyn Any + Send + Sync>> {
        Some(Box::new(front::UsedBefore))
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        self.handle(session, ctx).await
    }

    async fn upstream_peer(&self, session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let (target, mut peer) = self
            .upstreams
            .pick(&ctx.tried)
            .ok_or_else(|| Error::explain(ErrorType::HTTPStatus(502), "no address of a backend is known").into_up())?;
        ctx.tried.push(target);
        // A tunnel may be silent for as long as its ends like.
        if session.is_upgrade_req() {
            peer.options.read_timeout = None;
        }
        Ok(peer)
    }

    async fn request_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        end_of_stream: bool,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.body += body.as_ref().map_or(0, Bytes::len);
        if ctx.body > ctx.max_body {
            return Err(
                Error::explain(ErrorType::HTTPStatus(413), "the request body is over max_request_body").into_down()
            );
        }
        // Pingora 0.9.1 writes the last chunk twice when a body ends with an empty frame, which poisons the connection
        // for the next request (cloudflare/pingora#935).
        if end_of_stream && body.as_ref().is_some_and(Bytes::is_empty) {
            *body = None;
        }
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        self.tell_of_client(session, request)?;
        // An id of ours means nothing to the backend; its own go up untouched.
        if let Some(cursor) = request.headers.get(&LAST_EVENT_ID)
            && matches!(Cursor::parse(cursor.as_bytes()), Cursor::After(_))
        {
            request.remove_header(&LAST_EVENT_ID);
        }
        if let Some(host) = ctx.tried.last().and_then(|target| self.upstreams.host(*target)) {
            request.insert_header(header::HOST, host)?;
        }
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        _ctx: &mut Context,
    ) -> Result<()> {
        let request = session.req_header();
        answers::leave_connection_out(response, request.version);
        if request.method == Method::OPTIONS && request.headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD) {
            answers::widen_preflight(response);
        }
        Ok(())
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        // Nothing was sent yet: another try cannot run a turn twice.
        error.set_retry(ctx.tried.len() <= self.upstreams.max_retries());
        error
    }

    /// Never retried once a connection was made: the backend may have begun to work.
    fn error_while_proxy(
        &self,
        peer: &HttpPeer,
        session: &mut Session,
        error: Box<Error>,
        _ctx: &mut Context,
        reused: bool,
    ) -> Box<Error> {
        let mut error = error.more_context(format!("backend {peer}"));
        if session.req_header().method.is_safe() && !session.as_ref().retry_buffer_truncated() {
            error.retry.decide_reuse(reused);
        } else {
            error.set_retry(false);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, _ctx: &mut Context) -> FailToProxy {
        let code = status_of(error);
        let said = session.response_written().is_some_and(|header| !header.status.is_informational());
        if code > 0 && !said {
            let status = StatusCode::from_u16(code).unwrap_or(StatusCode::BAD_GATEWAY);
            let _ = answers::problem(session, &Problem::of_status(status)).await;
        }
        FailToProxy { error_code: code, can_reuse_downstream: false }
    }

    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, error: &Error) -> bool {
        // Clients leave all the time, and what is broken on purpose has been logged where it was decided.
        *error.esource() == ErrorSource::Downstream || *error.etype() == BROKEN
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        let status = session.response_written().map_or(0, |header| header.status.as_u16());
        let class = match status {
            100..=199 => "1xx",
            200..=299 => "2xx",
            300..=399 => "3xx",
            400..=499 => "4xx",
            500..=599 => "5xx",
            _ => "none",
        };
        let metrics = self.node.metrics();
        let kind = ctx.kind.as_str();
        metrics.requests.with_label_values(&[kind, class]).inc();
        if let Some(error) = error
            && *error.esource() == ErrorSource::Upstream
        {
            tracing::warn!(kind, status, error = for_log(error), "the backend failed");
        }
        let streamed = session.response_written().is_some_and(|h| h.headers.contains_key(answers::HOLDOVER_TURN));
        if !streamed {
            metrics.request_duration.with_label_values(&[kind]).observe(ctx.since.elapsed().as_secs_f64());
        }
        let request = session.req_header();
        tracing::debug!(
            method = %request.method,
            path = redacted(request.uri.path(), &self.base_path()),
            status,
            kind,
            ms = ctx.since.elapsed().as_millis() as u64,
            error = error.map(|e| e.etype().as_str()),
            "request"
        );
    }
}

/// The error for logs. Of an answer's head that cannot be read, Pingora quotes every byte, cookies too.
fn for_log(error: &Error) -> String {
    match error.root_etype() {
        kind @ ErrorType::InvalidHTTPHeader => kind.as_str().to_owned(),
        _ => error.to_string(),
    }
}

/// The path for logs: below our own base path it holds ids, which are capabilities.
fn redacted<'a>(path: &'a str, base_path: &'a str) -> &'a str {
    if path.starts_with(base_path) { base_path } else { path }
}

/// The status for an error, 0 where nobody is left to read it.
fn status_of(error: &Error) -> u16 {
    match (error.etype(), error.esource()) {
        (ErrorType::HTTPStatus(code), _) => *code,
        (kind, _) if *kind == BROKEN => 0,
        (
            ErrorType::WriteError
            | ErrorType::ReadError
            | ErrorType::ConnectionClosed
            | ErrorType::WriteTimedout
            | ErrorType::H2Error,
            ErrorSource::Downstream,
        ) => 0,
        (ErrorType::ReadTimedout, ErrorSource::Downstream) => 408,
        (_, ErrorSource::Downstream) => 400,
        (ErrorType::ConnectTimedout | ErrorType::ReadTimedout, ErrorSource::Upstream) => 504,
        (_, ErrorSource::Upstream) => 502,
        (_, ErrorSource::Internal | ErrorSource::Unset) => 500,
    }
}
