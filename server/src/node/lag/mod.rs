//! How far followers lag, in stages, on the leader's clock: no clocks are compared.
//!
//! ```text
//! appended ─ queue ─▶ sent ─ network ─▶ received ─ disk ─▶ durable ─ network ─▶ acknowledged ─ apply ─▶ applied
//! └──────────────────────────────── lag ────────────────────────────────────┘
//! ```
//!
//! | stage | from, to |
//! |---|---|
//! | queue | the end of the turn that appended the entry, to that of the turn that last sent it to this follower: waiting for its window, its link, or a read of the log |
//! | disk | the follower's receipt to durable, a duration on its own clock, told by its ack; the queue before its disk included |
//! | sync | of the disk's share, the write and sync alone |
//! | network | what is left until the ack is received: both ways, sockets and event loops included |
//! | apply | the acknowledgement, to when the follower had applied the entry |
//!
//! An ack gives one disk time: that of the oldest entry it covers. An entry sent later was received later, and
//! counts with so much less, but at least with the sync and at most with what there is from sent to
//! acknowledged. So it is an estimate where appends were merged into one batch and their ways took unequally
//! long.
//!
//! The time of applying is when the ack that tells of it was received, less what had passed since by the
//! follower's clock: later than the truth by the ack's way. Acks come with syncs and heartbeats, so of
//! several entries applied between two of them, all count as applied with the last. What was applied before
//! it was acknowledged (others made the quorum) took no time.
//!
//! # Invariants
//!
//! - Every entry appended here is counted once in every stage, at its first acknowledgement (apply: when it is
//!   first known to be applied). Queue + network + disk = lag, in whole microseconds.
//! - Work is done for each append and ack, not for each entry. Memory is bounded: see [`Times`].
//!
//! What was in the log before this node led is not in the histograms: when it was appended is not known.

mod times;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use hdrhistogram::Histogram;
use quorate_protocol::peer::Ack;
use quorate_protocol::{Index, NodeId};

use super::histograms::{self, Serialiser, micros};
use crate::replica::Time;

use times::Times;

/// The lag of all followers.
#[derive(Debug)]
pub(super) struct Lag {
    /// The entries after this one are measured.
    since: Index,
    last: Index,
    appended: Times,
    followers: BTreeMap<NodeId, FollowerLag>,
}

#[derive(Debug)]
struct FollowerLag {
    acknowledged: Index,
    applied: Index,
    /// When the entries above `acknowledged` were sent.
    sent: Times,
    /// When the entries from above `applied` to `acknowledged` were acknowledged.
    acknowledgements: Times,
    histograms: Histograms,
}

#[derive(Debug)]
struct Histograms {
    total: Histogram<u64>,
    queue: Histogram<u64>,
    network: Histogram<u64>,
    disk: Histogram<u64>,
    sync: Histogram<u64>,
    apply: Histogram<u64>,
    entries: Histogram<u64>,
}

/// A follower's histograms, serialised; all empty if nobody asked for them.
#[derive(Default)]
pub(super) struct LagSerialised {
    pub(super) total: Vec<u8>,
    pub(super) queue: Vec<u8>,
    pub(super) network: Vec<u8>,
    pub(super) disk: Vec<u8>,
    pub(super) sync: Vec<u8>,
    pub(super) apply: Vec<u8>,
    pub(super) entries: Vec<u8>,
}

impl Lag {
    /// Begins to measure what is appended after `last`.
    pub(super) fn new(followers: impl Iterator<Item = NodeId>, last: Index) -> Self {
        let followers = followers.map(|node| (node, FollowerLag::new())).collect();
        Self { since: last, last, appended: Times::default(), followers }
    }

    /// The entries from `first` to `last` were appended now.
    pub(super) fn appended(&mut self, first: Index, last: Index, now: Time) {
        if !self.followers.is_empty() {
            self.last = last;
            self.appended.push(first, now);
        }
    }

    /// The entries from `first` on were sent to a follower now.
    pub(super) fn sent(&mut self, node: NodeId, first: Index, now: Time) {
        if let Some(follower) = self.followers.get_mut(&node) {
            follower.sent.push(first, now);
        }
    }

    /// An ack was received, of which the replica takes the indexes for true.
    pub(super) fn acknowledged(&mut self, node: NodeId, ack: &Ack, now: Time) {
        let Some(follower) = self.followers.get_mut(&node) else { return };
        if ack.durable > follower.acknowledged {
            let first = follower.acknowledged.max(self.since) + 1;
            if ack.durable >= first {
                follower.histograms.entries.saturating_record((self.last + 1).saturating_sub(first));
                follower.record_acknowledged(first, &self.appended, ack, now);
            }
            follower.acknowledged = ack.durable;
            follower.sent.forget_below(ack.durable + 1);
        }
        follower.record_applied(self.since, ack, now);
        let all = self.followers.values().map(|follower| follower.acknowledged).min();
        self.appended.forget_below(all.map_or(0, |index| index + 1));
    }

    /// The age of the oldest entry that a follower has not acknowledged, in microseconds; 0 if there is none.
    /// Entries from before this node led count from when it began to.
    pub(super) fn now_us(&self, node: NodeId, now: Time) -> u64 {
        match self.followers.get(&node) {
            Some(follower) if follower.acknowledged < self.last => {
                let oldest = self.appended.of(follower.acknowledged + 1);
                oldest.map_or(0, |(appended, _)| micros(now.saturating_sub(appended)))
            }
            _ => 0,
        }
    }

    /// A follower's histograms.
    pub(super) fn serialised(&self, node: NodeId, serialiser: &mut Serialiser) -> LagSerialised {
        let Some(FollowerLag { histograms, .. }) = self.followers.get(&node) else {
            return LagSerialised::default();
        };
        LagSerialised {
            total: serialiser.bytes(&histograms.total),
            queue: serialiser.bytes(&histograms.queue),
            network: serialiser.bytes(&histograms.network),
            disk: serialiser.bytes(&histograms.disk),
            sync: serialiser.bytes(&histograms.sync),
            apply: serialiser.bytes(&histograms.apply),
            entries: serialiser.bytes(&histograms.entries),
        }
    }
}

impl FollowerLag {
    fn new() -> Self {
        Self {
            acknowledged: 0,
            applied: 0,
            sent: Times::default(),
            acknowledgements: Times::default(),
            histograms: Histograms::new(),
        }
    }

    /// The entries from `first` to the ack's durable index are acknowledged now.
    fn record_acknowledged(&mut self, first: Index, appended: &Times, ack: &Ack, now: Time) {
        let mut oldest_sent = None;
        let mut index = first;
        while index <= ack.durable {
            let (appended, appended_last) = appended.of(index).unwrap_or((now, Index::MAX));
            let (sent, sent_last) = self.sent.of(index).unwrap_or((appended, Index::MAX));
            let later = sent.saturating_sub(*oldest_sent.get_or_insert(sent));
            let through = ack.durable.min(appended_last).min(sent_last);
            self.histograms.record(&Stages::new(appended, sent, now, later, ack), through + 1 - index);
            index = through + 1;
        }
        self.acknowledgements.push(first, now);
    }

    /// The entries up to the ack's applied index are known to be applied now, as far as they are acknowledged.
    fn record_applied(&mut self, since: Index, ack: &Ack, now: Time) {
        let applied_at = now.saturating_sub(Time::from_micros(ack.applied_ago_us.into()));
        let last = ack.applied.min(self.acknowledged);
        let mut index = self.applied.max(since) + 1;
        while index <= last {
            let Some((acknowledged, acknowledged_last)) = self.acknowledgements.of(index) else { break };
            let through = last.min(acknowledged_last);
            let apply = micros(applied_at.saturating_sub(acknowledged));
            self.histograms.apply.saturating_record_n(apply, through + 1 - index);
            index = through + 1;
        }
        self.applied = self.applied.max(last);
        self.acknowledgements.forget_below(self.applied + 1);
    }
}

/// Where the time of an entry went, in microseconds: queue + network + disk = total, and sync ≤ disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Stages {
    total: u64,
    queue: u64,
    network: u64,
    disk: u64,
    sync: u64,
}

impl Stages {
    /// Of an entry that was sent `later` than the oldest one that the ack covers.
    fn new(appended: Time, sent: Time, acknowledged: Time, later: Time, ack: &Ack) -> Self {
        let (disk, sync) = (u64::from(ack.disk_us), u64::from(ack.sync_us));
        let total = micros(acknowledged.saturating_sub(appended));
        let queue = micros(sent.saturating_sub(appended)).min(total);
        let disk = disk.saturating_sub(micros(later)).max(sync).min(total - queue);
        Self { total, queue, network: total - queue - disk, disk, sync: sync.min(disk) }
    }
}

impl Histograms {
    fn new() -> Self {
        Self {
            total: histograms::of_micros(),
            queue: histograms::of_micros(),
            network: histograms::of_micros(),
            disk: histograms::of_micros(),
            sync: histograms::of_micros(),
            apply: histograms::of_micros(),
            entries: histograms::of_counts(),
        }
    }

    fn record(&mut self, stages: &Stages, entries: u64) {
        self.total.saturating_record_n(stages.total, entries);
        self.queue.saturating_record_n(stages.queue, entries);
        self.network.saturating_record_n(stages.network, entries);
        self.disk.saturating_record_n(stages.disk, entries);
        self.sync.saturating_record_n(stages.sync, entries);
    }
}
