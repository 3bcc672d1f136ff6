//! What a call costs through the client, the loopback and the event loop of one server that syncs nothing.

mod in_process;

use std::cell::LazyCell;
use std::time::Duration;

use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use in_process::{Calls, Cluster};
use quorate_client::Client;
use quorate_client::load::{self, KeyPrefix};
use quorate_protocol::{Durability, Quorums};

const KEYS: u64 = 100_000;
const VALUE: &[u8] = &[b'v'; 100];
const DEADLINE: Duration = Duration::from_secs(10);

async fn ping(client: &Client, _: u64) {
    client.ping().await.unwrap();
}

async fn set(client: &Client, number: u64) {
    client.set(&load::key(&KeyPrefix::DEFAULT, number % KEYS), VALUE).await.unwrap();
}

async fn get(client: &Client, number: u64) {
    client.get(&load::key(&KeyPrefix::DEFAULT, number % KEYS)).await.unwrap();
}

/// Pings, writes and reads by (clients × in flight). A ping is the path alone.
fn calls(criterion: &mut Criterion) {
    let cluster = LazyCell::new(|| Cluster::start(Quorums::new(1, 1).unwrap(), Durability::Os));
    for (clients, in_flight) in [(1, 1), (1, 256), (64, 1)] {
        let calls = LazyCell::new(|| Calls::new(&cluster, clients, DEADLINE));
        let mut group = criterion.benchmark_group(format!("client-{clients}x{in_flight}"));
        group.sampling_mode(SamplingMode::Flat);
        let together = (clients * in_flight) as u64;
        group.throughput(Throughput::Elements(together));
        // Writes before reads, so that there is something to read.
        measure(&mut group, "ping", |rounds| calls.time(in_flight, rounds * together, ping));
        measure(&mut group, "set", |rounds| calls.time(in_flight, rounds * together, set));
        measure(&mut group, "get", |rounds| calls.time(in_flight, rounds * together, get));
        group.finish();
    }
}

/// A round is one call of everyone who calls at the same time.
fn measure(group: &mut BenchmarkGroup<'_, WallTime>, name: &str, mut rounds: impl FnMut(u64) -> Duration) {
    group.bench_function(name, |bencher| bencher.iter_custom(&mut rounds));
}

criterion_group!(benches, calls);
criterion_main!(benches);
