//! Sockets that outlive the process: systemd's socket activation.

use std::{
    collections::BTreeMap,
    net::TcpListener,
    process::{Command, Stdio},
    time::Duration,
};

use clap::Parser as _;
use holdover::{cli::Cli, config::Config};

use super::text;
use crate::support::{Backend, Client, Ending, Holdover, Redis, Turn, eventually, fresh_body};

/// A socket that listens, as systemd binds it: nobody accepts.
fn socket() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

/// A client that has sent a start to a socket, whether anybody accepts there or not.
async fn started_at(socket: &TcpListener) -> Client {
    let mut client = Client::connect(socket.local_addr().unwrap()).await;
    client.request("POST", "/chat", &[], fresh_body()).await;
    client
}

#[tokio::test]
async fn nobody_is_refused_while_the_process_is_replaced() {
    let (backend, public, admin) = (Backend::start().await, socket(), socket());
    let early = started_at(&public).await;
    let process = || Holdover::before(&backend).socket(&admin, "admin").socket(&public, "public");
    let first = process().start().await;
    assert_eq!((first.addr(), first.admin()), (public.local_addr().unwrap(), admin.local_addr().unwrap()));
    Turn::opened(early, &backend).await.end().await;
    first.signal("TERM");
    assert!(first.wait_exit(Duration::from_secs(20)).await.success());
    let meanwhile = started_at(&public).await;
    let second = process().start().await;
    let mut turn = Turn::opened(meanwhile, &backend).await;
    turn.events(2).await;
    turn.end().await;
    assert_eq!(second.ready().await.0, 200);
}

#[tokio::test]
async fn one_socket_is_the_public_one_whatever_its_name() {
    let (backend, public) = (Backend::start().await, socket());
    let holdover = Holdover::before(&backend).socket(&public, "holdover.socket").start().await;
    assert_eq!(holdover.addr(), public.local_addr().unwrap());
    holdover.ended_turn(&backend, 1).await;
}

/// Two processes take turns at one socket, and share their turns: no start is refused while one of them is replaced.
#[tokio::test]
async fn two_processes_at_one_socket_are_replaced_without_refusing_a_start() {
    let (backend, redis, public) = (Backend::start().await, Redis::start().await, socket());
    let config = format!(
        "[store]\nkind = \"redis\"\nurl = \"{}\"\n[drain]\naccept = false\n\
         [[route]]\nname = \"chat\"\nreconnect = \"off\"\n",
        redis.url()
    );
    let process = || Holdover::before(&backend).config(config.as_str()).socket(&public, "public").start();
    let (mut old, mut other) = (process().await, process().await);
    let mut turn = Turn::opened(started_at(&public).await, &backend).await;
    // Which of the two has it was the system's choice.
    if old.metric("holdover_turns_live", &[]).await == 0.0 {
        std::mem::swap(&mut old, &mut other);
    }
    let shown = turn.events(2).await;
    old.signal("TERM");
    eventually("the process to drain", || async { (old.ready().await.0 == 503).then_some(()) }).await;
    for _ in 0..20 {
        Turn::opened(started_at(&public).await, &backend).await.end().await;
    }
    // The turn that runs in the old one is resumed in the other.
    let mut resumed = Client::connect(public.local_addr().unwrap()).await;
    resumed.request("GET", "/chat", &[("Last-Event-ID", &turn.id_of(1))], "").await;
    assert_eq!(resumed.head().await.status(), 200);
    assert_eq!(resumed.next_event().await, shown[1]);
    assert_eq!(turn.event("3").await, resumed.next_event().await);
    turn.end().await;
    assert_eq!(resumed.rest().await, ("".into(), Ending::Clean(vec![])));
    assert!(old.wait_exit(Duration::from_secs(20)).await.success());
    old = process().await;
    assert_eq!((old.ready().await.0, other.ready().await.0), (200, 200));
    Turn::opened(started_at(&public).await, &backend).await.end().await;
}

#[test]
fn sockets_that_cannot_be_told_apart_are_refused() {
    let mut command = Command::new("sh");
    let [one, two] = [(); 2].map(|()| Stdio::from(std::os::fd::OwnedFd::from(socket())));
    command.stdin(one).stdout(two).stderr(Stdio::piped());
    command.env_clear().env("LISTEN_FDS", "2").env("LISTEN_FDNAMES", "public:unknown");
    let script = "exec 3<&0 4<&1; LISTEN_PID=$$ exec \"$@\"";
    command.args(["-c", script, "sh", env!("CARGO_BIN_EXE_holdover"), "run", "--upstream", "http://127.0.0.1:1"]);
    let said = command.output().unwrap();
    assert_eq!(said.status.code(), Some(1));
    let said = text(&said.stderr);
    assert!(said.contains("\"unknown\"") && said.contains("FileDescriptorName="), "{said}");
}

/// The directives of one of the unit files in `config/systemd`; lists and comments are of no interest here.
fn unit(name: &str) -> BTreeMap<String, String> {
    let path = format!("{}/config/systemd/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with(['#', '[']) && !line.is_empty());
    let directive = |line: &str| line.split_once('=').map(|(key, value)| (key.to_owned(), value.to_owned()));
    lines.map(|line| directive(line).unwrap_or_else(|| panic!("{name}: {line}"))).collect()
}

#[test]
fn the_unit_files_fit_the_program() {
    let (service, defaults) = (unit("holdover.service"), Config::default());
    let command = Cli::try_parse_from(service["ExecStart"].split(' '));
    assert!(command.is_ok(), "{}", command.err().unwrap());
    let minutes: u64 = service["TimeoutStopSec"].strip_suffix("min").unwrap().parse().unwrap();
    assert!(Duration::from_secs(minutes * 60) > defaults.drain.max + Duration::from_secs(10));
    let sockets: Vec<&str> = service["Sockets"].split(' ').collect();
    assert_eq!(service["Requires"], service["Sockets"]);
    let named = |name: &str| {
        let socket = sockets.iter().map(|file| unit(file)).find(|socket| socket["FileDescriptorName"] == name).unwrap();
        assert_eq!(socket["Service"], "holdover.service");
        socket["ListenStream"].clone()
    };
    assert_eq!(named("public"), defaults.listen.public.to_string());
    assert_eq!(named("admin"), defaults.admin.listen.to_string());
}
