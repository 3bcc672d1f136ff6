//! An open connection: one send and one receive a turn, however many calls they carry.
//!
//! - A turn takes all frames that calls have queued, tries the send at once, and waits for the socket only
//!   when it is full.
//! - A receive follows only a readiness, and takes as much as is there: no receive that must fail.
//! - All responses of a receive are handed out under one lock, and all calls woken after it.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::task::{Context, Poll, Waker};

use async_io::Async;
use quorate_protocol::response::{Outcome, Refusal, Response};
use quorate_protocol::{frame, limits, parse};

use super::driver::{Deadlines, Noticed};
use super::handshake::Connected;
use super::slots::Answer;
use super::{Link, State};
use crate::reply::Reply;

/// Bytes of the read buffer at first; it grows for a longer response, up to the longest allowed.
const INPUT_BYTES: usize = 128 << 10;

/// The longest response, as a frame.
const INPUT_BYTES_MAX: usize = frame::HEADER_BYTES + limits::RESPONSE_BYTES_MAX;

/// Why the connection is no more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Ended {
    /// There are no further calls.
    Finished,
    /// It broke, or the server broke the protocol.
    Broken,
}

pub(super) struct Connection<'a> {
    link: &'a Link,
    stream: Async<TcpStream>,
    /// Frames taken from the calls, of which `written` bytes have been given to the socket.
    output: Vec<u8>,
    written: usize,
    /// Bytes given to the socket, as a position in all that was ever queued.
    sent: u64,
    input: Vec<u8>,
    filled: usize,
    wakers: Vec<Waker>,
}

impl<'a> Connection<'a> {
    /// Opens the link: from now on calls may be sent.
    pub(super) fn new(link: &'a Link, connected: Connected) -> Self {
        let mut wakers = Vec::new();
        let mut state = link.lock();
        state.is_open = true;
        state.shut_until = None;
        let served = connected.welcome.limits.in_flight_max as usize;
        state.in_flight_max = link.settings.in_flight_max.min(served).max(1);
        state.release_waiting(&mut wakers);
        let sent = state.queued_bytes;
        drop(state);
        link.bound_changed();
        wakers.drain(..).for_each(Waker::wake);
        Self {
            link,
            stream: connected.stream,
            output: Vec::new(),
            written: 0,
            sent,
            input: vec![0; INPUT_BYTES],
            filled: 0,
            wakers,
        }
    }

    /// Runs until the connection ends, and says why.
    pub(super) async fn run(&mut self, deadlines: &mut Deadlines) -> (Ended, String) {
        std::future::poll_fn(|cx| self.turn(cx, deadlines)).await
    }

    /// Every call on the connection, which has ended, gets its answer.
    pub(super) fn end(mut self, reason: &str) {
        let reason = format!("{}: {reason}", self.link.address).into();
        self.link.lock().down(self.sent, &reason, &mut self.wakers);
        self.wakers.drain(..).for_each(Waker::wake);
    }

    fn turn(&mut self, cx: &mut Context<'_>, deadlines: &mut Deadlines) -> Poll<(Ended, String)> {
        match deadlines.poll(cx) {
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
        Poll::Pending
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
        let mut state = self.link.lock();
        std::mem::swap(&mut state.output, &mut self.output);
        state.release_waiting(&mut self.wakers);
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
        let mut state = self.link.lock();
        loop {
            let rest = &self.input[used..self.filled];
            let decoded =
                frame::decode(rest, limits::RESPONSE_BYTES_MAX).map_err(|error| error.to_string())?;
            let Some(frame) = decoded else { break };
            used += frame.bytes;
            let response: Response<'_> = parse(frame.body).map_err(|error| error.to_string())?;
            state.heard += 1;
            answer(&mut state, response, frame.body, &mut self.wakers)?;
        }
        drop(state);
        self.input.copy_within(used..self.filled, 0);
        self.filled -= used;
        Ok(())
    }
}

/// Gives a response, which was parsed from `body`, to its call.
fn answer(
    state: &mut State,
    response: Response<'_>,
    body: &[u8],
    wakers: &mut Vec<Waker>,
) -> Result<(), String> {
    let Response { id, outcome } = response;
    if let Outcome::Refused(Refusal::BadFrame(reason)) = outcome {
        return Err(reason);
    }
    if !state.slots.is_known(id) {
        return Err("an answer to a request that was never made".into());
    }
    let is_last = outcome.is_last();
    let reply = Reply::new(outcome, body);
    match is_last {
        true => state.slots.answer(id, Answer::Reply(reply), wakers),
        false if state.slots.answer_part(id, reply, body.len(), wakers) => state.cancel(id),
        false => {}
    }
    Ok(())
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn broken(reason: impl ToString) -> Poll<(Ended, String)> {
    Poll::Ready((Ended::Broken, reason.to_string()))
}
