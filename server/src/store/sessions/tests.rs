use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_protocol::entry::{Payload, encode};
use quorate_protocol::request::{Mutation, Write};

use super::*;
use crate::store::{Applied, Store};

const ONE: WriteResult = WriteResult::Applied { existed: 0 };

fn apply(store: &mut Store, index: Index, payload: &Payload<'_>) -> Applied {
    let mut bytes = Vec::new();
    encode(1, index, payload, &mut bytes);
    store.apply_entry(&quorate_protocol::entry::Entry::parse(&bytes).unwrap()).unwrap()
}

fn at(session: SessionId, sequence: SequenceNumber, lowest_open: SequenceNumber) -> SessionSequence {
    SessionSequence { session, sequence, lowest_open }
}

fn set(value: &str) -> Write<'_> {
    Write::One(Mutation::Set { key: b"key", value: value.as_bytes() })
}

/// A store, entry by entry.
#[derive(Default)]
struct Log {
    store: Store,
    index: Index,
}

impl Log {
    fn apply(&mut self, payload: &Payload<'_>) -> Applied {
        self.index += 1;
        apply(&mut self.store, self.index, payload)
    }

    fn open(&mut self) -> SessionId {
        assert_eq!(self.apply(&Payload::OpenSession), Applied::Written(ONE));
        self.index
    }

    fn write(&mut self, at: SessionSequence, value: &str) -> Applied {
        self.apply(&Payload::Write { session: Some(at), write: set(value) })
    }

    fn write_all(&mut self, session: SessionId, sequences: std::ops::Range<SequenceNumber>) {
        for sequence in sequences {
            assert!(matches!(self.write(at(session, sequence, 0), "value"), Applied::Written(_)));
        }
    }

    fn end(&mut self, session: SessionId, last_used: Index) -> u32 {
        match self.apply(&Payload::EndSessions(vec![EndedSession { session, last_used }])) {
            Applied::Written(WriteResult::Applied { existed }) => existed,
            other => panic!("{other:?}"),
        }
    }

    fn revision(&self) -> Index {
        self.store.get(b"key").map_or(0, |found| found.revision)
    }
}

#[test]
fn a_write_that_is_sent_again_is_not_done_again_and_has_the_first_result() {
    let mut log = Log::default();
    let session = log.open();
    assert_eq!(log.write(at(session, 1, 1), "one"), Applied::Written(ONE));
    let (first, other) = (log.index, WriteResult::Applied { existed: 1 });
    assert_eq!(log.write(at(session, 2, 1), "two"), Applied::Written(other));
    let done = match log.write(at(session, 1, 1), "one") {
        Applied::Repeated(done) => done,
        other => panic!("{other:?}"),
    };
    assert_eq!((done.index, done.result), (first, ONE));
    assert_eq!(log.revision(), first + 1, "the second write stands");
}

#[test]
fn a_condition_that_did_not_hold_is_not_looked_at_again() {
    let mut log = Log::default();
    let session = log.open();
    let expected = quorate_protocol::request::Expected::Revision(7);
    let cas = Write::One(Mutation::CompareAndSet { key: b"key", expected, value: b"new" });
    let write = Payload::Write { session: Some(at(session, 1, 1)), write: cas };
    let failed = WriteResult::ConditionFailed { mutation: 0, revision: None };
    assert_eq!(log.apply(&write), Applied::Written(failed));
    log.index = 6;
    log.apply(&Payload::Write { session: None, write: set("now it would hold") });
    assert!(matches!(log.apply(&write), Applied::Repeated(done) if done.result == failed));
    assert_eq!(log.revision(), 7);
}

#[test]
fn whatever_a_session_refuses_is_not_done() {
    let mut log = Log::default();
    let session = log.open();
    log.write(at(session, 5, 3), "five");
    let last = log.index;
    let window = limits::SESSION_WINDOW;
    let refused = [
        (at(99, 1, 1), SessionError::Expired),
        (at(session, 5, 3), SessionError::SequenceReused),
        (at(session, 2, 1), SessionError::SequencePassed),
        (at(session, 3 + window, 3), SessionError::SequenceBeyondWindow),
        (at(session, 9 + window, 9), SessionError::SequenceBeyondWindow),
    ];
    for (at, error) in refused {
        assert_eq!(log.write(at, "another"), Applied::Refused(error), "{at:?}");
    }
    assert_eq!(log.revision(), last);
    assert_eq!(log.write(at(session, 8 + window, 9), "the last of the window"), Applied::Written(ONE_MORE));
}

const ONE_MORE: WriteResult = WriteResult::Applied { existed: 1 };

#[test]
fn results_below_the_lowest_open_number_are_forgotten_and_it_never_goes_back() {
    let mut log = Log::default();
    let session = log.open();
    log.write_all(session, 1..11);
    assert_eq!(log.store.session_results(), 10);
    log.write(at(session, 11, 9), "value");
    assert_eq!(log.store.session_results(), 3);
    assert_eq!(log.write(at(session, 8, 1), "value"), Applied::Refused(SessionError::SequencePassed));
    assert!(matches!(log.write(at(session, 9, 1), "value"), Applied::Repeated(_)));
}

#[test]
fn writes_that_come_out_of_order_are_done_and_known() {
    let mut log = Log::default();
    let session = log.open();
    for sequence in [3, 1, 4, 2] {
        assert!(matches!(log.write(at(session, sequence, 1), "value"), Applied::Written(_)));
    }
    for sequence in 1..=4 {
        assert!(matches!(log.write(at(session, sequence, 1), "value"), Applied::Repeated(_)));
    }
}

#[test]
fn an_ended_session_knows_nothing_and_does_nothing() {
    let mut log = Log::default();
    let session = log.open();
    log.write(at(session, 1, 1), "value");
    assert_eq!(log.end(session, Index::MAX), 1);
    assert_eq!(log.end(session, Index::MAX), 0, "it is not there any more");
    let last = log.revision();
    assert_eq!(log.write(at(session, 1, 1), "value"), Applied::Refused(SessionError::Expired));
    assert_eq!(log.write(at(session, 2, 1), "value"), Applied::Refused(SessionError::Expired));
    assert_eq!(log.revision(), last);
    assert_eq!((log.store.sessions(), log.store.session_results()), (0, 0));
}

#[test]
fn a_session_that_was_used_meanwhile_does_not_expire() {
    let mut log = Log::default();
    let (one, other) = (log.open(), log.open());
    let unused = log.store.unused_sessions(other, 10);
    assert_eq!(unused.iter().map(|ended| ended.session).collect::<Vec<_>>(), [one, other]);
    log.write(at(one, 1, 1), "value");
    assert_eq!(log.apply(&Payload::EndSessions(unused)), Applied::Written(ONE_MORE));
    assert!(matches!(log.write(at(one, 1, 1), "value"), Applied::Repeated(_)));
    assert_eq!(log.write(at(other, 1, 1), "value"), Applied::Refused(SessionError::Expired));
    assert_eq!(log.store.unused_sessions(log.index - 2, 10), []);
}

#[test]
fn one_session_too_many_ends_the_one_that_was_not_used_for_the_longest_time() {
    let mut log = Log::default();
    let first = log.open();
    for _ in 1..limits::SESSIONS_MAX {
        log.open();
    }
    log.write(at(first, 1, 1), "value");
    let newest = log.open();
    assert_eq!(log.store.sessions(), limits::SESSIONS_MAX as u64);
    assert!(matches!(log.write(at(first, 1, 1), "value"), Applied::Repeated(_)));
    assert_eq!(log.write(at(first + 1, 1, 1), "value"), Applied::Refused(SessionError::Expired));
    assert!(matches!(log.write(at(newest, 1, 1), "value"), Applied::Written(_)));
}

#[test]
fn what_is_known_without_an_entry_is_what_an_entry_would_say() {
    let mut log = Log::default();
    let (session, closed) = (log.open(), log.open());
    log.write(at(session, 1, 1), "one");
    log.write(at(session, 5, 4), "five");
    log.end(closed, Index::MAX);
    let known = |at, value| log.store.known(&at, &set(value)).map(|known| known.map(|done| done.index));
    assert_eq!(known(at(session, 5, 4), "five"), Some(Ok(4)));
    assert_eq!(known(at(session, 5, 4), "other"), Some(Err(SessionError::SequenceReused)));
    assert_eq!(known(at(session, 1, 1), "one"), Some(Err(SessionError::SequencePassed)));
    assert_eq!(known(at(closed, 1, 1), "one"), Some(Err(SessionError::Expired)));
    assert_eq!(known(at(session, 4, 4), "new"), None);
    assert_eq!(
        known(at(session, 4 + limits::SESSION_WINDOW, 4), "far"),
        None,
        "an entry before may raise it"
    );
    assert_eq!(known(at(6, 1, 1), "one"), None, "it may have been opened where this store is not yet");
}

/// By their numbers: which entry, and what it wrote.
type Results = BTreeMap<SequenceNumber, (Index, u8)>;

/// What sessions are, as plainly as can be: the last entry that used each, its lowest open number, its results.
#[derive(Default, Clone)]
struct Model(BTreeMap<SessionId, (Index, SequenceNumber, Results)>);

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Said {
    Done,
    Before(Index),
    Refused(SessionError),
}

impl Model {
    fn write(&mut self, index: Index, at: SessionSequence, value: u8) -> Said {
        let Some((last_used, lowest, results)) = self.0.get_mut(&at.session) else {
            return Said::Refused(SessionError::Expired);
        };
        *last_used = index;
        *lowest = at.lowest_open.max(*lowest);
        let floor = *lowest;
        results.retain(|sequence, _| *sequence >= floor);
        if at.sequence < floor {
            return Said::Refused(SessionError::SequencePassed);
        }
        if at.sequence >= floor + limits::SESSION_WINDOW {
            return Said::Refused(SessionError::SequenceBeyondWindow);
        }
        match results.get(&at.sequence) {
            Some((first, known)) if *known == value => Said::Before(*first),
            Some(_) => Said::Refused(SessionError::SequenceReused),
            None => {
                results.insert(at.sequence, (index, value));
                Said::Done
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Step {
    Open,
    Write { session: usize, sequence: u64, lowest: u64, value: u8 },
    Close(usize),
    Expire(u64),
    BeginSnapshot,
    ReadSnapshot(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let sequence = prop_oneof![9 => 0u64..40, 1 => limits::SESSION_WINDOW - 3..limits::SESSION_WINDOW + 40];
    let write = (0usize..6, sequence, 0u64..40, 0u8..3)
        .prop_map(|(session, sequence, lowest, value)| Step::Write { session, sequence, lowest, value });
    prop::collection::vec(
        prop_oneof![
            2 => Just(Step::Open),
            20 => write,
            1 => (0usize..6).prop_map(Step::Close),
            1 => (0u64..20).prop_map(Step::Expire),
            1 => Just(Step::BeginSnapshot),
            3 => (0usize..4).prop_map(Step::ReadSnapshot),
        ],
        0..200,
    )
}

type Everything = BTreeMap<SessionId, Session>;

fn everything(store: &Store) -> Everything {
    store.all_sessions().into_iter().map(|(id, session)| (id, session.clone())).collect()
}

fn assert_is_model(store: &Store, model: &Model) {
    let found = everything(store);
    assert_eq!(found.keys().collect::<Vec<_>>(), model.0.keys().collect::<Vec<_>>());
    for (session, (last_used, lowest, results)) in found.values().zip(model.0.values()) {
        assert_eq!((session.last_used, session.lowest), (*last_used, *lowest));
        let found: Vec<_> = session.results().map(|done| (done.sequence, done.index)).collect();
        assert_eq!(found, results.iter().map(|(at, (index, _))| (*at, *index)).collect::<Vec<_>>());
    }
    let results = model.0.values().map(|(.., results)| results.len() as u64).sum::<u64>();
    assert_eq!((store.sessions(), store.session_results()), (found.len() as u64, results));
}

/// What the sessions take, from scratch.
fn counted(sessions: &Sessions) -> u64 {
    let each = sessions.table.values().map(Session::bytes).sum::<u64>();
    let aside = sessions.snapshot.as_ref().map_or(0, |snapshot| {
        let alone = snapshot.rest.iter().filter(|(_, session)| !session.is_shared());
        alone.map(|(_, session)| session.bytes()).sum::<u64>()
            + allocation(snapshot.rest.capacity() * size_of::<(SessionId, Session)>())
    });
    let room = sessions.table.len().max(sessions.room) as u64;
    each + aside + table_bytes(room, SLOT_BYTES)
}

proptest! {
    #[test]
    fn sessions_are_what_a_plain_model_says_and_snapshots_and_memory_are_true(steps in steps()) {
        let (mut log, mut model) = (Log::default(), Model::default());
        let mut ids = vec![77];
        let mut snapshot: Option<(Everything, Everything)> = None;
        for step in steps {
            let id = |at: usize| ids[ids.len() - 1 - at % ids.len()];
            match step {
                Step::Open => {
                    let id = log.open();
                    model.0.insert(id, (id, 0, BTreeMap::new()));
                    ids.push(id);
                }
                Step::Write { session, sequence, lowest, value } => {
                    let place = at(id(session), sequence, lowest);
                    let known = log.store.known(&place, &set(&value.to_string()));
                    let said = match log.write(place, &value.to_string()) {
                        Applied::Written(_) => Said::Done,
                        Applied::Repeated(done) => Said::Before(done.index),
                        Applied::Refused(error) => Said::Refused(error),
                        other => panic!("{other:?}"),
                    };
                    prop_assert_eq!(said, model.write(log.index, place, value));
                    let known = known.map(|known| known.map_or_else(Said::Refused, |done| Said::Before(done.index)));
                    // The entry may have said more of what its client waits for.
                    let is_same = known.is_none_or(|known| known == said);
                    prop_assert!(is_same || said == Said::Refused(SessionError::SequencePassed), "{:?}", known);
                }
                Step::Close(session) => {
                    let id = id(session);
                    prop_assert_eq!(log.end(id, Index::MAX), u32::from(model.0.remove(&id).is_some()));
                }
                Step::Expire(ago) => {
                    let unused = log.store.unused_sessions(log.index.saturating_sub(ago), 2);
                    log.apply(&Payload::EndSessions(unused.clone()));
                    unused.iter().for_each(|ended| drop(model.0.remove(&ended.session)));
                }
                Step::BeginSnapshot => {
                    log.store.begin_snapshot();
                    snapshot = Some((everything(&log.store), Everything::new()));
                }
                Step::ReadSnapshot(count) => {
                    let Some((_, read)) = &mut snapshot else { continue };
                    let until = read.len() + count;
                    while read.len() < until
                        && log.store.read_snapshot_sessions(|id, session| {
                            read.insert(id, session.clone());
                            false
                        })
                    {}
                }
            }
            assert_is_model(&log.store, &model);
            // What the test itself keeps of a snapshot would count as shared.
            if snapshot.is_none() {
                prop_assert_eq!(log.store.sessions.memory_bytes_with(0), counted(&log.store.sessions));
            }
        }
        if let Some((began, mut read)) = snapshot {
            while log.store.read_snapshot_sessions(|id, session| {
                read.insert(id, session.clone());
                true
            }) {}
            prop_assert_eq!(read, began);
        }
    }
}

#[test]
fn what_a_snapshot_shares_counts_twice_only_when_it_has_changed() {
    let mut log = Log::default();
    let sessions: Vec<_> = (0..4).map(|_| log.open()).collect();
    for session in &sessions {
        log.write_all(*session, 0..100);
    }
    let before = log.store.sessions.memory_bytes_with(0);
    log.store.begin_snapshot();
    let list = log.store.sessions.memory_bytes_with(0) - before;
    assert!(list <= 4 * 64, "it costs {list} bytes to begin");
    let taken = |log: &Log| {
        let bytes = log.store.sessions.memory_bytes_with(0);
        assert_eq!(bytes, counted(&log.store.sessions));
        bytes
    };
    log.write(at(sessions[1], 100, 0), "value");
    let copied = taken(&log);
    assert!(copied > before + list + 4800, "{copied} after {before}");
    log.end(sessions[2], Index::MAX);
    assert_eq!(taken(&log), copied, "the snapshot has it");
    let mut read = Vec::new();
    while log.store.read_snapshot_sessions(|id, session| {
        read.push((id, session.results().len()));
        read.len() < 3
    }) {
        taken(&log);
    }
    assert_eq!(read, sessions.iter().map(|id| (*id, 100)).collect::<Vec<_>>());
    taken(&log);
    log.store.end_snapshot();
    assert!(taken(&log) < before);
}

#[test]
fn a_session_gives_back_the_memory_of_results_that_are_forgotten() {
    let mut log = Log::default();
    let session = log.open();
    log.write(at(session, 0, 0), "value");
    let before = log.store.memory_bytes();
    log.write_all(session, 1..10_000);
    assert!(log.store.memory_bytes() > before + 10_000 * size_of::<Done>() as u64);
    log.write(at(session, 10_000, 10_000), "value");
    assert_eq!(log.store.memory_bytes(), before);
}

#[test]
fn growth_is_no_less_than_what_sessions_and_results_take() {
    use crate::store::Growth;
    let mut log = Log::default();
    let mut growth = Growth::default();
    for step in 0..3000_u64 {
        if step % 10 == 0 {
            growth = growth.and(Growth::of_session());
            log.open();
        } else {
            growth = growth.and(Growth::of_result());
            let session = log.store.all_sessions().into_keys().nth(step as usize % 7);
            log.write(at(session.unwrap_or(1), step, 0), "v");
        }
        let key = Growth::of(b"key", b"v");
        assert!(
            log.store.memory_bytes() <= Store::default().memory_bytes_with(growth.and(key)),
            "step {step}"
        );
    }
}
