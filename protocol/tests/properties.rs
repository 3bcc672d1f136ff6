//! What holds for every message and for every run of bytes: round trips, no prefix is a message, nothing that
//! a stranger sends makes a decoder panic, and damage is found.
//!
//! The values borrow leaked bytes: messages borrow from their buffer, a strategy has none to lend, and the
//! process is short. Cases are the same in every run; `PROPTEST_RNG_SEED` and `PROPTEST_CASES` give others.

use proptest::array;
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::Index as Pick;
use proptest::test_runner::RngSeed;
use quorate_protocol::entry::{self, EndedSession, Entry, EntryError, Payload};
use quorate_protocol::frame::{self, FrameError};
use quorate_protocol::handshake::{
    Hello, HelloError, HelloRefusal, Limits, NodeAddress, Origin, ReplicaIdentity, Reply, Role as HelloRole,
    Welcome,
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
    ClusterId, Durability, Incarnation, Leadership, Member, MessageError, NodeId, NodeSet, Quorums, limits,
    parse,
};

fn config() -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

// --- any message -------------------------------------------------------------------------------------------

fn any_bytes() -> impl Strategy<Value = &'static [u8]> {
    vec(any::<u8>(), 0..200).prop_map(|bytes| &*bytes.leak())
}

fn any_text() -> impl Strategy<Value = String> {
    "\\PC{0,20}"
}

fn any_str() -> impl Strategy<Value = &'static str> {
    any_text().prop_map(|text| &*text.leak())
}

fn any_node() -> impl Strategy<Value = NodeId> {
    (1..=NodeId::MAX.get()).prop_map(|id| NodeId::try_from(id).unwrap())
}

fn any_nodes() -> impl Strategy<Value = NodeSet> {
    vec(any_node(), 0..8).prop_map(|nodes| nodes.into_iter().collect())
}

fn any_quorums() -> impl Strategy<Value = Quorums> {
    (1..=limits::REPLICAS_MAX)
        .prop_flat_map(|replicas| (Just(replicas), 1..=replicas))
        .prop_map(|(replicas, quorum)| Quorums::new(replicas, quorum).unwrap())
}

fn any_durability() -> impl Strategy<Value = Durability> {
    prop_oneof![Just(Durability::Fsync), Just(Durability::Os)]
}

fn any_cluster_id() -> impl Strategy<Value = ClusterId> {
    any::<[u8; 16]>().prop_map(ClusterId)
}

fn any_hint() -> impl Strategy<Value = NodeAddress> {
    (any_node(), any_text()).prop_map(|(node, address)| NodeAddress { node, address })
}

fn any_identity() -> impl Strategy<Value = ReplicaIdentity> {
    (
        any_node(),
        any::<u64>().prop_map(Incarnation),
        any_quorums(),
        any_leadership(),
        (any_durability(), any::<u32>()),
        option::of(any_origin()),
        (option::of(any_cluster_id()), vec(any_member(), 0..=limits::REPLICAS_MAX as usize), any::<bool>()),
        any_text(),
    )
        .prop_map(
            |(node, incarnation, quorums, leadership, (durability, lease_ms), origin, forming, advertise)| {
                let (stored, founders, formed) = forming;
                ReplicaIdentity {
                    node,
                    incarnation,
                    quorums,
                    leadership,
                    durability,
                    lease_ms,
                    origin,
                    stored,
                    founders,
                    formed,
                    advertise,
                }
            },
        )
}

fn any_member() -> impl Strategy<Value = Member> {
    (any_node(), any::<u64>())
        .prop_map(|(node, incarnation)| Member { node, incarnation: Incarnation(incarnation) })
}

fn any_leadership() -> impl Strategy<Value = Leadership> {
    prop_oneof![any_node().prop_map(Leadership::Configured), Just(Leadership::Elected)]
}

fn any_origin() -> impl Strategy<Value = Origin> {
    any::<(u64, [u8; 32])>().prop_map(|(index, hash)| Origin { index, hash })
}

fn any_hello() -> impl Strategy<Value = Hello<'static>> {
    let role = prop_oneof![Just(HelloRole::Client), any_identity().prop_map(HelloRole::Replica)];
    (any_str(), any_bytes(), role).prop_map(|(cluster, authentication, role)| Hello {
        cluster,
        authentication,
        role,
    })
}

fn any_hello_refusal() -> impl Strategy<Value = HelloRefusal> {
    prop_oneof![
        Just(HelloRefusal::NotQuorate),
        any::<u16>().prop_map(HelloRefusal::Version),
        Just(HelloRefusal::Malformed),
        any_text().prop_map(HelloRefusal::WrongRole),
        any_text().prop_map(HelloRefusal::OtherCluster),
        any_node().prop_map(HelloRefusal::UnknownNode),
        (any_node(), any::<u64>()).prop_map(|(node, expected)| HelloRefusal::OtherIncarnation {
            node,
            expected: Incarnation(expected),
        }),
        any_text().prop_map(HelloRefusal::OtherSettings),
        any_cluster_id().prop_map(HelloRefusal::OtherFormation),
        Just(HelloRefusal::TooManyConnections),
        Just(HelloRefusal::Stopping),
        (any_node(), any_text(), any_text())
            .prop_map(|(node, incumbent, newcomer)| HelloRefusal::NodeTaken { node, incumbent, newcomer }),
    ]
}

fn any_reply() -> impl Strategy<Value = Reply> {
    let limits =
        any::<[u32; 4]>().prop_map(|[key_bytes_max, value_bytes_max, request_bytes_max, in_flight_max]| {
            Limits { key_bytes_max, value_bytes_max, request_bytes_max, in_flight_max }
        });
    let nodes = vec(any_hint(), 0..=limits::REPLICAS_MAX as usize);
    let places = (option::of(any_hint()), nodes);
    let cluster = (any_text(), option::of(any_cluster_id()));
    let welcome = (any::<u16>(), any_node(), cluster, places, limits, option::of(any_identity())).prop_map(
        |(version, node, (cluster, cluster_id), (leader, nodes), limits, replica)| Welcome {
            version,
            node,
            cluster,
            cluster_id,
            leader,
            nodes,
            limits,
            replica,
        },
    );
    prop_oneof![welcome.prop_map(Reply::Welcome), any_hello_refusal().prop_map(Reply::Refused)]
}

fn any_token() -> impl Strategy<Value = Token> {
    any::<(u64, u64)>().prop_map(|(term, index)| Token { term, index })
}

fn any_consistency() -> impl Strategy<Value = Consistency> {
    prop_oneof![
        Just(Consistency::Linearizable),
        any_token().prop_map(Consistency::Session),
        Just(Consistency::Local),
    ]
}

fn any_range() -> impl Strategy<Value = Range<'static>> {
    let end = prop_oneof![
        Just(RangeEnd::Open),
        any_bytes().prop_map(RangeEnd::Before),
        any_bytes().prop_map(RangeEnd::Prefix),
    ];
    (any_bytes(), end).prop_map(|(start, end)| Range { start, end })
}

fn any_session() -> impl Strategy<Value = Option<SessionSequence>> {
    option::of(any::<[u64; 3]>().prop_map(|[session, sequence, lowest_open]| SessionSequence {
        session,
        sequence,
        lowest_open,
    }))
}

fn any_options() -> impl Strategy<Value = WriteOptions> {
    let acks = prop_oneof![Just(Acks::Quorum), any::<u8>().prop_map(Acks::Copies), Just(Acks::All)];
    (acks, any::<bool>(), any_session()).prop_map(|(acks, progress, session)| WriteOptions {
        acks,
        progress,
        session,
    })
}

fn any_mutation() -> impl Strategy<Value = Mutation<'static>> {
    let expected = prop_oneof![Just(Expected::Absent), any::<u64>().prop_map(Expected::Revision)];
    prop_oneof![
        (any_bytes(), any_bytes()).prop_map(|(key, value)| Mutation::Set { key, value }),
        any_bytes().prop_map(|key| Mutation::Delete { key }),
        (any_bytes(), expected, any_bytes()).prop_map(|(key, expected, value)| Mutation::CompareAndSet {
            key,
            expected,
            value
        }),
    ]
}

fn any_write() -> impl Strategy<Value = Write<'static>> {
    prop_oneof![any_mutation().prop_map(Write::One), vec(any_mutation(), 0..10).prop_map(Write::Batch)]
}

fn any_request() -> impl Strategy<Value = Request<'static>> {
    let operation = prop_oneof![
        (any_consistency(), any_bytes()).prop_map(|(consistency, key)| Operation::Get { consistency, key }),
        (any_consistency(), any_range(), any::<u32>())
            .prop_map(|(consistency, range, items_max)| Operation::Scan { consistency, range, items_max }),
        (any_options(), any_write()).prop_map(|(options, write)| Operation::Write { options, write }),
        any::<bool>().prop_map(|histograms| Operation::Status { histograms }),
        Just(Operation::Ping),
        option::of(any_node()).prop_map(|to| Operation::HandOver { to }),
        any_node().prop_map(|node| Operation::Admit { node }),
        Just(Operation::OpenSession),
        any::<u64>().prop_map(|session| Operation::CloseSession { session }),
        (any_range(), option::of(any_token())).prop_map(|(range, after)| Operation::Watch { range, after }),
        any::<u64>().prop_map(|request| Operation::Cancel { request }),
    ];
    (any::<u64>(), any::<u32>(), operation).prop_map(|(id, deadline_ms, operation)| Request {
        id,
        deadline_ms,
        operation,
    })
}

fn any_receipt() -> impl Strategy<Value = Receipt> {
    (any::<(u64, u64)>(), any_nodes(), any_durability(), any::<bool>(), any::<u8>()).prop_map(
        |((term, index), holders, durability, survives_failover, survivable_losses)| Receipt {
            term,
            index,
            holders,
            durability,
            survives_failover,
            survivable_losses,
        },
    )
}

fn any_write_result() -> impl Strategy<Value = WriteResult> {
    prop_oneof![
        any::<u32>().prop_map(|existed| WriteResult::Applied { existed }),
        any::<(u32, Option<u64>)>()
            .prop_map(|(mutation, revision)| WriteResult::ConditionFailed { mutation, revision }),
    ]
}

fn any_versioned() -> impl Strategy<Value = Versioned<'static>> {
    (any::<u64>(), any_bytes()).prop_map(|(revision, value)| Versioned { revision, value })
}

fn any_item() -> impl Strategy<Value = Item<'static>> {
    (any_bytes(), any_versioned()).prop_map(|(key, versioned)| Item { key, versioned })
}

fn any_refusal() -> impl Strategy<Value = Refusal> {
    prop_oneof![
        option::of(any_hint()).prop_map(|leader| Refusal::NotLeader { leader }),
        any::<(u8, u8)>().prop_map(|(have, need)| Refusal::NoQuorum { have, need }),
        any_text().prop_map(Refusal::NotReady),
        any_text().prop_map(Refusal::Overloaded),
        any_text().prop_map(Refusal::BadRequest),
        any_text().prop_map(Refusal::Unsupported),
        any_obstacle().prop_map(Refusal::Blocked),
        any::<u64>().prop_map(|applied| Refusal::Behind { applied }),
        Just(Refusal::TokenLost),
        Just(Refusal::Stopping),
        any_text().prop_map(Refusal::BadFrame),
        any_session_error().prop_map(Refusal::Session),
        any::<(u64, u64)>().prop_map(|(after, oldest)| Refusal::HistoryLost { after, oldest }),
    ]
}

fn any_session_error() -> impl Strategy<Value = SessionError> {
    prop_oneof![
        Just(SessionError::Expired),
        Just(SessionError::SequenceReused),
        Just(SessionError::SequencePassed),
        Just(SessionError::SequenceBeyondWindow),
    ]
}

fn any_change() -> impl Strategy<Value = Change<'static>> {
    (any::<u64>(), any_bytes(), option::of(any_bytes())).prop_map(|(index, key, value)| Change {
        index,
        key,
        value: value.map(NewValue),
    })
}

fn any_obstacle() -> impl Strategy<Value = Obstacle> {
    prop_oneof![Just(Obstacle::DiskFull), Just(Obstacle::MemoryFull), Just(Obstacle::DiskStalled)]
}

fn any_follower() -> impl Strategy<Value = FollowerStatus<'static>> {
    let checkpoint = any::<[u64; 3]>().prop_map(|[index, bytes_received, bytes_total]| CheckpointTransfer {
        index,
        bytes_received,
        bytes_total,
    });
    let state = (any::<[bool; 2]>(), option::of(any_obstacle()), option::of(checkpoint));
    (any_node(), state, any::<[u64; 5]>(), array::uniform7(any_bytes())).prop_map(
        |(node, ([voting, reachable], obstacle, checkpoint), numbers, histograms)| {
            let [durable, applied, entries_behind, bytes_behind, lag_now_us] = numbers;
            let [lag_us, queue_us, network_us, disk_us, sync_us, apply_us, lag_entries] = histograms;
            FollowerStatus {
                node,
                voting,
                reachable,
                obstacle,
                checkpoint,
                durable,
                applied,
                entries_behind,
                bytes_behind,
                lag_now_us,
                lag_us,
                queue_us,
                network_us,
                disk_us,
                sync_us,
                apply_us,
                lag_entries,
            }
        },
    )
}

fn election_status(counts: [u64; 9]) -> ElectionStatus {
    let [
        pre_votes,
        stood,
        won,
        votes_given,
        votes_refused,
        stepped_down,
        followed,
        truncations,
        confirmations,
    ] = counts;
    ElectionStatus {
        pre_votes,
        stood,
        won,
        votes_given,
        votes_refused,
        stepped_down,
        followed,
        truncations,
        confirmations,
    }
}

fn message_counts([append, ack, reject, request_vote, vote, other]: [u64; 6]) -> MessageCounts {
    MessageCounts { append, ack, reject, request_vote, vote, other }
}

fn any_status() -> impl Strategy<Value = Status<'static>> {
    let role = prop_oneof![Just(Role::Leader), Just(Role::Follower), Just(Role::Candidate)];
    let who = (any_node(), any_str(), any::<bool>(), role, option::of(any_hint()));
    let settings = (any_quorums(), any_durability(), any_leadership());
    let votes = (option::of(any_node()), any::<[u64; 9]>(), any::<[u64; 6]>(), any::<[u64; 6]>());
    let followers = vec(any_follower(), 0..=limits::REPLICAS_MAX as usize);
    let obstacle = (option::of(any_obstacle()), any::<[bool; 2]>());
    let parts = (who, settings, votes, any::<[u64; 22]>(), obstacle, array::uniform3(any_bytes()), followers);
    parts.prop_map(|(who, settings, votes, numbers, obstacle, histograms, followers)| {
        let (voted_for, elections, sent, received) = votes;
        let (obstacle, [voting, repairing]) = obstacle;
        let (node, cluster, formed, role, leader) = who;
        let (quorums, durability, leadership) = settings;
        let [term, last, durable, commit, applied, checkpoint, log_first, log_bytes, log_bytes_held, ..] =
            numbers;
        let [.., keys, store_bytes, memory_bytes, memory_bytes_max, syncs, entries, bytes, busy_us] = numbers;
        let [_, _, _, _, _, _, _, _, _, sessions, session_results, watches, history_first, history_bytes, ..] =
            numbers;
        let [sync_us, batch_entries, batch_bytes] = histograms;
        Status {
            node,
            cluster,
            formed,
            role,
            term,
            voted_for,
            leader,
            elections: election_status(elections),
            sent: message_counts(sent),
            received: message_counts(received),
            quorums,
            leadership,
            durability,
            last,
            durable,
            commit,
            applied,
            checkpoint,
            log_first,
            log_bytes,
            log_bytes_held,
            keys,
            store_bytes,
            memory_bytes,
            memory_bytes_max,
            obstacle,
            voting,
            repairing,
            sessions,
            session_results,
            watches,
            history_first,
            history_bytes,
            disk: DiskStatus { syncs, entries, bytes, busy_us, sync_us, batch_entries, batch_bytes },
            followers,
        }
    })
}

fn any_response() -> impl Strategy<Value = Response<'static>> {
    let outcome =
        prop_oneof![
            (any_receipt(), any_write_result())
                .prop_map(|(receipt, result)| Outcome::Written { receipt, result }),
            (any_token(), option::of(any_versioned()))
                .prop_map(|(token, value)| Outcome::Value { token, value }),
            (any_token(), vec(any_item(), 0..10), any::<bool>())
                .prop_map(|(token, items, more)| Outcome::Page { token, items, more }),
            any_status().prop_map(|status| Outcome::Status(Box::new(status))),
            Just(Outcome::Pong),
            any_refusal().prop_map(Outcome::Refused),
            any::<(u64, u8)>().prop_map(|(index, copies)| Outcome::Unknown { index, copies }),
            any::<u64>().prop_map(|term| Outcome::HandedOver { term }),
            any_receipt().prop_map(|receipt| Outcome::Stored { receipt }),
            any_receipt().prop_map(|receipt| Outcome::Progress { receipt }),
            (any_token(), vec(any_change(), 0..10))
                .prop_map(|(through, changes)| Outcome::Changes { through, changes }),
        ];
    (any::<u64>(), outcome).prop_map(|(id, outcome)| Response { id, outcome })
}

fn any_peer_message() -> impl Strategy<Value = PeerMessage<'static>> {
    let append = (any::<[u64; 5]>(), any_bytes()).prop_map(|(numbers, entries)| {
        let [term, previous_index, previous_term, commit, round] = numbers;
        Append { term, previous_index, previous_term, commit, round, entries }
    });
    let ack =
        (any::<[u64; 4]>(), any::<[u32; 3]>()).prop_map(|(numbers, [applied_ago_us, disk_us, sync_us])| {
            let [term, durable, applied, round] = numbers;
            Ack { term, durable, applied, applied_ago_us, round, disk_us, sync_us }
        });
    let reason = prop_oneof![
        Just(RejectReason::StaleTerm),
        Just(RejectReason::NotLeader),
        any::<u64>().prop_map(|hint| RejectReason::Mismatch { hint }),
        any_obstacle().prop_map(RejectReason::Blocked),
    ];
    let reject = (any::<[u64; 3]>(), reason).prop_map(|([term, previous_index, round], reason)| Reject {
        round,
        term,
        previous_index,
        reason,
    });
    let request_vote =
        any::<([u64; 3], bool, bool)>().prop_map(|([term, last_index, last_term], pre_vote, hand_over)| {
            RequestVote { term, pre_vote, hand_over, last_index, last_term }
        });
    let vote =
        any::<(u64, bool, bool)>().prop_map(|(term, pre_vote, granted)| Vote { term, pre_vote, granted });
    prop_oneof![
        any_cluster_id().prop_map(PeerMessage::Stored),
        append.prop_map(PeerMessage::Append),
        ack.prop_map(PeerMessage::Ack),
        reject.prop_map(PeerMessage::Reject),
        request_vote.prop_map(PeerMessage::RequestVote),
        vote.prop_map(PeerMessage::Vote),
        any::<(u64, u8)>().prop_map(|(term, needs)| PeerMessage::TimeoutNow(TimeoutNow { term, needs })),
        any::<(u64, bool, u64)>().prop_map(|(term, pre_vote, question)| {
            PeerMessage::Inquire(Inquire { term, pre_vote, question })
        }),
        any::<([u64; 4], bool)>().prop_map(|([term, question, last_index, last_term], pre_vote)| {
            PeerMessage::Position(Position { term, pre_vote, question, last_index, last_term })
        }),
        any_checkpoint_chunk().prop_map(PeerMessage::CheckpointChunk),
        any_checkpoint_ack().prop_map(PeerMessage::CheckpointAck),
    ]
}

fn any_checkpoint_chunk() -> impl Strategy<Value = CheckpointChunk<'static>> {
    (any::<[u64; 5]>(), any_bytes()).prop_map(|([term, index, total_bytes, offset, round], bytes)| {
        CheckpointChunk { term, index, total_bytes, offset, round, bytes }
    })
}

fn any_checkpoint_ack() -> impl Strategy<Value = CheckpointAck> {
    let state = prop_oneof![
        any::<u64>().prop_map(CheckpointState::Received),
        Just(CheckpointState::Installed),
        Just(CheckpointState::Damaged),
        any_obstacle().prop_map(CheckpointState::Blocked),
    ];
    (any::<[u64; 3]>(), state).prop_map(|([term, index, round], state)| CheckpointAck {
        term,
        index,
        round,
        state,
    })
}

fn any_payload() -> impl Strategy<Value = Payload<'static>> {
    prop_oneof![
        Just(Payload::Noop),
        (any_node(), any::<u64>()).prop_map(|(node, incarnation)| {
            Payload::Admit(Member { node, incarnation: Incarnation(incarnation) })
        }),
        (any_session(), any_write()).prop_map(|(session, write)| Payload::Write { session, write }),
        Just(Payload::OpenSession),
        vec(any::<(u64, u64)>(), 0..10).prop_map(|ended| {
            let ended = ended.into_iter().map(|(session, last_used)| EndedSession { session, last_used });
            Payload::EndSessions(ended.collect())
        }),
    ]
}

// --- what all messages have in common ----------------------------------------------------------------------

/// The properties of one kind of message, whose values come from `$strategy`.
macro_rules! message_properties {
    ($module:ident, $message:ident, $strategy:expr) => {
        mod $module {
            use super::*;

            fn encode(message: &impl serde::Serialize) -> Vec<u8> {
                let mut framed = Vec::new();
                frame::encode(message, &mut framed);
                framed.split_off(frame::HEADER_BYTES)
            }

            proptest! {
                #![proptest_config(config())]

                #[test]
                fn a_message_is_decoded_to_what_was_encoded(message in $strategy) {
                    let body = encode(&message);
                    prop_assert_eq!(parse::<$message>(&body), Ok(message));
                }

                #[test]
                fn no_prefix_of_a_message_is_a_message(message in $strategy) {
                    let body = encode(&message);
                    for length in 0..body.len() {
                        prop_assert_eq!(parse::<$message>(&body[..length]), Err(MessageError::Malformed));
                    }
                }

                #[test]
                fn bytes_after_a_message_are_refused(message in $strategy, more in vec(any::<u8>(), 1..20)) {
                    let mut body = encode(&message);
                    body.extend_from_slice(&more);
                    prop_assert_eq!(
                        parse::<$message>(&body),
                        Err(MessageError::TrailingBytes(more.len()))
                    );
                }

                #[test]
                fn a_damaged_message_never_panics_and_what_it_decodes_to_is_a_message(
                    message in $strategy,
                    damage in vec((any::<Pick>(), any::<u8>()), 1..4),
                ) {
                    let mut body = encode(&message);
                    for (place, byte) in damage {
                        let place = place.index(body.len());
                        body[place] = byte;
                    }
                    if let Ok(other) = parse::<$message>(&body) {
                        let again = encode(&other);
                        prop_assert_eq!(parse::<$message>(&again), Ok(other));
                    }
                }

                #[test]
                fn random_bytes_never_panic_and_what_they_decode_to_is_a_message(
                    body in vec(any::<u8>(), 0..300),
                ) {
                    if let Ok(message) = parse::<$message>(&body) {
                        let again = encode(&message);
                        prop_assert_eq!(parse::<$message>(&again), Ok(message));
                    }
                }
            }
        }
    };
}

message_properties!(requests, Request, any_request());
message_properties!(responses, Response, any_response());
message_properties!(peer_messages, PeerMessage, any_peer_message());
message_properties!(replies, Reply, any_reply());
message_properties!(payloads, Payload, any_payload());

// --- hellos ------------------------------------------------------------------------------------------------

fn hello_body(hello: &Hello<'_>) -> Vec<u8> {
    let mut framed = Vec::new();
    hello.encode(&mut framed);
    framed.split_off(frame::HEADER_BYTES)
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_hello_is_decoded_to_what_was_encoded_and_none_of_its_prefixes_is(hello in any_hello()) {
        let body = hello_body(&hello);
        prop_assert_eq!(Hello::parse(&body), Ok(hello));
        for length in 0..body.len() {
            prop_assert!(Hello::parse(&body[..length]).is_err());
        }
    }

    #[test]
    fn bytes_after_a_hello_are_refused(hello in any_hello(), more in vec(any::<u8>(), 1..20)) {
        let mut body = hello_body(&hello);
        body.extend_from_slice(&more);
        prop_assert_eq!(Hello::parse(&body), Err(HelloError::Malformed));
    }

    #[test]
    fn a_hello_of_another_version_is_told_from_damage(
        version in any::<u16>().prop_filter("another", |version| *version != quorate_protocol::VERSION),
        rest in vec(any::<u8>(), 0..100),
    ) {
        let prelude = (quorate_protocol::handshake::MAGIC, version);
        let mut framed = Vec::new();
        frame::encode(&prelude, &mut framed);
        framed.extend_from_slice(&rest);
        prop_assert_eq!(Hello::parse(&framed[frame::HEADER_BYTES..]), Err(HelloError::Version(version)));
    }

    #[test]
    fn random_bytes_are_never_a_hello(body in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(Hello::parse(&body), Err(HelloError::NotQuorate));
    }

    #[test]
    fn a_damaged_hello_never_panics(hello in any_hello(), place in any::<Pick>(), byte in any::<u8>()) {
        let mut body = hello_body(&hello);
        let place = place.index(body.len());
        body[place] = byte;
        let _ = Hello::parse(&body);
    }
}

// --- frames ------------------------------------------------------------------------------------------------

const LIMIT: usize = 1 << 16;

fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_frame_is_found_whatever_follows_it_and_no_prefix_of_it_is_a_frame(
        body in vec(any::<u8>(), 0..500),
        more in vec(any::<u8>(), 0..50),
    ) {
        let mut bytes = framed(&body);
        let whole = bytes.len();
        bytes.extend_from_slice(&more);
        let frame = frame::decode(&bytes, LIMIT).unwrap().unwrap();
        prop_assert_eq!((frame.body, frame.bytes), (&body[..], whole));
        for length in 0..whole {
            prop_assert_eq!(frame::decode(&bytes[..length], LIMIT), Ok(None));
        }
    }

    #[test]
    fn frames_behind_each_other_are_found_one_by_one(bodies in vec(vec(any::<u8>(), 0..50), 0..10)) {
        let bytes: Vec<u8> = bodies.iter().flat_map(|body| framed(body)).collect();
        let mut rest = &bytes[..];
        for body in &bodies {
            let frame = frame::decode(rest, LIMIT).unwrap().unwrap();
            prop_assert_eq!(frame.body, &body[..]);
            rest = &rest[frame.bytes..];
        }
        prop_assert!(rest.is_empty());
    }

    /// CRC-32C finds every burst of up to 32 bits.
    #[test]
    fn flipped_bits_in_a_body_are_found(
        body in vec(any::<u8>(), 1..500),
        place in any::<Pick>(),
        flips in 1..=u32::MAX,
    ) {
        let mut bytes = framed(&body);
        let first = frame::HEADER_BYTES + place.index(body.len());
        for (byte, flips) in bytes[first..].iter_mut().zip(flips.to_le_bytes()) {
            *byte ^= flips;
        }
        prop_assume!(bytes[frame::HEADER_BYTES..] != body[..]); // all flips may lie behind the end
        prop_assert_eq!(frame::decode(&bytes, LIMIT), Err(FrameError::Checksum));
    }

    #[test]
    fn flipped_bits_in_a_checksum_are_found(body in vec(any::<u8>(), 0..100), flips in 1..=u32::MAX) {
        let mut bytes = framed(&body);
        for (byte, flips) in bytes[4..8].iter_mut().zip(flips.to_le_bytes()) {
            *byte ^= flips;
        }
        prop_assert_eq!(frame::decode(&bytes, LIMIT), Err(FrameError::Checksum));
    }

    #[test]
    fn a_length_over_the_limit_is_refused_before_the_body_is_there(
        limit in 0..LIMIT,
        above in 1..LIMIT,
        rest in vec(any::<u8>(), 4..20),
    ) {
        let length = limit + above;
        let mut bytes = (length as u32).to_le_bytes().to_vec();
        bytes.extend_from_slice(&rest);
        prop_assert_eq!(frame::decode(&bytes, limit), Err(FrameError::TooLong { length, limit }));
    }

    #[test]
    fn random_bytes_in_front_of_the_frame_decoder_never_panic(bytes in vec(any::<u8>(), 0..100)) {
        let _ = frame::decode(&bytes, LIMIT);
        let _ = frame::decode(&bytes, usize::MAX);
    }
}

#[test]
fn a_body_at_the_limit_is_taken_and_one_byte_more_is_not() {
    let bytes = framed(&[7; 100]);
    assert_eq!(frame::decode(&bytes, 100).unwrap().unwrap().body, [7; 100]);
    assert_eq!(frame::decode(&bytes, 99), Err(FrameError::TooLong { length: 100, limit: 99 }));
}

// --- entries -----------------------------------------------------------------------------------------------

proptest! {
    #![proptest_config(config())]

    #[test]
    fn a_run_of_entries_is_read_entry_by_entry(
        entries in vec((any::<u64>(), any::<u64>(), any_payload()), 0..5),
    ) {
        let mut bytes = Vec::new();
        for (term, index, payload) in &entries {
            let before = bytes.len();
            let length = entry::encode(*term, *index, payload, &mut bytes);
            prop_assert_eq!(before + length, bytes.len());
        }
        let read: Vec<_> = entry::iterate(&bytes)
            .map(|entry| entry.unwrap())
            .map(|entry| (entry.term, entry.index, entry.payload().unwrap()))
            .collect();
        prop_assert_eq!(read, entries);
    }

    #[test]
    fn no_prefix_of_an_entry_is_an_entry(payload in any_payload()) {
        let mut bytes = Vec::new();
        entry::encode(7, 300, &payload, &mut bytes);
        for length in 0..bytes.len() {
            prop_assert_eq!(Entry::parse(&bytes[..length]), Err(EntryError::Incomplete));
        }
    }

    #[test]
    fn a_flipped_bit_in_an_entry_is_found_and_ends_the_run(
        payload in any_payload(),
        place in any::<Pick>(),
        bit in 0..8,
    ) {
        let mut bytes = Vec::new();
        let length = entry::encode(7, 300, &payload, &mut bytes);
        entry::encode(7, 301, &Payload::Noop, &mut bytes);
        bytes[place.index(length)] ^= 1_u8 << bit;
        let read: Vec<_> = entry::iterate(&bytes).collect();
        prop_assert!(matches!(read[..], [Err(_)]), "{:?}", read);
    }

    #[test]
    fn random_bytes_are_never_an_entry(bytes in vec(any::<u8>(), 1..300)) {
        prop_assert!(matches!(entry::iterate(&bytes).collect::<Vec<_>>()[..], [Err(_)]));
    }

    #[test]
    fn an_impossible_length_of_an_entry_is_refused_although_more_bytes_could_come(
        length in prop_oneof![0..16_u32, (limits::ENTRY_BYTES_MAX as u32 - 7)..],
        rest in vec(any::<u8>(), 20..40),
    ) {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend_from_slice(&rest);
        prop_assert_eq!(Entry::parse(&bytes), Err(EntryError::Length(length as usize)));
    }
}

// --- sequences ---------------------------------------------------------------------------------------------

/// What stands before the count of a batch's mutations, of a page's items and of a status' followers: the
/// message with none, up to the count.
fn before_count(message: &impl serde::Serialize, bytes_after_count: usize) -> Vec<u8> {
    let mut framed = Vec::new();
    frame::encode(message, &mut framed);
    let count_at = framed.len() - bytes_after_count - 1;
    assert_eq!(framed[count_at], 0, "an empty sequence");
    framed[frame::HEADER_BYTES..count_at].to_vec()
}

fn varint(mut number: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
    bytes
}

const HUGE: [u64; 4] = [u16::MAX as u64, u32::MAX as u64, i64::MAX as u64, u64::MAX];

#[test]
fn a_batch_with_too_many_mutations_is_refused_and_the_longest_is_taken() {
    let batch = Operation::Write { options: WriteOptions::default(), write: Write::Batch(Vec::new()) };
    let start = before_count(&Request { id: 1, deadline_ms: 0, operation: batch }, 0);
    let delete: &[u8] = &[1, 1, b'k'];
    let with =
        |count: u64, mutations: usize| [&start[..], &varint(count), &delete.repeat(mutations)].concat();

    let most = limits::BATCH_MUTATIONS_MAX;
    let longest = with(most as u64, most);
    let request: Request<'_> = parse(&longest).expect("the longest batch is allowed");
    let Operation::Write { write, .. } = request.operation else { panic!("a write was sent") };
    assert_eq!(write.mutations().len(), most);

    let too_long = with(most as u64 + 1, most + 1);
    assert_eq!(parse::<Request<'_>>(&too_long), Err(MessageError::Unknown));
    for count in HUGE {
        assert!(parse::<Request<'_>>(&with(count, 3)).is_err(), "{count}");
    }
}

#[test]
fn a_page_with_too_many_items_is_refused_and_the_longest_is_taken() {
    let page = Outcome::Page { token: Token::default(), items: Vec::new(), more: false };
    let start = before_count(&Response { id: 1, outcome: page }, 1);
    let item: &[u8] = &[1, b'k', 5, 0];
    let with = |count: u64, items: usize| [&start[..], &varint(count), &item.repeat(items), &[0]].concat();

    let most = limits::SCAN_ITEMS_MAX;
    let longest = with(most as u64, most);
    let response: Response<'_> = parse(&longest).expect("the longest page is allowed");
    let Outcome::Page { items, .. } = response.outcome else { panic!("a page was sent") };
    assert_eq!(items.len(), most);

    let too_long = with(most as u64 + 1, most + 1);
    assert_eq!(parse::<Response<'_>>(&too_long), Err(MessageError::Unknown));
    for count in HUGE {
        assert!(parse::<Response<'_>>(&with(count, 3)).is_err(), "{count}");
    }
}

#[test]
fn bytes_that_claim_to_be_longer_than_their_message_are_refused() {
    let get = Operation::Get { consistency: Consistency::Local, key: b"" };
    let start = before_count(&Request { id: 1, deadline_ms: 0, operation: get }, 0);
    for length in HUGE.into_iter().chain([4]) {
        let body = [&start[..], &varint(length), b"key"].concat();
        assert_eq!(parse::<Request<'_>>(&body), Err(MessageError::Malformed), "{length}");
    }
}

#[test]
fn a_variant_that_this_version_does_not_know_is_refused() {
    let unknown_operation = [1, 0, 100];
    assert_eq!(parse::<Request<'_>>(&unknown_operation), Err(MessageError::Unknown));
    let unknown_outcome = [1, 100];
    assert_eq!(parse::<Response<'_>>(&unknown_outcome), Err(MessageError::Unknown));
    let unknown_peer_message = [100];
    assert_eq!(parse::<PeerMessage<'_>>(&unknown_peer_message), Err(MessageError::Unknown));
}

#[test]
fn numbers_outside_their_range_are_refused() {
    let refused_with_node = |node: u8| [1, 5, node]; // Reply::Refused(UnknownNode)
    assert!(parse::<Reply>(&refused_with_node(1)).is_ok());
    for node in [0, 64, 255] {
        assert_eq!(parse::<Reply>(&refused_with_node(node)), Err(MessageError::Unknown), "node {node}");
    }
    for (replicas, quorum) in [(0, 0), (3, 0), (3, 4), (16, 1)] {
        assert_eq!(parse::<Quorums>(&[replicas, quorum]), Err(MessageError::Unknown));
    }
}

proptest! {
    #![proptest_config(config())]

    /// Also words of nonsense: a client shows what a server sent.
    #[test]
    fn every_refusal_can_be_shown(refusal in any_refusal(), hello_refusal in any_hello_refusal()) {
        prop_assert!(!refusal.to_string().is_empty() || matches!(refusal, Refusal::BadRequest(_)));
        prop_assert!(!hello_refusal.to_string().is_empty());
    }
}

proptest! {
    #[test]
    fn a_range_is_refused_if_and_only_if_no_key_can_be_in_it(range in any_range(), key in any_bytes()) {
        let has = |key: &[u8]| !key.is_empty() && key >= range.start && range.end.includes(key);
        let lowest = range.start.max(match range.end {
            RangeEnd::Prefix(prefix) => prefix,
            _ => &[],
        });
        let lowest = if lowest.is_empty() { &[0] } else { lowest };
        prop_assert_eq!(range.check().is_ok(), has(lowest));
        prop_assert!(range.check().is_ok() || !has(key));
    }
}
