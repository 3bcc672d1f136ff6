//! A checkpoint that a simulated node writes: what the checkpoint thread does, step by step and at no rate.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use crate::checkpoint::{
    Block, CheckpointError, CheckpointEvent, CheckpointHeader, CheckpointInfo, CheckpointWriter, KEPT,
    remove_older,
};
use crate::disk::Disk;
use crate::disk::simulated::SimDisk;

/// A checkpoint under way.
pub(super) struct CheckpointJob {
    header: CheckpointHeader,
    writer: Option<CheckpointWriter>,
    blocks: VecDeque<Block>,
    is_complete: bool,
}

impl CheckpointJob {
    pub(super) fn new(header: CheckpointHeader) -> Self {
        Self { header, writer: None, blocks: VecDeque::new(), is_complete: false }
    }

    /// Takes a block.
    pub(super) fn give(&mut self, block: Block, is_last: bool) {
        self.blocks.extend((!block.is_empty()).then_some(block));
        self.is_complete = is_last;
    }

    /// Does the next thing, and returns what the node is to know of it.
    pub(super) fn step(&mut self, disk: &SimDisk, directory: &Path) -> Option<CheckpointEvent> {
        if self.blocks.is_empty() && !self.is_complete {
            return Some(CheckpointEvent::WantsBlock);
        }
        match self.write(disk, directory) {
            Ok(None) => None,
            Ok(Some(info)) => Some(CheckpointEvent::Written(info)),
            Err(error) => {
                self.discard();
                Some(CheckpointEvent::Failed(error))
            }
        }
    }

    /// Nothing comes of it.
    pub(super) fn give_up(mut self) {
        self.discard();
    }

    fn discard(&mut self) {
        if let Some(writer) = self.writer.take() {
            // As the thread does: what is left over is removed by the next start.
            let _ = writer.discard();
        }
    }

    fn write(&mut self, disk: &SimDisk, directory: &Path) -> Result<Option<CheckpointInfo>, CheckpointError> {
        let Some(writer) = &mut self.writer else {
            let disk: Arc<dyn Disk> = Arc::new(disk.clone());
            self.writer = Some(CheckpointWriter::create(disk, directory, &self.header)?);
            return Ok(None);
        };
        if let Some(block) = self.blocks.pop_front() {
            writer.block(&block)?;
            writer.sync()?;
            return Ok(None);
        }
        let info = self.writer.take().expect("it was just there").finish()?;
        // Old ones that stay are removed after the next checkpoint.
        let _ = remove_older(disk, directory, KEPT);
        Ok(Some(info))
    }
}
