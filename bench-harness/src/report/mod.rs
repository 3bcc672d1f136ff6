//! The report: what was measured, under which conditions. One result type; [`table`] shows it to people,
//! JSON is what is kept.
//!
//! The names and units of the JSON are a contract (`schema` 1): fields are added, never renamed. It holds
//! no NaN and no infinity. It is written after each case, whole or not at all.

pub mod table;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context;
use hdrhistogram::Histogram;
use quorate_protocol::Durability;
use serde::{Deserialize, Serialize};

use crate::environment::{Environment, utc};
use crate::failure::Failure;
use crate::lag::FollowerLag;
use crate::plan::{Case, Plan, durability_text};
use crate::verify::Verified;

/// Version of the JSON.
pub const SCHEMA: u32 = 1;

/// Name of the report in the output directory.
const FILE: &str = "report.json";

/// Where results go unless told otherwise, one directory below it for each report.
const RESULTS: &str = "results";

/// Everything that one command measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`]
    pub schema: u32,
    /// How far the plan was carried out.
    pub state: State,
    /// Why it was not carried out in full.
    pub error: Option<String>,
    /// What was asked.
    pub plan: Plan,
    /// Under which conditions.
    pub environment: Environment,
    /// One per case that was measured, in the plan's order.
    pub runs: Vec<Run>,
}

/// How far a plan was carried out.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Cases are still to come; in a file that nobody writes any more: the harness was killed.
    Running,
    /// All cases were measured.
    Complete,
    /// Somebody asked the harness to stop.
    Interrupted,
    /// A case could not be measured, or lost writes.
    Failed,
}

/// One measured case.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// m
    pub replicas: u8,
    /// n
    pub quorum: u8,
    /// What "durable" meant.
    #[serde(with = "durability_text")]
    pub durability: Durability,
    /// Clients, each with a connection of its own.
    pub clients: usize,
    /// Writes that each kept unanswered.
    pub in_flight: usize,
    /// Bytes of each value.
    pub value_bytes: usize,
    /// Different keys that were drawn from.
    pub keys: u64,
    /// Seconds that were measured; less than planned if the run was interrupted.
    pub duration_s: f64,
    /// Whether the run was cut short, and therefore not verified.
    pub interrupted: bool,
    /// What the clients saw.
    pub writes: Writes,
    /// How far each follower lagged.
    pub followers: Vec<FollowerLag>,
    /// Whether everything acknowledged is there; none if the run was cut short before that was known.
    pub verified: Option<Verified>,
}

/// The writes that began in the measured time.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Writes {
    /// Acknowledged.
    pub acknowledged: u64,
    /// Refused: they did not happen.
    pub refused: u64,
    /// Not answered in time, or the connection was lost: they may have happened.
    pub unknown: u64,
    /// Acknowledged per second.
    pub per_second: f64,
    /// From the call to its answer, of acknowledged and unknown writes.
    pub latency_us: Latency,
}

/// A distribution of latency, in microseconds; all 0 if there was none.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Mean, to a tenth.
    pub mean: f64,
    /// Median.
    pub p50: u64,
    /// 90th percentile.
    pub p90: u64,
    /// 99th percentile.
    pub p99: u64,
    /// 99.9th percentile.
    pub p99_9: u64,
    /// Longest.
    pub max: u64,
}

impl Report {
    /// Nothing is measured yet.
    pub fn new(plan: Plan, environment: Environment) -> Self {
        Self { schema: SCHEMA, state: State::Running, error: None, plan, environment, runs: Vec::new() }
    }

    /// Nothing more will be measured, and this is why.
    pub fn close(&mut self, end: Result<(), &Failure>) {
        self.state = match end {
            Ok(()) => State::Complete,
            Err(Failure::Interrupted) => State::Interrupted,
            Err(_) => State::Failed,
        };
        self.error = end.err().map(ToString::to_string);
    }

    /// As it is saved, with a newline at the end.
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("a report has text keys and finite numbers");
        json.push('\n');
        json
    }
}

impl Run {
    /// A case and what came of it.
    pub fn new(
        case: &Case,
        elapsed: Duration,
        writes: Writes,
        followers: Vec<FollowerLag>,
        verified: Option<Verified>,
    ) -> Self {
        Self {
            replicas: case.replicas,
            quorum: case.quorum,
            durability: case.durability,
            clients: case.load.clients,
            in_flight: case.load.in_flight,
            value_bytes: case.load.value_bytes,
            keys: case.load.keys,
            duration_s: elapsed.as_secs_f64(),
            interrupted: verified.is_none(),
            writes,
            followers,
            verified,
        }
    }
}

impl Latency {
    /// Sums up a histogram of nanoseconds.
    pub fn from_ns(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) / 1_000;
        Self {
            mean: tenths(histogram.mean() / 1_000.0),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p99_9: at(0.999),
            max: histogram.max() / 1_000,
        }
    }
}

/// Rounds to a tenth, and makes 0 of what is no number.
pub fn tenths(number: f64) -> f64 {
    if number.is_finite() { (number * 10.0).round() / 10.0 } else { 0.0 }
}

/// Where reports are saved.
#[derive(Clone, Debug)]
pub struct Output {
    directory: PathBuf,
}

impl Output {
    /// Makes the directory, and makes sure that a report can be written there: before anything is measured.
    pub fn prepare(directory: Option<&Path>) -> Result<Self, Failure> {
        let directory = directory.map_or_else(default_directory, Path::to_owned);
        let result = fs::create_dir_all(&directory).and_then(|()| tempfile::tempfile_in(&directory));
        match result {
            Ok(_) => Ok(Self { directory }),
            Err(error) => Err(Failure::WrongUse(format!(
                "no report can be written to {} ({error}): choose another --output",
                directory.display()
            ))),
        }
    }

    /// Where the report is.
    pub fn file(&self) -> PathBuf {
        self.directory.join(FILE)
    }

    /// Writes the report, replacing the one that is there only when all of it is written.
    pub fn save(&self, report: &Report) -> anyhow::Result<()> {
        let file = self.file();
        let write = || {
            let mut temporary =
                tempfile::Builder::new().permissions(readable()).tempfile_in(&self.directory)?;
            temporary.write_all(report.json().as_bytes())?;
            temporary.persist(&file).map_err(std::io::Error::from)
        };
        write().with_context(|| format!("the report cannot be written to {}", file.display()))?;
        Ok(())
    }
}

/// Temporary files are for their owner alone; a report is for everybody whom the umask allows.
fn readable() -> fs::Permissions {
    use std::os::unix::fs::PermissionsExt;
    fs::Permissions::from_mode(0o666)
}

/// Colons in names trouble other tools.
fn default_directory() -> PathBuf {
    Path::new(RESULTS).join(utc(SystemTime::now()).replace(':', "-"))
}

#[cfg(test)]
pub(crate) mod tests {
    use std::time::Duration;

    use super::*;
    use crate::environment::tests::environment;
    use crate::lag::LagTimes;
    use crate::plan::Load;

    pub(crate) fn case(quorum: u8) -> Case {
        let (second, load_keys) = (Duration::from_secs(1), 100_000);
        Case {
            replicas: 3,
            quorum,
            durability: Durability::Fsync,
            load: Load {
                clients: 64,
                in_flight: 1,
                value_bytes: 100,
                keys: load_keys,
                duration: second * 10,
                warmup: second * 2,
            },
        }
    }

    pub(crate) fn report() -> Report {
        Report::new(Plan { seed: 1, cases: vec![case(2)] }, environment())
    }

    pub(crate) fn run(quorum: u8) -> Run {
        let latency_us = Latency { mean: 1200.5, p50: 1154, p90: 1900, p99: 3210, p99_9: 9870, max: 41_000 };
        let writes =
            Writes { acknowledged: 532_140, refused: 0, unknown: 0, per_second: 53_214.0, latency_us };
        let lag = |node, p50| FollowerLag {
            node,
            lag_us: Some(LagTimes { p50, p99: 3 * p50, max: 40 * p50 }),
            lag_entries_max: 512,
        };
        let verified = Verified { keys: 99_512, ..Verified::default() };
        let followers = vec![lag(2, 420), lag(3, 433)];
        Run::new(&case(quorum), Duration::from_secs(10), writes, followers, Some(verified))
    }

    #[test]
    fn the_json_has_the_promised_names() {
        let mut report = report();
        report.runs.push(run(2));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["schema"], 1);
        assert_eq!(json["plan"]["seed"], 1);
        let run = &json["runs"][0];
        for (name, value) in [
            ("/replicas", 3.into()),
            ("/quorum", 2.into()),
            ("/durability", "fsync".into()),
            ("/clients", 64.into()),
            ("/in_flight", 1.into()),
            ("/value_bytes", 100.into()),
            ("/duration_s", 10.0.into()),
            ("/writes/acknowledged", 532_140.into()),
            ("/writes/refused", 0.into()),
            ("/writes/unknown", 0.into()),
            ("/writes/per_second", 53_214.0.into()),
            ("/writes/latency_us/mean", 1200.5.into()),
            ("/writes/latency_us/p50", 1154.into()),
            ("/writes/latency_us/p90", 1900.into()),
            ("/writes/latency_us/p99", 3210.into()),
            ("/writes/latency_us/p99_9", 9870.into()),
            ("/writes/latency_us/max", 41_000.into()),
            ("/followers/0/node", 2.into()),
            ("/followers/0/lag_us/p50", 420.into()),
            ("/followers/0/lag_us/p99", 1260.into()),
            ("/followers/0/lag_us/max", 16_800.into()),
            ("/followers/0/lag_entries_max", 512.into()),
            ("/verified/keys", 99_512.into()),
            ("/verified/lost", 0.into()),
        ] {
            assert_eq!(run.pointer(name), Some::<&serde_json::Value>(&value), "{name}");
        }
        assert_eq!(serde_json::from_str::<Report>(&report.json()).unwrap(), report);
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let mut report = report();
        let mut measured = run(2);
        measured.followers[1].lag_us = None;
        let seconds = Duration::from_secs(1);
        report.runs.push(Run::new(&case(2), seconds, measured.writes, measured.followers, None));
        let json: serde_json::Value = serde_json::from_str(&report.json()).unwrap();
        assert_eq!(json["runs"][0]["verified"], serde_json::Value::Null);
        assert_eq!(json["runs"][0]["interrupted"], true);
        assert_eq!(json["runs"][0]["followers"][1]["lag_us"], serde_json::Value::Null);
        assert_eq!(serde_json::from_str::<Report>(&report.json()).unwrap(), report);
    }

    #[test]
    fn a_run_without_a_single_write_has_numbers_all_the_same() {
        let nothing = Latency::from_ns(&Histogram::new(3).unwrap());
        assert_eq!(nothing, Latency::default());
        assert_eq!([f64::NAN, f64::INFINITY, 1.26].map(tenths), [0.0, 0.0, 1.3]);
    }

    #[test]
    fn percentiles_are_of_all_recorded_latencies() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        (1..=1000u64).for_each(|us| histogram.record(us * 1_000).unwrap());
        let latency = Latency::from_ns(&histogram);
        for (shown, expected) in [
            (latency.p50, 500),
            (latency.p90, 900),
            (latency.p99, 990),
            (latency.p99_9, 999),
            (latency.max, 1000),
        ] {
            assert!(shown.abs_diff(expected) <= 1, "{latency:?}");
        }
        assert!((latency.mean - 500.5).abs() < 1.0, "{latency:?}");
    }

    #[test]
    fn a_saved_report_replaces_the_one_before() {
        let directory = tempfile::tempdir().unwrap();
        let output = Output::prepare(Some(&directory.path().join("new"))).unwrap();
        let mut report = report();
        output.save(&report).unwrap();
        report.close(Err(&Failure::Interrupted));
        output.save(&report).unwrap();
        let saved: Report = serde_json::from_str(&fs::read_to_string(output.file()).unwrap()).unwrap();
        assert_eq!(saved, report);
        assert_eq!((saved.state, saved.error.as_deref()), (State::Interrupted, Some("interrupted")));
        assert_eq!(fs::read_dir(directory.path().join("new")).unwrap().count(), 1, "only the report");
    }
}
