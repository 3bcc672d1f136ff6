//! Writes that are acknowledged at other counts than n: what clients ask for, and whether their receipts are true.

use quorate_protocol::Quorums;
use quorate_protocol::parse;
use quorate_protocol::request::{Acks, WriteOptions};
use quorate_protocol::response::{Outcome, Receipt, Response};

use super::Cluster;
use super::machine::place_of;
use super::schedule::{Moment, Place};
use super::trace::Happened;
use crate::sim::Random;

/// How a write is to be acknowledged: mostly at n, else at any count that it may ask for, or at each.
pub(super) fn choose(is_conditional: bool, quorums: Quorums, random: &mut Random) -> WriteOptions {
    let lowest = if is_conditional { quorums.quorum() } else { 1 };
    let copies = lowest + random.below(u64::from(quorums.replicas() - lowest) + 1) as u8;
    let (acks, progress) = match random.below(16) {
        0..2 => (Acks::Copies(copies), false),
        2 => (Acks::All, false),
        3 => (Acks::Copies(copies), true),
        _ => (Acks::Quorum, false),
    };
    WriteOptions { acks, progress, ..WriteOptions::default() }
}

impl Cluster {
    /// How many copies were asked for.
    fn wanted(&self, options: WriteOptions) -> u8 {
        match options.acks {
            _ if options.progress => self.plan.m,
            Acks::Quorum => self.plan.n,
            Acks::Copies(copies) => copies,
            Acks::All => self.plan.m,
        }
    }

    /// Whoever is said to hold an entry as the answer leaves has it on its disk, unless it has heard of a later leader,
    /// who may have had it cut.
    pub(super) fn check_copies(&mut self, message: &[u8]) {
        let response: Response<'_> = parse(message).expect("what a node answers can be read");
        let receipt = match &response.outcome {
            Outcome::Progress { receipt } => {
                self.counts.add(Happened::Progresses);
                receipt
            }
            Outcome::Stored { receipt } | Outcome::Written { receipt, .. } => receipt,
            _ => return,
        };
        let Receipt { term, index, survives_failover, survivable_losses, .. } = *receipt;
        for holder in receipt.holders.iter() {
            let member = &self.members[place_of(holder)];
            let holds = member.promise.term > term || member.has_ever_had(index, term);
            assert!(holds, "node {holder} is said to hold entry {index} of term {term}");
        }
        let is_committed = self.oracle.committed(index).is_some_and(|entry| entry.term == term);
        assert!(is_committed || !survives_failover, "entry {index} is said to be safe, and is not committed");
        assert!(
            survives_failover || survivable_losses == 0,
            "entry {index} survives losses, but no failover"
        );
    }

    /// A write that may not be committed was acknowledged.
    pub(super) fn stored(&mut self, options: WriteOptions, receipt: &Receipt) {
        let wanted = self.wanted(options);
        assert!(wanted < self.plan.n && !options.progress, "a write is stored that was to be committed");
        assert!(receipt.holders.len() >= usize::from(wanted) && !receipt.survives_failover, "{receipt:?}");
        self.counts.add(Happened::StoredBelowN);
    }

    /// Fewer copies than were asked for are an answer at the deadline, or of one that leads no more or stops.
    pub(super) fn check_wish(
        &mut self,
        options: WriteOptions,
        began: Moment,
        from: Place,
        receipt: &Receipt,
    ) {
        let wanted = self.wanted(options);
        if wanted <= self.plan.n {
            return;
        }
        if receipt.holders.len() >= usize::from(wanted) {
            return self.counts.add(Happened::WrittenAboveN);
        }
        self.counts.add(Happened::WrittenWithFewerCopies);
        let deadline = self.plan.clients.deadline;
        let is_early = self.schedule.now - began < deadline - deadline / 50; // Its clock may be fast.
        let Some(life) = self.members[from].life.as_ref().filter(|_| is_early) else { return };
        let leads = life.node.replica().is_some_and(|it| it.is_leader() && it.term() == receipt.term);
        assert!(!leads || life.node.is_stopping(), "of {wanted} copies only {receipt:?} are waited for");
    }
}
