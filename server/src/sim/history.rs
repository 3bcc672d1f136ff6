//! What a node has been made to store, and what it has said: the oracle of every crash.
//!
//! The node's own commands to its log say what the log must hold: everything up to the last step that came back,
//! and of the step under way any prefix. What it has told others must be covered by that at the moment of telling.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::entry::{self, Entry, Payload};
use quorate_protocol::request::{Expected, Mutation, Range, RangeEnd, Write};
use quorate_protocol::response::WriteResult;
use quorate_protocol::{Incarnation, Index};

use crate::directory::Identity;
use crate::log::{LogCommand, LogEvent};
use crate::replica::Promise;
use crate::store::Store;

use super::node::Found;
use super::sessions::{self, First, Sessions, Verdict};

/// What a directory must hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Expectation {
    /// The log, as of the last step that came back.
    log: Arc<Vec<Bytes>>,
    /// What the step under way appends.
    appending: Arc<Vec<Bytes>>,
    /// To where the step under way cuts.
    cutting: Option<Index>,
    /// The promise that counts, and the one that is being stored.
    promises: (Promise, Promise),
    /// The incarnation, once the identity was stored, and whether the cluster had formed then.
    identity: Option<(Incarnation, bool)>,
    /// Whether it may have formed.
    may_have_formed: bool,
    /// The last entry known to be committed.
    committed: Index,
}

/// An expectation, and from which change to the disk on it holds.
pub(super) struct Mark {
    pub(super) changes: usize,
    pub(super) expectation: Expectation,
}

/// Everything that happened to a node.
#[derive(Default)]
pub(super) struct History {
    pub(super) marks: Vec<Mark>,
    now: Expectation,
    queue: VecDeque<LogCommand>,
    model: Model,
    /// Of the store after each committed entry, from the empty one on.
    digests: Vec<u32>,
    pub(super) truncations: u64,
    pub(super) promises: u64,
    pub(super) checkpoints: BTreeMap<Index, [u8; 32]>,
    /// Nothing is noted of the log: the test judges by itself.
    is_off: bool,
}

impl History {
    pub(super) fn new() -> Self {
        Self { digests: vec![Model::default().digest()], ..Self::default() }
    }

    /// Takes no note of the log.
    pub(super) fn off() -> Self {
        Self { is_off: true, ..Self::new() }
    }

    /// Goes on from what a directory was found to hold.
    pub(super) fn resume(&self, found: &Found) -> Self {
        let log = self
            .now
            .log
            .iter()
            .chain(self.now.appending.iter())
            .take(found.first as usize - 1 + found.log.len())
            .cloned()
            .collect();
        let mut new = Self {
            now: Expectation {
                log: Arc::new(log),
                promises: (found.promise, found.promise),
                identity: Some((found.incarnation, found.formed)),
                may_have_formed: found.formed,
                ..Expectation::default()
            },
            digests: vec![Model::default().digest()],
            ..Self::default()
        };
        new.commit_own(found.applied);
        new
    }

    /// What a directory has to hold now.
    pub(super) fn expectation(&self) -> &Expectation {
        &self.now
    }

    /// With an expectation of an earlier moment.
    pub(super) fn at(&self, expectation: &Expectation) -> Self {
        Self { now: expectation.clone(), ..Self::default() }
    }

    fn mark(&mut self, changes: usize) {
        self.marks.push(Mark { changes, expectation: self.now.clone() });
    }

    /// The log, as of the last step that came back.
    pub(super) fn log(&self) -> &[Bytes] {
        &self.now.log
    }

    pub(super) fn committed(&self) -> Index {
        self.now.committed
    }

    /// The log is asked for something.
    pub(super) fn asked(&mut self, command: &LogCommand) {
        let copy = match command {
            LogCommand::Append { generation, first, last, commit, entries } => LogCommand::Append {
                generation: *generation,
                first: *first,
                last: *last,
                commit: *commit,
                entries: entries.clone(),
            },
            LogCommand::Truncate { generation, after } => {
                LogCommand::Truncate { generation: *generation, after: *after }
            }
            LogCommand::Restart { generation, after } => {
                LogCommand::Restart { generation: *generation, after: *after }
            }
            LogCommand::DropBefore(_) => return,
        };
        if self.is_off {
            return;
        }
        self.queue.push_back(copy);
    }

    /// The log begins a step.
    pub(super) fn step_begins(&mut self, changes: usize) {
        let mut appending = Vec::new();
        for command in &self.queue {
            match command {
                LogCommand::Append { entries, .. } => appending.extend(split(entries)),
                LogCommand::Truncate { after, .. } => {
                    if appending.is_empty() {
                        self.now.cutting = Some(*after);
                    }
                    break;
                }
                LogCommand::Restart { .. } => break,
                LogCommand::DropBefore(_) => {}
            }
        }
        self.now.appending = Arc::new(appending);
        self.mark(changes);
    }

    /// A step of the log came back, with this.
    pub(super) fn step_ends(&mut self, changes: usize, event: Option<&LogEvent>) {
        if self.is_off {
            return;
        }
        match event {
            Some(LogEvent::Durable { index, .. }) => {
                let log = Arc::make_mut(&mut self.now.log);
                while (log.len() as Index) < *index {
                    let Some(LogCommand::Append { entries, .. }) = self.queue.pop_front() else {
                        panic!("the log calls entry {index} durable, which it was not asked to append");
                    };
                    log.extend(split(&entries));
                }
            }
            Some(LogEvent::Truncated { after, .. }) => {
                let popped = self.queue.pop_front();
                assert!(matches!(popped, Some(LogCommand::Truncate { after: asked, .. }) if asked == *after));
                Arc::make_mut(&mut self.now.log).truncate(*after as usize);
                self.truncations += 1;
            }
            // What was resumed comes with the next step, and is on the disk already.
            Some(LogEvent::Resumed) => return,
            _ => {}
        }
        self.now.appending = Arc::default();
        self.now.cutting = None;
        self.mark(changes);
    }

    pub(super) fn promise_begins(&mut self, changes: usize, promise: Promise) {
        self.now.promises.1 = promise;
        self.mark(changes);
    }

    pub(super) fn promise_ends(&mut self, changes: usize) {
        self.now.promises.0 = self.now.promises.1;
        self.promises += 1;
        self.mark(changes);
    }

    pub(super) fn identity_begins(&mut self, changes: usize, identity: &Identity) {
        self.now.may_have_formed |= identity.formed;
        self.mark(changes);
    }

    pub(super) fn identity_ends(&mut self, changes: usize, identity: &Identity) {
        self.now.identity = Some((identity.incarnation, identity.formed));
        self.now.may_have_formed |= identity.formed;
        self.mark(changes);
    }

    /// Entries up to `index` of a log are committed.
    pub(super) fn commit(&mut self, log: &[Bytes], index: Index) {
        for entry in &log[self.digests.len() - 1..(index as usize).max(self.digests.len() - 1)] {
            self.model.apply(entry);
            self.digests.push(self.model.digest());
        }
        self.now.committed = self.now.committed.max(index);
        if let Some(mark) = self.marks.last_mut() {
            mark.expectation.committed = self.now.committed;
        }
    }

    /// Entries up to `index` of the node's own log are committed.
    pub(super) fn commit_own(&mut self, index: Index) {
        let log = self.now.log.clone();
        self.commit(&log, index);
    }

    /// What is wrong with what a directory was found to hold.
    pub(super) fn judge(&self, wanted: &Expectation, found: &Found) -> Result<(), String> {
        let Expectation { log, appending, cutting, promises, identity, may_have_formed, committed } = wanted;
        if let Some((incarnation, formed)) = identity {
            if found.incarnation != *incarnation {
                return Err(format!("another incarnation: {found:?}"));
            }
            if found.formed && !formed && !may_have_formed || *formed && !found.formed {
                return Err(format!("formed: {}", found.formed));
            }
        }
        if found.promise != promises.0 && found.promise != promises.1 {
            return Err(format!("the promise is {:?}, not {promises:?}", found.promise));
        }
        let shortest = cutting.map_or(log.len(), |after| log.len().min(after as usize));
        let longest = log.len() + appending.len();
        let length = found.log.len() + found.first as usize - 1;
        if length < shortest {
            return Err(format!("lost: the log ends at entry {length}, not at {shortest} or later"));
        }
        if length > longest {
            return Err(format!("invented: the log ends at entry {length}, not at {longest} or before"));
        }
        for (index, checksum) in (found.first as usize..).zip(&found.log) {
            let entry = log.get(index - 1).unwrap_or_else(|| &appending[index - 1 - log.len()]);
            if *checksum != checksum_of(entry) {
                return Err(format!("invented: entry {index} is another one"));
            }
        }
        if found.applied > *committed {
            return Err(format!("entry {} is applied, but {committed} is committed", found.applied));
        }
        if found.digest != self.digests[found.applied as usize] {
            return Err(format!("the store is not what the entries up to {} make of it", found.applied));
        }
        Ok(())
    }
}

fn split(entries: &Bytes) -> Vec<Bytes> {
    entry::iterate(entries).map(|entry| entries.slice_ref(entry.unwrap().bytes)).collect()
}

/// The checksum that an entry carries.
pub(super) fn checksum_of(entry: &[u8]) -> u32 {
    u32::from_le_bytes(entry[4..8].try_into().unwrap())
}

/// The store once more, as plainly as can be.
#[derive(Default)]
struct Model {
    keys: BTreeMap<Vec<u8>, (Index, Vec<u8>)>,
    sessions: Sessions,
}

impl Model {
    fn apply(&mut self, entry: &[u8]) {
        let entry = Entry::parse(entry).unwrap();
        match entry.payload().unwrap() {
            Payload::Noop | Payload::Admit(_) => {}
            Payload::OpenSession => self.sessions.open(entry.index),
            Payload::EndSessions(ended) => drop(self.sessions.end(&ended)),
            Payload::Write { session: None, write } => drop(self.write(entry.index, &write)),
            Payload::Write { session: Some(at), write } => {
                let bytes = postcard::to_stdvec(&write).unwrap();
                if self.sessions.judge(entry.index, at, &bytes) == Verdict::Do {
                    let result = self.write(entry.index, &write);
                    self.sessions.done(at, First { index: entry.index, write: bytes, result });
                }
            }
        }
    }

    fn write(&mut self, index: Index, write: &Write<'_>) -> WriteResult {
        let revision = |key: &[u8]| self.keys.get(key).map(|(revision, _)| *revision);
        let fails = write.mutations().iter().position(|mutation| match mutation {
            Mutation::CompareAndSet { key, expected: Expected::Absent, .. } => revision(key).is_some(),
            Mutation::CompareAndSet { key, expected: Expected::Revision(wanted), .. } => {
                revision(key) != Some(*wanted)
            }
            _ => false,
        });
        if let Some(at) = fails {
            let revision = revision(write.mutations()[at].key());
            return WriteResult::ConditionFailed { mutation: at as u32, revision };
        }
        let mut existed = 0;
        for mutation in write.mutations() {
            let old = match mutation {
                Mutation::Set { key, value } | Mutation::CompareAndSet { key, value, .. } => {
                    self.keys.insert(key.to_vec(), (index, value.to_vec()))
                }
                Mutation::Delete { key } => self.keys.remove(*key),
            };
            existed += u32::from(old.is_some());
        }
        WriteResult::Applied { existed }
    }

    fn digest(&self) -> u32 {
        let keys = self.keys.iter().map(|(key, (revision, value))| (&**key, *revision, &**value));
        digest(self.sessions.digest(), keys)
    }
}

/// A checksum of everything in a store.
pub(super) fn digest_of(store: &Store) -> u32 {
    let everything = Range { start: b"", end: RangeEnd::Open };
    let keys = store.scan(&everything).map(|item| (item.key, item.versioned.revision, item.versioned.value));
    digest(sessions::digest_of(store), keys)
}

/// A checksum of keys, revisions and values, begun with that of the sessions.
fn digest<'a>(sessions: u32, records: impl Iterator<Item = (&'a [u8], Index, &'a [u8])>) -> u32 {
    records.fold(sessions, |checksum, (key, revision, value)| {
        let checksum = crc32c::crc32c_append(checksum, &(key.len() as u64).to_le_bytes());
        let checksum = crc32c::crc32c_append(checksum, key);
        let checksum = crc32c::crc32c_append(checksum, &revision.to_le_bytes());
        let checksum = crc32c::crc32c_append(checksum, &(value.len() as u64).to_le_bytes());
        crc32c::crc32c_append(checksum, value)
    })
}
