//! What no proxy should forward.
//!
//! Two parties that read one request differently are an attack: the proxy decides on one reading, the backend acts on
//! the other. So whatever has more than one reading is refused here, before anything routes on it, and nothing is
//! repaired. What has one reading passes, however odd: `..` segments, double slashes, bad percent-encoding and
//! non-ASCII bytes in a path are the backend's to judge. Holdover grants nothing by path, so there is nothing to win by
//! hiding one.
//!
//! Pingora refuses some of this by itself and quietly repairs other parts (it drops `Content-Length` beside
//! `Transfer-Encoding`, and the fragment of a target; it percent-encodes spaces and control bytes in a target, which leaves
//! them one reading). [`check`] therefore also looks at the head as it came in. Some things need no look, because their
//! types rule them out: names that are no tokens, and control bytes in values and targets.

use std::{collections::HashMap, fmt};

use http::{HeaderMap, HeaderName, Method, StatusCode, Version, header};
use pingora::{
    http::RequestHeader,
    protocols::http::authority::{RawTargetAuthority, is_http_family_scheme, raw_target_authority},
};
use thiserror::Error;

/// What a 405 of ours names in `Allow` (RFC 9110 §15.5.6 asks for it).
pub(crate) const ALLOW: &str = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS";

/// Headers that somebody behind or inside Holdover decides by. They must not be taken away by a `Connection` header nor
/// come in under a name that a gateway folds onto theirs. The families `x-forwarded-` and `holdover-` belong to them.
const PROTECTED: [&str; 28] = [
    "authorization",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "cookie",
    "forwarded",
    "host",
    "idempotency-key",
    "if-match",
    "if-none-match",
    "last-event-id",
    "mcp-session-id",
    "origin",
    "proxy-authorization",
    "proxy-connection",
    "sec-fetch-mode",
    "sec-fetch-site",
    "transfer-encoding",
    "true-client-ip",
    "x-api-key",
    "x-client-ip",
    "x-csrf-token",
    "x-http-method-override",
    "x-original-url",
    "x-real-ip",
    "x-rewrite-url",
    "x-run-id",
];

/// Bounds that an operator sets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// Largest request head, in bytes.
    pub(crate) max_header_bytes: usize,
}

/// Why a request is not forwarded. Displayed, it names what was wrong and what to send instead.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub(crate) enum Rejection {
    /// The head is larger than `listen.max_header_bytes` (RFC 6585 §5).
    #[error("the request head has {size} bytes, at most {limit} are accepted: send fewer or shorter headers")]
    HeadTooLarge {
        /// Bytes of the head.
        size: usize,
        /// Bytes accepted.
        limit: usize,
    },
    /// The method is `TRACE` or `CONNECT`, which make a proxy echo credentials or open tunnels (RFC 9110 §9.3.6, §9.3.8).
    #[error("method {0} is not served: use one of {ALLOW}")]
    Method(Method),
    /// The target is neither a path, nor an `http` URL, nor `*` of OPTIONS (RFC 9112 §3.2).
    #[error("the request target is neither a path nor an http URL: send a path that starts with `/`")]
    TargetForm,
    /// The target holds a `#`: a fragment, which some readers cut off and others keep (RFC 9112 §3.2, RFC 3986 §3.5).
    #[error("the request target has a fragment: send it without, or percent-encode the `#`")]
    Fragment,
    /// The path holds a backslash, which some readers take for a slash (RFC 3986 §3.3 allows none).
    #[error("the path has a backslash: percent-encode it")]
    Backslash,
    /// `Transfer-Encoding` and `Content-Length` stand side by side (RFC 9112 §6.1).
    #[error("Content-Length and Transfer-Encoding are both present: send only one of them")]
    LengthAndEncoding,
    /// `Content-Length` occurs more than once, or is a list (RFC 9110 §8.6).
    #[error("Content-Length is present more than once: send it once")]
    RepeatedLength,
    /// `Content-Length` is not a number of at most 64 bits (RFC 9110 §8.6).
    #[error("Content-Length is not a number: send the count of body bytes in decimal digits")]
    Length,
    /// `Transfer-Encoding` is anything but one `chunked` (RFC 9112 §6.1, §7).
    #[error("Transfer-Encoding is not exactly `chunked`: no other transfer coding is served")]
    TransferEncoding,
    /// `Transfer-Encoding` on HTTP/1.0, which does not know it, or HTTP/2, which forbids it (RFC 9112 §6.1, RFC 9113
    /// §8.2.2).
    #[error("Transfer-Encoding is only for HTTP/1.1: send Content-Length")]
    TransferEncodingVersion,
    /// HTTP/1.1 without `Host`, or HTTP/2 without both `:authority` and `Host` (RFC 9112 §3.2, RFC 9113 §8.3.1).
    #[error("the Host header is missing: name the host you are calling")]
    HostMissing,
    /// `Host` occurs more than once (RFC 9112 §3.2).
    #[error("the Host header is present more than once: send it once")]
    HostRepeated,
    /// The host is empty, holds a user name, or has bytes no DNS name or address has (RFC 9110 §7.2, §4.2.4).
    #[error("the host is not a name or address with an optional port")]
    Host,
    /// The authority in the target or in `:authority` is not the one in `Host` (RFC 9112 §3.2.2, RFC 9113 §8.3.1).
    #[error("the host of the request target differs from the Host header: make them equal")]
    HostMismatch,
    /// A header's name becomes that of another or of a protected one where gateways fold all but letters and digits to
    /// one character (RFC 3875 §4.1.18).
    #[error("header {0} reads as {1} behind CGI-like gateways: use dashes, and send it once")]
    Twin(Name, Name),
    /// `Connection` names a header that must reach the backend (RFC 9110 §7.6.1).
    #[error("the Connection header names {0}, which is not for this connection only: remove it from Connection")]
    Nominated(Name),
}

impl Rejection {
    /// The status to answer with.
    pub(crate) fn status(&self) -> StatusCode {
        match self {
            Self::HeadTooLarge { .. } => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Method(_) => StatusCode::METHOD_NOT_ALLOWED,
            _ => StatusCode::BAD_REQUEST,
        }
    }

    /// The metric label: one of a fixed few.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::HeadTooLarge { .. } => "head_too_large",
            Self::Method(_) => "method",
            Self::TargetForm | Self::Fragment | Self::Backslash => "target",
            Self::LengthAndEncoding
            | Self::RepeatedLength
            | Self::Length
            | Self::TransferEncoding
            | Self::TransferEncodingVersion => "framing",
            Self::HostMissing | Self::HostRepeated | Self::Host | Self::HostMismatch => "host",
            Self::Twin(..) => "header_twin",
            Self::Nominated(_) => "connection",
        }
    }
}

/// A header name for a message, in backquotes and cut where it would fill a screen.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Name(Box<str>);

impl Name {
    fn new(name: &str) -> Self {
        Self(name.chars().take(64).collect())
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`", self.0.escape_debug())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Refuses what no proxy should forward. `raw` is an HTTP/1 head as it came in, request line first; HTTP/2 has none.
///
/// The size is that of `raw`, else of names and values with four bytes for what stands around each.
pub(crate) fn check(head: &RequestHeader, raw: Option<&[u8]>, limits: Limits) -> Result<(), Rejection> {
    let size = raw.map_or_else(|| size(head), <[u8]>::len);
    if size > limits.max_header_bytes {
        return Err(Rejection::HeadTooLarge { size, limit: limits.max_header_bytes });
    }
    if head.method == Method::TRACE || head.method == Method::CONNECT {
        return Err(Rejection::Method(head.method.clone()));
    }
    target(head, raw)?;
    framing(head, raw)?;
    host(head)?;
    twins(&head.headers)?;
    connection(&head.headers)
}

fn size(head: &RequestHeader) -> usize {
    let fields: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let authority = head.uri.authority().map_or(0, |authority| authority.as_str().len());
    head.method.as_str().len() + authority + head.raw_path().len() + fields
}

fn target(head: &RequestHeader, raw: Option<&[u8]>) -> Result<(), Rejection> {
    let path = head.raw_path();
    match (path.first(), raw_target_authority(path)) {
        (Some(b'/'), _) => {}
        (_, RawTargetAuthority::Absolute { scheme, .. }) if is_http_family_scheme(scheme) => {}
        _ if path == b"*" && head.method == Method::OPTIONS => {}
        _ => return Err(Rejection::TargetForm),
    }
    let received = raw.and_then(received_target).unwrap_or(path);
    if received.contains(&b'#') {
        return Err(Rejection::Fragment);
    }
    // Browsers send backslashes in a query as they are.
    let path = received.split(|byte| *byte == b'?').next().unwrap_or_default();
    if path.contains(&b'\\') { Err(Rejection::Backslash) } else { Ok(()) }
}

/// What stands between the first and the last space of the request line.
fn received_target(raw: &[u8]) -> Option<&[u8]> {
    let line = &raw[..memchr::memchr2(b'\r', b'\n', raw)?];
    let (start, end) = (memchr::memchr(b' ', line)?, memchr::memrchr(b' ', line)?);
    line.get(start + 1..end)
}

fn framing(head: &RequestHeader, raw: Option<&[u8]>) -> Result<(), Rejection> {
    let mut encodings = head.headers.get_all(header::TRANSFER_ENCODING).iter();
    if let Some(encoding) = encodings.next() {
        if head.version != Version::HTTP_11 {
            return Err(Rejection::TransferEncodingVersion);
        }
        if head.headers.contains_key(header::CONTENT_LENGTH) || raw.is_some_and(|raw| names(raw, "content-length")) {
            return Err(Rejection::LengthAndEncoding);
        }
        if encodings.next().is_some() || !encoding.as_bytes().trim_ascii().eq_ignore_ascii_case(b"chunked") {
            return Err(Rejection::TransferEncoding);
        }
    }
    let mut lengths = head.headers.get_all(header::CONTENT_LENGTH).iter();
    let Some(length) = lengths.next() else { return Ok(()) };
    if lengths.next().is_some() || length.as_bytes().contains(&b',') {
        return Err(Rejection::RepeatedLength);
    }
    let digits = length.as_bytes().iter().all(u8::is_ascii_digit);
    let number = length.to_str().ok().filter(|_| digits).and_then(|length| length.parse::<u64>().ok());
    number.map(|_| ()).ok_or(Rejection::Length)
}

/// Whether a head has a field of this name, written in any case.
fn names(raw: &[u8], name: &str) -> bool {
    raw.split(|byte| *byte == b'\n').skip(1).any(|line| {
        let colon = memchr::memchr(b':', line).unwrap_or(0);
        line[..colon].eq_ignore_ascii_case(name.as_bytes())
    })
}

fn host(head: &RequestHeader) -> Result<(), Rejection> {
    let mut hosts = head.headers.get_all(header::HOST).iter().map(|host| host.as_bytes());
    let (field, repeated) = (hosts.next(), hosts.next());
    if repeated.is_some() {
        return Err(Rejection::HostRepeated);
    }
    let in_target = match head.uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes()),
        None => raw_target_authority(head.raw_path()).authority(),
    };
    // HTTP/1.1 needs the field beside a full URL too; HTTP/2 says the same in `:authority`.
    if field.is_none() && (head.version == Version::HTTP_11 || head.version == Version::HTTP_2 && in_target.is_none()) {
        return Err(Rejection::HostMissing);
    }
    if field.into_iter().chain(in_target).any(|host| !is_host(host)) {
        return Err(Rejection::Host);
    }
    match (field, in_target) {
        (Some(field), Some(target)) if !field.eq_ignore_ascii_case(target) => Err(Rejection::HostMismatch),
        _ => Ok(()),
    }
}

/// Whether this is a name or address with an optional port. The `sub-delims` and percent-encoding that RFC 3986 allows
/// in a `reg-name` are refused: no DNS name has them, and backends build links and allow-lists from the host.
fn is_host(host: &[u8]) -> bool {
    let (name, port) = match host.strip_prefix(b"[") {
        Some(rest) => {
            let Some(end) = memchr::memchr(b']', rest) else { return false };
            let address = str::from_utf8(&rest[..end]).ok().and_then(|text| text.parse::<std::net::Ipv6Addr>().ok());
            if address.is_none() {
                return false;
            }
            (&rest[..end], &rest[end + 1..])
        }
        None => host.split_at(memchr::memchr(b':', host).unwrap_or(host.len())),
    };
    let named = host.starts_with(b"[")
        || name.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'));
    let ported = match port.strip_prefix(b":") {
        // An empty port is the scheme's own (RFC 3986 §3.2.3).
        Some(port) => port.iter().all(u8::is_ascii_digit) && (port.is_empty() || fits_port(port)),
        None => port.is_empty(),
    };
    !name.is_empty() && named && ported
}

fn fits_port(digits: &[u8]) -> bool {
    str::from_utf8(digits).is_ok_and(|digits| digits.parse::<u16>().is_ok())
}

/// Whether a name reads the same behind every gateway.
fn is_plain(name: &HeaderName) -> bool {
    name.as_str().bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// Judges names with bytes other than letters, digits and dashes. An application's own `x_tenant` passes.
fn twins(headers: &HeaderMap) -> Result<(), Rejection> {
    if headers.keys().all(is_plain) {
        return Ok(());
    }
    let mut seen = HashMap::with_capacity(headers.keys_len());
    for name in headers.keys() {
        let folded = fold(name.as_str());
        if !is_plain(name) && is_protected(&folded) {
            return Err(Rejection::Twin(Name::new(name.as_str()), Name::new(&folded)));
        }
        if let Some(other) = seen.insert(folded, name) {
            let odd = if is_plain(name) { other } else { name };
            return Err(Rejection::Twin(Name::new(odd.as_str()), Name::new(&fold(odd.as_str()))));
        }
    }
    Ok(())
}

fn fold(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' }).collect()
}

fn is_protected(name: &str) -> bool {
    PROTECTED.contains(&name) || name.starts_with("x-forwarded-") || name.starts_with("holdover-")
}

/// Pingora takes the headers named in `Connection` out of the request. So a client could make the backend, or the next
/// filter, miss one it decides by.
fn connection(headers: &HeaderMap) -> Result<(), Rejection> {
    let options = headers.get_all(header::CONNECTION).iter().flat_map(|value| value.as_bytes().split(|b| *b == b','));
    for option in options {
        let option = String::from_utf8_lossy(option.trim_ascii()).to_ascii_lowercase();
        // `Connection: proxy-connection` and its like say nothing new: these are for one hop by themselves.
        let hop = matches!(option.as_str(), "connection" | "proxy-connection" | "proxy-authorization");
        if is_protected(&option) && !hop {
            return Err(Rejection::Nominated(Name::new(&option)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
