//! Scans, watches and progress: answers that come in more than one piece.

mod fake;

use std::collections::HashSet;
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use async_io::Timer;
use fake::{Fake, Peer, node};
use futures_lite::future::{block_on, or, poll_once};
use quorate_client::blocking::iter;
use quorate_client::{
    Acks, Appended, Client, Consistency, Error, ErrorKind, Range, RangeEnd, Receipt, Refusal, SessionToken,
    Unknown, Watch, WhenFull, WriteResult, prefix,
};
use quorate_protocol::request::{self, InvalidRequest, Operation, Request, Token};
use quorate_protocol::response::{Change, NewValue, Outcome};
use quorate_protocol::{Durability, limits, parse};

fn client(server: &Fake) -> Client {
    let builder = Client::builder().servers([&server.address]).deadline(Duration::from_secs(10));
    builder.exactly_once(false).connect().unwrap()
}

fn token(index: u64) -> Token {
    Token { term: 3, index }
}

fn changes(through: u64, keys: &[(u64, &'static str)]) -> Outcome<'static> {
    let change = |(index, key): &(u64, &'static str)| Change {
        index: *index,
        key: key.as_bytes(),
        value: Some(NewValue(b"v")),
    };
    Outcome::Changes { through: token(through), changes: keys.iter().map(change).collect() }
}

/// The next request, which must be a watch; behind what.
fn watch(peer: &mut Peer) -> (u64, Option<u64>) {
    peer.request(|operation| match operation {
        Operation::Watch { after, .. } => after.map(|after| after.index),
        other => panic!("{other:?} is no watch"),
    })
}

#[test]
fn a_watch_goes_on_behind_what_it_has_handed_out_when_its_server_is_lost() {
    let server = Fake::start();
    let client = client(&server);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let (id, after) = watch(&mut peer);
        assert_eq!(after, None);
        peer.answer(id, changes(10, &[]));
        peer.answer(id, changes(12, &[(11, "a"), (12, "b")]));
        peer.close();
        let mut peer = server.peer();
        let (id, after) = watch(&mut peer);
        assert_eq!(after, Some(12));
        peer.answer(id, changes(12, &[]));
        peer.answer(id, changes(13, &[(13, "c")]));
        assert!(peer.frame().is_some(), "it is cancelled");
    });
    let watch = client.watch(prefix(b""));
    let keys: Vec<_> = iter(watch).take(3).map(|change| change.unwrap().key).collect();
    assert_eq!(keys, [b"a", b"b", b"c"]);
    script.join().unwrap();
}

#[test]
fn the_position_of_a_watch_is_behind_whole_entries() {
    let server = Fake::start();
    let client = client(&server);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let (id, after) = watch(&mut peer);
        assert_eq!(after, Some(10));
        peer.answer(id, changes(10, &[]));
        peer.answer(id, changes(20, &[(11, "a"), (12, "b"), (12, "c"), (13, "d")]));
        peer
    });
    let mut watch = client.watch(prefix(b"")).after("q1-3-a".parse().unwrap());
    let mut positions = Vec::new();
    for _ in 0..4 {
        block_on(watch.next()).unwrap().unwrap();
        positions.push(watch.token().unwrap().index());
    }
    assert_eq!(
        positions,
        [11, 11, 12, 20],
        "an entry is seen when all of its changes are, the last with its page"
    );
    drop(watch);
    let mut peer = script.join().unwrap();
    assert!(matches!(peer.request(|operation| operation == &Operation::Cancel { request: 0 }), (_, false)));
}

#[test]
fn the_position_of_a_watch_moves_while_it_waits() {
    let server = Fake::start();
    let client = client(&server);
    let mut watch = client.watch_key(b"a");
    assert_eq!(watch.token(), None);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let (id, range) = peer.request(|operation| match operation {
            Operation::Watch { range, .. } => {
                (range.start.to_vec(), range.end.includes(b"a"), range.end.includes(b"a\0"))
            }
            other => panic!("{other:?} is no watch"),
        });
        assert_eq!(range, (b"a".to_vec(), true, false));
        peer.answer(id, changes(10, &[]));
        assert!(peer.frame().is_some(), "it is cancelled");
    });
    while watch.token().is_none() {
        assert_eq!(block_on(poll_once(watch.next())), None, "nothing has changed");
        thread::yield_now();
    }
    assert_eq!(watch.token().unwrap().index(), 10);
    drop(watch);
    script.join().unwrap();
}

/// Takes watches as a server does, until the client is gone; how many were begun and refused.
fn serve_watches(server: Fake) -> JoinHandle<[usize; 2]> {
    thread::spawn(move || {
        let (mut peer, mut open, mut counts) = (server.peer(), HashSet::new(), [0; 2]);
        while let Some(body) = peer.frame() {
            let request: Request<'_> = parse(&body).unwrap();
            let is_full = open.len() == limits::WATCHES_MAX;
            match request.operation {
                Operation::Watch { .. } if is_full => {
                    counts[1] += 1;
                    peer.answer(request.id, Outcome::Refused(Refusal::Overloaded("cancel one".into())));
                }
                Operation::Watch { .. } => {
                    open.insert(request.id);
                    counts[0] += 1;
                    peer.answer(request.id, changes(10, &[]));
                }
                Operation::Cancel { request } => drop(open.remove(&request)),
                other => panic!("{other:?} is no watch"),
            }
        }
        counts
    })
}

fn begun_watch(client: &Client) -> Watch {
    let mut watch = client.watch(prefix(b""));
    while watch.token().is_none() {
        assert_eq!(block_on(poll_once(watch.next())), None, "nothing has changed");
        thread::yield_now();
    }
    watch
}

#[test]
fn a_watch_too_many_is_refused_until_another_one_is_dropped() {
    let server = Fake::start();
    let client = client(&server);
    let served = serve_watches(server);
    let mut watches: Vec<_> = (0..limits::WATCHES_MAX).map(|_| begun_watch(&client)).collect();
    let mut one_more = client.watch(prefix(b""));
    let error = block_on(one_more.next()).unwrap().unwrap_err();
    assert_eq!((&error, error.kind()), (&Error::TooManyWatches, ErrorKind::Refused));
    assert!(error.to_string().contains("drop a watch, or make another client"), "{error}");
    assert_eq!(block_on(one_more.next()), None);
    watches.pop();
    watches.push(begun_watch(&client));
    drop((watches, one_more, client));
    assert_eq!(served.join().unwrap(), [limits::WATCHES_MAX + 1, 0]);
}

#[test]
fn a_watch_goes_to_a_replica_that_has_a_place_for_it() {
    let servers = [Fake::start(), Fake::start()];
    let client =
        Client::builder().servers(servers.each_ref().map(|server| &server.address)).connect().unwrap();
    let served = servers.map(serve_watches);
    let watches: Vec<_> = (0..2 * limits::WATCHES_MAX).map(|_| begun_watch(&client)).collect();
    let error = block_on(client.watch(prefix(b"")).next()).unwrap().unwrap_err();
    assert_eq!(error, Error::TooManyWatches);
    drop((watches, client));
    assert_eq!(served.map(|served| served.join().unwrap()), [[limits::WATCHES_MAX, 0]; 2]);
}

/// The first thing that a watch says, which comes in the time of a test.
fn first(mut watch: Watch) -> Error {
    let late = async {
        Timer::after(Duration::from_secs(20)).await;
        panic!("it said nothing")
    };
    block_on(or(watch.next(), late)).expect("it has no end").unwrap_err()
}

#[test]
fn a_watch_behind_a_token_of_the_future_says_that_the_replicas_are_not_there_yet() {
    let server = Fake::start();
    let client = client(&server).with_deadline(Duration::from_millis(500));
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let mut told = Vec::new();
        while let Some(body) = peer.frame() {
            let request: Request<'_> = parse(&body).unwrap();
            assert!(matches!(request.operation, Operation::Watch { .. }));
            told.push(request.deadline_ms);
            peer.answer(request.id, Outcome::Refused(Refusal::Behind { applied: 7 }));
        }
        told
    });
    let error = first(client.watch(prefix(b"")).after("q1-3-ff".parse().unwrap()));
    assert_eq!(
        (&error, error.kind()),
        (&Error::Refused(Refusal::Behind { applied: 7 }), ErrorKind::Retryable)
    );
    drop(client);
    let told = script.join().unwrap();
    assert!(told.iter().all(|ms| (1..500).contains(ms)), "until when a server may wait to begin: {told:?}");
}

#[test]
fn a_watch_that_finds_no_place_ends_as_other_calls_do() {
    for (when_full, patience) in [(WhenFull::Wait, 150), (WhenFull::Refuse, 60_000)] {
        let server = Fake::with_in_flight_max(1);
        let builder = Client::builder().servers([&server.address]).when_full(when_full);
        let client = builder.deadline(Duration::from_secs(60)).connect().unwrap();
        let script = thread::spawn(move || {
            let mut peer = server.peer();
            peer.pong();
            peer
        });
        block_on(client.ping()).unwrap();
        let mut open = Box::pin(client.ping());
        assert_eq!(block_on(poll_once(open.as_mut())), None);
        let watch = client.with_deadline(Duration::from_millis(patience)).watch(prefix(b""));
        assert_eq!(first(watch), Error::InFlight);
        let mut peer = script.join().unwrap();
        peer.pong();
        block_on(open).unwrap();
    }
}

#[test]
fn a_watch_of_nothing_is_wrong_use() {
    let client = client(&Fake::start());
    assert_eq!(first(client.watch_key(b"")), Error::Invalid(InvalidRequest::EmptyKey));
    let long = vec![b'k'; limits::KEY_BYTES_MAX + 1];
    assert_eq!(first(client.watch_key(&long)), Error::Invalid(InvalidRequest::KeyTooLong(long.len())));
    for (start, end) in [("b", "a"), ("a", "a"), ("", "")] {
        let range = Range { start: start.as_bytes(), end: RangeEnd::Before(end.as_bytes()) };
        let mut watch = client.watch(range);
        let error = block_on(watch.next()).unwrap().unwrap_err();
        assert_eq!((&error, error.kind()), (&Error::Invalid(InvalidRequest::EmptyRange), ErrorKind::Refused));
        assert_eq!(block_on(watch.next()), None);
    }
}

#[test]
fn a_watch_whose_history_is_lost_ends_and_says_so() {
    let server = Fake::start();
    let client = client(&server);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let (id, _) = watch(&mut peer);
        peer.answer(id, Outcome::Refused(Refusal::HistoryLost { after: 3, oldest: 7 }));
        peer
    });
    let mut watch = client.watch(prefix(b"")).after("q1-3-3".parse().unwrap());
    let error = block_on(watch.next()).unwrap().unwrap_err();
    assert_eq!(error, Error::Refused(Refusal::HistoryLost { after: 3, oldest: 7 }));
    assert!(block_on(watch.next()).is_none());
    script.join().unwrap();
}

#[test]
fn a_watch_that_is_not_taken_holds_a_bound_and_goes_on_from_there() {
    // More than the bound of 4 MiB, and what is left of them behind it is less: it is met once, however slow the test is.
    const CHANGES: u64 = 6000;
    let server = Fake::start();
    let client = client(&server);
    let (overrun, is_overrun) = channel();
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let (id, _) = watch(&mut peer);
        let value = [b'v'; 1024];
        let change = |index| Change { index, key: b"key", value: Some(NewValue(&value)) };
        for index in 1..=CHANGES {
            peer.answer(id, Outcome::Changes { through: token(index), changes: vec![change(index)] });
        }
        // The client has had enough at some place, says so, and goes on there.
        let (_, cancelled) = peer.request(|operation| operation == &Operation::Cancel { request: id });
        assert!(cancelled);
        overrun.send(()).unwrap();
        let (id, after) = watch(&mut peer);
        let after = after.unwrap();
        assert!(after > 1000 && after < CHANGES, "it had taken up to {after}");
        for index in after + 1..=CHANGES {
            peer.answer(id, Outcome::Changes { through: token(index), changes: vec![change(index)] });
        }
        peer
    });
    let mut watch = client.watch(prefix(b""));
    let mut next = || block_on(watch.next()).unwrap().unwrap().index;
    assert_eq!(next(), 1);
    is_overrun.recv_timeout(Duration::from_secs(20)).unwrap();
    let rest: Vec<_> = (2..=CHANGES).map(|_| next()).collect();
    assert_eq!(rest, (2..=CHANGES).collect::<Vec<_>>());
    script.join().unwrap();
}

fn receipt(nodes: &[u8], survives_failover: bool) -> Receipt {
    Receipt {
        term: 3,
        index: 7,
        holders: nodes.iter().map(|id| node(*id)).collect(),
        durability: Durability::Fsync,
        survives_failover,
        survivable_losses: 0,
    }
}

#[test]
fn progress_tells_each_count_of_copies_and_the_result_last() {
    let server = Fake::start();
    let client = client(&server);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let (id, options) = peer.request(|operation| match operation {
            Operation::Write { options, .. } => *options,
            other => panic!("{other:?} is no write"),
        });
        assert!(options.progress);
        peer.answer(id, Outcome::Progress { receipt: receipt(&[1], false) });
        peer.answer(id, Outcome::Progress { receipt: receipt(&[1, 3], true) });
        let result = WriteResult::Applied { existed: 0 };
        peer.answer(id, Outcome::Written { receipt: receipt(&[1, 2, 3], true), result });
        peer
    });
    let mut progress = client.set("a", "1").progress();
    let mut copies = Vec::new();
    while let Some(receipt) = block_on(progress.next()) {
        let receipt = receipt.unwrap();
        copies.push((receipt.holders.len(), receipt.survives_failover));
    }
    assert_eq!(copies, [(1, false), (2, true), (3, true)]);
    assert_eq!(progress.result(), Some(WriteResult::Applied { existed: 0 }));
    assert_eq!(client.session_token().index(), 7);
    script.join().unwrap();
}

#[test]
fn progress_that_breaks_off_tells_what_was_known() {
    let server = Fake::start();
    let client = client(&server);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let (id, ()) = peer.request(|_| ());
        peer.answer(id, Outcome::Progress { receipt: receipt(&[1], false) });
        peer.close();
    });
    let mut progress = client.set("a", "1").progress();
    assert_eq!(block_on(progress.next()).unwrap().unwrap().holders.len(), 1);
    let error = block_on(progress.next()).unwrap().unwrap_err();
    let Error::OutcomeUnknown(Unknown { appended, .. }) = error else { panic!("{error}") };
    assert_eq!(appended, Some(Appended { index: 7, copies: 1 }));
    assert!(block_on(progress.next()).is_none());
    script.join().unwrap();
}

#[test]
fn a_write_that_is_stored_but_not_committed_says_so() {
    let server = Fake::start();
    let client = client(&server);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let (id, acks) = peer.request(|operation| match operation {
            Operation::Write { options, .. } => options.acks,
            other => panic!("{other:?} is no write"),
        });
        assert_eq!(acks, Acks::Copies(1));
        peer.answer(id, Outcome::Stored { receipt: receipt(&[1], false) });
    });
    let written = block_on(client.set("a", "1").acks(Acks::Copies(1))).unwrap();
    assert_eq!((written.result, written.receipt.survives_failover), (None, false));
    assert_eq!(client.session_token(), SessionToken::default(), "a failover may drop it: it was not seen");
    script.join().unwrap();
}

#[test]
fn session_reads_carry_what_the_client_has_seen_and_what_it_was_given() {
    let server = Fake::start();
    let builder = Client::builder().servers([&server.address]).consistency(Consistency::Session);
    let given: SessionToken = "q1-2-5".parse().unwrap();
    let client = builder.session_token(given).connect().unwrap();
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        for (asked, seen) in [(5, 8), (8, 8)] {
            let (id, consistency) = peer.request(|operation| match operation {
                Operation::Get { consistency, .. } => *consistency,
                other => panic!("{other:?} is no read"),
            });
            let request::Consistency::Session(token) = consistency else { panic!("{consistency:?}") };
            assert_eq!(token.index, asked);
            peer.answer(id, Outcome::Value { token: self::token(seen), value: None });
        }
    });
    block_on(client.get("a")).unwrap();
    block_on(client.get("a")).unwrap();
    assert_eq!(client.session_token().to_string(), "q1-3-8");
    script.join().unwrap();
}
