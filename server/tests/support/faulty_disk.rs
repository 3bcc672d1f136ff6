//! The machine's disk with faults that a test begins and ends at any time.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};

use quorate_server::disk::{Disk, DiskFile, RealDisk};
use rustix::io::Errno;

use super::wait_for;

/// What is wrong with a disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    /// The next sync fails with EIO, and none after it: as after it the kernel calls the pages clean.
    SyncFailsOnce,
    /// Every sync fails with EIO.
    SyncFails,
    /// No space for anything new: files, names, bytes beyond a file's end. What has its space can be written.
    Full,
    /// Whatever changes something fails with EROFS.
    ReadOnly,
    /// Syncs do not return until the fault ends.
    Hung,
}

#[derive(Debug, Default)]
struct State {
    fault: Option<Fault>,
    /// In the paths of the files that it concerns.
    part: &'static str,
    /// Calls that it has hit since it began.
    hits: u64,
}

/// Another name for the same faults is a clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct FaultyDisk {
    shared: Arc<(Mutex<State>, Condvar)>,
}

impl FaultyDisk {
    pub(crate) fn begin(&self, fault: Fault) {
        self.begin_at(fault, "");
    }

    /// Only for files and directories whose path has this part.
    pub(crate) fn begin_at(&self, fault: Fault, part: &'static str) {
        *self.state() = State { fault: Some(fault), part, hits: 0 };
    }

    pub(crate) fn end(&self) {
        self.state().fault = None;
        self.shared.1.notify_all();
    }

    /// Waits until the fault has hit a call.
    pub(crate) fn wait_hit(&self) {
        wait_for("a call that the fault hits", || (self.state().hits > 0).then_some(()));
    }

    pub(crate) fn assert_hit(&self) {
        assert!(self.state().hits > 0, "the fault did not happen");
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.0.lock().unwrap()
    }

    /// The fault, if it concerns the file.
    fn fault(&self, path: &Path) -> Option<Fault> {
        let state = self.state();
        state.fault.filter(|_| path.to_str().unwrap().contains(state.part))
    }

    fn fail(&self, errno: Errno) -> io::Result<()> {
        self.state().hits += 1;
        Err(errno.into())
    }

    /// Before something changes; whether it `grows`, so that it needs space.
    fn change(&self, path: &Path, grows: bool) -> io::Result<()> {
        match self.fault(path) {
            Some(Fault::Full) if grows => self.fail(Errno::NOSPC),
            Some(Fault::ReadOnly) => self.fail(Errno::ROFS),
            _ => Ok(()),
        }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        match self.fault(path) {
            Some(Fault::SyncFailsOnce) => {
                self.state().fault = None;
                self.fail(Errno::IO)
            }
            Some(Fault::SyncFails) => self.fail(Errno::IO),
            Some(Fault::Hung) => {
                let mut state = self.state();
                state.hits += 1;
                let hung = |state: &mut State| state.fault == Some(Fault::Hung);
                drop(self.shared.1.wait_while(state, hung).unwrap());
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn file(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultyFile { file, path: path.to_owned(), disk: self.clone() })
    }
}

impl Disk for FaultyDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.change(path, true)?;
        RealDisk.create(path).map(|file| self.file(path, file))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        let file = RealDisk.open(path)?;
        self.change(path, false)?; // Files are opened for writing, too.
        Ok(self.file(path, file))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.change(to, false)?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.change(path, false)?;
        RealDisk.remove(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        if !path.is_dir() {
            self.change(path, true)?;
        }
        RealDisk.create_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.sync(path)?;
        RealDisk.sync_directory(path)
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.change(path, !path.exists())?;
        RealDisk.lock(path).map(|file| self.file(path, file))
    }
}

struct FaultyFile {
    file: Arc<dyn DiskFile>,
    path: PathBuf,
    disk: FaultyDisk,
}

impl FaultyFile {
    fn change(&self, end: u64) -> io::Result<()> {
        self.disk.change(&self.path, end > self.file.length()?)
    }
}

impl DiskFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.change(offset + bytes.len() as u64)?;
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.sync(&self.path)?;
        self.file.sync_data()
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.change(length)?;
        self.file.set_length(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.change(length)?;
        self.file.allocate(length)
    }
}
