//! Who may resume (DESIGN §8): each source of an identity, before a real backend.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{Algorithm, EncodingKey, jwk::Jwk};
use rustls::pki_types::{PrivatePkcs1KeyDer, pem::PemObject};
use serde_json::{Value, json};

use crate::support::{Backend, Ending, Exchange, Holdover, Redis, Turn, eventually, fresh_body};

const RSA_A: &[u8] = include_bytes!("fixtures/rsa_a.pem");
const RSA_B: &[u8] = include_bytes!("fixtures/rsa_b.pem");
const SECRET: &str = "a secret of at least thirty-two bytes";
/// A name that no turn has.
const NOBODYS: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaa";

type Header<'a> = (&'a str, &'a str);

async fn status(node: &Holdover, headers: &[Header<'_>]) -> u16 {
    let said = node.answer("GET", &format!("/.holdover/turns/{NOBODYS}"), headers).await;
    said.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line")
}

/// Starts a turn as `mine`, which all of `same` can resume, inspect and find by its session; to `others` it is unknown,
/// byte for byte; and only `mine` can stop it.
async fn belongs_to(
    node: &Holdover,
    backend: &Backend,
    mine: &[Header<'_>],
    same: &[&[Header<'_>]],
    others: &[&[Header<'_>]],
) {
    let start: Vec<_> = mine.iter().copied().chain([("X-Session", "s")]).collect();
    let mut client = node.connect().await;
    client.request("POST", "/chat", &start, fresh_body()).await;
    let mut turn = Turn::opened(client, backend).await;
    turn.event("secret").await;
    let path = format!("/.holdover/turns/{}", turn.id);
    for who in same {
        let mut resumed = node.connect().await;
        let cursor = turn.id_of(0);
        let headers: Vec<_> = who.iter().copied().chain([("Last-Event-ID", cursor.as_str())]).collect();
        resumed.request("GET", "/chat", &headers, "").await;
        assert_eq!(resumed.head().await.status(), 200, "{who:?}");
        assert_eq!(resumed.next_event().await.data(), "secret");
        assert!(node.answer("GET", &path, who).await.contains("\"running\""), "{who:?}");
        assert!(node.answer("GET", "/.holdover/sessions/s", who).await.contains(&turn.id), "{who:?}");
    }
    for who in others {
        for (method, target, cursor) in [
            ("GET", "/.holdover/turns/<turn>", ""),
            ("GET", "/.holdover/turns/<turn>/stream?after=0", ""),
            ("DELETE", "/.holdover/turns/<turn>", ""),
            ("GET", "/chat", "<turn>-1"),
            ("POST", "/chat", "<turn>-1"),
        ] {
            let mut said = Vec::new();
            for id in [&*turn.id, NOBODYS] {
                let cursor = cursor.replace("<turn>", id);
                let mut headers = who.to_vec();
                headers.extend(Some(("Last-Event-ID", &*cursor)).filter(|_| !cursor.is_empty()));
                said.push(node.answer(method, &target.replace("<turn>", id), &headers).await);
            }
            assert_eq!(said[0], said[1], "{method} {target} as {who:?}");
        }
        assert!(node.answer("GET", "/.holdover/sessions/s", who).await.starts_with("HTTP/1.1 404 "), "{who:?}");
    }
    assert_eq!(turn.event("still here").await.place(), (turn.id.as_str(), 2));
    assert!(node.answer("DELETE", &path, same[0]).await.contains("\"stopped\""));
    assert_eq!(turn.client.rest().await.1, Ending::Clean(vec![]));
    turn.upstream.aborted().await;
}

/// One route with sessions, and these lines in front.
async fn node(backend: &Backend, config: &str) -> Holdover {
    let config = format!("{config}\n[[route]]\nname = \"chat\"\nsession = \"header:x-session\"\n");
    Holdover::before(backend).config(config).start().await
}

#[tokio::test]
async fn a_header_that_a_proxy_in_front_sets() {
    let backend = Backend::start().await;
    let node = node(&backend, "[identity]\nfrom = \"header:x-user\"").await;
    let alice = [("X-User", "alice")];
    let with_another_token = [("Authorization", "Bearer 2"), ("X-User", "alice")];
    let others: [&[Header]; 3] = [&[("X-User", "bob")], &[], &[("Authorization", "alice")]];
    belongs_to(&node, &backend, &alice, &[&alice, &with_another_token], &others).await;
    assert_eq!(status(&node, &[("X-User", "alice"), ("X-User", "alice")]).await, 400, "two lines name nobody");
}

#[tokio::test]
async fn a_cookie() {
    let backend = Backend::start().await;
    let node = node(&backend, "[identity]\nfrom = \"cookie:sid\"").await;
    let alice = [("Cookie", "theme=dark; sid=a1")];
    let others: [&[Header]; 3] = [&[("Cookie", "sid=b2")], &[("Cookie", "SID=a1")], &[]];
    belongs_to(&node, &backend, &alice, &[&alice, &[("Cookie", "sid=a1; theme=light")]], &others).await;
    assert_eq!(status(&node, &[("Cookie", "sid=a1; sid=b2")]).await, 400);
}

fn expires(seconds: i64) -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap() + seconds
}

fn rsa(pem: &[u8]) -> EncodingKey {
    EncodingKey::from_rsa_der(PrivatePkcs1KeyDer::from_pem_slice(pem).unwrap().secret_pkcs1_der())
}

fn bearer(algorithm: Algorithm, key: &EncodingKey, claims: &Value) -> String {
    let header = jsonwebtoken::Header { kid: Some("k".to_owned()), ..jsonwebtoken::Header::new(algorithm) };
    format!("Bearer {}", jsonwebtoken::encode(&header, claims, key).unwrap())
}

/// The public half of a key, as an issuer publishes it.
fn key_set(pem: &[u8]) -> String {
    let mut key = Jwk::from_encoding_key(&rsa(pem), Algorithm::RS256).unwrap();
    key.common.key_id = Some("k".to_owned());
    json!({ "keys": [key] }).to_string()
}

/// Alice's turns are hers under every token of hers; what is no token of the issuer's is refused.
async fn tokens_are_verified(node: &Holdover, backend: &Backend, sign: impl Fn(&Value) -> String, forged: &[String]) {
    let token = |name: &str, seconds| sign(&json!({"sub": name, "exp": expires(seconds)}));
    let (first, refreshed, bob) = (token("alice", 300), token("alice", 600), token("bob", 300));
    let (first, refreshed, bob) =
        ([("Authorization", &*first)], [("Authorization", &*refreshed)], [("Authorization", &*bob)]);
    belongs_to(node, backend, &first, &[&first, &refreshed], &[&bob, &[]]).await;
    let expired = token("alice", -300);
    let nameless = sign(&json!({"exp": expires(300)}));
    let cut = &first[0].1[..first[0].1.len() - 4];
    let before = backend.requests().len();
    for token in [expired.as_str(), &nameless, cut, "Bearer x"].into_iter().chain(forged.iter().map(String::as_str)) {
        assert_eq!(status(node, &[("Authorization", token)]).await, 401, "{token}");
        assert!(node.answer("POST", "/chat", &[("Authorization", token)]).await.starts_with("HTTP/1.1 401 "));
    }
    assert_eq!(backend.requests().len(), before, "nothing of it went upstream");
}

#[tokio::test]
async fn a_token_signed_with_a_shared_secret() {
    let backend = Backend::start().await;
    let config = format!("[identity]\nfrom = \"jwt:sub\"\n[identity.jwt]\nsecret = \"{SECRET}\"");
    let node = node(&backend, &config).await;
    let claims = json!({"sub": "alice", "exp": expires(300)});
    let forged = [
        bearer(Algorithm::HS256, &EncodingKey::from_secret(b"some other secret of enough bytes"), &claims),
        bearer(Algorithm::HS512, &EncodingKey::from_secret(SECRET.as_bytes()), &claims),
        bearer(Algorithm::RS256, &rsa(RSA_A), &claims),
    ];
    let sign = |claims: &Value| bearer(Algorithm::HS256, &EncodingKey::from_secret(SECRET.as_bytes()), claims);
    tokens_are_verified(&node, &backend, sign, &forged).await;
}

/// Tokens that a key set with the public half of `RSA_A` must not verify.
fn forged_without_rsa_a() -> Vec<String> {
    let claims = json!({"sub": "alice", "exp": expires(300)});
    let public = EncodingKey::from_secret(include_bytes!("fixtures/rsa_a.pub.pem"));
    vec![bearer(Algorithm::RS256, &rsa(RSA_B), &claims), bearer(Algorithm::HS256, &public, &claims)]
}

#[tokio::test]
async fn a_token_signed_with_a_key_of_a_key_set_in_a_file() {
    let backend = Backend::start().await;
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), key_set(RSA_A)).unwrap();
    let config = format!("[identity]\nfrom = \"jwt:sub\"\n[identity.jwt]\njwks_file = \"{}\"", file.path().display());
    let node = node(&backend, &config).await;
    let sign = |claims: &Value| bearer(Algorithm::RS256, &rsa(RSA_A), claims);
    tokens_are_verified(&node, &backend, sign, &forged_without_rsa_a()).await;
}

#[tokio::test]
async fn a_token_signed_with_a_key_of_a_key_set_behind_a_url() {
    let (backend, up) = (Backend::start().await, Arc::new(AtomicBool::new(false)));
    let serving = up.clone();
    let issuer = Backend::answering(move |exchange| {
        let up = serving.load(Ordering::Relaxed);
        async move {
            assert_eq!((exchange.request.method(), exchange.request.target()), ("GET", "/keys"));
            match up {
                true => exchange.answer("200 OK", "Content-Type: application/json\r\n", key_set(RSA_A)).await,
                false => exchange.answer("500 Internal Server Error", "", "").await,
            }
        }
    })
    .await;
    let config =
        format!("[identity]\nfrom = \"jwt:sub\"\n[identity.jwt]\njwks_url = \"http://{}/keys\"", issuer.address());
    let node = node(&backend, &config).await;
    let sign = |claims: &Value| bearer(Algorithm::RS256, &rsa(RSA_A), claims);
    let alice = sign(&json!({"sub": "alice", "exp": expires(300)}));
    let alice = [("Authorization", &*alice)];
    assert_eq!(status(&node, &alice).await, 503, "nobody knows yet whose token is good");
    assert_eq!(status(&node, &[]).await, 404, "who shows none is anonymous");
    up.store(true, Ordering::Relaxed);
    eventually("the keys to be fetched", || async { (status(&node, &alice).await == 404).then_some(()) }).await;
    up.store(false, Ordering::Relaxed);
    tokens_are_verified(&node, &backend, sign, &forged_without_rsa_a()).await;
    // The fetched keys are used while the issuer is down, and tokens, however many, do not flood it.
    assert!((2..=4).contains(&issuer.requests().len()), "{}", issuer.requests().len());
}

#[tokio::test]
async fn whoever_the_backend_accepts() {
    let (backend, asked) = (Backend::start().await, Arc::new(AtomicBool::new(true)));
    let up = asked.clone();
    // Two servers, so that the turns' backend stays scripted: the first one of the list is asked.
    let gate = Backend::answering(move |exchange| {
        let good = exchange.request.get("cookie").is_some_and(|cookie| cookie.starts_with("sid=good"));
        assert_eq!(exchange.request.target(), "/whoami");
        assert_eq!(exchange.request.get("x-private"), None, "only what is configured is passed on");
        let status = match (up.load(Ordering::Relaxed), good) {
            (false, _) => "503 Service Unavailable",
            (true, true) => "204 No Content",
            (true, false) => "403 Forbidden",
        };
        exchange.answer(status, "", "")
    })
    .await;
    let both = Backend::answering({
        let (gate, backend) = (gate.address(), backend.address());
        move |exchange| relay(exchange, gate, backend)
    })
    .await;
    let config = "[identity]\nfrom = \"subrequest\"\n[identity.subrequest]\npath = \"/whoami\"\nheaders = \"cookie\"\ncache = \"1s\"";
    let node = node(&both, config).await;
    let alice = [("Cookie", "sid=good-a"), ("X-Private", "p")];
    let bob = [("Cookie", "sid=good-b")];
    belongs_to(&node, &backend, &alice, &[&alice], &[&bob, &[]]).await;
    for path in ["/chat", &format!("/.holdover/turns/{NOBODYS}")] {
        assert!(
            node.answer("GET", path, &[("Cookie", "sid=bad"), ("Last-Event-ID", &format!("{NOBODYS}-1"))])
                .await
                .starts_with("HTTP/1.1 401 "),
            "{path}"
        );
    }
    asked.store(false, Ordering::Relaxed);
    assert_eq!(status(&node, &[("Cookie", "sid=good-c")]).await, 503);
    asked.store(true, Ordering::Relaxed);
    assert_eq!(status(&node, &[("Cookie", "sid=good-c")]).await, 404, "an outage is not remembered");
}

/// Passes a connection's first request on, by its path.
async fn relay(mut exchange: Exchange, gate: std::net::SocketAddr, backend: std::net::SocketAddr) {
    let to = if exchange.request.target() == "/whoami" { gate } else { backend };
    let mut stream = tokio::net::TcpStream::connect(to).await.unwrap();
    let body = exchange.body().await.unwrap_or_default();
    let head: String = exchange.request.fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let request = format!("{}\r\n{head}\r\n{}", exchange.request.line, String::from_utf8_lossy(&body));
    tokio::io::AsyncWriteExt::write_all(&mut stream, request.as_bytes()).await.unwrap();
    let _ = tokio::io::copy_bidirectional(&mut stream, &mut exchange.raw().stream).await;
}

/// Two nodes on one Redis with these settings of the identity.
async fn two_nodes(backend: &Backend, redis: &Redis, identity: [&str; 2]) -> (Holdover, Holdover) {
    let config = |identity: &str| {
        format!("[store]\nkind = \"redis\"\nurl = \"{}\"\nlease = \"2s\"\n[identity]\n{identity}", redis.url())
    };
    let [one, other] = identity.map(config);
    tokio::join!(node(backend, &one), node(backend, &other))
}

const ALICE: Header = ("Authorization", "Bearer alice");

async fn sees(node: &Holdover, turn: &str) -> bool {
    let said = node.answer("GET", &format!("/.holdover/turns/{turn}"), &[ALICE]).await;
    let session = node.answer("GET", "/.holdover/sessions/s", &[ALICE]).await;
    assert_eq!(said.starts_with("HTTP/1.1 200 "), session.contains(turn));
    said.starts_with("HTTP/1.1 200 ")
}

#[tokio::test]
async fn nodes_agree_on_a_secret_and_keep_it_over_restarts() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let (one, other) = two_nodes(&backend, &redis, ["", ""]).await;
    let turn = Turn::start_with(&one, &backend, &[ALICE, ("X-Session", "s")]).await;
    assert!(sees(&other, &turn.id).await);
    let id = turn.end().await;
    drop((one, other));
    let (one, other) = two_nodes(&backend, &redis, ["", "secret = \"another, configured\""]).await;
    assert!(sees(&one, &id).await, "after both were started again");
    assert!(!sees(&other, &id).await, "another secret makes everybody somebody else");
}

#[tokio::test]
async fn nodes_agree_on_a_secret_again_when_redis_has_forgotten_it() {
    let (backend, redis) = (Backend::start().await, Redis::start().await);
    let (one, other) = two_nodes(&backend, &redis, ["", ""]).await;
    let mut turn = Turn::start_with(&one, &backend, &[ALICE, ("X-Session", "s")]).await;
    turn.event("one").await;
    drop(other);
    redis.flush_all().await;
    turn.event("two").await;
    eventually("the secret to be kept again", || async {
        redis.command::<Option<Vec<u8>>>("GET holdover:secret").await.map(drop)
    })
    .await;
    let config = format!("[store]\nkind = \"redis\"\nurl = \"{}\"\nlease = \"2s\"", redis.url());
    let newcomer = node(&backend, &config).await;
    assert!(sees(&newcomer, &turn.id).await);
}

#[tokio::test]
async fn a_configured_secret_binds_turns_while_redis_is_away() {
    let (backend, mut redis) = (Backend::start().await, Redis::reserved());
    let secret = "secret = \"sixteen bytes or more\"";
    let (one, other) = two_nodes(&backend, &redis, [secret, secret]).await;
    assert_eq!(one.ready().await.1["checks"]["identity"]["ok"], true);
    let mut turn = Turn::start_with(&one, &backend, &[ALICE, ("X-Session", "s")]).await;
    turn.event("one").await;
    redis.restart().await;
    eventually("the turn to be stored", || async {
        (one.status_as(&turn.id, Some(ALICE.1)).await["degraded"] == false).then_some(())
    })
    .await;
    eventually("the other node to be ready", || async { (other.ready().await.0 == 200).then_some(()) }).await;
    assert!(sees(&other, &turn.id).await);
    turn.end().await;
}
