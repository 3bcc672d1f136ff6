//! Runs one hot path over and over, for `.ci/instructions` to count under callgrind what it costs.
//!
//! Without an argument it names the paths, with one it runs that path. Those that are measured in time, too,
//! have the same name there. Whatever a path needs is made before [`counted`] is entered; only what happens
//! inside is counted, and only what the process itself executes: not the kernel, not the disk.

mod samples;

use std::env;
use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;

use quorate_protocol::entry::{self, Entry};
use quorate_protocol::peer::PeerMessage;
use quorate_protocol::request::Request;
use quorate_protocol::{Durability, Index, frame, limits, parse};
use quorate_server::disk::RealDisk;
use quorate_server::log::{Log, LogSettings};
use quorate_server::replica::nth_highest;
use quorate_server::store::Store;
use samples::{ENTRIES, append, entries, payload, set, set_request};
use tempfile::TempDir;

/// How often a path is run. Batches of so many fit into the log's first segment. `.ci/instructions` divides
/// by it.
const OPERATIONS: u64 = 64;

const PATHS: [(&str, fn()); 10] = [
    ("set-request/encode", encode_set_request),
    ("set-request/decode", decode_set_request),
    ("append-of-64-entries/encode", encode_append),
    ("append-of-64-entries/decode-and-check", decode_append),
    ("entry/encode", encode_entry),
    ("entry/decode", decode_entry),
    ("log-append/64-entries", append_to_log),
    ("nth-highest/3", || find_nth_highest(3)),
    ("nth-highest/5", || find_nth_highest(5)),
    ("store-apply/set", apply_set),
];

fn main() -> ExitCode {
    let Some(wanted) = env::args().nth(1) else {
        println!("{OPERATIONS} operations of each of");
        PATHS.iter().for_each(|(name, _)| println!("{name}"));
        return ExitCode::SUCCESS;
    };
    let Some((_, run)) = PATHS.iter().find(|(name, _)| *name == wanted) else {
        eprintln!("instructions: no path is called {wanted:?}; without an argument all are named");
        return ExitCode::from(2);
    };
    run();
    ExitCode::SUCCESS
}

/// Runs an operation once to warm up, then as often as is counted.
fn repeat(mut operation: impl FnMut()) {
    operation();
    counted(&mut operation);
}

/// What callgrind counts. It knows the function by its name.
#[inline(never)]
fn counted(operation: &mut dyn FnMut()) {
    for _ in 0..OPERATIONS {
        operation();
    }
}

fn encode_set_request() {
    let request = set_request();
    let mut buffer = Vec::with_capacity(4096);
    repeat(|| {
        buffer.clear();
        frame::encode(black_box(&request), &mut buffer);
    });
}

fn decode_set_request() {
    let mut buffer = Vec::new();
    frame::encode(&set_request(), &mut buffer);
    repeat(|| {
        let frame = frame::decode(black_box(&buffer), limits::REQUEST_BYTES_MAX).unwrap().unwrap();
        black_box(parse::<Request<'_>>(frame.body).unwrap());
    });
}

fn encode_append() {
    let entries = entries(1);
    let append = append(&entries);
    let mut buffer = Vec::with_capacity(64 << 10);
    repeat(|| {
        buffer.clear();
        frame::encode(black_box(&append), &mut buffer);
    });
}

fn decode_append() {
    let mut buffer = Vec::new();
    frame::encode(&append(&entries(1)), &mut buffer);
    repeat(|| {
        let frame = frame::decode(black_box(&buffer), limits::PEER_BYTES_MAX).unwrap().unwrap();
        let PeerMessage::Append(append) = parse(frame.body).unwrap() else { unreachable!("as encoded") };
        for entry in entry::iterate(append.entries) {
            black_box(entry.unwrap());
        }
    });
}

fn encode_entry() {
    let payload = payload();
    let mut buffer = Vec::with_capacity(4096);
    repeat(|| {
        buffer.clear();
        entry::encode(7, black_box(1), black_box(&payload), &mut buffer);
    });
}

fn decode_entry() {
    let mut bytes = Vec::new();
    entry::encode(7, 1, &payload(), &mut bytes);
    repeat(|| {
        black_box(Entry::parse(black_box(&bytes)).unwrap().payload().unwrap());
    });
}

/// The log's own code up to the write: the entries are there, nothing is synced, no segment is full.
fn append_to_log() {
    let directory = TempDir::new().unwrap();
    let settings = LogSettings { durability: Durability::Os, salt_seed: Some(1), ..LogSettings::default() };
    let (mut log, _) = Log::open(Arc::new(RealDisk), directory.path().to_owned(), settings, 0).unwrap();
    let batches: Vec<_> = (0..=OPERATIONS).map(|batch| entries(1 + batch * ENTRIES)).collect();
    let mut batches = batches.iter();
    repeat(|| {
        let (first, last) = (log.last() + 1, log.last() + ENTRIES);
        log.append(batches.next(), first, last, 0).unwrap();
    });
}

fn find_nth_highest(replicas: u8) {
    let quorum = replicas / 2 + 1;
    // As in the benchmark of the same name: all differ, in no order.
    let durable: Vec<Index> = (0..u64::from(replicas)).map(|node| 1000 + node * 7 % 16).collect();
    repeat(|| {
        black_box(nth_highest(black_box(&durable).iter().copied(), black_box(quorum)));
    });
}

/// A set of a key that is there. It is the only one: the table's hashes differ between processes, and so
/// would the places that have to be looked at among others.
fn apply_set() {
    let mut store = Store::default();
    let write = set();
    let mut index = 0;
    repeat(|| {
        index += 1;
        black_box(store.apply(index, black_box(&write)));
    });
}
