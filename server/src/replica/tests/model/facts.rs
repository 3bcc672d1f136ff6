//! What can become of nodes, in a form that two models have in common.

use std::collections::BTreeSet;
use std::mem::take as taken;
use std::sync::{Mutex, PoisonError};

use quorate_protocol::entry::{Entry, Payload};

use super::State;
use super::node::Node;
use super::{Index, Term};

/// An entry: its term, and whether it is a client's.
type Kind = (Term, bool);

/// Something that was seen, whichever node it was.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Fact {
    /// Everything that was committed, and in which term each entry was.
    Committed(Vec<(Kind, Term)>),
    /// What one node holds, and what it takes it for.
    Holds { term: Term, leads: bool, entries: Vec<Kind>, durable: Index, commit: Index },
}

/// What was seen since it was taken last. The checker's threads are its own, so that it is no argument.
static FACTS: Mutex<BTreeSet<Fact>> = Mutex::new(BTreeSet::new());

pub(super) fn note(state: &State) {
    let committed = state.history.committed.iter().map(|entry| (kind(&entry.bytes), entry.by));
    let mut facts = FACTS.lock().unwrap_or_else(PoisonError::into_inner);
    facts.insert(Fact::Committed(committed.collect()));
    facts.extend(state.nodes.iter().map(|node| holds(node)));
}

pub(super) fn take() -> BTreeSet<Fact> {
    taken(&mut *FACTS.lock().unwrap_or_else(PoisonError::into_inner))
}

fn holds(node: &Node) -> Fact {
    let replica = &node.replica;
    Fact::Holds {
        term: replica.term(),
        leads: replica.is_leader(),
        entries: node.disk.entries.iter().map(|bytes| kind(bytes)).collect(),
        durable: replica.durable(),
        commit: replica.commit(),
    }
}

fn kind(bytes: &[u8]) -> Kind {
    let entry = Entry::parse(bytes).unwrap();
    (entry.term, matches!(entry.payload(), Ok(Payload::Write { .. })))
}
