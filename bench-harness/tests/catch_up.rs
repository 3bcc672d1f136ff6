//! Real server processes: a follower that was away for longer than the leader keeps log is sent a checkpoint.
//!
//! The link to it is narrow, so that it can be killed while it receives. Nothing here depends on how fast the machine
//! is: a test waits until what it needs has happened, and gives up after [`DEADLINE`].

mod support;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bench_harness::cluster::{Cluster, Links, Program, Settings};
use bench_harness::proxy::LinkSettings;
use quorate_client::{Client, Consistency, Durability, NodeStatus};
use quorate_protocol::Quorums;
use quorate_protocol::response::CheckpointTransfer;
use support::{DEADLINE, wait_for};
use tempfile::TempDir;

const LEADER: u8 = 1;

/// The follower that is away.
const AWAY: u8 = 3;

const KEYS: usize = 60;
const VALUE_BYTES: usize = 256 << 10;

/// Little log is kept, and checkpoints are frequent.
const OPTIONS: [&str; 8] = [
    "--segment-mib",
    "1",
    "--checkpoint-mib",
    "8",
    "--checkpoint-mib-per-second",
    "0",
    "--log-retention-mib",
    "4",
];

fn start() -> (Cluster, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        program: Program::harness(env!("CARGO_BIN_EXE_bench-harness")).with_options(OPTIONS),
        quorums: Quorums::new(3, 2).unwrap(),
        durability: Durability::Fsync,
        leader: Some(LEADER),
        name: "catch-up".to_owned(),
        directory: directory.path().to_owned(),
        links: Links::Proxied { seed: 2026 },
    };
    let mut cluster = Cluster::start(settings).unwrap();
    smol::block_on(cluster.wait_ready(DEADLINE)).unwrap();
    (cluster, directory)
}

fn client(cluster: &Cluster, node: u8) -> Client {
    cluster.client(node).unwrap().with_deadline(DEADLINE)
}

fn status(cluster: &Cluster, node: u8) -> Option<NodeStatus> {
    smol::block_on(cluster.client(node).unwrap().with_deadline(Duration::from_secs(1)).status(false)).ok()
}

fn key(number: usize) -> String {
    format!("key {number:03}")
}

/// Writes all keys, each time with other values.
fn write_all(cluster: &Cluster, time: u8) {
    let client = client(cluster, LEADER);
    for number in 0..KEYS {
        let mut value = vec![time; VALUE_BYTES];
        value[0] = number as u8;
        wait_for("a write", || smol::block_on(client.set(key(number), value.clone())).ok());
    }
}

/// Kills a follower, and writes until the leader's log no longer holds what it lacks.
fn leave_behind(cluster: &mut Cluster) {
    let had = status(cluster, AWAY).unwrap().view().last;
    cluster.kill(AWAY).unwrap();
    let mut time = 0;
    wait_for("a log that no longer holds what the follower lacks", || {
        time += 1;
        write_all(cluster, time);
        (status(cluster, LEADER)?.view().log_first > had + 1).then_some(())
    });
}

/// What the leader says of the checkpoint that the follower is sent.
fn transfer(cluster: &Cluster) -> Option<CheckpointTransfer> {
    let status = status(cluster, LEADER)?;
    let view = status.view();
    view.followers.iter().find(|follower| follower.node.get() == AWAY)?.checkpoint
}

/// Waits until some of the checkpoint has arrived, but not all.
fn wait_half_way(cluster: &Cluster) -> CheckpointTransfer {
    wait_for("a checkpoint on its way", || {
        transfer(cluster)
            .filter(|sent| (sent.bytes_total / 4..sent.bytes_total).contains(&sent.bytes_received))
    })
}

/// Waits until the follower counts again, and compares every key.
fn assert_whole(cluster: &mut Cluster) {
    wait_for("a follower that has caught up", || {
        let status = status(cluster, LEADER)?;
        let view = status.view();
        let follower = view.followers.iter().find(|follower| follower.node.get() == AWAY)?;
        (follower.reachable && follower.applied == view.last && follower.checkpoint.is_none()).then_some(())
    });
    let (leader, follower) =
        (client(cluster, LEADER), client(cluster, AWAY).with_consistency(Consistency::Local));
    for number in 0..KEYS {
        let expected = smol::block_on(leader.get(key(number))).unwrap().value.unwrap();
        let found = smol::block_on(follower.get(key(number))).unwrap().value.unwrap();
        assert_eq!((found.revision, found.value), (expected.revision, expected.value), "key {number}");
    }
    cluster.check_running().unwrap();
}

/// What is there of a checkpoint that was not received in full.
fn part(cluster: &Cluster) -> Option<PathBuf> {
    let directory = cluster.data_directory(AWAY).join("checkpoint");
    let files = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    files.into_iter().find(|file| file.extension().is_some_and(|extension| extension == "part"))
}

fn log_has(log: &Path, words: &str) -> bool {
    fs::read_to_string(log).unwrap().contains(words)
}

#[test]
fn a_follower_that_lacks_more_than_the_log_holds_catches_up_by_a_checkpoint_and_counts_again() {
    let (mut cluster, _directory) = start();
    leave_behind(&mut cluster);
    cluster.restart(AWAY).unwrap();
    assert_whole(&mut cluster);
    assert!(log_has(&cluster.log(AWAY), "caught up by a checkpoint"));
    assert!(log_has(&cluster.log(LEADER), "sending it a checkpoint"));

    // It counts: with the other follower gone, writes go on.
    cluster.kill(2).unwrap();
    let client = client(&cluster, LEADER);
    let holders = wait_for("a write", || smol::block_on(client.set("a", "1")).ok()).receipt.holders;
    assert_eq!(holders.iter().map(|node| node.get()).collect::<Vec<_>>(), [LEADER, AWAY]);

    // And it has it all after a restart.
    cluster.restart(2).unwrap();
    cluster.kill(AWAY).unwrap();
    cluster.restart(AWAY).unwrap();
    assert_whole(&mut cluster);
}

#[test]
fn a_transfer_goes_on_where_it_was_when_the_follower_is_killed_half_way() {
    let (mut cluster, _directory) = start();
    leave_behind(&mut cluster);
    let narrow = LinkSettings { bytes_per_second: Some(8 << 20), ..LinkSettings::default() };
    cluster.proxy().unwrap().set(LEADER, AWAY, narrow).unwrap();
    let before = cluster.proxy().unwrap().traffic(LEADER, AWAY).unwrap().forwarded_bytes;
    cluster.restart(AWAY).unwrap();
    let sent = wait_half_way(&cluster);
    cluster.kill(AWAY).unwrap();
    let part = part(&cluster).expect("what was received stays");
    assert!(fs::metadata(part).unwrap().len() >= sent.bytes_received);
    cluster.restart(AWAY).unwrap();
    let again = wait_half_way(&cluster);
    assert_eq!(again.index, sent.index);
    assert!(again.bytes_received >= sent.bytes_received, "{again:?} after {sent:?}");
    cluster.proxy().unwrap().set(LEADER, AWAY, LinkSettings::default()).unwrap();
    assert_whole(&mut cluster);
    let forwarded = cluster.proxy().unwrap().traffic(LEADER, AWAY).unwrap().forwarded_bytes - before;
    let log_bytes = (KEYS * VALUE_BYTES) as u64; // At most so much of the log follows.
    assert!(forwarded < sent.bytes_total + sent.bytes_total / 2 + log_bytes, "{forwarded} bytes");
}

#[test]
fn what_the_disk_has_spoilt_of_a_checkpoint_is_never_used_and_asked_for_again() {
    let (mut cluster, _directory) = start();
    leave_behind(&mut cluster);
    let narrow = LinkSettings { bytes_per_second: Some(8 << 20), ..LinkSettings::default() };
    cluster.proxy().unwrap().set(LEADER, AWAY, narrow).unwrap();
    cluster.restart(AWAY).unwrap();
    wait_half_way(&cluster);
    cluster.kill(AWAY).unwrap();
    let part = part(&cluster).expect("what was received stays");
    let mut bytes = fs::read(&part).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&part, bytes).unwrap();
    cluster.proxy().unwrap().set(LEADER, AWAY, LinkSettings::default()).unwrap();
    cluster.restart(AWAY).unwrap();
    assert_whole(&mut cluster);
    assert!(log_has(&cluster.log(AWAY), "a checkpoint is asked for again"));
}
