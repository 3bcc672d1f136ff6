//! Reading a log's files, and judging what is found: which batches count, what is torn and what is damaged, as the
//! [module's header](super) says. Nothing here changes a file.
//!
//! Recovery and the offline tools go through the same steps: [`Found`] is a directory's segments, [`Run`] those
//! of them that are the log, and [`Scan`] reads them one after the other, batch by batch.

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_protocol::Index;

use super::format::{
    ALIGNMENT, BATCH_HEADER_BYTES, BatchHeader, BatchKind, PADDING, SECTOR_BYTES, SEGMENT_HEADER_BYTES,
    SegmentHeader, SegmentHeaderError, checksum_append,
};
use super::segment::{Point, Segment, Tail};
use super::{BATCH_BYTES_MAX, LogError, ROLL_FILE_NAME, collect_points, newest, prepare, segment_name};
use crate::disk::{Disk, DiskFile};
use crate::mutant::{Mutant, is_on};

/// Bytes of a segment file that are looked at; far more than any setting makes.
const FILE_BYTES_MAX: usize = 2 << 30;

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

/// A segment's file and what it says about itself.
pub(super) type Listed = (PathBuf, SegmentHeader);

/// The files of a directory that are segments, with headers that can be read.
pub(super) struct Found {
    /// Oldest first.
    pub(super) segments: Vec<Listed>,
    /// The first entry of the newest by its name, if there is one, whatever its header.
    pub(super) newest: Option<Index>,
    /// Files of segments that were not taken into use.
    pub(super) temporary: Vec<PathBuf>,
}

/// The segments that are the log.
pub(super) struct Run {
    /// An unbroken run that ends with the newest, as far as their headers say.
    pub(super) kept: Vec<Listed>,
    /// Those before it, which checkpoints hold: they came back after they had been dropped.
    pub(super) obsolete: Vec<Listed>,
    /// Those before it that damage has cut off from it; checkpoints hold them, too.
    pub(super) cut_off: Vec<Listed>,
    /// Why the run begins where it does, if it is not the first segment.
    pub(super) broken_off: Option<BrokenOff>,
}

/// Why a segment is not part of the run.
pub(super) enum BrokenOff {
    /// It is whole, and others are missing behind it.
    Gap(LogError),
    /// It is not what was written.
    Damage(LogError),
}

impl Found {
    /// `on_damage` decides whether a segment without a header that can be read ends the listing. If not, what the
    /// header said is taken from the file's name and its first batch, if that is possible.
    pub(super) fn list(
        disk: &dyn Disk,
        directory: &Path,
        mut on_damage: impl FnMut(LogError) -> Result<(), LogError>,
    ) -> Result<Self, LogError> {
        let mut found = Self { segments: Vec::new(), newest: None, temporary: Vec::new() };
        for name in disk.list(directory).map_err(LogError::io("list", directory))? {
            let path = directory.join(&name);
            if [prepare::FILE_NAME, ROLL_FILE_NAME, newest::TEMPORARY_NAME].contains(&name.as_str()) {
                found.temporary.push(path);
            } else if name.ends_with(".log") {
                found.newest = found.newest.max(segment_first(&name));
                match read_named_header(disk, &path, &name) {
                    Ok(header) => found.segments.push((path, header)),
                    Err(error) => {
                        on_damage(error)?;
                        found.segments.extend(guess_header(disk, &path, &name).map(|header| (path, header)));
                    }
                }
            }
        }
        Ok(found)
    }

    /// The unbroken run of segments that ends with the newest, and before it those that came back after they
    /// had been dropped. The run reaches at least to `base`; what of it lies below is kept, as another replica
    /// may still lack it.
    pub(super) fn split_at_base(&self, disk: &dyn Disk, base: Index) -> Result<Run, LogError> {
        let reaching = self.segments.partition_point(|(_, header)| header.first <= base + 1);
        if reaching == 0
            && let Some((path, header)) = self.segments.first()
        {
            let what = format!("entries {} to {} before it are missing", base + 1, header.first - 1);
            return Err(LogError::Damaged { file: path.clone(), offset: 0, what });
        }
        let mut first_kept = reaching.saturating_sub(1);
        let mut broken_off = None;
        while first_kept > 0 && broken_off.is_none() {
            match self.check_continues(disk, first_kept - 1) {
                Ok(()) => first_kept -= 1,
                // Checkpoints hold what it held.
                Err(found) => broken_off = Some(found?),
            }
        }
        let (before, kept) = self.segments.split_at(first_kept);
        let (mut obsolete, mut cut_off) = (Vec::new(), Vec::new());
        match broken_off {
            Some(BrokenOff::Damage(_)) => cut_off = before.to_vec(),
            _ => obsolete = before.to_vec(),
        }
        Ok(Run { kept: kept.to_vec(), obsolete, cut_off, broken_off })
    }

    /// An error unless the segment at `place` is whole and the next one follows it: why, or that it cannot be read.
    fn check_continues(&self, disk: &dyn Disk, place: usize) -> Result<(), Result<BrokenOff, LogError>> {
        let ((path, header), next) = (&self.segments[place], self.segments[place + 1].1);
        let file = disk.open_read(path).map_err(LogError::io("open", path)).map_err(Err)?;
        let mut scan = Scan::new(header.first - 1);
        match scan.segment(file, path.clone(), *header, Some(next)) {
            Ok(()) => Ok(()),
            Err(error @ LogError::Damaged { .. }) if scan.ends_clean() => Err(Ok(BrokenOff::Gap(error))),
            Err(error @ LogError::Damaged { .. }) => Err(Ok(BrokenOff::Damage(error))),
            Err(error) => Err(Err(error)),
        }
    }
}

fn read_named_header(disk: &dyn Disk, path: &Path, name: &str) -> Result<SegmentHeader, LogError> {
    let file = disk.open_read(path).map_err(LogError::io("open", path))?;
    let header = read_header(&*file, path)?;
    if name != segment_name(header.first) {
        let what = format!("its header says {}", segment_name(header.first));
        return Err(damaged(path, 0, what));
    }
    Ok(header)
}

/// What a segment says about itself.
pub(super) fn read_header(file: &dyn DiskFile, path: &Path) -> Result<SegmentHeader, LogError> {
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

/// What a header that cannot be read must have said, by the segment's name, length and first batch.
fn guess_header(disk: &dyn Disk, path: &Path, name: &str) -> Option<SegmentHeader> {
    let first = segment_first(name)?;
    let file = disk.open_read(path).ok()?;
    let mut bytes = [0; BATCH_HEADER_BYTES];
    file.read_exact_at(&mut bytes, SEGMENT_HEADER_BYTES as u64).ok()?;
    let (BatchHeader { salt, chain, .. }, _) =
        BatchHeader::decode(&bytes).filter(|(batch, _)| batch.sequence == 0)?;
    Some(SegmentHeader { size: file.length().ok()?, first, salt, chain })
}

/// The first entry of a segment by its name.
pub(super) fn segment_first(name: &str) -> Option<Index> {
    let first = name.strip_suffix(".log")?.parse().ok()?;
    (first > 0 && name == segment_name(first)).then_some(first)
}

pub(super) fn damaged(file: &Path, offset: u64, what: String) -> LogError {
    LogError::Damaged { file: file.to_owned(), offset, what }
}

/// A place in the log from which on nothing is known to be durable.
#[derive(Clone, Copy)]
pub(super) struct Unproven {
    pub(super) segment: usize,
    pub(super) offset: u64,
}

/// The log as far as it was read.
pub(super) struct Scan {
    pub(super) segments: VecDeque<Segment>,
    /// Of the last entry so far.
    pub(super) last: Index,
    /// What the last batch said to be durable.
    pub(super) mark: Index,
    /// The highest commit index so far.
    pub(super) commit: Index,
    pub(super) unproven: Option<Unproven>,
    /// In the newest segment.
    pub(super) torn: Option<TornTail>,
    /// The file that is being read.
    bytes: Vec<u8>,
}

/// A batch that counts.
pub(super) struct Batch {
    pub(super) header: BatchHeader,
    /// Where it begins in its segment.
    pub(super) offset: u64,
}

impl Scan {
    /// Of a log whose first entry is the one after `last`.
    pub(super) fn new(last: Index) -> Self {
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
    pub(super) fn segment(
        &mut self,
        file: Arc<dyn DiskFile>,
        path: PathBuf,
        header: SegmentHeader,
        next: Option<SegmentHeader>,
    ) -> Result<(), LogError> {
        self.begin(file, path, header)?;
        while self.next()?.is_some() {}
        self.end(next)
    }

    /// Takes up the next segment.
    pub(super) fn begin(
        &mut self,
        file: Arc<dyn DiskFile>,
        path: PathBuf,
        header: SegmentHeader,
    ) -> Result<(), LogError> {
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
        Ok(())
    }

    /// The segment's next batch; `None` where no further one counts, which [`end`](Self::end) judges.
    pub(super) fn next(&mut self) -> Result<Option<Batch>, LogError> {
        let Some((header, checksum)) = self.next_batch() else { return Ok(None) };
        let offset = self.tail().offset;
        self.apply(header, checksum)?;
        Ok(Some(Batch { header, offset }))
    }

    /// The bytes between a batch's header and its padding.
    pub(super) fn payload(&self, batch: &Batch) -> &[u8] {
        let start = batch.offset as usize + BATCH_HEADER_BYTES;
        &self.bytes[start..start + batch.header.payload_bytes as usize]
    }

    /// Judges the end of the segment, by what `next` says of it.
    pub(super) fn end(&mut self, next: Option<SegmentHeader>) -> Result<(), LogError> {
        let segment = self.segments.back().expect("it was begun");
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

    /// Whether nothing is written behind the last good batch of the newest segment.
    fn ends_clean(&self) -> bool {
        let end = self.segments.back().map(|segment| segment.tail.offset as usize);
        end.and_then(|end| self.bytes.get(end..)).is_some_and(|rest| rest.iter().all(|byte| *byte == 0))
    }

    /// Where the segment's batches end so far.
    pub(super) fn tail(&self) -> Tail {
        self.segments.back().expect("it was begun").tail
    }

    /// The segment's bytes up to there.
    pub(super) fn whole(&self) -> &[u8] {
        &self.bytes[..self.tail().offset as usize]
    }

    /// Reads again what lies behind the last good batch: somebody may be writing it.
    pub(super) fn read_again(&mut self) -> Result<(), LogError> {
        let Segment { file, path, tail, .. } = self.segments.back().expect("it was begun");
        let length = file.length().map_err(LogError::io("read", path))?.max(tail.offset);
        self.bytes.resize(length.min(FILE_BYTES_MAX as u64) as usize, 0);
        file.read_exact_at(&mut self.bytes[tail.offset as usize..], tail.offset)
            .map_err(LogError::io("read", path))
    }

    /// Goes on behind what is damaged, at a later batch of the segment that can be read, and says where that
    /// is. For those who look for what is left of a log; what the scan says of it as a whole does not count any
    /// more.
    pub(super) fn skip_damage(&mut self) -> Option<u64> {
        let (_, after) = self.extent_of_bad();
        let at = self.later_batch(after)?;
        let (header, _) = BatchHeader::decode(&self.bytes[at..])?;
        self.last = match header.kind {
            BatchKind::Entries => header.index.saturating_sub(1),
            BatchKind::Mark | BatchKind::Truncate => header.index,
        };
        let tail = &mut self.segments.back_mut()?.tail;
        (tail.offset, tail.sequence, tail.chain) = (at as u64, header.sequence, header.chain);
        Some(at as u64)
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
        let Segment { path, tail, .. } = self.segments.back().expect("its end was reached");
        let Self { bytes, last, mark, .. } = self;
        let start = tail.offset as usize;
        if last < mark {
            let what = format!("the log ends here at entry {last}, but entry {mark} was durable");
            return Err(damaged(path, tail.offset, what));
        }
        let Some(written) = bytes[start..].iter().rposition(|byte| *byte != 0) else { return Ok(None) };
        let (end, later_from) = self.extent_of_bad();
        if end == start {
            return Err(damaged(path, tail.offset, "a batch is not chained".to_owned()));
        }
        if is_on(Mutant::DamageCutAsTorn) {
            return Ok(Some(TornTail { file: path.clone(), offset: tail.offset, bytes: written as u64 + 1 }));
        }
        if let Some(later) = self.later_batch(later_from) {
            let what = format!("a bad batch, and a good one follows at {later}");
            return Err(damaged(path, tail.offset, what));
        }
        // Where it ends is known if its header can be read.
        if later_from == end && start + written >= end {
            let what = "a bad batch, and something was written behind it".to_owned();
            return Err(damaged(path, tail.offset, what));
        }
        if !has_unwritten(bytes, start, end) {
            return Err(damaged(path, tail.offset, "the last batch is bad, but was written".to_owned()));
        }
        Ok(Some(TornTail { file: path.clone(), offset: tail.offset, bytes: written as u64 + 1 }))
    }

    /// Where the bad batch at the tail ends, at the tail itself if it is not chained; and from where on later ones
    /// are looked for: not in its payload, which may hold a copy of a log.
    fn extent_of_bad(&self) -> (usize, usize) {
        let Segment { tail, salt, .. } = self.segments.back().expect("its end was reached");
        let start = tail.offset as usize;
        let header =
            self.bytes.get(start..).and_then(BatchHeader::decode).filter(|(header, _)| {
                header.salt == *salt && header.payload_bytes as usize <= BATCH_BYTES_MAX
            });
        match header {
            Some((header, _)) if header.sequence == tail.sequence && header.chain == tail.chain => {
                let end = start + header.batch_bytes() as usize;
                (end, end)
            }
            Some(_) => (start, start),
            None => (start + BATCH_HEADER_BYTES, start),
        }
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
}

/// Whether some sector of the region that a write would have filled still reads as before it, or its end.
fn has_unwritten(bytes: &[u8], start: usize, end: usize) -> bool {
    let Some(region) = bytes.get(start..end) else { return true };
    let first = (SECTOR_BYTES as usize - start % SECTOR_BYTES as usize).min(region.len());
    let (head, sectors) = region.split_at(first);
    let zero = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
    region.last() == Some(&0) || zero(head) || sectors.chunks(SECTOR_BYTES as usize).any(zero)
}
