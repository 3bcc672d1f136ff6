//! The handle and its operations.

use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::request::{
    Consistency, Expected, Mutation, Operation, Range, RangeEnd, Request, Write, WriteOptions, check_key,
};
use quorate_protocol::response::Refusal;
use quorate_protocol::{NodeId, Term, limits};

use crate::backoff::Backoff;
use crate::error::passes;
use crate::reply::Reply;
use crate::shared::{Deadline, Shared};
use crate::slots::Answer;
use crate::{Appended, Builder, Error, Lookup, NodeStatus, Page, Unknown, Why, Written};

/// A handle to a cluster, cheap to clone; all clones share one pipelined connection.
///
/// Calls can be made from any number of tasks and threads at once: what is queued goes out together. Each
/// call ends within its deadline with a result or an [`Error`] whose [`kind`](Error::kind) says what may
/// be done. A dropped call is given up: a write may happen all the same.
#[derive(Clone)]
pub struct Client {
    pub(crate) handle: Arc<Handle>,
    pub(crate) deadline: Duration,
    pub(crate) consistency: Consistency,
    pub(crate) options: WriteOptions,
}

/// Tells the driver when the last clone is gone.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Client {
    /// A client of the cluster that these servers (`HOST:PORT`) belong to, driven by smol's global executor.
    ///
    /// No connection is made before the first call. [`Error::NoServers`] if no server is named.
    pub fn connect(servers: impl IntoIterator<Item = impl Into<String>>) -> Result<Self, Error> {
        Self::builder().servers(servers).connect()
    }

    /// For everything that is not at its default.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The same client, whose calls may take so long.
    pub fn with_deadline(&self, deadline: Duration) -> Self {
        Self { deadline, ..self.clone() }
    }

    /// The same client, whose reads are this fresh; linearizable unless set.
    pub fn with_consistency(&self, consistency: Consistency) -> Self {
        Self { consistency, ..self.clone() }
    }

    /// The value of a key.
    pub async fn get(&self, key: impl AsRef<[u8]>) -> Result<Lookup, Error> {
        let key = key.as_ref();
        check_key(key)?;
        match self.call(Operation::Get { consistency: self.consistency, key }).await? {
            Reply::Lookup(lookup) => Ok(lookup),
            _ => Err(Error::BadAnswer),
        }
    }

    /// Gives a key a value.
    pub async fn set(&self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.write(Write::One(Mutation::Set { key: key.as_ref(), value: value.as_ref() })).await
    }

    /// Removes a key; no error if it is absent.
    pub async fn delete(&self, key: impl AsRef<[u8]>) -> Result<Written, Error> {
        self.write(Write::One(Mutation::Delete { key: key.as_ref() })).await
    }

    /// Gives a key a value if it is as expected; [`Written::result`] says whether it was.
    pub async fn compare_and_set(
        &self,
        key: impl AsRef<[u8]>,
        expected: Expected,
        value: impl AsRef<[u8]>,
    ) -> Result<Written, Error> {
        let (key, value) = (key.as_ref(), value.as_ref());
        self.write(Write::One(Mutation::CompareAndSet { key, expected, value })).await
    }

    /// Does all mutations together, in order, or none if a condition does not hold.
    pub async fn batch(&self, mutations: Vec<Mutation<'_>>) -> Result<Written, Error> {
        self.write(Write::Batch(mutations)).await
    }

    /// One page of a range, of at most `items_max` items (and at most [`limits::SCAN_ITEMS_MAX`]).
    pub async fn scan(&self, range: Range<'_>, items_max: usize) -> Result<Page, Error> {
        let items_max = items_max.clamp(1, limits::SCAN_ITEMS_MAX) as u32;
        match self.call(Operation::Scan { consistency: self.consistency, range, items_max }).await? {
            Reply::Page(page) => Ok(page),
            _ => Err(Error::BadAnswer),
        }
    }

    /// All pages of a range, one after the other, of at most `items_max` items each. Each page is as fresh
    /// as its own read: together they are no snapshot.
    pub fn scan_pages<'a>(&'a self, range: Range<'a>, items_max: usize) -> Pages<'a> {
        Pages { client: self, next: Some(range.start.to_vec()), end: range.end, items_max }
    }

    /// How the node is that the client is connected to; with `histograms`, how its disk was and
    /// a leader's followers lagged too.
    pub async fn status(&self, histograms: bool) -> Result<NodeStatus, Error> {
        match self.call(Operation::Status { histograms }).await? {
            Reply::Status(status) => Ok(status),
            _ => Err(Error::BadAnswer),
        }
    }

    /// Has the leader make a replica a voting member again whose data directory was replaced, once it has caught up.
    pub async fn admit(&self, node: NodeId) -> Result<Written, Error> {
        match self.call(Operation::Admit { node }).await? {
            Reply::Written(written) => Ok(written),
            _ => Err(Error::BadAnswer),
        }
    }

    /// Has the leader hand over to another replica, or to the one that has most of the log, and returns the term
    /// that began with it. Writes are refused meanwhile, so it is not tried again if nobody takes over.
    pub async fn hand_over(&self, to: Option<NodeId>) -> Result<Term, Error> {
        match self.call(Operation::HandOver { to }).await? {
            Reply::HandedOver(term) => Ok(term),
            _ => Err(Error::BadAnswer),
        }
    }

    /// Shows that the connection is alive.
    pub async fn ping(&self) -> Result<(), Error> {
        match self.call(Operation::Ping).await? {
            Reply::Pong => Ok(()),
            _ => Err(Error::BadAnswer),
        }
    }

    /// Refuses further calls of all clones, and waits until those in flight have ended, which their
    /// deadlines bound.
    pub async fn close(&self) {
        self.handle.shared.close();
        self.handle.shared.finished().await;
    }

    async fn write(&self, write: Write<'_>) -> Result<Written, Error> {
        write.check()?;
        match self.call(Operation::Write { options: self.options, write }).await? {
            Reply::Written(written) => Ok(written),
            _ => Err(Error::BadAnswer),
        }
    }

    /// Sends a request until it is answered, its deadline passes, or trying again could do harm.
    async fn call(&self, operation: Operation<'_>) -> Result<Reply, Error> {
        let is_hand_over = matches!(operation, Operation::HandOver { .. });
        let is_write = is_hand_over || matches!(operation, Operation::Write { .. } | Operation::Admit { .. });
        let mut request = Request { id: 0, deadline_ms: 0, operation };
        let mut deadline = Deadline::after(self.deadline);
        let mut retry = Retry::default();
        loop {
            match self.handle.shared.exchange(&mut request, deadline).await? {
                Answer::Proceed => {
                    deadline.refresh();
                }
                Answer::Reply(Reply::Refused(refusal @ Refusal::NotReady(_))) if is_hand_over => {
                    return Err(Error::Refused(refusal));
                }
                answer => match judge(answer, is_write) {
                    Verdict::Done(result) => return result,
                    Verdict::Again(error) => retry.pause(error, &mut deadline).await?,
                },
            }
        }
    }
}

/// What to do after an answer.
enum Verdict {
    Done(Result<Reply, Error>),
    /// Nothing happened. The error is what the caller gets if there is no time left.
    Again(Error),
}

fn judge(answer: Answer, is_write: bool) -> Verdict {
    let done = |error| Verdict::Done(Err(error));
    match answer {
        Answer::Reply(Reply::Refused(refusal)) if passes(&refusal) => Verdict::Again(Error::Refused(refusal)),
        Answer::Reply(Reply::Refused(refusal)) => done(Error::Refused(refusal)),
        Answer::Reply(Reply::Unknown { index, copies }) => {
            done(unknown(Why::Deadline, Some(Appended { index, copies })))
        }
        Answer::Reply(reply) => Verdict::Done(Ok(reply)),
        Answer::Lost(how) if is_write => done(unknown(Why::ConnectionLost(how), None)),
        Answer::Unsent(how) | Answer::Lost(how) => Verdict::Again(Error::Unreachable(how)),
        Answer::LateSent if is_write => done(unknown(Why::Deadline, None)),
        Answer::LateSent => done(Error::Deadline),
        Answer::LateUnsent(reason) => done(Error::Unreachable(reason)),
        Answer::HelloRefused { server, refusal } => done(Error::HelloRefused { server, refusal }),
        Answer::Closed => done(Error::Closed),
        Answer::Proceed => unreachable!("no answer yet"),
    }
}

fn unknown(why: Why, appended: Option<Appended>) -> Error {
    Error::OutcomeUnknown(Unknown { why, appended })
}

/// The pauses of one call.
#[derive(Default)]
struct Retry {
    backoff: Backoff,
    redirected: bool,
}

impl Retry {
    /// Waits before the next try, or fails with `error` if the deadline leaves no time for one.
    async fn pause(&mut self, error: Error, deadline: &mut Deadline) -> Result<(), Error> {
        let first_redirect = matches!(error, Error::Refused(Refusal::NotLeader { leader: Some(_) }))
            && !std::mem::replace(&mut self.redirected, true);
        let pause = if first_redirect { Duration::ZERO } else { self.backoff.next_pause() };
        if deadline.refresh() <= pause {
            return Err(error);
        }
        if !pause.is_zero() {
            async_io::Timer::after(pause).await;
            deadline.refresh();
        }
        Ok(())
    }
}

/// The pages of a scan; see [`Client::scan_pages`].
#[must_use]
pub struct Pages<'a> {
    client: &'a Client,
    /// Where the next page begins; none after the last.
    next: Option<Vec<u8>>,
    end: RangeEnd<'a>,
    items_max: usize,
}

impl Pages<'_> {
    /// The next page; none after the last. After an error the same page can be asked for again.
    pub async fn next(&mut self) -> Option<Result<Page, Error>> {
        let start = self.next.as_deref()?;
        let page = match self.client.scan(Range { start, end: self.end }, self.items_max).await {
            Ok(page) => page,
            Err(error) => return Some(Err(error)),
        };
        self.next = match page.items.last() {
            Some(last) if page.more => Some([last.key.as_slice(), &[0]].concat()),
            _ => None,
        };
        Some(Ok(page))
    }
}

/// The range of all keys that begin with `prefix`; of all keys, if it is empty.
pub fn prefix(prefix: &[u8]) -> Range<'_> {
    Range { start: prefix, end: RangeEnd::Prefix(prefix) }
}
