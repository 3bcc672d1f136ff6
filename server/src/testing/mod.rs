//! A cluster inside a test, for applications' own tests. Feature `testing`.
//!
//! [`TestCluster`] starts real nodes: sockets on 127.0.0.1, files in a temporary directory, one thread of this process
//! for each. An application connects to them as to any cluster, and its test ends, stops, pauses and restarts them.
//! When the cluster is dropped, threads and directory are gone.
//!
//! ```
//! use quorate_client::Client;
//! use quorate_server::testing::TestCluster;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let mut cluster = TestCluster::start(3, 2)?; // Three replicas; two must hold a write.
//! let client = Client::connect(cluster.addresses())?;
//! smol::block_on(client.set("greeting", "hello"))?;
//!
//! let killed = cluster.kill_leader()?;
//! assert_ne!(cluster.leader()?, killed); // Waits for the election.
//! smol::block_on(client.set("greeting", "hello again"))?;
//!
//! cluster.restart(killed)?;
//! cluster.wait_until_ready()?; // Has caught up.
//! let found = smol::block_on(client.get("greeting"))?.value;
//! assert_eq!(found.map(|found| found.value), Some(b"hello again".to_vec()));
//! # Ok(())
//! # }
//! ```
//!
//! In a package's manifest, with the client as an ordinary dependency:
//!
//! ```toml
//! [dev-dependencies]
//! quorate-server = { version = "0.1", features = ["testing"] }
//! ```
//!
//! # How a node ends
//!
//! | call | is like | what the node still does |
//! |---|---|---|
//! | [`kill`](TestCluster::kill) | `kill -9` | nothing: its loop ends between two events, its connections close, its disk is taken away from its threads, all that it had not written is lost |
//! | [`stop`](TestCluster::stop) | `kill` | hands over if it leads, answers what it has appended, syncs |
//! | [`pause`](TestCluster::pause) | `kill -STOP` | its loop stands still; connections stay open, and new ones are accepted by the system and not answered |
//!
//! A kill is no power cut: what was written stays in the system's cache, synced or not, as for any killed process.
//! Nor does a pause hold up what the loop had handed to the log's thread before.
//!
//! # Invariants
//!
//! - A node's addresses stay the same, and nobody else's, for as long as the cluster is there.
//! - Whoever waits has a deadline, [`TestClusterBuilder::patience`]; then the error says what has not happened, and why.
//! - A node that has ended by itself makes every call that meets it fail with its reason.
//!
//! # Omissions
//!
//! Links between nodes are never cut or slowed, nor are disks. Nodes share the process's memory, descriptors, log
//! subscriber and luck with the test: a figure measured here says nothing about a cluster of processes.

mod disk;
mod node;
mod probe;

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use quorate_protocol::request::{Consistency, Token};
use quorate_protocol::{Durability, Leadership, NodeId, NodeSet, QuorumError, Quorums};
use tempfile::TempDir;
use thiserror::Error;

use self::node::{Port, TestNode};
use crate::directory::DirectorySettings;
use crate::node::NodeSettings;
use crate::server::{ServerError, ServerSettings};

/// How long anything may take, unless set.
const DEFAULT_PATIENCE: Duration = Duration::from_secs(10);

/// Between two looks at whether something has happened.
const POLL_PAUSE: Duration = Duration::from_millis(2);

/// Segments are filled with zeros ahead of their use: small ones make a start quick.
const SEGMENT_BYTES: u64 = 1 << 20;

/// Why a test's cluster did not do what it was told.
#[derive(Debug, Error)]
pub enum TestError {
    /// m and n that no cluster can have.
    #[error(transparent)]
    Quorum(#[from] QuorumError),
    /// There is no place for the nodes' data.
    #[error("no temporary directory can be made: {0}; set TMPDIR to a directory that can be written")]
    Directory(io::Error),
    /// A node's addresses cannot be listened on.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// A node's thread cannot be started.
    #[error("a thread for node {node} cannot be started: {source}")]
    Thread {
        /// The node.
        node: NodeId,
        /// What the system says.
        source: io::Error,
    },
    /// The cluster has no such node.
    #[error("there is no node {node}: this cluster's are {nodes:?}")]
    UnknownNode {
        /// The one that was named.
        node: NodeId,
        /// All that there are.
        nodes: NodeSet,
    },
    /// The node was killed or stopped, and not restarted since.
    #[error("node {0} does not run: restart it first")]
    NotRunning(NodeId),
    /// The node has ended although the test had not told it to.
    #[error("node {node} has ended by itself: {reason}")]
    Ended {
        /// The node.
        node: NodeId,
        /// Its own last words.
        reason: String,
    },
    /// The node's thread does not do what it was told, and is left to itself.
    #[error("node {0} was told to end or to stand still and has not done so in time: look after its disk")]
    Hung(NodeId),
    /// Something has not happened for as long as the test is patient.
    #[error("after {} s {what}: {reasons}", .patience.as_secs_f32())]
    Deadline {
        /// How it still is.
        what: &'static str,
        /// How long that was waited for.
        patience: Duration,
        /// What each node said last.
        reasons: String,
    },
}

/// Sets up a [`TestCluster`].
///
/// ```
/// use std::time::Duration;
///
/// use quorate_protocol::Durability;
/// use quorate_server::testing::TestCluster;
///
/// # fn main() -> Result<(), quorate_server::testing::TestError> {
/// let cluster = TestCluster::builder(1, 1) // A single node.
///     .name("orders")
///     .durability(Durability::Os)
///     .settings(|node| node.election_timeout = Duration::from_millis(200))
///     .start()?;
/// assert_eq!(cluster.addresses().len(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TestClusterBuilder {
    replicas: u8,
    quorum: u8,
    name: String,
    durability: Durability,
    node: NodeSettings,
    patience: Duration,
}

impl TestClusterBuilder {
    /// The cluster's name, of 1 to 128 bytes; `test` unless set.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// What durable means; [`Durability::Fsync`] unless set, as in earnest. [`Durability::Os`] is faster, and in a test
    /// as safe: it cuts no power.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Changes what all nodes are started with: timeouts, a lease, limits. Nodes, address and seed are set by the
    /// cluster. The rules of the command line hold and are not checked here, above all that an election timeout is
    /// three heartbeats or more.
    pub fn settings(mut self, change: impl FnOnce(&mut NodeSettings)) -> Self {
        change(&mut self.node);
        self
    }

    /// How long a call may take before it fails; 10 s unless set.
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// Starts all nodes, and waits until they are [ready](TestCluster::wait_until_ready).
    ///
    /// # Errors
    ///
    /// [`TestError::Quorum`] before anything is done; what the system refuses; [`TestError::Ended`] if a node refuses
    /// its settings; [`TestError::Deadline`].
    pub fn start(self) -> Result<TestCluster, TestError> {
        let quorums = Quorums::new(self.replicas, self.quorum)?;
        let directory = TempDir::with_prefix("quorate-test-").map_err(TestError::Directory)?;
        let nodes = self.nodes(quorums, directory.path())?;
        let mut cluster = TestCluster { nodes, patience: self.patience, directory };
        cluster.nodes.values_mut().try_for_each(TestNode::start)?;
        cluster.wait_until_ready()?;
        Ok(cluster)
    }

    /// All nodes, with ports of their own, so that each can be told where the others are before any is started.
    fn nodes(&self, quorums: Quorums, directory: &Path) -> Result<BTreeMap<NodeId, TestNode>, TestError> {
        let ids = (1..=quorums.replicas()).map(|id| NodeId::try_from(id).expect("there are at most 15"));
        let peers = match quorums.replicas() {
            1 => BTreeMap::new(),
            _ => ids.clone().map(|node| Ok((node, Port::take()?))).collect::<Result<_, ServerError>>()?,
        };
        let addresses: BTreeMap<NodeId, String> =
            peers.iter().map(|(node, port)| (*node, port.address.to_string())).collect();
        let mut peers = peers;
        ids.clone()
            .map(|node| {
                let mut settings = self.server(node, quorums, ids.clone().collect(), directory);
                settings.peers = addresses.clone();
                settings.peers.remove(&node);
                Ok((node, TestNode::new(settings, Port::take()?, peers.remove(&node))))
            })
            .collect()
    }

    fn server(&self, node: NodeId, quorums: Quorums, nodes: NodeSet, directory: &Path) -> ServerSettings {
        let identity = DirectorySettings {
            cluster: self.name.clone(),
            node,
            quorums,
            leadership: Leadership::Elected,
            durability: self.durability,
        };
        let mut settings = ServerSettings::new(identity, nodes, directory.join(format!("node-{node}")));
        settings.node = NodeSettings { nodes, ..self.node.clone() };
        settings.segment_bytes = SEGMENT_BYTES;
        settings.busy_poll = Duration::ZERO; // Tests share their cores.
        settings
    }
}

/// Nodes of one cluster, in threads of this process. See the [module](self) for an example.
///
/// Dropping it kills all nodes, waits for their threads, and removes their directories.
#[must_use = "dropped, it ends its nodes"]
pub struct TestCluster {
    nodes: BTreeMap<NodeId, TestNode>,
    patience: Duration,
    directory: TempDir,
}

impl TestCluster {
    /// Starts a cluster of so many replicas (m) of which so many (n), the leader included, must hold a write, and waits
    /// until it takes some. `start(1, 1)` is a single node.
    ///
    /// # Errors
    ///
    /// See [`TestClusterBuilder::start`].
    pub fn start(replicas: u8, quorum: u8) -> Result<Self, TestError> {
        Self::builder(replicas, quorum).start()
    }

    /// For everything that is not at its default.
    pub fn builder(replicas: u8, quorum: u8) -> TestClusterBuilder {
        TestClusterBuilder {
            replicas,
            quorum,
            name: "test".into(),
            durability: Durability::Fsync,
            node: NodeSettings::new(NodeSet::default()),
            patience: DEFAULT_PATIENCE,
        }
    }

    /// Where clients reach the nodes, `127.0.0.1:PORT` each, in the order of [`nodes`](Self::nodes); those that do not
    /// run, too.
    pub fn addresses(&self) -> Vec<String> {
        self.nodes.values().map(|node| node.clients.address.to_string()).collect()
    }

    /// Where clients reach one node.
    ///
    /// # Errors
    ///
    /// [`TestError::UnknownNode`].
    pub fn address(&self, node: NodeId) -> Result<String, TestError> {
        Ok(self.node(node)?.clients.address.to_string())
    }

    /// All nodes, 1 to m.
    pub fn nodes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.nodes.keys().copied()
    }

    /// Where the nodes' data directories are: `node-1` and so on.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Who leads: has committed in its term, and is confirmed by the others. Waits until somebody does.
    ///
    /// # Errors
    ///
    /// [`TestError::Deadline`] if nobody does, as when too few nodes run; [`TestError::Ended`].
    pub fn leader(&self) -> Result<NodeId, TestError> {
        self.wait("no node leads", || self.find_leader().map(|(leader, _)| leader))
    }

    /// Waits until all nodes that run follow one leader, and have applied everything committed when it was asked.
    /// Paused nodes are left out.
    ///
    /// # Errors
    ///
    /// [`TestError::Deadline`], [`TestError::Ended`].
    pub fn wait_until_ready(&self) -> Result<(), TestError> {
        self.wait("not all nodes have what a leader has", || {
            let (_, token) = self.find_leader()?;
            self.going().try_for_each(|node| ask(node, Consistency::Session(token)).map(|_| ()))
        })
    }

    /// Ends the leader at once, as [`kill`](Self::kill) does, and says which node that was. Waits until there is one.
    ///
    /// # Errors
    ///
    /// Those of [`leader`](Self::leader) and [`kill`](Self::kill).
    pub fn kill_leader(&mut self) -> Result<NodeId, TestError> {
        let leader = self.leader()?;
        self.kill(leader)?;
        Ok(leader)
    }

    /// Ends a node at once, as if its process had been killed: see [above](self#how-a-node-ends). When this returns, its
    /// ports are closed and its files are nobody's. A paused node can be killed, too.
    ///
    /// # Errors
    ///
    /// [`TestError::UnknownNode`], [`TestError::NotRunning`]; [`TestError::Ended`] if it had ended before;
    /// [`TestError::Hung`].
    pub fn kill(&mut self, node: NodeId) -> Result<(), TestError> {
        let deadline = self.deadline();
        self.node_mut(node)?.kill(deadline)
    }

    /// Has a node stop as it does on SIGTERM, and waits until it has. A leader hands over first. A paused node goes on,
    /// and stops.
    ///
    /// # Errors
    ///
    /// Those of [`kill`](Self::kill).
    pub fn stop(&mut self, node: NodeId) -> Result<(), TestError> {
        let deadline = self.deadline();
        self.node_mut(node)?.stop(deadline)
    }

    /// Starts a node again, with its directory and its addresses; one that runs is killed first. It recovers and
    /// catches up by itself: [`wait_until_ready`](Self::wait_until_ready) waits for that.
    ///
    /// # Errors
    ///
    /// Those of [`kill`](Self::kill), except that it need not run; [`TestError::Server`], [`TestError::Thread`].
    pub fn restart(&mut self, node: NodeId) -> Result<(), TestError> {
        let deadline = self.deadline();
        let node = self.node_mut(node)?;
        if node.is_running() {
            node.kill(deadline)?;
        }
        node.start()
    }

    /// Makes a node stand still until it is [resumed](Self::resume), as a stopped process does or a machine that is
    /// frozen. When this returns it does; nothing if it did already.
    ///
    /// # Errors
    ///
    /// Those of [`kill`](Self::kill).
    pub fn pause(&mut self, node: NodeId) -> Result<(), TestError> {
        let deadline = self.deadline();
        self.node_mut(node)?.pause(deadline)
    }

    /// Has a paused node go on; nothing if it is not paused.
    ///
    /// # Errors
    ///
    /// [`TestError::UnknownNode`], [`TestError::NotRunning`].
    pub fn resume(&mut self, node: NodeId) -> Result<(), TestError> {
        self.node_mut(node)?.resume()
    }

    fn node(&self, node: NodeId) -> Result<&TestNode, TestError> {
        self.nodes.get(&node).ok_or_else(|| self.unknown(node))
    }

    fn node_mut(&mut self, node: NodeId) -> Result<&mut TestNode, TestError> {
        let unknown = self.unknown(node);
        self.nodes.get_mut(&node).ok_or(unknown)
    }

    fn unknown(&self, node: NodeId) -> TestError {
        TestError::UnknownNode { node, nodes: self.nodes().collect() }
    }

    fn going(&self) -> impl Iterator<Item = &TestNode> {
        self.nodes.values().filter(|node| node.is_going())
    }

    fn deadline(&self) -> Instant {
        Instant::now() + self.patience
    }

    /// Who answers a linearizable read, and what that has seen; or why nobody does.
    fn find_leader(&self) -> Result<(NodeId, Token), String> {
        let mut reasons = Vec::new();
        for node in self.going() {
            match ask(node, Consistency::Linearizable) {
                Ok(token) => return Ok((node.id(), token)),
                Err(reason) => reasons.push(reason),
            }
        }
        match reasons.is_empty() {
            true => Err("no node runs: restart or resume some".into()),
            false => Err(reasons.join("; ")),
        }
    }

    /// Tries until it succeeds, a node has ended by itself, or for long enough.
    fn wait<T>(&self, what: &'static str, attempt: impl Fn() -> Result<T, String>) -> Result<T, TestError> {
        let deadline = self.deadline();
        loop {
            self.nodes.values().try_for_each(TestNode::check)?;
            match attempt() {
                Ok(done) => return Ok(done),
                Err(reasons) if Instant::now() >= deadline => {
                    return Err(TestError::Deadline { what, patience: self.patience, reasons });
                }
                Err(_) => std::thread::sleep(POLL_PAUSE),
            }
        }
    }
}

fn ask(node: &TestNode, consistency: Consistency) -> Result<Token, String> {
    probe::read(node.clients.address, consistency).map_err(|reason| format!("node {}: {reason}", node.id()))
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        // All at once: they need not wait for each other.
        self.nodes.values_mut().for_each(TestNode::begin_kill);
        let deadline = self.deadline();
        for node in self.nodes.values_mut().filter(|node| node.is_running()) {
            if let Err(error) = node.kill(deadline) {
                tracing::warn!("the end of a test's cluster: {error}");
            }
        }
    }
}
