//! Gemini's SDKs understand no line that their server does not send.

use super::*;

const PATH: &str = "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse";

async fn server() -> Server {
    Server::new(":streamGenerateContent", &[]).await
}

fn chunk(text: &str, finish: Option<&str>) -> String {
    let mut candidate = json!({ "content": { "role": "model", "parts": [{ "text": text }] }, "index": 0 });
    if let Some(finish) = finish {
        candidate["finishReason"] = finish.into();
    }
    let chunk = json!({ "candidates": [candidate], "modelVersion": "gemini-2.5-flash", "responseId": "r1" });
    format!("data: {chunk}\r\n\r\n")
}

fn answer() -> Vec<String> {
    let mut all: Vec<_> = (1..=8).map(|n| chunk(&format!("é{n}\n"), None)).collect();
    all.push(chunk(".", Some("STOP")));
    all
}

fn scripts() -> [fn() -> Script; 3] {
    [
        || Script::node("gemini.mjs").args(["--major", "1"]),
        || Script::node("gemini.mjs").args(["--major", "3"]),
        || Script::python("gemini_client.py"),
    ]
}

#[tokio::test]
async fn the_sdks_read_the_same_through_holdover() {
    for script in scripts() {
        let server = server().await;
        let [direct, _] = both(&server, &answer(), script, "").await;
        assert_eq!((&*direct.ended, direct.events.len()), ("clean", 9), "{direct:#?}");
    }
}

/// Without id, `retry:` and keep-alive on the start; on the turn's own URL it has them.
#[tokio::test]
async fn a_start_is_answered_with_the_lines_of_the_backend_only() {
    let server = server().await;
    let config = "[[route]]\nname = \"gemini\"\nkeepalive = \"1s\"\n";
    let holdover = Holdover::before(&server.backend).config(config).start().await;
    let mut client = holdover.connect().await;
    client.request("POST", PATH, &[("x-goog-api-key", "k"), ("authorization", "Bearer alice")], "{}").await;
    let mut turn = server.turn().await;
    let stream = answer();
    turn.chunk(&stream[0]).await;
    let name = client.head().await.get("holdover-turn").expect("it is recorded").to_owned();
    let first = client.next_event().await;
    // Somebody who reads along on its URL gets a keep-alive meanwhile.
    let mut other = holdover.connect().await;
    let resume = format!("/.holdover/turns/{name}/stream?after=0");
    other.request("GET", &resume, &[("authorization", "Bearer alice")], "").await;
    assert_eq!(other.head().await.status(), 200);
    assert_eq!(other.next_event().await.id(), format!("{name}-1"));
    other.until(":\n").await;
    for block in &stream[1..] {
        turn.chunk(block).await;
    }
    turn.end().await;
    let rest = client.body().await;
    assert_eq!([&first.bytes[..], &rest[..]].concat(), stream.concat().as_bytes());
}

#[tokio::test]
async fn what_is_no_event_stream_passes() {
    let server = Server::new("none", &[(":streamGenerateContent", "[{},\r\n{}]")]).await;
    let holdover = Holdover::start(&server.backend).await;
    let answer = holdover.request("POST", PATH.trim_end_matches("?alt=sse")).body("{}").send().await.unwrap();
    assert_eq!(answer.headers().get("holdover-turn"), None);
    assert_eq!(answer.text().await.unwrap(), "[{},\r\n{}]");
}

/// Half an answer must not pass for a whole one.
#[tokio::test]
async fn a_lost_turn_is_an_error_to_the_sdks() {
    for script in scripts() {
        let server = server().await;
        let config = "[[route]]\nname = \"gemini\"\nmax_turn = \"2s\"\n";
        let holdover = Holdover::before(&server.backend).config(config).start().await;
        let client = on(script(), holdover.addr(), "");
        let mut turn = server.turn().await;
        turn.chunk(&answer()[0]).await;
        turn.aborted().await;
        let report = client.report().await;
        assert_eq!((&*report.ended, report.events.len()), ("error", 1), "{report:#?}");
        holdover.metric_is("holdover_turns_finished_total", &[("outcome", "expired")], 1.0).await;
    }
}

#[tokio::test]
async fn the_snippet_goes_on_by_itself() {
    let text: String = (1..=8).map(|n| format!("é{n}\n")).chain([".".to_owned()]).collect();
    prints(&server().await, &answer(), "snippets/gemini_stream.mjs", ("GEMINI_URL", ""), &text).await;
}
