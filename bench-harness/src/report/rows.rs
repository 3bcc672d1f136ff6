//! A report as rows: one for each case, with the medians of its repeats. Every format for people is made of them.
//!
//! A row is named after its quorum and whatever else tells it from the other rows: what all have in common is said
//! once, above. Runs that were cut short count only where a case has no whole one.

use std::collections::BTreeMap;
use std::fmt;

use super::{Calls, Distribution, Follower, Report, Run};
use crate::plan::{Arrivals, Case, LeaderSettings, ReadFrom, System};
use crate::units::{counted, format_duration, show_count, show_us};

/// In place of a figure that there is none of.
pub(super) const NOT_MEASURED: &str = "–";

/// One case, and the runs that measured it: at least one.
pub(super) struct Row<'a> {
    /// The case, as it was measured.
    pub(super) case: &'a Case,
    /// Its repeats, in their order.
    pub(super) runs: Vec<&'a Run>,
    /// What tells it from other rows beside its quorum; empty if nothing does.
    pub(super) section: String,
    /// What it is called: its quorum and its section.
    pub(super) name: String,
    /// The same for all rows that differ in nothing but how much was asked.
    pub(super) curve: String,
    case_number: usize,
}

/// Medians of one follower over the repeats.
pub(super) struct FollowerRow {
    /// The follower.
    pub(super) node: u8,
    /// Lag in microseconds: median, 99th percentile and greatest; none if it acknowledged nothing.
    pub(super) lag_p50_us: Option<f64>,
    pub(super) lag_p99_us: Option<f64>,
    pub(super) lag_max_us: Option<f64>,
    /// The most entries that it was behind.
    pub(super) entries_behind_max: Option<f64>,
}

/// All rows, those of one section together, else in the order of the plan.
pub(super) fn rows(report: &Report) -> Vec<Row<'_>> {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for run in &report.runs {
        // The rates that a search for a goal tries are cases of their own with one number.
        match rows.iter_mut().find(|row| row.case_number == run.case_number && *row.case == run.case) {
            Some(row) => row.runs.push(run),
            None => rows.push(Row::of(run)),
        }
    }
    rows.sort_by_key(|row| row.case_number);
    for row in &mut rows {
        if row.runs.iter().any(|run| !run.interrupted) {
            row.runs.retain(|run| !run.interrupted);
        }
    }
    name(&mut rows);
    by_section(rows)
}

/// The sections, each with its rows.
pub(super) fn sections<'r, 'a>(rows: &'r [Row<'a>]) -> impl Iterator<Item = &'r [Row<'a>]> {
    rows.chunk_by(|one, next| one.section == next.section)
}

/// Gives each row its section and a name that no other row has.
fn name(rows: &mut [Row<'_>]) {
    let aspects: Vec<_> = rows.iter().map(|row| aspects(row.case)).collect();
    let telling = telling(&aspects);
    let (load, setting): (Vec<_>, Vec<_>) =
        telling.into_iter().partition(|number| aspects.iter().any(|aspects| aspects[*number].of == Of::Load));
    for (row, aspects) in rows.iter_mut().zip(&aspects) {
        let named = |section: &str| match section {
            "" => format!("quorum {}", row.case.quorum),
            section => format!("quorum {}, {section}", row.case.quorum),
        };
        row.curve = named(&words(aspects, setting.iter()));
        row.section = words(aspects, setting.iter().chain(&load));
        row.name = named(&row.section);
    }
    let names: Vec<_> = rows.iter().map(|row| row.name.clone()).collect();
    for row in rows {
        if names.iter().filter(|name| **name == row.name).count() > 1 {
            row.name = format!("{} (case {})", row.name, row.case_number + 1);
        }
    }
}

/// The numbers of the aspects that tell cases apart: those in which two differ that are alike in all telling ones
/// before. What always goes with the system, say, needs no word of its own.
fn telling(cases: &[Vec<Aspect>]) -> Vec<usize> {
    let mut telling: Vec<usize> = Vec::new();
    for number in 0..cases.first().map_or(0, Vec::len) {
        let text = |case: &[Aspect], number: usize| case[number].text.clone();
        let mut seen: BTreeMap<Vec<String>, String> = BTreeMap::new();
        let differs = cases.iter().any(|case| {
            let alike: Vec<_> = telling.iter().map(|told| text(case, *told)).collect();
            *seen.entry(alike).or_insert_with(|| text(case, number)) != text(case, number)
        });
        if differs {
            telling.push(number);
        }
    }
    telling
}

/// These aspects of a case. What is usual goes without saying beside what is not.
fn words<'n>(aspects: &[Aspect], numbers: impl Iterator<Item = &'n usize>) -> String {
    let (usual, special): (Vec<_>, Vec<_>) =
        numbers.map(|number| &aspects[*number]).partition(|aspect| aspect.is_usual);
    let told = if special.is_empty() { usual } else { special };
    told.iter().map(|aspect| &*aspect.text).collect::<Vec<_>>().join(", ")
}

/// Puts rows of one section beside each other, sections in the order of their first rows.
fn by_section(rows: Vec<Row<'_>>) -> Vec<Row<'_>> {
    let mut order: Vec<String> = Vec::new();
    for row in &rows {
        if !order.contains(&row.section) {
            order.push(row.section.clone());
        }
    }
    let mut rows = rows;
    rows.sort_by_key(|row| order.iter().position(|section| *section == row.section));
    rows
}

/// What an aspect is about.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Of {
    /// The cluster, or what is asked of it.
    Setting,
    /// How much is asked.
    Load,
}

/// One thing that cases can differ in beside the quorum, in words.
struct Aspect {
    of: Of,
    text: String,
    is_usual: bool,
}

/// All of them, the same number for each case.
fn aspects(case: &Case) -> Vec<Aspect> {
    let load = &case.load;
    let aspect = |of, is_usual, text: String| Aspect { of, text, is_usual };
    let setting = |is_usual, text| aspect(Of::Setting, is_usual, text);
    let listed = |words: Vec<String>, none: &str| {
        setting(words.is_empty(), if words.is_empty() { none.to_owned() } else { words.join("; ") })
    };
    let reads = match (load.reads, load.read_from) {
        (reads, _) if reads <= 0.0 => "no reads".to_owned(),
        (reads, ReadFrom::Leader) => format!("{} % reads from the leader", percent(reads)),
        (reads, ReadFrom::Followers) => format!("{} % reads from followers", percent(reads)),
    };
    let arrivals = match load.arrivals {
        Arrivals::Closed => "closed loop".to_owned(),
        Arrivals::Open { per_second, .. } => format!("{} calls/s", count(Some(per_second))),
    };
    let busy_poll = match case.busy_poll {
        None => "busy poll as the server has it".to_owned(),
        Some(time) => format!("busy poll {}", format_duration(time)),
    };
    let clients = format!("{} × {} in flight", counted(load.clients.into(), "client"), load.in_flight);
    vec![
        setting(false, system(&case.system)),
        setting(false, counted(case.replicas.into(), "replica")),
        setting(false, case.durability.to_string()),
        setting(case.leadership == LeaderSettings::default(), case.leadership.to_string()),
        setting(case.busy_poll.is_none(), busy_poll),
        aspect(Of::Load, false, arrivals),
        aspect(Of::Load, false, clients),
        setting(load.reads <= 0.0, reads),
        setting(false, format!("{} values", load.value_bytes)),
        setting(false, format!("{} ({})", counted(load.keys, "key"), load.distribution)),
        setting(false, format!("measured for {}", format_duration(load.duration))),
        listed(case.links.iter().map(ToString::to_string).collect(), "no slow links"),
        listed(case.faults.iter().map(ToString::to_string).collect(), "no faults"),
    ]
}

/// A system as a reader calls it.
pub(super) fn system(system: &System) -> String {
    match system {
        System::Quorate => "quorate".to_owned(),
        System::Connected(servers) => format!("the cluster at {}", servers.join(", ")),
        System::Peer(peer) => peer.to_string(),
    }
}

impl<'a> Row<'a> {
    fn of(run: &'a Run) -> Self {
        Self {
            case: &run.case,
            runs: vec![run],
            section: String::new(),
            name: String::new(),
            curve: String::new(),
            case_number: run.case_number,
        }
    }

    /// The median over the repeats of what they have of a figure.
    pub(super) fn median(&self, figure: impl Fn(&Run) -> Option<f64>) -> Option<f64> {
        median(self.runs.iter().filter_map(|run| figure(run)).collect())
    }

    /// Acknowledged writes per second.
    pub(super) fn writes_per_second(&self) -> Option<f64> {
        self.median(|run| Some(run.writes.per_second))
    }

    /// A figure of the latency of writes, in microseconds; none if nothing was acknowledged.
    pub(super) fn latency_us(&self, figure: impl Fn(&Distribution) -> f64) -> Option<f64> {
        self.median(|run| (run.writes.latency_us.count > 0).then(|| figure(&run.writes.latency_us)))
    }

    /// A figure of reads; none if there were none.
    pub(super) fn reads(&self, figure: impl Fn(&Calls) -> f64) -> Option<f64> {
        self.median(|run| run.reads.as_ref().map(&figure))
    }

    /// How far a repeat's rate is from the median at most, as a part of it; none for a single run.
    pub(super) fn spread(&self) -> Option<f64> {
        let median = self.writes_per_second().filter(|median| self.runs.len() > 1 && *median > 0.0)?;
        let distances = self.runs.iter().map(|run| (run.writes.per_second - median).abs() / median);
        distances.reduce(f64::max)
    }

    /// The repeat whose rate is the median one: whose curves are drawn.
    pub(super) fn typical(&self) -> &'a Run {
        let mut by_rate = self.runs.clone();
        by_rate.sort_by(|one, other| one.writes.per_second.total_cmp(&other.writes.per_second));
        by_rate[(by_rate.len() - 1) / 2]
    }

    /// How many times the floor the median latency is.
    pub(super) fn times_floor(&self) -> Option<f64> {
        self.median(|run| run.floor.as_ref()?.multiple(run.writes.latency_us.p50 as u64))
    }

    /// Each follower that a run tells of.
    pub(super) fn followers(&self) -> Vec<FollowerRow> {
        let mut nodes: Vec<u8> =
            self.runs.iter().flat_map(|run| &run.followers).map(|follower| follower.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.into_iter().map(|node| self.follower(node)).collect()
    }

    fn follower(&self, node: u8) -> FollowerRow {
        let of = |figure: &dyn Fn(&Follower) -> Option<f64>| {
            self.median(|run| run.followers.iter().find(|follower| follower.node == node).and_then(figure))
        };
        FollowerRow {
            node,
            lag_p50_us: of(&|follower| Some(follower.lag_us.as_ref()?.p50)),
            lag_p99_us: of(&|follower| Some(follower.lag_us.as_ref()?.p99)),
            lag_max_us: of(&|follower| Some(follower.lag_us.as_ref()?.max)),
            entries_behind_max: of(&|follower| Some(follower.entries_behind_max as f64)),
        }
    }

    /// Whether it was asked only as fast as it answered.
    pub(super) fn is_closed(&self) -> bool {
        self.case.load.arrivals == Arrivals::Closed
    }

    /// What came of verification, in a word or a number.
    pub(super) fn verified(&self) -> String {
        let found: Vec<_> = self.runs.iter().filter_map(|run| run.verified.as_ref()).collect();
        let lost: u64 = found.iter().map(|verified| verified.lost).sum();
        if lost > 0 {
            return format!("{} LOST", show_count(lost));
        }
        if found.iter().any(|verified| !verified.is_clean()) {
            return "DIFFER".to_owned();
        }
        match found.first() {
            Some(_) if found.len() < self.runs.len() => "in part".to_owned(),
            Some(verified) => show_count(verified.keys),
            None if self.runs[0].is_quorate() => "no".to_owned(),
            None => NOT_MEASURED.to_owned(),
        }
    }
}

/// The middle one, or the mean of the two in the middle; none of none.
pub(super) fn median(mut numbers: Vec<f64>) -> Option<f64> {
    numbers.sort_by(f64::total_cmp);
    let middle = numbers.len() / 2;
    match numbers.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(numbers[middle]),
        _ => Some((numbers[middle - 1] + numbers[middle]) / 2.0),
    }
}

/// Shows microseconds, or that there are none.
pub(super) fn us(micros: Option<f64>) -> String {
    micros.map_or(NOT_MEASURED.to_owned(), |micros| show_us(micros.round() as u64))
}

/// Shows a count or a rate; one below 10 with its fraction.
pub(super) fn count(number: Option<f64>) -> String {
    match number {
        None => NOT_MEASURED.to_owned(),
        Some(number) if number < 10.0 && number.fract() != 0.0 => format!("{number:.1}"),
        Some(number) => show_count(number.round() as u64),
    }
}

/// Shows a part of a whole in percent, with a fraction only where it is small.
pub(super) fn percent(part: f64) -> Percent {
    Percent(part * 100.0)
}

/// A percentage without its sign.
pub(super) struct Percent(f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = usize::from(self.0.abs() < 10.0 && (self.0 - self.0.round()).abs() >= 0.05);
        write!(f, "{:.decimals$}", self.0)
    }
}

/// Shows a rate with the spread of its repeats, if there are several.
pub(super) fn rate(row: &Row<'_>) -> String {
    let rate = count(row.writes_per_second());
    match row.spread() {
        Some(spread) => format!("{rate} ±{} %", percent(spread)),
        None => rate,
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{report, run, whole};
    use super::*;
    use crate::plan::NodeLink;

    fn names(report: &Report) -> Vec<String> {
        rows(report).into_iter().map(|row| row.name).collect()
    }

    #[test]
    fn rows_are_named_after_what_tells_them_apart() {
        let mut report = whole();
        assert_eq!(names(&report), ["quorum 1", "quorum 2", "quorum 3"]);
        report.runs[1].case.links.push(NodeLink { node: 2, link: "5ms".parse().unwrap() });
        assert_eq!(
            names(&report),
            ["quorum 1, no slow links", "quorum 3, no slow links", "quorum 2, link 2 = 5ms"],
            "rows of one section stand together"
        );
        report.runs[1].case.system = System::Peer(crate::peers::PeerKind::Redis);
        assert_eq!(
            names(&report),
            ["quorum 1, quorate", "quorum 3, quorate", "quorum 2, redis"],
            "what goes with the system needs no word"
        );
        report.runs[1] = report.runs[0].clone();
        report.runs[1].case_number = 1;
        assert_eq!(names(&report), ["quorum 1 (case 1)", "quorum 1 (case 2)", "quorum 3"]);
    }

    #[test]
    fn repeats_are_one_row_of_medians() {
        let mut report = report();
        report.runs = [30_000.0, 50_000.0, 40_000.0]
            .map(|rate| {
                let mut run = run(2);
                run.writes.per_second = rate;
                run
            })
            .into();
        let rows = rows(&report);
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].writes_per_second(), rows[0].spread()), (Some(40_000.0), Some(0.25)));
        assert_eq!(rate(&rows[0]), "40,000 ±25 %");
        assert_eq!(rows[0].typical().writes.per_second, 40_000.0);
    }

    #[test]
    fn a_run_that_was_cut_short_counts_only_if_there_is_no_other() {
        let mut report = report();
        report.runs = vec![run(2), run(2)];
        (report.runs[1].interrupted, report.runs[1].writes.per_second) = (true, 1.0);
        assert_eq!(rows(&report)[0].runs.len(), 1);
        assert_eq!(rows(&report)[0].writes_per_second(), Some(39_000.0));
        report.runs.remove(0);
        assert_eq!(rows(&report)[0].writes_per_second(), Some(1.0));
    }

    #[test]
    fn what_is_missing_is_a_dash() {
        let mut report = report();
        report.runs = vec![run(2)];
        report.runs[0].writes.latency_us = Distribution::default();
        let rows = rows(&report);
        assert_eq!(us(rows[0].latency_us(|latency| latency.p50)), NOT_MEASURED);
        assert_eq!((median(vec![]), median(vec![4.0, 1.0, 2.0, 3.0])), (None, Some(2.5)));
        assert_eq!([0.0, 1.25, 12.3].map(|n| count(Some(n))), ["0", "1.2", "12"]);
    }
}
