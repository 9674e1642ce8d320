//! Who is asking.

use std::{path::PathBuf, time::Duration};

use http::{HeaderName, header};
use url::Url;

use super::{
    section::{Leaf, Wrong, not_among, section},
    text::{DAY, MILLISECOND, MINUTE, Secret, quoted},
    tree::Value,
};

section! {
    /// Who is asking. A turn is followed, listed and stopped only by who started it.
    pub struct Identity {
        /// Where the identity of a request is taken from; the first source that is present wins. `header:NAME`,
        /// `cookie:NAME`, `jwt:CLAIM` (a verified token, see `[identity.jwt]`) or `subrequest` (the backend says who it
        /// is, see `[identity.subrequest]`). Take a header only if clients cannot make it up.
        pub from: Vec<IdentitySource> = vec![
            IdentitySource::Header(header::AUTHORIZATION),
            IdentitySource::Header(HeaderName::from_static("x-api-key")),
        ],
        /// Let requests without identity find a running turn by its session key. Then whoever guesses a key reads along.
        pub anonymous_sessions: bool = false,
        /// Key of the hash under which identities are stored, at least 16 characters; the same on all nodes. Unset: made
        /// once and kept in the store.
        pub secret: Option<Secret> = None,
        /// How tokens are verified for `jwt:CLAIM`. Exactly one of `secret`, `jwks_file` and `jwks_url` is needed.
        pub jwt: Jwt = Jwt::default(),
        /// How the backend is asked for `subrequest`.
        pub subrequest: Subrequest = Subrequest::default(),
    }
}

section! {
    /// How tokens are verified for `jwt:CLAIM`.
    pub struct Jwt {
        /// Header that carries the token, with or without `Bearer`.
        pub header: HeaderName = header::AUTHORIZATION,
        /// Shared secret of HS256 tokens.
        pub secret: Option<Secret> = None,
        /// File with the public keys (JWKS), read at start and on SIGHUP.
        pub jwks_file: Option<PathBuf> = None,
        /// Address of the public keys (JWKS), `http` or `https`.
        pub jwks_url: Option<Url> = None,
        /// How often `jwks_url` is fetched again; an unknown key id fetches it sooner.
        pub jwks_refresh: Duration = MINUTE * 10; Duration::from_secs(1)..=DAY * 30,
        /// Issuer (`iss`) a token must have. Unset accepts any.
        pub issuer: Option<String> = None,
        /// Audience (`aud`) a token must have. Unset accepts any.
        pub audience: Option<String> = None,
        /// How far the clock of the issuer may be off when `exp` and `nbf` are checked.
        pub leeway: Duration = Duration::from_secs(30); ..=MINUTE * 10,
    }
}

section! {
    /// How the backend is asked for `subrequest`: a GET that must be answered 2xx.
    pub struct Subrequest {
        /// Path at the backend.
        pub path: String = "/auth".to_owned(),
        /// How long the backend may take. Longer counts as a refusal.
        pub timeout: Duration = Duration::from_secs(2); MILLISECOND..=MINUTE,
        /// How long an answer is believed for the same request headers; `off` asks each time.
        pub cache: Option<Duration> = Some(Duration::from_secs(10)); MILLISECOND..=DAY,
        /// Request headers that are passed on, and that together are the identity.
        pub headers: Vec<HeaderName> = vec![header::AUTHORIZATION, header::COOKIE],
        /// Header of the backend's answer that names the identity. Unset: the identity is the request headers together, so
        /// that a renewed token is somebody else.
        pub identity_header: Option<HeaderName> = None,
    }
}

/// One place an identity is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IdentitySource {
    /// The value of a request header.
    Header(HeaderName),
    /// The value of a cookie.
    Cookie(String),
    /// A claim of a verified token.
    Jwt(String),
    /// What the backend accepts.
    Subrequest,
}

impl IdentitySource {
    const FORMS: [&str; 4] = ["header:NAME", "cookie:NAME", "jwt:CLAIM", "subrequest"];
}

impl Leaf for IdentitySource {
    const EXPECTED: &'static str = "`header:NAME`, `cookie:NAME`, `jwt:CLAIM` or `subrequest`";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        let text = value.text()?.trim();
        let (kind, name) = text.split_once(':').unwrap_or((text, ""));
        match (kind, name) {
            ("subrequest", "") => Ok(Self::Subrequest),
            ("header", name) => super::text::header(name).map(Self::Header),
            ("cookie", name) => super::text::cookie(name).map(Self::Cookie),
            ("jwt", "") => Err(Wrong::new("the name of the claim is missing").help("write \"jwt:sub\"")),
            ("jwt", claim) => Ok(Self::Jwt(claim.to_owned())),
            _ => Err(not_among(text, &Self::FORMS)),
        }
    }

    fn show(&self) -> Option<String> {
        Some(match self {
            Self::Header(name) => quoted(format_args!("header:{name}")),
            Self::Cookie(name) => quoted(format_args!("cookie:{name}")),
            Self::Jwt(claim) => quoted(format_args!("jwt:{claim}")),
            Self::Subrequest => quoted("subrequest"),
        })
    }
}
