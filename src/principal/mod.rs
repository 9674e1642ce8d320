//! Who is asking.
//!
//! An [`Identifier`] takes the identity of a request from the first configured [`Source`] that is present and hashes it
//! under the [`IdentityKey`] into a [`Principal`], which binds a turn to its starter. A request without any of the sources
//! is anonymous (`None`). A source that is present but cannot be trusted is an error, never anonymity and never a reason to
//! look at the next source. `docs/identity.md` tells operators which source to choose.

mod fetch;
mod header;
mod jwt;
mod key;
mod keyset;
#[cfg(test)]
mod responder;
mod subrequest;
#[cfg(test)]
mod tests;

use std::{collections::HashSet, fmt, io, path::PathBuf, sync::Arc};

use http::{HeaderMap, HeaderName};

pub use jwt::{JwtKey, JwtSettings, TokenFault};
pub use key::{IdentityKey, NotAPrincipal, Principal, SessionKey};
pub use subrequest::SubrequestSettings;

/// Where identities are taken from.
#[derive(Debug, Clone)]
pub struct Sources {
    /// In this order; the first that is present on a request counts. Empty: every request is anonymous.
    pub from: Vec<Source>,
    /// PEM file of the authorities trusted for `https` key sets and sub-requests, in place of the system's.
    pub ca_file: Option<PathBuf>,
}

impl Default for Sources {
    /// `Authorization`, then `X-Api-Key`.
    fn default() -> Self {
        let from =
            vec![Source::Header(http::header::AUTHORIZATION), Source::Header(HeaderName::from_static("x-api-key"))];
        Self { from, ca_file: None }
    }
}

/// One place an identity is taken from.
#[derive(Debug, Clone)]
pub enum Source {
    /// The value of a header, byte for byte. Not verified: the backend checks it, or a proxy in front sets it.
    Header(HeaderName),
    /// The value of a cookie. Not verified either.
    Cookie(String),
    /// A claim of a token that Holdover verifies.
    Jwt(JwtSettings),
    /// What the backend accepts.
    Subrequest(SubrequestSettings),
}

impl fmt::Display for Source {
    /// The source as it is named in configuration and errors, without settings.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header:{name}"),
            Self::Cookie(name) => write!(f, "cookie:{name}"),
            Self::Jwt(settings) => write!(f, "jwt:{} in {}", settings.claim, settings.header),
            Self::Subrequest(settings) => write!(f, "subrequest to {}", settings.path),
        }
    }
}

/// Why the sources cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The same source stands in the list twice.
    #[error("{0} is listed twice")]
    Twice(String),
    /// A cookie's name is empty or holds a character no cookie name can have.
    #[error("{0:?} is not a cookie name")]
    CookieName(String),
    /// A claim is empty, or a part of its path is.
    #[error("{0:?} names no claim")]
    Claim(String),
    /// The secret of HS256 tokens is empty.
    #[error("the secret of HS256 tokens is empty")]
    NoSecret,
    /// Tokens would be accepted more than an hour after they expired.
    #[error("the leeway is longer than an hour")]
    Leeway,
    /// The key set's file cannot be read.
    #[error("cannot read the key set {path}")]
    KeySetFile {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The key set's file was read and no key in it can verify RS256 tokens.
    #[error("the key set {path} is not usable: {reason}")]
    KeySet {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A URL is not `http` or `https`, has no host, or carries credentials.
    #[error("{0} is not a plain http or https address")]
    Url(String),
    /// The sub-request's path does not begin with `/`, or leads to another host than the backend.
    #[error("{0:?} is not a path at the backend")]
    Path(String),
    /// No header, one that belongs to the connection, or one twice is to be copied to the sub-request.
    #[error("the headers copied to the sub-request cannot be {0:?}")]
    CopiedHeaders(Vec<HeaderName>),
    /// The file of trusted authorities cannot be used.
    #[error("the authorities in {path} are not usable: {reason}")]
    Authorities {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// Why it stays open who is asking. The request must not go on, not even as anonymous.
///
/// No variant holds anything the client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The header has several lines, or the cookie several values. A client error (400).
    #[error("the request names more than one identity")]
    Ambiguous,
    /// The token was refused (401).
    #[error("the token is not accepted: {0}")]
    Invalid(TokenFault),
    /// The backend answered the sub-request, but not with 2xx and an identity (401).
    #[error("the backend does not accept the credentials")]
    Unauthorized,
    /// The key set was never fetched, or the backend did not answer the sub-request or answered 429 or 5xx (503).
    #[error("identities cannot be verified now")]
    Unavailable,
}

impl IdentityError {
    /// A label for logs and metrics, out of a fixed set.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Ambiguous => "ambiguous",
            Self::Invalid(fault) => fault.reason(),
            Self::Unauthorized => "unauthorized",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Finds out who is asking.
pub struct Identifier {
    key: IdentityKey,
    sources: Vec<Ready>,
}

/// A source with everything it needs at hand.
enum Ready {
    Header(HeaderName),
    Cookie(String),
    Jwt(jwt::Verifier),
    Subrequest(subrequest::Checker),
}

impl Identifier {
    /// Prepares the sources: reads files, connects to nothing.
    ///
    /// # Errors
    ///
    /// The first thing that cannot be used as configured.
    pub fn new(key: IdentityKey, sources: Sources) -> Result<Self, SourceError> {
        let mut names = HashSet::new();
        if let Some(twice) = sources.from.iter().map(Source::to_string).find(|name| !names.insert(name.clone())) {
            return Err(SourceError::Twice(twice));
        }
        // Built only where it is needed: it loads the system's certificates.
        let mut client = None;
        let mut client = || -> Result<Arc<fetch::Client>, SourceError> {
            if client.is_none() {
                client = Some(Arc::new(fetch::Client::new(sources.ca_file.as_deref())?));
            }
            Ok(Arc::clone(client.as_ref().expect("it was just made")))
        };
        let ready = |source| -> Result<Ready, SourceError> {
            Ok(match source {
                Source::Header(name) => Ready::Header(name),
                Source::Cookie(name) => Ready::Cookie(checked_cookie_name(name)?),
                Source::Jwt(settings) => Ready::Jwt(jwt::Verifier::new(settings, &mut client)?),
                Source::Subrequest(settings) => Ready::Subrequest(subrequest::Checker::new(settings, client()?)?),
            })
        };
        let sources = sources.from.into_iter().map(ready).collect::<Result<_, _>>()?;
        Ok(Self { key, sources })
    }

    /// The principal of a request; `None` if none of the sources is present.
    ///
    /// # Errors
    ///
    /// The first source that is present cannot be trusted.
    pub async fn identify(&self, headers: &HeaderMap) -> Result<Option<Principal>, IdentityError> {
        for source in &self.sources {
            let found = match source {
                Ready::Header(name) => {
                    header::single(headers, name)?.map(|value| self.key.principal("header", name.as_str(), &[value]))
                }
                Ready::Cookie(name) => {
                    header::cookie(headers, name)?.map(|value| self.key.principal("cookie", name, &[value]))
                }
                Ready::Jwt(verifier) => verifier.identify(&self.key, headers).await?,
                Ready::Subrequest(checker) => checker.identify(&self.key, headers).await?,
            };
            if found.is_some() {
                return Ok(found);
            }
        }
        Ok(None)
    }

    /// The index key of a session of this principal: [`IdentityKey::session_key`].
    pub fn session_key(&self, principal: Option<&Principal>, session: &str) -> SessionKey {
        self.key.session_key(principal, session)
    }

    /// The name of a start: [`IdentityKey::mark`].
    pub fn mark(&self, principal: Option<&Principal>, parts: &[&[u8]]) -> [u8; 32] {
        self.key.mark(principal, parts)
    }
}

impl fmt::Debug for Identifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identifier").field("sources", &self.sources.len()).finish_non_exhaustive()
    }
}

/// A cookie name is a token (RFC 6265 §4.1.1), as a header name is, but keeps its case.
fn checked_cookie_name(name: String) -> Result<String, SourceError> {
    match HeaderName::try_from(name.as_str()) {
        Ok(_) => Ok(name),
        Err(_) => Err(SourceError::CookieName(name)),
    }
}

/// Passes plain `http` and `https` addresses.
fn checked_url(url: &url::Url) -> Result<(), SourceError> {
    let plain = matches!(url.scheme(), "http" | "https") && url.username().is_empty() && url.password().is_none();
    // Not the URL itself, which may hold a password.
    if plain { Ok(()) } else { Err(SourceError::Url(format!("{}://{}", url.scheme(), url.host_str().unwrap_or("")))) }
}
