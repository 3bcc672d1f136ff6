//! The plan: everything that a run of the harness will do, decided before anything starts.
//!
//! A plan is a list of [`Case`]s, measured one after the other, each on a fresh cluster. It is kept in the
//! report, so that a reader knows what was asked and can ask it again.

use std::fmt;
use std::time::Duration;

use quorate_protocol::{Durability, Quorums};
use serde::{Deserialize, Serialize};

use crate::units::{counted, duration_text, show_bytes};

/// What is measured, in order.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// What keys and values are drawn from: two runs of one plan send the same writes.
    pub seed: u64,
    /// The cases, in the order they are measured.
    pub cases: Vec<Case>,
}

/// One cluster and one load on it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Case {
    /// m: replicas of the cluster.
    pub replicas: u8,
    /// n: replicas, the leader included, that hold a write durably before it is acknowledged.
    pub quorum: u8,
    /// What "durably" means.
    #[serde(with = "durability_text")]
    pub durability: Durability,
    /// The load.
    pub load: Load,
}

/// A closed loop: each client sends its next write as soon as one of its earlier ones is answered.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Clients, each a TCP connection of its own.
    pub clients: usize,
    /// Writes that each client keeps unanswered.
    pub in_flight: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Different keys, drawn uniformly.
    pub keys: u64,
    /// How long is measured.
    #[serde(with = "duration_text")]
    pub duration: Duration,
    /// How long the load runs before it is measured.
    #[serde(with = "duration_text")]
    pub warmup: Duration,
}

impl Case {
    /// m and n as the protocol has them; an error if a plan was edited into an impossible one.
    pub fn quorums(&self) -> anyhow::Result<Quorums> {
        Ok(Quorums::new(self.replicas, self.quorum)?)
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { replicas, quorum, durability, .. } = self;
        write!(f, "quorum {quorum} of {replicas}, {durability}")
    }
}

impl fmt::Display for Load {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { clients, in_flight, value_bytes, keys, .. } = self;
        let value = show_bytes(*value_bytes as u64);
        let (clients, keys) = (counted(*clients as u64, "client"), counted(*keys, "key"));
        write!(f, "{clients} × {in_flight} in flight, {value} values, {keys}")
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
mod tests {
    use super::*;

    #[test]
    fn a_plan_reads_back_from_its_json() {
        let plan = Plan {
            seed: 7,
            cases: vec![Case {
                replicas: 3,
                quorum: 2,
                durability: Durability::Os,
                load: Load {
                    clients: 64,
                    in_flight: 1,
                    value_bytes: 1024,
                    keys: 1000,
                    duration: Duration::from_secs(10),
                    warmup: Duration::from_millis(1500),
                },
            }],
        };
        let json = serde_json::to_string(&plan).unwrap();
        assert!(json.contains(r#""durability":"os""#) && json.contains(r#""warmup":"1500ms""#), "{json}");
        assert_eq!(serde_json::from_str::<Plan>(&json).unwrap(), plan);
        assert_eq!(plan.cases[0].to_string(), "quorum 2 of 3, os");
        assert_eq!(plan.cases[0].load.to_string(), "64 clients × 1 in flight, 1 KiB values, 1000 keys");
    }
}
