//! What changed from one report to another, and whether that may be chance; or how equal runs of one report differ
//! among themselves.
//!
//! Cases are matched by what they are, their [`figures`] tested over the repeats ([`statistics`]), and whatever else
//! differs between the reports is said above the figures. A figure gets a verdict only from enough repeats; never from
//! single runs.
//!
//! Each figure is tested at alpha by itself. A correction for their number would ask more of p than a few repeats can
//! give: with 5 against 5 nothing could ever be significant. So the comparison says how many figures it judged and how
//! many of them are expected to be called different though nothing changed; who wants fewer false alarms chooses fewer
//! figures or a smaller alpha with more repeats.
//!
//! # JSON
//!
//! [`Comparison`] or [`EqualRuns`], as their fields are named (`schema` 1): fields are added, never renamed. Numbers
//! of figures are in the unit that ends the figure's name; changes, tolerances and spreads are parts, 0.1 for 10 %.
//! What cannot be said is null.

mod cases;
mod context;
mod equal_runs;
pub mod figures;
pub mod statistics;
mod table;

use std::fmt;

use serde::Serialize;

use crate::failure::Failure;
use crate::options::{Compare, CompareFormat};
use crate::report::Report;
use crate::units::counted;
use cases::Repeats;
use figures::{Better, Figure};
use statistics::{Shift, can_show, false_alarms, mann_whitney_p, median, runs_needed, shift, spread};

pub use equal_runs::{EqualCase, EqualFigure, EqualRuns};

/// Version of the JSON.
pub const SCHEMA: u32 = 1;

/// Most figures that got worse that the last words of a comparison name.
const NAMED_MAX: usize = 3;

/// What is printed, and how the command ends.
#[derive(Debug)]
pub struct Answer {
    /// For standard output.
    pub text: String,
    /// For standard error, if no figure could be judged.
    pub warning: Option<String>,
    /// [`Failure::Worse`] if something got worse by more than the tolerance.
    pub end: Result<(), Failure>,
}

/// What changed from one report to another.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Comparison {
    /// [`SCHEMA`]
    pub schema: u32,
    /// A: the report before, as it was named.
    pub before: String,
    /// B: the report after.
    pub after: String,
    /// How rarely chance alone may be called a difference, for each figure.
    pub alpha: f64,
    /// How much worse a figure may get before the comparison fails.
    pub tolerance: f64,
    /// What else differs between the reports.
    pub remarks: Vec<Remark>,
    /// Every case that is in both, in A's order.
    pub cases: Vec<CaseComparison>,
    /// Cases that are in A alone.
    pub only_before: Vec<String>,
    /// Cases that are in B alone.
    pub only_after: Vec<String>,
    /// Figures that had enough repeats for a verdict.
    pub figures_judged: usize,
    /// How many of them are expected to be called different if nothing changed.
    pub false_alarms_expected: f64,
}

/// What changed in one case.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct CaseComparison {
    /// The case, in words.
    pub case: String,
    /// Runs of A and B that count.
    pub runs: [usize; 2],
    /// What a reader must know about them.
    pub remarks: Vec<Remark>,
    /// Every figure that both have.
    pub figures: Vec<FigureComparison>,
}

/// What changed in one figure.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct FigureComparison {
    /// Its [`Figure`].
    #[serde(rename = "figure", serialize_with = "key")]
    pub of: &'static Figure,
    /// Which way is better.
    pub better: Better,
    /// Runs of A and B in which it was measured.
    pub runs: [usize; 2],
    /// Medians of A and B.
    pub median: [f64; 2],
    /// The Hodges–Lehmann estimate of the change; null if a run had 0, of which there is no ratio.
    pub change: Option<f64>,
    /// From where to where the change lies, with a confidence of one minus alpha; null if the runs are too few.
    pub interval: Option<[f64; 2]>,
    /// How likely runs that differ as much or more are if nothing changed; null if the runs are too few.
    pub p: Option<f64>,
    /// How much A's own runs differ: greatest less least, as a part of the median. Null if there is but one.
    pub spread_before: Option<f64>,
    /// What can be said.
    pub verdict: Verdict,
    /// How many more runs of A and B it takes to say it; 0 if there is a verdict.
    pub runs_lacking: [usize; 2],
}

/// What can be said of a figure.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It got better, and chance alone would rarely look like that.
    Better,
    /// It got worse, and chance alone would rarely look like that.
    Worse,
    /// Chance may look like that; there may still be a difference that so few runs do not show.
    NoDifferenceShown,
    /// The runs are too few to tell any difference from chance.
    NoVerdict,
}

/// Something that a reader must know beside the figures.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Remark {
    /// Whether it may explain every change.
    pub warning: bool,
    /// In words.
    pub text: String,
}

/// Carries out `bench-harness compare`.
pub fn compare(options: &Compare) -> Result<Answer, Failure> {
    let before = Report::load(&options.before)?;
    let figures = options.figures();
    let name = options.before.display().to_string();
    let Some(after) = &options.after else {
        let equal = EqualRuns::check(name, &before, &figures, options.alpha)?;
        let text = table::render_equal_runs(&equal, options.format);
        return Ok(Answer { text, warning: None, end: Ok(()) });
    };
    let names = [name, after.display().to_string()];
    let comparison = Comparison::of(names, [&before, &Report::load(after)?], &figures, options)?;
    Ok(Answer { text: comparison.text(options.format), warning: comparison.warning(), end: comparison.end() })
}

impl Comparison {
    /// Compares two reports of these names. Reports that have no case in common are wrong use.
    pub fn of(
        names: [String; 2],
        [before, after]: [&Report; 2],
        figures: &[&'static Figure],
        options: &Compare,
    ) -> Result<Self, Failure> {
        let remarks = context::differences(before, after);
        let [befores, mut afters] = [before, after].map(cases::repeats);
        let (mut compared, mut only_before) = (Vec::new(), Vec::new());
        for before in &befores {
            match afters.iter().position(|after| cases::is_same(before.case, after.case)) {
                Some(place) => {
                    let after = afters.remove(place);
                    compared.push(CaseComparison::of(before, &after, figures, options.alpha));
                }
                None => only_before.push(cases::describe(before.case)),
            }
        }
        if compared.is_empty() {
            return Err(nothing_in_common(&names, &befores, &afters));
        }
        let judged = || {
            let figures = compared.iter().flat_map(|case| &case.figures);
            figures.filter(|figure| figure.verdict != Verdict::NoVerdict)
        };
        let false_alarms =
            judged().map(|figure| false_alarms(figure.runs[0], figure.runs[1], options.alpha)).sum();
        let [before, after] = names;
        Ok(Self {
            schema: SCHEMA,
            before,
            after,
            alpha: options.alpha,
            tolerance: options.tolerance,
            remarks,
            only_before,
            only_after: afters.iter().map(|after| cases::describe(after.case)).collect(),
            figures_judged: judged().count(),
            false_alarms_expected: false_alarms,
            cases: compared,
        })
    }

    /// As it is printed.
    pub fn text(&self, format: CompareFormat) -> String {
        table::render(self, format)
    }

    /// Said if nothing could be judged: then the exit code means nothing either.
    fn warning(&self) -> Option<String> {
        let needed = runs_needed(self.alpha);
        (self.figures_judged == 0).then(|| {
            format!(
                "no verdict without repeats: measure each case at least {needed} times (--repeats {needed})"
            )
        })
    }

    /// Whether something got worse by more than the tolerance.
    pub fn end(&self) -> Result<(), Failure> {
        let worse: Vec<_> = self
            .cases
            .iter()
            .flat_map(|case| case.figures.iter().map(move |figure| (case, figure)))
            .filter(|(_, figure)| figure.is_worse_than(self.tolerance))
            .map(|(case, figure)| {
                format!("{} {} ({})", figure.of.name, table::change(figure.change), case.case)
            })
            .collect();
        if worse.is_empty() {
            return Ok(());
        }
        let more = worse.len().saturating_sub(NAMED_MAX);
        let and_more = if more > 0 { format!("; and {more} more") } else { String::new() };
        let named = worse[..worse.len() - more].join("; ");
        Err(Failure::Worse(format!("{} got worse: {named}{and_more}", counted(worse.len() as u64, "figure"))))
    }
}

impl CaseComparison {
    fn of(before: &Repeats<'_>, after: &Repeats<'_>, figures: &[&'static Figure], alpha: f64) -> Self {
        let mut remarks = cases::differences(before.case, after.case);
        remarks.extend(before.remarks("A"));
        remarks.extend(after.remarks("B"));
        let mut compared = Vec::new();
        for figure in figures {
            let (before, after) = (figure.of_runs(&before.runs), figure.of_runs(&after.runs));
            match FigureComparison::of(figure, &before, &after, alpha) {
                Some(comparison) => compared.push(comparison),
                None if before.is_empty() && after.is_empty() => {}
                None => {
                    let holder = if after.is_empty() { "A" } else { "B" };
                    remarks.push(Remark::note(format!("{} was measured in {holder} alone", figure.name)));
                }
            }
        }
        Self {
            case: cases::describe(before.case),
            runs: [before.runs.len(), after.runs.len()],
            remarks,
            figures: compared,
        }
    }
}

impl FigureComparison {
    /// Compares the numbers of a figure; none if one side has none.
    fn of(of: &'static Figure, before: &[f64], after: &[f64], alpha: f64) -> Option<Self> {
        let median = [median(before)?, median(after)?];
        let shift = shift(before, after, alpha);
        let p = can_show(before.len(), after.len(), alpha).then(|| mann_whitney_p(before, after));
        let verdict = match p {
            None => Verdict::NoVerdict,
            Some(p) if p > alpha => Verdict::NoDifferenceShown,
            Some(_) if is_better(of.better, shift, median) => Verdict::Better,
            Some(_) => Verdict::Worse,
        };
        let runs = [before.len(), after.len()];
        let needed = if p.is_none() { runs_needed(alpha) } else { 0 };
        Some(Self {
            of,
            better: of.better,
            runs,
            median,
            change: shift.map(|shift| shift.ratio - 1.0),
            interval: shift.and_then(|shift| shift.interval).map(|(low, high)| [low - 1.0, high - 1.0]),
            p,
            spread_before: spread(before),
            verdict,
            runs_lacking: runs.map(|runs| needed.saturating_sub(runs)),
        })
    }

    /// Whether it got worse by more than a part of what it was.
    pub fn is_worse_than(&self, tolerance: f64) -> bool {
        // From nothing to something is more than any part.
        let loss = self.change.map_or(f64::INFINITY, |change| match self.better {
            Better::Higher => -change,
            Better::Lower => change,
        });
        self.verdict == Verdict::Worse && loss > tolerance
    }
}

fn is_better(better: Better, shift: Option<Shift>, [before, after]: [f64; 2]) -> bool {
    let rose = shift.map_or(after > before, |shift| shift.ratio > 1.0);
    rose == (better == Better::Higher)
}

fn nothing_in_common(names: &[String; 2], befores: &[Repeats<'_>], afters: &[Repeats<'_>]) -> Failure {
    let first = |all: &[Repeats<'_>]| {
        all.first().map_or("nothing".to_owned(), |repeats| cases::describe(repeats.case))
    };
    let [before, after] = names;
    Failure::WrongUse(format!(
        "{before} and {after} have no case in common: one measured {}, the other {}; compare runs of the same options",
        first(befores),
        first(afters)
    ))
}

impl Remark {
    fn note(text: String) -> Self {
        Self { warning: false, text }
    }

    fn warning(text: String) -> Self {
        Self { warning: true, text }
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let warning = if self.warning { "WARNING: " } else { "" };
        write!(f, "{warning}{}", self.text)
    }
}

fn key<S: serde::Serializer>(figure: &&'static Figure, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(figure.key)
}

#[cfg(test)]
mod tests;
