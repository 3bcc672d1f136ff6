//! Printing what is in a data directory or a backup, as far as it can be read.
//!
//! The log is read twice: what a truncation took back is known only at its end. What is damaged is named where it is
//! met, and printing goes on with what is intact behind it.

use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::path::Path;

use quorate_protocol::entry::{Entry, Payload};
use quorate_protocol::request::{Expected, Mutation, SessionSequence, Write as Change};
use quorate_protocol::response::WriteResult;
use quorate_protocol::{Index, SessionId};

use super::text::quoted;
use super::{OfflineError, checkpoints_of, hex, list_existing, log_of, relative, wrong_use};
use crate::checkpoint::{self, Item, Record};
use crate::directory::{BACKUP, BACKUP_TEMPORARY, CHECKPOINT, IDENTITY, LOG};
use crate::disk::Disk;
use crate::log::inspect::{Seen, SeenBatch, SeenKind, inspect};
use crate::store::{Done, Session};

/// What is printed.
#[derive(Clone, Debug)]
pub struct DumpSettings {
    /// Entries of these indexes.
    pub entries: RangeInclusive<Index>,
    /// Segments and batches too, and the entries that were taken back.
    pub batches: bool,
    /// Keys and values as a whole, and the results of sessions.
    pub full: bool,
    /// The sessions and records of a checkpoint instead of the log: the newest, or the one of an index.
    pub checkpoint: Option<Option<Index>>,
}

/// Prints, and returns how many places are damaged.
pub fn dump(
    disk: &dyn Disk,
    directory: &Path,
    settings: &DumpSettings,
    out: &mut dyn Write,
) -> Result<u64, OfflineError> {
    let names = list_existing(disk, directory)?;
    if !names
        .iter()
        .any(|name| [IDENTITY, BACKUP, BACKUP_TEMPORARY, LOG, CHECKPOINT].contains(&name.as_str()))
    {
        return wrong_use(format!("{} is neither a data directory nor a backup", directory.display()));
    }
    match settings.checkpoint {
        Some(index) => dump_checkpoint(disk, directory, index, settings.full, out),
        None => dump_log(disk, directory, settings, out),
    }
}

fn dump_log(
    disk: &dyn Disk,
    directory: &Path,
    settings: &DumpSettings,
    out: &mut dyn Write,
) -> Result<u64, OfflineError> {
    let log = log_of(directory);
    // What is obsolete by the checkpoints is part of what there is to see.
    let base = first_entry(disk, &log).saturating_sub(1);
    let mut taken_back = TakenBack::default();
    inspect(disk, &log, base, true, |seen| taken_back.note(&seen))?;
    let mut printer = Printer { directory, settings, taken_back, batch: 0, damaged: 0, out };
    let mut printed = Ok(());
    let inspected = inspect(disk, &log, base, true, |seen| {
        if printed.is_ok() {
            printed = printer.seen(seen);
        }
    })?;
    printed?;
    if let Some(torn) = &inspected.torn {
        let file = relative(directory, &torn.file);
        writeln!(
            printer.out,
            "-- {file} at offset {}: a write of {} bytes that a crash has torn; a start cuts it",
            torn.offset, torn.bytes
        )?;
    }
    Ok(printer.damaged)
}

/// The first index that a segment is named after.
fn first_entry(disk: &dyn Disk, log: &Path) -> Index {
    let names = disk.list(log).unwrap_or_default();
    names.iter().find_map(|name| name.strip_suffix(".log")?.parse().ok()).unwrap_or(1)
}

/// Which batches' entries later truncations took back.
#[derive(Default)]
struct TakenBack {
    batches: u64,
    /// Number of the truncation among all batches, and the last index that stayed.
    truncations: Vec<(u64, Index)>,
}

impl TakenBack {
    fn note(&mut self, seen: &Seen<'_>) {
        let Seen::Batch(batch) = seen else { return };
        self.batches += 1;
        if let SeenKind::Truncate { after } = batch.what {
            self.truncations.push((self.batches, after));
        }
    }

    fn has(&self, batch: u64, index: Index) -> bool {
        let later = self.truncations.partition_point(|(number, _)| *number <= batch);
        self.truncations[later..].iter().any(|(_, after)| *after < index)
    }
}

struct Printer<'a> {
    directory: &'a Path,
    settings: &'a DumpSettings,
    taken_back: TakenBack,
    /// Batches so far.
    batch: u64,
    damaged: u64,
    out: &'a mut dyn Write,
}

impl Printer<'_> {
    fn seen(&mut self, seen: Seen<'_>) -> std::io::Result<()> {
        match seen {
            Seen::Segment { file, first, bytes } if self.settings.batches => {
                let file = relative(self.directory, file);
                writeln!(self.out, "-- {file}: segment from entry {first}, {bytes} bytes")
            }
            Seen::Segment { .. } => Ok(()),
            Seen::Batch(batch) => self.batch(&batch),
            Seen::Entry { entry, payload } => self.entry(&entry, &payload),
            Seen::Problem(error) | Seen::ObsoleteProblem(error) => {
                self.damaged += 1;
                writeln!(self.out, "!! {error}")
            }
        }
    }

    fn batch(&mut self, batch: &SeenBatch<'_>) -> std::io::Result<()> {
        self.batch += 1;
        let is_shown = match batch.what {
            SeenKind::Entries { first, count } => {
                let last = first + u64::from(count) - 1;
                first <= *self.settings.entries.end() && last >= *self.settings.entries.start()
            }
            SeenKind::Mark | SeenKind::Truncate { .. } => true,
        };
        if !self.settings.batches || !is_shown {
            return Ok(());
        }
        let what = match batch.what {
            SeenKind::Entries { first, count } => {
                format!("entries {first} to {}", first + u64::from(count) - 1)
            }
            SeenKind::Mark => "mark only".into(),
            SeenKind::Truncate { after } => format!("takes back every entry above {after}"),
        };
        writeln!(
            self.out,
            "-- {} at offset {}: batch of {} bytes, {what}; durable before it {}, committed {}",
            relative(self.directory, batch.file),
            batch.offset,
            batch.bytes,
            batch.mark,
            batch.commit
        )
    }

    fn entry(&mut self, entry: &Entry<'_>, payload: &Payload<'_>) -> std::io::Result<()> {
        if !self.settings.entries.contains(&entry.index) {
            return Ok(());
        }
        let taken_back = self.taken_back.has(self.batch, entry.index);
        if taken_back && !self.settings.batches {
            return Ok(());
        }
        let note = if taken_back { "  (taken back later)" } else { "" };
        let what = describe(payload, self.settings.full);
        writeln!(self.out, "{:>10}  term {}  {what}{note}", entry.index, entry.term)
    }
}

fn describe(payload: &Payload<'_>, full: bool) -> String {
    let (session, write) = match payload {
        Payload::Noop => return "no-op".into(),
        Payload::Admit(member) => return format!("admits {} of node {}", member.incarnation, member.node),
        Payload::OpenSession => return "opens a session".into(),
        Payload::EndSessions(ended) => {
            let all: Vec<String> = ended.iter().map(|ended| ended.session.to_string()).collect();
            return format!("ends the sessions {}", all.join(", "));
        }
        Payload::Write { session, write } => (session, write),
    };
    let write = match write {
        Change::One(mutation) => describe_mutation(mutation, full),
        Change::Batch(mutations) => {
            let all: Vec<String> = mutations.iter().map(|one| describe_mutation(one, full)).collect();
            format!("batch of {}: {}", all.len(), all.join("; "))
        }
    };
    match session {
        None => write,
        Some(SessionSequence { session, sequence, .. }) => {
            format!("session {session} no. {sequence}: {write}")
        }
    }
}

fn describe_mutation(mutation: &Mutation<'_>, full: bool) -> String {
    match mutation {
        Mutation::Set { key, value } => format!("set {} = {}", quoted(key, full), quoted(value, full)),
        Mutation::Delete { key } => format!("delete {}", quoted(key, full)),
        Mutation::CompareAndSet { key, expected, value } => {
            let condition = match expected {
                Expected::Absent => "absent".into(),
                Expected::Revision(revision) => format!("at revision {revision}"),
            };
            format!("set {} = {} if {condition}", quoted(key, full), quoted(value, full))
        }
    }
}

fn dump_checkpoint(
    disk: &dyn Disk,
    directory: &Path,
    index: Option<Index>,
    full: bool,
    out: &mut dyn Write,
) -> Result<u64, OfflineError> {
    let checkpoints = checkpoints_of(directory);
    let there = checkpoint::list(disk, &checkpoints)?;
    let index = match index {
        Some(index) if there.contains(&index) => index,
        Some(index) => {
            return wrong_use(format!(
                "there is no checkpoint of entry {index} in {}: there are those of {there:?}",
                directory.display()
            ));
        }
        None => match there.last() {
            Some(newest) => *newest,
            None => return wrong_use(format!("there is no checkpoint in {}", directory.display())),
        },
    };
    let path = checkpoint::path(&checkpoints, index);
    let file = relative(directory, &path);
    let verified = checkpoint::verify(disk, &path, index);
    match &verified {
        Ok((header, info)) => writeln!(
            out,
            "-- {file}: entry {index}, term {}, cluster {}, {} sessions, {} keys, {} bytes, BLAKE3 {}",
            info.term,
            header.cluster,
            info.sessions,
            info.keys,
            info.bytes,
            hex(&info.hash)
        )?,
        Err(damage) => {
            writeln!(out, "!! {file} is damaged: {damage}; what follows are the blocks that are whole")?
        }
    }
    let mut damaged = 0;
    let mut printed = Ok(());
    checkpoint::read_intact(disk, &path, index, |item| {
        if printed.is_err() {
            return;
        }
        printed = match item {
            Ok(Item::Session(id, session)) => write_session(out, id, &session, full),
            Ok(Item::Record(Record { key, revision, value })) => {
                writeln!(out, "{revision:>10}  {} = {}", quoted(key, full), quoted(value, full))
            }
            Err(damage) => {
                damaged += 1;
                writeln!(out, "!! {file}: {damage}")
            }
        };
    });
    printed?;
    Ok(if verified.is_err() { damaged.max(1) } else { damaged })
}

/// A session; with `full` its results, too.
fn write_session(out: &mut dyn Write, id: SessionId, session: &Session, full: bool) -> io::Result<()> {
    writeln!(
        out,
        "   session {id}: last used by entry {}, lowest open no. {}, {} results",
        session.last_used,
        session.lowest,
        session.results().len()
    )?;
    for Done { sequence, index, result, .. } in session.results().filter(|_| full) {
        let what = match result {
            WriteResult::Applied { existed } => format!("done, {existed} of its keys existed"),
            WriteResult::ConditionFailed { mutation, revision: None } => {
                format!("condition {mutation} failed, as there was no such key")
            }
            WriteResult::ConditionFailed { mutation, revision: Some(revision) } => {
                format!("condition {mutation} failed, as the key was at revision {revision}")
            }
        };
        writeln!(out, "       no. {sequence}, entry {index}: {what}")?;
    }
    Ok(())
}
