//! The hash table of all keys.
//!
//! What a write costs here is mostly waiting for memory: the table's control bytes, the key's place, and its value lie
//! in three places, and with many keys each is a miss of every cache. [`Table::look_ahead`] has a batch of keys waited
//! for at once, before one after the other is written: it is nothing but loads that do not depend on each other.
//!
//! # Omissions
//!
//! - Order: nothing goes through it in its own, which differs between processes.

use std::hash::{BuildHasher, RandomState};
use std::hint::black_box;
use std::ops::Index;

use hashbrown::HashTable;
use smallvec::SmallVec;

use super::{Key, Stored};

/// Keys that are looked for ahead at once: at least as many as a processor has memory accesses under way, and few enough
/// that all they bring stays in its first cache (32 KiB and more) until it is used.
pub const AHEAD: usize = 32;

/// Bytes that come from memory together.
const LINE_BYTES: usize = 64;

/// Lines of a value; behind them the processor sees by itself where it goes.
const LINES: usize = 4;

/// Keys and what is stored under them.
#[derive(Debug, Default)]
pub(super) struct Table {
    table: HashTable<(Key, Stored)>,
    /// Random for each table, so that nobody can choose keys that collide.
    hashes: RandomState,
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.table.len()
    }

    pub(super) fn capacity(&self) -> usize {
        self.table.capacity()
    }

    fn hash(&self, key: &[u8]) -> u64 {
        self.hashes.hash_one(key)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<&Stored> {
        self.table.find(self.hash(key), |(present, _)| present[..] == *key).map(|(_, stored)| stored)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Stored> {
        self.table.find_mut(self.hash(key), |(present, _)| present[..] == *key).map(|(_, stored)| stored)
    }

    /// Puts a key in that is not there.
    pub(super) fn insert(&mut self, key: &[u8], stored: Stored) {
        let hashes = &self.hashes;
        let hash = self.hash(key);
        self.table.insert_unique(hash, (Key::from_slice(key), stored), |(key, _)| hashes.hash_one(&key[..]));
    }

    pub(super) fn remove(&mut self, key: &[u8]) -> Option<Stored> {
        let found = self.table.find_entry(self.hash(key), |(present, _)| present[..] == *key).ok()?;
        Some(found.remove().0.1)
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &(Key, Stored)> {
        self.table.iter()
    }

    /// Brings what is stored under the first [`AHEAD`] keys near.
    pub(super) fn look_ahead<'a>(&self, keys: impl Iterator<Item = &'a [u8]>) {
        // Apart from the loads, so that as many as possible of these follow each other closely.
        let hashes: SmallVec<[u64; AHEAD]> = keys.take(AHEAD).map(|key| self.hash(key)).collect();
        for hash in hashes {
            // Whether it is the key is not asked, as that would have to wait for it.
            if let Some((key, stored)) = self.table.find(hash, |_| true) {
                black_box(key.len());
                touch(&stored.value, LINES * LINE_BYTES);
            }
        }
    }
}

impl Index<&Key> for Table {
    type Output = Stored;

    fn index(&self, key: &Key) -> &Stored {
        self.get(key).expect("whoever asks knows that it is there")
    }
}

/// Loads the first bytes of something, at most so many, without waiting for them.
pub(super) fn touch(bytes: &[u8], bytes_max: usize) {
    let bytes = &bytes[..bytes.len().min(bytes_max)];
    let lines = bytes.iter().step_by(LINE_BYTES).chain(bytes.last());
    black_box(lines.fold(0, |all, byte| all | byte));
}
