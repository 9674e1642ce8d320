//! The chat components and the configurations of `docs/clients`, run as they stand there: a page is left in mid-turn and loaded
//! again.

use super::counting::Counting;
use crate::support::{Holdover, Script, program::root};

const ALICE: &str = "Authorization: Bearer alice";

fn read(file: String) -> String {
    std::fs::read_to_string(root().join(&file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// The text of a document's first block in this language.
fn block<'a>(document: &'a str, language: &str) -> &'a str {
    let (_, rest) = document.split_once(&format!("```{language}\n")).expect("there is such a block");
    rest.split_once("```").expect("it ends").0
}

/// The component of `page` in front of `backend`, whose turn waits behind so many chunks.
async fn is_left_and_loaded_again(page: &str, snippet: &str, backend: Counting, path: &str) {
    let document = read(format!("docs/clients/{page}.md"));
    assert_eq!(block(&document, "js"), read(format!("tests/clients/node/snippets/{snippet}.mjs")));
    let config = block(&document, "toml").replace("/api/chat", path);
    let holdover = Holdover::setup().upstream(backend.address).config(config).start().await;
    let url = format!("http://{}{path}", holdover.addr());
    let script = |plan: &str| {
        let script = Script::node("chat_snippet.mjs").args(["--snippet", snippet, "--url", &url, "--plan", plan]);
        script.args(["--header", ALICE])
    };
    let mut left = script("ask").start();
    let storage = left.note("storage").await;
    left.kill();
    let loaded = script("load").args(["--storage", storage.as_str().unwrap(), "--go", &backend.gate()]).start();
    let report = loaded.report().await;
    let shown: Vec<_> = report.events.iter().map(|text| (&*text.kind, &*text.data)).collect();
    assert_eq!(shown, [("user", "Weather in Ulm?"), ("assistant", "t1 t2 t3 t4 ")], "{report:#?}");
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]));
    backend.counts(1, 1, 0).await;
}

#[tokio::test]
async fn ai_sdk() {
    let backend = Script::node("backends/ai_sdk_server.mjs").args(["--events=4", "--pause=3"]);
    is_left_and_loaded_again("ai-sdk", "ai_sdk_chat", Counting::start(backend).await, "/api/chat").await;
}

#[tokio::test]
async fn tanstack() {
    let backend = Script::node("backends/tanstack_server.mjs").args(["--pause=19"]);
    is_left_and_loaded_again("tanstack", "tanstack_chat", Counting::start(backend).await, "/chat").await;
}
