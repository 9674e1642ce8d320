use super::*;
use crate::turn::{
    Outcome, Position, Read,
    durability::{Appended, Finished},
};

const DEADLINE: Millis = 500;
const GIVE_UP: Millis = 60_000;

/// A turn whose claim and header the store has.
struct Turn {
    recorder: Recorder,
    log: Arc<Log>,
}

impl Turn {
    fn new(durability: Durability) -> Self {
        Self::gathering(durability, 0)
    }

    fn gathering(durability: Durability, window: Millis) -> Self {
        Self::speaking(&Silent, durability, window)
    }

    fn speaking(dialect: &'static dyn Dialect, durability: Durability, window: Millis) -> Self {
        let budget = Budget::new(u64::MAX);
        let log = Log::new(budget.clone(), matches!(durability, Durability::Acked { .. }));
        log.set_head(Arc::default());
        let limits = Limits {
            max_turn: Duration::MAX,
            max_silence: Duration::from_secs(600),
            detached: Detached::Expire(Duration::from_secs(5)),
            max_event: 1_000,
            max_turn_bytes: 10_000,
            give_up: Duration::from_millis(GIVE_UP),
            flush_window: Duration::from_millis(window),
        };
        let id = TurnId::new([1; 5], [2; 13]);
        let recorder = Recorder::new(id, log.clone(), budget, limits, durability, true, 0).speaking(dialect);
        let mut turn = Self { recorder, log };
        assert_eq!(turn.call(0), Some(StoreCall::SetHead));
        turn.reply(0, StoreReply::HeadSet);
        turn
    }

    fn acked() -> Self {
        Self::new(Durability::Acked { deadline: Duration::from_millis(DEADLINE) })
    }

    fn event(&mut self, now: Millis) {
        self.recorder.handle(now, Input::Chunk("data: x\n\n".into()));
    }

    fn says(&mut self, now: Millis, data: &str) {
        self.recorder.handle(now, Input::Chunk(format!("data: {data}\n\n").into()));
    }

    /// How the turn is to end, as far as it is decided.
    fn ends(&mut self, now: Millis) -> Option<(Outcome, String, bool)> {
        match self.call(now)? {
            StoreCall::Finish(end) => Some((end.outcome, end.reason.to_string(), end.is_clean())),
            other => panic!("{other:?} instead of an end"),
        }
    }

    fn call(&mut self, now: Millis) -> Option<StoreCall> {
        self.recorder.next_call(now)
    }

    /// The next call, which is to append the blocks behind the first to the second seq.
    #[track_caller]
    fn appends(&mut self, now: Millis, prev: Seq, last: Seq) {
        match self.call(now) {
            Some(StoreCall::Append(batch)) => assert_eq!((batch.prev, batch.last()), (prev, last)),
            other => panic!("{other:?} instead of an append"),
        }
    }

    fn reply(&mut self, now: Millis, reply: StoreReply) {
        self.recorder.handle(now, Input::Reply(reply));
    }

    fn applied(&mut self, now: Millis) {
        self.reply(now, StoreReply::Appended(Appended::Applied { stop: None }));
    }

    fn tick(&mut self, now: Millis) {
        self.recorder.handle(now, Input::Tick);
    }
}

#[test]
fn a_block_waits_from_its_arrival_not_from_its_call() {
    let mut turn = Turn::acked();
    turn.event(0);
    turn.appends(0, 0, 1);
    turn.event(10);
    turn.applied(400);
    turn.appends(400, 1, 2);
    assert_eq!(turn.recorder.next_wake(), Some(10 + DEADLINE));
    turn.tick(10 + DEADLINE);
    assert_eq!((turn.log.shown(), turn.recorder.degraded()), (2, true));
}

#[test]
fn a_lost_acknowledgement_leaves_nothing_waiting() {
    let mut turn = Turn::acked();
    turn.event(0);
    turn.appends(0, 0, 1);
    turn.reply(20, StoreReply::Unavailable);
    turn.appends(70, 0, 1);
    turn.reply(80, StoreReply::Appended(Appended::At(1)));
    assert_eq!((turn.recorder.durable(), turn.log.shown()), (1, 1));
    assert_eq!(turn.call(80), None);
    turn.tick(10_000);
    assert!(!turn.recorder.degraded());
    assert_eq!(turn.recorder.take_notices(), []);
}

#[test]
fn a_store_that_forgets_again_and_again_is_asked_with_pauses() {
    let mut turn = Turn::acked();
    let mut now = 0;
    turn.event(now);
    let mut rounds = 0;
    while now < 10_000 {
        rounds += 1;
        match turn.call(now) {
            Some(StoreCall::Start) => turn.reply(now, StoreReply::Started),
            Some(StoreCall::SetHead) => turn.reply(now, StoreReply::HeadSet),
            Some(StoreCall::Append(_)) => turn.reply(now, StoreReply::Appended(Appended::Gone)),
            Some(StoreCall::Finish(_)) => panic!("it runs"),
            None => {
                now = turn.recorder.next_wake().unwrap();
                turn.tick(now);
            }
        }
    }
    assert!(rounds < 120, "{rounds} rounds in 10 s");
    assert_eq!(turn.log.shown(), 1, "followers do not wait for it");
}

#[test]
fn a_store_that_contradicts_itself_is_asked_with_pauses() {
    let mut turn = Turn::acked();
    turn.event(0);
    turn.appends(0, 0, 1);
    turn.reply(1, StoreReply::Appended(Appended::At(0)));
    assert_eq!(turn.call(1), None);
    turn.appends(51, 0, 1);
}

#[test]
fn forgotten_blocks_are_written_again() {
    let mut turn = Turn::acked();
    for _ in 0..3 {
        turn.event(0);
    }
    turn.appends(0, 0, 3);
    turn.applied(1);
    turn.event(2);
    turn.appends(2, 3, 4);
    turn.reply(3, StoreReply::Appended(Appended::At(1)));
    turn.appends(53, 1, 4);
    turn.applied(54);
    assert_eq!(turn.recorder.take_notices(), [Notice::Repairing { blocks: 2 }]);
    assert_eq!((turn.recorder.durable(), turn.log.shown()), (4, 4));
}

#[test]
fn the_degraded_state_ends_when_the_store_has_what_was_shown() {
    let mut turn = Turn::acked();
    turn.event(0);
    turn.appends(0, 0, 1);
    turn.tick(DEADLINE);
    turn.reply(600, StoreReply::Unavailable);
    turn.event(610);
    assert_eq!(turn.log.shown(), 2, "from memory");
    turn.appends(650, 0, 2);
    turn.event(651);
    assert_eq!(turn.log.shown(), 3);
    turn.applied(652);
    assert!(turn.recorder.degraded(), "block 3 was shown, and the store lacks it");
    turn.event(653);
    assert_eq!(turn.log.shown(), 3, "so that it can catch up");
    turn.appends(653, 2, 4);
    turn.applied(654);
    assert_eq!((turn.recorder.degraded(), turn.log.shown()), (false, 4));
    assert_eq!(turn.recorder.take_notices(), [Notice::Degraded, Notice::Restored]);
}

#[test]
fn catching_up_makes_nobody_wait_longer_than_the_deadline() {
    let mut turn = Turn::acked();
    turn.event(0);
    turn.appends(0, 0, 1);
    turn.tick(DEADLINE);
    turn.reply(600, StoreReply::Unavailable);
    turn.appends(650, 0, 1);
    turn.event(651);
    turn.applied(652);
    turn.event(653);
    turn.appends(653, 1, 3);
    assert_eq!(turn.log.shown(), 2);
    assert_eq!(turn.recorder.next_wake(), Some(651 + DEADLINE));
    turn.tick(651 + DEADLINE);
    assert_eq!(turn.log.shown(), 3);
    assert_eq!(turn.recorder.take_notices(), [Notice::Degraded]);
}

#[test]
fn a_slow_reply_does_not_end_the_degraded_state() {
    let mut turn = Turn::acked();
    turn.event(0);
    turn.appends(0, 0, 1);
    turn.tick(DEADLINE);
    turn.applied(DEADLINE + 100);
    assert!(turn.recorder.degraded());
    turn.event(700);
    assert_eq!(turn.log.shown(), 2, "the next block does not wait");
    turn.appends(700, 1, 2);
    turn.applied(701);
    assert!(!turn.recorder.degraded());
}

#[test]
fn the_end_is_not_hidden_by_calls_before_it() {
    let mut turn = Turn::acked();
    turn.event(0);
    turn.appends(0, 0, 1);
    turn.recorder.handle(100, Input::Eof);
    turn.applied(450);
    assert!(matches!(turn.call(450), Some(StoreCall::Finish(_))));
    turn.tick(100 + DEADLINE);
    assert_eq!(turn.log.ended().unwrap().outcome, Outcome::Completed);
    turn.reply(700, StoreReply::Finished(Finished::Applied));
    assert!(turn.recorder.done());
    assert_eq!(turn.recorder.take_notices(), [Notice::Degraded, Notice::Restored]);
}

#[test]
fn a_limit_that_ends_a_degraded_turn_is_shown_at_once() {
    let mut turn = Turn::acked();
    turn.event(0);
    turn.appends(0, 0, 1);
    turn.tick(DEADLINE);
    turn.recorder.handle(1_000, Input::Followed(false));
    turn.tick(6_000);
    assert_eq!(turn.log.ended().unwrap().outcome, Outcome::Expired);
}

#[test]
fn giving_up_needs_no_degraded_state() {
    let mut turn = Turn::new(Durability::Held);
    turn.recorder.handle(5, Input::Eof);
    assert!(matches!(turn.call(5), Some(StoreCall::Finish(_))));
    assert_eq!(turn.recorder.next_wake(), Some(5 + GIVE_UP));
    turn.tick(5 + GIVE_UP);
    assert!(turn.recorder.done(), "else its driver would spin");
    assert!(turn.log.ended().is_some());
    assert!(turn.recorder.take_notices().contains(&Notice::Abandoned));
}

#[test]
fn blocks_that_the_store_refused_are_not_shown() {
    for reply in [Appended::Fenced, Appended::At(9)] {
        let mut turn = Turn::acked();
        turn.event(0);
        turn.appends(0, 0, 1);
        turn.applied(1);
        turn.event(2);
        turn.appends(2, 1, 2);
        turn.reply(3, StoreReply::Appended(reply));
        assert!(turn.recorder.done() && !turn.recorder.wants_upstream());
        assert_eq!(turn.recorder.take_notices(), [Notice::Fenced]);
        assert_eq!((turn.call(60_000), turn.recorder.next_wake()), (None, None));
        let mut position = Position::after(0);
        assert!(matches!(turn.log.read(&mut position, usize::MAX, 9), Read::Data(_)));
        assert_eq!(position.seq(), 1);
        let Read::End(end) = turn.log.read(&mut position, usize::MAX, 9) else { panic!("it goes on") };
        assert_eq!(end.outcome, Outcome::Interrupted);
    }
}

#[test]
fn the_stores_earlier_end_wins() {
    let mut turn = Turn::new(Durability::Behind);
    turn.recorder.handle(0, Input::Stop(Outcome::Superseded, "superseded"));
    turn.call(0);
    let earlier = End { outcome: Outcome::Cancelled, reason: "stop".into(), at: 0 };
    turn.reply(1, StoreReply::Finished(Finished::Already(earlier.clone())));
    assert_eq!(turn.log.ended(), Some(earlier));
}

#[test]
fn what_comes_after_a_cap_passes_on_unrecorded() {
    let mut turn = Turn::new(Durability::Behind);
    turn.event(0);
    let large = format!("data: {}", "x".repeat(2_000));
    turn.recorder.handle(1, Input::Chunk(large.clone().into()));
    turn.recorder.handle(2, Input::Chunk("\n\ndata: y\n\n".into()));
    turn.recorder.handle(3, Input::Eof);
    assert_eq!((turn.log.capped(), turn.log.last()), (Some(Cap::MaxEvent), 1));
    let mut position = Position::after(1);
    let Read::Data(pieces) = turn.log.read(&mut position, 1, 1) else { panic!("nothing passed") };
    assert_eq!(pieces.concat(), format!("{large}\n\ndata: y\n\n").as_bytes());
    assert_eq!(turn.recorder.take_notices(), [Notice::Capped(Cap::MaxEvent)]);
}

#[test]
fn the_last_blocks_of_a_degraded_turn_count_as_restored_with_the_end() {
    let mut turn = Turn::acked();
    turn.event(0);
    turn.appends(0, 0, 1);
    turn.tick(DEADLINE);
    turn.reply(600, StoreReply::Unavailable);
    turn.recorder.handle(620, Input::Eof);
    assert!(turn.log.ended().is_some(), "nobody waits for a store that is away");
    turn.appends(650, 0, 1);
    turn.applied(1_000);
    assert!(matches!(turn.call(1_000), Some(StoreCall::Finish(_))));
    turn.tick(620 + DEADLINE);
    turn.reply(1_200, StoreReply::Finished(Finished::Applied));
    assert_eq!(turn.recorder.take_notices(), [Notice::Degraded, Notice::Restored]);
}

#[test]
fn blocks_are_gathered_for_the_flush_window_and_written_at_once_when_the_turn_ends() {
    let mut turn = Turn::gathering(Durability::Acked { deadline: Duration::from_millis(DEADLINE) }, 200);
    turn.event(1_000);
    turn.event(1_150);
    assert_eq!(turn.call(1_199), None);
    assert_eq!(turn.recorder.next_wake(), Some(1_200));
    let Some(StoreCall::Append(batch)) = turn.call(1_200) else { panic!("the window is over") };
    assert_eq!(batch.last(), 2);
    turn.reply(1_201, StoreReply::Appended(Appended::Applied { stop: None }));
    turn.event(1_300);
    turn.recorder.handle(1_310, Input::Eof);
    assert!(matches!(turn.call(1_310), Some(StoreCall::Append(_))), "nothing more comes that could be gathered");
}

/// `error` and `finish` say how it went, `done` that nothing follows.
#[derive(Debug)]
struct Words;

impl Dialect for Words {
    fn terminal(&self, event: &crate::sse::Message<'_>) -> Option<Terminal> {
        match event.data() {
            b"error" => Some(Terminal::soft(Outcome::Failed)),
            b"finish" => Some(Terminal::soft(Outcome::Completed)),
            b"done" => Some(Terminal::DONE),
            _ => None,
        }
    }
}

/// A turn in which these events came, one each millisecond.
fn after(events: &[&str]) -> Turn {
    let mut turn = Turn::speaking(&Words, Durability::Held, 0);
    for (now, event) in (0..).zip(events) {
        turn.says(now, event);
    }
    turn
}

const SILENCE: Millis = LINGER + 10;

#[test]
fn the_last_events_say_how_a_turn_ended() {
    let ends = |events: &[&str], input| {
        let mut turn = after(events);
        turn.recorder.handle(10, input);
        turn.ends(10).map(|(outcome, reason, clean)| (outcome, reason.leak() as &str, clean))
    };
    let broken = || Input::Broken("upstream_reset".into());
    let completed = |reason| Some((Outcome::Completed, reason, true));
    assert_eq!(ends(&["a"], Input::Eof), completed("eof"));
    assert_eq!(ends(&["a", "finish", "usage", "done"], Input::Eof), completed("eof"));
    // What the backend reported and then ended properly is no broken answer.
    assert_eq!(ends(&["a", "error"], Input::Eof), Some((Outcome::Failed, "error_event", true)));
    assert_eq!(ends(&["a", "error", "done"], Input::Eof), Some((Outcome::Failed, "error_event", true)));
    // The newest word counts.
    assert_eq!(ends(&["error", "finish"], Input::Eof), completed("eof"));
    assert_eq!(ends(&["a", "finish", "done"], broken()), completed("last_event"));
    assert_eq!(ends(&["a", "error", "done"], broken()), Some((Outcome::Failed, "error_event", true)));
    // More might have followed.
    assert_eq!(ends(&["a", "finish"], broken()), Some((Outcome::Failed, "upstream_reset", false)));
    // Said too long ago to be about the end.
    assert_eq!(ends(&["error", "a", "b", "c", "d"], Input::Eof), completed("eof"));
}

#[test]
fn silence_behind_the_last_event_is_the_end() {
    let mut turn = after(&["a", "done"]);
    assert_eq!(turn.recorder.next_wake(), Some(1 + LINGER));
    turn.tick(LINGER);
    assert_eq!(turn.ends(LINGER), None);
    turn.tick(SILENCE);
    assert_eq!(turn.ends(SILENCE), Some((Outcome::Completed, "last_event".into(), true)));
}

#[test]
fn silence_in_the_middle_is_asked_about_once() {
    let mut turn = after(&["a", "finish"]);
    turn.tick(SILENCE);
    assert_eq!(turn.ends(SILENCE), None);
    assert!(turn.recorder.next_wake().unwrap() > SILENCE + LINGER);
    turn.says(SILENCE, "done");
    assert_eq!(turn.recorder.next_wake(), Some(SILENCE + LINGER));
}

#[test]
fn a_backend_that_agreed_to_stop_may_end_in_its_own_words() {
    for input in [Input::Eof, Input::Broken("upstream_closed".into())] {
        let mut turn = after(&["a"]);
        turn.recorder.handle(10, Input::StopSoon);
        assert!(turn.recorder.wants_upstream());
        turn.says(20, "stopped at your wish");
        turn.recorder.handle(30, input);
        assert_eq!(turn.ends(30), Some((Outcome::Cancelled, "stop".into(), true)));
        assert_eq!(turn.log.last(), 2);
    }
}

#[test]
fn a_backend_that_agreed_to_stop_and_does_not_is_left() {
    let mut turn = after(&["a"]);
    turn.recorder.handle(10, Input::StopSoon);
    turn.recorder.handle(2_000, Input::StopSoon);
    for now in [1_000, 3_000, 5_000] {
        turn.says(now, "more");
    }
    assert!(turn.recorder.wants_upstream());
    turn.says(10 + STOP_GRACE, "more");
    assert_eq!(turn.ends(10 + STOP_GRACE), Some((Outcome::Cancelled, "stop".into(), true)));
    assert!(!turn.recorder.wants_upstream());
}
