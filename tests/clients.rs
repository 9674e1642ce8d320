//! Real clients, cut at random.
//!
//! Each reads one turn through a [`FaultProxy`] that breaks its connection several times, after whole events and inside
//! events. Whatever a library does then by itself, or its caller as documented, must end with exactly the tokens of the
//! turn, in order, and the backend must have run one turn. `HOLDOVER_SEED=x` replays the cuts of a failure.

mod callers;
mod openai;
mod parsing;

use std::{future::Future, net::SocketAddr, process::Command};

use tokio::sync::{Mutex, mpsc};

use crate::support::{
    Backend, Cut, DEADLINE, Exchange, FaultProxy, Holdover, How, Parsed, Program, Random, Report, Script, eventually,
    program, within,
};

/// Events of one turn.
const TOKENS: usize = 60;

/// How often a connection is cut in one turn.
const CUTS: usize = 5;

/// The data of the n-th event, from 1.
fn token(n: usize) -> String {
    format!("token {n:02}")
}

/// So many bytes of an event at most stand before the end of its id line. Everything up to there is not whole to any
/// parser. (The next byte ends the line, and fetch-event-source keeps the id of a line although its event is not whole.)
const INSIDE: usize = "data: token 00\nid: 2345672345672345672345672345-1".len();

/// What happens to the connections of one turn.
#[derive(Clone, Debug)]
struct Plan {
    cuts: Vec<Cut>,
    /// How many events the backend has sent before it goes on only when the client has come back: one number per cut.
    /// Always enough for the cut to be reached, so that what follows it is replayed in part, and in part live.
    sent: Vec<usize>,
    end: End,
}

/// How the last connections of a turn end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// With the turn.
    Whole,
    /// By a cut behind the last event. The turn ends when the client is back.
    CutBefore,
    /// By a cut behind the last event. The turn has ended when the client is back, which finds nothing left.
    CutAfter,
}

const ENDS: [End; 3] = [End::Whole, End::CutBefore, End::CutAfter];

impl Plan {
    fn of(random: &mut Random, end: End) -> Self {
        let (mut cuts, mut sent, mut delivered) = (Vec::new(), Vec::new(), 0);
        for number in 0..CUTS {
            let last = end != End::Whole && number == CUTS - 1;
            let events = if last { TOKENS - delivered } else { random.below(TOKENS / CUTS - 1) };
            let bytes = if last || random.toss() { 0 } else { 1 + random.below(INSIDE) };
            cuts.push(Cut::inside(events, bytes, if random.toss() { How::Fin } else { How::Reset }));
            delivered += events;
            let enough = delivered + usize::from(bytes > 0);
            sent.push(TOKENS.min(enough + random.below(4)).max(sent.last().copied().unwrap_or(0)));
        }
        Self { cuts, sent, end }
    }
}

/// A backend whose turns are stepped and that lets pages of every origin ask, a Holdover, and what cuts in front of it.
struct Stage {
    backend: Backend,
    turns: Mutex<mpsc::UnboundedReceiver<Exchange>>,
    holdover: Holdover,
    faults: FaultProxy,
}

/// What a backend says that lets every origin ask, and knows of no `Last-Event-ID`.
const FOR_ALL_ORIGINS: &str = "Access-Control-Allow-Origin: *\r\nAccess-Control-Allow-Headers: content-type\r\n";

impl Stage {
    async fn with(cuts: impl IntoIterator<Item = Cut>) -> Self {
        let (sender, turns) = mpsc::unbounded_channel();
        let backend = Backend::answering(move |exchange| {
            let sender = sender.clone();
            async move {
                if exchange.request.method() == "OPTIONS" {
                    exchange.answer("204 No Content", FOR_ALL_ORIGINS, "").await;
                } else {
                    // Without a receiver the test is over.
                    let _ = sender.send(exchange);
                }
            }
        });
        let backend = backend.await;
        let config = "[[route]]\nname = \"chat\"\nreconnect = \"50ms\"\n";
        let holdover = Holdover::before(&backend).config(config).start().await;
        let faults = FaultProxy::start(holdover.addr(), cuts).await;
        Self { backend, turns: turns.into(), holdover, faults }
    }

    /// Where clients connect.
    fn address(&self) -> SocketAddr {
        self.faults.address()
    }

    /// The next turn at the backend.
    async fn turn(&self) -> Exchange {
        let turn = async { self.turns.lock().await.recv().await };
        within(DEADLINE, "a start at the backend", turn).await.expect("the backend is there")
    }

    /// Requests at the backend that were no preflights.
    fn starts(&self) -> usize {
        self.backend.requests().iter().filter(|request| request.method() != "OPTIONS").count()
    }

    /// Answers of the backend that were no preflights and were sent whole.
    fn finished(&self) -> usize {
        self.backend.finished() - (self.backend.requests().len() - self.starts())
    }

    /// Runs the backend's side of the turn.
    async fn run(&self, plan: &Plan) {
        let mut turn = self.turn().await;
        turn.stream_with(FOR_ALL_ORIGINS).await;
        let (mut sent, mut ends_early) = (0, false);
        for (cut, until) in plan.sent.iter().enumerate() {
            for n in sent + 1..=*until {
                turn.event(token(n)).await;
            }
            sent = *until;
            if sent < TOKENS || !ends_early {
                self.faults.streams_are(cut + 2).await;
            }
            ends_early = plan.end == End::CutAfter && self.client_has_a_cursor().await;
        }
        for n in sent + 1..=TOKENS {
            turn.event(token(n)).await;
        }
        turn.end().await;
    }

    /// Whether the client has ever come back with an event id. A reset can take with it all that was sent, of every
    /// connection so far; who has not seen anything of a turn when it ends cannot be told from somebody new.
    async fn client_has_a_cursor(&self) -> bool {
        let metrics = self.holdover.metrics().await;
        metrics.sum("holdover_resumes_total", &[]) > metrics.sum("holdover_starts_attached_total", &[])
    }

    /// What must hold whoever the client was.
    async fn judge(&self, seen: &[Parsed]) {
        let tokens: Vec<_> = seen.iter().map(|event| &*event.data).collect();
        assert_eq!(tokens, (1..=TOKENS).map(token).collect::<Vec<_>>());
        let ids: Vec<_> = seen.iter().map(|event| event.id.as_deref().expect("every event has an id")).collect();
        let turn = ids[0].rsplit_once('-').expect("ids name a turn and a seq").0;
        assert_eq!(ids, (1..=TOKENS).map(|n| format!("{turn}-{n}")).collect::<Vec<_>>());
        assert_eq!((self.starts(), self.finished(), self.backend.aborted()), (1, 1, 0), "at the backend");
        assert_eq!(self.faults.cuts(), CUTS);
        // Behind the last cut there is one stream at most, and one answer at most that there is nothing left.
        let streams = self.faults.streams();
        assert!((CUTS..=CUTS + 1).contains(&streams), "{streams} event streams");
        let metrics = self.holdover.metrics().await;
        assert!(metrics.sum("holdover_resumes_total", &[("result", "nothing_left")]) <= 1.0);
        metrics.assert_books_balance();
    }
}

/// A turn read by a client, which `client` starts at an address, in spite of cuts.
async fn survive<F: Future<Output = Vec<Parsed>>>(end: End, client: impl FnOnce(SocketAddr) -> F) {
    let mut random = Random::any();
    let plan = Plan::of(&mut random, end);
    let stage = Stage::with(plan.cuts.clone()).await;
    // Shown only if the test fails.
    eprintln!("{plan:#?}");
    let (seen, ()) = tokio::join!(client(stage.address()), stage.run(&plan));
    stage.judge(&seen).await;
}

/// As [`survive`], for a program that reports, with each of the ends at once. It must leave off by itself, as `ended`
/// says.
async fn survives(ends: &[End], script: impl Fn() -> Script, ended: &[&str]) {
    let client = |address| {
        let report = script().args(["--url", &format!("http://{address}/chat"), "--timeout", "40000"]).start().report();
        async move {
            let report = report.await;
            assert!(ended.contains(&&*report.ended), "{report:#?}");
            report.events
        }
    };
    futures_util::future::join_all(ends.iter().map(|end| survive(*end, client))).await;
}

const POST: [&str; 4] = ["--method", "POST", "--body", r#"{"prompt":"Hello"}"#];

#[tokio::test]
async fn eventsource() {
    for major in ["3", "4", "5"] {
        survives(&ENDS, || Script::node("eventsource.mjs").args(["--major", major]), &["closed"]).await;
    }
}

#[tokio::test]
async fn eventsource_client() {
    survives(&ENDS, || Script::node("eventsource_client.mjs"), &["closed"]).await;
    survives(&ENDS, || Script::node("eventsource_client.mjs").args(POST), &["closed"]).await;
}

#[tokio::test]
async fn httpx_sse() {
    survives(&ENDS, || Script::python("httpx_sse_client.py"), &["clean", "closed"]).await;
    survives(&ENDS, || Script::python("httpx_sse_client.py").args(POST), &["clean", "closed"]).await;
}

// A browser is slow to start: one end each.

#[tokio::test]
async fn chromium_eventsource() {
    survives(&[End::CutBefore], || Script::node("chromium_eventsource.mjs"), &["closed"]).await;
}

#[tokio::test]
async fn chromium_eventsource_of_another_origin() {
    survives(&[End::CutAfter], || Script::node("chromium_eventsource.mjs").args(["--cross-origin"]), &["closed"]).await;
}

#[tokio::test]
async fn fetch_event_source() {
    survives(&[End::CutBefore], || Script::node("fetch_event_source.mjs").args(POST), &["clean"]).await;
}

#[tokio::test]
async fn fetch_event_source_of_another_origin() {
    survives(
        &[End::CutAfter],
        || Script::node("fetch_event_source.mjs").args(POST).args(["--cross-origin"]),
        &["clean"],
    )
    .await;
}

/// A turn outlives a browser that had no time to say anything.
#[tokio::test]
async fn a_browser_that_is_killed() {
    let stage = Stage::with([]).await;
    let url = format!("http://{}/chat", stage.address());
    let mut browser = Script::node("chromium_eventsource.mjs").args(["--live", "--url", &url]).start();
    let pid = browser.note("browser_pid").await.as_u64().expect("a process id");
    let mut turn = stage.turn().await;
    turn.stream().await;
    for n in 1..=TOKENS / 2 {
        turn.event(token(n)).await;
    }
    let event: Parsed = serde_json::from_value(browser.note("event").await).unwrap();
    let id = event.id.unwrap();
    let (name, _) = id.rsplit_once('-').unwrap();
    program::kill9(pid);
    let deserted = async || (!stage.holdover.status(name).await["detached_since"].is_null()).then_some(());
    eventually("nobody to follow the turn", deserted).await;
    for n in TOKENS / 2 + 1..=TOKENS {
        assert!(turn.event(token(n)).await, "the backend was left");
    }
    turn.end().await;
    stage.holdover.state_is(name, "completed").await;
    let mut second = stage.holdover.connect().await;
    second.request("GET", &format!("/.holdover/turns/{name}/stream"), &[], "").await;
    assert_eq!(second.head().await.status(), 200);
    let tokens: Vec<_> = second.next_events(TOKENS).await.iter().map(|event| event.data().to_owned()).collect();
    assert_eq!(tokens, (1..=TOKENS).map(token).collect::<Vec<_>>());
    assert!(second.rest().await.1.is_clean());
    assert_eq!((stage.starts(), stage.finished(), stage.backend.aborted()), (1, 1, 0));
}
