//! One server process: started, signalled and waited for.
//!
//! A process runs in a process group of its own, so that a Ctrl-C on the terminal reaches the harness
//! alone, which then stops its nodes in order. Only processes that this module started are ever signalled,
//! and only until they have been waited for: a process id is not used again before that.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

/// How often an ending process is looked at.
const WAIT_POLL: Duration = Duration::from_millis(5);

/// Bytes from a log's end in which its last lines are looked for.
const LOG_TAIL_BYTES: u64 = 16 << 10;

/// A process, stopped for good when dropped.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
}

impl Process {
    /// Starts a command whose output is appended to the file `log`.
    pub(crate) fn start(mut command: Command, log: &Path) -> anyhow::Result<Self> {
        let output = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("the node's log {} cannot be written", log.display()))?;
        let error_output = output.try_clone().context("the node's log cannot be opened twice")?;
        command.stdin(Stdio::null()).stdout(output).stderr(error_output).process_group(0);
        let program = command.get_program().to_owned();
        let child = command.spawn().with_context(|| format!("{} cannot be started", program.display()))?;
        Ok(Self { child })
    }

    /// Its process id.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// How it ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) -> io::Result<()> {
        match self.exited() {
            Some(_) => Ok(()),
            None => Ok(kill_process(Pid::from_child(&self.child), signal)?),
        }
    }

    /// Waits for its end, up to a point in time.
    pub(crate) fn wait_until(&mut self, deadline: Instant) -> Option<ExitStatus> {
        loop {
            if let Some(status) = self.exited() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            thread::sleep(WAIT_POLL);
        }
    }

    /// Kills it and waits for its end, which the kernel does not refuse.
    pub(crate) fn kill(&mut self) -> io::Result<ExitStatus> {
        self.child.kill()?;
        self.child.wait()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Nobody is left to tell, and the kernel kills nodes with the harness in any case.
        let _ = self.kill();
    }
}

/// The last lines of a log, at most `lines`; empty if it cannot be read.
pub(crate) fn last_lines(log: &PathBuf, lines: usize) -> Vec<String> {
    let tail = || -> io::Result<Vec<u8>> {
        let mut file = File::open(log)?;
        let start = file.metadata()?.len().saturating_sub(LOG_TAIL_BYTES);
        file.seek(SeekFrom::Start(start))?;
        let mut tail = Vec::new();
        file.take(LOG_TAIL_BYTES).read_to_end(&mut tail)?;
        Ok(tail)
    };
    let tail = tail().unwrap_or_default();
    let text = String::from_utf8_lossy(&tail);
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].iter().map(|line| (*line).to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn what_a_process_says_is_in_its_log() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("node-1.log");
        let mut process = Process::start(shell("echo one; echo two >&2; echo three; exit 4"), &log).unwrap();
        let status = process.wait_until(Instant::now() + Duration::from_secs(10)).unwrap();
        assert_eq!(status.code(), Some(4));
        assert_eq!(last_lines(&log, 2), ["two", "three"]);
        assert_eq!(last_lines(&log, 9).len(), 3);
        assert!(process.signal(Signal::TERM).is_ok(), "signals to an ended process go nowhere");
    }

    #[test]
    fn a_dropped_process_has_ended() {
        let directory = tempfile::tempdir().unwrap();
        let process = Process::start(shell("exec sleep 60"), &directory.path().join("log")).unwrap();
        let own = format!("/proc/{}", process.id());
        assert!(Path::new(&own).exists());
        drop(process);
        assert!(!Path::new(&own).exists());
    }

    #[test]
    fn a_program_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let error =
            Process::start(Command::new("/no/such/program"), &directory.path().join("log")).unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/program cannot be started"), "{error:#}");
    }
}
