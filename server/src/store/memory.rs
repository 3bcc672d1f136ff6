//! How much memory a store takes, by estimate.
//!
//! A sum over what is allocated, kept while keys come and go, so that it costs a few additions for each write.
//! It follows from the keys, the values and the table's size, never from the machine: replicas of one log differ
//! only in when their tables grow, and that only after keys were deleted. It is checked against the resident
//! memory of a process by `examples/store_memory.rs`.
//!
//! # Omissions
//!
//! - The history for those who watch: it has a bound of its own, and differs between replicas.
//! - What the allocator cannot give back to others because it lies between what is in use.
//! - While the table grows, the old one and the new one exist for a moment.
//! - Other allocators than glibc's, by whose rules the constants are; others are near.

use std::mem::size_of;

use super::sessions::{RESULT_BYTES_MAX, SESSION_BYTES};
use super::snapshot::Snapshot;
use super::{KEY_BYTES_INLINE, Key, Store, Stored};

/// One entry of the table, and the byte that says whether it is taken.
const SLOT_BYTES: u64 = (size_of::<(Key, Stored)>() + 1) as u64;

/// Up to 7 of 8 slots of a table are taken before it doubles.
const SLOTS_TAKEN: (u64, u64) = (7, 8);

/// The smallest table.
const SLOTS_MIN: u64 = 4;

/// Keys of a tree's leaf, of which it has 6 when they came in order, and about 8 otherwise; and one more in the
/// inner node above.
const TREE_KEYS_PER_LEAF: u64 = 8;

/// A leaf of the tree: 11 keys, and a pointer and two counts.
const TREE_LEAF_BYTES: u64 = allocation(11 * size_of::<Key>() + 12);

/// What a key takes in the tree. Inner nodes, with 12 pointers each, add an eighth of their number and a half of
/// their size.
const TREE_KEY_BYTES: u64 = (TREE_LEAF_BYTES + TREE_LEAF_BYTES / 6) / TREE_KEYS_PER_LEAF;

/// What a key that was put aside takes in the tree of those.
const ASIDE_KEY_BYTES: u64 =
    allocation(11 * size_of::<(Key, Option<Stored>)>() + 12) * 7 / 6 / TREE_KEYS_PER_LEAF;

/// What an allocation of so many bytes takes: glibc adds eight, rounds up to sixteen, and has none below 32.
pub(super) const fn allocation(bytes: usize) -> u64 {
    match bytes {
        0 => 0,
        1..=24 => 32,
        _ => ((bytes + 8).next_multiple_of(16)) as u64,
    }
}

/// What a key has allocated: nothing if it lies where it is compared.
pub(super) fn key_bytes(key: &[u8]) -> u64 {
    if key.len() <= KEY_BYTES_INLINE { 0 } else { allocation(key.len()) }
}

/// What a value has allocated.
pub(super) fn value_bytes(value: &[u8]) -> u64 {
    allocation(value.len())
}

/// What a key with its value takes in what was put aside.
pub(super) fn aside_bytes(key: &[u8], old: Option<&Stored>) -> u64 {
    ASIDE_KEY_BYTES + key_bytes(key) + old.map_or(0, |stored| value_bytes(&stored.value))
}

/// Bytes of a hash table with room for so many: a power of two of slots.
pub(super) fn table_bytes(room: u64, slot_bytes: u64) -> u64 {
    if room == 0 {
        return 0;
    }
    let (taken, of) = SLOTS_TAKEN;
    (room * of).div_ceil(taken).next_power_of_two().max(SLOTS_MIN) * slot_bytes
}

/// Keys and sessions that may come, and what they, values and results allocate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Growth {
    keys: u64,
    sessions: u64,
    bytes: u64,
}

impl Growth {
    /// Of a key that was not there, with a value.
    pub fn of(key: &[u8], value: &[u8]) -> Self {
        Self { keys: 1, bytes: 2 * key_bytes(key) + value_bytes(value), ..Self::default() }
    }

    /// Of a session that is opened.
    pub fn of_session() -> Self {
        Self { sessions: 1, bytes: SESSION_BYTES, ..Self::default() }
    }

    /// Of the result of a write that is done in a session.
    pub fn of_result() -> Self {
        Self { bytes: RESULT_BYTES_MAX, ..Self::default() }
    }

    /// Whether it brings keys.
    pub fn has_keys(&self) -> bool {
        self.keys > 0
    }

    /// Both.
    pub fn and(self, other: Self) -> Self {
        Self {
            keys: self.keys + other.keys,
            sessions: self.sessions + other.sessions,
            bytes: self.bytes + other.bytes,
        }
    }

    /// This without a part of it.
    pub fn without(self, part: Self) -> Self {
        Self {
            keys: self.keys - part.keys,
            sessions: self.sessions - part.sessions,
            bytes: self.bytes - part.bytes,
        }
    }
}

impl Store {
    /// Bytes of memory that the store takes, by estimate: keys, values and results as they are allocated, the tables and
    /// the tree, and what a snapshot under way has put aside.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes_with(Growth::default())
    }

    /// The same when `growth` has come, the table's growth included.
    pub fn memory_bytes_with(&self, growth: Growth) -> u64 {
        let keys = self.keys() + growth.keys;
        let aside = self.snapshot.as_ref().map_or(0, Snapshot::memory_bytes);
        let table = table_bytes(keys.max(self.room as u64), SLOT_BYTES);
        let sessions = self.sessions.memory_bytes_with(growth.sessions);
        self.allocated + growth.bytes + keys * TREE_KEY_BYTES + aside + table + sessions
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::request::{Mutation, Write};

    use super::*;

    fn set(store: &mut Store, key: &[u8], value: &[u8]) {
        store.apply(store.applied + 1, &Write::One(Mutation::Set { key, value }));
    }

    fn delete(store: &mut Store, key: &[u8]) {
        store.apply(store.applied + 1, &Write::One(Mutation::Delete { key }));
    }

    /// The estimate from scratch.
    fn counted(store: &Store) -> u64 {
        let each = store.map.iter().map(|(key, stored)| 2 * key_bytes(key) + value_bytes(&stored.value));
        let table = table_bytes(store.keys().max(store.room as u64), SLOT_BYTES);
        each.sum::<u64>() + store.keys() * TREE_KEY_BYTES + table
    }

    #[test]
    fn an_allocation_takes_what_the_allocator_makes_of_it() {
        let sizes = [(0, 0), (1, 32), (24, 32), (25, 48), (40, 48), (41, 64), (100, 112), (4096, 4112)];
        assert_eq!(sizes.map(|(bytes, _)| (bytes, allocation(bytes))), sizes);
    }

    #[test]
    fn an_empty_store_takes_nothing() {
        assert_eq!(Store::default().memory_bytes(), 0);
    }

    #[test]
    fn the_sum_that_is_kept_is_the_sum_of_all_keys_whatever_happened() {
        let mut store = Store::default();
        let mut random = 7_u64;
        for step in 0..20_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let key = (random >> 33) % 500;
            let key = vec![key as u8; 1 + key as usize % 40];
            match random >> 60 {
                0..5 => delete(&mut store, &key),
                _ => set(&mut store, &key, &vec![0; (random >> 50) as usize % 300]),
            }
            if step % 3000 == 1000 {
                store.begin_snapshot();
            } else if step % 3000 == 2000 {
                while store.read_snapshot(|_, _, _| true) {}
                assert_eq!(store.snapshot.as_ref().unwrap().memory_bytes(), 0, "everything was read");
                store.end_snapshot();
            }
            if store.snapshot.is_none() {
                assert_eq!(store.memory_bytes(), counted(&store), "step {step}");
            }
        }
    }

    #[test]
    fn what_a_snapshot_puts_aside_counts_until_it_is_read() {
        let mut store = Store::default();
        for key in 0..100_u8 {
            set(&mut store, &[key; 20], &[0; 1000]);
        }
        let before = store.memory_bytes();
        store.begin_snapshot();
        assert_eq!(store.memory_bytes(), before, "it costs nothing to begin");
        for key in 0..100_u8 {
            set(&mut store, &[key; 20], &[1; 1000]);
        }
        let aside = aside_bytes(&[0; 20], None) + value_bytes(&[0; 1000]);
        assert_eq!(store.memory_bytes(), before + 100 * aside);
        let mut read = 0;
        store.read_snapshot(|_, _, _| {
            read += 1;
            read < 40
        });
        assert_eq!(store.memory_bytes(), before + 60 * aside);
        store.end_snapshot();
        assert_eq!(store.memory_bytes(), before);
    }

    #[test]
    fn growth_is_what_the_store_takes_more_when_it_has_come() {
        let mut store = Store::default();
        for step in 0..5000_u32 {
            let (key, value) =
                (step.to_be_bytes().repeat(1 + step as usize % 9), vec![0; step as usize % 77]);
            let expected = store.memory_bytes_with(Growth::of(&key, &value));
            set(&mut store, &key, &value);
            assert_eq!(store.memory_bytes(), expected, "step {step}");
        }
    }
}
