//! Tests of a node: what clients are told, and in which order things reach disk and wires.
//!
//! Logs, votes and identities are real files in a temporary directory; wires, clients and threads are not.

mod bounds;
mod clients;
mod cluster;
mod copies;
mod disks;
mod repair;
mod sessions;
mod transfers;
mod watches;

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::handshake::HelloRefusal;
use quorate_protocol::peer::PeerMessage;
use quorate_protocol::request::{
    Acks, Consistency, Mutation, Operation, Range, RangeEnd, Request, SessionSequence, Token, Write,
    WriteOptions,
};
use quorate_protocol::response::{Outcome, Receipt, Refusal, Response, Role, Status, WriteResult};
use quorate_protocol::{Durability, Incarnation, Index, Leadership, NodeId, Quorums, parse};
use serde::Serialize;
use tempfile::TempDir;

use super::*;
use crate::directory::{BootId, DirectoryLock, DirectorySettings, Identity, VoteFile};
use crate::disk::{Disk, RealDisk};
use crate::log::{Log, LogSettings, SEGMENT_BYTES_MIN};
use crate::replica::{Membership, Promise};

const HEARTBEAT: Duration = Duration::from_millis(50);

fn node_id(id: u8) -> NodeId {
    NodeId::try_from(id).unwrap()
}

fn encoded(message: &impl Serialize) -> Vec<u8> {
    postcard::to_io(message, Vec::new()).unwrap()
}

/// What a node did, in order.
enum Act {
    Promise,
    Identity { formed: bool },
    Send(NodeId, Vec<u8>),
    Respond(Answer),
    Log(LogCommand),
    ReadLog { to: NodeId, from: Index, bytes_max: usize },
    Transfer(TransferCommand),
    BeginCheckpoint(CheckpointHeader),
    Block(Block, bool),
}

/// What a client was told.
struct Answer {
    client: ClientId,
    bytes: Vec<u8>,
}

impl Answer {
    fn id(&self) -> u64 {
        parse::<Response<'_>>(&self.bytes).unwrap().id
    }

    fn outcome(&self) -> Outcome<'_> {
        parse::<Response<'_>>(&self.bytes).unwrap().outcome
    }

    fn refusal(&self) -> Refusal {
        match self.outcome() {
            Outcome::Refused(refusal) => refusal,
            other => panic!("not refused: {other:?}"),
        }
    }

    fn receipt(&self) -> Receipt {
        match self.outcome() {
            Outcome::Written { receipt, .. } => receipt,
            other => panic!("not written: {other:?}"),
        }
    }

    fn status(&self) -> Status<'_> {
        match self.outcome() {
            Outcome::Status(status) => *status,
            other => panic!("not a status: {other:?}"),
        }
    }
}

/// Who a node of the world is.
fn member(id: u8) -> Member {
    Member { node: node_id(id), incarnation: Incarnation(id.into()) }
}

/// The world of one node: stores really, notes everything else.
struct Recorder {
    acts: VecDeque<Act>,
    vote: VoteFile,
    directory: std::path::PathBuf,
    /// Clients whose output has no room.
    slow: BTreeSet<ClientId>,
    /// What to fail next.
    fails_to_store: bool,
}

impl Outside for Recorder {
    fn send(&mut self, to: NodeId, message: &PeerMessage<'_>) {
        self.acts.push_back(Act::Send(to, encoded(message)));
    }

    fn respond(&mut self, client: ClientId, response: &Response<'_>) {
        self.acts.push_back(Act::Respond(Answer { client, bytes: encoded(response) }));
    }

    fn log(&mut self, command: LogCommand) {
        self.acts.push_back(Act::Log(command));
    }

    fn read_log(&mut self, to: NodeId, from: Index, bytes_max: usize) {
        self.acts.push_back(Act::ReadLog { to, from, bytes_max });
    }

    fn transfer(&mut self, command: TransferCommand) {
        self.acts.push_back(Act::Transfer(command));
    }

    fn discard(&mut self, _: Store) {}

    fn has_room(&self, client: ClientId) -> bool {
        !self.slow.contains(&client)
    }

    fn store_promise(&mut self, promise: Promise) -> Result<(), DirectoryError> {
        self.check_storing()?;
        self.acts.push_back(Act::Promise);
        self.vote.store(promise)
    }

    fn store_led(&mut self) -> Result<(), DirectoryError> {
        self.check_storing()?;
        self.vote.store_led()
    }

    fn store_members(&mut self, members: &Membership) -> Result<(), DirectoryError> {
        crate::directory::store_members(&RealDisk, &self.directory, members)
    }

    fn store_held(&mut self, held: Option<(Term, Index)>) -> Result<(), DirectoryError> {
        crate::directory::store_held(&RealDisk, &self.directory, held)
    }

    fn store_identity(&mut self, identity: &Identity) -> Result<(), DirectoryError> {
        self.check_storing()?;
        self.acts.push_back(Act::Identity { formed: identity.formed });
        identity.store(&RealDisk, &self.directory)
    }

    fn begin_checkpoint(&mut self, header: CheckpointHeader) {
        self.acts.push_back(Act::BeginCheckpoint(header));
    }

    fn checkpoint_block(&mut self, block: Block, is_last: bool) {
        self.acts.push_back(Act::Block(block, is_last));
    }
}

impl Recorder {
    /// Fails as a directory does that another process has.
    fn check_storing(&self) -> Result<(), DirectoryError> {
        if !self.fails_to_store {
            return Ok(());
        }
        Err(DirectoryError::InUse { path: self.directory.clone(), holder: "the test".into() })
    }
}

/// One node with everything around it.
struct Machine {
    node: Node,
    outside: Recorder,
    log: Log,
    _lock: DirectoryLock,
    answers: VecDeque<Answer>,
    inbox: VecDeque<(NodeId, Vec<u8>)>,
    commands: VecDeque<LogCommand>,
    reads: VecDeque<(NodeId, Index, usize)>,
    transfer_worker: TransferWorker,
    transfers: VecDeque<TransferCommand>,
    checkpoints: Vec<CheckpointHeader>,
    blocks: Vec<(Block, bool)>,
    /// Why it stopped.
    error: Option<NodeError>,
}

/// Nodes that reach each other, in a world where only the test does anything.
struct World {
    now: Time,
    directory: TempDir,
    settings: NodeSettings,
    quorums: Quorums,
    leadership: Leadership,
    /// Who has a link to whom.
    links: BTreeSet<(u8, u8)>,
    machines: Vec<Machine>,
}

impl World {
    /// Nodes that have not met.
    fn new(m: u8, n: u8) -> Self {
        Self::with(m, n, |_| {})
    }

    fn with(m: u8, n: u8, change: impl Fn(&mut NodeSettings)) -> Self {
        Self::led(m, n, Leadership::Configured(node_id(1)), change)
    }

    /// Nodes that have formed a cluster, and elected a leader, whose number comes with them.
    fn elected(m: u8, n: u8) -> (Self, u8) {
        let mut world = Self::led(m, n, Leadership::Elected, |_| {}).form();
        let leader = world.wait_for_leader();
        (world, leader)
    }

    fn wait_for_leader(&mut self) -> u8 {
        for _ in 0..100 {
            self.advance(HEARTBEAT);
            self.settle();
            let leads = |world: &mut Self, id| world.status_without_rest(id).status().role == Role::Leader;
            if let Some(leader) = self.ids().find(|id| leads(self, *id)) {
                return leader;
            }
        }
        panic!("nobody is elected");
    }

    fn led(m: u8, n: u8, leadership: Leadership, change: impl Fn(&mut NodeSettings)) -> Self {
        let mut settings = NodeSettings {
            heartbeat: HEARTBEAT,
            election_timeout: 10 * HEARTBEAT,
            uncommitted_bytes_max: 1 << 20,
            window_bytes_max: 1 << 20,
            tail_bytes_max: 1 << 20,
            checkpoint_interval_bytes: 1 << 30,
            log_retention_bytes: 1 << 30,
            memory_bytes_max: u64::MAX,
            in_flight_max: 100,
            ..NodeSettings::new((1..=m).map(node_id).collect())
        };
        change(&mut settings);
        let mut world = Self {
            now: HEARTBEAT,
            directory: tempfile::tempdir().unwrap(),
            settings,
            quorums: Quorums::new(m, n).unwrap(),
            leadership,
            links: BTreeSet::new(),
            machines: Vec::new(),
        };
        for id in 1..=m {
            let machine = world.open(id);
            world.machines.push(machine);
            world.finish(id);
        }
        world
    }

    /// Nodes that have formed a cluster whose leader has committed its first entry.
    fn formed(m: u8, n: u8) -> Self {
        Self::new(m, n).form()
    }

    fn form(mut self) -> Self {
        self.meet_all();
        self.settle();
        self.advance(HEARTBEAT); // The leader hears what the others have applied.
        self.settle();
        self
    }

    fn open(&self, id: u8) -> Machine {
        self.open_as(id, Incarnation(id.into()))
    }

    fn open_as(&self, id: u8, fresh: Incarnation) -> Machine {
        let settings = DirectorySettings {
            cluster: "test".into(),
            node: node_id(id),
            quorums: self.quorums,
            leadership: self.leadership,
            durability: Durability::Os, // The disk's own tests sync; these need not wait for it.
        };
        let path = self.directory.path().join(id.to_string());
        let disk: Arc<dyn Disk> = Arc::new(RealDisk);
        let opened = open(
            &disk,
            &path,
            &settings,
            fresh,
            LogSettings { segment_bytes: SEGMENT_BYTES_MIN, ..LogSettings::default() },
            &self.settings,
            BootId::new(1),
        )
        .unwrap();
        let Opened { lock, vote, log, state } = opened;
        let transfer_worker = TransferWorker::new(disk, path.join("checkpoint"));
        let settings = NodeSettings { advertise: format!("host:{id}"), ..self.settings.clone() };
        Machine {
            node: Node::new(settings, state, Arc::default()),
            outside: Recorder {
                acts: VecDeque::new(),
                vote,
                directory: path,
                slow: BTreeSet::new(),
                fails_to_store: false,
            },
            log,
            _lock: lock,
            answers: VecDeque::new(),
            inbox: VecDeque::new(),
            commands: VecDeque::new(),
            reads: VecDeque::new(),
            transfer_worker,
            transfers: VecDeque::new(),
            checkpoints: Vec::new(),
            blocks: Vec::new(),
            error: None,
        }
    }

    /// Who a node is now.
    fn identity(&mut self, id: u8) -> Member {
        let introduction = self.machine(id).node.introduction();
        Member { node: introduction.node, incarnation: introduction.incarnation }
    }

    fn ids(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.machines.len() as u8
    }

    fn machine(&mut self, id: u8) -> &mut Machine {
        &mut self.machines[usize::from(id) - 1]
    }

    /// A turn with one event, and what comes of it.
    fn event(&mut self, id: u8, event: Event<'_>) {
        let now = self.now;
        let machine = self.machine(id);
        machine.node.handle(now, event, &mut machine.outside);
        self.finish(id);
    }

    fn finish(&mut self, id: u8) {
        let now = self.now;
        let machine = self.machine(id);
        if let Err(error) = machine.node.finish_turn(now, &mut machine.outside) {
            machine.error = Some(error);
        }
        for act in std::mem::take(&mut self.machine(id).outside.acts) {
            self.perform(id, act);
        }
    }

    fn perform(&mut self, id: u8, act: Act) {
        let machine = self.machine(id);
        match act {
            Act::Promise | Act::Identity { .. } => {}
            Act::Send(to, bytes) => {
                if self.links.contains(&(id, to.get())) {
                    self.machine(to.get()).inbox.push_back((node_id(id), bytes));
                }
            }
            Act::Respond(answer) => machine.answers.push_back(answer),
            Act::Log(command) => machine.commands.push_back(command),
            Act::ReadLog { to, from, bytes_max } => machine.reads.push_back((to, from, bytes_max)),
            Act::Transfer(command) => machine.transfers.push_back(command),
            Act::BeginCheckpoint(header) => machine.checkpoints.push(header),
            Act::Block(block, is_last) => machine.blocks.push((block, is_last)),
        }
    }

    /// `id` hears `other` introduce itself, and has a link to it.
    fn meet(&mut self, id: u8, other: u8) -> Result<(), HelloRefusal> {
        let introduction = self.machine(other).node.introduction();
        let machine = self.machine(id);
        machine.node.meet(&introduction, &mut machine.outside)?;
        let member = self.identity(other);
        self.links.insert((id, other));
        self.event(id, Event::Connected(member));
        Ok(())
    }

    fn meet_all(&mut self) {
        for id in self.ids() {
            for other in self.ids().filter(|other| *other != id) {
                self.meet(id, other).unwrap();
            }
        }
    }

    /// Cuts a node off; what is under way to and from it is lost.
    fn isolate(&mut self, id: u8) {
        self.machine(id).inbox.clear();
        self.links.retain(|(from, to)| *from != id && *to != id);
        for other in self.ids().filter(|other| *other != id) {
            self.machine(other).inbox.retain(|(from, _)| from.get() != id);
            self.event(other, Event::Disconnected(node_id(id)));
            self.event(id, Event::Disconnected(node_id(other)));
        }
    }

    /// Kills a node and starts it. Nobody has a link to it.
    fn restart(&mut self, id: u8) {
        self.isolate(id);
        let machine = self.machines.remove(usize::from(id) - 1);
        drop(machine);
        let machine = self.open(id);
        self.machines.insert(usize::from(id) - 1, machine);
        self.finish(id);
    }

    /// Kills a node and starts it with an empty directory. Nobody has a link to it.
    fn replace(&mut self, id: u8) {
        self.isolate(id);
        drop(self.machines.remove(usize::from(id) - 1));
        std::fs::remove_dir_all(self.directory.path().join(id.to_string())).unwrap();
        let machine = self.open_as(id, Incarnation(100 + u64::from(id)));
        self.machines.insert(usize::from(id) - 1, machine);
        self.finish(id);
    }

    fn deliver(&mut self, to: u8) {
        while let Some((from, bytes)) = self.machine(to).inbox.pop_front() {
            let from = self.identity(from.get());
            self.event(to, Event::Message { from, message: parse(&bytes).unwrap() });
        }
    }

    /// Does what a node's log thread would.
    fn work_log(&mut self, id: u8) {
        while let Some(command) = self.machine(id).commands.pop_front() {
            let log = &mut self.machine(id).log;
            let event = match command {
                LogCommand::Append { generation, first, last, commit, entries } => {
                    let bytes = entries.len() as u64;
                    log.append([entries], first, last, commit).unwrap();
                    let (queued, sync) = (Duration::from_millis(2), Duration::from_millis(1));
                    let entries = last - first + 1;
                    LogEvent::Durable { generation, index: last, queued, sync, entries, bytes }
                }
                LogCommand::Truncate { generation, after } => {
                    log.truncate(after).unwrap();
                    LogEvent::Truncated { generation, after }
                }
                LogCommand::Restart { generation, after } => {
                    log.restart(after).unwrap();
                    LogEvent::Truncated { generation, after }
                }
                LogCommand::DropBefore(index) => {
                    log.drop_before(index).unwrap();
                    LogEvent::Dropped { first: log.reader().first() }
                }
            };
            self.event(id, Event::Log(event));
        }
        while let Some((to, from, bytes_max)) = self.machine(id).reads.pop_front() {
            let entries = self.machine(id).log.reader().read(from, bytes_max);
            let read = entries.map_or(LogRead::Dropped, LogRead::Entries);
            self.event(id, Event::LogRead { to, read });
        }
    }

    /// Does what threads of a pool would.
    fn work_transfers(&mut self, id: u8) {
        while let Some(command) = self.machine(id).transfers.pop_front() {
            if let Some(event) = self.machine(id).transfer_worker.carry_out(command) {
                self.event(id, Event::Transfer(event));
            }
        }
    }

    /// Delivers and logs until nothing is left to do. Time stands still.
    fn settle(&mut self) {
        let is_busy = |machine: &Machine| {
            let is_idle = machine.inbox.is_empty() && machine.commands.is_empty();
            !is_idle || !machine.reads.is_empty() || !machine.transfers.is_empty()
        };
        for _ in 0..1000 {
            if !self.machines.iter().any(is_busy) {
                return;
            }
            for id in self.ids() {
                self.deliver(id);
                self.work_log(id);
                self.work_transfers(id);
            }
        }
        panic!("the cluster does not come to rest");
    }

    fn advance(&mut self, by: Duration) {
        self.now += by;
        self.ids().for_each(|id| self.event(id, Event::Tick));
    }

    fn request(&mut self, node: u8, client: ClientId, id: u64, operation: Operation<'_>) {
        self.event(node, Event::Request { client, request: Request { id, deadline_ms: 1000, operation } });
    }

    /// Asks, lets the cluster settle, and gives the one answer.
    fn ask(&mut self, node: u8, operation: Operation<'_>) -> Answer {
        self.request(node, 1, 1, operation);
        self.settle();
        let mut answers = std::mem::take(&mut self.machine(node).answers);
        assert_eq!(answers.len(), 1);
        answers.pop_front().unwrap()
    }

    /// Asks, and gives the answer, which has to come at once.
    fn ask_without_rest(&mut self, node: u8, operation: Operation<'_>) -> Answer {
        self.request(node, 1, 1, operation);
        self.machine(node).answers.pop_back().expect("an answer at once")
    }

    fn status_without_rest(&mut self, node: u8) -> Answer {
        self.ask_without_rest(node, Operation::Status { histograms: false })
    }

    fn status(&mut self, node: u8) -> Answer {
        self.ask(node, Operation::Status { histograms: false })
    }

    fn answers(&mut self, node: u8) -> Vec<Answer> {
        self.machine(node).answers.drain(..).collect()
    }
}

fn value(answer: &Answer) -> (Token, Option<(Index, String)>) {
    let Outcome::Value { token, value } = answer.outcome() else { panic!("{:?}", answer.outcome()) };
    (token, value.map(|found| (found.revision, String::from_utf8(found.value.to_vec()).unwrap())))
}

fn set<'a>(key: &'a str, value: &'a str) -> Operation<'a> {
    write(Mutation::Set { key: key.as_bytes(), value: value.as_bytes() })
}

fn write(mutation: Mutation<'_>) -> Operation<'_> {
    Operation::Write { options: WriteOptions::default(), write: Write::One(mutation) }
}

fn get(consistency: Consistency, key: &str) -> Operation<'_> {
    Operation::Get { consistency, key: key.as_bytes() }
}
