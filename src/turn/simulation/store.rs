//! A store as [`crate::store::TurnStore`] describes it, with the faults that real ones have.

use super::random::Random;
use crate::{
    sse::Seq,
    turn::{
        Block, End, Millis, Outcome, StoreCall, StoreReply, Wish,
        durability::{Appended, Durability, Finished},
    },
};

/// What is kept of the turn.
#[derive(Default)]
pub(super) struct Kept {
    pub(super) blocks: Vec<Block>,
    pub(super) head: bool,
    pub(super) end: Option<End>,
    /// Whether the turn is another owner's now.
    pub(super) taken_over: bool,
    stop: bool,
}

/// See the module.
pub(super) struct Store {
    pub(super) kept: Option<Kept>,
    durability: Durability,
    /// The most blocks it ever had.
    pub(super) most: Seq,
    /// No call is carried out before.
    pub(super) away_until: Millis,
    /// Calls of a hundred that fail, although the store is there.
    pub(super) flaky: u64,
    /// Longest usual reply.
    pub(super) latency: Millis,
}

/// A call on its way.
pub(super) struct Asked {
    pub(super) call: StoreCall,
    pub(super) replied_at: Millis,
    /// Carried out when sent; else it is when the reply is due.
    reply: Option<StoreReply>,
    fault: Option<Fault>,
}

#[derive(Clone, Copy)]
enum Fault {
    /// Not carried out.
    Refused,
    /// Carried out, but the reply is lost.
    Lost,
    Full,
}

impl Store {
    pub(super) fn new(durability: Durability, random: &mut Random) -> Self {
        let held = durability == Durability::Held;
        Self {
            kept: None,
            durability,
            most: 0,
            away_until: 0,
            flaky: if held { 0 } else { random.pick(&[0, 0, 5, 40]) },
            latency: if held { 0 } else { random.pick(&[0, 3, 40, 700]) },
        }
    }

    pub(super) fn ask(&mut self, now: Millis, call: StoreCall, last: Seq, random: &mut Random) -> Asked {
        let fault = random.chance(self.flaky).then(|| random.pick(&[Fault::Refused, Fault::Lost, Fault::Full]));
        let slow = if random.chance(2) { self.latency * 5 } else { self.latency };
        let mut asked = Asked { call, replied_at: now + random.within(0, slow), reply: None, fault };
        if random.chance(50) {
            asked.reply = Some(self.carry_out(now, &asked, last));
        }
        asked
    }

    /// The reply, which is due now.
    pub(super) fn reply(&mut self, now: Millis, asked: &mut Asked, last: Seq) -> StoreReply {
        asked.reply.take().unwrap_or_else(|| self.carry_out(now, asked, last))
    }

    fn carry_out(&mut self, now: Millis, asked: &Asked, last: Seq) -> StoreReply {
        if now < self.away_until {
            return StoreReply::Unavailable;
        }
        match asked.fault {
            None => self.obey(&asked.call, last),
            Some(Fault::Refused) => StoreReply::Unavailable,
            Some(Fault::Lost) => {
                self.obey(&asked.call, last);
                StoreReply::Unavailable
            }
            Some(Fault::Full) => match asked.call {
                StoreCall::Start | StoreCall::Append(_) => StoreReply::Full,
                StoreCall::SetHead | StoreCall::Finish(_) => self.obey(&asked.call, last),
            },
        }
    }

    fn obey(&mut self, call: &StoreCall, last: Seq) -> StoreReply {
        match (call, &mut self.kept) {
            (StoreCall::Start, None) => {
                self.kept = Some(Kept::default());
                StoreReply::Started
            }
            (StoreCall::Start, Some(kept)) if kept.taken_over || kept.end.is_some() => StoreReply::Fenced,
            (StoreCall::Start, Some(_)) => StoreReply::Started,
            (StoreCall::SetHead, kept) => {
                if let Some(kept) = kept.as_mut().filter(|kept| !kept.taken_over) {
                    kept.head = true;
                }
                StoreReply::HeadSet
            }
            (StoreCall::Append(_), None) => StoreReply::Appended(Appended::Gone),
            (StoreCall::Append(batch), Some(kept)) => StoreReply::Appended({
                if kept.taken_over || kept.end.is_some() {
                    Appended::Fenced
                } else if kept.blocks.len() as Seq != batch.prev {
                    Appended::At(kept.blocks.len() as Seq)
                } else {
                    kept.blocks.extend(batch.blocks.iter().cloned());
                    self.most = self.most.max(kept.blocks.len() as Seq);
                    Appended::Applied { stop: kept.stop.then_some(Wish::Stop) }
                }
            }),
            (StoreCall::Finish(_), None) => StoreReply::Finished(Finished::Gone),
            (StoreCall::Finish(end), Some(kept)) => StoreReply::Finished({
                if let Some(first) = &kept.end {
                    Finished::Already(first.clone())
                } else if kept.taken_over {
                    Finished::Gone
                } else if self.durability != Durability::Held && kept.blocks.len() as Seq != last {
                    Finished::At(kept.blocks.len() as Seq)
                } else {
                    kept.end = Some(end.clone());
                    Finished::Applied
                }
            }),
        }
    }

    /// Something happens to the store. `settling`: a finish is in flight, and what it wrote is not forgotten before it is
    /// heard of.
    pub(super) fn upset(&mut self, now: Millis, settling: bool, random: &mut Random) {
        if self.durability == Durability::Held {
            return;
        }
        let what = random.within(0, 9);
        let Some(kept) = &mut self.kept else { return };
        match what {
            0..4 => self.away_until = now + random.pick(&[30, 400, 2_000, 10_000]),
            4 | 5 if !settling => {
                let most = kept.blocks.len() as u64;
                kept.blocks.truncate(random.within(most - most.min(20), most) as usize);
                kept.end = None;
            }
            6 if !settling => self.kept = None,
            7 => kept.stop = true,
            8 if random.chance(30) => {
                kept.taken_over = true;
                if random.chance(70) {
                    let outcome = random.pick(&[Outcome::Interrupted, Outcome::Cancelled]);
                    kept.end.get_or_insert(End { outcome, reason: "owner_gone".into(), at: now });
                }
            }
            _ => self.flaky = random.pick(&[0, 10]),
        }
    }
}
