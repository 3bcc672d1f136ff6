//! When two states are the same: hashes of what decides how a replica goes on, and of nothing else.
//!
//! Left out of a replica's hash, because no decision follows from it within the model:
//!
//! - times: whether a leader was heard lately is chosen anew with each message and each timeout;
//! - counters for status, the random part of timeouts, what acks say of disk times and of what is applied;
//! - the numbers of generations: only whether a write under way is of the present one;
//! - the buffers of a turn, which are empty between turns.
//!
//! Nodes are interchangeable, as nothing here depends on their numbers: a state's hash is the least over all
//! renumberings that keep an order by what is seen of each node.

use std::hash::{Hash, Hasher};

use bytes::Bytes;

use super::super::super::{Membership, Progress, Replica, Role};
use super::node::{Disk, Operation, is_replaced, replaced};
use super::{Index, Member, NodeId};

/// A hasher whose result follows from its input alone (the finaliser of splitmix64, chained).
#[derive(Default)]
pub(super) struct Digest(u64);

impl Hasher for Digest {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
        self.write_u64(bytes.len() as u64);
    }

    fn write_u64(&mut self, word: u64) {
        self.0 = scramble(self.0.rotate_left(23) ^ word);
    }

    fn write_u8(&mut self, byte: u8) {
        self.write_u64(byte.into());
    }

    fn write_usize(&mut self, word: usize) {
        self.write_u64(word as u64);
    }

    fn write_isize(&mut self, word: isize) {
        self.write_u64(word as u64);
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

fn scramble(word: u64) -> u64 {
    let word = word.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let word = (word ^ word >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ word >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ word >> 31
}

pub(super) fn hash_of(value: impl Hash) -> u64 {
    let mut digest = Digest::default();
    value.hash(&mut digest);
    digest.finish()
}

/// What is to be known of a node to compare it with others.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Marks {
    /// What does not name a node.
    pub(super) own: u64,
    /// What it has to do with each node.
    pub(super) towards: Vec<u64>,
}

impl Marks {
    pub(super) fn of(replica: &Replica, disk: &Disk, reads: &impl Hash) -> Self {
        let mut own = Digest::default();
        hash_replica(replica, &mut own);
        hash_disk(disk, replica.generation, &mut own);
        reads.hash(&mut own);
        let towards = replica.settings.nodes.iter();
        Self { own: own.finish(), towards: towards.map(|node| towards_node(replica, disk, node)).collect() }
    }
}

fn hash_replica(replica: &Replica, digest: &mut Digest) {
    let indexes = (replica.last, replica.durable, replica.commit, replica.applied);
    let own = Member { node: replica.settings.node, incarnation: replica.settings.incarnation };
    (replica.promise.term, indexes, replica.obstacle.is_some()).hash(digest);
    (is_replaced(own), replica.held).hash(digest);
    replica.terms.starts(replica.last).hash(digest);
    // Where its batches begin decides how it is sent on.
    let first = replica.tail.first();
    let batches: Vec<Bytes> = replica.tail.range(first.unwrap_or(1) - 1, replica.last).collect();
    (first, batches).hash(digest);
    match &replica.role {
        Role::Leader(leader) => {
            let confirmations = (leader.confirmations.wanted, leader.confirmations.round);
            (0, leader.first_of_term, leader.round, confirmations).hash(digest);
        }
        Role::Follower(follower) => {
            let asked = follower.asked.as_ref().map(|asked| asked.end);
            (1, follower.matched, follower.commit, asked).hash(digest);
        }
        Role::Candidate(candidate) => (2, candidate.pre_vote).hash(digest),
        Role::Inquirer(inquiry) => (3, inquiry.pre_vote).hash(digest),
    }
}

fn hash_disk(disk: &Disk, generation: u64, digest: &mut Digest) {
    (&disk.entries, disk.commit, disk.led, disk.held).hash(digest);
    for operation in &disk.submitted {
        match operation {
            Operation::Append { generation: of, first, commit, entries } => {
                (0, *of == generation, first, commit, entries).hash(digest);
            }
            Operation::Truncate { after } => (1, after).hash(digest),
        }
    }
}

fn towards_node(replica: &Replica, disk: &Disk, node: NodeId) -> u64 {
    let votes = match &replica.role {
        Role::Candidate(candidate) => candidate.votes.contains(node),
        _ => false,
    };
    let position = match &replica.role {
        Role::Inquirer(inquiry) => inquiry.positions.get(&node),
        _ => None,
    };
    let is_voted_for = replica.promise.voted_for == Some(node);
    let progress = replica.follower(node).map(progress);
    let members = (members(replica, node), disk.members.as_ref().map(|noted| noted_of(noted, node)));
    hash_of((is_voted_for, replica.leader == Some(node), votes, position, progress, members))
}

/// What a note says of a node: from where on the newcomer counts, and whether that is known to be committed.
fn noted_of(noted: &Membership, node: NodeId) -> (Option<Index>, bool) {
    let newcomer = replaced(node);
    let admitted = noted.admission_of(newcomer);
    (admitted, noted.has_committed(0, newcomer))
}

/// Which incarnation of a node it knows.
pub(super) fn members(replica: &Replica, node: NodeId) -> u64 {
    let newcomer = replaced(node);
    let is_newcomer = |incarnation| incarnation == newcomer.incarnation;
    let admitted = noted_of(&replica.members, node);
    let is_told_apart =
        |progress: &&Progress| !progress.voting || progress.incarnation.is_some_and(is_newcomer);
    let counts = replica.follower(node).filter(is_told_apart).map(|progress| progress.voting);
    hash_of((admitted, replica.connected.get(&node).copied().is_some_and(is_newcomer), counts))
}

fn progress(progress: &Progress) -> u64 {
    let in_flight: Vec<u64> = progress.in_flight.iter().map(|(last, _)| *last).collect();
    let rounds = (progress.answered, progress.round_sent);
    let indexes = (progress.durable, progress.next, progress.commit_sent, in_flight);
    hash_of((progress.flow, progress.connected, progress.heard.is_some(), indexes, rounds))
}

/// What a state consists of, for its hash.
pub(super) struct Parts<'a> {
    pub(super) nodes: Vec<&'a Marks>,
    /// (from, to, what), nodes by position from 0.
    pub(super) messages: Vec<(usize, usize, u64)>,
    /// By term: who has led.
    pub(super) leaders: &'a [Option<usize>],
    /// What does not name a node.
    pub(super) rest: u64,
}

impl Parts<'_> {
    /// The same for all states that differ in the numbers of nodes only.
    pub(super) fn digest(&self) -> u64 {
        let seen: Vec<u64> = (0..self.nodes.len()).map(|node| self.seen_of(node)).collect();
        let mut order: Vec<usize> = (0..self.nodes.len()).collect();
        order.sort_by_key(|node| seen[*node]);
        let mut least = u64::MAX;
        self.try_orders(&mut order, 0, &seen, &mut least);
        least
    }

    /// Tries all orders of nodes that look the same, from `from` on.
    fn try_orders(&self, order: &mut [usize], from: usize, seen: &[u64], least: &mut u64) {
        if from == order.len() {
            *least = (*least).min(self.digest_in(order));
            return;
        }
        for at in from..order.len() {
            if seen[order[at]] != seen[order[from]] {
                break;
            }
            order.swap(from, at);
            self.try_orders(order, from + 1, seen, least);
            order.swap(from, at);
        }
    }

    /// What can be said of a node without naming others.
    fn seen_of(&self, node: usize) -> u64 {
        let mut sum = scramble(self.nodes[node].own);
        for (other, marks) in self.nodes.iter().enumerate() {
            let is_own = u64::from(other == node);
            let pair = scramble(self.nodes[node].towards[other]).rotate_left(7) ^ marks.towards[node];
            sum = sum.wrapping_add(scramble(pair ^ is_own));
        }
        for (from, to, what) in &self.messages {
            if *from == node {
                sum = sum.wrapping_add(scramble(what ^ 1));
            }
            if *to == node {
                sum = sum.wrapping_add(scramble(what ^ 2));
            }
        }
        for (term, leader) in self.leaders.iter().enumerate() {
            if *leader == Some(node) {
                sum = sum.wrapping_add(scramble(term as u64 | 1 << 40));
            }
        }
        sum
    }

    fn digest_in(&self, order: &[usize]) -> u64 {
        let mut place = [0; 8];
        for (at, node) in order.iter().enumerate() {
            place[*node] = at as u64;
        }
        let term = |what: u64, a: u64, b: u64| scramble(what ^ scramble(a << 8 | b));
        let mut sum = scramble(self.rest);
        for (node, marks) in self.nodes.iter().enumerate() {
            sum = sum.wrapping_add(term(marks.own, place[node], 16));
            for (other, towards) in marks.towards.iter().enumerate() {
                sum = sum.wrapping_add(term(*towards, place[node], place[other]));
            }
        }
        for (from, to, what) in &self.messages {
            sum = sum.wrapping_add(term(*what, place[*from] | 32, place[*to]));
        }
        for (at, leader) in self.leaders.iter().enumerate() {
            if let Some(leader) = leader {
                sum = sum.wrapping_add(term(at as u64, place[*leader], 64));
            }
        }
        sum
    }
}
