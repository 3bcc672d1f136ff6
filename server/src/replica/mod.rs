//! The replication core: every decision about terms, votes, appends, acknowledgements, commit and reads.
//!
//! A plain state machine. Inputs come in with [`Replica::step`] and [`Replica::propose`]; what must happen
//! comes out of [`Replica::finish_turn`] as [`Output`]s, to be carried out in order. Time is an argument.
//! No socket, file, clock, randomness or thread, so that tests, models and simulators drive exactly what
//! production runs.
//!
//! # Invariants
//!
//! - `applied ≤ commit ≤ last`, and `durable ≤ last`; commit never goes back (R16).
//! - The tail holds every entry above `applied`, and every entry that is not durable here.
//! - A follower's `matched` is the last index known to equal this term's leader's log; it acknowledges
//!   `min(durable, matched)` and nothing else (R12).
//! - A sync's completion counts only in the generation that it was submitted in; truncation begins a new
//!   one (R12).
//! - A leader counts itself only to its own durable index; with a configured leader and at n=1 its own disk is always
//!   among the n (R13).
//! - A follower that lacks what its leader's log no longer holds is sent a checkpoint ([`Transfer`]). It goes on behind
//!   it only when the whole is durable and was checked; what its log holds beyond stays if it matches there.
//! - A follower with an obstacle takes nothing that would change its log, and says so; its leader does not count
//!   it, and asks again once in a round of heartbeats.
//!
//! # Omissions
//!
//! With a configured leader there are no elections: a vote is asked of nobody and given to nobody. How much log is
//! kept for followers is the node's business.

mod election;
mod follower;
mod hand_over;
mod leader;
mod membership;
mod progress;
mod quorum;
mod reads;
mod receiving;
mod repair;
mod sending;
mod tail;
mod terms;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::entry;
use quorate_protocol::entry::Payload;
use quorate_protocol::peer::{Append, CheckpointChunk, PeerMessage, Reject, RejectReason};
use quorate_protocol::response::{ElectionStatus, Obstacle};
use quorate_protocol::{Incarnation, Index, Leadership, Member, NodeId, NodeSet, Quorums, Term};
use thiserror::Error;

use crate::mutant::{Mutant, is_on};

pub use hand_over::HandOverError;
pub use membership::Membership;
pub use progress::{Flow, Progress};
pub use quorum::nth_highest;
pub use reads::{ReadError, ReadState, ReadTicket};
pub use sending::{CHECKPOINT_WINDOW_BYTES, Checkpoint, Transfer};
pub use tail::Tail;
pub use terms::Terms;

use election::{Candidate, Timeouts};
use follower::Follower;
use leader::Leader;
use receiving::Receiver;
use repair::Inquiry;

/// Monotonic time since an origin of the caller's choice.
pub type Time = Duration;

/// What a replica is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Its number.
    pub node: NodeId,
    /// Of its data directory.
    pub incarnation: Incarnation,
    /// All m replicas.
    pub nodes: NodeSet,
    /// m and n.
    pub quorums: Quorums,
    /// Who leads.
    pub leadership: Leadership,
    /// How often a leader is heard when it has nothing to say.
    pub heartbeat: Duration,
    /// A node that has heard no leader for so long, and up to twice as long at random, stands for election; a
    /// follower that has not answered for so long is not reachable.
    pub election_timeout: Duration,
    /// What the random part of its timeouts follows from. Nodes with the same seed have different ones.
    pub election_seed: u64,
    /// For so long after it has heard a leader, and after its start, this node votes for nobody else; and for nine
    /// tenths of that a confirmed leader answers reads without asking again (R22). None: every read is confirmed.
    pub lease: Option<Duration>,
    /// Bytes of entries that are appended but not committed, beyond which writes are refused.
    pub uncommitted_bytes_max: usize,
    /// Bytes sent to one follower and not acknowledged, beyond which it gets no more until it answers.
    pub window_bytes_max: usize,
    /// Bytes of applied entries that a leader keeps in memory for its followers.
    pub tail_bytes_max: usize,
    /// Bytes of a checkpoint that one follower is sent in a second, at most; 0 for no bound.
    pub transfer_bytes_per_second: u64,
}

/// A durable promise: the highest term seen, and who got this node's vote in it (R5).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Promise {
    /// No message of a lower term is obeyed.
    pub term: Term,
    /// Cleared only when the term rises (R6).
    pub voted_for: Option<NodeId>,
}

impl Promise {
    /// Whether this promise may follow `earlier` (R6).
    pub fn may_follow(&self, earlier: &Self) -> bool {
        self.term > earlier.term
            || self.term == earlier.term
                && (earlier.voted_for.is_none() || self.voted_for == earlier.voted_for)
    }
}

/// What a data directory held when the node started.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The stored promise.
    pub promise: Promise,
    /// The last term that this node has noted to lead; 0 for none.
    pub led: Term,
    /// Where each term of log and checkpoint begins.
    pub terms: Terms,
    /// Who votes and counts.
    pub members: Membership,
    /// Where the log ended before it was found damaged, as (term, index); none if it is whole (R8).
    pub held: Option<(Term, Index)>,
    /// The store holds the entries up to here; all of them were committed.
    pub applied: Index,
    /// The entries above `applied`, all durable, maybe committed (R17).
    pub tail: Tail,
}

/// What happens to a replica.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// Time has passed.
    Tick,
    /// The link on which this node sends to `0` is up.
    Connected(Member),
    /// The link on which this node sends to `0` is down; what was sent on it may be lost.
    Disconnected(NodeId),
    /// A message from a replica of this cluster, by its link's identity.
    Message {
        /// Who sent it.
        from: Member,
        /// What it says.
        message: &'a PeerMessage<'a>,
    },
    /// The log has synced.
    Durable {
        /// Of the appends that it was for.
        generation: u64,
        /// Everything up to here is durable.
        index: Index,
        /// From the receipt of the batch's first entry to now.
        disk: Duration,
        /// Of that, in write and sync.
        sync: Duration,
    },
    /// The answer to [`Output::ReadLog`].
    LogRead {
        /// Whom it was read for.
        to: NodeId,
        /// What came of it.
        read: LogRead,
    },
    /// The answer to [`Output::OpenCheckpoint`].
    CheckpointOpened {
        /// Whom it was opened for.
        to: NodeId,
        /// The newest that there is; none if none can be sent.
        checkpoint: Option<Checkpoint>,
    },
    /// The answer to [`Output::ReadCheckpoint`].
    CheckpointRead {
        /// Whom it was read for.
        to: NodeId,
        /// Of the checkpoint.
        index: Index,
        /// As asked.
        offset: u64,
        /// At least one; none if they cannot be read.
        bytes: Option<Bytes>,
    },
    /// The log no longer reaches back to the checkpoint that a follower is sent: it has to be another one.
    CheckpointSuperseded(NodeId),
    /// The answer to [`Output::OpenPart`] and [`Output::StorePart`].
    PartStored {
        /// Of the checkpoint.
        index: Index,
        /// Bytes of it that are there now, from the beginning on.
        bytes: u64,
    },
    /// Another answer to [`Output::OpenPart`] and [`Output::StorePart`]: there was no room.
    PartBlocked {
        /// Of the checkpoint.
        index: Index,
        /// What is to be told.
        obstacle: Obstacle,
    },
    /// The answer to [`Output::InstallPart`]: the checkpoint is durable and loaded.
    PartInstalled {
        /// Where each term begins, up to the checkpoint's index.
        terms: Terms,
        /// Who votes and counts as of it.
        members: Membership,
    },
    /// Another answer to [`Output::InstallPart`]: it was not whole, and has been removed.
    PartDamaged(Index),
}

/// What came of reading the log for a follower.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LogRead {
    /// Whole entries from the asked index on, at least one.
    Entries(Bytes),
    /// The log begins behind the asked index: a checkpoint holds what it had.
    Dropped,
    /// They cannot be read now.
    Unreadable,
}

/// What must happen, in this order.
#[derive(Clone, PartialEq, Debug)]
pub enum Output {
    /// Make the promise durable before anything that comes after.
    Promise(Promise),
    /// Note durably that this node leads the promised term, before anything that comes after.
    Led,
    /// Make durable how far the log went before it was damaged, before anything that comes after; none when that
    /// no longer matters.
    Held(Option<(Term, Index)>),
    /// Make it durable who votes and counts, before anything that comes after (R26).
    Members(Membership),
    /// Give entries to the log; answer with [`Input::Durable`].
    Append {
        /// To come back in the answer.
        generation: u64,
        /// Of the first entry.
        first: Index,
        /// Of the last entry.
        last: Index,
        /// What is known to be committed.
        commit: Index,
        /// Whole entries.
        entries: Bytes,
    },
    /// Remove the entries after `after` from the log, after all appends given before.
    Truncate {
        /// The generation that begins.
        generation: u64,
        /// The last entry that stays.
        after: Index,
    },
    /// Send a message; it may get lost.
    Send {
        /// To whom.
        to: NodeId,
        /// What.
        message: Message,
    },
    /// Read entries from the log; answer with [`Input::LogRead`].
    ReadLog {
        /// For whom.
        to: NodeId,
        /// The first entry.
        from: Index,
        /// Bytes after which to stop, with at least one entry.
        bytes_max: usize,
    },
    /// Open a checkpoint to be sent, the newest from which on the log goes on; answer with
    /// [`Input::CheckpointOpened`].
    OpenCheckpoint {
        /// For whom.
        to: NodeId,
        /// Whether it is to be checked as a whole first: one that was sent has been found damaged.
        verify: bool,
    },
    /// Read of the checkpoint that was opened for a follower; answer with [`Input::CheckpointRead`].
    ReadCheckpoint {
        /// For whom.
        to: NodeId,
        /// Of the checkpoint.
        index: Index,
        /// Where to begin.
        offset: u64,
        /// Bytes to read, at most.
        bytes_max: usize,
    },
    /// See how much of a checkpoint is there from an earlier attempt, and give up all others; answer with
    /// [`Input::PartStored`] or [`Input::PartBlocked`].
    OpenPart {
        /// Of the checkpoint.
        index: Index,
        /// Bytes of the whole.
        total_bytes: u64,
    },
    /// Write what comes next of a checkpoint; answer as for [`Output::OpenPart`].
    StorePart {
        /// Of the checkpoint.
        index: Index,
        /// Where it begins.
        offset: u64,
        /// What.
        bytes: Bytes,
    },
    /// Check a checkpoint that is there in full, make it durable, and load it beside the store; answer with
    /// [`Input::PartInstalled`] or [`Input::PartDamaged`].
    InstallPart {
        /// Of the checkpoint.
        index: Index,
    },
    /// Go on with the store that was loaded.
    Restore {
        /// Of the checkpoint that it was loaded from.
        index: Index,
        /// The generation that begins with a new log behind the checkpoint; none if the log goes on.
        generation: Option<u64>,
    },
    /// Apply committed entries, the first of which follows what was applied before.
    Apply(Bytes),
    /// Another replica has broken a rule: tell the operator.
    Report(String),
    /// An office has changed hands, or an attempt at it begins: for whoever follows an election.
    Note(String),
    /// Going on would break a rule: stop the node, its files untouched.
    Stop(String),
}

/// A message that owns or shares its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Message {
    /// Entries, shared with the log and the other followers.
    Append {
        /// Everything else; its own entries are empty.
        head: Append<'static>,
        /// Whole entries.
        entries: Bytes,
    },
    /// A piece of a checkpoint.
    Chunk {
        /// Everything else; its own bytes are empty.
        head: CheckpointChunk<'static>,
        /// The piece.
        bytes: Bytes,
    },
    /// Everything else.
    Small(PeerMessage<'static>),
}

impl Message {
    /// The message as it goes over the wire.
    pub fn to_wire(&self) -> PeerMessage<'_> {
        match self {
            Self::Append { head, entries } => PeerMessage::Append(Append { entries, ..head.clone() }),
            Self::Chunk { head, bytes } => {
                PeerMessage::CheckpointChunk(CheckpointChunk { bytes, ..head.clone() })
            }
            Self::Small(message) => message.clone(),
        }
    }

    /// The first entry that it carries, if it does.
    pub fn first_entry(&self) -> Option<Index> {
        match self {
            Self::Append { head, entries } if !entries.is_empty() => Some(head.previous_index + 1),
            _ => None,
        }
    }
}

/// Why a write was not appended.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ProposeError {
    /// This node does not lead.
    #[error("not the leader")]
    NotLeader,
    /// Too few replicas can be reached.
    #[error("{have} of {need} replicas reachable")]
    NoQuorum {
        /// Reachable, this node included.
        have: u8,
        /// n
        need: u8,
    },
    /// It was elected just now, and has yet to hear who can be reached.
    #[error("the leader was elected just now, and has not heard the other replicas yet")]
    JustElected,
    /// As much is uncommitted as may be.
    #[error("too many bytes are not committed yet")]
    Overloaded,
    /// Another replica is about to lead.
    #[error("leadership is being handed over")]
    HandingOver,
}

/// Why a member was not admitted.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum AdmitError {
    /// This node does not lead.
    #[error("not the leader")]
    NotLeader,
    /// Not a replica of this cluster.
    #[error("there is no node {0} in this cluster: name one whose data directory was replaced")]
    Unknown(NodeId),
    /// It is this node.
    #[error("node {0} leads, so it is a voting member already")]
    Leads(NodeId),
    /// It is one already.
    #[error("node {0} is a voting member already")]
    IsMember(NodeId),
    /// It is not connected, or lacks entries.
    #[error("node {0} cannot be reached, or has not caught up yet")]
    NotCaughtUp(NodeId),
    /// The admission before it is not committed, or the leader's first entry.
    #[error("an earlier change is not committed yet")]
    Busy,
    /// So few voting replicas can be reached that the admission could not be committed.
    #[error(
        "{have} of the {need} voting replicas that have to store an admission can be reached: bring others back first"
    )]
    NoQuorum {
        /// This node among them.
        have: u8,
        /// Beside the newcomer.
        need: u8,
    },
}

/// One replica's state.
#[derive(Clone, Debug)]
pub struct Replica {
    settings: Settings,
    promise: Promise,
    role: Role,
    /// Who leads in the promised term, if known.
    leader: Option<NodeId>,
    /// When the leader of this term was last heard.
    heard_leader: Option<Time>,
    /// When to stand for election if no leader is heard until then.
    election_due: Option<Time>,
    timeouts: Timeouts,
    /// The first tick.
    started: Option<Time>,
    /// Whom the links on which this node sends lead to.
    connected: BTreeMap<NodeId, Incarnation>,
    elections: ElectionStatus,
    terms: Terms,
    members: Membership,
    held: Option<(Term, Index)>,
    /// How often others have said where their logs end since a leader was heard, and that changed nothing.
    asked_in_vain: u32,
    tail: Tail,
    last: Index,
    durable: Index,
    commit: Index,
    applied: Index,
    /// When `applied` last rose.
    applied_at: Time,
    generation: u64,
    /// What it is being sent, as a follower that lacks what the leader's log no longer holds.
    receiver: Receiver,
    /// Why it takes no entries as a follower.
    obstacle: Option<Obstacle>,
    /// As of the end of the last turn.
    uncommitted_bytes: usize,
    /// This turn's entries: the batch that goes to the log.
    batch: Vec<u8>,
    batch_first: Index,
    outputs: Vec<Output>,
}

#[derive(Clone, Debug)]
enum Role {
    Leader(Leader),
    Follower(Follower),
    Candidate(Candidate),
    Inquirer(Inquiry),
}

impl Replica {
    /// Starts a replica. A configured leader begins a new term at once (R11), and so does whoever goes on alone; the
    /// outputs are due at the end of the first turn.
    pub fn new(settings: Settings, recovered: Recovered) -> Self {
        let last = recovered.tail.last().unwrap_or(recovered.applied);
        let mut replica = Self {
            promise: recovered.promise,
            role: Role::Follower(Follower::default()),
            leader: None,
            heard_leader: None,
            election_due: None,
            timeouts: Timeouts::new(settings.election_seed, settings.node),
            started: None,
            connected: BTreeMap::new(),
            members: recovered.members,
            held: recovered.held,
            asked_in_vain: 0,
            elections: ElectionStatus::default(),
            terms: recovered.terms,
            tail: recovered.tail,
            last,
            durable: last,
            commit: recovered.applied,
            applied: recovered.applied,
            applied_at: Time::ZERO,
            generation: 0,
            receiver: Receiver::default(),
            obstacle: None,
            uncommitted_bytes: 0,
            batch: Vec::new(),
            batch_first: last + 1,
            outputs: Vec::new(),
            settings,
        };
        let leads = match replica.settings.leadership {
            Leadership::Configured(node) => {
                replica.leader = Some(node);
                node == replica.settings.node
            }
            Leadership::Elected => replica.goes_on_alone(recovered.led),
        };
        if leads {
            let term = replica.promise.term + 1;
            replica.promise(Promise { term, voted_for: Some(replica.settings.node) });
            replica.lead();
        }
        replica
    }

    /// Takes an input.
    pub fn step(&mut self, now: Time, input: Input<'_>) {
        match input {
            Input::Tick => self.tick(now),
            Input::Connected(member) => self.connected(member),
            Input::Disconnected(node) => {
                self.connected.remove(&node);
                self.with_progress(node, |progress| progress.disconnect());
            }
            Input::Message { from, message } => self.receive(now, from, message),
            Input::Durable { generation, index, disk, sync } => self.synced(generation, index, disk, sync),
            Input::LogRead { to, read } => self.log_read(to, read),
            Input::CheckpointOpened { to, checkpoint } => self.checkpoint_opened(to, checkpoint),
            Input::CheckpointRead { to, index, offset, bytes } => {
                self.checkpoint_read(to, index, offset, bytes);
            }
            Input::CheckpointSuperseded(to) => self.checkpoint_superseded(to),
            Input::PartStored { index, bytes } => self.part_stored(index, bytes),
            Input::PartBlocked { index, obstacle } => self.part_blocked(index, obstacle),
            Input::PartInstalled { terms, members } => self.installed(terms, members),
            Input::PartDamaged(index) => self.part_damaged(index),
        }
    }

    /// Says what keeps this node from taking entries, or that nothing does any more. A follower goes on answering:
    /// it acknowledges what is durable, and applies what is committed. What a leader may still append, its node
    /// decides.
    pub fn set_obstacle(&mut self, obstacle: Option<Obstacle>) {
        self.obstacle = obstacle;
    }

    /// Whether it leads, and reaches as many as a write needs.
    pub fn leads_quorum(&self, now: Time) -> bool {
        self.is_leader() && self.reachable(now) >= self.settings.quorums.quorum()
    }

    /// Appends a write, to be sent and logged at the end of the turn.
    pub fn propose(&mut self, now: Time, payload: &Payload<'_>) -> Result<Index, ProposeError> {
        if !self.is_leader() {
            return Err(ProposeError::NotLeader);
        }
        if self.is_handing_over() {
            return Err(ProposeError::HandingOver);
        }
        let (have, need) = (self.reachable(now), self.settings.quorums.quorum());
        if have < need && self.has_just_taken_office(now) {
            return Err(ProposeError::JustElected);
        }
        if have < need {
            return Err(ProposeError::NoQuorum { have, need });
        }
        if self.uncommitted_bytes + self.batch.len() >= self.settings.uncommitted_bytes_max {
            return Err(ProposeError::Overloaded);
        }
        Ok(self.append(payload))
    }

    /// Ends a turn: everything pending goes out at once, into the empty `outputs`. Carry them out in order.
    pub fn finish_turn(&mut self, now: Time, outputs: &mut Vec<Output>) {
        debug_assert!(outputs.is_empty());
        self.take_up_loaded(now);
        let batch = self.cut_batch();
        let committed = self.advance(now);
        match self.role {
            Role::Leader(_) => {
                self.advance_hand_over(now);
                self.advance_reads(now);
                self.feed_followers(now);
            }
            Role::Follower(_) => self.acknowledge(now),
            Role::Candidate(_) | Role::Inquirer(_) => {}
        }
        // Others write their copies while this node writes its own (Ongaro's thesis, §10.2.1).
        self.outputs.extend(batch);
        // Behind what others wait for, as it takes a while.
        self.outputs.extend(committed.into_iter().map(Output::Apply));
        self.notice_repair();
        self.ask_leader_where_its_log_ends(now);
        self.go_on_receiving();
        self.forget_tail();
        self.uncommitted_bytes = self.tail.bytes_above(self.commit);
        assert!(self.applied <= self.commit && self.commit <= self.last && self.durable <= self.last);
        std::mem::swap(&mut self.outputs, outputs);
    }

    /// Whether this node leads.
    pub fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// Whether this node asks for votes.
    pub fn is_candidate(&self) -> bool {
        matches!(self.role, Role::Candidate(_))
    }

    /// Who votes and counts.
    pub fn members(&self) -> &Membership {
        &self.members
    }

    /// Whether this node votes: it is a member, and knows that to be committed. One that was admitted by an entry
    /// that is not might vote in a term in which its earlier incarnation has voted (R26, R27).
    pub fn is_voting(&self) -> bool {
        let own = Member { node: self.settings.node, incarnation: self.settings.incarnation };
        self.members.has_committed(self.commit, own) || is_on(Mutant::WipedNodeVotes)
    }

    /// Where the log ended before it was found damaged, until it is whole again.
    pub fn held(&self) -> Option<(Term, Index)> {
        self.held
    }

    /// Whether it leads, and has applied what earlier leaders have left.
    pub fn is_settled(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if self.applied >= leader.first_of_term)
    }

    /// Who leads in the promised term, if this node knows.
    pub fn leader(&self) -> Option<NodeId> {
        self.leader
    }

    /// The promised term.
    pub fn term(&self) -> Term {
        self.promise.term
    }

    /// The promised term, and this node's vote in it.
    pub fn promised(&self) -> Promise {
        self.promise
    }

    /// What it has seen of elections since it started.
    pub fn elections(&self) -> ElectionStatus {
        self.elections
    }

    /// The last entry, durable or not.
    pub fn last(&self) -> Index {
        self.last
    }

    /// The last entry that is durable on this node's disk.
    pub fn durable(&self) -> Index {
        self.durable
    }

    /// The last entry known to be committed.
    pub fn commit(&self) -> Index {
        self.commit
    }

    /// The last entry handed over to be applied.
    pub fn applied(&self) -> Index {
        self.applied
    }

    /// Where each term begins.
    pub fn terms(&self) -> &Terms {
        &self.terms
    }

    /// The replicas known to hold an entry durably, this node among them.
    pub fn holders(&self, index: Index) -> NodeSet {
        let own = (self.durable >= index).then_some(self.settings.node);
        let others = self.followers().filter(|(_, progress)| progress.voting && progress.durable >= index);
        others.map(|(node, _)| node).chain(own).collect()
    }

    /// What a leader knows of its followers; nothing on a follower.
    pub fn followers(&self) -> impl Iterator<Item = (NodeId, &Progress)> {
        match &self.role {
            Role::Leader(leader) => Some(leader.followers.iter().map(|(node, progress)| (*node, progress))),
            _ => None,
        }
        .into_iter()
        .flatten()
    }

    /// What a leader knows of one follower.
    pub fn follower(&self, node: NodeId) -> Option<&Progress> {
        match &self.role {
            Role::Leader(leader) => leader.followers.get(&node),
            _ => None,
        }
    }

    /// Replicas that would store a write now, this node included: heard in this term within the election
    /// timeout, and fed from memory.
    pub fn reachable(&self, now: Time) -> u8 {
        let timeout = self.settings.election_timeout;
        let counts = |progress: &Progress| progress.voting && progress.is_reachable(now, timeout);
        1 + self.followers().filter(|(_, progress)| counts(progress)).count() as u8
    }

    /// The first entry that is in memory.
    pub fn tail_first(&self) -> Option<Index> {
        self.tail.first()
    }

    /// Bytes of the entries after `index`, as far as they are in memory.
    pub fn bytes_above(&self, index: Index) -> usize {
        self.tail.bytes_above(index)
    }

    fn tick(&mut self, now: Time) {
        self.started.get_or_insert(now);
        match &mut self.role {
            Role::Leader(leader) => {
                leader.begin_round_if_due(now, self.settings.heartbeat);
                self.step_down_if_alone(now);
            }
            Role::Follower(_) | Role::Candidate(_) | Role::Inquirer(_) => self.stand_if_due(now),
        }
        if self.is_leader() {
            self.give_way_if_stalled(now);
            self.look_for_one_that_hears_enough(now);
        }
    }

    fn receive(&mut self, now: Time, from: Member, message: &PeerMessage<'_>) {
        if self.obstacle == Some(Obstacle::DiskStalled) && term_of(message) > self.promise.term {
            return; // It could not store the promise (R5): as long as the disk does not answer this node is deaf.
        }
        // What is said to a candidate or an inquirer counts for members only (R26).
        let is_member = self.members.has(from) || is_on(Mutant::WipedNodeVotes);
        match message {
            PeerMessage::Append(append) => self.receive_append(now, from.node, append),
            PeerMessage::Ack(ack) => self.receive_ack(now, from, ack),
            PeerMessage::Reject(reject) => self.receive_reject(now, from, reject),
            PeerMessage::RequestVote(request) => self.receive_request_vote(now, from.node, request),
            PeerMessage::Vote(vote) if is_member => self.receive_vote(now, from.node, vote),
            PeerMessage::TimeoutNow(message) => self.receive_timeout_now(now, from.node, message),
            PeerMessage::Inquire(inquire) => self.receive_inquire(now, from.node, inquire),
            PeerMessage::Position(position) if is_member => self.receive_position(now, from.node, position),
            PeerMessage::Vote(_) | PeerMessage::Position(_) => {}
            PeerMessage::CheckpointChunk(chunk) => self.receive_chunk(now, from.node, chunk),
            PeerMessage::CheckpointAck(ack) => self.receive_checkpoint_ack(now, from, ack),
            PeerMessage::Stored(_) => {} // How a cluster forms is the node's business.
        }
    }

    fn synced(&mut self, generation: u64, index: Index, disk: Duration, sync: Duration) {
        if generation != self.generation && !is_on(Mutant::StaleSyncCounted) {
            return; // R12: what was synced has been cut since.
        }
        let index = if is_on(Mutant::StaleSyncCounted) { index.min(self.last) } else { index };
        assert!(index <= self.last, "the log synced entry {index}, but the last one is {}", self.last);
        self.durable = self.durable.max(index);
        if let Role::Follower(follower) = &mut self.role {
            follower.synced(disk, sync);
        }
    }

    /// Encodes an entry into this turn's batch.
    fn append(&mut self, payload: &Payload<'_>) -> Index {
        self.last += 1;
        if let Payload::Admit(member) = payload {
            self.note_admission(self.last, Some(*member));
        }
        entry::encode(self.promise.term, self.last, payload, &mut self.batch);
        self.terms.push(self.last, self.promise.term);
        self.last
    }

    /// What the entry at an index says of who votes and counts.
    fn note_admission(&mut self, index: Index, admitted: Option<Member>) {
        if self.members.set(index, admitted) {
            self.note_members();
        }
    }

    fn note_members(&mut self) {
        self.outputs.push(Output::Members(self.members.clone()));
    }

    /// Turns this turn's entries into one batch, shared by tail, log and links; returns what the log is to do.
    fn cut_batch(&mut self) -> Option<Output> {
        if self.batch.is_empty() {
            return None;
        }
        let capacity = self.batch.len();
        let entries = Bytes::from(std::mem::replace(&mut self.batch, Vec::with_capacity(capacity)));
        let (first, last) = (self.batch_first, self.last);
        self.batch_first = last + 1;
        self.tail.push(first, last, entries.clone());
        let (generation, commit) = (self.generation, self.commit);
        Some(Output::Append { generation, first, last, commit, entries })
    }

    /// Raises the commit index, and returns the entries that are to be applied.
    fn advance(&mut self, now: Time) -> Vec<Bytes> {
        let committed = match &self.role {
            Role::Leader(leader) => self.committed_by_counting(leader),
            Role::Follower(_) if is_on(Mutant::FollowerAppliesAboveCommit) => self.last,
            Role::Follower(follower) => follower.commit.min(self.last),
            Role::Candidate(_) | Role::Inquirer(_) => 0,
        };
        self.commit = self.commit.max(committed);
        if self.members.commit(self.commit) {
            self.count_members();
            self.note_members();
        }
        if self.applied >= self.commit {
            return Vec::new();
        }
        let entries = self.tail.range(self.applied, self.commit).collect();
        (self.applied, self.applied_at) = (self.commit, now);
        entries
    }

    fn forget_tail(&mut self) {
        let keep_bytes = if self.is_leader() { self.settings.tail_bytes_max } else { 0 };
        self.tail.forget(self.applied.min(self.durable), keep_bytes);
    }

    /// Promises a higher term, or gives this term's vote. Only a promise that is durable counts: it is an output before
    /// all that depend on it.
    fn promise(&mut self, promise: Promise) {
        assert!(promise.may_follow(&self.promise) || is_on(Mutant::VoteClearedOnLeaderChange));
        self.promise = promise;
        self.outputs.push(Output::Promise(promise));
    }

    fn send_to_others(&mut self, message: &PeerMessage<'static>) {
        let nodes = self.settings.nodes;
        for to in nodes.iter().filter(|node| *node != self.settings.node) {
            self.outputs.push(Output::Send { to, message: Message::Small(message.clone()) });
        }
    }

    fn send_small(&mut self, to: NodeId, message: PeerMessage<'static>) {
        self.outputs.push(Output::Send { to, message: Message::Small(message) });
    }

    fn reject(&mut self, to: NodeId, previous_index: Index, round: u64, reason: RejectReason) {
        let reject = Reject { term: self.promise.term, previous_index, round, reason };
        self.send_small(to, PeerMessage::Reject(reject));
    }

    fn report(&mut self, report: String) {
        self.outputs.push(Output::Report(report));
    }

    fn note(&mut self, note: String) {
        self.outputs.push(Output::Note(note));
    }
}

/// The term that whoever obeys a message has to promise; 0 if it asks for no promise.
fn term_of(message: &PeerMessage<'_>) -> Term {
    match message {
        PeerMessage::Append(append) => append.term,
        PeerMessage::Ack(ack) => ack.term,
        PeerMessage::Reject(reject) => reject.term,
        PeerMessage::RequestVote(request) if request.pre_vote => 0,
        PeerMessage::RequestVote(request) => request.term,
        PeerMessage::Vote(vote) => vote.term,
        PeerMessage::TimeoutNow(message) => message.term,
        PeerMessage::Inquire(inquire) if inquire.pre_vote => 0,
        PeerMessage::Inquire(inquire) => inquire.term,
        PeerMessage::Position(position) => position.term,
        PeerMessage::CheckpointChunk(chunk) => chunk.term,
        PeerMessage::CheckpointAck(ack) => ack.term,
        PeerMessage::Stored(_) => 0,
    }
}
