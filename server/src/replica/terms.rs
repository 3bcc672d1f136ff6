//! Which term each index belongs to.

use quorate_protocol::{Index, Term};

/// The first index of every term in the log, the dropped part included.
///
/// Terms are few, so the term of any index is known without the entry: the check of an append's previous
/// entry, of a session's token (R23), and the hint after a mismatch need no log read.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Terms {
    /// (first index, term), both strictly ascending.
    starts: Vec<(Index, Term)>,
    last: Index,
}

impl Terms {
    /// Restores what [`Terms::starts`] gave, for a log whose last index is `last`.
    pub fn from_starts(starts: Vec<(Index, Term)>, last: Index) -> Self {
        debug_assert!(starts.windows(2).all(|pair| pair[0].0 < pair[1].0 && pair[0].1 < pair[1].1));
        Self { starts, last }
    }

    /// Adds the entry after the last one.
    pub fn push(&mut self, index: Index, term: Term) {
        debug_assert_eq!(index, self.last + 1);
        debug_assert!(term >= self.last_term());
        if term > self.last_term() {
            self.starts.push((index, term));
        }
        self.last = index;
    }

    /// The term of an index; 0 for index 0, none beyond the last.
    pub fn term(&self, index: Index) -> Option<Term> {
        if index > self.last {
            return None;
        }
        let after = self.starts.partition_point(|(first, _)| *first <= index);
        Some(after.checked_sub(1).map_or(0, |at| self.starts[at].1))
    }

    /// The last index.
    pub fn last(&self) -> Index {
        self.last
    }

    /// The term of the last entry; 0 if there is none.
    pub fn last_term(&self) -> Term {
        self.starts.last().map_or(0, |(_, term)| *term)
    }

    /// The first index of the term that an index belongs to; 0 for index 0.
    pub fn first_of_same_term(&self, index: Index) -> Index {
        let after = self.starts.partition_point(|(first, _)| *first <= index);
        after.checked_sub(1).map_or(0, |at| self.starts[at].0)
    }

    /// Whether an entry of `term` at `index` can never come, as one up to `settled`, which stays, is of a later term and
    /// comes before it.
    pub fn rule_out(&self, term: Term, index: Index, settled: Index) -> bool {
        self.starts(settled.min(index)).last().is_some_and(|(_, last)| *last > term)
    }

    /// The last index of the term that an index belongs to.
    pub fn last_of_same_term(&self, index: Index) -> Index {
        let after = self.starts.partition_point(|(first, _)| *first <= index);
        self.starts.get(after).map_or(self.last, |(first, _)| first - 1)
    }

    /// Removes what comes after an index.
    pub fn truncate(&mut self, after: Index) {
        self.starts.retain(|(first, _)| *first <= after);
        self.last = self.last.min(after);
    }

    /// (first index, term) of every term up to an index: what a checkpoint at that index carries.
    pub fn starts(&self, through: Index) -> &[(Index, Term)] {
        &self.starts[..self.starts.partition_point(|(first, _)| *first <= through)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn terms() -> Terms {
        let mut terms = Terms::default();
        for (index, term) in [(1, 1), (2, 1), (3, 4), (4, 4), (5, 6)] {
            terms.push(index, term);
        }
        terms
    }

    #[test]
    fn every_index_has_the_term_that_it_was_pushed_with() {
        let found: Vec<_> = (0..=6).map(|index| terms().term(index)).collect();
        assert_eq!(found, [Some(0), Some(1), Some(1), Some(4), Some(4), Some(6), None]);
    }

    #[test]
    fn truncation_forgets_terms_that_begin_after_it() {
        let mut terms = terms();
        terms.truncate(3);
        assert_eq!((terms.term(3), terms.term(4), terms.last_term()), (Some(4), None, 4));
        terms.truncate(2);
        assert_eq!(terms.last_term(), 1);
    }

    #[test]
    fn a_checkpoint_carries_the_terms_up_to_its_index() {
        assert_eq!(terms().starts(4), [(1, 1), (3, 4)]);
        assert_eq!(terms().first_of_same_term(4), 3);
        assert_eq!([1, 3, 5].map(|index| terms().last_of_same_term(index)), [2, 4, 5]);
    }

    #[test]
    fn an_entry_behind_one_of_a_later_term_can_never_come() {
        assert!(terms().rule_out(1, 9, 3), "entry 3 is of term 4");
        assert!(!terms().rule_out(1, 9, 2), "entry 3 may be removed");
        assert!(!terms().rule_out(4, 9, 3) && !terms().rule_out(1, 2, 5));
    }
}
