//! Server-sent events as bytes: splitting, stamping, event ids, cursors. No I/O, no clock.
//!
//! A [`Stamper`] takes the bytes of an upstream response in any pieces and gives back whole events with Holdover's own
//! id as their last line. A parser reads from its output what it would have read from the upstream, but for the ids.

mod cursor;
mod id;
mod message;
#[cfg(test)]
mod properties;
mod retry;
mod split;
mod stamp;
#[cfg(test)]
mod whatwg;

pub use cursor::Cursor;
pub use id::{EventId, NotOurs, Seq, TurnId};
pub use message::{Message, with_data};
pub use retry::{has_retry, with_retry};
pub use stamp::{Event, Piece, Stamper, TooLong, without_ids};
