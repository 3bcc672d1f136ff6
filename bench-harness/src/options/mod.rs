//! The command line: what may be asked, its defaults, and the advice when it makes no sense.
//!
//! Everything is checked here, once, before anything is started or written; a [`Plan`](crate::plan::Plan) that comes
//! out can be run.

mod measure;
mod words;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::{Parser, Subcommand, ValueEnum};
use quorate_server::cli::reference::Reference;

use crate::compare::figures::{self, FIGURES, Figure};
use crate::failure::Failure;
use crate::units::parse_bytes;

pub use measure::{Measure, Versus, Where};
pub use words::{GoalOf, LatencyGoal, List, Quorum};

/// Least --alpha: 12 repeats on each side can show a difference at it.
const ALPHA_MIN: f64 = 0.000_001;

/// Greatest --alpha.
const ALPHA_MAX: f64 = 0.5;

const ABOUT: &str = "Starts a real Quorate cluster, loads it, and shows what the quorum costs.";

const LONG_ABOUT: &str = "\
Starts a real cluster of Quorate server processes on this machine, loads it through the real protocol, and
shows for each quorum the latency of writes and how far the followers lag behind the leader.

A write is acknowledged when N of the M replicas hold it durably, the leader included. N=1 waits for the
leader's disk alone; N=M waits for every replica. After each run the harness checks that every
acknowledged write is on the leader and on every follower.";

const EXAMPLES: &str = "\
Examples:
  bench-harness                                        3 replicas, quorum 2, 64 clients, 10 s
  bench-harness --quorum all                           one row for each quorum: 1, 2 and 3 of 3
  bench-harness --replicas 3,5 --quorum all --repeats 5  every quorum of both, five times, shuffled
  bench-harness --rate 2000 --clients 16 --in-flight 64  open loop: 2,000 calls a second, come what may
  bench-harness --leader 1 --quorum all --link 3=5ms±1ms   one follower is far away
  bench-harness --fault '3s pause follower' --fault '6s resume follower'   one stands still for three seconds
  bench-harness --scenario catch-up --backlog 64MiB    how long a follower takes to drain a backlog
  bench-harness --quorum all --scenario leader-kill    how long writes stop when the leader is killed
  bench-harness --slo p99=5ms                          the highest rate at which p99 stays below 5 ms
  bench-harness --connect 10.0.0.1:7401,10.0.0.2:7401  a cluster that runs already
  bench-harness versus                                 against every other system that is installed
  bench-harness compare results/A results/B            what got slower, and whether that is chance
  bench-harness --quorum all --dry-run > plan.json     what would be done; --plan plan.json does it

Faults: 'WHEN ACTION', WHEN a time since measuring began or 'behind NODE BYTES'; the actions are pause N, resume N,
kill N, restart N, slow-sync N TIME, link N LINK, cut A>B, isolate N, heal. A node is a number, leader, or follower (of
those that do not lead the highest number).
Links: a delay each way, jitter, bytes per second: 5ms, 5ms±1ms (or 5ms+-1ms), 10MB/s, 5ms±1ms,10MB/s.

Exit codes: 0 done, 1 acknowledged writes lost or a run failed, 2 wrong use, 130 interrupted.
Results are saved in --output after each run: report.json, .csv, .md and .html, and the plan. Nodes end when the
harness does, however it ends.";

/// What the command line asks for.
#[derive(Parser, Clone, Debug)]
#[command(name = "bench-harness", version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES,
    args_conflicts_with_subcommands = true, max_term_width = 120)]
pub struct Options {
    /// What else than to measure.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// What to measure.
    #[command(flatten)]
    pub measure: Measure,
}

/// What else can be asked for.
#[derive(Subcommand, Clone, Debug)]
pub enum Command {
    /// Tell what changed from one report to another, and whether that may be chance
    Compare(Compare),
    /// Measure Quorate and every other system that is installed with the same load, in turn
    Versus(Versus),
    /// Write the formats of a report again, or merge the reports of several generators into one
    Report(Merge),
    /// Print what shells and man(1) are told about this program
    #[command(flatten)]
    Reference(Reference),
}

/// Two reports to compare.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = COMPARE_HELP)]
pub struct Compare {
    /// Before: a report.json, or the directory it is in
    #[arg(value_name = "A")]
    pub before: PathBuf,
    /// After; leave it out to see how equal runs of A differ among themselves
    #[arg(value_name = "B")]
    pub after: Option<PathBuf>,
    /// How rarely chance alone may be called a difference
    #[arg(long, value_name = "P", default_value = "0.01", value_parser = parse_alpha)]
    pub alpha: f64,
    /// How much worse a figure may get before the exit code is 1
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = words::parse_percent)]
    pub tolerance: f64,
    /// Compare these figures alone, such as writes_per_s,write_p99_us [default: all]
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', value_parser = figures::parse)]
    pub figure: Vec<&'static Figure>,
    /// What is printed
    #[arg(long, value_enum, default_value_t = CompareFormat::Table)]
    pub format: CompareFormat,
}

const COMPARE_HELP: &str = "\
A verdict needs repeats: at least five of each case in both reports (--repeats 5) at the default of 1 %; single runs
get none. Cases are matched by what they are, whatever their duration; figures are compared over the repeats by the
Mann-Whitney U test, each at --alpha by itself. The more figures, the more false alarms: a check in CI does well to
name the few that count, as in --figure writes_per_s,write_p99_us --tolerance 5%.

Without B, runs of A are compared with one another, which takes ten of a case: how often equal runs are called
different, and whether the machine drifts.

Exit codes: 0 nothing got significantly worse by more than the tolerance, or nothing could be judged, which a warning
says; 1 something did; 2 wrong use, or reports that have no case in common.";

impl Compare {
    /// The figures to compare.
    pub fn figures(&self) -> Vec<&'static Figure> {
        if self.figure.is_empty() { FIGURES.iter().collect() } else { self.figure.clone() }
    }
}

/// How a comparison is printed.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum CompareFormat {
    /// A table for people
    Table,
    /// A table for a page
    Markdown,
    /// For scripts
    Json,
}

/// Reports to write again.
#[derive(clap::Args, Clone, Debug)]
pub struct Merge {
    /// Reports of generators that loaded one cluster at the same time, or a single one: files or directories
    #[arg(value_name = "REPORT", required = true)]
    pub reports: Vec<PathBuf>,
    /// Where the result goes [default: where a single report is, a new directory in ./results for several]
    #[arg(long, value_name = "DIR")]
    pub output: Option<PathBuf>,
    /// What is printed
    #[arg(long, value_enum, default_value_t = Format::Table)]
    pub format: Format,
}

/// What goes to standard output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// A table for people
    Table,
    /// The report as it is saved
    Json,
    /// A table for a page
    Markdown,
    /// One line for each run
    Csv,
}

impl Options {
    /// Reads a command line, program name first. `Ok(None)` if it asked for help or the version, which has
    /// then been printed.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Option<Self>, Failure> {
        match Self::try_parse_from(arguments) {
            Ok(options) => Ok(Some(options)),
            Err(help) if matches!(help.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
                print!("{help}");
                Ok(None)
            }
            Err(error) => Err(Failure::WrongUse(one_line(&error.to_string()))),
        }
    }
}

/// clap explains itself over several lines; its usage lines say less than `--help`.
fn one_line(error: &str) -> String {
    let sentences: Vec<_> = error
        .lines()
        .take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"))
        .map(|line| line.trim().trim_start_matches("error: "))
        .filter(|line| !line.is_empty())
        .collect();
    format!("{}; bench-harness --help explains the options", sentences.join(" "))
}

/// From what no number of repeats would reach to what nobody would call rare.
fn parse_alpha(text: &str) -> Result<f64, String> {
    let alpha = text.parse().ok().filter(|alpha| (ALPHA_MIN..=ALPHA_MAX).contains(alpha));
    alpha.ok_or_else(|| {
        format!(
            "\"{text}\" is no probability to go by: write one from {ALPHA_MIN} to {ALPHA_MAX}, such as 0.01"
        )
    })
}

/// Sizes from 1 B.
fn parse_backlog(text: &str) -> Result<u64, String> {
    parse_bytes(text)
}
