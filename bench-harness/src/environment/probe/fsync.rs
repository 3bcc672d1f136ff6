//! What a sync costs in the directory of the nodes' data.
//!
//! The disk may still be busy with what happened there before: a removed run's blocks are given back long
//! after its files are gone. So the probe goes in rounds, for some time at least, until the medians of two
//! rounds in a row agree, and counts these two alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::Times;

/// Syncs of one round.
const ROUND_SYNCS: usize = 200;

/// Longest time that a round takes; on a slow disk it makes fewer syncs, at least one.
const ROUND_TIME_MAX: Duration = Duration::from_millis(250);

/// Bytes that each sync finds written: a small batch of the log.
const BLOCK_BYTES: usize = 4096;

/// Shortest time that the probe takes, whatever the rounds say: two rounds that meet the same disturbance
/// agree as well.
const TIME_MIN: Duration = Duration::from_millis(400);

/// When the last round begins, settled or not.
const TIME_MAX: Duration = Duration::from_millis(1_750);

const _: () = assert!(TIME_MAX.as_millis() + ROUND_TIME_MAX.as_millis() <= 2_000, "two seconds are promised");

/// How far apart medians that agree may be, in percent of the lower one.
const AGREE_PERCENT: u64 = 15;

/// Times of writing 4 KiB onto blocks that were written before, and syncing them (fdatasync).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct FsyncProbe {
    /// How many count.
    pub syncs: usize,
    /// 10th percentile, in microseconds: what it takes when nobody disturbs it.
    pub p10_us: u64,
    /// Median, in microseconds.
    pub p50_us: u64,
    /// 90th percentile, in microseconds.
    pub p90_us: u64,
    /// 99th percentile, in microseconds.
    pub p99_us: u64,
    /// Longest, in microseconds.
    pub max_us: u64,
    /// Whether the median changed by at most 15 % from one round of syncs to the next, so that the disk has
    /// come to rest, or meets the same disturbance all the time. If it did not, the figures are of the last
    /// round within two seconds, and hold for little else. A median far above the 10th percentile tells of a
    /// disturbance in either case: of a busy disk, or of busy processors, for which each sync waits.
    pub settled: bool,
}

impl FsyncProbe {
    /// Measures in a file of its own, which is removed. Takes from half a second to two, and a sync longer
    /// on a disk that hangs. Fails if nothing can be written there.
    pub(in crate::environment) fn measure(directory: &Path) -> anyhow::Result<Self> {
        let advice =
            || format!("nothing can be written to {}: choose another --data-dir", directory.display());
        let file = tempfile::tempfile_in(directory).with_context(advice)?;
        let (times, settled) = sync_times(&file).with_context(advice)?;
        Ok(Self {
            syncs: times.count(),
            p10_us: times.us_at(10),
            p50_us: times.us_at(50),
            p90_us: times.us_at(90),
            p99_us: times.us_at(99),
            max_us: times.us_at(100),
            settled,
        })
    }
}

fn sync_times(file: &File) -> io::Result<(Times, bool)> {
    file.write_all_at(&vec![0; ROUND_SYNCS * BLOCK_BYTES], 0)?;
    file.sync_all()?;
    let begin = Instant::now();
    settle(|| round(file), || begin.elapsed())
}

/// Repeats rounds until two in a row agree or the time is over. Gives the times of these two and true, or
/// of the last one and false.
fn settle(
    mut round: impl FnMut() -> io::Result<Times>,
    mut elapsed: impl FnMut() -> Duration,
) -> io::Result<(Times, bool)> {
    let mut before = round()?;
    loop {
        let now = round()?;
        let elapsed = elapsed();
        if elapsed >= TIME_MIN && agree(before.us_at(50), now.us_at(50)) {
            return Ok((before.joined(now), true));
        }
        if elapsed >= TIME_MAX {
            return Ok((now, false));
        }
        before = now;
    }
}

fn agree(one_us: u64, other_us: u64) -> bool {
    one_us.abs_diff(other_us) * 100 <= one_us.min(other_us) * AGREE_PERCENT
}

fn round(file: &File) -> io::Result<Times> {
    let begin = Instant::now();
    let mut times = Vec::with_capacity(ROUND_SYNCS);
    for block in 0..ROUND_SYNCS {
        let start = Instant::now();
        file.write_all_at(&[0xA5; BLOCK_BYTES], (block * BLOCK_BYTES) as u64)?;
        file.sync_data()?;
        times.push(start.elapsed());
        if begin.elapsed() > ROUND_TIME_MAX {
            break;
        }
    }
    Ok(Times::new(times))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Settles rounds of one sync each, with the time at each round's end, in milliseconds.
    fn settled(rounds: &[(u64, u64)]) -> (Vec<u64>, bool) {
        let mut syncs = rounds.iter().map(|(sync_us, _)| *sync_us);
        let mut clock = rounds.iter().map(|(_, end_ms)| *end_ms).skip(1);
        let (times, settled) = settle(
            || Ok(Times::new(vec![Duration::from_micros(syncs.next().unwrap())])),
            || Duration::from_millis(clock.next().unwrap()),
        )
        .unwrap();
        assert_eq!(syncs.next(), None, "more rounds were expected");
        (times.0.iter().map(|time| time.as_micros() as u64).collect(), settled)
    }

    #[test]
    fn the_first_two_rounds_that_agree_are_what_counts() {
        assert_eq!(settled(&[(100, 200), (110, 500)]), (vec![100, 110], true));
        assert_eq!(
            settled(&[(900, 200), (400, 500), (120, 600), (130, 700)]),
            (vec![120, 130], true),
            "a disturbance that fades is left out"
        );
    }

    #[test]
    fn an_agreement_comes_too_early_to_count() {
        assert_eq!(settled(&[(900, 100), (900, 200), (120, 500), (120, 600)]), (vec![120, 120], true));
    }

    #[test]
    fn a_disk_that_does_not_rest_is_reported_as_such() {
        assert_eq!(settled(&[(900, 600), (100, 1_200), (700, 1_800)]), (vec![700], false));
    }

    #[test]
    fn medians_agree_within_fifteen_percent() {
        assert!(agree(100, 115) && agree(115, 100) && agree(0, 0));
        assert!(!agree(100, 116) && !agree(0, 1));
    }

    #[test]
    fn the_probe_measures_and_leaves_nothing_behind() {
        let directory = tempfile::tempdir().unwrap();
        let probe = FsyncProbe::measure(directory.path()).unwrap();
        assert!(probe.syncs > 0, "{probe:?}");
        let figures = [probe.p10_us, probe.p50_us, probe.p90_us, probe.p99_us, probe.max_us];
        assert!(figures.is_sorted(), "{probe:?}");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
    }
}
