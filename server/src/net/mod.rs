//! Sockets: everything between a byte stream and the node's events.
//!
//! - `client`: connections of clients, which ask and are answered.
//! - `peer`: connections of replicas. Each node dials every other and sends on what it dialled; on what it
//!   accepted it only listens.
//! - `stream`: one connection's bytes, in both directions, with their bounds.
//! - `reactor`: which sockets are ready.
//! - `guard`: who is connected, and who has to go.
//!
//! # Bounds
//!
//! Nothing is buffered for a connection that sends nothing; a frame's bytes are kept as they come, never
//! ahead of them. Before its hello a connection may send [`limits::HELLO_BYTES_MAX`] and has
//! [`HELLO_DEADLINE`]; a frame that has begun has [`FRAME_DEADLINE`]. Who does not read its answers is not
//! read from either beyond [`OUTPUT_BYTES_SOFT`], and closed when nothing moves for [`OUTPUT_DEADLINE`].

mod busy_poll;
pub(crate) mod client;
pub(crate) mod guard;
pub(crate) mod peer;
pub(crate) mod reactor;
pub(crate) mod stream;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs};
use std::time::Duration;

use quorate_protocol::limits;
use smol::Async;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// From accepting a connection to its whole hello.
pub(crate) const HELLO_DEADLINE: Duration = Duration::from_secs(5);

/// From a frame's first byte to its last.
pub(crate) const FRAME_DEADLINE: Duration = Duration::from_secs(10);

/// Without any progress of what is to be sent.
pub(crate) const OUTPUT_DEADLINE: Duration = Duration::from_secs(10);

/// Bytes of unsent answers above which a client is not read from.
pub(crate) const OUTPUT_BYTES_SOFT: usize = 1 << 20;

/// Bytes of unsent answers from which on a client's watches are told nothing, so that it is read from nevertheless.
pub(crate) const WATCH_OUTPUT_BYTES_MAX: usize = 256 << 10;

/// Bytes of unsent messages above which a link to a replica is given up: the core's window is far below.
pub(crate) const LINK_BYTES_MAX: usize = 64 << 20;

/// Connections that have not said hello, beyond which the oldest of them goes.
pub(crate) const STRANGERS_MAX: usize = 512;

/// A peer that vanished without a word is found out after this.
const SILENCE_MAX: Duration = Duration::from_secs(20);

/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;

const _: () = assert!(WATCH_OUTPUT_BYTES_MAX <= OUTPUT_BYTES_SOFT);
const _: () = assert!(OUTPUT_BYTES_SOFT < limits::RESPONSE_BYTES_MAX);

/// Listens on `HOST:PORT`, the first of its addresses.
pub(crate) fn listen(address: &str) -> io::Result<Async<TcpListener>> {
    let address = resolve(address)?;
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Async::new(socket.into())
}

/// The first address of `HOST:PORT`.
fn resolve(address: &str) -> io::Result<SocketAddr> {
    address
        .to_socket_addrs()?
        .next()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, format!("{address} has no address")))
}

/// What every connection of this project is set to: no delay, and dead peers are found out.
fn configure(stream: &TcpStream) -> io::Result<()> {
    let socket = SockRef::from(stream);
    socket.set_tcp_nodelay(true)?;
    socket
        .set_tcp_keepalive(&TcpKeepalive::new().with_time(SILENCE_MAX / 2).with_interval(SILENCE_MAX / 4))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(SILENCE_MAX))?;
    Ok(())
}
