//! The report for people: context, one row per run, and what the columns mean.
//!
//! At most 120 columns wide; followers are lines within a run's row.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::{Report, Run, State};
use crate::lag::{FollowerLag, LagTimes};
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
    let followers = |shown: &dyn Fn(&FollowerLag) -> String| {
        run.followers.iter().map(shown).collect::<Vec<_>>().join("\n")
    };
    let lag = |figure: &dyn Fn(&LagTimes) -> u64| {
        followers(&|follower| {
            follower.lag_us.as_ref().map_or(NOT_MEASURED.to_owned(), |times| show_us(figure(times)))
        })
    };
    [
        run.quorum.to_string(),
        show_count(run.writes.per_second.round() as u64),
        show_us(latency.p50),
        show_us(latency.p90),
        show_us(latency.p99),
        show_us(latency.p99_9),
        show_us(latency.max),
        followers(&|follower| follower.node.to_string()),
        lag(&|times| times.p50),
        lag(&|times| times.p99),
        lag(&|times| times.max),
        followers(&|follower| show_count(follower.lag_entries_max)),
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
    (!remarks.is_empty()).then(|| format!("n={}: {}\n", run.quorum, remarks.join("; ")))
}

#[cfg(test)]
mod tests {
    use super::super::tests::{report, run};
    use super::*;
    use crate::failure::Failure;

    #[test]
    fn a_report_is_a_table_with_its_context_and_its_explanation() {
        let mut report = report();
        report.runs = vec![run(1), run(2)];
        report.close(Ok(()));
        let expected = "\
quorate 0.1.0 (release), Linux 6.1.0, 2 × Fast CPU, 8 GiB, ext4 with fsync p50 120 µs
3 replicas, fsync, 64 clients × 1 in flight, 100 B values, 100000 keys, 10s after 2s of warm-up, seed 1

──────────────────────────────────────────────────────────────────────────────────────────────────────────
n  writes  latency                                      node     lag                    entries      keys
    per s      p50      p90      p99    p99.9      max           p50      p99      max   behind  verified
══════════════════════════════════════════════════════════════════════════════════════════════════════════
1  53,214  1.15 ms  1.90 ms  3.21 ms  9.87 ms  41.0 ms     2  420 µs  1.26 ms  16.8 ms      512    99,512
                                                           3  433 µs  1.30 ms  17.3 ms      512
──────────────────────────────────────────────────────────────────────────────────────────────────────────
2  53,214  1.15 ms  1.90 ms  3.21 ms  9.87 ms  41.0 ms     2  420 µs  1.26 ms  16.8 ms      512    99,512
                                                           3  433 µs  1.30 ms  17.3 ms      512
──────────────────────────────────────────────────────────────────────────────────────────────────────────

";
        let rendered = render(&report);
        assert_eq!(rendered, format!("{expected}{EXPLANATION}"), "{rendered}");
        assert!(rendered.lines().all(|line| line.chars().count() <= 120), "{rendered}");
    }

    #[test]
    fn what_went_wrong_stands_below_the_table() {
        let mut report = report();
        let mut wrong = run(3);
        wrong.writes.refused = 1200;
        wrong.writes.unknown = 7;
        wrong.verified = Some(Verified { lost: 2, differing: vec![3], ..Verified::default() });
        let mut cut = run(1);
        (cut.interrupted, cut.duration_s, cut.verified) = (true, 3.21, None);
        report.runs = vec![wrong, cut];
        report.close(Err(&Failure::Interrupted));
        let rendered = render(&report);
        for line in [
            "Not all that was asked for was measured.",
            "n=3: 1,200 writes refused; 7 writes with an unknown outcome; 2 KEYS LOST OR WRONG; \
             REPLICAS DIFFER from the leader: [3]",
            "n=1: interrupted after 3.2 s, and not verified",
        ] {
            assert!(rendered.lines().any(|shown| shown == line), "{line}: {rendered}");
        }
    }

    #[test]
    fn a_follower_that_acknowledged_nothing_has_entries_behind_and_no_lag() {
        let mut silent = run(2);
        (silent.followers[1].lag_us, silent.followers[1].lag_entries_max) = (None, 4_711);
        let row = row(&silent);
        assert_eq!(row[8..12], ["420 µs\n–", "1.26 ms\n–", "16.8 ms\n–", "512\n4,711"]);
    }

    #[test]
    fn a_report_without_runs_says_so() {
        assert!(render(&report()).ends_with("\nNothing was measured.\n"));
    }
}
