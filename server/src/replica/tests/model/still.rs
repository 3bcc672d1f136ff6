//! When two clusters in which nothing is on its way are the same, as far as it matters to what may come.
//!
//! Only where messages arrive at once ([`Network::Prompt`](super::Network::Prompt)). Beyond what [`digest`](super::digest)
//! leaves out, these do not matter:
//!
//! - the numbers of rounds, unless reads wait for them, and where a leader would begin to ask whoever it is linked to anew:
//!   the answer tells it;
//! - whom a node follows, and how far it matches, once that leader is none any more or can neither be heard nor told;
//!   that a node was a candidate, as its votes have come or never will;
//! - what a leader knows of a node that it can send nothing more, except what counts for commit and for taking writes;
//! - an office that can come to nothing more: its holder may as well have given up;
//! - votes, and who has led, in terms that everybody has promised: nobody can be elected in them any more;
//! - the log of a node in the last term that nobody will feed, and that nothing starts again;
//! - the terms of a node behind all others, for which it may as well have stood in vain.

use std::hash::Hash;

use super::super::super::{Flow, Progress, Replica, Role};
use super::digest::{Marks, hash_of, members};
use super::node::{Disk, Operation, is_replaced};
use super::{Index, Member, NodeId, Term};

/// What matters of a node while nothing is on its way to or from it, and nothing that was sent will come late.
#[derive(Clone, Debug, Default)]
pub(super) struct Essence {
    /// The log, in memory and on disk, and what is known to be committed.
    log: u64,
    /// The last term that it has noted to lead.
    led: Term,
    /// What matters to reads only.
    reads: u64,
    term: Term,
    voted_for: Option<NodeId>,
    is_leader: bool,
    leader: Option<NodeId>,
    matched: Index,
    last: Index,
    commit: Index,
    is_syncing: bool,
    /// Whether its disk was replaced.
    is_replaced: bool,
    /// Who it takes each node for.
    members: Vec<u64>,
    /// What a leader knows of each node.
    followers: Vec<Followed>,
}

/// What a leader knows of a node.
#[derive(Clone, Copy, Debug, Default)]
struct Followed {
    durable: Index,
    commit_sent: Index,
    is_reachable: bool,
    /// All of that and what else matters while it is fed.
    fed: u64,
    /// What matters to reads only.
    rounds: u64,
}

impl Followed {
    fn of(progress: &Progress) -> Self {
        let Progress { durable, next, commit_sent, flow, .. } = *progress;
        let in_flight: Vec<u64> = progress.in_flight.iter().map(|(last, _)| *last).collect();
        let is_heard = progress.heard.is_some();
        let kind = std::mem::discriminant(&flow);
        Self {
            durable,
            commit_sent,
            is_reachable: is_heard && flow == Flow::Streaming,
            fed: hash_of((kind, durable, is_heard, next, commit_sent, in_flight)),
            rounds: hash_of((flow, progress.answered, progress.round_sent)),
        }
    }
}

impl Essence {
    pub(super) fn of(replica: &Replica, disk: &Disk, reads: &impl Hash) -> Self {
        let followed = |node| replica.follower(node).map(Followed::of).unwrap_or_default();
        let mut essence = Self {
            log: hash_of((replica.last, replica.durable, replica.commit, &disk.entries, replica.held)),
            led: disk.led,
            term: replica.promise.term,
            voted_for: replica.promise.voted_for,
            is_leader: replica.is_leader(),
            leader: replica.leader,
            last: replica.last,
            commit: replica.commit,
            is_syncing: !disk.submitted.is_empty(),
            is_replaced: is_replaced(Member {
                node: replica.settings.node,
                incarnation: replica.settings.incarnation,
            }),
            members: replica.settings.nodes.iter().map(|node| members(replica, node)).collect(),
            followers: replica.settings.nodes.iter().map(followed).collect(),
            ..Self::default()
        };
        disk.submitted.iter().for_each(|operation| essence.add(operation, replica.generation));
        match &replica.role {
            Role::Leader(leader) => {
                let confirmations = (leader.confirmations.wanted, leader.confirmations.round);
                essence.reads = hash_of((hash_of(reads), leader.round, confirmations));
            }
            Role::Follower(follower) => essence.matched = follower.matched,
            Role::Candidate(_) | Role::Inquirer(_) => {}
        }
        essence
    }

    fn add(&mut self, operation: &Operation, present: u64) {
        match operation {
            Operation::Append { generation, first, entries, .. } => {
                self.log = hash_of((self.log, *generation == present, first, entries));
            }
            Operation::Truncate { after } => self.log = hash_of((self.log, after)),
        }
    }
}

/// What may still happen, and so what matters.
pub(super) struct Outlook {
    /// Whether a node may be restarted.
    pub(super) restarts: bool,
    /// Whether reads may be asked for, or wait.
    pub(super) reads: bool,
    /// Whether a client may write, or a newcomer be admitted.
    pub(super) writes: bool,
    /// Whether a leader may give up by itself.
    pub(super) leaders_give_up: bool,
    /// Whether a node may lead again after a restart without being elected.
    pub(super) goes_on_alone: bool,
    /// How many replicas a leader has to reach, itself included, to append anything: n, or one newcomer to admit it.
    pub(super) reached_for_writes: u8,
    /// Nobody stands for a later one.
    pub(super) last_term: Term,
}

/// A cluster in which nothing is on its way, as far as it matters to what may come.
pub(super) struct Still<'a> {
    pub(super) nodes: Vec<&'a Essence>,
    pub(super) cut: Cut,
    pub(super) outlook: Outlook,
}

impl Still<'_> {
    pub(super) fn marks(&self) -> Vec<Marks> {
        (0..self.nodes.len()).map(|node| self.marks_of(node)).collect()
    }

    /// All have promised it: nobody can be elected in it any more.
    pub(super) fn lowest_term(&self) -> Term {
        (0..self.nodes.len()).map(|node| self.term(node)).min().unwrap_or(0)
    }

    /// A node behind all others may as well have stood in vain for the terms that they have all left.
    fn term(&self, node: usize) -> Term {
        let own = self.nodes[node];
        if own.is_leader || self.outlook.goes_on_alone {
            return own.term;
        }
        let others = self.nodes.iter().enumerate().filter(|(other, _)| *other != node);
        let lowest = others.map(|(_, other)| other.term).min().unwrap_or(0);
        own.term.max(lowest.saturating_sub(1))
    }

    fn marks_of(&self, node: usize) -> Marks {
        let own = self.nodes[node];
        let led = if self.outlook.restarts { own.led } else { 0 };
        let reads = if self.outlook.reads { own.reads } else { 0 };
        let leads = self.leads(node);
        let log = if self.is_out(node) { 0 } else { own.log };
        let towards = (0..self.nodes.len()).map(|other| self.towards(node, other));
        Marks {
            own: hash_of((log, led, reads, own.is_replaced, self.term(node), leads)),
            towards: towards.collect(),
        }
    }

    fn towards(&self, node: usize, other: usize) -> u64 {
        let own = self.nodes[node];
        let is = |id: Option<NodeId>| id.is_some_and(|id| usize::from(id.get()) - 1 == other);
        let is_voted_for = own.term > self.lowest_term() && is(own.voted_for);
        let matched = self.follows(node, other).then_some(own.matched);
        let followed = self.leads(node).then(|| self.followed(node, other));
        hash_of((is_voted_for, matched, followed, own.members[other]))
    }

    fn followed(&self, leader: usize, node: usize) -> u64 {
        let (own, outlook) = (self.nodes[leader], &self.outlook);
        let followed = &own.followers[node];
        let rounds = if outlook.reads { followed.rounds } else { 0 };
        if self.is_fed(leader, node) {
            return hash_of((self.cut.has(node, leader), followed.fed, rounds));
        }
        let is_counted = outlook.restarts || own.commit < own.last;
        let durable = is_counted.then_some(followed.durable);
        let is_reachable = outlook.writes && followed.is_reachable;
        hash_of((durable, is_reachable, rounds, self.answers(node, leader)))
    }

    /// Whether it can no longer take part in anything.
    fn is_out(&self, node: usize) -> bool {
        let stays = self.nodes[node].term == self.outlook.last_term && !self.outlook.restarts;
        stays && !self.leads(node) && (0..self.nodes.len()).all(|leader| !self.follows(node, leader))
    }

    /// Whether it leads, and that may still come to something: if not, it may as well have given up.
    fn leads(&self, node: usize) -> bool {
        let (own, outlook) = (self.nodes[node], &self.outlook);
        let reachable = 1 + own.followers.iter().filter(|followed| followed.is_reachable).count();
        let may_write = outlook.writes && reachable >= usize::from(outlook.reached_for_writes);
        let may_commit = own.is_syncing && own.commit < own.last;
        let may_feed = |other: usize| {
            let is_linked_again = outlook.restarts && self.nodes[other].term <= own.term;
            is_linked_again || self.is_fed(node, other) || self.answers(other, node)
        };
        let mut others = (0..self.nodes.len()).filter(|other| *other != node);
        let stays = outlook.reads || !outlook.leaders_give_up;
        own.is_leader && (stays || may_write || may_commit || others.any(may_feed))
    }

    /// Whether nothing can happen any more that a rule speaks of.
    pub(super) fn is_over(&self) -> bool {
        self.nodes.iter().all(|node| node.term == self.outlook.last_term)
            && (0..self.nodes.len()).all(|node| !self.leads(node))
    }

    /// Whether something that a leader sends may still get to a node, and be taken.
    fn is_fed(&self, leader: usize, node: usize) -> bool {
        let (own, to) = (self.nodes[leader], self.nodes[node]);
        let outlook = &self.outlook;
        let followed = &own.followers[node];
        let knows_all =
            own.commit == own.last && followed.durable == own.last && followed.commit_sent == own.commit;
        let is_through = knows_all && !outlook.writes && !outlook.reads;
        own.is_leader && to.term <= own.term && !self.cut.has(leader, node) && !is_through
    }

    /// Whether a follower's sync is still told its leader, to whom it matters.
    fn answers(&self, node: usize, leader: usize) -> bool {
        let of = self.nodes[leader];
        let matters = of.commit < of.last || self.is_fed(leader, node) || self.outlook.reads;
        self.nodes[node].is_syncing && self.obeys(node, leader) && !self.cut.has(node, leader) && matters
    }

    /// Whether it matters whom a node follows.
    fn follows(&self, node: usize, leader: usize) -> bool {
        self.is_fed(leader, node) && self.obeys(node, leader) || self.answers(node, leader)
    }

    fn obeys(&self, node: usize, leader: usize) -> bool {
        let (own, of) = (self.nodes[node], self.nodes[leader]);
        let is_in_office = of.is_leader && of.term == own.term && node != leader;
        is_in_office && own.leader.is_some_and(|id| usize::from(id.get()) - 1 == leader)
    }
}

/// Links on which nothing arrives any more for as long as an office lasts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Cut(u64);

impl Cut {
    pub(super) fn has(self, from: usize, to: usize) -> bool {
        self.0 >> (from * 8 + to) & 1 == 1
    }

    pub(super) fn add(&mut self, from: usize, to: usize) {
        self.0 |= 1 << (from * 8 + to);
    }

    /// Both ways, and with everybody.
    pub(super) fn mend(&mut self, node: usize) {
        for other in 0..8 {
            self.0 &= !(1 << (node * 8 + other) | 1 << (other * 8 + node));
        }
    }
}
