//! What an elected leader does at the beginning of its office, and at the end that it chooses itself.

use quorate_protocol::peer::{Ack, PeerMessage, Vote};
use quorate_protocol::{Incarnation, Index, Leadership, Member, NodeId};

use super::super::{HandOverError, Input, Message, Output, ProposeError, Replica, Settings, Time};
use super::{ELECTION_TIMEOUT, fresh, member, node, set, settings, turn};

/// Node 1 of three with its office, and all that it has sent last.
struct Leader {
    replica: Replica,
    now: Time,
    sent: Vec<Output>,
}

impl Leader {
    /// Elected just now, by node 2.
    fn elected(n: u8) -> Self {
        let settings = Settings { leadership: Leadership::Elected, ..settings(1, 3, n) };
        let replica = Replica::new(settings, fresh(3));
        let mut leader = Self { replica, now: Time::ZERO, sent: Vec::new() };
        leader.turn(Input::Tick);
        leader.turn(Input::Connected(member(2)));
        leader.turn(Input::Connected(member(3)));
        leader.now += 2 * ELECTION_TIMEOUT;
        leader.turn(Input::Tick);
        leader.message(2, PeerMessage::Vote(Vote { term: 0, pre_vote: true, granted: true }));
        leader.message(2, PeerMessage::Vote(Vote { term: 1, pre_vote: false, granted: true }));
        assert!(leader.replica.is_leader());
        leader
    }

    fn turn(&mut self, input: Input<'_>) {
        self.sent = turn(&mut self.replica, self.now, input);
    }

    fn message(&mut self, from: u8, message: PeerMessage<'static>) {
        self.turn(Input::Message { from: member(from), message: &message });
    }

    /// A follower that answers every round holds everything up to an index.
    fn ack(&mut self, from: u8, durable: Index) {
        self.ack_of(member(from), durable);
    }

    fn ack_of(&mut self, from: Member, durable: Index) {
        let (applied, applied_ago_us, disk_us, sync_us) = (0, 0, 0, 0);
        let ack = Ack { term: 1, durable, applied, applied_ago_us, round: u64::MAX, disk_us, sync_us };
        self.turn(Input::Message { from, message: &PeerMessage::Ack(ack) });
    }

    /// Who is asked to stand.
    fn asked(&self) -> Vec<NodeId> {
        let asked = |output: &Output| match output {
            Output::Send { to, message: Message::Small(PeerMessage::TimeoutNow(_)) } => Some(*to),
            _ => None,
        };
        self.sent.iter().filter_map(asked).collect()
    }
}

#[test]
fn writes_at_the_very_beginning_are_to_be_tried_again_and_later_ones_are_told_the_numbers() {
    let mut leader = Leader::elected(3);
    let now = leader.now;
    assert_eq!(leader.replica.propose(now, &set(b"value")), Err(ProposeError::JustElected));
    leader.turn(Input::Tick);
    leader.now += ELECTION_TIMEOUT;
    leader.ack(2, 0);
    leader.turn(Input::Tick);
    let now = leader.now;
    assert_eq!(leader.replica.propose(now, &set(b"value")), Err(ProposeError::NoQuorum { have: 2, need: 3 }));
}

#[test]
fn a_leader_that_hears_no_member_gives_up_whatever_a_learner_says() {
    let learner = Member { incarnation: Incarnation(99), ..member(2) };
    for (heard, stays) in [(member(2), true), (learner, false)] {
        let mut leader = Leader::elected(2);
        leader.turn(Input::Tick);
        leader.turn(Input::Connected(heard));
        leader.now += 2 * ELECTION_TIMEOUT;
        leader.ack_of(heard, 0);
        leader.turn(Input::Tick);
        assert_eq!(leader.replica.is_leader(), stays, "R10, R28: {heard:?}");
    }
}

#[test]
fn one_follower_is_asked_to_stand_and_another_only_after_an_election_timeout() {
    let mut leader = Leader::elected(2);
    leader.ack(3, 0);
    leader.ack(3, 1);
    leader.ack(2, 0);
    leader.replica.hand_over(leader.now, None).unwrap();
    leader.turn(Input::Tick);
    assert_eq!(leader.asked(), [node(3)], "it holds everything");
    leader.ack(2, 1);
    assert_eq!(leader.asked(), [], "node 2 would be chosen now, but both would take votes from each other");
    leader.now += ELECTION_TIMEOUT;
    leader.ack(2, 1);
    assert_eq!(leader.asked(), [node(2)]);
}

#[test]
fn a_target_is_judged_by_the_leader_alone() {
    let mut leader = Leader::elected(2);
    let now = leader.now;
    assert_eq!(leader.replica.hand_over(now, Some(node(1))), Err(HandOverError::LeadsAlready(node(1))));
    assert_eq!(leader.replica.hand_over(now, Some(node(9))), Err(HandOverError::Unknown(node(9))));
    assert_eq!(leader.replica.hand_over(now, Some(node(2))), Err(HandOverError::Unreachable));
    let follower = Settings { leadership: Leadership::Elected, ..settings(2, 3, 2) };
    let mut follower = Replica::new(follower, fresh(3));
    for target in [2, 9] {
        let refused = follower.hand_over(Time::ZERO, Some(node(target)));
        assert_eq!(refused, Err(HandOverError::NotLeader), "the leader says what is wrong with it");
    }
}
