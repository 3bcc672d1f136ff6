//! One case: a fresh cluster, the load on it, the lag meanwhile, and whether it kept what it acknowledged.
//!
//! The load has a thread of its own, as it keeps it busy. The calling thread starts the nodes, which end
//! with it, watches them, and shows the progress.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use quorate_client::load::{self, Control, QuorateTarget, Reads, Workload};
use quorate_client::{Client, NodeStatus};
use smol::Timer;

use crate::cluster::{Cluster, Program, Settings};
use crate::failure::Failure;
use crate::interrupt::Interrupt;
use crate::lag::{self, FollowerLag};
use crate::place::Place;
use crate::plan::Case;
use crate::progress::{self, Progress};
use crate::report::{Latency, Run, Writes, tenths};
use crate::verify::verify;

/// How long a fresh cluster may take until it serves.
const READY_TIME_MAX: Duration = Duration::from_secs(30);

/// How long one write may take before its outcome is called unknown.
const WRITE_TIME_MAX: Duration = Duration::from_secs(5);

/// How often the load is looked after.
const WATCH: Duration = Duration::from_millis(50);

/// Measures a case in a place of its own, which is left in it. Interrupted while it is measured, it gives
/// what was measured until then; interrupted before, it fails with that.
pub async fn run(
    case: &Case,
    seed: u64,
    program: Program,
    place: &Place,
    interrupt: &Interrupt,
) -> Result<Run, Failure> {
    let progress = Progress::new(case.to_string(), case.load.warmup + case.load.duration);
    progress.phase("starting");
    let mut cluster = Cluster::start(Settings {
        program,
        quorums: case.quorums()?,
        durability: case.durability,
        leader: 1,
        name: "bench".to_owned(),
        directory: place.path().to_owned(),
    })?;
    interrupt.or(cluster.wait_ready(READY_TIME_MAX)).await?;
    let measured = measure(case, seed, &mut cluster, &progress, interrupt).await?;
    progress.phase("verifying");
    let verified = match interrupt.or(verify(&mut cluster, &measured.load.record)).await {
        Ok(verified) => Some(verified),
        Err(Failure::Interrupted) => None,
        Err(failure) => return Err(failure),
    };
    cluster.shut_down()?;
    let load::Report { elapsed, .. } = measured.load;
    Ok(Run::new(case, elapsed, writes(&measured.load), measured.followers, verified))
}

/// What came of the load.
struct Measured {
    load: load::Report,
    followers: Vec<FollowerLag>,
}

async fn measure(
    case: &Case,
    seed: u64,
    cluster: &mut Cluster,
    progress: &Progress,
    interrupt: &Interrupt,
) -> Result<Measured, Failure> {
    let leader = cluster.client(cluster.leader())?;
    let mut generator = Generator::start(workload(case, seed), target(cluster))?;
    let begin = watch(case, cluster, &mut generator, &leader, progress, interrupt).await;
    // A failed watch ends the load too, before its cluster goes.
    let load = generator.finish();
    let (begin, load) = (begin?, load?);
    let Some(begin) = begin else { return Err(Failure::Interrupted) };
    if load.writes.acknowledged == 0 && !interrupt.requested() {
        return Err(nothing_acknowledged(&load).into());
    }
    let end = leader.status(true).await.context("the lag cannot be asked from the leader")?;
    Ok(Measured { load, followers: lag::between(&begin, &end)? })
}

/// Looks after the load until it ends or is told to. Gives the leader's state at the end of the warm-up,
/// none if that was never reached.
async fn watch(
    case: &Case,
    cluster: &mut Cluster,
    generator: &mut Generator,
    leader: &Client,
    progress: &Progress,
    interrupt: &Interrupt,
) -> anyhow::Result<Option<NodeStatus>> {
    let start = Instant::now();
    let mut begin = None;
    let mut shown = (Duration::ZERO, 0);
    while !generator.is_finished() {
        let elapsed = start.elapsed();
        if begin.is_none() && elapsed >= case.load.warmup {
            begin = Some(leader.status(true).await.context("the lag cannot be asked from the leader")?);
        }
        if interrupt.requested() {
            break;
        }
        cluster.check_running()?;
        if elapsed >= shown.0 + progress::INTERVAL {
            let acknowledged = generator.control.acknowledged();
            let per_second = (acknowledged - shown.1) as f64 / (elapsed - shown.0).as_secs_f64();
            progress.load(elapsed, begin.is_none(), per_second);
            shown = (elapsed, acknowledged);
        }
        let next = start.elapsed() + WATCH;
        let wake = if begin.is_none() { next.min(case.load.warmup) } else { next };
        Timer::at(start + wake).await;
    }
    Ok(begin)
}

fn workload(case: &Case, seed: u64) -> Workload {
    Workload {
        clients: u32::try_from(case.load.clients).unwrap_or(u32::MAX),
        in_flight: u32::try_from(case.load.in_flight).unwrap_or(u32::MAX),
        value_bytes: case.load.value_bytes..=case.load.value_bytes,
        keys: case.load.keys,
        seed,
        warmup: case.load.warmup,
        duration: case.load.duration,
        ..Workload::default()
    }
}

fn target(cluster: &Cluster) -> QuorateTarget {
    // The leader first: it is where writes go.
    let nodes = std::iter::once(cluster.leader()).chain(cluster.followers());
    QuorateTarget {
        servers: nodes.map(|node| cluster.address(node).to_string()).collect(),
        deadline: WRITE_TIME_MAX,
        cluster: None,
        reads: Reads::Leader,
    }
}

fn writes(load: &load::Report) -> Writes {
    Writes {
        acknowledged: load.writes.acknowledged,
        refused: load.writes.refused,
        unknown: load.writes.unknown,
        per_second: tenths(load.per_second()),
        latency_us: Latency::from_ns(&load.writes.latency_ns),
    }
}

fn nothing_acknowledged(load: &load::Report) -> anyhow::Error {
    match &load.last_error {
        Some(error) => anyhow!("no write was acknowledged: {error}"),
        None => anyhow!("no write was acknowledged: choose a longer --duration"),
    }
}

/// The load in its thread; told to end when dropped.
struct Generator {
    control: Arc<Control>,
    thread: Option<JoinHandle<Result<load::Report, load::WorkloadError>>>,
}

impl Generator {
    fn start(workload: Workload, target: QuorateTarget) -> anyhow::Result<Self> {
        let control = Arc::new(Control::default());
        let shared = control.clone();
        let thread = thread::Builder::new()
            .name("load".to_owned())
            .spawn(move || load::run(&workload, &target, &shared, None))
            .context("the load's thread cannot be started")?;
        Ok(Self { control, thread: Some(thread) })
    }

    fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Ends the load, if it goes on, and waits for its open calls, which [`WRITE_TIME_MAX`] bounds.
    fn finish(mut self) -> anyhow::Result<load::Report> {
        self.control.stop();
        let Some(thread) = self.thread.take() else { bail!("the load has ended before") };
        match thread.join() {
            Ok(report) => Ok(report?),
            Err(_) => bail!("the load generator panicked: this is a defect of the harness"),
        }
    }
}

impl Drop for Generator {
    fn drop(&mut self) {
        self.control.stop();
    }
}
