//! What the plan does to a cluster: when each is due, and doing it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use crate::cluster::Cluster;
use crate::plan::{Action, Case, Fault, NodeLink, When};
use crate::proxy::LinkSettings;

/// The faults of a case that are still to come, and what has to be undone after it.
#[derive(Debug)]
pub(super) struct Faults {
    pending: VecDeque<Fault>,
    links: Vec<NodeLink>,
    paused: BTreeSet<u8>,
    dead: BTreeSet<u8>,
    slowed: BTreeSet<u8>,
}

impl Faults {
    /// Nothing is done yet.
    pub(super) fn of(case: &Case) -> Self {
        Self {
            pending: case.faults.iter().cloned().collect(),
            links: case.links.clone(),
            paused: BTreeSet::new(),
            dead: BTreeSet::new(),
            slowed: BTreeSet::new(),
        }
    }

    /// When the next one is due, if that is known: counted from the beginning of the measured time.
    pub(super) fn next_at(&self) -> Option<Duration> {
        match self.pending.front()?.when {
            When::At(time) => Some(time),
            When::Behind { .. } => None,
        }
    }

    /// The next one, if it is due: so long after measuring began, with so many bytes lacking at each follower.
    pub(super) fn next_due(&mut self, elapsed: Duration, bytes_behind: impl Fn(u8) -> u64) -> Option<Fault> {
        self.pending.pop_front_if(|fault| match fault.when {
            When::At(time) => elapsed >= time,
            When::Behind { node, bytes } => bytes_behind(node) >= bytes,
        })
    }

    /// Those that never came, as their condition was not met.
    pub(super) fn left(&self) -> impl Iterator<Item = &Fault> {
        self.pending.iter()
    }

    /// Makes the links as they are to be from the start.
    pub(super) fn set_links(&self, cluster: &Cluster) -> anyhow::Result<()> {
        if cluster.proxy().is_none() {
            return Ok(());
        }
        cluster.heal_all()?;
        for node in cluster.members().ids() {
            cluster.set_link(node, LinkSettings::default())?;
        }
        self.links.iter().try_for_each(|NodeLink { node, link }| cluster.set_link(*node, *link))
    }

    /// Does it.
    pub(super) fn carry_out(&mut self, action: &Action, cluster: &mut Cluster) -> anyhow::Result<()> {
        match *action {
            Action::Pause(node) => {
                cluster.pause(node)?;
                self.paused.insert(node);
            }
            Action::Resume(node) => {
                cluster.resume(node)?;
                self.paused.remove(&node);
            }
            Action::Kill(node) => {
                cluster.kill(node)?;
                self.dead.insert(node);
                self.paused.remove(&node);
            }
            Action::Restart(node) => {
                cluster.restart(node)?;
                self.dead.remove(&node);
            }
            Action::SlowSync(node, time) => {
                cluster.slow_sync(node, time)?;
                self.slowed.insert(node);
            }
            Action::Link(node, settings) => cluster.set_link(node, settings)?,
            Action::Cut { from, to } => cluster.cut(from, to)?,
            Action::Isolate(node) => cluster.isolate(node)?,
            Action::Heal => self.set_links(cluster)?,
        }
        Ok(())
    }

    /// Undoes everything, so that the cluster can become whole and be verified.
    pub(super) fn undo(&mut self, cluster: &mut Cluster) -> anyhow::Result<()> {
        if let Some(proxy) = cluster.proxy() {
            proxy.heal_all();
            for node in cluster.members().ids() {
                cluster.set_link(node, LinkSettings::default())?;
            }
        }
        for node in std::mem::take(&mut self.slowed) {
            cluster.slow_sync(node, Duration::ZERO)?;
        }
        for node in std::mem::take(&mut self.paused) {
            cluster.resume(node)?;
        }
        for node in std::mem::take(&mut self.dead) {
            cluster.restart(node)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::tests::case;

    fn faults(texts: &[&str]) -> Faults {
        let mut case = case(2);
        case.faults = texts.iter().map(|text| text.parse().unwrap()).collect();
        Faults::of(&case)
    }

    fn due(faults: &mut Faults, elapsed_s: u64, bytes: u64) -> Option<String> {
        faults.next_due(Duration::from_secs(elapsed_s), |_| bytes).map(|fault| fault.action.to_string())
    }

    #[test]
    fn faults_come_at_their_times_in_their_order() {
        let mut faults = faults(&["2s pause 3", "4s resume 3"]);
        assert_eq!(faults.next_at(), Some(Duration::from_secs(2)));
        assert_eq!(due(&mut faults, 1, 0), None);
        assert_eq!(due(&mut faults, 5, 0).as_deref(), Some("pause 3"));
        assert_eq!(due(&mut faults, 5, 0).as_deref(), Some("resume 3"));
        assert_eq!((due(&mut faults, 5, 0), faults.next_at()), (None, None));
    }

    #[test]
    fn a_condition_waits_for_what_stands_before_it_and_may_never_be_met() {
        let mut faults = faults(&["2s pause 3", "behind 3 1kB resume 3"]);
        assert_eq!(due(&mut faults, 1, 5000), None);
        assert_eq!(due(&mut faults, 2, 5000).as_deref(), Some("pause 3"));
        assert_eq!(due(&mut faults, 3, 999), None);
        assert_eq!(faults.left().count(), 1);
        assert_eq!(due(&mut faults, 3, 1000).as_deref(), Some("resume 3"));
    }
}
