//! What replicas say to each other.
//!
//! Each node dials every other and sends on the connection that it dialled; who speaks is known from the
//! handshake, so no message repeats it. Any message may be lost with its connection, repeated, or late:
//! the receiver decides by term and index alone.

use serde::{Deserialize, Serialize};

use crate::response::Obstacle;
use crate::{ClusterId, Index, Term};

/// One message from replica to replica.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum PeerMessage<'a> {
    /// The sender has stored this cluster (R26). Sent when it has, and on every new link.
    Stored(ClusterId),
    /// Entries for a follower's log.
    Append(#[serde(borrow)] Append<'a>),
    /// What a follower holds.
    Ack(Ack),
    /// A follower did not take an append.
    Reject(Reject),
    /// A request for a vote.
    RequestVote(RequestVote),
    /// The answer to a request for a vote.
    Vote(Vote),
    /// The leader wants the receiver to lead, at once.
    TimeoutNow(TimeoutNow),
    /// A replica whose log is damaged asks how far the others' logs go.
    Inquire(Inquire),
    /// The answer to that, of a replica whose own log is whole.
    Position(Position),
    /// A piece of a checkpoint, for a follower that lacks what the leader's log no longer holds.
    CheckpointChunk(#[serde(borrow)] CheckpointChunk<'a>),
    /// What a follower has of a checkpoint.
    CheckpointAck(CheckpointAck),
}

/// Entries that follow (previous_index, previous_term); none, as heartbeat and to probe.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Append<'a> {
    /// The leader's.
    pub term: Term,
    /// The index before the first entry.
    pub previous_index: Index,
    /// Its term.
    pub previous_term: Term,
    /// The leader's commit index.
    pub commit: Index,
    /// Counts the leader's heartbeats; comes back in the ack. 0 when no immediate answer is asked for.
    pub round: u64,
    /// Whole entries, one after the other, as [`crate::entry`] draws them.
    #[serde(with = "serde_bytes")]
    pub entries: &'a [u8],
}

/// What a follower holds, in the leader's term (R12).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Ack {
    /// The term that the follower has promised.
    pub term: Term,
    /// It holds everything up to here durably, and it is the leader's log.
    pub durable: Index,
    /// It has applied everything up to here.
    pub applied: Index,
    /// Microseconds from when it had to when it sent this, on its own clock; at most about 71 minutes.
    pub applied_ago_us: u32,
    /// The round of the append that is answered; 0 when a sync caused the ack, or the follower takes no entries
    /// and a [`Reject`] says so.
    pub round: u64,
    /// Microseconds from an entry's receipt to its being durable: of the oldest entry that has become durable
    /// since the ack before, or as that one said if none has.
    pub disk_us: u32,
    /// Microseconds in the write and sync alone, of the last batch.
    pub sync_us: u32,
}

/// Why a follower did not take an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Reject {
    /// The term that the follower has promised.
    pub term: Term,
    /// The append's previous_index; with [`RejectReason::Blocked`] the last index that is known to match.
    pub previous_index: Index,
    /// The append's round, as in an [`Ack`]: whoever refuses entries of its own term's leader still takes it for the
    /// leader.
    pub round: u64,
    /// Why.
    pub reason: RejectReason,
}

/// Why a follower did not take an append.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RejectReason {
    /// The sender's term is lower than the promised one (R7).
    StaleTerm,
    /// The sender is not the leader of this term (R7).
    NotLeader,
    /// The follower has no entry at previous_index, or one of another term.
    Mismatch {
        /// The last index that could match: send from the one after it.
        hint: Index,
    },
    /// The follower cannot take entries: ask again with a heartbeat.
    Blocked(Obstacle),
}

/// A candidate's request.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RequestVote {
    /// The term that it wants to lead.
    pub term: Term,
    /// Whether it only asks if it would get the vote (R9).
    pub pre_vote: bool,
    /// Whether the leader has asked it to stand: a voter that still hears the leader may give its vote (R9).
    pub hand_over: bool,
    /// Its last entry's index.
    pub last_index: Index,
    /// Its last entry's term (R8).
    pub last_term: Term,
}

/// A leader's request that a follower, which has all its entries, stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimeoutNow {
    /// The leader's.
    pub term: Term,
    /// How many replicas, itself included, must first have said that they would vote for it: a leader that hears too
    /// few for a write looks for one that hears enough (R10). 0: it stands at once.
    pub needs: u8,
}

/// A question of a replica that has lost entries it once held, and has heard no leader (R19).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Inquire {
    /// Whoever answers promises this term first, so that it can no longer get what it says it does not have.
    pub term: Term,
    /// Whether it only asks if it would be answered: nobody promises anything then (R9). Of its leader it asks so,
    /// in its own term, where the leader's log ends.
    pub pre_vote: bool,
    /// Random; comes back in the answer.
    pub question: u64,
}

/// Where a replica's log ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Position {
    /// The term that the replica has promised.
    pub term: Term,
    /// The question's.
    pub pre_vote: bool,
    /// The question's.
    pub question: u64,
    /// Its last entry's index.
    pub last_index: Index,
    /// Its last entry's term.
    pub last_term: Term,
}

/// The answer to a [`RequestVote`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Vote {
    /// The term that the voter has promised.
    pub term: Term,
    /// The request's.
    pub pre_vote: bool,
    /// Whether it is given.
    pub granted: bool,
}

/// A piece of a checkpoint's file; or none of it, to ask how much of it the follower has.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckpointChunk<'a> {
    /// The leader's.
    pub term: Term,
    /// The last entry that the checkpoint contains. Files of one index are equal on all replicas, so this names it.
    pub index: Index,
    /// Bytes of the whole file.
    pub total_bytes: u64,
    /// Where in the file the piece begins.
    pub offset: u64,
    /// The round of a question, which has no bytes; comes back in the ack. 0 for a piece.
    pub round: u64,
    /// At most [`crate::limits::CHECKPOINT_CHUNK_BYTES_MAX`].
    #[serde(with = "serde_bytes")]
    pub bytes: &'a [u8],
}

/// What a follower has of a checkpoint. Sent for each piece that is written, and as the answer to a question.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckpointAck {
    /// The term that the follower has promised.
    pub term: Term,
    /// The last entry that the checkpoint contains.
    pub index: Index,
    /// The round of the question that is answered; 0 if none is.
    pub round: u64,
    /// How far it is.
    pub state: CheckpointState,
}

/// How far a follower is with a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum CheckpointState {
    /// It has written so many bytes, from the beginning on. If these are all, it checks and loads them.
    Received(u64),
    /// It goes on behind the checkpoint, or has no need of it: send entries.
    Installed,
    /// The file as a whole was not what its checksums say. It has been thrown away: begin anew.
    Damaged,
    /// It cannot take it: ask again later.
    Blocked(Obstacle),
}
