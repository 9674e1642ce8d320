//! The `openai` libraries. A chat completion that is cut is an error to them; a response is continued by its caller, by its
//! id and the number of the last event, which no backend here can serve.

use serde_json::{Value, json};

use super::stage::{At, Stage, data_of, seen};
use crate::support::{
    Exchange, How, Program, Report, Script,
    dialect::{completion, response},
};

const CHAT: &str = "/v1/chat/completions";
const RESPONSES: &str = "/v1/responses";
const CANCEL: &str = "/v1/responses/resp_1/cancel";

/// Turns do not outlive a shutdown for long.
const DRAIN: &str = "[drain]\nmax = \"200ms\"\n";

/// Names of drivers, and how each is started.
type Drivers = [(&'static str, Box<dyn Fn() -> Script>); 3];

/// The drivers of all versions for this API.
fn scripts(node: &'static str, python: &'static str) -> Drivers {
    [
        ("node 6", Box::new(move || Script::node(node).args(["--major", "6"]))),
        ("node 7", Box::new(move || Script::node(node).args(["--major", "7"]))),
        ("python", Box::new(move || Script::python(python))),
    ]
}

fn responses() -> Drivers {
    scripts("openai_responses.mjs", "openai_responses.py")
}

fn chats() -> Drivers {
    scripts("openai.mjs", "openai_client.py")
}

/// A stage on which a response has been read whole by a client of each library's.
async fn ended_response(script: Script) -> Stage {
    let stage = Stage::new(&[RESPONSES], "", &[]).await;
    let client = stage.client(script, RESPONSES);
    stage.play_whole(&response("resp_1")).await;
    assert_eq!(client.report().await.ended, "clean");
    stage.one_turn(RESPONSES, "completed").await;
    stage
}

fn retrieve(stage: &Stage, script: Script, id: &str, after: Option<usize>) -> Program {
    let after = after.map(|number| number.to_string());
    let script = script.args(["--retrieve", id]);
    let script = after.iter().fold(script, |script, number| script.args(["--starting-after", number]));
    stage.client(script, RESPONSES)
}

/// The numbers of the events that a client has seen.
fn numbers(report: &Report) -> Vec<u64> {
    seen(report).iter().map(|event| event["sequence_number"].as_u64().expect("each event has one")).collect()
}

/// Where the first of these kinds of events has just passed, one cut after the other, as events of each connection.
fn cuts_after(kinds: &[(&str, usize, How)]) -> Vec<At> {
    let events = data_of(&response("resp_1"));
    let (mut before, mut cuts) = (0, Vec::new());
    for (kind, bytes, how) in kinds {
        let place = events.iter().skip(before).position(|event| event["type"] == *kind);
        let place = before + place.unwrap_or_else(|| panic!("no {kind} behind {before}")) + 1;
        cuts.push((place - before, *bytes, *how));
        before = place;
    }
    cuts
}

#[tokio::test]
async fn a_response_that_is_cut_in_each_of_its_parts_is_continued_by_its_caller() {
    let cuts = cuts_after(&[
        ("response.in_progress", 0, How::Fin),
        ("response.reasoning_summary_text.delta", 30, How::Reset),
        ("response.output_item.done", 0, How::Reset),
        ("response.output_text.delta", 0, How::Fin),
        ("response.output_text.delta", 70, How::Fin),
        ("response.content_part.done", 1, How::Reset),
        ("response.function_call_arguments.delta", 0, How::Reset),
        ("response.function_call_arguments.delta", 45, How::Fin),
        ("response.output_item.done", 20, How::Fin),
    ]);
    let blocks = response("resp_1");
    for (name, script) in responses() {
        let stage = Stage::new(&[RESPONSES], "", &cuts).await;
        let client = stage.client(script().args(["--resume", "--live"]), RESPONSES);
        let report = stage.play(client, &blocks, &cuts).await;
        assert_eq!(report.ended, "clean", "{name}: {report:#?}");
        assert_eq!(numbers(&report), (0..blocks.len() as u64).collect::<Vec<_>>(), "{name}");
        let kinds: Vec<_> = data_of(&blocks).iter().map(|event| event["type"].as_str().unwrap().to_owned()).collect();
        assert_eq!(report.events.iter().map(|event| event.kind.clone()).collect::<Vec<_>>(), kinds, "{name}");
        assert_eq!(report.errors.len(), cuts.len(), "{name} was cut so often: {report:#?}");
        assert_eq!((stage.faults.cuts(), stage.backend.aborted()), (cuts.len(), 0), "{name}");
        assert_eq!(stage.backend.requests().len(), 1, "{name}: nothing else reached the backend");
        stage.one_turn(RESPONSES, "completed").await;
    }
}

#[tokio::test]
async fn a_response_that_has_ended_is_read_again_from_anywhere() {
    let events = data_of(&response("resp_1"));
    for (name, script) in responses() {
        let stage = ended_response(script()).await;
        for after in [None, Some(0), Some(11), Some(events.len() - 2)] {
            let report = retrieve(&stage, script(), "resp_1", after).report().await;
            assert_eq!((&*report.ended, report.errors.len()), ("clean", 0), "{name} {after:?}: {report:#?}");
            let first = after.map_or(0, |number| number as u64 + 1);
            assert_eq!(numbers(&report), (first..events.len() as u64).collect::<Vec<_>>(), "{name} {after:?}");
        }
        assert_eq!(stage.backend.requests().len(), 1, "{name}");
    }
}

#[tokio::test]
async fn behind_the_last_event_there_is_a_stream_without_events() {
    let last = response("resp_1").len() - 1;
    for (name, script) in responses() {
        let stage = ended_response(script()).await;
        for after in [last, last + 7] {
            let report = retrieve(&stage, script(), "resp_1", Some(after)).report().await;
            assert_eq!((&*report.ended, report.opens), ("clean", 1), "{name}: {report:#?}");
            assert_eq!((report.events.len(), report.errors.len()), (0, 0), "{name}: {report:#?}");
        }
        assert_eq!(stage.backend.requests().len(), 1, "{name}");
    }
}

/// It asks for the whole response and builds its state from it.
#[tokio::test]
async fn the_helper_that_accumulates_builds_the_whole_response_again() {
    for (name, script) in responses() {
        let stage = ended_response(script()).await;
        let first = stage.client(script().args(["--helper"]), RESPONSES);
        stage.play_whole(&response("resp_2")).await;
        let first = first.report().await;
        let again = retrieve(&stage, script().args(["--helper"]), "resp_2", Some(12)).report().await;
        for report in [&first, &again] {
            assert_eq!((&*report.ended, report.errors.len()), ("clean", 0), "{name}: {report:#?}");
        }
        let last = |report: &Report| report.events.last().map(|event| (event.kind.clone(), event.data.clone()));
        let (kind, data) = last(&first).expect("it has read something");
        assert!(kind == "final" && data.contains("world é€😀."), "{name}: {data}");
        assert_eq!(last(&again), last(&first), "{name}");
        assert_eq!(stage.turns_at_backend(RESPONSES), 2, "{name}");
    }
}

/// A response may be the backend's own; it is asked, and its answer is the client's. Nothing is started.
#[tokio::test]
async fn what_is_not_known_here_is_the_backends_to_answer() {
    for (name, script) in responses() {
        let stage = ended_response(script()).await;
        let stranger = || script().args(["--header", "Authorization: Bearer somebody else"]);
        for (id, script) in [("resp_9", script()), ("resp_1", stranger())] {
            let report = retrieve(&stage, script.args(["--retries", "0"]), id, Some(3)).report().await;
            assert_eq!((&*report.ended, report.opens), ("error", 0), "{name}: {report:#?}");
            let error = report.errors.last().expect("it says why");
            assert!(error.starts_with("NotFoundError") && error.contains("does not keep it"), "{name}: {error}");
        }
        let asked: Vec<_> =
            stage.backend.requests().iter().skip(1).map(|request| request.target().to_owned()).collect();
        let query = |id: &str| [format!("/v1/responses/{id}?stream=true&starting_after=3")];
        for (target, id) in asked.iter().zip(["resp_9", "resp_1"]) {
            assert_eq!(sorted(target), sorted(&query(id)[0]), "{name}");
        }
        assert_eq!(asked.len(), 2, "{name}");
        stage.one_turn(RESPONSES, "completed").await;
    }
}

/// A target whose query parameters stand in no special order.
fn sorted(target: &str) -> Vec<&str> {
    let mut parts: Vec<_> = target.split(['?', '&']).collect();
    parts.sort_unstable();
    parts
}

#[tokio::test]
async fn a_response_is_cancelled_where_the_backend_knows_no_way() {
    let blocks = response("resp_1");
    for (name, script) in responses() {
        let stage = Stage::new(&[RESPONSES], "", &[]).await;
        let mut client = stage.client(script().args(["--cancel-at", "5"]), RESPONSES);
        let mut turn = stage.turn().await;
        turn.stream().await;
        for block in &blocks[..5] {
            turn.chunk(block).await;
        }
        let answer = client.note("cancelled").await;
        assert_eq!((&answer["id"], &answer["status"]), (&json!("resp_1"), &json!("cancelled")), "{name}: {answer}");
        turn.aborted().await;
        let report = client.report().await;
        assert_eq!((&*report.ended, numbers(&report)), ("clean", vec![0, 1, 2, 3, 4]), "{name}: {report:#?}");
        let asked: Vec<_> = stage.backend.requests().iter().map(|request| request.target().to_owned()).collect();
        assert_eq!(asked, [RESPONSES, CANCEL], "{name}: it is asked first");
        stage.one_turn(RESPONSES, "cancelled").await;
    }
}

/// The API refuses to cancel what does not run in the background: its client has but to leave. Here a client that leaves
/// stops nothing.
#[tokio::test]
async fn a_response_is_cancelled_although_the_backend_refuses() {
    const REFUSAL: &str = r#"{"error":{"message":"Cannot cancel a synchronous response."}}"#;
    let blocks = response("resp_1");
    for (name, script) in responses() {
        let stage = Stage::new(&[RESPONSES, CANCEL], "", &[]).await;
        let mut client = stage.client(script().args(["--cancel-at", "5"]), RESPONSES);
        let mut turn = stage.turn().await;
        turn.stream().await;
        for block in &blocks[..5] {
            turn.chunk(block).await;
        }
        stage.turn().await.answer("400 Bad Request", "Content-Type: application/json\r\n", REFUSAL).await;
        assert_eq!(client.note("cancelled").await["status"], "cancelled", "{name}");
        turn.aborted().await;
        assert_eq!(client.report().await.ended, "clean", "{name}");
        stage.one_turn(RESPONSES, "cancelled").await;
    }
}

#[tokio::test]
async fn a_response_that_has_ended_is_not_cancelled() {
    for (name, script) in responses() {
        let stage = ended_response(script()).await;
        let mut client = retrieve(&stage, script().args(["--cancel-at", "0"]), "resp_1", None);
        assert_eq!(client.note("cancelled").await["status"], "completed", "{name}");
        assert_eq!(client.report().await.ended, "clean", "{name}");
        stage.one_turn(RESPONSES, "completed").await;
    }
}

/// The backend's words stand, its last events too.
#[tokio::test]
async fn a_response_is_cancelled_by_a_backend_that_knows_how() {
    let blocks = response("resp_1");
    let cancelled =
        json!({ "id": "resp_1", "object": "response", "status": "cancelled", "output": [], "model": "its own" });
    for (name, script) in responses() {
        let stage = Stage::new(&[RESPONSES, CANCEL], "", &[]).await;
        let mut client = stage.client(script().args(["--cancel-at", "5"]), RESPONSES);
        let mut turn = stage.turn().await;
        turn.stream().await;
        for block in &blocks[..5] {
            turn.chunk(block).await;
        }
        let cancel = stage.turn().await;
        assert_eq!(cancel.request.target(), CANCEL, "{name}");
        cancel.answer("200 OK", "Content-Type: application/json\r\n", cancelled.to_string()).await;
        assert_eq!(client.note("cancelled").await["model"], "its own", "{name}");
        for block in &blocks[5..7] {
            assert!(turn.chunk(block).await, "{name}: it was cut off although it is about to end");
        }
        turn.end().await;
        let report = client.report().await;
        assert_eq!((&*report.ended, numbers(&report)), ("clean", (0..7).collect()), "{name}: {report:#?}");
        stage.one_turn(RESPONSES, "cancelled").await;
    }
}

/// The library raises its own error for a turn that was lost here, with the connection ended as it should.
#[tokio::test]
async fn a_turn_that_is_lost_is_an_error_of_the_api() {
    let chat = completion(&["one", "two", "three"]);
    for ((path, blocks), scripts) in [((CHAT, chat), chats()), ((RESPONSES, response("resp_1")), responses())] {
        for (name, script) in scripts {
            let stage = Stage::new(&[CHAT, RESPONSES], DRAIN, &[]).await;
            let mut client = stage.client(script().args(["--live"]), path);
            let _turn = stage.play_until(&mut client, &blocks[..3]).await;
            stage.holdover.signal("TERM");
            let report = client.report().await;
            assert_eq!((&*report.ended, report.events.len()), ("error", 3), "{name} {path}: {report:#?}");
            let error = report.errors.last().expect("it says why");
            assert!(error.starts_with("APIError:") && error.contains("interrupted"), "{name} {path}: {error}");
        }
    }
}

/// Whoever comes back to a turn that was lost gets the rest, and the error behind it.
#[tokio::test]
async fn a_lost_response_is_an_error_to_who_comes_back() {
    let blocks = response("resp_1");
    for (name, script) in responses() {
        let stage = Stage::new(&[RESPONSES], "[[route]]\nmax_turn = \"5s\"\n", &[]).await;
        let mut client = stage.client(script().args(["--live"]), RESPONSES);
        let _turn = stage.play_until(&mut client, &blocks[..3]).await;
        assert_eq!(client.report().await.ended, "error", "{name}");
        for (after, events) in [(0, vec![1, 2]), (2, vec![])] {
            let report = retrieve(&stage, script(), "resp_1", Some(after)).report().await;
            assert_eq!((&*report.ended, numbers(&report)), ("error", events), "{name}: {report:#?}");
            assert!(report.errors.last().is_some_and(|error| error.starts_with("APIError:")), "{name}: {report:#?}");
        }
        stage.one_turn(RESPONSES, "expired").await;
    }
}

/// An error in the stream is the backend's last word, `[DONE]` behind it or not: it is passed on as it is, and the answer
/// ends as the backend's does.
#[tokio::test]
async fn an_error_of_the_backend_is_its_own() {
    let error = json!({ "message": "the model is gone", "type": "server_error", "param": null, "code": 500 });
    let chunk = format!("data: {}\n\n", json!({ "error": error }));
    for (name, script) in chats() {
        for end in ["", "data: [DONE]\n\n"] {
            let stage = Stage::new(&[CHAT], "", &[]).await;
            let client = stage.client(script(), CHAT);
            let blocks = [completion(&["one"])[..1].to_vec(), vec![chunk.clone() + end]].concat();
            stage.play_whole(&blocks).await;
            let report = client.report().await;
            assert_eq!((&*report.ended, report.events.len()), ("error", 1), "{name}: {report:#?}");
            let error = report.errors.last().expect("it says why");
            assert!(error.starts_with("APIError: the model is gone"), "{name}: {error}");
            stage.one_turn(CHAT, "failed").await;
        }
    }
}

/// How servers of this dialect end a complete answer, each in its own way.
#[tokio::test]
async fn a_completion_is_complete_however_its_server_ends() {
    type Ends = fn(Exchange) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;
    let ends: [(&str, bool, Ends); 3] = [
        ("with [DONE]", true, |turn| Box::pin(turn.end())),
        ("without [DONE]", false, |turn| Box::pin(turn.end())),
        ("by a reset behind [DONE]", true, |turn| Box::pin(async { turn.reset() })),
    ];
    let words = ["one", " two", " three"];
    for (name, script) in chats() {
        for (how, done, end) in ends {
            let stage = Stage::new(&[CHAT], "", &[]).await;
            let mut client = stage.client(script().args(["--live"]), CHAT);
            let mut blocks = completion(&words);
            // OpenRouter's and vLLM's way to show that they are alive.
            blocks[0].insert_str(0, ": OPENROUTER PROCESSING\n\n");
            let last = blocks.pop().expect("it ends with [DONE]");
            let mut turn = stage.play_until(&mut client, &blocks).await;
            if done {
                turn.chunk(last).await;
                stage.holdover.metric_is("holdover_events_recorded_total", &[], 5.0).await;
            }
            end(turn).await;
            let report = client.report().await;
            assert_eq!((&*report.ended, report.errors.len()), ("clean", 0), "{name} {how}: {report:#?}");
            let text: String = seen(&report).iter().filter_map(content).collect();
            assert_eq!(text, words.concat(), "{name} {how}");
            stage.one_turn(CHAT, "completed").await;
        }
    }
}

fn content(chunk: &Value) -> Option<&str> {
    chunk["choices"][0]["delta"]["content"].as_str()
}
