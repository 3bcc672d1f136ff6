//! A replica that has lost entries which it once held (R8, R19).
//!
//! Its log was found damaged, and what is left is a prefix. It knows how far it went: the *held* position. Until its
//! log reaches that again it does not stand for election, and votes only for whoever has at least that; entries
//! that it does not have it never acknowledges. A leader that is elected without it, or with its vote, sends it what
//! it lacks, as to any follower; with all that its leader had when it was asked, it is whole again.
//!
//! Where no leader can be elected without it and nobody has what it held, that may never have been committed. Then it
//! asks the others how far their logs go, and each promises a new term before it answers: so it can no longer get
//! what it does not have. Every entry that was committed is held by one of any m − n + 1 of them; so with that many
//! answers the held position falls to the highest of them.
//!
//! # Omissions
//!
//! A leader that is configured, and has lost entries itself, is not repaired: it may be no follower.

use std::collections::BTreeMap;

use quorate_protocol::peer::{Inquire, PeerMessage, Position};
use quorate_protocol::{Index, NodeId, Term};

use crate::mutant::{Mutant, is_on};

use super::{Follower, Output, Replica, Role, Time};

/// The logarithm of the longest [`Replica::patience`].
const PATIENCE_MAX: u32 = 3;

/// What a follower with a damaged log has asked its leader.
#[derive(Clone, Debug)]
pub(super) struct Asked {
    /// An answer to an earlier question, or of an earlier life, says too little.
    question: u64,
    at: Time,
    /// Where the leader's log ended.
    pub(super) end: Option<Index>,
}

/// A replica that asks how far the others' logs go.
#[derive(Clone, Debug)]
pub(super) struct Inquiry {
    pub(super) pre_vote: bool,
    /// Of those who have answered.
    pub(super) positions: BTreeMap<NodeId, (Term, Index)>,
}

impl Replica {
    /// Where the log ends, or ended before it was damaged: what a candidate's log is compared with (R8).
    pub(super) fn position(&self) -> (Term, Index) {
        let own = (self.terms.last_term(), self.last);
        match self.held {
            Some(held) if !is_on(Mutant::DamagedLogForgotten) => own.max(held),
            _ => own,
        }
    }

    /// Asks the leader where its log ends, unless it has answered, or been asked just now.
    pub(super) fn ask_leader_where_its_log_ends(&mut self, now: Time) {
        let (term, timeout) = (self.promise.term, self.settings.election_timeout);
        let (Some(leader), Role::Follower(follower)) = (self.leader, &mut self.role) else { return };
        let is_asked = |asked: &Asked| asked.end.is_some() || now.saturating_sub(asked.at) < timeout;
        if self.held.is_none() || follower.asked.as_ref().is_some_and(is_asked) {
            return;
        }
        let question = self.timeouts.number();
        follower.asked = Some(Asked { question, at: now, end: None });
        self.send_small(leader, PeerMessage::Inquire(Inquire { term, pre_vote: true, question }));
    }

    /// The leader says where its log ends, to what was asked in this life.
    fn hear_where_it_ends(&mut self, from: NodeId, position: &Position) {
        let is_of_leader = self.leader == Some(from) && position.term == self.promise.term;
        if let Role::Follower(Follower { asked: Some(asked), .. }) = &mut self.role
            && is_of_leader
            && asked.question == position.question
        {
            asked.end = Some(position.last_index);
        }
    }

    /// Whether the log has all again that can have been committed with what was lost.
    ///
    /// Up to where its log ended when it answered, the leader may count what this node had; later entries this node
    /// has never had. And that log has whatever was committed before its term.
    fn has_all_that_was_committed(&self) -> bool {
        let Role::Follower(Follower { asked: Some(asked), matched, .. }) = &self.role else { return false };
        asked.end.is_some_and(|end| end <= (*matched).min(self.durable))
    }

    /// The log is whole again once it is durable as far as it was held, or has all that was committed.
    pub(super) fn notice_repair(&mut self) {
        let Some(held) = self.held else { return };
        let own = (self.terms.term(self.durable).unwrap_or(0), self.durable);
        if own >= held || self.has_all_that_was_committed() {
            self.held = None;
            self.forget_lost_members(self.last);
            self.note(format!("the log is whole again: it reaches entry {}", self.durable));
            self.outputs.push(Output::Held(None));
        }
    }

    /// Admissions after an index were not committed, or are not lost.
    fn forget_lost_members(&mut self, after: Index) {
        if self.members.truncate(after) {
            self.note_members();
        }
    }

    /// Says what it waits for: without a leader, answers of others whose logs are whole.
    pub(super) fn note_repair_waits(&mut self) {
        let (own, needed) = (self.settings.node, self.positions_needed());
        let others: Vec<_> = self.settings.nodes.iter().filter(|node| *node != own).collect();
        let answered: Vec<_> = match &self.role {
            Role::Inquirer(inquiry) => inquiry.positions.keys().copied().collect(),
            _ => Vec::new(),
        };
        let so_far = if answered.is_empty() { "none".into() } else { list(&answered) };
        self.note(format!(
            "its log was damaged, and it waits for a leader, or until {needed} of nodes {} have said where their whole logs \
             end (so far: {so_far}); if fewer than {needed} of these have theirs, restore a backup as a new cluster",
            list(&others)
        ));
    }

    /// So many of any replicas have every entry that was committed in one of their logs.
    fn positions_needed(&self) -> usize {
        usize::from(self.settings.quorums.replicas() - self.settings.quorums.quorum() + 1)
    }

    /// By how much a node with a damaged log waits longer before it asks again: each time the others promise a new
    /// term, and whoever of them could lead must begin anew.
    pub(super) fn patience(&self) -> u32 {
        1 << self.asked_in_vain.min(PATIENCE_MAX)
    }

    /// Asks the others how far they are, first whether they would say it.
    pub(super) fn inquire(&mut self, now: Time, pre_vote: bool) {
        self.leader = None;
        self.role = Role::Inquirer(Inquiry { pre_vote, positions: BTreeMap::new() });
        self.restart_election_timer(now);
        let term = if pre_vote { self.promise.term + 1 } else { self.promise.term };
        let question = self.timeouts.number();
        self.send_to_others(&PeerMessage::Inquire(Inquire { term, pre_vote, question }));
    }

    pub(super) fn receive_inquire(&mut self, now: Time, from: NodeId, inquire: &Inquire) {
        if self.is_leader() && inquire.term == self.promise.term {
            return self.send_position(from, inquire);
        }
        let is_whole = self.held.is_none() || is_on(Mutant::CorruptCountedAsAbsent);
        if !self.is_elected() || !self.is_voting() || !is_whole || self.hears_leader(now) {
            return;
        }
        if inquire.term <= self.promise.term {
            // The question is too old; from this the asker learns the term.
            return self.send_position(from, &Inquire { pre_vote: true, ..*inquire });
        }
        if !inquire.pre_vote {
            self.enter_term(now, inquire.term, None);
        }
        self.send_position(from, inquire);
    }

    fn send_position(&mut self, to: NodeId, inquire: &Inquire) {
        let Inquire { pre_vote, question, .. } = *inquire;
        let (term, last_index, last_term) = (self.promise.term, self.last, self.terms.last_term());
        let position = Position { term, pre_vote, question, last_index, last_term };
        self.send_small(to, PeerMessage::Position(position));
    }

    pub(super) fn receive_position(&mut self, now: Time, from: NodeId, position: &Position) {
        if position.term > self.promise.term {
            return self.enter_term(now, position.term, None);
        }
        self.hear_where_it_ends(from, position);
        let needed = self.positions_needed();
        let term = self.promise.term;
        let Role::Inquirer(inquiry) = &mut self.role else { return };
        if position.pre_vote != inquiry.pre_vote || !position.pre_vote && position.term != term {
            return;
        }
        inquiry.positions.insert(from, (position.last_term, position.last_index));
        if inquiry.positions.len() < needed {
            return;
        }
        if inquiry.pre_vote {
            self.enter_term(now, term + 1, None);
            return self.inquire(now, false);
        }
        let highest = inquiry.positions.values().max().copied().unwrap_or_default();
        self.lower_held(now, highest);
    }

    /// Nothing beyond this was committed.
    fn lower_held(&mut self, now: Time, highest: (Term, Index)) {
        let Some(held) = self.held else { return };
        if highest < held {
            self.note(format!(
                "what it may have held beyond entry {} of term {} was never committed: no other has more",
                highest.1, highest.0
            ));
            self.held = Some(highest);
            self.forget_lost_members(self.last.max(highest.1));
            self.outputs.push(Output::Held(Some(highest)));
            self.asked_in_vain = 0;
        } else {
            self.asked_in_vain += 1;
        }
        self.follow(None);
        self.restart_election_timer(now);
    }
}

fn list(nodes: &[NodeId]) -> String {
    nodes.iter().map(|node| node.to_string()).collect::<Vec<_>>().join(" ")
}
