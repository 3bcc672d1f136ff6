//! A log that is found damaged is got from the others, where they are sure to have it.

use std::fs;
use std::path::PathBuf;

use super::*;

fn log_of(world: &World, id: u8) -> PathBuf {
    world.directory.path().join(id.to_string()).join("log")
}

/// Flips a bit of the first entry that a node's log holds.
fn damage(world: &World, id: u8) {
    let segment = fs::read_dir(log_of(world, id)).unwrap().map(|file| file.unwrap().path()).min().unwrap();
    let mut bytes = fs::read(&segment).unwrap();
    let at = bytes.windows(5).position(|window| window == b"first").unwrap();
    bytes[at] ^= 1;
    fs::write(&segment, bytes).unwrap();
}

/// Removes all that a node's log has.
fn lose(world: &World, id: u8) {
    fs::remove_dir_all(log_of(world, id)).unwrap();
}

/// Removes the newest segment.
fn lose_newest(world: &World, id: u8) {
    let files = fs::read_dir(log_of(world, id)).unwrap().map(|file| file.unwrap().path());
    let newest = files.filter(|file| file.extension().is_some_and(|extension| extension == "log")).max();
    fs::remove_file(newest.unwrap()).unwrap();
}

fn damaged(m: u8, n: u8) -> (World, u8, u8) {
    damaged_by(damage, m, n)
}

/// A cluster with some entries, of which a follower's log is then damaged.
fn damaged_by(damage: fn(&World, u8), m: u8, n: u8) -> (World, u8, u8) {
    let (mut world, leader) = World::elected(m, n);
    for value in ["first", "second", "third"] {
        world.ask(leader, set("a", value));
    }
    let follower = world.ids().find(|id| *id != leader).unwrap();
    world.isolate(follower);
    damage(&world, follower);
    (world, leader, follower)
}

fn is_repairing(world: &mut World, id: u8) -> bool {
    world.status(id).status().repairing
}

#[test]
fn a_damaged_log_is_set_aside_and_got_from_the_leader() {
    let (mut world, leader, follower) = damaged(3, 2);
    world.restart(follower);
    assert!(is_repairing(&mut world, follower));
    let aside = world.directory.path().join(follower.to_string()).join("damaged");
    assert!(fs::read_dir(&aside).unwrap().count() > 0, "it stays until it is not needed any more");
    world.meet_all();
    world.settle();
    let last = world.status(leader).status().last;
    assert_eq!(world.status(follower).status().durable, last);
    assert!(!is_repairing(&mut world, follower), "it has all that its leader had committed");
    assert_eq!(fs::read_dir(&aside).unwrap().count(), 0);
    world.isolate(leader);
    let others: Vec<u8> = world.ids().filter(|id| *id != leader).collect();
    world.meet(others[0], others[1]).unwrap();
    world.meet(others[1], others[0]).unwrap();
    for _ in 0..100 {
        world.advance(HEARTBEAT);
        world.settle();
    }
    let successor = world.wait_for_leader();
    assert_ne!(successor, leader, "it votes again, as node {leader} has given up");
    world.restart(follower);
    assert!(!is_repairing(&mut world, follower), "for good");
}

#[test]
fn a_node_with_a_damaged_log_votes_for_nobody_who_may_have_less() {
    [damage, lose, lose_newest].into_iter().for_each(votes_for_nobody_after);
}

fn votes_for_nobody_after(damage: fn(&World, u8)) {
    let (mut world, leader, follower) = damaged_by(damage, 3, 2);
    world.restart(follower);
    world.isolate(leader);
    let third = world.ids().find(|id| ![leader, follower].contains(id)).unwrap();
    world.meet(third, follower).unwrap();
    world.meet(follower, third).unwrap();
    for _ in 0..100 {
        world.advance(HEARTBEAT);
        world.settle();
    }
    assert_ne!(
        world.status(third).status().role,
        Role::Leader,
        "node {leader} alone may hold what is damaged"
    );
    assert!(is_repairing(&mut world, follower));
}

#[test]
fn two_that_know_how_far_they_are_make_a_node_with_a_damaged_log_vote_again() {
    let (mut world, _, follower) = damaged(3, 2);
    world.ids().for_each(|id| world.restart(id));
    world.meet_all();
    let leader = world.wait_for_leader();
    world.ask(leader, set("a", "fourth"));
    world.settle();
    assert!(!is_repairing(&mut world, follower));
}

#[test]
fn where_one_disk_may_be_the_only_one_a_damaged_log_is_refused() {
    let (mut world, _, follower) = damaged(3, 1);
    assert_refused(&mut world, follower);
    assert!(fs::read_dir(log_of(&world, follower)).unwrap().count() > 0, "and nothing of it is touched");
}

#[test]
fn where_one_disk_may_be_the_only_one_a_missing_log_is_refused() {
    for lose in [lose, lose_newest] {
        for (m, n) in [(3, 1), (1, 1)] {
            let (mut world, leader) = World::elected(m, n);
            world.ask(leader, set("a", "first"));
            lose(&world, leader);
            assert_refused(&mut world, leader);
        }
    }
}

/// What is lost while a log is got anew is lost again, and no more than that.
#[test]
fn a_log_that_is_lost_twice_is_got_from_the_leader() {
    let (mut world, leader, follower) = damaged_by(lose, 3, 2);
    world.restart(follower);
    world.isolate(follower);
    lose(&world, follower);
    world.restart(follower);
    assert!(is_repairing(&mut world, follower));
    world.meet_all();
    world.settle();
    let last = world.status(leader).status().last;
    assert_eq!(world.status(follower).status().durable, last);
}

/// Kills a node, and starts it on what is there.
fn assert_refused(world: &mut World, id: u8) {
    world.isolate(id);
    drop(world.machines.remove(usize::from(id) - 1)); // And with it the lock.
    let refused = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| drop(world.open(id))));
    let why = refused.expect_err("it starts").downcast::<String>().expect("a message");
    assert!(why.contains("Log(Damaged") || why.contains("Log(Missing"), "{why}");
}
