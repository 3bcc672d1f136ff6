//! Every bit flipped, blocks lost, swapped and doubled, files cut at every byte (T5).
//!
//! What has rotted is found and named, or makes no difference: nobody is served anything else than what was
//! written, and nothing below a mark that was synced is missing without a word. Only behind the last mark may a lost
//! sector pass for a write that a crash cut short; it is reported then.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_protocol::entry::{self, Payload};
use quorate_protocol::request::{Mutation, Write};
use quorate_protocol::{Durability, Index};

use crate::disk::simulated::{Images, SimDisk};
use crate::log::{Log, LogError, LogReader, LogSettings, newest};

use super::crash_points::ALONE;
use super::history::History;
use super::node::{DATA, Found, SimNode, recover};
use super::script::Script;
use super::{Random, is_exhaustive};

const LOG: &str = "/log";
const LOG_BYTES: u64 = 64 << 10;

fn open_log(images: Images) -> Result<(Log, crate::log::Recovery, SimDisk), LogError> {
    let disk = SimDisk::with(images);
    let settings = LogSettings {
        segment_bytes: LOG_BYTES,
        durability: Durability::Fsync,
        may_lag_base: true,
        may_be_absent: true,
        salt_seed: Some(1),
    };
    let (log, recovery) = Log::open(Arc::new(disk.clone()), LOG.into(), settings, 0)?;
    Ok((log, recovery, disk))
}

/// A log of one segment, nearly full, whose last batch no mark covers.
struct OneSegment {
    images: Images,
    path: PathBuf,
    bytes: Vec<u8>,
    /// All entries, one after the other.
    entries: Vec<u8>,
    mark: Index,
}

impl OneSegment {
    fn new() -> Self {
        let (mut log, _, disk) = open_log(Images::default()).unwrap();
        let mut entries = Vec::new();
        let mut random = Random::new(5);
        let mut last = 0;
        // A header of 4096 bytes, and room for one more batch: there must be no second segment.
        let mut used = 4096;
        while used + 8192 < LOG_BYTES {
            let mut batch = Vec::new();
            let first = last + 1;
            for _ in 0..=random.below(3) {
                last += 1;
                let value: Vec<u8> = (0..random.below(1500)).map(|_| random.next() as u8).collect();
                let write = Write::One(Mutation::Set { key: b"key", value: &value });
                entry::encode(1, last, &Payload::Write { session: None, write }, &mut batch);
            }
            entries.extend_from_slice(&batch);
            used += (batch.len() as u64 + 65).next_multiple_of(512);
            log.append([batch], first, last, first - 1).unwrap();
        }
        drop(log);
        let images = disk.images();
        let path = Path::new(LOG).join("00000000000000000001.log");
        let bytes = images.contents(&path).unwrap().to_vec();
        let mark = open_log(images.clone()).unwrap().1.mark;
        assert!(mark < last && bytes.len() as u64 == LOG_BYTES && images.names().count() == 2);
        Self { images, path, bytes, entries, mark }
    }

    fn with(&self, bytes: Vec<u8>) -> Images {
        let mut images = self.images.clone();
        images.replace(&self.path, bytes);
        images
    }

    /// Opens what has become of the log. Returns whether something was found to be damaged.
    fn judge(&self, bytes: Vec<u8>, what: &dyn Fn() -> String) -> bool {
        match open_log(self.with(bytes)) {
            Err(LogError::Damaged { file, .. }) => assert_eq!(file, self.path),
            Err(error) => panic!("{}: not called damage: {error}", what()),
            Ok((log, recovery, _)) => {
                let found = everything(&log.reader());
                assert!(self.entries.starts_with(&found), "{}: wrong entries", what());
                let last = log.last();
                assert!(last >= self.mark, "{}: ends at {last}, below the mark", what());
                let is_whole = found.len() == self.entries.len();
                assert!(is_whole || recovery.torn.is_some(), "{}: shorter without a word", what());
                return false;
            }
        }
        true
    }
}

/// All entries of a log that can be read.
fn everything(reader: &LogReader) -> Vec<u8> {
    let mut found = Vec::new();
    let mut next = reader.first();
    while next <= reader.last() {
        let entries = reader.read(next, 1 << 20).unwrap();
        next += entry::iterate(&entries).count() as Index;
        found.extend_from_slice(&entries);
    }
    found
}

fn flipped(bytes: &[u8], bit: usize) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[bit / 8] ^= 1 << (bit % 8);
    bytes
}

/// All of `0..end`, or some of it that are not all alike modulo anything.
fn tried(end: usize, sample: usize) -> impl Iterator<Item = usize> {
    let stride = if is_exhaustive() { 1 } else { (end / sample).max(1) | 1 };
    (0..end).step_by(stride)
}

pub(super) fn flip_bits_of_a_log() {
    let log = OneSegment::new();
    let (mut count, mut damaged) = (0, 0);
    for bit in tried(log.bytes.len() * 8, 4000) {
        let is_found = log.judge(flipped(&log.bytes, bit), &|| format!("bit {bit}"));
        (count, damaged) = (count + 1, damaged + u64::from(is_found));
    }
    println!("{count} bits of a log flipped: {damaged} found to be damage, the others make no difference");
    assert!(damaged > count / 2, "the log is nearly full");
}

#[test]
fn no_flipped_bit_of_a_log_changes_or_shortens_it() {
    flip_bits_of_a_log();
}

#[test]
fn lost_swapped_and_doubled_blocks_of_a_log_are_found_or_make_no_difference() {
    let log = OneSegment::new();
    let mut count = 0;
    for size in [512, 4096] {
        let blocks = log.bytes.len() / size;
        let block = |number: usize| &log.bytes[number * size..(number + 1) * size];
        let mut random = Random::new(size as u64);
        for number in 0..blocks {
            let other = random.below(blocks as u64) as usize;
            let with = |changes: &[(usize, &[u8])]| {
                let mut bytes = log.bytes.clone();
                for (number, contents) in changes {
                    bytes[number * size..(number + 1) * size].copy_from_slice(contents);
                }
                bytes
            };
            let what = || format!("block {number} of {size} bytes, and {other}");
            log.judge(with(&[(number, &vec![0; size])]), &what);
            log.judge(with(&[(number, block(other)), (other, block(number))]), &what);
            log.judge(with(&[(number, block(other))]), &what);
            count += 3;
        }
    }
    println!("{count} blocks of a log lost, swapped or doubled");
}

#[test]
fn a_log_that_is_cut_at_any_byte_is_found() {
    let log = OneSegment::new();
    let mut count = 0;
    for length in tried(log.bytes.len(), 1000) {
        let is_found = log.judge(log.bytes[..length].to_vec(), &|| format!("cut to {length}"));
        assert!(is_found, "cut to {length}: not found");
        count += 1;
    }
    println!("a log cut at {count} bytes: all found");
}

#[test]
fn what_rots_in_an_open_log_is_not_served() {
    let log = OneSegment::new();
    let (opened, _, disk) = open_log(log.images.clone()).unwrap();
    let reader = opened.reader();
    let mut damaged = 0;
    for bit in tried(log.bytes.len() * 8, 2000) {
        disk.replace(&log.path, flipped(&log.bytes, bit));
        let mut next = reader.first();
        let mut at = 0;
        while next <= reader.last() {
            let Ok(entries) = reader.read(next, 8 << 10) else {
                damaged += 1;
                break;
            };
            assert_eq!(entries, log.entries[at..at + entries.len()], "bit {bit}");
            at += entries.len();
            next += entry::iterate(&entries).count() as Index;
        }
    }
    assert!(damaged > 0);
}

/// A whole directory, with everything in it marked as durable.
struct Directory {
    images: Images,
    found: Found,
}

impl Directory {
    fn new() -> Self {
        let disk = SimDisk::default();
        let (mut node, _) = SimNode::open(&disk, ALONE, History::new()).unwrap();
        let mut script = Script::new(ALONE, 9);
        script.begin(&mut node).unwrap();
        for _ in 0..160 {
            script.step(&mut node).unwrap();
        }
        script.settle(&mut node).unwrap();
        node.rest();
        drop(node);
        let found = recover(&disk, ALONE).unwrap();
        let images = disk.images();
        let new = Self { images, found };
        assert!(new.files("checkpoint").len() == 2 && new.segments().len() >= 2);
        new
    }

    fn files(&self, directory: &str) -> Vec<PathBuf> {
        let directory = Path::new(DATA).join(directory);
        self.images.names().filter(|name| name.parent() == Some(&directory)).map(Path::to_owned).collect()
    }

    fn segments(&self) -> Vec<PathBuf> {
        let mut files = self.files("log");
        files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
        files
    }

    fn bytes(&self, path: &Path) -> Vec<u8> {
        self.images.contents(path).unwrap().to_vec()
    }

    /// Opens the directory with other bytes in a file. Returns whether damage was found; otherwise everything is
    /// as it was.
    fn judge(&self, path: &Path, bytes: Vec<u8>, what: &dyn Fn() -> String) -> bool {
        let mut images = self.images.clone();
        images.replace(path, bytes);
        match recover(&SimDisk::with(images), ALONE) {
            Err(error) => assert!(error.is_damage(), "{}: not called damage: {error}", what()),
            Ok(found) => {
                assert!(found.is_same(&self.found), "{}: another state", what());
                return false;
            }
        }
        true
    }
}

#[test]
fn a_checkpoint_with_any_flipped_bit_or_cut_at_any_byte_is_gone_back_behind() {
    let directory = Directory::new();
    let newest = directory.files("checkpoint").pop().unwrap();
    let bytes = directory.bytes(&newest);
    let mut count = 0;
    for bit in tried(bytes.len() * 8, 500) {
        let what = || format!("bit {bit} of the checkpoint");
        assert!(!directory.judge(&newest, flipped(&bytes, bit), &what), "{}: not opened", what());
        count += 1;
    }
    for length in tried(bytes.len(), 200) {
        let what = || format!("the checkpoint cut to {length}");
        assert!(!directory.judge(&newest, bytes[..length].to_vec(), &what), "{}: not opened", what());
        count += 1;
    }
    println!(
        "{count} damages of a checkpoint of {} bytes: the one before it and the log are used",
        bytes.len()
    );
}

#[test]
fn a_vote_with_any_flipped_bit_or_cut_at_any_byte_is_the_same_promise_and_without_both_copies_there_is_none()
{
    let directory = Directory::new();
    let votes = ["vote-a", "vote-b"].map(|name| Path::new(DATA).join(name));
    let mut count = 0;
    for (vote, other) in [(&votes[0], &votes[1]), (&votes[1], &votes[0])] {
        let bytes = directory.bytes(vote);
        for bit in tried(bytes.len() * 8, 400) {
            let what = || format!("bit {bit} of {}", vote.display());
            assert!(!directory.judge(vote, flipped(&bytes, bit), &what), "{}: not opened", what());
            let mut both = Directory { images: directory.images.clone(), found: directory.found.clone() };
            both.images.replace(other, flipped(&bytes, (bit * 7) % (bytes.len() * 8)));
            assert!(both.judge(vote, flipped(&bytes, bit), &what), "{}: opened without a vote", what());
            count += 2;
        }
        for length in 0..bytes.len() {
            let what = || format!("{} cut to {length}", vote.display());
            assert!(!directory.judge(vote, bytes[..length].to_vec(), &what), "{}: not opened", what());
            count += 1;
        }
    }
    println!("{count} damages of the vote");
}

#[test]
fn an_identity_with_any_flipped_bit_or_cut_at_any_byte_is_refused() {
    let directory = Directory::new();
    let path = Path::new(DATA).join("identity");
    let bytes = directory.bytes(&path);
    for bit in tried(bytes.len() * 8, 400) {
        assert!(directory.judge(&path, flipped(&bytes, bit), &|| format!("bit {bit}")), "bit {bit}");
    }
    for length in 0..bytes.len() {
        let what = || format!("cut to {length}");
        assert!(directory.judge(&path, bytes[..length].to_vec(), &what), "{}", what());
    }
}

#[test]
fn blocks_of_any_file_lost_or_swapped_are_found_or_make_no_difference() {
    let directory = Directory::new();
    let mut count = 0;
    for path in ["log", "checkpoint"].iter().flat_map(|name| directory.files(name)) {
        let bytes = directory.bytes(&path);
        let blocks = bytes.len() / 512;
        for number in tried(blocks, 25) {
            let other = (number * 31 + 17) % blocks;
            let what = || format!("block {number} of {}, and {other}", path.display());
            let mut lost = bytes.clone();
            lost[number * 512..(number + 1) * 512].fill(0);
            directory.judge(&path, lost, &what);
            let mut doubled = bytes.clone();
            doubled.copy_within(other * 512..(other + 1) * 512, number * 512);
            directory.judge(&path, doubled, &what);
            count += 2;
        }
    }
    println!("{count} blocks of a directory's files lost or overwritten by others");
}

/// A checkpoint tells of entries that the log must have had: a leader's own disk was among those that held them.
#[test]
fn a_leader_whose_log_ends_before_its_checkpoint_is_refused() {
    let directory = Directory::new();
    let index = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap()[..20].parse::<Index>().unwrap();
    let checkpoint = index(directory.files("checkpoint").last().unwrap());
    let segments = directory.segments();
    let holding = segments.partition_point(|segment| index(segment) <= checkpoint) - 1;
    // As if the segments behind had never been.
    let never = SimDisk::default();
    newest::store(&never, Path::new(DATA), 0).unwrap();
    let note = never.images().contents(&Path::new(DATA).join("newest")).unwrap().to_vec();
    for from in [holding, 0] {
        let mut images = directory.images.clone();
        segments[from..].iter().for_each(|segment| images.lose(segment));
        images.replace(&Path::new(DATA).join("log/newest"), note.clone());
        let error = recover(&SimDisk::with(images), ALONE).unwrap_err();
        assert!(error.is_damage() && error.to_string().contains("a checkpoint of what it held"), "{error}");
    }
}

/// Without its promises a node might lead in a term that has been (R5).
#[test]
fn a_vote_that_is_older_than_the_log_is_refused() {
    let directory = Directory::new();
    let empty = SimDisk::default();
    drop(SimNode::open(&empty, ALONE, History::new()).unwrap());
    let promised_nothing = empty.images();
    let mut images = directory.images.clone();
    for vote in ["vote-a", "vote-b"].map(|name| Path::new(DATA).join(name)) {
        images.replace(&vote, promised_nothing.contents(&vote).unwrap().to_vec());
    }
    let error = recover(&SimDisk::with(images), ALONE).unwrap_err();
    assert!(error.is_damage() && error.to_string().contains("the vote is an older one"), "{error}");
}

#[test]
fn a_missing_segment_or_one_that_is_there_twice_is_refused() {
    let directory = Directory::new();
    let segments = directory.segments();
    for segment in &segments[1..] {
        let mut images = directory.images.clone();
        images.lose(segment);
        let error = recover(&SimDisk::with(images), ALONE).unwrap_err();
        assert!(error.is_damage(), "{error}");
    }
    let (first, second) = (&segments[segments.len() - 2], &segments[segments.len() - 1]);
    let is_found = directory.judge(second, directory.bytes(first), &|| "a segment twice".to_owned());
    assert!(is_found);
}
