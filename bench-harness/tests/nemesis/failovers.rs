//! What applications see of failovers: the client with its defaults, while leaders are killed one after the other.
//!
//! The checker accepts everything that the clients were told, nothing acknowledged is lost, and how many outcomes were
//! unknown is printed: with sessions a write is sent again until it has its result. In the test command two leaders are
//! killed; ten in a minute by
//!
//! ```sh
//! QUORATE_FAILOVERS=10 QUORATE_FAILOVER_SECONDS=60 cargo test -p bench-harness --test nemesis failovers -- --nocapture
//! ```

use std::thread;
use std::time::{Duration, Instant};

use quorate_protocol::Quorums;

use super::clients::{Counts, Load};
use super::scene::{Scene, Setup};
use super::support::wait_for;
use super::{machine, seed, setting};

/// Of each call: the client's default.
const DEADLINE: Duration = Duration::from_secs(2);

const CLIENTS: usize = 64;

/// Leaders that are killed, unless `QUORATE_FAILOVERS` says otherwise.
const KILLS: u64 = 2;

/// What all of it takes, at least, unless `QUORATE_FAILOVER_SECONDS` says otherwise.
const SECONDS: u64 = 4;

#[test]
fn clients_outlive_failovers_and_lose_nothing() {
    let _machine = machine();
    let kills = setting("QUORATE_FAILOVERS").unwrap_or(KILLS);
    let time = Duration::from_secs(setting("QUORATE_FAILOVER_SECONDS").unwrap_or(SECONDS));
    let load = Load {
        connections: CLIENTS,
        callers: 1,
        keys: 200,
        pause: Duration::ZERO,
        deadline: DEADLINE,
        patient: false,
        seed: seed(),
    };
    let mut scene = Scene::start(Setup { quorums: Quorums::new(3, 2).unwrap(), load, checkpoint_mib: 1 });
    let began = Instant::now();
    let mut outages = Vec::new();
    for kill in 1..=kills {
        let leader = wait_for("a leader", || scene.leader());
        scene.kill(leader);
        outages.push(scene.wait_for_progress("after a leader was killed"));
        scene.restart(leader);
        // The load goes on until the next one.
        while began.elapsed() < time * kill as u32 / kills as u32 {
            scene.check_up();
            thread::sleep(Duration::from_millis(10));
        }
    }
    let Counts { refused, unknown, latest } = scene.counts();
    let took = began.elapsed();
    let summary = scene.finish();
    outages.sort_unstable();
    let share = 100.0 * unknown as f64 / summary.answered as f64;
    println!(
        "{kills} leaders killed in {took:.1?}: {} calls answered, {refused} refused, {unknown} unknown ({share:.4} %); \
         the latest call took {latest:.1?} beyond its deadline; until a write succeeded {outages:.0?}",
        summary.answered,
    );
    assert!(summary.terms > 1, "leaders were killed, and none followed");
}
