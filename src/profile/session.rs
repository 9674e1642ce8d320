//! Finds the session (chat, thread, conversation) of a request where the route says it stands.

use bytes::Bytes;
use futures_util::stream;
use http::header;

use super::Request;
use crate::config::SessionSource;

/// Longest session name that is taken. Whatever is longer is not a name.
const MAX_NAME: usize = 1024;

/// The name of the request's session: where `source` says, or where its profile finds it. `None` if it has none there.
pub async fn session_name(
    source: Option<&SessionSource>,
    profile: &dyn super::Profile,
    request: &Request,
) -> Option<String> {
    let name = match source {
        None => profile.session(request),
        Some(SessionSource::Body(pointer)) => request.text_at(pointer),
        Some(SessionSource::Path(name)) => request.param(name).map(str::to_owned),
        Some(SessionSource::Query(name)) => request.query(name),
        Some(SessionSource::Header(name)) => {
            str::from_utf8(request.headers().get(name)?.as_bytes()).ok().map(str::to_owned)
        }
        Some(SessionSource::Cookie(name)) => in_cookies(request, name),
        Some(SessionSource::Multipart(name)) => in_multipart(request, request.body()?, name).await,
    };
    name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME)
}

fn in_cookies(request: &Request, name: &str) -> Option<String> {
    let lines =
        request.headers().get_all(header::COOKIE).iter().filter_map(|line| str::from_utf8(line.as_bytes()).ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

async fn in_multipart(request: &Request, body: &Bytes, name: &str) -> Option<String> {
    let content_type = request.headers().get(header::CONTENT_TYPE)?.to_str().ok()?;
    let boundary = multer::parse_boundary(content_type).ok()?;
    let body = body.clone();
    let mut form = multer::Multipart::new(stream::once(async move { Ok::<_, std::io::Error>(body) }), boundary);
    while let Ok(Some(field)) = form.next_field().await {
        if field.name() == Some(name) {
            return field.text().await.ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::profile::named;

    async fn find(source: SessionSource, target: &str, headers: &[(&'static str, &str)], body: &str) -> Option<String> {
        session_name(Some(&source), named("generic"), &Request::of("POST", target, headers, body)).await
    }

    #[tokio::test]
    async fn it_is_found_wherever_the_route_says() {
        let plain = [("x-thread", "h"), ("cookie", "a=1; chat=c1; b=2")];
        let found = async |source, body| find(source, "/chat?thread=t%201&x=2", &plain, body).await.unwrap();
        assert_eq!(found(SessionSource::Body("/a/0/id".into()), r#"{"a":[{"id":"j"}]}"#).await, "j");
        assert_eq!(found(SessionSource::Body("/id".into()), r#"{"id":42}"#).await, "42");
        assert_eq!(found(SessionSource::Query("thread".into()), "").await, "t 1");
        assert_eq!(found(SessionSource::Header("x-thread".try_into().unwrap()), "").await, "h");
        assert_eq!(found(SessionSource::Cookie("chat".into()), "").await, "c1");
        let form = [("content-type", "multipart/form-data; boundary=XX")];
        let body = "--XX\r\ncontent-disposition: form-data; name=\"chat\"\r\n\r\nm1\r\n--XX--\r\n";
        assert_eq!(find(SessionSource::Multipart("chat".into()), "/chat", &form, body).await.unwrap(), "m1");
    }

    #[tokio::test]
    async fn what_is_no_name_is_none() {
        let plain = [("content-type", "multipart/form-data")];
        let found = async |source, body: &str| find(source, "/chat", &plain, body).await;
        for body in ["", "{", "[]", r#"{"id":null}"#, r#"{"id":{}}"#, r#"{"id":""}"#, "\u{0}"] {
            assert_eq!(found(SessionSource::Body("/id".into()), body).await, None, "{body:?}");
        }
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_NAME + 1));
        assert_eq!(found(SessionSource::Body("/id".into()), &long).await, None);
        assert_eq!(found(SessionSource::Multipart("id".into()), "--x").await, None);
    }
}
