//! What only a leader does: feeding its followers, counting their acknowledgements.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::entry::{Entry, Payload};
use quorate_protocol::peer::{Ack, Append, Reject, RejectReason};
use quorate_protocol::{Index, Member, NodeId, Term, limits};

use crate::mutant::{Mutant, is_on};

use super::hand_over::{HandOver, Short};
use super::reads::Confirmations;
use super::sending::Sender;
use super::tail::longest_prefix;
use super::{
    AdmitError, Flow, LogRead, Message, Output, Progress, Replica, Role, Tail, Terms, Time, nth_highest,
};

/// Rounds after which what could not be read from the log is tried again: about a second of heartbeats.
const READ_AGAIN_ROUNDS: u64 = 20;

#[derive(Clone, Debug)]
pub(super) struct Leader {
    /// The index of its no-op (R15).
    pub(super) first_of_term: Index,
    pub(super) followers: BTreeMap<NodeId, Progress>,
    /// Counts heartbeats, from 1.
    pub(super) round: u64,
    round_began: Option<Time>,
    /// The first tick in office.
    since: Option<Time>,
    pub(super) confirmations: Confirmations,
    pub(super) hand_over: Option<HandOver>,
    pub(super) short: Option<Short>,
}

impl Leader {
    /// Begins a round of heartbeats if the last one is long enough ago.
    pub(super) fn begin_round_if_due(&mut self, now: Time, heartbeat: Duration) {
        if self.round_began.is_none_or(|began| now.saturating_sub(began) >= heartbeat) {
            self.begin_round(now);
            self.round_began = Some(now);
        }
    }

    /// Begins a round out of turn.
    pub(super) fn begin_round(&mut self, now: Time) {
        self.round += 1;
        self.confirmations.begun(self.round, now);
    }
}

/// What every append of this turn says.
struct Head {
    term: Term,
    last: Index,
    commit: Index,
    window_bytes_max: usize,
}

impl Replica {
    /// Takes office in the promised term, which is new: what the last term sent it may never have stored (R11).
    pub(super) fn lead(&mut self) {
        let others = self.settings.nodes.iter().filter(|node| *node != self.settings.node);
        let followers = others.map(|node| {
            let mut progress = Progress::new(self.last + 1);
            let linked = self.connected.get(&node).copied();
            progress.incarnation = linked.or_else(|| self.members.incarnation(node));
            progress.connected = linked.is_some();
            (node, progress)
        });
        let followers = followers.collect();
        if self.is_elected() && self.needs_everybody() && self.settings.quorums.replicas() > 1 {
            self.outputs.push(Output::Led); // RULES, Edges: it goes on alone after a restart.
        }
        let first_of_term = self.append(&Payload::Noop); // R15
        self.leader = Some(self.settings.node);
        self.role = Role::Leader(Leader {
            first_of_term,
            followers,
            round: 1,
            round_began: None,
            since: None,
            confirmations: Confirmations::default(),
            hand_over: None,
            short: None,
        });
        self.count_members();
        self.note(format!("leads in term {} from entry {first_of_term} on", self.promise.term));
    }

    /// A link is up, maybe to another incarnation than before: of that one nothing is known.
    pub(super) fn connected(&mut self, member: Member) {
        let Member { node, incarnation } = member;
        self.connected.insert(node, incarnation);
        let next = self.last + 1;
        self.with_progress(node, |progress| {
            if progress.incarnation != Some(incarnation) && progress.incarnation.is_some() {
                *progress = Progress::new(next);
            }
            progress.incarnation = Some(incarnation);
            progress.connect();
        });
        self.count_members();
    }

    /// Notes which followers count: those that are members whatever becomes of an admission that is not committed.
    /// Neither who comes nor who goes with it confirms a read, as either may be among those who elect another.
    pub(super) fn count_members(&mut self) {
        let Role::Leader(leader) = &mut self.role else { return };
        for (node, progress) in &mut leader.followers {
            let counts = |incarnation| {
                let member = Member { node: *node, incarnation };
                self.members.has_committed(self.commit, member) && self.members.has(member)
            };
            progress.voting = progress.incarnation.is_some_and(counts) || is_on(Mutant::LearnerCounted);
        }
    }

    /// Makes a replica that has caught up a voting member, in the place of an earlier incarnation (R27).
    pub fn admit(&mut self, now: Time, node: NodeId) -> Result<Index, AdmitError> {
        let Role::Leader(leader) = &self.role else { return Err(AdmitError::NotLeader) };
        if node == self.settings.node {
            return Err(AdmitError::Leads(node));
        }
        if !self.settings.nodes.contains(node) {
            return Err(AdmitError::Unknown(node));
        }
        let timeout = self.settings.election_timeout;
        let progress = leader.followers.get(&node);
        let caught_up = progress.filter(|progress| progress.is_reachable(now, timeout));
        let Some(incarnation) = caught_up.and_then(|progress| progress.incarnation) else {
            return Err(AdmitError::NotCaughtUp(node));
        };
        let member = Member { node, incarnation };
        if self.members.has_committed(self.commit, member) {
            return Err(AdmitError::IsMember(node));
        }
        // R15; but where n cannot be had without the newcomer, nothing is committed before it is admitted.
        let quorums = self.settings.quorums;
        let have = self.reachable(now);
        let waits = self.commit < leader.first_of_term && have >= quorums.quorum();
        // A disk that is replaced again takes the place of the one that was to be admitted, which may never come back.
        let pending = self.members.admission_after(self.commit);
        if waits || pending.is_some_and(|(_, pending)| pending.node != node || pending == member) {
            return Err(AdmitError::Busy);
        }
        // With fewer it might never be committed, and would be in the way of every other (R27).
        let need = quorums.read_quorum().max(quorums.quorum() - 1);
        if have < need {
            return Err(AdmitError::NoQuorum { have, need });
        }
        let index = self.append(&Payload::Admit(member));
        self.count_members();
        self.note(format!("admits {} of node {node} with entry {index}", member.incarnation));
        Ok(index)
    }

    /// A leader that has heard fewer than r replicas for an election timeout gives up: another may have been elected
    /// meanwhile, and its clients should look for that one (R10).
    pub(super) fn step_down_if_alone(&mut self, now: Time) {
        let (timeout, needed) = (self.settings.election_timeout, self.settings.quorums.read_quorum());
        let is_elected = self.is_elected();
        let Role::Leader(leader) = &mut self.role else { return };
        let since = *leader.since.get_or_insert(now);
        if !is_elected || now.saturating_sub(since) < timeout {
            return;
        }
        let is_heard = |progress: &&Progress| progress.voting && progress.was_heard(now, timeout); // R28
        let heard = 1 + leader.followers.values().filter(is_heard).count();
        if heard < usize::from(needed) {
            self.step_down(
                now,
                &format!("it has heard {heard} of the {needed} replicas that confirm a leader"),
            );
        }
    }

    /// Whether it was elected less than an election timeout ago, and nothing has been committed since: that it reaches
    /// nobody yet means nothing.
    pub(super) fn has_just_taken_office(&self, now: Time) -> bool {
        let Role::Leader(leader) = &self.role else { return false };
        let timeout = self.settings.election_timeout;
        let is_new = leader.since.is_none_or(|since| now.saturating_sub(since) < timeout);
        self.is_elected() && is_new && self.commit < leader.first_of_term
    }

    pub(super) fn with_progress(&mut self, node: NodeId, change: impl FnOnce(&mut Progress)) {
        if let Role::Leader(leader) = &mut self.role
            && let Some(progress) = leader.followers.get_mut(&node)
        {
            change(progress);
        }
    }

    /// The highest index of the leader's own term that n replicas hold (R13, R14).
    pub(super) fn committed_by_counting(&self, leader: &Leader) -> Index {
        let held = match self.members.admission_after(self.commit) {
            None => nth_highest(self.intact_copies(leader), self.settings.quorums.quorum()),
            Some((index, member)) => self.held_with_admission(leader, index, member),
        };
        let needs_own_disk = !self.is_elected() || self.settings.quorums.quorum() == 1;
        let held = match needs_own_disk && !is_on(Mutant::CommitWithoutOwnDisk) {
            true => held.min(self.durable),
            false => held,
        };
        if held >= leader.first_of_term || is_on(Mutant::OldTermCommitted) { held } else { 0 }
    }

    /// Up to where each of those that count holds the log, this node among them.
    fn intact_copies<'a>(&self, leader: &'a Leader) -> impl Iterator<Item = Index> + use<'a> {
        let others = leader.followers.values().filter(|progress| progress.voting);
        others.map(|progress| progress.durable).chain([self.durable])
    }

    /// The highest index that n hold while an admission is not committed: the newcomer counts for it and for what
    /// follows, if r others hold it; for what comes before, it does not (R27).
    fn held_with_admission(&self, leader: &Leader, index: Index, newcomer: Member) -> Index {
        let quorums = self.settings.quorums;
        let is_newcomer = |progress: &&Progress| progress.incarnation == Some(newcomer.incarnation);
        let its_copy = leader.followers.get(&newcomer.node).filter(is_newcomer).map(|its| its.durable);
        let with = nth_highest(self.intact_copies(leader).chain(its_copy), quorums.quorum());
        let intact = self.intact_copies(leader).filter(|durable| *durable >= index).count();
        match with >= index && intact >= usize::from(quorums.read_quorum()) {
            true => with,
            false => nth_highest(self.intact_copies(leader), quorums.quorum()).min(index - 1),
        }
    }

    pub(super) fn receive_ack(&mut self, now: Time, from: Member, ack: &Ack) {
        let last = self.last;
        let first_in_memory = self.tail.first().unwrap_or(self.batch_first);
        let Some(progress) = self.current_follower(now, from, ack.term) else { return };
        if ack.durable > last {
            return self.report(format!(
                "node {} acknowledged entry {}, but the last one is {last}",
                from.node, ack.durable
            ));
        }
        progress.answered(now, ack.round);
        progress.applied = progress.applied.max(ack.applied);
        progress.acknowledged(ack.durable);
        if let Flow::Probing { round } = progress.flow
            && round != 0
            && ack.round >= round
        {
            let is_in_memory = progress.next >= first_in_memory;
            progress.obstacle = None;
            progress.flow = if is_in_memory { Flow::Streaming } else { Flow::Reading { pending: false } };
        }
    }

    pub(super) fn receive_reject(&mut self, now: Time, from: Member, reject: &Reject) {
        let next_round = self.next_round();
        let Some(progress) = self.current_follower(now, from, reject.term) else { return };
        // Who refuses an append of an older term has answered no round of this one: rounds begin anew with each term.
        if !matches!(reject.reason, RejectReason::StaleTerm | RejectReason::NotLeader) {
            progress.answered(now, reject.round);
        }
        match reject.reason {
            RejectReason::Mismatch { hint } if progress.awaits(reject.previous_index) => {
                let is_answer = matches!(progress.flow, Flow::Probing { round } if reject.round >= round);
                progress.next = hint.min(reject.previous_index.saturating_sub(1)) + 1;
                progress.probe();
                let held = progress.durable;
                if is_answer {
                    progress.durable = held.min(hint); // It has lost what it held.
                }
                if hint < held {
                    self.report(format!(
                        "node {} acknowledged entry {held}, but its log matches up to {hint}",
                        from.node
                    ));
                }
            }
            RejectReason::Mismatch { .. } => {} // The answer to an append before the last probe.
            RejectReason::Blocked(obstacle) => progress.block(obstacle, reject.previous_index, next_round),
            RejectReason::StaleTerm | RejectReason::NotLeader => {
                self.report(format!(
                    "node {} does not take this node for the leader: {:?}",
                    from.node, reject.reason
                ));
            }
        }
    }

    pub(super) fn next_round(&self) -> u64 {
        match &self.role {
            Role::Leader(leader) => leader.round + 1,
            _ => 0,
        }
    }

    /// The follower that a message of this term comes from. A message of an older term says nothing about
    /// what is held in this one (R12). One of a newer term ends this one; with a configured leader it cannot be, as
    /// only that one raises it.
    pub(super) fn current_follower(&mut self, now: Time, from: Member, term: Term) -> Option<&mut Progress> {
        if term > self.promise.term {
            if self.is_elected() {
                self.enter_term(now, term, None);
                return None;
            }
            let own = self.promise.term;
            self.report(format!(
                "node {} has promised term {term}, but its configured leader is in term {own}",
                from.node
            ));
            return None;
        }
        match &mut self.role {
            Role::Leader(leader) if term == self.promise.term || is_on(Mutant::AckWithoutTerm) => {
                // What another incarnation has said, before the link to this one, says nothing of this one.
                let is_linked = |progress: &&mut Progress| progress.incarnation == Some(from.incarnation);
                leader.followers.get_mut(&from.node).filter(is_linked)
            }
            _ => None,
        }
    }

    pub(super) fn log_read(&mut self, to: NodeId, read: LogRead) {
        let head = self.head();
        let Role::Leader(leader) = &mut self.role else { return };
        let Some(progress) = leader.followers.get_mut(&to) else { return };
        if progress.flow != (Flow::Reading { pending: true }) {
            return; // The link was lost meanwhile; it is probed anew.
        }
        let entries = match read {
            LogRead::Entries(entries) => Some(entries),
            LogRead::Dropped => return self.send_checkpoint(to),
            LogRead::Unreadable => None,
        };
        let first = entries.as_deref().and_then(|entries| Entry::parse(entries).ok());
        let (Some(first), Some(entries)) = (first.map(|entry| entry.index), &entries) else {
            progress.flow = Flow::Unreadable { round: leader.round };
            return; // Whoever read it has said why.
        };
        if first != progress.next {
            return; // It answers an earlier question; the answer to the last one is still to come.
        }
        progress.flow = Flow::Reading { pending: false };
        let (last, length) = longest_prefix(entries, progress.next, limits::APPEND_BYTES_MAX);
        let message = head.append(&self.terms, progress, 0, entries.slice(..length));
        progress.sent(last, length);
        self.outputs.push(Output::Send { to, message });
    }

    /// Sends every follower what it has not been sent yet, as far as its window goes.
    pub(super) fn feed_followers(&mut self, now: Time) {
        let head = self.head();
        let bytes_per_second = self.settings.transfer_bytes_per_second;
        let Role::Leader(leader) = &mut self.role else { return };
        // A probe is answered in a round of its own, so that no earlier answer is taken for it.
        if leader.followers.values().any(Progress::wants_probe) {
            leader.begin_round(now);
        }
        let sender = Sender { now, term: head.term, round: leader.round, bytes_per_second };
        for (to, progress) in leader.followers.iter_mut().filter(|(_, progress)| progress.connected) {
            if progress.flow == Flow::Checkpoint {
                sender.feed(*to, progress, &mut self.outputs);
            }
            head.feed(*to, progress, leader.round, &self.terms, &self.tail, &mut self.outputs);
        }
    }

    fn head(&self) -> Head {
        Head {
            term: self.promise.term,
            last: self.last,
            commit: self.commit,
            window_bytes_max: self.settings.window_bytes_max,
        }
    }
}

impl Head {
    fn feed(
        &self,
        to: NodeId,
        progress: &mut Progress,
        round: u64,
        terms: &Terms,
        tail: &Tail,
        outputs: &mut Vec<Output>,
    ) {
        if progress.wants_probe() {
            progress.flow = Flow::Probing { round };
        }
        if !matches!(progress.flow, Flow::Probing { .. } | Flow::Checkpoint) {
            self.feed_entries(to, progress, round, terms, tail, outputs);
        }
        if progress.flow == Flow::Streaming {
            progress.transfer = None; // It has got what it lacked in some other way.
        }
        // A new round asks for an answer; and an idle follower learns the commit index at once.
        let new_round = progress.round_sent < round;
        let new_commit =
            progress.commit_sent < self.commit && progress.is_idle() && progress.flow == Flow::Streaming;
        if new_round || new_commit {
            progress.round_sent = round;
            let asked = if new_round { round } else { 0 };
            let message = self.append(terms, progress, asked, Bytes::new());
            outputs.push(Output::Send { to, message });
        }
    }

    fn feed_entries(
        &self,
        to: NodeId,
        progress: &mut Progress,
        round: u64,
        terms: &Terms,
        tail: &Tail,
        outputs: &mut Vec<Output>,
    ) {
        if progress.flow != (Flow::Reading { pending: true }) && progress.next <= progress.durable {
            return progress.probe_behind_held();
        }
        if let Flow::Unreadable { round: tried } = progress.flow {
            if round < tried + READ_AGAIN_ROUNDS {
                return;
            }
            progress.flow = Flow::Reading { pending: false };
        }
        // One source at a time: what is being read comes first.
        while progress.next <= self.last
            && progress.room(self.window_bytes_max) > 0
            && progress.flow != (Flow::Reading { pending: true })
        {
            let Some((last, entries)) = tail.run(progress.next, limits::APPEND_BYTES_MAX) else {
                progress.flow = Flow::Reading { pending: true };
                let bytes_max = limits::APPEND_BYTES_MAX;
                return outputs.push(Output::ReadLog { to, from: progress.next, bytes_max });
            };
            progress.flow = Flow::Streaming;
            let bytes = entries.len();
            let message = self.append(terms, progress, 0, entries);
            progress.sent(last, bytes);
            outputs.push(Output::Send { to, message });
        }
        if progress.next > self.last && progress.flow == (Flow::Reading { pending: false }) {
            progress.flow = Flow::Streaming; // What comes next is in memory.
        }
    }

    fn append(&self, terms: &Terms, progress: &mut Progress, round: u64, entries: Bytes) -> Message {
        // A heartbeat to a follower that is sent a checkpoint must not depend on what its log has.
        let previous_index = if progress.flow == Flow::Checkpoint { 0 } else { progress.next - 1 };
        let previous_term = terms.term(previous_index).expect("nothing beyond the last entry is sent");
        progress.commit_sent = self.commit;
        let head = Append {
            term: self.term,
            previous_index,
            previous_term,
            commit: self.commit,
            round,
            entries: &[],
        };
        Message::Append { head, entries }
    }
}
