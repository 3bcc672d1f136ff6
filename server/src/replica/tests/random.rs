//! A search for broken rules: many small clusters under random load, loss, repetition, disorder and crashes.
//!
//! What happens follows from a seed alone. A failure names its seed; `QUORATE_SEED=<seed>` runs that one only,
//! and prints every step.
//!
//! After each step:
//!
//! - what was applied anywhere is the same everywhere, index by index, byte by byte;
//! - no commit index has gone back, and nothing above it is applied;
//! - the last committed entry is durable on n disks, a configured leader's among them (R3, R13);
//! - a leader has committed only entries of its own term by counting (R14);
//! - no term has had two leaders, and every leader has all committed entries (R1, R2, R8);
//! - a linearizable read sees everything that was committed when it was asked (R21);
//! - no node has stopped, and none has reported a broken rule.
//!
//! At the end, with all links up, all replicas hold the same log, with every committed entry in it.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use quorate_protocol::response::Obstacle;

use super::super::{LogRead, ReadState, ReadTicket};
use super::cluster::{Cluster, Member};
use super::*;
use crate::mutant::{Mutant, with};

/// Of configured leaders, and as many of elected ones.
const SEEDS: u64 = 3000;
const STEPS: usize = 500;

/// Heartbeats in which a healed cluster is whole again; a log read that had failed is tried again after 20.
const HEAL_ROUNDS_MAX: usize = 30;

/// The same where a leader has to be elected first, maybe after split votes.
const HEAL_ELECTION_ROUNDS_MAX: usize = 200;

/// A small deterministic generator (xorshift).
struct Random(u64);

impl Random {
    fn new(seed: u64) -> Self {
        Self((seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15))
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

/// m and n by seed: every pair up to m = 5.
fn quorums(seed: u64) -> (u8, u8) {
    let pairs: Vec<_> = (1..=5).flat_map(|m| (1..=m).map(move |n| (m, n))).collect();
    pairs[seed as usize % pairs.len()]
}

/// How the leader is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Mode {
    Configured,
    Elected,
}

/// A linearizable read that waits.
struct Read {
    id: u8,
    ticket: ReadTicket,
    /// What was committed when it was asked.
    floor: Index,
}

struct Run {
    mode: Mode,
    /// Who has led in which term.
    leaders: BTreeMap<Term, u8>,
    /// What is sent and not confirmed.
    reads: Vec<Read>,
    /// How much of what is committed has been looked for on the disks.
    held: usize,
    reads_answered: u64,
    damaged: u64,
    /// Two logs were damaged at the same time.
    overlapping: bool,
    wiped: u64,
    admitted: u64,
    seed: u64,
    random: Random,
    cluster: Cluster,
    n: u8,
    /// Every entry that some node has applied.
    committed: Vec<Bytes>,
    /// The commit index of each node in its present life.
    commits: Vec<Index>,
    step: usize,
    proposed: u64,
    prints: bool,
}

impl Run {
    fn new(seed: u64, mode: Mode, prints: bool) -> Self {
        let (m, n) = quorums(seed);
        let cluster = Cluster::with(m, n, |settings| {
            if mode == Mode::Elected {
                settings.leadership = Leadership::Elected;
                settings.election_seed = seed;
                settings.lease = seed.is_multiple_of(3).then_some(ELECTION_TIMEOUT);
            }
            settings.uncommitted_bytes_max = 2000;
            settings.window_bytes_max = 400;
            settings.tail_bytes_max = if seed.is_multiple_of(2) { 200 } else { 1 << 20 };
        });
        Self {
            mode,
            leaders: BTreeMap::new(),
            reads: Vec::new(),
            held: 0,
            reads_answered: 0,
            damaged: 0,
            overlapping: false,
            wiped: 0,
            admitted: 0,
            seed,
            random: Random::new(seed),
            cluster,
            n,
            committed: Vec::new(),
            commits: vec![0; usize::from(m)],
            step: 0,
            proposed: 0,
            prints,
        }
    }

    /// Returns what was committed, and how many reads were answered and leaders there were.
    fn go(mut self) -> Outcome {
        if self.mode == Mode::Elected {
            self.elect();
        }
        while self.step < STEPS {
            self.step += 1;
            self.act();
            self.check();
        }
        self.heal();
        let committed = std::mem::take(&mut self.committed);
        let lost = [self.damaged, self.wiped, self.admitted];
        let (reads, leaders, restored) = (self.reads_answered, self.leaders.len(), self.cluster.restored);
        Outcome { committed, reads, leaders, lost, restored }
    }

    fn act(&mut self) {
        match self.random.below(100) {
            0..4 if self.mode == Mode::Elected => self.ask_to_read(),
            4 if self.mode == Mode::Elected => self.hand_over(),
            5 if self.mode == Mode::Elected => self.depose(),
            6 if self.mode == Mode::Elected => self.damage_or_wipe(),
            7 if self.mode == Mode::Elected => self.admit(),
            0..22 => self.propose(),
            22..60 => self.deliver(),
            60..80 => self.sync(),
            80..84 => self.read(),
            84..88 => self.work_transfer(),
            88..91 => self.pass_time(),
            91 => self.toggle_obstacle(),
            92..97 => self.toggle_link(),
            97..99 => self.restart(),
            _ => self.restart_leader_soon_after_a_write(),
        }
    }

    fn note(&self, what: std::fmt::Arguments<'_>) {
        if self.prints {
            eprintln!("{:3} {what}", self.step);
        }
    }

    fn any_node(&mut self) -> u8 {
        1 + self.random.below(self.commits.len()) as u8
    }

    fn propose(&mut self) {
        for _ in 0..=self.random.below(3) {
            self.proposed += 1;
            let mut value = self.proposed.to_le_bytes().to_vec();
            value.resize(8 + self.random.below(60), 0);
            let leaders: Vec<u8> =
                self.cluster.ids().filter(|id| self.cluster.replica(*id).is_leader()).collect();
            if leaders.is_empty() {
                return;
            }
            let id = self.random.pick(&leaders);
            let proposed = self.cluster.propose_to(id, &value);
            self.note(format_args!("propose to {id}: {proposed:?}"));
        }
    }

    fn ask_to_read(&mut self) {
        let id = self.any_node();
        let floor = self.committed.len() as Index;
        if let Ok(ticket) = self.cluster.turn(id, |replica, now| replica.request_read(now)) {
            self.note(format_args!("a read of {id}: {ticket:?}, {floor} committed"));
            self.reads.push(Read { id, ticket, floor });
        }
    }

    /// A leader hands over, or one that is not is asked to.
    fn hand_over(&mut self) {
        let id = self.any_node();
        let done = self.cluster.turn(id, |replica, now| replica.hand_over(now, None));
        self.note(format_args!("node {id} is to hand over: {done:?}"));
    }

    /// The first leader, without faults: they are worth more once there is something to lose.
    fn elect(&mut self) {
        self.cluster.connect_all();
        for _ in 0..HEAL_ELECTION_ROUNDS_MAX {
            self.cluster.advance(HEARTBEAT);
            self.cluster.settle();
        }
        assert!(self.cluster.leader().is_some());
    }

    /// Cuts a leader off, which does not notice, until the others have elected another and written to it.
    fn depose(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        let term = self.cluster.replica(leader).term();
        self.note(format_args!("node {leader} is cut off until another leads"));
        let (touching, others): (Vec<_>, Vec<_>) =
            self.cluster.pairs().into_iter().partition(|(from, to)| *from == leader || *to == leader);
        for (from, to) in touching {
            self.cluster.disconnect(from, to);
            self.maybe_clear(from, to);
        }
        for _ in 0..HEAL_ROUNDS_MAX {
            self.cluster.now += HEARTBEAT;
            for id in self.cluster.ids().filter(|id| *id != leader) {
                self.cluster.tick(id);
                self.cluster.sync(id);
            }
            for (from, to) in &others {
                if !self.cluster.link(*from, *to).is_up {
                    self.cluster.connect(*from, *to);
                }
                self.cluster.deliver(*from, *to);
            }
            self.check();
            let value = self.random.next().to_le_bytes();
            if let Some(new) = self.cluster.leader().filter(|new| self.cluster.replica(*new).term() > term) {
                let _ = self.cluster.propose_to(new, &value);
                if self.random.below(3) == 0 {
                    break;
                }
            }
        }
    }

    /// A node loses the end of its log, or all that it has; as long as nobody else lacks anything, and what is committed
    /// is on another disk.
    fn damage_or_wipe(&mut self) {
        let id = self.any_node();
        let are_whole = self.are_whole();
        let damaged = self.cluster.members().filter(|member| member.replica.held().is_some()).count();
        let (m, e) = (self.commits.len(), usize::from(self.election_quorum()));
        if !self.is_elsewhere(id)
            || damaged > 1
            || !self.cluster.members().all(|member| member.replica.is_voting())
        {
            return;
        }
        self.overlapping |= damaged > 0;
        let entries = self.cluster.member(id).disk.entries.len();
        if self.random.below(3) == 0 || !are_whole {
            let left = self.random.below(entries + 1);
            self.note(format_args!("the log of node {id} is damaged behind entry {left} of {entries}"));
            self.cluster.damage(id, left);
            self.damaged += 1;
        } else if m > e {
            self.note(format_args!("the disk of node {id} is replaced"));
            self.cluster.wipe(id);
            self.wiped += 1;
        }
        self.commits[usize::from(id) - 1] = self.cluster.replica(id).commit();
        self.cluster.connect_all();
    }

    /// Whether what is committed is on a disk other than a node's, that is whole.
    fn is_elsewhere(&mut self, id: u8) -> bool {
        let committed = self.committed.len();
        let others: Vec<u8> = self.cluster.ids().filter(|other| *other != id).collect();
        others.into_iter().any(|other| {
            let member = self.cluster.member(other);
            let has_all = member.disk.entries.get(..committed) == Some(&self.committed[..]);
            has_all && member.replica.held().is_none()
        })
    }

    /// Whether nobody has lost a log or a disk and not got everything back.
    fn are_whole(&self) -> bool {
        let mut replicas = self.cluster.members().map(|member| &member.replica);
        replicas.all(|replica| replica.is_voting() && replica.held().is_none())
    }

    fn election_quorum(&self) -> u8 {
        let (m, n) = quorums(self.seed);
        Quorums::new(m, n).unwrap().election_quorum()
    }

    fn admit(&mut self) {
        let Some(leader) = self.cluster.leader() else { return };
        for id in self.cluster.ids().filter(|id| *id != leader) {
            let admitted = self.cluster.turn(leader, |replica, now| replica.admit(now, node(id)));
            if admitted.is_ok() {
                self.note(format_args!("node {leader} admits {id}: {admitted:?}"));
                self.admitted += 1;
            }
        }
    }

    fn check_reads(&mut self) {
        let mut reads = std::mem::take(&mut self.reads);
        reads.retain(|read| {
            let replica = self.cluster.replica(read.id);
            match replica.read_state(&read.ticket) {
                ReadState::Ready => {
                    assert!(
                        replica.applied() >= read.floor,
                        "a stale read: {} of {}",
                        replica.applied(),
                        read.floor
                    );
                    self.reads_answered += 1;
                    false
                }
                ReadState::Waiting => true,
                ReadState::Lost => false,
            }
        });
        self.reads = reads;
    }

    fn check_leaders(&mut self) {
        for id in self.cluster.ids() {
            let replica = self.cluster.replica(id);
            if !replica.is_leader() {
                continue;
            }
            let holder = *self.leaders.entry(replica.term()).or_insert(id);
            assert_eq!(holder, id, "two leaders in term {}", replica.term());
            // A late one may lack what a later one has committed.
            let is_latest = self.leaders.keys().next_back() == Some(&replica.term());
            assert!(
                !is_latest || replica.last() >= self.committed.len() as Index,
                "node {id} leads without all"
            );
        }
    }

    /// Delivers a message: mostly the oldest, sometimes another one, one twice, or none at all.
    fn deliver(&mut self) {
        let mut waiting = self.cluster.pairs();
        waiting.retain(|(from, to)| !self.cluster.link(*from, *to).queue.is_empty());
        if waiting.is_empty() {
            return;
        }
        let (from, to) = self.random.pick(&waiting);
        for _ in 0..=self.random.below(4) {
            let fate = self.random.below(20);
            let place = self.random.below(self.cluster.link(from, to).queue.len());
            let queue = &mut self.cluster.link(from, to).queue;
            let message = match fate {
                0..2 => queue.remove(place),
                2 => queue.get(place).cloned(),
                _ => queue.pop_front(),
            };
            let Some(message) = message else { return };
            self.note(format_args!("{from} to {to}, fate {fate}: {message:?}"));
            if fate != 19 {
                self.cluster.receive(from, to, &message);
            }
            if self.cluster.link(from, to).queue.is_empty() {
                return;
            }
        }
    }

    /// A disk does some of what it was given, or a node hears of what its disk has done.
    fn sync(&mut self) {
        let id = self.any_node();
        if self.random.below(2) == 0 {
            let submitted = self.cluster.member(id).disk.submitted.len();
            let count = self.random.below(submitted + 1);
            self.note(format_args!("disk {id} does {count} of {submitted}"));
            self.cluster.member(id).disk.sync(count);
        } else {
            self.note(format_args!("node {id} hears of its disk"));
            self.cluster.tell_synced(id);
        }
    }

    fn read(&mut self) {
        let count = 1 + self.random.below(10);
        for id in self.cluster.ids() {
            if self.random.below(5) == 0
                && let Some((to, _)) = self.cluster.member(id).reads.pop_front()
            {
                self.note(format_args!("a read for {to} fails"));
                let read = LogRead::Unreadable;
                self.cluster.turn(id, |replica, now| replica.step(now, Input::LogRead { to, read }));
            }
            self.note(format_args!("node {id} reads up to {count} entries"));
            self.cluster.answer_read(id, count);
        }
    }

    /// Checkpoints are sent and received, or one is taken, and the log before it dropped.
    fn work_transfer(&mut self) {
        match self.random.below(16) {
            0..3 => {
                let leaders = self.cluster.ids().filter(|id| self.cluster.replica(*id).is_leader());
                let leaders: Vec<u8> = leaders.collect();
                if leaders.is_empty() {
                    return;
                }
                let id = self.random.pick(&leaders);
                self.note(format_args!("a checkpoint of node {id}"));
                self.cluster.take_checkpoint(id);
            }
            3 => {
                let id = self.any_node();
                self.note(format_args!("the disk of node {id} loses some of what was received"));
                let part = &mut self.cluster.member(id).disk.part.1;
                if let Some(byte) = part.last_mut() {
                    *byte ^= 1;
                }
            }
            _ => {
                for id in self.cluster.ids() {
                    for _ in 0..=self.random.below(3) {
                        let worked = self.cluster.work_transfer(id);
                        self.note(format_args!("node {id} and its checkpoints: {worked}"));
                    }
                }
            }
        }
    }

    fn pass_time(&mut self) {
        let by = HEARTBEAT * self.random.below(4) as u32 / 2;
        if self.mode == Mode::Configured || self.random.below(3) > 0 {
            self.note(format_args!("{by:?} pass"));
            return self.cluster.advance(by);
        }
        // Some do not notice: their turns come late.
        let by = by * self.random.below(8) as u32;
        self.cluster.now += by;
        for id in self.cluster.ids() {
            if self.random.below(2) == 0 {
                self.note(format_args!("{by:?} pass for {id}"));
                self.cluster.tick(id);
            }
        }
    }

    /// A follower cannot take entries, or can again.
    fn toggle_obstacle(&mut self) {
        let id = self.any_node();
        let obstacle = self.random.pick(&[None, None, Some(Obstacle::DiskFull), Some(Obstacle::DiskStalled)]);
        self.note(format_args!("node {id}: {obstacle:?}"));
        self.cluster.set_obstacle(id, obstacle);
    }

    fn toggle_link(&mut self) {
        let pairs = self.cluster.pairs();
        if pairs.is_empty() {
            return;
        }
        let (from, to) = self.random.pick(&pairs);
        // More often up than down.
        if !self.cluster.link(from, to).is_up {
            self.note(format_args!("link {from} to {to} up"));
            self.cluster.connect(from, to);
        } else if self.random.below(3) == 0 {
            self.note(format_args!("link {from} to {to} down"));
            self.cluster.disconnect(from, to);
            self.maybe_clear(from, to);
        }
    }

    /// What is on a link that goes down is lost, or arrives late.
    fn maybe_clear(&mut self, from: u8, to: u8) {
        if self.random.below(2) == 0 {
            self.cluster.link(from, to).queue.clear();
        }
    }

    fn restart(&mut self) {
        let id = self.any_node();
        self.restart_node(id);
    }

    fn restart_node(&mut self, id: u8) {
        let submitted = self.cluster.member(id).disk.submitted.len();
        // A killed process leaves what it wrote to the operating system, a power cut does not.
        let kept = if self.random.below(2) == 0 { 0 } else { self.random.below(submitted + 1) };
        for (from, to) in self.cluster.pairs() {
            if from == id || to == id {
                self.maybe_clear(from, to);
            }
        }
        self.cluster.member(id).disk.sync(kept);
        let known = self.cluster.member(id).disk.commit();
        let applied =
            if self.random.below(2) == 0 { known } else { known.min(self.random.next() % (known + 1)) };
        self.note(format_args!("restart {id}: {kept} of {submitted} kept, {applied} applied"));
        self.cluster.restart(id, 0, applied);
        self.commits[usize::from(id) - 1] = self.cluster.replica(id).commit();
        if self.random.below(2) == 0 {
            self.cluster.connect_all();
        }
    }

    /// What followers may have and the leader does not is worth a visit.
    fn restart_leader_soon_after_a_write(&mut self) {
        self.propose();
        let leader = self.cluster.leader().unwrap_or(1);
        for id in self.cluster.ids().filter(|id| *id != leader) {
            self.cluster.deliver(leader, id);
            let disk = &mut self.cluster.member(id).disk;
            disk.sync(disk.submitted.len());
        }
        self.restart_node(leader);
    }

    fn check(&mut self) {
        self.check_term_of_commit();
        self.check_leaders();
        self.check_reads();
        for id in self.cluster.ids() {
            self.check_node(id);
        }
        self.check_holders();
    }

    fn check_node(&mut self, id: u8) {
        let member = self.cluster.member(id);
        let (commit, applied) = (member.replica.commit(), member.replica.applied());
        let known = self.committed.len().min(member.applied.len());
        let agrees = member.applied[..known] == self.committed[..known];
        self.committed.extend_from_slice(&member.applied[known..]);
        let applied_matches = member.applied.len() as Index == applied;
        let stopped = member.stopped.clone();
        let report = member.reports.iter().find(|report| !is_expected(report)).cloned();
        if !agrees {
            panic!("node {id} has applied something else than another");
        }
        if applied > commit || commit < self.commits[usize::from(id) - 1] || !applied_matches {
            panic!("node {id}: commit {commit}, applied {applied}, before {:?}", self.commits);
        }
        if stopped.is_some() || report.is_some() {
            panic!("node {id} has stopped or reported: {stopped:?} {report:?}");
        }
        self.commits[usize::from(id) - 1] = commit;
    }

    /// What a leader commits by counting is of its own term (R14). While it alone can lead, breaking that loses
    /// nothing, so no other check would find it.
    fn check_term_of_commit(&mut self) {
        for (leader, before) in self.cluster.members().map(|member| &member.replica).zip(&self.commits) {
            let commit = leader.commit();
            let is_own = leader.terms().term(commit) == Some(leader.term());
            let counts = leader.is_leader() && commit != *before;
            assert!(!counts || is_own, "entry {commit} was committed by counting");
        }
    }

    fn check_holders(&mut self) {
        // What was acknowledged may be lost with a disk before it is committed, and after it.
        let is_new = self.committed.len() > std::mem::replace(&mut self.held, self.committed.len());
        if !is_new || !self.are_whole() {
            return;
        }
        let Some(last) = self.committed.last() else { return };
        let at = self.committed.len() - 1;
        let holds = |member: &Member| member.disk.holds(last);
        let holders: Vec<bool> = self.cluster.members().map(holds).collect();
        let count = holders.iter().filter(|holds| **holds).count();
        if count < usize::from(self.n) || !holders[0] && self.mode == Mode::Configured {
            panic!("entry {} is committed, but held only by {holders:?}", at + 1);
        }
    }

    /// Brings all links up: within a few heartbeats a write is taken, and all replicas are whole.
    fn heal(&mut self) {
        self.cluster.connect_all();
        self.cluster.ids().for_each(|id| self.cluster.set_obstacle(id, None));
        let mut takes_writes = false;
        let rounds = match self.mode {
            Mode::Configured => HEAL_ROUNDS_MAX,
            Mode::Elected => HEAL_ELECTION_ROUNDS_MAX,
        };
        for _ in 0..rounds {
            self.cluster.settle();
            self.check();
            if takes_writes && self.is_whole() {
                return;
            }
            self.cluster.advance(HEARTBEAT);
            self.admit();
            takes_writes = takes_writes || self.cluster.propose(b"the last").is_ok();
        }
        if self.waits_for_what_nobody_has() {
            return;
        }
        let (commits, last) = (self.cluster.commits(), self.last());
        panic!("the healed cluster is not whole: {commits:?} of {last}, takes writes: {takes_writes}");
    }

    /// Entries that are damaged wherever they were may have been committed: there is no leader until they are back
    /// (R19). At n=1 one disk is enough for that.
    fn waits_for_what_nobody_has(&self) -> bool {
        let is_damaged = self.cluster.members().any(|member| member.replica.held().is_some());
        (self.n == 1 || self.overlapping) && is_damaged && self.cluster.leader().is_none()
    }

    fn last(&self) -> Index {
        self.cluster.replica(self.cluster.leader().unwrap_or(1)).last()
    }

    fn is_whole(&self) -> bool {
        let last = self.last();
        self.cluster.commits().iter().all(|commit| *commit == last)
            && self.cluster.members().all(|member| member.disk.entries == self.committed)
    }
}

/// What came of a run.
#[derive(PartialEq, Eq, Debug)]
struct Outcome {
    committed: Vec<Bytes>,
    reads: u64,
    leaders: usize,
    /// Logs damaged, disks replaced, and replicas admitted again.
    lost: [u64; 3],
    /// Checkpoints that some node went on behind, with the log that it had, and with a new one.
    restored: [usize; 2],
}

impl Drop for Run {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let (seed, step, (m, n)) = (self.seed, self.step, quorums(self.seed));
            eprintln!(
                "seed {seed} (m={m} n={n}, {:?}) failed at step {step}; to see every step: QUORATE_SEED={seed} \
                 cargo test -p quorate-server --lib replica::tests::random -- --nocapture",
                self.mode
            );
        }
    }
}

/// Late messages make a leader and a follower complain of each other, and disks spoil what was received; nobody broke a
/// rule.
fn is_expected(report: &str) -> bool {
    let expected = [
        "cannot be read for node",
        "refused an append of node 1 in term",
        "does not take this node",
        "but its log matches up to",
        "damaged: sending it again",
    ];
    expected.iter().any(|words| report.contains(words))
}

/// What came of all runs together.
#[derive(Default, Debug)]
struct Sum {
    entries: u64,
    reads: u64,
    terms: u64,
    damaged: u64,
    wiped: u64,
    admitted: u64,
    restored: [usize; 2],
}

/// None if one seed is looked at.
fn search(mode: Mode) -> Option<Sum> {
    if let Ok(seed) = std::env::var("QUORATE_SEED") {
        Run::new(seed.parse().expect("a seed is a number"), mode, true).go();
        return None;
    }
    let mut sum = Sum::default();
    for seed in 0..SEEDS {
        let outcome = Run::new(seed, mode, false).go();
        sum.entries += outcome.committed.len() as u64;
        sum.reads += outcome.reads;
        sum.terms += outcome.leaders as u64;
        let [damaged, wiped, admitted] = outcome.lost;
        sum.damaged += damaged;
        sum.wiped += wiped;
        sum.admitted += admitted;
        (0..2).for_each(|kind| sum.restored[kind] += outcome.restored[kind]);
    }
    println!("{mode:?}: {sum:?}");
    Some(sum)
}

#[test]
fn no_rule_breaks_under_random_loss_disorder_and_crashes() {
    let Some(sum) = search(Mode::Configured) else { return };
    assert!(
        sum.entries > 20 * SEEDS && sum.restored[1] > SEEDS as usize / 4,
        "it is worth something: {sum:?}"
    );
}

#[test]
fn no_rule_breaks_when_leaders_are_elected() {
    let Some(sum) = search(Mode::Elected) else { return };
    assert!(sum.entries > 20 * SEEDS && sum.reads > SEEDS && sum.terms > 4 * SEEDS, "{sum:?}");
    assert!(sum.restored[0] > 0 && sum.restored[1] > SEEDS as usize / 4, "{sum:?}");
    assert!(sum.damaged > SEEDS / 4 && sum.wiped > SEEDS / 8 && sum.admitted > SEEDS / 8, "{sum:?}");
}

#[test]
fn a_run_follows_from_its_seed_alone() {
    for mode in [Mode::Configured, Mode::Elected] {
        assert_eq!(Run::new(7, mode, false).go(), Run::new(7, mode, false).go());
    }
}

/// Runs with a bug in the core until a check fails, and says how soon.
fn finds(mutant: Mutant) {
    let fails = |seed| {
        let run = || drop(with(mutant, || Run::new(seed, Mode::Elected, false).go()));
        catch_unwind(AssertUnwindSafe(run)).is_err()
    };
    let Some(seed) = (0..SEEDS).find(|seed| fails(*seed)) else { panic!("{mutant:?} is not found") };
    println!("{mutant:?}: found with seed {seed}");
}

#[test]
fn the_search_finds_a_vote_that_is_forgotten_within_its_term() {
    finds(Mutant::VoteClearedOnLeaderChange);
}

#[test]
fn the_search_finds_an_entry_of_an_older_term_that_is_committed_by_counting() {
    finds(Mutant::OldTermCommitted);
}

#[test]
fn the_search_finds_elections_without_a_majority() {
    finds(Mutant::ElectionWithoutMajority);
}

#[test]
fn the_search_finds_reads_confirmed_by_too_few() {
    finds(Mutant::ReadConfirmedByTooFew);
}

#[test]
fn the_search_finds_reads_before_the_leaders_own_entry() {
    finds(Mutant::ReadBeforeNoop);
}

#[test]
fn the_search_finds_acknowledgements_of_another_term() {
    finds(Mutant::AckWithoutTerm);
}

#[test]
fn the_search_finds_a_follower_that_applies_what_is_not_committed() {
    finds(Mutant::FollowerAppliesAboveCommit);
}

#[test]
fn the_search_finds_an_old_tail_that_is_acknowledged() {
    finds(Mutant::OldTailAcknowledged);
}

#[test]
fn the_search_finds_a_stale_sync_that_counts() {
    finds(Mutant::StaleSyncCounted);
}

#[test]
fn the_search_finds_a_damaged_log_that_counts_as_absent() {
    finds(Mutant::CorruptCountedAsAbsent);
}

#[test]
fn the_search_finds_a_learner_that_counts() {
    finds(Mutant::LearnerCounted);
}

#[test]
fn the_search_finds_votes_of_a_wiped_node() {
    finds(Mutant::WipedNodeVotes);
}

#[test]
fn the_search_finds_a_damaged_log_that_is_compared_as_it_is() {
    finds(Mutant::DamagedLogForgotten);
}
