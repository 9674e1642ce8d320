//! Parse, validate, build, run, exit code.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, bail};
use holdover::{
    app::{App, Signals, StartError},
    cli::{self, Command, Healthcheck, Settings},
    config::{Backend, Config, Upstream},
    demo,
    listener::Inherited,
    logging,
};
use tokio::{runtime::Runtime, sync::watch};

/// Exit code for what could not start.
const COULD_NOT_START: u8 = 1;

fn main() -> ExitCode {
    let cli = match cli::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(code) => return code,
    };
    // Whatever else in the tree enables a second provider, TLS is not to panic over the choice.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let environment = std::env::vars_os();
    let (out, err) = (&mut std::io::stdout(), &mut std::io::stderr());
    let done = match cli.command {
        Command::Run(settings) => match settings.load() {
            Ok(loaded) => run(settings, loaded.config).map(|()| ExitCode::SUCCESS),
            Err(problems) => cli::refuse(&problems, err).map_err(Into::into),
        },
        Command::Check(settings) => cli::check(&settings.sources(environment), out, err).map_err(Into::into),
        Command::Config(command) => cli::print(&command, environment, out, err).map_err(Into::into),
        Command::Demo(options) => show(options.listen).map(|()| ExitCode::SUCCESS),
        Command::Healthcheck(asked) => healthcheck(&asked).map(|()| ExitCode::SUCCESS),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "holdover: {error:#}");
            ExitCode::from(COULD_NOT_START)
        }
    }
}

/// `holdover run`.
fn run(settings: Settings, config: Config) -> anyhow::Result<()> {
    logging::start(&config.log)?;
    // Changes the environment, so it comes before there are threads.
    let inherited = Inherited::take().map_err(StartError::from)?;
    runtime()?.block_on(async {
        let signals = Signals::catch()?;
        let app = App::build(config, inherited).await?;
        let reload = move || settings.load().map(|loaded| loaded.config).map_err(|problems| problems.to_string());
        app.run(signals, reload).await;
        Ok(())
    })
}

/// `holdover demo`: a plain backend, the proxy in front of it, and where to look.
fn show(listen: SocketAddr) -> anyhow::Result<()> {
    let mut config = Config::default();
    config.listen.public = listen;
    config.admin.listen = ([127, 0, 0, 1], 0).into();
    logging::start(&config.log)?;
    runtime()?.block_on(async {
        let signals = Signals::catch()?;
        let backend = demo::Backend::bind(([127, 0, 0, 1], 0).into()).await.context("cannot bind the demo backend")?;
        let address = backend.address();
        let url = Backend { tls: false, host: address.ip().to_string(), port: address.port() };
        config.upstream = Upstream { urls: vec![url], ..Upstream::default() };
        config.drain.max = Duration::from_secs(2);
        let app = App::build(config, Inherited::default()).await?;
        println!(
            "\n  Holdover demo\n\n  chat page   http://{}/\n  backend     http://{address}/   (plain: no ids, no resume)\n  \
             metrics     http://{}/metrics\n\n  Open the chat page, send a message in all panes, and cut the connection. \
             Ctrl-C ends the demo.\n",
            app.address(),
            app.admin_address()
        );
        std::io::stdout().flush()?;
        let (stop, stopped) = watch::channel(false);
        let serving = tokio::spawn(backend.serve(stopped));
        app.run(signals, || Err("the demo has no configuration file".to_owned())).await;
        stop.send_replace(true);
        serving.await?;
        Ok(())
    })
}

/// `holdover healthcheck`: exit code 0 if the running process answers that it is well.
fn healthcheck(asked: &Healthcheck) -> anyhow::Result<()> {
    let address = match asked.address(std::env::vars_os()) {
        Ok(address) => address,
        Err(problems) => bail!("{problems}"),
    };
    let path = if asked.live { "/livez" } else { "/readyz" };
    let asking = || -> std::io::Result<String> {
        let mut stream = TcpStream::connect_timeout(&address, asked.timeout())?;
        stream.set_read_timeout(Some(asked.timeout()))?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok(answer)
    };
    let answer = asking().with_context(|| format!("no answer from {address}"))?;
    if !answer.starts_with("HTTP/1.1 200") {
        bail!("not well: {}", answer.lines().next_back().unwrap_or_default());
    }
    Ok(())
}

fn runtime() -> anyhow::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().context("cannot start the runtime")
}
