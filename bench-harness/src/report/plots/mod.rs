//! The pictures of a report: which there are, and how each is to be read.
//!
//! - latency percentiles, one curve per case;
//! - throughput and latency over time, with faults marked;
//! - how far each follower was behind over time, in time and in entries;
//! - where each follower's lag comes from;
//! - latency against throughput;
//! - what a client sees of the lag.
//!
//! Curves are of the repeat with the median rate. One picture has the cases of one section, as many as can be told
//! apart; a picture of what was not measured is left out. SVG is written by hand, as letters must keep a size in
//! pixels on a phone, and colours must follow the page's.

mod axis;
mod bars;
mod chart;

use std::collections::BTreeMap;

use super::rows::{Row, sections};
use super::{Distribution, Follower, Run, Second};
use crate::units::show_us;
use axis::{Axis, Scale};
use bars::Bar;
use chart::{Chart, Kind, Mark, STYLES, Series};

/// Cases with pictures of their own of the lag over time.
const LAG_CASES_MAX: usize = 12;

/// Bars of one picture.
const BARS_MAX: usize = 24;

/// Points of a line over time: more are put together, the greatest of each few being kept.
const POINTS_MAX: usize = 240;

/// Points of a curve of percentiles, in each nine.
const POINTS_PER_NINE: u32 = 12;
const NINES: u32 = 4;

/// A picture with what belongs to it.
pub(super) struct Figure {
    /// What it shows.
    pub(super) title: String,
    /// SVG.
    pub(super) svg: String,
    /// HTML.
    pub(super) legend: String,
    /// How to read it.
    pub(super) explanation: &'static str,
}

/// All pictures of these rows, in their order.
pub(super) fn figures(rows: &[Row<'_>]) -> Vec<Figure> {
    let mut figures = Figures::default();
    let groups = groups(rows);
    for group in &groups {
        figures.percentiles(group);
    }
    for group in &groups {
        figures.over_time(group);
    }
    for row in rows.iter().filter(|row| !row.typical().followers.is_empty()).take(LAG_CASES_MAX) {
        figures.lag_over_time(row);
    }
    for section in sections(rows) {
        figures.stages(section);
    }
    figures.throughput_against_latency(rows);
    for group in &groups {
        figures.visible(group);
    }
    figures.0
}

/// Rows that share a picture: all, if they can be told apart, so that systems and settings lie side by side; else
/// those of a section, of which some may be left to the table.
fn groups<'r, 'a>(rows: &'r [Row<'a>]) -> Vec<&'r [Row<'a>]> {
    match rows.len() <= STYLES {
        true => vec![rows],
        false => sections(rows).map(|section| &section[..section.len().min(STYLES)]).collect(),
    }
}

#[derive(Default)]
struct Figures(Vec<Figure>);

impl Figures {
    fn add(&mut self, chart: Chart, explanation: &'static str) {
        if chart.series.iter().all(|series| series.points.is_empty()) {
            return;
        }
        let svg = chart.svg(&format!("figure-{}", self.0.len() + 1));
        self.0.push(Figure { legend: chart.legend(), title: chart.title, svg, explanation });
    }

    fn percentiles(&mut self, rows: &[Row<'_>]) {
        let mut series = Vec::new();
        for (style, row) in rows.iter().enumerate() {
            let writes = &row.typical().writes;
            series.push(Series {
                name: Some(row.name.clone()),
                style,
                kind: Kind::Line,
                points: quantiles(&writes.latency_us),
            });
            if !row.is_closed() {
                series.push(Series {
                    name: None,
                    style,
                    kind: Kind::Dashed,
                    points: quantiles(&writes.service_us),
                });
            }
        }
        let title = titled("Write latency by percentile", rows);
        let description = described(rows.iter().map(|row| {
            let at = |figure: fn(&Distribution) -> f64| super::rows::us(row.latency_us(figure));
            format!("{}: median {}, p99 {}", row.name, at(|l| l.p50), at(|l| l.p99))
        }));
        self.add(
            quantile_chart(title, description, "write latency", series),
            "Read across: at 99 %, ninety-nine of a hundred writes took at most the latency where the curve is, and \
             one took longer. Each step to the right is ten times rarer. The lower curve is the better one; a curve \
             that rises steeply at the right has rare but long delays. The latency axis is logarithmic. With a given \
             rate, a thin dotted line is the time from when a call was sent: what lies between is its wait before that.",
        );
    }

    fn over_time(&mut self, rows: &[Row<'_>]) {
        let of = |kind, figure: fn(&Second) -> f64, named: bool| {
            rows.iter().enumerate().map(move |(style, row)| Series {
                name: named.then(|| row.name.clone()),
                style,
                kind,
                points: seconds(row.typical(), figure),
            })
        };
        let writes = of(Kind::Line, |second| second.writes as f64, true).collect();
        let marks = marks(rows.iter().map(Row::typical));
        let title = titled("Throughput over time", rows);
        self.add(
            time_chart(title, "writes per second", Scale::Linear, short_count, writes, marks.clone()),
            "Acknowledged writes in each second. A dip shared by all curves is more likely the machine than the \
             quorum; vertical lines are what was done to the cluster on purpose.",
        );
        let p99 = of(Kind::Line, |second| second.p99_us as f64, true);
        let p50 = of(Kind::Dashed, |second| second.p50_us as f64, false);
        let title = titled("Latency over time", rows);
        self.add(
            time_chart(title, "latency", Scale::Log, short_us, p99.chain(p50).collect(), marks),
            "Of the calls that were due in each second: the 99th percentile as the thick line, the median thin and dotted \
             in the same colour. A gap that opens between the two means that a few writes waited.",
        );
    }

    fn lag_over_time(&mut self, row: &Row<'_>) {
        let run = row.typical();
        let marks = marks(std::iter::once(run));
        let of = |figure: fn(&super::LagSample) -> u64| {
            let lines = run.followers.iter().enumerate().map(|(style, follower)| Series {
                name: Some(format!("node {}", follower.node)),
                style,
                kind: Kind::Line,
                points: thinned(follower.samples.iter().map(|sample| (sample.t_s, figure(sample) as f64))),
            });
            lines.collect()
        };
        let title = format!("Lag over time, {}", row.name);
        let lag = of(|sample| sample.lag_us);
        self.add(
            time_chart(title, "age of the oldest missing write", Scale::Log, short_us, lag, marks.clone()),
            "How old the oldest write was that the follower did not yet hold durably; at the bottom it lacked \
             nothing. A slope upwards is a follower that stands still, and its end is the catching up.",
        );
        let entries = of(|sample| sample.entries);
        let title = format!("Entries behind over time, {}", row.name);
        self.add(
            time_chart(title, "entries behind", Scale::Log, short_count, entries, marks),
            "How many entries of the leader's log the follower did not yet hold durably. A few are always on their \
             way; a number that does not come back means that it cannot keep up.",
        );
    }

    fn stages(&mut self, rows: &[Row<'_>]) {
        let bars: Vec<_> = rows.iter().flat_map(bars_of).take(BARS_MAX).collect();
        if bars.is_empty() {
            return;
        }
        let title = titled("Where the lag of each follower comes from", rows);
        let description = described(bars.iter().map(|bar| {
            format!(
                "{}: queue {:.0}, network {:.0}, disk {:.0} µs",
                bar.name, bar.queue, bar.network, bar.disk
            )
        }));
        let svg = bars::svg(&bars, &title, &description, &format!("figure-{}", self.0.len() + 1));
        self.0.push(Figure {
            title,
            svg,
            legend: bars::legend(),
            explanation: "Means. Up to the upright stroke is the lag: a write waits at the leader until it is sent \
                          (queue), travels there and its acknowledgement back (network), and becomes durable at the \
                          follower (disk; the hatched part is the write and sync itself, the rest waiting for the \
                          sync before). What follows the stroke is the time until the follower had also applied it, \
                          so that reads there see it. The longest part is where to look first.",
        });
    }

    fn throughput_against_latency(&mut self, rows: &[Row<'_>]) {
        if rows.len() < 2 {
            return;
        }
        let mut curves: BTreeMap<&str, Vec<&Row<'_>>> = BTreeMap::new();
        for row in rows {
            curves.entry(&row.curve).or_default().push(row);
        }
        let mut series = Vec::new();
        for (style, (name, mut rows)) in curves.into_iter().take(STYLES).enumerate() {
            rows.sort_by(|one, other| {
                one.writes_per_second().partial_cmp(&other.writes_per_second()).expect("finite")
            });
            let medians = |figure: fn(&Distribution) -> f64| {
                rows.iter()
                    .filter_map(|row| Some((row.writes_per_second()?, row.latency_us(figure)?)))
                    .collect()
            };
            let repeats = rows.iter().filter(|row| row.runs.len() > 1).flat_map(|row| &row.runs);
            let repeats = repeats.map(|run| (run.writes.per_second, run.writes.latency_us.p50)).collect();
            let of = |name, kind, points| Series { name, style, kind, points };
            series.push(of(Some(name.to_owned()), Kind::Points, medians(|latency| latency.p50)));
            series.push(of(None, Kind::HollowPoints, medians(|latency| latency.p99)));
            series.push(of(None, Kind::Dots, repeats));
        }
        let points = || series.iter().flat_map(|series| &series.points);
        let x = Axis::fitted("writes per second", Scale::Linear, short_count, points().map(|(x, _)| *x));
        let y = Axis::fitted("write latency", Scale::Log, short_us, points().map(|(_, y)| *y));
        let title = "Latency against throughput".to_owned();
        let description = described(rows.iter().map(|row| {
            let rate = super::rows::rate(row);
            format!("{}: {rate}/s at a median of {}", row.name, super::rows::us(row.latency_us(|l| l.p50)))
        }));
        self.add(
            Chart { title, description, x, y, series, marks: Vec::new() },
            "Each case is a filled point at its median latency and a hollow one at its 99th percentile; small points \
             are single repeats. Right and low is better. Where several rates or numbers of clients were measured, \
             a curve that turns upwards shows the rate beyond which writes queue.",
        );
    }

    fn visible(&mut self, rows: &[Row<'_>]) {
        let series = rows.iter().enumerate().filter_map(|(style, row)| {
            let visible = merged(&row.typical().followers)?;
            Some(Series {
                name: Some(row.name.clone()),
                style,
                kind: Kind::Line,
                points: quantiles(&visible),
            })
        });
        let title = titled("When an acknowledged write can be read from a follower", rows);
        let description = "From the acknowledgement to the first read that found it".to_owned();
        self.add(
            quantile_chart(title, description, "until it was read", series.collect()),
            "From a write's acknowledgement to when a read of a follower found it, by probes of all followers: what a \
             client that reads its own writes from followers has to wait. It contains at least one round trip.",
        );
    }
}

/// A title, with the section if the rows are of one of several.
fn titled(title: &str, rows: &[Row<'_>]) -> String {
    match sections(rows).count() == 1 && !rows[0].section.is_empty() {
        true => format!("{title}, {}", rows[0].section),
        false => title.to_owned(),
    }
}

fn described(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("; ")
}

fn quantile_chart(title: String, description: String, label: &'static str, series: Vec<Series>) -> Chart {
    let numbers = series.iter().flat_map(|series| &series.points).map(|(_, y)| *y);
    let y = Axis::fitted(label, Scale::Log, short_us, numbers);
    let x = Axis::fitted("percentile of writes", Scale::Quantile, short_percent, std::iter::empty());
    Chart { title, description, x, y, series, marks: Vec::new() }
}

fn time_chart(
    title: String,
    label: &'static str,
    scale: Scale,
    shown: fn(f64) -> String,
    series: Vec<Series>,
    marks: Vec<Mark>,
) -> Chart {
    let points = || series.iter().flat_map(|series| &series.points);
    let y = Axis::fitted(label, scale, shown, points().map(|(_, y)| *y));
    let times = points().map(|(x, _)| x.ceil()).chain(marks.iter().map(|mark| mark.at));
    let x = Axis::fitted("seconds since measuring began", Scale::Time, short_count, times);
    let events: Vec<_> =
        marks.iter().map(|mark| format!("{} s {}", super::remarks::seconds(mark.at), mark.label)).collect();
    let description = match events.is_empty() {
        true => format!("{label} over time"),
        false => format!("{label} over time, with {}", events.join(", ")),
    };
    Chart { title, description, x, y, series, marks }
}

/// Latency at each quantile that so many numbers can tell; empty if the histogram cannot be read.
fn quantiles(distribution: &Distribution) -> Vec<(f64, f64)> {
    let Ok(histogram) = distribution.histogram() else { return Vec::new() };
    if histogram.is_empty() || distribution.hdr_scale == 0 {
        return Vec::new();
    }
    (0..=NINES * POINTS_PER_NINE)
        .map(|point| f64::from(point) / f64::from(POINTS_PER_NINE))
        .take_while(|nines| 10f64.powf(*nines) <= histogram.len() as f64)
        .map(|nines| 1.0 - 10f64.powf(-nines))
        .map(|quantile| {
            (quantile, histogram.value_at_quantile(quantile) as f64 / distribution.hdr_scale as f64)
        })
        .collect()
}

/// A figure of each second, at its middle.
fn seconds(run: &Run, figure: fn(&Second) -> f64) -> Vec<(f64, f64)> {
    thinned(run.seconds.iter().enumerate().map(|(number, second)| (number as f64 + 0.5, figure(second))))
}

/// At most [`POINTS_MAX`] points: of each few the greatest.
fn thinned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let points: Vec<_> = points.filter(|(x, y)| x.is_finite() && y.is_finite()).collect();
    let few = points.len().div_ceil(POINTS_MAX).max(1);
    points
        .chunks(few)
        .filter_map(|few| few.iter().copied().max_by(|one, other| one.1.total_cmp(&other.1)))
        .collect()
}

/// What was done in any of the runs, once if it was the same at about the same time.
fn marks<'a>(runs: impl Iterator<Item = &'a Run>) -> Vec<Mark> {
    let mut marks: Vec<Mark> = Vec::new();
    for run in runs {
        let near = run.duration_s / 50.0;
        for event in &run.events {
            let known = |mark: &Mark| mark.label == event.what && (mark.at - event.t_s).abs() <= near;
            if !marks.iter().any(known) {
                marks.push(Mark { at: event.t_s, label: event.what.clone() });
            }
        }
    }
    marks.sort_by(|one, other| one.at.total_cmp(&other.at));
    marks
}

fn bars_of(row: &Row<'_>) -> Vec<Bar> {
    let followers = row.typical().followers.iter();
    followers
        .filter_map(|follower| {
            let stages = follower.stages.as_ref()?;
            Some(Bar {
                name: format!("quorum {}, node {}", row.case.quorum, follower.node),
                queue: stages.queue_us.mean,
                network: stages.network_us.mean,
                disk: stages.disk_us.mean,
                sync: stages.sync_us.mean,
                apply: stages.apply_us.mean,
            })
        })
        .collect()
}

/// What the probes of all followers saw together; none if there were none.
fn merged(followers: &[Follower]) -> Option<Distribution> {
    let seen = followers.iter().filter_map(|follower| follower.visible_us.clone());
    seen.reduce(|one, other| one.merged(&other).unwrap_or(one)).filter(|seen| seen.count > 0)
}

/// Microseconds beside an axis: `500 µs`, `1 ms`, `2 s`.
fn short_us(us: f64) -> String {
    match us {
        ..1.0 => "0".to_owned(),
        ..1_000.0 => show_us(us.round() as u64),
        ..1_000_000.0 => format!("{} ms", significant(us / 1e3)),
        _ => format!("{} s", significant(us / 1e6)),
    }
}

/// A count beside an axis: `500`, `40k`, `1.2M`.
fn short_count(count: f64) -> String {
    match count {
        ..10_000.0 => significant(count),
        ..1_000_000.0 => format!("{}k", significant(count / 1e3)),
        _ => format!("{}M", significant(count / 1e6)),
    }
}

fn short_percent(quantile: f64) -> String {
    let shown = format!("{:.2}", quantile * 100.0);
    format!("{} %", shown.trim_end_matches('0').trim_end_matches('.'))
}

/// Two decimals at the most, and no zeros at the end.
fn significant(number: f64) -> String {
    let decimals = if number < 10.0 {
        2
    } else if number < 100.0 {
        1
    } else {
        0
    };
    let shown = format!("{number:.decimals$}");
    match shown.contains('.') {
        true => shown.trim_end_matches('0').trim_end_matches('.').to_owned(),
        false => shown,
    }
}
