//! What the backend is told about the connection it does not see.
//!
//! `X-Forwarded-For`, `-Proto`, `-Host`, `-Port`, `X-Real-IP` and `Forwarded` (RFC 7239) are believed and extended when
//! they come from a trusted proxy; from anybody else they are replaced. `Forwarded` is extended where it is in use and
//! never begun: two tellings of one thing can come to differ. Everything else, `traceparent` too, is not touched.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue, header};
use pingora::http::RequestHeader;

use crate::config::Cidr;

/// Every header of this prefix is somebody's word about the connection.
const PREFIX: &str = "x-forwarded-";

/// Rewrites the headers of one upstream request. To be called once per request, before `Host` is changed for the
/// backend: every call adds a hop.
///
/// `client` is the peer of the client's connection, `None` on a Unix socket, which no network can trust. `tls` tells
/// whether that connection is encrypted.
///
/// # Errors
///
/// When the request has more headers than Pingora can hold.
pub(crate) fn apply(
    head: &mut RequestHeader,
    client: Option<SocketAddr>,
    tls: bool,
    trusted: &[Cidr],
) -> pingora::Result<()> {
    rewrite(head, client, tls, |address| trusted.iter().any(|network| network.contains(address)))
}

fn rewrite(
    head: &mut RequestHeader,
    client: Option<SocketAddr>,
    tls: bool,
    trusted: impl Fn(IpAddr) -> bool,
) -> pingora::Result<()> {
    // An IPv4 client of a dual-stack listener shows up mapped into IPv6.
    let client = client.map(|client| client.ip().to_canonical());
    let believed = client.is_some_and(&trusted);
    if !believed {
        forget(head);
    }

    let hops = client.map(|client| chain(&head.headers, client));
    match &hops {
        Some(hops) => head.insert_header("X-Forwarded-For", hops)?,
        None => drop(head.remove_header("X-Forwarded-For")),
    }
    if !head.headers.contains_key("x-real-ip")
        && let Some(origin) = hops.as_ref().and_then(|hops| origin(hops, &trusted)).or(client)
    {
        head.insert_header("X-Real-IP", origin.to_string())?;
    }
    if !head.headers.contains_key("x-forwarded-proto") {
        head.insert_header("X-Forwarded-Proto", scheme(tls))?;
    }
    if !head.headers.contains_key("x-forwarded-host")
        && let Some(host) = host(head)
    {
        head.insert_header("X-Forwarded-Host", host)?;
    }
    if !head.headers.contains_key("x-forwarded-port") {
        head.insert_header("X-Forwarded-Port", port(&head.headers))?;
    }
    if let Some(client) = client.filter(|_| head.headers.contains_key(header::FORWARDED)) {
        let node = if client.is_ipv6() { format!("\"[{client}]\"") } else { client.to_string() };
        let hop = format!("for={node};proto={}", scheme(tls));
        let hops = joined(&head.headers, "forwarded", &hop);
        head.insert_header(header::FORWARDED, hops)?;
    }
    Ok(())
}

/// Removes what an untrusted peer says about itself.
fn forget(head: &mut RequestHeader) {
    let claims = head.headers.keys().filter(|name| name.as_str().starts_with(PREFIX)).cloned().collect::<Vec<_>>();
    for claim in &claims {
        head.remove_header(claim);
    }
    head.remove_header("X-Real-IP");
    head.remove_header(&header::FORWARDED);
}

fn scheme(tls: bool) -> &'static str {
    if tls { "https" } else { "http" }
}

fn chain(headers: &HeaderMap, client: IpAddr) -> HeaderValue {
    joined(headers, "x-forwarded-for", &client.to_string())
}

/// All values of a list header in one, with one more at its end.
fn joined(headers: &HeaderMap, name: &str, last: &str) -> HeaderValue {
    let mut list = Vec::new();
    for value in headers.get_all(name).iter().map(HeaderValue::as_bytes).filter(|value| !value.trim_ascii().is_empty())
    {
        list.extend_from_slice(value.trim_ascii());
        list.extend_from_slice(b", ");
    }
    list.extend_from_slice(last.as_bytes());
    // A value with control bytes cannot be passed on, and is no word of a trusted proxy.
    HeaderValue::from_bytes(&list).unwrap_or_else(|_| {
        HeaderValue::from_str(last).expect("an address, or a hop made of one, has visible characters only")
    })
}

/// The client as far as trusted proxies vouch for it: the last address that is not one of them, else the first.
fn origin(hops: &HeaderValue, trusted: impl Fn(IpAddr) -> bool) -> Option<IpAddr> {
    let mut furthest = None;
    for hop in hops.to_str().ok()?.rsplit(',') {
        let Some(address) = address(hop.trim()) else { break };
        furthest = Some(address);
        if !trusted(address) {
            break;
        }
    }
    furthest
}

/// An address as proxies write it: bare, in brackets, or with a port.
fn address(text: &str) -> Option<IpAddr> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let address = bare.parse::<IpAddr>().or_else(|_| text.parse::<SocketAddr>().map(|address| address.ip()));
    address.ok().map(|address| address.to_canonical())
}

/// What the client called: its `Host`, or `:authority` of HTTP/2.
fn host(head: &RequestHeader) -> Option<HeaderValue> {
    match head.headers.get(header::HOST) {
        Some(host) => Some(host.clone()).filter(|host| !host.is_empty()),
        None => head.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()),
    }
}

/// The port the client called: that of the host, else the usual one of the scheme.
fn port(headers: &HeaderMap) -> String {
    let first = |name: &str| {
        let value = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        value.split(',').next().unwrap_or_default().trim().to_owned()
    };
    let host = first("x-forwarded-host");
    let named = host.rsplit_once(':').map(|(_, port)| port).filter(|port| port.parse::<u16>().is_ok());
    match named {
        Some(port) => port.to_owned(),
        None if first("x-forwarded-proto").eq_ignore_ascii_case("https") => "443".to_owned(),
        None => "80".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Trusts 10.0.0.0/8 and fd00::/8.
    fn inside(address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address.octets()[0] == 10,
            IpAddr::V6(address) => address.octets()[0] == 0xfd,
        }
    }

    /// The headers the backend gets, as lines in the order of their names.
    fn sent(client: Option<&str>, tls: bool, fields: &[(&'static str, &str)]) -> Vec<String> {
        let mut head = RequestHeader::build("POST", b"/chat", None).unwrap();
        for (name, value) in fields {
            head.append_header(*name, *value).unwrap();
        }
        rewrite(&mut head, client.map(|client| client.parse().unwrap()), tls, inside).unwrap();
        let mut lines: Vec<_> =
            head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect();
        lines.sort();
        lines
    }

    const SPOOFED: [(&str, &str); 9] = [
        ("Host", "chat.test"),
        ("X-Forwarded-For", "6.6.6.6"),
        ("X-Forwarded-For", "10.0.0.1"),
        ("X-Forwarded-Host", "evil.test"),
        ("X-Forwarded-Prefix", "/evil"),
        ("X-Forwarded-Proto", "https"),
        ("X-Real-IP", "6.6.6.6"),
        ("Forwarded", "for=6.6.6.6"),
        ("traceparent", "00-1-2-01"),
    ];

    #[test]
    fn a_stranger_is_told_by_its_address_only() {
        assert_eq!(
            sent(Some("192.0.2.7:4711"), false, &SPOOFED),
            [
                "host: chat.test",
                "traceparent: 00-1-2-01",
                "x-forwarded-for: 192.0.2.7",
                "x-forwarded-host: chat.test",
                "x-forwarded-port: 80",
                "x-forwarded-proto: http",
                "x-real-ip: 192.0.2.7",
            ]
        );
    }

    #[test]
    fn a_trusted_proxy_is_believed_and_extended() {
        let fields = [
            ("Host", "internal:8080"),
            ("X-Forwarded-For", "192.0.2.7"),
            ("X-Forwarded-For", " 10.1.1.1 "),
            ("X-Forwarded-Host", "chat.test"),
            ("X-Forwarded-Prefix", "/v1"),
            ("X-Forwarded-Proto", "https"),
            ("Forwarded", "for=192.0.2.7;proto=https"),
        ];
        assert_eq!(
            sent(Some("10.9.9.9:1"), false, &fields),
            [
                "forwarded: for=192.0.2.7;proto=https, for=10.9.9.9;proto=http",
                "host: internal:8080",
                "x-forwarded-for: 192.0.2.7, 10.1.1.1, 10.9.9.9",
                "x-forwarded-host: chat.test",
                "x-forwarded-port: 443",
                "x-forwarded-prefix: /v1",
                "x-forwarded-proto: https",
                "x-real-ip: 192.0.2.7",
            ]
        );
    }

    #[test]
    fn a_trusted_proxy_that_says_nothing_is_the_client() {
        assert_eq!(
            sent(Some("[fd00::1]:1"), true, &[("Host", "chat.test:8443")]),
            [
                "host: chat.test:8443",
                "x-forwarded-for: fd00::1",
                "x-forwarded-host: chat.test:8443",
                "x-forwarded-port: 8443",
                "x-forwarded-proto: https",
                "x-real-ip: fd00::1",
            ]
        );
        let lines = sent(Some("[fd00::1]:1"), true, &[("Forwarded", "for=unknown")]);
        assert_eq!(lines[0], "forwarded: for=unknown, for=\"[fd00::1]\";proto=https");
    }

    #[test]
    fn a_mapped_address_counts_as_ipv4() {
        let lines = sent(Some("[::ffff:10.0.0.9]:1"), false, &[("X-Forwarded-For", "192.0.2.7")]);
        assert!(lines.contains(&"x-forwarded-for: 192.0.2.7, 10.0.0.9".to_owned()), "{lines:?}");
        let lines = sent(Some("[::ffff:192.0.2.1]:1"), false, &SPOOFED);
        assert!(lines.contains(&"x-forwarded-for: 192.0.2.1".to_owned()), "{lines:?}");
    }

    #[test]
    fn a_peer_without_an_address_is_a_stranger_without_one() {
        assert_eq!(
            sent(None, false, &SPOOFED),
            [
                "host: chat.test",
                "traceparent: 00-1-2-01",
                "x-forwarded-host: chat.test",
                "x-forwarded-port: 80",
                "x-forwarded-proto: http",
            ]
        );
    }

    #[test]
    fn the_origin_is_the_last_address_nobody_vouches_for() {
        for (hops, origin_is) in [
            ("6.6.6.6, 192.0.2.7, 10.0.0.1", Some("192.0.2.7")),
            ("6.6.6.6, 192.0.2.7:80, 10.0.0.1", Some("192.0.2.7")),
            ("[2001:db8::1]:80, [fd00::2], fd00::1", Some("2001:db8::1")),
            ("10.0.0.2, 10.0.0.1", Some("10.0.0.2")),
            ("nobody, 10.0.0.1", Some("10.0.0.1")),
            ("nobody", None),
        ] {
            let hops = HeaderValue::from_str(hops).unwrap();
            assert_eq!(origin(&hops, inside), origin_is.map(|address| address.parse().unwrap()), "{hops:?}");
        }
    }

    #[test]
    fn http2_names_its_host_in_the_authority() {
        let mut head = RequestHeader::build("POST", b"/chat", None).unwrap();
        head.set_uri("https://chat.test/chat".parse().unwrap());
        rewrite(&mut head, None, true, inside).unwrap();
        assert_eq!(head.headers["x-forwarded-host"], "chat.test");
        assert_eq!(head.headers["x-forwarded-port"], "443");
    }
}
