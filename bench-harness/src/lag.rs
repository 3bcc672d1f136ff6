//! Replication lag of one measured window, from what the leader says of its followers.
//!
//! The leader keeps, since it started, a histogram per follower of the time from an entry's append to that
//! follower's acknowledgement, on its own clock. Two of its states, one at each end of the window, give the
//! window's own histogram by subtraction. A leader that has restarted in between counts from zero: then the
//! later state alone is what is known.

use std::io::Cursor;

use anyhow::Context;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use quorate_client::NodeStatus;

use crate::report::{Distribution, Follower};

/// The lag of every follower between two states of the leader, asked for with histograms.
pub fn between(begin: &NodeStatus, end: &NodeStatus) -> anyhow::Result<Vec<Follower>> {
    let (begin, end) = (begin.view(), end.view());
    end.followers
        .iter()
        .map(|after| {
            let before = begin.followers.iter().find(|follower| follower.node == after.node);
            let times = window(before.map_or(&[], |follower| follower.lag_us), after.lag_us)
                .with_context(|| format!("the lag of node {} as the leader tells it", after.node))?;
            let entries = window(before.map_or(&[], |follower| follower.lag_entries), after.lag_entries)
                .with_context(|| {
                    format!("the entries behind of node {} as the leader tells them", after.node)
                })?;
            // Who acknowledges nothing leaves no trace in a histogram, and may be furthest behind.
            let lag_entries_max = entries.max().max(after.entries_behind);
            Ok(Follower {
                node: after.node.get(),
                lag_us: (!times.is_empty()).then(|| Distribution::of(&times)),
                stages: None,
                entries_behind_max: lag_entries_max,
                bytes_behind_max: 0,
                visible_us: None,
                probes_failed: 0,
                samples: Vec::new(),
            })
        })
        .collect()
}

/// What was recorded between two states of one histogram, each in HDR's V2 serialisation or empty.
fn window(before: &[u8], after: &[u8]) -> anyhow::Result<Histogram<u64>> {
    let (before, mut after) = (read(before)?, read(after)?);
    // A difference that is not possible means that counting began anew.
    let unchanged = after.clone();
    if after.subtract(&before).is_err() {
        after = unchanged;
    }
    Ok(after)
}

fn read(serialised: &[u8]) -> anyhow::Result<Histogram<u64>> {
    match serialised {
        [] => Histogram::new(3).context("no histogram can be made"),
        _ => Deserializer::new()
            .deserialize(&mut Cursor::new(serialised))
            .map_err(|error| anyhow::anyhow!("not an HDR histogram: {error:?}")),
    }
}

#[cfg(test)]
mod tests {
    use hdrhistogram::serialization::{Serializer, V2Serializer};

    use super::*;

    fn serialised(values: impl IntoIterator<Item = u64>) -> Vec<u8> {
        let mut histogram = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3).unwrap();
        values.into_iter().for_each(|value| histogram.record(value).unwrap());
        let mut bytes = Vec::new();
        V2Serializer::new().serialize(&histogram, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn what_came_before_the_window_is_not_in_it() {
        let before = serialised([50_000_000]);
        let after = serialised([50_000_000].into_iter().chain(1..=1000));
        let window = window(&before, &after).unwrap();
        assert_eq!((window.len(), window.value_at_quantile(0.5), window.max()), (1000, 500, 1000));
    }

    #[test]
    fn an_idle_window_has_no_lag() {
        let state = serialised([50_000_000]);
        let window = window(&state, &state).unwrap();
        assert_eq!(window.len(), 0);
        assert!(super::window(&[], &[]).unwrap().is_empty());
    }

    #[test]
    fn after_a_restart_of_the_leader_the_later_state_counts() {
        let window = window(&serialised([7, 7, 9]), &serialised([7, 100])).unwrap();
        assert_eq!((window.len(), window.max()), (2, 100));
    }

    #[test]
    fn bytes_that_are_no_histogram_are_an_error() {
        let error = window(&[], b"hello").unwrap_err().to_string();
        assert!(error.starts_with("not an HDR histogram"), "{error}");
    }
}
