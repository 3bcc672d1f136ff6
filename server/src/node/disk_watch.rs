//! Whether the log makes progress: a disk that is full or does not answer keeps a node from taking writes.
//!
//! A disk that hangs says nothing, so what was asked of the log is watched: if nothing has come back for a while
//! the disk counts as stalled, and beyond a limit the node stops, as nobody knows what such a disk will hold (R10).

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
    /// When the log last answered, or was asked while it had nothing to do.
    since: Time,
}

impl DiskWatch {
    /// The log was asked for something.
    pub(super) fn asked(&mut self, now: Time, command: &LogCommand) {
        let asked = match command {
            LogCommand::Append { generation, last, .. } => (*generation, *last),
            LogCommand::Truncate { generation, after } => (*generation, *after),
            LogCommand::DropBefore(_) => return,
        };
        if self.awaited.is_none() {
            self.since = now;
        }
        self.awaited = Some(asked);
    }

    /// The log has said something.
    pub(super) fn answered(&mut self, now: Time, event: &LogEvent) {
        self.since = now;
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

    /// For how long the log has been silent although it was asked; a full disk is not silent.
    pub(super) fn silent(&self, now: Time) -> Time {
        match self.awaited {
            Some(_) if !self.is_full => now.saturating_sub(self.since),
            _ => Time::ZERO,
        }
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
