//! The plan: everything that a run of the harness will do, decided before anything starts.
//!
//! A plan is a list of [`Case`]s, each measured `repeats` times on a fresh cluster, in an order that follows from
//! the seed. It says everything, so it can be kept as a file, edited and run again, and a report that holds it
//! can be repeated by whoever reads it.
//!
//! Invariants: what [`Plan::check`] has passed can be run; the order depends on the plan alone.

mod check;
mod fault;
mod leadership;
mod load;
mod scenario;

use std::fmt;
use std::time::Duration;

use quorate_protocol::{Durability, Quorums};
use serde::{Deserialize, Serialize};

pub use check::check_open_files;
pub use fault::{Action, Fault, When, Who};
pub use leadership::LeaderSettings;
pub use load::{Arrivals, Distribution, Load, ReadFrom, Spacing, ValueBytes};
pub use scenario::Scenario;

use crate::peers::PeerKind;
use crate::proxy::LinkSettings;
use crate::units::{format_duration, optional_duration};

/// Version of plan files.
pub const VERSION: u32 = 2;

/// What is measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// [`VERSION`]
    pub version: u32,
    /// What keys, values, arrivals, jitter and the order of runs are drawn from: two runs of one plan send the
    /// same writes.
    pub seed: u64,
    /// How often each case is measured. Only repeats can tell a difference from chance.
    pub repeats: u32,
    /// Whether the runs of each round of repeats are shuffled, so that what changes with time (a disk that fills,
    /// a neighbour that wakes) does not look like a difference between cases.
    pub shuffle: bool,
    /// The cases.
    pub cases: Vec<Case>,
}

/// One cluster and one load on it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Case {
    /// What is measured.
    pub system: System,
    /// m: replicas of the cluster.
    pub replicas: u8,
    /// n: replicas, the leader included, that hold a write durably before it is acknowledged.
    pub quorum: u8,
    /// What "durably" means.
    #[serde(with = "durability_text")]
    pub durability: Durability,
    /// How its leader is found. Plans of before there were elections do not say it.
    #[serde(default = "LeaderSettings::before_elections")]
    pub leadership: LeaderSettings,
    /// For how long its servers look for events before they let a core sleep; none for the server's default.
    #[serde(default, with = "optional_duration")]
    pub busy_poll: Option<Duration>,
    /// The load.
    pub load: Load,
    /// What the links to and from single nodes are like, from the start; without any, nothing stands between the
    /// nodes.
    #[serde(default)]
    pub links: Vec<NodeLink>,
    /// What is done to the cluster while it is measured.
    #[serde(default)]
    pub faults: Vec<Fault>,
    /// Probes a second, for each follower, of when an acknowledged write can be read there; 0 for none.
    pub probes_per_second: u32,
}

/// What is measured.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum System {
    /// Quorate, started by the harness.
    Quorate,
    /// A cluster of Quorate that runs already, by the client addresses of its nodes. Replicas, quorum and
    /// durability are what it says; nothing is started or stopped.
    Connected(Vec<String>),
    /// Another system, started by the harness.
    Peer(PeerKind),
}

/// What the links between one node and all others are like, both ways.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NodeLink {
    /// The node.
    pub node: u8,
    /// Its links; the delay counts once in each direction.
    pub link: LinkSettings,
}

/// One measurement: which case, and the how-manieth time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Step {
    /// Position of the case in the plan.
    pub case: usize,
    /// From 1 to the plan's repeats.
    pub repeat: u32,
}

impl Plan {
    /// A plan of these cases, each measured once, in their order.
    pub fn new(seed: u64, cases: Vec<Case>) -> Self {
        Self { version: VERSION, seed, repeats: 1, shuffle: false, cases }
    }

    /// All measurements in the order in which they are made: every case once, then every case again.
    pub fn steps(&self) -> Vec<Step> {
        let mut random = fastrand::Rng::with_seed(self.seed);
        (1..=self.repeats)
            .flat_map(|repeat| {
                let mut round: Vec<_> = (0..self.cases.len()).map(|case| Step { case, repeat }).collect();
                if self.shuffle {
                    random.shuffle(&mut round);
                }
                round
            })
            .collect()
    }

    /// As it is kept in a file, with a newline at the end.
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("a plan has text keys and finite numbers");
        json.push('\n');
        json
    }

    /// How long loading takes at the least, warm-ups included; starting and verifying come on top.
    pub fn load_time(&self) -> Duration {
        let once: Duration = self.cases.iter().map(|case| case.load.warmup + case.load.duration).sum();
        once * self.repeats
    }

    /// Nodes of the largest cluster that is started; 0 if none is.
    pub fn replicas_max(&self) -> u8 {
        let started = self.cases.iter().filter(|case| !matches!(case.system, System::Connected(_)));
        started.map(|case| case.replicas).max().unwrap_or(0)
    }
}

impl Case {
    /// m and n as the protocol has them; an error if a plan was edited into an impossible one.
    pub fn quorums(&self) -> anyhow::Result<Quorums> {
        Ok(Quorums::new(self.replicas, self.quorum)?)
    }

    /// What a server of this cluster is started with, beside what every cluster has.
    pub fn server_options(&self) -> Vec<String> {
        let busy_poll = self.busy_poll.map(|time| format!("--busy-poll-us={}", time.as_micros()));
        self.leadership.server_options().into_iter().chain(busy_poll).collect()
    }

    /// Whether something must stand between the nodes.
    pub fn needs_proxy(&self) -> bool {
        !self.links.is_empty() || self.faults.iter().any(|fault| fault.action.is_of_a_link())
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Quorate => f.write_str("quorate"),
            Self::Connected(servers) => f.write_str(&servers.join(",")),
            Self::Peer(peer) => write!(f, "{peer}"),
        }
    }
}

impl fmt::Display for NodeLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "link {} = {}", self.node, self.link)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { system, replicas, quorum, durability, busy_poll, links, .. } = self;
        if *system != System::Quorate {
            write!(f, "{system}, ")?;
        }
        write!(f, "quorum {quorum} of {replicas}, {durability}")?;
        if let Some(time) = busy_poll {
            write!(f, ", busy poll {}", format_duration(*time))?;
        }
        links.iter().try_for_each(|link| write!(f, ", {link}"))
    }
}

/// Durability in plans and reports: the words of the command line.
pub mod durability_text {
    use quorate_protocol::Durability;
    use serde::de::Error as _;
    use serde::{Deserialize, Deserializer, Serializer};

    /// Reads `fsync` or `os`. The error is a sentence for the person who typed it.
    pub fn parse(text: &str) -> Result<Durability, String> {
        match text {
            "fsync" => Ok(Durability::Fsync),
            "os" => Ok(Durability::Os),
            _ => Err(format!("\"{text}\" is no durability: write fsync or os")),
        }
    }

    /// Writes a durability.
    pub fn serialize<S: Serializer>(durability: &Durability, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(durability)
    }

    /// Reads a durability.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Durability, D::Error> {
        parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Quorum n of 3, 64 clients, 10 s.
    pub(crate) fn case(quorum: u8) -> Case {
        Case {
            system: System::Quorate,
            replicas: 3,
            quorum,
            durability: Durability::Fsync,
            leadership: LeaderSettings::default(),
            busy_poll: None,
            load: load::tests::load(),
            links: Vec::new(),
            faults: Vec::new(),
            probes_per_second: 10,
        }
    }

    #[test]
    fn a_plan_reads_back_from_its_json() {
        let mut slow = case(2);
        slow.durability = Durability::Os;
        slow.links.push(NodeLink { node: 2, link: "5ms±1ms".parse().unwrap() });
        slow.faults.push("3s pause 2".parse().unwrap());
        let mut plan = Plan::new(7, vec![case(1), slow]);
        plan.repeats = 3;
        let json = plan.json();
        for text in [r#""durability": "os""#, r#""warmup": "2s""#, r#""5ms±1ms""#, r#""3s pause 2""#] {
            assert!(json.contains(text), "{text}: {json}");
        }
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
        assert_eq!(plan.cases[1].to_string(), "quorum 2 of 3, os, link 2 = 5ms±1ms");
    }

    #[test]
    fn a_field_that_nobody_knows_is_refused() {
        let json = Plan::new(1, vec![case(2)]).json().replace("\"repeats\"", "\"repeat\"");
        assert!(serde_json::from_str::<Plan>(&json).is_err());
    }

    #[test]
    fn every_round_has_every_case_once_in_an_order_that_the_seed_decides() {
        let mut plan = Plan::new(3, (1..=3).map(case).collect());
        (plan.repeats, plan.shuffle) = (20, true);
        let steps = plan.steps();
        for (round, steps) in steps.chunks(3).enumerate() {
            let mut cases: Vec<_> = steps.iter().map(|step| step.case).collect();
            cases.sort_unstable();
            assert_eq!(cases, [0, 1, 2]);
            assert!(steps.iter().all(|step| step.repeat == round as u32 + 1));
        }
        assert_eq!(steps, plan.steps());
        assert!(steps.chunks(3).any(|round| round[0].case != 0), "nothing was shuffled");
        plan.shuffle = false;
        assert!(plan.steps().chunks(3).all(|round| round.is_sorted_by_key(|step| step.case)));
    }
}
