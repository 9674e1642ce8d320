//! A start that a real client sends again is one turn. What only looks like one is two.
//!
//! The rules by themselves are in `lifecycle::starts`, and across nodes in `distributed::starts`; the `openai` libraries'
//! own retries in `clients::openai`.

use std::net::SocketAddr;

use futures_util::StreamExt as _;

use super::stage::{Stage, data_of, seen};
use crate::support::{
    DEADLINE, Exchange, How, Parsed, Report, Script,
    dialect::{Blocks, message, response},
    eventually, within,
};

const CHAT: &str = "/chat";
const POST: [&str; 4] = ["--method", "POST", "--body", r#"{"prompt":"Hello"}"#];
const HOWS: [How; 2] = [How::Fin, How::Reset];

fn tokens() -> Vec<String> {
    (1..=5).map(|n| format!("token {n}")).collect()
}

fn plain() -> Blocks {
    tokens().iter().map(|token| format!("data: {token}\n\n")).collect()
}

async fn write(mut turn: Exchange, blocks: &Blocks) {
    for block in blocks {
        turn.chunk(block).await;
    }
    turn.end().await;
}

/// Waits until somebody has connected anew.
async fn more_connections_than(stage: &Stage, before: usize) {
    let again = async || (stage.faults.connections() > before).then_some(());
    eventually("the start to be sent again", again).await;
}

/// The connection of a start dies when the backend has it and has not answered.
async fn dies_before_the_answer(stage: &Stage, how: How) -> Exchange {
    let turn = stage.turn().await;
    let before = stage.faults.connections();
    stage.faults.cut_all(how);
    more_connections_than(stage, before).await;
    turn
}

async fn attached_by(stage: &Stage, rule: &str, times: f64) {
    stage.holdover.metric_is("holdover_starts_attached_total", &[("rule", rule)], times).await;
}

#[tokio::test]
async fn libraries_that_count_their_retries() {
    let anthropic = [Script::node("anthropic.mjs"), Script::python("anthropic_client.py")];
    let openai = [
        Script::node("openai_responses.mjs").args(["--major", "6"]),
        Script::node("openai_responses.mjs").args(["--major", "7"]),
        Script::python("openai_responses.py"),
    ];
    let scripts = anthropic.into_iter().map(|script| ("/v1/messages", script, message()));
    let scripts = scripts.chain(openai.into_iter().map(|script| ("/v1/responses", script, response("resp_1"))));
    for ((path, script, blocks), how) in scripts.zip(HOWS.into_iter().cycle()) {
        let stage = Stage::new(&["/v1/messages", "/v1/responses"], "", &[]).await;
        let client = stage.client(script, path);
        let mut turn = dies_before_the_answer(&stage, how).await;
        turn.stream().await;
        write(turn, &blocks).await;
        let report = client.report().await;
        assert_eq!((&*report.ended, report.opens), ("clean", 1), "{report:#?}");
        let kinds = |events: Vec<serde_json::Value>| -> Vec<_> {
            let kinds = events.into_iter().map(|event| event["type"].as_str().unwrap().to_owned());
            kinds.filter(|kind| kind != "ping").collect()
        };
        assert_eq!(kinds(seen(&report)), kinds(data_of(&blocks)), "{}", report.client);
        attached_by(&stage, "retry_count", 1.0).await;
        stage.one_turn(path, "completed").await;
    }
}

fn data(report: &Report) -> Vec<&str> {
    report.events.iter().map(|event| &*event.data).collect()
}

/// Clients that send their POST again because they always do, without a cursor as long as they have none: the connection
/// dies before the answer's head, and right behind it.
async fn sends_again<F: Future<Output = Vec<Parsed>>>(client: impl Fn(SocketAddr) -> F) {
    for how in HOWS {
        for behind_head in [false, true] {
            let stage = Stage::new(&[CHAT], "", &[]).await;
            let server = async {
                let mut turn = if behind_head {
                    let mut turn = stage.turn().await;
                    turn.stream().await;
                    stage.faults.streams_are(1).await;
                    stage.faults.cut_all(how);
                    stage.faults.streams_are(2).await;
                    turn
                } else {
                    let mut turn = dies_before_the_answer(&stage, how).await;
                    turn.stream().await;
                    turn
                };
                for block in plain() {
                    turn.chunk(block).await;
                }
                turn.end().await;
            };
            let (events, ()) = tokio::join!(client(stage.address()), server);
            let data: Vec<_> = events.iter().map(|event| event.data.clone()).collect();
            assert_eq!(data, tokens(), "{how:?}, behind the head: {behind_head}");
            attached_by(&stage, "lost_client", 1.0).await;
            stage.one_turn(CHAT, "completed").await;
        }
    }
}

/// The same for a program that reports.
async fn program_sends_again(script: impl Fn() -> Script, ended: &str) {
    let client = |address| {
        let report = script().args(POST).args(["--url", &format!("http://{address}{CHAT}")]).start().report();
        async move {
            let report = report.await;
            assert_eq!(report.ended, ended, "{report:#?}");
            report.events
        }
    };
    sends_again(client).await;
}

#[tokio::test]
async fn fetch_event_source() {
    program_sends_again(|| Script::node("fetch_event_source.mjs"), "clean").await;
}

#[tokio::test]
async fn eventsource_client() {
    program_sends_again(|| Script::node("eventsource_client.mjs"), "closed").await;
}

#[tokio::test]
async fn reqwest_eventsource() {
    use reqwest_eventsource::{Error, Event, EventSource};
    sends_again(async |address| {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        let request = http.post(format!("http://{address}{CHAT}")).body("{}");
        let mut source = EventSource::new(request).expect("the request can be sent again");
        let mut seen = Vec::new();
        while let Some(event) = within(DEADLINE, "an event", source.next()).await {
            match event {
                Ok(Event::Open) | Err(Error::StreamEnded | Error::Transport(_)) => {}
                Ok(Event::Message(event)) => {
                    seen.push(Parsed { id: Some(event.id), kind: event.event, data: event.data });
                }
                Err(error) => assert!(matches!(error, Error::InvalidStatusCode(status, _) if status == 204), "{error}"),
            }
        }
        seen
    })
    .await;
}

/// What no page can see or prevent: the network stack sends a POST again whose reused connection died.
#[tokio::test]
async fn chromium_by_itself() {
    for how in HOWS {
        let stage = Stage::new(&[CHAT], "", &[]).await;
        let mut client = stage.client(Script::node("chromium_post.mjs").args(POST).args(["--warm"]), CHAT);
        assert_eq!(client.note("warm").await, 404);
        let mut turn = dies_before_the_answer(&stage, how).await;
        turn.stream().await;
        write(turn, &plain()).await;
        let report = client.report().await;
        assert_eq!((&*report.ended, report.opens, report.errors.len()), ("clean", 1, 0), "{how:?}: {report:#?}");
        assert_eq!(data(&report), tokens(), "{how:?}");
        attached_by(&stage, "lost_client", 1.0).await;
        stage.one_turn(CHAT, "completed").await;
    }
}

/// Two turns of the backend, told apart by what they say, and what became of them at clients of these names.
async fn two_turns(stage: &Stage, report: impl Future<Output = Report>, names: [&str; 2]) {
    let (mut one, mut other) = (stage.turn().await, stage.turn().await);
    for (turn, name) in [(&mut one, "one"), (&mut other, "other")] {
        turn.stream().await;
        turn.event(format!("first of {name}")).await;
    }
    for (mut turn, name) in [(one, "one"), (other, "other")] {
        turn.event(format!("second of {name}")).await;
        turn.end().await;
    }
    let report = report.await;
    assert_eq!((&*report.ended, report.errors.len()), ("clean", 0), "{report:#?}");
    let mut read: Vec<Vec<&str>> = names.map(|name| data_for(&report, name)).into();
    read.sort_unstable();
    let expected = ["one", "other"].map(|name| vec![format!("first of {name}"), format!("second of {name}")]);
    assert_eq!(read, expected);
    assert_eq!(stage.turns_at_backend(CHAT), 2);
    attached_by(stage, "lost_client", 0.0).await;
}

fn data_for<'a>(report: &'a Report, name: &str) -> Vec<&'a str> {
    report.events.iter().filter(|event| event.kind == name).map(|event| &*event.data).collect()
}

/// Both clients stay: each wants an answer of its own.
#[tokio::test]
async fn a_double_click_and_two_tabs_are_two_turns() {
    for (arguments, names) in [(["--clicks", "2"], ["1.1", "1.2"]), (["--tabs", "2"], ["1.1", "2.1"])] {
        let stage = Stage::new(&[CHAT], "", &[]).await;
        let client = stage.client(Script::node("chromium_post.mjs").args(POST).args(arguments), CHAT);
        two_turns(&stage, client.report(), names).await;
    }
}

/// Who wants one turn says so: then a double click is one turn, and each click reads all of it.
#[tokio::test]
async fn a_double_click_with_a_key_is_one_turn() {
    let stage = Stage::new(&[CHAT], "", &[]).await;
    let script =
        Script::node("chromium_post.mjs").args(POST).args(["--clicks", "2", "--header", "Idempotency-Key: k-1"]);
    let client = stage.client(script, CHAT);
    let mut turn = stage.turn().await;
    turn.stream().await;
    attached_by(&stage, "idempotency_key", 1.0).await;
    write(turn, &plain()).await;
    let report = client.report().await;
    assert_eq!((&*report.ended, report.opens, report.errors.len()), ("clean", 2, 0), "{report:#?}");
    for name in ["1.1", "1.2"] {
        assert_eq!(data_for(&report, name), tokens(), "{name}");
    }
    stage.one_turn(CHAT, "completed").await;
}

/// A caller that starts again with the key it used before reads the same turn, from its first event, although its body is
/// another one. (The libraries have no key of their own.)
#[tokio::test]
async fn a_key_that_a_caller_gives_to_a_library() {
    let scripts = [
        ("/v1/messages", Script::node("anthropic.mjs"), Script::python("anthropic_client.py"), message()),
        (
            "/v1/responses",
            Script::node("openai_responses.mjs"),
            Script::python("openai_responses.py"),
            response("resp_1"),
        ),
    ];
    for (path, first, again, blocks) in scripts {
        let stage = Stage::new(&["/v1/messages", "/v1/responses"], "", &[]).await;
        let keyed = |script: Script| stage.client(script.args(["--header", "Idempotency-Key: k-1"]), path);
        // Both libraries send the same credentials under the same name.
        let first = keyed(first);
        let mut turn = stage.turn().await;
        turn.stream().await;
        turn.chunk(&blocks[0]).await;
        let again = keyed(again.args(["--body", r#"{"model":"another"}"#]));
        attached_by(&stage, "idempotency_key", 1.0).await;
        write(turn, &blocks[1..].to_vec()).await;
        let (first, again) = tokio::join!(first.report(), again.report());
        let kinds = |report: &Report| report.events.iter().map(|event| event.kind.clone()).collect::<Vec<_>>();
        for report in [&first, &again] {
            assert_eq!((&*report.ended, report.errors.len()), ("clean", 0), "{report:#?}");
        }
        assert_eq!(kinds(&first), kinds(&again));
        assert!(kinds(&first).len() > 10, "{first:#?}");
        stage.one_turn(path, "completed").await;
    }
}
