//! The report for spreadsheets: a line per run, and a line per second of each run.
//!
//! RFC 4180, with a line of names first. Names end in their unit and stay the same; docs/REPORT.md explains them.
//! Followers are columns (`follower_2_lag_p50_us`), one group for each node that follows in any run, so that a run
//! is one line and nothing must be joined. What was not measured is empty.

use csv::Writer;

use super::rows::system;
use super::{Calls, Distribution, Follower, Report, Run, Second};
use crate::plan::Arrivals;

/// A column: its name, and what a line has in it.
type Column<T> = (&'static str, fn(&T) -> String);

const CASE: [Column<Run>; 4] = [
    ("case_number", |run| run.case_number.to_string()),
    ("repeat", |run| run.repeat.to_string()),
    ("system", |run| system(&run.case.system)),
    ("quorum", |run| run.case.quorum.to_string()),
];

const RUN: [Column<Run>; 38] = [
    ("replicas", |run| run.case.replicas.to_string()),
    ("durability", |run| run.case.durability.to_string()),
    ("leader", |run| run.case.leadership.to_string()),
    ("busy_poll_us", |run| optional(run.case.busy_poll.map(|time| time.as_micros()))),
    ("clients", |run| run.case.load.clients.to_string()),
    ("in_flight", |run| run.case.load.in_flight.to_string()),
    ("offered_per_second", |run| match run.case.load.arrivals {
        Arrivals::Closed => String::new(),
        Arrivals::Open { per_second, .. } => per_second.to_string(),
    }),
    ("reads_share", |run| run.case.load.reads.to_string()),
    ("value_bytes", |run| run.case.load.value_bytes.to_string()),
    ("keys", |run| run.case.load.keys.to_string()),
    ("links", |run| joined(&run.case.links)),
    ("faults", |run| joined(&run.case.faults)),
    ("began_unix_ms", |run| run.began_unix_ms.to_string()),
    ("duration_s", |run| run.duration_s.to_string()),
    ("interrupted", |run| run.interrupted.to_string()),
    ("writes_per_second", |run| run.writes.per_second.to_string()),
    ("writes_acknowledged", |run| run.writes.acknowledged.to_string()),
    ("writes_refused", |run| run.writes.refused.to_string()),
    ("writes_unknown", |run| run.writes.unknown.to_string()),
    ("write_latency_mean_us", |run| figure(&run.writes.latency_us, |latency| latency.mean)),
    ("write_latency_p50_us", |run| figure(&run.writes.latency_us, |latency| latency.p50)),
    ("write_latency_p90_us", |run| figure(&run.writes.latency_us, |latency| latency.p90)),
    ("write_latency_p99_us", |run| figure(&run.writes.latency_us, |latency| latency.p99)),
    ("write_latency_p99_9_us", |run| figure(&run.writes.latency_us, |latency| latency.p99_9)),
    ("write_latency_max_us", |run| figure(&run.writes.latency_us, |latency| latency.max)),
    ("write_service_p50_us", |run| figure(&run.writes.service_us, |service| service.p50)),
    ("write_service_p99_us", |run| figure(&run.writes.service_us, |service| service.p99)),
    ("reads_per_second", |run| reads(run, |reads| reads.per_second.to_string())),
    ("read_latency_p50_us", |run| reads(run, |reads| figure(&reads.latency_us, |latency| latency.p50))),
    ("read_latency_p99_us", |run| reads(run, |reads| figure(&reads.latency_us, |latency| latency.p99))),
    ("floor_us", |run| optional(run.floor.as_ref().map(|floor| floor.latency_us))),
    ("schedule_lag_p99_us", |run| figure(&run.generator.schedule_lag_us, |lag| lag.p99)),
    ("generator_fell_behind", |run| run.generator.fell_behind.to_string()),
    ("leader_cpu_us_per_write", |run| {
        optional(run.nodes.iter().find(|node| node.leader).and_then(|node| node.cpu_us_per_write))
    }),
    ("others_share", |run| optional(run.others_share)),
    ("verified_keys", |run| optional(run.verified.as_ref().map(|verified| verified.keys))),
    ("verified_lost", |run| optional(run.verified.as_ref().map(|verified| verified.lost))),
    ("events", |run| {
        let events: Vec<_> =
            run.events.iter().map(|event| format!("{:.1}s {}", event.t_s, event.what)).collect();
        joined(&events)
    }),
];

const FOLLOWER: [Column<Follower>; 14] = [
    ("lag_mean_us", |follower| lag(follower, |lag| lag.mean)),
    ("lag_p50_us", |follower| lag(follower, |lag| lag.p50)),
    ("lag_p99_us", |follower| lag(follower, |lag| lag.p99)),
    ("lag_max_us", |follower| lag(follower, |lag| lag.max)),
    ("queue_mean_us", |follower| optional(follower.stages.as_ref().map(|stages| stages.queue_us.mean))),
    ("network_mean_us", |follower| optional(follower.stages.as_ref().map(|stages| stages.network_us.mean))),
    ("disk_mean_us", |follower| optional(follower.stages.as_ref().map(|stages| stages.disk_us.mean))),
    ("sync_mean_us", |follower| optional(follower.stages.as_ref().map(|stages| stages.sync_us.mean))),
    ("apply_mean_us", |follower| optional(follower.stages.as_ref().map(|stages| stages.apply_us.mean))),
    ("entries_behind_max", |follower| follower.entries_behind_max.to_string()),
    ("bytes_behind_max", |follower| follower.bytes_behind_max.to_string()),
    ("visible_p50_us", |follower| visible(follower, |visible| visible.p50)),
    ("visible_p99_us", |follower| visible(follower, |visible| visible.p99)),
    ("probes_failed", |follower| follower.probes_failed.to_string()),
];

const SECOND: [Column<Second>; 7] = [
    ("writes", |second| second.writes.to_string()),
    ("reads", |second| second.reads.to_string()),
    ("refused", |second| second.refused.to_string()),
    ("unknown", |second| second.unknown.to_string()),
    ("p50_us", |second| second.p50_us.to_string()),
    ("p99_us", |second| second.p99_us.to_string()),
    ("max_us", |second| second.max_us.to_string()),
];

/// A line for each run.
pub fn runs(report: &Report) -> String {
    let nodes = follower_nodes(report);
    let names = CASE.iter().chain(&RUN).map(|(name, _)| (*name).to_owned());
    let of_followers =
        nodes.iter().flat_map(|node| FOLLOWER.iter().map(move |(name, _)| format!("follower_{node}_{name}")));
    let lines = report.runs.iter().map(|run| {
        let of_followers = nodes.iter().flat_map(|node| {
            let follower = run.followers.iter().find(|follower| follower.node == *node);
            FOLLOWER.iter().map(move |(_, value)| follower.map_or(String::new(), value))
        });
        CASE.iter().chain(&RUN).map(|(_, value)| value(run)).chain(of_followers).collect()
    });
    written(names.chain(of_followers).collect(), lines)
}

/// A line for each second of each run; of the samples of each follower, the greatest within the second.
pub fn seconds(report: &Report) -> String {
    let nodes = follower_nodes(report);
    let names = CASE.iter().map(|(name, _)| (*name).to_owned()).chain(["second".to_owned()]);
    let names = names.chain(SECOND.iter().map(|(name, _)| (*name).to_owned()));
    let of_followers = nodes
        .iter()
        .flat_map(|node| ["entries_behind_max", "lag_max_us"].map(|name| format!("follower_{node}_{name}")));
    let lines = report.runs.iter().flat_map(|run| {
        run.seconds.iter().enumerate().map(|(number, second)| {
            let mut line: Vec<String> = CASE.iter().map(|(_, value)| value(run)).collect();
            line.push(number.to_string());
            line.extend(SECOND.iter().map(|(_, value)| value(second)));
            line.extend(nodes.iter().flat_map(|node| greatest_of_second(run, *node, number)));
            line
        })
    });
    written(names.chain(of_followers).collect(), lines)
}

/// Entries behind and lag.
fn greatest_of_second(run: &Run, node: u8, second: usize) -> [String; 2] {
    let follower = run.followers.iter().filter(|follower| follower.node == node);
    let samples: Vec<_> = follower
        .flat_map(|follower| &follower.samples)
        .filter(|sample| sample.t_s >= 0.0 && sample.t_s as usize == second)
        .collect();
    [samples.iter().map(|sample| sample.entries).max(), samples.iter().map(|sample| sample.lag_us).max()]
        .map(optional)
}

/// Every node that follows in any run.
fn follower_nodes(report: &Report) -> Vec<u8> {
    let mut nodes: Vec<u8> =
        report.runs.iter().flat_map(|run| &run.followers).map(|follower| follower.node).collect();
    nodes.sort_unstable();
    nodes.dedup();
    nodes
}

fn written(names: Vec<String>, lines: impl Iterator<Item = Vec<String>>) -> String {
    let mut writer = Writer::from_writer(Vec::new());
    for line in std::iter::once(names).chain(lines) {
        writer.write_record(line).expect("all lines have a field for each name, and a Vec takes every byte");
    }
    let bytes = writer.into_inner().expect("a Vec takes every byte");
    String::from_utf8(bytes).expect("all fields are text")
}

fn joined<T: ToString>(parts: &[T]) -> String {
    parts.iter().map(T::to_string).collect::<Vec<_>>().join("; ")
}

fn optional<T: ToString>(value: Option<T>) -> String {
    value.map_or(String::new(), |value| value.to_string())
}

/// A figure of a distribution, unless it is of nothing.
fn figure(distribution: &Distribution, figure: fn(&Distribution) -> f64) -> String {
    optional((distribution.count > 0).then(|| figure(distribution)))
}

fn reads(run: &Run, value: fn(&Calls) -> String) -> String {
    run.reads.as_ref().map_or(String::new(), value)
}

fn lag(follower: &Follower, of: fn(&Distribution) -> f64) -> String {
    follower.lag_us.as_ref().map_or(String::new(), |lag| figure(lag, of))
}

fn visible(follower: &Follower, of: fn(&Distribution) -> f64) -> String {
    follower.visible_us.as_ref().map_or(String::new(), |visible| figure(visible, of))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{report, run, run_with_a_pause, whole};
    use super::*;
    use crate::plan::NodeLink;

    /// Names, then the fields of each line.
    fn read(text: &str) -> Vec<Vec<String>> {
        let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
        reader.records().map(|line| line.unwrap().iter().map(str::to_owned).collect()).collect()
    }

    fn field<'a>(lines: &'a [Vec<String>], line: usize, name: &str) -> &'a str {
        let column = lines[0].iter().position(|shown| shown == name).unwrap_or_else(|| panic!("no {name}"));
        &lines[line][column]
    }

    #[test]
    fn a_run_is_a_line_with_all_its_followers() {
        let lines = read(&runs(&whole()));
        assert_eq!(lines.len(), 1 + 3);
        assert_eq!(field(&lines, 2, "quorum"), "2");
        assert_eq!(field(&lines, 2, "writes_per_second"), "39000");
        assert_eq!(field(&lines, 3, "follower_3_entries_behind_max"), "512");
        assert_eq!(field(&lines, 1, "read_latency_p50_us"), "", "there were no reads");
    }

    #[test]
    fn commas_in_a_field_are_quoted() {
        let mut report = report();
        report.runs = vec![run(2)];
        report.runs[0].case.links = vec![NodeLink { node: 2, link: "5ms±1ms,10MB/s".parse().unwrap() }];
        let text = runs(&report);
        assert!(text.contains("\"link 2 = 5ms±1ms,10MB/s\""), "{text}");
        assert_eq!(field(&read(&text), 1, "links"), "link 2 = 5ms±1ms,10MB/s");
    }

    #[test]
    fn a_second_is_a_line_with_the_worst_of_its_samples() {
        let mut report = report();
        report.runs = vec![run_with_a_pause()];
        let lines = read(&seconds(&report));
        assert_eq!(lines.len(), 1 + 10);
        assert_eq!(field(&lines, 4, "second"), "3");
        let lag: u64 = field(&lines, 4, "follower_3_lag_max_us").parse().unwrap();
        assert!(lag >= 1_000_000, "node 3 stood still then: {lag}");
    }

    #[test]
    fn without_runs_there_are_names_alone() {
        assert_eq!(read(&runs(&report())).len(), 1);
        assert_eq!(read(&seconds(&report())).len(), 1);
    }
}
