//! How equal runs of one report differ among themselves: what a comparison calls a difference where there is none.
//!
//! The runs of a case are divided in two ways, and each pair of groups compared as two reports would be:
//!
//! - **At random**, many times. What is called a difference then is the test's own false alarms: it must keep to what it
//!   promises, whatever the noise.
//! - **By time**: every group of consecutive runs with every other. What is called a difference beyond the false alarms
//!   is the machine's: it drifts, and two reports that were made one after the other differ by as much.

use serde::Serialize;

use super::cases::{self, Repeats};
use super::figures::Figure;
use super::statistics::{false_alarms, mann_whitney_p, median, runs_needed, spread};
use super::{SCHEMA, key};
use crate::failure::Failure;
use crate::report::Report;

/// Random divisions of the runs of a case.
const SPLITS: usize = 100;

/// Fewest runs in a group; more if alpha asks for more.
const GROUP_MIN: usize = 5;

/// What the divisions are drawn from: the same report gives the same answer.
const SEED: u64 = 1;

/// How equal runs differ.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EqualRuns {
    /// Version of the JSON: that of comparisons.
    pub schema: u32,
    /// The report, as it was named.
    pub report: String,
    /// How rarely chance alone may be called a difference, for each figure.
    pub alpha: f64,
    /// Runs in each group.
    pub group_runs: usize,
    /// Random divisions of each case.
    pub splits: usize,
    /// How many of them are expected to be called different, for each figure.
    pub called_expected: f64,
    /// Every case that has enough runs.
    pub cases: Vec<EqualCase>,
    /// Cases that have too few.
    pub left_out: Vec<String>,
}

/// How the runs of one case differ.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EqualCase {
    /// The case, in words.
    pub case: String,
    /// Runs that count.
    pub runs: usize,
    /// Pairs of groups by time.
    pub pairs_by_time: usize,
    /// Every figure that all runs have.
    pub figures: Vec<EqualFigure>,
}

/// How one figure differs among equal runs.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct EqualFigure {
    /// Its [`Figure`].
    #[serde(rename = "figure", serialize_with = "key")]
    pub of: &'static Figure,
    /// Median of all runs.
    pub median: f64,
    /// Greatest less least, as a part of the median.
    pub spread: Option<f64>,
    /// Random divisions that were called different.
    pub called: usize,
    /// Pairs of groups by time that were called different.
    pub called_by_time: usize,
}

impl EqualRuns {
    /// Checks every case of a report of this name that has two groups of runs. A report that has none is wrong use.
    pub fn check(
        name: String,
        report: &Report,
        figures: &[&'static Figure],
        alpha: f64,
    ) -> Result<Self, Failure> {
        let group_runs = runs_needed(alpha).max(GROUP_MIN);
        let all = cases::repeats(report);
        let (enough, too_few): (Vec<_>, Vec<_>) =
            all.iter().partition(|repeats| repeats.runs.len() >= 2 * group_runs);
        if enough.is_empty() {
            let most = all.iter().map(|repeats| repeats.runs.len()).max().unwrap_or_default();
            return Err(Failure::WrongUse(format!(
                "{name} has at most {most} equal runs, too few to compare among themselves: measure with --repeats {} \
                 or more, or name a second report",
                2 * group_runs
            )));
        }
        let check = |repeats: &&Repeats<'_>| EqualCase::check(repeats, figures, group_runs, alpha);
        Ok(Self {
            schema: SCHEMA,
            report: name,
            alpha,
            group_runs,
            splits: SPLITS,
            called_expected: SPLITS as f64 * false_alarms(group_runs, group_runs, alpha),
            cases: enough.iter().map(check).collect(),
            left_out: too_few.iter().map(|repeats| cases::describe(repeats.case)).collect(),
        })
    }
}

impl EqualCase {
    fn check(repeats: &Repeats<'_>, figures: &[&'static Figure], group_runs: usize, alpha: f64) -> Self {
        let groups = repeats.runs.len() / group_runs;
        let check = |figure: &&'static Figure| {
            let numbers = figure.of_runs(&repeats.runs);
            (numbers.len() == repeats.runs.len()).then_some(())?;
            Some(EqualFigure {
                of: figure,
                median: median(&numbers)?,
                spread: spread(&numbers),
                called: called_at_random(&numbers, group_runs, alpha),
                called_by_time: called_by_time(&numbers, group_runs, alpha),
            })
        };
        Self {
            case: cases::describe(repeats.case),
            runs: repeats.runs.len(),
            pairs_by_time: groups * (groups - 1) / 2,
            figures: figures.iter().filter_map(check).collect(),
        }
    }
}

/// Of two groups drawn at random, many times over. Every figure is divided in the same ways.
fn called_at_random(numbers: &[f64], group_runs: usize, alpha: f64) -> usize {
    let mut random = fastrand::Rng::with_seed(SEED);
    let mut numbers = numbers.to_vec();
    (0..SPLITS)
        .filter(|_| {
            random.shuffle(&mut numbers);
            let (before, after) = numbers[..2 * group_runs].split_at(group_runs);
            mann_whitney_p(before, after) <= alpha
        })
        .count()
}

/// Of every two groups of consecutive runs.
fn called_by_time(numbers: &[f64], group_runs: usize, alpha: f64) -> usize {
    let groups: Vec<_> = numbers.chunks_exact(group_runs).collect();
    let pairs = groups
        .iter()
        .enumerate()
        .flat_map(|(place, one)| groups[place + 1..].iter().map(move |other| (one, other)));
    pairs.filter(|(one, other)| mann_whitney_p(one, other) <= alpha).count()
}

#[cfg(test)]
mod tests {
    use super::super::figures::FIGURES;
    use super::super::statistics::tests::noisy;
    use super::*;
    use crate::report::sample;

    const RUNS: usize = 40;

    fn assert_few_are_called(numbers: &[f64]) {
        let called = called_at_random(numbers, 5, 0.01);
        assert!(called <= 3, "{called} of {SPLITS} divisions of equal runs are called different");
    }

    #[test]
    fn of_a_hundred_divisions_of_forty_equal_runs_at_most_three_are_called_different() {
        let mut random = fastrand::Rng::with_seed(1);
        for noise in [0.001, 0.03, 0.5] {
            let plain: Vec<_> = (0..RUNS).map(|_| noisy(&mut random, 39_000.0, noise)).collect();
            let drifting = plain.iter().enumerate().map(|(run, number)| number * (1.0 + run as f64 / 50.0));
            let outliers =
                plain.iter().map(|number| if random.u8(0..5) == 0 { number * 9.0 } else { *number });
            assert_few_are_called(&drifting.collect::<Vec<_>>());
            assert_few_are_called(&outliers.collect::<Vec<_>>());
            assert_few_are_called(&plain);
        }
        assert_few_are_called(&[7.0; RUNS]);
    }

    #[test]
    fn a_machine_that_drifts_shows_in_the_groups_by_time() {
        let mut random = fastrand::Rng::with_seed(2);
        let steady: Vec<_> = (0..RUNS).map(|_| noisy(&mut random, 1_000.0, 0.03)).collect();
        let drifting: Vec<_> =
            steady.iter().enumerate().map(|(run, number)| number * (1.0 + run as f64 / 50.0)).collect();
        assert!(called_by_time(&steady, 5, 0.01) <= 1);
        assert!(called_by_time(&drifting, 5, 0.01) > 20, "of 28 pairs most lie apart");
    }

    #[test]
    fn cases_with_too_few_runs_are_left_out_and_a_report_of_such_alone_is_refused() {
        let figures: Vec<_> = FIGURES.iter().collect();
        let mut report = sample::whole();
        let Err(Failure::WrongUse(advice)) = EqualRuns::check("A".to_owned(), &report, &figures, 0.01) else {
            panic!("single runs are checked")
        };
        assert!(advice.contains("at most 1 equal runs") && advice.contains("--repeats 10"), "{advice}");
        report.runs.extend(vec![sample::run(2); 9]);
        let equal = EqualRuns::check("A".to_owned(), &report, &figures, 0.01).unwrap();
        assert_eq!((equal.cases.len(), equal.left_out.len(), equal.group_runs), (1, 2, 5));
        assert_eq!((equal.cases[0].runs, equal.cases[0].pairs_by_time), (10, 1));
        assert!(equal.cases[0].figures.iter().all(|figure| figure.called + figure.called_by_time == 0));
        assert!(equal.cases[0].figures.len() > 10);
    }
}
