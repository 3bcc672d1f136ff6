//! The open loop's arrivals: when each is to start, and which task makes it.
//!
//! [`Schedule`] says when, from the workload alone; it needs no clock. [`Pacer`] gives each arrival to a
//! task: one source waits for the next intended start and wakes the task that has been idle longest, which
//! takes what is due and wakes the next, if more is due; a task that is done takes what is due by itself.
//! What is due while all tasks are busy waits in the schedule, whose position is all that a backlog takes.
//!
//! No arrival is left out, each keeps its intended start, and a task takes it only when it sends: calls
//! begin in the order of their intended starts.

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
    /// When the source last looked at the clock. If the next arrival was due then, and a task is idle, the
    /// first idle task has been woken.
    seen: Instant,
    /// Tasks that have nothing to do, the one that has waited longest first.
    idle: VecDeque<usize>,
    /// Of each task, while it is idle.
    wakers: Vec<Option<Waker>>,
    /// The source, while arrivals that it has seen to be due are left.
    source: Option<Waker>,
}

impl Pacer {
    /// Of tasks that are all idle.
    pub(super) fn new(start: Instant, mut schedule: Schedule, tasks: usize) -> Self {
        let next = schedule.next().map(|intended| start + intended);
        let state = State {
            schedule,
            next,
            closed: false,
            seen: start,
            idle: (0..tasks).collect(),
            wakers: vec![None; tasks],
            source: None,
        };
        Self { start, state: RefCell::new(state) }
    }

    /// Sees to it that arrivals are taken when they are due; ends after the last.
    pub(super) async fn issue(&self) {
        let mut timer = Timer::never();
        while let Some(next) = self.upcoming() {
            if next > Instant::now() {
                timer.set_at(next);
                (&mut timer).await;
            }
            self.state.borrow_mut().see(Instant::now());
            poll_fn(|cx| self.state.borrow_mut().poll_taken(cx.waker())).await;
        }
    }

    /// What a task does that has been busy until `free_since`, or has done nothing yet; none if nothing comes
    /// any more.
    pub(super) async fn next(&self, task: usize, free_since: Option<Instant>) -> Option<Arrival> {
        if let Some(now) = free_since
            && let Some(due) = self.state.borrow_mut().take_or_idle(task, now, self.start)
        {
            return Some(due);
        }
        poll_fn(|cx| self.state.borrow_mut().poll_idle(task, cx.waker(), self.start)).await
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
}

impl State {
    fn upcoming(&self) -> Option<Instant> {
        self.next.filter(|_| !self.closed)
    }

    fn is_due(&self, now: Instant) -> bool {
        self.upcoming().is_some_and(|next| next <= now)
    }

    /// The source looks at what is due.
    fn see(&mut self, now: Instant) {
        self.seen = now;
        self.wake_first();
    }

    /// Wakes the first idle task, if the source has seen something due for it.
    fn wake_first(&mut self) {
        if self.is_due(self.seen)
            && let Some(first) = self.idle.front()
        {
            self.wakers[*first].take().into_iter().for_each(Waker::wake);
        }
    }

    /// Takes the next arrival, which there is.
    fn take(&mut self, waited: bool, start: Instant) -> Arrival {
        let following = self.schedule.next().map(|intended| start + intended);
        let intended = std::mem::replace(&mut self.next, following).expect("there is a next arrival");
        if following.is_none() {
            self.wake_all();
        } else if !self.is_due(self.seen) {
            self.source.take().into_iter().for_each(Waker::wake);
        }
        Arrival { intended, waited }
    }

    /// What is due, for a task that has become free; without that, it is idle.
    fn take_or_idle(&mut self, task: usize, now: Instant, start: Instant) -> Option<Arrival> {
        if self.is_due(now) {
            // Idle tasks were so before this was due: it waits for the source alone.
            let waited = self.idle.is_empty();
            return Some(self.take(waited, start));
        }
        self.idle.push_back(task);
        None
    }

    /// What is due, for an idle task whose turn it is.
    fn poll_idle(&mut self, task: usize, waker: &Waker, start: Instant) -> Poll<Option<Arrival>> {
        if self.upcoming().is_none() {
            return Poll::Ready(None);
        }
        if self.is_due(self.seen) && self.idle.front() == Some(&task) {
            self.idle.pop_front();
            let arrival = self.take(false, start);
            self.wake_first();
            return Poll::Ready(Some(arrival));
        }
        self.wakers[task] = Some(waker.clone());
        Poll::Pending
    }

    /// Ready when all that the source has seen to be due is taken.
    fn poll_taken(&mut self, waker: &Waker) -> Poll<()> {
        if !self.is_due(self.seen) {
            return Poll::Ready(());
        }
        self.source = Some(waker.clone());
        Poll::Pending
    }

    fn wake_all(&mut self) {
        let wakers = self.wakers.iter_mut().filter_map(Option::take);
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

    /// What an idle task takes when it runs.
    fn run(pacer: &Pacer, task: usize) -> Option<Arrival> {
        match pacer.state.borrow_mut().poll_idle(task, Waker::noop(), pacer.start) {
            Poll::Ready(Some(arrival)) => Some(arrival),
            Poll::Ready(None) => panic!("there are arrivals left"),
            Poll::Pending => None,
        }
    }

    /// What a task takes that has become free after so many seconds.
    fn free(pacer: &Pacer, task: usize, second: u32) -> Option<Arrival> {
        pacer.state.borrow_mut().take_or_idle(task, pacer.start + second * SECOND, pacer.start)
    }

    fn arrival(pacer: &Pacer, second: u32, waited: bool) -> Option<Arrival> {
        Some(Arrival { intended: pacer.start + second * SECOND, waited })
    }

    fn see(pacer: &Pacer, second: u32) {
        pacer.state.borrow_mut().see(pacer.start + second * SECOND);
    }

    #[test]
    fn arrivals_go_round_the_idle_tasks() {
        let pacer = pacer(3);
        see(&pacer, 1);
        assert_eq!(run(&pacer, 1), None, "it is the turn of task 0");
        assert_eq!(run(&pacer, 0), arrival(&pacer, 0, false));
        assert_eq!(run(&pacer, 1), arrival(&pacer, 1, false));
        assert_eq!(run(&pacer, 2), None, "nothing more is due");
        assert_eq!(free(&pacer, 0, 1), None);
        see(&pacer, 3);
        assert_eq!(run(&pacer, 2), arrival(&pacer, 2, false));
        assert_eq!(run(&pacer, 0), arrival(&pacer, 3, false));
    }

    #[test]
    fn who_takes_an_arrival_wakes_the_next_idle_task_as_long_as_more_is_due() {
        let pacer = pacer(3);
        let woken = |task: usize| pacer.state.borrow().wakers[task].is_none();
        // They wait for their turn.
        assert_eq!([2, 1].map(|task| run(&pacer, task)), [None, None]);
        see(&pacer, 1);
        assert_eq!([1, 2].map(woken), [false, false]);
        assert_eq!(run(&pacer, 0), arrival(&pacer, 0, false));
        assert_eq!([1, 2].map(woken), [true, false]);
        assert_eq!(run(&pacer, 1), arrival(&pacer, 1, false));
        assert!(!woken(2));
    }

    #[test]
    fn a_task_that_becomes_free_does_not_overtake_those_that_were_woken_before() {
        let pacer = pacer(2);
        see(&pacer, 0);
        assert_eq!(run(&pacer, 0), arrival(&pacer, 0, false));
        // Task 1 is woken for second 1, but task 0 comes first.
        see(&pacer, 2);
        assert_eq!(free(&pacer, 0, 2), arrival(&pacer, 1, false), "task 1 was idle all the time");
        assert_eq!(run(&pacer, 1), arrival(&pacer, 2, false));
    }

    #[test]
    fn what_is_due_while_all_are_busy_keeps_its_intended_start() {
        let pacer = pacer(1);
        see(&pacer, 0);
        assert_eq!(run(&pacer, 0), arrival(&pacer, 0, false));
        see(&pacer, 3);
        for second in 1..=3 {
            assert_eq!(free(&pacer, 0, 3), arrival(&pacer, second, true));
        }
        assert_eq!(free(&pacer, 0, 3), None, "the next is not due");
        assert_eq!(pacer.state.borrow().idle, [0]);
    }

    #[test]
    fn closed_it_gives_nothing_more_and_knows_what_is_left() {
        let pacer = pacer(1);
        see(&pacer, 0);
        assert_eq!(run(&pacer, 0), arrival(&pacer, 0, false));
        pacer.close();
        let start = pacer.start;
        assert_eq!(smol::block_on(pacer.next(0, Some(start + 5 * SECOND))), None);
        smol::block_on(pacer.issue());
        assert_eq!(pacer.left(start + 2 * SECOND, start + 5 * SECOND), 3);
    }
}
