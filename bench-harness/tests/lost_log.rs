//! A follower that alone, with the leader, holds an acknowledged write, and whose log is removed: nothing is lost.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use bench_harness::cluster::{Cluster, Links, Program, Settings};
use quorate_client::{Client, Durability, NodeStatus, Role};
use quorate_protocol::Quorums;
use quorate_server::disk::RealDisk;
use quorate_server::offline::check;
use tempfile::TempDir;

/// After this long something that must happen has not happened.
const PATIENCE: Duration = Duration::from_secs(30);

fn start() -> (Cluster, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let cluster = Cluster::start(Settings {
        program: Program::harness(env!("CARGO_BIN_EXE_bench-harness")),
        quorums: Quorums::new(3, 2).unwrap(),
        durability: Durability::Fsync,
        leader: None,
        name: "lost-log".to_owned(),
        directory: directory.path().to_owned(),
        links: Links::Direct,
    });
    (cluster.unwrap(), directory)
}

fn ready(cluster: &mut Cluster) -> u8 {
    smol::block_on(cluster.wait_ready(PATIENCE)).unwrap()
}

fn client(cluster: &Cluster, node: u8) -> Client {
    cluster.client(node).unwrap().with_deadline(PATIENCE)
}

fn status(cluster: &Cluster, node: u8) -> NodeStatus {
    smol::block_on(client(cluster, node).status(false)).unwrap()
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Removes a log in some way after an acknowledged write that only its node and the leader hold, and leaves that node
/// alone with one that lacks the write.
fn lose(remove: impl Fn(&Path)) {
    let (mut cluster, _directory) = start();
    let leader = ready(&mut cluster);
    let [holder, lacking]: [u8; 2] =
        (1..=3).filter(|node| *node != leader).collect::<Vec<_>>().try_into().unwrap();
    cluster.kill(lacking).unwrap();
    smol::block_on(client(&cluster, leader).set("key", "acknowledged")).unwrap();
    cluster.kill(holder).unwrap();
    cluster.kill(leader).unwrap();
    let data = cluster.data_directory(holder);
    remove(&data.join("log"));
    let checked = check(&RealDisk, &data).unwrap();
    let act = checked.findings.iter().find(|finding| finding.file.starts_with("log")).map(|found| &found.act);
    assert!(act.is_some_and(|act| act.contains("gets what it held from the other replicas")), "{checked:?}");

    cluster.restart(holder).unwrap();
    cluster.restart(lacking).unwrap();
    assert!(status(&cluster, holder).view().repairing, "it knows that it has lost something");
    wait_until("both ask for votes, or one leads", || {
        let asks = |node| status(&cluster, node).view().elections.pre_votes > 2;
        let leads = |node| status(&cluster, node).view().role == Role::Leader;
        assert!(!leads(holder) && !leads(lacking), "a leader that may lack an acknowledged write");
        asks(lacking)
    });
    cluster.restart(leader).unwrap();
    ready(&mut cluster);
    for node in 1..=3 {
        let found = smol::block_on(client(&cluster, node).get("key")).unwrap().value.expect("it is lost");
        assert_eq!(found.value, b"acknowledged");
    }
    cluster.shut_down().unwrap();
}

#[test]
fn a_log_directory_that_was_removed_loses_no_acknowledged_write() {
    lose(|log| fs::remove_dir_all(log).unwrap());
}

#[test]
fn a_newest_segment_that_was_removed_loses_no_acknowledged_write() {
    lose(|log| {
        let files = fs::read_dir(log).unwrap().map(|entry| entry.unwrap().path());
        let segments = files.filter(|path| path.extension().is_some_and(|extension| extension == "log"));
        fs::remove_file(segments.max().unwrap()).unwrap();
    });
}
