//! Real server processes that are killed, paused and emptied while real clients write.
//!
//! Whatever happens, after the last restart every acknowledged write must be on every replica, and all
//! replicas must hold the same. Nothing here depends on how fast the machine is: a test waits until what it
//! needs has happened, and gives up after [`DEADLINE`].

mod support;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bench_harness::cluster::{Cluster, Links, Program, Settings};
use bench_harness::lag;
use bench_harness::verify::verify;
use quorate_client::load::{self, Control, QuorateTarget, Reads, Report, Workload};
use quorate_client::{Client, Consistency, Durability, Error, ErrorKind, NodeStatus, Refusal};
use quorate_protocol::{NodeId, Quorums};
use support::{DEADLINE, wait_for};
use tempfile::TempDir;

/// Of one call; longer than a replica that is gone stays unnoticed.
const CALL: Duration = Duration::from_secs(1);

const LEADER: u8 = 1;

fn start_with(quorum: u8, options: &[&str]) -> (Cluster, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let program = Program::harness(env!("CARGO_BIN_EXE_bench-harness")).with_options(options);
    let settings = Settings {
        program,
        quorums: Quorums::new(3, quorum).unwrap(),
        durability: Durability::Fsync,
        leader: Some(LEADER),
        name: "failures".to_owned(),
        directory: directory.path().to_owned(),
        links: Links::Direct,
    };
    let mut cluster = Cluster::start(settings).unwrap();
    wait_ready(&mut cluster);
    (cluster, directory)
}

fn start(quorum: u8) -> (Cluster, TempDir) {
    start_with(quorum, &[])
}

fn wait_ready(cluster: &mut Cluster) {
    smol::block_on(cluster.wait_ready(DEADLINE)).unwrap();
}

/// Clients that write without a pause, in a thread of their own.
struct Load {
    control: Arc<Control>,
    thread: JoinHandle<Report>,
}

impl Load {
    fn start(cluster: &Cluster, value_bytes: usize) -> Self {
        let target = QuorateTarget {
            servers: cluster.addresses().iter().map(ToString::to_string).collect(),
            deadline: CALL,
            cluster: None,
            reads: Reads::Leader,
            exactly_once: true,
        };
        let workload = Workload {
            clients: 8,
            in_flight: 4,
            value_bytes: value_bytes..=value_bytes,
            keys: 500,
            seed: 2026,
            warmup: Duration::ZERO,
            duration: Duration::from_secs(600),
            ..Workload::default()
        };
        let control = Arc::new(Control::default());
        let watched = control.clone();
        Self {
            control,
            thread: thread::spawn(move || load::run(&workload, &target, &watched, None).unwrap()),
        }
    }

    /// Waits until this many further writes have been acknowledged.
    fn wait_for_more(&self, writes: u64) {
        let wanted = self.control.acknowledged() + writes;
        wait_for("acknowledged writes", || (self.control.acknowledged() >= wanted).then_some(()));
    }

    fn stop(self) -> Report {
        self.control.stop();
        self.thread.join().unwrap()
    }
}

/// Every acknowledged write is on every replica, and all are alike.
fn assert_nothing_is_lost(cluster: &mut Cluster, report: &Report) {
    let verified =
        smol::block_on(verify(&cluster.members(), &report.record, true, &mut || cluster.check_running()))
            .unwrap();
    assert!(verified.is_clean(), "{verified:?}");
    assert!(verified.keys > 0 && report.writes.acknowledged > 0, "nothing was written");
}

fn client(cluster: &Cluster) -> Client {
    cluster.client(LEADER).unwrap().with_deadline(CALL).with_consistency(Consistency::Linearizable)
}

fn status(cluster: &Cluster, node: u8) -> Option<NodeStatus> {
    smol::block_on(cluster.client(node).unwrap().with_deadline(CALL).status(false)).ok()
}

fn wait_reachable(cluster: &Cluster, follower: u8, reachable: bool) {
    wait_for("the leader's view of a follower", || {
        let status = status(cluster, LEADER)?;
        let known = status.view().followers.iter().find(|known| known.node.get() == follower)?.reachable;
        (known == reachable).then_some(())
    });
}

/// Writes until the leader refuses for want of replicas, and says how many it had and needed. Until it has
/// noticed that they are gone, outcomes are unknown; no write may be acknowledged.
fn wait_for_no_quorum(client: &Client) -> (u8, u8) {
    wait_for("a refusal for want of replicas", || match smol::block_on(client.set("refused", "x")) {
        Err(Error::Refused(Refusal::NoQuorum { have, need })) => Some((have, need)),
        Err(error) if error.kind() == ErrorKind::OutcomeUnknown => None,
        other => panic!("neither refused nor unknown: {other:?}"),
    })
}

/// Waits until the kernel has really stopped a process: the signal is only a request.
fn wait_paused(cluster: &Cluster, node: u8) {
    let file = format!("/proc/{}/stat", cluster.process_id(node).unwrap());
    wait_for("a stopped process", || fs::read_to_string(&file).unwrap().contains(") T ").then_some(()));
}

#[test]
fn a_killed_follower_stops_nothing_and_catches_up_after_its_restart() {
    let (mut cluster, _directory) = start(2);
    let load = Load::start(&cluster, 100);
    load.wait_for_more(500);
    cluster.kill(3).unwrap();
    load.wait_for_more(500);
    wait_reachable(&cluster, 3, false);
    load.wait_for_more(500);
    cluster.restart(3).unwrap();
    wait_reachable(&cluster, 3, true);
    load.wait_for_more(100);
    let report = load.stop();
    assert_eq!((report.writes.refused, report.writes.unknown), (0, 0), "{:?}", report.last_error);
    assert_nothing_is_lost(&mut cluster, &report);
}

#[test]
fn a_follower_that_is_down_has_no_lag_but_the_entries_that_it_lacks() {
    let (mut cluster, _directory) = start(2);
    cluster.kill(3).unwrap();
    wait_reachable(&cluster, 3, false);
    let leader = client(&cluster);
    let state = || smol::block_on(leader.status(true)).unwrap();
    let before = state();
    for _ in 0..10 {
        smol::block_on(leader.set("key", "value")).unwrap();
    }
    let lags = lag::between(Some(&before), &state()).unwrap();
    let [running, down] = lags.as_slice() else { panic!("{lags:?}") };
    assert!(running.node == 2 && running.lag_us.is_some(), "{lags:?}");
    assert!(down.node == 3 && down.lag_us.is_none() && down.entries_behind_max >= 10, "{lags:?}");
}

#[test]
fn two_killed_followers_stop_writes_with_the_reason_but_not_reads() {
    let (mut cluster, _directory) = start(2);
    let client = client(&cluster);
    smol::block_on(client.set("read me", "still here")).unwrap();
    let load = Load::start(&cluster, 100);
    load.wait_for_more(500);
    cluster.kill(2).unwrap();
    cluster.kill(3).unwrap();
    assert_eq!(wait_for_no_quorum(&client), (1, 2));
    let lookup = smol::block_on(client.get("read me")).unwrap();
    assert_eq!(lookup.value.unwrap().value, b"still here");
    let last = status(&cluster, LEADER).unwrap().view().last;
    for _ in 0..10 {
        assert_eq!(wait_for_no_quorum(&client), (1, 2));
    }
    assert_eq!(status(&cluster, LEADER).unwrap().view().last, last, "a refused write was appended");
    let report = load.stop();
    assert!(report.writes.unknown + report.writes.refused > 0, "the load never noticed");
    cluster.restart(2).unwrap();
    cluster.restart(3).unwrap();
    wait_ready(&mut cluster);
    smol::block_on(client.delete("read me")).unwrap();
    smol::block_on(client.delete("refused")).unwrap();
    assert_nothing_is_lost(&mut cluster, &report);
}

/// Kills nodes at random, the leader first of all, while clients write.
fn kill_at_random(quorum: u8) {
    let (mut cluster, _directory) = start(quorum);
    let mut random = fastrand::Rng::with_seed(0x7e57 + u64::from(quorum));
    let load = Load::start(&cluster, 100);
    let mut leader_kills = 0;
    for round in 0..6 {
        load.wait_for_more(random.u64(50..300));
        let victim = if round % 2 == 0 { LEADER } else { random.u8(1..=3) };
        cluster.kill(victim).unwrap();
        leader_kills += u64::from(victim == LEADER);
        cluster.restart(victim).unwrap();
    }
    load.wait_for_more(100);
    let report = load.stop();
    wait_ready(&mut cluster);
    assert_nothing_is_lost(&mut cluster, &report);
    let term = status(&cluster, LEADER).unwrap().view().term;
    assert!(term > leader_kills && leader_kills >= 3, "R11: term {term} after {leader_kills} kills");
    println!("{} writes refused, {} of unknown outcome", report.writes.refused, report.writes.unknown);
}

#[test]
fn kills_of_any_node_lose_nothing_with_a_quorum_of_1() {
    kill_at_random(1);
}

#[test]
fn kills_of_any_node_lose_nothing_with_a_quorum_of_2() {
    kill_at_random(2);
}

#[test]
fn kills_of_any_node_lose_nothing_with_a_quorum_of_3() {
    kill_at_random(3);
}

#[test]
fn killing_all_at_once_loses_nothing_and_receipts_name_the_disks_that_hold_the_write() {
    let (mut cluster, _directory) = start(2);
    let load = Load::start(&cluster, 100);
    load.wait_for_more(500);
    let receipt = smol::block_on(client(&cluster).set("receipt", "x")).unwrap().receipt;
    (1..=3).for_each(|node| cluster.kill(node).unwrap());
    let followers: Vec<_> = receipt.holders.iter().map(|node| node.get()).filter(|node| *node != 1).collect();
    assert!(receipt.holders.len() >= 2 && !followers.is_empty(), "{receipt:?}");
    // Without the leader: what they have is their own.
    cluster.restart(2).unwrap();
    cluster.restart(3).unwrap();
    for follower in followers {
        let durable = wait_for("a follower", || status(&cluster, follower)).view().durable;
        assert!(durable >= receipt.index, "node {follower} has {durable} of {}", receipt.index);
    }
    cluster.restart(LEADER).unwrap();
    load.wait_for_more(100);
    let report = load.stop();
    wait_ready(&mut cluster);
    smol::block_on(client(&cluster).delete("receipt")).unwrap();
    assert_nothing_is_lost(&mut cluster, &report);
}

#[test]
fn a_paused_follower_costs_nothing_when_two_of_three_are_enough() {
    let (mut cluster, _directory) = start(2);
    let load = Load::start(&cluster, 100);
    cluster.pause(3).unwrap();
    wait_paused(&cluster, 3);
    load.wait_for_more(500);
    wait_reachable(&cluster, 3, false);
    load.wait_for_more(500);
    cluster.resume(3).unwrap();
    wait_reachable(&cluster, 3, true);
    let report = load.stop();
    assert_eq!((report.writes.refused, report.writes.unknown), (0, 0), "{:?}", report.last_error);
    assert_nothing_is_lost(&mut cluster, &report);
}

#[test]
fn a_paused_follower_stops_writes_when_all_three_are_needed() {
    let (mut cluster, _directory) = start(3);
    let load = Load::start(&cluster, 100);
    load.wait_for_more(100);
    cluster.pause(3).unwrap();
    wait_paused(&cluster, 3);
    assert_eq!(wait_for_no_quorum(&client(&cluster)), (2, 3));
    let report = load.stop();
    assert!(report.writes.unknown + report.writes.refused > 0, "the load never noticed");
    cluster.resume(3).unwrap();
    wait_reachable(&cluster, 3, true);
    smol::block_on(client(&cluster).delete("refused")).unwrap();
    assert_nothing_is_lost(&mut cluster, &report);
}

#[test]
fn an_emptied_follower_catches_up_and_counts_once_it_is_admitted() {
    let (mut cluster, _directory) = start(2);
    let load = Load::start(&cluster, 100);
    load.wait_for_more(100);
    cluster.kill(3).unwrap();
    fs::remove_dir_all(cluster.data_directory(3)).unwrap();
    cluster.restart(3).unwrap();
    let log = cluster.log(3);
    wait_for("a word of it in the log", || {
        let said = fs::read_to_string(&log).unwrap();
        said.contains("formed with another data directory of node 3").then_some(())
    });
    load.wait_for_more(500);
    let report = load.stop();
    assert_eq!((report.writes.refused, report.writes.unknown), (0, 0), "{:?}", report.last_error);
    wait_reachable(&cluster, 3, true);
    let is_voting = |cluster: &Cluster| status(cluster, 3).map(|status| status.view().voting);
    assert_eq!(is_voting(&cluster), Some(false));
    // As long as it is not admitted it is no substitute for the other.
    cluster.kill(2).unwrap();
    assert_eq!(wait_for_no_quorum(&client(&cluster)), (1, 2));
    cluster.restart(2).unwrap();
    wait_reachable(&cluster, 2, true);
    smol::block_on(client(&cluster).admit(NodeId::try_from(3).unwrap())).unwrap();
    wait_for("a voting member", || is_voting(&cluster).filter(|is_voting| *is_voting));
    cluster.kill(2).unwrap();
    smol::block_on(client(&cluster).set("after", "x")).unwrap();
}

/// The checkpoints of a node, by file name.
fn checkpoints(cluster: &Cluster, node: u8) -> BTreeMap<String, Vec<u8>> {
    let directory = cluster.data_directory(node).join("checkpoint");
    let names =
        fs::read_dir(&directory).unwrap().map(|file| file.unwrap().file_name().into_string().unwrap());
    names
        .filter(|name| name.ends_with(".ckpt"))
        // The node may have replaced it meanwhile.
        .filter_map(|name| Some((name.clone(), fs::read(Path::new(&directory).join(&name)).ok()?)))
        .collect()
}

/// Waits until every node has a checkpoint of a later index.
fn wait_for_checkpoints(cluster: &Cluster, after: u64) {
    for node in 1..=3 {
        wait_for("a checkpoint", || (status(cluster, node)?.view().checkpoint > after).then_some(()));
    }
}

/// Files of the same index have the same bytes, and there are such.
fn assert_checkpoints_agree(cluster: &Cluster) {
    let [first, second, third] = [1, 2, 3].map(|node| checkpoints(cluster, node));
    let mut compared = 0;
    for (one, other) in [(&first, &second), (&first, &third), (&second, &third)] {
        for (name, bytes) in one {
            if let Some(others) = other.get(name) {
                assert!(bytes == others, "{name} differs between replicas");
                compared += 1;
            }
        }
    }
    let names = [&first, &second, &third].map(|files| files.keys().collect::<Vec<_>>());
    assert!(compared > 0, "no two replicas have a checkpoint of the same index: {names:?}");
}

#[test]
fn killed_nodes_recover_from_checkpoint_and_log_and_their_checkpoints_are_alike() {
    let (mut cluster, _directory) = start_with(2, &["--segment-mib", "4", "--checkpoint-mib", "1"]);
    let load = Load::start(&cluster, 4000);
    for _ in 0..3 {
        let newest = (1..=3).map(|node| wait_for("a status", || status(&cluster, node)).view().checkpoint);
        wait_for_checkpoints(&cluster, newest.max().unwrap());
        load.wait_for_more(50);
        (1..=3).for_each(|node| cluster.kill(node).unwrap());
        (1..=3).for_each(|node| cluster.restart(node).unwrap());
        load.wait_for_more(50);
    }
    let report = load.stop();
    wait_ready(&mut cluster);
    assert_nothing_is_lost(&mut cluster, &report);
    for node in 1..=3 {
        let first = status(&cluster, node).unwrap().view().log_first;
        assert!(first > 1, "node {node} has its whole log, and needed no checkpoint");
    }
    assert_checkpoints_agree(&cluster);
}

#[test]
fn a_restarted_leader_keeps_the_log_that_an_absent_follower_lacks() {
    let (mut cluster, _directory) = start_with(2, &["--segment-mib", "4", "--checkpoint-mib", "1"]);
    let load = Load::start(&cluster, 4000);
    load.wait_for_more(50);
    cluster.kill(3).unwrap();
    // Until two checkpoints cover whole segments that node 3 has never had.
    let held = || Some(status(&cluster, 1)?.view().log_bytes_held).filter(|held| *held > 4 << 20);
    wait_for("log that is held for node 3", held);
    cluster.kill(1).unwrap();
    cluster.restart(1).unwrap();
    load.wait_for_more(50);
    let report = load.stop();
    let checkpoint = status(&cluster, 1).unwrap().view().checkpoint;
    assert!(status(&cluster, 3).is_none());
    cluster.restart(3).unwrap();
    wait_ready(&mut cluster);
    assert_nothing_is_lost(&mut cluster, &report);
    assert!(checkpoint > 0);
}
