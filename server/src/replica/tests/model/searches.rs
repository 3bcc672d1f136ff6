//! What is followed, and what has to come of it.

use std::collections::BTreeSet;
use std::time::Instant;

use stateright::{Checker, Model};

use super::facts::Fact;
use super::*;

/// What T9 asks for. Messages arrive at once or never.
const BOUNDS: [fn() -> Small; 5] = [
    || prompt(5, 4, 2, 1),
    || prompt(4, 3, 2, 1),
    || prompt(3, 3, 3, 2).with_crashes(1),
    || prompt(3, 1, 3, 2).with_crashes(1),
    || prompt(3, 2, 3, 2).with_crashes(1),
];

/// The same with what is rarer: late messages, reads, replaced disks and damaged logs.
const RARE: [fn() -> Small; 9] = [
    || prompt(3, 2, 2, 1).with_delays(1),
    || prompt(3, 2, 2, 0).with_crashes(1).with_delays(1),
    || prompt(3, 2, 2, 1).with_crashes(1).with_reads(1),
    || prompt(3, 2, 2, 0).with_wipes(1).with_delays(1),
    || prompt(3, 2, 2, 1).with_wipes(1),
    || prompt(3, 3, 2, 1).with_wipes(1),
    || prompt(3, 2, 3, 0).with_wipes(1),
    || prompt(3, 2, 3, 1).with_damages(1),
    || prompt(3, 2, 3, 0).with_damages(2),
];

/// Messages arrive at any time or never.
const DELAYED: [fn() -> Small; 12] = [
    || small(3, 1, 2, 1).with_crashes(1),
    || small(3, 2, 2, 1),
    || small(3, 2, 2, 0).with_crashes(1),
    || small(3, 2, 2, 1).with_reads(1),
    || small(3, 2, 3, 0),
    || small(3, 3, 2, 1),
    || small(3, 3, 2, 0).with_crashes(1),
    || small(3, 2, 2, 2),
    || small(3, 3, 2, 2),
    || small(3, 3, 3, 0),
    || small(4, 3, 2, 0),
    || small(5, 4, 1, 1),
];

/// All that is followed to its end by the documented command.
fn whole() -> impl Iterator<Item = Small> {
    DELAYED.iter().chain(&RARE).chain(&BOUNDS).map(|model| model())
}

/// What came of a search.
struct Found {
    broken: Vec<&'static str>,
    seen: Vec<&'static str>,
    /// Whether every state was visited.
    is_whole: bool,
}

/// Follows a model to its end, until a rule is broken, or for so long.
fn explore(model: Small, threads: usize, at_most: Duration) -> Found {
    let began = Instant::now();
    let checker = model
        .checker()
        .threads(threads)
        .timeout(at_most)
        .finish_when(stateright::HasDiscoveries::AnyFailures)
        .spawn_dfs()
        .join();
    let took = began.elapsed();
    let (mut broken, mut seen) = (Vec::new(), Vec::new());
    for (name, path) in checker.discoveries() {
        if model.property(name).expectation == stateright::Expectation::Sometimes {
            seen.push(name);
            continue;
        }
        broken.push(name);
        if model.mutant.is_none() {
            path.into_vec().into_iter().for_each(|(_, step)| println!("    {step:?}"));
        }
    }
    let found = Found { is_whole: broken.is_empty() && took < at_most, broken, seen };
    println!(
        "{model:?}: {} states, {} unique, depth {}, {took:.1?}, peak {} MiB, whole: {}, broken: {:?}, seen: {:?}",
        checker.state_count(),
        checker.unique_state_count(),
        checker.max_depth(),
        peak_memory_mib(),
        found.is_whole,
        found.broken,
        found.seen,
    );
    found
}

/// Of this process; 0 where the system does not say.
fn peak_memory_mib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
}

/// The whole space has to keep all rules.
fn holds(model: Small, must_see: &[&str]) {
    let found = explore(model, 1, SHORT);
    assert_eq!(found.broken, Vec::<&str>::new());
    assert!(found.is_whole, "not whole within {SHORT:?}");
    must_see.iter().for_each(|what| assert!(found.seen.contains(what), "never: {what}"));
}

/// No test waits for longer; none is expected to.
const SHORT: Duration = Duration::from_secs(300);

#[test]
fn rules_hold_in_the_smallest_clusters_whatever_happens() {
    holds(small(3, 2, 1, 1).with_reads(1), &["a client's entry is committed", "a read is answered"]);
    holds(prompt(3, 2, 2, 1), &["a second leader commits", "a client's entry is committed", "a log is cut"]);
    holds(prompt(3, 1, 2, 1).with_crashes(1), &["a second leader commits", "a client's entry is committed"]);
    holds(prompt(3, 2, 3, 0), &["a second leader commits", "a log is cut"]);
    holds(prompt(4, 3, 2, 0), &["a second leader commits", "a log is cut"]);
}

#[test]
fn rules_hold_while_a_replaced_disk_is_admitted_and_a_damaged_log_repaired() {
    holds(prompt(3, 2, 2, 0).with_wipes(1), &["a newcomer counts", "a second leader commits"]);
    holds(prompt(3, 2, 2, 0).with_damages(1), &["a damaged log is whole again", "a second leader commits"]);
}

#[test]
fn rules_hold_when_messages_overtake_each_other_and_refusals_and_pre_votes_are_told() {
    holds(Small { network: Network::Unordered, ..small(3, 2, 1, 0) }, &[]);
    holds(Small { forgets: false, ..small(3, 3, 2, 0) }, &["a second leader commits"]);
    holds(Small { has_pre_votes: true, ..small(3, 2, 1, 0) }, &[]);
}

/// See the figures in the module's header.
#[test]
fn the_whole_space_keeps_the_rules() {
    if !is_exhaustive() {
        return println!("only with QUORATE_EXHAUSTIVE=1");
    }
    for model in whole() {
        let found = explore(model, 2, Duration::from_secs(2 * 3600));
        assert!(found.broken.is_empty() && found.is_whole);
    }
}

fn is_exhaustive() -> bool {
    std::env::var("QUORATE_EXHAUSTIVE").is_ok()
}

fn finds(mutant: Mutant, model: Small, rule: &str) {
    let found = explore(Small { mutant: Some(mutant), ..model }, 1, SHORT);
    assert!(found.broken.contains(&rule), "{mutant:?}: {:?}", found.broken);
}

#[test]
fn elections_without_a_majority_give_two_leaders_in_one_term() {
    finds(Mutant::ElectionWithoutMajority, small(3, 3, 1, 0), "one leader a term");
}

#[test]
fn known_bugs_break_the_rule_that_they_are_against() {
    finds(Mutant::ElectionWithoutMajority, prompt(3, 3, 1, 0), "one leader a term");
    finds(Mutant::OldTermCommitted, prompt(3, 2, 3, 0), "own entries are counted");
    finds(Mutant::FollowerAppliesAboveCommit, prompt(3, 2, 1, 0), "committed is on n disks");
    finds(Mutant::OldTailAcknowledged, prompt(3, 2, 2, 0), "acks are durable and matched");
    finds(Mutant::StaleSyncCounted, prompt(3, 2, 2, 1), "committed is on n disks");
    let model = prompt(3, 2, 2, 1).with_reads(1);
    finds(Mutant::ReadConfirmedByTooFew, model, "reads see what was committed");
    finds(Mutant::ReadBeforeNoop, model, "reads see what was committed");
}

#[test]
fn known_bugs_break_the_rule_that_they_are_against_also_when_messages_are_delayed() {
    let model = small(3, 2, 2, 1).with_reads(1);
    finds(Mutant::VoteClearedOnLeaderChange, model, "one vote a term");
    finds(Mutant::FollowerAppliesAboveCommit, model, "committed is on n disks");
    if !is_exhaustive() {
        return;
    }
    finds(Mutant::OldTermCommitted, model, "own entries are counted");
    finds(Mutant::ReadConfirmedByTooFew, model, "reads see what was committed");
    finds(Mutant::ReadBeforeNoop, model, "reads see what was committed");
    finds(Mutant::OldTailAcknowledged, model, "acks are durable and matched");
    finds(Mutant::StaleSyncCounted, model, "acks are durable and matched");
}

type Cluster = fn(u8, u8, Term, u8) -> Small;

#[test]
fn prompt_messages_lead_to_whatever_delayed_ones_lead_to() {
    compare(|cluster| cluster(3, 1, 2, 1), 0);
    compare(|cluster| cluster(3, 2, 2, 0), 0);
    compare(|cluster| cluster(3, 3, 2, 0), 0);
    compare(|cluster| cluster(3, 2, 1, 0).with_crashes(1), 0);
    if is_exhaustive() {
        compare(|cluster| cluster(3, 2, 2, 0).with_damages(1), 0);
        compare(|cluster| cluster(3, 2, 2, 0).with_wipes(1), 1);
        compare(|cluster| cluster(3, 2, 2, 1), 0);
        compare(|cluster| cluster(3, 3, 2, 1), 0);
        compare(|cluster| cluster(3, 2, 3, 0), 0);
        compare(|cluster| cluster(3, 2, 2, 0).with_crashes(1), 0);
    }
}

/// With messages that are delayed and with messages that arrive at once the same becomes of nodes, except that a follower
/// hears of a commit before it has synced only if something was delayed; and that where a disk is replaced one message has
/// to be `late`.
fn compare(bound: fn(Cluster) -> Small, late: u8) {
    let (delayed, at_once) = (facts_of(bound(small)), facts_of(bound(prompt).with_delays(late)));
    let is_ahead = |fact: &Fact| matches!(fact, Fact::Holds { durable, commit, .. } if commit > durable);
    let missed: Vec<_> = delayed.difference(&at_once).filter(|fact| !is_ahead(fact)).collect();
    let invented: Vec<_> = at_once.difference(&delayed).collect();
    println!("{} facts, {} with delayed messages", at_once.len(), delayed.len());
    assert!(missed.is_empty(), "{missed:?}");
    assert!(late > 0 || invented.is_empty(), "{invented:?}"); // What is late is overtaken on its own link, too.
}

fn facts_of(model: Small) -> BTreeSet<Fact> {
    facts::take();
    let found = explore(Small { notes: true, ..model }, 1, Duration::from_secs(3600));
    assert!(found.broken.is_empty() && found.is_whole);
    facts::take()
}

#[test]
fn known_bugs_of_admission_and_repair_break_a_rule() {
    let model = prompt(3, 2, 2, 0);
    finds(Mutant::LearnerCounted, model.with_wipes(1), "committed is on n disks");
    finds(Mutant::WipedNodeVotes, model.with_wipes(1), "committed is on n disks");
    finds(Mutant::DamagedLogForgotten, model.with_damages(1), "leaders hold what is committed");
    if is_exhaustive() {
        finds(Mutant::AckWithoutTerm, model.with_crashes(1).with_delays(1), "committed is on n disks");
        let two = prompt(3, 2, 3, 0).with_damages(2);
        finds(Mutant::CorruptCountedAsAbsent, two, "leaders hold what is committed");
    }
}

/// One model by numbers, to find out how far it goes.
///
/// `QUORATE_MODEL=m,n,terms,entries,crashes,reads,delays,wipes,damages,minutes`; with `QUORATE_PROMPT=1` messages arrive
/// at once.
#[test]
fn one_space_by_hand() {
    let Ok(text) = std::env::var("QUORATE_MODEL") else { return };
    let numbers: Vec<u8> = text.split(',').map(|number| number.parse().expect("a number")).collect();
    let &[m, n, terms, entries, crashes, reads, delays, wipes, damages, minutes] = &numbers[..] else {
        panic!("m,n,terms,entries,crashes,reads,delays,wipes,damages,minutes")
    };
    let cluster: Cluster = if std::env::var("QUORATE_PROMPT").is_ok() { prompt } else { small };
    let model = cluster(m, n, terms.into(), entries).with_crashes(crashes).with_reads(reads);
    let model = model.with_delays(delays).with_wipes(wipes).with_damages(damages);
    explore(model, 1, Duration::from_secs(60 * u64::from(minutes)));
}
