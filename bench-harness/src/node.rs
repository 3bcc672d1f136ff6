//! The hidden subcommand `node`: a server process of a cluster that this program started.
//!
//! `bench-harness node PARENT SERVER-ARGUMENTS…` ends when the process PARENT does, also if that is killed
//! and can stop nothing: the kernel is asked to kill this one with it. A harness therefore never leaves a
//! node behind.

use std::ffi::{OsStr, OsString};
use std::process::ExitCode;

use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};

/// The subcommand's name.
pub const SUBCOMMAND: &str = "node";

/// What the subcommand got, if `arguments` (program name first) ask for it.
pub fn arguments(arguments: &[OsString]) -> Option<&[OsString]> {
    match arguments {
        [_, subcommand, rest @ ..] if subcommand == SUBCOMMAND => Some(rest),
        _ => None,
    }
}

/// Serves as a node until it is told to stop or the harness ends.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let Some((parent, arguments)) = arguments.split_first() else {
        eprintln!("\"{SUBCOMMAND}\" is for the harness itself; start a server with quorate-server");
        return ExitCode::from(2);
    };
    if let Err(error) = end_with(parent, Signal::KILL) {
        eprintln!("the node cannot be tied to the harness that started it: {error}");
        return ExitCode::FAILURE;
    }
    quorate_server::cli::run(std::iter::once("quorate-server".into()).chain(arguments.iter().cloned()))
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
