//! When a checkpoint is taken, and what the log may drop then.

use quorate_protocol::Index;

/// When a checkpoint is taken: at indexes that follow from the log alone, so that all replicas take the same
/// ones and their files can be compared.
#[derive(Debug)]
pub(super) struct Checkpoints {
    interval_bytes: u64,
    /// Bytes of entries applied since a checkpoint was last due.
    bytes_since: u64,
    taking: Option<Index>,
    /// None is taken while one is loaded that another replica has sent.
    is_held: bool,
    /// The newest two on disk, newest first; 0 for none.
    newest: Index,
    previous: Index,
}

impl Checkpoints {
    /// `newest` and `previous` are on disk. A checkpoint is due after `interval_bytes` of entries, or as many
    /// bytes as the store holds, whichever is more: so checkpoints at most double what is written.
    pub(super) fn new(interval_bytes: u64, newest: Index, previous: Index) -> Self {
        Self { interval_bytes, bytes_since: 0, taking: None, is_held: false, newest, previous }
    }

    /// Counts an applied entry. Returns whether a checkpoint of the state after it is to begin.
    pub(super) fn applied(&mut self, index: Index, entry_bytes: usize, store_bytes: u64) -> bool {
        self.bytes_since += entry_bytes as u64;
        if self.bytes_since < self.interval_bytes.max(store_bytes) {
            return false;
        }
        // Due even if one is still being written: the next one's index must not depend on the disk's speed.
        self.bytes_since = 0;
        if self.taking.is_some() || self.is_held {
            return false;
        }
        self.taking = Some(index);
        true
    }

    /// Counts an entry that is applied again after a restart. One that was due then is not taken late.
    pub(super) fn replayed(&mut self, index: Index, entry_bytes: usize, store_bytes: u64) {
        if self.applied(index, entry_bytes, store_bytes) {
            self.taking = None;
        }
    }

    /// The checkpoint being taken is on disk.
    pub(super) fn written(&mut self, index: Index) {
        self.taking = None;
        self.previous = self.newest;
        self.newest = index;
    }

    /// The checkpoint being taken was given up.
    pub(super) fn failed(&mut self) {
        self.taking = None;
    }

    /// One that another replica has sent is loaded: the one being taken is given up, and none is taken until then.
    pub(super) fn give_up(&mut self) {
        self.taking = None;
        self.is_held = true;
    }

    /// Nothing has come of that.
    pub(super) fn resume(&mut self) {
        self.is_held = false;
    }

    /// The one that another replica has sent is on disk, and is the only one.
    pub(super) fn installed(&mut self, index: Index) {
        self.is_held = false;
        self.newest = index;
        self.previous = 0;
    }

    /// What is applied next follows the newest: nothing has been applied since.
    pub(super) fn restored(&mut self) {
        self.bytes_since = 0;
    }

    /// Whether one is being taken.
    pub(super) fn is_taking(&self) -> bool {
        self.taking.is_some()
    }

    /// The newest checkpoint's index.
    pub(super) fn newest(&self) -> Index {
        self.newest
    }

    /// Entries below this are in both checkpoints that are kept.
    pub(super) fn covered(&self) -> Index {
        self.previous + 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checkpoints_are_due_at_indexes_that_do_not_depend_on_how_fast_they_are_written() {
        let due = |slow: bool| {
            let mut checkpoints = Checkpoints::new(100, 0, 0);
            let taken = (1..=100).filter(|index| {
                let begins = checkpoints.applied(*index, 10, 0);
                if begins && !slow {
                    checkpoints.written(*index);
                } else if slow && index % 25 == 0 && checkpoints.is_taking() {
                    checkpoints.written(checkpoints.taking.unwrap());
                }
                begins
            });
            taken.collect::<Vec<_>>()
        };
        assert_eq!(due(false), [10, 20, 30, 40, 50, 60, 70, 80, 90, 100]);
        assert_eq!(due(true), [10, 30, 60, 80], "a subset of the same indexes");
    }

    #[test]
    fn a_large_store_is_checkpointed_less_often() {
        let mut checkpoints = Checkpoints::new(100, 0, 0);
        assert_eq!((1..=30).find(|index| checkpoints.applied(*index, 10, 250)), Some(25));
    }

    #[test]
    fn the_log_is_kept_from_the_older_of_two_checkpoints() {
        let mut checkpoints = Checkpoints::new(100, 0, 0);
        checkpoints.written(50);
        assert_eq!(checkpoints.covered(), 1);
        checkpoints.written(90);
        assert_eq!(checkpoints.covered(), 51);
    }
}
