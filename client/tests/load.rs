//! The load generator against a store in memory.

mod fake;

use std::thread;
use std::time::Duration;

use quorate_client::Client;
use quorate_client::load::{Control, KeyPrefix, QuorateTarget, Reads, Workload, WorkloadError, key, run};

fn target(server: String) -> QuorateTarget {
    let deadline = Duration::from_secs(5);
    QuorateTarget { servers: vec![server], deadline, cluster: None, reads: Reads::Leader }
}

fn workload() -> Workload {
    Workload {
        clients: 2,
        in_flight: 8,
        value_bytes: 32..=32,
        keys: 100,
        warmup: Duration::from_millis(50),
        duration: Duration::from_millis(200),
        ..Workload::default()
    }
}

#[test]
fn what_a_run_wrote_is_found_afterwards() {
    let server = fake::store();
    let control = Control::default();
    let report = run(&workload(), &target(server.clone()), &control, None).unwrap();
    assert!(report.writes.acknowledged > 0 && report.per_second() > 0.0);
    assert_eq!((report.writes.refused, report.writes.unknown), (0, 0));
    assert_eq!(report.writes.latency_ns.len(), report.writes.acknowledged);
    assert!(control.acknowledged() >= report.writes.acknowledged);
    let client = Client::connect([server]).unwrap();
    smol::block_on(async {
        assert_eq!(report.record.verify(&client).await, Ok(vec![]));
        client.delete(key(&KeyPrefix::DEFAULT, 5)).await.unwrap();
        client.set(key(&KeyPrefix::DEFAULT, 6), "foreign").await.unwrap();
        assert_eq!(report.record.verify(&client).await.unwrap().len(), 2);
    });
}

#[test]
fn a_run_can_be_stopped() {
    let workload = Workload { duration: Duration::from_secs(3600), ..workload() };
    let control = Control::default();
    let report = thread::scope(|scope| {
        let run = scope.spawn(|| run(&workload, &target(fake::store()), &control, None));
        while control.acknowledged() == 0 {
            thread::yield_now();
        }
        control.stop();
        run.join().unwrap().unwrap()
    });
    assert!(report.elapsed < Duration::from_secs(3600));
}

#[test]
fn a_workload_that_cannot_be_is_refused() {
    let wrong = Workload { value_bytes: 4..=4, ..workload() };
    let error = run(&wrong, &target("127.0.0.1:1".into()), &Control::default(), None).unwrap_err();
    assert!(matches!(error, WorkloadError::Range { name: "value bytes", value: 4.0, .. }), "{error}");
}
