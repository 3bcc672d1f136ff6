//! The program, started as its users start it; and patience.

#![allow(dead_code, reason = "each test program uses its own part")]

use std::io::Read;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use bench_harness::report::Report;
use rustix::process::{Pid, Signal, kill_process};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_bench-harness");

/// Longest time that anything here may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) fn harness(directory: &Path, arguments: &str) -> Command {
    let mut command = Command::new(PROGRAM);
    command.arg("--output").arg(directory.join("out")).arg("--data-dir").arg(directory.join("data"));
    // An underscore stands for a space within one argument.
    command.args(arguments.split_whitespace().map(|argument| argument.replace('_', " ")));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

pub(crate) fn saved(directory: &Path) -> Report {
    let json = std::fs::read_to_string(directory.join("out/report.json")).unwrap();
    serde_json::from_str(&json).unwrap()
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The processes whose command line has this in it: the nodes of the harness that keeps its data there.
pub(crate) fn nodes_of(directory: &Path) -> Vec<u32> {
    let data = directory.join("data").display().to_string();
    let mut nodes = Vec::new();
    for process in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(id) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
        let arguments: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        if arguments.get(1).is_some_and(|first| first == "node")
            && arguments.iter().any(|argument| argument.contains(&data))
        {
            nodes.push(id);
        }
    }
    nodes
}

/// Asks again until the answer is there.
pub(crate) fn wait_for<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        thread::sleep(Duration::from_millis(5));
    }
}

/// Reads the harness's plain progress lines until one has these words.
pub(crate) fn wait_for_progress(child: &mut Child, words: &str) {
    let errors = child.stderr.as_mut().unwrap();
    let mut seen = Vec::new();
    let mut byte = [0];
    while !String::from_utf8_lossy(&seen).contains(words) {
        let read = errors.read(&mut byte).unwrap();
        assert!(read > 0, "the harness ended before {words:?}: {}", String::from_utf8_lossy(&seen));
        seen.push(byte[0]);
    }
}

pub(crate) fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

pub(crate) fn wait_until_gone(directory: &Path) {
    let deadline = Instant::now() + DEADLINE;
    while !nodes_of(directory).is_empty() {
        assert!(Instant::now() < deadline, "nodes are left: {:?}", nodes_of(directory));
        std::thread::yield_now();
    }
}
