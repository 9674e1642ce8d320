//! What a replica that takes over lacks, and what a server loses that is emptied: turns that have just ended.

use super::*;

/// What other nodes see of a turn that has ended.
async fn is_whole(away: &Fixture, owner: &Owner, text: &str) {
    eventually("the end is known again", async || {
        let found = away.store.find(&owner.record.id).await;
        found.is_ok_and(|found| found.is_some_and(|record| record.end == Some(end(Outcome::Completed, "eof"))))
    })
    .await;
    let (read, ended) = read_to_end(&*open_at(away, owner, 0).await, 0).await;
    assert_eq!((read.as_str(), ended.outcome), (text, Outcome::Completed));
}

/// A new turn of a session, and the time it started at.
async fn in_session(home: &Fixture, session: u8, started_at: u64) -> Owner {
    let record = TurnRecord { started_at, ..record(&home.node, Some([session; 32])) };
    Owner::start_as(home, record).await
}

#[tokio::test]
async fn a_turn_that_redis_forgets_after_its_end_is_written_again() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = in_session(&home, 1, 1000).await;
    let headers = http::HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("e"))]);
    let head = Arc::new(Head { headers, ..Head::default() });
    owner.log.set_head(head.clone());
    home.store.set_head(&owner.record.id, &owner.record.epoch, &head).await.unwrap();
    owner.keep(&["a", "b"]).await;
    owner.log.push_aside(Bytes::from_static(b": bye\n"));
    owner.complete().await;
    let running = in_session(&home, 1, 2000).await;
    let discarded = Owner::start(&home).await;
    home.store.discard(&discarded.record).await.unwrap();
    server.command::<()>(&["FLUSHALL"]).await;
    is_whole(&away, &owner, "ab: bye\n").await;
    assert_eq!(away.store.find(&owner.record.id).await.unwrap().unwrap().head, Some(head));
    eventually("the newer turn has its session", async || {
        away.store.session(&[1; 32]).await == Ok(Some(running.record.id))
    })
    .await;
    assert_eq!(away.store.find(&discarded.record.id).await, Ok(None));
    // No longer than if it had ended just now.
    let meta = Keys::new("holdover".into()).meta(&owner.record.id);
    let ttl: i64 = server.command(&["PTTL", &meta]).await;
    assert!((1..=60_000).contains(&ttl), "{ttl}");
}

#[tokio::test]
async fn a_session_leads_to_its_newest_turn_whatever_is_written_again_first() {
    let server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let [older, newer] = [in_session(&home, 1, 1000).await, in_session(&home, 1, 2000).await];
    let ended = in_session(&home, 2, 1000).await;
    for turn in [&older, &newer, &ended] {
        turn.keep(&["a"]).await;
    }
    newer.complete().await;
    ended.complete().await;
    for round in 0..5 {
        server.command::<()>(&["FLUSHALL"]).await;
        is_whole(&away, &newer, "a").await;
        is_whole(&away, &ended, "a").await;
        eventually("the running turn is known again", async || {
            away.store.find(&older.record.id).await.is_ok_and(|found| found.is_some())
        })
        .await;
        for (session, turn) in [(1, &newer), (2, &ended)] {
            let led = away.store.session(&[session; 32]).await;
            assert_eq!(led, Ok(Some(turn.record.id)), "session {session}, round {round}");
        }
    }
    // Nothing runs there: the session can be taken.
    let next = record(&away.node, Some([2; 32]));
    let taken = away.store.start(&next, &Log::new(Budget::new(9), false), SessionPolicy::Refuse).await;
    assert_eq!(taken, Ok(Started::Fresh));
}

/// A server that comes back with what it had at some moment, as a replica does that was cut off then.
#[tokio::test]
async fn what_a_server_of_the_past_lacks_of_ended_turns_is_written_again() {
    let mut server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let [whole, end_lost, tail_lost] = [1, 2, 3].map(|session| in_session(&home, session, 1000));
    let (whole, end_lost, tail_lost) = tokio::join!(whole, end_lost, tail_lost);
    whole.keep(&["a", "b"]).await;
    whole.complete().await;
    end_lost.keep(&["a", "b"]).await;
    tail_lost.keep(&["a"]).await;
    server.remember().await;
    end_lost.complete().await;
    tail_lost.keep(&["b", "c"]).await;
    tail_lost.complete().await;
    let unknown = in_session(&home, 4, 1000).await;
    unknown.keep(&["a"]).await;
    unknown.complete().await;
    server.kill();
    server.start_again();
    for (owner, text) in [(&whole, "ab"), (&end_lost, "ab"), (&tail_lost, "abc"), (&unknown, "a")] {
        is_whole(&away, owner, text).await;
    }
    for session in 1..=4 {
        let next = record(&away.node, Some([session; 32]));
        let taken = away.store.start(&next, &Log::new(Budget::new(9), false), SessionPolicy::Refuse).await;
        assert_eq!(taken, Ok(Started::Fresh), "session {session}");
    }
}

#[tokio::test]
async fn an_end_that_somebody_else_wrote_stays() {
    let mut server = Server::start(&[]);
    let home = node("home", settings(&server)).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a"]).await;
    server.remember().await;
    owner.complete().await;
    server.kill();
    server.start_again();
    // Before the owner looks: a reaper that took it for dead.
    let finish = ["HSET", &Keys::new("holdover".into()).meta(&owner.record.id), "st", "E", "oc", "interrupted"];
    let more = ["rs", "owner_lost", "at", "1"];
    server.command::<i64>(&[&finish[..], &more].concat()).await;
    connected(&*home.store).await;
    let until = Instant::now() + LEASE;
    eventually("the owner has looked", async || Instant::now() > until).await;
    let found = home.store.find(&owner.record.id).await.unwrap().unwrap();
    assert_eq!(found.end.unwrap().outcome, Outcome::Interrupted);
}

#[tokio::test]
async fn a_turn_that_ended_long_ago_is_not_written_again() {
    let server = Server::start(&[]);
    let short = Settings { retain_after_end: Duration::from_millis(200), ..settings(&server) };
    let home = node("home", short).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a"]).await;
    owner.complete().await;
    let log = Arc::downgrade(&owner.log);
    let id = owner.record.id;
    drop(owner);
    eventually("nothing is left of it here", async || log.strong_count() == 0).await;
    server.command::<()>(&["FLUSHALL"]).await;
    let until = Instant::now() + LEASE;
    eventually("the node has looked", async || Instant::now() > until).await;
    assert_eq!(home.store.find(&id).await, Ok(None));
}

#[tokio::test]
async fn a_promoted_replica_that_was_cut_off_is_given_what_it_lacks() {
    let (server, replica) = (Server::start(&[]), Server::start(&[]));
    replica.command::<()>(&["REPLICAOF", "127.0.0.1", &server.port.to_string()]).await;
    let sentinel = Server::start_sentinel("main", server.port);
    let url = RedisUrl {
        scheme: RedisScheme::Sentinel,
        hosts: vec![("127.0.0.1".into(), sentinel.port)],
        master: Some("main".into()),
        ..RedisUrl::default()
    };
    let guarded = Settings { url, ..settings(&server) };
    let (home, away) = (node("owner", guarded.clone()).await, node("reader", guarded).await);
    let [ended, lost] = [Owner::start(&home).await, Owner::start(&home).await];
    ended.keep(&["a"]).await;
    eventually("the replica is in sync and known", async || {
        let info: String = replica.command(&["INFO", "replication"]).await;
        let known: Vec<redis::Value> = sentinel.command(&["SENTINEL", "REPLICAS", "main"]).await;
        let acked: i64 = server.command(&["WAIT", "1", "1"]).await;
        acked == 1 && info.contains("master_link_status:up") && !known.is_empty()
    })
    .await;
    // It loses its master, and cannot come back: the master knows no password.
    replica.command::<()>(&["CONFIG", "SET", "masterauth", "wrong"]).await;
    server.command::<i64>(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    ended.keep(&["b", "c"]).await;
    ended.complete().await;
    lost.keep(&["a"]).await;
    lost.complete().await;
    eventually("the replica is promoted", async || {
        sentinel.try_command::<redis::Value>("", &["SENTINEL", "FAILOVER", "main"]).await.is_ok()
    })
    .await;
    eventually("the replica is the master", async || {
        let info = replica.try_command::<String>("", &["INFO", "replication"]).await;
        info.is_ok_and(|info| info.contains("role:master"))
    })
    .await;
    // The old master must not be found any more, whatever the sentinel makes of it.
    drop(server);
    is_whole(&away, &ended, "abc").await;
    is_whole(&away, &lost, "a").await;
}
