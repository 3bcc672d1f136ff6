//! What a run of the program finds out, with real processes: schedules that are kept, faults that show, links that
//! cost what they delay, clusters that ran before.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use bench_harness::cluster::{Cluster, Links, Program, Settings};
use bench_harness::plan::Plan;
use bench_harness::report::{Report, Run, State};
use quorate_protocol::{Durability, Quorums};
use rustix::process::Signal;
use support::{PROGRAM, harness, saved, signal, text, wait_for_progress};

/// Runs the program, which must succeed, and reads its report.
fn report_of(arguments: &str) -> Report {
    let directory = tempfile::tempdir().unwrap();
    let output = harness(directory.path(), arguments).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    saved(directory.path())
}

fn run_of(arguments: &str) -> Run {
    let mut report = report_of(arguments);
    assert_eq!((report.state, report.runs.len()), (State::Complete, 1));
    report.runs.remove(0)
}

#[test]
fn a_constant_rate_has_exactly_the_calls_that_it_should() {
    let run = run_of("--rate 300 --arrivals constant --clients 4 --duration 2s --warmup 300ms --keys 1000");
    assert!(run.generator.scheduled.abs_diff(600) <= 1, "{:?}", run.generator.scheduled);
    assert_eq!(run.generator.issued, run.generator.scheduled);
    assert_eq!(run.writes.acknowledged, run.generator.issued);
    assert_eq!(run.seconds.iter().map(|second| second.writes).sum::<u64>(), run.writes.acknowledged);
    assert_eq!(run.generator.schedule_lag_us.count, run.generator.issued);
}

#[test]
fn reads_are_measured_beside_writes_and_come_from_followers_when_asked() {
    for from in ["leader", "followers"] {
        let arguments = format!("--reads 50% --read-from {from} --clients 4 --duration 500ms --warmup 100ms");
        let run = run_of(&arguments);
        let reads = run.reads.expect("reads were asked for");
        assert!(reads.acknowledged > 0 && run.writes.acknowledged > 0, "{from}");
        assert_eq!((reads.refused, reads.unknown), (0, 0), "{:?}", reads.reasons);
    }
}

#[test]
fn a_delayed_link_to_one_follower_costs_nothing_until_its_acknowledgement_is_needed() {
    let arguments =
        "--leader 1 --quorum 2,3 --link 3=10ms --clients 4 --duration 1s --warmup 200ms --keys 1000";
    let report = report_of(arguments);
    let [two, three] = report.runs.as_slice() else { panic!("two runs were asked for") };
    // There and back.
    assert!(three.writes.latency_us.min >= 20_000.0, "{:?}", three.writes.latency_us);
    assert!(two.writes.latency_us.min < 20_000.0, "{:?}", two.writes.latency_us);
    for run in [two, three] {
        let far = run.followers.iter().find(|follower| follower.node == 3).unwrap();
        // What histograms of two digits make of 20 ms.
        assert!(far.lag_us.as_ref().unwrap().min >= 19_800.0, "{far:?}");
        let stages = far.stages.as_ref().unwrap();
        assert!(stages.network_us.mean > stages.disk_us.mean, "{stages:?}");
    }
}

#[test]
fn the_stages_of_the_lag_add_up_and_an_idle_cluster_has_none() {
    let run = run_of("--rate 200 --clients 2 --duration 1s --warmup 200ms --keys 100");
    for follower in &run.followers {
        let (lag, stages) = (follower.lag_us.as_ref().unwrap(), follower.stages.as_ref().unwrap());
        let sum = stages.queue_us.mean + stages.network_us.mean + stages.disk_us.mean;
        assert!((sum - lag.mean).abs() <= lag.mean * 0.05, "{sum} is not {}", lag.mean);
        // At 200 writes a second the cluster is idle most of the time.
        assert!(
            follower.samples.iter().any(|sample| (sample.entries, sample.lag_us) == (0, 0)),
            "{follower:?}"
        );
    }
}

#[test]
fn a_follower_that_stood_still_has_a_backlog_and_drains_it() {
    let run =
        run_of("--leader 1 --scenario catch-up --backlog 200KiB --clients 8 --duration 4s --warmup 200ms");
    let events: Vec<_> = run.events.iter().map(|event| event.what.as_str()).collect();
    assert_eq!(events, ["pause 3", "resume 3"]);
    let catch_up = &run.catch_ups[0];
    assert_eq!((catch_up.node, run.catch_ups.len()), (3, 1));
    assert!(catch_up.bytes >= 200 << 10 && catch_up.entries > 0, "{catch_up:?}");
    let paused = run.events[0].t_s;
    let stood_still = run.events[1].t_s - paused;
    let most = run.followers[1].samples.iter().map(|sample| sample.lag_us).max().unwrap();
    assert!(most as f64 / 1e6 >= stood_still * 0.5, "the lag never showed the pause: {most} µs");
}

#[test]
fn a_leader_that_is_killed_has_a_successor_which_the_report_names() {
    let run = run_of("--scenario leader-kill --clients 4 --duration 8s --warmup 200ms --keys 1000");
    let killed = run.events[0].what.strip_prefix("kill ").unwrap();
    assert_eq!(run.events[1].what, format!("restart {killed}"));
    let first = &run.leaders[0];
    assert!(first.node.to_string() != killed && first.t_s > run.events[0].t_s, "{:?}", run.leaders);
    let last = run.nodes.iter().find(|node| node.leader).expect("somebody leads at the end");
    assert_eq!(run.leaders.last().unwrap().node, last.node);
    assert!(run.followers.iter().all(|follower| follower.node != last.node) && run.followers.len() == 2);
    assert!(run.verified.unwrap().is_clean());
}

#[test]
fn a_slowed_sync_shows_in_the_disk_stage_and_a_restart_is_survived() {
    let run = run_of(
        "--leader 1 --fault 0s_slow-sync_3_20ms --fault 1s_slow-sync_3_0s --fault 1200ms_kill_3 --fault 1700ms_restart_3 \
         --clients 4 --duration 3s --warmup 200ms",
    );
    assert_eq!(run.events.len(), 4);
    let slow = run.followers.iter().find(|follower| follower.node == 3).unwrap();
    let disk = &slow.stages.as_ref().unwrap().disk_us;
    assert!(disk.max >= 19_800.0, "{disk:?}");
    assert!(run.verified.unwrap().is_clean());
}

#[test]
fn a_printed_plan_is_run_as_it_is_and_nothing_is_done_before() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = "--quorum 1,2 --repeats 2 --duration 300ms --warmup 0s --clients 2 --keys 100";
    let output = harness(directory.path(), &format!("{arguments} --dry-run")).output().unwrap();
    assert!(output.status.success() && !directory.path().join("out").exists());
    let plan: Plan = serde_json::from_slice(&output.stdout).unwrap();
    let file = directory.path().join("plan.json");
    std::fs::write(&file, &output.stdout).unwrap();
    let output = harness(directory.path(), &format!("--plan {}", file.display())).output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = saved(directory.path());
    assert_eq!(report.plan, plan);
    let made: Vec<_> = report.runs.iter().map(|run| (run.case_number, run.repeat)).collect();
    let planned: Vec<_> = plan.steps().iter().map(|step| (step.case, step.repeat)).collect();
    assert_eq!(made, planned);
    assert_eq!(std::fs::read(directory.path().join("out/plan.json")).unwrap(), std::fs::read(&file).unwrap());
}

#[test]
fn an_interrupted_plan_goes_on_with_what_it_lacks() {
    let directory = tempfile::tempdir().unwrap();
    let arguments = "--quorum 1,2 --duration 1500ms --warmup 0s --clients 2 --keys 100";
    let mut child = harness(directory.path(), arguments).spawn().unwrap();
    wait_for_progress(&mut child, "[2/2] quorum 2 of 3, fsync: measuring");
    signal(&child, Signal::INT);
    assert_eq!(child.wait_with_output().unwrap().status.code(), Some(130));
    let first = saved(directory.path()).runs[0].clone();
    let out = directory.path().join("out");
    let data = directory.path().join("data");
    let output = std::process::Command::new(PROGRAM)
        .args(["--resume", out.to_str().unwrap(), "--data-dir", data.to_str().unwrap()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = saved(directory.path());
    assert_eq!((report.state, report.runs.len()), (State::Complete, 2));
    assert_eq!(report.runs[0], first, "it was measured again");
    assert!(!report.runs[1].interrupted && report.runs[1].case.quorum == 2);
}

#[test]
fn a_cluster_that_ran_before_is_measured_verified_and_left_as_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let cluster_directory = directory.path().join("cluster");
    std::fs::create_dir(&cluster_directory).unwrap();
    let mut cluster = Cluster::start(Settings {
        program: Program::harness(PROGRAM),
        quorums: Quorums::new(3, 2).unwrap(),
        durability: Durability::Os,
        leader: None,
        name: "theirs".to_owned(),
        directory: cluster_directory,
        links: Links::Direct,
    })
    .unwrap();
    smol::block_on(cluster.wait_ready(Duration::from_secs(60))).unwrap();
    let client = cluster.client(1).unwrap();
    smol::block_on(client.set("theirs", "kept")).unwrap();
    let addresses: Vec<_> = cluster.addresses().iter().map(ToString::to_string).collect();
    let out = directory.path().join("out");
    let output = std::process::Command::new(PROGRAM)
        .args(["--connect", &addresses.join(","), "--output", out.to_str().unwrap()])
        .args("--duration 1s --warmup 100ms --clients 4 --keys 500".split(' '))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    let report = saved(directory.path());
    let run = &report.runs[0];
    assert_eq!((run.case.replicas, run.case.quorum, run.case.durability), (3, 2, Durability::Os));
    assert!(run.verified.as_ref().unwrap().is_clean() && run.writes.acknowledged > 0);
    assert_eq!(run.followers.len(), 2);
    assert!(run.followers.iter().all(|follower| follower.lag_us.is_some()), "{:?}", run.followers);
    cluster.check_running().unwrap();
    let left: BTreeMap<_, _> = smol::block_on(client.scan(quorate_client::prefix(b"")).next_page())
        .unwrap()
        .unwrap()
        .items
        .into_iter()
        .map(|item| (item.key, item.value))
        .collect();
    assert_eq!(left, BTreeMap::from([(b"theirs".to_vec(), b"kept".to_vec())]));
}

#[test]
fn a_cluster_without_its_leader_or_none_at_all_is_wrong_use() {
    let directory = tempfile::tempdir().unwrap();
    let output = std::process::Command::new(PROGRAM)
        .args(["--connect", "127.0.0.1:1", "--output", directory.path().join("out").to_str().unwrap()])
        .output()
        .unwrap();
    let errors = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{errors}");
    assert!(errors.contains("start it, or leave it out"), "{errors}");
}
