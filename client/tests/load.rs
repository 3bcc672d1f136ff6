//! The load generator, against servers of a few lines and against targets that never leave the process.
//!
//! Times are only ever compared with lower bounds that hold however slow the machine is.

mod fake;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use async_io::Timer;
use hdrhistogram::Histogram;
use quorate_client::load::{
    Arrivals, CallError, Connection, Control, Distribution, Failed, KeyPrefix, QuorateTarget, Reads, Report,
    Spacing, Target, Workload, WorkloadError, key, run,
};
use quorate_client::{Client, Obstacle, Refusal};
use smol::LocalExecutor;
use smol::future::yield_now;

const MILLISECOND: Duration = Duration::from_millis(1);

fn quorate(server: String) -> QuorateTarget {
    let deadline = Duration::from_secs(5);
    QuorateTarget { servers: vec![server], deadline, cluster: None, reads: Reads::Leader, exactly_once: true }
}

fn closed() -> Workload {
    Workload {
        clients: 2,
        in_flight: 8,
        value_bytes: 32..=32,
        keys: 100,
        warmup: 50 * MILLISECOND,
        duration: 200 * MILLISECOND,
        ..Workload::default()
    }
}

fn open(per_second: f64, spacing: Spacing) -> Workload {
    let arrivals = Arrivals::Open { per_second, spacing };
    Workload { arrivals, warmup: Duration::ZERO, ..closed() }
}

fn measure(workload: &Workload, target: &impl Target) -> Report {
    run(workload, target, &Control::default(), None).unwrap()
}

/// Acknowledges every call at once, and remembers the keys of the first client's.
#[derive(Default)]
struct Null(Rc<RefCell<Vec<Vec<u8>>>>);

impl Target for Null {
    type Connection = NullConnection;

    async fn connect(
        &self,
        number: u32,
        _: &Rc<LocalExecutor<'static>>,
    ) -> Result<NullConnection, CallError> {
        Ok(NullConnection((number == 0).then(|| self.0.clone())))
    }
}

struct NullConnection(Option<Rc<RefCell<Vec<Vec<u8>>>>>);

impl NullConnection {
    async fn call(&self, key: &[u8]) {
        self.0.iter().for_each(|keys| keys.borrow_mut().push(key.to_vec()));
        yield_now().await;
    }
}

impl Connection for NullConnection {
    async fn write(&self, key: &[u8], _: &[u8]) -> Result<Option<u64>, CallError> {
        self.call(key).await;
        Ok(None)
    }

    async fn read(&self, key: &[u8]) -> Result<(), CallError> {
        self.call(key).await;
        Ok(())
    }
}

/// Answers nothing until `opens` says so, which is told how many calls have come: those calls time out, all
/// later ones are acknowledged at once.
#[derive(Clone)]
struct Gate {
    opens: Rc<dyn Fn(u64) -> bool>,
    calls: Rc<Cell<u64>>,
}

impl Gate {
    fn new(opens: impl Fn(u64) -> bool + 'static) -> Self {
        Self { opens: Rc::new(opens), calls: Rc::default() }
    }
}

impl Target for Gate {
    type Connection = Gate;

    async fn connect(&self, _: u32, _: &Rc<LocalExecutor<'static>>) -> Result<Gate, CallError> {
        Ok(self.clone())
    }
}

impl Connection for Gate {
    async fn write(&self, _: &[u8], _: &[u8]) -> Result<Option<u64>, CallError> {
        yield_now().await;
        self.calls.set(self.calls.get() + 1);
        let mut waited = false;
        while !(self.opens)(self.calls.get()) {
            waited = true;
            Timer::after(MILLISECOND).await;
        }
        let timeout = || CallError { outcome: Failed::Unknown, reason: "no answer in time".to_owned() };
        if waited { Err(timeout()) } else { Ok(None) }
    }

    async fn read(&self, _: &[u8]) -> Result<(), CallError> {
        unreachable!("the workload has no reads")
    }
}

fn at_least(histogram: &Histogram<u64>, quantile: f64, bound: Duration) {
    let found = Duration::from_nanos(histogram.value_at_quantile(quantile));
    assert!(found >= bound, "{found:?} at {quantile}, not {bound:?}");
}

#[test]
fn what_a_run_wrote_is_found_afterwards() {
    let server = fake::store();
    let control = Control::default();
    let report = run(&closed(), &quorate(server.clone()), &control, None).unwrap();
    assert!(report.writes.acknowledged > 0 && report.per_second() > 0.0);
    assert_eq!((report.writes.refused, report.writes.unknown), (0, 0));
    assert_eq!((report.scheduled, report.issued), (report.writes.acknowledged, report.writes.acknowledged));
    assert_eq!(report.writes.latency_ns.len(), report.writes.acknowledged);
    assert_eq!(report.writes.service_ns, report.writes.latency_ns);
    assert_eq!(report.seconds.iter().map(|second| second.writes).sum::<u64>(), report.writes.acknowledged);
    assert!(control.acknowledged() >= report.writes.acknowledged);
    let client = Client::connect([server]).unwrap();
    smol::block_on(async {
        assert_eq!(report.record.verify(&client).await, Ok(vec![]));
        client.delete(&key(&KeyPrefix::DEFAULT, 5)).await.unwrap();
        client.set(&key(&KeyPrefix::DEFAULT, 6), "foreign").await.unwrap();
        assert_eq!(report.record.verify(&client).await.unwrap().len(), 2);
    });
}

#[test]
fn runs_on_one_store_continue_one_record_with_other_workloads() {
    let server = fake::store();
    let target = quorate(server.clone());
    let preload = Workload { distribution: Distribution::Sequential, ..open(2000.0, Spacing::Constant) };
    let mixed = Workload {
        clients: 3,
        keys: 150,
        read_share: 0.5,
        value_bytes: 12..=60,
        distribution: Distribution::Zipfian { exponent: 0.99 },
        ..closed()
    };
    let mut record = None;
    for workload in [preload, mixed.clone(), Workload { clients: 1, ..mixed }] {
        let report = run(&workload, &target, &Control::default(), record).unwrap();
        assert!(report.writes.acknowledged > 0);
        assert_eq!(report.reads.acknowledged > 0, workload.read_share > 0.0);
        record = Some(report.record);
    }
    let client = Client::connect([server]).unwrap();
    let record = record.unwrap();
    assert_eq!((record.keys(), record.is_kept()), (150, true));
    assert_eq!(smol::block_on(record.verify(&client)), Ok(vec![]));
}

#[test]
fn a_run_can_be_stopped() {
    let workload = Workload { duration: Duration::from_secs(3600), ..closed() };
    let control = Control::default();
    let report = thread::scope(|scope| {
        let run = scope.spawn(|| run(&workload, &quorate(fake::store()), &control, None));
        while control.acknowledged() == 0 {
            thread::yield_now();
        }
        control.stop();
        run.join().unwrap().unwrap()
    });
    assert!(report.elapsed < workload.duration);
}

#[test]
fn a_workload_that_cannot_be_is_refused() {
    let refused = |workload| run(&workload, &Null::default(), &Control::default(), None).unwrap_err();
    let error = refused(Workload { value_bytes: 4..=4, ..closed() });
    assert!(matches!(error, WorkloadError::Range { name: "value bytes", value: 4.0, .. }), "{error}");
    for (wrong, message) in [
        (Workload { read_share: f64::NAN, ..closed() }, "read share is NaN, it must be from 0 to 1"),
        (open(0.0, Spacing::Poisson), "arrivals per second is 0, it must be from 0.001 to 10000000"),
        (Workload { clients: 4000, in_flight: 4000, ..closed() }, "clients times in flight is 16000000"),
        (Workload { value_bytes: 4..=20, ..closed() }, "least value bytes is 4, it must be from 12 to 20"),
    ] {
        let error = refused(wrong).to_string();
        assert!(error.starts_with(message), "{error}");
    }
}

#[test]
fn every_client_calls_and_no_call_is_repeated() {
    let null = Null::default();
    let workload = Workload { distribution: Distribution::Sequential, ..open(1000.0, Spacing::Constant) };
    let report = measure(&Workload { clients: 1, ..workload }, &null);
    let expected: Vec<_> = (0..200).map(|call| key(&KeyPrefix::DEFAULT, call % 100).to_vec()).collect();
    assert_eq!((report.issued, &*null.0.borrow()), (200, &expected));
    assert!(!report.record.is_kept());
}

#[test]
fn constant_arrivals_are_as_many_as_rate_and_time_say() {
    for (per_second, duration_ms) in [(1.0, 1500), (7.0, 1000), (1000.0, 300), (50_000.0, 200)] {
        let duration = duration_ms * MILLISECOND;
        let control = Control::default();
        let workload = Workload { duration, ..open(per_second, Spacing::Constant) };
        let report = run(&workload, &Null::default(), &control, None).unwrap();
        let expected = per_second * duration.as_secs_f64();
        assert!((report.issued as f64 - expected).abs() <= 1.0, "{} at {per_second}", report.issued);
        assert_eq!((report.scheduled, report.writes.acknowledged), (report.issued, report.issued));
        assert_eq!(report.writes.latency_ns.len(), report.issued);
        assert_eq!(report.generator.schedule_lag_ns.len(), report.issued);
        assert_eq!(report.elapsed, duration);
        assert_eq!(control.acknowledged(), report.issued);
        assert!(control.measuring_since().is_some());
    }
}

#[test]
fn the_warmup_is_not_measured_and_the_seconds_are_those_of_the_schedule() {
    let control = Control::default();
    let workload = Workload {
        warmup: 300 * MILLISECOND,
        duration: 1100 * MILLISECOND,
        read_share: 0.5,
        ..open(1000.0, Spacing::Constant)
    };
    let report = run(&workload, &Null::default(), &control, None).unwrap();
    assert_eq!((report.issued, control.acknowledged()), (1100, 1400));
    let calls: Vec<_> = report.seconds.iter().map(|second| second.writes + second.reads).collect();
    assert_eq!(calls, [1000, 100]);
    assert!(report.reads.acknowledged > 0 && report.writes.acknowledged > 0);
    // The first whole second ended within the run.
    assert!(control.live().per_second > 0.0, "{:?}", control.live());
}

#[test]
fn every_poisson_arrival_is_issued() {
    let workload = Workload { duration: 500 * MILLISECOND, ..open(4000.0, Spacing::Poisson) };
    let report = measure(&workload, &Null::default());
    let mean = 2000.0_f64;
    assert!((report.issued as f64 - mean).abs() < 5.0 * mean.sqrt(), "{}", report.issued);
    assert_eq!((report.scheduled, report.writes.acknowledged), (report.issued, report.issued));
    let again = measure(&workload, &Null::default());
    assert_eq!(again.issued, report.issued, "the seed decides the times");
}

/// The server answers one write after the other and takes 5 ms for every 10th. At one arrival per
/// millisecond, in an interval of ten the one that meets the pause is answered at least 5 ms after its
/// intended start, and the four that come in the meantime cannot be answered before it: at least 4, 3, 2 and
/// 1 ms after theirs. So at least 10 % take 5 ms, 20 % 4 ms, 30 % 3 ms, 40 % 2 ms and 50 % 1 ms. The bounds
/// below leave out one more interval, as what comes at the same time may overtake.
///
/// Service times, and so a closed loop, hold every pause against one call of ten alone.
fn stall_is_in_the_percentiles(in_flight: u32) -> Report {
    let (address, pauses) = fake::stalling(10, 5 * MILLISECOND);
    let workload = Workload { clients: 1, in_flight, ..open(1000.0, Spacing::Constant) };
    let report = measure(&Workload { duration: 500 * MILLISECOND, ..workload }, &quorate(address));
    assert_eq!((report.issued, pauses.load(Ordering::Relaxed)), (500, 50));
    assert_eq!(report.writes.acknowledged, 500);
    for (quantile, bound_ms) in [(0.95, 4), (0.85, 3), (0.75, 2), (0.65, 1)] {
        at_least(&report.writes.latency_ns, quantile, bound_ms * MILLISECOND);
    }
    report
}

#[test]
fn a_stall_of_the_server_counts_for_every_call_that_it_held_up() {
    stall_is_in_the_percentiles(64);
}

/// With one call at a time the four others have to wait in the generator, where service time does not see
/// them: together at least 4 + 3 + 2 + 1 ms in every ten arrivals.
#[test]
fn service_time_does_not_see_what_a_stall_held_up_in_the_generator() {
    let Report { writes, generator, .. } = stall_is_in_the_percentiles(1);
    let (hidden, lag) =
        (writes.latency_ns.mean() - writes.service_ns.mean(), generator.schedule_lag_ns.mean());
    assert!(hidden >= 0.9e6 && lag >= 0.9e6, "{hidden} ns, {lag} ns");
    at_least(&generator.schedule_lag_ns, 0.95, 3 * MILLISECOND);
    assert!(generator.waited_for_slot >= 4 * 50 - 4, "{}", generator.waited_for_slot);
}

#[test]
fn what_was_due_while_nothing_was_answered_is_issued_with_its_intended_start() {
    let silence = 300 * MILLISECOND;
    let second_call = Cell::new(None);
    let gate = Gate::new(move |calls| {
        if calls >= 2 && second_call.get().is_none() {
            second_call.set(Some(Instant::now()));
        }
        second_call.get().is_some_and(|second_call| second_call.elapsed() >= silence)
    });
    let workload =
        Workload { clients: 2, in_flight: 1, duration: 100 * MILLISECOND, ..open(1000.0, Spacing::Constant) };
    let report = measure(&workload, &gate);
    assert_eq!((report.scheduled, report.issued), (100, 100));
    assert_eq!(
        (report.writes.unknown, report.writes.acknowledged),
        (2, 98),
        "the two that had a task timed out"
    );
    assert_eq!(report.writes.reasons["no answer in time"], 2);
    assert_eq!(report.writes.latency_ns.len(), 100, "those that timed out stay in");
    // The last was due after 99 ms, and answered after 300 at the earliest.
    at_least(&report.writes.latency_ns, 0.0, silence - 100 * MILLISECOND);
    assert_eq!(report.generator.waited_for_slot, 98);
    assert_eq!((report.seconds[0].unknown, report.seconds[0].writes), (2, 98));
}

#[test]
fn a_stopped_run_tells_what_it_left_out() {
    static IS_OPEN: AtomicBool = AtomicBool::new(false);
    let workload = Workload {
        clients: 1,
        in_flight: 1,
        duration: Duration::from_secs(3600),
        ..open(1000.0, Spacing::Constant)
    };
    let control = Control::default();
    let report = thread::scope(|scope| {
        let load = scope.spawn(|| {
            let gate = Gate::new(|_| IS_OPEN.load(Ordering::Relaxed));
            run(&workload, &gate, &control, None)
        });
        while control.measuring_since().is_none_or(|since| since.elapsed() < 50 * MILLISECOND) {
            thread::yield_now();
        }
        control.stop();
        // Open calls are waited for.
        IS_OPEN.store(true, Ordering::Relaxed);
        load.join().unwrap().unwrap()
    });
    assert!(report.scheduled >= 50, "{}", report.scheduled);
    assert!(report.issued <= 1 && report.elapsed < workload.duration);
    assert_eq!(report.writes.acknowledged + report.writes.unknown, report.issued);
}

#[test]
fn reads_of_followers_go_to_their_connections_and_fail_with_their_reasons() {
    let (follower, refused) = fake::always(Refusal::Blocked(Obstacle::DiskFull));
    let target =
        QuorateTarget { reads: Reads::Follower { servers: vec![follower] }, ..quorate(fake::store()) };
    let workload = Workload { read_share: 0.5, ..open(1000.0, Spacing::Constant) };
    let Report { reads, writes, issued, seconds, .. } = measure(&workload, &target);
    assert_eq!((reads.refused + writes.acknowledged, reads.acknowledged), (issued, 0));
    assert_eq!(refused.try_iter().count() as u64, reads.refused);
    assert_eq!(
        reads.reasons.into_iter().collect::<Vec<_>>(),
        [(Refusal::Blocked(Obstacle::DiskFull).to_string(), reads.refused)]
    );
    assert_eq!((reads.latency_ns.len(), writes.latency_ns.len()), (0, writes.acknowledged));
    assert_eq!((seconds[0].refused, seconds[0].writes), (reads.refused, writes.acknowledged));
}

/// Cannot be connected to but once.
struct Once(Cell<bool>);

impl Target for Once {
    type Connection = NullConnection;

    async fn connect(&self, _: u32, _: &Rc<LocalExecutor<'static>>) -> Result<NullConnection, CallError> {
        match self.0.replace(true) {
            false => Ok(NullConnection(None)),
            true => Err(CallError { outcome: Failed::Refused, reason: "one is enough".to_owned() }),
        }
    }
}

#[test]
fn a_connection_that_cannot_be_opened_ends_the_run_before_it_begins() {
    let error = run(&closed(), &Once(Cell::new(false)), &Control::default(), None).unwrap_err();
    assert_eq!(error.to_string(), "connection 1 cannot be opened: one is enough");
}
