//! A whole cluster in one thread, from one seed: real nodes over a simulated network, disks and clocks (T1).
//!
//! Every node is what production runs: replication core, store, log, checkpoints, promises, identity, and the turns
//! that join them. What is simulated is what lies around them: time, links, disks, threads, processes, clients. A
//! seed decides everything, and nothing reads a clock or goes through a hash table, so the same seed is the same run,
//! to the last message: its trace has a hash.
//!
//! - `plan`: what a seed decides ahead: m and n, sizes, timeouts, which faults may happen.
//! - `schedule`: simulated time.
//! - `machine`: a node, its disk, its lives.
//! - `holdings`: what a node's disk must hold. `harm`: disks that lose it.
//! - `network`, `clients` (`copies`: how their writes are acknowledged; `repeats`: those that are sent again),
//!   `watchers`, `faults`: the world.
//! - `oracle`: what the cluster has committed; the rules; why the checks show that reads are linearizable.
//! - `trace`: the last lines, the hash, and how often what happened. `text`: messages as people read them.
//! - `campaign`: many seeds, and the tests. `mutants`: known bugs, each of which some seed finds (T2).
//!
//! # A run
//!
//! For some time faults come and go. Then max(n, e) nodes are healed, the others are down or cut off: the cluster
//! must take a write, and all healed nodes must apply it, within [`LIVENESS_BOUND`]. Those that have lost nothing come
//! first: a learner is healed among them only where n = m, and is admitted then. Then all nodes are healed, and must come
//! to the same state, and vote.
//!
//! # Omissions
//!
//! - Checkpoints that rot, and disks that rot while they are read: one node's tests do that (`harm`).
//! - Messages that are damaged: links have checksums, and what does not match ends a connection.
//! - The shell's own parts: sockets, buffers, threads.

mod campaign;
mod clients;
mod copies;
mod faults;
mod harm;
mod holdings;
mod machine;
mod mutants;
mod network;
mod oracle;
mod plan;
mod repeats;
mod schedule;
mod text;
mod trace;
mod watchers;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Instant;

use quorate_client::retry::Failed;
use quorate_protocol::entry::{Entry, Payload};
use quorate_protocol::{Index, Leadership, Member, Term};

use crate::checkpoint::CheckpointEvent;
use crate::disk::simulated::Kept;
use crate::log::{LogCommand, LogError, LogEvent};
use crate::node::NodeError;
use crate::sim::Random;
use crate::sim::node::node_id;

use clients::{Client, Deed};
use faults::Repair;
use holdings::Holdings;
use machine::{Arrived, Effect, Machine, Said, place_of};
use network::Network;
use oracle::Oracle;
use plan::Plan;
use repeats::Counters;
use schedule::{Doing, Happening, LifeNumber, MICROSECOND, MILLISECOND, Moment, Place, SECOND, Schedule};
use trace::{Counts, Happened, Line, Trace};
use watchers::{FIRST_CONNECTION, Watcher};

/// Within so much simulated time a healed cluster is whole again.
const LIVENESS_BOUND: Moment = 10 * SECOND;

/// How a run went.
#[derive(Clone, Debug)]
struct Ran {
    hash: u64,
    counts: Counts,
    simulated: Moment,
    /// How long the healed nodes took to apply a new write.
    healed_after: Moment,
}

/// A cluster and everything around it.
struct Cluster {
    plan: Plan,
    random: Random,
    schedule: Schedule,
    members: Vec<Machine>,
    network: Network,
    clients: Vec<Client>,
    watchers: Vec<Watcher>,
    /// Connections that they have had.
    connections: usize,
    /// Calls made so far.
    calls: u64,
    counters: Counters,
    /// What was sent again, by the number of its call.
    repeated: BTreeMap<u64, Deed>,
    /// Calls that have their results, and whose clients do not say so yet.
    lingering: BTreeMap<u64, Deed>,
    oracle: Oracle,
    trace: Trace,
    counts: Counts,
    is_faulty: bool,
    /// Clients ask nothing more.
    is_quiet: bool,
    /// Who is to be alive, once faults are over.
    healed: Vec<Place>,
    healed_at: Moment,
    written_since_healed: Option<Index>,
}

impl Cluster {
    fn new(plan: Plan, prints: bool) -> Self {
        let epoch = Instant::now(); // Only differences of it are ever seen.
        let members = plan.members();
        Self {
            random: Random::new(plan.seed ^ 0x5eed),
            schedule: Schedule::default(),
            members: (0..members).map(|place| Machine::new(place, epoch)).collect(),
            network: Network::new(plan.network, members),
            clients: Vec::new(),
            watchers: Vec::new(),
            connections: 0,
            calls: 0,
            counters: Counters::default(),
            repeated: BTreeMap::new(),
            lingering: BTreeMap::new(),
            oracle: Oracle::new(plan.sessions.timeout),
            trace: Trace::new(prints),
            counts: Counts::default(),
            is_faulty: true,
            is_quiet: false,
            healed: (0..members).collect(),
            healed_at: Moment::MAX,
            written_since_healed: None,
            plan,
        }
    }

    /// Runs it all: faults for so long, then healing.
    fn run(&mut self, faulty: Moment) -> Ran {
        for place in 0..self.plan.members() {
            self.start(place);
        }
        self.add_clients();
        self.add_watchers();
        self.schedule.at(self.plan.first_fault, Happening::Fault);
        if !self.plan.admits_replaced {
            self.schedule.at(0, Happening::Operator);
        }
        self.run_until(faulty);
        let healed_after = self.heal();
        Ran {
            hash: self.trace.hash(),
            counts: self.counts.clone(),
            simulated: self.schedule.now,
            healed_after,
        }
    }

    fn run_until(&mut self, until: Moment) {
        while let Some(happening) = self.schedule.next(until) {
            self.happens(happening);
        }
    }

    fn happens(&mut self, happening: Happening) {
        match happening {
            Happening::Node(place, life, doing) => self.node_does(place, life, doing),
            Happening::Hello { from, life, to, identity } => self.hello(from, life, to, &identity),
            Happening::Arrival { from, to, connection, message } => {
                let Some(life) = &mut self.members[to].life else { return };
                let sender = place_of(from.node);
                let reaches = |connection| self.network.reaches(sender, to, connection, life.number);
                if !connection.is_none_or(reaches) {
                    return;
                }
                life.inbox.push_back(Arrived::Message { from, message: message.clone() });
                let is_late_copy = connection.is_none();
                self.trace.note(self.schedule.now, Line::Arrived { from: sender, to, message, is_late_copy });
                self.want_turn(to);
            }
            Happening::Break { from, to, connection } => self.break_connection(from, to, connection),
            Happening::Client(client) => self.client_acts(client),
            Happening::Watcher(watcher) => self.watcher_acts(watcher),
            Happening::Request { client, to, message } if client >= FIRST_CONNECTION => {
                self.watch_arrives(client, to, message);
            }
            Happening::Request { client, to, message } => self.request_arrives(client, to, message),
            Happening::Response { client, from, message } => {
                let line = Line::Answered { client, from, message: message.clone() };
                self.trace.note(self.schedule.now, line);
                match client {
                    FIRST_CONNECTION.. => self.watcher_is_told(client, from, &message),
                    _ => self.answered(client, from, &message),
                }
            }
            Happening::GiveUp { client, request } => self.give_up(client, request, Failed::Late),
            Happening::Unsent { client, request } => {
                self.give_up(client, request, Failed::Unsent("nobody is there".into()));
            }
            Happening::Again { client, number } => self.try_again(client, number),
            Happening::EndLinger { client, number } => self.end_linger(client, number),
            Happening::Operator => self.operator_looks(),
            Happening::Fault => self.fault(),
            Happening::Repair(repair) => self.repair(repair),
        }
    }

    fn node_does(&mut self, place: Place, number: LifeNumber, doing: Doing) {
        let now = self.schedule.now;
        let member = &mut self.members[place];
        let Some(life) = member.life.as_mut().filter(|life| life.number == number) else { return };
        let is_busy = matches!(doing, Doing::Turn) && life.busy_until > now;
        let waits_until = if is_busy { life.busy_until } else { member.paused_until };
        if waits_until > now {
            return self.schedule.at(waits_until, Happening::Node(place, number, doing));
        }
        match doing {
            Doing::Tick => {
                life.inbox.push_back(Arrived::Tick);
                let next = life.tick_after(self.plan.tick);
                self.schedule.after(next, Happening::Node(place, number, Doing::Tick));
                self.want_turn(place);
            }
            Doing::Turn => self.turn(place),
            Doing::LogDone if member.stalled_until > now => {
                let until = member.stalled_until;
                self.schedule.at(until, Happening::Node(place, number, Doing::LogDone));
            }
            Doing::LogDone => self.log_done(place),
            Doing::LogWake => {
                member.wake_log();
                self.drive_log(place);
            }
            Doing::Checkpoint => self.work_checkpoint(place),
            Doing::LogRead { to, from, bytes_max } => {
                let read = member.read_log(from, bytes_max);
                self.counts.add(Happened::LogReads);
                self.arrives(place, Arrived::LogRead { to, read });
            }
            Doing::Transfer => {
                let oracle = &self.oracle;
                if let Some(event) = member.work_transfer(|index| oracle.mark(index)) {
                    self.arrives(place, Arrived::Transfer(event));
                }
            }
            Doing::Dial(to) => self.dial(place, to),
            Doing::Welcome(to, life, identity) => self.welcome(place, to, life, &identity),
        }
    }

    /// Has something happen to a node's present life.
    fn later(&mut self, place: Place, delay: Moment, doing: Doing) {
        if let Some(life) = &self.members[place].life {
            self.schedule.after(delay, Happening::Node(place, life.number, doing));
        }
    }

    fn arrives(&mut self, place: Place, arrived: Arrived) {
        if let Some(life) = &mut self.members[place].life {
            life.inbox.push_back(arrived);
        }
        self.want_turn(place);
    }

    /// Has a node's event loop run soon.
    fn want_turn(&mut self, place: Place) {
        let delay = self.random.below(self.plan.turn_delay);
        let Some(life) = &mut self.members[place].life else { return };
        if !std::mem::replace(&mut life.is_turn_due, true) {
            let number = life.number;
            self.schedule.after(delay, Happening::Node(place, number, Doing::Turn));
        }
    }

    fn turn(&mut self, place: Place) {
        let (effects, done) = self.members[place].turn(self.schedule.now);
        self.carry_out(place, effects);
        if let Err(error) = done {
            return self.node_stops(place, error);
        }
        self.check_state(place);
        self.drive_log(place);
    }

    /// Only what was done to a node may stop it, and never a broken rule.
    fn node_stops(&mut self, place: Place, error: NodeError) {
        let member = &self.members[place];
        let is_own_fault = match &error {
            NodeError::Rule(_) => true,
            NodeError::Log(LogError::Io { .. } | LogError::Stopped) => !member.may_die,
            NodeError::Log(_) => true,
            NodeError::Checkpoint(_) | NodeError::Directory(_) => !member.may_die,
            NodeError::DiskTimeout(_) => false,
        };
        assert!(!is_own_fault, "node {} stops by itself: {error}", place + 1);
        let has_lost_power = member.has_lost_power();
        match error {
            NodeError::DiskTimeout(_) => self.counts.add(Happened::DiskTimeouts),
            NodeError::Log(_) => self.counts.add(Happened::FailedSyncs),
            _ => self.counts.add(Happened::CrashesInsideAPromise),
        }
        // The message names files; the trace must not depend on more than the seed, and does not.
        self.stopped(place, &format!("stops: {error}"), has_lost_power);
    }

    /// Carries out what a turn does to the world, and checks it.
    fn carry_out(&mut self, place: Place, effects: Vec<(Moment, Effect)>) {
        let now = self.schedule.now;
        let committed = self.oracle.last();
        let mut answers = Vec::new();
        for (delay, effect) in effects {
            let at = now + delay;
            match effect {
                Effect::Send { to, said, message } => {
                    self.check_said(place, to, &said);
                    self.trace.note(at, Line::Sent { from: place, to, message: message.clone() });
                    let fate =
                        self.network.send((place, to), at, message, &mut self.schedule, &mut self.random);
                    if fate.is_copied {
                        self.counts.add(Happened::LateCopies);
                    }
                    if fate.overtakes {
                        self.counts.add(Happened::Reorderings);
                    }
                }
                Effect::Respond { client, message } if client >= FIRST_CONNECTION as u64 => {
                    self.answer_watcher(client as usize, place, at, message);
                }
                Effect::Respond { client, message } => {
                    answers.push(message.clone());
                    let delay = self.plan.network.delay + self.random.below(MILLISECOND);
                    let response = Happening::Response { client: client as usize, from: place, message };
                    self.schedule.at(at + delay, response);
                }
                Effect::Log(command) => self.ask_log(place, at, command),
                Effect::ReadLog { to, from, bytes_max } => {
                    let takes = self.random.below(2 * MILLISECOND);
                    self.later(place, delay + takes, Doing::LogRead { to, from, bytes_max });
                }
                Effect::Promised(promise) => {
                    let member = &mut self.members[place];
                    self.oracle.promised(member.member(), member.promise, promise);
                    self.counts.add(Happened::Terms);
                    member.promise = promise;
                    self.node_note(place, || format!("promises {promise:?}"));
                }
                Effect::Held(held) => self.held(place, held),
                Effect::Formed => {
                    self.members[place].has_formed = true;
                    self.node_note(place, || "knows that the cluster has formed".to_owned());
                }
                Effect::Applied { index, bytes } => self.apply(place, index, &bytes),
                Effect::Transfer => {
                    let takes = self.random.below(2 * MILLISECOND);
                    self.later(place, delay + takes, Doing::Transfer);
                }
                Effect::Restored => self.restored(place),
                Effect::CheckpointBegins | Effect::CheckpointBlock => self.drive_checkpoint(place),
            }
        }
        if self.oracle.last() > committed {
            self.check_commit();
        }
        // A node answers for an entry before it says that it has applied it.
        answers.iter().for_each(|answer| self.check_copies(answer));
    }

    fn ask_log(&mut self, place: Place, at: Moment, command: LogCommand) {
        let member = &mut self.members[place];
        if let LogCommand::Append { first, entries, .. } = &command {
            let previous = member.holdings.given_term(first - 1);
            let mut previous = previous.unwrap_or_else(|| panic!("entry {first} leaves a gap in the log"));
            for (index, mark) in (*first..).zip(holdings::marks(entries)) {
                self.oracle.made(index, mark, previous);
                previous = mark.0;
            }
        }
        member.ask_log(at, command);
    }

    fn apply(&mut self, place: Place, index: Index, bytes: &[u8]) {
        let life = self.members[place].life.as_mut().expect("it has just run");
        assert_eq!(index, life.applied + 1, "node {} applies out of order", place + 1);
        life.applied = index;
        let entry = Entry::parse(bytes).expect("an entry that is applied is whole");
        let by = life.node.replica().map_or(0, |replica| replica.term());
        if self.oracle.applied(&entry, by, self.schedule.now) {
            self.counts.add(Happened::Commits);
            self.count_sessions(&entry);
            if let Some(newcomer) = entry.admission() {
                self.check_admission(index, newcomer);
            }
        }
        self.trace.note(self.schedule.now, Line::Reached(place, "applied", index));
    }

    fn count_sessions(&mut self, entry: &Entry<'_>) {
        match entry.payload() {
            Ok(Payload::OpenSession) => self.counts.add(Happened::SessionsOpened),
            Ok(Payload::EndSessions(ended)) => {
                let is_closed = ended.iter().all(|ended| ended.last_used == Index::MAX);
                self.counts.add(if is_closed { Happened::SessionsClosed } else { Happened::SessionsExpired });
            }
            _ => {}
        }
    }

    /// A node goes on behind a checkpoint that it was sent, or did not need it.
    fn restored(&mut self, place: Place) {
        let life = self.members[place].life.as_mut().expect("it has just run");
        if life.installed > life.applied {
            life.applied = life.installed;
            let index = life.installed;
            self.counts.add(Happened::Installs);
            self.node_note(place, || format!("goes on behind checkpoint {index}"));
        }
    }

    /// What has just become committed is on n disks (R3), and every leader of this term or a later one has it.
    fn check_commit(&self) {
        let index = self.oracle.last();
        let holders = self.holders(index);
        assert!(
            holders.len() >= usize::from(self.plan.n),
            "entry {index} is committed, but of those that count only the disks of {:?} have it",
            holders.iter().map(|place| place + 1).collect::<Vec<_>>()
        );
        let term = self.oracle.term(index);
        if self.plan.n == 1 || self.plan.configured_leader().is_some() {
            let leader = self.oracle.leader(term).map(place_of);
            assert!(
                leader.is_some_and(|leader| holders.contains(&leader)),
                "entry {index} is committed without its leader's disk"
            ); // R13
        }
        for (place, replica) in self.replicas() {
            if replica.is_leader() && replica.term() >= term {
                let held = replica.terms().term(index).filter(|_| replica.last() >= index);
                let (leader, leads) = (place + 1, replica.term());
                assert_eq!(held, Some(term), "node {leader} leads term {leads} without entry {index}");
            }
        }
    }

    /// Who has an entry on a disk that counts for it, or has had it there until that was harmed.
    fn holders(&self, index: Index) -> Vec<Place> {
        let mark = self.oracle.mark(index);
        let holds =
            |member: &&Machine| member.has_held(self.oracle.incarnation_at(index, member.id()), index, mark);
        self.members.iter().filter(holds).map(|member| member.place).collect()
    }

    /// An admission has just become committed: r disks beside the newcomer's hold it (R27).
    fn check_admission(&mut self, index: Index, newcomer: Member) {
        let others =
            self.holders(index).into_iter().filter(|place| *place != place_of(newcomer.node)).count();
        let needed = usize::from(self.plan.quorums().read_quorum());
        assert!(
            others >= needed,
            "entry {index} admits {newcomer:?}, but beside it only {others} disks have it, of {needed}"
        );
        self.counts.add(match self.plan.admits_replaced {
            true => Happened::AdmissionsByLeader,
            false => Happened::AdmissionsByOperator,
        });
    }

    fn replicas(&self) -> impl Iterator<Item = (Place, &crate::replica::Replica)> {
        self.members.iter().filter_map(|member| Some((member.place, member.life.as_ref()?.node.replica()?)))
    }

    /// Who leads the highest term.
    fn leader(&self) -> Option<Place> {
        let leaders = self.replicas().filter(|(_, replica)| replica.is_leader());
        leaders.max_by_key(|(_, replica)| replica.term()).map(|(place, _)| place)
    }

    /// What a message says must be so when it leaves.
    fn check_said(&mut self, place: Place, to: Place, said: &Said) {
        let machine = &self.members[place];
        let (id, member, promise, held) = (machine.id(), machine.member(), machine.promise, machine.held);
        match *said {
            Said::Append { term } => {
                assert_eq!(promise.term, term, "node {id} appends in a term that it has not promised");
                if self.oracle.leads(term, id) {
                    self.counts.add(Happened::LeaderChanges);
                }
            }
            Said::Ack { term, durable } => {
                assert_eq!(promise.term, term, "node {id} acknowledges in a term that it has not promised"); // R12
                let held = machine.holdings.last();
                assert!(durable <= held, "node {id} acknowledges entry {durable}, but holds {held}");
                let leads = self
                    .replicas()
                    .find(|(at, replica)| *at == to && replica.is_leader() && replica.term() == term);
                if let Some((_, leader)) = leads {
                    let held = machine.holdings.get(durable).map_or(0, |(term, _)| term);
                    let wanted = leader.terms().term(durable);
                    assert_eq!(Some(held), wanted, "node {id} acknowledges entry {durable} of another term");
                }
            }
            Said::RequestVote { term, last } => {
                self.check_voting(place, "asks for votes");
                self.oracle.stands(term, id, last);
                assert_eq!((promise.term, promise.voted_for), (term, Some(id)), "node {id} asks for votes");
            }
            Said::Vote { term } => {
                let candidate = node_id(to as u8 + 1);
                let wanted = (term, Some(candidate));
                assert_eq!((promise.term, promise.voted_for), wanted, "node {id} votes"); // R5
                self.check_voting(place, "votes");
                let has = self.oracle.log_of_candidate(term, candidate);
                assert!(
                    has >= held,
                    "node {id} held {held:?} before it was damaged, and votes for {candidate} with {has:?}"
                ); // R8
                self.oracle.voted(member, term, candidate);
            }
            Said::Position => {
                self.check_voting(place, "says what it does not have");
                assert!(
                    held.is_none(),
                    "node {id} says what it does not have, but its log is damaged: it held {held:?}"
                ); // R19
            }
            Said::TimeoutNow => self.counts.add(Happened::HandOvers),
            Said::Other => {}
        }
    }

    /// Only a member votes, stands and denies, and only one that knows its admission to be committed (R26, R27).
    fn check_voting(&self, place: Place, does: &str) {
        let machine = &self.members[place];
        let commit = self.replicas().find(|(at, _)| *at == place).map_or(0, |(_, replica)| replica.commit());
        let admitted = self.oracle.admitted_by(machine.member());
        assert!(
            admitted.is_some_and(|admitted| admitted <= commit || machine.has_noted_its_admission()),
            "node {} {does}, but its disk was replaced, and it knows of no committed entry that admits {}",
            place + 1,
            machine.incarnation
        );
    }

    /// What must be so after every turn.
    fn check_state(&mut self, place: Place) {
        let Some(life) = &mut self.members[place].life else { return };
        let Some(replica) = life.node.replica() else { return };
        let (term, commit, is_leader) = (replica.term(), replica.commit(), replica.is_leader());
        assert!(commit >= life.commit, "the commit index goes back from {} to {commit}", life.commit); // R16
        assert!(term >= life.term, "the term goes back from {} to {term}", life.term);
        assert_eq!(replica.applied(), life.applied, "what is applied");
        let takes_office = is_leader && (!life.is_leader || term > life.term);
        let leaves_office = !is_leader && life.is_leader;
        (life.commit, life.term, life.is_leader) = (commit, term, is_leader);
        if takes_office {
            self.takes_office(place);
        }
        if is_leader {
            self.check_beliefs(place);
        }
        self.notice_whole(place);
        if leaves_office {
            self.counts.add(Happened::StepDowns);
            self.node_note(place, || "leads no longer".to_owned());
        }
    }

    /// What a leader takes a follower of its term to hold is on that one's disk, or was until it was harmed (R12).
    fn check_beliefs(&self, place: Place) {
        let Some(leader) = self.members[place].life.as_ref().and_then(|life| life.node.replica()) else {
            return;
        };
        for (node, progress) in leader.followers() {
            let follower = &self.members[place_of(node)];
            let is_of_term = follower.promise.term == leader.term();
            let is_this_disk = progress.incarnation == Some(follower.incarnation);
            if progress.durable == 0 || !is_of_term || !is_this_disk {
                continue;
            }
            assert!(
                follower.has_had(progress.durable, leader.terms().term(progress.durable)),
                "node {} leads term {} and counts entry {} as held by node {node}, which has another or none",
                place + 1,
                leader.term(),
                progress.durable
            );
        }
    }

    /// A leader has everything that was committed in earlier terms. It may take office late, when a later leader has
    /// committed more.
    fn takes_office(&mut self, place: Place) {
        let Some(replica) = self.members[place].life.as_ref().and_then(|life| life.node.replica()) else {
            return;
        };
        let term = replica.term();
        let is_earlier = |index: &Index| self.oracle.committed(*index).is_some_and(|entry| entry.by < term);
        let earlier = (1..=self.oracle.last()).rev().find(is_earlier);
        let last = earlier.unwrap_or(0);
        assert!(replica.last() >= last, "node {} leads term {term} without entry {last}", place + 1);
        for index in replica.applied() + 1..=last {
            let held = replica.terms().term(index);
            let wanted = Some(self.oracle.term(index));
            assert_eq!(held, wanted, "node {} leads term {term} with another entry {index}", place + 1);
        }
        if self.oracle.leads(term, node_id(place as u8 + 1)) {
            self.counts.add(Happened::LeaderChanges);
        }
        self.check_votes(place, term);
        self.node_note(place, || format!("leads term {term}"));
    }

    /// Whoever is elected has e votes of members (R2, R26); where that is all, a leader may go on alone (RULES, Edges).
    fn check_votes(&self, place: Place, term: Term) {
        let voters = self.oracle.voters(term, node_id(place as u8 + 1));
        let needed = self.plan.quorums().election_quorum();
        let is_elected = self.plan.leadership == Leadership::Elected && needed < self.plan.m;
        assert!(
            !is_elected || voters.len() >= usize::from(needed),
            "node {} leads term {term} with the votes of {voters:?}, and needs {needed}",
            place + 1
        );
    }

    fn node_note(&mut self, place: Place, text: impl FnOnce() -> String) {
        self.trace.note(self.schedule.now, Line::Node(place, text()));
    }

    fn drive_log(&mut self, place: Place) {
        let now = self.schedule.now;
        let member = &mut self.members[place];
        if let Some(mut delay) = member.begin_log_step(now, &self.plan, &mut self.random) {
            if self.is_faulty && member.holdings.is_at_work() && member.crashes_ahead_of_disk {
                member.crashes_ahead_of_disk = false;
                delay += 50 * MILLISECOND;
                let after = self.random.below(30 * MILLISECOND);
                let crash = Repair::Crash(place, member.lives);
                self.schedule.after(after, Happening::Repair(crash));
            }
            self.later(place, delay, Doing::LogDone);
        } else if let Some(delay) = self.members[place].log_rests() {
            self.later(place, delay, Doing::LogWake);
        }
    }

    fn log_done(&mut self, place: Place) {
        let event = self.members[place].end_log_step(self.schedule.now);
        if let Some(event) = event {
            let now = self.schedule.now;
            match &event {
                LogEvent::Durable { index, .. } => {
                    self.trace.note(now, Line::Reached(place, "durable", *index));
                }
                LogEvent::Truncated { after, .. } => {
                    self.counts.add(Happened::Truncations);
                    self.trace.note(now, Line::Reached(place, "truncated after", *after));
                }
                LogEvent::Dropped { first } => {
                    self.counts.add(Happened::LogDrops);
                    self.trace.note(now, Line::Reached(place, "log begins at", *first));
                }
                LogEvent::Blocked(_) => self.counts.add(Happened::WritesWithoutRoom),
                LogEvent::Resumed | LogEvent::Failed(_) => {}
            }
            self.arrives(place, Arrived::Log(event));
        }
        self.drive_log(place);
    }

    fn drive_checkpoint(&mut self, place: Place) {
        let delay = 100 * MICROSECOND + self.random.below(3 * MILLISECOND);
        let Some(life) = &mut self.members[place].life else { return };
        if !std::mem::replace(&mut life.checkpoint_goes_on, true) {
            self.later(place, delay, Doing::Checkpoint);
        }
    }

    fn work_checkpoint(&mut self, place: Place) {
        let now = self.schedule.now;
        let event = self.members[place].work_checkpoint(now);
        if let Some(life) = &mut self.members[place].life {
            life.checkpoint_goes_on = false;
        }
        match event {
            None => {
                if self.members[place].takes_checkpoint() {
                    self.drive_checkpoint(place);
                }
            }
            Some(event) => {
                if let CheckpointEvent::Written(info) = &event {
                    self.counts.add(Happened::Checkpoints);
                    self.oracle.checkpoint(place, info.index, info.hash);
                    self.trace.note(now, Line::Reached(place, "checkpoint at", info.index));
                }
                self.arrives(place, Arrived::Checkpoint(event));
            }
        }
    }

    fn dial(&mut self, from: Place, to: Place) {
        let now = self.schedule.now;
        let other = &self.members[to];
        let answers = other.life.is_some() && other.paused_until <= now;
        if !answers || self.network.is_cut(from, to) || self.network.is_cut(to, from) {
            return self.redial(from, to);
        }
        let Some(life) = &self.members[from].life else { return };
        let (life, identity) = (life.number, Box::new(life.node.introduction()));
        let delay = self.network.delay(from, to, now, &mut self.random);
        self.schedule.after(delay, Happening::Hello { from, life, to, identity });
    }

    fn redial(&mut self, from: Place, to: Place) {
        let pause = self.network.redial_after(from, to);
        self.later(from, pause, Doing::Dial(to));
    }

    fn hello(
        &mut self,
        from: Place,
        life: LifeNumber,
        to: Place,
        identity: &quorate_protocol::handshake::ReplicaIdentity,
    ) {
        if self.members[from].life.as_ref().is_none_or(|dialling| dialling.number != life) {
            return;
        }
        if self.members[to].life.is_none() || self.network.is_cut(to, from) {
            return self.redial(from, to);
        }
        let Some(effects) = self.members[to].meet(identity) else { return self.redial(from, to) };
        self.carry_out(to, effects);
        self.want_turn(to);
        let Some(answering) = &self.members[to].life else { return };
        let welcome = Doing::Welcome(to, answering.number, Box::new(answering.node.introduction()));
        let delay = self.network.delay(to, from, self.schedule.now, &mut self.random);
        self.schedule.after(delay, Happening::Node(from, life, welcome));
    }

    fn welcome(
        &mut self,
        from: Place,
        to: Place,
        answering: LifeNumber,
        identity: &quorate_protocol::handshake::ReplicaIdentity,
    ) {
        let Some(effects) = self.members[from].meet(identity) else { return self.redial(from, to) };
        self.carry_out(from, effects);
        self.want_turn(from);
        let Some(life) = &self.members[from].life else { return };
        if self.members[to].life.as_ref().is_none_or(|life| life.number != answering) {
            return self.redial(from, to);
        }
        let dialler = self.members[from].member();
        let lives = (life.number, answering);
        self.network.connect(from, to, dialler, lives, self.schedule.now);
        let answerer = Member { node: identity.node, incarnation: identity.incarnation };
        self.arrives(from, Arrived::Connected(answerer));
    }

    fn break_connection(&mut self, from: Place, to: Place, connection: u64) {
        if self.network.link(from, to).connection != Some(connection) {
            return;
        }
        self.counts.add(Happened::BrokenConnections);
        let lingers = self.random.below(2) == 0;
        self.network.disconnect(from, to, lingers);
        self.trace.note(self.schedule.now, Line::World(format!("{}→{} breaks", from + 1, to + 1)));
        self.arrives(from, Arrived::Disconnected(to));
        self.redial(from, to);
    }

    fn start(&mut self, place: Place) {
        if self.members[place].life.is_some() {
            return;
        }
        let now = self.schedule.now;
        let member = &mut self.members[place];
        let found = match member.start(&self.plan, now, &mut self.random) {
            Ok(found) => found,
            Err(error) => panic!("node {} does not start: {error}", place + 1),
        };
        let known = [Some(member.promise), member.promising.take()];
        let promise = found.promise;
        assert!(known.contains(&Some(promise)), "node {} starts with {promise:?}, not {known:?}", place + 1);
        if promise != member.promise {
            self.oracle.promised(member.member(), member.promise, promise);
            member.promise = promise;
        }
        if member.is_set_aside(&found) {
            member.loses_what_it_held();
            member.holdings = Holdings::default();
            self.counts.add(Happened::LogsSetAside);
        }
        (member.held, member.has_rotted) = (found.held, false);
        let oracle = &self.oracle;
        let recovered = member.holdings.recover(found.first, &found.log, |index| oracle.mark(index));
        if let Err(what) = recovered {
            panic!("node {}: {what}", place + 1);
        }
        assert!(found.applied <= oracle.last(), "node {} starts with what nobody committed", place + 1);
        for index in found.first..=found.applied {
            assert_eq!(member.holdings.get(index), oracle.mark(index), "entry {index} of node {}", place + 1);
        }
        self.check_store(place, found.applied);
        self.counts.add(Happened::Restarts);
        self.node_note(place, || format!("starts, has applied {}, promised {promise:?}", found.applied));
        self.want_turn(place);
        self.later(place, MILLISECOND, Doing::Tick);
        self.drive_log(place);
        for other in (0..self.plan.members()).filter(|other| *other != place) {
            let delay = self.random.below(10 * MILLISECOND);
            self.later(place, delay, Doing::Dial(other));
            // Whoever still takes its last life for connected learns better.
            if let Some(connection) = self.network.link(other, place).connection {
                self.schedule.after(delay, Happening::Break { from: other, to: place, connection });
            }
        }
    }

    fn check_store(&self, place: Place, applied: Index) {
        let Some(life) = &self.members[place].life else { return };
        let everything =
            quorate_protocol::request::Range { start: b"", end: quorate_protocol::request::RangeEnd::Open };
        let items = life.node.store().scan(&everything);
        let what = format!("the store of node {}", place + 1);
        self.oracle.check_store(applied, b"", items, &what);
        self.oracle.check_sessions(applied, life.node.store(), &what);
    }

    /// A node's process ends; with `kept` its machine loses power.
    fn end_life(&mut self, place: Place, kept: Option<Kept>, why: &str) {
        self.node_note(place, || format!("{why} ({kept:?})"));
        let Some(life) = &self.members[place].life else { return };
        if life.step_began.is_some() {
            self.counts.add(Happened::CrashesInsideALogStep);
        }
        self.members[place].end(&mut self.random, kept);
        // A machine that is gone does not say so.
        let noticed = if kept.is_some() { SECOND } else { MILLISECOND };
        for other in (0..self.plan.members()).filter(|other| *other != place) {
            let lingers = self.random.below(2) == 0;
            self.network.disconnect(place, other, lingers);
            if let Some(connection) = self.network.link(other, place).connection {
                let after = self.random.below(noticed);
                self.schedule.after(after, Happening::Break { from: other, to: place, connection });
            }
        }
        self.break_clients(place);
        self.break_watchers(place);
    }

    /// Whether a node may be started now.
    fn may_live(&self, place: Place) -> bool {
        self.is_faulty || self.healed.contains(&place)
    }

    /// Ends the faults: max(n, e) nodes are healed and must go on, then all. Returns how long the first took.
    fn heal(&mut self) -> Moment {
        (self.is_faulty, self.network.is_faulty) = (false, false);
        // A cluster that has not formed needs all its nodes.
        let knows = |member: &Machine| member.has_formed || member.harm.is_some();
        let has_formed = self.members.iter().all(knows) || self.plan.m == 1;
        let healed_after = if has_formed {
            let healed = self.some_to_heal();
            self.heal_these(healed)
        } else {
            0
        };
        self.heal_these((0..self.plan.members()).collect());
        self.come_to_rest();
        healed_after
    }

    /// max(n, e) nodes, the configured leader among them. Those that are whole come first: whoever has lost something
    /// may need another than these, and whoever is not admitted does not count.
    fn some_to_heal(&mut self) -> Vec<Place> {
        let quorums = self.plan.quorums();
        let count = match self.plan.leadership {
            Leadership::Configured(_) => quorums.quorum(),
            Leadership::Elected => quorums.quorum().max(quorums.election_quorum()),
        };
        let mut ranked: Vec<(u8, u64, Place)> = (0..self.plan.members())
            .map(|place| {
                let rank = match &self.members[place].harm {
                    _ if self.plan.configured_leader() == Some(place) => 0,
                    None => 1,
                    Some(_) => 2 + u8::from(self.is_mute(place)),
                };
                (rank, self.random.next(), place)
            })
            .collect();
        ranked.sort_unstable();
        let mut places: Vec<Place> = ranked.into_iter().map(|(.., place)| place).take(count.into()).collect();
        places.sort_unstable();
        places
    }

    /// Heals some, takes the others away, and waits until a new write is applied by all that were healed.
    fn heal_these(&mut self, healed: Vec<Place>) -> Moment {
        let began = self.schedule.now;
        let shown: Vec<Place> = healed.iter().map(|place| place + 1).collect();
        self.trace.note(began, Line::World(format!("healed: {shown:?}")));
        self.healed = healed;
        (self.healed_at, self.written_since_healed) = (began, None);
        for place in 0..self.plan.members() {
            let is_healed = self.healed.contains(&place);
            let member = &mut self.members[place];
            (member.paused_until, member.stalled_until, member.full_until) = (0, 0, 0);
            (member.fails_sync, member.crashes_ahead_of_disk) = (false, false);
            if is_healed {
                self.start(place);
            } else if self.random.below(2) == 0 {
                self.end_life(place, None, "stays away");
            }
        }
        for from in 0..self.plan.members() {
            for to in 0..self.plan.members() {
                self.network.mend_all(from, to, &mut self.schedule, &mut self.random);
                if !self.healed.contains(&from) || !self.healed.contains(&to) {
                    self.network.cut(from, to);
                }
            }
        }
        self.wait("the healed nodes do not apply a new write", |cluster| {
            cluster
                .written_since_healed
                .is_some_and(|index| cluster.healed.iter().all(|place| cluster.applied(*place) >= index))
        });
        self.schedule.now - began
    }

    /// How every node is, for a report.
    fn states(&self) -> String {
        let mut text = String::new();
        for member in &self.members {
            let _ = write!(text, "node {}: holds {}, ", member.place + 1, member.holdings.last());
            let _ = match member.life.as_ref().map(|life| life.node.replica()) {
                None => writeln!(text, "down"),
                Some(None) => writeln!(text, "not formed"),
                Some(Some(replica)) => {
                    let role = if replica.is_leader() { "leads" } else { "follows" };
                    let _ = writeln!(
                        text,
                        "{role} in term {}, last {}, durable {}, commit {}, applied {}",
                        replica.term(),
                        replica.last(),
                        replica.durable(),
                        replica.commit(),
                        replica.applied()
                    );
                    replica
                        .followers()
                        .try_for_each(|(node, progress)| writeln!(text, "    {node}: {progress:?}"))
                }
            };
        }
        text
    }

    fn applied(&self, place: Place) -> Index {
        self.members[place].life.as_ref().map_or(0, |life| life.applied)
    }

    /// Stops the clients; all nodes must come to the same state.
    fn come_to_rest(&mut self) {
        self.is_quiet = true;
        let is_at_rest = |cluster: &Self| {
            let last = cluster.oracle.last();
            cluster.replicas().all(|(_, replica)| {
                replica.applied() == last && replica.durable() == last && replica.is_voting()
            })
        };
        self.wait("the nodes do not come to rest, or one does not vote", is_at_rest);
        for place in 0..self.plan.members() {
            self.check_store(place, self.oracle.last());
        }
        self.check_counters();
        self.wait("a watcher is not told everything", Self::watchers_know_everything);
    }

    fn wait(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        let until = self.schedule.now + LIVENESS_BOUND;
        while !done(self) {
            assert!(self.schedule.now < until, "{what} within {} s", LIVENESS_BOUND / SECOND);
            self.run_until(self.schedule.now + 10 * MILLISECOND);
        }
    }
}
