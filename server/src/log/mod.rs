//! The replicated log on disk.
//!
//! A directory of segments, each a header and then batches. A batch is one write and one sync; what it
//! holds is the entries' own bytes, as they cross the wires ([`quorate_protocol::entry`]). Nothing is ever
//! overwritten: a truncation is a batch, too, so a crash at any moment leaves a log.
//!
//! - `format`: the headers' bytes.
//! - `segment`: what is where, shared by the writer and its readers.
//! - `scan`: reading the files, and judging what is torn and what is damaged.
//! - `recovery`: from files to a log that can be written: what is cut, what is written again.
//! - `inspect`, `copy`: looking at a log, and copying it from beside a running node, without changing it.
//! - [`Log`]: the writer. [`LogReader`]: reads from any thread.
//! - `newest`: a note of which segment is the newest, so that one that is missing is missed.
//! - `prepare`: the next segment's zeros.
//! - [`LogWorker`]: the writer behind a queue, with group commit. [`LogThread`]: the same in a thread.
//!
//! # On disk
//!
//! `<first index, 20 digits>.log`; a name that ends in `.tmp` is a segment that was not taken into use. `newest` names the
//! segment that is written to (`newest`). Version 2 had no such note, and is refused.
//!
//! ```text
//! segment header, in a block of 4096, rest zeros    batch, at a multiple of 512
//!  0   8   "QRTLOGSG"                                0   4   CRC-32C   of bytes 4 to 64
//!  8   2   version        u16 LE                     4   4   CRC-32C   of the payload
//! 10   6   zeros                                     8   8   salt      of its segment
//! 16   8   segment size   u64 LE                    16   4   chain     bytes 0 to 4 of the batch before
//! 24   8   first index    u64 LE                    20   4   payload length     u32 LE
//! 32   8   salt           random                    24   8   first index, or the last that stays
//! 40   4   chain          as in a batch             32   4   entries            u32 LE
//! 44  16   zeros                                    36   4   number of the batch in its segment
//! 60   4   CRC-32C        of bytes 0 to 60          40   8   mark: known durable before this write
//!                                                   48   8   commit: highest known when written
//!                                                   56   4   1 entries, 2 mark only, 3 truncation
//!                                                   60   4   "BtQ\xA5"
//!                                                   64   …   payload: whole entries
//!                                                    …   …   0xA5, at least one, up to a multiple of 512
//! ```
//!
//! The file behind the last batch is zeros, or ends.
//!
//! # Invariants
//!
//! - Only chained batches count: right salt, number, and checksum of the one before. So neither an old
//!   segment nor a value that holds a copy of a log is taken for log.
//! - A segment begins where the one before ends, in index and in chain, and is in the directory, with its
//!   header synced, and noted as the newest, before a batch in it is. The note is lowered before a segment goes from
//!   the end.
//! - With [`Durability::Fsync`] a batch is written only after the one before was synced. So at most one
//!   batch can be torn, and it is the last.
//! - Every mark was true when it was written. A truncation lowers it with the same write that cuts.
//! - Commit never falls, and nothing at or below it is truncated (R16).
//! - After a failed write or sync nothing is written again ([`LogError::Stopped`]). Want of room is no such
//!   failure ([`LogError::NoRoom`]): what had been written of a batch is written again, byte for byte, so that
//!   what a crash leaves is still a prefix of that batch and zeros.
//!
//! # Torn or damaged
//!
//! A bad batch is **damage**, never cut, if a valid batch with a higher number follows in its segment (a mark is
//! one, and is written after some rest for this purpose), if anything is written behind its extent, or if another
//! segment follows. Otherwise it is the last, and it is **torn** if some sector of it, or its last byte, still
//! reads as zeros as before the write, and damage if not. Its extent is what its header says; if that is
//! unreadable, the header alone, and whatever follows may be its own.
//! What is torn is overwritten with zeros, reported, and the log goes on before it. Segments that are missing are damage:
//! the next one tells of one in between, the note of one at the end.
//!
//! What stays ambiguous:
//!
//! - A last batch, synced but not yet marked, that later loses a whole sector to zeros looks torn; so does
//!   one whose own value has a sector of zeros and which rots elsewhere. The window is the time to the
//!   next batch; the log thread closes it with a mark after some milliseconds of rest. Other replicas hold
//!   what is lost so.
//! - Several sectors lost together may be the last batches and the mark that covers them: a page of 4096 bytes
//!   holds up to eight. They look like writes that never came.
//! - With [`Durability::Os`] many batches may be lost at a power cut, in any order. That is found as damage
//!   or as a torn tail, by chance; so a node whose machine stopped under it is refused before its log is read (R30).
//!
//! # What is deliberately absent
//!
//! No repair: that needs another replica. No compaction of single entries: checkpoints do that work. No
//! retry of a failed sync.

pub(crate) mod copy;
mod finish;
mod format;
pub(crate) mod inspect;
pub(crate) mod newest;
mod prepare;
mod reader;
mod recovery;
mod scan;
mod segment;
mod thread;
mod worker;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};

use quorate_protocol::{Durability, Index, Term};
use thiserror::Error;

pub use reader::{LogReader, ReadError};
pub use recovery::Recovery;
pub use scan::TornTail;
pub use thread::{LogThread, LogThreadSettings, Stopped};
pub use worker::{LogCommand, LogCounters, LogEvent, LogWorker};

use crate::disk::{Disk, DiskFile, is_shortage};
use crate::mutant::{Mutant, is_on};
use format::{
    BATCH_HEADER_BYTES, BatchHeader, BatchKind, PADDING, SegmentHeader, batch_bytes, checksum_append,
    entry_claim,
};
use prepare::Preparer;
use segment::{POINT_SPACING_BYTES, Point, Segment, Shared, Tail};

/// Bytes of a segment, unless told otherwise.
pub const SEGMENT_BYTES: u64 = 64 << 20;

/// The smallest segment; a smaller setting is raised to this.
pub const SEGMENT_BYTES_MIN: u64 = 16 << 10;

/// Bytes of entries in one batch.
pub const BATCH_BYTES_MAX: usize = 16 << 20;

/// A fresh log's first segment is no larger, so that its zeros do not hold up the start.
const FIRST_SEGMENT_BYTES_MAX: u64 = 1 << 20;

/// What a segment that could not be prepared ahead is called until it is taken into use.
const ROLL_FILE_NAME: &str = "roll.tmp";

/// How the log is kept.
#[derive(Clone, Copy, Debug)]
pub struct LogSettings {
    /// Bytes after which a segment is full, at least [`SEGMENT_BYTES_MIN`].
    pub segment_bytes: u64,
    /// Whether an append waits for the disk.
    pub durability: Durability,
    /// Whether the log may end before the base. It may on a follower: what others hold is applied there, and
    /// checkpointed, before its own disk has it. A configured leader applies only what its own disk holds (R13).
    pub may_lag_base: bool,
    /// Whether there may be no log yet, and one is begun. Else a directory without any has lost it: a log is there
    /// before a node promises anything.
    pub may_be_absent: bool,
    /// Where salts come from: `None` for the system's random numbers; a number for simulations, where one
    /// seed reproduces everything.
    pub salt_seed: Option<u64>,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_bytes: SEGMENT_BYTES,
            durability: Durability::Fsync,
            may_lag_base: true,
            may_be_absent: true,
            salt_seed: None,
        }
    }
}

/// A place in the replicated log, comparable between replicas: the later term wins, then the longer log (R8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Position {
    /// Of the entry's leader.
    pub term: Term,
    /// Of the entry.
    pub index: Index,
}

/// Why the log cannot go on.
#[derive(Debug, Error)]
pub enum LogError {
    /// The files are not what was written, and not what a crash leaves. Nothing was changed. The operator
    /// restores the file, or starts the node anew so that other replicas fill it.
    #[error("{file} is damaged at offset {offset}: {what}", file = file.display())]
    Damaged {
        /// The segment.
        file: PathBuf,
        /// Byte in it.
        offset: u64,
        /// What is wrong there.
        what: String,
    },
    /// A segment is missing at the end, or the whole log. Nothing was changed. As with damage, the operator restores
    /// the file, or other replicas have what it held.
    #[error(
        "{file}: {what}; put it back, without it this replica can only start with an empty directory",
        file = file.display()
    )]
    Missing {
        /// The file that should be there, or the log's directory.
        file: PathBuf,
        /// What is known of it.
        what: String,
    },
    /// Another version of this program wrote this log. Start that one.
    #[error("{file} has log format {version}; this program reads {supported}: use the program that wrote it", file = file.display(), supported = format::VERSION)]
    Version {
        /// The segment.
        file: PathBuf,
        /// Its format.
        version: u16,
    },
    /// There is no room, or no descriptor. What was asked for has not happened, and the log is as before: asking for
    /// the same again is right, and for nothing else before it. Somebody has to make room.
    #[error("cannot {operation} {file}: {source}", file = file.display())]
    NoRoom {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// The disk failed; stop the node. After a failed sync only a restart can tell what is on the disk.
    #[error("cannot {operation} {file}: {source}", file = file.display())]
    Io {
        /// What was tried.
        operation: &'static str,
        /// On which file.
        file: PathBuf,
        /// What the disk said.
        source: io::Error,
    },
    /// A truncation would cut committed entries. Two leaders or a broken log; stop the node, files untouched (R16).
    #[error("cannot cut the log after entry {after}: entries up to {commit} are committed")]
    Committed {
        /// The last entry that was to stay.
        after: Index,
        /// The commit index.
        commit: Index,
    },
    /// The caller's entries do not continue the log, or are no entries. A defect of this program.
    #[error("entries {first} to {last} do not continue a log that ends at {end}: {what}")]
    Entries {
        /// The first entry, as the caller has it.
        first: Index,
        /// The last.
        last: Index,
        /// Where the log ends.
        end: Index,
        /// What does not fit.
        what: &'static str,
    },
    /// A write failed before; restart the node.
    #[error("the log has stopped after an earlier failure")]
    Stopped,
}

impl LogError {
    fn io(operation: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let file = file.to_owned();
        move |source| Self::Io { operation, file, source }
    }

    /// For what leaves the log as it was if it fails for want of room: anything but a sync.
    fn room(operation: &'static str, file: &Path) -> impl FnOnce(io::Error) -> Self + use<> {
        let file = file.to_owned();
        move |source| match is_shortage(&source) {
            true => Self::NoRoom { operation, file, source },
            false => Self::Io { operation, file, source },
        }
    }

    /// Whether there was no room, and the same may be asked for again.
    pub fn is_no_room(&self) -> bool {
        matches!(self, Self::NoRoom { .. })
    }
}

/// The segment that is written to.
struct Active {
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    first: Index,
    salt: u64,
    tail: Tail,
}

impl Active {
    fn new(segment: &Segment) -> Self {
        let Segment { path, file, first, salt, tail, .. } = segment;
        Self { path: path.clone(), file: Arc::clone(file), first: *first, salt: *salt, tail: *tail }
    }
}

/// The writer of the log. There is one per directory; the lock on the data directory sees to that.
pub struct Log {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    settings: LogSettings,
    shared: Arc<Shared>,
    active: Active,
    last: Index,
    commit: Index,
    /// Known to be durable.
    mark: Index,
    /// What the last batch says of it.
    mark_written: Index,
    /// The segment that is noted as the newest, by its first entry; see [`newest`].
    noted: Index,
    stopped: bool,
    preparer: Option<Preparer>,
    /// Removes old segments; joined before the next, and before the log ends.
    remover: Option<JoinHandle<()>>,
    /// The batch that is being written, and its points; kept for their memory.
    buffer: Vec<u8>,
    points: Vec<Point>,
}

/// Removes segments, oldest first. What comes back after a crash, or could not be removed, lies below the base and
/// is removed by the next start.
fn remove(disk: &dyn Disk, directory: &Path, segments: Vec<Segment>) {
    let removed = segments.iter().try_for_each(|segment| disk.remove(&segment.path));
    if let Err(error) = removed.and_then(|()| disk.sync_directory(directory)) {
        tracing::warn!(%error, "old log segments stay until the next start");
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.join_remover();
    }
}

impl Log {
    /// Opens the log in `directory`, or creates it, and repairs what a crash can leave. `base` is the last
    /// entry whose effect a checkpoint holds, 0 for none: the log must reach back to it, and one that ends
    /// before it starts again behind it. Older segments stay until [`Log::drop_before`], as other replicas may
    /// lack what they hold; those that came back after they had been dropped are removed.
    pub fn open(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        settings: LogSettings,
        base: Index,
    ) -> Result<(Self, Recovery), LogError> {
        let segment_bytes = settings.segment_bytes.max(SEGMENT_BYTES_MIN);
        recovery::recover(disk, directory, LogSettings { segment_bytes, ..settings }, base)
    }

    /// Begins to prepare segments ahead, in a thread of its own; without it a new segment is created when it
    /// is needed. [`LogThread`] does this.
    pub fn prepare_ahead(&mut self) -> Result<(), LogError> {
        let directory = self.directory.clone();
        let preparer = Preparer::start(Arc::clone(&self.disk), directory, self.settings.segment_bytes)
            .map_err(LogError::io("start a thread for", &self.directory))?;
        self.preparer = Some(preparer);
        Ok(())
    }

    /// Index of the last entry.
    pub fn last(&self) -> Index {
        self.last
    }

    /// The highest index known to be on the disk.
    pub fn durable(&self) -> Index {
        self.mark
    }

    /// Whether a [`mark`](Self::mark) would write.
    pub fn needs_mark(&self) -> bool {
        !self.stopped && self.mark > self.mark_written
    }

    /// A reader, for any thread.
    pub fn reader(&self) -> LogReader {
        LogReader { shared: Arc::clone(&self.shared) }
    }

    /// Appends the entries `first` to `last`, given as runs of whole entries: one write and, with
    /// [`Durability::Fsync`], one sync. Durable when it returns. `commit` is the highest known commit index.
    ///
    /// At most [`BATCH_BYTES_MAX`]; a batch larger than a segment gets one to itself. After
    /// [`LogError::NoRoom`] the same entries must be appended before anything else is done.
    pub fn append<R: AsRef<[u8]>>(
        &mut self,
        runs: impl IntoIterator<Item = R>,
        first: Index,
        last: Index,
        commit: Index,
    ) -> Result<(), LogError> {
        self.check_usable()?;
        self.buffer.clear();
        self.buffer.resize(BATCH_HEADER_BYTES, 0);
        for run in runs {
            self.buffer.extend_from_slice(run.as_ref());
        }
        let payload_bytes = self.buffer.len() - BATCH_HEADER_BYTES;
        self.points.clear();
        if let Err(what) = self.check_entries(first, last) {
            return Err(LogError::Entries { first, last, end: self.last, what });
        }
        self.commit = self.commit.max(commit.min(last));
        // A segment without entries is not followed by another: they would have the same name.
        let full = self.active.tail.offset + batch_bytes(payload_bytes) > self.active.tail.size;
        if full && self.last >= self.active.first {
            self.roll()?;
        }
        let start = self.active.tail.offset;
        let count = (last - first + 1) as u32;
        self.write_batch(BatchKind::Entries, first, count, self.settings.durability == Durability::Fsync)?;
        self.last = last;
        if self.settings.durability == Durability::Fsync {
            self.mark = last;
        }
        for point in &mut self.points {
            point.offset += start;
            point.payload_end += start;
        }
        let mut segments = self.shared.lock();
        segments.last = last;
        let segment = segments.list.back_mut().expect("an open log has a segment");
        segment.add(&self.points, last, self.active.tail.offset);
        Ok(())
    }

    /// Writes down what is durable, and `commit`, so that damage to the last batch can be told from a torn
    /// one. Nothing if the last batch says so already.
    pub fn mark(&mut self, commit: Index) -> Result<(), LogError> {
        self.check_usable()?;
        self.commit = self.commit.max(commit.min(self.last));
        if !self.needs_mark() {
            return Ok(());
        }
        self.buffer.clear();
        self.buffer.resize(BATCH_HEADER_BYTES, 0);
        // Synced before anything follows: a lost mark before a batch that was kept would look like damage.
        self.write_batch(BatchKind::Mark, self.last, 0, self.settings.durability == Durability::Fsync)
    }

    /// Marks what recovery has made durable. Without room for that it is still [owed](Self::needs_mark), and must be
    /// written before anything else: a full disk keeps nobody from starting, and what is owed is only a note.
    fn mark_recovered(&mut self) -> Result<(), LogError> {
        match self.write_durable_mark() {
            Err(error) if error.is_no_room() => Ok(()),
            done => done,
        }
    }

    /// Takes back every entry above `after`, durably. Nothing if there is none.
    pub fn truncate(&mut self, after: Index) -> Result<(), LogError> {
        self.check_usable()?;
        if after >= self.last {
            return Ok(());
        }
        let first = self.shared.lock().first();
        if after < self.commit || after + 1 < first {
            return Err(LogError::Committed { after, commit: self.commit.max(first - 1) }); // R16
        }
        self.mark = self.mark.min(after);
        self.note_newest_of(after)?;
        self.remove_segments_after(after)?;
        self.buffer.clear();
        self.buffer.resize(BATCH_HEADER_BYTES, 0);
        self.write_batch(BatchKind::Truncate, after, 0, true)?;
        self.last = after;
        let mut segments = self.shared.lock();
        segments.last = after;
        segments.list.back_mut().expect("an open log has a segment").truncate(after, self.active.tail.offset);
        Ok(())
    }

    /// Begins anew behind `after`, empty, durably: a checkpoint that is durable holds everything up to there, and what
    /// this log holds does not lead to it. A crash on the way leaves a log that ends before that checkpoint, or differs
    /// from it there, or is not there at all. After [`LogError::NoRoom`] it must be called again.
    pub fn restart(&mut self, after: Index) -> Result<(), LogError> {
        self.check_usable()?;
        self.join_remover();
        if !is_on(Mutant::NewestNotLowered) {
            self.note(0)?;
        }
        let removed = self.remove_all_segments();
        self.or_stop(removed)?;
        let started = self.first_segment_behind(after);
        let segment = self.or_stop(started)?;
        self.active = Active::new(&segment);
        (self.last, self.commit, self.mark, self.mark_written) = (after, after, after, after);
        let mut segments = self.shared.lock();
        (segments.list, segments.last) = (VecDeque::from([segment]), after);
        Ok(())
    }

    /// Newest first and each durably, so that what a crash leaves is the beginning of a log. Readers go on finding
    /// them for now.
    fn remove_all_segments(&self) -> Result<(), LogError> {
        let paths: Vec<_> = self.shared.lock().list.iter().map(|segment| segment.path.clone()).collect();
        for path in paths.iter().rev() {
            match self.disk.remove(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {} // An earlier attempt did it.
                removed => removed.map_err(LogError::io("remove", path))?,
            }
            self.disk.sync_directory(&self.directory).map_err(LogError::io("sync", &self.directory))?;
        }
        Ok(())
    }

    fn first_segment_behind(&self, after: Index) -> Result<Segment, LogError> {
        let size = self.settings.segment_bytes;
        let prepared = self.preparer.as_ref().and_then(Preparer::take);
        let (name, file) = match prepared {
            Some(file) => (prepare::FILE_NAME, file),
            None => (ROLL_FILE_NAME, self.empty_segment_file()?),
        };
        let segment = NewSegment { file, name, size, first: after + 1, chain: 0 };
        let started = segment.start(&*self.disk, &self.directory, self.settings.salt_seed);
        self.prepare_next(name, started.as_ref().err());
        started
    }

    /// Removes the segments that hold only entries below `index`, but never the newest.
    pub fn drop_before(&mut self, index: Index) -> Result<(), LogError> {
        self.check_usable()?;
        let removed: Vec<Segment> = {
            let mut segments = self.shared.lock();
            let count = segments.below(index);
            segments.list.drain(..count).collect()
        };
        if removed.is_empty() {
            return Ok(());
        }
        let (disk, directory) = (Arc::clone(&self.disk), self.directory.clone());
        if self.preparer.is_none() {
            remove(&*disk, &directory, removed);
            return Ok(());
        }
        // Freeing a segment's blocks takes tens of milliseconds, during which nothing would be synced.
        self.join_remover();
        let remover = move || remove(&*disk, &directory, removed);
        let started = Builder::new().name("log-remove".to_owned()).spawn(remover);
        self.remover = Some(started.map_err(LogError::io("start a thread for", &self.directory))?);
        Ok(())
    }

    fn join_remover(&mut self) {
        if let Some(remover) = self.remover.take() {
            // A panic has been reported by its own thread; what it left is removed at the next start.
            let _ = remover.join();
        }
    }

    fn check_usable(&self) -> Result<(), LogError> {
        if self.stopped { Err(LogError::Stopped) } else { Ok(()) }
    }

    /// After a failure nothing is written again: nobody knows what is on the disk. Only want of room is known not
    /// to have changed anything.
    fn or_stop<T>(&mut self, result: Result<T, LogError>) -> Result<T, LogError> {
        self.stopped |= result.as_ref().is_err_and(|error| !error.is_no_room());
        result
    }

    /// Checks that the buffer's payload is the entries `first` to `last`, and collects their points, relative
    /// to the batch.
    fn check_entries(&mut self, first: Index, last: Index) -> Result<(), &'static str> {
        if first != self.last + 1 || last < first {
            return Err("the indexes are not the next ones");
        }
        if self.buffer.len() - BATCH_HEADER_BYTES > BATCH_BYTES_MAX {
            return Err("they are more than a batch holds");
        }
        collect_points(&self.buffer, BATCH_HEADER_BYTES, first, last, &mut self.points)
            .map_err(|_| "the bytes are not these entries")
    }

    /// Writes the batch whose payload is in the buffer behind the room for its header.
    fn write_batch(&mut self, kind: BatchKind, index: Index, count: u32, sync: bool) -> Result<(), LogError> {
        // The note's own sync would make the segment's name durable.
        if !is_on(Mutant::NewestNotNoted) && !is_on(Mutant::SegmentNameNotSynced) {
            self.note(self.active.first)?;
        }
        let payload = &self.buffer[BATCH_HEADER_BYTES..];
        let header = BatchHeader {
            kind,
            salt: self.active.salt,
            chain: self.active.tail.chain,
            sequence: self.active.tail.sequence,
            index,
            count,
            mark: self.mark,
            commit: self.commit,
            payload_bytes: payload.len() as u32,
            payload_checksum: checksum_append(0, payload),
        };
        let bytes = header.batch_bytes();
        self.buffer.resize(bytes as usize, PADDING);
        let chain = header.encode(&mut self.buffer);
        let Active { file, path, tail: Tail { offset, .. }, .. } = &self.active;
        let done =
            file.write_all_at(&self.buffer, *offset).map_err(LogError::room("write", path)).and_then(|()| {
                if sync && !is_on(Mutant::AckBeforeSync) {
                    file.sync_data().map_err(LogError::io("sync", path))
                } else {
                    Ok(())
                }
            });
        self.or_stop(done)?;
        self.active.tail.chain = chain;
        self.active.tail.sequence += 1;
        self.active.tail.offset += bytes;
        self.mark_written = self.mark;
        Ok(())
    }

    /// Notes durably that a segment that begins at `first`, or behind it, is there.
    fn note(&mut self, first: Index) -> Result<(), LogError> {
        if self.noted == first {
            return Ok(());
        }
        let noted = newest::store(&*self.disk, &self.directory, first);
        self.or_stop(noted)?;
        self.noted = first;
        Ok(())
    }

    /// Before segments with entries above `after` are removed: the note must not claim them any more.
    fn note_newest_of(&mut self, after: Index) -> Result<(), LogError> {
        let staying = {
            let segments = self.shared.lock();
            let above = segments.list.iter().skip(1).filter(|segment| segment.first > after).count();
            segments.list[segments.list.len() - 1 - above].first
        };
        let is_claimed = staying < self.noted && !is_on(Mutant::NewestNotLowered);
        if is_claimed { self.note(staying) } else { Ok(()) }
    }

    /// Takes the next segment into use.
    fn roll(&mut self) -> Result<(), LogError> {
        let prepared = self.preparer.as_ref().and_then(Preparer::take);
        let (name, done) = match prepared {
            Some(file) => (prepare::FILE_NAME, self.start_segment(file, prepare::FILE_NAME)),
            None => (ROLL_FILE_NAME, self.create_segment()),
        };
        self.prepare_next(name, done.as_ref().err());
        self.or_stop(done)
    }

    /// The file called `name` was taken into use, or was not.
    fn prepare_next(&self, name: &str, error: Option<&LogError>) {
        match (error, &self.preparer) {
            (None, Some(preparer)) => preparer.request(),
            // What was got so far may be what somebody else needs; the next attempt begins anew in any case.
            (Some(error), _) if error.is_no_room() => {
                let _ = self.disk.remove(&self.directory.join(name));
            }
            _ => {}
        }
    }

    fn create_segment(&mut self) -> Result<(), LogError> {
        let file = self.empty_segment_file()?;
        self.start_segment(file, ROLL_FILE_NAME)
    }

    fn empty_segment_file(&self) -> Result<Arc<dyn DiskFile>, LogError> {
        let path = self.directory.join(ROLL_FILE_NAME);
        let file = self.disk.create(&path).map_err(LogError::room("create", &path))?;
        file.allocate(self.settings.segment_bytes).map_err(LogError::room("allocate", &path))?;
        Ok(file)
    }

    /// Gives a file of zeros its header and its name, both durable, and makes it the active segment.
    fn start_segment(&mut self, file: Arc<dyn DiskFile>, name: &str) -> Result<(), LogError> {
        let (first, chain) = (self.last + 1, self.active.tail.chain);
        let segment = NewSegment { file, name, size: self.settings.segment_bytes, first, chain };
        let segment = segment.start(&*self.disk, &self.directory, self.settings.salt_seed)?;
        let full = std::mem::replace(&mut self.active, Active::new(&segment));
        let mut segments = self.shared.lock();
        segments.list.back_mut().expect("an open log has a segment").tail = full.tail;
        segments.list.push_back(segment);
        Ok(())
    }

    /// Removes the segments that hold only entries above `after`, newest first and each durably, so that a
    /// crash leaves no gap; the first segment stays. The newest that is left becomes the active one.
    fn remove_segments_after(&mut self, after: Index) -> Result<(), LogError> {
        loop {
            let removed = {
                let mut segments = self.shared.lock();
                let newest = segments.list.back().expect("an open log has a segment");
                if segments.list.len() == 1 || newest.first <= after {
                    return Ok(());
                }
                let removed = segments.list.pop_back().expect("an open log has a segment");
                segments.last = removed.first - 1;
                self.last = removed.first - 1;
                self.active = Active::new(segments.list.back().expect("the first segment stays"));
                removed
            };
            let done = self.disk.remove(&removed.path).map_err(LogError::io("remove", &removed.path));
            self.or_stop(done)?;
            self.sync_directory()?;
        }
    }

    fn sync_directory(&mut self) -> Result<(), LogError> {
        let done = self.disk.sync_directory(&self.directory).map_err(LogError::io("sync", &self.directory));
        self.or_stop(done)
    }
}

/// A file of zeros that becomes a segment.
struct NewSegment<'a> {
    file: Arc<dyn DiskFile>,
    /// What it is called so far.
    name: &'a str,
    size: u64,
    first: Index,
    chain: u32,
}

impl NewSegment<'_> {
    fn start(self, disk: &dyn Disk, directory: &Path, salt_seed: Option<u64>) -> Result<Segment, LogError> {
        let Self { file, name, size, first, chain } = self;
        let from = directory.join(name);
        let path = directory.join(segment_name(first));
        let salt = match salt_seed {
            Some(seed) => salt_from(seed, first, chain),
            None => getrandom::u64()
                .map_err(|error| LogError::io("choose a salt for", &path)(io::Error::other(error)))?,
        };
        let header = SegmentHeader { size, first, salt, chain };
        file.write_all_at(&header.encode(), 0).map_err(LogError::room("write", &from))?;
        file.sync_data().map_err(LogError::io("sync", &from))?;
        disk.rename(&from, &path).map_err(LogError::room("rename", &from))?;
        if !is_on(Mutant::SegmentNameNotSynced) {
            disk.sync_directory(directory).map_err(LogError::io("sync", directory))?;
        }
        Ok(Segment::new(path, file, header, size))
    }
}

/// What a segment is called whose first entry is `first`.
fn segment_name(first: Index) -> String {
    format!("{first:020}.log")
}

/// A salt that differs between segments of one seed; chain and index tell them apart.
fn salt_from(seed: u64, first: Index, chain: u32) -> u64 {
    let mixed = (seed ^ first.rotate_left(32) ^ u64::from(chain)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    (mixed ^ (mixed >> 29)).wrapping_mul(0xBF58_476D_1CE4_E5B9)
}

/// Walks over the entries in `bytes` from `start` on, which must be `first` to `last` and nothing else, and
/// collects points into them: the first entry, then one per [`POINT_SPACING_BYTES`]. The error is where the
/// walk went wrong. Checksums are not looked at.
fn collect_points(
    bytes: &[u8],
    start: usize,
    first: Index,
    last: Index,
    points: &mut Vec<Point>,
) -> Result<(), usize> {
    let mut at = start;
    let mut expected = first;
    let mut next_point = start;
    while at < bytes.len() {
        let Some((length, index)) = entry_claim(&bytes[at..]) else { return Err(at) };
        if index != expected || index > last || length > (bytes.len() - at) as u64 {
            return Err(at);
        }
        if at >= next_point {
            points.push(Point { index, offset: at as u64, payload_end: bytes.len() as u64 });
            next_point = at + POINT_SPACING_BYTES as usize;
        }
        at += length as usize;
        expected += 1;
    }
    if expected == last + 1 { Ok(()) } else { Err(at) }
}
