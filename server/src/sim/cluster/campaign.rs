//! Many seeds, and the tests.
//!
//! ```text
//! QUORATE_SEED=7 cargo test -p quorate-server --lib sim::cluster -- --nocapture           one run, every line of it
//! QUORATE_SIM_SEEDS=10000 QUORATE_SIM_SECONDS=30 \
//!   cargo test --release -p quorate-server --lib sim::cluster::campaign::many -- --nocapture      a campaign
//! QUORATE_SIM_SEEDS=3000 \
//!   cargo test --release -p quorate-server --lib sim::cluster::campaign::many -- --nocapture      T13 and T14
//! ```
//!
//! The last has more than a million writes in sessions, of which more than half are sent again (`SessionWrites`,
//! `SentAgain`), and more than 500,000 reads of sessions, more than half of them from another node than the one before
//! (`SessionReads`, `SessionReadsElsewhere`). What is checked of them is in `clients` and `repeats`.
//!
//! `QUORATE_SIM_FIRST` is the first seed, 0 unless set; `QUORATE_SIM_SECONDS` also counts with `QUORATE_SEED`.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Instant;

use super::plan::Plan;
use super::schedule::{Moment, SECOND};
use super::trace::{Counts, Happened};
use super::{Cluster, Ran};

/// What a plain test run does.
const SEEDS: u64 = 200;
const SECONDS: u64 = 10;

/// Of a run's time so much is left for what comes after the faults.
const HEALING: Moment = 2 * SECOND;

pub(super) fn setting(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

/// Runs a seed; what is wrong comes back with all that is needed to see why.
pub(super) fn run(seed: u64, seconds: u64, prints: bool) -> Result<Ran, String> {
    let plan = Plan::new(seed);
    let mut cluster = Cluster::new(plan, prints);
    let faulty = (seconds * SECOND).saturating_sub(HEALING).max(SECOND);
    catch_unwind(AssertUnwindSafe(|| cluster.run(faulty))).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        let Plan { m, n, leadership, .. } = &cluster.plan;
        format!(
            "seed {seed} (m={m}, n={n}, {leadership}), after {:.6} s: {}\nagain, with every line: \
             QUORATE_SEED={seed} QUORATE_SIM_SECONDS={seconds} cargo test -p quorate-server --lib \
             sim::cluster::campaign::many -- --nocapture\nthe last lines:\n{}\n{}",
            cluster.schedule.now as f64 / 1e9,
            text.unwrap_or_default(),
            cluster.trace,
            cluster.states(),
        )
    })
}

/// What many runs came to.
#[derive(Default)]
struct Sum {
    runs: u64,
    counts: Counts,
    simulated: Moment,
    /// The longest time until all was well again, and in which run.
    slowest_to_heal: (Moment, u64),
    failures: Vec<String>,
}

impl Sum {
    fn add(&mut self, seed: u64, ran: Result<Ran, String>) {
        self.runs += 1;
        match ran {
            Ok(ran) => {
                self.counts.merge(&ran.counts);
                self.simulated += ran.simulated;
                self.slowest_to_heal = self.slowest_to_heal.max((ran.healed_after, seed));
            }
            Err(failure) => self.failures.push(failure),
        }
    }
}

/// Runs seeds on all processors, until one fails.
fn campaign(first: u64, seeds: u64, seconds: u64) -> Sum {
    let sum = Mutex::new(Sum::default());
    let next = AtomicU64::new(first);
    let workers = thread::available_parallelism().map_or(1, |count| count.get());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + seeds {
                        return;
                    }
                    let ran = run(seed, seconds, false);
                    let is_failed = ran.is_err();
                    sum.lock().unwrap().add(seed, ran);
                    if is_failed {
                        return next.store(u64::MAX / 2, Ordering::Relaxed);
                    }
                }
            });
        }
    });
    sum.into_inner().unwrap()
}

#[test]
fn many_clusters_keep_the_rules_whatever_goes_wrong() {
    let seconds = setting("QUORATE_SIM_SECONDS").unwrap_or(SECONDS);
    if let Some(seed) = setting("QUORATE_SEED") {
        let ran = run(seed, seconds, true).unwrap_or_else(|failure| panic!("{failure}"));
        return println!("trace {:016x}\n{}", ran.hash, ran.counts);
    }
    let began = Instant::now();
    let first = setting("QUORATE_SIM_FIRST").unwrap_or(0);
    let sum = campaign(first, setting("QUORATE_SIM_SEEDS").unwrap_or(SEEDS), seconds);
    let took = began.elapsed().as_secs_f64();
    let simulated = sum.simulated as f64 / SECOND as f64;
    println!(
        "{} seeds from {first}, {:.2} simulated hours, {took:.1} s, {:.0} simulated seconds a second; healed within {:.3} s (seed {})\n{}",
        sum.runs,
        simulated / 3600.0,
        simulated / took,
        sum.slowest_to_heal.0 as f64 / SECOND as f64,
        sum.slowest_to_heal.1,
        sum.counts
    );
    if let Some(failure) = sum.failures.first() {
        panic!("{failure}");
    }
    let (writes, again) = (sum.counts.of(Happened::SessionWrites), sum.counts.of(Happened::SentAgain));
    assert!(10 * again >= 3 * writes, "only {again} of {writes} writes of sessions are sent again");
    let never: Vec<_> = Happened::ALL.iter().filter(|what| sum.counts.of(**what) == 0).collect();
    assert!(never.is_empty(), "these never happened: {never:?}");
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in 0..12 {
        let [one, other] =
            [(); 2].map(|()| run(seed, 4, false).unwrap_or_else(|failure| panic!("{failure}")));
        assert_eq!(one.hash, other.hash, "seed {seed}");
        assert!(one.counts.of(Happened::Commits) > 0, "seed {seed}");
    }
}
