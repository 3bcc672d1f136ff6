//! Stand-in until the peers are merged.
use quorate_protocol::Durability;
use serde::{Deserialize, Serialize};
use std::fmt;

/// Another system.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// Redis
    Redis,
    /// PostgreSQL
    Postgres,
    /// etcd
    Etcd,
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Etcd => "etcd",
        })
    }
}

impl std::str::FromStr for PeerKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let known = Self::ALL.into_iter().find(|peer| peer.to_string() == text);
        known.ok_or_else(|| format!("\"{text}\" is no system: choose redis, postgres or etcd"))
    }
}

impl PeerKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Redis, Self::Postgres, Self::Etcd];

    /// Whether it can be measured.
    pub fn check(self, _: u8, _: u8, _: Durability) -> Result<(), String> {
        Ok(())
    }
}

/// What it is.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct PeerDescription {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// What its acknowledgement means.
    pub acknowledgement: String,
    /// How it was set.
    pub settings: Vec<String>,
    /// Its processes.
    pub processes: u32,
}
