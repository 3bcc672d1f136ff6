//! A cluster inside this process, and the calls that are timed against it.
//!
//! Each replica runs in a thread of its own, with its own sockets on loopback and its own data directory in
//! the build's directory. Unlike processes, all threads share one reactor and hand its events to each other:
//! what is measured here follows changes of the code, it does not say what a cluster of processes reaches.
//! The harness does.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::rc::Rc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quorate_client::{Client, Role};
use quorate_protocol::{Durability, Leadership, NodeId, NodeSet, Quorums};
use quorate_server::directory::DirectorySettings;
use quorate_server::server::{self, Listeners, ServerError, ServerSettings};
use smol::LocalExecutor;
use smol::channel::{self, Sender};
use tempfile::TempDir;

/// How long a cluster may take to form.
const START_DEADLINE: Duration = Duration::from_secs(30);

/// Between two looks at whether it has.
const POLL_PAUSE: Duration = Duration::from_millis(10);

/// A running cluster, stopped and removed when dropped.
pub(crate) struct Cluster {
    /// The leader's client address.
    leader: String,
    replicas: Vec<Replica>,
    _directory: TempDir,
}

struct Replica {
    /// Dropped to stop it.
    running: Sender<Infallible>,
    thread: JoinHandle<Result<(), ServerError>>,
}

impl Cluster {
    /// Starts a cluster, and waits until it has elected a leader that reaches all others.
    pub(crate) fn start(quorums: Quorums, durability: Durability) -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let listeners: BTreeMap<NodeId, Listeners> = (1..=quorums.replicas())
            .map(|id| {
                (NodeId::try_from(id).unwrap(), Listeners::bind("127.0.0.1:0", Some("127.0.0.1:0")).unwrap())
            })
            .collect();
        let peers: BTreeMap<NodeId, String> = listeners
            .iter()
            .map(|(node, listeners)| (*node, listeners.peer_address().unwrap().unwrap().to_string()))
            .collect();
        let addresses: Vec<_> =
            listeners.values().map(|listeners| listeners.client_address().unwrap().to_string()).collect();
        let replicas = listeners
            .into_iter()
            .map(|(node, listeners)| {
                let settings = settings(node, &peers, quorums, durability, directory.path());
                Replica::start(settings, listeners)
            })
            .collect();
        Self { leader: wait_for_leader(&addresses), replicas, _directory: directory }
    }
}

/// Waits until one leads and reaches all others: its address.
fn wait_for_leader(addresses: &[String]) -> String {
    let connect = |address: &String| {
        Client::builder().discover(false).servers([address]).deadline(START_DEADLINE).connect()
    };
    let clients: Vec<_> = addresses.iter().map(|address| connect(address).unwrap()).collect();
    let start = Instant::now();
    loop {
        for (client, address) in clients.iter().zip(addresses) {
            if smol::block_on(leads_all(client)) {
                return address.clone();
            }
        }
        assert!(start.elapsed() < START_DEADLINE, "nobody leads yet");
        thread::sleep(POLL_PAUSE);
    }
}

async fn leads_all(client: &Client) -> bool {
    let node = client.status(false).await.unwrap();
    let status = node.view();
    let followers = status.followers.iter().filter(|follower| follower.reachable).count();
    status.role == Role::Leader
        && status.commit > 0
        && followers + 1 == usize::from(status.quorums.replicas())
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let (running, threads): (Vec<_>, Vec<_>) =
            self.replicas.drain(..).map(|replica| (replica.running, replica.thread)).unzip();
        drop(running);
        for thread in threads {
            let result = thread.join();
            // A second panic would hide the first.
            if !thread::panicking() {
                result.unwrap().unwrap();
            }
        }
    }
}

impl Replica {
    fn start(mut settings: ServerSettings, listeners: Listeners) -> Self {
        settings.node.advertise = listeners.client_address().unwrap().to_string();
        let (running, stopped) = channel::bounded(1);
        // Nothing is ever sent: it ends when the sender is dropped.
        let shutdown = async move {
            let Err(channel::RecvError) = stopped.recv().await;
        };
        let thread = thread::spawn(move || server::run(settings, listeners, shutdown));
        Self { running, thread }
    }
}

fn settings(
    node: NodeId,
    peers: &BTreeMap<NodeId, String>,
    quorums: Quorums,
    durability: Durability,
    directory: &Path,
) -> ServerSettings {
    let nodes: NodeSet = peers.keys().copied().collect();
    let identity = DirectorySettings {
        cluster: "benchmark".into(),
        node,
        quorums,
        leadership: Leadership::Elected,
        durability,
    };
    let mut settings = ServerSettings::new(identity, nodes, directory.join(node.to_string()));
    settings.peers = peers.clone();
    settings.peers.remove(&node);
    settings
}

/// Clients of a cluster, each with a connection of its own, all run by the calling thread.
pub(crate) struct Calls {
    executor: LocalExecutor<'static>,
    clients: Vec<Client>,
    /// How many calls there have been.
    made: Rc<Cell<u64>>,
}

impl Calls {
    /// Clients of the leader, whose calls may take so long.
    pub(crate) fn new(cluster: &Cluster, clients: usize, deadline: Duration) -> Self {
        let executor = LocalExecutor::new();
        let connect = |_| {
            let builder = Client::builder().servers([&cluster.leader]).deadline(deadline);
            let (client, driver) = builder.build().unwrap();
            executor.spawn(driver).detach();
            client
        };
        let clients = (0..clients).map(connect).collect();
        Self { executor, clients, made: Rc::default() }
    }

    /// How long it takes until `count` calls are answered, `in_flight` of each client at a time. A call gets
    /// its client and its number.
    pub(crate) fn time(
        &self,
        in_flight: usize,
        count: u64,
        call: impl AsyncFn(&Client, u64) + 'static,
    ) -> Duration {
        let (call, end) = (Rc::new(call), self.made.get() + count);
        let calling = |client: &Client| {
            let (client, call, made) = (client.clone(), call.clone(), self.made.clone());
            self.executor.spawn(async move {
                while made.get() < end {
                    made.set(made.get() + 1);
                    call(&client, made.get()).await;
                }
            })
        };
        let start = Instant::now();
        let tasks: Vec<_> = (0..in_flight).flat_map(|_| self.clients.iter().map(calling)).collect();
        smol::block_on(self.executor.run(async {
            for task in tasks {
                task.await;
            }
        }));
        start.elapsed()
    }
}
