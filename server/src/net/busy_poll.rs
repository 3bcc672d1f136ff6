//! For how long a loop that has nothing to do looks for events before it sleeps.
//!
//! A write passes through threads that wait for each other for a tenth of a millisecond each, and a core that fell
//! asleep meanwhile takes 25 to 55 µs to wake, in a virtual machine at least. Seastar's reactor polls for the same
//! reason, for 200 µs.
//!
//! Looking costs a core that nobody else wants, as the loop yields it all the time. It stops while nothing comes: an
//! idle loop that looked before each of its ticks would take some percent of a core.

use std::cell::Cell;
use std::time::Duration;

/// After so many long waits the loop sleeps at once. A follower's waits are short and long in turn: for its own disk,
/// and for the next entries.
const LONG_WAITS_MAX: u32 = 2;

pub(super) struct BusyPoll {
    at_most: Duration,
    /// Waits in a row for which looking was in vain.
    long_waits: Cell<u32>,
}

impl BusyPoll {
    /// Looks for so long at most; for no time if that is zero.
    pub(super) fn new(at_most: Duration) -> Self {
        Self { at_most, long_waits: Cell::new(0) }
    }

    /// For how long the next wait begins with looking.
    pub(super) fn patience(&self) -> Duration {
        match self.long_waits.get() < LONG_WAITS_MAX {
            true => self.at_most,
            false => Duration::ZERO,
        }
    }

    /// A wait is over. Who slept was woken late, and that does not count: short is up to twice as long.
    pub(super) fn note(&self, waited: Duration) {
        let long_waits = if waited < 2 * self.at_most { 0 } else { self.long_waits.get().saturating_add(1) };
        self.long_waits.set(long_waits);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT_MOST: Duration = Duration::from_micros(150);

    #[test]
    fn a_loop_looks_again_after_one_long_wait_and_not_after_two() {
        let busy_poll = BusyPoll::new(AT_MOST);
        busy_poll.note(2 * AT_MOST);
        assert_eq!(busy_poll.patience(), AT_MOST);
        busy_poll.note(2 * AT_MOST);
        assert_eq!(busy_poll.patience(), Duration::ZERO);
    }

    #[test]
    fn a_loop_that_slept_looks_again_after_a_short_wait() {
        let busy_poll = BusyPoll::new(AT_MOST);
        for _ in 0..10 {
            busy_poll.note(Duration::from_millis(5));
        }
        busy_poll.note(AT_MOST * 3 / 2);
        assert_eq!(busy_poll.patience(), AT_MOST);
    }

    #[test]
    fn a_loop_that_is_not_to_look_never_does() {
        let busy_poll = BusyPoll::new(Duration::ZERO);
        busy_poll.note(Duration::ZERO);
        assert_eq!(busy_poll.patience(), Duration::ZERO);
    }
}
