//! The proxy as an application of its listener, with a deadline for request heads.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use pingora::{
    apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream},
    protocols::http::ServerSession,
    proxy::HttpProxy,
};
use tokio::{sync::watch, time::sleep};

use super::Gateway;

tokio::task_local! {
    /// Whether the head of the request that this task serves is there.
    static HEAD: Arc<AtomicBool>;
}

/// Pingora bounds the time between two reads of a head, and not the whole: a client that sends a byte now and then would
/// hold a connection for ever.
pub struct Front {
    proxy: Arc<HttpProxy<Gateway>>,
    header_timeout: Duration,
}

impl Front {
    /// `header_timeout`: how long a request head may take, once its connection is idle no more.
    pub fn new(proxy: HttpProxy<Gateway>, header_timeout: Duration) -> Self {
        Self { proxy: Arc::new(proxy), header_timeout }
    }
}

/// What a connection that was used before carries, so that it can be told from a new one.
pub(super) struct UsedBefore;

/// The head of this task's request is there.
pub(super) fn head_arrived() {
    let _ = HEAD.try_with(|there| there.store(true, Ordering::Relaxed));
}

#[async_trait]
impl HttpServerApp for Front {
    async fn process_new_http(
        self: &Arc<Self>,
        mut session: ServerSession,
        shutdown: &watch::Receiver<bool>,
    ) -> Option<ReusedHttpStream> {
        // A connection that is used again may be idle before its next request; a new one has sent something already.
        let again = session.take_connection_user_context().is_some();
        let idle = session.get_keepalive().filter(|_| again).map_or(Duration::ZERO, Duration::from_secs);
        if !again {
            session.set_keepalive(Some(self.header_timeout.as_secs().max(1)));
        }
        let limit = idle + self.header_timeout;
        let there = Arc::new(AtomicBool::new(false));
        let served = HEAD.scope(there.clone(), self.proxy.process_new_http(session, shutdown));
        tokio::pin!(served);
        tokio::select! {
            reused = &mut served => return reused,
            () = sleep(limit) => {}
        }
        // Nobody is told: what has come so far is no request that could be answered.
        if there.load(Ordering::Relaxed) { served.await } else { None }
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options.as_ref()
    }

    async fn http_cleanup(&self) {
        self.proxy.http_cleanup().await;
    }
}
