//! The rest of the world, for one node: it decides what happens next, and checks what the node says.
//!
//! A follower gets a leader of many terms, which appends, commits, and after a new term sends other entries than
//! before. A leader gets clients, and followers that acknowledge everything at once. Both check, whenever the node
//! acknowledges something, that its log has been made to hold it by then.

use bytes::Bytes;
use quorate_protocol::entry::{self, EndedSession, Payload};
use quorate_protocol::parse;
use quorate_protocol::peer::{Ack, Append, PeerMessage, RejectReason};
use quorate_protocol::request::{
    Expected, Mutation, Operation, Request, SessionSequence, Write, WriteOptions,
};
use quorate_protocol::response::{Outcome, Response};
use quorate_protocol::{Index, Term};

use crate::node::{Event, NodeError};

use super::Random;
use super::node::{Act, Shape, SimNode, peer};

/// Entries among which sessions, and writes that are sent again, are looked for.
const RECENT: usize = 100;

/// What a write is to do.
fn random_write<R>(random: &mut Random, last: Index, give: impl FnOnce(Write<'_>) -> R) -> R {
    let keys: Vec<Vec<u8>> = (0..3).map(|_| format!("key {:02}", random.below(60)).into_bytes()).collect();
    let value = vec![random.next() as u8; random.below(900) as usize];
    let set = Mutation::Set { key: &keys[0], value: &value };
    give(match random.below(10) {
        0 => Write::One(Mutation::Delete { key: &keys[0] }),
        1 => Write::One(Mutation::CompareAndSet { key: &keys[0], expected: Expected::Absent, value: &value }),
        2 => {
            let expected = Expected::Revision(last.saturating_sub(random.below(3)));
            Write::One(Mutation::CompareAndSet { key: &keys[0], expected, value: &value })
        }
        3 => Write::Batch(vec![
            set,
            Mutation::Delete { key: &keys[1] },
            Mutation::Set { key: &keys[2], value: b"" },
        ]),
        _ => Write::One(set),
    })
}

fn encode(term: Term, index: Index, payload: &Payload<'_>) -> Bytes {
    let mut bytes = Vec::new();
    entry::encode(term, index, payload, &mut bytes);
    bytes.into()
}

fn payload_of(entry: &Bytes) -> Payload<'_> {
    entry::Entry::parse(entry).unwrap().payload().unwrap()
}

/// The leader that a follower has.
#[derive(Clone)]
pub(super) struct Leader {
    term: Term,
    log: Vec<(Term, Bytes)>,
    commit: Index,
    /// What the follower has acknowledged in this term.
    acknowledged: Index,
    next: Index,
    round: u64,
}

/// The clients and followers that a leader has.
#[derive(Clone, Default)]
pub(super) struct Clients {
    requests: u64,
    pub(super) answered: u64,
}

/// Everything around one node.
#[derive(Clone)]
pub(super) struct Script {
    shape: Shape,
    random: Random,
    part: Part,
}

#[derive(Clone)]
enum Part {
    Leader(Leader),
    Clients(Clients),
}

impl Script {
    /// For a node that has nothing yet: node 1 leads.
    pub(super) fn new(shape: Shape, seed: u64) -> Self {
        let part = match shape.id {
            1 => Part::Clients(Clients::default()),
            _ => Part::Leader(Leader {
                term: 1,
                log: Vec::new(),
                commit: 0,
                acknowledged: 0,
                next: 1,
                round: 0,
            }),
        };
        Self { shape, random: Random::new(seed), part }
    }

    /// Has a node that was just opened meet the others, and take up its part.
    pub(super) fn begin(&mut self, node: &mut SimNode) -> Result<(), NodeError> {
        node.finish_turn()?;
        let others: Vec<u8> = (1..=self.shape.m).filter(|id| *id != self.shape.id).collect();
        for id in &others {
            node.meet(*id)?;
        }
        for id in &others {
            if let Some(cluster) = node.node.introduction().stored {
                let message = PeerMessage::Stored(cluster);
                node.handle(Event::Message { from: peer(*id), message })?;
            }
        }
        if let Part::Leader(leader) = &mut self.part {
            // Whoever leads after that has a new term, and does not know where the logs match.
            leader.term += 1;
            leader.acknowledged = 0;
            leader.next = leader.log.len() as Index + 1;
            let noop = encode(leader.term, leader.next, &Payload::Noop);
            leader.log.push((leader.term, noop));
        }
        self.listen(node)
    }

    /// Something happens, and some of what it brings about.
    pub(super) fn step(&mut self, node: &mut SimNode) -> Result<(), NodeError> {
        let random = &mut self.random;
        match &mut self.part {
            Part::Leader(leader) => leader.act(random, node)?,
            Part::Clients(clients) => clients.act(random, node)?,
        }
        self.listen(node)?;
        for _ in 0..self.random.below(7) {
            match self.random.below(8) {
                0..3 => drop(node.work_log()),
                3..6 => drop(node.deliver()?),
                6 => drop(node.work_checkpoint()?),
                _ => node.rest(),
            }
            self.listen(node)?;
        }
        Ok(())
    }

    /// Lets everything come to an end that has begun.
    pub(super) fn settle(&mut self, node: &mut SimNode) -> Result<(), NodeError> {
        loop {
            let worked = node.work_log();
            let delivered = node.deliver()?;
            let written = node.work_checkpoint()?;
            self.listen(node)?;
            if !(worked || delivered || written) {
                return Ok(());
            }
        }
    }

    fn listen(&mut self, node: &mut SimNode) -> Result<(), NodeError> {
        loop {
            let acts = node.take_acts();
            if acts.is_empty() {
                return Ok(());
            }
            for act in acts {
                match (&mut self.part, act) {
                    (Part::Leader(leader), Act::Send(to, message)) if to.get() == 1 => {
                        leader.hear(&parse(&message).unwrap(), node)?;
                    }
                    (Part::Clients(_), Act::Send(to, message)) => {
                        if let PeerMessage::Append(append) = parse(&message).unwrap() {
                            let ack = acknowledge(&append);
                            node.handle(Event::Message {
                                from: peer(to.get()),
                                message: PeerMessage::Ack(ack),
                            })?;
                        }
                    }
                    (Part::Clients(clients), Act::Respond(response)) => {
                        clients.hear(&parse(&response).unwrap(), node);
                    }
                    _ => {}
                }
            }
        }
    }

    /// How many writes were acknowledged, or entries.
    pub(super) fn acknowledged(&self) -> u64 {
        match &self.part {
            Part::Leader(leader) => leader.acknowledged,
            Part::Clients(clients) => clients.answered,
        }
    }
}

/// A follower that has everything at once.
fn acknowledge(append: &Append<'_>) -> Ack {
    let entries = entry::iterate(append.entries).count() as Index;
    Ack {
        term: append.term,
        durable: append.previous_index + entries,
        applied: 0,
        applied_ago_us: 0,
        round: append.round,
        disk_us: 0,
        sync_us: 0,
    }
}

impl Leader {
    fn act(&mut self, random: &mut Random, node: &mut SimNode) -> Result<(), NodeError> {
        match random.below(24) {
            0 => self.begin_term(random),
            1..5 => self.commit_some(random, node),
            _ => {
                for _ in 0..=random.below(4) {
                    let bytes = self.make_entry(random);
                    self.log.push((self.term, bytes));
                }
            }
        }
        self.send(node)
    }

    /// The next entry: a write, of a session or not, one that is sent again, or a session opened or ended.
    fn make_entry(&self, random: &mut Random) -> Bytes {
        let (term, index) = (self.term, self.log.len() as Index + 1);
        let recent: Vec<_> = self.log.iter().rev().take(RECENT).map(|(_, bytes)| payload_of(bytes)).collect();
        let is_open = |(ago, payload): (usize, &Payload<'_>)| {
            (*payload == Payload::OpenSession).then_some(index - 1 - ago as Index)
        };
        let sessions: Vec<Index> = recent.iter().enumerate().filter_map(is_open).collect();
        let sent = |payload: &&Payload<'_>| matches!(payload, Payload::Write { session: Some(_), .. });
        let sent: Vec<_> = recent.iter().filter(sent).collect();
        match random.below(30) {
            0 => encode(term, index, &Payload::OpenSession),
            1 if !sessions.is_empty() => {
                let last_used = index.saturating_sub(random.below(100));
                let ended = EndedSession { session: random.of(&sessions), last_used };
                encode(term, index, &Payload::EndSessions(vec![ended]))
            }
            2..6 if !sent.is_empty() => encode(term, index, random.of(&sent)),
            6..14 if !sessions.is_empty() => {
                let sequence = random.below(30);
                let lowest_open = sequence.saturating_sub(random.below(20));
                let session = SessionSequence { session: random.of(&sessions), sequence, lowest_open };
                random_write(random, index, |write| {
                    encode(term, index, &Payload::Write { session: Some(session), write })
                })
            }
            _ => random_write(random, index, |write| {
                encode(term, index, &Payload::Write { session: None, write })
            }),
        }
    }

    /// Another leader, or the same one again, without some of what was not committed.
    fn begin_term(&mut self, random: &mut Random) {
        self.term += 1;
        let uncommitted = self.log.len() as Index - self.commit;
        self.log.truncate((self.commit + random.below(uncommitted + 1)) as usize);
        let noop = encode(self.term, self.log.len() as Index + 1, &Payload::Noop);
        self.log.push((self.term, noop));
        self.acknowledged = 0;
        self.next = self.log.len() as Index;
    }

    fn commit_some(&mut self, random: &mut Random, node: &mut SimNode) {
        let committable = self.acknowledged.max(self.commit);
        let index = self.commit + random.below(committable - self.commit + 1);
        // R14
        if index > self.commit && self.log[index as usize - 1].0 == self.term {
            self.commit = index;
            let log: Vec<Bytes> = self.log.iter().map(|(_, bytes)| bytes.clone()).collect();
            node.history().commit(&log, index);
        }
    }

    fn send(&mut self, node: &mut SimNode) -> Result<(), NodeError> {
        let previous_index = self.next - 1;
        let entries: Vec<u8> =
            self.log[previous_index as usize..].iter().flat_map(|(_, bytes)| bytes.iter().copied()).collect();
        self.round += 1;
        let append = Append {
            term: self.term,
            previous_index,
            previous_term: self.term_of(previous_index),
            commit: self.commit,
            round: self.round,
            entries: &entries,
        };
        self.next = self.log.len() as Index + 1;
        node.handle(Event::Message { from: peer(1), message: PeerMessage::Append(append) })
    }

    fn term_of(&self, index: Index) -> Term {
        index.checked_sub(1).map_or(0, |place| self.log[place as usize].0)
    }

    fn hear(&mut self, message: &PeerMessage<'_>, node: &mut SimNode) -> Result<(), NodeError> {
        match message {
            PeerMessage::Ack(ack) if ack.term == self.term => {
                let own = self.log.iter().map(|(_, bytes)| bytes);
                let durable = ack.durable as usize;
                assert!(durable <= self.log.len(), "it acknowledges entry {durable}, which nobody sent");
                let held = node.history().log();
                assert!(
                    durable <= held.len(),
                    "it acknowledges entry {durable}, but has stored {}",
                    held.len()
                );
                let same = own.zip(held).take(durable).all(|(own, held)| own == held);
                assert!(same, "it acknowledges entry {durable}, but has stored other ones");
                self.acknowledged = self.acknowledged.max(ack.durable);
            }
            PeerMessage::Reject(reject) if reject.term == self.term => {
                if let RejectReason::Mismatch { hint } = reject.reason {
                    assert!(hint < self.next, "the hint {hint} goes forward");
                    self.next = hint + 1;
                    return self.send(node);
                }
                self.next = self.next.min(reject.previous_index + 1);
            }
            _ => {}
        }
        Ok(())
    }
}

impl Clients {
    fn act(&mut self, random: &mut Random, node: &mut SimNode) -> Result<(), NodeError> {
        let last = node.history().committed();
        for _ in 0..=random.below(4) {
            self.requests += 1;
            let id = self.requests;
            random_write(random, last, |write| {
                let operation = Operation::Write { options: WriteOptions::default(), write };
                let request = Request { id, deadline_ms: 0, operation };
                node.handle(Event::Request { client: 1, request })
            })?;
        }
        Ok(())
    }

    fn hear(&mut self, response: &Response<'_>, node: &mut SimNode) {
        if let Outcome::Written { receipt, .. } = &response.outcome {
            let held = node.history().log().len() as Index;
            assert!(receipt.index <= held, "entry {} is acknowledged, but {held} are stored", receipt.index);
            node.history().commit_own(receipt.index);
            self.answered += 1;
        }
    }
}

impl Script {
    /// Takes up with a node that was found to have applied so much: what was committed stays committed.
    pub(super) fn resume(&mut self, node: &mut SimNode, applied: Index) {
        if let Part::Leader(leader) = &mut self.part {
            let held: Vec<Bytes> = node.history().log().to_vec();
            leader.log =
                held.into_iter().map(|bytes| (entry::Entry::parse(&bytes).unwrap().term, bytes)).collect();
            leader.commit = applied;
        }
    }
}
