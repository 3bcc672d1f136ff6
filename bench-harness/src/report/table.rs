//! The report for people: context, one row per run, and what the columns mean.
//!
//! At most 120 columns wide; followers are lines within a run's row.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::{Distribution, Follower};
use super::{Report, Run, State};
use crate::units::{counted, format_duration, show_bytes, show_count, show_us};
use crate::verify::Verified;

const HEADER: [&str; 13] = [
    "n",
    "writes\nper s",
    "latency\np50",
    "\np90",
    "\np99",
    "\np99.9",
    "\nmax",
    "node",
    "lag\np50",
    "\np99",
    "\nmax",
    "entries\nbehind",
    "keys\nverified",
];

/// In place of a figure that there is none of.
const NOT_MEASURED: &str = "–";

const EXPLANATION: &str = "\
n         replicas, the leader included, that held a write durably before it was acknowledged
writes    acknowledged writes per second; latency is from a client's call to its answer
lag       per follower: from a write's append at the leader to that follower's durable copy being known there;
          – if it acknowledged nothing
behind    the most entries that the follower had yet to make durable
verified  keys read back from every replica, which all hold what was acknowledged, and the same
";

/// Draws the report.
pub fn render(report: &Report) -> String {
    let mut text = context(report);
    if report.runs.is_empty() {
        text.push_str("\nNothing was measured.\n");
        return text;
    }
    let _ = writeln!(text, "\n{}\n", table(&report.runs).trim_fmt()); // a String takes everything
    report.runs.iter().filter_map(remark).for_each(|remark| text.push_str(&remark));
    text.push_str(EXPLANATION);
    text
}

fn context(report: &Report) -> String {
    let environment = &report.environment;
    let mut text = format!(
        "quorate {} ({}), {} {}, {} × {}, {}, {} with fsync p50 {}\n",
        environment.version,
        environment.profile,
        environment.os,
        environment.kernel,
        environment.cores,
        environment.cpu,
        show_bytes(environment.memory_bytes),
        environment.file_system,
        show_us(environment.fsync.p50_us),
    );
    if let Some(case) = report.plan.cases.first() {
        let (duration, warmup) = (format_duration(case.load.duration), format_duration(case.load.warmup));
        let _ = writeln!(
            text,
            "{}, {}, {}, {duration} after {warmup} of warm-up, seed {}",
            counted(case.replicas.into(), "replica"),
            case.durability,
            case.load,
            report.plan.seed
        );
    }
    if environment.profile == "debug" {
        text.push_str("This is a debug build: for figures that count, build with --release.\n");
    }
    if matches!(report.state, State::Interrupted | State::Failed) {
        text.push_str("Not all that was asked for was measured.\n");
    }
    text
}

fn table(runs: &[Run]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(HEADER.map(|name| Cell::new(name).set_alignment(CellAlignment::Right)));
    for run in runs {
        table.add_row(row(run).map(|cell| Cell::new(cell).set_alignment(CellAlignment::Right)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table
}

fn row(run: &Run) -> [String; 13] {
    let latency = &run.writes.latency_us;
    let followers =
        |shown: &dyn Fn(&Follower) -> String| run.followers.iter().map(shown).collect::<Vec<_>>().join("\n");
    let lag = |figure: &dyn Fn(&Distribution) -> f64| {
        followers(&|follower| {
            follower.lag_us.as_ref().map_or(NOT_MEASURED.to_owned(), |times| show_us(figure(times) as u64))
        })
    };
    [
        run.case.quorum.to_string(),
        show_count(run.writes.per_second.round() as u64),
        show_us(latency.p50 as u64),
        show_us(latency.p90 as u64),
        show_us(latency.p99 as u64),
        show_us(latency.p99_9 as u64),
        show_us(latency.max as u64),
        followers(&|follower| follower.node.to_string()),
        lag(&|times| times.p50),
        lag(&|times| times.p99),
        lag(&|times| times.max),
        followers(&|follower| show_count(follower.entries_behind_max)),
        verified(run),
    ]
}

fn verified(run: &Run) -> String {
    match &run.verified {
        None => "no".to_owned(),
        Some(verified) if verified.is_clean() => show_count(verified.keys),
        Some(Verified { lost: 0, .. }) => "DIFFER".to_owned(),
        Some(verified) => format!("{} LOST", show_count(verified.lost)),
    }
}

/// What a reader must not miss about a run, beside its figures.
fn remark(run: &Run) -> Option<String> {
    let mut remarks = Vec::new();
    if run.interrupted {
        remarks.push(format!("interrupted after {:.1} s, and not verified", run.duration_s));
    }
    if run.writes.refused > 0 {
        remarks.push(format!("{} writes refused", show_count(run.writes.refused)));
    }
    if run.writes.unknown > 0 {
        remarks.push(format!("{} writes with an unknown outcome", show_count(run.writes.unknown)));
    }
    if let Some(Verified { lost: lost @ 1.., .. }) = run.verified {
        remarks.push(format!("{} KEYS LOST OR WRONG", show_count(lost)));
    }
    if let Some(Verified { differing, .. }) = &run.verified
        && !differing.is_empty()
    {
        remarks.push(format!("REPLICAS DIFFER from the leader: {differing:?}"));
    }
    (!remarks.is_empty()).then(|| format!("n={}: {}\n", run.case.quorum, remarks.join("; ")))
}
