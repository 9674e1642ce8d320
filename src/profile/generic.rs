//! Clients that resume by the URL of their start and `Last-Event-ID`: EventSource and its kin.

use super::{Profile, Terminal};
use crate::{sse::Message, turn::Dialect};

/// See the module.
#[derive(Debug)]
pub(super) struct Generic;

impl Dialect for Generic {
    /// Only the end of the answer ends a turn whose dialect is not known.
    fn terminal(&self, _: &Message<'_>) -> Option<Terminal> {
        None
    }
}

impl Profile for Generic {
    fn name(&self) -> &'static str {
        "generic"
    }
}
