//! What the command line may say.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use super::exit;
use super::reference::Reference;
use crate::{Acks, Error, Expected, SessionToken, address};

/// The heading of what every command takes.
const EVERYWHERE: &str = "Options of every command";

/// Talks to a Quorate cluster.
#[derive(Parser, Debug)]
#[command(name = "quorate", version, after_help = exit::HELP)]
pub(super) struct Arguments {
    /// The nodes, tried in turn; the leader is followed. `status` asks each of them
    #[arg(
        long,
        env = "QUORATE_SERVERS",
        default_value = "127.0.0.1:7401",
        value_delimiter = ',',
        value_name = "HOST:PORT,…",
        value_parser = server,
        global = true,
        help_heading = EVERYWHERE
    )]
    pub(super) servers: Vec<String>,

    /// How long the command may take, for example 500ms, 2s, 1m; `scan` and `export`: each page; `import`: each batch;
    /// `watch`: until it has begun, and to find another replica when it has lost one
    #[arg(long, default_value = "2s", value_parser = duration, global = true, help_heading = EVERYWHERE)]
    pub(super) timeout: Duration,

    /// How results are printed
    #[arg(long, value_enum, default_value_t = Format::Text, global = true, help_heading = EVERYWHERE)]
    pub(super) format: Format,

    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum Format {
    /// For people and line tools: key, tab, value
    Text,
    /// For programs: one object a line; `status` of several servers is one array
    Json,
}

#[derive(Subcommand, Debug)]
pub(super) enum Command {
    /// Give a key a value, and print how safe the write is
    Set {
        /// 1 to 4096 bytes
        key: OsString,
        /// Up to 1 MiB; `-` reads it from standard input
        #[arg(allow_hyphen_values = true)]
        value: OsString,
        #[command(flatten)]
        acknowledged: Acknowledged,
        /// Print a line whenever one more replica holds it, with the time since it was sent, until all do
        #[arg(long, conflicts_with = "acks")]
        progress: bool,
    },
    /// Print the value of a key and a newline; exit code 3 if the key is absent
    Get {
        /// 1 to 4096 bytes
        key: OsString,
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Remove a key; no error if it is absent
    Delete {
        /// 1 to 4096 bytes
        key: OsString,
        #[command(flatten)]
        acknowledged: Acknowledged,
    },
    /// Give a key a value if it is as expected; exit code 1 if it is not
    Cas {
        /// 1 to 4096 bytes
        key: OsString,
        /// Up to 1 MiB; `-` reads it from standard input
        #[arg(allow_hyphen_values = true)]
        value: OsString,
        /// The revision that the key must have, or `absent`
        #[arg(long, value_name = "R|absent", value_parser = expected)]
        revision: Expected,
        #[command(flatten)]
        acknowledged: Acknowledged,
    },
    /// Print the keys that begin with PREFIX, in order: key, tab, value. No snapshot: each page of keys is read for itself
    Scan {
        /// Nothing for all keys
        #[arg(default_value = "")]
        prefix: OsString,
        /// Print at most so many
        #[arg(long, value_name = "N")]
        limit: Option<u64>,
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Print every change of the keys that begin with PREFIX, in order, as it is committed, until Ctrl-C
    ///
    /// As text: `set` or `delete`, tab, the log's index, tab, key, and for `set` tab, value. As JSON, `token` says from
    /// where another watch goes on behind the line. A write that changes nothing is no change. When it ends, it says
    /// on standard error how to go on; of several changes of one batch some may come again then. A lost replica is
    /// replaced by another without a gap. Replicas keep a bounded history: where that does not reach back, exit code 1.
    Watch(WatchArguments),
    /// Print the keys that begin with PREFIX as lines that `import` takes, in order
    ///
    /// No snapshot: each page of 1000 keys is read for itself, so of two changes made meanwhile the lines may have the
    /// later one alone.
    Export {
        /// Nothing for all keys
        #[arg(default_value = "")]
        prefix: OsString,
        #[command(flatten)]
        freshness: Freshness,
    },
    /// Write the lines of standard input, as `export` and `scan` print them, and print how many were written
    ///
    /// Lines are key, tab, value; with `--format json` objects with `key` or `key_hex` and `value` or `value_hex`. They
    /// are written in batches, several at a time; of two lines with the same key the later one wins. Batches that may
    /// have been written are sent again within `--timeout`, and written once. A line ends with a newline or with carriage
    /// return and newline; a carriage return that a value ends with is written as `\r`, as `export` does.
    ///
    /// It stops at the first line that it cannot read or write, when all lines before that are written; and at Ctrl-C or
    /// SIGTERM, when what it has sent is written, or at once if there is another (exit code 130). It prints how many lines
    /// are written, and says with which line to go on.
    #[command(override_usage = "quorate import [OPTIONS] < FILE")]
    Import {
        /// Skip lines that cannot be read, and say which on standard error
        #[arg(long)]
        skip_bad: bool,
    },
    /// Print how each of the nodes named is, what it has seen of elections, and how far the leader's followers are
    ///
    /// In the table of elections: who has its vote in this term; how often it asked for votes as it heard no leader,
    /// stood, won, voted for another, refused its vote, ended leading, began to follow a leader, cut entries that a
    /// later leader did not have; and the rounds of heartbeats that confirmed it for reads.
    Status,
    /// Make a replica whose data directory was replaced a voting member again, once it has caught up
    Admit {
        /// The number of the replica
        #[arg(value_name = "ID", value_parser = clap::value_parser!(u8).range(1..=63))]
        node: u8,
    },
    /// Have the leader hand over to another replica, and print the term that has begun. Writes are refused meanwhile,
    /// as a rule for less than 100 ms. Exit code 1 if it cannot be, 4 if no other replica has taken over
    HandOver {
        /// The number of the replica that is to lead; if not said, the one that has most of the log
        #[arg(long, value_name = "ID", value_parser = clap::value_parser!(u8).range(1..))]
        to: Option<u8>,
    },
    #[command(flatten)]
    Reference(Reference),
}

/// At how many copies a write is done.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Acknowledged {
    /// At how many durable copies it is done. Below the cluster's quorum a failover may drop it; above, exit code 6 if
    /// it is committed but not on so many within --timeout
    #[arg(long, value_name = "quorum|all|N", default_value = "quorum", value_parser = acks)]
    pub(super) acks: Acks,
}

/// How fresh a read is.
#[derive(Args, Clone, Copy, Debug)]
pub(super) struct Freshness {
    /// How fresh what is read must be
    #[arg(long, value_enum, default_value_t = ReadConsistency::Linearizable)]
    pub(super) read: ReadConsistency,
    /// For `--read session`: what must be seen, as `token` in the JSON of a command before
    #[arg(long, required_if_eq("read", "session"))]
    pub(super) token: Option<SessionToken>,
}

#[derive(Args, Debug)]
pub(super) struct WatchArguments {
    /// Nothing for all keys
    #[arg(default_value = "")]
    pub(super) prefix: OsString,
    /// One key instead of a prefix
    #[arg(long, conflicts_with = "prefix")]
    pub(super) key: Option<OsString>,
    /// Begin behind what this token has seen, as `token` in the JSON of a command before; otherwise with what comes
    #[arg(long, value_name = "TOKEN")]
    pub(super) after: Option<SessionToken>,
    /// End after so many changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) count: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(super) enum ReadConsistency {
    /// Sees every write committed before the read began
    Linearizable,
    /// Sees what `--token` has seen
    Session,
    /// Sees some committed prefix, at once, from any node
    Local,
}

fn server(text: &str) -> Result<String, Error> {
    address::checked(text).map(str::to_owned)
}

fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "expected a number and a unit, for example 500ms, 2s or 1m".to_owned();
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').ok_or_else(wrong)?;
    let (number, unit) = text.split_at(digits);
    let seconds = match unit {
        "us" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        _ => return Err(wrong()),
    };
    let number: f64 = number.parse().map_err(|_| wrong())?;
    let duration = Duration::try_from_secs_f64(number * seconds).map_err(|_| wrong())?;
    match duration {
        Duration::ZERO => Err("it must be more than 0".into()),
        duration if duration > Duration::from_secs(24 * 3600) => Err("it must be at most 24h".into()),
        duration => Ok(duration),
    }
}

fn acks(text: &str) -> Result<Acks, String> {
    match text {
        "quorum" => Ok(Acks::Quorum),
        "all" => Ok(Acks::All),
        copies => match copies.parse() {
            Ok(copies @ 1..=quorate_protocol::limits::REPLICAS_MAX) => Ok(Acks::Copies(copies)),
            _ => Err("expected `quorum`, `all`, or how many replicas, 1 to 15".into()),
        },
    }
}

fn expected(text: &str) -> Result<Expected, String> {
    match text {
        "absent" => Ok(Expected::Absent),
        revision => match revision.parse() {
            Ok(revision) => Ok(Expected::Revision(revision)),
            Err(_) => Err("expected a revision, as `get --format json` prints it, or `absent`".into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn durations_need_a_unit_and_a_bound() {
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        assert_eq!(duration("20ms"), Ok(Duration::from_millis(20)));
        assert!(["2", "s", "0s", "-1s", "2 s", "2days", "25h"].iter().all(|text| duration(text).is_err()));
    }
}
