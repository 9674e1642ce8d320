//! Single values.

use std::{path::Path, time::Duration};

use proptest::prelude::*;

use super::{
    super::{
        section::Leaf,
        tree::{Node, Value},
        *,
    },
    Given,
};

fn parsed<T: Leaf>(text: &str) -> Result<T, String> {
    T::parse(&Value::Text(text.to_owned())).map_err(|wrong| wrong.help.unwrap_or(wrong.message))
}

#[test]
fn a_route_takes_paths_on_segment_bounds() {
    let pattern = |text: &str| text.parse::<PathPattern>().unwrap();
    let takes = |text: &str, path: &str| pattern(text).matches(path).is_some();
    for path in ["/", "/x", "//", "/a/b"] {
        assert!(takes("/", path), "{path}");
    }
    for path in ["/api/chat", "/api/chat/", "/api/chat/x", "/api/%63hat"] {
        assert!(takes("/api/chat", path) && takes("/api/chat/", path), "{path}");
    }
    for path in ["/api/chats", "/api", "/api/", "/api/Chat", "//api/chat", "/api%2Fchat", "api/chat", "", "*"] {
        assert!(!takes("/api/chat", path), "{path}");
    }
    let params = pattern("/threads/{thread}/runs/{run}").matches("/threads/a%2Fb/runs/7/stream").unwrap();
    assert_eq!((params.get("thread"), params.get("run"), params.get("x")), (Some("a/b"), Some("7"), None));
    assert!(!takes("/threads/{thread}/runs", "/threads//runs"));
    assert!(!takes("/threads/{thread}", "/threads"));
    for wrong in
        ["", "api", "/a//b", "/a/../b", "/{", "/{}", "/a{b}", "/{a}/{a}", "/{a b}", "/a?b", "/*", "/a b", "/\u{7}"]
    {
        assert!(wrong.parse::<PathPattern>().is_err(), "{wrong}");
    }
}

#[test]
fn durations_are_written_with_units() {
    let duration = parsed::<Duration>;
    assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
    assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
    assert_eq!(duration("0s"), Ok(Duration::ZERO));
    assert_eq!(duration("10"), Err("write \"10s\" for seconds".to_owned()));
    for wrong in [
        "",
        "s",
        "1x",
        "1.5s",
        "-1s",
        "1 s",
        "off",
        "1s2",
        "99999999999999999999d",
        "18446744073709551615d",
        "400d",
        "１s",
    ] {
        assert!(duration(wrong).is_err(), "{wrong}");
    }
    assert_eq!(parsed::<Option<Duration>>("off"), Ok(None));
    assert_eq!(parsed::<Option<Duration>>("1s"), Ok(Some(Duration::from_secs(1))));
}

#[test]
fn sizes_are_written_with_units_or_bare() {
    let size = parsed::<usize>;
    assert_eq!(size("64MiB"), Ok(64 << 20));
    assert_eq!(size("16KB"), Ok(16_000));
    assert_eq!(size("1 GiB"), Ok(1 << 30));
    assert_eq!(size("12B"), Ok(12));
    assert_eq!(usize::parse(&Value::Integer(4096)), Ok(4096));
    assert_eq!(usize::parse(&Value::Raw("4096".to_owned())), Ok(4096));
    assert_eq!(size("64k"), Err("write \"64KiB\"".to_owned()));
    for wrong in ["", "MiB", "-1MiB", "1.5GiB", "99999999999999999999B", "99999999999999GiB"] {
        assert!(size(wrong).is_err(), "{wrong}");
    }
    assert!(usize::parse(&Value::Integer(-1)).is_err());
}

#[test]
fn redis_urls_are_taken_apart() {
    let url = |text: &str| parsed::<RedisUrl>(text).unwrap_or_else(|wrong| panic!("{text}: {wrong}"));
    let hosts = |url: RedisUrl| url.hosts.into_iter().map(|(host, port)| format!("{host} {port}")).collect::<Vec<_>>();
    let full = url("rediss://me:p%40ss%2F@[::1]:7000/3");
    assert_eq!(full.username.as_deref(), Some("me"));
    assert_eq!(full.password.as_ref().unwrap().expose(), "p@ss/");
    assert_eq!((full.scheme, full.database), (RedisScheme::Tls, 3));
    assert_eq!(full.to_string(), "rediss://me:[redacted]@[::1]:7000/3");
    assert_eq!(hosts(full), ["::1 7000"]);
    let sentinel = url("redis-sentinel://:pw@h1:26380,h2/mymaster/1");
    assert_eq!((sentinel.master.as_deref(), sentinel.database), (Some("mymaster"), 1));
    assert_eq!(hosts(sentinel), ["h1 26380", "h2 26379"]);
    assert_eq!(url("unix:///run/redis.sock").socket.as_deref(), Some(Path::new("/run/redis.sock")));
    assert_eq!(url("redis+unix:///run/redis.sock?db=2").database, 2);
    assert_eq!(url("redis://127.0.0.1:6379/0"), RedisUrl::default());
    let wrong = [
        "",
        "redis",
        "redis://",
        "redis://:6379",
        "redis://h:0",
        "redis://h:x",
        "redis://h/x",
        "redis://h/1/2",
        "redis://h?x=1",
        "redis://[::1",
        "redis://[x]",
        "redis://h,",
        "redis-sentinel://h",
        "unix://",
        "unix://h/x",
        "unix:///",
        "http://h",
        "redis://u:%ff@h",
        "redis://h h",
        "redis://h:65536",
        "redis://h/65536",
    ];
    for text in wrong {
        assert!(parsed::<RedisUrl>(text).is_err(), "{text}");
    }
}

#[test]
fn networks_contain_their_addresses() {
    let cidr = |text: &str| parsed::<Cidr>(text);
    let contains = |network: &str, address: &str| cidr(network).unwrap().contains(address.parse().unwrap());
    assert!(contains("10.0.0.0/8", "10.255.0.1") && !contains("10.0.0.0/8", "11.0.0.1"));
    assert!(contains("0.0.0.0/0", "1.2.3.4") && !contains("0.0.0.0/0", "::1"));
    assert!(contains("::/0", "fe80::1") && contains("fe80::/10", "febf::1") && !contains("fe80::/10", "fec0::1"));
    assert!(contains("127.0.0.1", "127.0.0.1") && !contains("127.0.0.1", "127.0.0.2"));
    assert!(contains("10.0.0.0/8", "::ffff:10.0.0.1"));
    assert_eq!(cidr("10.1.0.0/8"), Err("write \"10.0.0.0/8\"".to_owned()));
    for wrong in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "host", "10.0.0.0/8/8"] {
        assert!(cidr(wrong).is_err(), "{wrong}");
    }
}

#[test]
fn sources_of_identity_and_session_are_taken_apart() {
    assert_eq!(parsed("jwt:sub"), Ok(IdentitySource::Jwt("sub".to_owned())));
    assert_eq!(parsed("header:X-User"), Ok(IdentitySource::Header(http::HeaderName::from_static("x-user"))));
    for wrong in ["", "header", "header:", "header:a b", "cookie:a=b", "jwt:", "subrequest:x", "authorization"] {
        assert!(parsed::<IdentitySource>(wrong).is_err(), "{wrong}");
    }
    assert_eq!(parsed("body:/a/b~1c"), Ok(SessionSource::Body("/a/b~1c".to_owned())));
    assert_eq!(parsed::<SessionSource>("body:$.chat.id"), Err("write \"body:/chat/id\"".to_owned()));
    assert_eq!(parsed::<SessionSource>("boddy:/id"), Err("did you mean `body`?".to_owned()));
    for wrong in ["", "body", "body:", "body:/a~2", "body:/a~", "path:", "header:a b", "cookie:;"] {
        assert!(parsed::<SessionSource>(wrong).is_err(), "{wrong}");
    }
}

proptest! {
    #[test]
    fn durations_and_sizes_read_back_as_they_are_shown(milliseconds in 0_u64..31_622_400_000, bytes in any::<usize>()) {
        fn back<T: Leaf>(value: &T) -> T {
            let shown = Leaf::show(value).unwrap();
            let raw = Value::Raw(shown.trim_matches('"').to_owned());
            T::parse(&raw).unwrap_or_else(|wrong| panic!("{shown}: {wrong:?}"))
        }
        let duration = Duration::from_millis(milliseconds);
        prop_assert_eq!(back(&duration), duration);
        prop_assert_eq!(back(&Some(duration)), Some(duration));
        prop_assert_eq!(back(&bytes), bytes);
    }

    #[test]
    fn no_text_makes_reading_panic(text in ".{0,80}", lines in "[a-z\\[\\]{}='\"\\n.:/0-9]{0,200}") {
        let value = Value::Raw(text.clone());
        let _ = (Duration::parse(&value), usize::parse(&value), Cidr::parse(&value), RedisUrl::parse(&value));
        let _ = (Backend::parse(&value), SessionSource::parse(&value), IdentitySource::parse(&value), text.parse::<PathPattern>());
        let _ = Node::parse(&lines, &|_| Origin::Default, &mut Vec::new());
        let _ = read(&Given::nothing().variable("HOLDOVER__ROUTE", text).sources);
    }
}
