//! How long writes stop when the leader goes: real processes with default settings, whose leader is killed, told to stop,
//! or told to hand over.
//!
//! The time is from the signal to the first write that a client has acknowledged in a later term; the client writes one
//! after the other, and tries again whatever it is told. Between two times the cluster is whole again. Criterion has the
//! means; median and 99th percentile are printed in the end.
//!
//! With n=2 of 3 the two that are left elect one of them. With n=3 nothing is acknowledged while a node is away, and with
//! n=1 nobody can follow a leader that is down, so there the killed one is started again at once, and its start is part of
//! the time.

use std::cell::{LazyCell, RefCell};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::cluster::{Cluster, Links, Program, Settings};
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, criterion_group, criterion_main};
use quorate_client::{Client, Durability, NodeStatus, Role};
use quorate_protocol::{Quorums, Term};
use rustix::process::{Pid, Signal, kill_process};
use smol::block_on;
use tempfile::TempDir;

const REPLICAS: u8 = 3;

/// Times that each leader goes.
const TIMES: usize = 50;

/// After this long something that must happen has not happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at something.
const POLL: Duration = Duration::from_millis(5);

/// Of one write; a client that waits longer for a dead leader would measure itself.
const CALL: Duration = Duration::from_millis(500);

/// How a leader goes.
#[derive(Clone, Copy)]
enum End {
    /// SIGKILL.
    Killed,
    /// SIGKILL, and a new start as soon as the process is gone.
    Restarted,
    /// SIGTERM.
    Stopped,
    /// A client's command.
    HandedOver,
}

/// A cluster and its client.
struct Running {
    cluster: Cluster,
    client: Client,
    _directory: TempDir,
}

impl Running {
    fn start(quorum: u8) -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let mut cluster = Cluster::start(Settings {
            program: Program::harness(env!("CARGO_BIN_EXE_bench-harness")),
            quorums: Quorums::new(REPLICAS, quorum).unwrap(),
            durability: Durability::Fsync,
            leader: None,
            name: "failover".to_owned(),
            directory: directory.path().to_owned(),
            links: Links::Direct,
        })
        .unwrap();
        block_on(cluster.wait_ready(PATIENCE)).unwrap();
        let servers = cluster.addresses().into_iter().map(|address| address.to_string());
        let client = Client::builder().servers(servers).deadline(CALL).connect().unwrap();
        Self { cluster, client, _directory: directory }
    }

    fn status(&self, node: u8) -> Option<NodeStatus> {
        block_on(self.cluster.client(node).ok()?.with_deadline(CALL).status(false)).ok()
    }

    /// Waits until a leader reaches all others, and has written something; who, and in which term.
    fn wait_whole(&self) -> (u8, Term) {
        let is_whole = |status: &NodeStatus| {
            let status = status.view();
            let reachable = status.followers.iter().filter(|follower| follower.reachable).count();
            status.role == Role::Leader && reachable + 1 == usize::from(REPLICAS)
        };
        wait_for("a leader that reaches all others", || {
            let leader = (1..=REPLICAS).filter_map(|node| self.status(node)).find(is_whole)?;
            let (node, term) = (leader.view().node.get(), leader.view().term);
            (block_on(self.client.set("key", "before")).ok()?.receipt.term == term).then_some((node, term))
        })
    }

    /// Has the leader go, and says how long it took until the next write.
    fn time(&mut self, end: End) -> Duration {
        let (leader, term) = self.wait_whole();
        let began = Instant::now();
        match end {
            End::Killed => self.cluster.kill(leader).unwrap(),
            End::Restarted => {
                self.cluster.kill(leader).unwrap();
                self.cluster.restart(leader).unwrap();
            }
            End::Stopped => self.request_stop(leader),
            End::HandedOver => drop(block_on(self.client.hand_over(None)).unwrap()),
        }
        while !block_on(self.client.set("key", "after")).is_ok_and(|written| written.receipt.term > term) {
            assert!(began.elapsed() < PATIENCE, "no write succeeds after node {leader} is gone");
        }
        let took = began.elapsed();
        self.bring_back(leader, end);
        took
    }

    fn request_stop(&self, node: u8) {
        let process = self.cluster.process_id(node).unwrap();
        kill_process(Pid::from_raw(process as i32).unwrap(), Signal::TERM).unwrap();
    }

    fn bring_back(&mut self, node: u8, end: End) {
        match end {
            End::Restarted | End::HandedOver => return,
            End::Killed => {}
            // It is waited for, and it must say that it stopped as it was told.
            End::Stopped => self.cluster.stop(node).unwrap(),
        }
        self.cluster.restart(node).unwrap();
    }
}

fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(POLL);
    }
}

/// One benchmark; a line for the table, unless it was left out.
fn bench(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, quorum: u8, end: End) -> Option<String> {
    // Started when first needed: not if the benchmark is left out.
    let running = LazyCell::new(|| RefCell::new(Running::start(quorum)));
    let times = RefCell::new(Vec::new());
    group.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let new: Vec<_> = (0..count).map(|_| running.borrow_mut().time(end)).collect();
            times.borrow_mut().extend_from_slice(&new);
            new.iter().sum()
        });
    });
    line(name, times.into_inner())
}

fn line(name: &str, mut times: Vec<Duration>) -> Option<String> {
    times.sort_unstable();
    let at = |part: usize| times[(times.len() * part / 100).min(times.len() - 1)].as_secs_f64() * 1e3;
    let last = times.len().checked_sub(1)?;
    let max = times[last].as_secs_f64() * 1e3;
    Some(format!("{name:<24} {:>6} {:>8.0} {:>8.0} {max:>8.0}", times.len(), at(50), at(99)))
}

fn failover(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("failover");
    // One at a time: it is no matter of the first time or the hundredth.
    group.sampling_mode(SamplingMode::Flat).sample_size(TIMES);
    group.warm_up_time(Duration::from_millis(1)).measurement_time(Duration::from_millis(1));
    let cases = [
        ("n1-killed-and-restarted", 1, End::Restarted),
        ("n2-killed", 2, End::Killed),
        ("n2-stopped", 2, End::Stopped),
        ("n2-handed-over", 2, End::HandedOver),
        ("n3-killed-and-restarted", 3, End::Restarted),
        ("n3-handed-over", 3, End::HandedOver),
    ];
    let lines: Vec<_> =
        cases.into_iter().filter_map(|(name, quorum, end)| bench(&mut group, name, quorum, end)).collect();
    group.finish();
    if !lines.is_empty() {
        println!("{:<24} {:>6} {:>8} {:>8} {:>8}", "leader of 3, ms", "times", "median", "p99", "longest");
        lines.iter().for_each(|line| println!("{line}"));
    }
}

criterion_group!(benches, failover);
criterion_main!(benches);
