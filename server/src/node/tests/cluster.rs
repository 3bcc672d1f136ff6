//! How nodes become a cluster, and stay one over restarts.

use super::*;

fn formed(world: &mut World) -> Vec<bool> {
    world.ids().map(|id| world.status(id).status().formed).collect()
}

#[test]
fn three_nodes_that_have_met_form_a_cluster_and_take_writes() {
    let mut world = World::new(3, 2);
    world.meet_all();
    world.settle();
    assert_eq!(formed(&mut world), [true; 3]);
    assert_eq!(world.ask(1, set("a", "1")).receipt().index, 2);
}

#[test]
fn nobody_promises_or_sends_entries_before_all_have_stored_the_cluster() {
    let mut world = World::new(3, 2);
    for (id, other) in [(1, 2), (1, 3), (2, 1), (2, 3), (3, 1)] {
        world.meet(id, other).unwrap();
    }
    world.settle();
    assert_eq!(formed(&mut world), [false; 3]);
    for id in world.ids() {
        assert_eq!(world.status(id).status().term, 0, "R26");
    }
    world.meet(3, 2).unwrap();
    world.settle();
    assert_eq!(formed(&mut world), [true; 3]);
    assert_eq!(world.status(1).status().commit, 1);
}

#[test]
fn a_node_that_restarts_while_the_cluster_forms_goes_on_from_what_it_stored() {
    for victim in 1..=3 {
        for steps in [2, 4, 5, 6] {
            let mut world = World::new(3, 2);
            let pairs = [(1, 2), (2, 3), (3, 1), (1, 3), (2, 1), (3, 2)];
            for (id, other) in &pairs[..steps] {
                world.meet(*id, *other).unwrap();
            }
            world.restart(victim);
            world.meet_all();
            world.settle();
            assert_eq!(formed(&mut world), [true; 3], "node {victim} after {steps} steps");
            assert_eq!(world.ask(1, set("a", "1")).receipt().holders.len(), 2);
        }
    }
}

#[test]
fn a_replaced_disk_joins_and_counts_once_it_is_admitted() {
    for n in [2, 3] {
        let mut world = World::formed(3, n);
        world.ask(1, set("a", "1"));
        world.replace(2);
        world.meet_all();
        world.settle();
        assert!(!world.status(2).status().voting);
        let learner = |world: &mut World| world.status(1).status().followers[0].voting;
        assert!(!learner(&mut world));
        let admit = Operation::Admit { node: node_id(2) };
        assert!(world.ask(1, admit.clone()).receipt().holders.contains(node_id(2)), "n={n}");
        world.advance(HEARTBEAT);
        world.settle();
        assert!(world.status(2).status().voting && learner(&mut world));
        assert!(matches!(world.ask(1, admit).refusal(), Refusal::BadRequest(_)), "it is one already");
        for (node, why) in [(9, "no node 9 in this cluster"), (1, "node 1 leads")] {
            let refusal = world.ask(1, Operation::Admit { node: node_id(node) }).refusal();
            assert!(matches!(&refusal, Refusal::BadRequest(reason) if reason.contains(why)), "{refusal:?}");
        }
        world.ask(1, set("a", "2"));
        world.restart(2);
        world.meet_all();
        world.settle();
        assert!(world.status(2).status().voting, "it is one for good");
        assert_eq!(value(&world.ask(2, get(Consistency::Local, "a"))).1.unwrap().1, "2");
    }
}

#[test]
fn a_replaced_disk_is_admitted_without_being_asked_where_that_is_set() {
    let mut world = World::with(3, 2, |settings| settings.admits_replaced = true).form();
    world.replace(3);
    world.meet_all();
    world.settle();
    for _ in 0..5 {
        world.advance(HEARTBEAT);
        world.settle();
    }
    assert!(world.status(3).status().voting);
}

#[test]
fn nothing_acknowledged_is_lost_when_every_node_restarts() {
    for n in 1..=3 {
        let mut world = World::formed(3, n);
        for value in ["1", "2", "3"] {
            world.ask(1, set("a", value));
        }
        world.settle();
        for id in [1, 2, 3] {
            world.restart(id);
        }
        world.meet_all();
        world.settle();
        let answer = world.ask(1, get(Consistency::Linearizable, "a"));
        let Outcome::Value { value: Some(found), .. } = answer.outcome() else { panic!() };
        assert_eq!((found.revision, found.value), (4, &b"3"[..]), "n={n}");
        assert_eq!(world.status(1).status().term, 2, "R11");
        let applied: Vec<_> = world.ids().map(|id| world.status(id).status().applied).collect();
        assert_eq!(applied, [5; 3], "n={n}");
    }
}

#[test]
fn a_follower_catches_up_from_the_log_files_of_a_leader_that_has_restarted() {
    let mut world = World::formed(3, 2);
    world.isolate(3);
    for _ in 0..20 {
        world.ask(1, set("a", "1"));
    }
    world.restart(1);
    world.meet(1, 2).unwrap();
    world.meet(2, 1).unwrap();
    world.settle();
    world.meet(1, 3).unwrap();
    world.meet(3, 1).unwrap();
    world.settle();
    world.advance(HEARTBEAT);
    world.settle();
    assert_eq!(world.status(3).status().applied, 22);
    world.isolate(2);
    assert_eq!(world.ask(1, set("a", "2")).receipt().index, 23, "it counts for the quorum");
}

/// What a process that was started with a node's number and an empty directory says of itself.
fn second_process(world: &mut World, id: u8) -> ReplicaIdentity {
    let first = world.machine(id).node.introduction();
    let (incarnation, advertise) = (Incarnation(1000), "elsewhere:1".into());
    ReplicaIdentity { incarnation, advertise, stored: None, founders: Vec::new(), formed: false, ..first }
}

fn hello(world: &mut World, to: u8, identity: &ReplicaIdentity) -> Result<(), HelloRefusal> {
    let machine = world.machine(to);
    machine.node.meet(identity, &mut machine.outside)
}

#[test]
fn a_second_process_with_a_taken_number_gets_in_only_when_the_first_has_no_link() {
    let mut world = World::formed(3, 2);
    let (first, second) = (world.machine(2).node.introduction(), second_process(&mut world, 2));
    let first_is = Member { node: first.node, incarnation: first.incarnation };
    let second_is = Member { node: second.node, incarnation: second.incarnation };
    for (up, down) in [
        (Event::Connected(first_is), Event::Disconnected(node_id(2))),
        (Event::Accepted(first_is), Event::Closed(node_id(2))),
    ] {
        world.event(1, up);
        let refusal = hello(&mut world, 1, &second).unwrap_err();
        assert!(matches!(refusal, HelloRefusal::NodeTaken { .. }), "{refusal}");
        let words = ["are node 2", &first.advertise, "at elsewhere:1", "stop the one"];
        assert!(words.iter().all(|word| refusal.to_string().contains(word)), "{refusal}");
        assert_eq!(world.ask(1, set("a", "1")).receipt().holders.len(), 2);
        world.event(1, down);
        world.isolate(2);
    }
    assert_eq!(hello(&mut world, 1, &second), Ok(()));
    world.event(1, Event::Accepted(second_is));
    assert_eq!(hello(&mut world, 1, &first), Ok(()), "the voting one takes the place of one that is not");
    world.event(1, Event::Accepted(first_is));
    assert!(hello(&mut world, 1, &second).is_err());
}

#[test]
fn before_a_cluster_has_formed_the_first_process_with_a_number_stays() {
    let mut world = World::new(3, 2);
    let second = second_process(&mut world, 2);
    world.meet(1, 2).unwrap();
    assert!(hello(&mut world, 1, &second).is_err());
    world.isolate(2);
    assert_eq!(hello(&mut world, 1, &second), Ok(()));
}
