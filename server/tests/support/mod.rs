//! Real server processes on loopback addresses of their own, and connections to them byte by byte.
#![allow(dead_code)] // each test program uses a part

pub(crate) mod faulty_disk;

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use quorate_client::{Client, NodeStatus};
use quorate_protocol::handshake::{Hello, ReplicaIdentity, Reply, Role};
use quorate_protocol::request::{Operation, Request};
use quorate_protocol::{frame, limits};
use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tempfile::TempDir;

/// After this long something that must happen has not happened.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Shorter than every deadline of the server: what happens within it did not wait for one.
pub(crate) const AT_ONCE: Duration = Duration::from_secs(4);

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_quorate-server");

/// Asks again until the answer is there.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// A command without the settings of the caller's environment.
pub(crate) fn command(program: &str) -> Command {
    let mut command = Command::new(program);
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"QUORATE_") {
            command.env_remove(variable);
        }
    }
    command.env_remove("RUST_LOG").stdin(Stdio::null());
    command
}

/// A server process; killed when dropped.
pub(crate) struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    pub(crate) fn start(mut command: Command, log: &Path) -> Self {
        let child = command.stderr(File::create(log).unwrap()).stdout(Stdio::null()).spawn().unwrap();
        Self { child, log: log.to_owned() }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// What it has printed so far.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Stops its clock. The signal is only a request: this waits until the kernel has done it.
    pub(crate) fn pause(&self) {
        self.signal(Signal::STOP);
        let file = format!("/proc/{}/stat", self.id());
        wait_for("a stopped process", || fs::read_to_string(&file).unwrap().contains(") T ").then_some(()));
    }

    pub(crate) fn wait_end(&mut self) -> ExitStatus {
        wait_for("the end of the process", || self.child.try_wait().unwrap())
    }

    pub(crate) fn assert_running(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "the server ended: {ended:?}\n{}", self.log());
    }

    /// The client address that it has announced.
    pub(crate) fn announced_address(&mut self) -> SocketAddr {
        wait_for("the address in the log", || {
            self.assert_running();
            let log = self.log();
            let (_, rest) = log.split_once("clients at ")?;
            rest.split_once(',')?.0.parse().ok()
        })
    }

    /// Bytes in memory, and bytes of private memory asked for, touched or not.
    pub(crate) fn memory(&self) -> Memory {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let kib = |name: &str| -> u64 {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        Memory { resident: kib("VmRSS:") << 10, asked_for: kib("VmData:") << 10 }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    pub(crate) asked_for: u64,
}

impl Memory {
    pub(crate) fn assert_grown_less_than(self, mib: u64, after: Memory) {
        let bound = mib << 20;
        let is_flat = after.resident < self.resident + bound && after.asked_for < self.asked_for + bound;
        assert!(is_flat, "memory grew by {mib} MiB or more: from {self:?} to {after:?}");
    }
}

/// A loopback address with fixed ports that is ours until this is dropped.
pub(crate) struct Addresses {
    address: Ipv4Addr,
    _reservation: TcpListener,
}

impl Addresses {
    pub(crate) fn take() -> Self {
        wait_for("a free loopback address", || {
            let [a, b, c, ..] = RandomState::new().hash_one(std::process::id()).to_le_bytes();
            let address = Ipv4Addr::new(127, a.clamp(1, 254), b, c.clamp(1, 254));
            let _reservation = TcpListener::bind((address, 7400)).ok()?;
            Some(Self { address, _reservation })
        })
    }

    pub(crate) fn client(&self, node: u8) -> SocketAddr {
        (self.address, 7400 + u16::from(node)).into()
    }

    pub(crate) fn peer(&self, node: u8) -> SocketAddr {
        (self.address, 7500 + u16::from(node)).into()
    }
}

/// Three replicas of which two make a quorum, the first being the leader; not all need to be real.
pub(crate) struct Cluster {
    pub(crate) servers: Vec<Server>,
    pub(crate) addresses: Addresses,
    pub(crate) directory: TempDir,
}

impl Cluster {
    /// Starts nodes 1 to `real` of three.
    pub(crate) fn start(real: u8) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut cluster = Self { servers: Vec::new(), addresses: Addresses::take(), directory };
        for node in 1..=real {
            let mut command = command(PROGRAM);
            command.args(cluster.arguments(node));
            let log = cluster.directory.path().join(format!("node-{node}.log"));
            cluster.servers.push(Server::start(command, &log));
        }
        cluster
    }

    /// All three, ready.
    pub(crate) fn ready() -> Self {
        let mut cluster = Self::start(3);
        cluster.wait_ready();
        cluster
    }

    pub(crate) fn arguments(&self, node: u8) -> Vec<String> {
        let data = self.directory.path().join(format!("node-{node}")).display().to_string();
        let listen = self.addresses.client(node).to_string();
        let mut arguments: Vec<String> =
            ["--quorum", "2", "--leader", "1", "--cluster", "hostile"].map(str::to_owned).into();
        arguments.extend(["--id".into(), node.to_string(), "--data".into(), data, "--listen".into(), listen]);
        for replica in 1..=3 {
            arguments.push("--replica".into());
            arguments.push(format!("{replica}={}", self.addresses.peer(replica)));
        }
        arguments
    }

    pub(crate) fn server(&mut self, node: u8) -> &mut Server {
        &mut self.servers[usize::from(node) - 1]
    }

    pub(crate) fn wait_ready(&mut self) {
        let client = self.client();
        wait_for("a write", || {
            self.servers.iter_mut().for_each(Server::assert_running);
            smol::block_on(client.set("ready", "x")).ok()
        });
    }

    /// A well-behaved client of the leader.
    pub(crate) fn client(&self) -> Client {
        client(self.addresses.client(1))
    }

    pub(crate) fn status(&self, node: u8) -> NodeStatus {
        smol::block_on(client(self.addresses.client(node)).status(false)).unwrap()
    }

    /// The cluster goes on: an honest client is served, and no process has ended.
    pub(crate) fn assert_serves(&mut self) {
        assert_serves(&self.client());
        self.servers.iter_mut().for_each(Server::assert_running);
    }
}

/// A client that is patient enough for a slow disk, and not for a server's deadlines. It asks once: what a server answers
/// to a try is what is tested.
pub(crate) fn client(address: SocketAddr) -> Client {
    Client::builder()
        .servers([address.to_string()])
        .discover(false)
        .exactly_once(false)
        .deadline(AT_ONCE)
        .connect()
        .unwrap()
}

pub(crate) fn assert_serves(client: &Client) {
    smol::block_on(async {
        let written = client.set("honest", "value").await.unwrap();
        let read = client.get("honest").await.unwrap().value.unwrap();
        assert_eq!((read.value.as_slice(), read.revision), (&b"value"[..], written.revision()));
    });
}

/// A connection over which anything can be sent. Waits at most [`AT_ONCE`] for an answer.
pub(crate) struct Raw {
    pub(crate) socket: TcpStream,
    received: Vec<u8>,
}

impl Raw {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        Self::over(TcpStream::connect(address).unwrap())
    }

    /// None if nobody listens there yet.
    pub(crate) fn try_connect(address: SocketAddr) -> Option<Self> {
        TcpStream::connect(address).ok().map(Self::over)
    }

    pub(crate) fn over(socket: TcpStream) -> Self {
        socket.set_nodelay(true).unwrap();
        socket.set_read_timeout(Some(AT_ONCE)).unwrap();
        socket.set_write_timeout(Some(AT_ONCE)).unwrap();
        Self { socket, received: Vec::new() }
    }

    /// A connection that has been welcomed as a client's.
    pub(crate) fn client(address: SocketAddr) -> Self {
        let mut raw = Self::connect(address);
        raw.send(&hello("", Role::Client));
        assert!(matches!(raw.message(), Reply::Welcome(_)));
        raw
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) {
        self.socket.write_all(bytes).unwrap();
    }

    /// Sends although the server may have closed the connection.
    pub(crate) fn try_send(&mut self, bytes: &[u8]) {
        let _ = self.socket.write_all(bytes);
    }

    /// The next frame's body; none at the end of the connection.
    pub(crate) fn body(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(frame) = frame::decode(&self.received, limits::PEER_BYTES_MAX).unwrap() {
                let (body, bytes) = (frame.body.to_vec(), frame.bytes);
                self.received.drain(..bytes);
                return Some(body);
            }
            let mut buffer = [0; 64 << 10];
            match self.socket.read(&mut buffer) {
                Ok(0) => return None,
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("neither an answer nor a close at once: {error}"),
            }
        }
    }

    pub(crate) fn message<T: DeserializeOwned>(&mut self) -> T {
        let body = self.body().expect("an answer, but the connection was closed");
        quorate_protocol::parse_prefix(&body).unwrap()
    }

    pub(crate) fn assert_closed(&mut self) {
        let more = self.body();
        assert!(more.is_none(), "the connection goes on: {more:?}");
    }
}

pub(crate) fn hello(cluster: &str, role: Role) -> Vec<u8> {
    let mut bytes = Vec::new();
    Hello { cluster, authentication: &[], role }.encode(&mut bytes);
    bytes
}

pub(crate) fn replica_hello(cluster: &str, identity: &ReplicaIdentity) -> Vec<u8> {
    hello(cluster, Role::Replica(identity.clone()))
}

pub(crate) fn request(id: u64, operation: Operation<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    frame::encode(&Request { id, deadline_ms: 0, operation }, &mut bytes);
    bytes
}

/// Any body in a frame whose length and checksum are right.
pub(crate) fn framed(body: &[u8]) -> Vec<u8> {
    let mut bytes = (body.len() as u32).to_le_bytes().to_vec();
    bytes.extend_from_slice(&crc32c::crc32c(body).to_le_bytes());
    bytes.extend_from_slice(body);
    bytes
}

/// The beginning of a frame that claims so many bytes.
pub(crate) fn claim(bytes: u32) -> Vec<u8> {
    [bytes.to_le_bytes(), [0; 4]].concat()
}
