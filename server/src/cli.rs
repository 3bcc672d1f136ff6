//! The command line of a replica: flags, environment, configuration file; messages and exit codes.

mod offline;
#[doc(hidden)]
pub mod reference;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use async_signal::{Signal, Signals};
use clap::{Parser, ValueEnum};
use futures_lite::StreamExt;
use quorate_protocol::{Durability, Leadership, NodeId, NodeSet, Quorums, limits};
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

use crate::directory::DirectorySettings;
use crate::disk::{Disk, RealDisk};
use crate::machine;
use crate::node::{NodeError, NodeSettings};
use crate::server::{self, Listeners, ServerError, ServerSettings};

/// Descriptors that are neither connections nor log segments: files, threads' and the reactor's.
const DESCRIPTORS_RESERVED: u64 = 256;

/// How many checkpoint intervals of log there may be: from the older checkpoint to the next, and as much again as
/// small batches take more than their entries.
const LOG_INTERVALS_MAX: u64 = 8;

const EXIT_FAILURE: u8 = 1;
const EXIT_WRONG_SETTING: u8 = 2;
const EXIT_DISK: u8 = 5;

/// A replica of Quorate, a replicated key-value store.
///
/// Without any option: a cluster of one that stores in ./quorate-data and serves clients on 127.0.0.1:7401.
#[derive(Parser, Debug, Default)]
#[command(
    name = "quorate-server",
    version,
    max_term_width = 110,
    after_help = AFTER_HELP,
    args_conflicts_with_subcommands = true,
    subcommand_help_heading = "Tools, instead of running a replica"
)]
struct Command {
    /// A TOML file with the same settings under the same names; flags and environment come first.
    #[arg(long, value_name = "FILE", env = "QUORATE_CONFIG")]
    config: Option<PathBuf>,

    #[command(flatten)]
    settings: Settings,

    #[command(subcommand)]
    tool: Option<offline::Tool>,
}

const AFTER_HELP: &str = "\
Three replicas on one machine, each write acknowledged when two of them hold it durably (start each in a
terminal of its own, with --id 1, 2 and 3, and --listen 127.0.0.1:7401, 7402 and 7403):

  quorate-server --id 1 --data node-1 --listen 127.0.0.1:7401 --quorum 2 \\
      --replica 1=127.0.0.1:7501 --replica 2=127.0.0.1:7502 --replica 3=127.0.0.1:7503

Exit codes: 0 stopped on request, 1 failure, 2 wrong setting, 3 directory in use or of another node,
4 damaged data, or data that a stopped machine may have lost, 5 disk failed while running or stopping. What is logged: RUST_LOG (default info).";

/// Everything that can be set, by flag or in the file.
#[derive(clap::Args, Deserialize, Debug, Default)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct Settings {
    /// This replica's number, 1 to 63.
    #[arg(long, value_name = "ID", env = "QUORATE_ID")]
    id: Option<u8>,
    /// Directory of this replica's data; made if absent [default: quorate-data].
    #[arg(long, value_name = "DIR", env = "QUORATE_DATA")]
    data: Option<PathBuf>,
    /// Where clients connect [default: 127.0.0.1:7401].
    #[arg(long, value_name = "HOST:PORT", env = "QUORATE_LISTEN")]
    listen: Option<String>,
    /// Peer address of a replica; once for each, this one's too: there it listens.
    #[arg(long, value_name = "ID=HOST:PORT", env = "QUORATE_REPLICAS", value_delimiter = ',')]
    replica: Vec<String>,
    /// How many replicas, the leader included, must hold a write durably before it is acknowledged.
    #[arg(long, value_name = "N", env = "QUORATE_QUORUM")]
    quorum: Option<u8>,
    /// The replica that leads, always: without it there are no writes. Not given, the replicas elect a leader, and
    /// another when it is gone.
    #[arg(long, value_name = "ID", env = "QUORATE_LEADER")]
    leader: Option<u8>,
    /// What durable means: synced to disk, or in the operating system's cache (lost in a power cut).
    #[arg(long, value_enum, env = "QUORATE_DURABILITY")]
    durability: Option<DurabilityName>,
    /// The cluster's name; replicas and clients of another are refused [default: quorate].
    #[arg(long, value_name = "NAME", env = "QUORATE_CLUSTER")]
    cluster: Option<String>,
    /// Where others are told that clients reach this replica [default: the address of --listen].
    #[arg(long, value_name = "HOST:PORT", env = "QUORATE_ADVERTISE")]
    advertise: Option<String>,
    /// Milliseconds between heartbeats of the leader [default: 50].
    #[arg(long, value_name = "MS", env = "QUORATE_HEARTBEAT_MS")]
    heartbeat_ms: Option<u32>,
    /// Milliseconds without a sign of the leader after which a replica stands for election, up to twice as long at
    /// random; and without an answer after which a replica counts as out of reach [default: 300].
    #[arg(long, value_name = "MS", env = "QUORATE_ELECTION_TIMEOUT_MS")]
    election_timeout_ms: Option<u32>,
    /// Milliseconds for which a leader that was confirmed answers reads without asking the others again; until they
    /// are over no other is elected. The same on all replicas; their clocks must not drift apart by a tenth of it; 0
    /// asks for every read [default: 0].
    #[arg(long, value_name = "MS", env = "QUORATE_LEASE_MS")]
    lease_ms: Option<u32>,
    /// Make a replica with a replaced data directory a voting member as soon as it has caught up; without it, `quorate
    /// admit` does that.
    #[arg(long, env = "QUORATE_ADMIT_REPLACED", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    admit_replaced: Option<bool>,
    /// Milliseconds without an answer of the disk after which no writes are taken [default: 2000].
    #[arg(long, value_name = "MS", env = "QUORATE_DISK_STALL_MS")]
    disk_stall_ms: Option<u32>,
    /// Milliseconds without an answer of the disk after which the replica stops [default: 30000].
    #[arg(long, value_name = "MS", env = "QUORATE_DISK_TIMEOUT_MS")]
    disk_timeout_ms: Option<u32>,
    /// Milliseconds after which a client's session that is not used ends; at least 16 heartbeats [default: 600000].
    #[arg(long, value_name = "MS", env = "QUORATE_SESSION_TIMEOUT_MS")]
    session_timeout_ms: Option<u32>,
    /// MiB of one log file [default: 64].
    #[arg(long, value_name = "MIB", env = "QUORATE_SEGMENT_MIB")]
    segment_mib: Option<u32>,
    /// MiB of log from one checkpoint to the next, at least; more if the store is larger [default: 256].
    #[arg(long, value_name = "MIB", env = "QUORATE_CHECKPOINT_MIB")]
    checkpoint_mib: Option<u32>,
    /// MiB a second that writing a checkpoint may take from the disk; 0 for no bound [default: 16].
    #[arg(long, value_name = "MIB", env = "QUORATE_CHECKPOINT_MIB_PER_SECOND")]
    checkpoint_mib_per_second: Option<u32>,
    /// MiB a second of a checkpoint that a replica is sent which lacks more than the log holds; 0 for no bound
    /// [default: 64].
    #[arg(long, value_name = "MIB", env = "QUORATE_TRANSFER_MIB_PER_SECOND")]
    transfer_mib_per_second: Option<u32>,
    /// MiB of log kept for replicas that lack it, beyond what checkpoints need; a replica that lacks more is sent a
    /// checkpoint [default: 4096].
    #[arg(long, value_name = "MIB", env = "QUORATE_LOG_RETENTION_MIB")]
    log_retention_mib: Option<u32>,
    /// MiB of memory that the store may take; at the limit, writes other than deletes are refused [default: three
    /// quarters of what the machine or its control group has].
    #[arg(long, value_name = "MIB", env = "QUORATE_MEMORY_MIB")]
    memory_mib: Option<u32>,
    /// MiB of memory for the latest changes of keys, beside the store, from which watches are served: a watch can be
    /// resumed only behind a change that is still there; 0 for none, and no watches [default: 16].
    #[arg(long, value_name = "MIB", env = "QUORATE_WATCH_HISTORY_MIB")]
    watch_history_mib: Option<u32>,
    /// Connections at a time, of clients and replicas together [default: 4096].
    #[arg(long, value_name = "COUNT", env = "QUORATE_CONNECTIONS")]
    connections: Option<u32>,
    /// Microseconds for which this replica looks for requests and answers before it lets its core sleep, while there is
    /// traffic: writes are faster, and the core is busy. 0 where others pay for it, or its time is limited [default:
    /// 150].
    #[arg(long, value_name = "US", env = "QUORATE_BUSY_POLL_US")]
    busy_poll_us: Option<u32>,
}

#[derive(ValueEnum, Deserialize, Clone, Copy, Debug)]
#[serde(rename_all = "lowercase")]
enum DurabilityName {
    Fsync,
    Os,
}

/// A wrong setting: what is wrong, and what to change.
#[derive(Debug)]
struct WrongSetting(String);

impl fmt::Display for WrongSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn wrong<T>(message: impl Into<String>) -> Result<T, WrongSetting> {
    Err(WrongSetting(message.into()))
}

/// Runs a replica with a command line, the first argument being the program's name, until it is told to stop.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    run_with_disk(arguments, Arc::new(RealDisk))
}

/// The same on another disk, for programs that have a replica inside.
pub fn run_with_disk(arguments: impl IntoIterator<Item = OsString>, disk: Arc<dyn Disk>) -> ExitCode {
    let command = match Command::try_parse_from(arguments) {
        Ok(command) => command,
        Err(error) => {
            // Nothing is left to be told if even this cannot be printed.
            let _ = error.print();
            return if error.use_stderr() { EXIT_WRONG_SETTING.into() } else { ExitCode::SUCCESS };
        }
    };
    if let Some(tool) = command.tool {
        return offline::run(tool, &disk);
    }
    start_log();
    match plan(command) {
        Ok(plan) => serve(Plan { server: ServerSettings { disk, ..plan.server }, ..plan }),
        Err(error) => fail(&error, EXIT_WRONG_SETTING),
    }
}

/// What a command line comes to.
struct Plan {
    server: ServerSettings,
    listen: String,
    listen_to_peers: Option<String>,
    advertise: Option<String>,
}

fn plan(command: Command) -> Result<Plan, WrongSetting> {
    let settings = match &command.config {
        Some(file) => command.settings.over(read_config(file)?),
        None => command.settings,
    };
    settings.check()
}

fn read_config(file: &Path) -> Result<Settings, WrongSetting> {
    let text = std::fs::read_to_string(file)
        .or_else(|error| wrong(format!("cannot read the configuration {}: {error}", file.display())))?;
    toml::from_str(&text).or_else(|error| {
        // The error's own form draws the place over several lines.
        let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let message = error.message().replace('\n', ", ");
        wrong(format!("the configuration {} is wrong at line {line}: {message}", file.display()))
    })
}

impl Settings {
    /// These settings where they are given, else the other ones.
    fn over(self, other: Self) -> Self {
        Self {
            id: self.id.or(other.id),
            data: self.data.or(other.data),
            listen: self.listen.or(other.listen),
            replica: if self.replica.is_empty() { other.replica } else { self.replica },
            quorum: self.quorum.or(other.quorum),
            leader: self.leader.or(other.leader),
            durability: self.durability.or(other.durability),
            cluster: self.cluster.or(other.cluster),
            advertise: self.advertise.or(other.advertise),
            heartbeat_ms: self.heartbeat_ms.or(other.heartbeat_ms),
            election_timeout_ms: self.election_timeout_ms.or(other.election_timeout_ms),
            lease_ms: self.lease_ms.or(other.lease_ms),
            admit_replaced: self.admit_replaced.or(other.admit_replaced),
            disk_stall_ms: self.disk_stall_ms.or(other.disk_stall_ms),
            disk_timeout_ms: self.disk_timeout_ms.or(other.disk_timeout_ms),
            session_timeout_ms: self.session_timeout_ms.or(other.session_timeout_ms),
            segment_mib: self.segment_mib.or(other.segment_mib),
            checkpoint_mib: self.checkpoint_mib.or(other.checkpoint_mib),
            checkpoint_mib_per_second: self.checkpoint_mib_per_second.or(other.checkpoint_mib_per_second),
            transfer_mib_per_second: self.transfer_mib_per_second.or(other.transfer_mib_per_second),
            log_retention_mib: self.log_retention_mib.or(other.log_retention_mib),
            memory_mib: self.memory_mib.or(other.memory_mib),
            watch_history_mib: self.watch_history_mib.or(other.watch_history_mib),
            connections: self.connections.or(other.connections),
            busy_poll_us: self.busy_poll_us.or(other.busy_poll_us),
        }
    }

    fn check(self) -> Result<Plan, WrongSetting> {
        let node = self.node()?;
        let mut replicas = self.replicas(node)?;
        let nodes: NodeSet = replicas.keys().copied().collect();
        let cluster = self.cluster_name()?;
        let identity = DirectorySettings {
            cluster,
            node,
            quorums: self.quorums(nodes)?,
            leadership: self.leadership(nodes)?,
            durability: match self.durability {
                Some(DurabilityName::Os) => Durability::Os,
                Some(DurabilityName::Fsync) | None => Durability::Fsync,
            },
        };
        let own_peer_address = replicas.remove(&node).flatten();
        let data = self.data.clone().unwrap_or_else(|| "quorate-data".into());
        let mut server = ServerSettings::new(identity, nodes, data);
        server.peers = replicas.into_iter().filter_map(|(node, address)| Some((node, address?))).collect();
        (server.node.heartbeat, server.node.election_timeout) = self.timing(&server.node)?;
        server.node.lease = self.lease(&server)?;
        server.node.session_timeout = self.session_timeout(&server.node)?;
        server.node.admits_replaced = self.admit_replaced.unwrap_or(false);
        (server.node.disk_stall, server.node.disk_timeout) = self.disk_patience(&server.node)?;
        if let Some(count) = positive("checkpoint-mib", self.checkpoint_mib)? {
            server.node.checkpoint_interval_bytes = mib(count);
        }
        if let Some(count) = segment_mib(self.segment_mib)? {
            server.segment_bytes = mib(count);
        }
        if let Some(count) = self.checkpoint_mib_per_second {
            server.checkpoint_bytes_per_second = mib(count);
        }
        if let Some(count) = self.transfer_mib_per_second {
            server.node.transfer_bytes_per_second = mib(count);
        }
        if let Some(count) = self.log_retention_mib {
            server.node.log_retention_bytes = mib(count);
        }
        server.node.memory_bytes_max = match positive("memory-mib", self.memory_mib)? {
            Some(count) => mib(count),
            None => default_memory_bytes_max(),
        };
        if let Some(count) = self.watch_history_mib {
            server.node.watch_history_bytes = usize::try_from(mib(count)).unwrap_or(usize::MAX);
        }
        if let Some(count) = positive("connections", self.connections)? {
            server.connections_max = count as usize;
        }
        if let Some(us) = self.busy_poll_us {
            server.busy_poll = busy_poll(us)?;
        }
        Ok(Plan {
            server,
            listen: self.listen.unwrap_or_else(|| "127.0.0.1:7401".into()),
            listen_to_peers: if nodes.len() > 1 { own_peer_address } else { None },
            advertise: self.advertise,
        })
    }

    fn node(&self) -> Result<NodeId, WrongSetting> {
        match self.id {
            Some(id) => node_id("--id", id),
            None if self.replica.is_empty() => node_id("--id", 1),
            None => wrong("--id is missing: say which of the replicas this one is"),
        }
    }

    /// Every replica's peer address; none for a cluster of one.
    fn replicas(&self, node: NodeId) -> Result<BTreeMap<NodeId, Option<String>>, WrongSetting> {
        let mut replicas = BTreeMap::<NodeId, Option<String>>::new();
        for replica in &self.replica {
            let form = || WrongSetting(format!("--replica {replica} is not of the form ID=HOST:PORT"));
            let (id, address) = replica.split_once('=').ok_or_else(form)?;
            let id = node_id("--replica", id.trim().parse().map_err(|_| form())?)?;
            check_address("--replica", address)?;
            if let Some((other, _)) = replicas.iter().find(|(_, taken)| taken.as_deref() == Some(address)) {
                return wrong(format!("--replica gives nodes {other} and {id} the same address {address}"));
            }
            if replicas.insert(id, Some(address.to_owned())).is_some() {
                return wrong(format!(
                    "--replica is given twice for node {id}: give each node its own number"
                ));
            }
        }
        if replicas.is_empty() {
            replicas.insert(node, None);
        }
        if !replicas.contains_key(&node) {
            return wrong(format!("--id is {node}, but there is no --replica {node}=HOST:PORT: add it"));
        }
        Ok(replicas)
    }

    fn quorums(&self, nodes: NodeSet) -> Result<Quorums, WrongSetting> {
        let replicas = nodes.len() as u8;
        let quorum = match self.quorum {
            Some(quorum) => quorum,
            None if replicas == 1 => 1,
            None => {
                return wrong(format!(
                    "--quorum is missing: say how many of the {replicas} replicas must hold a write before it is \
                     acknowledged"
                ));
            }
        };
        Quorums::new(replicas, quorum).or_else(|error| wrong(format!("--quorum {quorum}: {error}")))
    }

    fn leadership(&self, nodes: NodeSet) -> Result<Leadership, WrongSetting> {
        let Some(leader) = self.leader else { return Ok(Leadership::Elected) };
        let leader = node_id("--leader", leader)?;
        if !nodes.contains(leader) {
            return wrong(format!("--leader is {leader}, which is none of the replicas {nodes:?}"));
        }
        Ok(Leadership::Configured(leader))
    }

    fn cluster_name(&self) -> Result<String, WrongSetting> {
        let name = self.cluster.clone().unwrap_or_else(|| "quorate".into());
        if name.is_empty() || name.len() > limits::CLUSTER_NAME_BYTES_MAX {
            let max = limits::CLUSTER_NAME_BYTES_MAX;
            return wrong(format!("--cluster has {} bytes: a name has 1 to {max}", name.len()));
        }
        Ok(name)
    }

    fn timing(&self, default: &NodeSettings) -> Result<(Duration, Duration), WrongSetting> {
        let duration = |ms: Option<u32>, default| ms.map_or(default, |ms| Duration::from_millis(ms.into()));
        let heartbeat = duration(self.heartbeat_ms, default.heartbeat);
        let election_timeout = duration(self.election_timeout_ms, default.election_timeout);
        if heartbeat.is_zero() || election_timeout < heartbeat * 3 {
            return wrong(format!(
                "--election-timeout-ms is {}, and --heartbeat-ms is {}: the timeout must be three heartbeats or more, \
                 and a heartbeat at least 1",
                election_timeout.as_millis(),
                heartbeat.as_millis()
            ));
        }
        Ok((heartbeat, election_timeout))
    }

    /// How long a lease is, once heartbeat and election timeout are known.
    fn lease(&self, server: &ServerSettings) -> Result<Option<Duration>, WrongSetting> {
        let Some(ms) = self.lease_ms.filter(|ms| *ms > 0) else { return Ok(None) };
        let NodeSettings { heartbeat, election_timeout, .. } = server.node;
        let lease = Duration::from_millis(ms.into());
        if let Leadership::Configured(leader) = server.identity.leadership {
            return wrong(format!(
                "--lease-ms is {ms}, and --leader is {leader}: a configured leader answers reads without a lease, as \
                 nobody else can lead; leave one out"
            ));
        }
        if lease > election_timeout {
            return wrong(format!(
                "--lease-ms is {ms}, and --election-timeout-ms is {}: nobody may be elected while a lease runs, so it \
                 must be no longer than the timeout",
                election_timeout.as_millis()
            ));
        }
        if lease < heartbeat * 2 {
            return wrong(format!(
                "--lease-ms is {ms}, and --heartbeat-ms is {}: heartbeats renew the lease, so it must be two of them or \
                 more",
                heartbeat.as_millis()
            ));
        }
        Ok(Some(lease))
    }

    fn disk_patience(&self, default: &NodeSettings) -> Result<(Duration, Duration), WrongSetting> {
        let duration = |ms: Option<u32>, default| ms.map_or(default, |ms| Duration::from_millis(ms.into()));
        let stall = duration(self.disk_stall_ms, default.disk_stall);
        let timeout = duration(self.disk_timeout_ms, default.disk_timeout);
        if stall.is_zero() || timeout < stall {
            return wrong(format!(
                "--disk-stall-ms is {}, and --disk-timeout-ms is {}: the first must be at least 1, and the second no \
                 shorter",
                stall.as_millis(),
                timeout.as_millis()
            ));
        }
        Ok((stall, timeout))
    }

    fn session_timeout(&self, node: &NodeSettings) -> Result<Duration, WrongSetting> {
        let Some(ms) = self.session_timeout_ms else { return Ok(node.session_timeout) };
        let timeout = Duration::from_millis(ms.into());
        if timeout < 16 * node.heartbeat {
            return wrong(format!(
                "--session-timeout-ms is {ms}, and --heartbeat-ms is {}: sessions are looked after with heartbeats, so \
                 it must be 16 of them or more",
                node.heartbeat.as_millis()
            ));
        }
        Ok(timeout)
    }
}

fn node_id(flag: &str, id: u8) -> Result<NodeId, WrongSetting> {
    NodeId::try_from(id).or_else(|error| wrong(format!("{flag} is {id}: {error}")))
}

fn check_address(flag: &str, address: &str) -> Result<(), WrongSetting> {
    match address.rsplit_once(':') {
        Some((host, port)) if is_host(host) && port.parse::<u16>().is_ok() => Ok(()),
        _ => wrong(format!("{flag} has the address \"{address}\", which is not of the form HOST:PORT")),
    }
}

/// An IPv6 address stands in brackets, or its last group would be taken for the port.
fn is_host(host: &str) -> bool {
    let is_bracketed = host.starts_with('[') && host.ends_with(']');
    !host.is_empty() && (is_bracketed || !host.contains(':'))
}

fn positive(name: &str, value: Option<u32>) -> Result<Option<u32>, WrongSetting> {
    match value {
        Some(0) => wrong(format!("--{name} is 0: give at least 1")),
        value => Ok(value),
    }
}

fn segment_mib(value: Option<u32>) -> Result<Option<u32>, WrongSetting> {
    const RANGE: std::ops::RangeInclusive<u32> = 1..=1024;
    match value {
        Some(mib) if !RANGE.contains(&mib) => {
            wrong(format!("--segment-mib is {mib}: give {} to {}", RANGE.start(), RANGE.end()))
        }
        value => Ok(value),
    }
}

fn mib(count: u32) -> u64 {
    u64::from(count) << 20
}

fn busy_poll(us: u32) -> Result<Duration, WrongSetting> {
    let time = Duration::from_micros(us.into());
    match time <= server::BUSY_POLL_MAX {
        true => Ok(time),
        false => wrong(format!(
            "--busy-poll-us is {us}: a replica wakes every {} ms in any case, choose no more",
            server::BUSY_POLL_MAX.as_millis()
        )),
    }
}

/// What is left of the machine is for everything else: connections, what followers lack, the kernel's cache.
fn default_memory_bytes_max() -> u64 {
    machine::memory_bytes().map_or(u64::MAX, |bytes| bytes / 4 * 3)
}

fn start_log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let format = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // A host program may have set its own.
    let _ = format.try_init();
}

fn serve(plan: Plan) -> ExitCode {
    let Plan { mut server, listen, listen_to_peers, advertise } = plan;
    if let Err(error) = check_address("--listen", &listen)
        .and_then(|()| advertise.as_ref().map_or(Ok(()), |address| check_address("--advertise", address)))
    {
        return fail(&error, EXIT_WRONG_SETTING);
    }
    server.connections_max = raise_descriptor_limit(&server);
    let shutdown = match Signals::new([Signal::Term, Signal::Int]) {
        Ok(mut signals) => {
            async move {
                signals.next().await;
            }
        }
        Err(error) => return fail(&format!("cannot wait for signals: {error}"), EXIT_FAILURE),
    };
    let result = Listeners::bind(&listen, listen_to_peers.as_deref()).and_then(|listeners| {
        let bound =
            listeners.client_address().map_err(|error| ServerError::Listen { address: listen, error })?;
        if bound.ip().is_unspecified() && advertise.is_none() && server.node.nodes.len() > 1 {
            return Err(ServerError::Advertise(bound));
        }
        server.node.advertise = advertise.unwrap_or_else(|| bound.to_string());
        announce(&server, &bound.to_string());
        server::run(server, listeners, shutdown)
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&error, exit_code(&error)),
    }
}

/// Says in one line what the settings mean.
fn announce(server: &ServerSettings, address: &str) {
    let DirectorySettings { cluster, node, quorums, leadership, durability } = &server.identity;
    let (m, n) = (quorums.replicas(), quorums.quorum());
    tracing::info!(
        "node {node} of cluster {cluster}, clients at {address}, data in {}: a write is acknowledged when {n} of {m} \
         replicas hold it ({durability}); {}; {}",
        server.data.display(),
        writes_stop(*quorums),
        leader_lost(*quorums, *leadership),
    );
    if let Some(lease) = server.node.lease {
        tracing::info!("a confirmed leader answers reads for {} ms without asking again", lease.as_millis());
    }
    match server.node.memory_bytes_max {
        u64::MAX => tracing::warn!("this system does not say how much memory there is: set --memory-mib"),
        bytes => tracing::info!("the store may take {} MiB of memory", bytes >> 20),
    }
}

/// What it takes to stop writes.
fn writes_stop(quorums: Quorums) -> String {
    match quorums.replicas() - quorums.quorum() {
        0 if quorums.replicas() == 1 => "there is no other copy".into(),
        0 => "any replica that is out of reach stops writes".into(),
        spare => format!("writes go on while at most {spare} of the followers are out of reach"),
    }
}

/// What a dead leader means.
fn leader_lost(quorums: Quorums, leadership: Leadership) -> String {
    let (m, n, e) = (quorums.replicas(), quorums.quorum(), quorums.election_quorum());
    match leadership {
        Leadership::Configured(leader) => {
            format!("node {leader} is the configured leader: without it there are no writes")
        }
        Leadership::Elected if m == 1 => "it leads alone".into(),
        Leadership::Elected if e == m => {
            format!("n={n} of {m}: a dead leader has no successor until it is back")
        }
        Leadership::Elected if n > e => format!(
            "a leader is elected by {e} of {m}, but a new one takes writes, and reads that must not be stale, only when \
             {n} hear it"
        ),
        Leadership::Elected => {
            format!("a leader is elected by {e} of {m}, so {} may be dead", m - e)
        }
    }
}

/// Makes room for all connections and the segments of a log as long as it may be, and returns for how many
/// connections there is room.
fn raise_descriptor_limit(server: &ServerSettings) -> usize {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let ServerSettings { connections_max: connections, segment_bytes, node, .. } = server;
    let log_bytes = node.log_retention_bytes + LOG_INTERVALS_MAX * node.checkpoint_interval_bytes;
    let reserved = DESCRIPTORS_RESERVED + log_bytes / segment_bytes;
    let wanted = *connections as u64 + reserved;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return *connections;
    }
    let raised = maximum.map_or(wanted, |maximum| wanted.min(maximum));
    let allowed = match setrlimit(Resource::Nofile, Rlimit { current: Some(raised), maximum }) {
        Ok(()) => raised,
        Err(_) => current.unwrap_or(wanted),
    };
    if allowed < wanted {
        tracing::warn!(
            "only {allowed} open files are allowed, and {wanted} may be needed for {connections} connections and the \
             log's segments: fewer connections are accepted; raise the limit ('ulimit -n')"
        );
    }
    (*connections).min(allowed.saturating_sub(reserved).max(16) as usize)
}

fn exit_code(error: &ServerError) -> u8 {
    match error {
        ServerError::Recovery(error) => error.kind().exit_code(),
        ServerError::Node(
            NodeError::Log(_)
            | NodeError::Checkpoint(_)
            | NodeError::Directory(_)
            | NodeError::DiskTimeout(_),
        ) => EXIT_DISK,
        ServerError::Listen { .. } | ServerError::Advertise(_) => EXIT_WRONG_SETTING,
        _ => EXIT_FAILURE,
    }
}

fn fail(error: &dyn fmt::Display, code: u8) -> ExitCode {
    eprintln!("quorate-server: {error}");
    code.into()
}
