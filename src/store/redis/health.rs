//! What the operator is told of Redis.

use super::{Inner, connection::Status};
use crate::store::Health;

impl Inner {
    /// Whether turns can be stored now, and what to do if not.
    pub(super) async fn health(&self) -> Health {
        let name = self.link.name();
        let status = self.link.status().borrow().clone();
        let lacking = match status {
            Status::Up { lacking, .. } => lacking,
            Status::Down(why) => {
                let detail = format!("Redis at {name} cannot be used: {why}. Running turns go on from memory.");
                return Health { ok: false, detail };
            }
        };
        if let Some(why) = lacking {
            let detail = format!("A part of the cluster at {name} cannot be used: {why}. Its turns go on from memory.");
            return Health { ok: false, detail };
        }
        let infos = match self.link.infos().await {
            Ok(infos) => infos,
            Err(error) => return Health { ok: false, detail: format!("Redis at {name} does not answer: {error}") },
        };
        let mut health = Health { ok: true, detail: String::new() };
        for (address, info) in &infos {
            let name = if self.link.servers.seeds().is_some() { address } else { name };
            if !health.detail.is_empty() {
                health.detail.push_str("; ");
            }
            health.detail.push_str(&format!("Redis {} at {name}", info.version));
            if let Some((used, limit)) = info.memory() {
                health.detail.push_str(&format!(", {used} of {limit} bytes in use"));
                if used >= limit {
                    health.ok = false;
                    health.detail.push_str(": it is full and refuses new blocks");
                } else if self.link.is_full(address) {
                    health.detail.push_str(": it is nearly full and is given no new turns");
                }
                if used >= limit || self.link.is_full(address) {
                    health.detail.push_str("; raise maxmemory or shorten store.retain_after_end");
                }
            }
            if let Some(warning) = info.warning() {
                health.detail.push_str(&format!("; {warning}"));
            }
        }
        health
    }
}
