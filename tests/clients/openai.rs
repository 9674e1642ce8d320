//! The `openai` libraries: they never resume a stream, but send a start again that they lost before its answer.

use super::*;

/// The drivers of all versions.
fn scripts() -> [(&'static str, Script); 3] {
    let node = |major| Script::node("openai.mjs").args(["--major", major]);
    [("node 6", node("6")), ("node 7", node("7")), ("python", Script::python("openai_client.py"))]
}

/// The n-th chunk of a chat completion.
fn chunk(n: usize) -> String {
    let choice = serde_json::json!({ "index": 0, "delta": { "content": token(n) }, "finish_reason": null });
    let chunk = serde_json::json!({
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 0, "model": "test", "choices": [choice],
    });
    chunk.to_string()
}

/// What the library understood.
fn contents(report: &Report) -> Vec<String> {
    let content = |event: &Parsed| {
        let chunk: serde_json::Value = serde_json::from_str(&event.data).unwrap();
        chunk["choices"][0]["delta"]["content"].as_str().unwrap().to_owned()
    };
    report.events.iter().map(content).collect()
}

fn start(script: Script, address: SocketAddr) -> Program {
    script.args(["--url", &format!("http://{address}/v1/chat/completions")]).start()
}

#[tokio::test]
async fn a_start_that_is_sent_again_is_the_same_turn() {
    for ((name, script), how) in scripts().into_iter().zip([How::Fin, How::Reset, How::Fin]) {
        let stage = Stage::with([]).await;
        let client = start(script, stage.address());
        let mut turn = stage.turn().await;
        stage.faults.cut_all(how);
        let again = async || (stage.faults.connections() == 2).then_some(());
        eventually("the start to be sent again", again).await;
        turn.stream().await;
        for n in 1..=5 {
            turn.event(chunk(n)).await;
        }
        turn.event("[DONE]").await;
        turn.end().await;
        let report = client.report().await;
        assert_eq!((&*report.ended, report.opens), ("clean", 1), "{name}: {report:#?}");
        assert_eq!(contents(&report), (1..=5).map(token).collect::<Vec<_>>(), "{name}");
        assert_eq!(stage.starts(), 1, "{name}: turns at the backend");
        assert_eq!(stage.holdover.metric("holdover_starts_attached_total", &[("rule", "retry_count")]).await, 1.0);
    }
}

/// A clean early end would be a complete answer to it.
#[tokio::test]
async fn a_turn_that_breaks_is_an_error() {
    for (name, script) in scripts() {
        let stage = Stage::with([]).await;
        let client = start(script, stage.address());
        let mut turn = stage.turn().await;
        turn.stream().await;
        for n in 1..=5 {
            turn.event(chunk(n)).await;
        }
        stage.holdover.metric_is("holdover_events_recorded_total", &[], 5.0).await;
        turn.reset();
        let report = client.report().await;
        assert_eq!(report.ended, "error", "{name}: {report:#?}");
        assert_eq!(contents(&report), (1..=5).map(token).collect::<Vec<_>>(), "{name}");
        assert_eq!(stage.starts(), 1, "{name}: turns at the backend");
    }
}
