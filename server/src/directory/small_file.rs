//! A small file that is read and replaced as a whole.
//!
//! ```text
//!  0   8   magic                            the layout up to byte 20 is the same in every version
//!  8   4   version        u32 LE
//! 12   4   length         u32 LE   of the payload
//! 16   4   CRC-32C        u32 LE   of bytes 0 to 15 and the payload
//! 20   …   payload        the file ends with it
//! ```
//!
//! It is written under its temporary name, synced, renamed, and the directory synced: so a file under its
//! final name is whole, and whatever is wrong with it later is damage of the disk.

use std::io;
use std::path::Path;

use crate::disk::Disk;

use super::error::{DirectoryError, failed};

const HEADER_BYTES: usize = 20;

/// What tells one kind of small file from another.
pub(crate) struct SmallFile {
    /// Its first bytes.
    pub(crate) magic: [u8; 8],
    /// The format that is written, and the only one that is read.
    pub(crate) version: u32,
    /// Bytes of a payload, at most.
    pub(crate) payload_bytes_max: usize,
    /// What the file is called.
    pub(crate) name: &'static str,
    /// What it is called until it is whole.
    pub(crate) temporary: &'static str,
    /// What is said of one that begins otherwise.
    pub(crate) not_one: &'static str,
}

impl SmallFile {
    /// The payload of a directory's file; nothing is changed.
    pub(crate) fn load(&self, disk: &dyn Disk, directory: &Path) -> Result<Vec<u8>, DirectoryError> {
        let path = directory.join(self.name);
        let damaged = |why| DirectoryError::Damaged { path: path.clone(), why };
        let file = disk.open_read(&path).map_err(failed("open", &path))?;
        let length = file.length().map_err(failed("read", &path))?;
        let bytes_max = HEADER_BYTES + self.payload_bytes_max;
        if !(HEADER_BYTES as u64..=bytes_max as u64).contains(&length) {
            return Err(damaged("its length is impossible"));
        }
        let mut bytes = file.read_all(bytes_max).map_err(failed("read", &path))?;
        let version = self.check(&bytes).map_err(damaged)?;
        let supported = self.version;
        if version > supported {
            return Err(DirectoryError::NewerVersion { path, version, supported });
        }
        if version < supported {
            return Err(DirectoryError::OlderVersion { path, version, supported });
        }
        bytes.drain(..HEADER_BYTES);
        Ok(bytes)
    }

    /// Makes this the directory's file, durably.
    pub(crate) fn store(
        &self,
        disk: &dyn Disk,
        directory: &Path,
        payload: &[u8],
    ) -> Result<(), DirectoryError> {
        let temporary = directory.join(self.temporary);
        match disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &temporary)(error));
            }
            _ => {}
        }
        let file = disk.create(&temporary).map_err(failed("create", &temporary))?;
        file.write_all_at(&self.encode(payload), 0).map_err(failed("write", &temporary))?;
        file.sync_data().map_err(failed("sync", &temporary))?;
        disk.rename(&temporary, &directory.join(self.name)).map_err(failed("rename", &temporary))?;
        disk.sync_directory(directory).map_err(failed("sync", directory))
    }

    fn encode(&self, payload: &[u8]) -> Vec<u8> {
        debug_assert!(payload.len() <= self.payload_bytes_max);
        let mut bytes = Vec::with_capacity(HEADER_BYTES + payload.len());
        bytes.extend_from_slice(&self.magic);
        bytes.extend_from_slice(&self.version.to_le_bytes());
        bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&bytes), payload);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(payload);
        bytes
    }

    /// The version, if the bytes are what was written.
    fn check(&self, bytes: &[u8]) -> Result<u32, &'static str> {
        let Some((header, payload)) = bytes.split_first_chunk::<HEADER_BYTES>() else {
            return Err("its length is impossible");
        };
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        if header[..8] != self.magic {
            return Err(self.not_one);
        }
        if word(12) as usize != payload.len() {
            return Err("its length is not what was written");
        }
        if crc32c::crc32c_append(crc32c::crc32c(&header[..16]), payload) != word(16) {
            return Err("its checksum is wrong");
        }
        Ok(word(8))
    }
}
