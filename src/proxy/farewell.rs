//! The last words to a client whose turn was lost: an error event in its own dialect.

use bytes::Bytes;

use crate::{
    profile::{self, Loss},
    sse::{Message, TurnId},
    turn::{End, Log, Outcome},
};

/// What a follower that is there is told before its answer ends. `None`: its connection must break, since nothing it
/// understands can be said, or since it should come back: the turn broke at the backend, as it would have without us; another
/// node has it; or the backend can go on with it.
pub(super) fn said_at_once(turn: &TurnId, log: &Log, end: &End) -> Option<Bytes> {
    let lost_here = matches!(end.outcome, Outcome::Interrupted | Outcome::Expired);
    let head = log.head()?;
    let goes_on = profile::named(&head.profile).resumes_natively() && log.native_id(log.last()).is_some();
    let is_elsewhere = &*end.reason == "fenced";
    if !lost_here || goes_on || is_elsewhere || log.capped().is_some() {
        return None;
    }
    said_afterwards(turn, log, end)
}

/// What somebody is told who comes back to a turn that has ended and has all of it.
pub(super) fn said_afterwards(turn: &TurnId, log: &Log, end: &End) -> Option<Bytes> {
    let head = log.head()?;
    let profile = profile::named(&head.profile);
    if end.is_clean() {
        return log.message(log.last(), |last| profile.over(last)).flatten();
    }
    let first = log.first_block();
    let loss = Loss {
        outcome: end.outcome,
        message: match end.outcome {
            Outcome::Interrupted => "The answer was interrupted: the server that received it went away.",
            Outcome::Expired => "The answer was stopped: it took longer than is allowed.",
            _ => "The answer is not complete: the backend broke off.",
        },
        request_id: head.request_id.as_deref(),
        first: first.as_deref().and_then(Message::parse),
    };
    let event = profile.lost(&loss)?;
    if !profile.answers_loss() {
        return Some(event);
    }
    let id = format!("id: {turn}-{}\n\n", log.last() + 1);
    Some([event.strip_suffix(b"\n").unwrap_or(&event), id.as_bytes()].concat().into())
}
