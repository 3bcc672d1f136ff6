//! Known bugs of storage, each put in, and found. Those of a cluster, and most of these too, are found in `cluster`.
//!
//! | mutant | found by |
//! |---|---|
//! | 1–7, 19 | crash points |
//! | 4, a matching log that goes, and segments that go while they are noted | crashes of an install |
//! | segments that go while they are noted | crash points |
//! | 14 | bit rot |
//! | a missing log that is begun anew, and segments that are not noted | files that vanish |
//! | 22, 23 | the script around a running node |

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Instant;

use crate::mutant::{Mutant, with};

use super::bit_rot::flip_bits_of_a_log;
use super::crash_points::{Effort, FOLLOWER, record, recordings, try_crashes};
use super::installs::try_installs;
use super::node::Shape;
use super::vanished::try_losses;

const LEADER: Shape = Shape { id: 1, m: 3, n: 2 };

/// Runs a test with a bug in it, which must make it fail, and says how soon.
fn assert_found(mutant: Mutant, test: impl Fn()) {
    test(); // Without the bug it passes.
    let began = Instant::now();
    let failed = catch_unwind(AssertUnwindSafe(|| with(mutant, &test)));
    let Err(panic) = failed else { panic!("{mutant:?} is not found") };
    let text = panic.downcast_ref::<String>().cloned();
    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
    println!("{mutant:?}: found after {:.2} s: {}", began.elapsed().as_secs_f32(), text.unwrap_or_default());
}

fn crash_points() {
    for recording in recordings() {
        try_crashes(&recording, Effort::QUICK);
    }
}

#[test]
fn crash_points_find_an_acknowledgement_before_the_sync() {
    assert_found(Mutant::AckBeforeSync, crash_points);
}

#[test]
fn crash_points_find_a_segment_whose_name_is_not_synced() {
    assert_found(Mutant::SegmentNameNotSynced, crash_points);
}

#[test]
fn crash_points_find_a_checkpoint_whose_name_is_not_synced() {
    assert_found(Mutant::CheckpointNameNotSynced, crash_points);
}

#[test]
fn crash_points_find_log_that_goes_before_its_checkpoint_is_durable() {
    assert_found(Mutant::LogDroppedEarly, crash_points);
}

#[test]
fn crashes_of_an_install_find_log_that_goes_before_its_checkpoint_is_durable() {
    assert_found(Mutant::LogDroppedEarly, || try_installs(1..2));
}

#[test]
fn crashes_of_an_install_find_log_that_goes_although_the_checkpoint_leads_to_it() {
    assert_found(Mutant::MatchingLogRestarted, || try_installs(1..2));
}

#[test]
fn crashes_of_an_install_find_segments_that_go_while_they_are_noted() {
    assert_found(Mutant::NewestNotLowered, || try_installs(1..2));
}

#[test]
fn crash_points_find_segments_that_go_while_they_are_noted() {
    assert_found(Mutant::NewestNotLowered, crash_points);
}

#[test]
fn vanished_files_find_a_missing_log_that_is_begun_anew() {
    assert_found(Mutant::MissingLogBegunAnew, try_losses);
}

#[test]
fn vanished_files_find_segments_that_are_not_noted() {
    assert_found(Mutant::NewestNotNoted, try_losses);
}

#[test]
fn crash_points_find_an_entry_applied_twice() {
    assert_found(Mutant::ReplayFromCheckpoint, crash_points);
}

#[test]
fn crash_points_find_sessions_that_are_not_in_the_checkpoint() {
    assert_found(Mutant::SessionsNotInCheckpoint, crash_points);
}

#[test]
fn crash_points_find_a_promise_that_is_not_synced() {
    assert_found(Mutant::VoteNotSynced, crash_points);
}

#[test]
fn crash_points_find_a_tail_that_is_not_written_again() {
    assert_found(Mutant::TailNotWrittenAgain, crash_points);
}

#[test]
fn bit_rot_finds_damage_that_is_cut_as_a_torn_tail() {
    assert_found(Mutant::DamageCutAsTorn, flip_bits_of_a_log);
}

#[test]
fn a_leader_of_many_terms_finds_a_stale_sync_that_counts() {
    assert_found(Mutant::StaleSyncCounted, || drop(record(FOLLOWER, 1, 700)));
}

#[test]
fn followers_that_are_faster_find_a_commit_without_the_leaders_own_disk() {
    assert_found(Mutant::CommitWithoutOwnDisk, || drop(record(LEADER, 1, 300)));
}
