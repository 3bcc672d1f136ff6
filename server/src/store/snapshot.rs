//! The state at one index, read while the store goes on.

use std::collections::BTreeMap;
use std::ops::Bound;

use quorate_protocol::{Index, SessionId};

use super::memory::aside_bytes;
use super::{Key, Session, Store, Stored};

/// How far a snapshot has been read, and what it would otherwise lose.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// The last key that was read; everything up to it is done.
    cursor: Option<Key>,
    /// What keys beyond the cursor were when the snapshot began, if they changed since; none: absent.
    aside: BTreeMap<Key, Option<Stored>>,
    /// What that takes, by estimate.
    aside_bytes: u64,
}

impl Snapshot {
    pub(super) fn set_aside(&mut self, key: &[u8], old: Option<Stored>) {
        let is_read = self.cursor.as_deref().is_some_and(|cursor| key <= cursor);
        // Only the first change counts: later ones replace what the snapshot must not see.
        if !is_read && !self.aside.contains_key(key) {
            self.aside_bytes += aside_bytes(key, old.as_ref());
            self.aside.insert(Key::from_slice(key), old);
        }
    }

    /// Bytes of memory that it takes, by estimate.
    pub(super) fn memory_bytes(&self) -> u64 {
        self.aside_bytes
    }

    /// What was read needs no keeping.
    fn read_through(&mut self, last: Key) {
        while let Some(first) = self.aside.first_entry()
            && *first.key() <= last
        {
            self.aside_bytes -= aside_bytes(first.key(), first.get().as_ref());
            first.remove();
        }
        self.cursor = Some(last);
    }
}

impl Store {
    /// Begins a snapshot of the state as it is now. One at a time: a snapshot under way is given up.
    pub fn begin_snapshot(&mut self) {
        self.snapshot = Some(Snapshot::default());
        self.sessions.begin_snapshot();
    }

    /// Gives up the snapshot under way, if there is one.
    pub fn end_snapshot(&mut self) {
        self.snapshot = None;
        self.sessions.end_snapshot();
    }

    /// Hands the snapshot's next sessions to `take`, by their ids, until it returns false or there are no more. Returns
    /// whether there are more.
    pub fn read_snapshot_sessions(&mut self, take: impl FnMut(SessionId, &Session) -> bool) -> bool {
        self.sessions.read_snapshot(take)
    }

    /// Hands the snapshot's next keys to `record`, in key order, until it returns false or there are no more.
    /// Returns whether there may be more.
    ///
    /// # Panics
    ///
    /// If no snapshot is under way.
    pub fn read_snapshot(&mut self, mut record: impl FnMut(&[u8], Index, &[u8]) -> bool) -> bool {
        let snapshot = self.snapshot.as_mut().expect("a snapshot has begun");
        let start = match &snapshot.cursor {
            Some(cursor) => Bound::Excluded(&**cursor),
            None => Bound::Unbounded,
        };
        let map = &self.map;
        let live = self.order.range::<[u8], _>((start, Bound::Unbounded));
        let mut live = live.map(|key| (key, &map[key])).peekable();
        let mut aside = snapshot.aside.iter().peekable();
        let mut last: Option<&[u8]> = None;
        let mut more = false;
        loop {
            // The lower key is next; where both have it, what was put aside is the snapshot's.
            let (key, stored) = match (live.peek(), aside.peek()) {
                (None, None) => break,
                (Some((key, stored)), None) => (&**key, Some(*stored)),
                (None, Some((key, old))) => (&**key, old.as_ref()),
                (Some((key, stored)), Some((old_key, _))) if key < old_key => (&**key, Some(*stored)),
                (Some(_), Some((key, old))) => (&**key, old.as_ref()),
            };
            live.next_if(|(live_key, _)| &**live_key == key);
            aside.next_if(|(old_key, _)| &**old_key == key);
            last = Some(key);
            if let Some(stored) = stored
                && !record(key, stored.revision, &stored.value)
            {
                more = true;
                break;
            }
        }
        if let Some(last) = last {
            let last = Key::from_slice(last);
            snapshot.read_through(last);
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_protocol::request::{Mutation, Write};

    use super::*;

    fn everything(store: &Store) -> Vec<(Vec<u8>, Index)> {
        store.order.iter().map(|key| (key.to_vec(), store.map[key].revision)).collect()
    }

    proptest! {
        #[test]
        fn a_snapshot_is_the_state_at_its_beginning_whatever_changes_meanwhile(
            before in prop::collection::vec((any::<bool>(), 0u8..20), 0..40),
            during in prop::collection::vec((any::<bool>(), 0u8..20, 0usize..3), 0..60),
        ) {
            let mut store = Store::default();
            let mut index = 0;
            let mut change = |store: &mut Store, is_set: bool, key: u8| {
                index += 1;
                let key = &[key][..];
                let mutation = if is_set { Mutation::Set { key, value: key } } else { Mutation::Delete { key } };
                store.apply(index, &Write::One(mutation));
            };
            before.into_iter().for_each(|(is_set, key)| change(&mut store, is_set, key));
            let expected = everything(&store);
            store.begin_snapshot();
            let mut found = Vec::new();
            for (is_set, key, read) in during {
                for _ in 0..read {
                    store.read_snapshot(|key, revision, _| { found.push((key.to_vec(), revision)); false });
                }
                change(&mut store, is_set, key);
            }
            while store.read_snapshot(|key, revision, _| { found.push((key.to_vec(), revision)); false }) {}
            prop_assert_eq!(found, expected);
        }
    }
}
