//! Sessions of clients, as a node keeps them (R24, R25).

use quorate_protocol::response::SessionError;

use super::*;

const TIMEOUT: Duration = Duration::from_secs(16);

fn open_session(world: &mut World, node: u8) -> Index {
    world.ask(node, Operation::OpenSession).receipt().index
}

/// A write of a session, of which the client waits for everything from the first on.
fn write_in<'a>(session: Index, sequence: u64, value: &'a str) -> Operation<'a> {
    let options = WriteOptions {
        session: Some(SessionSequence { session, sequence, lowest_open: 1 }),
        ..WriteOptions::default()
    };
    Operation::Write { options, write: Write::One(Mutation::Set { key: b"key", value: value.as_bytes() }) }
}

fn written(answer: &Answer) -> (Token, WriteResult) {
    match answer.outcome() {
        Outcome::Written { receipt, result } => (Token { term: receipt.term, index: receipt.index }, result),
        other => panic!("{other:?}"),
    }
}

fn session_error(answer: &Answer) -> SessionError {
    match answer.refusal() {
        Refusal::Session(error) => error,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_write_that_is_sent_again_is_answered_at_once_with_its_first_result() {
    let mut world = World::formed(3, 2);
    let session = open_session(&mut world, 1);
    let first = written(&world.ask(1, write_in(session, 1, "one")));
    let last = world.status(1).status().last;
    assert_eq!(written(&world.ask_without_rest(1, write_in(session, 1, "one"))), first);
    let reused = world.ask_without_rest(1, write_in(session, 1, "other"));
    assert_eq!(session_error(&reused), SessionError::SequenceReused);
    let expired = world.ask_without_rest(1, write_in(session - 1, 1, "one"));
    assert_eq!(session_error(&expired), SessionError::Expired);
    assert_eq!(world.status(1).status().last, last, "nothing is appended");
    let status = world.status(1);
    assert_eq!((status.status().sessions, status.status().session_results), (1, 1));
}

#[test]
fn a_write_that_is_sent_again_before_the_first_is_committed_is_done_once_and_both_are_answered() {
    let mut world = World::formed(3, 2);
    let session = open_session(&mut world, 1);
    for (id, value) in [(1, "one"), (2, "one"), (3, "other"), (4, "one")] {
        world.request(1, 7, id, write_in(session, 1, value));
    }
    world.settle();
    let answers = world.answers(1);
    assert_eq!(answers.iter().map(Answer::id).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let first = written(&answers[0]);
    assert_eq!((written(&answers[1]), written(&answers[3])), (first, first));
    assert_eq!(session_error(&answers[2]), SessionError::SequenceReused);
    let (_, value) = value(&world.ask(1, get(Consistency::Linearizable, "key")));
    assert_eq!(value, Some((first.0.index, "one".to_owned())));
}

#[test]
fn a_write_that_is_sent_again_and_wants_more_copies_waits_for_them() {
    let mut world = World::formed(3, 2);
    let session = open_session(&mut world, 1);
    world.isolate(3);
    let first = written(&world.ask(1, write_in(session, 1, "one")));
    let all = |value| match write_in(session, 1, value) {
        Operation::Write { options, write } => {
            Operation::Write { options: WriteOptions { acks: Acks::All, ..options }, write }
        }
        _ => unreachable!(),
    };
    world.request(1, 7, 1, all("one"));
    world.request(1, 7, 2, all("other"));
    world.settle();
    let refused = world.answers(1);
    assert_eq!(refused.iter().map(session_error).collect::<Vec<_>>(), [SessionError::SequenceReused]);
    world.meet(1, 3).unwrap();
    world.meet(3, 1).unwrap();
    world.advance(HEARTBEAT);
    world.settle();
    let answers = world.answers(1);
    assert_eq!(answers.iter().map(written).collect::<Vec<_>>(), [first]);
    assert_eq!(answers[0].receipt().holders.len(), 3);
    let at_once = world.ask_without_rest(1, all("one"));
    assert_eq!((written(&at_once), at_once.receipt().holders.len()), (first, 3));
}

#[test]
fn another_leader_knows_what_was_done_and_answers_with_the_term_of_then() {
    let (mut world, leader) = World::elected(3, 2);
    let session = open_session(&mut world, leader);
    let first = written(&world.ask(leader, write_in(session, 1, "one")));
    world.isolate(leader);
    for _ in 0..100 {
        world.advance(HEARTBEAT);
        world.settle();
    }
    let heir = world.wait_for_leader();
    assert_ne!(heir, leader);
    assert_eq!(written(&world.ask(heir, write_in(session, 1, "one"))), first);
    let other = written(&world.ask(heir, write_in(session, 2, "two")));
    assert!(other.0.term > first.0.term && other.0.index > first.0.index, "{other:?} after {first:?}");
}

#[test]
fn a_restart_knows_sessions_and_results_from_the_log_and_from_the_checkpoint() {
    let mut world = super::disks::checkpointing(5000);
    let session = open_session(&mut world, 1);
    let first = written(&world.ask(1, write_in(session, 1, "one")));
    world.restart(2);
    world.meet_all();
    world.settle();
    let known = |world: &mut World, id: u8| {
        let status = world.status(id);
        (status.status().sessions, status.status().session_results)
    };
    super::disks::write_some(&mut world, 7);
    assert_eq!(known(&mut world, 2), (1, 1));
    for id in world.ids() {
        let header = world.machine(id).checkpoints.pop().expect("a checkpoint was due");
        super::disks::take_checkpoint(&mut world, id, &header);
        world.restart(id);
    }
    world.meet_all();
    world.settle();
    world.advance(HEARTBEAT);
    world.settle();
    assert_eq!(known(&mut world, 1), (1, 1));
    assert_eq!(written(&world.ask(1, write_in(session, 1, "one"))), first);
}

#[test]
fn a_closed_session_is_gone_and_closing_it_again_is_no_error() {
    let mut world = World::formed(3, 2);
    let session = open_session(&mut world, 1);
    world.ask(1, write_in(session, 1, "one"));
    for existed in [1, 0] {
        let closed = world.ask(1, Operation::CloseSession { session });
        assert_eq!(written(&closed).1, WriteResult::Applied { existed });
    }
    let again = world.ask(1, write_in(session, 1, "one"));
    assert_eq!(session_error(&again), SessionError::Expired);
    assert_eq!(world.status(2).status().sessions, 0);
}

#[test]
fn only_the_leader_opens_closes_and_answers_for_sessions() {
    let mut world = World::formed(3, 2);
    let session = open_session(&mut world, 1);
    world.ask(1, write_in(session, 1, "one"));
    for operation in
        [Operation::OpenSession, Operation::CloseSession { session }, write_in(session, 1, "one")]
    {
        assert!(matches!(world.ask(2, operation).refusal(), Refusal::NotLeader { .. }));
    }
}

fn with_timeout() -> World {
    World::with(3, 2, |settings| settings.session_timeout = TIMEOUT).form()
}

/// Lets time pass, tick by tick.
fn wait(world: &mut World, time: Duration) {
    let until = world.now + time;
    while world.now < until {
        world.advance(HEARTBEAT);
        world.settle();
    }
}

#[test]
fn a_session_that_is_not_used_ends_on_all_replicas_and_one_that_is_used_stays() {
    let mut world = with_timeout();
    let (idle, used) = (open_session(&mut world, 1), open_session(&mut world, 1));
    for sequence in 1..=3 {
        wait(&mut world, TIMEOUT / 2);
        world.ask(1, write_in(used, sequence, "value"));
    }
    assert_eq!(session_error(&world.ask(1, write_in(idle, 1, "one"))), SessionError::Expired);
    wait(&mut world, HEARTBEAT);
    for id in world.ids() {
        let known: Vec<_> = world.machine(id).node.store.all_sessions().into_keys().collect();
        assert_eq!(known, [used]);
    }
    let last = world.status(1).status().last;
    wait(&mut world, TIMEOUT / 2);
    assert_eq!(world.status(1).status().last, last, "nothing is appended while nothing has expired");
}

#[test]
fn a_use_that_is_under_way_keeps_a_session_that_is_about_to_end() {
    let mut world = World::with(3, 2, |settings| settings.session_timeout = 16 * HEARTBEAT).form();
    let session = open_session(&mut world, 1);
    wait(&mut world, 15 * HEARTBEAT);
    let last = world.status(1).status().last;
    world.request(1, 7, 2, write_in(session, 1, "value"));
    for _ in 0..4 {
        world.now += HEARTBEAT;
        world.event(1, Event::Tick);
    }
    assert_eq!(world.status_without_rest(1).status().last, last + 2, "the write, and the end");
    world.settle();
    assert_eq!(written(&world.answers(1)[0]).0.index, last + 1);
    assert_eq!(world.status(1).status().commit, last + 2);
    assert_eq!(world.status(1).status().sessions, 1, "it was used before its end was applied");
    wait(&mut world, 18 * HEARTBEAT);
    assert_eq!(world.status(1).status().sessions, 0);
}

#[test]
fn a_write_that_is_answered_before_it_is_committed_waits_while_its_session_may_be_ending() {
    let mut world = World::with(3, 2, |settings| settings.session_timeout = 16 * HEARTBEAT).form();
    let session = open_session(&mut world, 1);
    wait(&mut world, 15 * HEARTBEAT);
    let last = world.status(1).status().last;
    while world.status_without_rest(1).status().last == last {
        world.now += HEARTBEAT;
        world.event(1, Event::Tick);
    }
    let at_one_copy = || {
        let Operation::Write { options, write } = write_in(session, 1, "one") else { unreachable!() };
        Operation::Write { options: WriteOptions { acks: Acks::Copies(1), ..options }, write }
    };
    let refused = world.ask_without_rest(1, at_one_copy());
    assert!(matches!(refused.refusal(), Refusal::NotReady(_)), "its end is in the log, and not applied");
    world.settle();
    assert_eq!(session_error(&world.ask(1, at_one_copy())), SessionError::Expired);
}

#[test]
fn while_nothing_can_be_written_nothing_expires() {
    let mut world = with_timeout();
    let session = open_session(&mut world, 1);
    world.isolate(2);
    world.isolate(3);
    wait(&mut world, 2 * TIMEOUT);
    world.meet_all();
    wait(&mut world, TIMEOUT / 2);
    written(&world.ask(1, write_in(session, 1, "one")));
}
