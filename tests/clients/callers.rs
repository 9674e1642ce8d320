//! Clients whose caller reconnects, and one that lives in this process.

use futures_util::StreamExt as _;
use reqwest_eventsource::{Error, Event, EventSource};

use super::*;
use crate::support::events;

/// Runs `curl`; gives the status and what it wrote.
async fn curl(address: SocketAddr, arguments: &[&str]) -> (u16, String) {
    let mut command = Command::new("curl");
    command.args(["--silent", "--no-buffer", "--max-time", "20", "--write-out", "%{stderr}%{http_code}"]);
    command.args(arguments).arg(format!("http://{address}/chat"));
    let output =
        tokio::task::spawn_blocking(move || command.output().expect("curl is installed: run scripts/setup test"));
    let output = output.await.expect("it does not panic");
    let status = String::from_utf8_lossy(&output.stderr);
    (status.parse().unwrap_or_else(|_| panic!("no status: {status:?}")), String::from_utf8(output.stdout).unwrap())
}

/// By hand: the request again with the last id that was read whole, until the answer is 204.
async fn curl_until_the_end(address: SocketAddr, arguments: &[&str]) -> Vec<Parsed> {
    let mut seen: Vec<Parsed> = Vec::new();
    loop {
        let resume = seen.last().and_then(|event| event.id.as_ref()).map(|id| format!("Last-Event-ID: {id}"));
        let header: Vec<_> = resume.iter().flat_map(|line| ["-H", line]).collect();
        let (status, text) = curl(address, &[arguments, &header].concat()).await;
        if status == 204 {
            return seen;
        }
        assert_eq!(status, 200, "{text}");
        let whole = text.rfind("\n\n").map_or(0, |at| at + 2);
        let event = |event: &crate::support::Event| Parsed {
            id: Some(event.id().to_owned()),
            kind: "message".to_owned(),
            data: event.data().to_owned(),
        };
        seen.extend(events(&text.as_bytes()[..whole]).iter().map(event));
    }
}

#[tokio::test]
async fn curl_with_the_last_id() {
    for end in ENDS {
        // Without it a GET is not known for a start before its answer, and not known again when it is lost.
        survive(end, |address| curl_until_the_end(address, &["-H", "Accept: text/event-stream"])).await;
        survive(end, |address| curl_until_the_end(address, &["--data", "{}"])).await;
    }
}

/// The crate's own loop, until it gives up: it takes every other status than 200 for final.
async fn reqwest_eventsource(request: reqwest::RequestBuilder) -> Vec<Parsed> {
    let mut source = EventSource::new(request).expect("the request can be sent again");
    let mut seen = Vec::new();
    while let Some(event) = within(DEADLINE, "an event", source.next()).await {
        match event {
            Ok(Event::Open) | Err(Error::StreamEnded | Error::Transport(_)) => {}
            Ok(Event::Message(event)) => {
                seen.push(Parsed { id: Some(event.id), kind: event.event, data: event.data });
            }
            Err(Error::InvalidStatusCode(status, _)) => assert_eq!(status, 204),
            Err(error) => panic!("{error}"),
        }
    }
    seen
}

#[tokio::test]
async fn reqwest_eventsource_by_itself() {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    for end in ENDS {
        survive(end, |address| reqwest_eventsource(http.get(format!("http://{address}/chat")))).await;
        survive(end, |address| reqwest_eventsource(http.post(format!("http://{address}/chat")).body("{}"))).await;
    }
}

/// Any of the connections of a start may be the one that is lost: before the answer, and right after its head.
#[tokio::test]
async fn a_start_that_is_lost_again_and_again_is_one_turn() {
    let stage = Stage::with([]).await;
    let post = async || {
        let mut client = stage.holdover.connect().await;
        client.request("POST", "/chat", &[], "{}").await;
        client
    };
    let attached = async |times| {
        stage.holdover.metric_is("holdover_starts_attached_total", &[("rule", "lost_client")], times).await;
    };
    let first = post().await;
    let mut turn = stage.turn().await;
    first.reset();
    let second = post().await;
    attached(1.0).await;
    second.reset();
    let mut third = post().await;
    attached(2.0).await;
    turn.stream().await;
    assert_eq!(third.head().await.status(), 200);
    third.reset();
    let mut fourth = post().await;
    attached(3.0).await;
    assert_eq!(fourth.head().await.status(), 200);
    turn.event(token(1)).await;
    assert_eq!(fourth.next_event().await.data(), token(1));
    turn.end().await;
    assert!(fourth.rest().await.1.is_clean());
    assert_eq!(stage.starts(), 1);
}
