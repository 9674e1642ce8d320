//! Where Redis is.

use std::{fmt, path::PathBuf};

use percent_encoding::percent_decode_str;

use super::{
    section::{Leaf, Wrong},
    text::{Secret, quoted},
    tree::Value,
};

/// How Redis is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedisScheme {
    /// `redis://`: plain TCP.
    Tcp,
    /// `rediss://`: TLS.
    Tls,
    /// `redis-sentinel://`: sentinels that name the master, plain TCP.
    Sentinel,
    /// `rediss-sentinel://`: sentinels that name the master, TLS to all of them.
    SentinelTls,
    /// `redis+unix://` or `unix://`: a socket file.
    Unix,
}

/// A Redis URL, taken apart. Displayed without its password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisUrl {
    /// How Redis is reached.
    pub scheme: RedisScheme,
    /// User name in the URL, if any.
    pub username: Option<String>,
    /// Password in the URL, if any.
    pub password: Option<Secret>,
    /// Hosts and ports, in the order given; more than one with sentinels and clusters. IPv6 addresses stand without
    /// brackets. Empty with [`RedisScheme::Unix`].
    pub hosts: Vec<(String, u16)>,
    /// Name of the master that sentinels are asked for.
    pub master: Option<String>,
    /// The socket file of [`RedisScheme::Unix`].
    pub socket: Option<PathBuf>,
    /// Number of the database.
    pub database: u16,
}

impl RedisScheme {
    const ALL: [(&str, Self); 6] = [
        ("redis", Self::Tcp),
        ("rediss", Self::Tls),
        ("redis-sentinel", Self::Sentinel),
        ("rediss-sentinel", Self::SentinelTls),
        ("redis+unix", Self::Unix),
        ("unix", Self::Unix),
    ];

    /// Whether connections are encrypted.
    pub fn is_tls(self) -> bool {
        matches!(self, Self::Tls | Self::SentinelTls)
    }

    /// Whether the hosts are sentinels.
    pub fn is_sentinel(self) -> bool {
        matches!(self, Self::Sentinel | Self::SentinelTls)
    }

    fn default_port(self) -> u16 {
        if self.is_sentinel() { 26379 } else { 6379 }
    }
}

impl Default for RedisUrl {
    fn default() -> Self {
        Self {
            scheme: RedisScheme::Tcp,
            username: None,
            password: None,
            hosts: vec![("127.0.0.1".to_owned(), 6379)],
            master: None,
            socket: None,
            database: 0,
        }
    }
}

impl RedisUrl {
    /// Takes a URL apart. No error shows a part of it: an unquoted `@` or `/` makes a password look like a host.
    fn take_apart(text: &str) -> Result<Self, Wrong> {
        let (scheme, rest) = text.split_once("://").ok_or_else(Wrong::kind)?;
        let (_, scheme) = RedisScheme::ALL.into_iter().find(|(name, _)| *name == scheme).ok_or_else(|| {
            Wrong::new("the scheme is not known here")
                .help("write redis://, rediss://, redis-sentinel://, rediss-sentinel:// or redis+unix://")
        })?;
        let (rest, query) = rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query)));
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
        let (username, password) = user.map_or((None, None), |user| {
            let (name, password) = user.split_once(':').map_or((user, None), |(name, word)| (name, Some(word)));
            (Some(name).filter(|name| !name.is_empty()), password.filter(|word| !word.is_empty()))
        });
        let mut url = Self {
            scheme,
            username: username.map(decode).transpose()?,
            password: password.map(decode).transpose()?.map(Secret::new),
            hosts: Vec::new(),
            master: None,
            socket: None,
            database: 0,
        };
        if scheme == RedisScheme::Unix {
            if !hosts.is_empty() || path.len() < 2 {
                return Err(
                    Wrong::new("the socket must be an absolute path").help("write \"redis+unix:///run/redis.sock\"")
                );
            }
            url.socket = Some(decode(path)?.into());
            if let Some(query) = query {
                url.database = database(query.strip_prefix("db=").unwrap_or_default())?;
            }
            return Ok(url);
        }
        if query.is_some() {
            return Err(Wrong::new("a Redis URL takes no query").help("use the other keys of [store]"));
        }
        url.hosts = hosts.split(',').map(|host| address(host, scheme.default_port())).collect::<Result<_, _>>()?;
        let mut path = path.trim_start_matches('/');
        if scheme.is_sentinel() {
            let (master, rest) = path.split_once('/').unwrap_or((path, ""));
            if master.is_empty() {
                return Err(Wrong::new("the name of the master is missing")
                    .help("write \"redis-sentinel://host:26379/NAME/0\""));
            }
            url.master = Some(decode(master)?);
            path = rest;
        }
        if !path.is_empty() {
            url.database = database(path)?;
        }
        Ok(url)
    }
}

fn decode(part: &str) -> Result<String, Wrong> {
    let decoded =
        percent_decode_str(part).decode_utf8().map_err(|_| Wrong::new("the URL is not UTF-8 when decoded"))?;
    Ok(decoded.into_owned())
}

fn database(number: &str) -> Result<u16, Wrong> {
    number
        .parse()
        .map_err(|_| Wrong::new("the database is not a number").help("write it behind the host, as in \"…:6379/0\""))
}

fn address(text: &str, default_port: u16) -> Result<(String, u16), Wrong> {
    let wrong = || {
        Wrong::new("the host or port cannot be read").help("write host:port, and %40 and %2F for @ and / in a password")
    };
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(wrong)?;
            host.parse::<std::net::Ipv6Addr>().map_err(|_| wrong())?;
            (host, if port.is_empty() { None } else { Some(port.strip_prefix(':').ok_or_else(wrong)?) })
        }
        None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
    };
    let named = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
    let port = port.map_or(Ok(default_port), str::parse).map_err(|_| wrong())?;
    if named && port > 0 { Ok((host.to_owned(), port)) } else { Err(wrong()) }
}

impl fmt::Display for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = RedisScheme::ALL.iter().find(|(_, scheme)| *scheme == self.scheme).map_or("", |(name, _)| name);
        write!(f, "{name}://{}", self.username.as_deref().unwrap_or_default())?;
        if self.password.is_some() {
            f.write_str(":[redacted]")?;
        }
        if self.username.is_some() || self.password.is_some() {
            f.write_str("@")?;
        }
        if let Some(socket) = &self.socket {
            return write!(f, "{}?db={}", socket.display(), self.database);
        }
        for (index, (host, port)) in self.hosts.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            if host.contains(':') { write!(f, "{comma}[{host}]:{port}")? } else { write!(f, "{comma}{host}:{port}")? }
        }
        self.master.iter().try_for_each(|master| write!(f, "/{master}"))?;
        write!(f, "/{}", self.database)
    }
}

impl Leaf for RedisUrl {
    const SECRET: bool = true;
    const EXPECTED: &'static str = "an address such as \"redis://127.0.0.1:6379/0\"";

    fn parse(value: &Value) -> Result<Self, Wrong> {
        Self::take_apart(value.text()?.trim())
    }

    fn show(&self) -> Option<String> {
        Some(quoted(self))
    }
}
