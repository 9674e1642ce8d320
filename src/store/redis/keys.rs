//! The names of all keys and channels.
//!
//! | key | type | content | kept for |
//! |---|---|---|---|
//! | `P:{tag}:<turn>:m` | hash | what is known of the turn ([`super::meta`]) | longest turn + retention; at the end: retention |
//! | `P:{tag}:<turn>:s` | stream | `0-1` as header, then one entry `<last seq>-<blocks>` per batch | the same |
//! | `P:{tag}:x:<session>` | hash | `run`, the running turn; `last`, the newest; `since`, when that one was started | the same |
//! | `P:k:<key>` | string | a note: a turn | its own time |
//! | `P:secret` | string | the secret all nodes share | for ever |
//! | `P:n:<node>` | string | sign of life | the lease |
//! | `P:m:{<tag>}:<node>` | string | the node's mark at a server of a cluster that does not have its sign of life | the same |
//! | `P:n:<node>:t` | set | the node's running turns; may name ended ones | until the node is reaped |
//! | `P:nodes` | sorted set | all nodes, by their last beat | until the node is reaped |
//! | `P:reap:<node>` | string | who ends a dead node's turns | the lease |
//! | `P:c:<node>` | channel | the node's inbox ([`super::message`]) | |
//!
//! `tag` is the turn's slot tag. The session's key begins with the same bits, so one script reaches turn and session in a
//! cluster.

use data_encoding::HEXLOWER;

use crate::{
    sse::TurnId,
    turn::{Digest, NodeId},
};

/// Makes names under one prefix.
#[derive(Debug)]
pub(super) struct Keys {
    prefix: String,
}

impl Keys {
    pub(super) fn new(prefix: String) -> Self {
        Self { prefix }
    }

    pub(super) fn meta(&self, id: &TurnId) -> String {
        format!("{}:{{{}}}:{id}:m", self.prefix, id.slot_tag())
    }

    pub(super) fn blocks(&self, id: &TurnId) -> String {
        format!("{}:{{{}}}:{id}:s", self.prefix, id.slot_tag())
    }

    pub(super) fn session(&self, key: &Digest) -> String {
        let tag: [u8; 5] = key[..5].try_into().expect("a digest has more than 5 bytes");
        let slot = TurnId::new(tag, [0; 13]);
        format!("{}:{{{}}}:x:{}", self.prefix, slot.slot_tag(), HEXLOWER.encode(key))
    }

    /// The keys of the scripts that may move the session's pointer. Without a session, the turn's own key stands in, so
    /// that all keys are of one slot.
    pub(super) fn turn_and_session(&self, id: &TurnId, session: Option<&Digest>) -> [String; 3] {
        let meta = self.meta(id);
        let session = session.map_or_else(|| meta.clone(), |key| self.session(key));
        [meta, self.blocks(id), session]
    }

    pub(super) fn note(&self, key: &Digest) -> String {
        format!("{}:k:{}", self.prefix, HEXLOWER.encode(key))
    }

    pub(super) fn secret(&self) -> String {
        format!("{}:secret", self.prefix)
    }

    pub(super) fn node(&self, node: &NodeId) -> String {
        format!("{}:n:{node}", self.prefix)
    }

    /// The tag decides which server of a cluster it is at.
    pub(super) fn mark(&self, tag: u32, node: &NodeId) -> String {
        format!("{}:m:{{{tag}}}:{node}", self.prefix)
    }

    pub(super) fn turns_of(&self, node: &NodeId) -> String {
        format!("{}:n:{node}:t", self.prefix)
    }

    pub(super) fn nodes(&self) -> String {
        format!("{}:nodes", self.prefix)
    }

    pub(super) fn reaper(&self, node: &NodeId) -> String {
        format!("{}:reap:{node}", self.prefix)
    }

    pub(super) fn inbox(&self, node: &NodeId) -> String {
        format!("{}:c:{node}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_a_turn_and_its_session_share_the_slot_tag() {
        let session: Digest = std::array::from_fn(|i| i as u8 ^ 0xa5);
        let id = TurnId::new(session[..5].try_into().unwrap(), [3; 13]);
        let keys = Keys::new("p".into());
        let tag = format!("p:{{{}}}:", id.slot_tag());
        for key in keys.turn_and_session(&id, Some(&session)) {
            assert!(key.starts_with(&tag), "{key}");
        }
        assert_eq!(keys.turn_and_session(&id, None), [keys.meta(&id), keys.blocks(&id), keys.meta(&id)]);
    }
}
