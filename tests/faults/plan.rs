//! Which faults, when, and for how long: all of it out of a seed.

use std::{fmt, time::Duration};

use super::{LEASE, deployment::Kind};
use crate::support::Random;

/// What is done to a deployment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Fault {
    /// SIGKILL of a node; another one takes its place.
    KillNode,
    /// SIGSTOP of a node, for less than the lease.
    PauseNode,
    /// SIGSTOP of a node, for longer than the lease.
    FreezeNode,
    /// SIGTERM of a node; another one takes its place at once.
    DrainNode,
    /// SIGKILL of a master. A lone one comes back empty, others are succeeded by a replica.
    KillMaster,
    /// SIGSTOP of a master, for less time than its watchers wait for it.
    PauseMaster,
    /// SIGSTOP of a master, until another one has succeeded it where there is one.
    FreezeMaster,
    /// SIGKILL of a replica; it comes back empty.
    KillReplica,
    /// SIGKILL of a sentinel.
    KillSentinel,
    /// A replica is detached, and succeeds its master without what that acknowledged meanwhile.
    LoseAcked,
    /// FLUSHALL.
    Flush,
    /// CLIENT KILL TYPE normal.
    DropCalls,
    /// CLIENT KILL TYPE pubsub.
    DropInboxes,
    /// Redis answers late.
    SlowLink,
    /// Nothing passes between a node and Redis.
    SilentLink,
    /// Connections between a node and Redis are reset, and so are new ones.
    CutLink,
    /// `maxmemory` is reached.
    Fill,
    /// The wall clock of Redis jumps, and jumps back.
    StoreClock,
    /// The wall clock of a node jumps, and jumps back.
    NodeClock,
    /// The cable between a node and Redis and the backend is pulled.
    PullBack,
    /// The cable between a node and its clients is pulled.
    PullFront,
}

impl Fault {
    /// All, by the names of the command line.
    pub(super) const ALL: [(Self, &str); 21] = [
        (Self::KillNode, "kill-node"),
        (Self::PauseNode, "pause-node"),
        (Self::FreezeNode, "freeze-node"),
        (Self::DrainNode, "drain-node"),
        (Self::KillMaster, "kill-master"),
        (Self::PauseMaster, "pause-master"),
        (Self::FreezeMaster, "freeze-master"),
        (Self::KillReplica, "kill-replica"),
        (Self::KillSentinel, "kill-sentinel"),
        (Self::LoseAcked, "lose-acked"),
        (Self::Flush, "flush"),
        (Self::DropCalls, "drop-calls"),
        (Self::DropInboxes, "drop-inboxes"),
        (Self::SlowLink, "slow-link"),
        (Self::SilentLink, "silent-link"),
        (Self::CutLink, "cut-link"),
        (Self::Fill, "fill"),
        (Self::StoreClock, "store-clock"),
        (Self::NodeClock, "node-clock"),
        (Self::PullBack, "pull-back"),
        (Self::PullFront, "pull-front"),
    ];

    /// Whether it can happen there.
    pub(super) fn fits(self, kind: Kind) -> bool {
        use Fault::*;
        match self {
            KillReplica | LoseAcked => kind != Kind::Single,
            KillSentinel => kind == Kind::Sentinel,
            SlowLink | SilentLink | CutLink | StoreClock | NodeClock | PullBack | PullFront => kind == Kind::Single,
            _ => true,
        }
    }

    /// How long it lasts, if nothing else ends it.
    fn lasting(self, random: &mut Random) -> Duration {
        let lease = LEASE.as_millis() as usize;
        let within = |random: &mut Random, from: usize, to: usize| from + random.below(to - from);
        Duration::from_millis(match self {
            Self::KillNode => within(random, 0, lease),
            Self::PauseNode => within(random, lease / 10, lease / 3),
            Self::FreezeNode => within(random, lease * 8 / 5, lease * 2),
            Self::PauseMaster => within(random, 100, 700),
            Self::FreezeMaster | Self::Fill | Self::SlowLink => within(random, 1000, 3000),
            Self::KillMaster => within(random, 0, 2000),
            Self::LoseAcked => within(random, 300, 900),
            Self::SilentLink | Self::CutLink => match random.below(2) {
                0 => within(random, 100, lease / 3),
                _ => within(random, lease, lease * 2),
            },
            Self::PullBack | Self::PullFront => within(random, lease / 3, lease * 3 / 2),
            Self::StoreClock | Self::NodeClock => within(random, 500, 2000),
            _ => within(random, 0, 500),
        } as u64)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (_, name) = Self::ALL.iter().find(|(fault, _)| fault == self).expect("all are in the list");
        f.write_str(name)
    }
}

/// A fault at its time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Blow {
    pub(super) fault: Fault,
    /// After the one before it was over.
    pub(super) after: Duration,
    pub(super) lasting: Duration,
    /// Whom it meets, and how: to be taken modulo something.
    pub(super) pick: usize,
}

impl Blow {
    fn new(fault: Fault, random: &mut Random) -> Self {
        let after = Duration::from_millis(300 + random.below(900) as u64);
        Self { fault, after, lasting: fault.lasting(random), pick: random.below(usize::MAX) }
    }

    /// How many seconds a clock jumps.
    pub(super) fn jump(&self) -> i64 {
        [-3600, -30, 20, 300, 3 * 3600][self.pick % 5]
    }

    /// By how much each direction is slower.
    pub(super) fn delay(&self) -> Duration {
        // Within the deadline of an append, beyond it, and beyond the deadline of a call.
        Duration::from_millis([60, 350, 700][self.pick % 3])
    }

    /// Whether turns may lose their owner, or an owner that lives its turns.
    fn takes_owners(&self) -> bool {
        use Fault::*;
        match self.fault {
            KillNode | FreezeNode | DrainNode => true,
            // One node alone: the others cannot know that it lives.
            SilentLink | CutLink | PullBack => self.lasting > LEASE / 2,
            _ => false,
        }
    }

    /// Whether Redis may forget what has ended.
    pub(super) fn forgets(&self, kind: Kind) -> bool {
        match self.fault {
            Fault::Flush => true,
            Fault::KillMaster => kind == Kind::Single,
            // Beyond all retention, there or back.
            Fault::StoreClock => self.jump().abs() > 600,
            _ => false,
        }
    }

    /// Whether nodes may go on from memory.
    fn keeps_waiting(&self) -> bool {
        use Fault::*;
        !matches!(
            self.fault,
            KillNode | PauseNode | FreezeNode | DrainNode | KillReplica | KillSentinel | NodeClock | PullFront
        )
    }
}

/// What the faults of a round excuse.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Excuses {
    /// A turn that is `interrupted`.
    pub(super) interrupted: bool,
    /// An ended turn that is unknown.
    pub(super) forgotten: bool,
    /// A turn that went on from memory and lost its owner: it lacks what it showed last.
    pub(super) cut_short: bool,
    /// An owner that lives, and does not know that its turns are lost.
    pub(super) zombies: bool,
    /// A turn that ran from memory alone when its owner was lost: nobody knows it.
    pub(super) unstored: bool,
}

/// Turns that run while something fails.
#[derive(Clone, Debug)]
pub(super) struct Round {
    pub(super) blows: Vec<Blow>,
    pub(super) excuses: Excuses,
    /// Whether Redis is there all the time and forgets nothing.
    pub(super) steady: bool,
}

impl Round {
    pub(super) fn of(kind: Kind, faults: &[Fault], random: &mut Random) -> Self {
        let blows: Vec<Blow> = faults.iter().map(|fault| Blow::new(*fault, random)).collect();
        let owners = blows.iter().any(Blow::takes_owners);
        let forgets = blows.iter().any(|blow| blow.forgets(kind));
        let excuses = Excuses {
            interrupted: owners,
            forgotten: forgets,
            cut_short: owners && (forgets || blows.iter().any(Blow::keeps_waiting)),
            unstored: owners && blows.iter().any(|b| b.keeps_waiting() && b.fault != Fault::Flush),
            zombies: blows.iter().any(|b| b.takes_owners() && !matches!(b.fault, Fault::KillNode | Fault::DrainNode)),
        };
        let steady = !forgets && !blows.iter().any(Blow::keeps_waiting);
        Self { blows, excuses, steady }
    }

    /// One to three faults of these.
    pub(super) fn any(kind: Kind, of: &[Fault], random: &mut Random) -> Self {
        let count = 1 + random.below(3);
        let faults: Vec<Fault> = (0..count).map(|_| of[random.below(of.len())]).collect();
        Self::of(kind, &faults, random)
    }

    /// How long it takes at least.
    pub(super) fn span(&self) -> Duration {
        self.blows.iter().map(|blow| blow.after + blow.lasting).sum()
    }
}

impl fmt::Display for Round {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, blow) in self.blows.iter().enumerate() {
            let then = if at > 0 { ", then " } else { "" };
            write!(f, "{then}{} {:?} after {:?}", blow.fault, blow.lasting, blow.after)?;
        }
        Ok(())
    }
}
