//! One turn per start: when a request is a retry of a start that is known already (`docs/http.md`, "Retried starts").
//!
//! Who re-sends a POST, and how to tell, was observed with real clients: some name the start
//! (`Idempotency-Key`), some count their tries (`x-stainless-retry-count`), and browsers re-send silently when a reused
//! connection dies. Only for the last the request bodies must speak, so the rule is narrow: two tabs with equal prompts
//! stay two turns.

use std::time::Duration;

use super::record::{Digest, Millis};

/// What a start can be recognised by. The digests are keyed hashes over principal, method, path and the named value, so
/// that nobody's start is attached to anybody else's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// The client named the start itself.
    pub idempotency: Option<Digest>,
    /// Hash of the whole body, where it was read before the request went upstream.
    pub body: Option<Digest>,
    /// The client says that it tries again.
    pub retry: bool,
}

/// The rule that recognised a retried start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Same `Idempotency-Key`.
    IdempotencyKey,
    /// `x-stainless-retry-count` ≥ 1 and the same body.
    RetryCount,
    /// Same body, and the earlier request lost its client before or right after its response header.
    LostClient,
    /// The route's `concurrent = "attach"`.
    Session,
}

impl Rule {
    /// The name in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::IdempotencyKey => "idempotency_key",
            Self::RetryCount => "retry_count",
            Self::LostClient => "lost_client",
            Self::Session => "session",
        }
    }
}

/// How long a start can be recognised by its body. SDKs wait up to some tens of seconds between tries.
pub const BODY_REMEMBERED: Duration = Duration::from_secs(60);

/// How long a start whose client was lost waits for the silent second try.
pub const LOST_REMEMBERED: Duration = Duration::from_secs(5);

/// A client lost later than this after its response header has seen it: no browser re-sends after that.
pub const HEADER_GRACE: Duration = Duration::from_secs(1);

/// How long a start is held that looks like a silent second try: it may arrive before the first connection is seen to
/// be dead.
pub const HOLD: Duration = Duration::from_millis(150);

/// Whether losing the client now makes its start a candidate for [`Rule::LostClient`].
pub fn counts_as_lost(now: Millis, header_written: Option<Millis>) -> bool {
    header_written.is_none_or(|at| now < at + HEADER_GRACE.as_millis() as Millis)
}

/// Whether an identical start may be the silent second try of one admitted at `started_at`, whose client is not known
/// to be lost (yet).
pub fn may_be_silent_retry(now: Millis, started_at: Millis) -> bool {
    now < started_at + LOST_REMEMBERED.as_millis() as Millis
}
