//! A request as a profile looks at it: read-only, and without the connection it came on.

use std::{borrow::Cow, sync::OnceLock};

use bytes::Bytes;
use http::{HeaderMap, Method};
use percent_encoding::percent_decode_str;
use pingora::http::RequestHeader;
use serde_json::Value as Json;

use crate::config::{PathParams, ReplayFinished, Route};

/// See the module.
#[derive(Debug)]
pub struct Request {
    head: RequestHeader,
    params: PathParams,
    replay_finished: ReplayFinished,
    body: Option<Bytes>,
    /// The body, read when a profile first asks.
    json: OnceLock<Option<Json>>,
}

impl Request {
    /// A request on `route` whose body has not been read.
    pub fn new(head: RequestHeader, params: PathParams, route: &Route) -> Self {
        Self { head, params, replay_finished: route.replay_finished, body: None, json: OnceLock::new() }
    }

    /// The same with its whole body.
    pub fn with_body(self, body: Option<Bytes>) -> Self {
        Self { body, json: OnceLock::new(), ..self }
    }

    /// The method.
    pub fn method(&self) -> &Method {
        &self.head.method
    }

    /// The path, as it was sent.
    pub fn path(&self) -> &str {
        self.head.uri.path()
    }

    /// Path and query, as they were sent.
    pub fn target(&self) -> &str {
        self.head.uri.path_and_query().map_or("/", |target| target.as_str())
    }

    /// All headers.
    pub fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    /// A header that is text.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.headers.get(name)?.to_str().ok()
    }

    /// The first query parameter of this name, decoded.
    pub fn query(&self, name: &str) -> Option<String> {
        let query = self.head.uri.query()?;
        url::form_urlencoded::parse(query.as_bytes()).find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
    }

    /// What the route's path pattern captured under this name.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.get(name)
    }

    /// The last segments of the path, if they are these; `*` takes any one segment that is not empty, and its value is
    /// given back, percent-decoded.
    ///
    /// `["threads", "*", "runs", "*", "stream"]` gives the thread and the run of `/api/threads/t1/runs/r1/stream`.
    pub fn path_ends<const N: usize>(&self, pattern: [&str; N]) -> Option<Vec<String>> {
        let mut given = self.path().rsplit('/');
        let mut captured = Vec::new();
        for wanted in pattern.iter().rev() {
            let segment: Cow<'_, str> = percent_decode_str(given.next()?).decode_utf8_lossy();
            match *wanted {
                "*" if !segment.is_empty() => captured.push(segment.into_owned()),
                literal if *literal == segment => {}
                _ => return None,
            }
        }
        captured.reverse();
        Some(captured)
    }

    /// The whole body, where it was read: not if it is large or its length was not said.
    pub fn body(&self) -> Option<&Bytes> {
        self.body.as_ref()
    }

    /// The body as JSON, if it is that.
    pub fn json(&self) -> Option<&Json> {
        let read = || serde_json::from_slice(self.body.as_ref()?).ok();
        self.json.get_or_init(read).as_ref()
    }

    /// A string in the JSON body, or a number as it is written. `pointer` as in RFC 6901.
    pub fn text_at(&self, pointer: &str) -> Option<String> {
        match self.json()?.pointer(pointer)? {
            Json::String(text) => Some(text.clone()),
            Json::Number(number) => Some(number.to_string()),
            _ => None,
        }
    }

    /// Whether the client says that it takes an event stream.
    pub fn accepts_event_stream(&self) -> bool {
        let accepted = self.headers().get_all(http::header::ACCEPT).iter();
        accepted.filter_map(|value| value.to_str().ok()).any(|value| value.contains("text/event-stream"))
    }

    /// The route's setting of this name.
    pub fn replay_finished(&self) -> ReplayFinished {
        self.replay_finished
    }
}

#[cfg(test)]
impl Request {
    /// A request for tests of profiles.
    pub(crate) fn of(method: &str, target: &str, headers: &[(&'static str, &str)], body: &str) -> Self {
        let mut head = RequestHeader::build(method, target.as_bytes(), None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        let body = Bytes::copy_from_slice(body.as_bytes());
        Self::new(head, PathParams::default(), &Route::default()).with_body(Some(body))
    }

    /// The same on another route.
    pub(crate) fn on(self, route: &Route) -> Self {
        Self { replay_finished: route.replay_finished, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_path_is_taken_apart() {
        let request = Request::of("GET", "/api/threads/t%201/runs/r/stream?x=1", &[], "");
        assert_eq!(request.path_ends(["threads", "*", "runs", "*", "stream"]), Some(vec!["t 1".into(), "r".into()]));
        assert_eq!(request.path_ends(["*", "stream"]), Some(vec!["r".into()]));
        assert_eq!(request.path_ends(["*", "join"]), None);
        assert_eq!(Request::of("GET", "/stream", &[], "").path_ends(["*", "stream"]), None);
    }

    #[test]
    fn a_body_is_read_as_json_where_it_is_that() {
        let request = Request::of("POST", "/", &[], r#"{"id":"c1","n":[{"x":7}]}"#);
        assert_eq!(request.text_at("/id").as_deref(), Some("c1"));
        assert_eq!(request.text_at("/n/0/x").as_deref(), Some("7"));
        assert_eq!(request.text_at("/n"), None);
        assert_eq!(Request::of("POST", "/", &[], "{").json(), None);
    }
}
