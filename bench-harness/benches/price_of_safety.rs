//! What it costs one node to keep a write: in memory alone, in a log that the operating system holds, and in
//! a log that is synced.
//!
//! Everything runs in one thread, without network or queue: the store and the log are called as a node and
//! its log thread call them. The log lies in the build's directory, so on that disk.

use std::cell::LazyCell;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use criterion::measurement::WallTime;
use criterion::{Bencher, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use quorate_client::load::{self, Key, KeyPrefix};
use quorate_protocol::entry::{self, Payload};
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::{Durability, Index};
use quorate_server::disk::RealDisk;
use quorate_server::log::{Log, LogSettings};
use quorate_server::store::Store;
use tempfile::TempDir;

/// Keys in the store, all there from the start.
const KEYS: u64 = 100_000;

/// From one written key to the next: no divisor of [`KEYS`], so every key comes, far from the one before.
const KEY_STRIDE: u64 = 7919;

const VALUE: &[u8] = &[b'v'; 100];

/// What a write is kept in.
struct Place {
    store: Store,
    log: Option<Log>,
    last: Index,
    entries: Vec<u8>,
    /// Removed with everything in it, after the log was closed: fields are dropped in this order.
    _directory: Option<TempDir>,
}

impl Place {
    fn memory() -> Self {
        let mut store = Store::default();
        for number in 0..KEYS {
            store.restore(&load::key(&KeyPrefix::DEFAULT, number), 0, VALUE);
        }
        Self { store, log: None, last: 0, entries: Vec::new(), _directory: None }
    }

    fn with_log(durability: Durability) -> Self {
        let directory = TempDir::new_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let settings = LogSettings { durability, ..LogSettings::default() };
        let (mut log, _) = Log::open(Arc::new(RealDisk), directory.path().to_owned(), settings, 0).unwrap();
        log.prepare_ahead().unwrap();
        Self { log: Some(log), _directory: Some(directory), ..Self::memory() }
    }

    /// Times writes that are kept `batch` at a time.
    fn time(&mut self, bencher: &mut Bencher<'_>, batch: u64) {
        bencher.iter_custom(|batches| {
            let start = Instant::now();
            for _ in 0..batches {
                self.keep(batch);
            }
            let elapsed = start.elapsed();
            self.drop_log();
            elapsed
        });
    }

    /// Keeps the next writes: all in the log, if there is one, then each in the store.
    fn keep(&mut self, writes: u64) {
        let (first, last) = (self.last + 1, self.last + writes);
        if let Some(log) = &mut self.log {
            self.entries.clear();
            for index in first..=last {
                let key = key(index);
                entry::encode(
                    1,
                    index,
                    &Payload::Write { session: None, write: set(&key) },
                    &mut self.entries,
                );
            }
            log.append([&self.entries], first, last, self.last).unwrap();
        }
        for index in first..=last {
            black_box(self.store.apply(index, &set(&key(index))));
        }
        self.last = last;
    }

    /// As after a checkpoint, or a long run would fill the disk.
    fn drop_log(&mut self) {
        if let Some(log) = &mut self.log {
            log.drop_before(self.last).unwrap();
        }
    }
}

fn key(index: Index) -> Key {
    load::key(&KeyPrefix::DEFAULT, index * KEY_STRIDE % KEYS)
}

fn set(key: &[u8]) -> Write<'_> {
    Write::One(Mutation::Set { key, value: VALUE })
}

/// One write of a key of 16 bytes and a value of 100, in each place; one at a time, and in batches of 64.
///
/// Compare `page-cache` with `memory`: the ratio is what the log's code and its system calls cost, and what
/// a design that writes every entry by itself pays for each. The store that this one descends from had 480
/// there, before any sync. Compare `synced` with `page-cache` for what the disk adds, and the two groups for
/// how much of both a batch takes away again, which is all that group commit lives on.
fn price_of_safety(criterion: &mut Criterion) {
    for (name, batch) in [("price-of-safety-one-write", 1), ("price-of-safety-batch-of-64", 64)] {
        let mut group = criterion.benchmark_group(name);
        group.throughput(Throughput::Elements(batch));
        measure(&mut group, "memory", batch, Place::memory);
        measure(&mut group, "page-cache", batch, || Place::with_log(Durability::Os));
        measure(&mut group, "synced", batch, || Place::with_log(Durability::Fsync));
        group.finish();
    }
}

/// The place is made when it is first needed: not if the benchmark is left out.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, batch: u64, make: impl FnOnce() -> Place) {
    let mut place = LazyCell::new(make);
    group.bench_function(name, |bencher| place.time(bencher, batch));
}

criterion_group!(benches, price_of_safety);
criterion_main!(benches);
