//! What a client may be told.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::handshake::NodeAddress;
use crate::message::bounded;
use crate::peer::PeerMessage;
use crate::request::Token;
use crate::{Durability, Index, Leadership, NodeId, NodeSet, Quorums, Term, limits};

/// The answer to one request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Response<'a> {
    /// The request's id.
    pub id: u64,
    /// The answer.
    #[serde(borrow)]
    pub outcome: Outcome<'a>,
}

/// The answer to a request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Outcome<'a> {
    /// The write is committed.
    Written {
        /// Where it is, and how safe.
        receipt: Receipt,
        /// What it did.
        result: WriteResult,
    },
    /// The value of a key.
    Value {
        /// What the read has seen.
        token: Token,
        /// None if the key is absent.
        #[serde(borrow)]
        value: Option<Versioned<'a>>,
    },
    /// One page of a scan.
    Page {
        /// What the read has seen.
        token: Token,
        /// In order of their keys.
        #[serde(borrow, deserialize_with = "bounded::<_, _, { limits::SCAN_ITEMS_MAX }>")]
        items: Vec<Item<'a>>,
        /// Whether the range has further keys, after the last item.
        more: bool,
    },
    /// How the node is.
    Status(#[serde(borrow)] Box<Status<'a>>),
    /// Alive.
    Pong,
    /// Not done, and it will not be.
    Refused(Refusal),
    /// A write was appended, but not known to be committed when its deadline came: a later leader may keep
    /// or drop it (R20).
    Unknown {
        /// Where it was appended.
        index: Index,
        /// Replicas known to hold it durably.
        copies: u8,
    },
    /// This node does not lead any more, as was asked.
    HandedOver {
        /// The term that it has promised since.
        term: Term,
    },
    /// The write is on as many replicas as it wanted, fewer than n, and not committed yet: a later leader may keep or
    /// drop it.
    Stored {
        /// Where it is: not safe against a failover.
        receipt: Receipt,
    },
    /// The write is on more replicas than was last told. More follows under the same id, and in the end
    /// [`Written`](Self::Written), which tells of the last copies itself, or [`Unknown`](Self::Unknown).
    Progress {
        /// Where it is, and how safe by now.
        receipt: Receipt,
    },
    /// What a watch has seen. More follows under the same id.
    Changes {
        /// All changes up to this entry are told.
        through: Token,
        /// In order. All are of the term of `through`, so that the token of each is known.
        #[serde(borrow, deserialize_with = "bounded::<_, _, { limits::SCAN_ITEMS_MAX }>")]
        changes: Vec<Change<'a>>,
    },
}

impl Outcome<'_> {
    /// Whether nothing more is said under the request's id.
    pub fn is_last(&self) -> bool {
        !matches!(self, Self::Progress { .. } | Self::Changes { .. })
    }
}

/// What an entry did to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Change<'a> {
    /// The entry: the key's revision, if it has a value now. Changes of one batch share it.
    pub index: Index,
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: &'a [u8],
    /// Its new value; none if it was removed.
    #[serde(borrow)]
    pub value: Option<NewValue<'a>>,
}

/// A value that a change gave to its key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct NewValue<'a>(#[serde(with = "serde_bytes")] pub &'a [u8]);

/// Where a write is, and how safe.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Receipt {
    /// Of the entry: with its index the token of a session that has seen it.
    pub term: Term,
    /// Its place in the log; the revision of every key that it wrote.
    pub index: Index,
    /// Replicas known to hold it durably.
    pub holders: NodeSet,
    /// What "durably" means.
    pub durability: Durability,
    /// Whether whoever leads next has it: it is committed.
    pub survives_failover: bool,
    /// How many of its holders may be lost without the write being lost; 0 while a failover may drop it.
    pub survivable_losses: u8,
}

/// What a committed write did.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum WriteResult {
    /// Everything.
    Applied {
        /// How many of its keys existed before.
        existed: u32,
    },
    /// Nothing, as a condition did not hold.
    ConditionFailed {
        /// Which mutation's, counted from 0.
        mutation: u32,
        /// The revision that its key has; none if it is absent.
        revision: Option<Index>,
    },
}

/// A value and when it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Versioned<'a> {
    /// Index of the entry that last wrote the key.
    pub revision: Index,
    /// The value.
    #[serde(with = "serde_bytes")]
    pub value: &'a [u8],
}

/// A key, its value and when it was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Item<'a> {
    /// The key.
    #[serde(with = "serde_bytes")]
    pub key: &'a [u8],
    /// Its value.
    #[serde(borrow)]
    pub versioned: Versioned<'a>,
}

/// Why a request was not carried out. Nothing was done.
#[derive(Clone, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum Refusal {
    /// Only the leader does this.
    #[error("this node is not the leader{}", leader_words(.leader))]
    NotLeader {
        /// Where to go.
        leader: Option<NodeAddress>,
    },
    /// Too few replicas can be reached to commit a write.
    #[error(
        "{have} of the {need} replicas that a write needs are reachable: bring back {} more",
        .need.saturating_sub(*.have)
    )]
    NoQuorum {
        /// Reachable replicas, the leader included.
        have: u8,
        /// n
        need: u8,
    },
    /// The cluster has not formed yet, or the leader has not committed its first entry; try again.
    #[error("the node is not ready: {0}")]
    NotReady(String),
    /// A bound is reached; try again.
    #[error("the node is overloaded: {0}")]
    Overloaded(String),
    /// The request breaks a limit or makes no sense.
    #[error("{0}")]
    BadRequest(String),
    /// The node does not know how.
    #[error("not supported: {0}")]
    Unsupported(String),
    /// The node cannot take writes; it goes on answering reads, and takes writes again by itself.
    #[error(transparent)]
    Blocked(#[from] Obstacle),
    /// The replica has not applied the token's entry.
    #[error("the replica has applied the log up to {applied}, which is behind the token")]
    Behind {
        /// Its applied index.
        applied: Index,
    },
    /// The entry that the token names is not in the log any more: the session cannot go on.
    #[error("the log no longer holds what the session has seen")]
    TokenLost,
    /// The node is stopping; try another.
    #[error("the node is stopping")]
    Stopping,
    /// What was sent is not a request. The connection is closed after this.
    #[error("the connection is closed: {0}")]
    BadFrame(String),
    /// The write's session does not let it be done. An earlier try may have been.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The replica does not keep the changes that a watch was to go on with, or the watch was too slow for them.
    #[error(
        "the changes behind entry {after} are not kept any more, only those behind entry {oldest}: read the keys, and \
         watch from what that read has seen"
    )]
    HistoryLost {
        /// The last entry whose changes the watch has told, or was said to know.
        after: Index,
        /// The first entry behind which all changes are kept.
        oldest: Index,
    },
}

/// Why a session does not let a write be done. Decided in the log, alike on all replicas.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
pub enum SessionError {
    /// It was not used for so long that it has ended, or there never was one.
    #[error(
        "the session has expired or was closed: whether an earlier try was done is not known; open another one"
    )]
    Expired,
    /// The number was used for another write.
    #[error("the sequence number was used for another write: number each write of a session once")]
    SequenceReused,
    /// The client has said that it does not wait for the number's answer any more.
    #[error("the sequence number is below the lowest one that the client waits for: its result is forgotten")]
    SequencePassed,
    /// The number is too far above the lowest one that is open.
    #[error(
        "the sequence number is {max} or more above the lowest one that the client waits for: finish that first",
        max = limits::SESSION_WINDOW
    )]
    SequenceBeyondWindow,
}

/// What keeps a node from taking writes. It passes by itself once somebody has done what its message says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Obstacle {
    /// There is no room for its log.
    #[error("the node's disk is full: free space on it")]
    DiskFull,
    /// Its store is as large as it may be. Deletes are taken.
    #[error("the node's memory is at its limit: delete keys, or restart it with a larger --memory-mib")]
    MemoryFull,
    /// A write or a sync of its log has not come back; what waits for it is not acknowledged.
    #[error("the node's disk does not answer: look after it, or stop the node")]
    DiskStalled,
}

fn leader_words(leader: &Option<NodeAddress>) -> String {
    match leader {
        Some(hint) => format!("; node {} at {} is", hint.node, hint.address),
        None => ", and knows of none: an election is under way, or too few replicas can be reached for one"
            .to_owned(),
    }
}

/// What a node does in its cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Takes writes.
    Leader,
    /// Takes the leader's entries.
    Follower,
    /// Asks for votes.
    Candidate,
}

/// How a node is. Indexes are those of its own log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Status<'a> {
    /// The node.
    pub node: NodeId,
    /// The cluster's name.
    pub cluster: &'a str,
    /// Whether all replicas have met.
    pub formed: bool,
    /// What it does.
    pub role: Role,
    /// The highest term that it promised.
    pub term: Term,
    /// Who got its vote in that term.
    pub voted_for: Option<NodeId>,
    /// Who leads, if known.
    pub leader: Option<NodeAddress>,
    /// What it has seen of elections.
    pub elections: ElectionStatus,
    /// Messages that it sent to other replicas.
    pub sent: MessageCounts,
    /// Messages that it got from other replicas.
    pub received: MessageCounts,
    /// m and n.
    pub quorums: Quorums,
    /// How the leader is found.
    pub leadership: Leadership,
    /// What it calls durable.
    pub durability: Durability,
    /// Its last entry.
    pub last: Index,
    /// Its last entry that is durable on its own disk.
    pub durable: Index,
    /// The acknowledged prefix.
    pub commit: Index,
    /// What is in its memory.
    pub applied: Index,
    /// Where its newest checkpoint stands.
    pub checkpoint: Index,
    /// The first entry that its log still holds.
    pub log_first: Index,
    /// Bytes of its log files.
    pub log_bytes: u64,
    /// Bytes of them kept only for followers that lack them.
    pub log_bytes_held: u64,
    /// Keys in its store.
    pub keys: u64,
    /// Bytes of keys and values in its store.
    pub store_bytes: u64,
    /// Bytes of memory that its store takes, by estimate: with pointers, tables and what the allocator adds.
    pub memory_bytes: u64,
    /// Bytes of memory beyond which its store takes no more.
    pub memory_bytes_max: u64,
    /// What keeps it from taking writes.
    pub obstacle: Option<Obstacle>,
    /// Whether it votes and counts: not while it is new in the place of an earlier incarnation, and not admitted.
    pub voting: bool,
    /// Whether its log was found damaged, and does not reach as far again as it did.
    pub repairing: bool,
    /// Sessions of clients that its store knows.
    pub sessions: u64,
    /// Results of writes that it keeps for them.
    pub session_results: u64,
    /// Watches that it serves.
    pub watches: u64,
    /// The first entry behind which it keeps all changes for them.
    pub history_first: Index,
    /// Bytes of these changes.
    pub history_bytes: u64,
    /// How its disk has worked.
    #[serde(borrow)]
    pub disk: DiskStatus<'a>,
    /// What a leader knows of its followers.
    #[serde(borrow, deserialize_with = "bounded::<_, _, { limits::REPLICAS_MAX as usize }>")]
    pub followers: Vec<FollowerStatus<'a>>,
}

/// What a node has seen of elections since it started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ElectionStatus {
    /// Times that it heard no leader for an election timeout, and asked whether others would vote for it.
    pub pre_votes: u64,
    /// Elections that it stood in.
    pub stood: u64,
    /// Of these, those that it won.
    pub won: u64,
    /// Votes that it gave to others.
    pub votes_given: u64,
    /// Votes, and promises of votes, that it refused.
    pub votes_refused: u64,
    /// Times that it stopped leading.
    pub stepped_down: u64,
    /// Leaders that it began to follow.
    pub followed: u64,
    /// Times that it removed entries which a later leader did not have.
    pub truncations: u64,
    /// Rounds of heartbeats in which it was confirmed to lead.
    pub confirmations: u64,
}

/// Messages between replicas, by their kind.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct MessageCounts {
    /// Entries, or a heartbeat.
    pub append: u64,
    /// What a follower holds.
    pub ack: u64,
    /// Appends refused.
    pub reject: u64,
    /// Requests for votes.
    pub request_vote: u64,
    /// Answers to these.
    pub vote: u64,
    /// Everything else.
    pub other: u64,
}

impl MessageCounts {
    /// Counts a message.
    pub fn count(&mut self, message: &PeerMessage<'_>) {
        *match message {
            PeerMessage::Append(_) => &mut self.append,
            PeerMessage::Ack(_) => &mut self.ack,
            PeerMessage::Reject(_) => &mut self.reject,
            PeerMessage::RequestVote(_) => &mut self.request_vote,
            PeerMessage::Vote(_) => &mut self.vote,
            PeerMessage::Stored(_)
            | PeerMessage::TimeoutNow(_)
            | PeerMessage::Inquire(_)
            | PeerMessage::Position(_)
            | PeerMessage::CheckpointChunk(_)
            | PeerMessage::CheckpointAck(_) => &mut self.other,
        } += 1;
    }
}

/// What a node's log thread has done since the node started.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct DiskStatus<'a> {
    /// Writes, each with its sync.
    pub syncs: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes in them.
    pub bytes: u64,
    /// Microseconds spent in them.
    pub busy_us: u64,
    /// Microseconds of each write with its sync: a histogram like [`FollowerStatus::lag_us`].
    #[serde(with = "serde_bytes")]
    pub sync_us: &'a [u8],
    /// Entries in each: a histogram.
    #[serde(with = "serde_bytes")]
    pub batch_entries: &'a [u8],
    /// Bytes in each: a histogram.
    #[serde(with = "serde_bytes")]
    pub batch_bytes: &'a [u8],
}

/// What the leader knows of a follower.
///
/// The histograms hold what was measured since the node started, one value for each entry, and to two decimal
/// digits. They are HDR histograms in V2 serialisation, and empty unless asked for. Queue, network and disk of an
/// entry add up to its lag.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FollowerStatus<'a> {
    /// The follower.
    pub node: NodeId,
    /// Whether it is a voting member, so that it counts.
    pub voting: bool,
    /// Whether a write sent now would be stored: it has answered within the election timeout, and needs no
    /// older entries first.
    pub reachable: bool,
    /// What it last said keeps it from taking entries.
    pub obstacle: Option<Obstacle>,
    /// The checkpoint that it is being sent, as the log no longer reaches back to what it lacks.
    pub checkpoint: Option<CheckpointTransfer>,
    /// Highest index that it holds durably in this term.
    pub durable: Index,
    /// Highest index that it has applied.
    pub applied: Index,
    /// Entries that it does not hold durably yet.
    pub entries_behind: u64,
    /// Bytes of them; an estimate where the leader does not have all of them in memory.
    pub bytes_behind: u64,
    /// Microseconds since the append of the oldest entry that it has not acknowledged; 0 if there is none.
    pub lag_now_us: u64,
    /// Microseconds from an entry's append at the leader to this follower's acknowledgement, on the leader's
    /// clock: a histogram.
    #[serde(with = "serde_bytes")]
    pub lag_us: &'a [u8],
    /// Of these, until the entry was sent to the follower: a histogram.
    #[serde(with = "serde_bytes")]
    pub queue_us: &'a [u8],
    /// Of these, on the way there and back: a histogram.
    #[serde(with = "serde_bytes")]
    pub network_us: &'a [u8],
    /// Of these, from the follower's receipt until it was durable, by the follower's clock: a histogram.
    #[serde(with = "serde_bytes")]
    pub disk_us: &'a [u8],
    /// Of the disk's share, in write and sync alone: a histogram.
    #[serde(with = "serde_bytes")]
    pub sync_us: &'a [u8],
    /// Microseconds from the acknowledgement until the follower had applied the entry, as far as the leader
    /// learns it: a histogram.
    #[serde(with = "serde_bytes")]
    pub apply_us: &'a [u8],
    /// Entries behind, seen at each acknowledgement: a histogram.
    #[serde(with = "serde_bytes")]
    pub lag_entries: &'a [u8],
}

/// A checkpoint on its way to a follower.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct CheckpointTransfer {
    /// The last entry that it contains.
    pub index: Index,
    /// Bytes of it that the follower has said to have written.
    pub bytes_received: u64,
    /// Bytes of its file.
    pub bytes_total: u64,
}
