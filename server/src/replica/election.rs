//! How a leader is found: pre-vote, votes, and when a leader gives up.
//!
//! Raft's elections (Ongaro's thesis, §3.4, §4.2.3, §9.6) with e votes in place of a majority (R2). A node that has
//! heard no leader for its timeout first asks whether others would vote for it (R9); only e such promises let it
//! raise its term. A voter that still hears a leader refuses, unless that leader asked for the election itself.
//!
//! # Invariants
//!
//! - Nothing depends on a promise before [`Output::Promise`], which is carried out before whatever follows it (R5).
//! - In one term a node votes once, for itself or one other (R6).
//! - Whoever gets a vote has at least the voter's log (R8).

use std::time::Duration;

use quorate_protocol::peer::{PeerMessage, RequestVote, TimeoutNow, Vote};
use quorate_protocol::response::Obstacle;
use quorate_protocol::{Leadership, NodeId, NodeSet, Term};

use crate::mutant::{Mutant, is_on};

use super::{Follower, Promise, Replica, Role, Time};

/// A node that asks for votes.
#[derive(Clone, Debug)]
pub(super) struct Candidate {
    /// Whether it only asks if it would get them.
    pub(super) pre_vote: bool,
    /// Who has said yes, itself included.
    pub(super) votes: NodeSet,
}

/// Why a node stands for election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Because {
    NoLeader,
    HandOver,
}

/// The random part of timeouts: a small generator (xorshift), seeded by whoever owns the replica.
#[derive(Clone, Debug)]
pub(super) struct Timeouts {
    state: u64,
}

impl Timeouts {
    pub(super) fn new(seed: u64, node: NodeId) -> Self {
        let mixed = (seed ^ u64::from(node.get()) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { state: mixed | 1 }
    }

    /// From `least` up to twice as long.
    fn next(&mut self, least: Duration) -> Duration {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        let micros = least.as_micros().max(1) as u64;
        least + Duration::from_micros((self.state >> 11) % micros)
    }
}

impl Replica {
    /// Whether it may lead without asking anybody, as nobody else can have been elected: its own vote is all that
    /// there is, or every election needs it and its last promise is its own leadership (RULES, Edges).
    pub(super) fn goes_on_alone(&self) -> bool {
        let quorums = self.settings.quorums;
        let needs_everybody = quorums.election_quorum() == quorums.replicas();
        let own_vote = self.promise.voted_for == Some(self.settings.node);
        // Only a leader appends in its term.
        let has_led = self.promise.term > 0 && own_vote && self.terms.last_term() == self.promise.term;
        self.is_elected() && (quorums.replicas() == 1 || needs_everybody && has_led)
    }

    /// Whether the leader is elected.
    pub(super) fn is_elected(&self) -> bool {
        self.settings.leadership == Leadership::Elected
    }

    /// Asks for pre-votes if no leader was heard for long enough.
    pub(super) fn stand_if_due(&mut self, now: Time) {
        if !self.is_elected() {
            return;
        }
        let Some(due) = self.election_due else { return self.restart_election_timer(now) };
        if now >= due && self.may_stand() {
            self.elections.pre_votes += 1;
            self.ask_for_votes(now, true, Because::NoLeader);
        }
    }

    /// A node whose disk does not answer could store no promise.
    fn may_stand(&self) -> bool {
        self.obstacle != Some(Obstacle::DiskStalled)
    }

    pub(super) fn restart_election_timer(&mut self, now: Time) {
        let timeout = self.timeouts.next(self.settings.election_timeout);
        self.election_due = Some(now + timeout);
    }

    fn ask_for_votes(&mut self, now: Time, pre_vote: bool, because: Because) {
        self.leader = None;
        self.role = Role::Candidate(Candidate { pre_vote, votes: NodeSet::default() });
        self.restart_election_timer(now);
        let request = RequestVote {
            term: if pre_vote { self.promise.term + 1 } else { self.promise.term },
            pre_vote,
            hand_over: because == Because::HandOver,
            last_index: self.last,
            last_term: self.terms.last_term(),
        };
        let others = self.settings.nodes.iter().filter(|node| *node != self.settings.node);
        for to in others.collect::<Vec<_>>() {
            self.send_small(to, PeerMessage::RequestVote(request));
        }
        self.count_vote(now, self.settings.node);
    }

    fn stand(&mut self, now: Time, because: Because) {
        self.elections.stood += 1;
        let term = self.promise.term + 1;
        self.promise(Promise { term, voted_for: Some(self.settings.node) });
        self.note(format!("stands for election in term {term}"));
        self.ask_for_votes(now, false, because);
    }

    fn count_vote(&mut self, now: Time, from: NodeId) {
        let needed = self.votes_needed();
        let Role::Candidate(candidate) = &mut self.role else { return };
        candidate.votes.insert(from);
        if candidate.votes.len() < usize::from(needed) {
            return;
        }
        match candidate.pre_vote {
            true => self.stand(now, Because::NoLeader),
            false => {
                self.elections.won += 1;
                self.lead();
            }
        }
    }

    /// e (R2).
    fn votes_needed(&self) -> u8 {
        let quorums = self.settings.quorums;
        match is_on(Mutant::ElectionWithoutMajority) {
            true => quorums.replicas() - quorums.quorum() + 1,
            false => quorums.election_quorum(),
        }
    }

    pub(super) fn receive_request_vote(&mut self, now: Time, from: NodeId, request: &RequestVote) {
        let granted = self.is_elected()
            && match request.pre_vote {
                true => request.term > self.promise.term && self.would_vote(now, request),
                false => self.vote(now, from, request),
            };
        match granted {
            true if !request.pre_vote => self.elections.votes_given += 1,
            true => {}
            false => self.elections.votes_refused += 1,
        }
        let vote = Vote { term: self.promise.term, pre_vote: request.pre_vote, granted };
        self.send_small(from, PeerMessage::Vote(vote));
    }

    /// Whether the candidate's log is good enough, and there is need for another leader.
    fn would_vote(&self, now: Time, request: &RequestVote) -> bool {
        let has_all = (request.last_term, request.last_index) >= (self.terms.last_term(), self.last); // R8
        has_all && (request.hand_over || !self.hears_leader(now))
    }

    fn vote(&mut self, now: Time, from: NodeId, request: &RequestVote) -> bool {
        if request.term < self.promise.term {
            return false; // R7
        }
        if !request.hand_over && self.hears_leader(now) {
            return false; // R9: and the term does not rise, or the leader would have to go.
        }
        let grants = self.would_vote(now, request);
        if request.term > self.promise.term {
            self.enter_term(now, request.term, grants.then_some(from));
            return grants;
        }
        match self.promise.voted_for {
            Some(voted_for) => grants && voted_for == from, // R6: asked once more.
            None if grants => {
                self.promise(Promise { term: self.promise.term, voted_for: Some(from) });
                self.restart_election_timer(now);
                true
            }
            None => false,
        }
    }

    /// Whether it leads, or has heard the leader so lately that no vote is given to another (R9). While leases are
    /// granted, that holds after a start too: what was granted before it may still run (R22).
    fn hears_leader(&self, now: Time) -> bool {
        let timeout = self.settings.election_timeout.max(self.settings.lease.unwrap_or_default());
        let within = |since: Option<Time>| since.is_some_and(|since| now.saturating_sub(since) < timeout);
        let may_have_granted = self.settings.lease.is_some() && within(Some(self.started.unwrap_or(now)));
        self.is_leader() || within(self.heard_leader) || may_have_granted
    }

    pub(super) fn receive_vote(&mut self, now: Time, from: NodeId, vote: &Vote) {
        if !self.is_elected() {
            return;
        }
        if vote.term > self.promise.term {
            return self.enter_term(now, vote.term, None);
        }
        let Role::Candidate(candidate) = &self.role else { return };
        // A vote is for this term only; a promise of one comes from whoever is not further than this node.
        let is_for_this = vote.pre_vote || vote.term == self.promise.term;
        if vote.granted && vote.pre_vote == candidate.pre_vote && is_for_this {
            self.count_vote(now, from);
        }
    }

    /// The leader wants this node to lead.
    pub(super) fn receive_timeout_now(&mut self, now: Time, from: NodeId, message: &TimeoutNow) {
        let is_from_leader = message.term == self.promise.term && self.leader == Some(from);
        if self.is_elected() && is_from_leader && !self.is_leader() && self.may_stand() {
            self.stand(now, Because::HandOver);
        }
    }

    /// Promises a higher term, and follows whoever will lead it.
    pub(super) fn enter_term(&mut self, now: Time, term: Term, voted_for: Option<NodeId>) {
        self.promise(Promise { term, voted_for });
        if self.is_leader() {
            self.elections.stepped_down += 1;
            self.note(format!("leads no longer: there is a term {term}"));
        }
        self.follow(None);
        self.restart_election_timer(now);
    }

    /// Becomes a follower of a leader of the promised term, or of nobody yet.
    pub(super) fn follow(&mut self, leader: Option<NodeId>) {
        if is_on(Mutant::VoteClearedOnLeaderChange) && self.leader != leader {
            self.promise.voted_for = None;
            self.outputs.push(super::Output::Promise(self.promise));
        }
        self.role = Role::Follower(Follower::default());
        self.leader = leader;
    }

    /// Gives up an office that this node may no longer hold (R10). The term stays.
    pub(super) fn step_down(&mut self, now: Time, reason: &str) {
        debug_assert!(self.is_leader() && self.is_elected());
        self.elections.stepped_down += 1;
        self.note(format!("leads no longer in term {}: {reason}", self.promise.term));
        self.follow(None);
        self.restart_election_timer(now);
    }
}
