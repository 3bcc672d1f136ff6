//! Whose directory it is: made once, then extended by the members that the node has met (R26).
//!
//! ```text
//!  0   8   magic          "QRMIDENT"                the layout up to byte 20 is the same in every version
//!  8   4   version        u32 LE
//! 12   4   length         u32 LE   of the payload
//! 16   4   CRC-32C        u32 LE   of bytes 0 to 15 and the payload
//! 20   …   payload        postcard `Identity`; the file ends with it
//! ```
//!
//! Replaced as a whole: written as `identity.tmp`, synced, renamed, and the directory synced.

use std::path::Path;
use std::{fmt, io};

use quorate_protocol::{ClusterId, Durability, Incarnation, Leadership, NodeId, Quorums, limits, parse};
use serde::{Deserialize, Serialize};

use crate::disk::Disk;

use super::error::{DirectoryError, failed};
use super::{IDENTITY, IDENTITY_TEMPORARY, refuse_if_not_ours};

const MAGIC: [u8; 8] = *b"QRMIDENT";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 20;

/// Bytes of the file: the name, all members, and the rest.
const FILE_BYTES_MAX: usize =
    HEADER_BYTES + limits::CLUSTER_NAME_BYTES_MAX + limits::REPLICAS_MAX as usize * 16 + 128;

/// What the cluster's id is a hash of, before anything else, so that it is a hash of nothing else.
const CLUSTER_ID_DOMAIN: &[u8] = b"quorate cluster 1\n";

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
    /// All m replicas, this one included; empty until all have met.
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
    let identity = Identity::new(settings.clone(), fresh);
    identity.store(disk, directory)?;
    Ok(identity)
}

impl Identity {
    fn new(settings: DirectorySettings, incarnation: Incarnation) -> Self {
        let DirectorySettings { cluster, node, quorums, leadership, durability } = settings;
        Self {
            cluster,
            node,
            incarnation,
            quorums,
            leadership,
            durability,
            members: Vec::new(),
            formed: false,
        }
    }

    /// The cluster's id: a hash of its name, m, n, leadership, durability and every (id, incarnation),
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
        });
        hasher.update(&match self.durability {
            Durability::Fsync => [1],
            Durability::Os => [2],
        });
        let mut members = self.members.clone();
        members.sort_unstable();
        for (node, incarnation) in members {
            hasher.update(&[node.get()]);
            hasher.update(&incarnation.0.to_le_bytes());
        }
        let hash = hasher.finalize();
        Some(ClusterId(*hash.as_bytes().first_chunk().expect("a hash of thirty-two bytes")))
    }

    /// Reads a directory's identity, whatever the settings.
    pub fn load(disk: &dyn Disk, directory: &Path) -> Result<Self, DirectoryError> {
        let path = directory.join(IDENTITY);
        let damaged = |why| DirectoryError::Damaged { path: path.clone(), why };
        let file = disk.open(&path).map_err(failed("open", &path))?;
        let length = file.length().map_err(failed("read", &path))?;
        if !(HEADER_BYTES as u64..=FILE_BYTES_MAX as u64).contains(&length) {
            return Err(damaged("its length is impossible"));
        }
        let bytes = file.read_all(FILE_BYTES_MAX).map_err(failed("read", &path))?;
        let (version, payload) = check(&bytes).map_err(damaged)?;
        if version > VERSION {
            return Err(DirectoryError::NewerVersion { path, version, supported: VERSION });
        }
        let identity: Self = parse(payload).map_err(|_| damaged("its content is malformed"))?;
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
        let temporary = directory.join(IDENTITY_TEMPORARY);
        match disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &temporary)(error));
            }
            _ => {}
        }
        let file = disk.create(&temporary).map_err(failed("create", &temporary))?;
        file.write_all_at(&self.encode(), 0).map_err(failed("write", &temporary))?;
        file.sync_data().map_err(failed("sync", &temporary))?;
        disk.rename(&temporary, &directory.join(IDENTITY)).map_err(failed("rename", &temporary))?;
        disk.sync_directory(directory).map_err(failed("sync", directory))
    }

    fn is_consistent(&self) -> bool {
        let mut nodes: Vec<NodeId> = self.members.iter().map(|(node, _)| *node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        let all = self.members.len() == usize::from(self.quorums.replicas())
            && nodes.len() == self.members.len()
            && self.members.contains(&(self.node, self.incarnation));
        let none = self.members.is_empty() && !self.formed;
        self.cluster.len() <= limits::CLUSTER_NAME_BYTES_MAX && (all || none)
    }

    fn encode(&self) -> Vec<u8> {
        let payload = postcard::to_stdvec(self).expect("an identity serialises, and a Vec takes every byte");
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), &payload);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&payload);
        debug_assert!(bytes.len() <= FILE_BYTES_MAX);
        bytes
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

/// The version and the payload, if the bytes are what was written.
fn check(bytes: &[u8]) -> Result<(u32, &[u8]), &'static str> {
    let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
        return Err("its length is impossible");
    };
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..8] != MAGIC {
        return Err("it does not begin as an identity");
    }
    if word(12) as usize != payload.len() {
        return Err("its length is not what was written");
    }
    if crc32c::crc32c_append(crc32c::crc32c(&header[..16]), payload) != word(16) {
        return Err("its checksum is wrong");
    }
    Ok((word(8), payload))
}
