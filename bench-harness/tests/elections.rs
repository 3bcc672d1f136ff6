//! Elections as an operator meets them: hand-over by command and by a stop, and what logs and status say.

use std::fs;
use std::time::{Duration, Instant};

use bench_harness::cluster::{Cluster, Links, Program, Settings};
use quorate_client::{Client, Durability, Error, NodeStatus, Refusal, Role};
use quorate_protocol::{NodeId, Quorums};
use tempfile::TempDir;

/// After this long something that must happen has not happened.
const PATIENCE: Duration = Duration::from_secs(30);

fn start(quorum: u8, leader: Option<u8>) -> (Cluster, u8, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(Settings {
        program: Program::harness(env!("CARGO_BIN_EXE_bench-harness")),
        quorums: Quorums::new(3, quorum).unwrap(),
        durability: Durability::Os,
        leader,
        name: "elections".to_owned(),
        directory: directory.path().to_owned(),
        links: Links::Direct,
    })
    .unwrap();
    let leader = ready(&mut cluster);
    (cluster, leader, directory)
}

fn ready(cluster: &mut Cluster) -> u8 {
    smol::block_on(cluster.wait_ready(PATIENCE)).unwrap()
}

fn others(leader: u8) -> [u8; 2] {
    let others: Vec<_> = (1..=3).filter(|node| *node != leader).collect();
    others.try_into().unwrap()
}

/// Asks one node, with the patience of a test.
fn client(cluster: &Cluster, node: u8) -> Client {
    cluster.client(node).unwrap().with_deadline(PATIENCE)
}

fn hand_over(cluster: &Cluster, asked: u8, to: u8) -> Result<u64, Error> {
    smol::block_on(client(cluster, asked).hand_over(Some(NodeId::try_from(to).unwrap())))
}

fn status(cluster: &Cluster, node: u8) -> NodeStatus {
    smol::block_on(client(cluster, node).status(false)).unwrap()
}

fn write(cluster: &Cluster) {
    smol::block_on(cluster.members().client_of_all().unwrap().with_deadline(PATIENCE).set("key", "value"))
        .unwrap();
}

/// Waits until a node's log says all of this.
fn wait_for_log(cluster: &Cluster, node: u8, words: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = fs::read_to_string(cluster.log(node)).unwrap();
        let Some(missing) = words.iter().find(|word| !log.contains(**word)) else { return };
        assert!(Instant::now() < deadline, "node {node} never says {missing:?}:\n{log}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn leadership_goes_to_whom_it_is_asked_for_whoever_is_asked() {
    let (mut cluster, leader, _directory) = start(2, None);
    let [first, second] = others(leader);
    let before = status(&cluster, leader).view().term;
    // The one that is to lead is asked, and does not lead yet: the client goes on to the one that does.
    let term = hand_over(&cluster, first, first).unwrap();
    assert!(term > before);
    assert_eq!(ready(&mut cluster), first);
    write(&cluster);
    hand_over(&cluster, first, second).unwrap();
    assert_eq!(ready(&mut cluster), second);
    write(&cluster);
    let led = status(&cluster, first);
    let elections = led.view().elections;
    assert_eq!((elections.won, elections.stepped_down), (1, 1), "{elections:?}");
    wait_for_log(&cluster, first, &["as the leader has asked", "hands over to node", "has asked node"]);
}

#[test]
fn a_hand_over_that_cannot_be_is_refused_with_the_reason() {
    let (cluster, leader, _directory) = start(2, None);
    let refused = |to| match hand_over(&cluster, others(leader)[0], to) {
        Err(Error::Refused(Refusal::BadRequest(reason))) => reason,
        other => panic!("{other:?}"),
    };
    assert_eq!(refused(leader), format!("node {leader} leads already"));
    assert!(refused(9).contains("there is no node 9 in this cluster"));
    let (configured, leader, _directory) = start(2, Some(2));
    let refused = hand_over(&configured, leader, 1);
    assert!(
        matches!(&refused, Err(Error::Refused(Refusal::BadRequest(reason))) if reason.contains("configured"))
    );
}

#[test]
fn a_leader_that_is_told_to_stop_hands_over_first() {
    let (mut cluster, leader, _directory) = start(2, None);
    write(&cluster);
    cluster.stop(leader).unwrap();
    let successor = ready(&mut cluster);
    assert_ne!(successor, leader);
    write(&cluster);
    wait_for_log(&cluster, leader, &["hands over, to node", "has asked node", "leads no longer"]);
    wait_for_log(&cluster, successor, &["as the leader has asked", "leads in term"]);
    cluster.restart(leader).unwrap();
    ready(&mut cluster);
}

#[test]
fn a_leader_that_is_told_to_stop_has_a_successor_that_needs_its_vote() {
    let (mut cluster, leader, _directory) = start(1, None);
    write(&cluster);
    cluster.stop(leader).unwrap();
    let successor = ready(&mut cluster);
    assert_ne!(successor, leader);
    write(&cluster);
}

#[test]
fn an_election_can_be_followed_in_logs_and_status() {
    let (mut cluster, leader, _directory) = start(2, None);
    write(&cluster);
    let before = status(&cluster, leader).view().term;
    cluster.kill(leader).unwrap();
    let successor = ready(&mut cluster);
    let [voter] = others(leader).into_iter().filter(|node| *node != successor).collect::<Vec<_>>()[..] else {
        panic!("node {successor} leads after node {leader}");
    };
    let asks = format!("has heard nothing of its leader, node {leader}, for ");
    wait_for_log(&cluster, successor, &[&asks, "stands for election in term", "leads in term"]);
    let votes = format!("votes for node {successor} in term");
    wait_for_log(&cluster, voter, &[&votes, &format!("follows node {successor} in term")]);
    let (led, voted) = (status(&cluster, successor), status(&cluster, voter));
    let (led, voted) = (led.view(), voted.view());
    assert!(led.role == Role::Leader && led.term > before && led.voted_for.unwrap().get() == successor);
    assert!(led.elections.pre_votes > 0 && led.elections.stood > 0 && led.elections.won == 1);
    assert!(voted.elections.votes_given > 0 && voted.received.request_vote > 0 && voted.sent.vote > 0);
    // Nothing for each heartbeat, read or write.
    let log = fs::read_to_string(cluster.log(successor)).unwrap();
    assert!(log.lines().count() < 60, "{log}");
}

#[test]
fn with_a_quorum_of_1_nobody_follows_a_dead_leader_until_it_is_back() {
    let (mut cluster, leader, _directory) = start(1, None);
    write(&cluster);
    let before = status(&cluster, leader).view().term;
    cluster.kill(leader).unwrap();
    for node in others(leader) {
        wait_for_log(&cluster, node, &["asks who would vote for it, and needs 3 of 3"]);
        assert_ne!(status(&cluster, node).view().role, Role::Leader);
    }
    cluster.restart(leader).unwrap();
    assert_eq!(ready(&mut cluster), leader, "its last promise is its own leadership");
    assert!(status(&cluster, leader).view().term > before, "R11");
    write(&cluster);
}
