//! One direction of one connection: a queue of bytes, each with the time at which it arrives.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Instant;

use event_listener::Event;
use smol::Async;

use super::direction::{CHUNK_BYTES_MAX, Direction};

/// Bytes of one direction of a connection that wait in the proxy; beyond them it does not read.
pub const WAITING_BYTES_MAX: usize = 4 << 20;

/// Filled from one socket and drained into the other, by two futures of one task.
#[derive(Debug)]
pub(super) struct Pipe {
    direction: Arc<Direction>,
    queue: RefCell<Queue>,
    filled: Event,
    drained: Event,
}

#[derive(Debug, Default)]
struct Queue {
    parcels: VecDeque<Parcel>,
    /// Sum over all parcels.
    bytes: usize,
    has_ended: bool,
}

/// What was read at once. Without bytes it is the end of the connection.
#[derive(Debug)]
struct Parcel {
    due: Instant,
    bytes: Vec<u8>,
    /// Of them, passed on.
    passed: usize,
}

impl Queue {
    /// Adds a parcel, which arrives no earlier than the one before it.
    fn push(&mut self, due: Instant, bytes: &[u8]) {
        let due = self.parcels.back().map_or(due, |last| last.due.max(due));
        self.bytes += bytes.len();
        self.has_ended = bytes.is_empty();
        self.parcels.push_back(Parcel { due, bytes: bytes.to_vec(), passed: 0 });
    }
}

impl Pipe {
    /// An empty one.
    pub(super) fn new(direction: &Arc<Direction>) -> Self {
        Self {
            direction: direction.clone(),
            queue: RefCell::default(),
            filled: Event::new(),
            drained: Event::new(),
        }
    }

    /// Whether the connection's end has been read.
    pub(super) fn has_ended(&self) -> bool {
        self.queue.borrow().has_ended
    }

    /// Waits until something has been read since this was called.
    pub(super) async fn wait_for_fill(&self) {
        self.filled.listen().await;
    }

    /// Reads until the connection ends. An error is an end.
    pub(super) async fn fill(&self, source: &Async<TcpStream>) {
        let mut buffer = vec![0; CHUNK_BYTES_MAX];
        while !self.has_ended() {
            self.wait_for_room().await;
            self.direction.wait_for_turn().await;
            // The rate may be another one when bytes come.
            let read = |mut source: &TcpStream| source.read(&mut buffer[..self.direction.chunk_bytes()]);
            let read = source.read_with(read).await.unwrap_or(0);
            self.queue.borrow_mut().push(self.direction.send(read), &buffer[..read]);
            self.filled.notify(1);
        }
    }

    /// Passes on what arrives, up to the connection's end or an error: then nobody takes the rest.
    pub(super) async fn drain(&self, sink: &Async<TcpStream>) -> io::Result<()> {
        loop {
            let due = self.wait_for_parcel().await;
            self.direction.wait_for_arrival(due).await;
            if !self.is_at_end() {
                // It waits for room in the socket, and may have been cut meanwhile.
                sink.write_with(|sink| self.pass_bytes(sink)).await?;
            } else if self.pass_end(sink)? {
                return Ok(());
            }
        }
    }

    async fn wait_for_room(&self) {
        while self.queue.borrow().bytes >= WAITING_BYTES_MAX {
            self.drained.listen().await;
        }
    }

    /// When the first parcel arrives.
    async fn wait_for_parcel(&self) -> Instant {
        loop {
            if let Some(parcel) = self.queue.borrow().parcels.front() {
                return parcel.due;
            }
            self.filled.listen().await;
        }
    }

    /// Writes of the first parcel what the socket takes, if any may pass.
    fn pass_bytes(&self, mut sink: &TcpStream) -> io::Result<usize> {
        let mut queue = self.queue.borrow_mut();
        let Some(parcel) = queue.parcels.front_mut() else { return Ok(0) };
        let passed = self.direction.pass(|| sink.write(&parcel.bytes[parcel.passed..]))?.unwrap_or(0);
        parcel.passed += passed;
        if parcel.passed == parcel.bytes.len() {
            queue.parcels.pop_front();
        }
        queue.bytes -= passed;
        self.drained.notify(1);
        Ok(passed)
    }

    /// Whether all bytes have been passed on, and only the end is left.
    fn is_at_end(&self) -> bool {
        self.queue.borrow().parcels.front().is_some_and(|parcel| parcel.bytes.is_empty())
    }

    /// Passes the end on, if it may, and says whether it did.
    fn pass_end(&self, sink: &Async<TcpStream>) -> io::Result<bool> {
        let shut_down = || sink.get_ref().shutdown(Shutdown::Write).map(|()| 0);
        Ok(self.direction.pass(shut_down)?.is_some())
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.direction.discard(self.queue.borrow().bytes);
    }
}
