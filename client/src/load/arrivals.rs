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

    /// What an idle task does; none if nothing comes any more.
    pub(super) async fn handed(&self, task: usize) -> Option<Arrival> {
        poll_fn(|cx| self.state.borrow_mut().poll_handed(task, cx.waker())).await
    }

    /// What a task does that was busy until `now`; none if nothing comes any more.
    pub(super) async fn next_for(&self, task: usize, now: Instant) -> Option<Arrival> {
        let due = self.state.borrow_mut().take_due(task, now, self.start);
        match due {
            Some(due) => Some(due),
            None => self.handed(task).await,
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
