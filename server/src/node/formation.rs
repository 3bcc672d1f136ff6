//! How a cluster forms, once (R26).
//!
//! Replicas introduce themselves in every handshake. A node that has met all m stores their incarnations and
//! says so; when all m have stored the same, the cluster has formed, and only then does anybody acknowledge
//! anything. Before that another incarnation of a member is refused. After it, it *joins*: it learns from the others
//! whom the cluster was formed with, and is no voting member until the log admits it (R27): an emptied disk cannot
//! come back as if it had kept its promises. As long as an incarnation is linked, no other of its node is let in, but
//! for the voting one: a process that is started with a number that is taken disturbs nobody.

use std::collections::BTreeMap;

use quorate_protocol::handshake::{HelloRefusal, NodeAddress, Origin, ReplicaIdentity};
use quorate_protocol::{ClusterId, Incarnation, Leadership, NodeId, NodeSet};

use crate::directory::Identity;

/// What a node knows of the replicas it is to form a cluster with.
#[derive(Debug)]
pub(super) struct Formation {
    nodes: NodeSet,
    identity: Identity,
    advertise: String,
    /// Milliseconds; 0 for no leases.
    lease_ms: u32,
    met: BTreeMap<NodeId, Incarnation>,
    /// Who has stored the same cluster, this node included.
    stored: NodeSet,
    /// Where clients reach the others, as they last said.
    addresses: BTreeMap<NodeId, String>,
}

impl Formation {
    /// Goes on from what the data directory says.
    pub(super) fn new(identity: Identity, nodes: NodeSet, advertise: String, lease_ms: u32) -> Self {
        let own = identity.node;
        let mut formation = Self {
            met: [(own, identity.incarnation)].into(),
            stored: identity.cluster_id().map(|_| own).into_iter().collect(),
            addresses: [(own, advertise.clone())].into(),
            nodes,
            identity,
            advertise,
            lease_ms,
        };
        formation.conclude();
        formation
    }

    /// What is to be on disk.
    pub(super) fn identity(&self) -> &Identity {
        &self.identity
    }

    /// Whether all replicas have stored the same cluster.
    pub(super) fn is_formed(&self) -> bool {
        self.identity.formed
    }

    /// Who is missing, for an operator: replicas not met, or that have not stored the cluster yet.
    pub(super) fn missing(&self) -> NodeSet {
        let is_here = |node: &NodeId| match self.identity.members.is_empty() {
            true => self.met.contains_key(node),
            false => self.stored.contains(*node),
        };
        self.nodes.iter().filter(|node| !is_here(node)).collect()
    }

    /// Where clients reach a node, if it has said so.
    /// Where clients reach the replicas that this node has met, and itself.
    pub(super) fn node_addresses(&self) -> Vec<NodeAddress> {
        let known = self.addresses.iter().filter(|(_, address)| !address.is_empty());
        known.map(|(node, address)| NodeAddress { node: *node, address: address.clone() }).collect()
    }

    pub(super) fn address(&self, node: NodeId) -> Option<&str> {
        self.addresses.get(&node).map(String::as_str)
    }

    /// How this node introduces itself.
    pub(super) fn introduction(&self) -> ReplicaIdentity {
        ReplicaIdentity {
            node: self.identity.node,
            incarnation: self.identity.incarnation,
            quorums: self.identity.quorums,
            leadership: self.identity.leadership,
            durability: self.identity.durability,
            lease_ms: self.lease_ms,
            origin: self.identity.origin,
            stored: self.identity.cluster_id(),
            founders: self.identity.founders(),
            formed: self.identity.formed,
            advertise: self.advertise.clone(),
        }
    }

    /// Checks another replica's introduction, and learns from it. `has_place` says whether it may be linked now, as
    /// whom it says it is. Returns whether the identity has changed and must be stored.
    pub(super) fn meet(&mut self, peer: &ReplicaIdentity, has_place: bool) -> Result<bool, HelloRefusal> {
        self.check(peer)?;
        if !has_place {
            let incumbent = self.address(peer.node).unwrap_or("an unknown address").to_owned();
            let newcomer = peer.advertise.clone();
            return Err(HelloRefusal::NodeTaken { node: peer.node, incumbent, newcomer });
        }
        self.met.insert(peer.node, peer.incarnation);
        self.addresses.insert(peer.node, peer.advertise.clone());
        let concluded = self.join(peer) || self.conclude();
        let stored = peer.stored.is_some_and(|cluster| self.stored_by(peer.node, cluster));
        Ok(concluded || stored)
    }

    /// Takes over what a cluster is, which was formed with an earlier incarnation of this node. Returns whether that
    /// changed the identity.
    fn join(&mut self, peer: &ReplicaIdentity) -> bool {
        let own = self.identity.node;
        let former = peer.founders.iter().find(|founder| founder.node == own);
        let is_replaced = former.is_some_and(|former| former.incarnation != self.identity.incarnation)
            && self.identity.leadership != Leadership::Configured(own);
        if !self.identity.members.is_empty() || !peer.formed || !is_replaced {
            return false;
        }
        let members = peer.founders.iter().map(|founder| (founder.node, founder.incarnation)).collect();
        let joined = Identity { members, formed: true, ..self.identity.clone() };
        if joined.cluster_id() != peer.stored || !joined.is_consistent() {
            tracing::error!(node = %peer.node, "a replica's account of its cluster contradicts itself");
            return false;
        }
        tracing::warn!(
            "this cluster was formed with another data directory of node {own}: this one catches up, and neither votes \
             nor counts until it is admitted ('quorate admit {own}'); that takes a leader: if too few nodes have their \
             data to elect one, restore a backup as a new cluster"
        );
        self.identity = joined;
        true
    }

    /// Notes that a replica has stored a cluster. Returns whether the identity has changed and must be stored.
    pub(super) fn stored_by(&mut self, node: NodeId, cluster: ClusterId) -> bool {
        if self.identity.cluster_id() != Some(cluster) {
            return false;
        }
        self.stored.insert(node);
        if self.identity.formed || self.stored != self.nodes {
            return false;
        }
        self.identity.formed = true;
        true
    }

    fn check(&self, peer: &ReplicaIdentity) -> Result<(), HelloRefusal> {
        let own = &self.identity;
        if !self.nodes.contains(peer.node) || peer.node == own.node {
            return Err(HelloRefusal::UnknownNode(peer.node));
        }
        let settings = [
            ("replicas", own.quorums.replicas().to_string(), peer.quorums.replicas().to_string()),
            ("quorum", own.quorums.quorum().to_string(), peer.quorums.quorum().to_string()),
            ("leadership", own.leadership.to_string(), peer.leadership.to_string()),
            ("durability", own.durability.to_string(), peer.durability.to_string()),
            ("lease", format!("{} ms", self.lease_ms), format!("{} ms", peer.lease_ms)),
            ("origin", describe_origin(own.origin), describe_origin(peer.origin)),
        ];
        for (name, ours, theirs) in settings {
            if ours != theirs {
                let (node, other) = (own.node, peer.node);
                return Err(HelloRefusal::OtherSettings(format!(
                    "{name} is {ours} on node {node} and {theirs} on node {other}"
                )));
            }
        }
        // Of a formed cluster the log says who votes; until it does, a newcomer only listens. That a configured leader
        // cannot.
        let may_be_replaced = own.formed && own.leadership != Leadership::Configured(peer.node);
        if let Some((_, expected)) = own.members.iter().find(|(node, _)| *node == peer.node)
            && *expected != peer.incarnation
            && !may_be_replaced
        {
            return Err(HelloRefusal::OtherIncarnation { node: peer.node, expected: *expected });
        }
        match (own.cluster_id(), peer.stored) {
            (Some(ours), Some(theirs)) if ours != theirs => Err(HelloRefusal::OtherFormation(ours)),
            _ => Ok(()),
        }
    }

    /// Fixes the members once all are met. Returns whether that changed the identity.
    fn conclude(&mut self) -> bool {
        if !self.identity.members.is_empty() || self.met.len() != self.nodes.len() {
            return false;
        }
        self.identity.members = self.met.iter().map(|(node, incarnation)| (*node, *incarnation)).collect();
        self.stored.insert(self.identity.node);
        // A cluster of one has nobody to wait for.
        self.identity.formed = self.stored == self.nodes;
        true
    }
}

/// In full, so that what differs looks different.
fn describe_origin(origin: Option<Origin>) -> String {
    let Some(Origin { index, hash }) = origin else { return "none".into() };
    let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("a backup (entry {index}, hash {hash})")
}

#[cfg(test)]
mod tests {
    use quorate_protocol::{Durability, Quorums};

    use super::*;

    fn node(id: u8) -> NodeId {
        NodeId::try_from(id).unwrap()
    }

    fn formation(id: u8, incarnation: u64) -> Formation {
        let identity = Identity {
            cluster: "test".into(),
            node: node(id),
            incarnation: Incarnation(incarnation),
            quorums: Quorums::new(3, 2).unwrap(),
            leadership: Leadership::Configured(node(1)),
            durability: Durability::Fsync,
            origin: None,
            members: Vec::new(),
            formed: false,
        };
        Formation::new(identity, (1..=3).map(node).collect(), format!("host:{id}"), 0)
    }

    /// Everybody meets everybody, in both directions, until nothing changes.
    fn mingle(formations: &mut [Formation]) {
        for _ in 0..3 {
            for i in 0..formations.len() {
                for j in 0..formations.len() {
                    let introduction = formations[j].introduction();
                    if i != j {
                        formations[i].meet(&introduction, true).unwrap();
                    }
                }
            }
        }
    }

    #[test]
    fn a_cluster_has_formed_when_all_have_stored_the_same_members() {
        let mut all = [formation(1, 11), formation(2, 22), formation(3, 33)];
        mingle(&mut all[..2]);
        assert!(
            all.iter().all(|formation| !formation.is_formed() && formation.identity().members.is_empty())
        );
        mingle(&mut all);
        assert!(all.iter().all(Formation::is_formed));
        assert_eq!(all[0].identity().cluster_id(), all[2].identity().cluster_id());
    }

    #[test]
    fn a_node_that_has_met_all_waits_until_all_have_stored() {
        let (mut first, second, third) = (formation(1, 11), formation(2, 22), formation(3, 33));
        first.meet(&second.introduction(), true).unwrap();
        assert!(first.meet(&third.introduction(), true).unwrap());
        assert!(!first.is_formed());
        let cluster = first.identity().cluster_id().unwrap();
        assert!(!first.stored_by(node(2), cluster));
        assert_eq!(first.missing().iter().collect::<Vec<_>>(), [node(3)]);
        assert!(first.stored_by(node(3), cluster));
        assert!(first.is_formed());
    }

    #[test]
    fn a_replaced_disk_is_refused_once_members_are_stored_but_not_before() {
        let mut first = formation(1, 11);
        first.meet(&formation(2, 22).introduction(), true).unwrap();
        first.meet(&formation(2, 99).introduction(), true).unwrap();
        first.meet(&formation(3, 33).introduction(), true).unwrap();
        let refusal = first.meet(&formation(2, 22).introduction(), true).unwrap_err();
        assert_eq!(refusal, HelloRefusal::OtherIncarnation { node: node(2), expected: Incarnation(99) });
    }

    #[test]
    fn replicas_that_did_not_begin_with_the_same_state_form_no_cluster() {
        let origin = |index, last| {
            let mut hash = [7; 32];
            hash[31] = last;
            Some(Origin { index, hash })
        };
        let restored = |id, origin| {
            let mut formation = formation(id, u64::from(id) * 11);
            formation.identity.origin = origin;
            formation
        };
        let mut first = restored(1, origin(130, 0));
        for other in [None, origin(131, 0), origin(130, 1)] {
            let refusal = first.meet(&restored(2, other).introduction(), true).unwrap_err();
            assert!(matches!(refusal, HelloRefusal::OtherSettings(_)), "{refusal}");
            assert!(refusal.to_string().contains("origin is a backup (entry 130, hash 0707"), "{refusal}");
        }
        let mut all = [first, restored(2, origin(130, 0)), restored(3, origin(130, 0))];
        mingle(&mut all);
        assert!(all.iter().all(Formation::is_formed));
        let mut unrestored = all[0].identity().clone();
        unrestored.origin = None;
        assert_ne!(all[0].identity().cluster_id(), unrestored.cluster_id());
    }

    #[test]
    fn other_settings_and_unknown_nodes_are_refused_with_the_reason() {
        let mut first = formation(1, 11);
        let mut peer = formation(2, 22).introduction();
        peer.quorums = Quorums::new(3, 3).unwrap();
        let refusal = first.meet(&peer, true).unwrap_err().to_string();
        assert_eq!(
            refusal,
            "the replicas were started with different settings: quorum is 2 on node 1 and 3 on node 2"
        );
        peer.node = node(4);
        assert_eq!(first.meet(&peer, true), Err(HelloRefusal::UnknownNode(node(4))));
    }
}
