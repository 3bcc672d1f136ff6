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
    /// How many servers were started.
    pub servers: usize,
}

/// Stand-in.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which one.
    pub kind: PeerKind,
    /// The harness.
    pub launcher: std::path::PathBuf,
    /// m and n.
    pub quorums: quorate_protocol::Quorums,
    /// Durability.
    pub durability: Durability,
    /// Where.
    pub directory: std::path::PathBuf,
}

impl Settings {
    /// This executable.
    pub fn this() -> anyhow::Result<std::path::PathBuf> {
        Ok(std::env::current_exe()?)
    }
}

/// Stand-in.
#[derive(Debug)]
pub struct PeerCluster(PeerDescription);

impl PeerCluster {
    /// Starts.
    pub async fn start(_: &Settings) -> anyhow::Result<Self> {
        anyhow::bail!("not built in")
    }
    /// Words.
    pub fn description(&self) -> &PeerDescription {
        &self.0
    }
    /// Pids.
    pub fn processes(&self) -> Vec<u32> {
        Vec::new()
    }
    /// Running.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
    /// Target.
    pub fn target(&self, deadline: std::time::Duration) -> quorate_client::load::QuorateTarget {
        let reads = quorate_client::load::Reads::Leader;
        quorate_client::load::QuorateTarget { servers: Vec::new(), deadline, cluster: None, reads }
    }
    /// End.
    pub fn shut_down(self) -> anyhow::Result<()> {
        Ok(())
    }
}
