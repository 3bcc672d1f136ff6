//! The open loop's arrivals: when each is to start, and which task makes it.
//!
//! [`Schedule`] says when, from the workload alone; it needs no clock. [`Pacer`] gives each arrival to a
//! task: one source waits for the next intended start and hands all that is due to tasks that are free, in
//! turn; a task that is done takes what is due by itself. What is due while all tasks are busy waits in the
//! schedule, whose position is all that a backlog takes. No arrival is left out, and each keeps its intended
//! start.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use async_io::Timer;

use super::workload::Spacing;

/// Sets the gaps apart from what calls are made up of.
const SEED: u64 = 0x6172_7269_7661_6c73;

/// The intended starts of an open loop, from its beginning, in order.
#[derive(Debug)]
pub(super) struct Schedule {
    per_second: f64,
    spacing: Spacing,
    /// Arrivals so far.
    count: u64,
    /// Where the last Poisson arrival was, in seconds.
    position: f64,
    random: fastrand::Rng,
    end: Duration,
}

impl Schedule {
    /// Arrivals before `end`.
    pub(super) fn new(per_second: f64, spacing: Spacing, seed: u64, end: Duration) -> Self {
        let random = fastrand::Rng::with_seed(seed ^ SEED);
        Self { per_second, spacing, count: 0, position: 0.0, random, end }
    }
}

impl Iterator for Schedule {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        let seconds = match self.spacing {
            // Not by adding up gaps: their rounding would add up too.
            Spacing::Constant => self.count as f64 / self.per_second,
            Spacing::Poisson => {
                // The inverse of the exponential distribution, of a number above 0 and up to 1.
                self.position -= (1.0 - self.random.f64()).ln() / self.per_second;
                self.position
            }
        };
        self.count += 1;
        let intended = Duration::from_secs_f64(seconds);
        (intended < self.end).then_some(intended)
    }
}

/// A call that is to be made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Arrival {
    pub(super) intended: Instant,
    /// All tasks were busy when it was due.
    pub(super) waited: bool,
}

/// Gives the arrivals to the tasks.
#[derive(Debug)]
pub(super) struct Pacer {
    start: Instant,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    schedule: Schedule,
    /// The first arrival that no task has had; none after the last.
    next: Option<Instant>,
    /// No task gets any of the arrivals that are left.
    closed: bool,
    tasks: Vec<Task>,
    /// Tasks that have nothing to do, the one that has waited longest first.
    idle: VecDeque<usize>,
    /// The source, while it waits for an idle task.
    source: Option<Waker>,
}

#[derive(Clone, Debug, Default)]
struct Task {
    handed: Option<Arrival>,
    waker: Option<Waker>,
}

impl Pacer {
    /// Of tasks that are all idle.
    pub(super) fn new(start: Instant, mut schedule: Schedule, tasks: usize) -> Self {
        let next = schedule.next().map(|intended| start + intended);
        let (idle, tasks) = ((0..tasks).collect(), vec![Task::default(); tasks]);
        Self {
            start,
            state: RefCell::new(State { schedule, next, closed: false, tasks, idle, source: None }),
        }
    }

    /// Hands out the arrivals as they are due; ends after the last.
    pub(super) async fn issue(&self) {
        let mut timer = Timer::never();
        while let Some(next) = self.upcoming() {
            if next > Instant::now() {
                timer.set_at(next);
                (&mut timer).await;
            }
            self.hand_out(Instant::now());
            self.idle_task().await;
        }
    }

    /// What a task does that has been busy until `free_since`, or has done nothing yet; none if nothing comes
    /// any more.
    pub(super) async fn next(&self, task: usize, free_since: Option<Instant>) -> Option<Arrival> {
        let due = free_since.and_then(|now| self.state.borrow_mut().take_due(task, now, self.start));
        match due {
            Some(due) => Some(due),
            None => poll_fn(|cx| self.state.borrow_mut().poll_handed(task, cx.waker())).await,
        }
    }

    /// No further arrivals: tasks end when they are done.
    pub(super) fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        state.wake_all();
    }

    /// How many of the arrivals that no task has had were to start in a range.
    pub(super) fn left(self, from: Instant, to: Instant) -> u64 {
        let State { schedule, next, .. } = self.state.into_inner();
        let rest = next.into_iter().chain(schedule.map(|intended| self.start + intended));
        rest.take_while(|intended| *intended < to).filter(|intended| *intended >= from).count() as u64
    }

    fn upcoming(&self) -> Option<Instant> {
        self.state.borrow().upcoming()
    }

    /// Gives what is due to idle tasks, as far as there are any.
    fn hand_out(&self, now: Instant) {
        let state = &mut *self.state.borrow_mut();
        while state.is_due(now)
            && let Some(task) = state.idle.pop_front()
        {
            let intended = state.take(self.start);
            let task = &mut state.tasks[task];
            task.handed = Some(Arrival { intended, waited: false });
            task.waker.take().into_iter().for_each(Waker::wake);
        }
    }

    /// Waits until a task is idle, or nothing comes any more. Meanwhile tasks take what is due by themselves.
    async fn idle_task(&self) {
        poll_fn(|cx| {
            let mut state = self.state.borrow_mut();
            if !state.idle.is_empty() || state.upcoming().is_none() {
                return Poll::Ready(());
            }
            state.source = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

impl State {
    fn upcoming(&self) -> Option<Instant> {
        self.next.filter(|_| !self.closed)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.upcoming().is_some_and(|next| next <= now)
    }

    /// Takes the next arrival, which there is.
    fn take(&mut self, start: Instant) -> Instant {
        let following = self.schedule.next().map(|intended| start + intended);
        let taken = std::mem::replace(&mut self.next, following).expect("there is a next arrival");
        if following.is_none() {
            self.wake_all();
        }
        taken
    }

    /// What is due, for a task that has become free; without that, it is idle.
    fn take_due(&mut self, task: usize, now: Instant, start: Instant) -> Option<Arrival> {
        if self.is_due(now) {
            // Idle tasks were so before this was due: it waits for the source alone.
            let waited = self.idle.is_empty();
            return Some(Arrival { intended: self.take(start), waited });
        }
        self.idle.push_back(task);
        self.source.take().into_iter().for_each(Waker::wake);
        None
    }

    fn poll_handed(&mut self, task: usize, waker: &Waker) -> Poll<Option<Arrival>> {
        let over = self.upcoming().is_none();
        let task = &mut self.tasks[task];
        match task.handed.take() {
            Some(arrival) => Poll::Ready(Some(arrival)),
            None if over => Poll::Ready(None),
            None => {
                task.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    fn wake_all(&mut self) {
        let wakers = self.tasks.iter_mut().filter_map(|task| task.waker.take());
        wakers.chain(self.source.take()).for_each(Waker::wake);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(per_second: f64, spacing: Spacing, end: Duration) -> Schedule {
        Schedule::new(per_second, spacing, 7, end)
    }

    #[test]
    fn constant_arrivals_are_as_many_as_rate_and_time_say() {
        for per_second in [0.5, 1.0, 3.0, 7.0, 1000.0, 50_000.0] {
            let arrivals = schedule(per_second, Spacing::Constant, 10 * SECOND).count() as f64;
            assert!((arrivals - per_second * 10.0).abs() <= 1.0, "{arrivals} at {per_second} per second");
        }
    }

    #[test]
    fn constant_arrivals_do_not_drift() {
        let mut seconds = schedule(3.0, Spacing::Constant, 100_001 * SECOND).step_by(3);
        assert_eq!(seconds.next(), Some(Duration::ZERO), "the first is at the start");
        assert_eq!(seconds.nth(99_999), Some(100_000 * SECOND));
    }

    #[test]
    fn poisson_arrivals_have_the_rate_and_gaps_of_a_poisson_process() {
        let starts: Vec<_> = schedule(1000.0, Spacing::Poisson, 100 * SECOND).collect();
        let (count, mean) = (starts.len() as f64, 100_000.0_f64);
        assert!((count - mean).abs() < 5.0 * mean.sqrt(), "{count}");
        // The share of gaps longer than t is e^-t, with t in mean gaps.
        for length in [0.1_f64, 1.0, 3.0] {
            let gaps = starts.windows(2).map(|pair| (pair[1] - pair[0]).as_secs_f64() * 1000.0);
            let longer = gaps.filter(|gap| *gap > length).count() as f64;
            let share = (-length).exp();
            let deviation = (count * share * (1.0 - share)).sqrt();
            assert!((longer - count * share).abs() < 5.0 * deviation, "{longer} gaps over {length}");
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_arrivals_however_long_they_go_on() {
        let start = |seed, end| Schedule::new(50.0, Spacing::Poisson, seed, end).take(50).collect::<Vec<_>>();
        assert_eq!(start(1, 100 * SECOND), start(1, 200 * SECOND));
        assert_ne!(start(1, 100 * SECOND), start(2, 100 * SECOND));
    }

    /// Ten arrivals, one per second.
    fn pacer(tasks: usize) -> Pacer {
        Pacer::new(Instant::now(), schedule(1.0, Spacing::Constant, 10 * SECOND), tasks)
    }

    /// What a task has been handed, in seconds.
    fn handed(pacer: &Pacer, task: usize) -> Option<f64> {
        let arrival = pacer.state.borrow_mut().tasks[task].handed.take()?;
        assert!(!arrival.waited, "an idle task had it");
        Some((arrival.intended - pacer.start).as_secs_f64())
    }

    #[test]
    fn arrivals_go_round_the_idle_tasks() {
        let pacer = pacer(3);
        pacer.hand_out(pacer.start + SECOND);
        assert_eq!([0, 1, 2].map(|task| handed(&pacer, task)), [Some(0.0), Some(1.0), None]);
        pacer.state.borrow_mut().take_due(0, pacer.start + SECOND, pacer.start);
        pacer.hand_out(pacer.start + 3 * SECOND);
        assert_eq!([0, 1, 2].map(|task| handed(&pacer, task)), [Some(3.0), None, Some(2.0)]);
    }

    #[test]
    fn what_is_due_while_all_are_busy_keeps_its_intended_start() {
        let pacer = pacer(1);
        pacer.hand_out(pacer.start);
        assert_eq!(handed(&pacer, 0), Some(0.0));
        let now = pacer.start + 3 * SECOND;
        pacer.hand_out(now);
        let mut state = pacer.state.borrow_mut();
        for second in 1..=3 {
            let due = state.take_due(0, now, pacer.start);
            assert_eq!(due, Some(Arrival { intended: pacer.start + second * SECOND, waited: true }));
        }
        assert_eq!(state.take_due(0, now, pacer.start), None, "the next is not due");
        assert_eq!(state.idle, [0]);
    }

    #[test]
    fn what_the_source_was_late_with_did_not_wait_for_a_task() {
        let pacer = pacer(2);
        pacer.hand_out(pacer.start);
        assert_eq!(handed(&pacer, 0), Some(0.0));
        let due = pacer.state.borrow_mut().take_due(0, pacer.start + SECOND, pacer.start);
        assert_eq!(due.map(|arrival| arrival.waited), Some(false), "task 1 is idle");
    }

    #[test]
    fn closed_it_gives_nothing_more_and_knows_what_is_left() {
        let pacer = pacer(1);
        pacer.hand_out(pacer.start);
        assert_eq!(handed(&pacer, 0), Some(0.0));
        pacer.close();
        let start = pacer.start;
        assert_eq!(smol::block_on(pacer.next(0, Some(start + 5 * SECOND))), None);
        smol::block_on(pacer.issue());
        assert_eq!(pacer.left(start + 2 * SECOND, start + 5 * SECOND), 3);
    }
}
