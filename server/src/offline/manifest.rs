//! What a backup holds.
//!
//! A [small file](crate::directory::small_file) with the magic "QRMBACKU", version 1, and the postcard [`Manifest`] as
//! its payload:
//!
//! ```text
//! source        as the payload of an identity     the directory that was copied
//! time          u64 varint                        seconds since 1970, UTC
//! checkpoint    u8 0, or 1 and: index, term, keys, bytes u64 varint each, 32 bytes BLAKE3
//! first         u64 varint                        of the log; above last if it has no entry
//! last          u64 varint                        last entry of checkpoint and log
//! last term     u64 varint                        its term
//! committed     u64 varint                        the highest commit index that was recorded
//! segments      u64 varint
//! log bytes     u64 varint                        what was copied of them
//! ```

use std::path::Path;

use quorate_protocol::{Index, Term, limits, parse};
use serde::{Deserialize, Serialize};

use crate::checkpoint::CheckpointInfo;
use crate::directory::small_file::SmallFile;
use crate::directory::{BACKUP, BACKUP_TEMPORARY, DirectoryError, Identity};
use crate::disk::Disk;

const FILE: SmallFile = SmallFile {
    magic: *b"QRMBACKU",
    version: 1,
    // An identity, and numbers.
    payload_bytes_max: limits::CLUSTER_NAME_BYTES_MAX + limits::REPLICAS_MAX as usize * 16 + 384,
    name: BACKUP,
    temporary: BACKUP_TEMPORARY,
    not_one: "it does not begin as a backup's manifest",
};

/// What a backup holds. With it a backup is whole.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Manifest {
    /// The directory that was copied.
    pub source: Identity,
    /// When, in seconds since 1970, UTC.
    pub unix_seconds: u64,
    /// The checkpoint; none if the node had taken none yet.
    pub checkpoint: Option<BackedUpCheckpoint>,
    /// First entry of the log, if there is one.
    pub first: Index,
    /// Last entry of checkpoint and log.
    pub last: Index,
    /// Its term.
    pub last_term: Term,
    /// The highest commit index that the files record. Entries above may have been acknowledged, too.
    pub committed: Index,
    /// Segments of the log.
    pub segments: u64,
    /// Bytes of them that were copied.
    pub log_bytes: u64,
}

/// The checkpoint of a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct BackedUpCheckpoint {
    /// The last entry that it contains.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// Keys in it.
    pub keys: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// BLAKE3 as in its footer.
    pub hash: [u8; 32],
}

impl From<CheckpointInfo> for BackedUpCheckpoint {
    fn from(CheckpointInfo { index, term, keys, bytes, hash, .. }: CheckpointInfo) -> Self {
        Self { index, term, keys, bytes, hash }
    }
}

impl Manifest {
    /// Reads a backup's manifest.
    pub fn load(disk: &dyn Disk, directory: &Path) -> Result<Self, DirectoryError> {
        let payload = FILE.load(disk, directory)?;
        parse(&payload).map_err(|_| DirectoryError::Damaged {
            path: directory.join(BACKUP),
            why: "its content is malformed",
        })
    }

    /// Writes it, durably: the directory is a backup then.
    pub(super) fn store(&self, disk: &dyn Disk, directory: &Path) -> Result<(), DirectoryError> {
        let payload = postcard::to_stdvec(self).expect("a manifest serialises, and a Vec takes every byte");
        FILE.store(disk, directory, &payload)
    }

    /// Entries of the log that the checkpoint does not contain.
    pub fn entries_behind(&self) -> u64 {
        self.last - self.checkpoint_index()
    }

    /// The checkpoint's index, 0 without one.
    pub fn checkpoint_index(&self) -> Index {
        self.checkpoint.map_or(0, |checkpoint| checkpoint.index)
    }
}
