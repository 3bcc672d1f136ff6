//! How a leader brings its followers up to date, and keeps them so.

use bytes::Bytes;
use quorate_protocol::peer::{PeerMessage, Reject, RejectReason};

use super::super::{Flow, LogRead, Message, ProposeError};
use super::cluster::Cluster;
use super::*;

/// Bytes of entries that wait on a link.
fn bytes_under_way(cluster: &mut Cluster, to: u8) -> usize {
    let sizes = cluster.link(1, to).queue.iter().map(|message| match message {
        Message::Append { entries, .. } => entries.len(),
        Message::Chunk { .. } | Message::Small(_) => 0,
    });
    sizes.sum()
}

fn flow(cluster: &Cluster, of: u8) -> Flow {
    cluster.replica(1).followers().find(|(id, _)| id.get() == of).unwrap().1.flow
}

/// Node 3 lacks `count` entries, and the leader has none of them in memory.
fn with_a_follower_behind(m: u8, n: u8, count: usize) -> Cluster {
    let mut cluster = Cluster::with(m, n, |settings| settings.tail_bytes_max = 0);
    cluster.settle();
    cluster.isolate(3);
    for _ in 0..count {
        cluster.propose(b"value").unwrap();
        cluster.settle();
    }
    assert_eq!(cluster.replica(1).tail_first(), None);
    cluster.connect_all();
    for _ in 0..2 {
        cluster.deliver_appends();
        cluster.deliver_answers();
    }
    assert_eq!(flow(&cluster, 3), Flow::Reading { pending: true });
    cluster
}

#[test]
fn heartbeats_go_out_at_their_interval_and_are_answered() {
    let mut cluster = Cluster::settled(3, 2);
    cluster.advance(HEARTBEAT);
    cluster.settle();
    for _ in 0..5 {
        cluster.advance(HEARTBEAT / 2);
        assert_eq!(cluster.link(1, 2).queue.len(), 0);
        cluster.advance(HEARTBEAT / 2);
        assert_eq!(cluster.link(1, 2).queue.len(), 1);
        cluster.deliver(1, 2);
        assert_eq!(cluster.link(2, 1).queue.len(), 1);
        cluster.settle();
    }
}

#[test]
fn all_writes_of_a_turn_go_out_as_one_append_and_one_batch() {
    let mut cluster = Cluster::settled(3, 2);
    cluster.turn(1, |replica, now| {
        for _ in 0..10 {
            replica.propose(now, &set(b"value")).unwrap();
        }
    });
    assert_eq!((cluster.link(1, 2).queue.len(), cluster.member(1).disk.submitted.len()), (1, 1));
}

#[test]
fn an_idle_follower_learns_of_a_commit_at_once() {
    let mut cluster = Cluster::settled(3, 3);
    let index = cluster.propose(b"value").unwrap();
    cluster.settle(); // No time passes: no heartbeat.
    assert_eq!(cluster.commits(), [index; 3]);
}

#[test]
fn no_more_than_the_window_is_under_way_to_a_follower() {
    let window = 300;
    let mut cluster = Cluster::with(3, 2, |settings| settings.window_bytes_max = window);
    cluster.settle();
    let one = entry(1, 1, &[7; 50]).len();
    for _ in 0..20 {
        cluster.propose(&[7; 50]).unwrap();
        assert!(bytes_under_way(&mut cluster, 2) < window + one, "the last one may go beyond it");
    }
    assert!(bytes_under_way(&mut cluster, 2) >= window);
    cluster.settle();
    assert_eq!(cluster.commits(), [21; 3], "the rest goes out as acknowledgements come");
}

#[test]
fn a_follower_behind_the_memory_is_fed_from_the_log_and_then_from_memory() {
    let mut cluster = with_a_follower_behind(3, 2, 5);
    cluster.answer_read(1, 2);
    assert_eq!(flow(&cluster, 3), Flow::Reading { pending: true }, "the next read follows at once");
    let index = cluster.propose(b"while it catches up").unwrap();
    cluster.settle();
    assert_eq!(flow(&cluster, 3), Flow::Streaming);
    assert_eq!(cluster.commits(), [index; 3]);
    assert_eq!(cluster.member(3).log(), cluster.member(1).log());
    let index = cluster.propose(b"afterwards").unwrap();
    assert!(cluster.member(1).reads.is_empty());
    cluster.settle();
    assert_eq!(cluster.commits(), [index; 3]);
}

#[test]
fn a_follower_that_was_fed_from_the_log_up_to_its_end_counts_as_reachable() {
    let mut cluster = with_a_follower_behind(3, 2, 5);
    cluster.isolate(2);
    cluster.settle();
    assert_eq!(cluster.member(3).log().len(), 6, "it has everything");
    assert!(cluster.propose(b"value").is_ok(), "nobody else is there to make the leader send it more");
}

#[test]
fn a_follower_that_is_being_fed_from_the_log_does_not_count_as_reachable() {
    let mut cluster = with_a_follower_behind(3, 2, 5);
    cluster.isolate(2);
    assert_eq!(cluster.propose(b"value"), Err(ProposeError::NoQuorum { have: 1, need: 2 }));
}

#[test]
fn a_log_read_that_fails_is_tried_again_after_some_rounds_and_not_before() {
    let mut cluster = with_a_follower_behind(3, 2, 5);
    for _ in 0..3 {
        assert_eq!(cluster.member(1).reads.pop_front(), Some((node(3), 2)));
        cluster.turn(1, |replica, now| {
            replica.step(now, Input::LogRead { to: node(3), read: LogRead::Unreadable });
        });
        let mut rounds = 0;
        while cluster.member(1).reads.is_empty() {
            cluster.advance(Duration::from_millis(50));
            cluster.turn(1, |replica, now| replica.step(now, Input::Tick));
            cluster.deliver(1, 3);
            cluster.deliver(3, 1);
            rounds += 1;
            assert!(rounds <= 30, "it is never tried again");
        }
        assert!(rounds >= 15, "after {rounds} rounds: the log and its operator need a rest");
    }
    cluster.settle();
    assert_eq!(cluster.member(3).log(), cluster.member(1).log());
}

#[test]
fn a_follower_that_cannot_be_fed_never_counts_as_reachable() {
    let mut cluster = with_a_follower_behind(3, 2, 5);
    cluster.isolate(2);
    for _ in 0..40 {
        cluster.turn(1, |replica, now| {
            replica.step(now, Input::LogRead { to: node(3), read: LogRead::Unreadable });
        });
        cluster.advance(Duration::from_millis(50));
        cluster.deliver(1, 3);
        cluster.deliver(3, 1);
        assert_eq!(cluster.propose(b"value"), Err(ProposeError::NoQuorum { have: 1, need: 2 }));
    }
}

#[test]
fn the_answer_to_an_earlier_log_read_is_not_taken_for_a_later_one() {
    let mut cluster = with_a_follower_behind(3, 2, 5);
    assert_eq!(cluster.member(1).reads.pop_front(), Some((node(3), 2)));
    let stale: Bytes = cluster.member(1).disk.entries[1..3].concat().into();
    let answer = |cluster: &mut Cluster| {
        let read = LogRead::Entries(stale.clone());
        cluster.turn(1, |replica, now| replica.step(now, Input::LogRead { to: node(3), read }));
    };
    answer(&mut cluster); // Taken: entries 2 and 3 go out, and 4 is read.
    assert_eq!(cluster.member(1).reads, [(node(3), 4)]);
    answer(&mut cluster);
    assert_eq!(flow(&cluster, 3), Flow::Reading { pending: true });
    cluster.settle();
    assert_eq!(cluster.member(3).reports, Vec::<String>::new(), "nothing malformed was sent");
    assert_eq!(cluster.member(3).log(), cluster.member(1).log());
}

#[test]
fn a_log_read_that_comes_after_its_link_was_lost_is_ignored() {
    let mut cluster = with_a_follower_behind(3, 2, 5);
    cluster.isolate(3);
    cluster.answer_read(1, usize::MAX);
    cluster.connect_all();
    cluster.settle();
    assert_eq!(cluster.member(3).log(), cluster.member(1).log());
}

#[test]
fn an_append_that_was_lost_is_noticed_by_the_next_and_sent_again() {
    let mut cluster = Cluster::settled(3, 3);
    cluster.propose(b"lost").unwrap();
    cluster.link(1, 2).queue.clear();
    let index = cluster.propose(b"arrives").unwrap();
    cluster.settle();
    assert_eq!(cluster.commits(), [index; 3]);
}

#[test]
fn an_append_that_was_lost_is_noticed_by_the_next_heartbeat() {
    let mut cluster = Cluster::settled(3, 3);
    let index = cluster.propose(b"lost").unwrap();
    cluster.link(1, 2).queue.clear();
    cluster.settle();
    assert_eq!(cluster.replica(1).commit(), index - 1);
    cluster.advance(HEARTBEAT);
    cluster.settle();
    assert_eq!(cluster.commits(), [index; 3]);
}

#[test]
fn an_ack_that_was_lost_is_made_good_by_the_next_heartbeat() {
    let mut cluster = Cluster::settled(3, 3);
    let index = cluster.propose(b"value").unwrap();
    cluster.deliver_appends();
    cluster.ids().for_each(|id| cluster.sync(id));
    cluster.link(2, 1).queue.clear();
    cluster.settle();
    assert_eq!(cluster.replica(1).commit(), index - 1);
    cluster.advance(HEARTBEAT);
    cluster.settle();
    assert_eq!(cluster.commits(), [index; 3]);
}

#[test]
fn a_follower_that_differs_over_several_terms_is_repaired() {
    let cases: [(&[Term], &[Term]); 6] = [
        (&[1, 1, 4, 4, 5], &[1, 1, 2, 2, 3, 3, 3]),
        (&[1, 2, 3, 4, 5], &[1, 1]),
        (&[1, 5], &[1, 2, 3, 4]),
        (&[1, 1, 1, 1], &[1]),
        (&[1], &[1, 1, 1, 1]),
        (&[4], &[]),
    ];
    for (leader, follower) in cases {
        let mut cluster = Cluster::with_logs(&[leader, follower, follower]);
        cluster.connect_all();
        cluster.settle(); // No time passes: by questions and answers alone.
        let mut expected: Vec<(Term, Index)> = leader.iter().copied().zip(1..).collect();
        expected.push((leader.last().unwrap() + 1, leader.len() as Index + 1));
        for id in cluster.ids() {
            assert_eq!(cluster.member(id).log(), expected, "{leader:?} {follower:?} node {id}");
        }
        assert_eq!(cluster.commits(), [expected.len() as Index; 3]);
    }
}

#[test]
fn a_follower_that_was_emptied_below_what_it_acknowledged_is_reported() {
    let mut cluster = Cluster::settled(3, 2);
    cluster.propose(b"value").unwrap();
    cluster.settle();
    cluster.advance(HEARTBEAT);
    let reason = RejectReason::Mismatch { hint: 1 };
    let reject = Reject { term: 1, previous_index: 2, round: 0, reason };
    cluster.receive(2, 1, &Message::Small(PeerMessage::Reject(reject)));
    assert_eq!(cluster.member(1).reports.len(), 1);
    assert_eq!(cluster.replica(1).commit(), 2);
}

#[test]
fn refusals_that_make_no_sense_change_nothing() {
    let mut cluster = Cluster::settled(3, 2);
    cluster.advance(HEARTBEAT);
    let extremes = [0, 1, Index::MAX - 1, Index::MAX];
    for probing in [false, true] {
        for (previous_index, hint) in extremes.iter().flat_map(|a| extremes.map(|b| (*a, b))) {
            if probing {
                cluster.isolate(2);
                cluster.connect(1, 2);
                cluster.connect(2, 1);
            }
            let reject =
                Reject { term: 1, previous_index, round: 0, reason: RejectReason::Mismatch { hint } };
            cluster.receive(2, 1, &Message::Small(PeerMessage::Reject(reject)));
        }
    }
    let index = cluster.propose(b"value");
    cluster.advance(HEARTBEAT);
    cluster.settle();
    assert_eq!(cluster.commits(), [index.unwrap_or(1); 3]);
}

#[test]
fn a_refusal_of_this_leader_is_reported() {
    let mut cluster = Cluster::settled(3, 2);
    for (reports, reason) in [(1, RejectReason::NotLeader), (2, RejectReason::StaleTerm)] {
        let reject = Reject { term: 1, previous_index: 1, round: 0, reason };
        cluster.receive(2, 1, &Message::Small(PeerMessage::Reject(reject)));
        assert_eq!(cluster.member(1).reports.len(), reports);
    }
}

#[test]
fn nothing_is_sent_to_a_follower_without_a_link() {
    let mut leader = Replica::new(settings(1, 3, 1), fresh(3));
    let outputs = finish(&mut leader, Time::ZERO);
    let outputs = outputs.into_iter().chain(turn(&mut leader, HEARTBEAT, Input::Tick));
    assert!(!outputs.into_iter().any(|output| matches!(output, Output::Send { .. })));
}
