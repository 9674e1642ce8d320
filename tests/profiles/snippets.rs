//! The snippets of `docs/clients`, run as they stand there, through connections that break.

use super::stage::{At, Stage};
use crate::support::{
    How, Script,
    dialect::{Blocks, message, response},
};

/// After the first line of the answer, and inside an event some way behind it.
fn cuts(first: usize) -> [At; 3] {
    [(first + 1, 0, How::Fin), (1, 10, How::Reset), (2, 60, How::Fin)]
}

/// A program prints these lines of an answer, of which `first` events bring the first one. `base` goes behind the address in
/// the `variable` that tells it whom to ask.
async fn prints(
    script: Script,
    (variable, base): (&str, &str),
    path: &str,
    blocks: &Blocks,
    first: usize,
    lines: &[&str],
) {
    let stage = Stage::new(&["/v1/responses", "/v1/messages", "/chat"], "", &cuts(first)).await;
    let script = ["OPENAI_API_KEY", "ANTHROPIC_API_KEY"].iter().fold(script, |script, key| script.env(key, "test"));
    let mut program = script.env(variable, format!("http://{}{base}", stage.address())).start();
    let mut printed = Vec::new();
    let known = async { printed.push(program.line().await.expect("a first line")) };
    stage.play_cut(blocks, &cuts(first), first, known).await;
    printed.extend(program.rest().await);
    assert_eq!(printed, lines);
    assert_eq!(stage.faults.cuts(), 3);
    stage.one_turn(path, "completed").await;
}

#[tokio::test]
async fn openai_responses() {
    // The third word brings the first line break.
    let (blocks, first) = (response("resp_1"), 14);
    for script in [Script::node("snippets/openai_responses.mjs"), Script::python("snippets/openai_responses.py")] {
        prints(script, ("OPENAI_BASE_URL", "/v1"), "/v1/responses", &blocks, first, &["Hello wide", "", "world é€😀."])
            .await;
    }
}

#[tokio::test]
async fn anthropic_messages() {
    let (blocks, first) = (message(), 10);
    for script in [Script::node("snippets/anthropic_messages.mjs"), Script::python("snippets/anthropic_messages.py")] {
        prints(script, ("ANTHROPIC_BASE_URL", ""), "/v1/messages", &blocks, first, &["Hello", "", "world é€😀."]).await;
    }
}

#[tokio::test]
async fn httpx_sse() {
    let words = ["one", "two", "three", "four", "five", "six", "seven"];
    let blocks: Blocks = words.iter().map(|word| format!("data: {word}\n\n")).collect();
    let script = Script::python("snippets/httpx_sse_chat.py");
    prints(script, ("CHAT_URL", ""), "/chat", &blocks, 1, &words).await;
}

/// In a page of Chromium's.
async fn shows(snippet: &str) {
    let blocks: Blocks = (1..=12).map(|n| format!("data: token {n}\n\n")).collect();
    let stage = Stage::new(&["/chat"], "[[route]]\nreconnect = \"50ms\"\n", &cuts(1)).await;
    let script = Script::node("chromium_snippet.mjs").args(["--live", "--snippet", snippet]);
    let client = stage.client(script, "/chat");
    let report = stage.play(client, &blocks, &cuts(1)).await;
    let data: Vec<_> = report.events.iter().map(|event| event.data.clone()).collect();
    assert_eq!(data, (1..=12).map(|n| format!("token {n}")).collect::<Vec<_>>());
    assert_eq!((&*report.ended, stage.faults.cuts()), ("clean", 3));
    stage.one_turn("/chat", "completed").await;
}

#[tokio::test]
async fn fetch_event_source() {
    shows("fetch_event_source").await;
}

#[tokio::test]
async fn eventsource() {
    shows("eventsource").await;
}
