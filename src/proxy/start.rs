//! A request that may become a turn: admitted, sent upstream exactly once, and recorded if the answer is an event stream.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::{
    Result,
    http::{RequestHeader, ResponseHeader},
    protocols::http::HttpTask,
    proxy::Session,
};
use tokio::sync::oneshot;

use super::{
    Gateway,
    answers::{self, Problem},
    body, deliver, farewell,
    purpose::Matched,
    resume,
    source::{self, Exchange, Outgoing, Upload},
};
use crate::{
    config::{self, Concurrent},
    node::{Begun, Following, LiveTurn, Pending, Refused, Start},
    principal::Principal,
    profile::{self, Profile, Request},
    sse::{EventId, TurnId},
    turn::{Detached, Digest, Limits, Millis, Session as TurnSession, admission::Marks},
};

/// Largest request body that is read before the request goes upstream, to find the session and to recognise retried
/// starts. A larger one, or one of unknown length, streams through unread.
const INSPECTED: usize = 1 << 20;

/// How long a backend may take to answer that it stops a turn.
pub(super) const STOP_ANSWER: Duration = Duration::from_secs(5);

/// A start on its way to become a turn.
struct Prepared {
    start: Start,
    /// As the client sent it, with its body, where that was read.
    request: Arc<Request>,
    profile: &'static dyn Profile,
    principal: Option<Principal>,
}

/// What came of the upstream's answer.
enum Opened {
    /// An event stream; the turn is being recorded, and the client counts as its follower.
    Recording(Arc<LiveTurn>, Option<Following>),
    /// Anything else: it is passed on as it comes.
    Plain(Box<ResponseHeader>, bool, Exchange),
    /// There was no answer, or none in time; this is what the client is told.
    Nothing(StatusCode),
    /// The turn was stopped before there was an answer.
    Stopped,
}

impl Gateway {
    /// Serves a request on a recorded route, whose body has been read as far as it is looked at. It may continue a turn that
    /// ended behind this event, but not at its backend.
    pub(super) async fn start(
        &self,
        session: &mut Session,
        matched: &Matched,
        request: Request,
        principal: Option<Principal>,
        continues: Option<&EventId>,
    ) -> Result<()> {
        let by_session = self.sessions_are_open_to(principal.as_ref());
        let prepared = self.prepare(matched, request, principal).await;
        let likely = likely_stream(session.req_header());
        // A request that hardly becomes a turn costs the store nothing until it does.
        let admission = if likely || prepared.start.session.is_some() {
            let mut begun = self.node.begin(prepared.start.clone()).await;
            if let Ok(Begun::Attach(found, _)) = begun {
                if self.attach(session, found, prepared.start.marks.body.as_ref()).await? {
                    return Ok(());
                }
                // What it was a retry of turned out to be no event stream: it is a start of its own.
                begun = self.node.begin(prepared.start.clone()).await;
            }
            match begun {
                Ok(Begun::Fresh(pending)) => Admission::Pending(pending),
                Ok(Begun::Attach(..)) => {
                    let message = "The request this one repeats is still open. Try again.";
                    let problem = Problem::new(StatusCode::CONFLICT, "start_pending", message);
                    return answers::problem(session, &problem.retry_after(Duration::from_secs(1))).await;
                }
                Ok(Begun::Busy(turn)) => {
                    let asker = prepared.start.principal;
                    return self.busy(session, by_session.then_some(turn), asker.as_ref()).await;
                }
                Err(refused) => return answers::problem(session, &refusal(&refused)).await,
            }
        } else {
            Admission::Later(prepared.start.clone())
        };
        if let Some(turn) = admission.turn() {
            let Prepared { profile, request, principal, .. } = &prepared;
            let names = profile.names(request, &http::HeaderMap::new());
            self.note_names(*profile, names, &turn.admitted().id, principal.as_ref()).await;
            if let Some(event) = continues {
                self.note_continuation(event, &turn.admitted().id).await;
            }
        }
        self.forward(session, matched, admission, prepared, likely).await
    }

    /// The session takes one turn at a time. The name of the one that runs is a key to it: `turn` is set for who may attach
    /// by the session, and a page of another origin reads it only where the backend lets it read the turn.
    async fn busy(&self, session: &mut Session, turn: Option<TurnId>, asker: Option<&Digest>) -> Result<()> {
        let busy = |message| Problem::new(StatusCode::CONFLICT, "session_busy", message);
        let Some(turn) = turn else {
            return answers::problem(session, &busy("A turn already runs in this session.".to_owned())).await;
        };
        let header = match self.node.find(&turn, asker).await {
            Ok(found) => self.with_cors_of(&found, StatusCode::CONFLICT),
            Err(_) => ResponseHeader::build(StatusCode::CONFLICT, Some(4))?,
        };
        let message = format!("A turn already runs in this session: {}/turns/{turn}", self.base_path());
        answers::problem_under(session, header, &busy(message)).await
    }

    /// Reads what must be read of a request before it is known what becomes of it.
    pub(super) async fn read(
        &self,
        session: &mut Session,
        matched: &Matched,
        request: Request,
    ) -> Result<std::result::Result<Request, Problem>> {
        let route = &matched.route;
        let length = content_length(session.req_header());
        if length.is_some_and(|length| length > route.max_request_body as u64) {
            return Ok(Err(Problem::body_too_large(Some(route.max_request_body))));
        }
        let wants_body = match route.session {
            None => is_json(session.req_header()),
            Some(ref source) => {
                matches!(source, config::SessionSource::Body(_) | config::SessionSource::Multipart(_))
            }
        };
        let short = length.is_some_and(|length| length <= INSPECTED as u64);
        let body = if session.as_mut().is_body_empty() {
            Some(Bytes::new())
        } else if short || (wants_body && length.is_none()) {
            match body::read(session, route.max_request_body).await? {
                Some(body) => Some(body),
                None => return Ok(Err(Problem::body_too_large(Some(route.max_request_body)))),
            }
        } else {
            None
        };
        Ok(Ok(request.with_body(body)))
    }

    /// Finds out what a start is and what it can be recognised by.
    async fn prepare(&self, matched: &Matched, request: Request, principal: Option<Principal>) -> Prepared {
        let route = &matched.route;
        let profile = profile::of_request(&route.profile, &request);
        let name = profile::session_name(route.session.as_ref(), profile, &request).await;
        let identity = self.identity();
        let session_of_turn =
            name.map(|name| TurnSession { key: *identity.session_key(principal.as_ref(), &name).as_bytes(), name });
        let marks = self.marks(&request, session_of_turn.as_ref(), principal.as_ref());
        let start = Start {
            route: route.name.as_str().into(),
            limits: limits(route, &self.settings.load().store),
            principal: principal.as_ref().map(|p| *p.as_bytes()),
            session: session_of_turn,
            concurrent: match route.concurrent {
                // To follow or stop the turn of a session, one must be allowed to attach by its name.
                Concurrent::Attach | Concurrent::Supersede if !self.sessions_are_open_to(principal.as_ref()) => {
                    Concurrent::Reject
                }
                concurrent => concurrent,
            },
            marks,
        };
        Prepared { start, request: Arc::new(request), profile, principal }
    }

    /// What the start can be recognised by: hashes over who asks, what for, and what names the start. Without identity, the
    /// cookies may be who asks: starts with other cookies are other starts.
    /// Equal bodies in two sessions are two starts, where the session stands elsewhere.
    fn marks(&self, request: &Request, session: Option<&TurnSession>, principal: Option<&Principal>) -> Marks {
        let session = session.map_or("", |session| &session.name);
        let identity = self.identity();
        let (path, headers) = (request.target(), request.headers());
        let mark = |kind: &str, session: &str, value: &[u8]| -> Digest {
            let method = request.method().as_str();
            let mut parts = [kind, method, path, session].map(str::as_bytes).to_vec();
            parts.push(value);
            if principal.is_none() {
                parts.extend(headers.get_all(header::COOKIE).iter().map(|cookies| cookies.as_bytes()));
            }
            identity.mark(principal, &parts)
        };
        let retries = request.header("x-stainless-retry-count");
        Marks {
            idempotency: headers.get("idempotency-key").map(|key| mark("idempotency", "", key.as_bytes())),
            body: request.body().map(|body| mark("body", session, body)),
            retry: retries.and_then(|n| n.trim().parse::<u32>().ok()).is_some_and(|n| n >= 1),
        }
    }

    /// Sends the request upstream and passes on what comes.
    async fn forward(
        &self,
        session: &mut Session,
        matched: &Matched,
        admission: Admission,
        prepared: Prepared,
        likely: bool,
    ) -> Result<()> {
        let body = prepared.request.body().cloned();
        if body.is_none() {
            body::invite(session).await?;
        }
        let asked = source::Prepared { identity_coding: likely, max_body: matched.route.max_request_body, body };
        let (outgoing, mut upload) = source::prepare(self, session, asked)?;
        let turn = admission.turn().map(|turn| turn.admitted().id);
        let body_mark = admission.body_mark();
        let (opened, mut opening) = oneshot::channel();
        let waiting = OpeningTask {
            gateway: self.clone(),
            admission,
            prepared,
            outgoing,
            limit: self.settings.load().upstream.response_header_timeout,
            opened,
        };
        tokio::spawn(waiting.run());
        let outcome = loop {
            tokio::select! {
                opened = &mut opening => match opened {
                    Ok(opened) => break opened,
                    Err(_) => break Opened::Nothing(StatusCode::BAD_GATEWAY),
                },
                read = upload.read(session) => {
                    if let Err(error) = upload.pass_on(read, session).await {
                        if let Some(turn) = &turn {
                            self.node.client_lost(turn, body_mark.as_ref(), None).await;
                        }
                        return Err(error);
                    }
                }
            }
        };
        match outcome {
            Opened::Recording(turn, following) => {
                self.follow_first(session, matched, &turn, following, body_mark, upload).await
            }
            Opened::Plain(header, end, exchange) => {
                let silence = self.settings.load().upstream.read_timeout;
                pipe(session, header, end, exchange, upload, silence).await
            }
            Opened::Nothing(status) => answers::problem(session, &Problem::of_status(status)).await,
            Opened::Stopped => answers::problem(session, &Problem::stopped()).await,
        }
    }

    /// The client that started the turn follows it from its first event.
    async fn follow_first(
        &self,
        session: &mut Session,
        matched: &Matched,
        turn: &Arc<LiveTurn>,
        following: Option<Following>,
        body_mark: Option<Digest>,
        upload: Upload,
    ) -> Result<()> {
        let id = turn.admitted().id;
        let head = turn.log().head().unwrap_or_default();
        let header = answers::Following {
            head: &head,
            turn: &id,
            base_path: &self.base_path(),
            from: None,
            gap: None,
            state: None,
        }
        .stream(session.req_header().version);
        let profile = profile::named(&head.profile);
        let priming = resume::priming(profile, &matched.request(session), &id, 0);
        let follow = self.node.follow_first(turn, matched.pace(), following);
        let follow = if profile.bare() { follow.bare() } else { follow };
        let written_at: Millis = self.node.clock().now();
        let delivered = deliver::deliver(session, header, priming, follow, upload, self.node.metrics()).await;
        let delivered = match delivered {
            Ok(Some(end)) => deliver::part(session, farewell::said_at_once(&id, turn.log(), &end)).await,
            delivered => delivered.map(drop),
        };
        match &delivered {
            Ok(()) => self.delivered(&id, profile).await,
            Err(_) if turn.log().ended().is_none() => {
                self.node.client_lost(&id, body_mark.as_ref(), Some(written_at)).await;
            }
            Err(_) => {}
        }
        delivered
    }
}

/// Whether the turn is admitted yet.
enum Admission {
    Pending(Pending),
    /// Only once the answer turns out to be an event stream.
    Later(Start),
}

impl Admission {
    fn turn(&self) -> Option<&Arc<LiveTurn>> {
        match self {
            Self::Pending(pending) => Some(pending.turn()),
            Self::Later(_) => None,
        }
    }

    /// Waits until somebody asks for the end of the turn.
    async fn stopped(&mut self) {
        match self {
            Self::Pending(pending) => pending.stopped().await,
            Self::Later(_) => std::future::pending().await,
        }
    }

    fn body_mark(&self) -> Option<Digest> {
        match self {
            Self::Pending(pending) => pending.body_mark(),
            Self::Later(start) => start.marks.body,
        }
    }
}

/// Waits for the upstream's answer: that of a turn whether or not its client does.
struct OpeningTask {
    gateway: Gateway,
    admission: Admission,
    prepared: Prepared,
    outgoing: Outgoing,
    limit: Duration,
    opened: oneshot::Sender<Opened>,
}

impl OpeningTask {
    async fn run(self) {
        let Self { gateway, mut admission, prepared, outgoing, limit, opened: mut tell } = self;
        let hardly_a_turn = matches!(admission, Admission::Later(_));
        let answered = tokio::select! {
            answered = tokio::time::timeout(limit, outgoing.open()) => answered,
            () = admission.stopped() => {
                let _ = tell.send(Opened::Stopped);
                return;
            }
            // It is given up with its client, as by any proxy.
            () = tell.closed(), if hardly_a_turn => return,
        };
        let opened = match answered {
            Ok(Ok((header, end, exchange))) if is_event_stream(&header) => {
                record(&gateway, admission, &prepared, (header, end), exchange).await
            }
            Ok(Ok((header, end, exchange))) => Opened::Plain(header, end, exchange),
            Ok(Err(error)) => {
                Opened::Nothing(StatusCode::from_u16(super::status_of(&error)).unwrap_or(StatusCode::BAD_GATEWAY))
            }
            Err(_) => Opened::Nothing(StatusCode::GATEWAY_TIMEOUT),
        };
        // A client that is gone hears nothing, and what is not a turn ends with it: the upstream is dropped here.
        let _ = tell.send(opened);
    }
}

async fn record(
    gateway: &Gateway,
    admission: Admission,
    prepared: &Prepared,
    (header, end): (Box<ResponseHeader>, bool),
    exchange: Exchange,
) -> Opened {
    let pending = match admission {
        Admission::Pending(pending) => pending,
        Admission::Later(start) => match gateway.node.begin(start).await {
            Ok(Begun::Fresh(pending)) => pending,
            // The request has gone upstream: what cannot be recorded is at least delivered.
            Ok(Begun::Attach(..) | Begun::Busy(_)) | Err(_) => {
                tracing::warn!("an event stream passes unrecorded: it cannot be admitted");
                return Opened::Plain(header, end, exchange);
            }
        },
    };
    let turn = pending.turn().clone();
    // Before the recording looks whether anybody follows: a route may want a deserted turn stopped at once.
    let following = turn.join(usize::MAX);
    let Prepared { request, principal, .. } = prepared;
    let id = turn.admitted().id;
    let mut head = answers::recordable(&header);
    let profile = profile::of_answer(prepared.profile, &head.headers);
    head.profile = profile.name().into();
    head.request_id = profile.request_id(request).map(Into::into);
    let names = profile.names(request, &head.headers);
    profile.adorn(&mut head.headers, &id, request);
    // Before the client can know them.
    gateway.note_names(profile, names, &id, principal.as_ref()).await;
    gateway.watch_for_names(profile, &turn, *principal);
    pending.record(Arc::new(head), exchange, profile);
    Opened::Recording(turn, following)
}

/// Passes on an answer that is no turn, as any proxy would: it ends with the client, and the client with it.
pub(super) async fn pipe(
    session: &mut Session,
    header: Box<ResponseHeader>,
    end: bool,
    mut exchange: Exchange,
    mut upload: Upload,
    silence: Option<Duration>,
) -> Result<()> {
    if session.write_response_tasks(vec![HttpTask::Header(header, end)]).await? {
        return Ok(());
    }
    loop {
        tokio::select! {
            task = source::next_of_plain(&mut exchange, silence) => {
                if session.write_response_tasks(vec![task]).await? {
                    return Ok(());
                }
            }
            read = upload.read(session) => {
                upload.pass_on(read, session).await?;
            }
        }
    }
}

fn refusal(refused: &Refused) -> Problem {
    let message = format!("No turn can be started now: {refused}. Try again.");
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, refused.as_str(), message).retry_after(Duration::from_secs(2))
}

/// Whether the answer is probably an event stream. A guess that is wrong costs little either way.
fn likely_stream(request: &RequestHeader) -> bool {
    request.method != Method::GET || super::accepts_event_stream(request)
}

/// The one thing that makes an answer a turn.
fn is_event_stream(header: &ResponseHeader) -> bool {
    let content_type = header.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    if header.status != StatusCode::OK || !essence.eq_ignore_ascii_case("text/event-stream") {
        return false;
    }
    let coded =
        header.headers.get(header::CONTENT_ENCODING).is_some_and(|v| !v.as_bytes().eq_ignore_ascii_case(b"identity"));
    if coded {
        tracing::warn!(
            "an event stream passes unrecorded: the backend compressed it although it was asked not to; \
             switch compression of text/event-stream off there"
        );
    }
    !coded
}

fn is_json(request: &RequestHeader) -> bool {
    let content_type = request.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    content_type.split(';').next().is_some_and(|essence| essence.trim().eq_ignore_ascii_case("application/json"))
}

fn content_length(request: &RequestHeader) -> Option<u64> {
    request.headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn limits(route: &config::Route, store: &config::Store) -> Limits {
    Limits {
        max_turn: route.max_turn,
        max_silence: route.max_silence,
        detached: match route.on_disconnect {
            config::OnDisconnect::Continue => Detached::Expire(route.max_detached),
            config::OnDisconnect::Cancel => Detached::Cancel(Duration::ZERO),
            config::OnDisconnect::Grace(grace) => Detached::Cancel(grace),
        },
        max_event: route.max_event,
        max_turn_bytes: route.max_turn_bytes as u64,
        give_up: store.retain_after_end,
        flush_window: store.flush_window,
    }
}
