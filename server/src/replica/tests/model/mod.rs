//! The small model: every interleaving of what can happen to a few real replicas, within bounds.
//!
//! Each node is a [`Replica`], as production runs it, with a disk and a clock in memory; `stateright` tries all
//! orders of timeouts, deliveries, syncs, crashes, writes and reads, and checks [`rules`] after each step.
//!
//! # What is modelled, and how
//!
//! - **Network**: what was ever sent can be delivered at any time, again, or never. So loss, repetition and disorder
//!   need no steps of their own.
//! - **Time**: there is no common clock. That a node has heard no leader for long enough, or a leader nobody, is a step
//!   that may happen at any time; a voter that is asked has heard no leader. That is more than can happen: what holds
//!   here holds with timeouts of any length.
//! - **Disk**: operations become durable one by one, in order, as steps of their own; a crash keeps any prefix of
//!   those under way. A promise is durable at once, as the core's contract says.
//! - **Bounds**: terms, client entries, crashes, reads, heartbeats and reconnections are counted; each leader adds the
//!   first entry of its term. Nothing else is bounded: neither messages under way nor deliveries.
//!
//! # Omissions
//!
//! Leases, as they are a matter of clocks; hand-overs, as a node may stand at any time anyhow; obstacles; batches of
//! several writes. Log reads are answered at once. Admission of new incarnations (R27) is not there yet.

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
        may(!is_leader && node.replica.term() < most.terms, Event::Stand);
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
            PeerMessage::Ack(ack) => self.mutant != Some(Mutant::AckWithoutTerm) && is_answer_to_old(ack.term),
            PeerMessage::Reject(reject) => is_answer_to_old(reject.term),
            PeerMessage::TimeoutNow(_) | PeerMessage::Stored(_) => false,
        }
    }

    /// A restarted node that goes on alone begins a term unasked.
    fn is_within(&self, state: &State) -> bool {
        let rounds = |node: &Node| match &node.replica.role {
            Role::Leader(leader) => leader.round,
            Role::Follower(_) | Role::Candidate(_) => 0,
        };
        let is_within = |node: &Node| node.replica.term() <= self.most.terms && rounds(node) <= self.most.rounds;
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
                    node.disk.submitted.iter().any(|operation| matches!(operation, Operation::Truncate { .. }))
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
#[derive(Debug)]
struct Found {
    broken: Vec<&'static str>,
    seen: Vec<&'static str>,
    unique: usize,
}

/// Follows a model to its end, or until a rule is broken.
fn explore(model: Small, seconds_max: u64) -> Found {
    let began = Instant::now();
    let checker = model
        .checker()
        .threads(2)
        .timeout(Duration::from_secs(seconds_max))
        .finish_when(stateright::HasDiscoveries::AnyFailures)
        .spawn_dfs()
        .join();
    let (mut broken, mut seen) = (Vec::new(), Vec::new());
    for (name, path) in checker.discoveries() {
        match model.property(name).expectation {
            stateright::Expectation::Always => {
                broken.push(name);
                println!("  broken: {name}");
                for (_, step) in path.into_vec() {
                    println!("    {step:?}");
                }
            }
            _ => seen.push(name),
        }
    }
    println!(
        "m={} n={} {:?} {:?}: {} states, {} unique, depth {}, {:?}, done {}, seen {seen:?}",
        model.m,
        model.n,
        model.most,
        model.mutant,
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        began.elapsed(),
        checker.is_done(),
    );
    Found { broken, seen, unique: checker.unique_state_count() }
}

#[test]
fn try_out() {
    let get = |name: &str, default: u64| {
        std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default)
    };
    let model = Small {
        m: get("M", 3) as u8,
        n: get("N", 2) as u8,
        most: Counts {
            terms: get("TERMS", 2),
            entries: get("ENTRIES", 0) as u8,
            crashes: get("CRASHES", 0) as u8,
            reads: get("READS", 0) as u8,
            heartbeats: get("HB", 0) as u8,
            rounds: get("ROUNDS", 4),
        },
        has_pre_votes: get("PV", 0) == 1,
        forgets: get("FORGETS", 1) == 1,
        is_unordered: get("UNORDERED", 0) == 1,
        mutant: match get("MUTANT", 0) {
            8 => Some(Mutant::VoteClearedOnLeaderChange),
            9 => Some(Mutant::OldTermCommitted),
            10 => Some(Mutant::ElectionWithoutMajority),
            11 => Some(Mutant::ReadConfirmedByTooFew),
            12 => Some(Mutant::ReadBeforeNoop),
            18 => Some(Mutant::AckWithoutTerm),
            20 => Some(Mutant::FollowerAppliesAboveCommit),
            21 => Some(Mutant::OldTailAcknowledged),
            22 => Some(Mutant::StaleSyncCounted),
            _ => None,
        },
    };
    explore(model, get("SECONDS", 60));
}
