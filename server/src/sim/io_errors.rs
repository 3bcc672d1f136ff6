//! Every call to the disk failing, the k-th of its kind, once or from then on (T6).
//!
//! A node over such a disk goes on, or stops; whatever it does, what it has acknowledged must be there afterwards,
//! whatever of the rest a loss of power keeps. That it acknowledges only what its log has said to be durable is
//! checked by the [`script`](super::script) all the time, so nothing is acknowledged after a failed sync.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::disk::simulated::{Call, Failure, Fault, Kept, SimDisk};
use crate::node::NodeError;

use super::crash_points::{ALONE, FOLLOWER};
use super::history::History;
use super::is_exhaustive;
use super::node::{Shape, SimNode, recover};
use super::script::Script;

/// Calls of each kind that are failed.
const NUMBER_MAX: u64 = 500;

/// What became of a node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum End {
    /// The directory was refused, and is fine.
    Refused,
    /// It stopped.
    Stopped,
    /// It waits for room.
    Waits,
    /// It went on.
    WentOn,
}

struct Run {
    end: End,
    faults: u64,
}

fn steps(script: &mut Script, node: &mut SimNode) -> Result<(), NodeError> {
    script.begin(node)?;
    for _ in 0..300 {
        script.step(node)?;
    }
    script.settle(node)
}

/// Runs a node on a disk with a fault, and then loses power.
fn run(shape: Shape, fault: Fault) -> Run {
    let disk = SimDisk::default();
    disk.fail(Some(fault));
    let Ok((mut node, _)) = SimNode::open(&disk, shape, History::new()) else {
        let faults = disk.faults_met();
        disk.fail(None);
        let disk = SimDisk::with(disk.images().crashed(Kept::Nothing));
        SimNode::open(&disk, shape, History::new()).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
        return Run { end: End::Refused, faults };
    };
    let mut script = Script::new(shape, 4);
    let ended = steps(&mut script, &mut node);
    let faults = disk.faults_met();
    disk.fail(None);
    let end = match ended {
        Err(_) => End::Stopped,
        Ok(()) if node.is_blocked() => End::Waits,
        Ok(()) => End::WentOn,
    };
    if end == End::Waits {
        goes_on_by_itself(&mut script, &mut node).unwrap_or_else(|error| panic!("{fault:?}: {error}"));
    }
    let history = node.into_history();
    for kept in [Kept::Nothing, Kept::Everything, Kept::Random(fault.number)] {
        let found = recover(&SimDisk::with(disk.images().crashed(kept)), shape);
        let judged = found
            .map_err(|error| format!("refused: {error}"))
            .and_then(|found| history.judge(history.expectation(), &found));
        assert_eq!(judged, Ok(()), "{shape:?}, {fault:?}, {end:?}, {kept:?}");
    }
    Run { end, faults }
}

/// There is room again, and nobody does anything about the node.
fn goes_on_by_itself(script: &mut Script, node: &mut SimNode) -> Result<(), NodeError> {
    let before = script.acknowledged();
    script.settle(node)?;
    node.advance(Duration::from_millis(60))?;
    for _ in 0..40 {
        script.step(node)?;
    }
    script.settle(node)?;
    assert!(!node.is_blocked() && script.acknowledged() > before, "it does not go on");
    Ok(())
}

/// How many calls of each kind there are without a fault.
fn calls(shape: Shape) -> BTreeMap<Call, u64> {
    let disk = SimDisk::default();
    let (mut node, _) = SimNode::open(&disk, shape, History::new()).unwrap();
    steps(&mut Script::new(shape, 4), &mut node).unwrap();
    Call::ALL.map(|call| (call, disk.calls(call))).into()
}

#[test]
fn whichever_call_to_the_disk_fails_nothing_acknowledged_is_lost() {
    let mut runs = 0u64;
    let mut ends: BTreeMap<(Failure, End), u64> = BTreeMap::new();
    for shape in [FOLLOWER, ALONE] {
        for (call, count) in calls(shape) {
            let numbers = 1..=count.min(NUMBER_MAX);
            let stride = if is_exhaustive() { 1 } else { (count.min(NUMBER_MAX) / 5).max(1) as usize };
            for number in numbers.step_by(stride) {
                for failure in Failure::ALL {
                    for for_ever in [false, true] {
                        let Run { end, faults } = run(shape, Fault { call, number, failure, for_ever });
                        assert!(faults > 0, "the fault has happened");
                        *ends.entry((failure, end)).or_default() += 1;
                        runs += 1;
                    }
                }
            }
        }
    }
    println!("{runs} runs with a failing call: 0 lost, 0 invented");
    for ((failure, end), count) in &ends {
        println!("{failure:?}: {end:?} {count} times");
    }
    let count = |failure, end| ends.get(&(failure, end)).copied().unwrap_or(0);
    assert!(count(Failure::Broken, End::Stopped) > 0 && count(Failure::ReadOnly, End::Stopped) > 0);
    assert!(count(Failure::Full, End::WentOn) > 0 && count(Failure::Full, End::Waits) > 0);
    assert_eq!(count(Failure::Short, End::Stopped) + count(Failure::Short, End::Waits), 0);
}

#[test]
fn a_node_whose_sync_failed_acknowledges_nothing_more_and_stops() {
    for shape in [FOLLOWER, ALONE] {
        for number in [20, 57, 101] {
            let fault = Fault { call: Call::Sync, number, failure: Failure::Broken, for_ever: false };
            assert_eq!(run(shape, fault).end, End::Stopped, "{fault:?}");
        }
    }
}

#[test]
fn a_node_without_room_waits_and_goes_on_when_there_is_some() {
    for shape in [FOLLOWER, ALONE] {
        let fault = Fault { call: Call::Allocate, number: 1, failure: Failure::Full, for_ever: true };
        assert_eq!(run(shape, fault).end, End::Waits, "{fault:?}");
        let once = Fault { for_ever: false, ..fault };
        assert_eq!(run(shape, once).end, End::WentOn, "{once:?}");
    }
}
