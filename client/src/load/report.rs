//! What was measured.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::record::Record;
use super::target::{CallError, Failed};

/// The longest time that is told apart from longer ones.
pub(super) const TIME_MAX: Duration = Duration::from_secs(600);

/// How many different reasons are told apart; the calls of all others are counted under [`OTHER_REASONS`].
pub const REASONS_MAX: usize = 32;

/// Stands for the reasons beyond [`REASONS_MAX`].
pub const OTHER_REASONS: &str = "other";

/// What was measured: of the calls whose intended start lies in the measured time, including those that
/// ended after it. In a closed loop, the intended start is the actual one.
#[derive(Debug)]
pub struct Report {
    /// How long was measured; less than asked for if the run was stopped.
    pub elapsed: Duration,
    /// The calls that write.
    pub writes: Calls,
    /// The calls that read.
    pub reads: Calls,
    /// Calls that were to be made.
    pub scheduled: u64,
    /// Those of them that were made: all, unless an open loop that was behind its schedule was stopped.
    pub issued: u64,
    /// One for each second of the measured time, the last may be shorter.
    pub seconds: Vec<Second>,
    /// What the store must hold now, if it numbers its writes.
    pub record: Record,
    /// How well the generator kept its schedule.
    pub generator: Generator,
    /// Why the last call failed that did, warm-up included.
    pub last_error: Option<String>,
}

/// Calls of one kind.
#[derive(Debug)]
pub struct Calls {
    /// Those that were done.
    pub acknowledged: u64,
    /// Those that did not happen.
    pub refused: u64,
    /// Those whose outcome is unknown.
    pub unknown: u64,
    /// The refused and unknown by reason; see [`REASONS_MAX`].
    pub reasons: BTreeMap<String, u64>,
    /// From the intended start to the answer, of acknowledged and unknown calls, in nanoseconds to three
    /// digits. A call that was due and could not be sent is waiting here, so a stall counts for every call
    /// that it held up.
    pub latency_ns: Histogram<u64>,
    /// From sending to the answer, of the same calls: what the store alone took, blind to calls held up.
    pub service_ns: Histogram<u64>,
}

/// What the generator of an open loop says about itself, of the measured arrivals; empty for a closed loop.
#[derive(Debug)]
pub struct Generator {
    /// From an arrival's intended start to its sending, in nanoseconds to three digits.
    pub schedule_lag_ns: Histogram<u64>,
    /// Arrivals that found all tasks of all clients busy: a store that is behind, or too few in flight.
    pub waited_for_slot: u64,
    /// Arrivals that were sent more than 1 ms late though a task was free: the generator itself is behind, or
    /// has too little of the processor.
    pub late_wakes: u64,
}

/// One second, by the intended start of its calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Second {
    /// Writes acknowledged.
    pub writes: u64,
    /// Reads acknowledged.
    pub reads: u64,
    /// Calls that did not happen.
    pub refused: u64,
    /// Calls whose outcome is unknown.
    pub unknown: u64,
    /// Median latency of acknowledged and unknown calls, in microseconds to two digits; 0 if there is none.
    pub p50_us: u64,
    /// 99th percentile of the same.
    pub p99_us: u64,
    /// Longest latency of the same, exact.
    pub max_us: u64,
}

impl Report {
    /// Acknowledged calls per second, writes and reads.
    pub fn per_second(&self) -> f64 {
        let acknowledged = self.writes.acknowledged + self.reads.acknowledged;
        if self.elapsed.is_zero() { 0.0 } else { acknowledged as f64 / self.elapsed.as_secs_f64() }
    }
}

impl Calls {
    pub(super) fn new() -> Self {
        Self {
            acknowledged: 0,
            refused: 0,
            unknown: 0,
            reasons: BTreeMap::new(),
            latency_ns: times(),
            service_ns: times(),
        }
    }

    /// Counts a call that failed.
    pub(super) fn fail(&mut self, error: &CallError) {
        match error.outcome {
            Failed::Refused => self.refused += 1,
            Failed::Unknown => self.unknown += 1,
        }
        if let Some(calls) = self.reasons.get_mut(&error.reason) {
            *calls += 1;
        } else if self.reasons.len() < REASONS_MAX {
            self.reasons.insert(error.reason.clone(), 1);
        } else {
            *self.reasons.entry(OTHER_REASONS.to_owned()).or_default() += 1;
        }
    }
}

impl Generator {
    pub(super) fn new() -> Self {
        Self { schedule_lag_ns: times(), waited_for_slot: 0, late_wakes: 0 }
    }
}

/// An empty histogram of nanoseconds, to three digits.
fn times() -> Histogram<u64> {
    Histogram::new_with_bounds(1, TIME_MAX.as_nanos() as u64, 3)
        .expect("the bounds are constants that a histogram can have")
}

/// Adds a time to a histogram of nanoseconds.
pub(super) fn record_time(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX));
}
