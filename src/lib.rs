//! Holdover: a reverse proxy that records every server-sent-event response as a *turn*, so that whoever reconnects gets
//! exactly what is missing.
//!
//! Operators put it in front of an existing chat or agent API without changing the backend. Each event of a recorded
//! response gets an id, the events go into a log (in memory or in Redis), the turn runs to its end although the browser
//! is gone, and any number of followers, on any node, read the log from wherever they stopped.
//!
//! # Layout
//!
//! Arrows point down; a module knows only what stands below it.
//!
//! | module | responsibility |
//! |---|---|
//! | [`cli`], [`app`] | command line; building and running the services, signals, drain |
//! | [`proxy`], [`admin`], [`demo`] | Pingora hooks and answers; health and metrics; a plain backend with a chat page |
//! | [`profile`], [`principal`] | how one family of clients resumes; who is asking |
//! | [`node`] | this process's live turns: recorder tasks, followers, starts, stops |
//! | [`store`] | [`store::TurnStore`] and its implementations: memory, Redis |
//! | [`turn`] | log, state machine, admission, durability: no I/O, no clock, no randomness |
//! | [`sse`] | bytes to blocks, stamping, event ids, cursors: no I/O, no clock |
//! | [`config`], [`metrics`], [`logging`] | what an operator sets; what an operator sees |
//! | [`listener`] | accepting connections |
//!
//! # The life of a turn
//!
//! A request comes in ([`proxy`]); a resume never starts a turn and is never forwarded. A start is admitted (principal,
//! limits, one turn per start), its session pointer is written, and the request goes upstream exactly once. If the answer
//! is `200 text/event-stream`, the recorder ([`node`]) splits and stamps its bytes ([`sse`]), appends them to the log
//! ([`turn`]) and has the store keep them ([`store`]). Every client, the first one too, is only a follower of that log.
//! Upstream EOF ends the log; the terminal state is written once, before followers see the end.

pub mod admin;
pub mod app;
pub mod cli;
pub mod config;
pub mod demo;
#[cfg(test)]
mod documents;
pub mod listener;
pub mod logging;
pub mod metrics;
pub mod node;
pub mod principal;
pub mod profile;
pub mod proxy;
pub mod sse;
pub mod store;
pub mod turn;
