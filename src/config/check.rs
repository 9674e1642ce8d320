//! What a single value cannot tell: combinations, files, names.

use std::{collections::HashMap, fs::File, path::Path};

use tracing_subscriber::{EnvFilter, filter::LevelFilter};

use super::{
    Config, Identity, IdentitySource, Listen, PROFILES, RedisScheme, Route, SessionSource, Store, StoreKind, Upstream,
    section::{closest, not_among},
    tree::{Origin, Reader},
};

/// Adds what is wrong with a configuration as a whole to the problems of its single values.
pub(super) fn check(config: &Config, reader: &mut Reader) {
    reader.at("listen", |reader| listen(config, &config.listen, reader));
    reader.at("upstream", |reader| upstream(&config.upstream, reader));
    reader.at("store", |reader| store(&config.store, reader));
    reader.at("identity", |reader| identity(&config.identity, reader));
    reader.at("log", |reader| {
        if let Some(wrong) = level(&config.log.level) {
            reader.wrong(
                "level",
                wrong,
                "write error, warn, info, debug or trace, or a list such as \"info,holdover=debug\"",
            );
        }
    });
    routes(&config.routes, reader);
}

impl Reader {
    /// Reports a key of the current section, unless its value could not be read anyway.
    fn wrong(&mut self, key: &str, message: impl Into<String>, help: impl Into<String>) {
        self.at(key, |reader| {
            let known = |key: &str| {
                key.strip_prefix(reader.key()).is_some_and(|rest| rest.is_empty() || rest.starts_with(['[', '.']))
            };
            if !reader.problems.iter().any(|problem| known(&problem.key)) {
                let origin = reader.origins.get(reader.key()).clone();
                reader.problem(origin, message, Some(help.into()));
            }
        });
    }

    /// Whether a key of the current section was set by anybody.
    fn is_set(&mut self, key: &str) -> bool {
        self.at(key, |reader| *reader.origins.get(reader.key()) != Origin::Default)
    }

    /// Reports a file that cannot be read.
    fn readable(&mut self, key: &str, path: Option<&Path>) {
        let Some(path) = path else { return };
        let is_file = File::open(path).and_then(|file| file.metadata()).map(|metadata| metadata.is_file());
        match is_file {
            Ok(true) => {}
            Ok(false) => self.wrong(key, format!("{} is not a file", path.display()), "name a file"),
            Err(error) => {
                self.wrong(key, format!("cannot read {}: {error}", path.display()), "name a file that is there")
            }
        }
    }
}

fn listen(config: &Config, listen: &Listen, reader: &mut Reader) {
    let path = &listen.base_path;
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._~/".contains(c);
    if !path.starts_with('/')
        || !path.chars().all(plain)
        || path.split('/').skip(1).any(|part| matches!(part, "" | "." | ".."))
    {
        reader.wrong("base_path", "not a plain path", "begin with a slash, end without one, as in \"/.holdover\"");
    }
    let (public, admin) = (listen.public, config.admin.listen);
    let overlap = public.ip() == admin.ip() || public.ip().is_unspecified() || admin.ip().is_unspecified();
    if public.port() != 0 && public.port() == admin.port() && overlap {
        reader.wrong("public", format!("the admin listener is on {admin}"), "give one of them another port");
    }
}

fn upstream(upstream: &Upstream, reader: &mut Reader) {
    if upstream.urls.is_empty() {
        reader.wrong(
            "url",
            "there is no backend",
            "write url = \"http://host:port\" below [upstream], or give --upstream",
        );
    }
    let tls = upstream.urls.iter().any(|backend| backend.tls);
    if upstream.ca.is_some() && !tls {
        reader.wrong("ca", "no backend is spoken to over TLS", "write https:// in `url`, or leave `ca` out");
    }
    if upstream.ca.is_some() && !upstream.verify {
        reader.wrong("verify", "`ca` is of no use when nothing is verified", "leave one of them out");
    }
    reader.readable("ca", upstream.ca.as_deref());
}

fn store(store: &Store, reader: &mut Reader) {
    if store.prefix.chars().any(|c| "{}".contains(c) || c.is_whitespace() || c.is_control()) {
        reader.wrong(
            "prefix",
            "braces and white space are not allowed",
            "braces decide the slot of a key in a cluster",
        );
    }
    if reader.is_set("url") && !reader.is_set("kind") {
        reader.wrong("url", "nothing uses the URL: turns are kept in memory", "write kind = \"redis\"");
    }
    if store.kind == StoreKind::Memory {
        return;
    }
    let url = &store.url;
    if store.cluster && (url.scheme.is_sentinel() || url.scheme == RedisScheme::Unix) {
        reader.wrong("cluster", "a cluster is reached by redis:// or rediss://", "change `url` or leave `cluster` out");
    } else if store.cluster && url.database != 0 {
        reader.wrong("url", "a cluster has database 0 only", "end the URL after host and port");
    } else if !store.cluster && !url.scheme.is_sentinel() && url.hosts.len() > 1 {
        reader.wrong("url", "several hosts need a cluster or sentinels", "write cluster = true, or one host");
    }
    for (key, ours, theirs) in [
        ("username", store.username.is_some(), url.username.is_some()),
        ("password", store.password.is_some(), url.password.is_some()),
    ] {
        if ours && theirs {
            reader.wrong(key, format!("there is a {key} in `url`, too"), "leave one of them out");
        }
    }
    let named = store.username.is_some() || url.username.is_some();
    if named && store.password.is_none() && url.password.is_none() {
        reader.wrong(
            "password",
            "there is a user name but no password",
            "a password alone is written redis://:PASSWORD@host",
        );
    }
    for (key, path) in [("ca", &store.ca), ("cert", &store.cert), ("key", &store.key)] {
        if path.is_some() && !url.scheme.is_tls() {
            reader.wrong(key, "Redis is not spoken to over TLS", "write rediss:// in `url`, or leave this out");
        }
        reader.readable(key, path.as_deref());
    }
    if store.cert.is_some() != store.key.is_some() {
        let (missing, given) = if store.cert.is_some() { ("key", "cert") } else { ("cert", "key") };
        reader.wrong(missing, format!("`{given}` is of no use without it"), "name both files");
    }
    if store.flush_window >= store.ack_deadline {
        reader.wrong("flush_window", "every event would miss `ack_deadline`", "make it shorter than `ack_deadline`");
    }
    if store.command_timeout * 2 > store.lease {
        reader.wrong("lease", "one slow command would cost the lease", "make it at least twice `command_timeout`");
    }
}

fn identity(identity: &Identity, reader: &mut Reader) {
    if identity.secret.as_ref().is_some_and(|secret| secret.expose().chars().count() < 16) {
        reader.wrong("secret", "shorter than 16 characters", "make one with: openssl rand -hex 32");
    }
    let jwt = &identity.jwt;
    let keys = [
        ("jwt.secret", jwt.secret.is_some()),
        ("jwt.jwks_file", jwt.jwks_file.is_some()),
        ("jwt.jwks_url", jwt.jwks_url.is_some()),
    ];
    let given: Vec<_> = keys.iter().filter(|(_, given)| *given).map(|(key, _)| *key).collect();
    let wanted = identity.from.iter().any(|source| matches!(source, IdentitySource::Jwt(_)));
    match given[..] {
        [] if wanted => {
            reader.wrong(
                "jwt",
                "nothing verifies the tokens of `from`",
                "set one of secret, jwks_file and jwks_url below [identity.jwt]",
            );
        }
        [key, ..] if !wanted => {
            reader.wrong(key, "nothing uses it", "write \"jwt:sub\" or another claim into `from`");
        }
        [_, second, ..] => {
            reader.wrong(second, "tokens are verified in one way only", format!("leave {} out", given.join(" or ")))
        }
        _ => {}
    }
    reader.readable("jwt.jwks_file", jwt.jwks_file.as_deref());
    let path = &identity.subrequest.path;
    if !path.starts_with('/') || path.contains('#') || path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        reader.wrong("subrequest.path", "not a path", "begin with a slash, as in \"/auth\"");
    }
    let nothing = identity.subrequest.headers.is_empty();
    if nothing && identity.from.contains(&IdentitySource::Subrequest) {
        reader.wrong(
            "subrequest.headers",
            "without headers everybody is the same",
            "name the headers that say who is asking",
        );
    }
}

/// What is wrong with a log level or filter. A filter takes any single word for the name of a module, so a misspelt
/// level would log everything of nothing.
fn level(text: &str) -> Option<String> {
    for part in text.split(',').map(str::trim) {
        if !part.contains(['=', '[']) && !part.contains("::") && part.parse::<LevelFilter>().is_err() {
            let near = closest(part, ["off", "error", "warn", "info", "debug", "trace"].into_iter());
            let near = near.map(|near| format!("; did you mean {near}?")).unwrap_or_default();
            return Some(format!("`{}` is not a level{near}", part.escape_debug()));
        }
    }
    EnvFilter::try_new(text).err().map(|error| format!("not a filter: {error}"))
}

fn routes(routes: &[Route], reader: &mut Reader) {
    let mut names: HashMap<&str, usize> = HashMap::new();
    for (index, route) in routes.iter().enumerate() {
        reader.at(format!("route[{index}]"), |reader| {
            if let Some(first) = names.insert(&route.name, index) {
                let message = format!("route[{first}] is named `{}`, too", route.name.escape_debug());
                reader.wrong("name", message, "give each route its own name");
            }
            if route.name.len() > 64 || !route.name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c)) {
                reader.wrong("name", "not a plain name", "use at most 64 letters, digits, `-`, `_` and `.`");
            }
            if !PROFILES.contains(&route.profile.as_str()) {
                let wrong = not_among(&route.profile, PROFILES);
                reader.wrong("profile", wrong.message, wrong.help.unwrap_or_default());
            }
            if let Some(SessionSource::Path(name)) = &route.session
                && !route.path.params().any(|param| param == name)
            {
                let message = format!("the path has no segment {{{}}}", name.escape_debug());
                reader.wrong("session", message, format!("write it into the path, as in \"/threads/{{{name}}}\""));
            }
            let before = routes[..index].iter().position(|earlier| {
                let methods = &earlier.methods;
                let any = methods.is_empty()
                    || !route.methods.is_empty() && route.methods.iter().all(|m| methods.contains(m));
                any && earlier.path.covers(&route.path)
            });
            if let Some(before) = before {
                let name = routes[before].name.escape_debug();
                reader.wrong(
                    "path",
                    format!("never reached: route[{before}] (`{name}`) takes everything first"),
                    "put this route before it",
                );
            }
        });
    }
}
