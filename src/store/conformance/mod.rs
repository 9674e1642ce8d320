//! What every store must do. One function per promise, generic over how a store is made; `conformance!` makes tests of
//! them for one store.

mod driver;

use std::{any::Any, collections::HashSet, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use tokio::time::timeout;

pub(super) use self::driver::{Owner, end, eventually, read_to_end, read_until, record};
use self::driver::{blocks_of, turn_in};
use super::{Appended, Durability, Finished, SessionPolicy, Started, StopRequested, StoreEvent, TurnStore};
use crate::{
    sse::Seq,
    turn::{Batch, Block, Budget, Cap, Digest, Epoch, Head, NodeId, Outcome, TurnRecord, Wish},
};

/// Longer than anything takes, on a busy machine too.
pub(super) const DEADLINE: Duration = Duration::from_secs(20);
/// More than any log here has.
const ALL_BYTES: usize = 1 << 30;
const ALL_BLOCKS: u64 = 1 << 30;
/// A retention that no test outlives.
const LONG: Duration = Duration::from_secs(60);

/// A store, and what must live as long as it.
pub(super) struct Fixture {
    pub(super) store: Arc<dyn TurnStore>,
    pub(super) node: NodeId,
    pub(super) _guard: Box<dyn Any>,
}

/// Makes a `#[tokio::test]` of every promise; `$build` makes a [`Fixture`] that keeps ended turns for the given time.
/// With `together`, all promises are judged at once in the calling test, where servers take long to start; `$build` is
/// then told the promise's name, too.
macro_rules! conformance {
    (together $build:ident: $($promise:ident)*) => {
        tokio::join!($($crate::store::conformance::$promise(
            async |retain| $build(stringify!($promise), retain).await
        )),*);
    };
    ($build:path: $($promise:ident)*) => {
        $(
            #[tokio::test]
            async fn $promise() {
                $crate::store::conformance::$promise(async |retain| $build(retain).await).await;
            }
        )*
    };
    ($($how:tt)+) => {
        $crate::store::conformance::conformance! {
            $($how)+:
            blocks_come_back_byte_for_byte
            a_megabyte_block_comes_back
            a_batch_that_follows_on_something_else_is_refused
            a_repeated_batch_is_kept_once
            another_epoch_may_not_write
            nothing_is_written_behind_the_end
            the_first_end_stays
            who_has_a_block_or_the_end_has_the_header
            an_end_behind_missing_blocks_is_refused
            a_start_can_be_repeated
            an_ended_turn_cannot_be_started
            an_unknown_turn_is_unknown
            a_record_comes_back
            the_header_comes_back
            what_follows_the_last_block_comes_back
            a_session_points_to_its_newest_turn
            a_session_can_be_taken_only_once
            a_session_is_free_after_the_end
            a_session_is_free_after_a_discard
            an_older_turn_does_not_free_the_session_of_a_newer
            a_discarded_turn_is_unknown
            a_claim_is_the_firsts
            notes_are_replaced_and_expire
            the_secret_is_the_firsts
            an_ended_turn_is_forgotten_after_its_retention
            a_running_turn_is_followed_to_its_end
            a_turn_is_followed_from_before_its_header
            a_cursor_gets_what_comes_after_it
            an_ended_turn_is_read_whole
            followers_with_different_cursors_do_not_disturb_each_other
            a_stop_reaches_the_owner
        }
    };
}
pub(super) use conformance;

fn key(byte: u8) -> Digest {
    [byte; 32]
}

pub(super) async fn blocks_come_back_byte_for_byte(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    let all_bytes: Bytes = (0..=255u8).collect::<Vec<_>>().into();
    let written = [
        Block { bytes: Bytes::from_static(b"data: 1\nid: x\n\n"), native_id: None },
        Block { bytes: all_bytes.clone(), native_id: Some(all_bytes) },
        Block { bytes: Bytes::from_static(b"\n"), native_id: Some(Bytes::new()) },
        Block { bytes: "data: ⌘\r\n\r\n".into(), native_id: Some(Bytes::from_static(b"native")) },
    ];
    for block in &written {
        owner.log.push_event(block.bytes.clone(), block.native_id.clone());
    }
    assert_eq!(owner.append(&owner.log.batch(0, ALL_BYTES, 1).unwrap()).await, Appended::Applied { stop: None });
    assert_eq!(owner.append(&owner.batch(1)).await, Appended::Applied { stop: None });
    assert_eq!(blocks_of(&*owner.open(0).await, 0, 4).await, written);
    assert_eq!(blocks_of(&*owner.open(2).await, 2, 4).await, written[2..]);
}

pub(super) async fn a_megabyte_block_comes_back(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    let block: Bytes = (0..1u32 << 20).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as u8).collect::<Vec<_>>().into();
    owner.log.push_event(block.clone(), None);
    owner.append(&owner.batch(0)).await;
    owner.keep(&["data: behind\n\n"]).await;
    let read = blocks_of(&*owner.open(0).await, 0, 2).await;
    assert!(read[0].bytes == block && read[1].bytes == "data: behind\n\n");
}

pub(super) async fn a_batch_that_follows_on_something_else_is_refused(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    owner.push(&["a", "b", "c"]);
    assert_eq!(owner.append(&owner.batch(1)).await, Appended::At(0));
    let first = owner.log.batch(0, ALL_BYTES, 2).unwrap();
    assert_eq!(owner.append(&first).await, Appended::Applied { stop: None });
    assert_eq!(owner.append(&owner.batch(1)).await, Appended::At(2), "it begins too early but ends later");
    assert_eq!(owner.append(&owner.batch(2)).await, Appended::Applied { stop: None });
    owner.complete().await;
    assert_eq!(read_to_end(&*owner.open(0).await, 0).await.0, "abc");
}

pub(super) async fn a_repeated_batch_is_kept_once(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    owner.keep(&["a", "b"]).await;
    assert_eq!(owner.append(&owner.batch(0)).await, Appended::At(2), "an earlier attempt got through");
    let found = owner.found().await.unwrap();
    assert_eq!((found.last, found.bytes), (2, 2));
    owner.complete().await;
    assert_eq!(read_to_end(&*owner.open(0).await, 0).await.0, "ab");
}

pub(super) async fn another_epoch_may_not_write(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    owner.keep(&["a"]).await;
    owner.push(&["b"]);
    let other = Epoch("another".into());
    let store = &fixture.store;
    assert_eq!(store.append(&owner.record.id, &other, &owner.batch(1)).await, Ok(Appended::Fenced));
    let ended = store.finish(&owner.record.id, &other, &owner.log, &end(Outcome::Failed, "zombie")).await;
    assert_eq!(ended, Ok(Finished::Gone));
    let headers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("z"))]);
    let head = Arc::new(Head { headers, ..Head::default() });
    store.set_head(&owner.record.id, &other, &head).await.unwrap();
    let again = TurnRecord { epoch: other, ..owner.record.clone() };
    assert_eq!(store.start(&again, &owner.log, SessionPolicy::Replace).await, Ok(Started::Fenced));
    store.discard(&again).await.unwrap();
    let found = owner.found().await.unwrap();
    assert_eq!((found.end, found.head), (None, None));
    assert_eq!(owner.append(&owner.batch(1)).await, Appended::Applied { stop: None });
}

pub(super) async fn nothing_is_written_behind_the_end(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    owner.keep(&["a"]).await;
    owner.complete().await;
    let late =
        Batch { prev: 1, head: None, blocks: vec![Block { bytes: Bytes::from_static(b"late"), native_id: None }] };
    assert_eq!(owner.append(&late).await, Appended::Fenced);
    let (text, end) = read_to_end(&*owner.open(0).await, 0).await;
    assert_eq!((text.as_str(), end.outcome), ("a", Outcome::Completed));
}

pub(super) async fn who_has_a_block_or_the_end_has_the_header(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let headers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("z"))]);
    let head = Arc::new(Head { headers, ..Head::default() });
    let [with_a_block, without] = [Owner::start(&fixture).await, Owner::start(&fixture).await];
    for owner in [&with_a_block, &without] {
        owner.log.set_head(head.clone());
    }
    // As it is when the store forgot what `set_head` wrote, and nothing else.
    with_a_block.keep(&["a"]).await;
    assert_eq!(with_a_block.found().await.unwrap().head.as_deref(), Some(&*head));
    without.complete().await;
    assert_eq!(without.found().await.unwrap().head.as_deref(), Some(&*head));
}

pub(super) async fn the_first_end_stays(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    for outcome in Outcome::ALL {
        let owner = Owner::start(&fixture).await;
        let first = end(outcome, "");
        assert_eq!(owner.write_end(&first).await, Finished::Applied);
        assert_eq!(owner.write_end(&end(Outcome::Failed, "second")).await, Finished::Already(first.clone()));
        assert_eq!(owner.found().await.unwrap().end, Some(first));
    }
}

pub(super) async fn an_end_behind_missing_blocks_is_refused(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    if fixture.store.durability() == Durability::Held {
        return; // The log itself is what is kept: no block can be missing.
    }
    let owner = Owner::start(&fixture).await;
    owner.keep(&["a"]).await;
    owner.push(&["b"]);
    let completed = end(Outcome::Completed, "eof");
    assert_eq!(owner.write_end(&completed).await, Finished::At(1));
    assert_eq!(owner.append(&owner.batch(1)).await, Appended::Applied { stop: None });
    assert_eq!(owner.write_end(&completed).await, Finished::Applied);
}

pub(super) async fn a_start_can_be_repeated(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start_as(&fixture, record(&fixture.node, Some(key(1)))).await;
    assert_eq!(owner.claim(SessionPolicy::Refuse).await, Started::Fresh);
    owner.keep(&["a"]).await;
    assert_eq!(owner.claim(SessionPolicy::Replace).await, Started::Fresh);
    owner.keep(&["b"]).await;
    owner.complete().await;
    assert_eq!(read_to_end(&*owner.open(0).await, 0).await.0, "ab");
}

pub(super) async fn an_ended_turn_cannot_be_started(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    owner.complete().await;
    assert_eq!(owner.claim(SessionPolicy::Replace).await, Started::Fenced);
}

pub(super) async fn an_unknown_turn_is_unknown(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::without_start(&fixture, record(&fixture.node, None));
    owner.push(&["a"]);
    assert_eq!(owner.append(&owner.batch(0)).await, Appended::Gone);
    assert_eq!(owner.write_end(&end(Outcome::Completed, "eof")).await, Finished::Gone);
    assert_eq!(owner.found().await, None);
    assert!(fixture.store.open(&owner.record.id, 0).await.unwrap().is_none());
    assert_eq!(fixture.store.request_stop(&owner.record.id, Wish::Stop).await, Ok(StopRequested::NotRunning));
    assert_eq!(fixture.store.session(&key(1)).await, Ok(None));
    fixture.store.discard(&owner.record).await.unwrap();
}

pub(super) async fn a_record_comes_back(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start_as(&fixture, record(&fixture.node, Some(key(1)))).await;
    assert_eq!(owner.found().await.as_ref(), Some(&owner.record));
    let plain = TurnRecord { principal: None, ..record(&fixture.node, None) };
    let plain = Owner::start_as(&fixture, plain).await;
    assert_eq!(plain.found().await.as_ref(), Some(&plain.record));

    owner.keep(&["four", "fivef"]).await;
    owner.log.cap(Cap::MaxEvent);
    owner.complete().await;
    let mut expected = owner.record.clone();
    (expected.last, expected.bytes) = (2, 9);
    (expected.cap, expected.end) = (Some(Cap::MaxEvent), Some(end(Outcome::Completed, "eof")));
    assert_eq!(owner.found().await, Some(expected));
}

pub(super) async fn the_header_comes_back(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    let mut headers = HeaderMap::new();
    headers.append("set-cookie", HeaderValue::from_static("a=1"));
    headers.append("set-cookie", HeaderValue::from_static("b=2"));
    headers.append("x-empty", HeaderValue::from_static(""));
    headers.append("x-latin", HeaderValue::from_bytes(b"caf\xe9").unwrap());
    let head = Arc::new(Head { headers, profile: "mcp".into(), request_id: Some("\"7\"".into()) });
    owner.log.set_head(head.clone());
    fixture.store.set_head(&owner.record.id, &owner.record.epoch, &head).await.unwrap();
    assert_eq!(owner.found().await.unwrap().head, Some(head.clone()));
    assert_eq!(owner.open(0).await.head(), Some(head));
}

pub(super) async fn what_follows_the_last_block_comes_back(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    owner.keep(&["a"]).await;
    owner.log.push_aside(Bytes::from_static(b": bye\n"));
    owner.complete().await;
    assert_eq!(read_to_end(&*owner.open(0).await, 0).await.0, "a: bye\n");
}

pub(super) async fn a_session_points_to_its_newest_turn(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let [first, second] = [(); 2].map(|()| record(&fixture.node, Some(key(1))));
    let first = Owner::start_as(&fixture, first).await;
    assert_eq!(fixture.store.session(&key(1)).await, Ok(Some(first.record.id)));
    let second = Owner::start_as(&fixture, second).await;
    assert_eq!(fixture.store.session(&key(1)).await, Ok(Some(second.record.id)));
    assert_eq!(fixture.store.session(&key(2)).await, Ok(None));
    second.complete().await;
    assert_eq!(fixture.store.session(&key(1)).await, Ok(Some(second.record.id)));
}

pub(super) async fn a_session_can_be_taken_only_once(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owners = [(); 8].map(|()| Owner::without_start(&fixture, record(&fixture.node, Some(key(1)))));
    let claims = futures_util::future::join_all(owners.iter().map(|owner| owner.claim(SessionPolicy::Refuse))).await;
    let winners = claims.iter().filter(|claim| **claim == Started::Fresh).count();
    assert_eq!(winners, 1, "{claims:?}");
    let winner = owners[claims.iter().position(|claim| *claim == Started::Fresh).unwrap()].record.id;
    let busy = claims.iter().filter(|claim| **claim == Started::Busy(winner)).count();
    assert_eq!(busy, 7, "{claims:?}");
}

pub(super) async fn a_session_is_free_after_the_end(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let [first, second] = [(); 2].map(|()| record(&fixture.node, Some(key(1))));
    let first = Owner::start_as(&fixture, first).await;
    let second = Owner::without_start(&fixture, second);
    assert_eq!(second.claim(SessionPolicy::Refuse).await, Started::Busy(first.record.id));
    first.complete().await;
    assert_eq!(second.claim(SessionPolicy::Refuse).await, Started::Fresh);
}

pub(super) async fn a_session_is_free_after_a_discard(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let [first, second] = [(); 2].map(|()| record(&fixture.node, Some(key(1))));
    let first = Owner::start_as(&fixture, first).await;
    fixture.store.discard(&first.record).await.unwrap();
    assert_eq!(fixture.store.session(&key(1)).await, Ok(None));
    assert_eq!(Owner::without_start(&fixture, second).claim(SessionPolicy::Refuse).await, Started::Fresh);
}

pub(super) async fn an_older_turn_does_not_free_the_session_of_a_newer(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let [first, second, third] = [(); 3].map(|()| record(&fixture.node, Some(key(1))));
    let first = Owner::start_as(&fixture, first).await;
    let second = Owner::start_as(&fixture, second).await;
    first.complete().await;
    let third = Owner::without_start(&fixture, third);
    assert_eq!(third.claim(SessionPolicy::Refuse).await, Started::Busy(second.record.id));
    fixture.store.discard(&first.record).await.unwrap();
    assert_eq!(fixture.store.session(&key(1)).await, Ok(Some(second.record.id)));
}

pub(super) async fn a_discarded_turn_is_unknown(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    fixture.store.discard(&owner.record).await.unwrap();
    fixture.store.discard(&owner.record).await.unwrap();
    assert_eq!(owner.found().await, None);
    let ended = Owner::start(&fixture).await;
    ended.complete().await;
    fixture.store.discard(&ended.record).await.unwrap();
    assert!(ended.found().await.is_some(), "only a running turn is taken back");
}

pub(super) async fn a_claim_is_the_firsts(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let ids = [(); 8].map(|()| turn_in(&key(1)));
    let session = key(9);
    let claims = ids.iter().map(|id| fixture.store.claim(&session, id, LONG));
    let claimed: HashSet<_> = futures_util::future::join_all(claims).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(claimed.len(), 1);
    let first = *claimed.iter().next().unwrap();
    assert_eq!(fixture.store.noted(&key(9)).await, Ok(Some(first)));
    assert_eq!(fixture.store.noted(&key(8)).await, Ok(None));
}

pub(super) async fn notes_are_replaced_and_expire(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let [one, other] = [(); 2].map(|()| turn_in(&key(1)));
    let store = &fixture.store;
    store.note(&key(9), &one, LONG).await.unwrap();
    store.note(&key(9), &other, LONG).await.unwrap();
    assert_eq!(store.noted(&key(9)).await, Ok(Some(other)));
    assert_eq!(store.claim(&key(9), &one, LONG).await, Ok(other));
    store.note(&key(9), &one, Duration::from_millis(50)).await.unwrap();
    eventually("the note expires", async || store.noted(&key(9)).await == Ok(None)).await;
    assert_eq!(store.claim(&key(9), &other, LONG).await, Ok(other));
}

pub(super) async fn the_secret_is_the_firsts(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let proposals = (0..8).map(|byte| fixture.store.shared_secret([byte; 32]));
    let secrets: HashSet<_> = futures_util::future::join_all(proposals).await.into_iter().map(Result::unwrap).collect();
    assert_eq!(secrets.len(), 1);
    assert_eq!(fixture.store.shared_secret([99; 32]).await, Ok(*secrets.iter().next().unwrap()));
}

pub(super) async fn an_ended_turn_is_forgotten_after_its_retention(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(Duration::from_millis(300)).await;
    let owner = Owner::start_as(&fixture, record(&fixture.node, Some(key(1)))).await;
    owner.keep(&["a"]).await;
    let running = Owner::start(&fixture).await;
    owner.complete().await;
    assert!(owner.found().await.is_some());
    eventually("the turn is forgotten", async || owner.found().await.is_none()).await;
    assert!(fixture.store.open(&owner.record.id, 0).await.unwrap().is_none());
    assert_eq!(fixture.store.session(&key(1)).await, Ok(None));
    assert!(running.found().await.is_some(), "retention begins with the end");
}

pub(super) async fn a_running_turn_is_followed_to_its_end(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    owner.keep(&["a", "b"]).await;
    let log = owner.open(0).await;
    assert_eq!(read_until(&log, 0, |read| read == b"ab").await, ("ab".into(), None));
    owner.keep(&["c"]).await;
    owner.keep(&["d", "e"]).await;
    assert_eq!(read_until(&log, 0, |read| read == b"abcde").await.0, "abcde");
    owner.complete().await;
    assert_eq!(read_to_end(&log, 0).await, ("abcde".into(), end(Outcome::Completed, "eof")));
}

pub(super) async fn a_turn_is_followed_from_before_its_header(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    let log = owner.open(0).await;
    assert_eq!((log.head(), log.last()), (None, 0));
    let headers = HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("e"))]);
    let head = Arc::new(Head { headers, ..Head::default() });
    owner.log.set_head(head.clone());
    fixture.store.set_head(&owner.record.id, &owner.record.epoch, &head).await.unwrap();
    eventually("the header is there", async || log.head().as_ref() == Some(&head)).await;
    owner.keep(&["a"]).await;
    owner.complete().await;
    assert_eq!(read_to_end(&log, 0).await.0, "a");
}

pub(super) async fn a_cursor_gets_what_comes_after_it(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    owner.keep(&["a", "b", "c"]).await;
    owner.keep(&["d"]).await;
    let ahead = owner.open(6).await;
    assert_eq!(ahead.last(), 4, "a log claims no blocks that are not there");
    let third = owner.open(3).await;
    owner.keep(&["e", "f", "g"]).await;
    owner.complete().await;
    assert_eq!(read_to_end(&third, 3).await.0, "defg");
    assert_eq!(read_to_end(&ahead, 6).await.0, "g", "it was ahead of the log when it came");
    for after in 0..=7 {
        let log = owner.open(after).await;
        assert_eq!(read_to_end(&log, after).await.0, "abcdefg"[after as usize..], "after {after}");
    }
}

pub(super) async fn an_ended_turn_is_read_whole(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    let mut expected = String::new();
    for i in 0..700 {
        let block = format!("data: {i} {}\n\n", "x".repeat(i));
        expected.push_str(&block);
        owner.log.push_event(block.into(), None);
        assert_eq!(owner.append(&owner.batch(i as Seq)).await, Appended::Applied { stop: None });
    }
    owner.complete().await;
    let (text, end) = read_to_end(&*owner.open(0).await, 0).await;
    assert!(text == expected, "{} of {} bytes", text.len(), expected.len());
    assert_eq!(end.outcome, Outcome::Completed);
}

pub(super) async fn followers_with_different_cursors_do_not_disturb_each_other(
    build: impl AsyncFn(Duration) -> Fixture,
) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    owner.keep(&["a", "b", "c"]).await;
    let late = owner.open(3).await;
    let early = owner.open(0).await;
    let again = owner.open(1).await;
    owner.keep(&["d"]).await;
    drop(late);
    owner.complete().await;
    assert_eq!(read_to_end(&early, 0).await.0, "abcd");
    assert_eq!(read_to_end(&again, 1).await.0, "bcd");
}

pub(super) async fn a_stop_reaches_the_owner(build: impl AsyncFn(Duration) -> Fixture) {
    let fixture = build(LONG).await;
    let owner = Owner::start(&fixture).await;
    let asked = fixture.store.request_stop(&owner.record.id, Wish::Stop).await;
    if fixture.store.durability() == Durability::Held {
        // All turns are of this process, which stops them itself.
        assert_eq!(asked, Ok(StopRequested::NotRunning));
        return;
    }
    assert_eq!(asked, Ok(StopRequested::Told));
    let event = timeout(DEADLINE, fixture.store.next_event()).await;
    assert_eq!(event, Ok(StoreEvent::Stop(owner.record.id, Wish::Stop)));
    owner.push(&["a"]);
    assert_eq!(
        owner.append(&owner.batch(0)).await,
        Appended::Applied { stop: Some(Wish::Stop) },
        "in case the event is lost"
    );
    owner.complete().await;
    assert_eq!(fixture.store.request_stop(&owner.record.id, Wish::Stop).await, Ok(StopRequested::NotRunning));
}

/// The promises, kept by the memory store.
mod memory {
    use super::*;
    use crate::store::memory::MemoryStore;

    async fn build(retain_after_end: Duration) -> Fixture {
        let store = MemoryStore::new(retain_after_end, Budget::new(u64::MAX));
        Fixture { store, node: NodeId("here".into()), _guard: Box::new(()) }
    }

    conformance!(build);
}
