//! The command line: its definition, and the commands that only look at the configuration.

use std::{
    ffi::OsString,
    io::{self, Write},
    net::SocketAddr,
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use clap::{Args, Parser, Subcommand};

use crate::{
    config::{self, Config, Flag, Loaded, Origin, Problems, Sources},
    store::redis::{Problem, Report},
};

/// Exit code for mistakes in usage or configuration (`EX_USAGE` of sysexits).
pub const EXIT_USAGE: u8 = 64;

/// Exit code for what is around a good configuration and will not do.
pub const EXIT_UNFIT: u8 = 1;

/// Variable that names the configuration file when `--config` does not.
const CONFIG_VARIABLE: &str = "HOLDOVER_CONFIG";

/// Holdover records every server-sent-event response as a turn, so that any client can resume it.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, disable_help_subcommand = true)]
#[command(
    after_help = "Exit codes: 0 good, 1 could not start, is not healthy, or has a store that will not do, 64 wrong usage or configuration."
)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What Holdover can be told to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the proxy
    Run(Settings),
    /// Report everything that is wrong with the configuration, or summarise it
    Check(Check),
    /// Run a plain backend, the proxy and a chat page on free ports, and print the address
    Demo(Demo),
    /// Ask a running node whether it is healthy, for containers without curl
    Healthcheck(Healthcheck),
    /// Print configurations
    #[command(subcommand)]
    Config(ConfigCommand),
}

/// What `holdover config` can print.
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Print every setting with its documentation and default
    Default,
    /// Print the settings in effect and where each one came from, secrets redacted
    Print(Settings),
    /// Print the JSON schema of the configuration file
    Schema,
}

/// Flags that set something. They win over the environment, which wins over the file.
#[derive(Args, Clone, Debug, Default)]
pub struct Settings {
    /// Configuration file [environment: HOLDOVER_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Backend, such as http://127.0.0.1:8000; several for several equal ones
    #[arg(long, value_name = "URL")]
    pub upstream: Vec<String>,
    /// Address of the public listener [default: 0.0.0.0:8080]
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Address of metrics and health [default: 127.0.0.1:9901]
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// Keep turns in this Redis instead of memory
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,
    /// Least severe level that is logged, or a filter [default: info]
    #[arg(long, value_name = "LEVEL")]
    pub log_level: Option<String>,
}

/// Flags of `holdover check`.
#[derive(Args, Clone, Debug)]
pub struct Check {
    /// What to check.
    #[command(flatten)]
    pub settings: Settings,
    /// Connect to the store, too, and report all that is wrong with its servers and the user's rights
    #[arg(long)]
    pub connect: bool,
}

/// Flags of `holdover demo`.
#[derive(Args, Clone, Debug)]
pub struct Demo {
    /// Address of the chat page; port 0 takes a free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pub listen: SocketAddr,
}

/// Flags of `holdover healthcheck`.
#[derive(Args, Clone, Debug)]
pub struct Healthcheck {
    /// Configuration file that names the admin listener [environment: HOLDOVER_CONFIG]
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Address of the admin listener, if neither file nor environment names it
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// Ask whether the process lives, not whether it is ready for traffic
    #[arg(long)]
    pub live: bool,
    /// Seconds to wait for the answer
    #[arg(long, value_name = "SECONDS", default_value_t = 2)]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=300))]
    pub timeout: u64,
}

/// The command line of this process. `Err` is the exit code, after help, version or the mistake has been printed.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, ExitCode> {
    Cli::try_parse_from(arguments).map_err(|message| {
        let code = if message.use_stderr() { ExitCode::from(EXIT_USAGE) } else { ExitCode::SUCCESS };
        // Nobody is left to tell when the terminal is gone.
        let _ = message.print();
        code
    })
}

impl Settings {
    /// These flags with an environment, as [`std::env::vars_os`] gives it.
    pub fn sources(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Sources {
        let environment: Vec<_> = environment.into_iter().collect();
        let named = environment.iter().find(|(name, value)| name == CONFIG_VARIABLE && !value.is_empty());
        let file = match &self.config {
            Some(path) => Some((path.clone(), Origin::Flag("--config"))),
            None => named.map(|(name, path)| (path.into(), Origin::Env(name.to_string_lossy().into_owned()))),
        };
        let one = |name, key, value: &Option<String>| Flag { name, key, values: value.iter().cloned().collect() };
        let redis = self.redis.as_ref().map(|_| "redis".to_owned());
        let flags = vec![
            Flag { name: "--upstream", key: "upstream.url", values: self.upstream.clone() },
            one("--listen", "listen.public", &self.listen),
            one("--admin-listen", "admin.listen", &self.admin_listen),
            one("--redis", "store.kind", &redis),
            one("--redis", "store.url", &self.redis),
            one("--log-level", "log.level", &self.log_level),
        ];
        Sources { file, environment, flags }
    }

    /// The configuration of this process: file, environment and these flags. Reads files, opens no port.
    pub fn load(&self) -> Result<Loaded, Problems> {
        config::load(&self.sources(std::env::vars_os()))
    }
}

impl Healthcheck {
    /// Where the admin listener is reached. Only what is wrong with its address, or with a source as a whole, is a
    /// problem here: the rest of the configuration may come from flags this command does not get.
    pub fn address(&self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Result<SocketAddr, Problems> {
        let settings =
            Settings { config: self.config.clone(), admin_listen: self.admin_listen.clone(), ..Settings::default() };
        let (loaded, problems) = config::read(&settings.sources(environment));
        let ours: Vec<_> =
            problems.0.into_iter().filter(|problem| matches!(problem.key.as_str(), "" | "admin.listen")).collect();
        if !ours.is_empty() {
            return Err(Problems(ours));
        }
        let mut address = loaded.config.admin.listen;
        if address.ip().is_unspecified() {
            address.set_ip(if address.is_ipv4() {
                [127, 0, 0, 1].into()
            } else {
                std::net::Ipv6Addr::LOCALHOST.into()
            });
        }
        Ok(address)
    }

    /// How long to wait for the answer.
    pub fn timeout(&self) -> Duration {
        Duration::from_secs(self.timeout)
    }
}

/// `holdover check`: a summary if all is good, else all problems. Returns the configuration, or the exit code.
pub fn check(
    sources: &Sources,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<Result<Box<Config>, ExitCode>> {
    match config::load(sources) {
        Ok(loaded) => {
            summary(&loaded, out)?;
            Ok(Ok(Box::new(loaded.config)))
        }
        Err(problems) => Ok(Err(refuse(&problems, err)?)),
    }
}

/// `holdover check --connect`: a line per server if all is good, else all problems.
pub fn tell(report: Option<&Report>, out: &mut impl Write, err: &mut impl Write) -> io::Result<ExitCode> {
    let Some(report) = report else {
        writeln!(out, "\nTurns are kept in memory: there is nothing to connect to.")?;
        return Ok(ExitCode::SUCCESS);
    };
    if report.problems.is_empty() {
        writeln!(out, "\nThe store will do.\n")?;
        report.servers.iter().try_for_each(|server| writeln!(out, "  {server}"))?;
        return Ok(ExitCode::SUCCESS);
    }
    for (server, Problem { message, help }) in &report.problems {
        writeln!(err, "error: store: {message}\n  --> {server}")?;
        if !help.is_empty() {
            writeln!(err, "  help: {help}")?;
        }
        writeln!(err)?;
    }
    let problems = report.problems.len();
    writeln!(err, "{problems} problem{} with the store", if problems == 1 { "" } else { "s" })?;
    Ok(ExitCode::from(EXIT_UNFIT))
}

/// `holdover config`: prints what is asked for.
pub fn print(
    command: &ConfigCommand,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    out: &mut impl Write,
    err: &mut impl Write,
) -> io::Result<ExitCode> {
    match command {
        ConfigCommand::Default => out.write_all(config::default_file().as_bytes())?,
        ConfigCommand::Schema => writeln!(out, "{:#}", config::schema())?,
        ConfigCommand::Print(settings) => match config::load(&settings.sources(environment)) {
            Ok(loaded) => out.write_all(loaded.print().as_bytes())?,
            Err(problems) => return refuse(&problems, err),
        },
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints what is wrong with a configuration; the exit code that goes with it.
pub fn refuse(problems: &Problems, err: &mut impl Write) -> io::Result<ExitCode> {
    writeln!(err, "{problems}")?;
    Ok(ExitCode::from(EXIT_USAGE))
}

/// One screen about a good configuration.
fn summary(loaded: &Loaded, out: &mut impl Write) -> io::Result<()> {
    let config = &loaded.config;
    let backends: Vec<_> = config.upstream.urls.iter().map(ToString::to_string).collect();
    let store = match config.store.kind {
        config::StoreKind::Memory => "memory".to_owned(),
        config::StoreKind::Redis => config.store.url.to_string(),
    };
    writeln!(out, "The configuration is good.\n")?;
    writeln!(out, "  clients    {}", config.listen.public)?;
    writeln!(out, "  backend    {}", backends.join(", "))?;
    writeln!(out, "  store      {store}")?;
    writeln!(out, "  admin      {}", config.admin.listen)?;
    writeln!(out, "  routes     first match wins")?;
    for route in &config.routes {
        let methods: Vec<_> = route.methods.iter().map(ToString::to_string).collect();
        let methods = if methods.is_empty() { "any method".to_owned() } else { methods.join(" ") };
        let what = if route.record { format!("profile {}", route.profile) } else { "not recorded".to_owned() };
        writeln!(out, "    {:16} {} ({methods}), {what}", route.name, route.path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn cli(line: &str) -> Result<Cli, ExitCode> {
        parse(line.split(' ').map(OsString::from))
    }

    fn settings(line: &str) -> Settings {
        match cli(line).unwrap().command {
            Command::Run(settings) | Command::Check(Check { settings, .. }) => settings,
            other => panic!("{other:?}"),
        }
    }

    fn checked(line: &str, environment: &[(&str, &str)]) -> (ExitCode, String, String) {
        let environment = environment.iter().map(|(name, value)| (name.into(), value.into()));
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let code = check(&settings(line).sources(environment), &mut out, &mut err).unwrap();
        let code = code.map_or_else(|code| code, |_| ExitCode::SUCCESS);
        (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn mistakes_exit_with_64_and_help_with_0() {
        for line in ["holdover", "holdover walk", "holdover run --no-such-flag", "holdover healthcheck --timeout 0"] {
            assert_eq!(cli(line).unwrap_err(), ExitCode::from(64), "{line}");
        }
        for line in ["holdover --help", "holdover --version", "holdover run --help"] {
            assert_eq!(cli(line).unwrap_err(), ExitCode::SUCCESS, "{line}");
        }
    }

    #[test]
    fn flags_set_what_they_say() {
        let line = "holdover run --upstream http://a --upstream http://b:1 --listen [::1]:1 --admin-listen 127.0.0.1:2 \
                    --redis redis://r --log-level debug";
        let config = config::load(&settings(line).sources([])).unwrap().config;
        let backends: Vec<_> = config.upstream.urls.iter().map(ToString::to_string).collect();
        assert_eq!(backends, ["http://a", "http://b:1"]);
        assert_eq!(config.listen.public.to_string(), "[::1]:1");
        assert_eq!(config.admin.listen.to_string(), "127.0.0.1:2");
        assert_eq!(config.store.kind, config::StoreKind::Redis);
        assert_eq!(config.store.url.to_string(), "redis://r:6379/0");
        assert_eq!(config.log.level, "debug");
    }

    #[test]
    fn the_file_is_named_by_flag_or_variable() {
        let variable = [("HOLDOVER_CONFIG".into(), "by-variable".into())];
        let file = |line| settings(line).sources(variable.clone()).file;
        assert_eq!(file("holdover run --config by-flag"), Some(("by-flag".into(), Origin::Flag("--config"))));
        assert_eq!(file("holdover run"), Some(("by-variable".into(), Origin::Env("HOLDOVER_CONFIG".to_owned()))));
        assert_eq!(settings("holdover run").sources([("HOLDOVER_CONFIG".into(), "".into())]).file, None);
    }

    #[test]
    fn check_summarises_a_good_configuration_on_one_screen() {
        let line = "holdover check --upstream http://a --redis redis://:hunter2@r";
        let (code, out, err) = checked(line, &[("HOLDOVER__ROUTE", "[{ path = '/x', methods = 'POST' }]")]);
        assert_eq!((code, err.as_str()), (ExitCode::SUCCESS, ""));
        assert!(out.starts_with("The configuration is good.\n") && out.lines().count() < 24, "{out}");
        assert!(out.contains("/x (POST), profile auto") && out.contains("redis://:[redacted]@r:6379/0"), "{out}");
    }

    #[test]
    fn check_reports_all_problems_and_exits_with_64() {
        let (code, out, err) = checked("holdover check --listen x", &[("HOLDOVER__STORE__KIND", "disk")]);
        assert_eq!((code, out.as_str()), (ExitCode::from(64), ""));
        for part in ["--> --listen", "--> environment HOLDOVER__STORE__KIND", "there is no backend", "3 problems"] {
            assert!(err.contains(part), "{part}: {err}");
        }
    }

    #[test]
    fn a_look_at_the_store_tells_all_problems_with_their_servers() {
        let told = |report: Option<Report>| {
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let code = tell(report.as_ref(), &mut out, &mut err).unwrap();
            (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
        };
        let (code, out, err) = told(None);
        assert_eq!((code, err.as_str()), (ExitCode::SUCCESS, ""));
        assert!(out.contains("in memory"), "{out}");
        let good = Report { servers: vec!["Redis 7.0.15 at here".to_owned()], problems: vec![] };
        assert_eq!(told(Some(good)).1, "\nThe store will do.\n\n  Redis 7.0.15 at here\n");
        let problem = |message: &str, help: &str| Problem { message: message.to_owned(), help: help.to_owned() };
        let problems =
            vec![("a:1".to_owned(), problem("is old", "renew it")), ("b:2".to_owned(), problem("is gone", ""))];
        let (code, out, err) = told(Some(Report { servers: vec![], problems }));
        assert_eq!((code, out.as_str()), (ExitCode::from(1), ""));
        let said = "error: store: is old\n  --> a:1\n  help: renew it\n\nerror: store: is gone\n  --> b:2\n\n\
                    2 problems with the store\n";
        assert_eq!(err, said);
    }

    #[test]
    fn config_prints_what_is_asked_for() {
        let printed = |line: &str| {
            let Command::Config(command) = cli(line).unwrap().command else { panic!("{line}") };
            let (mut out, mut err) = (Vec::new(), Vec::new());
            let code = print(&command, [], &mut out, &mut err).unwrap();
            (code, String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
        };
        assert_eq!(printed("holdover config default").1, config::default_file());
        let schema: serde_json::Value = serde_json::from_str(&printed("holdover config schema").1).unwrap();
        assert_eq!(schema["properties"]["store"]["properties"]["kind"]["enum"][1], "redis");
        let (code, out, _) = printed("holdover config print --upstream http://a");
        assert_eq!(code, ExitCode::SUCCESS);
        let line = out.lines().find(|line| line.starts_with("url = [")).unwrap();
        assert!(line.ends_with("# --upstream"), "{line}");
        let (code, out, err) = printed("holdover config print");
        assert_eq!((code, out.as_str()), (ExitCode::from(64), ""));
        assert!(err.contains("there is no backend"), "{err}");
    }

    #[test]
    fn healthcheck_asks_where_admin_listens_whatever_else_is_wrong() {
        let address = |line: &str, variables: &[(&str, &str)]| {
            let Command::Healthcheck(healthcheck) = cli(line).unwrap().command else { panic!("{line}") };
            let variables = variables.iter().map(|(name, value)| (name.into(), value.into()));
            healthcheck.address(variables).map(|address| address.to_string()).map_err(|problems| problems.to_string())
        };
        assert_eq!(address("holdover healthcheck", &[]).as_deref(), Ok("127.0.0.1:9901"));
        let variable = ("HOLDOVER__ADMIN__LISTEN", "0.0.0.0:7000");
        assert_eq!(address("holdover healthcheck", &[variable]).as_deref(), Ok("127.0.0.1:7000"));
        let flag = "holdover healthcheck --admin-listen [::]:7001";
        assert_eq!(address(flag, &[variable]).as_deref(), Ok("[::1]:7001"));
        assert!(address("holdover healthcheck --admin-listen x", &[]).is_err());
        assert!(address("holdover healthcheck --config /nowhere/at/all", &[]).is_err());
    }
}
