//! The event loop around a node: sockets and threads joined to its events and its [`Outside`].
//!
//! One thread runs everything here. Connection tasks hand what they read to the node at once and wake the
//! turn; the turn runs when every task that was ready has had its say, so one turn ends many requests. What
//! threads have to say (log, checkpoint, reads) comes through the [`Inbox`], with one wake for any number.
//!
//! # Invariants
//!
//! - Nothing is awaited while the node or the world is borrowed.
//! - Bytes leave at the end of a turn, one send for each connection that has some; what another replica waits for
//!   leaves at once.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use event_listener::Event as Signal;
use quorate_protocol::handshake::{HelloRefusal, ReplicaIdentity, Welcome};
use quorate_protocol::peer::{Append, PeerMessage};
use quorate_protocol::response::Response;
use quorate_protocol::{Durability, Index, Member, NodeId, Term, frame};

use crate::checkpoint::{Block, CheckpointError, CheckpointEvent, CheckpointHeader, CheckpointThread};
use crate::clock::Clock;
use crate::directory::{self, DirectoryError, DirectoryLock, Identity, VoteFile};
use crate::disk::Disk;
use crate::log::{LogCommand, LogEvent, LogReader, LogThread, ReadError, Stopped};
use crate::net::client::ClientLink;
use crate::net::guard::Guard;
use crate::net::reactor::Reactor;
use crate::net::stream::{Stream, shared_buffer};
use crate::net::{LINK_BYTES_MAX, WATCH_OUTPUT_BYTES_MAX};
use crate::node::{
    ClientId, Event, Node, NodeError, NodeSettings, Outside, TransferCommand, TransferEvent, TransferWorker,
};
use crate::replica::{LogRead, Membership, Promise, Time};
use crate::store::Store;

/// How often time passes for a node: the resolution of its deadlines.
pub(crate) const TICK: Duration = Duration::from_millis(5);

/// How often connections are looked through for missed deadlines.
const SWEEP_TICKS: u64 = 50;

/// How long a stopping node waits for the writes that it has appended.
const DRAIN_DEADLINE: Duration = Duration::from_secs(1);

/// How long a stopping node waits for its disk, unless a running one waits less.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

/// What comes from other threads.
enum Arrival {
    Log(LogEvent),
    LogRead { to: NodeId, read: LogRead },
    Transfer(TransferEvent),
    Checkpoint(CheckpointEvent),
}

/// Where other threads leave what they have to say, and the loop's wake-up.
#[derive(Default)]
pub(crate) struct Inbox {
    arrivals: Mutex<Vec<Arrival>>,
    is_awake: AtomicBool,
    wake: Signal,
}

impl Inbox {
    /// Leaves what a log thread reports.
    pub(crate) fn log(&self, event: LogEvent) {
        self.push(Arrival::Log(event));
    }

    fn push(&self, arrival: Arrival) {
        self.arrivals.lock().expect("nobody panics while holding it").push(arrival);
        self.wake();
    }

    fn wake(&self) {
        if !self.is_awake.swap(true, Ordering::AcqRel) {
            self.wake.notify(1);
        }
    }

    async fn woken(&self) {
        while !self.is_awake.swap(false, Ordering::AcqRel) {
            let wake = self.wake.listen();
            if !self.is_awake.load(Ordering::Acquire) {
                wake.await;
            }
        }
    }

    fn take(&self, into: &mut Vec<Arrival>) {
        std::mem::swap(into, &mut self.arrivals.lock().expect("nobody panics while holding it"));
    }
}

/// How long a node that is to stop waits for its disk.
pub(crate) fn stop_deadline(settings: &NodeSettings) -> Duration {
    STOP_DEADLINE.min(settings.disk_timeout)
}

/// Where a node's promises, identity and checkpoints go.
pub(crate) struct Places {
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) directory: PathBuf,
    pub(crate) durability: Durability,
    /// None while it is written, and for good if the disk never answers.
    pub(crate) vote: Option<VoteFile>,
    pub(crate) log: LogThread,
    /// Dropped after the log thread has ended: the directory is another process's only then.
    pub(crate) lock: Option<DirectoryLock>,
    pub(crate) reader: LogReader,
    pub(crate) checkpoint_bytes_per_second: u64,
    /// How long the disk may take for anything.
    pub(crate) disk_timeout: Duration,
    /// How long it may take in the end.
    pub(crate) stop_deadline: Duration,
}

impl Places {
    /// Waits for nothing that the disk may never answer, and keeps the lock for as long as the process lives.
    fn abandon(&mut self) {
        self.log.abandon();
        std::mem::forget(self.lock.take());
    }

    fn store_vote(
        &mut self,
        what: &'static str,
        store: impl FnOnce(&mut VoteFile) -> Result<(), DirectoryError> + Send + 'static,
    ) -> Result<(), DirectoryError> {
        let mut vote = self.vote.take().expect("after a disk that did not answer nothing is stored");
        let (vote, stored) = self.store(what, move || {
            let stored = store(&mut vote);
            (vote, stored)
        })?;
        self.vote = Some(vote);
        stored
    }

    /// Has something stored by another thread, and waits for it. A disk that hangs would otherwise stop the loop for
    /// good, where nothing notices it.
    fn store<T: Send + 'static>(
        &mut self,
        what: &'static str,
        store: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, DirectoryError> {
        let path = self.directory.clone();
        let failed = |source| DirectoryError::Io { doing: what, path: path.clone(), source };
        let (sender, receiver) = mpsc::sync_channel(1);
        let work = move || {
            // Nobody listens any more if it took too long.
            let _ = sender.send(store());
        };
        thread::Builder::new().name("store".to_owned()).spawn(work).map_err(failed)?;
        receiver.recv_timeout(self.disk_timeout).map_err(|_| {
            self.abandon();
            let seconds = self.disk_timeout.as_secs_f32();
            failed(io::Error::other(format!("the disk has not answered for {seconds} s")))
        })
    }
}

/// The world, as far as a node acts on it.
struct World {
    /// When the turn began.
    now: Time,
    places: Places,
    inbox: Arc<Inbox>,
    clients: HashMap<ClientId, Rc<ClientLink>>,
    touched: Vec<Rc<ClientLink>>,
    peers: BTreeMap<NodeId, Rc<Stream>>,
    accepted: BTreeMap<NodeId, Rc<Stream>>,
    checkpoint: Option<CheckpointThread>,
    transfers: Arc<TransferWorker>,
}

/// The loop's state, shared by its tasks.
pub(crate) struct Shell {
    node: RefCell<Node>,
    world: RefCell<World>,
    inbox: Arc<Inbox>,
    clock: Clock,
    pub(crate) reactor: Rc<Reactor>,
    pub(crate) guard: Rc<Guard>,
    pub(crate) buffer: Rc<RefCell<Box<[u8]>>>,
    in_flight_max: u32,
}

impl Shell {
    pub(crate) fn new(
        node: Node,
        places: Places,
        inbox: Arc<Inbox>,
        reactor: Rc<Reactor>,
        connections_max: usize,
        in_flight_max: u32,
    ) -> Rc<Self> {
        let transfers = TransferWorker::new(places.disk.clone(), places.directory.join("checkpoint"));
        let world = World {
            now: Time::ZERO,
            places,
            transfers: Arc::new(transfers),
            inbox: inbox.clone(),
            clients: HashMap::new(),
            touched: Vec::new(),
            peers: BTreeMap::new(),
            accepted: BTreeMap::new(),
            checkpoint: None,
        };
        Rc::new(Self {
            node: RefCell::new(node),
            world: RefCell::new(world),
            inbox,
            clock: Clock::start(),
            reactor,
            guard: Rc::new(Guard::new(connections_max)),
            buffer: shared_buffer(),
            in_flight_max,
        })
    }

    /// Ends turns until the node must stop.
    pub(crate) async fn run_turns(&self) -> NodeError {
        let mut arrivals = Vec::new();
        // The first turn is the node's own: a leader begins its term.
        self.wake();
        loop {
            self.inbox.woken().await;
            self.inbox.take(&mut arrivals);
            for arrival in arrivals.drain(..) {
                self.handle_arrival(arrival);
            }
            let now = self.now();
            let mut world = self.world.borrow_mut();
            world.now = now;
            let result = self.node.borrow_mut().finish_turn(now, &mut *world);
            world.flush();
            if let Err(error) = result {
                if matches!(error, NodeError::DiskTimeout(_)) {
                    world.places.abandon();
                }
                return error;
            }
        }
    }

    /// Lets time pass. Never ends.
    pub(crate) async fn tick(&self) {
        let mut ticks: u64 = 0;
        loop {
            self.reactor.sleep(TICK).await;
            ticks += 1;
            self.handle(Event::Tick);
            self.wake();
            if ticks.is_multiple_of(SWEEP_TICKS) {
                self.guard.sweep(self.now());
            }
        }
    }

    /// Takes no more requests, and waits until those appended are answered, or long enough.
    pub(crate) async fn drain(&self) {
        let deadline = self.now() + DRAIN_DEADLINE;
        self.node.borrow_mut().stop(self.now());
        self.wake();
        while self.node.borrow().is_busy() && self.now() < deadline {
            self.reactor.sleep(TICK).await;
        }
    }

    /// Ends the node's threads after a failure. Those that the disk does not answer are left to themselves.
    pub(crate) fn abort(&self) {
        self.world.borrow_mut().end_threads();
    }

    /// Ends the node's threads once there are no turns any more. The directory then says that the node was stopped,
    /// if all that it has written is on the disk.
    pub(crate) fn stop(&self) -> Result<(), NodeError> {
        let stopped = self.world.borrow_mut().end_threads();
        if stopped == Stopped::Hung {
            return Err(NodeError::DiskTimeout(self.world.borrow().places.stop_deadline));
        }
        if stopped == Stopped::Unfinished {
            let mut arrivals = Vec::new();
            self.inbox.take(&mut arrivals);
            arrivals.into_iter().for_each(|arrival| self.handle_arrival(arrival));
            return self.node.borrow_mut().finish_turn(self.now(), &mut *self.world.borrow_mut());
        }
        let Places { disk, directory, durability, .. } = &self.world.borrow().places;
        match durability {
            Durability::Os => Ok(directory::end_run(&**disk, directory)?),
            Durability::Fsync => Ok(()), // It is not said while it runs either.
        }
    }

    /// Hands an event to the node. What it brings about happens in the next turn: see [`Shell::wake`].
    pub(crate) fn handle(&self, event: Event<'_>) {
        self.handle_at(self.now(), event);
    }

    /// The same, with the clock already read.
    pub(crate) fn handle_at(&self, now: Time, event: Event<'_>) {
        self.node.borrow_mut().handle(now, event, &mut *self.world.borrow_mut());
    }

    /// Makes the turn run when the tasks that are ready now have run.
    pub(crate) fn wake(&self) {
        self.inbox.wake();
    }

    /// Monotonic time since the loop's beginning, in which the machine may have been suspended.
    pub(crate) fn now(&self) -> Time {
        self.clock.elapsed()
    }

    pub(crate) fn in_flight_max(&self) -> u32 {
        self.in_flight_max
    }

    pub(crate) fn cluster(&self) -> String {
        self.node.borrow().cluster().to_owned()
    }

    pub(crate) fn introduction(&self) -> ReplicaIdentity {
        self.node.borrow().introduction()
    }

    /// Welcomes a client that asked for a cluster, or for any with an empty name.
    pub(crate) fn welcome_client(&self, cluster: &str) -> Result<Welcome, HelloRefusal> {
        let node = self.node.borrow();
        if node.is_stopping() {
            return Err(HelloRefusal::Stopping);
        }
        if !cluster.is_empty() && cluster != node.cluster() {
            return Err(HelloRefusal::OtherCluster(node.cluster().to_owned()));
        }
        Ok(node.welcome(false))
    }

    pub(crate) fn welcome_replica(&self) -> Welcome {
        self.node.borrow().welcome(true)
    }

    pub(crate) fn meet(&self, peer: &ReplicaIdentity) -> Result<(), HelloRefusal> {
        let result = self.node.borrow_mut().meet(peer, &mut *self.world.borrow_mut());
        self.wake();
        result
    }

    pub(crate) fn add_client(&self, client: ClientId, link: Rc<ClientLink>) {
        self.world.borrow_mut().clients.insert(client, link);
    }

    pub(crate) fn remove_client(&self, client: ClientId) {
        self.world.borrow_mut().clients.remove(&client);
        self.handle(Event::ClientClosed(client));
    }

    /// Has a client's answers sent at the end of the turn.
    pub(crate) fn touch(&self, client: ClientId) {
        self.world.borrow_mut().touch(client);
    }

    pub(crate) fn add_peer(&self, member: Member, stream: Rc<Stream>) {
        self.world.borrow_mut().peers.insert(member.node, stream);
        self.handle(Event::Connected(member));
        self.wake();
    }

    pub(crate) fn remove_peer(&self, node: NodeId) {
        if let Some(stream) = self.world.borrow_mut().peers.remove(&node) {
            stream.close();
        }
        self.handle(Event::Disconnected(node));
        self.wake();
    }

    /// A replica has a new link to us: the old one goes.
    pub(crate) fn accepted_from(&self, member: Member, stream: &Rc<Stream>) {
        if let Some(old) = self.world.borrow_mut().accepted.insert(member.node, stream.clone()) {
            old.close();
        }
        self.handle(Event::Accepted(member));
    }

    /// A replica's link to us has ended, if it is still the one that counts.
    pub(crate) fn accepted_ended(&self, node: NodeId, stream: &Rc<Stream>) {
        let mut world = self.world.borrow_mut();
        if world.accepted.get(&node).is_some_and(|current| Rc::ptr_eq(current, stream)) {
            world.accepted.remove(&node);
            drop(world);
            self.handle(Event::Closed(node));
        }
    }

    fn handle_arrival(&self, arrival: Arrival) {
        match arrival {
            Arrival::Log(event) => self.handle(Event::Log(event)),
            Arrival::LogRead { to, read } => self.handle(Event::LogRead { to, read }),
            Arrival::Transfer(event) => self.handle(Event::Transfer(event)),
            Arrival::Checkpoint(CheckpointEvent::WantsBlock) => {
                while self.world.borrow().checkpoint.as_ref().is_some_and(CheckpointThread::wants_block) {
                    self.handle(Event::Checkpoint(CheckpointEvent::WantsBlock));
                }
            }
            Arrival::Checkpoint(last) => {
                self.handle(Event::Checkpoint(last));
                self.world.borrow_mut().checkpoint = None;
            }
        }
    }
}

impl World {
    /// Ends checkpoint and log; waits for the disk, but not for long.
    fn end_threads(&mut self) -> Stopped {
        let deadline = Instant::now() + self.places.stop_deadline;
        let left = || deadline.saturating_duration_since(Instant::now());
        let stopped = self.places.log.stop(left());
        let is_given_up = self.checkpoint.take().is_none_or(|checkpoint| checkpoint.give_up(left()));
        if stopped == Stopped::Hung || !is_given_up || !self.transfers.stop(left()) {
            self.places.abandon();
            return Stopped::Hung;
        }
        stopped
    }

    fn touch(&mut self, client: ClientId) {
        if let Some(link) = self.clients.get(&client)
            && !link.is_touched.replace(true)
        {
            self.touched.push(link.clone());
        }
    }

    /// Sends what is left. Clients come first: whoever is sent something may take this core at once, and an idle
    /// follower has a batch to apply then, for which nobody waits.
    fn flush(&mut self) {
        for link in self.touched.drain(..) {
            link.is_touched.set(false);
            link.stream.flush(self.now);
        }
        for stream in self.peers.values() {
            stream.flush(self.now);
        }
    }
}

impl Outside for World {
    fn send(&mut self, to: NodeId, message: &PeerMessage<'_>) {
        let Some(stream) = self.peers.get(&to) else { return };
        stream.push(|out| frame::encode(message, out));
        if stream.waiting() > LINK_BYTES_MAX {
            stream.close();
        }
        // What somebody waits for goes before the node applies what is committed; a mere commit index can wait.
        if !matches!(message, PeerMessage::Append(Append { entries: [], round: 0, .. })) {
            stream.flush(self.now);
        }
    }

    fn respond(&mut self, to: ClientId, response: &Response<'_>) {
        if let Some(link) = self.clients.get(&to) {
            link.answer(response);
            if !link.is_touched.replace(true) {
                self.touched.push(link.clone());
            }
        }
    }

    fn has_room(&self, client: ClientId) -> bool {
        self.clients.get(&client).is_some_and(|link| link.stream.waiting() < WATCH_OUTPUT_BYTES_MAX)
    }

    fn log(&mut self, command: LogCommand) {
        self.places.log.submit(command);
    }

    fn read_log(&mut self, to: NodeId, from: Index, bytes_max: usize) {
        let (reader, inbox) = (self.places.reader.clone(), self.inbox.clone());
        smol::unblock(move || {
            let read = match reader.read(from, bytes_max) {
                Ok(entries) => LogRead::Entries(entries),
                Err(ReadError::Gone { .. }) => LogRead::Dropped,
                Err(error) => {
                    tracing::error!(%to, from, "the log cannot be read for a follower: {error}");
                    LogRead::Unreadable
                }
            };
            inbox.push(Arrival::LogRead { to, read });
        })
        .detach();
    }

    fn transfer(&mut self, command: TransferCommand) {
        let (worker, inbox) = (self.transfers.clone(), self.inbox.clone());
        let given_up = match command {
            TransferCommand::InstallPart { .. } => self.checkpoint.take(),
            _ => None,
        };
        smol::unblock(move || {
            drop(given_up); // Waits for its thread.
            if let Some(event) = worker.carry_out(command) {
                inbox.push(Arrival::Transfer(event));
            }
        })
        .detach();
    }

    fn discard(&mut self, store: Store) {
        smol::unblock(move || drop(store)).detach();
    }

    fn store_promise(&mut self, promise: Promise) -> Result<(), DirectoryError> {
        self.places.store_vote("store a promise in", move |vote| vote.store(promise))
    }

    fn store_led(&mut self) -> Result<(), DirectoryError> {
        self.places.store_vote("note the leadership in", VoteFile::store_led)
    }

    fn store_held(&mut self, held: Option<(Term, Index)>) -> Result<(), DirectoryError> {
        let Places { disk, directory, .. } = &self.places;
        let (disk, directory) = (disk.clone(), directory.clone());
        let store = move || directory::store_held(&*disk, &directory, held);
        self.places.store("store how far the log went in", store)?
    }

    fn store_members(&mut self, members: &Membership) -> Result<(), DirectoryError> {
        let Places { disk, directory, .. } = &self.places;
        let (members, disk, directory) = (members.clone(), disk.clone(), directory.clone());
        let store = move || directory::store_members(&*disk, &directory, &members);
        self.places.store("note the members in", store)?
    }

    fn store_identity(&mut self, identity: &Identity) -> Result<(), DirectoryError> {
        let Places { disk, directory, .. } = &self.places;
        let (identity, disk, directory) = (identity.clone(), disk.clone(), directory.clone());
        self.places.store("store an identity in", move || identity.store(&*disk, &directory))?
    }

    fn begin_checkpoint(&mut self, header: CheckpointHeader) {
        let (inbox, directory) = (self.inbox.clone(), self.places.directory.join("checkpoint"));
        let rate = self.places.checkpoint_bytes_per_second;
        let report = move |event| inbox.push(Arrival::Checkpoint(event));
        match CheckpointThread::start(self.places.disk.clone(), directory.clone(), header, rate, report) {
            Ok(thread) => {
                self.checkpoint = Some(thread);
                self.inbox.push(Arrival::Checkpoint(CheckpointEvent::WantsBlock));
            }
            Err(source) => {
                let error = CheckpointError::Io { doing: "start a thread for", path: directory, source };
                self.inbox.push(Arrival::Checkpoint(CheckpointEvent::Failed(error)));
            }
        }
    }

    fn checkpoint_block(&mut self, block: Block, is_last: bool) {
        let Some(thread) = &self.checkpoint else { return };
        if !block.is_empty() {
            thread.block(block);
        }
        if is_last {
            thread.complete();
        }
    }
}
