//! The end of the log in memory.

use std::collections::VecDeque;

use bytes::Bytes;
use quorate_protocol::{Index, entry, limits};

/// The last entries of the log, in the batches in which they came. The bytes are shared with the log and
/// the links, not copied.
#[derive(Clone, Debug, Default)]
pub struct Tail {
    /// Without gaps, lowest first.
    batches: VecDeque<Batch>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Batch {
    first: Index,
    last: Index,
    entries: Bytes,
}

impl Batch {
    /// The entries after `after` up to `through`.
    fn slice(&self, after: Index, through: Index) -> Bytes {
        let start = if after < self.first { 0 } else { self.offset(after) };
        let end = if through >= self.last { self.entries.len() } else { self.offset(through) };
        self.entries.slice(start..end)
    }

    /// Where entry `index` ends.
    fn offset(&self, index: Index) -> usize {
        self.lengths().take((index - self.first + 1) as usize).sum()
    }

    fn lengths(&self) -> impl Iterator<Item = usize> {
        entry::iterate(&self.entries)
            .map(|entry| entry.expect("only checked entries get into the tail").bytes.len())
    }
}

impl Tail {
    /// Adds the entries `first..=last`, which follow what is there.
    pub fn push(&mut self, first: Index, last: Index, entries: Bytes) {
        debug_assert!(self.last().is_none_or(|end| end + 1 == first) && first <= last);
        self.bytes += entries.len();
        self.batches.push_back(Batch { first, last, entries });
    }

    /// The first entry in memory.
    pub fn first(&self) -> Option<Index> {
        self.batches.front().map(|batch| batch.first)
    }

    /// The last entry in memory.
    pub fn last(&self) -> Option<Index> {
        self.batches.back().map(|batch| batch.last)
    }

    /// The entries after `after` up to `through`, in runs of at most [`limits::APPEND_BYTES_MAX`] bytes or one entry.
    pub fn range(&self, after: Index, through: Index) -> impl Iterator<Item = Bytes> {
        let from = self.batches.partition_point(|batch| batch.last <= after);
        self.batches
            .range(from..)
            .take_while(move |batch| batch.first <= through)
            .map(move |batch| batch.slice(after, through))
    }

    /// The entries from `from` on: the end of one batch, at most `bytes_max` bytes but at least one entry.
    /// Returns the last one's index too; none if `from` is not in memory.
    pub fn run(&self, from: Index, bytes_max: usize) -> Option<(Index, Bytes)> {
        let batch = self.batches.get(self.batches.partition_point(|batch| batch.last < from))?;
        if from < batch.first {
            return None;
        }
        let entries = batch.slice(from - 1, batch.last);
        if entries.len() <= bytes_max {
            return Some((batch.last, entries));
        }
        let (last, length) = longest_prefix(&entries, from, bytes_max);
        Some((last, entries.slice(..length)))
    }

    /// Bytes of the entries after `index`.
    pub fn bytes_above(&self, index: Index) -> usize {
        // From the end: what is asked for is near it.
        let above = self.batches.iter().rev().take_while(|batch| batch.last > index);
        above
            .map(
                |batch| {
                    if batch.first > index {
                        batch.entries.len()
                    } else {
                        batch.slice(index, batch.last).len()
                    }
                },
            )
            .sum()
    }

    /// Removes the entries after `after`.
    pub fn truncate(&mut self, after: Index) {
        while let Some(batch) = self.batches.back_mut()
            && batch.last > after
        {
            self.bytes -= batch.entries.len();
            if batch.first > after {
                self.batches.pop_back();
                continue;
            }
            batch.entries = batch.slice(0, after);
            batch.last = after;
            self.bytes += batch.entries.len();
        }
    }

    /// Removes batches up to `through`, oldest first, while more than `keep_bytes` are held.
    pub fn forget(&mut self, through: Index, keep_bytes: usize) {
        while self.bytes > keep_bytes
            && let Some(batch) = self.batches.front()
            && batch.last <= through
        {
            self.bytes -= batch.entries.len();
            self.batches.pop_front();
        }
    }
}

/// The index and the end of the last entry that still ends within `bytes_max`, at least the first.
pub(super) fn longest_prefix(entries: &[u8], from: Index, bytes_max: usize) -> (Index, usize) {
    let (mut last, mut length) = (from, 0);
    for entry in entry::iterate(entries) {
        let entry = entry.expect("only checked entries are sent");
        if length > 0 && length + entry.bytes.len() > bytes_max {
            break;
        }
        last = entry.index;
        length += entry.bytes.len();
    }
    (last, length)
}

const _: () = assert!(limits::APPEND_BYTES_MAX <= limits::PEER_BYTES_MAX);

#[cfg(test)]
mod tests {
    use quorate_protocol::entry::Payload;

    use super::*;

    fn entries(first: Index, last: Index) -> Bytes {
        let mut bytes = Vec::new();
        for index in first..=last {
            entry::encode(1, index, &Payload::Noop, &mut bytes);
        }
        bytes.into()
    }

    fn tail() -> Tail {
        let mut tail = Tail::default();
        for (first, last) in [(3, 5), (6, 6), (7, 10)] {
            tail.push(first, last, entries(first, last));
        }
        tail
    }

    #[test]
    fn a_range_has_exactly_the_entries_asked_for() {
        for after in 2..=10 {
            for through in after..=10 {
                let found: Vec<u8> = tail().range(after, through).flatten().collect();
                assert_eq!(found, entries(after + 1, through), "{after} {through}");
            }
        }
    }

    #[test]
    fn a_run_is_bounded_but_never_empty() {
        let size = entries(1, 1).len();
        assert_eq!(tail().run(4, 1000), Some((5, entries(4, 5))));
        assert_eq!(tail().run(7, 2 * size), Some((8, entries(7, 8))));
        assert_eq!(tail().run(7, 1), Some((7, entries(7, 7))));
        assert_eq!(tail().run(2, 1000), None);
        assert_eq!(tail().run(11, 1000), None);
    }

    #[test]
    fn truncation_cuts_inside_a_batch_and_keeps_count() {
        for after in 2..=10 {
            let mut tail = tail();
            tail.truncate(after);
            let found: Vec<u8> = tail.range(2, 10).flatten().collect();
            assert_eq!(found, entries(3, after), "{after}");
            assert_eq!(tail.bytes, found.len());
        }
    }

    #[test]
    fn only_what_may_go_is_forgotten() {
        let mut tail = tail();
        tail.forget(5, usize::MAX);
        assert_eq!(tail.first(), Some(3));
        tail.forget(8, 0);
        assert_eq!(tail.first(), Some(7));
        assert_eq!(tail.bytes, entries(7, 10).len());
        assert_eq!(tail.bytes_above(8), entries(9, 10).len());
    }
}
