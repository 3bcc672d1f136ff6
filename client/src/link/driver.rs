//! The task that owns the connection to one server: when to connect, and what a lost connection means.
//!
//! Nothing is done without demand: no connection is made while no call waits for one.

use std::future::Future;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use async_io::Timer;
use futures_lite::future;
use quorate_protocol::handshake::{HelloRefusal, Welcome};

use super::connection::{Connection, Ended};
use super::handshake::{ConnectError, connect};
use super::{DEADLINE_GRAIN, Link};
use crate::backoff::Backoff;

/// What the rest of the client learns from a link's attempts to connect.
pub(crate) trait Listener {
    /// A server has let the client in. An error: the client does not want it.
    fn welcomed(&self, at: usize, welcome: &Welcome) -> Result<(), HelloRefusal>;

    /// There is no connection to be had, or no more; with the server's reason if it will not change by itself.
    fn lost(&self, at: usize, refusal: Option<&HelloRefusal>);
}

/// Runs the connection to one server until there are no further calls.
pub(crate) async fn drive(link: Arc<Link>, listener: impl Listener) {
    let mut deadlines = Deadlines::new(link.clone());
    let mut backoff = Backoff::default();
    while deadlines.demand().await {
        let attempt = async {
            let connected = connect(&link.address, &link.settings).await?;
            listener.welcomed(link.at, &connected.welcome).map_err(ConnectError::Refused)?;
            Ok(connected)
        };
        match future::or(async { Some(attempt.await) }, deadlines.over()).await {
            None => return,
            Some(Ok(connected)) => {
                backoff.reset();
                let mut connection = Connection::new(&link, connected);
                let (ended, reason) = connection.run(&mut deadlines).await;
                // First, so that calls that are tried again go elsewhere.
                if ended == Ended::Broken {
                    listener.lost(link.at, None);
                }
                connection.end(&reason);
                if ended == Ended::Finished {
                    return;
                }
            }
            Some(Err(error)) => {
                listener.lost(link.at, lasting(&error));
                link.failed(&error, backoff.next_pause());
            }
        }
    }
}

/// The server's reason, if the next attempt will be refused for it, too.
fn lasting(error: &ConnectError) -> Option<&HelloRefusal> {
    match error {
        ConnectError::Refused(HelloRefusal::TooManyConnections | HelloRefusal::Stopping) => None,
        ConnectError::Refused(refusal) => Some(refusal),
        _ => None,
    }
}

/// Keeps the deadlines of a link's calls, and notices when there are no further ones.
pub(super) struct Deadlines {
    link: Arc<Link>,
    timer: Timer,
    armed: Option<Instant>,
    wakers: Vec<Waker>,
}

/// What was noticed.
pub(super) enum Noticed {
    Nothing,
    /// A call got no answer in its time, nor did anything else come.
    Silence,
    /// There are no further calls.
    Finished,
}

impl Deadlines {
    fn new(link: Arc<Link>) -> Self {
        Self { link, timer: Timer::never(), armed: None, wakers: Vec::new() }
    }

    /// To be called first in each turn of the driver.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Noticed {
        let mut state = self.link.lock();
        state.begin_turn(cx.waker());
        if state.is_over {
            return Noticed::Finished;
        }
        let mut silent = false;
        if state.due != self.armed && self.armed.is_none_or(|armed| state.due.is_some_and(|due| due < armed))
        {
            self.armed = state.due;
            self.timer.set_at(state.due.expect("differs from None, or is earlier than another"));
        }
        if self.armed.is_some() {
            while Pin::new(&mut self.timer).poll(cx).is_ready() {
                silent |= state.expire(Instant::now(), &mut self.wakers);
                self.armed = state.due;
                match state.due {
                    // What is due may be past, when the calls have yet to take their answers.
                    Some(due) => self.timer.set_at(due.max(Instant::now() + DEADLINE_GRAIN)),
                    None => break,
                }
            }
        }
        drop(state);
        self.wakers.drain(..).for_each(Waker::wake);
        if silent { Noticed::Silence } else { Noticed::Nothing }
    }

    /// Waits until a call needs a connection; false if none ever will.
    async fn demand(&mut self) -> bool {
        poll_fn(|cx| match self.poll(cx) {
            Noticed::Finished => Poll::Ready(false),
            _ if self.link.lock().slots.waiting() > 0 => Poll::Ready(true),
            _ => Poll::Pending,
        })
        .await
    }

    /// Keeps deadlines, and ends when everything is over.
    async fn over<T>(&mut self) -> Option<T> {
        poll_fn(|cx| match self.poll(cx) {
            Noticed::Finished => Poll::Ready(None),
            _ => Poll::Pending,
        })
        .await
    }
}
