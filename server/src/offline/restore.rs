//! From a backup to the data directory of a node of a new cluster.
//!
//! Checkpoint and log are replayed into a store, and the state after the last entry is written as one checkpoint:
//! the new cluster's origin, which all its replicas must have alike. Entries above the last recorded commit index
//! count as well: the last acknowledged writes may be among them, and of the others either outcome is
//! right (R20). The log begins behind the origin, empty; the promised term is that of the last entry, so that terms
//! never go back.
//!
//! Sessions of clients end with their cluster: who sends a write again is told that its session has expired, and the
//! write is not done. What the backup does not have may have been answered, so no result of it is worth keeping.

use std::path::Path;
use std::sync::Arc;

use quorate_protocol::entry;
use quorate_protocol::{Incarnation, Index, limits};

use super::manifest::Manifest;
use super::{OfflineError, checkpoints_of, list_existing, log_of, refuse_unless_empty, wrong_use};
use crate::checkpoint::{self, CheckpointHeader, CheckpointInfo, CheckpointWriter, NO_CLUSTER};
use crate::directory::{
    BACKUP, BACKUP_TEMPORARY, CHECKPOINT, DirectoryLock, DirectorySettings, IDENTITY, Identity, LOG,
    RESTORE_TEMPORARY, VoteFile, create_durably, failed,
};
use crate::disk::Disk;
use crate::log::inspect::open_read_only;
use crate::log::{Log, LogSettings};
use crate::replica::{Promise, Terms};
use crate::store::Store;

/// Bytes of log read at a time.
const READ_BYTES: usize = 4 << 20;

const _: () = assert!(READ_BYTES >= limits::ENTRY_BYTES_MAX);

/// A directory that has been made from a backup.
#[derive(Debug)]
pub struct Restored {
    /// What the backup holds.
    pub manifest: Manifest,
    /// The checkpoint that the directory begins with.
    pub checkpoint: CheckpointInfo,
    /// Whose directory it is.
    pub identity: Identity,
}

/// Makes the data directory `to`, which must be empty or absent, for a node with `settings` from the backup
/// `from`. `fresh` is the directory's incarnation, and `segment_bytes` the size of log segments.
///
/// While it is at work there is a file that says so, and no node starts on the directory.
pub fn restore(
    disk: &Arc<dyn Disk>,
    from: &Path,
    to: &Path,
    settings: &DirectorySettings,
    fresh: Incarnation,
    segment_bytes: u64,
) -> Result<Restored, OfflineError> {
    refuse_unless_backup(&**disk, from)?;
    refuse_unless_empty(&**disk, from, to)?;
    let manifest = Manifest::load(&**disk, from)?;
    if manifest.last == 0 {
        return wrong_use(format!(
            "the backup {} holds no entry: start the nodes with empty directories",
            from.display()
        ));
    }
    let state = Replayed::read(&**disk, from, &manifest)?;

    create_durably(&**disk, to)?;
    let unfinished = to.join(RESTORE_TEMPORARY);
    disk.create(&unfinished).map_err(failed("create", &unfinished))?;
    disk.sync_directory(to).map_err(failed("sync", to))?;
    let lock = DirectoryLock::take(&**disk, to, settings.node)?;
    for part in [CHECKPOINT, LOG].map(|name| to.join(name)) {
        disk.create_directory(&part).map_err(failed("create", &part))?;
    }
    disk.sync_directory(to).map_err(failed("sync", to))?;
    let checkpoint = state.write(disk, &checkpoints_of(to))?;
    let log = LogSettings { segment_bytes, durability: settings.durability, ..LogSettings::default() };
    let (log, _) = Log::open(disk.clone(), log_of(to), log, checkpoint.index)?;
    drop(log);
    let identity = Identity::new(settings.clone(), fresh, Some(checkpoint.origin()));
    // The files are made as for a directory that has promised nothing: with an origin, missing ones are lost.
    let new = Identity::new(settings.clone(), fresh, None);
    let (mut vote, _) = VoteFile::open(&**disk, to, &new)?;
    vote.store(Promise { term: checkpoint.term, voted_for: None })?;
    identity.store(&**disk, to)?;
    disk.remove(&unfinished).map_err(failed("remove", &unfinished))?;
    disk.sync_directory(to).map_err(failed("sync", to))?;
    drop(lock);
    Ok(Restored { manifest, checkpoint, identity })
}

fn refuse_unless_backup(disk: &dyn Disk, from: &Path) -> Result<(), OfflineError> {
    let names = list_existing(disk, from)?;
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let path = from.display();
    if has(BACKUP) {
        Ok(())
    } else if has(BACKUP_TEMPORARY) {
        wrong_use(format!("{path} is a backup that was not finished: make it again, into another directory"))
    } else if has(IDENTITY) {
        wrong_use(format!(
            "{path} is a data directory, not a backup: make one with 'quorate-server backup {path} TO'"
        ))
    } else {
        wrong_use(format!("{path} is no backup: 'quorate-server backup DIR TO' makes one"))
    }
}

/// The state after a backup's last entry.
struct Replayed {
    store: Store,
    terms: Terms,
    last: Index,
}

impl Replayed {
    fn read(disk: &dyn Disk, from: &Path, manifest: &Manifest) -> Result<Self, OfflineError> {
        let mut store = Store::default();
        let (base, terms) = load_checkpoint(disk, from, manifest, &mut store)?;
        let log = open_read_only(disk, &log_of(from), base)?;
        store.restored(base);
        let mut replayed = Self { store, terms, last: base };
        while replayed.last < log.last {
            let entries = log.reader.read(replayed.last + 1, READ_BYTES)?;
            replayed.apply(from, &entries)?;
        }
        let found = (replayed.last, replayed.terms.last_term());
        if found == (manifest.last, manifest.last_term) {
            return Ok(replayed);
        }
        Err(OfflineError::Damaged(format!(
            "{} ends at entry {} of term {}, but was made with entries to {} of term {}: files are missing or \
             damaged; use another copy of it",
            from.display(),
            found.0,
            found.1,
            manifest.last,
            manifest.last_term
        )))
    }

    fn apply(&mut self, from: &Path, entries: &[u8]) -> Result<(), OfflineError> {
        for found in entry::iterate(entries) {
            let index = self.last + 1;
            let wrong = |reason: String| {
                OfflineError::Damaged(format!(
                    "entry {index} in {} cannot be read: {reason}; use another backup",
                    from.display()
                ))
            };
            let found = found.map_err(|error| wrong(error.to_string()))?;
            if found.index != index || found.term < self.terms.last_term() {
                return Err(wrong(format!(
                    "it says that it is entry {} of term {}",
                    found.index, found.term
                )));
            }
            self.store.apply_entry(&found).map_err(|error| wrong(error.to_string()))?;
            self.terms.push(found.index, found.term);
            self.last = found.index;
        }
        Ok(())
    }

    /// Writes it as a checkpoint of no cluster.
    fn write(mut self, disk: &Arc<dyn Disk>, directory: &Path) -> Result<CheckpointInfo, OfflineError> {
        let header = CheckpointHeader {
            index: self.last,
            term: self.terms.last_term(),
            cluster: NO_CLUSTER,
            terms: self.terms.starts(self.last).to_vec(),
            members: Vec::new(), // The restored cluster has others.
        };
        let mut writer = CheckpointWriter::create(disk.clone(), directory, &header)?;
        self.store.end_sessions(); // What its clients wait for is the old cluster's business.
        self.store.begin_snapshot();
        let mut is_last = false;
        while !is_last {
            let block;
            (block, is_last) = checkpoint::next_block(&mut self.store);
            if !block.is_empty() {
                writer.block(&block)?;
            }
        }
        Ok(writer.finish()?)
    }
}

/// Puts the backup's checkpoint into the store; its index and terms.
fn load_checkpoint(
    disk: &dyn Disk,
    from: &Path,
    manifest: &Manifest,
    store: &mut Store,
) -> Result<(Index, Terms), OfflineError> {
    let Some(made) = manifest.checkpoint else { return Ok((0, Terms::default())) };
    let path = checkpoint::path(&checkpoints_of(from), made.index);
    let damaged = |why: String| {
        OfflineError::Damaged(format!("{}: {why}; use another copy of the backup", path.display()))
    };
    let (header, info) =
        checkpoint::verify(disk, &path, made.index).map_err(|damage| damaged(damage.to_string()))?;
    if info.hash != made.hash {
        return Err(damaged("it is not the checkpoint that the backup was made with".into()));
    }
    let mut damage = None;
    checkpoint::read_intact(disk, &path, made.index, |item| match item {
        Ok(item) => item.restore(store),
        Err(found) => damage = Some(found),
    });
    match damage {
        Some(damage) => Err(damaged(format!("it changed while it was read: {damage}"))),
        None => Ok((header.index, Terms::from_starts(header.terms, header.index))),
    }
}
