//! Whether the log makes progress: a disk that is full or does not answer keeps a node from taking writes.
//!
//! A disk that hangs says nothing, so what was asked of the log is watched: if nothing has come back for a while
//! the disk counts as stalled, and beyond a limit the node stops, as nobody knows what such a disk will hold (R10).
//!
//! Silence is what passes from tick to tick while the node runs: a process that was stopped and goes on has not been
//! waiting for its disk.

use quorate_protocol::Index;
use quorate_protocol::response::Obstacle;

use crate::log::{LogCommand, LogEvent};
use crate::replica::Time;

/// The last thing asked of the log: a generation, and the index that its answer names.
type Asked = (u64, Index);

/// What is known of the log's progress.
#[derive(Debug, Default)]
pub(super) struct DiskWatch {
    is_full: bool,
    is_stalled: bool,
    awaited: Option<Asked>,
    /// For how long it has been silent since it last answered, or was asked while it had nothing to do.
    silent: Time,
    /// The last tick.
    ticked: Time,
}

impl DiskWatch {
    /// The log was asked for something.
    pub(super) fn asked(&mut self, command: &LogCommand) {
        let asked = match command {
            LogCommand::Append { generation, last, .. } => (*generation, *last),
            LogCommand::Truncate { generation, after } | LogCommand::Restart { generation, after } => {
                (*generation, *after)
            }
            LogCommand::DropBefore(_) => return,
        };
        if self.awaited.is_none() {
            self.silent = Time::ZERO;
        }
        self.awaited = Some(asked);
    }

    /// The log has said something.
    pub(super) fn answered(&mut self, event: &LogEvent) {
        self.silent = Time::ZERO;
        let done = match event {
            LogEvent::Durable { generation, index, .. } => (*generation, *index),
            LogEvent::Truncated { generation, after } => (*generation, *after),
            LogEvent::Blocked(_) => return self.is_full = true,
            LogEvent::Resumed => return self.is_full = false,
            LogEvent::Dropped { .. } | LogEvent::Failed(_) => return,
        };
        if self.awaited == Some(done) {
            self.awaited = None;
        }
    }

    /// Time has passed; no tick counts for more than `tick_max`. Returns for how long the log has been silent although
    /// it was asked; a full disk is not silent.
    pub(super) fn tick(&mut self, now: Time, tick_max: Time) -> Time {
        let passed = now.saturating_sub(std::mem::replace(&mut self.ticked, now));
        self.silent = match self.awaited {
            Some(_) if !self.is_full => self.silent + passed.min(tick_max),
            _ => Time::ZERO,
        };
        self.silent
    }

    /// Takes note of whether the disk counts as stalled, and returns whether that is new.
    pub(super) fn set_stalled(&mut self, is_stalled: bool) -> bool {
        std::mem::replace(&mut self.is_stalled, is_stalled) != is_stalled
    }

    /// What keeps the node from taking writes.
    pub(super) fn obstacle(&self) -> Option<Obstacle> {
        match self {
            Self { is_stalled: true, .. } => Some(Obstacle::DiskStalled),
            Self { is_full: true, .. } => Some(Obstacle::DiskFull),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    const TICK_MAX: Time = Time::from_millis(50);

    fn millis(time: u64) -> Time {
        Time::from_millis(time)
    }

    /// At zero, and asked for an entry.
    fn asked() -> DiskWatch {
        let mut watch = DiskWatch::default();
        watch.asked(&LogCommand::Append {
            generation: 1,
            first: 1,
            last: 1,
            commit: 0,
            entries: Bytes::new(),
        });
        watch
    }

    #[test]
    fn silence_adds_up_from_tick_to_tick_until_there_is_an_answer() {
        let mut watch = asked();
        assert_eq!([5, 10, 15].map(|now| watch.tick(millis(now), TICK_MAX)), [5, 10, 15].map(millis));
        watch.answered(&LogEvent::Truncated { generation: 0, after: 0 });
        assert_eq!(watch.tick(millis(20), TICK_MAX), millis(5), "to something else");
        watch.answered(&LogEvent::Truncated { generation: 1, after: 1 });
        assert_eq!(watch.tick(millis(25), TICK_MAX), Time::ZERO);
    }

    #[test]
    fn a_process_that_was_stopped_has_not_been_waiting_for_its_disk() {
        let mut watch = asked();
        watch.tick(millis(5), TICK_MAX);
        assert_eq!(watch.tick(millis(3_600_000), TICK_MAX), millis(5) + TICK_MAX);
    }
}
