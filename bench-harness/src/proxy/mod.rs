//! A TCP proxy on the links between replicas, which makes them slow, narrow or cut.
//!
//! Each node dials every other and sends on the connection that it dialled. A link stands in between:
//!
//! ```text
//! node `from` ──dials──▶ Link::address() ═══ delay, jitter, rate, cut ═══▶ target: node `to`
//! ```
//!
//! What is set for `from → to` holds for every byte that goes that way, on whatever connection: on those of
//! the link `from → to` that is everything but the answer to the handshake, which goes the way of
//! `to → from`. So settings that hold both ways are set twice, and a one-way cut leaves the messages of the
//! other way alone.
//!
//! - *Delay and jitter*: a byte arrives the delay after it was sent, give or take the jitter, and never before
//!   a byte that was sent before it.
//! - *Rate*: bytes are sent one after the other at so many a second; what is too much stays in the sender's
//!   socket. All connections of one way share the rate.
//! - *Cut*: bytes on their way are held, and flow on when the link is healed, as TCP repeats what was lost;
//!   the end of a connection is held with them. A new connection needs both ways: while one is cut the
//!   dialling node sees its connection accepted, as loopback has no other way, and then nothing, until it
//!   gives up. The target hears of the connection when the link is healed, or never if it was given up.
//!
//! Invariants:
//! - bytes of a connection are neither lost, changed nor reordered while it lasts;
//! - once [`Proxy::cut`] has returned, no byte passes that way until it is healed;
//! - at most [`WAITING_BYTES_MAX`] wait in each direction of a connection; beyond them the proxy does not read,
//!   and the sender blocks as on a full socket. That also bounds what a long delay lets through: 4 MiB for
//!   each delay;
//! - when a [`Proxy`] is dropped its thread has ended, and all its sockets are closed.
//!
//! One thread moves all bytes, on an executor of its own; the handle only changes what that thread looks at.
//!
//! # What it leaves out
//!
//! No loss, no repetition and no reordering of packets: TCP hides them from the nodes, and shows them as
//! delay. Setting up a connection costs no round trip of its own. A cut, however long, ends no connection;
//! TCP would at some point. A reset is passed on as an ordinary end. What was sent before settings were
//! changed arrives as it would have.

mod connection;
mod direction;
mod pipe;
mod settings;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};

use anyhow::{Context, anyhow};
use smol::channel::{Receiver, Sender};
use smol::{Async, LocalExecutor};
use socket2::{Domain, Protocol, Socket, Type};

use connection::Listening;
use direction::Direction;
pub use direction::Traffic;
pub use pipe::WAITING_BYTES_MAX;
pub use settings::LinkSettings;

/// Connections waiting to be accepted, per link.
const BACKLOG: i32 = 128;

/// Links that the thread has not begun to listen on yet.
const NEW_LINKS_MAX: usize = 16;

/// A thread that carries bytes between nodes; ended when dropped. Nodes have numbers, which mean nothing here.
#[derive(Debug)]
pub struct Proxy {
    seed: u64,
    directions: Mutex<BTreeMap<(u8, u8), Arc<Direction>>>,
    /// None only while this is dropped.
    links: Option<Sender<Listening>>,
    thread: Option<JoinHandle<()>>,
}

/// Where one node dials another.
#[derive(Clone, Debug)]
pub struct Link {
    address: SocketAddr,
}

impl Link {
    /// Where the proxy listens for the node that dials.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Proxy {
    /// Starts the thread; there is no link yet. The seed is that of all jitter.
    pub fn start(seed: u64) -> anyhow::Result<Self> {
        let (sender, links) = smol::channel::bounded(NEW_LINKS_MAX);
        let thread = thread::Builder::new()
            .name("proxy".to_owned())
            .spawn(move || carry(&links))
            .context("the thread of the proxy cannot be started")?;
        Ok(Self { seed, directions: Mutex::default(), links: Some(sender), thread: Some(thread) })
    }

    /// Listens where `from` dials `to`, and carries what comes to `target`. Port 0 takes a free one. The link
    /// is as fast as loopback until something is set.
    pub fn add_link(&self, from: u8, to: u8, listen: SocketAddr, target: SocketAddr) -> anyhow::Result<Link> {
        let failed = || format!("the proxy cannot listen on {listen} for node {from} to reach node {to}");
        let listener = listen_on(listen).with_context(failed)?;
        let address = listener.local_addr().with_context(failed)?;
        let listener = Async::new(listener).with_context(failed)?;
        let (there, back) = (self.make_direction(from, to), self.make_direction(to, from));
        let listening = Listening { listener, target, there, back };
        let links = self.links.as_ref().context("the proxy is being dropped")?;
        links.send_blocking(listening).map_err(|_| anyhow!("the thread of the proxy has ended"))?;
        Ok(Link { address })
    }

    /// Changes how bytes travel between two nodes, one way.
    pub fn set(&self, from: u8, to: u8, settings: LinkSettings) -> anyhow::Result<()> {
        settings.check().map_err(anyhow::Error::msg)?;
        self.direction(from, to)?.set(settings);
        Ok(())
    }

    /// Holds back what `from` sends to `to`. Nothing passes after this has returned.
    pub fn cut(&self, from: u8, to: u8) -> anyhow::Result<()> {
        self.direction(from, to)?.set_cut(true);
        Ok(())
    }

    /// Lets what `from` sends to `to`, and has sent meanwhile, flow again.
    pub fn heal(&self, from: u8, to: u8) -> anyhow::Result<()> {
        self.direction(from, to)?.set_cut(false);
        Ok(())
    }

    /// Heals everything that is cut. Settings stay.
    pub fn heal_all(&self) {
        self.directions().values().for_each(|direction| direction.set_cut(false));
    }

    /// What has gone from one node to another, and what waits in the proxy.
    pub fn traffic(&self, from: u8, to: u8) -> anyhow::Result<Traffic> {
        Ok(self.direction(from, to)?.traffic())
    }

    fn directions(&self) -> MutexGuard<'_, BTreeMap<(u8, u8), Arc<Direction>>> {
        self.directions.lock().expect("nothing panics while it holds this lock")
    }

    fn direction(&self, from: u8, to: u8) -> anyhow::Result<Arc<Direction>> {
        let known = self.directions().get(&(from, to)).cloned();
        known.with_context(|| format!("the proxy has no link between nodes {from} and {to}: add it first"))
    }

    fn make_direction(&self, from: u8, to: u8) -> Arc<Direction> {
        let seed = self.seed.wrapping_add(u64::from(u16::from_be_bytes([from, to])));
        self.directions().entry((from, to)).or_insert_with(|| Arc::new(Direction::new(seed))).clone()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The thread ends when nobody can add links any more.
        self.links = None;
        if let Some(thread) = self.thread.take() {
            // If it panicked its connections are gone, and the panic has been printed.
            let _ = thread.join();
        }
    }
}

/// A restarted proxy may listen where connections of its predecessor are not quite over.
fn listen_on(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The thread: serves links until no more can be added. Everything it holds is closed as it returns.
fn carry(links: &Receiver<Listening>) {
    let executor = LocalExecutor::new();
    smol::block_on(executor.run(async {
        while let Ok(link) = links.recv().await {
            executor.spawn(link.serve()).detach();
        }
    }));
}
