//! What is no event stream passes as it is, as it comes, and ends with its client.

use crate::support::{Backend, Client, Holdover, Piece, Script, dialect, fresh_body};

/// Exactly this, without waiting for more.
async fn receives(client: &mut Client, expected: &[u8]) {
    let mut all = Vec::new();
    while all.len() < expected.len() {
        match client.piece().await {
            Piece::Data(bytes) => all.extend_from_slice(&bytes),
            Piece::End(ending) => panic!("{ending:?} behind {all:?}"),
        }
    }
    assert_eq!(all, expected);
}

/// Passes these pieces through Holdover, each only when the one before has arrived.
async fn passes(content_type: &str, pieces: &[Vec<u8>]) {
    let backend = Backend::start().await;
    let holdover = Holdover::start(&backend).await;
    let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n");
    let ask = async || {
        let mut client = holdover.connect().await;
        client.request("POST", "/api/chat", &[("Accept", content_type)], fresh_body()).await;
        let mut exchange = backend.next().await;
        exchange.head(&head).await;
        let answered = client.head().await;
        assert_eq!(answered.get("content-type"), Some(content_type));
        assert_eq!(answered.get("holdover-turn"), None);
        (client, exchange)
    };
    let (mut client, mut exchange) = ask().await;
    for piece in pieces {
        exchange.chunk(piece).await;
        receives(&mut client, piece).await;
    }
    exchange.end().await;
    assert_eq!(client.body().await, "");

    let (mut client, mut exchange) = ask().await;
    exchange.chunk(&pieces[0]).await;
    receives(&mut client, &pieces[0]).await;
    drop(client);
    exchange.aborted().await;
    assert_eq!(holdover.metric("holdover_turns_finished_total", &[("outcome", "completed")]).await, 0.0);
}

/// Ollama's own API: lines of JSON.
#[tokio::test]
async fn lines_of_json() {
    let line = |text: &str, done: bool| {
        let line =
            serde_json::json!({ "model": "m", "message": { "role": "assistant", "content": text }, "done": done });
        format!("{line}\n").into_bytes()
    };
    passes("application/x-ndjson", &[line("Hello", false), line("\n\nworld", false), line("", true)]).await;
}

/// AG-UI's other encoding, as its own library writes it.
#[tokio::test]
async fn protocol_buffers_of_ag_ui() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("events.json");
    let data = dialect::agent("thread-1", "run-1");
    let data: Vec<_> = data.iter().map(|block| block.trim_end().trim_start_matches("data: ")).collect();
    std::fs::write(&file, format!("[{}]", data.join(","))).unwrap();
    let lines = Script::node("ag_ui_agent.mjs").args(["--url", "none", "--encode"]).args([&file]).start().rest().await;
    assert_eq!(lines.len(), data.len());
    let pieces: Vec<_> = lines.iter().map(|line| from_hex(line)).collect();
    passes("application/vnd.ag-ui.event+proto", &pieces).await;

    let all = pieces.concat();
    let serve = || async {
        let all = all.clone();
        Backend::answering(move |mut exchange| {
            let all = all.clone();
            async move {
                exchange.body().await;
                let head = "HTTP/1.1 200 OK\r\nContent-Type: application/vnd.ag-ui.event+proto\r\nTransfer-Encoding: chunked\r\n";
                exchange.head(head).await;
                exchange.chunk(&all).await;
                exchange.end().await;
            }
        })
        .await
    };
    let (direct, behind) = (serve().await, serve().await);
    let holdover = Holdover::start(&behind).await;
    let read =
        |address| Script::node("ag_ui_agent.mjs").args(["--url", &format!("http://{address}/agent")]).start().report();
    let (direct, through) = tokio::join!(read(direct.address()), read(holdover.addr()));
    assert_eq!((&*direct.ended, direct.events.len()), ("clean", data.len() + 1), "{direct:#?}");
    assert_eq!(direct.events, through.events);
}

fn from_hex(line: &str) -> Vec<u8> {
    (0..line.len()).step_by(2).map(|at| u8::from_str_radix(&line[at..at + 2], 16).unwrap()).collect()
}
