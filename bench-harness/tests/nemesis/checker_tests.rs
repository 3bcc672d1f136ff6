//! Histories made by hand: the checker takes what is right, and names what is wrong.

use quorate_protocol::{Index, Term};

use super::checker::{Summary, check};
use super::history::{Action, Call, Outcome, Place, Value};

fn at(index: Index) -> Place {
    Place { index, term: 1 }
}

/// A call of key 0 that lasted from one tick to another.
fn call(ticks: std::ops::Range<u64>, action: Action, outcome: Outcome) -> Call {
    Call { key: 0, action, called: ticks.start, returned: ticks.end, outcome }
}

fn set(ticks: std::ops::Range<u64>, value: Value, index: Index) -> Call {
    call(ticks, Action::Set(value), Outcome::Applied(at(index)))
}

fn delete(ticks: std::ops::Range<u64>, index: Index) -> Call {
    call(ticks, Action::Delete, Outcome::Applied(at(index)))
}

fn open(called: u64, action: Action) -> Call {
    call(called..called + 1, action, Outcome::Open)
}

fn read(ticks: std::ops::Range<u64>, index: Index, found: Option<(Index, Value)>) -> Call {
    call(ticks, Action::Get, Outcome::Read { at: at(index), found })
}

fn compare_and_set(
    ticks: std::ops::Range<u64>,
    expected: Option<Index>,
    value: Value,
    outcome: Outcome,
) -> Call {
    call(ticks, Action::CompareAndSet { expected, value }, outcome)
}

fn failed(index: Index, found: Option<Index>) -> Outcome {
    Outcome::Failed { at: at(index), found }
}

fn applied(index: Index) -> Outcome {
    Outcome::Applied(at(index))
}

fn accept(calls: &[Call]) -> Summary {
    check(calls).unwrap_or_else(|violation| panic!("{violation}"))
}

fn reject(calls: &[Call], words: &str) {
    let violation = check(calls).expect_err("a wrong history was taken for right");
    assert!(violation.contains(words), "{violation}");
}

#[test]
fn a_history_in_which_everything_is_right_is_taken() {
    let summary = accept(&[
        read(0..1, 1, None),
        set(2..3, 10, 2),
        compare_and_set(4..9, Some(2), 11, applied(4)),
        // They overlap, so the read may see either.
        read(5..6, 3, Some((2, 10))),
        read(7..8, 4, Some((4, 11))),
        compare_and_set(10..11, Some(2), 12, failed(5, Some(4))),
        delete(12..13, 6),
        read(14..15, 7, None),
        compare_and_set(16..17, None, 13, applied(8)),
    ]);
    let expected = Summary { answered: 9, reads: 4, failed: 1, open: 0, open_seen: 0, terms: 1 };
    assert_eq!(summary, expected);
}

#[test]
fn a_stale_read_is_found() {
    // It says itself that it is of an earlier place than what had returned.
    reject(&[set(0..1, 10, 2), set(2..3, 11, 3), read(4..5, 2, Some((2, 10)))], "which had returned");
    // It says that it has seen what it has not.
    reject(&[set(0..1, 10, 2), set(2..3, 11, 3), read(4..5, 3, Some((2, 10)))], "was found after index 3");
    // It sees nothing at all.
    reject(&[set(0..1, 10, 2), read(2..3, 2, None)], "was found after index 2");
}

#[test]
fn a_read_that_goes_back_behind_another_is_found() {
    let first = set(0..9, 10, 2);
    reject(&[first, read(1..2, 2, Some((2, 10))), read(3..4, 1, None)], "which had returned");
    accept(&[first, read(1..4, 2, Some((2, 10))), read(2..3, 1, None)]);
}

#[test]
fn a_lost_update_is_found() {
    // Two compare-and-sets of one revision.
    let first = set(0..1, 10, 2);
    let cas = |ticks, value, index| compare_and_set(ticks, Some(2), value, applied(index));
    reject(&[first, cas(2..5, 11, 3), cas(3..4, 12, 4)], "was found before index 4");
    // An acknowledged write that is gone.
    reject(&[first, set(2..3, 11, 3), read(4..5, 4, None)], "no open write explains it");
    reject(&[first, set(2..3, 11, 3), read(4..5, 4, Some((2, 10)))], "was found after index 4");
}

#[test]
fn a_value_from_nowhere_is_found() {
    reject(&[set(0..1, 10, 2), read(2..3, 3, Some((3, 11)))], "a value from nowhere");
    // Before it was written.
    reject(&[read(0..1, 2, Some((2, 10))), open(2, Action::Set(10))], "a value before");
    // By a write that was told to have done nothing.
    let nothing = compare_and_set(2..3, None, 11, failed(3, Some(2)));
    reject(&[set(0..1, 10, 2), nothing, read(4..5, 4, Some((4, 11)))], "did not write");
}

#[test]
fn a_write_that_was_done_twice_is_found() {
    reject(&[set(0..1, 10, 2), read(2..3, 3, Some((3, 10)))], "the value of revision 2 at revision 3");
    let twice = [open(0, Action::Set(10)), read(2..3, 2, Some((2, 10))), read(4..5, 3, Some((3, 10)))];
    reject(&twice, "the value of revision 2 at revision 3");
}

#[test]
fn an_open_write_may_happen_once_at_any_time_or_never() {
    let write = open(0, Action::Set(10));
    accept(&[write, read(2..3, 2, None)]);
    let late = [write, set(2..3, 11, 2), read(4..5, 2, Some((2, 11))), read(6..7, 9, Some((9, 10)))];
    assert_eq!(accept(&late).open_seen, 1);
    let found_back = [write, read(2..3, 2, Some((2, 10))), set(4..5, 11, 3), read(6..7, 4, Some((2, 10)))];
    reject(&found_back, "was found after index 4");
}

#[test]
fn an_open_delete_explains_one_disappearance() {
    let begin = [set(0..1, 10, 2), open(2, Action::Delete), read(4..5, 4, None)];
    assert_eq!(accept(&begin).open_seen, 1);
    let mut calls = begin.to_vec();
    calls.extend([set(6..7, 11, 5), read(8..9, 6, None)]);
    reject(&calls, "no open write explains it");
    // Another that was called only afterwards does not help, one that was called in time does.
    calls.push(open(10, Action::Delete));
    reject(&calls, "no open write explains it");
    calls.push(open(2, Action::Delete));
    assert_eq!(accept(&calls).open_seen, 2);
    // There is no index at which it could have happened.
    let between =
        [set(0..1, 10, 2), open(2, Action::Delete), read(4..5, 3, Some((2, 10))), read(6..7, 3, None)];
    reject(&between, "was found after index 3");
}

#[test]
fn a_key_that_comes_back_from_the_dead_is_found() {
    let gone = [set(0..1, 10, 2), open(2, Action::Delete), read(4..5, 4, None)];
    reject(&[&gone[..], &[read(6..7, 5, Some((2, 10)))]].concat(), "was found after index 5");
    let deleted = [set(0..1, 10, 2), delete(2..3, 3), read(4..5, 4, Some((2, 10)))];
    reject(&deleted, "was found after index 4");
}

#[test]
fn a_revision_without_a_value_needs_an_open_write() {
    let begin = [set(0..1, 10, 2), compare_and_set(4..5, Some(2), 11, failed(4, Some(3)))];
    reject(&begin, "no open write explains it");
    assert_eq!(accept(&[&begin[..], &[open(2, Action::Set(12))]].concat()).open_seen, 1);
    reject(&[&begin[..], &[open(6, Action::Set(12))]].concat(), "no open write explains it");
    // It was elsewhere.
    let elsewhere = [open(2, Action::Set(12)), read(8..9, 5, Some((5, 12)))];
    reject(&[&begin[..], &elsewhere].concat(), "no open write explains it");
}

#[test]
fn a_condition_that_held_and_failed_is_found() {
    let refused = compare_and_set(2..3, Some(2), 11, failed(3, Some(2)));
    reject(&[set(0..1, 10, 2), refused], "a condition that held and failed");
    let open_one = compare_and_set(2..3, Some(2), 11, Outcome::Open);
    let calls = [set(0..1, 10, 2), open_one, set(4..5, 12, 3), read(6..7, 5, Some((5, 11)))];
    reject(&calls, "was found before index 5");
}

#[test]
fn two_acknowledged_histories_are_found() {
    let other = |index, term| Call { key: 1, ..set(0..9, 11, index) }.in_term(index, term);
    reject(&[set(0..9, 10, 2), other(2, 1)], "one index for two writes");
    reject(&[set(0..9, 10, 2), other(2, 2)], "one index in two terms");
    reject(&[set(0..9, 10, 3).in_term(3, 2), other(4, 1)], "a term falls");
    assert_eq!(accept(&[set(0..9, 10, 3), other(4, 2)]).terms, 2);
}

#[test]
fn the_order_of_time_holds_over_all_keys() {
    let other = Call { key: 1, ..set(2..3, 11, 2) };
    reject(&[set(0..1, 10, 3), other], "which had returned");
    accept(&[set(0..3, 10, 3), other]);
}

impl Call {
    fn in_term(mut self, index: Index, term: Term) -> Self {
        self.outcome = Outcome::Applied(Place { index, term });
        self
    }
}

/// A history of calls that overlap, as a store that is right would have answered them.
fn right_history(calls: u64, seed: u64) -> Vec<Call> {
    const KEYS: usize = 8;
    let mut random = fastrand::Rng::with_seed(seed);
    let mut stored: [Option<(Index, Value)>; KEYS] = [None; KEYS];
    let mut index = 1;
    let mut history = Vec::new();
    for number in 0..calls {
        let key = random.usize(..KEYS);
        let found = stored[key];
        let revision = found.map(|(revision, _)| revision);
        let action = match random.u8(..10) {
            0..4 => Action::Get,
            4..7 => Action::Set(number),
            7 => Action::Delete,
            _ if random.bool() => Action::CompareAndSet { expected: revision, value: number },
            _ => Action::CompareAndSet { expected: Some(Index::MAX), value: number },
        };
        index += u64::from(action != Action::Get);
        let place = Place { index, term: 1 + index / 1000 };
        let is_open = random.u8(..50) == 0 && action != Action::Get;
        let fails = matches!(action, Action::CompareAndSet { expected, .. } if expected != revision);
        let outcome = match action {
            Action::Get => Outcome::Read { at: place, found },
            _ if is_open => Outcome::Open,
            Action::CompareAndSet { .. } if fails => Outcome::Failed { at: place, found: revision },
            _ => Outcome::Applied(place),
        };
        match action {
            Action::Get => {}
            _ if fails || (is_open && random.bool()) => {}
            Action::Delete => stored[key] = None,
            Action::Set(value) | Action::CompareAndSet { value, .. } => stored[key] = Some((index, value)),
        }
        // Each takes effect at 100 times its number, and lasts up to some calls before and after that.
        let (before, after) = (random.u64(..900), random.u64(..900));
        let moment = 1000 + 100 * number;
        history.push(Call {
            key: key as u16,
            action,
            called: 2 * (moment - before),
            returned: 2 * (moment + after) + 1,
            outcome,
        });
    }
    history
}

#[test]
fn a_long_history_that_is_right_is_taken_and_a_fault_anywhere_in_it_found() {
    let history = right_history(20_000, 1);
    let summary = accept(&history);
    assert!(summary.open_seen > 0 && summary.failed > 0, "{summary:?}");
    let mut random = fastrand::Rng::with_seed(2);
    for _ in 0..50 {
        let mut wrong = history.clone();
        let (broken, call) = loop {
            let at = random.usize(..wrong.len());
            if let Outcome::Read { found: Some(_), .. } = wrong[at].outcome {
                break (at, wrong[at]);
            }
        };
        // A read of the version before.
        let Outcome::Read { at: place, found: Some((revision, _)) } = call.outcome else { unreachable!() };
        let before = history.iter().rev().find_map(|other| match (other.action, other.outcome) {
            (Action::Set(value), Outcome::Applied(at)) if other.key == call.key && at.index < revision => {
                Some((at.index, value))
            }
            _ => None,
        });
        let Some(before) = before else { continue };
        wrong[broken].outcome = Outcome::Read { at: place, found: Some(before) };
        check(&wrong).expect_err("a read of an older version was taken for right");
    }
}

#[test]
fn a_million_calls_are_checked() {
    assert!(accept(&right_history(1_000_000, 3)).terms > 500);
}
