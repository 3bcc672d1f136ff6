//! A cluster of real server processes on this machine.
//!
//! The harness measures such a cluster, and tests break one. Every node is a process of its own with a data
//! directory and a log file below one directory, on a loopback address that no other cluster has:
//!
//! ```text
//! DIRECTORY/node-1/       data of node 1
//! DIRECTORY/node-1.log    what node 1 printed, over all its starts
//! DIRECTORY/node-1.sync-delay    microseconds that its syncs take longer, if that was asked for
//! ```
//!
//! The nodes reach each other directly, or through a [proxy](crate::proxy) that makes links slow or cuts them.
//!
//! Invariants:
//! - a node keeps its addresses, its data and its links over kill, stop and restart;
//! - when a [`Cluster`] is dropped none of its processes is left, whatever state they were in.
//!
//! Start nodes from a thread that outlives the cluster: the kernel kills the harness's nodes with the
//! *thread* that started them.
//!
//! Nothing here knows what is measured, and nothing here removes a directory.

pub(crate) mod address;
mod faults;
pub(crate) mod process;
mod readiness;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use quorate_client::Client;
use quorate_protocol::{Durability, Quorums};
use rustix::process::Signal;

use crate::members::Members;
use crate::node::SUBCOMMAND;
use crate::proxy::Proxy;
use address::Reservation;
use process::Process;
pub use readiness::wait_applied;

/// How long nodes have to stop when told to, before they are killed.
pub const STOP_TIME_MAX: Duration = Duration::from_secs(5);

/// Lines of a node's log that an error shows.
const LOG_LINES: usize = 10;

/// What a cluster is started with.
#[derive(Clone, Debug)]
pub struct Settings {
    /// What a node runs.
    pub program: Program,
    /// m and n.
    pub quorums: Quorums,
    /// What "durable" means.
    pub durability: Durability,
    /// The configured leader, 1 to m; none if it is elected.
    pub leader: Option<u8>,
    /// The cluster's name.
    pub name: String,
    /// Where data and logs go; must exist.
    pub directory: PathBuf,
    /// How nodes reach each other.
    pub links: Links,
}

/// How the nodes of a cluster reach each other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Links {
    /// Over loopback as it is.
    Direct,
    /// Through a proxy in this process, which can slow and cut every link. It costs a hop for each message.
    Proxied {
        /// Of all jitter.
        seed: u64,
    },
}

/// An executable and the arguments that come before a server's own.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    /// The process that nodes end with, if this is the harness.
    parent: Option<u32>,
    options: Vec<OsString>,
}

impl Program {
    /// A server executable as it is. Its processes are stopped by [`Cluster`]'s drop, but not if the
    /// process that holds the cluster is killed.
    pub fn server(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), parent: None, options: Vec::new() }
    }

    /// The harness's executable, with its hidden subcommand: its processes end with the calling one.
    pub fn harness(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), parent: Some(std::process::id()), options: Vec::new() }
    }

    /// The same, with options of the server that every node gets.
    #[must_use]
    pub fn with_options(mut self, options: impl IntoIterator<Item = impl Into<OsString>>) -> Self {
        self.options.extend(options.into_iter().map(Into::into));
        self
    }

    /// This very executable, which must be the harness.
    pub fn this() -> anyhow::Result<Self> {
        Ok(Self::harness(std::env::current_exe().context("the harness cannot find its own executable")?))
    }
}

/// Server processes. Nodes are numbered from 1 to m; a method that is given another number panics.
#[derive(Debug)]
pub struct Cluster {
    settings: Settings,
    reservation: Reservation,
    nodes: Vec<Node>,
    proxy: Option<Proxy>,
}

#[derive(Debug)]
struct Node {
    id: u8,
    /// None while it is stopped on request.
    process: Option<Process>,
}

impl Cluster {
    /// Starts all nodes, and does not wait until they serve: see [`Cluster::wait_ready`].
    pub fn start(settings: Settings) -> anyhow::Result<Self> {
        let replicas = settings.quorums.replicas();
        if let Some(leader) = settings.leader
            && !(1..=replicas).contains(&leader)
        {
            bail!("node {leader} cannot lead: the cluster has nodes 1 to {replicas}");
        }
        let reservation = Reservation::take(replicas)?;
        let nodes = (1..=replicas).map(|id| Node { id, process: None }).collect();
        let proxy = faults::start_proxy(settings.links, settings.quorums, &reservation)?;
        let mut cluster = Self { settings, reservation, nodes, proxy };
        for id in 1..=replicas {
            let directory = cluster.data_directory(id);
            fs::create_dir_all(&directory)
                .with_context(|| format!("{} cannot be created", directory.display()))?;
            cluster.restart(id)?;
        }
        Ok(cluster)
    }

    /// m and n.
    pub fn quorums(&self) -> Quorums {
        self.settings.quorums
    }

    /// Where clients reach a node.
    pub fn address(&self, node: u8) -> SocketAddr {
        self.assert_known(node);
        self.reservation.client(node)
    }

    /// Where clients reach the nodes, node 1 first.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.nodes.iter().map(|node| self.address(node.id)).collect()
    }

    /// Where a node listens for its peers.
    pub fn peer_address(&self, node: u8) -> SocketAddr {
        self.assert_known(node);
        self.reservation.peer(node)
    }

    /// Where a node keeps its data.
    pub fn data_directory(&self, node: u8) -> PathBuf {
        self.settings.directory.join(format!("node-{node}"))
    }

    /// Where a node's output goes.
    pub fn log(&self, node: u8) -> PathBuf {
        self.settings.directory.join(format!("node-{node}.log"))
    }

    /// Where data and logs are.
    pub fn directory(&self) -> &Path {
        &self.settings.directory
    }

    /// The process id of a node; none while it is stopped.
    pub fn process_id(&self, node: u8) -> Option<u32> {
        self.nodes.iter().find(|known| known.id == node)?.process.as_ref().map(Process::id)
    }

    /// The nodes as their clients reach them.
    pub fn members(&self) -> Members {
        let nodes = self.ids().map(|node| (node, self.address(node).to_string()));
        Members::new(self.settings.name.clone(), nodes.collect())
    }

    /// A client that asks one node alone: see [`Members::client`].
    pub fn client(&self, node: u8) -> anyhow::Result<Client> {
        self.members().client(node)
    }

    /// Kills a node with SIGKILL, and waits for its end: a crash of the process, not of the machine.
    pub fn kill(&mut self, node: u8) -> anyhow::Result<()> {
        if let Some(mut process) = self.node(node).process.take() {
            process.kill().with_context(|| format!("node {node} cannot be killed"))?;
        }
        Ok(())
    }

    /// Asks a node with SIGTERM to stop, and waits [`STOP_TIME_MAX`] for it. An error if it did not, and
    /// had to be killed, or if it ended with another code than 0.
    pub fn stop(&mut self, node: u8) -> anyhow::Result<()> {
        let Some(mut process) = self.node(node).process.take() else { return Ok(()) };
        request_stop(&mut process).with_context(|| format!("node {node} cannot be signalled"))?;
        match process.wait_until(Instant::now() + STOP_TIME_MAX) {
            Some(status) if status.success() => Ok(()),
            Some(status) => bail!("node {node} did not stop cleanly: {status}{}", self.log_words(node)),
            None => bail!("node {node} did not stop within {STOP_TIME_MAX:?}{}", self.log_words(node)),
        }
    }

    /// Starts a node that was killed, stopped, or has ended, with its old data and addresses.
    pub fn restart(&mut self, node: u8) -> anyhow::Result<()> {
        let command = self.command(node);
        let log = self.log(node);
        let known = self.node(node);
        if known.process.as_mut().is_some_and(|process| process.exited().is_none()) {
            bail!("node {node} is running: stop or kill it first");
        }
        known.process = Some(Process::start(command, &log)?);
        Ok(())
    }

    /// Stops a node's clock with SIGSTOP: it answers nothing, and its connections stay open.
    pub fn pause(&mut self, node: u8) -> anyhow::Result<()> {
        self.signal(node, Signal::STOP)
    }

    /// Lets a paused node go on.
    pub fn resume(&mut self, node: u8) -> anyhow::Result<()> {
        self.signal(node, Signal::CONT)
    }

    /// An error that shows its log if a node has ended that nobody asked to.
    pub fn check_running(&mut self) -> anyhow::Result<()> {
        let ended = self.nodes.iter_mut().find_map(|node| Some((node.id, node.process.as_mut()?.exited()?)));
        match ended {
            Some((node, status)) => bail!("{}", self.ended_words(node, status)),
            None => Ok(()),
        }
    }

    /// Stops all nodes: asks them together, waits [`STOP_TIME_MAX`], then kills. An error names the first
    /// that did not stop cleanly.
    pub fn shut_down(mut self) -> anyhow::Result<()> {
        self.request_stops();
        let deadline = Instant::now() + STOP_TIME_MAX;
        let ends: Vec<_> = self
            .nodes
            .iter_mut()
            .filter_map(|node| Some((node.id, node.process.as_mut()?.wait_until(deadline))))
            .collect();
        for (node, status) in ends {
            match status {
                Some(status) if status.success() => {}
                Some(status) => bail!("{}", self.ended_words(node, status)),
                None => bail!("node {node} did not stop within {STOP_TIME_MAX:?}{}", self.log_words(node)),
            }
        }
        Ok(())
    }

    fn request_stops(&mut self) {
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            // A node that cannot be signalled is killed in the end.
            let _ = request_stop(process);
        }
    }

    fn signal(&mut self, node: u8, signal: Signal) -> anyhow::Result<()> {
        match &mut self.node(node).process {
            Some(process) => {
                process.signal(signal).with_context(|| format!("node {node} cannot be signalled"))
            }
            None => bail!("node {node} is not running: restart it first"),
        }
    }

    fn node(&mut self, node: u8) -> &mut Node {
        let replicas = self.nodes.len();
        match self.nodes.iter_mut().find(|known| known.id == node) {
            Some(known) => known,
            None => panic!("the cluster has nodes 1 to {replicas}, not {node}"),
        }
    }

    fn ids(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.settings.quorums.replicas()
    }

    fn assert_known(&self, node: u8) {
        assert!(self.ids().any(|known| known == node), "the cluster has no node {node}");
    }

    /// Where one node dials another; its own address is where it listens.
    fn dialled_address(&self, node: u8, peer: u8) -> SocketAddr {
        match self.proxy {
            Some(_) if node != peer => self.reservation.link(node, peer),
            _ => self.reservation.peer(peer),
        }
    }

    fn command(&self, node: u8) -> Command {
        let Settings { program, quorums, durability, leader, name, .. } = &self.settings;
        let mut command = Command::new(&program.path);
        if let Some(parent) = program.parent {
            command.args([SUBCOMMAND, &parent.to_string()]).arg(self.sync_delay_file(node));
        }
        command.args(&program.options);
        // A server's settings in the caller's environment are not meant for these servers.
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"QUORATE_") {
                command.env_remove(variable);
            }
        }
        command.args(["--id", &node.to_string()]).arg("--data").arg(self.data_directory(node));
        command.args(["--listen", &self.address(node).to_string()]);
        for peer in self.ids() {
            command.args(["--replica", &format!("{peer}={}", self.dialled_address(node, peer))]);
        }
        command.args(["--quorum", &quorums.quorum().to_string()]);
        if let Some(leader) = leader {
            command.args(["--leader", &leader.to_string()]);
        }
        command.args(["--durability", &durability.to_string(), "--cluster", name]);
        command
    }

    fn ended_words(&self, node: u8, status: ExitStatus) -> String {
        format!("node {node} ended by itself: {status}{}", self.log_words(node))
    }

    /// Where a node's log is, and how it ends.
    fn log_words(&self, node: u8) -> String {
        let log = self.log(node);
        let mut words = format!("; its log is {}", log.display());
        for line in process::last_lines(&log, LOG_LINES) {
            let _ = write!(words, "\n    {line}"); // a String takes everything
        }
        words
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.request_stops();
        let deadline = Instant::now() + STOP_TIME_MAX;
        for process in self.nodes.iter_mut().filter_map(|node| node.process.as_mut()) {
            process.wait_until(deadline);
        }
        // What still runs is killed as the processes are dropped.
    }
}

/// SIGTERM; a paused process has to go on to see it.
fn request_stop(process: &mut Process) -> std::io::Result<()> {
    process.signal(Signal::TERM)?;
    process.signal(Signal::CONT)
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// A cluster of shell scripts, which get a node's command line.
    fn cluster_of(script: &str, directory: &Path) -> anyhow::Result<Cluster> {
        cluster_with(Links::Direct, script, directory)
    }

    fn cluster_with(links: Links, script: &str, directory: &Path) -> anyhow::Result<Cluster> {
        let program = directory.join("program");
        fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        Cluster::start(Settings {
            program: Program::server(program),
            quorums: Quorums::new(2, 1).unwrap(),
            durability: Durability::Os,
            leader: Some(1),
            name: "test".to_owned(),
            directory: directory.to_owned(),
            links,
        })
    }

    fn exists(process: u32) -> bool {
        Path::new(&format!("/proc/{process}")).exists()
    }

    /// Waits until a node has printed `line`.
    fn wait_for_line(cluster: &Cluster, node: u8, line: &str) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !process::last_lines(&cluster.log(node), LOG_LINES).iter().any(|said| said == line) {
            assert!(Instant::now() < deadline, "node {node} never printed {line:?}");
            std::thread::yield_now();
        }
    }

    const SERVES: &str = "trap 'echo stopping; exit 0' TERM; echo ready; while :; do sleep 0.01; done";

    #[test]
    fn a_node_gets_the_command_line_of_the_server() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = cluster_of("echo \"$@\"", directory.path()).unwrap();
        let data = cluster.data_directory(2);
        let expected = format!(
            "--id 2 --data {} --listen {} --replica 1={} --replica 2={} --quorum 1 --leader 1 --durability os \
             --cluster test",
            data.display(),
            cluster.address(2),
            cluster.peer_address(1),
            cluster.peer_address(2),
        );
        wait_for_line(&cluster, 2, &expected);
        assert!(data.is_dir());
    }

    #[test]
    fn a_proxied_node_dials_links_and_listens_where_it_always_does() {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster =
            cluster_with(Links::Proxied { seed: 7 }, "echo $7 $8 $9 ${10}", directory.path()).unwrap();
        let dialled = cluster.dialled_address(2, 1);
        assert_ne!(dialled, cluster.peer_address(1));
        for line in ["first", "second"] {
            assert!(TcpStream::connect(dialled).is_ok(), "nobody listens on the link at its {line} start");
            let expected = format!("--replica 1={dialled} --replica 2={}", cluster.peer_address(2));
            wait_for_line(&cluster, 2, &expected);
            fs::remove_file(cluster.log(2)).unwrap();
            cluster.kill(2).unwrap();
            cluster.restart(2).unwrap();
        }
    }

    #[test]
    fn faults_that_a_cluster_cannot_have_are_refused_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = cluster_of(SERVES, directory.path()).unwrap();
        let refused = [cluster.isolate(2), cluster.cut(1, 2), cluster.heal_all()];
        for refused in refused {
            let refused = refused.unwrap_err().to_string();
            assert_eq!(refused, "the links of this cluster are direct: start it with proxied ones");
        }
        let refused = cluster.slow_sync(2, Duration::from_millis(1)).unwrap_err().to_string();
        assert!(refused.starts_with("the disk of a plain server cannot be slowed"), "{refused}");
    }

    #[test]
    fn a_cluster_that_is_shut_down_has_stopped_every_node_cleanly() {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = cluster_of(SERVES, directory.path()).unwrap();
        (1..=2).for_each(|node| wait_for_line(&cluster, node, "ready"));
        cluster.pause(2).unwrap();
        let processes: Vec<_> = (1..=2).map(|node| cluster.process_id(node).unwrap()).collect();
        let log = cluster.log(2);
        cluster.shut_down().unwrap();
        assert!(!processes.into_iter().any(exists));
        assert_eq!(process::last_lines(&log, 1), ["stopping"]);
    }

    #[test]
    fn a_dropped_cluster_leaves_no_process() {
        let directory = tempfile::tempdir().unwrap();
        let cluster = cluster_of(SERVES, directory.path()).unwrap();
        let processes: Vec<_> = (1..=2).map(|node| cluster.process_id(node).unwrap()).collect();
        assert!(processes.iter().copied().all(exists));
        drop(cluster);
        assert!(!processes.into_iter().any(exists));
    }

    #[test]
    fn a_killed_node_starts_again_with_its_data_and_addresses() {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = cluster_of(SERVES, directory.path()).unwrap();
        let (address, first) = (cluster.address(2), cluster.process_id(2).unwrap());
        fs::write(cluster.data_directory(2).join("kept"), "x").unwrap();
        cluster.kill(2).unwrap();
        assert!(!exists(first) && cluster.process_id(2).is_none());
        cluster.check_running().expect("a node that was killed on request is no surprise");
        cluster.restart(2).unwrap();
        assert!(cluster.restart(2).unwrap_err().to_string().contains("stop or kill it first"));
        assert!(cluster.process_id(2).is_some_and(exists));
        assert_eq!(cluster.address(2), address);
        assert!(cluster.data_directory(2).join("kept").exists());
    }

    #[test]
    fn a_node_that_ends_by_itself_is_reported_with_the_end_of_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let script = "[ \"$2\" = 2 ] && { echo the disk is gone; exit 5; }; exec sleep 60";
        let mut cluster = cluster_of(script, directory.path()).unwrap();
        wait_for_line(&cluster, 2, "the disk is gone");
        let error = smol::block_on(cluster.wait_ready(Duration::from_secs(60))).unwrap_err().to_string();
        assert!(error.starts_with("node 2 ended by itself: exit status: 5; its log is"), "{error}");
        assert!(error.ends_with("\n    the disk is gone"), "{error}");
    }

    #[test]
    fn a_cluster_that_never_serves_is_given_up_with_the_reason() {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = cluster_of("exec sleep 60", directory.path()).unwrap();
        let error = smol::block_on(cluster.wait_ready(Duration::from_millis(100))).unwrap_err().to_string();
        assert!(error.starts_with("the cluster was not ready within 100ms: "), "{error}");
    }
}
