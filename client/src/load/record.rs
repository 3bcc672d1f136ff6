//! What was written, and whether a store still has it.
//!
//! Of each key the record keeps the acknowledged write with the highest revision, and of all writes those
//! whose outcome is unknown. Nothing else is needed: what a write wrote follows from who made it.
//!
//! A record goes on over any number of runs on one store: each run begins where the sequence numbers of the
//! one before have ended, and may have another workload, as long as the keys have the same prefix.

use std::collections::HashSet;

use quorate_protocol::{Index, limits};
use thiserror::Error;

use super::content::{CallId, Content, Kind, Recipe};
use super::keys::{KeyPrefix, key_number};
use super::workload::{Workload, WorkloadError};
use crate::{Client, Error, prefix};

/// Of a key's acknowledged writes, the one with the highest revision; revision 0 for none.
#[derive(Clone, Copy, Debug, Default)]
struct Acknowledged {
    revision: Index,
    client: u32,
    /// The low half is enough to tell apart the writes of one key: the value has all of it.
    sequence_low: u32,
}

/// What all runs on a store have written, warm-up included: enough to check what it holds afterwards.
#[derive(Debug)]
pub struct Record {
    prefix: KeyPrefix,
    /// One per run, in order of their first sequence numbers.
    recipes: Vec<Recipe>,
    /// The first sequence number that no client has used.
    next: u64,
    acknowledged: Vec<Acknowledged>,
    unknown: HashSet<CallId>,
    is_kept: bool,
}

/// A key that does not hold what it must.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
pub enum Violation {
    /// An acknowledged write is gone.
    #[error("key {key}: the write acknowledged at revision {acknowledged} is lost, the store has {stored:?}")]
    Lost {
        /// The key's number.
        key: u64,
        /// The highest acknowledged revision.
        acknowledged: Index,
        /// What the store has instead.
        stored: Option<Index>,
    },
    /// The value is not that of the write that was acknowledged at this revision.
    #[error("key {key}: the value at revision {revision} is not the one that was acknowledged")]
    OtherValue {
        /// The key's number.
        key: u64,
        /// The stored revision.
        revision: Index,
    },
    /// The value is of no write that may stand here: one of another key, one that was acknowledged at
    /// another revision or refused, or none at all.
    #[error("key {key}: nothing that was written explains the value at revision {revision}")]
    Unexplained {
        /// The key's number.
        key: u64,
        /// The stored revision.
        revision: Index,
    },
}

impl Record {
    /// Of a store that nothing was written to.
    pub(super) fn new(prefix: KeyPrefix) -> Self {
        Self {
            prefix,
            recipes: Vec::new(),
            next: 0,
            acknowledged: Vec::new(),
            unknown: HashSet::new(),
            is_kept: true,
        }
    }

    /// A run with this workload begins; returns how its calls are made up.
    pub(super) fn begin(&mut self, workload: &Workload) -> Result<Recipe, WorkloadError> {
        if self.prefix != workload.key_prefix {
            return Err(WorkloadError::OtherKeys { record: self.prefix, workload: workload.key_prefix });
        }
        let recipe = Recipe::new(workload, self.next);
        let keys = self.acknowledged.len().max(workload.keys as usize);
        self.acknowledged.resize(keys, Acknowledged::default());
        self.recipes.push(recipe.clone());
        Ok(recipe)
    }

    /// A run has ended, in which no client has used a sequence number from this on.
    pub(super) fn end(&mut self, next: u64) {
        self.next = self.next.max(next);
    }

    /// Whether it can be checked: not if the store does not number its writes.
    pub fn is_kept(&self) -> bool {
        self.is_kept
    }

    /// What the keys begin with.
    pub fn prefix(&self) -> &KeyPrefix {
        &self.prefix
    }

    /// How many different keys were written to, at most: their numbers are below this.
    pub fn keys(&self) -> u64 {
        self.acknowledged.len() as u64
    }

    /// Checks what the store holds of key number `key`: its revision and value, none if it is absent.
    ///
    /// The revision must be at least the highest acknowledged; if equal, the value must be that write's; if
    /// higher, that of a write whose outcome is unknown.
    pub fn check(&self, key: u64, stored: Option<(Index, &[u8])>) -> Result<(), Violation> {
        let Some(acknowledged) = self.acknowledged.get(key as usize) else {
            return match stored {
                Some((revision, _)) => Err(Violation::Unexplained { key, revision }),
                None => Ok(()),
            };
        };
        let (revision, value) = match stored {
            None if acknowledged.revision == 0 => return Ok(()),
            Some((revision, value)) if revision >= acknowledged.revision => (revision, value),
            _ => {
                let stored = stored.map(|(revision, _)| revision);
                return Err(Violation::Lost { key, acknowledged: acknowledged.revision, stored });
            }
        };
        let write = self.writer(key, value);
        if revision == acknowledged.revision {
            return match write {
                Some(write) if acknowledged.is(write) => Ok(()),
                _ => Err(Violation::OtherValue { key, revision }),
            };
        }
        match write {
            Some(write) if self.unknown.contains(&write) => Ok(()),
            _ => Err(Violation::Unexplained { key, revision }),
        }
    }

    /// Checks all keys of the store, one linearizable scan after a run.
    pub async fn verify(&self, client: &Client) -> Result<Vec<Violation>, Error> {
        let mut violations = Vec::new();
        let mut expected = 0;
        let range = prefix(self.prefix.as_bytes());
        let mut scan = client.scan(range).items_per_page(limits::SCAN_ITEMS_MAX);
        while let Some(page) = scan.next_page().await {
            for item in page?.items {
                let Some(key) = key_number(&self.prefix, &item.key) else { continue };
                violations.extend((expected..key).filter_map(|absent| self.check(absent, None).err()));
                violations.extend(self.check(key, Some((item.revision, &item.value))).err());
                expected = key + 1;
            }
        }
        violations.extend((expected..self.keys()).filter_map(|absent| self.check(absent, None).err()));
        Ok(violations)
    }

    /// The write that gave key number `key` this value, whether or not it was sent.
    fn writer(&self, key: u64, value: &[u8]) -> Option<CallId> {
        let (client, rest) = value.split_first_chunk::<4>()?;
        let sequence = rest.first_chunk::<8>()?;
        let write = CallId { client: u32::from_le_bytes(*client), sequence: u64::from_le_bytes(*sequence) };
        let recipe = self.recipes.iter().rfind(|recipe| recipe.first <= write.sequence)?;
        let mut expected = vec![0; recipe.value_bytes_max()];
        let Content { number, kind } = recipe.content(write, &mut expected);
        let Kind::Write(length) = kind else { return None };
        (number == key && expected[..length] == *value).then_some(write)
    }

    /// A write of key number `key` was done; without a revision, nothing can be checked any more.
    pub(super) fn acknowledge(&mut self, key: u64, revision: Option<Index>, write: CallId) {
        let Some(revision) = revision else {
            self.is_kept = false;
            return;
        };
        let highest = &mut self.acknowledged[key as usize];
        if revision > highest.revision {
            let sequence_low = write.sequence as u32;
            *highest = Acknowledged { revision, client: write.client, sequence_low };
        }
    }

    /// A write may have been done.
    pub(super) fn leave_unknown(&mut self, write: CallId) {
        if self.is_kept {
            self.unknown.insert(write);
        }
    }
}

impl Acknowledged {
    fn is(self, write: CallId) -> bool {
        self.client == write.client && self.sequence_low == write.sequence as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload { keys: 1, value_bytes: 40..=40, seed: 7, ..Workload::default() }
    }

    fn record() -> Record {
        let mut record = Record::new(KeyPrefix::default());
        record.begin(&workload()).unwrap();
        record
    }

    fn value(client: u32, sequence: u64) -> Vec<u8> {
        let mut value = vec![0; 40];
        Recipe::new(&workload(), 0).content(CallId { client, sequence }, &mut value);
        value
    }

    #[test]
    fn a_lost_acknowledged_write_is_found() {
        let mut record = record();
        record.acknowledge(0, Some(9), CallId { client: 1, sequence: 2 });
        assert_eq!(record.check(0, Some((9, &value(1, 2)))), Ok(()));
        let lost = |stored| Err(Violation::Lost { key: 0, acknowledged: 9, stored });
        assert_eq!(record.check(0, None), lost(None));
        assert_eq!(record.check(0, Some((8, &value(1, 1)))), lost(Some(8)));
    }

    #[test]
    fn another_value_at_the_acknowledged_revision_is_found() {
        let mut record = record();
        record.acknowledge(0, Some(9), CallId { client: 1, sequence: 2 });
        let other = Err(Violation::OtherValue { key: 0, revision: 9 });
        assert_eq!(record.check(0, Some((9, &value(1, 3)))), other);
        let mut damaged = value(1, 2);
        damaged[39] ^= 1;
        assert_eq!(record.check(0, Some((9, &damaged))), other);
    }

    #[test]
    fn a_later_revision_is_explained_only_by_an_unknown_write() {
        let mut record = record();
        record.acknowledge(0, Some(9), CallId { client: 1, sequence: 2 });
        let unexplained = Err(Violation::Unexplained { key: 0, revision: 12 });
        assert_eq!(record.check(0, Some((12, &value(1, 3)))), unexplained);
        assert_eq!(record.check(0, Some((12, &value(1, 2)))), unexplained, "applied twice");
        record.leave_unknown(CallId { client: 1, sequence: 3 });
        assert_eq!(record.check(0, Some((12, &value(1, 3)))), Ok(()));
    }

    #[test]
    fn a_later_run_may_have_another_workload_and_does_not_take_the_values_of_the_first_for_its_own() {
        let mut record = record();
        record.acknowledge(0, Some(9), CallId { client: 1, sequence: 99 });
        record.end(100);
        let later = Workload { keys: 2, value_bytes: 20..=30, seed: 8, ..workload() };
        let recipe = record.begin(&later).unwrap();
        assert_eq!((recipe.first, record.keys()), (100, 2));
        let second = CallId { client: 1, sequence: 100 };
        let mut other = vec![0; 30];
        let Content { number, kind: Kind::Write(length) } = recipe.content(second, &mut other) else {
            panic!("no reads were asked for")
        };
        record.acknowledge(number, Some(12), second);
        assert_eq!(record.check(number, Some((12, &other[..length]))), Ok(()));
        assert_eq!(number, 1, "another seed would have written the other key");
        assert_eq!(record.check(0, Some((9, &value(1, 99)))), Ok(()));
        // The first run never came so far.
        let violation = record.check(1, Some((12, &value(1, 100))));
        assert_eq!(violation, Err(Violation::OtherValue { key: 1, revision: 12 }));
    }

    #[test]
    fn keys_with_another_prefix_cannot_be_continued() {
        let other = Workload { key_prefix: KeyPrefix::new("other").unwrap(), ..workload() };
        let error = record().begin(&other).unwrap_err().to_string();
        assert_eq!(error, "the record is of keys that begin with key, the workload's begin with other");
    }

    #[test]
    fn a_store_that_does_not_number_its_writes_leaves_no_record() {
        let mut record = record();
        record.acknowledge(0, None, CallId { client: 1, sequence: 2 });
        record.leave_unknown(CallId { client: 1, sequence: 3 });
        assert!(!record.is_kept() && record.unknown.is_empty());
    }
}
