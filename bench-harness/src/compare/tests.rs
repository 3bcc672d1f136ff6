use std::path::PathBuf;

use super::statistics::tests::noisy;
use super::*;
use crate::report::{Run, sample};

/// A report of so many repeats of each case, whose noise follows from the seed.
fn repeated(repeats: u32, seed: u64) -> Report {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut report = sample::whole();
    let runs = std::mem::take(&mut report.runs);
    report.plan.repeats = repeats;
    for repeat in 1..=repeats {
        for run in &runs {
            let mut run = Run { repeat, ..run.clone() };
            let latency = &mut run.writes.latency_us;
            for figure in [&mut run.writes.per_second, &mut latency.p50, &mut latency.p99] {
                *figure = noisy(&mut random, *figure, 0.03);
            }
            report.runs.push(run);
        }
    }
    report
}

fn slowed(mut report: Report, quorum: u8, by: f64) -> Report {
    for run in report.runs.iter_mut().filter(|run| run.case.quorum == quorum) {
        run.writes.per_second /= by;
        run.writes.latency_us.p50 *= by;
    }
    report
}

fn options() -> Compare {
    Compare {
        before: PathBuf::from("a"),
        after: Some(PathBuf::from("b")),
        alpha: 0.01,
        tolerance: 0.0,
        figure: Vec::new(),
        format: CompareFormat::Table,
    }
}

fn compared_with(before: &Report, after: &Report, options: &Compare) -> Result<Comparison, Failure> {
    Comparison::of(["a".to_owned(), "b".to_owned()], [before, after], &options.figures(), options)
}

fn compared(before: &Report, after: &Report) -> Comparison {
    compared_with(before, after, &options()).unwrap()
}

fn figure<'a>(comparison: &'a Comparison, quorum: usize, key: &str) -> &'a FigureComparison {
    comparison.cases[quorum - 1].figures.iter().find(|figure| figure.of.key == key).unwrap()
}

#[test]
fn what_got_a_fifth_slower_is_worse_and_fails_the_comparison() {
    let comparison = compared(&repeated(5, 1), &slowed(repeated(5, 2), 2, 1.25));
    for key in ["writes_per_s", "write_p50_us"] {
        let slower = figure(&comparison, 2, key);
        assert_eq!((slower.verdict, slower.p), (Verdict::Worse, Some(2.0 / 252.0)), "{slower:?}");
        let [low, high] = slower.interval.unwrap();
        assert!((low..=high).contains(&slower.change.unwrap()) && low * high > 0.0, "{slower:?}");
        assert!(slower.spread_before.is_some_and(|spread| spread > 0.0), "{slower:?}");
        assert_eq!(figure(&comparison, 1, key).verdict, Verdict::NoDifferenceShown);
    }
    let Err(Failure::Worse(what)) = comparison.end() else { panic!("it passed") };
    assert!(what.starts_with("2 figures got worse: writes/s -2"), "{what}");
    assert!(what.contains("quorum 2 of 3") && what.lines().count() == 1, "{what}");
}

#[test]
fn what_got_better_or_is_tolerated_fails_nothing() {
    let (slow, fast) = (slowed(repeated(5, 2), 2, 1.25), repeated(5, 1));
    let better = compared(&slow, &fast);
    assert_eq!(figure(&better, 2, "writes_per_s").verdict, Verdict::Better);
    assert_eq!(figure(&better, 2, "write_p50_us").verdict, Verdict::Better);
    assert!(better.end().is_ok());
    let tolerant = compared_with(&fast, &slow, &Compare { tolerance: 0.5, ..options() }).unwrap();
    assert_eq!(figure(&tolerant, 2, "writes_per_s").verdict, Verdict::Worse);
    assert!(tolerant.end().is_ok());
    assert!(tolerant.text(CompareFormat::Table).contains("worse, tolerated"));
}

#[test]
fn single_runs_get_no_verdict_however_much_they_differ() {
    let comparison = compared(&repeated(1, 1), &slowed(repeated(1, 2), 2, 10.0));
    let slower = figure(&comparison, 2, "writes_per_s");
    assert_eq!((slower.verdict, slower.p, slower.interval), (Verdict::NoVerdict, None, None));
    assert_eq!((slower.runs_lacking, slower.spread_before), ([4, 4], None));
    assert_eq!(comparison.figures_judged, 0);
    assert!(comparison.end().is_ok());
    assert!(comparison.warning().unwrap().contains("--repeats 5"));
    let text = comparison.text(CompareFormat::Table);
    assert!(
        text.contains("no verdict: A +4, B +4 runs") && text.contains("No figure had the repeats"),
        "{text}"
    );
}

#[test]
fn a_comparison_says_how_many_false_alarms_its_figures_make_likely() {
    let comparison = compared(&repeated(5, 1), &repeated(5, 2));
    assert_eq!(comparison.figures_judged, 3 * comparison.cases[0].figures.len());
    let expected = comparison.figures_judged as f64 * 2.0 / 252.0;
    assert!((comparison.false_alarms_expected - expected).abs() < 1e-9);
    let chosen = Compare { figure: vec![figures::parse("writes_per_s").unwrap()], ..options() };
    assert_eq!(compared_with(&repeated(5, 1), &repeated(5, 2), &chosen).unwrap().figures_judged, 3);
}

#[test]
fn cases_of_one_report_alone_are_named_and_reports_without_a_common_case_refused() {
    let (mut before, mut after) = (repeated(5, 1), repeated(5, 2));
    before.runs.retain(|run| run.case.quorum < 3);
    after.runs.retain(|run| run.case.quorum > 1);
    let comparison = compared(&before, &after);
    assert_eq!(comparison.cases.len(), 1);
    assert!(comparison.only_before[0].starts_with("quorum 1 of 3"));
    assert!(comparison.only_after[0].starts_with("quorum 3 of 3"));
    after.runs.retain(|run| run.case.quorum == 3);
    let Err(Failure::WrongUse(advice)) = compared_with(&before, &after, &options()) else {
        panic!("they have nothing in common")
    };
    assert!(advice.contains("no case in common: one measured quorum 1 of 3"), "{advice}");
}

#[test]
fn a_figure_of_one_report_alone_is_a_remark() {
    let (before, mut after) = (repeated(5, 1), repeated(5, 2));
    after.runs.iter_mut().for_each(|run| run.nodes.clear());
    let comparison = compared(&before, &after);
    assert!(
        comparison.cases[0].remarks.iter().any(|remark| remark.text == "memory peak was measured in A alone")
    );
    assert!(comparison.cases[0].figures.iter().all(|figure| figure.of.key != "memory_peak_bytes"));
}

#[test]
fn a_figure_that_was_zero_has_a_verdict_and_no_ratio() {
    let disk = figures::parse("leader_disk_bytes_per_write").unwrap();
    let comparison = FigureComparison::of(disk, &[0.0; 5], &[10.0; 5], 0.01).unwrap();
    assert_eq!((comparison.verdict, comparison.change), (Verdict::Worse, None));
    assert!(comparison.is_worse_than(0.5));
    let unchanged = FigureComparison::of(disk, &[0.0; 5], &[0.0; 5], 0.01).unwrap();
    assert_eq!((unchanged.verdict, unchanged.p), (Verdict::NoDifferenceShown, Some(1.0)));
}

#[test]
fn a_table_is_at_most_120_columns_wide() {
    let mut after = slowed(repeated(5, 2), 2, 100.0);
    after.environment.cores = 64;
    for comparison in [compared(&repeated(5, 1), &after), compared(&repeated(2, 1), &after)] {
        let text = comparison.text(CompareFormat::Table);
        assert!(text.contains("WARNING: DIFFERENT MACHINES") && text.contains("99 % interval"), "{text}");
        for line in text.lines() {
            assert!(line.chars().count() <= 120, "{line}");
        }
    }
}

#[test]
fn a_page_has_a_heading_and_a_table_for_each_case() {
    let page = compared(&repeated(5, 1), &repeated(5, 2)).text(CompareFormat::Markdown);
    assert_eq!(page.lines().filter(|line| line.starts_with("### quorum")).count(), 3);
    assert!(page.contains("| writes/s") && page.contains("|---"), "{page}");
}

#[test]
fn json_has_a_schema_and_names_every_figure() {
    let comparison = compared(&repeated(5, 1), &slowed(repeated(5, 2), 2, 1.25));
    let json: serde_json::Value = serde_json::from_str(&comparison.text(CompareFormat::Json)).unwrap();
    assert_eq!(json["schema"], 1);
    let slower = &json["cases"][1]["figures"][0];
    assert_eq!(slower["figure"], "writes_per_s");
    assert_eq!((&slower["verdict"], &slower["better"]), (&"worse".into(), &"higher".into()));
    assert_eq!(slower["runs"], serde_json::json!([5, 5]));
    let same = &json["cases"][0]["figures"][0];
    assert_eq!(same["verdict"], "no_difference_shown");
}
