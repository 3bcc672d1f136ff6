//! The small model: every interleaving of what can happen to a few real replicas, within bounds.
//!
//! Each node is a [`Replica`], as production runs it, with a disk and a clock in memory; `stateright` tries all
//! orders of timeouts, deliveries, syncs, crashes, writes and reads, and [`rules`] are checked after each step.
//!
//! # What is modelled, and how
//!
//! - **Network**: one of two kinds ([`network`]). Messages are *delayed*: each arrives at any time or never, once, in order
//!   on its link or in any order. Or they are *prompt*: each arrives before anything else happens, or never, and a bounded
//!   number of them late; what is the same for all that may still come is then one state ([`still`]). With `forgets` a
//!   message of an ended term is lost instead of being refused; what its receiver could only ignore is always lost, except
//!   acks while the mutant is on that counts them.
//! - **Votes**: with `has_pre_votes` all are messages. Otherwise pre-votes are simply given, which allows more than can
//!   happen; and a vote arrives at once or never.
//! - **Time**: there is no common clock. That a node has heard no leader for long enough, or a leader nobody, is a step
//!   that may happen at any time; a voter that is asked has heard no leader. That is more than can happen: what holds
//!   here holds with timeouts of any length.
//! - **Disk**: operations become durable in order, as steps of their own: one by one, or with prompt messages all that
//!   were given since the log was last cut. A crash keeps any prefix of those under way. A promise is durable at once, as
//!   the core's contract says. After a restart what the log knows to be committed is applied (with prompt messages it
//!   knows nothing); the others notice the restart at once.
//! - **Admission** (R26, R27): a disk is replaced by an empty one, and its node comes back as another incarnation. A leader
//!   may admit it whenever the core lets it.
//! - **Repair** (R8, R19): a log loses any suffix while its node is down, which then knows how far it went, and asks the
//!   others when it would stand for election.
//! - **Bounds**: terms, client entries, crashes, replaced disks, damaged logs, late messages, reads, heartbeats, and with
//!   delayed messages the rounds of one leader: when messages overtake each other every mismatch begins one for all
//!   followers, without end. Each leader adds the first entry of its term. Neither deliveries nor messages under way are
//!   bounded.
//!
//! # How far it goes
//!
//! `cargo test` follows the smallest clusters. All that is followed to its end, in [`searches`]:
//!
//! ```text
//! QUORATE_EXHAUSTIVE=1 cargo test --release -p quorate-server --lib replica::tests::model -- --nocapture --test-threads=1
//! ```
//!
//! ```text
//! prompt messages: the bounds of T9
//! m n   terms  entries  crashes                unique states   depth
//! 3 1     3       2        1                         605,221      48
//! 3 2     3       2        1                      51,677,438      64
//! 3 3     3       2        1                      17,996,006      64
//! 4 3     2       1        0                         542,863      54
//! 5 4     2       1        0                      43,221,716      77
//!
//! prompt messages: what is rarer
//! 3 2     2       1        0     late 1            1,513,399      50
//! 3 2     2       0        1     late 1            1,617,938      51
//! 3 2     2       1        1     read 1            9,795,366      60
//! 3 2     2       0        0     replaced, late 1  2,055,534      60
//! 3 2     2       1        0     replaced 1          508,850      51
//! 3 3     2       1        0     replaced 1          249,245      50
//! 3 2     3       0        0     replaced 1        1,016,425      62
//! 3 2     3       1        0     damaged 1        11,497,058      63
//! 3 2     3       0        0     damaged 2         1,935,190      68
//!
//! delayed messages
//! 3 1     2       1        1                       7,305,659      51
//! 3 2     2       1        0                       1,319,212      50
//! 3 2     2       0        1                       1,637,082      45
//! 3 2     2       1        0     read 1           13,658,428      54
//! 3 2     3       0        0                       4,357,812      59
//! 3 2     2       2        0                      18,049,119      60
//! 3 3     2       1        0                         331,453      50
//! 3 3     2       0        1                         923,493      45
//! 3 3     2       2        0                       2,777,314      60
//! 3 3     3       0        0                       2,133,613      56
//! 4 3     2       0        0                       2,841,138      58
//! 5 4     1       1        0                         166,373      50
//! ```
//!
//! About half an hour on two cores, and below 8 GiB. Each step costs little, as a node's turn is remembered by node and
//! event. Which of several states that are the same is visited first depends on the threads, and how far rounds have got in
//! it is not the same: so counts differ by up to three percent from run to run. Where both kinds of network are small, what
//! becomes of nodes is compared; known bugs are looked for with both.
//!
//! # Omissions
//!
//! Leases, as they are a matter of clocks; hand-overs, as a node may stand at any time anyhow; obstacles; batches of
//! several writes; repeated messages; checkpoints. Log reads are answered at once. A disk is replaced once at most for
//! each node.

mod digest;
mod facts;
mod network;
mod node;
mod rules;
mod searches;
mod still;

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use stateright::{Model, Property};

use super::super::Role;
use super::*;
use crate::mutant::{Mutant, with};
use digest::{Parts, hash_of};
use network::Network;
use node::{Envelope, Event, Manner, Node, Operation, Turn, is_replaced};
use rules::{Committed, History, Rule};
use still::{Cut, Outlook, Still};

/// Turns remembered in each thread, beyond which all are forgotten.
const TURNS_MAX: usize = 250_000;

/// What is counted.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
struct Counts {
    terms: Term,
    entries: u8,
    crashes: u8,
    /// Disks that are replaced by empty ones.
    wipes: u8,
    /// Logs that are damaged.
    damages: u8,
    reads: u8,
    heartbeats: u8,
    /// Appends and answers that are overtaken, where messages arrive at once.
    delays: u8,
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
    network: Network,
    /// Whether a message of an ended term is lost instead of being refused.
    forgets: bool,
    mutant: Option<Mutant>,
    /// Whether what becomes of nodes is noted, to be compared: see [`facts`].
    notes: bool,
}

/// What happens, and where.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Step {
    Happens {
        at: usize,
        event: Event,
    },
    Arrives {
        message: Arc<Envelope>,
        /// Whether the vote that is given with it gets lost.
        loses_vote: bool,
    },
    /// A message is lost.
    Lost(Arc<Envelope>),
    /// A message is overtaken by whatever else happens.
    Delayed(Arc<Envelope>),
}

#[derive(Clone, Debug)]
struct State {
    nodes: Vec<Arc<Node>>,
    sent: Vec<Arc<Envelope>>,
    /// What was overtaken, and may still arrive.
    late: Vec<Arc<Envelope>>,
    cut: Cut,
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

fn place(node: NodeId) -> usize {
    usize::from(node.get()) - 1
}

fn is_on_link_of(sent: &Envelope, other: &Envelope) -> bool {
    (sent.from, sent.to) == (other.from, other.to)
}

impl State {
    fn seal(&mut self, model: &Small) {
        let is_in_order = model.network != Network::Unordered;
        let sent = self.sent.iter().enumerate().map(|(at, sent)| {
            let is_same_link = |other: &&Arc<Envelope>| is_on_link_of(sent, other);
            let before = self.sent[..at].iter().filter(|_| is_in_order).filter(is_same_link).count() as u64;
            (sent, before)
        });
        let late = self.late.iter().map(|late| (late, 1 << 32));
        let messages = sent
            .chain(late)
            .map(|(sent, before)| (place(sent.from), place(sent.to), sent.what.wrapping_add(before)));
        let messages: Vec<_> = messages.collect();
        let is_still = model.network == Network::Prompt && messages.is_empty();
        self.digest = if is_still { self.digest_of_still(model) } else { self.digest_with(messages) };
    }

    fn digest_with(&self, messages: Vec<(usize, usize, u64)>) -> u64 {
        let rest = (&self.history.committed, self.used, self.reads_answered, self.broken, self.cut);
        let nodes = self.nodes.iter().map(|node| &node.marks).collect();
        Parts { nodes, messages, leaders: &self.history.leaders, rest: hash_of(rest) }.digest()
    }

    /// The same for states that differ only in what cannot matter any more.
    fn digest_of_still(&self, model: &Small) -> u64 {
        let outlook = Outlook {
            restarts: model.may_restart(&self.used),
            reads: model.most.reads > 0,
            writes: self.used.entries < model.most.entries || model.most.wipes > 0,
            leaders_give_up: model.can_lose_office(),
            goes_on_alone: model.may_restart(&self.used) && !model.can_lose_office(),
            reached_for_writes: if model.most.wipes > 0 { 2.min(model.n) } else { model.n },
            last_term: model.most.terms,
        };
        let nodes = self.nodes.iter().map(|node| &node.essence).collect();
        let still = Still { nodes, cut: self.cut, outlook };
        if still.is_over() && self.broken.is_none() {
            return 0;
        }
        let is_over = |term: usize| term as Term <= still.lowest_term();
        let leaders = self.history.leaders.iter().enumerate();
        let leaders = leaders.map(|(before, leader)| if is_over(before + 1) { None } else { *leader });
        let leaders: Vec<_> = leaders.collect();
        let by = |committed: &Committed| if is_over(committed.by as usize) { 0 } else { committed.by };
        let committed: Vec<_> =
            self.history.committed.iter().map(|entry| (&entry.bytes, by(entry))).collect();
        let rest = (committed, self.used, self.reads_answered, self.broken);
        let marks = still.marks();
        let nodes = marks.iter().collect();
        Parts { nodes, messages: Vec::new(), leaders: &leaders, rest: hash_of(rest) }.digest()
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

    fn manner(&self) -> Manner {
        Manner { has_pre_votes: self.has_pre_votes, is_prompt: self.network == Network::Prompt }
    }

    fn take_turn(&self, node: &Node, event: &Event) -> Option<Turn> {
        let run = || match self.mutant {
            Some(mutant) => with(mutant, || node.turn(event, self.manner())),
            None => node.turn(event, self.manner()),
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
        let floor = state.history.committed.len() as Index;
        let mut events = Vec::new();
        let mut may = |condition: bool, event: Event| {
            if condition {
                events.push(event);
            }
        };
        // Pre-votes, and how far logs go, are asked for again when nothing of the last time is on its way.
        let own = super::node(at as u8 + 1);
        let is_of_own = |sent: &Arc<Envelope>| sent.is_pre_vote() && (sent.from == own || sent.to == own);
        let asks_how_far = |sent: &Arc<Envelope>| sent.is_inquiry() && sent.from == own;
        let has_asked = state.sent.iter().any(|sent| asks_how_far(sent) || is_of_own(sent));
        may(!is_leader && node.replica.term() < most.terms && !has_asked, Event::Stand);
        may(is_leader && self.can_lose_office(), Event::StepDown);
        may(is_leader && used.heartbeats < most.heartbeats, Event::Heartbeat);
        may(is_leader && used.entries < most.entries, Event::Propose);
        may(is_leader && used.reads < most.reads, Event::Read { floor });
        may(!node.disk.submitted.is_empty() && self.may_sync(state, at), Event::Sync);
        for kept in 0..=node.disk.submitted.len() {
            may(used.crashes < most.crashes, Event::Crash { kept });
        }
        for kept in 0..node.disk.entries.len() {
            may(used.damages < most.damages, Event::Damage { kept });
        }
        may(used.wipes < most.wipes && !is_replaced(node.member()), Event::Wipe);
        for newcomer in state.nodes.iter().map(|node| node.member()).filter(|member| is_replaced(*member)) {
            may(is_leader, Event::Admit { node: newcomer.node });
        }
        events
    }

    fn may_restart(&self, used: &Counts) -> bool {
        let most = &self.most;
        used.crashes < most.crashes || used.wipes < most.wipes || used.damages < most.damages
    }

    fn can_lose_office(&self) -> bool {
        Quorums::new(self.m, self.n).unwrap().read_quorum() > 1
    }

    /// An event happens to a node; none if it cannot.
    fn apply(&self, state: &mut State, at: usize, event: &Event) -> Option<()> {
        let before = state.nodes[at].clone();
        let turn = self.turn(&before, event)?;
        state.nodes[at] = turn.node.clone();
        if turn.node.replica.is_leader() != before.replica.is_leader() {
            state.cut.mend(at);
        }
        for envelope in &turn.sent {
            let is_cut = state.cut.has(at, place(envelope.to)) && !envelope.is_request();
            if !is_cut && (self.network != Network::Unordered || !state.sent.contains(envelope)) {
                state.sent.push(envelope.clone());
            }
        }
        let nodes = &state.nodes;
        state.sent.retain(|sent| !self.says_nothing(sent, &nodes[place(sent.to)]));
        state.late.retain(|late| !self.says_nothing(late, &nodes[place(late.to)]));
        state.reads_answered += turn.reads_answered;
        let broken = rules::check(nodes, &before, event, &turn, at, &mut state.history, self.n).err();
        state.broken = state.broken.or(broken);
        Some(())
    }

    /// The others notice that a node was restarted.
    fn reconnect_to(&self, state: &mut State, at: usize) {
        state.cut.mend(at);
        for other in (0..state.nodes.len()).filter(|other| *other != at) {
            let to = state.nodes[at].member();
            self.apply(state, other, &Event::Reconnect { to });
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
        Event::Wipe => used.wipes += 1,
        Event::Damage { .. } => used.damages += 1,
        Event::Stand
        | Event::StepDown
        | Event::Receive { .. }
        | Event::Sync
        | Event::Reconnect { .. }
        | Event::Admit { .. } => {}
    }
}

impl Model for Small {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            nodes: (1..=self.m).map(|id| Node::start(self.settings(id))).collect(),
            sent: Vec::new(),
            late: Vec::new(),
            cut: Cut::default(),
            history: History::default(),
            used: Counts::default(),
            reads_answered: 0,
            broken: None,
            digest: 0,
        };
        state.seal(self);
        vec![state]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.broken.is_some() {
            return;
        }
        if self.network == Network::Prompt && !state.sent.is_empty() {
            return self.prompt_steps(state, steps);
        }
        for at in 0..state.nodes.len() {
            let events = self.events_at(state, at).into_iter();
            steps.extend(events.map(|event| Step::Happens { at, event }));
        }
        for message in state.heads(self.network).chain(&state.late) {
            self.push_arrivals(message, steps);
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut next = last.clone();
        match step {
            Step::Happens { at, event } => {
                count(&mut next.used, &event);
                if event == Event::Wipe {
                    next.sent.retain(|sent| place(sent.to) != at); // The link was to the other.
                    next.late.retain(|late| place(late.to) != at);
                }
                self.apply(&mut next, at, &event)?;
                if event.is_restart() {
                    self.reconnect_to(&mut next, at);
                }
                self.settle(&mut next, false);
            }
            Step::Arrives { message, loses_vote } => {
                next.take(&message)?;
                self.apply(&mut next, place(message.to), &Event::Receive { message })?;
                self.settle(&mut next, loses_vote);
            }
            Step::Lost(message) => {
                next.take(&message)?;
                if !message.is_request() {
                    next.cut.add(place(message.from), place(message.to));
                    next.sent.retain(|sent| !is_on_link_of(&message, sent));
                }
            }
            Step::Delayed(message) => {
                next.take(&message)?;
                next.used.delays += 1;
                next.late.push(message);
            }
        }
        next.seal(self);
        if self.notes {
            facts::note(&next);
        }
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
            Property::sometimes("a newcomer counts", |_, state: &State| {
                let counts = |node: &Arc<Node>| is_replaced(node.member()) && node.replica.is_voting();
                state.nodes.iter().any(counts)
            }),
            Property::sometimes("a damaged log is whole again", |_, state: &State| {
                let is_whole = |node: &Arc<Node>| node.replica.held().is_none();
                state.used.damages > 0 && state.nodes.iter().all(is_whole)
            }),
            Property::sometimes("a read is answered", |_, state: &State| state.reads_answered > 0),
        ]
    }

    fn within_boundary(&self, state: &State) -> bool {
        self.is_within(state)
    }
}

fn small(m: u8, n: u8, terms: Term, entries: u8) -> Small {
    let most = Counts {
        terms,
        entries,
        crashes: 0,
        wipes: 0,
        damages: 0,
        reads: 0,
        heartbeats: 0,
        delays: 0,
        rounds: 4,
    };
    Small {
        m,
        n,
        most,
        has_pre_votes: false,
        network: Network::InOrder,
        forgets: true,
        mutant: None,
        notes: false,
    }
}

fn prompt(m: u8, n: u8, terms: Term, entries: u8) -> Small {
    let mut model = Small { network: Network::Prompt, ..small(m, n, terms, entries) };
    model.most.rounds = u64::MAX;
    model
}

impl Small {
    fn with_crashes(mut self, crashes: u8) -> Self {
        self.most.crashes = crashes;
        self
    }

    fn with_wipes(mut self, wipes: u8) -> Self {
        self.most.wipes = wipes;
        self
    }

    fn with_damages(mut self, damages: u8) -> Self {
        self.most.damages = damages;
        self
    }

    fn with_delays(mut self, delays: u8) -> Self {
        self.most.delays = delays;
        self
    }

    fn with_reads(mut self, reads: u8) -> Self {
        self.most.reads = reads;
        self
    }
}
