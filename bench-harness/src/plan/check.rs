//! What a plan must keep to be run, whoever wrote it: the command line or a hand that edited the file.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_client::load::VALUE_BYTES_MIN;
use quorate_protocol::{Quorums, limits};
use quorate_server::server::BUSY_POLL_MAX;

use super::{Action, Arrivals, Case, Fault, Load, Plan, System, VERSION, When, Who};
use crate::peers::PeerKind;
use crate::units::{counted, format_duration};

/// Clients of one run: each is a TCP connection, of which a server takes 4,096 at once.
const CLIENTS_MAX: u64 = 4_000;

/// Unanswered calls of one client: as many as a server takes from one connection.
const IN_FLIGHT_MAX: u64 = 16 << 10;

/// Unanswered calls of all clients: each is a task with a buffer of its own.
const IN_FLIGHT_TOTAL_MAX: u64 = 1 << 20;

/// Different keys of one run: the harness remembers what it wrote to each.
const KEYS_MAX: u64 = 100_000_000;

/// Calls per second of an open loop.
const RATE_MIN: f64 = 0.01;
const RATE_MAX: f64 = 10_000_000.0;

/// Longest measured time and longest warm-up of a case.
const TIME_MAX: Duration = Duration::from_secs(24 * 3600);

/// Cases and repeats of one plan.
const RUNS_MAX: u64 = 10_000;

/// Probes of one follower in a second.
const PROBES_MAX: u64 = 1_000;

/// Files that harness and nodes open besides one connection per client.
const OPEN_FILES_SPARE: u64 = 100;

impl Plan {
    /// Whether it can be run; if not, one sentence says what to change.
    pub fn check(&self) -> Result<(), String> {
        if self.version != VERSION {
            return Err(format!(
                "the plan has version {}, and this harness reads {VERSION}: make it anew with --dry-run",
                self.version
            ));
        }
        if self.cases.is_empty() {
            return Err("the plan has no case: make one with --dry-run".to_owned());
        }
        range("repeats", self.repeats.into(), 1, RUNS_MAX / self.cases.len().min(RUNS_MAX as usize) as u64)?;
        self.cases.iter().try_for_each(Case::check)
    }
}

impl Case {
    /// Whether it can be run; if not, one sentence says what to change.
    pub fn check(&self) -> Result<(), String> {
        self.load.check()?;
        range("probes", self.probes_per_second.into(), 0, PROBES_MAX)?;
        if self.busy_poll.is_some() && self.system != System::Quorate {
            return Err(
                "a busy poll is for servers that the harness starts: leave it out with other systems"
                    .to_owned(),
            );
        }
        if let System::Connected(servers) = &self.system {
            // Replicas and quorum are what that cluster says.
            return match (servers.is_empty(), self.links.is_empty() && self.faults.is_empty()) {
                (true, _) => Err("--connect names no server: write HOST:PORT,…".to_owned()),
                (_, false) => Err("links and faults need a cluster that the harness has started: \
                                   leave out --connect, or --link, --fault and --scenario"
                    .to_owned()),
                _ => Ok(()),
            };
        }
        if let Some(time) = self.busy_poll.filter(|time| *time > BUSY_POLL_MAX) {
            let (time, max) = (format_duration(time), format_duration(BUSY_POLL_MAX));
            return Err(format!(
                "--busy-poll {time} is longer than servers ever sleep: choose at most {max}"
            ));
        }
        let replicas = self.replicas;
        Quorums::new(replicas, self.quorum)
            .map_err(|error| format!("{error}; choose --quorum from 1 to {replicas}, or raise --replicas"))?;
        match &self.system {
            System::Peer(peer) => self.check_peer(*peer),
            _ => self.leadership.check(replicas).and_then(|()| self.check_faults()),
        }
    }

    fn check_peer(&self, peer: PeerKind) -> Result<(), String> {
        if !self.links.is_empty() || !self.faults.is_empty() {
            return Err(format!("links and faults are for Quorate's own nodes: leave them out with {peer}"));
        }
        range("clients", self.load.clients.into(), 1, peer.clients_max().into())?;
        peer.check(self.replicas, self.quorum, self.durability).map_err(|error| error.to_string())
    }

    /// Whether that is known to be the leader.
    fn leads(&self, node: Who) -> bool {
        node == Who::Leader || self.leadership.leader.is_some_and(|leader| node == Who::Node(leader))
    }

    fn check_faults(&self) -> Result<(), String> {
        let named =
            self.links.iter().map(|link| Who::Node(link.node)).chain(self.faults.iter().flat_map(|fault| {
                let behind = match fault.when {
                    When::Behind { node, .. } => Some(node),
                    When::At(_) => None,
                };
                fault.action.nodes().into_iter().chain(behind)
            }));
        for node in named {
            match node {
                Who::Node(node) if !(1..=self.replicas).contains(&node) => {
                    return Err(format!("there is no node {node}: the nodes are 1 to {}", self.replicas));
                }
                Who::Follower if self.replicas == 1 => {
                    return Err("a cluster of one has no follower: choose --replicas from 2 on".to_owned());
                }
                _ => {}
            }
        }
        for (position, link) in self.links.iter().enumerate() {
            if self.links[..position].iter().any(|other| other.node == link.node) {
                return Err(format!("node {} has two --link: write its delay and rate in one", link.node));
            }
        }
        let mut earlier = Duration::ZERO;
        let mut stopped = Stopped::default();
        for fault in &self.faults {
            match fault.when {
                When::At(time) if time >= self.load.duration => {
                    return Err(format!("\"{fault}\" comes after the end: choose a longer --duration"));
                }
                When::At(time) if time < earlier => {
                    return Err(format!("\"{fault}\" stands after a later one: name faults in their order"));
                }
                When::At(time) => earlier = time,
                When::Behind { node, .. } if self.leads(node) => {
                    return Err(format!("\"{fault}\": who leads is never behind itself"));
                }
                When::Behind { .. } => {}
            }
            if let Action::Kill(node) = fault.action
                && self.leadership.leader.is_some()
                && self.leads(node)
            {
                return Err(format!(
                    "\"{fault}\" would end the configured leader, without which nothing is written: name a follower, or \
                     leave out --leader"
                ));
            }
            stopped.follow(fault)?;
        }
        Ok(())
    }
}

/// Which nodes the faults so far have stopped.
#[derive(Default)]
struct Stopped {
    dead: BTreeSet<Who>,
    paused: BTreeSet<Who>,
}

impl Stopped {
    /// Only a killed node can be started again, only a paused one can go on, and nothing else can be done to a dead
    /// one.
    fn follow(&mut self, fault: &Fault) -> Result<(), String> {
        match fault.action {
            Action::Restart(node) if !self.dead.remove(&node) => {
                Err(format!("\"{fault}\" starts a node that runs: kill it before"))
            }
            Action::Kill(node) | Action::Pause(node) | Action::Resume(node) if self.dead.contains(&node) => {
                Err(format!("\"{fault}\" is for a node that is dead: restart it before"))
            }
            Action::Pause(node) if !self.paused.insert(node) => {
                Err(format!("\"{fault}\" pauses a node that stands still: resume it before"))
            }
            Action::Resume(node) if !self.paused.remove(&node) => {
                Err(format!("\"{fault}\" is for a node that goes on: pause it before"))
            }
            Action::Kill(node) => {
                self.dead.insert(node);
                self.paused.remove(&node);
                Ok(())
            }
            Action::Cut { from, to } if from == to => {
                Err(format!("\"{fault}\" has one node twice: a link has two ends"))
            }
            _ => Ok(()),
        }
    }
}

impl Load {
    fn check(&self) -> Result<(), String> {
        let (clients, in_flight) = (u64::from(self.clients), u64::from(self.in_flight));
        range("clients", clients, 1, CLIENTS_MAX)?;
        range("in-flight", in_flight, 1, IN_FLIGHT_MAX)?;
        if clients * in_flight > IN_FLIGHT_TOTAL_MAX {
            return Err(format!(
                "--clients {clients} × --in-flight {in_flight} is out of range: at most {IN_FLIGHT_TOTAL_MAX} together"
            ));
        }
        range("keys", self.keys, 1, KEYS_MAX)?;
        let (least, most) = (VALUE_BYTES_MIN as u64, limits::VALUE_BYTES_MAX as u64);
        range("value-size", self.value_bytes.min, least, most)?;
        range("value-size", self.value_bytes.max, self.value_bytes.min, most)?;
        if !(0.0..=1.0).contains(&self.reads) {
            return Err(format!("--reads {} is out of range: choose from 0% to 100%", self.reads));
        }
        if let Arrivals::Open { per_second, .. } = self.arrivals
            && !(RATE_MIN..=RATE_MAX).contains(&per_second)
        {
            return Err(format!(
                "--rate {per_second} is out of range: choose a number of calls per second from {RATE_MIN} to {RATE_MAX}"
            ));
        }
        if self.duration.is_zero() {
            return Err("--duration 0s measures nothing: choose for example 10s".to_owned());
        }
        if self.duration.max(self.warmup) > TIME_MAX {
            return Err("--duration and --warmup can be at most 24h each".to_owned());
        }
        if !(Duration::from_millis(1)..=Duration::from_secs(3600)).contains(&self.deadline) {
            return Err("--deadline is out of range: choose from 1ms to 1h".to_owned());
        }
        Ok(())
    }
}

fn range(name: &str, number: u64, min: u64, max: u64) -> Result<(), String> {
    match (min..=max).contains(&number) {
        true => Ok(()),
        false => Err(format!("--{name} {number} is out of range: choose a number from {min} to {max}")),
    }
}

/// The harness and the leader hold one socket per client, or two if it reads from followers too; running out in
/// the middle of a run explains itself badly. `limit` is the shell's.
pub fn check_open_files(plan: &Plan, limit: Option<u64>) -> Result<(), String> {
    let clients = plan.cases.iter().map(|case| u64::from(case.load.clients)).max().unwrap_or(0);
    let reads = plan.cases.iter().any(|case| case.load.reads > 0.0);
    let needed = clients * if reads { 2 } else { 1 } + OPEN_FILES_SPARE;
    match limit {
        Some(limit) if limit < needed => Err(format!(
            "{} and the nodes need {needed} open files and this shell allows {limit}: \
             raise it with \"ulimit -n {needed}\", or choose fewer --clients",
            counted(clients, "client")
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::case;
    use super::*;

    fn refused(change: impl FnOnce(&mut Case)) -> String {
        let mut case = case(2);
        change(&mut case);
        case.check().expect_err("it was taken")
    }

    #[test]
    fn what_cannot_be_run_is_refused_with_advice() {
        assert!(refused(|case| case.quorum = 4).contains("choose --quorum from 1 to 3"));
        assert!(refused(|case| case.load.clients = 0).contains("--clients 0 is out of range"));
        assert!(refused(|case| case.load.reads = 1.5).contains("from 0% to 100%"));
        assert!(refused(|case| case.load.duration = Duration::ZERO).contains("measures nothing"));
        let rate = |per_second| Arrivals::Open { per_second, spacing: super::super::Spacing::Constant };
        for bad in [0.0, f64::NAN, f64::INFINITY, 1e9] {
            assert!(refused(|case| case.load.arrivals = rate(bad)).contains("--rate"), "{bad}");
        }
        assert!(
            refused(|case| (case.load.clients, case.load.in_flight) = (4000, 16_384)).contains("together")
        );
    }

    #[test]
    fn faults_that_make_no_sense_are_refused() {
        for (faults, advice) in [
            (&["3s pause 4"][..], "no node 4"),
            (&["10s pause 2"], "longer --duration"),
            (&["3s pause 2", "2s resume 2"], "in their order"),
            (&["3s restart leader"], "kill it before"),
            (&["3s kill leader", "4s pause leader"], "restart it before"),
            (&["behind leader 1MiB heal"], "never behind itself"),
            (&["3s restart 2"], "kill it before"),
            (&["3s kill 2", "4s pause 2"], "restart it before"),
            (&["3s kill 2", "4s kill 2"], "restart it before"),
            (&["3s resume 2"], "pause it before"),
            (&["3s pause 2", "4s pause 2"], "resume it before"),
            (&["3s cut 2>2"], "two ends"),
        ] {
            let faults = faults.iter().map(|fault| fault.parse().unwrap()).collect();
            let said = refused(|case| case.faults = faults);
            assert!(said.contains(advice), "{said}");
        }
    }

    #[test]
    fn a_configured_leader_is_not_killed_and_is_never_behind() {
        for (fault, advice) in [
            ("3s kill 2", "leave out --leader"),
            ("3s kill leader", "leave out --leader"),
            ("behind 2 1MiB heal", "never behind itself"),
        ] {
            let said = refused(|case| {
                case.leadership.leader = Some(2);
                case.faults = vec![fault.parse().unwrap()];
            });
            assert!(said.contains(advice), "{said}");
        }
        assert!(refused(|case| case.leadership.leader = Some(4)).contains("there is no node 4"));
        let said = refused(|case| {
            case.leadership.leader = Some(1);
            case.leadership.lease = Some(Duration::from_millis(100));
        });
        assert!(said.contains("leave one out"), "{said}");
    }

    #[test]
    fn a_node_has_one_link_setting() {
        let link = |text: &str| super::super::NodeLink { node: 2, link: text.parse().unwrap() };
        let said = refused(|case| case.links = vec![link("5ms"), link("6ms")]);
        assert!(said.contains("in one"), "{said}");
    }

    #[test]
    fn only_servers_that_are_started_can_be_told_to_look_busily() {
        for system in [System::Connected(vec!["127.0.0.1:7401".to_owned()]), System::Peer(PeerKind::Redis)] {
            let said = refused(|case| {
                case.system = system.clone();
                case.busy_poll = Some(Duration::ZERO);
            });
            assert!(said.contains("leave it out"), "{said}");
        }
    }

    #[test]
    fn a_cluster_that_runs_elsewhere_is_not_harmed() {
        let connected = || System::Connected(vec!["127.0.0.1:7401".to_owned()]);
        let said = refused(|case| {
            case.system = connected();
            case.faults = vec!["3s pause 2".parse().unwrap()];
        });
        assert!(said.contains("leave out --connect"), "{said}");
        let mut measured = case(2);
        (measured.system, measured.replicas, measured.quorum) = (connected(), 0, 0);
        measured.check().unwrap();
    }

    #[test]
    fn a_plan_of_another_version_or_without_cases_is_refused() {
        let mut plan = Plan::new(1, vec![case(2)]);
        plan.check().unwrap();
        plan.version = 1;
        assert!(plan.check().unwrap_err().contains("--dry-run"));
        assert!(Plan::new(1, Vec::new()).check().unwrap_err().contains("no case"));
    }

    #[test]
    fn more_clients_than_open_files_are_refused_with_the_command_that_helps() {
        let plan = Plan::new(1, vec![case(2)]);
        check_open_files(&plan, Some(164)).unwrap();
        check_open_files(&plan, None).unwrap();
        assert!(check_open_files(&plan, Some(100)).unwrap_err().contains("\"ulimit -n 164\""));
    }
}
