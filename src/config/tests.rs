//! Settings from all sources, and what is said about wrong ones.

use std::{ffi::OsString, fs, path::Path, time::Duration};

use http::Method;
use tempfile::TempDir;

use super::{
    section::{Setting, Shown},
    *,
};

mod values;

/// Sources of a test: a file, variables and flags.
struct Given {
    folder: TempDir,
    sources: Sources,
}

impl Given {
    fn file(text: &str) -> Self {
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("holdover.toml");
        fs::write(&path, text).unwrap();
        let sources = Sources { file: Some((path, Origin::Flag("--config"))), ..Sources::default() };
        Self { folder, sources }
    }

    fn nothing() -> Self {
        Self { folder: TempDir::new().unwrap(), sources: Sources::default() }
    }

    fn variable(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.sources.environment.push((name.into(), value.into()));
        self
    }

    fn flag(mut self, name: &'static str, key: &'static str, values: &[&str]) -> Self {
        let values = values.iter().map(|value| (*value).to_owned()).collect();
        self.sources.flags.push(Flag { name, key, values });
        self
    }

    fn load(&self) -> Loaded {
        load(&self.sources).unwrap_or_else(|problems| panic!("{problems}"))
    }

    /// Each problem as `place key: message; help`, where the place is a line of the file, a variable or a flag.
    fn problems(&self) -> Vec<String> {
        let (_, problems) = read(&self.sources);
        let place = |origin: &Origin| match origin {
            Origin::File(_, line) => line.to_string(),
            other => other.to_string(),
        };
        let line = |p: &Problem| {
            format!("{} {}: {}; {}", place(&p.origin), p.key, p.message, p.help.as_deref().unwrap_or_default())
        };
        problems.0.iter().map(line).collect()
    }
}

const BACKEND: &str = "[upstream]\nurl = \"http://127.0.0.1:8000\"\n";

#[test]
fn a_backend_is_all_that_is_needed() {
    let loaded = Given::nothing().flag("--upstream", "upstream.url", &["http://127.0.0.1:8000"]).load();
    let mut expected = Config::default();
    expected.upstream.urls = vec![Backend { tls: false, host: "127.0.0.1".to_owned(), port: 8000 }];
    assert_eq!(loaded.config, expected);
    assert_eq!(loaded.config.routes[0].name, "default");
}

#[test]
fn without_a_backend_it_is_said_what_to_write() {
    let problems = Given::nothing().problems();
    assert_eq!(problems.len(), 1);
    assert!(problems[0].starts_with("default upstream.url: there is no backend; write url ="), "{problems:?}");
}

#[test]
fn flags_win_over_environment_over_file_over_default() {
    let given = Given::file(
        "[upstream]\nurl = 'http://file:1'\nconnect_timeout = '1s'\n[listen]\npublic = '1.1.1.1:1'\n[log]\nlevel = 'warn'\n",
    )
    .variable("HOLDOVER__UPSTREAM__CONNECT_TIMEOUT", "2s")
    .variable("HOLDOVER__LISTEN__PUBLIC", "2.2.2.2:2")
    .flag("--listen", "listen.public", &["3.3.3.3:3"]);
    let Loaded { config, origins } = given.load();
    assert_eq!(config.upstream.urls[0].to_string(), "http://file:1");
    assert_eq!(config.upstream.connect_timeout, Duration::from_secs(2));
    assert_eq!(config.listen.public.to_string(), "3.3.3.3:3");
    assert_eq!(config.log.level, "warn");
    assert_eq!(config.listen.write_timeout, Listen::default().write_timeout);

    let file = given.folder.path().join("holdover.toml");
    assert_eq!(*origins.get("upstream.url"), Origin::File(file.as_path().into(), 2));
    assert_eq!(*origins.get("log.level"), Origin::File(file.as_path().into(), 7));
    assert_eq!(*origins.get("upstream.connect_timeout"), Origin::Env("HOLDOVER__UPSTREAM__CONNECT_TIMEOUT".to_owned()));
    assert_eq!(*origins.get("listen.public"), Origin::Flag("--listen"));
    assert_eq!(*origins.get("listen.write_timeout"), Origin::Default);
}

#[test]
fn a_list_of_backends_may_be_called_urls_and_replaces_the_lower_ones_whole() {
    let given = Given::file("[upstream]\nurls = ['http://a', 'https://b:444']\n");
    assert_eq!(given.load().config.upstream.urls.len(), 2);
    let urls = given.variable("HOLDOVER__UPSTREAM__URLS", "http://c, http://d").load().config.upstream.urls;
    assert_eq!(urls.iter().map(|url| url.host.as_str()).collect::<Vec<_>>(), ["c", "d"]);
    let both = Given::file("[upstream]\nurl = 'http://a'\nurls = ['http://b']\n").problems();
    assert_eq!(both, ["3 upstream.urls: `url` is set as well; write all backends into `urls`"]);
}

#[test]
fn lists_in_variables_have_commas_or_are_toml() {
    let given = |value| Given::file(BACKEND).variable("HOLDOVER__IDENTITY__FROM", value).load().config.identity.from;
    let expected = [IdentitySource::Cookie("sid".to_owned()), IdentitySource::Subrequest];
    assert_eq!(given("cookie:sid, subrequest"), expected);
    assert_eq!(given("['cookie:sid', 'subrequest']"), expected);
    assert_eq!(given(""), []);
    let routes =
        Given::file(BACKEND).variable("HOLDOVER__ROUTE", "[{ path = '/a', followers = 3 }]").load().config.routes;
    assert_eq!((routes[0].path.to_string().as_str(), routes[0].followers), ("/a", 3));
    let broken = Given::file(BACKEND).variable("HOLDOVER__IDENTITY__FROM", "['cookie:sid'").problems();
    assert!(broken[0].starts_with("environment HOLDOVER__IDENTITY__FROM identity.from: not TOML"), "{broken:?}");
}

#[test]
fn every_problem_is_reported_at_once_with_its_line() {
    let text = "\
[listen]
public = \"8080\"
basepath = \"/x\"

[upstream]
url = [\"http://u:p@host/v1\", \"localhost:8000\"]
max_retries = 99

[store]
kind = \"reddis\"
memory_limit = \"64M\"
lease = 10

[identity.jwt]
secrt = \"hunter2hunter2\"

[log]
level = \"inof\"

[[route]]
path = \"/threads/{thread}\"
session = \"path:chat\"

[[route]]
name = \"second\"
retain_after_end = \"1h\"
on_disconnect = { grace = \"soon\" }
methods = [\"post\"]

[stroe]
kind = \"redis\"
";
    let problems = Given::file(text)
        .variable("HOLDOVER__STORE__DURABILTY", "acked")
        .variable("HOLDOVER__DRAIN__MAX", "forever")
        .flag("--admin-listen", "admin.listen", &["nowhere"])
        .problems();
    let expected = [
        "2 listen.public: the address is missing; write \"0.0.0.0:8080\" for all addresses",
        "3 listen.basepath: unknown key; did you mean `base_path`?",
        "6 upstream.url[0]: a backend has no path, query or user: requests keep their own; write \"http://host\"",
        "6 upstream.url[1]: the scheme is missing; write \"http://host:port\"",
        "7 upstream.max_retries: 99 is out of range; write at most 10",
        "10 store.kind: `reddis` is not known here; did you mean `redis`?",
        "11 store.memory_limit: `M` is not a unit of size; write \"64MiB\"",
        "12 store.lease: the duration has no unit; write \"10s\" for seconds",
        "15 identity.jwt.secrt: unknown key; did you mean `secret`?",
        "18 log.level: `inof` is not a level; did you mean info?; write error, warn, info, debug or trace, or a list such as \"info,holdover=debug\"",
        "22 route[0].session: the path has no segment {chat}; write it into the path, as in \"/threads/{chat}\"",
        "26 route[1].retain_after_end: unknown key; did you mean `store.retain_after_end`?",
        "27 route[1].on_disconnect: expected `continue`, `cancel` or `{ grace = \"30s\" }`, found a table; ",
        "28 route[1].methods[0]: methods are written in capitals; write \"POST\"",
        "30 stroe: unknown key; did you mean `store`?",
        "environment HOLDOVER__DRAIN__MAX drain.max: expected a duration such as \"10s\", found another text; ",
        "environment HOLDOVER__STORE__DURABILTY : unknown variable HOLDOVER__STORE__DURABILTY; did you mean HOLDOVER__STORE__DURABILITY?",
        "--admin-listen admin.listen: expected an address and port such as \"127.0.0.1:8080\" or \"[::]:8080\", found another text; ",
    ];
    for (got, wanted) in problems.iter().zip(expected) {
        assert_eq!(got, wanted);
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn a_problem_reads_like_that_of_a_compiler() {
    let (_, problems) = read(&Given::file("[upstream]\nurl = 'http://a'\nhtpp2 = true\n").sources);
    let text = problems.to_string();
    let path = problems.0[0].origin.to_string();
    assert!(path.ends_with("holdover.toml:3"), "{path}");
    assert_eq!(
        text,
        format!(
            "error: upstream.htpp2: unknown key\n  --> {path}\n  help: did you mean `http2`?\n\n1 problem in the configuration"
        )
    );
}

#[test]
fn a_section_that_is_no_table_is_reported_below_another_source_too() {
    let problems = Given::file("listen = 3\n").flag("--listen", "listen.public", &["127.0.0.1:1"]).problems();
    assert!(problems.contains(&"1 listen: expected a table, found an integer; ".to_owned()), "{problems:?}");
}

#[test]
fn broken_toml_is_reported_by_line_and_the_rest_is_still_checked() {
    let problems = Given::file("[upstream]\nurl = \nconnect_timeout = 'x'\n[drain\n").problems();
    assert!(problems.iter().any(|p| p.starts_with("2 : not TOML")), "{problems:?}");
    assert!(problems.iter().any(|p| p.starts_with("3 upstream.connect_timeout")), "{problems:?}");
    assert!(problems.iter().any(|p| p.starts_with("4 : not TOML")), "{problems:?}");
}

#[test]
fn impossible_combinations_are_refused() {
    let cases = [
        ("[store]\nurl = 'redis://r'", "store.url: nothing uses the URL"),
        (
            "[store]\nkind = 'redis'\nurl = 'redis-sentinel://s/m'\ncluster = true",
            "store.cluster: a cluster is reached by",
        ),
        ("[store]\nkind = 'redis'\nurl = 'redis://r/3'\ncluster = true", "store.url: a cluster has database 0"),
        ("[store]\nkind = 'redis'\nurl = 'redis://a,b'", "store.url: several hosts need"),
        ("[store]\nkind = 'redis'\nurl = 'redis://u@r'", "store.password: there is a user name but no password"),
        (
            "[store]\nkind = 'redis'\nurl = 'redis://:p@r'\npassword = 'q'",
            "store.password: there is a password in `url`",
        ),
        ("[store]\nkind = 'redis'\nca = '/nowhere'", "store.ca: Redis is not spoken to over TLS"),
        ("[store]\nkind = 'redis'\nurl = 'rediss://r'\ncert = 'CERT'", "store.key: `cert` is of no use without it"),
        ("[store]\nkind = 'redis'\nflush_window = '600ms'", "store.flush_window: every event would miss"),
        ("[store]\nkind = 'redis'\nlease = '2s'\ncommand_timeout = '1500ms'", "store.lease: one slow command"),
        ("[store]\nprefix = 'a{b}'", "store.prefix: braces and white space"),
        ("[store]\nprefix = 'a b'", "store.prefix: braces and white space"),
        ("[identity]\nfrom = 'jwt:sub'", "identity.jwt: nothing verifies the tokens"),
        (
            "[identity]\nfrom = 'jwt:sub'\njwt = { secret = 's', jwks_url = 'http://k' }",
            "identity.jwt.jwks_url: tokens are verified in one way",
        ),
        ("[identity]\njwt = { secret = 's' }", "identity.jwt.secret: nothing uses it"),
        ("[identity]\nsecret = 'short'", "identity.secret: shorter than 16"),
        (
            "[identity]\nfrom = 'subrequest'\nsubrequest = { headers = [] }",
            "identity.subrequest.headers: without headers",
        ),
        ("[identity]\nsubrequest = { path = 'auth' }", "identity.subrequest.path: not a path"),
        ("[admin]\nlisten = '127.0.0.1:8080'", "listen.public: the admin listener is on 127.0.0.1:8080"),
        ("[listen]\nbase_path = '/'", "listen.base_path: not a plain path"),
        ("[listen]\nbase_path = '/a/../b'", "listen.base_path: not a plain path"),
        ("[[route]]\n[[route]]\npath = '/x'", "route[1].name: route[0] is named `default`, too"),
        ("[[route]]\n[[route]]\nname = 'x'\npath = '/x'", "route[1].path: never reached: route[0] (`default`)"),
        ("[[route]]\nprofile = 'genric'", "route[0].profile: `genric` is not known here; did you mean `generic`?"),
        ("[[route]]\nname = 'a\"b'", "route[0].name: not a plain name"),
        ("route = 3", "route[0]: expected a table, found an integer"),
    ];
    let folder = TempDir::new().unwrap();
    let cert = folder.path().join("cert.pem");
    fs::write(&cert, "").unwrap();
    for (text, expected) in cases {
        let text = text.replace("CERT", cert.to_str().unwrap());
        let problems = Given::file(&format!("{text}\n")).flag("--upstream", "upstream.url", &["http://a"]).problems();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{text}: {problems:#?}");
    }
}

#[test]
fn combinations_that_are_possible_are_accepted() {
    let cases = [
        "[store]\nkind = 'memory'\nurl = 'redis://kept-for-later'",
        "[store]\nkind = 'redis'\nurl = 'redis://a,b:7000'\ncluster = true",
        "[store]\nkind = 'redis'\nurl = 'redis-sentinel://a,b:1/m/2'",
        "[identity]\nfrom = 'jwt:sub'\njwt = { jwks_url = 'https://k/keys' }",
        "[log]\nlevel = 'warn,holdover=debug,pingora_core::server=off'",
        "[[route]]\nmethods = ['POST']\n[[route]]\nname = 'x'\npath = '/x'",
        "[listen]\npublic = '10.0.0.1:80'\n[admin]\nlisten = '10.0.0.2:80'",
    ];
    for text in cases {
        let given = Given::file(&format!("{text}\n")).flag("--upstream", "upstream.url", &["http://a"]);
        assert_eq!(given.problems(), [""; 0], "{text}");
    }
}

#[test]
fn secrets_are_shown_nowhere() {
    let text = "[upstream]\nurl = 'http://a'\n[store]\nkind = 'redis'\n\
                url = 'redis://me:hunter2-url@r:1/0'\n[identity]\nsecret = 'hunter2-hunter2-hunter2'\n";
    let loaded = Given::file(text).load();
    assert_eq!(loaded.config.store.url.password.as_ref().unwrap().expose(), "hunter2-url");
    for shown in [format!("{:?}", loaded), loaded.print(), loaded.config.store.url.to_string()] {
        assert!(!shown.contains("hunter2"), "{shown}");
    }
    assert!(loaded.print().contains("url = \"redis://me:[redacted]@r:1/0\""), "{}", loaded.print());

    let wrong = [
        "[upstream]\nurl = 'http://me:hunter2@h'",
        "[upstream]\nurl = 'ftp://me:hunter2@h'",
        "[store]\nkind = 'redis'\nurl = 'redis://me:hunter2/x@h'",
        "[store]\nkind = 'redis'\nurl = 'redis://me:hunter2?x@h'",
        "[store]\nkind = 'redis'\nurl = 'hunter2'",
        "[store]\nkind = 'redis'\nurl = 'http://hunter2@h'",
        "[identity]\nsecret = 'hunter2'",
        "[identity]\njwt = { jwks_url = 'http://me:hunter2@h' }",
        "[store]\npassword = ['hunter2'",
        "[store]\npassword = 'hunter2",
        "[store]\npassword = 'a'\npassword = 'hunter2'",
    ];
    for text in wrong {
        let (loaded, problems) = read(&Given::file(&format!("{text}\n")).sources);
        assert!(!problems.0.is_empty(), "{text}");
        let shown = format!("{problems} {problems:?} {loaded:?}");
        assert!(!shown.contains("hunter2"), "{text}: {shown}");
    }
}

#[test]
fn secrets_are_read_from_files_named_by_variables() {
    let given = Given::file(BACKEND);
    let path = given.folder.path().join("secret");
    fs::write(&path, "  sixteen-characters-and-more\n").unwrap();
    let given = given.variable("HOLDOVER__IDENTITY__SECRET_FILE", &path);
    let loaded = given.load();
    assert_eq!(loaded.config.identity.secret.unwrap().expose(), "sixteen-characters-and-more");
    assert_eq!(*loaded.origins.get("identity.secret"), Origin::Env("HOLDOVER__IDENTITY__SECRET_FILE".to_owned()));

    let twice = given.variable("HOLDOVER__IDENTITY__SECRET", "another-secret-of-16").problems();
    assert!(twice[0].contains("two variables set this key"), "{twice:?}");
    let missing = Given::file(BACKEND).variable("HOLDOVER__STORE__PASSWORD_FILE", "/nowhere/at/all").problems();
    assert!(missing[0].contains("store.password: cannot read the file it names"), "{missing:?}");
    let plain = Given::file(BACKEND).variable("HOLDOVER__LOG__LEVEL_FILE", &path).problems();
    assert!(plain[0].contains("unknown variable HOLDOVER__LOG__LEVEL_FILE"), "{plain:?}");
    // The key itself ends in _file here.
    let keys = TempDir::new().unwrap();
    let path = keys.path().join("jwks.json");
    fs::write(&path, "{}").unwrap();
    let jwks = Given::file(&format!("{BACKEND}[identity]\nfrom = 'jwt:sub'\n"))
        .variable("HOLDOVER__IDENTITY__JWT__JWKS_FILE", &path)
        .load();
    assert_eq!(jwks.config.identity.jwt.jwks_file.as_deref(), Some(path.as_path()));
}

#[test]
fn only_variables_with_our_prefix_are_ours() {
    let given = Given::file(BACKEND)
        .variable("HOLDOVER_PORT", "tcp://10.0.0.1:80")
        .variable("HOLDOVER_SERVICE_HOST", "10.0.0.1")
        .variable("PATH", "/bin");
    assert_eq!(given.problems(), [""; 0]);
    let section = Given::file(BACKEND).variable("HOLDOVER__LIMITS", "3").problems();
    assert!(
        section[0].contains("it names a section; set its keys, such as HOLDOVER__LIMITS__MAX_TURNS"),
        "{section:?}"
    );
}

#[test]
fn files_that_cannot_be_read_are_named_with_who_named_them() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("x.toml");
    let problems = |path: &Path| {
        let file = Some((path.to_owned(), Origin::Flag("--config")));
        Given { folder: TempDir::new().unwrap(), sources: Sources { file, ..Sources::default() } }.problems()
    };
    assert!(problems(&path).iter().any(|p| p.starts_with("--config : cannot read ")));
    assert!(problems(folder.path()).iter().any(|p| p.starts_with("--config : cannot read ")));
    fs::write(&path, b"\xff\xfe").unwrap();
    assert!(problems(&path).iter().any(|p| p.contains("it is not UTF-8")));
    let ca = Given::file("[upstream]\nurl = 'https://a'\nca = '/nowhere/ca.pem'\n").problems();
    assert!(ca[0].starts_with("3 upstream.ca: cannot read /nowhere/ca.pem"), "{ca:?}");
}

#[test]
fn the_documented_default_file_is_the_default() {
    let text = default_file();
    let loaded = Given::file(&text).flag("--upstream", "upstream.url", &["http://a"]).load();
    let mut config = loaded.config;
    config.upstream.urls.clear();
    assert_eq!(config, Config::default());
    assert_eq!(include_str!("../../config/default.toml"), text, "run: holdover config default > config/default.toml");
}

#[test]
fn every_key_is_documented_in_the_default_file_and_in_the_schema() {
    fn visit(shown: Shown, schema: &serde_json::Value, text: &str) -> usize {
        let fields = match shown {
            Shown::Table(fields) => fields,
            Shown::Tables(mut list) => list.remove(0),
            Shown::Unset | Shown::Value(_) => return 0,
        };
        let mut count = 0;
        for field in fields {
            let schema = &schema["properties"][field.key];
            assert!(schema["description"].as_str().is_some_and(|text| text.len() > 10), "{}: {schema}", field.key);
            assert!(text.contains(&format!("#{}\n", field.docs[0])), "{}", field.key);
            let inner = if schema["anyOf"].is_null() { schema } else { &schema["anyOf"][0] };
            count += 1 + visit(field.value, inner, text);
        }
        count
    }
    let count = visit(Config::default().show(), &schema(), &default_file());
    assert!(count > 70, "{count}");
}

#[test]
fn the_guide_names_every_secret_that_can_be_read_from_a_file() {
    let guide = include_str!("../../docs/configuration.md");
    let listed = guide.split_once("This works for ").unwrap().1.split_once(".\n\n").unwrap().0;
    let mut listed: Vec<_> = listed.split('`').skip(1).step_by(2).collect();
    let keys = super::load::keys();
    let mut secret: Vec<_> = keys.iter().filter(|(_, secret)| *secret).map(|(key, _)| key.as_str()).collect();
    listed.sort_unstable();
    secret.sort_unstable();
    assert_eq!(listed, secret);
}

#[test]
fn example_files_load() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let is_toml = path.extension().is_some_and(|extension| extension == "toml");
        if is_toml && path.file_name().unwrap() != "default.toml" {
            let file = Some((path.clone(), Origin::Flag("--config")));
            let loaded = load(&Sources { file, ..Sources::default() }).unwrap_or_else(|problems| panic!("{problems}"));
            assert!(!loaded.config.upstream.urls.is_empty());
        }
    }
}

#[test]
fn what_is_printed_can_be_loaded_and_names_origins() {
    let given = Given::file(&format!("{BACKEND}[[route]]\non_disconnect = {{ grace = '90s' }}\nkeepalive = 'off'\n"));
    let loaded = given.load();
    let printed = loaded.print();
    assert_eq!(Given::file(&printed).load().config, loaded.config, "{printed}");
    let line = printed.lines().find(|line| line.starts_with("keepalive = \"off\"")).unwrap();
    assert!(line.ends_with("holdover.toml:5"), "{line}");
    let line = printed.lines().find(|line| line.starts_with("drain") || line.starts_with("max = ")).unwrap();
    assert!(line.ends_with("# default"), "{line}");
}

#[test]
fn the_first_route_that_matches_is_taken() {
    let text = format!(
        "{BACKEND}[[route]]\nname = 'a'\npath = '/api'\nmethods = 'POST'\n[[route]]\nname = 'b'\npath = '/api/{{x}}'\n"
    );
    let config = Given::file(&text).load().config;
    let name = |method, path| config.route(&method, path).map(|(index, route, _)| (index, route.name.clone()));
    assert_eq!(name(Method::POST, "/api/1"), Some((0, "a".to_owned())));
    assert_eq!(name(Method::GET, "/api/1"), Some((1, "b".to_owned())));
    assert_eq!(name(Method::GET, "/api"), None);
}

#[test]
fn hostile_files_are_refused_without_harm() {
    let deep = format!("x = {}{}\n", "[".repeat(100_000), "]".repeat(100_000));
    let tables = format!("[{}x]\n", "a.".repeat(100_000));
    let long_key = format!("{} = 1\n", "k".repeat(1_000_000));
    let many = (0..2000).map(|index| format!("key{index} = 1\n")).collect::<String>();
    let numbers =
        "[limits]\nmax_turns = 99999999999999999999999999999999999999999999\n[upstream]\nurl = nan\n".to_owned();
    let control = "[log]\nlevel = \"\\u001b[31m\"\n\"\\u001b[31m\" = 1\n".to_owned();
    for text in [deep, tables, long_key, many, numbers, control, "\0".to_owned(), "[".to_owned()] {
        let (_, problems) = read(&Given::file(&text).sources);
        assert!(!problems.0.is_empty());
        assert!(!problems.to_string().contains('\u{1b}'), "{problems}");
    }
}
