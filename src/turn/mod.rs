//! The turn itself: one recorded upstream response, from request to terminal state.
//!
//! Nothing here has a socket, a clock or a random source: time and ids come in as arguments, stores and upstreams are
//! inputs and outputs of state machines, so that a seeded simulation can drive all of it. `LIFECYCLE.md` beside this file
//! has the diagram.
//!
//! * [`Log`]: the recorded blocks, the only source for live delivery and for replay.
//! * [`Recorder`]: what happens to a turn: bytes, stops, limits, and what the store must be told.
//! * [`Dialect`]: what the last events say of the end.
//! * [`durability`]: how far the store has followed the log.
//! * [`admission`]: when a request is a retry of a start that already runs.

pub mod admission;
mod dialect;
pub mod durability;
mod log;
#[cfg(test)]
mod model;
mod record;
mod recorder;
#[cfg(test)]
mod simulation;

pub use dialect::{Dialect, Rewrite, RewriteBlock, Terminal, terminal};
pub use durability::{Notice, StoreCall, StoreReply};
pub use log::{Batch, Block, Budget, Log, Position, Read, Watcher};
pub use record::{Cap, Digest, End, Epoch, Head, Millis, NodeId, Outcome, Session, TurnRecord, Wish};
pub use recorder::{Detached, Input, Limits, Recorder};
