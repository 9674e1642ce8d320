//! The demo's page in a real browser: `holdover demo`, driven by `tests/browser/demo.mjs`.

use std::process::Command;

use crate::support::{Program, Script, program};

/// How many browsers share the scenarios. Most of their time is spent watching answers come in.
const BROWSERS: usize = 3;

/// Starts the demo; gives the address of its page.
async fn demo() -> (Program, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdover"));
    command.args(["demo", "--listen", "127.0.0.1:0"]);
    let mut demo = Program::start(command);
    loop {
        let line = demo.line().await.expect("the demo says where its page is");
        if let Some(("", page)) = line.trim().split_once("chat page") {
            return (demo, page.trim().to_owned());
        }
    }
}

#[tokio::test]
async fn every_scenario_of_the_demo() {
    let (_demo, page) = demo().await;
    let pictures = tempfile::tempdir().expect("a folder for screenshots");
    let modules = program::root().join("tests/clients/node/node_modules");
    let scenarios = |share| {
        Script::run("node/bin/node", &program::root().join("tests/browser/demo.mjs"))
            .args([&page, pictures.path().to_str().expect("it is text"), &format!("{share}/{BROWSERS}")])
            .env("NODE_PATH", &modules)
            .start()
    };
    let browsers: Vec<_> = (1..=BROWSERS).map(scenarios).collect();
    let mut passed = 0;
    for mut browser in browsers {
        let said = browser.rest().await;
        assert!(browser.succeeded().await, "{said:#?}");
        assert_eq!(said.last().map(String::as_str), Some("all passed"));
        passed += said.iter().filter(|line| line.starts_with("ok ")).count();
    }
    assert!(passed > BROWSERS, "the scenarios were not found");
}

/// The third pane is a bundle that is checked in.
#[tokio::test]
async fn the_bundle_is_what_its_source_gives() {
    let build = program::root().join("src/demo/chat/build.mjs");
    let mut build = Script::run("node/bin/node", &build).args(["--check"]).start();
    assert!(build.succeeded().await, "run node src/demo/chat/build.mjs");
}
