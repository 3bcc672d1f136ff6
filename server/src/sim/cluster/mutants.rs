//! Known bugs, each put into every node of a cluster, and found (T2).
//!
//! ```text
//! QUORATE_EXHAUSTIVE=1 cargo test --release -p quorate-server --lib sim::cluster::mutants -- --nocapture
//! ```
//!
//! prints the table: which seed, how soon, by what. `QUORATE_SIM_FIRST` is the first seed that is tried,
//! `QUORATE_SIM_SEEDS` how many. Without `QUORATE_EXHAUSTIVE` only those are tried that are found soon.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::campaign::{run, setting};
use crate::mutant::{Mutant, with};
use crate::sim::is_exhaustive;

/// Seeds within which a mutant is found.
const SEEDS: u64 = 1000;

/// Simulated seconds of a run.
const SECONDS: u64 = 10;

/// Those that take more than a few seconds to be found.
const SLOW: [Mutant; 4] = [
    Mutant::OldTermCommitted,
    Mutant::ReadConfirmedByTooFew,
    Mutant::AckWithoutTerm,
    Mutant::StaleSyncCounted,
];

const MUTANTS: [Mutant; 25] = [
    Mutant::AckBeforeSync,
    Mutant::SegmentNameNotSynced,
    Mutant::CheckpointNameNotSynced,
    Mutant::LogDroppedEarly,
    Mutant::SessionsNotInCheckpoint,
    Mutant::ReplayFromCheckpoint,
    Mutant::VoteNotSynced,
    Mutant::VoteClearedOnLeaderChange,
    Mutant::OldTermCommitted,
    Mutant::ElectionWithoutMajority,
    Mutant::ReadConfirmedByTooFew,
    Mutant::ReadBeforeNoop,
    Mutant::CorruptCountedAsAbsent,
    Mutant::DamageCutAsTorn,
    Mutant::LearnerCounted,
    Mutant::WipedNodeVotes,
    Mutant::DamagedLogForgotten,
    Mutant::AckWithoutTerm,
    Mutant::TailNotWrittenAgain,
    Mutant::FollowerAppliesAboveCommit,
    Mutant::OldTailAcknowledged,
    Mutant::StaleSyncCounted,
    Mutant::CommitWithoutOwnDisk,
    Mutant::TokenIgnored,
    Mutant::DoneAgain,
];

/// How a mutant was found.
struct Find {
    mutant: Mutant,
    /// The seed and what was wrong, if it was found.
    found: Option<(u64, String)>,
    seeds: u64,
    took: Duration,
}

/// Runs seeds with a bug in every node until one fails.
fn cluster_finds(mutant: Mutant, first: u64, seeds: u64) -> Find {
    let began = Instant::now();
    let failed = with(mutant, || {
        (first..first + seeds).find_map(|seed| run(seed, SECONDS, false).err().map(|what| (seed, what)))
    });
    let found = failed.map(|(seed, what)| (seed, what.lines().next().unwrap_or_default().to_owned()));
    let seeds = found.as_ref().map_or(seeds, |(seed, _)| seed - first + 1);
    Find { mutant, found, seeds, took: began.elapsed() }
}

#[test]
fn known_bugs_are_found() {
    let first = setting("QUORATE_SIM_FIRST").unwrap_or(0);
    let seeds = setting("QUORATE_SIM_SEEDS").unwrap_or(SEEDS);
    let tried: Vec<Mutant> =
        MUTANTS.into_iter().filter(|mutant| is_exhaustive() || !SLOW.contains(mutant)).collect();
    let next = AtomicUsize::new(0);
    let finds = Mutex::new(Vec::new());
    let workers = thread::available_parallelism().map_or(1, |count| count.get());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some(mutant) = tried.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let find = cluster_finds(*mutant, first, seeds);
                    finds.lock().unwrap().push(find);
                }
            });
        }
    });
    let mut finds = finds.into_inner().unwrap();
    finds.sort_by_key(|find| MUTANTS.iter().position(|mutant| *mutant == find.mutant));
    for Find { mutant, found, seeds, took } in &finds {
        let what = found.as_ref().map_or("NOT FOUND", |(_, what)| what);
        let mutant = format!("{mutant:?}");
        println!("{mutant:<28} {seeds:>5} seeds {:>7.2} s  {what}", took.as_secs_f32());
    }
    let missed: Vec<_> = finds.iter().filter(|find| find.found.is_none()).map(|find| find.mutant).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}
