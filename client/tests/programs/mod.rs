//! A cluster, and programs that use it.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use quorate_server::testing::TestCluster;

/// After this long something that must happen has not happened.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Three replicas, two of which must hold a write. Patient: other tests load the machine, too.
pub(crate) fn cluster() -> TestCluster {
    TestCluster::builder(3, 2).patience(PATIENCE).start().unwrap()
}

/// As the programs are told of them.
pub(crate) fn servers(cluster: &TestCluster) -> String {
    cluster.addresses().join(",")
}

/// How a program is started, with all its streams in the test's hands.
pub(crate) trait Program {
    fn start(self) -> Child;

    /// Waits until it has ended.
    fn ended(self) -> Output;

    /// Waits until it has succeeded, and returns what it has printed.
    fn printed(self) -> String;
}

impl Program for Command {
    fn start(mut self) -> Child {
        self.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    fn ended(self) -> Output {
        self.start().wait_with_output().unwrap()
    }

    fn printed(self) -> String {
        let output = self.ended();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// An example, which cargo has built beside this test.
pub(crate) fn example(name: &str, arguments: &[&str]) -> Command {
    let path = examples().join(name);
    assert!(path.exists(), "{path:?} is not there: run `cargo build -p quorate-client --examples` first");
    let mut command = Command::new(path);
    command.args(arguments.iter().map(OsString::from));
    command
}

/// Beside the directory that this test is in.
fn examples() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(|directory| directory.parent()).unwrap().join("examples")
}

/// The command line.
pub(crate) fn quorate(servers: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate"));
    command.env("QUORATE_SERVERS", servers).args(["--timeout", "20s"]).args(arguments);
    command
}

/// Looks again until it is there.
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::yield_now();
    }
}
