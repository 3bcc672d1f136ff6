//! The clock of a node: monotonic, and counting while the machine is suspended (CLOCK_BOOTTIME).
//!
//! Everything that a replica decides by time is a promise to others or a wait for them: a lease that went on while
//! its holder's machine slept would be answered from after it has ended (R22). The usual monotonic clock stands
//! still meanwhile. Both are read without a system call where the machine's time source allows it, and take the same
//! time.

use std::time::Duration;

use rustix::time::{ClockId, clock_gettime};

/// Time since the clock was made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Duration,
}

impl Clock {
    /// A clock that begins now.
    pub(crate) fn start() -> Self {
        Self { origin: since_boot() }
    }

    /// How long ago it began.
    pub(crate) fn elapsed(&self) -> Duration {
        since_boot().saturating_sub(self.origin)
    }
}

fn since_boot() -> Duration {
    let time = clock_gettime(ClockId::Boottime);
    // Neither is ever negative, nor the second 10^9 or more.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_begins_at_zero_and_never_goes_back() {
        let clock = Clock::start();
        let times: Vec<_> = (0..1000).map(|_| clock.elapsed()).collect();
        assert!(times.is_sorted(), "{times:?}");
        assert!(times[0] < Duration::from_secs(60), "it counts from its start, not from the machine's");
    }
}
