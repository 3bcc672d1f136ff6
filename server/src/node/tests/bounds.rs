//! What happens at the bounds: of the store's memory, and of the log that is kept for followers.

use quorate_protocol::request::Expected;
use quorate_protocol::response::Obstacle;

use super::disks::{take_checkpoint, write_some};
use super::*;

const FULL: Refusal = Refusal::Blocked(Obstacle::MemoryFull);

/// The store may take so many bytes.
fn with_memory(m: u8, n: u8, bytes: u64) -> World {
    World::with(m, n, |settings| settings.memory_bytes_max = bytes).form()
}

/// Sets keys of 1 KiB until one is refused, and says how many were taken.
fn fill(world: &mut World) -> usize {
    for count in 0..10_000 {
        let answer = world.ask(1, set(&format!("key {count}"), &"v".repeat(1024)));
        if matches!(answer.outcome(), Outcome::Refused(_)) {
            assert_eq!(answer.refusal(), FULL);
            return count;
        }
    }
    panic!("the store is never full");
}

fn delete(key: &str) -> Operation<'_> {
    write(Mutation::Delete { key: key.as_bytes() })
}

#[test]
fn at_the_limit_of_memory_sets_are_refused_and_everything_else_goes_on() {
    let mut world = with_memory(3, 2, 100 << 10);
    let taken = fill(&mut world);
    assert!((50..100).contains(&taken), "{taken} keys of 1 KiB in 100 KiB");
    let last = world.machine(1).node.replica.as_ref().unwrap().last();

    let (key, value) = (b"key 0", &[7; 2000]);
    let cas = Mutation::CompareAndSet { key, expected: Expected::Absent, value };
    let batch = Write::Batch(vec![Mutation::Delete { key: b"key 1" }, Mutation::Set { key, value }]);
    let batch = Operation::Write { options: WriteOptions::default(), write: batch };
    for refused in [set("key 0", &"v".repeat(2000)), write(cas), batch] {
        assert_eq!(world.ask(1, refused).refusal(), FULL);
    }
    assert_eq!(world.machine(1).node.replica.as_ref().unwrap().last(), last, "nothing was appended");
    let answer = world.ask(1, get(Consistency::Linearizable, "key 0"));
    assert!(matches!(answer.outcome(), Outcome::Value { value: Some(_), .. }));

    for key in 0..5 {
        world.ask(1, delete(&format!("key {key}"))).receipt();
    }
    world.ask(1, set("key 0", "there is room again")).receipt();
}

#[test]
fn at_the_limit_of_memory_sessions_are_opened_and_their_deletes_taken_up_to_a_bound_beyond_it() {
    let mut world = with_memory(1, 1, 100 << 10);
    fill(&mut world);
    let session = world.ask(1, Operation::OpenSession).receipt().index;
    let mut write = |sequence, mutation| {
        let session = Some(SessionSequence { session, sequence, lowest_open: 1 });
        let options = WriteOptions { session, ..WriteOptions::default() };
        world.ask(1, Operation::Write { options, write: Write::One(mutation) })
    };
    let absent = Mutation::Delete { key: b"absent" };
    write(1, absent).receipt();
    assert_eq!(write(2, Mutation::Set { key: b"new", value: &[7; 2000] }).refusal(), FULL);
    let taken =
        (3..10_000).take_while(|sequence| !matches!(write(*sequence, absent).outcome(), Outcome::Refused(_)));
    let taken = taken.count();
    assert!((10..1000).contains(&taken), "{taken} results take room");
    let memory = world.machine(1).node.store.memory_bytes();
    assert!(memory <= (100 << 10) * 9 / 8, "{memory}: a follower goes on");
}

#[test]
fn a_status_tells_the_memory_that_is_taken_its_limit_and_that_it_is_reached() {
    let mut world = with_memory(1, 1, 100 << 10);
    let told = |world: &mut World| {
        let answer = world.status(1);
        let status = answer.status();
        assert_eq!(status.memory_bytes_max, 100 << 10);
        (status.memory_bytes, status.obstacle)
    };
    assert_eq!(told(&mut world), (0, None));
    fill(&mut world);
    for count in 0.. {
        let key = format!("small {count}");
        if matches!(world.ask(1, set(&key, "")).outcome(), Outcome::Refused(_)) {
            break;
        }
    }
    let (bytes, obstacle) = told(&mut world);
    assert!((80 << 10..=100 << 10).contains(&bytes), "{bytes}");
    assert_eq!(obstacle, Some(Obstacle::MemoryFull));
    world.ask(1, delete("key 0")).receipt();
    assert_eq!(told(&mut world).1, None);
}

#[test]
fn what_is_appended_and_not_applied_counts_as_well() {
    let mut world = with_memory(3, 2, 100 << 10);
    for id in 0..200 {
        world.request(1, 1, id, set(&format!("key {id}"), &"v".repeat(1024)));
    }
    assert_eq!(world.machine(1).node.store.keys(), 0, "nothing is applied");
    let refused = world.answers(1).iter().filter(|answer| answer.refusal() == FULL).count();
    assert!((100..150).contains(&refused), "{refused} of 200 refused");
    world.settle();
    world.advance(HEARTBEAT);
    world.settle();
    assert_eq!(world.answers(1).len(), 200 - refused);
    for id in world.ids() {
        let store = &world.machine(id).node.store;
        assert_eq!(store.keys() as usize, 200 - refused);
        assert!(store.memory_bytes() <= 100 << 10);
    }
    world.ask(1, delete("key 0")).receipt();
    world.ask(1, set("key 0", "what was under way does not count any more")).receipt();
}

#[test]
fn writes_that_came_to_nothing_do_not_count_for_ever() {
    let mut world = with_memory(1, 1, 100 << 10);
    for _ in 0..500 {
        let cas = Mutation::CompareAndSet { key: b"a", expected: Expected::Revision(9), value: &[7; 1024] };
        let answer = world.ask(1, write(cas));
        let Outcome::Written { result: WriteResult::ConditionFailed { .. }, .. } = answer.outcome() else {
            panic!("{:?}", answer.outcome())
        };
        world.ask(1, set("b", &"v".repeat(1024))).receipt();
    }
}

#[test]
fn a_follower_with_a_lower_limit_refuses_entries_and_the_others_go_on() {
    let mut world = World::formed(3, 2);
    world.settings.memory_bytes_max = 10 << 10;
    world.restart(3);
    world.meet_all();
    world.settle();
    for count in 0..30 {
        world.ask(1, set(&format!("key {count}"), &"v".repeat(1024))).receipt();
    }
    let held = world.machine(3).node.store.memory_bytes();
    assert!((10 << 10..14 << 10).contains(&held), "it takes what is somewhat beyond its limit: {held}");
    assert_eq!(world.status(3).status().obstacle, Some(Obstacle::MemoryFull));
    let answer = world.status(1);
    let follower = answer.status().followers[1];
    assert_eq!((follower.node, follower.reachable), (node_id(3), false));
    assert_eq!((follower.obstacle, follower.checkpoint), (Some(Obstacle::MemoryFull), None));
    world.isolate(2);
    assert_eq!(world.ask(1, set("a", "1")).refusal(), Refusal::NoQuorum { have: 1, need: 2 });

    world.settings.memory_bytes_max = 100 << 10;
    world.restart(3);
    world.meet_all();
    for _ in 0..3 {
        world.advance(HEARTBEAT);
        world.settle();
    }
    assert_eq!(world.machine(3).node.store.keys(), 30);
    assert_eq!(world.status(1).status().followers[1].obstacle, None);
}

/// A checkpoint about every 20,000 bytes of entries, and so much log kept for followers.
pub(super) fn retaining(bytes: u64) -> World {
    World::with(3, 2, |settings| {
        settings.checkpoint_interval_bytes = 20_000;
        settings.tail_bytes_max = 0;
        settings.log_retention_bytes = bytes;
    })
    .form()
}

/// Writes until the leader has taken `count` checkpoints, and says at which indexes.
pub(super) fn write_checkpoints(world: &mut World, count: usize) -> Vec<Index> {
    let mut indexes = Vec::new();
    while indexes.len() < count {
        while world.machine(1).checkpoints.is_empty() {
            write_some(world, 1);
        }
        let header = world.machine(1).checkpoints.remove(0);
        take_checkpoint(world, 1, &header);
        world.settle();
        indexes.push(header.index);
    }
    indexes
}

pub(super) fn log_first(world: &mut World) -> Index {
    world.status(1).status().log_first
}

#[test]
fn log_is_kept_for_an_absent_follower_up_to_the_setting_and_always_what_the_checkpoints_need() {
    let retention = 4 * SEGMENT_BYTES_MIN;
    let mut world = retaining(retention);
    world.isolate(3);
    let mut previous = 0;
    let mut waited = 0;
    for _ in 0..10 {
        let newest = write_checkpoints(&mut world, 1)[0];
        let first = log_first(&mut world);
        let held = world.status(1).status().log_bytes_held;
        assert!(first <= previous + 1, "{first}, but the older checkpoint ends at {previous}");
        assert!(held <= retention, "{held} bytes");
        match first {
            1 => waited += 1, // All of it is kept.
            _ => assert_eq!(held, 0, "nothing is kept for one that needs a checkpoint"),
        }
        previous = newest;
    }
    assert!((2..10).contains(&waited), "it is dropped in the end, but not at once: {waited}");
}

#[test]
fn a_follower_that_is_back_in_time_is_fed_from_the_log() {
    let mut world = retaining(1 << 20);
    world.isolate(3);
    write_checkpoints(&mut world, 3);
    assert_eq!(log_first(&mut world), 1);
    assert!(world.status(1).status().log_bytes_held > 0);
    world.meet_all();
    for _ in 0..3 {
        world.settle();
        world.advance(HEARTBEAT);
        assert_eq!(world.status(1).status().followers[1].checkpoint, None);
    }
    assert!(world.status(1).status().followers[1].reachable);
    assert!(log_first(&mut world) > 1);
}
