//! Writes in a session, against servers that lose connections, answers and sessions.

mod fake;

use std::thread;
use std::time::Duration;

use fake::{Fake, not_leader, written};
use futures_lite::future::{block_on, zip};
use quorate_client::{Acks, Client, Error, Refusal, SessionError, Unknown, Why};
use quorate_protocol::request::{Operation, SessionSequence};
use quorate_protocol::response::Outcome;

fn client(servers: &[&Fake]) -> Client {
    let addresses = servers.iter().map(|server| &server.address);
    Client::builder().servers(addresses).deadline(Duration::from_secs(10)).connect().unwrap()
}

fn place(session: u64, sequence: u64, lowest_open: u64) -> Option<SessionSequence> {
    Some(SessionSequence { session, sequence, lowest_open })
}

fn expired() -> Outcome<'static> {
    Outcome::Refused(SessionError::Expired.into())
}

#[test]
fn a_write_whose_connection_dies_is_sent_again_under_its_number() {
    let server = Fake::start();
    let client = client(&[&server]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        peer.open_session(9);
        assert_eq!(peer.write().1, place(9, 1, 1));
        peer.close();
        let mut peer = server.peer();
        let (id, again) = peer.write();
        assert_eq!(again, place(9, 1, 1));
        peer.answer(id, written(20));
        let (id, next) = peer.write();
        assert_eq!(next, place(9, 2, 2), "the first has ended");
        peer.answer(id, written(21));
    });
    assert_eq!(block_on(client.set("a", "1")).unwrap().revision(), 20);
    assert_eq!(block_on(client.set("b", "2")).unwrap().revision(), 21);
    script.join().unwrap();
}

#[test]
fn a_write_goes_on_at_the_next_leader() {
    let (first, second) = (Fake::start(), Fake::start());
    let client = client(&[&first, &second]);
    let script = thread::spawn(move || {
        let mut old = first.peer();
        old.open_session(9);
        assert_eq!(old.write().1, place(9, 1, 1));
        old.close();
        // It is not yet the leader when it is asked first.
        let mut new = second.peer();
        let (id, _) = new.write();
        new.answer(id, not_leader(None));
        // The one that is lost is not asked again so soon.
        let (id, again) = new.write();
        assert_eq!(again, place(9, 1, 1));
        new.answer(id, written(20));
    });
    assert_eq!(block_on(client.set("a", "1")).unwrap().revision(), 20);
    script.join().unwrap();
}

#[test]
fn writes_made_together_share_one_session() {
    let server = Fake::start();
    let client = client(&[&server]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        peer.open_session(9);
        let mut writes = [peer.write(), peer.write()];
        writes.sort_by_key(|(_, place)| place.map(|place| place.sequence));
        assert_eq!(writes.map(|(_, place)| place), [place(9, 1, 1), place(9, 2, 1)]);
        writes.into_iter().for_each(|(id, _)| peer.answer(id, written(20)));
    });
    let (first, second) = block_on(zip(client.set("a", "1"), client.set("b", "2")));
    first.and(second).unwrap();
    script.join().unwrap();
}

#[test]
fn a_write_that_was_not_done_goes_on_in_another_session_when_its_own_has_expired() {
    let server = Fake::start();
    let client = client(&[&server]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        peer.open_session(9);
        let (id, _) = peer.write();
        peer.answer(id, expired());
        peer.open_session(30);
        let (id, anew) = peer.write();
        assert_eq!(anew, place(30, 1, 1));
        peer.answer(id, written(31));
    });
    assert_eq!(block_on(client.set("a", "1")).unwrap().revision(), 31);
    script.join().unwrap();
}

#[test]
fn a_write_that_may_have_been_done_is_unknown_when_its_session_has_expired() {
    let server = Fake::start();
    let client = client(&[&server]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        peer.open_session(9);
        peer.write();
        peer.close();
        let mut peer = server.peer();
        let (id, _) = peer.write();
        peer.answer(id, expired());
    });
    let error = block_on(client.set("a", "1")).unwrap_err();
    let why = Why::Session(SessionError::Expired);
    assert_eq!(error, Error::OutcomeUnknown(Unknown { why, appended: None }));
    script.join().unwrap();
}

#[test]
fn a_write_that_may_have_been_done_is_never_told_as_refused() {
    let server = Fake::start();
    let client = client(&[&server]).with_deadline(Duration::from_millis(300));
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        peer.open_session(9);
        peer.write();
        peer.close();
        let mut peer = server.peer();
        while let Some(body) = peer.frame() {
            let id = quorate_protocol::parse::<quorate_protocol::request::Request<'_>>(&body).unwrap().id;
            peer.answer(id, Outcome::Refused(Refusal::NoQuorum { have: 1, need: 2 }));
        }
    });
    let error = block_on(client.set("a", "1")).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(Unknown { why: Why::ConnectionLost(_), .. })), "{error}");
    drop(client);
    script.join().unwrap();
}

#[test]
fn a_session_that_cannot_be_opened_is_the_writes_error() {
    let server = Fake::start();
    let client = client(&[&server]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        for _ in 0..2 {
            let (id, ()) = peer.request(|operation| assert_eq!(operation, &Operation::OpenSession));
            peer.answer(id, Outcome::Refused(Refusal::NoQuorum { have: 1, need: 2 }));
        }
        // The next write tries again.
        peer.open_session(9);
        let (id, _) = peer.write();
        peer.answer(id, written(20));
    });
    assert_eq!(block_on(client.set("a", "1")), Err(Error::Refused(Refusal::NoQuorum { have: 1, need: 2 })));
    block_on(client.set("a", "1")).unwrap();
    script.join().unwrap();
}

#[test]
fn a_write_that_waits_for_copies_is_in_a_session_of_its_own() {
    let server = Fake::start();
    let client = client(&[&server]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        peer.open_session(9);
        let (id, _) = peer.write();
        peer.answer(id, written(20));
        peer.open_session(21);
        let (id, slow) = peer.write();
        assert_eq!(slow, place(21, 1, 1), "however long it takes, it holds up none of the other session");
        peer.answer(id, written(22));
    });
    block_on(client.set("a", "1")).unwrap();
    block_on(client.set("b", "2").acks(Acks::All)).unwrap();
    script.join().unwrap();
}

#[test]
fn closing_ends_the_session() {
    let server = Fake::start();
    let client = client(&[&server]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        peer.open_session(9);
        let (id, _) = peer.write();
        peer.answer(id, written(20));
        let ended = Operation::CloseSession { session: 9 };
        let (id, ()) = peer.request(|operation| assert_eq!(operation, &ended));
        peer.answer(id, written(21));
        assert_eq!(peer.frame(), None, "the connection ends");
    });
    block_on(client.set("a", "1")).unwrap();
    block_on(client.close());
    assert_eq!(block_on(client.set("a", "1")), Err(Error::Closed));
    script.join().unwrap();
}
