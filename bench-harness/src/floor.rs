//! The floor of a write's latency: what it takes on an idle machine whose server does everything in no time.
//!
//! The parts come from the probes, so a reader sees at once how much of a measured latency is the machine's,
//! and how much Quorate and the load add: "measured p50 is 3.1 × the floor".
//!
//! The parts are the probes' 10th percentiles: medians rise with whatever else the machine does while it is
//! probed, up to many times on busy processors, and the quickest of several followers is quicker than the
//! median one. A floor so made can still be missed by a little from below, if the machine was busy all the
//! while that it was probed. What is left out: processor time of server and client, waking threads for
//! anything but the two round trips, waiting for other writes, and that all nodes of one machine share its
//! disk.

use quorate_protocol::Durability;
use serde::{Deserialize, Serialize};

use crate::environment::Environment;

/// How the floor comes about, for whoever reads it beside a measured latency.
pub const EXPLANATION: &str = "\
The floor is the time that a write takes on this machine when nothing else happens and the server itself takes \
no time: the client's round trip to the leader and, meanwhile, the leader's own sync and each follower's round \
trip, link delay both ways, and sync, all at the same time. Of n replicas the leader is always one, so the \
(n-1)-th quickest follower decides, and with n = 1 the leader's disk alone. Round trips and syncs were measured \
before the run, and the time counts that one in ten of them stayed below: what they take undisturbed. With \
durability os no sync is waited for.";

/// What the probes and the plan say, in microseconds.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FloorInputs {
    /// Undisturbed round trip between two threads of this machine.
    pub loopback_rtt_us: u64,
    /// Undisturbed sync where the nodes keep their data.
    pub sync_us: u64,
    /// For each follower, in any order, what its link to the leader is delayed on purpose, one way.
    pub follower_delay_us: Vec<u64>,
}

/// The floor of one case.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Floor {
    /// From a client's call to its answer, in microseconds: the sum of the parts.
    pub latency_us: u64,
    /// What it is made of, in the order in which it happens. Parts that take no time are left out.
    pub parts: Vec<FloorPart>,
}

/// One part of a floor.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FloorPart {
    /// What it is, in words.
    pub name: String,
    /// How long it takes, in microseconds.
    pub us: u64,
}

impl FloorInputs {
    /// What the probes of an environment say, and the plan of its links.
    pub fn new(environment: &Environment, follower_delay_us: Vec<u64>) -> Self {
        let (loopback_rtt_us, sync_us) = (environment.loopback.p10_us, environment.fsync.p10_us);
        Self { loopback_rtt_us, sync_us, follower_delay_us }
    }
}

impl Floor {
    /// The floor of writes that `quorum` replicas hold, the leader included. None if there are not as many:
    /// `quorum` is from 1 to one more than there are followers.
    pub fn of(quorum: u8, durability: Durability, inputs: &FloorInputs) -> Option<Self> {
        let sync_us = match durability {
            Durability::Fsync => inputs.sync_us,
            Durability::Os => 0,
        };
        let mut parts = vec![("client and leader, there and back", inputs.loopback_rtt_us)];
        // A follower's sync comes after its message. So whenever a follower is needed, the leader's own
        // sync, which begins with that message, has ended before.
        match usize::from(quorum).checked_sub(1)? {
            0 => parts.push(("the leader's sync", sync_us)),
            followers => {
                let delay_us = nth_smallest(&inputs.follower_delay_us, followers)?;
                parts.push(("leader and the deciding follower, there and back", inputs.loopback_rtt_us));
                parts.push(("added delay of that follower's link, both ways", delay_us.saturating_mul(2)));
                parts.push(("that follower's sync, while the leader syncs too", sync_us));
            }
        }
        Some(Self::sum(parts))
    }

    fn sum(parts: Vec<(&str, u64)>) -> Self {
        let latency_us = parts.iter().fold(0, |sum: u64, (_, us)| sum.saturating_add(*us));
        let parts = parts.into_iter().filter(|(_, us)| *us > 0);
        Self { latency_us, parts: parts.map(|(name, us)| FloorPart { name: name.to_owned(), us }).collect() }
    }

    /// How many times the floor a measured latency is, to a tenth; none if the floor is 0.
    pub fn multiple(&self, measured_us: u64) -> Option<f64> {
        (self.latency_us > 0).then(|| (measured_us as f64 * 10.0 / self.latency_us as f64).round() / 10.0)
    }
}

/// The n-th smallest, from 1 on; none if there are fewer.
fn nth_smallest(numbers: &[u64], n: usize) -> Option<u64> {
    let mut ascending = numbers.to_vec();
    ascending.sort_unstable();
    ascending.get(n - 1).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::environment::tests::environment;

    /// A round trip takes 50 µs and a sync 120 µs.
    fn floor(quorum: u8, durability: Durability, follower_delay_us: &[u64]) -> Option<Floor> {
        let follower_delay_us = follower_delay_us.to_vec();
        let inputs = FloorInputs { loopback_rtt_us: 50, sync_us: 120, follower_delay_us };
        Floor::of(quorum, durability, &inputs)
    }

    fn parts_us(floor: &Floor) -> Vec<u64> {
        floor.parts.iter().map(|part| part.us).collect()
    }

    #[test]
    fn one_of_three_waits_for_the_client_and_the_leaders_disk() {
        let floor = floor(1, Durability::Fsync, &[0, 5_000]).unwrap();
        assert_eq!((floor.latency_us, parts_us(&floor)), (170, vec![50, 120]));
        assert_eq!(floor.parts[1].name, "the leader's sync");
    }

    #[test]
    fn two_of_three_wait_for_the_nearest_follower() {
        let floor = floor(2, Durability::Fsync, &[10_000, 0]).unwrap();
        assert_eq!((floor.latency_us, parts_us(&floor)), (220, vec![50, 50, 120]));
    }

    #[test]
    fn three_of_three_wait_for_the_farthest_follower_and_its_delay_both_ways() {
        let floor = floor(3, Durability::Fsync, &[10_000, 0]).unwrap();
        assert_eq!((floor.latency_us, parts_us(&floor)), (20_220, vec![50, 50, 20_000, 120]));
    }

    #[test]
    fn three_of_five_wait_for_the_second_nearest_follower() {
        let floor = floor(3, Durability::Fsync, &[40_000, 1_000, 30_000, 2_000]).unwrap();
        assert_eq!(floor.latency_us, 50 + 50 + 4_000 + 120);
    }

    #[test]
    fn without_syncs_the_round_trips_are_left() {
        assert_eq!(floor(1, Durability::Os, &[0, 0]).unwrap().latency_us, 50);
        assert_eq!(parts_us(&floor(2, Durability::Os, &[0, 0]).unwrap()), [50, 50]);
    }

    #[test]
    fn a_quorum_that_cannot_be_has_no_floor() {
        assert_eq!(floor(0, Durability::Fsync, &[0, 0]), None);
        assert_eq!(floor(4, Durability::Fsync, &[0, 0]), None);
        assert!(floor(1, Durability::Fsync, &[]).is_some());
    }

    #[test]
    fn the_probes_undisturbed_times_are_what_counts() {
        let inputs = FloorInputs::new(&environment(), vec![0, 500]);
        assert_eq!(
            inputs,
            FloorInputs { loopback_rtt_us: 40, sync_us: 100, follower_delay_us: vec![0, 500] }
        );
    }

    #[test]
    fn a_measured_latency_is_so_many_times_the_floor() {
        let floor = floor(2, Durability::Fsync, &[0, 0]).unwrap();
        assert_eq!([682, 220, 100, 0].map(|us| floor.multiple(us)), [3.1, 1.0, 0.5, 0.0].map(Some));
        let nothing = Floor { latency_us: 0, parts: Vec::new() };
        assert_eq!(nothing.multiple(682), None);
    }

    #[test]
    fn a_floor_adds_up_and_reads_back_from_its_json() {
        let floor = floor(3, Durability::Fsync, &[7, 11]).unwrap();
        assert_eq!(floor.latency_us, parts_us(&floor).iter().sum::<u64>());
        let json = serde_json::to_string(&floor).unwrap();
        assert_eq!(serde_json::from_str::<Floor>(&json).unwrap(), floor);
    }
}
