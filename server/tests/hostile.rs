//! Bytes that nobody should send, on both ports of a real server, and what must come of them: an error or a
//! close, memory that stays flat, and service for everybody else.
//!
//! Each test shows at its end that an honest client is served. A close counts as one "at once" if it comes
//! before any of the server's deadlines could have caused it.

mod support;

use std::io::Read;
use std::net::{Shutdown, SocketAddr, TcpStream};

use quorate_protocol::handshake::{HelloRefusal, MAGIC, ReplicaIdentity, Reply, Role};
use quorate_protocol::request::{
    Consistency, Mutation, Operation, Range, RangeEnd, Request, Write, WriteOptions,
};
use quorate_protocol::response::{Outcome, Refusal, Response};
use quorate_protocol::{Durability, Incarnation, Leadership, NodeId, Quorums, VERSION, frame, limits, parse};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use support::{
    Cluster, PROGRAM, Raw, Server, assert_serves, claim, client, command, framed, hello, replica_hello,
    request, wait_for,
};
use tempfile::TempDir;

fn node(id: u8) -> NodeId {
    NodeId::try_from(id).unwrap()
}

/// Somebody who says that he is node `id` of the cluster, and has the right settings.
fn impostor(id: u8) -> ReplicaIdentity {
    ReplicaIdentity {
        node: node(id),
        incarnation: Incarnation(0x1dea),
        quorums: Quorums::new(3, 2).unwrap(),
        leadership: Leadership::Configured(node(1)),
        durability: Durability::Fsync,
        lease_ms: 0,
        origin: None,
        stored: None,
        founders: Vec::new(),
        formed: false,
        advertise: "127.0.0.1:1".into(),
    }
}

fn set<'a>(key: &'a [u8], value: &'a [u8]) -> Operation<'a> {
    let write = Write::One(Mutation::Set { key, value });
    Operation::Write { options: WriteOptions::default(), write }
}

fn get(key: &[u8]) -> Operation<'_> {
    Operation::Get { consistency: Consistency::Linearizable, key }
}

/// All ports of two nodes.
fn ports(cluster: &Cluster) -> Vec<SocketAddr> {
    let addresses = &cluster.addresses;
    (1..=2).flat_map(|node| [addresses.client(node), addresses.peer(node)]).collect()
}

fn answer(raw: &mut Raw) -> Option<(u64, Outcome<'static>)> {
    let body = raw.body()?;
    let Response { id, outcome } = parse(&body).unwrap();
    Some((
        id,
        match outcome {
            Outcome::Refused(refusal) => Outcome::Refused(refusal),
            Outcome::Written { receipt, result } => Outcome::Written { receipt, result },
            Outcome::Pong => Outcome::Pong,
            Outcome::Unknown { index, copies } => Outcome::Unknown { index, copies },
            other => panic!("not expected here: {other:?}"),
        },
    ))
}

fn assert_bad_frame_and_close(raw: &mut Raw) {
    match answer(raw) {
        Some((0, Outcome::Refused(Refusal::BadFrame(_)))) => {}
        other => panic!("not a bad-frame error: {other:?}"),
    }
    raw.assert_closed();
}

fn assert_pong(raw: &mut Raw, id: u64) {
    raw.send(&request(id, Operation::Ping));
    assert_eq!(answer(raw), Some((id, Outcome::Pong)));
}

fn assert_hello_refused(raw: &mut Raw, expected: HelloRefusal) {
    assert_eq!(raw.message::<Reply>(), Reply::Refused(expected));
    raw.assert_closed();
}

#[test]
fn a_length_over_the_limit_is_refused_at_once_and_nothing_is_allocated_for_it() {
    let mut cluster = Cluster::ready();
    let before = cluster.server(1).memory();
    for length in [limits::HELLO_BYTES_MAX as u32 + 1, 64 << 20, u32::MAX] {
        for port in ports(&cluster) {
            let mut raw = Raw::connect(port);
            raw.send(&claim(length));
            assert_hello_refused(&mut raw, HelloRefusal::NotQuorate);
        }
    }
    for length in [limits::REQUEST_BYTES_MAX as u32 + 1, 64 << 20, u32::MAX] {
        let mut raw = Raw::client(cluster.addresses.client(1));
        raw.send(&claim(length));
        assert_bad_frame_and_close(&mut raw);
    }
    before.assert_grown_less_than(32, cluster.server(1).memory());
    cluster.assert_serves();
}

#[test]
fn a_frame_that_never_ends_takes_the_memory_of_its_bytes_alone() {
    let mut cluster = Cluster::ready();
    let before = cluster.server(1).memory();
    let mut unfinished: Vec<_> = (0..200).map(|_| Raw::client(cluster.addresses.client(1))).collect();
    for raw in &mut unfinished {
        raw.send(&claim(limits::REQUEST_BYTES_MAX as u32));
        raw.send(&[7; 10]);
    }
    cluster.assert_serves();
    before.assert_grown_less_than(64, cluster.server(1).memory());
    drop(unfinished);
    cluster.assert_serves();
}

#[test]
fn lengths_inside_a_message_beyond_its_end_are_a_bad_frame() {
    let mut cluster = Cluster::ready();
    let whole = request(5, set(b"cut", &[1; 100]));
    let body = &whole[frame::HEADER_BYTES..];
    for cut in [1, 8, body.len() / 2, body.len() - 1] {
        let mut raw = Raw::client(cluster.addresses.client(1));
        raw.send(&framed(&body[..cut]));
        assert_bad_frame_and_close(&mut raw);
    }
    let mut raw = Raw::client(cluster.addresses.client(1));
    raw.send(&framed(&[body, b"surplus"].concat()));
    assert_bad_frame_and_close(&mut raw);
    assert!(smol::block_on(cluster.client().get("cut")).unwrap().value.is_none());
    cluster.assert_serves();
}

#[test]
fn a_request_over_a_limit_is_refused_and_the_connection_stays() {
    let mut cluster = Cluster::ready();
    let mut raw = Raw::client(cluster.addresses.client(1));
    let long_key = vec![b'k'; limits::KEY_BYTES_MAX + 1];
    let long_value = vec![b'v'; limits::VALUE_BYTES_MAX + 1];
    let nothing = Operation::Write { options: WriteOptions::default(), write: Write::Batch(Vec::new()) };
    let refused =
        [set(b"", b"v"), set(&long_key, b"v"), set(b"k", &long_value), get(b""), get(&long_key), nothing];
    for (id, operation) in (1..).zip(refused) {
        raw.send(&request(id, operation));
        match answer(&mut raw) {
            Some((answered, Outcome::Refused(Refusal::BadRequest(_)))) => assert_eq!(answered, id),
            other => panic!("not a bad-request error: {other:?}"),
        }
    }
    assert_pong(&mut raw, 99);
    let largest = vec![b'v'; limits::VALUE_BYTES_MAX];
    raw.send(&request(100, set(&long_key[1..], &largest)));
    assert!(matches!(answer(&mut raw), Some((100, Outcome::Written { .. }))), "at the limits");
    cluster.assert_serves();
}

#[test]
fn what_this_version_does_not_know_is_unsupported_and_changes_nothing() {
    let mut cluster = Cluster::ready();
    let mut raw = Raw::client(cluster.addresses.client(1));
    let last = cluster.status(1).view().last;
    // An operation, and a way to acknowledge, from the future.
    for bytes in [framed(&[7, 0, 99]), framed(&[7, 0, 2, 9])] {
        raw.send(&bytes);
        match answer(&mut raw) {
            Some((7, Outcome::Refused(Refusal::Unsupported(_)))) => {}
            other => panic!("not an unsupported error: {other:?}"),
        }
    }
    assert_pong(&mut raw, 8);
    assert_eq!(cluster.status(1).view().last, last);
    for port in ports(&cluster) {
        let mut raw = Raw::connect(port);
        let mut other = Vec::new();
        frame::encode(&(MAGIC, VERSION + 1, "a hello of the future"), &mut other);
        raw.send(&other);
        assert_hello_refused(&mut raw, HelloRefusal::Version(VERSION));
    }
    cluster.assert_serves();
}

#[test]
fn a_good_frame_before_rubbish_is_served() {
    let mut cluster = Cluster::ready();
    let address = cluster.addresses.client(1);
    let rubbish = claim(u32::MAX);
    let mut raw = Raw::client(address);
    raw.send(&[request(1, Operation::Ping), rubbish.clone()].concat());
    assert_eq!(answer(&mut raw), Some((1, Outcome::Pong)));
    assert_bad_frame_and_close(&mut raw);
    let mut raw = Raw::client(address);
    raw.send(&[request(1, set(b"before rubbish", b"v")), rubbish].concat());
    assert!(matches!(answer(&mut raw), Some((1, Outcome::Written { .. }))));
    assert_bad_frame_and_close(&mut raw);
    cluster.assert_serves();
}

#[test]
fn a_frame_in_single_bytes_is_as_good_as_whole() {
    let mut cluster = Cluster::ready();
    let mut raw = Raw::connect(cluster.addresses.client(1));
    for byte in hello("hostile", Role::Client) {
        raw.send(&[byte]);
    }
    assert!(matches!(raw.message(), Reply::Welcome(_)));
    for byte in request(3, set(b"single", b"bytes")) {
        raw.send(&[byte]);
    }
    assert!(matches!(answer(&mut raw), Some((3, Outcome::Written { .. }))));
    cluster.assert_serves();
}

#[test]
fn a_wrong_checksum_ends_the_connection_and_what_follows_is_not_looked_at() {
    let mut cluster = Cluster::ready();
    let mut wrong = request(1, set(b"wrong", b"v"));
    let last = wrong.len() - 1;
    wrong[last] ^= 1;
    let mut raw = Raw::client(cluster.addresses.client(1));
    raw.send(&[wrong, request(2, set(b"after wrong", b"v"))].concat());
    assert_bad_frame_and_close(&mut raw);
    let client = cluster.client();
    cluster.assert_serves();
    for key in ["wrong", "after wrong"] {
        assert!(smol::block_on(client.get(key)).unwrap().value.is_none(), "{key}");
    }
    for port in ports(&cluster) {
        let mut bytes = hello("", Role::Client);
        bytes[4] ^= 1;
        let mut raw = Raw::connect(port);
        raw.send(&bytes);
        assert_hello_refused(&mut raw, HelloRefusal::NotQuorate);
    }
    cluster.assert_serves();
}

#[test]
fn other_protocols_are_closed_at_their_first_bytes_with_one_line_in_the_log() {
    let mut cluster = Cluster::ready();
    let http = b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let tls = [&[0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3][..], &[0x5a; 194]].concat();
    for _ in 0..5 {
        for port in ports(&cluster) {
            for bytes in [&http[..], &tls] {
                let mut raw = Raw::connect(port);
                raw.send(bytes);
                assert_hello_refused(&mut raw, HelloRefusal::NotQuorate);
            }
        }
    }
    let complaints = cluster.server(1).log().matches("refused a connection").count();
    assert_eq!(complaints, 1, "one line for an address and a minute");
    cluster.assert_serves();
}

#[test]
fn who_does_not_read_answers_is_not_read_from_and_gets_them_all_when_it_does() {
    const ANSWERS: u64 = 200;
    let mut cluster = Cluster::ready();
    let value = vec![b'v'; limits::VALUE_BYTES_MAX];
    smol::block_on(cluster.client().set("large", &value)).unwrap();
    let before = cluster.server(1).memory();
    let mut raw = Raw::client(cluster.addresses.client(1));
    let all: Vec<u8> = (1..=ANSWERS).flat_map(|id| request(id, get(b"large"))).collect();
    raw.send(&all);
    for _ in 0..20 {
        cluster.assert_serves();
    }
    before.assert_grown_less_than(32, cluster.server(1).memory());
    for id in 1..=ANSWERS {
        let body = raw.body().unwrap();
        let response: Response<'_> = parse(&body).unwrap();
        assert_eq!(response.id, id);
        assert!(
            matches!(response.outcome, Outcome::Value { value: Some(found), .. } if found.value == value)
        );
    }
    before.assert_grown_less_than(32, cluster.server(1).memory());
}

#[test]
fn clients_at_the_peer_port_and_replicas_at_the_client_port_are_refused_by_role() {
    let mut cluster = Cluster::ready();
    let refusal = |raw: &mut Raw| match raw.message() {
        Reply::Refused(HelloRefusal::WrongRole(_)) => raw.assert_closed(),
        other => panic!("not refused by role: {other:?}"),
    };
    for id in 1..=2 {
        let mut raw = Raw::connect(cluster.addresses.peer(id));
        raw.send(&hello("hostile", Role::Client));
        refusal(&mut raw);
        let mut raw = Raw::connect(cluster.addresses.client(id));
        raw.send(&replica_hello("hostile", &impostor(3)));
        refusal(&mut raw);
    }
    cluster.assert_serves();
}

#[test]
fn replicas_that_are_not_of_the_cluster_are_refused_with_the_reason() {
    let mut cluster = Cluster::ready();
    let other = |change: fn(&mut ReplicaIdentity)| {
        let mut identity = impostor(3);
        change(&mut identity);
        identity
    };
    for id in 1..=2 {
        let port = cluster.addresses.peer(id);
        let refusal = |cluster: &str, identity: &ReplicaIdentity| {
            let mut raw = Raw::connect(port);
            raw.send(&replica_hello(cluster, identity));
            let Reply::Refused(refusal) = raw.message() else { panic!("welcomed: {identity:?}") };
            raw.assert_closed();
            refusal
        };
        let unknown = other(|identity| identity.node = node(9));
        assert_eq!(refusal("hostile", &unknown), HelloRefusal::UnknownNode(node(9)));
        let itself = impostor(id);
        assert_eq!(refusal("hostile", &itself), HelloRefusal::UnknownNode(node(id)));
        let stranger = impostor(3);
        assert_eq!(refusal("another", &stranger), HelloRefusal::OtherCluster("hostile".into()));
        let quorum = other(|identity| identity.quorums = Quorums::new(3, 3).unwrap());
        let leader = other(|identity| identity.leadership = Leadership::Configured(node(3)));
        let durability = other(|identity| identity.durability = Durability::Os);
        for settings in [quorum, leader, durability] {
            assert!(matches!(refusal("hostile", &settings), HelloRefusal::OtherSettings(_)));
        }
        // Nobody becomes the configured leader by saying so. Another number gets no further than to listen.
        if id != 1 {
            match refusal("hostile", &impostor(1)) {
                HelloRefusal::OtherIncarnation { node: named, .. } => assert_eq!(named, node(1)),
                other => panic!("{other:?}"),
            }
        }
    }
    cluster.assert_serves();
}

#[test]
fn a_write_sent_to_a_follower_is_refused_with_the_leaders_address_and_stored_nowhere() {
    let mut cluster = Cluster::ready();
    let before = cluster.status(1).view().last;
    wait_for("the follower", || (cluster.status(2).view().applied == before).then_some(()));
    let mut raw = Raw::client(cluster.addresses.client(2));
    raw.send(&request(1, set(b"astray", b"v")));
    match answer(&mut raw) {
        Some((1, Outcome::Refused(Refusal::NotLeader { leader: Some(hint) }))) => {
            assert_eq!((hint.node, hint.address), (node(1), cluster.addresses.client(1).to_string()));
        }
        other => panic!("not refused: {other:?}"),
    }
    assert_pong(&mut raw, 2);
    assert_eq!((cluster.status(1).view().last, cluster.status(2).view().last), (before, before));
    assert!(smol::block_on(cluster.client().get("astray")).unwrap().value.is_none());
    cluster.assert_serves();
}

#[test]
fn random_bytes_change_nothing() {
    let mut cluster = Cluster::ready();
    let mut random = fastrand::Rng::with_seed(0xbad);
    let ports = ports(&cluster);
    let before = cluster.server(1).memory();
    for round in 0..1000 {
        let mut bytes = vec![0; random.usize(1..300)];
        random.fill(&mut bytes);
        let port = ports[random.usize(..ports.len())];
        let is_client_port = ports.iter().position(|known| *known == port).unwrap() % 2 == 0;
        let mut raw = match random.u8(..3) {
            0 if is_client_port => Raw::client(port),
            _ => Raw::connect(port),
        };
        if random.bool() {
            bytes = framed(&bytes);
        }
        raw.try_send(&bytes);
        // Unfinished frames would be waited for; the end of the stream is seen at once.
        let _ = raw.socket.shutdown(Shutdown::Write);
        while raw.body().is_some() {}
        if round % 100 == 0 {
            cluster.assert_serves();
        }
    }
    before.assert_grown_less_than(32, cluster.server(1).memory());
    cluster.assert_serves();
}

/// Lets this process have as many descriptors as it may.
fn raise_own_descriptor_limit() {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).unwrap();
}

#[test]
fn a_thousand_connections_that_say_nothing_keep_nobody_waiting() {
    raise_own_descriptor_limit();
    let mut cluster = Cluster::ready();
    let honest = cluster.client();
    let before = cluster.server(1).memory();
    let mut idle = Vec::new();
    for port in [cluster.addresses.client(1), cluster.addresses.peer(1)] {
        idle.extend((0..1000).map(|_| TcpStream::connect(port).unwrap()));
        // Those who were there before, and those who come now.
        assert_serves(&honest);
        assert_serves(&cluster.client());
    }
    before.assert_grown_less_than(64, cluster.server(1).memory());
    drop(idle);
    cluster.assert_serves();
}

#[test]
fn strangers_take_no_place_from_those_who_introduce_themselves() {
    raise_own_descriptor_limit();
    for connections in [16, 600] {
        let (mut server, _directory) = limited_server(1024, &format!("--connections {connections}"));
        let address = server.announced_address();
        let crowd: Vec<_> = (0..2000).map(|_| TcpStream::connect(address).unwrap()).collect();
        assert_serves(&client(address));
        drop(crowd);
        server.assert_running();
    }
}

/// A server that may open so many files.
fn limited_server(files: u32, options: &str) -> (Server, TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let mut limited = command("sh");
    limited.args(["-c", &format!("ulimit -n {files}; exec \"$0\" --listen 127.0.0.1:0 {options}"), PROGRAM]);
    limited.current_dir(directory.path());
    (Server::start(limited, &directory.path().join("log")), directory)
}

/// Connections whose hello is sent, and not waited for.
fn introduced(address: SocketAddr, count: usize) -> Vec<Raw> {
    let connect = |_| {
        let mut raw = Raw::connect(address);
        raw.try_send(&hello("", Role::Client));
        raw
    };
    (0..count).map(connect).collect()
}

#[test]
fn connections_leave_the_descriptors_that_the_log_needs() {
    let (mut server, _directory) = limited_server(64, "");
    let address = server.announced_address();
    let honest = client(address);
    assert_serves(&honest);
    let crowd = introduced(address, 400);
    wait_for("the limit", || server.log().contains("too many connections").then_some(()));
    (0..20).for_each(|_| assert_serves(&honest));
    assert!(!server.log().contains("Too many open files"), "{}", server.log());
    drop(crowd);
    let newcomer = client(address);
    wait_for("a place", || smol::block_on(newcomer.set("later", "x")).ok());
    server.assert_running();
}

#[test]
fn a_server_out_of_descriptors_serves_who_is_there_and_takes_others_later() {
    // Fewer than the connections that it accepts at the least.
    let (mut server, _directory) = limited_server(26, "");
    let address = server.announced_address();
    let honest = client(address);
    assert_serves(&honest);
    let crowd = introduced(address, 40);
    wait_for("the limit", || server.log().contains("cannot accept connections").then_some(()));
    (0..20).for_each(|_| assert_serves(&honest));
    drop(crowd);
    let newcomer = client(address);
    wait_for("a place", || smol::block_on(newcomer.set("later", "x")).ok());
    assert_serves(&honest);
    server.assert_running();
}

#[test]
fn a_silent_connection_is_closed_at_the_hello_deadline() {
    let cluster = Cluster::ready();
    let silent = [cluster.addresses.client(1), cluster.addresses.peer(1)].map(TcpStream::connect);
    for mut silent in silent.map(Result::unwrap) {
        silent.set_read_timeout(Some(support::PATIENCE)).unwrap();
        assert_eq!(silent.read(&mut [0; 16]).unwrap(), 0);
    }
}

#[test]
fn ranges_that_make_no_sense_are_empty() {
    let mut cluster = Cluster::ready();
    let mut raw = Raw::client(cluster.addresses.client(1));
    let range = Range { start: b"z", end: RangeEnd::Before(b"a") };
    let scan = Operation::Scan { consistency: Consistency::Linearizable, range, items_max: u32::MAX };
    raw.send(&request(1, scan));
    let body = raw.body().unwrap();
    let response: Response<'_> = parse(&body).unwrap();
    assert!(matches!(response.outcome, Outcome::Page { items, more: false, .. } if items.is_empty()));
    cluster.assert_serves();
}

#[test]
fn requests_beyond_the_bound_in_flight_wait_and_are_all_answered() {
    const REQUESTS: u64 = 20_000;
    let mut cluster = Cluster::ready();
    let mut raw = Raw::client(cluster.addresses.client(1));
    let mut bytes = Vec::new();
    for id in 1..=REQUESTS {
        frame::encode(&Request { id, deadline_ms: 0, operation: set(b"many", b"v") }, &mut bytes);
    }
    raw.send(&bytes);
    for id in 1..=REQUESTS {
        let answer = answer(&mut raw);
        assert!(matches!(answer, Some((answered, Outcome::Written { .. })) if answered == id), "{answer:?}");
    }
    cluster.assert_serves();
}
