//! Why a data directory is refused, and who must act.

use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum DirectoryError {
    /// Another process has it.
    #[error("{} is in use by {holder}: stop that process, or use another directory", path.display())]
    InUse {
        /// The directory.
        path: PathBuf,
        /// What the other process wrote into the lock.
        holder: String,
    },
    /// It was made with other settings (R4).
    #[error(
        "{} was made with {differences}: start with the settings that it was made with, or use another directory",
        path.display()
    )]
    OtherSettings {
        /// The directory.
        path: PathBuf,
        /// Each setting that differs, with both values.
        differences: String,
    },
    /// It holds other files.
    #[error(
        "{} is not empty and not a Quorate data directory: it has {found:?}; use another directory",
        path.display()
    )]
    NotOurs {
        /// The directory.
        path: PathBuf,
        /// One of those files.
        found: String,
    },
    /// It has data, and the identity is gone.
    #[error(
        "{} has {found:?} but no identity: put the identity back; if it is lost, this replica's data cannot \
         be used: start it with an empty directory",
        path.display()
    )]
    IdentityMissing {
        /// The directory.
        path: PathBuf,
        /// A file that is there.
        found: String,
    },
    /// A file is not what was written.
    #[error(
        "{} is damaged ({why}): put back the right file, or start this replica with an empty directory",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It was in use with `durability=os` when its machine stopped, or may have been (R30).
    #[error(
        "{} was in use with --durability os and not stopped, and {why}: writes that this replica has acknowledged may \
         be lost, so it takes no part any more; the other replicas go on without it; to have all of them again, form a \
         new cluster in empty directories and copy the data into it",
        path.display()
    )]
    CacheLost {
        /// The directory.
        path: PathBuf,
        /// What is known of the machine.
        why: &'static str,
    },
    /// A backup was to be restored into it, and that did not come to its end.
    #[error(
        "{} was not restored to the end: remove it, and restore the backup again",
        path.display()
    )]
    RestoreUnfinished {
        /// The directory.
        path: PathBuf,
    },
    /// No copy of the vote is left (R5).
    #[error(
        "both copies of the vote are lost ({first}; {second}): this replica does not vote under that identity \
         again; start it with an empty directory"
    )]
    VoteLost {
        /// The first copy, and what is wrong with it.
        first: String,
        /// The second.
        second: String,
    },
    /// A newer version of this program wrote it.
    #[error(
        "{} has version {version} of its format, newer than {supported}: use the newer program",
        path.display()
    )]
    NewerVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The newest version that this program reads.
        supported: u32,
    },
    /// An older version of this program wrote it, and this one does not read that.
    #[error(
        "{} has version {version} of its format, and this program reads only {supported}: use a program that \
         reads version {version}",
        path.display()
    )]
    OlderVersion {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The version that this program reads.
        supported: u32,
    },
    /// It is a backup.
    #[error(
        "{path} is a backup, which no node runs on: make a data directory from it with \
         'quorate-server restore {path} --data DIR', with the settings that the node gets",
        path = path.display()
    )]
    Backup {
        /// The directory.
        path: PathBuf,
    },
    /// The file system refused.
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        /// The operation.
        doing: &'static str,
        /// On what.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
}

/// What an error means to whoever started the program.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DirectoryErrorKind {
    /// The directory is right, for another process, node, cluster, version or other settings.
    NotForUs,
    /// The directory was right, and has lost something.
    Damaged,
    /// The machine's fault.
    Failed,
}

impl DirectoryErrorKind {
    /// What the program exits with.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::NotForUs => 3,
            Self::Damaged => 4,
            Self::Failed => 1,
        }
    }
}

impl DirectoryError {
    /// What it means to whoever started the program.
    pub fn kind(&self) -> DirectoryErrorKind {
        match self {
            Self::InUse { .. }
            | Self::OtherSettings { .. }
            | Self::NotOurs { .. }
            | Self::NewerVersion { .. }
            | Self::OlderVersion { .. }
            | Self::Backup { .. } => DirectoryErrorKind::NotForUs,
            Self::IdentityMissing { .. }
            | Self::Damaged { .. }
            | Self::CacheLost { .. }
            | Self::RestoreUnfinished { .. }
            | Self::VoteLost { .. } => DirectoryErrorKind::Damaged,
            Self::Io { .. } => DirectoryErrorKind::Failed,
        }
    }
}

/// Turns an I/O error into one that says what failed on what.
pub(crate) fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    move |source| DirectoryError::Io { doing, path, source }
}
