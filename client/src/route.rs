//! Which server a call goes to: pure, fed with what servers say and with what connections tell.
//!
//! The servers that the caller has named come first, in their order; those that a server names are added behind them. A server that
//! was named by one address and is known by another ("localhost", a proxy) is kept as it was named.
//!
//! # Invariants
//!
//! - Positions never change: a server is added once and stays.
//! - A server that was lost gets no read, as long as another one can answer it, before it has shown that it is back: by a
//!   welcome, by an answer to a read that had nowhere else to go, or by one to the client's own [probe](Route::next_probe). No
//!   call of the application waits for one that hangs only to find that out.
//! - News of a server that calls do not go to any more changes nothing: many calls bring the same news.

use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_protocol::handshake::{HelloRefusal, NodeAddress, Welcome};
use quorate_protocol::{ClusterId, NodeId};

use crate::Error;

/// Servers that a client keeps.
const SERVERS_MAX: usize = 64;

/// How long a server's measured latency counts; and how long after it was lost, or was last asked, a server is asked
/// whether it is back.
const MEASURE_AGAIN: Duration = Duration::from_secs(5);

/// Which replica answers a read that any may. One that hangs, or cannot be reached, holds up the reads that find it out, and gets
/// none, as long as another can answer, before it has answered the client's own question whether it is back.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum ReadFrom {
    /// The one that has answered fastest.
    #[default]
    Nearest,
    /// One after the other.
    Spread,
}

#[derive(Debug)]
struct Server {
    address: Arc<str>,
    node: Option<NodeId>,
    /// Whether the caller has named it.
    is_named: bool,
    /// How long it took to answer, and when that was.
    latency: Option<(Duration, Instant)>,
    /// When it could last not be reached, or was asked since whether it is back; none once it has shown that it is.
    lost: Option<Instant>,
    /// Why it will not let the client in.
    refusal: Option<HelloRefusal>,
    /// It is another one by another address.
    is_duplicate: bool,
}

/// The servers, and what is known of them.
#[derive(Debug)]
pub(crate) struct Route {
    servers: Vec<Server>,
    /// The cluster that the first server was of: its sessions and tokens mean nothing in another.
    cluster: Option<ClusterId>,
    /// Whether reads may go to servers that the caller has not named.
    discovers: bool,
    leader: Option<usize>,
    /// Whom to try while no leader is known.
    cursor: usize,
    /// For [`ReadFrom::Spread`].
    next: usize,
}

impl Server {
    fn new(address: Arc<str>, node: Option<NodeId>) -> Self {
        let is_named = node.is_none();
        Self { address, node, is_named, latency: None, lost: None, refusal: None, is_duplicate: false }
    }

    fn is_lost(&self, now: Instant) -> bool {
        self.lost.is_some_and(|lost| now.saturating_duration_since(lost) < MEASURE_AGAIN)
    }

    /// Whether it may be asked where the leader is.
    fn is_usable(&self, now: Instant) -> bool {
        self.may_be_asked() && !self.is_lost(now)
    }

    fn may_be_asked(&self) -> bool {
        !self.is_duplicate && self.refusal.is_none()
    }
}

impl Route {
    /// At least one address.
    pub(crate) fn new(addresses: &[String], discovers: bool) -> Self {
        let mut route =
            Self { servers: Vec::new(), cluster: None, discovers, leader: None, cursor: 0, next: 0 };
        for address in addresses {
            if !route.servers.iter().any(|server| *server.address == **address) {
                route.servers.push(Server::new(address.as_str().into(), None));
            }
        }
        route
    }

    /// All addresses, by position.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = &Arc<str>> {
        self.servers.iter().map(|server| &server.address)
    }

    /// Where a call goes that only the leader can answer.
    pub(crate) fn for_leader(&self) -> usize {
        self.leader.unwrap_or(self.cursor)
    }

    /// Where a read goes that any replica may answer.
    pub(crate) fn for_read(&mut self, policy: ReadFrom, now: Instant) -> usize {
        match policy {
            ReadFrom::Nearest => self.nearest(now),
            ReadFrom::Spread => self.spread(),
        }
    }

    /// All servers that reads may go to now.
    pub(crate) fn readable(&self) -> impl Iterator<Item = usize> {
        (0..self.servers.len()).filter(|at| self.is_readable(&self.servers[*at]))
    }

    fn is_readable(&self, server: &Server) -> bool {
        self.is_for_reads(server) && server.may_be_asked() && server.lost.is_none()
    }

    /// A server that was lost a while ago and could answer reads: it is to be asked whether it is [back](Self::is_back).
    pub(crate) fn next_probe(&mut self, now: Instant) -> Option<usize> {
        let at = self.servers.iter().position(|server| {
            let was_lost = server.lost.is_some() && !server.is_lost(now);
            was_lost && server.may_be_asked() && self.is_for_reads(server)
        })?;
        self.servers[at].lost = Some(now);
        Some(at)
    }

    /// A server that was lost has answered.
    pub(crate) fn is_back(&mut self, at: usize) {
        self.servers[at].lost = None;
    }

    fn nearest(&mut self, now: Instant) -> usize {
        let is_stale = |server: &Server| {
            server.latency.is_none_or(|(_, at)| now.saturating_duration_since(at) >= MEASURE_AGAIN)
        };
        // Whoever was not measured, or long ago, gets one read, and no other before it has answered that.
        let stale = self.readable().find(|at| is_stale(&self.servers[*at]));
        if let Some(at) = stale {
            let latency = self.servers[at].latency.map_or(Duration::MAX, |(latency, _)| latency);
            self.servers[at].latency = Some((latency, now));
            return at;
        }
        let latency = |at: &usize| self.servers[*at].latency.map(|(latency, _)| latency);
        self.readable().min_by_key(latency).unwrap_or_else(|| self.last_resort())
    }

    fn spread(&mut self) -> usize {
        for _ in 0..self.servers.len() {
            let at = self.next % self.servers.len();
            self.next = at + 1;
            if self.is_readable(&self.servers[at]) {
                return at;
            }
        }
        self.last_resort()
    }

    fn is_for_reads(&self, server: &Server) -> bool {
        self.discovers || server.is_named
    }

    /// Where a read goes when none that may answer it can be reached: the one that was lost first.
    fn last_resort(&self) -> usize {
        let eligible =
            (0..).zip(&self.servers).filter(|(_, server)| self.is_for_reads(server) && !server.is_duplicate);
        eligible.min_by_key(|(_, server)| server.lost).map_or_else(|| self.for_leader(), |(at, _)| at)
    }

    /// A read was answered after so long.
    pub(crate) fn measured(&mut self, at: usize, took: Duration, now: Instant) {
        let server = &mut self.servers[at];
        let latency = match server.latency {
            Some((known, _)) if known != Duration::MAX => (known * 7 + took) / 8,
            _ => took,
        };
        server.latency = Some((latency, now));
        server.lost = None;
    }

    /// A server has let the client in. An error: it is of another cluster than those before.
    pub(crate) fn welcomed(&mut self, at: usize, welcome: &Welcome) -> Result<(), HelloRefusal> {
        if let Some(id) = welcome.cluster_id
            && *self.cluster.get_or_insert(id) != id
        {
            return Err(HelloRefusal::OtherFormation(id));
        }
        let server = &mut self.servers[at];
        (server.node, server.lost, server.refusal) = (Some(welcome.node), None, None);
        for other in self.servers.iter_mut().skip(at + 1) {
            other.is_duplicate |= other.node == Some(welcome.node);
        }
        let earlier = self.servers[..at].iter().any(|other| other.node == Some(welcome.node));
        self.servers[at].is_duplicate = earlier;
        for node in &welcome.nodes {
            self.find(node);
        }
        if self.leader.is_none()
            && let Some(hint) = &welcome.leader
        {
            self.leader = self.find(hint);
        }
        Ok(())
    }

    /// A server says that it does not lead, and perhaps who does. Says whether calls now go elsewhere.
    pub(crate) fn not_leader(&mut self, at: usize, hint: Option<&NodeAddress>) -> bool {
        if self.for_leader() != at {
            return true;
        }
        self.leader = hint.and_then(|hint| self.find(hint)).filter(|leader| *leader != at);
        if self.leader.is_none() {
            self.try_another(at);
        }
        self.for_leader() != at
    }

    /// A server cannot be reached, or says nothing; with its reason if it will not let the client in.
    pub(crate) fn lost(&mut self, at: usize, refusal: Option<&HelloRefusal>, now: Instant) {
        self.servers[at].refusal = refusal.cloned();
        self.avoid(at, now);
    }

    /// A server is of no use for now: calls go elsewhere.
    pub(crate) fn avoid(&mut self, at: usize, now: Instant) {
        self.servers[at].lost = Some(now);
        if self.for_leader() == at {
            self.leader = None;
            self.try_another(at);
        }
    }

    /// The error of a client that no server lets in.
    pub(crate) fn refused_by_all(&self) -> Option<Error> {
        let mut servers = self.servers.iter().filter(|server| !server.is_duplicate).rev();
        let last = servers.next()?;
        let refusal = last.refusal.clone()?;
        let all = servers.all(|server| server.refusal.is_some());
        all.then(|| Error::HelloRefused { server: last.address.clone(), refusal })
    }

    /// Goes on with the next server; one that is not lost, if there is one.
    fn try_another(&mut self, at: usize) {
        let now = Instant::now();
        let count = self.servers.len();
        let mut others =
            (1..=count).map(|step| (at + step) % count).filter(|at| !self.servers[*at].is_duplicate);
        self.cursor =
            others.clone().find(|at| self.servers[*at].is_usable(now)).or(others.next()).unwrap_or(at);
    }

    /// The position of a node, which is added if it is new and may be.
    fn find(&mut self, node: &NodeAddress) -> Option<usize> {
        let by_id = self.servers.iter().position(|server| server.node == Some(node.node));
        let known = by_id.or_else(|| self.servers.iter().position(|server| *server.address == *node.address));
        if let Some(at) = known {
            self.servers[at].node = Some(node.node);
            return Some(at);
        }
        if self.servers.len() >= SERVERS_MAX {
            return None;
        }
        self.servers.push(Server::new(node.address.as_str().into(), Some(node.node)));
        Some(self.servers.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use quorate_protocol::handshake::Limits;

    use super::*;

    fn node(id: u8) -> NodeAddress {
        NodeAddress { node: NodeId::try_from(id).unwrap(), address: format!("host{id}:7401") }
    }

    fn welcome(id: u8, leader: Option<u8>, nodes: &[u8]) -> Welcome {
        Welcome {
            version: 0,
            node: node(id).node,
            cluster: "test".into(),
            cluster_id: None,
            leader: leader.map(node),
            nodes: nodes.iter().map(|id| node(*id)).collect(),
            limits: Limits { key_bytes_max: 1, value_bytes_max: 1, request_bytes_max: 1, in_flight_max: 1 },
            replica: None,
        }
    }

    fn route(addresses: &[&str]) -> Route {
        Route::new(&addresses.iter().map(|address| (*address).to_owned()).collect::<Vec<_>>(), true)
    }

    fn address_of(route: &Route, at: usize) -> &str {
        &route.servers[at].address
    }

    #[test]
    fn the_nodes_that_a_server_names_are_found_and_its_leader_is_asked() {
        let mut route = route(&["host1:7401"]);
        route.welcomed(0, &welcome(1, Some(3), &[1, 2, 3])).unwrap();
        assert_eq!(route.addresses().count(), 3);
        assert_eq!(address_of(&route, route.for_leader()), "host3:7401");
    }

    #[test]
    fn a_server_that_was_named_otherwise_is_kept_as_it_was_named() {
        let mut route = route(&["proxy1:1", "proxy2:1"]);
        route.welcomed(1, &welcome(2, None, &[])).unwrap();
        route.welcomed(0, &welcome(1, Some(2), &[1, 2, 3])).unwrap();
        assert_eq!(address_of(&route, route.for_leader()), "proxy2:1");
        assert_eq!(route.addresses().count(), 3, "only node 3 is new");
    }

    #[test]
    fn many_calls_with_the_same_news_move_on_once() {
        let mut route = route(&["a:1", "b:1", "c:1"]);
        assert!(route.not_leader(0, None));
        assert!(route.not_leader(0, None), "that is no news of the one that is asked now");
        assert_eq!(route.for_leader(), 1);
    }

    #[test]
    fn a_leader_that_is_lost_is_left_for_one_that_is_not() {
        let mut route = route(&["a:1", "b:1", "c:1"]);
        route.lost(1, None, Instant::now());
        route.lost(0, None, Instant::now());
        assert_eq!(route.for_leader(), 2, "b is lost, too");
    }

    #[test]
    fn a_node_that_names_itself_is_asked_again_only_behind_the_others() {
        let mut route = route(&["host1:7401", "host2:7401"]);
        assert!(route.not_leader(0, Some(&node(1))));
        assert_eq!(route.for_leader(), 1);
    }

    #[test]
    fn reads_go_to_the_fastest_and_now_and_then_to_the_others() {
        let mut route = route(&["a:1", "b:1", "c:1"]);
        let now = Instant::now();
        let first: Vec<_> = (0..3).map(|_| route.for_read(ReadFrom::Nearest, now)).collect();
        assert_eq!(first, [0, 1, 2], "each is measured");
        for (at, ms) in [(0, 5), (1, 2), (2, 9)] {
            route.measured(at, Duration::from_millis(ms), now);
        }
        assert_eq!(route.for_read(ReadFrom::Nearest, now), 1);
        route.lost(1, None, now);
        assert_eq!(route.for_read(ReadFrom::Nearest, now), 0);
        let later = now + MEASURE_AGAIN;
        let again: Vec<_> = (0..3).map(|_| route.for_read(ReadFrom::Nearest, later)).collect();
        assert_eq!(again, [0, 2, 0], "each is measured again but the one that was lost");
    }

    #[test]
    fn a_server_that_was_lost_is_probed_now_and_then_and_gets_reads_when_it_is_back() {
        let mut route = route(&["a:1", "b:1"]);
        let lost = Instant::now();
        route.lost(0, None, lost);
        assert_eq!(route.next_probe(lost), None, "it has just been found out");
        let reads = |route: &mut Route, now| {
            [ReadFrom::Nearest, ReadFrom::Spread].map(|read_from| route.for_read(read_from, now))
        };
        for round in 1..3 {
            let now = lost + MEASURE_AGAIN * round;
            assert_eq!(route.next_probe(now), Some(0));
            assert_eq!(route.next_probe(now), None, "one at a time");
            assert_eq!(reads(&mut route, now), [1, 1]);
        }
        route.is_back(0);
        assert_eq!(reads(&mut route, lost + MEASURE_AGAIN * 2), [0, 0]);
        assert_eq!(route.next_probe(lost + MEASURE_AGAIN * 9), None);
    }

    #[test]
    fn reads_that_have_nowhere_else_to_go_show_that_a_server_is_back() {
        let mut route = route(&["a:1", "b:1"]);
        let now = Instant::now();
        route.lost(1, None, now);
        route.lost(0, None, now + MEASURE_AGAIN);
        for read_from in [ReadFrom::Nearest, ReadFrom::Spread] {
            assert_eq!(route.for_read(read_from, now), 1, "the one that was lost first");
        }
        route.measured(0, Duration::from_millis(1), now);
        assert_eq!(route.readable().collect::<Vec<_>>(), [0]);
    }

    #[test]
    fn without_discovery_only_the_leader_is_found() {
        let mut route = Route::new(&["host1:7401".to_owned()], false);
        route.welcomed(0, &welcome(1, Some(3), &[1, 2, 3])).unwrap();
        assert_eq!(address_of(&route, route.for_leader()), "host3:7401");
        let now = Instant::now();
        assert_eq!(route.for_read(ReadFrom::Nearest, now), 0);
        route.lost(0, None, now);
        assert_eq!(route.for_read(ReadFrom::Nearest, now), 0, "there is no other");
        assert_eq!(route.for_read(ReadFrom::Spread, now), 0);
    }

    #[test]
    fn a_server_of_another_cluster_of_the_same_name_is_refused() {
        let mut route = route(&["a:1", "b:1"]);
        let of = |id| Welcome { cluster_id: Some(ClusterId([id; 16])), ..welcome(id, None, &[]) };
        route.welcomed(0, &welcome(1, None, &[])).unwrap(); // It had not formed yet.
        route.welcomed(0, &of(1)).unwrap();
        assert_eq!(route.welcomed(1, &of(2)), Err(HelloRefusal::OtherFormation(ClusterId([2; 16]))));
    }

    #[test]
    fn spread_reads_go_round() {
        let mut route = route(&["a:1", "b:1", "c:1"]);
        let now = Instant::now();
        route.lost(1, None, now);
        let all: Vec<_> = (0..4).map(|_| route.for_read(ReadFrom::Spread, now)).collect();
        assert_eq!(all, [0, 2, 0, 2]);
    }

    #[test]
    fn a_client_that_nobody_lets_in_is_told_why() {
        let mut route = route(&["a:1", "b:1"]);
        let refusal = HelloRefusal::OtherCluster("other".into());
        route.lost(0, Some(&refusal), Instant::now());
        assert_eq!(route.refused_by_all(), None);
        route.lost(1, Some(&refusal), Instant::now());
        assert_eq!(route.refused_by_all(), Some(Error::HelloRefused { server: "b:1".into(), refusal }));
    }
}
