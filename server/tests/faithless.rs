//! A member of the cluster that breaks the rules: two real replicas form a cluster with a third that is
//! played by the test, over real sockets.

mod support;

use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, Sender};
use std::thread;
use std::time::Duration;

use quorate_protocol::entry::{self, Payload};
use quorate_protocol::handshake::{Hello, HelloRefusal, ReplicaIdentity, Reply, Role, Welcome};
use quorate_protocol::peer::{Ack, Append, PeerMessage, Reject, RejectReason, RequestVote, Vote};
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::{
    ClusterId, Durability, Incarnation, Leadership, NodeId, Quorums, VERSION, frame, limits, parse,
};
use rustix::process::Signal;
use support::{AT_ONCE, Cluster, Raw, claim, framed, replica_hello, wait_for};

const NAME: &str = "hostile";

fn node(id: u8) -> NodeId {
    NodeId::try_from(id).unwrap()
}

fn identity(id: u8, incarnation: u64) -> ReplicaIdentity {
    ReplicaIdentity {
        node: node(id),
        incarnation: Incarnation(incarnation),
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

/// What a real replica has told the false one.
enum Heard {
    Stored(ClusterId),
    Reject(NodeId, Reject),
    Vote(NodeId, Vote),
}

/// Node 3: accepts what the real ones dial, answers nothing, and passes on what is of interest.
fn listen(address: SocketAddr, own: ReplicaIdentity) -> Receiver<Heard> {
    let listener = TcpListener::bind(address).unwrap();
    let (sender, receiver) = mpsc::channel();
    // Ends with the test's process: it holds nothing that needs an end.
    thread::spawn(move || {
        for socket in listener.incoming().flatten() {
            let (own, sender) = (own.clone(), sender.clone());
            thread::spawn(move || hear(socket, own, &sender));
        }
    });
    receiver
}

/// Reads one link until it ends.
fn hear(socket: TcpStream, own: ReplicaIdentity, heard: &Sender<Heard>) -> Option<()> {
    let mut raw = Raw::over(socket);
    let hello = raw.body()?;
    let Role::Replica(peer) = Hello::parse(&hello).unwrap().role else { panic!("a client at the peer port") };
    let limits = quorate_protocol::handshake::Limits {
        key_bytes_max: 0,
        value_bytes_max: 0,
        request_bytes_max: 0,
        in_flight_max: 0,
    };
    let (version, node, cluster) = (VERSION, own.node, NAME.to_owned());
    let welcome = Welcome {
        version,
        node,
        cluster,
        cluster_id: None,
        leader: None,
        nodes: Vec::new(),
        limits,
        replica: Some(own),
    };
    let mut bytes = Vec::new();
    frame::encode(&Reply::Welcome(welcome), &mut bytes);
    raw.try_send(&bytes);
    loop {
        let body = raw.body()?;
        // The test may have ended: nobody listens then.
        match parse(&body).unwrap() {
            PeerMessage::Stored(cluster) => heard.send(Heard::Stored(cluster)).ok()?,
            PeerMessage::Reject(reject) => heard.send(Heard::Reject(peer.node, reject)).ok()?,
            PeerMessage::Vote(vote) => heard.send(Heard::Vote(peer.node, vote)).ok()?,
            PeerMessage::Append(_)
            | PeerMessage::Ack(_)
            | PeerMessage::RequestVote(_)
            | PeerMessage::TimeoutNow(_)
            | PeerMessage::Inquire(_)
            | PeerMessage::Position(_)
            | PeerMessage::CheckpointChunk(_)
            | PeerMessage::CheckpointAck(_) => {}
        }
    }
}

/// A link from the false node 3 to a real one.
fn dial(cluster: &Cluster, to: u8, own: &ReplicaIdentity) -> Raw {
    wait_for("a welcome", || {
        let mut raw = Raw::try_connect(cluster.addresses.peer(to))?;
        raw.send(&replica_hello(NAME, own));
        match raw.message() {
            Reply::Welcome(_) => Some(raw),
            Reply::Refused(refusal) => panic!("refused: {refusal}"),
        }
    })
}

fn say(link: &mut Raw, message: &PeerMessage<'_>) {
    let mut bytes = Vec::new();
    frame::encode(message, &mut bytes);
    link.try_send(&bytes);
}

/// A formed cluster of two real nodes and a false one, with links from it to both.
struct Scene {
    cluster: Cluster,
    own: ReplicaIdentity,
    heard: Receiver<Heard>,
    links: [Raw; 2],
}

fn scene() -> Scene {
    let mut cluster = Cluster::start(2);
    let own = identity(3, 0xfa15e);
    let heard = listen(cluster.addresses.peer(3), own.clone());
    let mut links = [1, 2].map(|to| dial(&cluster, to, &own));
    let Heard::Stored(id) = heard.recv_timeout(support::PATIENCE).unwrap() else {
        panic!("something else before the cluster was stored")
    };
    links.iter_mut().for_each(|link| say(link, &PeerMessage::Stored(id)));
    cluster.wait_ready();
    Scene { cluster, own, heard, links }
}

impl Scene {
    /// (term, last, durable, commit) of a real node.
    fn state(&self, of: u8) -> (u64, u64, u64, u64) {
        let status = self.cluster.status(of);
        let status = status.view();
        (status.term, status.last, status.durable, status.commit)
    }

    /// Waits until both real nodes have all that is committed, and nothing is under way.
    fn settle(&self) -> [(u64, u64, u64, u64); 2] {
        wait_for("equal nodes", || {
            let states = [self.state(1), self.state(2)];
            let (_, last, durable, commit) = states[0];
            (states[0] == states[1] && last == durable && last == commit).then_some(states)
        })
    }

    /// A new link after the other side has closed one.
    fn redial(&mut self, to: u8) {
        self.links[usize::from(to) - 1] = dial(&self.cluster, to, &self.own);
    }

    fn link(&mut self, to: u8) -> &mut Raw {
        &mut self.links[usize::from(to) - 1]
    }
}

#[test]
fn entries_of_a_replica_that_is_not_the_leader_are_refused_and_stored_nowhere() {
    let mut scene = scene();
    let before = scene.settle();
    let (term, last, ..) = before[1];
    let forged =
        Payload::Write { session: None, write: Write::One(Mutation::Set { key: b"forged", value: b"v" }) };
    for forged_term in [term, 99] {
        let mut entries = Vec::new();
        entry::encode(forged_term, last + 1, &forged, &mut entries);
        for to in [1, 2] {
            let append = Append {
                term: forged_term,
                previous_index: last,
                previous_term: term,
                commit: last + 1,
                round: 1,
                entries: &entries,
            };
            say(scene.link(to), &PeerMessage::Append(append));
            let (from, reject) = loop {
                match scene.heard.recv_timeout(AT_ONCE).unwrap() {
                    Heard::Reject(from, reject) => break (from, reject),
                    Heard::Stored(_) | Heard::Vote(..) => {}
                }
            };
            let expected = Reject { term, previous_index: last, round: 1, reason: RejectReason::NotLeader };
            assert_eq!((from, reject), (node(to), expected));
        }
    }
    assert_eq!(scene.settle(), before);
    let client = scene.cluster.client();
    assert!(smol::block_on(client.get("forged")).unwrap().value.is_none());
    scene.cluster.assert_serves();
    assert!(scene.cluster.server(2).log().contains("refused an append of node 3 in term 99"));
}

#[test]
fn a_request_for_a_vote_is_denied_and_raises_no_term() {
    let mut scene = scene();
    let before = scene.settle();
    for to in [1, 2] {
        let request =
            RequestVote { term: 99, pre_vote: false, hand_over: false, last_index: 1 << 40, last_term: 98 };
        say(scene.link(to), &PeerMessage::RequestVote(request));
        let (from, vote) = loop {
            match scene.heard.recv_timeout(AT_ONCE).unwrap() {
                Heard::Vote(from, vote) => break (from, vote),
                Heard::Stored(_) | Heard::Reject(..) => {}
            }
        };
        assert_eq!((from, vote.granted), (node(to), false));
    }
    assert_eq!(scene.settle(), before);
    scene.cluster.assert_serves();
}

#[test]
fn acknowledgements_of_what_was_never_sent_do_not_count() {
    let mut scene = scene();
    let [(term, last, ..), _] = scene.settle();
    // Without node 2 only the false one could complete a quorum.
    scene.cluster.server(2).pause();
    for (term, durable) in [(term, u64::MAX), (term, last + 1000), (term - 1, last + 1), (term + 9, last + 1)]
    {
        let (applied, applied_ago_us) = (durable, 0);
        let ack = Ack { term, durable, applied, applied_ago_us, round: 1, disk_us: 0, sync_us: 0 };
        say(scene.link(1), &PeerMessage::Ack(ack));
        let client = scene.cluster.client().with_deadline(Duration::from_millis(200));
        let result = smol::block_on(client.set("unheard", "v"));
        assert!(result.is_err(), "acknowledged by nobody: {result:?}");
    }
    scene.cluster.server(2).signal(Signal::CONT);
    scene.cluster.wait_ready();
    scene.cluster.assert_serves();
}

#[test]
fn a_replica_with_the_leaders_number_and_another_disk_is_refused() {
    let mut scene = scene();
    let before = scene.settle();
    let mut raw = Raw::connect(scene.cluster.addresses.peer(2));
    raw.send(&replica_hello(NAME, &identity(1, 0xfa15e)));
    match raw.message() {
        Reply::Refused(HelloRefusal::OtherIncarnation { node: refused, .. }) => assert_eq!(refused, node(1)),
        other => panic!("not refused: {other:?}"),
    }
    raw.assert_closed();
    assert_eq!(scene.settle(), before);
    scene.cluster.assert_serves();
}

#[test]
fn rubbish_on_the_link_of_a_member_closes_it_and_changes_nothing() {
    let mut scene = scene();
    let before = scene.settle();
    let memory = scene.cluster.server(2).memory();
    let mut random = fastrand::Rng::with_seed(0xbad);
    let mut rubbish =
        vec![claim(u32::MAX), claim(limits::PEER_BYTES_MAX as u32 + 1), framed(&[99]), framed(&[])];
    for _ in 0..50 {
        // Never one of the messages, whose numbers are low.
        let mut bytes = vec![0; random.usize(1..300)];
        random.fill(&mut bytes);
        bytes[0] |= 0x40;
        rubbish.push(framed(&bytes));
        rubbish.push([1, 2, 3, 4, 5, 6, 7, 8].iter().chain(&bytes).copied().collect());
    }
    for bytes in rubbish {
        for to in [1, 2] {
            scene.link(to).try_send(&bytes);
            // A short frame's end is waited for, until there is none.
            let _ = scene.link(to).socket.shutdown(Shutdown::Write);
            scene.link(to).assert_closed();
            scene.redial(to);
        }
    }
    assert_eq!(scene.settle(), before);
    memory.assert_grown_less_than(32, scene.cluster.server(2).memory());
    scene.cluster.assert_serves();
}
