//! Servers that go away, forget, hang, fill up, or become another.

use super::*;

#[tokio::test]
async fn a_claim_whose_reply_was_lost_does_not_hold_its_session() {
    let server = Server::start(&[]);
    let home = node("home", Settings { command_timeout: Duration::from_millis(200), ..settings(&server) }).await;
    let [lost, next] = [(); 2].map(|()| record(&home.node, Some([1; 32])));
    let log = Log::new(Budget::new(9), false);
    // The script is known: else the frozen server would ask for it, of a caller that has gone.
    Owner::start(&home).await;
    server.freeze();
    let reply = home.store.start(&lost, &log, SessionPolicy::Refuse).await;
    assert!(matches!(reply, Err(StoreError::Unavailable(_))), "{reply:?}");
    server.thaw();
    eventually("the claim is there", async || {
        server.command::<i64>(&["EXISTS", &Keys::new("holdover".into()).meta(&lost.id)]).await == 1
    })
    .await;
    drop(log);
    let log = Log::new(Budget::new(9), false);
    eventually("the session is free", async || {
        home.store.start(&next, &log, SessionPolicy::Refuse).await == Ok(Started::Fresh)
    })
    .await;
}

#[tokio::test]
async fn a_node_that_begins_after_redis_forgot_all_takes_the_secret_of_the_others() {
    let server = Server::start(&[]);
    let home = node("home", settings(&server)).await;
    assert_eq!(home.store.shared_secret([1; 32]).await, Ok([1; 32]));
    server.command::<()>(&["FLUSHALL"]).await;
    eventually("Redis is told again", async || {
        server.command::<i64>(&["EXISTS", &Keys::new("holdover".into()).secret()]).await == 1
    })
    .await;
    let newcomer = node("newcomer", settings(&server)).await;
    assert_eq!(newcomer.store.shared_secret([2; 32]).await, Ok([1; 32]));
}

#[tokio::test]
async fn what_redis_forgets_is_written_again() {
    let server = Server::start(&[]);
    // No beat finds it out before the recorder does.
    let patient = Settings { lease: DEADLINE * 10, ..settings(&server) };
    let (home, away) = (node("owner", patient.clone()).await, node("reader", patient).await);
    let owner = Owner::start_as(&home, record(&home.node, Some([1; 32]))).await;
    owner.keep(&["a", "b", "c"]).await;
    let log = open_at(&away, &owner, 0).await;
    read_until(&log, 0, |read| read == b"abc").await;
    server.command::<()>(&["FLUSHALL"]).await;
    owner.push(&["d"]);
    assert_eq!(owner.append(&owner.batch(3)).await, Appended::Gone);
    assert_eq!(owner.write_end(&end(Outcome::Completed, "eof")).await, Finished::Gone);
    keep_at_last(&owner).await;
    owner.complete().await;
    assert_eq!(read_to_end(&log, 0).await.0, "abcd", "a follower notices nothing");
    assert_eq!(away.store.session(&[1; 32]).await, Ok(Some(owner.record.id)));
}

#[tokio::test]
async fn a_silent_turn_that_redis_forgets_is_written_again() {
    let mut server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = Owner::start_as(&home, record(&home.node, Some([1; 32]))).await;
    owner.keep(&["a", "b"]).await;
    let discarded = Owner::start(&home).await;
    home.store.discard(&discarded.record).await.unwrap();
    let known = async || {
        let found = away.store.find(&owner.record.id).await;
        found.is_ok_and(|found| found.is_some_and(|record| record.last == 2))
    };
    server.command::<()>(&["FLUSHALL"]).await;
    eventually("the turn is known again", known).await;
    server.kill();
    server.start_again();
    eventually("the turn is known again", known).await;
    assert_eq!(away.store.session(&[1; 32]).await, Ok(Some(owner.record.id)));
    assert_eq!(away.store.find(&discarded.record.id).await, Ok(None));
    owner.push(&["c"]);
    keep_at_last(&owner).await;
    owner.complete().await;
    assert_eq!(read_to_end(&*open_at(&away, &owner, 0).await, 0).await.0, "abc");
}

#[tokio::test]
async fn half_of_a_turn_that_redis_forgot_is_written_again() {
    let server = Server::start(&[]);
    let home = node("home", settings(&server)).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a", "b", "c"]).await;
    let blocks = Keys::new("holdover".into()).blocks(&owner.record.id);
    assert_eq!(server.command::<i64>(&["DEL", &blocks]).await, 1);
    assert_eq!(owner.write_end(&end(Outcome::Completed, "eof")).await, Finished::Gone);
    owner.push(&["d"]);
    keep_at_last(&owner).await;
    owner.complete().await;
    assert_eq!(read_to_end(&*owner.open(0).await, 0).await.0, "abcd");
}

#[tokio::test]
async fn a_forgotten_turn_does_not_take_the_session_from_a_newer() {
    let server = Server::start(&[]);
    let home = node("home", settings(&server)).await;
    let old = Owner::start_as(&home, record(&home.node, Some([1; 32]))).await;
    let new = TurnRecord { started_at: old.record.started_at + 1, ..record(&home.node, Some([1; 32])) };
    let new = Owner::start_as(&home, new).await;
    old.keep(&["a"]).await;
    new.keep(&["b"]).await;
    for order in [[&old, &new], [&new, &old]] {
        server.command::<()>(&["FLUSHALL"]).await;
        for owner in order {
            keep_at_last(owner).await;
        }
        assert_eq!(home.store.session(&[1; 32]).await, Ok(Some(new.record.id)));
    }
}

#[tokio::test]
async fn a_restart_without_data_is_survived() {
    let mut server = Server::start(&[]);
    let (home, away) = two_nodes(&server).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a", "b"]).await;
    let log = open_at(&away, &owner, 0).await;
    read_until(&log, 0, |read| read == b"ab").await;
    server.kill();
    owner.push(&["c"]);
    eventually("the outage is noticed", async || !home.store.health().await.ok).await;
    let began = Instant::now();
    let refused = owner.store.append(&owner.record.id, &owner.record.epoch, &owner.batch(2)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(began.elapsed() < Duration::from_millis(100), "calls do not wait for a connection");
    server.start_again();
    keep_at_last(&owner).await;
    owner.complete().await;
    assert_eq!(read_to_end(&log, 0).await.0, "abc");
}

#[tokio::test]
async fn a_password_that_was_wrong_can_be_mended() {
    let server = Server::start(&[]);
    server.command::<()>(&["CONFIG", "SET", "requirepass", "other"]).await;
    let password = Some(Secret::new("right"));
    let node = NodeId("node".into());
    let store = connect(&node, Settings { password, ..settings(&server) });
    eventually("the refusal is told", async || store.health().await.detail.contains("assword")).await;
    server.command_as::<()>("other", &["CONFIG", "SET", "requirepass", "right"]).await;
    connected(&*store).await;
    let owner = Owner::start(&Fixture { store, node, _guard: Box::new(()) }).await;
    owner.keep(&["a"]).await;
}

#[tokio::test]
async fn a_frozen_server_is_unavailable_within_the_command_timeout() {
    let server = Server::start(&[]);
    let command_timeout = Duration::from_millis(300);
    let home = node("home", Settings { command_timeout, ..settings(&server) }).await;
    let owner = Owner::start(&home).await;
    owner.push(&["a", "b"]);
    server.freeze();
    for _ in 0..3 {
        let began = Instant::now();
        let reply = owner.store.append(&owner.record.id, &owner.record.epoch, &owner.batch(0)).await;
        assert!(matches!(reply, Err(StoreError::Unavailable(_))), "{reply:?}");
        assert!(began.elapsed() < command_timeout * 2, "{:?}", began.elapsed());
    }
    server.thaw();
    keep_at_last(&owner).await;
    owner.complete().await;
    assert_eq!(read_to_end(&*owner.open(0).await, 0).await.0, "ab", "what was in flight is there once");
}

#[tokio::test]
async fn a_full_server_refuses_blocks_and_takes_ends_and_stops() {
    full_server_takes_ends_and_stops(&Server::start(&[])).await;
}

/// Servers differ in what they say of it.
pub(super) async fn full_server_takes_ends_and_stops(server: &Server) {
    let home = node("home", settings(server)).await;
    let [owner, stopped] = [Owner::start(&home).await, Owner::start(&home).await];
    owner.keep(&["a"]).await;
    stopped.keep(&["a"]).await;
    server.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    owner.push(&["b"]);
    let full = |reply: &StoreError| matches!(reply, StoreError::Full(_));
    let refused = owner.store.append(&owner.record.id, &owner.record.epoch, &owner.batch(1)).await;
    assert!(refused.as_ref().is_err_and(full), "{refused:?}");
    let late = record(&home.node, None);
    let refused = home.store.start(&late, &owner.log, SessionPolicy::Replace).await;
    assert!(refused.as_ref().is_err_and(full), "{refused:?}");
    let health = home.store.health().await;
    assert!(!health.ok && health.detail.contains("maxmemory"), "{health:?}");

    assert_eq!(home.store.request_stop(&stopped.record.id, Wish::Stop).await, Ok(StopRequested::Told));
    stopped.log.push_aside(Bytes::from_static(b": bye\n"));
    stopped.complete().await;
    // More than a lease on, the full server still knows that this node is alive.
    let until = Instant::now() + LEASE * 2;
    eventually("more than a lease has passed", async || Instant::now() > until).await;
    assert_eq!(server.command::<i64>(&["EXISTS", "holdover:n:home"]).await, 1);
    server.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(owner.append(&owner.batch(1)).await, Appended::Applied { stop: None });
    assert_eq!(home.store.find(&late.id).await, Ok(None), "nothing of a refused start is left");
    assert_eq!(read_to_end(&*stopped.open(0).await, 0).await.0, "a: bye\n");
}

#[tokio::test]
async fn a_nearly_full_server_is_given_no_new_turns_until_it_has_room() {
    let server = Server::start(&[]);
    let node = NodeId("home".into());
    let store = connect(&node, settings(&server));
    connected(&*store).await;
    let home = Fixture { store: store.clone(), node, _guard: Box::new(()) };
    let [running, ending] = [Owner::start(&home).await, Owner::start(&home).await];
    let info: String = server.command(&["INFO", "memory"]).await;
    let used: u64 = info.lines().find_map(|line| line.strip_prefix("used_memory:")).unwrap().parse().unwrap();
    // Nine tenths of the memory are in use: there is room for what follows here, whatever the clients' buffers take.
    let limit = used * 10 / 9;
    server.command::<()>(&["CONFIG", "SET", "maxmemory", &limit.to_string()]).await;
    let full = store.inner.link.metrics.store_servers.with_label_values(&["full"]);
    // Nobody asks for the health: it is found out all the same.
    eventually("the server is found nearly full", async || full.get() == 1).await;
    let late = record(&home.node, Some([1; 32]));
    let refused = store.start(&late, &running.log, SessionPolicy::Replace).await;
    assert!(matches!(&refused, Err(StoreError::Full(why)) if why.contains("85 %")), "{refused:?}");
    assert_eq!((store.find(&late.id).await, store.session(&[1; 32]).await), (Ok(None), Ok(None)));
    let health = store.health().await;
    assert!(health.ok && health.detail.contains("given no new turns; raise maxmemory"), "{health:?}");
    let memory = [&store.inner.link.metrics.store_memory_used, &store.inner.link.metrics.store_memory_limit];
    assert!(memory[0].get() >= (limit * 85 / 100) as i64 && memory[1].get() == limit as i64);
    // The turns it has go on.
    running.keep(&["a"]).await;
    ending.keep(&["a"]).await;
    ending.complete().await;
    assert_eq!(running.claim(SessionPolicy::Replace).await, Started::Fresh);

    server.command::<()>(&["CONFIG", "SET", "maxmemory", &(limit * 100).to_string()]).await;
    eventually("there is room again", async || full.get() == 0).await;
    assert_eq!(store.start(&late, &running.log, SessionPolicy::Replace).await, Ok(Started::Fresh));
}

#[tokio::test]
async fn an_unfit_server_is_waited_for() {
    let server = Server::start(&[]);
    server.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let store = connect(&NodeId("node".into()), settings(&server));
    eventually("the role is told", async || store.health().await.detail.contains("takes no writes")).await;
    server.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    connected(&*store).await;
}

#[tokio::test]
async fn a_server_without_scripts_is_told_and_waited_for() {
    let server = Server::start(&[]);
    server.command::<()>(&["ACL", "SETUSER", "default", "-evalsha"]).await;
    let store = connect(&NodeId("node".into()), settings(&server));
    let told = async |store: &RedisStore| store.health().await.detail.contains("allow EVAL and EVALSHA");
    eventually("the missing right is told", async || told(&store).await).await;
    server.command::<()>(&["ACL", "SETUSER", "default", "+evalsha"]).await;
    connected(&*store).await;

    let renamed = Server::start(&["--rename-command", "EVAL", "hidden"]);
    let store = connect(&NodeId("node".into()), settings(&renamed));
    eventually("the missing command is told", async || told(&store).await).await;
}

#[tokio::test]
async fn a_server_that_evicts_is_told_of() {
    let server = Server::start(&["--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru"]);
    let home = node("home", settings(&server)).await;
    let health = home.store.health().await;
    assert!(health.ok && health.detail.contains("set it to noeviction"), "{health:?}");
}

#[tokio::test]
async fn a_master_that_becomes_a_replica_is_left() {
    let server = Server::start(&[]);
    let home = node("home", settings(&server)).await;
    let owner = Owner::start(&home).await;
    server.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    owner.push(&["a"]);
    let reply = owner.store.append(&owner.record.id, &owner.record.epoch, &owner.batch(0)).await;
    assert!(matches!(reply, Err(StoreError::Unavailable(_))), "{reply:?}");
    eventually("the role is told", async || home.store.health().await.detail.contains("takes no writes")).await;
    server.command::<()>(&["REPLICAOF", "NO", "ONE"]).await;
    keep_at_last(&owner).await;
}

#[tokio::test]
async fn a_lost_script_cache_is_refilled() {
    let server = Server::start(&[]);
    let home = node("home", settings(&server)).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a"]).await;
    server.command::<()>(&["SCRIPT", "FLUSH"]).await;
    owner.keep(&["b"]).await;
}

#[tokio::test]
async fn a_failover_by_sentinels_is_followed() {
    let (server, replica) = (Server::start(&[]), Server::start(&[]));
    let master = server.port.to_string();
    replica.command::<()>(&["REPLICAOF", "127.0.0.1", &master]).await;
    let sentinel = Server::start_sentinel("main", server.port);
    let url = RedisUrl {
        scheme: RedisScheme::Sentinel,
        hosts: vec![("127.0.0.1".into(), 1), ("127.0.0.1".into(), sentinel.port)],
        master: Some("main".into()),
        ..RedisUrl::default()
    };
    let home = node("home", Settings { url, ..settings(&server) }).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a"]).await;
    eventually("the replica is in sync and known", async || {
        let info: String = replica.command(&["INFO", "replication"]).await;
        let known: Vec<redis::Value> = sentinel.command(&["SENTINEL", "REPLICAS", "main"]).await;
        info.contains("master_link_status:up") && !known.is_empty()
    })
    .await;
    eventually("the replica is promoted", async || {
        sentinel.try_command::<redis::Value>("", &["SENTINEL", "FAILOVER", "main"]).await.is_ok()
    })
    .await;
    eventually("the replica is the master", async || {
        // A server whose role changes cuts its clients off.
        let info = replica.try_command::<String>("", &["INFO", "replication"]).await;
        info.is_ok_and(|info| info.contains("role:master"))
    })
    .await;
    owner.push(&["b", "c"]);
    eventually("the new master has it all", async || {
        keep_at_last(&owner).await;
        let blocks = Keys::new("holdover".into()).blocks(&owner.record.id);
        let newest = ["XREVRANGE", &blocks, "+", "-", "COUNT", "1"];
        let newest = replica.try_command::<redis::Value>("", &newest).await;
        newest.is_ok_and(|newest| format!("{newest:?}").contains("3-"))
    })
    .await;
    owner.complete().await;
    assert_eq!(read_to_end(&*owner.open(0).await, 0).await.0, "abc");
}
