//! What a running load shows and obeys; all of it through atomics, so that watching changes nothing.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Watches and ends one load, from any thread; clones are of the same load.
#[derive(Clone, Debug, Default)]
pub struct Control(Arc<State>);

#[derive(Debug, Default)]
struct State {
    acknowledged: AtomicU64,
    stop: AtomicBool,
    measuring_since: OnceLock<Instant>,
    /// The bits of an `f64`.
    per_second: AtomicU64,
    p50_us: AtomicU64,
    p99_us: AtomicU64,
}

/// The last whole second of a load, warm-up included.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct Live {
    /// Calls acknowledged in it, writes and reads.
    pub per_second: f64,
    /// Median latency of the calls that were due in it and have ended, in microseconds; 0 if there is none.
    pub p50_us: u64,
    /// 99th percentile of the same.
    pub p99_us: u64,
}

impl Control {
    /// Calls acknowledged so far, writes and reads, warm-up included.
    pub fn acknowledged(&self) -> u64 {
        self.0.acknowledged.load(Ordering::Relaxed)
    }

    /// Ends the run early: no further call is made, and what was measured until then is reported when the
    /// open calls have ended.
    pub fn stop(&self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }

    /// When the measured time began; none during the warm-up.
    pub fn measuring_since(&self) -> Option<Instant> {
        self.0.measuring_since.get().copied()
    }

    /// The last whole second; all 0 before the first has passed.
    pub fn live(&self) -> Live {
        Live {
            per_second: f64::from_bits(self.0.per_second.load(Ordering::Relaxed)),
            p50_us: self.0.p50_us.load(Ordering::Relaxed),
            p99_us: self.0.p99_us.load(Ordering::Relaxed),
        }
    }

    pub(super) fn is_stopped(&self) -> bool {
        self.0.stop.load(Ordering::Relaxed)
    }

    pub(super) fn acknowledge(&self) {
        self.0.acknowledged.fetch_add(1, Ordering::Relaxed);
    }

    /// Only the first call counts.
    pub(super) fn measure_since(&self, began: Instant) {
        self.0.measuring_since.get_or_init(|| began);
    }

    pub(super) fn show(&self, live: Live) {
        self.0.per_second.store(live.per_second.to_bits(), Ordering::Relaxed);
        self.0.p50_us.store(live.p50_us, Ordering::Relaxed);
        self.0.p99_us.store(live.p99_us, Ordering::Relaxed);
    }
}
