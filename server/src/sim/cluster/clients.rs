//! The clients, and every answer to them, which is checked.
//!
//! A client has several calls under way, and does not wait for one that is tried again. Most of its writes are in its session, numbered and tried again by what
//! applications run (`quorate_client::retry`); the others are tried again only when that is known to be harmless. What a
//! client is not told stays open: it may have happened, and may yet. What was refused, and tried nowhere else, must
//! never happen. What is sent again is in `repeats`.

use std::collections::BTreeMap;

use quorate_client::retry::{Attempts, Failed, Next, Place as Stand, Repeat, Sequences};
use quorate_client::{Appended, Error};
use quorate_protocol::entry::{Entry, Payload};
use quorate_protocol::request::{
    Consistency, Expected, Mutation, Operation, Range, RangeEnd, Request, SessionSequence, Token, Write,
    WriteOptions,
};
use quorate_protocol::response::{Item, Outcome, Receipt, Refusal, Response, SessionError, WriteResult};
use quorate_protocol::{Index, SessionId, parse};

use super::Cluster;
use super::machine::place_of;
use super::oracle::{Came, count_of, value_of, value_of_count};
use super::repeats::OTHER_PAYLOAD;
use super::schedule::{Happening, MILLISECOND, Moment, Place, SECOND};
use super::trace::{Happened, Line};

/// What the keys begin with that are not counters.
const PREFIX: &[u8] = b"key ";

/// Stands for whoever asks for a hand-over or an admission, and does not wait for the answer.
pub(super) const OPERATOR: usize = 999;

/// A request's id is so many times the number of its call, and the number of the try.
pub(super) const TRIES: u64 = 1000;

/// Tries have numbers below this; from here on they are copies, whose answers the client does not wait for.
pub(super) const COPY: u64 = 998;

/// With so many calls that are tried again a client waits for one to end.
const CALLS_MAX: usize = 12;

/// A client.
#[derive(Default)]
pub(super) struct Client {
    /// What it has seen, and who has answered the last read that had it.
    token: Token,
    read_from: Place,
    /// Whom it takes for the leader.
    pub(super) leader: Place,
    /// The revisions that it has read, and the counts there.
    revisions: BTreeMap<Vec<u8>, (Index, u64)>,
    pub(super) sequences: Sequences,
    /// By their numbers.
    calls: BTreeMap<u64, Call>,
    /// It does nothing before.
    wakes: Moment,
}

/// What a call is about.
#[derive(Clone)]
pub(super) struct Deed {
    /// Unlike that of any other call.
    pub(super) number: u64,
    what: What,
    /// How it is to be acknowledged, if it is a write.
    pub(super) options: WriteOptions,
    pub(super) key: Vec<u8>,
    other: Vec<u8>,
    pub(super) value: Vec<u8>,
    /// Where it stands in its session.
    pub(super) stand: Option<Stand>,
}

/// What a client is doing.
struct Call {
    deed: Deed,
    attempts: Attempts,
    /// Tries so far, and whether the last one is under way.
    tries: u64,
    is_under_way: bool,
    node: Place,
    /// What was committed when it was first made, and when it was last tried.
    floor: Index,
    tried: Index,
    began: Moment,
    tried_at: Moment,
    /// It is not tried after that.
    ends: Moment,
    /// The client makes no other call before it is over.
    is_awaited: bool,
    /// It has left a session that has ended, and there is no other yet.
    waits_for_session: bool,
    is_sent_again: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum What {
    Set,
    Delete,
    CompareAndSet(Expected),
    /// Sets one key and deletes another.
    Batch,
    /// Counts one up from what was read.
    Count(Expected),
    Get(Consistency),
    Scan(Consistency),
    OpenSession,
    CloseSession(SessionId),
}

impl Deed {
    /// The same with another value.
    pub(super) fn with_value(&self, value: Vec<u8>) -> Self {
        Self { value, ..self.clone() }
    }

    pub(super) fn write(&self) -> Option<Write<'_>> {
        let Self { key, other, value, .. } = self;
        let set = Mutation::Set { key, value };
        Some(match self.what {
            What::Set => Write::One(set),
            What::Delete => Write::One(Mutation::Delete { key }),
            What::CompareAndSet(expected) | What::Count(expected) => {
                Write::One(Mutation::CompareAndSet { key, expected, value })
            }
            What::Batch => Write::Batch(vec![set, Mutation::Delete { key: other }]),
            What::Get(_) | What::Scan(_) | What::OpenSession | What::CloseSession(_) => return None,
        })
    }

    /// As it is sent, with its place in the session by then.
    pub(super) fn operation(&self, session: Option<SessionSequence>) -> Operation<'_> {
        let range = Range { start: PREFIX, end: RangeEnd::Prefix(PREFIX) };
        match self.what {
            What::Get(consistency) => Operation::Get { consistency, key: &self.key },
            What::Scan(consistency) => Operation::Scan { consistency, range, items_max: 100 },
            What::OpenSession => Operation::OpenSession,
            What::CloseSession(session) => Operation::CloseSession { session },
            _ => Operation::Write {
                options: WriteOptions { session, ..self.options },
                write: self.write().expect("the rest are writes"),
            },
        }
    }

    /// Whether its value tells it from every other one.
    pub(super) fn is_marked(&self) -> bool {
        matches!(self.what, What::Set | What::CompareAndSet(_) | What::Batch | What::Count(_))
    }

    /// Whether it counts one up.
    pub(super) fn counts(&self) -> bool {
        matches!(self.what, What::Count(_))
    }

    fn is_read(&self) -> bool {
        matches!(self.what, What::Get(_) | What::Scan(_))
    }

    /// Whether only a leader answers it.
    fn is_for_leader(&self) -> bool {
        use Consistency::{Local, Session};
        !matches!(self.what, What::Get(Local | Session(_)) | What::Scan(Local | Session(_)))
    }
}

impl Cluster {
    pub(super) fn add_clients(&mut self) {
        for client in 0..self.plan.clients.clients {
            self.clients.push(Client::default());
            for _ in 0..self.plan.sessions.in_flight {
                let begins = self.random.below(100 * MILLISECOND);
                self.schedule.after(begins, Happening::Client(client));
            }
        }
    }

    /// Has a client make another call after a while.
    fn go_on(&mut self, client: usize) {
        let mut pause = self.random.below(2 * self.plan.clients.pause + 1);
        if self.random.below(300) == 0 {
            // Long enough for a session to expire, if it is not kept for hours.
            self.clients[client].wakes = self.schedule.now + self.random.below(2 * SECOND);
        }
        pause += self.clients[client].wakes.saturating_sub(self.schedule.now);
        self.schedule.after(pause, Happening::Client(client));
    }

    pub(super) fn client_acts(&mut self, client: usize) {
        if self.is_quiet {
            return;
        }
        let deed = self.choose_deed(client);
        self.call(client, deed);
    }

    fn call(&mut self, client: usize, deed: Deed) {
        let (now, plan, floor) = (self.schedule.now, self.plan.clients, self.oracle.last());
        let is_patient = deed.stand.is_some() || matches!(deed.what, What::OpenSession);
        let tries = if is_patient { 1 + self.random.below(8) } else { 1 };
        let repeat = match (&deed.stand, deed.write()) {
            (Some(stand), _) => Repeat::InSession(*stand),
            (None, Some(_)) => Repeat::Never,
            (None, None) => Repeat::Harmless,
        };
        if deed.stand.is_some() {
            self.counts.add(Happened::SessionWrites);
        }
        if deed.counts() {
            self.counters.begins(&deed);
        }
        let number = deed.number;
        let call = Call {
            attempts: Attempts::new(repeat),
            tries: 0,
            is_under_way: false,
            node: 0,
            floor,
            tried: floor,
            began: now,
            tried_at: now,
            ends: now + tries * plan.deadline,
            is_awaited: !matches!(deed.what, What::OpenSession | What::CloseSession(_)),
            waits_for_session: false,
            is_sent_again: false,
            deed,
        };
        self.clients[client].calls.insert(number, call);
        self.try_call(client, number);
    }

    /// Sends a call, to whom it takes for the right one.
    fn try_call(&mut self, client: usize, number: u64) {
        let (plan, members) = (self.plan.clients, self.plan.members() as u64);
        let goes_to_leader = self.random.below(10) > 0;
        let somebody = self.random.below(members) as Place;
        let (tried, now) = (self.oracle.last(), self.schedule.now);
        let Client { calls, leader, sequences, .. } = &mut self.clients[client];
        let Some(call) = calls.get_mut(&number) else { return };
        call.node = if call.deed.is_for_leader() && goes_to_leader { *leader } else { somebody };
        (call.tries, call.is_under_way) = (call.tries + 1, true);
        (call.tried, call.tried_at) = (tried, now);
        let stamp = call.deed.stand.map(|stand| sequences.stamp(stand));
        let id = number * TRIES + call.tries;
        let operation = call.deed.operation(stamp);
        let request = Request { id, deadline_ms: plan.deadline_ms(), operation };
        let message = postcard::to_stdvec(&request).unwrap().into();
        let (to, deed) = (call.node, call.deed.clone());
        let delay = self.plan.network.delay + self.random.below(MILLISECOND);
        self.schedule.after(delay, Happening::Request { client, to, message });
        let patience = plan.deadline + 50 * MILLISECOND;
        self.schedule.after(patience, Happening::GiveUp { client, request: id });
        if deed.stand.is_some() && self.random.below(100) < self.plan.sessions.copied_in_100 {
            self.send_copy(client, &deed, self.plan.sessions.copy_delay_max);
            // For the client the copy is a try that has no answer.
            self.sends_again(client, number);
            let calls = &mut self.clients[client].calls;
            let _ = calls.get_mut(&number).map(|call| call.attempts.failed(Failed::Late));
        }
    }

    fn choose_deed(&mut self, client: usize) -> Deed {
        self.calls += 1;
        let (number, plan, quorums) = (self.calls, self.plan.clients, self.plan.quorums());
        let random = &mut self.random;
        let mut key = || [PREFIX, random.below(plan.keys).to_string().as_bytes()].concat();
        let (mut key, other) = (key(), key());
        let is_write = random.below(100) < plan.writes_in_100;
        let counter = format!("count {}", random.below(2)).into_bytes();
        let Client { token, revisions, .. } = &self.clients[client];
        let seen = |key: &[u8]| revisions.get(key).copied();
        let mut value = value_of(number, random.below(plan.value_bytes_max + 1) as usize);
        let what = match (is_write, random.below(14)) {
            (true, 0) => What::Delete,
            (true, 1) if other != key => What::Batch,
            (true, 2) => What::CompareAndSet(Expected::Absent),
            (true, 3..6) => match seen(&key) {
                Some((revision, _)) => What::CompareAndSet(Expected::Revision(revision)),
                None => What::Set,
            },
            (true, 10..14) => {
                let (expected, count) = match seen(&counter) {
                    Some((revision, count)) => (Expected::Revision(revision), count + 1),
                    None => (Expected::Absent, 1),
                };
                (key, value) = (counter, value_of_count(number, count));
                What::Count(expected)
            }
            (true, _) => What::Set,
            (false, 0) => What::Scan(Consistency::Linearizable),
            (false, 1) => What::Scan(Consistency::Local),
            (false, 2) => What::Get(Consistency::Local),
            (false, 3..8) => What::Get(Consistency::Session(*token)),
            (false, 8) => What::Scan(Consistency::Session(*token)),
            (false, 10..14) => {
                key = counter;
                What::Get(Consistency::Linearizable)
            }
            (false, _) => What::Get(Consistency::Linearizable),
        };
        let is_conditional = matches!(what, What::CompareAndSet(_) | What::Count(_));
        let options = super::copies::choose(is_conditional, quorums, random);
        let mut deed = Deed { number, what, options, key, other, value, stand: None };
        let is_in_session =
            deed.write().is_some() && self.random.below(100) < self.plan.sessions.writes_in_100;
        // What counts up stands and falls with its session: who is not told whether it has counted must not guess.
        if is_in_session || deed.counts() {
            deed.stand = self.stand(client);
            if deed.stand.is_none() && deed.counts() {
                deed.what = What::Get(Consistency::Linearizable);
            }
        }
        deed
    }

    /// A place in a client's session. If it has none, one is opened.
    fn stand(&mut self, client: usize) -> Option<Stand> {
        if self.random.below(400) == 0 {
            self.leave_session(client);
        }
        if let Ok(stand) = self.clients[client].sequences.begin() {
            return Some(stand);
        }
        let is_opening = |call: &Call| call.deed.what == What::OpenSession;
        if !self.clients[client].calls.values().any(is_opening) {
            self.call_beside(client, What::OpenSession);
        }
        None
    }

    /// A client closes its session, or forgets it; what is under way in it may go on.
    fn leave_session(&mut self, client: usize) {
        let Some(session) = self.clients[client].sequences.session() else { return };
        self.clients[client].sequences.expired(session);
        if self.random.below(2) == 0 {
            self.call_beside(client, What::CloseSession(session));
        }
    }

    /// A call that is made beside the others.
    fn call_beside(&mut self, client: usize, what: What) {
        self.calls += 1;
        let (number, options, nothing) = (self.calls, WriteOptions::default(), Vec::new);
        let (key, other, value) = (nothing(), nothing(), nothing());
        self.call(client, Deed { number, what, options, key, other, value, stand: None });
    }

    /// A call is tried again, if there is time left.
    pub(super) fn try_again(&mut self, client: usize, number: u64) {
        let Some(call) = self.clients[client].calls.get(&number) else { return };
        if self.is_quiet || self.schedule.now >= call.ends || call.tries >= COPY - 1 {
            let error = call.attempts.out_of_time();
            return self.ended(client, number, Some(&error));
        }
        if call.waits_for_session && !self.moves(client, number) {
            return self.again_later(client, number);
        }
        self.try_call(client, number);
    }

    /// A call that was not done in the session that has ended goes on in another, if there is one.
    fn moves(&mut self, client: usize, number: u64) -> bool {
        let stand = self.stand(client);
        let Some(call) = self.clients[client].calls.get_mut(&number) else { return false };
        call.waits_for_session = stand.is_none();
        if let Some(stand) = stand {
            call.deed.stand = Some(stand);
            call.attempts.moved(stand);
        }
        stand.is_some()
    }

    /// Has a call tried again, while the client goes on with another.
    fn again_later(&mut self, client: usize, number: u64) {
        let pause = MILLISECOND + self.random.below(80 * MILLISECOND);
        self.schedule.after(pause, Happening::Again { client, number });
        let calls = &mut self.clients[client].calls;
        let may_go_on = calls.len() < CALLS_MAX;
        let Some(call) = calls.get_mut(&number).filter(|call| call.is_awaited && may_go_on) else { return };
        call.is_awaited = false;
        self.go_on(client);
    }

    /// No answer to a try.
    pub(super) fn give_up(&mut self, client: usize, request: u64, failed: Failed) {
        let members = self.plan.members() as u64;
        let number = request / TRIES;
        let Client { calls, leader, .. } = &mut self.clients[client];
        let Some(call) = calls.get(&number).filter(|call| call.waits_for(request)) else { return };
        // Some stay with whom they took for the leader.
        if self.random.below(2) == 0 {
            *leader = self.random.below(members) as Place;
        }
        if call.deed.stand.is_some() && matches!(failed, Failed::Late) {
            self.sends_again(client, number);
        }
        self.failed(client, number, failed);
    }

    /// What may have been done is sent once more.
    fn sends_again(&mut self, client: usize, number: u64) {
        let Some(call) = self.clients[client].calls.get_mut(&number) else { return };
        if !std::mem::replace(&mut call.is_sent_again, true) {
            self.counts.add(Happened::SentAgain);
        }
    }

    /// A try has no result.
    fn failed(&mut self, client: usize, number: u64, failed: Failed) {
        let Some(call) = self.clients[client].calls.get_mut(&number) else { return };
        if call.deed.is_read() {
            return self.ended(client, number, None);
        }
        call.is_under_way = false; // What is still said of it comes too late.
        match call.attempts.failed(failed) {
            Next::End(error) => self.ended(client, number, Some(&error)),
            Next::Again => self.again_later(client, number),
            Next::Anew => {
                self.counts.add(Happened::CallsMoved);
                self.moves(client, number);
                self.again_later(client, number);
            }
        }
    }

    /// A call is over without a result.
    fn ended(&mut self, client: usize, number: u64, error: Option<&Error>) {
        let Client { calls, sequences, .. } = &mut self.clients[client];
        let Some(Call { deed, is_awaited, .. }) = calls.remove(&number) else { return };
        if let Some(stand) = deed.stand {
            sequences.end(stand);
        }
        match error {
            Some(Error::OutcomeUnknown(_)) => {
                self.clients[client].knows(&deed.key, None);
                if deed.write().is_some() {
                    self.counts.add(Happened::UnknownOutcomes);
                }
            }
            // Nothing was done, says whoever decides that for applications.
            Some(_) if deed.is_marked() => self.oracle.refused(deed.number),
            _ => {}
        }
        if is_awaited {
            self.go_on(client);
        }
    }

    /// The connections of clients to a node break.
    pub(super) fn break_clients(&mut self, node: Place) {
        for client in 0..self.clients.len() {
            let calls = self.clients[client].calls.values();
            let broken = calls.filter(|call| call.node == node && call.is_under_way).map(Call::id);
            let broken: Vec<_> = broken.collect();
            for request in broken {
                let delay = self.random.below(5 * MILLISECOND);
                self.schedule.after(delay, Happening::GiveUp { client, request });
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
        let (number, a_try) = (response.id / TRIES, response.id % TRIES);
        if a_try >= COPY {
            return self.copy_answered(number, a_try == OTHER_PAYLOAD, from, &response.outcome);
        }
        let call = self.clients[client].calls.get(&number).filter(|call| call.waits_for(response.id));
        let Some(Call { deed, floor, tried, tried_at, .. }) = call else { return };
        let (deed, floor, tried, tried_at) = (deed.clone(), *floor, *tried, *tried_at);
        match &response.outcome {
            Outcome::Written { receipt, result } => {
                assert!(
                    receipt.index > floor,
                    "entry {} was committed before it was asked for",
                    receipt.index
                );
                self.check_written(&deed, receipt, result);
                self.check_wish(deed.options, tried_at, from, receipt);
                if receipt.index <= tried {
                    self.count_repeat(from, receipt.index);
                }
                self.written(client, number, receipt, result);
            }
            Outcome::Value { token, value } => {
                self.has_read(client, &deed, floor, from, *token);
                self.oracle.check_read(&deed.key, *token, *value);
                let seen = value.map(|value| (value.revision, count_of(value.value)));
                self.clients[client].knows(&deed.key, seen);
                self.ended(client, number, None);
            }
            Outcome::Page { token, items, more } => {
                self.has_read(client, &deed, floor, from, *token);
                assert!(!more, "there are fewer keys");
                let items = items.iter().map(|Item { key, versioned }| Item { key, versioned: *versioned });
                self.oracle.check_store(token.index, PREFIX, items, "a page");
                self.ended(client, number, None);
            }
            Outcome::Stored { receipt } => {
                self.stored(deed.options, receipt);
                self.ended(client, number, None);
            }
            Outcome::Unknown { index, copies } => {
                let appended = Appended { index: *index, copies: *copies };
                if deed.stand.is_some() {
                    self.sends_again(client, number);
                }
                self.failed(client, number, Failed::Uncommitted(appended));
            }
            Outcome::Refused(refusal) => self.was_refused(client, &deed, refusal),
            other => panic!("{other:?} is no answer to what was asked"),
        }
    }

    /// What is acknowledged is committed, did what it is said to have done, and is where it is said to be.
    pub(super) fn check_written(&self, deed: &Deed, receipt: &Receipt, result: &WriteResult) {
        let index = receipt.index;
        let entry = self.oracle.committed(index);
        let entry = entry.unwrap_or_else(|| panic!("entry {index} is acknowledged, but not committed"));
        let payload = Entry::parse(&entry.bytes).unwrap().payload().unwrap();
        match (&payload, deed.what) {
            (Payload::OpenSession, What::OpenSession) => {}
            (Payload::EndSessions(ended), What::CloseSession(session)) => {
                assert_eq!(ended.iter().map(|ended| ended.session).collect::<Vec<_>>(), [session]);
            }
            (Payload::Write { session, write }, _) => {
                let stand =
                    session.map(|SessionSequence { session, sequence, .. }| Stand { session, sequence });
                assert_eq!((stand, Some(write)), (deed.stand, deed.write().as_ref()), "entry {index}");
            }
            other => panic!("entry {index} is acknowledged: {other:?}"),
        }
        assert_eq!(receipt.term, entry.term, "the term of the receipt of entry {index}");
        assert_eq!(Came::To(*result), entry.came, "what entry {index} did");
        let mark = self.oracle.mark(index);
        for holder in receipt.holders.iter() {
            let held = self.members[place_of(holder)].has_ever_held(index, mark);
            assert!(held, "node {holder} is said to hold entry {index}");
        }
    }

    /// A call has its result.
    fn written(&mut self, client: usize, number: u64, receipt: &Receipt, result: &WriteResult) {
        let (Receipt { term, index, .. }, lingers) = (*receipt, self.random.below(4) == 0);
        let Client { calls, sequences, .. } = &mut self.clients[client];
        let Some(Call { deed, began, is_awaited, .. }) = calls.remove(&number) else { return };
        match (deed.what, result) {
            (What::OpenSession, _) => sequences.opened(index),
            (What::Count(_), WriteResult::Applied { .. }) => {
                self.clients[client].knows(&deed.key, Some((index, count_of(&deed.value))));
            }
            (What::Count(_), WriteResult::ConditionFailed { .. }) => {
                self.clients[client].knows(&deed.key, None);
            }
            _ => {}
        }
        self.clients[client].saw(Token { term, index });
        if deed.write().is_some() {
            self.counts.add(Happened::Writes);
        }
        self.counters.told(&deed, result);
        if began >= self.healed_at && self.written_since_healed.is_none() {
            self.written_since_healed = Some(index);
        }
        match deed.stand {
            Some(_) if lingers => self.linger(client, &deed),
            Some(stand) => drop(self.clients[client].sequences.end(stand)),
            None => {}
        }
        if is_awaited {
            self.go_on(client);
        }
    }

    fn has_read(&mut self, client: usize, deed: &Deed, floor: Index, from: Place, token: Token) {
        let (What::Get(consistency) | What::Scan(consistency)) = deed.what else {
            panic!("what was written is answered as a read");
        };
        self.oracle.check_token(token);
        match consistency {
            Consistency::Linearizable => assert!(
                token.index >= floor,
                "a read saw the entries up to {}, but {floor} were committed when it was asked for",
                token.index,
            ),
            Consistency::Session(seen) => {
                assert!(
                    token.index >= seen.index,
                    "a read saw the entries up to {}, but its session {}",
                    token.index,
                    seen.index
                );
                self.counts.add(Happened::SessionReads);
                if std::mem::replace(&mut self.clients[client].read_from, from) != from {
                    self.counts.add(Happened::SessionReadsElsewhere);
                }
            }
            Consistency::Local => {}
        }
        self.counts.add(Happened::Reads);
        self.clients[client].saw(token);
    }

    fn was_refused(&mut self, client: usize, deed: &Deed, refusal: &Refusal) {
        let members = self.plan.members() as u64;
        match refusal {
            Refusal::NotLeader { leader: Some(hint) } => self.clients[client].leader = place_of(hint.node),
            Refusal::TokenLost => panic!("what client {client} has seen is lost"),
            Refusal::BadRequest(_) | Refusal::Unsupported(_) | Refusal::BadFrame(_) => {
                panic!("a good request is refused: {refusal}");
            }
            Refusal::Session(error) => self.session_refused(client, deed, *error),
            Refusal::Behind { .. } => self.counts.add(Happened::Behind),
            _ => self.clients[client].leader = self.random.below(members) as Place,
        }
        self.counts.add(Happened::Refusals);
        self.failed(client, deed.number, Failed::Refused(refusal.clone()));
    }

    /// The session of a call that goes on does not let it be done: only an ended one does that.
    fn session_refused(&mut self, client: usize, deed: &Deed, error: SessionError) {
        let Some(stand) = deed.stand else { panic!("{error}, but no session was named") };
        assert_eq!(error, SessionError::Expired, "call {} goes on in {stand:?}", deed.number);
        self.oracle.check_session_error(stand.session, stand.sequence, error);
        self.clients[client].sequences.expired(stand.session);
        self.counts.add(Happened::ExpiredWrites);
    }

    pub(super) fn request_arrives(&mut self, client: usize, to: Place, message: std::rc::Rc<[u8]>) {
        let Some(life) = &mut self.members[to].life else {
            // A node that is not there refuses the connection.
            if client != OPERATOR {
                let request = parse::<Request<'_>>(&message).expect("a client sent it").id;
                self.schedule.after(MILLISECOND, Happening::Unsent { client, request });
            }
            return;
        };
        let arrived = super::machine::Arrived::Request { client: client as u64, message: message.clone() };
        life.inbox.push_back(arrived);
        self.trace.note(self.schedule.now, Line::Asked { client, to, message });
        self.want_turn(to);
    }
}

impl Call {
    /// Of its last try.
    fn id(&self) -> u64 {
        self.deed.number * TRIES + self.tries
    }

    fn waits_for(&self, id: u64) -> bool {
        self.is_under_way && self.id() == id
    }
}

impl Client {
    /// What it has read or written of a key: its revision, and the count there.
    fn knows(&mut self, key: &[u8], seen: Option<(Index, u64)>) {
        self.revisions.remove(key);
        self.revisions.extend(seen.map(|seen| (key.to_vec(), seen)));
    }

    fn saw(&mut self, token: Token) {
        if token.index > self.token.index {
            self.token = token;
        }
    }
}
