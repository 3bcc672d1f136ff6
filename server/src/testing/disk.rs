//! A node's disk, which a kill takes away from it.
//!
//! A process that is killed writes nothing more, whatever its threads were about to do. Threads of this process cannot
//! be killed, so their disk is: from then on every call fails and does nothing. A call that is under way is finished,
//! as a killed process's would be by the kernel.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::disk::{Disk, DiskFile, RealDisk};

/// Whether a disk, its clones and all files opened on it are taken away; and whether anybody has one of them.
#[derive(Clone, Debug, Default)]
pub(super) struct Cut(Arc<AtomicBool>);

impl Cut {
    /// Takes the disk away.
    pub(super) fn cut(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    /// Whether there is no other one of these: no disk, no file, no thread that could use them.
    pub(super) fn is_last(&self) -> bool {
        Arc::strong_count(&self.0) == 1
    }

    fn check(&self) -> io::Result<()> {
        match self.0.load(Ordering::SeqCst) {
            true => Err(io::Error::other("the node was killed by its test")),
            false => Ok(()),
        }
    }
}

/// The machine's file system, until it is [cut](Cut::cut).
#[derive(Debug)]
pub(super) struct CutDisk(pub(super) Cut);

impl CutDisk {
    fn file(&self, file: io::Result<Arc<dyn DiskFile>>) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(CutFile { file: file?, cut: self.0.clone() }))
    }
}

impl Disk for CutDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.check()?;
        self.file(RealDisk.create(path))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.check()?;
        self.file(RealDisk.open(path))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.check()?;
        self.file(RealDisk.open_read(path))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.0.check()?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.0.check()?;
        RealDisk.remove(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.0.check()?;
        RealDisk.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.0.check()?;
        RealDisk.create_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.0.check()?;
        RealDisk.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.check()?;
        self.file(RealDisk.lock(path))
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.0.check()?;
        self.file(RealDisk.lock_shared(path))
    }
}

struct CutFile {
    file: Arc<dyn DiskFile>,
    cut: Cut,
}

impl DiskFile for CutFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.cut.check()?;
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.cut.check()?;
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.cut.check()?;
        self.file.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        self.cut.check()?;
        self.file.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.cut.check()?;
        self.file.set_length(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.cut.check()?;
        self.file.allocate(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_written_after_the_cut_and_the_last_file_that_is_dropped_is_noticed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let cut = Cut::default();
        let disk = CutDisk(cut.clone());
        let file = disk.create(&path).unwrap();
        file.write_all_at(b"before", 0).unwrap();
        cut.cut();
        assert!(file.write_all_at(b"after!", 0).is_err() && file.sync_data().is_err());
        assert!(disk.remove(&path).is_err() && disk.create(&directory.path().join("other")).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"before");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 1);
        drop(disk);
        assert!(!cut.is_last());
        drop(file);
        assert!(cut.is_last());
    }
}
