//! The server processes of one peer, and the programs that prepare them.
//!
//! As with the harness's own nodes, every server has a data directory and a log below one directory, on a
//! loopback address that no other cluster has:
//!
//! ```text
//! DIRECTORY/node-1/       data of server 1
//! DIRECTORY/node-1.log    what server 1 printed, and the programs that prepared its data
//! ```
//!
//! They are started through [`launcher`], so the kernel ends them with the thread that started them. When a
//! [`Servers`] is dropped none of its processes is left, whatever state they were in, nor any of theirs.
//! Servers are ended and not shut down: nobody needs their data afterwards.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use futures_lite::FutureExt;
use rustix::process::{Pid, Signal, kill_process};
use smol::Timer;

use super::launcher::{self, User};
use crate::cluster::address::Reservation;
use crate::cluster::process::{Process, last_lines};

/// How long servers have to end when told to, before they are killed, and then their children.
const END_TIME_MAX: Duration = Duration::from_secs(5);

/// How long a program that prepares something may take.
const TOOL_TIME_MAX: Duration = Duration::from_secs(60);

/// How long started servers may take until they serve.
const READY_TIME_MAX: Duration = Duration::from_secs(30);

/// How long one answer of a server that starts may take.
const ANSWER_TIME_MAX: Duration = Duration::from_secs(2);

/// How often a server that starts is asked.
const READY_POLL: Duration = Duration::from_millis(50);

/// How often an ending process is looked at.
const POLL: Duration = Duration::from_millis(10);

/// Lines of a server's log that an error shows.
const LOG_LINES: usize = 10;

/// How a peer's programs are started and ended.
#[derive(Clone, Debug)]
pub(super) struct Manners {
    /// The harness's executable.
    pub(super) launcher: PathBuf,
    /// What ends a server at once, its children included.
    pub(super) end: Signal,
    /// Who they run as; whoever runs the harness if none.
    pub(super) user: Option<User>,
}

/// The servers of a peer, numbered from 1.
#[derive(Debug)]
pub(super) struct Servers {
    manners: Manners,
    reservation: Reservation,
    directory: PathBuf,
    running: Vec<Server>,
}

#[derive(Debug)]
struct Server {
    number: u8,
    process: Process,
}

impl Servers {
    /// Takes an address for so many servers, and makes their directories in `directory`, which must exist.
    /// Starts nothing.
    pub(super) fn prepare(manners: Manners, replicas: u8, directory: &Path) -> anyhow::Result<Self> {
        let reservation = Reservation::take(replicas)?;
        // Programs work in their own directories.
        let directory = fs::canonicalize(directory)
            .with_context(|| format!("{} is no directory for a peer", directory.display()))?;
        let servers = Self { manners, reservation, directory, running: Vec::new() };
        for number in 1..=replicas {
            servers
                .make_data_directory(number)
                .with_context(|| format!("{} cannot be made", servers.data_directory(number).display()))?;
        }
        Ok(servers)
    }

    fn make_data_directory(&self, number: u8) -> io::Result<()> {
        let data = self.data_directory(number);
        fs::create_dir(&data)?;
        fs::set_permissions(&data, fs::Permissions::from_mode(0o700))?;
        if let Some(user) = self.manners.user {
            chown(&data, Some(user.uid), Some(user.gid))?;
            // The other user has to get to its own directory, and sees nothing else here.
            fs::set_permissions(&self.directory, fs::Permissions::from_mode(0o711))?;
        }
        Ok(())
    }

    /// Where clients reach a server.
    pub(super) fn client_address(&self, number: u8) -> SocketAddr {
        self.reservation.client(number)
    }

    /// Where servers reach a server.
    pub(super) fn peer_address(&self, number: u8) -> SocketAddr {
        self.reservation.peer(number)
    }

    /// Where a server keeps its data.
    pub(super) fn data_directory(&self, number: u8) -> PathBuf {
        self.directory.join(format!("node-{number}"))
    }

    fn log(&self, number: u8) -> PathBuf {
        self.directory.join(format!("node-{number}.log"))
    }

    /// Starts a server.
    pub(super) fn start(&mut self, number: u8, program: &Path, arguments: &[String]) -> anyhow::Result<()> {
        let process = self.start_program(number, program, arguments)?;
        self.running.push(Server { number, process });
        Ok(())
    }

    /// Runs a program that prepares a server's data, to its end.
    pub(super) async fn run_tool(
        &self,
        number: u8,
        program: &Path,
        arguments: &[String],
    ) -> anyhow::Result<()> {
        let mut process = self.start_program(number, program, arguments)?;
        let deadline = Instant::now() + TOOL_TIME_MAX;
        loop {
            match process.exited() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    bail!("{} failed: {status}{}", program.display(), self.log_words(number))
                }
                None if Instant::now() >= deadline => {
                    bail!("{} took over {TOOL_TIME_MAX:?}{}", program.display(), self.log_words(number))
                }
                None => Timer::after(POLL).await,
            };
        }
    }

    fn start_program(&self, number: u8, program: &Path, arguments: &[String]) -> anyhow::Result<Process> {
        let Manners { launcher, end, user } = &self.manners;
        let mut command = launcher::command(launcher, *end, *user, program);
        command.args(arguments).current_dir(self.data_directory(number));
        set_environment(&mut command);
        Process::start(command, &self.log(number))
    }

    /// Waits until `probe` succeeds, whose error says what is missing. Fails as soon as a server ends, or
    /// when the time is up.
    pub(super) async fn wait_until(
        &mut self,
        mut probe: impl AsyncFnMut() -> Result<(), String>,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_TIME_MAX;
        loop {
            self.check_running()?;
            let late = async {
                Timer::after(ANSWER_TIME_MAX).await;
                Err("it does not answer".to_owned())
            };
            let Err(reason) = probe().or(late).await else { return Ok(()) };
            if Instant::now() >= deadline {
                let logs = self.directory.display();
                bail!("it was not ready within {READY_TIME_MAX:?}: {reason}; its logs are in {logs}");
            }
            Timer::after(READY_POLL).await;
        }
    }

    /// An error that shows its log if a server has ended.
    pub(super) fn check_running(&mut self) -> anyhow::Result<()> {
        let ended =
            self.running.iter_mut().find_map(|server| Some((server.number, server.process.exited()?)));
        match ended {
            Some((number, status)) => bail!("{}", self.ended_words(number, status)),
            None => Ok(()),
        }
    }

    /// The process ids of the servers, the first one's first.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.running.iter().map(|server| server.process.id()).collect()
    }

    /// The servers and all processes that they have now started.
    pub(super) fn ids_with_children(&self) -> Vec<u32> {
        with_descendants(self.ids(), &parents())
    }

    fn ended_words(&self, number: u8, status: ExitStatus) -> String {
        format!("server {number} ended by itself: {status}{}", self.log_words(number))
    }

    /// Where a server's log is, and how it ends.
    pub(super) fn log_words(&self, number: u8) -> String {
        let log = self.log(number);
        let mut words = format!("; its log is {}", log.display());
        for line in last_lines(&log, LOG_LINES) {
            let _ = write!(words, "\n    {line}"); // a String takes everything
        }
        words
    }

    /// Ends all servers. An error names what is left.
    pub(super) fn end(&mut self) -> anyhow::Result<()> {
        let mut left = self.ids_with_children();
        for server in &mut self.running {
            // Who cannot be signalled is killed below.
            let _ = server.process.signal(self.manners.end);
        }
        // Who is paused has to go on to see that it is to end.
        for process in left.iter().filter_map(|process| Pid::from_raw(i32::try_from(*process).ok()?)) {
            let _ = kill_process(process, Signal::CONT);
        }
        let deadline = Instant::now() + END_TIME_MAX;
        for server in &mut self.running {
            server.process.wait_until(deadline);
        }
        self.running.clear(); // kills who has not ended
        let deadline = Instant::now() + END_TIME_MAX;
        loop {
            left.retain(|process| exists(*process));
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                bail!("processes {left:?} of the peer are left: end them with kill");
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Nobody is left to tell.
        let _ = self.end();
    }
}

/// Settings of the programs in the caller's environment are not meant for these servers.
fn set_environment(command: &mut Command) {
    command.env_clear().env("LC_ALL", "C");
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
}

fn exists(process: u32) -> bool {
    Path::new(&format!("/proc/{process}")).exists()
}

/// The parent of every process of this machine.
fn parents() -> HashMap<u32, u32> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    numbers.filter_map(|process: u32| Some((process, parent(process)?))).collect()
}

fn parent(process: u32) -> Option<u32> {
    let line = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
    // The name in parentheses may have any character; state and parent follow it.
    let (_, after_name) = line.rsplit_once(')')?;
    after_name.split_whitespace().nth(1)?.parse().ok()
}

fn with_descendants(mut processes: Vec<u32>, parents: &HashMap<u32, u32>) -> Vec<u32> {
    let mut next = 0;
    while let Some(parent) = processes.get(next).copied() {
        processes.extend(parents.iter().filter(|(_, its)| **its == parent).map(|(process, _)| *process));
        next += 1;
    }
    processes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_and_their_children_are_found() {
        let parents = HashMap::from([(2, 1), (10, 2), (11, 10), (12, 10), (13, 12), (20, 2)]);
        let mut found = with_descendants(vec![10], &parents);
        found.sort_unstable();
        assert_eq!(found, [10, 11, 12, 13]);
    }

    #[test]
    fn a_process_knows_its_parent() {
        let own = std::process::id();
        assert_eq!(parent(own), Some(std::os::unix::process::parent_id()));
        assert_eq!(parents().get(&own).copied(), parent(own));
    }
}
