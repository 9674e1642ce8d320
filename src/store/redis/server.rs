//! What a server says of itself, and whether it will do.

use std::time::Duration;

use redis::{RedisResult, aio::MultiplexedConnection};

/// The oldest version that has `XADD … NOMKSTREAM`.
const OLDEST: (u32, u32) = (6, 2);

/// The parts of `INFO` that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ServerInfo {
    /// As it names itself: Valkey calls itself Redis 7.2.4 here.
    pub(super) version: String,
    pub(super) up: Duration,
    role: String,
    maxmemory: u64,
    used_memory: u64,
    maxmemory_policy: String,
    loading: bool,
}

/// Why a server cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    #[error("Redis {0} is too old: 6.2 or newer is needed")]
    Old(String),
    #[error("the server is a {0}, which takes no writes: name the master, or the sentinels that know it")]
    Role(String),
    #[error("the server is loading its data")]
    Loading,
    #[error("the server runs no Lua scripts for this user ({0}): allow EVAL and EVALSHA under their own names")]
    Scripts(String),
}

/// Runs a script that does nothing, both ways. An error that says that scripts are refused for good is an [`Unfit`].
pub(super) async fn try_scripts(connection: &mut MultiplexedConnection) -> RedisResult<Result<(), Unfit>> {
    let script = redis::Script::new("return 1");
    for mut call in [redis::cmd("EVAL").arg("return 1").take(), redis::cmd("EVALSHA").arg(script.get_hash()).take()] {
        if let Err(error) = call.arg(0).query_async::<i64>(connection).await {
            let text = error.to_string();
            let refused = error.code() == Some("NOPERM") || text.contains("unknown command");
            return if refused { Ok(Err(Unfit::Scripts(text))) } else { Err(error) };
        }
    }
    Ok(Ok(()))
}

impl ServerInfo {
    /// Reads the reply to `INFO`. Fields that a hosted service leaves out count as harmless.
    pub(super) fn parse(info: &str) -> Self {
        let field = |name: &str| {
            let mut lines = info.lines().filter_map(|line| line.split_once(':'));
            lines.find(|(key, _)| *key == name).map(|(_, value)| value.trim())
        };
        let number = |name| field(name).and_then(|value| value.parse().ok()).unwrap_or(0);
        let text = |name| field(name).unwrap_or_default().to_owned();
        Self {
            version: text("redis_version"),
            up: Duration::from_secs(number("uptime_in_seconds")),
            role: text("role"),
            maxmemory: number("maxmemory"),
            used_memory: number("used_memory"),
            maxmemory_policy: text("maxmemory_policy"),
            loading: field("loading") == Some("1"),
        }
    }

    /// Whether turns can be kept here.
    pub(super) fn check(&self) -> Result<(), Unfit> {
        let mut parts = self.version.split('.').map_while(|part| part.parse::<u32>().ok());
        if let (Some(major), minor) = (parts.next(), parts.next())
            && (major, minor.unwrap_or(0)) < OLDEST
        {
            return Err(Unfit::Old(self.version.clone()));
        }
        if !self.role.is_empty() && self.role != "master" {
            return Err(Unfit::Role(self.role.clone()));
        }
        if self.loading { Err(Unfit::Loading) } else { Ok(()) }
    }

    /// What an operator should change, although turns can be kept.
    pub(super) fn warning(&self) -> Option<String> {
        let policy = self.maxmemory_policy.as_str();
        (self.maxmemory > 0 && !matches!(policy, "noeviction" | "")).then(|| {
            format!("maxmemory-policy is {policy}: Redis may drop running turns when it is full; set it to noeviction")
        })
    }

    /// Used and allowed bytes, if there is a limit.
    pub(super) fn memory(&self) -> Option<(u64, u64)> {
        (self.maxmemory > 0).then_some((self.used_memory, self.maxmemory))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Server\r\nredis_version:6.2.5\r\nuptime_in_seconds:12\r\n\r\n# Memory\r\n\
        used_memory:1000\r\nmaxmemory:4000\r\nmaxmemory_policy:noeviction\r\n# Replication\r\nrole:master\r\n";

    #[test]
    fn a_good_server_is_taken() {
        let info = ServerInfo::parse(GOOD);
        assert_eq!((info.version.as_str(), info.up), ("6.2.5", Duration::from_secs(12)));
        assert_eq!((info.check(), info.warning(), info.memory()), (Ok(()), None, Some((1000, 4000))));
    }

    #[test]
    fn what_is_left_out_is_harmless() {
        let info = ServerInfo::parse("");
        assert_eq!((info.check(), info.warning(), info.memory()), (Ok(()), None, None));
    }

    #[test]
    fn an_unfit_server_is_refused_with_the_reason() {
        let check = |from: &str, to: &str| ServerInfo::parse(&GOOD.replace(from, to)).check();
        assert_eq!(check("6.2.5", "6.0.16"), Err(Unfit::Old("6.0.16".into())));
        assert_eq!(check("6.2.5", "10.0"), Ok(()));
        assert_eq!(check("role:master", "role:slave"), Err(Unfit::Role("slave".into())));
        assert_eq!(check("# Memory", "loading:1"), Err(Unfit::Loading));
    }

    #[test]
    fn a_server_that_evicts_is_warned_of() {
        let warning = |policy: &str| ServerInfo::parse(&GOOD.replace("noeviction", policy)).warning();
        assert!(warning("allkeys-lru").unwrap().contains("noeviction"));
        assert_eq!(ServerInfo::parse(&GOOD.replace("noeviction", "allkeys-lru").replace("4000", "0")).warning(), None);
    }
}
