//! Pauses between tries.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(2);
const MAX: Duration = Duration::from_millis(200);

/// Pauses that double up to a bound, each drawn from its upper half so that clients do not come back
/// together.
#[derive(Debug, Default)]
pub(crate) struct Backoff {
    tries: u32,
}

impl Backoff {
    pub(crate) fn next_pause(&mut self) -> Duration {
        let full = FIRST.saturating_mul(1 << self.tries.min(16)).min(MAX);
        self.tries += 1;
        full.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    pub(crate) fn reset(&mut self) {
        self.tries = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let mut backoff = Backoff::default();
        let pauses: Vec<_> = (0..40).map(|_| backoff.next_pause()).collect();
        assert!(pauses[0] >= FIRST / 2 && pauses[0] <= FIRST);
        assert!(pauses[20..].iter().all(|pause| *pause >= MAX / 2 && *pause <= MAX));
    }
}
