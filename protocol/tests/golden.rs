//! The bytes of every message, pinned in `golden.txt`: within a protocol version they never change.
//!
//! Each enum is listed with one value per variant ([`every!`]); a new variant does not compile until it is
//! listed here, and a listed one fails until its bytes are in the file. Structs are written out in full, so a new
//! field does not compile either. After an intended change, and with [`quorate_protocol::VERSION`] raised
//! where it must be, the file is written again by
//!
//! ```text
//! QUORATE_GOLDEN=write cargo test -p quorate-protocol --test golden
//! ```
//!
//! and its diff shows what the change does to the wire and the disks.

use std::collections::BTreeMap;
use std::fmt::{Debug, Write as _};
use std::path::PathBuf;
use std::sync::Once;

use quorate_protocol::entry::{self, EndedSession, Entry, Payload};
use quorate_protocol::handshake::{
    Hello, HelloRefusal, Limits, NodeAddress, Origin, ReplicaIdentity, Reply, Role as HelloRole, Welcome,
};
use quorate_protocol::peer::{
    Ack, Append, CheckpointAck, CheckpointChunk, CheckpointState, Inquire, PeerMessage, Position, Reject,
    RejectReason, RequestVote, TimeoutNow, Vote,
};
use quorate_protocol::request::{
    Acks, Consistency, Expected, Mutation, Operation, Range, RangeEnd, Request, SessionSequence, Token,
    Write, WriteOptions,
};
use quorate_protocol::response::{
    Change, CheckpointTransfer, DiskStatus, ElectionStatus, FollowerStatus, Item, MessageCounts, NewValue,
    Obstacle, Outcome, Receipt, Refusal, Response, Role, SessionError, Status, Versioned, WriteResult,
};
use quorate_protocol::{
    ClusterId, Durability, Incarnation, Leadership, Member, NodeId, Quorums, frame, parse,
};
use serde::{Deserialize, Serialize};

const HEADER: &str = "\
# The bytes of every message of the protocol: a name, then hex in groups of four bytes.
# Written by `QUORATE_GOLDEN=write cargo test -p quorate-protocol --test golden`; never edited by hand.
# Messages are frame bodies; `Frame` shows the header before a body, and entries have a header of their own.
";

/// One value per variant of an enum, named after its variant.
///
/// The match without a wildcard is what keeps a new variant from compiling until it is listed.
macro_rules! every {
    ($function:ident: $type:ident $(<$lifetime:lifetime>)? { $($variant:ident = $value:expr,)+ }) => {
        fn $function() -> Vec<(&'static str, $type $(<$lifetime>)?)> {
            let variant = |value: &$type| match value {
                $($type::$variant { .. } => stringify!($variant),)+
            };
            let values = vec![$((stringify!($variant), $value),)+];
            for (name, value) in &values {
                assert_eq!(*name, variant(value), "a value is listed under another variant's name");
            }
            values
        }
    };
}

const TOKEN: Token = Token { term: 7, index: 300 };
const SEQUENCE: SessionSequence = SessionSequence { session: 5, sequence: 130, lowest_open: 129 };
const CLUSTER: ClusterId = ClusterId(*b"0123456789abcdef");
const SET: Mutation<'static> = Mutation::Set { key: b"key", value: b"value" };

every!(durabilities: Durability {
    Fsync = Durability::Fsync,
    Os = Durability::Os,
});

every!(leaderships: Leadership {
    Configured = Leadership::Configured(node(1)),
    Elected = Leadership::Elected,
});

every!(hello_roles: HelloRole {
    Client = HelloRole::Client,
    Replica = HelloRole::Replica(identity()),
});

every!(replies: Reply {
    Welcome = Reply::Welcome(Welcome {
        version: 1,
        node: node(2),
        cluster: "quorate".into(),
        cluster_id: Some(CLUSTER),
        leader: Some(hint()),
        nodes: vec![hint()],
        limits: Limits {
            key_bytes_max: 4096,
            value_bytes_max: 1 << 20,
            request_bytes_max: 2 << 20,
            in_flight_max: 1024,
        },
        replica: None,
    }),
    Refused = Reply::Refused(HelloRefusal::NotQuorate),
});

every!(hello_refusals: HelloRefusal {
    NotQuorate = HelloRefusal::NotQuorate,
    Version = HelloRefusal::Version(2),
    Malformed = HelloRefusal::Malformed,
    WrongRole = HelloRefusal::WrongRole("clients".into()),
    OtherCluster = HelloRefusal::OtherCluster("quorate".into()),
    UnknownNode = HelloRefusal::UnknownNode(node(9)),
    OtherIncarnation = HelloRefusal::OtherIncarnation { node: node(3), expected: Incarnation(0x1122) },
    OtherSettings = HelloRefusal::OtherSettings("n=2".into()),
    OtherFormation = HelloRefusal::OtherFormation(CLUSTER),
    TooManyConnections = HelloRefusal::TooManyConnections,
    Stopping = HelloRefusal::Stopping,
    NodeTaken = HelloRefusal::NodeTaken {
        node: node(3),
        incumbent: "host:7403".into(),
        newcomer: "other:7403".into(),
    },
});

every!(consistencies: Consistency {
    Linearizable = Consistency::Linearizable,
    Session = Consistency::Session(TOKEN),
    Local = Consistency::Local,
});

every!(range_ends: RangeEnd<'static> {
    Open = RangeEnd::Open,
    Before = RangeEnd::Before(b"end"),
    Prefix = RangeEnd::Prefix(b"pre"),
});

every!(acks: Acks {
    Quorum = Acks::Quorum,
    Copies = Acks::Copies(3),
    All = Acks::All,
});

every!(expectations: Expected {
    Absent = Expected::Absent,
    Revision = Expected::Revision(300),
});

every!(mutations: Mutation<'static> {
    Set = SET,
    Delete = Mutation::Delete { key: b"key" },
    CompareAndSet = Mutation::CompareAndSet {
        key: b"key",
        expected: Expected::Revision(300),
        value: b"value",
    },
});

every!(writes: Write<'static> {
    One = Write::One(SET),
    Batch = Write::Batch(vec![SET, Mutation::Delete { key: b"other" }]),
});

every!(operations: Operation<'static> {
    Get = Operation::Get { consistency: Consistency::Linearizable, key: b"key" },
    Scan = Operation::Scan {
        consistency: Consistency::Local,
        range: Range { start: b"a", end: RangeEnd::Before(b"b") },
        items_max: 1000,
    },
    Write = Operation::Write {
        options: WriteOptions { acks: Acks::Copies(3), progress: true, session: Some(SEQUENCE) },
        write: Write::One(SET),
    },
    Status = Operation::Status { histograms: true },
    Admit = Operation::Admit { node: node(2) },
    HandOver = Operation::HandOver { to: Some(node(2)) },
    OpenSession = Operation::OpenSession,
    CloseSession = Operation::CloseSession { session: 300 },
    Watch = Operation::Watch {
        range: Range { start: b"a", end: RangeEnd::Prefix(b"a") },
        after: Some(TOKEN),
    },
    Cancel = Operation::Cancel { request: 130 },
    Ping = Operation::Ping,
});

every!(write_results: WriteResult {
    Applied = WriteResult::Applied { existed: 1 },
    ConditionFailed = WriteResult::ConditionFailed { mutation: 2, revision: Some(300) },
});

every!(roles: Role {
    Leader = Role::Leader,
    Follower = Role::Follower,
    Candidate = Role::Candidate,
});

every!(obstacles: Obstacle {
    DiskFull = Obstacle::DiskFull,
    MemoryFull = Obstacle::MemoryFull,
    DiskStalled = Obstacle::DiskStalled,
});

every!(refusals: Refusal {
    NotLeader = Refusal::NotLeader { leader: Some(hint()) },
    NoQuorum = Refusal::NoQuorum { have: 1, need: 2 },
    NotReady = Refusal::NotReady("why".into()),
    Overloaded = Refusal::Overloaded("why".into()),
    BadRequest = Refusal::BadRequest("why".into()),
    Unsupported = Refusal::Unsupported("why".into()),
    Blocked = Refusal::Blocked(Obstacle::DiskFull),
    Behind = Refusal::Behind { applied: 300 },
    TokenLost = Refusal::TokenLost,
    Stopping = Refusal::Stopping,
    BadFrame = Refusal::BadFrame("why".into()),
    Session = Refusal::Session(SessionError::SequencePassed),
    HistoryLost = Refusal::HistoryLost { after: 299, oldest: 300 },
});

every!(session_errors: SessionError {
    Expired = SessionError::Expired,
    SequenceReused = SessionError::SequenceReused,
    SequencePassed = SessionError::SequencePassed,
    SequenceBeyondWindow = SessionError::SequenceBeyondWindow,
});

every!(outcomes: Outcome<'static> {
    Written = Outcome::Written { receipt: receipt(), result: WriteResult::Applied { existed: 0 } },
    Value = Outcome::Value { token: TOKEN, value: Some(VERSIONED) },
    Page = Outcome::Page {
        token: TOKEN,
        items: vec![Item { key: b"key", versioned: VERSIONED }],
        more: true,
    },
    Status = Outcome::Status(Box::new(status())),
    Pong = Outcome::Pong,
    HandedOver = Outcome::HandedOver { term: 8 },
    Refused = Outcome::Refused(Refusal::TokenLost),
    Unknown = Outcome::Unknown { index: 300, copies: 1 },
    Stored = Outcome::Stored { receipt: receipt() },
    Progress = Outcome::Progress { receipt: receipt() },
    Changes = Outcome::Changes {
        through: TOKEN,
        changes: vec![
            Change { index: 299, key: b"key", value: Some(NewValue(b"value")) },
            Change { index: 300, key: b"key", value: None },
        ],
    },
});

every!(reject_reasons: RejectReason {
    StaleTerm = RejectReason::StaleTerm,
    NotLeader = RejectReason::NotLeader,
    Mismatch = RejectReason::Mismatch { hint: 299 },
    Blocked = RejectReason::Blocked(Obstacle::DiskStalled),
});

every!(peer_messages: PeerMessage<'static> {
    Stored = PeerMessage::Stored(CLUSTER),
    Append = PeerMessage::Append(Append {
        term: 7,
        previous_index: 300,
        previous_term: 6,
        commit: 299,
        round: 4,
        entries: b"entries",
    }),
    Ack = PeerMessage::Ack(Ack {
        term: 7,
        durable: 301,
        applied: 299,
        applied_ago_us: 700,
        round: 4,
        disk_us: 250,
        sync_us: 120,
    }),
    Reject = PeerMessage::Reject(Reject {
        term: 7,
        previous_index: 300,
        round: 4,
        reason: RejectReason::NotLeader,
    }),
    RequestVote = PeerMessage::RequestVote(RequestVote {
        term: 8,
        pre_vote: true,
        hand_over: false,
        last_index: 301,
        last_term: 7,
    }),
    Vote = PeerMessage::Vote(Vote { term: 8, pre_vote: true, granted: true }),
    TimeoutNow = PeerMessage::TimeoutNow(TimeoutNow { term: 7, needs: 3 }),
    Inquire = PeerMessage::Inquire(Inquire { term: 8, pre_vote: true, question: 5 }),
    Position = PeerMessage::Position(Position { term: 8, pre_vote: true, question: 5, last_index: 301, last_term: 7 }),
    CheckpointChunk = PeerMessage::CheckpointChunk(CheckpointChunk {
        term: 7,
        index: 300,
        total_bytes: 70_000,
        offset: 1000,
        round: 0,
        bytes: b"piece",
    }),
    CheckpointAck = PeerMessage::CheckpointAck(CheckpointAck {
        term: 7,
        index: 300,
        round: 12,
        state: CheckpointState::Received(1005),
    }),
});

every!(checkpoint_states: CheckpointState {
    Received = CheckpointState::Received(1005),
    Installed = CheckpointState::Installed,
    Damaged = CheckpointState::Damaged,
    Blocked = CheckpointState::Blocked(Obstacle::DiskFull),
});

every!(payloads: Payload<'static> {
    Noop = Payload::Noop,
    Write = Payload::Write { session: Some(SEQUENCE), write: Write::One(SET) },
    Admit = Payload::Admit(Member { node: node(2), incarnation: Incarnation(0x1122) }),
    OpenSession = Payload::OpenSession,
    EndSessions = Payload::EndSessions(vec![EndedSession { session: 130, last_used: 300 }]),
});

const VERSIONED: Versioned<'static> = Versioned { revision: 300, value: b"value" };

fn node(id: u8) -> NodeId {
    NodeId::try_from(id).unwrap()
}

fn hint() -> NodeAddress {
    NodeAddress { node: node(1), address: "127.0.0.1:7401".into() }
}

fn receipt() -> Receipt {
    Receipt {
        term: 7,
        index: 300,
        holders: [node(1), node(3)].into_iter().collect(),
        durability: Durability::Fsync,
        survives_failover: true,
        survivable_losses: 1,
    }
}

fn identity() -> ReplicaIdentity {
    ReplicaIdentity {
        node: node(2),
        incarnation: Incarnation(0x1122_3344_5566_7788),
        quorums: Quorums::new(3, 2).unwrap(),
        leadership: Leadership::Configured(node(1)),
        durability: Durability::Os,
        lease_ms: 300,
        origin: Some(Origin { index: 130, hash: [7; 32] }),
        stored: Some(CLUSTER),
        founders: vec![Member { node: node(2), incarnation: Incarnation(0x1122) }],
        formed: true,
        advertise: "127.0.0.1:7402".into(),
    }
}

fn status() -> Status<'static> {
    Status {
        node: node(1),
        cluster: "quorate",
        formed: true,
        role: Role::Leader,
        term: 7,
        voted_for: Some(node(1)),
        leader: Some(hint()),
        elections: ElectionStatus {
            pre_votes: 1,
            stood: 2,
            won: 3,
            votes_given: 4,
            votes_refused: 5,
            stepped_down: 6,
            followed: 7,
            truncations: 8,
            confirmations: 9,
        },
        sent: MessageCounts { append: 1, ack: 2, reject: 3, request_vote: 4, vote: 5, other: 6 },
        received: MessageCounts { append: 6, ack: 5, reject: 4, request_vote: 3, vote: 2, other: 1 },
        quorums: Quorums::new(3, 2).unwrap(),
        leadership: Leadership::Elected,
        durability: Durability::Fsync,
        last: 301,
        durable: 300,
        commit: 299,
        applied: 298,
        checkpoint: 200,
        log_first: 101,
        log_bytes: 4096,
        log_bytes_held: 1024,
        keys: 10,
        store_bytes: 1160,
        memory_bytes: 2320,
        memory_bytes_max: 1 << 30,
        obstacle: Some(Obstacle::MemoryFull),
        voting: true,
        repairing: true,
        sessions: 3,
        session_results: 12,
        watches: 2,
        history_first: 250,
        history_bytes: 8192,
        disk: DiskStatus {
            syncs: 20,
            entries: 300,
            bytes: 40_000,
            busy_us: 2500,
            sync_us: b"sync",
            batch_entries: b"entries",
            batch_bytes: b"bytes",
        },
        followers: vec![FollowerStatus {
            node: node(2),
            voting: true,
            reachable: true,
            obstacle: None,
            checkpoint: Some(CheckpointTransfer { index: 200, bytes_received: 1000, bytes_total: 4096 }),
            durable: 300,
            applied: 298,
            entries_behind: 1,
            bytes_behind: 130,
            lag_now_us: 450,
            lag_us: b"us",
            queue_us: b"queue",
            network_us: b"network",
            disk_us: b"disk",
            sync_us: b"sync",
            apply_us: b"apply",
            lag_entries: b"entries",
        }],
    }
}

/// Named bytes, and the check that the bytes of that name in the file give the value back.
struct Golden {
    name: String,
    bytes: Vec<u8>,
    decodes: Box<dyn Fn(&'static [u8])>,
}

/// One value of a message or of a part of one.
fn golden<T>(name: String, value: T) -> Golden
where
    T: Serialize + Deserialize<'static> + PartialEq + Debug + 'static,
{
    let mut bytes = Vec::new();
    frame::encode(&value, &mut bytes);
    Golden {
        decodes: Box::new({
            let name = name.clone();
            move |body| assert_eq!(parse::<T>(body).as_ref(), Ok(&value), "{name}")
        }),
        name,
        bytes: bytes.split_off(frame::HEADER_BYTES),
    }
}

/// All values of a list, as `Prefix::Variant`.
fn all<T>(prefix: &str, values: Vec<(&'static str, T)>) -> Vec<Golden>
where
    T: Serialize + Deserialize<'static> + PartialEq + Debug + 'static,
{
    values.into_iter().map(|(variant, value)| golden(format!("{prefix}::{variant}"), value)).collect()
}

/// The header that stands before every body.
fn golden_frame() -> Golden {
    let mut bytes = Vec::new();
    frame::encode(&Request { id: 9, deadline_ms: 2000, operation: Operation::Ping }, &mut bytes);
    Golden {
        name: "Frame".into(),
        decodes: Box::new(|bytes| {
            let frame = frame::decode(bytes, 16).unwrap().expect("a whole frame");
            assert_eq!((frame.body, frame.bytes), (&bytes[frame::HEADER_BYTES..], bytes.len()));
        }),
        bytes,
    }
}

/// A hello, which has magic and version in front.
fn golden_hello(role: &'static str, value: HelloRole) -> Golden {
    let hello = Hello { cluster: "quorate", authentication: b"", role: value };
    let mut bytes = Vec::new();
    hello.encode(&mut bytes);
    Golden {
        name: format!("Hello::{role}"),
        decodes: Box::new(move |body| assert_eq!(Hello::parse(body).as_ref(), Ok(&hello))),
        bytes: bytes.split_off(frame::HEADER_BYTES),
    }
}

/// An entry, with its header.
fn golden_entry(name: &'static str, payload: Payload<'static>) -> Golden {
    let mut bytes = Vec::new();
    entry::encode(7, 300, &payload, &mut bytes);
    Golden {
        name: format!("Entry::{name}"),
        decodes: Box::new(move |bytes| {
            let entry = Entry::parse(bytes).unwrap();
            assert_eq!((entry.term, entry.index, entry.bytes), (7, 300, bytes));
            assert_eq!(entry.payload().as_ref(), Ok(&payload));
        }),
        bytes,
    }
}

/// Everything that is pinned, in the order of the file.
fn goldens() -> Vec<Golden> {
    let requests = operations()
        .into_iter()
        .map(|(name, operation)| (name, Request { id: 300, deadline_ms: 2000, operation }))
        .collect();
    let responses =
        outcomes().into_iter().map(|(name, outcome)| (name, Response { id: 300, outcome })).collect();
    let welcome_of_a_replica = Reply::Welcome(Welcome {
        version: 1,
        node: node(2),
        cluster: "quorate".into(),
        cluster_id: None,
        leader: None,
        nodes: Vec::new(),
        limits: Limits { key_bytes_max: 1, value_bytes_max: 2, request_bytes_max: 3, in_flight_max: 4 },
        replica: Some(identity()),
    });

    let mut goldens = vec![golden_frame()];
    goldens.extend(hello_roles().into_iter().map(|(name, role)| golden_hello(name, role)));
    goldens.extend(all("Reply", replies()));
    goldens.push(golden("Reply::Welcome(replica)".into(), welcome_of_a_replica));
    goldens.extend(all("HelloRefusal", hello_refusals()));
    goldens.extend(all("Durability", durabilities()));
    goldens.extend(all("Leadership", leaderships()));
    goldens.extend(all("Request", requests));
    goldens.extend(all("Consistency", consistencies()));
    goldens.extend(all("RangeEnd", range_ends()));
    goldens.extend(all("Acks", acks()));
    goldens.extend(all("Write", writes()));
    goldens.extend(all("Mutation", mutations()));
    goldens.extend(all("Expected", expectations()));
    goldens.extend(all("Response", responses));
    goldens.extend(all("WriteResult", write_results()));
    goldens.extend(all("Role", roles()));
    goldens.extend(all("Obstacle", obstacles()));
    goldens.extend(all("Refusal", refusals()));
    goldens.extend(all("SessionError", session_errors()));
    goldens.extend(all("PeerMessage", peer_messages()));
    goldens.extend(all("RejectReason", reject_reasons()));
    goldens.extend(all("CheckpointState", checkpoint_states()));
    goldens.extend(payloads().into_iter().map(|(name, payload)| golden_entry(name, payload)));
    goldens
}

fn path() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "golden.txt"].iter().collect()
}

fn hex(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (position, byte) in bytes.iter().enumerate() {
        if position > 0 && position % 4 == 0 {
            text.push(' ');
        }
        write!(text, "{byte:02x}").expect("a String takes everything");
    }
    text
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    assert_eq!(digits.len() % 2, 0, "half a byte in {text:?}");
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex digits"))
        .collect()
}

/// What the file pins, by name; written first if that is asked for.
fn pinned() -> BTreeMap<String, String> {
    static WRITTEN: Once = Once::new(); // the tests run side by side
    if std::env::var("QUORATE_GOLDEN").as_deref() == Ok("write") {
        WRITTEN.call_once(|| {
            let lines =
                goldens().into_iter().map(|golden| format!("{:32} {}\n", golden.name, hex(&golden.bytes)));
            std::fs::write(path(), format!("{HEADER}\n{}", lines.collect::<String>())).unwrap();
        });
    }
    let text = std::fs::read_to_string(path()).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let mut pinned = BTreeMap::new();
    for line in lines {
        let (name, hex) = line.split_once(' ').expect("a name, then hex");
        let earlier = pinned.insert(name.to_owned(), hex.trim().to_owned());
        assert_eq!(earlier, None, "{name} is pinned twice");
    }
    pinned
}

#[test]
fn every_message_is_encoded_to_its_pinned_bytes() {
    let pinned = pinned();
    let encoded: BTreeMap<String, String> =
        goldens().into_iter().map(|golden| (golden.name, hex(&golden.bytes))).collect();
    for (name, hex) in &encoded {
        let expected = pinned.get(name).unwrap_or_else(|| panic!("{name} has no bytes in golden.txt"));
        assert_eq!(hex, expected, "{name} has changed its bytes: old data and other versions cannot read it");
    }
    let gone: Vec<_> = pinned.keys().filter(|name| !encoded.contains_key(*name)).collect();
    assert!(gone.is_empty(), "golden.txt pins what no longer exists: {gone:?}");
}

#[test]
fn pinned_bytes_are_decoded_to_their_message() {
    let pinned = pinned();
    for golden in goldens() {
        let hex =
            pinned.get(&golden.name).unwrap_or_else(|| panic!("{} has no bytes in golden.txt", golden.name));
        (golden.decodes)(unhex(hex).leak());
    }
}
