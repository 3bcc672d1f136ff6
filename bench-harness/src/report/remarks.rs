//! What a reader must not miss beside the figures, in sentences: what went wrong, what was done to the cluster,
//! and what makes the figures doubtful.

use super::rows::{Row, count, percent, us};
use super::{Calls, CatchUp, Goal, Report, Run, State};
use crate::units::{counted, show_bytes, show_count, show_us};
use crate::verify::Verified;

/// Part of the machine that others may use before it is worth a remark.
const OTHERS_SHARE: f64 = 0.05;

/// What holds for the whole report.
pub(super) fn of_report(report: &Report) -> Vec<String> {
    let environment = &report.environment;
    let mut remarks = Vec::new();
    match report.state {
        State::Complete => {}
        State::Running => remarks.push(
            "Not all that was asked for was measured yet: the harness still runs, or was killed.".to_owned(),
        ),
        State::Interrupted | State::Failed => {
            remarks.push("Not all that was asked for was measured.".to_owned())
        }
    }
    if let Some(error) = report.error.as_ref().filter(|_| report.state == State::Failed) {
        remarks.push(format!("It failed: {error}"));
    }
    if environment.profile == "debug" {
        remarks.push("This is a debug build: for figures that count, build with --release.".to_owned());
    }
    if environment.data_is_in_memory() {
        remarks.push(format!(
            "The nodes' data was in memory ({}), where a sync costs nothing: choose a --data-dir on a disk.",
            environment.file_system
        ));
    }
    if !environment.fsync.settled {
        remarks.push(format!(
            "The disk was not at rest when the harness started: its syncs took from {} (10th percentile) over {} \
             (median) to {} (99th).",
            show_us(environment.fsync.p10_us),
            show_us(environment.fsync.p50_us),
            show_us(environment.fsync.p99_us)
        ));
    }
    remarks.extend(report.goal.as_ref().map(goal));
    remarks
}

/// What came of a search.
fn goal(goal: &Goal) -> String {
    let trials: Vec<_> = goal
        .trials
        .iter()
        .map(|trial| {
            let kept = if trial.kept { "kept" } else { "missed" };
            format!("{} {kept} with {}", count(Some(trial.asked_per_second)), us(Some(trial.latency_us)))
        })
        .collect();
    let found = match goal.per_second {
        Some(rate) => format!("the highest rate that kept it is {} calls/s", count(Some(rate))),
        None => "no rate that was tried kept it".to_owned(),
    };
    format!("Goal {}: {found} (tried: {}).", goal.goal, trials.join(", "))
}

/// What holds for single runs, each remark once with the names of its runs.
pub(super) fn of_rows(rows: &[Row<'_>]) -> Vec<String> {
    let mut grouped: Vec<(String, Vec<(usize, u32)>)> = Vec::new();
    for (row, run) in
        rows.iter().enumerate().flat_map(|(number, row)| row.runs.iter().map(move |run| (number, run)))
    {
        for remark in of_run(run) {
            match grouped.iter_mut().find(|(text, _)| *text == remark) {
                Some((_, runs)) => runs.push((row, run.repeat)),
                None => grouped.push((remark, vec![(row, run.repeat)])),
            }
        }
    }
    let of_runs = grouped.into_iter().map(|(remark, runs)| format!("{}: {remark}", names(rows, &runs)));
    others(rows).into_iter().chain(of_runs).collect()
}

/// What others used while runs were made, if that is enough to disturb them.
fn others(rows: &[Row<'_>]) -> Option<String> {
    let share = |row: &Row<'_>| row.runs.iter().filter_map(|run| run.others_share).reduce(f64::max);
    let (share, row) = rows
        .iter()
        .filter_map(|row| Some((share(row)?, row)))
        .max_by(|(one, _), (other, _)| one.total_cmp(other))
        .filter(|(share, _)| *share > OTHERS_SHARE)?;
    Some(format!(
        "Other programs used up to {} % of the machine while runs were made (most beside {}).",
        percent(share),
        row.name
    ))
}

/// Runs by the names of their rows, with their repeats unless it is all of a row; all together if it is all.
fn names(rows: &[Row<'_>], runs: &[(usize, u32)]) -> String {
    if rows.len() > 1 && runs.len() == rows.iter().map(|row| row.runs.len()).sum::<usize>() {
        return "all cases".to_owned();
    }
    let of_a_row = |of: &[(usize, u32)]| {
        let row = &rows[of[0].0];
        let repeats: Vec<_> = of.iter().map(|(_, repeat)| repeat.to_string()).collect();
        match (of.len() == row.runs.len(), repeats.len()) {
            (true, _) => row.name.clone(),
            (false, 1) => format!("{}, repeat {}", row.name, repeats[0]),
            (false, _) => format!("{}, repeats {}", row.name, repeats.join(" and ")),
        }
    };
    let of_a_section = |of: &[(usize, u32)]| {
        let section = &rows[of[0].0].section;
        let all: Vec<_> = rows.iter().filter(|row| row.section == *section).collect();
        match all.len() > 1 && of.len() == all.iter().map(|row| row.runs.len()).sum::<usize>() {
            true => format!("{section}, all quorums"),
            false => of.chunk_by(|one, next| one.0 == next.0).map(of_a_row).collect::<Vec<_>>().join("; "),
        }
    };
    let same_section = |one: &(usize, u32), next: &(usize, u32)| rows[one.0].section == rows[next.0].section;
    runs.chunk_by(same_section).map(of_a_section).collect::<Vec<_>>().join("; ")
}

fn of_run(run: &Run) -> Vec<String> {
    let mut remarks = Vec::new();
    if run.interrupted {
        remarks.push(format!("interrupted after {:.1} s, and not verified", run.duration_s));
    }
    remarks.extend(calls(&run.writes, "write"));
    remarks.extend(run.reads.as_ref().and_then(|reads| calls(reads, "read")));
    remarks.extend(run.verified.iter().flat_map(verified));
    let generator = &run.generator;
    if generator.fell_behind {
        remarks.push(format!(
            "the generator fell behind and may have shaped the figures: {} of {} calls left late, p99 of the delay {}",
            show_count(generator.late),
            show_count(generator.scheduled),
            us(Some(generator.schedule_lag_us.p99))
        ));
    }
    if !run.events.is_empty() {
        let events: Vec<_> =
            run.events.iter().map(|event| format!("{} s {}", seconds(event.t_s), event.what)).collect();
        remarks.push(format!("done to it: {}", events.join(", ")));
    }
    remarks.extend(leaders(run));
    remarks.extend(run.catch_ups.iter().map(catch_up));
    for follower in run.followers.iter().filter(|follower| follower.probes_failed > 0) {
        let failed = counted(follower.probes_failed, "probe");
        remarks.push(format!("node {} did not answer {failed} in time", follower.node));
    }
    remarks
}

/// Calls that were not acknowledged, and why.
fn calls(calls: &Calls, kind: &str) -> Option<String> {
    let mut outcomes = Vec::new();
    if calls.refused > 0 {
        outcomes.push(format!("{} {kind}{} refused", show_count(calls.refused), plural(calls.refused)));
    }
    if calls.unknown > 0 {
        let unknown = calls.unknown;
        outcomes.push(format!("{} {kind}{} with an unknown outcome", show_count(unknown), plural(unknown)));
    }
    if outcomes.is_empty() {
        return None;
    }
    let reasons: Vec<_> =
        calls.reasons.iter().map(|(reason, calls)| format!("{reason}: {}", show_count(*calls))).collect();
    let reasons = if reasons.is_empty() { String::new() } else { format!(" ({})", reasons.join(", ")) };
    Some(format!("{}{reasons}", outcomes.join(" and ")))
}

fn plural(count: u64) -> &'static str {
    if count == 1 { "" } else { "s" }
}

fn verified(verified: &Verified) -> Vec<String> {
    let mut remarks = Vec::new();
    if verified.lost > 0 {
        let first = verified.first.as_ref().map_or(String::new(), |first| format!(", the first: {first}"));
        remarks.push(format!("{} KEYS LOST OR WRONG{first}", show_count(verified.lost)));
    }
    if !verified.differing.is_empty() {
        remarks.push(format!("REPLICAS DIFFER from the leader: {:?}", verified.differing));
    }
    remarks
}

/// Changes of the leader, and what they mean for the figures.
fn leaders(run: &Run) -> Vec<String> {
    let is_of_a_cluster = run.peer.is_none();
    let led = run.nodes.iter().find(|node| node.leader);
    let mut remarks = Vec::new();
    if !run.leaders.is_empty() {
        let each: Vec<_> = run
            .leaders
            .iter()
            .map(|seen| format!("{} s node {} in term {}", seconds(seen.t_s), seen.node, seen.term))
            .collect();
        let times = match run.leaders.len() {
            1 => "once".to_owned(),
            2 => "twice".to_owned(),
            times => format!("{times} times"),
        };
        let lag = match led {
            Some(node) => format!("; lag is what node {} saw since it leads", node.node),
            None => String::new(),
        };
        remarks.push(format!("THE LEADER CHANGED {times}: {}{lag}", each.join(", ")));
    }
    if is_of_a_cluster && led.is_none() && !run.nodes.is_empty() {
        remarks.push("NOBODY LED at the end: nothing is known of lag".to_owned());
    }
    remarks
}

/// A follower's way back, in words.
pub(super) fn catch_up(catch_up: &CatchUp) -> String {
    let behind = format!(
        "node {} was {} entries ({}) behind at {} s",
        catch_up.node,
        show_count(catch_up.entries),
        show_bytes(catch_up.bytes),
        seconds(catch_up.t_s)
    );
    match catch_up.drained_s {
        Some(drained) if drained < 0.05 => format!("{behind} and caught up at once"),
        Some(drained) => format!("{behind} and caught up within {} s", seconds(drained)),
        None => format!("{behind} and had not caught up when the run ended"),
    }
}

/// Seconds, to a hundredth, without zeros at the end.
pub(super) fn seconds(seconds: f64) -> String {
    let shown = format!("{seconds:.2}");
    shown.trim_end_matches('0').trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::super::sample::{report, run, run_with_a_pause};
    use super::super::{Trial, rows::rows};
    use super::*;
    use crate::failure::Failure;

    fn remarks(change: impl FnOnce(&mut Run)) -> String {
        let mut run = run(3);
        change(&mut run);
        let mut report = report();
        report.runs = vec![run];
        of_rows(&rows(&report)).join("\n")
    }

    #[test]
    fn a_good_run_needs_no_remark() {
        assert_eq!(remarks(|_| ()), "");
        assert_eq!(of_report(&super::super::sample::whole()), [""; 0]);
    }

    #[test]
    fn calls_without_success_are_told_with_their_reasons() {
        let said = remarks(|run| {
            (run.writes.refused, run.writes.unknown) = (1_200, 1);
            run.writes.reasons = [("no quorum".to_owned(), 1_200), ("deadline".to_owned(), 1)].into();
        });
        assert_eq!(
            said,
            "quorum 3: 1,200 writes refused and 1 write with an unknown outcome (deadline: 1, no quorum: 1,200)"
        );
    }

    #[test]
    fn losses_cannot_be_missed() {
        let verified = Verified { lost: 2, differing: vec![3], ..Verified::default() };
        let said = remarks(|run| run.verified = Some(verified));
        assert_eq!(said, "quorum 3: 2 KEYS LOST OR WRONG\nquorum 3: REPLICAS DIFFER from the leader: [3]");
    }

    #[test]
    fn doubtful_figures_are_told() {
        let said = remarks(|run| {
            (run.interrupted, run.duration_s) = (true, 3.21);
            (run.generator.fell_behind, run.generator.late) = (true, 99);
            run.others_share = Some(0.2);
            run.followers[0].probes_failed = 1;
        });
        for phrase in [
            "interrupted after 3.2 s",
            "99 of 390,000 calls left late",
            "up to 20 % of the machine",
            "1 probe",
        ] {
            assert!(said.contains(phrase), "{phrase}: {said}");
        }
    }

    #[test]
    fn a_remark_about_several_runs_is_made_once() {
        let mut report = report();
        report.runs = vec![run(1), run(2), run(2), run(2)];
        report.runs.iter_mut().enumerate().for_each(|(number, run)| run.repeat = number.max(1) as u32);
        let said = |report: &Report| of_rows(&rows(report));
        let refuse = |runs: &mut [Run]| runs.iter_mut().for_each(|run| run.writes.refused = 1);
        refuse(&mut report.runs[2..]);
        assert_eq!(said(&report), ["quorum 2, repeats 2 and 3: 1 write refused"]);
        refuse(&mut report.runs[1..]);
        assert_eq!(said(&report), ["quorum 2: 1 write refused"]);
        refuse(&mut report.runs);
        assert_eq!(said(&report), ["all cases: 1 write refused"]);
    }

    #[test]
    fn faults_and_what_came_of_them_are_told() {
        let mut report = report();
        report.runs = vec![run_with_a_pause()];
        let catch_ups = &mut report.runs[0].catch_ups;
        catch_ups.push(CatchUp { drained_s: None, ..catch_ups[0].clone() });
        let said = of_rows(&rows(&report)).join("\n");
        for phrase in ["done to it: 2.5 s pause 3, 5 s resume 3", "within 0.4 s", "had not caught up"] {
            assert!(said.contains(phrase), "{phrase}: {said}");
        }
    }

    #[test]
    fn conditions_that_spoil_a_report_are_told() {
        let mut report = report();
        report.environment.profile = "debug".to_owned();
        report.environment.file_system = "tmpfs".to_owned();
        report.environment.fsync.settled = false;
        report.close(Err(&Failure::Lost("3 keys".to_owned())));
        let trial =
            |rate, kept| Trial { asked_per_second: rate, per_second: rate, latency_us: 4_000.0, kept };
        report.goal = Some(Goal {
            goal: "p99=5ms".to_owned(),
            per_second: Some(20_000.0),
            trials: vec![trial(20_000.0, true), trial(40_000.0, false)],
        });
        let said = of_report(&report).join("\n");
        for phrase in [
            "Not all",
            "It failed: 3 keys",
            "debug build",
            "in memory (tmpfs)",
            "not at rest",
            "kept it is 20,000 calls/s",
            "40,000 missed with 4.00 ms",
        ] {
            assert!(said.contains(phrase), "{phrase}: {said}");
        }
    }
}
