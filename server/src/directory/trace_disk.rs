//! For tests: the real disk, with a record of every change, and one operation that fails. Syncs are recorded
//! and not done: no test outlives a power cut.

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::disk::{Disk, DiskFile, RealDisk};

/// The real disk, watched.
#[derive(Clone, Debug, Default)]
pub(crate) struct TraceDisk(Arc<Mutex<Trace>>);

#[derive(Debug, Default)]
struct Trace {
    operations: Vec<String>,
    fault: Option<(String, io::ErrorKind)>,
}

struct TraceFile {
    name: String,
    file: Arc<dyn DiskFile>,
    disk: TraceDisk,
}

impl TraceDisk {
    /// The changes so far, as "write vote-a"; forgets them.
    pub(crate) fn take_operations(&self) -> Vec<String> {
        std::mem::take(&mut self.trace().operations)
    }

    /// Every operation that is recorded as `operation` fails from now on.
    pub(crate) fn fail(&self, operation: &str, kind: io::ErrorKind) {
        self.trace().fault = Some((operation.to_owned(), kind));
    }

    fn trace(&self) -> MutexGuard<'_, Trace> {
        self.0.lock().unwrap()
    }

    fn note(&self, verb: &str, path: &Path) -> io::Result<()> {
        let operation = format!("{verb} {}", name(path));
        let mut trace = self.trace();
        let failed = trace.fault.as_ref().filter(|(fault, _)| *fault == operation).map(|(_, kind)| *kind);
        trace.operations.push(operation);
        failed.map_or(Ok(()), |kind| Err(kind.into()))
    }

    fn watch(&self, path: &Path, file: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(TraceFile { name: name(path), file, disk: self.clone() })
    }
}

/// How a path is recorded: its last part, if it has one.
pub(crate) fn name(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_str().unwrap().to_owned()
}

impl Disk for TraceDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.note("create", path)?;
        Ok(self.watch(path, RealDisk.create(path)?))
    }

    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        Ok(self.watch(path, RealDisk.open(path)?))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.note("rename", from)?;
        RealDisk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        self.note("remove", path)?;
        RealDisk.remove(path)
    }

    fn list(&self, directory: &Path) -> io::Result<Vec<String>> {
        RealDisk.list(directory)
    }

    fn create_directory(&self, path: &Path) -> io::Result<()> {
        RealDisk.create_directory(path)
    }

    fn sync_directory(&self, path: &Path) -> io::Result<()> {
        self.note("sync directory", path)
    }

    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        RealDisk.lock(path)
    }
}

impl DiskFile for TraceFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.file.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize> {
        self.disk.note("write", Path::new(&self.name))?;
        self.file.write_at(bytes, offset)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.disk.note("sync", Path::new(&self.name))
    }

    fn length(&self) -> io::Result<u64> {
        self.file.length()
    }

    fn set_length(&self, length: u64) -> io::Result<()> {
        self.disk.note("set length", Path::new(&self.name))?;
        self.file.set_length(length)
    }

    fn allocate(&self, length: u64) -> io::Result<()> {
        self.disk.note("allocate", Path::new(&self.name))?;
        self.file.allocate(length)
    }
}
