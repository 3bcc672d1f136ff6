//! A cluster of replicas in memory, in which nothing happens that the test does not ask for: messages wait
//! on their links, entries wait before the disk, and completed syncs wait to be told.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use bytes::Bytes;
use quorate_protocol::entry::Entry;
use quorate_protocol::response::Obstacle;
use quorate_protocol::{Index, NodeId, Term};

use super::super::{
    Input, Message, Output, Promise, ProposeError, Recovered, Replica, Settings, Tail, Terms, Time,
};
use super::{entry, node, set, settings};

/// Rounds after which a cluster that is still busy never comes to rest.
const ROUNDS_MAX: usize = 10_000;

pub(super) struct Cluster {
    pub(super) now: Time,
    members: Vec<Member>,
    /// What the replicas have done, as scripts show it; for whoever wants to know.
    pub(super) trace: Option<Vec<String>>,
    links: BTreeMap<(u8, u8), Link>,
}

pub(super) struct Member {
    settings: Settings,
    pub(super) replica: Replica,
    pub(super) disk: Disk,
    /// What was applied, from entry 1 on.
    pub(super) applied: Vec<Bytes>,
    /// Log reads that are not answered: for whom, from where.
    pub(super) reads: VecDeque<(NodeId, Index)>,
    pub(super) reports: Vec<String>,
    pub(super) stopped: Option<String>,
}

/// What a node has given to its disk, and how far the disk is.
#[derive(Default)]
pub(super) struct Disk {
    promise: Promise,
    /// Durable, from entry 1 on.
    pub(super) entries: Vec<Bytes>,
    /// As the log was last told.
    commit: Index,
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

    fn recover(&self, applied: Index) -> Recovered {
        let mut terms = Terms::default();
        for bytes in &self.entries {
            let entry = Entry::parse(bytes).unwrap();
            terms.push(entry.index, entry.term);
        }
        let mut tail = Tail::default();
        let last = self.entries.len() as Index;
        if last > applied {
            tail.push(applied + 1, last, self.entries[applied as usize..].concat().into());
        }
        Recovered { promise: self.promise, terms, applied, tail }
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
    }
}

/// The entries of a run.
fn split(entries: &Bytes) -> impl Iterator<Item = Bytes> {
    quorate_protocol::entry::iterate(entries).map(|entry| entries.slice_ref(entry.unwrap().bytes))
}

impl Member {
    fn start(settings: Settings, disk: Disk, applied: Index) -> Self {
        Self {
            replica: Replica::new(settings.clone(), disk.recover(applied)),
            settings,
            applied: disk.entries[..applied as usize].to_vec(),
            disk,
            reads: VecDeque::new(),
            reports: Vec::new(),
            stopped: None,
        }
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
        self.turn(to, |replica, now| {
            replica.step(now, Input::Message { from: node(from), message: &message });
        });
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
        let durable = member.disk.entries.get(from as usize - 1..).expect("what is read is durable");
        let entries = durable[..count.min(durable.len())].concat();
        assert!(!entries.is_empty(), "what is read is durable");
        self.turn(id, |replica, now| replica.step(now, Input::LogRead { to, entries: Some(entries.into()) }));
    }

    /// Delivers, syncs and reads until nothing is left to do. Time stands still.
    pub(super) fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let is_busy = self.links.values().any(|link| !link.queue.is_empty())
                || self.members.iter().any(|member| {
                    !member.disk.submitted.is_empty()
                        || !member.disk.completed.is_empty()
                        || !member.reads.is_empty()
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
        self.turn(from, |replica, now| replica.step(now, Input::Connected(node(to))));
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
        *member = Member::start(member.settings.clone(), disk, applied);
        self.turn(id, |_, _| {});
    }

    /// Kills a node and starts it: what was not durable is gone, and so is what was on its links.
    pub(super) fn crash(&mut self, id: u8) {
        self.isolate(id);
        let applied = self.member(id).disk.commit();
        self.restart(id, 0, applied);
    }
}
