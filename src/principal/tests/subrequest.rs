use std::time::Duration;

use url::Url;

use super::{
    super::responder::{Responder, reply},
    *,
};

/// A backend that knows alice by two tokens and by a cookie, and fails on demand.
async fn backend() -> Responder {
    Responder::start(|head| {
        let head = head.to_ascii_lowercase();
        let user = |name: &str| reply("204 No Content", &format!("x-user: {name}\r\n"), "");
        if head.contains("authorization: bearer alice") || head.contains("sid=alice") {
            user("alice")
        } else if head.contains("authorization: bearer bob") {
            user("bob")
        } else if head.contains("authorization: guest") {
            reply("200 OK", "", "no name")
        } else if head.contains("authorization: twin") {
            reply("200 OK", "x-user: a\r\nx-user: b\r\n", "")
        } else if head.contains("authorization: status") {
            let status = head.split("authorization: status ").nth(1).unwrap().lines().next().unwrap();
            reply(&format!("{status} Whatever"), "location: /login\r\nx-user: alice\r\n", "")
        } else if head.contains("authorization: hang") {
            "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n".to_owned()
        } else {
            reply("401 Unauthorized", "", "who are you?")
        }
    })
    .await
}

fn settings(backend: &Responder) -> SubrequestSettings {
    SubrequestSettings {
        timeout: Duration::from_secs(10),
        cache: Duration::from_secs(3600),
        ..SubrequestSettings::new(backend.url("/"), "/me?brief=1")
    }
}

fn named(backend: &Responder) -> SubrequestSettings {
    SubrequestSettings { identity_header: Some(HeaderName::from_static("x-user")), ..settings(backend) }
}

async fn who(identifier: &Identifier, authorization: &str) -> Result<Option<Principal>, IdentityError> {
    identifier.identify(&headers(&[("authorization", authorization)])).await
}

#[tokio::test]
async fn the_copied_headers_are_the_identity_once_the_backend_accepts_them() {
    let backend = backend().await;
    let identifier = identifier([Source::Subrequest(settings(&backend))]);
    assert_eq!(identifier.identify(&headers(&[("x-other", "1")])).await, Ok(None));
    assert_eq!(identifier.identify(&headers(&[("authorization", ""), ("cookie", " ")])).await, Ok(None));
    assert!(backend.heads().is_empty(), "without credentials there is nothing to ask");

    let alice = who(&identifier, "Bearer alice 1").await.unwrap().unwrap();
    assert_ne!(who(&identifier, "Bearer alice 2").await, Ok(Some(alice)));
    let with_cookie = headers(&[("authorization", "Bearer alice 1"), ("cookie", "a=b")]);
    assert_ne!(identifier.identify(&with_cookie).await, Ok(Some(alice)));
    assert_eq!(who(&identifier, "Bearer mallory").await, Err(IdentityError::Unauthorized));

    let head = &backend.heads()[0];
    assert!(head.starts_with("GET /me?brief=1 HTTP/1.1\r\n"), "{head}");
}

#[tokio::test]
async fn only_the_configured_headers_go_to_the_backend() {
    let backend = backend().await;
    let identifier = identifier([Source::Subrequest(settings(&backend))]);
    let mut request = headers(&[("authorization", "Bearer alice"), ("x-secret", "hunter2"), ("content-length", "5")]);
    request.append(header::COOKIE, HeaderValue::from_static("a=b"));
    request.append(header::COOKIE, HeaderValue::from_static("c=d"));
    assert!(identifier.identify(&request).await.is_ok());
    let head = backend.heads()[0].to_ascii_lowercase();
    assert!(!head.contains("hunter2") && !head.contains("content-length"), "{head}");
    assert_eq!(head.matches("cookie:").count(), 1, "{head}");
    assert!(head.contains("\r\ncookie: a=b; c=d\r\n"), "{head}");
}

#[tokio::test]
async fn the_name_the_backend_gives_outlives_rotated_tokens() {
    let backend = backend().await;
    let identifier = identifier([Source::Subrequest(named(&backend))]);
    let alice = who(&identifier, "Bearer alice 1").await.unwrap();
    assert!(alice.is_some());
    assert_eq!(who(&identifier, "Bearer alice 2").await.unwrap(), alice);
    assert_eq!(identifier.identify(&headers(&[("cookie", "sid=alice")])).await.unwrap(), alice);
    assert_ne!(who(&identifier, "Bearer bob").await.unwrap(), alice);
    assert_eq!(who(&identifier, "guest").await, Err(IdentityError::Unauthorized), "accepted, but nobody by name");
    assert_eq!(who(&identifier, "twin").await, Err(IdentityError::Unauthorized));
}

#[tokio::test]
async fn a_name_from_the_backend_is_not_a_name_from_the_client() {
    let backend = backend().await;
    let by_backend = who(&identifier([Source::Subrequest(named(&backend))]), "Bearer alice").await.unwrap();
    let user = identifier([Source::Header(HeaderName::from_static("x-user"))]);
    assert_ne!(user.identify(&headers(&[("x-user", "alice")])).await.unwrap(), by_backend);
}

#[tokio::test]
async fn an_answer_is_believed_for_its_time() {
    let backend = backend().await;
    let remembering = identifier([Source::Subrequest(settings(&backend))]);
    let alice = who(&remembering, "Bearer alice").await;
    for _ in 0..5 {
        assert_eq!(who(&remembering, "Bearer alice").await, alice);
    }
    assert_eq!(backend.heads().len(), 1);

    let forgetful = SubrequestSettings { cache: Duration::ZERO, ..settings(&backend) };
    let forgetful = identifier([Source::Subrequest(forgetful)]);
    for _ in 0..5 {
        assert_eq!(who(&forgetful, "Bearer alice").await, alice);
        assert_eq!(who(&forgetful, "Bearer mallory").await, Err(IdentityError::Unauthorized));
    }
    assert_eq!(backend.heads().len(), 11);
}

#[tokio::test]
async fn a_refusal_is_believed_for_a_moment_only() {
    let accepts = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let accepting = Arc::clone(&accepts);
    let backend = Responder::start(move |_| match accepting.load(std::sync::atomic::Ordering::SeqCst) {
        true => reply("204 No Content", "", ""),
        false => reply("403 Forbidden", "", ""),
    })
    .await;
    let identifier = identifier([Source::Subrequest(settings(&backend))]);
    assert_eq!(who(&identifier, "Bearer alice").await, Err(IdentityError::Unauthorized));
    accepts.store(true, std::sync::atomic::Ordering::SeqCst);
    let login = tokio::time::timeout(Duration::from_secs(10), async {
        while who(&identifier, "Bearer alice").await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    login.await.expect("a login is noticed");
    assert_eq!(backend.heads().len(), 2, "the refusal was not asked for again while it was believed");
}

#[tokio::test]
async fn only_2xx_is_a_yes_and_a_failing_backend_is_no_answer() {
    let backend = backend().await;
    let settings = SubrequestSettings { timeout: Duration::from_millis(200), ..settings(&backend) };
    let identifier = identifier([Source::Subrequest(settings)]);
    for status in ["301", "302", "304", "400", "401", "403", "404"] {
        let answer = who(&identifier, &format!("status {status}")).await;
        assert_eq!(answer, Err(IdentityError::Unauthorized), "{status}");
    }
    for status in ["429", "500", "502", "503"] {
        let answer = who(&identifier, &format!("status {status}")).await;
        assert_eq!(answer, Err(IdentityError::Unavailable), "{status}");
    }
    assert_eq!(who(&identifier, "hang").await, Err(IdentityError::Unavailable));
    backend.stop().await;
    assert_eq!(who(&identifier, "Bearer alice").await, Err(IdentityError::Unavailable));
}

#[test]
fn credentials_go_nowhere_but_to_the_configured_backend() {
    let base: Url = "http://127.0.0.1:8000/app/".parse().unwrap();
    let refused = |settings| refused(Sources { from: vec![Source::Subrequest(settings)], ca_file: None });
    for path in ["//elsewhere.example/me", "http://elsewhere.example/me", "me", "", "/\\elsewhere.example"] {
        let error = refused(SubrequestSettings::new(base.clone(), path));
        assert!(matches!(error, SourceError::Path(_)), "{path}: {error}");
    }
    let twice = header::COOKIE;
    for name in [header::HOST, header::CONTENT_LENGTH, header::TRANSFER_ENCODING, header::CONNECTION, twice] {
        let headers = vec![header::COOKIE, name];
        let error = refused(SubrequestSettings { headers, ..SubrequestSettings::new(base.clone(), "/me") });
        assert!(matches!(error, SourceError::CopiedHeaders(_)), "{error}");
    }
    let none = SubrequestSettings { headers: Vec::new(), ..SubrequestSettings::new(base, "/me") };
    assert!(matches!(refused(none), SourceError::CopiedHeaders(_)));
}
