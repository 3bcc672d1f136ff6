//! A second process with the number of a node that runs: it disturbs nobody, and gets in when the first has gone.

mod support;

use std::path::Path;

use quorate_client::Client;
use quorate_protocol::response::Role;
use rustix::process::Signal;
use support::{AT_ONCE, Addresses, PROGRAM, Server, command, wait_for};

/// Clients' and peers' port of the second process are those of a node that there is not.
const ELSEWHERE: u8 = 9;

/// Writes that are asked for while the second process tries to get in.
const WRITES: usize = 500;

/// Three nodes of which two make a quorum, and which elect their leader.
struct Scene {
    addresses: Addresses,
    servers: Vec<Server>,
    directory: tempfile::TempDir,
}

impl Scene {
    fn start() -> Self {
        let (addresses, directory) = (Addresses::take(), tempfile::tempdir().unwrap());
        let mut scene = Self { addresses, servers: Vec::new(), directory };
        scene.servers = (1..=3).map(|id| scene.start_as(id, id, &format!("node-{id}"))).collect();
        scene
    }

    /// A process with a node's number, at the addresses of another or its own.
    fn start_as(&self, id: u8, at: u8, name: &str) -> Server {
        let directory: &Path = self.directory.path();
        let mut command = command(PROGRAM);
        command.args(["--id", &id.to_string(), "--quorum", "2"]);
        command.args(["--listen", &self.addresses.client(at).to_string()]);
        command.arg("--data").arg(directory.join(name));
        for node in 1..=3 {
            let peer = self.addresses.peer(if node == id { at } else { node });
            command.args(["--replica", &format!("{node}={peer}")]);
        }
        Server::start(command, &directory.join(format!("{name}.log")))
    }

    fn client(&self, nodes: &[u8]) -> Client {
        let servers = nodes.iter().map(|node| self.addresses.client(*node).to_string());
        Client::builder().servers(servers).discover(false).deadline(AT_ONCE).connect().unwrap()
    }

    fn leads(&self, node: u8) -> bool {
        let status = smol::block_on(self.client(&[node]).status(false));
        status.is_ok_and(|status| status.view().role == Role::Leader)
    }

    fn server(&mut self, node: u8) -> &mut Server {
        &mut self.servers[usize::from(node) - 1]
    }

    /// (its term, how often a node has stopped to lead or lost a link)
    fn upheavals(&self, leader: u8) -> (u64, usize) {
        let status = smol::block_on(self.client(&[leader]).status(false)).unwrap();
        let lost = |server: &Server| {
            let log = server.log();
            log.matches("lost the link").count() + log.matches("leads no longer").count()
        };
        (status.view().term, self.servers.iter().map(lost).sum())
    }
}

#[test]
fn a_second_process_with_the_leaders_number_is_refused_until_the_leader_has_gone() {
    let mut scene = Scene::start();
    let all = scene.client(&[1, 2, 3]);
    wait_for("a write", || smol::block_on(all.set("ready", "x")).ok());
    let leader = wait_for("a leader", || (1..=3).find(|node| scene.leads(*node)));
    let others: Vec<u8> = (1..=3).filter(|node| *node != leader).collect();
    wait_for("all links", || {
        let connected = |server: &Server| server.log().matches("connected to a replica").count() == 2;
        scene.servers.iter().all(connected).then_some(())
    });
    let before = scene.upheavals(leader);

    let second = scene.start_as(leader, ELSEWHERE, "second");
    let refused = format!("two processes are node {leader}: the one that clients reach at {}", {
        scene.addresses.client(leader)
    });
    let refusals = |server: &Server| server.log().matches(&refused).count();
    // Each of the writes is taken as it is asked for, before, while and after it is refused.
    let to_leader = scene.client(&[leader]);
    let write = || {
        smol::block_on(to_leader.set("key", "value")).unwrap();
    };
    wait_for("both refusals", || {
        write();
        (refusals(&second) == 2).then_some(())
    });
    (0..WRITES).for_each(|_| write());
    assert_eq!(scene.upheavals(leader), before, "nobody lost a link or the lead");
    for node in &others {
        assert_eq!(refusals(scene.server(*node)), 1, "once, and not for each attempt");
    }

    scene.server(leader).signal(Signal::KILL);
    scene.server(leader).wait_end();
    let joins = format!("formed with another data directory of node {leader}");
    wait_for("the second to get in", || second.log().contains(&joins).then_some(()));
    let rest = scene.client(&others);
    wait_for("a write of the others", || smol::block_on(rest.set("key", "value")).ok());
}
