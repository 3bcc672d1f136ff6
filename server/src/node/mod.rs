//! A node: the replication core joined with the store, the log and the checkpoints, in synchronous turns.
//!
//! Events go in with [`Node::handle`], as many as there are; [`Node::finish_turn`] then does everything that
//! has become due at once: one batch for the log, one append for each follower, the answers to clients. What
//! leaves the node goes through [`Outside`], so production's event loop and a simulator run the same code.
//!
//! # Invariants
//!
//! - A promise or an identity is on disk before anything that depends on it leaves the node.
//! - Clients are answered in the order in which their writes were applied, once each.
//! - After [`Node::finish_turn`] has returned an error nothing may be handled any more.

mod acknowledge;
mod batches;
mod checkpoints;
mod disk_watch;
mod formation;
mod histograms;
mod lag;
mod memory;
mod notes;
mod outside;
mod range;
mod reads;
mod recovery;
mod requests;
mod retention;
mod sessions;
#[cfg(test)]
mod tests;
mod transfer_worker;
mod transfers;
mod watches;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use quorate_protocol::entry::{self, Entry, EntryError};
use quorate_protocol::handshake::{HelloRefusal, Limits, NodeAddress, ReplicaIdentity, Welcome};
use quorate_protocol::peer::{Ack, PeerMessage};
use quorate_protocol::request::Request;
use quorate_protocol::response::{MessageCounts, Obstacle, Outcome, Refusal, Response};
use quorate_protocol::{Incarnation, Index, Member, NodeId, NodeSet, Term, VERSION, limits};
use smallvec::SmallVec;
use thiserror::Error;

use crate::checkpoint::{self, Block, CheckpointError, CheckpointEvent, CheckpointHeader};
use crate::directory::DirectoryError;
use crate::log::{LogCommand, LogCounters, LogError, LogEvent, LogReader};
use crate::mutant::{Mutant, is_on};
use crate::replica::{self, Input, LogRead, Membership, Output, Recovered, Replica, Time};
use crate::store::{AHEAD, Decoded, Store};

use acknowledge::Acknowledgements;
use batches::Batches;
use checkpoints::Checkpoints;
use disk_watch::DiskWatch;
use formation::Formation;
use lag::Lag;
use memory::MemoryLimit;
use notes::Notes;
use reads::WaitingRead;
use sessions::Expiry;
use watches::Watches;

pub use outside::{ClientId, Outside};
pub use recovery::{Opened, RecoveryError, State, open};
pub(crate) use recovery::{can_be_repaired, must_have_log};
pub use transfer_worker::{Installed, TransferCommand, TransferEvent, TransferWorker};

/// What a node is started with, beside its identity.
#[derive(Clone, Debug)]
pub struct NodeSettings {
    /// All m replicas.
    pub nodes: NodeSet,
    /// Where clients reach this node.
    pub advertise: String,
    /// How often a leader is heard when it has nothing to say.
    pub heartbeat: Duration,
    /// A node that has heard no leader for so long, and up to twice as long at random, stands for election; a
    /// follower that has not answered for so long does not count as reachable.
    pub election_timeout: Duration,
    /// What the random part of its election timeouts follows from.
    pub election_seed: u64,
    /// For how long voters keep to the leader that they have heard; none: no leases, every linearizable read is
    /// confirmed by a round of heartbeats (R22). The same on all replicas.
    pub lease: Option<Duration>,
    /// Bytes of uncommitted entries beyond which writes are refused.
    pub uncommitted_bytes_max: usize,
    /// Bytes sent to one follower and not acknowledged, beyond which it has to answer first.
    pub window_bytes_max: usize,
    /// Bytes of applied entries that a leader keeps in memory for its followers.
    pub tail_bytes_max: usize,
    /// Bytes of entries from one checkpoint to the next, at least.
    pub checkpoint_interval_bytes: u64,
    /// Bytes of log kept for followers that lack it, beyond what the two checkpoints need.
    pub log_retention_bytes: u64,
    /// Bytes of a checkpoint that a follower which is far behind is sent in a second, at most; 0 for no bound.
    pub transfer_bytes_per_second: u64,
    /// Bytes of memory that the store may take, by its estimate; beyond, writes other than deletes are refused.
    pub memory_bytes_max: u64,
    /// Bytes of memory for changes that were applied, so that whoever watches can be told of them; 0: nobody can
    /// watch. Beside `memory_bytes_max`.
    pub watch_history_bytes: usize,
    /// Whether a leader admits a replica with a replaced data directory as soon as it has caught up, not only when it
    /// is told to (R27).
    pub admits_replaced: bool,
    /// A client's session that was not used for so long ends (R25); longer when the leader changes. At least 16
    /// heartbeats.
    pub session_timeout: Duration,
    /// Requests of one connection that are not answered yet.
    pub in_flight_max: u32,
    /// A log that has not answered for so long is stalled: no entries are taken.
    pub disk_stall: Duration,
    /// A node whose log has not answered for so long stops.
    pub disk_timeout: Duration,
}

impl NodeSettings {
    /// Everything at its default, no limit of memory, and no address that clients could be sent to.
    pub fn new(nodes: NodeSet) -> Self {
        Self {
            nodes,
            advertise: String::new(),
            heartbeat: Duration::from_millis(50),
            election_timeout: Duration::from_millis(300),
            election_seed: 0,
            lease: None,
            uncommitted_bytes_max: 64 << 20,
            window_bytes_max: 8 << 20,
            tail_bytes_max: 16 << 20,
            checkpoint_interval_bytes: 256 << 20,
            log_retention_bytes: 4096 << 20,
            transfer_bytes_per_second: 64 << 20,
            memory_bytes_max: u64::MAX,
            watch_history_bytes: 16 << 20,
            admits_replaced: false,
            session_timeout: Duration::from_secs(600),
            in_flight_max: 16 << 10,
            disk_stall: Duration::from_secs(2),
            disk_timeout: Duration::from_secs(30),
        }
    }
}

/// What happens to a node.
#[derive(Debug)]
pub enum Event<'a> {
    /// Time has passed: comes every few milliseconds.
    Tick,
    /// A client asks.
    Request {
        /// On which connection.
        client: ClientId,
        /// What.
        request: Request<'a>,
    },
    /// The link on which this node sends to another is up; it has introduced itself as this.
    Connected(Member),
    /// The link on which this node sends to another is down.
    Disconnected(NodeId),
    /// A link on which another sends to this node is up, in the place of one before; it has introduced itself as this.
    Accepted(Member),
    /// The link on which another sends to this node is down.
    Closed(NodeId),
    /// A client's connection has ended.
    ClientClosed(ClientId),
    /// Another replica says something.
    Message {
        /// Who, by its handshake.
        from: Member,
        /// What.
        message: PeerMessage<'a>,
    },
    /// The log has done something.
    Log(LogEvent),
    /// The log's files were read.
    LogRead {
        /// For whom.
        to: NodeId,
        /// What was read.
        read: LogRead,
    },
    /// The disk has done its part in sending or receiving a checkpoint.
    Transfer(TransferEvent),
    /// A checkpoint goes on.
    Checkpoint(CheckpointEvent),
}

/// Why a node must stop. Its files are as they were.
#[derive(Debug, Error)]
pub enum NodeError {
    /// The log cannot be written.
    #[error("the log cannot be written any more: {0}{advice}", advice = advice(.0))]
    Log(#[from] LogError),
    /// A checkpoint cannot be written.
    #[error("a checkpoint cannot be written: {0}")]
    Checkpoint(#[from] CheckpointError),
    /// Vote or identity cannot be written.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The disk does not answer.
    #[error(
        "the disk has not answered for {:.1} s, and whether it holds the last entries is not known: look after it, \
         then start the node again", .0.as_secs_f32()
    )]
    DiskTimeout(Duration),
    /// Going on would break a rule.
    #[error("{0}")]
    Rule(String),
}

/// What the operator does about it, if it is the disk.
fn advice(error: &LogError) -> &'static str {
    match error {
        LogError::Io { .. } => "; look after the disk, then start the node again",
        _ => "",
    }
}

/// A client that has asked for a hand-over.
#[derive(Debug)]
struct HandingOver {
    client: ClientId,
    request: u64,
}

/// One node.
pub struct Node {
    settings: NodeSettings,
    formation: Formation,
    /// What the replica begins with, until the cluster has formed.
    recovered: Option<Recovered>,
    replica: Option<Replica>,
    store: Store,
    memory: MemoryLimit,
    reader: LogReader,
    counters: Arc<LogCounters>,
    checkpoints: Checkpoints,
    disk_watch: DiskWatch,
    batches: Batches,
    lag: Lag,
    acknowledgements: Acknowledgements,
    reads: Vec<WaitingRead>,
    watches: Watches,
    handing_over: Vec<HandingOver>,
    expiry: Expiry,
    /// The last entry that ends sessions which this node has appended.
    sessions_end: Index,
    /// The term that it led in at the end of the last turn; none if it did not.
    led: Option<Term>,
    notes: Notes,
    sent: MessageCounts,
    received: MessageCounts,
    /// Whom the links on which this node sends lead to.
    connected: BTreeMap<NodeId, Incarnation>,
    /// Whom the links on which others send to this node come from.
    accepted: BTreeMap<NodeId, Incarnation>,
    /// The log has been asked to drop what lies below.
    dropped_before: Index,
    /// Followers for which a checkpoint's file is open.
    sending: NodeSet,
    /// What was loaded in this turn.
    installed: Option<Installed>,
    swept: Time,
    is_stopping: bool,
    /// It led when it was told to stop, and somebody could follow.
    leaves_office: bool,
    outputs: Vec<Output>,
    error: Option<NodeError>,
}

impl Node {
    /// A node over what [`open`] found. In a cluster of one, or one that has formed before, the replica is
    /// there at once; else it begins when all have met.
    pub fn new(settings: NodeSettings, state: State, counters: Arc<LogCounters>) -> Self {
        let State { identity, recovered, store, checkpoints, reader } = state;
        let mut node = Self {
            formation: Formation::new(
                identity,
                settings.nodes,
                settings.advertise.clone(),
                settings.lease.map_or(0, |lease| lease.as_millis() as u32),
            ),
            replica: None,
            store,
            memory: MemoryLimit::new(settings.memory_bytes_max),
            reader,
            counters,
            checkpoints,
            disk_watch: DiskWatch::default(),
            batches: Batches::new(),
            lag: Lag::new(std::iter::empty(), 0),
            acknowledgements: Acknowledgements::default(),
            reads: Vec::new(),
            watches: Watches::default(),
            handing_over: Vec::new(),
            expiry: Expiry::default(),
            sessions_end: 0,
            led: None,
            notes: Notes::default(),
            sent: MessageCounts::default(),
            received: MessageCounts::default(),
            connected: BTreeMap::new(),
            accepted: BTreeMap::new(),
            dropped_before: 0,
            sending: NodeSet::default(),
            installed: None,
            swept: Time::ZERO,
            is_stopping: false,
            leaves_office: false,
            outputs: Vec::new(),
            error: None,
            recovered: Some(recovered),
            settings,
        };
        node.start_replica_if_formed();
        node
    }

    /// Takes an event. What it brings about happens when the turn is finished, except for answers to reads
    /// and refusals, which are given at once.
    pub fn handle(&mut self, now: Time, event: Event<'_>, outside: &mut impl Outside) {
        match event {
            Event::Tick => self.tick(now, outside),
            Event::Request { client, request } => self.request(now, client, &request, outside),
            Event::Connected(member) => self.connected(now, member, outside),
            Event::Disconnected(node) => {
                self.connected.remove(&node);
                self.step(now, Input::Disconnected(node));
            }
            Event::Accepted(Member { node, incarnation }) => {
                self.accepted.insert(node, incarnation);
            }
            Event::Closed(node) => {
                self.accepted.remove(&node);
            }
            Event::ClientClosed(client) => {
                self.acknowledgements.forget(client);
                self.watches.forget(client);
            }
            Event::Message { from, message: PeerMessage::Stored(cluster) } => {
                if self.formation.stored_by(from.node, cluster) {
                    self.identity_changed(outside);
                }
            }
            Event::Message { from, message } => {
                self.received.count(&message);
                if let PeerMessage::CheckpointAck(ack) = &message {
                    self.note_checkpoint_ack(from.node, ack);
                }
                self.step(now, Input::Message { from, message: &message });
                if let PeerMessage::Ack(ack) = &message {
                    self.measure(now, from.node, ack);
                }
            }
            Event::Log(event) => self.log_event(now, event),
            Event::LogRead { to, read } => self.step(now, Input::LogRead { to, read }),
            Event::Transfer(event) => self.transfer_event(now, event),
            Event::Checkpoint(event) => self.checkpoint_event(event, outside),
        }
    }

    /// Ends a turn. On an error the node must stop, and nothing more leaves it.
    pub fn finish_turn(&mut self, now: Time, outside: &mut impl Outside) -> Result<(), NodeError> {
        if let Some(error) = self.error.take() {
            return Err(error);
        }
        let Some(replica) = &mut self.replica else { return Ok(()) };
        let mut outputs = std::mem::take(&mut self.outputs);
        replica.finish_turn(now, &mut outputs);
        let done = outputs.drain(..).try_for_each(|output| self.carry_out(now, output, outside));
        self.outputs = outputs;
        // What the replica takes for applied may not be.
        done?;
        if let Some(needless) = self.installed.take() {
            outside.discard(needless.store);
        }
        self.notice_office();
        self.answer_tracked(outside);
        self.answer_reads(now, outside);
        self.tell_watches(now, outside);
        self.answer_hand_overs(outside);
        let obstacle = self.obstacle();
        if let Some(replica) = &mut self.replica {
            replica.set_obstacle(obstacle);
        }
        Ok(())
    }

    /// Refuses every request from now on: the node is about to stop. A leader hands over if it can.
    pub fn stop(&mut self, now: Time) {
        self.is_stopping = true;
        if let Some(replica) = &mut self.replica {
            // Who cannot hand over just stops.
            self.leaves_office = replica.hand_over(now, None).is_ok();
        }
    }

    /// Whether requests are refused because the node is about to stop.
    pub fn is_stopping(&self) -> bool {
        self.is_stopping
    }

    /// Whether a request has been taken and not been answered, or leadership is being handed over. That is not over
    /// before the successor leads: the vote of this node may be one of those that it needs. Watches are not waited for,
    /// only to be told that the node stops.
    pub fn is_busy(&self) -> bool {
        let is_handing_over =
            |replica: &Replica| replica.is_handing_over() || self.leaves_office && replica.leader().is_none();
        !self.acknowledgements.is_empty()
            || !self.reads.is_empty()
            || self.is_stopping && self.watches.count() > 0
            || self.replica.as_ref().is_some_and(is_handing_over)
    }

    /// Checks another replica's introduction, and learns from it.
    pub fn meet(&mut self, peer: &ReplicaIdentity, outside: &mut impl Outside) -> Result<(), HelloRefusal> {
        if self.formation.meet(peer, self.has_place(peer))? {
            self.identity_changed(outside);
        }
        Ok(())
    }

    /// Whether a replica may be linked now: no other incarnation of its node is, or it is the one that votes. Who was
    /// first stays, as otherwise two would close each other's links for ever.
    fn has_place(&self, peer: &ReplicaIdentity) -> bool {
        let member = Member { node: peer.node, incarnation: peer.incarnation };
        let links = [&self.connected, &self.accepted].into_iter();
        let mut linked = links.filter_map(|links| links.get(&member.node));
        let votes = |replica: &Replica| replica.members().has(member);
        linked.all(|incarnation| *incarnation == member.incarnation)
            || self.replica.as_ref().is_some_and(votes)
    }

    /// The replica, once the cluster has formed.
    #[cfg(test)]
    pub(crate) fn replica(&self) -> Option<&Replica> {
        self.replica.as_ref()
    }

    /// What is in memory.
    #[cfg(test)]
    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// How this node introduces itself to replicas.
    pub fn introduction(&self) -> ReplicaIdentity {
        let introduction = self.formation.introduction();
        ReplicaIdentity { stored: introduction.stored.filter(|_| self.error.is_none()), ..introduction }
    }

    /// The cluster's name.
    pub fn cluster(&self) -> &str {
        &self.formation.identity().cluster
    }

    /// How this node welcomes a client, or with `replica` another replica.
    pub fn welcome(&self, to_replica: bool) -> Welcome {
        Welcome {
            version: VERSION,
            node: self.formation.identity().node,
            cluster: self.cluster().to_owned(),
            cluster_id: self.formation.identity().cluster_id().filter(|_| self.formation.is_formed()),
            leader: self.leader_hint(),
            nodes: self.formation.node_addresses(),
            limits: Limits {
                key_bytes_max: limits::KEY_BYTES_MAX as u32,
                value_bytes_max: limits::VALUE_BYTES_MAX as u32,
                request_bytes_max: limits::REQUEST_BYTES_MAX as u32,
                in_flight_max: self.settings.in_flight_max,
            },
            replica: to_replica.then(|| self.introduction()),
        }
    }

    fn leader_hint(&self) -> Option<NodeAddress> {
        let node = self.replica.as_ref()?.leader()?;
        Some(NodeAddress { node, address: self.formation.address(node)?.to_owned() })
    }

    fn start_replica_if_formed(&mut self) {
        if !self.formation.is_formed() {
            return;
        }
        let Some(mut recovered) = self.recovered.take() else { return };
        let identity = self.formation.identity();
        if recovered.members == Membership::default() {
            recovered.members = identity.membership(); // It was not known before.
        }
        let replica = Replica::new(
            replica::Settings {
                node: identity.node,
                incarnation: identity.incarnation,
                nodes: self.settings.nodes,
                quorums: identity.quorums,
                leadership: identity.leadership,
                heartbeat: self.settings.heartbeat,
                election_timeout: self.settings.election_timeout,
                election_seed: self.settings.election_seed,
                lease: self.settings.lease,
                uncommitted_bytes_max: self.settings.uncommitted_bytes_max,
                window_bytes_max: self.settings.window_bytes_max,
                tail_bytes_max: self.settings.tail_bytes_max,
                transfer_bytes_per_second: self.settings.transfer_bytes_per_second,
            },
            recovered,
        );
        tracing::info!(
            node = %identity.node, role = if replica.is_leader() { "leader" } else { "follower" },
            term = replica.term(), last = replica.last(), "the cluster is formed"
        );
        self.replica = Some(replica);
        self.notice_office();
    }

    /// What a leader measures begins with its office, and ends with it.
    fn notice_office(&mut self) {
        let Some(replica) = &self.replica else { return };
        let leads = replica.is_leader().then(|| replica.term());
        if leads != self.led {
            self.led = leads;
            self.lag = Lag::new(replica.followers().map(|(node, _)| node), replica.last());
        }
    }

    /// Tells those who have asked for a hand-over how it went.
    fn answer_hand_overs(&mut self, outside: &mut impl Outside) {
        let Some(replica) = self.replica.as_ref().filter(|replica| !replica.is_handing_over()) else {
            return;
        };
        for HandingOver { client, request } in self.handing_over.drain(..) {
            let outcome = match replica.is_leader() {
                false => Outcome::HandedOver { term: replica.term() },
                true => Outcome::Refused(Refusal::NotReady("no other replica has taken over".into())),
            };
            outside.respond(client, &Response { id: request, outcome });
        }
    }

    fn identity_changed(&mut self, outside: &mut impl Outside) {
        if let Err(error) = outside.store_identity(self.formation.identity()) {
            self.error.get_or_insert(error.into());
            return;
        }
        for node in self.connected.keys() {
            self.send_stored(*node, outside);
        }
        if self.formation.is_formed() && self.replica.is_none() {
            self.start_replica_if_formed();
            for (node, incarnation) in self.connected.clone() {
                self.step(Time::ZERO, Input::Connected(Member { node, incarnation }));
            }
        }
    }

    fn send_stored(&self, to: NodeId, outside: &mut impl Outside) {
        if self.error.is_some() {
            return; // It may not have been stored.
        }
        if let Some(cluster) = self.formation.identity().cluster_id() {
            outside.send(to, &PeerMessage::Stored(cluster));
        }
    }

    fn connected(&mut self, now: Time, member: Member, outside: &mut impl Outside) {
        self.connected.insert(member.node, member.incarnation);
        self.send_stored(member.node, outside);
        self.step(now, Input::Connected(member));
    }

    fn step(&mut self, now: Time, input: Input<'_>) {
        if let Some(replica) = &mut self.replica {
            replica.step(now, input);
        }
    }

    /// Takes an ack's times for the indexes that the replica has taken from it.
    fn measure(&mut self, now: Time, from: NodeId, ack: &Ack) {
        if let Some(progress) = self.follower(from) {
            let ack = Ack { durable: progress.durable, applied: progress.applied, ..*ack };
            self.lag.acknowledged(from, &ack, now);
        }
    }

    fn tick(&mut self, now: Time, outside: &mut impl Outside) {
        self.watch_disk(now);
        self.step(now, Input::Tick);
        if now.saturating_sub(self.swept) >= self.settings.heartbeat {
            self.swept = now;
            self.answer_overdue(now, outside);
            self.drop_log(outside);
            self.admit_who_has_caught_up(now);
            self.end_unused_sessions(now);
            self.sweep_transfers(now, outside);
        }
    }

    /// Admits replaced replicas without being asked, if that is wanted.
    fn admit_who_has_caught_up(&mut self, now: Time) {
        let Some(replica) = self.replica.as_mut().filter(|_| self.settings.admits_replaced) else { return };
        let learners = replica.followers().filter(|(_, progress)| progress.connected && !progress.voting);
        for node in learners.map(|(node, _)| node).collect::<Vec<_>>() {
            let _ = replica.admit(now, node); // If it is not time yet, it will be.
        }
    }

    /// Notices a disk that hangs: what is asked of it comes back late or never, and says nothing by itself.
    fn watch_disk(&mut self, now: Time) {
        // So that a tick that comes late, however late, cannot be taken for a stall.
        let silent = self.disk_watch.tick(now, self.settings.disk_stall / 2);
        if silent >= self.settings.disk_timeout {
            self.error.get_or_insert(NodeError::DiskTimeout(silent));
        } else if self.disk_watch.set_stalled(silent >= self.settings.disk_stall) {
            match silent >= self.settings.disk_stall {
                true => tracing::error!(
                    seconds = silent.as_secs_f32(),
                    "the disk does not answer: writes are refused until it does, and the node stops after {:.1} s",
                    self.settings.disk_timeout.as_secs_f32()
                ),
                false => tracing::info!("the disk answers again"),
            }
        }
    }

    /// What keeps this node from taking entries.
    fn obstacle(&self) -> Option<Obstacle> {
        self.disk_watch.obstacle().or_else(|| self.memory_obstacle())
    }

    fn log_event(&mut self, now: Time, event: LogEvent) {
        self.disk_watch.answered(&event);
        match event {
            LogEvent::Durable { generation, index, queued, sync, entries, bytes } => {
                self.batches.written(sync, entries, bytes);
                self.step(now, Input::Durable { generation, index, disk: queued, sync });
            }
            LogEvent::Truncated { .. } | LogEvent::Dropped { .. } => {}
            LogEvent::Blocked(error) => {
                tracing::error!(
                    "there is no room for the log: free space, writes are refused until there is some: {error}"
                );
            }
            LogEvent::Resumed => {
                tracing::info!("there is room for the log again");
            }
            LogEvent::Failed(error) => {
                self.error.get_or_insert(error.into());
            }
        }
    }

    fn carry_out(&mut self, now: Time, output: Output, outside: &mut impl Outside) -> Result<(), NodeError> {
        match output {
            Output::Promise(promise) => outside.store_promise(promise)?,
            Output::Led => outside.store_led()?,
            Output::Held(held) => outside.store_held(held)?,
            Output::Members(members) => outside.store_members(&members)?,
            Output::Append { generation, first, last, commit, entries } => {
                self.lag.appended(first, last, now);
                let command = LogCommand::Append { generation, first, last, commit, entries };
                self.disk_watch.asked(&command);
                outside.log(command);
            }
            Output::Truncate { generation, after } => {
                tracing::info!(after, "removing entries that a later leader does not have");
                self.memory.truncated(after);
                self.answer_truncated(after, outside);
                let command = LogCommand::Truncate { generation, after };
                self.disk_watch.asked(&command);
                outside.log(command);
            }
            Output::Send { to, message } => {
                if let Some(first) = message.first_entry() {
                    self.lag.sent(to, first, now);
                }
                let message = message.to_wire();
                self.sent.count(&message);
                outside.send(to, &message);
            }
            Output::ReadLog { to, from, bytes_max } => self.read_log(now, to, from, bytes_max, outside),
            Output::OpenCheckpoint { to, verify } => self.open_checkpoint(to, verify, outside),
            Output::ReadCheckpoint { to, index, offset, bytes_max } => {
                outside.transfer(TransferCommand::Read { to, index, offset, bytes_max });
            }
            Output::OpenPart { index, total_bytes } => {
                tracing::info!(
                    index,
                    total_bytes,
                    "receiving a checkpoint: the leader's log no longer holds what is lacking"
                );
                outside.transfer(TransferCommand::OpenPart { index, total_bytes });
            }
            Output::StorePart { index, offset, bytes } => {
                outside.transfer(TransferCommand::StorePart { index, offset, bytes });
            }
            Output::InstallPart { index } => self.install_part(index, outside),
            Output::Restore { index, generation } => self.restore(index, generation, outside),
            Output::Apply(entries) => self.apply(&entries, outside)?,
            Output::Report(report) => tracing::warn!("{report}"),
            Output::Note(note) => {
                let (node, term) =
                    (self.formation.identity().node, self.replica.as_ref().map_or(0, Replica::term));
                self.notes.say(now, node, term, note);
            }
            Output::Stop(reason) => return Err(NodeError::Rule(reason)),
        }
        Ok(())
    }

    fn apply(&mut self, entries: &[u8], outside: &mut impl Outside) -> Result<(), NodeError> {
        let mut entries = entry::iterate(entries);
        loop {
            let batch = entries.by_ref().take(AHEAD).map(decode);
            let batch = batch.collect::<Result<SmallVec<[_; AHEAD]>, _>>()?;
            if batch.is_empty() {
                return Ok(());
            }
            self.store.look_ahead(batch.iter().map(|(_, decoded)| decoded));
            for (entry, decoded) in &batch {
                let applied = self.store.apply_decoded(decoded);
                self.answer(entry, applied, outside);
                self.memory.applied(entry.index);
                outside.applied(entry);
                if self.checkpoints.applied(entry.index, entry.bytes.len(), self.store.bytes()) {
                    self.begin_checkpoint(entry, outside);
                }
            }
        }
    }

    fn begin_checkpoint(&mut self, entry: &Entry<'_>, outside: &mut impl Outside) {
        let replica = self.replica.as_ref().expect("only a replica applies entries");
        let cluster = self.formation.identity().cluster_id().expect("only a formed cluster has entries");
        let terms = replica.terms().starts(entry.index).to_vec();
        tracing::info!(index = entry.index, keys = self.store.keys(), "a checkpoint begins");
        self.store.begin_snapshot();
        if is_on(Mutant::LogDroppedEarly) {
            outside.log(LogCommand::DropBefore(entry.index + 1));
        }
        let (index, term) = (entry.index, entry.term);
        let members = replica.members().at(index);
        outside.begin_checkpoint(CheckpointHeader { index, term, cluster, terms, members });
    }

    fn checkpoint_event(&mut self, event: CheckpointEvent, outside: &mut impl Outside) {
        match event {
            CheckpointEvent::WantsBlock => {
                if self.checkpoints.is_taking() {
                    let (block, is_last) = self.snapshot_block();
                    outside.checkpoint_block(block, is_last);
                }
            }
            CheckpointEvent::Written(info) => {
                tracing::info!(
                    index = info.index,
                    keys = info.keys,
                    bytes = info.bytes,
                    "checkpoint written"
                );
                self.checkpoints.written(info.index);
                self.drop_log(outside);
            }
            CheckpointEvent::Failed(error) => {
                self.checkpoints.failed();
                self.store.end_snapshot();
                if error.is_no_room() {
                    // The log stays until one succeeds.
                    tracing::error!(
                        "there is no room for a checkpoint: free space, the log is kept until the next one: {error}"
                    );
                } else {
                    // Of what the disk holds, or will hold, nothing is known any more.
                    self.error.get_or_insert(error.into());
                }
            }
        }
    }

    fn snapshot_block(&mut self) -> (Block, bool) {
        let (block, is_last) = checkpoint::next_block(&mut self.store);
        if is_last {
            self.store.end_snapshot();
        }
        (block, is_last)
    }
}

fn decode<'a>(entry: Result<Entry<'a>, EntryError>) -> Result<(Entry<'a>, Decoded<'a>), NodeError> {
    let entry = entry.map_err(damaged)?;
    Ok((entry, Decoded::new(&entry).map_err(damaged)?))
}

fn damaged(error: impl Display) -> NodeError {
    NodeError::Rule(format!("a committed entry is damaged: {error}"))
}
