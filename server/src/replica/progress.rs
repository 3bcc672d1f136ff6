//! What a leader knows of one follower.

use std::collections::VecDeque;

use quorate_protocol::response::Obstacle;
use quorate_protocol::{Incarnation, Index};

use super::{Time, Transfer};

/// What a leader knows of one follower.
#[derive(Clone, Debug)]
pub struct Progress {
    /// Whom the link leads to, or led to; of whoever is a member before there is a link.
    pub incarnation: Option<Incarnation>,
    /// Whether that one is a member, so that it counts (R26, R28); not before its admission is committed (R27).
    pub voting: bool,
    /// Whether the link to it is up.
    pub connected: bool,
    /// How it is fed.
    pub flow: Flow,
    /// It holds everything up to here durably: acknowledged in this term.
    pub durable: Index,
    /// It has applied everything up to here.
    pub applied: Index,
    /// When it last answered in this term.
    pub heard: Option<Time>,
    /// The last round that it has answered in this term.
    pub(super) answered: u64,
    /// What it last said keeps it from taking entries; until it answers a probe without saying so.
    pub obstacle: Option<Obstacle>,
    /// The checkpoint that it is being sent; it stays while the link is down.
    pub transfer: Option<Transfer>,
    /// The next entry to send.
    pub(super) next: Index,
    /// The commit index it was last sent.
    pub(super) commit_sent: Index,
    /// The round that it was last asked in.
    pub(super) round_sent: u64,
    /// (last index, bytes) of the appends sent and not acknowledged.
    pub(super) in_flight: VecDeque<(Index, usize)>,
    in_flight_bytes: usize,
}

/// How a follower is fed.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Flow {
    /// Where its log matches is not known: an empty append asks, in this round (0: not asked yet).
    Probing {
        /// The round of the question.
        round: u64,
    },
    /// From memory, as entries come.
    Streaming,
    /// From the log files: it is further behind than memory reaches. One read at a time.
    Reading {
        /// Whether a read is under way.
        pending: bool,
    },
    /// With a checkpoint: the log no longer holds what it needs. See [`Progress::transfer`].
    Checkpoint,
    /// Not at all: what it needs could not be read in this round. Tried again some rounds later.
    Unreadable {
        /// The round of the attempt.
        round: u64,
    },
}

impl Progress {
    pub(super) fn new(next: Index) -> Self {
        Self {
            incarnation: None,
            voting: false,
            connected: false,
            flow: Flow::Probing { round: 0 },
            durable: 0,
            applied: 0,
            heard: None,
            answered: 0,
            obstacle: None,
            transfer: None,
            next,
            commit_sent: 0,
            round_sent: 0,
            in_flight: VecDeque::new(),
            in_flight_bytes: 0,
        }
    }

    /// Whether it would store a write now.
    pub fn is_reachable(&self, now: Time, timeout: Time) -> bool {
        self.is_heard(now, timeout) && self.flow == Flow::Streaming
    }

    /// Whether it has answered lately, and the link to it is up.
    pub fn is_heard(&self, now: Time, timeout: Time) -> bool {
        self.connected && self.was_heard(now, timeout)
    }

    /// Whether it has answered lately.
    pub(super) fn was_heard(&self, now: Time, timeout: Time) -> bool {
        self.heard.is_some_and(|heard| now.saturating_sub(heard) < timeout)
    }

    /// It has answered in this term, a round if it is not 0.
    pub(super) fn answered(&mut self, now: Time, round: u64) {
        self.heard = Some(now);
        self.answered = self.answered.max(round);
    }

    pub(super) fn connect(&mut self) {
        self.connected = true;
        self.probe();
    }

    pub(super) fn disconnect(&mut self) {
        self.connected = false;
        self.obstacle = None;
        self.probe();
    }

    /// What was sent and not acknowledged may be lost: ask again where the logs match.
    pub(super) fn probe(&mut self) {
        self.flow = Flow::Probing { round: 0 };
        self.commit_sent = 0;
        self.in_flight.clear();
        self.in_flight_bytes = 0;
    }

    /// It takes no entries, and holds the leader's up to `matched`. The heartbeat of `next_round` asks again: not
    /// at once, or the two would do nothing else.
    pub(super) fn block(&mut self, obstacle: Obstacle, matched: Index, next_round: u64) {
        self.probe();
        self.flow = Flow::Probing { round: next_round };
        self.obstacle = Some(obstacle);
        self.next = self.next.min(matched.saturating_add(1)).max(self.durable + 1);
    }

    /// Whether it is to be asked where its log matches.
    pub(super) fn wants_probe(&self) -> bool {
        self.connected && self.flow == Flow::Probing { round: 0 }
    }

    /// Whether a mismatch at `previous` answers what was sent last.
    pub(super) fn awaits(&self, previous: Index) -> bool {
        match self.flow {
            Flow::Probing { round: 0 } => false,
            Flow::Probing { .. } => previous == self.next - 1,
            Flow::Streaming | Flow::Reading { .. } | Flow::Unreadable { .. } => previous < self.next,
            Flow::Checkpoint => false, // Nothing was sent that would have to match.
        }
    }

    pub(super) fn sent(&mut self, last: Index, bytes: usize) {
        self.next = last + 1;
        self.in_flight.push_back((last, bytes));
        self.in_flight_bytes += bytes;
    }

    pub(super) fn acknowledged(&mut self, durable: Index) {
        self.durable = self.durable.max(durable);
        while let Some((last, bytes)) = self.in_flight.front()
            && *last <= self.durable
        {
            self.in_flight_bytes -= bytes;
            self.in_flight.pop_front();
        }
    }

    /// After a late mismatch it is not fed what it has acknowledged since, which the log need not hold any more: it is
    /// asked whether it still has that.
    pub(super) fn probe_behind_held(&mut self) {
        self.next = self.durable + 1;
        self.probe();
    }

    /// Bytes that may be sent now.
    pub(super) fn room(&self, window_bytes_max: usize) -> usize {
        window_bytes_max.saturating_sub(self.in_flight_bytes)
    }

    /// Whether everything sent is acknowledged.
    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_empty()
    }
}
