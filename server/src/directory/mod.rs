//! What a data directory is, and whose.
//!
//! ```text
//! DIR/LOCK               held for life; says who holds it                    lock.rs
//! DIR/identity           whose directory it is, and of which cluster (R26)   identity.rs, small_file.rs
//! DIR/vote-a, vote-b     promised term and vote, twice (R5)                  vote.rs
//! DIR/damaged/           a log that was found damaged, until it is whole     held.rs
//! DIR/held               how far a damaged log went, until it is whole (R8) held.rs
//! DIR/members            who votes and counts, from the first admission on   members.rs
//! DIR/boot               while a node with durability os runs (R30)          boot.rs
//! DIR/log/               the log's segments, and which is the newest
//! DIR/checkpoint/        checkpoints
//! ```
//!
//! # Invariants
//!
//! - The identity is durable before anything else is written (by a restore, after everything else), so a directory that has a log, a checkpoint or
//!   a vote but no identity has lost it, and is refused: made anew, it could elect a node that lacks
//!   acknowledged writes (R26).
//! - A directory is never used with other settings than it was made with (R4), and never if it holds
//!   somebody else's files.
//! - Nothing that is damaged is repaired by making it anew.
//!
//! # What is deliberately absent
//!
//! A change of settings or of membership: both need a log entry (R27). So a node that may have lost what it
//! acknowledged is refused, and not yet taken in again as a new incarnation (R30).

mod boot;
mod error;
mod held;
mod identity;
mod lock;
mod members;
pub(crate) mod small_file;
#[cfg(test)]
pub(crate) mod trace_disk;
mod vote;

use std::io;
use std::path::{Path, PathBuf};

use quorate_protocol::{Durability, Incarnation};

use crate::disk::Disk;

pub use boot::{BootId, begin_run, end_run};
pub use error::{DirectoryError, DirectoryErrorKind};
pub use identity::{DirectorySettings, Identity, open_or_create, random_incarnation};
pub use lock::DirectoryLock;
pub use vote::{DamagedCopy, VoteFile};

pub(crate) use boot::check as check_boot;
pub(crate) use error::failed;
pub(crate) use held::{load_held, set_log_aside, store_held};
pub(crate) use lock::SharedLock;
pub(crate) use members::{load_members, store_members};
pub(crate) use vote::check_copies as check_votes;

pub(crate) const LOCK: &str = "LOCK";
pub(crate) const IDENTITY: &str = "identity";
pub(crate) const IDENTITY_TEMPORARY: &str = "identity.tmp";
pub(crate) const VOTES: [&str; 2] = ["vote-a", "vote-b"];
pub(crate) const DAMAGED: &str = "damaged";
pub(crate) const HELD: &str = "held";
pub(crate) const HELD_TEMPORARY: &str = "held.tmp";
pub(crate) const MEMBERS: &str = "members";
pub(crate) const MEMBERS_TEMPORARY: &str = "members.tmp";
pub(crate) const BOOT: &str = "boot";
pub(crate) const BOOT_TEMPORARY: &str = "boot.tmp";
pub(crate) const LOG: &str = "log";
pub(crate) const CHECKPOINT: &str = "checkpoint";

/// A backup's manifest, and what it is called until the backup is whole.
pub(crate) const BACKUP: &str = "backup";
pub(crate) const BACKUP_TEMPORARY: &str = "backup.tmp";

/// There while a backup is being restored.
pub(crate) const RESTORE_TEMPORARY: &str = "restore.tmp";

/// Names that a file system or its mount point brings with it.
pub(crate) const NOBODYS: [&str; 2] = ["lost+found", ".snapshot"];

/// A data directory that is locked, and known to be the right one.
#[derive(Debug)]
pub struct DataDirectory {
    /// Where it is.
    pub path: PathBuf,
    /// Whose it is.
    pub identity: Identity,
    /// What the node has promised.
    pub vote: VoteFile,
    /// A copy of the vote that was damaged and has been written again: worth a line for the operator.
    pub damaged_vote: Option<DamagedCopy>,
    /// Held as long as the directory is used.
    pub lock: DirectoryLock,
}

impl DataDirectory {
    /// Opens the directory at `path`, or makes it, for a node with `settings`. A new one gets the incarnation
    /// `fresh`: [`random_incarnation`], except in a simulation. The directories of log and checkpoints exist
    /// afterwards, and all names are durable. `boot` is the machine's: with `durability=os` a directory that was in
    /// use under another one is refused (R30).
    pub fn open(
        disk: &dyn Disk,
        path: &Path,
        settings: &DirectorySettings,
        fresh: Incarnation,
        boot: Option<BootId>,
    ) -> Result<Self, DirectoryError> {
        create_durably(disk, path)?;
        // Before the lock, which would leave its file among somebody else's.
        refuse_if_not_ours(disk, path)?;
        let lock = DirectoryLock::take(disk, path, settings.node)?;
        let identity = open_or_create(disk, path, settings, fresh)?;
        if identity.durability == Durability::Os {
            boot::check(disk, path, boot)?;
        }
        for part in [LOG, CHECKPOINT].map(|name| path.join(name)) {
            disk.create_directory(&part).map_err(failed("create", &part))?;
        }
        // Syncs the directory, and with it the names of everything above.
        let (vote, damaged_vote) = VoteFile::open(disk, path, &identity)?;
        Ok(Self { path: path.to_owned(), identity, vote, damaged_vote, lock })
    }

    /// Where the log's segments are.
    pub fn log(&self) -> PathBuf {
        self.path.join(LOG)
    }

    /// Where the checkpoints are.
    pub fn checkpoint(&self) -> PathBuf {
        self.path.join(CHECKPOINT)
    }
}

/// Creates a directory and its parents. Their names are durable afterwards, also if a process that was killed
/// had created them; only a parent that may not be read is left to its owner.
pub(crate) fn create_durably(disk: &dyn Disk, path: &Path) -> Result<(), DirectoryError> {
    let mut missing = path;
    let mut parents = Vec::new();
    while let Some(parent) = missing.parent() {
        let existed = disk.list(missing).is_ok();
        missing = if parent == Path::new("") { Path::new(".") } else { parent };
        parents.push(missing);
        if existed {
            break;
        }
    }
    disk.create_directory(path).map_err(failed("create", path))?;
    for parent in parents {
        match disk.sync_directory(parent) {
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => {
                return Err(failed("sync", parent)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Refuses a directory without an identity that has anything in it, and one that was not restored to the end.
fn refuse_if_not_ours(disk: &dyn Disk, path: &Path) -> Result<(), DirectoryError> {
    let names = disk.list(path).map_err(failed("list", path))?;
    if names.iter().any(|name| name == RESTORE_TEMPORARY) {
        return Err(DirectoryError::RestoreUnfinished { path: path.to_owned() });
    }
    if names.iter().any(|name| name == IDENTITY) {
        return Ok(());
    }
    if names.iter().any(|name| name == BACKUP || name == BACKUP_TEMPORARY) {
        return Err(DirectoryError::Backup { path: path.to_owned() });
    }
    let mut foreign = None;
    for name in names {
        match name.as_str() {
            LOCK | IDENTITY_TEMPORARY => {}
            LOG | CHECKPOINT => {
                let inside = disk.list(&path.join(&name)).map_err(failed("list", &path.join(&name)))?;
                if let Some(file) = inside.iter().find(|file| begins_with_index(file)) {
                    return Err(identity_missing(path, format!("{name}/{file}")));
                }
                foreign = foreign.or_else(|| inside.first().map(|file| format!("{name}/{file}")));
            }
            BOOT | BOOT_TEMPORARY => return Err(identity_missing(path, name)),
            vote if VOTES.contains(&vote) => return Err(identity_missing(path, name)),
            nobodys if NOBODYS.contains(&nobodys) => {}
            _ => foreign = foreign.or(Some(name)),
        }
    }
    match foreign {
        Some(found) => Err(DirectoryError::NotOurs { path: path.to_owned(), found }),
        None => Ok(()),
    }
}

/// Segments and checkpoints are named after an index of 20 digits.
fn begins_with_index(name: &str) -> bool {
    name.len() > 20 && name.bytes().take(20).all(|digit| digit.is_ascii_digit())
}

fn identity_missing(path: &Path, found: String) -> DirectoryError {
    DirectoryError::IdentityMissing { path: path.to_owned(), found }
}

#[cfg(test)]
mod tests;
