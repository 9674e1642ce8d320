//! What is recorded, and how.

use std::time::Duration;

use http::{HeaderName, Method};
use serde_json::{Value as Json, json};

use super::{
    path::{PathParams, PathPattern},
    section::{Leaf, Wrong, choice, not_among, section},
    text::{DAY, MILLISECOND, MINUTE, quoted},
    tree::Value,
};

/// The profiles a route can name.
pub const PROFILES: &[&str] = &[
    "auto",
    "generic",
    "mcp",
    "a2a",
    "langgraph",
    "ai-sdk",
    "tanstack",
    "ag-ui",
    "openai",
    "anthropic",
    "gemini",
    "dify",
    "flowise",
];

section! {
    /// What is recorded, and how.
    pub struct Route {
        /// Name in metrics, logs and the turn list. Each route needs its own.
        pub name: String = "default".to_owned(),
        /// Path prefix, on segment bounds: `/api/chat` takes `/api/chat` and `/api/chat/x`, not `/api/chats`. A segment
        /// `{name}` takes any one segment, which `session = "path:name"` can use.
        pub path: PathPattern = PathPattern::default(),
        /// Methods; empty takes any.
        pub methods: Vec<Method> = Vec::new(),
        /// How the clients of this route resume; `auto` finds out from request and response.
        pub profile: String = "auto".to_owned(),
        /// Where the session (chat, thread, conversation) of a request stands: `body:/json/pointer`, `path:NAME`,
        /// `query:NAME`, `header:NAME`, `cookie:NAME` or `multipart:NAME`. Unset leaves it to the profile.
        pub session: Option<SessionSource> = None,
        /// What a leaving client does to its turn: `continue` runs it to its end, `cancel` stops it, `{ grace = "30s" }`
        /// stops it when nobody has come back by then.
        pub on_disconnect: OnDisconnect = OnDisconnect::Continue,
        /// What a second start in a session does while a turn runs: `allow` runs both, `reject` answers 409, `attach`
        /// follows the running turn, `supersede` stops the running turn.
        pub concurrent: Concurrent = Concurrent::Allow,
        /// What a client gets whose next event is no longer there: `restart` sends the turn from its first kept event,
        /// `error` answers 409, `skip` goes on with the first event that is there. Always told in `Holdover-Gap`.
        pub on_gap: OnGap = OnGap::Restart,
        /// What a client gets that asks by the session alone, without a cursor, for a turn that has ended (AI SDK): `undelivered`
        /// sends the turn unless some client got it to its end, `always` sends it each time, `never` says that nothing is left.
        pub replay_finished: ReplayFinished = ReplayFinished::Undelivered,
        /// A comment line is sent to a client that got nothing for so long, so that nothing in between closes the
        /// connection; `off` sends none.
        pub keepalive: Option<Duration> = Some(Duration::from_secs(15)); Duration::from_secs(1)..=DAY,
        /// How long EventSource clients are told to wait before they reconnect (`retry:`); `off` tells them nothing.
        pub reconnect: Option<Duration> = Some(Duration::from_secs(1)); MILLISECOND..=MINUTE * 10,
        /// Longest a turn may run. Longer ones are stopped.
        pub max_turn: Duration = MINUTE * 60; Duration::from_secs(1)..=DAY * 7,
        /// Longest a turn may run without any follower. Longer ones are stopped, since generating costs money.
        pub max_detached: Duration = MINUTE * 10; Duration::from_secs(1)..=DAY * 7,
        /// Longest the backend may be silent in a turn. Longer ones end as `failed`.
        pub max_silence: Duration = MINUTE * 10; Duration::from_secs(1)..=DAY * 7,
        /// Largest event that is recorded. A larger one ends the recording of its turn; the client still gets it.
        pub max_event: usize = 1 << 20; 1 << 10..=1 << 30,
        /// Most bytes of a turn that are recorded. More ends the recording; the client still gets them.
        pub max_turn_bytes: usize = 64 << 20; 1 << 10..,
        /// Largest request body. A larger one is answered 413.
        pub max_request_body: usize = 32 << 20,
        /// Most connections that may follow one turn at once. More are answered 503.
        pub followers: u32 = 64; 1..,
        /// Record at all. `false` passes requests and answers through untouched.
        pub record: bool = true,
    }
}

impl Route {
    /// What the path captured, if this route takes the request.
    pub fn matches(&self, method: &Method, path: &str) -> Option<PathParams> {
        if !self.methods.is_empty() && !self.methods.contains(method) {
            return None;
        }
        self.path.matches(path)
    }
}

impl Leaf for PathPattern {
    const EXPECTED: &'static str = "a path such as \"/api/chat\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        value.text()?.trim().parse().map_err(|wrong: String| Wrong::new(wrong))
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}

/// Where the session key of a request stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SessionSource {
    /// A JSON pointer (RFC 6901) into the request body.
    Body(String),
    /// A `{name}` segment of the route's path.
    Path(String),
    /// A query parameter.
    Query(String),
    /// A request header.
    Header(HeaderName),
    /// A cookie.
    Cookie(String),
    /// A field of a `multipart/form-data` body.
    Multipart(String),
}

/// What a leaving client does to its turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDisconnect {
    /// Nothing.
    Continue,
    /// Stops it.
    Cancel,
    /// Stops it when nobody has come back in time.
    Grace(Duration),
}

choice! {
    /// What a second start in a session does while a turn runs.
    pub enum Concurrent {
        /// Both run.
        Allow = "allow",
        /// The second is refused with 409.
        Reject = "reject",
        /// The second follows the first.
        Attach = "attach",
        /// The first is stopped.
        Supersede = "supersede",
    }
}

choice! {
    /// What a client gets whose next event is no longer there.
    pub enum OnGap {
        /// The turn from its first kept event.
        Restart = "restart",
        /// 409.
        Error = "error",
        /// The first event that is there, and on.
        Skip = "skip",
    }
}

choice! {
    /// What a client gets that asks for a turn that has ended by its session alone.
    pub enum ReplayFinished {
        /// The whole turn, unless some client got it to its end.
        Undelivered = "undelivered",
        /// The whole turn.
        Always = "always",
        /// Nothing.
        Never = "never",
    }
}

impl Leaf for SessionSource {
    const EXPECTED: &'static str = "the place of the session, such as \"body:/id\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        const KINDS: &[&str] = &["body", "path", "query", "header", "cookie", "multipart"];
        let text = value.text()?.trim();
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        if !KINDS.contains(&kind) {
            return Err(not_among(kind, KINDS));
        }
        if name.is_empty() {
            let example = if kind == "body" { "/id" } else { "NAME" };
            return Err(Wrong::new(format!("`{kind}` of what?")).help(format!("write \"{kind}:{example}\"")));
        }
        let owned = name.to_owned();
        match kind {
            "body" if !name.starts_with('/') => Err(Wrong::new("a JSON pointer begins with a slash")
                .help(format!("write \"body:/{}\"", name.trim_start_matches("$.").replace('.', "/")))),
            "body" if name.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) => {
                Err(Wrong::new("in a JSON pointer, ~ stands before 0 or 1 only").help("write ~0 for ~ and ~1 for /"))
            }
            "body" => Ok(Self::Body(owned)),
            "path" => Ok(Self::Path(owned)),
            "query" => Ok(Self::Query(owned)),
            "header" => super::text::header(name).map(Self::Header),
            "cookie" => super::text::cookie(name).map(Self::Cookie),
            _ => Ok(Self::Multipart(owned)),
        }
    }

    fn show(&self) -> Option<String> {
        Some(match self {
            Self::Body(pointer) => quoted(format_args!("body:{pointer}")),
            Self::Path(name) => quoted(format_args!("path:{name}")),
            Self::Query(name) => quoted(format_args!("query:{name}")),
            Self::Header(name) => quoted(format_args!("header:{name}")),
            Self::Cookie(name) => quoted(format_args!("cookie:{name}")),
            Self::Multipart(name) => quoted(format_args!("multipart:{name}")),
        })
    }
}

impl Leaf for OnDisconnect {
    const EXPECTED: &'static str = "`continue`, `cancel` or `{ grace = \"30s\" }`";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        if let Value::Table(entries) = value {
            let grace = entries.get("grace").filter(|_| entries.len() == 1).ok_or_else(Wrong::kind)?;
            return match Duration::parse(&grace.value)? {
                Duration::ZERO => Err(Wrong::new("a grace of zero is a cancel").help("write \"cancel\"")),
                grace => Ok(Self::Grace(grace)),
            };
        }
        match value.text()?.trim() {
            "continue" => Ok(Self::Continue),
            "cancel" => Ok(Self::Cancel),
            "grace" => Err(Wrong::new("for how long?").help("write { grace = \"30s\" }")),
            other => Err(not_among(other, &["continue", "cancel", "{ grace = \"30s\" }"])),
        }
    }

    fn show(&self) -> Option<String> {
        match self {
            Self::Continue => Some(quoted("continue")),
            Self::Cancel => Some(quoted("cancel")),
            Self::Grace(grace) => Leaf::show(grace).map(|grace| format!("{{ grace = {grace} }}")),
        }
    }

    fn schema() -> Json {
        json!({ "oneOf": [
            { "enum": ["continue", "cancel"] },
            {
                "type": "object",
                "properties": { "grace": <Duration as Leaf>::schema() },
                "required": ["grace"],
                "additionalProperties": false,
            },
        ] })
    }
}
