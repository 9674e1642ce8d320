//! The builders themselves, without Holdover in between.

use std::time::{Duration, SystemTime};

use tokio::time::{Instant, timeout};

use crate::support::{
    Backend, Client, Cut, Ending, FaultProxy, Holdover, How, Link, Quality, Turn,
    clock::WallClock,
    eventually,
    namespace::{Cable, Namespace},
    servers::{Make, Recipe},
};

/// A client at `address` that has read the head of an event stream.
async fn streaming(address: std::net::SocketAddr) -> Client {
    let mut client = Client::connect(address).await;
    client.request("GET", "/", &[], "").await;
    assert_eq!(client.head().await.status(), 200);
    client
}

#[tokio::test]
async fn a_backend_is_stepped_event_by_event() {
    let backend = Backend::start().await;
    let mut client = Client::connect(backend.address()).await;
    client.request("POST", "/chat", &[("X-A", "1")], "hello").await;
    let mut turn = backend.next().await;
    assert_eq!((turn.request.method(), turn.request.target(), turn.request.get("x-a")), ("POST", "/chat", Some("1")));
    assert_eq!(turn.body().await.unwrap(), "hello");
    turn.stream().await;
    assert_eq!(client.head().await.get("content-type"), Some("text/event-stream"));
    turn.event("one").await;
    assert_eq!(client.next_event().await.data(), "one");
    turn.end().await;
    assert_eq!(client.event_or_end().await.unwrap_err(), Ending::Clean(vec![]));
    client.request("GET", "/", &[], "").await;
    let turn = backend.next().await;
    assert_eq!(turn.connection, 0, "the connection is used again");
    turn.answer("404 Not Found", "", "no").await;
    assert_eq!(client.head().await.status(), 404);
    assert_eq!(client.body().await, "no");
    assert_eq!((backend.requests().len(), backend.finished(), backend.aborted()), (2, 2, 0));
}

#[tokio::test]
async fn a_backend_sees_its_client_leave() {
    let backend = Backend::start().await;
    for reset in [false, true] {
        let mut client = Client::connect(backend.address()).await;
        client.request("GET", "/", &[], "").await;
        let mut turn = backend.next().await;
        turn.stream().await;
        if reset {
            client.reset();
        } else {
            drop(client);
        }
        turn.aborted().await;
    }
    assert_eq!(backend.aborted(), 2);
}

#[tokio::test]
async fn a_broken_answer_is_not_a_clean_one() {
    let backend = Backend::start().await;
    for reset in [false, true] {
        let mut client = Client::connect(backend.address()).await;
        client.request("GET", "/", &[], "").await;
        let mut turn = backend.next().await;
        turn.stream().await;
        turn.event("one").await;
        client.head().await;
        assert_eq!(client.next_event().await.data(), "one");
        if reset {
            turn.reset();
        } else {
            turn.close().await;
        }
        assert_eq!(client.rest().await.1, Ending::Broken);
    }
}

#[tokio::test]
async fn the_fault_proxy_cuts_where_the_script_says() {
    let backend = Backend::streaming("data: a\n\ndata: bb\r\n\r\ndata: c\n\n").await;
    let script = [Cut::after(1, How::Fin), Cut::inside(2, 3, How::Reset), Cut::after(0, How::Fin)];
    let proxy = FaultProxy::start(backend.address(), script).await;
    for (most, all_of_it) in [("data: a\n\n", true), ("data: a\n\ndata: bb\r\n\r\ndat", false), ("", true)] {
        let (bytes, ending) = streaming(proxy.address()).await.rest().await;
        assert_eq!(ending, Ending::Broken);
        // A reset may overtake what was sent before it.
        assert!(most.as_bytes().starts_with(&bytes), "{bytes:?}");
        assert!(bytes == most || !all_of_it, "{bytes:?}");
    }
    let mut client = streaming(proxy.address()).await;
    assert_eq!(client.next_events(3).await[2].data(), "c");
    assert!(client.rest().await.1.is_clean());
    assert_eq!((proxy.connections(), proxy.cuts()), (4, 3));
    assert_eq!(Cut::seeded(7, 9, 5), Cut::seeded(7, 9, 5));
    assert_ne!(Cut::seeded(7, 9, 5), Cut::seeded(8, 9, 5));
}

#[tokio::test]
async fn a_link_is_what_it_is_set_to() {
    let backend = Backend::start().await;
    let link = Link::to(backend.address()).await;
    let mut client = Client::connect(link.address()).await;
    client.request("GET", "/", &[], "").await;
    let mut turn = backend.next().await;
    turn.stream().await;
    client.head().await;
    turn.event("good").await;
    assert_eq!(client.next_event().await.data(), "good");

    link.set(Quality::Slow(Duration::from_millis(300)));
    let since = Instant::now();
    turn.event("slow").await;
    assert_eq!(client.next_event().await.data(), "slow");
    assert!(since.elapsed() >= Duration::from_millis(300), "{:?}", since.elapsed());

    link.set(Quality::Silent);
    turn.event("silent").await;
    let nothing = timeout(Duration::from_millis(500), client.event_or_end()).await;
    assert!(nothing.is_err(), "{nothing:?}");
    link.set(Quality::Good);
    assert_eq!(client.next_event().await.data(), "silent", "what was held back is not lost");

    link.set(Quality::Gone);
    assert_eq!(client.event_or_end().await.unwrap_err(), Ending::Broken);
    assert_eq!(Client::connect(link.address()).await.raw().await, None);
    link.set(Quality::Good);
    let mut client = Client::connect(link.address()).await;
    client.request("GET", "/", &[], "").await;
    backend.next().await.answer("200 OK", "", "again").await;
    assert_eq!(client.head().await.status(), 200);
}

#[tokio::test]
async fn a_wall_clock_is_set_for_one_process() {
    let clock = WallClock::right();
    let server = Recipe::new(Make::System).env(clock.environment()).start();
    let ahead = async || {
        let (seconds, _): (i64, i64) = server.command(&["TIME"]).await;
        seconds - SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs() as i64
    };
    for seconds in [0, 3600, -3600, 0] {
        clock.set(seconds);
        // The server looks at the clock when it pleases, and two clocks are never read at once.
        eventually(format!("{seconds} s ahead"), || async { (ahead().await - seconds).abs().le(&1).then_some(()) })
            .await;
    }
}

#[tokio::test]
async fn a_cable_carries_only_while_it_is_in() {
    let namespace = match Namespace::make() {
        Ok(namespace) => namespace,
        Err(why) => return println!("skipped, this machine allows no network namespaces: {why}"),
    };
    let backend = Backend::start().await;
    let link = Link::at(namespace.outside(Cable::Back), backend.address()).await;
    let holdover = Holdover::setup().upstream(link.address()).inside(&namespace).start().await;
    let mut turn = Turn::start(&holdover, &backend).await;
    turn.event("one").await;
    for cable in [Cable::Front, Cable::Back] {
        namespace.pull(cable);
        turn.upstream.event("two").await;
        let nothing = timeout(Duration::from_millis(500), turn.client.event_or_end()).await;
        assert!(nothing.is_err(), "{cable:?} {nothing:?}");
        namespace.plug(cable);
        assert_eq!(turn.client.next_event().await.data(), "two", "TCP sends it again");
    }
    turn.end().await;
}
