//! The loop's reactor: which sockets are ready, and how late it is.
//!
//! smol's own reactor is shared by all threads of a process, and its helper thread takes it over whenever the
//! loop has been busy for 50 µs. From then on every event is a hand-over between two threads, and with turns
//! longer than that it stays so. It also arms a socket anew for each wait, and a timer for each look at it.
//! Here one thread looks for itself: a socket is registered once, and says by edge that it became ready. On
//! two cores that gave a tenth more writes, and a tenth off the median of one client.
//!
//! Tasks still run on smol's executor; signals, listeners and dialling still use smol's reactor, as nothing
//! waits for them.
//!
//! Before the loop sleeps it looks for events a while longer, and lets other threads run in between: see
//! [`BusyPoll`]. A write passes through some seven threads that wait for each other for a tenth of a
//! millisecond, and a core that went to sleep meanwhile takes 25 to 55 µs to wake.
//!
//! # Invariants
//!
//! - A socket counts as readable until a receive leaves room in its buffer: what comes later is a new edge.
//!   The end of the stream gives no second edge, so it is remembered.
//! - Whoever wakes the loop from another thread writes to it only while it sleeps.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::net::TcpStream;
use mio::{Events, Interest, Registry, Token};
use smol::LocalExecutor;

use super::busy_poll::BusyPoll;

/// Events taken at once.
const EVENTS_MAX: usize = 1024;

/// The token of the wake-up by other threads.
const WAKE: Token = Token(usize::MAX);

/// One loop's reactor.
pub(crate) struct Reactor {
    poll: RefCell<mio::Poll>,
    registry: Registry,
    alarm: Arc<Alarm>,
    /// By token. Tokens are not used again: an event may be late.
    sources: RefCell<BTreeMap<usize, Rc<Readiness>>>,
    next_token: Cell<usize>,
    /// Whom to wake when.
    sleepers: RefCell<BTreeMap<(Instant, u64), Waker>>,
    next_sleeper: Cell<u64>,
    busy_poll: BusyPoll,
}

/// Wakes the loop from any thread.
struct Alarm {
    waker: mio::Waker,
    is_woken: AtomicBool,
    is_asleep: AtomicBool,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        let is_first = !self.is_woken.swap(true, Ordering::SeqCst);
        if is_first && self.is_asleep.load(Ordering::SeqCst) {
            // Fails only if the loop is gone.
            let _ = self.waker.wake();
        }
    }
}

#[derive(Default)]
struct Readiness {
    is_readable: Cell<bool>,
    is_writable: Cell<bool>,
    is_ended: Cell<bool>,
    reader: RefCell<Option<Waker>>,
    writer: RefCell<Option<Waker>>,
}

impl Readiness {
    fn note(&self, event: &Event) {
        if event.is_read_closed() || event.is_error() {
            self.is_ended.set(true);
        }
        if event.is_readable() || self.is_ended.get() {
            self.is_readable.set(true);
            self.reader.take().into_iter().for_each(Waker::wake);
        }
        if event.is_writable() || event.is_write_closed() || event.is_error() {
            self.is_writable.set(true);
            self.writer.take().into_iter().for_each(Waker::wake);
        }
    }
}

impl Reactor {
    /// One that looks for events for `busy_poll` before it sleeps; see [`BusyPoll`].
    pub(crate) fn new(busy_poll: Duration) -> io::Result<Rc<Self>> {
        let poll = mio::Poll::new()?;
        let registry = poll.registry().try_clone()?;
        let waker = mio::Waker::new(&registry, WAKE)?;
        let alarm = Alarm { waker, is_woken: AtomicBool::new(true), is_asleep: AtomicBool::new(false) };
        Ok(Rc::new(Self {
            poll: RefCell::new(poll),
            registry,
            alarm: Arc::new(alarm),
            sources: RefCell::default(),
            next_token: Cell::new(0),
            sleepers: RefCell::default(),
            next_sleeper: Cell::new(0),
            busy_poll: BusyPoll::new(busy_poll),
        }))
    }

    /// Runs the executor's tasks in this thread until `main` is ready.
    pub(crate) fn block_on<T>(
        &self,
        executor: &LocalExecutor<'_>,
        main: impl Future<Output = T>,
    ) -> io::Result<T> {
        let waker = Waker::from(self.alarm.clone());
        let mut run = pin!(executor.run(main));
        let mut events = Events::with_capacity(EVENTS_MAX);
        loop {
            self.alarm.is_woken.store(false, Ordering::SeqCst);
            if let Poll::Ready(result) = run.as_mut().poll(&mut Context::from_waker(&waker)) {
                return Ok(result);
            }
            self.wait(&mut events)?;
        }
    }

    /// Waits until something is ready, unless somebody was woken already; then only looks.
    fn wait(&self, events: &mut Events) -> io::Result<()> {
        let begin = Instant::now();
        if !self.look_busily(events, begin)? {
            self.sleep_until_ready(events)?;
        }
        self.busy_poll.note(begin.elapsed());
        for event in events.iter().filter(|event| event.token() != WAKE) {
            let readiness = self.sources.borrow().get(&event.token().0).cloned();
            readiness.iter().for_each(|readiness| readiness.note(event));
        }
        self.wake_sleepers();
        Ok(())
    }

    /// Looks for events until there are some, as long as that may be worth it; says whether there are.
    fn look_busily(&self, events: &mut Events, begin: Instant) -> io::Result<bool> {
        let patience = self.busy_poll.patience(begin);
        if patience.is_zero() {
            return Ok(false);
        }
        let patience = self.until_next_sleeper().map_or(patience, |left| left.min(patience));
        let mut now = begin;
        loop {
            self.poll(events, Some(Duration::ZERO))?;
            if !events.is_empty() || self.alarm.is_woken.load(Ordering::SeqCst) {
                return Ok(true);
            }
            if now - begin >= patience {
                return Ok(false);
            }
            thread::yield_now(); // Whoever is waited for may need this core.
            let yielded = now.elapsed();
            now += yielded;
            if self.busy_poll.is_crowded(now, yielded) {
                return Ok(false);
            }
        }
    }

    fn sleep_until_ready(&self, events: &mut Events) -> io::Result<()> {
        self.alarm.is_asleep.store(true, Ordering::SeqCst);
        let timeout = match self.alarm.is_woken.load(Ordering::SeqCst) {
            true => Some(Duration::ZERO),
            false => self.until_next_sleeper(),
        };
        let polled = self.poll(events, timeout);
        self.alarm.is_asleep.store(false, Ordering::SeqCst);
        polled
    }

    /// No events if it was interrupted.
    fn poll(&self, events: &mut Events, timeout: Option<Duration>) -> io::Result<()> {
        match self.poll.borrow_mut().poll(events, timeout) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                events.clear();
                Ok(())
            }
            other => other,
        }
    }

    fn until_next_sleeper(&self) -> Option<Duration> {
        let sleepers = self.sleepers.borrow();
        let ((at, _), _) = sleepers.first_key_value()?;
        Some(at.saturating_duration_since(Instant::now()))
    }

    fn wake_sleepers(&self) {
        let mut sleepers = self.sleepers.borrow_mut();
        if sleepers.is_empty() {
            return;
        }
        let now = Instant::now();
        while let Some(first) = sleepers.first_entry()
            && first.key().0 <= now
        {
            first.remove().wake();
        }
    }

    /// Waits for so long. A future that is dropped leaves a wake-up for nothing.
    pub(crate) async fn sleep(&self, duration: Duration) {
        let key = (Instant::now() + duration, self.next_sleeper.replace(self.next_sleeper.get() + 1));
        poll_fn(|context| {
            if Instant::now() >= key.0 {
                return Poll::Ready(());
            }
            self.sleepers.borrow_mut().insert(key, context.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A connected socket that this thread's reactor watches.
pub(crate) struct Socket {
    stream: TcpStream,
    token: usize,
    readiness: Rc<Readiness>,
    reactor: Rc<Reactor>,
}

impl Socket {
    /// Watches a socket, which must not block.
    pub(crate) fn new(reactor: &Rc<Reactor>, stream: std::net::TcpStream) -> io::Result<Self> {
        let mut stream = TcpStream::from_std(stream);
        let token = reactor.next_token.replace(reactor.next_token.get() + 1);
        reactor.registry.register(&mut stream, Token(token), Interest::READABLE | Interest::WRITABLE)?;
        let readiness = Rc::<Readiness>::default();
        reactor.sources.borrow_mut().insert(token, readiness.clone());
        Ok(Self { stream, token, readiness, reactor: reactor.clone() })
    }

    pub(crate) fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.stream.peer_addr()
    }

    /// Waits until there may be something to receive.
    pub(crate) async fn readable(&self) {
        poll_fn(|context| self.poll(context, &self.readiness.is_readable, &self.readiness.reader)).await;
    }

    /// Waits until something may be sent.
    pub(crate) async fn writable(&self) {
        poll_fn(|context| self.poll(context, &self.readiness.is_writable, &self.readiness.writer)).await;
    }

    fn poll(
        &self,
        context: &Context<'_>,
        is_ready: &Cell<bool>,
        waiting: &RefCell<Option<Waker>>,
    ) -> Poll<()> {
        if is_ready.get() {
            return Poll::Ready(());
        }
        match &mut *waiting.borrow_mut() {
            Some(waker) => waker.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        Poll::Pending
    }

    /// Receives what is there, up to the buffer's size.
    pub(crate) fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let result = (&self.stream).read(buffer);
        let is_drained = match &result {
            Ok(received) => *received < buffer.len() && !self.readiness.is_ended.get(),
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        };
        if is_drained {
            self.readiness.is_readable.set(false);
        }
        result
    }

    /// Sends what the socket takes.
    pub(crate) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let result = (&self.stream).write(bytes);
        if matches!(&result, Err(error) if error.kind() == io::ErrorKind::WouldBlock) {
            self.readiness.is_writable.set(false);
        }
        result
    }

    /// Ends the connection in both directions; whoever waits for it is woken.
    pub(crate) fn shut_down(&self) {
        // Errors say that it is closed already.
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // A closed socket is no longer watched in any case.
        let _ = self.reactor.registry.deregister(&mut self.stream);
        self.reactor.sources.borrow_mut().remove(&self.token);
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::thread;

    use super::*;

    fn pair(reactor: &Rc<Reactor>) -> (TcpStream, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let other = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (accepted, _) = listener.accept().unwrap();
        accepted.set_nonblocking(true).unwrap();
        (other, Socket::new(reactor, accepted).unwrap())
    }

    fn block_on<T>(reactor: &Reactor, main: impl Future<Output = T>) -> T {
        reactor.block_on(&LocalExecutor::new(), main).unwrap()
    }

    #[test]
    fn bytes_and_the_end_that_come_together_are_both_seen() {
        let reactor = Reactor::new(Duration::from_millis(1)).unwrap();
        let (mut other, socket) = pair(&reactor);
        other.write_all(b"last words").unwrap();
        drop(other);
        let received = block_on(&reactor, async {
            let mut received = Vec::new();
            let mut buffer = [0; 64];
            loop {
                socket.readable().await;
                match socket.receive(&mut buffer) {
                    Ok(0) => return received,
                    Ok(count) => received.extend_from_slice(&buffer[..count]),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        });
        assert_eq!(received, b"last words");
    }

    #[test]
    fn a_full_socket_is_writable_again_when_the_other_side_reads() {
        let reactor = Reactor::new(Duration::from_millis(1)).unwrap();
        let (mut other, socket) = pair(&reactor);
        let total = 32 << 20;
        let reader =
            thread::spawn(move || io::copy(&mut Read::take(&mut other, total), &mut io::sink()).unwrap());
        block_on(&reactor, async {
            let bytes = vec![7; 1 << 20];
            let mut sent = 0;
            while sent < total {
                socket.writable().await;
                let rest = bytes.len().min((total - sent) as usize);
                match socket.send(&bytes[..rest]) {
                    Ok(count) => sent += count as u64,
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        });
        assert_eq!(reader.join().unwrap(), total);
    }

    #[test]
    fn another_thread_wakes_a_loop_that_sleeps_or_looks() {
        for busy_poll in [Duration::ZERO, Duration::from_secs(60)] {
            let reactor = Reactor::new(busy_poll).unwrap();
            let (sender, receiver) = event_listener_pair();
            let waker = thread::spawn(move || sender.notify(1));
            block_on(&reactor, receiver);
            waker.join().unwrap();
        }
    }

    #[test]
    fn a_loop_that_looks_keeps_its_sleepers_times() {
        let reactor = Reactor::new(Duration::from_secs(60)).unwrap();
        block_on(&reactor, reactor.sleep(Duration::from_millis(2)));
        let (mut other, socket) = pair(&reactor);
        let writer = thread::spawn(move || other.write_all(b"late").unwrap());
        block_on(&reactor, socket.readable());
        writer.join().unwrap();
    }

    fn event_listener_pair() -> (Arc<event_listener::Event>, event_listener::EventListener) {
        let event = Arc::new(event_listener::Event::new());
        let listener = event.listen();
        (event, listener)
    }

    #[test]
    fn sleepers_wake_in_the_order_of_their_times() {
        let reactor = Reactor::new(Duration::from_millis(1)).unwrap();
        let order = RefCell::new(Vec::new());
        let nap = |millis: u64| {
            let (reactor, order) = (&reactor, &order);
            async move {
                reactor.sleep(Duration::from_millis(millis)).await;
                order.borrow_mut().push(millis);
            }
        };
        block_on(&reactor, futures_lite::future::zip(nap(20), nap(2)));
        assert_eq!(*order.borrow(), [2, 20]);
    }
}
