//! Nodes are restarted one after the other, under load.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use serde_json::json;
use tokio::{
    sync::watch,
    task::{JoinHandle, JoinSet},
    time::sleep,
};

use super::{Pair, config, outages, stream_of};
use crate::support::{
    Client, Ending, Event, Head, Holdover, Redis, Turn, events, eventually, fresh_body,
    h2c::{H2c, LastFrame},
    servers::own_host,
};

/// Events of each turn that comes to its own end: it takes three seconds.
const EVENTS: usize = 30;
/// Clients that start one turn after the other.
const CLIENTS: usize = 9;
/// Less than the turns that do not end take.
const DRAIN: &str = "[drain]\nmax = \"8s\"\nmove_after = \"200ms\"\n";

/// What the clients did, in all.
#[derive(Default)]
struct Books {
    turns: AtomicUsize,
    resumed: AtomicUsize,
    refused: AtomicUsize,
    unreachable: AtomicUsize,
}

/// Sends a request to one node after the other, from `first` on, until one takes it; says which.
async fn ask(
    nodes: &[SocketAddr],
    books: &Books,
    first: usize,
    (method, headers, body): (&str, &[(&str, &str)], &str),
) -> (usize, Client, Head) {
    for number in first.. {
        assert!(number < first + 1_000, "no node takes {method} {headers:?}");
        let Some(mut client) = Client::try_connect(nodes[number % nodes.len()]).await else {
            books.unreachable.fetch_add(1, Ordering::Relaxed);
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        let Some(head) = client.try_request(method, "/chat", headers, body).await else {
            books.unreachable.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        if head.status() != 503 {
            return (number, client, head);
        }
        // Only a start is refused, and is told when to come back.
        assert!(method == "POST" && head.get("retry-after").is_some(), "{method}: {head:?}");
        books.refused.fetch_add(1, Ordering::Relaxed);
    }
    unreachable!("the numbers do not end")
}

/// Reads a turn to its end, at another node whenever a connection ends too early.
async fn read(nodes: &[SocketAddr], books: &Books, id: &str, (mut at, mut client): (usize, Client)) -> Vec<Event> {
    let mut shown: Vec<Event> = Vec::new();
    loop {
        let ending = loop {
            match client.event_or_end().await {
                Ok(event) => shown.push(event),
                Err(ending) => break ending,
            }
        };
        if ending.is_clean() {
            return shown;
        }
        books.resumed.fetch_add(1, Ordering::Relaxed);
        let cursor = format!("{id}-{}", shown.len());
        let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", cursor.as_str())];
        let head;
        (at, client, head) = ask(nodes, books, at + 1, ("GET", &headers, "")).await;
        match head.status() {
            200 => assert_eq!(head.get("holdover-from"), Some(&*shown.len().to_string()), "{id}"),
            // All of it was there before the connection ended.
            204 => return shown,
            status => panic!("{id}: {status}"),
        }
    }
}

/// Starts turns, each at the next node, and follows each of them twice, until it is told to stop.
async fn use_it(nodes: Arc<[SocketAddr]>, books: Arc<Books>, client: usize, over: watch::Receiver<bool>) {
    for turn in client.. {
        if *over.borrow() {
            return;
        }
        let (key, count) = (format!("{client}-{turn}"), EVENTS.to_string());
        let headers = [("Idempotency-Key", key.as_str()), ("X-Events", &count)];
        let (at, starter, head) = ask(&nodes, &books, turn, ("POST", &headers, &fresh_body())).await;
        assert_eq!(head.status(), 200, "{head:?}");
        let id = head.get("holdover-turn").unwrap().to_owned();
        // Somebody else reads it too, at a node that need not be its owner.
        let cursor = format!("{id}-0");
        let headers = [("Accept", "text/event-stream"), ("Last-Event-ID", cursor.as_str())];
        let (there, reader, head) = ask(&nodes, &books, at + 1, ("GET", &headers, "")).await;
        assert_eq!(head.status(), 200, "{head:?}");
        let (own, others) =
            tokio::join!(read(&nodes, &books, &id, (at, starter)), read(&nodes, &books, &id, (there, reader)),);
        for shown in [&own, &others] {
            for (event, seq) in shown.iter().zip(1..) {
                assert_eq!((event.place(), event.data()), ((&*id, seq), &*seq.to_string()), "no gap, no double");
            }
            assert_eq!(shown.len(), EVENTS, "{id} is whole");
        }
        books.turns.fetch_add(1, Ordering::Relaxed);
    }
}

/// A turn that does not end before its node must, and somebody at another node who follows it.
struct Endless {
    id: String,
    client: JoinHandle<outages::Shown>,
    elsewhere: JoinHandle<outages::Shown>,
}

impl Endless {
    async fn start(owner: &Holdover, other: &Holdover) -> Self {
        let (id, client) = outages::start(owner, &[]).await;
        let elsewhere = outages::watching(other.following(&stream_of(&id)).await);
        Self { id, client, elsewhere }
    }

    /// Its end is the same for everybody, and true.
    async fn interrupted(self, node: &Holdover) {
        let ended = node.state_is(&self.id, "interrupted").await;
        assert_eq!(ended["reason"], "drain");
        let (whole, ending) = node.following(&stream_of(&self.id)).await.rest().await;
        assert_eq!(ending, Ending::Broken, "a part may not pass for the whole");
        assert_eq!(ended["last_seq"], events(&whole).len());
        let [shown, elsewhere] = [self.client.await, self.elsewhere.await].map(Result::unwrap);
        assert!(!shown.ending.is_clean() && whole == shown.bytes, "its client saw all that is kept");
        assert!(!elsewhere.ending.is_clean() && whole == elsewhere.bytes, "so did others elsewhere");
    }
}

#[tokio::test]
async fn three_nodes_are_restarted_in_turn_under_load() {
    let (end, over) = watch::channel(false);
    let (backend, redis) = (outages::paced(watch::channel(false).1).await, Redis::start().await);
    let config = format!("{DRAIN}{}", config(&redis, "", ""));
    // Addresses that nobody takes while a node is away.
    let node = |at: SocketAddr| Holdover::before(&backend).config(config.as_str()).at(at).start();
    let fresh = || node((own_host(), 0).into());
    let (one, two, three) = tokio::join!(fresh(), fresh(), fresh());
    let mut running = [one, two, three];
    let nodes: Arc<[SocketAddr]> = running.iter().map(Holdover::addr).collect();
    let books = Arc::new(Books::default());
    let mut clients = JoinSet::new();
    for client in 0..CLIENTS {
        clients.spawn(use_it(nodes.clone(), books.clone(), client, over.clone()));
    }
    let mut endless = 0;
    for number in 0..3 {
        let before = books.turns.load(Ordering::Relaxed);
        let (leaving, other) = (&running[number], &running[(number + 1) % 3]);
        let own = Endless::start(leaving, other).await;
        let foreign = Endless::start(other, leaving).await;
        endless += 2;
        let asked = Instant::now();
        leaving.signal("TERM");
        eventually("the node to drain", || async {
            (leaving.ready().await.1["checks"]["drain"]["ok"] == false).then_some(())
        })
        .await;
        let refused = leaving.request("POST", "/chat").body(fresh_body()).send().await.unwrap();
        assert_eq!((refused.status().as_u16(), refused.headers().contains_key("retry-after")), (503, true));
        assert_eq!(refused.headers().get("connection").map(|value| value.to_str().unwrap()), Some("close"));
        // Who follows a turn of another node is sent there while turns still run here.
        let sent_away = foreign.elsewhere.await.unwrap();
        assert!(!sent_away.ending.is_clean(), "who was sent away must come back");
        assert!(!leaving.exited(), "{:?} after SIGTERM", asked.elapsed());
        assert_eq!(leaving.status(&own.id).await["state"], "running");
        let cursor = format!("{}-{}", foreign.id, events(&sent_away.bytes).len());
        let mut back = other.resume("GET", "/chat", &cursor).await;
        assert_eq!(back.head().await.status(), 200);
        let next = back.next_event().await;
        assert_eq!(next.place().1 as usize, events(&sent_away.bytes).len() + 1);
        drop(back);
        assert_eq!(other.stop(&foreign.id).await, json!({"result": "stopped"}));
        foreign.client.await.unwrap();

        let status = leaving.wait_exit(Duration::from_secs(20)).await;
        assert!(status.success(), "{status}");
        assert!(asked.elapsed() >= Duration::from_secs(8), "{:?}", asked.elapsed());
        own.interrupted(other).await;
        running[number] = node(nodes[number]).await;
        let busy = || async { (books.turns.load(Ordering::Relaxed) >= before + CLIENTS).then_some(()) };
        eventually("turns to be over meanwhile", busy).await;
    }
    end.send_replace(true);
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    let count = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
    let turns = count(&books.turns);
    eprintln!(
        "{turns} turns, each followed twice: {} resumes, {} starts refused, {} connections not made or lost",
        count(&books.resumed),
        count(&books.refused),
        count(&books.unreachable),
    );
    assert!(count(&books.resumed) >= CLIENTS && count(&books.refused) > 0);
    assert_eq!(backend.requests().len(), turns + endless, "each start was run once");
    for node in &running {
        node.metrics().await.assert_books_balance();
    }
}

#[tokio::test]
async fn a_node_whose_only_clients_follow_turns_of_others_is_gone_soon() {
    let pair = Pair::start().await;
    let third = pair.third().env("HOLDOVER__DRAIN__MOVE_AFTER", "1s").start().await;
    let mut turn = Turn::start(&pair.one, &pair.backend).await;
    let shown = turn.events(2).await;
    let mut followers = Vec::new();
    for _ in 0..20 {
        let mut follower = third.following(&stream_of(&turn.id)).await;
        assert_eq!(follower.next_events(2).await, shown);
        followers.push(follower);
    }
    // One over HTTP/2, where a broken stream does not end its connection.
    let mut h2 = H2c::connect(third.addr()).await;
    let mut multiplexed = h2.request("GET", &stream_of(&turn.id), &[], &[], LastFrame::Full).await;
    let first = multiplexed.piece().await.unwrap().unwrap();
    assert!(first.starts_with(&shown[0].bytes), "{first:?}");
    // And one who waits for a turn to begin.
    let mut starting = pair.one.connect().await;
    starting.request("POST", "/chat", &[("X-Session", "s")], fresh_body()).await;
    let _pending = pair.backend.next().await;
    let mut waiting = third.connect().await;
    waiting.request("GET", "/.holdover/sessions/s/stream", &[], "").await;
    third.metric_is("holdover_requests_in_flight", &[], 22.0).await;
    let asked = Instant::now();
    third.signal("TERM");
    let told = waiting.head().await;
    assert_eq!((told.status(), told.get("retry-after").is_some()), (503, true), "{told:?}");
    for follower in &mut followers {
        assert_eq!(follower.event_or_end().await.unwrap_err(), Ending::Broken);
    }
    while let Some(Ok(_)) = multiplexed.piece().await {}
    h2.closed().await;
    assert!(asked.elapsed() >= Duration::from_secs(1), "{:?}", asked.elapsed());
    assert!(third.wait_exit(Duration::from_secs(20)).await.success());
    turn.end().await;
}
