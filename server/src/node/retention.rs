//! Which of the log is kept: what the two checkpoints need, always; what followers lack beyond that, up to so many
//! bytes.
//!
//! A follower that lacks an entry which was dropped gets a checkpoint, and then what follows it: the log from there is
//! kept for it, up to the same bound. Where that is not enough the bound wins, and it gets a newer checkpoint.

use quorate_protocol::{Index, NodeId};

use super::{Node, Outside};
use crate::log::LogCommand;
use crate::replica::{Input, LogRead, Progress, Time};

impl Node {
    /// Lets the log go up to what both checkpoints cover and every follower holds, and further if that is too much.
    pub(super) fn drop_log(&mut self, outside: &mut impl Outside) {
        let covered = self.checkpoints.covered();
        let within = self.reader.first_within(covered, self.settings.log_retention_bytes);
        let before = covered.min(self.lowest_needed_by_followers()).max(within);
        if before > self.dropped_before {
            self.dropped_before = before;
            outside.log(LogCommand::DropBefore(before));
        }
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
        match from < self.reader.first() {
            true => self.step(now, Input::LogRead { to, read: LogRead::Dropped }),
            false => outside.read_log(to, from, bytes_max),
        }
    }

    /// The first entry that some follower may still lack and get from the log.
    pub(super) fn lowest_needed_by_followers(&self) -> Index {
        let first = self.reader.first();
        self.followers().map(|(_, progress)| first_needed(progress, first)).min().unwrap_or(Index::MAX)
    }
}

/// The first entry that a follower may need of a log which begins at `first`.
fn first_needed(progress: &Progress, first: Index) -> Index {
    let lacks = progress.durable + 1;
    match progress.transfer {
        Some(transfer) if lacks < first => match transfer.checkpoint {
            Some(checkpoint) => checkpoint.index + 1,
            None => first,
        },
        // What it holds is not known until it has acknowledged something to this leader.
        None if progress.durable > 0 && lacks < first => Index::MAX,
        _ => lacks,
    }
}
