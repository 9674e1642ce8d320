//! The one clock of a node.

use std::time::{Duration, Instant, SystemTime};

use crate::turn::Millis;

/// Milliseconds since the Unix epoch that never run backwards: the wall clock is read once, at the start. A jump of the
/// wall clock moves no deadline.
#[derive(Debug)]
pub struct Clock {
    origin: Instant,
    origin_wall: Millis,
}

impl Clock {
    /// Reads the wall clock.
    pub fn start() -> Self {
        let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), origin_wall: wall.as_millis() as Millis }
    }

    /// Now.
    pub fn now(&self) -> Millis {
        self.origin_wall + self.origin.elapsed().as_millis() as Millis
    }

    /// The instant that `at` stands for.
    pub fn instant(&self, at: Millis) -> Instant {
        // A far-off deadline must not overflow the platform's instant.
        let ahead = at.saturating_sub(self.origin_wall).min(365 * 86_400_000);
        self.origin + Duration::from_millis(ahead)
    }
}
