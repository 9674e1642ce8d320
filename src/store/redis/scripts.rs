//! The Lua scripts, and how they are called.
//!
//! Whatever must be atomic is one script on keys of one slot. A script compares before it writes, so that each of them
//! can be repeated.

use std::sync::LazyLock;

use redis::{Cmd, ToRedisArgs, cmd};

use super::request::Request;

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(
            #[doc = concat!("`", $file, "`, which says what it does.")]
            pub(super) static $name: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!($file)));
        )*
    };
}

scripts! {
    START = "lua/start.lua";
    HEAD = "lua/head.lua";
    APPEND = "lua/append.lua";
    FINISH = "lua/finish.lua";
    DISCARD = "lua/discard.lua";
    ASK = "lua/ask.lua";
    SEAL = "lua/seal.lua";
    STOP = "lua/stop.lua";
    WATCH = "lua/watch.lua";
    BEAT = "lua/beat.lua";
}

/// A script, known to the server by its hash once it has run there.
pub(super) struct Script {
    source: &'static str,
    hash: String,
}

impl Script {
    fn new(source: &'static str) -> Self {
        Self { source, hash: redis::Script::new(source).get_hash().to_owned() }
    }

    /// A call with these keys; arguments follow by [`Invocation::arg`].
    pub(super) fn on<K: AsRef<str>>(&'static self, keys: &[K]) -> Invocation {
        let mut by_hash = cmd("EVALSHA");
        by_hash.arg(&self.hash).arg(keys.len());
        for key in keys {
            by_hash.arg(key.as_ref());
        }
        Invocation { script: self, by_hash }
    }
}

/// One call of a script.
pub(super) struct Invocation {
    script: &'static Script,
    by_hash: Cmd,
}

impl Invocation {
    /// Adds an argument, or several.
    pub(super) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.by_hash.arg(arg);
        self
    }
}

impl Request for Invocation {
    fn commands(&self) -> Vec<&Cmd> {
        vec![&self.by_hash]
    }

    /// The same call with the script's text, for a server that does not have it: it was restarted, or replaced.
    fn with_source(&self) -> Option<Cmd> {
        let mut whole = cmd("EVAL");
        whole.arg(self.script.source);
        for arg in self.by_hash.args_iter().skip(2) {
            if let redis::Arg::Simple(bytes) = arg {
                whole.arg(bytes);
            }
        }
        Some(whole)
    }
}
