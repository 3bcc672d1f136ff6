//! What calls return: the protocol's answers, owned.

use quorate_protocol::request::Token;
use quorate_protocol::response::{
    self, Item, Outcome, Receipt, Refusal, Response, Status, Versioned, WriteResult,
};
use quorate_protocol::{Index, Term};

use crate::SessionToken;

/// A write that was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Where it is, and how safe: which replicas hold it durably, whether a failover keeps it, and how many losses it
    /// survives.
    pub receipt: Receipt,
    /// What it did. A compare-and-set or batch whose condition does not hold is committed, and did nothing. None if
    /// fewer copies than the cluster's quorum were [asked for](crate::WriteCall::acks), and it is not committed yet.
    pub result: Option<WriteResult>,
}

impl Written {
    /// The revision of the keys that it wrote.
    pub fn revision(&self) -> Index {
        self.receipt.index
    }

    /// What another client must have seen so that its session reads see this write. Of one that is not committed yet:
    /// reads with it end as [`TokenLost`](crate::Refusal::TokenLost) if a failover has dropped the write. The client
    /// itself carries only tokens of what is committed.
    pub fn token(&self) -> SessionToken {
        SessionToken(self.place())
    }

    /// Whether its conditions held; one that is not committed yet has none.
    pub fn applied(&self) -> bool {
        !matches!(self.result, Some(WriteResult::ConditionFailed { .. }))
    }

    /// What the client has seen with it: nothing while it is not committed, as it may yet be dropped.
    pub(crate) fn seen(&self) -> Option<Token> {
        self.result.map(|_| self.place())
    }

    fn place(&self) -> Token {
        Token { term: self.receipt.term, index: self.receipt.index }
    }
}

/// A value and when it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Value {
    /// Index of the entry that last wrote the key; what a compare-and-set expects.
    pub revision: Index,
    /// The bytes.
    pub value: Vec<u8>,
}

/// What a get found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Lookup {
    /// What the read has seen; for session reads of another client that must not see less.
    pub token: SessionToken,
    /// None if the key is absent.
    pub value: Option<Value>,
}

/// A key, its value and when it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeyValue {
    /// The key.
    pub key: Vec<u8>,
    /// Index of the entry that last wrote the key.
    pub revision: Index,
    /// The value.
    pub value: Vec<u8>,
}

/// One page of a scan.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Page {
    /// What the read has seen.
    pub token: SessionToken,
    /// In order of their keys.
    pub items: Vec<KeyValue>,
    /// Whether the range has further keys, after the last item.
    pub more: bool,
}

/// What happened to a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// Index of the entry that did it: the key's revision, if it has a value now. The changes of one batch share it.
    pub index: Index,
    /// The key.
    pub key: Vec<u8>,
    /// Its new value; none if it was removed.
    pub value: Option<Vec<u8>>,
}

/// How a node is, as it said it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeStatus {
    /// The response as it came, known to parse.
    body: Box<[u8]>,
}

impl NodeStatus {
    /// The node's words.
    pub fn view(&self) -> Status<'_> {
        match quorate_protocol::parse(&self.body) {
            Ok(Response { outcome: Outcome::Status(status), .. }) => *status,
            _ => unreachable!("made from a body that parsed as a status"),
        }
    }
}

/// An answer, as the driver hands it to the call.
#[derive(Debug)]
pub(crate) enum Reply {
    Written(Written),
    Lookup(Lookup),
    Page(Page),
    Status(NodeStatus),
    Pong,
    Refused(Refusal),
    Unknown { index: Index, copies: u8 },
    HandedOver(Term),
    Progress(Receipt),
    Changes { through: Token, changes: Vec<Change> },
}

impl Reply {
    /// Owns an answer; `body` is what it was parsed from.
    pub(crate) fn new(outcome: Outcome<'_>, body: &[u8]) -> Self {
        match outcome {
            Outcome::Written { receipt, result } => Self::Written(Written { receipt, result: Some(result) }),
            Outcome::Stored { receipt } => Self::Written(Written { receipt, result: None }),
            Outcome::Progress { receipt } => Self::Progress(receipt),
            Outcome::Value { token, value } => {
                Self::Lookup(Lookup { token: SessionToken(token), value: value.map(Value::from) })
            }
            Outcome::Page { token, items, more } => {
                let items = items.into_iter().map(KeyValue::from).collect();
                Self::Page(Page { token: SessionToken(token), items, more })
            }
            Outcome::Changes { through, changes } => {
                Self::Changes { through, changes: changes.into_iter().map(Change::from).collect() }
            }
            Outcome::Status(_) => Self::Status(NodeStatus { body: body.into() }),
            Outcome::Pong => Self::Pong,
            Outcome::Refused(refusal) => Self::Refused(refusal),
            Outcome::Unknown { index, copies } => Self::Unknown { index, copies },
            Outcome::HandedOver { term } => Self::HandedOver(term),
        }
    }
}

impl From<Versioned<'_>> for Value {
    fn from(versioned: Versioned<'_>) -> Self {
        Self { revision: versioned.revision, value: versioned.value.to_vec() }
    }
}

impl From<response::Change<'_>> for Change {
    fn from(change: response::Change<'_>) -> Self {
        let value = change.value.map(|value| value.0.to_vec());
        Self { index: change.index, key: change.key.to_vec(), value }
    }
}

impl From<Item<'_>> for KeyValue {
    fn from(item: Item<'_>) -> Self {
        Self {
            key: item.key.to_vec(),
            revision: item.versioned.revision,
            value: item.versioned.value.to_vec(),
        }
    }
}
