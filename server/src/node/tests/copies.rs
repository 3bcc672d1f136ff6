//! Acknowledgement at other counts than n, and at each.

use super::*;

fn with(options: WriteOptions) -> Operation<'static> {
    Operation::Write { options, write: Write::One(Mutation::Set { key: b"a", value: b"1" }) }
}

fn at(copies: u8) -> Operation<'static> {
    with(WriteOptions { acks: Acks::Copies(copies), ..WriteOptions::default() })
}

fn at_all() -> Operation<'static> {
    with(WriteOptions { acks: Acks::All, ..WriteOptions::default() })
}

fn progress() -> Operation<'static> {
    with(WriteOptions { progress: true, ..WriteOptions::default() })
}

/// What happens to the leader's entries at one follower: it gets, syncs and acknowledges them.
fn copy_to(world: &mut World, leader: u8, follower: u8) {
    world.deliver(follower);
    world.work_log(follower);
    world.deliver(leader);
}

/// What a client was told: how, who holds it, whether a failover keeps it, and how many losses it survives.
fn told(answer: &Answer) -> (&'static str, Vec<u8>, bool, u8) {
    let (how, receipt) = match answer.outcome() {
        Outcome::Stored { receipt } => ("stored", receipt),
        Outcome::Progress { receipt } => ("progress", receipt),
        Outcome::Written { receipt, .. } => ("written", receipt),
        other => panic!("{other:?}"),
    };
    let holders = receipt.holders.iter().map(|node| node.get()).collect();
    (how, holders, receipt.survives_failover, receipt.survivable_losses)
}

fn all_told(world: &mut World, node: u8) -> Vec<(&'static str, Vec<u8>, bool, u8)> {
    world.answers(node).iter().map(told).collect()
}

#[test]
fn below_n_a_write_is_answered_at_its_copies_and_said_not_to_be_safe_against_a_failover() {
    let mut world = World::formed(5, 3);
    world.request(1, 1, 1, at(1));
    world.request(1, 1, 2, at(2));
    assert!(world.answers(1).is_empty(), "nobody has synced it");
    world.work_log(1);
    assert_eq!(all_told(&mut world, 1), [("stored", vec![1], false, 0)]);
    copy_to(&mut world, 1, 2);
    assert_eq!(all_told(&mut world, 1), [("stored", vec![1, 2], false, 0)]);
    world.settle();
    assert!(world.answers(1).is_empty(), "that was the last answer");
    assert_eq!(world.status(1).status().commit, 3, "it is committed all the same");
}

#[test]
fn below_n_the_copies_of_followers_count_before_the_leaders_own() {
    let mut world = World::formed(5, 3);
    world.request(1, 1, 1, at(1));
    copy_to(&mut world, 1, 4);
    assert_eq!(all_told(&mut world, 1), [("stored", vec![4], false, 0)]);
}

/// What a node's followers acknowledge comes in one turn.
fn copy_to_all(world: &mut World, leader: u8) {
    for follower in world.ids().filter(|id| *id != leader) {
        world.deliver(follower);
        world.work_log(follower);
    }
    for (from, bytes) in std::mem::take(&mut world.machine(leader).inbox) {
        let (from, now) = (world.identity(from.get()), world.now);
        let machine = world.machine(leader);
        let message = parse(&bytes).unwrap();
        machine.node.handle(now, Event::Message { from, message }, &mut machine.outside);
    }
    world.finish(leader);
}

#[test]
fn below_n_a_write_that_is_committed_by_then_is_written() {
    let (mut world, leader) = World::elected(3, 2);
    world.answers(leader);
    world.request(leader, 1, 1, at(1));
    copy_to_all(&mut world, leader);
    let others = world.ids().filter(|id| *id != leader).collect();
    assert_eq!(all_told(&mut world, leader), [("written", others, true, 1)]);
    let mut world = World::formed(3, 2);
    world.request(1, 1, 1, at(1));
    copy_to_all(&mut world, 1);
    let stored = ("stored", vec![2, 3], false, 0);
    assert_eq!(all_told(&mut world, 1), [stored], "a configured leader commits nothing without its own disk");
}

#[test]
fn with_a_condition_or_without_a_quorum_fewer_copies_than_n_are_refused() {
    let mut world = World::formed(3, 2);
    let write = Write::One(Mutation::CompareAndSet {
        key: b"a",
        expected: quorate_protocol::request::Expected::Absent,
        value: b"1",
    });
    let options = WriteOptions { acks: Acks::Copies(1), ..WriteOptions::default() };
    let conditional = |options| Operation::Write { options, write: write.clone() };
    let refusal = world.ask(1, conditional(options)).refusal();
    assert!(matches!(&refusal, Refusal::BadRequest(why) if why.contains("2 copies or more")), "{refusal}");
    for copies in [0, 4, 255] {
        let refusal = world.ask(1, at(copies)).refusal();
        assert!(matches!(&refusal, Refusal::BadRequest(why) if why.contains("1 to 3")), "{refusal}");
    }
    let options = WriteOptions { acks: Acks::Copies(3), ..WriteOptions::default() };
    assert_eq!(told(&world.ask(1, conditional(options))), ("written", vec![1, 2, 3], true, 1));
    let last = world.status(1).status().last;
    world.isolate(2);
    world.isolate(3);
    assert_eq!(world.ask(1, at(1)).refusal(), Refusal::NoQuorum { have: 1, need: 2 });
    assert_eq!(world.status(1).status().last, last, "nothing is appended");
}

#[test]
fn above_n_a_write_is_answered_when_it_is_committed_and_has_its_copies() {
    let mut world = World::formed(5, 2);
    for (id, operation) in (1..).zip([at(2), at(4), at_all()]) {
        world.request(1, 1, id, operation);
    }
    world.work_log(1);
    copy_to(&mut world, 1, 2);
    assert_eq!(all_told(&mut world, 1), [("written", vec![1, 2], true, 1)], "n is as without a wish");
    copy_to(&mut world, 1, 3);
    assert!(world.answers(1).is_empty());
    copy_to(&mut world, 1, 4);
    assert_eq!(all_told(&mut world, 1), [("written", vec![1, 2, 3, 4], true, 1)]);
    copy_to(&mut world, 1, 5);
    assert_eq!(all_told(&mut world, 1), [("written", vec![1, 2, 3, 4, 5], true, 1)]);
}

#[test]
fn at_the_deadline_a_committed_write_is_answered_with_the_copies_that_it_has() {
    let mut world = World::formed(3, 2);
    world.isolate(3);
    world.request(1, 1, 1, at_all());
    world.settle();
    world.advance(Duration::from_millis(900));
    assert!(world.answers(1).is_empty());
    world.settle();
    world.advance(Duration::from_millis(100));
    assert_eq!(all_told(&mut world, 1), [("written", vec![1, 2], true, 1)]);
    world.meet_all();
    world.settle();
    assert!(world.answers(1).is_empty());
}

#[test]
fn at_the_deadline_a_write_that_is_not_committed_is_unknown_with_the_copies_that_it_has() {
    let mut world = World::formed(5, 4);
    for (id, operation) in (1..).zip([at(3), at_all(), progress()]) {
        world.request(1, 1, id, operation);
    }
    world.work_log(1);
    copy_to(&mut world, 1, 2);
    for id in 3..=5 {
        world.machine(id).inbox.clear();
    }
    world.advance(Duration::from_millis(1000));
    let answers = world.answers(1);
    let unknown: Vec<_> = answers.iter().filter(|answer| answer.outcome().is_last()).collect();
    let outcomes: Vec<_> = unknown.iter().map(|answer| (answer.id(), answer.outcome())).collect();
    let expected = |id: u64| (id, Outcome::Unknown { index: id + 1, copies: 2 });
    assert_eq!(outcomes, [expected(1), expected(2), expected(3)], "R20");
}

#[test]
fn with_progress_a_write_is_told_at_every_count_up_to_m() {
    let mut world = World::formed(4, 2);
    world.request(1, 1, 1, progress());
    world.work_log(1);
    copy_to(&mut world, 1, 2);
    copy_to(&mut world, 1, 4);
    copy_to(&mut world, 1, 3);
    let expected = [
        ("progress", vec![1], false, 0),
        ("progress", vec![1, 2], true, 1),
        ("progress", vec![1, 2, 4], true, 1),
        ("written", vec![1, 2, 3, 4], true, 1),
    ];
    assert_eq!(all_told(&mut world, 1), expected);
    world.advance(Duration::from_secs(2));
    world.settle();
    assert!(world.answers(1).is_empty());
}

#[test]
fn copies_that_become_known_in_one_turn_are_told_once_and_the_rest_at_the_deadline() {
    let mut world = World::formed(3, 2);
    world.isolate(3);
    world.request(1, 1, 1, progress());
    copy_to(&mut world, 1, 2);
    world.answers(1);
    world.request(1, 1, 2, progress());
    world.work_log(1);
    assert_eq!(all_told(&mut world, 1), [("progress", vec![1, 2], true, 1), ("progress", vec![1], false, 0)]);
    world.settle();
    world.answers(1);
    world.advance(Duration::from_millis(1000));
    let last = ("written", vec![1, 2], true, 1);
    assert_eq!(all_told(&mut world, 1), [last.clone(), last]);
}

#[test]
fn a_cluster_of_one_has_nothing_to_wait_for() {
    let mut world = World::formed(1, 1);
    for operation in [progress(), at_all(), at(1)] {
        assert_eq!(told(&world.ask(1, operation)), ("written", vec![1], true, 0));
    }
}

#[test]
fn without_a_deadline_the_wait_for_a_replica_that_stays_away_ends_nevertheless() {
    let mut world = World::formed(3, 2);
    world.isolate(3);
    let request = Request { id: 1, deadline_ms: 0, operation: progress() };
    world.event(1, Event::Request { client: 1, request });
    world.settle();
    assert!(all_told(&mut world, 1).iter().all(|(how, ..)| *how == "progress"));
    for _ in 0..59 {
        world.advance(Duration::from_secs(1));
        world.settle();
    }
    assert!(world.answers(1).is_empty());
    world.advance(Duration::from_secs(1));
    assert_eq!(all_told(&mut world, 1), [("written", vec![1, 2], true, 1)]);
    assert!(!world.machine(1).node.is_busy());
}

#[test]
fn a_leader_that_is_deposed_says_what_it_knew_of_what_is_committed() {
    let (mut world, leader) = World::elected(3, 2);
    let others: Vec<_> = world.ids().filter(|id| *id != leader).collect();
    let (follower, away) = (others[0], others[1]);
    world.isolate(away);
    for (id, operation) in (1..).zip([at_all(), progress()]) {
        let request = Request { id, deadline_ms: 100_000, operation };
        world.event(leader, Event::Request { client: 1, request });
    }
    world.settle();
    world.answers(leader);
    world.isolate(leader);
    for _ in 0..20 {
        world.advance(HEARTBEAT);
        world.settle();
    }
    assert_eq!(world.status_without_rest(leader).status().elections.stepped_down, 1);
    let mut holders = vec![leader, follower];
    holders.sort_unstable();
    let last = ("written", holders, true, 1);
    assert_eq!(all_told(&mut world, leader), [last.clone(), last]);
}

#[test]
fn a_leader_that_is_deposed_calls_unknown_what_is_cut_and_written_what_another_commits() {
    for is_kept in [false, true] {
        let (mut world, leader) = World::elected(3, 2);
        for (id, operation) in (1..).zip([at(1), at_all(), progress()]) {
            let request = Request { id, deadline_ms: 100_000, operation };
            world.event(leader, Event::Request { client: 1, request });
        }
        let others: Vec<_> = world.ids().filter(|id| *id != leader).collect();
        let index = world.machine(leader).node.replica().unwrap().last();
        if is_kept {
            for other in &others {
                world.deliver(*other); // They have them, and say so too late.
            }
        }
        world.isolate(leader);
        for _ in 0..20 {
            world.advance(HEARTBEAT);
            for other in &others {
                world.deliver(*other);
                world.work_log(*other);
            }
        }
        assert!(!world.machine(leader).node.replica().unwrap().is_leader());
        assert!(world.answers(leader).is_empty(), "not even its own disk has synced them");
        world.meet_all();
        for _ in 0..20 {
            world.advance(HEARTBEAT);
            world.settle();
        }
        let answers = world.answers(leader);
        assert_eq!(answers.len(), 3);
        for (answer, index) in answers.iter().zip(index - 2..) {
            match is_kept {
                true => assert!(answer.receipt().survives_failover && answer.receipt().index == index),
                false => assert_eq!(answer.outcome(), Outcome::Unknown { index, copies: 0 }),
            }
        }
    }
}

#[test]
fn a_node_that_stops_answers_at_once_what_is_committed() {
    let mut world = World::formed(3, 2);
    world.isolate(3);
    world.request(1, 1, 1, at_all());
    world.settle();
    let now = world.now;
    world.machine(1).node.stop(now);
    assert!(world.machine(1).node.is_busy());
    world.finish(1);
    assert_eq!(all_told(&mut world, 1), [("written", vec![1, 2], true, 1)]);
    assert!(!world.machine(1).node.is_busy());
}

#[test]
fn writes_that_wait_for_other_counts_are_bounded_and_those_of_clients_that_left_go() {
    let mut world = World::with(2, 1, |settings| settings.uncommitted_bytes_max = 64 << 20).form();
    world.isolate(2);
    let now = world.now;
    for id in 0..16 << 10 {
        let machine = world.machine(1);
        let request = Request { id, deadline_ms: 0, operation: at_all() };
        machine.node.handle(now, Event::Request { client: 1, request }, &mut machine.outside);
    }
    world.finish(1);
    world.settle();
    assert!(world.answers(1).is_empty());
    assert!(matches!(world.ask(1, at_all()).refusal(), Refusal::Overloaded(_)));
    assert_eq!(told(&world.ask(1, set("a", "1"))).0, "written", "others are not concerned");
    world.event(1, Event::ClientClosed(1));
    assert!(!world.machine(1).node.is_busy());
}
