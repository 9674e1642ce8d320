//! Flowise predictions, with their `message:` lines.

use super::*;

const PATH: &str = "/api/v1/prediction/a-flow";
const STREAMS: (&str, &str) = ("/chatflows-streaming/", r#"{"isStreaming":true}"#);

fn answer() -> Vec<String> {
    let event = |kind: &str, data: &Value| format!("message:\ndata:{}\n\n", json!({ "event": kind, "data": data }));
    let mut all = vec![event("start", &json!(""))];
    all.extend((1..=7).map(|n| event("token", &json!(format!("é{n} ")))));
    all.push(event("metadata", &json!({ "chatId": "a-chat", "sessionId": "a-chat" })));
    // Its last event has a line without a colon.
    all.push("message\ndata:{\"event\":\"end\",\"data\":\"[DONE]\"}\n\n".to_owned());
    all
}

fn body() -> Value {
    json!({ "question": "Hello", "chatId": "a-chat", "streaming": true })
}

#[tokio::test]
async fn the_sdks_read_the_same_through_holdover() {
    let scripts: [fn() -> Script; 2] = [|| Script::node("flowise.mjs"), || Script::python("flowise_client.py")];
    for script in scripts {
        let [direct, _] = both(&Server::new(PATH, &[STREAMS]).await, &answer(), script, "").await;
        assert_eq!((&*direct.ended, direct.events.len()), ("clean", 10), "{direct:#?}");
        assert_eq!((&*direct.events[9].kind, &*direct.events[9].data), ("end", "\"[DONE]\""));
    }
}

#[tokio::test]
async fn the_snippet_goes_on_by_itself() {
    let text: String = (1..=7).map(|n| format!("é{n} ")).collect();
    let server = Server::new(PATH, &[]).await;
    prints(&server, &answer(), "snippets/flowise_prediction.mjs", ("FLOWISE_URL", ""), &text).await;
}

/// Aborted at the backend if it knows how, and here if not.
#[tokio::test]
async fn its_abort_ends_the_turn_as_cancelled() {
    let server = Server::new(PATH, &[]).await;
    let holdover = Holdover::start(&server.backend).await;
    let (mut client, mut turn, name) = begun(&server, &holdover, PATH, &body(), &answer()[..3]).await;
    let abort = |chat: &str| {
        let path = format!("/api/v1/chatmessage/abort/a-flow/{chat}");
        holdover.request("PUT", &path).header("authorization", "Bearer alice").send()
    };
    assert_eq!(abort("another-chat").await.unwrap().status(), 404);
    let (aborted, ()) = tokio::join!(abort("a-chat"), turn.aborted());
    assert_eq!(aborted.unwrap().json::<Value>().await.unwrap()["status"], 200);
    state_is(&holdover, &name, "cancelled").await;
    assert!(client.rest().await.1.is_clean());
}
