//! The command line of the offline tools: what they are asked, and what they say.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand, ValueEnum};
use quorate_protocol::Index;

use super::reference::Reference;
use super::{Command, EXIT_FAILURE, EXIT_WRONG_SETTING, Plan, Settings, fail, read_config};
use crate::directory::{self, DirectoryError, SharedLock};
use crate::disk::Disk;
use crate::offline::{
    self, Backup, Checked, DumpSettings, Finding, Manifest, OfflineError, Restored, Severity, display_bytes,
    display_time, hex,
};

/// What is done instead of running a replica.
#[derive(Subcommand, Debug)]
pub(super) enum Tool {
    /// Verify a data directory or a backup, offline: what it holds, what is wrong and where
    ///
    /// Reads everything and changes nothing: identity, both copies of the vote, every checkpoint down to the hash of
    /// its file, every batch and entry of the log, and whether the log reaches back to the checkpoints. It does not
    /// stop at the first problem. What a crash may leave, and the next start deals with, is noted and not wrong.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Checkpoints of two replicas at the same entry have the same BLAKE3 hash if the replicas hold the same.
A directory that a node runs on is refused, as it changes while it is read: check a backup of it instead.
The directory is locked meanwhile, so that no node starts on it.

Exit codes: 0 nothing is wrong, 1 something is wrong, 2 wrong use, 3 a node runs on the directory."
    )]
    Check(Check),
    /// Print the entries of a data directory or a backup, or the records of a checkpoint
    ///
    /// Each line is an entry: index, term, and what it does. What is damaged is named in a line that begins with
    /// !!, and printing goes on with what is intact behind it. Entries that were taken back are left out unless
    /// --batches asks for all that is in the files.
    #[command(
        verbatim_doc_comment,
        after_help = "\
If a node runs on the directory, what it is just writing may look damaged: print a backup instead.

Exit codes: 0 all is printed, 1 something is damaged, 2 wrong use."
    )]
    Dump(Dump),
    /// Copy the data of a node, which may be running, so that it can be restored
    ///
    /// Copies the newest checkpoint and the log behind it into a new directory, on the same machine and without
    /// disturbing the node. All that is copied is verified and synced. The manifest is written last: without it the
    /// backup is not finished, and is refused by restore.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Take it from the leader: it holds every acknowledged write, and a follower may hold less.
The backup may be moved or copied as a directory. 'quorate-server check TO' verifies it at any time.

Exit codes: 0 done, 1 failed, or what is to be copied is damaged, 2 wrong use."
    )]
    Backup(BackUp),
    /// Make the data directory of a node of a new cluster from a backup
    ///
    /// Takes the settings that the node will be started with, by flag, environment or file, as without the
    /// subcommand; only those which concern the directory matter. Every node of the new cluster is restored from
    /// the same backup, each with its own --id and --data, and then started as usual: the nodes form a cluster once
    /// all of them have met. Nodes that were restored from different backups, or not at all, are refused.
    ///
    /// Everything in the backup counts, also the entries above the last commit index that it records: the last
    /// acknowledged writes may be among them.
    #[command(
        verbatim_doc_comment,
        after_help = "\
Three nodes from one backup:

  quorate-server restore BACKUP --id 1 --data node-1 --quorum 2 \\
      --replica 1=127.0.0.1:7501 --replica 2=127.0.0.1:7502 --replica 3=127.0.0.1:7503
  (and with --id 2 --data node-2, and --id 3 --data node-3)

Exit codes: 0 done, 1 failed, or the backup is damaged, 2 wrong use."
    )]
    Restore(Box<Restore>),
    #[command(flatten)]
    Reference(Reference),
}

#[derive(Args, Debug)]
pub(super) struct Check {
    /// The data directory or backup.
    dir: PathBuf,
    /// How it is said.
    #[arg(long, value_enum, default_value = "text")]
    format: Format,
}

#[derive(ValueEnum, Clone, Copy, PartialEq, Eq, Debug)]
enum Format {
    Text,
    Json,
}

#[derive(Args, Debug)]
pub(super) struct Dump {
    /// The data directory or backup.
    dir: PathBuf,
    /// The first entry to print.
    #[arg(long, value_name = "INDEX", default_value_t = 1)]
    from: Index,
    /// The last entry to print [default: the last there is].
    #[arg(long, value_name = "INDEX")]
    to: Option<Index>,
    /// Print segments, batches, marks and truncations too, and entries that were taken back.
    #[arg(long)]
    batches: bool,
    /// Print the records of a checkpoint instead: the newest, or the one of this entry.
    #[arg(long, value_name = "INDEX", num_args = 0..=1, conflicts_with_all = ["from", "to", "batches"])]
    checkpoint: Option<Option<Index>>,
    /// Print keys and values as a whole, instead of their first 64 bytes, and the results of sessions.
    #[arg(long)]
    full: bool,
}

#[derive(Args, Debug)]
pub(super) struct BackUp {
    /// The node's data directory.
    dir: PathBuf,
    /// Where the backup goes; must be empty or absent.
    to: PathBuf,
}

#[derive(Args, Debug)]
pub(super) struct Restore {
    /// The backup.
    backup: PathBuf,
    /// A TOML file with the node's settings; flags and environment come first.
    #[arg(long, value_name = "FILE", env = "QUORATE_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

/// Does what was asked.
pub(super) fn run(tool: Tool, disk: &Arc<dyn Disk>) -> ExitCode {
    let done = match tool {
        Tool::Check(check) => run_check(&check, &**disk),
        Tool::Dump(dump) => run_dump(&dump, &**disk),
        Tool::Backup(backup) => run_backup(&backup, &**disk),
        Tool::Restore(restore) => run_restore(*restore, disk),
        Tool::Reference(reference) => run_reference(&reference),
    };
    match done {
        Ok(code) => code,
        // Whoever reads the output has enough of it: no error, as with any other tool in a pipe.
        Err(OfflineError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => fail(&error, error.exit_code()),
    }
}

fn run_reference(reference: &Reference) -> Result<ExitCode, OfflineError> {
    match reference.render::<Command>() {
        Ok(text) => print(text).map(|()| ExitCode::SUCCESS),
        Err(error) => Ok(fail(&error, EXIT_WRONG_SETTING)),
    }
}

fn print(text: impl AsRef<[u8]>) -> Result<(), OfflineError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_ref())?;
    Ok(out.flush()?)
}

/// Prints what a closed pipe does not make less true, and returns the code.
fn print_and(text: &str, code: ExitCode) -> Result<ExitCode, OfflineError> {
    match print(text) {
        Err(OfflineError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(code),
        printed => printed.map(|()| code),
    }
}

fn run_check(check: &Check, disk: &dyn Disk) -> Result<ExitCode, OfflineError> {
    let checked = offline::check(disk, &check.dir)?;
    let text = match check.format {
        Format::Text => describe_check(&checked),
        Format::Json => {
            serde_json::to_string_pretty(&checked).expect("all keys of a report are names") + "\n"
        }
    };
    print_and(&text, if checked.ok { ExitCode::SUCCESS } else { EXIT_FAILURE.into() })
}

fn run_dump(dump: &Dump, disk: &dyn Disk) -> Result<ExitCode, OfflineError> {
    let to = dump.to.unwrap_or(Index::MAX);
    if dump.from > to {
        return Err(OfflineError::WrongUse(format!("--from {} is behind --to {to}", dump.from)));
    }
    if let Err(DirectoryError::InUse { holder, .. }) = SharedLock::take(disk, &dump.dir) {
        eprintln!("quorate-server: in use by {holder}: what is being written now may look damaged");
    }
    let settings = DumpSettings {
        entries: dump.from..=to,
        batches: dump.batches,
        full: dump.full,
        checkpoint: dump.checkpoint,
    };
    let mut out = BufWriter::new(io::stdout().lock());
    let damaged = offline::dump(disk, &dump.dir, &settings, &mut out)?;
    out.flush()?;
    if damaged == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    Ok(fail(
        &format!("{damaged} damaged: see the lines that begin with !!, or 'quorate-server check'"),
        EXIT_FAILURE,
    ))
}

fn run_backup(backup: &BackUp, disk: &dyn Disk) -> Result<ExitCode, OfflineError> {
    let Backup { manifest, passed_over } = offline::backup(disk, &backup.dir, &backup.to)?;
    for skipped in passed_over {
        eprintln!(
            "quorate-server: passed over a damaged checkpoint, all of it is in an older one and the log: {skipped}"
        );
    }
    let text = format!("backup {}\n{}", backup.to.display(), describe_manifest(&manifest));
    print_and(&text, ExitCode::SUCCESS)
}

fn run_restore(restore: Restore, disk: &Arc<dyn Disk>) -> Result<ExitCode, OfflineError> {
    let Restore { backup, config, settings } = restore;
    let settings = match config {
        Some(file) => read_config(&file).map(|config| settings.over(config)),
        None => Ok(settings),
    };
    let Plan { server, .. } = match settings.and_then(Settings::check) {
        Ok(plan) => plan,
        Err(error) => return Ok(fail(&error, EXIT_WRONG_SETTING)),
    };
    let fresh = directory::random_incarnation()?;
    let restored =
        offline::restore(disk, &backup, &server.data, &server.identity, fresh, server.segment_bytes)?;
    let text = describe_restored(&server.data.display().to_string(), &restored);
    print_and(&text, ExitCode::SUCCESS)
}

/// One line of a report: what, and how it is.
fn line(text: &mut String, name: &str, value: impl std::fmt::Display) {
    let _ = writeln!(text, "  {name:<12}{value}"); // A String takes everything.
}

fn segments_of(count: u64) -> String {
    if count == 1 { "1 segment".into() } else { format!("{count} segments") }
}

fn describe_check(checked: &Checked) -> String {
    let kind = if checked.backup.is_some() { "backup" } else { "data directory" };
    let mut text = format!("{kind} {}\n", checked.directory);
    if let Some(identity) = &checked.identity {
        let id = identity.cluster_id.as_deref().unwrap_or("not known yet");
        line(&mut text, "cluster", format_args!("{} (id {id})", identity.cluster));
        let formed = if identity.formed { "formed" } else { "not formed yet" };
        let (node, m, n) = (identity.node, identity.replicas, identity.quorum);
        let leader = identity.leader.map_or("elected leader".into(), |leader| format!("leader {leader}"));
        let durability = &identity.durability;
        line(&mut text, "node", format_args!("{node} (incarnation {})", identity.incarnation));
        line(
            &mut text,
            "settings",
            format_args!("{m} replicas, quorum {n}, {leader}, {durability}; {formed}"),
        );
        if !identity.members.is_empty() {
            let members: Vec<String> = identity
                .members
                .iter()
                .map(|member| format!("{} ({})", member.node, member.incarnation))
                .collect();
            line(&mut text, "members", members.join(", "));
        }
        if let Some(origin) = &identity.origin {
            line(
                &mut text,
                "origin",
                format_args!("restored, entry {}, BLAKE3 {}", origin.index, origin.blake3),
            );
        }
    }
    if let Some(backup) = &checked.backup {
        line(&mut text, "taken", display_time(backup.unix_seconds));
        line(
            &mut text,
            "holds",
            format_args!("entries to {}, known committed to {}", backup.last, backup.committed),
        );
    }
    if let Some(vote) = &checked.vote {
        let voted = vote.voted_for.map_or("nobody".to_owned(), |node| format!("node {node}"));
        line(&mut text, "vote", format_args!("term {}, for {voted}", vote.term));
    }
    for checkpoint in &checked.checkpoints {
        let what = match &checkpoint.whole {
            None => format!("entry {}, damaged", checkpoint.index),
            Some(whole) => format!(
                "entry {}, term {}, {} sessions, {} keys, {}, BLAKE3 {}",
                checkpoint.index,
                whole.term,
                whole.sessions,
                whole.keys,
                display_bytes(whole.bytes),
                whole.blake3
            ),
        };
        line(&mut text, "checkpoint", what);
    }
    if let Some(log) = &checked.log {
        let entries = if log.last < log.first {
            format!("no entries, the next is {}", log.first)
        } else {
            format!("entries {} to {}, term {}, durable to {}", log.first, log.last, log.last_term, log.mark)
        };
        let (segments, bytes) = (log.segments, display_bytes(log.bytes));
        line(&mut text, "log", format_args!("{entries}; {}, {bytes}", segments_of(segments as u64)));
        line(&mut text, "committed", format_args!("at least to entry {}", log.committed));
    }
    for finding in &checked.findings {
        describe_finding(&mut text, finding);
    }
    let wrong = checked.findings.iter().filter(|finding| finding.severity == Severity::Wrong).count();
    text += &match wrong {
        0 => "nothing is wrong\n".to_owned(),
        1 => "1 thing is wrong\n".to_owned(),
        count => format!("{count} things are wrong\n"),
    };
    text
}

fn describe_finding(text: &mut String, finding: &Finding) {
    let severity = if finding.severity == Severity::Wrong { "WRONG" } else { "note" };
    let place = match finding.offset {
        Some(offset) => format!("{} at offset {offset}", finding.file),
        None => finding.file.clone(),
    };
    let _ = writeln!(text, "{severity}: {place}: {}\n    {}", finding.what, finding.act);
}

fn describe_manifest(manifest: &Manifest) -> String {
    let mut text = String::new();
    let Manifest { source, last, last_term, committed, .. } = manifest;
    let id = source.cluster_id().map_or("not known yet".to_owned(), |id| id.to_string());
    line(&mut text, "cluster", format_args!("{} (id {id}), node {}", source.cluster, source.node));
    line(&mut text, "taken", display_time(manifest.unix_seconds));
    let checkpoint = manifest.checkpoint.map_or("none".to_owned(), |checkpoint| {
        format!(
            "entry {}, term {}, {} keys, {}, BLAKE3 {}",
            checkpoint.index,
            checkpoint.term,
            checkpoint.keys,
            display_bytes(checkpoint.bytes),
            hex(&checkpoint.hash)
        )
    });
    line(&mut text, "checkpoint", checkpoint);
    let entries = if *last < manifest.first {
        "no entries".to_owned()
    } else {
        format!("entries {} to {last}", manifest.first)
    };
    let bytes = display_bytes(manifest.log_bytes);
    line(&mut text, "log", format_args!("{entries}; {}, {bytes}", segments_of(manifest.segments)));
    let unknown = last - committed;
    line(
        &mut text,
        "holds",
        format_args!(
            "entries to {last} of term {last_term}: known committed to {committed}, and {unknown} above that, which \
             count when it is restored"
        ),
    );
    text
}

fn describe_restored(data: &str, restored: &Restored) -> String {
    let Restored { manifest, checkpoint, identity } = restored;
    let mut text = format!("restored {data}\n");
    let (m, n) = (identity.quorums.replicas(), identity.quorums.quorum());
    line(
        &mut text,
        "cluster",
        format_args!("{}, {m} replicas, quorum {n}, not formed yet", identity.cluster),
    );
    line(&mut text, "node", format_args!("{} (incarnation {})", identity.node, identity.incarnation));
    line(
        &mut text,
        "from",
        format_args!(
            "node {} of cluster {}, {}",
            manifest.source.node,
            manifest.source.cluster,
            display_time(manifest.unix_seconds)
        ),
    );
    line(
        &mut text,
        "holds",
        format_args!(
            "{} key{} after entry {} of term {}: entries to {} are known to have been committed, {} more are taken as \
             such",
            checkpoint.keys,
            if checkpoint.keys == 1 { "" } else { "s" },
            checkpoint.index,
            checkpoint.term,
            manifest.committed,
            manifest.last - manifest.committed
        ),
    );
    line(
        &mut text,
        "origin",
        format_args!("BLAKE3 {}, the same for every node of the cluster", hex(&checkpoint.hash)),
    );
    let rest = if m > 1 {
        "restore every other node from the same backup, then start all of them with the same settings"
    } else {
        "start the node with the same settings"
    };
    line(&mut text, "next", rest);
    text
}
