//! One node: its places, which it keeps, and the thread that it runs in, if it does.

use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock, mpsc};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use quorate_protocol::NodeId;
use smol::channel::{self, Receiver, Sender};
use socket2::{Domain, Protocol, Socket, Type};

use super::disk::{Cut, CutDisk};
use super::{POLL_PAUSE, TestError};
use crate::server::{self, Listeners, ServerError, ServerSettings};

/// A port of 127.0.0.1 that stays this cluster's while nobody listens on it.
///
/// Ports that the system chooses are those that it gives to outgoing connections too. Without this one of them could
/// take a dead node's port, even a client's that tries to reach that node: it would be connected to itself.
pub(super) struct Port {
    pub(super) address: SocketAddr,
    /// Bound and never listening: whoever connects meanwhile is refused. With `SO_REUSEADDR` on both, a listener binds
    /// to the same port beside it.
    _reservation: Socket,
}

impl Port {
    /// Takes a free one.
    pub(super) fn take() -> Result<Self, ServerError> {
        let any = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
        let reserve = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_reuse_address(true)?;
            socket.bind(&any.into())?;
            let address = socket.local_addr()?.as_socket().unwrap_or(any);
            Ok(Self { address, _reservation: socket })
        };
        reserve().map_err(|error| ServerError::Listen { address: any.to_string(), error })
    }
}

/// What a node that runs is told.
enum Order {
    /// To say that it stands still, and do so until the other end is dropped.
    Pause { stands: mpsc::Sender<()>, goes_on: mpsc::Receiver<Infallible> },
    /// To end at once.
    Kill,
}

/// A node of a cluster.
pub(super) struct TestNode {
    settings: ServerSettings,
    pub(super) clients: Port,
    /// None in a cluster of one.
    peers: Option<Port>,
    running: Option<Running>,
}

struct Running {
    /// Dropped to have it stopped.
    stop: Sender<Infallible>,
    orders: Sender<Order>,
    cut: Cut,
    thread: JoinHandle<()>,
    /// How it has ended.
    ended: Arc<OnceLock<Result<(), ServerError>>>,
    /// While it stands still: dropped to have it go on.
    paused: Option<mpsc::Sender<Infallible>>,
}

impl TestNode {
    /// A node that does not run yet.
    pub(super) fn new(mut settings: ServerSettings, clients: Port, peers: Option<Port>) -> Self {
        settings.node.advertise = clients.address.to_string();
        Self { settings, clients, peers, running: None }
    }

    pub(super) fn id(&self) -> NodeId {
        self.settings.identity.node
    }

    /// Whether it runs and is not paused. Also if it has ended by itself, which [`check`](Self::check) finds.
    pub(super) fn is_going(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.paused.is_none())
    }

    pub(super) fn is_running(&self) -> bool {
        self.running.is_some()
    }

    /// Starts it, on the ports that it has had from the beginning.
    pub(super) fn start(&mut self) -> Result<(), TestError> {
        let peers = self.peers.as_ref().map(|port| port.address.to_string());
        let listeners = Listeners::bind(&self.clients.address.to_string(), peers.as_deref())?;
        self.running = Some(Running::start(self.settings.clone(), listeners)?);
        Ok(())
    }

    /// Fails if it has ended although nobody told it to.
    pub(super) fn check(&self) -> Result<(), TestError> {
        match self.running.as_ref().and_then(|running| running.ended.get()) {
            Some(Err(error)) => Err(TestError::Ended { node: self.id(), reason: error.to_string() }),
            Some(Ok(())) => Err(TestError::Ended { node: self.id(), reason: "it was stopped".into() }),
            None => Ok(()),
        }
    }

    /// Makes it stand still, and waits until it does.
    pub(super) fn pause(&mut self, deadline: Instant) -> Result<(), TestError> {
        let node = self.id();
        self.check()?;
        let running = self.running.as_mut().ok_or(TestError::NotRunning(node))?;
        if running.paused.is_some() {
            return Ok(());
        }
        let (stands, has_stood) = mpsc::channel();
        let (paused, goes_on) = mpsc::channel();
        running.order(Order::Pause { stands, goes_on });
        has_stood.recv_timeout(left(deadline)).map_err(|_| TestError::Hung(node))?;
        running.paused = Some(paused);
        Ok(())
    }

    pub(super) fn resume(&mut self) -> Result<(), TestError> {
        let running = self.running.as_mut().ok_or(TestError::NotRunning(self.settings.identity.node))?;
        running.paused = None;
        Ok(())
    }

    /// Tells it to stop, and waits until it has.
    pub(super) fn stop(&mut self, deadline: Instant) -> Result<(), TestError> {
        let Running { stop, orders, cut, thread, ended, paused } =
            self.running.take().ok_or(TestError::NotRunning(self.settings.identity.node))?;
        drop((stop, paused));
        let result = wait_end(self.id(), thread, &ended, &cut, deadline);
        drop(orders); // Kept until now: that there are no more orders is one to end at once.
        result
    }

    /// Tells it to end at once, without waiting for that.
    pub(super) fn begin_kill(&mut self) {
        if let Some(running) = &mut self.running {
            running.order(Order::Kill);
            running.paused = None;
        }
    }

    /// Has it end at once, and waits until it has.
    pub(super) fn kill(&mut self, deadline: Instant) -> Result<(), TestError> {
        self.begin_kill();
        let node = self.id();
        let running = self.running.take().ok_or(TestError::NotRunning(node))?;
        wait_end(node, running.thread, &running.ended, &running.cut, deadline)
    }
}

impl Running {
    fn start(mut settings: ServerSettings, listeners: Listeners) -> Result<Self, TestError> {
        let node = settings.identity.node;
        let cut = Cut::default();
        settings.disk = Arc::new(CutDisk(cut.clone()));
        let (stop, stopped) = channel::bounded(1);
        // Nothing is ever sent: it ends when the sender is dropped.
        let shutdown = async move {
            let Err(channel::RecvError) = stopped.recv().await;
        };
        let (orders, received) = channel::unbounded();
        let killed = carry_out(received, cut.clone());
        let ended = Arc::new(OnceLock::new());
        let result = ended.clone();
        let run = move || {
            // Set once, here.
            let _ = result.set(server::run_until_killed(settings, listeners, shutdown, killed));
        };
        let thread = thread::Builder::new()
            .name(format!("quorate-node-{node}"))
            .spawn(run)
            .map_err(|source| TestError::Thread { node, source })?;
        Ok(Self { stop, orders, cut, thread, ended, paused: None })
    }

    fn order(&self, order: Order) {
        // Who has ended needs no orders.
        let _ = self.orders.try_send(order);
    }
}

/// Carries orders out in the node's own thread, where nothing else happens meanwhile, until one is to end.
async fn carry_out(orders: Receiver<Order>, cut: Cut) {
    while let Ok(Order::Pause { stands, goes_on }) = orders.recv().await {
        // Who has given up waiting has dropped the other channel too.
        let _ = stands.send(());
        let Err(mpsc::RecvError) = goes_on.recv();
    }
    cut.cut();
}

/// Waits until the thread has ended, and nobody else has the node's disk: the pool's threads may go on for a moment.
fn wait_end(
    node: NodeId,
    thread: JoinHandle<()>,
    ended: &OnceLock<Result<(), ServerError>>,
    cut: &Cut,
    deadline: Instant,
) -> Result<(), TestError> {
    while !(thread.is_finished() && cut.is_last()) {
        if Instant::now() >= deadline {
            return Err(TestError::Hung(node));
        }
        thread::sleep(POLL_PAUSE);
    }
    let reason = match (thread.join(), ended.get()) {
        (Ok(()), Some(Ok(()))) => return Ok(()),
        (Ok(()), Some(Err(error))) => error.to_string(),
        _ => "it panicked".into(),
    };
    Err(TestError::Ended { node, reason })
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
