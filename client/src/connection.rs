//! An open connection: one send and one receive a turn, however many calls they carry.
//!
//! - A turn takes all frames that calls have queued, tries the send at once, and waits for the socket only
//!   when it is full.
//! - A receive follows only a readiness, and takes as much as is there: no receive that must fail.
//! - All responses of a receive are handed out under one lock, and all calls woken after it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_io::Async;
use quorate_protocol::response::{Outcome, Refusal, Response};
use quorate_protocol::{frame, limits, parse};

use crate::driver::{Noticed, Watch, leave};
use crate::handshake::Connected;
use crate::reply::Reply;
use crate::shared::{Link, Shared, State};
use crate::slots::Answer;

/// Bytes of the read buffer at first; it grows for a longer response, up to the longest allowed.
const INPUT_BYTES: usize = 128 << 10;

/// The longest response, as a frame.
const INPUT_BYTES_MAX: usize = frame::HEADER_BYTES + limits::RESPONSE_BYTES_MAX;

/// How long a server that is being left may take to answer what was sent to it.
const LEAVE: Duration = Duration::from_secs(1);

/// Why the connection is no more.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The client is closed and nothing is in flight.
    Finished,
    /// The server named the leader.
    Redirected(String),
    /// The server cannot lead on, and nothing is in flight here.
    Left,
    /// It broke, or the server broke the protocol.
    Broken,
}

pub(crate) struct Connection<'a> {
    shared: &'a Shared,
    server: &'a Arc<str>,
    stream: Async<TcpStream>,
    /// Frames taken from the calls, of which `written` bytes have been given to the socket.
    output: Vec<u8>,
    written: usize,
    /// Bytes given to the socket, as a position in all that was ever queued.
    sent: u64,
    input: Vec<u8>,
    filled: usize,
    /// Where the server wants its calls to go.
    leader: Option<String>,
    wakers: Vec<Waker>,
}

impl<'a> Connection<'a> {
    /// Opens the link: from now on calls may be sent.
    pub(crate) fn new(shared: &'a Shared, server: &'a Arc<str>, connected: Connected) -> Self {
        let mut wakers = Vec::new();
        let mut state = shared.lock();
        state.link = Link::Open;
        state.in_flight_max =
            shared.settings.in_flight_max.min(connected.limits.in_flight_max as usize).max(1);
        state.release_waiting(&mut wakers);
        let sent = state.queued_bytes;
        drop(state);
        shared.bound_changed();
        wakers.drain(..).for_each(Waker::wake);
        Self {
            shared,
            server,
            stream: connected.stream,
            output: Vec::new(),
            written: 0,
            sent,
            input: vec![0; INPUT_BYTES],
            filled: 0,
            leader: None,
            wakers,
        }
    }

    /// Runs until the connection ends; then every call on it has its answer.
    pub(crate) async fn run(mut self, watch: &mut Watch) -> Ended {
        let (ended, reason) = std::future::poll_fn(|cx| self.turn(cx, watch)).await;
        let reason = format!("{}: {reason}", self.server).into();
        self.shared.lock().link_down(self.sent, &reason, &mut self.wakers);
        self.wakers.drain(..).for_each(Waker::wake);
        ended
    }

    fn turn(&mut self, cx: &mut Context<'_>, watch: &mut Watch) -> Poll<(Ended, String)> {
        match watch.poll(cx) {
            Noticed::Nothing => {}
            Noticed::Silence => return broken("no answer within the deadline"),
            Noticed::Finished => return Poll::Ready((Ended::Finished, String::new())),
        }
        if let Err(error) = self.send(cx) {
            return broken(error);
        }
        if let Err(reason) = self.receive(cx) {
            return broken(reason);
        }
        self.leave_when_due()
    }

    /// Sends until nothing is queued or the socket is full.
    fn send(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while self.written < self.output.len() || self.take_output() {
            match self.stream.get_ref().write(&self.output[self.written..]) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(bytes) => {
                    self.written += bytes;
                    self.sent += bytes as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    match self.stream.poll_writable(cx) {
                        Poll::Ready(ready) => ready?,
                        Poll::Pending => return Ok(()),
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes what the calls have queued; false if that is nothing.
    fn take_output(&mut self) -> bool {
        self.output.clear();
        self.written = 0;
        let mut state = self.shared.lock();
        std::mem::swap(&mut state.output, &mut self.output);
        if state.link == Link::Open {
            state.release_waiting(&mut self.wakers);
        }
        drop(state);
        self.wakers.drain(..).for_each(Waker::wake);
        !self.output.is_empty()
    }

    fn receive(&mut self, cx: &mut Context<'_>) -> Result<(), String> {
        while let Poll::Ready(ready) = self.stream.poll_readable(cx) {
            ready.map_err(|error| error.to_string())?;
            if self.filled == self.input.len() {
                self.input.resize((self.filled * 2).min(INPUT_BYTES_MAX), 0);
            }
            match self.stream.get_ref().read(&mut self.input[self.filled..]) {
                Ok(0) => return Err("the server closed the connection".into()),
                Ok(bytes) => self.filled += bytes,
                Err(error) if is_temporary(&error) => continue,
                Err(error) => return Err(error.to_string()),
            }
            let handed_out = self.hand_out();
            self.wakers.drain(..).for_each(Waker::wake);
            handed_out?;
        }
        Ok(())
    }

    /// Gives every whole response in the input to its call.
    fn hand_out(&mut self) -> Result<(), String> {
        let mut used = 0;
        let mut state = self.shared.lock();
        loop {
            let rest = &self.input[used..self.filled];
            let decoded =
                frame::decode(rest, limits::RESPONSE_BYTES_MAX).map_err(|error| error.to_string())?;
            let Some(frame) = decoded else { break };
            used += frame.bytes;
            let response: Response<'_> = parse(frame.body).map_err(|error| error.to_string())?;
            if let Outcome::Refused(refusal) = &response.outcome {
                heed(&mut state, refusal, self.server, self.shared, &mut self.leader)?;
            }
            if !state.slots.is_known(response.id) {
                return Err("an answer to a request that was never made".into());
            }
            state.heard += 1;
            let answer = Answer::Reply(Reply::new(response.outcome, frame.body));
            state.slots.answer(response.id, answer, &mut self.wakers);
        }
        drop(state);
        self.input.copy_within(used..self.filled, 0);
        self.filled -= used;
        Ok(())
    }

    /// Ends the connection if it is being left and nothing, or no time, is left.
    fn leave_when_due(&mut self) -> Poll<(Ended, String)> {
        let mut state = self.shared.lock();
        let Link::Leaving(until) = state.link else { return Poll::Pending };
        if state.slots.queued() > 0 && Instant::now() < until {
            return Poll::Pending;
        }
        // Nothing may be queued between here and the end of the link.
        state.link = Link::Down;
        let ended = match self.leader.take() {
            Some(leader) => Ended::Redirected(leader),
            None => Ended::Left,
        };
        Poll::Ready((ended, "the server does not lead".into()))
    }
}

/// What a refusal means for the connection.
fn heed(
    state: &mut State,
    refusal: &Refusal,
    server: &Arc<str>,
    shared: &Shared,
    leader: &mut Option<String>,
) -> Result<(), String> {
    let elsewhere = match refusal {
        Refusal::NotLeader { leader: Some(hint) } if *hint.address != **server => Some(hint.address.clone()),
        Refusal::NotLeader { leader: None } | Refusal::Stopping if shared.settings.servers.len() > 1 => None,
        Refusal::BadFrame(reason) => return Err(reason.clone()),
        _ => return Ok(()),
    };
    *leader = elsewhere.or(leader.take());
    let State { link, due, .. } = state;
    leave(link, due, Instant::now() + LEAVE);
    Ok(())
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn broken(reason: impl ToString) -> Poll<(Ended, String)> {
    Poll::Ready((Ended::Broken, reason.to_string()))
}
