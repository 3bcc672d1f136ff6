//! A checkpoint that is sent to another replica: its file, as it is.

use std::path::Path;
use std::sync::Arc;
use std::{fmt, io};

use bytes::Bytes;
use quorate_protocol::Index;

use crate::disk::{Disk, DiskFile};

use super::reader::Reader;
use super::{CheckpointError, Damage, list, path};

/// A checkpoint's file, open for as long as it is sent: it may be removed meanwhile, and takes its space until it is
/// closed.
pub struct Outgoing {
    file: Arc<dyn DiskFile>,
    /// The last entry that it contains.
    pub index: Index,
    /// Bytes of the file.
    pub bytes: u64,
}

impl fmt::Debug for Outgoing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Outgoing").field("index", &self.index).field("bytes", &self.bytes).finish()
    }
}

impl Outgoing {
    /// Opens the newest checkpoint that ends at `at_least` or later; `None` if there is none that can be read. Only
    /// with `verify` the whole of it is checked: whoever receives it does so in any case.
    pub fn open_newest(
        disk: &dyn Disk,
        directory: &Path,
        at_least: Index,
        verify: bool,
    ) -> Result<Option<Self>, CheckpointError> {
        let recent = list(disk, directory)?.into_iter().rev().take_while(|index| *index >= at_least);
        for index in recent {
            let path = path(directory, index);
            match Self::open(disk, &path, index, verify) {
                Ok(outgoing) => return Ok(Some(outgoing)),
                Err(damage) => {
                    tracing::error!("a checkpoint cannot be sent: {}: {damage}", path.display());
                }
            }
        }
        Ok(None)
    }

    fn open(disk: &dyn Disk, path: &Path, index: Index, verify: bool) -> Result<Self, Damage> {
        let file = disk.open_read(path)?;
        let reader = Reader::open(&*file, index)?;
        match verify {
            true => drop(reader.check()?),
            false => drop(reader.footer()?),
        }
        Ok(Self { index, bytes: file.length()?, file })
    }

    /// Up to `bytes_max` bytes from `offset` on; none at the end of the file.
    pub fn read(&self, offset: u64, bytes_max: usize) -> io::Result<Bytes> {
        let mut bytes = vec![0; bytes_max];
        let read = self.file.read_at(&mut bytes, offset)?;
        bytes.truncate(read);
        Ok(bytes.into())
    }
}
