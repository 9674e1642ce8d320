//! What an operator sets: one plain struct per section, read from file, environment and flags.
//!
//! A section is declared once with `section!`: its fields, their types, their defaults and their doc comments. The
//! reader, `config default`, `config print` and `config schema` all come from that declaration, so a doc comment is
//! written for operators and says unit and consequence.
//!
//! Reading never binds a port and never resolves a name.

mod check;
mod identity;
mod load;
mod path;
mod process;
mod redis_url;
mod route;
mod section;
mod show;
mod store;
#[cfg(test)]
mod tests;
mod text;
mod tree;
mod upstream;

pub use identity::{Identity, IdentitySource, Jwt, Subrequest};
pub use load::{Flag, Loaded, Sources, load, read, variable};
pub use path::{PathParams, PathPattern};
pub use process::{Admin, Drain, Limits, Listen, Log, LogFormat};
pub use redis_url::{RedisScheme, RedisUrl};
pub use route::{Concurrent, OnDisconnect, OnGap, PROFILES, ReplayFinished, Route, SessionSource};
pub use show::{default_file, schema};
pub use store::{Durability, OnFailure, Store, StoreKind};
pub use text::{Cidr, Secret};
pub use tree::{Origin, Origins, Problem, Problems};
pub use upstream::{Backend, HostHeader, Upstream};

use section::section;

section! {
    /// Everything an operator sets.
    pub struct Config {
        /// Where clients connect.
        pub listen: Listen = Listen::default(),
        /// Where operators and Prometheus connect.
        pub admin: Admin = Admin::default(),
        /// The backend that answers.
        pub upstream: Upstream = Upstream::default(),
        /// Where turns are kept.
        pub store: Store = Store::default(),
        /// Who is asking. A turn is followed, listed and stopped only by who started it.
        pub identity: Identity = Identity::default(),
        /// Bounds of this process.
        pub limits: Limits = Limits::default(),
        /// What Holdover writes to standard error.
        pub log: Log = Log::default(),
        /// What happens on SIGTERM.
        pub drain: Drain = Drain::default(),
        /// What is recorded, and how. The first route that matches a request is taken; a request that matches none is
        /// passed on unrecorded. Without any `[[route]]`, one route named `default` takes everything.
        pub routes as "route": Vec<Route> = vec![Route::default()],
    }
}

impl Config {
    /// The first route that matches, its position in [`Config::routes`], and what its path captured.
    pub fn route(&self, method: &http::Method, path: &str) -> Option<(usize, &Route, PathParams)> {
        self.routes
            .iter()
            .enumerate()
            .find_map(|(index, route)| route.matches(method, path).map(|params| (index, route, params)))
    }
}
