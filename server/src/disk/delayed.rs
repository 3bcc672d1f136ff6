//! A disk whose syncs are slow on purpose, to measure what a slow disk costs.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use super::{Disk, DiskFile};

/// How much longer each sync takes; shared by all clones, and may be changed at any time.
#[derive(Clone, Debug, Default)]
pub struct SyncDelay {
    micros: Arc<AtomicU64>,
}

impl SyncDelay {
    /// A delay of so much, in whole microseconds.
    pub fn new(delay: Duration) -> Self {
        let new = Self::default();
        new.set(delay);
        new
    }

    /// Changes it for all syncs that begin from now on.
    pub fn set(&self, delay: Duration) {
        let micros = delay.as_micros().try_into().unwrap_or(u64::MAX);
        self.micros.store(micros, Ordering::Relaxed);
    }

    /// What it is now.
    pub fn get(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed))
    }

    fn wait(&self) {
        let delay = self.get();
        if !delay.is_zero() {
            thread::sleep(delay);
        }
    }
}

/// Another disk, on which [`DiskFile::sync_data`] takes longer by a [`SyncDelay`]. Everything else is as it is
/// there, syncs of directories too.
#[derive(Clone, Debug)]
pub struct DelayedDisk {
    disk: Arc<dyn Disk>,
    delay: SyncDelay,
}

impl DelayedDisk {
    /// Slows down a disk.
    pub fn new(disk: Arc<dyn Disk>, delay: SyncDelay) -> Self {
        Self { disk, delay }
    }

    fn slow(&self, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(DelayedFile { file, delay: self.delay.clone() })
    }
}

impl Disk for DelayedDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.create(path).map(|file| self.slow(file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open(path).map(|file| self.slow(file))
    }

    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.open_read(path).map(|file| self.slow(file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.disk.remove(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        self.disk.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.create_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.disk.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.lock(path).map(|file| self.slow(file))
    }

    fn lock_shared(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.disk.lock_shared(path).map(|file| self.slow(file))
    }
}

struct DelayedFile {
    file: Arc<dyn DiskFile>,
    delay: SyncDelay,
}

impl DiskFile for DelayedFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.delay.wait();
        self.file.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.file.set_length(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.file.allocate(length)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn a_sync_takes_as_long_as_was_set_last() {
        let directory = tempfile::tempdir().unwrap();
        let delay = SyncDelay::default();
        let disk = DelayedDisk::new(Arc::new(RealDisk), delay.clone());
        let created = disk.create(&directory.path().join("file")).unwrap();
        created.write_all_at(b"bytes", 0).unwrap();
        let opened = disk.open(&directory.path().join("file")).unwrap();
        let locked = disk.lock(&directory.path().join("lock")).unwrap();
        for wait in [1, 20].map(Duration::from_millis) {
            delay.set(wait);
            assert_eq!(delay.get(), wait);
            for file in [&created, &opened, &locked] {
                let start = Instant::now();
                file.sync_data().unwrap();
                assert!(start.elapsed() >= wait);
            }
        }
        assert_eq!(opened.read_all(10).unwrap(), b"bytes");
    }
}
