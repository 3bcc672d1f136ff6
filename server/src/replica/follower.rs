//! What only a follower does: taking its leader's entries, and nobody else's.

use std::time::Duration;

use quorate_protocol::entry::{self, Entry};
use quorate_protocol::peer::{Ack, Append, CheckpointChunk, PeerMessage, RejectReason};
use quorate_protocol::response::Obstacle;
use quorate_protocol::{Index, NodeId, Term};

use super::election::Canvass;
use super::repair::Asked;
use super::{Output, Replica, Role, Time};
use crate::mutant::{Mutant, is_on};

#[derive(Clone, Debug, Default)]
pub(super) struct Follower {
    /// The last index known to equal this term's leader's log; 0 until its first append.
    pub(super) matched: Index,
    /// What the leader has committed, as far as it is known to match (R16).
    pub(super) commit: Index,
    /// What is due to be acknowledged: nothing, a sync (round 0), or a round.
    ack_round: Option<u64>,
    /// What is to be said with it: why this node takes no entries.
    blocked: Option<Obstacle>,
    /// Whether the log has synced since the last ack.
    has_synced: bool,
    pub(super) canvass: Option<Canvass>,
    /// With a log that was damaged: what it has asked the leader, and been told.
    pub(super) asked: Option<Asked>,
    disk: Duration,
    sync: Duration,
}

impl Follower {
    /// The log matches the leader's up to here, which is committed.
    pub(super) fn matched_through(&mut self, index: Index) {
        self.matched = self.matched.max(index);
        self.commit = self.commit.max(index);
    }

    pub(super) fn synced(&mut self, disk: Duration, sync: Duration) {
        self.ack_round = self.ack_round.max(Some(0));
        // Batches that are acknowledged together: the oldest entry has waited longest.
        self.disk = if self.has_synced { self.disk.max(disk) } else { disk };
        self.sync = sync;
        self.has_synced = true;
    }
}

impl Replica {
    pub(super) fn receive_append(&mut self, now: Time, from: NodeId, append: &Append<'_>) {
        if !self.obeys(now, from, append.term, (append.previous_index, append.round)) {
            return;
        }
        if self.terms.term(append.previous_index) != Some(append.previous_term) {
            let hint = self.last_possible_match(append.previous_index);
            let reason = RejectReason::Mismatch { hint };
            return self.reject(from, append.previous_index, append.round, reason);
        }
        let Some(matched) = self.take_entries(from, append) else { return };
        let Role::Follower(follower) = &mut self.role else { return };
        follower.matched = follower.matched.max(matched);
        follower.commit = follower.commit.max(append.commit.min(follower.matched));
        if append.round > 0 {
            follower.ack_round = follower.ack_round.max(Some(append.round));
            follower.blocked = follower.blocked.or(self.obstacle);
        }
    }

    pub(super) fn receive_chunk(&mut self, now: Time, from: NodeId, chunk: &CheckpointChunk<'_>) {
        if self.obeys(now, from, chunk.term, (0, chunk.round)) {
            self.take_chunk(from, chunk);
        }
    }

    /// Whether a message comes from the leader of the promised term, or of a later one, which is promised. If not, its
    /// sender is told, with the index and the round that it asked about.
    fn obeys(&mut self, now: Time, from: NodeId, term: Term, (index, round): (Index, u64)) -> bool {
        if let Err(reason) = self.check_sender(from, term) {
            if reason == RejectReason::NotLeader || !self.is_elected() {
                self.report(format!("refused an append of node {from} in term {term}: {reason:?}"));
            }
            self.reject(from, index, round, reason);
            return false;
        }
        self.hear_leader(now, from, term);
        true
    }

    /// Only the leader of the promised term, or of a later one, may append (R7).
    fn check_sender(&self, from: NodeId, term: Term) -> Result<(), RejectReason> {
        let is_other = self.leader.is_some_and(|leader| leader != from);
        if !self.is_elected() && (is_other || self.is_leader()) {
            return Err(RejectReason::NotLeader);
        }
        if term < self.promise.term {
            return Err(RejectReason::StaleTerm);
        }
        if term == self.promise.term && (is_other || self.is_leader()) {
            return Err(RejectReason::NotLeader);
        }
        Ok(())
    }

    /// The leader of a term has spoken.
    fn hear_leader(&mut self, now: Time, from: NodeId, term: Term) {
        if term > self.promise.term {
            self.enter_term(now, term, None);
        }
        if self.leader != Some(from) || !matches!(self.role, Role::Follower(_)) {
            self.follow(Some(from));
            self.elections.followed += 1;
            self.note(format!("follows node {from} in term {term}"));
        }
        self.heard_leader = Some(now);
        if self.is_elected() {
            self.restart_election_timer(now);
        }
    }

    /// After a mismatch at `previous`: the last index that can match. A whole term is skipped at once.
    fn last_possible_match(&self, previous: Index) -> Index {
        if previous > self.last {
            return self.last;
        }
        self.terms
            .first_of_same_term(previous)
            .saturating_sub(1)
            .max(self.commit.min(previous.saturating_sub(1)))
    }

    /// Appends the entries that are not there yet, and returns the index of the last one; none if the append
    /// is malformed or breaks a rule, and nothing of it was taken from there on.
    fn take_entries(&mut self, from: NodeId, append: &Append<'_>) -> Option<Index> {
        let mut index = append.previous_index;
        let mut term = append.previous_term;
        for entry in entry::iterate(append.entries) {
            let entry = match entry {
                Ok(entry) if entry.index == index + 1 && entry.term >= term && entry.term <= append.term => {
                    entry
                }
                other => {
                    self.report(format!(
                        "an append of node {from} is malformed after entry {index}: {other:?}"
                    ));
                    return None;
                }
            };
            if self.obstacle.is_some() && self.terms.term(entry.index) != Some(entry.term) {
                self.say_blocked();
                break;
            }
            if !self.take_entry(&entry) {
                return None;
            }
            (index, term) = (entry.index, entry.term);
        }
        Some(index)
    }

    fn say_blocked(&mut self) {
        if let Role::Follower(follower) = &mut self.role {
            follower.blocked = self.obstacle;
            follower.ack_round = follower.ack_round.max(Some(0));
        }
    }

    /// Returns whether the entry is in the log now.
    fn take_entry(&mut self, entry: &Entry<'_>) -> bool {
        match self.terms.term(entry.index) {
            Some(term) if term == entry.term => return true, // Sent twice: nothing changes.
            Some(term) if entry.index <= self.commit => {
                let Entry { index, term: other, .. } = entry;
                self.outputs.push(Output::Stop(format!(
                    "entry {index} is committed with term {term}, but the leader sent it with term {other}: this node or \
                     the leader has lost acknowledged writes; nothing was changed: keep both directories, compare them with \
                     'quorate-server dump', and go on from the right one, or restore a backup"
                )));
                return false; // R16
            }
            Some(_) => self.truncate(entry.index - 1),
            None => {}
        }
        debug_assert_eq!(entry.index, self.last + 1);
        self.batch.extend_from_slice(entry.bytes);
        self.last = entry.index;
        self.terms.push(entry.index, entry.term);
        self.note_admission(entry.index, entry.admission());
        true
    }

    /// Removes what was never committed (R16): syncs under way no longer count.
    fn truncate(&mut self, after: Index) {
        assert!(after >= self.commit, "entry {after} is below the commit index {}", self.commit);
        let batch = self.cut_batch();
        self.outputs.extend(batch);
        self.generation += 1;
        self.tail.truncate(after);
        self.terms.truncate(after);
        if self.members.truncate(after) {
            self.note_members();
        }
        self.last = after;
        self.batch_first = after + 1;
        self.durable = self.durable.min(after);
        if let Role::Follower(follower) = &mut self.role {
            follower.matched = follower.matched.min(after);
        }
        self.elections.truncations += 1;
        self.outputs.push(Output::Truncate { generation: self.generation, after });
    }

    /// Tells the leader what is durable, once a turn; and what keeps this node from taking more, if the leader has
    /// asked or sent more. Such an ack answers no round, so that nothing is sent on the strength of it.
    pub(super) fn acknowledge(&mut self, now: Time) {
        let (term, durable, applied) = (self.promise.term, self.durable, self.applied);
        let applied_ago = now.saturating_sub(self.applied_at);
        let Some(leader) = self.leader else { return };
        let Role::Follower(follower) = &mut self.role else { return };
        let Some(round) = follower.ack_round.take() else { return };
        follower.has_synced = false;
        let (blocked, matched) = (follower.blocked.take(), follower.matched);
        let ack = Ack {
            term,
            durable: if is_on(Mutant::OldTailAcknowledged) { durable } else { durable.min(matched) }, // R12
            applied,
            applied_ago_us: micros(applied_ago),
            round: if blocked.is_some() { 0 } else { round },
            disk_us: micros(follower.disk),
            sync_us: micros(follower.sync),
        };
        self.send_small(leader, PeerMessage::Ack(ack));
        if let Some(obstacle) = blocked {
            self.reject(leader, matched, round, RejectReason::Blocked(obstacle));
        }
    }
}

fn micros(duration: Duration) -> u32 {
    duration.as_micros().try_into().unwrap_or(u32::MAX)
}
