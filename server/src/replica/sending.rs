//! What a leader does for a follower that lacks what its log no longer holds: it sends a checkpoint, in pieces.
//!
//! Some pieces are read at a time, and no more than [`CHECKPOINT_WINDOW_BYTES`] are on their way or being read. Where the
//! follower is, it says itself: in answer to a question, which goes out at the beginning, after a link was lost, and
//! when a round of heartbeats has brought nothing. A question comes behind all pieces on the link, and nothing is sent
//! before its answer, so what that says is neither overtaken nor sent twice.
//!
//! Which checkpoint it is stays the same while links come and go, for as long as the log reaches back to it
//! ([`Input::CheckpointSuperseded`](super::Input::CheckpointSuperseded)).

use bytes::Bytes;
use quorate_protocol::peer::{CheckpointAck, CheckpointChunk, CheckpointState, PeerMessage};
use quorate_protocol::{Index, Member, NodeId, Term, limits};

use super::{Flow, Message, Output, Progress, Replica, Role, Time};

/// Bytes of a checkpoint that one follower was sent and has not said to have written, at most: so much memory a
/// transfer takes of a leader, and at most twice as much of a follower.
pub const CHECKPOINT_WINDOW_BYTES: u64 = 2 << 20;

/// Bytes that are read at once, and sent in pieces.
const READ_BYTES: u64 = 1 << 20;

/// How far behind its rate a transfer may be and still catch up: time passes in ticks.
const BURST: Time = Time::from_millis(20);

/// A checkpoint on its way to a follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Transfer {
    /// Which: none while one is being opened.
    pub checkpoint: Option<Checkpoint>,
    /// Bytes that the follower has said to have written.
    pub acknowledged: u64,
    /// Where the next piece begins.
    next: u64,
    /// Whether something is being read.
    is_reading: bool,
    /// Where the follower is has to be asked, and was first in this round (0: not yet).
    asking: Option<u64>,
    /// Whether the follower has said anything in this round.
    is_heard: bool,
    /// When more may be read.
    due: Time,
}

/// A checkpoint that can be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checkpoint {
    /// The last entry that it contains.
    pub index: Index,
    /// Bytes of its file.
    pub bytes: u64,
}

impl Transfer {
    fn opening() -> Self {
        Self {
            checkpoint: None,
            acknowledged: 0,
            next: 0,
            is_reading: false,
            asking: Some(0),
            is_heard: false,
            due: Time::ZERO,
        }
    }

    /// Begins anew, with a checkpoint that has just been opened.
    fn open(&mut self, checkpoint: Checkpoint) {
        *self = Self { checkpoint: Some(checkpoint), is_reading: self.is_reading, ..Self::opening() };
    }

    /// What was sent may be lost.
    fn ask(&mut self) {
        self.asking = Some(0);
    }

    /// The follower has written so much, it says in answer to the question of a round, or to none.
    fn received(&mut self, bytes: u64, round: u64) {
        self.is_heard = true;
        match self.asking {
            Some(first) if first > 0 && round >= first => {
                (self.acknowledged, self.next, self.asking) = (bytes, bytes, None);
            }
            Some(_) => {}
            None => self.acknowledged = self.acknowledged.max(bytes.min(self.next)),
        }
    }

    /// What is to be read now, if something is: where it begins, and how long it may be.
    fn next_read(&mut self, now: Time, bytes_per_second: u64) -> Option<(Index, u64, usize)> {
        let Checkpoint { index, bytes } = self.checkpoint?;
        let left = bytes - self.next;
        let room = CHECKPOINT_WINDOW_BYTES.saturating_sub(self.next - self.acknowledged).min(READ_BYTES);
        // Not in crumbs: a read costs the way to another thread and back.
        let is_full = room < left.min(limits::CHECKPOINT_CHUNK_BYTES_MAX as u64);
        if self.is_reading || self.asking.is_some() || left == 0 || is_full || now < self.due {
            return None;
        }
        let length = left.min(room);
        if bytes_per_second > 0 {
            let takes = Time::from_secs_f64(length as f64 / bytes_per_second as f64);
            self.due = self.due.max(now.saturating_sub(BURST)) + takes;
        }
        self.is_reading = true;
        Some((index, self.next, length as usize))
    }
}

/// What every transfer of this turn has in common.
pub(super) struct Sender {
    pub(super) now: Time,
    pub(super) term: Term,
    pub(super) round: u64,
    pub(super) bytes_per_second: u64,
}

impl Sender {
    /// Asks where the follower is, or has more read.
    pub(super) fn feed(&self, to: NodeId, progress: &mut Progress, outputs: &mut Vec<Output>) {
        let is_new_round = progress.round_sent < self.round;
        let Some(transfer) = &mut progress.transfer else { return };
        let Some(Checkpoint { index, bytes }) = transfer.checkpoint else { return };
        if is_new_round && !std::mem::take(&mut transfer.is_heard) && transfer.asking.is_none() {
            transfer.ask();
        }
        if let Some(first) = &mut transfer.asking {
            if *first == 0 || is_new_round {
                *first = if *first == 0 { self.round } else { *first };
                let question = CheckpointChunk {
                    term: self.term,
                    index,
                    total_bytes: bytes,
                    offset: transfer.next,
                    round: self.round,
                    bytes: &[],
                };
                let message = Message::Small(PeerMessage::CheckpointChunk(question));
                outputs.push(Output::Send { to, message });
            }
        } else if let Some((index, offset, bytes_max)) = transfer.next_read(self.now, self.bytes_per_second) {
            outputs.push(Output::ReadCheckpoint { to, index, offset, bytes_max });
        }
    }
}

impl Replica {
    /// The log no longer holds what a follower needs: it goes on with the transfer that it had, or begins one.
    pub(super) fn send_checkpoint(&mut self, to: NodeId) {
        let Some(progress) = self.progress(to) else { return };
        progress.flow = Flow::Checkpoint;
        match &mut progress.transfer {
            Some(transfer) => transfer.ask(),
            None => self.open_checkpoint(to, false),
        }
    }

    fn open_checkpoint(&mut self, to: NodeId, verify: bool) {
        let Some(progress) = self.progress(to) else { return };
        let is_reading = progress.transfer.is_some_and(|transfer| transfer.is_reading);
        progress.transfer = Some(Transfer { is_reading, ..Transfer::opening() });
        self.outputs.push(Output::OpenCheckpoint { to, verify });
    }

    pub(super) fn checkpoint_opened(&mut self, to: NodeId, checkpoint: Option<Checkpoint>) {
        let Role::Leader(leader) = &mut self.role else { return };
        let round = leader.round;
        let Some(progress) = leader.followers.get_mut(&to) else { return };
        match (&mut progress.transfer, checkpoint) {
            (Some(transfer), Some(checkpoint)) => transfer.open(checkpoint),
            (transfer, None) => {
                *transfer = None;
                if progress.flow == Flow::Checkpoint {
                    progress.flow = Flow::Unreadable { round };
                }
            }
            (None, Some(_)) => {}
        }
    }

    pub(super) fn checkpoint_read(&mut self, to: NodeId, index: Index, offset: u64, bytes: Option<Bytes>) {
        let term = self.promise.term;
        let Some(progress) = self.progress(to) else { return };
        let flow = progress.flow;
        let Some(transfer) = &mut progress.transfer else { return };
        transfer.is_reading = false;
        let Some(checkpoint) = transfer.checkpoint.filter(|checkpoint| checkpoint.index == index) else {
            return; // Of the one before.
        };
        let Some(bytes) = bytes.filter(|bytes| !bytes.is_empty()) else {
            return self.open_checkpoint(to, true); // Whoever read it has said why.
        };
        if flow != Flow::Checkpoint || transfer.asking.is_some() || transfer.next != offset {
            return; // The link was lost meanwhile.
        }
        transfer.next += bytes.len() as u64;
        let total_bytes = checkpoint.bytes;
        for start in (0..bytes.len()).step_by(limits::CHECKPOINT_CHUNK_BYTES_MAX) {
            let bytes = bytes.slice(start..bytes.len().min(start + limits::CHECKPOINT_CHUNK_BYTES_MAX));
            let offset = offset + start as u64;
            let head = CheckpointChunk { term, index, total_bytes, offset, round: 0, bytes: &[] };
            self.outputs.push(Output::Send { to, message: Message::Chunk { head, bytes } });
        }
    }

    /// The log no longer reaches back to the checkpoint that a follower is sent.
    pub(super) fn checkpoint_superseded(&mut self, to: NodeId) {
        let Some(progress) = self.progress(to) else { return };
        if progress.transfer.is_none_or(|transfer| transfer.checkpoint.is_none()) {
            return;
        }
        if progress.flow == Flow::Checkpoint {
            self.open_checkpoint(to, false);
        } else {
            progress.transfer = None;
        }
    }

    pub(super) fn receive_checkpoint_ack(&mut self, now: Time, from: Member, ack: &CheckpointAck) {
        let Some(progress) = self.current_follower(now, from, ack.term) else { return };
        let from = from.node;
        progress.answered(now, ack.round);
        let flow = progress.flow;
        let Some(transfer) = &mut progress.transfer else { return };
        let Some(checkpoint) = transfer.checkpoint.filter(|checkpoint| checkpoint.index == ack.index) else {
            return;
        };
        if flow != Flow::Checkpoint {
            return; // The link was lost since; where it is will be asked.
        }
        match ack.state {
            CheckpointState::Received(bytes) => {
                progress.obstacle = None;
                transfer.received(bytes.min(checkpoint.bytes), ack.round);
            }
            CheckpointState::Installed => {
                progress.transfer = None;
                progress.next = checkpoint.index + 1;
                progress.probe();
            }
            CheckpointState::Damaged => {
                self.report(format!(
                    "checkpoint {} reached node {from} damaged: sending it again",
                    ack.index
                ));
                self.open_checkpoint(from, true);
            }
            CheckpointState::Blocked(obstacle) => {
                let round = self.next_round();
                self.with_progress(from, |progress| {
                    progress.obstacle = Some(obstacle);
                    progress.flow = Flow::Unreadable { round };
                });
            }
        }
    }

    fn progress(&mut self, of: NodeId) -> Option<&mut Progress> {
        match &mut self.role {
            Role::Leader(leader) => leader.followers.get_mut(&of),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A transfer whose follower has said that it has nothing.
    fn transfer(bytes: u64) -> Transfer {
        let mut transfer = Transfer::opening();
        transfer.open(Checkpoint { index: 9, bytes });
        transfer.asking = Some(1);
        transfer.received(0, 1);
        transfer
    }

    /// Reads and sends what may be, and returns how much that was.
    fn send(transfer: &mut Transfer, now: Time, bytes_per_second: u64) -> u64 {
        let before = transfer.next;
        while let Some((_, offset, bytes)) = transfer.next_read(now, bytes_per_second) {
            assert_eq!(offset, transfer.next);
            transfer.is_reading = false;
            transfer.next += bytes as u64;
        }
        transfer.next - before
    }

    #[test]
    fn no_more_than_the_window_is_under_way_and_all_of_it_in_the_end() {
        let total = 3 * CHECKPOINT_WINDOW_BYTES + 5;
        let mut transfer = transfer(total);
        while transfer.next < total {
            assert!(send(&mut transfer, Time::ZERO, 0) > 0);
            assert!(transfer.next - transfer.acknowledged <= CHECKPOINT_WINDOW_BYTES);
            let received = (transfer.acknowledged + 1_000_000).min(transfer.next);
            transfer.received(received, 0);
        }
        assert_eq!(send(&mut transfer, Time::ZERO, 0), 0);
    }

    #[test]
    fn one_read_is_under_way_at_a_time() {
        let mut transfer = transfer(CHECKPOINT_WINDOW_BYTES);
        assert!(transfer.next_read(Time::ZERO, 0).is_some());
        assert_eq!(transfer.next_read(Time::ZERO, 0), None);
    }

    #[test]
    fn a_transfer_keeps_to_its_rate_and_gives_no_credit_for_idle_time() {
        let mib = 1 << 20;
        let mut transfer = transfer(100 * mib);
        for started in [1, 1000] {
            let mut sent = 0;
            for tick in 0..200 {
                sent += send(&mut transfer, Time::from_secs(started) + Time::from_millis(5) * tick, 8 * mib);
                transfer.received(transfer.next, 0);
            }
            assert!((7 * mib..=9 * mib).contains(&sent), "{sent} bytes in a second");
        }
    }

    #[test]
    fn nothing_is_sent_before_the_question_is_answered() {
        let mut transfer = transfer(1000);
        send(&mut transfer, Time::ZERO, 0);
        transfer.ask();
        assert_eq!(transfer.next_read(Time::ZERO, 0), None);
        transfer.asking = Some(7);
        transfer.received(1000, 6);
        assert_eq!(transfer.asking, Some(7), "the answer to an earlier question");
        transfer.received(300, 8);
        assert_eq!((transfer.acknowledged, transfer.next, transfer.asking), (300, 300, None));
    }
}
