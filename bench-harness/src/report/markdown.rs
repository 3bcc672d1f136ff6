//! The report as a part of a page in GitHub's Markdown: what it says, its context, a table, and remarks.

use std::fmt::{self, Write as _};

use super::rows::{FollowerRow, NOT_MEASURED, Row, count, rate, rows, us};
use super::{Report, headline, remarks, table};

const HEADER: [&str; 13] = [
    "case",
    "writes/s",
    "p50",
    "p90",
    "p99",
    "p99.9",
    "max",
    "× floor",
    "node",
    "lag p50",
    "lag p99",
    "entries behind",
    "verified",
];

/// Writes the report, with a newline at the end.
pub fn render(report: &Report) -> String {
    let rows = rows(report);
    let mut text = String::from("## What a quorum costs\n\n");
    // A String takes everything.
    for sentence in headline::sentences(report) {
        let _ = writeln!(text, "- {}", Plain(&sentence));
    }
    text.push('\n');
    let context: Vec<_> = table::context(report).iter().map(|line| Plain(line).to_string()).collect();
    let _ = writeln!(text, "{}", context.join("  \n"));
    if rows.is_empty() {
        return text;
    }
    text.push('\n');
    line(&mut text, HEADER.map(str::to_owned));
    line(&mut text, HEADER.map(|name| if name == "case" { ":--" } else { "--:" }.to_owned()));
    rows.iter().for_each(|row| line(&mut text, cells(row)));
    text.push_str(
        "\nLatency is from when a write was due (in a closed loop: from the call) to its answer. × floor: the median latency against the least that \
         this machine allows. Lag: from a write's append at the leader to that follower's durable copy being known \
         there.\n",
    );
    let remarks: Vec<_> = remarks::of_rows(&rows);
    if !remarks.is_empty() {
        text.push('\n');
    }
    for remark in remarks {
        let _ = writeln!(text, "- {}", Plain(&remark));
    }
    text
}

fn line(text: &mut String, cells: [String; HEADER.len()]) {
    let _ = writeln!(text, "| {} |", cells.join(" | "));
}

fn cells(row: &Row<'_>) -> [String; HEADER.len()] {
    let followers = row.followers();
    let each = |shown: &dyn Fn(&FollowerRow) -> String| match followers.is_empty() {
        true => NOT_MEASURED.to_owned(),
        false => followers.iter().map(shown).collect::<Vec<_>>().join("<br>"),
    };
    [
        Plain(&row.name).to_string(),
        rate(row),
        us(row.latency_us(|latency| latency.p50)),
        us(row.latency_us(|latency| latency.p90)),
        us(row.latency_us(|latency| latency.p99)),
        us(row.latency_us(|latency| latency.p99_9)),
        us(row.latency_us(|latency| latency.max)),
        count(row.times_floor()),
        each(&|follower| follower.node.to_string()),
        each(&|follower| us(follower.lag_p50_us)),
        each(&|follower| us(follower.lag_p99_us)),
        each(&|follower| count(follower.entries_behind_max)),
        row.verified(),
    ]
}

/// Text in which nothing is markup.
struct Plain<'a>(&'a str);

impl fmt::Display for Plain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '\\' | '`' | '*' | '_' | '[' | ']' | '<' | '>' | '|' | '#' | '~' | '&' => {
                    write!(f, "\\{character}")?
                }
                '\n' | '\r' => f.write_char(' ')?,
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{report, run, run_with_a_pause, whole};
    use super::*;

    #[test]
    fn every_line_of_the_table_has_a_cell_for_each_column() {
        let text = render(&whole());
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with('|')).collect();
        assert_eq!(lines.len(), 2 + 3, "{text}");
        assert!(lines.iter().all(|line| line.matches('|').count() == HEADER.len() + 1), "{text}");
        assert!(text.contains("Acknowledging at 2 of 3 replicas instead of 1"), "{text}");
    }

    #[test]
    fn what_others_wrote_is_no_markup() {
        assert_eq!(Plain("a|b <i>*\nc").to_string(), "a\\|b \\<i\\>\\* c");
        let mut report = whole();
        report.environment.cpu = "Fast | <b>CPU".to_owned();
        assert!(render(&report).contains("Fast \\| \\<b\\>CPU"));
    }

    #[test]
    fn remarks_are_a_list_and_nothing_measured_is_said() {
        let mut report = report();
        assert!(render(&report).contains("Nothing was measured."));
        report.runs = vec![run(1), run_with_a_pause()];
        assert!(render(&report).contains("\n- quorum 2: done to it: 2.5 s pause 3, 5 s resume 3"));
    }
}
