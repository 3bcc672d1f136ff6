//! Watches.

use quorate_protocol::request::Expected;

use super::transfers::{catch_up, with_a_follower_far_behind};
use super::*;

const EVERYTHING: Range<'static> = Range { start: b"", end: RangeEnd::Open };

fn watch(after: Option<Token>) -> Operation<'static> {
    Operation::Watch { range: EVERYTHING, after }
}

fn watch_prefix(prefix: &str) -> Operation<'_> {
    Operation::Watch { range: Range { start: b"", end: RangeEnd::Prefix(prefix.as_bytes()) }, after: None }
}

fn delete(key: &str) -> Operation<'_> {
    write(Mutation::Delete { key: key.as_bytes() })
}

/// What one page of a watch says: up to where, and the changes as `entry key=value`, or `entry key` if it is gone.
fn page(answer: &Answer) -> (Token, Vec<String>) {
    let Outcome::Changes { through, changes } = answer.outcome() else { panic!("{:?}", answer.outcome()) };
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let shown = changes.iter().map(|change| match change.value {
        Some(value) => format!("{} {}={}", change.index, text(change.key), text(value.0)),
        None => format!("{} {}", change.index, text(change.key)),
    });
    (through, shown.collect())
}

/// Everything that a watch was told since the last time; it must not have ended.
fn seen(world: &mut World, node: u8, request: u64) -> (Option<Token>, Vec<String>) {
    let answers = world.answers(node);
    let pages: Vec<_> = answers.iter().filter(|answer| answer.id() == request).map(page).collect();
    let through = pages.last().map(|(through, _)| *through);
    (through, pages.into_iter().flat_map(|(_, changes)| changes).collect())
}

/// Why a watch has ended.
fn end(world: &mut World, node: u8, request: u64) -> Refusal {
    let answers = world.answers(node);
    let last = answers.iter().rfind(|answer| answer.id() == request).expect("it was told something");
    last.refusal()
}

fn with_history(m: u8, n: u8, bytes: usize) -> World {
    World::with(m, n, |settings| settings.watch_history_bytes = bytes).form()
}

/// Sets a key so often, to a value of 1000 bytes, without answers to watches getting in the way.
fn write_many(world: &mut World, count: usize) {
    for id in 0..count {
        world.request(1, 99, id as u64, set("many", &"v".repeat(1000)));
        world.settle();
        world.machine(1).answers.retain(|answer| answer.client != 99);
    }
}

#[test]
fn a_watch_is_told_every_effect_in_order_and_nothing_else_by_any_replica() {
    let mut world = World::formed(3, 2);
    world.ask(1, set("before", "1"));
    world.advance(HEARTBEAT);
    world.settle();
    for node in 1..=3 {
        world.request(node, 7, 70, watch(None));
        let answers = world.answers(node);
        assert_eq!(answers.iter().map(page).collect::<Vec<_>>(), [(Token { term: 1, index: 2 }, vec![])]);
    }
    let cas = |expected| write(Mutation::CompareAndSet { key: b"a", expected, value: b"3" });
    let batch = Write::Batch(vec![
        Mutation::Set { key: b"b", value: b"4" },
        Mutation::Delete { key: b"a" },
        Mutation::Delete { key: b"absent" },
    ]);
    let batch = Operation::Write { options: WriteOptions::default(), write: batch };
    let operations =
        [set("a", "1"), set("a", "2"), cas(Expected::Absent), delete("c"), cas(Expected::Revision(4)), batch];
    for (id, operation) in (1..).zip(operations) {
        world.request(1, 8, id, operation);
        world.settle();
    }
    world.advance(HEARTBEAT);
    world.settle();
    let expected = ["3 a=1", "4 a=2", "7 a=3", "8 b=4", "8 a"];
    for node in 1..=3 {
        let (through, changes) = seen(&mut world, node, 70);
        assert_eq!(
            (through, &*changes),
            (Some(Token { term: 1, index: 8 }), &expected.map(String::from)[..])
        );
    }
}

#[test]
fn a_watch_is_told_of_its_range_alone_and_how_far_it_is_about_once_a_second() {
    let mut world = World::formed(1, 1);
    world.request(1, 7, 70, watch_prefix("a"));
    let (start, end) = (&b"ab"[..], RangeEnd::Before(b"c"));
    world.request(1, 7, 71, Operation::Watch { range: Range { start, end }, after: None });
    for key in ["a", "ab", "b", "c", "d"] {
        world.request(1, 8, 1, set(key, "1"));
        world.settle();
    }
    let answers = world.answers(1);
    let of = |id: u64| {
        let pages = answers.iter().filter(|answer| answer.id() == id).map(page);
        pages.flat_map(|(_, changes)| changes).collect::<Vec<_>>()
    };
    assert_eq!(
        (of(70), of(71)),
        (vec!["2 a=1".into(), "3 ab=1".into()], vec!["3 ab=1".into(), "4 b=1".into()])
    );
    world.advance(Duration::from_millis(900));
    assert!(world.answers(1).is_empty());
    world.advance(Duration::from_millis(200));
    let through = Token { term: 1, index: 6 };
    assert_eq!(world.answers(1).iter().map(page).collect::<Vec<_>>(), [(through, vec![]), (through, vec![])]);
    world.advance(Duration::from_secs(10));
    assert!(world.answers(1).is_empty(), "nothing has moved since");
}

#[test]
fn a_watch_goes_on_across_an_election_and_can_be_resumed_at_another_replica() {
    let (mut world, leader) = World::elected(3, 2);
    let others: Vec<_> = world.ids().filter(|id| *id != leader).collect();
    let (stays, other) = (others[0], others[1]);
    world.request(stays, 7, 70, watch(None));
    world.ask(leader, set("a", "1"));
    world.advance(HEARTBEAT);
    world.settle();
    let (token, changes) = seen(&mut world, stays, 70);
    assert_eq!(changes.len(), 1);
    world.isolate(leader);
    world.advance(20 * HEARTBEAT); // Also the one that is cut off notices.
    let successor = world.wait_for_leader();
    assert!(successor != leader);
    world.answers(stays);
    world.request(successor, 8, 1, set("a", "2"));
    world.settle();
    world.advance(HEARTBEAT);
    world.settle();
    let index = world.machine(stays).node.replica().unwrap().applied();
    let expected = [format!("{index} a=2")];
    assert_eq!(seen(&mut world, stays, 70).1, expected);
    world.request(other, 9, 90, watch(token));
    let (through, changes) = seen(&mut world, other, 90);
    assert_eq!((through.unwrap().index, &*changes), (index, &expected[..]));
    world.request(leader, 9, 91, watch(through));
    assert!(world.answers(leader).is_empty(), "the old leader has yet to apply it");
    world.meet_all();
    for _ in 0..20 {
        world.advance(HEARTBEAT);
        world.settle();
    }
    assert_eq!(seen(&mut world, leader, 91), (through, vec![]));
}

#[test]
fn a_watch_that_wants_to_go_on_behind_what_is_not_applied_waits_until_its_deadline() {
    let mut world = World::formed(3, 2);
    world.request(2, 7, 70, watch(Some(Token { term: 1, index: 3 })));
    world.request(2, 7, 71, watch(Some(Token { term: 7, index: 1 })));
    assert_eq!(end(&mut world, 2, 71), Refusal::TokenLost, "R23");
    world.settle();
    world.advance(Duration::from_millis(1000));
    assert_eq!(end(&mut world, 2, 70), Refusal::Behind { applied: 1 });
    let request = Request { id: 72, deadline_ms: 0, operation: watch(Some(Token { term: 1, index: 3 })) };
    world.event(2, Event::Request { client: 7, request });
    for value in ["1", "2", "3"] {
        world.advance(Duration::from_secs(100));
        world.settle();
        world.ask(1, set("a", value));
    }
    world.advance(HEARTBEAT);
    world.settle();
    assert_eq!(seen(&mut world, 2, 72).1, ["4 a=3"], "without a deadline it waits");
    world.request(2, 7, 73, watch(Some(Token { term: 2, index: 5 })));
    world.ask(1, set("a", "4"));
    world.advance(HEARTBEAT);
    world.settle();
    assert_eq!(end(&mut world, 2, 73), Refusal::TokenLost, "another entry has taken its place");
}

#[test]
fn what_is_older_than_the_history_is_lost_and_said_so_with_the_oldest() {
    let mut world = with_history(1, 1, 16 << 10);
    write_many(&mut world, 40);
    let answer = world.status(1);
    let (oldest, bytes) = (answer.status().history_first, answer.status().history_bytes);
    assert!((20..40).contains(&oldest) && bytes <= 16 << 10);
    let answer = world.ask(1, watch(Some(Token { term: 1, index: oldest - 1 })));
    assert_eq!(answer.refusal(), Refusal::HistoryLost { after: oldest - 1, oldest });
    let answer = world.ask(1, watch(Some(Token { term: 0, index: 0 })));
    assert_eq!(answer.refusal(), Refusal::HistoryLost { after: 0, oldest });
    world.request(1, 7, 71, watch(Some(Token { term: 1, index: oldest })));
    let (through, changes) = seen(&mut world, 1, 71);
    assert_eq!((through.unwrap().index, changes.len() as u64), (41, 41 - oldest));
}

#[test]
fn a_watcher_that_does_not_read_is_cut_off_and_costs_no_memory() {
    let mut world = with_history(1, 1, 16 << 10);
    world.request(1, 7, 70, watch(None));
    world.request(1, 8, 80, watch(None));
    world.answers(1);
    world.machine(1).outside.slow.insert(7);
    for _ in 0..60 {
        write_many(&mut world, 1);
        assert!(world.machine(1).node.store().history().bytes() <= 16 << 10);
    }
    let oldest = world.machine(1).node.store().history().oldest();
    let answers = world.answers(1);
    let of = |client: ClientId| answers.iter().filter(|answer| answer.client == client).collect::<Vec<_>>();
    let slow = of(7);
    let Refusal::HistoryLost { after: 1, oldest: then } = slow[0].refusal() else { panic!() };
    assert!(slow.len() == 1 && then <= oldest);
    assert_eq!(of(8).iter().map(|answer| page(answer).1.len()).sum::<usize>(), 60, "others go on");
    assert_eq!(world.status(1).status().watches, 1);
}

#[test]
fn a_watcher_that_reads_again_in_time_has_missed_nothing() {
    let mut world = World::formed(1, 1);
    world.request(1, 7, 70, watch(None));
    world.answers(1);
    world.machine(1).outside.slow.insert(7);
    write_many(&mut world, 1000); // Several times what is looked at in a turn.
    assert!(world.answers(1).is_empty());
    world.machine(1).outside.slow.clear();
    let mut told: Vec<Index> = Vec::new();
    for turns in 0.. {
        let (_, changes) = seen(&mut world, 1, 70);
        if changes.is_empty() && turns > 0 {
            assert!(turns > 3, "a turn takes only so much");
            break;
        }
        assert!(changes.len() < 500);
        told.extend(
            changes.into_iter().map(|change| change.split(' ').next().unwrap().parse::<Index>().unwrap()),
        );
        world.advance(Duration::from_millis(5));
    }
    assert_eq!(told, (2..=1001).collect::<Vec<Index>>());
}

#[test]
fn many_watches_share_what_a_turn_looks_at_and_all_get_everything() {
    let mut world = World::formed(1, 1);
    write_many(&mut world, 500);
    for id in 0..20 {
        world.request(1, 7, id, watch(Some(Token { term: 1, index: 1 })));
    }
    let mut told = [0; 20];
    for _ in 0..40 {
        let answers = world.answers(1);
        answers.iter().for_each(|answer| told[answer.id() as usize] += page(answer).1.len());
        world.advance(Duration::from_millis(5));
    }
    assert_eq!(told, [500; 20]);
}

#[test]
fn the_changes_of_an_entry_are_in_one_page_however_many_and_large() {
    let mut world = World::formed(1, 1);
    let keys: Vec<_> = (0..limits::BATCH_MUTATIONS_MAX).map(|key| format!("{key}")).collect();
    let batch = |value: &'static [u8], count: usize| {
        let sets = keys[..count].iter().map(|key| Mutation::Set { key: key.as_bytes(), value });
        Operation::Write { options: WriteOptions::default(), write: Write::Batch(sets.collect()) }
    };
    world.request(1, 7, 70, watch(None));
    world.machine(1).outside.slow.insert(7);
    let large = vec![b'v'; limits::VALUE_BYTES_MAX].leak();
    let counts = [keys.len(), keys.len(), keys.len(), 1, 1, 1];
    for count in counts {
        world.request(1, 8, 1, batch(if count == 1 { large } else { b"" }, count));
        world.settle();
    }
    world.machine(1).outside.slow.clear();
    for _ in 0..10 {
        world.advance(Duration::from_millis(5));
    }
    let answers = world.answers(1);
    let pages =
        answers.iter().filter(|answer| answer.id() == 70).map(|answer| (answer.bytes.len(), page(answer)));
    let mut told = Vec::new();
    for (bytes, (through, changes)) in pages {
        assert!(bytes <= limits::RESPONSE_BYTES_MAX && changes.len() <= limits::SCAN_ITEMS_MAX);
        let entries =
            changes.iter().map(|change| change.split(' ').next().unwrap().parse::<Index>().unwrap());
        let entries: Vec<_> = entries.collect();
        assert!(entries.last().is_none_or(|last| *last <= through.index));
        told.extend(entries.chunk_by(|one, other| one == other).map(|run| (run[0], run.len())));
    }
    assert_eq!(told, (2..).zip(counts).collect::<Vec<_>>());
}

#[test]
fn a_watch_ends_when_it_is_cancelled_or_its_connection_does() {
    let mut world = World::formed(1, 1);
    for (client, id) in [(7, 70), (7, 71), (8, 70)] {
        world.request(1, client, id, watch(None));
    }
    world.answers(1);
    for _ in 0..2 {
        world.request(1, 7, 72, Operation::Cancel { request: 70 });
        assert_eq!(world.answers(1).iter().map(Answer::outcome).collect::<Vec<_>>(), [Outcome::Pong]);
    }
    write_many(&mut world, 1);
    let told = |world: &mut World| {
        let answers = world.answers(1);
        answers.iter().map(|answer| (answer.client, answer.id())).collect::<Vec<_>>()
    };
    assert_eq!(told(&mut world), [(7, 71), (8, 70)]);
    world.event(1, Event::ClientClosed(7));
    write_many(&mut world, 1);
    assert_eq!(told(&mut world), [(8, 70)]);
    assert_eq!(world.status(1).status().watches, 1);
}

#[test]
fn watches_of_a_connection_and_of_a_node_are_bounded() {
    let mut world = World::formed(1, 1);
    let per_client = limits::WATCHES_MAX as u64;
    for id in 0..per_client {
        world.request(1, 1, id, watch(None));
    }
    assert!(
        matches!(world.ask_without_rest(1, watch(None)).refusal(), Refusal::BadRequest(_)),
        "id 1 is taken"
    );
    world.request(1, 1, per_client, watch(None));
    assert!(matches!(end(&mut world, 1, per_client), Refusal::Overloaded(why) if why.contains("cancel")));
    for client in 2..=16 {
        (0..per_client).for_each(|id| world.request(1, client, id, watch(None)));
    }
    world.request(1, 17, 0, watch(None));
    assert!(matches!(end(&mut world, 1, 0), Refusal::Overloaded(why) if why.contains("another replica")));
    assert_eq!(world.status(1).status().watches, 1024);
    let long = "k".repeat(limits::KEY_BYTES_MAX + 2);
    world.request(1, 18, 0, watch_prefix(&long));
    assert!(matches!(end(&mut world, 1, 0), Refusal::BadRequest(_)));
}

#[test]
fn a_node_without_a_history_or_a_cluster_refuses_watches() {
    let mut world = with_history(1, 1, 0);
    let refusal = world.ask(1, watch(None)).refusal();
    assert!(
        matches!(&refusal, Refusal::Unsupported(why) if why.contains("--watch-history-mib")),
        "{refusal}"
    );
    let mut world = World::new(3, 2);
    assert!(matches!(world.ask(1, watch(None)).refusal(), Refusal::NotReady(_)));
}

#[test]
fn a_node_that_stops_tells_its_watches_and_does_not_wait_for_them() {
    let mut world = World::formed(3, 2);
    world.request(2, 7, 70, watch(None));
    world.request(2, 7, 71, watch(Some(Token { term: 1, index: 9 })));
    assert!(!world.machine(2).node.is_busy());
    let now = world.now;
    world.machine(2).node.stop(now);
    world.finish(2);
    let answers = world.answers(2);
    assert_eq!(
        answers[1..].iter().map(Answer::refusal).collect::<Vec<_>>(),
        [const { Refusal::Stopping }; 2]
    );
    assert!(!world.machine(2).node.is_busy());
}

#[test]
fn the_history_is_there_again_after_a_restart_and_begins_behind_the_checkpoint() {
    let mut world = World::formed(3, 2);
    for value in ["1", "2", "3"] {
        world.ask(1, set("a", value));
    }
    world.advance(HEARTBEAT);
    world.settle();
    world.restart(2);
    world.meet_all();
    world.settle();
    world.advance(HEARTBEAT);
    world.settle();
    world.request(2, 7, 70, watch(Some(Token { term: 1, index: 2 })));
    assert_eq!(seen(&mut world, 2, 70).1, ["3 a=2", "4 a=3"]);
}

#[test]
fn a_watch_behind_a_checkpoint_that_was_installed_is_told_that_its_history_is_lost() {
    let mut world = with_a_follower_far_behind();
    let applied = world.machine(3).node.replica().unwrap().applied();
    world.request(3, 7, 70, watch(None));
    assert_eq!(seen(&mut world, 3, 70).0.unwrap().index, applied);
    let last = world.machine(1).node.replica().unwrap().applied();
    let request = Request { id: 71, deadline_ms: 0, operation: watch(Some(Token { term: 1, index: last })) };
    world.event(3, Event::Request { client: 7, request });
    catch_up(&mut world);
    let answers = world.answers(3);
    let checkpoint = world.status(3).status().checkpoint;
    assert!(checkpoint > 0 && checkpoint <= last);
    let ended = answers.iter().filter(|answer| answer.id() == 70).map(Answer::refusal).collect::<Vec<_>>();
    assert_eq!(ended, [Refusal::HistoryLost { after: applied, oldest: checkpoint }]);
    let waited = answers.iter().filter(|answer| answer.id() == 71).map(page).collect::<Vec<_>>();
    assert_eq!(waited, [(Token { term: 1, index: last }, vec![])], "one that waited for what comes goes on");
}
