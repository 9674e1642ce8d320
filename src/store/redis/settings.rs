//! What the Redis store is told at its start, and where its servers are.

use std::{path::PathBuf, sync::Arc, time::Duration};

use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo as _,
    RedisConnectionInfo, RedisError, TlsCertificates, cmd,
    io::tcp::{TcpSettings, socket2::TcpKeepalive},
};
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::{
    config::{RedisScheme, RedisUrl, Secret},
    store::Durability,
};

/// What [`super::RedisStore`] is told at its start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where Redis is.
    pub url: RedisUrl,
    /// Whether the URL names nodes of a cluster.
    pub cluster: bool,
    /// First part of every key.
    pub prefix: String,
    /// How the log of a running turn is followed: not [`Durability::Held`].
    pub durability: Durability,
    /// How long a turn is kept after its end.
    pub retain_after_end: Duration,
    /// Whether ended turns are compressed.
    pub seal: bool,
    /// The longest that any route lets a turn run: a turn that nobody ends is forgotten after this and the retention.
    pub max_turn: Duration,
    /// How long a node owns its turns without a sign of life.
    pub lease: Duration,
    /// How long connecting may take.
    pub connect_timeout: Duration,
    /// How long one command may take.
    pub command_timeout: Duration,
    /// User name, instead of the URL's.
    pub username: Option<Secret>,
    /// Password, instead of the URL's.
    pub password: Option<Secret>,
    /// PEM file of the certificate authorities to trust, instead of the system's.
    pub ca: Option<PathBuf>,
    /// PEM file of the certificate to show.
    pub cert: Option<PathBuf>,
    /// PEM file of that certificate's private key.
    pub key: Option<PathBuf>,
}

/// Why a store cannot even begin to connect. Waiting does not mend it.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// `store.cluster` is set, but the URL cannot be one of a cluster.
    #[error("store.cluster: {0}")]
    Cluster(&'static str),
    /// The prefix would decide in which cluster slot keys are.
    #[error("store.prefix: must not contain `{{` or `}}`")]
    Prefix,
    /// The URL lacks what its scheme needs.
    #[error("store.url: {0}")]
    Url(&'static str),
    /// Only one of `cert` and `key` is set.
    #[error("store.cert and store.key: one needs the other")]
    HalfCertificate,
    /// A PEM file cannot be read.
    #[error("{key}: cannot read {}: {source}", path.display())]
    File {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// A PEM file holds no certificate.
    #[error("{key}: there is no certificate in {}", path.display())]
    NoCertificate {
        /// The setting.
        key: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The certificates cannot be used.
    #[error("store.ca, store.cert or store.key: {0}")]
    Certificates(RedisError),
}

/// Where the server to write to is found.
#[derive(Debug)]
enum Topology {
    /// It is always the same.
    Single(Client),
    /// Sentinels know which one it is now.
    Sentinel { sentinels: Vec<Client>, master: String },
    /// Each server of a cluster knows all others.
    Cluster(Vec<Client>),
}

/// The servers, and how a connection to them is made.
#[derive(Debug)]
pub(super) struct Servers {
    topology: Topology,
    login: RedisConnectionInfo,
    tls: Option<Tls>,
    config: AsyncConnectionConfig,
    /// For log lines and health: the URL without secrets.
    pub(super) name: Arc<str>,
}

#[derive(Debug, Clone)]
struct Tls {
    certificates: Option<TlsCertificates>,
}

impl Servers {
    pub(super) fn from(settings: &Settings) -> Result<Self, SettingsError> {
        if settings.prefix.contains(['{', '}']) {
            return Err(SettingsError::Prefix);
        }
        let url = &settings.url;
        let with_tls = matches!(url.scheme, RedisScheme::Tls | RedisScheme::SentinelTls);
        let tls = with_tls.then(|| certificates(settings).map(|certificates| Tls { certificates })).transpose()?;
        let mut login = RedisConnectionInfo::default().set_db(url.database.into()).set_skip_set_lib_name();
        if let Some(username) = settings.username.as_ref().map(Secret::expose).or(url.username.as_deref()) {
            login = login.set_username(username);
        }
        if let Some(password) = settings.password.as_ref().or(url.password.as_ref()) {
            login = login.set_password(password.expose());
        }
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(settings.connect_timeout))
            .set_response_timeout(Some(settings.command_timeout))
            .set_pipeline_buffer_size(4096);

        let tcp =
            |(host, port): &(String, u16), login| client(tcp_address(host, *port, tls.as_ref()), login, tls.as_ref());
        let topology = match url.scheme {
            RedisScheme::Tcp | RedisScheme::Tls if settings.cluster => {
                if url.database != 0 {
                    return Err(SettingsError::Cluster("a cluster has database 0 only"));
                }
                Topology::Cluster(url.hosts.iter().map(|host| tcp(host, &login)).collect::<Result<_, _>>()?)
            }
            _ if settings.cluster => {
                return Err(SettingsError::Cluster("a cluster is reached by redis:// or rediss://"));
            }
            RedisScheme::Unix => {
                let path = url.socket.clone().ok_or(SettingsError::Url("the path of a socket file is missing"))?;
                Topology::Single(client(ConnectionAddr::Unix(path), &login, None)?)
            }
            RedisScheme::Tcp | RedisScheme::Tls => match url.hosts.as_slice() {
                [host] => Topology::Single(tcp(host, &login)?),
                _ => return Err(SettingsError::Url("exactly one host is needed")),
            },
            RedisScheme::Sentinel | RedisScheme::SentinelTls => {
                // The login is the master's; sentinels have their own, if any.
                let anonymous = RedisConnectionInfo::default();
                let sentinels = url.hosts.iter().map(|host| tcp(host, &anonymous)).collect::<Result<_, _>>()?;
                let master = url.master.clone().ok_or(SettingsError::Url("the name of the master is missing"))?;
                Topology::Sentinel { sentinels, master }
            }
        };
        Ok(Self { topology, login, tls, config, name: name(url).into() })
    }

    /// The server that takes writes now, where there is one for all keys.
    pub(super) async fn master(&self) -> Result<Client, RedisError> {
        let (sentinels, master) = match &self.topology {
            Topology::Single(client) => return Ok(client.clone()),
            Topology::Sentinel { sentinels, master } => (sentinels.as_slice(), master.as_str()),
            // It has one per slot.
            Topology::Cluster(_) => (&[][..], ""),
        };
        let mut last = RedisError::from((redis::ErrorKind::InvalidClientConfig, "no sentinel is named"));
        for sentinel in sentinels {
            let asked = async {
                let mut connection = sentinel.get_multiplexed_async_connection_with_config(&self.config).await?;
                let mut question = cmd("SENTINEL");
                question.arg("get-master-addr-by-name").arg(master);
                question.query_async::<Option<(String, u16)>>(&mut connection).await
            };
            match asked.await {
                Ok(Some((host, port))) => return self.client_at(&host, port),
                Ok(None) => {
                    last = RedisError::from((redis::ErrorKind::InvalidClientConfig, "no sentinel knows the master"));
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// The server at this address.
    pub(super) fn client_at(&self, host: &str, port: u16) -> Result<Client, RedisError> {
        let address = tcp_address(host, port, self.tls.as_ref());
        client(address, &self.login, self.tls.as_ref()).map_err(|error| match error {
            SettingsError::Certificates(error) => error,
            other => RedisError::from((
                redis::ErrorKind::InvalidClientConfig,
                "the server cannot be used",
                other.to_string(),
            )),
        })
    }

    /// The sentinels and the name of the master they know, if there are any.
    pub(super) fn sentinels(&self) -> Option<(&[Client], &str)> {
        match &self.topology {
            Topology::Sentinel { sentinels, master } => Some((sentinels, master)),
            _ => None,
        }
    }

    /// The servers by which a cluster is found, if it is one.
    pub(super) fn seeds(&self) -> Option<&[Client]> {
        match &self.topology {
            Topology::Cluster(seeds) => Some(seeds),
            _ => None,
        }
    }

    /// How connections are set up.
    pub(super) fn config(&self) -> &AsyncConnectionConfig {
        &self.config
    }
}

fn tcp_address(host: &str, port: u16, tls: Option<&Tls>) -> ConnectionAddr {
    let host = host.to_owned();
    match tls {
        Some(_) => ConnectionAddr::TcpTls { host, port, insecure: false, tls_params: None },
        None => ConnectionAddr::Tcp(host, port),
    }
}

fn client(address: ConnectionAddr, login: &RedisConnectionInfo, tls: Option<&Tls>) -> Result<Client, SettingsError> {
    // Without nodelay, a lightly used connection answers 5 ms later. The other two notice a peer that is gone.
    let tcp = TcpSettings::default()
        .set_nodelay(true)
        .set_user_timeout(Duration::from_secs(5))
        .set_keepalive(TcpKeepalive::new().with_time(Duration::from_secs(10)));
    let info: ConnectionInfo = address.into_connection_info().map_err(SettingsError::Certificates)?;
    let info = info.set_redis_settings(login.clone()).set_tcp_settings(tcp);
    match tls.and_then(|tls| tls.certificates.clone()) {
        Some(certificates) => Client::build_with_tls(info, certificates),
        None => Client::open(info),
    }
    .map_err(SettingsError::Certificates)
}

/// The PEM files, if any is named.
fn certificates(settings: &Settings) -> Result<Option<TlsCertificates>, SettingsError> {
    let read = |key, path: &Option<PathBuf>| match path {
        Some(path) => {
            std::fs::read(path).map(Some).map_err(|source| SettingsError::File { key, path: path.clone(), source })
        }
        None => Ok(None),
    };
    let root_cert = read("store.ca", &settings.ca)?;
    if let (Some(pem), Some(path)) = (&root_cert, &settings.ca)
        && CertificateDer::pem_slice_iter(pem).flatten().next().is_none()
    {
        // It would be taken for a list of no authorities, and then nobody is trusted.
        return Err(SettingsError::NoCertificate { key: "store.ca", path: path.clone() });
    }
    let client_tls = match (read("store.cert", &settings.cert)?, read("store.key", &settings.key)?) {
        (Some(client_cert), Some(client_key)) => Some(ClientTlsConfig { client_cert, client_key }),
        (None, None) => None,
        _ => return Err(SettingsError::HalfCertificate),
    };
    Ok((root_cert.is_some() || client_tls.is_some()).then_some(TlsCertificates { client_tls, root_cert }))
}

fn name(url: &RedisUrl) -> String {
    let hosts = url.hosts.iter().map(|(host, port)| format!("{host}:{port}")).collect::<Vec<_>>().join(",");
    match (&url.socket, &url.master) {
        (Some(socket), _) => socket.display().to_string(),
        (None, Some(master)) => format!("{master} of {hosts}"),
        (None, None) => hosts,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings {
            url: RedisUrl::default(),
            cluster: false,
            prefix: "holdover".into(),
            durability: Durability::Behind,
            retain_after_end: Duration::from_secs(600),
            seal: true,
            max_turn: Duration::from_secs(3600),
            lease: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(1),
            command_timeout: Duration::from_secs(1),
            username: None,
            password: None,
            ca: None,
            cert: None,
            key: None,
        }
    }

    fn error(change: impl FnOnce(&mut Settings)) -> String {
        let mut settings = settings();
        change(&mut settings);
        Servers::from(&settings).unwrap_err().to_string()
    }

    #[test]
    fn what_waiting_cannot_mend_is_said_at_once() {
        let cluster = |change: fn(&mut Settings)| {
            error(|s| {
                s.cluster = true;
                change(s);
            })
        };
        assert_eq!(cluster(|s| s.url.database = 1), "store.cluster: a cluster has database 0 only");
        let sentinel = cluster(|s| s.url.scheme = RedisScheme::Sentinel);
        assert_eq!(sentinel, "store.cluster: a cluster is reached by redis:// or rediss://");
        assert_eq!(error(|s| s.prefix = "a{b".into()), "store.prefix: must not contain `{` or `}`");
        assert_eq!(error(|s| s.url.hosts.clear()), "store.url: exactly one host is needed");
        assert_eq!(error(|s| s.url.scheme = RedisScheme::Unix), "store.url: the path of a socket file is missing");
        assert_eq!(error(|s| s.url.scheme = RedisScheme::Sentinel), "store.url: the name of the master is missing");
        let with_tls = |change: fn(&mut Settings)| {
            error(|s| {
                s.url.scheme = RedisScheme::Tls;
                change(s);
            })
        };
        assert!(
            with_tls(|s| s.ca = Some("/nowhere/ca.pem".into())).starts_with("store.ca: cannot read /nowhere/ca.pem: ")
        );
        assert_eq!(with_tls(|s| s.cert = Some("/dev/null".into())), "store.cert and store.key: one needs the other");
        assert_eq!(with_tls(|s| s.ca = Some("Cargo.toml".into())), "store.ca: there is no certificate in Cargo.toml");
        let not_pem = |s: &mut Settings| (s.cert, s.key) = (Some("Cargo.toml".into()), Some("Cargo.toml".into()));
        assert!(with_tls(not_pem).starts_with("store.ca, store.cert or store.key: "));
    }

    #[test]
    fn the_name_of_the_servers_holds_no_secret() {
        let mut settings = settings();
        settings.url.password = Some(Secret::new("hush"));
        let servers = Servers::from(&settings).unwrap();
        assert_eq!(&*servers.name, "127.0.0.1:6379");
        assert!(!format!("{servers:?}").contains("hush"));
    }
}
