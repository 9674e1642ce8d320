//! Finds the session (chat, thread, conversation) of a request where the route says it stands.

use bytes::Bytes;
use futures_util::stream;
use http::header;
use pingora::http::RequestHeader;

use crate::config::{PathParams, SessionSource};

/// Longest session name that is taken. Whatever is longer is not a name.
const MAX_NAME: usize = 1024;

/// The name of the request's session; `None` if it has none there. `body` is the whole request body, where it was read.
pub async fn session_name(
    source: &SessionSource,
    request: &RequestHeader,
    path: &PathParams,
    body: Option<&Bytes>,
) -> Option<String> {
    let name = match source {
        SessionSource::Body(pointer) => in_json(body?, pointer),
        SessionSource::Path(name) => path.get(name).map(str::to_owned),
        SessionSource::Query(name) => url::form_urlencoded::parse(request.uri.query()?.as_bytes())
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.into_owned()),
        SessionSource::Header(name) => str::from_utf8(request.headers.get(name)?.as_bytes()).ok().map(str::to_owned),
        SessionSource::Cookie(name) => in_cookies(request, name),
        SessionSource::Multipart(name) => in_multipart(request, body?, name).await,
    };
    name.filter(|name| !name.is_empty() && name.len() <= MAX_NAME)
}

/// A string, or a number as it is written.
fn in_json(body: &Bytes, pointer: &str) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(body).ok()?;
    match document.pointer(pointer)? {
        serde_json::Value::String(text) => Some(text.clone()),
        serde_json::Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn in_cookies(request: &RequestHeader, name: &str) -> Option<String> {
    let lines = request.headers.get_all(header::COOKIE).iter().filter_map(|line| str::from_utf8(line.as_bytes()).ok());
    let mut pairs = lines.flat_map(|line| line.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
}

async fn in_multipart(request: &RequestHeader, body: &Bytes, name: &str) -> Option<String> {
    let content_type = request.headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
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

    fn request(path: &str, headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut request = RequestHeader::build("POST", path.as_bytes(), None).unwrap();
        for (name, value) in headers {
            request.append_header(*name, *value).unwrap();
        }
        request
    }

    async fn find(source: SessionSource, request: &RequestHeader, body: &str) -> Option<String> {
        session_name(&source, request, &PathParams::default(), Some(&Bytes::copy_from_slice(body.as_bytes()))).await
    }

    #[tokio::test]
    async fn it_is_found_wherever_the_route_says() {
        let plain = request("/chat?thread=t%201&x=2", &[("x-thread", "h"), ("cookie", "a=1; chat=c1; b=2")]);
        assert_eq!(find(SessionSource::Body("/a/0/id".into()), &plain, r#"{"a":[{"id":"j"}]}"#).await.unwrap(), "j");
        assert_eq!(find(SessionSource::Body("/id".into()), &plain, r#"{"id":42}"#).await.unwrap(), "42");
        assert_eq!(find(SessionSource::Query("thread".into()), &plain, "").await.unwrap(), "t 1");
        assert_eq!(find(SessionSource::Header("x-thread".try_into().unwrap()), &plain, "").await.unwrap(), "h");
        assert_eq!(find(SessionSource::Cookie("chat".into()), &plain, "").await.unwrap(), "c1");
        let form = request("/chat", &[("content-type", "multipart/form-data; boundary=XX")]);
        let body = "--XX\r\ncontent-disposition: form-data; name=\"chat\"\r\n\r\nm1\r\n--XX--\r\n";
        assert_eq!(find(SessionSource::Multipart("chat".into()), &form, body).await.unwrap(), "m1");
    }

    #[tokio::test]
    async fn what_is_no_name_is_none() {
        let plain = request("/chat", &[("content-type", "multipart/form-data")]);
        for body in ["", "{", "[]", r#"{"id":null}"#, r#"{"id":{}}"#, r#"{"id":""}"#, "\u{0}"] {
            assert_eq!(find(SessionSource::Body("/id".into()), &plain, body).await, None, "{body:?}");
        }
        let long = format!(r#"{{"id":"{}"}}"#, "x".repeat(MAX_NAME + 1));
        assert_eq!(find(SessionSource::Body("/id".into()), &plain, &long).await, None);
        assert_eq!(find(SessionSource::Multipart("id".into()), &plain, "--x").await, None);
    }
}
