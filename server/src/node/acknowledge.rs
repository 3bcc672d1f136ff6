//! Writes that were appended and wait to be acknowledged.
//!
//! Most wait for nothing but to be applied: they stand in a queue in the order of their entries, which is popped as
//! entries are applied. A write that wants another number of copies than the cluster's n, or to be told of each, is
//! **tracked**: at the end of every turn those of whose entries a replica has come to hold more are looked at.
//!
//! - Below n copies it is answered as stored, as soon as they are there: a failover may drop it, and its receipt says
//!   so. It is appended only where n replicas can be reached, like every other.
//!   What it does is decided when it is applied: the write of a session that ends meanwhile comes to nothing, too.
//! - Above n it is answered once it is committed and has its copies.
//! - With progress it is told whenever more replicas hold it than were told, and answered when all m do.
//!
//! # Invariants
//!
//! - A client is told of a holder only when that has acknowledged the entry in the term of this leader, or is this
//!   node and has synced it; and of a commit only when the entry is applied.
//! - Every write is answered for the last time once: at its copies; at its deadline with what is known then; when
//!   its entry is cut; and if it is committed, also when this node stops leading or stops, as it then learns no more,
//!   or [`TRACKED_FOR`] after it was asked, so that one for which no copy comes any more does not stay for ever.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use quorate_protocol::entry::Entry;
use quorate_protocol::request::{Acks, Write, WriteOptions};
use quorate_protocol::response::{Outcome, Receipt, Refusal, Response, WriteResult};
use quorate_protocol::{Index, Member, NodeId, NodeSet, Quorums, Term};

use super::{ClientId, Node, Outside};
use crate::replica::{Replica, Time};
use crate::store::{Applied, Done};

/// Writes that are tracked; beyond, those that would be are refused as overloaded.
const TRACKED_MAX: usize = 16 << 10;

/// How long a write that is committed waits for further copies, unless its deadline comes first.
const TRACKED_FOR: Duration = Duration::from_secs(60);

/// Who waits, and how long.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    pub(super) client: ClientId,
    pub(super) request: u64,
    pub(super) deadline: Option<Time>,
}

impl Asker {
    pub(super) fn tell(&self, outcome: Outcome<'_>, outside: &mut impl Outside) {
        outside.respond(self.client, &Response { id: self.request, outcome });
    }

    /// The write may be committed, now or later; so many replicas are known to have it (R20).
    fn tell_unknown(&self, index: Index, copies: u8, outside: &mut impl Outside) {
        self.tell(Outcome::Unknown { index, copies }, outside);
    }

    pub(super) fn is_overdue(&self, now: Time) -> bool {
        self.deadline.is_some_and(|deadline| now >= deadline)
    }
}

/// When a write is to be acknowledged.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Wish {
    /// When it is committed and applied.
    Commit,
    /// At so many copies, and at each before if `progress`.
    Copies { copies: u8, progress: bool },
}

/// What a write's options come to in this cluster.
pub(super) fn wish(options: &WriteOptions, write: &Write<'_>, quorums: Quorums) -> Result<Wish, Refusal> {
    let (replicas, quorum) = (quorums.replicas(), quorums.quorum());
    let copies = match options.acks {
        Acks::Quorum => quorum,
        Acks::All => replicas,
        Acks::Copies(copies) => copies,
    };
    if !(1..=replicas).contains(&copies) {
        return Err(Refusal::BadRequest(format!(
            "{copies} copies were asked for, and the cluster has {replicas} replicas: ask for 1 to {replicas}"
        )));
    }
    if copies < quorum && write.is_conditional() {
        return Err(Refusal::BadRequest(format!(
            "what a write with a condition does is known when {quorum} replicas hold it, not when {copies} do: ask for \
             {quorum} copies or more"
        )));
    }
    Ok(match options.progress {
        true => Wish::Copies { copies: replicas, progress: true },
        false if copies == quorum => Wish::Commit,
        false => Wish::Copies { copies, progress: false },
    })
}

/// A write that waits to be applied.
#[derive(Debug)]
struct Waiting {
    index: Index,
    asker: Asker,
}

/// A write that waits for copies.
#[derive(Debug)]
struct Tracked {
    asker: Asker,
    /// Term and index of the entry that did it, or is to.
    place: (Term, Index),
    asked: Time,
    /// How many it waits for.
    copies: u8,
    progress: bool,
    /// Replicas known to hold it durably.
    holders: NodeSet,
    /// How many of them were told.
    told: u8,
    /// What it did, once it is committed and applied.
    result: Option<WriteResult>,
}

/// What a client is to be told of its write.
enum News {
    Nothing,
    Progress,
    Stored,
    Written(WriteResult),
}

impl Tracked {
    /// What is to be told; `is_last` if no more copies will be known.
    fn news(&mut self, is_last: bool, quorum: u8) -> News {
        let copies = self.holders.len() as u8;
        let has_copies = copies >= self.copies;
        match self.result {
            Some(result) if is_last || has_copies => News::Written(result),
            None if has_copies && self.copies < quorum => News::Stored,
            _ if self.progress && copies > self.told => {
                self.told = copies;
                News::Progress
            }
            _ => News::Nothing,
        }
    }
}

/// What the writes that are tracked depend on.
#[derive(PartialEq, Eq, Debug, Default)]
struct Known {
    learns: bool,
    applied: Index,
    /// Up to where each replica that counts holds the log.
    durable: Vec<(NodeId, Index)>,
}

impl Known {
    fn of(replica: &Replica, node: NodeId, learns: bool) -> Self {
        let others = replica.followers().filter(|(_, progress)| progress.voting);
        let others = others.map(|(other, progress)| (other, progress.durable));
        let durable = others.chain([(node, replica.durable())]).collect();
        Self { learns, applied: replica.applied(), durable }
    }

    /// The index behind which something may have changed since `before`; none if nothing has.
    fn changed_behind(&self, before: &Self) -> Option<Index> {
        if self.learns != before.learns {
            return Some(0);
        }
        let old = |node| before.durable.iter().find(|(known, _)| *known == node).map_or(0, |(_, old)| *old);
        let changed = self.durable.iter().map(|(node, durable)| (old(*node), *durable));
        let changed = changed.chain([(before.applied, self.applied)]).filter(|(old, new)| old != new);
        changed.map(|(old, new)| old.min(new)).min()
    }
}

/// All writes that wait.
#[derive(Debug, Default)]
pub(super) struct Acknowledgements {
    /// By their indexes; every one of them is in the replica's log.
    waiting: VecDeque<Waiting>,
    /// Those that have no result are in the replica's log.
    tracked: BTreeMap<Index, Tracked>,
    /// As of the end of the last turn in which there were any.
    known: Known,
}

impl Acknowledgements {
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.tracked.is_empty()
    }

    /// Whether a write may be appended that wants this.
    pub(super) fn has_room(&self, wish: Wish) -> Result<(), Refusal> {
        match wish {
            Wish::Copies { .. } if self.tracked.len() >= TRACKED_MAX => Err(Refusal::Overloaded(format!(
                "{TRACKED_MAX} writes wait for other numbers of copies than the quorum"
            ))),
            _ => Ok(()),
        }
    }

    /// A client has gone: nobody waits for its copies.
    pub(super) fn forget(&mut self, client: ClientId) {
        self.tracked.retain(|_, tracked| tracked.asker.client != client);
    }
}

impl Node {
    /// A write was appended; whoever asked for it is told when its wish has come true.
    pub(super) fn appended(&mut self, now: Time, index: Index, asker: Asker, wish: Wish) {
        let waits = &mut self.acknowledgements;
        let (copies, progress) = match wish {
            Wish::Commit => return waits.waiting.push_back(Waiting { index, asker }),
            Wish::Copies { copies, progress } => (copies, progress),
        };
        if waits.tracked.is_empty() {
            waits.known = Known::default(); // What was known before says nothing of what has changed since.
        }
        let term = self.replica.as_ref().map_or(0, Replica::term);
        let holders = NodeSet::default();
        let place = (term, index);
        let tracked = Tracked { asker, place, asked: now, copies, progress, holders, told: 0, result: None };
        waits.tracked.insert(index, tracked);
    }

    /// An entry is applied: answers the client that waits for that, if there is one.
    pub(super) fn answer(&mut self, entry: &Entry<'_>, applied: Applied, outside: &mut impl Outside) {
        if let Applied::Admitted(Member { node, incarnation }) = applied {
            tracing::info!(%node, %incarnation, index = entry.index, "a replica is admitted: it votes and counts");
        }
        let waits = &mut self.acknowledgements;
        if let Some(waiting) = waits.waiting.pop_front_if(|waiting| waiting.index == entry.index) {
            waiting.asker.tell(self.outcome(entry, applied), outside);
        } else if !waits.tracked.is_empty() && waits.tracked.contains_key(&entry.index) {
            self.applied_tracked(entry, applied, outside);
        }
    }

    /// The same of a write that is tracked: what it did is told when its copies are there.
    fn applied_tracked(&mut self, entry: &Entry<'_>, applied: Applied, outside: &mut impl Outside) {
        let outcome = self.outcome(entry, applied);
        let tracked = &mut self.acknowledgements.tracked;
        match outcome {
            Outcome::Written { receipt: Receipt { term, index, .. }, result } => {
                if let Some(write) = tracked.get_mut(&entry.index) {
                    // Of a write that was done before, whoever has this entry has that one, too.
                    (write.place, write.result) = ((term, index), Some(result));
                }
            }
            refused => {
                if let Some(write) = tracked.remove(&entry.index) {
                    write.asker.tell(refused, outside);
                }
            }
        }
    }

    /// What an entry that is applied came to.
    fn outcome(&self, entry: &Entry<'_>, applied: Applied) -> Outcome<'static> {
        match applied {
            Applied::Written(result) => self.written(entry.term, entry.index, result),
            Applied::Nothing | Applied::Admitted(_) => {
                self.written(entry.term, entry.index, WriteResult::Applied { existed: 0 })
            }
            Applied::Repeated(done) => self.done_before(&done),
            Applied::Refused(error) => Outcome::Refused(error.into()),
        }
    }

    /// The answer to a write that its session has done before: that of the first time.
    pub(super) fn done_before(&self, done: &Done) -> Outcome<'static> {
        let terms = self.replica.as_ref().map(Replica::terms);
        let term = terms.and_then(|terms| terms.term(done.index)).expect("what was done is in the log");
        self.written(term, done.index, done.result)
    }

    /// The answer to a write that is committed and applied. This node may lead no more: with the index the entry's term
    /// is the session's token (R23).
    fn written(&self, term: Term, index: Index, result: WriteResult) -> Outcome<'static> {
        let replica = self.replica.as_ref().expect("only a replica applies entries");
        Outcome::Written { receipt: self.receipt(term, index, replica.holders(index), true), result }
    }

    fn receipt(&self, term: Term, index: Index, holders: NodeSet, is_committed: bool) -> Receipt {
        let identity = self.formation.identity();
        let quorums = identity.quorums;
        // Of what was committed before this node led, it may not know who has it.
        let copies = (holders.len() as u8).max(quorums.quorum());
        Receipt {
            term,
            index,
            holders,
            durability: identity.durability,
            survives_failover: is_committed, // Every election quorum meets n (R1).
            survivable_losses: if is_committed { quorums.survivable_losses(copies) } else { 0 },
        }
    }

    /// Tells the clients whose writes are tracked what has changed in this turn.
    pub(super) fn answer_tracked(&mut self, outside: &mut impl Outside) {
        let Some(replica) = self.replica.as_ref().filter(|_| !self.acknowledgements.tracked.is_empty())
        else {
            return;
        };
        let identity = self.formation.identity();
        let learns = replica.is_leader() && !self.is_stopping;
        let known = Known::of(replica, identity.node, learns);
        let Some(behind) = known.changed_behind(&self.acknowledgements.known) else { return };
        self.acknowledgements.known = known;
        let mut tracked = std::mem::take(&mut self.acknowledgements.tracked);
        let mut answered = Vec::new();
        for (index, write) in tracked.range_mut(behind + 1..) {
            if learns {
                write.holders = replica.holders(*index);
            } else if write.result.is_none() {
                continue; // Another leader decides about it.
            } else if replica.durable() >= *index {
                write.holders.insert(identity.node);
            }
            let news = write.news(!learns, identity.quorums.quorum());
            let is_committed = write.result.is_some();
            let (term, done_at) = write.place;
            let receipt = self.receipt(term, done_at, write.holders, is_committed);
            let outcome = match news {
                News::Nothing => continue,
                News::Progress => Outcome::Progress { receipt },
                News::Stored => Outcome::Stored { receipt },
                News::Written(result) => Outcome::Written { receipt, result },
            };
            if outcome.is_last() {
                answered.push(*index);
            }
            write.asker.tell(outcome, outside);
        }
        for index in answered {
            tracked.remove(&index);
        }
        self.acknowledgements.tracked = tracked;
    }

    /// Tells the clients whose entries are removed what is known: another replica may have them, and lead (R20).
    pub(super) fn answer_truncated(&mut self, after: Index, outside: &mut impl Outside) {
        let waits = &mut self.acknowledgements;
        while let Some(waiting) = waits.waiting.pop_back_if(|waiting| waiting.index > after) {
            waiting.asker.tell_unknown(waiting.index, 0, outside);
        }
        for (index, tracked) in waits.tracked.split_off(&(after + 1)) {
            tracked.asker.tell_unknown(index, 0, outside);
        }
    }

    /// Tells the clients whose entries were committed, or replaced, without being applied here: all up to `index`.
    pub(super) fn answer_skipped(&mut self, through: Index, outside: &mut impl Outside) {
        let waits = &mut self.acknowledgements;
        while let Some(waiting) = waits.waiting.pop_front_if(|waiting| waiting.index <= through) {
            waiting.asker.tell_unknown(waiting.index, 0, outside);
        }
        // What has a result was applied before, and is answered at the end of the turn.
        let skipped = waits.tracked.extract_if(..=through, |_, tracked| tracked.result.is_none());
        for (index, tracked) in skipped {
            tracked.asker.tell_unknown(index, 0, outside);
        }
    }

    /// Tells the clients whose deadline has passed what is known: the write may still be committed (R20).
    pub(super) fn answer_overdue(&mut self, now: Time, outside: &mut impl Outside) {
        let Some(replica) = &self.replica else { return };
        self.acknowledgements.waiting.retain(|Waiting { index, asker }| {
            let is_overdue = asker.is_overdue(now);
            if is_overdue {
                asker.tell_unknown(*index, replica.holders(*index).len() as u8, outside);
            }
            !is_overdue
        });
        let mut tracked = std::mem::take(&mut self.acknowledgements.tracked);
        tracked.retain(|index, write| {
            let Tracked { asker, place: (term, done_at), holders, .. } = *write;
            let is_overdue = asker.is_overdue(now);
            match write.result {
                Some(result) if is_overdue || now.saturating_sub(write.asked) >= TRACKED_FOR => {
                    let receipt = self.receipt(term, done_at, holders, true);
                    asker.tell(Outcome::Written { receipt, result }, outside);
                    false
                }
                None if is_overdue => {
                    asker.tell_unknown(*index, holders.len() as u8, outside);
                    false
                }
                _ => true,
            }
        });
        self.acknowledgements.tracked = tracked;
    }
}
