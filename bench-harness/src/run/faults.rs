//! What the plan does to a cluster: when each is due, and doing it.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use anyhow::bail;

use crate::cluster::Cluster;
use crate::plan::{Action, Case, Fault, NodeLink, When, Who};
use crate::proxy::LinkSettings;

/// The faults of a case that are still to come, and what has to be undone after it.
#[derive(Debug)]
pub(super) struct Faults {
    pending: VecDeque<Fault>,
    links: Vec<NodeLink>,
    replicas: u8,
    paused: BTreeSet<u8>,
    dead: BTreeSet<u8>,
    slowed: BTreeSet<u8>,
    named: Named,
}

/// Which nodes `leader` and `follower` are.
#[derive(Clone, Copy, Debug, Default)]
struct Named {
    leader: Option<u8>,
    follower: Option<u8>,
}

impl Named {
    fn number(self, who: Who) -> Option<u8> {
        match who {
            Who::Node(number) => Some(number),
            Who::Leader => self.leader,
            Who::Follower => self.follower,
        }
    }

    /// What is undone is undone to the same node, everything else is done to who has that name now.
    fn for_action(self, action: &Action, leader: Option<u8>, replicas: u8) -> Self {
        let undoes = matches!(action, Action::Resume(_) | Action::Restart(_))
            || matches!(action, Action::SlowSync(_, time) if time.is_zero());
        let follower = leader.and_then(|leader| (1..=replicas).rfind(|node| *node != leader));
        match undoes {
            true => Self { leader: self.leader.or(leader), follower: self.follower.or(follower) },
            false => Self { leader, follower },
        }
    }
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
            named: Named::default(),
            replicas: case.replicas,
        }
    }

    /// When the next one is due, if that is known: counted from the beginning of the measured time.
    pub(super) fn next_at(&self) -> Option<Duration> {
        match self.pending.front()?.when {
            When::At(time) => Some(time),
            When::Behind { .. } => None,
        }
    }

    /// The next one, if it is due: so long after measuring began, with so many bytes lacking at each follower. Its
    /// action names nodes by number; while nobody is known to lead, none is due that names the leader or a follower.
    pub(super) fn next_due(
        &mut self,
        elapsed: Duration,
        leader: Option<u8>,
        bytes_behind: impl Fn(u8) -> u64,
    ) -> Option<Action> {
        let fault = self.pending.front()?;
        let named = self.named.for_action(&fault.action, leader, self.replicas);
        let is_due = match fault.when {
            When::At(time) => elapsed >= time,
            When::Behind { node, bytes } => {
                named.number(node).is_some_and(|node| bytes_behind(node) >= bytes)
            }
        };
        if !is_due || fault.action.nodes().into_iter().any(|node| named.number(node).is_none()) {
            return None;
        }
        self.named = named;
        let number = |who| named.number(who).map_or(who, Who::Node);
        self.pending.pop_front().map(|fault| fault.action.of_nodes(number))
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

    /// Does it. It must name nodes by number.
    pub(super) fn carry_out(&mut self, action: &Action, cluster: &mut Cluster) -> anyhow::Result<()> {
        match *action {
            Action::Pause(Who::Node(node)) => {
                cluster.pause(node)?;
                self.paused.insert(node);
            }
            Action::Resume(Who::Node(node)) => {
                cluster.resume(node)?;
                self.paused.remove(&node);
            }
            Action::Kill(Who::Node(node)) => {
                cluster.kill(node)?;
                self.dead.insert(node);
                self.paused.remove(&node);
            }
            Action::Restart(Who::Node(node)) => {
                cluster.restart(node)?;
                self.dead.remove(&node);
            }
            Action::SlowSync(Who::Node(node), time) => {
                cluster.slow_sync(node, time)?;
                self.slowed.insert(node);
            }
            Action::Link(Who::Node(node), settings) => cluster.set_link(node, settings)?,
            Action::Cut { from: Who::Node(from), to: Who::Node(to) } => cluster.cut(from, to)?,
            Action::Isolate(Who::Node(node)) => cluster.isolate(node)?,
            Action::Heal => self.set_links(cluster)?,
            _ => bail!("\"{action}\" does not say which nodes it is done to"),
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
        due_with(faults, elapsed_s, Some(1), bytes)
    }

    fn due_with(faults: &mut Faults, elapsed_s: u64, leader: Option<u8>, bytes: u64) -> Option<String> {
        let due = faults.next_due(Duration::from_secs(elapsed_s), leader, |_| bytes);
        due.map(|action| action.to_string())
    }

    #[test]
    fn the_leader_is_who_leads_when_a_fault_comes_and_is_the_one_that_is_restarted() {
        let mut faults =
            faults(&["1s kill leader", "2s restart leader", "3s kill leader", "3s pause follower"]);
        assert_eq!(due_with(&mut faults, 1, None, 0), None, "nobody leads");
        assert_eq!(due_with(&mut faults, 1, Some(3), 0).as_deref(), Some("kill 3"));
        assert_eq!(due_with(&mut faults, 2, Some(2), 0).as_deref(), Some("restart 3"));
        assert_eq!(due_with(&mut faults, 3, Some(2), 0).as_deref(), Some("kill 2"));
        assert_eq!(due_with(&mut faults, 3, Some(3), 0).as_deref(), Some("pause 2"));
    }

    #[test]
    fn a_follower_that_stands_still_is_the_one_that_must_be_behind() {
        let mut faults = faults(&["1s pause follower", "behind follower 1kB resume follower"]);
        assert_eq!(due_with(&mut faults, 1, Some(3), 0).as_deref(), Some("pause 2"));
        let behind = |node: u8| if node == 2 { 1000 } else { 0 };
        let action = faults.next_due(Duration::from_secs(2), Some(1), behind).unwrap();
        assert_eq!(action.to_string(), "resume 2", "although another leads");
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
