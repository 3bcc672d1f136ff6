//! Verifying a data directory or a backup: what it holds, what is wrong with it, and who must act.
//!
//! Nothing is changed, and nothing ends it early: everything that can be read is. A directory that a node runs on
//! is refused, as it changes while it is read; a backup of it can be checked instead.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use quorate_protocol::{Durability, Incarnation, Index, Leadership, NodeId, Term};
use serde::Serialize;

use super::manifest::Manifest;
use super::{OfflineError, checkpoints_of, hex, list_existing, log_of, promised, relative, wrong_use};
use crate::checkpoint::{self, CheckpointError, CheckpointInfo, Damage, NO_CLUSTER, Owner};
use crate::directory::{
    BACKUP, BACKUP_TEMPORARY, BOOT, BOOT_TEMPORARY, BootId, CHECKPOINT, DAMAGED, DirectoryError, HELD,
    HELD_TEMPORARY, IDENTITY, IDENTITY_TEMPORARY, Identity, LOCK, LOG, MEMBERS, MEMBERS_TEMPORARY, NOBODYS,
    RESTORE_TEMPORARY, SharedLock, VOTES, check_boot, check_votes,
};
use crate::disk::Disk;
use crate::log::LogError;
use crate::log::inspect::{Inspected, Seen, inspect};
use crate::log::newest;
use crate::node::{can_be_repaired, must_have_log};

const REFUSES: &str = "no node starts on this (exit code 4): put back the file from a copy of this directory, or start this \
                       replica with an empty directory";
const REFUSES_ALONE: &str = "no node starts on this (exit code 4): put back the file from a copy of this directory, or restore \
                             a backup into an empty one";
const REPAIRS: &str = "the next start sets the log aside, and gets what it held from the other replicas";
const LOST_VOTE: &str = "what this replica has promised is lost, and it does not vote under this identity again: start it with \
                         an empty directory";
const LOST_VOTE_ALONE: &str = "what this replica has promised is lost, and no node starts on this (exit code 4): make a backup of this \
                               directory, and restore that into an empty one";
const OBSOLETE: &str = "damage of the disk, in a segment whose entries are all in the checkpoints: the next start removes \
                        it; a follower that lacks them cannot catch up from this node";
const BAD_BACKUP: &str = "this backup cannot be restored: use another copy of it, or another backup";

/// What a directory holds, and what is wrong with it.
#[derive(Debug, Serialize)]
pub struct Checked {
    /// As it was given.
    pub directory: String,
    /// Nothing is wrong.
    pub ok: bool,
    /// Whose it is, or of a backup whose it was; none if that cannot be read.
    pub identity: Option<IdentitySummary>,
    /// The backup's manifest, if it is one.
    pub backup: Option<BackupSummary>,
    /// What the node has promised; none in a backup, or if nothing is promised yet.
    pub vote: Option<VoteSummary>,
    /// Every checkpoint, oldest first.
    pub checkpoints: Vec<CheckpointSummary>,
    /// The log; none if it cannot be listed.
    pub log: Option<LogSummary>,
    /// What is wrong, and what is worth knowing.
    pub findings: Vec<Finding>,
}

/// Whose directory it is.
#[derive(Debug, Serialize)]
pub struct IdentitySummary {
    /// The cluster's name.
    pub cluster: String,
    /// The cluster's id, once its replicas have met.
    pub cluster_id: Option<String>,
    /// The node.
    pub node: NodeId,
    /// Of the directory.
    pub incarnation: String,
    /// m.
    pub replicas: u8,
    /// n.
    pub quorum: u8,
    /// The configured leader; none if leaders are elected.
    pub leader: Option<NodeId>,
    /// `fsync` or `os`.
    pub durability: String,
    /// The state that the cluster began with, if it was restored.
    pub origin: Option<OriginSummary>,
    /// Every replica has stored the same members.
    pub formed: bool,
    /// The members, once they have met.
    pub members: Vec<MemberSummary>,
}

/// The state that a cluster began with.
#[derive(Debug, Serialize)]
pub struct OriginSummary {
    /// Its last entry.
    pub index: Index,
    /// The hash of its checkpoint.
    pub blake3: String,
}

/// A replica of the cluster.
#[derive(Debug, Serialize)]
pub struct MemberSummary {
    /// Its number.
    pub node: NodeId,
    /// Of its data directory.
    pub incarnation: String,
}

/// What a backup says of itself.
#[derive(Debug, Serialize)]
pub struct BackupSummary {
    /// When it was taken, in seconds since 1970, UTC.
    pub unix_seconds: u64,
    /// Its last entry.
    pub last: Index,
    /// How far it is known to have been committed.
    pub committed: Index,
}

/// What a node has promised.
#[derive(Debug, Serialize)]
pub struct VoteSummary {
    /// The highest term.
    pub term: Term,
    /// Whom it voted for in that.
    pub voted_for: Option<NodeId>,
}

/// A checkpoint.
#[derive(Debug, Serialize)]
pub struct CheckpointSummary {
    /// Its file.
    pub file: String,
    /// The last entry that it contains, by its name.
    pub index: Index,
    /// What is in it; none if it is damaged.
    pub whole: Option<WholeCheckpoint>,
}

/// What is in a checkpoint that is whole.
#[derive(Debug, Serialize)]
pub struct WholeCheckpoint {
    /// The term of its last entry.
    pub term: Term,
    /// Sessions of clients.
    pub sessions: u64,
    /// Keys.
    pub keys: u64,
    /// Bytes of the file.
    pub bytes: u64,
    /// BLAKE3 of the file: alike on all replicas at the same index.
    pub blake3: String,
    /// It is the state that a cluster began with after a restore.
    pub is_origin: bool,
}

/// The log.
#[derive(Debug, Serialize)]
pub struct LogSummary {
    /// First entry; one above `last` if there is none.
    pub first: Index,
    /// Last entry.
    pub last: Index,
    /// Its term; 0 if there is none.
    pub last_term: Term,
    /// What the log itself says to be durable.
    pub mark: Index,
    /// The highest commit index that it records.
    pub committed: Index,
    /// Segments.
    pub segments: usize,
    /// Bytes of their files.
    pub bytes: u64,
}

/// How bad a finding is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Something is lost, or a node does not start.
    Wrong,
    /// What a start deals with by itself.
    Note,
}

/// Something that was found.
#[derive(Debug, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// Where, below the directory.
    pub file: String,
    /// Byte in the file, if it is known.
    pub offset: Option<u64>,
    /// What it is.
    pub what: String,
    /// What it means, and who must act.
    pub act: String,
}

/// Checks a data directory or a backup. An error only if it is neither, or is in use.
pub fn check(disk: &dyn Disk, directory: &Path) -> Result<Checked, OfflineError> {
    let names = list_existing(disk, directory)?;
    let has = |wanted: &str| names.iter().any(|name| name == wanted);
    let is_backup = has(BACKUP) || has(BACKUP_TEMPORARY);
    if !is_backup && ![IDENTITY, LOG, CHECKPOINT, RESTORE_TEMPORARY].into_iter().chain(VOTES).any(has) {
        return wrong_use(format!("{} is neither a data directory nor a backup", directory.display()));
    }
    let _lock = SharedLock::take(disk, directory).map_err(|error| match error {
        // A node's own advice, to use another directory, would be wrong here.
        DirectoryError::InUse { path, holder } => OfflineError::InUse { path, holder },
        other => other.into(),
    })?;
    let mut check = Check::new(disk, directory, is_backup);
    check.names(&names);
    let (identity, manifest) = if is_backup { check.backup(has(BACKUP)) } else { (check.identity(), None) };
    // Of one whose identity cannot be read nobody knows, and no node starts on it.
    let may_be_absent =
        is_backup || !identity.as_ref().is_some_and(|own| must_have_log(own, promised(disk, directory, own)));
    let identity = identity.map(Identity::into_formed);
    if let Some(identity) = &identity {
        check.learn(identity);
    }
    let owner =
        identity.as_ref().map(|identity| Owner { cluster: identity.cluster_id(), origin: identity.origin });
    let whole = check.checkpoints(owner);
    let leads = identity.as_ref().is_some_and(|i| i.leadership == Leadership::Configured(i.node));
    let log = check.log(&whole, leads, may_be_absent);
    if let Some(manifest) = &manifest {
        check.against_manifest(manifest, &whole, log.as_ref());
    }
    if let (Some(identity), false) = (&identity, is_backup) {
        if identity.durability == Durability::Os {
            check.boot();
        }
        let last_term = log.as_ref().map_or(0, |log| log.last_term);
        check.vote(identity, last_term.max(whole.last().map_or(0, |newest| newest.term)));
    }
    Ok(check.finish(identity))
}

struct Check<'a> {
    disk: &'a dyn Disk,
    directory: &'a Path,
    is_backup: bool,
    /// No other replica has what this one holds.
    is_alone: bool,
    /// A node that is started here gets a damaged log from the others.
    repairs_log: bool,
    checked: Checked,
}

impl<'a> Check<'a> {
    fn new(disk: &'a dyn Disk, directory: &'a Path, is_backup: bool) -> Self {
        let checked = Checked {
            directory: directory.display().to_string(),
            ok: true,
            identity: None,
            backup: None,
            vote: None,
            checkpoints: Vec::new(),
            log: None,
            findings: Vec::new(),
        };
        Self { disk, directory, is_backup, is_alone: false, repairs_log: false, checked }
    }

    fn finish(self, identity: Option<Identity>) -> Checked {
        let ok = self.checked.findings.iter().all(|finding| finding.severity == Severity::Note);
        Checked { ok, identity: identity.map(summary), ..self.checked }
    }

    fn find(
        &mut self,
        severity: Severity,
        path: &Path,
        offset: Option<u64>,
        what: impl Into<String>,
        act: impl Into<String>,
    ) {
        let file = relative(self.directory, path);
        self.checked.findings.push(Finding { severity, file, offset, what: what.into(), act: act.into() });
    }

    /// What becomes of damage depends on whose directory it is.
    fn learn(&mut self, identity: &Identity) {
        self.is_alone = identity.quorums.replicas() == 1;
        self.repairs_log = identity.formed && can_be_repaired(identity.leadership, identity.quorums);
    }

    /// What a damaged file means.
    fn refuses(&self) -> &'static str {
        match (self.is_backup, self.is_alone) {
            (true, _) => BAD_BACKUP,
            (false, true) => REFUSES_ALONE,
            (false, false) => REFUSES,
        }
    }

    /// What a damaged log means, or one that is missing.
    fn of_damaged_log(&self) -> &'static str {
        if self.repairs_log && !self.is_backup { REPAIRS } else { self.refuses() }
    }

    /// Files that do not belong here.
    fn names(&mut self, names: &[String]) {
        let directory = self.directory;
        for name in names {
            match name.as_str() {
                IDENTITY_TEMPORARY => {
                    self.leftover(&directory.join(name), "an identity that was not finished")
                }
                RESTORE_TEMPORARY => {
                    let act = "no node starts on this: remove the directory, and restore the backup again";
                    self.find(
                        Severity::Wrong,
                        &directory.join(name),
                        None,
                        "it was not restored to the end",
                        act,
                    );
                }
                BOOT_TEMPORARY => {
                    self.leftover(&directory.join(name), "a note of the boot that was not finished")
                }
                MEMBERS_TEMPORARY => {
                    self.leftover(&directory.join(name), "a note of the members that was not finished")
                }
                HELD_TEMPORARY => {
                    self.leftover(&directory.join(name), "a note of a damaged log that was not finished")
                }
                IDENTITY | HELD | MEMBERS | DAMAGED | BOOT | LOCK | LOG | CHECKPOINT | BACKUP
                | BACKUP_TEMPORARY => {}
                vote if VOTES.contains(&vote) => {}
                nobodys if NOBODYS.contains(&nobodys) => {}
                _ => self.stranger(&directory.join(name)),
            }
        }
        for (part, is_ours) in [
            (checkpoints_of(directory), is_checkpoint as fn(&str) -> bool),
            (log_of(directory), is_log as fn(&str) -> bool),
        ] {
            // One that is missing is found by whoever reads it.
            for name in self.disk.list(&part).unwrap_or_default() {
                if checkpoint::is_temporary(&name) {
                    self.leftover(&part.join(name), "a checkpoint that was not finished");
                } else if checkpoint::part::is_part(&name) {
                    let what = "a checkpoint that was not received in full";
                    self.find(
                        Severity::Note,
                        &part.join(name),
                        None,
                        what,
                        "the node goes on with it, or removes it",
                    );
                } else if !is_ours(&name) {
                    self.stranger(&part.join(name));
                }
            }
        }
    }

    fn leftover(&mut self, path: &Path, what: &str) {
        self.find(Severity::Note, path, None, what, "the next start removes it");
    }

    fn stranger(&mut self, path: &Path) {
        self.find(Severity::Note, path, None, "not one of Quorate's files", "it is left alone");
    }

    fn identity(&mut self) -> Option<Identity> {
        self.or_find(Identity::load(self.disk, self.directory), IDENTITY)
    }

    /// Whether the machine has stopped under a node that left its log to the cache (R30).
    fn boot(&mut self) {
        self.or_find(check_boot(self.disk, self.directory, BootId::of_this_machine()), BOOT);
    }

    fn or_find<T>(&mut self, result: Result<T, DirectoryError>, name: &str) -> Option<T> {
        let error = match result {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let path = self.directory.join(name);
        let act = match &error {
            DirectoryError::NewerVersion { .. } => "use the newer program".into(),
            DirectoryError::OlderVersion { .. } => "use a program that reads that version".into(),
            DirectoryError::Io { .. } => format!("make it readable, or: {}", self.refuses()),
            _ => self.refuses().into(),
        };
        let what = match error {
            DirectoryError::Damaged { why, .. } => why.to_owned(),
            DirectoryError::Io { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                "it is missing".to_owned()
            }
            other => other.to_string(),
        };
        self.find(Severity::Wrong, &path, Some(0), what, act);
        None
    }

    fn backup(&mut self, is_finished: bool) -> (Option<Identity>, Option<Manifest>) {
        if !is_finished {
            let path = self.directory.join(BACKUP_TEMPORARY);
            let act = "it cannot be restored: make it again, into another directory";
            self.find(Severity::Wrong, &path, None, "the backup was not finished", act);
            return (None, None);
        }
        let Some(manifest) = self.or_find(Manifest::load(self.disk, self.directory), BACKUP) else {
            return (None, None);
        };
        let Manifest { unix_seconds, last, committed, .. } = manifest;
        self.checked.backup = Some(BackupSummary { unix_seconds, last, committed });
        (Some(manifest.source.clone()), Some(manifest))
    }

    fn vote(&mut self, identity: &Identity, last_term: Term) {
        let Some(copies) = self.or_find(check_votes(self.disk, self.directory, identity), VOTES[0]) else {
            return;
        };
        let Some(copies) = copies else { return };
        let is_any_whole = copies.iter().any(Result::is_ok);
        for (copy, name) in copies.iter().zip(VOTES) {
            let Err(why) = copy else { continue };
            let path = self.directory.join(name);
            if is_any_whole {
                let act = "the other copy counts, and the next start writes this one again: a crash, or the disk rots";
                self.find(Severity::Wrong, &path, Some(0), *why, act);
            } else {
                let act = match self.is_alone {
                    true => LOST_VOTE_ALONE,
                    false => LOST_VOTE,
                };
                self.find(Severity::Wrong, &path, Some(0), *why, act);
            }
        }
        let Some(newest) = copies.into_iter().flatten().max_by_key(|stored| stored.sequence) else { return };
        let (term, voted_for) = (newest.promise.term, newest.promise.voted_for);
        self.checked.vote = Some(VoteSummary { term, voted_for });
        if term < last_term {
            let what = format!("the promised term is {term}, but the log has entries of term {last_term}");
            let act = match self.is_alone {
                true => LOST_VOTE_ALONE,
                false => {
                    "the vote is an older one: put back the right one, or start this replica with an empty directory"
                }
            };
            self.find(Severity::Wrong, &self.directory.join(VOTES[0]), None, what, act);
        }
    }

    /// Checks every checkpoint, and returns those that are whole, oldest first.
    fn checkpoints(&mut self, owner: Option<Owner>) -> Vec<CheckpointInfo> {
        let directory = checkpoints_of(self.directory);
        let indexes = match checkpoint::list(self.disk, &directory) {
            Ok(indexes) => indexes,
            Err(CheckpointError::Io { source, .. }) => {
                let act = "without it no checkpoint can be found: make it readable, or put it back";
                self.find(Severity::Wrong, &directory, None, format!("cannot be listed: {source}"), act);
                return Vec::new();
            }
            Err(error) => unreachable!("listing only lists: {error}"),
        };
        let mut whole = Vec::new();
        for index in indexes {
            let path = checkpoint::path(&directory, index);
            let verified = checkpoint::verify(self.disk, &path, index);
            let file = relative(self.directory, &path);
            self.checked.checkpoints.push(CheckpointSummary { file, index, whole: None });
            match verified {
                Ok((header, info)) => {
                    let CheckpointInfo { term, sessions, keys, bytes, hash, .. } = info;
                    self.checked.checkpoints.last_mut().expect("it was just added").whole =
                        Some(WholeCheckpoint {
                            term,
                            sessions,
                            keys,
                            bytes,
                            blake3: hex(&hash),
                            is_origin: header.cluster == NO_CLUSTER,
                        });
                    match owner.map(|owner| owner.check(&path, &header, &info)) {
                        Some(Err(error)) => {
                            let act = "no node starts on this (exit code 4): remove the file, or use the right \
                                       directory";
                            self.find(Severity::Wrong, &path, Some(28), error.to_string(), act);
                        }
                        Some(Ok(())) | None => whole.push(info),
                    }
                }
                Err(damage) => self.damaged_checkpoint(&path, &damage),
            }
        }
        whole
    }

    fn damaged_checkpoint(&mut self, path: &Path, damage: &Damage) {
        let act = match damage {
            Damage::Version(_) => "no node of this version starts on this",
            _ if self.is_backup => BAD_BACKUP,
            _ => {
                "damage of the disk: a start passes it over if an older one is whole and the log reaches back to that, \
                 and refuses otherwise; no value of it is ever served"
            }
        };
        let offset = offset_in_checkpoint(self.disk, path, damage);
        let what = match damage {
            Damage::Block { problem, .. } => problem.to_string(),
            other => other.to_string(),
        };
        self.find(Severity::Wrong, path, offset, what, act);
    }

    /// Goes through the log; `whole` are the checkpoints that can be used.
    fn log(&mut self, whole: &[CheckpointInfo], leads: bool, may_be_absent: bool) -> Option<LogEnd> {
        let directory = log_of(self.directory);
        let newest = whole.last().map_or(0, |info| info.index);
        let base = self.base(newest);
        let refuses = self.refuses();
        let of_damage = self.of_damaged_log();
        let mut problems = Vec::new();
        let inspected = inspect(self.disk, &directory, base, may_be_absent, |seen| match seen {
            Seen::Problem(error) => problems.push((error, of_damage)),
            Seen::ObsoleteProblem(error) => problems.push((error, OBSOLETE)),
            Seen::Segment { .. } | Seen::Batch(_) | Seen::Entry { .. } => {}
        });
        for (error, act) in problems {
            self.log_problem(error, act);
        }
        let inspected = match inspected {
            Ok(inspected) => inspected,
            Err(LogError::Io { source, .. }) if source.kind() == ErrorKind::NotFound && !self.is_backup => {
                if !may_be_absent {
                    self.log_problem(newest::absent(&directory), of_damage);
                }
                return None;
            }
            Err(error) => {
                self.find(Severity::Wrong, &directory, None, error.to_string(), refuses);
                return None;
            }
        };
        self.log_leftovers(&inspected);
        if inspected.segments > 0 && inspected.last < newest {
            let what = format!("the log ends at entry {}, before the checkpoint of {newest}", inspected.last);
            if leads && !self.is_backup {
                self.find(Severity::Wrong, &directory, None, what, refuses);
            } else {
                let act =
                    "a crash may leave this on a follower: the next start goes on behind the checkpoint";
                self.find(Severity::Note, &directory, None, what, act);
            }
        }
        let Inspected { first, last, last_term, mark, commit, segments, bytes, .. } = inspected;
        self.checked.log =
            Some(LogSummary { first, last, last_term, mark, committed: commit.max(newest), segments, bytes });
        Some(LogEnd { last, last_term })
    }

    /// What the log must reach back to: the older checkpoint, usable or not, so that it can be gone back to; the
    /// newest if there is no other.
    fn base(&self, newest: Index) -> Index {
        if self.is_backup {
            return newest;
        }
        let older = self.checked.checkpoints.iter().map(|found| found.index).filter(|index| *index < newest);
        older.max().unwrap_or(newest)
    }

    fn log_problem(&mut self, error: LogError, act: &'static str) {
        match error {
            LogError::Damaged { file, offset, what } => {
                self.find(Severity::Wrong, &file, Some(offset), what, act);
            }
            LogError::Missing { file, what } => self.find(Severity::Wrong, &file, None, what, act),
            LogError::Io { operation, file, source } => {
                let what = format!("cannot {operation} it: {source}");
                self.find(
                    Severity::Wrong,
                    &file,
                    None,
                    what,
                    format!("make it readable, or: {}", self.refuses()),
                );
            }
            LogError::Version { ref file, .. } => {
                let file = file.clone();
                self.find(Severity::Wrong, &file, Some(8), error.to_string(), "use the newer program");
            }
            other => {
                self.find(Severity::Wrong, &log_of(self.directory), None, other.to_string(), self.refuses())
            }
        }
    }

    fn log_leftovers(&mut self, inspected: &Inspected) {
        for path in &inspected.temporary {
            self.leftover(path, "a segment that was not taken into use");
        }
        for path in &inspected.cut_off {
            let what = "a whole segment before a damaged one, all in the checkpoints";
            self.find(Severity::Note, path, None, what, "it is left alone; no follower is fed from it");
        }
        for path in &inspected.obsolete {
            self.leftover(path, "a segment that came back after it had been dropped, all in the checkpoints");
        }
        if let Some(torn) = &inspected.torn {
            let what = format!("a write of {} bytes that a crash has torn", torn.bytes);
            let (severity, act) = if self.is_backup {
                (Severity::Wrong, BAD_BACKUP)
            } else {
                (Severity::Note, "the next start cuts it: nothing of it was acknowledged by this node")
            };
            self.find(severity, &torn.file, Some(torn.offset), what, act);
        }
    }

    fn against_manifest(&mut self, manifest: &Manifest, whole: &[CheckpointInfo], log: Option<&LogEnd>) {
        let path: PathBuf = self.directory.join(BACKUP);
        if let Some(wanted) = manifest.checkpoint
            && !whole.iter().any(|info| info.index == wanted.index && info.hash == wanted.hash)
        {
            let what = format!("the checkpoint of entry {} is missing or another one", wanted.index);
            self.find(Severity::Wrong, &path, None, what, BAD_BACKUP);
        }
        let newest = whole.last().map_or((0, 0), |info| (info.index, info.term));
        let last = match log {
            Some(log) if log.last > newest.0 => (log.last, log.last_term),
            _ => newest,
        };
        if last != (manifest.last, manifest.last_term) {
            let what = format!(
                "it was made with entries to {} of term {}, and holds them to {} of term {}",
                manifest.last, manifest.last_term, last.0, last.1
            );
            self.find(Severity::Wrong, &path, None, what, BAD_BACKUP);
        }
    }
}

/// Where the log ends.
struct LogEnd {
    last: Index,
    last_term: Term,
}

fn is_checkpoint(name: &str) -> bool {
    checkpoint::named_index(name).is_some()
}

/// Also those of segments that are not in use: they are reported with the log.
fn is_log(name: &str) -> bool {
    name.ends_with(".log") || name.ends_with(".tmp") || name == newest::NAME
}

fn offset_in_checkpoint(disk: &dyn Disk, path: &Path, damage: &Damage) -> Option<u64> {
    let footer = || Some(disk.open_read(path).ok()?.length().ok()?.saturating_sub(checkpoint::FOOTER_BYTES));
    match damage {
        Damage::Unreadable(_) => None,
        Damage::Short(bytes) => Some(*bytes),
        Damage::Header => Some(0),
        Damage::Version(_) => Some(8),
        Damage::Name(_) => Some(12),
        Damage::Block { offset, .. } => Some(*offset),
        Damage::Footer | Damage::Counts | Damage::Hash => footer(),
    }
}

fn summary(identity: Identity) -> IdentitySummary {
    let cluster_id = identity.cluster_id().map(|id| id.to_string());
    let Identity { cluster, node, incarnation, quorums, leadership, durability, origin, members, formed } =
        identity;
    let leader = match leadership {
        Leadership::Configured(leader) => Some(leader),
        Leadership::Elected => None,
    };
    let named = |incarnation: Incarnation| incarnation.to_string();
    IdentitySummary {
        cluster,
        cluster_id,
        node,
        incarnation: named(incarnation),
        replicas: quorums.replicas(),
        quorum: quorums.quorum(),
        leader,
        durability: durability.to_string(),
        origin: origin.map(|origin| OriginSummary { index: origin.index, blake3: hex(&origin.hash) }),
        formed,
        members: members
            .into_iter()
            .map(|(node, incarnation)| MemberSummary { node, incarnation: named(incarnation) })
            .collect(),
    }
}
