//! A node, its log and its checkpoints over a simulated disk, moved step by step by whoever holds it.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_protocol::entry;
use quorate_protocol::peer::PeerMessage;
use quorate_protocol::response::Response;
use quorate_protocol::{Durability, Incarnation, Index, Leadership, Member, NodeId, NodeSet, Quorums, Term};

use crate::checkpoint::{Block, CheckpointEvent, CheckpointHeader};
use crate::directory::{self, DirectoryError, DirectoryLock, DirectorySettings, Identity, VoteFile};
use crate::disk::Disk;
use crate::disk::simulated::SimDisk;
use crate::log::{LogCommand, LogEvent, LogReader, LogSettings, LogWorker, ReadError};
use crate::node::{
    self, ClientId, Event, Node, NodeError, NodeSettings, Opened, Outside, RecoveryError, State,
    TransferCommand, TransferWorker,
};
use crate::replica::{Membership, Promise, Time};
use crate::store::Store;

use super::checkpoint::CheckpointJob;
use super::history::{History, checksum_of, digest_of};

/// Where the data is.
pub(super) const DATA: &str = "/data";

/// The node's incarnation; of another directory than its own it would be another.
const INCARNATION: Incarnation = Incarnation(11);

/// Small enough for several rolls and checkpoints in a short run.
const SEGMENT_BYTES: u64 = 64 << 10;
const CHECKPOINT_BYTES: u64 = 64 << 10;
const BATCH_BYTES_MAX: usize = 32 << 10;

/// Which node of which cluster. Node 1 is the configured leader.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) id: u8,
    pub(super) m: u8,
    pub(super) n: u8,
}

/// Another replica, as it introduces itself.
pub(super) fn peer(id: u8) -> Member {
    Member { node: node_id(id), incarnation: Incarnation(u64::from(id) * 100) }
}

pub(super) fn node_id(id: u8) -> NodeId {
    NodeId::try_from(id).unwrap()
}

impl Shape {
    pub(super) fn nodes(self) -> NodeSet {
        (1..=self.m).map(node_id).collect()
    }

    fn directory(self) -> DirectorySettings {
        DirectorySettings {
            cluster: "sim".into(),
            node: node_id(self.id),
            quorums: Quorums::new(self.m, self.n).unwrap(),
            leadership: Leadership::Configured(node_id(1)),
            durability: Durability::Fsync,
        }
    }

    fn settings(self) -> NodeSettings {
        NodeSettings { checkpoint_interval_bytes: CHECKPOINT_BYTES, ..NodeSettings::new(self.nodes()) }
    }
}

/// What a directory was found to hold.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) incarnation: Incarnation,
    pub(super) formed: bool,
    pub(super) promise: Promise,
    /// Of the log.
    pub(super) first: Index,
    /// The entries' checksums.
    pub(super) log: Vec<u32>,
    pub(super) applied: Index,
    /// Of the store.
    pub(super) digest: u32,
}

impl Found {
    fn of(opened: &Opened) -> Result<Self, ReadError> {
        let State { identity, reader, store, recovered, .. } = &opened.state;
        Ok(Self {
            incarnation: identity.incarnation,
            formed: identity.formed,
            promise: recovered.promise,
            first: reader.first(),
            log: checksums(reader)?,
            applied: recovered.applied,
            digest: digest_of(store),
        })
    }

    /// Whether two recoveries found the same. The later may have removed old log.
    pub(super) fn is_same(&self, again: &Self) -> bool {
        let first = self.first.max(again.first);
        self.from(first) == again.from(first)
    }

    /// With a log that begins where that of `other` does, if it reaches back as far.
    fn from(&self, first: Index) -> Self {
        let skipped = first.saturating_sub(self.first) as usize;
        let log = self.log.get(skipped..).unwrap_or_default().to_vec();
        Self { first: self.first + skipped as Index, log, ..self.clone() }
    }
}

fn checksums(reader: &LogReader) -> Result<Vec<u32>, ReadError> {
    let mut found = Vec::new();
    let mut next = reader.first();
    while next <= reader.last() {
        for entry in entry::iterate(&reader.read(next, 1 << 20)?) {
            let entry = entry.expect("the reader has checked it");
            assert_eq!(entry.index, next, "the reader gives the entries in order");
            found.push(checksum_of(entry.bytes));
            next += 1;
        }
    }
    Ok(found)
}

/// What a node did to the world.
pub(super) enum Act {
    Send(NodeId, Vec<u8>),
    Respond(Vec<u8>),
}

/// The world around a node: its disk is simulated, the rest is noted.
struct World {
    disk: SimDisk,
    vote: VoteFile,
    history: History,
    acts: Vec<Act>,
    commands: Vec<LogCommand>,
    checkpoint: Option<CheckpointJob>,
    transfers: VecDeque<TransferCommand>,
}

fn encoded(message: &impl serde::Serialize) -> Vec<u8> {
    postcard::to_stdvec(message).unwrap()
}

impl Outside for World {
    fn send(&mut self, to: NodeId, message: &PeerMessage<'_>) {
        self.acts.push(Act::Send(to, encoded(message)));
    }

    fn respond(&mut self, _: ClientId, response: &Response<'_>) {
        self.acts.push(Act::Respond(encoded(response)));
    }

    fn log(&mut self, command: LogCommand) {
        self.history.asked(&command);
        self.commands.push(command);
    }

    fn read_log(&mut self, _: NodeId, _: Index, _: usize) {}

    fn transfer(&mut self, command: TransferCommand) {
        if matches!(command, TransferCommand::InstallPart { .. }) {
            self.checkpoint = None; // What it leaves is removed by the next start.
        }
        self.transfers.push_back(command);
    }

    fn discard(&mut self, _: Store) {}

    fn has_room(&self, _: ClientId) -> bool {
        true
    }

    fn store_promise(&mut self, promise: Promise) -> Result<(), DirectoryError> {
        self.history.promise_begins(self.disk.recorded(), promise);
        self.vote.store(promise)?;
        self.history.promise_ends(self.disk.recorded());
        Ok(())
    }

    fn store_led(&mut self) -> Result<(), DirectoryError> {
        self.vote.store_led()
    }

    fn store_members(&mut self, members: &Membership) -> Result<(), DirectoryError> {
        directory::store_members(&self.disk, Path::new(DATA), members)
    }

    fn store_held(&mut self, held: Option<(Term, Index)>) -> Result<(), DirectoryError> {
        directory::store_held(&self.disk, Path::new(DATA), held)
    }

    fn store_identity(&mut self, identity: &Identity) -> Result<(), DirectoryError> {
        self.history.identity_begins(self.disk.recorded(), identity);
        identity.store(&self.disk, Path::new(DATA))?;
        self.history.identity_ends(self.disk.recorded(), identity);
        Ok(())
    }

    fn begin_checkpoint(&mut self, header: CheckpointHeader) {
        self.checkpoint = Some(CheckpointJob::new(header));
    }

    fn checkpoint_block(&mut self, block: Block, is_last: bool) {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.give(block, is_last);
        }
    }
}

/// A node over a simulated disk.
pub(super) struct SimNode {
    pub(super) disk: SimDisk,
    pub(super) node: Node,
    world: World,
    worker: LogWorker,
    transfer_worker: TransferWorker,
    events: VecDeque<LogEvent>,
    now: Time,
    _lock: DirectoryLock,
}

impl SimNode {
    /// Opens the directory on a disk.
    pub(super) fn open(disk: &SimDisk, shape: Shape, history: History) -> Result<(Self, Found), String> {
        let opened = open(disk, shape).map_err(|error| format!("refused: {error}"))?;
        let found = Found::of(&opened).map_err(|error| format!("unreadable: {error}"))?;
        let Opened { lock, vote, log, state } = opened;
        let mut history = history;
        history.identity_ends(disk.recorded(), &state.identity);
        let world = World {
            disk: disk.clone(),
            vote,
            history,
            acts: Vec::new(),
            commands: Vec::new(),
            checkpoint: None,
            transfers: VecDeque::new(),
        };
        let worker = LogWorker::new(log, BATCH_BYTES_MAX);
        let node = Node::new(shape.settings(), state, worker.counters().clone());
        let (disk, now) = (disk.clone(), Duration::from_secs(1));
        let transfer_worker = TransferWorker::new(Arc::new(disk.clone()), Path::new(DATA).join("checkpoint"));
        let node =
            Self { disk, node, world, worker, transfer_worker, events: VecDeque::new(), now, _lock: lock };
        Ok((node, found))
    }

    /// What has happened to it.
    pub(super) fn history(&mut self) -> &mut History {
        &mut self.world.history
    }

    pub(super) fn into_history(self) -> History {
        self.world.history
    }

    /// A turn with one event.
    pub(super) fn handle(&mut self, event: Event<'_>) -> Result<(), NodeError> {
        self.node.handle(self.now, event, &mut self.world);
        self.finish_turn()
    }

    /// Ends a turn in which nothing happened, as the first one.
    pub(super) fn finish_turn(&mut self) -> Result<(), NodeError> {
        let done = self.node.finish_turn(self.now, &mut self.world);
        for command in self.world.commands.drain(..) {
            self.worker.push(Instant::now(), command);
        }
        done
    }

    /// Meets another replica that has the same settings and has stored the same.
    pub(super) fn meet(&mut self, id: u8) -> Result<(), NodeError> {
        let mut introduction = self.node.introduction();
        let Member { node, incarnation } = peer(id);
        (introduction.node, introduction.incarnation) = (node, incarnation);
        self.node.meet(&introduction, &mut self.world).unwrap();
        self.handle(Event::Connected(peer(id)))
    }

    /// Lets time pass.
    pub(super) fn advance(&mut self, by: Duration) -> Result<(), NodeError> {
        self.now += by;
        self.handle(Event::Tick)
    }

    /// What it has said since the last time.
    pub(super) fn take_acts(&mut self) -> Vec<Act> {
        std::mem::take(&mut self.world.acts)
    }

    /// One step of the log, whose outcome is not told to the node yet. False if there was nothing to do.
    pub(super) fn work_log(&mut self) -> bool {
        self.world.history.step_begins(self.disk.recorded());
        let done = self.worker.step(Instant::now);
        // What waits for room is under way until it is done: a truncation may have removed segments already.
        if let Ok(event) = &done
            && !self.worker.is_blocked()
        {
            self.world.history.step_ends(self.disk.recorded(), event.as_ref());
        }
        match done {
            Ok(None) => return false,
            Ok(Some(event)) => self.events.push_back(event),
            Err(error) => self.events.push_back(LogEvent::Failed(error)),
        }
        true
    }

    /// What the log thread does when it rests.
    pub(super) fn rest(&mut self) {
        if self.worker.needs_mark() {
            self.worker.push_mark();
            self.work_log();
        }
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.worker.is_blocked()
    }

    /// Tells the node of one thing that the log has done. False if there is none.
    pub(super) fn deliver(&mut self) -> Result<bool, NodeError> {
        let Some(event) = self.events.pop_front() else { return Ok(false) };
        self.handle(Event::Log(event)).map(|()| true)
    }

    /// One thing of what the node has asked about checkpoints that are sent. False if there is none.
    pub(super) fn work_transfer(&mut self) -> Result<bool, NodeError> {
        let Some(command) = self.world.transfers.pop_front() else { return Ok(false) };
        if let Some(event) = self.transfer_worker.carry_out(command) {
            self.handle(Event::Transfer(event))?;
        }
        Ok(true)
    }

    /// One step of the checkpoint under way. False if there is none.
    pub(super) fn work_checkpoint(&mut self) -> Result<bool, NodeError> {
        let Some(checkpoint) = &mut self.world.checkpoint else { return Ok(false) };
        let Some(event) = checkpoint.step(&self.disk, &Path::new(DATA).join("checkpoint")) else {
            return Ok(true);
        };
        if let CheckpointEvent::Written(info) = &event {
            self.world.history.checkpoints.insert(info.index, info.hash);
        }
        if !matches!(event, CheckpointEvent::WantsBlock) {
            self.world.checkpoint = None;
        }
        self.handle(Event::Checkpoint(event)).map(|()| true)
    }
}

fn open(disk: &SimDisk, shape: Shape) -> Result<Opened, RecoveryError> {
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let log = LogSettings { segment_bytes: SEGMENT_BYTES, salt_seed: Some(7), ..LogSettings::default() };
    node::open(&disk, Path::new(DATA), &shape.directory(), INCARNATION, log, &shape.settings(), None)
}

/// What a directory holds, opened as a node opens it.
pub(super) fn recover(disk: &SimDisk, shape: Shape) -> Result<Found, RecoveryError> {
    let opened = open(disk, shape)?;
    Found::of(&opened).map_err(RecoveryError::from)
}
