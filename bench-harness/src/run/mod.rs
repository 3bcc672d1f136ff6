//! One measurement: a fresh cluster (or one that runs already, or another system), the load on it, what happened
//! to it meanwhile, and whether it kept what it acknowledged.
//!
//! The load has a thread of its own, as it keeps it busy. The calling thread starts the nodes, which end with it,
//! and looks after everything: see `watch`.

mod catch_up;
mod faults;
mod generator;
mod watch;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use quorate_client::load::{self, KeyPrefix, QuorateTarget, Reads};
use quorate_client::{Client, Mutation, Range, prefix};
use quorate_protocol::limits;

use crate::cluster::{Cluster, Links, Program, Settings};
use crate::environment::Environment;
use crate::failure::Failure;
use crate::floor::{Floor, FloorInputs};
use crate::interrupt::Interrupt;
use crate::lag;
use crate::members::{Found, Members};
use crate::peers::{self, PeerCluster, PeerKind};
use crate::place::Place;
use crate::plan::{Case, ReadFrom, Step, System};
use crate::progress::Progress;
use crate::report::{Node, Run, tenths};
use crate::resources::{Resources, Usage};
use crate::verify::{Verified, verify};
use crate::visible::Probes;

use faults::Faults;
use generator::Generator;
use watch::{Watched, watch};

/// How long a fresh cluster may take until it serves.
const READY_TIME_MAX: Duration = Duration::from_secs(30);

/// What a run needs besides its case.
pub struct Circumstances<'a> {
    /// Which case of the plan it is, and the how-manieth time.
    pub step: Step,
    /// The plan's.
    pub seed: u64,
    /// Where the nodes keep their data.
    pub place: &'a Place,
    /// What the probes said.
    pub environment: &'a Environment,
    /// Whether to stop.
    pub interrupt: &'a Interrupt,
    /// What a person sees.
    pub progress: &'a Progress,
}

/// What is loaded.
enum Subject {
    /// Nodes of ours.
    Started(Cluster),
    /// Nodes that ran already.
    Connected(Members),
    /// Another system.
    Peer(PeerCluster),
}

impl Subject {
    /// Its nodes, if they are Quorate's.
    fn members(&self) -> Option<Members> {
        match self {
            Self::Started(cluster) => Some(cluster.members()),
            Self::Connected(members) => Some(members.clone()),
            Self::Peer(_) => None,
        }
    }

    fn cluster(&mut self) -> Option<&mut Cluster> {
        match self {
            Self::Started(cluster) => Some(cluster),
            Self::Connected(_) | Self::Peer(_) => None,
        }
    }

    /// An error if a node has ended that nobody asked to.
    fn check_running(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Started(cluster) => cluster.check_running(),
            Self::Connected(_) => Ok(()),
            Self::Peer(peer) => peer.check_running(),
        }
    }

    /// The processes of nodes on this machine.
    fn processes(&self) -> Vec<(u8, u32)> {
        match self {
            Self::Started(cluster) => {
                let ids = cluster.members().ids().collect::<Vec<_>>();
                ids.into_iter().filter_map(|node| Some((node, cluster.process_id(node)?))).collect()
            }
            Self::Connected(_) => Vec::new(),
            // A server with its children has one number, the first server's is 1.
            Self::Peer(peer) => peer.processes().into_iter().zip(1..).map(|(id, node)| (node, id)).collect(),
        }
    }
}

/// Makes one measurement. Interrupted while it is measured, it gives what was measured until then; interrupted
/// before, it fails with that.
pub async fn run(case: &Case, with: &Circumstances<'_>) -> Result<Run, Failure> {
    match &case.system {
        System::Quorate => started(case, with).await,
        System::Connected(servers) => connected(case, servers, with).await,
        System::Peer(kind) => peer(case, *kind, with).await,
    }
}

/// A cluster of our own, from its start to its end.
async fn started(case: &Case, with: &Circumstances<'_>) -> Result<Run, Failure> {
    with.progress.phase("starting");
    let mut cluster = Cluster::start(Settings {
        program: Program::this()?.with_options(case.server_options()),
        quorums: case.quorums()?,
        durability: case.durability,
        leader: case.leadership.leader,
        name: "bench".to_owned(),
        directory: with.place.path().to_owned(),
        links: if case.needs_proxy() { Links::Proxied { seed: with.seed } } else { Links::Direct },
    })?;
    let leader = with.interrupt.or(cluster.wait_ready(READY_TIME_MAX)).await?;
    let mut faults = Faults::of(case);
    faults.set_links(&cluster)?;
    let target = target(case, &cluster.members(), leader);
    let mut subject = Subject::Started(cluster);
    let measured = measure(case, with, &mut subject, target, KeyPrefix::DEFAULT, &mut faults).await?;
    let mut run = describe(case, with, &measured)?;
    let delays = cluster_delays(case, leader);
    run.floor = Floor::of(case.quorum, case.durability, &FloorInputs::new(with.environment, delays));
    let Subject::Started(mut cluster) = subject else { unreachable!("it was started above") };
    with.progress.phase("verifying");
    let record = &measured.load.record;
    let members = cluster.members();
    let verified = with.interrupt.or(verify(&members, record, true, &mut || cluster.check_running())).await;
    run.verified = verified_unless_interrupted(verified)?;
    run.interrupted = run.verified.is_none();
    cluster.shut_down()?;
    Ok(run)
}

/// A cluster that runs already: its keys have a prefix of their own, and are removed in the end.
async fn connected(case: &Case, servers: &[String], with: &Circumstances<'_>) -> Result<Run, Failure> {
    with.progress.phase("connecting");
    let found = Found::ask(servers).await.map_err(|error| Failure::WrongUse(format!("{error:#}")))?;
    let mut case = case.clone();
    found.describe(&mut case);
    let prefix = unique_prefix();
    let target = target(&case, &found.members, found.leader);
    let mut subject = Subject::Connected(found.members.clone());
    let measured = measure(&case, with, &mut subject, target, prefix, &mut Faults::of(&case)).await;
    let measured = match measured {
        Ok(measured) => measured,
        Err(failure) => {
            remove_keys(&found.members, &prefix).await?;
            return Err(failure);
        }
    };
    let mut run = describe(&case, with, &measured)?;
    with.progress.phase("verifying");
    let record = &measured.load.record;
    let verified = with.interrupt.or(verify(&found.members, record, false, &mut || Ok(()))).await;
    with.progress.phase("removing the keys that were written");
    remove_keys(&found.members, &prefix).await?;
    run.verified = verified_unless_interrupted(verified)?;
    run.interrupted = run.verified.is_none();
    Ok(run)
}

/// Another system, from its start to its end.
async fn peer(case: &Case, kind: PeerKind, with: &Circumstances<'_>) -> Result<Run, Failure> {
    with.progress.phase("starting");
    let settings = peers::Settings {
        kind,
        launcher: peers::Settings::this()?,
        quorums: case.quorums()?,
        durability: case.durability,
        directory: with.place.path().to_owned(),
    };
    let peer = with.interrupt.or(PeerCluster::start(&settings)).await?;
    let description = peer.description().clone();
    let target = peer.target(case.load.deadline);
    let mut subject = Subject::Peer(peer);
    let measured =
        measure(case, with, &mut subject, target, KeyPrefix::DEFAULT, &mut Faults::of(case)).await?;
    let mut run = describe(case, with, &measured)?;
    run.peer = Some(description);
    run.interrupted = with.interrupt.requested();
    if let Subject::Peer(peer) = subject {
        peer.shut_down()?;
    }
    Ok(run)
}

/// What came of the load, and what was seen of it.
struct Measured {
    load: load::Report,
    watched: Watched,
    members: Option<Members>,
}

async fn measure(
    case: &Case,
    with: &Circumstances<'_>,
    subject: &mut Subject,
    target: impl load::Target + Send + 'static,
    key_prefix: KeyPrefix,
    faults: &mut Faults,
) -> Result<Measured, Failure> {
    let members = subject.members();
    let probes = |leader| {
        let per_second = case.probes_per_second;
        let members = members.clone().filter(|members| per_second > 0 && members.ids().count() > 1);
        members.map(|members| Probes::start(members, leader, key_prefix, per_second)).transpose()
    };
    let workload = generator::workload(&case.load, with.seed, key_prefix);
    let generator = Generator::start(workload, target, None)?;
    let watched = watch(case, subject, &generator, probes, faults, with.progress, with.interrupt).await;
    // A load ends before its cluster goes, also when watching failed. A paused node would keep it waiting.
    if let Some(cluster) = subject.cluster()
        && watched.is_ok()
    {
        faults.undo(cluster)?;
    }
    let load = generator.finish();
    let (watched, load) = (watched?, load?);
    let Some(watched) = watched else {
        return Err(if with.interrupt.requested() {
            Failure::Interrupted
        } else {
            nothing_done(&load).into()
        });
    };
    if load.writes.acknowledged + load.reads.acknowledged == 0 && !with.interrupt.requested() {
        return Err(nothing_done(&load).into());
    }
    for fault in faults.left() {
        eprintln!("warning: \"{fault}\" never came: its condition was not met before the end");
    }
    Ok(Measured { load, watched, members })
}

/// Followers to read from are those of the leader that there is now.
fn target(case: &Case, members: &Members, leader: u8) -> QuorateTarget {
    let reads = match case.load.read_from {
        ReadFrom::Followers if members.ids().count() > 1 => Reads::Follower {
            servers: members.others(leader).map(|node| members.address(node).to_owned()).collect(),
        },
        _ => Reads::Leader,
    };
    QuorateTarget {
        servers: members.addresses_from(leader),
        deadline: case.load.deadline,
        cluster: Some(members.cluster().to_owned()),
        reads,
        exactly_once: true,
    }
}

/// Everything but what differs between the kinds of systems.
fn describe(case: &Case, with: &Circumstances<'_>, measured: &Measured) -> anyhow::Result<Run> {
    let Measured { load, watched, members } = measured;
    let resources = Resources::between(&watched.begin.resources, &watched.end.resources);
    let elapsed_s = load.elapsed.as_secs_f64();
    let samples = |node: u8| watched.samples.get(&node).map_or(&[][..], Vec::as_slice);
    let mut followers = watched.lag_of_followers()?;
    for follower in &mut followers {
        lag::add_samples(follower, samples(follower.node), watched.visible.get(&follower.node));
    }
    let ids: Vec<_> = followers.iter().map(|follower| follower.node).collect();
    Ok(Run {
        case_number: with.step.case,
        repeat: with.step.repeat,
        case: case.clone(),
        began_unix_ms: unix_ms(watched.began),
        duration_s: (elapsed_s * 1e3).round() / 1e3,
        interrupted: false,
        writes: generator::calls(&load.writes, elapsed_s),
        reads: (case.load.reads > 0.0).then(|| generator::calls(&load.reads, elapsed_s)),
        generator: generator::schedule(load),
        seconds: generator::seconds(load),
        followers,
        nodes: nodes(members.as_ref(), watched, &resources, load.writes.acknowledged)?,
        harness: resources.harness,
        machine: resources.machine,
        others_share: resources.others_share,
        events: watched.events(),
        catch_ups: catch_up::catch_ups(&watched.actions, samples, &ids),
        floor: None,
        peer: None,
        verified: None,
        leaders: watched.leaders.clone(),
        receipts: None,
    })
}

/// What each node used, and how its log was written.
fn nodes(
    members: Option<&Members>,
    watched: &Watched,
    resources: &Resources,
    acknowledged: u64,
) -> anyhow::Result<Vec<Node>> {
    let seconds = (watched.end.at - watched.begin.at).as_secs_f64();
    let usage = |node| resources.nodes.iter().find(|used| used.node == node).map(|used| used.usage.clone());
    let ids: Vec<u8> = match members {
        Some(members) => members.ids().collect(),
        None => resources.nodes.iter().map(|used| used.node).collect(),
    };
    let per_write = |number: f64| (acknowledged > 0).then(|| tenths(number / acknowledged as f64));
    let node = |node| {
        let usage: Option<Usage> = usage(node);
        let written = usage.as_ref().and_then(|usage| usage.storage_write_bytes);
        let (begin, end) = (watched.begin.statuses.get(&node), watched.end.statuses.get(&node));
        Ok(Node {
            node,
            leader: if members.is_some() { watched.leader() == Some(node) } else { node == 1 },
            cpu_us_per_write: usage.as_ref().and_then(|usage| per_write(usage.cpu_s() * 1e6)),
            disk_bytes_per_write: written.and_then(|bytes| per_write(bytes as f64)),
            usage,
            log: end.map(|end| lag::log_usage(begin, end, seconds)).transpose()?,
        })
    };
    let mut nodes = ids.into_iter().map(node).collect::<anyhow::Result<Vec<_>>>()?;
    nodes.sort_by_key(|node| node.node);
    Ok(nodes)
}

/// What each follower's link to the leader is delayed on purpose, one way, in microseconds. Of two nodes with
/// links of their own, the one that was named later decides about the link between them.
fn cluster_delays(case: &Case, leader: u8) -> Vec<u64> {
    let of = |follower: u8| {
        let last = case.links.iter().rfind(|link| [leader, follower].contains(&link.node));
        last.map_or(0, |link| link.link.delay.as_micros() as u64)
    };
    (1..=case.replicas).filter(|node| *node != leader).map(of).collect()
}

fn verified_unless_interrupted(verified: Result<Verified, Failure>) -> Result<Option<Verified>, Failure> {
    match verified {
        Ok(verified) => Ok(Some(verified)),
        Err(Failure::Interrupted) => Ok(None),
        Err(failure) => Err(failure),
    }
}

fn nothing_done(load: &load::Report) -> anyhow::Error {
    match &load.last_error {
        Some(error) => anyhow!("no call was acknowledged: {error}"),
        None => anyhow!("no call was acknowledged: choose a longer --duration"),
    }
}

/// A prefix that no other run and no application has.
fn unique_prefix() -> KeyPrefix {
    let random = fastrand::u64(..);
    KeyPrefix::new(&format!("bench-{random:016x}-")).expect("short and printable")
}

/// Removes what a load has written to a cluster that is not ours.
async fn remove_keys(members: &Members, keys: &KeyPrefix) -> anyhow::Result<()> {
    let client: Client = members.client_of_all()?;
    loop {
        let range: Range<'_> = prefix(keys.as_bytes());
        let mut scan = client.scan(range).items_per_page(limits::BATCH_MUTATIONS_MAX);
        let Some(page) = scan.next_page().await.transpose()?.filter(|page| !page.items.is_empty()) else {
            return Ok(());
        };
        let deletes = page.items.iter().map(|item| Mutation::Delete { key: &item.key }).collect();
        client.batch(deletes).await?;
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
