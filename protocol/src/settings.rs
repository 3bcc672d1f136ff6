//! What all replicas of a cluster agree on: quorums, durability, and how the leader is found.

use std::fmt;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{NodeId, limits};

/// What "durable" means in a cluster.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Durability {
    /// Synced to the disk: survives a power cut.
    Fsync,
    /// Written to the page cache: survives a killed process, not a power cut (R30).
    Os,
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Fsync => "fsync",
            Self::Os => "os",
        })
    }
}

/// How the leader is found.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub enum Leadership {
    /// One node leads by configuration; no elections.
    Configured(NodeId),
    /// Whoever has e votes (R2).
    Elected,
}

impl fmt::Display for Leadership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Configured(node) => write!(f, "configured leader {node}"),
            Self::Elected => f.write_str("elected leader"),
        }
    }
}

/// m and n, and what follows from them. Every value of this type keeps R1.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "(u8, u8)", into = "(u8, u8)")]
pub struct Quorums {
    replicas: u8,
    quorum: u8,
}

/// An m and n that no cluster can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum QuorumError {
    /// No replica, or more than the protocol carries.
    #[error("a cluster has 1 to {max} replicas, not {0}", max = limits::REPLICAS_MAX)]
    Replicas(u8),
    /// n = 0 or n > m.
    #[error("a quorum of {quorum} is impossible with {replicas} replicas: it must be from 1 to {replicas}")]
    Quorum {
        /// m
        replicas: u8,
        /// n
        quorum: u8,
    },
}

impl Quorums {
    /// `replicas` vote, `quorum` of them (the leader included) hold what is acknowledged.
    pub fn new(replicas: u8, quorum: u8) -> Result<Self, QuorumError> {
        if !(1..=limits::REPLICAS_MAX).contains(&replicas) {
            return Err(QuorumError::Replicas(replicas));
        }
        if !(1..=replicas).contains(&quorum) {
            return Err(QuorumError::Quorum { replicas, quorum });
        }
        Ok(Self { replicas, quorum })
    }

    /// m: the replicas that vote, the leader included.
    pub fn replicas(self) -> u8 {
        self.replicas
    }

    /// n: the replicas, leader included, that must hold an entry durably before it is acknowledged.
    pub fn quorum(self) -> u8 {
        self.quorum
    }

    /// e: the votes needed to lead (R2). Two election quorums meet, and each meets every acknowledgement quorum.
    pub fn election_quorum(self) -> u8 {
        let majority = self.replicas / 2 + 1;
        majority.max(self.replicas - self.quorum + 1)
    }

    /// r: the replicas, the leader included, that confirm that nobody else has been elected (R21): every election
    /// needs the vote of one of them.
    pub fn read_quorum(self) -> u8 {
        self.replicas - self.election_quorum() + 1
    }

    /// How many of its holders may be lost before an acknowledged write with `copies` durable copies is lost
    /// or out of reach.
    pub fn survivable_losses(self, copies: u8) -> u8 {
        copies.saturating_sub(1).min(self.replicas - self.election_quorum())
    }
}

impl TryFrom<(u8, u8)> for Quorums {
    type Error = QuorumError;

    fn try_from((replicas, quorum): (u8, u8)) -> Result<Self, QuorumError> {
        Self::new(replicas, quorum)
    }
}

impl From<Quorums> for (u8, u8) {
    fn from(quorums: Quorums) -> Self {
        (quorums.replicas, quorums.quorum)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_quorums_are_refused_with_the_reason() {
        assert_eq!(Quorums::new(0, 0), Err(QuorumError::Replicas(0)));
        assert_eq!(Quorums::new(3, 0), Err(QuorumError::Quorum { replicas: 3, quorum: 0 }));
        let message = Quorums::new(3, 4).unwrap_err().to_string();
        assert_eq!(message, "a quorum of 4 is impossible with 3 replicas: it must be from 1 to 3");
    }

    #[test]
    fn election_quorums_are_those_of_the_table_in_the_rules() {
        let table: [&[u8]; 5] = [&[1], &[2, 2], &[3, 2, 2], &[4, 3, 3, 3], &[5, 4, 3, 3, 3]];
        for (m, row) in (1u8..).zip(table) {
            for (n, expected) in (1u8..).zip(row) {
                assert_eq!(Quorums::new(m, n).unwrap().election_quorum(), *expected, "m={m} n={n}");
            }
        }
    }

    #[test]
    fn every_election_meets_every_election_and_every_acknowledgement() {
        for m in 1..=limits::REPLICAS_MAX {
            for n in 1..=m {
                let e = Quorums::new(m, n).unwrap().election_quorum();
                assert!(e + n > m && 2 * e > m && e <= m, "m={m} n={n} e={e}"); // R1, R2
                assert!(e + Quorums::new(m, n).unwrap().read_quorum() > m, "m={m} n={n} e={e}"); // R21
            }
        }
    }
}
