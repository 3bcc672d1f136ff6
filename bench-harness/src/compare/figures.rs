//! The figures of a run that are compared, and which way is better.

use serde::Serialize;

use crate::report::{Distribution, Follower, Node, Run};
use crate::units::{show_bytes, show_count, show_us};

/// One figure of a run.
#[derive(Debug)]
pub struct Figure {
    /// Its name in JSON and on the command line; the unit comes last.
    pub key: &'static str,
    /// Its name in a table.
    pub name: &'static str,
    /// What it is counted in.
    pub unit: Unit,
    /// Which way is better.
    pub better: Better,
    /// Its number in a run; none if it was not measured there.
    pub of: fn(&Run) -> Option<f64>,
}

/// What a figure is counted in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Unit {
    /// Calls per second.
    PerSecond,
    /// Microseconds.
    Microseconds,
    /// Seconds.
    Seconds,
    /// Bytes.
    Bytes,
}

/// Which way is better.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Better {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
}

/// All figures, in the order in which they are shown.
///
/// Lag is that of the follower that is worst in each run, as nothing tells followers apart that are equal. A run in
/// which a follower acknowledged nothing has no lag: leaving that follower out would make it look better.
/// Processor time and disk are the leader's; memory is that of the node that held most.
pub const FIGURES: [Figure; 19] = [
    Figure::rate("writes_per_s", "writes/s", |run| Some(run.writes.per_second)),
    Figure::time("write_p50_us", "write p50", |run| of_writes(run, |latency| latency.p50)),
    Figure::time("write_p90_us", "write p90", |run| of_writes(run, |latency| latency.p90)),
    Figure::time("write_p99_us", "write p99", |run| of_writes(run, |latency| latency.p99)),
    Figure::time("write_p99_9_us", "write p99.9", |run| of_writes(run, |latency| latency.p99_9)),
    Figure::time("write_max_us", "write max", |run| of_writes(run, |latency| latency.max)),
    Figure::rate("reads_per_s", "reads/s", |run| Some(run.reads.as_ref()?.per_second)),
    Figure::time("read_p50_us", "read p50", |run| of_reads(run, |latency| latency.p50)),
    Figure::time("read_p90_us", "read p90", |run| of_reads(run, |latency| latency.p90)),
    Figure::time("read_p99_us", "read p99", |run| of_reads(run, |latency| latency.p99)),
    Figure::time("read_p99_9_us", "read p99.9", |run| of_reads(run, |latency| latency.p99_9)),
    Figure::time("read_max_us", "read max", |run| of_reads(run, |latency| latency.max)),
    Figure::time("lag_p50_us", "lag p50", |run| worst(run, |node| some(node.lag_us.as_ref(), |lag| lag.p50))),
    Figure::time("lag_p99_us", "lag p99", |run| worst(run, |node| some(node.lag_us.as_ref(), |lag| lag.p99))),
    Figure::time("visible_p99_us", "visible p99", |run| {
        worst(run, |node| some(node.visible_us.as_ref(), |times| times.p99))
    }),
    Figure {
        key: "catch_up_s",
        name: "catch-up",
        unit: Unit::Seconds,
        better: Better::Lower,
        of: |run| greatest(run.catch_ups.iter().map(|catch_up| catch_up.drained_s)),
    },
    Figure::time("leader_cpu_us_per_write", "CPU per write", |run| leader(run)?.cpu_us_per_write),
    Figure::size("leader_disk_bytes_per_write", "disk per write", |run| leader(run)?.disk_bytes_per_write),
    Figure::size("memory_peak_bytes", "memory peak", |run| {
        greatest(run.nodes.iter().map(|node| Some(node.usage.as_ref()?.rss_peak_bytes as f64)))
    }),
];

impl Figure {
    const fn rate(key: &'static str, name: &'static str, of: fn(&Run) -> Option<f64>) -> Self {
        Self { key, name, unit: Unit::PerSecond, better: Better::Higher, of }
    }

    const fn time(key: &'static str, name: &'static str, of: fn(&Run) -> Option<f64>) -> Self {
        Self { key, name, unit: Unit::Microseconds, better: Better::Lower, of }
    }

    const fn size(key: &'static str, name: &'static str, of: fn(&Run) -> Option<f64>) -> Self {
        Self { key, name, unit: Unit::Bytes, better: Better::Lower, of }
    }

    /// Its numbers in those runs where it was measured.
    pub fn of_runs(&self, runs: &[&Run]) -> Vec<f64> {
        runs.iter().filter_map(|run| (self.of)(run)).collect()
    }

    /// A number of it, for people.
    pub fn show(&self, number: f64) -> String {
        match self.unit {
            Unit::PerSecond => show_count(number.round() as u64),
            Unit::Microseconds if number < 100.0 => format!("{number:.1} µs"),
            Unit::Microseconds => show_us(number.round() as u64),
            Unit::Seconds => show_us((number * 1e6).round() as u64),
            Unit::Bytes => show_bytes(number.round() as u64),
        }
    }
}

/// Finds a figure by its key, as on the command line. The error is a sentence for the person who typed it.
pub fn parse(key: &str) -> Result<&'static Figure, String> {
    FIGURES.iter().find(|figure| figure.key == key).ok_or_else(|| {
        let keys: Vec<_> = FIGURES.iter().map(|figure| figure.key).collect();
        format!("\"{key}\" is no figure: choose from {}", keys.join(", "))
    })
}

/// A figure is what its key says.
impl PartialEq for Figure {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

fn of_writes(run: &Run, number: fn(&Distribution) -> f64) -> Option<f64> {
    some(Some(&run.writes.latency_us), number)
}

fn of_reads(run: &Run, number: fn(&Distribution) -> f64) -> Option<f64> {
    some(run.reads.as_ref().map(|reads| &reads.latency_us), number)
}

/// Of a distribution of nothing every figure is 0, which is no measurement.
fn some(distribution: Option<&Distribution>, number: fn(&Distribution) -> f64) -> Option<f64> {
    distribution.filter(|distribution| distribution.count > 0).map(number)
}

fn worst(run: &Run, number: fn(&Follower) -> Option<f64>) -> Option<f64> {
    greatest(run.followers.iter().map(number))
}

fn leader(run: &Run) -> Option<&Node> {
    run.nodes.iter().find(|node| node.leader)
}

/// None if one is missing, or all.
fn greatest(numbers: impl Iterator<Item = Option<f64>>) -> Option<f64> {
    let numbers: Option<Vec<f64>> = numbers.collect();
    numbers?.into_iter().max_by(f64::total_cmp)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::CatchUp;
    use crate::report::sample::run;

    fn number(key: &str, run: &Run) -> Option<f64> {
        (parse(key).unwrap().of)(run)
    }

    #[test]
    fn every_figure_is_found_by_its_key_alone() {
        for figure in &FIGURES {
            assert_eq!(parse(figure.key).unwrap().name, figure.name);
        }
        assert!(parse("speed").unwrap_err().contains("choose from writes_per_s, write_p50_us"));
    }

    #[test]
    fn what_was_not_measured_is_no_number() {
        let mut run = run(2);
        assert_eq!((number("reads_per_s", &run), number("read_p50_us", &run)), (None, None));
        run.writes.latency_us = Distribution::default();
        assert_eq!(number("write_p99_us", &run), None);
        run.nodes.clear();
        assert_eq!(
            (number("leader_cpu_us_per_write", &run), number("memory_peak_bytes", &run)),
            (None, None)
        );
    }

    #[test]
    fn lag_is_that_of_the_worst_follower_and_unknown_if_one_acknowledged_nothing() {
        let mut run = run(2);
        run.followers[1].lag_us.as_mut().unwrap().p99 = 1e6;
        assert_eq!(number("lag_p99_us", &run), Some(1e6));
        run.followers[0].lag_us = None;
        assert_eq!(number("lag_p99_us", &run), None);
        run.followers.clear();
        assert_eq!(number("lag_p99_us", &run), None);
    }

    #[test]
    fn a_follower_that_never_caught_up_is_no_quick_one() {
        let mut run = run(2);
        assert_eq!(number("catch_up_s", &run), None);
        let catch_up = |drained_s| CatchUp { node: 3, t_s: 5.0, entries: 1, bytes: 160, drained_s };
        run.catch_ups = vec![catch_up(Some(0.4)), catch_up(Some(0.9))];
        assert_eq!(number("catch_up_s", &run), Some(0.9));
        run.catch_ups[0].drained_s = None;
        assert_eq!(number("catch_up_s", &run), None);
    }

    #[test]
    fn numbers_are_shown_in_their_unit() {
        let shown = |key, number| parse(key).unwrap().show(number);
        assert_eq!(shown("writes_per_s", 39_000.4), "39,000");
        assert_eq!(shown("leader_cpu_us_per_write", 12.5), "12.5 µs");
        assert_eq!(shown("write_p50_us", 1_234.0), "1.23 ms");
        assert_eq!(shown("catch_up_s", 0.4), "400 ms");
        assert_eq!(shown("memory_peak_bytes", 131_072.0), "128 KiB");
    }
}
