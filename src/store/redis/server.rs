//! What a server says of itself, and whether it will do.

use std::{fmt, time::Duration};

use redis::{RedisError, RedisResult, Value, aio::MultiplexedConnection, cmd, pipe};

use super::keys::Keys;
use crate::turn::NodeId;

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

/// Something that keeps a server from being used, or will.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// What is wrong.
    pub message: String,
    /// What to change.
    pub help: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.help.is_empty() { f.write_str(&self.message) } else { write!(f, "{}: {}", self.message, self.help) }
    }
}

impl Problem {
    pub(super) fn new(message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { message: message.into(), help: help.into() }
    }
}

/// A server, looked at.
#[derive(Debug, Clone)]
pub(super) struct Examined {
    pub(super) info: ServerInfo,
    /// Why it cannot be used; none if it can.
    pub(super) unfit: Vec<Problem>,
}

/// Looks at a server over a connection to it: what it is, whether it runs scripts, and what the user may do there.
pub(super) async fn examine(connection: &mut MultiplexedConnection, keys: &Keys) -> RedisResult<Examined> {
    let (info, mut unfit) = match cmd("INFO").query_async::<String>(connection).await {
        Ok(info) => {
            let info = ServerInfo::parse(&info);
            let unfit = info.unfit();
            (info, unfit)
        }
        Err(error) if error.code() == Some("NOPERM") => (ServerInfo::parse(""), Vec::new()),
        Err(error) => return Err(error),
    };
    // One that takes no writes would only say so again.
    if info.is_master() && !info.loading {
        unfit.extend(try_scripts(connection).await?);
        unfit.extend(try_rights(connection, keys).await?);
    }
    Ok(Examined { info, unfit })
}

/// Runs a script that does nothing, both ways.
async fn try_scripts(connection: &mut MultiplexedConnection) -> RedisResult<Option<Problem>> {
    let script = redis::Script::new("return 1");
    for mut call in [cmd("EVAL").arg("return 1").take(), cmd("EVALSHA").arg(script.get_hash()).take()] {
        if let Err(error) = call.arg(0).query_async::<i64>(connection).await {
            if !is_refused(&error) {
                return Err(error);
            }
            let message = format!("the server runs no Lua scripts for this user ({error})");
            return Ok(Some(Problem::new(message, "allow EVAL and EVALSHA under their own names")));
        }
    }
    Ok(None)
}

/// Whether an error says that a command is refused for good.
fn is_refused(error: &RedisError) -> bool {
    error.code() == Some("NOPERM") || error.to_string().contains("unknown command")
}

/// Has the user try every command that is needed besides scripts, on a key that is a string: what is allowed fails because
/// of that, or because of the memory, or because the key is another server's. Nothing but the string is ever written.
async fn try_rights(connection: &mut MultiplexedConnection, keys: &Keys) -> RedisResult<Vec<Problem>> {
    let key = keys.probe();
    let channel = keys.inbox(&NodeId("probe".into()));
    let commands: [(&str, &str, &[&str]); 22] = [
        ("info", "server", &[]),
        ("set", &key, &["1", "PX", "10000"]),
        ("get", &key, &[]),
        ("exists", &key, &[]),
        ("hset", &key, &["f", "1"]),
        ("hget", &key, &["f"]),
        ("hmget", &key, &["f"]),
        ("hdel", &key, &["f"]),
        ("xadd", &key, &["1-1", "f", "1"]),
        ("xrange", &key, &["-", "+"]),
        ("sadd", &key, &["m"]),
        ("srem", &key, &["m"]),
        ("smembers", &key, &[]),
        ("zadd", &key, &["1", "m"]),
        ("zrem", &key, &["m"]),
        ("zrangebyscore", &key, &["0", "0"]),
        ("ping", "probe", &[]),
        ("pexpire", &key, &["10000"]),
        ("pttl", &key, &[]),
        ("rename", &key, &[&key]),
        ("publish", &channel, &["probe"]),
        ("del", &key, &[]),
    ];
    let mut all = pipe();
    for (name, first, rest) in &commands {
        all.cmd(name).arg(*first).arg(*rest);
    }
    let replies = connection.send_packed_commands(&all, 0, commands.len()).await?;
    let (mut refused, mut foreign) = (Vec::new(), Vec::new());
    let (keys, channels) = keys.patterns();
    for ((name, ..), reply) in commands.iter().zip(replies) {
        let Err(error) = Value::extract_error(reply) else { continue };
        let text = error.to_string();
        if !is_refused(&error) {
            continue;
        }
        // It says which of command, key and channel it is about; the words differ between versions.
        if text.contains("run the") || text.contains("unknown command") {
            refused.push(*name);
        } else {
            let pattern = if text.contains("channel") { &channels } else { &keys };
            if !foreign.contains(pattern) {
                foreign.push(pattern.clone());
            }
        }
    }
    let mut problems = Vec::new();
    if !refused.is_empty() {
        let rights: Vec<_> = refused.iter().map(|name| format!("+{name}")).collect();
        problems.push(Problem::new(
            format!("the user may not run {}", refused.join(", ")),
            format!("give it {} (ACL SETUSER), and do not rename these commands", rights.join(" ")),
        ));
    }
    if !foreign.is_empty() {
        let patterns = foreign.join(" ");
        problems.push(Problem::new(
            "the user may not use all keys or channels under store.prefix",
            format!("give it {patterns} (ACL SETUSER)"),
        ));
    }
    Ok(problems)
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

    fn is_master(&self) -> bool {
        self.role.is_empty() || self.role == "master"
    }

    /// Why turns cannot be kept here, as far as the server says so itself.
    fn unfit(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        let mut parts = self.version.split('.').map_while(|part| part.parse::<u32>().ok());
        if let (Some(major), minor) = (parts.next(), parts.next())
            && (major, minor.unwrap_or(0)) < OLDEST
        {
            let message = format!("Redis {} is too old", self.version);
            problems.push(Problem::new(message, "6.2 or newer, or Valkey, is needed"));
        }
        if !self.is_master() {
            let message = format!("the server is a {}, which takes no writes", self.role);
            problems.push(Problem::new(message, "name the master, or the sentinels that know it"));
        }
        if self.loading {
            problems.push(Problem::new("the server is loading its data", "wait"));
        }
        problems
    }

    /// What an operator should change, although turns can be kept.
    pub(super) fn warning(&self) -> Option<Problem> {
        let policy = self.maxmemory_policy.as_str();
        (self.maxmemory > 0 && !matches!(policy, "noeviction" | "")).then(|| {
            let message = format!("maxmemory-policy is {policy}: Redis may drop running turns when it is full");
            Problem::new(message, "set it to noeviction")
        })
    }

    /// Used and allowed bytes, if there is a limit.
    pub(super) fn memory(&self) -> Option<(u64, u64)> {
        (self.maxmemory > 0).then_some((self.used_memory, self.maxmemory))
    }

    /// Used and allowed bytes; 0 without a limit.
    pub(super) fn memory_use(&self) -> (u64, u64) {
        (self.used_memory, self.maxmemory)
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
        assert_eq!((info.unfit(), info.warning(), info.memory()), (vec![], None, Some((1000, 4000))));
    }

    #[test]
    fn what_is_left_out_is_harmless() {
        let info = ServerInfo::parse("");
        assert_eq!((info.unfit(), info.warning(), info.memory()), (vec![], None, None));
    }

    #[test]
    fn an_unfit_server_is_refused_with_all_reasons() {
        let unfit = |from: &str, to: &str| -> Vec<String> {
            let info = ServerInfo::parse(&GOOD.replace(from, to));
            info.unfit().into_iter().map(|problem| problem.message).collect()
        };
        assert_eq!(unfit("6.2.5", "6.0.16"), ["Redis 6.0.16 is too old"]);
        assert_eq!(unfit("6.2.5", "10.0"), [""; 0]);
        assert_eq!(unfit("role:master", "role:slave"), ["the server is a slave, which takes no writes"]);
        assert_eq!(unfit("# Memory", "loading:1"), ["the server is loading its data"]);
        assert_eq!(unfit("6.2.5", "5.0\r\nloading:1").len(), 2);
    }

    #[test]
    fn a_server_that_evicts_is_warned_of() {
        let warning = |policy: &str| ServerInfo::parse(&GOOD.replace("noeviction", policy)).warning();
        assert!(warning("allkeys-lru").unwrap().to_string().contains("noeviction"));
        assert_eq!(ServerInfo::parse(&GOOD.replace("noeviction", "allkeys-lru").replace("4000", "0")).warning(), None);
    }
}
