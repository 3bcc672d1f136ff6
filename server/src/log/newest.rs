//! Which segment is the newest, noted beside the segments: without it a log whose end is missing would look like a
//! shorter one.
//!
//! A [small file](crate::directory::small_file) with the magic "QRTLOGNW", the version of the log, and as its payload:
//!
//! ```text
//! first         u64 varint     a segment that begins at this entry, or behind it, is there; 0: there may be none
//! ```
//!
//! # Invariants
//!
//! - No batch is written to a segment before the note names it: what can have been acknowledged is in segments that
//!   would be missed.
//! - Before a segment is removed from the log's end the note is lowered to the one that is the newest then, or to 0
//!   if the log begins anew.
//! - So the note never claims more than is there, whatever a crash keeps, and what it claims is durable.

use std::io;
use std::path::{Path, PathBuf};

use quorate_protocol::{Index, parse};

use super::{LogError, format, segment_name};
use crate::directory::DirectoryError;
use crate::directory::small_file::SmallFile;
use crate::disk::{Disk, is_shortage};
use crate::mutant::{Mutant, is_on};

/// What the file is called.
pub(crate) const NAME: &str = "newest";

/// What it is called until it is whole.
pub(super) const TEMPORARY_NAME: &str = "newest.tmp";

const FILE: SmallFile = SmallFile {
    magic: *b"QRTLOGNW",
    version: format::VERSION as u32,
    payload_bytes_max: 10,
    name: NAME,
    temporary: TEMPORARY_NAME,
    not_one: "it does not begin as a note of the newest segment",
};

/// What is noted; none if there is no note.
pub(super) fn load(disk: &dyn Disk, directory: &Path) -> Result<Option<Index>, LogError> {
    let payload = match FILE.load(disk, directory) {
        Err(DirectoryError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(None);
        }
        loaded => loaded.map_err(log_error)?,
    };
    let damaged = |_| LogError::Damaged {
        file: directory.join(NAME),
        offset: 0,
        what: "its content is malformed".to_owned(),
    };
    parse(&payload).map(Some).map_err(damaged)
}

/// Notes it, durably.
pub(crate) fn store(disk: &dyn Disk, directory: &Path, first: Index) -> Result<(), LogError> {
    let payload = postcard::to_stdvec(&first).expect("a number serialises, and a Vec takes every byte");
    FILE.store(disk, directory, &payload).map_err(log_error)
}

/// The whole log is missing.
pub(crate) fn absent(directory: &Path) -> LogError {
    let what = "the log is missing, though this node has had one".to_owned();
    LogError::Missing { file: directory.to_owned(), what }
}

/// Judges whether a log whose newest segment begins at `newest`, if it has one, has lost its end. `may_be_absent`: there
/// may be no log yet.
pub(super) fn check(
    directory: &Path,
    noted: Option<Index>,
    newest: Option<Index>,
    may_be_absent: bool,
) -> Result<(), LogError> {
    let missing = |file: PathBuf, what: &str| Err(LogError::Missing { file, what: what.to_owned() });
    match (noted, newest) {
        (None, _) if may_be_absent || is_on(Mutant::MissingLogBegunAnew) => Ok(()),
        (None, None) => Err(absent(directory)),
        (None, Some(_)) => missing(directory.join(NAME), "it is missing: how far the log went is not known"),
        (Some(first), newest) if newest.unwrap_or(0) < first => {
            missing(directory.join(segment_name(first)), "it is missing: the log went at least that far")
        }
        _ => Ok(()),
    }
}

fn log_error(error: DirectoryError) -> LogError {
    match error {
        DirectoryError::Io { doing, path: file, source } if doing != "sync" && is_shortage(&source) => {
            LogError::NoRoom { operation: doing, file, source }
        }
        DirectoryError::Io { doing, path: file, source } => LogError::Io { operation: doing, file, source },
        DirectoryError::NewerVersion { path: file, version, .. }
        | DirectoryError::OlderVersion { path: file, version, .. } => {
            LogError::Version { file, version: u16::try_from(version).unwrap_or(u16::MAX) }
        }
        DirectoryError::Damaged { path: file, why } => {
            LogError::Damaged { file, offset: 0, what: why.to_owned() }
        }
        other => unreachable!("a small file is not refused so: {other}"),
    }
}
