//! The messages and entries that are encoded and decoded: sets of a key of 16 bytes and a value of 100.

use quorate_protocol::Index;
use quorate_protocol::entry::{self, Payload};
use quorate_protocol::peer::{Append, PeerMessage};
use quorate_protocol::request::{Mutation, Operation, Request, Write, WriteOptions};

const KEY: &[u8] = b"key-000000012345";
const VALUE: &[u8] = &[b'v'; 100];

/// Entries of an append.
pub(crate) const ENTRIES: u64 = 64;

pub(crate) fn set() -> Write<'static> {
    Write::One(Mutation::Set { key: KEY, value: VALUE })
}

pub(crate) fn set_request() -> Request<'static> {
    let operation = Operation::Write { options: WriteOptions::default(), write: set() };
    Request { id: 12_345, deadline_ms: 2000, operation }
}

pub(crate) fn payload() -> Payload<'static> {
    Payload::Write { session: None, write: set() }
}

/// An append's worth of entries from `first` on.
pub(crate) fn entries(first: Index) -> Vec<u8> {
    let mut bytes = Vec::new();
    for index in first..first + ENTRIES {
        entry::encode(7, index, &payload(), &mut bytes);
    }
    bytes
}

pub(crate) fn append(entries: &[u8]) -> PeerMessage<'_> {
    PeerMessage::Append(Append { term: 7, previous_index: 0, previous_term: 0, commit: 0, round: 0, entries })
}
