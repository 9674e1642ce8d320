//! Bytes held by all logs of a node.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Bytes held by all logs of a node, against the operator's limit.
#[derive(Debug)]
pub struct Budget {
    used: AtomicU64,
    limit: u64,
}

/// What one log takes from a budget; given back when it is dropped.
#[derive(Debug)]
pub(super) struct Share {
    budget: Arc<Budget>,
    bytes: u64,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { used: AtomicU64::new(0), limit })
    }

    /// Bytes in use.
    pub fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit in bytes.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Whether `more` bytes would exceed the limit.
    pub fn exceeded_by(&self, more: u64) -> bool {
        self.used().saturating_add(more) > self.limit
    }
}

impl Share {
    pub(super) fn of(budget: Arc<Budget>) -> Self {
        Self { budget, bytes: 0 }
    }

    pub(super) fn take(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
        self.budget.used.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(super) fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes as u64;
        self.budget.used.fetch_sub(bytes as u64, Ordering::Relaxed);
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.budget.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
