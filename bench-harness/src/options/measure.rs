//! What to measure, from the command line to a plan.

use std::path::PathBuf;
use std::time::Duration;

use quorate_protocol::{Durability, limits};

use super::words::{LatencyGoal, List, Quorum, parse_node_link, parse_percent};
use super::{Format, parse_backlog};
use crate::failure::Failure;
use crate::peers::PeerKind;
use crate::plan::{
    Arrivals, Case, Distribution, Fault, LeaderSettings, Load, NodeLink, Plan, ReadFrom, Scenario, Spacing,
    System, ValueBytes, durability_text,
};
use crate::units::parse_duration;

/// Probes of each follower in a second: too few to cost anything.
const PROBES_PER_SECOND: u32 = 10;

/// What to measure.
#[derive(clap::Args, Clone, Debug)]
pub struct Measure {
    /// Replicas of the cluster, the leader included; a list measures one after the other
    #[arg(long, value_name = "M[,M…]", default_value = "3", value_parser = parse_replicas, help_heading = "Cluster")]
    pub replicas: List<u8>,

    /// Replicas that must hold a write before it is acknowledged, the leader included: a number, a list to
    /// run one after the other (1,3), or "all" [default: 2, or 1 with one replica]
    #[arg(long, value_name = "N[,N…]|all", help_heading = "Cluster")]
    pub quorum: Option<Quorum>,

    /// When a replica holds a write: "fsync", synced to its disk, or "os", handed to the operating system
    #[arg(long, value_name = "fsync|os[,…]", default_value = "fsync", value_parser = parse_durabilities,
        help_heading = "Cluster")]
    pub durability: List<Durability>,

    /// The node that leads, by setting; without it the leader is elected
    #[arg(long, value_name = "ID", help_heading = "Cluster")]
    pub leader: Option<u8>,

    /// Time between heartbeats of the leader [default: the server's, 50ms]
    #[arg(long, value_name = "T", value_parser = parse_duration, help_heading = "Cluster")]
    pub heartbeat: Option<Duration>,

    /// Time without a leader until an election, up to twice as long at random [default: the server's, 300ms]
    #[arg(long, value_name = "T", value_parser = parse_duration, help_heading = "Cluster")]
    pub election_timeout: Option<Duration>,

    /// Time for which a leader that was confirmed answers reads without asking again [default: none]
    #[arg(long, value_name = "T", value_parser = parse_duration, help_heading = "Cluster")]
    pub lease: Option<Duration>,

    /// For how long servers look for events before they let a core sleep; 0s: not at all [default: the server's, 150us]
    #[arg(long, value_name = "T[,T…]", value_parser = parse_times, help_heading = "Cluster")]
    pub busy_poll: Option<List<Duration>>,

    /// What the links to and from a node are like, each way: 2=5ms±1ms; once for each node
    #[arg(long, value_name = "NODE=LINK", value_parser = parse_node_link, help_heading = "Cluster")]
    pub link: Vec<NodeLink>,

    /// Measure another system instead, which must be installed: redis, postgres or etcd
    #[arg(long, value_name = "SYSTEM", help_heading = "Cluster", conflicts_with_all = ["connect", "link", "leader", "heartbeat", "election_timeout", "lease", "busy_poll"])]
    pub target: Option<PeerKind>,

    /// Measure a cluster that runs already, by its nodes' client addresses; nothing is started or stopped
    #[arg(long, value_name = "HOST:PORT,…", value_delimiter = ',', value_parser = parse_server, help_heading = "Cluster",
        conflicts_with_all = ["replicas", "quorum", "durability", "leader", "heartbeat", "election_timeout", "lease",
            "busy_poll", "link", "fault", "scenario", "data_dir"])]
    pub connect: Vec<String>,

    /// What to load with.
    #[command(flatten)]
    pub load: LoadOptions,

    /// Something done while measuring: '3s pause 3'; once for each, in order
    #[arg(long, value_name = "FAULT", help_heading = "Faults")]
    pub fault: Vec<Fault>,

    /// Faults that are asked for often, by name
    #[arg(long, value_enum, value_name = "NAME", help_heading = "Faults", conflicts_with = "fault")]
    pub scenario: Option<Scenario>,

    /// Log that the follower of the scenario catch-up lacks before it may go on
    #[arg(long, value_name = "BYTES", default_value = "16MiB", value_parser = parse_backlog,
        help_heading = "Faults")]
    pub backlog: u64,

    /// How often each case is measured; five of two reports are enough to compare them
    #[arg(long, value_name = "R", default_value_t = 1, help_heading = "Plan")]
    pub repeats: u32,

    /// Measure the cases in the order in which they were named, not shuffled within each round of repeats
    #[arg(long, help_heading = "Plan")]
    pub in_order: bool,

    /// Find the highest rate at which this holds, by open loops of --duration each: p99=5ms
    #[arg(long, value_name = "GOAL", help_heading = "Plan", conflicts_with_all = ["rate", "repeats", "plan", "resume"])]
    pub slo: Option<LatencyGoal>,

    /// Run the plan in this file, as --dry-run prints it and every report keeps it
    #[arg(long, value_name = "FILE", help_heading = "Plan", conflicts_with_all = ["resume", "connect", "target"])]
    pub plan: Option<PathBuf>,

    /// Print the plan and do nothing
    #[arg(long, help_heading = "Plan")]
    pub dry_run: bool,

    /// Go on with the plan of the report in this directory, with what it still lacks
    #[arg(long, value_name = "DIR", help_heading = "Plan", conflicts_with = "output")]
    pub resume: Option<PathBuf>,

    /// Where results go.
    #[command(flatten)]
    pub place: Where,
}

/// What to load with.
#[derive(clap::Args, Clone, Debug)]
pub struct LoadOptions {
    /// Clients, each with a connection of its own
    #[arg(long, value_name = "C[,C…]", default_value = "64", help_heading = "Load")]
    pub clients: List<u32>,

    /// Calls that each client keeps unanswered, at most [default: 1, or 64 with --rate or --slo]
    #[arg(long, value_name = "K", help_heading = "Load")]
    pub in_flight: Option<u32>,

    /// Calls per second of all clients, made whether or not earlier ones are answered (open loop); without it
    /// every client calls again when it is answered (closed loop)
    #[arg(long, value_name = "R[,R…]", allow_hyphen_values = true, help_heading = "Load")]
    pub rate: Option<List<f64>>,

    /// How the calls of --rate are spaced
    #[arg(long, value_enum, default_value_t = Spacing::Poisson, help_heading = "Load")]
    pub arrivals: Spacing,

    /// The part of all calls that are reads
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = parse_percent, help_heading = "Load")]
    pub reads: f64,

    /// Who answers reads
    #[arg(long, value_enum, default_value_t = ReadFrom::Leader, help_heading = "Load")]
    pub read_from: ReadFrom,

    /// Size of each value, at least 12B, which say who wrote it: 100B, or a range 100B-4KiB
    #[arg(long, value_name = "B[,B…]", default_value = "100B", help_heading = "Load")]
    pub value_size: List<ValueBytes>,

    /// Different keys
    #[arg(long, value_name = "N", default_value_t = 100_000, help_heading = "Load")]
    pub keys: u64,

    /// How keys are drawn: uniform, zipfian, zipfian:EXPONENT or sequential
    #[arg(long, value_name = "HOW", default_value = "uniform", help_heading = "Load")]
    pub key_distribution: Distribution,

    /// How long a call may take before its outcome is called unknown
    #[arg(long, value_name = "T", default_value = "5s", value_parser = parse_duration, help_heading = "Load")]
    pub deadline: Duration,

    /// How long each run is measured: 10s, 500ms, 2m
    #[arg(long, value_name = "T", default_value = "10s", value_parser = parse_duration, help_heading = "Load")]
    pub duration: Duration,

    /// How long the load runs before it is measured
    #[arg(long, value_name = "T", default_value = "2s", value_parser = parse_duration, help_heading = "Load")]
    pub warmup: Duration,

    /// What keys, values, arrivals and order are drawn from: the same seed sends the same writes
    #[arg(long, value_name = "S", default_value_t = 1, help_heading = "Load")]
    pub seed: u64,

    /// Probes a second of when an acknowledged write can be read at each follower; 0 for none
    #[arg(long, value_name = "N", default_value_t = PROBES_PER_SECOND, help_heading = "Load")]
    pub probes: u32,
}

/// Where results go, and what is shown.
#[derive(clap::Args, Clone, Debug)]
pub struct Where {
    /// Where the report goes; one that is there is replaced [default: a new directory in ./results]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub output: Option<PathBuf>,

    /// Where the nodes keep their data while a run lasts, on the disk that is to be measured
    /// [default: the system's temporary directory]
    #[arg(long, value_name = "DIR", help_heading = "Output")]
    pub data_dir: Option<PathBuf>,

    /// What is printed at the end
    #[arg(long, value_enum, default_value_t = Format::Table, help_heading = "Output")]
    pub format: Format,

    /// Show the run on the whole screen while it lasts
    #[arg(long, help_heading = "Output")]
    pub live: bool,
}

impl Where {
    /// Where the nodes keep their data.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(std::env::temp_dir)
    }
}

/// A comparison with other systems.
#[derive(clap::Args, Clone, Debug)]
#[command(after_help = VERSUS_HELP)]
pub struct Versus {
    /// Systems to compare with [default: all that are built in and installed]
    #[arg(long, value_name = "SYSTEM,…", value_delimiter = ',')]
    pub target: Vec<PeerKind>,

    /// Replicas of each cluster, the leader included
    #[arg(long, value_name = "M", default_value_t = 3)]
    pub replicas: u8,

    /// Replicas that must hold a write before it is acknowledged, the leader included
    #[arg(long, value_name = "N", default_value_t = 2)]
    pub quorum: u8,

    /// When a replica holds a write: fsync or os
    #[arg(long, value_name = "fsync|os", default_value = "fsync", value_parser = durability_text::parse)]
    pub durability: Durability,

    /// How often each is measured, in turn
    #[arg(long, value_name = "R", default_value_t = 3)]
    pub repeats: u32,

    /// Print the plan and do nothing
    #[arg(long)]
    pub dry_run: bool,

    /// What to load with.
    #[command(flatten)]
    pub load: LoadOptions,

    /// Where results go.
    #[command(flatten)]
    pub place: Where,
}

const VERSUS_HELP: &str = "\
Other systems are built in with the features redis, postgres and etcd (or peers for all): cargo run --release
--features peers -- versus. etcd needs protoc to build. To run they need to be installed; on Debian redis-server,
postgresql and etcd-server. Without --clients, one client and 64 are measured.";

impl Measure {
    /// What is to be done, or what to change on the command line. With --plan, what that file says.
    pub fn plan(&self) -> Result<Plan, Failure> {
        let plan = match &self.plan {
            Some(file) => read_plan(file)?,
            None => self.plan_of_options().map_err(Failure::WrongUse)?,
        };
        plan.check().map_err(Failure::WrongUse)?;
        Ok(plan)
    }

    fn plan_of_options(&self) -> Result<Plan, String> {
        let mut cases = Vec::new();
        for load in self.load.loads(&self.load.clients.0, self.slo.is_some()) {
            for durability in &self.durability.0 {
                for (replicas, quorum) in self.quorums()? {
                    for busy_poll in self.busy_polls() {
                        let case = self.case(replicas, quorum, *durability, load.clone());
                        cases.push(Case { busy_poll, ..case });
                    }
                }
            }
        }
        let repeats = self.repeats;
        Ok(Plan { repeats, shuffle: repeats > 1 && !self.in_order, ..Plan::new(self.load.seed, cases) })
    }

    /// Every m and n to be measured.
    fn quorums(&self) -> Result<Vec<(u8, u8)>, String> {
        if !self.connect.is_empty() {
            return Ok(vec![(0, 0)]); // What that cluster says.
        }
        let mut quorums = Vec::new();
        for replicas in &self.replicas.0 {
            if *replicas == 1 && self.scenario.is_some() {
                return Err("a scenario is about a follower: choose --replicas from 2 on".to_owned());
            }
            match &self.quorum {
                Some(Quorum::List(list)) => quorums.extend(list.iter().map(|quorum| (*replicas, *quorum))),
                Some(Quorum::All) => quorums.extend((1..=*replicas).map(|quorum| (*replicas, quorum))),
                None => quorums.push((*replicas, (*replicas).min(2))),
            }
        }
        Ok(quorums)
    }

    fn busy_polls(&self) -> Vec<Option<Duration>> {
        match &self.busy_poll {
            Some(List(times)) => times.iter().copied().map(Some).collect(),
            None => vec![None],
        }
    }

    fn leadership(&self) -> LeaderSettings {
        let Self { leader, heartbeat, election_timeout, lease, .. } = *self;
        LeaderSettings { leader, heartbeat, election_timeout, lease }
    }

    fn case(&self, replicas: u8, quorum: u8, durability: Durability, load: Load) -> Case {
        let system = match self.target {
            Some(peer) => System::Peer(peer),
            None if self.connect.is_empty() => System::Quorate,
            None => System::Connected(self.connect.clone()),
        };
        let mut case = Case {
            probes_per_second: if self.target.is_some() { 0 } else { self.load.probes },
            system,
            replicas,
            quorum,
            durability,
            leadership: self.leadership(),
            busy_poll: None,
            load,
            links: self.link.clone(),
            faults: self.fault.clone(),
        };
        if let Some(scenario) = self.scenario {
            case.faults = scenario.faults(&case, self.backlog);
        }
        case
    }
}

impl Versus {
    /// Quorate and the others in turn, for each load; and what is left out, with the reason.
    pub fn plan(&self) -> Result<(Plan, Vec<String>), Failure> {
        let (peers, left_out) = self.peers()?;
        let systems: Vec<_> =
            std::iter::once(System::Quorate).chain(peers.into_iter().map(System::Peer)).collect();
        let clients = match self.load.clients.0.as_slice() {
            [64] => vec![1, 64],
            chosen => chosen.to_vec(),
        };
        let mut cases = Vec::new();
        for load in self.load.loads(&clients, false) {
            for system in &systems {
                cases.push(Case {
                    system: system.clone(),
                    replicas: self.replicas,
                    quorum: self.quorum,
                    durability: self.durability,
                    leadership: LeaderSettings::default(),
                    busy_poll: None,
                    load: load.clone(),
                    links: Vec::new(),
                    faults: Vec::new(),
                    // The others have no such thing, and Quorate gets no other load than they.
                    probes_per_second: 0,
                });
            }
        }
        let plan = Plan { repeats: self.repeats, shuffle: true, ..Plan::new(self.load.seed, cases) };
        plan.check().map_err(Failure::WrongUse)?;
        Ok((plan, left_out))
    }

    /// Those that were asked for must be there; of all others, those that are.
    fn peers(&self) -> Result<(Vec<PeerKind>, Vec<String>), Failure> {
        if !self.target.is_empty() {
            return Ok((self.target.clone(), Vec::new()));
        }
        let mut left_out = Vec::new();
        let is_there = |peer: &PeerKind| match peer.check(self.replicas, self.quorum, self.durability) {
            Ok(()) => true,
            Err(reason) => {
                left_out.push(reason.to_string());
                false
            }
        };
        let peers: Vec<_> = PeerKind::ALL.into_iter().filter(is_there).collect();
        if peers.is_empty() {
            let reasons = left_out.join("; ");
            return Err(Failure::WrongUse(format!("there is nothing to compare with: {reasons}")));
        }
        Ok((peers, left_out))
    }
}

impl LoadOptions {
    /// One load for each rate, number of clients and size of values; `searches` if rates are tried later.
    fn loads(&self, clients: &[u32], searches: bool) -> Vec<Load> {
        let arrivals: Vec<_> = match &self.rate {
            None => vec![Arrivals::Closed],
            Some(rates) => {
                let open =
                    |per_second: &f64| Arrivals::Open { per_second: *per_second, spacing: self.arrivals };
                rates.0.iter().map(open).collect()
            }
        };
        let in_flight = self.in_flight.unwrap_or(if searches || self.rate.is_some() { 64 } else { 1 });
        let mut loads = Vec::new();
        for arrivals in &arrivals {
            for clients in clients {
                for value_bytes in &self.value_size.0 {
                    loads.push(Load {
                        clients: *clients,
                        in_flight,
                        arrivals: *arrivals,
                        reads: self.reads,
                        read_from: self.read_from,
                        value_bytes: *value_bytes,
                        keys: self.keys,
                        distribution: self.key_distribution,
                        deadline: self.deadline,
                        duration: self.duration,
                        warmup: self.warmup,
                    });
                }
            }
        }
        loads
    }
}

fn read_plan(file: &std::path::Path) -> Result<Plan, Failure> {
    let wrong = |what: String| Failure::WrongUse(format!("--plan {}: {what}", file.display()));
    let text = std::fs::read_to_string(file).map_err(|error| {
        wrong(format!("cannot be read ({error}): name a file with what --dry-run has printed"))
    })?;
    serde_json::from_str(&text).map_err(|error| wrong(format!("is no plan: {error}; --dry-run prints one")))
}

fn parse_replicas(text: &str) -> Result<List<u8>, String> {
    let max = limits::REPLICAS_MAX;
    let is_number = |word: &str| word.trim().parse().is_ok_and(|number: u8| (1..=max).contains(&number));
    match text.split(',').all(is_number) {
        true => text.parse(),
        false => Err(format!("choose a number from 1 to {max}, or several separated by commas")),
    }
}

/// `HOST:PORT`, not asked for yet.
fn parse_server(text: &str) -> Result<String, String> {
    let is_address = text
        .rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse().is_ok_and(|port: u16| port > 0));
    if is_address { Ok(text.to_owned()) } else { Err(format!("\"{text}\" is no address: write HOST:PORT")) }
}

fn parse_durabilities(text: &str) -> Result<List<Durability>, String> {
    List::parse(text, durability_text::parse)
}

fn parse_times(text: &str) -> Result<List<Duration>, String> {
    List::parse(text, parse_duration)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::{Command, Options};
    use super::*;
    use crate::plan::{When, Who};

    fn options_of(line: &str) -> Result<Options, String> {
        let arguments = std::iter::once("bench-harness").chain(line.split_whitespace()).map(OsString::from);
        let options = Options::read(arguments).map_err(|failure| failure.to_string())?;
        Ok(options.expect("no help was asked for"))
    }

    fn plan_of(line: &str) -> Result<Plan, String> {
        options_of(line)?.measure.plan().map_err(|failure| failure.to_string())
    }

    fn quorums_of(line: &str) -> Vec<(u8, u8)> {
        plan_of(line).unwrap().cases.iter().map(|case| (case.replicas, case.quorum)).collect()
    }

    #[test]
    fn without_options_it_is_the_case_of_the_readme() {
        assert_eq!(plan_of("").unwrap(), Plan::new(1, vec![crate::plan::tests::case(2)]));
    }

    #[test]
    fn several_busy_polls_are_cases_of_their_own() {
        let plan = plan_of("--busy-poll 0s,150us --quorum 1,2").unwrap();
        let [first, second] = [&plan.cases[0], &plan.cases[1]];
        assert_eq!(plan.cases.len(), 4);
        assert_eq!(first.server_options(), ["--busy-poll-us=0"]);
        assert_eq!(second.server_options(), ["--busy-poll-us=150"]);
        for (wrong, advice) in [
            ("5001us", "at most 5ms"),
            ("1ms,1000us", "is there twice"),
            ("150", "write a number and a unit"),
        ] {
            let said = plan_of(&format!("--busy-poll {wrong}")).unwrap_err();
            assert!(said.contains(advice), "{said}");
        }
    }

    #[test]
    fn quorums_are_a_number_a_list_or_all_for_every_number_of_replicas() {
        assert_eq!(quorums_of("--replicas 5 --quorum 3"), [(5, 3)]);
        assert_eq!(quorums_of("--replicas 5 --quorum 3,1"), [(5, 3), (5, 1)]);
        assert_eq!(quorums_of("--replicas 2,3 --quorum all"), [(2, 1), (2, 2), (3, 1), (3, 2), (3, 3)]);
        assert_eq!(quorums_of("--replicas 1"), [(1, 1)]);
    }

    #[test]
    fn lists_are_measured_in_every_combination() {
        let plan =
            plan_of("--quorum 1,2 --durability fsync,os --clients 1,8 --value-size 100B,1KiB --rate 10,20");
        let plan = plan.unwrap();
        assert_eq!(plan.cases.len(), 32);
        let mut cases = plan.cases;
        cases.dedup();
        assert_eq!(cases.len(), 32, "some are equal");
        assert!(cases.iter().all(|case| case.load.in_flight == 64));
    }

    #[test]
    fn repeats_are_shuffled_unless_told_otherwise() {
        assert!(plan_of("--quorum all --repeats 5").unwrap().shuffle);
        assert!(!plan_of("--quorum all --repeats 5 --in-order").unwrap().shuffle);
    }

    #[test]
    fn scenarios_and_faults_are_in_the_plan() {
        let plan = plan_of("--scenario catch-up --backlog 2MiB --duration 8s").unwrap();
        let when = When::Behind { node: Who::Follower, bytes: 2 << 20 };
        assert_eq!(plan.cases[0].faults[1].when, when);
        let plan = plan_of("--link 2=5ms+-1ms --link 3=10MB/s").unwrap();
        assert_eq!(plan.cases[0].links.len(), 2);
        assert!(plan.cases[0].needs_proxy());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_advice() {
        for (line, advice) in [
            ("--replicas 3 --quorum 4", "choose --quorum from 1 to 3"),
            ("--replicas 0", "choose a number from 1 to"),
            ("--quorum some", "a list like 1,3, or all"),
            ("--quorum 2,2", "name each value once"),
            ("--clients 0", "--clients 0 is out of range"),
            ("--rate 0", "--rate 0 is out of range"),
            ("--rate fast", "invalid float"),
            ("--reads 200%", "50%"),
            ("--link 2", "2=5ms"),
            ("--link 4=5ms", "no node 4"),
            ("--scenario leader-drown", "possible values"),
            ("--scenario leader-kill --leader 1", "leave out --leader"),
            ("--leader 4", "there is no node 4"),
            ("--scenario catch-up --replicas 1", "choose --replicas from 2 on"),
            ("--replicas 1000", "choose a number from 1 to"),
            ("--rate -5", "--rate -5 is out of range"),
            ("--connect foo", "write HOST:PORT"),
            ("--value-size 100GB", "write a number and a unit"),
            ("--value-size 10000MiB", "too large"),
            ("--connect 127.0.0.1:7401 --quorum 2", "cannot be used with"),
            ("--slo p99=5ms --rate 10", "cannot be used with"),
            ("--plan /no/such/file", "cannot be read"),
            ("--target mysql", "redis"),
        ] {
            let refused = plan_of(line).expect_err(line);
            assert!(refused.contains(advice), "{line}: {refused}");
            assert_eq!(refused.lines().count(), 1, "{refused}");
        }
    }

    #[test]
    fn a_plan_that_was_printed_is_run_as_it_is() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("plan.json");
        let plan = plan_of("--quorum all --repeats 3").unwrap();
        std::fs::write(&file, plan.json()).unwrap();
        assert_eq!(plan_of(&format!("--plan {}", file.display())).unwrap(), plan);
        std::fs::write(&file, plan.json().replace("\"quorum\": 2", "\"quorum\": 9")).unwrap();
        assert!(plan_of(&format!("--plan {}", file.display())).unwrap_err().contains("choose --quorum"));
        std::fs::write(&file, "{}").unwrap();
        assert!(plan_of(&format!("--plan {}", file.display())).unwrap_err().contains("is no plan"));
    }

    #[test]
    fn a_subcommand_has_options_of_its_own() {
        assert!(matches!(options_of("compare a b").unwrap().command, Some(Command::Compare(_))));
        assert!(matches!(options_of("versus --quorum 2").unwrap().command, Some(Command::Versus(_))));
        assert!(options_of("--quorum 2 versus").is_err());
        assert!(options_of("report").is_err());
    }
}
