//! Short measurements of what every write is made of, taken before the nodes start: a sync, a round trip,
//! and a wake-up.
//!
//! Each is bounded in number and in time, uses nothing of Quorate, and leaves nothing behind. They judge the
//! machine as it was then; a machine that others use may be slower or faster a minute later.

mod fsync;
mod loopback;
mod timer;

use std::time::Duration;

pub use fsync::FsyncProbe;
pub use loopback::LoopbackProbe;
pub use timer::TimerProbe;

/// What a probe measured, in ascending order.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Times(Vec<Duration>);

impl Times {
    fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that so many percent do not exceed, at most the longest; 0 if there is none. Whole
    /// microseconds, cut.
    fn us_at(&self, percent: usize) -> u64 {
        let rank = (self.count() * percent).div_ceil(100).max(1);
        self.0.get(rank - 1).map_or(0, |time| time.as_micros() as u64)
    }

    fn joined(self, other: Self) -> Self {
        Self::new([self.0, other.0].concat())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn micros(times: impl IntoIterator<Item = u64>) -> Times {
        Times::new(times.into_iter().map(Duration::from_micros).collect())
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times = micros((1..=200).rev());
        assert_eq!([50, 90, 99, 100].map(|percent| times.us_at(percent)), [100, 180, 198, 200]);
        let few = micros([7, 5, 9]);
        assert_eq!([50, 90, 99, 100].map(|percent| few.us_at(percent)), [7, 9, 9, 9]);
        assert_eq!(micros([]).us_at(50), 0);
    }

    #[test]
    fn joined_times_are_in_order_again() {
        assert_eq!(micros([3, 9]).joined(micros([1, 5])), micros([1, 3, 5, 9]));
    }
}
