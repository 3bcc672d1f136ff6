//! What calls return: the protocol's answers, owned.

use quorate_protocol::request::Token;
use quorate_protocol::response::{Item, Outcome, Receipt, Refusal, Response, Status, Versioned, WriteResult};
use quorate_protocol::{Index, Term};

/// A committed write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Written {
    /// Where it is, and how safe.
    pub receipt: Receipt,
    /// What it did. A compare-and-set or batch whose condition does not hold is committed, and did nothing.
    pub result: WriteResult,
}

impl Written {
    /// The revision of the keys that it wrote.
    pub fn revision(&self) -> Index {
        self.receipt.index
    }

    /// For session reads that must see this write.
    pub fn token(&self) -> Token {
        Token { term: self.receipt.term, index: self.receipt.index }
    }

    /// Whether its conditions held.
    pub fn applied(&self) -> bool {
        matches!(self.result, WriteResult::Applied { .. })
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
    /// What the read has seen; for session reads that must not see less.
    pub token: Token,
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
    pub token: Token,
    /// In order of their keys.
    pub items: Vec<KeyValue>,
    /// Whether the range has further keys, after the last item.
    pub more: bool,
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
    Unknown {
        index: Index,
        copies: u8,
    },
    HandedOver(Term),
    /// Nothing that this client asks for.
    Unasked,
}

impl Reply {
    /// Owns an answer; `body` is what it was parsed from.
    pub(crate) fn new(outcome: Outcome<'_>, body: &[u8]) -> Self {
        match outcome {
            Outcome::Written { receipt, result } => Self::Written(Written { receipt, result }),
            Outcome::Value { token, value } => Self::Lookup(Lookup { token, value: value.map(Value::from) }),
            Outcome::Page { token, items, more } => {
                Self::Page(Page { token, items: items.into_iter().map(KeyValue::from).collect(), more })
            }
            Outcome::Status(_) => Self::Status(NodeStatus { body: body.into() }),
            Outcome::Pong => Self::Pong,
            Outcome::Refused(refusal) => Self::Refused(refusal),
            Outcome::Unknown { index, copies } => Self::Unknown { index, copies },
            Outcome::HandedOver { term } => Self::HandedOver(term),
            Outcome::Stored { .. } | Outcome::Progress { .. } | Outcome::Changes { .. } => Self::Unasked,
        }
    }
}

impl From<Versioned<'_>> for Value {
    fn from(versioned: Versioned<'_>) -> Self {
        Self { revision: versioned.revision, value: versioned.value.to_vec() }
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
