//! The log as a whole, on a real disk, and on one that fails.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use bytes::Bytes;
use proptest::prelude::*;
use quorate_protocol::entry::{self, Payload};
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::{Durability, Index, Term};

use super::format::{BATCH_HEADER_BYTES, BatchHeader, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::*;
use crate::directory::trace_disk::TraceDisk;
use crate::disk::RealDisk;
use crate::disk::simulated::{Call, Failure, Fault, Images, Kept, SimDisk};

const SETTINGS: LogSettings = LogSettings {
    segment_bytes: 64 << 10,
    durability: Durability::Fsync,
    may_lag_base: true,
    may_be_absent: true,
    salt_seed: None,
};

fn open_at(directory: &Path, base: Index) -> Result<(Log, Recovery), LogError> {
    Log::open(Arc::new(RealDisk), directory.to_owned(), SETTINGS, base)
}

fn open(directory: &Path) -> (Log, Recovery) {
    open_at(directory, 0).unwrap()
}

fn entry_of(term: Term, index: Index, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    let write = Write::One(Mutation::Set { key: b"key", value });
    entry::encode(term, index, &Payload::Write { session: None, write }, &mut out);
    out
}

/// Entries of about 300 bytes.
fn entries(term: Term, indexes: RangeInclusive<Index>) -> Vec<u8> {
    indexes.flat_map(|index| entry_of(term, index, &[index as u8 | 1; 256])).collect()
}

fn append(log: &mut Log, term: Term, indexes: RangeInclusive<Index>) {
    let bytes = entries(term, indexes.clone());
    log.append([&bytes], *indexes.start(), *indexes.end(), 0).unwrap();
}

/// Everything in the log, as (term, index).
fn contents(reader: &LogReader) -> Vec<(Term, Index)> {
    let mut found = Vec::new();
    let mut next = reader.first();
    while next <= reader.last() {
        for entry in entry::iterate(&reader.read(next, 10_000).unwrap()) {
            let entry = entry.unwrap();
            assert_eq!(entry.index, next);
            found.push((entry.term, entry.index));
            next += 1;
        }
    }
    found
}

fn indexes(term: Term, indexes: RangeInclusive<Index>) -> Vec<(Term, Index)> {
    indexes.map(|index| (term, index)).collect()
}

fn segment_files(directory: &Path) -> Vec<PathBuf> {
    let names = RealDisk.list(directory).unwrap();
    names.iter().filter(|name| name.ends_with(".log")).map(|name| directory.join(name)).collect()
}

/// Where each batch of a segment begins, and where the last one ends.
fn batches(bytes: &[u8]) -> (Vec<usize>, usize) {
    let mut found = Vec::new();
    let mut at = SEGMENT_HEADER_BYTES;
    while let Some((header, _)) = BatchHeader::decode(&bytes[at..]) {
        found.push(at);
        at += header.batch_bytes() as usize;
    }
    (found, at)
}

/// A log of one segment with batches of entries 1–3, 4–6 and 7–9 and no mark for the last.
fn three_batches(directory: &Path) -> (PathBuf, Vec<u8>, Vec<usize>, usize) {
    let (mut log, _) = open(directory);
    for first in [1, 4, 7] {
        append(&mut log, 1, first..=first + 2);
    }
    let file = segment_files(directory).remove(0);
    let bytes = fs::read(&file).unwrap();
    let (starts, end) = batches(&bytes);
    assert_eq!(starts.len(), 3);
    (file, bytes, starts, end)
}

#[test]
fn entries_survive_rolls_and_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    for first in (1..=1000).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    assert!(segment_files(directory.path()).len() > 3);
    assert_eq!(contents(&log.reader()), indexes(1, 1..=1000));
    drop(log);
    for _ in 0..3 {
        let (log, recovery) = open(directory.path());
        assert_eq!((recovery.first, recovery.last, recovery.torn), (1, 1000, None));
        assert_eq!(contents(&log.reader()), indexes(1, 1..=1000));
    }
}

#[test]
fn a_log_with_prepared_segments_is_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    log.prepare_ahead().unwrap();
    for first in (1..=1000).step_by(10) {
        assert!(log.preparer.as_ref().unwrap().settle());
        append(&mut log, 1, first..=first + 9);
    }
    assert!(log.preparer.as_ref().unwrap().settle());
    drop(log);
    assert!(directory.path().join(prepare::FILE_NAME).exists());
    let (log, _) = open(directory.path());
    assert!(!directory.path().join(prepare::FILE_NAME).exists());
    assert_eq!(contents(&log.reader()), indexes(1, 1..=1000));
}

#[test]
fn a_last_batch_cut_at_any_byte_is_torn() {
    let directory = tempfile::tempdir().unwrap();
    let (file, whole, starts, end) = three_batches(directory.path());
    for cut in starts[2]..end {
        let mut bytes = whole.clone();
        bytes[cut..end].fill(0);
        fs::write(&file, &bytes).unwrap();
        let (log, recovery) = open(directory.path());
        assert_eq!(recovery.last, 6, "cut at {cut}");
        assert_eq!(recovery.torn.is_some(), cut > starts[2], "cut at {cut}");
        assert_eq!(contents(&log.reader()), indexes(1, 1..=6));
        drop(log);
        assert_eq!(open(directory.path()).1.torn, None, "what was torn is gone");
    }
}

#[test]
fn a_torn_tail_is_reported_and_the_log_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let (file, mut bytes, starts, end) = three_batches(directory.path());
    bytes[starts[2] + 100..end].fill(0);
    fs::write(&file, &bytes).unwrap();
    let (mut log, recovery) = open(directory.path());
    let torn = recovery.torn.unwrap();
    assert_eq!((torn.file, torn.offset), (file, starts[2] as u64));
    assert!(torn.bytes <= 100);
    append(&mut log, 2, 7..=9);
    drop(log);
    let expected = [indexes(1, 1..=6), indexes(2, 7..=9)].concat();
    assert_eq!(contents(&open(directory.path()).0.reader()), expected);
}

#[test]
fn unwritten_sectors_anywhere_in_the_last_batch_are_torn() {
    let directory = tempfile::tempdir().unwrap();
    let (file, whole, starts, end) = three_batches(directory.path());
    for sector in (starts[2] / 512..=(end - 1) / 512).map(|number| number * 512) {
        let mut bytes = whole.clone();
        bytes[sector.max(starts[2])..(sector + 512).min(end)].fill(0);
        fs::write(&file, &bytes).unwrap();
        let (_, recovery) = open(directory.path());
        assert!(recovery.torn.is_some() && recovery.last == 6, "sector at {sector}");
    }
}

#[test]
fn damage_before_a_good_batch_is_refused_with_file_and_offset() {
    let directory = tempfile::tempdir().unwrap();
    let (file, whole, starts, _) = three_batches(directory.path());
    for damage in [starts[1]..starts[1] + 1, starts[1] + 80..starts[1] + 90, starts[1]..starts[2]] {
        let mut bytes = whole.clone();
        bytes[damage].fill(0);
        fs::write(&file, &bytes).unwrap();
        let Err(LogError::Damaged { file: named, offset, .. }) = open_at(directory.path(), 0) else {
            panic!("damage was not found")
        };
        assert_eq!((&named, offset), (&file, starts[1] as u64));
        assert_eq!(fs::read(&file).unwrap(), bytes, "nothing was changed");
    }
}

#[test]
fn no_flipped_bit_changes_or_shortens_the_log_silently() {
    let directory = tempfile::tempdir().unwrap();
    let (file, whole, _, end) = three_batches(directory.path());
    let batches = (SEGMENT_HEADER_BYTES * 8..end * 8).step_by(29);
    for bit in (0..64 * 8).step_by(5).chain(batches) {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        fs::write(&file, &bytes).unwrap();
        match open_at(directory.path(), 0) {
            Err(LogError::Damaged { .. }) => {}
            other => panic!("bit {bit}: {:?}", other.map(|(_, recovery)| recovery)),
        }
    }
}

#[test]
fn a_file_that_was_cut_short_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (file, whole, ..) = three_batches(directory.path());
    for length in (0..whole.len()).step_by(501) {
        fs::write(&file, &whole[..length]).unwrap();
        assert!(matches!(open_at(directory.path(), 0), Err(LogError::Damaged { .. })), "{length} bytes");
    }
}

#[test]
fn a_recovery_that_was_cut_short_is_done_again() {
    let directory = tempfile::tempdir().unwrap();
    let (file, mut bytes, starts, end) = three_batches(directory.path());
    bytes[end - 8..end].fill(0); // torn
    bytes[starts[2] + BATCH_HEADER_BYTES - 1] = 0; // the first step of the repair
    for cleared in starts[2]..end {
        bytes[cleared] = 0;
        fs::write(&file, &bytes).unwrap();
        assert_eq!(open(directory.path()).1.last, 6, "cleared up to {cleared}");
    }
}

#[test]
fn rubbish_behind_the_last_batch_is_cleared() {
    let directory = tempfile::tempdir().unwrap();
    let (file, mut bytes, _, end) = three_batches(directory.path());
    bytes[end + 600..end + 900].fill(7);
    fs::write(&file, &bytes).unwrap();
    let (log, recovery) = open(directory.path());
    assert_eq!((recovery.last, recovery.torn.unwrap().bytes), (9, 900));
    drop(log);
    assert!(fs::read(&file).unwrap()[end + 512..].iter().all(|byte| *byte == 0));
}

#[test]
fn values_that_hold_a_copy_of_the_log_are_not_taken_for_log() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    append(&mut log, 1, 1..=30);
    append(&mut log, 1, 31..=60);
    let file = segment_files(directory.path()).remove(0);
    let bytes = fs::read(&file).unwrap();
    let (starts, end) = batches(&bytes);
    let copy = entry_of(1, 61, &bytes[starts[0]..end]);
    log.append([&copy], 61, 61, 0).unwrap();
    drop(log);
    let (log, recovery) = open(directory.path());
    assert_eq!(recovery.last, 61);
    drop(log);
    // Even with the header of the batch around it unwritten, and the copy in full sight.
    let mut bytes = fs::read(&file).unwrap();
    let (starts, mark) = (batches(&bytes).0, batches(&bytes).1);
    bytes[starts[2]..starts[2] + BATCH_HEADER_BYTES].fill(0);
    bytes[starts[3]..mark].fill(0);
    fs::write(&file, &bytes).unwrap();
    let (_, recovery) = open(directory.path());
    assert_eq!(recovery.last, 60);
}

#[test]
fn a_truncated_log_goes_on_with_other_entries() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    append(&mut log, 1, 1..=10);
    append(&mut log, 1, 11..=20);
    log.truncate(14).unwrap();
    assert!(matches!(log.reader().read(15, 100), Err(ReadError::Beyond { last: 14 })));
    append(&mut log, 2, 15..=25);
    log.truncate(22).unwrap();
    let expected = [indexes(1, 1..=14), indexes(2, 15..=22)].concat();
    assert_eq!(contents(&log.reader()), expected);
    drop(log);
    let (log, recovery) = open(directory.path());
    assert_eq!((recovery.last, recovery.mark), (22, 22));
    assert_eq!(contents(&log.reader()), expected);
}

#[test]
fn a_truncation_removes_whole_segments() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    for first in (1..=1000).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    let before = segment_files(directory.path()).len();
    log.truncate(500).unwrap();
    assert!(segment_files(directory.path()).len() < before);
    append(&mut log, 2, 501..=502);
    let expected = [indexes(1, 1..=500), indexes(2, 501..=502)].concat();
    assert_eq!(contents(&log.reader()), expected);
    drop(log);
    assert_eq!(contents(&open(directory.path()).0.reader()), expected);
}

#[test]
fn committed_entries_are_never_truncated() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    log.append([entries(1, 1..=10)], 1, 10, 6).unwrap();
    for _ in 0..2 {
        let Err(LogError::Committed { after: 5, commit: 6 }) = log.truncate(5) else { panic!("R16") };
        drop(log);
        log = open(directory.path()).0;
        assert_eq!(log.last(), 10);
    }
    log.truncate(6).unwrap();
}

#[test]
fn dropped_entries_are_gone_and_stay_gone() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    for first in (1..=1000).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    let reader = log.reader();
    let old = segment_files(directory.path()).remove(0);
    let old_bytes = fs::read(&old).unwrap();
    let (bytes, droppable) = (reader.bytes(), reader.bytes_below(501));
    log.drop_before(501).unwrap();
    assert!(droppable > 0);
    assert_eq!(reader.bytes(), bytes - droppable);
    let first = reader.first();
    assert!((2..=501).contains(&first));
    assert!(matches!(reader.read(first - 1, 1), Err(ReadError::Gone { first: f }) if f == first));
    assert_eq!(contents(&reader), indexes(1, first..=1000));
    drop(log);
    fs::write(&old, old_bytes).unwrap(); // comes back after a crash
    let (log, recovery) = open_at(directory.path(), 500).unwrap();
    assert_eq!((recovery.first, recovery.segments_removed), (first, 1));
    assert!(!old.exists());
    drop(log);
    assert!(matches!(open_at(directory.path(), 0), Err(LogError::Damaged { .. })));
}

#[test]
fn a_missing_segment_in_the_middle_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    for first in (1..=1000).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    drop(log);
    fs::remove_file(&segment_files(directory.path())[1]).unwrap();
    let Err(LogError::Damaged { file, what, .. }) = open_at(directory.path(), 0) else { panic!("a gap") };
    assert_eq!(file, segment_files(directory.path())[0]);
    assert!(what.contains("follows"), "{what}");
}

#[test]
fn a_base_beyond_the_end_starts_the_log_again_behind_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    append(&mut log, 1, 1..=10);
    drop(log);
    let (mut log, recovery) = open_at(directory.path(), 50).unwrap();
    assert_eq!((recovery.first, recovery.last, recovery.committed), (51, 50, 50));
    append(&mut log, 2, 51..=60);
    drop(log);
    let (log, _) = open_at(directory.path(), 50).unwrap();
    assert_eq!(contents(&log.reader()), indexes(2, 51..=60));
}

#[test]
fn with_os_durability_what_a_killed_process_left_outlives_a_clean_stop_and_a_power_cut() {
    let settings = LogSettings { durability: Durability::Os, ..SETTINGS };
    let open = |images| {
        let disk = SimDisk::with(images);
        let (log, recovery) = Log::open(Arc::new(disk.clone()), "/log".into(), settings, 0).unwrap();
        (disk, log, recovery)
    };
    let (disk, mut log, _) = open(Images::default());
    for first in (1..=400).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    drop(log);
    let images = disk.images();
    assert!(!images.is_durable(), "the fault is possible");
    let (disk, mut log, recovery) = open(images); // Killed: all is in the cache, nothing on the disk.
    assert_eq!((recovery.last, recovery.mark), (400, 0));
    // These follow the mark of what was written again, and are in the cache alone, in several segments.
    for first in (401..=1000).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    drop(log); // Killed again.
    let (disk, log, recovery) = open(disk.images());
    assert_eq!((recovery.last, recovery.mark), (1000, 400));
    drop(log);
    let (disk, mut log, recovery) = open(disk.images().crashed(Kept::Nothing));
    assert_eq!((recovery.last, recovery.mark), (1000, 1000), "what was found was made durable");
    append(&mut log, 1, 1001..=1010);
    log.finish().unwrap();
    drop(log);
    let (_, log, recovery) = open(disk.images().crashed(Kept::Nothing));
    assert_eq!((recovery.last, recovery.mark), (1010, 1010));
    assert_eq!(contents(&log.reader()), indexes(1, 1..=1010));
}

#[test]
fn a_damaged_segment_below_the_checkpoints_stays_with_those_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    for first in (1..=2000).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    drop(log);
    let segments = segment_files(directory.path());
    let mut bytes = fs::read(&segments[2]).unwrap();
    bytes[SEGMENT_HEADER_BYTES + 100] ^= 1;
    fs::write(&segments[2], bytes).unwrap();
    for _ in 0..2 {
        let (log, recovery) = open_at(directory.path(), 1900).unwrap();
        assert_eq!((recovery.last, recovery.segments_removed), (2000, 0));
        assert_eq!(contents(&log.reader()), indexes(1, recovery.first..=2000));
        assert_eq!(segment_files(directory.path())[..segments.len()], segments);
    }
}

#[test]
fn another_format_is_refused_by_file_and_version() {
    let directory = tempfile::tempdir().unwrap();
    let (file, mut bytes, ..) = three_batches(directory.path());
    fs::remove_file(directory.path().join("newest")).unwrap(); // Version 2 had none.
    for other in [2_u16, 4] {
        bytes[8..10].copy_from_slice(&other.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..64].copy_from_slice(&checksum.to_le_bytes());
        fs::write(&file, &bytes).unwrap();
        let Err(error) = open_existing(directory.path()) else { panic!("another format was read") };
        let LogError::Version { file: named, version } = &error else { panic!("{error}") };
        assert_eq!((named, *version), (&file, other), "{error}");
    }
}

/// Opens a log that must be there.
fn open_existing(directory: &Path) -> Result<(Log, Recovery), LogError> {
    let settings = LogSettings { may_be_absent: false, ..SETTINGS };
    Log::open(Arc::new(RealDisk), directory.to_owned(), settings, 0)
}

fn assert_missing(directory: &Path, file: &Path) {
    let Err(error) = open_existing(directory) else { panic!("{} is not missed", file.display()) };
    assert!(matches!(&error, LogError::Missing { file: named, .. } if named == file), "{error}");
}

fn with_rolls(directory: &Path) -> Log {
    let (mut log, _) = open(directory);
    for first in (1..=1000).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    log
}

#[test]
fn newest_segments_that_are_missing_are_missed() {
    let directory = tempfile::tempdir().unwrap();
    drop(with_rolls(directory.path()));
    let segments = segment_files(directory.path());
    assert!(segments.len() > 2);
    for segment in segments.iter().rev() {
        fs::remove_file(segment).unwrap();
        assert_missing(directory.path(), segments.last().unwrap());
    }
}

#[test]
fn the_newest_segment_is_missed_after_a_truncation_across_segments_too() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = with_rolls(directory.path());
    log.truncate(500).unwrap();
    drop(log);
    assert_eq!(open_existing(directory.path()).unwrap().0.last(), 500);
    let newest = segment_files(directory.path()).pop().unwrap();
    fs::remove_file(&newest).unwrap();
    assert_missing(directory.path(), &newest);
}

#[test]
fn the_only_segment_of_a_log_that_began_anew_is_missed() {
    let directory = tempfile::tempdir().unwrap();
    let mut log = with_rolls(directory.path());
    log.restart(2000).unwrap();
    append(&mut log, 2, 2001..=2001);
    drop(log);
    let newest = segment_files(directory.path()).pop().unwrap();
    fs::remove_file(&newest).unwrap();
    assert_missing(directory.path(), &newest);
}

#[test]
fn a_log_without_its_note_is_refused_and_without_any_file_too() {
    let directory = tempfile::tempdir().unwrap();
    drop(with_rolls(directory.path()));
    let note = directory.path().join("newest");
    fs::remove_file(&note).unwrap();
    assert_missing(directory.path(), &note);
    segment_files(directory.path()).iter().for_each(|segment| fs::remove_file(segment).unwrap());
    assert_missing(directory.path(), directory.path());
    assert_eq!(open(directory.path()).0.last(), 0, "unless there may be none");
}

#[test]
fn a_damaged_note_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    drop(with_rolls(directory.path()));
    let note = directory.path().join("newest");
    let whole = fs::read(&note).unwrap();
    let flipped = (0..whole.len() * 8).map(|bit| {
        let mut bytes = whole.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    });
    let cut = (0..whole.len()).map(|length| whole[..length].to_vec());
    for bytes in flipped.chain(cut) {
        fs::write(&note, bytes).unwrap();
        let Err(error) = open_existing(directory.path()) else { panic!("a damaged note was read") };
        assert!(matches!(&error, LogError::Damaged { file, .. } if *file == note), "{error}");
    }
    fs::write(&note, whole).unwrap();
    assert_eq!(open_existing(directory.path()).unwrap().0.last(), 1000);
}

#[test]
fn the_note_is_drawn_as_it_is() {
    let directory = tempfile::tempdir().unwrap();
    newest::store(&RealDisk, directory.path(), 300).unwrap();
    let bytes = fs::read(directory.path().join("newest")).unwrap();
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(hex, "5152544c4f474e5703000000020000005c4523d2ac02");
    assert_eq!(newest::load(&RealDisk, directory.path()).unwrap(), Some(300));
}

/// Nothing is written for it but when a segment is taken into use.
#[test]
fn the_note_is_written_once_a_segment() {
    let disk = SimDisk::default();
    let (mut log, _) = Log::open(Arc::new(disk.clone()), "/log".into(), SETTINGS, 0).unwrap();
    let notes = || disk.images().contents(Path::new("/log/newest")).unwrap().to_vec();
    let mut seen = vec![notes()];
    let renames = disk.calls(Call::Rename);
    for first in (1..=1000).step_by(10) {
        append(&mut log, 1, first..=first + 9);
        seen.push(notes());
    }
    seen.dedup();
    let rolls = disk.images().names().filter(|name| name.extension().is_some_and(|e| e == "log")).count() - 1;
    assert_eq!(seen.len() - 1, rolls);
    assert_eq!(disk.calls(Call::Rename) - renames, 2 * rolls as u64, "the segment and the note");
}

#[test]
fn what_no_mark_covers_is_written_again_and_marked() {
    let directory = tempfile::tempdir().unwrap();
    let (_, _, starts, end) = three_batches(directory.path());
    let (log, recovery) = open(directory.path());
    assert_eq!((recovery.last, recovery.mark), (9, 6));
    assert_eq!(recovery.rewritten_bytes, (end - starts[2]) as u64);
    assert_eq!(log.durable(), 9);
    drop(log);
    let (_, recovery) = open(directory.path());
    assert_eq!(recovery.mark, 9);
}

#[test]
fn with_os_durability_marks_state_real_syncs_only() {
    let directory = tempfile::tempdir().unwrap();
    let settings = LogSettings { durability: Durability::Os, ..SETTINGS };
    let reopen = || Log::open(Arc::new(RealDisk), directory.path().to_owned(), settings, 0).unwrap();
    let (mut log, _) = reopen();
    for first in (1..=400).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    assert_eq!(log.durable(), 0); // R30
    drop(log);
    let (log, recovery) = reopen();
    assert_eq!((recovery.mark, recovery.last, log.durable()), (0, 400, 400));
    assert!(recovery.rewritten_bytes > 100_000, "every segment was written again");
}

#[test]
fn a_log_that_is_finished_is_synced_in_all_its_segments_and_marked() {
    let directory = tempfile::tempdir().unwrap();
    let disk = TraceDisk::default();
    let settings = LogSettings { durability: Durability::Os, ..SETTINGS };
    let reopen = || Log::open(Arc::new(disk.clone()), directory.path().to_owned(), settings, 0).unwrap();
    let (mut log, _) = reopen();
    let write = |log: &mut Log, from: Index| {
        (from..from + 400).step_by(10).for_each(|first| append(log, 1, first..=first + 9));
        disk.take_operations();
        segment_files(directory.path()).len()
    };
    // Each segment has kept the name under which it was created.
    let finished = |segments| {
        let mut expected = vec!["sync roll.tmp"; segments];
        expected.extend(["write roll.tmp", "sync roll.tmp"]);
        expected
    };
    let first = write(&mut log, 1);
    assert!(first > 1, "there are several segments");
    log.finish().unwrap();
    assert_eq!(disk.take_operations(), finished(first), "R30: every segment, and then the mark");
    log.finish().unwrap();
    assert_eq!(disk.take_operations(), Vec::<String>::new(), "nothing is left to do");
    let second = write(&mut log, 401);
    log.finish().unwrap();
    let durable = log.shared.lock().below(401);
    assert!(durable >= first - 1);
    assert_eq!(disk.take_operations(), finished(second - durable), "what is durable is not synced again");
    drop(log);
    let (_, recovery) = reopen();
    assert_eq!((recovery.last, recovery.mark), (800, 800));
    assert_eq!(recovery.rewritten_bytes, 512, "the mark itself");
}

#[test]
fn a_log_whose_last_sync_fails_is_not_marked() {
    let directory = tempfile::tempdir().unwrap();
    let disk = TraceDisk::default();
    let settings = LogSettings { durability: Durability::Os, ..SETTINGS };
    let reopen = || Log::open(Arc::new(disk.clone()), directory.path().to_owned(), settings, 0).unwrap();
    let (mut log, _) = reopen();
    append(&mut log, 1, 1..=10);
    disk.fail("sync roll.tmp", io::ErrorKind::Other);
    assert!(matches!(log.finish(), Err(LogError::Io { operation: "sync", .. })));
    assert!(matches!(log.finish(), Err(LogError::Stopped)), "it is not tried again");
    drop(log);
    disk.fail("", io::ErrorKind::Other);
    assert_eq!(reopen().1.mark, 0);
}

#[test]
fn a_damaged_entry_is_not_served() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    append(&mut log, 1, 1..=10);
    let file = segment_files(directory.path()).remove(0);
    let mut bytes = fs::read(&file).unwrap();
    bytes[SEGMENT_HEADER_BYTES + 1000] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let reader = log.reader();
    assert!(matches!(reader.read(1, 1 << 20), Err(ReadError::Damaged { .. })));
    assert_eq!(reader.read(1, 1).unwrap(), entries(1, 1..=1));
}

#[test]
fn a_reader_in_another_thread_sees_a_growing_prefix() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    let reader = log.reader();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = 0;
            while !done.load(Ordering::Acquire) || seen < reader.last() {
                let last = reader.last();
                while seen < last {
                    let bytes = reader.read(seen + 1, 5000).unwrap();
                    for entry in entry::iterate(&bytes) {
                        seen += 1;
                        assert_eq!(entry.unwrap().index, seen);
                    }
                }
            }
            seen
        });
        for first in (1..=2000).step_by(20) {
            append(&mut log, 1, first..=first + 19);
        }
        done.store(true, Ordering::Release);
        assert_eq!(watcher.join().unwrap(), 2000);
    });
}

#[test]
fn a_batch_larger_than_a_segment_has_one_to_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (mut log, _) = open(directory.path());
    append(&mut log, 1, 1..=10);
    append(&mut log, 1, 11..=1000);
    append(&mut log, 1, 1001..=1010);
    assert_eq!(segment_files(directory.path()).len(), 3);
    drop(log);
    assert_eq!(contents(&open(directory.path()).0.reader()), indexes(1, 1..=1010));
}

#[derive(Clone, Debug)]
enum Step {
    Append(u64),
    Truncate(u64),
    Drop(u64),
    Mark,
    Reopen,
    Tear(usize),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (1..60u64).prop_map(Step::Append),
        2 => (0..80u64).prop_map(Step::Truncate),
        1 => (0..100u64).prop_map(Step::Drop),
        1 => Just(Step::Mark),
        1 => Just(Step::Reopen),
        1 => (0..40_000usize).prop_map(Step::Tear),
    ];
    prop::collection::vec(step, 1..60)
}

/// Undoes the end of the newest segment's last batch if that holds entries, as a crash may, and says which.
fn tear(directory: &Path, cut: usize, base: Index) -> Option<Index> {
    let file = segment_files(directory).pop()?;
    let mut bytes = fs::read(&file).unwrap();
    let (starts, end) = batches(&bytes);
    let start = *starts.last()?;
    let (header, _) = BatchHeader::decode(&bytes[start..])?;
    // What a checkpoint holds was durable, so no crash undoes it.
    if header.count == 0 || header.index <= base {
        return None;
    }
    bytes[(start + cut % (end - start))..].fill(0);
    fs::write(&file, bytes).unwrap();
    Some(header.index)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    #[test]
    fn the_log_is_a_vector_whatever_happens(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let mut log = open(directory.path()).0;
        let mut model: Vec<(Term, Index)> = Vec::new();
        let mut base = 0;
        for (term, step) in (1..).zip(steps) {
            let last = model.len() as u64;
            match step {
                Step::Append(count) => {
                    append(&mut log, term, last + 1..=last + count);
                    model.extend(indexes(term, last + 1..=last + count));
                }
                Step::Truncate(back) => {
                    let after = last.saturating_sub(back).max(base);
                    log.truncate(after).unwrap();
                    model.truncate(after as usize);
                }
                Step::Drop(back) => {
                    base = last.saturating_sub(back).max(base);
                    log.drop_before(base + 1).unwrap();
                }
                Step::Mark => log.mark(0).unwrap(),
                Step::Reopen => {
                    drop(log);
                    log = open_at(directory.path(), base).unwrap().0;
                }
                Step::Tear(cut) => {
                    drop(log);
                    if let Some(first) = tear(directory.path(), cut, base)
                    {
                        model.truncate(first as usize - 1);
                    }
                    log = open_at(directory.path(), base).unwrap().0;
                }
            }
            let reader = log.reader();
            prop_assert_eq!(log.last(), model.len() as u64);
            prop_assert!(reader.first() <= base + 1);
            prop_assert_eq!(contents(&reader), &model[reader.first() as usize - 1..]);
        }
    }
}

/// After this long something that must happen has not happened.
const DEADLINE: Duration = Duration::from_secs(30);

const FAILED_SYNC: Fault = Fault { call: Call::Sync, number: 1, failure: Failure::Broken, for_ever: true };

#[test]
fn nothing_is_written_after_a_failed_sync() {
    let disk = SimDisk::default();
    let (mut log, _) = Log::open(Arc::new(disk.clone()), "/log".into(), SETTINGS, 0).unwrap();
    append(&mut log, 1, 1..=3);
    disk.fail(Some(FAILED_SYNC));
    assert!(matches!(log.append([entries(1, 4..=4)], 4, 4, 0), Err(LogError::Io { operation: "sync", .. })));
    disk.fail(None);
    assert!(matches!(log.append([entries(1, 4..=4)], 4, 4, 0), Err(LogError::Stopped)));
    assert!(matches!(log.truncate(1), Err(LogError::Stopped)));
    assert!(matches!(log.mark(0), Err(LogError::Stopped)));
    assert_eq!(disk.calls(Call::Write), 0);
    assert_eq!(log.reader().last(), 3);
}

fn append_command(generation: u64, indexes: RangeInclusive<Index>) -> LogCommand {
    let (first, last) = (*indexes.start(), *indexes.end());
    LogCommand::Append { generation, first, last, commit: 0, entries: entries(1, indexes).into() }
}

/// Starts a log thread whose first event blocks it until the sender is used, so that what is submitted
/// meanwhile is queued.
fn held_thread(directory: &Path) -> (LogThread, mpsc::Receiver<LogEvent>, mpsc::Sender<()>) {
    let (log, _) = open(directory);
    let (events, received) = mpsc::channel();
    let (go_on, held) = mpsc::channel::<()>();
    let first = AtomicBool::new(true);
    let thread = LogThread::start(log, LogThreadSettings::default(), move |event| {
        events.send(event).unwrap();
        if first.swap(false, Ordering::Relaxed) {
            held.recv().unwrap();
        }
    });
    (thread.unwrap(), received, go_on)
}

#[test]
fn appends_queued_during_a_sync_become_one_batch() {
    let directory = tempfile::tempdir().unwrap();
    let (mut thread, events, go_on) = held_thread(directory.path());
    thread.submit(append_command(1, 1..=1));
    assert!(matches!(events.recv().unwrap(), LogEvent::Durable { index: 1, .. }));
    for index in 2..=50 {
        thread.submit(append_command(1, index..=index));
    }
    thread.submit(append_command(2, 51..=51));
    thread.submit(LogCommand::Truncate { generation: 3, after: 40 });
    thread.submit(append_command(3, 41..=42));
    thread.submit(LogCommand::DropBefore(1));
    go_on.send(()).unwrap();
    let counters = Arc::clone(thread.counters());
    thread.stop(DEADLINE);
    let events: Vec<LogEvent> = events.iter().collect();
    let [
        LogEvent::Dropped { first: 1 },
        LogEvent::Durable { generation: 1, index: 50, entries: 49, .. },
        LogEvent::Durable { generation: 2, index: 51, entries: 1, .. },
        LogEvent::Truncated { generation: 3, after: 40 },
        LogEvent::Durable { generation: 3, index: 42, entries: 2, .. },
    ] = events.as_slice()
    else {
        panic!("{events:?}")
    };
    assert_eq!((counters.syncs(), counters.entries()), (4, 53));
    assert_eq!(open(directory.path()).1.mark, 42, "the mark was written at the end");
}

#[test]
fn a_mark_follows_when_the_thread_rests() {
    let directory = tempfile::tempdir().unwrap();
    let (log, _) = open(directory.path());
    let (events, received) = mpsc::channel();
    let settings = LogThreadSettings { mark_after: Duration::from_millis(1), ..LogThreadSettings::default() };
    let mut thread = LogThread::start(log, settings, move |event| events.send(event).unwrap()).unwrap();
    thread.submit(append_command(1, 1..=1));
    received.recv().unwrap();
    let file = segment_files(directory.path()).remove(0);
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while batches(&fs::read(&file).unwrap()).0.len() < 2 {
        assert!(std::time::Instant::now() < deadline, "no mark came");
        std::thread::yield_now();
    }
    thread.stop(DEADLINE);
}

#[test]
fn a_failure_is_reported_once_and_stops_the_thread() {
    let disk = SimDisk::default();
    let (log, _) = Log::open(Arc::new(disk.clone()), "/log".into(), SETTINGS, 0).unwrap();
    let (events, received) = mpsc::channel();
    let report = move |event| events.send(event).unwrap();
    let mut thread = LogThread::start(log, LogThreadSettings::default(), report).unwrap();
    disk.fail(Some(FAILED_SYNC));
    thread.submit(append_command(1, 1..=1));
    assert!(matches!(received.recv().unwrap(), LogEvent::Failed(LogError::Io { .. })));
    disk.fail(None);
    thread.submit(append_command(1, 1..=1));
    thread.stop(DEADLINE);
    assert!(received.recv().is_err(), "no event follows");
}

#[test]
fn a_thread_without_room_goes_on_when_there_is_some_and_drops_old_segments_meanwhile() {
    let disk = SimDisk::default();
    let (mut log, _) = Log::open(Arc::new(disk.clone()), "/log".into(), SETTINGS, 0).unwrap();
    for first in (1..=600).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    log.mark(0).unwrap();
    let reader = log.reader();
    let first = reader.first();
    disk.fail(Some(Fault { call: Call::Write, number: 1, failure: Failure::Full, for_ever: true }));
    let (events, received) = mpsc::channel();
    let report = move |event| events.send(event).unwrap();
    let mut thread = LogThread::start(log, LogThreadSettings::default(), report).unwrap();
    thread.submit(append_command(1, 601..=601));
    assert!(matches!(received.recv().unwrap(), LogEvent::Blocked(LogError::NoRoom { .. })));
    thread.submit(append_command(1, 602..=602));
    thread.submit(LogCommand::DropBefore(500));
    assert!(matches!(received.recv().unwrap(), LogEvent::Dropped { .. }));
    assert!(reader.first() > first);
    disk.fail(None);
    assert!(matches!(received.recv().unwrap(), LogEvent::Resumed));
    assert!(matches!(received.recv().unwrap(), LogEvent::Durable { index: 601, .. }));
    assert!(matches!(received.recv().unwrap(), LogEvent::Durable { index: 602, .. }));
    thread.stop(DEADLINE);
    let (log, _) = Log::open(Arc::new(SimDisk::with(disk.images())), "/log".into(), SETTINGS, 499).unwrap();
    assert_eq!(log.last(), 602);
}

#[test]
fn what_is_still_to_be_cut_is_not_dropped_before() {
    let disk = SimDisk::default();
    let (mut log, _) = Log::open(Arc::new(disk), "/log".into(), SETTINGS, 0).unwrap();
    for first in (1..=600).step_by(10) {
        append(&mut log, 1, first..=first + 9);
    }
    let reader = log.reader();
    let mut worker = LogWorker::new(log, 1 << 20);
    let now = Instant::now();
    worker.push(now, LogCommand::Truncate { generation: 1, after: 400 });
    worker.push(now, append_command(1, 401..=600));
    worker.push(now, LogCommand::DropBefore(590));
    assert!(matches!(worker.step(Instant::now).unwrap(), Some(LogEvent::Dropped { first: 2..=401 })));
    assert!(matches!(worker.step(Instant::now).unwrap(), Some(LogEvent::Truncated { after: 400, .. })));
    while worker.step(Instant::now).unwrap().is_some() {}
    assert_eq!((reader.last(), contents(&reader).len() as Index), (600, 601 - reader.first()));
}

#[test]
fn headers_are_drawn_as_they_are() {
    let directory = tempfile::tempdir().unwrap();
    let (_, bytes, starts, _) = three_batches(directory.path());
    let header = SegmentHeader::decode(&bytes).unwrap();
    assert_eq!((header.first, header.size, header.chain), (1, 64 << 10, 0));
    assert_eq!(bytes[starts[1] + 16..starts[1] + 20], bytes[starts[0]..starts[0] + 4], "the chain");
    assert_eq!(bytes[starts[0] + 8..starts[0] + 16], bytes[32..40], "the salt");
    assert_eq!(bytes[starts[1] + 40..starts[1] + 48], 3u64.to_le_bytes(), "the mark");
    let payload = &bytes[starts[0] + BATCH_HEADER_BYTES..];
    assert!(payload.starts_with(&Bytes::from(entries(1, 1..=3))), "the payload is the entries");
}
