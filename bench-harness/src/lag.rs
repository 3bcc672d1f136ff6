//! Replication lag of one measured window, from what the leader says of its followers; and how each node's log was
//! written, from what it says of itself.
//!
//! Nodes keep histograms since they started, the leader those of lag on its own clock. Two states, one at each end
//! of the window, give the window's own histograms by subtraction. A node that has restarted in between counts
//! from zero: then the later state alone is what is known.

use std::io::Cursor;

use anyhow::Context;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use quorate_client::NodeStatus;
use quorate_protocol::response::{DiskStatus, FollowerStatus};

use crate::report::{Distribution, Follower, LagSample, LogUsage, Stages};
use crate::visible::Visible;

/// The lag of every follower between two states of the leader in one term, asked for with histograms; without the
/// first since it leads.
pub fn between(begin: Option<&NodeStatus>, end: &NodeStatus) -> anyhow::Result<Vec<Follower>> {
    let (begin, end) = (begin.map(NodeStatus::view), end.view());
    let lag = |after: &FollowerStatus<'_>| {
        let before =
            begin.iter().flat_map(|begin| &begin.followers).find(|follower| follower.node == after.node);
        follower(before, after)
            .with_context(|| format!("the lag of node {} as the leader tells it", after.node))
    };
    end.followers.iter().map(lag).collect()
}

fn follower(before: Option<&FollowerStatus<'_>>, after: &FollowerStatus<'_>) -> anyhow::Result<Follower> {
    let of = |histogram: for<'a> fn(&FollowerStatus<'a>) -> &'a [u8]| {
        window(before.map_or(&[], histogram), histogram(after))
    };
    let lag = of(|follower| follower.lag_us)?;
    let entries = of(|follower| follower.lag_entries)?;
    let stages = Stages {
        queue_us: Distribution::of(&of(|follower| follower.queue_us)?),
        network_us: Distribution::of(&of(|follower| follower.network_us)?),
        disk_us: Distribution::of(&of(|follower| follower.disk_us)?),
        sync_us: Distribution::of(&of(|follower| follower.sync_us)?),
        apply_us: Distribution::of(&of(|follower| follower.apply_us)?),
    };
    let is_measured = !lag.is_empty();
    Ok(Follower {
        node: after.node.get(),
        lag_us: is_measured.then(|| Distribution::of(&lag)),
        stages: is_measured.then_some(stages),
        // Who acknowledges nothing leaves no trace in a histogram, and may be furthest behind.
        entries_behind_max: entries.max().max(after.entries_behind),
        bytes_behind_max: after.bytes_behind,
        visible_us: None,
        probes_failed: 0,
        samples: Vec::new(),
    })
}

/// Adds what was seen of a follower while the window lasted.
pub fn add_samples(follower: &mut Follower, samples: &[LagSample], visible: Option<&Visible>) {
    let most = |of: fn(&LagSample) -> u64| samples.iter().map(of).max().unwrap_or(0);
    follower.entries_behind_max = follower.entries_behind_max.max(most(|sample| sample.entries));
    follower.bytes_behind_max = follower.bytes_behind_max.max(most(|sample| sample.bytes));
    follower.samples = samples.to_vec();
    if let Some(visible) = visible {
        follower.visible_us = (!visible.times_ns.is_empty()).then(|| Distribution::of_ns(&visible.times_ns));
        follower.probes_failed = visible.failed;
    }
}

/// How a node's log was written between two of its states, `seconds` apart; the first is missing if it did not
/// answer.
pub fn log_usage(begin: Option<&NodeStatus>, end: &NodeStatus, seconds: f64) -> anyhow::Result<LogUsage> {
    let end = end.view();
    let begin = begin.map(NodeStatus::view).filter(|begin| begin.disk.syncs <= end.disk.syncs);
    let since =
        |of: fn(&DiskStatus<'_>) -> u64| of(&end.disk) - begin.as_ref().map_or(0, |begin| of(&begin.disk));
    let of = |histogram: for<'a> fn(&DiskStatus<'a>) -> &'a [u8]| {
        window(begin.as_ref().map_or(&[], |begin| histogram(&begin.disk)), histogram(&end.disk))
            .with_context(|| format!("the log of node {} as it tells it", end.node))
    };
    let busy = since(|disk| disk.busy_us) as f64 / 1e6 / seconds;
    Ok(LogUsage {
        syncs: since(|disk| disk.syncs),
        entries: since(|disk| disk.entries),
        bytes: since(|disk| disk.bytes),
        busy: if busy.is_finite() { (busy * 1e3).round() / 1e3 } else { 0.0 },
        batch_entries: Distribution::of(&of(|disk| disk.batch_entries)?),
        sync_us: Distribution::of(&of(|disk| disk.sync_us)?),
    })
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
