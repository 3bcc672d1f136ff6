//! Reads that wait: for the leader to be confirmed (R21), or for a session's entry to be applied (R23).

use std::time::Duration;

use quorate_protocol::limits;
use quorate_protocol::request::{Consistency, Operation, Token};
use quorate_protocol::response::{Outcome, Refusal};

use super::acknowledge::Asker;
use super::range::OwnedRange;
use super::requests::page;
use super::{Node, Outside};
use crate::mutant::{Mutant, is_on};
use crate::replica::{ReadError, ReadState, ReadTicket, Time};

/// A read that waits, with its own copy of what it asks for.
#[derive(Debug)]
pub(super) struct WaitingRead {
    asker: Asker,
    condition: Condition,
    what: What,
}

/// What must hold before a read is answered.
#[derive(Clone, Copy, Debug)]
enum Condition {
    Nothing,
    Confirmed(ReadTicket),
    Applied(Token),
}

#[derive(Debug)]
enum What {
    Key(Vec<u8>),
    Range { range: OwnedRange, items_max: u32 },
}

impl What {
    fn of(operation: &Operation<'_>) -> Option<Self> {
        match operation {
            Operation::Get { key, .. } => Some(Self::Key(key.to_vec())),
            Operation::Scan { range, items_max, .. } => {
                Some(Self::Range { range: range.into(), items_max: *items_max })
            }
            _ => None,
        }
    }
}

impl Node {
    /// Answers a read now, or has it wait.
    pub(super) fn read(
        &mut self,
        now: Time,
        asker: Asker,
        operation: &Operation<'_>,
        outside: &mut impl Outside,
    ) {
        let (Operation::Get { consistency, .. } | Operation::Scan { consistency, .. }) = operation else {
            return;
        };
        let outcome = match self.condition(now, consistency) {
            Err(refusal) => Outcome::Refused(refusal),
            Ok(condition) => match self.check(&condition) {
                ReadState::Ready => self.result(&condition, operation),
                // Without a deadline nobody waits for entries that may never come.
                ReadState::Waiting
                    if asker.deadline.is_some() || matches!(condition, Condition::Confirmed(_)) =>
                {
                    let Some(what) = What::of(operation) else { return };
                    return self.reads.push(WaitingRead { asker, condition, what });
                }
                ReadState::Waiting | ReadState::Lost => Outcome::Refused(self.why_not(&condition)),
            },
        };
        asker.tell(outcome, outside);
    }

    fn condition(&mut self, now: Time, consistency: &Consistency) -> Result<Condition, Refusal> {
        let Some(replica) = &mut self.replica else { return Err(self.not_formed()) };
        Ok(match consistency {
            Consistency::Local => Condition::Nothing,
            Consistency::Session(_) if is_on(Mutant::TokenIgnored) => Condition::Nothing,
            Consistency::Session(token) => Condition::Applied(*token),
            Consistency::Linearizable => match replica.request_read(now) {
                Ok(ticket) => Condition::Confirmed(ticket),
                Err(ReadError::NotLeader) => return Err(Refusal::NotLeader { leader: self.leader_hint() }),
                Err(error @ ReadError::NotReady) => return Err(Refusal::NotReady(error.to_string())),
            },
        })
    }

    fn check(&self, condition: &Condition) -> ReadState {
        let Some(replica) = &self.replica else { return ReadState::Lost };
        match condition {
            Condition::Nothing => ReadState::Ready,
            Condition::Confirmed(ticket) => replica.read_state(ticket),
            Condition::Applied(token) if token.index > replica.applied() => {
                let is_lost = replica.terms().rule_out(token.term, token.index, replica.applied());
                // A token that is lost is found out by its term.
                if is_lost { ReadState::Ready } else { ReadState::Waiting }
            }
            Condition::Applied(_) => ReadState::Ready,
        }
    }

    /// What a read sees that may be answered.
    fn result<'a>(&'a self, condition: &Condition, operation: &Operation<'a>) -> Outcome<'a> {
        let Some(replica) = &self.replica else { return Outcome::Refused(self.not_formed()) };
        let term = |index| replica.terms().term(index);
        if let Condition::Applied(token) = condition
            && (token.index > replica.applied() || term(token.index) != Some(token.term))
        {
            return Outcome::Refused(Refusal::TokenLost); // R23
        }
        let token = Token { term: term(replica.applied()).unwrap_or(0), index: replica.applied() };
        match operation {
            Operation::Get { key, .. } => Outcome::Value { token, value: self.store.get(key) },
            Operation::Scan { range, items_max, .. } => {
                let mut found = self.store.scan(range);
                let items = page(&mut found, (*items_max as usize).clamp(1, limits::SCAN_ITEMS_MAX));
                Outcome::Page { token, items, more: found.next().is_some() }
            }
            _ => Outcome::Refused(Refusal::BadRequest("not a read".into())),
        }
    }

    /// Answers the reads that need not wait any more.
    pub(super) fn answer_reads(&mut self, now: Time, outside: &mut impl Outside) {
        if self.reads.is_empty() {
            return;
        }
        let mut reads = std::mem::take(&mut self.reads);
        reads.retain(|read| {
            let is_overdue = read.asker.is_overdue(now);
            let outcome = match self.check(&read.condition) {
                ReadState::Ready => self.result(&read.condition, &read.what.operation()),
                ReadState::Waiting if !is_overdue => return true,
                ReadState::Waiting | ReadState::Lost => Outcome::Refused(self.why_not(&read.condition)),
            };
            read.asker.tell(outcome, outside);
            false
        });
        self.reads = reads;
    }

    /// Why a read that has waited long enough is not answered.
    fn why_not(&self, condition: &Condition) -> Refusal {
        match condition {
            Condition::Applied(_) => {
                Refusal::Behind { applied: self.replica.as_ref().map_or(0, |replica| replica.applied()) }
            }
            Condition::Confirmed(_) if self.replica.as_ref().is_some_and(|replica| replica.is_leader()) => {
                Refusal::NotReady("too few replicas have confirmed in time that this node still leads".into())
            }
            _ => Refusal::NotLeader { leader: self.leader_hint() },
        }
    }
}

impl What {
    /// The operation that it is of; how fresh it must be is decided already.
    fn operation(&self) -> Operation<'_> {
        let consistency = Consistency::Local;
        match self {
            Self::Key(key) => Operation::Get { consistency, key },
            Self::Range { range, items_max } => {
                Operation::Scan { consistency, range: range.borrowed(), items_max: *items_max }
            }
        }
    }
}

/// When a client no longer waits.
pub(super) fn deadline(now: Time, deadline_ms: u32) -> Option<Time> {
    (deadline_ms > 0).then(|| now + Duration::from_millis(deadline_ms.into()))
}
