//! Deadlines of a connection's calls, with one timer for all of them: a timer for each would cost a peer's
//! client more than its call.
//!
//! All calls of a connection have the same time, so they run out in the order in which they began.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use smol::{LocalExecutor, Task, Timer};

/// Bounds calls in time.
pub(super) struct Deadlines {
    shared: Rc<Shared>,
    /// Wakes the calls whose time is up; ends when this is dropped.
    _timer: Task<()>,
}

struct Shared {
    time_max: Duration,
    /// Calls that were not answered when they were last looked at, oldest first. Those that have ended
    /// meanwhile leave when they are the oldest.
    calls: RefCell<VecDeque<Rc<Call>>>,
}

struct Call {
    deadline: Instant,
    /// None when the call has ended.
    waker: Cell<Option<Waker>>,
}

impl Deadlines {
    /// Bounds calls by `time_max` from their begin.
    pub(super) fn new(time_max: Duration, executor: &LocalExecutor<'static>) -> Self {
        let shared = Rc::new(Shared { time_max, calls: RefCell::default() });
        let timer = executor.spawn(keep_time(shared.clone()));
        Self { shared, _timer: timer }
    }

    /// What the call gives; none if it does not in time, and then it is dropped.
    pub(super) async fn bound<T>(&self, call: impl Future<Output = T>) -> Option<T> {
        let mut work = pin!(call);
        let mut waiting = Waiting { shared: &self.shared, call: None };
        poll_fn(|context| match work.as_mut().poll(context) {
            Poll::Ready(result) => Poll::Ready(Some(result)),
            Poll::Pending => waiting.poll(context).map(|()| None),
        })
        .await
    }
}

/// A call's entry among those that wait, gone when the call has ended in any way.
struct Waiting<'a> {
    shared: &'a Shared,
    call: Option<Rc<Call>>,
}

impl Waiting<'_> {
    /// Ready when the time is up.
    fn poll(&mut self, context: &Context<'_>) -> Poll<()> {
        let call = self.call.get_or_insert_with(|| self.shared.enter());
        if Instant::now() >= call.deadline {
            return Poll::Ready(());
        }
        call.waker.set(Some(context.waker().clone()));
        Poll::Pending
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(call) = &self.call {
            call.waker.set(None);
            self.shared.forget_ended();
        }
    }
}

impl Shared {
    fn enter(&self) -> Rc<Call> {
        let call = Rc::new(Call { deadline: Instant::now() + self.time_max, waker: Cell::default() });
        self.calls.borrow_mut().push_back(call.clone());
        call
    }

    fn forget_ended(&self) {
        let mut calls = self.calls.borrow_mut();
        while calls.front().is_some_and(|call| !call.is_waiting()) {
            calls.pop_front();
        }
    }

    /// Wakes the calls whose time is up, and says when the next one's is: no call that begins later can run
    /// out before that.
    fn wake(&self) -> Instant {
        let now = Instant::now();
        let mut calls = self.calls.borrow_mut();
        while let Some(call) = calls.pop_front_if(|call| call.deadline <= now) {
            if let Some(waker) = call.waker.take() {
                waker.wake();
            }
        }
        calls.front().map_or(now + self.time_max, |call| call.deadline)
    }
}

impl Call {
    fn is_waiting(&self) -> bool {
        let waker = self.waker.take();
        let waits = waker.is_some();
        self.waker.set(waker);
        waits
    }
}

async fn keep_time(shared: Rc<Shared>) {
    loop {
        let next = shared.wake();
        Timer::at(next).await;
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};

    use super::*;

    const TIME_MAX: Duration = Duration::from_millis(50);

    fn bounded<T>(work: impl AsyncFnOnce(&Deadlines) -> T) -> T {
        let executor = LocalExecutor::new();
        let deadlines = Deadlines::new(TIME_MAX, &executor);
        smol::block_on(executor.run(work(&deadlines)))
    }

    #[test]
    fn a_call_that_is_never_answered_is_given_up_when_its_time_is_up() {
        let began = Instant::now();
        assert_eq!(bounded(async |deadlines| deadlines.bound(pending::<()>()).await), None);
        assert!(began.elapsed() >= TIME_MAX);
    }

    #[test]
    fn an_answered_call_is_forgotten() {
        bounded(async |deadlines| {
            assert_eq!(deadlines.bound(ready(7)).await, Some(7));
            let slow = async {
                Timer::after(Duration::from_millis(1)).await;
                8
            };
            assert_eq!(deadlines.bound(slow).await, Some(8));
            assert!(deadlines.shared.calls.borrow().is_empty());
        });
    }

    #[test]
    fn a_later_call_has_its_own_time() {
        bounded(async |deadlines| {
            assert_eq!(deadlines.bound(pending::<()>()).await, None);
            let began = Instant::now();
            assert_eq!(deadlines.bound(pending::<()>()).await, None);
            assert!(began.elapsed() >= TIME_MAX);
        });
    }
}
