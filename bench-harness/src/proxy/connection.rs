//! The connections of one link: accepted, led to the target, and carried until both directions have ended.

use std::cell::Cell;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future;
use smol::{Async, LocalExecutor, Timer};

use super::direction::Direction;
use super::pipe::Pipe;

/// Connections of a link at a time; beyond them new ones are closed at once.
const CONNECTIONS_MAX: usize = 64;

/// How long reaching the target may take.
const TARGET_TIME_MAX: Duration = Duration::from_secs(5);

/// How long nothing is accepted after accepting has failed, for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A link's listening socket, and where its connections lead.
pub(super) struct Listening {
    pub(super) listener: Async<TcpListener>,
    pub(super) target: SocketAddr,
    /// From the node that dials to the target.
    pub(super) there: Arc<Direction>,
    pub(super) back: Arc<Direction>,
}

impl Listening {
    /// Serves the link; never ends. Its connections end with it.
    pub(super) async fn serve(self) {
        let link = Rc::new(self);
        let connections = LocalExecutor::new();
        let open = Rc::new(Cell::new(0));
        let accept = async {
            loop {
                let Ok((dialler, _)) = link.listener.accept().await else {
                    Timer::after(ACCEPT_PAUSE).await;
                    continue;
                };
                if open.get() == CONNECTIONS_MAX {
                    continue;
                }
                open.set(open.get() + 1);
                let (link, open) = (link.clone(), open.clone());
                let connection = async move {
                    // Both nodes see their connection end, and say so in their logs.
                    let _ = link.carry(&dialler).await;
                    open.set(open.get() - 1);
                };
                connections.spawn(connection).detach();
            }
        };
        connections.run(accept).await
    }

    /// Carries a connection until both of its directions have ended.
    async fn carry(&self, dialler: &Async<TcpStream>) -> io::Result<()> {
        dialler.get_ref().set_nodelay(true)?;
        let there = Pipe::new(&self.there);
        // That the dialling node has hung up is its own end: what it sent before is still on its way.
        let filled = async {
            there.fill(dialler).await;
            future::pending().await
        };
        let carried = async {
            if !self.wait_until_whole(&there).await {
                return Ok(());
            }
            let target = self.reach_target().await?;
            let back = Pipe::new(&self.back);
            // An error in one direction shows as an end or an error in the other.
            let answers = future::zip(back.fill(&target), back.drain(dialler));
            let _ = future::zip(there.drain(&target), answers).await;
            Ok(())
        };
        future::or(carried, filled).await
    }

    /// Waits until neither direction is cut. False if the dialling node gave up before.
    async fn wait_until_whole(&self, there: &Pipe) -> bool {
        loop {
            let change = future::or(self.there.change(), self.back.change());
            if !self.there.is_cut() && !self.back.is_cut() {
                return true;
            }
            if there.has_ended() {
                return false;
            }
            future::or(change, there.wait_for_fill()).await;
        }
    }

    async fn reach_target(&self) -> io::Result<Async<TcpStream>> {
        let deadline = async {
            Timer::after(TARGET_TIME_MAX).await;
            Err(io::ErrorKind::TimedOut.into())
        };
        let target = future::or(Async::<TcpStream>::connect(self.target), deadline).await?;
        target.get_ref().set_nodelay(true)?;
        Ok(target)
    }
}
