//! Addresses that do not race: each cluster has a loopback address of its own.
//!
//! Ports picked as "free a moment ago" are taken by somebody else now and then, and a node that restarts
//! needs the one it had. So a cluster takes an address out of 127.0.0.0/8, all of which Linux serves on
//! loopback, and holds it by listening on a fixed port there; the ports of nodes and of the links between
//! them are fixed numbers below the range that outgoing connections draw theirs from.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::bail;
use socket2::{Domain, Socket, Type};

/// Held by the cluster itself.
const RESERVATION_PORT: u16 = 7400;

/// Node i takes clients at this port plus i.
const CLIENT_PORT_BASE: u16 = 7400;

/// Node i meets its peers at this port plus i.
const PEER_PORT_BASE: u16 = 7500;

/// Where node i dials node j through a proxy: this port plus [`LINK_PORTS_PER_NODE`] times i, plus j.
const LINK_PORT_BASE: u16 = 7600;

const LINK_PORTS_PER_NODE: u16 = 16;

/// The last port that a cluster may use.
const PORT_MAX: u16 = LINK_PORT_BASE + LINK_PORTS_PER_NODE * NODES_MAX + NODES_MAX;

const NODES_MAX: u16 = quorate_protocol::limits::REPLICAS_MAX as u16;

/// Addresses that are tried before giving up.
const ATTEMPTS: u32 = 100;

const _: () = assert!(CLIENT_PORT_BASE + NODES_MAX < PEER_PORT_BASE);
const _: () = assert!(PEER_PORT_BASE + NODES_MAX < LINK_PORT_BASE);
// No two links have the same port, and none is drawn for an outgoing connection.
const _: () = assert!(NODES_MAX < LINK_PORTS_PER_NODE && PORT_MAX < 32_768);

/// A loopback address that is ours until this is dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    address: Ipv4Addr,
    /// Nobody ever connects to it: it only holds the address.
    _listener: TcpListener,
}

impl Reservation {
    /// Takes an address on which the ports of `replicas` nodes are free.
    pub(crate) fn take(replicas: u8) -> anyhow::Result<Self> {
        let mut last = None;
        for _ in 0..ATTEMPTS {
            match Self::try_take(random_address(), replicas) {
                Ok(reservation) => return Ok(reservation),
                Err(error) => last = Some(error),
            }
        }
        let Some(error) = last else { bail!("no loopback address was tried") };
        bail!(
            "no loopback address is free for a cluster ({error}): stop whatever listens on all addresses at \
             ports {RESERVATION_PORT} to {PORT_MAX}"
        )
    }

    fn try_take(address: Ipv4Addr, replicas: u8) -> io::Result<Self> {
        let listener = TcpListener::bind((address, RESERVATION_PORT))?;
        let reservation = Self { address, _listener: listener };
        for node in 1..=replicas {
            check_free(reservation.client(node))?;
            check_free(reservation.peer(node))?;
            (1..=replicas).try_for_each(|peer| check_free(reservation.link(node, peer)))?;
        }
        Ok(reservation)
    }

    /// Where clients reach a node.
    pub(crate) fn client(&self, node: u8) -> SocketAddr {
        (self.address, CLIENT_PORT_BASE + u16::from(node)).into()
    }

    /// Where peers reach a node.
    pub(crate) fn peer(&self, node: u8) -> SocketAddr {
        (self.address, PEER_PORT_BASE + u16::from(node)).into()
    }

    /// Where one node dials another if a proxy is between them.
    pub(super) fn link(&self, from: u8, to: u8) -> SocketAddr {
        let port = LINK_PORT_BASE + LINK_PORTS_PER_NODE * u16::from(from) + u16::from(to);
        (self.address, port).into()
    }
}

/// Whether nobody listens there. It is bound and not listened on: a copy of a listening socket, in a child
/// that another thread has just forked, would keep the node that is to come from its port.
fn check_free(address: SocketAddr) -> io::Result<()> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())
}

/// Different for each process and each call; 127.0.x.x is left to people.
fn random_address() -> Ipv4Addr {
    static CALLS: AtomicU32 = AtomicU32::new(0);
    let call = (std::process::id(), CALLS.fetch_add(1, Ordering::Relaxed));
    let [a, b, c, ..] = RandomState::new().hash_one(call).to_le_bytes();
    Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn an_address_is_nobody_elses_while_it_is_held() {
        let first = Reservation::take(3).unwrap();
        assert!(Reservation::try_take(first.address, 3).is_err());
        let second = Reservation::take(3).unwrap();
        assert_ne!(first.address, second.address);
        let address = first.address;
        drop(first);
        // A child that another test has just forked may hold it for a moment.
        let deadline = Instant::now() + Duration::from_secs(10);
        while Reservation::try_take(address, 3).is_err() {
            assert!(Instant::now() < deadline, "{address} is still held");
            std::thread::yield_now();
        }
    }

    #[test]
    fn a_taken_port_is_seen() {
        let address = random_address();
        let _somebody = TcpListener::bind((address, PEER_PORT_BASE + 3)).unwrap();
        let reservation = Reservation::try_take(address, 2).unwrap();
        assert!(check_free(reservation.peer(3)).is_err());
        assert!(check_free(reservation.client(3)).is_ok());
    }

    #[test]
    fn every_port_of_the_largest_cluster_is_another() {
        let reservation = Reservation::take(15).unwrap();
        let mut taken = BTreeSet::from([RESERVATION_PORT]);
        for node in 1..=15 {
            let links = (1..=15).map(|peer| reservation.link(node, peer));
            for address in links.chain([reservation.client(node), reservation.peer(node)]) {
                assert!(taken.insert(address.port()) && address.port() <= PORT_MAX, "{address}");
            }
        }
    }

    #[test]
    fn addresses_are_loopback_and_leave_the_usual_one_alone() {
        for _ in 0..1000 {
            let address = random_address();
            assert!(address.is_loopback() && address.octets()[1] != 0, "{address}");
        }
    }
}
