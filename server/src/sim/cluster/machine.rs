//! One node of the cluster: its disk, and what runs on it for as long as it lives.
//!
//! A life is what a process is: node, log worker, checkpoint job, all of production, over a simulated disk. Whatever
//! a turn does to the world is noted in order, and carried out by the cluster.

use std::cell::Cell;
use std::collections::{BTreeSet, VecDeque};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_protocol::entry::Entry;
use quorate_protocol::handshake::{HelloRefusal, ReplicaIdentity};
use quorate_protocol::peer::PeerMessage;
use quorate_protocol::response::Response;
use quorate_protocol::{Incarnation, Index, Member, NodeId, Term, entry, parse};

use super::harm::Harm;
use super::holdings::{Holdings, Mark};
use super::plan::Plan;
use super::schedule::{LifeNumber, MICROSECOND, MILLISECOND, Moment, Place};
use crate::checkpoint::{Block, CheckpointEvent, CheckpointHeader};
use crate::directory::{self, DirectoryError, DirectoryLock, Identity, VoteFile};
use crate::disk::Disk;
use crate::disk::simulated::{Call, Failure, Fault, Kept, SimDisk};
use crate::log::{LogCommand, LogEvent, LogReader, LogWorker};
use crate::node::{
    self, ClientId, Event, Node, NodeError, Opened, Outside, RecoveryError, TransferCommand, TransferEvent,
    TransferWorker,
};
use crate::replica::{LogRead, Membership, Promise, Time};
use crate::sim::Random;
use crate::sim::checkpoint::CheckpointJob;
use crate::sim::history::checksum_of;
use crate::sim::node::{DATA, node_id};
use crate::store::Store;

/// What a message says, as far as the rules are about it.
pub(super) enum Said {
    Append {
        term: Term,
    },
    Ack {
        term: Term,
        durable: Index,
    },
    /// With where the log ends.
    RequestVote {
        term: Term,
        last: (Term, Index),
    },
    Vote {
        term: Term,
    },
    /// Where the log ends (R19).
    Position,
    TimeoutNow,
    Other,
}

impl Said {
    fn of(message: &PeerMessage<'_>) -> Self {
        match message {
            PeerMessage::Append(append) => Self::Append { term: append.term },
            PeerMessage::Ack(ack) => Self::Ack { term: ack.term, durable: ack.durable },
            PeerMessage::RequestVote(request) if !request.pre_vote => {
                Self::RequestVote { term: request.term, last: (request.last_term, request.last_index) }
            }
            PeerMessage::Vote(vote) if vote.granted && !vote.pre_vote => Self::Vote { term: vote.term },
            PeerMessage::Position(position) if !position.pre_vote => Self::Position,
            PeerMessage::TimeoutNow(_) => Self::TimeoutNow,
            _ => Self::Other,
        }
    }
}

/// What a turn does to the world.
pub(super) enum Effect {
    Send { to: Place, said: Said, message: Rc<[u8]> },
    Respond { client: ClientId, message: Rc<[u8]> },
    Log(LogCommand),
    ReadLog { to: Place, from: Index, bytes_max: usize },
    Promised(Promise),
    Held(Option<(Term, Index)>),
    Formed,
    Applied { index: Index, bytes: Vec<u8> },
    Transfer,
    Restored,
    CheckpointBegins,
    CheckpointBlock,
}

/// What has reached a node and waits for its turn.
pub(super) enum Arrived {
    Tick,
    Connected(Member),
    Disconnected(Place),
    Message { from: Member, message: Rc<[u8]> },
    Request { client: ClientId, message: Rc<[u8]> },
    ClientClosed(ClientId),
    Log(LogEvent),
    LogRead { to: Place, read: LogRead },
    Transfer(TransferEvent),
    Checkpoint(CheckpointEvent),
}

/// The world around a node.
struct World {
    disk: SimDisk,
    vote: VoteFile,
    random: Random,
    /// Clients that do not read.
    slow: BTreeSet<ClientId>,
    /// What has been done, and how long after the turn's beginning.
    effects: Vec<(Moment, Effect)>,
    /// Spent in this turn, waiting for the disk.
    spent: Moment,
    disk_delay: Moment,
    /// How many changes to the disk the next promise or identity gets through before the power goes.
    torn_after: Option<u64>,
    /// A promise that is being stored, and may be on the disk.
    promising: Option<Promise>,
    checkpoint: Option<CheckpointJob>,
    /// What is asked about checkpoints that are sent or received.
    transfers: VecDeque<TransferCommand>,
}

impl World {
    fn effect(&mut self, effect: Effect) {
        self.effects.push((self.spent, effect));
    }

    fn store(&mut self) {
        self.spent += self.disk_delay + self.random.below(self.disk_delay + 1);
        if let Some(changes) = self.torn_after {
            self.disk.cut_power_after(changes);
        }
    }
}

/// Of the directory with which a node has formed the cluster.
pub(super) fn founder(place: Place) -> Incarnation {
    Incarnation(place as u64 + 1)
}

/// Between the incarnations of two disks of a node.
const NEXT_DISK: u64 = 100;

fn encoded(message: &impl serde::Serialize) -> Rc<[u8]> {
    postcard::to_stdvec(message).unwrap().into()
}

pub(super) fn place_of(node: NodeId) -> Place {
    usize::from(node.get()) - 1
}

impl Outside for World {
    fn send(&mut self, to: NodeId, message: &PeerMessage<'_>) {
        let said = Said::of(message);
        self.effect(Effect::Send { to: place_of(to), said, message: encoded(message) });
    }

    fn respond(&mut self, client: ClientId, response: &Response<'_>) {
        self.effect(Effect::Respond { client, message: encoded(response) });
    }

    fn log(&mut self, command: LogCommand) {
        self.effect(Effect::Log(command));
    }

    fn read_log(&mut self, to: NodeId, from: Index, bytes_max: usize) {
        self.effect(Effect::ReadLog { to: place_of(to), from, bytes_max });
    }

    fn store_promise(&mut self, promise: Promise) -> Result<(), DirectoryError> {
        self.promising = Some(promise);
        self.store();
        self.vote.store(promise)?;
        self.promising = None;
        self.effect(Effect::Promised(promise));
        Ok(())
    }

    fn store_led(&mut self) -> Result<(), DirectoryError> {
        self.store();
        self.vote.store_led()
    }

    fn store_members(&mut self, members: &Membership) -> Result<(), DirectoryError> {
        self.store();
        directory::store_members(&self.disk, Path::new(DATA), members)
    }

    fn store_held(&mut self, held: Option<(Term, Index)>) -> Result<(), DirectoryError> {
        self.store();
        directory::store_held(&self.disk, Path::new(DATA), held)?;
        self.effect(Effect::Held(held));
        Ok(())
    }

    fn store_identity(&mut self, identity: &Identity) -> Result<(), DirectoryError> {
        self.store();
        identity.store(&self.disk, Path::new(DATA))?;
        if identity.formed {
            self.effect(Effect::Formed);
        }
        Ok(())
    }

    fn transfer(&mut self, command: TransferCommand) {
        self.transfers.push_back(command);
        self.effect(Effect::Transfer);
    }

    fn has_room(&self, client: ClientId) -> bool {
        !self.slow.contains(&client)
    }

    fn discard(&mut self, _: Store) {
        self.effect(Effect::Restored);
    }

    fn begin_checkpoint(&mut self, header: CheckpointHeader) {
        self.checkpoint = Some(CheckpointJob::new(header));
        self.effect(Effect::CheckpointBegins);
    }

    fn checkpoint_block(&mut self, block: Block, is_last: bool) {
        if let Some(checkpoint) = &mut self.checkpoint {
            checkpoint.give(block, is_last);
        }
        self.effect(Effect::CheckpointBlock);
    }

    fn applied(&mut self, entry: &Entry<'_>) {
        self.effect(Effect::Applied { index: entry.index, bytes: entry.bytes.to_vec() });
    }
}

/// What a node does from its start to its end.
pub(super) struct Life {
    pub(super) number: LifeNumber,
    pub(super) node: Node,
    world: World,
    worker: LogWorker,
    reader: LogReader,
    transfer_worker: TransferWorker,
    /// The checkpoint that was installed last.
    pub(super) installed: Index,
    began: Moment,
    /// In parts of a million, how fast its clock is too fast.
    drift: i64,
    /// The turn before takes so long.
    pub(super) busy_until: Moment,
    pub(super) inbox: VecDeque<Arrived>,
    pub(super) is_turn_due: bool,
    /// What the log was asked for and has not taken yet.
    asked: Vec<(Instant, LogCommand)>,
    /// When the log's step under way began.
    pub(super) step_began: Option<Moment>,
    /// The log thread will wake by itself, after no room or rest.
    pub(super) log_wakes: bool,
    /// It has something to do beside what it was asked to write.
    owes: bool,
    pub(super) checkpoint_goes_on: bool,
    pub(super) applied: Index,
    pub(super) commit: Index,
    pub(super) term: Term,
    pub(super) is_leader: bool,
    _lock: DirectoryLock,
}

impl Life {
    /// Where its log begins.
    pub(super) fn log_first(&self) -> Index {
        self.reader.first()
    }
}

/// What a start found.
pub(super) struct Found {
    pub(super) promise: Promise,
    pub(super) applied: Index,
    pub(super) first: Index,
    pub(super) log: Vec<Mark>,
    pub(super) held: Option<(Term, Index)>,
}

/// A node of the cluster.
pub(super) struct Machine {
    pub(super) place: Place,
    pub(super) disk: SimDisk,
    pub(super) holdings: Holdings,
    pub(super) lives: LifeNumber,
    pub(super) life: Option<Life>,
    /// What it has promised, and what it was promising when it died.
    pub(super) promise: Promise,
    pub(super) promising: Option<Promise>,
    pub(super) has_formed: bool,
    /// Of its disk.
    pub(super) incarnation: Incarnation,
    /// How far its log went before it was damaged, by its disk (R8).
    pub(super) held: Option<(Term, Index)>,
    /// Something has happened to its disk since it last ran.
    pub(super) has_rotted: bool,
    /// What it has lost, as long as that is not made good.
    pub(super) harm: Option<Harm>,
    pub(super) paused_until: Moment,
    /// The disk answers nothing before.
    pub(super) stalled_until: Moment,
    pub(super) full_until: Moment,
    /// When its log is next asked to write, its disk gets slow, and then its power goes.
    pub(super) crashes_ahead_of_disk: bool,
    /// The next sync of the log fails.
    pub(super) fails_sync: bool,
    /// Something was done to it that may end this life.
    pub(super) may_die: bool,
    epoch: Instant,
}

impl Machine {
    pub(super) fn new(place: Place, epoch: Instant) -> Self {
        Self {
            place,
            disk: SimDisk::default(),
            holdings: Holdings::default(),
            lives: 0,
            life: None,
            promise: Promise::default(),
            promising: None,
            has_formed: false,
            incarnation: founder(place),
            held: None,
            has_rotted: false,
            harm: None,
            paused_until: 0,
            stalled_until: 0,
            full_until: 0,
            crashes_ahead_of_disk: false,
            fails_sync: false,
            may_die: false,
            epoch,
        }
    }

    pub(super) fn id(&self) -> NodeId {
        node_id(self.place as u8 + 1)
    }

    /// Who it is, with the disk that it has.
    pub(super) fn member(&self) -> Member {
        Member { node: self.id(), incarnation: self.incarnation }
    }

    /// Whether a start has set the log aside, as it was damaged.
    pub(super) fn is_set_aside(&self, found: &Found) -> bool {
        let everything = (found.promise.term, Index::MAX);
        self.has_rotted && found.held == Some(everything) && found.log.is_empty()
    }

    /// Gets an empty disk in the place of the one that it had. It must be down.
    pub(super) fn replace_disk(&mut self) {
        self.disk = SimDisk::default();
        self.holdings = Holdings::default();
        (self.promise, self.promising, self.held) = (Promise::default(), None, None);
        (self.has_formed, self.has_rotted) = (false, false);
        self.incarnation = Incarnation(self.incarnation.0 + NEXT_DISK);
    }

    /// Starts it on what its disk holds.
    pub(super) fn start(
        &mut self,
        plan: &Plan,
        now: Moment,
        random: &mut Random,
    ) -> Result<Found, RecoveryError> {
        let disk: Arc<dyn Disk> = Arc::new(self.disk.clone());
        let settings = plan.node(self.place, random);
        let fresh = self.incarnation;
        let (directory, log) = (plan.directory(self.place), plan.log(random));
        let Opened { lock, vote, log, state } =
            node::open(&disk, Path::new(DATA), &directory, fresh, log, &settings, None)?;
        let reader = state.reader.clone();
        let found = Found {
            promise: state.recovered.promise,
            applied: state.recovered.applied,
            first: reader.first(),
            log: marks_of(&reader)?,
            held: state.recovered.held,
        };
        let worker = LogWorker::new(log, plan.batch_bytes_max);
        let node = Node::new(settings, state, worker.counters().clone());
        let world = World {
            disk: self.disk.clone(),
            vote,
            random: Random::new(random.next()),
            slow: BTreeSet::new(),
            effects: Vec::new(),
            spent: 0,
            disk_delay: plan.disk.delay,
            torn_after: None,
            promising: None,
            checkpoint: None,
            transfers: VecDeque::new(),
        };
        let transfer_worker = TransferWorker::new(disk.clone(), Path::new(DATA).join("checkpoint"));
        self.lives += 1;
        self.life = Some(Life {
            number: self.lives,
            node,
            world,
            worker,
            reader,
            transfer_worker,
            installed: 0,
            began: now,
            drift: random.below(20_001) as i64 - 10_000,
            busy_until: now,
            inbox: VecDeque::new(),
            is_turn_due: false,
            asked: Vec::new(),
            step_began: None,
            log_wakes: false,
            owes: true,
            checkpoint_goes_on: false,
            applied: found.applied,
            commit: found.applied,
            term: found.promise.term,
            is_leader: false,
            _lock: lock,
        });
        self.may_die = false;
        Ok(found)
    }

    /// Ends it. What it was writing is written in part; with `kept` its machine loses power.
    pub(super) fn end(&mut self, random: &mut Random, kept: Option<Kept>) {
        let Some(mut life) = self.life.take() else { return };
        self.promising = life.world.promising.take();
        self.disk.fail(None);
        if life.step_began.is_some() && random.below(2) == 0 {
            self.disk.cut_power_after(random.below(6));
            let _ = life.worker.step(|| self.epoch);
        }
        let images = self.disk.images();
        self.disk = SimDisk::with(match kept {
            Some(kept) => images.crashed(kept),
            None => images,
        });
        self.fails_sync = false;
    }

    /// Its power goes while it is down.
    pub(super) fn loses_power(&mut self, kept: Kept) {
        if self.life.is_none() {
            self.disk = SimDisk::with(self.disk.images().crashed(kept));
        }
    }

    /// Runs a turn with everything that has arrived; returns what it does to the world, and when.
    pub(super) fn turn(&mut self, now: Moment) -> (Vec<(Moment, Effect)>, Result<(), NodeError>) {
        let Some(life) = &mut self.life else { return (Vec::new(), Ok(())) };
        life.is_turn_due = false;
        life.world.spent = 0;
        let time = life.time(now);
        for arrived in std::mem::take(&mut life.inbox) {
            life.take(time, arrived);
        }
        let done = life.node.finish_turn(time, &mut life.world);
        life.busy_until = now + life.world.spent;
        (std::mem::take(&mut life.world.effects), done)
    }

    /// Meets another node; what that does to the world is done. None if it has yet to notice that the one before has
    /// gone.
    pub(super) fn meet(&mut self, peer: &ReplicaIdentity) -> Option<Vec<(Moment, Effect)>> {
        let Some(life) = &mut self.life else { return Some(Vec::new()) };
        life.world.spent = 0;
        match life.node.meet(peer, &mut life.world) {
            Ok(()) => Some(std::mem::take(&mut life.world.effects)),
            Err(HelloRefusal::NodeTaken { .. }) => None,
            Err(refusal) => panic!("node {} refuses node {}: {refusal}", self.place + 1, peer.node),
        }
    }

    /// A client reads what it is told, or does not.
    pub(super) fn client_reads(&mut self, client: ClientId, reads: bool) {
        let Some(life) = &mut self.life else { return };
        match reads {
            true => life.world.slow.remove(&client),
            false => life.world.slow.insert(client),
        };
    }

    /// Has it stop as on a signal: a leader hands over first.
    pub(super) fn stop(&mut self, now: Moment) {
        if let Some(life) = &mut self.life {
            let time = life.time(now);
            life.node.stop(time);
        }
    }

    /// Has the power go while the next promise or identity is stored.
    pub(super) fn tear_next_promise(&mut self, changes: u64) {
        if let Some(life) = &mut self.life {
            life.world.torn_after = Some(changes);
            self.may_die = true;
        }
    }

    /// The log is asked for something, so much after now.
    pub(super) fn ask_log(&mut self, now: Moment, command: LogCommand) {
        let Some(life) = &mut self.life else { return };
        self.holdings.asked(&command);
        life.owes |= matches!(command, LogCommand::DropBefore(_));
        life.asked.push((self.epoch + Duration::from_nanos(now), command));
    }

    /// Begins the next step of the log, and says how long it takes; none if one is under way, or nothing is to do.
    pub(super) fn begin_log_step(&mut self, now: Moment, plan: &Plan, random: &mut Random) -> Option<Moment> {
        let life = self.life.as_mut().filter(|life| life.step_began.is_none())?;
        if !self.holdings.is_at_work() && !life.asked.is_empty() {
            for (at, command) in life.asked.drain(..) {
                life.worker.push(at, command);
            }
            self.holdings.taken();
        }
        if !self.holdings.is_at_work() && !life.owes || life.log_wakes && life.worker.is_blocked() {
            return None;
        }
        life.step_began = Some(now);
        let disk = &plan.disk;
        let mut delay = disk.delay + random.below(disk.jitter + 1);
        if random.below(1000) < disk.slow_in_1000 {
            delay += random.below(100 * MILLISECOND);
        }
        Some(delay)
    }

    /// Ends the log's step, and says what came of it.
    pub(super) fn end_log_step(&mut self, now: Moment) -> Option<LogEvent> {
        let life = self.life.as_mut()?;
        let began = life.step_began.take()?;
        let epoch = self.epoch;
        let next = Cell::new(began);
        let clock = || epoch + Duration::from_nanos(next.replace(now));
        self.disk.fail(None);
        if self.fails_sync {
            self.disk.fail(Some(once(Call::Sync, Failure::Broken, false)));
        } else if self.full_until > now {
            let (call, failure) = match self.full_until % 3 {
                0 => (Call::Create, Failure::Full),
                1 => (Call::Write, Failure::Full),
                _ => (Call::Write, Failure::ShortThenFull),
            };
            self.disk.fail(Some(once(call, failure, failure == Failure::Full)));
        }
        life.owes = false;
        let done = life.worker.step(clock);
        if self.fails_sync && self.disk.faults_met() > 0 {
            (self.fails_sync, self.may_die) = (false, true);
        }
        self.disk.fail(None);
        match done {
            Ok(event) => {
                if let Some(event) = &event {
                    // What was resumed is on the disk, and told with the next step.
                    life.owes |= matches!(event, LogEvent::Resumed | LogEvent::Dropped { .. });
                    self.holdings.done(event);
                }
                event
            }
            Err(error) => Some(LogEvent::Failed(error)),
        }
    }

    /// After how long the log thread wakes by itself, if it does and does not already.
    pub(super) fn log_rests(&mut self) -> Option<Moment> {
        let life = self.life.as_mut().filter(|life| !life.log_wakes && life.step_began.is_none())?;
        let pause = match () {
            () if life.worker.is_blocked() => 100 * MILLISECOND,
            () if life.worker.needs_mark() => 10 * MILLISECOND,
            () => return None,
        };
        life.log_wakes = true;
        Some(pause)
    }

    /// The log thread wakes by itself.
    pub(super) fn wake_log(&mut self) {
        let Some(life) = &mut self.life else { return };
        life.log_wakes = false;
        if life.worker.is_blocked() {
            life.owes = true;
        } else if !self.holdings.is_at_work() && life.asked.is_empty() && life.worker.needs_mark() {
            life.worker.push_mark();
            life.owes = true;
        }
    }

    /// Reads log for a follower, as another thread does.
    pub(super) fn read_log(&self, from: Index, bytes_max: usize) -> LogRead {
        match self.life.as_ref().map(|life| life.reader.read(from, bytes_max)) {
            Some(Ok(entries)) => LogRead::Entries(entries),
            _ => LogRead::Unreadable,
        }
    }

    /// Does the next thing for a checkpoint that is sent or received, and says what came of it.
    pub(super) fn work_transfer(
        &mut self,
        committed: impl Fn(Index) -> Option<Mark>,
    ) -> Option<TransferEvent> {
        let life = self.life.as_mut()?;
        let command = life.world.transfers.pop_front()?;
        if matches!(command, TransferCommand::InstallPart { .. })
            && let Some(checkpoint) = life.world.checkpoint.take()
        {
            checkpoint.give_up(); // As `Outside::transfer` has to.
        }
        let event = life.transfer_worker.carry_out(command);
        if let Some(TransferEvent::Installed(installed)) = &event {
            life.installed = installed.header.index;
            self.holdings.install(installed.header.index, committed);
        }
        event
    }

    /// Does the next thing for the checkpoint under way, and says what came of it.
    pub(super) fn work_checkpoint(&mut self, now: Moment) -> Option<CheckpointEvent> {
        let checkpoint = self.life.as_mut()?.world.checkpoint.as_mut()?;
        self.disk.fail(None);
        if self.full_until > now {
            let call = if self.full_until.is_multiple_of(2) { Call::Create } else { Call::Write };
            self.disk.fail(Some(once(call, Failure::Full, true)));
        }
        let event = checkpoint.step(&self.disk, &Path::new(DATA).join("checkpoint"));
        self.disk.fail(None);
        if matches!(event, Some(CheckpointEvent::Written(_) | CheckpointEvent::Failed(_))) {
            self.life.as_mut()?.world.checkpoint = None;
        }
        event
    }

    /// Whether the power was to go while it stored something: then it has.
    pub(super) fn has_lost_power(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.world.torn_after.is_some())
    }

    /// Whether a checkpoint is being taken.
    pub(super) fn takes_checkpoint(&self) -> bool {
        self.life.as_ref().is_some_and(|life| life.world.checkpoint.is_some())
    }
}

fn once(call: Call, failure: Failure, for_ever: bool) -> Fault {
    Fault { call, number: 1, failure, for_ever }
}

impl Life {
    /// By its own clock, which begins with it.
    pub(super) fn time(&self, now: Moment) -> Time {
        let passed = i128::from(now - self.began) * i128::from(1_000_000 + self.drift) / 1_000_000;
        Duration::from_nanos(passed as u64)
    }

    /// Between two ticks of its own clock.
    pub(super) fn tick_after(&self, tick: Moment) -> Moment {
        tick * 1_000_000 / (1_000_000 + self.drift) as u64 + MICROSECOND
    }

    fn take(&mut self, time: Time, arrived: Arrived) {
        let node = |place: Place| node_id(place as u8 + 1);
        let event = match &arrived {
            Arrived::Tick => Event::Tick,
            Arrived::Connected(to) => Event::Connected(*to),
            Arrived::Disconnected(to) => Event::Disconnected(node(*to)),
            Arrived::Message { from, message } => Event::Message {
                from: *from,
                message: parse(message).expect("what a node sends can be read"),
            },
            Arrived::Request { client, message } => Event::Request {
                client: *client,
                request: parse(message).expect("what a client sends can be read"),
            },
            Arrived::ClientClosed(client) => Event::ClientClosed(*client),
            Arrived::Log(_) | Arrived::LogRead { .. } | Arrived::Checkpoint(_) | Arrived::Transfer(_) => {
                let event = match arrived {
                    Arrived::Log(event) => Event::Log(event),
                    Arrived::LogRead { to, read } => Event::LogRead { to: node(to), read },
                    Arrived::Transfer(event) => Event::Transfer(event),
                    Arrived::Checkpoint(event) => Event::Checkpoint(event),
                    _ => unreachable!(),
                };
                return self.node.handle(time, event, &mut self.world);
            }
        };
        self.node.handle(time, event, &mut self.world);
    }
}

fn marks_of(reader: &LogReader) -> Result<Vec<Mark>, RecoveryError> {
    let mut marks = Vec::new();
    let mut next = reader.first();
    while next <= reader.last() {
        for entry in entry::iterate(&reader.read(next, 1 << 20)?) {
            let entry = entry.expect("the reader has checked it");
            assert_eq!(entry.index, next, "the reader gives the entries in order");
            marks.push((entry.term, checksum_of(entry.bytes)));
            next += 1;
        }
    }
    Ok(marks)
}
