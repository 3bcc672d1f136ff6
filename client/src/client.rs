//! The handle and its operations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_lite::future;
use quorate_protocol::request::{Expected, Mutation, Operation, Range};
use quorate_protocol::{NodeId, Term};

use crate::call::{Call, To, Tries};
use crate::data::Data;
use crate::deadline::Deadline;
use crate::operations::{GetCall, WriteCall};
use crate::reply::Reply;
use crate::retry::Repeat;
use crate::scan::Scan;
use crate::shared::Shared;
use crate::watch::Watch;
use crate::{Builder, Consistency, Error, NodeStatus, SessionToken, Written};

/// A handle to a cluster, cheap to clone; all clones share one pipelined connection to each replica, and one session.
///
/// Calls can be made from any number of tasks and threads at once: what is queued goes out together, so that one client
/// for many tasks is far cheaper than a client for each. With three syncing replicas and the load on the same two cores, 64
/// tasks of one client wrote twice as much a second as 64 clients, and 256 tasks four and a half times as much
/// (`bench-harness --clients 1 --in-flight 256`).
///
/// Each call ends within its deadline with a result or an [`Error`] whose [`kind`](Error::kind) says what may be done. A
/// dropped call is given up: a write may happen all the same.
#[derive(Clone)]
pub struct Client {
    pub(crate) handle: Arc<Handle>,
    pub(crate) deadline: Duration,
    pub(crate) consistency: Consistency,
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
    /// No connection is made before the first call. [`Error::NoServers`] if no server is named, and
    /// [`Error::InvalidServer`] if one can never be reached by what is named.
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

    /// What this client has seen: a client that is [given](Builder::session_token) it, in another process too, reads no
    /// less with [`Consistency::Session`].
    pub fn session_token(&self) -> SessionToken {
        SessionToken(self.handle.shared.seen())
    }

    /// This client's session reads see from now on what the token has seen, too.
    pub fn see(&self, token: SessionToken) {
        self.handle.shared.saw(token.0);
    }

    /// The value of a key.
    pub fn get<'a>(&'a self, key: impl Into<Data<'a>>) -> GetCall<'a> {
        GetCall::new(self, key.into())
    }

    /// Gives a key a value.
    pub fn set<'a>(&'a self, key: impl Into<Data<'a>>, value: impl Into<Data<'a>>) -> WriteCall<'a> {
        WriteCall::set(self, key.into(), value.into())
    }

    /// Removes a key; no error if it is absent.
    pub fn delete<'a>(&'a self, key: impl Into<Data<'a>>) -> WriteCall<'a> {
        WriteCall::delete(self, key.into())
    }

    /// Gives a key a value if it is as expected; [`Written::applied`] says whether it was.
    pub fn compare_and_set<'a>(
        &'a self,
        key: impl Into<Data<'a>>,
        expected: Expected,
        value: impl Into<Data<'a>>,
    ) -> WriteCall<'a> {
        WriteCall::compare_and_set(self, key.into(), expected, value.into())
    }

    /// Does all mutations together, in order, or none if a condition does not hold.
    pub fn batch<'a>(&'a self, mutations: Vec<Mutation<'a>>) -> WriteCall<'a> {
        WriteCall::batch(self, mutations)
    }

    /// Does all these writes together, in order, or none if a condition of one does not hold: a [`batch`](Self::batch) of what
    /// was set up as writes, of [typed](Self::typed) keys and values, too. It has its own deadline, number of copies and client:
    /// those of the writes do not count.
    ///
    /// ```no_run
    /// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
    /// let (names, ages) = (client.typed::<u64, String>("name/"), client.typed::<u64, u8>("age/"));
    /// client.batch_of([names.set(&7, &"Ada".into())?, ages.set(&7, &36)?]).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Panics
    ///
    /// If one of them was polled before.
    pub fn batch_of<'a>(&'a self, writes: impl IntoIterator<Item = WriteCall<'a>>) -> WriteCall<'a> {
        WriteCall::batch_of(self, writes)
    }

    /// The keys of a range with their values, in order.
    pub fn scan<'a>(&'a self, range: Range<'a>) -> Scan<'a> {
        Scan::new(self, range)
    }

    /// The changes of a range, as they are committed.
    pub fn watch(&self, range: Range<'_>) -> Watch {
        Watch::new(self, range)
    }

    /// The changes of one key, as they are committed.
    pub fn watch_key(&self, key: &[u8]) -> Watch {
        Watch::of_key(self, key)
    }

    /// How the leader is, or whichever node is asked while none is known; with `histograms`, how its disk was and
    /// a leader's followers lagged too. To ask one node, make a client of it alone, without
    /// [discovery](Builder::discover).
    pub async fn status(&self, histograms: bool) -> Result<NodeStatus, Error> {
        match self.call(Operation::Status { histograms }).await? {
            Reply::Status(status) => Ok(status),
            _ => Err(Error::BadAnswer),
        }
    }

    /// Has the leader make a replica a voting member again whose data directory was replaced, once it has caught up.
    pub async fn admit(&self, node: NodeId) -> Result<Written, Error> {
        let entered = self.handle.shared.enter(self.deadline)?;
        let call = self.begin(entered.deadline, Repeat::Never);
        match call.run_once(Operation::Admit { node }, Tries::UntilReady).await? {
            Reply::Written(written) => Ok(written),
            _ => Err(Error::BadAnswer),
        }
    }

    /// Has the leader hand over to another replica, or to the one that has most of the log, and returns the term
    /// that began with it. Writes are refused meanwhile, so it is not tried again if nobody takes over.
    pub async fn hand_over(&self, to: Option<NodeId>) -> Result<Term, Error> {
        let entered = self.handle.shared.enter(self.deadline)?;
        let call = self.begin(entered.deadline, Repeat::Never);
        match call.run_once(Operation::HandOver { to }, Tries::One).await? {
            Reply::HandedOver(term) => Ok(term),
            _ => Err(Error::BadAnswer),
        }
    }

    /// Shows that a connection is alive.
    pub async fn ping(&self) -> Result<(), Error> {
        match self.call(Operation::Ping).await? {
            Reply::Pong => Ok(()),
            _ => Err(Error::BadAnswer),
        }
    }

    /// Refuses further calls of all clones, waits until those in flight have ended, and ends the session, if that can be
    /// done within the deadline; otherwise it expires. Calls that have begun and that nobody polls are waited for until
    /// their deadlines have passed, at most until the latest that a call was given since nothing was in flight, and end as
    /// [`Error::Closed`] or of unknown outcome when they are polled.
    pub async fn close(&self) {
        let shared = &self.handle.shared;
        if let Ok(_entered) = shared.enter(Duration::ZERO)
            && shared.close()
        {
            let late = until(shared.latest_deadline());
            future::or(shared.down_to(1), late).await;
            let deadline = Deadline::after(self.deadline);
            for session in shared.leave_sessions() {
                // Nothing depends on it.
                let call = self.begin(deadline, Repeat::Harmless);
                let _ = call.run(Operation::CloseSession { session }).await;
            }
            shared.give_up_calls();
        }
        // Whoever was first may have given up closing; if not, it takes so long for the sessions at most.
        let late = until(shared.latest_deadline().max(Instant::now()) + self.deadline);
        future::or(shared.down_to(0), late).await;
        shared.give_up_calls();
    }

    async fn call(&self, operation: Operation<'_>) -> Result<Reply, Error> {
        let shared = &self.handle.shared;
        let entered = shared.enter(self.deadline)?;
        let to = if shared.settings.discovers { To::Leader } else { To::Any };
        Call::new(shared, entered.deadline, to, Repeat::Harmless).run(operation).await
    }

    fn begin(&self, deadline: Deadline, repeat: Repeat) -> Call<'_> {
        Call::new(&self.handle.shared, deadline, To::Leader, repeat)
    }
}

async fn until(time: Instant) {
    async_io::Timer::at(time).await;
}
