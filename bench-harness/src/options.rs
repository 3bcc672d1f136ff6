//! The command line: what may be asked, its defaults, and the advice when it makes no sense.
//!
//! Everything is checked here, once; a [`Plan`] that comes out can be run.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Parser, ValueEnum};
use quorate_client::load::VALUE_BYTES_MIN;
use quorate_protocol::{Durability, Quorums, limits};

use crate::failure::Failure;
use crate::plan::{Case, Load, Plan, durability_text};
use crate::units::{counted, parse_bytes, parse_duration};

/// Clients of one run: each is a TCP connection, of which a server takes 4,096 at once.
const CLIENTS_MAX: usize = 4_000;

/// Unanswered writes of one client: as many as a server takes from one connection.
const IN_FLIGHT_MAX: usize = 16 << 10;

/// Different keys of one run: the harness remembers what it wrote to each.
const KEYS_MAX: u64 = 100_000_000;

/// Longest measured time and longest warm-up of a case.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Files that harness and nodes open besides one connection per client.
const OPEN_FILES_SPARE: u64 = 100;

const ABOUT: &str = "Starts a real Quorate cluster, loads it, and shows what the quorum costs.";

const LONG_ABOUT: &str = "\
Starts a real cluster of Quorate server processes on this machine, loads it through the real protocol, and
shows for each quorum the latency of writes and how far the followers lag behind the leader.

A write is acknowledged when N of the M replicas hold it durably, the leader included. N=1 waits for the
leader's disk alone; N=M waits for every replica. After each run the harness checks that every
acknowledged write is on the leader and on every follower.";

const EXAMPLES: &str = "\
Examples:
  bench-harness                                    3 replicas, quorum 2, 64 clients, 10 s
  bench-harness --quorum all                       one row for each quorum: 1, 2 and 3 of 3
  bench-harness --replicas 5 --quorum 1,3,5        three of the five
  bench-harness --clients 1 --in-flight 256        one client that pipelines
  bench-harness --durability os                    without fsync: survives a crash, not a power cut
  bench-harness --format json | jq .runs           for scripts

Exit codes: 0 done, 1 acknowledged writes lost or a run failed, 2 wrong use, 130 interrupted.
Results are saved as DIR/report.json after each run. Nodes end when the harness does, however it ends.";

/// What the command line asks for.
#[derive(Parser, Clone, Debug)]
#[command(name = "bench-harness", version, about = ABOUT, long_about = LONG_ABOUT, after_help = EXAMPLES)]
pub struct Options {
    /// Replicas of the cluster, the leader included
    #[arg(long, value_name = "M", default_value_t = 3, value_parser = parse_replicas, help_heading = "Cluster")]
    pub replicas: u8,

    /// Replicas that must hold a write before it is acknowledged, the leader included: a number, a list to
    /// run one after the other (1,3), or "all" [default: 2, or 1 with one replica]
    #[arg(long, value_name = "N[,N…]|all", value_parser = parse_quorums, help_heading = "Cluster")]
    pub quorum: Option<Quorum>,

    /// When a replica holds a write: "fsync", synced to its disk, or "os", handed to the operating system
    #[arg(long, value_name = "fsync|os", default_value = "fsync", value_parser = durability_text::parse,
        help_heading = "Cluster")]
    pub durability: Durability,

    /// Clients, each with a connection of its own
    #[arg(long, value_name = "C", default_value_t = 64, help_heading = "Load")]
    pub clients: usize,

    /// Writes that each client keeps unanswered
    #[arg(long, value_name = "K", default_value_t = 1, help_heading = "Load")]
    pub in_flight: usize,

    /// Size of each value, at least 12B, which say who wrote it: 100B, 1KiB
    #[arg(long, value_name = "B", default_value = "100B", value_parser = parse_bytes, help_heading = "Load")]
    pub value_size: u64,

    /// Different keys, drawn uniformly
    #[arg(long, value_name = "N", default_value_t = 100_000, help_heading = "Load")]
    pub keys: u64,

    /// How long each run is measured: 10s, 500ms, 2m
    #[arg(long, value_name = "T", default_value = "10s", value_parser = parse_duration, help_heading = "Load")]
    pub duration: Duration,

    /// How long the load runs before it is measured
    #[arg(long, value_name = "T", default_value = "2s", value_parser = parse_duration, help_heading = "Load")]
    pub warmup: Duration,

    /// What keys and values are drawn from: the same seed gives the same writes
    #[arg(long, value_name = "S", default_value_t = 1, help_heading = "Load")]
    pub seed: u64,

    /// Where report.json goes; a report that is there is replaced [default: a new one in ./results]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Where the nodes keep their data while a run lasts, on the disk that is to be measured
    /// [default: the system's temporary directory]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub data_dir: Option<PathBuf>,

    /// What is printed at the end
    #[arg(long, value_enum, default_value_t = Format::Table, help_heading = "Output")]
    pub format: Format,
}

/// Which quorums are measured.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Quorum {
    /// These, in this order.
    List(Vec<u8>),
    /// From 1 to all replicas.
    All,
}

/// What goes to standard output.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// A table for people
    Table,
    /// The report as it is saved
    Json,
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

    /// What is to be done, or what to change on the command line.
    pub fn plan(&self) -> Result<Plan, Failure> {
        self.check_numbers().map_err(Failure::WrongUse)?;
        let load = Load {
            clients: self.clients,
            in_flight: self.in_flight,
            value_bytes: self.value_size as usize, // at most VALUE_BYTES_MAX
            keys: self.keys,
            duration: self.duration,
            warmup: self.warmup,
        };
        let cases = self
            .quorums()
            .into_iter()
            .map(|quorum| self.case(quorum, load.clone()).map_err(Failure::WrongUse))
            .collect::<Result<_, _>>()?;
        Ok(Plan { seed: self.seed, cases })
    }

    fn quorums(&self) -> Vec<u8> {
        match &self.quorum {
            Some(Quorum::List(list)) => list.clone(),
            Some(Quorum::All) => (1..=self.replicas).collect(),
            None => vec![self.replicas.min(2)],
        }
    }

    fn case(&self, quorum: u8, load: Load) -> Result<Case, String> {
        let replicas = self.replicas;
        Quorums::new(replicas, quorum)
            .map_err(|error| format!("{error}; choose --quorum from 1 to {replicas}, or raise --replicas"))?;
        Ok(Case { replicas, quorum, durability: self.durability, load })
    }

    fn check_numbers(&self) -> Result<(), String> {
        let range = |name, number: u64, min: u64, max: u64| match (min..=max).contains(&number) {
            true => Ok(()),
            false => Err(format!("--{name} {number} is out of range: choose a number from {min} to {max}")),
        };
        range("clients", self.clients as u64, 1, CLIENTS_MAX as u64)?;
        range("in-flight", self.in_flight as u64, 1, IN_FLIGHT_MAX as u64)?;
        range("keys", self.keys, 1, KEYS_MAX)?;
        range("value-size", self.value_size, VALUE_BYTES_MIN as u64, limits::VALUE_BYTES_MAX as u64)?;
        if self.duration.is_zero() {
            return Err("--duration 0s measures nothing: choose for example 10s".to_owned());
        }
        if self.duration.max(self.warmup) > TIME_MAX {
            return Err("--duration and --warmup can be at most 24h each".to_owned());
        }
        check_open_files(
            self.clients as u64,
            rustix::process::getrlimit(rustix::process::Resource::Nofile).current,
        )
    }
}

/// The harness and the leader hold one socket per client; running out in the middle of a run explains itself badly.
fn check_open_files(clients: u64, limit: Option<u64>) -> Result<(), String> {
    let needed = clients + OPEN_FILES_SPARE;
    match limit {
        Some(limit) if limit < needed => Err(format!(
            "{} and the nodes need {needed} open files and this shell allows {limit}: \
             raise it with \"ulimit -n {needed}\", or choose fewer --clients",
            counted(clients, "client")
        )),
        _ => Ok(()),
    }
}

fn parse_replicas(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().filter(|number| (1..=limits::REPLICAS_MAX).contains(number));
    number.ok_or_else(|| format!("choose a number from 1 to {}", limits::REPLICAS_MAX))
}

fn parse_quorums(text: &str) -> Result<Quorum, String> {
    if text == "all" {
        return Ok(Quorum::All);
    }
    let numbers: Result<Vec<u8>, _> = text.split(',').map(|number| number.trim().parse()).collect();
    let numbers =
        numbers.map_err(|_| format!("\"{text}\" is no quorum: write a number, a list like 1,3, or all"))?;
    match numbers.iter().enumerate().find(|(at, number)| numbers[..*at].contains(number)) {
        Some((_, twice)) => Err(format!("{twice} is there twice: name each quorum once")),
        None => Ok(Quorum::List(numbers)),
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

#[cfg(test)]
mod tests {
    use super::*;

    fn plan_of(line: &str) -> Result<Plan, String> {
        let arguments = std::iter::once("bench-harness").chain(line.split_whitespace()).map(OsString::from);
        let options = Options::read(arguments).map_err(|failure| failure.to_string())?;
        options.expect("no help was asked for").plan().map_err(|failure| failure.to_string())
    }

    fn quorums_of(line: &str) -> Vec<(u8, u8)> {
        plan_of(line).unwrap().cases.iter().map(|case| (case.replicas, case.quorum)).collect()
    }

    #[test]
    fn without_options_it_is_the_case_of_the_readme() {
        let plan = plan_of("").unwrap();
        let load = Load {
            clients: 64,
            in_flight: 1,
            value_bytes: 100,
            keys: 100_000,
            duration: Duration::from_secs(10),
            warmup: Duration::from_secs(2),
        };
        let case = Case { replicas: 3, quorum: 2, durability: Durability::Fsync, load };
        assert_eq!(plan, Plan { seed: 1, cases: vec![case] });
    }

    #[test]
    fn each_quorum_of_a_list_is_a_case() {
        assert_eq!(quorums_of("--quorum 3,1"), [(3, 3), (3, 1)]);
        assert_eq!(quorums_of("--quorum all"), [(3, 1), (3, 2), (3, 3)]);
        assert_eq!(quorums_of("--replicas 1"), [(1, 1)]);
        assert_eq!(quorums_of("--replicas 5"), [(5, 2)]);
    }

    #[test]
    fn wrong_use_is_answered_with_one_line_of_advice() {
        for (line, advice) in [
            (
                "--quorum 4",
                "a quorum of 4 is impossible with 3 replicas: it must be from 1 to 3; choose --quorum from 1 to 3, or raise --replicas",
            ),
            ("--quorum 1,0", "a quorum of 0 is impossible"),
            ("--quorum two", "\"two\" is no quorum: write a number, a list like 1,3, or all"),
            ("--quorum 2,1,2", "2 is there twice: name each quorum once"),
            ("--replicas 0", "'0' for '--replicas <M>': choose a number from 1 to 15"),
            ("--replicas 300", "'300' for '--replicas <M>': choose a number from 1 to 15"),
            ("--clients 0", "--clients 0 is out of range"),
            ("--in-flight 0", "--in-flight 0 is out of range"),
            ("--keys 0", "--keys 0 is out of range"),
            ("--value-size 2MiB", "--value-size 2097152 is out of range"),
            ("--value-size 1B", "choose a number from 12 to 1048576"),
            ("--duration 0s", "choose for example 10s"),
            ("--duration 25h", "at most 24h"),
            ("--duration 10", "write a number and a unit"),
            ("--durability maybe", "write fsync or os"),
            ("--quorums 2", "similar argument exists: '--quorum'"),
        ] {
            let refused = plan_of(line).unwrap_err();
            assert!(refused.contains(advice), "{line}: {refused}");
            assert!(!refused.contains('\n'), "{line}: {refused}");
        }
    }

    #[test]
    fn clients_beyond_the_shells_open_files_are_refused_before_anything_starts() {
        let refused = check_open_files(1000, Some(1024)).unwrap_err();
        assert!(refused.contains("ulimit -n 1100"), "{refused}");
        assert_eq!(check_open_files(1000, Some(1100)), Ok(()));
        assert_eq!(check_open_files(1000, None), Ok(()));
    }
}
