//! The way to one server: the calls that go there, and the frames that they have queued.
//!
//! A call encodes its frame straight into [`State::output`]; the driver takes everything there at once. Only
//! while there is a connection are frames encoded: otherwise calls wait for it, so that what waits is certainly
//! unsent. After a failed attempt calls are turned away for a while, so that they go elsewhere.
//!
//! Nobody is woken while the lock is held.

mod connection;
mod driver;
mod handshake;
mod slots;

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use event_listener::Event;
use quorate_protocol::request::{Operation, Request};
use quorate_protocol::{frame, limits};

use crate::Error;
use crate::builder::{Settings, WhenFull};
use crate::deadline::{DEADLINE_MAX, Deadline};

pub(crate) use driver::{Listener, drive};
pub(crate) use handshake::ConnectError;
pub(crate) use slots::{Answer, Part};
use slots::{Phase, Slots};

/// Bytes of queued frames above which further calls wait for the socket.
const OUTPUT_BYTES_MAX: usize = 8 << 20;

/// How late a deadline may be noticed, so that calls made together end together.
const DEADLINE_GRAIN: Duration = Duration::from_millis(5);

/// The way to one server.
pub(crate) struct Link {
    /// `HOST:PORT`.
    pub(crate) address: Arc<str>,
    /// Its position among the client's servers.
    pub(crate) at: usize,
    pub(crate) settings: Arc<Settings>,
    state: Mutex<State>,
    /// A place became free.
    freed: Event,
}

pub(super) struct State {
    slots: Slots,
    /// Whether frames may be queued.
    is_open: bool,
    /// Calls are turned away until then.
    shut_until: Option<Instant>,
    /// Frames that the driver has not taken yet.
    output: Vec<u8>,
    /// Bytes ever put into `output`.
    queued_bytes: u64,
    /// Responses ever received.
    heard: u64,
    /// Calls that may be open at once: the setting, or less if the server allows less.
    in_flight_max: usize,
    /// Why there is no connection.
    down_reason: Arc<str>,
    /// When the driver must look at deadlines next.
    due: Option<Instant>,
    /// There will be no further calls.
    is_over: bool,
    /// There is no driver any more.
    is_abandoned: bool,
    driver: Option<Waker>,
    /// The driver was woken and has not run yet.
    notified: bool,
    /// Calls that wait at the bound.
    at_bound: usize,
    /// Watches that the server may have: of one connection it takes [`limits::WATCHES_MAX`], and only the client knows
    /// that this is its own doing, not a server that has too much to do.
    watches: usize,
}

/// Why a call cannot be begun right now.
enum NotBegun {
    AtBound,
    Shut(Arc<str>),
    Never(Error),
}

impl State {
    /// Whom to wake so that the driver runs: nobody if it was woken already.
    fn notify(&mut self) -> Option<Waker> {
        if std::mem::replace(&mut self.notified, true) { None } else { self.driver.clone() }
    }

    fn may_queue(&self) -> bool {
        self.is_open && self.output.len() < OUTPUT_BYTES_MAX
    }

    /// The driver runs now, and `waker` wakes it next time.
    fn begin_turn(&mut self, waker: &Waker) {
        self.notified = false;
        match &mut self.driver {
            Some(present) => present.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Lets the calls that wait for the connection or for room in the output be sent.
    fn release_waiting(&mut self, wakers: &mut Vec<Waker>) {
        if self.slots.waiting() > 0 {
            self.slots
                .answer_all(wakers, |phase, _, _| matches!(phase, Phase::Waiting).then_some(Answer::Proceed));
        }
    }

    /// Ends the calls whose deadline has passed, and says whether one of them, at its last try, was sent and nothing at
    /// all was heard since: then the connection is dead, whatever the kernel says.
    fn expire(&mut self, now: Instant, wakers: &mut Vec<Waker>) -> bool {
        let (heard, reason) = (self.heard, self.down_reason.clone());
        let mut silent = false;
        self.slots.answer_all(wakers, |phase, deadline, is_last| match phase {
            _ if now < deadline => None,
            Phase::Waiting => Some(Answer::Unconnected(reason.clone())),
            Phase::Queued { heard: then, .. } => {
                let is_silent = *then == heard;
                silent |= is_last && is_silent;
                Some(Answer::LateSent { silent: is_silent })
            }
            Phase::Free | Phase::Done(_) => None,
        });
        self.due = self.slots.earliest_deadline().map(|deadline| deadline + DEADLINE_GRAIN);
        silent
    }

    /// The connection is gone: of what was queued, `sent` bytes had been given to the socket.
    fn down(&mut self, sent: u64, reason: &Arc<str>, wakers: &mut Vec<Waker>) {
        self.is_open = false;
        self.output.clear();
        self.down_reason = reason.clone();
        self.slots.answer_all(wakers, |phase, _, _| match phase {
            Phase::Queued { start, .. } if *start < sent => Some(Answer::Lost(reason.clone())),
            Phase::Queued { .. } => Some(Answer::Unsent(reason.clone())),
            _ => None,
        });
    }

    /// Puts a call's frame into the output.
    fn queue(&mut self, id: u64, request: &mut Request<'_>, told_ms: u32) -> Result<(), Error> {
        let before = self.output.len();
        request.id = id;
        request.deadline_ms = told_ms;
        frame::encode(request, &mut self.output);
        let bytes = self.output.len() - before;
        if bytes > frame::HEADER_BYTES + limits::REQUEST_BYTES_MAX {
            self.output.truncate(before);
            return Err(Error::RequestTooLong(bytes - frame::HEADER_BYTES));
        }
        let (start, heard) = (self.queued_bytes, self.heard);
        self.queued_bytes += bytes as u64;
        self.slots.queue(id, start, heard);
        Ok(())
    }

    /// Has the server end a watch. Nobody waits for its answer.
    fn cancel(&mut self, watch: u64) {
        if !self.is_open {
            return;
        }
        let id = self.slots.insert(Instant::now(), true);
        let mut request = Request { id, deadline_ms: 0, operation: Operation::Cancel { request: watch } };
        self.queue(id, &mut request, 0).expect("it is short");
        self.slots.remove(id);
    }
}

impl Link {
    pub(crate) fn new(address: Arc<str>, at: usize, settings: Arc<Settings>) -> Self {
        let state = State {
            slots: Slots::default(),
            is_open: false,
            shut_until: None,
            output: Vec::new(),
            queued_bytes: 0,
            heard: 0,
            in_flight_max: settings.in_flight_max,
            down_reason: format!("{address}: no connection has been made yet").into(),
            due: None,
            is_over: false,
            is_abandoned: false,
            driver: None,
            notified: false,
            at_bound: 0,
            watches: 0,
        };
        Self { address, at, settings, state: Mutex::new(state), freed: Event::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }

    /// Sends one request, once there is a place for it, and returns what became of it.
    pub(crate) async fn exchange(
        &self,
        request: &mut Request<'_>,
        deadline: Deadline,
    ) -> Result<Answer, Error> {
        match self.begin_in_time(request, deadline, false).await? {
            Ok(open) => Ok(open.await),
            Err(answer) => Ok(answer),
        }
    }

    /// Whether the server takes another watch of this client.
    pub(crate) fn takes_watch(&self) -> bool {
        self.lock().watches < limits::WATCHES_MAX
    }

    /// Sends a request that is answered more than once. A watch has no end of its own: its deadline is that of its
    /// beginning, for the server and for whoever waits for the first answer. [`Error::TooManyWatches`] if it is one
    /// watch too many here.
    pub(crate) async fn open(
        self: &Arc<Self>,
        request: &mut Request<'_>,
        deadline: Deadline,
    ) -> Result<Result<Parts, Answer>, Error> {
        Ok(match self.begin_in_time(request, deadline, true).await? {
            Ok(open) => {
                let id = open.id;
                std::mem::forget(open); // The parts free the place.
                Ok(Parts { link: self.clone(), id, is_watch: is_watch(request), is_over: false })
            }
            Err(answer) => Err(answer),
        })
    }

    async fn begin_in_time(
        &self,
        request: &mut Request<'_>,
        deadline: Deadline,
        in_parts: bool,
    ) -> Result<Result<Open<'_>, Answer>, Error> {
        loop {
            match self.begin(request, deadline, in_parts) {
                Ok(open) => return Ok(Ok(open)),
                Err(NotBegun::Shut(reason)) => return Ok(Err(Answer::Unconnected(reason))),
                Err(NotBegun::Never(error)) => return Err(error),
                Err(NotBegun::AtBound) if self.settings.when_full == WhenFull::Refuse => {
                    return Err(Error::InFlight);
                }
                // Boxed, so that a call that finds a place is small.
                Err(NotBegun::AtBound) => match Box::pin(self.place(deadline.at)).await {
                    // Another server may have a place, and the call has more time than this try.
                    Err(Error::InFlight) if !deadline.is_last => return Ok(Err(Answer::Full)),
                    placed => placed?,
                },
            }
        }
    }

    fn begin(
        &self,
        request: &mut Request<'_>,
        deadline: Deadline,
        in_parts: bool,
    ) -> Result<Open<'_>, NotBegun> {
        let mut state = self.lock();
        if state.is_abandoned {
            return Err(NotBegun::Never(Error::Closed));
        }
        if state.slots.len() >= state.in_flight_max {
            return Err(NotBegun::AtBound);
        }
        if state.shut_until.is_some_and(|until| Instant::now() < until) {
            return Err(NotBegun::Shut(state.down_reason.clone()));
        }
        let is_watch = in_parts && is_watch(request);
        if is_watch && state.watches == limits::WATCHES_MAX {
            return Err(NotBegun::Never(Error::TooManyWatches));
        }
        let ends = if is_watch { Deadline::after(DEADLINE_MAX) } else { deadline };
        let id = state.slots.insert(ends.at, ends.is_last);
        if in_parts {
            state.slots.take_in_parts(id);
        }
        if state.may_queue()
            && let Err(error) = state.queue(id, request, deadline.told_ms())
        {
            state.slots.remove(id);
            return Err(NotBegun::Never(error));
        }
        state.watches += usize::from(is_watch);
        let due = ends.at + DEADLINE_GRAIN;
        if state.due.is_none_or(|present| due < present) {
            state.due = Some(due);
        }
        let waker = state.notify();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
        Ok(Open { link: self, id })
    }

    /// Waits until a place may be free. A timer for this call alone is dear, but the bound is no hot path.
    async fn place(&self, deadline: Instant) -> Result<(), Error> {
        let listener = self.freed.listen();
        {
            let mut state = self.lock();
            if state.slots.len() < state.in_flight_max || state.is_abandoned {
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
        let at_bound = state.at_bound > 0;
        drop(state);
        if at_bound {
            self.freed.notify_additional(1);
        }
    }

    /// Lets everyone at the bound look again.
    fn bound_changed(&self) {
        self.freed.notify(usize::MAX);
    }

    /// An attempt to connect has failed: what waits goes elsewhere, and what comes for a while.
    fn failed(&self, error: &ConnectError, pause: Duration) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        let reason: Arc<str> = format!("{}: {error}", self.address).into();
        state.down_reason = reason.clone();
        state.shut_until = Some(Instant::now() + pause);
        state.slots.answer_all(&mut wakers, |phase, _, _| {
            matches!(phase, Phase::Waiting).then(|| Answer::Unsent(reason.clone()))
        });
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// There are no further calls: the driver ends.
    pub(crate) fn finish(&self) {
        let mut state = self.lock();
        state.is_over = true;
        let waker = state.notify();
        drop(state);
        waker.into_iter().for_each(Waker::wake);
    }

    /// There is no driver any more, so nobody else would answer.
    pub(crate) fn abandon(&self) {
        let mut wakers = Vec::new();
        let mut state = self.lock();
        state.is_abandoned = true;
        state.is_open = false;
        let reason: Arc<str> = "the client's driver was dropped".into();
        state.slots.answer_all(&mut wakers, |phase, _, _| match phase {
            Phase::Queued { .. } => Some(Answer::Lost(reason.clone())),
            _ => Some(Answer::Closed),
        });
        drop(state);
        self.bound_changed();
        wakers.into_iter().for_each(Waker::wake);
    }
}

fn is_watch(request: &Request<'_>) -> bool {
    matches!(request.operation, Operation::Watch { .. })
}

/// A call that is open. Dropping it gives it up.
struct Open<'a> {
    link: &'a Link,
    id: u64,
}

impl Future for Open<'_> {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        match self.link.lock().slots.take(self.id, cx.waker()) {
            Some(answer) => Poll::Ready(answer),
            None => Poll::Pending,
        }
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.link.remove(self.id);
    }
}

/// The answers to a call that has more than one. Dropping it gives the call up.
pub(crate) struct Parts {
    link: Arc<Link>,
    id: u64,
    is_watch: bool,
    is_over: bool,
}

impl Parts {
    /// Where they come from.
    pub(crate) fn link(&self) -> &Arc<Link> {
        &self.link
    }

    /// The next answer; nothing is to be asked for behind the last.
    pub(crate) async fn next(&mut self) -> Part {
        let part = poll_fn(|cx| match self.link.lock().slots.take_part(self.id, cx.waker()) {
            Some(part) => Poll::Ready(part),
            None => Poll::Pending,
        })
        .await;
        self.is_over = matches!(part, Part::Last(_));
        part
    }
}

impl Drop for Parts {
    fn drop(&mut self) {
        let mut state = self.link.lock();
        state.watches -= usize::from(self.is_watch);
        let waker = match state.slots.is_queued(self.id) {
            true => {
                state.cancel(self.id);
                state.notify()
            }
            false => None,
        };
        drop(state);
        self.link.remove(self.id);
        waker.into_iter().for_each(Waker::wake);
    }
}

struct AtBound<'a>(&'a Link);

impl Drop for AtBound<'_> {
    fn drop(&mut self) {
        self.0.lock().at_bound -= 1;
    }
}
