//! Sessions of clients: which writes were done, and what came of them, so that a write that is sent again is not done
//! again (R24, R25).
//!
//! A client opens a session, whose id is the index of the entry that opens it, and numbers its writes in it. A write
//! carries its number, and the lowest one whose answer the client still waits for. What comes of it is decided when its
//! entry is applied, by the entries before it alone, so alike on all replicas:
//!
//! 1. There is no such session: [`SessionError::Expired`].
//! 2. Results below the lowest open number are forgotten; the lowest open number never goes back.
//! 3. A number below it, or [`limits::SESSION_WINDOW`] or more above it: an error.
//! 4. The number has a result: that is the answer, if it is of the same write, and else an error.
//! 5. Else the write is done, and its result kept, whether it changed anything or not.
//!
//! So nothing is done on an error, and a write with a number is done at most once as long as its session is there. A
//! session ends when its client closes it, when the leader has it ended after a while without use (an entry, too), or
//! when one more than [`limits::SESSIONS_MAX`] is opened: then the one that was not used for the longest time ends.
//!
//! # Invariants
//!
//! - A session's results have rising numbers, all from its lowest open number on and within the window.
//! - No two sessions were last used by the same entry.
//! - Nothing goes through the table in its own order, but to find what does not depend on it.
//!
//! # Memory
//!
//! A session lies in the table, its results behind a pointer that a snapshot shares: what changes while the snapshot
//! has not read it is copied first. A queue of results grows by doubling, and is cut when a quarter of it is used.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::mem::size_of;
use std::sync::Arc;

use quorate_protocol::entry::EndedSession;
use quorate_protocol::request::SessionSequence;
use quorate_protocol::response::{SessionError, WriteResult};
use quorate_protocol::{Index, SequenceNumber, SessionId, limits};

use super::memory::{allocation, table_bytes};
use crate::mutant::{Mutant, is_on};

/// One entry of the table, and the byte that says whether it is taken.
const SLOT_BYTES: u64 = (size_of::<(SessionId, Session)>() + 1) as u64;

/// What a session has allocated beside its results: the queue, and who shares it.
const QUEUE_BYTES: u64 = allocation(size_of::<VecDeque<Done>>() + 2 * size_of::<usize>());

/// What a session has allocated when it has had its first results.
pub(super) const SESSION_BYTES: u64 = QUEUE_BYTES + allocation(RESULTS_MIN * size_of::<Done>());

/// What each result takes beside that, at most: a queue has just doubled.
pub(super) const RESULT_BYTES_MAX: u64 = 2 * size_of::<Done>() as u64;

/// Results for which a queue has room at first, and that it keeps room for.
const RESULTS_MIN: usize = 4;

/// A write that was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Done {
    /// Its number in its session.
    pub sequence: SequenceNumber,
    /// The entry that did it.
    pub index: Index,
    /// CRC-32C of [the write's bytes](quorate_protocol::entry::Entry::write): another write has another one.
    pub checksum: u32,
    /// What came of it.
    pub result: WriteResult,
}

/// A client's session.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Session {
    /// The last entry that used it.
    pub last_used: Index,
    /// The lowest number whose answer its client waits for.
    pub lowest: SequenceNumber,
    results: Arc<VecDeque<Done>>,
}

impl Session {
    /// A session as a checkpoint has it. The results' numbers rise, from `lowest` on.
    pub fn new(last_used: Index, lowest: SequenceNumber, results: impl IntoIterator<Item = Done>) -> Self {
        Self { last_used, lowest, results: Arc::new(results.into_iter().collect()) }
    }

    /// Its results, by their numbers.
    pub fn results(&self) -> impl ExactSizeIterator<Item = &Done> {
        self.results.iter()
    }

    fn result(&self, sequence: SequenceNumber) -> Option<&Done> {
        if self.results.back().is_none_or(|last| last.sequence < sequence) {
            return None; // As a rule it is new.
        }
        let at = self.results.binary_search_by_key(&sequence, |done| done.sequence).ok()?;
        self.results.get(at)
    }

    /// What it says to a write with a number, when results below `lowest` are forgotten; none if that is to be done.
    fn judge(
        &self,
        sequence: SequenceNumber,
        lowest: SequenceNumber,
        checksum: u32,
    ) -> Option<Result<Done, SessionError>> {
        match sequence.checked_sub(lowest) {
            None => return Some(Err(SessionError::SequencePassed)),
            Some(limits::SESSION_WINDOW..) => return Some(Err(SessionError::SequenceBeyondWindow)),
            Some(_) => {}
        }
        let done = self.result(sequence)?;
        Some(if done.checksum == checksum { Ok(*done) } else { Err(SessionError::SequenceReused) })
    }

    /// Changes the results, and returns what they take then, and what the old ones take that somebody else has.
    fn change(&mut self, change: impl FnOnce(&mut VecDeque<Done>)) -> (u64, u64) {
        let shared = if self.is_shared() { self.bytes() } else { 0 };
        change(Arc::make_mut(&mut self.results));
        (self.bytes(), shared)
    }

    /// Whether a snapshot has its results, too.
    fn is_shared(&self) -> bool {
        Arc::strong_count(&self.results) > 1
    }

    /// What it has allocated.
    fn bytes(&self) -> u64 {
        QUEUE_BYTES + allocation(self.results.capacity() * size_of::<Done>())
    }
}

/// Spreads ids, which are indexes of the log: nobody chooses them, so that nothing has to be feared of them.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u64((*byte).into()));
    }

    fn write_u64(&mut self, id: u64) {
        // Fibonacci hashing (Knuth, TAOCP 3, 6.4), folded, as the table takes both ends.
        let spread = (self.0 ^ id).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        self.0 = spread ^ spread >> 32;
    }
}

/// All sessions.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    table: HashMap<SessionId, Session, BuildHasherDefault<IdHasher>>,
    results: u64,
    /// What sessions have allocated, by estimate.
    allocated: u64,
    /// Sessions that the table had room for when it had the most.
    room: usize,
    snapshot: Option<Snapshot>,
}

/// The sessions of a snapshot that were not read yet.
#[derive(Debug)]
struct Snapshot {
    /// By their ids, descending.
    rest: Vec<(SessionId, Session)>,
    /// Of results that only the snapshot has.
    aside_bytes: u64,
}

impl Sessions {
    pub(super) fn count(&self) -> u64 {
        self.table.len() as u64
    }

    pub(super) fn results(&self) -> u64 {
        self.results
    }

    /// What is known without an entry about a write that is sent, and stays true: its result, or why it will never be
    /// done. `checksum` is asked for only if the number has a result.
    pub(super) fn known(
        &self,
        at: &SessionSequence,
        applied: Index,
        checksum: impl FnOnce() -> u32,
    ) -> Option<Result<Done, SessionError>> {
        let Some(session) = self.table.get(&at.session) else {
            // What may still be opened has a higher id.
            return (at.session <= applied).then_some(Err(SessionError::Expired));
        };
        if at.sequence < session.lowest {
            return Some(Err(SessionError::SequencePassed));
        }
        session.result(at.sequence)?;
        session.judge(at.sequence, session.lowest, checksum())
    }

    /// Opens the session of entry `index`. Where there are as many as there may be, another ends.
    pub(super) fn open(&mut self, index: Index) {
        if self.table.len() >= limits::SESSIONS_MAX {
            let least = self.table.iter().min_by_key(|(_, session)| session.last_used);
            let least = least.map(|(id, _)| *id);
            least.into_iter().for_each(|id| self.remove(id));
        }
        self.put(index, Session::new(index, 0, []));
    }

    /// Puts a session of a checkpoint in.
    pub(super) fn put(&mut self, id: SessionId, session: Session) {
        self.allocated += session.bytes();
        self.results += session.results.len() as u64;
        self.table.insert(id, session);
        self.room = self.room.max(self.table.capacity());
    }

    /// Ends a session unless it was used since; returns whether it was there and has ended.
    pub(super) fn end(&mut self, ended: EndedSession) -> bool {
        let ends = self.table.get(&ended.session).is_some_and(|session| session.last_used <= ended.last_used);
        if ends {
            self.remove(ended.session);
        }
        ends
    }

    /// Entry `index` is a write of a session: forgets what its client does not wait for, and returns what is to be
    /// answered without doing it; none if it is to be done.
    pub(super) fn begin(
        &mut self,
        index: Index,
        at: &SessionSequence,
        checksum: u32,
    ) -> Option<Result<Done, SessionError>> {
        let Some(session) = self.table.get_mut(&at.session) else {
            return Some(Err(SessionError::Expired));
        };
        session.last_used = index;
        session.lowest = session.lowest.max(at.lowest_open);
        let answer = session.judge(at.sequence, session.lowest, checksum);
        let answer = answer.filter(|answer| answer.is_err() || !is_on(Mutant::DoneAgain));
        if answer.is_some() {
            self.forget_and(at.session, |_| ());
        }
        answer
    }

    /// A write of a session was done, which [`begin`](Self::begin) has said.
    pub(super) fn done(&mut self, session: SessionId, done: Done) {
        self.results += 1;
        self.forget_and(session, |results| insert(results, done));
    }

    /// Forgets what a session's client does not wait for, and changes its results.
    fn forget_and(&mut self, session: SessionId, change: impl FnOnce(&mut VecDeque<Done>)) {
        let session = self.table.get_mut(&session).expect("it was there a moment before");
        let lowest = session.lowest;
        self.allocated -= session.bytes();
        let mut forgotten = 0;
        let (bytes, aside) = session.change(|results| {
            forgotten = forget(results, lowest);
            change(results);
        });
        self.results -= forgotten;
        self.changed(bytes, aside);
    }

    /// The sessions that no entry behind `since` has used, as an entry ends them; the oldest, at most `count_max`.
    pub(super) fn unused(&self, since: Index, count_max: usize) -> Vec<EndedSession> {
        let unused = self.table.iter().filter(|(_, session)| session.last_used <= since);
        let mut unused: Vec<_> =
            unused.map(|(id, session)| EndedSession { session: *id, last_used: session.last_used }).collect();
        unused.sort_unstable_by_key(|ended| ended.session);
        unused.truncate(count_max);
        unused
    }

    /// Ends all of them.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Bytes of memory that they take, by estimate; with room in the table for `more`.
    pub(super) fn memory_bytes_with(&self, more: u64) -> u64 {
        let room = (self.count() + more).max(self.room as u64);
        let snapshot = self.snapshot.as_ref().map_or(0, Snapshot::memory_bytes);
        self.allocated + table_bytes(room, SLOT_BYTES) + snapshot
    }

    pub(super) fn begin_snapshot(&mut self) {
        self.snapshot = None; // What it has is not to count as shared.
        let mut rest: Vec<_> = self.table.iter().map(|(id, session)| (*id, session.clone())).collect();
        rest.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        self.snapshot = Some(Snapshot { rest, aside_bytes: 0 });
    }

    pub(super) fn end_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// Hands the snapshot's next sessions to `take`, by their ids, until it returns false. Returns whether there are
    /// more.
    pub(super) fn read_snapshot(&mut self, mut take: impl FnMut(SessionId, &Session) -> bool) -> bool {
        let Some(snapshot) = &mut self.snapshot else { return false };
        while let Some((id, session)) = snapshot.rest.pop() {
            if !session.is_shared() {
                snapshot.aside_bytes -= session.bytes();
            }
            if !take(id, &session) {
                break;
            }
        }
        !snapshot.rest.is_empty()
    }

    fn remove(&mut self, id: SessionId) {
        let Some(session) = self.table.remove(&id) else { return };
        self.results -= session.results.len() as u64;
        self.allocated -= session.bytes();
        self.changed(0, if session.is_shared() { session.bytes() } else { 0 });
    }

    /// A session takes so much more now, and so much has become the snapshot's alone.
    fn changed(&mut self, bytes: u64, aside: u64) {
        self.allocated += bytes;
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.aside_bytes += aside;
        }
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> std::collections::BTreeMap<SessionId, &Session> {
        self.table.iter().map(|(id, session)| (*id, session)).collect()
    }
}

impl Snapshot {
    fn memory_bytes(&self) -> u64 {
        self.aside_bytes + allocation(self.rest.capacity() * size_of::<(SessionId, Session)>())
    }
}

/// Forgets the results below a number, and returns how many they were.
fn forget(results: &mut VecDeque<Done>, lowest: SequenceNumber) -> u64 {
    let mut count = 0;
    while results.pop_front_if(|done| done.sequence < lowest).is_some() {
        count += 1;
    }
    if results.len() < results.capacity() / 4 && results.capacity() > RESULTS_MIN {
        results.shrink_to((2 * results.len()).max(RESULTS_MIN));
    }
    count
}

/// Puts a result where it belongs: behind all others, if writes come in order.
fn insert(results: &mut VecDeque<Done>, done: Done) {
    match results.back() {
        Some(last) if last.sequence > done.sequence => {
            let at = results.partition_point(|known| known.sequence < done.sequence);
            results.insert(at, done);
        }
        _ => results.push_back(done),
    }
}

#[cfg(test)]
mod tests;
