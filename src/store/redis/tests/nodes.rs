//! Several nodes before one server: followers, stops, deaths.

use super::*;

#[tokio::test]
async fn a_reader_on_another_node_gets_blocks_as_they_come() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a"]).await;
    let log = open_at(&away, &owner, 0).await;
    let watched = timeout(DEADLINE, home.store.next_event()).await;
    assert_eq!(watched, Ok(StoreEvent::Watched(owner.record.id)));
    read_until(&log, 0, |read| read == b"a").await;

    let mut waits = Vec::new();
    for i in 1..=20 {
        let began = Instant::now();
        owner.keep(&["b"]).await;
        read_until(&log, 0, |read| read.len() == 1 + i).await;
        waits.push(began.elapsed());
    }
    waits.sort();
    // A mirror that only looked by itself would need half a second on average.
    assert!(waits[10] < Duration::from_millis(100), "{waits:?}");
    owner.complete().await;
    let began = Instant::now();
    assert_eq!(read_to_end(&log, 0).await.0, format!("a{}", "b".repeat(20)));
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[tokio::test]
async fn a_lost_letter_costs_a_second_at_most() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = Owner::start(&home).await;
    let log = open_at(&away, &owner, 0).await;
    timeout(DEADLINE, home.store.next_event()).await.expect("the reader is heard of");
    server.command::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let began = Instant::now();
    owner.keep(&["a", "b"]).await;
    read_until(&log, 0, |read| read == b"ab").await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    // The inboxes are opened again: letters arrive once more.
    eventually("letters arrive again", async || {
        let stop = away.store.request_stop(&owner.record.id, Wish::Stop).await;
        let told = timeout(Duration::from_millis(200), home.store.next_event()).await;
        stop == Ok(StopRequested::Told) && told == Ok(StoreEvent::Stop(owner.record.id, Wish::Stop))
    })
    .await;
}

#[tokio::test]
async fn what_letters_say_is_found_without_them() {
    let server = Server::start(&[]);
    let home = node("home", settings(&server)).await;
    let owner = Owner::start(&home).await;
    let meta = Keys::new("holdover".into()).meta(&owner.record.id);
    server.command::<i64>(&["HSET", &meta, "w", "a reader"]).await;
    owner.keep(&["a"]).await;
    let event = timeout(DEADLINE, home.store.next_event()).await;
    assert_eq!(event, Ok(StoreEvent::Watched(owner.record.id)));
    assert_eq!(server.command::<i64>(&["HEXISTS", &meta, "w"]).await, 0, "it is said once");

    server.command::<i64>(&["HSET", &meta, "stop", "stop"]).await;
    server.command::<i64>(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    let event = timeout(DEADLINE, home.store.next_event()).await;
    assert_eq!(event, Ok(StoreEvent::Stop(owner.record.id, Wish::Stop)), "found when the inbox is opened again");
}

#[tokio::test]
async fn followers_of_a_node_share_a_mirror() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a", "b"]).await;
    let whole = open_at(&away, &owner, 0).await;
    assert!(Arc::ptr_eq(&whole, &open_at(&away, &owner, 2).await));
    drop(whole);
    eventually("a mirror that nobody holds is gone", async || open_at(&away, &owner, 1).await.base() == 1).await;
    let rest = open_at(&away, &owner, 1).await;
    let whole = open_at(&away, &owner, 0).await;
    owner.complete().await;
    assert_eq!(read_to_end(&whole, 0).await.0, "ab");
    assert_eq!(read_to_end(&rest, 1).await.0, "b");
}

#[tokio::test]
async fn nothing_is_left_of_mirrors_that_nobody_holds() {
    let server = Server::start(&[]);
    let home = node("home", settings(&server)).await;
    let reader = connect(&NodeId("reader".into()), settings(&server));
    connected(&*reader).await;
    let [ended, running] = [Owner::start(&home).await, Owner::start(&home).await];
    ended.keep(&["a"]).await;
    ended.complete().await;
    let logs = [&ended, &running].map(async |owner| reader.open(&owner.record.id, 0).await.unwrap().unwrap().log);
    let logs = futures_util::future::join_all(logs).await;
    read_to_end(&logs[0], 0).await;
    assert_eq!(reader.inner.mirrors.len(), 2);
    drop(logs);
    eventually("the mirrors are gone", async || reader.inner.mirrors.len() == 0).await;
}

#[tokio::test]
async fn a_capped_turn_ends_for_readers_where_recording_did() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a"]).await;
    let log = open_at(&away, &owner, 0).await;
    owner.log.cap(Cap::MaxTurnBytes);
    owner.complete().await;
    assert_eq!(read_until(&log, 0, |_| false).await, ("a".into(), Some(Read::Lost)));
}

#[tokio::test]
async fn a_stop_crosses_nodes() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = Owner::start(&home).await;
    assert_eq!(away.store.request_stop(&owner.record.id, Wish::Stop).await, Ok(StopRequested::Told));
    let told = timeout(DEADLINE, home.store.next_event()).await;
    assert_eq!(told, Ok(StoreEvent::Stop(owner.record.id, Wish::Stop)));
    home.store.leave().await;
    assert_eq!(away.store.request_stop(&owner.record.id, Wish::Stop).await, Ok(StopRequested::OwnerUnreachable));
}

#[tokio::test]
async fn an_end_waits_for_a_backend_that_is_asked_for_a_stop_at_another_node() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let eof = end(Outcome::Completed, "eof");
    // What becomes of it, and how the turn ends.
    let agrees = async |owner: &Owner| {
        let told = away.store.request_stop(&owner.record.id, Wish::StopSoon).await;
        assert_eq!(told, Ok(StopRequested::Told));
    };
    let refuses = async |owner: &Owner| away.store.ask_stop(&owner.record, false).await.unwrap();
    for agreed in [true, false] {
        let owner = Owner::start_as(&home, record(&home.node, Some([1; 32]))).await;
        owner.keep(&["a"]).await;
        away.store.ask_stop(&owner.record, true).await.unwrap();
        let told = async { while home.store.next_event().await != StoreEvent::Asked(owner.record.id, true) {} };
        timeout(DEADLINE, told).await.expect("the owner is told");
        let ending = owner.write_end(&eof);
        tokio::pin!(ending);
        assert!(timeout(Duration::from_millis(200), &mut ending).await.is_err(), "it waits");
        assert_eq!(away.store.find(&owner.record.id).await.unwrap().unwrap().end, None);
        let (ended, ()) =
            tokio::join!(ending, async { if agreed { agrees(&owner).await } else { refuses(&owner).await } });
        let cancelled = End { outcome: Outcome::Cancelled, reason: "stop".into(), at: eof.at };
        if agreed {
            assert_eq!(ended, Finished::Already(cancelled.clone()));
        } else {
            assert_eq!(ended, Finished::Applied);
        }
        let found = away.store.find(&owner.record.id).await.unwrap().unwrap();
        assert_eq!(found.end, Some(if agreed { cancelled } else { eof.clone() }));
        // Nor does a failover change it.
        server.command::<()>(&["FLUSHALL"]).await;
        eventually("the end is written again", async || {
            away.store.find(&owner.record.id).await.unwrap().is_some_and(|again| again.end == found.end)
        })
        .await;
    }
    // An end that is none of the backend's waits for nobody, and one whose asker has vanished not for long.
    let [stopped, forgotten] = [Owner::start(&home).await, Owner::start(&home).await];
    for owner in [&stopped, &forgotten] {
        away.store.ask_stop(&owner.record, true).await.unwrap();
    }
    let began = Instant::now();
    assert_eq!(stopped.write_end(&end(Outcome::Cancelled, "stop")).await, Finished::Applied);
    assert!(began.elapsed() < ASKED.0, "{:?}", began.elapsed());
    assert_eq!(timeout(DEADLINE, forgotten.write_end(&eof)).await, Ok(Finished::Applied));
}

#[tokio::test]
async fn a_dead_owners_turn_is_interrupted_and_its_zombie_refused() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = Owner::start_as(&home, record(&home.node, Some([1; 32]))).await;
    owner.keep(&["a"]).await;
    let log = open_at(&away, &owner, 0).await;
    // The process is gone: nothing renews its sign of life, and nothing says good-bye.
    let Owner { record: orphan, log: recorded, store } = owner;
    let dead = home.node.clone();
    drop((store, home));
    let died = Instant::now();
    let (text, interrupted) = read_to_end(&log, 0).await;
    let took = died.elapsed();
    assert_eq!((text.as_str(), interrupted.outcome, &*interrupted.reason), ("a", Outcome::Interrupted, "owner_lost"));
    // 15 s with a lease of 10 s, and what a busy machine adds.
    assert!(took <= LEASE * 3 / 2 + Duration::from_secs(1), "{took:?}");

    let store = node("zombie's connection", settings(&server)).await.store;
    let zombie = Owner { store, record: orphan, log: recorded };
    zombie.push(&["b"]);
    assert_eq!(zombie.append(&zombie.batch(1)).await, Appended::Fenced);
    assert_eq!(zombie.write_end(&end(Outcome::Completed, "eof")).await, Finished::Already(interrupted));
    let next = record(&away.node, Some([1; 32]));
    let taken = away.store.start(&next, &Log::new(Budget::new(9), false), SessionPolicy::Refuse).await;
    assert_eq!(taken, Ok(Started::Fresh));
    eventually("the dead node is forgotten", async || {
        let nodes: Vec<String> = server.command(&["ZRANGE", "holdover:nodes", "0", "-1"]).await;
        !nodes.contains(&dead.to_string())
    })
    .await;
}

#[tokio::test]
async fn a_session_of_a_dead_owner_can_be_taken() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = Owner::start_as(&home, record(&home.node, Some([1; 32]))).await;
    let next = record(&away.node, Some([1; 32]));
    let log = Log::new(Budget::new(9), false);
    let taken = away.store.start(&next, &log, SessionPolicy::Refuse).await;
    assert_eq!(taken, Ok(Started::Busy(owner.record.id)));
    let id = owner.record.id;
    drop((home, owner));
    eventually("the session is free", async || {
        away.store.start(&next, &log, SessionPolicy::Refuse).await == Ok(Started::Fresh)
    })
    .await;
    let ended = away.store.find(&id).await.unwrap().unwrap().end.unwrap();
    assert_eq!(ended.outcome, Outcome::Interrupted);
    assert_eq!(away.store.session(&[1; 32]).await, Ok(Some(next.id)));
}

#[tokio::test]
async fn a_turn_that_nobody_records_any_more_is_ended() {
    let server = Server::start(&[]);
    let home = node("home", settings(&server)).await;
    let Owner { record, log, .. } = Owner::start(&home).await;
    drop(log);
    eventually("the turn is ended", async || {
        let end = home.store.find(&record.id).await.unwrap().unwrap().end;
        end.is_some_and(|end| &*end.reason == "abandoned")
    })
    .await;
}

#[tokio::test]
async fn an_outage_is_no_evidence_of_death() {
    let mut server = Server::start(&["--appendonly", "yes", "--appendfsync", "always"]);
    // Longer than a node waits before it connects again.
    let lease = Duration::from_secs(3);
    let patient = Settings { lease, ..settings(&server) };
    let [home, doomed, away] = ["owner", "doomed", "reader"].map(|name| node(name, patient.clone()));
    let (home, doomed, away) = tokio::join!(home, doomed, away);
    let [owner, orphan] = [Owner::start(&home).await, Owner::start(&doomed).await];
    owner.keep(&["a"]).await;
    orphan.keep(&["a"]).await;
    let [log, orphaned] = [open_at(&away, &owner, 0).await, open_at(&away, &orphan, 0).await];
    server.kill();
    drop((doomed, orphan));
    eventually("the outage is noticed", async || !away.store.health().await.ok).await;
    let until = Instant::now() + lease;
    eventually("all signs of life have expired", async || Instant::now() > until).await;
    server.start_again();
    let back = Instant::now();
    owner.push(&["b"]);
    keep_at_last(&owner).await;
    assert_eq!(read_to_end(&orphaned, 0).await.1.outcome, Outcome::Interrupted);
    assert!(back.elapsed() >= lease, "{:?}: nobody can tell the dead from the late yet", back.elapsed());
    assert_eq!(read_until(&log, 0, |read| read == b"ab").await.1, None);
    assert_eq!(away.store.find(&owner.record.id).await.unwrap().unwrap().end, None);
}

#[tokio::test]
async fn a_damaged_turn_cuts_its_followers() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a"]).await;
    let blocks = Keys::new("holdover".into()).blocks(&owner.record.id);
    server.command::<String>(&["XADD", &blocks, "2-1", "d", "?"]).await;
    let (text, end) = read_to_end(&*open_at(&away, &owner, 0).await, 0).await;
    assert_eq!((text.as_str(), end.outcome, &*end.reason), ("a", Outcome::Interrupted, "unreadable"));
}
