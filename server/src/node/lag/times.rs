//! When something happened to entries.

use std::collections::VecDeque;

use quorate_protocol::Index;

use crate::replica::Time;

/// Times that are kept. Beyond it neighbours are merged, and the earlier time counts.
pub(super) const TIMES_MAX: usize = 1 << 16;

/// When something happened to entries, run by run: each time holds from its first entry to the one before the
/// next run's; the newest holds for all that follow.
#[derive(Debug, Default)]
pub(super) struct Times {
    /// (first entry, when), both rising.
    runs: VecDeque<(Index, Time)>,
}

impl Times {
    /// It happened now to `first` and what follows it. What was known of these before no longer counts.
    pub(super) fn push(&mut self, first: Index, now: Time) {
        while self.runs.back().is_some_and(|(known, _)| *known >= first) {
            self.runs.pop_back();
        }
        if self.runs.len() == TIMES_MAX {
            self.merge_neighbours();
        }
        self.runs.push_back((first, now));
    }

    /// When it happened to an entry, and the last entry of which the same is known. An entry before the first
    /// run counts to it. None if nothing is known.
    pub(super) fn of(&self, index: Index) -> Option<(Time, Index)> {
        let next = self.runs.partition_point(|(first, _)| *first <= index).max(1);
        let (_, time) = self.runs.get(next - 1)?;
        Some((*time, self.runs.get(next).map_or(Index::MAX, |(first, _)| first - 1)))
    }

    /// Forgets what is known of the entries below `index` alone.
    pub(super) fn forget_below(&mut self, index: Index) {
        while self.runs.get(1).is_some_and(|(next, _)| *next <= index) {
            self.runs.pop_front();
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.runs.len()
    }

    fn merge_neighbours(&mut self) {
        let mut is_second = true;
        self.runs.retain(|_| {
            is_second = !is_second;
            !is_second
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn a_time_holds_until_the_next_run_begins() {
        let mut times = Times::default();
        assert_eq!(times.of(7), None);
        times.push(5, ms(1));
        times.push(8, ms(2));
        let known = |index| times.of(index).unwrap();
        assert_eq!([known(5), known(7)], [(ms(1), 7); 2]);
        assert_eq!([known(8), known(900)], [(ms(2), Index::MAX); 2]);
        assert_eq!(known(3), (ms(1), 7), "older than anything known");
    }

    #[test]
    fn what_happened_last_to_an_entry_counts() {
        let mut times = Times::default();
        (1..=4).for_each(|at| times.push(10 * at, ms(at)));
        times.push(25, ms(9));
        assert_eq!(
            [times.of(24), times.of(25), times.of(30)].map(|known| known.unwrap().0),
            [ms(2), ms(9), ms(9)]
        );
    }

    #[test]
    fn forgetting_keeps_the_run_that_an_entry_is_in() {
        let mut times = Times::default();
        (1..=4).for_each(|at| times.push(10 * at, ms(at)));
        times.forget_below(25);
        assert_eq!((times.len(), times.of(25)), (3, Some((ms(2), 29))));
        times.forget_below(30);
        assert_eq!((times.len(), times.of(30)), (2, Some((ms(3), 39))));
        times.forget_below(900);
        assert_eq!((times.len(), times.of(900)), (1, Some((ms(4), Index::MAX))));
    }

    #[test]
    fn beyond_the_bound_neighbours_are_merged_and_the_earlier_time_counts() {
        let mut times = Times::default();
        (1..=TIMES_MAX as u64 + 1).for_each(|at| times.push(at, ms(at)));
        assert_eq!(times.len(), TIMES_MAX / 2 + 1);
        let last = TIMES_MAX as u64;
        let known = [1, 2, 3, last, last + 1].map(|at| times.of(at).unwrap());
        let expected = [(1, 2), (1, 2), (3, 4), (last - 1, last), (last + 1, Index::MAX)];
        assert_eq!(known, expected.map(|(at, through)| (ms(at), through)));
    }
}
