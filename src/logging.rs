//! What is written to standard error.
//!
//! ERROR: data was lost or an operator must act. WARN: unexpected, and recovered from. INFO: what an operator wants to see
//! of a healthy process. Nothing at any level holds bodies, queries, secrets or full ids.

use std::io::{IsTerminal as _, stderr};

use tracing_subscriber::{EnvFilter, filter::ParseError};

use crate::config::{Log, LogFormat};

/// Pingora writes ERROR for every client that leaves; what matters of its errors is logged by `proxy`.
const QUIET: &str = "pingora_core=off,pingora_proxy=off,pingora_load_balancing=off";

/// Starts logging for this process, once. The level was checked with the configuration.
pub fn start(log: &Log) -> Result<(), ParseError> {
    let filter = if log.level.contains("pingora") { log.level.clone() } else { format!("{},{QUIET}", log.level) };
    let filter = EnvFilter::builder().parse(filter)?;
    let terminal = stderr().is_terminal();
    let json = match log.format {
        LogFormat::Json => true,
        LogFormat::Text => false,
        LogFormat::Auto => !terminal,
    };
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(stderr).with_target(false);
    // A second start (in tests) keeps the first.
    let _ = if json { lines.json().flatten_event(true).try_init() } else { lines.with_ansi(terminal).try_init() };
    Ok(())
}
