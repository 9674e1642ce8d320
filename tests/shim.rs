//! The fetch shim: clients that do not resume by themselves, on connections that break.
//!
//! `clients/js` has tests of its own, against a scripted server; they are run here. What is tested here is the shim
//! between real things: libraries nobody here wrote, Chromium, Holdover. Each client reads one turn through a
//! [`FaultProxy`](crate::support::FaultProxy) that breaks its connection several times. The client must see exactly that
//! turn and no error, and the backend must have run one turn. `HOLDOVER_SEED=x` replays the cuts of a failure.

/// Libraries, and every way to put the shim in.
mod clients;
/// What the dialects look like.
mod dialects;
/// Files that Holdover serves, and files that are checked in.
mod files;
/// What a page does on purpose, or has done to it.
mod pages;
/// A backend, a Holdover, and what cuts in front of it.
mod stage;
