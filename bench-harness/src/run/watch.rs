//! Looking after a load: what is sampled, done to the cluster and shown while it runs.
//!
//! Everything is asked over connections of its own, ten times a second and in one small message each, so that
//! watching does not show in what is watched. A leader that does not answer at once leaves a gap in the samples.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use quorate_client::{Client, NodeStatus};
use smol::Timer;

use super::Subject;
use super::faults::Faults;
use super::generator::Generator;
use crate::interrupt::Interrupt;
use crate::lag;
use crate::plan::{Action, Case};
use crate::progress::{self, Progress, Seen};
use crate::report::{Event, Follower, LagSample};
use crate::resources::Snapshot;
use crate::visible::{Probes, Visible};

/// How often followers are looked at.
const SAMPLE: Duration = Duration::from_millis(100);

/// How often a condition or an interrupt is looked at.
const LOOK: Duration = Duration::from_millis(20);

/// How long the leader may take to answer before a sample is left out.
const SAMPLE_TIME_MAX: Duration = Duration::from_millis(200);

/// What is asked once at each end of the measured time.
pub(super) struct Mark {
    pub(super) at: Instant,
    pub(super) statuses: BTreeMap<u8, NodeStatus>,
    pub(super) resources: Snapshot,
}

/// What was seen of a load.
pub(super) struct Watched {
    pub(super) begin: Mark,
    pub(super) end: Mark,
    pub(super) began: SystemTime,
    pub(super) samples: BTreeMap<u8, Vec<LagSample>>,
    pub(super) visible: BTreeMap<u8, Visible>,
    pub(super) actions: Vec<(f64, Action)>,
}

impl Watched {
    /// The lag of every follower, as the leader tells it.
    pub(super) fn lag_of_followers(&self, leader: u8) -> anyhow::Result<Vec<Follower>> {
        match (self.begin.statuses.get(&leader), self.end.statuses.get(&leader)) {
            (Some(begin), Some(end)) => lag::between(begin, end),
            _ => Ok(Vec::new()),
        }
    }

    /// What was done, for the report.
    pub(super) fn events(&self) -> Vec<Event> {
        self.actions.iter().map(|(t_s, action)| Event { t_s: *t_s, what: action.to_string() }).collect()
    }
}

impl Mark {
    async fn take(subject: &Subject) -> anyhow::Result<Self> {
        let statuses = match subject.members() {
            Some(members) => members.statuses().await?,
            None => BTreeMap::new(),
        };
        Ok(Self { at: Instant::now(), statuses, resources: Snapshot::take(subject.processes()) })
    }
}

/// Looks after a load until its measured time is over or somebody interrupts. None if the measured time was never
/// reached. An error if a node ends that nobody has killed.
pub(super) async fn watch(
    case: &Case,
    subject: &mut Subject,
    generator: &Generator,
    probes: impl FnOnce() -> anyhow::Result<Option<Probes>>,
    faults: &mut Faults,
    progress: &Progress,
    interrupt: &Interrupt,
) -> anyhow::Result<Option<Watched>> {
    let start = Instant::now();
    let mut shown = Duration::ZERO;
    let mut show = |sampler: Option<&Sampler>, actions: &[(f64, Action)]| {
        let elapsed = start.elapsed();
        if elapsed >= shown + progress::INTERVAL {
            shown = elapsed;
            progress.load(&Seen {
                elapsed,
                is_warmup: sampler.is_none(),
                live: generator.control().live(),
                lag: sampler.map(Sampler::lag).unwrap_or_default(),
                events: actions.iter().map(|(t_s, action)| format!("{t_s:.1} s: {action}")).collect(),
            });
        }
    };
    let since = loop {
        if let Some(since) = generator.control().measuring_since() {
            break since;
        }
        if generator.is_finished() || interrupt.requested() {
            return Ok(None);
        }
        subject.check_running()?;
        show(None, &[]);
        let warm = (start + case.load.warmup).max(Instant::now() + Duration::from_millis(1));
        Timer::at(warm.min(Instant::now() + LOOK)).await;
    };
    let began = SystemTime::now();
    let begin = Mark::take(subject).await?;
    let probes = probes()?;
    let mut sampler = Sampler::new(subject)?;
    let mut actions = Vec::new();
    while since.elapsed() < case.load.duration && !generator.is_finished() && !interrupt.requested() {
        subject.check_running()?;
        sampler.sample_if_due(since).await;
        while let Some(fault) = faults.next_due(since.elapsed(), |node| sampler.bytes_behind(node)) {
            // What it lacks at this moment, not up to a tenth of a second ago.
            sampler.next = Instant::now();
            sampler.sample_if_due(since).await;
            if let Some(cluster) = subject.cluster() {
                faults.carry_out(&fault.action, cluster)?;
                let t_s = (since.elapsed().as_secs_f64() * 1e3).ceil() / 1e3;
                actions.push((t_s, fault.action));
            }
        }
        show(Some(&sampler), &actions);
        let wake =
            [Some(sampler.next), faults.next_at().map(|at| since + at), Some(since + case.load.duration)];
        let wake = wake.into_iter().flatten().min().expect("there are some");
        Timer::at(wake.min(Instant::now() + LOOK)).await;
    }
    sampler.next = Instant::now();
    sampler.sample_if_due(since).await;
    let visible = probes.map(Probes::finish).transpose()?.unwrap_or_default();
    let end = Mark::take(subject).await?;
    Ok(Some(Watched { begin, end, began, samples: sampler.samples, visible, actions }))
}

/// Asks the leader how far its followers are.
struct Sampler {
    leader: Option<Client>,
    next: Instant,
    samples: BTreeMap<u8, Vec<LagSample>>,
}

impl Sampler {
    fn new(subject: &Subject) -> anyhow::Result<Self> {
        let leader = subject.members().map(|members| members.client(members.leader())).transpose()?;
        let leader = leader.map(|leader| leader.with_deadline(SAMPLE_TIME_MAX));
        Ok(Self { leader, next: Instant::now(), samples: BTreeMap::new() })
    }

    async fn sample_if_due(&mut self, since: Instant) {
        let Some(leader) = &self.leader else {
            self.next = Instant::now() + SAMPLE;
            return;
        };
        if Instant::now() < self.next {
            return;
        }
        let asked = Instant::now();
        if let Ok(status) = leader.status(false).await {
            // Never after what is done next, which counts from the next millisecond on.
            let t_s = (since.elapsed().as_secs_f64() * 1e3).floor() / 1e3;
            for follower in &status.view().followers {
                let sample = LagSample {
                    t_s,
                    entries: follower.entries_behind,
                    bytes: follower.bytes_behind,
                    lag_us: follower.lag_now_us,
                };
                self.samples.entry(follower.node.get()).or_default().push(sample);
            }
        }
        self.next = (self.next + SAMPLE).max(asked);
    }

    /// How far each follower was behind when it was last looked at.
    fn lag(&self) -> Vec<(u8, u64, u64)> {
        let last = |(node, samples): (&u8, &Vec<LagSample>)| {
            samples.last().map(|sample| (*node, sample.entries, sample.lag_us))
        };
        self.samples.iter().filter_map(last).collect()
    }

    fn bytes_behind(&self, node: u8) -> u64 {
        self.samples.get(&node).and_then(|samples| samples.last()).map_or(0, |sample| sample.bytes)
    }
}
