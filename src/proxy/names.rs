//! Notes the other names that a turn goes by, so that clients find it under the names they know.

use std::sync::Arc;

use super::Gateway;
use crate::{
    node::LiveTurn,
    principal::Principal,
    profile::Profile,
    sse::{Seq, TurnId},
};

/// How many of the first events may tell a name.
const FIRST: Seq = 8;

impl Gateway {
    /// Notes these names of a turn.
    pub(super) async fn note_names(
        &self,
        profile: &dyn Profile,
        names: Vec<String>,
        turn: &TurnId,
        principal: Option<&Principal>,
    ) {
        if !self.sessions_are_open_to(principal) {
            return;
        }
        for name in names {
            let key = self.name_key(profile, &name, principal);
            if let Err(error) = self.node.note(&key, turn, self.names_are_kept()).await {
                tracing::warn!(turn = turn.short(), %error, "a name of the turn is not stored: it is not found by it");
            }
        }
    }

    /// Looks for names in the first events of a turn, as they come.
    pub(super) fn watch_for_names(
        &self,
        profile: &'static dyn Profile,
        turn: &Arc<LiveTurn>,
        principal: Option<Principal>,
    ) {
        if !profile.names_in_events() {
            return;
        }
        let (gateway, turn) = (self.clone(), turn.clone());
        tokio::spawn(async move {
            let log = turn.log();
            let mut changed = log.subscribe();
            for seq in 1..=FIRST {
                while log.last() < seq {
                    if log.ended().is_some() {
                        return;
                    }
                    changed.changed().await;
                }
                if let Some(name) = log.message(seq, |event| profile.name_in(event)).flatten() {
                    let id = turn.admitted().id;
                    return gateway.note_names(profile, vec![name], &id, principal.as_ref()).await;
                }
            }
        });
    }

    /// As long as the turn itself may be kept.
    pub(super) fn names_are_kept(&self) -> std::time::Duration {
        let settings = self.settings.load();
        let longest = settings.routes.iter().map(|route| route.max_turn).max().unwrap_or_default();
        longest + settings.store.retain_after_end
    }
}
