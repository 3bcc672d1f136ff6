//! What entries did to keys, kept for a while for those who watch.
//!
//! Effects, not entries: a key that got a value, or that is gone. A compare-and-set that failed and a delete of an
//! absent key are none. They lie in chunks, one behind the other:
//!
//! ```text
//!  0   8   entry          u64 LE
//!  8   4   key length     u32 LE
//! 12   4   value length   u32 LE; 0xFFFF_FFFF if the key is gone
//! 16   …   key, value
//! ```
//!
//! A change costs a copy of its bytes and no allocation: when all chunks are in use the oldest becomes the newest.
//! Whoever reads keeps a [`Cursor`], of which the history knows nothing: who is too slow finds out that what it was to
//! read is gone.
//!
//! # Invariants
//!
//! - Every change of an entry above [`oldest`](History::oldest) is there; none of an entry up to it need be.
//! - All changes of one entry lie in one chunk.
//! - The chunks have room for no more bytes than the bound; only a chunk for one large entry is larger than others.

use std::collections::VecDeque;

use quorate_protocol::Index;
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::response::{Change, NewValue};

use super::table::touch;

/// Bytes of a chunk; a quarter of the bound if that is less.
const CHUNK_BYTES: usize = 64 << 10;

const HEADER_BYTES: usize = 16;

/// The length of no value.
const GONE: u32 = u32::MAX;

/// The latest changes, oldest first.
#[derive(Debug, Default)]
pub struct History {
    chunks: VecDeque<Chunk>,
    /// The number of the first chunk; each has one more than the one before it.
    first_number: u64,
    /// Bytes that the chunks have room for.
    bytes: usize,
    bytes_max: usize,
    oldest: Index,
}

#[derive(Debug)]
struct Chunk {
    /// The records, and room for more.
    bytes: Box<[u8]>,
    /// Bytes of the records.
    used: usize,
    /// The last entry that it, or a chunk before it, has changes of.
    last: Index,
}

/// How far somebody has read. Only for the history that it is of.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cursor {
    chunk: u64,
    offset: usize,
}

impl History {
    /// Keeps so many bytes of the changes behind entry `applied`; 0 for none.
    pub(super) fn new(applied: Index, bytes_max: usize) -> Self {
        Self { bytes_max, oldest: applied, ..Self::default() }
    }

    /// Begins anew, behind a state that did not come of what is kept.
    pub(super) fn begin_behind(&mut self, applied: Index) {
        *self = Self::new(applied, self.bytes_max);
    }

    /// Whether changes are kept at all.
    pub fn is_kept(&self) -> bool {
        self.bytes_max > 0
    }

    /// All changes of entries above this one are there.
    pub fn oldest(&self) -> Index {
        self.oldest
    }

    /// Bytes of memory that it takes.
    pub fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    /// Bytes of all changes that a write may bring.
    pub(super) fn bytes_of(write: &Write<'_>) -> usize {
        write.mutations().iter().map(record_bytes).sum()
    }

    /// Makes room for all changes that an entry may bring.
    pub(super) fn make_room(&mut self, index: Index, write: &Write<'_>) {
        if !self.is_kept() {
            return;
        }
        let needed = Self::bytes_of(write);
        match self.chunks.back() {
            Some(chunk) if chunk.bytes.len() - chunk.used >= needed => {}
            _ => self.add_chunk(index, needed),
        }
    }

    /// A chunk with room for so many bytes of entry `index`. The oldest chunks go for it; if all of them are not
    /// enough nothing up to this entry is kept.
    fn add_chunk(&mut self, index: Index, needed: usize) {
        let capacity = CHUNK_BYTES.min(self.bytes_max / 4).max(needed);
        let mut freed = None;
        while self.bytes + capacity > self.bytes_max
            && let Some(chunk) = self.chunks.pop_front()
        {
            self.first_number += 1;
            self.bytes -= chunk.bytes.len();
            self.oldest = chunk.last;
            freed = Some(chunk.bytes);
        }
        if self.bytes + capacity > self.bytes_max {
            self.oldest = index;
            return;
        }
        let freed = freed.filter(|freed| freed.len() == capacity);
        let bytes = freed.unwrap_or_else(|| vec![0; capacity].into_boxed_slice());
        self.bytes += capacity;
        let last = self.chunks.back().map_or(self.oldest, |chunk| chunk.last);
        self.chunks.push_back(Chunk { bytes, used: 0, last });
    }

    /// An entry for which room was made gave a key a value, or removed it.
    pub(super) fn record(&mut self, index: Index, key: &[u8], value: Option<&[u8]>) {
        if index <= self.oldest || !self.is_kept() {
            return; // It was too large to be kept.
        }
        let Some(chunk) = self.chunks.back_mut() else { return };
        let value_bytes = value.map_or(GONE, |value| value.len() as u32);
        let mut header = [0; HEADER_BYTES];
        header[..8].copy_from_slice(&index.to_le_bytes());
        header[8..12].copy_from_slice(&(key.len() as u32).to_le_bytes());
        header[12..].copy_from_slice(&value_bytes.to_le_bytes());
        for part in [&header, key, value.unwrap_or_default()] {
            chunk.bytes[chunk.used..][..part.len()].copy_from_slice(part);
            chunk.used += part.len();
        }
        chunk.last = index;
    }

    /// Brings the room for so many bytes of changes near.
    pub(super) fn look_ahead(&self, bytes: usize) {
        if let Some(chunk) = self.chunks.back() {
            touch(&chunk.bytes[chunk.used..], bytes);
        }
    }

    /// Where the changes behind an entry begin; none if they are not all there.
    pub fn seek(&self, after: Index) -> Option<Cursor> {
        if after < self.oldest {
            return None;
        }
        // The last chunk may get more, whatever it has.
        let before = self.chunks.partition_point(|chunk| chunk.last <= after);
        let before = before.min(self.chunks.len().saturating_sub(1));
        let mut cursor = Cursor { chunk: self.first_number + before as u64, offset: 0 };
        while let Some((change, next)) = self.read(cursor)
            && change.index <= after
        {
            cursor = next;
        }
        Some(cursor)
    }

    /// Whether what a cursor stands before is there, or still to come.
    pub fn has(&self, cursor: Cursor) -> bool {
        cursor.chunk >= self.first_number
    }

    /// The change that a cursor stands before, and the cursor behind it; none if there is none yet.
    pub fn read(&self, mut cursor: Cursor) -> Option<(Change<'_>, Cursor)> {
        loop {
            let at = cursor.chunk.checked_sub(self.first_number)? as usize;
            let Chunk { bytes, used, .. } = self.chunks.get(at)?;
            if let Some((change, bytes)) = decode(&bytes[cursor.offset..*used]) {
                return Some((change, Cursor { offset: cursor.offset + bytes, ..cursor }));
            }
            if at + 1 == self.chunks.len() {
                return None; // More may come behind it.
            }
            cursor = Cursor { chunk: cursor.chunk + 1, offset: 0 };
        }
    }
}

/// Bytes of what a mutation may change.
fn record_bytes(mutation: &Mutation<'_>) -> usize {
    match mutation {
        Mutation::Set { key, value } | Mutation::CompareAndSet { key, value, .. } => {
            HEADER_BYTES + key.len() + value.len()
        }
        Mutation::Delete { key } => HEADER_BYTES + key.len(),
    }
}

/// The first change, and its bytes; none at the end.
fn decode(records: &[u8]) -> Option<(Change<'_>, usize)> {
    let (header, rest) = records.split_first_chunk::<HEADER_BYTES>()?;
    let (index, lengths) = header.split_first_chunk::<8>()?;
    let (key_bytes, value_bytes) = lengths.split_first_chunk::<4>()?;
    let (key_bytes, value_bytes) =
        (u32::from_le_bytes(*key_bytes), u32::from_le_bytes(value_bytes.try_into().ok()?));
    let (key, rest) = rest.split_at(key_bytes as usize);
    let value = (value_bytes != GONE).then(|| NewValue(&rest[..value_bytes as usize]));
    let bytes = HEADER_BYTES + key.len() + value.map_or(0, |NewValue(value)| value.len());
    Some((Change { index: Index::from_le_bytes(*index), key, value }, bytes))
}

#[cfg(test)]
mod tests {
    use quorate_protocol::request::Expected;

    use super::super::Store;
    use super::*;

    fn store(bytes_max: usize) -> Store {
        let mut store = Store::default();
        store.keep_history(bytes_max);
        store
    }

    fn set<'a>(key: &'a str, value: &'a [u8]) -> Mutation<'a> {
        Mutation::Set { key: key.as_bytes(), value }
    }

    fn delete(key: &str) -> Mutation<'_> {
        Mutation::Delete { key: key.as_bytes() }
    }

    /// A change: entry, key, bytes of the value.
    type Shown = (Index, String, Option<usize>);

    /// What comes behind a cursor, and where that ends.
    fn rest(history: &History, mut cursor: Cursor) -> (Vec<Shown>, Cursor) {
        let mut found = Vec::new();
        while let Some((change, next)) = history.read(cursor) {
            let key = String::from_utf8_lossy(change.key).into_owned();
            found.push((change.index, key, change.value.map(|value| value.0.len())));
            cursor = next;
        }
        (found, cursor)
    }

    fn behind(store: &Store, after: Index) -> Vec<Shown> {
        rest(store.history(), store.history().seek(after).expect("it is kept")).0
    }

    #[test]
    fn what_an_entry_did_is_there_and_what_came_to_nothing_is_not() {
        let mut store = store(1 << 20);
        store.apply(1, &Write::One(set("a", b"1")));
        store.apply(3, &Write::One(delete("absent")));
        let cas = |expected| Mutation::CompareAndSet { key: b"a", expected, value: b"22" };
        store.apply(4, &Write::One(cas(Expected::Absent)));
        store.apply(5, &Write::One(cas(Expected::Revision(1))));
        store.apply(6, &Write::Batch(vec![set("b", b"3"), delete("a"), delete("a"), set("c", b"")]));
        store.apply(7, &Write::Batch(vec![set("d", b"3"), cas(Expected::Revision(9))]));
        let change = |index, key: &str, value| (index, key.to_owned(), value);
        let all = [
            change(1, "a", Some(1)),
            change(5, "a", Some(2)),
            change(6, "b", Some(1)),
            change(6, "a", None),
            change(6, "c", Some(0)),
        ];
        assert_eq!(behind(&store, 0), all);
        assert_eq!(behind(&store, 1), all[1..]);
        assert_eq!(behind(&store, 4), all[1..]);
        assert_eq!(behind(&store, 5), all[2..]);
        assert_eq!(behind(&store, 9), []);
    }

    #[test]
    fn the_oldest_changes_go_and_whoever_stood_before_them_notices() {
        let mut store = store(8 << 10);
        let start = store.history().seek(0).unwrap();
        let mut follows = start;
        for index in 1..=1000 {
            store.apply(index, &Write::One(set("key", &[7; 100])));
            assert!(store.history().bytes() <= 8 << 10, "entry {index}");
            let (found, next) = rest(store.history(), follows);
            assert_eq!(found, [(index, "key".to_owned(), Some(100))], "whoever keeps up misses nothing");
            follows = next;
        }
        let oldest = store.history().oldest();
        assert!((900..1000).contains(&oldest) && !store.history().has(start));
        assert_eq!(store.history().seek(oldest - 1), None);
        let kept: Vec<_> = behind(&store, oldest).into_iter().map(|(index, ..)| index).collect();
        assert_eq!(kept, (oldest + 1..=1000).collect::<Vec<_>>());
    }

    #[test]
    fn whoever_finds_his_place_behind_everything_gets_what_comes() {
        for bytes_max in [600, 8 << 10] {
            let mut store = store(bytes_max);
            for index in 1..=200 {
                let cursor = store.history().seek(index - 1).expect("nothing behind it is gone");
                store.apply(index, &Write::Batch(vec![delete("absent"); 1 + index as usize % 3]));
                assert_eq!(rest(store.history(), cursor).0, []);
                store.apply(1000 * index, &Write::One(set("key", &[7; 50])));
                let found = rest(store.history(), cursor).0;
                assert_eq!(found, [(1000 * index, "key".to_owned(), Some(50))]);
                store.restored(index);
            }
        }
    }

    #[test]
    fn entries_are_kept_whole_or_not_at_all_whatever_their_sizes() {
        let mut store = store(8 << 10);
        let mut random = 7_u64;
        for index in 1..=3000 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let count = 1 + (random >> 33) as usize % 5;
            let value = vec![1; (random >> 40) as usize % 4000];
            let keys: Vec<_> = (0..count).map(|key| format!("{key}")).collect();
            store.apply(index, &Write::Batch(keys.iter().map(|key| set(key, &value)).collect()));
            let history = store.history();
            assert!(history.bytes() <= 8 << 10);
            let kept = behind(&store, history.oldest());
            let of_last = kept.iter().filter(|(at, ..)| *at == index).count();
            assert_eq!(of_last, if history.oldest() == index { 0 } else { count }, "entry {index}");
            let whole = kept.chunk_by(|one, other| one.0 == other.0).map(|changes| changes[0].0);
            assert!(whole.eq(history.oldest() + 1..=index), "entry {index}: {kept:?}");
        }
    }

    #[test]
    fn a_history_begins_behind_what_was_restored_and_is_not_kept_unless_asked_for() {
        let mut store = Store::default();
        store.restore(b"a", 3, b"1");
        store.restored(5);
        store.apply(6, &Write::One(set("a", b"2")));
        assert!(!store.history().is_kept() && store.history().bytes() == 0);
        store.keep_history(1 << 20);
        assert_eq!((store.history().oldest(), store.history().seek(5)), (6, None));
        store.apply(7, &Write::One(delete("a")));
        assert_eq!(behind(&store, 6), [(7, "a".to_owned(), None)]);
        store.restored(9);
        assert_eq!((store.history().oldest(), behind(&store, 9).len()), (9, 0));
    }
}
