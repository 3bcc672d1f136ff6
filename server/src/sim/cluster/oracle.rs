//! The rules, checked after every step; and what the cluster as a whole has committed.
//!
//! # Linearizability
//!
//! There is one list of committed entries: what the first node to apply an index has applied there; every other must
//! apply the same. So each operation of a client has a place in one order: a write the index of its entry, a read
//! the index that its token names, behind which it saw the store. An operation takes effect within its call if
//!
//! - a write's index was not committed anywhere when it was called, and is when it has returned;
//! - a read's token is at least what was committed anywhere when it was called, and at most what is when it returns.
//!
//! Then the moment at which the list got as long as the operation's place lies between call and return, and is where
//! it takes effect: that is what linearizable means, so nothing has to be searched for. What an operation returned is
//! compared with a plain model at its place. This asks for more than that some order exists: the one that the server
//! itself names must be right, and a read must see all that is committed, acknowledged or not (R21). A write without
//! an answer is in the list or not, and binds nothing.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use quorate_protocol::entry::{EndedSession, Entry, Payload};
use quorate_protocol::request::{Expected, Mutation, SessionSequence, Token, Write};
use quorate_protocol::response::{Change, Item, NewValue, SessionError, Versioned, WriteResult};
use quorate_protocol::{Incarnation, Index, Member, NodeId, NodeSet, SequenceNumber, SessionId, Term};

use super::holdings::Mark;
use super::machine::{founder, place_of};
use super::schedule::{Moment, Place};
use super::text::{Text, shown_payload};
use crate::replica::Promise;
use crate::sim::history::checksum_of;
use crate::sim::node::node_id;
use crate::sim::sessions::{self, First, Sessions, Verdict};
use crate::store::Store;

/// An entry that some node has applied.
pub(super) struct Committed {
    pub(super) term: Term,
    /// That of whoever applied it first: it was committed in that one or before.
    pub(super) by: Term,
    pub(super) bytes: Bytes,
    /// What came of it, by the model.
    pub(super) came: Came,
    /// Of the sessions behind it, by the model.
    sessions: u32,
    /// When it was applied first.
    at: Moment,
}

/// What comes of an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Came {
    /// This.
    To(WriteResult),
    /// Nothing: it is none that a client has asked for, or its session does not let it do anything.
    ToNothing,
}

/// A key's value from an index on; none if it was deleted there.
type Version = (Index, Option<Vec<u8>>);

/// What is true of the cluster as a whole.
#[derive(Default)]
pub(super) struct Oracle {
    committed: Vec<Committed>,
    /// Each key's values, oldest first.
    versions: BTreeMap<Vec<u8>, Vec<Version>>,
    /// What every entry that a leader has ever made is, by index and term, and the term of the one before it.
    made: Vec<Vec<(Term, u32, Term)>>,
    /// What the committed entries did to keys, in order.
    effects: Vec<(Index, Vec<u8>, Option<Vec<u8>>)>,
    leaders: BTreeMap<Term, NodeId>,
    /// Who votes, by the disk that has the promise.
    votes: BTreeMap<(Term, Member), NodeId>,
    /// Who has asked for votes in a term, and where its log ended.
    stands: BTreeMap<(Term, NodeId), (Term, Index)>,
    /// The entries that admit a replaced disk, in order (R27).
    admissions: Vec<(Index, Member)>,
    checkpoints: BTreeMap<Index, [u8; 32]>,
    /// Operations whose values were committed, those of them whose conditions held, and those that were refused.
    done: BTreeSet<u64>,
    changed: BTreeSet<u64>,
    refused: BTreeSet<u64>,
    sessions: Sessions,
    /// Where each number of each session was done, whether the session is still there or not.
    firsts: BTreeMap<(SessionId, SequenceNumber), Index>,
    /// No session may end that was used within this time.
    session_timeout: Moment,
}

/// What an operation writes: its number, and dots. No byte is zero, so that no sector of a log looks as if it had
/// never been written.
pub(super) fn value_of(operation: u64, dots: usize) -> Vec<u8> {
    format!("{operation} {:.<dots$}", "").into()
}

/// What an operation writes that counts up to so much.
pub(super) fn value_of_count(operation: u64, count: u64) -> Vec<u8> {
    format!("{operation} {count}").into()
}

/// The count in a value; 0 if it has none.
pub(super) fn count_of(value: &[u8]) -> u64 {
    let count = value.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    str::from_utf8(count).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

/// The number of the operation that wrote a value.
fn operation_of(value: &[u8]) -> u64 {
    let digits = value.split(|byte| *byte == b' ').next().unwrap_or_default();
    str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).expect("a value begins with a number")
}

impl Oracle {
    pub(super) fn new(session_timeout: Moment) -> Self {
        Self { session_timeout, ..Self::default() }
    }

    /// The last entry that any node has applied.
    pub(super) fn last(&self) -> Index {
        self.committed.len() as Index
    }

    pub(super) fn committed(&self, index: Index) -> Option<&Committed> {
        self.committed.get(index.checked_sub(1)? as usize)
    }

    pub(super) fn mark(&self, index: Index) -> Option<Mark> {
        self.committed(index).map(|entry| (entry.term, checksum_of(&entry.bytes)))
    }

    pub(super) fn term(&self, index: Index) -> Term {
        self.committed(index).map_or(0, |entry| entry.term)
    }

    /// A node has applied an entry, in a term. Returns whether it is the first to do so.
    pub(super) fn applied(&mut self, entry: &Entry<'_>, by: Term, at: Moment) -> bool {
        let Entry { term, index, bytes } = *entry;
        if let Some(known) = self.committed(index) {
            assert!(
                known.term == term && known.bytes == bytes,
                "entry {index} is applied with term {term}, but was with term {} elsewhere: {} and {}",
                known.term,
                shown_payload(entry),
                shown_payload(&Entry::parse(&known.bytes).unwrap())
            );
            return false;
        }
        assert_eq!(index, self.last() + 1, "an entry is applied before the one before it");
        assert!(term >= self.term(index - 1), "entry {index} is of an older term than the one before it");
        let came = match entry.payload().expect("an entry that is applied can be read") {
            Payload::Noop => Came::ToNothing,
            Payload::Admit(member) => {
                self.admissions.push((index, member));
                Came::ToNothing
            }
            Payload::Write { session: None, write } => Came::To(self.apply(index, &write)),
            Payload::Write { session: Some(place), write } => self.apply_in_session(index, place, &write),
            Payload::OpenSession => {
                self.sessions.open(index);
                Came::To(WriteResult::Applied { existed: 0 })
            }
            Payload::EndSessions(ended) => {
                self.check_expiry(&ended, at);
                Came::To(WriteResult::Applied { existed: self.sessions.end(&ended) })
            }
        };
        let (bytes, sessions) = (Bytes::copy_from_slice(bytes), self.sessions.digest());
        self.committed.push(Committed { term, by, bytes, came, sessions, at });
        true
    }

    fn apply_in_session(&mut self, index: Index, place: SessionSequence, write: &Write<'_>) -> Came {
        let bytes = postcard::to_stdvec(write).unwrap();
        if self.sessions.judge(index, place, &bytes) != Verdict::Do {
            return Came::ToNothing;
        }
        let SessionSequence { session, sequence, .. } = place;
        let first = self.firsts.insert((session, sequence), index);
        assert_eq!(first, None, "number {sequence} of session {session} is done for the second time");
        let result = self.apply(index, write);
        self.sessions.done(place, First { index, write: bytes, result });
        Came::To(result)
    }

    /// A leader ends only sessions that were not used for the timeout. Its clock may be a little too fast.
    fn check_expiry(&self, ended: &[EndedSession], now: Moment) {
        let ends = |ended: &&EndedSession| {
            let session = self.sessions.get(ended.session);
            ended.last_used != Index::MAX && session.is_some_and(|known| known.last_used <= ended.last_used)
        };
        for EndedSession { session, last_used } in ended.iter().filter(ends) {
            let used = self.committed(*last_used).map_or(0, |entry| entry.at);
            assert!(
                now - used >= self.session_timeout / 10 * 9,
                "session {session} ends {} s after entry {last_used} has used it",
                (now - used) as f64 / 1e9
            );
        }
    }

    /// What a session has said to one of its writes must be so from then on.
    pub(super) fn check_session_error(&self, id: SessionId, sequence: SequenceNumber, error: SessionError) {
        let session = self.sessions.get(id);
        let is_so = match error {
            SessionError::Expired => session.is_none(),
            SessionError::SequencePassed => session.is_none_or(|session| session.lowest > sequence),
            SessionError::SequenceReused => self.firsts.contains_key(&(id, sequence)),
            SessionError::SequenceBeyondWindow => false,
        };
        assert!(
            is_so,
            "number {sequence} of session {id} is refused ({error}), but the session is {session:?}"
        );
    }

    /// Whether the value of an operation was written.
    pub(super) fn has_changed(&self, operation: u64) -> bool {
        self.changed.contains(&operation)
    }

    fn apply(&mut self, index: Index, write: &Write<'_>) -> WriteResult {
        for (at, mutation) in (0..).zip(write.mutations()) {
            if let Mutation::Set { value, .. } | Mutation::CompareAndSet { value, .. } = mutation {
                let operation = operation_of(value);
                assert!(
                    self.done.insert(operation),
                    "operation {operation} is committed for the second time"
                );
                assert!(
                    !self.refused.contains(&operation),
                    "operation {operation} is committed, but was refused"
                );
            }
            let Mutation::CompareAndSet { key, expected, .. } = mutation else { continue };
            let revision = self.value(key, index).map(|(revision, _)| revision);
            let holds = match expected {
                Expected::Absent => revision.is_none(),
                Expected::Revision(wanted) => revision == Some(*wanted),
            };
            if !holds {
                return WriteResult::ConditionFailed { mutation: at, revision };
            }
        }
        let mut existed = 0;
        for mutation in write.mutations() {
            let is_there = self.value(mutation.key(), index).is_some();
            existed += u32::from(is_there);
            let value = match mutation {
                Mutation::Set { value, .. } | Mutation::CompareAndSet { value, .. } => Some(value.to_vec()),
                Mutation::Delete { .. } => None,
            };
            self.changed.extend(value.as_deref().map(operation_of));
            if is_there || value.is_some() {
                self.effects.push((index, mutation.key().to_vec(), value.clone()));
            }
            self.versions.entry(mutation.key().to_vec()).or_default().push((index, value));
        }
        WriteResult::Applied { existed }
    }

    /// A key's revision and value behind an entry.
    pub(super) fn value(&self, key: &[u8], index: Index) -> Option<(Index, &[u8])> {
        let versions = self.versions.get(key)?;
        let known = versions.partition_point(|(revision, _)| *revision <= index);
        let (revision, value) = versions.get(known.checked_sub(1)?)?;
        Some((*revision, value.as_deref()?))
    }

    /// What the entries behind `after` up to `through` did to keys.
    pub(super) fn effects(&self, after: Index, through: Index) -> impl Iterator<Item = Change<'_>> {
        let [first, end] = [after, through].map(|at| self.effects.partition_point(|effect| effect.0 <= at));
        self.effects[first..end].iter().map(|(index, key, value)| Change {
            index: *index,
            key,
            value: value.as_deref().map(NewValue),
        })
    }

    /// Compares a whole store, or a range's items, with the model behind an entry.
    pub(super) fn check_store<'a>(
        &self,
        index: Index,
        prefix: &[u8],
        items: impl Iterator<Item = Item<'a>>,
        what: &str,
    ) {
        let here = self.versions.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix));
        let wanted = here.filter_map(|(key, _)| Some((&**key, self.value(key, index)?)));
        let wanted = wanted.map(|(key, (revision, value))| (Text(key), (revision, Text(value))));
        let found = items.map(|item| (Text(item.key), (item.versioned.revision, Text(item.versioned.value))));
        let differs =
            wanted.map(Some).chain(std::iter::once(None)).zip(found.map(Some).chain(std::iter::once(None)));
        for (wanted, found) in differs {
            assert_eq!(found, wanted, "{what} is not what the entries up to {index} make of it");
        }
    }

    /// Compares the sessions of a store with the model behind an entry.
    pub(super) fn check_sessions(&self, index: Index, store: &Store, what: &str) {
        let wanted = self.committed(index).map_or(0, |entry| entry.sessions);
        assert_eq!(
            sessions::digest_of(store),
            wanted,
            "{what} has other sessions than the entries up to {index} make: {:?}",
            store.all_sessions()
        );
    }

    /// Compares what a read returned with the model behind its token.
    pub(super) fn check_read(&self, key: &[u8], token: Token, value: Option<Versioned<'_>>) {
        let wanted = self.value(key, token.index).map(|(revision, value)| (revision, Text(value)));
        let found = value.map(|value| (value.revision, Text(value.value)));
        let key = Text(key);
        assert_eq!(found, wanted, "a read of {key:?} that saw the entries up to {}", token.index);
        self.check_token(token);
    }

    pub(super) fn check_token(&self, token: Token) {
        assert!(token.index <= self.last(), "a read saw entry {}, which nobody has committed", token.index);
        assert_eq!(token.term, self.term(token.index), "the term of a token at entry {}", token.index);
    }

    /// An operation was refused: it must never happen.
    pub(super) fn refused(&mut self, operation: u64) {
        assert!(!self.done.contains(&operation), "operation {operation} was refused, but is committed");
        self.refused.insert(operation);
    }

    /// A node has given an entry to its log, behind one of another term (the log matching property).
    pub(super) fn made(&mut self, index: Index, (term, checksum): Mark, previous: Term) {
        if self.made.len() <= index as usize {
            self.made.resize_with(index as usize + 1, Vec::new);
        }
        let made = &mut self.made[index as usize];
        match made.iter().find(|(known, ..)| *known == term) {
            Some(known) => assert_eq!(
                *known,
                (term, checksum, previous),
                "entry {index} of term {term} is not the same everywhere"
            ),
            None => made.push((term, checksum, previous)),
        }
    }

    /// A node leads a term. Returns whether that is new.
    pub(super) fn leads(&mut self, term: Term, node: NodeId) -> bool {
        let known = self.leaders.insert(term, node);
        assert!(known.is_none_or(|known| known == node), "nodes {known:?} and {node} both lead term {term}");
        known.is_none()
    }

    pub(super) fn leader(&self, term: Term) -> Option<NodeId> {
        self.leaders.get(&term).copied()
    }

    /// A node has promised something.
    pub(super) fn promised(&mut self, member: Member, earlier: Promise, promise: Promise) {
        let node = member.node;
        assert!(promise.may_follow(&earlier), "node {node} promises {promise:?} after {earlier:?}");
        if let Some(candidate) = promise.voted_for {
            self.voted(member, promise.term, candidate);
        }
    }

    /// A node votes, across all lives with the same disk.
    pub(super) fn voted(&mut self, member: Member, term: Term, candidate: NodeId) {
        let (node, known) = (member.node, self.votes.insert((term, member), candidate));
        assert!(
            known.is_none_or(|known| known == candidate),
            "node {node} votes for {candidate} in term {term}, and has voted for {known:?}"
        );
    }

    /// From which entry on a disk votes and counts: 0 for one that the cluster was formed with; none before it is
    /// admitted.
    pub(super) fn admitted_by(&self, member: Member) -> Option<Index> {
        let admission = self.admissions.iter().find(|(_, admitted)| *admitted == member);
        let founder = founder(place_of(member.node));
        admission.map(|(index, _)| *index).or_else(|| (member.incarnation == founder).then_some(0))
    }

    /// The last entry that admits a disk; 0 if none does.
    pub(super) fn last_admission(&self) -> Index {
        self.admissions.last().map_or(0, |(index, _)| *index)
    }

    /// Which of a node's disks counts for an entry.
    pub(super) fn incarnation_at(&self, index: Index, node: NodeId) -> Incarnation {
        let admitted = self.admissions.iter().rev().filter(|(at, _)| *at <= index);
        let latest = admitted.map(|(_, member)| *member).find(|member| member.node == node);
        latest.map_or(founder(place_of(node)), |member| member.incarnation)
    }

    /// Who counts of those that were ever admitted.
    pub(super) fn members(&self) -> impl Iterator<Item = Member> {
        let nodes = self.admissions.iter().map(|(_, member)| member.node);
        nodes.map(|node| Member { node, incarnation: self.incarnation_at(Index::MAX, node) })
    }

    /// Nodes that have voted for a candidate, with a disk that counts.
    pub(super) fn voters(&self, term: Term, candidate: NodeId) -> NodeSet {
        let all = |node: u8| Member { node: node_id(node), incarnation: Incarnation(0) };
        let votes = self.votes.range((term, all(1))..(term + 1, all(1)));
        let votes = votes
            .filter(|((_, voter), voted_for)| **voted_for == candidate && self.admitted_by(*voter).is_some());
        votes.map(|((_, voter), _)| voter.node).collect()
    }

    /// A node stands, with a log that ends there.
    pub(super) fn stands(&mut self, term: Term, node: NodeId, last: (Term, Index)) {
        self.stands.insert((term, node), last);
    }

    /// Where the log of a node ends that stands in a term.
    pub(super) fn log_of_candidate(&self, term: Term, node: NodeId) -> Option<(Term, Index)> {
        self.stands.get(&(term, node)).copied()
    }

    /// A checkpoint was written: all of one index are the same.
    pub(super) fn checkpoint(&mut self, place: Place, index: Index, hash: [u8; 32]) {
        let known = *self.checkpoints.entry(index).or_insert(hash);
        assert_eq!(known, hash, "the checkpoint of node {} at entry {index} is another one", place + 1);
    }
}
