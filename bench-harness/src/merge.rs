//! Reports of generators on several machines that loaded one cluster at the same time become one report.
//!
//! Runs of the same case and repeat are added up: calls, histograms and rates, and what the generators say of their
//! schedules. All watched the same cluster, so followers and nodes are told by the first report that saw them. The
//! cases of the result have the clients and the rate of all generators together, as it is what the cluster was loaded
//! with.
//!
//! What cannot be added: the quantiles of a single second are those of the generator where they were highest, which is
//! an upper bound; what the machines did is left out, as there is no machine that it would be true of. The environment
//! is that of the first report.
//!
//! Refused are reports whose plans differ in more than the seed, and runs that were not measured at the same time: their
//! sum would be a load that nobody saw.

use std::path::Path;

use crate::failure::Failure;
use crate::options::Merge;
use crate::plan::{Arrivals, Case, Plan, System};
use crate::report::{Calls, Generator, Output, Report, Run, Second, State, tenths};
use crate::units::counted;
use crate::verify::Verified;

/// Part of the longest run that all generators must have measured at the same time.
const OVERLAP_MIN: f64 = 0.5;

/// Reads the reports that a command line names, merges them if they are several, and tells where the result goes.
pub fn read(options: &Merge) -> Result<(Report, Output), Failure> {
    let reports: Result<Vec<_>, _> = options.reports.iter().map(|path| Report::load(path)).collect();
    let report = merge(reports?)?;
    let directory = match (&options.output, options.reports.as_slice()) {
        (Some(directory), _) => Some(directory.as_path()),
        (None, [only]) => Some(directory_of(only)),
        (None, _) => None,
    };
    Ok((report, Output::prepare(directory)?))
}

/// Where a report is that was named by its file or its directory.
fn directory_of(report: &Path) -> &Path {
    if report.is_dir() {
        report
    } else {
        report.parent().filter(|path| *path != "").unwrap_or(Path::new("."))
    }
}

/// Makes one report of several; a single one stays as it is. What cannot be merged is wrong use.
pub fn merge(mut reports: Vec<Report>) -> Result<Report, Failure> {
    let Some((first, others)) = reports.split_first() else {
        return Err(Failure::WrongUse("there is no report to merge: name some".to_owned()));
    };
    if others.is_empty() {
        return Ok(reports.remove(0));
    }
    check(first, others).map_err(Failure::WrongUse)?;
    let runs: Result<Vec<_>, Failure> = first.runs.iter().map(|run| merge_runs(run, &reports)).collect();
    let generators = reports.len() as u32;
    Ok(Report {
        schema: first.schema,
        state: state(&reports),
        error: reports.iter().find_map(|report| report.error.clone()),
        environment: first.environment.clone(),
        plan: Plan {
            cases: first.plan.cases.iter().map(|case| loaded_by(generators, case)).collect(),
            ..first.plan.clone()
        },
        runs: runs?,
        goal: None,
    })
}

/// What keeps these reports from being merged, in one sentence.
fn check(first: &Report, others: &[Report]) -> Result<(), String> {
    let reports = || std::iter::once(first).chain(others);
    let is_connected = |case: &Case| matches!(case.system, System::Connected(_));
    if !reports().flat_map(|report| &report.plan.cases).all(is_connected) {
        return Err(
            "only reports of one cluster that ran already can be merged: measure it with --connect from \
                    each machine at the same time"
                .to_owned(),
        );
    }
    if reports().any(|report| report.goal.is_some()) {
        return Err(
            "reports of a search for the highest rate cannot be merged: every generator searched by itself; \
                    measure with --rate"
                .to_owned(),
        );
    }
    for (position, other) in others.iter().enumerate() {
        if (Plan { seed: first.plan.seed, ..other.plan.clone() }) != first.plan {
            return Err(format!(
                "the plan of report {} is not that of the first: run one plan on all machines, with --plan",
                position + 2
            ));
        }
        if other.runs.len() != first.runs.len() {
            return Err(format!(
                "report {} has {} and the first has {}: only what all generators measured can be merged",
                position + 2,
                counted(other.runs.len() as u64, "run"),
                counted(first.runs.len() as u64, "run")
            ));
        }
    }
    Ok(())
}

/// The worst of all.
fn state(reports: &[Report]) -> State {
    let all = || reports.iter().map(|report| report.state);
    let worst = [State::Failed, State::Interrupted, State::Running].into_iter();
    worst.into_iter().find(|state| all().any(|one| one == *state)).unwrap_or(State::Complete)
}

/// A case as the cluster saw it.
fn loaded_by(generators: u32, case: &Case) -> Case {
    let mut case = case.clone();
    case.load.clients *= generators;
    if let Arrivals::Open { per_second, .. } = &mut case.load.arrivals {
        *per_second *= f64::from(generators);
    }
    case
}

/// Merges a run of the first report with those of the others that belong to it.
fn merge_runs(first: &Run, reports: &[Report]) -> Result<Run, Failure> {
    let name = format!("{}, repeat {}", first.case, first.repeat);
    let is_same = |run: &&Run| (run.case_number, run.repeat) == (first.case_number, first.repeat);
    let runs: Option<Vec<&Run>> = reports.iter().map(|report| report.runs.iter().find(is_same)).collect();
    let Some(runs) = runs else {
        return Err(Failure::WrongUse(format!(
            "{name} is not in all reports: only what all generators measured can be merged"
        )));
    };
    if runs.iter().any(|run| run.case != first.case) {
        return Err(Failure::WrongUse(format!(
            "{name} was measured on clusters that differ: the reports must be of one cluster"
        )));
    }
    if !overlap(&runs) {
        return Err(Failure::WrongUse(format!(
            "{name} was not measured at the same time by all: start the generators together, on machines whose clocks \
             agree, and with --in-order if cases are repeated"
        )));
    }
    Ok(sum(first, &runs)?)
}

/// Whether enough of the runs was measured at the same time.
fn overlap(runs: &[&Run]) -> bool {
    let end = |run: &&Run| run.began_unix_ms as f64 + run.duration_s * 1e3;
    let begin = runs.iter().map(|run| run.began_unix_ms as f64).fold(0.0, f64::max);
    let together_ms = runs.iter().map(end).fold(f64::INFINITY, f64::min) - begin;
    together_ms >= longest_s(runs) * 1e3 * OVERLAP_MIN
}

fn longest_s(runs: &[&Run]) -> f64 {
    runs.iter().map(|run| run.duration_s).fold(0.0, f64::max)
}

/// All runs as one. Times count from when the first of them began.
fn sum(first: &Run, runs: &[&Run]) -> anyhow::Result<Run> {
    let others = &runs[1..];
    let began_unix_ms = runs.iter().map(|run| run.began_unix_ms).min().unwrap_or(first.began_unix_ms);
    let writes = others.iter().try_fold(first.writes.clone(), |sum, run| added_calls(&sum, &run.writes))?;
    let reads = others.iter().try_fold(first.reads.clone(), |sum, run| match (&sum, &run.reads) {
        (Some(sum), Some(reads)) => added_calls(sum, reads).map(Some),
        _ => Ok(None),
    })?;
    let generator =
        others.iter().try_fold(first.generator.clone(), |sum, run| added_generators(&sum, &run.generator))?;
    let watcher = runs.iter().find(|run| !run.followers.is_empty()).unwrap_or(&first);
    let mut sum = Run {
        began_unix_ms,
        duration_s: longest_s(runs),
        interrupted: runs.iter().any(|run| run.interrupted),
        reads,
        generator,
        seconds: seconds(runs, began_unix_ms),
        harness: None,
        machine: None,
        others_share: None,
        verified: verified(runs),
        case: loaded_by(runs.len() as u32, &first.case),
        ..(*watcher).clone()
    };
    shift_times(&mut sum, (watcher.began_unix_ms - began_unix_ms) as f64 / 1e3);
    // What one generator knew of was a part of what the nodes did their work for.
    let part = watcher.writes.acknowledged as f64 / writes.acknowledged.max(1) as f64;
    for node in &mut sum.nodes {
        node.cpu_us_per_write = node.cpu_us_per_write.map(|cpu_us| tenths(cpu_us * part));
        node.disk_bytes_per_write = node.disk_bytes_per_write.map(|bytes| tenths(bytes * part));
    }
    sum.writes = writes;
    Ok(sum)
}

/// Makes what a generator saw count from an earlier beginning.
fn shift_times(run: &mut Run, by_s: f64) {
    let samples = run.followers.iter_mut().flat_map(|follower| &mut follower.samples);
    let times = samples
        .map(|sample| &mut sample.t_s)
        .chain(run.events.iter_mut().map(|event| &mut event.t_s))
        .chain(run.catch_ups.iter_mut().map(|catch_up| &mut catch_up.t_s));
    times.for_each(|t_s| *t_s += by_s);
}

fn added_calls(one: &Calls, other: &Calls) -> anyhow::Result<Calls> {
    let mut reasons = one.reasons.clone();
    for (reason, count) in &other.reasons {
        *reasons.entry(reason.clone()).or_default() += count;
    }
    Ok(Calls {
        acknowledged: one.acknowledged + other.acknowledged,
        refused: one.refused + other.refused,
        unknown: one.unknown + other.unknown,
        reasons,
        per_second: tenths(one.per_second + other.per_second),
        latency_us: one.latency_us.merged(&other.latency_us)?,
        service_us: one.service_us.merged(&other.service_us)?,
    })
}

fn added_generators(one: &Generator, other: &Generator) -> anyhow::Result<Generator> {
    Ok(Generator {
        scheduled: one.scheduled + other.scheduled,
        issued: one.issued + other.issued,
        schedule_lag_us: one.schedule_lag_us.merged(&other.schedule_lag_us)?,
        waited_for_slot: one.waited_for_slot + other.waited_for_slot,
        late: one.late + other.late,
        fell_behind: one.fell_behind || other.fell_behind,
    })
}

/// The seconds of all runs, each added to the one of the result that it lies nearest to.
fn seconds(runs: &[&Run], began_unix_ms: u64) -> Vec<Second> {
    let mut all = Vec::new();
    for run in runs {
        let offset = (run.began_unix_ms - began_unix_ms + 500) as usize / 1_000;
        all.resize(all.len().max(offset + run.seconds.len()), Second::default());
        for (sum, second) in all[offset..].iter_mut().zip(&run.seconds) {
            *sum = Second {
                writes: sum.writes + second.writes,
                reads: sum.reads + second.reads,
                refused: sum.refused + second.refused,
                unknown: sum.unknown + second.unknown,
                p50_us: sum.p50_us.max(second.p50_us),
                p99_us: sum.p99_us.max(second.p99_us),
                max_us: sum.max_us.max(second.max_us),
            };
        }
    }
    all
}

/// Clean only if all are; none if one was not checked, unless another found something.
fn verified(runs: &[&Run]) -> Option<Verified> {
    let checked: Vec<_> = runs.iter().filter_map(|run| run.verified.as_ref()).collect();
    let mut sum = Verified::default();
    for one in &checked {
        sum.keys += one.keys;
        sum.lost += one.lost;
        sum.differing.extend(&one.differing);
        sum.first = sum.first.or_else(|| one.first.clone());
    }
    sum.differing.sort_unstable();
    sum.differing.dedup();
    (checked.len() == runs.len() || !sum.is_clean()).then_some(sum)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::options::Format;
    use crate::plan::Spacing;
    use crate::report::{Distribution, sample};

    /// What a generator reports that began so many milliseconds after another.
    fn report(after_ms: u64) -> Report {
        let mut report = sample::whole();
        let servers = vec!["10.0.0.1:7401".to_owned(), "10.0.0.2:7401".to_owned()];
        let runs = report.runs.iter_mut().map(|run| &mut run.case);
        for case in report.plan.cases.iter_mut().chain(runs) {
            case.system = System::Connected(servers.clone());
        }
        report.plan.seed = after_ms;
        report.runs.iter_mut().for_each(|run| run.began_unix_ms += after_ms);
        report
    }

    fn refused(reports: Vec<Report>) -> String {
        let Err(Failure::WrongUse(advice)) = merge(reports) else { panic!("they were merged") };
        assert_eq!(advice.lines().count(), 1, "{advice}");
        advice
    }

    #[test]
    fn calls_rates_and_histograms_of_all_generators_are_added() {
        let (one, other) = (report(0), report(400));
        let merged = merge(vec![one.clone(), other]).unwrap();
        assert_eq!((merged.runs.len(), merged.state), (3, State::Complete));
        let (run, single) = (&merged.runs[1], &one.runs[1]);
        assert_eq!(run.writes.acknowledged, 2 * single.writes.acknowledged);
        assert_eq!(run.writes.per_second, 2.0 * single.writes.per_second);
        assert_eq!(run.writes.latency_us.count, 2 * single.writes.latency_us.count);
        assert_eq!(run.writes.latency_us.p99, single.writes.latency_us.p99);
        assert_eq!(run.generator.issued, 2 * single.generator.issued);
        assert_eq!(run.verified.as_ref().unwrap().keys, 2 * single.verified.as_ref().unwrap().keys);
        assert_eq!((run.case.load.clients, merged.plan.cases[1].load.clients), (128, 128));
        assert_eq!(
            run.nodes[0].cpu_us_per_write,
            single.nodes[0].cpu_us_per_write.map(|cpu| tenths(cpu / 2.0))
        );
        assert_eq!((run.machine.as_ref(), run.harness.as_ref(), run.others_share), (None, None, None));
    }

    #[test]
    fn rates_of_open_loops_are_added_in_the_plan_too() {
        let open = || {
            let mut report = report(0);
            let runs = report.runs.iter_mut().map(|run| &mut run.case);
            for case in report.plan.cases.iter_mut().chain(runs) {
                case.load.arrivals = Arrivals::Open { per_second: 500.0, spacing: Spacing::Poisson };
            }
            report
        };
        let merged = merge(vec![open(), open(), open()]).unwrap();
        let together = Arrivals::Open { per_second: 1500.0, spacing: Spacing::Poisson };
        assert_eq!(merged.plan.cases[0].load.arrivals, together);
        assert_eq!(merged.runs[0].case, merged.plan.cases[0]);
    }

    #[test]
    fn seconds_are_added_where_they_lie_nearest() {
        let (one, other) = (report(0), report(2_600));
        let merged = &merge(vec![one.clone(), other]).unwrap().runs[0];
        let single = &one.runs[0].seconds;
        assert_eq!(merged.seconds.len(), single.len() + 3);
        assert_eq!(merged.seconds[2], single[2]);
        assert_eq!(merged.seconds[3].writes, single[3].writes + single[0].writes);
        assert_eq!(merged.seconds[3].max_us, single[3].max_us.max(single[0].max_us));
    }

    #[test]
    fn followers_are_told_by_the_first_that_saw_them_with_its_times_shifted() {
        let (mut one, other) = (report(0), report(1_000));
        one.runs.iter_mut().for_each(|run| run.followers.clear());
        let merged = &merge(vec![one, other.clone()]).unwrap().runs[0];
        assert_eq!(merged.followers.len(), 2);
        let first_s = |run: &Run| run.followers[0].samples[0].t_s;
        assert_eq!(first_s(merged), first_s(&other.runs[0]) + 1.0);
    }

    #[test]
    fn one_generator_that_lost_a_write_is_not_hidden_by_the_others() {
        let (mut one, mut other) = (report(0), report(0));
        one.runs[0].verified = None;
        assert_eq!(merge(vec![one.clone(), other.clone()]).unwrap().runs[0].verified, None);
        let lost = Verified { lost: 1, differing: vec![3], ..Verified::default() };
        other.runs[0].verified = Some(lost.clone());
        other.state = State::Failed;
        let merged = merge(vec![one, other]).unwrap();
        assert_eq!((merged.runs[0].verified.as_ref(), merged.state), (Some(&lost), State::Failed));
    }

    #[test]
    fn what_was_not_one_load_on_one_cluster_is_refused() {
        assert!(refused(vec![sample::whole(), sample::whole()]).contains("--connect"));
        let mut other = report(0);
        other.plan.cases[0].load.in_flight = 9;
        assert!(refused(vec![report(0), other]).contains("the plan of report 2 is not that of the first"));
        let mut other = report(0);
        other.runs.pop();
        assert!(refused(vec![report(0), other]).contains("report 2 has 2 runs and the first has 3 runs"));
        let mut other = report(0);
        other.runs[0].repeat = 2;
        assert!(refused(vec![report(0), other]).contains("repeat 1 is not in all reports"));
        let mut other = report(0);
        other.runs[2].case.quorum = 1;
        assert!(refused(vec![report(0), other]).contains("clusters that differ"));
    }

    #[test]
    fn runs_that_overlap_by_less_than_half_are_refused() {
        assert!(merge(vec![report(0), report(5_000)]).is_ok());
        assert!(refused(vec![report(0), report(5_001)]).contains("not measured at the same time"));
        assert!(refused(vec![report(20_000), report(0)]).contains("not measured at the same time"));
    }

    #[test]
    fn what_no_histogram_can_be_made_of_is_an_error() {
        let mut other = report(0);
        other.runs[0].writes.latency_us = Distribution { count: 1, hdr_scale: 7, ..Distribution::default() };
        assert!(merge(vec![report(0), other]).unwrap_err().to_string().contains("different units"));
    }

    #[test]
    fn a_single_report_stays_as_and_where_it_is() {
        let directory = tempfile::tempdir().unwrap();
        Output::prepare(Some(directory.path())).unwrap().save(&sample::whole()).unwrap();
        for path in [directory.path().to_owned(), directory.path().join("report.json")] {
            let options = Merge { reports: vec![path], output: None, format: Format::Table };
            let (report, output) = read(&options).unwrap();
            assert_eq!(report, sample::whole());
            assert_eq!(output.file(), directory.path().join("report.json"));
        }
        assert_eq!(directory_of(&PathBuf::from("report.json")), Path::new("."));
    }
}
