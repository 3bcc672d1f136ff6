//! Every state of the links between three nodes: each of the six directions open or cut.
//!
//! One cluster goes through them, under load, with checkpoints under way, in an order that the seed decides. Mostly it
//! is healed in between; sometimes a state follows another at once, in the middle of an election. In each state in which
//! some node reaches another both ways writes must succeed, which takes a leader; in the others nothing can. What was
//! acknowledged is one history all the way.
//!
//! The test command takes some of the states; all of them, in another order:
//!
//! ```sh
//! QUORATE_PARTITIONS=64 QUORATE_NEMESIS_SEED=7 cargo test -p bench-harness --test nemesis states -- --nocapture
//! ```

use std::thread;
use std::time::Duration;

use super::clients::{CALL, Load};
use super::scene::{Scene, Setup};
use super::support::wait_for;
use super::{machine, seed, setting};
use quorate_protocol::Quorums;

/// Bit i of a state cuts direction i.
const DIRECTIONS: [(u8, u8); 6] = [(1, 2), (2, 1), (1, 3), (3, 1), (2, 3), (3, 2)];

const STATES: u8 = 1 << DIRECTIONS.len();

/// States that the test command takes.
const SAMPLE: u64 = 16;

/// The longest that a node waits for a leader, by default.
const ELECTION_TIMEOUT: Duration = Duration::from_millis(600);

/// Of a state in which there can be no leader: long enough that the last one gives up.
const HOLD: Duration = Duration::from_millis(700);

/// In one state.
struct Seen {
    /// None if nothing could succeed.
    until_write: Option<Duration>,
    /// Cut directions into which somebody sent.
    held: usize,
}

fn enter(scene: &mut Scene, state: u8) {
    for (bit, (from, to)) in DIRECTIONS.into_iter().enumerate() {
        let cut = state & 1 << bit != 0;
        if cut && !scene.broken.cut.contains(&(from, to)) {
            scene.cut(from, to);
        } else if !cut && scene.broken.cut.contains(&(from, to)) {
            scene.heal(from, to);
        }
    }
}

fn go_through(scene: &mut Scene, state: u8) -> Seen {
    let leader = scene.leader();
    enter(scene, state);
    let until_write = if scene.must_go_on(leader) {
        Some(scene.wait_for_progress(&format!("state {state:06b}, node {leader:?} led")))
    } else {
        thread::sleep(HOLD);
        None
    };
    let proxy = scene.cluster.proxy().unwrap();
    let is_held = |(from, to): &&(u8, u8)| proxy.traffic(*from, *to).unwrap().waiting_bytes > 0;
    Seen { until_write, held: scene.broken.cut.iter().filter(is_held).count() }
}

fn print(seen: &[Seen]) {
    let mut times: Vec<_> = seen.iter().filter_map(|seen| seen.until_write).collect();
    times.sort_unstable();
    let timeouts = |time: Duration| time.as_secs_f64() / ELECTION_TIMEOUT.as_secs_f64();
    let within = |most: f64| times.iter().filter(|time| timeouts(**time) <= most).count();
    println!(
        "{} states, {} of them with a quorum: a write succeeded within half an election timeout ({ELECTION_TIMEOUT:?}) \
         in {}, 1 in {}, 2 in {}, 3 in {}, 5 in {}; median {:.2}, longest {:.2}; bytes held back in {} directions",
        seen.len(),
        times.len(),
        within(0.5),
        within(1.0),
        within(2.0),
        within(3.0),
        within(5.0),
        timeouts(times[times.len() / 2]),
        timeouts(times[times.len() - 1]),
        seen.iter().map(|seen| seen.held).sum::<usize>(),
    );
}

#[test]
fn in_all_states_of_the_links_a_node_that_reaches_a_quorum_both_ways_leads() {
    let _machine = machine();
    let mut random = fastrand::Rng::with_seed(seed());
    let load = Load {
        connections: 6,
        callers: 2,
        keys: 8,
        pause: Duration::from_millis(1),
        deadline: CALL,
        patient: true,
        seed: seed(),
    };
    let mut scene = Scene::start(Setup { quorums: Quorums::new(3, 2).unwrap(), load, checkpoint_mib: 1 });
    let mut states: Vec<u8> = (0..STATES).collect();
    random.shuffle(&mut states);
    states.truncate(setting("QUORATE_PARTITIONS").unwrap_or(SAMPLE) as usize);
    let mut seen = Vec::new();
    for state in states {
        if random.u8(..3) > 0 {
            scene.heal_links();
            scene.wait_for_progress(&format!("healed, before state {state:06b}"));
        }
        seen.push(go_through(&mut scene, state));
    }
    print(&seen);
    assert!(seen.iter().any(|seen| seen.held > 0), "nothing was sent into any cut");
    scene.heal_links();
    for node in scene.nodes() {
        wait_for("a checkpoint", || (scene.status(node)?.view().checkpoint > 0).then_some(()));
    }
    scene.finish();
}

#[test]
fn a_leader_that_hears_too_few_for_a_write_gives_way_to_one_that_hears_enough() {
    let _machine = machine();
    let load = Load {
        connections: 2,
        callers: 2,
        keys: 8,
        pause: Duration::from_millis(1),
        deadline: CALL,
        patient: true,
        seed: seed(),
    };
    let mut scene = Scene::start(Setup { quorums: Quorums::new(4, 3).unwrap(), load, checkpoint_mib: 1 });
    scene.wait_for_progress("nothing is broken");
    let leader = scene.leader().unwrap();
    let kept = scene.nodes().find(|node| *node != leader).unwrap();
    for cut in scene.nodes().filter(|node| *node != leader && *node != kept) {
        scene.cut(leader, cut);
        scene.cut(cut, leader);
    }
    assert!(scene.must_go_on(Some(leader)), "the three others hear each other");
    scene.wait_for_progress("the leader hears one of the three others");
    assert_eq!(scene.leader(), Some(kept), "no other gets a vote of the one that hears a leader");
    scene.finish();
}
