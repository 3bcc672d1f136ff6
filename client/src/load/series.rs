//! The load second by second, by the intended start of its calls.
//!
//! A second stays open until its last call has ended, however late: calls begin in the order of their
//! intended starts, so the open seconds reach from that of the oldest open call to the newest, and what
//! bounds the time of a call bounds their number. Seconds are counted so that one begins with the measured
//! time; those before are warm-up.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::report::{Second, TIME_MAX};

/// Histograms that are kept to be used again.
const SPARE_MAX: usize = 4;

/// How a call ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    Written,
    Read,
    Refused,
    Unknown,
}

#[derive(Debug)]
pub(super) struct Series {
    start: Instant,
    /// What a first second that began with the start would lack at its front.
    lead: Duration,
    /// Seconds of the warm-up, the first of which may be shorter.
    warmup: usize,
    closed: Vec<Second>,
    /// The seconds after those closed.
    open: VecDeque<OpenSecond>,
    spare: Vec<Histogram<u32>>,
}

#[derive(Debug)]
struct OpenSecond {
    begun: u64,
    ended: u64,
    counts: Second,
    latency_us: Histogram<u32>,
}

impl Series {
    pub(super) fn new(start: Instant, warmup: Duration) -> Self {
        let whole = warmup.as_secs() + u64::from(warmup.subsec_nanos() > 0);
        Self {
            start,
            lead: Duration::from_secs(whole) - warmup,
            warmup: whole as usize,
            closed: Vec::new(),
            open: VecDeque::new(),
            spare: Vec::new(),
        }
    }

    /// The number of the second that `at` lies in.
    pub(super) fn number(&self, at: Instant) -> usize {
        (at.saturating_duration_since(self.start) + self.lead).as_secs() as usize
    }

    /// A call begins that was to begin at `intended`, which is never before that of an earlier call.
    pub(super) fn begin(&mut self, intended: Instant) {
        let number = self.number(intended);
        debug_assert!(number + 1 >= self.closed.len() + self.open.len(), "calls begin in order");
        while self.closed.len() + self.open.len() <= number {
            let latency_us = self.spare.pop().unwrap_or_else(empty);
            self.open.push_back(OpenSecond { begun: 0, ended: 0, counts: Second::default(), latency_us });
            self.close_ended();
        }
        self.open[number - self.closed.len()].begun += 1;
    }

    /// A call that has begun ends.
    pub(super) fn end(&mut self, intended: Instant, ended: Ended, latency: Duration) {
        let place = self.number(intended) - self.closed.len();
        self.open[place].end(ended, latency);
        if place == 0 {
            self.close_ended();
        }
    }

    /// The second with this number as it is known now.
    pub(super) fn second(&self, number: usize) -> Second {
        match number.checked_sub(self.closed.len()) {
            None => self.closed[number],
            Some(place) => self.open.get(place).map(OpenSecond::sum).unwrap_or_default(),
        }
    }

    /// The seconds of the measured time, which lasted so long; all calls have ended.
    pub(super) fn measured(mut self, elapsed: Duration) -> Vec<Second> {
        self.closed.extend(self.open.iter().map(OpenSecond::sum));
        let seconds = elapsed.as_secs() + u64::from(elapsed.subsec_nanos() > 0);
        self.closed.resize(self.warmup + seconds as usize, Second::default());
        self.closed.split_off(self.warmup)
    }

    /// Closes the front seconds whose calls have ended. The last stays: more calls may begin in it.
    fn close_ended(&mut self) {
        while self.open.len() > 1 && self.open[0].begun == self.open[0].ended {
            let Some(mut front) = self.open.pop_front() else { return };
            self.closed.push(front.sum());
            if self.spare.len() < SPARE_MAX {
                front.latency_us.reset();
                self.spare.push(front.latency_us);
            }
        }
    }
}

impl OpenSecond {
    fn end(&mut self, ended: Ended, latency: Duration) {
        self.ended += 1;
        match ended {
            Ended::Written => self.counts.writes += 1,
            Ended::Read => self.counts.reads += 1,
            Ended::Unknown => self.counts.unknown += 1,
            Ended::Refused => {
                self.counts.refused += 1;
                return;
            }
        }
        let latency_us = latency.as_micros() as u64;
        self.counts.max_us = self.counts.max_us.max(latency_us);
        self.latency_us.saturating_record(latency_us);
    }

    fn sum(&self) -> Second {
        let quantile = |quantile| self.latency_us.value_at_quantile(quantile);
        Second { p50_us: quantile(0.5), p99_us: quantile(0.99), ..self.counts }
    }
}

/// An empty histogram of microseconds, to two digits.
fn empty() -> Histogram<u32> {
    Histogram::new_with_bounds(1, TIME_MAX.as_micros() as u64, 2)
        .expect("the bounds are constants that a histogram can have")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn seconds_are_counted_from_the_end_of_the_warmup() {
        let start = Instant::now();
        let mut series = Series::new(start, Duration::from_millis(1500));
        for at_ms in [0, 1499, 1500, 2499, 2500, 4600] {
            let at = start + at_ms * MILLISECOND;
            series.begin(at);
            series.end(at, Ended::Written, at_ms * MILLISECOND);
        }
        let seconds = series.measured(Duration::from_millis(3200));
        assert_eq!(seconds.iter().map(|second| second.writes).collect::<Vec<_>>(), [2, 1, 0, 1]);
        assert_eq!(
            seconds.iter().map(|second| second.max_us).collect::<Vec<_>>(),
            [2_499_000, 2_500_000, 0, 4_600_000]
        );
    }

    #[test]
    fn a_call_that_ends_long_after_its_second_still_belongs_to_it() {
        let start = Instant::now();
        let mut series = Series::new(start, Duration::ZERO);
        series.begin(start);
        for second in 1..20 {
            let at = start + Duration::from_secs(second);
            series.begin(at);
            series.end(at, Ended::Read, MILLISECOND);
        }
        assert_eq!((series.closed.len(), series.second(5).reads), (0, 1));
        series.end(start, Ended::Unknown, Duration::from_secs(19));
        assert_eq!((series.closed.len(), series.open.len(), series.spare.len()), (19, 1, SPARE_MAX));
        let first = series.measured(Duration::from_secs(20))[0];
        assert_eq!((first.unknown, first.reads, first.max_us), (1, 0, 19_000_000));
        assert!((18_900_000..19_200_000).contains(&first.p50_us), "{first:?}");
    }

    #[test]
    fn refused_calls_have_no_latency() {
        let start = Instant::now();
        let mut series = Series::new(start, Duration::ZERO);
        series.begin(start);
        series.end(start, Ended::Refused, MILLISECOND);
        let seconds = series.measured(MILLISECOND);
        assert_eq!(seconds, [Second { refused: 1, ..Second::default() }]);
    }
}
