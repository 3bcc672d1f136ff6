//! What a run is: everything about it that a seed decides ahead.
//!
//! Each seed takes some of the faults and leaves the others out, and has its own pace, sizes and timeouts: a run in
//! which everything happens all the time never gets anywhere.

use std::time::Duration;

use quorate_protocol::{Durability, Leadership, NodeSet, Quorums};

use super::faults::Fault;
use super::schedule::{MICROSECOND, MILLISECOND, Moment, Place};
use crate::directory::DirectorySettings;
use crate::log::LogSettings;
use crate::node::NodeSettings;
use crate::sim::Random;
use crate::sim::node::node_id;

/// The pairs of m and n, by seed.
const PAIRS: [(u8, u8); 12] =
    [(1, 1), (2, 1), (2, 2), (3, 1), (3, 2), (3, 3), (4, 2), (4, 3), (5, 2), (5, 3), (5, 4), (5, 5)];

/// How messages travel.
#[derive(Clone, Copy, Debug)]
pub(super) struct NetworkPlan {
    /// From one node to another, at least.
    pub(super) delay: Moment,
    /// As much again, at random.
    pub(super) jitter: Moment,
    /// Of 1000 messages so many take much longer.
    pub(super) slow_in_1000: u64,
    /// Of 1000 messages so many come again, later, whatever became of their connection.
    pub(super) copied_in_1000: u64,
    /// Of 1000 messages so many overtake those before them.
    pub(super) overtaking_in_1000: u64,
}

/// How disks work.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskPlan {
    /// A write and a sync, at least.
    pub(super) delay: Moment,
    /// As much again, at random.
    pub(super) jitter: Moment,
    /// Of 1000 steps so many take much longer.
    pub(super) slow_in_1000: u64,
}

/// What clients do.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClientPlan {
    pub(super) clients: usize,
    pub(super) keys: u64,
    /// Between an answer and the next operation, on the average.
    pub(super) pause: Moment,
    pub(super) value_bytes_max: u64,
    /// Of 100 operations.
    pub(super) writes_in_100: u64,
    pub(super) deadline: Moment,
}

/// What clients do with their sessions.
#[derive(Clone, Copy, Debug)]
pub(super) struct SessionPlan {
    /// Calls of a client at a time.
    pub(super) in_flight: u64,
    /// Of 100 writes.
    pub(super) writes_in_100: u64,
    /// Of 100 tries of a write in a session.
    pub(super) copied_in_100: u64,
    /// For so long a copy may be on its way.
    pub(super) copy_delay_max: Moment,
    /// One that is not used ends.
    pub(super) timeout: Moment,
}

/// A run.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) seed: u64,
    pub(super) m: u8,
    pub(super) n: u8,
    pub(super) leadership: Leadership,
    pub(super) network: NetworkPlan,
    pub(super) disk: DiskPlan,
    pub(super) clients: ClientPlan,
    pub(super) sessions: SessionPlan,
    pub(super) watchers: usize,
    /// Those that may happen.
    pub(super) faults: Vec<Fault>,
    /// Whether leaders admit replaced disks by themselves; else the operator has them do it.
    pub(super) admits_replaced: bool,
    /// Between two, on the average.
    pub(super) fault_pause: Moment,
    /// How long one lasts, on the average.
    pub(super) fault_length: Moment,
    /// The first.
    pub(super) first_fault: Moment,
    pub(super) batch_bytes_max: usize,
    /// Between arrival and turn, at most.
    pub(super) turn_delay: Moment,
    pub(super) tick: Moment,
    segment_bytes: u64,
    settings: NodeSettings,
}

impl Plan {
    pub(super) fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        for _ in 0..8 {
            random.next(); // The first numbers of neighbouring seeds resemble each other.
        }
        let random = &mut random;
        let (m, n) = PAIRS[(seed % PAIRS.len() as u64) as usize];
        let leadership = match random.below(8) {
            0 => Leadership::Configured(node_id(1 + random.below(u64::from(m)) as u8)),
            _ => Leadership::Elected,
        };
        let nodes: NodeSet = (1..=m).map(node_id).collect();
        Self {
            seed,
            m,
            n,
            leadership,
            network: NetworkPlan::new(random),
            disk: DiskPlan {
                delay: random.of(&[20, 100, 500]) * MICROSECOND,
                jitter: random.of(&[50, 200, 2000]) * MICROSECOND,
                slow_in_1000: random.of(&[0, 5, 50]),
            },
            clients: ClientPlan {
                clients: 2 + random.below(6) as usize,
                keys: 1 + random.below(8),
                pause: random.of(&[2, 10, 40]) * MILLISECOND,
                value_bytes_max: random.of(&[16, 300, 2000]),
                writes_in_100: random.of(&[20, 50, 80]),
                deadline: random.of(&[200, 1000]) * MILLISECOND,
            },
            watchers: 1 + random.below(3) as usize,
            admits_replaced: random.below(2) == 0,
            faults: Fault::some(random),
            fault_pause: random.of(&[30, 100, 300, 800]) * MILLISECOND,
            fault_length: random.of(&[20, 100, 400, 1000]) * MILLISECOND,
            first_fault: random.of(&[0, 200, 500]) * MILLISECOND,
            batch_bytes_max: random.of(&[1 << 10, 8 << 10, 64 << 10]) as usize,
            turn_delay: random.of(&[20, 100, 2000]) * MICROSECOND,
            tick: random.of(&[5, 10]) * MILLISECOND,
            segment_bytes: random.of(&[16, 16, 32]) << 10,
            settings: settings(random, nodes),
            sessions: SessionPlan {
                in_flight: random.of(&[1, 1, 4]),
                writes_in_100: random.of(&[50, 80, 100]),
                copied_in_100: random.of(&[35, 60]),
                copy_delay_max: random.of(&[5, 300, 5000]) * MILLISECOND,
                timeout: random.of(&[900, 3000, 600_000]) * MILLISECOND,
            },
        }
    }

    pub(super) fn members(&self) -> usize {
        usize::from(self.m)
    }

    pub(super) fn quorums(&self) -> Quorums {
        Quorums::new(self.m, self.n).unwrap()
    }

    /// The configured leader.
    pub(super) fn configured_leader(&self) -> Option<Place> {
        match self.leadership {
            Leadership::Configured(node) => Some(usize::from(node.get()) - 1),
            Leadership::Elected => None,
        }
    }

    pub(super) fn directory(&self, place: Place) -> DirectorySettings {
        DirectorySettings {
            cluster: "sim".into(),
            node: node_id(place as u8 + 1),
            quorums: self.quorums(),
            leadership: self.leadership,
            durability: Durability::Fsync,
        }
    }

    pub(super) fn log(&self, random: &mut Random) -> LogSettings {
        LogSettings {
            segment_bytes: self.segment_bytes,
            salt_seed: Some(random.next()),
            ..LogSettings::default()
        }
    }

    /// Of a node in one of its lives.
    pub(super) fn node(&self, place: Place, random: &mut Random) -> NodeSettings {
        NodeSettings {
            advertise: format!("{}", place + 1),
            election_seed: random.next(),
            admits_replaced: self.admits_replaced,
            session_timeout: Duration::from_nanos(self.sessions.timeout),
            ..self.settings.clone()
        }
    }
}

impl ClientPlan {
    pub(super) fn deadline_ms(&self) -> u32 {
        (self.deadline / MILLISECOND) as u32
    }
}

impl NetworkPlan {
    fn new(random: &mut Random) -> Self {
        Self {
            delay: random.of(&[20, 100, 1000]) * MICROSECOND,
            jitter: random.of(&[50, 500, 5000]) * MICROSECOND,
            slow_in_1000: random.of(&[0, 5, 30]),
            copied_in_1000: random.of(&[0, 0, 10, 100]),
            overtaking_in_1000: random.of(&[0, 0, 20, 200]),
        }
    }
}

fn settings(random: &mut Random, nodes: NodeSet) -> NodeSettings {
    let disk_stall = Duration::from_millis(random.of(&[200, 500, 2000]));
    NodeSettings {
        uncommitted_bytes_max: random.of(&[4, 64, 1024]) as usize * 1024,
        window_bytes_max: random.of(&[1, 8, 64]) as usize * 1024,
        tail_bytes_max: random.of(&[0, 1, 8, 64]) as usize * 1024,
        checkpoint_interval_bytes: random.of(&[4, 16, 64]) << 10,
        log_retention_bytes: random.of(&[0, 8, 64, 16 << 10]) << 10,
        watch_history_bytes: random.of(&[2, 16, 1024]) as usize * 1024,
        lease: random.of(&[None, None, None, Some(Duration::from_millis(300))]),
        disk_stall,
        disk_timeout: disk_stall * 3,
        ..NodeSettings::new(nodes)
    }
}
