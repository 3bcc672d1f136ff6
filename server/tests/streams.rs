//! Requests that are answered more than once, over sockets of real servers: watches, and writes with progress.

mod support;

use quorate_protocol::parse;
use quorate_protocol::request::{
    Acks, Mutation, Operation, Range, RangeEnd, Request, Token, Write, WriteOptions,
};
use quorate_protocol::response::{Outcome, Receipt, Refusal, Response};
use rustix::process::Signal;
use support::{Cluster, PROGRAM, Raw, Server, command, request, wait_for};

fn watch(after: Option<Token>) -> Operation<'static> {
    Operation::Watch { range: Range { start: b"", end: RangeEnd::Prefix(b"w") }, after }
}

fn set<'a>(key: &'a [u8], value: &'a [u8], options: WriteOptions) -> Operation<'a> {
    Operation::Write { options, write: Write::One(Mutation::Set { key, value }) }
}

/// What a watch was told: up to where, and keys with the lengths of their values.
type Page = (Token, Vec<(String, usize)>);

/// The next page of a watch, or why it has ended.
fn page(raw: &mut Raw, id: u64) -> Result<Page, Refusal> {
    let body = raw.body().expect("the connection stays");
    let response: Response<'_> = parse(&body).unwrap();
    assert_eq!(response.id, id);
    match response.outcome {
        Outcome::Changes { through, changes } => {
            let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
            let told =
                changes.iter().map(|change| (text(change.key), change.value.map_or(0, |it| it.0.len())));
            Ok((through, told.collect()))
        }
        Outcome::Refused(refusal) => Err(refusal),
        other => panic!("no page: {other:?}"),
    }
}

/// Pages until so many changes have come.
fn changes(raw: &mut Raw, id: u64, count: usize) -> (Token, Vec<(String, usize)>) {
    let mut told = Vec::new();
    loop {
        let (through, changes) = page(raw, id).unwrap();
        told.extend(changes);
        if told.len() >= count {
            return (through, told);
        }
    }
}

/// A cluster of one, with a history of 1 MiB.
fn server_of_one(directory: &tempfile::TempDir) -> (Server, std::net::SocketAddr) {
    let mut command = command(PROGRAM);
    command.arg("--data").arg(directory.path().join("data"));
    command.args(["--listen", "127.0.0.1:0", "--watch-history-mib", "1"]);
    let mut server = Server::start(command, &directory.path().join("log"));
    let address = server.announced_address();
    (server, address)
}

#[test]
fn a_follower_tells_a_watch_what_the_leader_writes_until_it_is_cancelled() {
    let mut cluster = Cluster::ready();
    let client = cluster.client();
    let mut raw = Raw::client(cluster.addresses.client(2));
    raw.send(&request(7, watch(None)));
    let (start, told) = page(&mut raw, 7).unwrap();
    assert!(told.is_empty());
    smol::block_on(async {
        for key in ["w1", "another", "w2"] {
            client.set(key, "value").await.unwrap();
        }
        client.delete("w1").await.unwrap();
    });
    let expected = [("w1".to_owned(), 5), ("w2".to_owned(), 5), ("w1".to_owned(), 0)];
    assert_eq!(changes(&mut raw, 7, 3).1, expected);

    // Another replica tells the same from the same place on.
    let mut other = Raw::client(cluster.addresses.client(3));
    other.send(&request(9, watch(Some(start))));
    assert_eq!(page(&mut other, 9).unwrap(), (start, vec![]));
    assert_eq!(changes(&mut other, 9, 3).1, expected);

    raw.send(&request(8, Operation::Cancel { request: 7 }));
    loop {
        let body = raw.body().unwrap();
        match parse::<Response<'_>>(&body).unwrap() {
            Response { id: 8, outcome: Outcome::Pong } => break,
            Response { id: 7, outcome: Outcome::Changes { changes, .. } } => assert!(changes.is_empty()),
            other => panic!("{other:?}"),
        }
    }
    smol::block_on(client.set("w3", "value")).unwrap();
    assert_eq!(changes(&mut other, 9, 1).1, [("w3".to_owned(), 5)]);
    raw.send(&request(10, Operation::Ping));
    let body = raw.body().unwrap();
    assert_eq!(parse(&body), Ok(Response { id: 10, outcome: Outcome::Pong }), "and nothing of the watch");
    drop(other);
    wait_for("the end of all watches", || {
        (2..=3).all(|node| cluster.status(node).view().watches == 0).then_some(())
    });
    cluster.assert_serves();
}

#[test]
fn a_watcher_that_does_not_read_is_cut_off_and_takes_no_memory() {
    let directory = tempfile::tempdir().unwrap();
    let (server, address) = server_of_one(&directory);
    let client = support::client(address);
    wait_for("a leader", || smol::block_on(client.set("ready", "x")).ok());
    let mut raw = Raw::client(address);
    raw.send(&request(7, watch(None)));
    page(&mut raw, 7).unwrap();
    let value = vec![b'v'; 100 << 10];
    const WRITES: usize = 600; // More than all buffers on the way together.
    for _ in 0..WRITES {
        smol::block_on(client.set("another", &value[..])).unwrap(); // Fills what the server keeps of any log.
    }
    let before = server.memory();
    for number in 0..WRITES {
        smol::block_on(client.set(format!("w{number}"), &value[..])).unwrap();
        smol::block_on(client.delete(format!("w{number}"))).unwrap();
    }
    before.assert_grown_less_than(32, server.memory());
    let mut through = Token::default();
    let mut told = Vec::new();
    let refusal = loop {
        match page(&mut raw, 7) {
            Ok((token, changes)) => {
                through = token;
                told.extend(changes);
            }
            Err(refusal) => break refusal,
        }
    };
    let Refusal::HistoryLost { after, oldest } = refusal else { panic!("{refusal}") };
    assert!(after == through.index && oldest > after, "{refusal}");
    let all = (0..WRITES).flat_map(|number| [(format!("w{number}"), value.len()), (format!("w{number}"), 0)]);
    assert_eq!(told, all.take(told.len()).collect::<Vec<_>>(), "what it got has no gaps");
    assert!(told.len() < 2 * WRITES);
    raw.send(&request(8, watch(None)));
    page(&mut raw, 8).expect("it may begin again");
}

#[test]
fn watches_are_not_in_flight_and_do_not_hold_up_what_is() {
    let directory = tempfile::tempdir().unwrap();
    let (_server, address) = server_of_one(&directory);
    let client = support::client(address);
    wait_for("a leader", || smol::block_on(client.set("ready", "x")).ok());
    let mut raw = Raw::client(address);
    const WATCHES: u64 = 17_000; // More than a connection may have in flight.
    for id in 0..WATCHES {
        let cancel = request(WATCHES + id, Operation::Cancel { request: id });
        raw.send(&[request(id, watch(None)), cancel].concat());
    }
    let mut cancelled = 0;
    while cancelled < WATCHES {
        let body = raw.body().unwrap();
        let Response { id, outcome } = parse(&body).unwrap();
        assert_eq!(id >= WATCHES, outcome == Outcome::Pong, "{outcome:?}");
        cancelled += u64::from(id >= WATCHES);
    }
}

#[test]
fn a_server_that_stops_says_so_to_its_watches_and_stops() {
    let directory = tempfile::tempdir().unwrap();
    let (mut server, address) = server_of_one(&directory);
    let client = support::client(address);
    wait_for("a leader", || smol::block_on(client.set("ready", "x")).ok());
    let mut raw = Raw::client(address);
    raw.send(&request(7, watch(None)));
    page(&mut raw, 7).unwrap();
    server.signal(Signal::TERM);
    while let Ok((_, changes)) = page(&mut raw, 7).inspect_err(|why| assert_eq!(*why, Refusal::Stopping)) {
        assert!(changes.is_empty());
    }
    assert!(server.wait_end().success());
}

#[test]
fn a_write_is_told_at_every_count_of_copies_and_at_any_that_is_asked_for() {
    let mut cluster = Cluster::ready();
    wait_for("all followers", || {
        let status = cluster.status(1);
        status.view().followers.iter().all(|follower| follower.reachable).then_some(())
    });
    let mut raw = Raw::client(cluster.addresses.client(1));
    let send = |raw: &mut Raw, id, options| {
        let operation = set(b"k", b"v", options);
        let mut bytes = Vec::new();
        quorate_protocol::frame::encode(&Request { id, deadline_ms: 30_000, operation }, &mut bytes);
        raw.send(&bytes);
    };
    let options = |acks| WriteOptions { acks, ..WriteOptions::default() };
    for (id, copies) in (1..).zip([1, 2, 3]) {
        send(&mut raw, id, options(Acks::Copies(copies)));
        let body = raw.body().unwrap();
        let Response { id: answered, outcome } = parse(&body).unwrap();
        assert_eq!(answered, id);
        let (Outcome::Written { receipt, .. } | Outcome::Stored { receipt }) = outcome else {
            panic!("{outcome:?}")
        };
        assert!(receipt.holders.len() >= usize::from(copies), "{receipt:?}");
        assert_eq!(receipt.survives_failover, matches!(outcome, Outcome::Written { .. }));
        assert!(receipt.survives_failover || copies < 2, "{receipt:?}");
    }
    send(&mut raw, 9, WriteOptions { progress: true, ..WriteOptions::default() });
    let mut counts = Vec::new();
    loop {
        let body = raw.body().unwrap();
        let Response { id: 9, outcome } = parse(&body).unwrap() else { panic!() };
        let is_last = outcome.is_last();
        let (Outcome::Written { receipt, .. } | Outcome::Progress { receipt }) = outcome else {
            panic!("{outcome:?}")
        };
        let Receipt { holders, survives_failover, .. } = receipt;
        assert_eq!(survives_failover, holders.len() >= 2 && receipt.survivable_losses == 1, "{receipt:?}");
        counts.push(holders.len());
        if is_last {
            break;
        }
    }
    assert!(counts.is_sorted_by(|one, other| one < other) && counts.last() == Some(&3), "{counts:?}");
    cluster.assert_serves();
}
