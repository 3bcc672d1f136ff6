//! Comparisons for people: on a terminal, at most 120 columns wide, or on a page; and for scripts.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, TableStyle, presets};
use serde::Serialize;

use super::{CaseComparison, Comparison, EqualCase, EqualRuns, FigureComparison, Remark, Verdict};
use crate::options::CompareFormat;
use crate::units::counted;

/// In place of a number that cannot be given.
const NONE: &str = "–";

/// Least p that is shown as a number.
const P_SHOWN_MIN: f64 = 0.0001;

const EXPLANATION: &str = "\
change      from A to B: the median over all pairs of a run of A and a run of B (Hodges-Lehmann), and where it lies
p           how likely runs that differ as much or more are if nothing changed (Mann-Whitney U test, two-sided)
A/A spread  how much equal runs of A differ: greatest less least, as a part of the median
verdict     given if p is at most alpha; that no difference is shown does not say that there is none
lag         of the follower that was worst in each run; CPU and disk are the leader's

What changed on the machine between A and B looks like a change, too: bench-harness compare A, of a report with
many repeats, shows how much its equal runs differ over time.
";

const EQUAL_EXPLANATION: &str = "\
spread   greatest less least, as a part of the median
random   divisions at random that are called different: the test's own false alarms
by time  groups of consecutive runs, each with every other, that are called different: more than a few of them mean
         that the machine drifts, and that reports made one after the other differ by as much
";

/// What tells a terminal from a page.
struct Style {
    preset: TableStyle,
    heading: &'static str,
    item: &'static str,
    /// Columns left of a cell.
    padding: u16,
    /// What keeps lines apart.
    verbatim: &'static str,
}

const TERMINAL: Style =
    Style { preset: presets::UTF8_HORIZONTAL_ONLY, heading: "", item: "", padding: 0, verbatim: "" };
const PAGE: Style =
    Style { preset: presets::ASCII_MARKDOWN, heading: "### ", item: "- ", padding: 1, verbatim: "```\n" };

/// Draws a comparison.
pub(super) fn render(comparison: &Comparison, format: CompareFormat) -> String {
    match format {
        CompareFormat::Table => draw(comparison, &TERMINAL),
        CompareFormat::Markdown => draw(comparison, &PAGE),
        CompareFormat::Json => json(comparison),
    }
}

/// Draws how equal runs differ.
pub(super) fn render_equal_runs(equal: &EqualRuns, format: CompareFormat) -> String {
    match format {
        CompareFormat::Table => draw_equal_runs(equal, &TERMINAL),
        CompareFormat::Markdown => draw_equal_runs(equal, &PAGE),
        CompareFormat::Json => json(equal),
    }
}

fn json(of: &impl Serialize) -> String {
    let mut json = serde_json::to_string_pretty(of).expect("a comparison has text keys and finite numbers");
    json.push('\n');
    json
}

fn draw(comparison: &Comparison, style: &Style) -> String {
    let item = style.item;
    let mut text = format!("{item}A: {}\n{item}B: {}\n", comparison.before, comparison.after);
    write_remarks(&mut text, &comparison.remarks, style);
    for case in &comparison.cases {
        draw_case(&mut text, case, comparison, style);
    }
    text.push('\n');
    for (name, alone) in [("A", &comparison.only_before), ("B", &comparison.only_after)] {
        alone.iter().for_each(|case| write_line(&mut text, &format!("{item}in {name} alone: {case}")));
    }
    write_line(&mut text, &judged(comparison));
    write_explanation(&mut text, EXPLANATION, style);
    text
}

fn draw_case(text: &mut String, case: &CaseComparison, comparison: &Comparison, style: &Style) {
    let [before, after] = case.runs.map(|runs| counted(runs as u64, "run"));
    write_line(text, &format!("\n{}{}\n", style.heading, case.case));
    write_line(text, &format!("{}{before} of A, {after} of B", style.item));
    write_remarks(text, &case.remarks, style);
    let confidence = format!("{} interval", percent(1.0 - comparison.alpha));
    let header = ["", "A", "B", "change", &confidence, "p", "A/A spread", "verdict"];
    let rows = case.figures.iter().map(|figure| row(figure, comparison.tolerance));
    write_line(text, &format!("\n{}", table(header, rows, style)));
}

fn row(figure: &FigureComparison, tolerance: f64) -> [String; 8] {
    let interval = figure.interval.map(|ends| ends.map(|end| change(Some(end))).join(" … "));
    let [before, after] = figure.median.map(|median| figure.of.show(median));
    [
        figure.of.name.to_owned(),
        before,
        after,
        change(figure.change),
        interval.unwrap_or_else(|| NONE.to_owned()),
        figure.p.map_or(NONE.to_owned(), show_p),
        figure.spread_before.map_or(NONE.to_owned(), tenths_percent),
        verdict(figure, tolerance),
    ]
}

fn verdict(figure: &FigureComparison, tolerance: f64) -> String {
    match figure.verdict {
        Verdict::Better => "better".to_owned(),
        Verdict::Worse if figure.is_worse_than(tolerance) => "WORSE".to_owned(),
        Verdict::Worse => "worse, tolerated".to_owned(),
        Verdict::NoDifferenceShown => "no difference shown".to_owned(),
        Verdict::NoVerdict => {
            let lacking = figure.runs_lacking.into_iter().zip(["A", "B"]).filter(|(runs, _)| *runs > 0);
            let lacking: Vec<_> = lacking.map(|(runs, name)| format!("{name} +{runs}")).collect();
            format!("no verdict: {} runs", lacking.join(", "))
        }
    }
}

fn judged(comparison: &Comparison) -> String {
    if comparison.figures_judged == 0 {
        return "No figure had the repeats for a verdict: any change may be chance.".to_owned();
    }
    format!(
        "{} judged, each at {}: if nothing changed, {:.1} of them would be called different all the same.",
        counted(comparison.figures_judged as u64, "figure"),
        percent(comparison.alpha),
        comparison.false_alarms_expected
    )
}

fn draw_equal_runs(equal: &EqualRuns, style: &Style) -> String {
    let mut text = format!(
        "{}Equal runs of {}, {} against {}\n",
        style.item, equal.report, equal.group_runs, equal.group_runs
    );
    for case in &equal.cases {
        write_line(&mut text, &format!("\n{}{}\n", style.heading, case.case));
        write_line(&mut text, &format!("{}{}", style.item, counted(case.runs as u64, "run")));
        draw_equal_case(&mut text, case, equal.splits, style);
    }
    text.push('\n');
    for case in &equal.left_out {
        write_line(&mut text, &format!("{}too few runs: {case}", style.item));
    }
    let by_time = equal.called_expected / equal.splits as f64;
    let _ = writeln!(
        text,
        "At {}, {:.1} of {} random divisions of each figure, and {:.1} of 100 pairs by time, are expected to be called \
         different.",
        percent(equal.alpha),
        equal.called_expected,
        equal.splits,
        by_time * 100.0
    ); // a String takes everything
    write_explanation(&mut text, EQUAL_EXPLANATION, style);
    text
}

fn draw_equal_case(text: &mut String, case: &EqualCase, splits: usize, style: &Style) {
    let (random, by_time) = (format!("random\nof {splits}"), format!("by time\nof {}", case.pairs_by_time));
    let header = ["", "median", "spread", &random, &by_time];
    let rows = case.figures.iter().map(|figure| {
        [
            figure.of.name.to_owned(),
            figure.of.show(figure.median),
            figure.spread.map_or(NONE.to_owned(), tenths_percent),
            figure.called.to_string(),
            figure.called_by_time.to_string(),
        ]
    });
    write_line(text, &format!("\n{}", table(header, rows, style)));
}

/// Names on the left, numbers on the right.
fn table<const N: usize>(
    header: [&str; N],
    rows: impl Iterator<Item = [String; N]>,
    style: &Style,
) -> String {
    let mut table = Table::new();
    table.load_style(style.preset).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    for row in rows {
        table.add_row(row.map(Cell::new));
    }
    for (place, column) in table.column_iter_mut().enumerate() {
        column.set_padding((style.padding, 1));
        column.set_cell_alignment(if place == 0 { CellAlignment::Left } else { CellAlignment::Right });
    }
    table.trim_fmt()
}

fn write_line(text: &mut String, line: &str) {
    text.push_str(line);
    text.push('\n');
}

fn write_remarks(text: &mut String, remarks: &[Remark], style: &Style) {
    remarks.iter().for_each(|remark| write_line(text, &format!("{}{remark}", style.item)));
}

fn write_explanation(text: &mut String, explanation: &str, style: &Style) {
    let _ = write!(text, "\n{}{explanation}{}", style.verbatim, style.verbatim);
}

/// A part as it changed: `+3.2 %`.
pub(super) fn change(part: Option<f64>) -> String {
    match part {
        None => NONE.to_owned(),
        Some(part) if part.abs() < 0.0005 => "0.0 %".to_owned(),
        Some(part) => format!("{:+.1} %", part * 100.0),
    }
}

fn tenths_percent(part: f64) -> String {
    format!("{:.1} %", part * 100.0)
}

/// A part with as many digits as it was given: `99 %`, `99.9 %`.
fn percent(part: f64) -> String {
    format!("{} %", (part * 1e6).round() / 1e4)
}

fn show_p(p: f64) -> String {
    if p < P_SHOWN_MIN { format!("< {P_SHOWN_MIN}") } else { format!("{p:.4}") }
}
