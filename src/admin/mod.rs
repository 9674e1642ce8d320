//! The operator's listener: liveness, readiness and metrics. Keep it off public networks.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use http::{Response, StatusCode, header};
use pingora::{apps::http_app::ServeHttp, protocols::http::ServerSession};
use serde_json::json;

use crate::{node::Node, proxy::Upstreams};

/// Answers operators and Prometheus.
pub struct Admin {
    node: Arc<Node>,
    upstreams: Arc<Upstreams>,
    /// Whether turns can be told apart by who started them, on all nodes alike.
    identity_ready: Arc<AtomicBool>,
}

impl Admin {
    /// An admin page of this node.
    pub fn new(node: Arc<Node>, upstreams: Arc<Upstreams>, identity_ready: Arc<AtomicBool>) -> Self {
        Self { node, upstreams, identity_ready }
    }

    /// Whether traffic should come here, check by check.
    async fn ready(&self) -> Response<Vec<u8>> {
        let draining = self.node.draining();
        let store = self.node.store().health().await;
        let backends = self.upstreams.health();
        let reachable = self.upstreams.ready();
        let identity = self.identity_ready.load(Ordering::Relaxed);
        let listed: Vec<_> = backends
            .iter()
            .map(|backend| json!({ "backend": backend.backend, "ok": backend.healthy, "detail": backend.detail }))
            .collect();
        let ready = !draining && store.ok && reachable && identity;
        let body = json!({
            "ready": ready,
            "checks": {
                "drain": { "ok": !draining, "detail": if draining { "shutting down: no new turns" } else { "not draining" } },
                "store": { "ok": store.ok, "detail": store.detail },
                "upstream": { "ok": reachable, "backends": listed },
                "identity": {
                    "ok": identity,
                    "detail": if identity { "the key is known" } else { "the store has not given the shared key yet; set identity.secret to be independent of it" },
                },
            },
        });
        let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        answer(status, "application/json", body.to_string().into_bytes())
    }

    fn metrics(&self) -> Response<Vec<u8>> {
        let metrics = self.node.metrics();
        metrics.buffered_bytes.set(self.node.budget().used().try_into().unwrap_or(i64::MAX));
        answer(StatusCode::OK, prometheus::TEXT_FORMAT, metrics.page())
    }
}

#[async_trait]
impl ServeHttp for Admin {
    async fn response(&self, session: &mut ServerSession) -> Response<Vec<u8>> {
        let request = session.req_header();
        if request.method != http::Method::GET && request.method != http::Method::HEAD {
            return answer(StatusCode::METHOD_NOT_ALLOWED, "text/plain", b"GET or HEAD only\n".to_vec());
        }
        match request.uri.path() {
            "/livez" => answer(StatusCode::OK, "text/plain", b"ok\n".to_vec()),
            "/readyz" => self.ready().await,
            "/metrics" => self.metrics(),
            _ => answer(StatusCode::NOT_FOUND, "text/plain", b"/livez, /readyz and /metrics are here\n".to_vec()),
        }
    }
}

fn answer(status: StatusCode, content_type: &str, body: Vec<u8>) -> Response<Vec<u8>> {
    Response::builder()
        .status(status)
        .header(header::CONTENT_TYPE, content_type)
        .header(header::CONTENT_LENGTH, Bytes::from(body.len().to_string()).as_ref())
        .header(header::CACHE_CONTROL, "no-store")
        .body(body)
        .expect("the header is valid")
}
