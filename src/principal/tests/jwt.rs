use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, jwk::Jwk};
use rustls::pki_types::{PrivatePkcs1KeyDer, pem::PemObject};
use serde_json::{Value, json};

use super::*;

const SECRET: &[u8] = b"a secret of at least thirty-two bytes";

pub(super) const RSA_A: &[u8] = include_bytes!("../../../tests/fixtures/rsa_a.pem");
pub(super) const RSA_B: &[u8] = include_bytes!("../../../tests/fixtures/rsa_b.pem");
const RSA_A_PUBLIC: &[u8] = include_bytes!("../../../tests/fixtures/rsa_a.pub.pem");

pub(super) fn rsa(pem: &[u8]) -> EncodingKey {
    EncodingKey::from_rsa_der(PrivatePkcs1KeyDer::from_pem_slice(pem).unwrap().secret_pkcs1_der())
}

/// The public half of a key as it stands in a key set.
pub(super) fn jwk(pem: &[u8], kid: Option<&str>) -> Value {
    let mut key = Jwk::from_encoding_key(&rsa(pem), Algorithm::RS256).unwrap();
    key.common.key_id = kid.map(str::to_owned);
    serde_json::to_value(key).unwrap()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

/// Claims that pass wherever no issuer or audience is configured, with changes; `null` takes a claim out.
fn claims(changes: Value) -> Value {
    let mut claims = json!({"sub": "alice", "exp": now() + 300});
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims.as_object_mut().unwrap().retain(|_, value| !value.is_null());
    claims
}

fn hs256(claims: &Value) -> String {
    jsonwebtoken::encode(&Header::new(Algorithm::HS256), claims, &EncodingKey::from_secret(SECRET)).unwrap()
}

pub(super) fn rs256(pem: &[u8], kid: Option<&str>) -> String {
    let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::RS256) };
    jsonwebtoken::encode(&header, &claims(json!({})), &rsa(pem)).unwrap()
}

fn key_set_file(keys: Value) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), json!({"keys": keys}).to_string()).unwrap();
    file
}

fn secret_settings() -> JwtSettings {
    JwtSettings::new(JwtKey::Secret(SECRET.to_vec()))
}

async fn identify(settings: &JwtSettings, value: &str) -> Result<Option<Principal>, IdentityError> {
    let request: HeaderMap = [(settings.header.clone(), value.parse().unwrap())].into_iter().collect();
    identifier([Source::Jwt(settings.clone())]).identify(&request).await
}

async fn bearer(settings: &JwtSettings, token: &str) -> Result<Option<Principal>, IdentityError> {
    identify(settings, &format!("Bearer {token}")).await
}

async fn fault(settings: &JwtSettings, token: &str) -> TokenFault {
    match bearer(settings, token).await {
        Err(IdentityError::Invalid(fault)) => fault,
        other => panic!("accepted or refused for another reason: {other:?}"),
    }
}

#[tokio::test]
async fn a_verified_subject_is_the_identity_whatever_else_the_token_says() {
    let settings = secret_settings();
    let alice = bearer(&settings, &hs256(&claims(json!({})))).await.unwrap().unwrap();
    let renewed = hs256(&claims(json!({"exp": now() + 900, "jti": "2", "nbf": now() - 5})));
    assert_eq!(bearer(&settings, &renewed).await, Ok(Some(alice)));
    assert_ne!(bearer(&settings, &hs256(&claims(json!({"sub": "bob"})))).await, Ok(Some(alice)));
    let elsewhere = hs256(&claims(json!({"iss": "https://other.example"})));
    assert_ne!(bearer(&settings, &elsewhere).await, Ok(Some(alice)), "a subject is unique only within its issuer");
}

#[tokio::test]
async fn time_is_checked_with_leeway() {
    let settings = JwtSettings { leeway: Duration::from_secs(60), ..secret_settings() };
    let with = |changes| hs256(&claims(changes));
    assert!(bearer(&settings, &with(json!({"exp": now() - 30}))).await.is_ok());
    assert!(bearer(&settings, &with(json!({"nbf": now() + 30}))).await.is_ok());
    assert_eq!(fault(&settings, &with(json!({"exp": now() - 90}))).await, TokenFault::Expired);
    assert_eq!(fault(&settings, &with(json!({"nbf": now() + 90}))).await, TokenFault::NotYetValid);
    assert_eq!(fault(&settings, &with(json!({"exp": null}))).await, TokenFault::Claim);
    assert_eq!(fault(&settings, &with(json!({"exp": "never"}))).await, TokenFault::Claim);
    assert_eq!(fault(&settings, &with(json!({"nbf": "later"}))).await, TokenFault::Claim);

    let endless = JwtSettings { leeway: Duration::from_secs(3601), ..secret_settings() };
    assert!(matches!(refused(Sources { from: vec![Source::Jwt(endless)], ca_file: None }), SourceError::Leeway));
}

#[tokio::test]
async fn issuer_and_audience_must_be_accepted_ones() {
    let settings = JwtSettings {
        issuers: vec!["https://a.example".into(), "https://b.example".into()],
        audiences: vec!["chat".into()],
        ..secret_settings()
    };
    let with = |iss: Value, aud: Value| hs256(&claims(json!({"iss": iss, "aud": aud})));
    let (a, chat) = (json!("https://a.example"), json!("chat"));
    assert!(bearer(&settings, &with(a.clone(), chat.clone())).await.is_ok());
    assert!(bearer(&settings, &with(json!("https://b.example"), json!(["x", "chat"]))).await.is_ok());
    assert_eq!(fault(&settings, &with(json!("https://c.example"), chat.clone())).await, TokenFault::Issuer);
    assert_eq!(fault(&settings, &with(a.clone(), json!("mail"))).await, TokenFault::Audience);
    assert_eq!(fault(&settings, &with(a.clone(), json!(["mail"]))).await, TokenFault::Audience);
    assert_eq!(fault(&settings, &with(Value::Null, chat.clone())).await, TokenFault::Claim);
    assert_eq!(fault(&settings, &with(a, Value::Null)).await, TokenFault::Claim);
    // Without a configured audience a token that has one is meant for somebody else.
    assert_eq!(fault(&secret_settings(), &with(Value::Null, chat)).await, TokenFault::Audience);
}

#[tokio::test]
async fn the_token_does_not_choose_its_algorithm() {
    let file = key_set_file(json!([jwk(RSA_A, None)]));
    let public = JwtSettings::new(JwtKey::File(file.path().to_owned()));
    let genuine = rs256(RSA_A, None);
    assert!(bearer(&public, &genuine).await.unwrap().is_some());

    // HS256 under the public key, in each form an attacker can get it in.
    let der = rustls::pki_types::SubjectPublicKeyInfoDer::from_pem_slice(RSA_A_PUBLIC).unwrap();
    let modulus = jwk(RSA_A, None)["n"].as_str().unwrap().to_owned();
    for known in [RSA_A_PUBLIC, RSA_A_PUBLIC.trim_ascii(), &der, modulus.as_bytes()] {
        let key = EncodingKey::from_secret(known);
        let forged = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(json!({})), &key).unwrap();
        assert_eq!(fault(&public, &forged).await, TokenFault::Algorithm);
    }
    assert_eq!(fault(&secret_settings(), &genuine).await, TokenFault::Algorithm);
    let hs512 =
        jsonwebtoken::encode(&Header::new(Algorithm::HS512), &claims(json!({})), &EncodingKey::from_secret(SECRET));
    assert_eq!(fault(&secret_settings(), &hs512.unwrap()).await, TokenFault::Algorithm);

    // `none`, with the signature of a genuine token and without.
    let (signed, signature) = genuine.rsplit_once('.').unwrap();
    let payload = signed.split_once('.').unwrap().1;
    for alg in ["none", "None", "NONE", ""] {
        let head = data_encoding::BASE64URL_NOPAD.encode(json!({"alg": alg, "typ": "JWT"}).to_string().as_bytes());
        for signature in ["", signature] {
            let forged = format!("{head}.{payload}.{signature}");
            assert_eq!(fault(&public, &forged).await, TokenFault::Malformed);
            assert_eq!(fault(&secret_settings(), &forged).await, TokenFault::Malformed);
        }
    }
}

#[tokio::test]
async fn a_changed_or_foreign_token_is_refused() {
    let settings = secret_settings();
    let (alice, bob) = (hs256(&claims(json!({}))), hs256(&claims(json!({"sub": "bob"}))));
    let part = |token: &str, n: usize| token.split('.').nth(n).unwrap().to_owned();
    let spliced = format!("{}.{}.{}", part(&alice, 0), part(&bob, 1), part(&alice, 2));
    assert_eq!(fault(&settings, &spliced).await, TokenFault::Signature);
    let unsigned = format!("{}.{}.", part(&alice, 0), part(&alice, 1));
    assert_eq!(fault(&settings, &unsigned).await, TokenFault::Signature);

    let other = EncodingKey::from_secret(b"another secret of at least thirty-two");
    let foreign = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims(json!({})), &other).unwrap();
    assert_eq!(fault(&settings, &foreign).await, TokenFault::Signature);

    let critical = Header { crit: Some(vec!["b64".into()]), ..Header::new(Algorithm::HS256) };
    let critical = jsonwebtoken::encode(&critical, &claims(json!({})), &EncodingKey::from_secret(SECRET)).unwrap();
    assert_eq!(fault(&settings, &critical).await, TokenFault::Malformed);

    let long = "a".repeat(1024 * 1024);
    for garbage in ["a", "a.b", "a.b.c", "...", "undefined", "a b", &format!("{alice}.x"), &format!("x.{alice}"), &long]
    {
        assert_eq!(fault(&settings, garbage).await, TokenFault::Malformed, "{:?}", &garbage[..garbage.len().min(20)]);
    }
    assert_eq!(fault(&settings, &hs256(&claims(json!({"pad": long})))).await, TokenFault::Malformed);
}

#[tokio::test]
async fn a_token_comes_with_or_without_bearer_and_other_schemes_are_left_to_other_sources() {
    let token = hs256(&claims(json!({})));
    for settings in [secret_settings(), JwtSettings { header: HeaderName::from_static("x-token"), ..secret_settings() }]
    {
        let alice = identify(&settings, &format!("Bearer {token}")).await.unwrap();
        assert!(alice.is_some());
        assert_eq!(identify(&settings, &format!("bEARER   {token}")).await.unwrap(), alice);
        assert_eq!(identify(&settings, &token).await.unwrap(), alice);
        assert_eq!(identify(&settings, "Basic YTpi").await, Ok(None));
        assert_eq!(identify(&settings, "").await, Ok(None));
        assert!(identify(&settings, "Bearer").await.is_err());
    }
    let both = identifier([Source::Jwt(secret_settings()), Source::Header(header::AUTHORIZATION)]);
    assert!(both.identify(&headers(&[("authorization", "Basic YTpi")])).await.unwrap().is_some());
    assert!(
        both.identify(&headers(&[("authorization", "Bearer a.b.c")])).await.is_err(),
        "not left to the next source"
    );
}

#[tokio::test]
async fn the_claim_is_a_path_to_a_string_or_an_integer() {
    let token = hs256(&claims(json!({
        "user": {"id": 42, "name": "42", "ratio": 4.5, "empty": " ", "roles": ["a", "b"], "none": null},
        "https://example.com/id": "u1",
        "a/b~c": "u2",
    })));
    let by = async |claim: &str| bearer(&JwtSettings { claim: claim.into(), ..secret_settings() }, &token).await;
    let distinct: HashSet<_> = [
        by("user.id").await.unwrap().unwrap(),
        by("user.name").await.unwrap().unwrap(),
        by("/https:~1~1example.com~1id").await.unwrap().unwrap(),
        by("a/b~c").await.unwrap().unwrap(),
        by("/user/roles/1").await.unwrap().unwrap(),
    ]
    .into();
    assert_eq!(distinct.len(), 5);
    assert_eq!(by("user.id").await, by("/user/id").await);
    for nothing in ["user", "user.ratio", "user.empty", "user.roles", "user.none", "user.id.x", "missing", "/x"] {
        assert_eq!(by(nothing).await, Err(IdentityError::Invalid(TokenFault::Claim)), "{nothing}");
    }
    let (number, text) = (hs256(&claims(json!({"sub": 7}))), hs256(&claims(json!({"sub": "7"}))));
    assert_ne!(bearer(&secret_settings(), &number).await, bearer(&secret_settings(), &text).await);
    for claim in ["", ".", "a..b", "/", "/a/", ".a"] {
        let source = Source::Jwt(JwtSettings { claim: claim.into(), ..secret_settings() });
        assert!(matches!(refused(Sources { from: vec![source], ca_file: None }), SourceError::Claim(_)), "{claim:?}");
    }
}

#[tokio::test]
async fn a_key_set_file_gives_the_key_by_its_id() {
    let file = key_set_file(json!([jwk(RSA_A, Some("a")), jwk(RSA_B, Some("b"))]));
    let settings = JwtSettings::new(JwtKey::File(file.path().to_owned()));
    let alice = bearer(&settings, &rs256(RSA_A, Some("a"))).await.unwrap();
    assert!(alice.is_some());
    assert_eq!(bearer(&settings, &rs256(RSA_B, Some("b"))).await.unwrap(), alice, "keys rotate, identities stay");
    assert_eq!(fault(&settings, &rs256(RSA_A, Some("b"))).await, TokenFault::Signature);
    assert_eq!(fault(&settings, &rs256(RSA_A, Some("c"))).await, TokenFault::UnknownKey);
    assert_eq!(fault(&settings, &rs256(RSA_A, None)).await, TokenFault::UnknownKey);

    let shared = key_set_file(json!([jwk(RSA_A, Some("x")), jwk(RSA_B, Some("x"))]));
    let shared = JwtSettings::new(JwtKey::File(shared.path().to_owned()));
    assert_eq!(bearer(&shared, &rs256(RSA_B, Some("x"))).await.unwrap(), alice, "both keys of one id are tried");
}

#[test]
fn keys_that_cannot_be_used_are_told_at_start() {
    let refused = |key| refused(Sources { from: vec![Source::Jwt(JwtSettings::new(key))], ca_file: None });
    assert!(matches!(refused(JwtKey::Secret(Vec::new())), SourceError::NoSecret));
    assert!(matches!(refused(JwtKey::File("/nowhere/jwks.json".into())), SourceError::KeySetFile { .. }));
    let file = key_set_file(json!([]));
    assert!(matches!(refused(JwtKey::File(file.path().to_owned())), SourceError::KeySet { .. }));
    for url in ["ftp://keys.example/jwks", "file:///etc/jwks", "https://user:hunter2@keys.example/jwks"] {
        let error = refused(JwtKey::Url { url: url.parse().unwrap(), refresh: Duration::from_secs(600) });
        assert!(matches!(error, SourceError::Url(_)), "{url}");
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn no_secret_shows_in_debug_output() {
    let settings = JwtSettings::new(JwtKey::Secret(b"hunter2".to_vec()));
    assert!(!format!("{:?}", Source::Jwt(settings)).contains("hunter2"));
    assert!(!format!("{:?}", JwtKey::Secret(b"hunter2".to_vec())).contains(&format!("{:?}", b"hunter2")));
}
