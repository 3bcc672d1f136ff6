//! From files to a log. What counts as torn and what as damaged is in the [module's header](super).
//!
//! Nothing is changed before everything was found to be legal. Then, each step durable before the next:
//! segments below the base go, oldest first; what is torn becomes zeros; what no mark says to be durable is
//! written again (R18); a mark says that it is now. Every step leaves a log that recovers to the same.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_protocol::Index;

use super::format::{
    ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader, BatchKind, PADDING, SECTOR_BYTES, SEGMENT_HEADER_BYTES,
    SegmentHeader, SegmentHeaderError, checksum_append,
};
use super::segment::{Point, Segment, Segments, Shared};
use super::{
    Active, BATCH_BYTES_MAX, FIRST_SEGMENT_BYTES_MAX, Log, LogError, LogSettings, NewSegment, ROLL_FILE_NAME,
    collect_points, prepare, segment_name,
};
use crate::disk::{Disk, DiskFile};
use crate::mutant::{Mutant, is_on};

/// Bytes of a segment file that are looked at; far more than any setting makes.
const FILE_BYTES_MAX: usize = 2 << 30;

/// Bytes written again at once.
const REWRITE_BYTES: u64 = 1 << 20;

/// What opening a log found and did.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Recovery {
    /// Index of the first entry, or of the one that comes next if there is none.
    pub first: Index,
    /// Index of the last entry; one before `first` if there is none.
    pub last: Index,
    /// The highest commit index that the log or the base vouches for, at most `last`. What lies above is
    /// "maybe" (R17).
    pub committed: Index,
    /// What the log itself said to be durable, before anything was written again.
    pub mark: Index,
    /// What was cut.
    pub torn: Option<TornTail>,
    /// Bytes written again, because no mark said that they were durable (R18).
    pub rewritten_bytes: u64,
    /// Segments removed, because a checkpoint holds all they had.
    pub segments_removed: usize,
}

/// A write that a crash cut short.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TornTail {
    /// The segment.
    pub file: PathBuf,
    /// Where the write began.
    pub offset: u64,
    /// Bytes up to the last that had been written.
    pub bytes: u64,
}

pub(super) fn recover(
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    settings: LogSettings,
    base: Index,
) -> Result<(Log, Recovery), LogError> {
    disk.create_directory(&directory).map_err(LogError::io("create", &directory))?;
    if let Some(parent) = directory.parent().filter(|parent| !parent.as_os_str().is_empty()) {
        disk.sync_directory(parent).map_err(LogError::io("sync", parent))?;
    }
    let found = Found::list(&*disk, &directory)?;
    let (kept, removed) = found.split_at_base(&*disk, base)?;
    let mut scan = Scan::new(kept.first().map_or(base, |(_, header)| header.first - 1));
    for place in 0..kept.len() {
        scan.segment(&*disk, kept[place].clone(), kept.get(place + 1).map(|(_, header)| *header))?;
    }
    let mut recovery = Recovery { mark: scan.mark, ..Recovery::default() };
    found.remove_temporary(&*disk, &directory)?;
    let mut obsolete = removed;
    if scan.last < base {
        obsolete.extend(kept.iter().map(|(path, _)| path.clone()));
        scan = Scan::new(base);
    }
    remove_oldest_first(&*disk, &directory, &obsolete)?;
    recovery.segments_removed = obsolete.len();
    if scan.segments.is_empty() {
        scan.segments.push_back(first_segment(&*disk, &directory, settings, base + 1)?);
    }
    recovery.torn = scan.cut_torn()?;
    recovery.rewritten_bytes = scan.write_again()?;

    let active = Active::new(scan.segments.back().expect("a segment was there or was made"));
    let (last, mark_written) = (scan.last, scan.mark);
    let commit = scan.commit.max(base).min(last);
    let shared = Arc::new(Shared::new(Segments { list: scan.segments, last }));
    recovery.first = shared.lock().first();
    recovery.last = last;
    recovery.committed = commit;
    let mut log = Log {
        disk,
        directory,
        settings,
        shared,
        active,
        last,
        commit,
        mark: last,
        mark_written,
        stopped: false,
        preparer: None,
        remover: None,
        buffer: Vec::new(),
        points: Vec::new(),
    };
    log.mark_recovered()?;
    Ok((log, recovery))
}

impl Log {
    /// Says durably what is durable, with [`Durability::Os`] too.
    ///
    /// [`Durability::Os`]: quorate_protocol::Durability::Os
    pub(super) fn write_durable_mark(&mut self) -> Result<(), LogError> {
        if self.mark_written == self.mark {
            return Ok(());
        }
        self.buffer.clear();
        self.buffer.resize(BATCH_HEADER_BYTES, 0);
        self.write_batch(BatchKind::Mark, self.last, 0, true)
    }
}

/// A segment's file and what it says about itself.
type Listed = (PathBuf, SegmentHeader);

/// The files of a directory that are segments, with headers that can be read.
struct Found {
    segments: Vec<Listed>,
    temporary: Vec<PathBuf>,
}

impl Found {
    fn list(disk: &dyn Disk, directory: &Path) -> Result<Self, LogError> {
        let mut found = Self { segments: Vec::new(), temporary: Vec::new() };
        for name in disk.list(directory).map_err(LogError::io("list", directory))? {
            let path = directory.join(&name);
            if name == prepare::FILE_NAME || name == ROLL_FILE_NAME {
                found.temporary.push(path);
            } else if name.ends_with(".log") {
                let header = read_header(disk, &path)?;
                if name != segment_name(header.first) {
                    let what = format!("its header says {}", segment_name(header.first));
                    return Err(LogError::Damaged { file: path, offset: 0, what });
                }
                found.segments.push((path, header));
            }
        }
        Ok(found)
    }

    /// The unbroken run of segments that ends with the newest, and before it those that came back after they
    /// had been dropped. The run reaches at least to `base`; what of it lies below is kept, as another replica
    /// may still lack it.
    fn split_at_base(&self, disk: &dyn Disk, base: Index) -> Result<(Vec<Listed>, Vec<PathBuf>), LogError> {
        let reaching = self.segments.partition_point(|(_, header)| header.first <= base + 1);
        if reaching == 0
            && let Some((path, header)) = self.segments.first()
        {
            let what = format!("entries {} to {} before it are missing", base + 1, header.first - 1);
            return Err(LogError::Damaged { file: path.clone(), offset: 0, what });
        }
        let mut first_kept = reaching.saturating_sub(1);
        while first_kept > 0 && self.continues(disk, first_kept - 1)? {
            first_kept -= 1;
        }
        let (broken_off, kept) = self.segments.split_at(first_kept);
        Ok((kept.to_vec(), broken_off.iter().map(|(path, _)| path.clone()).collect()))
    }

    /// Whether the segment at `place` is whole and the next one follows it.
    fn continues(&self, disk: &dyn Disk, place: usize) -> Result<bool, LogError> {
        let (listed, next) = (self.segments[place].clone(), self.segments[place + 1].1);
        match Scan::new(listed.1.first - 1).segment(disk, listed, Some(next)) {
            Ok(_) => Ok(true),
            // Checkpoints hold what it held; the operator is told, in case a replica lacks it.
            Err(error @ LogError::Damaged { .. }) => {
                tracing::warn!(%error, "a log segment below the checkpoints is not followed by the next: removing it");
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn remove_temporary(&self, disk: &dyn Disk, directory: &Path) -> Result<(), LogError> {
        remove_oldest_first(disk, directory, &self.temporary)
    }
}

fn read_header(disk: &dyn Disk, path: &Path) -> Result<SegmentHeader, LogError> {
    let file = disk.open(path).map_err(LogError::io("open", path))?;
    let mut block = [0; SEGMENT_HEADER_BYTES];
    file.read_exact_at(&mut block, 0).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged(path, 0, "the file ends in its header".to_owned()),
        _ => LogError::io("read", path)(error),
    })?;
    SegmentHeader::decode(&block).map_err(|error| match error {
        SegmentHeaderError::Version(version) => LogError::Version { file: path.to_owned(), version },
        // Headers are synced before a segment gets its name, so no crash leaves this.
        SegmentHeaderError::Damaged => damaged(path, 0, "no segment header".to_owned()),
    })
}

/// Removes files and makes that, and every earlier change of names, durable: what a killed process has
/// renamed is only in the page cache.
fn remove_oldest_first(disk: &dyn Disk, directory: &Path, paths: &[PathBuf]) -> Result<(), LogError> {
    for path in paths {
        disk.remove(path).map_err(LogError::io("remove", path))?;
    }
    disk.sync_directory(directory).map_err(LogError::io("sync", directory))
}

/// The first segment of a log without any: small, so that its zeros take little time.
fn first_segment(
    disk: &dyn Disk,
    directory: &Path,
    settings: LogSettings,
    first: Index,
) -> Result<Segment, LogError> {
    let path = directory.join(ROLL_FILE_NAME);
    let size = settings.segment_bytes.min(FIRST_SEGMENT_BYTES_MAX);
    let file = disk.create(&path).map_err(LogError::io("create", &path))?;
    file.write_all_at(&vec![0; size as usize], 0).map_err(LogError::io("write", &path))?;
    let segment = NewSegment { file, name: ROLL_FILE_NAME, size, first, chain: 0 };
    segment.start(disk, directory, settings.salt_seed)
}

fn damaged(file: &Path, offset: u64, what: String) -> LogError {
    LogError::Damaged { file: file.to_owned(), offset, what }
}

/// A place in the log from which on nothing is known to be durable.
#[derive(Clone, Copy)]
struct Unproven {
    segment: usize,
    offset: u64,
}

/// The log as far as it was read.
struct Scan {
    segments: VecDeque<Segment>,
    last: Index,
    mark: Index,
    commit: Index,
    unproven: Option<Unproven>,
    /// In the newest segment.
    torn: Option<TornTail>,
    /// The file that is being read; kept for its memory.
    bytes: Vec<u8>,
}

impl Scan {
    fn new(last: Index) -> Self {
        Self {
            segments: VecDeque::new(),
            last,
            mark: 0,
            commit: 0,
            unproven: None,
            torn: None,
            bytes: Vec::new(),
        }
    }

    /// Reads one segment, and judges its end by what `next` says of it.
    fn segment(
        &mut self,
        disk: &dyn Disk,
        (path, header): Listed,
        next: Option<SegmentHeader>,
    ) -> Result<(), LogError> {
        let file = disk.open(&path).map_err(LogError::io("open", &path))?;
        self.bytes = file.read_all(FILE_BYTES_MAX).map_err(LogError::io("read", &path))?;
        if !(SEGMENT_HEADER_BYTES as u64..=FILE_BYTES_MAX as u64).contains(&header.size) {
            return Err(damaged(&path, 16, format!("a segment of {} bytes", header.size)));
        }
        let length = self.bytes.len() as u64;
        // The length is synced with the header, so no crash leaves less.
        if length < header.size {
            let what = format!("the file ends here, but has {} bytes by its header", header.size);
            return Err(damaged(&path, length, what));
        }
        self.segments.push_back(Segment::new(path, file, header, length));
        while let Some((batch, checksum)) = self.next_batch() {
            self.apply(batch, checksum)?;
        }
        let segment = self.segments.back().expect("it was just added");
        let tail = segment.tail;
        match next {
            Some(next) if next.chain == tail.chain && next.first == self.last + 1 => Ok(()),
            Some(next) => {
                let what = format!(
                    "the log ends here at entry {}, but a segment with entry {} follows",
                    self.last, next.first
                );
                Err(damaged(&segment.path, tail.offset, what))
            }
            None => {
                self.torn = self.judge_end()?;
                Ok(())
            }
        }
    }

    /// The batch at the tail of the newest segment, if it is whole and chained.
    fn next_batch(&self) -> Option<(BatchHeader, u32)> {
        let Segment { tail, salt, .. } = self.segments.back()?;
        let bytes = self.bytes.get(tail.offset as usize..)?;
        let (header, checksum) = BatchHeader::decode(bytes)?;
        let chained = header.salt == *salt && header.sequence == tail.sequence && header.chain == tail.chain;
        let batch = bytes.get(..usize::try_from(header.batch_bytes()).ok()?)?;
        let (payload, padding) =
            batch[BATCH_HEADER_BYTES..].split_at_checked(header.payload_bytes as usize)?;
        let whole = checksum_append(0, payload) == header.payload_checksum
            && padding.iter().all(|byte| *byte == PADDING);
        (chained && whole).then_some((header, checksum))
    }

    fn apply(&mut self, batch: BatchHeader, checksum: u32) -> Result<(), LogError> {
        let place = self.segments.len() - 1;
        let segment = self.segments.back_mut().expect("batches are read from a segment");
        let offset = segment.tail.offset;
        let end = offset + batch.batch_bytes();
        // What lies before a batch that calls everything durable is durable.
        if self.unproven.is_none() || batch.mark >= self.last {
            self.unproven = Some(Unproven { segment: place, offset });
        }
        match batch.kind {
            BatchKind::Entries => {
                if batch.index != self.last + 1 || batch.count == 0 {
                    let what =
                        format!("{} entries from {} follow entry {}", batch.count, batch.index, self.last);
                    return Err(damaged(&segment.path, offset, what));
                }
                let last = self.last + u64::from(batch.count);
                let start = offset as usize + BATCH_HEADER_BYTES;
                let payload = &self.bytes[..start + batch.payload_bytes as usize];
                let mut points: Vec<Point> = Vec::new();
                collect_points(payload, start, batch.index, last, &mut points).map_err(|at| {
                    damaged(&segment.path, at as u64, "a batch holds other entries than it says".to_owned())
                })?;
                segment.add(&points, last, end);
                self.last = last;
            }
            BatchKind::Truncate => {
                self.last = self.last.min(batch.index);
                segment.truncate(self.last, end);
            }
            BatchKind::Mark => {}
        }
        segment.tail.offset = end;
        segment.tail.sequence += 1;
        segment.tail.chain = checksum;
        self.mark = batch.mark;
        self.commit = self.commit.max(batch.commit);
        Ok(())
    }

    /// What lies behind the last good batch of the newest segment: nothing, a torn write, or damage.
    fn judge_end(&self) -> Result<Option<TornTail>, LogError> {
        let Segment { path, tail, salt, .. } = self.segments.back().expect("its end was reached");
        let Self { bytes, last, mark, .. } = self;
        let start = tail.offset as usize;
        if last < mark {
            let what = format!("the log ends here at entry {last}, but entry {mark} was durable");
            return Err(damaged(path, tail.offset, what));
        }
        let Some(written) = bytes[start..].iter().rposition(|byte| *byte != 0) else { return Ok(None) };
        let header = BatchHeader::decode(&bytes[start..])
            .filter(|(header, _)| header.salt == *salt && header.payload_bytes as usize <= BATCH_BYTES_MAX);
        let end = match header {
            Some((header, _)) if header.sequence == tail.sequence && header.chain == tail.chain => {
                start + header.batch_bytes() as usize
            }
            Some(_) => return Err(damaged(path, tail.offset, "a batch is not chained".to_owned())),
            None => start + BATCH_HEADER_BYTES,
        };
        if is_on(Mutant::DamageCutAsTorn) {
            return Ok(Some(TornTail { file: path.clone(), offset: tail.offset, bytes: written as u64 + 1 }));
        }
        if let Some(later) = self.later_batch(header.map_or(start, |_| end)) {
            let what = format!("a bad batch, and a good one follows at {later}");
            return Err(damaged(path, tail.offset, what));
        }
        if header.is_some() && start + written >= end {
            let what = "a bad batch, and something was written behind it".to_owned();
            return Err(damaged(path, tail.offset, what));
        }
        if !has_unwritten(bytes, start, end) {
            return Err(damaged(path, tail.offset, "the last batch is bad, but was written".to_owned()));
        }
        Ok(Some(TornTail { file: path.clone(), offset: tail.offset, bytes: written as u64 + 1 }))
    }

    /// Where a batch of this segment with a higher number than the next one begins, at or after `from`.
    fn later_batch(&self, from: usize) -> Option<usize> {
        let Segment { tail, salt, .. } = self.segments.back()?;
        (from..self.bytes.len()).step_by(ALIGNMENT as usize).find(|at| {
            // The salt decides nearly always, and is cheaper than a checksum.
            self.bytes.get(at + 8..at + 16) == Some(&salt.to_le_bytes())
                && BatchHeader::decode(&self.bytes[*at..])
                    .is_some_and(|(header, _)| header.sequence > tail.sequence)
        })
    }

    /// Overwrites a torn write with zeros, so that nothing of it is met again.
    fn cut_torn(&mut self) -> Result<Option<TornTail>, LogError> {
        let Some(torn) = self.torn.take() else { return Ok(None) };
        let Segment { file, path, .. } = self.segments.back().expect("something in it is torn");
        // The end of its header first: it then looks torn however far the rest comes.
        let header_end = torn.offset + BATCH_HEADER_BYTES as u64;
        file.write_all_at(&[0], header_end - 1).map_err(LogError::io("write", path))?;
        file.sync_data().map_err(LogError::io("sync", path))?;
        let zeros = vec![0; torn.bytes.min(REWRITE_BYTES) as usize];
        for offset in (0..torn.bytes).step_by(REWRITE_BYTES as usize) {
            let piece = (torn.bytes - offset).min(REWRITE_BYTES) as usize;
            file.write_all_at(&zeros[..piece], torn.offset + offset).map_err(LogError::io("write", path))?;
        }
        file.sync_data().map_err(LogError::io("sync", path))?;
        Ok(Some(torn))
    }

    /// Writes again, and syncs, what is not known to be durable (R18). Returns how many bytes that was.
    fn write_again(&mut self) -> Result<u64, LogError> {
        let Some(from) = self.unproven.filter(|_| !is_on(Mutant::TailNotWrittenAgain)) else { return Ok(0) };
        let mut total = 0;
        for (place, segment) in self.segments.iter().enumerate().skip(from.segment) {
            let start = if place == from.segment { from.offset } else { SEGMENT_HEADER_BYTES as u64 };
            rewrite(&*segment.file, start, segment.tail.offset)
                .map_err(LogError::io("rewrite", &segment.path))?;
            total += segment.tail.offset - start;
        }
        Ok(total)
    }
}

/// Whether some sector of the region that a write would have filled still reads as before it, or its end.
fn has_unwritten(bytes: &[u8], start: usize, end: usize) -> bool {
    let Some(region) = bytes.get(start..end) else { return true };
    let first = (SECTOR_BYTES as usize - start % SECTOR_BYTES as usize).min(region.len());
    let (head, sectors) = region.split_at(first);
    let zero = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
    region.last() == Some(&0) || zero(head) || sectors.chunks(SECTOR_BYTES as usize).any(zero)
}

fn rewrite(file: &dyn DiskFile, mut from: u64, to: u64) -> io::Result<()> {
    let mut piece = vec![0; (to - from).min(REWRITE_BYTES) as usize];
    while from < to {
        let bytes = (to - from).min(REWRITE_BYTES);
        file.read_exact_at(&mut piece[..bytes as usize], from)?;
        file.write_all_at(&piece[..bytes as usize], from)?;
        from += bytes;
    }
    file.sync_data()
}
