//! Clients of the same stream that know it by a run or a stream of its own: the workflow transport and assistant-ui.

use super::*;
use crate::support::{Exchange, events};

fn workflow(address: SocketAddr, plan: &str) -> Script {
    let url = format!("http://{address}/api/chat");
    let body = json!({ "parts": true, "events": WORDS }).to_string();
    Script::node("ai_sdk_workflow.mjs").args(["--url", &url, "--plan", plan, "--body", &body])
}

/// It comes back by itself, up to twice without an answer that ends well.
#[tokio::test]
async fn the_workflow_transport_goes_on_wherever_it_is_cut() {
    const TURNS: usize = 20;
    let backend = backend().await;
    let holdover = before(&backend).await;
    let cuts = (1..=TURNS).flat_map(|events| {
        let how = if events % 2 == 0 { How::Reset } else { How::Fin };
        // A reset may take with it what was sent before.
        [Cut::after(events, How::Fin), Cut::inside(1, 9, how), Cut::after(usize::MAX, how)]
    });
    let faults = FaultProxy::start(holdover.addr(), cuts).await;
    let report = workflow(faults.address(), "start")
        .args(["--turns", &TURNS.to_string(), "--timeout", "300000"])
        .start()
        .report()
        .await;
    assert_eq!((&*report.ended, &*report.errors), ("clean", &[][..]), "{report:#?}");
    for turn in 1..=TURNS {
        let id = format!("a-chat-{turn} message-{turn}");
        let of_turn: Vec<_> = report.events.iter().filter(|part| part.id.as_ref() == Some(&id)).cloned().collect();
        assert_eq!(parts(&of_turn), message(), "cut behind event {turn}: {report:#?}");
    }
    assert_eq!((faults.cuts(), report.opens), (2 * TURNS, 3 * TURNS));
    backend.counts(TURNS as u64, TURNS as u64, 0).await;
    assert_eq!(backend.stats().await["asked"], 0);
}

/// From the begin of the text, counted from the end: its start, its words, its end, and the ends of step and message.
#[tokio::test]
async fn the_workflow_transport_reads_a_tail() {
    let backend = backend().await;
    let holdover = before(&backend).await;
    let run = run(&holdover).await;
    let tail = format!("-{}", WORDS + 4);
    let page = workflow(holdover.addr(), "tail").args(["--run", &run, &format!("--start-index={tail}")]);
    let report = page.start().report().await;
    assert_eq!(parts(&report.events), message()[4..], "{report:#?}");
    assert_eq!((&*report.ended, report.opens, &*report.errors), ("clean", 1, &[][..]), "{report:#?}");
    backend.counts(1, 1, 0).await;
}

/// Starts a turn as the transport does, which names no chat, and reads it to its end.
async fn run(holdover: &Holdover) -> String {
    let body = json!({ "messages": [{ "id": "m", "role": "user", "parts": [{ "type": "text", "text": "?" }] }],
        "parts": true, "events": WORDS });
    let answer = holdover.request("POST", "/api/chat").body(body.to_string()).send().await.unwrap();
    let run = answer.headers()["x-workflow-run-id"].to_str().unwrap().to_owned();
    assert_eq!(answer.headers()["x-resumable-stream-id"], &*run);
    assert_eq!(answer.text().await.unwrap().matches("\n\n").count(), EVENTS + 3);
    run
}

#[tokio::test]
async fn any_start_index_has_its_answer() {
    let backend = backend().await;
    let holdover = before(&backend).await;
    let run = run(&holdover).await;
    // `[DONE]` counts for nothing.
    let (all, last) = (EVENTS + 3, EVENTS + 2);
    for (index, first) in [
        ("0".to_owned(), 1),
        ("3".to_owned(), 4),
        (format!("{}", last - 1), last),
        ("-1".to_owned(), last),
        ("-3".to_owned(), last - 2),
        ("-1000".to_owned(), 1),
        (String::new(), 1),
        ("three".to_owned(), 1),
        ("1e3".to_owned(), 1),
        ("99999999999999999999".to_owned(), 1),
    ] {
        let answer =
            holdover.request("GET", &format!("/api/chat/{run}/stream?startIndex={index}")).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{index:?}");
        assert_eq!(answer.headers()["x-workflow-stream-tail-index"], &*(last - 1).to_string());
        let events = events(&answer.bytes().await.unwrap());
        assert_eq!(events.len(), all - first + 1, "{index:?}");
        assert!(events[0].id().ends_with(&format!("-{first}")), "{index:?}");
    }
    let asked = async |path: String| asks(&holdover, "GET", &path, "Bearer alice").await;
    for past in [last, last + 1, 1000] {
        assert_eq!(asked(format!("/api/chat/{run}/stream?startIndex={past}")).await, 410, "{past}");
    }
    assert_eq!(asked("/api/chat/abcdefghijklmnopqrstuvwxyz23/stream?startIndex=0".to_owned()).await, 404);
    assert_eq!(backend.stats().await["asked"], 0);
    // A run that the backend named is the backend's to find.
    assert_eq!(asked("/api/chat/wrun_1/stream?startIndex=0".to_owned()).await, 404);
    assert_eq!(backend.stats().await["asked"], 1);
    backend.counts(1, 1, 0).await;
}

/// A page that is left in mid-turn and loaded again.
#[tokio::test]
async fn assistant_ui_resumes_a_stored_stream() {
    for resume in ["/.holdover/turns", "/api/chat"] {
        let backend = backend().await;
        let holdover = before(&backend).await;
        let base = format!("http://{}", holdover.addr());
        let body = json!({ "parts": true, "events": WORDS, "pause": 8 }).to_string();
        let mut page = Script::node("assistant_ui.mjs")
            .args(["--url", &format!("{base}/api/chat"), "--resume", &format!("{base}{resume}")])
            .args(["--go", &backend.gate(), "--body", &body])
            .start();
        assert!(page.note("stored").await.is_string());
        assert_eq!(page.note("stored").await, Value::Null, "the stream has finished");
        let report = page.report().await;
        let text: Vec<_> = report.events.iter().map(|part| (&*part.kind, &*part.data)).collect();
        assert_eq!(text.iter().map(|(kind, _)| *kind).collect::<Vec<_>>(), ["reasoning", "tool-call", "text"]);
        assert!(
            text[0].1.contains("The user asks.") && text[1].1.contains("21") && text[2].1.contains("\"t1 t2 t3 t4 \"")
        );
        assert_eq!((&*report.ended, report.opens, &*report.errors), ("clean", 2, &[][..]), "{report:#?}");
        backend.counts(1, 1, 0).await;
    }
}

/// A backend that resumes by itself names its runs, and is asked for them.
#[tokio::test]
async fn a_run_of_the_backends_own_is_left_to_it() {
    let backend = Backend::start().await;
    let holdover = Holdover::before(&backend).start().await;
    let mut client = holdover.connect().await;
    client.request("POST", "/api/chat", &[], "{}").await;
    let mut upstream: Exchange = backend.next().await;
    upstream.stream_with("x-vercel-ai-ui-message-stream: v1\r\nx-workflow-run-id: wrun_1\r\n").await;
    assert_eq!(client.head().await.get("x-workflow-run-id"), Some("wrun_1"));
    let mut second = holdover.connect().await;
    second.request("GET", "/api/chat/wrun_1/stream?startIndex=0", &[], "").await;
    let asked = backend.next().await;
    assert_eq!(asked.request.target(), "/api/chat/wrun_1/stream?startIndex=0");
    asked.answer("410 Gone", "", "").await;
    assert_eq!(second.head().await.status(), 410);
    upstream.end().await;
}
