//! How late a sleeping thread wakes.
//!
//! Whoever sends at set times is late by this much at least, so the figure judges a load generator: its
//! lateness is the machine's up to here, and its own beyond.

use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::Times;

/// What each sleep asks for.
const SLEEP: Duration = Duration::from_millis(1);

/// How many.
const SLEEPS: usize = 200;

/// Longest time that the probe takes; on a busy machine it sleeps less often.
const TIME_MAX: Duration = Duration::from_millis(500);

/// Times from the end of the millisecond that a thread asked to sleep to its waking.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct TimerProbe {
    /// How many sleeps.
    pub sleeps: usize,
    /// Median, in microseconds.
    pub p50_us: u64,
    /// 99th percentile, in microseconds.
    pub p99_us: u64,
}

impl TimerProbe {
    /// Measures for up to half a second.
    pub(in crate::environment) fn measure() -> Self {
        let begin = Instant::now();
        let mut times = Vec::with_capacity(SLEEPS);
        while times.len() < SLEEPS && begin.elapsed() < TIME_MAX {
            times.push(lateness());
        }
        let times = Times::new(times);
        Self { sleeps: times.count(), p50_us: times.us_at(50), p99_us: times.us_at(99) }
    }
}

fn lateness() -> Duration {
    let start = Instant::now();
    thread::sleep(SLEEP);
    start.elapsed().saturating_sub(SLEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_probe_sleeps_and_wakes() {
        let start = Instant::now();
        let probe = TimerProbe::measure();
        assert!((1..=SLEEPS).contains(&probe.sleeps) && probe.p50_us <= probe.p99_us, "{probe:?}");
        assert!(start.elapsed() >= SLEEP * probe.sleeps as u32, "{probe:?}");
    }
}
