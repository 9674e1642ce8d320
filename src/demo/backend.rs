//! The backend as an HTTP server: routes, bad input, the paced stream, and the client that leaves.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, StatusCode, header};
use pingora::{
    Result,
    apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream},
    http::ResponseHeader,
    protocols::http::ServerSession,
};
use serde::Deserialize;
use serde_json::json;
use tokio::{sync::watch, time::sleep};

use super::{ai_sdk, answer, tally::Tally};

/// Longest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Longest chat id and message, in bytes.
const MAX_ID: usize = 128;
const MAX_MESSAGE: usize = 4096;
/// Longest pause between two events that a client may ask for, in milliseconds.
const MAX_PACE: u64 = 1000;
/// How long a client may take no bytes before the backend gives it up.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Scripts and styles come from the page's own origin only; it connects to the backend's own address as well.
const PAGE_POLICY: &str = "default-src 'self'; connect-src *; base-uri 'none'; frame-ancestors 'none'";

const HTML: &str = "text/html; charset=utf-8";
const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";
const IMAGE: &str = "image/svg+xml";
const JSON: &str = "application/json";

/// The backend's routes and counters, shared by all connections.
pub(super) struct App {
    direct: String,
    tally: Arc<Tally>,
}

/// The body of `POST /api/chat`.
#[derive(Deserialize)]
struct ChatRequest {
    id: String,
    message: String,
    /// Milliseconds before each event, instead of the agent's own 40 to 60.
    pace: Option<u64>,
    #[serde(skip)]
    dialect: Dialect,
}

/// How an answer is written.
#[derive(Default, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    /// As [`answer::Event`] is.
    #[default]
    Plain,
    /// As [`ai_sdk`] says.
    AiSdk,
}

/// Why a request got no answer of the kind it asked for.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// The path is none of the demo's.
    #[error("there is nothing at this path; the chat is at POST /api/chat")]
    NotFound,
    /// The path exists, the method does not.
    #[error("this path answers {0} only")]
    Method(&'static str),
    /// The request body exceeds [`MAX_BODY`].
    #[error("the body is longer than {MAX_BODY} bytes")]
    TooLong,
    /// The request body is not the JSON the chat wants.
    #[error("the body must be JSON like {{\"id\": \"chat-1\", \"message\": \"Hello\"}}: {0}")]
    NotJson(#[from] serde_json::Error),
    /// A field has a value out of its range.
    #[error("{0}")]
    Field(String),
}

/// What a request is answered with.
enum Reply {
    Whole { status: StatusCode, kind: &'static str, body: Bytes, allow: Option<&'static str> },
    Preflight,
    Turn(ChatRequest),
}

impl App {
    /// A backend that tells its page that it can be reached at `address`.
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { direct: format!("http://{address}"), tally: Arc::default() }
    }

    async fn reply(&self, session: &mut ServerSession) -> Result<Reply> {
        let request = session.req_header();
        let (method, path) = (request.method.clone(), request.uri.path().to_owned());
        if method == Method::OPTIONS {
            return Ok(Reply::Preflight);
        }
        let page = match path.as_str() {
            "/api/chat" if method == Method::POST => return self.chat(session, Dialect::Plain).await,
            "/api/ai-sdk" if method == Method::POST => return self.chat(session, Dialect::AiSdk).await,
            "/api/chat" | "/api/ai-sdk" => return Ok(Refusal::Method("POST, OPTIONS").into()),
            "/" => (HTML, Bytes::from_static(include_bytes!("page/index.html"))),
            "/page.js" => (SCRIPT, Bytes::from_static(include_bytes!("page/page.js"))),
            "/pane.js" => (SCRIPT, Bytes::from_static(include_bytes!("page/pane.js"))),
            "/chat.js" => (SCRIPT, Bytes::from_static(include_bytes!("page/chat.js"))),
            "/view.js" => (SCRIPT, Bytes::from_static(include_bytes!("page/view.js"))),
            "/stream.js" => (SCRIPT, Bytes::from_static(include_bytes!("page/stream.js"))),
            "/page.css" => (STYLE, Bytes::from_static(include_bytes!("page/page.css"))),
            "/icon.svg" => (IMAGE, Bytes::from_static(include_bytes!("page/icon.svg"))),
            "/api/where" => (JSON, json!({ "direct": self.direct }).to_string().into()),
            "/api/stats" => (JSON, json!(self.tally.report()).to_string().into()),
            _ => return Ok(Refusal::NotFound.into()),
        };
        if method != Method::GET && method != Method::HEAD {
            return Ok(Refusal::Method("GET, HEAD, OPTIONS").into());
        }
        Ok(Reply::Whole { status: StatusCode::OK, kind: page.0, body: page.1, allow: None })
    }

    async fn chat(&self, session: &mut ServerSession, dialect: Dialect) -> Result<Reply> {
        if session.get_header(header::EXPECT).is_some() {
            session.write_continue_response().await?;
        }
        let mut body = Vec::new();
        while let Some(piece) = session.read_request_body().await? {
            if body.len() + piece.len() > MAX_BODY {
                // What is left of the body stays unread, so this connection cannot carry another request.
                session.set_keepalive(None);
                return Ok(Refusal::TooLong.into());
            }
            body.extend_from_slice(&piece);
        }
        Ok(ChatRequest::parse(&body, dialect).map_or_else(Reply::from, Reply::Turn))
    }

    /// Streams one turn. Returns false when the client left before its end.
    async fn stream(&self, session: &mut ServerSession, chat: ChatRequest) -> Result<bool> {
        let turn = self.tally.start(chat.id);
        let mut head = head(StatusCode::OK, "text/event-stream")?;
        head.insert_header(header::CACHE_CONTROL, "no-cache")?;
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
        if chat.dialect == Dialect::AiSdk {
            head.insert_header(ai_sdk::MARK, "v1")?;
        }
        session.write_response_header(Box::new(head)).await?;
        let mut writer = ai_sdk::Writer::default();
        for (n, event) in answer::events(turn.number()).iter().enumerate() {
            let text = match chat.dialect {
                Dialect::Plain => format!("data: {}\n\n", json!(event)),
                Dialect::AiSdk => writer.write(event),
            };
            let pause = chat.pace.map_or_else(|| answer::pause(n), Duration::from_millis);
            tokio::select! {
                biased;
                _ = session.read_body_or_idle(true) => return Ok(false),
                () = sleep(pause) => {}
            }
            session.write_response_body(text.into(), false).await?;
            turn.event_sent();
        }
        session.write_response_body(Bytes::new(), true).await?;
        turn.finish();
        Ok(true)
    }

    /// Answers one request. Returns whether the connection may carry another one.
    async fn answer(&self, session: &mut ServerSession) -> Result<bool> {
        match self.reply(session).await? {
            Reply::Turn(chat) => self.stream(session, chat).await,
            Reply::Preflight => {
                let mut head = ResponseHeader::build(StatusCode::NO_CONTENT, Some(5))?;
                head.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")?;
                head.insert_header(header::ACCESS_CONTROL_ALLOW_METHODS, "GET, HEAD, POST")?;
                head.insert_header(header::ACCESS_CONTROL_ALLOW_HEADERS, "content-type")?;
                head.insert_header(header::ACCESS_CONTROL_MAX_AGE, "600")?;
                session.write_response_header(Box::new(head)).await?;
                Ok(true)
            }
            Reply::Whole { status, kind, body, allow } => {
                let mut head = head(status, kind)?;
                head.insert_header(header::CONTENT_LENGTH, body.len())?;
                head.insert_header(header::CACHE_CONTROL, "no-store")?;
                if let Some(allow) = allow {
                    head.insert_header(header::ALLOW, allow)?;
                }
                if kind == HTML {
                    head.insert_header(header::CONTENT_SECURITY_POLICY, PAGE_POLICY)?;
                }
                session.write_response_header(Box::new(head)).await?;
                if session.req_header().method != Method::HEAD {
                    session.write_response_body(body, true).await?;
                }
                Ok(true)
            }
        }
    }
}

/// What every answer with a body says. The direct pane calls from another origin, so every origin is allowed; there is
/// nothing here to protect.
fn head(status: StatusCode, kind: &'static str) -> Result<ResponseHeader> {
    let mut head = ResponseHeader::build(status, Some(8))?;
    head.insert_header(header::CONTENT_TYPE, kind)?;
    head.insert_header(header::X_CONTENT_TYPE_OPTIONS, "nosniff")?;
    head.insert_header(header::ACCESS_CONTROL_ALLOW_ORIGIN, "*")?;
    Ok(head)
}

impl ChatRequest {
    fn parse(body: &[u8], dialect: Dialect) -> Result<Self, Refusal> {
        let chat: Self = match dialect {
            Dialect::Plain => serde_json::from_slice(body)?,
            Dialect::AiSdk => {
                let request: ai_sdk::Request = serde_json::from_slice(body)?;
                let (id, message, pace) = (request.id.clone(), request.message(), request.pace);
                Self { id, message, pace, dialect }
            }
        };
        if chat.id.is_empty() || chat.id.len() > MAX_ID {
            return Err(Refusal::Field(format!("\"id\" must have 1 to {MAX_ID} bytes")));
        }
        if chat.message.trim().is_empty() || chat.message.len() > MAX_MESSAGE {
            return Err(Refusal::Field(format!("\"message\" must have 1 to {MAX_MESSAGE} bytes and not be blank")));
        }
        if chat.pace.is_some_and(|pace| pace > MAX_PACE) {
            return Err(Refusal::Field(format!("\"pace\" must be at most {MAX_PACE} milliseconds")));
        }
        Ok(chat)
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let (status, allow) = match refusal {
            Refusal::NotFound => (StatusCode::NOT_FOUND, None),
            Refusal::Method(allow) => (StatusCode::METHOD_NOT_ALLOWED, Some(allow)),
            Refusal::TooLong => (StatusCode::PAYLOAD_TOO_LARGE, None),
            Refusal::NotJson(_) | Refusal::Field(_) => (StatusCode::BAD_REQUEST, None),
        };
        let body = json!({ "error": refusal.to_string() }).to_string().into();
        Reply::Whole { status, kind: JSON, body, allow }
    }
}

#[async_trait]
impl HttpServerApp for App {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        match session.read_request().await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::debug!(%error, "demo backend could not read a request");
                return None;
            }
        }
        session.set_write_timeout(Some(WRITE_TIMEOUT));
        if *shutdown.borrow() {
            session.set_keepalive(None);
        }
        match self.answer(&mut session).await {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::debug!(%error, "demo client left");
                return None;
            }
        }
        let settings = HttpPersistentSettings::for_session(&session);
        let stream = session.finish().await.ok().flatten()?;
        Some(ReusedHttpStream::from_reusable_stream(stream, settings))
    }
}
