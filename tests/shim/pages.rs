//! What a page does on purpose, or has done to it.

use super::{
    dialects::PLAIN,
    stage::{Stage, data},
};
use crate::support::{Exchange, How, Program, Report, eventually};

const WAYS: [&str; 2] = ["install", "worker"];

/// A page that does something after three events. The backend has sent four by then.
async fn acting(way: &str, act: &str) -> (Stage, Program, Exchange, Vec<String>) {
    let stage = Stage::with([]).await;
    let mut program = stage.client("reader.mjs", &["--chromium", "--way", way, "--after", "3", "--do", act]);
    let (mut turn, events) = stage.opened(&PLAIN).await;
    for event in &events[..4] {
        assert!(turn.event(event).await);
    }
    if act == "offline" {
        program.note("offline").await;
        stage.faults.cut_all(How::Reset);
    }
    program.note("did").await;
    (stage, program, turn, events)
}

/// What the client reports when its browser may go.
async fn reported(mut program: Program) -> Report {
    program.feed(String::new());
    program.report().await
}

/// Nobody stopped it: the backend goes on alone, to its end.
async fn goes_on(stage: &Stage, mut turn: Exchange, events: &[String]) {
    eventually("nobody to follow the turn", || async {
        (stage.holdover.metric("holdover_followers", &[]).await == 0.0).then_some(())
    })
    .await;
    for event in &events[4..] {
        assert!(turn.event(event).await, "the backend was left");
    }
    turn.end().await;
    stage.judge(0).await;
}

#[tokio::test]
async fn an_abort_stops_the_turn() {
    for way in WAYS {
        let (stage, program, mut turn, _) = acting(way, "abort").await;
        turn.aborted().await;
        stage.cancelled().await;
        let report = reported(program).await;
        assert_eq!(report.errors.len(), 1, "{report:#?}");
        assert!(report.errors[0].starts_with("AbortError"), "{report:#?}");
        assert_eq!(data(&report.events)[..3], (PLAIN.seen)()[..3]);
    }
}

#[tokio::test]
async fn a_page_that_is_closed_stops_nothing() {
    for way in WAYS {
        let (stage, program, turn, events) = acting(way, "close").await;
        goes_on(&stage, turn, &events).await;
        reported(program).await;
    }
}

#[tokio::test]
async fn a_page_that_aborts_its_request_as_it_goes_stops_nothing() {
    let (stage, program, turn, events) = acting("install", "leave").await;
    goes_on(&stage, turn, &events).await;
    reported(program).await;
}

/// The news that it is back is what ends the wait: left to itself, the shim would believe for 30 s that it is gone.
#[tokio::test]
async fn a_network_that_goes_and_comes_back() {
    let (stage, program, mut turn, events) = acting("install", "offline").await;
    for event in &events[4..] {
        assert!(turn.event(event).await);
    }
    stage.faults.streams_are(2).await;
    turn.end().await;
    let report = reported(program).await;
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
    assert_eq!(data(&report.events), (PLAIN.seen)());
    stage.judge(0).await;
}

/// Half an answer must not pass for a whole one, however often somebody asks for the rest.
#[tokio::test]
async fn a_turn_that_failed_fails_the_body() {
    for way in WAYS {
        let stage = Stage::with([]).await;
        let program = stage.client("reader.mjs", &["--chromium", "--way", way]);
        let backend = async {
            let (mut turn, events) = stage.opened(&PLAIN).await;
            for event in &events[..5] {
                turn.event(event).await;
            }
            turn.reset();
        };
        let (report, ()) = tokio::join!(program.report(), backend);
        // Through a worker, an error is the platform's own.
        let error = if way == "worker" { "TypeError: " } else { "TypeError: network error (failed)" };
        assert_eq!(report.errors.len(), 1, "{report:#?}");
        assert!(report.errors[0].starts_with(error), "{report:#?}");
        assert_eq!(data(&report.events), (PLAIN.seen)()[..5]);
        assert_eq!(stage.starts(), 1);
    }
}
