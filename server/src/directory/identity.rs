//! Whose directory it is: made once, then extended by the members that the node has met (R26).
//!
//! A [small file](super::small_file) with the magic "QRMIDENT", version 2, and the postcard [`Identity`] as its
//! payload:
//!
//! ```text
//! cluster       length varint, bytes       its name
//! node          u8
//! incarnation   u64 varint                 made with the directory
//! replicas, quorum      u8, u8             m and n
//! leadership    variant varint, u8         0 configured: the leader's id; 1 elected, without it
//! durability    variant varint             0 fsync, 1 os
//! origin        u8 0, or 1 and: index u64 varint, 32 bytes BLAKE3 of the checkpoint
//! members       count varint, each: node u8, incarnation u64 varint
//! formed        u8 0 or 1
//! ```
//!
//! Replaced as a whole: written as `identity.tmp`, synced, renamed, and the directory synced. Version 1 had no
//! origin, and is refused.

use std::path::Path;
use std::{fmt, io};

use quorate_protocol::handshake::Origin;
use quorate_protocol::{
    ClusterId, Durability, Incarnation, Leadership, Member, NodeId, Quorums, limits, parse,
};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;
use crate::replica::Membership;

use super::error::{DirectoryError, failed};
use super::small_file::SmallFile;
use super::{IDENTITY, IDENTITY_TEMPORARY, refuse_if_not_ours};

const FILE: SmallFile = SmallFile {
    magic: *b"QRMIDENT",
    version: 2,
    // The name, all members, and the rest.
    payload_bytes_max: limits::CLUSTER_NAME_BYTES_MAX + limits::REPLICAS_MAX as usize * 16 + 128,
    name: IDENTITY,
    temporary: IDENTITY_TEMPORARY,
    not_one: "it does not begin as an identity",
};

/// What the cluster's id is a hash of, before anything else, so that it is a hash of nothing else.
const CLUSTER_ID_DOMAIN: &[u8] = b"quorate cluster 2\n";

/// What a node is started with, as far as its directory depends on it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DirectorySettings {
    /// The cluster's name, at most [`limits::CLUSTER_NAME_BYTES_MAX`] bytes.
    pub cluster: String,
    /// The node's number.
    pub node: NodeId,
    /// m and n.
    pub quorums: Quorums,
    /// How the leader is found.
    pub leadership: Leadership,
    /// What is called durable.
    pub durability: Durability,
}

/// Whose directory it is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The node's number.
    pub node: NodeId,
    /// Made with the directory.
    pub incarnation: Incarnation,
    /// m and n.
    pub quorums: Quorums,
    /// How the leader is found.
    pub leadership: Leadership,
    /// What is called durable.
    pub durability: Durability,
    /// The state that the directory was restored with from a backup; none if it began empty. All replicas of a
    /// cluster have the same: one that began elsewhere could never catch up.
    pub origin: Option<Origin>,
    /// The m replicas that the cluster was formed with; empty until all have met. One whose disk was replaced since,
    /// this one perhaps, is another incarnation than is named here: who votes then, the log says.
    pub members: Vec<(NodeId, Incarnation)>,
    /// All m have said that they stored the same members. Before that, nobody votes or acknowledges.
    pub formed: bool,
}

/// A new random incarnation.
pub fn random_incarnation() -> io::Result<Incarnation> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(io::Error::other)?;
    Ok(Incarnation(u64::from_le_bytes(bytes)))
}

/// Reads the identity of an existing directory, and refuses it if it was made with other settings. An empty
/// directory gets an identity with the incarnation `fresh`. The directory's lock must be held.
pub fn open_or_create(
    disk: &dyn Disk,
    directory: &Path,
    settings: &DirectorySettings,
    fresh: Incarnation,
) -> Result<Identity, DirectoryError> {
    let names = disk.list(directory).map_err(failed("list", directory))?;
    if names.iter().any(|name| name == IDENTITY) {
        let identity = Identity::load(disk, directory)?;
        identity.check(directory, settings)?;
        return Ok(identity);
    }
    refuse_if_not_ours(disk, directory)?;
    let identity = Identity::new(settings.clone(), fresh, None);
    identity.store(disk, directory)?;
    Ok(identity)
}

impl Identity {
    /// Of a directory that has met nobody yet.
    pub(crate) fn new(settings: DirectorySettings, incarnation: Incarnation, origin: Option<Origin>) -> Self {
        let DirectorySettings { cluster, node, quorums, leadership, durability } = settings;
        Self {
            cluster,
            node,
            incarnation,
            quorums,
            leadership,
            durability,
            origin,
            members: Vec::new(),
            formed: false,
        }
    }

    /// The cluster's id: a hash of its name, m, n, leadership, durability, origin and every (id, incarnation),
    /// whatever their order (R26). `None` until the members are known.
    pub fn cluster_id(&self) -> Option<ClusterId> {
        if self.members.is_empty() {
            return None;
        }
        let mut hasher = blake3::Hasher::new();
        hasher.update(CLUSTER_ID_DOMAIN);
        hasher.update(&(self.cluster.len() as u64).to_le_bytes());
        hasher.update(self.cluster.as_bytes());
        hasher.update(&[self.quorums.replicas(), self.quorums.quorum()]);
        hasher.update(&match self.leadership {
            Leadership::Configured(node) => [1, node.get()],
            Leadership::Elected => [2, 0],
        });
        hasher.update(&match self.durability {
            Durability::Fsync => [1],
            Durability::Os => [2],
        });
        match &self.origin {
            None => hasher.update(&[0]),
            Some(Origin { index, hash }) => hasher.update(&[1]).update(&index.to_le_bytes()).update(hash),
        };
        let mut members = self.members.clone();
        members.sort_unstable();
        for (node, incarnation) in members {
            hasher.update(&[node.get()]);
            hasher.update(&incarnation.0.to_le_bytes());
        }
        let hash = hasher.finalize();
        Some(ClusterId(*hash.as_bytes().first_chunk().expect("a hash of thirty-two bytes")))
    }

    /// The replicas that the cluster was formed with; empty before.
    pub fn founders(&self) -> Vec<Member> {
        self.members
            .iter()
            .map(|(node, incarnation)| Member { node: *node, incarnation: *incarnation })
            .collect()
    }

    /// Who votes and counts before the log changes it.
    pub fn membership(&self) -> Membership {
        Membership::new(self.founders())
    }

    /// The same; of a cluster of one, which is formed as soon as its node starts, with its only member.
    pub fn into_formed(mut self) -> Self {
        if self.quorums.replicas() == 1 {
            self.members = vec![(self.node, self.incarnation)];
            self.formed = true;
        }
        self
    }

    /// Reads a directory's identity, whatever the settings.
    pub fn load(disk: &dyn Disk, directory: &Path) -> Result<Self, DirectoryError> {
        let payload = FILE.load(disk, directory)?;
        let damaged = |why| DirectoryError::Damaged { path: directory.join(IDENTITY), why };
        let identity: Self = parse(&payload).map_err(|_| damaged("its content is malformed"))?;
        if !identity.is_consistent() {
            return Err(damaged("its members contradict the rest"));
        }
        Ok(identity)
    }

    /// Makes this the directory's identity, durably.
    ///
    /// # Panics
    ///
    /// If the name is beyond its limit, or the members are neither none nor all m, with this node among them.
    pub fn store(&self, disk: &dyn Disk, directory: &Path) -> Result<(), DirectoryError> {
        assert!(self.is_consistent(), "an identity that contradicts itself: {self:?}");
        let payload = postcard::to_stdvec(self).expect("an identity serialises, and a Vec takes every byte");
        FILE.store(disk, directory, &payload)
    }

    pub(crate) fn is_consistent(&self) -> bool {
        let mut nodes: Vec<NodeId> = self.members.iter().map(|(node, _)| *node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let is_founder = self.members.contains(&(self.node, self.incarnation));
        let all = self.members.len() == usize::from(self.quorums.replicas())
            && nodes.len() == self.members.len()
            && (is_founder || self.formed && nodes.contains(&self.node));
        let none = self.members.is_empty() && !self.formed;
        self.cluster.len() <= limits::CLUSTER_NAME_BYTES_MAX && (all || none)
    }

    /// Refuses settings other than those that the directory was made with (R4).
    fn check(&self, directory: &Path, wanted: &DirectorySettings) -> Result<(), DirectoryError> {
        let differences: Vec<String> = [
            difference("cluster", &self.cluster, &wanted.cluster),
            difference("node", &self.node, &wanted.node),
            difference("replicas", &self.quorums.replicas(), &wanted.quorums.replicas()),
            difference("quorum", &self.quorums.quorum(), &wanted.quorums.quorum()),
            difference("leadership", &self.leadership, &wanted.leadership),
            difference("durability", &self.durability, &wanted.durability),
        ]
        .into_iter()
        .flatten()
        .collect();
        if differences.is_empty() {
            return Ok(());
        }
        Err(DirectoryError::OtherSettings { path: directory.to_owned(), differences: differences.join(", ") })
    }
}

fn difference<T: PartialEq + fmt::Display>(setting: &str, stored: &T, wanted: &T) -> Option<String> {
    (stored != wanted).then(|| format!("{setting} \"{stored}\", not \"{wanted}\""))
}
