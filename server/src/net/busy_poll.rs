//! For how long a loop that has nothing to do looks for events before it sleeps.
//!
//! A write passes through threads that wait for each other for a tenth of a millisecond each, and a core that fell
//! asleep meanwhile takes 25 to 55 µs to wake, in a virtual machine at least. Seastar's reactor polls for the same
//! reason, for 200 µs.
//!
//! Looking costs a core that nobody else wants, as the loop yields it all the time. It stops
//!
//! - while nothing comes: an idle loop that looked before each of its ticks would take some percent of a core.
//! - while another program wants the core. Who sleeps is woken ahead of such a program; who yields waits until its
//!   time is over, milliseconds, and beside two programs that computed on two cores writes took twice as long.

use std::cell::Cell;
use std::time::{Duration, Instant};

/// After so many long waits the loop sleeps at once. A follower's waits are short and long in turn: for its own disk,
/// and for the next entries.
const LONG_WAITS_MAX: u32 = 2;

/// A core that comes back later has gone to a program that computes, whose time slice is some 3 ms. Threads that answer
/// each other take less, also under load.
const YIELDED_MAX: Duration = Duration::from_millis(2);

/// How long the loop leaves a core alone that another program wants.
const CROWDED: Duration = Duration::from_secs(1);

pub(super) struct BusyPoll {
    at_most: Duration,
    /// Waits in a row for which looking was in vain.
    long_waits: Cell<u32>,
    /// Until then another program is taken to want the core.
    crowded_until: Cell<Option<Instant>>,
}

impl BusyPoll {
    /// Looks for so long at most; for no time if that is zero.
    pub(super) fn new(at_most: Duration) -> Self {
        Self { at_most, long_waits: Cell::new(0), crowded_until: Cell::new(None) }
    }

    /// For how long the wait that begins now begins with looking.
    pub(super) fn patience(&self, now: Instant) -> Duration {
        let is_worth_it = self.long_waits.get() < LONG_WAITS_MAX;
        let is_crowded = self.crowded_until.get().is_some_and(|until| now < until);
        if is_worth_it && !is_crowded { self.at_most } else { Duration::ZERO }
    }

    /// The core was yielded for so long. Says whether others want it.
    pub(super) fn is_crowded(&self, now: Instant, yielded: Duration) -> bool {
        if yielded < YIELDED_MAX {
            return false;
        }
        self.crowded_until.set(Some(now + CROWDED));
        true
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
        let (busy_poll, now) = (BusyPoll::new(AT_MOST), Instant::now());
        busy_poll.note(2 * AT_MOST);
        assert_eq!(busy_poll.patience(now), AT_MOST);
        busy_poll.note(2 * AT_MOST);
        assert_eq!(busy_poll.patience(now), Duration::ZERO);
    }

    #[test]
    fn a_loop_that_slept_looks_again_after_a_short_wait() {
        let (busy_poll, now) = (BusyPoll::new(AT_MOST), Instant::now());
        for _ in 0..10 {
            busy_poll.note(Duration::from_millis(5));
        }
        busy_poll.note(AT_MOST * 3 / 2);
        assert_eq!(busy_poll.patience(now), AT_MOST);
    }

    #[test]
    fn a_loop_leaves_a_core_alone_that_others_want() {
        let (busy_poll, now) = (BusyPoll::new(AT_MOST), Instant::now());
        assert!(!busy_poll.is_crowded(now, YIELDED_MAX / 2));
        assert_eq!(busy_poll.patience(now), AT_MOST);
        assert!(busy_poll.is_crowded(now, YIELDED_MAX));
        assert_eq!(busy_poll.patience(now + CROWDED / 2), Duration::ZERO);
        assert_eq!(busy_poll.patience(now + CROWDED), AT_MOST);
    }

    #[test]
    fn a_loop_that_is_not_to_look_never_does() {
        let busy_poll = BusyPoll::new(Duration::ZERO);
        busy_poll.note(Duration::ZERO);
        assert_eq!(busy_poll.patience(Instant::now()), Duration::ZERO);
    }
}
