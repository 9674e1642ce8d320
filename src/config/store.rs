//! Where turns are kept.

use std::{path::PathBuf, time::Duration};

use super::{
    redis_url::RedisUrl,
    section::{choice, section},
    text::{DAY, MILLISECOND, MINUTE, Secret},
};

section! {
    /// Where turns are kept.
    pub struct Store {
        /// `memory` keeps turns in this process: one node, gone when it ends. `redis` shares them between nodes.
        pub kind: StoreKind = StoreKind::Memory,
        /// Where Redis or Valkey is: `redis://`, `rediss://` (TLS), `redis+unix:///path`, or
        /// `redis-sentinel://host:26379,host:26379/master/0`. Used with `kind = "redis"` only.
        pub url: RedisUrl = RedisUrl::default(),
        /// The URL names nodes of a Redis Cluster (several may stand in it, separated by commas).
        pub cluster: bool = false,
        /// First part of every key, so that several deployments can share one Redis.
        pub prefix: String = "holdover".to_owned(),
        /// `acked` delivers an event once the store has it, so that what a client saw can always be replayed; `behind`
        /// delivers at once and persists after, so that a killed node may forget the last events.
        pub durability: Durability = Durability::Acked,
        /// With `acked`: how long an event waits for the store before it is delivered anyway and the turn is marked
        /// degraded.
        pub ack_deadline: Duration = Duration::from_millis(500); MILLISECOND..=MINUTE,
        /// How long events are gathered before they are written together, at most one second. Above zero it saves store
        /// commands and, with `acked`, delays delivery.
        pub flush_window: Duration = Duration::ZERO; ..=Duration::from_secs(1),
        /// How long a turn can be replayed after its end.
        pub retain_after_end: Duration = Duration::from_secs(600); Duration::from_secs(1)..=DAY * 30,
        /// What happens to new turns while the store is down: `degrade` runs them from this node's memory, `reject`
        /// answers 503. Running turns go on either way.
        pub on_failure: OnFailure = OnFailure::Degrade,
        /// Most bytes that the logs of this node may hold in memory. Near it, ended turns are dropped and turns that nobody
        /// follows are stopped, oldest first; then starts are refused.
        pub memory_limit: usize = 1 << 30; 1 << 20..,
        /// How long a node owns its turns without renewing. Turns of a dead node end as `interrupted` after it.
        pub lease: Duration = Duration::from_secs(10); Duration::from_secs(2)..=MINUTE * 5,
        /// How long connecting to Redis may take.
        pub connect_timeout: Duration = Duration::from_secs(1); MILLISECOND..=MINUTE,
        /// How long one Redis command may take before it counts as failed.
        pub command_timeout: Duration = Duration::from_secs(1); MILLISECOND..=MINUTE,
        /// User name for Redis; instead of the one in the URL.
        pub username: Option<Secret> = None,
        /// Password for Redis; instead of the one in the URL.
        pub password: Option<Secret> = None,
        /// PEM file of certificate authorities to trust for `rediss://` instead of the system's.
        pub ca: Option<PathBuf> = None,
        /// PEM file of the certificate shown to Redis; needs `key`.
        pub cert: Option<PathBuf> = None,
        /// PEM file of the private key of `cert`.
        pub key: Option<PathBuf> = None,
    }
}

choice! {
    /// Which store is used.
    pub enum StoreKind {
        /// This process's memory.
        Memory = "memory",
        /// Redis or Valkey.
        Redis = "redis",
    }
}

choice! {
    /// When an event is delivered.
    pub enum Durability {
        /// Once the store has it.
        Acked = "acked",
        /// At once; the store follows.
        Behind = "behind",
    }
}

choice! {
    /// What happens to new turns while the store is down.
    pub enum OnFailure {
        /// They run from this node's memory.
        Degrade = "degrade",
        /// They are refused.
        Reject = "reject",
    }
}
