//! A real cluster: every promise of a store, slots that move, masters that die.

use super::*;

impl Cluster {
    /// With only one server named, after one that is not there.
    pub(super) fn settings(&self) -> Settings {
        let hosts = [1, self.servers[0].port].map(|port| ("127.0.0.1".into(), port)).to_vec();
        let url = RedisUrl { hosts, ..RedisUrl::default() };
        Settings { url, cluster: true, ..settings(&self.servers[0]) }
    }
}

#[tokio::test]
async fn a_cluster_keeps_every_promise() {
    let cluster = Cluster::start(3, 0, &[]).await;
    let build = async |promise: &str, retain_after_end| {
        node("here", Settings { retain_after_end, prefix: promise.into(), ..cluster.settings() }).await
    };
    conformance!(together build);
}

#[tokio::test]
async fn a_cluster_speaks_tls_and_needs_the_documented_rights_only() {
    let authority = Authority::new();
    let named = ["--tls-cluster", "yes", "--cluster-announce-hostname", "localhost"];
    let named = [&named[..], &["--cluster-preferred-endpoint-type", "hostname"]].concat();
    let cluster = Cluster::start(1, 0, &authority.server(&named).iter().map(|word| &**word).collect::<Vec<_>>()).await;
    let secured = Settings { cluster: true, ..authority.member(&cluster.servers[0]) };
    the_rights_suffice(&cluster.servers[0], secured).await;
}

#[tokio::test]
async fn a_turn_and_an_inbox_move_to_another_server() {
    let cluster = Cluster::start(2, 1, &[]).await;
    let patient = Settings { command_timeout: Duration::from_millis(500), ..cluster.settings() };
    let (home, away) = (node("owner", patient.clone()).await, node("reader", patient).await);
    let owner = Owner::start(&home).await;
    owner.keep(&["a"]).await;
    let log = open_at(&away, &owner, 0).await;
    read_until(&log, 0, |read| read == b"a").await;
    let keys = Keys::new("holdover".into());
    let [meta, blocks] = [keys.meta(&owner.record.id), keys.blocks(&owner.record.id)];
    // To a server that had no slots: it is in nobody's map.
    let (from, to) = (cluster.owner_of(&meta).await, 2);
    cluster.begin_to_move(&meta, from, to).await;
    owner.keep(&["b"]).await;
    cluster.move_key(&meta, from, to).await;
    owner.push(&["c"]);
    let half = owner.store.append(&owner.record.id, &owner.record.epoch, &owner.batch(2)).await;
    assert!(matches!(half, Err(StoreError::Unavailable(_))), "no server has both keys: {half:?}");
    cluster.move_key(&blocks, from, to).await;
    keep_at_last(&owner).await;
    read_until(&log, 0, |read| read == b"abc").await;
    owner.push(&["d"]);
    keep_at_last(&owner).await;
    cluster.end_move(&meta, from, to).await;
    owner.push(&["e"]);
    keep_at_last(&owner).await;
    read_until(&log, 0, |read| read == b"abcde").await;

    // Letters still arrive when the inbox's name is another server's, be it before or after it is opened again.
    let inbox = keys.inbox(&home.node);
    let from = cluster.owner_of(&inbox).await;
    let to = 1 - from.min(1);
    cluster.begin_to_move(&inbox, from, to).await;
    cluster.end_move(&inbox, from, to).await;
    assert_eq!(away.store.request_stop(&owner.record.id, Wish::Stop).await, Ok(StopRequested::Told));
    let stopped = async { while home.store.next_event().await != StoreEvent::Stop(owner.record.id, Wish::Stop) {} };
    timeout(DEADLINE, stopped).await.expect("the stop arrives");
    owner.complete().await;
    assert_eq!(read_to_end(&log, 0).await.0, "abcde");
}

#[tokio::test]
async fn a_turn_is_repaired_when_a_replica_that_lacks_a_part_takes_over() {
    let mut cluster = Cluster::start(3, 1, &[]).await;
    let (home, away) = (node("owner", cluster.settings()).await, node("reader", cluster.settings()).await);
    let owner = Owner::start(&home).await;
    let meta = Keys::new("holdover".into()).meta(&owner.record.id);
    let (master, replica) = (cluster.owner_of(&meta).await, 3);
    cluster.replicate(replica, master).await;
    owner.keep(&["a"]).await;
    let log = open_at(&away, &owner, 0).await;
    eventually("the replica has the beginning", async || {
        let info: String = cluster.servers[replica].command(&["INFO"]).await;
        let acked: i64 = cluster.servers[master].command(&["WAIT", "1", "1"]).await;
        acked == 1 && info.contains("master_link_status:up")
    })
    .await;
    // It loses its master, and cannot come back: the master knows no password.
    cluster.servers[replica].command::<()>(&["CONFIG", "SET", "masterauth", "wrong"]).await;
    cluster.servers[master].command::<i64>(&["CLIENT", "KILL", "TYPE", "replica"]).await;
    owner.keep(&["b", "c"]).await;
    read_until(&log, 0, |read| read == b"abc").await;
    // In the same slot, and over before the master dies.
    let ended = Owner::start(&home).await;
    ended.keep(&["x", "y"]).await;
    ended.complete().await;
    // Turns of the other servers go on: one of 99 sessions is there.
    let keys = Keys::new("holdover".into());
    let mut other = None;
    for byte in 1..100 {
        let record = record(&home.node, Some([byte; 32]));
        if cluster.owner_of(&keys.meta(&record.id)).await != master {
            other = Some(Owner::start_as(&home, record).await);
            break;
        }
    }
    let other = other.expect("two thirds of all slots are elsewhere");
    cluster.servers[master].kill();
    owner.push(&["d"]);
    eventually("the outage is noticed", async || {
        let health = home.store.health().await;
        !health.ok && health.detail.contains("part of the cluster")
    })
    .await;
    other.keep(&["x"]).await;
    let began = Instant::now();
    let refused = owner.store.append(&owner.record.id, &owner.record.epoch, &owner.batch(3)).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(began.elapsed() < Duration::from_millis(500), "calls do not wait for a connection");
    eventually("the cluster is whole again", async || home.store.health().await.ok).await;
    assert_eq!(cluster.owner_of(&meta).await, replica);
    keep_at_last(&owner).await;
    owner.complete().await;
    assert_eq!(read_to_end(&log, 0).await.0, "abcd");
    connected(&*away.store).await;
    assert_eq!(read_to_end(&*open_at(&away, &owner, 0).await, 0).await.0, "abcd");
    eventually("the turn that was over is known again", async || {
        let found = away.store.find(&ended.record.id).await;
        found.is_ok_and(|found| found.is_some_and(|record| record.end.is_some()))
    })
    .await;
    assert_eq!(read_to_end(&*open_at(&away, &ended, 0).await, 0).await.0, "xy");
}

#[tokio::test]
async fn an_emptied_server_that_stays_connected_is_found_out() {
    let cluster = Cluster::start(3, 0, &[]).await;
    let (home, away) = (node("owner", cluster.settings()).await, node("reader", cluster.settings()).await);
    let keys = Keys::new("holdover".into());
    // A silent turn at each server, and one that has just ended.
    let mut turns: Vec<Vec<Owner>> = (0..3).map(|_| Vec::new()).collect();
    for byte in 1..100 {
        let record = record(&home.node, Some([byte; 32]));
        let at = cluster.owner_of(&keys.meta(&record.id)).await;
        if turns[at].len() < 2 {
            let owner = Owner::start_as(&home, record).await;
            owner.keep(&["a", "b"]).await;
            turns[at].push(owner);
        }
    }
    for pair in &turns {
        pair[1].complete().await;
    }
    for (server, pair) in cluster.servers.iter().zip(&turns) {
        server.command::<()>(&["FLUSHALL"]).await;
        for owner in pair {
            eventually("the turn is known again", async || {
                let found = away.store.find(&owner.record.id).await;
                found.is_ok_and(|found| found.is_some_and(|record| record.last == 2 && record.end == owner.log.ended()))
            })
            .await;
        }
    }
    // Nobody was taken for dead.
    for owner in turns.iter().map(|pair| &pair[0]) {
        owner.keep(&["c"]).await;
        owner.complete().await;
        assert_eq!(read_to_end(&*open_at(&away, owner, 0).await, 0).await.0, "abc");
    }
}
