//! Reads and writes, as they are set up and then awaited.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{Stream, StreamExt, stream};
use quorate_protocol::request::{
    self, Acks, Expected, Mutation, Operation, Request, Write, WriteOptions, check_key,
};
use quorate_protocol::response::{Receipt, WriteResult};

use crate::call::{Call, Progressing, To};
use crate::client::Client;
use crate::data::Data;
use crate::error::Appended;
use crate::reply::Reply;
use crate::retry::Repeat;
use crate::shared::Entered;
use crate::{Error, Lookup, Written};

type Running<'a, T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send + 'a>>;

/// How fresh a read is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Consistency {
    /// It sees every write that was committed before it began. The leader answers it.
    #[default]
    Linearizable,
    /// It sees what this client has written or read, and never goes backwards, also across replicas and failovers.
    /// Any replica answers it.
    Session,
    /// It sees some committed state. Any replica answers it, at once.
    Local,
}

impl Consistency {
    /// What a read asks for, and of whom.
    pub(crate) fn of(self, client: &Client) -> (request::Consistency, To) {
        match self {
            Self::Linearizable => (request::Consistency::Linearizable, To::Leader),
            Self::Session => (request::Consistency::Session(client.handle.shared.seen()), To::Any),
            Self::Local => (request::Consistency::Local, To::Any),
        }
    }
}

/// What a write does.
#[derive(Clone, Debug)]
enum What<'a> {
    Set { key: Data<'a>, value: Data<'a> },
    Delete { key: Data<'a> },
    CompareAndSet { key: Data<'a>, expected: Expected, value: Data<'a> },
    Batch(Vec<Mutation<'a>>),
    BatchOf(Vec<What<'a>>),
}

impl What<'_> {
    fn write(&self) -> Write<'_> {
        match self {
            Self::Set { key, value } => Write::One(Mutation::Set { key: key.bytes(), value: value.bytes() }),
            Self::Delete { key } => Write::One(Mutation::Delete { key: key.bytes() }),
            Self::CompareAndSet { key, expected, value } => Write::One(Mutation::CompareAndSet {
                key: key.bytes(),
                expected: *expected,
                value: value.bytes(),
            }),
            Self::Batch(mutations) => Write::Batch(mutations.clone()),
            Self::BatchOf(all) => {
                Write::Batch(all.iter().flat_map(|what| what.write().mutations().to_vec()).collect())
            }
        }
    }
}

/// A write that happens when it is awaited.
///
/// Dropped before it is done, it may happen all the same: its outcome is unknown. One that was polled, and then neither
/// polled nor dropped, keeps its number: when 16,384 later writes of the client have begun, further ones wait for it.
/// (Writes with [`acks`](Self::acks) or [`progress`](Self::progress), which may take long, hold up only each other.)
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// use std::time::Duration;
/// use quorate_client::Acks;
///
/// let written = client.set("key", "value").acks(Acks::All).deadline(Duration::from_secs(1)).await?;
/// println!("on {} replicas, survives {} losses", written.receipt.holders.len(), written.receipt.survivable_losses);
/// # Ok(())
/// # }
/// ```
#[must_use = "a write happens when it is awaited"]
pub struct WriteCall<'a>(Stage<WriteParameters<'a>, Running<'a, Written>>);

/// How far a call is: set up, or polled before.
enum Stage<P, R> {
    Setup(P),
    Running(R),
    /// In between, for as long as that takes.
    Taken,
}

impl<P, R> Stage<P, R> {
    fn change(&mut self, change: impl FnOnce(&mut P)) {
        if let Self::Setup(parameters) = self {
            change(parameters);
        }
    }

    /// Begins to run if it does not.
    fn running(&mut self, begin: impl FnOnce(P) -> R) -> &mut R {
        *self = match std::mem::replace(self, Self::Taken) {
            Self::Setup(parameters) => Self::Running(begin(parameters)),
            other => other,
        };
        match self {
            Self::Running(running) => running,
            _ => unreachable!("it was set up before"),
        }
    }
}

struct WriteParameters<'a> {
    client: &'a Client,
    what: What<'a>,
    acks: Acks,
    deadline: Duration,
}

impl<'a> WriteCall<'a> {
    fn new(client: &'a Client, what: What<'a>) -> Self {
        let deadline = client.deadline;
        Self(Stage::Setup(WriteParameters { client, what, acks: Acks::Quorum, deadline }))
    }

    pub(crate) fn set(client: &'a Client, key: Data<'a>, value: Data<'a>) -> Self {
        Self::new(client, What::Set { key, value })
    }

    pub(crate) fn delete(client: &'a Client, key: Data<'a>) -> Self {
        Self::new(client, What::Delete { key })
    }

    pub(crate) fn compare_and_set(
        client: &'a Client,
        key: Data<'a>,
        expected: Expected,
        value: Data<'a>,
    ) -> Self {
        Self::new(client, What::CompareAndSet { key, expected, value })
    }

    pub(crate) fn batch(client: &'a Client, mutations: Vec<Mutation<'a>>) -> Self {
        Self::new(client, What::Batch(mutations))
    }

    pub(crate) fn batch_of(client: &'a Client, writes: impl IntoIterator<Item = Self>) -> Self {
        let what = |write: Self| match write.0 {
            Stage::Setup(parameters) => parameters.what,
            _ => panic!("a write has begun: put it into a batch before"),
        };
        Self::new(client, What::BatchOf(writes.into_iter().map(what).collect()))
    }

    /// At how many durable copies it is done; the cluster's quorum n, unless set.
    ///
    /// - Fewer than n: sooner done, and a failover may drop it, which the receipt says
    ///   ([`Receipt::survives_failover`]). Only for writes without a condition.
    /// - More than n: done when it is committed *and* on so many; if that takes longer than the deadline, it is done
    ///   then with what is known: the receipt's holders are fewer than were asked for. Its one try has all the time, so
    ///   behind a leader that hangs, and does not break its connections, its outcome is unknown at the deadline.
    pub fn acks(mut self, acks: Acks) -> Self {
        self.0.change(|parameters| parameters.acks = acks);
        self
    }

    /// How long it may take, retries included; the client's deadline unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.0.change(|parameters| parameters.deadline = deadline);
        self
    }

    /// A receipt whenever more replicas hold it durably, from the first to all m, instead of one result.
    ///
    /// # Panics
    ///
    /// If it was polled before.
    pub fn progress(self) -> Progress<'a> {
        match self.0 {
            Stage::Setup(parameters) => Progress::new(parameters),
            _ => panic!("the write has begun: ask for its progress before"),
        }
    }
}

impl Future for WriteCall<'_> {
    type Output = Result<Written, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.running(|parameters| Box::pin(async move { parameters.run().await })).as_mut().poll(cx)
    }
}

impl<'a> WriteParameters<'a> {
    fn call(&self, entered: &Entered<'_>) -> Call<'a> {
        Call::new(&self.client.handle.shared, entered.deadline, To::Leader, Repeat::Never)
    }

    /// By reference: what an async function is given by value it holds twice.
    async fn run(&self) -> Result<Written, Error> {
        let entered = self.client.handle.shared.enter(self.deadline)?;
        let write = self.what.write();
        write.check()?;
        let options = WriteOptions { acks: self.acks, progress: false, session: None };
        let operation = Operation::Write { options, write };
        let mut request = Request { id: 0, deadline_ms: 0, operation };
        match self.call(&entered).write(&mut request).await? {
            Reply::Written(written) => Ok(written),
            _ => Err(Error::BadAnswer),
        }
    }
}

/// The receipts of a write, at every count of copies: a [`Stream`].
///
/// It ends when all m replicas hold the write, or at the deadline, if the write is committed by then; otherwise its
/// last item is an error that says what is known.
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// let mut progress = client.set("key", "value").progress();
/// while let Some(receipt) = progress.next().await {
///     let receipt = receipt?;
///     println!("{} copies, survives a failover: {}", receipt.holders.len(), receipt.survives_failover);
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a write happens when it is awaited"]
pub struct Progress<'a> {
    receipts: Pin<Box<dyn Stream<Item = ReceiptAndResult> + Send + 'a>>,
    result: Option<WriteResult>,
}

impl<'a> Progress<'a> {
    fn new(parameters: WriteParameters<'a>) -> Self {
        Self { receipts: Box::pin(receipts(parameters)), result: None }
    }

    /// The next receipt, with more copies than the last one; none behind the last.
    pub async fn next(&mut self) -> Option<Result<Receipt, Error>> {
        StreamExt::next(self).await
    }

    /// What the write did; none before the last receipt.
    pub fn result(&self) -> Option<WriteResult> {
        self.result
    }
}

impl Stream for Progress<'_> {
    type Item = Result<Receipt, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let next = std::task::ready!(self.receipts.as_mut().poll_next(cx));
        Poll::Ready(next.map(|item| {
            item.map(|(receipt, result)| {
                self.result = result;
                receipt
            })
        }))
    }
}

/// A write under way that is told at every count of copies.
struct Receipts<'a> {
    parameters: WriteParameters<'a>,
    /// None before it has begun.
    begun: Option<(Entered<'a>, Progressing<'a>)>,
    /// Copies that were told.
    told: usize,
    is_over: bool,
}

type ReceiptAndResult = Result<(Receipt, Option<WriteResult>), Error>;

/// All receipts of a write, the last with its result.
fn receipts<'a>(parameters: WriteParameters<'a>) -> impl Stream<Item = ReceiptAndResult> + Send + 'a {
    let receipts = Receipts { parameters, begun: None, told: 0, is_over: false };
    stream::unfold(receipts, |mut receipts| async move {
        let next = receipts.next().await.transpose()?;
        receipts.is_over |= next.is_err();
        Some((next, receipts))
    })
}

impl Receipts<'_> {
    async fn next(&mut self) -> Result<Option<(Receipt, Option<WriteResult>)>, Error> {
        let WriteParameters { client, what, acks, deadline } = &self.parameters;
        let write = what.write();
        while !self.is_over {
            let (_, progressing) = match &mut self.begun {
                Some(begun) => begun,
                none => {
                    let entered = client.handle.shared.enter(*deadline)?;
                    write.check()?;
                    let options = WriteOptions { acks: *acks, progress: true, session: None };
                    let call = self.parameters.call(&entered);
                    none.insert((entered, Progressing::new(call, options)))
                }
            };
            let Some(reply) = progressing.next(&write).await else { break };
            let (receipt, result) = match reply? {
                Reply::Progress(receipt) => (receipt, None),
                Reply::Written(written) => {
                    self.is_over = true;
                    written.seen().into_iter().for_each(|token| client.handle.shared.saw(token));
                    (written.receipt, written.result)
                }
                _ => return Err(Error::BadAnswer),
            };
            let copies = receipt.holders.len();
            progressing.is_appended(Appended { index: receipt.index, copies: copies as u8 });
            // The last one may have nothing new but the result.
            if copies > self.told || result.is_some() {
                self.told = copies;
                return Ok(Some((receipt, result)));
            }
        }
        Ok(None)
    }
}

/// A read of one key that happens when it is awaited.
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// use quorate_client::Consistency;
///
/// if let Some(found) = client.get("key").consistency(Consistency::Session).await?.value {
///     println!("{} bytes, revision {}", found.value.len(), found.revision);
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a read happens when it is awaited"]
pub struct GetCall<'a>(Stage<GetParameters<'a>, Running<'a, Lookup>>);

struct GetParameters<'a> {
    client: &'a Client,
    key: Data<'a>,
    consistency: Consistency,
    deadline: Duration,
}

impl<'a> GetCall<'a> {
    pub(crate) fn new(client: &'a Client, key: Data<'a>) -> Self {
        let (consistency, deadline) = (client.consistency, client.deadline);
        Self(Stage::Setup(GetParameters { client, key, consistency, deadline }))
    }

    /// How fresh it is; as the client's reads are, unless set.
    pub fn consistency(mut self, consistency: Consistency) -> Self {
        self.0.change(|parameters| parameters.consistency = consistency);
        self
    }

    /// How long it may take, retries included; the client's deadline unless set.
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.0.change(|parameters| parameters.deadline = deadline);
        self
    }
}

impl Future for GetCall<'_> {
    type Output = Result<Lookup, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.running(|parameters| Box::pin(async move { parameters.run().await })).as_mut().poll(cx)
    }
}

impl GetParameters<'_> {
    async fn run(&self) -> Result<Lookup, Error> {
        let shared = &self.client.handle.shared;
        let entered = shared.enter(self.deadline)?;
        let key = self.key.bytes();
        check_key(key)?;
        let (consistency, to) = self.consistency.of(self.client);
        let call = Call::new(shared, entered.deadline, to, Repeat::Harmless);
        match call.run(Operation::Get { consistency, key }).await? {
            Reply::Lookup(lookup) => {
                shared.saw(lookup.token.0);
                Ok(lookup)
            }
            _ => Err(Error::BadAnswer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_small() {
        let (client, _driver) = Client::builder().servers(["127.0.0.1:1"]).build().unwrap();
        let what = What::Set { key: "key".into(), value: "value".into() };
        let write = WriteParameters { client: &client, what, acks: Acks::Quorum, deadline: Duration::ZERO };
        let bytes = size_of_val(&write.run());
        assert!(bytes <= 1000, "a write takes {bytes} bytes while it is under way");
    }
}
