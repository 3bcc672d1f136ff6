//! `bench-harness compare` and `bench-harness report` as their users run them: files, exit codes, one sentence.
//!
//! The reports are made here, as no run of a test is long enough to tell anything.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use bench_harness::environment::Environment;
use bench_harness::plan::{
    Arrivals, Case, Distribution as Keys, LeaderSettings, Load, Plan, ReadFrom, System, ValueBytes,
};
use bench_harness::report::{Calls, Distribution, Generator, Output as Saved, Report, Run};
use bench_harness::verify::Verified;
use hdrhistogram::Histogram;
use quorate_protocol::Durability;

const PROGRAM: &str = env!("CARGO_BIN_EXE_bench-harness");

/// When every first run began.
const BEGAN_UNIX_MS: u64 = 1_795_366_977_000;

fn case(quorum: u8) -> Case {
    Case {
        system: System::Quorate,
        replicas: 3,
        quorum,
        durability: Durability::Fsync,
        leadership: LeaderSettings::default(),
        busy_poll: None,
        load: Load {
            clients: 64,
            in_flight: 1,
            arrivals: Arrivals::Closed,
            reads: 0.0,
            read_from: ReadFrom::Leader,
            value_bytes: ValueBytes::fixed(100),
            keys: 1_000,
            distribution: Keys::Uniform,
            deadline: Duration::from_secs(5),
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(2),
        },
        links: Vec::new(),
        faults: Vec::new(),
        probes_per_second: 0,
    }
}

/// A run with so many writes per second, whose latency is what 64 closed clients then see.
fn run(case: &Case, repeat: u32, per_second: f64) -> Run {
    let latency_ns = 64e9 / per_second;
    let mut histogram = Histogram::<u64>::new(3).unwrap();
    (50..150).for_each(|percent| histogram.record((latency_ns * f64::from(percent) / 100.0) as u64).unwrap());
    let latency = Distribution::of_ns(&histogram);
    Run {
        case_number: 0,
        repeat,
        case: case.clone(),
        began_unix_ms: BEGAN_UNIX_MS + u64::from(repeat) * 15_000,
        duration_s: 10.0,
        interrupted: false,
        writes: Calls {
            acknowledged: per_second as u64 * 10,
            refused: 0,
            unknown: 0,
            reasons: Default::default(),
            per_second,
            latency_us: latency.clone(),
            service_us: latency,
        },
        reads: None,
        generator: Generator {
            scheduled: per_second as u64 * 10,
            issued: per_second as u64 * 10,
            schedule_lag_us: Distribution::default(),
            waited_for_slot: 0,
            late: 0,
            fell_behind: false,
        },
        seconds: Vec::new(),
        followers: Vec::new(),
        nodes: Vec::new(),
        harness: None,
        machine: None,
        others_share: None,
        events: Vec::new(),
        catch_ups: Vec::new(),
        floor: None,
        peer: None,
        verified: Some(Verified { keys: 1_000, ..Verified::default() }),
        leaders: Vec::new(),
        receipts: None,
    }
}

/// A report of repeats whose rates lie around the given one, by up to three hundredths.
fn report(case: &Case, repeats: u32, per_second: f64, seed: u64) -> Report {
    let directory = tempfile::tempdir().unwrap();
    let mut report =
        Report::new(Environment::gather(directory.path()).unwrap(), Plan::new(1, vec![case.clone()]));
    let mut random = fastrand::Rng::with_seed(seed);
    report.plan.repeats = repeats;
    report.runs =
        (1..=repeats).map(|repeat| run(case, repeat, per_second * (0.97 + 0.06 * random.f64()))).collect();
    report.close(Ok(()));
    report
}

fn save(directory: &Path, name: &str, report: &Report) -> PathBuf {
    let path = directory.join(name);
    Saved::prepare(Some(&path)).unwrap().save(report).unwrap();
    path
}

/// Runs the harness in a directory of its own.
fn harness(directory: &Path, arguments: &str) -> Output {
    Command::new(PROGRAM).current_dir(directory).args(arguments.split_whitespace()).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The exit code, standard output and standard error, of which there is at most one line.
fn outcome(directory: &Path, arguments: &str) -> (i32, String, String) {
    let output = harness(directory, arguments);
    let errors = text(&output.stderr);
    assert!(errors.lines().count() <= 1, "{errors}");
    (output.status.code().unwrap(), text(&output.stdout), errors)
}

#[test]
fn a_fifth_less_fails_and_what_is_equal_passes() {
    let directory = tempfile::tempdir().unwrap();
    save(directory.path(), "a", &report(&case(2), 5, 50_000.0, 1));
    save(directory.path(), "same", &report(&case(2), 5, 50_000.0, 2));
    save(directory.path(), "slow", &report(&case(2), 5, 40_000.0, 3));

    let (code, table, errors) = outcome(directory.path(), "compare a same");
    assert_eq!((code, errors.as_str()), (0, ""), "{table}");
    assert!(table.contains("no difference shown") && table.contains("A/A spread"), "{table}");

    let (code, table, errors) = outcome(directory.path(), "compare a slow");
    assert_eq!(code, 1, "{table}");
    assert!(errors.starts_with("bench-harness: 6 figures got worse: writes/s -"), "{errors}");
    assert!(table.contains("WORSE") && table.contains("0.0079"), "{table}");

    let (code, table, _) = outcome(directory.path(), "compare slow a/report.json");
    assert_eq!(code, 0);
    assert!(table.contains("better"), "{table}");
    let (code, ..) = outcome(directory.path(), "compare a slow --tolerance 50% --figure writes_per_s");
    assert_eq!(code, 0);
}

#[test]
fn single_runs_get_no_verdict_and_are_told_how_to_get_one() {
    let directory = tempfile::tempdir().unwrap();
    save(directory.path(), "a", &report(&case(2), 1, 50_000.0, 1));
    save(directory.path(), "b", &report(&case(2), 1, 5_000.0, 2));
    let (code, table, errors) = outcome(directory.path(), "compare a b");
    assert_eq!(code, 0);
    assert!(table.contains("no verdict: A +4, B +4 runs"), "{table}");
    assert!(errors.starts_with("warning: no verdict") && errors.contains("--repeats 5"), "{errors}");
}

#[test]
fn wrong_use_ends_with_one_sentence_and_code_2() {
    let directory = tempfile::tempdir().unwrap();
    save(directory.path(), "a", &report(&case(2), 5, 50_000.0, 1));
    save(directory.path(), "other", &report(&case(3), 5, 50_000.0, 2));
    std::fs::write(directory.path().join("none.json"), "{}").unwrap();
    for (arguments, advice) in [
        ("compare a other", "no case in common"),
        ("compare a nowhere", "nowhere"),
        ("compare a none.json", "is no report"),
        ("compare a other --alpha 2", "such as 0.01"),
        ("compare a other --figure speed", "choose from writes_per_s"),
        ("compare a", "--repeats 10"),
        ("compare", "--help explains"),
        ("report a other", "--connect"),
    ] {
        let (code, shown, errors) = outcome(directory.path(), arguments);
        assert_eq!((code, shown.as_str()), (2, ""), "{arguments}: {errors}");
        assert!(errors.contains(advice), "{arguments}: {errors}");
    }
}

#[test]
fn other_formats_are_for_scripts_and_pages() {
    let directory = tempfile::tempdir().unwrap();
    save(directory.path(), "a", &report(&case(2), 5, 50_000.0, 1));
    save(directory.path(), "slow", &report(&case(2), 5, 40_000.0, 2));
    let (code, json, _) = outcome(directory.path(), "compare a slow --format json");
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["schema"]), (1, &1.into()));
    assert_eq!(json["cases"][0]["figures"][0]["verdict"], "worse");
    let (_, page, _) = outcome(directory.path(), "compare a slow --format markdown");
    assert!(page.contains("### quorum 2 of 3") && page.contains("| writes/s"), "{page}");
}

#[test]
fn forty_equal_runs_are_seldom_called_different_among_themselves() {
    let directory = tempfile::tempdir().unwrap();
    save(directory.path(), "a", &report(&case(2), 40, 50_000.0, 1));
    let (code, json, errors) = outcome(directory.path(), "compare a --format json");
    assert_eq!((code, errors.as_str()), (0, ""));
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((&json["splits"], &json["cases"][0]["runs"]), (&100.into(), &40.into()));
    let figures = json["cases"][0]["figures"].as_array().unwrap();
    assert!(figures.iter().any(|figure| figure["figure"] == "writes_per_s"));
    for figure in figures {
        assert!(figure["called"].as_u64().unwrap() <= 3, "{figure}");
    }
    let (_, table, _) = outcome(directory.path(), "compare a");
    assert!(table.contains("by time\n") || table.contains("of 28"), "{table}");
}

#[test]
fn reports_of_generators_that_ran_together_become_one() {
    let directory = tempfile::tempdir().unwrap();
    let mut connected = case(2);
    connected.system = System::Connected(vec!["127.0.0.1:7401".to_owned()]);
    save(directory.path(), "one", &report(&connected, 2, 20_000.0, 1));
    save(directory.path(), "other", &report(&connected, 2, 30_000.0, 2));
    let (code, shown, errors) = outcome(directory.path(), "report one other --output both --format json");
    assert_eq!(code, 0, "{errors}");
    let merged = Report::load(&directory.path().join("both")).unwrap();
    assert_eq!(serde_json::from_str::<Report>(&shown).unwrap(), merged);
    assert_eq!((merged.runs.len(), merged.runs[0].case.load.clients), (2, 128));
    assert!(merged.runs.iter().all(|run| run.writes.per_second > 48_000.0));

    std::fs::remove_file(directory.path().join("both/report.json")).unwrap();
    let (code, ..) = outcome(directory.path(), "report one");
    assert_eq!(code, 0, "a single report is written where it is");
}
