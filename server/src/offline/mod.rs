//! Tools for a data directory that no node has to run on: verifying, printing, backing up and restoring it.
//!
//! - [`check()`]: says what a directory or backup holds, and what is wrong with it.
//! - [`dump`]: prints entries, batches, and the records of checkpoints.
//! - [`backup()`]: copies the newest checkpoint and the log behind it from beside a node that may be running.
//! - [`restore()`]: makes the data directory of a new cluster's node from a backup.
//!
//! # A backup
//!
//! ```text
//! TO/backup                      the manifest, written last                              manifest.rs
//! TO/backup.tmp                  there is no manifest yet: the backup is not finished
//! TO/checkpoint/<index>.ckpt     the newest checkpoint, unless the node had none yet
//! TO/log/<first index>.log       the segments with entries behind it
//! ```
//!
//! The files have the same bytes as the node's, up to the last whole batch; the rest of a segment is a hole.
//!
//! # Invariants
//!
//! - Nothing but the directory that is being made is changed: what is looked at is opened for reading only.
//! - All judgement of what is whole, torn or damaged is that of the parts which read the files at a start.
//! - Whatever is made becomes valid with its last file, which is written when all others are durable: a backup with
//!   its manifest, a restored directory with its identity.
//! - Restoring the same backup gives the same checkpoint, byte by byte, for every node and at any time.
//!
//! # What is deliberately absent
//!
//! Incremental backups, compression, encryption; backups of another machine's directory, except by copying what
//! was made there. Repair: what is damaged is named, never changed. Choosing which entries to restore.

mod backup;
mod check;
mod dump;
mod manifest;
mod restore;
mod text;

use std::path::{Path, PathBuf};

use quorate_protocol::Term;
use thiserror::Error;

use crate::checkpoint::CheckpointError;
use crate::directory::{DirectoryError, DirectoryErrorKind, Identity, RESTORE_TEMPORARY, check_votes};
use crate::disk::Disk;
use crate::log::{LogError, ReadError};

pub use backup::{Backup, backup};
pub use check::{
    BackupSummary, Checked, CheckpointSummary, Finding, IdentitySummary, LogSummary, MemberSummary,
    OriginSummary, Severity, VoteSummary, WholeCheckpoint, check,
};
pub use dump::{DumpSettings, dump};
pub use manifest::{BackedUpCheckpoint, Manifest};
pub use restore::{Restored, restore};
pub use text::{bytes as display_bytes, hex, time as display_time};

/// Why a tool did not do what it was asked to.
#[derive(Debug, Error)]
pub enum OfflineError {
    /// The request cannot be carried out on these directories: change it.
    #[error("{0}")]
    WrongUse(String),
    /// A node runs on the directory.
    #[error(
        "{} is in use by {holder}: what a running node writes may look damaged; stop it, or make a backup and check \
         that",
        path.display()
    )]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the node has written into the lock.
        holder: String,
    },
    /// Identity, vote, lock or manifest.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A checkpoint cannot be written.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log is damaged, or cannot be read or written.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log cannot be read back.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// What was read does not fit together; what, and who must act.
    #[error("{0}")]
    Damaged(String),
    /// Whoever reads the output has stopped reading.
    #[error("cannot print: {0}")]
    Output(#[from] std::io::Error),
}

impl OfflineError {
    /// What the program exits with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::WrongUse(_) => 2,
            Self::InUse { .. } => 3,
            Self::Directory(error) if error.kind() == DirectoryErrorKind::NotForUs => 3,
            _ => 1,
        }
    }
}

fn wrong_use<T>(message: impl Into<String>) -> Result<T, OfflineError> {
    Err(OfflineError::WrongUse(message.into()))
}

/// The names in a directory that must exist.
fn list_existing(disk: &dyn Disk, directory: &Path) -> Result<Vec<String>, OfflineError> {
    disk.list(directory).or_else(|error| wrong_use(format!("cannot read {}: {error}", directory.display())))
}

/// Refuses to make something where there is something, or inside of what it is made from.
fn refuse_unless_empty(disk: &dyn Disk, from: &Path, directory: &Path) -> Result<(), OfflineError> {
    if directory.starts_with(from) {
        return wrong_use(format!(
            "{} is inside of {}: give a directory elsewhere",
            directory.display(),
            from.display()
        ));
    }
    match disk.list(directory) {
        Ok(names) if names.iter().any(|name| name == RESTORE_TEMPORARY) => wrong_use(format!(
            "{} was not restored to the end: remove it, and restore the backup again",
            directory.display()
        )),
        Ok(names) => match names.iter().find(|name| !crate::directory::NOBODYS.contains(&name.as_str())) {
            None => Ok(()),
            Some(found) => wrong_use(format!(
                "{} is not empty, it has {found:?}: give an empty directory, or one that does not exist",
                directory.display()
            )),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => wrong_use(format!("cannot use {}: {error}", directory.display())),
    }
}

/// A path below a directory as it is told to people.
fn relative(directory: &Path, path: &Path) -> String {
    path.strip_prefix(directory).unwrap_or(path).display().to_string()
}

/// The highest term that a node has promised, as far as that can be read.
fn promised(disk: &dyn Disk, directory: &Path, identity: &Identity) -> Term {
    let copies = check_votes(disk, directory, identity).ok().flatten();
    copies.into_iter().flatten().flatten().map(|vote| vote.promise.term).max().unwrap_or(0)
}

fn log_of(directory: &Path) -> PathBuf {
    directory.join(crate::directory::LOG)
}

fn checkpoints_of(directory: &Path) -> PathBuf {
    directory.join(crate::directory::CHECKPOINT)
}

#[cfg(test)]
mod tests;
