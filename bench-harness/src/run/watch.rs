//! Looking after a load: what is sampled, done to the cluster and shown while it runs.
//!
//! Everything is asked over connections of its own, ten times a second and in one small message each, so that
//! watching does not show in what is watched. A leader that does not answer at once leaves a gap in the samples; so
//! does a change of the leader, which is noticed as the others are then asked in turn.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime};

use quorate_client::{Client, NodeStatus, Role};
use quorate_protocol::Term;
use quorate_protocol::response::FollowerStatus;
use smol::Timer;

use super::Subject;
use super::faults::Faults;
use super::generator::Generator;
use crate::interrupt::Interrupt;
use crate::lag;
use crate::members;
use crate::plan::{Action, Case, Who};
use crate::progress::{self, Progress, Seen};
use crate::report::{Event, Follower, LagSample, LeaderSeen};
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
    pub(super) leaders: Vec<LeaderSeen>,
}

impl Watched {
    /// The lag of every follower, as who led at the end tells it: since the beginning, or since it took office.
    pub(super) fn lag_of_followers(&self) -> anyhow::Result<Vec<Follower>> {
        let Some(leader) = self.leader() else { return Ok(Vec::new()) };
        let end = &self.end.statuses[&leader];
        let is_same_office = |begin: &&NodeStatus| begin.view().term == end.view().term;
        lag::between(self.begin.statuses.get(&leader).filter(is_same_office), end)
    }

    /// Who led at the end, if anybody did.
    pub(super) fn leader(&self) -> Option<u8> {
        members::leader_of(&self.end.statuses)
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
    probes: impl FnOnce(u8) -> anyhow::Result<Option<Probes>>,
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
    let leader = members::leader_of(&begin.statuses);
    let probes = leader.map(probes).transpose()?.flatten();
    let mut sampler = Sampler::new(subject, &begin)?;
    let mut actions = Vec::new();
    while since.elapsed() < case.load.duration && !generator.is_finished() && !interrupt.requested() {
        subject.check_running()?;
        sampler.sample_if_due(since).await;
        while let Some(action) =
            faults.next_due(since.elapsed(), sampler.leader(), |node| sampler.bytes_behind(node))
        {
            // What it lacks at this moment, not up to a tenth of a second ago.
            sampler.next = Instant::now();
            sampler.sample_if_due(since).await;
            if let Some(cluster) = subject.cluster() {
                faults.carry_out(&action, cluster)?;
                let t_s = (since.elapsed().as_secs_f64() * 1e3).ceil() / 1e3;
                sampler.done(&action);
                actions.push((t_s, action));
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
    sampler.see_leader(since, &end.statuses);
    let Sampler { samples, leaders, .. } = sampler;
    Ok(Some(Watched { begin, end, began, samples, visible, actions, leaders }))
}

/// Asks the leader how far its followers are, and notices when another leads.
struct Sampler {
    clients: BTreeMap<u8, Client>,
    /// Who is asked: the leader, as far as is known.
    asked: Option<u8>,
    /// Whether it has said so since something was done to it.
    leads: bool,
    term: Term,
    next: Instant,
    samples: BTreeMap<u8, Vec<LagSample>>,
    leaders: Vec<LeaderSeen>,
}

impl Sampler {
    fn new(subject: &Subject, begin: &Mark) -> anyhow::Result<Self> {
        let members = subject.members();
        let clients =
            members.iter().flat_map(|members| members.ids().map(|node| (node, members.client(node))));
        let clients = clients
            .map(|(node, client)| Ok((node, client?.with_deadline(SAMPLE_TIME_MAX))))
            .collect::<anyhow::Result<BTreeMap<_, _>>>()?;
        let leader = members::leader_of(&begin.statuses);
        Ok(Self {
            asked: leader.or_else(|| clients.keys().next().copied()),
            clients,
            leads: leader.is_some(),
            term: leader.map_or(0, |leader| begin.statuses[&leader].view().term),
            next: Instant::now(),
            samples: BTreeMap::new(),
            leaders: Vec::new(),
        })
    }

    /// Who leads, as far as is known.
    fn leader(&self) -> Option<u8> {
        self.asked.filter(|_| self.leads)
    }

    /// Whoever was stopped leads no longer, or not for long: it has to say so anew.
    fn done(&mut self, action: &Action) {
        if let Action::Kill(Who::Node(node)) | Action::Pause(Who::Node(node)) = action
            && self.asked == Some(*node)
        {
            self.look_elsewhere(None);
        }
    }

    async fn sample_if_due(&mut self, since: Instant) {
        let Some((node, client)) = self.asked.and_then(|node| self.clients.get_key_value(&node)) else {
            self.next = Instant::now() + SAMPLE;
            return;
        };
        if Instant::now() < self.next {
            return;
        }
        let (node, asked) = (*node, Instant::now());
        let status = client.status(false).await.ok();
        let view = status.as_ref().map(NodeStatus::view);
        match &view {
            Some(view) if view.role == Role::Leader && view.term >= self.term => {
                self.lead(since, node, view.term);
                self.sample(since, &view.followers);
            }
            Some(view) => self.look_elsewhere(view.leader.as_ref().map(|hint| hint.node.get())),
            None => self.look_elsewhere(None),
        }
        self.next = (self.next + SAMPLE).max(asked);
    }

    fn sample(&mut self, since: Instant, followers: &[FollowerStatus<'_>]) {
        // Never after what is done next, which counts from the next millisecond on.
        let t_s = (since.elapsed().as_secs_f64() * 1e3).floor() / 1e3;
        for follower in followers {
            let sample = LagSample {
                t_s,
                entries: follower.entries_behind,
                bytes: follower.bytes_behind,
                lag_us: follower.lag_now_us,
            };
            self.samples.entry(follower.node.get()).or_default().push(sample);
        }
    }

    /// Somebody says that it leads.
    fn lead(&mut self, since: Instant, node: u8, term: Term) {
        self.leads = true;
        self.asked = Some(node);
        if term > self.term {
            let t_s = (since.elapsed().as_secs_f64() * 1e3).floor() / 1e3;
            self.leaders.push(LeaderSeen { t_s, node, term });
            self.term = term;
        }
    }

    /// The next question goes to the one that leads by what the last one said, or to the next in turn.
    fn look_elsewhere(&mut self, hint: Option<u8>) {
        self.leads = false;
        let hint = hint.filter(|hint| self.asked != Some(*hint) && self.clients.contains_key(hint));
        let after = self.asked.and_then(|asked| self.clients.range(asked + 1..).next());
        let in_turn = after.or_else(|| self.clients.iter().next()).map(|(node, _)| *node);
        self.asked = hint.or(in_turn);
    }

    /// What all nodes say at the end.
    fn see_leader(&mut self, since: Instant, statuses: &BTreeMap<u8, NodeStatus>) {
        if let Some(leader) = members::leader_of(statuses) {
            self.lead(since, leader, statuses[&leader].view().term);
        }
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
