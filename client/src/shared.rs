//! What handles and driver share: the calls, and the frames that they have queued.
//!
//! A call encodes its frame straight into [`State::output`]; the driver takes everything there at once. Only
//! while the link is open are frames encoded: otherwise calls wait, so that what waits is certainly unsent.
//!
//! Nobody is woken while the lock is held.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use event_listener::Event;
use quorate_protocol::request::Request;
use quorate_protocol::{frame, limits};

use crate::Error;
use crate::builder::Settings;
use crate::slots::{Answer, Phase, Slots};

/// Bytes of queued frames above which further calls wait for the socket.
const OUTPUT_BYTES_MAX: usize = 8 << 20;

/// How late a deadline may be noticed, so that calls made together end together.
const DEADLINE_GRAIN: Duration = Duration::from_millis(5);

/// The server is told this much less than the caller's deadline (or an eighth of it): its answer, which
/// knows more than the client, shall still arrive in time.
const DEADLINE_MARGIN_MAX: Duration = Duration::from_millis(20);

/// The longest deadline; a longer one is cut to it. Keeps clock arithmetic far from its limits.
const DEADLINE_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

/// Whether frames may be queued.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Link {
    /// There is no connection.
    Down,
    /// Frames are sent.
    Open,
    /// Nothing further is sent; when what was sent is answered, or at this time, the connection is left.
    Leaving(Instant),
}

pub(crate) struct State {
    pub(crate) slots: Slots,
    pub(crate) link: Link,
    /// Frames that the driver has not taken yet.
    pub(crate) output: Vec<u8>,
    /// Bytes ever put into `output`.
    pub(crate) queued_bytes: u64,
    /// Responses ever received.
    pub(crate) heard: u64,
    /// Calls that may be open at once: the setting, or less if the server allows less.
    pub(crate) in_flight_max: usize,
    /// Why there is no connection.
    pub(crate) down_reason: Arc<str>,
    /// When the driver must look at deadlines next.
    pub(crate) due: Option<Instant>,
    /// No further calls; the driver ends when those open are done.
    closing: bool,
    /// The driver has ended.
    ended: bool,
    driver: Option<Waker>,
    /// The driver was woken and has not run yet.
    notified: bool,
    /// Calls that wait at the bound.
    at_bound: usize,
}

pub(crate) struct Shared {
    pub(crate) settings: Settings,
    state: Mutex<State>,
    /// A place became free.
    freed: Event,
    /// No call is open, and there will be none.
    idle: Event,
}

/// Why a call cannot be begun right now.
enum NotBegun {
    AtBound,
    Never(Error),
}

impl State {
    /// Whom to wake so that the driver runs: nobody if it was woken already.
    fn notify(&mut self) -> Option<Waker> {
        if std::mem::replace(&mut self.notified, true) { None } else { self.driver.clone() }
    }

    fn may_queue(&self) -> bool {
        self.link == Link::Open && self.output.len() < OUTPUT_BYTES_MAX
    }

    /// Whether everything is over.
    pub(crate) fn is_finished(&self) -> bool {
        self.closing && self.slots.len() == 0
    }

    /// The driver runs now, and `waker` wakes it next time.
    pub(crate) fn begin_turn(&mut self, waker: &Waker) {
        self.notified = false;
        match &mut self.driver {
            Some(present) => present.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Lets the calls that wait for the link or for room in the output be sent.
    pub(crate) fn release_waiting(&mut self, wakers: &mut Vec<Waker>) {
        if self.slots.waiting() > 0 {
            self.slots
                .answer_all(wakers, |phase, _| matches!(phase, Phase::Waiting).then_some(Answer::Proceed));
        }
    }

    /// Ends the calls whose deadline has passed, and says whether one of them was sent and nothing at all
    /// was heard since: then the connection is dead, whatever the kernel says.
    pub(crate) fn expire(&mut self, now: Instant, wakers: &mut Vec<Waker>) -> bool {
        let (heard, reason) = (self.heard, self.down_reason.clone());
        let mut silent = false;
        self.slots.answer_all(wakers, |phase, deadline| match phase {
            _ if now < deadline => None,
            Phase::Waiting => Some(Answer::LateUnsent(reason.clone())),
            Phase::Queued { heard: then, .. } => {
                silent |= *then == heard;
                Some(Answer::LateSent)
            }
            Phase::Free | Phase::Done(_) => None,
        });
        let leave = match self.link {
            Link::Leaving(at) => Some(at),
            Link::Down | Link::Open => None,
        };
        let deadline = self.slots.earliest_deadline().map(|deadline| deadline + DEADLINE_GRAIN);
        // The time to leave may be past, when only the driver has yet to see it.
        self.due = deadline.into_iter().chain(leave.map(|at| at.max(now + DEADLINE_GRAIN))).min();
        silent
    }

    /// The connection is gone: of what was queued, `sent` bytes had been given to the socket.
    pub(crate) fn link_down(&mut self, sent: u64, reason: &Arc<str>, wakers: &mut Vec<Waker>) {
        self.link = Link::Down;
        self.output.clear();
        self.down_reason = reason.clone();
        self.slots.answer_all(wakers, |phase, _| match phase {
            Phase::Queued { start, .. } if *start < sent => Some(Answer::Lost(reason.clone())),
            Phase::Queued { .. } => Some(Answer::Unsent(reason.clone())),
            _ => None,
        });
    }
}

impl Shared {
    pub(crate) fn new(settings: Settings) -> Self {
        let state = State {
            slots: Slots::default(),
            link: Link::Down,
            output: Vec::new(),
            queued_bytes: 0,
            heard: 0,
            in_flight_max: settings.in_flight_max,
            down_reason: "no connection has been made yet".into(),
            due: None,
            closing: false,
            ended: false,
            driver: None,
            notified: false,
            at_bound: 0,
        };
        Self { settings, state: Mutex::new(state), freed: Event::new(), idle: Event::new() }
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// Sends one request, once there is a place for it, and returns what became of it.
    pub(crate) async fn exchange(
        &self,
        request: &mut Request<'_>,
        deadline: Deadline,
    ) -> Result<Answer, Error> {
        loop {
            match self.begin(request, deadline) {
                Ok(open) => return Ok(open.await),
                Err(NotBegun::Never(error)) => return Err(error),
                Err(NotBegun::AtBound) => self.place(deadline.at).await?,
            }
        }
    }

    fn begin(&self, request: &mut Request<'_>, deadline: Deadline) -> Result<Open<'_>, NotBegun> {
        let mut state = self.lock();
        if state.closing || state.ended {
            return Err(NotBegun::Never(Error::Closed));
        }
        if state.slots.len() >= state.in_flight_max {
            return Err(NotBegun::AtBound);
        }
        let id = state.slots.insert(deadline.at);
        if state.may_queue()
            && let Err(error) = queue(&mut state, id, request, deadline)
        {
            state.slots.remove(id);
            return Err(NotBegun::Never(error));
        }
        let due = deadline.at + DEADLINE_GRAIN;
        if state.due.is_none_or(|present| due < present) {
            state.due = Some(due);
        }
        let waker = state.notify();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Ok(Open { shared: self, id })
    }

    /// Waits until a place may be free. A timer for this call alone is dear, but the bound is no hot path.
    async fn place(&self, deadline: Instant) -> Result<(), Error> {
        let listener = self.freed.listen();
        {
            let mut state = self.lock();
            if state.slots.len() < state.in_flight_max || state.closing || state.ended {
                return Ok(());
            }
            state.at_bound += 1;
        }
        let _waiting = AtBound(self);
        let freed = async {
            listener.await;
            Ok(())
        };
        let late = async {
            async_io::Timer::at(deadline).await;
            Err(Error::InFlight)
        };
        futures_lite::future::or(freed, late).await
    }

    fn remove(&self, id: u64) {
        let mut state = self.lock();
        state.slots.remove(id);
        let finished = state.is_finished();
        let waker = if finished { state.notify() } else { None };
        let at_bound = state.at_bound > 0;
        drop(state);
        if at_bound {
            self.freed.notify_additional(1);
        }
        if finished {
            self.idle.notify(usize::MAX);
        }
        waker.into_iter().for_each(Waker::wake);
    }

    /// Lets everyone at the bound look again.
    pub(crate) fn bound_changed(&self) {
        self.freed.notify(usize::MAX);
    }

    /// No further calls.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closing = true;
        let waker = state.notify();
        drop(state);
        self.bound_changed();
        waker.into_iter().for_each(Waker::wake);
    }

    /// Waits until no call is open; after [`close`](Self::close).
    pub(crate) async fn finished(&self) {
        let listener = self.idle.listen();
        let finished = self.lock().is_finished();
        if !finished {
            listener.await;
        }
    }

    /// There is no driver any more, so nobody else would answer.
    pub(crate) fn driver_ended(&self) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        state.ended = true;
        state.link = Link::Down;
        let reason: Arc<str> = "the client's driver was dropped".into();
        state.slots.answer_all(&mut wakers, |phase, _| match phase {
            Phase::Queued { .. } => Some(Answer::Lost(reason.clone())),
            _ => Some(Answer::Closed),
        });
        drop(state);
        self.bound_changed();
        wakers.into_iter().for_each(Waker::wake);
    }
}

/// Puts a call's frame into the output.
fn queue(state: &mut State, id: u64, request: &mut Request<'_>, deadline: Deadline) -> Result<(), Error> {
    let before = state.output.len();
    request.id = id;
    request.deadline_ms = deadline.told_ms();
    frame::encode(request, &mut state.output);
    let bytes = state.output.len() - before;
    if bytes > frame::HEADER_BYTES + limits::REQUEST_BYTES_MAX {
        state.output.truncate(before);
        return Err(Error::RequestTooLong(bytes - frame::HEADER_BYTES));
    }
    let (start, heard) = (state.queued_bytes, state.heard);
    state.queued_bytes += bytes as u64;
    state.slots.queue(id, start, heard);
    Ok(())
}

/// Until when a call waits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deadline {
    pub(crate) at: Instant,
    /// Until then, when it was last looked at.
    left: Duration,
}

impl Deadline {
    pub(crate) fn after(left: Duration) -> Self {
        let left = left.min(DEADLINE_MAX);
        Self { at: Instant::now() + left, left }
    }

    /// Looks at the clock again.
    pub(crate) fn refresh(&mut self) -> Duration {
        self.left = self.at.saturating_duration_since(Instant::now());
        self.left
    }

    fn told_ms(&self) -> u32 {
        let told = self.left - (self.left / 8).min(DEADLINE_MARGIN_MAX);
        u32::try_from(told.as_millis()).unwrap_or(u32::MAX).max(1)
    }
}

/// A call that is open. Dropping it gives it up.
struct Open<'a> {
    shared: &'a Shared,
    id: u64,
}

impl Future for Open<'_> {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        match self.shared.lock().slots.take(self.id, cx.waker()) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.shared.remove(self.id);
    }
}

struct AtBound<'a>(&'a Shared);

impl Drop for AtBound<'_> {
    fn drop(&mut self) {
        self.0.lock().at_bound -= 1;
    }
}
