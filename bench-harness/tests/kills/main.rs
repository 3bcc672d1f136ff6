//! Real server processes killed with SIGKILL at random moments, and an oracle outside of them: this process,
//! which knows what was acknowledged to its clients.
//!
//! Two kinds of clients write all the time. The load's clients overwrite few keys with large values, so that
//! segments and checkpoints follow each other fast; its record says which value each key may hold. The
//! chains (`chains.rs`) know exactly what each of their keys must hold, and find a write that is lost or applied
//! twice as soon as they write again. Beyond that, there are no more entries in the log than were sent.
//!
//! Kills come at any moment, and aimed ones make sure of those that matter: inside a checkpoint, a segment
//! roll, a truncation, and the recovery from the kill before. What a kill has hit is read from what it left
//! (`scene.rs`), and printed in the end.
//!
//! ```sh
//! QUORATE_KILLS=1000 cargo test -p bench-harness --test kills -- --nocapture
//! ```
//!
//! `QUORATE_KILLS_SEED` makes other moments. When the test fails, data and logs of the nodes stay.

mod chains;
mod scene;

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bench_harness::cluster::{Cluster, Links, Program, Settings};
use bench_harness::verify::verify;
use chains::{Chain, Counts, Writers};
use quorate_client::load::{self, Control, QuorateTarget, Reads, Record, Report, Workload};
use quorate_client::{Client, Durability};
use quorate_protocol::Quorums;
use scene::{Output, Tally};
use tempfile::TempDir;

/// Kills unless `QUORATE_KILLS` says otherwise.
const KILLS: u64 = 120;

/// From this many kills on, every kind of hit must have been among them.
const KILLS_LONG: u64 = 1000;

/// Kills between two checks of everything.
const KILLS_PER_PHASE: u64 = 25;

/// m and n.
const CLUSTERS: [(u8, u8); 4] = [(1, 1), (3, 1), (3, 2), (3, 3)];

/// Small segments, and checkpoints that are always under way and last some tenths of a second.
const OPTIONS: [&str; 6] =
    ["--segment-mib", "1", "--checkpoint-mib", "1", "--checkpoint-mib-per-second", "8"];

const SEGMENT_BYTES: u64 = 1 << 20;

const CHAINS: u64 = 8;

/// After this long something that must happen has not happened.
const PATIENCE: Duration = Duration::from_secs(60);

/// After this long an aimed kill comes in any case: what it aims at need not happen.
const AIM_PATIENCE: Duration = Duration::from_secs(2);

/// Of one call.
const CALL: Duration = Duration::from_secs(1);

const LEADER: u8 = 1;

/// What a kill is aimed at.
#[derive(Clone, Copy, Debug)]
enum Aim {
    Anything,
    Checkpoint,
    Roll,
    Truncation,
    Recovery,
}

/// The load's clients, in a thread of their own.
struct Load {
    control: Arc<Control>,
    thread: JoinHandle<Report>,
}

impl Load {
    fn start(cluster: &Cluster, record: Option<Record>) -> Self {
        let target = QuorateTarget {
            servers: addresses(cluster),
            deadline: CALL,
            cluster: None,
            reads: Reads::Leader,
            exactly_once: false,
        };
        let workload = Workload {
            clients: 8,
            in_flight: 4,
            value_bytes: 100..=16_000,
            keys: 200,
            seed: 2026,
            warmup: Duration::ZERO,
            duration: load::DURATION_MAX,
            ..Workload::default()
        };
        let control = Arc::new(Control::default());
        let watched = Arc::clone(&control);
        let thread = thread::spawn(move || load::run(&workload, &target, &watched, record).unwrap());
        Self { control, thread }
    }

    fn stop(self) -> Report {
        self.control.stop();
        self.thread.join().unwrap()
    }
}

fn addresses(cluster: &Cluster) -> Vec<String> {
    cluster.addresses().iter().map(ToString::to_string).collect()
}

/// Everything that writes.
struct Clients {
    load: Load,
    writers: Writers,
}

/// A cluster under fire.
struct Run {
    quorums: Quorums,
    cluster: Cluster,
    random: fastrand::Rng,
    /// Of node 1 first.
    outputs: Vec<Output>,
    tally: Tally,
    /// Writes that were acknowledged, or told that their revision is wrong: each is an entry.
    entries: u64,
    /// Writes that may be entries.
    entries_maybe: u64,
    directory: TempDir,
}

impl Drop for Run {
    fn drop(&mut self) {
        if thread::panicking() {
            self.directory.disable_cleanup(true);
            println!("data and logs of the nodes stay in {}", self.directory.path().display());
        }
    }
}

impl Run {
    fn start(quorums: Quorums, seed: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cluster = Cluster::start(Settings {
            program: Program::harness(env!("CARGO_BIN_EXE_bench-harness")).with_options(OPTIONS),
            quorums,
            durability: Durability::Fsync,
            leader: Some(LEADER),
            name: "kills".to_owned(),
            directory: directory.path().to_owned(),
            links: Links::Direct,
        })
        .unwrap();
        let outputs = (1..=quorums.replicas()).map(|node| Output::new(cluster.log(node))).collect();
        let random = fastrand::Rng::with_seed(seed);
        let tally = Tally::default();
        Self { quorums, cluster, random, outputs, tally, entries: 0, entries_maybe: 0, directory }
    }

    /// Kills and checks, until there were so many kills.
    fn until(&mut self, kills: u64) {
        self.ready();
        let mut chains: Vec<_> = (0..CHAINS).map(Chain::new).collect();
        let mut record = None;
        while self.tally.kills < kills {
            let clients = self.start_clients(record, chains);
            let end = kills.min(self.tally.kills + KILLS_PER_PHASE);
            while self.tally.kills < end {
                self.kill_once(&clients);
            }
            self.wait_for_writes(&clients, 1);
            (record, chains) = self.stop_and_check(clients);
        }
        for node in 1..=self.quorums.replicas() {
            let said = self.outputs[usize::from(node) - 1].take();
            self.tally.read(&said);
        }
    }

    fn start_clients(&self, record: Option<Record>, chains: Vec<Chain>) -> Clients {
        // Each entry is accounted for: none is a repetition.
        let builder = Client::builder().servers(addresses(&self.cluster)).deadline(CALL).exactly_once(false);
        let client = builder.connect().unwrap();
        Clients { load: Load::start(&self.cluster, record), writers: Writers::start(client, chains) }
    }

    /// One kill, or the few that belong together; all nodes run again afterwards.
    fn kill_once(&mut self, clients: &Clients) {
        let replicas = self.quorums.replicas();
        let aim = match self.random.u8(..10) {
            0..4 => Aim::Anything,
            4 => Aim::Checkpoint,
            5..7 => Aim::Roll,
            7..9 if replicas > 1 => Aim::Truncation,
            _ => Aim::Recovery,
        };
        let victims = match self.random.u8(..10) {
            0..4 => vec![LEADER],
            4..8 => vec![self.random.u8(1..=replicas)],
            _ => (1..=replicas).collect(),
        };
        match aim {
            Aim::Anything => {
                self.moment(200);
                self.kill_and_restart(&victims);
            }
            Aim::Checkpoint => {
                self.aim_at(victims[0], scene::in_checkpoint);
                self.moment(20);
                self.kill_and_restart(&victims);
            }
            Aim::Roll => {
                self.slow_sync(victims[0], 20);
                self.aim_at(victims[0], scene::in_roll);
                self.kill_and_restart(&victims);
                self.slow_sync(victims[0], 0);
            }
            Aim::Recovery => {
                self.kill_and_restart(&victims);
                self.moment(30);
                self.kill_and_restart(&victims);
            }
            Aim::Truncation => self.kill_around_a_truncation(),
        }
        self.check_up(clients);
        // Mostly, so that every kind of kill is met with work to lose; not always, so that kills pile up.
        if self.random.u8(..4) > 0 {
            let writes = self.random.u64(1..200);
            self.wait_for_writes(clients, writes);
        }
    }

    /// Has the followers hold entries that the leader has only in memory, and kills it: it comes back in a new
    /// term without them, and the followers take them back. One of them is killed then.
    fn kill_around_a_truncation(&mut self) {
        let follower = self.random.u8(2..=self.quorums.replicas());
        self.slow_sync(LEADER, 150);
        self.moment(400);
        self.kill(&[LEADER]);
        self.slow_sync(LEADER, 0);
        self.slow_sync(follower, 60);
        let before = self.outputs[usize::from(follower) - 1].peek().matches(scene::TRUNCATION).count();
        self.restart(&[LEADER]);
        self.wait_a_while(|run| {
            run.outputs[usize::from(follower) - 1].peek().matches(scene::TRUNCATION).count() > before
        });
        self.moment(120);
        let victims = if self.random.u8(..4) > 0 { vec![follower] } else { vec![LEADER, follower] };
        self.kill(&victims);
        self.slow_sync(follower, 0);
        self.restart(&victims);
    }

    fn slow_sync(&self, node: u8, milliseconds: u64) {
        self.cluster.slow_sync(node, Duration::from_millis(milliseconds)).unwrap();
    }

    /// Lets a random time pass: the moment of a kill.
    fn moment(&mut self, milliseconds_max: u64) {
        thread::sleep(Duration::from_micros(self.random.u64(..=milliseconds_max * 1000)));
    }

    /// Waits until a node is where the kill is to hit it.
    fn aim_at(&self, node: u8, is_there: fn(&std::path::Path) -> bool) {
        let directory = self.cluster.data_directory(node);
        self.wait_a_while(|_| is_there(&directory));
    }

    fn wait_a_while(&self, is_there: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + AIM_PATIENCE;
        while !is_there(self) && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn kill_and_restart(&mut self, victims: &[u8]) {
        self.kill(victims);
        self.restart(victims);
    }

    fn kill(&mut self, victims: &[u8]) {
        // One that has ended by itself is no victim, but what the test looks for.
        self.check_running();
        for victim in victims {
            self.cluster.kill(*victim).unwrap();
            let said = self.outputs[usize::from(*victim) - 1].take();
            self.tally.look_at(&said, &self.cluster.data_directory(*victim), SEGMENT_BYTES);
        }
        self.tally.kills += victims.len() as u64;
        match victims {
            _ if victims.len() == usize::from(self.quorums.replicas()) && victims.len() > 1 => {
                self.tally.all += 1
            }
            [LEADER] => self.tally.leader += 1,
            [_] => self.tally.follower += 1,
            _ => {}
        }
    }

    fn restart(&mut self, victims: &[u8]) {
        for victim in victims {
            self.cluster.restart(*victim).unwrap();
        }
    }

    fn check_running(&mut self) {
        if let Err(error) = self.cluster.check_running() {
            panic!("after {}: {error:#}", self.tally);
        }
    }

    /// Neither has a node ended nor a promise been broken.
    fn check_up(&mut self, clients: &Clients) {
        self.check_running();
        if let Some(violation) = clients.writers.violation() {
            panic!("after {}: {violation}", self.tally);
        }
    }

    /// Waits until this many further writes have been acknowledged: the cluster still works.
    fn wait_for_writes(&mut self, clients: &Clients, writes: u64) {
        let wanted = clients.load.control.acknowledged() + writes;
        let deadline = Instant::now() + PATIENCE;
        while clients.load.control.acknowledged() < wanted {
            self.check_up(clients);
            assert!(Instant::now() < deadline, "no write is acknowledged after {}", self.tally);
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn ready(&mut self) {
        if let Err(error) = smol::block_on(self.cluster.wait_ready(PATIENCE)) {
            panic!("after {}: {error:#}", self.tally);
        }
    }

    /// Every acknowledged write is on every replica, nothing else is, and all are alike.
    fn stop_and_check(&mut self, clients: Clients) -> (Option<Record>, Vec<Chain>) {
        let Clients { load, writers } = clients;
        let report = load.stop();
        let chains = writers.stop().unwrap_or_else(|violation| panic!("after {}: {violation}", self.tally));
        self.ready();
        let members = self.cluster.members();
        let mut check_running = || self.cluster.check_running();
        let verified = smol::block_on(verify(&members, &report.record, false, &mut check_running)).unwrap();
        assert!(verified.is_clean(), "after {}: {verified:?}", self.tally);
        assert!(verified.keys > 0 && report.writes.acknowledged > 0, "nothing was written");
        self.check_chains(&chains);
        self.entries += report.writes.acknowledged;
        self.entries_maybe += report.writes.unknown;
        self.check_entries(&chains);
        (Some(report.record), chains)
    }

    fn check_chains(&self, chains: &[Chain]) {
        let check = |node| {
            let client = self.cluster.client(node).unwrap();
            smol::block_on(chains::check(&client, chains))
                .unwrap_or_else(|violation| panic!("node {node}, after {}: {violation}", self.tally))
        };
        let leaders = check(LEADER);
        for follower in self.cluster.members().others(LEADER) {
            assert!(
                check(follower) == leaders,
                "node {follower} differs from the leader after {}",
                self.tally
            );
        }
    }

    /// The log has an entry for each write that was acknowledged, at most one for each of unknown outcome, and
    /// at most one for each term.
    fn check_entries(&self, chains: &[Chain]) {
        let mut counts = Counts::default();
        chains.iter().for_each(|chain| counts += chain.counts());
        let status = smol::block_on(self.cluster.client(LEADER).unwrap().status(false)).unwrap();
        let (last, term) = (status.view().last, status.view().term);
        let least = self.entries + counts.applied + counts.failed;
        let most = least + self.entries_maybe + counts.unknown + term;
        assert!(
            (least..=most).contains(&last),
            "after {}: the log has {last} entries, but {least} to {most} were written",
            self.tally
        );
        println!("    {last} entries, {least} acknowledged, {most} at most; term {term}");
    }
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{name} is no number: {text}")))
}

#[test]
fn kills_at_any_moment_lose_nothing_and_double_nothing() {
    let kills = setting("QUORATE_KILLS", KILLS);
    let seed = setting("QUORATE_KILLS_SEED", 2026);
    let mut total = Tally::default();
    for (place, (replicas, quorum)) in CLUSTERS.into_iter().enumerate() {
        let began = Instant::now();
        println!("{replicas} replicas, n = {quorum}, seed {seed}:");
        let mut run = Run::start(Quorums::new(replicas, quorum).unwrap(), seed + place as u64);
        run.until(kills.div_ceil(CLUSTERS.len() as u64));
        println!("    {}; {:.0?}", run.tally, began.elapsed());
        total += run.tally;
    }
    println!("all: {total}");
    assert!(total.kills >= kills && kills > 0);
    if kills >= KILLS_LONG {
        assert!(total.missing().is_empty(), "no kill has hit {}", total.missing().join(", "));
    }
}
