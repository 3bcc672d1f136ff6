//! Checkpoints on their way: what the replica decides about them joined with the disk, the store and the log.
//!
//! A leader keeps the file that a follower is sent open until the follower has it, or until the log no longer reaches
//! back to it. A follower that loads a checkpoint gives up the one that it writes itself, so that no older one can
//! appear beside it, and takes none until it is done. The store it has is served from until then, so for a while
//! there are two.

use quorate_protocol::peer::{CheckpointAck, CheckpointState};
use quorate_protocol::response::{CheckpointTransfer, Obstacle};
use quorate_protocol::{Index, NodeId, NodeSet};

use super::transfer_worker::{Installed, TransferCommand, TransferEvent};
use super::{Node, NodeError, Outside};
use crate::checkpoint::Owner;
use crate::log::LogCommand;
use crate::mutant::{Mutant, is_on};
use crate::replica::{Checkpoint, Input, Membership, Progress, Terms, Time};

impl Node {
    /// Has a checkpoint opened that a follower can go on from with what is left of the log.
    pub(super) fn open_checkpoint(&mut self, to: NodeId, verify: bool, outside: &mut impl Outside) {
        self.sending.insert(to);
        let at_least = self.log_first() - 1;
        outside.transfer(TransferCommand::Open { to, at_least, verify });
    }

    /// Has all that was received checked and loaded.
    pub(super) fn install_part(&mut self, index: Index, outside: &mut impl Outside) {
        self.checkpoints.give_up();
        self.store.end_snapshot();
        if is_on(Mutant::LogDroppedEarly) {
            outside.log(LogCommand::Restart { generation: 0, after: index });
        }
        let identity = self.formation.identity();
        let owner = Owner { cluster: identity.cluster_id(), origin: identity.origin };
        tracing::info!(index, "a checkpoint was received in full: checking and loading it");
        outside.transfer(TransferCommand::InstallPart { index, owner });
    }

    pub(super) fn transfer_event(&mut self, now: Time, event: TransferEvent) {
        match event {
            TransferEvent::Opened { to, checkpoint } => {
                if let Some(Checkpoint { index, bytes }) = checkpoint {
                    tracing::info!(%to, index, bytes, "a replica lacks what the log no longer holds: sending it a checkpoint");
                }
                self.step(now, Input::CheckpointOpened { to, checkpoint });
            }
            TransferEvent::Read { to, index, offset, bytes } => {
                self.step(now, Input::CheckpointRead { to, index, offset, bytes });
            }
            TransferEvent::Stored { index, bytes } => self.step(now, Input::PartStored { index, bytes }),
            TransferEvent::NoRoom { index, error } => {
                tracing::error!(
                    index,
                    "there is no room for a checkpoint that is received: free space: {error}"
                );
                self.step(now, Input::PartBlocked { index, obstacle: Obstacle::DiskFull });
            }
            TransferEvent::Installed(installed) => self.part_installed(now, *installed),
            TransferEvent::Damaged { index, error } => {
                self.checkpoints.resume();
                tracing::error!(index, "a checkpoint is asked for again: {error}");
                self.step(now, Input::PartDamaged(index));
            }
            TransferEvent::Failed(error) => {
                self.error.get_or_insert(NodeError::Checkpoint(error));
            }
        }
    }

    /// It is there, durably, whether the replica still has use for it or not.
    fn part_installed(&mut self, now: Time, installed: Installed) {
        self.checkpoints.installed(installed.header.index);
        let terms = Terms::from_starts(installed.header.terms.clone(), installed.header.index);
        let members = match installed.header.members.as_slice() {
            [] => self.formation.identity().membership(),
            members => Membership::new(members.iter().copied()),
        };
        self.installed = Some(installed);
        self.step(now, Input::PartInstalled { terms, members });
    }

    /// Goes on with what was loaded, and with a new log behind it if there is a generation for that.
    pub(super) fn restore(&mut self, index: Index, generation: Option<u64>, outside: &mut impl Outside) {
        let Installed { info, mut store, .. } =
            self.installed.take().expect("what is restored was installed in this turn");
        debug_assert_eq!(info.index, index);
        tracing::info!(
            index,
            keys = info.keys,
            bytes = info.bytes,
            new_log = generation.is_some(),
            "caught up by a checkpoint"
        );
        store.keep_history(self.settings.watch_history_bytes);
        outside.discard(std::mem::replace(&mut self.store, store));
        self.watches.store_replaced();
        self.answer_skipped(index, outside);
        self.memory.applied(index);
        self.checkpoints.restored();
        if let Some(generation) = generation {
            // What the log held behind it is gone, too.
            self.memory.truncated(index);
            self.answer_truncated(index, outside);
            let command = LogCommand::Restart { generation, after: index };
            self.disk_watch.asked(&command);
            outside.log(command);
        }
    }

    /// Notes when a follower has got a checkpoint.
    pub(super) fn note_checkpoint_ack(&self, from: NodeId, ack: &CheckpointAck) {
        let sent = self.follower(from).and_then(|progress| progress.transfer?.checkpoint);
        if ack.state == CheckpointState::Installed && sent.is_some_and(|sent| sent.index == ack.index) {
            tracing::info!(node = %from, index = ack.index, "a replica has caught up by a checkpoint");
        }
    }

    /// Closes what is not sent any more, and begins anew where the log no longer reaches back to what is sent.
    pub(super) fn sweep_transfers(&mut self, now: Time, outside: &mut impl Outside) {
        let first = self.log_first();
        let superseded = |progress: &Progress| {
            progress.transfer.and_then(|transfer| transfer.checkpoint).filter(|sent| sent.index + 1 < first)
        };
        let gone: Vec<_> =
            self.followers().filter_map(|(node, progress)| Some((node, superseded(progress)?))).collect();
        for (node, checkpoint) in gone {
            tracing::info!(
                %node, index = checkpoint.index, first,
                "the log no longer reaches back to the checkpoint that a replica is sent: it gets a newer one"
            );
            self.step(now, Input::CheckpointSuperseded(node));
        }
        let sent = self.followers().filter(|(_, progress)| progress.transfer.is_some());
        let sent: NodeSet = sent.map(|(node, _)| node).collect();
        let done: Vec<_> = self.sending.iter().filter(|node| !sent.contains(*node)).collect();
        for node in done {
            self.sending.remove(node);
            outside.transfer(TransferCommand::Close(node));
        }
    }

    /// What a follower is being sent, for a status.
    pub(super) fn checkpoint_transfer(progress: &Progress) -> Option<CheckpointTransfer> {
        let transfer = progress.transfer?;
        let Checkpoint { index, bytes } = transfer.checkpoint?;
        Some(CheckpointTransfer { index, bytes_received: transfer.acknowledged, bytes_total: bytes })
    }

    /// Where the log begins, or will when what it was asked to drop is gone.
    pub(super) fn log_first(&self) -> Index {
        self.reader.first().max(self.dropped_before)
    }
}
