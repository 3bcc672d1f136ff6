//! How many calls of a client are open, until when, and whether there may be more: one number, so that a call costs two
//! atomic operations, and that what is known of their deadlines is forgotten when the last of them ends.
//!
//! The latest deadline may be that of a call that has ended: it is kept for as long as any other is open.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// There are no new calls.
const CLOSED: u64 = 1 << 63;

/// The bits of the count of open calls.
const COUNT_BITS: u32 = 24;

/// Calls that may be open at once: far more than memory has room for.
const COUNT_MAX: u64 = (1 << COUNT_BITS) - 1;

/// The highest deadline, in milliseconds; 17 years.
const LATEST_MS_MAX: u64 = (1 << (63 - COUNT_BITS)) - 1;

/// Why a call is not counted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NotCounted {
    Closed,
    TooMany,
}

/// The calls of a client that are open.
pub(crate) struct InFlight {
    /// From the top: [`CLOSED`], the latest deadline in milliseconds since `began`, the count.
    state: AtomicU64,
    began: Instant,
}

impl InFlight {
    pub(crate) fn new() -> Self {
        Self { state: AtomicU64::new(0), began: Instant::now() }
    }

    /// Counts a call that ends by `deadline`.
    pub(crate) fn enter(&self, deadline: Instant) -> Result<(), NotCounted> {
        // Rounded up.
        let ms = deadline.saturating_duration_since(self.began).as_millis() as u64 + 1;
        let entered = |state: u64| {
            let count = state & COUNT_MAX;
            let latest = if count == 0 { 0 } else { state >> COUNT_BITS };
            let is_taken = state & CLOSED == 0 && count < COUNT_MAX;
            is_taken.then_some(latest.max(ms.min(LATEST_MS_MAX)) << COUNT_BITS | (count + 1))
        };
        match self.state.fetch_update(Ordering::AcqRel, Ordering::Acquire, entered) {
            Ok(_) => Ok(()),
            Err(state) if state & CLOSED != 0 => Err(NotCounted::Closed),
            Err(_) => Err(NotCounted::TooMany),
        }
    }

    /// A call has ended. Says whether somebody may wait for that, as there are no new ones.
    pub(crate) fn leave(&self) -> bool {
        self.state.fetch_sub(1, Ordering::AcqRel) & CLOSED != 0
    }

    /// No further calls. Says whether they were taken before.
    pub(crate) fn close(&self) -> bool {
        self.state.fetch_or(CLOSED, Ordering::AcqRel) & CLOSED == 0
    }

    /// Whether there are no new calls, and exactly so many open ones.
    pub(crate) fn is_down_to(&self, calls: u64) -> bool {
        let state = self.state.load(Ordering::Acquire);
        state & CLOSED != 0 && state & COUNT_MAX == calls
    }

    /// When every call that is open will have passed its deadline.
    pub(crate) fn latest_deadline(&self) -> Instant {
        let state = self.state.load(Ordering::Acquire);
        self.began + Duration::from_millis((state & !CLOSED) >> COUNT_BITS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn the_latest_deadline_is_forgotten_when_nothing_is_open() {
        let calls = InFlight::new();
        let begun = |seconds| calls.enter(calls.began + SECOND * seconds).unwrap();
        let latest = || (calls.latest_deadline() - calls.began).as_secs();
        begun(3600);
        begun(2);
        calls.leave();
        assert_eq!(latest(), 3600, "that may be the one that is open");
        calls.leave();
        begun(2);
        assert_eq!(latest(), 2);
        begun(5);
        begun(1);
        assert_eq!(latest(), 5);
    }

    #[test]
    fn what_is_open_is_waited_for_and_nothing_new_is_taken() {
        let calls = InFlight::new();
        let begun = || calls.enter(calls.began + SECOND);
        assert_eq!([begun(), begun()], [Ok(()); 2]);
        assert!(!calls.leave() && !calls.is_down_to(1), "it is not closed");
        assert!(calls.close() && !calls.close());
        assert_eq!(begun(), Err(NotCounted::Closed));
        assert!(calls.is_down_to(1) && calls.latest_deadline() >= calls.began + SECOND);
        assert!(calls.leave() && calls.is_down_to(0));
    }

    #[test]
    fn no_deadline_and_no_number_of_calls_spoils_the_others() {
        let calls = InFlight::new();
        calls.state.store(COUNT_MAX - 1, Ordering::Relaxed);
        assert_eq!(calls.enter(calls.began + SECOND * u32::MAX), Ok(()));
        assert_eq!(calls.enter(calls.began), Err(NotCounted::TooMany));
        assert!(!calls.is_down_to(COUNT_MAX), "it is not closed");
        assert!(!calls.leave() && calls.close() && calls.is_down_to(COUNT_MAX - 1));
    }
}
