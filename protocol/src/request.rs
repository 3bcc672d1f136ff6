//! What a client may ask.
//!
//! A connection carries any number of requests at once; each has an id of the client's choice, and answers
//! come in any order. Keys and values borrow the buffer that the request was read from.

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::message::bounded;
use crate::{Index, NodeId, SequenceNumber, SessionId, Term, limits};

/// One request.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Request<'a> {
    /// Comes back in the response.
    pub id: u64,
    /// Milliseconds after which the client no longer waits; 0 for no deadline.
    pub deadline_ms: u32,
    /// What is asked.
    #[serde(borrow)]
    pub operation: Operation<'a>,
}

/// What is asked.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Operation<'a> {
    /// The value of a key.
    Get {
        /// How fresh it must be.
        consistency: Consistency,
        /// The key.
        #[serde(with = "serde_bytes")]
        key: &'a [u8],
    },
    /// The keys of a range, in order, one page.
    Scan {
        /// How fresh it must be.
        consistency: Consistency,
        /// Which keys.
        #[serde(borrow)]
        range: Range<'a>,
        /// Items after which the page ends; at most [`limits::SCAN_ITEMS_MAX`].
        items_max: u32,
    },
    /// A change.
    Write {
        /// How it is acknowledged.
        options: WriteOptions,
        /// The change.
        #[serde(borrow)]
        write: Write<'a>,
    },
    /// How the node is.
    Status {
        /// Whether the followers' lag histograms are wanted too.
        histograms: bool,
    },
    /// Nothing: shows that the connection is alive.
    Ping,
    /// The leader is to make a replica whose data directory was replaced a voting member again.
    Admit {
        /// Which.
        node: NodeId,
    },
    /// The leader is to hand over to another replica.
    HandOver {
        /// To whom; if not said, to the one that has most of the log.
        to: Option<NodeId>,
    },
    /// A session for writes that may be sent again (R24). Its id is the index of the entry that opens it.
    OpenSession,
    /// A session is not needed any more. Done whether it is there or not.
    CloseSession {
        /// Which.
        session: SessionId,
    },
    /// Every change of a range, in order, from any replica, until it is cancelled.
    Watch {
        /// Which keys.
        #[serde(borrow)]
        range: Range<'a>,
        /// Changes behind this entry; if not said, behind the last one that the node has applied.
        after: Option<Token>,
    },
    /// A watch of this connection is over: no more is said under its id. Done whether it is there or not.
    Cancel {
        /// The id of the request that began it.
        request: u64,
    },
}

/// How fresh a read must be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Consistency {
    /// Sees every write that was committed before the read began (R21).
    Linearizable,
    /// Sees what the token's owner has seen or written (R23).
    Session(Token),
    /// Sees some committed prefix, at once, from any replica.
    Local,
}

/// A position in the log that a session has seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Token {
    /// Of the entry at `index`.
    pub term: Term,
    /// The last entry seen.
    pub index: Index,
}

/// A range of keys, `start` included, `end` not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Range<'a> {
    /// The first key; empty for the very first.
    #[serde(with = "serde_bytes")]
    pub start: &'a [u8],
    /// Where it ends.
    #[serde(borrow)]
    pub end: RangeEnd<'a>,
}

/// Where a range of keys ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum RangeEnd<'a> {
    /// At the last key.
    Open,
    /// Before this key.
    Before(#[serde(with = "serde_bytes")] &'a [u8]),
    /// After the last key that begins with this.
    Prefix(#[serde(with = "serde_bytes")] &'a [u8]),
}

impl Range<'_> {
    /// Checks that some key can be in it.
    pub fn check(&self) -> Result<(), InvalidRequest> {
        let can_have_keys = match self.end {
            RangeEnd::Open => true,
            // The lowest key of all is one byte, a zero.
            RangeEnd::Before(end) => self.start.max(&[0]) < end,
            RangeEnd::Prefix(prefix) => self.start <= prefix || self.start.starts_with(prefix),
        };
        if can_have_keys { Ok(()) } else { Err(InvalidRequest::EmptyRange) }
    }
}

impl RangeEnd<'_> {
    /// Whether a key that is not below the range's start is still inside.
    pub fn includes(&self, key: &[u8]) -> bool {
        match self {
            Self::Open => true,
            Self::Before(end) => key < *end,
            Self::Prefix(prefix) => key.starts_with(prefix),
        }
    }
}

/// How a write is acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct WriteOptions {
    /// At how many copies.
    pub acks: Acks,
    /// Whether every copy is told, from the first on. The last answer then comes when all m hold the write and it is
    /// committed, whatever `acks` says; or at the deadline, with what is known.
    pub progress: bool,
    /// Makes a repetition be answered with the first result.
    pub session: Option<SessionSequence>,
}

/// At how many durable copies a write is acknowledged. What it asks for beyond n is waited for until the deadline, but
/// no longer than a minute, and not when the leader stops leading: a write that is committed by then is answered with
/// the copies that are known. Fewer than n do not let it be taken when n replicas cannot be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Acks {
    /// The cluster's n.
    #[default]
    Quorum,
    /// So many, 1 to m. Below n the write is not committed yet when it is acknowledged
    /// ([`Stored`](crate::response::Outcome::Stored)), and it must be unconditional; above n it is answered once it is
    /// committed and has them.
    Copies(u8),
    /// All m.
    All,
}

/// A request's place in its session (R24).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionSequence {
    /// The session.
    pub session: SessionId,
    /// The request's number.
    pub sequence: SequenceNumber,
    /// The lowest number whose answer the client still waits for.
    pub lowest_open: SequenceNumber,
}

/// A change: one mutation, or several that happen together or not at all.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Write<'a> {
    /// One mutation.
    One(#[serde(borrow)] Mutation<'a>),
    /// All of them, in order, or none if one's condition does not hold.
    Batch(
        #[serde(borrow, deserialize_with = "bounded::<_, _, { limits::BATCH_MUTATIONS_MAX }>")]
        Vec<Mutation<'a>>,
    ),
}

/// A change of one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Mutation<'a> {
    /// Gives a key a value.
    Set {
        /// The key.
        #[serde(with = "serde_bytes")]
        key: &'a [u8],
        /// Its new value.
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
    },
    /// Removes a key; no error if it is absent.
    Delete {
        /// The key.
        #[serde(with = "serde_bytes")]
        key: &'a [u8],
    },
    /// Gives a key a value if its condition holds.
    CompareAndSet {
        /// The key.
        #[serde(with = "serde_bytes")]
        key: &'a [u8],
        /// What must hold.
        expected: Expected,
        /// Its new value.
        #[serde(with = "serde_bytes")]
        value: &'a [u8],
    },
}

/// The condition of a compare-and-set.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Expected {
    /// The key does not exist.
    Absent,
    /// The key was last written at this revision.
    Revision(Index),
}

/// Why a request can never be carried out as it is.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum InvalidRequest {
    /// A key of no bytes.
    #[error("a key must have at least one byte")]
    EmptyKey,
    /// A key over [`limits::KEY_BYTES_MAX`].
    #[error("a key of {0} bytes is over the limit of {max}", max = limits::KEY_BYTES_MAX)]
    KeyTooLong(usize),
    /// A value over [`limits::VALUE_BYTES_MAX`].
    #[error("a value of {0} bytes is over the limit of {max}", max = limits::VALUE_BYTES_MAX)]
    ValueTooLong(usize),
    /// A batch without a mutation.
    #[error("a batch must have at least one mutation")]
    EmptyBatch,
    /// A batch over [`limits::BATCH_MUTATIONS_MAX`] mutations or [`limits::REQUEST_BYTES_MAX`] bytes.
    #[error("a batch of {0} mutations is over the limit of {max}", max = limits::BATCH_MUTATIONS_MAX)]
    BatchTooLong(usize),
    /// A range that no key can be in, where one is waited for.
    #[error("no key can be in the range: give an end above its start")]
    EmptyRange,
}

impl Mutation<'_> {
    /// The key that it changes.
    pub fn key(&self) -> &[u8] {
        match self {
            Self::Set { key, .. } | Self::Delete { key } | Self::CompareAndSet { key, .. } => key,
        }
    }

    fn value(&self) -> &[u8] {
        match self {
            Self::Set { value, .. } | Self::CompareAndSet { value, .. } => value,
            Self::Delete { .. } => &[],
        }
    }
}

impl<'a> Write<'a> {
    /// Whether it has a condition, so that what it does is known only when it is committed.
    pub fn is_conditional(&self) -> bool {
        self.mutations().iter().any(|mutation| matches!(mutation, Mutation::CompareAndSet { .. }))
    }

    /// Its mutations, in order.
    pub fn mutations(&self) -> &[Mutation<'a>] {
        match self {
            Self::One(mutation) => std::slice::from_ref(mutation),
            Self::Batch(mutations) => mutations,
        }
    }

    /// Checks keys, values and counts against the limits.
    pub fn check(&self) -> Result<(), InvalidRequest> {
        match self.mutations() {
            [] => return Err(InvalidRequest::EmptyBatch),
            mutations if mutations.len() > limits::BATCH_MUTATIONS_MAX => {
                return Err(InvalidRequest::BatchTooLong(mutations.len()));
            }
            _ => {}
        }
        self.mutations().iter().try_for_each(|mutation| {
            check_key(mutation.key())?;
            match mutation.value().len() {
                length if length > limits::VALUE_BYTES_MAX => Err(InvalidRequest::ValueTooLong(length)),
                _ => Ok(()),
            }
        })
    }
}

/// Checks a key against the limits.
pub fn check_key(key: &[u8]) -> Result<(), InvalidRequest> {
    match key.len() {
        0 => Err(InvalidRequest::EmptyKey),
        length if length > limits::KEY_BYTES_MAX => Err(InvalidRequest::KeyTooLong(length)),
        _ => Ok(()),
    }
}
