//! Running it: command line, health, metrics, logs.

/// What is written down of a busy run.
mod logs;
/// Sockets that outlive the process.
mod sockets;

use std::{
    collections::{HashMap, HashSet},
    net::TcpListener,
    process::{Command, Output, Stdio},
    time::Duration,
};

use serde_json::Value;

use crate::support::{Backend, Ending, Exchange, Holdover, Redis, Turn, eventually, fresh_body, within};

/// The binary in an environment of its own.
fn holdover(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdover"));
    command.args(arguments).env_clear().envs(environment.iter().copied()).stdin(Stdio::null());
    command.output().expect("the binary can be started")
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("it writes text")
}

fn file_with(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}

#[test]
fn check_and_run_report_all_problems_at_once_with_their_places() {
    let file = file_with(
        "[listen]\npublic = \"everywhere\"\n\n[store]\nkind = \"disk\"\nlease = \"1s\"\nurll = \"redis://r\"\n\n\
         [nope]\nx = 1\n\n[[route]]\nname = \"a\"\npath = \"chat\"\nconcurrent = \"queue\"\n",
    );
    let path = file.path().to_str().unwrap();
    for command in ["check", "run"] {
        let said = holdover(&[command, "--config", path], &[("HOLDOVER__LIMITS__MAX_TURNS", "many")]);
        assert_eq!((said.status.code(), text(&said.stdout)), (Some(64), ""), "{command}");
        let said = text(&said.stderr);
        for (key, place) in [
            ("listen.public", ":2"),
            ("store.kind", ":5"),
            ("store.lease", ":6"),
            ("store.urll", ":7"),
            ("nope", ":9"),
            ("route[0].path", ":14"),
            ("route[0].concurrent", ":15"),
            ("limits.max_turns", "environment HOLDOVER__LIMITS__MAX_TURNS"),
            ("upstream.url", "help: write url = "),
        ] {
            let problem = said.split("error: ").find(|problem| problem.starts_with(&format!("{key}:")));
            let problem = problem.unwrap_or_else(|| panic!("nothing about {key}:\n{said}"));
            assert!(problem.contains(place), "{key} at {place}: {problem}");
        }
        assert!(said.contains("did you mean `url`?") && said.contains("9 problems"), "{said}");
    }
}

#[test]
fn wrong_usage_exits_with_64() {
    for arguments in [&["walk"][..], &["run", "--no-such-flag"], &[], &["check", "--config", "/does/not/exist"]] {
        let said = holdover(arguments, &[]);
        assert_eq!(said.status.code(), Some(64), "{arguments:?}");
        assert!(!said.stderr.is_empty());
    }
}

#[test]
fn the_default_configuration_is_one() {
    let printed = holdover(&["config", "default"], &[]);
    assert!(printed.status.success());
    let file = file_with(text(&printed.stdout));
    let path = file.path().to_str().unwrap();
    let said = holdover(&["check", "--config", path, "--upstream", "http://127.0.0.1:1"], &[]);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let as_written = holdover(&["config", "print", "--config", path, "--upstream", "http://127.0.0.1:1"], &[]);
    let built_in = holdover(&["config", "print", "--upstream", "http://127.0.0.1:1"], &[]);
    let values = |printed: &[u8]| -> Vec<String> {
        text(printed).lines().map(|line| line.split("  # ").next().unwrap().trim().to_owned()).collect()
    };
    assert_eq!(values(&as_written.stdout), values(&built_in.stdout), "what is written down is what holds");
}

#[test]
fn the_settings_in_effect_are_printed_with_their_origin_and_without_secrets() {
    let password = file_with("canary-password\n");
    let file =
        file_with("[identity]\nsecret = \"canary-identity-secret\"\n[drain]\nmax = \"1m\"\n[store]\nlease = \"4s\"\n");
    let environment =
        [("HOLDOVER__STORE__PASSWORD_FILE", password.path().to_str().unwrap()), ("HOLDOVER__DRAIN__MAX", "2m")];
    let arguments = [
        "config",
        "print",
        "--config",
        file.path().to_str().unwrap(),
        "--upstream",
        "http://b",
        "--redis",
        "redis://r",
    ];
    let said = holdover(&arguments, &environment);
    assert!(said.status.success(), "{}", text(&said.stderr));
    let printed = text(&said.stdout);
    assert!(!printed.contains("canary"), "{printed}");
    let line = |key: &str| {
        let found = printed.lines().find(|line| line.split(" = ").next() == Some(key));
        found.unwrap_or_else(|| panic!("no {key}: {printed}"))
    };
    let origin = |key: &str| line(key).split("  # ").nth(1).unwrap_or_default().trim().to_owned();
    assert!(line("max").contains("2m") && origin("max").contains("HOLDOVER__DRAIN__MAX"), "{}", line("max"));
    assert!(line("lease").contains("4s") && origin("lease").ends_with(":6"), "{}", line("lease"));
    assert_eq!(origin("kind"), "--redis");
    assert!(line("secret").contains("redacted") && line("password").contains("redacted"), "{printed}");
    let with_password = holdover(&["config", "print", "--upstream", "http://b", "--redis", "redis://:canary@r"], &[]);
    assert!(with_password.status.success() && !text(&with_password.stdout).contains("canary"));
}

#[test]
fn a_port_that_is_taken_is_said_clearly() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for (flag, other, key) in
        [("--listen", "--admin-listen", "listen.public"), ("--admin-listen", "--listen", "admin.listen")]
    {
        let said = holdover(&["run", "--upstream", "http://127.0.0.1:1", flag, &address, other, "127.0.0.1:0"], &[]);
        assert_eq!(said.status.code(), Some(1), "{flag}");
        let said = text(&said.stderr);
        assert!(said.contains(&address) && said.contains(key) && said.contains("in use"), "{said}");
    }
}

/// `holdover healthcheck` on this node: its exit code and what it says.
fn healthcheck(node: &Holdover, more: &[&str]) -> (Option<i32>, String) {
    let address = node.admin().to_string();
    let said = holdover(&[&["healthcheck", "--admin-listen", &address], more].concat(), &[]);
    (said.status.code(), text(&said.stderr).to_owned())
}

#[tokio::test]
async fn health_is_told_check_by_check() {
    let (backend, mut redis) = (Backend::start().await, Redis::start().await);
    let config = format!(
        "[upstream]\nhealth_check_interval = \"1s\"\n[store]\nkind = \"redis\"\nurl = \"{}\"\nlease = \"2s\"",
        redis.url()
    );
    let node = Holdover::before(&backend).config(config).start().await;
    let live = async || {
        let answer = node.http().get(format!("http://{}/livez", node.admin())).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    // Waits for exactly these checks to fail, and that the node says so with its status.
    let failing = async |wanted: &[&str]| -> Value {
        eventually(format!("the failing checks {wanted:?}"), || async {
            let (status, body) = node.ready().await;
            let checks = body["checks"].as_object().unwrap();
            let failing: Vec<_> =
                checks.iter().filter(|(_, check)| check["ok"] == false).map(|(name, _)| name).collect();
            assert_eq!((status == 200, body["ready"] == true), (failing.is_empty(), failing.is_empty()), "{body}");
            (failing == wanted).then_some(body)
        })
        .await
    };
    let good = failing(&[]).await;
    assert_eq!(good["checks"].as_object().unwrap().len(), 4);
    assert!(good["checks"]["store"]["detail"].as_str().unwrap().contains("Redis"), "{good}");
    assert_eq!(healthcheck(&node, &[]).0, Some(0));

    redis.kill9();
    let bad = failing(&["store"]).await;
    assert!(bad["checks"]["store"]["detail"].as_str().unwrap().starts_with("Redis at "), "{bad}");
    let (code, said) = healthcheck(&node, &[]);
    assert!(code == Some(1) && said.contains("not well") && said.contains("store"), "{said}");
    assert_eq!(healthcheck(&node, &["--live"]).0, Some(0));
    assert_eq!(live().await, (200, "ok\n".to_owned()));
    redis.restart().await;
    failing(&[]).await;

    let address = backend.address();
    drop(backend);
    let bad = failing(&["upstream"]).await;
    let listed = &bad["checks"]["upstream"]["backends"][0];
    assert!(listed["ok"] == false && listed["backend"].as_str().unwrap().contains(&address.to_string()), "{bad}");
    assert_eq!(live().await.0, 200);
    node.signal("TERM");
    assert!(node.wait_exit(Duration::from_secs(10)).await.success());
    let (code, said) = healthcheck(&node, &[]);
    assert!(code == Some(1) && said.contains("no answer"), "{said}");
}

#[tokio::test]
async fn a_draining_node_lives_but_is_not_ready() {
    let backend = Backend::start().await;
    let node = Holdover::start(&backend).await;
    let turn = Turn::start(&node, &backend).await;
    node.signal("TERM");
    eventually("the node to drain", || async {
        (node.ready().await.1["checks"]["drain"]["ok"] == false).then_some(())
    })
    .await;
    assert_eq!(
        (node.ready().await.0, healthcheck(&node, &[]).0, healthcheck(&node, &["--live"]).0),
        (503, Some(1), Some(0))
    );
    turn.end().await;
    assert!(node.wait_exit(Duration::from_secs(10)).await.success());
}

/// Reads a page of metrics as Prometheus does, line by line; gives the series.
fn series(page: &str) -> HashMap<String, f64> {
    let (mut series, mut types, mut helped) = (HashMap::new(), HashMap::new(), HashSet::new());
    for line in page.lines() {
        if let Some(help) = line.strip_prefix("# HELP ") {
            let (name, help) = help.split_once(' ').expect("a help text");
            assert!(helped.insert(name.to_owned()) && !help.is_empty(), "{line}");
            continue;
        }
        if let Some(kind) = line.strip_prefix("# TYPE ") {
            let (name, kind) = kind.split_once(' ').expect("a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(kind != "counter" || name.ends_with("_total"), "{line}");
            assert!(types.insert(name.to_owned(), kind.to_owned()).is_none(), "{line}");
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap_or_else(|| panic!("no value: {line:?}"));
        let bare = name.split('{').next().unwrap();
        assert!(bare.starts_with("holdover_"), "{line}");
        assert!(bare.chars().all(|c| c.is_ascii_lowercase() || c == '_'), "{line}");
        if let Some(labels) = name.strip_prefix(bare).filter(|labels| !labels.is_empty()) {
            let labels = labels.strip_prefix('{').and_then(|labels| labels.strip_suffix("\"}")).expect("labels");
            for label in labels.split("\",") {
                let (key, value) = label.split_once("=\"").expect("a label");
                assert!(key.chars().all(|c| c.is_ascii_lowercase() || c == '_') && !value.contains('"'), "{line}");
            }
        }
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| bare.strip_suffix(end)).unwrap_or(bare);
        assert!(types.contains_key(bare) || types.get(family).is_some_and(|kind| kind == "histogram"), "{line}");
        assert!(helped.contains(family) || helped.contains(bare), "{line}");
        let value = value.parse().unwrap_or_else(|_| panic!("no number: {line:?}"));
        assert!(series.insert(name.to_owned(), value).is_none(), "twice: {line}");
    }
    series
}

/// A backend whose turns end in every way.
async fn end_somehow(mut exchange: Exchange) {
    let how = exchange.request.get("x-end").unwrap_or_default().to_owned();
    if how == "plain" {
        return exchange.answer("200 OK", "", "no stream").await;
    }
    exchange.stream().await;
    exchange.event("one").await;
    exchange.event("two").await;
    match how.as_str() {
        "broken" => exchange.reset(),
        "left" => exchange.left().await,
        _ => exchange.end().await,
    }
}

#[tokio::test]
async fn the_books_balance_at_every_moment_under_load() {
    let backend = Backend::answering(end_somehow).await;
    let config = "[[route]]\nname = \"chat\"\non_disconnect = \"cancel\"\n";
    let node = std::sync::Arc::new(Holdover::before(&backend).config(config).start().await);
    let mut working = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let node = node.clone();
        working.spawn(async move {
            for how in ["", "broken", "plain", "left", ""].into_iter().cycle().take(25) {
                let mut client = node.connect().await;
                client.request("POST", "/chat", &[("X-End", how)], fresh_body()).await;
                assert_eq!(client.head().await.status(), 200);
                match how {
                    "plain" => assert_eq!(client.body().await, "no stream"),
                    "left" => drop(client.next_events(2).await),
                    "broken" => assert_eq!(client.rest().await.1, Ending::Broken),
                    _ => assert!(client.rest().await.1.is_clean()),
                }
            }
        });
    }
    let mut looks = 0;
    let load = async {
        loop {
            tokio::select! {
                biased;
                done = working.join_next() => match done {
                    Some(done) => done.unwrap(),
                    None => break,
                },
                metrics = node.metrics() => {
                    metrics.assert_books_balance();
                    looks += 1;
                }
            }
        }
    };
    within(Duration::from_secs(60), "the load to be over", load).await;
    assert!(looks > 10, "only {looks} looks");
    node.metric_is("holdover_turns_live", &[], 0.0).await;
    let page = node.http().get(format!("http://{}/metrics", node.admin())).send().await.unwrap();
    assert!(page.headers()["content-type"].to_str().unwrap().starts_with("text/plain; version=0.0.4"));
    let series = series(&page.text().await.unwrap());
    for (outcome, count) in [("completed", 80.0), ("failed", 40.0), ("cancelled", 40.0)] {
        assert_eq!(series[&format!("holdover_turns_finished_total{{outcome=\"{outcome}\",route=\"chat\"}}")], count);
    }
    assert_eq!(series["holdover_turns_started_total{route=\"chat\"}"], 160.0);
    assert_eq!(series["holdover_events_recorded_total"], 320.0);
    assert_eq!(series["holdover_followers"], 0.0);
    for (name, count) in &series {
        if let Some((family, labels)) = name.split_once("_bucket{").filter(|(_, labels)| labels.contains("le=\"+Inf\""))
        {
            let rest =
                labels.trim_end_matches('}').split(',').filter(|l| !l.starts_with("le=")).collect::<Vec<_>>().join(",");
            let labels = if rest.is_empty() { rest } else { format!("{{{rest}}}") };
            assert_eq!(series[&format!("{family}_count{labels}")], *count, "{name}");
        }
    }
}

#[tokio::test]
async fn the_trace_context_passes_untouched_and_none_is_made_up() {
    let backend = Backend::start().await;
    let node = Holdover::start(&backend).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    for (method, path) in [("POST", "/chat"), ("GET", "/plain")] {
        for headers in [&[("traceparent", parent), ("tracestate", "a=1,b=2")][..], &[]] {
            let mut client = node.connect().await;
            client.request(method, path, headers, "").await;
            let exchange = backend.next().await;
            for name in ["traceparent", "tracestate"] {
                let sent: Vec<_> =
                    headers.iter().filter(|(known, _)| *known == name).map(|(_, value)| *value).collect();
                assert_eq!(exchange.request.all(name), sent, "{method} {name}");
            }
            exchange.answer("200 OK", "", "").await;
            assert_eq!(client.head().await.status(), 200);
        }
    }
}
