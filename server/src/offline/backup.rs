//! Copying a node's data while it may be running.
//!
//! The newest checkpoint is opened and copied first, then the log behind it, and everything is checked. A file
//! that is gone when it is opened, because the node has dropped it since, is no error: the whole is tried
//! again, [`ATTEMPTS_MAX`] times. What a running node may be writing meanwhile is [`copy`](crate::log::copy)'s to
//! know.

use std::io;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_protocol::Index;

use super::manifest::{BackedUpCheckpoint, Manifest};
use super::{OfflineError, checkpoints_of, list_existing, log_of, promised, refuse_unless_empty, wrong_use};
use crate::checkpoint::{self, CheckpointError, CheckpointInfo, Damage, Owner, Skipped};
use crate::directory::{
    BACKUP, BACKUP_TEMPORARY, CHECKPOINT, IDENTITY, Identity, LOG, create_durably, failed,
};
use crate::disk::Disk;
use crate::log::copy::{Copied, copy, may_have_changed};
use crate::node::must_have_log;

/// How often a backup is begun while the node drops what is to be copied.
const ATTEMPTS_MAX: usize = 5;

/// Bytes copied at once.
const PIECE_BYTES: usize = 1 << 20;

/// A backup that has been made.
#[derive(Debug)]
pub struct Backup {
    /// What it holds.
    pub manifest: Manifest,
    /// Newer checkpoints that are damaged, and were passed over for one that the log reaches back to.
    pub passed_over: Vec<Skipped>,
}

/// Makes a backup of the node whose data directory is `from` into `to`, which must be empty or absent. The node may
/// be running; it is not disturbed. Everything that it had written before the call is in it.
pub fn backup(disk: &dyn Disk, from: &Path, to: &Path) -> Result<Backup, OfflineError> {
    let names = list_existing(disk, from)?;
    if names.iter().any(|name| name == BACKUP || name == BACKUP_TEMPORARY) {
        return wrong_use(format!("{} is a backup itself: copy its files instead", from.display()));
    }
    if !names.iter().any(|name| name == IDENTITY) {
        return wrong_use(format!("{} is no data directory: it has no identity", from.display()));
    }
    refuse_unless_empty(disk, from, to)?;
    let source = Identity::load(disk, from)?;
    let may_be_absent = !must_have_log(&source, promised(disk, from, &source));
    let source = source.into_formed();
    create_durably(disk, to)?;
    for part in [CHECKPOINT, LOG].map(|name| to.join(name)) {
        disk.create_directory(&part).map_err(failed("create", &part))?;
    }
    // The sign that the backup is not finished. The manifest's own temporary file takes its place.
    let sign = to.join(BACKUP_TEMPORARY);
    disk.create(&sign).map_err(failed("create", &sign))?;
    disk.sync_directory(to).map_err(failed("sync", to))?;

    let (checkpoint, passed_over, log) = copy_data(disk, from, to, &source, may_be_absent)?;
    let manifest = describe(source, checkpoint, &log);
    manifest.store(disk, to)?;
    Ok(Backup { manifest, passed_over })
}

type Data = (Option<CheckpointInfo>, Vec<Skipped>, Copied);

fn copy_data(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    source: &Identity,
    may_be_absent: bool,
) -> Result<Data, OfflineError> {
    let mut attempt = 1;
    loop {
        let done = copy_data_once(disk, from, to, source, may_be_absent);
        match done {
            Err(OfflineError::Log(error)) if attempt < ATTEMPTS_MAX && may_have_changed(&error) => {}
            Err(OfflineError::Checkpoint(CheckpointError::Io { source, .. }))
                if attempt < ATTEMPTS_MAX && source.kind() == io::ErrorKind::NotFound => {}
            done => return done,
        }
        attempt += 1;
        for directory in [checkpoints_of(to), log_of(to)] {
            for name in disk.list(&directory).map_err(failed("list", &directory))? {
                let path = directory.join(name);
                disk.remove(&path).map_err(failed("remove", &path))?;
            }
        }
    }
}

fn copy_data_once(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    source: &Identity,
    may_be_absent: bool,
) -> Result<Data, OfflineError> {
    let (checkpoint, passed_over) = copy_newest_checkpoint(disk, from, to, source)?;
    // A restored directory's log begins behind its origin, and so does a checkpoint's.
    let after = checkpoint.map_or(0, |info| info.index);
    let log = copy(disk, &log_of(from), &log_of(to), after, may_be_absent)?;
    Ok((checkpoint, passed_over, log))
}

/// Copies the newest checkpoint that is whole, and checks the copy.
fn copy_newest_checkpoint(
    disk: &dyn Disk,
    from: &Path,
    to: &Path,
    source: &Identity,
) -> Result<(Option<CheckpointInfo>, Vec<Skipped>), OfflineError> {
    let (from, to) = (checkpoints_of(from), checkpoints_of(to));
    let owner = Owner { cluster: source.cluster_id(), origin: source.origin };
    let mut skipped = Vec::new();
    for index in checkpoint::list(disk, &from)?.into_iter().rev() {
        let (path, copied) = (checkpoint::path(&from, index), checkpoint::path(&to, index));
        copy_file(disk, &path, &copied)?;
        match checkpoint::verify(disk, &copied, index) {
            Ok((header, info)) => {
                owner.check(&path, &header, &info)?;
                disk.sync_directory(&to).map_err(failed("sync", &to))?;
                return Ok((Some(info), skipped));
            }
            Err(why) => {
                disk.remove(&copied).map_err(failed("remove", &copied))?;
                skipped.push(Skipped { file: path, why });
            }
        }
    }
    if let Some(Skipped { file, why: Damage::Version(_) }) = skipped.first() {
        return Err(OfflineError::Damaged(format!("{}: {}", file.display(), skipped[0].why)));
    }
    if skipped.is_empty() { Ok((None, skipped)) } else { Err(CheckpointError::AllDamaged(skipped).into()) }
}

/// Copies a file that nobody changes, and syncs the copy.
fn copy_file(disk: &dyn Disk, from: &Path, to: &Path) -> Result<(), OfflineError> {
    let io = |doing: &'static str, path: &Path| {
        let path = path.to_owned();
        move |source| CheckpointError::Io { doing, path, source }
    };
    let source = disk.open_read(from).map_err(io("open", from))?;
    let length = source.length().map_err(io("read", from))?;
    let file = disk.create(to).map_err(io("create", to))?;
    let mut piece = vec![0; length.min(PIECE_BYTES as u64) as usize];
    for offset in (0..length).step_by(PIECE_BYTES) {
        let bytes = (length - offset).min(PIECE_BYTES as u64) as usize;
        source.read_exact_at(&mut piece[..bytes], offset).map_err(io("read", from))?;
        file.write_all_at(&piece[..bytes], offset).map_err(io("write", to))?;
    }
    file.sync_data().map_err(io("sync", to))?;
    Ok(())
}

fn describe(source: Identity, checkpoint: Option<CheckpointInfo>, log: &Copied) -> Manifest {
    let (index, term): (Index, _) = checkpoint.map_or((0, 0), |info| (info.index, info.term));
    // A checkpoint beyond the log's end is legal.
    let (last, last_term) = if log.last > index { (log.last, log.last_term) } else { (index, term) };
    // A clock before 1970 is nothing that a backup should fail for.
    let unix_seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    Manifest {
        source,
        unix_seconds,
        checkpoint: checkpoint.map(BackedUpCheckpoint::from),
        first: log.first,
        last,
        last_term,
        committed: log.commit.max(index),
        segments: log.segments as u64,
        log_bytes: log.bytes,
    }
}
