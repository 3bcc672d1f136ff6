//! The load generator against a store in memory.

mod fake;

use std::thread;
use std::time::Duration;

use quorate_client::Client;
use quorate_client::load::{Control, Settings, SettingsError, run};

fn settings(server: String) -> Settings {
    Settings {
        servers: vec![server],
        clients: 2,
        in_flight: 8,
        value_bytes: 32,
        keys: 100,
        seed: 1,
        warmup: Duration::from_millis(50),
        duration: Duration::from_millis(200),
        deadline: Duration::from_secs(5),
    }
}

#[test]
fn what_a_run_wrote_is_found_afterwards() {
    let server = fake::store();
    let control = Control::default();
    let report = run(&settings(server.clone()), &control).unwrap();
    assert!(report.acknowledged > 0 && report.per_second() > 0.0);
    assert_eq!((report.refused, report.unknown), (0, 0));
    assert_eq!(report.latency_ns.len(), report.acknowledged);
    assert!(control.acknowledged() >= report.acknowledged);
    let client = Client::connect([server]).unwrap();
    smol::block_on(async {
        assert_eq!(report.record.verify(&client).await, Ok(vec![]));
        client.delete(quorate_client::load::key(5)).await.unwrap();
        client.set(quorate_client::load::key(6), "foreign").await.unwrap();
        assert_eq!(report.record.verify(&client).await.unwrap().len(), 2);
    });
}

#[test]
fn a_run_can_be_stopped() {
    let settings = Settings { duration: Duration::from_secs(3600), ..settings(fake::store()) };
    let control = Control::default();
    let report = thread::scope(|scope| {
        let run = scope.spawn(|| run(&settings, &control));
        while control.acknowledged() == 0 {
            thread::yield_now();
        }
        control.stop();
        run.join().unwrap().unwrap()
    });
    assert!(report.elapsed < Duration::from_secs(60));
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let wrong = Settings { value_bytes: 4, ..settings("127.0.0.1:1".into()) };
    let error = run(&wrong, &Control::default()).unwrap_err();
    assert!(matches!(error, SettingsError::Range { name: "value bytes", value: 4, .. }), "{error}");
}
