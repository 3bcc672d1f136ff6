//! From a data directory to a node's state: lock, identity, vote, newest valid checkpoint, the log from there.
//!
//! Entries that are known to have been committed are applied at once; what lies above is "maybe", and waits
//! for a leader to commit past it (R17).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use quorate_protocol::entry::{self, Entry};
use quorate_protocol::{Durability, Incarnation, Index, Leadership, Quorums, Term, limits};
use thiserror::Error;

use super::NodeSettings;
use super::checkpoints::Checkpoints;
use crate::checkpoint::{self, CheckpointError, CheckpointHeader, Loaded, Owner};
use crate::directory::{
    self, BootId, DataDirectory, DirectoryError, DirectoryErrorKind, DirectoryLock, DirectorySettings,
    Identity, VoteFile,
};
use crate::disk::Disk;
use crate::log::{Log, LogError, LogReader, LogSettings, ReadError, Recovery, TornTail};
use crate::mutant::{Mutant, is_on};
use crate::replica::{Membership, Recovered, Tail, Terms};
use crate::store::Store;

/// Bytes of log read at a time.
const READ_BYTES: usize = 4 << 20;

/// A data directory, opened.
pub struct Opened {
    /// Held for as long as the directory is used.
    pub lock: DirectoryLock,
    /// Where promises go.
    pub vote: VoteFile,
    /// Where entries go.
    pub log: Log,
    /// What a node begins with.
    pub state: State,
}

/// What a node begins with.
pub struct State {
    /// Whose directory it is.
    pub identity: Identity,
    /// Where entries come from.
    pub reader: LogReader,
    /// The store with everything known to be committed.
    pub store: Store,
    /// What the replica begins with.
    pub recovered: Recovered,
    /// The newest two checkpoints, and how far it is to the next.
    pub(super) checkpoints: Checkpoints,
}

/// Why a data directory cannot be used.
#[derive(Debug, Error)]
pub enum RecoveryError {
    /// Lock, identity or vote.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// The checkpoints.
    #[error(transparent)]
    Checkpoint(#[from] CheckpointError),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The log cannot be read back.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The log does not reach back to the checkpoint.
    #[error(
        "the log in {directory} begins at entry {first}, but the newest usable checkpoint ends at {checkpoint}"
    )]
    Gap {
        /// The log's directory.
        directory: PathBuf,
        /// Its first entry.
        first: Index,
        /// The checkpoint's index.
        checkpoint: Index,
    },
    /// The vote is older than the log or the checkpoint (R5).
    #[error(
        "the promised term is {promised}, but there are entries of term {last}: the vote is an older one; put back the \
         right one, or start this replica with an empty directory"
    )]
    OldVote {
        /// What was promised.
        promised: Term,
        /// Of the last entry.
        last: Term,
    },
    /// Data is damaged that other replicas may have.
    #[error("{error}; {advice}")]
    Lost {
        /// What is wrong.
        error: Box<RecoveryError>,
        /// What the operator can do.
        advice: String,
    },
    /// An entry in the log is not one.
    #[error("entry {index} in the log cannot be read: {reason}")]
    Entry {
        /// The entry.
        index: Index,
        /// What is wrong.
        reason: String,
    },
}

impl RecoveryError {
    /// Whether data is damaged: the operator has to restore it.
    pub fn is_damage(&self) -> bool {
        self.kind() == DirectoryErrorKind::Damaged
    }

    /// Whether the log is damaged, and nothing else.
    fn is_of_the_log(&self) -> bool {
        matches!(
            self,
            Self::Log(LogError::Damaged { .. } | LogError::Missing { .. })
                | Self::Read(ReadError::Damaged { .. })
                | Self::Gap { .. }
                | Self::Entry { .. }
        )
    }

    /// Adds what can be done about damaged data.
    fn advised(self, settings: &DirectorySettings) -> Self {
        use CheckpointError::{AllDamaged, Changed};
        match self {
            error if error.is_of_the_log() => error.lost(settings),
            error @ Self::Checkpoint(AllDamaged(_) | Changed { .. }) => error.lost(settings),
            error => error,
        }
    }

    fn lost(self, settings: &DirectorySettings) -> Self {
        let node = settings.node;
        let advice = match settings.quorums.replicas() == 1
            || settings.leadership == Leadership::Configured(node)
        {
            true => "this may be the only copy: restore a backup as a new cluster ('quorate-server restore')"
                .into(),
            false => format!(
                "if another node leads, start this one with an empty directory, and admit it once it has caught up \
                 ('quorate admit {node}'); else restore a backup as a new cluster ('quorate-server restore')"
            ),
        };
        Self::Lost { error: Box::new(self), advice }
    }

    /// What it means to whoever started the program.
    pub fn kind(&self) -> DirectoryErrorKind {
        use DirectoryErrorKind::{Damaged, Failed, NotForUs};
        match self {
            Self::Directory(error) => error.kind(),
            Self::Lost { error, .. } => error.kind(),
            Self::Checkpoint(CheckpointError::AllDamaged(_) | CheckpointError::Changed { .. })
            | Self::Log(LogError::Damaged { .. } | LogError::Missing { .. })
            | Self::Read(ReadError::Damaged { .. })
            | Self::Gap { .. }
            | Self::OldVote { .. }
            | Self::Entry { .. } => Damaged,
            Self::Checkpoint(CheckpointError::OtherVersion { .. } | CheckpointError::OtherCluster { .. })
            | Self::Log(LogError::Version { .. }) => NotForUs,
            Self::Checkpoint(_) | Self::Log(_) | Self::Read(_) => Failed,
        }
    }
}

/// Opens a node's data directory, creating it if it is new. The log's durability is that of `settings`.
/// Of the node's settings those count that are about what is replayed: its checkpoint interval and its history.
/// `boot` is the machine's.
///
/// A log that is damaged is set aside, and the node goes on behind its checkpoint, if others are sure to have what it
/// held, or to know that it was never committed (R19). Else it is refused. One that is missing, as a whole or at its end,
/// is damaged.
pub fn open(
    disk: &Arc<dyn Disk>,
    path: &Path,
    settings: &DirectorySettings,
    fresh: Incarnation,
    log: LogSettings,
    node: &NodeSettings,
    boot: Option<BootId>,
) -> Result<Opened, RecoveryError> {
    let whole = LogSettings { may_be_absent: false, ..log };
    match open_whole(disk, path, settings, fresh, whole, node, boot) {
        Err(error) if error.is_of_the_log() && can_be_repaired(settings.leadership, settings.quorums) => {
            let directory = DataDirectory::open(&**disk, path, settings, fresh, boot)?;
            if !directory.identity.formed {
                return Err(error.advised(settings));
            }
            tracing::error!("{error}: the log is set aside in 'damaged', and got from the other replicas");
            directory::set_log_aside(&**disk, path, directory.vote.promise().term)?;
            drop(directory);
            let begun_anew = LogSettings { may_be_absent: true, ..log };
            open_whole(disk, path, settings, fresh, begun_anew, node, boot)
        }
        opened => opened.map_err(|error| error.advised(settings)),
    }
}

/// Whether the others can be elected without this node, and say what was committed (R19). At n=1 it alone may hold it.
pub(crate) fn can_be_repaired(leadership: Leadership, quorums: Quorums) -> bool {
    leadership == Leadership::Elected && quorums.quorum() > 1
}

/// Whether there must be a log: it is there, durably, before the cluster forms and before anything is promised. After a
/// crash on the way to that there is nothing that it could have lost.
pub(crate) fn must_have_log(identity: &Identity, promised: Term) -> bool {
    identity.formed || promised > 0
}

fn open_whole(
    disk: &Arc<dyn Disk>,
    path: &Path,
    settings: &DirectorySettings,
    fresh: Incarnation,
    log: LogSettings,
    node: &NodeSettings,
    boot: Option<BootId>,
) -> Result<Opened, RecoveryError> {
    let began = Instant::now();
    let directory = DataDirectory::open(&**disk, path, settings, fresh, boot)?;
    if let Some(damaged) = &directory.damaged_vote {
        tracing::warn!("one of the two copies of the vote was damaged and has been written again: {damaged}");
    }
    let mut store = Store::default();
    let owner = Owner { cluster: directory.identity.cluster_id(), origin: directory.identity.origin };
    let loaded =
        checkpoint::load_newest(&**disk, &directory.checkpoint(), owner, |item| item.restore(&mut store))?;
    let (base, terms) = match &loaded {
        Some(Loaded { header, .. }) => (header.index, Terms::from_starts(header.terms.clone(), header.index)),
        None => (0, Terms::default()),
    };
    store.restored(base);
    store.keep_history(node.watch_history_bytes);
    let identity = &directory.identity;
    let settings = LogSettings {
        durability: identity.durability,
        may_lag_base: identity.leadership != Leadership::Configured(identity.node),
        may_be_absent: log.may_be_absent || !must_have_log(identity, directory.vote.promise().term),
        ..log
    };
    // The log is kept from the older checkpoint on, so that it can be gone back to. If there is none, because it was
    // gone back to or the first is restored, the log must reach back to the newest: what is older is in that.
    let mut older = older_checkpoint(&**disk, &directory.checkpoint(), base)?;
    let (mut log, mut recovery) = Log::open(disk.clone(), directory.log(), settings, older.unwrap_or(base))?;
    if recovery.last < base {
        if !settings.may_lag_base {
            let what = format!(
                "the log ends at entry {}, but a checkpoint of what it held is at {base}",
                recovery.last
            );
            return Err(LogError::Damaged { file: directory.log(), offset: 0, what }.into());
        }
        tracing::warn!(
            last = recovery.last,
            checkpoint = base,
            "the log ends before the newest checkpoint, and goes on behind it: a crash may leave this on a follower"
        );
        drop(log);
        // No log leads from an older checkpoint to where this one goes on, so there is no going back to it. It goes
        // first: the next start would take the log for one that has lost what lies between.
        checkpoint::remove_before(&**disk, &directory.checkpoint(), base)?;
        older = None;
        let before = recovery;
        (log, recovery) = Log::open(disk.clone(), directory.log(), settings, base)?;
        recovery.torn = before.torn;
        recovery.segments_removed += before.segments_removed;
    }
    if let Some(Loaded { header, .. }) = &loaded
        && differs_at(&log.reader(), header)?
    {
        if !settings.may_lag_base || recovery.committed > base {
            let what = format!("entry {base} is not the one that the checkpoint at {base} ends with");
            return Err(LogError::Damaged { file: directory.log(), offset: 0, what }.into());
        }
        tracing::warn!(
            last = recovery.last,
            checkpoint = base,
            "the log does not lead to the newest checkpoint, and goes on behind it: a crash may leave this on a \
             follower that was sent one"
        );
        checkpoint::remove_before(&**disk, &directory.checkpoint(), base)?;
        older = None;
        log.restart(base)?;
        (recovery.first, recovery.last, recovery.committed) = (base + 1, base, base);
    }
    if recovery.first > base + 1 {
        let (directory, first) = (directory.log(), recovery.first);
        return Err(RecoveryError::Gap { directory, first, checkpoint: base });
    }
    for skipped in loaded.iter().flat_map(|loaded| &loaded.skipped) {
        tracing::error!("a checkpoint is damaged, the one before it is used: {skipped}");
    }
    if let Some(loaded) = &loaded {
        checkpoint::remove_skipped(&**disk, &directory.checkpoint(), &loaded.skipped)?;
    }
    let reader = log.reader();
    let noted = directory::load_members(&**disk, path)?;
    let members = match &loaded {
        Some(Loaded { header, .. }) if !header.members.is_empty() => Membership::new(header.members.clone()),
        _ => directory.identity.membership(),
    };
    let mut replay = Replay {
        store,
        terms,
        members: Membership::of_checkpoint(members, base, noted.as_ref()),
        tail: Tail::default(),
        applied: base,
        committed: recovery.committed,
        checkpoints: Checkpoints::new(node.checkpoint_interval_bytes, base, older.unwrap_or(0)),
    };
    let from = if is_on(Mutant::ReplayFromCheckpoint) { base.saturating_sub(1) } else { base };
    replay.read(&reader, from, recovery.last)?;

    let (promised, last) = (directory.vote.promise().term, replay.terms.last_term());
    if promised < last {
        return Err(RecoveryError::OldVote { promised, last });
    }
    let held = directory::load_held(&**disk, path)?;
    if let Some((term, index)) = held {
        let until = match index {
            Index::MAX => format!("the end of term {term}"),
            index => format!("entry {index} of term {term}"),
        };
        tracing::warn!(
            last = recovery.last,
            "the log was damaged, and is not whole yet: it may have held everything up to {until}"
        );
        replay.members.add_lost(&noted.unwrap_or_default(), recovery.last);
    }
    if let Some(TornTail { file, offset, bytes }) = &recovery.torn {
        tracing::warn!(file = %file.display(), offset, bytes, "cut a write that a crash had torn");
    }
    let Recovery { first, last, committed, mark, ref torn, rewritten_bytes, segments_removed } = recovery;
    tracing::info!(
        node = %directory.identity.node, term = directory.vote.promise().term,
        vote_repaired = directory.damaged_vote.is_some(), checkpoint = base,
        checkpoints_skipped = loaded.map_or(0, |loaded| loaded.skipped.len()), first, last, mark, committed,
        applied = replay.applied, keys = replay.store.keys(),
        torn_bytes = torn.as_ref().map_or(0, |torn| torn.bytes), rewritten_bytes, segments_removed,
        milliseconds = began.elapsed().as_millis() as u64, "recovered"
    );
    if directory.identity.durability == Durability::Os {
        directory::begin_run(&**disk, path, boot)?;
    }
    let Replay { store, terms, members, tail, applied, checkpoints, .. } = replay;
    let DataDirectory { identity, vote, lock, .. } = directory;
    let recovered =
        Recovered { promise: vote.promise(), led: vote.led(), terms, members, held, applied, tail };
    let state = State { identity, reader, store, recovered, checkpoints };
    Ok(Opened { lock, vote, log, state })
}

/// The log on its way into memory.
struct Replay {
    store: Store,
    terms: Terms,
    members: Membership,
    tail: Tail,
    applied: Index,
    committed: Index,
    checkpoints: Checkpoints,
}

impl Replay {
    fn read(&mut self, reader: &LogReader, base: Index, last: Index) -> Result<(), RecoveryError> {
        let mut next = base + 1;
        while next <= last {
            let entries = reader.read(next, READ_BYTES)?;
            let first_maybe = self.take(&entries, &mut next)?;
            let maybe = entries.slice(first_maybe..);
            if !maybe.is_empty() {
                self.tail.push(self.tail.last().unwrap_or(self.applied) + 1, next - 1, maybe);
            }
        }
        Ok(())
    }

    /// Applies what is known to be committed, and returns where in `entries` the rest begins.
    fn take(&mut self, entries: &[u8], next: &mut Index) -> Result<usize, RecoveryError> {
        let mut applied_bytes = 0;
        for found in entry::iterate(entries) {
            let wrong = |reason: String| RecoveryError::Entry { index: *next, reason };
            let found = found.map_err(|error| wrong(error.to_string()))?;
            if found.index != *next || found.term < self.terms.last_term() {
                return Err(wrong(format!(
                    "it says that it is entry {} of term {}",
                    found.index, found.term
                )));
            }
            self.terms.push(found.index, found.term);
            self.members.set(found.index, found.admission());
            if found.index <= self.committed {
                self.store.apply_entry(&found).map_err(|error| wrong(error.to_string()))?;
                self.checkpoints.replayed(found.index, found.bytes.len(), self.store.bytes());
                self.applied = found.index;
                applied_bytes += found.bytes.len();
            }
            *next += 1;
        }
        Ok(applied_bytes)
    }
}

/// Whether the log has another entry where a checkpoint ends: one of a leader that was overruled, by what the
/// checkpoint was made of.
fn differs_at(reader: &LogReader, header: &CheckpointHeader) -> Result<bool, RecoveryError> {
    let index = header.index;
    if !(reader.first()..=reader.last()).contains(&index) {
        return Ok(false);
    }
    let entries = reader.read(index, 1)?;
    let entry =
        Entry::parse(&entries).map_err(|error| RecoveryError::Entry { index, reason: error.to_string() })?;
    Ok(entry.term != header.term)
}

fn older_checkpoint(
    disk: &dyn Disk,
    directory: &Path,
    newest: Index,
) -> Result<Option<Index>, CheckpointError> {
    Ok(checkpoint::list(disk, directory)?.into_iter().filter(|index| *index < newest).max())
}

const _: () = assert!(READ_BYTES >= limits::ENTRY_BYTES_MAX);

#[cfg(test)]
mod tests {
    use quorate_protocol::entry::Payload;
    use quorate_protocol::{ClusterId, NodeId, Quorums};

    use super::*;
    use crate::checkpoint::{CheckpointHeader, CheckpointWriter};
    use crate::disk::simulated::SimDisk;
    use crate::replica::Promise;

    fn open_follower(disk: &SimDisk) -> Result<Opened, RecoveryError> {
        let node = |id: u8| NodeId::try_from(id).unwrap();
        let settings = DirectorySettings {
            cluster: "test".into(),
            node: node(1),
            quorums: Quorums::new(3, 2).unwrap(),
            leadership: Leadership::Configured(node(2)),
            durability: Durability::Fsync,
        };
        let disk: Arc<dyn Disk> = Arc::new(disk.clone());
        let log = LogSettings { segment_bytes: 16 << 10, salt_seed: Some(1), ..LogSettings::default() };
        let node = NodeSettings::new((1..=3).map(node).collect());
        open(&disk, Path::new("/data"), &settings, Incarnation(1), log, &node, None)
    }

    fn append(log: &mut Log, index: Index) {
        let mut bytes = Vec::new();
        entry::encode(1, index, &Payload::Noop, &mut bytes);
        log.append([bytes], index, index, 0).unwrap();
    }

    fn write_checkpoint(disk: &SimDisk, index: Index) {
        let header = CheckpointHeader {
            index,
            term: 1,
            cluster: ClusterId([1; 16]),
            terms: vec![(1, 1)],
            members: Vec::new(),
        };
        let directory = Path::new("/data/checkpoint");
        CheckpointWriter::create(Arc::new(disk.clone()), directory, &header).unwrap().finish().unwrap();
    }

    #[test]
    fn a_log_that_went_on_behind_the_newest_checkpoint_is_found_again_without_the_older_one() {
        let disk = SimDisk::default();
        let mut opened = open_follower(&disk).unwrap();
        opened.vote.store(Promise { term: 1, voted_for: None }).unwrap();
        (1..=4).for_each(|index| append(&mut opened.log, index));
        drop(opened);
        [2, 6].into_iter().for_each(|index| write_checkpoint(&disk, index)); // Others held entries 5 and 6.
        let mut opened = open_follower(&disk).unwrap();
        assert_eq!(opened.state.recovered.applied, 6);
        append(&mut opened.log, 7);
        drop(opened);
        let again = open_follower(&disk).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!((again.state.reader.first(), again.state.reader.last()), (7, 7));
    }

    #[test]
    fn an_error_about_damaged_data_says_what_can_be_done() {
        let disk = SimDisk::default();
        drop(open_follower(&disk).unwrap());
        [2, 4].into_iter().for_each(|index| write_checkpoint(&disk, index));
        for index in [2, 4] {
            let file = PathBuf::from(format!("/data/checkpoint/{index:020}.ckpt"));
            let mut bytes = disk.images().contents(&file).unwrap().to_vec();
            bytes[50] ^= 1;
            disk.replace(&file, bytes);
        }
        let Err(error) = open_follower(&disk) else { panic!("opened without a whole checkpoint") };
        assert_eq!(error.kind(), DirectoryErrorKind::Damaged);
        let words =
            ["no checkpoint is whole", "if another node leads", "'quorate admit 1'", "restore a backup"];
        assert!(words.iter().all(|word| error.to_string().contains(word)), "{error}");
    }
}
