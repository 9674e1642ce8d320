//! Ended turns, compressed: they read the same, take less, and are lost by nothing that happens meanwhile.

use super::*;
use crate::store::redis::scripts::SEAL;

fn sealing(server: &Server) -> Settings {
    Settings { seal: true, ..settings(server) }
}

async fn is_sealed(server: &Server, owner: &Owner) -> bool {
    let meta = Keys::new("holdover".into()).meta(&owner.record.id);
    server.command::<Option<String>>(&["HGET", &meta, "z"]).await.is_some()
}

async fn sealed(server: &Server, owner: &Owner) {
    eventually("the turn is compressed", async || is_sealed(server, owner).await).await;
}

/// Words as a model writes them: some often, most seldom.
struct Words(u64);

impl Words {
    fn random(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn next(&mut self) -> String {
        let often = [1 << 6, 1 << 9, 1 << 12][self.random(3) as usize];
        let mut which = self.random(often);
        let mut word = String::from(" ");
        while word.len() < 3 || which > 0 {
            word.push(['b', 'd', 'k', 'l', 'm', 'n', 'r', 's', 't', 'v'][(which % 10) as usize]);
            word.push(['a', 'e', 'i', 'o', 'u'][(which / 10 % 5) as usize]);
            which /= 50;
        }
        word
    }
}

/// Records `count` events of a well-known form, one append each, as a model's tokens come.
async fn keep_tokens(owner: &Owner, count: u64, form: Form) {
    let id = owner.record.id;
    let mut words = Words(7);
    for seq in 1..=count {
        let word = words.next();
        let data = match form {
            Form::Short => format!(r#"{{"type":"content_block_delta","index":0,"delta":{{"text":"{word}"}}}}"#),
            Form::Long => format!(
                r#"{{"id":"chatcmpl-B9MHDbslfkBeAs8l4bebGdFOJ6PeG","object":"chat.completion.chunk","created":1741570283,"model":"gpt-4o-mini","choices":[{{"index":0,"delta":{{"content":"{word}"}},"finish_reason":null}}]}}"#
            ),
        };
        owner.log.push_event(format!("data: {data}\nid: {id}-{seq}\n\n").into(), None);
        assert!(matches!(owner.append(&owner.batch(seq - 1)).await, Appended::Applied { .. }));
    }
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Short,
    Long,
}

#[tokio::test]
async fn a_compressed_turn_reads_the_same_from_everywhere() {
    let server = Server::start(&[]);
    let (home, away) = (node("owner", sealing(&server)).await, node("reader", settings(&server)).await);
    let owner = Owner::start_as(&home, record(&home.node, Some([1; 32]))).await;
    keep_tokens(&owner, 700, Form::Short).await;
    owner.log.push_aside(Bytes::from_static(b": bye\n"));
    let whole = read_until(&owner.log, 0, |read| read.ends_with(b": bye\n")).await.0;
    // A reader that is halfway when its ground is exchanged.
    let meta = Keys::new("holdover".into()).meta(&owner.record.id);
    let halfway = open_at(&away, &owner, 350).await;
    owner.complete().await;
    sealed(&server, &owner).await;
    let (rest, ended) = read_to_end(&halfway, 350).await;
    assert!(whole.ends_with(&rest) && rest.starts_with("data:"), "{} of {} bytes", rest.len(), whole.len());
    assert_eq!(ended, end(Outcome::Completed, "eof"));
    drop(halfway);
    for after in [0, 1, 255, 256, 257, 600, 699, 700] {
        let read = read_to_end(&*open_at(&away, &owner, after).await, after).await.0;
        let skipped: usize = whole.split_inclusive("\n\n").take(after as usize).map(str::len).sum();
        assert!(read == whole[skipped..], "after {after}: {} bytes", read.len());
    }
    assert_eq!(away.store.session(&[1; 32]).await, Ok(Some(owner.record.id)));
    let blocks = Keys::new("holdover".into()).blocks(&owner.record.id);
    for key in [&meta, &blocks] {
        let ttl: i64 = server.command(&["PTTL", key]).await;
        assert!((1..=60_000).contains(&ttl), "{key}: {ttl}");
    }
    assert_eq!(server.command::<i64>(&["XLEN", &blocks]).await, 1 + 3, "700 blocks in three entries");
    let raw = home.store.find(&owner.record.id).await.unwrap().unwrap();
    assert_eq!((raw.last, raw.bytes), (700, owner.log.bytes()));
}

#[tokio::test]
async fn a_large_turn_is_compressed_in_several_steps_and_is_whole_after_each() {
    let server = Server::start(&[]);
    let home = node("home", sealing(&server)).await;
    let owner = Owner::start(&home).await;
    // Noise in hex: half of it is left.
    let mut words = Words(3);
    let mut whole = String::new();
    for seq in 0..40 {
        let block =
            format!("data: {}\n\n", (0..1000).map(|_| format!("{:08x}", words.random(1 << 31))).collect::<String>());
        whole.push_str(&block);
        owner.log.push_event(block.into(), None);
        assert!(matches!(owner.append(&owner.batch(seq)).await, Appended::Applied { .. }));
    }
    owner.complete().await;
    sealed(&server, &owner).await;
    assert_eq!(read_to_end(&*owner.open(0).await, 0).await.0, whole);
    assert_eq!(server.command::<i64>(&["EXISTS", &Keys::new("holdover".into()).sealed(&owner.record.id)]).await, 0);
}

#[tokio::test]
async fn an_owner_that_dies_while_it_compresses_loses_nothing() {
    let server = Server::start(&[]);
    let home = node("home", settings(&server)).await;
    let owner = Owner::start(&home).await;
    owner.keep(&["a", "b"]).await;
    let keys = Keys::new("holdover".into());
    let all = [keys.meta(&owner.record.id), keys.blocks(&owner.record.id), keys.sealed(&owner.record.id)];
    let other = connect(&NodeId("other".into()), settings(&server));
    connected(&*other).await;
    let link = &other.inner.link;
    let seal = async |epoch: &str, last: u64, before: u64, is_last: &str, entry: u64| {
        let seal = SEAL.on(&all).arg(epoch).arg(last).arg(before).arg(is_last).arg(entry).arg(1).arg("?");
        link.call::<Reply>("seal", Lane::Bulk, &seal).await.unwrap().code().unwrap()
    };
    let epoch = &*owner.record.epoch.0;
    assert_eq!(seal(epoch, 2, 0, "", 1).await, 0, "it runs");
    owner.complete().await;
    for (epoch, last, before) in [("another", 2, 0), (epoch, 1, 0), (epoch, 3, 0), (epoch, 2, 1)] {
        assert_eq!(seal(epoch, last, before, "1", 1).await, 0, "{epoch} {last} {before}");
    }
    // The first half is put aside; the second never comes.
    assert_eq!(seal(epoch, 2, 0, "", 1).await, 1);
    let ttl: i64 = server.command(&["PTTL", &all[2]]).await;
    assert!((1..=60_000).contains(&ttl), "{ttl}");
    assert_eq!(seal(epoch, 2, 0, "", 1).await, 1, "somebody begins anew");
    assert_eq!(seal(epoch, 2, 0, "", 1).await, 1);
    assert_eq!(seal(epoch, 2, 2, "1", 3).await, 0, "not what comes next");
    assert_eq!(read_to_end(&*owner.open(0).await, 0).await.0, "ab");
}

#[tokio::test]
async fn a_full_server_gets_room_by_it() {
    let server = Server::start(&[]);
    let home = node("home", sealing(&server)).await;
    let owner = Owner::start(&home).await;
    keep_tokens(&owner, 300, Form::Short).await;
    server.command::<()>(&["CONFIG", "SET", "maxmemory", "1"]).await;
    owner.complete().await;
    sealed(&server, &owner).await;
    server.command::<()>(&["CONFIG", "SET", "maxmemory", "0"]).await;
    assert_eq!(read_to_end(&*owner.open(0).await, 0).await.0.matches("id: ").count(), 300);
}

#[tokio::test]
async fn an_end_that_is_written_again_is_compressed_or_not_but_whole() {
    let mut server = Server::start(&[]);
    let (home, away) = (node("owner", sealing(&server)).await, node("reader", sealing(&server)).await);
    let owner = Owner::start(&home).await;
    keep_tokens(&owner, 300, Form::Short).await;
    server.remember().await;
    owner.complete().await;
    sealed(&server, &owner).await;
    server.kill();
    server.start_again();
    eventually("the end is known again", async || {
        away.store.find(&owner.record.id).await.is_ok_and(|found| found.is_some_and(|record| record.end.is_some()))
    })
    .await;
    assert_eq!(read_to_end(&*open_at(&away, &owner, 0).await, 0).await.0.matches("id: ").count(), 300);
}

/// The sizing table of `docs/operations/redis.md` comes from what this prints (`--nocapture`).
#[tokio::test]
async fn what_a_turn_costs_is_what_the_documentation_says() {
    let server = Server::start(&[]);
    let store = connect(&NodeId("home".into()), sealing(&server));
    connected(&*store).await;
    let home = Fixture { store: store.clone(), node: NodeId("home".into()), _guard: Box::new(()) };
    let keys = Keys::new("holdover".into());
    let calls = async |name: &str| -> u64 {
        let stats: String = server.command(&["INFO", "commandstats"]).await;
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{name}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
    };
    for form in [Form::Short, Form::Long] {
        for count in [50, 500, 2000] {
            let owner = Owner::start_as(&home, record(&home.node, Some([1; 32]))).await;
            let before = [calls("evalsha").await, calls("xadd").await];
            keep_tokens(&owner, count, form).await;
            let after = [calls("evalsha").await, calls("xadd").await];
            // Beats may come in between.
            let scripts = after[0] - before[0];
            assert!((count..count + 10 + count / 10).contains(&scripts) && after[1] - before[1] == count, "{scripts}");
            let usage = async || {
                let mut sum = 0;
                for key in [keys.meta(&owner.record.id), keys.blocks(&owner.record.id)] {
                    sum += server.command::<u64>(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await;
                }
                sum
            };
            let raw = usage().await;
            owner.complete().await;
            let began = Instant::now();
            sealed(&server, &owner).await;
            let sealed = usage().await;
            let bytes = owner.log.bytes();
            let each = |all: u64| all / count;
            println!(
                "{count} events of {} bytes: {} bytes each in Redis, {} compressed; {} and {} in all, within {:?}",
                each(bytes),
                each(raw),
                each(sealed),
                raw,
                sealed,
                began.elapsed()
            );
            assert!(raw < bytes * 2 && (count < 500 || sealed * 4 < raw), "{bytes} {raw} {sealed}");
        }
    }
    // Lives are set by clocks, not by events.
    let pexpire = calls("pexpire").await;
    assert!(pexpire < 6 * 10 + calls("evalsha").await / 50 + 200, "{pexpire}");
    let clients: String = server.command(&["CLIENT", "LIST"]).await;
    assert_eq!(clients.lines().count(), 3 + 1, "commands, bulk, inbox; and the one that asks: {clients}");
}
