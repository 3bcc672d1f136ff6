//! Other stores, measured as Quorate is: a peer is started on this machine with as many servers, and takes
//! the same workload from the same generator.
//!
//! A peer is known here by name always, and can be started if this program was built with its cargo feature
//! and the machine has it installed. [`PeerKind::check`] says in a sentence what is missing. What a peer's
//! acknowledgement means differs from peer to peer, so a [`PeerDescription`] says it in words. Quorums count
//! the node that takes the writes, as everywhere in this project.
//!
//! Nothing here fails over, breaks a peer, or verifies what it kept.

#![cfg_attr(
    not(all(feature = "redis", feature = "postgres", feature = "etcd")),
    allow(
        dead_code,
        unused_variables,
        unreachable_code,
        reason = "each peer uses its own part of what they share"
    )
)]

#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
mod calls;
#[cfg(any(feature = "redis", feature = "postgres", feature = "etcd"))]
mod deadline;
#[cfg(feature = "etcd")]
mod etcd;
mod installed;
pub mod launcher;
#[cfg(feature = "postgres")]
mod postgres;
#[cfg(feature = "redis")]
mod redis;
mod servers;
#[cfg(any(feature = "redis", feature = "postgres"))]
mod stream;
mod target;

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::Context;
use quorate_protocol::{Durability, Quorums};
use serde::{Deserialize, Serialize};

use installed::Installed;
use servers::Servers;
use target::Store;
pub use target::{PeerConnection, PeerTarget};

/// A store that can be measured beside Quorate.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerKind {
    /// Redis: a primary with asynchronous replicas, waited for with WAIT.
    Redis,
    /// PostgreSQL: streaming replication with quorum commit.
    Postgres,
    /// etcd: Raft, majority only.
    Etcd,
}

impl PeerKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Redis, Self::Postgres, Self::Etcd];

    /// What it is called on a command line, which is also its cargo feature.
    pub fn name(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Postgres => "postgres",
            Self::Etcd => "etcd",
        }
    }

    /// What its makers call it.
    pub fn title(self) -> &'static str {
        match self {
            Self::Redis => "Redis",
            Self::Postgres => "PostgreSQL",
            Self::Etcd => "etcd",
        }
    }

    /// Clients that it takes at once, as it is started here.
    pub fn clients_max(self) -> u32 {
        match self {
            Self::Redis | Self::Etcd => 4_000,
            Self::Postgres => 500,
        }
    }

    /// Whether it can be started with these settings; an error is a sentence for whoever asked.
    pub fn check(self, replicas: u8, quorum: u8, durability: Durability) -> Result<(), Unavailable> {
        self.installed(replicas, quorum, durability).map(drop)
    }

    fn installed(self, replicas: u8, quorum: u8, durability: Durability) -> Result<Installed, Unavailable> {
        if !self.is_built_in() {
            return Err(Unavailable::NotBuiltIn(self));
        }
        self.check_settings(replicas, quorum, durability)?;
        Installed::find(self).ok_or(Unavailable::NotInstalled(self))
    }

    fn is_built_in(self) -> bool {
        match self {
            Self::Redis => cfg!(feature = "redis"),
            Self::Postgres => cfg!(feature = "postgres"),
            Self::Etcd => cfg!(feature = "etcd"),
        }
    }

    /// What it can do at all, wherever it is installed.
    fn check_settings(self, replicas: u8, quorum: u8, durability: Durability) -> Result<(), Unavailable> {
        let cannot = |what: String| Err(Unavailable::CannotDo(what));
        let majority = replicas / 2 + 1;
        match self {
            Self::Etcd if quorum != majority => cannot(format!(
                "etcd acknowledges at a majority only: choose --quorum {majority} of {replicas}"
            )),
            Self::Etcd if durability == Durability::Os => {
                cannot("etcd syncs before it acknowledges: choose --durability fsync".to_owned())
            }
            _ => Quorums::new(replicas, quorum).map(drop).or_else(|error| cannot(error.to_string())),
        }
    }

    /// Its server's executable.
    fn program(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Postgres => "postgres",
            Self::Etcd => "etcd",
        }
    }

    /// The Debian package that has its server.
    fn package(self) -> &'static str {
        match self {
            Self::Redis => "redis-server",
            Self::Postgres => "postgresql",
            Self::Etcd => "etcd-server",
        }
    }
}

impl fmt::Display for PeerKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for PeerKind {
    type Err = String;

    /// The error is a sentence for the person who typed it.
    fn from_str(text: &str) -> Result<Self, String> {
        let names = Self::ALL.map(Self::name);
        let kind = Self::ALL.into_iter().find(|kind| kind.name() == text);
        kind.ok_or_else(|| format!("\"{text}\" is no peer: write one of {}", names.join(", ")))
    }
}

/// Why a peer cannot be measured. Each is a sentence that says what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unavailable {
    /// This program was built without it.
    NotBuiltIn(PeerKind),
    /// This machine does not have it.
    NotInstalled(PeerKind),
    /// It does not offer what was asked for.
    CannotDo(String),
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotBuiltIn(kind) => write!(f, "{kind} is not built in: build with --features {kind}"),
            Self::NotInstalled(kind) => {
                write!(f, "{} is not installed: apt-get install {}", kind.program(), kind.package())
            }
            Self::CannotDo(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for Unavailable {}

/// What a peer is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which one.
    pub kind: PeerKind,
    /// The harness's executable, which its servers are started through: see [`launcher`].
    pub launcher: PathBuf,
    /// m and n; n counts the node that takes the writes.
    pub quorums: Quorums,
    /// What "durable" means.
    pub durability: Durability,
    /// Where data and logs go: an empty directory.
    pub directory: PathBuf,
}

impl Settings {
    /// This very executable as the launcher, which must be the harness.
    pub fn this() -> anyhow::Result<PathBuf> {
        std::env::current_exe().context("the harness cannot find its own executable")
    }
}

/// What a reader of its figures has to know of a peer.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PeerDescription {
    /// What its makers call it.
    pub name: String,
    /// Version of the servers, as they say.
    pub version: String,
    /// What an acknowledged write means in words: where it is durable, and what a failover keeps.
    pub acknowledgement: String,
    /// The settings that differ from its defaults.
    pub settings: Vec<String>,
    /// How many servers were started.
    pub servers: usize,
}

/// A running peer. When it is dropped none of its processes is left, whatever state they were in; they also
/// end with the harness if that is killed. Start one from a thread that outlives it: the kernel ends the
/// servers with the *thread* that started them.
#[derive(Debug)]
pub struct PeerCluster {
    servers: Servers,
    store: Store,
    description: PeerDescription,
}

/// What a peer's own module starts.
struct Started {
    servers: Servers,
    store: Store,
    acknowledgement: String,
    settings: Vec<String>,
}

impl PeerCluster {
    /// Starts a peer, and waits until all its servers take part in replication. Dropped before, it leaves
    /// nothing running.
    pub async fn start(settings: &Settings) -> anyhow::Result<Self> {
        let Settings { kind, quorums, durability, .. } = settings;
        let installed = kind.installed(quorums.replicas(), quorums.quorum(), *durability)?;
        let started =
            start(settings, &installed).await.with_context(|| format!("{kind} cannot be started"))?;
        let Started { servers, store, acknowledgement, settings } = started;
        let description = PeerDescription {
            name: kind.title().to_owned(),
            version: installed.version().to_owned(),
            acknowledgement,
            settings,
            servers: servers.ids().len(),
        };
        Ok(Self { servers, store, description })
    }

    /// What it is, and what its acknowledgement means.
    pub fn description(&self) -> &PeerDescription {
        &self.description
    }

    /// The process ids of its servers.
    pub fn process_ids(&self) -> Vec<u32> {
        self.servers.ids()
    }

    /// The process ids of its servers and of all processes that they have started and not ended yet. The
    /// processor time of a child that has ended is in its server's account of children.
    pub fn processes(&self) -> Vec<u32> {
        self.servers.ids_with_children()
    }

    /// An error that shows its log if a server has ended.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        self.servers.check_running()
    }

    /// What the load is put on. Each call is given up after `deadline`, as of unknown outcome.
    pub fn target(&self, deadline: Duration) -> PeerTarget {
        PeerTarget { store: self.store.clone(), deadline }
    }

    /// Ends all servers. An error if one had ended before, or a process is left.
    pub fn shut_down(mut self) -> anyhow::Result<()> {
        self.servers.check_running()?;
        self.servers.end()
    }
}

async fn start(settings: &Settings, installed: &Installed) -> anyhow::Result<Started> {
    match settings.kind {
        #[cfg(feature = "redis")]
        PeerKind::Redis => redis::start(settings, installed).await,
        #[cfg(feature = "postgres")]
        PeerKind::Postgres => postgres::start(settings, installed).await,
        #[cfg(feature = "etcd")]
        PeerKind::Etcd => etcd::start(settings, installed).await,
        #[cfg(not(all(feature = "redis", feature = "postgres", feature = "etcd")))]
        kind => Err(Unavailable::NotBuiltIn(kind).into()),
    }
}
