//! What the node has promised: its term, and whom it voted for in it (R5, R6, R18).
//!
//! Two files of one sector each, `vote-a` and `vote-b`, rewritten in place, so that a full disk never keeps
//! a node from promising:
//!
//! ```text
//!   0     8   magic          "QRMVOTE\n"
//!   8     4   version        u32 LE
//!  12     8   sequence       u64 LE   counts the promises stored; the higher is the newer
//!  20     8   incarnation    u64 LE   of the directory
//!  28     8   term           u64 LE
//!  36     1   voted for      u8       a node's id, 0 for none
//!  37     8   led            u64 LE   the last term that the node has noted to lead, 0 for none
//!  45   463   zeros
//! 508     4   CRC-32C        u32 LE   of bytes 0 to 507
//! ```
//!
//! Magic, version and the place of the checksum are the same in every version.
//!
//! # Invariants
//!
//! - `vote-a` is written and synced, then `vote-b`, and only then does a promise count. So a copy that is torn
//!   never leaves less than the last promise that counted, and one that rots leaves the same promise in the
//!   other.
//! - At every moment at least one copy is whole and durable, also while the copies are written again after
//!   a restart: the copy that might not be durable goes first.
//! - The term never goes back, and a vote is not changed within its term.
//! - After a failed write or sync nothing more is promised: what the disk holds is not known.
//!
//! The two files are created when the node has an identity but has not formed a cluster. After that, files
//! that are missing are lost, not new.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::{fmt, io};

use quorate_protocol::{Incarnation, NodeId, Term};

use crate::disk::{Disk, DiskFile};
use crate::mutant::{Mutant, is_on};
use crate::replica::Promise;

use super::error::{DirectoryError, failed};
use super::{Identity, VOTES};

const MAGIC: [u8; 8] = *b"QRMVOTE\n";
const VERSION: u32 = 1;
const FILE_BYTES: usize = 512;
const CHECKSUM_AT: usize = FILE_BYTES - 4;

/// A copy of the vote that could not be used; the other one could, and has been written over it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DamagedCopy {
    /// The file.
    pub path: PathBuf,
    /// What was wrong with it.
    pub why: &'static str,
}

impl fmt::Display for DamagedCopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.why)
    }
}

/// The two copies of the vote.
pub struct VoteFile {
    copies: [(PathBuf, Arc<dyn DiskFile>); 2],
    incarnation: Incarnation,
    sequence: u64,
    promise: Promise,
    led: Term,
    failed: bool,
}

impl VoteFile {
    /// Loads the vote and makes it durable again (R18); creates it if the cluster has not formed yet. The
    /// damaged copy, if there is one, is for the operator to know: a crash may have torn it, or the disk rots.
    pub fn open(
        disk: &dyn Disk,
        directory: &Path,
        identity: &Identity,
    ) -> Result<(Self, Option<DamagedCopy>), DirectoryError> {
        let paths = VOTES.map(|name| directory.join(name));
        let copies = Copies::read(disk, &paths, identity)?;
        let [first, second] = copies.checked;
        let damaged = [&first, &second]
            .into_iter()
            .zip(&paths)
            .find_map(|(copy, path)| copy.err().map(|why| DamagedCopy { path: path.clone(), why }));
        let (stored, damaged) = match newer(first, second) {
            Some(stored) => (stored, damaged),
            None if copies.are_unfinished(identity) => (Stored::FIRST, None),
            None => return Err(vote_lost(&paths, first, second)),
        };
        let [first_path, second_path] = paths;
        let copies = [open_or_create(disk, first_path)?, open_or_create(disk, second_path)?];
        disk.sync_directory(directory).map_err(failed("sync", directory))?;
        let Stored { sequence, promise, led } = stored;
        let incarnation = identity.incarnation;
        let mut vote = Self { copies, incarnation, sequence, promise, led, failed: false };
        vote.write(write_order(first, second))?;
        Ok((vote, damaged))
    }

    /// The promise that counts.
    pub fn promise(&self) -> Promise {
        self.promise
    }

    /// The last term that the node has noted to lead; 0 for none.
    pub fn led(&self) -> Term {
        self.led
    }

    /// Makes a promise durable: when this returns, messages and counts may depend on it. An error ends the
    /// node's part in elections: every later call fails too.
    ///
    /// # Panics
    ///
    /// If the term goes back, or the vote changes within its term.
    pub fn store(&mut self, promise: Promise) -> Result<(), DirectoryError> {
        assert!(promise.may_follow(&self.promise), "{promise:?} after {:?}", self.promise);
        self.promise = promise;
        self.write_next()
    }

    /// Notes durably that the node leads the promised term. Fails as [`store`](Self::store) does.
    pub fn store_led(&mut self) -> Result<(), DirectoryError> {
        self.led = self.promise.term;
        self.write_next()
    }

    fn write_next(&mut self) -> Result<(), DirectoryError> {
        if self.failed {
            let error = io::Error::other("an earlier write or sync failed");
            return Err(failed("write", &self.copies[0].0)(error));
        }
        self.sequence += 1;
        self.write([0, 1])
    }

    /// Writes and syncs both copies, one after the other.
    fn write(&mut self, order: [usize; 2]) -> Result<(), DirectoryError> {
        // Until both are done it is not known what the disk holds.
        self.failed = true;
        let Self { sequence, promise, led, .. } = *self;
        let bytes = Stored { sequence, promise, led }.encode(self.incarnation);
        for (path, file) in order.map(|copy| &self.copies[copy]) {
            file.write_all_at(&bytes, 0).map_err(failed("write", path))?;
            if !is_on(Mutant::VoteNotSynced) {
                file.sync_data().map_err(failed("sync", path))?;
            }
        }
        self.failed = false;
        Ok(())
    }
}

impl fmt::Debug for VoteFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VoteFile").field("promise", &self.promise).field("failed", &self.failed).finish()
    }
}

/// What a copy says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stored {
    /// The higher is the newer.
    pub(crate) sequence: u64,
    /// What was promised.
    pub(crate) promise: Promise,
    /// The last term that the node has noted to lead.
    pub(crate) led: Term,
}

impl Stored {
    /// What the files are created with.
    const FIRST: Self = Self { sequence: 1, promise: Promise { term: 0, voted_for: None }, led: 0 };

    fn encode(&self, incarnation: Incarnation) -> [u8; FILE_BYTES] {
        let mut bytes = [0; FILE_BYTES];
        bytes[..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..20].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[20..28].copy_from_slice(&incarnation.0.to_le_bytes());
        bytes[28..36].copy_from_slice(&self.promise.term.to_le_bytes());
        bytes[36] = self.promise.voted_for.map_or(0, NodeId::get);
        bytes[37..45].copy_from_slice(&self.led.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// What a copy says, or what is wrong with it.
pub(crate) type Checked = Result<Stored, &'static str>;

/// Both copies as they are on the disk.
struct Copies {
    contents: [Option<Vec<u8>>; 2],
    checked: [Checked; 2],
}

impl Copies {
    fn read(disk: &dyn Disk, paths: &[PathBuf; 2], identity: &Identity) -> Result<Self, DirectoryError> {
        let contents = [read(disk, &paths[0])?, read(disk, &paths[1])?];
        let checked = [
            check(&paths[0], contents[0].as_deref(), identity.incarnation)?,
            check(&paths[1], contents[1].as_deref(), identity.incarnation)?,
        ];
        Ok(Self { contents, checked })
    }

    /// Whether they are what a crash may leave of a directory that has promised nothing.
    fn are_unfinished(&self, identity: &Identity) -> bool {
        // A directory that was restored begins with a promise.
        !identity.formed
            && identity.origin.is_none()
            && self.contents.iter().all(|bytes| is_unfinished(bytes, identity))
    }
}

/// What each copy says, without changing anything; `None` if they are only not made yet.
pub(crate) fn check_copies(
    disk: &dyn Disk,
    directory: &Path,
    identity: &Identity,
) -> Result<Option<[Checked; 2]>, DirectoryError> {
    let copies = Copies::read(disk, &VOTES.map(|name| directory.join(name)), identity)?;
    let unfinished = copies.checked.iter().all(Result::is_err) && copies.are_unfinished(identity);
    Ok((!unfinished).then_some(copies.checked))
}

/// `None` if there is no such file. One byte more than a vote has is read, so that a longer file is found.
fn read(disk: &dyn Disk, path: &Path) -> Result<Option<Vec<u8>>, DirectoryError> {
    let file = match disk.open_read(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed("open", path)(error)),
    };
    let length = file.length().map_err(failed("read", path))?;
    let mut bytes = vec![0; length.min(FILE_BYTES as u64 + 1) as usize];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => Ok(Some(bytes)),
        // A sector that cannot be read is damage: never taken for a file that a crash left unfinished.
        Err(_) => Ok(Some(vec![u8::MAX; FILE_BYTES])),
    }
}

/// Only a newer version is an error here: it is for the operator, whatever the other copy says.
fn check(path: &Path, bytes: Option<&[u8]>, incarnation: Incarnation) -> Result<Checked, DirectoryError> {
    let Some(bytes) = bytes else { return Ok(Err("it is missing")) };
    let Ok(bytes) = <&[u8; FILE_BYTES]>::try_from(bytes) else { return Ok(Err("its length is wrong")) };
    let long = |at: usize| u64::from_le_bytes(bytes[at..at + 8].try_into().expect("a slice of eight bytes"));
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().expect("a slice of four bytes"));
    if bytes[..8] != MAGIC {
        return Ok(Err("it does not begin as a vote, or cannot be read"));
    }
    if crc32c::crc32c(&bytes[..CHECKSUM_AT]) != word(CHECKSUM_AT) {
        return Ok(Err("its checksum is wrong"));
    }
    let version = word(8);
    if version > VERSION {
        return Err(DirectoryError::NewerVersion { path: path.to_owned(), version, supported: VERSION });
    }
    if long(20) != incarnation.0 {
        return Ok(Err("it is of another directory"));
    }
    let voted_for = match bytes[36] {
        0 => None,
        id => match NodeId::try_from(id) {
            Ok(node) => Some(node),
            Err(_) => return Ok(Err("it votes for an impossible node")),
        },
    };
    Ok(Ok(Stored { sequence: long(12), promise: Promise { term: long(28), voted_for }, led: long(37) }))
}

fn newer(first: Checked, second: Checked) -> Option<Stored> {
    first.into_iter().chain(second).max_by_key(|stored| stored.sequence)
}

/// Which copy is written first after a restart: the one that might not be durable. `vote-a` always went
/// first, so if it is newer, or torn, `vote-b` was durable before; otherwise `vote-a` is.
fn write_order(first: Checked, second: Checked) -> [usize; 2] {
    let second_is_durable = match (first, second) {
        (Err(_), _) => true,
        (Ok(first), Ok(second)) => first.sequence > second.sequence,
        (Ok(_), Err(_)) => false,
    };
    if second_is_durable { [0, 1] } else { [1, 0] }
}

/// Whether a copy is what a crash may leave while it is created: missing, or the first promise up to some
/// byte, then zeros or nothing.
fn is_unfinished(bytes: &Option<Vec<u8>>, identity: &Identity) -> bool {
    let Some(bytes) = bytes else { return true };
    let first = Stored::FIRST.encode(identity.incarnation);
    let same = bytes.iter().zip(first).take_while(|(byte, first)| **byte == *first).count();
    bytes.len() <= FILE_BYTES && bytes[same..].iter().all(|byte| *byte == 0)
}

fn vote_lost(paths: &[PathBuf; 2], first: Checked, second: Checked) -> DirectoryError {
    let describe =
        |path: &Path, copy: Checked| format!("{}: {}", path.display(), copy.err().unwrap_or("it is whole"));
    DirectoryError::VoteLost { first: describe(&paths[0], first), second: describe(&paths[1], second) }
}

fn open_or_create(disk: &dyn Disk, path: PathBuf) -> Result<(PathBuf, Arc<dyn DiskFile>), DirectoryError> {
    let file = match disk.open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => disk.create(&path),
        other => other,
    };
    let file = file.map_err(failed("open", &path))?;
    if file.length().map_err(failed("read", &path))? != FILE_BYTES as u64 {
        file.set_length(FILE_BYTES as u64).map_err(failed("cut", &path))?;
    }
    Ok((path, file))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use quorate_protocol::{Durability, Leadership, Quorums};
    use tempfile::TempDir;

    use super::*;
    use crate::directory::trace_disk::TraceDisk;
    use crate::disk::RealDisk;

    fn node(id: u8) -> NodeId {
        NodeId::try_from(id).unwrap()
    }

    fn identity(formed: bool) -> Identity {
        Identity {
            cluster: "test".into(),
            node: node(1),
            incarnation: Incarnation(11),
            quorums: Quorums::new(1, 1).unwrap(),
            leadership: Leadership::Configured(node(1)),
            durability: Durability::Fsync,
            origin: None,
            members: if formed { vec![(node(1), Incarnation(11))] } else { Vec::new() },
            formed,
        }
    }

    fn promise(term: u64, voted_for: u8) -> Promise {
        Promise { term, voted_for: NodeId::try_from(voted_for).ok() }
    }

    fn open(directory: &TempDir) -> Result<(VoteFile, Option<DamagedCopy>), DirectoryError> {
        VoteFile::open(&TraceDisk::default(), directory.path(), &identity(true))
    }

    /// A directory whose node has promised term 4 to node 1, then term 7 to node 2.
    fn voted() -> TempDir {
        let directory = TempDir::new().unwrap();
        let (mut vote, _) = VoteFile::open(&RealDisk, directory.path(), &identity(false)).unwrap();
        vote.store(promise(4, 1)).unwrap();
        vote.store(promise(7, 2)).unwrap();
        directory
    }

    fn copies(directory: &TempDir) -> [Vec<u8>; 2] {
        VOTES.map(|name| fs::read(directory.path().join(name)).unwrap())
    }

    fn put(directory: &TempDir, copy: usize, bytes: &[u8]) {
        fs::write(directory.path().join(VOTES[copy]), bytes).unwrap();
    }

    #[test]
    fn a_new_vote_is_for_nobody_and_a_stored_one_is_loaded() {
        let directory = TempDir::new().unwrap();
        let (vote, _) = VoteFile::open(&RealDisk, directory.path(), &identity(false)).unwrap();
        assert_eq!(vote.promise(), Promise::default());
        let (vote, damaged) = open(&voted()).unwrap();
        assert_eq!((vote.promise(), damaged), (promise(7, 2), None));
    }

    #[test]
    fn the_format_is_as_it_was() {
        let [first, second] = copies(&voted());
        assert_eq!(first, second);
        let mut expected =
            b"QRMVOTE\n\x01\0\0\0\x03\0\0\0\0\0\0\0\x0b\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0\x02".to_vec();
        expected.resize(508, 0);
        expected.extend(crc32c::crc32c(&expected).to_le_bytes());
        assert_eq!(first, expected);
    }

    #[test]
    fn both_copies_are_written_and_synced_one_after_the_other() {
        let directory = voted();
        let disk = TraceDisk::default();
        let (mut vote, _) = VoteFile::open(&disk, directory.path(), &identity(true)).unwrap();
        disk.take_operations();
        vote.store(promise(8, 0)).unwrap();
        assert_eq!(disk.take_operations(), ["write vote-a", "sync vote-a", "write vote-b", "sync vote-b"]); // R5
    }

    #[test]
    fn a_restart_writes_both_again_beginning_with_the_one_that_may_not_be_durable() {
        let directory = voted();
        let newer = copies(&directory)[0].clone();
        let older = Stored { sequence: 2, promise: promise(4, 1), led: 0 }.encode(Incarnation(11)).to_vec();
        let torn = [&newer[..40], &older[40..], &[1]].concat();
        let rewritten = |first: &[u8], second: &[u8]| {
            put(&directory, 0, first);
            put(&directory, 1, second);
            let disk = TraceDisk::default();
            let (vote, _) = VoteFile::open(&disk, directory.path(), &identity(true)).unwrap();
            assert_eq!(copies(&directory)[0], copies(&directory)[1]);
            let mut operations = disk.take_operations();
            operations.retain(|operation| !operation.contains("directory") && !operation.contains("length"));
            (operations, vote.promise())
        };
        let first_then_second =
            ["write vote-a", "sync vote-a", "write vote-b", "sync vote-b"].map(String::from);
        let second_then_first =
            ["write vote-b", "sync vote-b", "write vote-a", "sync vote-a"].map(String::from);
        assert_eq!(rewritten(&newer, &newer), (second_then_first.to_vec(), promise(7, 2))); // R18
        assert_eq!(rewritten(&newer, &older), (first_then_second.to_vec(), promise(7, 2)));
        assert_eq!(rewritten(&torn, &older), (first_then_second.to_vec(), promise(4, 1)));
        assert_eq!(rewritten(&newer, &torn), (second_then_first.to_vec(), promise(7, 2)));
    }

    #[test]
    fn every_flipped_byte_of_one_copy_is_found_and_the_other_copy_used() {
        let directory = voted();
        let whole = copies(&directory)[0].clone();
        for (copy, name) in VOTES.iter().enumerate() {
            for at in 0..FILE_BYTES {
                let mut bytes = whole.clone();
                bytes[at] ^= 1 << (at % 8);
                put(&directory, copy, &bytes);
                let (vote, damaged) = open(&directory).unwrap();
                assert_eq!(vote.promise(), promise(7, 2), "byte {at}");
                assert_eq!(damaged.unwrap().path, directory.path().join(name), "byte {at}");
                assert_eq!(copies(&directory)[copy], whole, "byte {at}");
            }
        }
    }

    #[test]
    fn every_truncation_of_one_copy_is_found_and_the_other_copy_used() {
        let directory = voted();
        let whole = copies(&directory)[0].clone();
        for length in (0..FILE_BYTES).chain([FILE_BYTES + 1]) {
            let mut bytes = whole.clone();
            bytes.resize(length, 0);
            put(&directory, length % 2, &bytes);
            let (vote, damaged) = open(&directory).unwrap();
            assert_eq!((vote.promise(), damaged.is_some()), (promise(7, 2), true), "{length} bytes");
            assert_eq!(copies(&directory)[length % 2], whole, "{length} bytes");
        }
    }

    #[test]
    fn every_torn_rewrite_leaves_the_last_promise_or_the_new_one() {
        let directory = voted();
        let before = copies(&directory)[0].clone();
        let after = Stored { sequence: 4, promise: promise(9, 1), led: 0 }.encode(Incarnation(11)).to_vec();
        for length in 0..=FILE_BYTES {
            let torn = [&after[..length], &before[length..]].concat();
            for (first, second, second_is_written) in [(&torn, &before, false), (&after, &torn, true)] {
                put(&directory, 0, first);
                put(&directory, 1, second);
                let found = open(&directory).unwrap().0.promise();
                let whole = second_is_written || torn == after;
                assert_eq!(found, if whole { promise(9, 1) } else { promise(7, 2) }, "{length} bytes");
            }
        }
    }

    #[test]
    fn two_bad_copies_are_refused_for_good_and_left_as_they_are() {
        let directory = voted();
        let mut bad = copies(&directory)[0].clone();
        bad[30] ^= 1;
        put(&directory, 0, &bad);
        put(&directory, 1, &bad);
        for formed in [true, false] {
            let error = VoteFile::open(&RealDisk, directory.path(), &identity(formed)).unwrap_err();
            assert_eq!(error.kind().exit_code(), 4);
            let message = error.to_string();
            assert!(message.contains("does not vote under that identity again"), "{message}");
            assert!(message.contains("vote-a: its checksum is wrong"), "{message}");
        }
        assert_eq!(copies(&directory), [bad.clone(), bad]);
    }

    #[test]
    fn missing_or_empty_votes_are_made_anew_only_before_the_cluster_has_formed() {
        for content in [None, Some(&[][..]), Some(&[0; FILE_BYTES][..])] {
            let directory = voted();
            for name in VOTES {
                fs::remove_file(directory.path().join(name)).unwrap();
                if let Some(bytes) = content {
                    fs::write(directory.path().join(name), bytes).unwrap();
                }
            }
            assert_eq!(open(&directory).unwrap_err().kind().exit_code(), 4);
            let (vote, _) = VoteFile::open(&RealDisk, directory.path(), &identity(false)).unwrap();
            assert_eq!(vote.promise(), Promise::default());
        }
    }

    #[test]
    fn a_creation_that_was_cut_short_anywhere_is_done_again() {
        let first = Stored::FIRST.encode(Incarnation(11));
        for length in 0..FILE_BYTES {
            let directory = TempDir::new().unwrap();
            put(&directory, 0, &first[..length]);
            let (vote, _) =
                VoteFile::open(&TraceDisk::default(), directory.path(), &identity(false)).unwrap();
            assert_eq!(vote.promise(), Promise::default(), "{length} bytes");
            assert_eq!(copies(&directory), [first.to_vec(), first.to_vec()], "{length} bytes");
        }
    }

    #[test]
    fn a_vote_of_another_directory_is_a_bad_copy() {
        let directory = voted();
        put(&directory, 0, &Stored { sequence: 9, promise: promise(20, 3), led: 0 }.encode(Incarnation(12)));
        let (vote, damaged) = open(&directory).unwrap();
        assert_eq!(vote.promise(), promise(7, 2));
        assert_eq!(damaged.unwrap().why, "it is of another directory");
    }

    #[test]
    fn a_newer_version_is_refused() {
        let directory = voted();
        let mut bytes = copies(&directory)[1].clone();
        bytes[8] = 2;
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_le_bytes());
        put(&directory, 1, &bytes);
        let error = open(&directory).unwrap_err();
        assert!(error.to_string().contains("vote-b has version 2"), "{error}");
    }

    #[test]
    fn after_a_failed_sync_nothing_is_promised_any_more() {
        for operation in ["write vote-a", "sync vote-a", "write vote-b", "sync vote-b"] {
            let directory = voted();
            let disk = TraceDisk::default();
            let (mut vote, _) = VoteFile::open(&disk, directory.path(), &identity(true)).unwrap();
            disk.fail(operation, io::ErrorKind::Other);
            vote.store(promise(8, 1)).unwrap_err();
            disk.fail("nothing", io::ErrorKind::Other);
            disk.take_operations();
            vote.store(promise(9, 1)).unwrap_err();
            assert_eq!(disk.take_operations(), [""; 0], "{operation}");
        }
    }

    #[test]
    #[should_panic(expected = "after Promise")]
    fn a_term_never_goes_back() {
        open(&voted()).unwrap().0.store(promise(6, 0)).unwrap();
    }

    #[test]
    #[should_panic(expected = "after Promise")]
    fn a_vote_is_not_changed_within_its_term() {
        open(&voted()).unwrap().0.store(promise(7, 1)).unwrap(); // R6
    }

    #[test]
    fn a_vote_may_be_cast_later_in_a_promised_term() {
        let directory = voted();
        let (mut vote, _) = open(&directory).unwrap();
        vote.store(promise(8, 0)).unwrap();
        vote.store(promise(8, 3)).unwrap();
        assert_eq!(open(&directory).unwrap().0.promise(), promise(8, 3));
    }
}
