//! Files of the log that vanish: all of it, or the newest segments, at any time of a node's life, with its checkpoints.
//!
//! What is left looks like a log that never went further. A node that opens it must miss what is gone, or have lost
//! nothing that counts: the oracle is that of the [`crash points`](super::crash_points).

use std::path::{Path, PathBuf};

use crate::disk::simulated::{Images, Kept, Replay, SimDisk};

use super::crash_points::{Recording, recordings};
use super::history::Expectation;
use super::is_exhaustive;
use super::node::{DATA, recover};

/// What was tried.
#[derive(Default)]
struct Tally {
    losses: u64,
    missed: u64,
    /// With a checkpoint beyond what was left.
    behind_checkpoint: u64,
}

fn files(images: &Images, directory: &str) -> Vec<PathBuf> {
    let directory = Path::new(DATA).join(directory);
    images.names().filter(|name| name.parent() == Some(&directory)).map(Path::to_owned).collect()
}

fn is_segment(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "log")
}

/// The newest segments, one, two and so on; everything; everything but the segments.
fn losses(images: &Images) -> Vec<Vec<PathBuf>> {
    let log = files(images, "log");
    let (segments, others): (Vec<_>, Vec<_>) = log.iter().cloned().partition(|path| is_segment(path));
    let mut losses: Vec<_> = (0..segments.len()).rev().map(|from| segments[from..].to_vec()).collect();
    losses.extend([log, others].into_iter().filter(|lost| !lost.is_empty()));
    losses
}

fn try_loss(
    recording: &Recording,
    images: &Images,
    lost: &[PathBuf],
    wanted: &Expectation,
    changes: usize,
    tally: &mut Tally,
) {
    let mut images = images.clone();
    lost.iter().for_each(|path| images.lose(path));
    tally.losses += 1;
    let what = || format!("after {changes} changes, without {lost:?}");
    match recover(&SimDisk::with(images.clone()), recording.shape) {
        Ok(found) => {
            recording.history.judge(wanted, &found).unwrap_or_else(|wrong| panic!("{}: {wrong}", what()));
        }
        Err(error) => {
            assert!(error.is_damage(), "{}: not called damage: {error}", what());
            tally.missed += 1;
            tally.behind_checkpoint += u64::from(!files(&images, "checkpoint").is_empty());
        }
    }
}

/// Has files vanish from what was there after each change to the disk.
pub(super) fn try_losses() {
    let stride = if is_exhaustive() { 1 } else { 29 };
    for recording in recordings() {
        let mut replay = Replay::new(Images::default(), &recording.changes);
        let mut marks = recording.history.marks.iter().peekable();
        let (mut wanted, mut tally) = (&Expectation::default(), Tally::default());
        for changes in 0..=recording.changes.len() {
            while let Some(mark) = marks.next_if(|mark| mark.changes <= changes) {
                wanted = &mark.expectation;
            }
            let images = replay.after(changes);
            if changes % stride != 0 {
                continue;
            }
            for images in [images.clone(), images.crashed(Kept::Nothing)] {
                for lost in losses(&images) {
                    try_loss(&recording, &images, &lost, wanted, changes, &mut tally);
                }
            }
        }
        let Tally { losses, missed, behind_checkpoint } = tally;
        println!(
            "{:?}: {losses} losses, {missed} missed, {behind_checkpoint} of them with a checkpoint",
            recording.shape
        );
        assert!(missed > losses / 2 && behind_checkpoint > 0);
    }
}

#[test]
fn a_log_or_its_end_that_vanishes_is_missed_or_held_nothing_that_counts() {
    try_losses();
}
