//! What is told of servers before they are used.

use super::*;

/// Everything that is wrong, as `server message: help`.
async fn problems(settings: &Settings) -> Vec<String> {
    let report = probe(settings).await.unwrap();
    report.problems.iter().map(|(server, problem)| format!("{server} {problem}")).collect()
}

fn user(name: &str, settings: Settings) -> Settings {
    Settings { username: Some(Secret::new(name)), password: Some(Secret::new("PASSWORD")), ..settings }
}

#[tokio::test]
async fn a_good_server_has_no_problems_and_is_left_as_it_was() {
    let server = Server::start(&[]);
    let report = probe(&settings(&server)).await.unwrap();
    assert_eq!(report.problems, []);
    let [line] = &report.servers[..] else { panic!("{report:?}") };
    assert!(line.starts_with("Redis ") && line.ends_with(&format!(" at 127.0.0.1:{}", server.port)), "{line}");
    assert_eq!(server.command::<i64>(&["DBSIZE"]).await, 0);
}

#[tokio::test]
async fn every_missing_right_is_told_by_a_probe_and_by_a_node() {
    let server = Server::start(&[]);
    let acl = async |words: &str| {
        let words: Vec<&str> = ["ACL", "SETUSER", "limited"].into_iter().chain(words.split(' ')).collect();
        server.command::<()>(&words).await;
    };
    acl("on >PASSWORD ~other:* resetchannels +@all -hset -xadd -@pubsub").await;
    let limited = user("limited", settings(&server));
    let all = problems(&limited).await.join("\n");
    for told in ["may not run hset, xadd, publish", "+hset +xadd +publish", "give it ~holdover:*"] {
        assert!(all.contains(told), "{told}: {all}");
    }
    let store = connect(&NodeId("node".into()), limited.clone());
    eventually("the node tells it, too", async || {
        let health = store.health().await;
        !health.ok && health.detail.contains("+hset +xadd +publish") && health.detail.contains("~holdover:*")
    })
    .await;
    acl("~holdover:* +hset +xadd +publish").await;
    let all = problems(&limited).await.join("\n");
    assert!(all.contains("&holdover:*") && !all.contains("~holdover"), "{all}");
    acl("&holdover:*").await;
    let all = problems(&limited).await.join("\n");
    assert!(all.contains("+subscribe +unsubscribe &holdover:*"), "{all}");
    acl("+subscribe").await;
    assert_eq!(problems(&limited).await, [""; 0]);
    connected(&*store).await;

    acl("-evalsha -info").await;
    let all = problems(&limited).await.join("\n");
    assert!(all.contains("allow EVAL and EVALSHA") && all.contains("may not run info"), "{all}");
    acl("-select resetpass >another").await;
    let all = problems(&limited).await.join("\n");
    assert!(all.contains("set store.username and store.password"), "{all}");
}

#[tokio::test]
async fn each_right_of_the_documented_ones_is_needed_and_its_absence_told() {
    let server = Server::start(&[]);
    let page = include_str!("../../../../docs/operations/redis.md");
    let rule = &page[page.find("ACL SETUSER").expect("the page has the command")..];
    let rule = rule.split("```").next().unwrap();
    server.command::<()>(&rule.split_whitespace().collect::<Vec<_>>()).await;
    let limited = user("holdover", settings(&server));
    assert_eq!(problems(&limited).await, [""; 0]);
    // What only clusters and databases need, and what is no more than polite.
    let others = ["cluster|slots", "asking", "select", "unsubscribe"];
    let rights = rule.split_whitespace().filter_map(|word| word.strip_prefix('+'));
    for right in rights.filter(|right| !others.contains(right)) {
        server.command::<()>(&["ACL", "SETUSER", "holdover", &format!("-{right}")]).await;
        let all = problems(&limited).await.join("\n").to_lowercase();
        assert!(all.contains(right), "{right}: {all}");
        server.command::<()>(&["ACL", "SETUSER", "holdover", &format!("+{right}")]).await;
    }
}

#[tokio::test]
async fn several_problems_are_told_at_once() {
    let server = Server::start(&["--maxmemory", "1gb", "--maxmemory-policy", "allkeys-lru"]);
    server.command::<()>(&["ACL", "SETUSER", "default", "-zadd"]).await;
    let all = problems(&settings(&server)).await;
    assert_eq!(all.len(), 2, "{all:?}");
    assert!(all[0].contains("+zadd") && all[1].contains("set it to noeviction"), "{all:?}");

    server.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]).await;
    server.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let all = problems(&settings(&server)).await.join("\n");
    for told in ["takes no writes: name the master", "noeviction", "85 % of its memory"] {
        assert!(all.contains(told), "{told}: {all}");
    }
}

#[tokio::test]
async fn sentinels_are_asked_one_by_one() {
    let mut server = Server::start(&[]);
    let sentinel = Server::start_sentinel("main", server.port);
    let base = settings(&server);
    let named = |master: &str, ports: &[u16]| {
        let hosts = ports.iter().map(|port| ("127.0.0.1".to_owned(), *port)).collect();
        let url =
            RedisUrl { scheme: RedisScheme::Sentinel, hosts, master: Some(master.to_owned()), ..RedisUrl::default() };
        Settings { url, ..base.clone() }
    };
    assert_eq!(problems(&named("main", &[sentinel.port])).await, [""; 0]);
    let all = problems(&named("main", &[1, sentinel.port])).await;
    assert!(all.len() == 1 && all[0].starts_with("127.0.0.1:1 cannot be used: "), "{all:?}");
    let all = problems(&named("other", &[sentinel.port])).await;
    assert!(all.len() == 1 && all[0].contains("knows no master named other"), "{all:?}");
    server.kill();
    let all = problems(&named("main", &[sentinel.port])).await;
    assert!(all.len() == 1 && all[0].contains("start it, or mend store.url"), "{all:?}");
}
