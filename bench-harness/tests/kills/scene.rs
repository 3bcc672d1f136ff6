//! Where a kill has hit, as far as the victim's files and its log say.

use std::fmt;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

const SEGMENT_HEADER_BYTES: usize = 4096;
const BATCH_HEADER_BYTES: usize = 64;
const SECTOR_BYTES: usize = 512;
const SEGMENT_MAGIC: &[u8] = b"QRTLOGSG";
const BATCH_MAGIC: &[u8] = b"BtQ\xA5";
const KIND_TRUNCATION: u32 = 3;

/// What a node prints when it takes back entries.
pub(crate) const TRUNCATION: &str = "removing entries that were never committed";

/// What a node prints when it has opened its directory.
const RECOVERED: &str = " recovered ";

/// How often each was seen.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Tally {
    pub(crate) kills: u64,
    pub(crate) leader: u64,
    pub(crate) follower: u64,
    /// Times that every node was killed, and none was left that remembered anything.
    pub(crate) all: u64,
    /// A checkpoint was being written.
    pub(crate) checkpoint: u64,
    /// The next segment's zeros were being written.
    pub(crate) preparation: u64,
    /// A segment had its header and not yet its name, or its name and no batch.
    pub(crate) roll: u64,
    /// The last batch in the log was a truncation.
    pub(crate) truncation: u64,
    /// The node had not finished its recovery from the kill before.
    pub(crate) recovery: u64,
    /// Starts that found a write cut in the middle.
    pub(crate) torn: u64,
    /// Starts that wrote again what no mark said to be durable.
    pub(crate) rewritten: u64,
    /// Truncations, whether or not a kill came then.
    pub(crate) truncations: u64,
}

impl std::ops::AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.kills += other.kills;
        self.leader += other.leader;
        self.follower += other.follower;
        self.all += other.all;
        self.checkpoint += other.checkpoint;
        self.preparation += other.preparation;
        self.roll += other.roll;
        self.truncation += other.truncation;
        self.recovery += other.recovery;
        self.torn += other.torn;
        self.rewritten += other.rewritten;
        self.truncations += other.truncations;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} kills: {} of a leader alone, {} of a follower alone, {} times all nodes together; inside a \
             checkpoint {}, the preparation of a segment {}, a roll {}, a truncation {}, a recovery {}; starts that \
             found a torn write {}, that wrote again {}; truncations {}",
            self.kills,
            self.leader,
            self.follower,
            self.all,
            self.checkpoint,
            self.preparation,
            self.roll,
            self.truncation,
            self.recovery,
            self.torn,
            self.rewritten,
            self.truncations,
        )
    }
}

impl Tally {
    /// Kinds of hit that there were none of. Torn writes are left out: what of a write a kill leaves is up to the
    /// kernel.
    pub(crate) fn missing(&self) -> Vec<&'static str> {
        let kinds = [
            ("a leader", self.leader),
            ("a follower", self.follower),
            ("all nodes", self.all),
            ("a checkpoint", self.checkpoint),
            ("the preparation of a segment", self.preparation),
            ("a roll", self.roll),
            ("a truncation", self.truncation),
            ("a recovery", self.recovery),
            ("a start that wrote again", self.rewritten),
        ];
        kinds.into_iter().filter(|(_, count)| *count == 0).map(|(kind, _)| kind).collect()
    }

    /// Counts what a kill has hit, by what the node had printed since its start, and by what it left in its data
    /// directory with segments of so many bytes.
    pub(crate) fn look_at(&mut self, said: &str, directory: &Path, segment_bytes: u64) {
        self.read(said);
        if !said.contains(RECOVERED) {
            // What lies there may be from the kill before.
            self.recovery += 1;
            return;
        }
        self.checkpoint += u64::from(in_checkpoint(directory));
        self.roll += u64::from(in_roll(directory));
        self.preparation += u64::from(in_preparation(directory, segment_bytes));
        self.truncation += u64::from(ends_with_truncation(directory));
    }

    /// Counts what a node says that it found and did.
    pub(crate) fn read(&mut self, said: &str) {
        self.truncations += said.matches(TRUNCATION).count() as u64;
        self.torn += said.matches("cut a write that a crash had torn").count() as u64;
        let wrote_again = |line: &&str| line.contains(RECOVERED) && !line.contains(" rewritten_bytes=0 ");
        self.rewritten += said.lines().filter(wrote_again).count() as u64;
    }
}

/// Whether a checkpoint is being written.
pub(crate) fn in_checkpoint(directory: &Path) -> bool {
    names(&directory.join("checkpoint")).iter().any(|name| name.ends_with(".tmp"))
}

/// Whether a new segment is being taken into use: it has its header and not its name, or no batch.
pub(crate) fn in_roll(directory: &Path) -> bool {
    let log = directory.join("log");
    let prepared = File::open(log.join("next.tmp")).is_ok_and(|mut file| {
        let mut magic = [0; SEGMENT_MAGIC.len()];
        file.read_exact(&mut magic).is_ok() && magic == SEGMENT_MAGIC
    });
    // A log's first segment has no batch before its first entry.
    let is_first = names(&log).iter().filter(|name| name.ends_with(".log")).count() == 1;
    prepared || log.join("roll.tmp").exists() || (!is_first && last_kind(&log).is_some_and(|kind| kind == 0))
}

fn in_preparation(directory: &Path, segment_bytes: u64) -> bool {
    fs::metadata(directory.join("log/next.tmp")).is_ok_and(|file| file.len() < segment_bytes)
}

fn ends_with_truncation(directory: &Path) -> bool {
    last_kind(&directory.join("log")) == Some(KIND_TRUNCATION)
}

/// The kind of the last batch in the newest segment, as far as headers tell; 0 if it has none.
fn last_kind(log: &Path) -> Option<u32> {
    let newest = names(log).into_iter().filter(|name| name.ends_with(".log")).max()?;
    let bytes = fs::read(log.join(newest)).ok()?;
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().unwrap()));
    let (mut at, mut kind) = (SEGMENT_HEADER_BYTES, 0);
    while bytes.get(at + 60..at + BATCH_HEADER_BYTES) == Some(BATCH_MAGIC) {
        kind = word(at + 56)?;
        let end = at + BATCH_HEADER_BYTES + word(at + 20)? as usize;
        at = (end / SECTOR_BYTES + 1) * SECTOR_BYTES;
    }
    Some(kind)
}

fn names(directory: &Path) -> Vec<String> {
    let Ok(files) = fs::read_dir(directory) else { return Vec::new() };
    files.filter_map(|file| file.ok()?.file_name().into_string().ok()).collect()
}

/// What a node prints, read on from start to start.
#[derive(Debug)]
pub(crate) struct Output {
    file: PathBuf,
    read: usize,
}

impl Output {
    pub(crate) fn new(file: PathBuf) -> Self {
        Self { file, read: 0 }
    }

    /// What it has printed since the last [`take`](Self::take).
    pub(crate) fn peek(&self) -> String {
        let mut said = Vec::new();
        let read = File::open(&self.file).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.read as u64))?;
            file.read_to_end(&mut said)
        });
        read.map(|_| String::from_utf8_lossy(&said).into_owned()).unwrap_or_default()
    }

    /// The same, which is not shown again.
    pub(crate) fn take(&mut self) -> String {
        let said = self.peek();
        self.read += said.len();
        said
    }
}
