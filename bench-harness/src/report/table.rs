//! The report for people at a terminal: context, one row per case, and what the columns mean.
//!
//! At most 120 columns wide; followers are lines within a row, and so are reads.

use std::fmt::Write as _;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::rows::{FollowerRow, Row, count, rate, rows, us};
use super::{Distribution, Report, remarks};
use crate::units::{counted, format_duration, show_bytes, show_us};

/// Longest line, in letters.
const WIDTH_MAX: usize = 120;

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

const EXPLANATION: &str = "\
n         replicas, the leader included, that held a write durably before it was acknowledged
writes    acknowledged writes per second; latency is to its answer, from when a write was due: in a
          closed loop from the call, so a write that a stalled client did not make is not in it
lag       per follower: from a write's append at the leader to that follower's durable copy being known there;
          – if it acknowledged nothing
behind    the most entries that the follower had yet to make durable
verified  keys read back from every replica, which all hold what was acknowledged, and the same
";

const REPEATS: &str = "\
±         medians over the repeats; no repeat's rate is further from the median than this
";

const READS: &str = "\
reads     answered reads per second, and their latency
";

/// Draws the report.
pub fn render(report: &Report) -> String {
    let rows = rows(report);
    let mut text: String = context(report).iter().map(|line| wrapped(line)).collect();
    if rows.is_empty() {
        text.push_str("\nNothing was measured.\n");
        return text;
    }
    let _ = writeln!(text, "\n{}", with_sections(&table(&rows).trim_fmt(), &rows)); // a String takes everything
    text.extend(remarks::of_rows(&rows).iter().map(|remark| wrapped(remark)));
    text.push_str(EXPLANATION);
    if rows.iter().any(|row| row.runs.len() > 1) {
        text.push_str(REPEATS);
    }
    if rows.iter().any(|row| row.typical().reads.is_some()) {
        text.push_str(READS);
    }
    text
}

/// A text in lines that are not too long, those after the first indented.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut width = 0;
    for word in text.split_whitespace() {
        let letters = word.chars().count();
        if width > 0 && width + 1 + letters > WIDTH_MAX {
            lines.push_str("\n  ");
            width = 2;
        } else if width > 0 {
            lines.push(' ');
            width += 1;
        }
        lines.push_str(word);
        width += letters;
    }
    lines.push('\n');
    lines
}

/// Code, machine and load, a line each, and what holds for the whole report.
pub(super) fn context(report: &Report) -> Vec<String> {
    let environment = &report.environment;
    let mut lines = vec![format!(
        "quorate {} ({}), {} {}, {} × {}, {}, {} with fsync p50 {}",
        environment.version,
        environment.profile,
        environment.os,
        environment.kernel,
        environment.cores,
        environment.cpu,
        show_bytes(environment.memory_bytes),
        environment.file_system,
        show_us(environment.fsync.p50_us),
    )];
    if let Some(case) = report.plan.cases.first() {
        let (duration, warmup) = (format_duration(case.load.duration), format_duration(case.load.warmup));
        lines.push(format!(
            "{}, {}, {}, {}, {duration} after {warmup} of warm-up, {}seed {}",
            counted(case.replicas.into(), "replica"),
            case.durability,
            case.leadership,
            case.load,
            if report.plan.repeats > 1 {
                format!("{} repeats, ", report.plan.repeats)
            } else {
                String::new()
            },
            report.plan.seed
        ));
    }
    lines.extend(remarks::of_report(report));
    lines
}

fn table(rows: &[Row<'_>]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(HEADER.map(|name| Cell::new(name).set_alignment(CellAlignment::Right)));
    for row in rows {
        table.add_row(cells(row).map(|cell| Cell::new(cell).set_alignment(CellAlignment::Right)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
    table
}

/// Puts the name of each section above its first row. The table is drawn as one, so that columns stay aligned;
/// a line of dashes ends each row.
fn with_sections(table: &str, rows: &[Row<'_>]) -> String {
    let mut text = String::new();
    let mut row = None;
    for line in table.lines() {
        text.push_str(line);
        text.push('\n');
        row = match line.chars().next() {
            Some('═') => Some(0),
            Some('─') => row.map(|row| row + 1),
            _ => continue,
        };
        let Some(begins) = row.and_then(|row: usize| rows.get(row)) else { continue };
        let before = row.and_then(|row| row.checked_sub(1)).and_then(|row| rows.get(row));
        if before.is_none_or(|before| before.section != begins.section) && !begins.section.is_empty() {
            text.push_str(&begins.section);
            text.push_str(":\n");
        }
    }
    text
}

fn cells(row: &Row<'_>) -> [String; 13] {
    let followers = row.followers();
    let each =
        |shown: &dyn Fn(&FollowerRow) -> String| followers.iter().map(shown).collect::<Vec<_>>().join("\n");
    // Reads, if there were any, are the second line.
    let calls = |writes: String, reads: &dyn Fn() -> String| match row.typical().reads {
        None => writes,
        Some(_) => format!("{writes}\n{}", reads()),
    };
    let latency = |figure: fn(&Distribution) -> f64| {
        calls(us(row.latency_us(figure)), &|| us(row.reads(|reads| figure(&reads.latency_us))))
    };
    [
        calls(row.case.quorum.to_string(), &|| "reads".to_owned()),
        calls(rate(row), &|| count(row.reads(|reads| reads.per_second))),
        latency(|latency| latency.p50),
        latency(|latency| latency.p90),
        latency(|latency| latency.p99),
        latency(|latency| latency.p99_9),
        latency(|latency| latency.max),
        each(&|follower| follower.node.to_string()),
        each(&|follower| us(follower.lag_p50_us)),
        each(&|follower| us(follower.lag_p99_us)),
        each(&|follower| us(follower.lag_max_us)),
        each(&|follower| count(follower.entries_behind_max)),
        row.verified(),
    ]
}

#[cfg(test)]
mod tests {
    use super::super::Run;
    use super::super::sample::{large, report, run, whole};
    use super::*;
    use crate::failure::Failure;
    use crate::peers::PeerKind;
    use crate::plan::System;

    fn rendered(runs: Vec<Run>) -> String {
        let mut report = report();
        report.runs = runs;
        report.close(Ok(()));
        let text = render(&report);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH_MAX), "{text}");
        text
    }

    #[test]
    fn a_report_is_a_table_with_its_context_and_its_explanation() {
        let text = render(&whole());
        for line in [
            "quorate 0.1.0 (release), Linux 6.1.0, 2 × Fast CPU, 8 GiB, ext4 with fsync p50 120 µs",
            "3 replicas, fsync, leader elected, 64 clients × 1 in flight, 100 B values, 100000 keys, 10s after 2s of warm-up, seed 1",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
        assert!(text.ends_with(EXPLANATION), "{text}");
        let begins = |n: &str| text.lines().filter(|line| line.starts_with(n)).count();
        assert_eq!(
            ["1 ", "2 ", "3 "].map(begins),
            [1, 1, 2],
            "a row for each quorum, and the line of the load"
        );
        assert_eq!(text.matches("99,512").count(), 3);
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH_MAX), "{text}");
    }

    #[test]
    fn what_differs_between_cases_is_a_section_of_the_table() {
        let mut redis = run(2);
        (redis.case.system, redis.case_number, redis.verified) = (System::Peer(PeerKind::Redis), 1, None);
        redis.followers.clear();
        let text = rendered(vec![run(1), redis]);
        let at =
            |line: &str| text.lines().position(|shown| shown == line).unwrap_or_else(|| panic!("{text}"));
        assert!(at("quorate:") < at("redis:"), "{text}");
        assert!(text.lines().any(|line| line.starts_with("2 ") && line.trim_end().ends_with('–')), "{text}");
    }

    #[test]
    fn repeats_are_one_row_with_their_spread_and_reads_its_second_line() {
        let mut repeats = [1, 2, 3].map(|repeat| {
            let mut run = run(2);
            (run.repeat, run.writes.per_second) = (repeat, 1_000_000.0 + 100_000.0 * f64::from(repeat));
            run.reads = Some(run.writes.clone());
            run
        });
        repeats[0].reads.as_mut().unwrap().per_second = 7.0;
        let text = rendered(repeats.into());
        assert!(
            text.contains("1,200,000 ±8.3 %") && text.contains(REPEATS) && text.contains(READS),
            "{text}"
        );
        assert!(
            text.lines().any(|line| line.trim_start().starts_with("reads  ") && line.contains("1,200,000")),
            "{text}"
        );
    }

    #[test]
    fn no_line_of_a_large_report_is_too_long() {
        let text = render(&large());
        assert!(text.lines().all(|line| line.chars().count() <= WIDTH_MAX), "{text}");
        assert!(text.contains("\n  "), "something was wrapped: {text}");
    }

    #[test]
    fn what_went_wrong_stands_below_the_table() {
        let mut report = report();
        let (mut wrong, mut cut) = (run(3), run(1));
        wrong.writes.refused = 1200;
        (cut.interrupted, cut.duration_s, cut.verified) = (true, 3.21, None);
        report.runs = vec![wrong, cut];
        report.close(Err(&Failure::Interrupted));
        let text = render(&report);
        for line in [
            "Not all that was asked for was measured.",
            "quorum 3: 1,200 writes refused",
            "quorum 1: interrupted after 3.2 s, and not verified",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line}: {text}");
        }
    }

    #[test]
    fn a_follower_that_acknowledged_nothing_has_entries_behind_and_no_lag() {
        let mut silent = run(2);
        (silent.followers[1].lag_us, silent.followers[1].entries_behind_max) = (None, 4_711);
        let mut report = report();
        report.runs = vec![silent];
        let cells = cells(&rows(&report)[0]);
        assert!(cells[8..11].iter().all(|lag| lag.ends_with("\n–")), "{cells:?}");
        assert_eq!(cells[11], "512\n4,711");
    }

    #[test]
    fn a_report_without_runs_says_so() {
        assert!(render(&report()).ends_with("\nNothing was measured.\n"));
    }
}
