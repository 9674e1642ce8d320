//! The backend.

use std::{fmt, path::PathBuf, time::Duration};

use url::{Host, Url};

use super::{
    section::{Leaf, Wrong, choice, section},
    text::{DAY, MILLISECOND, MINUTE, quoted},
    tree::Value,
};

section! {
    /// The backend that answers.
    pub struct Upstream {
        /// One backend or a list of equal ones, each `http://host[:port]` or `https://host[:port]`. At least one is
        /// needed. May also be written `urls`.
        pub urls as "url": Vec<Backend> = Vec::new(),
        /// How long connecting, TLS included, may take. Longer counts as a failed attempt.
        pub connect_timeout: Duration = Duration::from_secs(3); MILLISECOND..=MINUTE * 5,
        /// How long the backend may take to its response head. Longer is answered 504. Requests that cannot become turns
        /// (routes with `record = false`, HEAD, OPTIONS, ranges) know one clock only, for head and body alike: the
        /// longer of this and `read_timeout`, and none where the latter is off.
        pub response_header_timeout: Duration = MINUTE * 5; MILLISECOND..=DAY,
        /// How long the body of an answer that is not recorded may be silent before it is cut; `off` never cuts.
        /// For recorded answers see `max_silence` of the route.
        pub read_timeout: Option<Duration> = None; MILLISECOND..=DAY,
        /// How long an idle backend connection is kept for reuse. Keep it below the backend's own keep-alive, or a
        /// request may meet a connection that is just being closed.
        pub pool_idle_timeout: Duration = Duration::from_secs(4); MILLISECOND..=MINUTE * 60,
        /// Speak HTTP/2 to the backend: by ALPN with https, with prior knowledge (h2c) with http.
        pub http2: bool = false,
        /// Which `Host` the backend sees: `preserve` passes on the client's, `upstream` sends the one in `url`.
        pub host: HostHeader = HostHeader::Preserve,
        /// PEM file of certificate authorities to trust for https instead of the system's.
        pub ca: Option<PathBuf> = None,
        /// Check the certificate of an https backend. `false` lets anybody in between read and answer.
        pub verify: bool = true,
        /// How often host names are resolved anew; `off` resolves once at start.
        pub dns_refresh: Option<Duration> = Some(Duration::from_secs(10)); MILLISECOND * 100..=DAY,
        /// How often each backend is checked by connecting to it; a failing one gets no requests. `off` checks none.
        pub health_check_interval: Option<Duration> = Some(Duration::from_secs(5)); MILLISECOND * 100..=DAY,
        /// How often a request is tried again when no connection could be made. A request that may have reached the
        /// backend is never sent twice.
        pub max_retries: u32 = 1; ..=10,
    }
}

choice! {
    /// Which `Host` header the backend sees.
    pub enum HostHeader {
        /// The client's.
        Preserve = "preserve",
        /// The backend's own, as in its URL.
        Upstream = "upstream",
    }
}

/// Where one backend listens. Displayed as its URL.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Backend {
    /// Whether it is spoken to over TLS.
    pub tls: bool,
    /// Name or address; an IPv6 address stands without brackets.
    pub host: String,
    /// Port; 80 or 443 unless the URL names one.
    pub port: u16,
}

impl Backend {
    /// What stands in the `Host` header: the port only if it is not the scheme's own, IPv6 in brackets.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == if self.tls { 443 } else { 80 } { host } else { format!("{host}:{}", self.port) }
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "http{}://{}", if self.tls { "s" } else { "" }, self.authority())
    }
}

impl Leaf for Backend {
    const EXPECTED: &'static str = "an address such as \"http://127.0.0.1:8000\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        let text = value.text()?.trim();
        let url = Url::parse(text).map_err(|_| Wrong::kind())?;
        let tls = match url.scheme() {
            "http" => false,
            "https" => true,
            // `localhost:8000` is read as the scheme `localhost`.
            _ if !text.contains("://") => {
                return Err(Wrong::new("the scheme is missing").help("write \"http://host:port\""));
            }
            _ => return Err(Wrong::new("the scheme is not known here").help("write http:// or https://")),
        };
        let host = match url.host() {
            Some(Host::Domain(name)) => name.to_owned(),
            Some(Host::Ipv4(address)) => address.to_string(),
            Some(Host::Ipv6(address)) => address.to_string(),
            None => return Err(Wrong::kind()),
        };
        let port = url.port().unwrap_or(if tls { 443 } else { 80 });
        let backend = Self { tls, host, port };
        let bare = url.path() == "/" && url.query().is_none() && url.fragment().is_none();
        if !bare || !url.username().is_empty() || url.password().is_some() {
            return Err(Wrong::new("a backend has no path, query or user: requests keep their own")
                .help(format!("write \"{backend}\"")));
        }
        if port == 0 {
            return Err(Wrong::new("nothing can be reached at port 0"));
        }
        Ok(backend)
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}
