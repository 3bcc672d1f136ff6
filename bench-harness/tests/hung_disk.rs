//! A server process whose disk hangs ends, although one of its threads never returns.

mod support;

use std::fs::{self, File};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use quorate_client::{Client, Error, ErrorKind};
use rustix::process::{Pid, Signal, kill_process};
use smol::block_on;
use support::{DEADLINE, wait_for};
use tempfile::TempDir;

/// Far longer than a test lasts.
const HUNG: Duration = Duration::from_secs(3600);

/// A node as the harness starts it; killed when dropped.
struct Node {
    child: Child,
    directory: TempDir,
}

impl Node {
    fn start(settings: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let log = File::create(directory.path().join("log")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_bench-harness"));
        command.arg("node").arg(std::process::id().to_string()).arg(sync_delay(directory.path()));
        command.args(["--listen", "127.0.0.1:0"]).args(settings.split_whitespace());
        let child = command.current_dir(&directory).stdin(Stdio::null()).stderr(log).spawn().unwrap();
        Self { child, directory }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap()
    }

    /// A client, and a first write: the node has recovered.
    fn client(&self) -> Client {
        let address: SocketAddr = wait_for("the address in the log", || {
            let log = self.log();
            log.split_once("clients at ")?.1.split_once(',')?.0.parse().ok()
        });
        let servers = [address.to_string()];
        // What is not answered is not sent again.
        let builder = Client::builder().servers(servers).deadline(DEADLINE).exactly_once(false);
        let client = builder.connect().unwrap();
        block_on(client.set("first", "value")).unwrap();
        client
    }

    /// From now on no sync returns.
    fn hang(&self) {
        let (new, file) = (self.directory.path().join("new"), sync_delay(self.directory.path()));
        fs::write(&new, HUNG.as_micros().to_string()).unwrap();
        fs::rename(new, file).unwrap();
    }

    fn wait_end(&mut self) -> ExitStatus {
        wait_for("the end of the process", || self.child.try_wait().unwrap())
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn sync_delay(directory: &Path) -> PathBuf {
    directory.join("sync-delay")
}

/// Writes until a write is not answered, in a thread of its own; how it was answered in the end.
fn write_until_error(client: &Client) -> thread::JoinHandle<Error> {
    let client = client.clone();
    thread::spawn(move || {
        loop {
            if let Err(error) = block_on(client.set("key", "value")) {
                return error;
            }
        }
    })
}

/// Waits until a write has been appended that the disk does not take.
fn wait_hung(client: &Client) {
    wait_for("a sync that does not return", || {
        let status = block_on(client.status(false)).unwrap();
        let (last, durable) = (status.view().last, status.view().durable);
        thread::sleep(Duration::from_millis(50));
        let later = block_on(client.status(false)).unwrap();
        (last > durable && later.view().durable == durable).then_some(())
    });
}

#[test]
fn a_process_whose_sync_hangs_ends_at_the_limit_with_code_5_and_one_line() {
    let mut node = Node::start("--disk-stall-ms 100 --disk-timeout-ms 1000");
    let writes = write_until_error(&node.client());
    node.hang();
    assert_eq!(node.wait_end().code(), Some(5), "{}", node.log());
    assert_eq!(writes.join().unwrap().kind(), ErrorKind::OutcomeUnknown);
    let log = node.log();
    let last = log.lines().last().unwrap();
    assert!(last.contains("the disk has not answered") && last.contains("start the node again"), "{log}");
}

#[test]
fn a_process_whose_sync_hangs_ends_with_code_5_when_it_is_told_to_stop() {
    let mut node = Node::start("--disk-timeout-ms 3000");
    let client = node.client();
    let writes = write_until_error(&client);
    node.hang();
    wait_hung(&client);
    kill_process(Pid::from_child(&node.child), Signal::TERM).unwrap();
    assert_eq!(node.wait_end().code(), Some(5), "{}", node.log());
    assert_eq!(writes.join().unwrap().kind(), ErrorKind::OutcomeUnknown);
}
