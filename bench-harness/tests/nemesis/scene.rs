//! A cluster of real processes with a proxy on every link, its clients, and what is broken in it just now.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::cluster::{Cluster, Links, Program, Settings};
use bench_harness::proxy::LinkSettings;
use quorate_client::{Client, Durability, KeyValue, NodeStatus, Role, prefix};
use quorate_protocol::{Index, Quorums};
use tempfile::TempDir;

use super::checker::{self, Summary};
use super::clients::{self, CALL, Clients, Counts, Load};
use super::history::{Action, Call, Key, Outcome, Recorder};
use super::support::{DEADLINE, wait_for};

/// How long a node that is well may take to say how it is.
const ANSWER: Duration = Duration::from_millis(300);

/// A disk that hangs does so for longer than any test lasts.
const HUNG: Duration = Duration::from_secs(3600);

/// Small segments, and a disk that is soon found silent but does not end its node.
const OPTIONS: &str =
    "--segment-mib 1 --checkpoint-mib-per-second 8 --disk-stall-ms 500 --disk-timeout-ms 600000";

/// What is broken.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Broken {
    /// Nodes that were killed.
    pub(crate) down: BTreeSet<u8>,
    /// Nodes that are stopped with SIGSTOP.
    pub(crate) paused: BTreeSet<u8>,
    /// Nodes whose disks hang, or are so slow that they might as well.
    pub(crate) hung: BTreeSet<u8>,
    /// Directions in which nothing passes.
    pub(crate) cut: BTreeSet<(u8, u8)>,
}

impl Broken {
    /// Whether a node runs, and can store something.
    fn is_sound(&self, node: u8) -> bool {
        ![&self.down, &self.paused, &self.hung].iter().any(|broken| broken.contains(&node))
    }

    /// Whether two nodes are sound and hear each other.
    fn hear_each_other(&self, one: u8, other: u8) -> bool {
        let is_cut = |direction| one != other && self.cut.contains(&direction);
        self.is_sound(one) && self.is_sound(other) && !is_cut((one, other)) && !is_cut((other, one))
    }

    /// Replicas that a node can ask and be answered by, itself included.
    fn heard_both_ways(&self, node: u8, replicas: u8) -> u8 {
        (1..=replicas).filter(|other| self.hear_each_other(node, *other)).count() as u8
    }

    /// Whether so many nodes all hear each other.
    fn has_circle(&self, count: u8, replicas: u8) -> bool {
        (0..1_u32 << replicas).filter(|set| set.count_ones() == u32::from(count)).any(|set| {
            let members = || (1..=replicas).filter(move |node| set & 1 << (node - 1) != 0);
            members().all(|one| members().all(|other| self.hear_each_other(one, other)))
        })
    }

    /// Whether writes must succeed, if `leader` led when this broke: it goes on, or e and n nodes hear each other, of
    /// which one has the best log. One node that hears e others is not enough for an election, as they may refuse it
    /// their votes for what it lacks (R8), unless it is one other.
    pub(crate) fn leaves_a_quorum(&self, quorums: Quorums, leader: Option<u8>) -> bool {
        let (replicas, need) = (quorums.replicas(), quorums.quorum().max(quorums.election_quorum()));
        let goes_on = |leader| match quorums.quorum() {
            1 => self.is_sound(leader),
            _ => self.heard_both_ways(leader, replicas) >= need,
        };
        leader.is_some_and(goes_on) || self.has_circle(need, replicas)
    }
}

/// What a scene is set up with.
pub(crate) struct Setup {
    pub(crate) quorums: Quorums,
    pub(crate) load: Load,
    /// MiB of entries between two checkpoints.
    pub(crate) checkpoint_mib: u64,
}

/// The cluster and everything around it.
pub(crate) struct Scene {
    pub(crate) quorums: Quorums,
    pub(crate) cluster: Cluster,
    pub(crate) broken: Broken,
    pub(crate) recorder: Arc<Recorder>,
    clients: Option<Clients>,
    probe: Client,
    keys: Key,
    /// Disks that are slower than they are.
    disk_delays: BTreeMap<u8, Duration>,
    directory: TempDir,
}

impl Drop for Scene {
    fn drop(&mut self) {
        if thread::panicking() {
            self.directory.disable_cleanup(true);
            println!("data and logs of the nodes stay in {}", self.directory.path().display());
        }
    }
}

impl Scene {
    /// Starts the nodes, waits until they serve, and has the clients begin.
    pub(crate) fn start(setup: Setup) -> Self {
        let Setup { quorums, load, checkpoint_mib } = setup;
        let options = format!("{OPTIONS} --checkpoint-mib {checkpoint_mib}");
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Cluster::start(Settings {
            program: Program::harness(env!("CARGO_BIN_EXE_bench-harness")).with_options(options.split(' ')),
            quorums,
            durability: Durability::Fsync,
            leader: None,
            name: "nemesis".to_owned(),
            directory: directory.path().to_owned(),
            links: Links::Proxied { seed: load.seed },
        })
        .unwrap();
        smol::block_on(cluster.wait_ready(DEADLINE)).unwrap();
        let servers: Vec<_> = cluster.addresses().iter().map(ToString::to_string).collect();
        let probe =
            Client::builder().servers(&servers).deadline(CALL).connect_timeout(ANSWER).connect().unwrap();
        let recorder = Arc::new(Recorder::default());
        let keys = load.keys;
        let clients = Some(Clients::start(servers, load, Arc::clone(&recorder)));
        let (broken, disk_delays) = (Broken::default(), BTreeMap::new());
        Self { quorums, cluster, broken, recorder, clients, probe, keys, disk_delays, directory }
    }

    pub(crate) fn nodes(&self) -> std::ops::RangeInclusive<u8> {
        1..=self.quorums.replicas()
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self, node: u8) {
        self.check_up();
        self.cluster.kill(node).unwrap();
        assert_eq!(self.cluster.process_id(node), None);
        self.broken.down.insert(node);
        self.broken.paused.remove(&node);
    }

    pub(crate) fn restart(&mut self, node: u8) {
        self.cluster.restart(node).unwrap();
        self.broken.down.remove(&node);
    }

    /// SIGSTOP.
    pub(crate) fn pause(&mut self, node: u8) {
        self.cluster.pause(node).unwrap();
        let process = self.cluster.process_id(node).unwrap();
        wait_for("a process that is stopped", || {
            let state = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            state.rsplit_once(") ")?.1.starts_with('T').then_some(())
        });
        self.broken.paused.insert(node);
    }

    pub(crate) fn resume(&mut self, node: u8) {
        self.cluster.resume(node).unwrap();
        self.broken.paused.remove(&node);
    }

    /// No sync of the node's disk that begins a moment later returns. Only a new process ends that.
    pub(crate) fn hang_disk(&mut self, node: u8) {
        self.slow_disk(node, HUNG);
    }

    /// Every sync that begins a moment later takes so much longer; [`Scene::heal_disk`] ends it.
    pub(crate) fn slow_disk(&mut self, node: u8, delay: Duration) {
        self.cluster.slow_sync(node, delay).unwrap();
        self.broken.hung.insert(node);
        self.disk_delays.insert(node, delay);
    }

    /// How much longer the syncs of a node's disk take.
    pub(crate) fn disk_delay(&self, node: u8) -> Duration {
        self.disk_delays.get(&node).copied().unwrap_or_default()
    }

    pub(crate) fn heal_disk(&mut self, node: u8) {
        self.cluster.slow_sync(node, Duration::ZERO).unwrap();
        self.broken.hung.remove(&node);
        self.disk_delays.remove(&node);
    }

    /// Nothing passes from one to the other.
    pub(crate) fn cut(&mut self, from: u8, to: u8) {
        self.cluster.cut(from, to).unwrap();
        self.broken.cut.insert((from, to));
    }

    /// Lets everything pass from one to the other again.
    pub(crate) fn heal(&mut self, from: u8, to: u8) {
        self.cluster.heal(from, to).unwrap();
        self.broken.cut.remove(&(from, to));
    }

    /// Lets everything pass, at once.
    pub(crate) fn heal_links(&mut self) {
        self.cluster.heal_all().unwrap();
        for node in self.nodes() {
            self.cluster.set_link(node, LinkSettings::default()).unwrap();
        }
        self.broken.cut.clear();
    }

    /// Ends everything that is broken.
    pub(crate) fn heal_all(&mut self) {
        self.heal_links();
        for node in self.nodes() {
            if self.broken.paused.contains(&node) {
                self.resume(node);
            }
            if self.broken.hung.contains(&node) {
                if !self.broken.down.contains(&node) {
                    self.kill(node);
                }
                self.heal_disk(node);
            }
            if self.broken.down.contains(&node) {
                self.restart(node);
            }
        }
    }

    /// Whether writes must succeed as things are, if this node led before.
    pub(crate) fn must_go_on(&self, leader: Option<u8>) -> bool {
        self.broken.leaves_a_quorum(self.quorums, leader)
    }

    /// Waits until a write that was called after this has been acknowledged, and says how long that took.
    pub(crate) fn wait_for_progress(&mut self, when: &str) -> Duration {
        let began = Instant::now();
        loop {
            self.check_up();
            let action = Action::Set(self.recorder.new_value());
            let error = match smol::block_on(clients::call(&self.probe, &self.recorder, 0, action)) {
                Ok(Outcome::Open) => "its outcome is unknown".to_owned(),
                Ok(_) => return began.elapsed(),
                Err(error) => error.to_string(),
            };
            if began.elapsed() > DEADLINE {
                let (broken, nodes) = (&self.broken, self.describe());
                panic!("{when}: no write succeeds ({error}) with {broken:?}\n{nodes}");
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// The node that leads, if one says so; of several that of the highest term.
    pub(crate) fn leader(&self) -> Option<u8> {
        let statuses = self.nodes().filter_map(|node| self.status(node));
        let leading = statuses.filter(|status| status.view().role == Role::Leader);
        leading.max_by_key(|status| status.view().term).map(|status| status.view().node.get())
    }

    /// How a node is, if it answers.
    pub(crate) fn status(&self, node: u8) -> Option<NodeStatus> {
        if self.broken.down.contains(&node) || self.broken.paused.contains(&node) {
            return None;
        }
        smol::block_on(self.cluster.client(node).ok()?.with_deadline(ANSWER).status(false)).ok()
    }

    /// What each node says of itself, a line for each.
    fn describe(&self) -> String {
        let mut words = String::new();
        for node in self.nodes() {
            let _ = match self.status(node) {
                Some(status) => {
                    let s = status.view();
                    let leader = s.leader.as_ref().map(|hint| hint.node.get());
                    writeln!(
                        words,
                        "node {node}: {:?} in term {}, leader {leader:?}; last {}, durable {}, commit {}, applied {}; \
                         obstacle {:?}",
                        s.role, s.term, s.last, s.durable, s.commit, s.applied, s.obstacle
                    )
                }
                None => writeln!(words, "node {node} does not say how it is"),
            };
        }
        words
    }

    /// How the clients' calls ended so far.
    pub(crate) fn counts(&self) -> Counts {
        self.clients.as_ref().map(Clients::counts).unwrap_or_default()
    }

    /// Neither has a node ended by itself nor a client been told what no fault explains.
    pub(crate) fn check_up(&mut self) {
        self.cluster.check_running().unwrap_or_else(|error| panic!("{error:#}"));
        if let Some(trouble) = self.clients.as_ref().and_then(Clients::trouble) {
            panic!("a client met what no fault explains: {trouble}");
        }
    }

    /// Heals everything, and checks it: writes succeed, the history is linearizable, and all nodes hold the same,
    /// which is what the history says. Then the nodes stop.
    pub(crate) fn finish(mut self) -> Summary {
        self.heal_all();
        self.wait_for_progress("after everything was healed");
        let trouble = self.clients.take().and_then(Clients::stop);
        assert_eq!(trouble, None, "a client met what no fault explains");
        for key in 0..self.keys {
            self.read_back(key);
        }
        let calls = self.recorder.take();
        let summary = checker::check(&calls).unwrap_or_else(|violation| {
            self.keep(&calls);
            panic!("not linearizable: {violation}")
        });
        self.check_stores();
        let status = self.status(self.leader().expect("a leader, as writes succeed")).unwrap();
        println!("    {summary:?}; term {}, {} entries", status.view().term, status.view().last);
        self.stop();
        summary
    }

    /// Leaves the history beside the nodes' logs.
    fn keep(&self, calls: &[Call]) {
        let mut sorted = calls.to_vec();
        sorted.sort_unstable_by_key(|call| call.called);
        let lines: String = sorted.iter().map(|call| format!("{call:?}\n")).collect();
        std::fs::write(self.directory.path().join("history"), lines).unwrap();
    }

    /// A last read of a key goes into the history.
    fn read_back(&self, key: Key) {
        wait_for("a read after everything was healed", || {
            smol::block_on(clients::call(&self.probe, &self.recorder, key, Action::Get)).ok()
        });
    }

    /// All nodes hold the same keys with the same revisions and values.
    fn check_stores(&mut self) {
        let last =
            wait_for("a leader that says how it is", || Some(self.status(self.leader()?)?.view().commit));
        let mut stores: Vec<Vec<KeyValue>> = Vec::new();
        for node in self.nodes() {
            smol::block_on(self.cluster.wait_applied(node, last, DEADLINE))
                .unwrap_or_else(|error| panic!("{error:#}\n{}", self.describe()));
            stores.push(self.store(node, last));
        }
        for (node, store) in self.nodes().zip(&stores) {
            assert!(*store == stores[0], "node {node} holds {store:?}, node 1 {:?}", stores[0]);
        }
    }

    /// Everything that a node holds.
    fn store(&self, node: u8, applied: Index) -> Vec<KeyValue> {
        let client = self.cluster.client(node).unwrap();
        let client = client.with_consistency(quorate_client::Consistency::Local);
        let mut scan = client.scan(prefix(b"")).items_per_page(1000);
        let mut store = Vec::new();
        smol::block_on(async {
            while let Some(page) = scan.next_page().await {
                let page = page.unwrap();
                assert!(page.token.index() >= applied, "node {node} has gone back to {:?}", page.token);
                store.extend(page.items);
            }
        });
        store
    }

    fn stop(&mut self) {
        for node in self.nodes() {
            self.cluster.stop(node).unwrap_or_else(|error| panic!("{error:#}"));
        }
    }
}

#[test]
fn a_quorum_is_a_leader_that_hears_enough_or_enough_that_hear_each_other() {
    let quorums = |replicas, quorum| Quorums::new(replicas, quorum).unwrap();
    let cut = |cut: &[(u8, u8)]| Broken { cut: cut.iter().copied().collect(), ..Broken::default() };
    assert!(cut(&[]).leaves_a_quorum(quorums(3, 3), None));
    assert!(cut(&[(2, 3)]).leaves_a_quorum(quorums(3, 3), Some(1)));
    assert!(!cut(&[(2, 3)]).leaves_a_quorum(quorums(3, 3), Some(2)));
    assert!(cut(&[(2, 3), (3, 1)]).leaves_a_quorum(quorums(3, 2), Some(3)), "nodes 1 and 2 hear each other");
    assert!(!cut(&[(2, 3), (3, 1), (1, 2)]).leaves_a_quorum(quorums(3, 2), Some(1)));
    // A leader at n = 1 needs nobody, but no other can follow it.
    let all = cut(&[(1, 2), (1, 3)]);
    assert!(all.leaves_a_quorum(quorums(3, 1), Some(1)) && !all.leaves_a_quorum(quorums(3, 1), None));
    // Node 1 hears two that do not hear each other: it may lack what they have.
    let hub = Broken { down: BTreeSet::from([3]), hung: BTreeSet::from([5]), ..cut(&[(2, 4)]) };
    assert!(!hub.leaves_a_quorum(quorums(5, 3), Some(3)) && hub.leaves_a_quorum(quorums(5, 3), Some(1)));
    let hung = Broken { hung: BTreeSet::from([1]), ..Broken::default() };
    assert!(!hung.leaves_a_quorum(quorums(3, 1), Some(1)) && hung.leaves_a_quorum(quorums(3, 2), Some(1)));
}
