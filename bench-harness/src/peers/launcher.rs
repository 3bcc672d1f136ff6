//! The hidden subcommand `peer`: becomes a program of a peer that ends when the harness does.
//!
//! `bench-harness peer PARENT SIGNAL USER PROGRAM ARGUMENTS…` gives up root for USER, asks the kernel to send
//! SIGNAL to this process when the process PARENT ends, also if that is killed and can stop nothing, and
//! becomes PROGRAM. The order matters: the kernel forgets the request when a process changes its user, and
//! keeps it when a process becomes another program.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};
use std::{fmt, io};

use rustix::process::{Gid, Signal, Uid};
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};

use crate::node::end_with;

/// The subcommand's name.
pub const SUBCOMMAND: &str = "peer";

/// USER if the program runs as whoever runs the harness.
const SAME_USER: &str = "-";

/// What the subcommand got, if `arguments` (program name first) ask for it.
pub fn arguments(arguments: &[OsString]) -> Option<&[OsString]> {
    match arguments {
        [_, subcommand, rest @ ..] if subcommand == SUBCOMMAND => Some(rest),
        _ => None,
    }
}

/// Becomes the program; returns if it cannot. The process must not have started a thread.
pub fn run(arguments: &[OsString]) -> ExitCode {
    let [parent, signal, user, program, arguments @ ..] = arguments else {
        eprintln!("\"{SUBCOMMAND}\" is for the harness itself");
        return ExitCode::from(2);
    };
    let error = match prepare(parent, signal, user) {
        Ok(()) => Command::new(program).args(arguments).exec().to_string(),
        Err(error) => error,
    };
    eprintln!("{} cannot be started: {error}", program.display());
    ExitCode::FAILURE
}

fn prepare(parent: &OsStr, signal: &OsStr, user: &OsStr) -> Result<(), String> {
    if user != SAME_USER {
        let text = user.to_str().unwrap_or_default();
        let user = User::parse(text).ok_or_else(|| format!("\"{text}\" is no user"))?;
        user.become_it().map_err(|error| format!("it cannot run as user {user}: {error}"))?;
    }
    let number = signal.to_str().and_then(|number| number.parse().ok());
    let signal = number.and_then(Signal::from_named_raw).ok_or("it was given no signal to end with")?;
    end_with(parent, signal)
}

/// A user of the system, with the group of its own.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct User {
    /// Its number.
    pub(super) uid: u32,
    /// Its group's.
    pub(super) gid: u32,
}

impl User {
    /// Looks a user up in the system's list (`/etc/passwd`).
    pub(super) fn named(name: &str) -> Option<Self> {
        Self::listed(&std::fs::read_to_string("/etc/passwd").ok()?, name)
    }

    fn listed(list: &str, name: &str) -> Option<Self> {
        let fields = list.lines().map(|line| line.split(':').collect::<Vec<_>>());
        let user = fields.into_iter().find(|fields| fields.first() == Some(&name))?;
        Some(Self { uid: user.get(2)?.parse().ok()?, gid: user.get(3)?.parse().ok()? })
    }

    fn parse(text: &str) -> Option<Self> {
        let (uid, gid) = text.split_once(':')?;
        Some(Self { uid: uid.parse().ok()?, gid: gid.parse().ok()? })
    }

    /// Gives up the present user for this one, for good.
    fn become_it(self) -> io::Result<()> {
        let group = Gid::from_raw(self.gid);
        set_thread_groups(&[group])?;
        set_thread_gid(group)?;
        Ok(set_thread_uid(Uid::from_raw(self.uid))?)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uid, self.gid)
    }
}

/// The command that has the harness's executable `launcher` become `program`, as `user` or as whoever runs
/// the harness, to be sent the signal `end` when this process ends.
pub(super) fn command(launcher: &Path, end: Signal, user: Option<User>, program: &Path) -> Command {
    let mut command = Command::new(launcher);
    let user = user.map_or_else(|| SAME_USER.to_owned(), |user| user.to_string());
    let (parent, signal) = (std::process::id().to_string(), end.as_raw().to_string());
    command.args([SUBCOMMAND, &parent, &signal, &user]).arg(program);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_in_the_systems_list() {
        let list = "root:x:0:0:root:/root:/bin/sh\npostgres:x:102:104::/var/lib/postgresql:/bin/bash\nodd\n";
        assert_eq!(User::listed(list, "postgres"), Some(User { uid: 102, gid: 104 }));
        assert_eq!(User::listed(list, "odd"), None);
        assert_eq!(User::listed(list, "nobody"), None);
    }

    #[test]
    fn a_command_line_reads_back_as_it_was_written() {
        let user = User { uid: 102, gid: 104 };
        assert_eq!(User::parse(&user.to_string()), Some(user));
        assert_eq!(User::parse(SAME_USER), None);
    }
}
