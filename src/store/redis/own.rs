//! The turns this node owns, and which other nodes follow them. Nothing of their blocks is kept here.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, Weak},
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    sse::TurnId,
    turn::{Digest, Epoch, Log, NodeId, TurnRecord},
};

/// How long a watching node counts as such without saying so again.
const WATCHED_FOR: Duration = Duration::from_secs(10);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct OwnTurns {
    turns: Mutex<HashMap<TurnId, OwnTurn>>,
}

#[derive(Debug)]
struct OwnTurn {
    epoch: Epoch,
    session: Option<Digest>,
    /// What it was claimed with, once it is.
    claim: Option<TurnRecord>,
    /// Gone when nobody records the turn any more.
    log: Weak<Log>,
    /// Whether the node's set of turns has it.
    listed: bool,
    /// Who follows it, and until when that is believed.
    watchers: Vec<(NodeId, Instant)>,
}

impl OwnTurns {
    /// Notes a turn that is being claimed. Watchers it had stay.
    pub(super) fn insert(&self, record: &TurnRecord, log: &Arc<Log>) {
        let mut turns = self.lock();
        let watchers = turns.remove(&record.id).map(|turn| turn.watchers).unwrap_or_default();
        let session = record.session.as_ref().map(|session| session.key);
        let log = Arc::downgrade(log);
        turns.insert(
            record.id,
            OwnTurn { epoch: record.epoch.clone(), session, claim: None, log, listed: false, watchers },
        );
    }

    /// Notes that the store has taken a claim.
    pub(super) fn set_claimed(&self, record: &TurnRecord) {
        if let Some(turn) = self.lock().get_mut(&record.id) {
            turn.claim = Some(record.clone());
        }
    }

    /// What a turn was claimed with, if the store has taken it.
    pub(super) fn claim(&self, id: &TurnId) -> Option<TurnRecord> {
        self.lock().get(id)?.claim.clone()
    }

    /// The turns that are recorded, as they were claimed, and their logs.
    pub(super) fn claimed(&self) -> Vec<(TurnRecord, Arc<Log>)> {
        let turns = self.lock();
        turns.values().filter_map(|turn| Some((turn.claim.clone()?, turn.log.upgrade()?))).collect()
    }

    /// Forgets a turn; `None` if it is not of `epoch`. Returns who watched it.
    pub(super) fn remove(&self, id: &TurnId, epoch: &Epoch) -> Option<Vec<NodeId>> {
        let mut turns = self.lock();
        if turns.get(id)?.epoch != *epoch {
            return None;
        }
        let watchers = turns.remove(id)?.watchers;
        Some(watchers.into_iter().map(|(node, _)| node).collect())
    }

    pub(super) fn contains(&self, id: &TurnId) -> bool {
        self.lock().contains_key(id)
    }

    /// The session of a turn, if the turn is known here.
    pub(super) fn session(&self, id: &TurnId) -> Option<Option<Digest>> {
        self.lock().get(id).map(|turn| turn.session)
    }

    /// Notes that a node follows a turn. `false`: the turn is not of this node.
    pub(super) fn watched(&self, id: &TurnId, node: NodeId) -> bool {
        let mut turns = self.lock();
        let Some(turn) = turns.get_mut(id) else { return false };
        let until = Instant::now() + WATCHED_FOR;
        match turn.watchers.iter_mut().find(|(known, _)| *known == node) {
            Some((_, believed)) => *believed = until,
            None => turn.watchers.push((node, until)),
        }
        true
    }

    /// Who follows a turn now.
    pub(super) fn watchers(&self, id: &TurnId) -> Vec<NodeId> {
        let mut turns = self.lock();
        let Some(turn) = turns.get_mut(id) else { return Vec::new() };
        if !turn.watchers.is_empty() {
            let now = Instant::now();
            turn.watchers.retain(|(_, until)| *until > now);
        }
        turn.watchers.iter().map(|(node, _)| node.clone()).collect()
    }

    /// All turns.
    pub(super) fn ids(&self) -> Vec<TurnId> {
        self.lock().keys().copied().collect()
    }

    /// The turns that are missing in the node's set.
    pub(super) fn unlisted(&self) -> Vec<TurnId> {
        self.lock().iter().filter(|(_, turn)| !turn.listed).map(|(id, _)| *id).collect()
    }

    /// Notes that the node's set has these turns.
    pub(super) fn set_listed(&self, ids: &[TurnId]) {
        let mut turns = self.lock();
        for id in ids {
            if let Some(turn) = turns.get_mut(id) {
                turn.listed = true;
            }
        }
    }

    /// Notes that the node's set may have been lost.
    pub(super) fn unlist_all(&self) {
        self.lock().values_mut().for_each(|turn| turn.listed = false);
    }

    /// The turns whose log nobody holds any more although they have not ended.
    pub(super) fn abandoned(&self) -> Vec<(TurnId, Epoch)> {
        let turns = self.lock();
        let abandoned = turns.iter().filter(|(_, turn)| turn.log.strong_count() == 0);
        abandoned.map(|(id, turn)| (*id, turn.epoch.clone())).collect()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TurnId, OwnTurn>> {
        self.turns.lock().expect("no code panics while it holds this lock")
    }
}
