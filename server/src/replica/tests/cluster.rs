//! A cluster of replicas in memory, in which nothing happens that the test does not ask for: messages wait
//! on their links, entries wait before the disk, and completed syncs wait to be told.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::entry::Entry;
use quorate_protocol::response::Obstacle;
use quorate_protocol::{Index, Member as NodeIdentity, NodeId, Term};

use super::super::{
    Checkpoint, Input, LogRead, Membership, Message, Output, Promise, ProposeError, Recovered, Replica,
    Settings, Tail, Terms, Time,
};
use super::{entry, founders, node, set, settings};

/// Checkpoints are small here, and so are their pieces.
const PIECE_BYTES: usize = 100;

/// Rounds after which a cluster that is still busy never comes to rest.
const ROUNDS_MAX: usize = 10_000;

pub(super) struct Cluster {
    pub(super) now: Time,
    members: Vec<Member>,
    /// What the replicas have done, as scripts show it; for whoever wants to know.
    pub(super) trace: Option<Vec<String>>,
    links: BTreeMap<(u8, u8), Link>,
    /// Checkpoints that some node went on behind: with the log that it had, and with a new one.
    pub(super) restored: [usize; 2],
}

pub(super) struct Member {
    settings: Settings,
    pub(super) replica: Replica,
    pub(super) disk: Disk,
    /// What was applied, from entry 1 on.
    pub(super) applied: Vec<Bytes>,
    /// Log reads that are not answered: for whom, from where.
    pub(super) reads: VecDeque<(NodeId, Index)>,
    /// What is asked about checkpoints that are sent or received, and not answered.
    pub(super) transfers: VecDeque<Output>,
    /// The checkpoint that is open for each follower.
    outgoing: BTreeMap<NodeId, Index>,
    /// What a checkpoint that was installed in this turn holds.
    loaded: Option<Vec<Bytes>>,
    pub(super) reports: Vec<String>,
    pub(super) stopped: Option<String>,
}

/// What a node has given to its disk, and how far the disk is.
#[derive(Default)]
pub(super) struct Disk {
    promise: Promise,
    led: Term,
    /// As the log was before it was damaged.
    pub(super) held: Option<(Term, Index)>,
    /// Who votes and counts, as last noted.
    members: Option<Membership>,
    /// Durable, from entry 1 on.
    pub(super) entries: Vec<Bytes>,
    /// As the log was last told.
    commit: Index,
    /// The newest checkpoint: what was applied up to here. The log begins behind it.
    pub(super) checkpoint: Index,
    /// A checkpoint that was installed: all entries up to its index.
    installed: Vec<Bytes>,
    /// What was received of a checkpoint: its index, and its bytes so far.
    pub(super) part: (Index, Vec<u8>),
    /// Submitted, not durable.
    pub(super) submitted: VecDeque<Operation>,
    /// Durable, but the replica does not know yet: (generation, index).
    pub(super) completed: VecDeque<(u64, Index)>,
}

pub(super) enum Operation {
    Append { generation: u64, first: Index, commit: Index, entries: Bytes },
    Truncate { after: Index },
}

#[derive(Default)]
pub(super) struct Link {
    pub(super) is_up: bool,
    pub(super) queue: VecDeque<Message>,
}

impl Disk {
    /// Makes the first `count` submitted operations durable.
    pub(super) fn sync(&mut self, count: usize) {
        for operation in self.submitted.drain(..count) {
            match operation {
                Operation::Append { generation, first, commit, entries } => {
                    assert_eq!(first, self.entries.len() as Index + 1, "a log has no holes");
                    self.entries.extend(split(&entries));
                    let last = self.entries.len() as Index;
                    self.commit = self.commit.max(commit.min(last));
                    self.completed.push_back((generation, last));
                }
                Operation::Truncate { after } => {
                    assert!(after >= self.commit, "R16");
                    self.entries.truncate(after as usize);
                }
            }
        }
    }

    /// The newest index that a start may take for committed.
    pub(super) fn commit(&self) -> Index {
        self.commit
    }

    /// Whether an entry is durable, in the log or in a checkpoint.
    pub(super) fn holds(&self, entry: &Bytes) -> bool {
        let at = Entry::parse(entry).unwrap().index as usize - 1;
        self.entries.get(at).or(self.installed.get(at)) == Some(entry)
    }

    /// Goes on behind the checkpoint that was installed, with a log that does not lead to it.
    fn restart_log(&mut self) {
        self.entries = self.installed.clone();
        self.commit = self.entries.len() as Index;
        self.checkpoint = self.commit;
    }

    /// What recovery does if there was no time for that, or if the log had not got so far.
    fn restart_log_if_it_differs(&mut self) {
        let at = self.installed.len();
        if at > 0 && self.entries.get(at - 1) != self.installed.last() {
            self.restart_log();
        }
        self.commit = self.commit.max(at as Index);
    }

    fn recover(&self, applied: Index, m: u8) -> Recovered {
        let mut terms = Terms::default();
        let mut members = Membership::of_checkpoint(founders(m), 0, self.members.as_ref());
        for bytes in &self.entries {
            let entry = Entry::parse(bytes).unwrap();
            terms.push(entry.index, entry.term);
            members.set(entry.index, entry.admission());
        }
        if let (Some(_), Some(noted)) = (self.held, &self.members) {
            members.add_lost(noted, self.entries.len() as Index);
        }
        let mut tail = Tail::default();
        let last = self.entries.len() as Index;
        if last > applied {
            tail.push(applied + 1, last, self.entries[applied as usize..].concat().into());
        }
        Recovered { promise: self.promise, led: self.led, terms, members, held: self.held, applied, tail }
    }
}

/// An output as scripts show it.
fn describe(id: u8, output: &Output) -> String {
    let run = |entries: &Bytes| {
        let indexes: Vec<Index> = split(entries).map(|bytes| Entry::parse(&bytes).unwrap().index).collect();
        format!("{}..={}", indexes[0], indexes[indexes.len() - 1])
    };
    match output {
        Output::Promise(Promise { term, voted_for: Some(node) }) => {
            format!("{id}: promises term {term} to {node}")
        }
        Output::Promise(Promise { term, voted_for: None }) => format!("{id}: promises term {term}"),
        Output::Append { first, last, .. } => format!("{id}: appends {first}..={last}"),
        Output::Truncate { after, .. } => format!("{id}: truncates after {after}"),
        Output::Send { to, message } => format!("{id} → {to}: {}", super::scripts::describe(message)),
        Output::ReadLog { to, from, .. } => format!("{id}: reads its log from {from} on for {to}"),
        Output::Apply(entries) => format!("{id}: applies {}", run(entries)),
        Output::Report(text) => format!("{id}: reports: {text}"),
        Output::Note(text) => format!("{id}: {text}"),
        Output::Stop(text) => format!("{id}: stops: {text}"),
        Output::Led => format!("{id}: notes that it leads"),
        Output::Held(Some((term, index))) => format!("{id}: notes that its log held {index} of term {term}"),
        Output::Members(_) => format!("{id}: notes who counts"),
        Output::Held(None) => format!("{id}: notes that its log is whole again"),
        Output::OpenCheckpoint { to, verify } => {
            let checked = if *verify { ", and checks it" } else { "" };
            format!("{id}: opens its checkpoint for {to}{checked}")
        }
        Output::ReadCheckpoint { to, index, offset, .. } => {
            format!("{id}: reads checkpoint {index} from byte {offset} on for {to}")
        }
        Output::OpenPart { index, total_bytes } => {
            format!("{id}: looks what it has of checkpoint {index}, of {total_bytes} bytes")
        }
        Output::StorePart { index, offset, bytes } => {
            format!("{id}: writes bytes {offset}..{} of checkpoint {index}", offset + bytes.len() as u64)
        }
        Output::InstallPart { index } => format!("{id}: checks checkpoint {index}, and loads it"),
        Output::Restore { index, generation: Some(_) } => {
            format!("{id}: goes on behind checkpoint {index} with a new log")
        }
        Output::Restore { index, generation: None } => format!("{id}: goes on behind checkpoint {index}"),
    }
}

/// The entries of a run.
fn split(entries: &Bytes) -> impl Iterator<Item = Bytes> {
    quorate_protocol::entry::iterate(entries).map(|entry| entries.slice_ref(entry.unwrap().bytes))
}

impl Member {
    fn start(settings: Settings, disk: Disk, applied: Index) -> Self {
        Self {
            replica: Replica::new(settings.clone(), disk.recover(applied, settings.quorums.replicas())),
            settings,
            applied: disk.entries[..applied as usize].to_vec(),
            disk,
            reads: VecDeque::new(),
            transfers: VecDeque::new(),
            outgoing: BTreeMap::new(),
            loaded: None,
            reports: Vec::new(),
            stopped: None,
        }
    }

    /// The checkpoint at an index, as a file.
    fn file(&self, index: Index) -> Vec<u8> {
        self.applied[..index as usize].concat()
    }

    /// Checks what was received, and loads it.
    fn install(&mut self, index: Index) -> Input<'static> {
        let (of, bytes) = std::mem::take(&mut self.disk.part);
        assert_eq!(of, index);
        let bytes = Bytes::from(bytes);
        let entries: Result<Vec<_>, _> = quorate_protocol::entry::iterate(&bytes).collect();
        let mut terms = Terms::default();
        let mut members = founders(self.settings.quorums.replicas());
        match entries {
            Ok(entries) if entries.len() as Index == index => {
                entries.iter().for_each(|entry| terms.push(entry.index, entry.term));
                let admissions = entries.iter().filter_map(|entry| Some((entry.index, entry.admission()?)));
                for (index, member) in admissions {
                    members.set(index, Some(member));
                }
            }
            _ => return Input::PartDamaged(index),
        }
        let entries: Vec<_> = split(&bytes).collect();
        self.disk.installed = entries.clone();
        self.loaded = Some(entries);
        Input::PartInstalled { terms, members }
    }

    /// (term, index) of everything durable.
    pub(super) fn log(&self) -> Vec<(Term, Index)> {
        let entries = self.disk.entries.iter().map(|bytes| Entry::parse(bytes).unwrap());
        entries.map(|entry| (entry.term, entry.index)).collect()
    }
}

impl Cluster {
    /// m fresh replicas, all connected; the leader has only just started.
    pub(super) fn new(m: u8, n: u8) -> Self {
        Self::with(m, n, |_| {})
    }

    pub(super) fn with(m: u8, n: u8, change: impl Fn(&mut Settings)) -> Self {
        let members = (1..=m).map(|id| {
            let mut settings = settings(id, m, n);
            change(&mut settings);
            Member::start(settings, Disk::default(), 0)
        });
        let ids = || 1..=m;
        let pairs = ids().flat_map(|from| ids().map(move |to| (from, to))).filter(|(from, to)| from != to);
        let mut cluster = Self {
            now: Duration::ZERO,
            members: members.collect(),
            trace: None,
            links: pairs.map(|pair| (pair, Link::default())).collect(),
            restored: [0; 2],
        };
        ids().for_each(|id| cluster.turn(id, |_, _| {}));
        cluster.connect_all();
        cluster
    }

    /// A cluster whose leader has committed its first entry, and everybody knows.
    pub(super) fn settled(m: u8, n: u8) -> Self {
        let mut cluster = Self::new(m, n);
        cluster.settle();
        assert_eq!(cluster.replica(1).commit(), 1);
        cluster
    }

    /// One replica for each log, given as its entries' terms; all have to hold what is committed. No link is up.
    pub(super) fn with_logs(logs: &[&[Term]]) -> Self {
        let m = logs.len() as u8;
        let mut cluster = Self::new(m, m);
        for (id, terms) in (1..).zip(logs) {
            cluster.give_log(id, terms);
        }
        cluster
    }

    /// Who a node is now.
    pub(super) fn identity(&self, id: u8) -> NodeIdentity {
        let Settings { node, incarnation, .. } = self.members[usize::from(id) - 1].settings;
        NodeIdentity { node, incarnation }
    }

    /// Starts a node anew with another log; its links are down.
    pub(super) fn give_log(&mut self, id: u8, terms: &[Term]) {
        self.isolate(id);
        let disk = &mut self.member(id).disk;
        disk.submitted.clear();
        disk.promise = Promise { term: terms.last().copied().unwrap_or(0), voted_for: None };
        disk.entries = (1..).zip(terms).map(|(index, term)| entry(*term, index, b"value").into()).collect();
        self.restart(id, 0, 0);
    }

    pub(super) fn ids(&self) -> impl Iterator<Item = u8> + use<> {
        1..=self.members.len() as u8
    }

    pub(super) fn followers(&self) -> impl Iterator<Item = u8> + use<> {
        self.ids().skip(1)
    }

    pub(super) fn member(&mut self, id: u8) -> &mut Member {
        &mut self.members[usize::from(id) - 1]
    }

    pub(super) fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.iter()
    }

    pub(super) fn replica(&self, id: u8) -> &Replica {
        &self.members[usize::from(id) - 1].replica
    }

    pub(super) fn commits(&self) -> Vec<Index> {
        self.members.iter().map(|member| member.replica.commit()).collect()
    }

    pub(super) fn link(&mut self, from: u8, to: u8) -> &mut Link {
        self.links.get_mut(&(from, to)).unwrap()
    }

    pub(super) fn pairs(&self) -> Vec<(u8, u8)> {
        self.links.keys().copied().collect()
    }

    /// A whole turn: whatever `act` does to the replica, and then what comes of it.
    pub(super) fn turn<R>(&mut self, id: u8, act: impl FnOnce(&mut Replica, Time) -> R) -> R {
        let now = self.now;
        let replica = &mut self.member(id).replica;
        let result = act(replica, now);
        let mut outputs = Vec::new();
        replica.finish_turn(now, &mut outputs);
        self.carry_out(id, outputs);
        result
    }

    fn carry_out(&mut self, id: u8, outputs: Vec<Output>) {
        let mut has_sent = false;
        for output in outputs {
            if let Some(trace) = &mut self.trace {
                trace.push(describe(id, &output));
            }
            let member = self.member(id);
            match output {
                Output::Promise(promise) => {
                    assert!(!has_sent && promise.may_follow(&member.disk.promise), "R5, R6");
                    member.disk.promise = promise;
                }
                Output::Led => member.disk.led = member.disk.promise.term,
                Output::Held(held) => member.disk.held = held,
                Output::Members(members) => member.disk.members = Some(members),
                Output::Append { generation, first, commit, entries, .. } => {
                    let append = Operation::Append { generation, first, commit, entries };
                    member.disk.submitted.push_back(append);
                }
                Output::Truncate { after, .. } => {
                    member.disk.submitted.push_back(Operation::Truncate { after });
                }
                Output::Send { to, message } => {
                    has_sent = true;
                    let link = self.link(id, to.get());
                    if link.is_up {
                        link.queue.push_back(message);
                    }
                }
                Output::ReadLog { to, from, .. } => member.reads.push_back((to, from)),
                Output::OpenCheckpoint { .. }
                | Output::ReadCheckpoint { .. }
                | Output::OpenPart { .. }
                | Output::StorePart { .. }
                | Output::InstallPart { .. } => member.transfers.push_back(output),
                Output::Restore { index, generation } => {
                    member.applied = member.loaded.take().expect("what is restored was just loaded");
                    assert_eq!(member.applied.len() as Index, index);
                    if generation.is_some() {
                        member.disk.submitted.clear();
                        member.disk.restart_log();
                    }
                    self.restored[usize::from(generation.is_some())] += 1;
                }
                Output::Apply(entries) => {
                    for bytes in split(&entries) {
                        let index = Entry::parse(&bytes).unwrap().index;
                        member.applied.push(bytes);
                        assert_eq!(index, member.applied.len() as Index, "applied in order, without holes");
                    }
                }
                Output::Report(report) => member.reports.push(report),
                Output::Note(_) => {}
                Output::Stop(reason) => {
                    member.stopped = Some(reason);
                    return;
                }
            }
        }
    }

    /// Of those that lead, the one with the highest term.
    pub(super) fn leader(&self) -> Option<u8> {
        let leaders = self.ids().filter(|id| self.replica(*id).is_leader());
        leaders.max_by_key(|id| self.replica(*id).term())
    }

    /// A write for the leader, or for node 1 if there is none.
    pub(super) fn propose(&mut self, value: &[u8]) -> Result<Index, ProposeError> {
        self.propose_to(self.leader().unwrap_or(1), value)
    }

    pub(super) fn propose_to(&mut self, id: u8, value: &[u8]) -> Result<Index, ProposeError> {
        self.turn(id, |replica, now| replica.propose(now, &set(value)))
    }

    pub(super) fn set_obstacle(&mut self, id: u8, obstacle: Option<Obstacle>) {
        self.turn(id, |replica, _| replica.set_obstacle(obstacle));
    }

    /// Hands over a message, without taking it off a link.
    pub(super) fn receive(&mut self, from: u8, to: u8, message: &Message) {
        let message = message.to_wire();
        let from = self.identity(from);
        self.turn(to, |replica, now| replica.step(now, Input::Message { from, message: &message }));
    }

    /// Delivers what waits on a link, each message in a turn of its own.
    pub(super) fn deliver(&mut self, from: u8, to: u8) {
        while let Some(message) = self.link(from, to).queue.pop_front() {
            self.receive(from, to, &message);
        }
    }

    /// Delivers everything that the leader has sent.
    pub(super) fn deliver_appends(&mut self) {
        self.followers().for_each(|id| self.deliver(1, id));
    }

    /// Delivers everything that the followers have sent.
    pub(super) fn deliver_answers(&mut self) {
        self.followers().for_each(|id| self.deliver(id, 1));
    }

    /// Makes everything durable that a node has given to its disk, and tells it.
    pub(super) fn sync(&mut self, id: u8) {
        let disk = &mut self.member(id).disk;
        disk.sync(disk.submitted.len());
        self.tell_synced(id);
    }

    /// Tells a node of completed syncs, in one turn.
    pub(super) fn tell_synced(&mut self, id: u8) {
        let completed = std::mem::take(&mut self.member(id).disk.completed);
        self.turn(id, |replica, now| {
            for (generation, index) in completed {
                let (disk, sync) = (Duration::from_millis(2), Duration::from_millis(1));
                replica.step(now, Input::Durable { generation, index, disk, sync });
            }
        });
    }

    /// Answers the oldest log read with up to `count` entries.
    pub(super) fn answer_read(&mut self, id: u8, count: usize) {
        let member = self.member(id);
        let Some((to, from)) = member.reads.pop_front() else { return };
        let read = if from <= member.disk.checkpoint {
            LogRead::Dropped
        } else {
            let durable = member.disk.entries.get(from as usize - 1..).expect("what is read is durable");
            assert!(!durable.is_empty(), "what is read is durable");
            LogRead::Entries(durable[..count.min(durable.len())].concat().into())
        };
        self.turn(id, |replica, now| replica.step(now, Input::LogRead { to, read }));
    }

    /// Takes a checkpoint of what is applied, if that is in the log, and drops the log up to it.
    pub(super) fn take_checkpoint(&mut self, id: u8) {
        let member = self.member(id);
        if !member.disk.entries.starts_with(&member.applied) {
            return;
        }
        let checkpoint = member.applied.len() as Index;
        member.disk.checkpoint = checkpoint;
        let superseded: Vec<_> = self
            .replica(id)
            .followers()
            .filter_map(|(node, progress)| {
                let sent = progress.transfer?.checkpoint?;
                (sent.index < checkpoint).then_some(node)
            })
            .collect();
        for node in superseded {
            self.turn(id, |replica, now| replica.step(now, Input::CheckpointSuperseded(node)));
        }
    }

    /// Does the first thing that was asked about checkpoints, and tells.
    pub(super) fn work_transfer(&mut self, id: u8) -> bool {
        let Some(asked) = self.member(id).transfers.pop_front() else { return false };
        let member = self.member(id);
        let input = match asked {
            Output::OpenCheckpoint { to, .. } => {
                let index = member.disk.checkpoint;
                member.outgoing.insert(to, index);
                let bytes = member.file(index).len() as u64;
                Input::CheckpointOpened { to, checkpoint: Some(Checkpoint { index, bytes }) }
            }
            Output::ReadCheckpoint { to, index, offset, bytes_max } => {
                let is_open = member.outgoing.get(&to) == Some(&index);
                let bytes = is_open.then(|| {
                    let file = member.file(index).split_off(offset as usize);
                    Bytes::copy_from_slice(&file[..file.len().min(bytes_max).min(PIECE_BYTES)])
                });
                Input::CheckpointRead { to, index, offset, bytes }
            }
            Output::OpenPart { index, .. } => {
                if member.disk.part.0 != index {
                    member.disk.part = (index, Vec::new());
                }
                Input::PartStored { index, bytes: member.disk.part.1.len() as u64 }
            }
            Output::StorePart { index, offset, bytes } => {
                assert_eq!((member.disk.part.0, member.disk.part.1.len() as u64), (index, offset));
                member.disk.part.1.extend_from_slice(&bytes);
                Input::PartStored { index, bytes: offset + bytes.len() as u64 }
            }
            Output::InstallPart { index } => member.install(index),
            other => panic!("not about checkpoints: {other:?}"),
        };
        self.turn(id, |replica, now| replica.step(now, input));
        self.member(id).loaded = None;
        true
    }

    /// Delivers, syncs and reads until nothing is left to do. Time stands still.
    pub(super) fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let is_busy = self.links.values().any(|link| !link.queue.is_empty())
                || self.members.iter().any(|member| {
                    !member.disk.submitted.is_empty()
                        || !member.disk.completed.is_empty()
                        || !member.reads.is_empty()
                        || !member.transfers.is_empty()
                });
            if !is_busy {
                return;
            }
            for (from, to) in self.pairs() {
                self.deliver(from, to);
            }
            for id in self.ids() {
                self.sync(id);
                self.answer_read(id, usize::MAX);
                self.work_transfer(id);
            }
        }
        panic!("the cluster does not come to rest");
    }

    /// Time passes, for everybody.
    pub(super) fn advance(&mut self, by: Duration) {
        self.now += by;
        self.ids().for_each(|id| self.tick(id));
    }

    /// A node notices the time.
    pub(super) fn tick(&mut self, id: u8) {
        self.turn(id, |replica, now| replica.step(now, Input::Tick));
    }

    pub(super) fn connect(&mut self, from: u8, to: u8) {
        self.link(from, to).is_up = true;
        let to = self.identity(to);
        self.turn(from, |replica, now| replica.step(now, Input::Connected(to)));
    }

    /// Messages that were sent may still arrive.
    pub(super) fn disconnect(&mut self, from: u8, to: u8) {
        self.link(from, to).is_up = false;
        self.turn(from, |replica, now| replica.step(now, Input::Disconnected(node(to))));
    }

    pub(super) fn connect_all(&mut self) {
        for (from, to) in self.pairs() {
            if !self.link(from, to).is_up {
                self.connect(from, to);
            }
        }
    }

    /// Cuts a node off in both directions; what is under way is lost.
    pub(super) fn isolate(&mut self, id: u8) {
        for (from, to) in self.pairs() {
            if from == id || to == id {
                self.disconnect(from, to);
                self.link(from, to).queue.clear();
            }
        }
    }

    /// Kills a node and starts it: of what it had given to its disk, the first `kept` operations were done.
    /// Its links are down; what is on them stays. It takes entries up to `applied` for committed.
    pub(super) fn restart(&mut self, id: u8, kept: usize, applied: Index) {
        for (from, to) in self.pairs() {
            if from == id || to == id {
                self.link(from, to).is_up = false;
            }
            if to == id {
                self.turn(from, |replica, now| replica.step(now, Input::Disconnected(node(id))));
            }
        }
        let member = self.member(id);
        let mut disk = std::mem::take(&mut member.disk);
        disk.sync(kept);
        disk.submitted.clear();
        disk.completed.clear();
        disk.restart_log_if_it_differs();
        let applied = applied.max(disk.checkpoint).max(disk.installed.len() as Index);
        *member = Member::start(member.settings.clone(), disk, applied);
        self.turn(id, |_, _| {});
    }

    /// Kills a node, whose log is then found damaged behind its first `left` entries. What it had given to its disk is
    /// gone, and what is on its links.
    pub(super) fn damage(&mut self, id: u8, left: usize) {
        self.isolate(id);
        let disk = &mut self.member(id).disk;
        // What is in a checkpoint is not in the log.
        let left = left.max(disk.checkpoint as usize).max(disk.installed.len()).min(disk.entries.len());
        disk.held = disk.held.max(Some((disk.promise.term, Index::MAX))); // Nobody can say how far it went.
        disk.entries.truncate(left);
        disk.commit = disk.commit.min(left as Index);
        let applied = disk.commit;
        self.restart(id, 0, applied);
    }

    /// Kills a node and starts it with an empty disk: it is another incarnation.
    pub(super) fn wipe(&mut self, id: u8) {
        self.isolate(id);
        let member = self.member(id);
        member.disk = Disk::default();
        member.settings.incarnation.0 += 100;
        self.restart(id, 0, 0);
    }

    /// Kills a node and starts it: what was not durable is gone, and so is what was on its links.
    pub(super) fn crash(&mut self, id: u8) {
        self.isolate(id);
        let applied = self.member(id).disk.commit();
        self.restart(id, 0, applied);
    }
}
