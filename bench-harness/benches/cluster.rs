//! What a synced write costs through a cluster of three, by how many replicas have to hold it.

mod in_process;

use std::cell::LazyCell;
use std::time::Duration;

use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use in_process::{Calls, Cluster};
use quorate_client::Client;
use quorate_client::load::{self, KeyPrefix};
use quorate_protocol::{Durability, Quorums};

const REPLICAS: u8 = 3;
const KEYS: u64 = 100_000;
const VALUE: &[u8] = &[b'v'; 100];
const DEADLINE: Duration = Duration::from_secs(10);

/// Writes in flight for the throughput.
const IN_FLIGHT: usize = 64;

async fn set(client: &Client, number: u64) {
    client.set(&load::key(&KeyPrefix::DEFAULT, number % KEYS), VALUE).await.unwrap();
}

/// A write at each quorum: alone, which is the latency, and among 64, which is the throughput.
fn writes(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("write-to-3-replicas");
    group.sampling_mode(SamplingMode::Flat);
    for quorum in 1..=REPLICAS {
        // Started when first needed: not if the benchmark is left out.
        let running = LazyCell::new(|| {
            let cluster = Cluster::start(Quorums::new(REPLICAS, quorum).unwrap(), Durability::Fsync);
            (Calls::new(&cluster, 1, DEADLINE), cluster)
        });
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("n{quorum}-alone"), |bencher| {
            bencher.iter_custom(|writes| running.0.time(1, writes, set));
        });
        group.throughput(Throughput::Elements(IN_FLIGHT as u64));
        group.bench_function(format!("n{quorum}-among-64"), |bencher| {
            bencher.iter_custom(|rounds| running.0.time(IN_FLIGHT, rounds * IN_FLIGHT as u64, set));
        });
    }
    group.finish();
}

criterion_group!(benches, writes);
criterion_main!(benches);
