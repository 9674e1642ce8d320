use proptest::prelude::*;

use super::*;

/// Reads an HTTP/1 head and judges it.
fn verdict(raw: &str) -> Result<(), Rejection> {
    let mut lines = raw.split("\r\n");
    let mut start = lines.next().expect("a request line").splitn(2, ' ');
    let method = start.next().expect("a method");
    let (target, version) = start.next().expect("a target").rsplit_once(' ').expect("a version");
    let mut head = RequestHeader::build(method, target.as_bytes(), None).unwrap();
    head.set_version(if version == "HTTP/1.0" { Version::HTTP_10 } else { Version::HTTP_11 });
    for line in lines.take_while(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':').expect("a field");
        head.append_header(name.to_owned(), value.trim_start().as_bytes()).unwrap();
    }
    check(&head, Some(raw.as_bytes()), Limits { max_header_bytes: 1 << 16 })
}

fn with(fields: &str) -> Result<(), Rejection> {
    verdict(&format!("POST /chat HTTP/1.1\r\nHost: a.test\r\n{fields}\r\n"))
}

#[test]
fn ordinary_requests_pass() {
    for fields in [
        "",
        "Content-Length: 5\r\n",
        "Transfer-Encoding: Chunked\r\n",
        "Connection: keep-alive, Upgrade, TE, HTTP2-Settings\r\nUpgrade: websocket\r\n",
        "Connection: close\r\nAuthorization: Bearer x\r\n",
        "x_tenant: 1\r\nX-Other: tab\there, \u{e9}\r\n",
        "Cookie: a=1\r\nCookie: b=2\r\n",
    ] {
        assert_eq!(with(fields), Ok(()), "{fields}");
    }
    let long = format!("X-Long: {}\r\n", "v".repeat(60_000));
    assert_eq!(with(&long), Ok(()));
}

#[test]
fn framing_with_two_readings_is_refused() {
    use Rejection::*;
    for (fields, rejection) in [
        ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", LengthAndEncoding),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", RepeatedLength),
        ("Content-Length: 5\r\nContent-Length: 6\r\n", RepeatedLength),
        ("Content-Length: 5, 5\r\n", RepeatedLength),
        ("Content-Length: +5\r\n", Length),
        ("Content-Length: 0x5\r\n", Length),
        ("Content-Length: \r\n", Length),
        ("Content-Length: 18446744073709551616\r\n", Length),
        ("Transfer-Encoding: gzip, chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", TransferEncoding),
        ("Transfer-Encoding: xchunked\r\n", TransferEncoding),
        ("Transfer-Encoding: identity\r\n", TransferEncoding),
    ] {
        assert_eq!(with(fields), Err(rejection), "{fields}");
    }
    let old = verdict("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n");
    assert_eq!(old, Err(TransferEncodingVersion));
}

/// Pingora takes `Content-Length` away when `Transfer-Encoding` stands beside it, so only the raw head tells.
#[test]
fn a_length_that_was_taken_away_is_still_seen() {
    let mut head = RequestHeader::build("POST", b"/", None).unwrap();
    head.insert_header("Host", "a.test").unwrap();
    head.insert_header("Transfer-Encoding", "chunked").unwrap();
    let limits = Limits { max_header_bytes: 1 << 16 };
    let raw = b"POST / HTTP/1.1\r\nHost: a.test\r\ncontent-LENGTH: 5\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(check(&head, Some(raw), limits), Err(Rejection::LengthAndEncoding));
    let raw = b"POST /?content-length:5 HTTP/1.1\r\nHost: a.test\r\nTransfer-Encoding: chunked\r\n\r\n";
    assert_eq!(check(&head, Some(raw), limits), Ok(()));
}

#[test]
fn hosts_are_single_valid_and_agree_with_the_target() {
    use Rejection::*;
    for host in ["a.test", "a_b.test:8080", "127.0.0.1:1", "[::1]", "[::1]:8443", "A.TEST:", "xn--bcher-kva.example"] {
        assert_eq!(verdict(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Ok(()), "{host}");
    }
    for host in ["", ":80", "u@a.test", "a.test/x", "a b", "a,b", "a%2eb", "a:b", "a:1:2", "a:65536", "[::1", "[x]"] {
        assert_eq!(verdict(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n")), Err(Host), "{host}");
    }
    for (raw, outcome) in [
        ("GET / HTTP/1.1\r\n\r\n", Err(HostMissing)),
        ("GET / HTTP/1.0\r\n\r\n", Ok(())),
        ("GET / HTTP/1.0\r\nHost: /\r\n\r\n", Err(Host)),
        ("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", Err(HostRepeated)),
        ("GET http://A.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n", Ok(())),
        ("GET http://b.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n", Err(HostMismatch)),
        ("GET http://u@a.test/x HTTP/1.1\r\nHost: a.test\r\n\r\n", Err(Host)),
    ] {
        assert_eq!(verdict(raw), outcome, "{raw}");
    }
}

#[test]
fn http2_names_its_host_in_either_place_but_only_once() {
    let head = |authority: Option<&str>, host: Option<&str>| {
        let mut head = RequestHeader::build("POST", b"/chat", None).unwrap();
        head.set_version(Version::HTTP_2);
        if let Some(authority) = authority {
            head.set_uri(format!("http://{authority}/chat").parse().unwrap());
        }
        if let Some(host) = host {
            head.insert_header("host", host).unwrap();
        }
        check(&head, None, Limits { max_header_bytes: 1 << 16 })
    };
    assert_eq!(head(Some("a.test"), None), Ok(()));
    assert_eq!(head(None, Some("a.test")), Ok(()));
    assert_eq!(head(Some("a.test"), Some("a.test")), Ok(()));
    assert_eq!(head(Some("a.test"), Some("b.test")), Err(Rejection::HostMismatch));
    assert_eq!(head(None, None), Err(Rejection::HostMissing));
}

#[test]
fn targets_have_one_reading() {
    use Rejection::*;
    for target in ["/", "/a/../../b//c", "/%zz%00", "/a?b=c\\d", "/caf\u{e9}", "http://a.test/x", "*"] {
        let method = if target == "*" { "OPTIONS" } else { "GET" };
        let raw = format!("{method} {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(verdict(&raw), Ok(()), "{target}");
    }
    for (target, rejection) in [
        ("/a#b", Fragment),
        ("/a?b#c", Fragment),
        ("/a\\..\\b", Backslash),
        ("http://a.test/a\\b?c", Backslash),
        ("*", TargetForm),
        ("ftp://a.test/x", TargetForm),
        ("http:/a.test", TargetForm),
    ] {
        let raw = format!("GET {target} HTTP/1.1\r\nHost: a.test\r\n\r\n");
        assert_eq!(verdict(&raw), Err(rejection), "{target}");
    }
}

#[test]
fn echoes_and_tunnels_are_refused_with_405() {
    for raw in ["TRACE / HTTP/1.1\r\nHost: a.test\r\n\r\n", "CONNECT a.test:443 HTTP/1.1\r\nHost: a.test:443\r\n\r\n"] {
        let rejection = verdict(raw).unwrap_err();
        assert_eq!((rejection.status().as_u16(), rejection.reason()), (405, "method"));
    }
}

#[test]
fn names_that_gateways_fold_are_refused() {
    for name in ["x_forwarded_for", "Content_Length", "last_event-id", "X.Real.IP", "holdover_turn", "x_api_key"] {
        let rejection = with(&format!("{name}: 1\r\n")).unwrap_err();
        assert_eq!(rejection.reason(), "header_twin", "{name}");
    }
    for fields in ["X-Tenant: 1\r\nx_tenant: 2\r\n", "x_tenant: 2\r\nX-Tenant: 1\r\n", "a_b: 1\r\na.b: 1\r\n"] {
        assert_eq!(with(fields).unwrap_err().reason(), "header_twin", "{fields}");
    }
    let rejection = with("X-Tenant: 1\r\nx_tenant: 2\r\n").unwrap_err();
    assert!(rejection.to_string().contains("`x_tenant` reads as `x-tenant`"), "{rejection}");
}

#[test]
fn connection_cannot_take_away_what_others_decide_by() {
    for name in ["authorization", "Cookie", "HOST", "content-length", "last-event-id", "X-Forwarded-For", "x-api-key"] {
        let fields = format!("Connection: close,\t{name}\r\nAuthorization: x\r\n");
        assert_eq!(with(&fields).unwrap_err().reason(), "connection", "{name}");
    }
    assert_eq!(with("Connection: x-mine\r\nConnection: cookie\r\n").unwrap_err().reason(), "connection");
}

#[test]
fn heads_are_counted_as_a_whole() {
    let head = |bytes: usize| {
        let start = "GET / HTTP/1.1\r\nHost: a.test\r\nX: ";
        verdict(&format!("{start}{}\r\n\r\n", "x".repeat(bytes - start.len() - 4)))
    };
    assert_eq!(head(1 << 16), Ok(()));
    let rejection = head((1 << 16) + 1).unwrap_err();
    assert_eq!((rejection.status().as_u16(), rejection.reason()), (431, "head_too_large"));
}

proptest! {
    #[test]
    fn no_head_makes_it_panic(
        target in prop::collection::vec(any::<u8>(), 0..40),
        fields in prop::collection::vec(("[!-9;-~]{1,20}", prop::collection::vec(any::<u8>(), 0..30)), 0..20),
        raw in prop::option::of(prop::collection::vec(any::<u8>(), 0..200)),
        version in prop::sample::select(vec![Version::HTTP_09, Version::HTTP_10, Version::HTTP_11, Version::HTTP_2]),
    ) {
        let Ok(mut head) = RequestHeader::build("POST", &target, None) else { return Ok(()) };
        head.set_version(version);
        for (name, value) in fields {
            let _ = head.append_header(name, value);
        }
        let limits = Limits { max_header_bytes: 600 };
        if let Err(rejection) = check(&head, raw.as_deref(), limits) {
            prop_assert!(!rejection.to_string().is_empty() && rejection.status().is_client_error());
        }
    }

    /// Whatever passes has one length: what a second reader would compute too.
    #[test]
    fn what_passes_has_one_framing(
        fields in prop::collection::vec(
            (prop::sample::select(vec!["Content-Length", "Transfer-Encoding", "content_length", "X"]),
             prop::sample::select(vec!["5", "6", "5, 5", " 5", "-1", "chunked", "Chunked ", "gzip", ""])),
            0..4,
        ),
    ) {
        let lines: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        if with(&lines).is_ok() {
            let framing: Vec<_> = fields.iter().filter(|(name, _)| *name != "X").collect();
            prop_assert!(framing.len() <= 1, "{lines}");
            if let Some((name, value)) = framing.first() {
                let sound = match *name {
                    "Content-Length" => value.trim().parse::<u64>().is_ok(),
                    _ => value.trim().eq_ignore_ascii_case("chunked"),
                };
                prop_assert!(sound, "{lines}");
            }
        }
    }
}
