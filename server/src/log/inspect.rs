//! The log as its files have it, for those who only look: nothing is changed, and damage is reported rather than
//! the end. Whether something is torn or damaged is judged as at a start ([`scan`](super::scan)).

use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_protocol::entry::{Entry, EntryError, Payload};
use quorate_protocol::{Index, Term};

use super::format::{BATCH_HEADER_BYTES, BatchKind, SegmentHeader, entry_claim};
use super::newest;
use super::scan::{Batch, Found, Listed, Run, Scan, TornTail, damaged};
use super::segment::{Segments, Shared};
use super::{LogError, LogReader};
use crate::disk::Disk;

/// What is met on the way through a log, in the order of the files.
pub(crate) enum Seen<'a> {
    /// A segment begins.
    Segment { file: &'a Path, first: Index, bytes: u64 },
    /// A batch that counts; its entries follow.
    Batch(SeenBatch<'a>),
    /// An entry of it.
    Entry { entry: Entry<'a>, payload: Payload<'a> },
    /// Something is wrong. What follows is what is intact behind it.
    Problem(LogError),
    /// Something is wrong with a segment whose entries are all in the checkpoints.
    ObsoleteProblem(LogError),
}

/// A batch that counts.
pub(crate) struct SeenBatch<'a> {
    pub(crate) file: &'a Path,
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) what: SeenKind,
    pub(crate) mark: Index,
    pub(crate) commit: Index,
}

/// What a batch does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum SeenKind {
    /// Appends so many entries.
    Entries { first: Index, count: u32 },
    /// Says what is durable.
    Mark,
    /// Takes back every entry above an index.
    Truncate { after: Index },
}

/// What a log comes to.
#[derive(Debug, Default)]
pub(crate) struct Inspected {
    /// Of the first entry; one above `last` if there is none.
    pub(crate) first: Index,
    pub(crate) last: Index,
    /// Of the last entry that was seen; 0 if there is none.
    pub(crate) last_term: Term,
    /// What the last batch says to be durable.
    pub(crate) mark: Index,
    /// The highest recorded commit index.
    pub(crate) commit: Index,
    /// What a start would cut.
    pub(crate) torn: Option<TornTail>,
    pub(crate) segments: usize,
    /// Of all segment files.
    pub(crate) bytes: u64,
    /// Segments that were not taken into use: a start removes them.
    pub(crate) temporary: Vec<PathBuf>,
    /// Segments that are whole, but have a damaged one behind them: a start leaves them alone.
    pub(crate) cut_off: Vec<PathBuf>,
    /// Segments that are whole, but came back after they had been dropped: a start removes them.
    pub(crate) obsolete: Vec<PathBuf>,
}

/// Goes through the log in `directory`, which must reach back to `base`: the last entry that the older checkpoint
/// holds. It may be absent before a node has promised anything, and in a backup. An error only if the directory cannot be
/// read.
pub(crate) fn inspect(
    disk: &dyn Disk,
    directory: &Path,
    base: Index,
    may_be_absent: bool,
    mut on: impl FnMut(Seen<'_>),
) -> Result<Inspected, LogError> {
    let found = Found::list(disk, directory, |error| {
        on(Seen::Problem(error));
        Ok(())
    })?;
    let end = newest::load(disk, directory)
        .and_then(|noted| newest::check(directory, noted, found.newest, may_be_absent));
    if let Err(error) = end {
        on(Seen::Problem(error));
    }
    let mut inspected = Inspected { temporary: found.temporary.clone(), ..Inspected::default() };
    let kept = match found.split_at_base(disk, base) {
        Ok(Run { kept, obsolete, cut_off, .. }) => {
            for listed in cut_off {
                let problems = look_at_obsolete(disk, &listed);
                if problems.is_empty() {
                    inspected.cut_off.push(listed.0);
                }
                problems.into_iter().for_each(|error| on(Seen::ObsoleteProblem(error)));
            }
            for listed in obsolete {
                let problems = look_at_obsolete(disk, &listed);
                if problems.is_empty() {
                    inspected.obsolete.push(listed.0);
                }
                problems.into_iter().for_each(|error| on(Seen::ObsoleteProblem(error)));
            }
            kept
        }
        Err(error) => {
            on(Seen::Problem(error));
            found.segments
        }
    };
    let mut look = Look { disk, scan: Scan::new(base), terms: Vec::new(), mark: 0, commit: 0, on };
    inspected.first = kept.first().map_or(base + 1, |(_, header)| header.first);
    for (place, listed) in kept.iter().enumerate() {
        inspected.segments += 1;
        inspected.bytes += look.segment(listed, kept.get(place + 1).map(|(_, next)| *next));
    }
    inspected.last = look.scan.last;
    inspected.last_term = look.terms.last().map_or(0, |(_, term)| *term);
    (inspected.mark, inspected.commit) = (look.mark, look.commit.min(inspected.last));
    inspected.torn = look.scan.torn;
    Ok(inspected)
}

/// What is wrong with a segment by itself: that the next does not follow it is nothing.
fn look_at_obsolete(disk: &dyn Disk, listed: &Listed) -> Vec<LogError> {
    let mut problems = Vec::new();
    let on = |seen: Seen<'_>| {
        if let Seen::Problem(error) = seen {
            problems.push(error);
        }
    };
    let mut look = Look { disk, scan: Scan::new(0), terms: Vec::new(), mark: 0, commit: 0, on };
    look.segment(listed, None);
    let torn = look.scan.torn;
    problems.extend(torn.map(|torn| damaged(&torn.file, torn.offset, "a batch is not whole".to_owned())));
    problems
}

struct Look<'a, F> {
    disk: &'a dyn Disk,
    scan: Scan,
    terms: Vec<(Index, Term)>,
    mark: Index,
    commit: Index,
    on: F,
}

impl<F: FnMut(Seen<'_>)> Look<'_, F> {
    /// Goes through one segment, and returns the length of its file. What is wrong with it does not count against
    /// the next.
    fn segment(&mut self, (path, header): &Listed, next: Option<SegmentHeader>) -> u64 {
        // Only the newest is needed afterwards; its predecessors are open files.
        self.scan = Scan::new(header.first - 1);
        let begun = self
            .disk
            .open_read(path)
            .map_err(LogError::io("open", path))
            .and_then(|file| self.scan.begin(file, path.clone(), *header));
        let Some(bytes) = self.scan.segments.back().map(|segment| segment.bytes) else {
            self.problem(begun);
            return 0;
        };
        (self.on)(Seen::Segment { file: path, first: header.first, bytes });
        loop {
            match self.scan.next() {
                Ok(Some(batch)) => self.batch(path, &batch),
                Ok(None) => {
                    let from = self.scan.tail().offset;
                    let Some(later) = self.scan.skip_damage() else { break };
                    let what = format!("a bad batch, and a good one follows at {later}");
                    (self.on)(Seen::Problem(damaged(path, from, what)));
                }
                Err(error) => {
                    (self.on)(Seen::Problem(error));
                    if self.scan.skip_damage().is_none() {
                        return bytes;
                    }
                }
            }
        }
        let ended = self.scan.end(next);
        self.problem(ended);
        bytes
    }

    fn problem(&mut self, result: Result<(), LogError>) {
        if let Err(error) = result {
            (self.on)(Seen::Problem(error));
        }
    }

    fn batch(&mut self, file: &Path, batch: &Batch) {
        let Batch { header, offset } = batch;
        let what = match header.kind {
            BatchKind::Entries => SeenKind::Entries { first: header.index, count: header.count },
            BatchKind::Mark => SeenKind::Mark,
            BatchKind::Truncate => SeenKind::Truncate { after: header.index },
        };
        let (offset, bytes) = (*offset, header.batch_bytes());
        self.mark = header.mark;
        self.commit = self.commit.max(header.commit);
        (self.on)(Seen::Batch(SeenBatch {
            file,
            offset,
            bytes,
            what,
            mark: header.mark,
            commit: header.commit,
        }));
        match what {
            SeenKind::Entries { .. } => {
                let start = offset + BATCH_HEADER_BYTES as u64;
                check_entries(file, self.scan.payload(batch), start, &mut self.terms, &mut self.on);
            }
            SeenKind::Truncate { after } => self.terms.retain(|(first, _)| *first <= after),
            SeenKind::Mark => {}
        }
    }
}

/// Checks each entry of a batch by itself: checksum, term and payload. `terms` has the first index of each term so
/// far. The batch's own checksum was right, so what is wrong here was written so.
pub(super) fn check_entries(
    file: &Path,
    payload: &[u8],
    start: u64,
    terms: &mut Vec<(Index, Term)>,
    mut on: impl FnMut(Seen<'_>),
) {
    let mut at = 0;
    while let Some((length, index)) = entry_claim(&payload[at..]) {
        match check_entry(&payload[at..], terms) {
            Ok((entry, payload)) => on(Seen::Entry { entry, payload }),
            Err(why) => {
                on(Seen::Problem(damaged(file, start + at as u64, format!("entry {index}: {why}"))));
            }
        }
        at = at.saturating_add(length as usize).min(payload.len());
    }
}

fn check_entry<'a>(
    bytes: &'a [u8],
    terms: &mut Vec<(Index, Term)>,
) -> Result<(Entry<'a>, Payload<'a>), String> {
    let entry = Entry::parse(bytes).map_err(|error: EntryError| error.to_string())?;
    let last_term = terms.last().map_or(0, |(_, term)| *term);
    if entry.term < last_term {
        return Err(format!("it is of term {}, after one of term {last_term}", entry.term));
    }
    if entry.term > last_term {
        terms.push((entry.index, entry.term));
    }
    let payload = entry.payload().map_err(|error| format!("its content cannot be decoded: {error}"))?;
    Ok((entry, payload))
}

/// A log that nobody writes.
pub(crate) struct ReadOnlyLog {
    pub(crate) reader: LogReader,
    /// Of its last entry, or `base`.
    pub(crate) last: Index,
}

/// Opens a log that is whole and reaches back to `base`, to read from it; nothing is changed.
pub(crate) fn open_read_only(
    disk: &dyn Disk,
    directory: &Path,
    base: Index,
) -> Result<ReadOnlyLog, LogError> {
    let Run { kept, .. } = Found::list(disk, directory, Err)?.split_at_base(disk, base)?;
    let mut scan = Scan::new(kept.first().map_or(base, |(_, header)| header.first - 1));
    for (place, (path, header)) in kept.iter().enumerate() {
        let file = disk.open_read(path).map_err(LogError::io("open", path))?;
        scan.segment(file, path.clone(), *header, kept.get(place + 1).map(|(_, next)| *next))?;
    }
    let last = scan.last;
    let shared = Arc::new(Shared::new(Segments { list: scan.segments, last }));
    Ok(ReadOnlyLog { reader: LogReader { shared }, last })
}
