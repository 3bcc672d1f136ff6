//! One node: the real replica, its disk, its clock, and one turn of it as a function.

use std::collections::{BTreeMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::entry::{self, Entry};
use quorate_protocol::peer::{Ack, PeerMessage, Vote};

use super::super::super::election::Timeouts;
use super::super::super::{
    Input, LogRead, Membership, Message, Output, Promise, ReadState, ReadTicket, Recovered, Replica, Role,
    Settings, Tail, Terms, Time,
};
use super::digest::{Marks, hash_of};
use super::rules::Rule;
use super::still::Essence;
use super::*;

/// Longer than everything that a replica waits for.
const LONG: Time = Time::from_secs(10 * 3600);

/// What happens to one node.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) enum Event {
    /// It has heard no leader for too long.
    Stand,
    /// It leads, and has heard nobody for too long.
    StepDown,
    Heartbeat,
    Propose,
    /// A linearizable read is asked for, when so many entries were committed.
    Read {
        floor: Index,
    },
    Receive {
        message: Arc<Envelope>,
    },
    /// The disk has done the next operation.
    Sync,
    /// The link to a node is lost, and up again, maybe to another incarnation.
    Reconnect {
        to: Member,
    },
    /// It leads, and is to admit a node.
    Admit {
        node: NodeId,
    },
    /// It is killed and started: of what it had given to its disk, the first `kept` operations were done.
    Crash {
        kept: usize,
    },
    /// It is killed, and started with an empty disk.
    Wipe,
    /// It is killed, and when it starts only the first `kept` entries of its log can be read.
    Damage {
        kept: usize,
    },
}

impl Event {
    pub(super) fn is_restart(&self) -> bool {
        matches!(self, Self::Crash { .. } | Self::Wipe | Self::Damage { .. })
    }
}

/// How a node is driven.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Manner {
    /// Whether pre-votes are asked for, or simply given.
    pub(super) has_pre_votes: bool,
    /// Whether batches are synced together, what is read back from a log comes one entry at a time, and a log knows
    /// of nothing to be committed after a restart.
    pub(super) is_prompt: bool,
}

/// A message on its way.
#[derive(Clone, Debug)]
pub(super) struct Envelope {
    pub(super) from: NodeId,
    incarnation: Incarnation,
    pub(super) to: NodeId,
    pub(super) message: Message,
    /// Of the message.
    pub(super) what: u64,
}

impl Envelope {
    fn new(from: Member, to: NodeId, message: Message) -> Arc<Self> {
        let message = without_figures(message);
        let what = hash_of((format!("{message:?}"), is_replaced(from)));
        let Member { node: from, incarnation } = from;
        Arc::new(Self { from, incarnation, to, message, what })
    }

    pub(super) fn is_pre_vote(&self) -> bool {
        match &self.message {
            Message::Small(PeerMessage::RequestVote(request)) => request.pre_vote,
            Message::Small(PeerMessage::Vote(vote)) => vote.pre_vote,
            _ => false,
        }
    }

    pub(super) fn is_inquiry(&self) -> bool {
        matches!(&self.message, Message::Small(PeerMessage::Inquire(_)))
    }

    /// What a promise is made for.
    pub(super) fn is_request(&self) -> bool {
        matches!(&self.message, Message::Small(PeerMessage::RequestVote(_) | PeerMessage::Inquire(_)))
    }

    /// What says that a promise was made.
    pub(super) fn is_vote(&self) -> bool {
        matches!(&self.message, Message::Small(PeerMessage::Vote(_) | PeerMessage::Position(_)))
    }

    pub(super) fn is_answer(&self) -> bool {
        matches!(&self.message, Message::Small(PeerMessage::Ack(_) | PeerMessage::Reject(_)))
    }
}

impl PartialEq for Envelope {
    fn eq(&self, other: &Self) -> bool {
        (self.from, self.to, self.what) == (other.from, other.to, other.what)
    }
}

impl Eq for Envelope {}

impl Hash for Envelope {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (self.from, self.to, self.what).hash(state);
    }
}

/// What an ack says for the status only is not worth a state.
fn without_figures(message: Message) -> Message {
    match message {
        Message::Small(PeerMessage::Ack(ack)) => Message::Small(PeerMessage::Ack(Ack {
            applied: 0,
            applied_ago_us: 0,
            disk_us: 0,
            sync_us: 0,
            ..ack
        })),
        other => other,
    }
}

/// What a node has given to its disk, and how far the disk is. The promise is durable at once.
#[derive(Clone, Debug, Default)]
pub(super) struct Disk {
    pub(super) promise: Promise,
    /// The last term that it has noted to lead.
    pub(super) led: Term,
    /// Where the log ended before it was damaged.
    pub(super) held: Option<(Term, Index)>,
    /// Who votes and counts, as last noted.
    pub(super) members: Option<Membership>,
    /// Durable, from entry 1 on.
    pub(super) entries: Vec<Bytes>,
    /// As the log was last told.
    pub(super) commit: Index,
    /// Not durable.
    pub(super) submitted: VecDeque<Operation>,
}

#[derive(Clone, Debug)]
pub(super) enum Operation {
    Append { generation: u64, first: Index, commit: Index, entries: Bytes },
    Truncate { after: Index },
}

impl Disk {
    /// Does the next operation; returns what the replica is to be told.
    fn sync(&mut self) -> Option<(u64, Index)> {
        match self.submitted.pop_front()? {
            Operation::Append { generation, first, commit, entries } => {
                assert_eq!(first, self.entries.len() as Index + 1, "a log has no holes");
                self.entries.extend(split(&entries));
                let last = self.entries.len() as Index;
                self.commit = self.commit.max(commit.min(last));
                Some((generation, last))
            }
            Operation::Truncate { after } => {
                assert!(after >= self.commit, "R16: what is committed was cut");
                self.entries.truncate(after as usize);
                None
            }
        }
    }

    /// Does all operations up to the last append of a generation.
    fn sync_batch(&mut self) -> Option<(u64, Index)> {
        let mut done = None;
        while let Some(next) = self.submitted.front() {
            let goes_on = match (next, done) {
                (_, None) => true,
                (Operation::Append { generation, .. }, Some((of, _))) => *generation == of,
                (Operation::Truncate { .. }, Some(_)) => false,
            };
            if !goes_on {
                break;
            }
            done = self.sync().or(done);
        }
        done
    }

    /// Entries from `kept` on can no longer be read.
    fn damage(&mut self, kept: usize) {
        let last = self.entries.last().map(|bytes| Entry::parse(bytes).unwrap());
        self.held = self.held.max(last.map(|last| (last.term, last.index)));
        self.entries.truncate(kept);
        self.commit = self.commit.min(kept as Index);
    }

    fn recover(&self, founders: Membership, is_prompt: bool) -> Recovered {
        let mut members = Membership::of_checkpoint(founders, 0, self.members.as_ref());
        let mut terms = Terms::default();
        for bytes in &self.entries {
            let entry = Entry::parse(bytes).unwrap();
            terms.push(entry.index, entry.term);
            members.set(entry.index, entry.admission());
        }
        if let (Some(_), Some(noted)) = (self.held, &self.members) {
            members.add_lost(noted, self.entries.len() as Index);
        }
        let commit = if is_prompt { 0 } else { self.commit };
        let (mut tail, mut first) = (Tail::default(), commit + 1);
        let maybe = &self.entries[commit as usize..];
        for entries in maybe.chunks(if is_prompt { 1 } else { maybe.len().max(1) }) {
            let last = first + entries.len() as Index - 1;
            tail.push(first, last, entries.concat().into());
            first = last + 1;
        }
        Recovered {
            promise: self.promise,
            led: self.led,
            terms,
            members,
            held: self.held,
            applied: commit,
            tail,
        }
    }
}

/// A disk is replaced once.
pub(super) fn replaced(node: NodeId) -> Member {
    Member { node, incarnation: Incarnation(100 + u64::from(node.get())) }
}

pub(super) fn is_replaced(member: Member) -> bool {
    member == replaced(member.node)
}

/// The others, as a cluster begins.
fn others_of(settings: &Settings) -> BTreeMap<NodeId, Incarnation> {
    let others = settings.nodes.iter().filter(|node| *node != settings.node);
    others.map(|node| (node, super::super::incarnation(node.get()))).collect()
}

fn founders_of(settings: &Settings) -> Membership {
    super::super::founders(settings.quorums.replicas())
}

/// The entries of a run.
pub(super) fn split(entries: &Bytes) -> impl Iterator<Item = Bytes> {
    entry::iterate(entries).map(|entry| entries.slice_ref(entry.unwrap().bytes))
}

/// A linearizable read that waits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Read {
    ticket: ReadTicket,
    /// What was committed when it was asked for.
    floor: Index,
}

#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) replica: Replica,
    pub(super) disk: Disk,
    clock: Time,
    pub(super) reads: Vec<Read>,
    pub(super) marks: Marks,
    pub(super) essence: Essence,
    /// Of everything that decides how it goes on, its number included.
    pub(super) identity: u64,
}

/// What comes of an event.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) node: Arc<Node>,
    pub(super) sent: Vec<Arc<Envelope>>,
    /// The entries that were applied.
    pub(super) applied: Vec<Bytes>,
    pub(super) reads_answered: u8,
    pub(super) broken: Option<Rule>,
}

impl Node {
    pub(super) fn start(settings: Settings) -> Arc<Self> {
        let mut node = Self {
            replica: Replica::new(
                settings.clone(),
                Recovered { members: founders_of(&settings), ..Recovered::default() },
            ),
            disk: Disk::default(),
            clock: LONG,
            reads: Vec::new(),
            marks: Marks::default(),
            essence: Essence::default(),
            identity: 0,
        };
        node.connect(others_of(&node.replica.settings));
        let mut turn = Carried::default();
        node.finish(&mut turn);
        node.mark();
        Arc::new(node)
    }

    /// One turn with one event; none if nothing came of it.
    pub(super) fn turn(&self, event: &Event, manner: Manner) -> Option<Turn> {
        let mut node = self.clone();
        let mut carried = Carried { manner, ..Carried::default() };
        if !node.happens(event, &mut carried) {
            return None;
        }
        node.finish(&mut carried);
        let reads_answered = node.answer_reads(&mut carried);
        node.mark();
        if !manner.has_pre_votes {
            carried.sent.retain(|envelope| !envelope.is_pre_vote());
        }
        Some(Turn {
            node: Arc::new(node),
            sent: carried.sent,
            applied: carried.applied,
            reads_answered,
            broken: carried.broken,
        })
    }

    fn id(&self) -> NodeId {
        self.replica.settings.node
    }

    pub(super) fn member(&self) -> Member {
        Member { node: self.id(), incarnation: self.replica.settings.incarnation }
    }

    fn mark(&mut self) {
        // So that a question says nothing but that it was asked.
        self.replica.timeouts = Timeouts::new(0, self.replica.settings.node);
        self.marks = Marks::of(&self.replica, &self.disk, &self.reads);
        self.essence = Essence::of(&self.replica, &self.disk, &self.reads);
        self.identity = hash_of((self.id(), &self.marks));
    }

    /// Returns whether it happened.
    fn happens(&mut self, event: &Event, carried: &mut Carried) -> bool {
        match event {
            Event::Stand => self.stand(carried.manner.has_pre_votes),
            Event::StepDown => {
                self.tick();
                self.clock += LONG;
                self.tick();
            }
            Event::Heartbeat => {
                self.clock += HEARTBEAT;
                self.tick();
            }
            Event::Propose => return self.replica.propose(self.clock, &set(b"value")).is_ok(),
            Event::Read { floor } => {
                let Ok(ticket) = self.replica.request_read(self.clock) else { return false };
                self.reads.push(Read { ticket, floor: *floor });
            }
            Event::Receive { message } => self.receive(message),
            Event::Sync => {
                let done = if carried.manner.is_prompt { self.disk.sync_batch() } else { self.disk.sync() };
                if let Some((generation, index)) = done {
                    let (disk, sync) = (Time::ZERO, Time::ZERO);
                    self.replica.step(self.clock, Input::Durable { generation, index, disk, sync });
                }
            }
            Event::Reconnect { to } => {
                self.replica.step(self.clock, Input::Disconnected(to.node));
                self.replica.step(self.clock, Input::Connected(*to));
            }
            Event::Admit { node } => return self.replica.admit(self.clock, *node).is_ok(),
            Event::Crash { kept } => {
                for _ in 0..*kept {
                    self.disk.sync();
                }
                self.restart(carried);
            }
            Event::Wipe => {
                self.disk = Disk::default();
                self.replica.settings.incarnation = replaced(self.id()).incarnation;
                self.restart(carried);
            }
            Event::Damage { kept } => {
                self.disk.damage(*kept);
                self.restart(carried);
            }
        }
        true
    }

    fn tick(&mut self) {
        self.replica.step(self.clock, Input::Tick);
    }

    /// Where pre-votes are not sent, as many are given as are needed: they protect availability, so that any rule that
    /// holds although they are always given holds with them.
    fn stand(&mut self, has_pre_votes: bool) {
        self.tick();
        self.clock += LONG;
        self.tick();
        if has_pre_votes {
            return;
        }
        let vote = Vote { term: self.replica.term(), pre_vote: true, granted: true };
        let message = PeerMessage::Vote(vote);
        for (node, incarnation) in self.replica.connected.clone() {
            if !matches!(&self.replica.role, Role::Candidate(candidate) if candidate.pre_vote) {
                return;
            }
            let from = Member { node, incarnation };
            self.replica.step(self.clock, Input::Message { from, message: &message });
        }
    }

    /// Whoever is asked for a vote has heard no leader for a while: that a voter refuses because it has heard one
    /// changes nothing.
    fn receive(&mut self, envelope: &Envelope) {
        let message = envelope.message.to_wire();
        if envelope.is_request() && !self.replica.is_leader() {
            self.clock += LONG;
        }
        let from = Member { node: envelope.from, incarnation: envelope.incarnation };
        self.replica.step(self.clock, Input::Message { from, message: &message });
    }

    fn restart(&mut self, carried: &mut Carried) {
        self.disk.submitted.clear();
        self.reads.clear();
        let others = std::mem::take(&mut self.replica.connected);
        self.replica = Replica::new(
            self.replica.settings.clone(),
            self.disk.recover(founders_of(&self.replica.settings), carried.manner.is_prompt),
        );
        carried.applied = self.disk.entries[..self.replica.applied() as usize].to_vec();
        self.connect(others);
    }

    fn connect(&mut self, others: BTreeMap<NodeId, Incarnation>) {
        for (node, incarnation) in others {
            self.replica.step(self.clock, Input::Connected(Member { node, incarnation }));
        }
    }

    /// Ends the turn. Log reads are answered at once.
    fn finish(&mut self, carried: &mut Carried) {
        loop {
            let mut outputs = Vec::new();
            self.replica.finish_turn(self.clock, &mut outputs);
            let mut log_reads = Vec::new();
            for output in outputs {
                if let Output::ReadLog { to, from, .. } = output {
                    log_reads.push((to, from));
                } else {
                    self.carry_out(output, carried);
                }
            }
            if log_reads.is_empty() {
                return;
            }
            for (to, from) in log_reads {
                let found = self.disk.entries.get(from as usize - 1..).filter(|found| !found.is_empty());
                let found = found.map(|found| if carried.manner.is_prompt { &found[..1] } else { found });
                let read = found.map_or(LogRead::Unreadable, |found| LogRead::Entries(found.concat().into()));
                self.replica.step(self.clock, Input::LogRead { to, read });
            }
        }
    }

    fn carry_out(&mut self, output: Output, carried: &mut Carried) {
        match output {
            Output::Promise(promise) => {
                if !promise.may_follow(&self.disk.promise) {
                    carried.broken = Some(Rule::OneVoteATerm);
                }
                self.disk.promise = promise;
            }
            Output::Append { generation, first, commit, entries, .. } => {
                self.disk.submitted.push_back(Operation::Append { generation, first, commit, entries });
            }
            Output::Truncate { after, .. } => {
                self.disk.submitted.push_back(Operation::Truncate { after });
            }
            Output::Send { to, message } => carried.sent.push(Envelope::new(self.member(), to, message)),
            Output::Apply(entries) => carried.applied.extend(split(&entries)),
            Output::Stop(_) => carried.broken = Some(Rule::NothingCommittedIsCut),
            Output::Held(held) => self.disk.held = held,
            Output::Members(members) => self.disk.members = Some(members),
            Output::Led => self.disk.led = self.disk.promise.term,
            // No log is dropped here, and answers to reads come in the same turn.
            _ => {}
        }
    }

    fn answer_reads(&mut self, carried: &mut Carried) -> u8 {
        let (replica, mut answered) = (&self.replica, 0);
        self.reads.retain(|read| match replica.read_state(&read.ticket) {
            ReadState::Ready => {
                answered += 1;
                if replica.applied() < read.floor {
                    carried.broken = Some(Rule::ReadsSeeWhatWasCommitted);
                }
                false
            }
            ReadState::Waiting => true,
            ReadState::Lost => false,
        });
        answered
    }

    /// The terms of the log up to `last`.
    pub(super) fn agrees_with(&self, other: &Self, last: Index) -> bool {
        let term = |node: &Self, index| node.replica.terms().term(index);
        (1..=last).all(|index| term(self, index).is_some() && term(self, index) == term(other, index))
    }
}

/// What a turn has brought so far.
#[derive(Default)]
struct Carried {
    manner: Manner,
    sent: Vec<Arc<Envelope>>,
    applied: Vec<Bytes>,
    broken: Option<Rule>,
}
