//! Every call to the disk failing, the k-th of its kind, once or from then on (T6).
//!
//! A node over such a disk goes on, or stops; whatever it does, what it has acknowledged must be there afterwards,
//! whatever of the rest a loss of power keeps. That it acknowledges only what its log has said to be durable is
//! checked by the [`script`](super::script) all the time, so nothing is acknowledged after a failed sync.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::disk::simulated::{Call, Failure, Fault, Images, Kept, SimDisk};
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
    // The process may also just be started again: on pages that a failed sync has left clean, never to be written.
    let mut left = vec![disk.images()];
    left.extend(
        [Kept::Nothing, Kept::Everything, Kept::Random(fault.number)].map(|kept| disk.images().crashed(kept)),
    );
    for (how, images) in left.into_iter().enumerate() {
        let disk = SimDisk::with(images);
        let found = recover(&disk, shape);
        let judged = found
            .map_err(|error| format!("refused: {error}"))
            .and_then(|found| history.judge(history.expectation(), &found).map(|()| found));
        let found = judged.unwrap_or_else(|what| panic!("{shape:?}, {fault:?}, {end:?}, {how}: {what}"));
        // And what was found has been made durable (R18).
        let again = recover(&SimDisk::with(disk.images().crashed(Kept::Nothing)), shape);
        let again =
            again.unwrap_or_else(|error| panic!("{shape:?}, {fault:?}, {end:?}, {how}: then {error}"));
        assert!(found.is_same(&again), "{shape:?}, {fault:?}, {end:?}, {how}: not durable once found");
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
        // Whatever the reason: a sync that found no room has failed like any other.
        for failure in [Failure::Broken, Failure::Full, Failure::ReadOnly, Failure::NoDescriptor] {
            for number in [20, 57, 101] {
                let fault = Fault { call: Call::Sync, number, failure, for_ever: false };
                assert_eq!(run(shape, fault).end, End::Stopped, "{fault:?}");
            }
        }
    }
}

#[test]
fn a_recovery_whose_calls_fail_loses_nothing() {
    let mut runs = 0;
    for shape in [FOLLOWER, ALONE] {
        let disk = SimDisk::default();
        let (mut node, _) = SimNode::open(&disk, shape, History::new()).unwrap();
        steps(&mut Script::new(shape, 6), &mut node).unwrap();
        let history = node.into_history();
        for killed in [disk.images(), disk.images().crashed(Kept::Random(3))] {
            for call in Call::ALL {
                for number in (1..60).step_by(if is_exhaustive() { 1 } else { 7 }) {
                    for failure in Failure::ALL {
                        runs += u64::from(fail_recovery(&history, shape, &killed, call, number, failure));
                    }
                }
            }
        }
    }
    println!("{runs} recoveries with a failing call: 0 lost, 0 invented");
    assert!(runs > 100);
}

/// Recovers with a fault, loses power, and recovers without. Returns whether the fault has happened.
fn fail_recovery(
    history: &History,
    shape: Shape,
    images: &Images,
    call: Call,
    number: u64,
    failure: Failure,
) -> bool {
    let disk = SimDisk::with(images.clone());
    disk.fail(Some(Fault { call, number, failure, for_ever: false }));
    let first = recover(&disk, shape);
    let has_failed = disk.faults_met() > 0;
    disk.fail(None);
    for kept in [Kept::Nothing, Kept::Everything, Kept::Random(number)] {
        let found = recover(&SimDisk::with(disk.images().crashed(kept)), shape)
            .unwrap_or_else(|error| panic!("{call:?} {number} {failure:?}, {kept:?}: refused: {error}"));
        let judged = history.judge(history.expectation(), &found);
        assert_eq!(judged, Ok(()), "{call:?} {number} {failure:?}, {kept:?}");
        if let Ok(first) = &first {
            assert!(first.is_same(&found), "{call:?} {number} {failure:?}, {kept:?}: not durable once found");
        }
    }
    has_failed
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
