//! A small HTTP/1.1 client on Pingora's connector, for key sets and sub-requests.

use std::{
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode, header};
use pingora::{
    connectors::{ConnectorOptions, http::v1::Connector},
    http::RequestHeader,
    protocols::http::v1::client::HttpSession,
    upstreams::peer::HttpPeer,
};
use rustls::{
    RootCertStore,
    pki_types::pem::{PemObject, SectionKind},
};
use url::{Host, Url};

use super::SourceError;

/// Longer answers are refused.
const MAX_BODY: usize = 1024 * 1024;

/// Idle connections kept open.
const POOL: usize = 32;

/// Shorter than the keep-alive of common application servers, so that a pooled connection is rarely a dead one.
const POOL_IDLE: Duration = Duration::from_secs(4);

/// How long each of a host's addresses may take to be connected to.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// Fetches one URL at a time; connections are reused.
pub(super) struct Client(Connector);

/// Whether a server gives no usable answers now, so that an outage is logged when it begins and when it ends.
#[derive(Debug, Default)]
pub(super) struct Outage(AtomicBool);

impl Outage {
    /// Notes a failure; true if it is the first.
    pub(super) fn begins(&self) -> bool {
        !self.0.swap(true, Ordering::Relaxed)
    }

    /// Notes a success; true if it is the first after a failure.
    pub(super) fn ends(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

/// A complete answer.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
}

/// Why no complete answer came.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    /// The whole exchange took longer than allowed.
    #[error("no complete answer in time")]
    Timeout,
    /// The host name has no address.
    #[error("the host name does not resolve")]
    Resolve(#[source] std::io::Error),
    /// No connection, or no trust in the server's certificate.
    #[error("no connection: {0}")]
    Connect(#[source] Box<pingora::Error>),
    /// The connection broke, or what came over it is not HTTP.
    #[error("the exchange broke off: {0}")]
    Exchange(#[source] Box<pingora::Error>),
    /// The body exceeds 1 MiB.
    #[error("the answer is longer than 1 MiB")]
    TooLong,
}

impl Client {
    /// `ca_file` (PEM) replaces the system's trusted authorities.
    pub(super) fn new(ca_file: Option<&Path>) -> Result<Self, SourceError> {
        let mut options = ConnectorOptions::new(POOL);
        if let Some(path) = ca_file {
            options.ca_file = Some(checked_authorities(path)?);
        }
        Ok(Self(Connector::new(Some(options))))
    }

    /// Sends a GET and reads the answer whole. Redirects are answers like any other: they are not followed.
    pub(super) async fn get(&self, url: &Url, headers: &HeaderMap, timeout: Duration) -> Result<Answer, FetchError> {
        tokio::time::timeout(timeout, self.any_address(url, headers)).await.map_err(|_| FetchError::Timeout)?
    }

    /// Tries the host's addresses in turn until one can be connected to.
    async fn any_address(&self, url: &Url, headers: &HeaderMap) -> Result<Answer, FetchError> {
        let host = match url.host() {
            Some(Host::Ipv6(address)) => address.to_string(),
            Some(host) => host.to_string(),
            None => String::new(),
        };
        let port = url.port_or_known_default().unwrap_or_default();
        let addresses = tokio::net::lookup_host((host.as_str(), port)).await.map_err(FetchError::Resolve)?;
        let mut failure = FetchError::Resolve(std::io::ErrorKind::NotFound.into());
        for address in addresses {
            // The name must be given even where it is an address: without one Pingora verifies no certificate.
            let mut peer = HttpPeer::new(address, url.scheme() == "https", host.clone());
            peer.options.total_connection_timeout = Some(CONNECT_TIMEOUT);
            match self.exchange(&peer, url, headers).await {
                Err(error @ FetchError::Connect(_)) => failure = error,
                result => return result,
            }
        }
        Err(failure)
    }

    async fn exchange(&self, peer: &HttpPeer, url: &Url, headers: &HeaderMap) -> Result<Answer, FetchError> {
        loop {
            let (mut session, reused) = self.0.get_http_session(peer).await.map_err(FetchError::Connect)?;
            match converse(&mut session, url, headers).await {
                Ok(answer) => {
                    self.0.release_http_session(session, peer, Some(POOL_IDLE)).await;
                    return Ok(answer);
                }
                // The server had closed the pooled connection; a GET may be sent again.
                Err(FetchError::Exchange(_)) if reused => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// One request and its answer on an open connection.
async fn converse(session: &mut HttpSession, url: &Url, headers: &HeaderMap) -> Result<Answer, FetchError> {
    let request = request(url, headers).map_err(FetchError::Exchange)?;
    session.write_request_header(Box::new(request)).await.map_err(FetchError::Exchange)?;
    session.finish_body().await.map_err(FetchError::Exchange)?;
    loop {
        session.read_response().await.map_err(FetchError::Exchange)?;
        if !session.get_status().is_some_and(|status| status.is_informational()) {
            break;
        }
    }
    let head = session.resp_header().expect("a response was read");
    let (status, headers) = (head.status, head.headers.clone());
    let mut body = BytesMut::new();
    while let Some(piece) = session.read_body_bytes().await.map_err(FetchError::Exchange)? {
        if body.len() + piece.len() > MAX_BODY {
            return Err(FetchError::TooLong);
        }
        body.extend_from_slice(&piece);
    }
    Ok(Answer { status, headers, body: body.freeze() })
}

fn request(url: &Url, headers: &HeaderMap) -> pingora::Result<RequestHeader> {
    let target = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let host = &url[url::Position::BeforeHost..url::Position::AfterPort];
    let mut request = RequestHeader::build("GET", target.as_bytes(), None)?;
    request.insert_header(header::HOST, host)?;
    request.insert_header(header::USER_AGENT, concat!("holdover/", env!("CARGO_PKG_VERSION")))?;
    request.insert_header(header::ACCEPT_ENCODING, "identity")?;
    for (name, value) in headers {
        request.append_header(name.clone(), value.clone())?;
    }
    Ok(request)
}

/// Reads the file once before Pingora does, which would panic over a bad one.
fn checked_authorities(path: &Path) -> Result<String, SourceError> {
    let unusable = |reason: String| SourceError::Authorities { path: path.to_owned(), reason };
    let sections: Vec<(SectionKind, Vec<u8>)> =
        PemObject::pem_file_iter(path).and_then(Iterator::collect).map_err(|error| unusable(error.to_string()))?;
    if sections.is_empty() {
        return Err(unusable("it holds no certificate".to_owned()));
    }
    let mut store = RootCertStore::empty();
    for (kind, der) in sections {
        if kind != SectionKind::Certificate {
            return Err(unusable("it holds something that is not a certificate".to_owned()));
        }
        store.add(der.into()).map_err(|error| unusable(error.to_string()))?;
    }
    path.to_str().map(str::to_owned).ok_or_else(|| unusable("its path is not UTF-8".to_owned()))
}
