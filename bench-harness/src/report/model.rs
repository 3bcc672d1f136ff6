//! What was measured, under which conditions: the one result type of which every format is made.
//!
//! Its JSON is a contract (`schema` 2, written out in docs/REPORT.md): fields are added, never renamed. It holds
//! no NaN and no infinity. What was not measured is null, never 0. Times end in their unit.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::Distribution;
use crate::environment::Environment;
use crate::failure::Failure;
use crate::floor::Floor;
use crate::peers::PeerDescription;
use crate::plan::{Case, Plan, Step, System};
use crate::resources::{MachineUsage, Usage};
use crate::verify::Verified;

/// Version of the JSON.
pub const SCHEMA: u32 = 2;

/// Everything that one command measured.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`]
    pub schema: u32,
    /// How far the plan was carried out.
    pub state: State,
    /// Why it was not carried out in full.
    pub error: Option<String>,
    /// Under which conditions.
    pub environment: Environment,
    /// What was asked.
    pub plan: Plan,
    /// One per measurement, in the order in which they were made.
    pub runs: Vec<Run>,
    /// What came of a search for the highest rate that keeps a goal, if one was asked for.
    pub goal: Option<Goal>,
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

/// One measurement of one case.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Position of its case in the plan.
    pub case_number: usize,
    /// The how-manieth measurement of it, from 1.
    pub repeat: u32,
    /// The case; for a cluster that ran already, with the m, n and durability that it told.
    pub case: Case,
    /// When measuring began, in milliseconds since 1970 (UTC).
    pub began_unix_ms: u64,
    /// Seconds that were measured; less than planned if the run was interrupted.
    pub duration_s: f64,
    /// Whether the run was cut short, and therefore not verified.
    pub interrupted: bool,
    /// Writes that were due in the measured time.
    pub writes: Calls,
    /// Reads that were due in the measured time; none if none was asked for.
    pub reads: Option<Calls>,
    /// How well the generator kept its schedule.
    pub generator: Generator,
    /// What happened in each second of the measured time.
    pub seconds: Vec<Second>,
    /// How far each follower lagged; empty for another system than Quorate.
    pub followers: Vec<Follower>,
    /// What each node used.
    pub nodes: Vec<Node>,
    /// What the harness itself used: generator, watching, and the proxy if there was one.
    pub harness: Option<Usage>,
    /// What the whole machine did meanwhile.
    pub machine: Option<MachineUsage>,
    /// Part of the machine, 0 to 1, that neither nodes nor harness used: what disturbed the run.
    pub others_share: Option<f64>,
    /// What was done to the cluster, and when.
    pub events: Vec<Event>,
    /// Followers that were behind and caught up.
    pub catch_ups: Vec<CatchUp>,
    /// The least latency that a write could have had on this machine; none for another system than Quorate, or
    /// for a cluster on other machines.
    pub floor: Option<Floor>,
    /// Another system's own words: version, settings, what its acknowledgement means.
    pub peer: Option<PeerDescription>,
    /// Whether everything acknowledged is there; none if that was not checked.
    pub verified: Option<Verified>,
    /// Who began to lead in the measured time, and when that was noticed.
    #[serde(default)]
    pub leaders: Vec<LeaderSeen>,
    /// Time to each number of copies, from progressive receipts: null until the server sends them.
    pub receipts: Option<serde_json::Value>,
}

/// Calls of one kind.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Calls {
    /// Done, and known to be.
    pub acknowledged: u64,
    /// Refused: they did not happen.
    pub refused: u64,
    /// Not answered in time, or the connection was lost: they may have happened.
    pub unknown: u64,
    /// Refused and unknown ones by their reason.
    pub reasons: BTreeMap<String, u64>,
    /// Acknowledged per second of the measured time.
    pub per_second: f64,
    /// From when a call was due to its answer, in microseconds, of acknowledged and unknown ones.
    pub latency_us: Distribution,
    /// From when a call was sent to its answer, in microseconds: what a closed loop sees.
    pub service_us: Distribution,
}

/// How well the generator kept its schedule.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Generator {
    /// Calls that were due in the measured time.
    pub scheduled: u64,
    /// Of them, those that were made: all, unless the run was cut short.
    pub issued: u64,
    /// From when a call was due to when it was sent, in microseconds; zero in a closed loop.
    pub schedule_lag_us: Distribution,
    /// Calls that were due while every client had as many unanswered as it may.
    pub waited_for_slot: u64,
    /// Calls that were sent more than a millisecond late although a client was free.
    pub late: u64,
    /// Whether the generator, and not the server, may have shaped the figures.
    pub fell_behind: bool,
}

/// What happened in one second, by when calls were due.
#[derive(Clone, Copy, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Second {
    /// Writes acknowledged.
    pub writes: u64,
    /// Reads answered.
    pub reads: u64,
    /// Calls refused.
    pub refused: u64,
    /// Calls whose outcome is unknown.
    pub unknown: u64,
    /// Median latency of all calls, in microseconds.
    pub p50_us: u64,
    /// 99th percentile.
    pub p99_us: u64,
    /// Longest.
    pub max_us: u64,
}

/// How far a follower was behind its leader, on the leader's clock.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Follower {
    /// The follower.
    pub node: u8,
    /// From an entry's append at the leader to this follower's acknowledgement, in microseconds; none if it
    /// acknowledged nothing in the measured time.
    pub lag_us: Option<Distribution>,
    /// Where that time went; none if it acknowledged nothing.
    pub stages: Option<Stages>,
    /// The most entries that it was behind.
    pub entries_behind_max: u64,
    /// The most bytes that it was behind.
    pub bytes_behind_max: u64,
    /// What a client sees: from the acknowledgement of a write to when a read of this follower finds it, in
    /// microseconds, by probes; none without probes.
    pub visible_us: Option<Distribution>,
    /// Probes that were not answered in time.
    pub probes_failed: u64,
    /// How far it was behind over time.
    pub samples: Vec<LagSample>,
}

/// Where a follower's lag comes from, in microseconds. The means of queue, network and disk add up to the lag's.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Stages {
    /// From an entry's append at the leader to when it was sent.
    pub queue_us: Distribution,
    /// Both ways between the nodes, and the waking up at both ends: what is left.
    pub network_us: Distribution,
    /// From an entry's receipt at the follower to when it is durable there, its wait for the sync before it
    /// included.
    pub disk_us: Distribution,
    /// Of that, the write and sync itself.
    pub sync_us: Distribution,
    /// From the acknowledgement to when the follower had applied it.
    pub apply_us: Distribution,
}

/// How far a follower was behind at one moment.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct LagSample {
    /// Seconds since measuring began.
    pub t_s: f64,
    /// Entries that it did not hold durably.
    pub entries: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Age of the oldest of them, in microseconds; 0 if there was none.
    pub lag_us: u64,
}

/// A node that began to lead.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LeaderSeen {
    /// Seconds after measuring began, when it was noticed: up to some tenths of a second late.
    pub t_s: f64,
    /// The node.
    pub node: u8,
    /// In this term.
    pub term: u64,
}

/// What one node did and used in the measured time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Node {
    /// The node.
    pub node: u8,
    /// Whether it led at the end.
    pub leader: bool,
    /// What its process used; none if it runs on another machine.
    pub usage: Option<Usage>,
    /// CPU per acknowledged write, in microseconds.
    pub cpu_us_per_write: Option<f64>,
    /// Bytes that reached the disk per acknowledged write.
    pub disk_bytes_per_write: Option<f64>,
    /// How its log was written; none for another system than Quorate.
    pub log: Option<LogUsage>,
}

/// How a node's log was written in the measured time.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct LogUsage {
    /// Writes, each with its sync.
    pub syncs: u64,
    /// Entries in them.
    pub entries: u64,
    /// Bytes of entries in them.
    pub bytes: u64,
    /// Part of the time that the log thread spent writing and syncing, 0 to 1.
    pub busy: f64,
    /// Entries in one write.
    pub batch_entries: Distribution,
    /// Time of one write and sync, in microseconds.
    pub sync_us: Distribution,
}

/// Something that was done to the cluster.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Event {
    /// Seconds since measuring began.
    pub t_s: f64,
    /// What, as the plan has it.
    pub what: String,
}

/// A follower that was behind, from when it could catch up.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct CatchUp {
    /// The follower.
    pub node: u8,
    /// When it could begin, in seconds since measuring began.
    pub t_s: f64,
    /// Entries that it lacked then.
    pub entries: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Seconds until it was no further behind than followers are under this load; none if the run ended first.
    pub drained_s: Option<f64>,
}

/// The highest rate that keeps a goal.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Goal {
    /// As it was asked for: `p99=5ms`.
    pub goal: String,
    /// The highest rate that kept it, in calls per second; none if the lowest tried did not.
    pub per_second: Option<f64>,
    /// What was tried, in order; each is one of the report's runs.
    pub trials: Vec<Trial>,
}

/// One rate that was tried.
#[derive(Clone, Copy, PartialEq, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Calls per second that were asked for.
    pub asked_per_second: f64,
    /// Acknowledged per second.
    pub per_second: f64,
    /// The latency that the goal is about, in microseconds.
    pub latency_us: f64,
    /// Whether the goal was kept, and all calls were acknowledged.
    pub kept: bool,
}

impl Report {
    /// Nothing is measured yet.
    pub fn new(environment: Environment, plan: Plan) -> Self {
        Self {
            schema: SCHEMA,
            state: State::Running,
            error: None,
            environment,
            plan,
            runs: Vec::new(),
            goal: None,
        }
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

    /// Something more will be measured: what was cut short is measured again.
    pub fn reopen(&mut self) {
        self.runs.retain(|run| !run.interrupted);
        (self.state, self.error) = (State::Running, None);
    }

    /// As it is saved, with a newline at the end.
    pub fn json(&self) -> String {
        let mut json = serde_json::to_string_pretty(self).expect("a report has text keys and finite numbers");
        json.push('\n');
        json
    }

    /// Whether a measurement was made, and not cut short.
    pub fn has(&self, step: Step) -> bool {
        self.repeats_of(step.case).any(|run| run.repeat == step.repeat)
    }

    /// The runs of one case that were not cut short.
    pub fn repeats_of(&self, case_number: usize) -> impl Iterator<Item = &Run> {
        self.runs.iter().filter(move |run| run.case_number == case_number && !run.interrupted)
    }
}

impl Run {
    /// Quorum, and what else tells this case from the others of the report: what a row or a curve is named after.
    pub fn label(&self) -> String {
        self.case.to_string()
    }

    /// Whether it is one of Quorate's.
    pub fn is_quorate(&self) -> bool {
        !matches!(self.case.system, System::Peer(_))
    }
}
