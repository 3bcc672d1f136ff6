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
//! - Whoever gets a vote has at least the voter's log, and what it held before that was damaged (R8).
//! - Only members vote, and only those who know that they are (R26, R27).

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

/// What a follower asks because its leader wants to know; it goes on following meanwhile.
#[derive(Clone, Debug)]
pub(super) struct Canvass {
    /// Who would vote for it, itself included.
    votes: NodeSet,
    /// How many have to.
    needed: u8,
    /// What is said later does not count.
    deadline: Time,
}

/// Why a node stands for election.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Because {
    NoLeader,
    HandOver,
}

/// The random part of timeouts and questions: a small generator (xorshift), seeded by whoever owns the replica.
#[derive(Clone, Debug)]
pub(super) struct Timeouts {
    state: u64,
}

impl Timeouts {
    pub(super) fn new(seed: u64, node: NodeId) -> Self {
        let mixed = (seed ^ u64::from(node.get()) << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self { state: mixed | 1 }
    }

    pub(super) fn number(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    /// From `least` up to twice as long.
    fn next(&mut self, least: Duration) -> Duration {
        let micros = least.as_micros().max(1) as u64;
        least + Duration::from_micros((self.number() >> 11) % micros)
    }
}

impl Replica {
    /// Whether it may lead without asking anybody, as nobody else can have been elected: its own vote is all that
    /// there is, or every election needs it and its last promise is its own leadership (RULES, Edges).
    ///
    /// That it has led is what it has noted itself. Its own vote and an entry of the term do not show it: the entry may
    /// be of another that went on alone, in the term that this one had stood for in vain.
    pub(super) fn goes_on_alone(&self, led: Term) -> bool {
        let has_led = led > 0 && led == self.promise.term;
        let is_fit = self.is_elected() && self.is_voting() && self.held.is_none();
        is_fit && (self.settings.quorums.replicas() == 1 || self.needs_everybody() && has_led)
    }

    /// Whether every election needs every vote.
    pub(super) fn needs_everybody(&self) -> bool {
        let quorums = self.settings.quorums;
        quorums.election_quorum() == quorums.replicas()
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
        if now < due {
            return;
        }
        if !self.may_promise() {
            self.leader = None; // It has not heard that one for as long; who leads now it cannot find out.
            return;
        }
        if self.held.is_some() {
            self.note_repair_waits();
            return self.inquire(now, true);
        }
        self.elections.pre_votes += 1;
        if matches!(self.role, Role::Follower(_)) {
            self.note_silence(now);
        }
        self.ask_for_votes(now, true, Because::NoLeader);
    }

    /// A node whose disk does not answer could store no promise, and one that is no member makes none of its own.
    fn may_promise(&self) -> bool {
        self.obstacle != Some(Obstacle::DiskStalled) && self.is_voting()
    }

    pub(super) fn restart_election_timer(&mut self, now: Time) {
        let timeout = self.timeouts.next(self.settings.election_timeout);
        self.election_due = Some(now + timeout * self.patience());
    }

    fn ask_for_votes(&mut self, now: Time, pre_vote: bool, because: Because) {
        self.leader = None;
        self.role = Role::Candidate(Candidate { pre_vote, votes: NodeSet::default() });
        self.restart_election_timer(now);
        self.request_votes(pre_vote, because);
        self.count_vote(now, self.settings.node);
    }

    fn request_votes(&mut self, pre_vote: bool, because: Because) {
        let request = RequestVote {
            term: if pre_vote { self.promise.term + 1 } else { self.promise.term },
            pre_vote,
            hand_over: because == Because::HandOver,
            last_index: self.last,
            last_term: self.terms.last_term(),
        };
        self.send_to_others(&PeerMessage::RequestVote(request));
    }

    fn stand(&mut self, now: Time, because: Because) {
        self.elections.stood += 1;
        let term = self.promise.term + 1;
        self.promise(Promise { term, voted_for: Some(self.settings.node) });
        self.note(match because {
            Because::NoLeader => format!("stands for election in term {term}"),
            Because::HandOver => format!("stands for election in term {term}, as the leader has asked"),
        });
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
        if !self.is_voting() {
            return; // Its answer would not count (R26).
        }
        let granted = self.is_elected()
            && match request.pre_vote {
                true => request.term > self.promise.term && self.would_vote(now, request),
                false => self.vote(now, from, request),
            };
        match granted {
            true if !request.pre_vote => {
                self.elections.votes_given += 1;
                self.note(format!("votes for node {from} in term {}", request.term));
            }
            true => {}
            false => {
                self.elections.votes_refused += 1;
                let reason = self.why_not(now, request);
                self.note(format!("does not vote for node {from}: {reason}"));
            }
        }
        let vote = Vote { term: self.promise.term, pre_vote: request.pre_vote, granted };
        self.send_small(from, PeerMessage::Vote(vote));
    }

    /// Why a vote was refused.
    fn why_not(&self, now: Time, request: &RequestVote) -> String {
        let (last_term, last) = self.position();
        if !self.is_elected() {
            "the leader is configured".into()
        } else if request.term < self.promise.term {
            format!("it asks for term {}, and there is a term {}", request.term, self.promise.term)
        } else if !request.hand_over && self.hears_leader(now) {
            match self.leader {
                Some(leader) => format!("node {leader} leads, and was heard just now"),
                None => "a leader was heard just now".into(),
            }
        } else if (request.last_term, request.last_index) < (last_term, last) {
            let RequestVote { last_index, last_term: its_term, .. } = request;
            let own = match self.held {
                Some(_) => "this one may have held more before it was damaged".into(),
                None => format!("this one with {last} of {last_term}"),
            };
            format!("its log ends with entry {last_index} of term {its_term}, {own}")
        } else {
            match self.promise.voted_for {
                Some(other) => format!("node {other} has the vote of term {}", self.promise.term),
                None => format!("it asks for term {}, which is promised", request.term),
            }
        }
    }

    /// Says why this node asks for votes.
    fn note_silence(&mut self, now: Time) {
        let needed = self.votes_needed();
        let asks = format!("asks who would vote for it, and needs {needed} of {}", self.settings.nodes.len());
        self.note(match (self.leader, self.heard_leader) {
            (Some(leader), Some(heard)) => {
                let silent = now.saturating_sub(heard).as_millis();
                format!("has heard nothing of its leader, node {leader}, for {silent} ms: {asks}")
            }
            _ => format!("knows of no leader: {asks}"),
        });
    }

    /// Whether the candidate's log is good enough, and there is need for another leader.
    fn would_vote(&self, now: Time, request: &RequestVote) -> bool {
        let has_all = (request.last_term, request.last_index) >= self.position(); // R8
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
    pub(super) fn hears_leader(&self, now: Time) -> bool {
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
        if vote.pre_vote && vote.granted && self.has_canvassed(now, from) {
            return self.stand(now, Because::HandOver);
        }
        let Role::Candidate(candidate) = &self.role else { return };
        // A vote is for this term only; a promise of one comes from whoever is not further than this node.
        let is_for_this = vote.pre_vote || vote.term == self.promise.term;
        if vote.granted && vote.pre_vote == candidate.pre_vote && is_for_this {
            self.count_vote(now, from);
        }
    }

    /// Whether with this promise a follower that its leader has asked to stand if it gets so many has them all.
    fn has_canvassed(&mut self, now: Time, from: NodeId) -> bool {
        let may_promise = self.may_promise();
        let Role::Follower(Follower { canvass: Some(canvass), .. }) = &mut self.role else { return false };
        canvass.votes.insert(from);
        may_promise && now < canvass.deadline && canvass.votes.len() >= usize::from(canvass.needed)
    }

    /// The leader wants this node to lead.
    pub(super) fn receive_timeout_now(&mut self, now: Time, from: NodeId, message: &TimeoutNow) {
        let is_from_leader = message.term == self.promise.term && self.leader == Some(from);
        let may_stand = self.may_promise() && self.held.is_none();
        let Role::Follower(follower) = &mut self.role else { return };
        if !is_from_leader || !may_stand || self.settings.leadership != Leadership::Elected {
            return;
        }
        if message.needs == 0 {
            return self.stand(now, Because::HandOver);
        }
        let (needed, deadline) = (message.needs, now + self.settings.election_timeout);
        let votes = NodeSet::from_iter([self.settings.node]);
        follower.canvass = Some(Canvass { votes, needed, deadline });
        self.elections.pre_votes += 1;
        self.note(format!("asks, for node {from}, who would vote for it, and needs {needed}"));
        self.request_votes(true, Because::HandOver);
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
        if leader.is_some() {
            self.asked_in_vain = 0;
        }
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
