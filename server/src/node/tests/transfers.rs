//! A follower that lacks what the leader's log no longer holds: it is sent a checkpoint.

use std::fs;
use std::path::PathBuf;

use super::bounds::{log_first, retaining, write_checkpoints};
use super::disks::write_some;
use super::*;

/// Node 3 was away while the leader dropped what it lacks.
pub(super) fn with_a_follower_far_behind() -> World {
    let mut world = retaining(0);
    world.isolate(3);
    write_checkpoints(&mut world, 3);
    assert!(log_first(&mut world) > last(&mut world, 3) + 1, "it cannot be fed from the log");
    world
}

fn last(world: &mut World, id: u8) -> Index {
    world.machine(id).node.replica.as_ref().unwrap().last()
}

pub(super) fn catch_up(world: &mut World) {
    world.meet_all();
    for _ in 0..30 {
        world.settle();
        world.advance(HEARTBEAT);
    }
    world.settle();
}

/// Everything that a store holds.
fn state(world: &mut World, id: u8) -> Vec<(Vec<u8>, Index, Vec<u8>)> {
    let range = Range { start: b"", end: RangeEnd::Open };
    let items = world.machine(id).node.store.scan(&range);
    items.map(|item| (item.key.to_vec(), item.versioned.revision, item.versioned.value.to_vec())).collect()
}

fn checkpoints(world: &mut World, id: u8) -> Vec<PathBuf> {
    let directory = world.machine(id).outside.directory.join("checkpoint");
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files
}

fn assert_whole(world: &mut World) {
    assert!(world.machines.iter().all(|machine| machine.error.is_none()));
    assert_eq!(state(world, 3), state(world, 1));
    assert_eq!(last(world, 3), last(world, 1));
    let answer = world.status(1);
    let follower = answer.status().followers[1];
    assert_eq!((follower.checkpoint, follower.reachable, follower.entries_behind), (None, true, 0));
}

/// Goes on step by step until node 3 has received something, but not all, and returns how much.
fn receive_some(world: &mut World) -> u64 {
    world.meet_all();
    for _ in 0..1000 {
        for id in world.ids() {
            world.deliver(id);
            world.work_log(id);
            if let Some(command) = world.machine(id).transfers.pop_front()
                && let Some(event) = world.machine(id).transfer_worker.carry_out(command)
            {
                world.event(id, Event::Transfer(event));
            }
        }
        let answer = world.status_without_rest(1);
        if let Some(transfer) = answer.status().followers[1].checkpoint
            && (1..transfer.bytes_total).contains(&transfer.bytes_received)
        {
            return transfer.bytes_received;
        }
        world.now += HEARTBEAT / 10;
        world.ids().for_each(|id| world.event(id, Event::Tick));
    }
    panic!("nothing is sent");
}

/// A world in which a checkpoint takes several pieces.
fn with_a_large_checkpoint() -> World {
    let mut world = World::with(3, 2, |settings| {
        settings.checkpoint_interval_bytes = 2 << 20;
        settings.tail_bytes_max = 0;
        settings.log_retention_bytes = 0;
    })
    .form();
    world.isolate(3);
    for key in 0..20 {
        world.ask(1, set(&format!("key {key}"), &"v".repeat(100_000))).receipt();
    }
    write_checkpoints(&mut world, 2);
    assert!(log_first(&mut world) > last(&mut world, 3) + 1);
    world
}

#[test]
fn a_follower_that_lacks_what_was_dropped_gets_a_checkpoint_and_then_the_log() {
    let mut world = with_a_follower_far_behind();
    write_some(&mut world, 3);
    catch_up(&mut world);
    assert_whole(&mut world);
    let newest = world.status(1).status().checkpoint;
    assert_eq!((world.status(3).status().checkpoint, log_first_of(&mut world, 3)), (newest, newest + 1));
    world.isolate(2);
    world.ask(1, set("a", "it counts again")).receipt();
    assert_eq!(checkpoints(&mut world, 3).len(), 1, "of its own it has none any more, and no part");
}

fn log_first_of(world: &mut World, id: u8) -> Index {
    world.status(id).status().log_first
}

#[test]
fn what_was_caught_up_by_a_checkpoint_is_there_after_a_restart() {
    let mut world = with_a_follower_far_behind();
    catch_up(&mut world);
    world.isolate(3);
    write_some(&mut world, 2);
    world.restart(3);
    let newest = world.status(3).status().checkpoint;
    assert!(newest > 0 && last(&mut world, 3) >= newest);
    assert!(!state(&mut world, 3).is_empty());
    catch_up(&mut world);
    assert_whole(&mut world);
}

#[test]
fn a_follower_that_gets_a_checkpoint_answers_heartbeats_and_does_not_count() {
    let mut world = with_a_large_checkpoint();
    receive_some(&mut world);
    world.isolate(2);
    for _ in 0..20 {
        world.now += HEARTBEAT;
        world.event(1, Event::Tick);
        world.deliver(3);
        world.deliver(1);
    }
    assert_eq!(world.ask_without_rest(1, set("a", "1")).refusal(), Refusal::NoQuorum { have: 1, need: 2 });
    catch_up(&mut world);
    assert_whole(&mut world);
}

#[test]
fn a_transfer_goes_on_after_a_broken_link_and_after_a_restart_of_the_follower() {
    for restarts in [false, true] {
        let mut world = with_a_large_checkpoint();
        let received = receive_some(&mut world);
        match restarts {
            true => world.restart(3),
            false => world.isolate(3),
        }
        let received_again = receive_some(&mut world);
        assert!(received_again >= received, "it was not begun anew");
        catch_up(&mut world);
        assert_whole(&mut world);
    }
}

#[test]
fn a_checkpoint_that_arrives_damaged_is_never_used_and_asked_for_again() {
    let mut world = with_a_large_checkpoint();
    receive_some(&mut world);
    let before = state(&mut world, 3);
    let part = checkpoints(&mut world, 3).pop().unwrap();
    assert_eq!(part.extension().unwrap(), "part");
    let mut bytes = fs::read(&part).unwrap();
    bytes[1000] ^= 1;
    fs::write(&part, bytes).unwrap();
    while part.exists() {
        assert_eq!(state(&mut world, 3), before);
        for id in world.ids() {
            world.deliver(id);
            world.work_transfers(id);
        }
        world.advance(HEARTBEAT);
    }
    assert_eq!(state(&mut world, 3), before, "it is gone, and nothing came of it");
    catch_up(&mut world);
    assert_whole(&mut world);
}

#[test]
fn a_leader_whose_newest_checkpoint_is_damaged_sends_the_one_before() {
    let mut world = with_a_follower_far_behind();
    let [previous, newest] = &checkpoints(&mut world, 1)[..] else { panic!() };
    let (previous, newest) = (previous.clone(), newest.clone());
    let mut bytes = fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&newest, bytes).unwrap();
    catch_up(&mut world);
    assert_whole(&mut world);
    assert_eq!(checkpoints(&mut world, 3)[0].file_name(), previous.file_name());
}

#[test]
fn the_bound_of_the_log_beats_a_transfer_which_begins_anew_with_a_newer_checkpoint() {
    let mut world = with_a_large_checkpoint();
    receive_some(&mut world);
    let index = |world: &mut World| {
        let answer = world.status_without_rest(1);
        answer.status().followers[1].checkpoint.map(|transfer| transfer.index)
    };
    let first = index(&mut world).unwrap();
    let under_way = std::mem::take(&mut world.machine(3).inbox);
    world.isolate(3);
    write_checkpoints(&mut world, 3);
    world.advance(HEARTBEAT);
    assert!(log_first(&mut world) > first + 1, "the log is not kept for it");
    world.machine(3).inbox = under_way; // What was on its way comes late.
    world.meet_all();
    receive_some(&mut world);
    assert!(index(&mut world).unwrap() > first);
    catch_up(&mut world);
    assert_whole(&mut world);
}

#[test]
fn the_log_behind_a_checkpoint_that_is_sent_is_kept_within_the_bound() {
    let mut world = World::with(3, 2, |settings| {
        settings.checkpoint_interval_bytes = 2 << 20;
        settings.tail_bytes_max = 0;
        settings.log_retention_bytes = 0;
    })
    .form();
    world.isolate(3);
    for key in 0..20 {
        world.ask(1, set(&format!("key {key}"), &"v".repeat(100_000))).receipt();
    }
    write_checkpoints(&mut world, 2);
    world.machine(1).node.settings.log_retention_bytes = 1 << 30;
    receive_some(&mut world);
    let answer = world.status_without_rest(1);
    let index = answer.status().followers[1].checkpoint.unwrap().index;
    world.isolate(3);
    write_checkpoints(&mut world, 3);
    world.advance(HEARTBEAT);
    world.settle();
    assert!(log_first(&mut world) <= index + 1);
    catch_up(&mut world);
    assert_eq!(checkpoints(&mut world, 3).first().and_then(|file| index_of(file)), Some(index));
    assert_whole(&mut world);
}

fn index_of(file: &std::path::Path) -> Option<Index> {
    file.file_stem()?.to_str()?.parse().ok()
}

#[test]
fn a_checkpoint_of_its_own_is_given_up_when_one_is_loaded() {
    let mut world = with_a_follower_far_behind();
    let header = CheckpointHeader {
        index: 1,
        term: 1,
        cluster: checkpoint::NO_CLUSTER,
        terms: vec![(1, 1)],
        members: Vec::new(),
    };
    let node = &mut world.machine(3).node;
    node.checkpoints = Checkpoints::new(0, 0, 0);
    assert!(node.checkpoints.applied(header.index, 1, 0));
    node.store.begin_snapshot();
    catch_up(&mut world);
    assert!(!world.machine(3).node.checkpoints.is_taking() || !world.machine(3).checkpoints.is_empty());
    world.event(3, Event::Checkpoint(CheckpointEvent::WantsBlock));
    assert_whole(&mut world);
}
