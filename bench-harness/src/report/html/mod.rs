//! The report as one page of HTML that needs nothing else: no script, no font, no picture from elsewhere. It reads
//! on a phone, on paper, in light and in dark.
//!
//! In this order, each left out if there is nothing for it:
//!
//! 1. headline: what was found, in plain words;
//! 2. remarks: what makes the figures doubtful;
//! 3. the cases as a table;
//! 4. pictures, each with how to read it;
//! 5. every case in detail; here belong time without a leader and receipts, once runs have them;
//! 6. what was measured, where, and how to repeat it;
//! 7. a glossary.
//!
//! Everything that comes from a report is escaped by `Escaped`.

mod context;
mod details;
#[cfg(test)]
mod tests;

use std::fmt::{self, Display, Write as _};

use super::rows::{Row, count, rate, rows, sections, us};
use super::{Report, headline, plots, remarks};
use crate::floor;

const STYLE: &str = include_str!("page.css");

/// Text in which nothing is markup, as content or within quotes.
pub(super) struct Escaped<T>(pub(super) T);

impl<T: Display> Display for Escaped<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.to_string().chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// Keeps figures and their units on one line.
fn unbroken(text: &str) -> String {
    [" µs", " ms", " %", " s ", " →"]
        .iter()
        .fold(text.to_owned(), |text, unit| text.replace(unit, &unit.replacen(' ', "\u{a0}", 1)))
}

/// Writes the page.
pub fn render(report: &Report) -> String {
    let rows = rows(report);
    let mut page = Page::default();
    headline(&mut page, report);
    remarks(&mut page, report, &rows);
    if !rows.is_empty() {
        table(&mut page, &rows);
        pictures(&mut page, &rows);
        details::write(&mut page, &rows);
    }
    context::write(&mut page, report);
    page.finished()
}

/// HTML that is being written. A String takes everything, so nothing can fail.
#[derive(Default)]
struct Page(String);

impl Page {
    /// Adds HTML.
    fn html(&mut self, html: impl Display) {
        let _ = write!(self.0, "{html}");
    }

    /// Adds an element with text in it.
    fn text(&mut self, element: &str, text: impl Display) {
        self.html(format_args!("<{element}>{}</{element}>\n", Escaped(text)));
    }

    /// Adds a list, unless it is empty.
    fn list(&mut self, class: &str, items: impl IntoIterator<Item = String>) {
        let items: String =
            items.into_iter().map(|item| format!("<li>{}</li>\n", Escaped(unbroken(&item)))).collect();
        if !items.is_empty() {
            self.html(format_args!("<ul class=\"{class}\">\n{items}</ul>\n"));
        }
    }

    /// Adds a table, which scrolls by itself where it is wider than the page. The first cell of each line names it.
    fn table<const N: usize>(
        &mut self,
        caption: &str,
        header: [&str; N],
        lines: impl IntoIterator<Item = [String; N]>,
    ) {
        let heads: String =
            header.iter().map(|name| format!("<th scope=\"col\">{}</th>", Escaped(name))).collect();
        self.html(format_args!(
            "<div class=\"scroll\" tabindex=\"0\"><table><caption>{}</caption>\n<thead><tr>{heads}</tr></thead>\n<tbody>\n",
            Escaped(caption)
        ));
        for line in lines {
            let mut cells = line.iter().map(|cell| Escaped(cell).to_string());
            let first = cells.next().unwrap_or_default();
            let others: String = cells.map(|cell| format!("<td>{cell}</td>")).collect();
            self.html(format_args!("<tr><th scope=\"row\">{first}</th>{others}</tr>\n"));
        }
        self.html("</tbody></table></div>\n");
    }

    fn finished(self) -> String {
        format!(
            "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <title>What a quorum costs</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n{}</main>\n</body>\n\
             </html>\n",
            self.0
        )
    }
}

fn headline(page: &mut Page, report: &Report) {
    page.html("<header>\n<h1>What a quorum costs</h1>\n");
    page.text(
        "p",
        "Quorate keeps a copy of the data on several replicas, and acknowledges a write when a quorum of them holds it \
         durably. A larger quorum survives more losses; this is what it cost here.",
    );
    page.list("headline", headline::sentences(report));
    page.text("p", context::in_one_line(report));
    page.html("</header>\n");
}

fn remarks(page: &mut Page, report: &Report, rows: &[Row<'_>]) {
    let remarks: Vec<_> = remarks::of_report(report).into_iter().chain(remarks::of_rows(rows)).collect();
    if remarks.is_empty() {
        return;
    }
    page.html("<section>\n<h2>What to know before reading the figures</h2>\n");
    page.list("remarks", remarks);
    page.html("</section>\n");
}

fn table(page: &mut Page, rows: &[Row<'_>]) {
    page.html("<section>\n<h2>The cases</h2>\n");
    for section in sections(rows) {
        let of = |what: &str| match section[0].section.as_str() {
            "" => what.to_owned(),
            section => format!("{what}, {section}"),
        };
        let header = ["quorum", "writes/s", "p50", "p90", "p99", "p99.9", "max", "× floor", "keys verified"];
        page.table(&of("Write latency"), header, section.iter().map(cells));
        let followers: Vec<_> = section.iter().flat_map(follower_cells).collect();
        if !followers.is_empty() {
            let header = ["quorum, follower", "lag p50", "lag p99", "lag max", "entries behind"];
            page.table(&of("Lag of each follower"), header, followers);
        }
    }
    if rows.iter().any(|row| row.typical().reads.is_some()) {
        let lines = rows.iter().filter(|row| row.typical().reads.is_some()).map(read_cells);
        page.table("Reads", ["case", "reads/s", "p50", "p99", "max"], lines);
    }
    page.text(
        "p",
        "p50 is the median, p99 what 99 of 100 writes did not exceed; latency is from when a write was due to its \
         answer. Lag is from a write's append at the leader to when that follower's durable copy was known there. \
         Verified keys were read back from every replica after the load.",
    );
    if rows.iter().any(|row| row.times_floor().is_some()) {
        page.text("p", floor::EXPLANATION);
    }
    page.html("</section>\n");
}

fn quorum(row: &Row<'_>) -> String {
    format!("{} of {}", row.case.quorum, row.case.replicas)
}

fn cells(row: &Row<'_>) -> [String; 9] {
    [
        quorum(row),
        rate(row),
        us(row.latency_us(|latency| latency.p50)),
        us(row.latency_us(|latency| latency.p90)),
        us(row.latency_us(|latency| latency.p99)),
        us(row.latency_us(|latency| latency.p99_9)),
        us(row.latency_us(|latency| latency.max)),
        count(row.times_floor()),
        row.verified(),
    ]
}

fn follower_cells(row: &Row<'_>) -> Vec<[String; 5]> {
    let followers = row.followers().into_iter().map(|follower| {
        [
            format!("{}, node {}", quorum(row), follower.node),
            us(follower.lag_p50_us),
            us(follower.lag_p99_us),
            us(follower.lag_max_us),
            count(follower.entries_behind_max),
        ]
    });
    followers.collect()
}

fn read_cells(row: &Row<'_>) -> [String; 5] {
    [
        row.name.clone(),
        count(row.reads(|reads| reads.per_second)),
        us(row.reads(|reads| reads.latency_us.p50)),
        us(row.reads(|reads| reads.latency_us.p99)),
        us(row.reads(|reads| reads.latency_us.max)),
    ]
}

fn pictures(page: &mut Page, rows: &[Row<'_>]) {
    page.html("<section>\n<h2>Pictures</h2>\n<div class=\"figures\">\n");
    for figure in plots::figures(rows) {
        page.html("<figure>\n<h3>");
        page.html(Escaped(&figure.title));
        page.html("</h3>\n");
        page.html(&figure.svg);
        page.html(&figure.legend);
        page.html("<figcaption>");
        page.html(Escaped(figure.explanation));
        page.html("</figcaption>\n</figure>\n");
    }
    page.html("</div>\n</section>\n");
}
