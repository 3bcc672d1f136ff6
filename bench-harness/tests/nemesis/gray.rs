//! Gray failures: a node that is there and slow, or there and stuck, costs the others nothing.
//!
//! That the others go on is asserted; how fast is printed, against the same cluster a moment before.

use std::thread;
use std::time::{Duration, Instant};

use bench_harness::proxy::LinkSettings;
use quorate_client::NodeStatus;

use super::clients::{CALL, Load};
use super::machine;
use super::scene::{Scene, Setup};
use super::support::wait_for;
use quorate_protocol::Quorums;

/// Writes that are timed, one after the other, beside the load.
const WRITES: usize = 500;

const SLOW_SYNC: Duration = Duration::from_millis(100);

const SLOW_LINK: Duration = Duration::from_millis(100);

/// Less than the load writes in a second.
const NARROW_LINK: u64 = 50_000;

/// No disk that works needs that long.
const STUCK: Duration = Duration::from_millis(300);

fn start() -> Scene {
    let pause = Duration::from_millis(1);
    let load = Load { connections: 6, callers: 2, keys: 8, pause, deadline: CALL, patient: true, seed: 2026 };
    Scene::start(Setup { quorums: Quorums::new(3, 2).unwrap(), load, checkpoint_mib: 1 })
}

/// The leader, and a follower.
fn leader_and_follower(scene: &Scene) -> (u8, u8) {
    let leader = wait_for("a leader", || scene.leader());
    (leader, scene.nodes().rev().find(|node| *node != leader).unwrap())
}

/// The slowest of a hundred writes.
fn p99(scene: &mut Scene, when: &str) -> Duration {
    let mut times: Vec<_> = (0..WRITES).map(|_| scene.wait_for_progress(when)).collect();
    times.sort_unstable();
    times[WRITES * 99 / 100]
}

/// Times writes before and while `what` is the case, which `begin` brings about; prints both.
fn compare(scene: &mut Scene, what: &str, begin: impl FnOnce(&mut Scene)) {
    let healthy = p99(scene, "a healthy cluster");
    begin(scene);
    let began = Instant::now();
    let slow = p99(scene, what);
    println!(
        "{what}: p99 of a write {:.2} ms, {:.2} times that before ({WRITES} writes in {:.1?})",
        slow.as_secs_f64() * 1e3,
        slow.as_secs_f64() / healthy.as_secs_f64(),
        began.elapsed(),
    );
}

/// How long a node's writes with their syncs took between two statuses, on the average.
fn mean_sync(from: &NodeStatus, to: &NodeStatus) -> Option<Duration> {
    let (from, to) = (from.view().disk, to.view().disk);
    let syncs = to.syncs.checked_sub(from.syncs).filter(|syncs| *syncs > 0)?;
    Some(Duration::from_micros((to.busy_us - from.busy_us) / syncs))
}

/// Waits until the leader sees the follower this far behind.
fn wait_behind(scene: &Scene, follower: u8, lag: Duration) {
    wait_for("a follower that is behind", || {
        let status = scene.status(scene.leader()?)?;
        let known = status.view().followers.iter().find(|known| known.node.get() == follower)?.lag_now_us;
        (Duration::from_micros(known) >= lag).then_some(())
    });
}

/// Waits until a node has entries that its disk does not take.
fn wait_stuck(scene: &Scene, node: u8) {
    wait_for("a disk that takes nothing", || {
        let before = scene.status(node)?.view().durable;
        thread::sleep(STUCK);
        let status = scene.status(node)?;
        (status.view().durable == before && status.view().last > before).then_some(())
    });
}

#[test]
fn a_follower_that_is_slow_in_any_way_holds_nobody_up() {
    let _machine = machine();
    let mut scene = start();
    let (_, slow) = leader_and_follower(&scene);

    let before = scene.status(slow).unwrap();
    compare(&mut scene, "a follower whose syncs take 100 ms longer", |scene| {
        scene.slow_disk(slow, SLOW_SYNC)
    });
    wait_for("a slow sync", || (mean_sync(&before, &scene.status(slow)?)? >= SLOW_SYNC / 10).then_some(()));
    scene.heal_disk(slow);

    compare(&mut scene, "a follower whose links take 100 ms each way", |scene| {
        scene.cluster.set_link(slow, LinkSettings::delay(SLOW_LINK)).unwrap();
        wait_behind(scene, slow, SLOW_LINK / 2);
    });
    scene.heal_links();

    compare(&mut scene, "a follower whose links carry 50 kB/s", |scene| {
        let narrow = LinkSettings { bytes_per_second: Some(NARROW_LINK), ..LinkSettings::default() };
        scene.cluster.set_link(slow, narrow).unwrap();
        wait_behind(scene, slow, SLOW_LINK);
    });
    scene.heal_links();

    compare(&mut scene, "a follower whose disk hangs", |scene| {
        scene.hang_disk(slow);
        wait_behind(scene, slow, SLOW_SYNC);
    });
    scene.finish();
}

#[test]
fn a_leader_whose_disk_hangs_gives_way_while_its_process_goes_on() {
    let _machine = machine();
    let mut scene = start();
    let (old, _) = leader_and_follower(&scene);
    let process = scene.cluster.process_id(old);
    scene.hang_disk(old);
    wait_stuck(&scene, old);
    let took = scene.wait_for_progress("the leader's disk hangs");
    let new = wait_for("another leader", || scene.leader().filter(|leader| *leader != old));
    assert_eq!(scene.cluster.process_id(old), process);
    println!("a leader whose disk hangs: node {new} followed node {old}, a write succeeded after {took:.1?}");
    scene.finish();
}
