//! Who votes and counts, as the log last said it (R26).
//!
//! A [small file](super::small_file) with the magic "QRMMEMB\n", version 1, and as its payload:
//!
//! ```text
//! members       varint: how many, and of each the node (u8) and the incarnation (u64 varint)
//! admissions    varint: how many, and of each the index (u64 varint), the node and the incarnation
//! committed     u64 varint: admissions up to this index are known to be committed
//! ```
//!
//! It is there from the first admission on, and written before the log has the entry; and again when that is known to be
//! committed, or is cut. While the log is whole it says only what is committed: what is not, the log says. Of a log that
//! was damaged it says all.

use std::path::Path;

use quorate_protocol::parse;

use crate::disk::Disk;
use crate::replica::Membership;

use super::error::{DirectoryError, failed};
use super::small_file::SmallFile;
use super::{MEMBERS, MEMBERS_TEMPORARY};

const FILE: SmallFile = SmallFile {
    magic: *b"QRMMEMB\n",
    version: 1,
    payload_bytes_max: 4096,
    name: MEMBERS,
    temporary: MEMBERS_TEMPORARY,
    not_one: "it does not begin as a note of members",
};

/// What was noted; none before the first admission.
pub(crate) fn load_members(disk: &dyn Disk, directory: &Path) -> Result<Option<Membership>, DirectoryError> {
    let names = disk.list(directory).map_err(failed("list", directory))?;
    if !names.iter().any(|name| name == MEMBERS) {
        return Ok(None);
    }
    let payload = FILE.load(disk, directory)?;
    let damaged =
        |_| DirectoryError::Damaged { path: directory.join(MEMBERS), why: "its content is malformed" };
    parse(&payload).map(Some).map_err(damaged)
}

/// Makes it durable.
pub(crate) fn store_members(
    disk: &dyn Disk,
    directory: &Path,
    members: &Membership,
) -> Result<(), DirectoryError> {
    let payload = postcard::to_stdvec(members).expect("numbers serialise, and a Vec takes every byte");
    FILE.store(disk, directory, &payload)
}

#[cfg(test)]
mod tests {
    use quorate_protocol::{Incarnation, Member, NodeId};

    use super::*;
    use crate::disk::RealDisk;

    #[test]
    fn what_is_stored_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        assert_eq!(load_members(&RealDisk, path).unwrap(), None);
        let member = |node, incarnation| Member {
            node: NodeId::try_from(node).unwrap(),
            incarnation: Incarnation(incarnation),
        };
        let mut members = Membership::new((1..=7).map(|node| member(node, u64::MAX)));
        for index in 1..=100 {
            members.set(u64::MAX - 1000 + index, Some(member(7, u64::MAX - index)));
            members.commit(u64::MAX - 1000 + index);
        }
        store_members(&RealDisk, path, &members).unwrap();
        assert_eq!(load_members(&RealDisk, path).unwrap(), Some(members));
    }
}
