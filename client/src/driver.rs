//! The task that owns the connection: when to connect, where to, and what a lost connection means.
//!
//! Nothing is done without demand: no connection is made while no call waits for one. A server that names
//! another leader, or is stopping, is left once what was sent to it is answered ([`Link::Leaving`]).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use async_io::Timer;
use futures_lite::future;

use crate::backoff::Backoff;
use crate::connection::{Connection, Ended};
use crate::error::is_permanent;
use crate::handshake::{ConnectError, connect};
use crate::shared::{Link, Shared};
use crate::slots::{Answer, Phase};

/// Runs a client's connection until the client is closed and nothing is in flight.
pub(crate) async fn drive(shared: Arc<Shared>) {
    let mut watch = Watch::new(shared.clone());
    let mut route = Route::new(&shared.settings.servers);
    while watch.demand().await {
        let server: Arc<str> = route.server().into();
        let attempt = async { Some(connect(&server, &shared.settings).await) };
        match future::or(attempt, watch.over()).await {
            None => return,
            Some(Ok(connected)) => {
                route.connected();
                let ended = Connection::new(&shared, &server, connected).run(&mut watch).await;
                match ended {
                    Ended::Finished => return,
                    Ended::Redirected(leader) => route.redirect(leader),
                    Ended::Left | Ended::Broken => route.next(),
                }
            }
            Some(Err(error)) => {
                refused(&shared, &server, &error, &mut route);
                if route.failed() && future::or(pause(&mut route), watch.over()).await.is_none() {
                    return;
                }
            }
        }
    }
}

/// Notes why there is no connection; ends the waiting calls if there will be none.
fn refused(shared: &Shared, server: &Arc<str>, error: &ConnectError, route: &mut Route<'_>) {
    let mut wakers = Vec::new();
    let mut state = shared.lock();
    state.down_reason = format!("{server}: {error}").into();
    match error {
        ConnectError::Refused(refusal) if is_permanent(refusal) => {
            route.refusals += 1;
            if route.refusals >= route.servers.len() {
                state.slots.answer_all(&mut wakers, |phase, _| {
                    let answer = || Answer::HelloRefused { server: server.clone(), refusal: refusal.clone() };
                    matches!(phase, Phase::Waiting).then(answer)
                });
            }
        }
        _ => route.refusals = 0,
    }
    drop(state);
    wakers.into_iter().for_each(Waker::wake);
}

async fn pause(route: &mut Route<'_>) -> Option<()> {
    Timer::after(route.backoff.next_pause()).await;
    Some(())
}

/// Which server is next.
struct Route<'a> {
    servers: &'a [String],
    position: usize,
    /// A leader to try before the servers.
    leader: Option<String>,
    /// Attempts that failed since the last pause or connection.
    failures: usize,
    /// Servers in a row that refused for good.
    refusals: usize,
    backoff: Backoff,
}

impl<'a> Route<'a> {
    fn new(servers: &'a [String]) -> Self {
        Self { servers, position: 0, leader: None, failures: 0, refusals: 0, backoff: Backoff::default() }
    }

    fn server(&self) -> &str {
        self.leader.as_deref().unwrap_or(&self.servers[self.position])
    }

    fn connected(&mut self) {
        (self.failures, self.refusals) = (0, 0);
        self.backoff.reset();
    }

    fn redirect(&mut self, leader: String) {
        self.leader = Some(leader);
    }

    fn next(&mut self) {
        if self.leader.take().is_none() {
            self.position = (self.position + 1) % self.servers.len();
        }
    }

    /// Goes on to the next server, and says whether all have failed, so that a pause is due.
    fn failed(&mut self) -> bool {
        self.next();
        self.failures += 1;
        let round_over = self.failures >= self.servers.len();
        if round_over {
            self.failures = 0;
        }
        round_over
    }
}

/// Keeps the deadlines, and notices when the client is closed.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    timer: Timer,
    armed: Option<Instant>,
    wakers: Vec<Waker>,
}

/// What the watch has noticed.
pub(crate) enum Noticed {
    Nothing,
    /// A call got no answer in its time, nor did anything else come.
    Silence,
    /// The client is closed and nothing is in flight.
    Finished,
}

impl Watch {
    fn new(shared: Arc<Shared>) -> Self {
        Self { shared, timer: Timer::never(), armed: None, wakers: Vec::new() }
    }

    /// To be called first in each turn of the driver.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Noticed {
        let mut state = self.shared.lock();
        state.begin_turn(cx.waker());
        if state.is_finished() {
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
                    Some(due) => self.timer.set_at(due),
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
            _ if self.shared.lock().slots.waiting() > 0 => Poll::Ready(true),
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

/// Stops queueing on this link; `until` bounds the wait for what was sent.
pub(crate) fn leave(link: &mut Link, due: &mut Option<Instant>, until: Instant) {
    if *link == Link::Open {
        *link = Link::Leaving(until);
        *due = Some(due.map_or(until, |due| due.min(until)));
    }
}
