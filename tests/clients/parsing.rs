//! Libraries read through Holdover what they read from the backend itself.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::support::dialect;

/// What chat backends write: several lines, names, ids of their own, comments, CRLF, a ping; `retry:`, so that those who
/// come back after the end do so soon.
const STREAM: &str = "retry: 50\ndata: first\n\n\
    : a note\nevent: token\ndata: {\"text\": \"é € 😀\"}\n\n\
    data: one\ndata: two\ndata:\ndata:  three\n\n\
    id: of the backend\ndata: with an id\n\n\
    : ping - 2026-11-21\r\n\r\n\
    event: token\r\ndata: crlf\r\n\r\n\
    unknown: field\ndata:no blank\n\n\
    data: last\n\n";

/// The same for libraries that understand chat completions only.
fn completion() -> String {
    let chunk = |text: &str| {
        let choice = serde_json::json!({ "index": 0, "delta": { "content": text }, "finish_reason": null });
        serde_json::json!({ "id": "c", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice] })
    };
    format!(
        "data: {}\n\n: OPENROUTER PROCESSING\n\ndata: {}\r\n\r\n: ping\r\n\r\ndata:{}\n\ndata: [DONE]\n\n",
        chunk("é €"),
        chunk("\n\n"),
        chunk("😀"),
    )
}

/// A backend that sends `stream` once, and then has nothing left.
async fn once(stream: String) -> Backend {
    let (stream, asked) = (Arc::new(stream), Arc::new(AtomicUsize::new(0)));
    Backend::answering(move |mut exchange| {
        let stream = stream.clone();
        let first = asked.fetch_add(1, Ordering::Relaxed) == 0;
        async move {
            exchange.body().await;
            if first {
                exchange.stream().await;
                exchange.chunk(&*stream).await;
                exchange.end().await;
            } else {
                exchange.answer("204 No Content", "", "").await;
            }
        }
    })
    .await
}

/// What a client makes of `stream`: from the backend itself, and through Holdover.
async fn both(script: impl Fn() -> Script, path: &str, stream: &str) -> [Report; 2] {
    let backend = once(stream.to_owned()).await;
    let behind = once(stream.to_owned()).await;
    let holdover = Holdover::start(&behind).await;
    let read = |address| script().args(["--url", &format!("http://{address}{path}")]).start().report();
    let (direct, through) = tokio::join!(read(backend.address()), read(holdover.addr()));
    assert_eq!((&direct.ended, &direct.errors), (&through.ended, &through.errors), "{direct:#?} {through:#?}");
    [direct, through]
}

fn objects(report: &Report) -> Vec<(&str, &str)> {
    report.events.iter().map(|event| (&*event.kind, &*event.data)).collect()
}

async fn reads_the_same(script: impl Fn() -> Script) {
    let [direct, through] = both(script, "/chat", STREAM).await;
    // A ping is an event without data to some; Holdover lets no client stumble over it.
    let expected: Vec<_> = objects(&direct).into_iter().filter(|(_, data)| !data.is_empty()).collect();
    assert_eq!(expected.len(), 7, "{direct:#?}");
    assert_eq!(objects(&through), expected, "{}", direct.client);
}

#[tokio::test]
async fn eventsource() {
    for major in ["3", "4", "5"] {
        reads_the_same(|| Script::node("eventsource.mjs").args(["--major", major, "--types", "message,token"])).await;
    }
}

#[tokio::test]
async fn eventsource_client() {
    reads_the_same(|| Script::node("eventsource_client.mjs").args(POST)).await;
}

#[tokio::test]
async fn fetch_event_source() {
    reads_the_same(|| Script::node("fetch_event_source.mjs").args(POST)).await;
}

#[tokio::test]
async fn httpx_sse() {
    reads_the_same(|| Script::python("httpx_sse_client.py").args(POST)).await;
}

#[tokio::test]
async fn openai() {
    let scripts: [fn() -> Script; 3] = [
        || Script::node("openai.mjs").args(["--major", "6"]),
        || Script::node("openai.mjs").args(["--major", "7"]),
        || Script::python("openai_client.py"),
    ];
    for script in scripts {
        let [direct, through] = both(script, "/v1/chat/completions", &completion()).await;
        assert_eq!(direct.events.len(), 3, "{direct:#?}");
        assert_eq!(direct.events, through.events, "{}", direct.client);
    }
}

/// A turn as servers write it that show that they are alive; some write CRLF.
fn lively(blocks: &[String]) -> String {
    let write = |(number, block): (usize, &String)| match number % 4 {
        0 => format!(": OPENROUTER PROCESSING\n\n{block}"),
        1 => format!("{}\r\n\r\n: ping - 2026-11-21\r\n\r\n", block.trim_end().replace('\n', "\r\n")),
        2 => format!("retry: 50\n{block}"),
        _ => block.clone(),
    };
    blocks.iter().enumerate().map(write).collect()
}

/// This driver makes the same of a turn, what it builds from it included.
async fn builds_the_same(file: &str, arguments: &[&str], path: &str, stream: &str, least: usize) {
    let script = || {
        let script = if file.ends_with(".py") { Script::python(file) } else { Script::node(file) };
        script.args(arguments)
    };
    let [direct, through] = both(script, path, stream).await;
    assert!(direct.ended == "clean" && direct.events.len() >= least, "{direct:#?}");
    assert_eq!(direct.events, through.events, "{}", direct.client);
}

#[tokio::test]
async fn openai_responses() {
    let scripts: [(&str, &[&str]); 6] = [
        ("openai_responses.mjs", &["--major", "6"]),
        ("openai_responses.mjs", &["--major", "6", "--helper"]),
        ("openai_responses.mjs", &["--major", "7"]),
        ("openai_responses.mjs", &["--major", "7", "--helper"]),
        ("openai_responses.py", &[]),
        ("openai_responses.py", &["--helper"]),
    ];
    let blocks = dialect::response("resp_1");
    for (file, arguments) in scripts {
        let events = blocks.len() + usize::from(arguments.contains(&"--helper"));
        builds_the_same(file, arguments, "/v1/responses", &lively(&blocks), events).await;
    }
}

#[tokio::test]
async fn anthropic() {
    let blocks = dialect::message();
    let pings = blocks.iter().filter(|block| block.contains("\"ping\"")).count();
    for file in ["anthropic.mjs", "anthropic_client.py"] {
        for helped in [&[][..], &["--helper"]] {
            let events = blocks.len() - pings + helped.len();
            builds_the_same(file, helped, "/v1/messages", &lively(&blocks), events).await;
        }
    }
}

#[tokio::test]
async fn ag_ui() {
    // Its parser knows LF alone.
    let blocks = dialect::agent("thread-1", "run-1");
    builds_the_same("ag_ui_agent.mjs", &[], "/agent", &blocks.concat(), blocks.len() + 1).await;
}
