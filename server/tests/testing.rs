//! A cluster inside a test: what `quorate_server::testing` promises to applications.

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use quorate_client::{Acks, Client, Consistency, NodeStatus};
use quorate_protocol::{Durability, NodeId};
use quorate_server::testing::{TestCluster, TestError};

/// After this long something that must happen has not happened.
const PATIENCE: Duration = Duration::from_secs(30);

/// Held for writing by the test that counts this process's threads.
static THREADS: RwLock<()> = RwLock::new(());

fn among_others() -> RwLockReadGuard<'static, ()> {
    THREADS.read().unwrap_or_else(PoisonError::into_inner)
}

/// Patient: other tests load the machine, too.
fn start(replicas: u8, quorum: u8) -> TestCluster {
    TestCluster::builder(replicas, quorum).patience(PATIENCE).start().unwrap()
}

/// Sends nothing again by itself that may have happened: what the cluster does is to be seen, not what the client makes
/// good.
fn client(addresses: impl IntoIterator<Item = String>) -> Client {
    Client::builder().servers(addresses).exactly_once(false).deadline(PATIENCE).connect().unwrap()
}

/// A client that asks one node and no other, as long as the leader is not needed.
fn client_of(cluster: &TestCluster, node: NodeId, deadline: Duration) -> Client {
    let address = cluster.address(node).unwrap();
    Client::builder().servers([address]).discover(false).deadline(deadline).connect().unwrap()
}

fn set(client: &Client, key: &str, value: &str) {
    smol::block_on(client.set(key, value)).unwrap();
}

fn get(client: &Client, key: &str) -> Option<String> {
    let value = smol::block_on(client.get(key)).unwrap().value;
    value.map(|found| String::from_utf8(found.value).unwrap())
}

fn status(cluster: &TestCluster, node: NodeId) -> NodeStatus {
    smol::block_on(client_of(cluster, node, PATIENCE).status(false)).unwrap()
}

/// What a node has, whoever leads.
fn local(cluster: &TestCluster, node: NodeId, key: &str) -> Option<String> {
    get(&client_of(cluster, node, PATIENCE).with_consistency(Consistency::Local), key)
}

fn node(id: u8) -> NodeId {
    NodeId::try_from(id).unwrap()
}

#[test]
fn three_nodes_have_formed_a_cluster_that_takes_writes() {
    let _guard = among_others();
    let cluster = start(3, 2);
    assert_eq!(cluster.addresses().len(), 3);
    let client = client(cluster.addresses());
    let written = smol::block_on(client.set("key", "value")).unwrap();
    assert!(written.receipt.holders.len() >= 2);
    assert_eq!(written.receipt.durability, Durability::Fsync);
    cluster.wait_until_ready().unwrap();
    let leader = cluster.leader().unwrap();
    for id in cluster.nodes() {
        assert_eq!(local(&cluster, id, "key").as_deref(), Some("value"));
        let status = status(&cluster, id);
        assert_eq!(status.view().leader.as_ref().map(|leader| leader.node), Some(leader));
    }
}

#[test]
fn writes_go_on_when_the_leader_is_killed_and_it_catches_up_when_it_is_back() {
    let _guard = among_others();
    let mut cluster = start(3, 2);
    let client = client(cluster.addresses());
    set(&client, "key", "before");
    let leader = cluster.leader().unwrap();
    let others: Vec<NodeId> = cluster.nodes().filter(|id| *id != leader).collect();
    let silences = |cluster: &TestCluster| -> u64 {
        others.iter().map(|id| status(cluster, *id).view().elections.pre_votes).sum()
    };
    let silences_before = silences(&cluster);
    cluster.kill(leader).unwrap();
    let address = cluster.address(leader).unwrap();
    TcpStream::connect(&address).expect_err("nobody listens there");
    assert!(others.contains(&cluster.leader().unwrap()));
    assert!(silences(&cluster) > silences_before, "it has handed over nothing: it was missed");
    set(&client, "key", "after");
    cluster.restart(leader).unwrap();
    cluster.wait_until_ready().unwrap();
    assert_eq!(cluster.address(leader).unwrap(), address);
    assert_eq!(local(&cluster, leader, "key").as_deref(), Some("after"));
}

#[test]
fn what_was_acknowledged_while_leaders_were_killed_is_there() {
    const KILLS: usize = 5;
    let _guard = among_others();
    let mut cluster = start(3, 2);
    let writer = client(cluster.addresses());
    let (is_over, acknowledged) = (AtomicBool::new(false), AtomicU32::new(0));
    let deadline = Instant::now() + PATIENCE;
    let written = thread::scope(|scope| {
        let writing = scope.spawn(|| {
            let mut written = Vec::new();
            for number in 0.. {
                // Also if the test has failed meanwhile.
                if is_over.load(Ordering::Relaxed) || Instant::now() > deadline {
                    break;
                }
                // What a kill leaves unknown may be there or not.
                if smol::block_on(writer.set(format!("{number}"), "here")).is_ok() {
                    written.push(number);
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
            }
            written
        });
        for _ in 0..KILLS {
            let before = acknowledged.load(Ordering::Relaxed);
            wait_for("more writes", || (acknowledged.load(Ordering::Relaxed) > before + 20).then_some(()));
            let killed = cluster.kill_leader().unwrap();
            cluster.leader().unwrap();
            cluster.restart(killed).unwrap();
            cluster.wait_until_ready().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        writing.join().unwrap()
    });
    assert!(written.len() > KILLS * 20);
    let reader = client(cluster.addresses());
    let lost: Vec<i32> =
        written.into_iter().filter(|number| get(&reader, &number.to_string()).is_none()).collect();
    assert!(lost.is_empty(), "{lost:?}");
}

#[test]
fn a_node_that_is_stopped_says_so_in_its_directory_and_one_that_is_killed_does_not() {
    let _guard = among_others();
    let mut cluster =
        TestCluster::builder(3, 2).durability(Durability::Os).patience(PATIENCE).start().unwrap();
    let runs = |cluster: &TestCluster, id| cluster.directory().join(format!("node-{id}/boot")).exists();
    let stopped = cluster.leader().unwrap();
    cluster.stop(stopped).unwrap();
    assert!(!runs(&cluster, stopped));
    let killed = cluster.kill_leader().unwrap();
    assert_ne!(killed, stopped);
    assert!(runs(&cluster, killed));
    cluster.restart(stopped).unwrap();
    cluster.restart(killed).unwrap();
    cluster.wait_until_ready().unwrap();
}

#[test]
fn a_single_node_has_what_it_acknowledged_after_each_kill() {
    let _guard = among_others();
    let mut cluster =
        TestCluster::builder(1, 1).durability(Durability::Os).patience(PATIENCE).start().unwrap();
    for round in 0..5 {
        let client = client(cluster.addresses());
        set(&client, &round.to_string(), "here");
        cluster.restart(node(1)).unwrap();
        cluster.wait_until_ready().unwrap();
    }
    let client = client(cluster.addresses());
    assert!((0..5).all(|round| get(&client, &round.to_string()).is_some()));
}

#[test]
fn a_paused_leader_answers_nothing_and_follows_another_when_it_goes_on() {
    let _guard = among_others();
    let mut cluster = start(3, 2);
    let paused = cluster.leader().unwrap();
    let impatient =
        |cluster: &TestCluster| smol::block_on(client_of(cluster, paused, Duration::from_millis(500)).ping());
    impatient(&cluster).unwrap();
    cluster.pause(paused).unwrap();
    cluster.pause(paused).unwrap();
    impatient(&cluster).unwrap_err();
    let next = cluster.leader().unwrap();
    assert_ne!(next, paused);
    set(
        &client(cluster.addresses().into_iter().filter(|a| *a != cluster.address(paused).unwrap())),
        "key",
        "value",
    );
    cluster.resume(paused).unwrap();
    cluster.wait_until_ready().unwrap();
    assert_eq!(local(&cluster, paused, "key").as_deref(), Some("value"));
}

#[test]
fn a_write_for_all_copies_has_its_result_at_the_deadline_although_one_replica_is_away() {
    let _guard = among_others();
    let mut cluster = start(3, 2);
    let client = Client::builder().servers(cluster.addresses()).deadline(PATIENCE).connect().unwrap();
    set(&client, "a", "1");
    let leader = cluster.leader().unwrap();
    let away = cluster.nodes().find(|node| *node != leader).unwrap();
    cluster.kill(away).unwrap();
    let written = smol::block_on(client.set("b", "2").acks(Acks::All).deadline(Duration::from_secs(2)));
    let receipt = written.unwrap().receipt;
    assert!(receipt.holders.len() == 2 && receipt.survives_failover, "{receipt:?}");
}

#[test]
fn two_clusters_at_a_time_know_nothing_of_each_other() {
    let _guard = among_others();
    let clusters = [start(3, 2), start(3, 3)];
    let addresses: BTreeSet<String> = clusters.iter().flat_map(TestCluster::addresses).collect();
    assert_eq!(addresses.len(), 6);
    let clients = clusters.each_ref().map(|cluster| client(cluster.addresses()));
    set(&clients[0], "key", "first");
    set(&clients[1], "key", "second");
    assert_eq!(get(&clients[0], "key").as_deref(), Some("first"));
    assert_eq!(get(&clients[1], "key").as_deref(), Some("second"));
}

#[test]
fn a_dropped_cluster_leaves_neither_threads_nor_directories_nor_listeners() {
    let _guard = THREADS.write().unwrap_or_else(PoisonError::into_inner);
    let mut cluster = start(5, 3);
    set(&client(cluster.addresses()), "key", "value");
    let (directory, addresses) = (cluster.directory().to_owned(), cluster.addresses());
    assert!(directory.join("node-1").is_dir() && !own_threads().is_empty());
    // In every state that a node can be in.
    cluster.kill(node(1)).unwrap();
    cluster.pause(node(2)).unwrap();
    cluster.stop(node(3)).unwrap();
    cluster.restart(node(3)).unwrap();
    drop(cluster);
    assert!(!directory.exists());
    assert_eq!(own_threads(), Vec::<String>::new());
    for address in addresses {
        TcpStream::connect(address).expect_err("nobody listens there");
    }
}

/// The names of the threads that nodes have started.
fn own_threads() -> Vec<String> {
    let names = fs::read_dir("/proc/self/task").unwrap().filter_map(|task| {
        // It may have ended since.
        fs::read_to_string(task.unwrap().path().join("comm")).ok()
    });
    let is_own = |name: &String| {
        ["quorate-node-", "log", "checkpoint", "store"].iter().any(|start| name.starts_with(start))
    };
    names.map(|name| name.trim().to_owned()).filter(is_own).collect()
}

#[test]
fn what_cannot_be_is_refused_with_its_reason() {
    let _guard = among_others();
    let refused = TestCluster::start(3, 4).err().unwrap();
    assert!(matches!(refused, TestError::Quorum(_)), "{refused}");
    let mut cluster = start(1, 1);
    let unknown = cluster.kill(node(2)).unwrap_err();
    assert_eq!(unknown.to_string(), "there is no node 2: this cluster's are {1}");
    cluster.kill(node(1)).unwrap();
    for again in
        [cluster.kill(node(1)), cluster.stop(node(1)), cluster.pause(node(1)), cluster.resume(node(1))]
    {
        assert_eq!(again.unwrap_err().to_string(), "node 1 does not run: restart it first");
    }
}

#[test]
fn what_does_not_happen_ends_at_its_deadline_with_what_each_node_says() {
    let _guard = among_others();
    let mut cluster = TestCluster::builder(3, 2).patience(Duration::from_secs(5)).start().unwrap();
    let leader = cluster.kill_leader().unwrap();
    let left = cluster.leader().unwrap();
    let other = cluster.nodes().find(|id| ![leader, left].contains(id)).unwrap();
    cluster.kill(other).unwrap();
    let error = cluster.kill_leader().unwrap_err();
    assert!(matches!(error, TestError::Deadline { .. }), "{error}");
    assert!(error.to_string().starts_with(&format!("after 5 s no node leads: node {left}: ")), "{error}");
    assert_eq!(error.to_string().lines().count(), 1);
}

#[test]
fn a_node_that_ends_by_itself_is_named_with_its_reason() {
    let _guard = among_others();
    let mut cluster = start(3, 2);
    cluster.kill(node(2)).unwrap();
    damage_vote(&cluster.directory().join("node-2"));
    cluster.restart(node(2)).unwrap();
    let error = cluster.wait_until_ready().unwrap_err();
    assert!(matches!(&error, TestError::Ended { node, .. } if *node == self::node(2)), "{error}");
    assert!(error.to_string().contains("vote"), "{error}");
}

fn damage_vote(directory: &Path) {
    for copy in ["vote-a", "vote-b"] {
        fs::write(directory.join(copy), "rubbish").unwrap();
    }
}

fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}
