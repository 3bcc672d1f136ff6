//! A call: tries, one after the other, until there is a result, no time, or nothing more that may be done.
//!
//! What may be done after a try is decided in [`retry`](crate::retry), and where the next one goes in
//! [`route`](crate::route); here they meet time and connections.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::future;
use quorate_protocol::request::{Acks, Operation, Request, Write, WriteOptions};
use quorate_protocol::response::Refusal;

use crate::Error;
use crate::backoff::Backoff;
use crate::deadline::Deadline;
use crate::error::Appended;
use crate::link::{Answer, Link, Part, Parts};
use crate::reply::Reply;
use crate::retry::{Attempts, Failed, Next, Repeat};
use crate::shared::{Begun, Opening, Placed, Shared, WaitsFor};

/// Who may answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum To {
    /// Only the leader. What any node may answer goes there, too, if it is not said to whom else.
    Leader,
    /// Any replica.
    Any,
}

/// Whether what is refused for now is tried again.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tries {
    /// No: that is the result.
    One,
    UntilReady,
}

/// What a try has come to.
enum Tried<T> {
    Done(T),
    Failed(Failed),
    /// No answer came in its time, although other calls may have had theirs.
    Late {
        silent: bool,
    },
    /// There was no connection in its time, or there will be none for a while.
    Unconnected(Arc<str>),
    /// It has not begun: it may now.
    Proceed,
    Closed,
}

/// One call under way.
pub(crate) struct Call<'a> {
    shared: &'a Arc<Shared>,
    deadline: Deadline,
    attempts: Attempts,
    /// None before the first.
    pauses: Option<Pauses>,
    to: To,
    /// Where a read has waited to be sent, and may be now.
    waited_at: Option<Arc<Link>>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(shared: &'a Arc<Shared>, deadline: Deadline, to: To, repeat: Repeat) -> Self {
        Self { shared, deadline, attempts: Attempts::new(repeat), pauses: None, to, waited_at: None }
    }

    /// A call that may be sent again without harm, and without a session.
    pub(crate) async fn run(mut self, operation: Operation<'_>) -> Result<Reply, Error> {
        let mut request = Request { id: 0, deadline_ms: 0, operation };
        loop {
            let link = self.choose();
            let began = Instant::now();
            let tried = judge(link.exchange(&mut request, self.deadline.of_try()).await?);
            match tried {
                Tried::Done(reply) => {
                    if self.to == To::Any {
                        self.shared.measured(link.at, began.elapsed());
                    }
                    return Ok(reply);
                }
                other => Box::pin(self.after(&link, other)).await.map(drop)?,
            }
        }
    }

    /// A call that is sent again only if nothing was done.
    pub(crate) async fn run_once(mut self, operation: Operation<'_>, tries: Tries) -> Result<Reply, Error> {
        let mut request = Request { id: 0, deadline_ms: 0, operation };
        loop {
            let link = self.choose();
            match judge(link.exchange(&mut request, self.deadline).await?) {
                Tried::Done(reply) => return Ok(reply),
                Tried::Failed(Failed::Refused(refusal @ Refusal::NotReady(_))) if tries == Tries::One => {
                    return Err(Error::Refused(refusal));
                }
                other => Box::pin(self.after(&link, other)).await.map(drop)?,
            }
        }
    }

    /// A write, in a session if the client has them.
    pub(crate) async fn write(&mut self, request: &mut Request<'_>) -> Result<Reply, Error> {
        let mut placed = self.place(waits_for(&request.operation)).await?;
        loop {
            let link = self.choose();
            let deadline = self.stamp(request, placed.as_ref());
            let tried = match link.exchange(request, deadline).await {
                Ok(answer) => judge(answer),
                Err(error) => return Err(self.attempts.or_unknown(error)),
            };
            match tried {
                Tried::Done(reply) => {
                    if let Reply::Written(written) = &reply {
                        self.shared.end_write(placed, written.seen());
                    }
                    return Ok(reply);
                }
                // In a box of its own, so that a write that goes well is small.
                other => Box::pin(self.after_write(&link, other, &mut placed)).await?,
            }
        }
    }

    /// Begins a watch, which has no end of its own: from the first part on.
    pub(crate) async fn watch(mut self, operation: Operation<'_>) -> Result<(Parts, Reply), Error> {
        let mut request = Request { id: 0, deadline_ms: 0, operation };
        loop {
            let link = self.choose_for_watch()?;
            let deadline = self.deadline.of_try();
            let tried = match link.open(&mut request, deadline).await {
                // Another watch was faster.
                Err(Error::TooManyWatches) => continue,
                Err(error) => return Err(error),
                Ok(Err(answer)) => judge(answer),
                Ok(Ok(mut parts)) => match first(&mut parts, deadline).await {
                    Some(Part::Reply(reply)) => return Ok((parts, reply)),
                    Some(Part::Last(answer)) => judge(answer),
                    None => Tried::Late { silent: true },
                },
            };
            self.after(&link, tried).await?;
        }
    }

    fn choose(&mut self) -> Arc<Link> {
        match self.to {
            // While it waited it may have been learnt who leads.
            To::Leader => self.shared.leader_link(),
            // The one that it has waited for has just let the client in; the next one may hang.
            To::Any => self.waited_at.take().unwrap_or_else(|| self.shared.read_link()),
        }
    }

    fn choose_for_watch(&mut self) -> Result<Arc<Link>, Error> {
        let link = self.choose();
        match link.takes_watch() {
            true => Ok(link),
            false => self.shared.link_for_watch().ok_or(Error::TooManyWatches),
        }
    }

    /// Gives a try what its session needs, and says how long it may take.
    fn stamp(&self, request: &mut Request<'_>, placed: Option<&Placed<'_>>) -> Deadline {
        let Some(placed) = placed else { return self.deadline };
        let Operation::Write { options, .. } = &mut request.operation else { return self.deadline };
        options.session = Some(placed.stamp());
        match options.acks {
            Acks::Quorum => self.deadline.of_try(),
            // It may be done at its deadline only, with the copies that there are then: its try has all the time.
            Acks::Copies(_) | Acks::All => self.deadline,
        }
    }

    /// A place in the session, which is opened if there is none; none if the client has no sessions.
    async fn place(&mut self, waits_for: WaitsFor) -> Result<Option<Placed<'a>>, Error> {
        if !self.shared.settings.exactly_once {
            return Ok(None);
        }
        let mut changed = None;
        loop {
            match self.shared.begin_write(waits_for) {
                Begun::Placed(placed) => {
                    self.attempts.moved(placed.place());
                    return Ok(Some(placed));
                }
                Begun::ToOpen(opening) => Box::pin(self.open_session(opening)).await?,
                Begun::Wait => match changed.take() {
                    Some(changed) => Box::pin(self.wait_for(changed)).await?,
                    // What changes from here on is not missed.
                    None => changed = Some(self.shared.session_changed()),
                },
            }
        }
    }

    async fn open_session(&mut self, opening: Opening<'_>) -> Result<(), Error> {
        self.deadline.refresh();
        // To open one too many does no harm: it expires.
        let call = Call::new(self.shared, self.deadline, To::Leader, Repeat::Harmless);
        match Box::pin(call.run(Operation::OpenSession)).await? {
            Reply::Written(written) => opening.done(written.receipt.index),
            _ => return Err(Error::BadAnswer),
        }
        self.deadline.refresh();
        Ok(())
    }

    async fn wait_for(&mut self, changed: event_listener::EventListener) -> Result<(), Error> {
        let changed = async {
            changed.await;
            Ok(())
        };
        let at = self.deadline.at;
        let late = async {
            async_io::Timer::at(at).await;
            Err(Error::InFlight)
        };
        future::or(changed, late).await?;
        self.deadline.refresh();
        Ok(())
    }

    /// What follows a try of a write without a result.
    async fn after_write(
        &mut self,
        link: &Arc<Link>,
        tried: Tried<Reply>,
        placed: &mut Option<Placed<'a>>,
    ) -> Result<(), Error> {
        if self.after(link, tried).await? {
            let left = placed.take().expect("only a session can have ended");
            self.shared.expired(left.place().session);
            *placed = self.place(left.waits_for()).await?;
        }
        Ok(())
    }

    /// What follows a try without a result: a pause, or the call's end. Says whether it needs another session.
    async fn after<T>(&mut self, link: &Arc<Link>, tried: Tried<T>) -> Result<bool, Error> {
        let failed = match tried {
            Tried::Failed(failed) => failed,
            Tried::Late { silent } => {
                if silent {
                    self.shared.lost(link.at);
                }
                Failed::Late
            }
            Tried::Unconnected(how) => {
                self.shared.avoid(link.at); // It may still be to come: others are asked meanwhile.
                Failed::Unsent(how)
            }
            Tried::Closed => return Err(self.attempts.or_unknown(Error::Closed)),
            Tried::Proceed | Tried::Done(_) => {
                self.waited_at = (self.to == To::Any).then(|| link.clone());
                self.deadline.refresh();
                return Ok(false);
            }
        };
        let elsewhere = match &failed {
            // It may have been away, and not know yet that another leads.
            Failed::Refused(Refusal::NoQuorum { .. }) => {
                self.shared.avoid(link.at);
                true
            }
            Failed::Refused(refusal) => self.shared.heed(link.at, refusal),
            Failed::Unsent(_) | Failed::Lost(_) => {
                if let Some(error) = self.shared.refused_by_all() {
                    return Err(self.attempts.or_unknown(error));
                }
                true
            }
            Failed::Full | Failed::Late | Failed::Uncommitted(_) => true,
        };
        let next = self.attempts.failed(failed);
        // Whoever is behind, or hangs, is not the only one that may answer.
        if self.shared.settings.discovers {
            self.to = To::Leader;
        }
        match next {
            Next::End(error) => Err(error),
            Next::Anew => Ok(true),
            Next::Again => self.pause(elsewhere).await.map(|()| false),
        }
    }

    /// Waits before the next try, or ends the call if there is no time for one.
    async fn pause(&mut self, elsewhere: bool) -> Result<(), Error> {
        let pauses = self.pauses.get_or_insert_with(|| Pauses::new(self.shared.servers_known()));
        let pause = pauses.next(elsewhere);
        if self.deadline.refresh() <= pause {
            return Err(self.attempts.out_of_time());
        }
        if !pause.is_zero() {
            async_io::Timer::after(pause).await;
            self.deadline.refresh();
        }
        Ok(())
    }
}

/// The first part of an answer, if it comes in the time of its try.
async fn first(parts: &mut Parts, deadline: Deadline) -> Option<Part> {
    let late = async {
        async_io::Timer::at(deadline.at).await;
        None
    };
    future::or(async { Some(parts.next().await) }, late).await
}

fn waits_for(operation: &Operation<'_>) -> WaitsFor {
    match operation {
        Operation::Write { options: WriteOptions { acks: Acks::Quorum, .. }, .. } => WaitsFor::Commit,
        _ => WaitsFor::Copies,
    }
}

fn judge(answer: Answer) -> Tried<Reply> {
    Tried::Failed(match answer {
        Answer::Reply(Reply::Refused(refusal)) => Failed::Refused(refusal),
        Answer::Reply(Reply::Unknown { index, copies }) => Failed::Uncommitted(Appended { index, copies }),
        Answer::Reply(reply) => return Tried::Done(reply),
        Answer::Proceed => return Tried::Proceed,
        Answer::Closed => return Tried::Closed,
        Answer::Unconnected(how) => return Tried::Unconnected(how),
        Answer::Unsent(how) => Failed::Unsent(how),
        Answer::Full => Failed::Full,
        Answer::Lost(how) => Failed::Lost(how),
        Answer::Overrun => Failed::Lost("more was told than was taken".into()),
        Answer::LateSent { silent } => return Tried::Late { silent },
    })
}

/// A write that is told at every count of copies.
pub(crate) struct Progressing<'a> {
    call: Call<'a>,
    options: WriteOptions,
    placed: Option<Placed<'a>>,
    is_placed: bool,
    /// None while it is not sent.
    parts: Option<Parts>,
    is_over: bool,
}

impl<'a> Progressing<'a> {
    pub(crate) fn new(call: Call<'a>, options: WriteOptions) -> Self {
        Self { call, options, placed: None, is_placed: false, parts: None, is_over: false }
    }

    /// The next answer to this write, the same each time; none behind the last one or an error.
    pub(crate) async fn next(&mut self, write: &Write<'_>) -> Option<Result<Reply, Error>> {
        if self.is_over {
            return None;
        }
        let step = self.step(write).await;
        self.is_over |= step.is_err();
        Some(step)
    }

    async fn step(&mut self, write: &Write<'_>) -> Result<Reply, Error> {
        if !self.is_placed {
            self.placed = self.call.place(WaitsFor::Copies).await?;
            self.is_placed = true;
        }
        loop {
            let Some(parts) = &mut self.parts else {
                self.send(write).await?;
                continue;
            };
            match parts.next().await {
                Part::Reply(reply) => return Ok(reply),
                Part::Last(answer) => {
                    let link = parts.link().clone();
                    self.parts = None;
                    match judge(answer) {
                        Tried::Done(reply) => {
                            self.is_over = true;
                            return Ok(reply);
                        }
                        other => self.call.after_write(&link, other, &mut self.placed).await?,
                    }
                }
            }
        }
    }

    async fn send(&mut self, write: &Write<'_>) -> Result<(), Error> {
        let link = self.call.choose();
        let operation = Operation::Write { options: self.options, write: write.clone() };
        let mut request = Request { id: 0, deadline_ms: 0, operation };
        self.call.stamp(&mut request, self.placed.as_ref());
        match link.open(&mut request, self.call.deadline).await {
            Err(error) => Err(self.call.attempts.or_unknown(error)),
            Ok(Ok(parts)) => {
                self.parts = Some(parts);
                Ok(())
            }
            Ok(Err(answer)) => self.call.after_write(&link, judge(answer), &mut self.placed).await,
        }
    }

    /// Where the write is, by the last answer.
    pub(crate) fn is_appended(&mut self, appended: Appended) {
        self.call.attempts.is_appended(appended);
    }
}

/// The pauses of one call.
struct Pauses {
    backoff: Backoff,
    /// Times that it may go on elsewhere at once.
    at_once: usize,
}

impl Pauses {
    fn new(servers: usize) -> Self {
        Self { backoff: Backoff::default(), at_once: servers }
    }

    fn next(&mut self, elsewhere: bool) -> Duration {
        if elsewhere && self.at_once > 0 {
            self.at_once -= 1;
            return Duration::ZERO;
        }
        self.backoff.next_pause()
    }
}
