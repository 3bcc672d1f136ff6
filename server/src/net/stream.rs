//! One connection's bytes, in both directions.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;

use event_listener::Event;
use quorate_protocol::frame::{self, FrameError};
use smol::Async;

use super::configure;
use super::reactor::{Reactor, Socket};
use crate::replica::Time;

/// Bytes received at once, into one buffer that all connections of the loop share.
const RECEIVE_BYTES: usize = 256 << 10;

/// A buffer that was larger than this is not kept when it has emptied.
const KEEP_BYTES: usize = 256 << 10;

/// One connection. Shared by the task that reads it and by whoever writes to it.
pub(crate) struct Stream {
    socket: Socket,
    pub(crate) remote: SocketAddr,
    output: RefCell<Output>,
    /// Set when the socket takes no more; the writer waits for it and goes on.
    is_blocked: Cell<bool>,
    blocked: Event,
    drained: Event,
    /// When the bytes of an unfinished frame began to come.
    frame_began: Cell<Option<Time>>,
    /// When output last moved, while some is waiting.
    output_moved: Cell<Option<Time>>,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    sent: usize,
}

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    #[error("the connection was closed")]
    Closed,
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// What one connection has received of an unfinished frame, and the loop's receive buffer.
pub(crate) struct Receiver {
    shared: Rc<RefCell<Box<[u8]>>>,
    partial: Vec<u8>,
    /// Whether whole frames may be left in `partial`, as whoever takes them had enough.
    is_paused: bool,
}

/// The receive buffer that all connections of a loop share.
pub(crate) fn shared_buffer() -> Rc<RefCell<Box<[u8]>>> {
    Rc::new(RefCell::new(vec![0; RECEIVE_BYTES].into_boxed_slice()))
}

impl Stream {
    pub(crate) fn new(reactor: &Rc<Reactor>, socket: Async<TcpStream>) -> io::Result<Self> {
        let socket = socket.into_inner()?;
        configure(&socket)?;
        let socket = Socket::new(reactor, socket)?;
        let remote = socket.peer_addr()?;
        Ok(Self {
            socket,
            remote,
            output: RefCell::default(),
            is_blocked: Cell::new(false),
            blocked: Event::new(),
            drained: Event::new(),
            frame_began: Cell::new(None),
            output_moved: Cell::new(None),
        })
    }

    /// Adds a message to what is to be sent, with [`Stream::flush`].
    pub(crate) fn push(&self, encode: impl FnOnce(&mut Vec<u8>)) {
        encode(&mut self.output.borrow_mut().bytes);
    }

    /// Bytes that wait to be sent.
    pub(crate) fn waiting(&self) -> usize {
        let output = self.output.borrow();
        output.bytes.len() - output.sent
    }

    /// Sends what the socket takes now; the writer sends the rest.
    pub(crate) fn flush(&self, now: Time) {
        if self.is_blocked.get() {
            return;
        }
        let mut output = self.output.borrow_mut();
        while output.sent < output.bytes.len() {
            match self.socket.send(&output.bytes[output.sent..]) {
                Ok(sent) => {
                    output.sent += sent;
                    self.output_moved.set(Some(now));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.is_blocked.set(true);
                    self.output_moved.set(self.output_moved.get().or(Some(now)));
                    self.blocked.notify(1);
                    return;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The reader finds out why.
                Err(_) => return self.close(),
            }
        }
        output.sent = 0;
        output.bytes.clear();
        if output.bytes.capacity() > KEEP_BYTES {
            output.bytes = Vec::new();
        }
        self.output_moved.set(None);
        self.drained.notify(usize::MAX);
    }

    /// Waits, whenever the socket takes no more, until it does. Never ends by itself.
    pub(crate) async fn keep_writing(&self, now: impl Fn() -> Time) -> StreamError {
        loop {
            let blocked = self.blocked.listen();
            if !self.is_blocked.get() {
                blocked.await;
            }
            self.socket.writable().await;
            self.is_blocked.set(false);
            self.flush(now());
        }
    }

    /// Waits until no more than `bytes` wait to be sent.
    pub(crate) async fn wait_for_output(&self, bytes: usize) {
        while self.waiting() > bytes {
            let drained = self.drained.listen();
            if self.waiting() > bytes {
                drained.await;
            }
        }
    }

    /// Waits for bytes, and hands every whole frame that has come to `take`, with the time, until it returns
    /// false: then the rest is kept for the next call. Dropping the future loses nothing.
    pub(crate) async fn receive(
        &self,
        receiver: &mut Receiver,
        limit: usize,
        now: impl Fn() -> Time,
        mut take: impl FnMut(Time, &[u8]) -> bool,
    ) -> Result<(), StreamError> {
        if receiver.is_paused {
            return self.take_kept(receiver, 0, limit, now(), take);
        }
        self.socket.readable().await;
        let shared = receiver.shared.clone();
        let mut shared = shared.borrow_mut();
        let received = match self.socket.receive(&mut shared) {
            Ok(0) => return Err(StreamError::Closed),
            Ok(received) => &shared[..received],
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(error.into()),
        };
        let now = now();
        if !receiver.partial.is_empty() {
            receiver.partial.extend_from_slice(received);
            return self.take_kept(receiver, received.len(), limit, now, take);
        }
        // The usual case: whole frames, straight from the shared buffer.
        let (rest, is_paused) = take_frames(received, limit, |body| take(now, body))?;
        receiver.partial.extend_from_slice(rest);
        receiver.is_paused = is_paused && !rest.is_empty();
        self.frame_began.set((!rest.is_empty()).then_some(now));
        Ok(())
    }

    /// Takes frames from what was kept, the last `received` bytes of which are new.
    fn take_kept(
        &self,
        receiver: &mut Receiver,
        received: usize,
        limit: usize,
        now: Time,
        mut take: impl FnMut(Time, &[u8]) -> bool,
    ) -> Result<(), StreamError> {
        let kept = receiver.partial.len();
        let (rest, is_paused) = take_frames(&receiver.partial, limit, |body| take(now, body))?;
        let rest = rest.len();
        receiver.is_paused = is_paused && rest > 0;
        receiver.partial.drain(..kept - rest);
        if rest == 0 && receiver.partial.capacity() > KEEP_BYTES {
            receiver.partial = Vec::new();
        }
        // The deadline is that of the frame which is unfinished now.
        let is_same_frame = rest == kept && kept > received;
        let began = self.frame_began.get().filter(|_| is_same_frame);
        self.frame_began.set((rest > 0).then(|| began.unwrap_or(now)));
        Ok(())
    }

    /// Ends the connection; its tasks find out.
    pub(crate) fn close(&self) {
        self.socket.shut_down();
    }

    /// When the frame that is being received began.
    pub(crate) fn frame_began(&self) -> Option<Time> {
        self.frame_began.get()
    }

    /// When output last moved, if some is waiting.
    pub(crate) fn output_moved(&self) -> Option<Time> {
        self.output_moved.get()
    }
}

impl Receiver {
    pub(crate) fn new(shared: Rc<RefCell<Box<[u8]>>>) -> Self {
        Self { shared, partial: Vec::new(), is_paused: false }
    }
}

/// Hands whole frames to `take` until it returns false. Returns the bytes after the last one taken, and
/// whether `take` had enough.
fn take_frames(
    mut bytes: &[u8],
    limit: usize,
    mut take: impl FnMut(&[u8]) -> bool,
) -> Result<(&[u8], bool), FrameError> {
    while let Some(frame) = frame::decode(bytes, limit)? {
        bytes = &bytes[frame.bytes..];
        if !take(frame.body) {
            return Ok((bytes, true));
        }
    }
    Ok((bytes, false))
}
