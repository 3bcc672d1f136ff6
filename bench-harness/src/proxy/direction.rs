//! All bytes from one node to another: how long they take, and whether they pass at all.
//!
//! Time is given, not asked for, wherever something is decided.

use std::io;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use event_listener::{Event, EventListener};
use fastrand::Rng;
use futures_lite::future;
use smol::Timer;

use super::settings::LinkSettings;

/// Bytes that are read, and then travel, together, at most.
pub(super) const CHUNK_BYTES_MAX: usize = 64 << 10;

/// The same when the rate is low: what a packet of Ethernet carries.
const CHUNK_BYTES_LOW: usize = 1460;

/// With a rate, chunks are so small that so many are sent in a second.
const CHUNKS_PER_SECOND: u64 = 1000;

/// How long before its transmission begins a chunk may be read, so that a thread that is woken late leaves no
/// gap between two of them.
const READ_AHEAD: Duration = Duration::from_millis(5);

/// Bytes between two nodes, one way.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Bytes that were given to the receiving node's socket.
    pub forwarded_bytes: u64,
    /// Bytes that the proxy has read, and that travel or are held.
    pub waiting_bytes: u64,
}

/// Shared by the handle, which sets, and the thread, which obeys.
#[derive(Debug)]
pub(super) struct Direction {
    state: Mutex<State>,
    /// Settings or cut are others than before.
    changed: Event,
}

#[derive(Debug)]
struct State {
    settings: LinkSettings,
    is_cut: bool,
    /// When everything read so far will have been sent at the rate that is set.
    sent_at: Option<Instant>,
    random: Rng,
    traffic: Traffic,
}

impl State {
    /// Nothing set, nothing cut.
    fn new(seed: u64) -> Self {
        Self {
            settings: LinkSettings::default(),
            is_cut: false,
            sent_at: None,
            random: Rng::with_seed(seed),
            traffic: Traffic::default(),
        }
    }

    /// When bytes may be read, if not yet.
    fn turn(&self, now: Instant) -> Option<Instant> {
        self.sent_at.map(|sent_at| sent_at - READ_AHEAD).filter(|turn| *turn > now)
    }

    /// How many bytes may be read at once.
    fn chunk_bytes(&self) -> usize {
        let Some(rate) = self.settings.bytes_per_second else { return CHUNK_BYTES_MAX };
        let bytes = usize::try_from(rate / CHUNKS_PER_SECOND).unwrap_or(CHUNK_BYTES_MAX);
        bytes.clamp(CHUNK_BYTES_LOW, CHUNK_BYTES_MAX)
    }

    /// When bytes that were read now arrive.
    fn arrival(&mut self, bytes: usize, now: Instant) -> Instant {
        let mut sent_at = now;
        if let Some(rate) = self.settings.bytes_per_second {
            let begin = self.sent_at.map_or(now, |sent_at| sent_at.max(now));
            sent_at = begin + Duration::from_secs_f64(bytes as f64 / rate as f64);
            self.sent_at = Some(sent_at);
        }
        let LinkSettings { delay, jitter, .. } = self.settings;
        if jitter.is_zero() {
            return sent_at + delay;
        }
        // Jitter is no longer than the delay, and a delay is far below what fits.
        let jitter_ns = jitter.as_nanos() as u64;
        sent_at + (delay - jitter) + Duration::from_nanos(self.random.u64(0..=2 * jitter_ns))
    }
}

impl Direction {
    /// Nothing set, nothing cut.
    pub(super) fn new(seed: u64) -> Self {
        Self { state: Mutex::new(State::new(seed)), changed: Event::new() }
    }

    /// Takes settings that have been checked.
    pub(super) fn set(&self, settings: LinkSettings) {
        let mut state = self.state();
        (state.settings, state.sent_at) = (settings, None);
        drop(state);
        self.changed.notify(usize::MAX);
    }

    /// Cuts or heals.
    pub(super) fn set_cut(&self, is_cut: bool) {
        self.state().is_cut = is_cut;
        self.changed.notify(usize::MAX);
    }

    /// Whether bytes are held.
    pub(super) fn is_cut(&self) -> bool {
        self.state().is_cut
    }

    /// Is woken by the next change.
    pub(super) fn change(&self) -> EventListener {
        self.changed.listen()
    }

    /// What went and what waits.
    pub(super) fn traffic(&self) -> Traffic {
        self.state().traffic
    }

    /// Waits until bytes may be read.
    pub(super) async fn wait_for_turn(&self) {
        loop {
            let change = self.change();
            let turn = self.state().turn(Instant::now());
            match turn {
                Some(later) => wait_until(later, change).await,
                None => return,
            }
        }
    }

    /// How many bytes may be read at once.
    pub(super) fn chunk_bytes(&self) -> usize {
        self.state().chunk_bytes()
    }

    /// Takes note of bytes that were read, and says when they arrive.
    pub(super) fn send(&self, bytes: usize) -> Instant {
        let mut state = self.state();
        state.traffic.waiting_bytes += bytes as u64;
        state.arrival(bytes, Instant::now())
    }

    /// Waits until something that arrives at `due` may be passed on.
    pub(super) async fn wait_for_arrival(&self, due: Instant) {
        loop {
            let change = self.change();
            let is_due = due <= Instant::now();
            match self.is_cut() {
                true => change.await,
                false if is_due => return,
                false => wait_until(due, change).await,
            }
        }
    }

    /// Passes bytes on, and says how many; none if they are held: then it does nothing. `write` must not
    /// block, as whoever cuts waits for it.
    pub(super) fn pass(&self, write: impl FnOnce() -> io::Result<usize>) -> io::Result<Option<usize>> {
        let mut state = self.state();
        if state.is_cut {
            return Ok(None);
        }
        let bytes = write()?;
        state.traffic.forwarded_bytes += bytes as u64;
        state.traffic.waiting_bytes -= bytes as u64;
        Ok(Some(bytes))
    }

    /// Takes note of bytes whose connection is gone.
    pub(super) fn discard(&self, bytes: usize) {
        self.state().traffic.waiting_bytes -= bytes as u64;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

async fn wait_until(time: Instant, change: EventListener) {
    let timer = async {
        Timer::at(time).await;
    };
    future::or(change, timer).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn state(link: &str) -> State {
        State { settings: link.parse().unwrap(), ..State::new(7) }
    }

    #[test]
    fn bytes_arrive_after_the_delay_give_or_take_the_jitter() {
        let now = Instant::now();
        assert_eq!(state("20ms").arrival(1000, now), now + 20 * MS);
        let mut jittery = state("20ms±5ms");
        let arrivals: Vec<_> = (0..1000).map(|_| jittery.arrival(1000, now) - now).collect();
        assert!(arrivals.iter().all(|arrival| (15 * MS..=25 * MS).contains(arrival)));
        let (first, last) = (arrivals.iter().min().unwrap(), arrivals.iter().max().unwrap());
        assert!(*first < 16 * MS && *last > 24 * MS, "{first:?} to {last:?} is no use of ±5ms");
    }

    #[test]
    fn the_same_seed_gives_the_same_jitter() {
        let now = Instant::now();
        let arrivals = || {
            let mut state = state("20ms±5ms");
            (0..100).map(|_| state.arrival(1, now)).collect::<Vec<_>>()
        };
        assert_eq!(arrivals(), arrivals());
    }

    #[test]
    fn bytes_are_sent_one_after_the_other_at_the_rate() {
        let now = Instant::now();
        let mut narrow = state("20ms,1MB/s");
        let arrivals = [now, now, now + 50 * MS].map(|now| narrow.arrival(10_000, now));
        assert_eq!(arrivals, [now + 30 * MS, now + 40 * MS, now + 80 * MS]);
    }

    #[test]
    fn what_is_too_much_for_the_rate_is_not_read() {
        let now = Instant::now();
        let mut narrow = state("1MB/s");
        assert_eq!(narrow.turn(now), None);
        narrow.arrival(10_000, now);
        assert_eq!(narrow.turn(now), Some(now + 5 * MS));
        assert_eq!(narrow.turn(now + 5 * MS), None);
    }

    #[test]
    fn chunks_are_small_where_a_byte_would_wait_long_for_those_before_it() {
        let sizes = ["1kB/s", "1MB/s", "10MB/s", "1000MB/s", "20ms"].map(|link| state(link).chunk_bytes());
        assert_eq!(sizes, [1460, 1460, 10_000, 65_536, 65_536]);
    }
}
