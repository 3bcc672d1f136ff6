//! The small model: every interleaving of what can happen to a few real replicas, within bounds.
//!
//! Each node is a [`Replica`], as production runs it, with a disk and a clock in memory; `stateright` tries all
//! orders of timeouts, deliveries, syncs, crashes, writes and reads, and [`rules`] are checked after each step.
//!
//! # What is modelled, and how
//!
//! - **Network**: a message arrives at any time or never, once. On one link messages arrive in order, as on a
//!   connection; or, with `is_unordered`, in any. With `forgets` a message of an ended term is lost instead of being
//!   refused; what its receiver could only ignore is always lost, except acks while the mutant is on that counts them.
//! - **Votes**: with `has_pre_votes` all are messages. Otherwise pre-votes are simply given, which allows more than can
//!   happen; and a vote arrives at once or never, which misses nothing: see [`Small::deliver_votes`].
//! - **Time**: there is no common clock. That a node has heard no leader for long enough, or a leader nobody, is a step
//!   that may happen at any time; a voter that is asked has heard no leader. That is more than can happen: what holds
//!   here holds with timeouts of any length.
//! - **Disk**: operations become durable one by one, in order, as steps of their own; a crash keeps any prefix of
//!   those under way. A promise is durable at once, as the core's contract says. After a restart what the log knows
//!   to be committed is applied; the others notice the restart at once.
//! - **Bounds**: terms, client entries, crashes, reads, heartbeats, and the rounds of one leader: when messages overtake
//!   each other every mismatch begins one for all followers, without end. Each leader adds the first entry of its
//!   term. Neither deliveries nor messages under way are bounded.
//!
//! # How far it goes
//!
//! `cargo test` follows the smallest clusters. All that is followed to its end ([`WHOLE`]):
//!
//! ```text
//! QUORATE_EXHAUSTIVE=1 cargo test --release -p quorate-server --lib replica::tests::model -- --nocapture --test-threads=1
//! ```
//!
//! ```text
//! m n   terms  entries  crashes  reads   unique states   depth
//! 3 1     2       1        1       0        7,449,671      52
//! 3 2     2       1        0       0        1,319,212      50
//! 3 2     2       0        1       0        1,637,082      45
//! 3 2     2       1        0       1       13,658,428      53
//! 3 2     3       0        0       0        4,357,812      59
//! 3 2     2       2        0       0       18,049,119      60
//! 3 3     2       1        0       0          331,453      50
//! 3 3     2       0        1       0          923,493      45
//! 3 3     2       2        0       0        2,777,314      60
//! 3 3     3       0        0       0        2,133,613      56
//! 4 3     2       0        0       0        2,841,138      58
//! 5 4     1       1        0       0          166,373      50
//! ```
//!
//! About seven minutes on two cores, and below 2 GiB. Each step costs little, as a node's turn is remembered by node
//! and event; but a space grows about tenfold with each entry, crash or term, so that m=3 with three terms, two
//! entries and a crash at once, and m=5 with two terms, are not followed to their ends.
//!
//! # Omissions
//!
//! Leases, as they are a matter of clocks; hand-overs, as a node may stand at any time anyhow; obstacles; batches of
//! several writes; repeated messages. Log reads are answered at once. Admission of new incarnations (R27) is not there
//! yet.

mod digest;
mod node;
mod rules;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use quorate_protocol::peer::PeerMessage;
use stateright::{Checker, Model, Property};

use super::super::Role;
use super::*;
use crate::mutant::{Mutant, with};
use digest::{Parts, hash_of};
use node::{Envelope, Event, Node, Operation, Turn};
use rules::{History, Rule};

/// What is followed to its end by the documented command.
const WHOLE: [fn() -> Small; 12] = [
    || small(3, 1, 2, 1).with_crashes(1),
    || small(3, 2, 2, 1),
    || small(3, 2, 2, 0).with_crashes(1),
    || small(3, 2, 2, 1).with_reads(1),
    || small(3, 2, 3, 0),
    || small(3, 3, 2, 1),
    || small(3, 3, 2, 0).with_crashes(1),
    || small(3, 2, 2, 2),
    || small(3, 3, 2, 2),
    || small(3, 3, 3, 0),
    || small(4, 3, 2, 0),
    || small(5, 4, 1, 1),
];

/// Turns remembered in each thread, beyond which all are forgotten.
const TURNS_MAX: usize = 1_000_000;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Counts {
    terms: Term,
    entries: u8,
    crashes: u8,
    reads: u8,
    heartbeats: u8,
    /// Rounds of one leader; each follower that misses an entry begins one for all.
    rounds: u64,
}

/// A cluster, and how far it is followed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
struct Small {
    m: u8,
    n: u8,
    most: Counts,
    /// Whether pre-votes are asked for, or simply given.
    has_pre_votes: bool,
    /// Whether messages overtake each other.
    is_unordered: bool,
    /// Whether a message of an ended term is lost instead of being refused.
    forgets: bool,
    mutant: Option<Mutant>,
}

/// What happens: an event, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Step {
    at: usize,
    event: Event,
    /// Whether the vote that is given with it gets lost.
    loses_vote: bool,
}

#[derive(Clone, Debug)]
struct State {
    nodes: Vec<Arc<Node>>,
    sent: Vec<Arc<Envelope>>,
    history: History,
    used: Counts,
    reads_answered: u8,
    broken: Option<Rule>,
    digest: u64,
}

impl PartialEq for State {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl Hash for State {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.digest);
    }
}

impl State {
    fn seal(&mut self, is_unordered: bool) {
        let place = |node: NodeId| usize::from(node.get()) - 1;
        let messages = self.sent.iter().enumerate().map(|(at, sent)| {
            let is_same_link = |other: &&Arc<Envelope>| (other.from, other.to) == (sent.from, sent.to);
            let before = match is_unordered {
                true => 0,
                false => self.sent[..at].iter().filter(is_same_link).count() as u64,
            };
            (place(sent.from), place(sent.to), sent.what.wrapping_add(before))
        });
        let rest = (&self.history.committed, self.used, self.reads_answered, self.broken);
        let parts = Parts {
            nodes: self.nodes.iter().map(|node| &node.marks).collect(),
            messages: messages.collect(),
            leaders: &self.history.leaders,
            rest: hash_of(rest),
        };
        self.digest = parts.digest();
    }

    fn keeps(&self, rule: Rule) -> bool {
        self.broken != Some(rule)
    }
}

thread_local! {
    /// Turns by model, node and event: nodes are in the same state far more often than clusters are.
    static TURNS: RefCell<HashMap<u64, Option<Arc<Turn>>>> = RefCell::default();
}

impl Small {
    fn settings(&self, id: u8) -> Settings {
        Settings {
            leadership: Leadership::Elected,
            election_timeout: Time::from_secs(3600), // Beyond any number of heartbeats.
            ..settings(id, self.m, self.n)
        }
    }

    fn turn(&self, node: &Node, event: &Event) -> Option<Arc<Turn>> {
        let key = hash_of((self, node.identity, event));
        if let Some(turn) = TURNS.with_borrow(|turns| turns.get(&key).cloned()) {
            return turn;
        }
        let turn = self.take_turn(node, event).map(Arc::new);
        TURNS.with_borrow_mut(|turns| {
            if turns.len() >= TURNS_MAX {
                turns.clear();
            }
            turns.insert(key, turn.clone());
        });
        turn
    }

    fn take_turn(&self, node: &Node, event: &Event) -> Option<Turn> {
        let run = || match self.mutant {
            Some(mutant) => with(mutant, || node.turn(event, self.has_pre_votes)),
            None => node.turn(event, self.has_pre_votes),
        };
        catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|_| {
            let broken = Some(Rule::NoAssertionFails);
            let (sent, applied) = (Vec::new(), Vec::new());
            Some(Turn { node: Arc::new(node.clone()), sent, applied, reads_answered: 0, broken })
        })
    }

    fn events_at(&self, state: &State, at: usize) -> Vec<Event> {
        let (node, used, most) = (&state.nodes[at], &state.used, &self.most);
        let is_leader = node.replica.is_leader();
        let can_lose_office = Quorums::new(self.m, self.n).unwrap().read_quorum() > 1;
        let floor = state.history.committed.len() as Index;
        let mut events = Vec::new();
        let mut may = |condition: bool, event: Event| {
            if condition {
                events.push(event);
            }
        };
        // Pre-votes are asked for again when none of the last ones is on its way.
        let own = super::node(at as u8 + 1);
        let is_of_own = |sent: &Arc<Envelope>| sent.is_pre_vote() && (sent.from == own || sent.to == own);
        let has_asked = self.has_pre_votes && state.sent.iter().any(is_of_own);
        may(!is_leader && node.replica.term() < most.terms && !has_asked, Event::Stand);
        may(is_leader && can_lose_office, Event::StepDown);
        may(is_leader && used.heartbeats < most.heartbeats, Event::Heartbeat);
        may(is_leader && used.entries < most.entries, Event::Propose);
        may(is_leader && used.reads < most.reads, Event::Read { floor });
        may(!node.disk.submitted.is_empty(), Event::Sync);
        for kept in 0..=node.disk.submitted.len() {
            may(used.crashes < most.crashes, Event::Crash { kept });
        }
        events
    }

    /// An event happens to a node; none if it cannot.
    fn apply(&self, state: &mut State, at: usize, event: &Event) -> Option<()> {
        let before = state.nodes[at].clone();
        let turn = self.turn(&before, event)?;
        state.nodes[at] = turn.node.clone();
        for envelope in &turn.sent {
            if !self.is_unordered || !state.sent.contains(envelope) {
                state.sent.push(envelope.clone());
            }
        }
        let nodes = &state.nodes;
        state.sent.retain(|sent| !self.says_nothing(sent, &nodes[usize::from(sent.to.get()) - 1]));
        state.reads_answered += turn.reads_answered;
        let broken = rules::check(nodes, &before, event, &turn, at, &mut state.history, self.n).err();
        state.broken = state.broken.or(broken);
        Some(())
    }

    /// The others notice that a node was restarted.
    fn reconnect_to(&self, state: &mut State, at: usize) {
        for other in (0..state.nodes.len()).filter(|other| *other != at) {
            self.apply(state, other, &Event::Reconnect { to: node(at as u8 + 1) });
        }
    }

    /// A vote arrives at once or never: until it does, a candidate only gets other votes or is a candidate no more,
    /// so that no order is missed.
    fn deliver_votes(&self, state: &mut State, lost: bool) {
        let is_vote = |sent: &Arc<Envelope>| matches!(sent.message.to_wire(), PeerMessage::Vote(_));
        while let Some(place) = state.sent.iter().position(is_vote) {
            let message = state.sent.remove(place);
            if !lost {
                self.apply(state, usize::from(message.to.get()) - 1, &Event::Receive { message });
            }
        }
    }

    /// Whether a message can have no effect any more, as its receiver has promised a higher term, or holds the office
    /// no more or already for which the message is; or nothing but a refusal.
    fn says_nothing(&self, envelope: &Envelope, to: &Node) -> bool {
        let (promise, is_leader) = (to.replica.promised(), to.replica.is_leader());
        let is_answer_to_old = |term| term < promise.term || term == promise.term && !is_leader;
        match envelope.message.to_wire() {
            PeerMessage::Append(append) => self.forgets && append.term < promise.term,
            PeerMessage::RequestVote(request) if request.pre_vote => false,
            PeerMessage::RequestVote(request) => {
                let has_voted = request.term == promise.term && promise.voted_for.is_some();
                self.forgets && (request.term < promise.term || has_voted)
            }
            PeerMessage::Vote(vote) if vote.pre_vote => false,
            PeerMessage::Vote(vote) => {
                let counts = vote.granted && to.replica.is_candidate();
                vote.term < promise.term || vote.term == promise.term && !counts
            }
            PeerMessage::Ack(ack) => {
                self.mutant != Some(Mutant::AckWithoutTerm) && is_answer_to_old(ack.term)
            }
            PeerMessage::Reject(reject) => is_answer_to_old(reject.term),
            _ => false,
        }
    }

    /// A restarted node that goes on alone begins a term unasked.
    fn is_within(&self, state: &State) -> bool {
        let rounds = |node: &Node| match &node.replica.role {
            Role::Leader(leader) => leader.round,
            _ => 0,
        };
        let is_within =
            |node: &Node| node.replica.term() <= self.most.terms && rounds(node) <= self.most.rounds;
        state.nodes.iter().all(|node| is_within(node))
    }
}

fn count(used: &mut Counts, event: &Event) {
    match event {
        Event::Propose => used.entries += 1,
        Event::Crash { .. } => used.crashes += 1,
        Event::Read { .. } => used.reads += 1,
        Event::Heartbeat => used.heartbeats += 1,
        Event::Stand | Event::StepDown | Event::Receive { .. } | Event::Sync | Event::Reconnect { .. } => {}
    }
}

impl Model for Small {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            nodes: (1..=self.m).map(|id| Node::start(self.settings(id))).collect(),
            sent: Vec::new(),
            history: History::default(),
            used: Counts::default(),
            reads_answered: 0,
            broken: None,
            digest: 0,
        };
        state.seal(self.is_unordered);
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.broken.is_some() {
            return;
        }
        for at in 0..state.nodes.len() {
            let events = self.events_at(state, at).into_iter();
            steps.extend(events.map(|event| Step { at, event, loses_vote: false }));
        }
        for (place, message) in state.sent.iter().enumerate() {
            let is_behind = |other: &Arc<Envelope>| (other.from, other.to) == (message.from, message.to);
            if !self.is_unordered && state.sent[..place].iter().any(is_behind) {
                continue;
            }
            let asks = matches!(message.message.to_wire(), PeerMessage::RequestVote(_));
            for loses_vote in [false, true].into_iter().take(1 + usize::from(asks && !self.has_pre_votes)) {
                let event = Event::Receive { message: message.clone() };
                steps.push(Step { at: usize::from(message.to.get()) - 1, event, loses_vote });
            }
        }
    }

    fn next_state(&self, last: &State, Step { at, event, loses_vote }: Step) -> Option<State> {
        let mut next = last.clone();
        if let Event::Receive { message } = &event {
            let place = next.sent.iter().position(|sent| sent == message)?;
            next.sent.remove(place);
        }
        count(&mut next.used, &event);
        self.apply(&mut next, at, &event)?;
        if matches!(event, Event::Crash { .. }) {
            self.reconnect_to(&mut next, at);
        }
        if !self.has_pre_votes {
            self.deliver_votes(&mut next, loses_vote);
        }
        next.seal(self.is_unordered);
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("one leader a term", |_, state: &State| state.keeps(Rule::OneLeaderATerm)),
            Property::always("one vote a term", |_, state: &State| state.keeps(Rule::OneVoteATerm)),
            Property::always("acks are durable and matched", |_, state: &State| {
                state.keeps(Rule::AcksAreDurableAndMatched)
            }),
            Property::always("committed is on n disks", |_, state: &State| {
                state.keeps(Rule::CommittedIsOnQuorum)
            }),
            Property::always("own entries are counted", |_, state: &State| {
                state.keeps(Rule::OwnTermIsCounted)
            }),
            Property::always("leaders hold what is committed", |_, state: &State| {
                state.keeps(Rule::LeadersHoldWhatIsCommitted)
            }),
            Property::always("committed is the same everywhere", |_, state: &State| {
                state.keeps(Rule::CommittedIsTheSameEverywhere)
            }),
            Property::always("nothing committed is cut", |_, state: &State| {
                state.keeps(Rule::NothingCommittedIsCut)
            }),
            Property::always("commit never goes back", |_, state: &State| {
                state.keeps(Rule::CommitNeverGoesBack)
            }),
            Property::always("reads see what was committed", |_, state: &State| {
                state.keeps(Rule::ReadsSeeWhatWasCommitted)
            }),
            Property::always("no assertion fails", |_, state: &State| state.keeps(Rule::NoAssertionFails)),
            Property::sometimes("a second leader commits", |_, state: &State| {
                state.history.committed.iter().any(|committed| committed.by > 1)
            }),
            Property::sometimes("a client's entry is committed", |_, state: &State| {
                state.history.committed.iter().any(|committed| committed.bytes.ends_with(b"value"))
            }),
            Property::sometimes("a log is cut", |_, state: &State| {
                let cuts = |node: &Arc<Node>| {
                    node.disk
                        .submitted
                        .iter()
                        .any(|operation| matches!(operation, Operation::Truncate { .. }))
                };
                state.nodes.iter().any(cuts)
            }),
            Property::sometimes("a read is answered", |_, state: &State| state.reads_answered > 0),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        self.is_within(state)
    }
}

/// What came of a search.
struct Found {
    broken: Vec<&'static str>,
    seen: Vec<&'static str>,
    /// Whether every state was visited.
    is_whole: bool,
}

/// Follows a model to its end, until a rule is broken, or for so long.
fn explore(model: Small, threads: usize, at_most: Duration) -> Found {
    let began = Instant::now();
    let checker = model
        .checker()
        .threads(threads)
        .timeout(at_most)
        .finish_when(stateright::HasDiscoveries::AnyFailures)
        .spawn_dfs()
        .join();
    let took = began.elapsed();
    let (mut broken, mut seen) = (Vec::new(), Vec::new());
    for (name, path) in checker.discoveries() {
        if model.property(name).expectation == stateright::Expectation::Sometimes {
            seen.push(name);
            continue;
        }
        broken.push(name);
        if model.mutant.is_none() {
            path.into_vec().into_iter().for_each(|(_, step)| println!("    {step:?}"));
        }
    }
    let found = Found { is_whole: broken.is_empty() && took < at_most, broken, seen };
    println!(
        "{model:?}: {} states, {} unique, depth {}, {took:.1?}, peak {} MiB, whole: {}, broken: {:?}, seen: {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        peak_memory_mib(),
        found.is_whole,
        found.broken,
        found.seen,
    );
    found
}

/// Of this process; 0 where the system does not say.
fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

fn small(m: u8, n: u8, terms: Term, entries: u8) -> Small {
    let most = Counts { terms, entries, crashes: 0, reads: 0, heartbeats: 0, rounds: 4 };
    Small { m, n, most, has_pre_votes: false, is_unordered: false, forgets: true, mutant: None }
}

impl Small {
    fn with_crashes(mut self, crashes: u8) -> Self {
        self.most.crashes = crashes;
        self
    }

    fn with_reads(mut self, reads: u8) -> Self {
        self.most.reads = reads;
        self
    }
}

/// The whole space has to keep all rules.
fn holds(model: Small, must_see: &[&str]) {
    let found = explore(model, 1, SHORT);
    assert_eq!(found.broken, Vec::<&str>::new());
    assert!(found.is_whole, "not whole within {SHORT:?}");
    must_see.iter().for_each(|what| assert!(found.seen.contains(what), "never: {what}"));
}

/// No test waits for longer; none is expected to.
const SHORT: Duration = Duration::from_secs(300);

#[test]
fn rules_hold_in_the_smallest_clusters_whatever_happens() {
    holds(small(3, 1, 2, 1), &["a second leader commits", "a client's entry is committed"]);
    holds(small(3, 2, 2, 0), &["a second leader commits", "a log is cut"]);
    holds(small(3, 3, 2, 0), &["a second leader commits", "a log is cut"]);
    holds(small(3, 2, 1, 1).with_reads(1), &["a client's entry is committed", "a read is answered"]);
    holds(small(3, 2, 1, 0).with_crashes(1), &[]);
}

#[test]
fn rules_hold_when_messages_overtake_each_other_and_refusals_and_pre_votes_are_told() {
    holds(Small { is_unordered: true, ..small(3, 2, 1, 0) }, &[]);
    holds(Small { forgets: false, ..small(3, 3, 2, 0) }, &["a second leader commits"]);
    holds(Small { has_pre_votes: true, ..small(3, 2, 1, 0) }, &[]);
}

/// The bounds that T9 asks for, as far as they are reached: see the figures in the module's header.
#[test]
fn the_whole_space_keeps_the_rules() {
    if std::env::var("QUORATE_EXHAUSTIVE").is_err() {
        return println!("only with QUORATE_EXHAUSTIVE=1");
    }
    for model in WHOLE {
        let found = explore(model(), 2, Duration::from_secs(3600));
        assert!(found.broken.is_empty() && found.is_whole);
    }
}

fn finds(mutant: Mutant, model: Small, rule: &str) {
    let found = explore(Small { mutant: Some(mutant), ..model }, 1, SHORT);
    assert!(found.broken.contains(&rule), "{mutant:?}: {:?}", found.broken);
}

#[test]
fn elections_without_a_majority_give_two_leaders_in_one_term() {
    finds(Mutant::ElectionWithoutMajority, small(3, 3, 1, 0), "one leader a term");
}

#[test]
fn known_bugs_break_the_rule_that_they_are_against() {
    let model = small(3, 2, 2, 1).with_reads(1);
    finds(Mutant::VoteClearedOnLeaderChange, model, "one vote a term");
    finds(Mutant::OldTermCommitted, model, "own entries are counted");
    finds(Mutant::ReadConfirmedByTooFew, model, "reads see what was committed");
    finds(Mutant::ReadBeforeNoop, model, "reads see what was committed");
    finds(Mutant::FollowerAppliesAboveCommit, model, "committed is on n disks");
    finds(Mutant::OldTailAcknowledged, model, "acks are durable and matched");
    finds(Mutant::StaleSyncCounted, model, "acks are durable and matched");
}

/// One model by numbers, to find out how far it goes: `QUORATE_MODEL=m,n,terms,entries,crashes,reads,seconds[,mutant 18]`.
#[test]
fn one_space_by_hand() {
    let Ok(text) = std::env::var("QUORATE_MODEL") else { return };
    let numbers: Vec<u64> = text.split(',').map(|number| number.parse().expect("a number")).collect();
    let &[m, n, terms, entries, crashes, reads, seconds, ref mutant @ ..] = &numbers[..] else {
        panic!("m,n,terms,entries,crashes,reads,seconds")
    };
    let model = small(m as u8, n as u8, terms, entries as u8);
    let model = model.with_crashes(crashes as u8).with_reads(reads as u8);
    let mutant = mutant.first().map(|_| Mutant::AckWithoutTerm);
    explore(Small { mutant, ..model }, 2, Duration::from_secs(seconds));
}
