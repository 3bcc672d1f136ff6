//! The program as its users run it: real processes, real files, exit codes.

mod support;

use std::process::{Command, Output};

use bench_harness::report::{Report, State};
use rustix::process::{Pid, Signal, kill_process};
use support::{PROGRAM, harness, nodes_of, saved, signal, text, wait_for_progress, wait_until_gone};

fn assert_wrong_use(output: &Output, advice: &str) {
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains(advice), "{errors}");
    assert_eq!(errors.lines().count(), 1, "{errors}");
    assert_eq!(text(&output.stdout), "");
}

#[test]
fn wrong_use_ends_with_one_sentence_and_code_2_before_anything_is_written() {
    let directory = tempfile::tempdir().unwrap();
    for (arguments, advice) in [
        ("--replicas 3 --quorum 4", "choose --quorum from 1 to 3"),
        ("--clients 0", "--clients 0 is out of range"),
        ("--duration soon", "write a number and a unit"),
        ("--format xml", "possible values: table, json, markdown, csv"),
        ("--quroum 2", "--help explains"),
        ("surplus", "--help explains"),
    ] {
        let output = harness(directory.path(), arguments).output().unwrap();
        assert_wrong_use(&output, advice);
        assert!(!directory.path().join("out").exists(), "{arguments}");
    }
}

#[test]
fn directories_that_cannot_be_written_are_wrong_use() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("out"), "a file").unwrap();
    assert_wrong_use(&harness(directory.path(), "").output().unwrap(), "choose another --output");
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("data"), "a file").unwrap();
    assert_wrong_use(&harness(directory.path(), "").output().unwrap(), "choose another");
    assert!(!directory.path().join("out").exists(), "nothing was measured, so nothing is reported");
}

#[test]
fn help_goes_to_standard_output_and_is_no_error() {
    let directory = tempfile::tempdir().unwrap();
    let output = harness(directory.path(), "--help").output().unwrap();
    assert!(output.status.success());
    let help = text(&output.stdout);
    assert!(help.contains("--quorum") && help.contains("Exit codes") && !help.contains("PARENT"), "{help}");
}

#[test]
fn it_tells_shells_and_man_about_itself() {
    let run = |arguments: &str| Command::new(PROGRAM).args(arguments.split_whitespace()).output().unwrap();
    let printed = |arguments: &str| {
        let output = run(arguments);
        assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
        text(&output.stdout)
    };
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let text = printed(&format!("completions {shell}"));
        assert!(["versus", "quorum"].iter().all(|word| text.contains(word)), "{shell}: {text}");
    }
    for (arguments, title) in [("man", "bench-harness"), ("man compare", "bench-harness-compare")] {
        let page = printed(arguments);
        assert!(page.contains(&format!(".TH {title} 1")), "{page}");
    }
    assert_wrong_use(&run("man comparison"), "no command \"comparison\"");
}

#[test]
fn a_node_that_no_harness_started_refuses_to_serve() {
    for arguments in [&["node", "1", "--id", "1"][..], &["node", "x"], &["node"]] {
        let output = Command::new(PROGRAM).args(arguments).output().unwrap();
        assert!(!output.status.success());
        assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
    }
}

#[test]
fn a_short_run_measures_two_followers_and_loses_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = "--duration 1s --warmup 200ms --clients 8 --keys 1000 --format json";
    let output = harness(directory.path(), arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = saved(directory.path());
    assert_eq!(serde_json::from_slice::<Report>(&output.stdout).unwrap(), report);
    assert_eq!((report.state, report.runs.len()), (State::Complete, 1));
    let run = &report.runs[0];
    assert!(run.writes.acknowledged > 0 && run.writes.per_second > 0.0, "{run:?}");
    assert_eq!((run.writes.refused, run.writes.unknown), (0, 0));
    let latency = &run.writes.latency_us;
    assert!(latency.p50 > 0.0 && latency.p50 <= latency.p99 && latency.p99 <= latency.max, "{run:?}");
    let leader = run.nodes.iter().find(|node| node.leader).expect("one was elected").node;
    let others: Vec<_> = (1..=3).filter(|node| *node != leader).collect();
    assert_eq!(run.followers.iter().map(|follower| follower.node).collect::<Vec<_>>(), others);
    assert!(
        run.followers.iter().all(|follower| follower.lag_us.as_ref().is_some_and(|lag| lag.max > 0.0)),
        "{run:?}"
    );
    let verified = run.verified.as_ref().expect("the run was not interrupted");
    assert!(verified.is_clean() && (1..=1000).contains(&verified.keys), "{run:?}");
    assert_eq!(std::fs::read_dir(directory.path().join("data")).unwrap().count(), 0, "data is removed");
    assert!(nodes_of(directory.path()).is_empty());
}

#[test]
fn every_quorum_is_a_row_of_the_table() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = "--quorum all --duration 300ms --warmup 0s --clients 4 --durability os";
    let output = harness(directory.path(), arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let quorums: Vec<_> = saved(directory.path()).runs.iter().map(|run| run.case.quorum).collect();
    assert_eq!(quorums, [1, 2, 3]);
    let table = text(&output.stdout);
    assert!(table.contains("verified") && table.lines().all(|line| line.chars().count() <= 120), "{table}");
}

#[test]
fn an_interrupt_ends_with_130_saves_what_was_measured_and_leaves_no_node() {
    for asked in [Signal::INT, Signal::TERM] {
        let directory = tempfile::tempdir().unwrap();
        let arguments = "--duration 60s --warmup 0s --clients 4";
        let mut child = harness(directory.path(), arguments).spawn().unwrap();
        wait_for_progress(&mut child, "measuring");
        assert_eq!(nodes_of(directory.path()).len(), 3);
        signal(&child, asked);
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(130), "{}", text(&output.stderr));
        assert!(nodes_of(directory.path()).is_empty());
        let report = saved(directory.path());
        assert_eq!((report.state, report.runs.len()), (State::Interrupted, 1));
        let run = &report.runs[0];
        assert!(run.interrupted && run.duration_s < 60.0 && run.writes.acknowledged > 0, "{run:?}");
        assert_eq!(run.verified, None);
    }
}

#[test]
fn a_killed_harness_leaves_no_node() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = harness(directory.path(), "--duration 60s --warmup 0s --clients 4").spawn().unwrap();
    wait_for_progress(&mut child, "measuring");
    assert_eq!(nodes_of(directory.path()).len(), 3);
    signal(&child, Signal::KILL);
    child.wait().unwrap();
    wait_until_gone(directory.path());
    assert_eq!(saved(directory.path()).state, State::Running);
}

#[test]
fn a_node_that_dies_fails_the_run_and_its_log_is_shown_and_kept() {
    let directory = tempfile::tempdir().unwrap();
    let mut child = harness(directory.path(), "--duration 60s --warmup 0s --clients 4").spawn().unwrap();
    wait_for_progress(&mut child, "measuring");
    let node = *nodes_of(directory.path()).first().unwrap();
    kill_process(Pid::from_raw(node as i32).unwrap(), Signal::KILL).unwrap();
    let output = child.wait_with_output().unwrap();
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(errors.contains("ended by itself") && errors.contains("are kept in"), "{errors}");
    assert!(nodes_of(directory.path()).is_empty());
    assert_eq!(saved(directory.path()).state, State::Failed);
    let kept = std::fs::read_dir(directory.path().join("data")).unwrap().next().unwrap().unwrap().path();
    assert!(kept.join("node-1.log").exists() && kept.join("node-1").is_dir());
}

/// A small file system in memory, unmounted when dropped; none where this process may not mount.
struct SmallDisk(std::path::PathBuf);

impl SmallDisk {
    fn mount(at: &std::path::Path, size: &str) -> Option<Self> {
        std::fs::create_dir_all(at).unwrap();
        let mount = Command::new("mount").args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(at).output();
        let is_mounted = mount.is_ok_and(|output| output.status.success());
        is_mounted.then(|| Self(at.to_owned()))
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

#[test]
fn a_full_disk_is_told_before_anything_is_started() {
    let directory = tempfile::tempdir().unwrap();
    let out = directory.path().join("out");
    let Some(disk) = SmallDisk::mount(&out, "size=64k") else {
        eprintln!("skipped: this process may not mount a file system");
        return;
    };
    std::fs::write(out.join("filler"), vec![0; 60 << 10]).unwrap();
    assert_wrong_use(
        &harness(directory.path(), "").output().unwrap(),
        "free space there, or choose another --output",
    );
    drop(disk);
    let data = directory.path().join("data");
    let Some(_disk) = SmallDisk::mount(&data, "size=100m") else { panic!("it could be done before") };
    assert_wrong_use(
        &harness(directory.path(), "").output().unwrap(),
        "free some space, or choose another --data-dir",
    );
}

#[test]
fn a_system_that_is_not_built_in_is_told_with_the_feature_that_has_it() {
    let directory = tempfile::tempdir().unwrap();
    for (kind, is_built_in) in [
        ("redis", cfg!(feature = "redis")),
        ("postgres", cfg!(feature = "postgres")),
        ("etcd", cfg!(feature = "etcd")),
    ] {
        if !is_built_in {
            let output = harness(directory.path(), &format!("--target {kind}")).output().unwrap();
            assert_wrong_use(&output, &format!("build with --features {kind}"));
        }
    }
    if !cfg!(any(feature = "redis", feature = "postgres", feature = "etcd")) {
        assert_wrong_use(&Command::new(PROGRAM).arg("versus").output().unwrap(), "nothing to compare with");
    }
    assert!(!directory.path().join("out").exists());
}
