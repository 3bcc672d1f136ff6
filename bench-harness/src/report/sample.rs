//! A report as a run makes it, for the tests of everybody who reads one: three quorums, two followers, every
//! field filled in.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::*;
use crate::environment::{Environment, FsyncProbe};
use crate::floor::Floor;
use crate::plan::tests::case;
use crate::plan::{Arrivals, Plan};
use crate::resources::{MachineUsage, Usage};
use crate::verify::Verified;

/// Numbers around a median, in the unit of the histogram.
pub(crate) fn spread(median: u64, count: u64) -> Histogram<u64> {
    let mut histogram = Histogram::new(3).unwrap();
    let mut random = fastrand::Rng::with_seed(median);
    for _ in 0..count {
        let tail = 1.0 / (1.0 - random.f64()).powf(0.4);
        histogram.record((median as f64 * tail * 0.76) as u64).unwrap();
    }
    histogram
}

/// Nothing measured yet.
pub(crate) fn report() -> Report {
    Report::new(environment(), Plan::new(1, (1..=3).map(case).collect()))
}

/// One run of each quorum.
pub(crate) fn whole() -> Report {
    let mut report = report();
    report.runs = (1..=3).map(run).collect();
    report.close(Ok(()));
    report
}

fn environment() -> Environment {
    Environment {
        version: "0.1.0".to_owned(),
        profile: "release".to_owned(),
        time: "2026-11-22T17:02:57Z".to_owned(),
        os: "Linux".to_owned(),
        kernel: "6.1.0".to_owned(),
        cpu: "Fast CPU".to_owned(),
        cores: 2,
        memory_bytes: 8 << 30,
        data_dir: "/data".to_owned(),
        file_system: "ext4".to_owned(),
        fsync: FsyncProbe { syncs: 200, p50_us: 120, p99_us: 800 },
    }
}

/// A run of quorum n of 3.
pub(crate) fn run(quorum: u8) -> Run {
    let case = case(quorum);
    let seconds = case.load.duration.as_secs();
    let median_ns = 1_000_000 + u64::from(quorum) * 150_000;
    let follower = |node: u8| Follower {
        node,
        lag_us: Some(Distribution::of(&spread(700 + u64::from(node) * 10, 5_000))),
        stages: Some(Stages {
            queue_us: Distribution::of(&spread(40, 5_000)),
            network_us: Distribution::of(&spread(160, 5_000)),
            disk_us: Distribution::of(&spread(500, 5_000)),
            sync_us: Distribution::of(&spread(220, 5_000)),
            apply_us: Distribution::of(&spread(300, 5_000)),
        }),
        entries_behind_max: 512,
        bytes_behind_max: 512 * 160,
        visible_us: Some(Distribution::of_ns(&spread(900_000, 100))),
        probes_failed: 0,
        samples: (0..seconds * 10)
            .map(|tenth| LagSample {
                t_s: tenth as f64 / 10.0,
                entries: 60 + tenth * 7 % 40,
                bytes: 160 * (60 + tenth * 7 % 40),
                lag_us: 600 + tenth * 31 % 300,
            })
            .collect(),
    };
    let node = |node: u8| Node {
        node,
        leader: node == 1,
        usage: Some(usage(if node == 1 { 5.2 } else { 2.9 })),
        cpu_us_per_write: Some(12.5),
        disk_bytes_per_write: Some(212.0),
        log: Some(LogUsage {
            syncs: 20_000,
            entries: 400_000,
            bytes: 60_000_000,
            busy: 0.62,
            batch_entries: Distribution::of(&spread(20, 2_000)),
            sync_us: Distribution::of(&spread(220, 2_000)),
        }),
    };
    Run {
        case_number: usize::from(quorum) - 1,
        repeat: 1,
        began_unix_ms: 1_795_366_977_000,
        duration_s: seconds as f64,
        interrupted: false,
        writes: calls(median_ns),
        reads: None,
        generator: generator(&case.load.arrivals),
        seconds: (0..seconds)
            .map(|second| Second {
                writes: 39_000 + second * 211 % 1_000,
                p50_us: median_ns / 1_000,
                p99_us: median_ns / 300,
                max_us: median_ns / 100,
                ..Second::default()
            })
            .collect(),
        followers: vec![follower(2), follower(3)],
        nodes: (1..=3).map(node).collect(),
        harness: usage(3.1),
        machine: MachineUsage { busy: 0.93, ..MachineUsage::default() },
        events: Vec::new(),
        catch_ups: Vec::new(),
        floor: Some(Floor {
            latency_us: 170,
            parts: vec![("client to leader and back".to_owned(), 50), ("the leader's sync".to_owned(), 120)],
        }),
        peer: None,
        verified: Some(Verified { keys: 99_512, ..Verified::default() }),
        failover: None,
        receipts: None,
        case,
    }
}

fn usage(cpu_s: f64) -> Usage {
    Usage { cpu_s, rss_bytes: 120 << 20, written_bytes: 90 << 20, ..Usage::default() }
}

fn calls(median_ns: u64) -> Calls {
    let latency = spread(median_ns, 20_000);
    Calls {
        acknowledged: 390_000,
        refused: 0,
        unknown: 0,
        reasons: Default::default(),
        per_second: 39_000.0,
        latency_us: Distribution::of_ns(&latency),
        service_us: Distribution::of_ns(&latency),
    }
}

fn generator(_: &Arrivals) -> Generator {
    Generator {
        scheduled: 390_000,
        issued: 390_000,
        schedule_lag_us: Distribution::default(),
        waited_for_slot: 0,
        late: 0,
        fell_behind: false,
    }
}

/// The same run with a follower that stood still from 2.5 s to 5 s, and caught up.
pub(crate) fn run_with_a_pause() -> Run {
    let mut run = run(2);
    run.events =
        vec![Event { t_s: 2.5, what: "pause 3".to_owned() }, Event { t_s: 5.0, what: "resume 3".to_owned() }];
    for sample in run.followers[1].samples.iter_mut().filter(|sample| (2.5..5.4).contains(&sample.t_s)) {
        let since = Duration::from_secs_f64(sample.t_s - 2.5);
        sample.entries += (since.as_secs_f64() * 39_000.0) as u64;
        sample.lag_us += since.as_micros() as u64;
        sample.bytes = sample.entries * 160;
    }
    run.catch_ups =
        vec![CatchUp { node: 3, t_s: 5.0, entries: 97_500, bytes: 97_500 * 160, drained_s: Some(0.4) }];
    run
}
