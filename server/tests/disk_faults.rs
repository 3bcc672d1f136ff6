//! Whole servers on a disk that fails, is full or hangs: sockets, threads, restarts, and a client (rows 25 to 29).

mod support;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use quorate_client::{Client, Consistency, Error, ErrorKind, Written};
use quorate_protocol::response::{Obstacle, Refusal, Status};
use quorate_protocol::{Durability, Leadership, NodeId, Quorums};
use quorate_server::directory::DirectorySettings;
use quorate_server::node::NodeError;
use quorate_server::server::{self, Listeners, ServerError, ServerSettings};
use smol::block_on;
use smol::channel::{Sender, bounded};
use support::faulty_disk::{Fault, FaultyDisk};
use support::{Addresses, client, wait_for};
use tempfile::TempDir;

/// Small, so that a disk is soon full.
const SEGMENT_BYTES: u64 = 16 << 10;

/// Far more than a test takes, where the limit is not what it is about.
const NEVER: Duration = Duration::from_secs(600);

/// A server in a thread of this process.
struct Running {
    stop: Sender<()>,
    thread: JoinHandle<Result<(), ServerError>>,
}

/// Servers in threads of this process, each on a disk of its own; the first leads.
struct Cluster {
    directory: TempDir,
    addresses: Addresses,
    quorums: Quorums,
    disks: Vec<FaultyDisk>,
    running: Vec<Option<Running>>,
    change: fn(&mut ServerSettings),
}

impl Cluster {
    /// m replicas and a quorum of n, started and ready.
    fn start(m: u8, n: u8) -> Self {
        Self::with(m, n, |_| {})
    }

    /// The same with other settings.
    fn with(m: u8, n: u8, change: fn(&mut ServerSettings)) -> Self {
        let mut cluster = Self {
            directory: tempfile::tempdir().unwrap(),
            addresses: Addresses::take(),
            quorums: Quorums::new(m, n).unwrap(),
            disks: (0..m).map(|_| FaultyDisk::default()).collect(),
            running: (0..m).map(|_| None).collect(),
            change,
        };
        (1..=m).for_each(|id| cluster.run(id));
        wait_for("a first write", || cluster.set("first").ok());
        cluster
    }

    fn settings(&self, id: u8) -> ServerSettings {
        let node = |id| NodeId::try_from(id).unwrap();
        let ids = 1..=self.quorums.replicas();
        let identity = DirectorySettings {
            cluster: "faults".into(),
            node: node(id),
            quorums: self.quorums,
            leadership: Leadership::Configured(node(1)),
            durability: Durability::Fsync,
        };
        let mut settings = ServerSettings::new(identity, ids.clone().map(node).collect(), self.data(id));
        let others = ids.filter(|other| *other != id);
        settings.peers = others.map(|other| (node(other), self.addresses.peer(other).to_string())).collect();
        settings.disk = Arc::new(self.disk(id).clone());
        settings.segment_bytes = SEGMENT_BYTES;
        settings.node.advertise = self.addresses.client(id).to_string();
        settings.node.disk_stall = NEVER;
        settings.node.disk_timeout = NEVER;
        (self.change)(&mut settings);
        settings
    }

    fn run(&mut self, id: u8) {
        let settings = self.settings(id);
        let peers = (!settings.peers.is_empty()).then(|| self.addresses.peer(id).to_string());
        let clients = self.addresses.client(id).to_string();
        let (stop, stopped) = bounded(1);
        let thread = thread::spawn(move || {
            let listeners = Listeners::bind(&clients, peers.as_deref())?;
            server::run(settings, listeners, async move {
                // An error is a dropped sender: the same.
                let _ = stopped.recv().await;
            })
        });
        self.running[usize::from(id) - 1] = Some(Running { stop, thread });
    }

    /// Waits until a node has ended by itself.
    fn wait_end(&mut self, id: u8) -> Result<(), ServerError> {
        let Running { stop, thread } = self.running[usize::from(id) - 1].take().unwrap();
        wait_for("the end of the node", || thread.is_finished().then_some(()));
        drop(stop);
        thread.join().unwrap()
    }

    /// Stops a node as a signal would.
    fn stop(&mut self, id: u8) -> Result<(), ServerError> {
        self.running[usize::from(id) - 1].as_ref().unwrap().stop.try_send(()).unwrap();
        self.wait_end(id)
    }

    fn data(&self, id: u8) -> PathBuf {
        self.directory.path().join(format!("node-{id}"))
    }

    fn disk(&self, id: u8) -> &FaultyDisk {
        &self.disks[usize::from(id) - 1]
    }

    /// A client of one node.
    fn client(&self, id: u8) -> Client {
        client(self.addresses.client(id))
    }

    /// Writes the key's name under it.
    fn set(&self, key: &str) -> Result<Written, Error> {
        block_on(self.client(1).set(key, key))
    }

    /// The keys with these numbers, all acknowledged.
    fn set_all(&self, numbers: Range<usize>) {
        for number in numbers {
            self.set(&format!("key {number}")).unwrap();
        }
    }

    fn assert_has_all(&self, numbers: Range<usize>) {
        for number in numbers {
            let key = format!("key {number}");
            let found = block_on(self.client(1).get(&key)).unwrap().value;
            assert_eq!(found.map(|found| found.value), Some(key.into_bytes()));
        }
    }

    /// Writes until a write is refused; that refusal, and how many were acknowledged.
    fn set_until_refused(&self) -> (Refusal, usize) {
        let client = self.client(1).with_deadline(Duration::from_secs(1));
        let value = vec![b'x'; 1000];
        let mut acknowledged = 0;
        for number in 0..1000 {
            match block_on(client.set(format!("filler {number}"), &value)) {
                Ok(_) => acknowledged += 1,
                Err(Error::Refused(refusal)) => return (refusal, acknowledged),
                // The one that was under way when the disk was full; the next one is refused.
                Err(error) => assert_eq!(error.kind(), ErrorKind::OutcomeUnknown, "{error}"),
            }
        }
        panic!("nothing was refused");
    }

    fn status<T>(&self, id: u8, of: impl FnOnce(Status<'_>) -> T) -> T {
        of(block_on(self.client(id).status(false)).unwrap().view())
    }

    fn wait_answers(&mut self, id: u8) {
        wait_for("a node that answers", || {
            if self.running[usize::from(id) - 1].as_ref().unwrap().thread.is_finished() {
                panic!("it has ended: {:?}", self.wait_end(id));
            }
            block_on(self.client(id).status(false)).ok()
        });
    }

    fn wait_obstacle(&self, id: u8, obstacle: Option<Obstacle>) {
        wait_for("the obstacle, or its end", || {
            self.status(id, |status| (status.obstacle == obstacle).then_some(()))
        });
    }

    /// What the leader knows of a follower's obstacle.
    fn wait_follower_obstacle(&self, id: u8, obstacle: Option<Obstacle>) {
        wait_for("the leader to learn the obstacle, or its end", || {
            self.status(1, |status| {
                let mut followers = status.followers.iter();
                let follower = followers.find(|follower| u8::from(follower.node) == id).unwrap();
                (follower.obstacle == obstacle).then_some(())
            })
        });
    }

    fn set_until_follower_is_full(&self, id: u8) {
        wait_for("a follower whose disk is full", || {
            block_on(self.client(1).set("filler", vec![b'x'; 1000])).unwrap();
            self.status(id, |status| (status.obstacle == Some(Obstacle::DiskFull)).then_some(()))
        });
    }

    fn wait_caught_up(&self, id: u8) {
        wait_for("a follower that holds everything", || {
            let last = self.status(1, |leader| leader.last);
            self.status(id, |follower| (follower.durable == last).then_some(()))
        });
    }

    /// A write in a thread of its own.
    fn begin_set(&self, key: &'static str) -> JoinHandle<Result<Written, Error>> {
        let client = self.client(1).with_deadline(support::PATIENCE);
        let before = self.status(1, |status| status.last);
        let write = thread::spawn(move || block_on(client.set(key, key)));
        wait_for("the entry", || self.status(1, |status| (status.last > before).then_some(())));
        write
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.disks.iter().for_each(FaultyDisk::end);
        for running in self.running.drain(..).flatten() {
            drop(running.stop);
            // Whatever came of it: the test has ended, perhaps with a panic.
            let _ = running.thread.join();
        }
    }
}

fn is_unknown(outcome: &Result<Written, Error>) -> bool {
    outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::OutcomeUnknown)
}

fn is_timeout(end: &Result<(), ServerError>) -> bool {
    matches!(end, Err(ServerError::Node(NodeError::DiskTimeout(_))))
}

fn is_log_error(end: &Result<(), ServerError>) -> bool {
    matches!(end, Err(ServerError::Node(NodeError::Log(_))))
}

/// A write meets the fault: nobody is told that it was done, or that it failed, and the node ends.
fn ends_at_a_write_and_recovers(fault: Fault) {
    let mut cluster = Cluster::start(1, 1);
    cluster.set_all(0..20);
    cluster.disk(1).begin(fault);
    let outcome = cluster.set("unknown");
    assert!(is_unknown(&outcome), "{outcome:?}");
    let end = cluster.wait_end(1);
    assert!(is_log_error(&end), "{end:?}");
    cluster.disk(1).assert_hit();
    cluster.disk(1).end();
    cluster.run(1);
    wait_for("a write after the restart", || cluster.set("after").ok());
    cluster.assert_has_all(0..20);
}

#[test]
fn after_a_sync_that_failed_once_the_outcome_is_unknown_the_node_ends_and_a_restart_has_all_acknowledged() {
    ends_at_a_write_and_recovers(Fault::SyncFailsOnce);
}

#[test]
fn a_disk_whose_syncs_all_fail_is_as_one_that_failed_once() {
    ends_at_a_write_and_recovers(Fault::SyncFails);
}

#[test]
fn a_file_system_that_turns_read_only_is_as_a_failed_sync() {
    ends_at_a_write_and_recovers(Fault::ReadOnly);
}

#[test]
fn a_leader_whose_sync_failed_acknowledges_nothing_although_a_quorum_of_followers_has_it() {
    let mut cluster = Cluster::start(3, 2);
    cluster.set_all(0..5);
    cluster.disk(1).begin(Fault::SyncFails);
    let outcome = cluster.set("unknown");
    assert!(is_unknown(&outcome), "{outcome:?}");
    assert!(is_log_error(&cluster.wait_end(1)));
    cluster.disk(1).assert_hit();
    cluster.disk(1).end();
    cluster.run(1);
    wait_for("a write after the restart", || cluster.set("after").ok());
    cluster.assert_has_all(0..5);
}

#[test]
fn a_follower_whose_sync_fails_ends_and_the_others_go_on() {
    let mut cluster = Cluster::start(3, 2);
    cluster.disk(3).begin(Fault::SyncFailsOnce);
    cluster.set_all(0..5);
    assert!(is_log_error(&cluster.wait_end(3)));
    cluster.set_all(5..10);
    cluster.disk(3).end();
    cluster.run(3);
    cluster.wait_answers(3);
    cluster.wait_caught_up(3);
}

#[test]
fn a_node_on_a_read_only_file_system_does_not_start_and_says_so() {
    let mut cluster = Cluster::start(1, 1);
    cluster.stop(1).unwrap();
    cluster.disk(1).begin(Fault::ReadOnly);
    cluster.run(1);
    let error = cluster.wait_end(1).unwrap_err().to_string();
    cluster.disk(1).assert_hit();
    assert!(error.contains("Read-only file system") && error.contains("node-1"), "{error}");
}

#[test]
fn a_full_disk_refuses_writes_answers_reads_and_takes_writes_again_by_itself() {
    let cluster = Cluster::start(1, 1);
    cluster.set_all(0..5);
    cluster.disk(1).begin(Fault::Full);
    let (refusal, acknowledged) = cluster.set_until_refused();
    assert_eq!(refusal, Refusal::Blocked(Obstacle::DiskFull));
    cluster.disk(1).assert_hit();
    cluster.wait_obstacle(1, Some(Obstacle::DiskFull));
    cluster.assert_has_all(0..5);
    cluster.disk(1).end();
    cluster.wait_obstacle(1, None);
    cluster.set_all(5..10);
    cluster.assert_has_all(0..10);
    let fillers =
        block_on(cluster.client(1).scan(quorate_client::prefix(b"filler")).next_page()).unwrap().unwrap();
    assert!(fillers.items.len() >= acknowledged);
}

#[test]
fn a_write_that_finds_the_disk_full_is_done_when_there_is_room_or_unknown_at_its_deadline() {
    let cluster = Cluster::start(1, 1);
    cluster.disk(1).begin(Fault::Full);
    let (hasty, patient) = (cluster.client(1).with_deadline(Duration::from_millis(300)), cluster.client(1));
    let value = vec![0; SEGMENT_BYTES as usize]; // Does not fit into what is left of the segment.
    let mut unknown = 0;
    for number in 0..4 {
        match block_on(hasty.set(format!("key {number}"), &value)) {
            Err(error) if error.kind() == ErrorKind::OutcomeUnknown => unknown += 1,
            Err(Error::Refused(Refusal::Blocked(Obstacle::DiskFull))) | Ok(_) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert_eq!(unknown, 1, "the one that met the full disk");
    cluster.disk(1).assert_hit();
    cluster.disk(1).end();
    cluster.wait_obstacle(1, None);
    let written = block_on(patient.scan(quorate_client::prefix(b"key")).next_page()).unwrap().unwrap();
    assert!(!written.items.is_empty(), "what was unknown is written now");
}

#[test]
fn a_leader_that_starts_on_a_full_disk_answers_local_reads_says_what_is_wrong_and_goes_on_later() {
    let mut cluster = Cluster::start(1, 1);
    cluster.set_all(0..5);
    cluster.disk(1).begin(Fault::Full);
    cluster.set_until_refused();
    // Whatever it had not written is not written: nobody was told otherwise.
    cluster.stop(1).unwrap();
    for _ in 0..2 {
        cluster.run(1);
        cluster.wait_answers(1);
        let found = block_on(cluster.client(1).with_consistency(Consistency::Local).get("key 4")).unwrap();
        assert!(found.value.is_some());
        if cluster.status(1, |status| status.obstacle.is_none()) {
            cluster.set_until_refused(); // The rest of the segment.
        }
        cluster.wait_obstacle(1, Some(Obstacle::DiskFull));
        assert_eq!(cluster.set("more").unwrap_err(), Error::Refused(Refusal::Blocked(Obstacle::DiskFull)));
        cluster.stop(1).unwrap();
    }
    cluster.run(1);
    cluster.wait_answers(1);
    cluster.disk(1).end();
    cluster.wait_obstacle(1, None);
    cluster.set_all(5..10);
    cluster.assert_has_all(0..10);
}

#[test]
fn with_a_followers_disk_full_a_quorum_without_it_goes_on_and_it_catches_up_by_itself() {
    let mut cluster = Cluster::start(3, 2);
    cluster.disk(3).begin(Fault::Full);
    cluster.set_until_follower_is_full(3);
    cluster.disk(3).assert_hit();
    cluster.set_all(0..5);
    // A new term: the full disk has room for the promise.
    let term = cluster.status(3, |status| status.term);
    cluster.stop(1).unwrap();
    cluster.run(1);
    wait_for("a write of the new term", || cluster.set("new term").ok());
    wait_for("the promise", || cluster.status(3, |status| (status.term > term).then_some(())));
    cluster.wait_follower_obstacle(3, Some(Obstacle::DiskFull));
    cluster.set_all(5..10);
    cluster.disk(3).end();
    cluster.wait_follower_obstacle(3, None);
    cluster.wait_caught_up(3);
    cluster.assert_has_all(0..10);
}

#[test]
fn with_a_followers_disk_full_a_quorum_of_all_refuses_writes_until_there_is_room() {
    let cluster = Cluster::start(3, 3);
    cluster.disk(3).begin(Fault::Full);
    let (refusal, _) = cluster.set_until_refused();
    assert_eq!(refusal, Refusal::NoQuorum { have: 2, need: 3 });
    cluster.disk(3).assert_hit();
    cluster.wait_follower_obstacle(3, Some(Obstacle::DiskFull));
    block_on(cluster.client(1).get("first")).unwrap();
    cluster.disk(3).end();
    cluster.wait_follower_obstacle(3, None);
    wait_for("a write", || cluster.set("more").ok());
    cluster.wait_caught_up(3);
}

#[test]
fn a_full_disk_that_keeps_a_checkpoint_from_being_written_keeps_the_node_going() {
    let cluster = Cluster::with(1, 1, |settings| settings.node.checkpoint_interval_bytes = SEGMENT_BYTES);
    cluster.disk(1).begin_at(Fault::Full, "checkpoint");
    let value = vec![0; 1000];
    let write = |range: Range<usize>| {
        for _ in range {
            block_on(cluster.client(1).set("key", &value)).unwrap();
        }
    };
    write(0..40);
    cluster.disk(1).wait_hit();
    assert_eq!(cluster.status(1, |status| status.checkpoint), 0);
    cluster.disk(1).end();
    wait_for("a checkpoint", || {
        write(0..20);
        cluster.status(1, |status| (status.checkpoint > 0).then_some(()))
    });
    let names = std::fs::read_dir(cluster.data(1).join("checkpoint")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().filter(|name| name.ends_with(".tmp")).count() <= 1, "those that failed: {names:?}");
}

/// Syncs are noticed when they take longer than this.
fn soon_stalled(settings: &mut ServerSettings) {
    settings.node.disk_stall = Duration::from_millis(50);
}

/// The same, and the node ends soon after.
fn soon_ended(settings: &mut ServerSettings) {
    soon_stalled(settings);
    settings.node.disk_timeout = Duration::from_millis(500);
}

#[test]
fn a_hung_sync_is_noticed_nothing_is_acknowledged_and_the_node_goes_on_when_it_returns() {
    let cluster = Cluster::with(1, 1, soon_stalled);
    cluster.disk(1).begin(Fault::Hung);
    let write = cluster.begin_set("waits");
    cluster.wait_obstacle(1, Some(Obstacle::DiskStalled));
    cluster.disk(1).assert_hit();
    let refused = cluster.set("refused").unwrap_err();
    assert_eq!(refused, Error::Refused(Refusal::Blocked(Obstacle::DiskStalled)));
    block_on(cluster.client(1).get("first")).unwrap();
    assert!(!write.is_finished());
    assert!(cluster.status(1, |status| status.commit < status.last));
    cluster.disk(1).end();
    write.join().unwrap().unwrap();
    cluster.wait_obstacle(1, None);
    cluster.set_all(0..5);
}

#[test]
fn a_follower_whose_sync_hangs_is_not_waited_for_and_counts_again_when_it_returns() {
    let cluster = Cluster::with(3, 2, soon_stalled);
    cluster.disk(2).begin(Fault::Hung);
    cluster.set_all(0..5);
    cluster.disk(2).wait_hit();
    cluster.wait_follower_obstacle(2, Some(Obstacle::DiskStalled));
    cluster.set_all(5..10);
    cluster.disk(2).end();
    cluster.wait_follower_obstacle(2, None);
    cluster.wait_caught_up(2);
}

#[test]
fn a_sync_that_does_not_return_within_the_limit_ends_the_node_and_the_outcome_is_unknown() {
    let mut cluster = Cluster::with(1, 1, soon_ended);
    cluster.disk(1).begin(Fault::Hung);
    let outcome = cluster.set("unknown");
    assert!(is_unknown(&outcome), "{outcome:?}");
    let end = cluster.wait_end(1);
    assert!(is_timeout(&end), "{end:?}");
    cluster.disk(1).assert_hit();
}

#[test]
fn a_node_ends_at_the_limit_although_a_checkpoint_hangs_too() {
    let mut cluster = Cluster::with(1, 1, |settings| {
        soon_ended(settings);
        settings.node.checkpoint_interval_bytes = 1;
    });
    cluster.disk(1).begin_at(Fault::Hung, "checkpoint");
    cluster.set("checkpointed").unwrap();
    cluster.disk(1).wait_hit();
    cluster.disk(1).begin(Fault::Hung);
    assert!(is_unknown(&cluster.set("unknown")));
    assert!(is_timeout(&cluster.wait_end(1)));
}

#[test]
fn a_node_that_is_told_to_stop_while_its_sync_hangs_ends_at_the_limit() {
    let mut cluster = Cluster::with(1, 1, |settings| settings.node.disk_timeout = Duration::from_secs(2));
    cluster.disk(1).begin(Fault::Hung);
    let write = cluster.begin_set("unknown");
    cluster.disk(1).wait_hit();
    let end = cluster.stop(1);
    assert!(is_timeout(&end), "{end:?}");
    assert!(is_unknown(&write.join().unwrap()));
}

#[test]
fn a_node_that_is_told_to_stop_ends_at_the_limit_although_a_checkpoint_hangs() {
    let mut cluster = Cluster::with(1, 1, |settings| {
        settings.node.checkpoint_interval_bytes = 1;
        settings.node.disk_timeout = Duration::from_secs(1);
    });
    cluster.disk(1).begin_at(Fault::Hung, "checkpoint");
    cluster.set_all(0..5);
    cluster.disk(1).wait_hit();
    cluster.set_all(5..10);
    let end = cluster.stop(1);
    assert!(is_timeout(&end), "{end:?}");
}

#[test]
fn a_node_that_is_told_to_stop_ends_at_the_limit_although_the_next_segment_hangs() {
    let mut cluster = Cluster::with(1, 1, |settings| settings.node.disk_timeout = Duration::from_secs(1));
    cluster.stop(1).unwrap();
    cluster.disk(1).begin_at(Fault::Hung, "next.tmp");
    cluster.run(1);
    cluster.disk(1).wait_hit();
    cluster.wait_answers(1);
    cluster.set_all(0..5);
    let end = cluster.stop(1);
    assert!(is_timeout(&end), "{end:?}");
}

#[test]
fn a_follower_that_cannot_store_its_promise_as_its_disk_hangs_ends_at_the_limit_and_the_others_go_on() {
    let mut cluster = Cluster::with(3, 2, soon_ended);
    cluster.stop(1).unwrap();
    cluster.disk(3).begin_at(Fault::Hung, "vote");
    cluster.run(1);
    wait_for("a write of the new term", || cluster.set("new term").ok());
    let end = cluster.wait_end(3);
    assert!(matches!(end, Err(ServerError::Node(NodeError::Directory(_)))), "{end:?}");
    cluster.disk(3).assert_hit();
    cluster.set_all(0..5);
}

#[test]
fn a_node_can_be_stopped_while_its_recovery_hangs() {
    let mut cluster = Cluster::with(1, 1, soon_ended);
    cluster.set_all(0..5);
    cluster.stop(1).unwrap();
    cluster.disk(1).begin(Fault::Hung);
    cluster.run(1);
    cluster.disk(1).wait_hit();
    cluster.stop(1).unwrap();
}

#[test]
fn at_the_limit_of_memory_writes_are_refused_deletes_taken_and_the_node_goes_on() {
    let cluster = Cluster::with(1, 1, |settings| settings.node.memory_bytes_max = 64 << 10);
    let (refusal, acknowledged) = cluster.set_until_refused();
    assert_eq!(refusal, Refusal::Blocked(Obstacle::MemoryFull));
    let mut tiny = 0;
    while block_on(cluster.client(1).set(format!("tiny {tiny}"), "")).is_ok() {
        tiny += 1;
    }
    cluster.wait_obstacle(1, Some(Obstacle::MemoryFull));
    block_on(cluster.client(1).get("filler 0")).unwrap().value.unwrap();
    for number in 0..acknowledged {
        block_on(cluster.client(1).delete(format!("filler {number}"))).unwrap();
    }
    cluster.wait_obstacle(1, None);
    cluster.set_all(0..5);
}
