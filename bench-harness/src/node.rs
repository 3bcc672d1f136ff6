//! The hidden subcommand `node`: a server process of a cluster that this program started.
//!
//! `bench-harness node PARENT SYNC-DELAY SERVER-ARGUMENTS…` ends when the process PARENT does, also if that is
//! killed and can stop nothing: the kernel is asked to kill this one with it. A harness therefore never leaves
//! a node behind.
//!
//! The file SYNC-DELAY, while it exists, holds the microseconds that every sync of the node's disk takes
//! longer, as digits; it is looked at again and again. Whoever writes it replaces it as a whole.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use quorate_server::disk::{DelayedDisk, RealDisk, SyncDelay};
use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The subcommand's name.
pub const SUBCOMMAND: &str = "node";

/// How often a node looks how much longer its syncs are to take.
pub const SYNC_DELAY_POLL: Duration = Duration::from_millis(20);

/// What the subcommand got, if `arguments` (program name first) ask for it.
pub fn arguments(arguments: &[OsString]) -> Option<&[OsString]> {
    match arguments {
        [_, subcommand, rest @ ..] if subcommand == SUBCOMMAND => Some(rest),
        _ => None,
    }
}

/// Serves as a node until it is told to stop or the harness ends.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let [parent, sync_delay, arguments @ ..] = arguments else {
        eprintln!("\"{SUBCOMMAND}\" is for the harness itself; start a server with quorate-server");
        return ExitCode::from(2);
    };
    if let Err(error) = end_with(parent, Signal::KILL) {
        eprintln!("the node cannot be tied to the harness that started it: {error}");
        return ExitCode::FAILURE;
    }
    let delay = match follow_sync_delay(sync_delay.into()) {
        Ok(delay) => delay,
        Err(error) => {
            eprintln!("the thread that slows the node's disk cannot be started: {error}");
            return ExitCode::FAILURE;
        }
    };
    quorate_server::cli::run_with_disk(
        std::iter::once("quorate-server".into()).chain(arguments.iter().cloned()),
        Arc::new(DelayedDisk::new(Arc::new(RealDisk), delay)),
    )
}

/// Has the kernel send this process a signal when the one that started it ends. An error if that has ended
/// already, or is not the process with the id `parent`.
pub(crate) fn end_with(parent: &OsStr, signal: Signal) -> Result<(), String> {
    set_parent_process_death_signal(Some(signal)).map_err(|error| error.to_string())?;
    // The parent may have ended before the kernel was asked.
    let now = getppid().map(Pid::as_raw_pid);
    match parent.to_str().and_then(|pid| pid.parse::<i32>().ok()) {
        Some(expected) if now == Some(expected) => Ok(()),
        _ => Err(format!("process {} is not its parent", parent.to_string_lossy())),
    }
}

/// A delay that is kept as the file says, from the first sync on, for the rest of the process's life.
fn follow_sync_delay(file: PathBuf) -> io::Result<SyncDelay> {
    let delay = SyncDelay::new(read_sync_delay(&file)?);
    let followed = delay.clone();
    let follow = move || loop {
        thread::sleep(SYNC_DELAY_POLL);
        match read_sync_delay(&file) {
            Ok(delay) => followed.set(delay),
            Err(error) => {
                eprintln!("{} cannot be read, syncs stay as slow as they are: {error}", file.display());
                return;
            }
        }
    };
    thread::Builder::new().name("sync-delay".to_owned()).spawn(follow)?;
    Ok(delay)
}

/// What the file says; nothing if there is none.
fn read_sync_delay(file: &Path) -> io::Result<Duration> {
    match std::fs::read_to_string(file) {
        Ok(text) => text.trim().parse().map(Duration::from_micros).map_err(io::Error::other),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Duration::ZERO),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sync_delay_is_as_the_file_says_and_none_without_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("node-1.sync-delay");
        assert_eq!(read_sync_delay(&file).unwrap(), Duration::ZERO);
        std::fs::write(&file, "1500").unwrap();
        assert_eq!(read_sync_delay(&file).unwrap(), Duration::from_micros(1500));
        std::fs::write(&file, "soon").unwrap();
        assert!(read_sync_delay(&file).is_err());
    }
}
