//! The files that Holdover serves, and those that are checked in.

use std::process::Command;

use crate::support::{Backend, Holdover, Program, program};

/// Runs Node in `clients/js`.
fn node(arguments: &[&str]) -> Program {
    let mut command = Command::new(program::root().join(".deps/node/bin/node"));
    command.args(arguments).current_dir(program::root().join("clients/js"));
    Program::start(command)
}

#[tokio::test]
async fn what_is_checked_in_is_what_its_source_gives() {
    assert!(node(&["build.mjs", "--check"]).succeeded().await, "run `npm run build` in clients/js");
}

#[tokio::test]
async fn the_tests_of_the_package() {
    let mut tests = node(&["--test", "--test-reporter=tap", "test/*.test.mjs"]);
    let said = tests.rest().await;
    assert!(tests.succeeded().await, "{}", said.join("\n"));
    assert!(said.iter().any(|line| line.starts_with("# pass ")), "no test was run");
}

#[tokio::test]
async fn the_files_are_for_everybody() {
    let backend = Backend::start().await;
    let config = "[identity]\nfrom = [\"header:authorization\"]\n";
    let holdover = Holdover::before(&backend).config(config).start().await;
    for (name, kind) in [
        ("resume.js", "text/javascript; charset=utf-8"),
        ("resume.classic.js", "text/javascript; charset=utf-8"),
        ("resume-sw.js", "text/javascript; charset=utf-8"),
        ("resume.d.ts", "application/typescript; charset=utf-8"),
    ] {
        let path = format!("/.holdover/{name}");
        let answer = holdover.request("GET", &path).header("origin", "https://app.example").send().await.unwrap();
        assert_eq!(answer.status(), 200);
        let head = answer.headers().clone();
        assert_eq!(head["content-type"], kind);
        assert_eq!(head["access-control-allow-origin"], "*");
        assert_eq!(head["cross-origin-resource-policy"], "cross-origin");
        assert_eq!(head["cache-control"], "public, max-age=3600");
        assert_eq!(head.get("service-worker-allowed").is_some(), name == "resume-sw.js");
        let file = program::root().join("clients/js/dist").join(name);
        assert_eq!(answer.bytes().await.unwrap(), std::fs::read(file).unwrap());

        let tag = head["etag"].to_str().unwrap();
        let weak = format!("\"other\", W/{tag}");
        for known in [tag, &weak, "*"] {
            let answer = holdover.request("GET", &path).header("if-none-match", known).send().await.unwrap();
            assert_eq!(answer.status(), 304, "{known}");
            assert_eq!(answer.headers()["etag"], tag);
            assert!(answer.bytes().await.unwrap().is_empty());
        }
        let answer = holdover.request("GET", &path).header("if-none-match", "\"other\"").send().await.unwrap();
        assert_eq!(answer.status(), 200);

        let answer = holdover.request("HEAD", &path).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), &answer.headers()["content-length"]), (200, &head["content-length"]));
        let answer = holdover.request("POST", &path).body("x").send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.headers()["allow"].to_str().unwrap()), (405, "GET, HEAD"));
    }
    assert!(backend.requests().is_empty());
}
