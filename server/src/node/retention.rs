//! Which of the log is kept: what the two checkpoints need, always; what followers lack beyond that, up to so many
//! bytes.
//!
//! A follower that lacks an entry which was dropped is *stranded*: nothing that is here can bring it up to date. That
//! is said once, when the log drops what it is known to lack or when it turns out to lack what was dropped, and
//! shown in every status. Nothing is kept for it any more.

use quorate_protocol::{Index, NodeId, NodeSet};

use super::{Node, Outside};
use crate::log::LogCommand;
use crate::replica::{Flow, Input, Time};

impl Node {
    /// Lets the log go up to what both checkpoints cover and every follower holds, and further if that is too much.
    pub(super) fn drop_log(&mut self, outside: &mut impl Outside) {
        self.forget_stranded();
        let covered = self.checkpoints.covered();
        let within = self.reader.first_within(covered, self.settings.log_retention_bytes);
        let before = covered.min(self.lowest_needed_by_followers()).max(within);
        if before <= self.dropped_before {
            return;
        }
        self.dropped_before = before;
        // What a follower holds is not known until it has acknowledged something to this leader.
        let lacking = self.followers().filter(|(_, progress)| (1..before - 1).contains(&progress.durable));
        let lacking: Vec<_> = lacking.map(|(node, progress)| (node, progress.durable + 1)).collect();
        for (node, lacks) in lacking {
            self.strand(node, lacks, before);
        }
        outside.log(LogCommand::DropBefore(before));
    }

    /// Has entries read for a follower, unless they were dropped.
    pub(super) fn read_log(
        &mut self,
        now: Time,
        to: NodeId,
        from: Index,
        bytes_max: usize,
        outside: &mut impl Outside,
    ) {
        let first = self.reader.first();
        if from >= first {
            return outside.read_log(to, from, bytes_max);
        }
        self.strand(to, from, first);
        self.step(now, Input::LogRead { to, entries: None });
    }

    pub(super) fn is_stranded(&self, node: NodeId) -> bool {
        self.stranded.contains(node)
    }

    /// The first entry that some follower may still lack and get from the log.
    pub(super) fn lowest_needed_by_followers(&self) -> Index {
        let followers = self.followers().filter(|(node, _)| !self.is_stranded(*node));
        followers.map(|(_, progress)| progress.durable + 1).min().unwrap_or(Index::MAX)
    }

    fn strand(&mut self, node: NodeId, lacks: Index, first: Index) {
        if self.is_stranded(node) {
            return;
        }
        self.stranded.insert(node);
        tracing::warn!(
            "node {node} cannot catch up: it lacks entry {lacks}, and the log begins at {first}, as more would take \
             over {} MiB (--log-retention-mib); the cluster goes on without it until checkpoints can be sent to \
             replicas; raise the setting before replicas are away for so long",
            self.settings.log_retention_bytes >> 20
        );
    }

    /// A follower that is fed from memory has got what it lacked in some other way.
    fn forget_stranded(&mut self) {
        if self.stranded.is_empty() {
            return;
        }
        let streaming = self.followers().filter(|(_, progress)| progress.flow == Flow::Streaming);
        let streaming: NodeSet = streaming.map(|(node, _)| node).collect();
        streaming.iter().for_each(|node| self.stranded.remove(node));
    }
}
