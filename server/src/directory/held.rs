//! How far a log went before it was found damaged (R8).
//!
//! A [small file](super::small_file) with the magic "QRMHELD\n", version 1, and as its payload:
//!
//! ```text
//! term          u64 varint
//! index         u64 varint
//! ```
//!
//! It is there from before anything of the damaged log is touched until the log reaches as far again, or until it is
//! known that nothing beyond was ever committed. Meanwhile the node votes for nobody who has less.
//!
//! A log that is missing, or whose end is, counts as damaged. The damaged log itself is set aside as it is, in the directory `damaged`, and removed when it is not needed any more.
//! How far it went nobody can say for sure, as its end may be damaged, too: so it counts as having held everything up to
//! the end of the promised term.

use std::path::Path;

use quorate_protocol::{Index, Term, parse};

use crate::disk::Disk;

use super::error::{DirectoryError, failed};
use super::small_file::SmallFile;
use super::{DAMAGED, HELD, HELD_TEMPORARY, LOG};

const FILE: SmallFile = SmallFile {
    magic: *b"QRMHELD\n",
    version: 1,
    payload_bytes_max: 20,
    name: HELD,
    temporary: HELD_TEMPORARY,
    not_one: "it does not begin as the end of a damaged log",
};

/// Where the log ended before it was damaged; none if it is whole.
pub(crate) fn load_held(disk: &dyn Disk, directory: &Path) -> Result<Option<(Term, Index)>, DirectoryError> {
    let names = disk.list(directory).map_err(failed("list", directory))?;
    if !names.iter().any(|name| name == HELD) {
        return Ok(None);
    }
    let payload = FILE.load(disk, directory)?;
    let damaged = |_| DirectoryError::Damaged { path: directory.join(HELD), why: "its content is malformed" };
    parse(&payload).map(Some).map_err(damaged)
}

/// Makes it durable, or durably gone.
pub(crate) fn store_held(
    disk: &dyn Disk,
    directory: &Path,
    held: Option<(Term, Index)>,
) -> Result<(), DirectoryError> {
    if let Some(held) = held {
        let payload = postcard::to_stdvec(&held).expect("two numbers serialise, and a Vec takes every byte");
        return FILE.store(disk, directory, &payload);
    }
    let path = directory.join(HELD);
    disk.remove(&path).map_err(failed("remove", &path))?;
    disk.sync_directory(directory).map_err(failed("sync", directory))?;
    remove_damaged(disk, &directory.join(DAMAGED))
}

/// Puts the files of a damaged log out of the way, durably, and notes that entries of the promised term, and of those
/// before, may be among them. The directory's lock must be held.
pub(crate) fn set_log_aside(disk: &dyn Disk, directory: &Path, promised: Term) -> Result<(), DirectoryError> {
    let earlier = load_held(disk, directory)?;
    store_held(disk, directory, earlier.max(Some((promised, Index::MAX))))?;
    let (log, aside) = (directory.join(LOG), directory.join(DAMAGED));
    disk.create_directory(&aside).map_err(failed("create", &aside))?;
    for name in disk.list(&log).map_err(failed("list", &log))? {
        disk.rename(&log.join(&name), &aside.join(&name)).map_err(failed("rename", &log.join(&name)))?;
    }
    for changed in [&aside, &log, directory] {
        disk.sync_directory(changed).map_err(failed("sync", changed))?;
    }
    Ok(())
}

fn remove_damaged(disk: &dyn Disk, aside: &Path) -> Result<(), DirectoryError> {
    // It may not be there.
    for name in disk.list(aside).unwrap_or_default() {
        disk.remove(&aside.join(&name)).map_err(failed("remove", &aside.join(&name)))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn what_is_stored_is_found_until_it_is_removed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(load_held(&RealDisk, path).unwrap(), None);
        store_held(&RealDisk, path, Some((u64::MAX, u64::MAX))).unwrap();
        store_held(&RealDisk, path, Some((7, 300))).unwrap();
        assert_eq!(load_held(&RealDisk, path).unwrap(), Some((7, 300)));
        store_held(&RealDisk, path, None).unwrap();
        assert_eq!(load_held(&RealDisk, path).unwrap(), None);
    }
}
