//! Connections of clients.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use event_listener::Event as Signal;
use futures_lite::future;
use quorate_protocol::handshake::{Hello, HelloRefusal, Reply, Role};
use quorate_protocol::request::{Operation, Request};
use quorate_protocol::response::{Outcome, Refusal, Response};
use quorate_protocol::{MessageError, frame, limits, parse, parse_prefix};

use super::OUTPUT_BYTES_SOFT;
use super::stream::{Receiver, Stream, StreamError};
use crate::node::{ClientId, Event};
use crate::replica::Time;
use crate::shell::Shell;

/// Requests of one connection in one turn. A long pipeline is so cut into batches, and while one is synced and
/// sent the next one is read.
const TURN_REQUESTS_MAX: usize = 128;

/// How long a connection that sent rubbish stays for the answers to what it had asked before.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// A client that has been welcomed, as the node's answers find it.
pub(crate) struct ClientLink {
    pub(crate) stream: Rc<Stream>,
    in_flight: Cell<u32>,
    /// The requests that are watches. They are not in flight: nobody waits for their last answers.
    watches: RefCell<Vec<u64>>,
    answered: Signal,
    /// Whether the link is among those to be flushed at the end of the turn.
    pub(crate) is_touched: Cell<bool>,
}

impl ClientLink {
    fn new(stream: Rc<Stream>) -> Self {
        Self {
            stream,
            in_flight: Cell::new(0),
            watches: RefCell::default(),
            answered: Signal::new(),
            is_touched: Cell::new(false),
        }
    }

    /// Adds an answer to what is to be sent. A request is answered with the last one.
    pub(crate) fn answer(&self, response: &Response<'_>) {
        self.stream.push(|out| frame::encode(response, out));
        if response.outcome.is_last() && !self.end_watch(response.id) {
            self.leave_flight();
        }
    }

    /// A request is not waited for any more.
    fn leave_flight(&self) {
        self.in_flight.set(self.in_flight.get().saturating_sub(1));
        self.answered.notify(usize::MAX);
    }

    /// A request that was counted begins a watch, or is refused.
    fn begin_watch(&self, request: u64) {
        self.leave_flight();
        self.watches.borrow_mut().push(request);
    }

    /// Whether a request was a watch; it is none any more.
    fn end_watch(&self, request: u64) -> bool {
        let mut watches = self.watches.borrow_mut();
        let at = watches.iter().position(|watch| *watch == request);
        at.map(|at| watches.swap_remove(at)).is_some()
    }

    async fn wait_for_room(&self, in_flight_max: u32) {
        while self.in_flight.get() >= in_flight_max {
            let answered = self.answered.listen();
            if self.in_flight.get() >= in_flight_max {
                answered.await;
            }
        }
    }
}

/// Serves one connection until it ends, and says why.
pub(crate) async fn serve(shell: &Rc<Shell>, stream: Rc<Stream>) -> StreamError {
    let Some(place) = shell.guard.admit(&stream, shell.now()) else {
        return refuse(shell, &stream, HelloRefusal::TooManyConnections);
    };
    let mut receiver = Receiver::new(shell.buffer.clone());
    let mut refusal = None;
    let mut is_welcome = false;
    while !is_welcome {
        let take = |_, body: &[u8]| {
            match welcome(shell, body) {
                Ok(reply) => {
                    is_welcome = true;
                    stream.push(|out| frame::encode(&reply, out));
                }
                Err(reason) => refusal = Some(reason),
            }
            false
        };
        let received = stream.receive(&mut receiver, limits::HELLO_BYTES_MAX, || shell.now(), take).await;
        match (received, refusal.take()) {
            (Err(StreamError::Frame(_)), _) => return refuse(shell, &stream, HelloRefusal::NotQuorate),
            (Err(error), _) => return error,
            (Ok(()), Some(reason)) => return refuse(shell, &stream, reason),
            (Ok(()), None) => {}
        }
    }
    stream.flush(shell.now());
    place.introduced();
    let link = Rc::new(ClientLink::new(stream.clone()));
    shell.add_client(place.id(), link.clone());
    let error =
        future::or(requests(shell, place.id(), &link, receiver), stream.keep_writing(|| shell.now())).await;
    shell.remove_client(place.id());
    error
}

fn welcome(shell: &Shell, body: &[u8]) -> Result<Reply, HelloRefusal> {
    let hello = Hello::parse(body)?;
    if hello.role != Role::Client {
        return Err(HelloRefusal::WrongRole("clients; replicas use the other one".into()));
    }
    shell.welcome_client(hello.cluster).map(Reply::Welcome)
}

/// Says why not, and ends the connection.
pub(super) fn refuse(shell: &Shell, stream: &Stream, reason: HelloRefusal) -> StreamError {
    // What an operator has to see is not hidden by other refusals.
    let node = match &reason {
        HelloRefusal::NodeTaken { node, .. } => Some(*node),
        _ => None,
    };
    if shell.guard.may_complain(stream.remote.ip(), node, shell.now()) {
        tracing::warn!(remote = %stream.remote, "refused a connection: {reason}");
    }
    stream.push(|out| frame::encode(&Reply::Refused(reason), out));
    stream.flush(shell.now());
    stream.close();
    StreamError::Closed
}

async fn requests(
    shell: &Rc<Shell>,
    client: ClientId,
    link: &Rc<ClientLink>,
    mut receiver: Receiver,
) -> StreamError {
    let in_flight_max = shell.in_flight_max();
    loop {
        // Who does not read its answers, or asks more than it may, is not read from.
        link.stream.wait_for_output(OUTPUT_BYTES_SOFT).await;
        link.wait_for_room(in_flight_max).await;
        let mut error = None;
        let mut taken = 0;
        let take = |now, body: &[u8]| {
            taken += 1;
            // Before the request is handled: a read is answered at once.
            link.in_flight.set(link.in_flight.get() + 1);
            if let Err(reason) = request(shell, now, client, link, body) {
                link.in_flight.set(link.in_flight.get() - 1);
                error = Some(reason);
            }
            error.is_none()
                && taken < TURN_REQUESTS_MAX
                && link.in_flight.get() < in_flight_max
                && link.stream.waiting() <= OUTPUT_BYTES_SOFT
        };
        let received =
            link.stream.receive(&mut receiver, limits::REQUEST_BYTES_MAX, || shell.now(), take).await;
        if let Err(StreamError::Frame(frame_error)) = &received {
            error = Some(frame_error.to_string());
        }
        shell.wake();
        if let Some(reason) = error {
            // What came before it is answered first.
            future::or(link.wait_for_room(1), shell.reactor.sleep(LAST_ANSWERS)).await;
            bad_frame(shell, link, reason);
            return StreamError::Closed;
        }
        if let Err(error) = received {
            return error;
        }
        if taken == TURN_REQUESTS_MAX {
            future::yield_now().await; // The turn comes first.
        }
    }
}

/// Hands a request to the node. An error ends the connection; a request that only this version does not
/// know is refused, and the connection goes on.
fn request(shell: &Shell, now: Time, client: ClientId, link: &ClientLink, body: &[u8]) -> Result<(), String> {
    match parse::<Request<'_>>(body) {
        Ok(request) => {
            match request.operation {
                Operation::Watch { .. } => link.begin_watch(request.id),
                Operation::Cancel { request: watch } => drop(link.end_watch(watch)),
                _ => {}
            }
            shell.handle_at(now, Event::Request { client, request });
        }
        Err(MessageError::Unknown) => {
            let id = parse_prefix(body).unwrap_or(0); // The id is a request's first field.
            let what = "this node does not know the operation, or one of its values is out of range";
            let outcome = Outcome::Refused(Refusal::Unsupported(what.into()));
            link.answer(&Response { id, outcome });
            shell.touch(client);
        }
        Err(error) => return Err(error.to_string()),
    }
    Ok(())
}

fn bad_frame(shell: &Shell, link: &ClientLink, reason: String) {
    let remote = link.stream.remote;
    if shell.guard.may_complain(remote.ip(), None, shell.now()) {
        tracing::warn!(%remote, "closed a client's connection: {reason}");
    }
    let outcome = Outcome::Refused(Refusal::BadFrame(reason));
    link.stream.push(|out| frame::encode(&Response { id: 0, outcome }, out));
    link.stream.flush(shell.now());
    link.stream.close();
}
