//! What a stranger's bytes may cost in memory, and what our own messages cost: a global allocator counts.
//!
//! Decoding borrows, so a message's memory is that of its sequences, bounded by their limits, and of its
//! texts, bounded by the body. Frames and entries cost none, nor does encoding into a buffer that is reused.

use std::hint::black_box;
use std::mem::size_of;

use allocation_counter::{AllocationInfo, measure};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;
use quorate_protocol::entry::{self, Payload};
use quorate_protocol::frame;
use quorate_protocol::handshake::{Hello, NodeAddress, Reply};
use quorate_protocol::peer::{Append, PeerMessage};
use quorate_protocol::request::{Mutation, Operation, Request, Write, WriteOptions};
use quorate_protocol::response::{Change, FollowerStatus, Item, Response, Status};
use quorate_protocol::{limits, parse};

/// Memory of a sequence at its limit: it grows by doubling, and old and new block live together for a while.
const fn sequence_bytes(elements_max: usize, element_bytes: usize) -> usize {
    elements_max.next_power_of_two() * element_bytes * 3 / 2
}

const MUTATIONS_BYTES: usize = sequence_bytes(limits::BATCH_MUTATIONS_MAX, size_of::<Mutation<'_>>());
const ITEMS_BYTES: usize = sequence_bytes(limits::SCAN_ITEMS_MAX, size_of::<Item<'_>>());
const STATUS_BYTES: usize =
    size_of::<Status<'_>>() + sequence_bytes(limits::REPLICAS_MAX as usize, size_of::<FollowerStatus<'_>>());
const NODES_BYTES: usize = sequence_bytes(limits::REPLICAS_MAX as usize, size_of::<NodeAddress>());
const RESPONSE_BYTES: usize = if ITEMS_BYTES > STATUS_BYTES { ITEMS_BYTES } else { STATUS_BYTES };

// A connection's buffer holds a whole body, so this is what decoding may add to it.
const _: () = assert!(MUTATIONS_BYTES < limits::REQUEST_BYTES_MAX);
const _: () = assert!(size_of::<Change<'_>>() <= size_of::<Item<'_>>()); // As many of a page as items.
const _: () = assert!(RESPONSE_BYTES < limits::RESPONSE_BYTES_MAX);

/// A kind of message: its name, the memory that decoding may take, and the decoder.
type Decoder = (&'static str, usize, fn(&[u8]));

/// Decodes `body` as everything that it could be, and checks each one's memory.
fn decode_as_everything(body: &[u8]) {
    let decoders: [Decoder; 7] = [
        ("a request", MUTATIONS_BYTES, |body| drop(parse::<Request<'_>>(body))),
        ("an entry's payload", MUTATIONS_BYTES, |body| drop(parse::<Payload<'_>>(body))),
        ("a response", RESPONSE_BYTES + body.len(), |body| drop(parse::<Response<'_>>(body))),
        ("a reply", NODES_BYTES + body.len(), |body| drop(parse::<Reply>(body))),
        ("a hello", body.len(), |body| drop(Hello::parse(body))),
        ("a peer message", 0, |body| drop(parse::<PeerMessage<'_>>(body))),
        ("frames and entries", 0, |body| {
            let _ = frame::decode(body, limits::PEER_BYTES_MAX);
            entry::iterate(body).for_each(drop);
        }),
    ];
    for (what, bytes_max, decode) in decoders {
        let allocated = measure(|| decode(body));
        assert!(
            allocated.bytes_max <= bytes_max as u64,
            "{} bytes of body, decoded as {what}, take {} bytes of memory, more than {bytes_max}",
            body.len(),
            allocated.bytes_max,
        );
    }
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

const CLAIMS: [u64; 7] = [
    100,
    limits::BATCH_MUTATIONS_MAX as u64,
    limits::SCAN_ITEMS_MAX as u64,
    1 << 20,
    1 << 31,
    1 << 40,
    u64::MAX,
];

/// The start of a batch request, up to the count of its mutations.
const BATCH: &[u8] = &[1, 0, 2, 0, 0, 0, 1];

/// The start of a page, up to the count of its items.
const PAGE: &[u8] = &[1, 2, 0, 0];

#[test]
fn the_counter_sees_an_allocation() {
    let allocated: AllocationInfo = measure(|| drop(black_box(vec![0_u8; 1000])));
    assert_eq!(allocated.bytes_max, 1000);
}

#[test]
fn a_claimed_length_costs_no_memory_before_its_elements_are_there() {
    for claim in CLAIMS.map(varint) {
        for start in [BATCH, PAGE, &[1, 0, 0, 0], &[1, 5, 2], &[0, 1, 1], &[1]] {
            let body = [start, &claim[..]].concat();
            decode_as_everything(&body);
            let allocated = measure(|| {
                drop(parse::<Request<'_>>(&body));
                drop(parse::<Response<'_>>(&body));
                drop(parse::<Reply>(&body));
            });
            assert!(allocated.bytes_max <= size_of::<Status<'_>>() as u64, "{body:?}: {allocated:?}");
        }
    }
}

/// The shortest elements on the wire are the worst: they cost the most memory a byte.
#[test]
fn the_longest_sequences_of_the_shortest_elements_stay_below_the_limit() {
    for (start, element, most) in
        [(BATCH, &[1_u8, 0][..], limits::BATCH_MUTATIONS_MAX), (PAGE, &[0, 0, 0][..], limits::SCAN_ITEMS_MAX)]
    {
        for (claim, elements) in [(most, most), (most, most - 1), (most + 1, most + 1), (1 << 40, 1 << 19)] {
            let body = [start, &varint(claim as u64), &element.repeat(elements)].concat();
            decode_as_everything(&body);
        }
    }
    let longest = [BATCH, &varint(4096), &[1, 0].repeat(4096)].concat();
    let allocated = measure(|| drop(parse::<Request<'_>>(&longest).expect("a whole request")));
    assert!(allocated.bytes_max >= (4096 * size_of::<Mutation<'_>>()) as u64, "the worst case was reached");
}

#[test]
fn encoding_into_a_reused_buffer_and_decoding_one_write_costs_no_memory() {
    let value = [7; 100];
    let write = Write::One(Mutation::Set { key: b"key", value: &value });
    let mut entries = Vec::with_capacity(4096);
    let mut buffer = Vec::with_capacity(4096);
    let allocated = measure(|| {
        for index in 1..=10 {
            let payload = Payload::Write { session: None, write: write.clone() };
            entry::encode(7, index, &payload, &mut entries);
        }
        let operation = Operation::Write { options: WriteOptions::default(), write: write.clone() };
        frame::encode(&Request { id: 1, deadline_ms: 0, operation }, &mut buffer);
        let request = frame::decode(&buffer, limits::REQUEST_BYTES_MAX).unwrap().unwrap();
        drop(parse::<Request<'_>>(request.body).unwrap());
        buffer.clear();
        frame::encode(
            &PeerMessage::Append(Append {
                term: 7,
                previous_index: 0,
                previous_term: 0,
                commit: 0,
                round: 0,
                entries: &entries,
            }),
            &mut buffer,
        );
        let append = frame::decode(&buffer, limits::PEER_BYTES_MAX).unwrap().unwrap();
        black_box(parse::<PeerMessage<'_>>(append.body).unwrap());
        entry::iterate(&entries).for_each(|entry| drop(entry.unwrap().payload().unwrap()));
    });
    assert_eq!(allocated.count_total, 0);
}

fn config() -> ProptestConfig {
    let mut config = ProptestConfig { failure_persistence: None, cases: 2000, ..ProptestConfig::default() };
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn random_bytes_stay_below_the_limit(body in vec(any::<u8>(), 0..500)) {
        decode_as_everything(&body);
    }

    #[test]
    fn random_bytes_behind_a_true_start_stay_below_the_limit(
        start in prop::sample::select(vec![BATCH, PAGE, &[1, 3], &[1, 5], &[0], &[1], &[0, 1, 3]]),
        small in vec(0..6_u8, 0..40),
        rest in vec(any::<u8>(), 0..200),
    ) {
        decode_as_everything(&[start, &small, &rest].concat());
    }
}
