//! Which slots Redis may have lost something of: those whose server has changed, and all of a server that has lost this
//! node's mark.
//!
//! A server that is emptied closes no connection. So this node leaves a mark at each: its sign of life at the one that has
//! it, a key of its own at every other one of a cluster.

use std::{
    collections::{HashMap, HashSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    keys::Keys,
    map::{Map, Outline},
};
use crate::turn::NodeId;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Doubts {
    /// When Redis was last looked at, and which connection led to which slots then.
    known: Option<(Instant, Outline)>,
    /// The marks that were seen, or made, by the number of the server's connection.
    marked: HashMap<u64, String>,
    /// First and last slots.
    slots: Vec<(u16, u16)>,
}

/// What has just been found out of a server.
#[derive(Debug)]
pub(super) struct Marked {
    /// The number of its connection.
    pub(super) number: u64,
    pub(super) key: String,
    /// Whether the mark was still there.
    pub(super) found: bool,
}

/// The slots that are in doubt now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Doubted(Vec<(u16, u16)>);

impl Doubts {
    /// Takes a look at all servers. Returns the connections whose server has been emptied: marks live for so long.
    pub(super) fn looked(&mut self, map: &Map, marks: Vec<Marked>, lease: Duration) -> HashSet<u64> {
        let lost: HashSet<u64> = marks
            .iter()
            .filter(|mark| !mark.found && self.marked.get(&mark.number) == Some(&mark.key))
            .map(|mark| mark.number)
            .collect();
        let now = map.outline();
        let mut late = false;
        if let Some((at, known)) = &self.known {
            late = at.elapsed() >= lease;
            for &(first, last, number) in now.parts() {
                if lost.contains(&number) || !known.led(first, last, number) {
                    self.slots.push((first, last));
                }
            }
        }
        self.marked.retain(|number, _| now.parts().iter().any(|(.., known)| known == number));
        self.marked.extend(marks.into_iter().map(|mark| (mark.number, mark.key)));
        self.known = Some((Instant::now(), now));
        // A node that stood still has let its marks expire.
        if late { HashSet::new() } else { lost }
    }

    /// What is in doubt, if anything is.
    pub(super) fn doubted(&self) -> Option<Doubted> {
        (!self.slots.is_empty()).then(|| Doubted(self.slots.clone()))
    }

    /// Nothing is any more.
    pub(super) fn clear(&mut self) {
        self.slots.clear();
    }
}

impl Doubted {
    pub(super) fn contains(&self, slot: u16) -> bool {
        self.0.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

/// This node's mark at each server that has slots, by the number of the connection. `known`: those of before, which are
/// kept while they are where they were.
pub(super) fn marks(map: &Map, keys: &Keys, node: &NodeId, known: &HashMap<u64, String>) -> HashMap<u64, String> {
    /// Enough for a server with a single slot, nearly always. One without a mark is not looked at.
    const TAGS: u32 = 1 << 16;
    let sign = keys.node(node);
    let at = |key: &str| map.server(key.as_bytes()).ok().map(|server| server.number);
    let numbers: HashSet<u64> = map.outline().parts().iter().map(|(.., number)| *number).collect();
    let mark = |number: u64| {
        let is_there = |key: &String| at(key) == Some(number);
        let tried = (0..TAGS).map(|tag| keys.mark(tag, node));
        let known = known.get(&number).cloned();
        [sign.clone()].into_iter().chain(known).chain(tried).find(is_there)
    };
    numbers.into_iter().filter_map(|number| Some((number, mark(number)?))).collect()
}
