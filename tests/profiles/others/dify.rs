//! Dify's service API.

use super::*;

const PATH: &str = "/v1/chat-messages";

fn event(kind: &str, more: &Value) -> String {
    let mut event = json!({ "event": kind, "task_id": "task-1", "message_id": "m1", "conversation_id": "c1" });
    for (name, value) in more.as_object().expect("an object") {
        event[name] = value.clone();
    }
    format!("data: {event}\n\n")
}

fn answer() -> Vec<String> {
    let mut all: Vec<_> = (1..=8).map(|n| event("message", &json!({ "answer": format!("é{n} ") }))).collect();
    // As its server does when nothing happens: a block without data.
    all.insert(4, "event: ping\n\n".to_owned());
    all.push(event("message_end", &json!({ "metadata": {} })));
    all
}

fn body() -> Value {
    json!({ "inputs": {}, "query": "Hello", "user": "u", "response_mode": "streaming", "conversation_id": "c1" })
}

async fn server(knows: &'static [(&'static str, &'static str)]) -> Server {
    Server::new(PATH, knows).await
}

#[tokio::test]
async fn the_sdks_read_the_same_through_holdover() {
    let scripts: [fn() -> Script; 2] = [|| Script::node("dify.mjs"), || Script::python("dify_chat.py")];
    for script in scripts {
        let [direct, _] = both(&server(&[]).await, &answer(), script, "/v1").await;
        assert_eq!((&*direct.ended, direct.events.len()), ("clean", 9), "{direct:#?}");
        assert_eq!(read(&direct.events)[8]["event"], "message_end");
    }
}

#[tokio::test]
async fn the_snippet_goes_on_by_itself() {
    let text: String = (1..=8).map(|n| format!("é{n} ")).collect();
    prints(&server(&[]).await, &answer(), "snippets/dify_chat.mjs", ("DIFY_API", "/v1"), &text).await;
}

/// A page that is loaded while an answer is being generated finds it by its conversation.
#[tokio::test]
async fn a_conversation_finds_its_turn() {
    let server = server(&[]).await;
    let holdover = Holdover::start(&server.backend).await;
    let (_client, turn, name) = begun(&server, &holdover, PATH, &body(), &answer()[..2]).await;
    let mut other = holdover.connect().await;
    other.request("GET", "/.holdover/sessions/c1/stream", &[("Authorization", "Bearer alice")], "").await;
    assert_eq!(other.head().await.get("holdover-turn"), Some(&*name));
    assert_eq!(other.next_events(2).await.len(), 2);
    turn.end().await;
}

/// Stopped at the backend if it knows how, and here if not.
#[tokio::test]
async fn its_stop_ends_the_turn_as_cancelled() {
    let ways: [&'static [(&'static str, &'static str)]; 2] = [&[("/stop", r#"{"result":"success"}"#)], &[]];
    for knows in ways {
        let server = server(knows).await;
        let holdover = Holdover::start(&server.backend).await;
        let (mut client, mut turn, name) = begun(&server, &holdover, PATH, &body(), &answer()[..2]).await;
        let foreign = holdover.request("POST", "/v1/chat-messages/task-2/stop").header("authorization", "Bearer alice");
        assert_eq!(foreign.send().await.unwrap().status(), if knows.is_empty() { 404 } else { 200 });
        assert_eq!(holdover.status_as(&name, Some("Bearer alice")).await["state"], "running");
        let stop = holdover.request("POST", "/v1/chat-messages/task-1/stop").header("authorization", "Bearer alice");
        let stopped = stop.json(&json!({ "user": "u" })).send();
        let stopping = async {
            if knows.is_empty() {
                turn.aborted().await;
            } else {
                within(DEADLINE, "the stop at the backend", async {
                    let there = async || (server.backend.requests().len() >= 3).then_some(());
                    eventually("the stop at the backend", there).await;
                })
                .await;
                turn.chunk(event("message_end", &json!({}))).await;
                turn.end().await;
            }
        };
        let (stopped, ()) = tokio::join!(stopped, stopping);
        let stopped = stopped.unwrap();
        assert_eq!(stopped.status(), 200);
        assert_eq!(stopped.json::<Value>().await.unwrap(), json!({ "result": "success" }));
        state_is(&holdover, &name, "cancelled").await;
        assert!(client.rest().await.1.is_clean());
    }
}

#[tokio::test]
async fn an_error_event_is_a_failure_that_ends_cleanly() {
    let server = server(&[]).await;
    let holdover = Holdover::start(&server.backend).await;
    let (mut client, mut turn, name) = begun(&server, &holdover, PATH, &body(), &answer()[..2]).await;
    turn.chunk(event("error", &json!({ "status": 400, "code": "quota", "message": "No." }))).await;
    turn.end().await;
    assert!(client.rest().await.1.is_clean());
    state_is(&holdover, &name, "failed").await;
}
