//! A checkpoint that is received: `<index, 20 digits>.part` until all of it is there.
//!
//! Nothing depends on what is in it before [`load`] has checked the whole, so a crash may leave anything: what is there
//! of the right index is gone on with, and what a crash has spoilt is found in the end. There is one at a time.
//!
//! A checkpoint that is [installed](install) is the only one afterwards, durably. The older ones are of no use without the log that led from them to it, and that was never here.

use std::io;
use std::path::{Path, PathBuf};

use quorate_protocol::Index;
use thiserror::Error;

use crate::disk::Disk;
use crate::mutant::{Mutant, is_on};

use super::reader::{Reader, hand_out};
use super::{
    CheckpointError, CheckpointHeader, CheckpointInfo, Damage, INDEX_DIGITS, Item, Owner, failed, parse_name,
    path, remove_before, sync_failed,
};

const PART_SUFFIX: &str = ".part";

/// Bytes after which the file is synced, so that dirty pages never pile up.
const SYNC_BYTES: u64 = 4 << 20;

/// Why a checkpoint that was received is not used.
#[derive(Debug, Error)]
pub enum InstallError {
    /// It is not what was to be sent: to be [discarded](discard).
    #[error("what was received of {} is damaged: {why}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        why: Damage,
    },
    /// It is whole, but of somebody else, or the disk failed.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
}

/// Whether a file is a checkpoint that was not received in full.
pub(crate) fn is_part(name: &str) -> bool {
    parse_name(name, PART_SUFFIX).is_some()
}

/// How many bytes of the checkpoint at `index`, which has `total_bytes`, are there. All other parts are removed.
pub fn open(
    disk: &dyn Disk,
    directory: &Path,
    index: Index,
    total_bytes: u64,
) -> Result<u64, CheckpointError> {
    remove_parts(disk, directory, |other| other != index)?;
    let path = part_path(directory, index);
    match disk.open(&path).and_then(|file| file.length()) {
        Ok(length) if length <= total_bytes => return Ok(length),
        Ok(_) => disk.remove(&path).map_err(failed("remove", &path))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed("open", &path)(error)),
    }
    disk.create(&path).map_err(failed("create", &path))?;
    Ok(0)
}

/// Writes what comes next.
pub fn store(
    disk: &dyn Disk,
    directory: &Path,
    index: Index,
    offset: u64,
    bytes: &[u8],
) -> Result<(), CheckpointError> {
    let path = part_path(directory, index);
    let file = disk.open(&path).map_err(failed("open", &path))?;
    file.write_all_at(bytes, offset).map_err(failed("write", &path))?;
    let end = offset + bytes.len() as u64;
    if offset / SYNC_BYTES == end / SYNC_BYTES {
        return Ok(());
    }
    file.sync_data().map_err(sync_failed(&path))
}

/// Makes what was received durable, checks the whole, and hands what is in it to `on_item`, as
/// [`load_newest`](super::load_newest) does. If this returns an error, what was handed out does not count.
pub fn load(
    disk: &dyn Disk,
    directory: &Path,
    index: Index,
    owner: Owner,
    mut on_item: impl FnMut(Item<'_>),
) -> Result<(CheckpointHeader, CheckpointInfo), InstallError> {
    let part = part_path(directory, index);
    let file = disk.open(&part).map_err(failed("open", &part))?;
    file.sync_data().map_err(sync_failed(&part))?;
    let damaged = |why| InstallError::Damaged { path: part.clone(), why };
    let checked = Reader::open(&*file, index).and_then(Reader::check);
    let (header, info) = checked.map_err(damaged)?;
    owner.check(&part, &header, &info)?;
    let loaded = hand_out(&*file, index, |item| item.map(&mut on_item));
    loaded.map_err(damaged)?;
    Ok((header, info))
}

/// Makes what was received the one checkpoint that there is, durably, once it has been [loaded](load).
pub fn install(disk: &dyn Disk, directory: &Path, index: Index) -> Result<(), CheckpointError> {
    let (part, path) = (part_path(directory, index), path(directory, index));
    disk.rename(&part, &path).map_err(failed("rename", &part))?;
    if !is_on(Mutant::CheckpointNameNotSynced) {
        disk.sync_directory(directory).map_err(sync_failed(directory))?;
    }
    remove_before(disk, directory, index)
}

/// Removes what was received.
pub fn discard(disk: &dyn Disk, directory: &Path, index: Index) -> Result<(), CheckpointError> {
    let part = part_path(directory, index);
    disk.remove(&part).map_err(failed("remove", &part))
}

/// Removes what was received of the checkpoints that `is_needless` says.
pub(super) fn remove_parts(
    disk: &dyn Disk,
    directory: &Path,
    is_needless: impl Fn(Index) -> bool,
) -> Result<(), CheckpointError> {
    for name in disk.list(directory).map_err(failed("list", directory))? {
        if parse_name(&name, PART_SUFFIX).is_some_and(&is_needless) {
            let path = directory.join(name);
            disk.remove(&path).map_err(failed("remove", &path))?;
        }
    }
    Ok(())
}

fn part_path(directory: &Path, index: Index) -> PathBuf {
    directory.join(format!("{index:0INDEX_DIGITS$}{PART_SUFFIX}"))
}
