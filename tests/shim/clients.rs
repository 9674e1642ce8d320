//! Libraries on the shim, unchanged, and every way to put it in.

use super::{
    dialects::{A2A, AG_UI, AI_SDK, Dialect, PLAIN},
    stage::{Stage, cuts, data},
};
use crate::support::Random;

/// One turn, read by a client in spite of cuts.
async fn survives(client: &str, arguments: &[&str], dialect: Dialect) {
    let mut random = Random::any();
    let cuts = cuts(&dialect, &mut random);
    // Shown only if the test fails.
    eprintln!("{cuts:#?}");
    let stage = Stage::with(cuts.clone()).await;
    let program = stage.client(client, arguments);
    let (report, ()) = tokio::join!(program.report(), stage.run(&dialect, cuts.len()));
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
    assert_eq!(data(&report.events), (dialect.seen)());
    stage.judge(cuts.len()).await;
}

#[tokio::test]
async fn use_chat_of_the_ai_sdk() {
    survives("use_chat.jsx", &["--chromium"], AI_SDK).await;
}

#[tokio::test]
async fn use_chat_of_the_ai_sdk_of_another_origin() {
    survives("use_chat.jsx", &["--chromium", "--cross-origin"], AI_SDK).await;
}

#[tokio::test]
async fn ag_ui() {
    survives("ag_ui.mjs", &[], AG_UI).await;
    survives("ag_ui.mjs", &["--chromium"], AG_UI).await;
}

/// Its core asks for its runtime in browsers only.
#[tokio::test]
async fn copilotkit() {
    survives("copilotkit.mjs", &["--chromium"], AG_UI).await;
}

#[tokio::test]
async fn a2a() {
    survives("a2a.mjs", &[], A2A).await;
    survives("a2a.mjs", &["--chromium"], A2A).await;
}

#[tokio::test]
async fn a_reader_by_hand_and_the_module() {
    survives("reader.mjs", &["--chromium", "--way", "install"], PLAIN).await;
}

#[tokio::test]
async fn a_reader_by_hand_and_the_module_of_another_origin() {
    survives("reader.mjs", &["--chromium", "--way", "install", "--cross-origin"], PLAIN).await;
}

#[tokio::test]
async fn a_reader_by_hand_and_the_plain_script() {
    survives("reader.mjs", &["--chromium", "--way", "classic"], PLAIN).await;
}

#[tokio::test]
async fn a_reader_by_hand_and_the_service_worker() {
    survives("reader.mjs", &["--chromium", "--way", "worker"], PLAIN).await;
}

/// Without the shim the same reader is lost, so it is the shim that the tests above are about.
#[tokio::test]
async fn a_reader_by_hand_alone() {
    let stage = Stage::with(cuts(&PLAIN, &mut Random::any())).await;
    let program = stage.client("reader.mjs", &["--chromium"]);
    let backend = async {
        let (mut turn, events) = stage.opened(&PLAIN).await;
        for event in &events {
            turn.event(event).await;
        }
        turn.end().await;
    };
    let (report, ()) = tokio::join!(program.report(), backend);
    assert_eq!(report.errors, ["TypeError: network error"]);
    assert!(report.events.len() < (PLAIN.seen)().len());
}
