//! Randomness that can be replayed.

use std::{
    hash::{BuildHasher as _, RandomState},
    thread,
};

/// SplitMix64: small, and every seed gives another sequence. If the test fails, its seed is printed.
pub(crate) struct Random {
    /// To be printed.
    seed: Option<u64>,
    state: u64,
}

impl Random {
    /// Of the seed in `HOLDOVER_SEED`, or of one that differs from run to run.
    pub(crate) fn any() -> Self {
        let replayed = std::env::var("HOLDOVER_SEED").ok().map(|seed| seed.parse().expect("HOLDOVER_SEED is a number"));
        let seed = replayed.unwrap_or_else(|| RandomState::new().hash_one(0) >> 32);
        Self { seed: Some(seed), state: seed }
    }

    /// Of this seed, whatever the environment says. Who gives it says how it is replayed.
    pub(crate) fn seeded(seed: u64) -> Self {
        Self { seed: None, state: seed }
    }

    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % limit as u64) as usize
    }

    /// One of two.
    pub(crate) fn toss(&mut self) -> bool {
        self.below(2) == 0
    }
}

impl Drop for Random {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(seed) = self.seed
        {
            eprintln!("--- replay it with HOLDOVER_SEED={seed}");
        }
    }
}
