//! Power lost after every change to the disk (T3).
//!
//! A run is recorded: the directory is made, the cluster forms, entries come and are cut again, segments roll,
//! checkpoints are written, log is dropped, promises change. Then the disk is rebuilt as it was after each change,
//! and what was not durable is lost in every way: all, nothing, each combination of sectors and names (a sample of
//! them if there are many), and the change itself torn at every byte. What a node then finds is judged by the
//! [`history`](super::history): nothing durable is lost, nothing is invented, it is always a prefix.
//!
//! Recovery itself loses power, too, after each of its changes, and must come to the same when it is run again. And
//! what a recovery has found counts as durable: it must be there when power is lost right after it, also if the
//! process was only killed before, and the pages of what it wrote last had never been synced (R18).

use std::{fmt, thread};

use crate::disk::simulated::{Change, Images, Kept, Replay, SimDisk};

use super::history::{Expectation, History};
use super::node::{Found, Shape, SimNode, recover};
use super::script::Script;
use super::{Random, is_exhaustive};

/// All combinations are tried of so many, and as many at random of more.
const COMBINATIONS_MAX: u64 = 256;

const TORN: &str = "torn";

/// A run, as it was recorded.
pub(super) struct Recording {
    pub(super) shape: Shape,
    pub(super) changes: Vec<Change>,
    pub(super) history: History,
    script: Script,
    pub(super) rolls: usize,
}

/// Runs a node on a disk that records.
pub(super) fn record(shape: Shape, seed: u64, steps: u64) -> Recording {
    let disk = SimDisk::default();
    disk.record();
    let (mut node, _) = SimNode::open(&disk, shape, History::new()).unwrap();
    let mut script = Script::new(shape, seed);
    script.begin(&mut node).unwrap();
    for _ in 0..steps {
        script.step(&mut node).unwrap();
    }
    script.settle(&mut node).unwrap();
    let history = node.into_history();
    let changes = disk.take_recorded();
    let is_roll = |change: &&Change| matches!(change, Change::Name { path, .. } if path.extension().is_some_and(|extension| extension == "log"));
    let rolls = changes.iter().filter(is_roll).count() - 1;
    Recording { shape, changes, history, script, rolls }
}

/// How much is tried.
#[derive(Clone, Copy)]
pub(super) struct Effort {
    /// Every so many changes.
    pub(super) change_stride: usize,
    /// Combinations of each.
    pub(super) combinations: u64,
    /// Every so many bytes of a write.
    pub(super) torn_stride: usize,
    /// In every so many states recovery loses power, too.
    pub(super) recovery_stride: u64,
}

impl Effort {
    const SAMPLE: Self = Self { change_stride: 5, combinations: 4, torn_stride: 499, recovery_stride: 23 };
    /// Enough for a bug that shows in many places.
    pub(super) const QUICK: Self =
        Self { change_stride: 7, combinations: 1, torn_stride: 4999, recovery_stride: 997 };
    const EVERYTHING: Self =
        Self { change_stride: 1, combinations: COMBINATIONS_MAX, torn_stride: 1, recovery_stride: 97 };
}

/// What was tried.
#[derive(Clone, Copy, Default, Debug)]
pub(super) struct Tally {
    pub(super) states: u64,
    pub(super) recoveries_crashed: u64,
    pub(super) continued: u64,
}

impl Tally {
    fn and(self, other: Self) -> Self {
        Self {
            states: self.states + other.states,
            recoveries_crashed: self.recoveries_crashed + other.recoveries_crashed,
            continued: self.continued + other.continued,
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { states, recoveries_crashed, continued } = self;
        write!(
            f,
            "{states} crash states, {recoveries_crashed} crashes of recovery, {continued} runs continued: 0 lost, 0 \
             invented, always a prefix"
        )
    }
}

/// Everything that is done to one recording.
struct Trial<'a> {
    recording: &'a Recording,
    effort: Effort,
    tally: Tally,
    random: Random,
}

/// Tries crashes of a recording.
///
/// # Panics
///
/// If one loses or invents something.
pub(super) fn try_crashes(recording: &Recording, effort: Effort) -> Tally {
    try_share(recording, effort, 0, 1)
}

/// The same in as many threads as there are processors.
fn try_crashes_in_parallel(recording: &Recording, effort: Effort) -> Tally {
    let threads = thread::available_parallelism().map_or(1, usize::from);
    thread::scope(|scope| {
        let shares: Vec<_> = (0..threads)
            .map(|share| scope.spawn(move || try_share(recording, effort, share, threads)))
            .collect();
        shares.into_iter().map(|share| share.join().unwrap()).fold(Tally::default(), Tally::and)
    })
}

fn try_share(recording: &Recording, effort: Effort, share: usize, shares: usize) -> Tally {
    let mut trial = Trial { recording, effort, tally: Tally::default(), random: Random::new(3) };
    let mut replay = Replay::new(Images::default(), &recording.changes);
    let mut marks = recording.history.marks.iter().peekable();
    let mut expectation = &Expectation::default();
    for changes in 0..=recording.changes.len() {
        while let Some(mark) = marks.next_if(|mark| mark.changes <= changes) {
            expectation = &mark.expectation;
        }
        let images = replay.after(changes);
        if !changes.is_multiple_of(effort.change_stride) || changes / effort.change_stride % shares != share {
            continue;
        }
        trial.after_change(images, expectation, changes);
        if let Some(bytes) = replay.next_write_bytes() {
            let begin = trial.random.below(effort.torn_stride as u64) as usize;
            for torn in (begin..bytes).step_by(effort.torn_stride) {
                let torn = replay.torn(torn).expect("the next change is a write");
                trial.check(&torn.crashed(Kept::Everything), expectation, changes, TORN);
            }
        }
    }
    trial.tally
}

impl Trial<'_> {
    fn after_change(&mut self, images: &Images, expectation: &Expectation, changes: usize) {
        // A killed process leaves what it has written, synced or not.
        self.check(images, expectation, changes, "killed");
        self.check(&images.crashed(Kept::Nothing), expectation, changes, "nothing kept");
        self.check(&images.crashed(Kept::Everything), expectation, changes, "everything kept");
        match images.combinations() {
            Some(all @ 3..=COMBINATIONS_MAX) if all <= self.effort.combinations => {
                for number in 1..all - 1 {
                    let crashed = images.crashed(Kept::Combination(number));
                    self.check(&crashed, expectation, changes, "some kept");
                }
            }
            Some(0..=2) => {}
            _ => {
                for _ in 0..self.effort.combinations {
                    let crashed = images.crashed(Kept::Random(self.random.next()));
                    self.check(&crashed, expectation, changes, "some kept");
                }
            }
        }
    }

    fn check(&mut self, images: &Images, expectation: &Expectation, changes: usize, how: &str) {
        self.tally.states += 1;
        let wrong = |what: String| -> ! {
            panic!("after {changes} of {} changes, {how}: {what}", self.recording.changes.len())
        };
        let disk = SimDisk::with(images.clone());
        disk.record();
        let shape = self.recording.shape;
        let found = recover(&disk, shape).unwrap_or_else(|error| wrong(format!("refused: {error}")));
        if let Err(what) = self.recording.history.judge(expectation, &found) {
            wrong(what);
        }
        // Of those there are many, and they are alike.
        if how == TORN && !self.tally.states.is_multiple_of(16) {
            return;
        }
        // What was found may be acknowledged at once: it must outlive the next loss of power (R18).
        let again = recover(&SimDisk::with(disk.images().crashed(Kept::Nothing)), shape)
            .unwrap_or_else(|error| wrong(format!("refused when recovered again: {error}")));
        if !found.is_same(&again) {
            wrong(format!("{} entries were found, and then {}", found.log.len(), again.log.len()));
        }
        if self.tally.states.is_multiple_of(self.effort.recovery_stride) {
            self.crash_recovery(images, &disk.take_recorded(), expectation, &found, |what| wrong(what));
            self.go_on(images, expectation, &found, changes, how);
        }
    }

    /// Loses power, or the process, after each change of a recovery, and recovers again: to the same, except that
    /// what a killed process had not synced may be lost until a recovery is done.
    fn crash_recovery(
        &mut self,
        images: &Images,
        recovery: &[Change],
        expectation: &Expectation,
        found: &Found,
        wrong: impl Fn(String),
    ) {
        let mut replay = Replay::new(images.clone(), recovery);
        for done in 0..recovery.len() {
            let now = replay.after(done).clone();
            let kept = [Kept::Nothing, Kept::Everything, Kept::Random(self.random.next())];
            let torn = replay.next_write_bytes().and_then(|bytes| {
                let torn = replay.torn(self.random.below(bytes as u64) as usize)?;
                Some(torn.crashed(Kept::Everything))
            });
            let killed = Some(now.clone());
            for crashed in kept.map(|kept| now.crashed(kept)).into_iter().chain(torn).chain(killed) {
                self.tally.recoveries_crashed += 1;
                match recover(&SimDisk::with(crashed), self.recording.shape) {
                    Err(error) => wrong(format!("refused after {done} changes of recovery: {error}")),
                    Ok(again) if found.is_same(&again) => {}
                    Ok(_) if images.is_durable() => {
                        wrong(format!("{done} changes of recovery make another state"));
                    }
                    Ok(again) => {
                        if let Err(what) = self.recording.history.judge(expectation, &again) {
                            wrong(format!("after {done} changes of recovery: {what}"));
                        }
                    }
                }
            }
        }
    }

    /// Goes on as if nothing had happened, and then loses power.
    fn go_on(
        &mut self,
        images: &Images,
        expectation: &Expectation,
        found: &Found,
        changes: usize,
        how: &str,
    ) {
        self.tally.continued += 1;
        let shape = self.recording.shape;
        let mut script = self.recording.script.clone();
        let disk = SimDisk::with(images.clone());
        let history = self.recording.history.at(expectation).resume(found);
        let (mut node, _) = SimNode::open(&disk, shape, history).unwrap();
        script.resume(&mut node, found.applied);
        let going_on = script.begin(&mut node).and_then(|()| {
            (0..20).try_for_each(|_| script.step(&mut node))?;
            script.settle(&mut node)
        });
        if let Err(error) = going_on {
            panic!("after {changes} changes, {how}: it cannot go on: {error}");
        }
        let history = node.into_history();
        let crashed = SimDisk::with(disk.images().crashed(Kept::Nothing));
        let judged = recover(&crashed, shape)
            .map_err(|error| error.to_string())
            .and_then(|found| history.judge(history.expectation(), &found));
        if let Err(what) = judged {
            panic!("after {changes} changes, {how}, and going on: {what}");
        }
    }
}

pub(super) const FOLLOWER: Shape = Shape { id: 2, m: 3, n: 2 };
pub(super) const ALONE: Shape = Shape { id: 1, m: 1, n: 1 };

/// The runs that are tried: a follower whose leaders change, and a leader with clients.
pub(super) fn recordings() -> [Recording; 2] {
    [record(FOLLOWER, 1, 700), record(ALONE, 2, 500)]
}

#[test]
fn whatever_a_crash_keeps_a_node_finds_everything_durable_and_nothing_else() {
    let effort = if is_exhaustive() { Effort::EVERYTHING } else { Effort::SAMPLE };
    for recording in recordings() {
        let Recording { history, changes, rolls, .. } = &recording;
        println!(
            "{:?}: {} changes to the disk, {rolls} rolls, {} checkpoints, {} truncations, {} promises, {} entries \
             acknowledged",
            recording.shape,
            changes.len(),
            history.checkpoints.len(),
            history.truncations,
            history.promises,
            recording.script.acknowledged(),
        );
        assert!(*rolls >= 3 && history.checkpoints.len() >= 3);
        assert!(recording.shape.id == 1 || history.truncations >= 3 && history.promises >= 3);
        println!("{}", try_crashes_in_parallel(&recording, effort));
    }
}
