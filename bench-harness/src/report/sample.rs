//! A report as a run makes it, for the tests of everybody who reads one: three quorums, two followers, every
//! field filled in.

use std::time::Duration;

use hdrhistogram::Histogram;

use super::*;
use crate::environment::tests::environment;
use crate::floor::{Floor, FloorPart};
use crate::peers::{PeerDescription, PeerKind};
use crate::plan::tests::case;
use crate::plan::{Arrivals, Plan, Spacing, System};
use crate::resources::{MachineUsage, Pressure, Usage};
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
        harness: Some(usage(3.1)),
        machine: Some(machine()),
        others_share: Some(0.02),
        events: Vec::new(),
        catch_ups: Vec::new(),
        floor: Some(Floor {
            latency_us: 170,
            parts: [("client to leader and back", 50), ("the leader's sync", 120)]
                .map(|(name, us)| FloorPart { name: name.to_owned(), us })
                .into(),
        }),
        peer: None,
        verified: Some(Verified { keys: 99_512, ..Verified::default() }),
        leaders: Vec::new(),
        receipts: None,
        case,
    }
}

fn usage(cpu_s: f64) -> Usage {
    Usage {
        cpu_user_s: cpu_s * 0.6,
        cpu_system_s: cpu_s * 0.4,
        rss_bytes: 120 << 20,
        rss_peak_bytes: 130 << 20,
        storage_write_bytes: Some(90 << 20),
        write_call_bytes: Some(88 << 20),
        switches_voluntary: 40_000,
        switches_involuntary: 900,
        threads: 4,
    }
}

fn machine() -> MachineUsage {
    MachineUsage {
        cores: 2,
        core_s: 20.0,
        busy_share: 0.93,
        iowait_share: 0.02,
        steal_share: 0.01,
        load_1m: Some(2.4),
        pressure: Some(Pressure { cpu_some_share: 0.4, io_some_share: 0.2, io_full_share: 0.05 }),
    }
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

/// What a long evening makes: five quorums of five, each measured three times while a follower stood still, with
/// some reads, at a given rate; and another system beside them.
pub(crate) fn large() -> Report {
    let mut report = report();
    for quorum in 1..=5 {
        report.runs.extend((1..=3).map(|repeat| run_of_five(quorum, repeat)));
    }
    report.runs.push(peer_run());
    report.plan = Plan::new(7, Vec::new());
    report.plan.repeats = 3;
    report.plan.cases =
        report.runs.iter().filter(|run| run.repeat == 1).map(|run| run.case.clone()).collect();
    report.close(Ok(()));
    report
}

fn run_of_five(quorum: u8, repeat: u32) -> Run {
    let mut run = run_with_a_pause();
    let number = u64::from(quorum) * 7 + u64::from(repeat);
    let slower = 1.0 + f64::from(quorum) * 0.21;
    (run.case_number, run.repeat, run.case.quorum, run.case.replicas) =
        (usize::from(quorum) - 1, repeat, quorum, 5);
    run.case.load.arrivals = Arrivals::Open { per_second: 25_000.0, spacing: Spacing::Poisson };
    run.case.load.reads = 0.2;
    run.case.faults = run
        .events
        .iter()
        .map(|event| format!("{}ms {}", event.t_s * 1_000.0, event.what))
        .map(|fault| fault.parse().unwrap())
        .collect();
    for node in [4, 5] {
        let mut follower = run.followers[0].clone();
        follower.node = node;
        follower.samples.iter_mut().for_each(|sample| sample.lag_us += u64::from(node) * 40);
        run.followers.push(follower);
        run.nodes.push(Node { node, ..run.nodes[1].clone() });
    }
    run.writes = calls((900_000.0 * slower) as u64 + number * 1_000);
    run.writes.service_us = Distribution::of_ns(&spread((700_000.0 * slower) as u64, 20_000));
    run.writes.per_second = 19_900.0 + (number * 37 % 100) as f64;
    run.reads = Some(Calls { per_second: 5_000.0, ..calls(300_000 + number * 1_000) });
    for (position, second) in run.seconds.iter_mut().enumerate() {
        second.writes = 19_900 + (number * 31 + position as u64 * 77) % 200;
        second.p50_us = (900.0 * slower) as u64 + (number * 13 + position as u64 * 29) % 90;
        let stalled = quorum == 5 && (2..5).contains(&position);
        second.p99_us = second.p50_us * if stalled { 900 } else { 4 };
    }
    run
}

fn peer_run() -> Run {
    let mut run = run(2);
    (run.case_number, run.case.system, run.case.quorum, run.case.replicas) =
        (5, System::Peer(PeerKind::Redis), 3, 5);
    run.case.load.arrivals = Arrivals::Open { per_second: 25_000.0, spacing: Spacing::Poisson };
    run.writes = calls(2_700_000);
    run.writes.per_second = 17_310.0;
    run.generator.fell_behind = true;
    (run.followers, run.verified, run.floor) = (Vec::new(), None, None);
    run.nodes.iter_mut().for_each(|node| node.log = None);
    run.peer = Some(PeerDescription {
        name: "Redis".to_owned(),
        version: "7.0.15".to_owned(),
        acknowledgement: "A write is acknowledged when WAITAOF says that 2 replicas have synced it."
            .to_owned(),
        settings: vec!["appendonly yes".to_owned(), "appendfsync always".to_owned()],
        servers: 5,
    });
    run
}
