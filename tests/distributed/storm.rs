//! Very many followers come back at once, at a node that does not own their turns.

use std::time::Instant;

use tokio::task::JoinSet;

use super::{Pair, stream_of};
use crate::support::{Client, Event, Redis, Turn, eventually};

const FOLLOWERS: usize = 1_000;
const TURNS: usize = 4;
/// Events of each turn when they come, and of each turn in all.
const BEFORE: usize = 40;
const ALL: usize = 44;

/// How often a command was run so far.
async fn calls(redis: &Redis, command: &str) -> u64 {
    let stats: String = redis.command("INFO commandstats").await;
    let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn a_thousand_followers_come_back_at_once_and_share_what_is_read_of_redis() {
    let pair = Pair::with("", "followers = 1000").await;
    let mut turns = Vec::new();
    for _ in 0..TURNS {
        let mut turn = Turn::start(&pair.one, &pair.backend).await;
        let shown = turn.events(BEFORE).await;
        turns.push((turn, shown));
    }
    // The node is connected, and has read a turn before.
    pair.other.following(&stream_of(&turns[0].0.id)).await.next_event().await;
    let began = Instant::now();
    let (connections, reads) = (pair.redis.connections().await, calls(&pair.redis, "xrange").await);

    let address = pair.other.addr();
    let mut coming = JoinSet::new();
    for number in 0..FOLLOWERS {
        let (turn, _) = &turns[number % TURNS];
        // Who has seen less comes later: the worst order for who began to read for somebody before.
        let seen = BEFORE - number * BEFORE / FOLLOWERS;
        let cursor = turn.id_of(seen as u64);
        coming.spawn(async move {
            let mut client = Client::connect(address).await;
            client.request("GET", "/chat", &[("Last-Event-ID", &cursor)], "").await;
            let head = client.head().await;
            assert_eq!(head.status(), 200, "{cursor}: {head:?}");
            let rest = client.next_events(BEFORE - seen).await;
            (number, seen, client, rest)
        });
    }
    let mut there = Vec::new();
    while let Some(came) = coming.join_next().await {
        there.push(came.unwrap());
    }
    assert_eq!(pair.other.metric("holdover_followers", &[]).await, FOLLOWERS as f64);
    assert_eq!(pair.redis.connections().await, connections, "at the peak");
    for number in BEFORE + 1..=ALL {
        for (turn, shown) in &mut turns {
            shown.push(turn.event(&number.to_string()).await);
        }
    }
    let mut ends = Vec::new();
    for (turn, shown) in turns {
        turn.end().await;
        ends.push(shown);
    }
    let mut following = JoinSet::new();
    for (number, seen, mut client, mut rest) in there {
        following.spawn(async move {
            let mut live: Vec<Event> = client.next_events(ALL - BEFORE).await;
            rest.append(&mut live);
            let (more, ending) = client.rest().await;
            assert!(more.is_empty() && ending.is_clean(), "follower {number}: {ending:?} behind {more:?}");
            (number, seen, rest)
        });
    }
    while let Some(followed) = following.join_next().await {
        let (number, seen, rest) = followed.unwrap();
        assert!(rest == ends[number % TURNS][seen..], "follower {number} got exactly the rest");
    }
    assert_eq!(pair.redis.connections().await, connections, "afterwards");
    // Not once for each follower: a node has two copies of a turn at the most, which look by themselves once a second.
    let reads = calls(&pair.redis, "xrange").await - reads;
    let most = TURNS as u64 * (20 + 4 * began.elapsed().as_secs());
    assert!(reads < most, "the turns were read {reads} times, more than {most}");
    eventually("everybody to be gone", || async {
        (pair.other.metric("holdover_followers", &[]).await == 0.0).then_some(())
    })
    .await;
}
