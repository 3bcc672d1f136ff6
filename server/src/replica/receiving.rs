//! What a follower does with a checkpoint that its leader sends: it has the pieces written in order, and when it has
//! them all, has them checked as a whole, loaded, and goes on behind it.
//!
//! One thing at a time is asked of the disk, and what comes meanwhile waits, up to [`CHECKPOINT_WINDOW_BYTES`]; what
//! comes beyond that, or out of order, is dropped: the leader asks where to go on. Files of one index are equal on all
//! replicas, so what was received of one goes on being received under another leader, and after a restart.
//!
//! Appends, votes and heartbeats are answered meanwhile as ever. Should another leader bring what is lacking while a
//! checkpoint is loaded, that checkpoint is not needed any more.

use bytes::Bytes;
use quorate_protocol::peer::{CheckpointAck, CheckpointChunk, CheckpointState, PeerMessage};
use quorate_protocol::response::Obstacle;
use quorate_protocol::{Index, NodeId};

use crate::mutant::{Mutant, is_on};

use super::sending::CHECKPOINT_WINDOW_BYTES;
use super::{Membership, Output, Replica, Role, Tail, Terms, Time};

/// What is received, and what the disk is doing about it.
#[derive(Clone, Debug, Default)]
pub(super) struct Receiver {
    incoming: Option<Incoming>,
    /// Whether the disk has not answered what it was last asked.
    is_busy: bool,
    /// A checkpoint that is durable and loaded: taken up at the end of the turn, together with its store, so that no
    /// read comes between.
    loaded: Option<(Terms, Membership)>,
}

/// A checkpoint that is being received.
#[derive(Clone, Debug)]
struct Incoming {
    from: NodeId,
    index: Index,
    total_bytes: u64,
    /// Where the file ends that is on the disk; none until that is known.
    written: Option<u64>,
    /// What follows it.
    waiting: Vec<u8>,
    /// All is there, and being checked and loaded.
    is_installing: bool,
    /// The round of a question that is to be answered.
    asked: Option<u64>,
    /// Whether something has been written since the last answer.
    has_written: bool,
}

impl Incoming {
    fn is(&self, chunk: &CheckpointChunk<'_>) -> bool {
        (self.index, self.total_bytes) == (chunk.index, chunk.total_bytes)
    }

    /// Takes a piece if it is the next one.
    fn take(&mut self, chunk: &CheckpointChunk<'_>) {
        let Some(written) = self.written else { return };
        let end = written + self.waiting.len() as u64;
        let fits = self.waiting.len() as u64 + chunk.bytes.len() as u64 <= CHECKPOINT_WINDOW_BYTES;
        let is_within = chunk.offset.saturating_add(chunk.bytes.len() as u64) <= self.total_bytes;
        if chunk.offset == end && fits && is_within && !self.is_installing {
            self.waiting.extend_from_slice(chunk.bytes);
        }
    }
}

impl Receiver {
    /// Whether a checkpoint is being checked and loaded.
    fn is_installing(&self) -> bool {
        self.incoming.as_ref().is_some_and(|incoming| incoming.is_installing)
    }

    /// The disk has answered about a checkpoint: the one that is being received, or one that no longer is.
    fn answered(&mut self, index: Index) -> Option<&mut Incoming> {
        self.is_busy = false;
        self.incoming.as_mut().filter(|incoming| incoming.index == index)
    }
}

impl Replica {
    /// A piece of a checkpoint, or a question, from the leader of the promised term.
    pub(super) fn take_chunk(&mut self, from: NodeId, chunk: &CheckpointChunk<'_>) {
        let is_question = chunk.bytes.is_empty();
        if chunk.index <= self.commit {
            if is_question {
                self.acknowledge_checkpoint(from, chunk.index, chunk.round, CheckpointState::Installed);
            }
            return;
        }
        if let Some(obstacle) = self.obstacle.filter(|_| !self.receiver.is_installing()) {
            if is_question {
                let state = CheckpointState::Blocked(obstacle);
                self.acknowledge_checkpoint(from, chunk.index, chunk.round, state);
            }
            return;
        }
        match &mut self.receiver.incoming {
            Some(incoming) if incoming.is(chunk) => {
                incoming.from = from;
                match is_question {
                    true => incoming.asked = incoming.asked.max(Some(chunk.round)),
                    false => incoming.take(chunk),
                }
            }
            // The disk is still busy with another one: the leader asks again.
            _ if self.receiver.is_busy => {}
            _ if is_question => self.begin_receiving(from, chunk),
            _ => {}
        }
    }

    fn begin_receiving(&mut self, from: NodeId, chunk: &CheckpointChunk<'_>) {
        let CheckpointChunk { index, total_bytes, round, .. } = *chunk;
        self.receiver.is_busy = true;
        self.receiver.incoming = Some(Incoming {
            from,
            index,
            total_bytes,
            written: None,
            waiting: Vec::new(),
            is_installing: false,
            asked: Some(round),
            has_written: false,
        });
        self.outputs.push(Output::OpenPart { index, total_bytes });
    }

    /// So much of a checkpoint's file is there.
    pub(super) fn part_stored(&mut self, index: Index, bytes: u64) {
        if let Some(incoming) = self.receiver.answered(index) {
            // A file that is too long is not this checkpoint's: what is said of it, its check will say.
            incoming.written = Some(bytes.min(incoming.total_bytes));
            incoming.has_written = true;
        }
    }

    /// There was no room for it.
    pub(super) fn part_blocked(&mut self, index: Index, obstacle: Obstacle) {
        if let Some(Incoming { from, asked, .. }) = self.receiver.answered(index) {
            let (from, round) = (*from, asked.unwrap_or(0));
            self.receiver.incoming = None;
            self.acknowledge_checkpoint(from, index, round, CheckpointState::Blocked(obstacle));
        }
    }

    /// The whole was not what its checksums say, and is gone.
    pub(super) fn part_damaged(&mut self, index: Index) {
        if let Some(Incoming { from, .. }) = self.receiver.answered(index) {
            let from = *from;
            self.receiver.incoming = None;
            self.acknowledge_checkpoint(from, index, 0, CheckpointState::Damaged);
        }
    }

    /// A checkpoint is durable and loaded. A leader has all that was committed, and has no need of it.
    pub(super) fn installed(&mut self, terms: Terms, members: Membership) {
        self.receiver.loaded = Some((terms, members));
    }

    /// Goes on behind what was loaded in this turn.
    pub(super) fn take_up_loaded(&mut self, now: Time) {
        let Some((terms, members)) = self.receiver.loaded.take() else { return };
        let index = terms.last();
        let from = self.receiver.answered(index).map(|incoming| incoming.from);
        self.receiver.incoming = None;
        if index > self.commit && !self.is_leader() {
            self.go_on_behind(now, terms, members);
        }
        if let Some(from) = from {
            self.acknowledge_checkpoint(from, index, 0, CheckpointState::Installed);
        }
    }

    /// Everything up to the end of `terms` is in a durable checkpoint, and was committed: so every leader's log
    /// matches up to there. What the log holds beyond it stays if it matches there; else it was never committed.
    fn go_on_behind(&mut self, now: Time, terms: Terms, members: Membership) {
        let index = terms.last();
        let before = self.generation;
        let matches = self.terms.term(index) == Some(terms.last_term());
        if !matches || is_on(Mutant::MatchingLogRestarted) {
            self.batch.clear();
            self.batch_first = index + 1;
            self.tail = Tail::default();
            self.terms = terms;
            let members = Membership::of_checkpoint(members, index, Some(&self.members));
            let noted = std::mem::replace(&mut self.members, members);
            if self.held.is_some() {
                self.members.add_lost(&noted, index);
            }
            self.note_members();
            self.last = index;
            self.durable = index;
            self.generation += 1; // What the log syncs of the old one no longer counts.
        }
        self.durable = self.durable.max(index);
        self.commit = index;
        (self.applied, self.applied_at) = (index, now);
        if let Role::Follower(follower) = &mut self.role {
            follower.matched_through(index);
        }
        let generation = (self.generation > before).then_some(self.generation);
        self.outputs.push(Output::Restore { index, generation });
    }

    /// Asks the next thing of the disk, and answers the leader when the disk has done the last.
    pub(super) fn go_on_receiving(&mut self) {
        let is_busy = self.receiver.is_busy;
        let is_needless = |incoming: &Incoming| incoming.index <= self.commit && !incoming.is_installing;
        if self.is_leader() || self.receiver.incoming.as_ref().is_some_and(is_needless) {
            self.receiver.incoming = None;
        }
        let Some(incoming) = &mut self.receiver.incoming else { return };
        let Incoming { from, index, total_bytes, .. } = *incoming;
        let Some(written) = incoming.written else { return };
        let has_settled = !is_busy && incoming.waiting.is_empty();
        let is_asked = incoming.asked.is_some() && (has_settled || incoming.is_installing);
        if std::mem::take(&mut incoming.has_written) || is_asked {
            let round = if is_asked { incoming.asked.take().unwrap_or(0) } else { 0 };
            self.acknowledge_checkpoint(from, index, round, CheckpointState::Received(written));
        }
        let Some(incoming) = self.receiver.incoming.as_mut().filter(|_| !is_busy) else { return };
        let output = if !incoming.waiting.is_empty() {
            let bytes = Bytes::from(std::mem::take(&mut incoming.waiting));
            Output::StorePart { index, offset: written, bytes }
        } else if written == total_bytes {
            incoming.is_installing = true;
            Output::InstallPart { index }
        } else {
            return;
        };
        self.receiver.is_busy = true;
        self.outputs.push(output);
    }

    fn acknowledge_checkpoint(&mut self, to: NodeId, index: Index, round: u64, state: CheckpointState) {
        let ack = CheckpointAck { term: self.promise.term, index, round, state };
        self.send_small(to, PeerMessage::CheckpointAck(ack));
    }
}
