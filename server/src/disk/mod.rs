//! The disk, as far as the server uses it: the only part that touches `std::fs`.
//!
//! Log, checkpoint, vote and identity are written against [`Disk`] and [`DiskFile`], so that they run the
//! same on the [real](RealDisk) disk, on a [slow](DelayedDisk) one, and in tests on a simulated one that tears,
//! forgets and fails. Every operation here has one effect, and what makes it durable is a separate operation:
//!
//! | effect | durable after |
//! |---|---|
//! | bytes written to a file | [`DiskFile::sync_data`] |
//! | a file's new length | [`DiskFile::sync_data`] |
//! | a name created, renamed or removed | [`Disk::sync_directory`] of its directory |
//!
//! After a failed sync nobody may sync the same file again and believe the answer: the kernel reports an
//! error once and calls the pages clean. The node stops instead.
//!
//! A [shortage](is_shortage) is no failure of that kind: what was asked for did not happen, and may be asked for
//! again.

mod delayed;
mod real;
#[cfg(test)]
pub(crate) mod simulated;

use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;

pub use delayed::{DelayedDisk, SyncDelay};
pub use real::RealDisk;

/// A file system.
pub trait Disk: fmt::Debug + Send + Sync + 'static {
    /// Creates a file that must not exist yet, for reading and writing.
    fn create(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading and writing.
    fn open(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Opens an existing file for reading only: for whoever looks into a directory that somebody else may be using.
    fn open_read(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open(path)
    }

    /// Gives a file another name, replacing what has that name.
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;

    /// Removes a file.
    fn remove(&self, path: &Path) -> io::Result<()>;

    /// The names in a directory, sorted. Names that are not UTF-8 are left out: none of ours are.
    fn list(&self, directory: &Path) -> io::Result<Vec<String>>;

    /// Creates a directory and its parents; no error if it exists.
    fn create_directory(&self, path: &Path) -> io::Result<()>;

    /// Makes names created, renamed and removed in a directory durable.
    fn sync_directory(&self, path: &Path) -> io::Result<()>;

    /// Takes the exclusive lock on a file, creating it if absent, and holds it until the result is dropped
    /// or the process ends. `ErrorKind::WouldBlock` if another process holds it.
    fn lock(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>>;

    /// Takes the lock on an existing file together with others who share it, and changes nothing of the file.
    /// `ErrorKind::WouldBlock` if somebody holds it [exclusively](Self::lock).
    fn lock_shared(&self, path: &Path) -> io::Result<Arc<dyn DiskFile>> {
        self.open_read(path)?;
        self.lock(path)
    }
}

/// An open file. All methods may be called from several threads.
pub trait DiskFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes; 0 only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;

    /// Writes as many of `bytes` as it gets away with, and says how many.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<usize>;

    /// Makes everything written so far durable, and the length.
    fn sync_data(&self) -> io::Result<()>;

    /// The file's length in bytes.
    fn length(&self) -> io::Result<u64>;

    /// Cuts the file, or extends it with zeros.
    fn set_length(&self, length: u64) -> io::Result<()>;

    /// Extends the file with zeros to `length`, and has the space set aside where the file system can: writes
    /// below it then find room.
    fn allocate(&self, length: u64) -> io::Result<()>;

    /// Writes all of `bytes`, or fails having written some of them.
    fn write_all_at(&self, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_at(bytes, offset) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    bytes = &bytes[written..];
                    offset += written as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Fills `buffer` from `offset`; `ErrorKind::UnexpectedEof` if the file ends before.
    fn read_exact_at(&self, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
        while !buffer.is_empty() {
            match self.read_at(buffer, offset)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => {
                    buffer = &mut buffer[read..];
                    offset += read as u64;
                }
            }
        }
        Ok(())
    }

    /// The whole file, which must not be longer than `bytes_max`.
    fn read_all(&self, bytes_max: usize) -> io::Result<Vec<u8>> {
        let length = self.length()?;
        if length > bytes_max as u64 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{length} bytes, more than {bytes_max}"),
            ));
        }
        let mut bytes = vec![0; length as usize];
        self.read_exact_at(&mut bytes, 0)?;
        Ok(bytes)
    }
}

/// Whether an error says that something is used up that may come back: space, descriptors, memory, threads.
/// Nothing is wrong with what is on the disk.
pub fn is_shortage(error: &io::Error) -> bool {
    use io::ErrorKind::{OutOfMemory, QuotaExceeded, StorageFull, WouldBlock};
    use rustix::io::Errno;
    let of_descriptors = [Errno::MFILE, Errno::NFILE].map(Errno::raw_os_error);
    matches!(error.kind(), StorageFull | QuotaExceeded | OutOfMemory | WouldBlock)
        || error.raw_os_error().is_some_and(|code| of_descriptors.contains(&code))
}
