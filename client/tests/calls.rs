//! Calls against servers that answer, refuse, vanish and lie.

mod fake;

use std::io;
use std::net::TcpListener;
use std::thread;
use std::time::{Duration, Instant};

use async_io::Timer;
use fake::{Fake, always, nobody, not_leader, refusing, store, value, written};
use futures_lite::future::{block_on, or, poll_once, zip};
use quorate_client::{
    Appended, Client, Consistency, Error, ErrorKind, Expected, Mutation, ReadFrom, Refusal, Role, Unknown,
    Why, WriteResult, prefix,
};
use quorate_protocol::handshake::HelloRefusal;
use quorate_protocol::request::Operation;
use quorate_protocol::response::Outcome;

fn client<S: Into<String>>(servers: impl IntoIterator<Item = S>) -> Client {
    let builder = Client::builder().servers(servers).deadline(Duration::from_secs(10));
    builder.exactly_once(false).connect().unwrap()
}

fn brief(client: &Client) -> Client {
    client.with_deadline(Duration::from_millis(150))
}

/// What comes in the time of a test.
fn in_time<T>(call: impl Future<Output = T>) -> T {
    let late = async {
        Timer::after(Duration::from_secs(20)).await;
        panic!("it did not end")
    };
    block_on(or(call, late))
}

#[test]
fn every_operation_has_its_result() {
    let client = client([store()]);
    block_on(async {
        assert_eq!(client.get("a").await.unwrap().value, None);
        let first = client.set("a", "1").await.unwrap();
        assert_eq!(first.result, Some(WriteResult::Applied { existed: 0 }));
        let found = client.get("a").await.unwrap();
        assert_eq!((found.token, found.value.unwrap().value), (first.token(), b"1".to_vec()));
        assert!(!client.compare_and_set("a", Expected::Absent, "2").await.unwrap().applied());
        let expected = Expected::Revision(first.revision());
        assert!(client.compare_and_set("a", expected, "2").await.unwrap().applied());
        let set = |key, value| Mutation::Set { key, value };
        client.batch(vec![set(b"b", b"3"), set(b"c", b"4")]).await.unwrap();
        assert_eq!(client.delete("c").await.unwrap().result, Some(WriteResult::Applied { existed: 1 }));
        assert_eq!(client.status(false).await.unwrap().view().role, Role::Leader);
        client.ping().await.unwrap();
        client.close().await;
        assert_eq!(client.ping().await, Err(Error::Closed));
    });
}

#[test]
fn a_scan_goes_through_all_pages() {
    let client = client([store()]);
    block_on(async {
        for key in ["a1", "b1", "b2", "b3", "b4", "b5", "c1"] {
            client.set(key, key).await.unwrap();
        }
        let range = prefix(b"b");
        let mut scan = client.scan(range).items_per_page(2);
        let mut keys = Vec::new();
        while let Some(page) = scan.next_page().await {
            keys.push(page.unwrap().items.into_iter().map(|item| item.key).collect::<Vec<_>>());
        }
        assert_eq!(keys, [vec![b"b1", b"b2"], vec![b"b3", b"b4"], vec![b"b5"]]);
    });
}

#[test]
fn the_leader_is_followed() {
    let follower = Fake::start();
    let leader = store();
    let client = client([&follower.address]);
    let script = thread::spawn(move || {
        let mut peer = follower.peer();
        let id = peer.id();
        peer.answer(id, not_leader(Some(&leader)));
    });
    block_on(client.set("a", "1")).unwrap();
    script.join().unwrap();
    assert!(block_on(client.get("a")).unwrap().value.is_some());
}

#[test]
fn what_is_in_flight_is_answered_before_a_follower_is_left() {
    let (follower, leader) = (Fake::start(), Fake::start());
    let client = client([&follower.address]);
    let script = thread::spawn(move || {
        let mut peer = follower.peer();
        peer.pong();
        let (first, second) = (peer.id(), peer.id());
        peer.answer(second, not_leader(Some(&leader.address)));
        peer.answer(first, written(7));
        let mut peer = leader.peer();
        let id = peer.id();
        peer.answer(id, written(8));
    });
    // Calls that find a connection go out in the order in which they were made.
    block_on(client.ping()).unwrap();
    let (first, second) = block_on(zip(client.set("a", "1"), client.set("b", "2")));
    assert_eq!((first.unwrap().revision(), second.unwrap().revision()), (7, 8));
    script.join().unwrap();
}

#[test]
fn the_next_server_is_tried_when_one_is_not_there() {
    let client = client([nobody(), store()]);
    block_on(client.set("a", "1")).unwrap();
}

#[test]
fn not_ready_is_tried_again_until_it_is() {
    let server = Fake::start();
    let client = client([&server.address]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        for _ in 0..3 {
            let id = peer.id();
            peer.answer(id, Outcome::Refused(Refusal::NotReady("forming".into())));
        }
        let id = peer.id();
        peer.answer(id, written(1));
    });
    block_on(client.set("a", "1")).unwrap();
    script.join().unwrap();
}

#[test]
fn not_ready_is_returned_at_the_deadline() {
    let (address, refused) = always(Refusal::NotReady("forming".into()));
    let client = brief(&client([address]));
    let error = block_on(client.set("a", "1")).unwrap_err();
    assert_eq!(error, Error::Refused(Refusal::NotReady("forming".into())));
    assert_eq!(error.kind(), ErrorKind::Retryable);
    assert!(refused.try_iter().count() > 1);
}

#[test]
fn no_quorum_is_believed_when_it_is_said_again() {
    let (address, refused) = always(Refusal::NoQuorum { have: 1, need: 2 });
    let client = client([address]);
    let error = block_on(client.set("a", "1")).unwrap_err();
    assert_eq!(error, Error::Refused(Refusal::NoQuorum { have: 1, need: 2 }));
    assert_eq!(refused.try_iter().count(), 2);
}

#[test]
fn a_leader_that_was_away_and_reaches_nobody_is_left_for_the_one_that_leads() {
    let (address, _refused) = always(Refusal::NoQuorum { have: 1, need: 2 });
    block_on(client([address, store()]).set("a", "1")).unwrap();
}

#[test]
fn a_server_that_accepts_and_says_nothing_is_left_also_before_its_connection_has_failed() {
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let builder = Client::builder().servers([hung.local_addr().unwrap().to_string(), store()]);
    let builder = builder.connect_timeout(Duration::from_secs(60)).deadline(Duration::from_secs(2));
    block_on(builder.connect().unwrap().get("a")).unwrap();
}

#[test]
fn a_write_whose_connection_dies_has_an_unknown_outcome() {
    let server = Fake::start();
    let client = client([&server.address]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        peer.id();
        peer.close();
    });
    let error = block_on(client.set("a", "1")).unwrap_err();
    assert!(matches!(error, Error::OutcomeUnknown(Unknown { why: Why::ConnectionLost(_), .. })), "{error}");
    assert_eq!(error.kind(), ErrorKind::OutcomeUnknown);
    script.join().unwrap();
}

#[test]
fn an_uncommitted_write_has_an_unknown_outcome() {
    let server = Fake::start();
    let client = client([&server.address]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let id = peer.id();
        peer.answer(id, Outcome::Unknown { index: 5, copies: 1 });
    });
    let error = block_on(client.set("a", "1")).unwrap_err();
    let appended = Some(Appended { index: 5, copies: 1 });
    assert_eq!(error, Error::OutcomeUnknown(Unknown { why: Why::Deadline, appended }));
    script.join().unwrap();
}

#[test]
fn a_read_is_tried_again_on_a_new_connection() {
    let server = Fake::start();
    let client = client([&server.address]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        peer.id();
        peer.close();
        let mut peer = server.peer();
        let id = peer.id();
        peer.answer(id, value(4, b"v"));
    });
    assert_eq!(block_on(client.get("a")).unwrap().value.unwrap().revision, 4);
    script.join().unwrap();
}

#[test]
fn answers_in_any_order_find_their_calls() {
    let server = Fake::start();
    let client = client([&server.address]);
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        peer.pong();
        let ids: Vec<_> = (0..3).map(|_| peer.id()).collect();
        for (revision, id) in ids.into_iter().enumerate().rev() {
            peer.answer(id, written(revision as u64 + 1));
        }
    });
    block_on(client.ping()).unwrap();
    let calls = zip(zip(client.set("a", "1"), client.set("b", "2")), client.set("c", "3"));
    let ((a, b), c) = block_on(calls);
    assert_eq!([a, b, c].map(|written| written.unwrap().revision()), [1, 2, 3]);
    script.join().unwrap();
}

#[test]
fn the_deadline_makes_a_write_unknown_and_a_read_late() {
    let server = Fake::start();
    let client = brief(&client([&server.address]));
    let began = Instant::now();
    let (write, read) = block_on(zip(client.set("a", "1"), client.get("a")));
    assert_eq!(write, Err(Error::OutcomeUnknown(Unknown { why: Why::Deadline, appended: None })));
    assert_eq!(read, Err(Error::Deadline));
    assert!(began.elapsed() >= Duration::from_millis(150));
}

#[test]
fn a_connection_that_says_nothing_is_replaced() {
    let server = Fake::start();
    let client = client([&server.address]);
    assert_eq!(block_on(brief(&client).get("a")), Err(Error::Deadline));
    let mut silent = server.peer();
    let _both_tries = (silent.id(), silent.id());
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let id = peer.id();
        peer.answer(id, value(4, b"v"));
    });
    block_on(client.get("a")).unwrap();
    script.join().unwrap();
    assert_eq!(silent.frame(), None);
}

#[test]
fn nobody_there_is_an_error_that_says_what_was_met() {
    let address = nobody();
    let error = block_on(brief(&client([&address])).set("a", "1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retryable);
    assert!(error.to_string().contains(&address), "{error}");
}

#[test]
fn what_a_server_has_answered_is_said_although_another_one_is_not_there() {
    let server = Fake::start();
    let client = brief(&client([server.address.clone(), nobody()]));
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let id = peer.id();
        peer.answer(id, not_leader(None));
        peer.close();
        // From here on its connections are closed at once.
    });
    let error = block_on(client.get("a")).unwrap_err();
    script.join().unwrap();
    let no_leader = Error::Refused(Refusal::NotLeader { leader: None });
    assert_eq!((&error, error.kind()), (&no_leader, ErrorKind::Retryable));
}

#[test]
fn what_can_never_be_a_server_is_an_error_before_any_call() {
    for wrong in ["127.0.0.1", "127.0.0.1:70000", ":7401", "a b:7401", "http://127.0.0.1:7401"] {
        let error = Client::connect(["127.0.0.1:7401", wrong]).map(drop).unwrap_err();
        assert_eq!((&error, error.kind()), (&Error::InvalidServer(wrong.into()), ErrorKind::Refused));
        let text = error.to_string();
        assert!(text.contains(&format!("{wrong:?}")) && text.contains("HOST:PORT"), "{text}");
        assert!(Client::builder().servers([wrong]).build().is_err());
    }
}

#[test]
fn a_name_that_nobody_knows_is_tried_until_the_deadline() {
    let error = block_on(brief(&client(["name.invalid:7401"])).set("a", "1")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retryable, "{error}");
}

#[test]
fn a_server_by_an_ipv6_address_and_with_spaces_around_it_is_reached() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else { return };
    let address = listener.local_addr().unwrap();
    let error = block_on(brief(&client([format!(" {address} ")])).get("a")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Retryable, "it says nothing");
    listener.set_nonblocking(true).unwrap();
    listener.accept().expect("it was connected to");
}

#[test]
fn a_server_of_another_cluster_is_an_error_at_once() {
    let address = refusing(HelloRefusal::OtherCluster("other".into()));
    let error = block_on(client([&address]).set("a", "1")).unwrap_err();
    let refusal = HelloRefusal::OtherCluster("other".into());
    assert_eq!(error, Error::HelloRefused { server: address.as_str().into(), refusal });
}

#[test]
fn garbage_from_the_server_ends_the_connection() {
    let server = Fake::start();
    let client = client([&server.address]);
    let script = thread::spawn(move || {
        for garbage in [&[0xff; 64][..], &[4, 0, 0, 0, 9, 9, 9, 9, 1, 2, 3, 4]] {
            let mut peer = server.peer();
            peer.id();
            peer.raw(garbage);
            assert_eq!(peer.frame(), None);
        }
        let mut peer = server.peer();
        peer.id();
        peer.answer(u64::from(u32::MAX), Outcome::Pong);
        assert_eq!(peer.frame(), None, "an answer that nobody asked for");
        let mut peer = server.peer();
        let id = peer.id();
        peer.answer(id, value(1, b"v"));
    });
    block_on(client.get("a")).unwrap();
    script.join().unwrap();
}

#[test]
fn calls_above_the_bound_wait_for_a_place() {
    let server = Fake::with_in_flight_max(2);
    let client = client([&server.address]);
    block_on(async {
        // The server's bound is known once it is connected.
        let script = smol::unblock(move || {
            let mut peer = server.peer();
            peer.pong();
            peer
        });
        let (peer, pong) = zip(script, client.ping()).await;
        pong.unwrap();
        let mut peer = peer;
        let mut calls = Box::pin(zip(zip(client.set("a", "1"), client.set("b", "2")), client.set("c", "3")));
        assert!(poll_once(calls.as_mut()).await.is_none());
        let late = brief(&client);
        assert_eq!(late.set("d", "4").await, Err(Error::InFlight));
        let script = smol::unblock(move || {
            let (first, second) = (peer.id(), peer.id());
            peer.answer(second, written(2));
            let third = peer.id();
            peer.answer(third, written(3));
            peer.answer(first, written(1));
        });
        let (((a, b), c), ()) = zip(calls, script).await;
        assert_eq!([a, b, c].map(|written| written.unwrap().revision()), [1, 2, 3]);
    });
}

#[test]
fn who_waits_for_a_place_at_a_server_that_says_nothing_goes_elsewhere() {
    let hung = Fake::with_in_flight_max(1);
    let client = client([hung.address.clone(), store()]).with_deadline(Duration::from_secs(2));
    let script = thread::spawn(move || {
        let mut peer = hung.peer();
        peer.pong();
        peer
    });
    block_on(client.ping()).unwrap();
    let _silent = script.join().unwrap();
    let (first, second) = block_on(zip(client.get("a"), client.get("b")));
    assert_eq!((first.map(|found| found.value), second.map(|found| found.value)), (Ok(None), Ok(None)));
}

/// A client whose reads any replica may answer.
fn reader<S: Into<String>>(servers: impl IntoIterator<Item = S>, read_from: ReadFrom) -> Client {
    let builder = Client::builder().servers(servers).deadline(Duration::from_secs(1));
    builder.consistency(Consistency::Local).read_from(read_from).connect().unwrap()
}

#[test]
fn a_read_goes_where_it_has_waited_for_a_connection() {
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    hung.set_nonblocking(true).unwrap();
    for read_from in [ReadFrom::Nearest, ReadFrom::Spread] {
        let client = reader([store(), hung.local_addr().unwrap().to_string()], read_from);
        block_on(client.get("a")).unwrap();
        let met = hung.accept().map(drop).map_err(|error| error.kind());
        assert_eq!(met, Err(io::ErrorKind::WouldBlock), "the read was not to go there");
    }
}

#[test]
fn a_server_that_hung_gets_no_read_before_it_has_shown_that_it_is_back() {
    let hung = Fake::start();
    let client = reader([hung.address.clone(), store()], ReadFrom::Spread);
    let script = thread::spawn(move || {
        let mut peer = hung.peer();
        peer.request(|operation| assert!(matches!(operation, Operation::Get { .. })));
        let (id, ()) =
            peer.request(|operation| assert_eq!(operation, &Operation::Ping, "a read is no probe"));
        peer.answer(id, Outcome::Pong);
        let (id, ()) = peer.request(|operation| assert!(matches!(operation, Operation::Get { .. })));
        peer.answer(id, value(1, b"v"));
    });
    let began = Instant::now();
    while !script.is_finished() && began.elapsed() < Duration::from_secs(20) {
        block_on(client.get("a")).unwrap();
        block_on(Timer::after(Duration::from_millis(2))); // As an application that has other things to do.
    }
    script.join().unwrap();
}

#[test]
fn a_call_that_was_given_up_leaves_its_place() {
    let server = Fake::with_in_flight_max(1);
    let client = client([&server.address]);
    block_on(async {
        let received = smol::unblock(move || {
            let mut peer = server.peer();
            let id = peer.id();
            (peer, id)
        });
        let call = async { Err(client.set("a", "1").await) };
        let (mut peer, given_up) = or(call, async { Ok(received.await) }).await.unwrap();
        let script = smol::unblock(move || {
            let next = peer.id();
            peer.answer(given_up, written(1));
            peer.answer(next, written(2));
        });
        let (next, ()) = zip(client.set("b", "2"), script).await;
        assert_eq!(next.unwrap().revision(), 2);
    });
}

#[test]
fn a_dropped_driver_ends_its_calls() {
    let (client, driver) = Client::builder().servers([nobody()]).build().unwrap();
    let mut call = Box::pin(client.set("a", "1"));
    assert!(block_on(poll_once(call.as_mut())).is_none());
    drop(driver);
    assert_eq!(block_on(call), Err(Error::Closed));
}

#[test]
fn closing_waits_for_calls_that_nobody_polls_until_their_deadlines_and_no_longer() {
    let server = Fake::start();
    let client = brief(&client([&server.address]));
    let mut forgotten = Box::pin(client.set("a", "1"));
    assert!(block_on(poll_once(forgotten.as_mut())).is_none());
    block_on(client.close());
    let error = block_on(forgotten).unwrap_err();
    assert!(matches!(error, Error::Closed | Error::OutcomeUnknown(_)), "{error}");
}

#[test]
fn closing_does_not_wait_for_deadlines_of_calls_that_have_ended() {
    let server = Fake::start();
    let client = brief(&client([&server.address]));
    let script = thread::spawn(move || {
        let mut peer = server.peer();
        let id = peer.id();
        peer.answer(id, value(1, b"v"));
        peer
    });
    block_on(client.get("a").deadline(Duration::from_secs(3600))).unwrap();
    let _silent = script.join().unwrap();
    let mut forgotten = Box::pin(client.get("a"));
    assert!(block_on(poll_once(forgotten.as_mut())).is_none());
    in_time(client.close());
    assert!(block_on(forgotten).is_err());
}

#[test]
fn who_closes_again_does_not_depend_on_who_has_given_up_closing() {
    let server = Fake::start();
    let client = brief(&client([&server.address]));
    let mut forgotten = Box::pin(client.set("a", "1"));
    assert!(block_on(poll_once(forgotten.as_mut())).is_none());
    assert!(block_on(poll_once(Box::pin(client.close()))).is_none());
    block_on(client.close());
    assert!(block_on(forgotten).is_err());
}

#[test]
fn a_value_longer_than_the_buffers_comes_whole() {
    let client = client([store()]);
    let long: Vec<u8> = (0..1 << 20).map(|i: u32| i as u8).collect();
    block_on(async {
        client.set("a", &long).await.unwrap();
        assert_eq!(client.get("a").await.unwrap().value.unwrap().value, long);
    });
}

#[test]
fn what_breaks_a_limit_is_not_sent() {
    let client = client([nobody()]);
    let error = block_on(client.set("", "1")).unwrap_err();
    assert_eq!(error.to_string(), "a key must have at least one byte");
    let value = vec![0; 1 << 20];
    let mutations = vec![Mutation::Set { key: b"a", value: &value }; 3];
    let client = self::client([store()]);
    block_on(client.ping()).unwrap();
    assert!(matches!(block_on(client.batch(mutations)), Err(Error::RequestTooLong(_))));
    block_on(client.ping()).unwrap();
}
