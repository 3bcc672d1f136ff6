//! The rules that hold in every state, checked with every step.

use std::sync::Arc;

use bytes::Bytes;
use quorate_protocol::entry::Entry;
use quorate_protocol::peer::PeerMessage;

use super::super::super::Message;
use super::node::{Event, Node, Turn};
use super::*;

/// What may never happen.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Rule {
    /// R1, R2.
    OneLeaderATerm,
    /// R6.
    OneVoteATerm,
    /// R12.
    AcksAreDurableAndMatched,
    /// R3, R13, R26.
    CommittedIsOnQuorum,
    /// R14.
    OwnTermIsCounted,
    /// R8, R15.
    LeadersHoldWhatIsCommitted,
    /// R16.
    CommittedIsTheSameEverywhere,
    /// R16.
    NothingCommittedIsCut,
    /// R16.
    CommitNeverGoesBack,
    /// R21.
    ReadsSeeWhatWasCommitted,
    /// The core's own assertions.
    NoAssertionFails,
}

/// An entry that somebody has applied.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Committed {
    pub(super) bytes: Bytes,
    /// Of the leader that committed it.
    pub(super) by: Term,
}

/// What has ever happened, as far as rules speak of it.
#[derive(Clone, Debug, Default)]
pub(super) struct History {
    /// By term from 1 on: who has led.
    pub(super) leaders: Vec<Option<usize>>,
    /// By index from 1 on.
    pub(super) committed: Vec<Committed>,
}

/// Checks a step, and writes its history: `nodes` are as they are after it.
pub(super) fn check(
    nodes: &[Arc<Node>],
    before: &Node,
    event: &Event,
    turn: &Turn,
    at: usize,
    history: &mut History,
    n: u8,
) -> Result<(), Rule> {
    turn.broken.map_or(Ok(()), Err)?;
    let node = &*nodes[at];
    let is_restart = event.is_restart();
    ensure(is_restart || node.replica.commit() >= before.replica.commit(), Rule::CommitNeverGoesBack)?;
    check_leader(node, at, history)?;
    check_applied(nodes, before, at, turn, is_restart, history, n)?;
    check_leaders_hold_all(nodes, history)?;
    check_acks(nodes, node, turn)
}

fn ensure(holds: bool, rule: Rule) -> Result<(), Rule> {
    if holds { Ok(()) } else { Err(rule) }
}

fn check_leader(node: &Node, at: usize, history: &mut History) -> Result<(), Rule> {
    if !node.replica.is_leader() {
        return Ok(());
    }
    let term = node.replica.term() as usize;
    history.leaders.resize(history.leaders.len().max(term), None);
    let holder = *history.leaders[term - 1].get_or_insert(at);
    ensure(holder == at, Rule::OneLeaderATerm)
}

fn check_applied(
    nodes: &[Arc<Node>],
    before: &Node,
    at: usize,
    turn: &Turn,
    is_restart: bool,
    history: &mut History,
    n: u8,
) -> Result<(), Rule> {
    let node = &*nodes[at];
    let first = if is_restart { 0 } else { before.replica.applied() as usize };
    for (place, bytes) in (first..).zip(&turn.applied) {
        match history.committed.get(place) {
            Some(committed) => ensure(committed.bytes == *bytes, Rule::CommittedIsTheSameEverywhere)?,
            None => {
                // Only a leader may be the first to know.
                ensure(node.replica.is_leader(), Rule::CommittedIsOnQuorum)?;
                history.committed.push(Committed { bytes: bytes.clone(), by: node.replica.term() });
                check_holders(nodes, node, place, bytes, n)?;
            }
        }
    }
    let has_counted = node.replica.is_leader() && !turn.applied.is_empty() && !is_restart;
    let last_term = turn.applied.last().map(|bytes| Entry::parse(bytes).unwrap().term);
    ensure(!has_counted || last_term == Some(node.replica.term()), Rule::OwnTermIsCounted)
}

fn check_holders(nodes: &[Arc<Node>], leader: &Node, place: usize, bytes: &Bytes, n: u8) -> Result<(), Rule> {
    // A damaged log still counts: its node remembers what it held, and does not vote against it (R8).
    let held = |node: &Node| node.disk.held.is_some_and(|(_, last)| last > place as Index);
    let holds = |node: &Node| node.disk.entries.get(place) == Some(bytes) || held(node);
    let is_member = |node: &Node| leader.replica.members().has(node.member());
    let holders = nodes.iter().filter(|node| holds(node) && is_member(node)).count();
    ensure(holders >= usize::from(n) && (n > 1 || holds(leader)), Rule::CommittedIsOnQuorum)
}

/// Whoever leads in a later term than the one in which an entry was committed holds it.
fn check_leaders_hold_all(nodes: &[Arc<Node>], history: &History) -> Result<(), Rule> {
    for leader in nodes.iter().filter(|node| node.replica.is_leader()) {
        for (index, committed) in (1..).zip(&history.committed) {
            let term = Entry::parse(&committed.bytes).unwrap().term;
            let holds = leader.replica.terms().term(index) == Some(term);
            ensure(holds || committed.by > leader.replica.term(), Rule::LeadersHoldWhatIsCommitted)?;
        }
    }
    Ok(())
}

fn check_acks(nodes: &[Arc<Node>], node: &Node, turn: &Turn) -> Result<(), Rule> {
    for envelope in &turn.sent {
        let Message::Small(PeerMessage::Ack(ack)) = &envelope.message else { continue };
        let leader = &*nodes[usize::from(envelope.to.get()) - 1];
        let is_durable = node.disk.entries.len() as Index >= ack.durable;
        let leads = leader.replica.is_leader() && leader.replica.term() == ack.term;
        let matches = !leads || node.agrees_with(leader, ack.durable);
        ensure(is_durable && matches, Rule::AcksAreDurableAndMatched)?;
    }
    Ok(())
}
