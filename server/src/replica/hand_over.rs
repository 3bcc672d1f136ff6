//! Giving the office to another replica, on purpose (Ongaro's thesis, §3.10).
//!
//! The leader takes no more writes, waits until one follower holds its whole log, and asks that one to stand at once.
//! If it has not been replaced by then it goes on leading.
//!
//! A leader that hears enough replicas to lead and too few for a write looks for one that hears enough (R10): one
//! after the other, its followers ask for n pre-votes, and only who gets them stands. That disturbs nobody; yet after
//! each time that it has asked them all it waits twice as long.

use std::ops::RangeInclusive;
use std::time::Duration;

use quorate_protocol::NodeId;
use quorate_protocol::peer::{PeerMessage, TimeoutNow};
use quorate_protocol::response::Obstacle;
use thiserror::Error;

use super::{Progress, Replica, Role, Time};

/// Election timeouts after which a hand-over has failed.
const TIMEOUTS: u32 = 3;

/// Election timeouts before a leader that hears too few asks its followers again: at first, and at last.
const SHORT_TIMEOUTS: RangeInclusive<u32> = 2..=32;

/// Why leadership is not handed over.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum HandOverError {
    /// This node does not lead.
    #[error("not the leader")]
    NotLeader,
    /// The leader is a setting.
    #[error("the leader is configured: it cannot be another")]
    Configured,
    /// Not a replica of this cluster.
    #[error("there is no node {0} in this cluster: name another replica, or none")]
    Unknown(NodeId),
    /// The one asked for is this node.
    #[error("node {0} leads already")]
    LeadsAlready(NodeId),
    /// Nobody can be reached, or not the one asked for.
    #[error("no replica that could lead can be reached")]
    Unreachable,
}

/// A hand-over under way.
#[derive(Clone, Debug)]
pub(super) struct HandOver {
    to: Option<NodeId>,
    deadline: Time,
    /// When it last asked somebody to stand.
    asked: Option<Time>,
}

/// A leader that hears too few replicas for a write.
#[derive(Clone, Debug)]
pub(super) struct Short {
    /// When to ask the next one, and how long to wait after the last.
    due: Time,
    pause: Duration,
    /// Who was asked last.
    asked: Option<NodeId>,
}

impl Replica {
    /// Begins to hand over, to the one named or to the one that has most. Writes are refused until this node leads
    /// no more, or the attempt is given up: see [`is_handing_over`](Self::is_handing_over).
    pub fn hand_over(&mut self, now: Time, to: Option<NodeId>) -> Result<(), HandOverError> {
        if !self.is_elected() {
            return Err(HandOverError::Configured);
        }
        if !self.is_leader() {
            return Err(HandOverError::NotLeader);
        }
        match to {
            Some(node) if node == self.settings.node => return Err(HandOverError::LeadsAlready(node)),
            Some(node) if !self.settings.nodes.contains(node) => return Err(HandOverError::Unknown(node)),
            _ => {}
        }
        let deadline = now + TIMEOUTS * self.settings.election_timeout;
        let target = self.successor(now, to).ok_or(HandOverError::Unreachable)?;
        if let Role::Leader(leader) = &mut self.role {
            leader.hand_over = Some(HandOver { to, deadline, asked: None });
        }
        self.note(match to {
            Some(node) => format!("hands over to node {node}, as was asked"),
            None => format!("hands over, to node {target} as it is now"),
        });
        Ok(())
    }

    /// Whether leadership is being handed over.
    pub fn is_handing_over(&self) -> bool {
        matches!(&self.role, Role::Leader(leader) if leader.hand_over.is_some())
    }

    /// Asks the successor to stand as soon as it holds everything; gives up when that takes too long.
    pub(super) fn advance_hand_over(&mut self, now: Time) {
        let Role::Leader(leader) = &self.role else { return };
        let Some(HandOver { to, deadline, asked }) = leader.hand_over else { return };
        if now >= deadline {
            if let Role::Leader(leader) = &mut self.role {
                leader.hand_over = None;
            }
            return self.note("nobody has taken over in time: goes on leading".into());
        }
        // Two that stand at once take votes from each other: the first has an election timeout to succeed.
        if asked.is_some_and(|asked| now.saturating_sub(asked) < self.settings.election_timeout) {
            return;
        }
        let Some(to) = self.successor(now, to) else { return };
        let holds_all = self.follower(to).is_some_and(|progress| progress.durable == self.last);
        if holds_all {
            self.ask_to_stand(now, to, 0);
        }
    }

    /// Asks one follower after the other to lead if it hears n, while this node does not. That one of them is heard and
    /// takes no entries is no reason: nobody would change that.
    pub(super) fn look_for_one_that_hears_enough(&mut self, now: Time) {
        let (timeout, needed) = (self.settings.election_timeout, self.settings.quorums.quorum());
        let is_heard = |progress: &Progress| progress.voting && progress.is_heard(now, timeout);
        let heard = 1 + self.followers().filter(|(_, progress)| is_heard(progress)).count();
        let suffices = heard >= usize::from(needed);
        let is_elected = self.is_elected();
        let Role::Leader(leader) = &mut self.role else { return };
        if suffices || !is_elected || leader.hand_over.is_some() {
            leader.short = None;
            return;
        }
        let pause = *SHORT_TIMEOUTS.start() * timeout;
        let short = leader.short.get_or_insert(Short { due: now + pause, pause, asked: None });
        if now < short.due {
            return;
        }
        let fit = |(node, progress): &(&NodeId, &Progress)| {
            is_heard(progress)
                && progress.durable == self.last
                && short.asked.is_none_or(|asked| **node > asked)
        };
        let Some(next) = leader.followers.iter().find(fit).map(|(node, _)| *node) else {
            short.pause = (2 * short.pause).min(*SHORT_TIMEOUTS.end() * timeout);
            *short = Short { due: now + short.pause, asked: None, ..*short };
            return;
        };
        short.due = now + timeout;
        short.asked = Some(next);
        self.note(format!("hears {heard} of the {needed} replicas that a write needs"));
        self.ask_to_stand(now, next, needed);
    }

    /// A leader whose disk does not answer gives way, if others can elect another without it (R10).
    pub(super) fn give_way_if_stalled(&mut self, now: Time) {
        let quorums = self.settings.quorums;
        let can_be_replaced = quorums.election_quorum() < quorums.replicas();
        if self.obstacle != Some(Obstacle::DiskStalled) || !self.is_elected() || !can_be_replaced {
            return;
        }
        if let Some(to) = self.successor(now, None) {
            self.ask_to_stand(now, to, 0);
        }
        self.step_down(now, "its disk does not answer");
    }

    /// Of a follower that `needs` none, or of one if so many replicas would vote for it.
    fn ask_to_stand(&mut self, now: Time, to: NodeId, needs: u8) {
        if let Role::Leader(leader) = &mut self.role {
            leader.confirmations.lease_has_ended = true; // R22
            if let Some(hand_over) = &mut leader.hand_over {
                hand_over.asked = Some(now);
            }
        }
        let term = self.promise.term;
        self.note(match needs {
            0 => format!("has asked node {to} to lead"),
            _ => format!("has asked node {to} to lead if {needs} would vote for it"),
        });
        self.send_small(to, PeerMessage::TimeoutNow(TimeoutNow { term, needs }));
    }

    /// The one that is asked for, or of those that can be reached the one that holds most.
    fn successor(&self, now: Time, wanted: Option<NodeId>) -> Option<NodeId> {
        let timeout: Duration = self.settings.election_timeout;
        let fit = self.followers().filter(|(node, progress)| {
            progress.voting
                && wanted.is_none_or(|wanted| wanted == *node)
                && progress.is_reachable(now, timeout)
                && progress.obstacle.is_none()
        });
        // Of equals the lowest number.
        fit.max_by_key(|(node, progress)| (progress.durable, std::cmp::Reverse(node.get())))
            .map(|(node, _)| node)
    }
}
