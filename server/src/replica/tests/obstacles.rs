//! Followers that cannot take entries for a while, and what their leader makes of it.

use quorate_protocol::peer::{Ack, PeerMessage, Reject, RejectReason};
use quorate_protocol::response::Obstacle;

use super::super::{Message, Progress, ProposeError};
use super::cluster::Cluster;
use super::*;

const FULL: Option<Obstacle> = Some(Obstacle::DiskFull);

fn progress(cluster: &Cluster, of: u8) -> &Progress {
    cluster.replica(1).follower(node(of)).unwrap()
}

fn is_reachable(cluster: &Cluster, of: u8) -> bool {
    progress(cluster, of).is_reachable(cluster.now, ELECTION_TIMEOUT)
}

fn heartbeat(cluster: &mut Cluster) {
    cluster.advance(HEARTBEAT);
    cluster.settle(); // Panics if leader and follower send and refuse without end.
}

/// Node 3 has an obstacle, and the leader has tried to send it an entry.
fn with_a_blocked_follower(m: u8, n: u8) -> Cluster {
    let mut cluster = Cluster::settled(m, n);
    cluster.set_obstacle(3, FULL);
    cluster.propose(b"refused").unwrap();
    cluster.settle();
    cluster
}

#[test]
fn a_follower_with_an_obstacle_takes_no_entries_and_says_why() {
    let mut cluster = Cluster::settled(3, 2);
    cluster.set_obstacle(3, FULL);
    cluster.propose(b"refused").unwrap();
    cluster.deliver(1, 3);
    let answers: Vec<Message> = cluster.link(3, 1).queue.drain(..).collect();
    let [
        Message::Small(PeerMessage::Ack(Ack { durable: 1, round: 0, .. })),
        Message::Small(PeerMessage::Reject(reject)),
    ] = answers[..]
    else {
        panic!("{answers:?}")
    };
    let reason = RejectReason::Blocked(Obstacle::DiskFull);
    assert_eq!(reject, Reject { term: 1, previous_index: 1, round: 0, reason });
    let follower = cluster.member(3);
    assert_eq!((follower.replica.last(), follower.disk.submitted.len()), (1, 0));
}

#[test]
fn a_follower_with_an_obstacle_cuts_nothing_and_knows_what_it_has() {
    let mut cluster = Cluster::with_logs(&[&[1, 1, 3], &[1, 1, 3], &[1, 1, 2, 2]]);
    cluster.set_obstacle(3, FULL);
    cluster.connect_all();
    cluster.settle();
    assert_eq!(cluster.member(3).log(), [(1, 1), (1, 2), (2, 3), (2, 4)]);
    assert_eq!(progress(&cluster, 3).durable, 2, "what matches counts");
    cluster.set_obstacle(3, None);
    heartbeat(&mut cluster);
    assert_eq!(cluster.member(3).log(), cluster.member(1).log());
}

#[test]
fn what_was_taken_before_the_obstacle_is_acknowledged_when_it_is_durable() {
    let mut cluster = Cluster::settled(3, 3);
    let index = cluster.propose(b"taken").unwrap();
    cluster.deliver_appends();
    cluster.set_obstacle(3, Some(Obstacle::DiskStalled));
    heartbeat(&mut cluster);
    assert_eq!(cluster.replica(1).commit(), index);
    heartbeat(&mut cluster);
    assert_eq!(cluster.commits(), [index; 3], "it is told the commit index by heartbeats");
    assert_eq!(progress(&cluster, 3).obstacle, Some(Obstacle::DiskStalled));
}

#[test]
fn what_is_durable_is_acknowledged_again_on_a_new_link() {
    let mut cluster = Cluster::settled(3, 3);
    let index = cluster.propose(b"taken").unwrap();
    cluster.deliver_appends();
    cluster.ids().for_each(|id| cluster.sync(id));
    cluster.set_obstacle(3, FULL);
    cluster.isolate(3);
    cluster.settle();
    assert_eq!(cluster.replica(1).commit(), index - 1, "its ack was lost");
    cluster.connect_all();
    heartbeat(&mut cluster);
    assert_eq!(cluster.replica(1).commit(), index);
    assert!(!is_reachable(&cluster, 3));
}

#[test]
fn a_leader_learns_of_an_obstacle_with_the_next_heartbeat_before_it_sends_entries() {
    let mut cluster = Cluster::settled(3, 3);
    cluster.set_obstacle(3, FULL);
    heartbeat(&mut cluster);
    assert_eq!((progress(&cluster, 3).obstacle, is_reachable(&cluster, 3)), (FULL, false));
    assert_eq!(cluster.propose(b"value"), Err(ProposeError::NoQuorum { have: 2, need: 3 }));
    assert_eq!(cluster.replica(1).last(), 1, "nothing was appended");
}

#[test]
fn a_follower_with_an_obstacle_does_not_count_and_the_others_go_on() {
    let mut cluster = with_a_blocked_follower(3, 2);
    assert_eq!((progress(&cluster, 3).obstacle, is_reachable(&cluster, 3)), (FULL, false));
    assert!(progress(&cluster, 3).is_heard(cluster.now, ELECTION_TIMEOUT));
    for _ in 0..20 {
        let index = cluster.propose(b"value").unwrap();
        heartbeat(&mut cluster);
        assert_eq!(cluster.commits()[..2], [index; 2]);
        assert_eq!((progress(&cluster, 3).obstacle, is_reachable(&cluster, 3)), (FULL, false));
    }
    cluster.isolate(2);
    assert_eq!(cluster.propose(b"value"), Err(ProposeError::NoQuorum { have: 1, need: 2 }));
}

#[test]
fn a_follower_with_an_obstacle_is_asked_once_in_a_round_of_heartbeats_and_sent_no_entries() {
    let mut cluster = with_a_blocked_follower(3, 2);
    for _ in 0..20 {
        cluster.advance(HEARTBEAT);
        let mut sent = Vec::new();
        for _ in 0..10 {
            cluster.propose(b"value").unwrap();
            sent.extend(cluster.link(1, 3).queue.iter().cloned());
            cluster.settle();
        }
        assert!(matches!(&sent[..], [Message::Append { entries, .. }] if entries.is_empty()), "{sent:?}");
    }
}

#[test]
fn a_follower_whose_obstacle_is_gone_is_fed_and_counts_from_the_next_heartbeat_on() {
    for tail_bytes_max in [0, 1 << 20] {
        let mut cluster = Cluster::with(3, 2, |settings| settings.tail_bytes_max = tail_bytes_max);
        cluster.settle();
        cluster.set_obstacle(3, FULL);
        for _ in 0..5 {
            cluster.propose(b"value").unwrap();
            cluster.settle();
        }
        cluster.set_obstacle(3, None);
        heartbeat(&mut cluster);
        assert_eq!(cluster.member(3).log(), cluster.member(1).log());
        assert_eq!((progress(&cluster, 3).obstacle, is_reachable(&cluster, 3)), (None, true));
    }
}

#[test]
fn entries_refused_just_before_the_obstacle_went_are_sent_again() {
    let mut cluster = Cluster::settled(3, 3);
    cluster.set_obstacle(3, FULL);
    let index = cluster.propose(b"value").unwrap();
    let message = cluster.link(1, 3).queue.pop_front().unwrap();
    let message = message.to_wire();
    cluster.turn(3, |replica, now| {
        replica.step(now, Input::Message { from: member(1), message: &message });
        replica.set_obstacle(None);
    });
    cluster.settle();
    heartbeat(&mut cluster);
    assert_eq!(cluster.commits(), [index; 3]);
}

#[test]
fn an_obstacle_is_forgotten_with_the_link_on_which_it_was_told() {
    let mut cluster = with_a_blocked_follower(3, 2);
    cluster.isolate(3);
    assert_eq!(progress(&cluster, 3).obstacle, None);
}
