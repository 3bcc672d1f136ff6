//! In which order things reach the disk, and what happens when they do not.

use std::io;

use quorate_protocol::entry::Payload;
use quorate_protocol::peer::Append;

use crate::checkpoint::CheckpointWriter;

use super::*;

/// A turn of which the acts are looked at before anything comes of them.
fn acts(world: &mut World, id: u8, event: Event<'_>) -> Vec<Act> {
    let now = world.now;
    let machine = world.machine(id);
    machine.node.handle(now, event, &mut machine.outside);
    machine.node.finish_turn(now, &mut machine.outside).unwrap();
    machine.outside.acts.drain(..).collect()
}

fn failed_sync() -> LogError {
    LogError::Io { operation: "sync", file: "log".into(), source: io::Error::other("the disk is gone") }
}

#[test]
fn a_promise_is_stored_before_anything_is_sent() {
    let mut world = World::formed(3, 2);
    world.restart(1);
    let mut promises = 0;
    world.meet(1, 2).unwrap();
    for (from, bytes) in std::mem::take(&mut world.machine(2).inbox) {
        let acts =
            acts(&mut world, 2, Event::Message { from: member(from.get()), message: parse(&bytes).unwrap() });
        let promise = acts.iter().position(|act| matches!(act, Act::Promise));
        let send = acts.iter().position(|act| matches!(act, Act::Send(..)));
        promises += usize::from(promise.is_some());
        assert!(promise.is_none() || send.is_none() || promise < send, "R5");
        acts.into_iter().for_each(|act| world.perform(2, act));
    }
    assert_eq!(promises, 1);
}

#[test]
fn an_identity_is_stored_before_anybody_is_told() {
    let mut world = World::new(2, 2);
    let introduction = world.machine(2).node.introduction();
    acts(&mut world, 1, Event::Connected(member(2)));
    let machine = world.machine(1);
    machine.node.meet(&introduction, &mut machine.outside).unwrap();
    let acts: Vec<Act> = machine.outside.acts.drain(..).collect();
    assert!(matches!(acts[..], [Act::Identity { formed: false }, Act::Send(..)]), "{} acts", acts.len());
}

#[test]
fn a_node_that_cannot_store_its_promise_stops_and_says_nothing() {
    let mut world = World::formed(3, 2);
    world.restart(1);
    world.machine(2).outside.fails_to_store = true;
    world.meet(1, 2).unwrap();
    world.machine(1).inbox.clear();
    let (from, bytes) = world.machine(2).inbox.pop_back().unwrap();
    world.event(2, Event::Message { from: member(from.get()), message: parse(&bytes).unwrap() });
    assert!(matches!(world.machine(2).error, Some(NodeError::Directory(_))));
    assert!(world.machine(1).inbox.is_empty() && world.machine(2).commands.is_empty());
}

#[test]
fn a_node_that_cannot_store_its_promise_answers_no_read_with_what_it_has_not_applied() {
    let mut world = World::formed(3, 2);
    let session = Consistency::Session(Token { term: 1, index: 2 });
    world.request(2, 1, 1, Operation::Get { consistency: session, key: b"a" });
    world.machine(2).outside.fails_to_store = true;
    let mut entries = Vec::new();
    let write = Write::One(Mutation::Set { key: b"a", value: b"1" });
    entry::encode(1, 2, &Payload::Write { session: None, write }, &mut entries);
    // A new term, and a committed entry with it: after the promise has failed nothing is applied.
    let append =
        Append { term: 2, previous_index: 1, previous_term: 1, commit: 2, round: 1, entries: &entries };
    let from = member(1);
    world.event(2, Event::Message { from, message: PeerMessage::Append(append) });
    assert!(matches!(world.machine(2).error, Some(NodeError::Directory(_))));
    assert!(world.answers(2).is_empty());
}

#[test]
fn a_node_that_cannot_store_its_identity_stops_and_tells_nobody() {
    let mut world = World::new(2, 2);
    world.machine(1).outside.fails_to_store = true;
    assert_eq!(world.meet(1, 2), Ok(()));
    assert!(matches!(world.machine(1).error, Some(NodeError::Directory(_))));
    assert!(world.machine(2).inbox.is_empty());
}

#[test]
fn a_node_that_could_not_store_its_identity_does_not_introduce_itself_with_it() {
    let mut world = World::new(2, 2);
    let introduction = world.machine(2).node.introduction();
    let machine = world.machine(1);
    machine.outside.fails_to_store = true;
    machine.node.meet(&introduction, &mut machine.outside).unwrap();
    assert_eq!(machine.node.introduction().stored, None);
    assert_eq!(machine.node.welcome(true).replica.unwrap().stored, None);
}

#[test]
fn a_failed_sync_stops_the_node_before_anything_more_is_answered() {
    let mut world = World::formed(3, 2);
    world.request(1, 1, 1, set("a", "1"));
    world.deliver(2);
    world.work_log(2);
    let (from, bytes) = world.machine(1).inbox.pop_back().unwrap();
    let now = world.now;
    let machine = world.machine(1);
    let durable = LogEvent::Durable {
        generation: 0,
        index: 2,
        queued: Duration::ZERO,
        sync: Duration::ZERO,
        entries: 1,
        bytes: 1,
    };
    // All in one turn: the write would be committed in it.
    for event in [
        Event::Log(LogEvent::Failed(failed_sync())),
        Event::Log(durable),
        Event::Message { from: member(from.get()), message: parse(&bytes).unwrap() },
    ] {
        machine.node.handle(now, event, &mut machine.outside);
    }
    world.finish(1);
    assert!(matches!(world.machine(1).error, Some(NodeError::Log(_))));
    assert!(world.answers(1).is_empty());
}

/// With a checkpoint about every `interval` bytes of entries.
pub(super) fn checkpointing(interval: u64) -> World {
    World::with(3, 2, |settings| {
        settings.checkpoint_interval_bytes = interval;
        settings.tail_bytes_max = 0;
    })
    .form()
}

pub(super) fn write_some(world: &mut World, count: usize) {
    for _ in 0..count {
        world.ask(1, set("key", &"v".repeat(1000)));
    }
}

/// Takes the checkpoint that a node has begun: its blocks, the file, and the news that it is on the disk.
pub(super) fn take_checkpoint(world: &mut World, id: u8, header: &CheckpointHeader) -> Vec<Block> {
    while world.machine(id).blocks.last().is_none_or(|(_, is_last)| !is_last) {
        world.event(id, Event::Checkpoint(CheckpointEvent::WantsBlock));
    }
    let blocks = std::mem::take(&mut world.machine(id).blocks);
    let directory = world.machine(id).outside.directory.join("checkpoint");
    let mut writer = CheckpointWriter::create(Arc::new(RealDisk), &directory, header).unwrap();
    let blocks: Vec<_> =
        blocks.into_iter().map(|(block, _)| block).filter(|block| !block.is_empty()).collect();
    blocks.iter().for_each(|block| writer.block(block).unwrap());
    let info = writer.finish().unwrap();
    checkpoint::remove_older(&RealDisk, &directory, checkpoint::KEPT).unwrap();
    world.event(id, Event::Checkpoint(CheckpointEvent::Written(info)));
    blocks
}

#[test]
fn leader_and_follower_take_the_same_checkpoint_at_the_same_index() {
    let mut world = checkpointing(5000);
    write_some(&mut world, 7);
    let headers: Vec<_> = world.ids().map(|id| world.machine(id).checkpoints.clone()).collect();
    assert_eq!((headers[0].len(), headers[0][0].terms.as_slice()), (1, &[(1, 1)][..]));
    assert!(headers.iter().all(|header| *header == headers[0]), "{headers:?}");
    let header = headers[0][0].clone();
    assert!(header.index < 8, "more was written since");
    let blocks: Vec<_> = world.ids().map(|id| take_checkpoint(&mut world, id, &header)).collect();
    assert!(!blocks[0].is_empty() && blocks.iter().all(|taken| *taken == blocks[0]));
}

#[test]
fn a_restart_does_not_move_the_next_checkpoint() {
    let mut world = checkpointing(5000);
    write_some(&mut world, 3);
    world.restart(2);
    assert!(world.machine(2).node.store.keys() > 0, "it has replayed entries");
    world.meet_all();
    world.settle();
    write_some(&mut world, 3);
    let headers: Vec<_> = [1, 2].into_iter().map(|id| world.machine(id).checkpoints.clone()).collect();
    assert_eq!((headers[0].len(), &headers[0]), (1, &headers[1]));
}

#[test]
fn the_log_is_dropped_below_the_older_checkpoint_and_not_what_a_follower_lacks() {
    let mut world = checkpointing(20_000);
    world.isolate(3);
    let mut indexes = Vec::new();
    for _ in 0..3 {
        while world.machine(1).checkpoints.is_empty() {
            write_some(&mut world, 1);
        }
        let header = world.machine(1).checkpoints.remove(0);
        take_checkpoint(&mut world, 1, &header);
        indexes.push(header.index);
    }
    world.settle();
    let answer = world.status(1);
    assert_eq!(
        (answer.status().checkpoint, answer.status().log_first),
        (indexes[2], 1),
        "node 3 lacks it all"
    );
    assert!(answer.status().log_bytes_held > 20_000, "{}", answer.status().log_bytes_held);
    world.meet_all();
    world.settle();
    world.advance(HEARTBEAT);
    world.settle();
    let answer = world.status(1);
    let first = answer.status().log_first;
    assert!(first > indexes[0] / 2 && first <= indexes[1] + 1, "{first} {indexes:?}");
    assert_eq!(answer.status().log_bytes_held, 0);
}

#[test]
fn a_checkpoint_that_fails_keeps_the_log_and_the_node() {
    let mut world = checkpointing(5000);
    write_some(&mut world, 7);
    let error = |source| CheckpointError::Io { doing: "write", path: "checkpoint".into(), source };
    let full = error(io::ErrorKind::StorageFull.into());
    world.event(1, Event::Checkpoint(CheckpointEvent::Failed(full)));
    world.event(1, Event::Checkpoint(CheckpointEvent::WantsBlock)); // Was under way.
    assert!(world.machine(1).error.is_none() && world.machine(1).blocks.is_empty());
    assert_eq!(world.status(1).status().log_first, 1);
    write_some(&mut world, 7);
    assert_eq!(world.machine(1).checkpoints.len(), 2, "the next one is taken");
}

#[test]
fn a_checkpoint_whose_sync_fails_stops_the_node() {
    let mut world = checkpointing(5000);
    write_some(&mut world, 7);
    let error = CheckpointError::Sync { path: "checkpoint".into(), source: io::Error::other("gone") };
    world.event(1, Event::Checkpoint(CheckpointEvent::Failed(error)));
    assert!(matches!(world.machine(1).error, Some(NodeError::Checkpoint(_))));
}
