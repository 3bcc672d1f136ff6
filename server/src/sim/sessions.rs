//! Sessions of clients once more, as plainly as can be: what the rules (R24, R25) say, and nothing of how the store does
//! it. Whole writes are kept where the store keeps checksums.

use std::collections::BTreeMap;

use quorate_protocol::entry::EndedSession;
use quorate_protocol::request::SessionSequence;
use quorate_protocol::response::{SessionError, WriteResult};
use quorate_protocol::{Index, SequenceNumber, SessionId, limits};

use crate::store::Store;

/// A write that was done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct First {
    pub(super) index: Index,
    pub(super) write: Vec<u8>,
    pub(super) result: WriteResult,
}

/// A session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Session {
    pub(super) last_used: Index,
    pub(super) lowest: SequenceNumber,
    pub(super) results: BTreeMap<SequenceNumber, First>,
}

/// All of them.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Sessions {
    sessions: BTreeMap<SessionId, Session>,
    /// Of all of them, whatever their order: kept, as it is wanted after every entry.
    digest: u32,
}

/// What a write of a session comes to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Verdict {
    /// It is to be done.
    Do,
    /// It was done before.
    Done(First),
    Refused(SessionError),
}

impl Sessions {
    pub(super) fn get(&self, id: SessionId) -> Option<&Session> {
        self.sessions.get(&id)
    }

    pub(super) fn open(&mut self, index: Index) {
        if self.sessions.len() >= limits::SESSIONS_MAX {
            let oldest = self.sessions.iter().min_by_key(|(_, session)| session.last_used).map(|(id, _)| *id);
            oldest.into_iter().for_each(|id| self.remove(id));
        }
        self.sessions.insert(index, Session { last_used: index, lowest: 0, results: BTreeMap::new() });
        self.toggle(index);
    }

    /// Returns how many have ended.
    pub(super) fn end(&mut self, ended: &[EndedSession]) -> u32 {
        let before = self.sessions.len();
        for EndedSession { session, last_used } in ended {
            if self.get(*session).is_some_and(|known| known.last_used <= *last_used) {
                self.remove(*session);
            }
        }
        (before - self.sessions.len()) as u32
    }

    /// Entry `index` is a write of a session.
    pub(super) fn judge(&mut self, index: Index, at: SessionSequence, write: &[u8]) -> Verdict {
        self.toggle(at.session);
        let verdict = self.sessions.get_mut(&at.session).map(|session| session.judge(index, at, write));
        self.toggle(at.session);
        verdict.unwrap_or(Verdict::Refused(SessionError::Expired))
    }

    /// A write that was to be done is.
    pub(super) fn done(&mut self, at: SessionSequence, first: First) {
        self.toggle(at.session);
        let session = self.sessions.get_mut(&at.session).expect("it was there a moment ago");
        session.results.insert(at.sequence, first);
        self.toggle(at.session);
    }

    pub(super) fn digest(&self) -> u32 {
        self.digest
    }

    fn remove(&mut self, id: SessionId) {
        self.toggle(id);
        self.sessions.remove(&id);
    }

    /// Puts a session into the digest, or takes it out.
    fn toggle(&mut self, id: SessionId) {
        let Some(session) = self.sessions.get(&id) else { return };
        let results = session
            .results
            .iter()
            .map(|(sequence, first)| (*sequence, first.index, crc32c::crc32c(&first.write), first.result));
        self.digest ^= digest_session(id, session.last_used, session.lowest, results);
    }
}

impl Session {
    fn judge(&mut self, index: Index, at: SessionSequence, write: &[u8]) -> Verdict {
        self.last_used = index;
        if at.lowest_open > self.lowest {
            self.lowest = at.lowest_open;
            self.results = self.results.split_off(&at.lowest_open);
        }
        if at.sequence < self.lowest {
            return Verdict::Refused(SessionError::SequencePassed);
        }
        if at.sequence - self.lowest >= limits::SESSION_WINDOW {
            return Verdict::Refused(SessionError::SequenceBeyondWindow);
        }
        match self.results.get(&at.sequence) {
            None => Verdict::Do,
            Some(first) if first.write == write => Verdict::Done(first.clone()),
            Some(_) => Verdict::Refused(SessionError::SequenceReused),
        }
    }
}

/// The digest of what a store has of sessions.
pub(super) fn digest_of(store: &Store) -> u32 {
    let sessions = store.all_sessions().into_iter().map(|(id, session)| {
        let results = session.results().map(|done| (done.sequence, done.index, done.checksum, done.result));
        digest_session(id, session.last_used, session.lowest, results)
    });
    sessions.fold(0, |all, session| all ^ session)
}

fn digest_session(
    id: SessionId,
    last_used: Index,
    lowest: SequenceNumber,
    results: impl Iterator<Item = (SequenceNumber, Index, u32, WriteResult)>,
) -> u32 {
    let numbers =
        [id, last_used, lowest].into_iter().chain(results.flat_map(|(sequence, index, checksum, result)| {
            let (what, number, revision) = match result {
                WriteResult::Applied { existed } => (0, existed, None),
                WriteResult::ConditionFailed { mutation, revision } => (1, mutation, revision),
            };
            [sequence, index, checksum.into(), what, number.into(), revision.unwrap_or(Index::MAX)]
        }));
    numbers.fold(0, |checksum, number| crc32c::crc32c_append(checksum, &number.to_le_bytes()))
}
