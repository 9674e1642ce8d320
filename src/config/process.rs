//! The sections about this process: listeners, limits, log, drain.

use std::{net::SocketAddr, time::Duration};

use super::{
    section::{choice, section},
    text::{Cidr, DAY, MILLISECOND, MINUTE},
};

section! {
    /// Where clients connect.
    pub struct Listen {
        /// Address and port of the public listener; HTTP/1.1 and HTTP/2 with prior knowledge.
        pub public: SocketAddr = SocketAddr::from(([0, 0, 0, 0], 8080)),
        /// Path under which Holdover answers by itself (turns, sessions, ). Such requests never reach the
        /// backend, so choose a path the backend does not use.
        pub base_path: String = "/.holdover".to_owned(),
        /// Networks whose `X-Forwarded-*` headers are believed and extended, as addresses or CIDR blocks. From anybody
        /// else these headers are replaced.
        pub trusted_proxies: Vec<Cidr> = Vec::new(),
        /// Largest request head (request line and headers together). More is answered 431.
        pub max_header_bytes: usize = 64 << 10; 4 << 10..=1 << 20,
        /// How long a client may take to send a request head. Slower is answered 408.
        pub header_timeout: Duration = Duration::from_secs(30); MILLISECOND..=MINUTE * 10,
        /// How long an idle client connection is kept open; `off` closes it after each answer. Keep it above the idle
        /// timeout of the load balancer in front.
        pub keepalive: Option<Duration> = Some(Duration::from_secs(75)); Duration::from_secs(1)..=DAY,
        /// A client that takes nothing for so long while there is something to send is cut. Its turn goes on.
        pub write_timeout: Duration = Duration::from_secs(30); MILLISECOND * 100..=MINUTE * 60,
    }
}

section! {
    /// Where operators and Prometheus connect.
    pub struct Admin {
        /// Address and port of `/metrics`, `/livez` and `/readyz`. Keep it off public networks.
        pub listen: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 9901)),
    }
}

section! {
    /// Bounds of this process.
    pub struct Limits {
        /// Most turns that may run at once on this node. A start beyond it is answered 503 with `Retry-After`.
        pub max_turns: u32 = 10_000; 1..,
    }
}

section! {
    /// What Holdover writes to standard error.
    pub struct Log {
        /// `text` for people, `json` for collectors, `auto` for text on a terminal and JSON elsewhere.
        pub format: LogFormat = LogFormat::Auto,
        /// Least severe level that is written, or a filter such as `info,holdover=debug`.
        pub level: String = "info".to_owned(),
    }
}

section! {
    /// What happens on SIGTERM.
    pub struct Drain {
        /// How long running turns may take to finish after SIGTERM. What still runs then ends as `interrupted`.
        pub max: Duration = Duration::from_secs(600); ..=DAY,
        /// How long the load balancer in front may take to see that `/readyz` fails. Clients that follow turns of other nodes
        /// are sent there then, with `store.kind = "redis"`: their connections break, and they resume elsewhere.
        pub move_after: Duration = Duration::from_secs(5); ..=DAY,
        /// Go on accepting connections meanwhile. `false` where another process accepts them at the same socket, as with
        /// systemd's socket activation: new connections are all left to it then.
        pub accept: bool = true,
    }
}

choice! {
    /// The form of log lines.
    pub enum LogFormat {
        /// Text on a terminal, else JSON.
        Auto = "auto",
        /// One JSON object per line.
        Json = "json",
        /// Lines for people.
        Text = "text",
    }
}
