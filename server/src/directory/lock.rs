//! One process per data directory.
//!
//! `DIR/LOCK` is locked with `flock` for as long as a node runs; what is in it is for people: `pid <number>,
//! node <id>` of the last that took it, without a newline. Tools that read a directory offline share the lock.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::{fmt, process};

use quorate_protocol::NodeId;
use tracing::warn;

use crate::disk::{Disk, DiskFile};

use super::LOCK;
use super::error::{DirectoryError, failed};

/// Bytes of the lock's text.
const TEXT_BYTES_MAX: usize = 256;

/// A data directory's lock, held until this is dropped or the process ends.
pub struct DirectoryLock {
    _file: Arc<dyn DiskFile>,
}

impl DirectoryLock {
    /// Takes the lock of an existing directory, and writes into it who has it.
    pub fn take(disk: &dyn Disk, directory: &Path, node: NodeId) -> Result<Self, DirectoryError> {
        let path = directory.join(LOCK);
        let file = disk.lock(&path).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => {
                DirectoryError::InUse { path: directory.to_owned(), holder: holder(disk, &path) }
            }
            _ => failed("lock", &path)(error),
        })?;
        let text = format!("pid {}, node {node}", process::id());
        if let Err(error) = file.set_length(0).and_then(|()| file.write_all_at(text.as_bytes(), 0)) {
            // The lock holds all the same, and a full disk must not keep a replica from starting.
            warn!("cannot write {}: {error}", path.display());
        }
        Ok(Self { _file: file })
    }
}

/// A directory's lock, shared with others that only read; it keeps nodes out while it is held.
pub(crate) struct SharedLock {
    _file: Option<Arc<dyn DiskFile>>,
}

impl SharedLock {
    /// Takes the lock of a directory, which is not changed by that. A directory without a lock's file has never
    /// been used, or is none, and is not locked.
    pub(crate) fn take(disk: &dyn Disk, directory: &Path) -> Result<Self, DirectoryError> {
        let path = directory.join(LOCK);
        match disk.lock_shared(&path) {
            Ok(file) => Ok(Self { _file: Some(file) }),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound => Ok(Self { _file: None }),
                io::ErrorKind::WouldBlock => {
                    Err(DirectoryError::InUse { path: directory.to_owned(), holder: holder(disk, &path) })
                }
                _ => Err(failed("lock", &path)(error)),
            },
        }
    }
}

/// Who holds the lock, as far as it can be told: the text is written only after the lock was taken.
fn holder(disk: &dyn Disk, path: &Path) -> String {
    disk.open_read(path)
        .and_then(|file| file.read_all(TEXT_BYTES_MAX))
        .ok()
        .and_then(|text| String::from_utf8(text).ok())
        .filter(|text| !text.is_empty())
        .unwrap_or_else(|| "a process that has not said who it is".into())
}

impl fmt::Debug for DirectoryLock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DirectoryLock").finish_non_exhaustive()
    }
}
