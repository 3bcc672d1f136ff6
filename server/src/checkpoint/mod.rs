//! The state at one index in one file: `<index, 20 digits>.ckpt` in the checkpoint directory.
//!
//! ```text
//! header                                          the same layout in every version
//!   0   8   magic          "QRMCKPT\n"
//!   8   4   version        u32 LE
//!  12   8   index          u64 LE   the last entry that the state contains
//!  20   8   term           u64 LE   of that entry
//!  28  16   cluster id     zeros if a backup was restored: of no cluster yet
//!  44   4   CRC-32C        u32 LE   of bytes 0 to 43
//!
//! blocks, one after the other up to the footer
//!   0   4   length          u32 LE   of the payload
//!   4   4   kind            u32 LE   1 terms · 2 records · 3 sessions · 4 members
//!   8   4   CRC-32C         u32 LE   of length, kind and payload
//!  12   …   payload
//!
//! payload of terms, up to 4096 each; these blocks come first, and there is at least one (R23)
//!   0   8   first index     u64 LE   both rise from pair to pair; the last pair's term is the header's
//!   8   8   term            u64 LE
//!
//! payload of members, one block behind the terms (R27); none in a backup, whose cluster is still to form
//!   0   1   node            u8       rising
//!   1   8   incarnation     u64 LE
//!
//! payload of sessions, behind terms and members (R24); ids rise through all blocks
//!   0   8   session         u64 LE   its id: the entry that opened it
//!   8   8   last used       u64 LE   the last entry that used it, at most the header's index
//!  16   8   lowest          u64 LE   the lowest number whose answer its client waits for
//!  24   4   results         u32 LE   how many follow
//!  28   …   results, 33 bytes each; their numbers rise, from the lowest on, and within the window
//!           0   8   number     u64 LE
//!           8   8   index      u64 LE   the entry that did the write, behind the session's and at most the last used
//!          16   4   CRC-32C    u32 LE   of the write
//!          20   1   what       u8       0 done · 1 condition failed, no such key · 2 condition failed, other revision
//!          21   4   count      u32 LE   of keys that existed; or whose condition, counted from 0
//!          25   8   revision   u64 LE   that the key had; 0 unless 2
//!
//! payload of records; keys rise strictly, bytewise, through all blocks
//!   0   2   key length      u16 LE
//!   2   4   value length    u32 LE
//!   6   8   revision        u64 LE   the entry that last wrote the key, at most the header's index
//!  14   …   key, value
//!
//! footer, the last 76 bytes
//!   0   8   index           u64 LE   as in the header
//!   8   8   term            u64 LE   as in the header
//!  16   8   keys            u64 LE
//!  24   8   blocks          u64 LE
//!  32  32   BLAKE3          of all bytes of the file before this field
//!  64   4   CRC-32C         u32 LE   of bytes 0 to 63 of the footer
//!  68   8   magic           "QRMCKEND"
//! ```
//!
//! # Invariants
//!
//! - The same state at the same index has the same bytes on every replica, so their hashes compare. Nothing
//!   of a node is in the file, and even where blocks end is decided: with the session or record that reaches
//!   [`BLOCK_BYTES`]. Writer and reader both refuse anything else.
//! - A file under its final name is whole and durable: it is written as `.tmp`, synced, renamed, and the
//!   directory synced. Whatever is wrong with it later is damage of the disk.
//! - Nothing in a file counts before the whole file has been checked.
//! - A checkpoint is sent to other replicas as its file is ([`Outgoing`]), and received as `.part` ([`part`]), which
//!   gets its final name when the whole has been checked.
//!
//! # What is deliberately absent
//!
//! Increments: every checkpoint is whole. Whether the log reaches back to an older checkpoint, which alone makes it legal to
//! fall back on that one, is decided by the caller, who knows the log.

mod block;
mod format;
mod outgoing;
pub mod part;
mod reader;
mod thread;
mod writer;

use std::io;
use std::path::{Path, PathBuf};

use quorate_protocol::handshake::Origin;
use quorate_protocol::{ClusterId, Index, Member, Term};
use thiserror::Error;

use crate::disk::{Disk, is_shortage};

pub(crate) use block::next_block;
pub use block::{Block, Item};
pub use format::{BLOCK_BYTES, BlockProblem, Record, encode_record, encode_session};
pub use outgoing::Outgoing;
pub(crate) use reader::read_intact;
pub use reader::{Damage, Loaded, Skipped, load_newest, remove_skipped, verify};
pub use thread::{CheckpointEvent, CheckpointThread, DEFAULT_BYTES_PER_SECOND};
pub use writer::CheckpointWriter;

/// Whose a checkpoint is that a restore makes, before there is a cluster.
pub const NO_CLUSTER: ClusterId = ClusterId([0; 16]);

/// Whose checkpoints a directory may have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Owner {
    /// The cluster, once it is known.
    pub cluster: Option<ClusterId>,
    /// The state that the cluster began with, if that was restored: the one checkpoint that may be of
    /// [`NO_CLUSTER`].
    pub origin: Option<Origin>,
}

impl Owner {
    /// Refuses a checkpoint of somebody else.
    pub(crate) fn check(
        &self,
        path: &Path,
        header: &CheckpointHeader,
        info: &CheckpointInfo,
    ) -> Result<(), CheckpointError> {
        let found = header.cluster;
        let is_ours = match found {
            NO_CLUSTER => self.origin == Some(info.origin()),
            _ => self.cluster.is_none_or(|cluster| cluster == found),
        };
        if is_ours {
            return Ok(());
        }
        Err(CheckpointError::OtherCluster { path: path.to_owned(), found, wanted: self.cluster })
    }
}

/// Checkpoints that are kept: the newest may turn out to be damaged.
pub const KEPT: usize = 2;

const SUFFIX: &str = ".ckpt";
const TEMPORARY_SUFFIX: &str = ".tmp";

/// Bytes of a file's footer.
pub(crate) const FOOTER_BYTES: u64 = format::FOOTER_BYTES as u64;

/// Digits of an index in a file's name: enough for every `u64`.
const INDEX_DIGITS: usize = 20;

/// What a checkpoint is of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointHeader {
    /// The last entry that the state contains; at least 1.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// The cluster.
    pub cluster: ClusterId,
    /// The first index of each term that has entries up to `index`, oldest first; ends with `term` (R23).
    pub terms: Vec<(Index, Term)>,
    /// Who votes and counts as of `index`, by their numbers; empty in what is restored from a backup.
    pub members: Vec<Member>,
}

/// A checkpoint that is whole and durable.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CheckpointInfo {
    /// The last entry that the state contains.
    pub index: Index,
    /// The term of that entry.
    pub term: Term,
    /// Sessions in it.
    pub sessions: u64,
    /// Keys in it.
    pub keys: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// BLAKE3 as in the footer: alike on all replicas at the same index.
    pub hash: [u8; 32],
}

impl CheckpointInfo {
    /// What a cluster that begins with this checkpoint calls it.
    pub fn origin(&self) -> Origin {
        Origin { index: self.index, hash: self.hash }
    }
}

/// Why a checkpoint was not written or not loaded.
#[derive(Debug, Error)]
pub enum CheckpointError {
    /// The file system refused. Nothing is lost: the checkpoint may be taken again, once there is space.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// A sync failed: what the disk holds is not known any more, and the node must stop.
    #[error("cannot sync {}: {source}", path.display())]
    Sync {
        /// The file or directory.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// What was given to be written breaks the format: a bug of the caller.
    #[error("checkpoint {index} is not written: {problem}")]
    Refused {
        /// Of the checkpoint.
        index: Index,
        /// The broken rule.
        problem: BlockProblem,
    },
    /// Written by another version of this program.
    #[error(
        "{} has version {version} of the checkpoint format, not {supported}: use the program that wrote it",
        path.display()
    )]
    OtherVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The version that this program reads.
        supported: u32,
    },
    /// The file is whole, but of another cluster.
    #[error(
        "{} is of {}, not of {}: remove it, or use the right directory",
        path.display(), describe_cluster(Some(*found)), describe_cluster(*wanted)
    )]
    OtherCluster {
        /// The file.
        path: PathBuf,
        /// Whose it is.
        found: ClusterId,
        /// Whose it should be; none if there is no cluster yet.
        wanted: Option<ClusterId>,
    },
    /// There are checkpoints, and none is whole.
    #[error("no checkpoint is whole: {}", describe(.0))]
    AllDamaged(Vec<Skipped>),
    /// The file was whole when it was checked, and was not when it was read. Records handed out before
    /// do not count.
    #[error("{} changed while it was loaded: {damage}", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
        /// What was found.
        damage: Damage,
    },
}

impl CheckpointError {
    /// Whether there was no room, or no descriptor: a later checkpoint may succeed.
    pub fn is_no_room(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_shortage(source))
    }
}

fn describe(skipped: &[Skipped]) -> String {
    skipped.iter().map(Skipped::to_string).collect::<Vec<_>>().join("; ")
}

fn describe_cluster(cluster: Option<ClusterId>) -> String {
    match cluster {
        Some(NO_CLUSTER) => "the beginning of another cluster".into(),
        Some(cluster) => format!("cluster {cluster}"),
        None => "the backup that this directory was restored from".into(),
    }
}

/// Turns an I/O error into one that says what failed on what.
fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Io { doing, path, source }
}

/// Turns an error of a sync into one that stops the node.
fn sync_failed(path: &Path) -> impl FnOnce(io::Error) -> CheckpointError {
    let path = path.to_owned();
    move |source| CheckpointError::Sync { path, source }
}

/// Where the checkpoint at `index` is.
pub fn path(directory: &Path, index: Index) -> PathBuf {
    directory.join(format!("{index:0INDEX_DIGITS$}{SUFFIX}"))
}

/// Whether a file is a checkpoint that was not finished.
pub(crate) fn is_temporary(name: &str) -> bool {
    parse_name(name, TEMPORARY_SUFFIX).is_some()
}

/// The index in a checkpoint's name.
pub(crate) fn named_index(name: &str) -> Option<Index> {
    parse_name(name, SUFFIX)
}

fn temporary_path(directory: &Path, index: Index) -> PathBuf {
    directory.join(format!("{index:0INDEX_DIGITS$}{TEMPORARY_SUFFIX}"))
}

fn parse_name(name: &str, suffix: &str) -> Option<Index> {
    let digits = name.strip_suffix(suffix)?;
    let named = digits.len() == INDEX_DIGITS && digits.bytes().all(|digit| digit.is_ascii_digit());
    if named { digits.parse().ok() } else { None }
}

/// The indexes of the checkpoints in a directory, oldest first, whole or not. Other files are left alone.
pub fn list(disk: &dyn Disk, directory: &Path) -> Result<Vec<Index>, CheckpointError> {
    let names = disk.list(directory).map_err(failed("list", directory))?;
    let mut indexes: Vec<Index> = names.iter().filter_map(|name| parse_name(name, SUFFIX)).collect();
    indexes.sort_unstable();
    Ok(indexes)
}

/// Removes all but the newest `keep` checkpoints, and parts that are not needed beside these, and returns the indexes of those removed, oldest first.
///
/// # Panics
///
/// If `keep` is 0: the log has been cut in the belief that a checkpoint exists.
pub fn remove_older(disk: &dyn Disk, directory: &Path, keep: usize) -> Result<Vec<Index>, CheckpointError> {
    assert!(keep > 0, "the last checkpoint is never removed");
    let mut indexes = list(disk, directory)?;
    if let Some(newest) = indexes.last() {
        part::remove_parts(disk, directory, |index| index <= *newest)?;
    }
    indexes.truncate(indexes.len().saturating_sub(keep));
    remove(disk, directory, &indexes)?;
    Ok(indexes)
}

/// Removes the checkpoints of entries before `index`, durably.
pub fn remove_before(disk: &dyn Disk, directory: &Path, index: Index) -> Result<(), CheckpointError> {
    let mut indexes = list(disk, directory)?;
    indexes.retain(|older| *older < index);
    remove(disk, directory, &indexes)
}

fn remove(disk: &dyn Disk, directory: &Path, indexes: &[Index]) -> Result<(), CheckpointError> {
    for index in indexes {
        let path = path(directory, *index);
        disk.remove(&path).map_err(failed("remove", &path))?;
    }
    if !indexes.is_empty() {
        disk.sync_directory(directory).map_err(sync_failed(directory))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
