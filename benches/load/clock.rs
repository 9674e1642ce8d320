//! One clock for the backend, which stamps events, and the client, which subtracts.

use std::{sync::LazyLock, time::Instant};

static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// Nanoseconds since the first call.
pub(crate) fn now() -> u64 {
    START.elapsed().as_nanos() as u64
}
