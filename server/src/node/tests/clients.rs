//! What clients are told.

use std::io::Cursor;

use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;

use super::*;

fn page(answer: &Answer) -> (Vec<String>, bool) {
    let Outcome::Page { items, more, .. } = answer.outcome() else { panic!("{:?}", answer.outcome()) };
    (items.iter().map(|item| String::from_utf8(item.key.to_vec()).unwrap()).collect(), more)
}

#[test]
fn writes_are_answered_once_each_in_order_with_who_holds_them() {
    let mut world = World::formed(3, 2);
    for id in 0..5 {
        world.request(1, 7, id, set("key", "value"));
    }
    world.work_log(1);
    assert!(world.answers(1).is_empty(), "only the leader holds them");
    world.deliver(2);
    world.work_log(2);
    world.settle();
    let answers = world.answers(1);
    let told: Vec<_> =
        answers.iter().map(|answer| (answer.client, answer.id(), answer.receipt().index)).collect();
    assert_eq!(told, [(7, 0, 2), (7, 1, 3), (7, 2, 4), (7, 3, 5), (7, 4, 6)]);
    for receipt in answers.iter().map(Answer::receipt) {
        assert!(receipt.holders.len() >= 2 && receipt.holders.contains(node_id(1)), "{receipt:?}");
        assert_eq!((receipt.term, receipt.survives_failover, receipt.survivable_losses), (1, true, 1));
        assert_eq!(receipt.durability, Durability::Os);
    }
    world.advance(Duration::from_secs(10));
    world.settle();
    assert!(world.answers(1).is_empty());
}

#[test]
fn a_write_says_what_it_did() {
    let mut world = World::formed(1, 1);
    let mut result = |operation| match world.ask(1, operation).outcome() {
        Outcome::Written { result, .. } => result,
        other => panic!("{other:?}"),
    };
    use quorate_protocol::request::Expected;
    let cas = |expected| write(Mutation::CompareAndSet { key: b"a", expected, value: b"2" });
    assert_eq!(result(set("a", "1")), WriteResult::Applied { existed: 0 });
    assert_eq!(
        result(cas(Expected::Absent)),
        WriteResult::ConditionFailed { mutation: 0, revision: Some(2) }
    );
    assert_eq!(result(cas(Expected::Revision(2))), WriteResult::Applied { existed: 1 });
    assert_eq!(result(write(Mutation::Delete { key: b"a" })), WriteResult::Applied { existed: 1 });
}

#[test]
fn before_the_cluster_has_formed_requests_are_refused_with_who_is_missing() {
    let mut world = World::new(3, 2);
    world.meet(1, 2).unwrap();
    world.meet(2, 1).unwrap();
    for operation in [set("a", "1"), get(Consistency::Local, "a")] {
        let refusal = world.ask(1, operation).refusal().to_string();
        assert!(refusal.contains("has not formed") && refusal.contains('3'), "{refusal}");
    }
    let status = world.status(1);
    assert_eq!((status.status().formed, status.status().leader), (false, None));
}

#[test]
fn a_follower_refuses_writes_with_the_leaders_address_and_stores_nothing() {
    let mut world = World::formed(3, 2);
    let Refusal::NotLeader { leader: Some(leader) } = world.ask(2, set("a", "1")).refusal() else { panic!() };
    assert_eq!((leader.node, leader.address.as_str()), (node_id(1), "host:1"));
    assert_eq!(world.status(2).status().last, 1);
}

#[test]
fn a_write_without_a_quorum_is_refused_with_the_numbers() {
    let mut world = World::formed(3, 2);
    world.isolate(2);
    world.isolate(3);
    assert_eq!(world.ask(1, set("a", "1")).refusal(), Refusal::NoQuorum { have: 1, need: 2 });
    assert_eq!(world.status(1).status().last, 1, "nothing is appended");
}

#[test]
fn requests_that_make_no_sense_or_are_not_supported_are_refused() {
    let mut world = World::formed(1, 1);
    let with =
        |options| Operation::Write { options, write: Write::One(Mutation::Set { key: b"a", value: b"1" }) };
    let session = SessionSequence { session: 1, sequence: 1, lowest_open: 2 };
    let long = "k".repeat(limits::KEY_BYTES_MAX + 1);
    for key in ["", &long] {
        for operation in [set(key, "1"), get(Consistency::Local, key)] {
            assert!(matches!(world.ask(1, operation).refusal(), Refusal::BadRequest(_)));
        }
    }
    let below = WriteOptions { session: Some(session), ..WriteOptions::default() };
    assert!(matches!(world.ask(1, with(below)).refusal(), Refusal::BadRequest(_)));
    let empty = Operation::Write { options: WriteOptions::default(), write: Write::Batch(Vec::new()) };
    assert!(matches!(world.ask(1, empty).refusal(), Refusal::BadRequest(_)));
    assert_eq!(world.status(1).status().last, 1, "nothing was appended");
}

#[test]
fn a_node_that_is_stopping_refuses_everything_but_answers_what_waits() {
    let mut world = World::formed(3, 2);
    world.request(1, 1, 1, set("a", "1"));
    let now = world.now;
    world.machine(1).node.stop(now);
    assert!(world.machine(1).node.is_busy());
    world.request(1, 1, 2, set("a", "2"));
    world.request(1, 1, 3, Operation::Ping);
    world.settle();
    let answers = world.answers(1);
    assert_eq!(
        answers[..2].iter().map(Answer::refusal).collect::<Vec<_>>(),
        [Refusal::Stopping, Refusal::Stopping]
    );
    assert_eq!((answers[2].id(), answers[2].receipt().index), (1, 2));
    assert!(!world.machine(1).node.is_busy());
}

#[test]
fn linearizable_reads_are_the_leaders_and_wait_for_its_first_entry() {
    let mut world = World::formed(3, 2);
    world.ask(1, set("a", "1"));
    let linearizable = || get(Consistency::Linearizable, "a");
    assert_eq!(value(&world.ask(1, linearizable())), (Token { term: 1, index: 2 }, Some((2, "1".into()))));
    assert!(matches!(world.ask(2, linearizable()).refusal(), Refusal::NotLeader { leader: Some(_) }));
    world.restart(1);
    assert!(matches!(world.ask(1, linearizable()).refusal(), Refusal::NotReady(_)), "R15");
    world.meet_all();
    world.settle();
    assert_eq!(value(&world.ask(1, linearizable())).1, Some((2, "1".into())));
}

#[test]
fn a_local_read_sees_what_the_replica_has_applied() {
    let mut world = World::formed(3, 2);
    world.isolate(3);
    world.ask(1, set("a", "1"));
    let local = || get(Consistency::Local, "a");
    assert_eq!(value(&world.ask(2, local())), (Token { term: 1, index: 2 }, Some((2, "1".into()))));
    assert_eq!(value(&world.ask(3, local())), (Token { term: 1, index: 1 }, None));
}

#[test]
fn a_session_read_is_served_or_told_that_the_replica_is_behind_or_its_token_lost() {
    let mut world = World::formed(3, 2);
    world.isolate(3);
    world.ask(1, set("a", "1"));
    let session = |term, index| get(Consistency::Session(Token { term, index }), "a");
    assert_eq!(value(&world.ask(2, session(1, 2))).1, Some((2, "1".into())));
    assert_eq!(value(&world.ask(2, session(0, 0))).1, Some((2, "1".into())), "a session that saw nothing");
    assert_eq!(world.ask(2, session(7, 2)).refusal(), Refusal::TokenLost); // R23
    world.request(3, 1, 1, session(1, 2));
    world.request(2, 1, 1, session(7, 3));
    world.settle();
    assert!(world.answers(3).is_empty() && world.answers(2).is_empty(), "they wait");
    world.advance(Duration::from_millis(1000));
    let refusals = |answers: Vec<Answer>| answers.iter().map(Answer::refusal).collect::<Vec<_>>();
    assert_eq!(refusals(world.answers(3)), [Refusal::Behind { applied: 1 }]);
    assert_eq!(refusals(world.answers(2)), [Refusal::Behind { applied: 2 }]);
}

#[test]
fn a_session_read_waits_for_its_entry() {
    let mut world = World::formed(3, 2);
    world.isolate(3);
    world.ask(1, set("a", "1"));
    world.request(3, 1, 1, get(Consistency::Session(Token { term: 1, index: 2 }), "a"));
    world.meet_all();
    world.settle();
    let answers = world.answers(3);
    assert_eq!(answers.iter().map(|answer| value(answer).1).collect::<Vec<_>>(), [Some((2, "1".into()))]);
}

#[test]
fn a_scan_comes_in_pages_of_so_many_items_or_bytes() {
    let mut world = World::formed(1, 1);
    for key in ["a", "b", "c", "d"] {
        world.ask(1, set(key, "value"));
    }
    let scan = |start: &'static str, items_max| Operation::Scan {
        consistency: Consistency::Linearizable,
        range: Range { start: start.as_bytes(), end: RangeEnd::Before(b"d") },
        items_max,
    };
    let keys = |keys: &[&str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
    assert_eq!(page(&world.ask(1, scan("", 2))), (keys(&["a", "b"]), true));
    assert_eq!(page(&world.ask(1, scan("b\0", 2))), (keys(&["c"]), false));
    assert_eq!(page(&world.ask(1, scan("", 3))), (keys(&["a", "b", "c"]), false));
    assert_eq!(page(&world.ask(1, scan("", 0))), (keys(&["a"]), true), "never without progress");
    let large = "x".repeat(limits::SCAN_PAGE_BYTES_MAX);
    world.ask(1, set("a", &large));
    assert_eq!(page(&world.ask(1, scan("", 10))), (keys(&["a"]), true));
}

#[test]
fn an_overdue_write_is_unknown_with_the_copies_it_has_and_not_answered_again() {
    let mut world = World::formed(3, 3);
    world.request(1, 4, 9, set("a", "1"));
    world.work_log(1);
    world.deliver(2);
    world.work_log(2);
    world.deliver(1);
    world.machine(3).inbox.clear();
    world.advance(Duration::from_millis(900));
    assert!(world.answers(1).is_empty());
    world.machine(3).inbox.clear();
    world.advance(Duration::from_millis(100));
    let answers = world.answers(1);
    assert_eq!((answers.len(), answers[0].client, answers[0].id()), (1, 4, 9));
    assert_eq!(answers[0].outcome(), Outcome::Unknown { index: 2, copies: 2 }, "R20");
    world.settle();
    world.advance(HEARTBEAT);
    world.settle();
    assert_eq!(world.status(1).status().commit, 2, "it is committed after all");
    assert!(world.answers(1).is_empty());
}

#[test]
fn a_status_tells_how_each_follower_stands() {
    let mut world = World::formed(3, 2);
    world.isolate(3);
    world.ask(1, set("a", "1"));
    world.advance(HEARTBEAT);
    world.settle();
    let answer = world.ask(1, Operation::Status { histograms: true });
    let status = answer.status();
    assert_eq!((status.role, status.term, status.commit, status.keys), (Role::Leader, 1, 2, 1));
    let stands = |at: usize| {
        let follower = &status.followers[at];
        (follower.node.get(), follower.reachable, follower.durable, follower.applied, follower.entries_behind)
    };
    assert_eq!((stands(0), stands(1)), ((2, true, 2, 2, 0), (3, false, 1, 1, 1)));
    assert!(status.followers[1].bytes_behind > 0 && !status.followers[0].lag_us.is_empty());
    let answer = world.status(2);
    assert_eq!((answer.status().role, answer.status().followers.len()), (Role::Follower, 0));
    assert_eq!(answer.status().leader.unwrap().address, "host:1");
}

#[test]
fn a_status_tells_the_lag_of_each_follower_in_stages() {
    let mut world = World::formed(3, 2);
    world.isolate(3);
    world.request(1, 1, 1, set("a", "1"));
    world.now += Duration::from_micros(3500); // Node 2's disk takes 2 ms of it.
    world.settle();
    world.answers(1);
    world.advance(HEARTBEAT);
    world.settle();
    let answer = world.ask(1, Operation::Status { histograms: true });
    let status = answer.status();
    let [two, three] = &status.followers[..] else { panic!("not two followers: {status:?}") };
    let only = |serialised: &[u8]| {
        let histogram = histogram(serialised);
        assert_eq!(histogram.len(), 1);
        histogram.min()..=histogram.max()
    };
    let lags = [two.lag_us, two.queue_us, two.network_us, two.disk_us, two.sync_us, two.apply_us];
    for (serialised, expected) in lags.into_iter().zip([3500, 0, 1500, 2000, 1000, 0]) {
        let found = only(serialised);
        assert!(found.contains(&expected), "{found:?} µs, not {expected}");
    }
    assert_eq!((only(two.lag_entries), two.lag_now_us), (1..=1, 0));
    assert_eq!(three.lag_now_us, 53_500, "since the append");
    assert_eq!(histogram(three.lag_us).len(), 0);
}

#[test]
fn every_node_tells_how_its_own_disk_worked_if_asked() {
    let mut world = World::formed(3, 2);
    world.ask(1, set("a", "1"));
    for id in world.ids() {
        let answer = world.ask(id, Operation::Status { histograms: true });
        let disk = answer.status().disk;
        let [sync, entries, bytes] = [disk.sync_us, disk.batch_entries, disk.batch_bytes].map(histogram);
        assert_eq!(
            [sync.len(), entries.len(), bytes.len()],
            [2; 3],
            "the leader's first entry, and the write"
        );
        assert!((sync.min()..=sync.max()).contains(&1000) && entries.max() == 1 && bytes.min() > 0);
        let answer = world.status(id);
        let disk = answer.status().disk;
        assert!([disk.sync_us, disk.batch_entries, disk.batch_bytes].iter().all(|bytes| bytes.is_empty()));
    }
}

/// What a status gives as a histogram.
fn histogram(serialised: &[u8]) -> Histogram<u64> {
    Deserializer::new().deserialize(&mut Cursor::new(serialised)).unwrap()
}
