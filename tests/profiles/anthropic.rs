//! The `anthropic` libraries. They never resume a stream.

use serde_json::json;

use super::stage::{Stage, data_of, seen};
use crate::support::{Report, Script, dialect::message};

const MESSAGES: &str = "/v1/messages";

fn scripts() -> [(&'static str, Script); 2] {
    [("node", Script::node("anthropic.mjs")), ("python", Script::python("anthropic_client.py"))]
}

fn kinds(report: &Report) -> Vec<&str> {
    report.events.iter().map(|event| &*event.kind).collect()
}

/// What the libraries hand on: they keep pings to themselves.
fn kinds_of(blocks: &[String]) -> Vec<String> {
    let kinds = data_of(blocks).into_iter().map(|event| event["type"].as_str().unwrap().to_owned());
    kinds.filter(|kind| kind != "ping").collect()
}

#[tokio::test]
async fn a_message_is_read_whole() {
    for (name, script) in scripts() {
        let stage = Stage::new(&[MESSAGES], "", &[]).await;
        let client = stage.client(script.args(["--helper"]), MESSAGES);
        stage.play_whole(&message()).await;
        let report = client.report().await;
        assert_eq!((&*report.ended, report.errors.len()), ("clean", 0), "{name}: {report:#?}");
        let last = seen(&report).pop().expect("a message");
        assert_eq!(last["content"][1]["text"], "Hello\n\nworld é€😀.", "{name}");
        assert_eq!(last["content"][2]["input"], json!({ "city": "Oslo" }), "{name}");
        stage.one_turn(MESSAGES, "completed").await;
    }
}

/// Behind its last event nothing is missing, whatever becomes of the connection.
#[tokio::test]
async fn a_message_is_complete_when_its_server_says_so() {
    for (name, script) in scripts() {
        let stage = Stage::new(&[MESSAGES], "", &[]).await;
        let client = stage.client(script, MESSAGES);
        let (blocks, mut turn) = (message(), stage.turn().await);
        turn.stream().await;
        for block in &blocks {
            turn.chunk(block).await;
        }
        stage.holdover.metric_is("holdover_events_recorded_total", &[], blocks.len() as f64).await;
        turn.reset();
        let report = client.report().await;
        assert_eq!((&*report.ended, report.errors.len()), ("clean", 0), "{name}: {report:#?}");
        assert_eq!(kinds(&report), kinds_of(&blocks), "{name}");
        stage.one_turn(MESSAGES, "completed").await;
    }
}

/// A clean early end would be a complete answer to the library.
#[tokio::test]
async fn a_turn_that_breaks_is_an_error() {
    for (name, script) in scripts() {
        let stage = Stage::new(&[MESSAGES], "", &[]).await;
        let mut client = stage.client(script.args(["--live"]), MESSAGES);
        let blocks = message();
        let turn = stage.play_until(&mut client, &blocks[..2]).await;
        turn.reset();
        let report = client.report().await;
        assert_eq!((&*report.ended, kinds(&report).len()), ("error", 2), "{name}: {report:#?}");
        stage.one_turn(MESSAGES, "failed").await;
    }
}

#[tokio::test]
async fn a_turn_that_is_lost_is_an_error_of_the_api() {
    for (name, script) in scripts() {
        let stage = Stage::new(&[MESSAGES], "[drain]\nmax = \"200ms\"\n", &[]).await;
        let mut client = stage.client(script.args(["--live"]), MESSAGES);
        let _turn = stage.play_until(&mut client, &message()[..2]).await;
        stage.holdover.signal("TERM");
        let report = client.report().await;
        assert_eq!((&*report.ended, report.events.len()), ("error", 2), "{name}: {report:#?}");
        let error = report.errors.last().expect("it says why");
        assert!(error.contains("api_error") && error.contains("interrupted"), "{name}: {error}");
        assert!(error.starts_with("API"), "{name} raises its own: {error}");
    }
}

#[tokio::test]
async fn an_error_of_the_backend_is_its_own() {
    let error = json!({ "type": "error", "error": { "type": "overloaded_error", "message": "Overloaded" } });
    for (name, script) in scripts() {
        let stage = Stage::new(&[MESSAGES], "", &[]).await;
        let client = stage.client(script, MESSAGES);
        let mut blocks = message()[..2].to_vec();
        blocks.push(format!("event: error\ndata: {error}\n\n"));
        stage.play_whole(&blocks).await;
        let report = client.report().await;
        assert_eq!((&*report.ended, report.events.len()), ("error", 2), "{name}: {report:#?}");
        assert!(report.errors.last().is_some_and(|error| error.contains("overloaded_error")), "{name}: {report:#?}");
        stage.one_turn(MESSAGES, "failed").await;
    }
}
