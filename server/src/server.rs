//! A replica as a whole: from settings to a running node, and to its end.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use quorate_protocol::{NodeId, NodeSet};
use smol::{Async, LocalExecutor};
use thiserror::Error;

use crate::checkpoint;
use crate::directory::{self, BootId, DirectorySettings};
use crate::disk::{Disk, RealDisk};
use crate::log::{LogSettings, LogThread, LogThreadSettings, SEGMENT_BYTES};
use crate::net::reactor::Reactor;
use crate::net::stream::{Stream, StreamError};
use crate::net::{self, client, peer};
use crate::node::{self, Node, NodeError, NodeSettings, Opened, RecoveryError};
use crate::shell::{self, Inbox, Places, Shell};

/// How long nothing is accepted after accepting has failed, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The longest busy poll that makes sense: time passes for a node in such steps.
pub const BUSY_POLL_MAX: Duration = shell::TICK;

/// Longer than a sync of the log takes on a fast disk.
const BUSY_POLL: Duration = Duration::from_micros(150);

/// What a replica is started with.
#[derive(Clone, Debug)]
pub struct ServerSettings {
    /// Whose data directory it must be, or becomes.
    pub identity: DirectorySettings,
    /// The data directory.
    pub data: PathBuf,
    /// The boot of the machine that it is on; none if the system does not name it.
    pub boot: Option<BootId>,
    /// The file system that it is in.
    pub disk: Arc<dyn Disk>,
    /// Peer addresses of the other replicas, `HOST:PORT`.
    pub peers: BTreeMap<NodeId, String>,
    /// Everything about replication.
    pub node: NodeSettings,
    /// Bytes of one log segment.
    pub segment_bytes: u64,
    /// Bytes written for a checkpoint in a second, at most; 0 for no bound.
    pub checkpoint_bytes_per_second: u64,
    /// Connections of clients and replicas, all in all.
    pub connections_max: usize,
    /// For how long the replica looks for events before it lets its core sleep; zero: not at all.
    pub busy_poll: Duration,
}

impl ServerSettings {
    /// Everything at its default, and no address of another replica.
    pub fn new(identity: DirectorySettings, nodes: NodeSet, data: PathBuf) -> Self {
        Self {
            identity,
            data,
            boot: BootId::of_this_machine(),
            disk: Arc::new(RealDisk),
            peers: BTreeMap::new(),
            node: NodeSettings::new(nodes),
            segment_bytes: SEGMENT_BYTES,
            checkpoint_bytes_per_second: checkpoint::DEFAULT_BYTES_PER_SECOND,
            connections_max: 4096,
            busy_poll: BUSY_POLL,
        }
    }
}

/// The sockets that a replica listens on.
pub struct Listeners {
    /// For clients.
    pub clients: Async<TcpListener>,
    /// For the other replicas; none in a cluster of one.
    pub peers: Option<Async<TcpListener>>,
}

impl Listeners {
    /// Listens on `HOST:PORT` each; port 0 takes a free one.
    pub fn bind(clients: &str, peers: Option<&str>) -> Result<Self, ServerError> {
        let listen = |address: &str| {
            net::listen(address).map_err(|error| ServerError::Listen { address: address.to_owned(), error })
        };
        Ok(Self { clients: listen(clients)?, peers: peers.map(listen).transpose()? })
    }

    /// Where clients connect.
    pub fn client_address(&self) -> io::Result<SocketAddr> {
        self.clients.get_ref().local_addr()
    }

    /// Where replicas connect.
    pub fn peer_address(&self) -> io::Result<Option<SocketAddr>> {
        self.peers.as_ref().map(|listener| listener.get_ref().local_addr()).transpose()
    }
}

/// Why a replica could not start, or had to stop.
#[derive(Debug, Error)]
pub enum ServerError {
    /// An address is taken or not this machine's.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// `HOST:PORT`.
        address: String,
        /// What the system says.
        error: io::Error,
    },
    /// Clients that ask another replica could not be sent here.
    #[error(
        "clients cannot be sent to {0}: add --advertise with the HOST:PORT at which they reach this replica"
    )]
    Advertise(SocketAddr),
    /// The data directory cannot be used.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// The node had to stop.
    #[error(transparent)]
    Node(#[from] NodeError),
    /// The system does not say which sockets are ready.
    #[error("cannot wait for sockets: {0}")]
    Reactor(io::Error),
    /// The system has no randomness to name a new data directory by.
    #[error("no random numbers can be had: {0}")]
    Random(io::Error),
}

/// Runs a replica in this thread until `shutdown` is ready or the node must stop.
///
/// # Errors
///
/// [`ServerError::Recovery`] before anything is accepted, [`ServerError::Node`] if the disk or a rule stops it.
pub fn run(
    settings: ServerSettings,
    listeners: Listeners,
    shutdown: impl Future<Output = ()> + 'static,
) -> Result<(), ServerError> {
    run_until_killed(settings, listeners, shutdown, future::pending())
}

/// The same, until `killed` is ready at the latest. There is no turn after that: nothing is handed over, answered or
/// drained, connections close, and the node's threads are waited for. What they still find to do they do, unless
/// `killed` has taken the disk from them.
pub(crate) fn run_until_killed(
    settings: ServerSettings,
    listeners: Listeners,
    shutdown: impl Future<Output = ()> + 'static,
    killed: impl Future<Output = ()> + 'static,
) -> Result<(), ServerError> {
    let reactor = Reactor::new(settings.busy_poll).map_err(ServerError::Reactor)?;
    let executor = Rc::new(LocalExecutor::new());
    // A task like all others: what the executor itself is given to run is polled on every wake.
    let main =
        executor.spawn(serve(executor.clone(), reactor.clone(), settings, listeners, shutdown, killed));
    reactor.block_on(&executor, main).map_err(ServerError::Reactor)?
}

/// What ends a replica that runs.
enum End {
    Stopped,
    Killed,
    Failed(NodeError),
}

async fn serve(
    executor: Rc<LocalExecutor<'static>>,
    reactor: Rc<Reactor>,
    settings: ServerSettings,
    listeners: Listeners,
    shutdown: impl Future<Output = ()>,
    killed: impl Future<Output = ()>,
) -> Result<(), ServerError> {
    let (mut shutdown, mut killed) = (pin!(shutdown), pin!(killed));
    let opening = async { Some(recover(&settings).await) };
    // What a recovery leaves that takes too long, or whose disk hangs, is recovered the same way.
    let is_to_stop = Cell::new(false);
    let stopped = async {
        shutdown.as_mut().await;
        is_to_stop.set(true);
        reactor.sleep(shell::stop_deadline(&settings.node)).await;
        None
    };
    let killed_first = async {
        killed.as_mut().await;
        None
    };
    let Some(opened) = future::or(killed_first, future::or(opening, stopped)).await else { return Ok(()) };
    let (opened, election_seed) = opened?;
    let mut settings = settings;
    settings.node.election_seed = election_seed;
    let shell = open(&settings, opened, reactor)?;
    let spawn_listener =
        |listener, accepts| executor.spawn(accept(executor.clone(), shell.clone(), listener, accepts));
    let mut tasks = vec![spawn_listener(listeners.clients, Accepts::Clients)];
    tasks.extend(listeners.peers.map(|listener| spawn_listener(listener, Accepts::Replicas)));
    for (node, address) in settings.peers {
        tasks.push(executor.spawn(peer::keep_link(shell.clone(), node, address)));
    }
    let ticking = shell.clone();
    tasks.push(executor.spawn(async move { ticking.tick().await }));
    let turning = shell.clone();
    let turns = executor.spawn(async move { turning.run_turns().await });

    let stop = async {
        if !is_to_stop.get() {
            shutdown.await;
        }
        tracing::info!("stopping");
        shell.drain().await;
        End::Stopped
    };
    let failed = async { End::Failed(turns.await) };
    let killed = async {
        killed.await;
        End::Killed
    };
    let end = future::or(killed, future::or(failed, stop)).await;
    // A task that is only dropped stays with the executor, which the listeners' tasks hold themselves: log
    // threads and sockets would outlive the replica in a process that goes on.
    for task in tasks {
        task.cancel().await;
    }
    match end {
        End::Stopped => Ok(shell.stop()?),
        End::Killed => {
            shell.abort();
            Ok(())
        }
        End::Failed(error) => {
            shell.abort();
            Err(error.into())
        }
    }
}

/// Recovers the node from its directory, in another thread; and takes a seed for its election timeouts.
async fn recover(settings: &ServerSettings) -> Result<(Opened, u64), ServerError> {
    let fresh = directory::random_incarnation().map_err(ServerError::Random)?;
    let seed = directory::random_incarnation().map_err(ServerError::Random)?;
    let ServerSettings { identity, data, boot, disk, segment_bytes, node, .. } = settings.clone();
    let log = LogSettings { segment_bytes, ..LogSettings::default() };
    let opened = smol::unblock(move || node::open(&disk, &data, &identity, fresh, log, &node, boot)).await?;
    Ok((opened, seed.0))
}

/// Starts the log thread of a node that is recovered.
fn open(settings: &ServerSettings, opened: Opened, reactor: Rc<Reactor>) -> Result<Rc<Shell>, ServerError> {
    let disk = settings.disk.clone();
    let inbox = Arc::new(Inbox::default());
    let report = inbox.clone();
    let log = LogThread::start(opened.log, LogThreadSettings::default(), move |event| report.log(event))
        .map_err(NodeError::Log)?;
    let counters = log.counters().clone();
    let places = Places {
        disk,
        directory: settings.data.clone(),
        durability: settings.identity.durability,
        vote: Some(opened.vote),
        log,
        lock: Some(opened.lock),
        reader: opened.state.reader.clone(),
        checkpoint_bytes_per_second: settings.checkpoint_bytes_per_second,
        disk_timeout: settings.node.disk_timeout,
        stop_deadline: shell::stop_deadline(&settings.node),
    };
    let in_flight_max = settings.node.in_flight_max;
    let node = Node::new(settings.node.clone(), opened.state, counters);
    Ok(Shell::new(node, places, inbox, reactor, settings.connections_max, in_flight_max))
}

/// Who connects to a listener.
#[derive(Clone, Copy)]
enum Accepts {
    Clients,
    Replicas,
}

/// Accepts connections, each served by a task of its own. Never ends.
async fn accept(
    executor: Rc<LocalExecutor<'static>>,
    shell: Rc<Shell>,
    listener: Async<TcpListener>,
    accepts: Accepts,
) {
    loop {
        match listener.accept().await.and_then(|(socket, _)| Stream::new(&shell.reactor, socket)) {
            Ok(stream) => {
                let shell = shell.clone();
                let serving = async move { connection(&shell, Rc::new(stream), accepts).await };
                executor.spawn(serving).detach();
                // Whoever is refused is gone before the next is accepted: a burst must not take the
                // descriptors that files and replicas need.
                future::yield_now().await;
            }
            // The connection was gone before it was accepted.
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                tracing::error!("cannot accept connections, trying again: {error}");
                shell.reactor.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, InvalidInput, NotConnected};
    matches!(error.kind(), ConnectionAborted | ConnectionReset | NotConnected | InvalidInput)
}

async fn connection(shell: &Rc<Shell>, stream: Rc<Stream>, accepts: Accepts) {
    let remote = stream.remote;
    let error = match accepts {
        Accepts::Clients => client::serve(shell, stream.clone()).await,
        Accepts::Replicas => peer::serve(shell, stream.clone()).await,
    };
    stream.close();
    if !matches!(error, StreamError::Closed) {
        tracing::debug!(%remote, "a connection ended: {error}");
    }
}
