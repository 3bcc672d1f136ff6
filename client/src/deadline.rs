//! Until when a call, and a try of it, may take.

use std::time::{Duration, Instant};

/// The server is told this much less than the caller's deadline (or an eighth of it): its answer, which
/// knows more than the client, shall still arrive in time, also from a machine that is busy or far away.
const MARGIN_MAX: Duration = Duration::from_millis(100);

/// The longest deadline; a longer one is cut to it. Keeps clock arithmetic far from its limits.
pub(crate) const DEADLINE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// A try is given half of what is left, but not less, so that another server can be tried in time.
const TRY_MIN: Duration = Duration::from_millis(100);

/// Until when a call waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// Until then, when it was last looked at.
    left: Duration,
    /// Whether the call ends then, and not only a try of it.
    pub(crate) is_last: bool,
}

impl Deadline {
    pub(crate) fn after(left: Duration) -> Self {
        let left = left.min(DEADLINE_MAX);
        Self { at: Instant::now() + left, left, is_last: true }
    }

    /// Looks at the clock again, and says how much is left.
    pub(crate) fn refresh(&mut self) -> Duration {
        self.left = self.at.saturating_duration_since(Instant::now());
        self.left
    }

    /// Of one try, when there may be another.
    pub(crate) fn of_try(self) -> Self {
        let spared = self.left - (self.left / 2).max(TRY_MIN).min(self.left);
        let left = self.left - spared;
        Self { at: self.at - spared, left, is_last: spared.is_zero() }
    }

    /// What the server is told of it.
    pub(crate) fn told_ms(&self) -> u32 {
        let told = self.left - (self.left / 8).min(MARGIN_MAX);
        u32::try_from(told.as_millis()).unwrap_or(u32::MAX).max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_take_half_of_what_is_left_down_to_a_bound() {
        let left = |ms| Deadline::after(Duration::from_millis(ms)).of_try().left.as_millis();
        assert_eq!([2000, 300, 150, 100, 40].map(left), [1000, 150, 100, 100, 40]);
    }

    #[test]
    fn the_server_is_told_less_than_the_caller_waits() {
        let told = |ms| Deadline::after(Duration::from_millis(ms)).told_ms();
        assert_eq!([2000, 80, 8, 0].map(told), [1900, 70, 7, 1]);
    }
}
