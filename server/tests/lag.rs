//! Measured lag: replicas in this process, one of which has a disk that is slow on purpose.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io::Cursor;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use quorate_client::{Client, NodeStatus};
use quorate_protocol::{Durability, Leadership, NodeId, NodeSet, Quorums};
use quorate_server::directory::DirectorySettings;
use quorate_server::disk::{DelayedDisk, RealDisk, SyncDelay};
use quorate_server::server::{self, Listeners, ServerError, ServerSettings};
use smol::Timer;
use smol::channel::{self, Sender};
use tempfile::TempDir;

/// After this long something that must happen has not happened.
const PATIENCE: Duration = Duration::from_secs(30);

/// How much longer the slow disk takes: a place of its own in a histogram begins there.
const DELAY_US: u64 = 20_480;

const WRITES: u64 = 20;

/// Three replicas with n = 2, the first being the leader. Stopped and removed when dropped.
struct Cluster {
    replicas: Vec<Replica>,
    _directory: TempDir,
}

struct Replica {
    /// Of its clients.
    address: String,
    /// How slow its disk is.
    delay: SyncDelay,
    /// Dropped to stop it.
    running: Option<Sender<Infallible>>,
    thread: Option<JoinHandle<Result<(), ServerError>>>,
}

impl Cluster {
    fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let listeners: BTreeMap<NodeId, Listeners> = (1..=3)
            .map(|id| (node(id), Listeners::bind("127.0.0.1:0", Some("127.0.0.1:0")).unwrap()))
            .collect();
        let peers: BTreeMap<NodeId, String> = listeners
            .iter()
            .map(|(node, listeners)| (*node, listeners.peer_address().unwrap().unwrap().to_string()))
            .collect();
        let start = |(node, listeners)| Replica::start(settings(node, &peers, directory.path()), listeners);
        let replicas = listeners.into_iter().map(start).collect();
        Self { replicas, _directory: directory }
    }

    fn client(&self, id: u8) -> Client {
        let server = &self.replicas[usize::from(id) - 1].address;
        Client::builder()
            .servers([server])
            .discover(false)
            .exactly_once(false)
            .deadline(PATIENCE)
            .connect()
            .unwrap()
    }
}

impl Replica {
    fn start(mut settings: ServerSettings, listeners: Listeners) -> Self {
        let address = listeners.client_address().unwrap().to_string();
        settings.node.advertise = address.clone();
        let delay = SyncDelay::default();
        settings.disk = Arc::new(DelayedDisk::new(Arc::new(RealDisk), delay.clone()));
        let (running, stopped) = channel::bounded(1);
        // Nothing is ever sent: it ends when the sender is dropped.
        let shutdown = async move {
            let Err(channel::RecvError) = stopped.recv().await;
        };
        let thread = thread::spawn(move || server::run(settings, listeners, shutdown));
        Self { address, delay, running: Some(running), thread: Some(thread) }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.replicas.iter_mut().for_each(|replica| drop(replica.running.take()));
        for thread in self.replicas.iter_mut().filter_map(|replica| replica.thread.take()) {
            let result = thread.join();
            // A second panic would hide the first.
            if !thread::panicking() {
                result.unwrap().unwrap();
            }
        }
    }
}

fn node(id: u8) -> NodeId {
    NodeId::try_from(id).unwrap()
}

fn settings(node: NodeId, peers: &BTreeMap<NodeId, String>, directory: &Path) -> ServerSettings {
    let nodes: NodeSet = peers.keys().copied().collect();
    let identity = DirectorySettings {
        cluster: "lag".into(),
        node,
        quorums: Quorums::new(3, 2).unwrap(),
        leadership: Leadership::Configured(nodes.iter().next().unwrap()),
        durability: Durability::Fsync,
    };
    let mut settings = ServerSettings::new(identity, nodes, directory.join(node.to_string()));
    settings.peers =
        peers.iter().filter(|(other, _)| **other != node).map(|(n, a)| (*n, a.clone())).collect();
    settings
}

/// Asks a node, with histograms, until it is as expected.
async fn wait_status(what: &str, client: &Client, is_so: impl Fn(&NodeStatus) -> bool) -> NodeStatus {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let status = client.status(true).await.unwrap();
        if is_so(&status) {
            return status;
        }
        assert!(Instant::now() < deadline, "never happened: {what}: {:?}", status.view());
        Timer::after(Duration::from_millis(5)).await;
    }
}

fn histogram(serialised: &[u8]) -> Histogram<u64> {
    Deserializer::new().deserialize(&mut Cursor::new(serialised)).unwrap()
}

#[test]
fn a_slow_disk_of_a_follower_is_seen_in_its_disk_stage_and_the_stages_add_up() {
    let cluster = Cluster::start();
    smol::block_on(async {
        let (leader, slow) = (cluster.client(1), cluster.client(2));
        wait_status("all are reachable", &leader, |status| {
            let view = status.view();
            view.followers.len() == 2 && view.followers.iter().all(|follower| follower.reachable)
        })
        .await;
        // The leader's first entry is on every disk: what is synced from now on is slow, and measured.
        let before = wait_status("the first entry", &slow, |status| status.view().durable == 1).await;
        cluster.replicas[1].delay.set(Duration::from_micros(DELAY_US));
        for count in 0..WRITES {
            leader.set("key", count.to_string()).await.unwrap();
        }
        let status = wait_status("everything is applied everywhere", &leader, |status| {
            let view = status.view();
            view.followers
                .iter()
                .all(|follower| follower.applied == view.last && follower.durable == view.last)
        })
        .await;
        let after = slow.status(true).await.unwrap();

        let mut syncs = histogram(after.view().disk.sync_us);
        syncs.subtract(histogram(before.view().disk.sync_us)).unwrap();
        assert!(!syncs.is_empty() && syncs.min() >= DELAY_US, "the disk was slow");
        for follower in &status.view().followers {
            let [lag, queue, network, disk, sync, apply] = [
                follower.lag_us,
                follower.queue_us,
                follower.network_us,
                follower.disk_us,
                follower.sync_us,
                follower.apply_us,
            ]
            .map(histogram);
            assert_eq!([&lag, &queue, &network, &disk, &sync, &apply].map(Histogram::len), [WRITES; 6]);
            let sum = queue.mean() + network.mean() + disk.mean();
            let precision = 0.01; // Two decimal digits.
            assert!((sum - lag.mean()).abs() <= precision * lag.mean() + 1.0, "{sum} and {}", lag.mean());
            assert!(network.max() > 0, "there is a way to it");
            if follower.node == node(2) {
                assert!(disk.min() >= DELAY_US && sync.min() >= DELAY_US && lag.min() >= DELAY_US);
            }
            assert_eq!((follower.lag_now_us, follower.entries_behind, follower.bytes_behind), (0, 0, 0));
        }
    });
}
