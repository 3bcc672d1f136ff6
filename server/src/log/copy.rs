//! The log of a node that may be running, copied from beside it.
//!
//! The node is not asked and not disturbed: its files are opened for reading, all that are needed before the
//! first is read, so that none can be dropped under the reader. What may look wrong because it is being written:
//!
//! - **The end of the newest segment.** A later batch may become visible to a reader before an earlier one has
//!   completely. As an earlier batch is whole before the next is written, reading again from the last good
//!   batch shows the truth.
//! - **A listed segment that is gone, or one that does not continue the one before:** dropped or truncated after
//!   the listing. The whole is tried again.
//!
//! - **A segment that was noted as the newest and is not there:** it was truncated meanwhile, and likewise.
//!
//! All are bounded; what is still wrong then is damage. A segment that is being prepared is not one yet.
//! Nothing of the log that was written before the copy began is left out.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_protocol::{Index, Term};

use super::format::{BATCH_HEADER_BYTES, BatchKind, SegmentHeader};
use super::inspect::{Seen, check_entries};
use super::newest;
use super::scan::{Scan, damaged, read_header, segment_first};
use super::{LogError, segment_name};
use crate::disk::{Disk, DiskFile};

/// How often the end of the newest segment is read.
const READS_MAX: usize = 8;

/// What was copied.
#[derive(Debug)]
pub(crate) struct Copied {
    /// Of the first entry, if there is one.
    pub(crate) first: Index,
    pub(crate) last: Index,
    /// Of the last entry; 0 if there is none.
    pub(crate) last_term: Term,
    /// The highest recorded commit index.
    pub(crate) commit: Index,
    pub(crate) segments: usize,
    /// Bytes that were copied: what is allocated ahead is not.
    pub(crate) bytes: u64,
}

/// A segment, opened.
struct Source {
    name: String,
    path: PathBuf,
    file: Arc<dyn DiskFile>,
    header: SegmentHeader,
}

/// Copies the segments with entries above `after` from one directory to another, which is empty: whole batches
/// only, each checked down to the content of its entries, and each file synced. An error may be that the log
/// has changed meanwhile: remove what was copied, and try again. A log whose end is missing is refused, and, unless it
/// `may_be_absent`, one that is missing as a whole.
pub(crate) fn copy(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    after: Index,
    may_be_absent: bool,
) -> Result<Copied, LogError> {
    let sources = open(disk, from, after, may_be_absent)?;
    let first = sources.first().map_or(after + 1, |source| source.header.first);
    let mut scan = Scan::new(first - 1);
    let mut terms = Vec::new();
    let mut bytes = 0;
    for (place, source) in sources.iter().enumerate() {
        let next = sources.get(place + 1).map(|next| next.header);
        scan.begin(source.file.clone(), source.path.clone(), source.header)?;
        read(&mut scan, &source.path, next, &mut terms)?;
        bytes += scan.whole().len() as u64;
        write(disk, &to.join(&source.name), scan.whole(), source.header.size)?;
        // What has been copied is not looked at again, and its file is closed.
        scan.segments.clear();
    }
    disk.sync_directory(to).map_err(LogError::io("sync", to))?;
    let last_term = terms.last().map_or(0, |(_, term)| *term);
    let commit = scan.commit.min(scan.last);
    Ok(Copied { first, last: scan.last, last_term, commit, segments: sources.len(), bytes })
}

/// Opens the segments with entries above `after`, all before the first is read.
fn open(
    disk: &dyn Disk,
    directory: &Path,
    after: Index,
    may_be_absent: bool,
) -> Result<Vec<Source>, LogError> {
    // What is noted before the listing is there then, unless it was truncated in between.
    let noted = newest::load(disk, directory)?;
    let names = disk.list(directory).map_err(LogError::io("list", directory))?;
    let mut names: Vec<(Index, String)> =
        names.into_iter().filter_map(|name| Some((segment_first(&name)?, name))).collect();
    newest::check(directory, noted, names.last().map(|(first, _)| *first), may_be_absent)?;
    let reaching = names.partition_point(|(first, _)| *first <= after + 1);
    if reaching == 0
        && let Some((first, name)) = names.first()
    {
        let what = format!("entries {} to {} before it are missing", after + 1, first - 1);
        return Err(damaged(&directory.join(name), 0, what));
    }
    names.drain(..reaching.saturating_sub(1));
    let opened: Vec<_> = names
        .into_iter()
        .map(|(_, name)| {
            let path = directory.join(&name);
            let file = disk.open_read(&path).map_err(LogError::io("open", &path))?;
            Ok((name, path, file))
        })
        .collect::<Result<_, LogError>>()?;
    let with_header = opened.into_iter().map(|(name, path, file)| {
        let header = read_header(&*file, &path)?;
        if name != segment_name(header.first) {
            let what = format!("its header says {}", segment_name(header.first));
            return Err(damaged(&path, 0, what));
        }
        Ok(Source { name, path, file, header })
    });
    with_header.collect()
}

/// Reads a segment as far as its batches are whole.
fn read(
    scan: &mut Scan,
    path: &Path,
    next: Option<SegmentHeader>,
    terms: &mut Vec<(Index, Term)>,
) -> Result<(), LogError> {
    let mut reads = 1;
    loop {
        while let Some(batch) = scan.next()? {
            if batch.header.kind == BatchKind::Truncate {
                terms.retain(|(first, _)| *first <= batch.header.index);
            }
            let mut problem = None;
            let start = batch.offset + BATCH_HEADER_BYTES as u64;
            check_entries(path, scan.payload(&batch), start, terms, |seen| {
                if let Seen::Problem(error) = seen {
                    problem.get_or_insert(error);
                }
            });
            problem.map_or(Ok(()), Err)?;
        }
        match scan.end(next) {
            Err(LogError::Damaged { .. }) if next.is_none() && reads < READS_MAX => scan.read_again()?,
            ended => return ended,
        }
        reads += 1;
    }
}

fn write(disk: &dyn Disk, path: &Path, bytes: &[u8], size: u64) -> Result<(), LogError> {
    let file = disk.create(path).map_err(LogError::io("create", path))?;
    file.write_all_at(bytes, 0).map_err(LogError::io("write", path))?;
    // Zeros, which take no space.
    file.set_length(size.max(bytes.len() as u64)).map_err(LogError::io("extend", path))?;
    file.sync_data().map_err(LogError::io("sync", path))
}

/// Whether trying again may help: the log has changed while it was copied, or is damaged.
pub(crate) fn may_have_changed(error: &LogError) -> bool {
    match error {
        LogError::Damaged { .. } | LogError::Missing { .. } => true,
        LogError::Io { source, .. } => source.kind() == io::ErrorKind::NotFound,
        _ => false,
    }
}
