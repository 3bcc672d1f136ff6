//! What a client's driver runs: a task for each link, and one that ends them all.
//!
//! Each task has a waker of its own, and the driver polls only those that were woken: as a rule one link is busy, and
//! the others wait for calls that never come.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Wake, Waker};

use crate::shared::Shared;

/// Where the client puts what its driver is to run.
#[derive(Default)]
pub(crate) struct Tasks {
    new: Mutex<Vec<Task>>,
    driver: Arc<DriverWaker>,
}

impl Tasks {
    pub(crate) fn spawn(&self, future: impl Future<Output = ()> + Send + 'static) {
        let task = Task::new(future, self.driver.clone());
        lock(&self.new).push(task);
        self.driver.wake();
    }
}

/// Whom to wake so that the driver runs; none before it has run.
#[derive(Default)]
struct DriverWaker(Mutex<Option<Waker>>);

impl DriverWaker {
    fn set(&self, waker: &Waker) {
        match &mut *lock(&self.0) {
            Some(present) => present.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn wake(&self) {
        let waker = lock(&self.0).clone();
        waker.into_iter().for_each(Waker::wake);
    }
}

struct Task {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    bell: Arc<Bell>,
    waker: Waker,
}

/// What wakes one task.
struct Bell {
    has_rung: AtomicBool,
    driver: Arc<DriverWaker>,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Whoever was first has woken the driver, which has not looked since.
        if !self.has_rung.swap(true, Ordering::AcqRel) {
            self.driver.wake();
        }
    }
}

impl Task {
    fn new(future: impl Future<Output = ()> + Send + 'static, driver: Arc<DriverWaker>) -> Self {
        let bell = Arc::new(Bell { has_rung: AtomicBool::new(true), driver });
        Self { future: Box::pin(future), waker: Waker::from(bell.clone()), bell }
    }

    /// Runs it if it was woken, and says whether it is over.
    fn is_over(&mut self) -> bool {
        let is_woken = self.bell.has_rung.swap(false, Ordering::AcqRel);
        is_woken && self.future.as_mut().poll(&mut Context::from_waker(&self.waker)).is_ready()
    }
}

/// Does the work of a [`Client`](crate::Client)'s connections: connects, sends, receives.
///
/// Ends when the client was closed or every handle dropped, and nothing is in flight. If it is dropped
/// before, open calls end with an error.
///
/// Deadlines are kept by the driver: without it calls do not end.
#[must_use = "a client without its driver does nothing"]
pub struct Driver {
    tasks: Arc<Tasks>,
    running: Vec<Task>,
    over: Task,
    shared: Arc<Shared>,
}

impl Driver {
    /// Runs the tasks of a client.
    pub(crate) fn new(tasks: Arc<Tasks>, shared: Arc<Shared>) -> Self {
        let over = Task::new(over(shared.clone()), tasks.driver.clone());
        Self { tasks, running: Vec::new(), over, shared }
    }
}

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        // First, so that what is woken or spawned from here on wakes it.
        this.tasks.driver.set(cx.waker());
        this.running.append(&mut lock(&this.tasks.new));
        this.running.retain_mut(|task| !task.is_over());
        if this.over.is_over() { Poll::Ready(()) } else { Poll::Pending }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.abandon();
    }
}

/// Ends when the client is closed and no call is open.
async fn over(shared: Arc<Shared>) {
    shared.down_to(0).await;
    shared.finish();
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("nothing panics while it holds this lock")
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::atomic::AtomicUsize;

    use super::*;

    #[derive(Default)]
    struct Probe {
        polls: AtomicUsize,
        waker: Mutex<Option<Waker>>,
    }

    impl Probe {
        fn task(self: &Arc<Self>) -> Task {
            let probe = self.clone();
            let future = poll_fn(move |cx| {
                probe.polls.fetch_add(1, Ordering::Relaxed);
                *lock(&probe.waker) = Some(cx.waker().clone());
                Poll::<()>::Pending
            });
            Task::new(future, Arc::default())
        }

        fn wake(&self) {
            lock(&self.waker).as_ref().expect("it was polled").wake_by_ref();
        }

        fn polls(&self) -> usize {
            self.polls.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn only_a_task_that_was_woken_is_polled_and_one_that_wakes_itself_is_again() {
        let (busy, idle) = (Arc::new(Probe::default()), Arc::new(Probe::default()));
        let mut tasks = [busy.task(), idle.task()];
        let mut round = || tasks.iter_mut().for_each(|task| assert!(!task.is_over()));
        round();
        assert_eq!((busy.polls(), idle.polls()), (1, 1), "a new task is polled");
        for polls in 2..5 {
            busy.wake();
            busy.wake();
            round();
            round();
            assert_eq!((busy.polls(), idle.polls()), (polls, 1));
        }
    }

    #[test]
    fn whoever_wakes_a_task_wakes_the_driver_once_until_it_has_looked() {
        let count = Arc::new(Counting::default());
        let driver = Arc::new(DriverWaker::default());
        driver.set(&Waker::from(count.clone()));
        let mut task = Task::new(std::future::pending(), driver);
        assert!(!task.is_over());
        for wakes in 1..4 {
            task.waker.wake_by_ref();
            task.waker.wake_by_ref();
            assert_eq!(count.0.load(Ordering::Relaxed), wakes);
            assert!(!task.is_over());
        }
    }

    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Wake for Counting {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}
