//! The clients: each does one thing at a time, and every answer is checked.
//!
//! What a client is not told stays open: it may have happened, and may yet. What was refused must never happen.

use std::collections::BTreeMap;

use quorate_protocol::entry::{Entry, Payload};
use quorate_protocol::request::{
    Consistency, Expected, Mutation, Operation, Range, RangeEnd, Request, Token, Write, WriteOptions,
};
use quorate_protocol::response::{Item, Outcome, Receipt, Refusal, Response, WriteResult};
use quorate_protocol::{Index, parse};

use super::Cluster;
use super::machine::place_of;
use super::oracle::value_of;
use super::schedule::{Happening, MILLISECOND, Moment, Place};
use super::trace::{Happened, Line};

/// What all keys begin with.
const PREFIX: &[u8] = b"key ";

/// Stands for whoever asks for a hand-over or an admission, and does not wait for the answer.
pub(super) const OPERATOR: usize = 999;

/// A client.
#[derive(Default)]
pub(super) struct Client {
    /// What it has seen.
    token: Token,
    /// Whom it takes for the leader.
    leader: Place,
    /// The revisions that it has read.
    revisions: BTreeMap<Vec<u8>, Index>,
    call: Option<Call>,
}

/// What a client is doing.
#[derive(Clone)]
struct Call {
    /// Unlike that of any other call.
    number: u64,
    what: What,
    /// How it is to be acknowledged, if it is a write.
    options: WriteOptions,
    key: Vec<u8>,
    other: Vec<u8>,
    value: Vec<u8>,
    node: Place,
    /// What was committed when it was made.
    floor: Index,
    began: Moment,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    Set,
    Delete,
    CompareAndSet(Expected),
    /// Sets one key and deletes another.
    Batch,
    Get(Consistency),
    Scan(Consistency),
}

impl What {
    fn is_conditional(self) -> bool {
        matches!(self, Self::CompareAndSet(_))
    }
}

impl Call {
    fn write(&self) -> Option<Write<'_>> {
        let Self { key, other, value, .. } = self;
        let set = Mutation::Set { key, value };
        Some(match self.what {
            What::Set => Write::One(set),
            What::Delete => Write::One(Mutation::Delete { key }),
            What::CompareAndSet(expected) => Write::One(Mutation::CompareAndSet { key, expected, value }),
            What::Batch => Write::Batch(vec![set, Mutation::Delete { key: other }]),
            What::Get(_) | What::Scan(_) => return None,
        })
    }

    fn operation(&self) -> Operation<'_> {
        let range = Range { start: PREFIX, end: RangeEnd::Prefix(PREFIX) };
        match self.what {
            What::Get(consistency) => Operation::Get { consistency, key: &self.key },
            What::Scan(consistency) => Operation::Scan { consistency, range, items_max: 100 },
            _ => {
                Operation::Write { options: self.options, write: self.write().expect("the rest are writes") }
            }
        }
    }

    /// Whether its value tells it from every other one.
    fn is_marked(&self) -> bool {
        matches!(self.what, What::Set | What::CompareAndSet(_) | What::Batch)
    }
}

impl Cluster {
    pub(super) fn add_clients(&mut self) {
        for client in 0..self.plan.clients.clients {
            self.clients.push(Client::default());
            let begins = self.random.below(100 * MILLISECOND);
            self.schedule.after(begins, Happening::Client(client));
        }
    }

    /// Has a client go on after a while.
    fn go_on(&mut self, client: usize) {
        let pause = self.random.below(2 * self.plan.clients.pause + 1);
        self.schedule.after(pause, Happening::Client(client));
    }

    pub(super) fn client_acts(&mut self, client: usize) {
        if self.clients[client].call.is_some() || self.is_quiet {
            return;
        }
        let call = self.choose_call(client);
        let (number, to) = (call.number, call.node);
        let request =
            Request { id: number, deadline_ms: self.plan.clients.deadline_ms(), operation: call.operation() };
        let message = postcard::to_stdvec(&request).unwrap().into();
        self.clients[client].call = Some(call);
        let delay = self.plan.network.delay + self.random.below(MILLISECOND);
        self.schedule.after(delay, Happening::Request { client, to, message });
        let patience = self.plan.clients.deadline + 50 * MILLISECOND;
        self.schedule.after(patience, Happening::GiveUp { client, operation: number });
    }

    fn choose_call(&mut self, client: usize) -> Call {
        self.calls += 1;
        let (number, members) = (self.calls, self.plan.members() as u64);
        let plan = self.plan.clients;
        let random = &mut self.random;
        let mut key = || [PREFIX, random.below(plan.keys).to_string().as_bytes()].concat();
        let (key, other) = (key(), key());
        let is_write = random.below(100) < plan.writes_in_100;
        let Client { token, leader, revisions, .. } = &self.clients[client];
        let what = match (is_write, random.below(10)) {
            (true, 0) => What::Delete,
            (true, 1) if other != key => What::Batch,
            (true, 2) => What::CompareAndSet(Expected::Absent),
            (true, 3..6) => match revisions.get(&key) {
                Some(revision) => What::CompareAndSet(Expected::Revision(*revision)),
                None => What::Set,
            },
            (true, _) => What::Set,
            (false, 0) => What::Scan(Consistency::Linearizable),
            (false, 1) => What::Scan(Consistency::Local),
            (false, 2) => What::Get(Consistency::Local),
            (false, 3..6) => What::Get(Consistency::Session(*token)),
            (false, _) => What::Get(Consistency::Linearizable),
        };
        let wants_leader = !matches!(
            what,
            What::Get(Consistency::Local | Consistency::Session(_)) | What::Scan(Consistency::Local)
        );
        let node = match wants_leader && random.below(10) > 0 {
            true => *leader,
            false => random.below(members) as Place,
        };
        let value = value_of(number, random.below(plan.value_bytes_max + 1) as usize);
        let (floor, began) = (self.oracle.last(), self.schedule.now);
        let options = super::copies::choose(what.is_conditional(), self.plan.quorums(), &mut self.random);
        Call { number, what, options, key, other, value, node, floor, began }
    }

    /// No answer: what came of it is not known.
    pub(super) fn give_up(&mut self, client: usize, operation: u64) {
        let Some(call) = self.clients[client].call.take_if(|call| call.number == operation) else { return };
        if call.write().is_some() {
            self.counts.add(Happened::UnknownOutcomes);
        }
        // Some stay with whom they took for the leader.
        if self.random.below(2) == 0 {
            self.clients[client].leader = self.random.below(self.plan.members() as u64) as Place;
        }
        self.go_on(client);
    }

    /// The connections of clients to a node break.
    pub(super) fn break_clients(&mut self, node: Place) {
        for client in 0..self.clients.len() {
            if let Some(call) = &self.clients[client].call
                && call.node == node
            {
                let operation = call.number;
                let delay = self.random.below(5 * MILLISECOND);
                self.schedule.after(delay, Happening::GiveUp { client, operation });
            }
        }
    }

    pub(super) fn answered(&mut self, client: usize, from: Place, message: &[u8]) {
        if client == OPERATOR {
            return;
        }
        let response: Response<'_> = parse(message).expect("what a node answers can be read");
        if !response.outcome.is_last() {
            return; // What it says was checked when it was said, and more follows.
        }
        let call = self.clients[client].call.take_if(|call| call.number == response.id);
        let Some(call) = call else { return };
        match &response.outcome {
            Outcome::Written { receipt, result } => {
                self.written(client, &call, receipt, result);
                self.check_wish(call.options, call.began, from, receipt);
            }
            Outcome::Value { token, value } => {
                self.has_read(client, &call, *token);
                self.oracle.check_read(&call.key, *token, *value);
                let revisions = &mut self.clients[client].revisions;
                match value {
                    Some(value) => drop(revisions.insert(call.key.clone(), value.revision)),
                    None => drop(revisions.remove(&call.key)),
                }
            }
            Outcome::Page { token, items, more } => {
                self.has_read(client, &call, *token);
                assert!(!more, "there are fewer keys");
                let items = items.iter().map(|Item { key, versioned }| Item { key, versioned: *versioned });
                self.oracle.check_store(token.index, PREFIX, items, "a page");
            }
            Outcome::Stored { receipt } => self.stored(call.options, receipt),
            Outcome::Unknown { .. } => self.counts.add(Happened::UnknownOutcomes),
            Outcome::Refused(refusal) => self.was_refused(client, &call, refusal),
            other => panic!("{other:?} is no answer to what was asked"),
        }
        self.go_on(client);
    }

    fn written(&mut self, client: usize, call: &Call, receipt: &Receipt, result: &WriteResult) {
        let index = receipt.index;
        let write = call.write().expect("only a write is written");
        assert!(index > call.floor, "entry {index} was committed before its write was asked for");
        let entry = self.oracle.committed(index);
        let entry = entry.unwrap_or_else(|| panic!("entry {index} is acknowledged, but not committed"));
        let written = Entry::parse(&entry.bytes).unwrap().payload();
        assert_eq!(written, Ok(Payload::Write { session: None, write }), "entry {index}");
        assert_eq!(receipt.term, entry.term, "the term of the receipt of entry {index}");
        assert_eq!(Some(*result), entry.result, "what entry {index} did");
        let mark = self.oracle.mark(index);
        for holder in receipt.holders.iter() {
            let held = self.members[place_of(holder)].has_ever_held(index, mark);
            assert!(held, "node {holder} is said to hold entry {index}");
        }
        self.counts.add(Happened::Writes);
        self.clients[client].saw(Token { term: receipt.term, index });
        if call.began >= self.healed_at && self.written_since_healed.is_none() {
            self.written_since_healed = Some(index);
        }
    }

    fn has_read(&mut self, client: usize, call: &Call, token: Token) {
        let (What::Get(consistency) | What::Scan(consistency)) = call.what else {
            panic!("what was written is answered as a read");
        };
        self.oracle.check_token(token);
        match consistency {
            Consistency::Linearizable => assert!(
                token.index >= call.floor,
                "a read saw the entries up to {}, but {} were committed when it was asked for",
                token.index,
                call.floor
            ),
            Consistency::Session(seen) => assert!(
                token.index >= seen.index,
                "a read saw the entries up to {}, but its session {}",
                token.index,
                seen.index
            ),
            Consistency::Local => {}
        }
        self.counts.add(Happened::Reads);
        self.clients[client].saw(token);
    }

    fn was_refused(&mut self, client: usize, call: &Call, refusal: &Refusal) {
        if call.is_marked() {
            self.oracle.refused(call.number);
        }
        let members = self.plan.members() as u64;
        match refusal {
            Refusal::NotLeader { leader: Some(hint) } => self.clients[client].leader = place_of(hint.node),
            Refusal::TokenLost => panic!("what client {client} has seen is lost"),
            Refusal::BadRequest(_) | Refusal::Unsupported(_) | Refusal::BadFrame(_) => {
                panic!("a good request is refused: {refusal}");
            }
            Refusal::Behind { .. } => self.counts.add(Happened::Behind),
            _ => self.clients[client].leader = self.random.below(members) as Place,
        }
        self.counts.add(Happened::Refusals);
    }

    pub(super) fn request_arrives(&mut self, client: usize, to: Place, message: std::rc::Rc<[u8]>) {
        let Some(life) = &mut self.members[to].life else {
            // A node that is not there refuses the connection.
            let Some(call) = self.clients.get(client).and_then(|client| client.call.as_ref()) else { return };
            let operation = call.number;
            return self.schedule.after(MILLISECOND, Happening::GiveUp { client, operation });
        };
        let arrived = super::machine::Arrived::Request { client: client as u64, message: message.clone() };
        life.inbox.push_back(arrived);
        self.trace.note(self.schedule.now, Line::Asked { client, to, message });
        self.want_turn(to);
    }
}

impl Client {
    fn saw(&mut self, token: Token) {
        if token.index > self.token.index {
            self.token = token;
        }
    }
}
