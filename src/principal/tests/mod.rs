//! Tests across this module's files; those of one file alone stand in it.

mod fetch;
mod jwt;
mod keyset;
mod subrequest;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::*;

fn key() -> IdentityKey {
    IdentityKey::from_secret(b"the key of these tests")
}

fn identifier(from: impl IntoIterator<Item = Source>) -> Identifier {
    Identifier::new(key(), Sources { from: from.into_iter().collect(), ca_file: None }).unwrap()
}

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    let line = |(name, value): &(&'static str, &str)| {
        (HeaderName::from_static(name), HeaderValue::from_bytes(value.as_bytes()).unwrap())
    };
    lines.iter().map(line).collect()
}

fn refused(sources: Sources) -> SourceError {
    Identifier::new(key(), sources).unwrap_err()
}

#[tokio::test]
async fn the_first_source_that_is_present_counts() {
    let identifier = Identifier::new(key(), Sources::default()).unwrap();
    let who = async |lines: &[(&'static str, &str)]| identifier.identify(&headers(lines)).await.unwrap();

    assert_eq!(who(&[]).await, None);
    assert_eq!(who(&[("cookie", "sid=1")]).await, None);
    let alice = who(&[("authorization", "Bearer alice")]).await;
    assert!(alice.is_some());
    assert_eq!(who(&[("x-api-key", "k"), ("authorization", "Bearer alice")]).await, alice);
    assert_ne!(who(&[("authorization", "Bearer bob")]).await, alice);
    assert_ne!(who(&[("authorization", "bearer alice")]).await, alice);
    let by_key = who(&[("x-api-key", "k")]).await;
    assert!(by_key.is_some());
    assert_eq!(who(&[("x-api-key", "k"), ("authorization", "")]).await, by_key);
}

#[tokio::test]
async fn the_same_value_from_another_source_is_somebody_else() {
    let name = HeaderName::from_static("x");
    let sources = [
        Source::Header(name.clone()),
        Source::Header(HeaderName::from_static("y")),
        Source::Cookie("x".into()),
        Source::Cookie("X".into()),
    ];
    let request = headers(&[("x", "alice"), ("y", "alice"), ("cookie", "x=alice; X=alice")]);
    let mut all = HashSet::new();
    for source in sources {
        all.insert(identifier([source]).identify(&request).await.unwrap().unwrap());
    }
    assert_eq!(all.len(), 4);

    let again = identifier([Source::Header(name)]).identify(&request).await.unwrap().unwrap();
    assert!(all.contains(&again), "the principal does not depend on the identifier that made it");
}

#[tokio::test]
async fn a_source_that_cannot_be_trusted_is_neither_skipped_nor_anonymous() {
    let sources = [Source::Cookie("sid".into()), Source::Header(header::AUTHORIZATION)];
    let request = headers(&[("cookie", "sid=1; sid=2"), ("authorization", "Bearer alice")]);
    assert_eq!(identifier(sources).identify(&request).await, Err(IdentityError::Ambiguous));

    let twice = headers(&[("authorization", "Bearer alice"), ("authorization", "Bearer alice")]);
    let identifier = Identifier::new(key(), Sources::default()).unwrap();
    assert_eq!(identifier.identify(&twice).await, Err(IdentityError::Ambiguous));
}

#[tokio::test]
async fn a_megabyte_of_header_is_an_identity_like_any_other() {
    let identifier = Identifier::new(key(), Sources::default()).unwrap();
    let long = "a".repeat(1024 * 1024);
    let who = async |value: &str| identifier.identify(&headers(&[("authorization", value)])).await.unwrap().unwrap();
    assert_eq!(who(&long).await, who(&long).await);
    assert_ne!(who(&long).await, who(&long[1..]).await);
}

#[tokio::test]
async fn a_session_key_is_the_same_on_every_node() {
    let identifier = identifier([]);
    let alice = key().principal("header", "x", &[b"alice"]);
    assert_eq!(identifier.session_key(Some(&alice), "chat"), key().session_key(Some(&alice), "chat"));
}

#[test]
fn a_source_is_listed_once() {
    let sources = Sources { from: vec![Source::Cookie("sid".into()), Source::Cookie("sid".into())], ca_file: None };
    assert!(matches!(refused(sources), SourceError::Twice(name) if name == "cookie:sid"));
}

#[test]
fn a_cookie_has_a_name() {
    for name in ["", "a b", "a=b", "a;b", "ü"] {
        let sources = Sources { from: vec![Source::Cookie(name.into())], ca_file: None };
        assert!(matches!(refused(sources), SourceError::CookieName(bad) if bad == name));
    }
}
