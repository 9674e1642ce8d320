//! FastAPI and sse-starlette under uvicorn.

use std::convert::Infallible;

use eventsource_stream::Eventsource as _;
use futures_util::{StreamExt as _, stream};

use super::*;
use crate::support::{Client, Ending, Parsed, Program, Script};

async fn start() -> (Program, SocketAddr) {
    Script::python("backends/fastapi_app.py").listening().await
}

/// What a parser reads, with turns numbered alike.
async fn read(bytes: &[u8]) -> Vec<(String, String)> {
    // A line feed alone behind the end: that parser waits for what follows a CR.
    let whole = stream::iter([Ok::<_, Infallible>([bytes, b":\n"].concat())]);
    let events: Vec<_> = whole.eventsource().map(|event| event.unwrap()).collect().await;
    events.into_iter().map(|event| (event.event, numbered_alike(&event.data))).collect()
}

fn numbered_alike(data: &str) -> String {
    let Ok(mut data) = serde_json::from_str::<Value>(data) else { return data.to_owned() };
    for key in ["turn", "id"] {
        if let Some(number) = data.get_mut(key) {
            *number = Value::Null;
        }
    }
    data.to_string()
}

async fn get(address: SocketAddr, query: &str) -> Vec<u8> {
    let mut client = Client::connect(address).await;
    client.request("GET", &format!("/events?{query}"), &[], "").await;
    assert_eq!(client.head().await.status(), 200);
    client.body().await.to_vec()
}

/// A turn in this shape: read through Holdover and from the framework itself, a parser understands the same.
async fn comes_through(framework: SocketAddr, holdover: &Holdover, query: &str) {
    let (direct, through) = tokio::join!(get(framework, query), get(holdover.addr(), query));
    let expected = read(&direct).await;
    assert!(expected.len() >= 20, "{query}: {expected:?}");
    assert_eq!(read(&through).await, expected, "{query}");
    let pings = |bytes: &[u8]| bytes.windows(7).filter(|window| window == b": ping ").count();
    assert_eq!(pings(&through) > 0, query.contains("ping"), "{query}");
}

#[tokio::test]
async fn every_shape_and_line_end_comes_through() {
    let (_framework, address) = start().await;
    let holdover = Holdover::setup().upstream(address).start().await;
    let shapes = ["plain", "named", "ids", "multiline", "openai"];
    let queries = shapes
        .iter()
        .flat_map(|shape| ["lf", "crlf", "cr"].map(|sep| format!("events=20&pace_ms=2&shape={shape}&sep={sep}")));
    let pinged = ["lf", "crlf", "cr"].map(|sep| format!("events=30&pace_ms=50&ping=1&sep={sep}"));
    let large = ["events=20&pad=200000".to_owned()];
    let all = queries.chain(pinged).chain(large);
    futures_util::future::join_all(
        all.map(|query| async { comes_through(address, &holdover, { query }.as_str()).await }),
    )
    .await;
    holdover.metrics().await.assert_books_balance();
}

/// A real client that is killed once it has read a few events; gives the last of them.
async fn killed_client(address: SocketAddr) -> Parsed {
    let url = format!("http://{address}/events?events=200");
    let mut client = Script::python("httpx_sse_client.py").args(["--live", "--url", &url]).start();
    let mut last = client.note("event").await;
    for _ in 1..5 {
        last = client.note("event").await;
    }
    client.kill();
    serde_json::from_value(last).unwrap()
}

#[tokio::test]
async fn its_turn_dies_with_the_client() {
    let (_framework, address) = start().await;
    killed_client(address).await;
    counts(address, Stats::ONE_ABORTED).await;
}

#[tokio::test]
async fn its_turn_outlives_the_client_behind_holdover() {
    let (_framework, address) = start().await;
    let holdover = Holdover::setup().upstream(address).start().await;
    let last = killed_client(holdover.addr()).await;
    let id = last.id.unwrap();
    let (turn, seq) = id.rsplit_once('-').unwrap();
    let mut client = holdover.connect().await;
    client.request("GET", "/events?events=200", &[("Last-Event-ID", &id)], "").await;
    assert_eq!(client.head().await.status(), 200);
    for expected in seq.parse::<u64>().unwrap() + 1..=200 {
        let event = client.next_event().await;
        assert_eq!(event.place(), (turn, expected));
        let data: Value = serde_json::from_str(event.data()).unwrap();
        assert_eq!((&data["turn"], &data["i"]), (&1.into(), &expected.into()));
    }
    assert!(client.rest().await.1.is_clean());
    holdover.state_is(turn, "completed").await;
    counts(address, Stats::ONE_FINISHED).await;
}

/// Reads a turn that breaks to its end, which must not look like one.
async fn breaks(holdover: &Holdover, mut client: Client, turn: &str, seen: u64) {
    let mut last = seen;
    let ending = loop {
        match client.event_or_end().await {
            Ok(event) => last = event.place().1,
            Err(ending) => break ending,
        }
    };
    assert_eq!(ending, Ending::Broken);
    let status = holdover.state_is(turn, "failed").await;
    assert_eq!(status["last_seq"], last, "the client has all that came");
    let mut again = holdover.connect().await;
    again.request("GET", &format!("/.holdover/turns/{turn}/stream"), &[], "").await;
    assert_eq!(again.head().await.status(), 200);
    let replayed = again.next_events(usize::try_from(last).unwrap()).await;
    assert_eq!(replayed.last().unwrap().place(), (turn, last));
}

async fn started(holdover: &Holdover, query: &str) -> (Client, String) {
    let mut client = holdover.connect().await;
    client.request("GET", &format!("/events?{query}"), &[], "").await;
    let turn = client.head().await.get("holdover-turn").unwrap().to_owned();
    (client, turn)
}

#[tokio::test]
async fn an_exception_in_its_generator_is_no_end() {
    let (_framework, address) = start().await;
    let holdover = Holdover::setup().upstream(address).start().await;
    let (client, turn) = started(&holdover, "events=20&fail_after=7").await;
    breaks(&holdover, client, &turn, 0).await;
    assert_eq!(holdover.status(&turn).await["last_seq"], 7);
}

#[tokio::test]
async fn its_crash_is_no_end() {
    let (mut framework, address) = start().await;
    let holdover = Holdover::setup().upstream(address).start().await;
    let (mut client, turn) = started(&holdover, "events=100000").await;
    let seen = client.next_events(5).await.len() as u64;
    framework.kill();
    breaks(&holdover, client, &turn, seen).await;
    let mut next = holdover.connect().await;
    next.request("GET", "/events", &[], "").await;
    assert_eq!(next.head().await.status(), 502);
}
