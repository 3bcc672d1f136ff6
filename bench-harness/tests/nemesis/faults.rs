//! What the nemesis does, from a seed.
//!
//! A round breaks one to three things at once, mostly so that a quorum is left. If one is left, writes must succeed
//! while all of it is broken; then everything is healed, in any order, and writes must succeed again.

use std::collections::BTreeSet;
use std::fmt;
use std::thread;
use std::time::Duration;

use bench_harness::proxy::LinkSettings;

use super::scene::{Broken, Scene};

/// Without a quorum a round lasts up to this: longer than an election timeout.
const HOLD_MS: u64 = 1200;

/// Delays of a slow link: its messages arrive well within an election timeout.
const LINK_DELAY_MS: std::ops::RangeInclusive<u64> = 1..=30;

/// How much longer a slow disk takes: some are found silent, some only slow.
const SYNC_DELAY_MS: std::ops::RangeInclusive<u64> = 20..=1500;

/// One thing that is broken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Kill(u8),
    Pause(u8),
    /// Cut off from all others, each way.
    Isolate(u8),
    /// It hears all others, and nobody hears it.
    Mute(u8),
    /// All hear it, and it hears nobody.
    Deafen(u8),
    /// Nothing passes from one to the other.
    CutOneWay(u8, u8),
    /// The two do not hear each other.
    CutBothWays(u8, u8),
    SlowLinks(u8, u64),
    HangDisk(u8),
    SlowDisk(u8, u64),
}

/// How often each was done, and what came of it.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    rounds: u64,
    kills: u64,
    pauses: u64,
    isolations: u64,
    one_way_cuts: u64,
    both_way_cuts: u64,
    slow_links: u64,
    hung_disks: u64,
    slow_disks: u64,
    /// Faults that met the leader.
    leaders: u64,
    /// Rounds that left no quorum.
    without_quorum: u64,
    /// Cuts in which bytes were held back.
    held: u64,
    /// Longest time until a write succeeded while something was broken, in milliseconds.
    longest_ms: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.kills += other.kills;
        self.pauses += other.pauses;
        self.isolations += other.isolations;
        self.one_way_cuts += other.one_way_cuts;
        self.both_way_cuts += other.both_way_cuts;
        self.slow_links += other.slow_links;
        self.hung_disks += other.hung_disks;
        self.slow_disks += other.slow_disks;
        self.leaders += other.leaders;
        self.without_quorum += other.without_quorum;
        self.held += other.held;
        self.longest_ms = self.longest_ms.max(other.longest_ms);
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} rounds, {} of them without a quorum: {} kills, {} stopped processes, {} isolated nodes, {} one-way and \
             {} both-way cuts (bytes held back in {}), {} slow links, {} hung and {} slow disks; {} met the leader; \
             longest until a write succeeded {} ms",
            self.rounds,
            self.without_quorum,
            self.kills,
            self.pauses,
            self.isolations,
            self.one_way_cuts,
            self.both_way_cuts,
            self.held,
            self.slow_links,
            self.hung_disks,
            self.slow_disks,
            self.leaders,
            self.longest_ms,
        )
    }
}

impl Tally {
    /// Kinds of fault that there were none of.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let kinds = [
            ("a kill", self.kills),
            ("a stopped process", self.pauses),
            ("an isolated node", self.isolations),
            ("a one-way cut", self.one_way_cuts),
            ("a both-way cut", self.both_way_cuts),
            ("a cut that held bytes back", self.held),
            ("a slow link", self.slow_links),
            ("a hung disk", self.hung_disks),
            ("a slow disk", self.slow_disks),
            ("a fault of the leader", self.leaders),
            ("a round without a quorum", self.without_quorum),
        ];
        kinds.into_iter().filter(|(_, count)| *count == 0).map(|(kind, _)| kind).collect()
    }
}

/// Breaks things.
pub(crate) struct Nemesis {
    random: fastrand::Rng,
    pub(crate) tally: Tally,
}

impl Nemesis {
    pub(crate) fn new(seed: u64) -> Self {
        Self { random: fastrand::Rng::with_seed(seed), tally: Tally::default() }
    }

    /// Breaks something, and heals it.
    pub(crate) fn round(&mut self, scene: &mut Scene) {
        let leader = scene.leader();
        let faults = self.choose(scene, leader);
        for fault in &faults {
            self.begin(*fault, scene);
            self.tally.leaders += u64::from(leader.is_some_and(|leader| fault.meets(leader)));
            let between = if self.random.bool() { 0 } else { 300 };
            self.moment(between);
        }
        self.tally.rounds += 1;
        if scene.must_go_on(leader) {
            let took = scene.wait_for_progress(&format!("{faults:?}, node {leader:?} led"));
            self.tally.longest_ms = self.tally.longest_ms.max(took.as_millis() as u64);
            self.moment(HOLD_MS / 3);
        } else {
            self.tally.without_quorum += 1;
            self.moment(HOLD_MS);
        }
        self.count_held(scene);
        self.heal(scene);
        scene.wait_for_progress(&format!("healed of {faults:?}, node {leader:?} had led"));
    }

    /// Up to three faults on different nodes; one time in five it does not matter whether a quorum is left.
    fn choose(&mut self, scene: &Scene, leader: Option<u8>) -> Vec<Fault> {
        let any = self.random.u8(..5) == 0;
        loop {
            let count = [1, 1, 1, 2, 2, 3][self.random.usize(..6)];
            let mut faults: Vec<Fault> = Vec::new();
            let mut met = BTreeSet::new();
            for _ in 0..count {
                let node = self.victim(scene, leader);
                let other = self.other(scene, node);
                if met.insert(node) {
                    faults.push(self.fault(node, other));
                }
            }
            let mut broken = Broken::default();
            faults.iter().for_each(|fault| fault.add_to(&mut broken, scene.quorums.replicas()));
            if any || broken.leaves_a_quorum(scene.quorums, leader) {
                return faults;
            }
        }
    }

    fn victim(&mut self, scene: &Scene, leader: Option<u8>) -> u8 {
        match leader {
            Some(leader) if self.random.bool() => leader,
            _ => self.random.u8(scene.nodes()),
        }
    }

    fn other(&mut self, scene: &Scene, node: u8) -> u8 {
        loop {
            let other = self.random.u8(scene.nodes());
            if other != node {
                return other;
            }
        }
    }

    fn fault(&mut self, node: u8, other: u8) -> Fault {
        let (one, two) = if self.random.bool() { (node, other) } else { (other, node) };
        match self.random.u8(..15) {
            0..3 => Fault::Kill(node),
            3 | 12 => Fault::Pause(node),
            4 | 13 | 14 => Fault::Isolate(node),
            5 => Fault::Mute(node),
            6 => Fault::Deafen(node),
            7 => Fault::CutOneWay(one, two),
            8 => Fault::CutBothWays(one, two),
            9 => Fault::SlowLinks(node, self.random.u64(LINK_DELAY_MS)),
            10 => Fault::HangDisk(node),
            _ => Fault::SlowDisk(node, self.random.u64(SYNC_DELAY_MS)),
        }
    }

    fn begin(&mut self, fault: Fault, scene: &mut Scene) {
        let counter = match fault {
            Fault::Kill(node) => {
                scene.kill(node);
                &mut self.tally.kills
            }
            Fault::Pause(node) => {
                scene.pause(node);
                &mut self.tally.pauses
            }
            Fault::SlowLinks(node, delay) => {
                let delay = Duration::from_millis(delay);
                let settings = LinkSettings { delay, jitter: delay / 2, bytes_per_second: None };
                scene.cluster.set_link(node, settings).unwrap();
                &mut self.tally.slow_links
            }
            Fault::HangDisk(node) => {
                scene.hang_disk(node);
                &mut self.tally.hung_disks
            }
            Fault::SlowDisk(node, delay) => {
                scene.slow_disk(node, Duration::from_millis(delay));
                &mut self.tally.slow_disks
            }
            Fault::Isolate(_) => &mut self.tally.isolations,
            Fault::Mute(_) | Fault::Deafen(_) | Fault::CutOneWay(..) => &mut self.tally.one_way_cuts,
            Fault::CutBothWays(..) => &mut self.tally.both_way_cuts,
        };
        *counter += 1;
        for (from, to) in fault.cuts(scene.quorums.replicas()) {
            scene.cut(from, to);
        }
    }

    /// Counts the cuts that something was sent into.
    fn count_held(&mut self, scene: &Scene) {
        let proxy = scene.cluster.proxy().unwrap();
        let is_held = |(from, to): &&(u8, u8)| proxy.traffic(*from, *to).unwrap().waiting_bytes > 0;
        self.tally.held += scene.broken.cut.iter().filter(is_held).count() as u64;
    }

    /// Ends everything, in any order.
    fn heal(&mut self, scene: &mut Scene) {
        let links_first = self.random.bool();
        if links_first {
            scene.heal_links();
            self.moment(300);
        }
        let mut nodes: Vec<u8> = scene.nodes().collect();
        self.random.shuffle(&mut nodes);
        for node in nodes {
            if scene.broken.hung.contains(&node) {
                self.heal_disk(node, scene);
            }
            if scene.broken.paused.contains(&node) {
                scene.resume(node);
            }
            if scene.broken.down.contains(&node) {
                scene.restart(node);
                self.moment(300);
            }
        }
        scene.heal_links();
    }

    /// What hangs ends only with its process, and what is slow may as well.
    fn heal_disk(&mut self, node: u8, scene: &mut Scene) {
        let is_up = !scene.broken.down.contains(&node);
        let may_wait = scene.disk_delay(node) <= Duration::from_millis(*SYNC_DELAY_MS.end());
        if is_up && !(may_wait && self.random.bool()) {
            scene.kill(node);
            self.tally.kills += 1;
        }
        scene.heal_disk(node);
    }

    /// Lets a random time pass.
    fn moment(&mut self, milliseconds_max: u64) {
        thread::sleep(Duration::from_micros(self.random.u64(..=milliseconds_max * 1000)));
    }
}

impl Fault {
    /// The directions that it cuts.
    fn cuts(self, replicas: u8) -> Vec<(u8, u8)> {
        let others = |node| (1..=replicas).filter(move |other| *other != node);
        match self {
            Self::Isolate(node) => others(node).flat_map(|other| [(node, other), (other, node)]).collect(),
            Self::Mute(node) => others(node).map(|other| (node, other)).collect(),
            Self::Deafen(node) => others(node).map(|other| (other, node)).collect(),
            Self::CutOneWay(from, to) => vec![(from, to)],
            Self::CutBothWays(one, other) => vec![(one, other), (other, one)],
            _ => Vec::new(),
        }
    }

    /// Notes what will be broken.
    fn add_to(self, broken: &mut Broken, replicas: u8) {
        broken.cut.extend(self.cuts(replicas));
        match self {
            Self::Kill(node) => drop(broken.down.insert(node)),
            Self::Pause(node) => drop(broken.paused.insert(node)),
            Self::HangDisk(node) | Self::SlowDisk(node, _) => drop(broken.hung.insert(node)),
            _ => {}
        }
    }

    fn meets(self, leader: u8) -> bool {
        match self {
            Self::Kill(node)
            | Self::Pause(node)
            | Self::Isolate(node)
            | Self::Mute(node)
            | Self::Deafen(node)
            | Self::SlowLinks(node, _)
            | Self::HangDisk(node)
            | Self::SlowDisk(node, _) => node == leader,
            Self::CutOneWay(one, other) | Self::CutBothWays(one, other) => one == leader || other == leader,
        }
    }
}
