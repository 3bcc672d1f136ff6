//! One connection to a Redis primary, used by several callers at once.
//!
//! Commands are answered in the order in which they are sent. Where a write has to be confirmed by replicas,
//! WAIT (or WAITAOF) follows it on the same connection, and Redis does nothing else for a connection that
//! waits. So writes that are called for while one waits are sent together when it has ended, with one
//! confirmation for all of them, which covers every write before it.
//!
//! A lost connection stays lost: its calls are answered, and later ones refused, with the reason.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use futures_lite::future::yield_now;
use futures_lite::{AsyncReadExt, AsyncWriteExt};
use quorate_client::load::CallError;
use smol::channel::{self, Receiver, Sender};
use smol::{LocalExecutor, Task};

use super::reply::{self, Reply, write_command};
use super::{Confirmation, Primary};
use crate::peers::calls::{refused, timed_out, unknown};
use crate::peers::deadline::Deadlines;
use crate::peers::stream::Stream;

/// Bytes of replies that are read at once; a longer reply makes the buffer grow.
const BUFFER_BYTES: usize = 64 << 10;

/// Calls that may be unanswered on one connection, those that were given up included; beyond, they are refused.
const UNANSWERED_MAX: usize = 1 << 17;

/// A connection.
pub(in crate::peers) struct Connection {
    shared: Rc<Shared>,
    deadlines: Deadlines,
    /// They end with the connection.
    _sender: Task<()>,
    _receiver: Task<()>,
}

struct Shared {
    confirmation: Confirmation,
    deadline: Duration,
    /// Holds a token while there may be something to send.
    wake: Sender<()>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    /// Commands that are not sent yet.
    outgoing: Vec<u8>,
    /// Whether they have a write among them.
    outgoing_writes: bool,
    /// What the next replies are to, those of commands that are not sent yet included.
    expected: VecDeque<Expected>,
    /// Writes that are done on the primary and not confirmed.
    unconfirmed: Vec<Caller>,
    /// Whether the server waits for a confirmation, and does nothing else.
    confirming: bool,
    /// Why the connection is lost.
    lost: Option<String>,
}

enum Expected {
    Write(Caller),
    Read(Caller),
    Confirmation,
}

/// The value that was read; none for a write and for an absent key.
type Answer = Result<Option<Vec<u8>>, CallError>;

/// Who waits for an answer, or has given up.
type Caller = Sender<Answer>;

impl Connection {
    /// Connects. Each call is given up after `deadline`.
    pub(in crate::peers) async fn open(
        primary: &Primary,
        deadline: Duration,
        executor: &LocalExecutor<'static>,
    ) -> Result<Self, CallError> {
        let Primary { address, confirmation } = *primary;
        let deadlines = Deadlines::new(deadline, executor);
        let connected = deadlines.bound(Stream::connect(address)).await.ok_or_else(timed_out)?;
        let stream = connected.map_err(|error| refused(format!("{address}: {error}")))?;
        let (wake, woken) = channel::bounded(1);
        let shared = Rc::new(Shared { confirmation, deadline, wake, state: RefCell::default() });
        let sender = executor.spawn(send(shared.clone(), stream.clone(), woken));
        let receiver = executor.spawn(receive(shared.clone(), stream));
        Ok(Self { shared, deadlines, _sender: sender, _receiver: receiver })
    }

    /// Sets a key.
    pub(in crate::peers) async fn write(&self, key: &[u8], value: &[u8]) -> Result<(), CallError> {
        self.call(&[b"SET", key, value], Expected::Write).await.map(drop)
    }

    /// What a key holds.
    pub(in crate::peers) async fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, CallError> {
        self.call(&[b"GET", key], Expected::Read).await
    }

    async fn call(&self, command: &[&[u8]], expected: fn(Caller) -> Expected) -> Answer {
        let (caller, answer) = channel::bounded(1);
        if let Err(error) = self.shared.enqueue(command, expected(caller)) {
            // Whoever is refused at once lets others run.
            yield_now().await;
            return Err(error);
        }
        match self.deadlines.bound(answer.recv()).await {
            Some(Ok(answer)) => answer,
            Some(Err(_)) => Err(unknown("the connection was closed".to_owned())),
            None => Err(timed_out()),
        }
    }
}

impl Shared {
    fn enqueue(&self, command: &[&[u8]], expected: Expected) -> Result<(), CallError> {
        let mut state = self.state.borrow_mut();
        state.check_usable()?;
        write_command(&mut state.outgoing, command);
        state.outgoing_writes |= matches!(expected, Expected::Write(_));
        state.expected.push_back(expected);
        self.wake();
        Ok(())
    }

    fn wake(&self) {
        // One token is enough, and without a sender there is nothing to send.
        let _ = self.wake.try_send(());
    }

    /// Fills `batch` with what can be sent now.
    fn take_outgoing(&self, batch: &mut Vec<u8>) {
        batch.clear();
        let mut state = self.state.borrow_mut();
        if state.confirming {
            return;
        }
        std::mem::swap(batch, &mut state.outgoing);
        if std::mem::take(&mut state.outgoing_writes) && self.confirmation.write(batch, self.deadline) {
            state.expected.push_back(Expected::Confirmation);
            state.confirming = true;
        }
    }

    /// Gives the next reply to whom it is for. An error is a reply that does not fit.
    fn answer(&self, reply: &Reply<'_>) -> Result<(), String> {
        let mut state = self.state.borrow_mut();
        let misfit = || format!("the server sent {reply:?}, which does not fit");
        match (state.expected.pop_front().ok_or_else(misfit)?, reply) {
            (Expected::Write(caller), Reply::Status) if self.confirmation == Confirmation::None => {
                tell(&caller, Ok(None));
            }
            (Expected::Write(caller), Reply::Status) => state.unconfirmed.push(caller),
            (Expected::Read(caller), Reply::Bulk(value)) => tell(&caller, Ok(value.map(<[u8]>::to_vec))),
            (Expected::Write(caller) | Expected::Read(caller), Reply::Error(reason)) => {
                tell(&caller, Err(refused((*reason).to_owned())));
            }
            (Expected::Confirmation, reply) => {
                let confirmed = self.confirmation.judge(reply).ok_or_else(misfit)?;
                for caller in state.unconfirmed.drain(..) {
                    tell(&caller, confirmed.clone().map(|()| None).map_err(unknown));
                }
                state.confirming = false;
                self.wake();
            }
            _ => return Err(misfit()),
        }
        Ok(())
    }

    /// Answers everybody who waits: their calls may have happened.
    fn lose(&self, reason: String) {
        let mut state = self.state.borrow_mut();
        let expected = state.expected.drain(..).filter_map(Expected::caller).collect::<Vec<_>>();
        for caller in expected.into_iter().chain(state.unconfirmed.drain(..)) {
            tell(&caller, Err(unknown(reason.clone())));
        }
        state.lost = Some(reason);
    }
}

impl State {
    fn check_usable(&self) -> Result<(), CallError> {
        match &self.lost {
            Some(reason) => Err(refused(reason.clone())),
            None if self.expected.len() >= UNANSWERED_MAX => {
                Err(refused("too many calls are unanswered".to_owned()))
            }
            None => Ok(()),
        }
    }
}

impl Expected {
    fn caller(self) -> Option<Caller> {
        match self {
            Self::Write(caller) | Self::Read(caller) => Some(caller),
            Self::Confirmation => None,
        }
    }
}

fn tell(caller: &Caller, answer: Answer) {
    // Who has given up does not listen.
    let _ = caller.try_send(answer);
}

async fn send(shared: Rc<Shared>, mut stream: Stream, woken: Receiver<()>) {
    let mut batch = Vec::new();
    while woken.recv().await.is_ok() {
        shared.take_outgoing(&mut batch);
        if let Err(error) = stream.write_all(&batch).await {
            return shared.lose(error.to_string());
        }
    }
}

async fn receive(shared: Rc<Shared>, mut stream: Stream) {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut filled = 0;
    let reason = loop {
        if filled == buffer.len() {
            buffer.resize(2 * filled, 0);
        }
        match stream.read(&mut buffer[filled..]).await {
            Ok(0) => break "the server closed the connection".to_owned(),
            Ok(bytes) => filled += bytes,
            Err(error) => break error.to_string(),
        }
        match answer_all(&shared, &buffer[..filled]) {
            Ok(used) => {
                buffer.copy_within(used..filled, 0);
                filled -= used;
            }
            Err(reason) => break reason,
        }
    };
    shared.lose(reason);
}

/// Deals with every whole reply, and says how many bytes they took.
fn answer_all(shared: &Shared, bytes: &[u8]) -> Result<usize, String> {
    let mut used = 0;
    while let Some((reply, length)) =
        reply::read(&bytes[used..]).map_err(|_| "the server sent what is no reply".to_owned())?
    {
        shared.answer(&reply)?;
        used += length;
    }
    Ok(used)
}
