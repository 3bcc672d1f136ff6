//! What encoding and decoding cost: a set request, an append of 64 entries, an entry, and a frame.
//!
//! Messages are encoded into a reused buffer and decoded from one, as connections do.

mod samples;

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use quorate_protocol::entry::{self, Entry};
use quorate_protocol::peer::PeerMessage;
use quorate_protocol::request::Request;
use quorate_protocol::{frame, limits, parse};
use samples::{ENTRIES, append, entries, payload, set_request};

/// One frame's worth of encoding and of decoding, entries included.
fn messages(criterion: &mut Criterion) {
    let entries = entries(1);
    let mut buffer = Vec::with_capacity(64 << 10);

    let mut group = criterion.benchmark_group("set-request");
    frame::encode(&set_request(), &mut buffer);
    group.throughput(Throughput::Bytes(buffer.len() as u64));
    group.bench_function("encode", |bencher| {
        let request = set_request();
        bencher.iter(|| {
            buffer.clear();
            frame::encode(black_box(&request), &mut buffer);
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| {
            let frame = frame::decode(black_box(&buffer), limits::REQUEST_BYTES_MAX).unwrap().unwrap();
            black_box(parse::<Request<'_>>(frame.body).unwrap());
        });
    });
    group.finish();

    let mut group = criterion.benchmark_group("append-of-64-entries");
    buffer.clear();
    frame::encode(&append(&entries), &mut buffer);
    group.throughput(Throughput::Elements(ENTRIES));
    group.bench_function("encode", |bencher| {
        let append = append(&entries);
        bencher.iter(|| {
            buffer.clear();
            frame::encode(black_box(&append), &mut buffer);
        });
    });
    group.bench_function("decode-and-check", |bencher| {
        bencher.iter(|| {
            let frame = frame::decode(black_box(&buffer), limits::PEER_BYTES_MAX).unwrap().unwrap();
            let PeerMessage::Append(append) = parse(frame.body).unwrap() else { unreachable!("as encoded") };
            for entry in entry::iterate(append.entries) {
                black_box(entry.unwrap());
            }
        });
    });
    group.finish();
}

/// A log entry alone: what the leader does once per write, and every reader once per entry.
fn entry(criterion: &mut Criterion) {
    let payload = payload();
    let mut bytes = Vec::new();
    entry::encode(7, 1, &payload, &mut bytes);

    let mut group = criterion.benchmark_group("entry");
    group.throughput(Throughput::Bytes(bytes.len() as u64));
    group.bench_function("encode", |bencher| {
        let mut buffer = Vec::with_capacity(4096);
        bencher.iter(|| {
            buffer.clear();
            entry::encode(7, black_box(1), black_box(&payload), &mut buffer)
        });
    });
    group.bench_function("decode", |bencher| {
        bencher.iter(|| black_box(Entry::parse(black_box(&bytes)).unwrap().payload().unwrap()));
    });
    group.finish();
}

/// The frame alone: its length and the checksum over its body.
fn frames(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("frame-decode");
    for body_bytes in [128, 1 << 10, 64 << 10] {
        let mut framed = Vec::new();
        frame::encode(&vec![7_u8; body_bytes], &mut framed);
        group.throughput(Throughput::Bytes(framed.len() as u64));
        group.bench_function(format!("{body_bytes}-bytes"), |bencher| {
            bencher.iter(|| {
                black_box(frame::decode(black_box(&framed), limits::PEER_BYTES_MAX).unwrap());
            });
        });
    }
    group.finish();
}

criterion_group!(benches, messages, entry, frames);
criterion_main!(benches);
