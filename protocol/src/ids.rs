//! The names of things: nodes, incarnations, clusters, terms and indexes.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

/// A leader's period of office. 0 is before any leader.
pub type Term = u64;

/// A position in the replicated log. The first entry has index 1; 0 means "nothing".
pub type Index = u64;

/// A client session, as the replicated state knows it.
pub type SessionId = u64;

/// The number of a request within its session.
pub type SequenceNumber = u64;

/// A replica's number, 1 to 63: chosen by the operator, unique in a cluster.
///
/// The bound lets a set of nodes be one machine word ([`NodeSet`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub struct NodeId(u8);

/// A number that cannot be a [`NodeId`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
#[error("a node id is a number from 1 to {max}, not {0}", max = NodeId::MAX.0)]
pub struct NodeIdError(u8);

impl NodeId {
    /// The highest id.
    pub const MAX: NodeId = NodeId(63);

    /// The id as a number.
    pub const fn get(self) -> u8 {
        self.0
    }
}

impl TryFrom<u8> for NodeId {
    type Error = NodeIdError;

    fn try_from(id: u8) -> Result<Self, NodeIdError> {
        if (1..=Self::MAX.0).contains(&id) { Ok(Self(id)) } else { Err(NodeIdError(id)) }
    }
}

impl From<NodeId> for u8 {
    fn from(id: NodeId) -> u8 {
        id.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A set of replicas: bit `id` is set when node `id` is a member.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub struct NodeSet(u64);

impl NodeSet {
    /// Bit 0 is nobody's; a set from the wire may have it.
    const VALID: u64 = !1;

    /// Adds a node.
    pub fn insert(&mut self, node: NodeId) {
        self.0 |= 1 << node.0;
    }

    /// Takes a node out.
    pub fn remove(&mut self, node: NodeId) {
        self.0 &= !(1 << node.0);
    }

    /// Whether a node is in the set.
    pub fn contains(self, node: NodeId) -> bool {
        self.0 & (1 << node.0) != 0
    }

    /// How many nodes are in the set.
    pub fn len(self) -> usize {
        (self.0 & Self::VALID).count_ones() as usize
    }

    /// Whether no node is in the set.
    pub fn is_empty(self) -> bool {
        self.0 & Self::VALID == 0
    }

    /// The nodes, lowest id first.
    pub fn iter(self) -> impl Iterator<Item = NodeId> {
        (1..=NodeId::MAX.0).map(NodeId).filter(move |node| self.contains(*node))
    }
}

impl FromIterator<NodeId> for NodeSet {
    fn from_iter<I: IntoIterator<Item = NodeId>>(nodes: I) -> Self {
        let mut set = Self::default();
        nodes.into_iter().for_each(|node| set.insert(node));
        set
    }
}

impl fmt::Debug for NodeSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.iter().map(NodeId::get)).finish()
    }
}

/// A random number made together with a data directory. (node, incarnation) is a replica's identity: the
/// same node id with an emptied disk is another incarnation, and promises of the old one do not bind it (R26).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Incarnation(pub u64);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A replica's identity: which node, with which data directory.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct Member {
    /// Its number.
    pub node: NodeId,
    /// Of its data directory.
    pub incarnation: Incarnation,
}

/// A hash of everything a cluster was formed with: name, settings and every (node, incarnation) (R26).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn node_ids_outside_their_range_are_refused() {
        assert_eq!(NodeId::try_from(0), Err(NodeIdError(0)));
        assert_eq!(NodeId::try_from(64), Err(NodeIdError(64)));
        assert_eq!(NodeId::try_from(63), Ok(NodeId::MAX));
    }

    #[test]
    fn a_node_set_holds_the_lowest_and_the_highest_id() {
        let set: NodeSet = [NodeId(1), NodeId::MAX].into_iter().collect();
        assert_eq!(set.iter().map(NodeId::get).collect::<Vec<_>>(), [1, 63]);
        assert!(!set.contains(NodeId(2)));
    }
}
