//! The head of a request as a backend gets it, where Holdover sends it itself.
//!
//! The rules are those of Pingora's own path, which keeps its functions for them private: what is said about the client's
//! connection stays here (RFC 9110 §7.6.1), the target and the host have one reading, and HTTP/1 and HTTP/2 are turned into each
//! other. What [`super::hygiene`] refuses is not looked for again.

use http::{
    HeaderName, HeaderValue, Uri, Version, header,
    uri::{Authority, PathAndQuery},
};
use pingora::{
    Error,
    ErrorType::InvalidHTTPHeader,
    OrErr, Result,
    http::RequestHeader,
    protocols::http::authority::{RawTargetAuthority, raw_target_authority},
};

/// Fields of one connection, whether or not `Connection` names them. A body is framed anew.
const OF_CONNECTION: [HeaderName; 10] = [
    header::CONNECTION,
    HeaderName::from_static("http2-settings"),
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// How many fields `Connection` may name.
const NOMINATIONS: usize = 9;

/// The request of a client without what was said about its connection: a path for its target, and the host in `Host`.
///
/// # Errors
///
/// When it cannot be passed on: the client is to blame.
pub(super) fn of_client(request: &RequestHeader) -> Result<RequestHeader> {
    let mut head = request.clone();
    let authority = match head.uri.authority() {
        Some(authority) => Some(authority.as_str().as_bytes().to_vec()),
        None => raw_target_authority(head.raw_path()).authority().map(<[u8]>::to_vec),
    };
    if let Some(authority) = authority {
        let target = path_of(head.raw_path());
        head.set_raw_path(&target).map_err(|error| error.into_down())?;
        let host = HeaderValue::from_bytes(&authority).or_err(InvalidHTTPHeader, "the host of the target");
        head.insert_header(header::HOST, host.map_err(|error| error.into_down())?)?;
    }
    for name in nominated(&head).map_err(|error| error.into_down())? {
        head.remove_header(&name);
    }
    for name in &OF_CONNECTION {
        head.remove_header(name);
    }
    Ok(head)
}

/// The path and the query of a target that may be a whole URL.
fn path_of(target: &[u8]) -> Vec<u8> {
    match raw_target_authority(target) {
        RawTargetAuthority::Absolute { path_and_query, .. } if !path_and_query.starts_with(b"/") => {
            [b"/", path_and_query].concat()
        }
        RawTargetAuthority::Absolute { path_and_query, .. } => path_and_query.to_vec(),
        RawTargetAuthority::None | RawTargetAuthority::AmbiguousAuthority => target.to_vec(),
    }
}

/// The fields that `Connection` names.
fn nominated(head: &RequestHeader) -> Result<Vec<HeaderName>> {
    let values = head.headers.get_all(header::CONNECTION).iter();
    let options = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b',')).map(<[u8]>::trim_ascii);
    let mut names = Vec::new();
    for option in options.filter(|option| !option.is_empty()) {
        if names.len() == NOMINATIONS {
            return Error::e_explain(InvalidHTTPHeader, "Connection names too many fields");
        }
        // A name in quotes would be another one than the field that is meant.
        if !option.iter().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte)) {
            return Error::e_explain(InvalidHTTPHeader, "Connection names what is no field");
        }
        names.push(HeaderName::from_bytes(option).or_err(InvalidHTTPHeader, "a field that Connection names")?);
    }
    Ok(names)
}

/// The request in HTTP/1.1.
pub(super) fn in_http1(mut head: RequestHeader, has_body: bool) -> Result<RequestHeader> {
    head.set_version(Version::HTTP_11);
    if has_body && !head.headers.contains_key(header::CONTENT_LENGTH) {
        head.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(head)
}

/// The request in HTTP/2, where the host is part of the target.
pub(super) fn in_http2(mut head: RequestHeader, tls: bool) -> Result<RequestHeader> {
    if !head.raw_path_is_utf8() {
        let reason = "a target that is not UTF-8 cannot be sent in HTTP/2";
        return Err(Error::explain(InvalidHTTPHeader, reason).into_down());
    }
    let Some(host) = head.remove_header(&header::HOST) else {
        return Err(Error::explain(InvalidHTTPHeader, "HTTP/2 needs a host").into_down());
    };
    let authority = Authority::try_from(host.as_bytes()).or_err(InvalidHTTPHeader, "the host is not an authority")?;
    let path = head.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let scheme = if tls { "https" } else { "http" };
    let target = Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build();
    head.set_uri(target.or_err(InvalidHTTPHeader, "a target in HTTP/2")?);
    head.set_version(Version::HTTP_2);
    // In HTTP/2 names have no case.
    let parts: http::request::Parts = head.into();
    Ok(parts.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(target: &str, fields: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("POST", target.as_bytes(), None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    fn lines(head: &RequestHeader) -> Vec<String> {
        let mut lines: Vec<_> =
            head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    #[test]
    fn what_was_said_about_the_connection_stays_here() {
        let head = of_client(&request(
            "/chat?a=b",
            &[
                ("Host", "chat.test"),
                ("Connection", "keep-alive, X-Hop"),
                ("Connection", "x-other"),
                ("Keep-Alive", "timeout=5"),
                ("Proxy-Authorization", "secret"),
                ("TE", "trailers"),
                ("Trailer", "x"),
                ("Transfer-Encoding", "chunked"),
                ("Upgrade", "h2c"),
                ("HTTP2-Settings", "x"),
                ("X-Hop", "1"),
                ("X-Other", "2"),
                ("X-End", "3"),
            ],
        ))
        .unwrap();
        assert_eq!(lines(&head), ["host: chat.test", "x-end: 3"]);
        assert_eq!(head.raw_path(), b"/chat?a=b");
    }

    #[test]
    fn connection_names_fields_and_not_too_many() {
        let many = (0..10).map(|n| format!("x-{n}")).collect::<Vec<_>>().join(",");
        for options in [many.as_str(), "\"x-forwarded-for\"", "x y", ":authority"] {
            let error = of_client(&request("/", &[("Connection", options)])).unwrap_err();
            assert_eq!(*error.esource(), pingora::ErrorSource::Downstream, "{options}");
        }
        assert!(of_client(&request("/", &[("Connection", ", close,,")])).is_ok());
    }

    #[test]
    fn a_whole_url_becomes_a_path_and_its_host() {
        for (target, path) in [
            ("http://chat.test/a?b", "/a?b"),
            ("http://chat.test", "/"),
            ("http://chat.test?q", "/?q"),
            ("http://chat.test:80/%ff", "/%ff"),
        ] {
            let head = of_client(&request(target, &[])).unwrap();
            assert_eq!(String::from_utf8_lossy(head.raw_path()), path);
            assert!(head.headers["host"].to_str().unwrap().starts_with("chat.test"));
            assert_eq!(head.uri.authority(), None);
        }
    }

    #[test]
    fn bytes_that_are_no_text_stay_in_a_path() {
        let raw = b"/\xff\xfe?\xfd";
        let request = RequestHeader::build("GET", raw, None).unwrap();
        let head = of_client(&request).unwrap();
        assert_eq!(in_http1(head.clone(), false).unwrap().raw_path(), raw);
        assert!(in_http2(head.clone(), false).is_err(), "HTTP/2 cannot say it");
    }

    #[test]
    fn a_body_of_unknown_length_is_chunked_in_http1() {
        let unframed = of_client(&request("/", &[("Transfer-Encoding", "chunked")])).unwrap();
        assert_eq!(lines(&in_http1(unframed.clone(), true).unwrap()), ["transfer-encoding: chunked"]);
        assert!(lines(&in_http1(unframed, false).unwrap()).is_empty());
        let framed = of_client(&request("/", &[("Content-Length", "3")])).unwrap();
        assert_eq!(lines(&in_http1(framed, true).unwrap()), ["content-length: 3"]);
    }

    #[test]
    fn http2_has_its_host_in_the_target() {
        let mut asked = request("/", &[("X-Mixed-Case", "1")]);
        asked.set_uri("https://chat.test/chat?a".parse().unwrap());
        asked.set_version(Version::HTTP_2);
        let head = of_client(&asked).unwrap();
        let http1 = in_http1(head.clone(), false).unwrap();
        assert_eq!((http1.version, http1.raw_path()), (Version::HTTP_11, &b"/chat?a"[..]));
        assert_eq!(lines(&http1), ["host: chat.test", "x-mixed-case: 1"]);
        let http2 = in_http2(head.clone(), false).unwrap();
        assert_eq!(http2.uri, "http://chat.test/chat?a");
        assert_eq!((http2.version, lines(&http2)), (Version::HTTP_2, vec!["x-mixed-case: 1".to_owned()]));
        assert!(in_http2(of_client(&request("/", &[])).unwrap(), true).is_err(), "it needs a host");
    }
}
