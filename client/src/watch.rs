//! Following the changes of a range.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_lite::{Stream, StreamExt, future};
use quorate_protocol::request::{InvalidRequest, Operation, Range, RangeEnd, Request, Token, check_key};

use crate::call::{Call, To};
use crate::client::Client;
use crate::deadline::Deadline;
use crate::error::passes;
use crate::link::{Answer, Part, Parts};
use crate::reply::{Change, Reply};
use crate::retry::Repeat;
use crate::{Error, SessionToken};

/// A watch that has heard nothing for so long asks whether its server is still there.
const SILENCE: Duration = Duration::from_secs(5);

/// The changes of a range, in order, without gap or repetition: a [`Stream`] without end.
///
/// Changes are what committed writes did: a compare-and-set whose condition did not hold, a deletion of what was not
/// there, and a repeated write are none. When its replica is lost, or the changes come faster than they are taken, the
/// watch goes on at any replica where it was. Replicas keep a bounded history: if that does not reach back, the watch
/// ends with [`Refusal::HistoryLost`](crate::Refusal::HistoryLost). One for which no replica has a place ends with
/// [`Error::TooManyWatches`]: each takes 64 of one client. What no key can be in is [wrong use](Error::Invalid) at once. After
/// an error that is [retryable](crate::ErrorKind) it can be asked again, after any other it is over.
///
/// The client's deadline is for its beginning, there and wherever it goes on: if no replica has got as far as the token that
/// it goes on behind, it ends with [`Refusal::Behind`](crate::Refusal::Behind).
///
/// It is not driven while nothing is asked of it, and holds at most 4 MiB of changes.
///
/// ```no_run
/// # async fn example(client: quorate_client::Client) -> Result<(), quorate_client::Error> {
/// let mut watch = client.watch(quorate_client::prefix(b"job/"));
/// while let Some(change) = watch.next().await {
///     let change = change?;
///     println!("{} {}", String::from_utf8_lossy(&change.key), if change.value.is_some() { "set" } else { "gone" });
/// }
/// # Ok(())
/// # }
/// ```
#[must_use = "a watch begins when a change is asked for"]
pub struct Watch {
    /// None while a change is waited for, which has it then.
    following: Option<Following>,
    waiting: Option<Pin<Box<dyn Future<Output = Followed> + Send>>>,
    position: Position,
}

/// The state of a watch, and the change that was waited for.
type Followed = (Following, Option<Result<Change, Error>>);

/// The state of a watch.
struct Following {
    client: Client,
    range: OwnedRange,
    /// Whether that can be watched.
    is_right: Result<(), InvalidRequest>,
    position: Position,
    /// Where the position is when the changes are handed out.
    through: Token,
    changes: VecDeque<Change>,
    parts: Option<Parts>,
    is_over: bool,
}

/// The last entry of which all changes were handed out; none before the watch has begun. It moves while a change is
/// waited for, too: the watch and what it waits for share it.
#[derive(Clone, Default)]
struct Position(Arc<Mutex<Option<Token>>>);

impl Position {
    fn get(&self) -> Option<Token> {
        *self.0.lock().expect("nothing panics while it holds this lock")
    }

    fn set(&self, token: Token) {
        *self.0.lock().expect("nothing panics while it holds this lock") = Some(token);
    }
}

struct OwnedRange {
    start: Vec<u8>,
    end: OwnedEnd,
}

enum OwnedEnd {
    Open,
    Before(Vec<u8>),
    Prefix(Vec<u8>),
}

impl OwnedRange {
    fn of(range: Range<'_>) -> Self {
        let end = match range.end {
            RangeEnd::Open => OwnedEnd::Open,
            RangeEnd::Before(end) => OwnedEnd::Before(end.to_vec()),
            RangeEnd::Prefix(prefix) => OwnedEnd::Prefix(prefix.to_vec()),
        };
        Self { start: range.start.to_vec(), end }
    }

    fn borrowed(&self) -> Range<'_> {
        let end = match &self.end {
            OwnedEnd::Open => RangeEnd::Open,
            OwnedEnd::Before(end) => RangeEnd::Before(end),
            OwnedEnd::Prefix(prefix) => RangeEnd::Prefix(prefix),
        };
        Range { start: &self.start, end }
    }
}

impl Watch {
    pub(crate) fn new(client: &Client, range: Range<'_>) -> Self {
        Self::checked(client, range, range.check())
    }

    pub(crate) fn of_key(client: &Client, key: &[u8]) -> Self {
        let end = [key, &[0]].concat();
        Self::checked(client, Range { start: key, end: RangeEnd::Before(&end) }, check_key(key))
    }

    fn checked(client: &Client, range: Range<'_>, is_right: Result<(), InvalidRequest>) -> Self {
        let position = Position::default();
        let following = Following {
            client: client.clone(),
            range: OwnedRange::of(range),
            is_right,
            position: position.clone(),
            through: Token::default(),
            changes: VecDeque::new(),
            parts: None,
            is_over: false,
        };
        Self { following: Some(following), waiting: None, position }
    }

    /// Begins behind what a token has seen: of a read, a write, or another watch. Unless set, it begins behind what
    /// the replica that it meets has applied.
    pub fn after(self, token: SessionToken) -> Self {
        self.position.set(token.0);
        self
    }

    /// The next change.
    pub async fn next(&mut self) -> Option<Result<Change, Error>> {
        StreamExt::next(self).await
    }

    /// Behind what another watch goes on without gap or repetition: the last entry of which all changes were handed
    /// out, also while the next one is waited for. None before it has begun.
    pub fn token(&self) -> Option<SessionToken> {
        self.position.get().map(SessionToken)
    }
}

impl Stream for Watch {
    type Item = Result<Change, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(following) = self.following.take() {
            self.waiting = Some(Box::pin(following.next()));
        }
        let waiting = self.waiting.as_mut().expect("one of both is there");
        let (following, next) = std::task::ready!(waiting.as_mut().poll(cx));
        self.waiting = None;
        self.following = Some(following);
        Poll::Ready(next)
    }
}

impl Following {
    async fn next(mut self) -> Followed {
        while !self.is_over {
            if let Some(change) = self.changes.pop_front() {
                self.moved(&change);
                return (self, Some(Ok(change)));
            }
            if let Err(error) = self.more().await {
                self.parts = None;
                self.is_over = !is_temporary(&error);
                return (self, Some(Err(error)));
            }
        }
        (self, None)
    }

    /// A change is handed out. The token of an entry in the midst of a page has the page's term: a page is of one.
    fn moved(&mut self, change: &Change) {
        let position = match self.changes.front() {
            None => self.through,
            Some(next) if next.index > change.index => Token { term: self.through.term, index: change.index },
            Some(_) => return,
        };
        self.position.set(position);
    }

    /// Waits for the next page of changes, which may be empty.
    async fn more(&mut self) -> Result<(), Error> {
        let Some(parts) = &mut self.parts else { return self.begin().await };
        let silent = async {
            async_io::Timer::after(SILENCE).await;
            None
        };
        match future::or(async { Some(parts.next().await) }, silent).await {
            Some(Part::Reply(Reply::Changes { through, changes })) => {
                self.take(through, changes);
                Ok(())
            }
            Some(Part::Reply(_)) => Err(Error::BadAnswer),
            Some(Part::Last(answer)) => self.ended(answer),
            None => self.ask().await,
        }
    }

    fn take(&mut self, through: Token, changes: Vec<Change>) {
        if changes.is_empty() {
            self.position.set(through);
        }
        self.through = through;
        self.changes = changes.into();
    }

    async fn begin(&mut self) -> Result<(), Error> {
        self.is_right.clone()?;
        let shared = &self.client.handle.shared;
        let entered = shared.enter(self.client.deadline)?;
        let call = Call::new(shared, entered.deadline, To::Any, Repeat::Harmless);
        let operation = Operation::Watch { range: self.range.borrowed(), after: self.position.get() };
        let begun = call.watch(operation).await;
        drop(entered);
        let (parts, first) = begun?;
        let Reply::Changes { through, changes } = first else { return Err(Error::BadAnswer) };
        self.parts = Some(parts);
        self.take(through, changes);
        Ok(())
    }

    /// The server says no more: the watch goes on elsewhere, unless that is for good.
    fn ended(&mut self, answer: Answer) -> Result<(), Error> {
        self.parts = None;
        match answer {
            Answer::Reply(Reply::Refused(refusal)) if !passes(&refusal) => Err(Error::Refused(refusal)),
            Answer::Closed => Err(Error::Closed),
            _ => Ok(()),
        }
    }

    /// Asks whether the server is still there: if not, the link to it ends, and with it the parts.
    async fn ask(&mut self) -> Result<(), Error> {
        let Some(parts) = &self.parts else { return Ok(()) };
        let mut ping = Request { id: 0, deadline_ms: 0, operation: Operation::Ping };
        parts.link().exchange(&mut ping, Deadline::after(self.client.deadline)).await.map(drop)
    }
}

/// Whether the watch can be asked again after an error.
fn is_temporary(error: &Error) -> bool {
    error.kind() == crate::ErrorKind::Retryable
}
