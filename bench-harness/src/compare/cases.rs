//! Which runs belong together: those of one case, within a report and across two.
//!
//! A case is what is asked of a cluster, not how long: its duration, warm-up, deadline and probes do not tell cases
//! apart, nor do how its leader is found or the addresses of a cluster that ran already. Where they differ, a remark
//! says so.

use std::time::Duration;

use super::Remark;
use crate::plan::{Case, LeaderSettings, System};
use crate::report::{Report, Run};
use crate::units::{counted, format_duration};

use super::statistics::median;

/// From which share of the machine on it is worth a remark that others used it.
const OTHERS_SHARE_REMARKED: f64 = 0.1;

/// The repeats of one case in one report.
#[derive(Debug)]
pub(super) struct Repeats<'a> {
    /// The case, as it was first measured.
    pub(super) case: &'a Case,
    /// The runs that count, in the order in which they were made.
    pub(super) runs: Vec<&'a Run>,
    /// Runs that were cut short.
    interrupted: usize,
    /// Runs after which the replicas did not hold what they must.
    unclean: usize,
}

/// The repeats of every case of a report, in the order in which the cases were first measured.
pub(super) fn repeats(report: &Report) -> Vec<Repeats<'_>> {
    let mut all: Vec<Repeats<'_>> = Vec::new();
    for run in &report.runs {
        let place = all.iter().position(|repeats| is_same(repeats.case, &run.case)).unwrap_or_else(|| {
            all.push(Repeats { case: &run.case, runs: Vec::new(), interrupted: 0, unclean: 0 });
            all.len() - 1
        });
        all[place].add(run);
    }
    all
}

/// Whether two runs of these cases measure the same.
pub(super) fn is_same(one: &Case, other: &Case) -> bool {
    identity(one) == identity(other)
}

fn identity(case: &Case) -> Case {
    let mut same = case.clone();
    (same.load.duration, same.load.warmup, same.load.deadline) = Default::default();
    same.probes_per_second = 0;
    same.leadership = LeaderSettings::default();
    if let System::Connected(servers) = &mut same.system {
        servers.clear();
    }
    same
}

impl<'a> Repeats<'a> {
    fn add(&mut self, run: &'a Run) {
        if run.interrupted {
            self.interrupted += 1;
        } else if run.verified.as_ref().is_some_and(|verified| !verified.is_clean()) {
            self.unclean += 1;
        } else {
            self.runs.push(run);
        }
    }

    /// What a reader must know about these runs, in a report of this name.
    pub(super) fn remarks(&self, name: &str) -> Vec<Remark> {
        let runs = |count: usize| counted(count as u64, "run");
        let of_all = |count: usize| format!("in {count} of {} of {name}", runs(self.runs.len()));
        let mut remarks = Vec::new();
        if self.unclean > 0 {
            remarks.push(Remark::warning(format!(
                "{name} LOST WRITES or had replicas that differ in {}, left out",
                runs(self.unclean)
            )));
        }
        if self.interrupted > 0 {
            remarks.push(Remark::note(format!("{} of {name} cut short, left out", runs(self.interrupted))));
        }
        let failed: u64 = self.runs.iter().map(|run| run.writes.refused + run.writes.unknown).sum();
        if failed > 0 {
            remarks.push(Remark::warning(format!("{} of {name} failed", counted(failed, "write"))));
        }
        let behind = self.runs.iter().filter(|run| run.generator.fell_behind).count();
        if behind > 0 {
            remarks.push(Remark::warning(format!(
                "the generator fell behind {}: the figures may be the generator's",
                of_all(behind)
            )));
        }
        let others: Vec<_> = self.runs.iter().filter_map(|run| run.others_share).collect();
        if let Some(share) = median(&others).filter(|share| *share >= OTHERS_SHARE_REMARKED) {
            remarks.push(Remark::note(format!(
                "other programs used {:.0} % of the machine during the runs of {name}",
                share * 100.0
            )));
        }
        remarks
    }
}

/// Where two cases differ that count as the same.
pub(super) fn differences(before: &Case, after: &Case) -> Vec<Remark> {
    let mut remarks = Vec::new();
    type Time = (&'static str, fn(&Case) -> Duration);
    let times: [Time; 3] = [
        ("measured for", |case| case.load.duration),
        ("warmed up for", |case| case.load.warmup),
        ("deadline of calls", |case| case.load.deadline),
    ];
    for (what, time) in times {
        if time(before) != time(after) {
            let [before, after] = [before, after].map(|case| format_duration(time(case)));
            remarks.push(Remark::note(format!("{what}: {before} in A, {after} in B")));
        }
    }
    if before.probes_per_second != after.probes_per_second {
        let (before, after) = (before.probes_per_second, after.probes_per_second);
        remarks.push(Remark::note(format!("probes per second: {before} in A, {after} in B")));
    }
    if before.leadership != after.leadership {
        let [before, after] = [before, after].map(|case| case.leadership.to_string());
        remarks.push(Remark::note(format!("leader: {before} in A, {after} in B")));
    }
    if before.system != after.system {
        let [before, after] = [before, after].map(|case| case.system.to_string());
        remarks.push(Remark::note(format!("cluster: {before} in A, {after} in B")));
    }
    remarks
}

/// A case in words, with its load and what is done to it.
pub(super) fn describe(case: &Case) -> String {
    let mut text = format!("{case}, {}", case.load);
    case.faults.iter().for_each(|fault| text.push_str(&format!(", {fault}")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::case;
    use crate::report::sample;
    use crate::verify::Verified;

    #[test]
    fn a_case_is_what_is_asked_and_not_how_long() {
        let mut longer = case(2);
        longer.load.duration *= 3;
        longer.probes_per_second = 0;
        assert!(is_same(&case(2), &longer));
        let remarks: Vec<_> = differences(&case(2), &longer).into_iter().map(|remark| remark.text).collect();
        assert_eq!(remarks, ["measured for: 10s in A, 30s in B", "probes per second: 10 in A, 0 in B"]);
        assert!(!is_same(&case(2), &case(3)));
        let mut other = case(2);
        other.faults.push("3s pause 2".parse().unwrap());
        assert!(!is_same(&case(2), &other));
        assert!(describe(&other).ends_with("100000 keys, 3s pause 2"), "{}", describe(&other));
    }

    #[test]
    fn clusters_that_ran_already_are_the_same_case_at_another_address() {
        let connected = |server: &str| {
            let mut case = case(2);
            case.system = System::Connected(vec![server.to_owned()]);
            case
        };
        let (one, other) = (connected("a:1"), connected("b:1"));
        assert!(is_same(&one, &other) && !is_same(&one, &case(2)));
        assert_eq!(differences(&one, &other)[0].text, "cluster: a:1 in A, b:1 in B");
    }

    #[test]
    fn runs_that_were_cut_short_or_lost_writes_do_not_count() {
        let mut report = sample::whole();
        let (mut cut, mut lossy, mut late) = (sample::run(2), sample::run(2), sample::run(2));
        cut.interrupted = true;
        lossy.verified = Some(Verified { lost: 1, ..Verified::default() });
        (late.generator.fell_behind, late.others_share, late.writes.unknown) = (true, Some(0.5), 3);
        report.runs.extend([cut, lossy, late]);
        let all = repeats(&report);
        assert_eq!(all.iter().map(|repeats| repeats.runs.len()).collect::<Vec<_>>(), [1, 2, 1]);
        let remarks: Vec<_> = all[1].remarks("B").into_iter().map(|remark| remark.text).collect();
        assert_eq!(
            remarks,
            [
                "B LOST WRITES or had replicas that differ in 1 run, left out",
                "1 run of B cut short, left out",
                "3 writes of B failed",
                "the generator fell behind in 1 of 2 runs of B: the figures may be the generator's",
                "other programs used 26 % of the machine during the runs of B",
            ]
        );
        assert!(all[0].remarks("B").is_empty());
    }
}
