//! Real server processes under a nemesis: SIGKILL, SIGSTOP, links cut and slowed one way and both, disks that hang.
//!
//! - Everything that clients were told is linearizable (`checker.rs`), whatever happened.
//! - While a fault leaves a quorum, writes succeed; after all faults, too.
//! - In the end all nodes hold the same.
//!
//! The test command does so for half a minute. For a million calls, and in other ways:
//!
//! ```sh
//! QUORATE_NEMESIS_OPS=1000000 cargo test -p bench-harness --test nemesis linearizable -- --nocapture
//! QUORATE_NEMESIS_SECONDS=600 QUORATE_NEMESIS_SEED=7 cargo test -p bench-harness --test nemesis linearizable
//! ```
//!
//! The seed decides what is done; when processes run is up to the machine, so a seed does not repeat a run exactly.
//! When a test fails, data and logs of the nodes stay.

mod checker;
#[cfg(test)]
mod checker_tests;
mod clients;
mod counters;
mod failovers;
mod faults;
mod gray;
mod history;
mod partitions;
mod scene;
#[path = "../support/mod.rs"]
mod support;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use checker::Summary;
use clients::{CALL, Load};
use faults::{Nemesis, Tally};
use quorate_protocol::Quorums;
use scene::{Scene, Setup};

/// Of all clusters together, unless `QUORATE_NEMESIS_SECONDS` says otherwise.
const SECONDS: u64 = 20;

/// From so many answered calls on, every kind of fault must have been among them.
const CALLS_LONG: u64 = 1_000_000;

/// m and n.
const CLUSTERS: [(u8, u8); 5] = [(3, 2), (3, 1), (3, 3), (5, 3), (4, 3)];

/// Of entries between two checkpoints, unless `QUORATE_NEMESIS_CHECKPOINT_MIB` says otherwise.
const CHECKPOINT_MIB: u64 = 1;

/// Real processes need the machine for themselves: these tests run one after the other.
static MACHINE: Mutex<()> = Mutex::new(());

fn machine() -> MutexGuard<'static, ()> {
    MACHINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A number from the environment.
fn setting(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

fn seed() -> u64 {
    setting("QUORATE_NEMESIS_SEED").unwrap_or(2026)
}

/// Has the nemesis at one cluster, for a time and until so many calls were answered.
fn torment((replicas, quorum): (u8, u8), seed: u64, time: Duration, calls: u64) -> (Summary, Tally) {
    let load = Load {
        connections: 8,
        callers: 4,
        keys: 12,
        pause: Duration::ZERO,
        deadline: CALL,
        patient: true,
        seed,
    };
    let checkpoint_mib = setting("QUORATE_NEMESIS_CHECKPOINT_MIB").unwrap_or(CHECKPOINT_MIB);
    println!("{replicas} replicas, n = {quorum}, seed {seed}:");
    let mut scene =
        Scene::start(Setup { quorums: Quorums::new(replicas, quorum).unwrap(), load, checkpoint_mib });
    let began = Instant::now();
    let mut nemesis = Nemesis::new(seed);
    while began.elapsed() < time || scene.recorder.acknowledged() < calls {
        nemesis.round(&mut scene);
    }
    println!("    {}", nemesis.tally);
    let summary = scene.finish();
    println!("    {:.0?}", began.elapsed());
    (summary, nemesis.tally)
}

#[test]
fn real_processes_are_linearizable_under_a_nemesis_and_go_on_while_there_is_a_quorum() {
    let _machine = machine();
    let calls = setting("QUORATE_NEMESIS_OPS").unwrap_or(0).div_ceil(CLUSTERS.len() as u64);
    let seconds = setting("QUORATE_NEMESIS_SECONDS").unwrap_or(SECONDS);
    let time = Duration::from_secs(seconds) / CLUSTERS.len() as u32;
    let (mut summary, mut tally) = (Summary::default(), Tally::default());
    for (place, cluster) in CLUSTERS.into_iter().enumerate() {
        let (new, faults) = torment(cluster, seed() + place as u64, time, calls);
        summary += new;
        tally += faults;
    }
    println!("all: {tally}; {summary:?}");
    if summary.answered >= CALLS_LONG {
        assert!(tally.missing().is_empty(), "there was never {}", tally.missing().join(", "));
    }
}
