//! Tests of the replication core: statements about one replica or a few ([`commit`], [`feeding`],
//! [`follower`], [`obstacles`], [`office`], [`repair`], [`transfer`]), behaviours as commands and what comes of them ([`scripts`]), a
//! search for what no statement thought of ([`random`]), and all that can happen in a small cluster ([`model`]).

mod cluster;
mod commit;
mod feeding;
mod follower;
mod model;
mod obstacles;
mod office;
mod random;
mod repair;
mod scripts;
mod transfer;

use std::time::Duration;

use quorate_protocol::entry::{self, Payload};
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::{Incarnation, Index, Leadership, Member, NodeId, Quorums, Term};

use super::{Input, Membership, Output, Recovered, Replica, Settings, Time};

const HEARTBEAT: Duration = Duration::from_millis(50);
const ELECTION_TIMEOUT: Duration = Duration::from_millis(500);

fn node(id: u8) -> NodeId {
    NodeId::try_from(id).unwrap()
}

/// Of a node whose disk was never replaced.
fn incarnation(id: u8) -> Incarnation {
    Incarnation(id.into())
}

fn member(id: u8) -> Member {
    Member { node: node(id), incarnation: incarnation(id) }
}

/// Those that the cluster was formed with.
fn founders(m: u8) -> Membership {
    Membership::new((1..=m).map(member))
}

/// An empty directory of a founder.
fn fresh(m: u8) -> Recovered {
    Recovered { members: founders(m), ..Recovered::default() }
}

/// Node 1 leads.
fn settings(id: u8, m: u8, n: u8) -> Settings {
    Settings {
        node: node(id),
        incarnation: incarnation(id),
        nodes: (1..=m).map(node).collect(),
        quorums: Quorums::new(m, n).unwrap(),
        leadership: Leadership::Configured(node(1)),
        heartbeat: HEARTBEAT,
        election_timeout: ELECTION_TIMEOUT,
        election_seed: 0,
        lease: None,
        uncommitted_bytes_max: 1 << 20,
        window_bytes_max: 1 << 20,
        tail_bytes_max: 1 << 20,
        transfer_bytes_per_second: 0,
    }
}

/// The log entry that sets a key to `value`.
fn entry(term: Term, index: Index, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    entry::encode(term, index, &set(value), &mut bytes);
    bytes
}

/// One entry for each index, all of one term.
fn entries(term: Term, indexes: impl IntoIterator<Item = Index>) -> Vec<u8> {
    indexes.into_iter().flat_map(|index| entry(term, index, b"value")).collect()
}

fn set(value: &[u8]) -> Payload<'_> {
    Payload::Write { session: None, write: Write::One(Mutation::Set { key: b"key", value }) }
}

/// A turn with one input.
fn turn(replica: &mut Replica, now: Time, input: Input<'_>) -> Vec<Output> {
    replica.step(now, input);
    finish(replica, now)
}

/// What must happen; what is only said is left out.
fn finish(replica: &mut Replica, now: Time) -> Vec<Output> {
    let mut outputs = Vec::new();
    replica.finish_turn(now, &mut outputs);
    outputs.retain(|output| !matches!(output, Output::Note(_)));
    outputs
}

fn reports(outputs: &[Output]) -> usize {
    outputs.iter().filter(|output| matches!(output, Output::Report(_))).count()
}
