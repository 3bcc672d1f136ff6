//! From files to a log. What counts as torn and what as damaged is in the [module's header](super); the judgement
//! itself is [`scan`](super::scan)'s.
//!
//! Nothing is changed before everything was found to be legal. Then, each step durable before the next:
//! segments below the base go, oldest first; the newest is noted; what is torn becomes zeros; what no mark says to be durable is
//! written again (R18); a mark says that it is now. Every step leaves a log that recovers to the same.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_protocol::Index;

use super::format::{BATCH_HEADER_BYTES, BatchKind, SEGMENT_HEADER_BYTES};
use super::newest;
use super::scan::{BrokenOff, Found, Run, Scan, TornTail, damaged};
use super::segment::{Segment, Segments, Shared};
use super::{Active, FIRST_SEGMENT_BYTES_MAX, Log, LogError, LogSettings, NewSegment, ROLL_FILE_NAME};
use crate::disk::{Disk, DiskFile};
use crate::mutant::{Mutant, is_on};

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
    let found = Found::list(&*disk, &directory, Err)?;
    let mut noted = newest::load(&*disk, &directory)?;
    newest::check(&directory, noted, found.newest, settings.may_be_absent)?;
    let Run { kept, obsolete, broken_off, .. } = found.split_at_base(&*disk, base)?;
    match broken_off {
        // The operator is told, in case a replica lacks what it held.
        Some(BrokenOff::Gap(error)) => {
            tracing::warn!(%error, "a log segment below the checkpoints is not followed by the next: removing it");
        }
        Some(BrokenOff::Damage(error)) => tracing::error!(
            %error,
            "a log segment below the checkpoints is damaged: it and those before it are left as they are, but no \
             follower is fed from them"
        ),
        None => {}
    }
    let mut scan = Scan::new(kept.first().map_or(base, |(_, header)| header.first - 1));
    for (place, (path, header)) in kept.iter().enumerate() {
        let file = disk.open(path).map_err(LogError::io("open", path))?;
        scan.segment(file, path.clone(), *header, kept.get(place + 1).map(|(_, next)| *next))?;
    }
    if !settings.may_lag_base && base > 0 && (scan.last < base || kept.is_empty()) {
        let what =
            format!("the log ends at entry {}, but a checkpoint of what it held is at {base}", scan.last);
        let newest = kept.last().map_or(&directory, |(path, _)| path);
        return Err(damaged(newest, 0, what));
    }
    let mut recovery = Recovery { mark: scan.mark, ..Recovery::default() };
    remove_oldest_first(&*disk, &directory, &found.temporary)?;
    let mut obsolete: Vec<PathBuf> = obsolete.into_iter().map(|(path, _)| path).collect();
    if scan.last < base {
        if noted.is_some() {
            newest::store(&*disk, &directory, 0)?;
            noted = Some(0);
        }
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

    let noted = note_newest(&*disk, &directory, noted, &scan)?;

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
        noted,
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

/// Notes which segment is the newest. Without room for that the note stays lower than it could be, until a batch is
/// written; only a log that has none yet cannot do without.
fn note_newest(
    disk: &dyn Disk,
    directory: &Path,
    noted: Option<Index>,
    scan: &Scan,
) -> Result<Index, LogError> {
    let first = scan.segments.back().expect("a segment was there or was made").first;
    match (noted, newest::store(disk, directory, first)) {
        (Some(noted), Err(error)) if error.is_no_room() => Ok(noted),
        (_, stored) => stored.map(|()| first),
    }
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

impl Scan {
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
