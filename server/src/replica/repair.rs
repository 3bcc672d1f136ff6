//! A replica that has lost entries which it once held (R8, R19).
//!
//! Its log was found damaged, and what is left is a prefix. It knows how far it went: the *held* position. Until its
//! log reaches that again it does not stand for election, and votes only for whoever has at least that; entries
//! that it does not have it never acknowledges. A leader that is elected without it, or with its vote, sends it what
//! it lacks, as to any follower.
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

use super::{Output, Replica, Role, Time};

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

    /// The log is whole again once it is durable as far as it was held.
    pub(super) fn notice_repair(&mut self) {
        let Some(held) = self.held else { return };
        let own = (self.terms.term(self.durable).unwrap_or(0), self.durable);
        if own >= held {
            self.held = None;
            self.note(format!("the log is whole again: it reaches entry {}", self.durable));
            self.outputs.push(Output::Held(None));
        }
    }

    /// Asks the others how far they are, first whether they would say it.
    pub(super) fn inquire(&mut self, now: Time, pre_vote: bool) {
        self.leader = None;
        self.role = Role::Inquirer(Inquiry { pre_vote, positions: BTreeMap::new() });
        self.restart_election_timer(now);
        let term = if pre_vote { self.promise.term + 1 } else { self.promise.term };
        self.send_to_others(&PeerMessage::Inquire(Inquire { term, pre_vote }));
    }

    pub(super) fn receive_inquire(&mut self, now: Time, from: NodeId, inquire: &Inquire) {
        let is_whole = self.held.is_none() || is_on(Mutant::CorruptCountedAsAbsent);
        if !self.is_elected() || !self.is_voting() || !is_whole || self.hears_leader(now) {
            return;
        }
        if inquire.term <= self.promise.term {
            return self.send_position(from, true); // The question is too old; from this the asker learns the term.
        }
        if !inquire.pre_vote {
            self.enter_term(now, inquire.term, None);
        }
        self.send_position(from, inquire.pre_vote);
    }

    fn send_position(&mut self, to: NodeId, pre_vote: bool) {
        let (term, last_index, last_term) = (self.promise.term, self.last, self.terms.last_term());
        self.send_small(to, PeerMessage::Position(Position { term, pre_vote, last_index, last_term }));
    }

    pub(super) fn receive_position(&mut self, now: Time, from: NodeId, position: &Position) {
        if position.term > self.promise.term {
            return self.enter_term(now, position.term, None);
        }
        let needed = self.settings.quorums.replicas() - self.settings.quorums.quorum() + 1;
        let term = self.promise.term;
        let Role::Inquirer(inquiry) = &mut self.role else { return };
        if position.pre_vote != inquiry.pre_vote || !position.pre_vote && position.term != term {
            return;
        }
        inquiry.positions.insert(from, (position.last_term, position.last_index));
        if inquiry.positions.len() < usize::from(needed) {
            return;
        }
        if inquiry.pre_vote {
            self.enter_term(now, term + 1, None);
            return self.inquire(now, false);
        }
        let highest = inquiry.positions.values().max().copied().unwrap_or_default();
        self.lower_held(highest);
    }

    /// Nothing beyond this was committed.
    fn lower_held(&mut self, highest: (Term, Index)) {
        let Some(held) = self.held else { return };
        if highest < held {
            self.note(format!(
                "what it held up to entry {} of term {} was never committed: the others end at entry {} of term {}",
                held.1, held.0, highest.1, highest.0
            ));
            self.held = Some(highest);
            self.outputs.push(Output::Held(Some(highest)));
        }
        self.follow(None);
    }
}
