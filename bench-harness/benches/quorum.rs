//! What the leader's quorum function costs, which runs once in every turn that has news of a replica.

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use quorate_protocol::{Index, limits};
use quorate_server::replica::nth_highest;

/// The durable index that a majority has reached, of m replicas at different indexes.
fn nth_highest_of(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("nth-highest");
    for replicas in [3, 5, 9, limits::REPLICAS_MAX] {
        let quorum = replicas / 2 + 1;
        // Seven and sixteen have no common divisor: all differ, in no order.
        let durable: Vec<Index> = (0..u64::from(replicas)).map(|node| 1000 + node * 7 % 16).collect();
        group.bench_function(BenchmarkId::from_parameter(replicas), |bencher| {
            bencher.iter(|| nth_highest(black_box(&durable).iter().copied(), black_box(quorum)));
        });
    }
    group.finish();
}

criterion_group!(benches, nth_highest_of);
criterion_main!(benches);
