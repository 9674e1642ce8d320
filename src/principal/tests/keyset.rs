use std::{sync::Mutex, time::Duration};

use jsonwebtoken::DecodingKey;
use serde_json::{Value, json};

use super::{
    super::{
        fetch::Client,
        keyset::{KeySet, KeySetError, RemoteKeys},
        responder::{Responder, reply},
    },
    jwt::{RSA_A, RSA_B, jwk, rs256},
    *,
};

const RSA_SHORT: &[u8] = include_bytes!("../../../tests/fixtures/rsa_short.pem");
const NEVER: Duration = Duration::from_secs(3600);

/// A key server whose answer can be changed.
async fn key_server(answer: String) -> (Responder, Arc<Mutex<String>>) {
    let answer = Arc::new(Mutex::new(answer));
    let current = Arc::clone(&answer);
    (Responder::start(move |_| current.lock().unwrap().clone()).await, answer)
}

fn key_set(keys: Value) -> String {
    reply("200 OK", "content-type: application/json\r\n", &json!({"keys": keys}).to_string())
}

fn remote(server: &Responder, refresh: Duration, cooldown: Duration) -> Arc<RemoteKeys> {
    RemoteKeys::new(server.url("/jwks"), Arc::new(Client::new(None).unwrap()), refresh, cooldown)
}

async fn knows(keys: &Arc<RemoteKeys>, kid: &str) -> Result<bool, IdentityError> {
    keys.for_token(Some(kid)).await.map(|set| set.candidates(Some(kid)).next().is_some())
}

/// Waits until a condition holds that another task brings about.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waited = tokio::time::timeout(Duration::from_secs(10), async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    });
    waited.await.unwrap_or_else(|_| panic!("not within 10 s: {what}"));
}

#[test]
fn only_keys_that_can_verify_rs256_are_taken() {
    let parse = |keys: Value| KeySet::parse(json!({"keys": keys}).to_string().as_bytes());
    let with = |name: &str, value: &str| {
        let mut key = jwk(RSA_A, Some("a"));
        key[name] = json!(value);
        key
    };
    let unusable = json!([
        with("use", "enc"),
        with("alg", "RS512"),
        with("alg", "RSA-OAEP"),
        with("n", "!"),
        jwk(RSA_SHORT, Some("short")),
        {"kty": "oct", "kid": "a", "k": "c2VjcmV0"},
        {"kty": "EC", "kid": "a", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "new", "kid": "a"},
        {"kid": "a"},
        42,
    ]);
    assert!(matches!(parse(unusable.clone()), Err(KeySetError::NoKey)));

    let mut keys = unusable.as_array().unwrap().clone();
    keys.push(with("use", "sig"));
    let set = parse(Value::Array(keys)).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(set.candidates(Some("a")).count(), 1);
    assert_eq!(set.candidates(None).count(), 1, "the only key needs no id");

    let set = parse(json!([jwk(RSA_A, Some("x")), jwk(RSA_B, Some("x")), jwk(RSA_B, None)])).ok().unwrap();
    assert_eq!(set.candidates(Some("x")).count(), 2);
    assert_eq!(set.candidates(None).count(), 0);
    for bad in ["", "[]", "{}", "{\"keys\":{}}", "<html>"] {
        assert!(matches!(KeySet::parse(bad.as_bytes()), Err(KeySetError::Syntax(_))), "{bad}");
    }
}

#[tokio::test]
async fn tokens_are_verified_under_keys_from_a_url() {
    let (server, _) = key_server(key_set(json!([jwk(RSA_A, Some("a"))]))).await;
    let settings = JwtSettings::new(JwtKey::Url { url: server.url("/jwks?v=1"), refresh: NEVER });
    let identifier = identifier([Source::Jwt(settings)]);
    assert!(server.heads().is_empty(), "nothing is fetched before it is needed");
    let who = async |token: &str| identifier.identify(&headers(&[("authorization", token)])).await;

    let alice = who(&rs256(RSA_A, Some("a"))).await.unwrap();
    assert!(alice.is_some());
    assert_eq!(who(&rs256(RSA_A, Some("a"))).await, Ok(alice));
    assert_eq!(who(&rs256(RSA_B, Some("a"))).await, Err(IdentityError::Invalid(TokenFault::Signature)));
    assert_eq!(who(&rs256(RSA_B, Some("b"))).await, Err(IdentityError::Invalid(TokenFault::UnknownKey)));
    assert_eq!(server.heads().len(), 1);
    assert!(server.heads()[0].starts_with("GET /jwks?v=1 HTTP/1.1\r\n"), "{}", server.heads()[0]);
}

#[tokio::test]
async fn an_unknown_key_id_brings_the_rotated_keys() {
    let (server, answer) = key_server(key_set(json!([jwk(RSA_A, Some("a"))]))).await;
    let keys = remote(&server, NEVER, Duration::ZERO);
    assert_eq!(knows(&keys, "a").await, Ok(true));
    *answer.lock().unwrap() = key_set(json!([jwk(RSA_B, Some("b"))]));
    assert_eq!(knows(&keys, "a").await, Ok(true));
    assert_eq!(server.heads().len(), 1, "a known key causes no fetch");
    assert_eq!(knows(&keys, "b").await, Ok(true));
    assert_eq!(knows(&keys, "a").await, Ok(false), "a withdrawn key is gone");
}

#[tokio::test]
async fn made_up_key_ids_cause_one_fetch_in_the_cool_down() {
    let (server, _) = key_server(key_set(json!([jwk(RSA_A, Some("a"))]))).await;
    let keys = remote(&server, NEVER, NEVER);
    assert_eq!(knows(&keys, "a").await, Ok(true));
    for n in 0..20 {
        assert_eq!(knows(&keys, &format!("made-up-{n}")).await, Ok(false));
    }
    assert_eq!(server.heads().len(), 1);
}

#[tokio::test]
async fn those_who_come_at_once_share_one_fetch() {
    let (server, _) = key_server(key_set(json!([jwk(RSA_A, Some("a"))]))).await;
    let keys = remote(&server, NEVER, NEVER);
    let all = futures_util::future::join_all((0..50).map(|_| knows(&keys, "a"))).await;
    assert!(all.into_iter().all(|known| known == Ok(true)));
    assert_eq!(server.heads().len(), 1);
}

#[tokio::test]
async fn old_keys_are_used_in_the_background_of_a_refresh() {
    let (server, answer) = key_server(key_set(json!([jwk(RSA_A, Some("a"))]))).await;
    let keys = remote(&server, Duration::ZERO, Duration::ZERO);
    assert_eq!(knows(&keys, "a").await, Ok(true));
    *answer.lock().unwrap() = key_set(json!([jwk(RSA_A, Some("a")), jwk(RSA_B, Some("b"))]));
    until("the set that has grown old is fetched again", async || {
        keys.for_token(Some("a")).await.unwrap().candidates(Some("b")).next().is_some()
    })
    .await;
}

#[tokio::test]
async fn old_keys_outlive_their_server() {
    let (server, answer) = key_server(key_set(json!([jwk(RSA_A, Some("a"))]))).await;
    let keys = remote(&server, Duration::ZERO, Duration::ZERO);
    assert_eq!(knows(&keys, "a").await, Ok(true));

    let broken = [
        reply("500 Internal Server Error", "", "{\"keys\":[]}"),
        reply("302 Found", "location: /elsewhere\r\n", ""),
        key_set(json!([])),
        reply("200 OK", "", "<html>"),
        "nonsense\r\n\r\n".to_owned(),
        String::new(),
    ];
    for failure in broken {
        *answer.lock().unwrap() = failure;
        assert_eq!(knows(&keys, "b").await, Ok(false), "waits for a fetch that fails");
        assert_eq!(knows(&keys, "a").await, Ok(true));
    }
    server.stop().await;
    assert_eq!(knows(&keys, "b").await, Ok(false));
    assert_eq!(knows(&keys, "a").await, Ok(true));
}

#[tokio::test]
async fn without_any_keys_nobody_is_refused_for_good() {
    let (server, answer) = key_server(reply("503 Service Unavailable", "", "")).await;
    let keys = remote(&server, NEVER, Duration::ZERO);
    assert_eq!(knows(&keys, "a").await, Err(IdentityError::Unavailable));
    *answer.lock().unwrap() = key_set(json!([jwk(RSA_A, Some("a"))]));
    assert_eq!(knows(&keys, "a").await, Ok(true));
}

#[tokio::test]
async fn a_client_that_leaves_does_not_break_off_the_fetch() {
    let (server, _) = key_server(key_set(json!([jwk(RSA_A, Some("a"))]))).await;
    let keys = remote(&server, NEVER, NEVER);
    tokio::select! {
        biased;
        _ = knows(&keys, "a") => panic!("answered without a fetch"),
        () = std::future::ready(()) => {}
    }
    assert_eq!(knows(&keys, "a").await, Ok(true));
    assert_eq!(server.heads().len(), 1);
}

/// The types of the library say nothing of the key's size; see that the fixture is what the test above takes it for.
#[test]
fn the_short_key_is_a_valid_one() {
    assert!(DecodingKey::from_jwk(&serde_json::from_value(jwk(RSA_SHORT, None)).unwrap()).is_ok());
}
