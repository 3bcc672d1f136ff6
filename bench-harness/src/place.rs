//! Where the nodes of one run keep their data and logs: a fresh directory, removed after the run, or kept
//! if somebody will want to look at it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use crate::units::{counted, show_bytes};

/// A directory of its own for one run. Removed on drop, unless [kept](Place::keep).
#[derive(Debug)]
pub struct Place {
    directory: TempDir,
}

impl Place {
    /// A fresh directory under `parent`.
    pub fn new(parent: &Path) -> anyhow::Result<Self> {
        let directory =
            tempfile::Builder::new().prefix("quorate-run-").tempdir_in(parent).with_context(|| {
                format!("no directory can be made in {}: choose another --data-dir", parent.display())
            })?;
        Ok(Self { directory })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Leaves the directory where it is.
    pub fn keep(self) -> PathBuf {
        self.directory.keep()
    }
}

/// Bytes that the harness wants to find free for each node: its log's segments are zeroed ahead of use, two at a time.
const NODE_BYTES: u64 = 192 << 20;

/// Whether the nodes of a plan's largest cluster can begin to write there. The error is a sentence that says what
/// to do.
pub fn check_space(directory: &Path, replicas: u8) -> Result<(), String> {
    let Some(free) = free_bytes(directory) else { return Ok(()) };
    enough(free, replicas).map_err(|needed| {
        format!(
            "--data-dir {} has {} free, and {} want {}: free some space, or choose another --data-dir",
            directory.display(),
            show_bytes(free),
            counted(replicas.into(), "node"),
            show_bytes(needed)
        )
    })
}

/// Whether a disk is so full that this explains why a node has ended.
pub fn is_full(directory: &Path) -> bool {
    free_bytes(directory).is_some_and(|free| free < NODE_BYTES / 2)
}

/// None if the system does not tell.
fn free_bytes(directory: &Path) -> Option<u64> {
    let space = rustix::fs::statvfs(directory).ok()?;
    space.f_bavail.checked_mul(space.f_frsize)
}

fn enough(free: u64, replicas: u8) -> Result<(), u64> {
    let needed = NODE_BYTES * u64::from(replicas);
    if free < needed { Err(needed) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_space_is_refused_before_anything_is_started() {
        assert_eq!(enough(3 * NODE_BYTES, 3), Ok(()));
        assert_eq!(enough(3 * NODE_BYTES - 1, 3), Err(3 * NODE_BYTES));
        // A directory that is not there has no space that is known.
        check_space(Path::new("/no/such/directory"), 3).unwrap();
    }

    #[test]
    fn a_place_is_removed_unless_it_is_kept() {
        let parent = tempfile::tempdir().unwrap();
        let removed = Place::new(parent.path()).unwrap();
        let gone = removed.path().to_owned();
        drop(removed);
        assert!(!gone.exists());
        let kept = Place::new(parent.path()).unwrap().keep();
        assert!(kept.starts_with(parent.path()) && kept.is_dir());
    }
}
