//! The disk's part in sending and receiving checkpoints: one command at a time, and what came of it.
//!
//! Production has [`TransferWorker::carry_out`] called by threads of a pool, a simulation calls it itself. What is
//! kept between two calls is only the files that are being sent.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::{Index, NodeId};

use crate::checkpoint::part::{self, InstallError};
use crate::checkpoint::{CheckpointError, CheckpointHeader, CheckpointInfo, Outgoing, Owner};
use crate::disk::Disk;
use crate::replica::Checkpoint;
use crate::store::Store;

/// What is asked of the disk.
#[derive(Debug)]
pub enum TransferCommand {
    /// Open the newest checkpoint that ends at `at_least` or later, for a follower; in place of the one that was open
    /// for it.
    Open {
        /// For whom.
        to: NodeId,
        /// The log goes on behind this.
        at_least: Index,
        /// Whether it is checked as a whole first.
        verify: bool,
    },
    /// Read of the checkpoint that is open for a follower.
    Read {
        /// For whom.
        to: NodeId,
        /// Of the checkpoint.
        index: Index,
        /// Where.
        offset: u64,
        /// How much, at most.
        bytes_max: usize,
    },
    /// Close what is open for a follower. No event comes of it.
    Close(NodeId),
    /// See how much of a checkpoint has been received.
    OpenPart {
        /// Of the checkpoint.
        index: Index,
        /// Bytes of the whole.
        total_bytes: u64,
    },
    /// Write what was received of it next.
    StorePart {
        /// Of the checkpoint.
        index: Index,
        /// Where it begins.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// Check it, load it, and make it the one checkpoint there is. None must be written meanwhile.
    InstallPart {
        /// Of the checkpoint.
        index: Index,
        /// Whose it has to be.
        owner: Owner,
    },
}

/// What came of it.
#[derive(Debug)]
pub enum TransferEvent {
    /// Of [`TransferCommand::Open`].
    Opened {
        /// For whom.
        to: NodeId,
        /// None if there is none that can be sent.
        checkpoint: Option<Checkpoint>,
    },
    /// Of [`TransferCommand::Read`].
    Read {
        /// For whom.
        to: NodeId,
        /// Of the checkpoint.
        index: Index,
        /// Where.
        offset: u64,
        /// None if it cannot be read.
        bytes: Option<Bytes>,
    },
    /// Of [`TransferCommand::OpenPart`] and [`TransferCommand::StorePart`].
    Stored {
        /// Of the checkpoint.
        index: Index,
        /// Bytes that are there, from the beginning on.
        bytes: u64,
    },
    /// Of the same: there is no room.
    NoRoom {
        /// Of the checkpoint.
        index: Index,
        /// Why.
        error: CheckpointError,
    },
    /// Of [`TransferCommand::InstallPart`].
    Installed(Box<Installed>),
    /// Of the same: it was not whole, and is gone.
    Damaged {
        /// Of the checkpoint.
        index: Index,
        /// What is wrong.
        error: InstallError,
    },
    /// The disk has failed: what it holds is not known any more, and the node must stop.
    Failed(CheckpointError),
}

/// A checkpoint that is durable and loaded.
#[derive(Debug)]
pub struct Installed {
    /// What it is of.
    pub header: CheckpointHeader,
    /// Its size and hash.
    pub info: CheckpointInfo,
    /// What is in it.
    pub store: Store,
}

/// Where checkpoints are, and those that are being sent.
#[derive(Debug)]
pub struct TransferWorker {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    outgoing: Mutex<BTreeMap<NodeId, Arc<Outgoing>>>,
    changes: Mutex<Changes>,
    ended: Condvar,
}

/// What is being changed on the disk.
#[derive(Debug, Default)]
struct Changes {
    under_way: usize,
    /// Nothing may be changed any more.
    is_stopped: bool,
}

/// A change that is under way.
struct Change<'a>(&'a TransferWorker);

impl Drop for Change<'_> {
    fn drop(&mut self) {
        self.0.changes().under_way -= 1;
        self.0.ended.notify_all();
    }
}

impl TransferWorker {
    /// Over the directory that has the checkpoints.
    pub fn new(disk: Arc<dyn Disk>, directory: PathBuf) -> Self {
        let (outgoing, changes, ended) = (Mutex::default(), Mutex::default(), Condvar::new());
        Self { disk, directory, outgoing, changes, ended }
    }

    /// Changes nothing on the disk from now on, and waits until what is being changed is; not longer than `patience`.
    /// Returns whether it is.
    pub fn stop(&self, patience: Duration) -> bool {
        let mut changes = self.changes();
        changes.is_stopped = true;
        let ended = self.ended.wait_timeout_while(changes, patience, |changes| changes.under_way > 0);
        ended.expect("nobody panics while holding it").0.under_way == 0
    }

    /// Does one thing, which may take as long as reading or writing a whole checkpoint. No event comes of what was not
    /// done because of a [stop](Self::stop).
    pub fn carry_out(&self, command: TransferCommand) -> Option<TransferEvent> {
        let (disk, directory) = (&*self.disk, &*self.directory);
        Some(match command {
            TransferCommand::Open { to, at_least, verify } => {
                TransferEvent::Opened { to, checkpoint: self.open(to, at_least, verify) }
            }
            TransferCommand::Read { to, index, offset, bytes_max } => {
                TransferEvent::Read { to, index, offset, bytes: self.read(to, index, offset, bytes_max) }
            }
            TransferCommand::Close(to) => {
                // Closed without the lock: freeing a file that was removed takes a while.
                let closed = self.outgoing().remove(&to);
                drop(closed);
                return None;
            }
            TransferCommand::OpenPart { index, total_bytes } => {
                let _change = self.change()?;
                stored(index, part::open(disk, directory, index, total_bytes))
            }
            TransferCommand::StorePart { index, offset, bytes } => {
                let _change = self.change()?;
                let end = offset + bytes.len() as u64;
                stored(index, part::store(disk, directory, index, offset, &bytes).map(|()| end))
            }
            TransferCommand::InstallPart { index, owner } => self.install(index, owner)?,
        })
    }

    fn open(&self, to: NodeId, at_least: Index, verify: bool) -> Option<Checkpoint> {
        let found = Outgoing::open_newest(&*self.disk, &self.directory, at_least, verify);
        let found = found.unwrap_or_else(|error| {
            tracing::error!("no checkpoint can be sent to node {to}: {error}");
            None
        });
        let checkpoint = found.as_ref().map(|found| Checkpoint { index: found.index, bytes: found.bytes });
        let closed = match found {
            Some(found) => self.outgoing().insert(to, Arc::new(found)),
            None => self.outgoing().remove(&to),
        };
        drop(closed);
        checkpoint
    }

    fn read(&self, to: NodeId, index: Index, offset: u64, bytes_max: usize) -> Option<Bytes> {
        let outgoing = self.outgoing().get(&to).filter(|outgoing| outgoing.index == index).cloned()?;
        match outgoing.read(offset, bytes_max) {
            Ok(bytes) => Some(bytes),
            Err(error) => {
                tracing::error!("checkpoint {index} cannot be read for node {to}: {error}");
                None
            }
        }
    }

    fn install(&self, index: Index, owner: Owner) -> Option<TransferEvent> {
        let (disk, directory) = (&*self.disk, &*self.directory);
        let mut store = Store::default();
        let loaded = part::load(disk, directory, index, owner, |item| item.restore(&mut store));
        let _change = self.change()?;
        let installed = loaded.and_then(|loaded| {
            part::install(disk, directory, index)?;
            Ok(loaded)
        });
        Some(match installed {
            Ok((header, info)) => {
                store.restored(index);
                TransferEvent::Installed(Box::new(Installed { header, info, store }))
            }
            Err(error @ InstallError::Damaged { .. }) => match part::discard(disk, directory, index) {
                Ok(()) => TransferEvent::Damaged { index, error },
                Err(error) => TransferEvent::Failed(error),
            },
            Err(InstallError::Checkpoint(error)) => TransferEvent::Failed(error),
        })
    }

    /// None after a stop.
    fn change(&self) -> Option<Change<'_>> {
        let mut changes = self.changes();
        if changes.is_stopped {
            return None;
        }
        changes.under_way += 1;
        Some(Change(self))
    }

    fn changes(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().expect("nobody panics while holding it")
    }

    fn outgoing(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Outgoing>>> {
        self.outgoing.lock().expect("nobody panics while holding it")
    }
}

fn stored(index: Index, done: Result<u64, CheckpointError>) -> TransferEvent {
    match done {
        Ok(bytes) => TransferEvent::Stored { index, bytes },
        Err(error) if error.is_no_room() => TransferEvent::NoRoom { index, error },
        Err(error) => TransferEvent::Failed(error),
    }
}
