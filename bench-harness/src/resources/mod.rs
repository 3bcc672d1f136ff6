//! What the processes of a run, and the machine around them, used between two moments.
//!
//! Two [`Snapshot`]s, one at each end of the measured window, give [`Resources`] by subtraction: each node's
//! [`Usage`], the harness's own, the machine's, and so what others used meanwhile, which is the first thing
//! to look at when two equal runs differ.
//!
//! All of it is read from `/proc`. What that does not tell is null; no number is NaN or infinite. A snapshot
//! reads a few files for each process and thread: take one at the ends of a window, not in between.

mod machine;
mod process;

use std::fs;

use serde::{Deserialize, Serialize};

pub use machine::{MachineSample, MachineUsage, Pressure};
pub use process::{Sample, Usage};

/// The counters of all that takes part in a run, at one moment.
#[derive(Clone, Debug)]
pub struct Snapshot {
    machine: Option<MachineSample>,
    harness: Option<Sample>,
    nodes: Vec<(u8, Sample)>,
}

/// What was used between two moments.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Resources {
    /// By the harness, whose load generator is part of it.
    pub harness: Option<Usage>,
    /// By each node that ran at the end.
    pub nodes: Vec<NodeUsage>,
    /// By everybody.
    pub machine: Option<MachineUsage>,
    /// By others than the harness and these nodes, as a share of the time of all processors, from 0 to 1. A
    /// node that ended before the window did is among the others, and so is the kernel's work for nobody in
    /// particular. Good to about two hundredths, as the kernel counts machine and processes differently.
    pub others_share: Option<f64>,
}

/// What one node used.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct NodeUsage {
    /// The node.
    pub node: u8,
    /// What it used; of a node that was started within the window, since then.
    pub usage: Usage,
}

impl Snapshot {
    /// Reads all counters: of this process, and of the nodes by their process ids. A node that has ended is
    /// left out.
    pub fn take(nodes: impl IntoIterator<Item = (u8, u32)>) -> Self {
        Self {
            machine: MachineSample::take(),
            harness: Sample::of(std::process::id()),
            nodes: nodes.into_iter().filter_map(|(node, id)| Some((node, Sample::of(id)?))).collect(),
        }
    }

    fn node(&self, node: u8) -> Option<&Sample> {
        self.nodes.iter().find(|(id, _)| *id == node).map(|(_, sample)| sample)
    }
}

impl Resources {
    /// What was used from `begin` to `end`.
    pub fn between(begin: &Snapshot, end: &Snapshot) -> Self {
        let harness = begin.harness.as_ref().zip(end.harness.as_ref());
        let harness = harness.map(|(begin, end)| Usage::between(begin, end));
        let nodes: Vec<_> =
            end.nodes.iter().map(|(node, end)| NodeUsage::at_end(*node, begin, end)).collect();
        let machine = begin.machine.as_ref().zip(end.machine.as_ref());
        let machine = machine.map(|(begin, end)| MachineUsage::between(begin, end));
        let others_share = machine.as_ref().zip(harness.as_ref()).map(|(machine, harness)| {
            let nodes_cpu_s: f64 = nodes.iter().map(|node| node.usage.cpu_s()).sum();
            machine.share_beside(harness.cpu_s() + nodes_cpu_s)
        });
        Self { harness, nodes, machine, others_share }
    }
}

impl NodeUsage {
    fn at_end(node: u8, begin: &Snapshot, end: &Sample) -> Self {
        let usage = match begin.node(node) {
            Some(begin) => Usage::between(begin, end),
            None => Usage::since_start(end),
        };
        Self { node, usage }
    }
}

/// A file of the system; none if there is none, or it is not ours to read.
fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// Rounds a share of the whole to four digits, and makes 0 of what is no number.
fn share(part: f64, whole: f64) -> f64 {
    let share = part / whole;
    if share.is_finite() { (share * 1e4).round() / 1e4 } else { 0.0 }
}

/// Seconds, from the clock ticks in which the kernel counts time.
fn seconds(ticks: u64) -> f64 {
    ticks as f64 / rustix::param::clock_ticks_per_second().max(1) as f64
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn a_busy_window_shows_in_the_harness_and_in_the_machine() {
        let own = std::process::id();
        let begin = Snapshot::take([(1, own)]);
        process::tests::be_busy_until_counted();
        let resources = Resources::between(&begin, &Snapshot::take([(1, own)]));
        assert!(resources.harness.as_ref().unwrap().cpu_s() > 0.0, "{resources:?}");
        assert_eq!((resources.nodes.len(), resources.nodes[0].node), (1, 1));
        let machine = resources.machine.as_ref().unwrap();
        assert!(machine.cores > 0 && machine.core_s > 0.0, "{machine:?}");
        assert!((0.0..=1.0).contains(&resources.others_share.unwrap()), "{resources:?}");
        let json = serde_json::to_string(&resources).unwrap();
        assert_eq!(serde_json::from_str::<Resources>(&json).unwrap(), resources);
    }

    #[test]
    fn a_node_that_has_ended_is_left_out() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let begin = Snapshot::take([(2, child.id())]);
        assert!(begin.node(2).is_some(), "it ran");
        child.kill().unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        while Sample::of(child.id()).is_some() {
            assert!(Instant::now() < deadline, "a killed process does not end");
        }
        let unreaped = Snapshot::take([(2, child.id())]);
        child.wait().unwrap();
        let gone = Snapshot::take([(2, child.id())]);
        assert!(Resources::between(&begin, &unreaped).nodes.is_empty());
        assert!(Resources::between(&begin, &gone).nodes.is_empty());
    }

    #[test]
    fn a_node_that_was_started_within_the_window_counts_from_its_start() {
        let begin = Snapshot::take([]);
        let end = Snapshot::take([(3, std::process::id())]);
        let whole = Usage::since_start(end.node(3).unwrap());
        assert_eq!(Resources::between(&begin, &end).nodes, [NodeUsage { node: 3, usage: whole }]);
    }

    #[test]
    fn shares_are_numbers() {
        assert_eq!(
            [(1.0, 3.0), (0.0, 0.0), (1.0, 0.0)].map(|(part, whole)| share(part, whole)),
            [0.3333, 0.0, 0.0]
        );
    }
}
