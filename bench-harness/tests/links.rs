//! Real server processes on slow and cut links, and on slow disks.
//!
//! Times are only ever asserted to be long enough, which holds by construction; that the rest of a cluster
//! does not wait for a slow replica shows in who holds a write when it is acknowledged.

mod support;

use std::time::{Duration, Instant};

use bench_harness::cluster::{Cluster, Links, Program, Settings};
use bench_harness::lag;
use bench_harness::proxy::LinkSettings;
use quorate_client::{Client, Consistency, Durability, Error, ErrorKind, NodeStatus, Receipt, Refusal};
use quorate_protocol::Quorums;
use support::{DEADLINE, wait_for};
use tempfile::TempDir;

/// Longer than a replica that is gone stays unnoticed.
const NOTICED: Duration = Duration::from_secs(1);

const LEADER: u8 = 1;

/// The follower that has a fault.
const SLOW: u8 = 3;

const DELAY: Duration = Duration::from_millis(30);

fn start(quorum: u8, links: Links) -> (Cluster, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let settings = Settings {
        program: Program::harness(env!("CARGO_BIN_EXE_bench-harness")),
        quorums: Quorums::new(3, quorum).unwrap(),
        durability: Durability::Fsync,
        leader: Some(LEADER),
        name: "links".to_owned(),
        directory: directory.path().to_owned(),
        links,
    };
    let mut cluster = Cluster::start(settings).unwrap();
    smol::block_on(cluster.wait_ready(DEADLINE)).unwrap();
    (cluster, directory)
}

fn start_proxied(quorum: u8) -> (Cluster, TempDir) {
    start(quorum, Links::Proxied { seed: 2026 })
}

fn client(cluster: &Cluster) -> Client {
    cluster.client(LEADER).unwrap().with_deadline(DEADLINE).with_consistency(Consistency::Linearizable)
}

fn write(client: &Client) -> Receipt {
    time_write(client).0
}

/// Writes, and says how long that took. On a machine that stalls the leader may miss a replica for a while.
fn time_write(client: &Client) -> (Receipt, Duration) {
    wait_for("a write that is not refused", || {
        let start = Instant::now();
        match smol::block_on(client.set("key", "value")) {
            Ok(written) => Some((written.receipt, start.elapsed())),
            Err(Error::Refused(Refusal::NoQuorum { .. })) => None,
            Err(error) => panic!("{error}"),
        }
    })
}

fn holders(receipt: &Receipt) -> Vec<u8> {
    receipt.holders.iter().map(|node| node.get()).collect()
}

fn status(cluster: &Cluster, node: u8) -> Option<NodeStatus> {
    smol::block_on(cluster.client(node).unwrap().with_deadline(NOTICED).status(true)).ok()
}

fn wait_reachable(cluster: &Cluster, reachable: bool) {
    wait_for("the leader's view of the follower", || {
        let status = status(cluster, LEADER)?;
        let known = status.view().followers.iter().find(|known| known.node.get() == SLOW)?.reachable;
        (known == reachable).then_some(())
    });
}

/// Waits until a node holds durably what the leader held when this was called.
fn wait_for_durable(cluster: &Cluster, node: u8) {
    let last = status(cluster, LEADER).unwrap().view().last;
    wait_for("a durable log", || (status(cluster, node)?.view().durable >= last).then_some(()));
}

fn forwarded_bytes(cluster: &Cluster, from: u8, to: u8) -> u64 {
    cluster.proxy().unwrap().traffic(from, to).unwrap().forwarded_bytes
}

#[test]
fn a_follower_on_a_slow_link_is_not_waited_for_when_two_of_three_are_enough() {
    let (cluster, _directory) = start_proxied(2);
    wait_for_durable(&cluster, SLOW);
    cluster.set_link(SLOW, LinkSettings::delay(DELAY)).unwrap();
    let client = client(&cluster);
    let begin = status(&cluster, LEADER).unwrap();
    wait_for("a write that is acknowledged without the slow one", || {
        (holders(&write(&client)) == [1, 2]).then_some(())
    });
    for _ in 0..20 {
        assert!(holders(&write(&client)).len() >= 2);
    }
    wait_for_durable(&cluster, SLOW);
    let lags = wait_for("an acknowledgement of the slow one", || {
        let lags = lag::between(Some(&begin), &status(&cluster, LEADER)?).unwrap();
        lags.iter().all(|lag| lag.lag_us.is_some()).then_some(lags)
    });
    let slow = lags.iter().find(|lag| lag.node == SLOW).unwrap();
    // There and back.
    assert!(slow.lag_us.as_ref().unwrap().p50 >= 60_000.0, "{lags:?}");
    assert!(slow.entries_behind_max >= 1, "{lags:?}");
}

#[test]
fn a_write_that_all_three_must_hold_takes_a_slow_link_there_and_back() {
    let (cluster, _directory) = start_proxied(3);
    wait_for_durable(&cluster, SLOW);
    cluster.set_link(SLOW, LinkSettings::delay(DELAY)).unwrap();
    let client = client(&cluster);
    for _ in 0..5 {
        let (receipt, elapsed) = time_write(&client);
        assert_eq!(holders(&receipt), [1, 2, 3]);
        assert!(elapsed >= 2 * DELAY, "{elapsed:?}");
    }
}

#[test]
fn no_write_waits_for_the_link_between_two_followers() {
    let (cluster, _directory) = start_proxied(3);
    // Longer than the deadline of a write.
    cluster.set_link_between(2, SLOW, LinkSettings::delay(DEADLINE)).unwrap();
    let client = client(&cluster).with_deadline(DEADLINE / 2);
    for _ in 0..5 {
        assert_eq!(holders(&write(&client)), [1, 2, 3]);
    }
}

#[test]
fn an_isolated_follower_is_done_without_when_two_of_three_are_enough_and_catches_up() {
    let (mut cluster, _directory) = start_proxied(2);
    wait_for_durable(&cluster, SLOW);
    cluster.isolate(SLOW).unwrap();
    let passed = [(LEADER, SLOW), (SLOW, LEADER)].map(|(from, to)| forwarded_bytes(&cluster, from, to));
    let client = client(&cluster);
    for _ in 0..50 {
        assert_eq!(holders(&write(&client)), [1, 2]);
    }
    wait_reachable(&cluster, false);
    let receipt = write(&client);
    let behind = status(&cluster, SLOW).unwrap().view().durable;
    assert!(behind + 51 <= receipt.index, "node {SLOW} has {behind} of {}", receipt.index);
    let now = [(LEADER, SLOW), (SLOW, LEADER)].map(|(from, to)| forwarded_bytes(&cluster, from, to));
    assert_eq!(passed, now, "something went through the cut");
    assert!(cluster.proxy().unwrap().traffic(LEADER, SLOW).unwrap().waiting_bytes > 0);
    cluster.heal_all().unwrap();
    wait_reachable(&cluster, true);
    smol::block_on(cluster.wait_applied(SLOW, receipt.index, DEADLINE)).unwrap();
}

#[test]
fn an_isolated_follower_stops_writes_when_all_three_are_needed() {
    let (cluster, _directory) = start_proxied(3);
    let client = client(&cluster);
    write(&client);
    cluster.isolate(SLOW).unwrap();
    let impatient = client.with_deadline(NOTICED);
    let refused =
        wait_for("a refusal for want of replicas", || match smol::block_on(impatient.set("refused", "x")) {
            Err(Error::Refused(Refusal::NoQuorum { have, need })) => Some((have, need)),
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => None,
            other => panic!("neither refused nor unknown: {other:?}"),
        });
    assert_eq!(refused, (2, 3));
    cluster.heal_all().unwrap();
    wait_reachable(&cluster, true);
    assert_eq!(holders(&write(&client)), [1, 2, 3]);
}

#[test]
fn a_follower_that_is_heard_no_more_still_hears_the_leader() {
    let (mut cluster, _directory) = start_proxied(2);
    wait_for_durable(&cluster, SLOW);
    cluster.cut(SLOW, LEADER).unwrap();
    let receipt = write(&client(&cluster));
    assert_eq!(holders(&receipt), [1, 2]);
    smol::block_on(cluster.wait_applied(SLOW, receipt.index, DEADLINE)).unwrap();
    wait_reachable(&cluster, false);
    cluster.heal(SLOW, LEADER).unwrap();
    wait_reachable(&cluster, true);
}

#[test]
fn links_stay_over_a_restart_of_the_nodes_on_them() {
    let (mut cluster, _directory) = start_proxied(3);
    cluster.set_link(SLOW, LinkSettings::delay(DELAY)).unwrap();
    cluster.kill(SLOW).unwrap();
    wait_reachable(&cluster, false);
    let before = forwarded_bytes(&cluster, SLOW, LEADER);
    cluster.restart(SLOW).unwrap();
    wait_reachable(&cluster, true);
    let (receipt, elapsed) = time_write(&client(&cluster));
    assert_eq!(holders(&receipt), [1, 2, 3]);
    assert!(elapsed >= 2 * DELAY, "{elapsed:?}");
    assert!(forwarded_bytes(&cluster, SLOW, LEADER) > before, "it came in by another way");
}

/// How many writes with their syncs a node has done, and the microseconds spent in them.
fn syncs(status: &NodeStatus) -> (u64, u64) {
    let disk = status.view().disk;
    (disk.syncs, disk.busy_us)
}

#[test]
fn a_follower_with_a_slow_disk_is_waited_for_only_when_it_is_needed() {
    for quorum in [2, 3] {
        let (cluster, _directory) = start(quorum, Links::Direct);
        wait_for_durable(&cluster, SLOW);
        cluster.slow_sync(SLOW, DELAY).unwrap();
        let client = client(&cluster);
        wait_for("a slowed sync", || {
            let before = syncs(&status(&cluster, SLOW)?);
            write(&client);
            wait_for_durable(&cluster, SLOW);
            let after = syncs(&status(&cluster, SLOW)?);
            let syncs = after.0 - before.0;
            (syncs > 0 && after.1 - before.1 >= 30_000 * syncs).then_some(())
        });
        if quorum == 3 {
            let (receipt, elapsed) = time_write(&client);
            assert_eq!(holders(&receipt), [1, 2, 3]);
            assert!(elapsed >= DELAY, "{elapsed:?}");
        } else {
            wait_for("a write that is acknowledged without the slow one", || {
                (holders(&write(&client)) == [1, 2]).then_some(())
            });
        }
    }
}

#[test]
fn a_slow_disk_stays_slow_over_a_restart_until_that_is_taken_back() {
    let (mut cluster, _directory) = start(1, Links::Direct);
    cluster.slow_sync(LEADER, DELAY).unwrap();
    cluster.kill(LEADER).unwrap();
    cluster.restart(LEADER).unwrap();
    smol::block_on(cluster.wait_ready(DEADLINE)).unwrap();
    let client = client(&cluster);
    let (_, elapsed) = time_write(&client);
    assert!(elapsed >= DELAY, "{elapsed:?}");
    cluster.slow_sync(LEADER, Duration::ZERO).unwrap();
    wait_for("a sync that is not slowed", || (time_write(&client).1 < DELAY).then_some(()));
}
