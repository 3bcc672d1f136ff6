//! What all tasks of a run count into.

use std::time::{Duration, Instant};

use super::arrivals::Arrival;
use super::content::{CallId, Content, Kind};
use super::record::Record;
use super::report::{Calls, Generator, Report, record_time};
use super::series::{Ended, Series};
use super::target::{CallError, Failed};

/// An arrival that is sent later than this, though a task was free, was missed by the generator.
const LATE: Duration = Duration::from_millis(1);

/// The measured time, as it was planned.
#[derive(Clone, Copy, Debug)]
pub(super) struct Window {
    pub(super) begin: Instant,
    pub(super) end: Instant,
}

/// A call that has ended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) id: CallId,
    pub(super) content: Content,
    /// When it was to be sent.
    pub(super) intended: Instant,
    pub(super) sent: Instant,
    pub(super) ended: Instant,
}

#[derive(Debug)]
pub(super) struct Tally {
    window: Window,
    /// Calls have intended starts of their own; otherwise they are sent when they are intended.
    is_open_loop: bool,
    issued: u64,
    writes: Calls,
    reads: Calls,
    series: Series,
    generator: Generator,
    record: Record,
    last_error: Option<String>,
}

impl Tally {
    /// Of a run that begins at `start`.
    pub(super) fn new(start: Instant, window: Window, is_open_loop: bool, record: Record) -> Self {
        Self {
            window,
            is_open_loop,
            issued: 0,
            writes: Calls::new(),
            reads: Calls::new(),
            series: Series::new(start, window.begin - start),
            generator: Generator::new(),
            record,
            last_error: None,
        }
    }

    fn is_measured(&self, intended: Instant) -> bool {
        intended >= self.window.begin
    }

    /// A call is sent now; in an open loop, that of an arrival.
    pub(super) fn begin(&mut self, arrival: Option<Arrival>, sent: Instant) {
        let intended = arrival.map_or(sent, |arrival| arrival.intended);
        self.series.begin(intended);
        if !self.is_measured(intended) {
            return;
        }
        self.issued += 1;
        if let Some(Arrival { waited, .. }) = arrival {
            let lag = sent - intended;
            record_time(&mut self.generator.schedule_lag_ns, lag);
            self.generator.waited_for_slot += u64::from(waited);
            self.generator.late_wakes += u64::from(!waited && lag > LATE);
        }
    }

    /// A call has ended.
    pub(super) fn end(&mut self, call: &Call, result: Result<Option<u64>, CallError>) {
        let Content { number, kind } = call.content;
        let is_measured = self.is_measured(call.intended);
        let calls = if kind == Kind::Read { &mut self.reads } else { &mut self.writes };
        let end = match &result {
            Ok(_) if kind == Kind::Read => Ended::Read,
            Ok(revision) => {
                self.record.acknowledge(number, *revision, call.id);
                Ended::Written
            }
            Err(CallError { outcome: Failed::Refused, .. }) => Ended::Refused,
            Err(CallError { outcome: Failed::Unknown, .. }) => {
                if kind != Kind::Read {
                    self.record.leave_unknown(call.id);
                }
                Ended::Unknown
            }
        };
        let latency = call.ended - call.intended;
        if is_measured {
            match &result {
                Ok(_) => calls.acknowledged += 1,
                Err(error) => calls.fail(error),
            }
            if end != Ended::Refused {
                record_time(&mut calls.latency_ns, latency);
                if self.is_open_loop {
                    record_time(&mut calls.service_ns, call.ended - call.sent);
                }
            }
        }
        self.series.end(call.intended, end, latency);
        if let Err(error) = result {
            self.last_error = Some(error.reason);
        }
    }

    /// The second-by-second view.
    pub(super) fn series(&self) -> &Series {
        &self.series
    }

    /// The report of a run that was measured so long, and left so many arrivals that were due.
    pub(super) fn report(mut self, elapsed: Duration, left: u64) -> Report {
        if !self.is_open_loop {
            for calls in [&mut self.writes, &mut self.reads] {
                calls.service_ns = calls.latency_ns.clone();
            }
        }
        Report {
            elapsed,
            writes: self.writes,
            reads: self.reads,
            scheduled: self.issued + left,
            issued: self.issued,
            seconds: self.series.measured(elapsed),
            record: self.record,
            generator: self.generator,
            last_error: self.last_error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::keys::KeyPrefix;
    use super::super::report::{OTHER_REASONS, REASONS_MAX};
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    /// An open loop's, with 10 ms of warm-up.
    fn tally(start: Instant) -> Tally {
        let window = Window { begin: start + 10 * MILLISECOND, end: start + 1000 * MILLISECOND };
        Tally::new(start, window, true, Record::new(KeyPrefix::DEFAULT))
    }

    fn read(tally: &mut Tally, intended: Instant, lag: Duration, result: Result<Option<u64>, CallError>) {
        let content = Content { number: 0, kind: Kind::Read };
        let sent = intended + lag;
        let ended = sent + 2 * MILLISECOND;
        tally.begin(Some(Arrival { intended, waited: false }), sent);
        tally.end(&Call { id: CallId::default(), content, intended, sent, ended }, result);
    }

    #[test]
    fn latency_counts_from_the_intended_start_and_service_from_the_sending() {
        let start = Instant::now();
        let mut tally = tally(start);
        read(&mut tally, start, MILLISECOND, Ok(None));
        read(&mut tally, start + 10 * MILLISECOND, 5 * MILLISECOND, Ok(None));
        let Report { reads, issued, seconds, .. } = tally.report(990 * MILLISECOND, 0);
        assert_eq!((issued, reads.acknowledged, seconds[0].reads), (1, 1, 1), "without the warm-up");
        assert!(reads.latency_ns.equivalent(reads.latency_ns.max(), 7_000_000));
        assert!(reads.service_ns.equivalent(reads.service_ns.max(), 2_000_000));
    }

    #[test]
    fn an_arrival_sent_late_is_the_generators_fault_only_if_a_task_was_free() {
        let start = Instant::now();
        let mut tally = tally(start);
        let intended = start + 10 * MILLISECOND;
        tally.begin(Some(Arrival { intended: start, waited: false }), intended);
        for (waited, lag) in [(true, 5), (true, 1), (false, 1), (false, 2)] {
            tally.begin(Some(Arrival { intended, waited }), intended + lag * MILLISECOND);
        }
        let generator = tally.report(990 * MILLISECOND, 0).generator;
        assert_eq!((generator.waited_for_slot, generator.late_wakes), (2, 1));
        assert_eq!(generator.schedule_lag_ns.len(), 4);
    }

    #[test]
    fn failures_are_counted_by_reason_and_only_those_that_may_have_happened_have_a_latency() {
        let start = Instant::now();
        let mut tally = tally(start);
        for number in 0..REASONS_MAX + 3 {
            let outcome = if number == 0 { Failed::Unknown } else { Failed::Refused };
            let error = CallError { outcome, reason: format!("reason {number}") };
            read(&mut tally, start + 10 * MILLISECOND, MILLISECOND, Err(error.clone()));
            read(&mut tally, start + 10 * MILLISECOND, MILLISECOND, Err(error));
        }
        let Report { reads, last_error, .. } = tally.report(990 * MILLISECOND, 0);
        assert_eq!((reads.unknown, reads.refused), (2, 2 * (REASONS_MAX as u64 + 2)));
        assert_eq!((reads.reasons["reason 1"], reads.reasons[OTHER_REASONS]), (2, 6));
        assert_eq!(reads.reasons.len(), REASONS_MAX + 1);
        assert_eq!((reads.latency_ns.len(), reads.service_ns.len()), (2, 2));
        assert_eq!(last_error, Some(format!("reason {}", REASONS_MAX + 2)));
    }
}
