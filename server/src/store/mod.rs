//! The memory store: every key with its value and revision, in order.
//!
//! [`Store::apply_entry`] is the one place where an entry has its effect, in a node, in recovery and in a restore. It is
//! total and deterministic: the same entries give the same store and the same results on every replica.
//!
//! Keys and values lie in a hash table, and the keys once more in a tree that holds their order: a write of a
//! key that exists is one look-up, and only new and deleted keys touch the tree. Nothing ever goes through the
//! table in its own order, which differs between processes.
//!
//! A checkpoint is taken while entries go on being applied ([`Store::begin_snapshot`]): a cursor walks the
//! map in key order, block by block, and whoever changes a key that the cursor has not reached puts what it
//! was aside first. So the snapshot is the state at one index, costs nothing to begin, and holds in memory
//! only what changed meanwhile.
//!
//! What entries did to keys is also kept for a while, for those who watch ([`History`]).
//!
//! # Invariants
//!
//! - Table and tree have the same keys.
//! - No entry is applied twice.
//! - A key's revision is the index of the entry that last wrote it.
//! - A batch changes everything or nothing; its conditions are those of the state before it.
//! - A write of a session and what the session knows of it come with one entry, and with one checkpoint (R24).

mod history;
mod memory;
mod sessions;
mod snapshot;
mod table;

use std::collections::BTreeSet;
use std::ops::Bound;

use quorate_protocol::entry::{EndedSession, Entry, Payload};
use quorate_protocol::request::{Expected, Mutation, Range, RangeEnd, SessionSequence, Write};
use quorate_protocol::response::{Item, SessionError, Versioned, WriteResult};
use quorate_protocol::{Index, Member, MessageError, SessionId, parse};
use smallvec::SmallVec;

use memory::{key_bytes, value_bytes};
use sessions::Sessions;
use snapshot::Snapshot;
use table::Table;

pub use history::{Cursor, History};
pub use memory::Growth;
pub use sessions::{Done, Session};
pub use table::AHEAD;

/// Bytes of a key that lies where it is compared, behind no pointer.
const KEY_BYTES_INLINE: usize = 16;

/// A key.
type Key = SmallVec<[u8; KEY_BYTES_INLINE]>;

/// What an entry did.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Applied {
    /// Nothing.
    Nothing,
    /// It made a replica a voting member.
    Admitted(Member),
    /// What a write did; of sessions, how many were ended.
    Written(WriteResult),
    /// Nothing, as its session has done the same write before.
    Repeated(Done),
    /// Nothing, as its session does not let it.
    Refused(SessionError),
}

/// An entry that is whole, and what it asks for.
#[derive(Clone, Debug)]
pub struct Decoded<'a> {
    index: Index,
    effect: Effect<'a>,
}

#[derive(Clone, Debug)]
enum Effect<'a> {
    Nothing,
    Write {
        /// Where in a session, and the CRC-32C of the write's bytes, by which the session knows it again.
        session: Option<(SessionSequence, u32)>,
        write: Write<'a>,
    },
    Admit(Member),
    OpenSession,
    EndSessions(Vec<EndedSession>),
}

impl<'a> Decoded<'a> {
    /// Reads what an entry asks for. An error means that it is damaged.
    pub fn new(entry: &Entry<'a>) -> Result<Self, MessageError> {
        // Apart, as a session compares its bytes.
        let effect = match entry.write() {
            Some((session, bytes)) => {
                let session = session.map(|at| (at, crc32c::crc32c(bytes)));
                Effect::Write { session, write: parse(bytes)? }
            }
            None => match entry.payload()? {
                Payload::Noop => Effect::Nothing,
                Payload::Admit(member) => Effect::Admit(member),
                Payload::Write { .. } => unreachable!("it was taken above"),
                Payload::OpenSession => Effect::OpenSession,
                Payload::EndSessions(ended) => Effect::EndSessions(ended),
            },
        };
        Ok(Self { index: entry.index, effect })
    }

    fn write(&self) -> Option<&Write<'a>> {
        match &self.effect {
            Effect::Write { write, .. } => Some(write),
            _ => None,
        }
    }
}

/// Every key with its value and revision, and every session.
#[derive(Debug, Default)]
pub struct Store {
    map: Table,
    order: BTreeSet<Key>,
    sessions: Sessions,
    bytes: u64,
    /// The last entry that was applied.
    applied: Index,
    /// What keys and values have allocated, by estimate.
    allocated: u64,
    /// Keys that the table had room for when it had the most; it never shrinks.
    room: usize,
    snapshot: Option<Snapshot>,
    history: History,
}

#[derive(Clone, PartialEq, Eq, Debug)]
struct Stored {
    revision: Index,
    value: Box<[u8]>,
}

impl Stored {
    fn versioned(&self) -> Versioned<'_> {
        Versioned { revision: self.revision, value: &self.value }
    }
}

impl Store {
    /// Applies an entry. On an error, which means that it is damaged, nothing has changed.
    ///
    /// # Panics
    ///
    /// If it was applied before: a compare-and-set would be answered for the second time.
    pub fn apply_entry(&mut self, entry: &Entry<'_>) -> Result<Applied, MessageError> {
        Ok(self.apply_decoded(&Decoded::new(entry)?))
    }

    /// Brings what entries are going to change into the processor's caches, which for [`AHEAD`] of them takes not much
    /// longer than for one: applying them is mostly waiting for memory otherwise.
    pub fn look_ahead<'a>(&self, entries: impl Iterator<Item = &'a Decoded<'a>> + Clone) {
        let writes = entries.filter_map(Decoded::write);
        self.history.look_ahead(writes.clone().map(History::bytes_of).sum());
        self.map.look_ahead(writes.flat_map(Write::mutations).map(Mutation::key));
    }

    /// Applies an entry that was decoded.
    ///
    /// # Panics
    ///
    /// If it was applied before: a compare-and-set would be answered for the second time.
    pub fn apply_decoded(&mut self, entry: &Decoded<'_>) -> Applied {
        let index = entry.index;
        match &entry.effect {
            Effect::Write { session: None, write } => Applied::Written(self.apply(index, write)),
            Effect::Write { session: Some((at, checksum)), write } => {
                self.apply_in_session(index, at, *checksum, write)
            }
            Effect::Nothing => Applied::Nothing,
            Effect::Admit(member) => Applied::Admitted(*member),
            Effect::OpenSession => {
                self.advance(index);
                self.sessions.open(index);
                Applied::Written(WriteResult::Applied { existed: 0 })
            }
            Effect::EndSessions(ended) => {
                self.advance(index);
                let ended = ended.iter().map(|ended| u32::from(self.sessions.end(*ended)));
                Applied::Written(WriteResult::Applied { existed: ended.sum() })
            }
        }
    }

    /// Applies the write of entry `index`.
    ///
    /// # Panics
    ///
    /// If it was applied before: a compare-and-set would be answered for the second time.
    pub fn apply(&mut self, index: Index, write: &Write<'_>) -> WriteResult {
        self.advance(index);
        self.execute(index, write)
    }

    fn advance(&mut self, index: Index) {
        assert!(index > self.applied, "entry {index} is applied after entry {}", self.applied);
        self.applied = index;
    }

    fn apply_in_session(
        &mut self,
        index: Index,
        at: &SessionSequence,
        checksum: u32,
        write: &Write<'_>,
    ) -> Applied {
        self.advance(index);
        match self.sessions.begin(index, at, checksum) {
            Some(Ok(done)) => Applied::Repeated(done),
            Some(Err(error)) => Applied::Refused(error),
            None => {
                let result = self.execute(index, write);
                self.sessions.done(at.session, Done { sequence: at.sequence, index, checksum, result });
                Applied::Written(result)
            }
        }
    }

    fn execute(&mut self, index: Index, write: &Write<'_>) -> WriteResult {
        for (at, mutation) in (0..).zip(write.mutations()) {
            if let Err(revision) = self.check(mutation) {
                return WriteResult::ConditionFailed { mutation: at, revision };
            }
        }
        self.history.make_room(index, write);
        let existed = write.mutations().iter().map(|mutation| u32::from(self.mutate(index, mutation))).sum();
        WriteResult::Applied { existed }
    }

    /// Goes on behind a checkpoint at `index`, whose keys were put in.
    pub fn restored(&mut self, index: Index) {
        self.applied = index;
        self.history.begin_behind(index);
    }

    /// Keeps the changes that come from now on, in so many bytes of memory; 0 for none. They do not count in
    /// [`memory_bytes`](Self::memory_bytes), which bounds what replicas take: each has its own history.
    pub fn keep_history(&mut self, bytes_max: usize) {
        self.history = History::new(self.applied, bytes_max);
    }

    /// The changes that are kept.
    pub fn history(&self) -> &History {
        &self.history
    }

    /// What is known already about a write that is sent in a session, and will never change: its result, or why it will
    /// not be done. None if that is decided by an entry only.
    pub fn known(&self, at: &SessionSequence, write: &Write<'_>) -> Option<Result<Done, SessionError>> {
        // The bytes are those that an entry would have.
        let checksum = || crc32c::crc32c(&postcard::to_stdvec(write).expect("writes serialise"));
        self.sessions.known(at, self.applied, checksum)
    }

    /// Sessions that no entry behind `since` has used, as an entry ends them; those with the lowest ids, at most
    /// `count_max`.
    pub fn unused_sessions(&self, since: Index, count_max: usize) -> Vec<EndedSession> {
        self.sessions.unused(since, count_max)
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> u64 {
        self.sessions.count()
    }

    /// How many results of writes are kept for them.
    pub fn session_results(&self) -> u64 {
        self.sessions.results()
    }

    /// Ends all sessions: what follows is another cluster's.
    pub fn end_sessions(&mut self) {
        self.sessions.clear();
    }

    /// Puts a session of a checkpoint in.
    pub fn restore_session(&mut self, id: SessionId, session: Session) {
        self.sessions.put(id, session);
    }

    /// Every session, by its id.
    #[cfg(test)]
    pub(crate) fn all_sessions(&self) -> std::collections::BTreeMap<SessionId, &Session> {
        self.sessions.all()
    }

    /// Puts a key of a checkpoint in.
    pub fn restore(&mut self, key: &[u8], revision: Index, value: &[u8]) {
        self.put(key, revision, value);
    }

    /// The value of a key.
    pub fn get(&self, key: &[u8]) -> Option<Versioned<'_>> {
        self.map.get(key).map(Stored::versioned)
    }

    /// The keys of a range, in order.
    pub fn scan<'a>(&'a self, range: &Range<'a>) -> impl Iterator<Item = Item<'a>> {
        let RangeEnd::Prefix(prefix) = range.end else { return self.scan_from(range.start, range.end) };
        // A prefix's keys are one run, which nothing below the prefix belongs to.
        self.scan_from(range.start.max(prefix), range.end)
    }

    /// How many keys there are.
    pub fn keys(&self) -> u64 {
        self.map.len() as u64
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn scan_from<'a>(&'a self, start: &[u8], end: RangeEnd<'a>) -> impl Iterator<Item = Item<'a>> + use<'a> {
        let keys = self.order.range::<[u8], _>((Bound::Included(start), Bound::Unbounded));
        keys.take_while(move |key| end.includes(key))
            .map(|key| Item { key, versioned: self.map[key].versioned() })
    }

    fn check(&self, mutation: &Mutation<'_>) -> Result<(), Option<Index>> {
        let Mutation::CompareAndSet { key, expected, .. } = mutation else { return Ok(()) };
        let present = self.map.get(key).map(|stored| stored.revision);
        let wanted = match expected {
            Expected::Absent => None,
            Expected::Revision(revision) => Some(*revision),
        };
        if present == wanted { Ok(()) } else { Err(present) }
    }

    /// Returns whether the key existed.
    fn mutate(&mut self, index: Index, mutation: &Mutation<'_>) -> bool {
        match mutation {
            Mutation::Set { key, value } | Mutation::CompareAndSet { key, value, .. } => {
                let existed = self.put(key, index, value);
                self.history.record(index, key, Some(value));
                existed
            }
            Mutation::Delete { key } => {
                let existed = self.remove(key);
                if existed {
                    self.history.record(index, key, None);
                }
                existed
            }
        }
    }

    fn put(&mut self, key: &[u8], revision: Index, value: &[u8]) -> bool {
        self.bytes += value.len() as u64;
        let Some(stored) = self.map.get_mut(key) else {
            self.bytes += key.len() as u64;
            self.allocated += 2 * key_bytes(key) + value_bytes(value);
            self.order.insert(Key::from_slice(key));
            self.map.insert(key, Stored { revision, value: value.into() });
            // Deleted keys take room, too, until the table is cleaned or grows.
            self.room = self.room.max(self.map.capacity());
            self.set_aside(key, None);
            return false;
        };
        self.bytes -= stored.value.len() as u64;
        if self.snapshot.is_none() && stored.value.len() == value.len() {
            stored.revision = revision;
            stored.value.copy_from_slice(value); // Spares an allocation.
            return true;
        }
        self.allocated += value_bytes(value);
        self.allocated -= value_bytes(&stored.value);
        let old = std::mem::replace(stored, Stored { revision, value: value.into() });
        self.set_aside(key, Some(old));
        true
    }

    fn remove(&mut self, key: &[u8]) -> bool {
        let Some(old) = self.map.remove(key) else { return false };
        self.order.remove(key);
        self.bytes -= (key.len() + old.value.len()) as u64;
        self.allocated -= 2 * key_bytes(key) + value_bytes(&old.value);
        self.set_aside(key, Some(old));
        true
    }

    fn set_aside(&mut self, key: &[u8], old: Option<Stored>) {
        if let Some(snapshot) = &mut self.snapshot {
            snapshot.set_aside(key, old);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set<'a>(key: &'a str, value: &'a str) -> Mutation<'a> {
        Mutation::Set { key: key.as_bytes(), value: value.as_bytes() }
    }

    fn cas<'a>(key: &'a str, expected: Expected) -> Mutation<'a> {
        Mutation::CompareAndSet { key: key.as_bytes(), expected, value: b"new" }
    }

    fn value(store: &Store, key: &str) -> Option<(Index, String)> {
        store.get(key.as_bytes()).map(|v| (v.revision, String::from_utf8_lossy(v.value).into_owned()))
    }

    #[test]
    fn a_set_replaces_the_value_and_takes_the_entrys_index_as_revision() {
        let mut store = Store::default();
        assert_eq!(store.apply(5, &Write::One(set("a", "1"))), WriteResult::Applied { existed: 0 });
        assert_eq!(store.apply(6, &Write::One(set("a", "22"))), WriteResult::Applied { existed: 1 });
        assert_eq!(value(&store, "a"), Some((6, "22".into())));
        assert_eq!((store.keys(), store.bytes()), (1, 3));
    }

    #[test]
    fn a_deleted_key_is_absent_and_its_bytes_are_freed() {
        let mut store = Store::default();
        store.apply(1, &Write::One(set("a", "1")));
        let delete = Write::One(Mutation::Delete { key: b"a" });
        assert_eq!(store.apply(2, &delete), WriteResult::Applied { existed: 1 });
        assert_eq!(store.apply(3, &delete), WriteResult::Applied { existed: 0 });
        assert_eq!((value(&store, "a"), store.keys(), store.bytes()), (None, 0, 0));
    }

    #[test]
    fn a_compare_and_set_tells_the_revision_that_stood_in_its_way() {
        let mut store = Store::default();
        store.apply(1, &Write::One(set("a", "1")));
        let failed = |revision| WriteResult::ConditionFailed { mutation: 0, revision };
        assert_eq!(store.apply(2, &Write::One(cas("a", Expected::Absent))), failed(Some(1)));
        assert_eq!(store.apply(3, &Write::One(cas("a", Expected::Revision(2)))), failed(Some(1)));
        assert_eq!(store.apply(4, &Write::One(cas("b", Expected::Revision(1)))), failed(None));
        let done = WriteResult::Applied { existed: 1 };
        assert_eq!(store.apply(5, &Write::One(cas("a", Expected::Revision(1)))), done);
        assert_eq!(value(&store, "a"), Some((5, "new".into())));
    }

    #[test]
    fn a_batch_with_a_failed_condition_changes_nothing() {
        let mut store = Store::default();
        store.apply(1, &Write::One(set("a", "1")));
        let batch = Write::Batch(vec![set("a", "2"), set("b", "2"), cas("c", Expected::Revision(9))]);
        let failed = WriteResult::ConditionFailed { mutation: 2, revision: None };
        assert_eq!(store.apply(2, &batch), failed);
        assert_eq!((value(&store, "a"), value(&store, "b")), (Some((1, "1".into())), None));
    }

    #[test]
    fn a_scan_gives_exactly_the_keys_of_its_range_in_order() {
        let mut store = Store::default();
        for (index, key) in (1..).zip(["b", "a", "ab", "ac", "c", "ad"]) {
            store.apply(index, &Write::One(set(key, "")));
        }
        let scan = |start: &str, end| {
            let range = Range { start: start.as_bytes(), end };
            let keys = store.scan(&range).map(|item| String::from_utf8_lossy(item.key).into_owned());
            keys.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(scan("", RangeEnd::Open), "a ab ac ad b c");
        assert_eq!(scan("ab", RangeEnd::Before(b"b")), "ab ac ad");
        assert_eq!(scan("", RangeEnd::Prefix(b"a")), "a ab ac ad");
        assert_eq!(scan("", RangeEnd::Prefix(b"ab")), "ab");
        assert_eq!(scan("ac", RangeEnd::Prefix(b"a")), "ac ad");
        assert_eq!(scan("d", RangeEnd::Open), "");
    }
}
