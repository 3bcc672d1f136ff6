//! When an entry is committed, and what a client may rely on.

use quorate_protocol::peer::{Ack, PeerMessage};

use super::super::{Message, Promise, ProposeError, ReadState};
use super::cluster::Cluster;
use super::*;

/// Every subset of m nodes, as bits from node 1 on.
fn subsets(m: u8) -> impl Iterator<Item = Vec<u8>> {
    (0_u32..1 << m).map(move |bits| (1..=m).filter(|id| bits & 1 << (id - 1) != 0).collect())
}

fn ack(term: Term, durable: Index) -> Message {
    let ack = Ack { term, durable, applied: 0, applied_ago_us: 0, round: 0, disk_us: 0, sync_us: 0 };
    Message::Small(PeerMessage::Ack(ack))
}

#[test]
fn a_write_is_committed_exactly_when_n_replicas_hold_it_the_leader_among_them() {
    for (m, n) in [1, 3, 5].into_iter().flat_map(|m| (1..=m).map(move |n| (m, n))) {
        for holders in subsets(m) {
            for leader_last in [false, true] {
                let mut cluster = Cluster::settled(m, n);
                let index = cluster.propose(b"value").unwrap();
                cluster.deliver_appends();
                let mut order = holders.clone();
                if leader_last {
                    order.reverse();
                }
                order.into_iter().for_each(|id| cluster.sync(id));
                cluster.advance(HEARTBEAT); // Those that have not synced answer, too.
                cluster.deliver_appends();
                cluster.deliver_answers();
                let expected = holders.len() >= usize::from(n) && holders.contains(&1); // R3, R13
                let leader = cluster.replica(1);
                let context = format!("m={m} n={n} {holders:?}");
                assert_eq!(leader.commit() >= index, expected, "{context}");
                assert_eq!(leader.applied(), leader.commit(), "{context}");
                let known = leader.holders(index).iter().map(NodeId::get).collect::<Vec<_>>();
                assert_eq!(known, holders, "{context}");
            }
        }
    }
}

#[test]
fn with_n_of_one_the_leaders_disk_alone_commits() {
    let mut cluster = Cluster::settled(3, 1);
    cluster.isolate(1);
    let index = cluster.propose(b"value").unwrap();
    assert_eq!(cluster.replica(1).commit(), index - 1);
    cluster.sync(1);
    assert_eq!(cluster.replica(1).commit(), index);
}

#[test]
fn an_entry_of_an_older_term_commits_only_through_one_of_the_own() {
    for (m, n) in [(3, 2), (5, 3), (5, 5)] {
        let mut cluster = Cluster::settled(m, n);
        let old = cluster.propose(b"value").unwrap();
        cluster.member(1).disk.sync(1);
        cluster.crash(1);
        assert_eq!(cluster.replica(1).last(), old + 1, "the old entry, and the new term's first");
        cluster.connect_all();
        for _ in 0..3 {
            cluster.deliver_appends();
            cluster.followers().for_each(|id| cluster.sync(id));
            cluster.deliver_answers();
        }
        let leader = cluster.replica(1);
        assert_eq!(leader.holders(old).len(), usize::from(m), "all hold the old entry");
        assert!(leader.commit() < old, "R14");
        cluster.sync(1);
        assert_eq!(cluster.replica(1).commit(), old + 1);
    }
}

#[test]
fn a_leader_that_restarts_takes_a_new_term_and_votes_for_itself_in_it() {
    let mut leader = Replica::new(settings(1, 3, 2), fresh(3));
    let outputs = finish(&mut leader, Time::ZERO);
    let promise = Promise { term: 1, voted_for: Some(node(1)) };
    assert_eq!(outputs[0], Output::Promise(promise));
    assert!(matches!(outputs[1], Output::Append { first: 1, last: 1, .. }), "R15: its no-op");
    let mut cluster = Cluster::settled(3, 2);
    for term in 2..5 {
        cluster.crash(1);
        assert_eq!(cluster.replica(1).term(), term); // R11
    }
}

/// Whether a linearizable read is answered at once.
fn may_read(cluster: &mut Cluster, id: u8) -> bool {
    cluster.turn(id, |replica, now| {
        replica.request_read(now).is_ok_and(|ticket| replica.read_state(&ticket) == ReadState::Ready)
    })
}

#[test]
fn linearizable_reads_wait_for_the_first_entry_of_the_term() {
    let mut cluster = Cluster::settled(3, 2);
    assert!(may_read(&mut cluster, 1));
    cluster.crash(1);
    assert!(!may_read(&mut cluster, 1));
    cluster.sync(1);
    assert!(!may_read(&mut cluster, 1), "R15: only the leader holds it");
    cluster.connect_all();
    cluster.settle();
    assert!(may_read(&mut cluster, 1));
    assert!(!may_read(&mut cluster, 2), "a follower's memory may be behind");
}

#[test]
fn what_a_restarted_leader_never_wrote_is_cut_from_its_followers_and_nothing_acknowledged_is_lost() {
    for n in 1..=3 {
        let mut cluster = Cluster::settled(3, n);
        let acknowledged = cluster.propose(b"acknowledged").unwrap();
        cluster.settle();
        cluster.propose(b"sent, synced by the followers, never written by the leader").unwrap();
        cluster.propose(b"and another").unwrap();
        cluster.deliver_appends();
        cluster.followers().for_each(|id| cluster.sync(id));
        cluster.deliver_answers();
        assert_eq!(cluster.replica(1).commit(), acknowledged, "n={n}: R13");
        cluster.crash(1);
        cluster.connect_all();
        cluster.settle();
        let kept = cluster.propose(b"kept").unwrap();
        cluster.settle();
        let expected = vec![(1, 1), (1, 2), (2, 3), (2, 4)];
        for id in cluster.ids() {
            assert_eq!(cluster.member(id).log(), expected, "n={n} node {id}");
            assert_eq!(cluster.replica(id).commit(), kept, "n={n} node {id}");
            assert!(cluster.member(id).applied[1].ends_with(b"acknowledged"), "n={n} node {id}");
        }
    }
}

#[test]
fn writes_are_refused_with_the_numbers_when_fewer_than_n_replicas_are_reachable() {
    for (m, n) in [(3, 2), (3, 3), (5, 3), (5, 5)] {
        let mut cluster = Cluster::settled(m, n);
        for gone in 0..m {
            let have = m - gone;
            let last = cluster.replica(1).last();
            let expected =
                if have >= n { Ok(last + 1) } else { Err(ProposeError::NoQuorum { have, need: n }) };
            assert_eq!(cluster.propose(b"value"), expected, "m={m} n={n} gone={gone}");
            cluster.settle();
            let now_last = if have >= n { last + 1 } else { last };
            assert_eq!(cluster.replica(1).last(), now_last, "nothing is appended");
            assert_eq!(cluster.replica(1).commit(), now_last);
            cluster.isolate(m - gone);
        }
    }
}

#[test]
fn a_follower_that_answers_nothing_for_the_election_timeout_is_unreachable() {
    let mut cluster = Cluster::settled(3, 2);
    cluster.advance(ELECTION_TIMEOUT - HEARTBEAT);
    cluster.settle();
    cluster.link(2, 1).is_up = false;
    cluster.link(3, 1).is_up = false; // The leader's own links stay up.
    let mut waited = Duration::ZERO;
    while cluster.propose(b"value").is_ok() {
        cluster.advance(HEARTBEAT);
        cluster.settle();
        waited += HEARTBEAT;
        assert!(waited <= ELECTION_TIMEOUT);
    }
    assert_eq!(waited, ELECTION_TIMEOUT);
    assert_eq!(cluster.propose(b"value"), Err(ProposeError::NoQuorum { have: 1, need: 2 }));
    cluster.link(3, 1).is_up = true;
    cluster.advance(HEARTBEAT);
    cluster.settle();
    assert!(cluster.propose(b"value").is_ok(), "one answer is enough");
}

#[test]
fn no_more_is_appended_than_may_be_uncommitted() {
    let mut cluster = Cluster::with(3, 2, |settings| settings.uncommitted_bytes_max = 500);
    cluster.settle();
    let accepted = (0..100).take_while(|_| cluster.propose(&[7; 50]).is_ok()).count();
    assert!((4..10).contains(&accepted), "{accepted}");
    assert_eq!(cluster.propose(b"value"), Err(ProposeError::Overloaded));
    let last = cluster.replica(1).last();
    let within_a_turn = cluster.turn(1, |replica, now| replica.propose(now, &set(b"value")));
    assert_eq!((within_a_turn, cluster.replica(1).last()), (Err(ProposeError::Overloaded), last));
    cluster.settle();
    assert!(cluster.propose(b"value").is_ok(), "what is committed does not count");
}

#[test]
fn the_bound_on_uncommitted_bytes_counts_within_a_turn() {
    let mut cluster = Cluster::with(1, 1, |settings| settings.uncommitted_bytes_max = 500);
    cluster.settle();
    let accepted = cluster.turn(1, |replica, now| {
        (0..100).take_while(|_| replica.propose(now, &set(&[7; 50])).is_ok()).count()
    });
    assert!((4..10).contains(&accepted), "{accepted}");
}

#[test]
fn an_ack_beyond_the_last_entry_is_reported_and_not_believed() {
    let mut cluster = Cluster::settled(3, 2);
    let index = cluster.propose(b"value").unwrap();
    cluster.sync(1);
    cluster.receive(2, 1, &ack(1, index + 1));
    assert_eq!((cluster.replica(1).commit(), cluster.member(1).reports.len()), (index - 1, 1));
    cluster.receive(2, 1, &ack(1, index));
    assert_eq!(cluster.replica(1).commit(), index);
}

#[test]
fn an_ack_of_a_higher_term_is_reported_and_not_believed() {
    let mut cluster = Cluster::settled(3, 2);
    let index = cluster.propose(b"value").unwrap();
    cluster.sync(1);
    cluster.receive(2, 1, &ack(2, index));
    assert_eq!((cluster.replica(1).commit(), cluster.member(1).reports.len()), (index - 1, 1));
    assert_eq!(cluster.replica(1).term(), 1);
}

#[test]
fn an_ack_of_an_older_term_does_not_count() {
    let mut cluster = Cluster::settled(3, 2);
    cluster.propose(b"value").unwrap();
    cluster.crash(1);
    cluster.sync(1);
    let first_of_term = cluster.replica(1).last();
    cluster.receive(2, 1, &ack(1, first_of_term)); // R12: of an entry that has been replaced since.
    assert!(cluster.replica(1).commit() < first_of_term);
    assert_eq!(cluster.replica(1).holders(first_of_term).len(), 1);
}

#[test]
fn acks_that_come_twice_late_or_in_another_order_change_nothing() {
    let mut cluster = Cluster::settled(3, 3);
    for _ in 0..3 {
        cluster.propose(b"value").unwrap();
        cluster.deliver_appends();
        cluster.followers().for_each(|id| cluster.sync(id));
    }
    cluster.sync(1);
    let acks: Vec<Message> = cluster.link(2, 1).queue.drain(..).collect();
    cluster.deliver(3, 1);
    for ack in acks.iter().rev().chain(&acks) {
        cluster.receive(2, 1, ack);
        assert_eq!(cluster.replica(1).commit(), 4, "the newest came first; FAULTS 17");
    }
}

#[test]
fn a_messages_sender_that_is_no_member_counts_for_nothing() {
    let mut cluster = Cluster::settled(3, 2);
    let index = cluster.propose(b"value").unwrap();
    cluster.sync(1);
    let message = ack(1, index);
    cluster.turn(1, |replica, now| {
        replica.step(now, Input::Message { from: member(9), message: &message.to_wire() });
    });
    assert_eq!(cluster.replica(1).commit(), index - 1);
}

#[test]
fn only_the_leader_takes_writes() {
    let mut cluster = Cluster::settled(3, 2);
    let proposed = cluster.turn(2, |replica, now| replica.propose(now, &set(b"value")));
    assert_eq!(proposed, Err(ProposeError::NotLeader));
}
