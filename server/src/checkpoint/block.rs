//! What a checkpoint is made of, as a store's snapshot gives it and as a file gives it back.

use quorate_protocol::{SessionId, limits};

use super::format::{BLOCK_BYTES, Record, encode_record, encode_session};
use crate::mutant::{Mutant, is_on};
use crate::store::{Session, Store};

/// A block of the state. Sessions come first.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Block {
    /// Made with [`encode_session`].
    Sessions(Vec<u8>),
    /// Made with [`encode_record`].
    Records(Vec<u8>),
}

impl Block {
    /// Bytes of what is in it.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Sessions(payload) | Self::Records(payload) => payload.len(),
        }
    }

    /// Whether nothing is in it, so that it is not written.
    pub fn is_empty(&self) -> bool {
        self.bytes() == 0
    }
}

/// Something of the state.
#[derive(Debug)]
pub enum Item<'a> {
    /// A client's session.
    Session(SessionId, Session),
    /// A key.
    Record(Record<'a>),
}

impl Item<'_> {
    /// Puts it into a store.
    pub(crate) fn restore(self, store: &mut Store) {
        match self {
            Self::Session(id, session) => store.restore_session(id, session),
            Self::Record(Record { key, revision, value }) => store.restore(key, revision, value),
        }
    }
}

/// The next block of a store's snapshot, and whether it is the last. It may be empty then.
///
/// # Panics
///
/// If no snapshot is under way.
pub(crate) fn next_block(store: &mut Store) -> (Block, bool) {
    let mut sessions = Vec::new();
    store.read_snapshot_sessions(|id, session| {
        if !is_on(Mutant::SessionsNotInCheckpoint) {
            encode_session(id, session, &mut sessions);
        }
        sessions.len() < BLOCK_BYTES
    });
    if !sessions.is_empty() {
        return (Block::Sessions(sessions), false);
    }
    let mut records = Vec::with_capacity(BLOCK_BYTES + limits::KEY_BYTES_MAX);
    let more = store.read_snapshot(|key, revision, value| {
        encode_record(key, revision, value, &mut records);
        records.len() < BLOCK_BYTES
    });
    (Block::Records(records), !more)
}
