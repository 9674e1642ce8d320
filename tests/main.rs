//! Black-box tests of the whole: the real binary between real sockets. This is their table of contents.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

/// Builders: the process, a scripted backend, raw clients, a proxy that cuts connections.
mod support;

/// The demo's page in a real browser.
mod browser;
/// A builder that misleads would make every test above it lie.
mod builders;
/// Real clients, cut at random.
mod clients;
/// What clients can do with a recorded turn, on any route.
mod contract;
/// Several nodes on one Redis.
mod distributed;
/// Whatever can fail, failing, while clients come and go.
mod faults;
/// In front of real frameworks.
mod frameworks;
/// Hostile requests: a clear error, nothing at the backend, and service as usual afterwards.
mod hygiene;
/// Who may resume.
mod identity;
/// What independent parsers make of stamped streams.
mod judges;
/// A turn from its start to its end, whoever leaves, breaks, stalls or stops on the way.
mod lifecycle;
/// Running it: command line, health, metrics, logs.
mod operations;
/// What is not recorded passes as through any good proxy.
mod passthrough;
/// Each family of clients with its real libraries.
mod profiles;
/// The fetch shim, under clients that do not resume by themselves.
mod shim;
