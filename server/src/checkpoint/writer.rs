//! Writing a checkpoint, block by block.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{io, mem};

use crate::disk::{Disk, DiskFile};
use crate::mutant::{Mutant, is_on};

use super::format::{self, BlockProblem, Contents, Footer, Header, Kind};
use super::{
    Block, CheckpointError, CheckpointHeader, CheckpointInfo, failed, path, sync_failed, temporary_path,
};

/// A checkpoint that is being written. Until [`finish`](Self::finish) it has a temporary name; dropped before
/// that, it leaves the temporary file behind, which the next load removes.
pub struct CheckpointWriter {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    temporary: PathBuf,
    file: Arc<dyn DiskFile>,
    header: Header,
    contents: Contents,
    hasher: blake3::Hasher,
    bytes: u64,
    frame: Vec<u8>,
}

impl CheckpointWriter {
    /// Starts the checkpoint that `header` describes. A temporary file of the same index is replaced.
    pub fn create(
        disk: Arc<dyn Disk>,
        directory: &Path,
        header: &CheckpointHeader,
    ) -> Result<Self, CheckpointError> {
        let temporary = temporary_path(directory, header.index);
        match disk.remove(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &temporary)(error));
            }
            _ => {}
        }
        let file = disk.create(&temporary).map_err(failed("create", &temporary))?;
        let mut writer = Self {
            disk,
            directory: directory.to_owned(),
            temporary,
            file,
            header: Header::of(header),
            contents: Contents::new(header.index, header.term),
            hasher: blake3::Hasher::new(),
            bytes: 0,
            frame: Vec::new(),
        };
        if let Err(error) = writer.begin(header) {
            // As in `finish`.
            let _ = writer.discard();
            return Err(error);
        }
        Ok(writer)
    }

    fn begin(&mut self, header: &CheckpointHeader) -> Result<(), CheckpointError> {
        self.append(&self.header.encode())?;
        for payload in format::encode_terms(&header.terms) {
            self.take(Kind::Terms, &payload)?;
        }
        self.contents.check_terms().map_err(|problem| self.refused(problem))?;
        match format::encode_members(&header.members) {
            Some(payload) => self.take(Kind::Members, &payload),
            None => Ok(()),
        }
    }

    /// Writes a whole block. Not synced.
    pub fn block(&mut self, block: &Block) -> Result<(), CheckpointError> {
        match block {
            Block::Sessions(payload) => self.take(Kind::Sessions, payload),
            Block::Records(payload) => self.take(Kind::Records, payload),
        }
    }

    /// Makes what was written so far durable, so that [`finish`](Self::finish) has less to sync at once.
    pub fn sync(&self) -> Result<(), CheckpointError> {
        self.file.sync_data().map_err(sync_failed(&self.temporary))
    }

    /// Writes the footer, and makes the file durable under its final name. If that fails, the temporary file
    /// is removed as by [`discard`](Self::discard).
    pub fn finish(mut self) -> Result<CheckpointInfo, CheckpointError> {
        let sealed = self.seal();
        if sealed.is_err() {
            // The first error is the one to report; what is left over is removed by the next load.
            let _ = self.discard();
        }
        sealed
    }

    /// Gives up, and removes the temporary file at once: the disk may be full because of it.
    pub fn discard(self) -> Result<(), CheckpointError> {
        self.disk.remove(&self.temporary).map_err(failed("remove", &self.temporary))
    }

    fn seal(&mut self) -> Result<CheckpointInfo, CheckpointError> {
        let Header { index, term, .. } = self.header;
        let Contents { sessions, keys, blocks, .. } = self.contents;
        let mut footer = Footer { index, term, keys, blocks, hash: [0; 32] };
        footer.hash = *self.hasher.update(&footer.encode_hashed()).finalize().as_bytes();
        self.append(&footer.encode())?;
        self.sync()?;
        self.disk
            .rename(&self.temporary, &path(&self.directory, index))
            .map_err(failed("rename", &self.temporary))?;
        if !is_on(Mutant::CheckpointNameNotSynced) {
            self.disk.sync_directory(&self.directory).map_err(sync_failed(&self.directory))?;
        }
        Ok(CheckpointInfo { index, term, sessions, keys, bytes: self.bytes, hash: footer.hash })
    }

    fn take(&mut self, kind: Kind, payload: &[u8]) -> Result<(), CheckpointError> {
        self.contents.take(kind, payload).map_err(|problem| self.refused(problem))?;
        let mut frame = mem::take(&mut self.frame);
        format::encode_block(kind, payload, &mut frame);
        let written = self.append(&frame);
        self.frame = frame;
        written
    }

    fn append(&mut self, bytes: &[u8]) -> Result<(), CheckpointError> {
        self.file.write_all_at(bytes, self.bytes).map_err(failed("write", &self.temporary))?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(())
    }

    fn refused(&self, problem: BlockProblem) -> CheckpointError {
        CheckpointError::Refused { index: self.header.index, problem }
    }
}
