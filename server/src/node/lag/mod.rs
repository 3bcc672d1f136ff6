//! How far followers lag, on the leader's clock alone: from an entry's append here to its acknowledgement.

use std::collections::{BTreeMap, VecDeque};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2Serializer};
use quorate_protocol::{Index, NodeId};

use crate::replica::Time;

/// Batches whose append times are kept. Beyond it neighbours are merged, and the earlier time counts.
const BATCHES_MAX: usize = 1 << 16;

/// Longer lags count as this one.
const LAG_US_MAX: u64 = 3_600_000_000;

/// Further behind counts as this.
const ENTRIES_MAX: u64 = 1 << 40;

/// Lag histograms of all followers.
#[derive(Debug)]
pub(super) struct Lag {
    /// (last index, when) of the batches that some follower has not acknowledged.
    batches: VecDeque<(Index, Time)>,
    followers: BTreeMap<NodeId, FollowerLag>,
}

#[derive(Debug)]
struct FollowerLag {
    acknowledged: Index,
    micros: Histogram<u64>,
    entries: Histogram<u64>,
}

impl Lag {
    /// Begins to measure what is appended after `last`.
    pub(super) fn new(followers: impl Iterator<Item = NodeId>, last: Index) -> Self {
        let histogram = |max| Histogram::new_with_bounds(1, max, 3).expect("the bounds are in order");
        let lag = || FollowerLag {
            acknowledged: last,
            micros: histogram(LAG_US_MAX),
            entries: histogram(ENTRIES_MAX),
        };
        Self { batches: VecDeque::new(), followers: followers.map(|node| (node, lag())).collect() }
    }

    /// The entries up to `last` were appended now.
    pub(super) fn appended(&mut self, last: Index, now: Time) {
        if self.followers.is_empty() {
            return;
        }
        if self.batches.len() == BATCHES_MAX {
            self.merge_neighbours();
        }
        self.batches.push_back((last, now));
    }

    /// A follower holds everything up to `durable`; the leader's log ends at `last`.
    pub(super) fn acknowledged(&mut self, node: NodeId, durable: Index, last: Index, now: Time) {
        let Some(follower) = self.followers.get_mut(&node) else { return };
        if durable <= follower.acknowledged {
            return;
        }
        follower.entries.saturating_record(last.saturating_sub(follower.acknowledged));
        let from = self.batches.partition_point(|(last, _)| *last <= follower.acknowledged);
        for (batch_last, appended) in self.batches.range(from..) {
            let through = durable.min(*batch_last);
            let micros = now.saturating_sub(*appended).as_micros().try_into().unwrap_or(LAG_US_MAX);
            follower.micros.saturating_record_n(micros, through - follower.acknowledged);
            follower.acknowledged = through;
            if through == durable {
                break;
            }
        }
        follower.acknowledged = durable;
        self.forget();
    }

    /// The histograms of a follower, serialised: microseconds, and entries behind.
    pub(super) fn serialised(&self, node: NodeId) -> (Vec<u8>, Vec<u8>) {
        let bytes = |histogram: &Histogram<u64>| {
            let mut bytes = Vec::new();
            V2Serializer::new().serialize(histogram, &mut bytes).expect("a Vec takes every byte");
            bytes
        };
        self.followers.get(&node).map(|lag| (bytes(&lag.micros), bytes(&lag.entries))).unwrap_or_default()
    }

    fn forget(&mut self) {
        let all = self.followers.values().map(|follower| follower.acknowledged).min().unwrap_or(Index::MAX);
        while self.batches.front().is_some_and(|(last, _)| *last <= all) {
            self.batches.pop_front();
        }
    }

    fn merge_neighbours(&mut self) {
        let batches = std::mem::take(&mut self.batches);
        let mut batches = batches.into_iter();
        while let Some((last, appended)) = batches.next() {
            let last = batches.next().map_or(last, |(later, _)| later);
            self.batches.push_back((last, appended));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u8) -> NodeId {
        NodeId::try_from(id).unwrap()
    }

    fn ms(millis: u64) -> Time {
        Time::from_millis(millis)
    }

    #[test]
    fn every_entry_counts_once_with_its_own_lag() {
        let mut lag = Lag::new([node(2), node(3)].into_iter(), 10);
        lag.appended(12, ms(0));
        lag.appended(15, ms(5));
        lag.acknowledged(node(2), 11, 15, ms(10));
        lag.acknowledged(node(2), 11, 15, ms(11));
        lag.acknowledged(node(2), 15, 15, ms(20));
        let micros = &lag.followers[&node(2)].micros;
        assert_eq!(micros.len(), 5);
        assert_eq!(micros.count_between(10_000, 10_009), 1);
        assert_eq!(micros.count_between(15_000, 15_009), 3);
        assert_eq!(lag.followers[&node(2)].entries.max(), 5);
        assert_eq!(lag.followers[&node(3)].micros.len(), 0);
        assert_eq!(lag.batches.len(), 2, "node 3 has acknowledged nothing");
        lag.acknowledged(node(3), 15, 15, ms(30));
        assert!(lag.batches.is_empty());
    }

    #[test]
    fn a_follower_that_is_far_behind_costs_bounded_memory_and_loses_no_entry() {
        let mut lag = Lag::new([node(2)].into_iter(), 0);
        let entries = 3 * BATCHES_MAX as u64;
        for index in 1..=entries {
            lag.appended(index, ms(index));
        }
        assert!(lag.batches.len() <= BATCHES_MAX);
        lag.acknowledged(node(2), entries, entries, ms(entries));
        assert_eq!(lag.followers[&node(2)].micros.len(), entries);
    }
}
