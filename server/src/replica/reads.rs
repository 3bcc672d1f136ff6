//! Linearizable reads: who leads is confirmed by r replicas after the read has come (R21).
//!
//! A read takes the commit index as it is, and waits for a round of heartbeats that begins after it. One such round
//! is under way at a time and serves all reads that came before it began. Every election needs the vote of one of r
//! replicas, so if r of them still answer in this term, nobody had been elected in a later one when they did.
//!
//! With a lease, a round that was confirmed speaks for the reads of a while after its beginning: those who answered
//! refuse their votes for that long (R22).

use std::collections::VecDeque;
use std::time::Duration;

use quorate_protocol::{Index, Term};
use thiserror::Error;

use crate::mutant::{Mutant, is_on};

use super::leader::Leader;
use super::{Replica, Role, Time, nth_highest};

/// Rounds whose beginning is remembered: more than can be unanswered within a lease.
const ROUNDS_MAX: usize = 256;

/// The part of a lease that its holder does not use: clocks run differently.
const DRIFT_DIVISOR: u32 = 10;

/// A read that waits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct ReadTicket {
    /// In which it was asked for.
    term: Term,
    /// The first round that can confirm it; 0 if there is nothing to confirm.
    round: u64,
    /// What must be applied.
    index: Index,
}

/// How far a read is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ReadState {
    /// It may be answered from memory now.
    Ready,
    /// It waits for a confirmation, or for entries to be applied.
    Waiting,
    /// This node no longer leads in the read's term: another has to be asked.
    Lost,
}

/// Why a linearizable read was not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ReadError {
    /// This node does not lead.
    #[error("not the leader")]
    NotLeader,
    /// The first entry of the leader's term is not committed, and too few replicas can be reached for it (R15).
    #[error("the leader has not committed the first entry of its term")]
    NotReady,
}

/// What a leader knows of its confirmations.
#[derive(Clone, Debug, Default)]
pub(super) struct Confirmations {
    /// A read waits for the next round.
    pub(super) wanted: bool,
    /// The last round that was begun for reads.
    pub(super) round: u64,
    /// (round, beginning), oldest first; kept for leases only.
    began: VecDeque<(u64, Time)>,
    /// When the last confirmed round began.
    leased_from: Option<Time>,
    /// After a hand-over was asked for there is no lease in this term (R22).
    pub(super) lease_has_ended: bool,
}

impl Confirmations {
    /// A round begins.
    pub(super) fn begun(&mut self, round: u64, now: Time) {
        if self.began.len() == ROUNDS_MAX {
            self.began.pop_front();
        }
        self.began.push_back((round, now));
    }

    fn confirmed(&mut self, round: u64) {
        while let Some((_, at)) = self.began.pop_front_if(|(began, _)| *began <= round) {
            self.leased_from = Some(at);
        }
    }
}

impl Replica {
    /// Takes a linearizable read: it may be answered when [`read_state`](Self::read_state) says so.
    pub fn request_read(&mut self, now: Time) -> Result<ReadTicket, ReadError> {
        let may_commit = self.reachable(now) >= self.settings.quorums.quorum();
        let needs_round =
            self.is_elected() && self.settings.quorums.read_quorum() > 1 && !self.has_lease(now);
        let (term, commit) = (self.promise.term, self.commit);
        let Role::Leader(leader) = &mut self.role else { return Err(ReadError::NotLeader) };
        if commit < leader.first_of_term && !may_commit && !is_on(Mutant::ReadBeforeNoop) {
            return Err(ReadError::NotReady);
        }
        let index = if is_on(Mutant::ReadBeforeNoop) { commit } else { commit.max(leader.first_of_term) };
        leader.confirmations.wanted |= needs_round;
        Ok(ReadTicket { term, round: if needs_round { leader.round + 1 } else { 0 }, index })
    }

    /// Whether a read may be answered now.
    pub fn read_state(&self, ticket: &ReadTicket) -> ReadState {
        match &self.role {
            Role::Leader(leader) if self.promise.term == ticket.term => {
                let is_confirmed = ticket.round == 0 || self.confirmed_round(leader) >= ticket.round;
                match is_confirmed && self.applied >= ticket.index {
                    true => ReadState::Ready,
                    false => ReadState::Waiting,
                }
            }
            _ => ReadState::Lost,
        }
    }

    /// Begins a round for the reads that wait, when the one before is through; renews the lease.
    pub(super) fn advance_reads(&mut self, now: Time) {
        let Role::Leader(leader) = &self.role else { return };
        if !leader.confirmations.wanted && self.settings.lease.is_none() {
            return;
        }
        let confirmed = self.confirmed_round(leader);
        let Role::Leader(leader) = &mut self.role else { return };
        leader.confirmations.confirmed(confirmed);
        if leader.confirmations.wanted && confirmed >= leader.confirmations.round {
            leader.begin_round(now);
            leader.confirmations.wanted = false;
            leader.confirmations.round = leader.round;
            self.elections.confirmations += 1;
        }
    }

    /// The last round that r replicas have answered, this node among them.
    fn confirmed_round(&self, leader: &Leader) -> u64 {
        let needed = self.settings.quorums.read_quorum();
        let needed = if is_on(Mutant::ReadConfirmedByTooFew) { (needed - 1).max(1) } else { needed };
        let others = leader.followers.values().filter(|progress| progress.voting);
        let others = others.map(|progress| progress.answered);
        nth_highest(others.chain([leader.round]), needed)
    }

    /// Whether reads may be answered without a round of their own.
    fn has_lease(&self, now: Time) -> bool {
        let (Role::Leader(leader), Some(lease)) = (&self.role, self.settings.lease) else { return false };
        let confirmations = &leader.confirmations;
        let usable: Duration = lease - lease / DRIFT_DIVISOR;
        let is_running = confirmations.leased_from.is_some_and(|from| now.saturating_sub(from) < usable);
        is_running && !confirmations.lease_has_ended && self.applied >= leader.first_of_term.max(self.commit)
    }
}
