//! A server of a few lines, which says what a test wants it to say.

#![allow(dead_code, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use quorate_protocol::handshake::{Hello, HelloRefusal, Limits, NodeAddress, Reply, Welcome};
use quorate_protocol::request::{
    Expected, Mutation, Operation, Request, SessionSequence, Token, Write as Change,
};
use quorate_protocol::response::{
    DiskStatus, ElectionStatus, FollowerStatus, Item, MessageCounts, Outcome, Receipt, Refusal, Response,
    Role, Status, Versioned, WriteResult,
};
use quorate_protocol::{Durability, Leadership, NodeId, Quorums, VERSION, frame, limits, parse};

/// One accepted connection, after the handshake.
pub(crate) struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
    used: usize,
}

impl Peer {
    fn accept(mut stream: TcpStream, refusal: Option<HelloRefusal>, in_flight_max: u32) -> Self {
        let node = node_at(stream.local_addr().unwrap().port());
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut peer = Self { stream: stream.try_clone().unwrap(), input: Vec::new(), used: 0 };
        let body = peer.frame().expect("a hello");
        Hello::parse(&body).expect("a hello");
        let reply = match refusal {
            Some(refusal) => Reply::Refused(refusal),
            None => Reply::Welcome(Welcome {
                version: VERSION,
                node,
                cluster: "test".into(),
                cluster_id: None,
                leader: None,
                nodes: Vec::new(),
                limits: Limits {
                    key_bytes_max: limits::KEY_BYTES_MAX as u32,
                    value_bytes_max: limits::VALUE_BYTES_MAX as u32,
                    request_bytes_max: limits::REQUEST_BYTES_MAX as u32,
                    in_flight_max,
                },
                replica: None,
            }),
        };
        let mut out = Vec::new();
        frame::encode(&reply, &mut out);
        stream.write_all(&out).unwrap();
        peer
    }

    /// The body of the next frame; none when the client has gone.
    pub(crate) fn frame(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(frame) = frame::decode(&self.input[self.used..], limits::REQUEST_BYTES_MAX).unwrap() {
                self.used += frame.bytes;
                return Some(frame.body.to_vec());
            }
            self.input.drain(..std::mem::take(&mut self.used));
            let mut buffer = [0; 64 << 10];
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(bytes) => self.input.extend_from_slice(&buffer[..bytes]),
            }
        }
    }

    /// Whether another frame can be read without waiting.
    fn has_frame(&self) -> bool {
        matches!(frame::decode(&self.input[self.used..], limits::REQUEST_BYTES_MAX), Ok(Some(_)))
    }

    /// The id of the next request.
    pub(crate) fn id(&mut self) -> u64 {
        let body = self.frame().expect("a request");
        parse::<Request<'_>>(&body).unwrap().id
    }

    /// The next request, as `look` sees it; and its id.
    pub(crate) fn request<T>(&mut self, look: impl FnOnce(&Operation<'_>) -> T) -> (u64, T) {
        let body = self.frame().expect("a request");
        let request = parse::<Request<'_>>(&body).unwrap();
        (request.id, look(&request.operation))
    }

    /// Opens a session.
    pub(crate) fn open_session(&mut self, session: u64) {
        let (id, ()) = self.request(|operation| assert_eq!(operation, &Operation::OpenSession));
        self.answer(id, written(session));
    }

    /// The next request's id, and its place in a session; it is a write.
    pub(crate) fn write(&mut self) -> (u64, Option<SessionSequence>) {
        self.request(|operation| match operation {
            Operation::Write { options, .. } => options.session,
            other => panic!("{other:?} is no write"),
        })
    }

    /// Answers a ping.
    pub(crate) fn pong(&mut self) {
        let id = self.id();
        self.answer(id, Outcome::Pong);
    }

    pub(crate) fn answer(&mut self, id: u64, outcome: Outcome<'_>) {
        let mut out = Vec::new();
        frame::encode(&Response { id, outcome }, &mut out);
        self.raw(&out);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        // The client may have gone.
        let _ = self.stream.write_all(bytes);
    }

    pub(crate) fn close(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

/// The node at a port: another one for each.
fn node_at(port: u16) -> NodeId {
    static PORTS: Mutex<Vec<u16>> = Mutex::new(Vec::new());
    let mut ports = PORTS.lock().unwrap();
    let known = ports.iter().position(|known| *known == port);
    let at = known.unwrap_or_else(|| {
        ports.push(port);
        ports.len() - 1
    });
    node(at as u8 + 1)
}

/// A server on a port of its own, whose connections go to the test one by one.
pub(crate) struct Fake {
    pub(crate) address: String,
    peers: Receiver<Peer>,
}

impl Fake {
    pub(crate) fn start() -> Self {
        Self::with_in_flight_max(1024)
    }

    pub(crate) fn with_in_flight_max(in_flight_max: u32) -> Self {
        let (sender, peers) = channel();
        Self {
            address: listen(move |stream| drop(sender.send(Peer::accept(stream, None, in_flight_max)))),
            peers,
        }
    }

    /// The next connection.
    pub(crate) fn peer(&self) -> Peer {
        self.peers.recv_timeout(Duration::from_secs(20)).expect("a connection")
    }
}

fn listen(mut each: impl FnMut(TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    thread::spawn(move || listener.incoming().flatten().for_each(&mut each));
    address
}

/// An address on which nobody listens.
pub(crate) fn nobody() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// A server that refuses every connection.
pub(crate) fn refusing(refusal: HelloRefusal) -> String {
    listen(move |stream| drop(Peer::accept(stream, Some(refusal.clone()), 1)))
}

/// A server that answers every request with the same refusal; says how many it has refused.
pub(crate) fn always(refusal: Refusal) -> (String, Receiver<()>) {
    let (sender, refused) = channel();
    let address = listen(move |stream| {
        let (refusal, sender): (_, Sender<()>) = (refusal.clone(), sender.clone());
        thread::spawn(move || {
            let mut peer = Peer::accept(stream, None, 1024);
            while let Some(body) = peer.frame() {
                let id = parse::<Request<'_>>(&body).unwrap().id;
                let _ = sender.send(());
                peer.answer(id, Outcome::Refused(refusal.clone()));
            }
        });
    });
    (address, refused)
}

type Data = BTreeMap<Vec<u8>, (u64, Vec<u8>)>;

/// A server that serves strictly one request after the other, and pauses before it answers every `nth` write;
/// says how often it has paused.
pub(crate) fn stalling(nth: u64, pause: Duration) -> (String, Arc<AtomicU64>) {
    let pauses = Arc::new(AtomicU64::new(0));
    let counter = pauses.clone();
    let mut writes = 0;
    let address = listen(move |stream| {
        let mut peer = Peer::accept(stream, None, 1024);
        while let Some(body) = peer.frame() {
            let id = parse::<Request<'_>>(&body).unwrap().id;
            writes += 1;
            if writes % nth == 0 {
                thread::sleep(pause);
                counter.fetch_add(1, Ordering::Relaxed);
            }
            peer.answer(id, written(writes));
        }
    });
    (address, pauses)
}

/// A server that keeps what it is given, in memory, as one node.
pub(crate) fn store() -> String {
    let state: Arc<Mutex<(u64, Data)>> = Arc::default();
    listen(move |stream| {
        let state = state.clone();
        thread::spawn(move || {
            let mut peer = Peer::accept(stream, None, 65536);
            let mut out = Vec::new();
            while let Some(body) = peer.frame() {
                let request: Request<'_> = parse(&body).unwrap();
                let (last, data) = &mut *state.lock().unwrap();
                let outcome = carry_out(&request.operation, last, data);
                frame::encode(&Response { id: request.id, outcome }, &mut out);
                if !peer.has_frame() {
                    peer.raw(&out);
                    out.clear();
                }
            }
        });
    })
}

fn carry_out<'a>(operation: &Operation<'_>, last: &mut u64, data: &'a mut Data) -> Outcome<'a> {
    let token = Token { term: 1, index: *last };
    match operation {
        Operation::Get { key, .. } => Outcome::Value {
            token,
            value: data.get(*key).map(|(revision, value)| Versioned { revision: *revision, value }),
        },
        Operation::Scan { range, items_max, .. } => {
            let mut inside = data.range(range.start.to_vec()..).filter(|(key, _)| range.end.includes(key));
            let item = |(key, (revision, value)): (&'a Vec<u8>, &'a (u64, Vec<u8>))| Item {
                key,
                versioned: Versioned { revision: *revision, value },
            };
            let items = inside.by_ref().take(*items_max as usize).map(item).collect();
            Outcome::Page { token, items, more: inside.next().is_some() }
        }
        Operation::Write { write, .. } => {
            *last += 1;
            Outcome::Written { receipt: receipt(*last), result: change(write, *last, data) }
        }
        Operation::Status { .. } => status(),
        Operation::Ping => Outcome::Pong,
        Operation::Admit { .. } => {
            Outcome::Written { receipt: receipt(*last), result: WriteResult::Applied { existed: 0 } }
        }
        Operation::HandOver { .. } => Outcome::HandedOver { term: 4 },
        Operation::OpenSession | Operation::CloseSession { .. } => {
            *last += 1;
            Outcome::Written { receipt: receipt(*last), result: WriteResult::Applied { existed: 0 } }
        }
        Operation::Cancel { .. } => Outcome::Pong,
        Operation::Watch { .. } => Outcome::Refused(Refusal::Unsupported("the fake does not".into())),
    }
}

fn change(write: &Change<'_>, index: u64, data: &mut Data) -> WriteResult {
    for (number, mutation) in write.mutations().iter().enumerate() {
        let revision = data.get(mutation.key()).map(|(revision, _)| *revision);
        if let Mutation::CompareAndSet { expected, .. } = mutation
            && revision
                != match expected {
                    Expected::Absent => None,
                    Expected::Revision(r) => Some(*r),
                }
        {
            return WriteResult::ConditionFailed { mutation: number as u32, revision };
        }
    }
    let mut existed = 0;
    for mutation in write.mutations() {
        existed += u32::from(match mutation {
            Mutation::Set { key, value } | Mutation::CompareAndSet { key, value, .. } => {
                data.insert(key.to_vec(), (index, value.to_vec())).is_some()
            }
            Mutation::Delete { key } => data.remove(*key).is_some(),
        });
    }
    WriteResult::Applied { existed }
}

pub(crate) fn node(id: u8) -> NodeId {
    id.try_into().unwrap()
}

pub(crate) fn receipt(index: u64) -> Receipt {
    Receipt {
        term: 1,
        index,
        holders: [node(1), node(2)].into_iter().collect(),
        durability: Durability::Fsync,
        survives_failover: true,
        survivable_losses: 1,
    }
}

pub(crate) fn written(index: u64) -> Outcome<'static> {
    Outcome::Written { receipt: receipt(index), result: WriteResult::Applied { existed: 0 } }
}

pub(crate) fn value(revision: u64, value: &[u8]) -> Outcome<'_> {
    Outcome::Value { token: Token { term: 1, index: revision }, value: Some(Versioned { revision, value }) }
}

pub(crate) fn not_leader(address: Option<&str>) -> Outcome<'static> {
    let leader = address.map(|address| NodeAddress { node: node(2), address: address.into() });
    Outcome::Refused(Refusal::NotLeader { leader })
}

pub(crate) fn status() -> Outcome<'static> {
    let follower = FollowerStatus {
        node: node(2),
        voting: true,
        reachable: true,
        obstacle: None,
        checkpoint: None,
        durable: 8,
        applied: 7,
        entries_behind: 1,
        bytes_behind: 130,
        lag_now_us: 1_234_567,
        lag_us: &[],
        queue_us: &[],
        network_us: &[],
        disk_us: &[],
        sync_us: &[],
        apply_us: &[],
        lag_entries: &[],
    };
    Outcome::Status(Box::new(Status {
        node: node(1),
        cluster: "test",
        formed: true,
        role: Role::Leader,
        term: 3,
        voted_for: Some(node(1)),
        leader: Some(NodeAddress { node: node(1), address: "127.0.0.1:7401".into() }),
        elections: ElectionStatus { won: 2, ..ElectionStatus::default() },
        sent: MessageCounts { append: 1_234_567, ..MessageCounts::default() },
        received: MessageCounts::default(),
        quorums: Quorums::new(3, 2).unwrap(),
        leadership: Leadership::Elected,
        durability: Durability::Fsync,
        last: 9,
        durable: 9,
        commit: 8,
        applied: 8,
        checkpoint: 0,
        log_first: 1,
        log_bytes: 1000,
        log_bytes_held: 0,
        keys: 4,
        store_bytes: 40,
        memory_bytes: 120,
        memory_bytes_max: 1 << 30,
        obstacle: None,
        voting: true,
        repairing: false,
        sessions: 12,
        session_results: 0,
        watches: 3,
        history_first: 0,
        history_bytes: 0,
        disk: DiskStatus::default(),
        followers: vec![follower],
    }))
}
