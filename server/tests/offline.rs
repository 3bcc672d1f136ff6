//! The offline tools as operators use them: on directories that real servers made, stopped, damaged and running.

mod support;

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;

use quorate_client::{Client, Consistency};
use rustix::process::Signal;
use support::{Addresses, Cluster, PROGRAM, Server, client, command, wait_for};
use tempfile::TempDir;

/// Small segments and many checkpoints.
const SMALL: [&str; 6] = ["--segment-mib", "4", "--checkpoint-mib", "1", "--checkpoint-mib-per-second", "0"];

fn tool(arguments: &[&str], directory: &Path) -> Output {
    let mut command = command("timeout");
    command.args(["60", PROGRAM]).args(arguments).current_dir(directory);
    command.output().unwrap()
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// It ends with this code, and what it printed has these words.
fn assert_prints(output: &Output, code: i32, words: &[&str]) {
    let (text, errors) = (stdout(output), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{text}{errors}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in:\n{text}{errors}");
    }
}

/// It ends with this code, and one line that has these words.
fn assert_refused(output: &Output, code: i32, words: &[&str]) {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(code), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert!(errors.starts_with("quorate-server: "), "{errors}");
    assert!(words.iter().all(|word| errors.contains(word)), "{words:?} in {errors}");
    assert!(output.stdout.is_empty());
}

/// Does something bad to a directory.
type Damage<'a> = Box<dyn Fn(&Path) + 'a>;

/// A node of its own that keeps its data in `directory/data`.
fn start(directory: &Path) -> (Server, Client) {
    start_with(directory, "1")
}

/// Further checkpoints come after so many MiB.
fn start_with(directory: &Path, checkpoint_mib: &str) -> (Server, Client) {
    let mut command = command(PROGRAM);
    command.args(["--listen", "127.0.0.1:0", "--data", "data"]).current_dir(directory);
    command.args(["--segment-mib", "4", "--checkpoint-mib", checkpoint_mib]);
    command.args(["--checkpoint-mib-per-second", "0"]);
    let mut server = Server::start(command, &directory.join("log"));
    let client = client(server.announced_address());
    (server, client)
}

fn stop(mut server: Server) {
    server.signal(Signal::TERM);
    assert_eq!(server.wait_end().code(), Some(0), "{}", server.log());
}

/// A stopped node's directory with at least `segments` segments and two checkpoints.
fn stopped(segments: usize) -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    let data = directory.path().join("data");
    let value = vec![b'v'; 256 << 10];
    let mut written = 0;
    // What is dropped is removed a little later, so only what is there after the end counts.
    while files(&data, "log", ".log").len() < segments || files(&data, "checkpoint", ".ckpt").len() < 2 {
        let (server, client) = start_with(directory.path(), "6");
        for number in written..written + 20 {
            smol::block_on(client.set(format!("filler-{}", number % 4), &value)).unwrap();
            smol::block_on(client.set(format!("key-{number}"), "small")).unwrap();
        }
        written += 20;
        smol::block_on(client.delete("key-0")).unwrap();
        stop(server);
    }
    directory
}

/// The files of a part of a data directory, oldest first.
fn files(data: &Path, part: &str, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(data.join(part)) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    let mut paths: Vec<_> = paths.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
    paths.sort();
    paths
}

/// Every file below a directory with its bytes.
fn contents(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(contents(&path));
        } else {
            found.insert(path.clone(), fs::read(&path).unwrap());
        }
    }
    found
}

fn copy_directory(from: &Path, to: &Path) {
    for (path, bytes) in contents(from) {
        let path = to.join(path.strip_prefix(from).unwrap());
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

fn flip(path: &Path, offset: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).unwrap();
    file.write_all_at(&[byte[0] ^ 0x10], offset).unwrap();
}

fn json(output: &Output) -> serde_json::Value {
    serde_json::from_slice(&output.stdout).unwrap()
}

fn name(path: &Path) -> &str {
    path.file_name().unwrap().to_str().unwrap()
}

#[test]
fn a_healthy_directory_has_nothing_wrong_and_is_not_changed_by_looking() {
    let directory = stopped(2);
    let before = contents(directory.path());
    let checked = tool(&["check", "data"], directory.path());
    let words = [
        "cluster     quorate",
        "1 replicas, quorum 1",
        "formed",
        "vote        term ",
        "for node 1",
        "BLAKE3",
        "nothing is wrong",
    ];
    assert_prints(&checked, 0, &words);
    let report = json(&tool(&["check", "data", "--format", "json"], directory.path()));
    assert_eq!(report["ok"], true);
    assert_eq!(report["checkpoints"].as_array().unwrap().len(), 2);
    assert_eq!(report["identity"]["members"][0]["node"], 1);
    assert!(report["log"]["last"].as_u64() >= report["log"]["committed"].as_u64());
    let dumped = tool(&["dump", "data"], directory.path());
    assert_prints(&dumped, 0, &["delete \"key-0\"", "= \"small\""]);
    assert_prints(&tool(&["dump", "data", "--checkpoint"], directory.path()), 0, &["\"filler-0\" = \"vvv"]);
    assert_prints(&tool(&["backup", "data", "copy"], directory.path()), 0, &["known committed to"]);
    fs::remove_dir_all(directory.path().join("copy")).unwrap();
    assert!(before == contents(directory.path()), "a tool has changed the directory");
    // The server goes on with it.
    let (server, client) = start(directory.path());
    assert!(smol::block_on(client.get("key-1")).unwrap().value.is_some());
    stop(server);
}

#[test]
fn each_kind_of_damage_is_named_with_file_and_offset_and_all_of_them_at_once() {
    let directory = stopped(3);
    let healthy = directory.path().join("data");
    let segments: Vec<String> =
        files(&healthy, "log", ".log").iter().map(|path| name(path).to_owned()).collect();
    let checkpoints: Vec<String> =
        files(&healthy, "checkpoint", ".ckpt").iter().map(|path| name(path).to_owned()).collect();
    let (first, second) = (&segments[0], &segments[1]);
    let newest = checkpoints.last().unwrap();
    let length = fs::metadata(healthy.join("checkpoint").join(newest)).unwrap().len();
    let footer = format!("{newest} at offset {}: the footer is damaged", length - 76);
    let batch = format!("log/{first} at offset 4096: a bad batch, and a good one follows at ");
    let header = format!("log/{second} at offset 0: no segment header");
    let gap = format!(
        "but a segment with entry {} follows",
        segments[2].trim_start_matches('0').trim_end_matches(".log")
    );
    let damages: Vec<(&str, Damage<'_>, Vec<&str>)> = vec![
        (
            "identity",
            Box::new(|data| flip(&data.join("identity"), 30)),
            vec!["identity at offset 0: its checksum is wrong"],
        ),
        (
            "vote",
            Box::new(|data| flip(&data.join("vote-b"), 30)),
            vec!["vote-b at offset 0: its checksum is wrong", "the other copy counts"],
        ),
        (
            "block",
            Box::new(|data| flip(&data.join("checkpoint").join(newest), 100)),
            vec![newest, "at offset 48: a block's checksum is wrong"],
        ),
        ("footer", Box::new(|data| flip(&data.join("checkpoint").join(newest), length - 30)), vec![&footer]),
        ("batch", Box::new(|data| flip(&data.join("log").join(first), 4096 + 100)), vec![&batch]),
        ("header", Box::new(|data| flip(&data.join("log").join(second), 20)), vec![&header]),
        (
            "gap",
            Box::new(|data| fs::remove_file(data.join("log").join(second)).unwrap()),
            vec![first, "the log ends here at entry", &gap],
        ),
        (
            "short",
            Box::new(|data| {
                OpenOptions::new()
                    .write(true)
                    .open(data.join("log").join(second))
                    .unwrap()
                    .set_len(9000)
                    .unwrap()
            }),
            vec![second, "at offset 9000: the file ends here"],
        ),
    ];
    for (kind, damage, words) in &damages {
        let data = directory.path().join(kind);
        copy_directory(&healthy, &data);
        damage(&data);
        let before = contents(&data);
        let mut all = vec!["WRONG: "];
        all.extend(words);
        assert_prints(&tool(&["check", kind], directory.path()), 1, &all);
        assert!(before == contents(&data), "{kind}: check has changed it");
    }
    // What is said of a damaged checkpoint is so: the older one and the log hold everything.
    let alone = directory.path().join("alone");
    copy_directory(&directory.path().join("block"), &alone.join("data"));
    for _ in 0..2 {
        let (server, client) = start(&alone);
        assert!(smol::block_on(client.get("key-1")).unwrap().value.is_some());
        stop(server);
        assert_prints(&tool(&["check", "data"], &alone), 0, &["nothing is wrong"]);
    }
    // It does not stop at the first.
    let data = directory.path().join("all");
    copy_directory(&healthy, &data);
    let together = ["vote", "block", "batch", "header"];
    let chosen = damages.iter().filter(|(kind, ..)| together.contains(kind));
    let words: Vec<&str> = chosen
        .flat_map(|(_, damage, words)| {
            damage(&data);
            words.clone()
        })
        .collect();
    let checked = tool(&["check", "all"], directory.path());
    assert_prints(&checked, 1, &words);
    assert!(stdout(&checked).contains("4 things are wrong"), "{}", stdout(&checked));
}

#[test]
fn what_a_crash_leaves_is_noted_and_not_wrong() {
    let directory = stopped(2);
    let data = directory.path().join("data");
    let newest = files(&data, "log", ".log").pop().unwrap();
    let bytes = fs::read(&newest).unwrap();
    let end = (bytes.iter().rposition(|byte| *byte != 0).unwrap() as u64 + 1).next_multiple_of(8);
    let file = OpenOptions::new().write(true).open(&newest).unwrap();
    file.write_all_at(b"the beginning of a batch", end).unwrap();
    fs::write(data.join("log/roll.tmp"), "x").unwrap();
    fs::write(data.join("identity.tmp"), "x").unwrap();
    fs::write(data.join("checkpoint/00000000000000099999.tmp"), "x").unwrap();
    let torn =
        format!("note: log/{} at offset {end}: a write of 24 bytes that a crash has torn", name(&newest));
    let words = [&torn, "note: log/roll.tmp", "note: identity.tmp", "99999.tmp", "nothing is wrong"];
    assert_prints(&tool(&["check", "data"], directory.path()), 0, &words.map(|word| word as &str));
    // What was called legal is: the server starts on it, and cuts.
    let (server, client) = start(directory.path());
    assert!(smol::block_on(client.get("key-1")).unwrap().value.is_some());
    assert!(server.log().contains("torn"), "{}", server.log());
    stop(server);
}

/// With checkpoints that are whole: what lies between them and the log's end is lost.
#[test]
fn a_log_or_its_end_that_is_missing_is_missed_by_check_backup_and_the_server_alike() {
    let directory = stopped(3);
    let healthy = directory.path().join("data");
    let newest = files(&healthy, "log", ".log").pop().unwrap();
    let newest = format!("log/{}", name(&newest));
    let removed: Vec<(&str, Damage<'_>, &str)> = vec![
        ("directory", Box::new(|data| fs::remove_dir_all(data.join("log")).unwrap()), "log"),
        (
            "files",
            Box::new(|data| {
                fs::remove_dir_all(data.join("log")).unwrap();
                fs::create_dir(data.join("log")).unwrap();
            }),
            "log",
        ),
        ("newest", Box::new(|data| fs::remove_file(data.join(&newest)).unwrap()), &newest),
        (
            "segments",
            Box::new(|data| {
                files(data, "log", ".log").iter().for_each(|path| fs::remove_file(path).unwrap());
            }),
            &newest,
        ),
        ("note", Box::new(|data| fs::remove_file(data.join("log/newest")).unwrap()), "log/newest"),
    ];
    for (kind, remove, missing) in removed {
        let path = directory.path().join(kind);
        copy_directory(&healthy, &path.join("data"));
        remove(&path.join("data"));
        let log = path.join("data/log");
        let left = || if log.exists() { contents(&log) } else { BTreeMap::new() };
        let before = left();
        let wrong = format!("WRONG: {missing}: ");
        let words = [wrong.as_str(), " is missing", "no node starts on this (exit code 4)"];
        assert_prints(&tool(&["check", "data"], &path), 1, &words);
        assert!(!tool(&["backup", "data", "copy"], &path).status.success(), "{kind}: a backup of the rest");
        fs::remove_dir_all(path.join("copy")).unwrap();
        let mut command = command(PROGRAM);
        command.args(["--listen", "127.0.0.1:0", "--data", "data"]).current_dir(&path);
        let mut server = Server::start(command, &path.join("printed"));
        assert_eq!(server.wait_end().code(), Some(4), "{kind}: {}", server.log());
        assert!(server.log().contains(&format!("{missing}: ")), "{kind}: {}", server.log());
        assert!(before == left(), "{kind}: what is left of the log was changed");
    }
}

#[test]
fn a_dump_goes_on_behind_what_is_damaged_and_a_closed_pipe_ends_it_quietly() {
    let directory = stopped(2);
    let data = directory.path().join("data");
    let lines = |output: &Output| stdout(output).lines().filter(|line| !line.starts_with("--")).count();
    let whole = tool(&["dump", "data"], directory.path());
    let log = json(&tool(&["check", "data", "--format", "json"], directory.path()))["log"].clone();
    let (first, last) = (log["first"].as_u64().unwrap(), log["last"].as_u64().unwrap());
    assert_eq!(lines(&whole) as u64, last - first + 1);
    let [from, to] = [last - 3, last - 1].map(|index| index.to_string());
    assert_eq!(lines(&tool(&["dump", "data", "--from", &from, "--to", &to], directory.path())), 3);
    let batches = tool(&["dump", "data", "--batches", "--from", &from], directory.path());
    assert_prints(&batches, 0, &["segment from entry", "durable before it", "mark only"]);

    flip(&files(&data, "log", ".log")[0], 4096 + 100);
    let damaged = tool(&["dump", "data"], directory.path());
    assert_prints(&damaged, 1, &["!! ", "is damaged at offset 4096"]);
    let left = stdout(&damaged).lines().filter(|line| !line.starts_with("!!")).count() as u64;
    assert!(left > 0 && left < last - first + 1, "{left} of {}", last - first + 1);
    assert!(stdout(&damaged).lines().last().unwrap().starts_with(&format!("{last:>10}")));

    let newest = files(&data, "checkpoint", ".ckpt").pop().unwrap();
    let keys = stdout(&tool(&["dump", "data", "--checkpoint"], directory.path())).lines().count();
    flip(&newest, fs::metadata(&newest).unwrap().len() - 100);
    let damaged = tool(&["dump", "data", "--checkpoint"], directory.path());
    assert_prints(&damaged, 1, &["!! ", "a block's checksum is wrong", "filler-0"]);
    assert!(stdout(&damaged).lines().count() < keys + 2);

    let mut dump = command(PROGRAM);
    dump.args(["dump", "data", "--full"])
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = dump.spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]));
}

#[test]
fn wrong_use_is_told_before_anything_is_written() {
    let directory = stopped(1);
    let path = directory.path();
    fs::create_dir(path.join("empty")).unwrap();
    fs::create_dir(path.join("full")).unwrap();
    fs::write(path.join("full/cat.jpg"), "a cat").unwrap();
    let before = contents(path);
    for (arguments, code, words) in [
        (&["check", "nowhere"][..], 2, "cannot read nowhere"),
        (&["check", "full"], 2, "neither a data directory nor a backup"),
        (&["dump", "empty"], 2, "neither a data directory nor a backup"),
        (&["dump", "data", "--from", "9", "--to", "3"], 2, "behind"),
        (&["dump", "data", "--checkpoint", "3"], 2, "there is no checkpoint of entry 3"),
        (&["backup", "data", "full"], 2, "full is not empty, it has \"cat.jpg\""),
        (&["backup", "empty", "new"], 2, "no data directory"),
        (&["restore", "empty", "--data", "new"], 2, "is no backup"),
        (&["restore", "data", "--data", "new"], 2, "is a data directory, not a backup"),
        (&["restore", "data", "--data", "new", "--quorum", "2"], 2, "it must be from 1 to 1"),
    ] {
        assert_refused(&tool(arguments, path), code, &[words]);
    }
    for arguments in
        [&["check"][..], &["backup", "data"], &["--id", "1", "check", "data"], &["check", "data", "x"]]
    {
        assert_eq!(tool(arguments, path).status.code(), Some(2), "{arguments:?}");
    }
    assert!(before == contents(path) && !path.join("new").exists());
    // Settings in the environment are a server's: no tool but restore minds them.
    let mut with_environment = command(PROGRAM);
    with_environment.args(["check", "data"]).env("QUORATE_ID", "70").env("QUORATE_CONFIG", "nowhere");
    assert_prints(&with_environment.current_dir(path).output().unwrap(), 0, &["nothing is wrong"]);
    for subcommand in ["check", "dump", "backup", "restore"] {
        assert_prints(&tool(&[subcommand, "--help"], path), 0, &["Exit codes"]);
    }
}

#[test]
fn a_running_nodes_directory_is_not_checked_but_its_backup_is() {
    let directory = tempfile::tempdir().unwrap();
    let (server, client) = start(directory.path());
    smol::block_on(client.set("key", "value")).unwrap();
    let holder = format!("in use by pid {}, node 1", server.id());
    assert_refused(
        &tool(&["check", "data"], directory.path()),
        3,
        &[&holder, "make a backup and check that"],
    );
    assert_prints(&tool(&["backup", "data", "copy"], directory.path()), 0, &["entries 1 to 2"]);
    assert_prints(&tool(&["check", "copy"], directory.path()), 0, &["backup copy", "nothing is wrong"]);
    assert_prints(&tool(&["dump", "copy"], directory.path()), 0, &["set \"key\" = \"value\""]);
    stop(server);
}

#[test]
fn a_backup_that_is_unfinished_or_damaged_is_refused_and_no_node_runs_on_one() {
    let directory = stopped(2);
    let path = directory.path();
    assert_prints(&tool(&["backup", "data", "good"], path), 0, &["checkpoint  entry"]);
    let good = path.join("good");
    let restore = |from: &str| tool(&["restore", from, "--data", "new"], path);

    let mut on_backup = command("timeout");
    on_backup.args(["30", PROGRAM, "--listen", "127.0.0.1:0", "--data", "good"]).current_dir(path);
    let refused = on_backup.env("RUST_LOG", "error").output().unwrap();
    assert_refused(&refused, 3, &["good is a backup", "quorate-server restore good --data DIR"]);

    copy_directory(&good, &path.join("unfinished"));
    fs::rename(path.join("unfinished/backup"), path.join("unfinished/backup.tmp")).unwrap();
    assert_refused(&restore("unfinished"), 2, &["was not finished: make it again"]);
    assert_prints(&tool(&["check", "unfinished"], path), 1, &["the backup was not finished"]);

    let last = files(&good, "log", ".log").pop().unwrap();
    let checkpoint = files(&good, "checkpoint", ".ckpt").pop().unwrap();
    let damages: [(&str, Damage<'_>); 4] = [
        ("no-log", Box::new(|to| fs::remove_file(to.join("log").join(name(&last))).unwrap())),
        (
            "no-checkpoint",
            Box::new(|to| fs::remove_file(to.join("checkpoint").join(name(&checkpoint))).unwrap()),
        ),
        ("rotten", Box::new(|to| flip(&to.join("log").join(name(&last)), 4096 + 80))),
        ("manifest", Box::new(|to| flip(&to.join("backup"), 40))),
    ];
    for (kind, damage) in damages {
        copy_directory(&good, &path.join(kind));
        damage(&path.join(kind));
        let refused = restore(kind);
        assert_eq!(refused.status.code(), Some(1), "{kind}");
        assert_prints(&tool(&["check", kind], path), 1, &["WRONG", "cannot be restored"]);
    }
    assert!(!path.join("new").exists());
    assert_prints(&restore("good"), 0, &["restored new", "keys after entry"]);
    assert_refused(&restore("good"), 2, &["new is not empty"]);
}

/// Writes until told to stop: small keys that count up, and values large enough to fill segments.
fn load(client: &Client, stop: &AtomicBool, acknowledged: &AtomicU64, index: &AtomicU64) {
    let value = vec![b'v'; 64 << 10];
    for number in 0.. {
        if stop.load(Ordering::Acquire) {
            return;
        }
        smol::block_on(client.set(format!("filler-{}", number % 8), &value)).unwrap();
        let written = smol::block_on(client.set(format!("key-{number:06}"), number.to_string())).unwrap();
        index.store(written.revision(), Ordering::Release);
        acknowledged.store(number + 1, Ordering::Release);
    }
}

#[test]
fn backups_of_a_loaded_node_hold_every_acknowledged_write_while_it_rolls_and_checkpoints() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let (server, client) = start(path);
    let (end, acknowledged, index) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut segments = std::collections::BTreeSet::new();
    let mut checkpoints = std::collections::BTreeSet::new();
    smol::block_on(client.set("first", "x")).unwrap(); // It listens before there is anything to copy.
    thread::scope(|scope| {
        scope.spawn(|| load(&client, &end, &acknowledged, &index));
        // The address is announced before there is anything to back up.
        wait_for("a write", || (index.load(Ordering::Acquire) > 0).then_some(()));
        let mut rounds = 0;
        // At least until rolls and checkpoints have happened between backups.
        while rounds < 12 || segments.len() < 4 || checkpoints.len() < 4 {
            let before = index.load(Ordering::Acquire);
            let to = format!("backup-{rounds}");
            assert_prints(&tool(&["backup", "data", &to], path), 0, &["known committed to"]);
            let checked = tool(&["check", &to, "--format", "json"], path);
            assert_eq!(checked.status.code(), Some(0), "{}", stdout(&checked));
            let report = json(&checked);
            let last = report["backup"]["last"].as_u64().unwrap();
            assert!(last >= before, "entry {before} was acknowledged, the backup ends at {last}");
            segments.extend(files(&path.join(&to), "log", ".log").iter().map(|path| name(path).to_owned()));
            checkpoints.extend(
                files(&path.join(&to), "checkpoint", ".ckpt").iter().map(|path| name(path).to_owned()),
            );
            fs::remove_dir_all(path.join(&to)).unwrap();
            rounds += 1;
            assert!(rounds < 2000, "the node neither rolls nor checkpoints: {segments:?} {checkpoints:?}");
        }
        end.store(true, Ordering::Release);
    });
    stop(server);
}

/// Three nodes to be restored and started, with small segments.
struct Restored {
    cluster: Cluster,
}

impl Restored {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { cluster: Cluster { servers: Vec::new(), addresses: Addresses::take(), directory } }
    }

    fn arguments(&self, node: u8) -> Vec<String> {
        let small = SMALL.map(str::to_owned);
        self.cluster.arguments(node).into_iter().chain(small).collect()
    }

    fn restore(&self, node: u8, from: &Path) -> Output {
        let arguments = self.arguments(node);
        let mut all = vec!["restore", from.to_str().unwrap()];
        all.extend(arguments.iter().map(String::as_str));
        tool(&all, self.cluster.directory.path())
    }

    fn start(&mut self) {
        self.cluster.servers.clear();
        for node in 1..=3 {
            let mut command = command(PROGRAM);
            command.args(self.arguments(node));
            let log = self.cluster.directory.path().join(format!("node-{node}.log"));
            self.cluster.servers.push(Server::start(command, &log));
        }
    }

    fn data(&self, node: u8) -> PathBuf {
        self.cluster.directory.path().join(format!("node-{node}"))
    }

    fn stop(&mut self) {
        self.cluster.servers.drain(..).for_each(stop);
    }
}

#[test]
fn three_nodes_restored_from_a_running_nodes_backup_have_every_write_acknowledged_before_it() {
    let directory = tempfile::tempdir().unwrap();
    let (server, source) = start(directory.path());
    let (end, acknowledged, index) = (AtomicBool::new(false), AtomicU64::new(0), AtomicU64::new(0));
    let mut before = 0;
    thread::scope(|scope| {
        scope.spawn(|| load(&source, &end, &acknowledged, &index));
        wait_for("two checkpoints", || {
            (files(&directory.path().join("data"), "checkpoint", ".ckpt").len() == 2).then_some(())
        });
        before = acknowledged.load(Ordering::Acquire);
        assert_prints(&tool(&["backup", "data", "copy"], directory.path()), 0, &[]);
        end.store(true, Ordering::Release);
    });
    stop(server);
    assert!(before > 0);

    let mut restored = Restored::new();
    let mut hashes = Vec::new();
    for node in 1..=3 {
        let output = restored.restore(node, &directory.path().join("copy"));
        assert_prints(&output, 0, &["are known to have been committed", "restore every other node"]);
        let checkpoint = files(&restored.data(node), "checkpoint", ".ckpt").pop().unwrap();
        hashes.push(fs::read(checkpoint).unwrap());
        assert_prints(
            &tool(&["check", restored.data(node).to_str().unwrap()], directory.path()),
            0,
            &["origin", "not formed yet"],
        );
    }
    assert!(hashes.windows(2).all(|pair| pair[0] == pair[1]), "replicas begin with different bytes");

    restored.start();
    restored.cluster.wait_ready();
    let value =
        |client: &Client, key: &str| smol::block_on(client.get(key)).unwrap().value.map(|found| found.value);
    let leader = restored.cluster.client();
    for number in 0..before {
        let found = value(&leader, &format!("key-{number:06}"));
        assert_eq!(found, Some(number.to_string().into_bytes()), "key {number} of {before}");
    }
    // Writes go on, and followers get what was restored and what is new; a session sees its own.
    smol::block_on(leader.set("new", "1")).unwrap();
    let session = leader.with_consistency(Consistency::Session);
    assert_eq!(value(&session, "new"), Some(b"1".to_vec()));
    for node in [2, 3] {
        let local = client(restored.cluster.addresses.client(node)).with_consistency(Consistency::Local);
        wait_for("the new write on a follower", || value(&local, "new"));
        assert_eq!(value(&local, "key-000000"), Some(b"0".to_vec()));
    }
    // Beyond the origin: later checkpoints, dropped log, restarts.
    let filler = vec![b'x'; 256 << 10];
    let origin = files(&restored.data(2), "checkpoint", ".ckpt").remove(0);
    wait_for("two checkpoints after the origin, everywhere", || {
        smol::block_on(leader.set("filler-0", &filler)).unwrap();
        (1..=3).all(|node| !restored.data(node).join("checkpoint").join(name(&origin)).exists()).then_some(())
    });
    for round in 0..2 {
        restored.stop();
        for node in 1..=3 {
            let checked = tool(&["check", restored.data(node).to_str().unwrap()], directory.path());
            assert_prints(&checked, 0, &["; formed", "nothing is wrong"]);
        }
        restored.start();
        restored.cluster.wait_ready();
        let leader = restored.cluster.client();
        let last = format!("key-{:06}", before - 1);
        assert!(value(&leader, &last).is_some(), "round {round}");
    }
}

#[test]
fn a_restored_cluster_restarts_before_its_first_own_checkpoint() {
    let directory = stopped(1);
    assert_prints(&tool(&["backup", "data", "copy"], directory.path()), 0, &[]);
    let mut restored = Restored::new();
    for node in 1..=3 {
        assert_prints(&restored.restore(node, &directory.path().join("copy")), 0, &[]);
    }
    for _ in 0..3 {
        restored.start();
        restored.cluster.wait_ready();
        let value = smol::block_on(restored.cluster.client().get("key-1")).unwrap().value;
        assert_eq!(value.unwrap().value, b"small");
        restored.stop();
    }
    // And a backup of it can be restored in turn.
    assert_prints(&tool(&["backup", restored.data(1).to_str().unwrap(), "second"], directory.path()), 0, &[]);
    assert_prints(&tool(&["restore", "second", "--data", "third"], directory.path()), 0, &["restored third"]);
}

#[test]
fn nodes_that_were_not_restored_from_the_same_backup_form_no_cluster() {
    let directory = stopped(1);
    let path = directory.path();
    assert_prints(&tool(&["backup", "data", "first"], path), 0, &[]);
    let (server, client) = start(path);
    smol::block_on(client.set("later", "x")).unwrap();
    stop(server);
    assert_prints(&tool(&["backup", "data", "second"], path), 0, &[]);

    let mut restored = Restored::new();
    assert_prints(&restored.restore(1, &path.join("first")), 0, &[]);
    assert_prints(&restored.restore(2, &path.join("second")), 0, &[]);
    // The third begins empty.
    restored.start();
    for other in [2, 3] {
        let server = restored.cluster.server(other);
        wait_for("a refusal", || server.log().contains("origin is ").then_some(()));
    }
    let log = restored.cluster.server(1).log();
    assert!(!log.contains("the cluster is formed"), "{log}");
}
