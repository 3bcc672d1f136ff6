//! Where the nodes of one run keep their data and logs: a fresh directory, removed after the run, or kept
//! if somebody will want to look at it.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

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

#[cfg(test)]
mod tests {
    use super::*;

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
