//! The log behind a queue: what is asked of it in order, as few syncs as possible.
//!
//! [`LogWorker::step`] does one thing and says what came of it: it merges the appends of one generation that
//! follow each other, writes them with one write and one sync, and reports once. So a batch is whatever was
//! queued when it began. [`LogThread`](super::LogThread) is a thread around it; simulations call it themselves.
//!
//! # Without room
//!
//! A batch for which there is no room stays at the front, as it is, and is tried again by the next step; it has
//! been acknowledged to nobody. Only dropping old segments goes ahead of it, as that may make the room.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_protocol::Index;

use super::{Log, LogError, LogReader};

/// What the log is asked to do. Commands are done in the order in which they were given, but for
/// [`DropBefore`](Self::DropBefore), which comes first, as far as it is not about entries that are still to be cut.
#[derive(Debug)]
pub enum LogCommand {
    /// Append entries.
    Append {
        /// Comes back with the event. Truncation raises it, so that a stale event can be told (R12).
        generation: u64,
        /// Index of the first entry.
        first: Index,
        /// Index of the last.
        last: Index,
        /// The highest known commit index.
        commit: Index,
        /// The entries, one after the other.
        entries: Bytes,
    },
    /// Take back every entry above `after`.
    Truncate {
        /// Comes back with the event.
        generation: u64,
        /// The last entry that stays.
        after: Index,
    },
    /// Remove the segments that hold only entries below this.
    DropBefore(Index),
    /// Begin anew behind `after`, empty: a durable checkpoint holds what was there, and what was asked before and has
    /// not been done yet is forgotten.
    Restart {
        /// Comes back with the event, which is [`LogEvent::Truncated`].
        generation: u64,
        /// The last entry that the checkpoint holds.
        after: Index,
    },
}

/// What the log reports.
#[derive(Debug)]
pub enum LogEvent {
    /// Everything up to `index` is durable, as far as the log's durability setting goes.
    Durable {
        /// Of the appends.
        generation: u64,
        /// The last entry.
        index: Index,
        /// From the submission of the batch's oldest append to now.
        queued: Duration,
        /// The write and the sync alone.
        sync: Duration,
        /// Entries in the batch.
        entries: u64,
        /// Their bytes.
        bytes: u64,
    },
    /// The log ends at `after`, durably.
    Truncated {
        /// Of the command.
        generation: u64,
        /// The last entry that stayed.
        after: Index,
    },
    /// Segments were removed.
    Dropped {
        /// The first entry that is left.
        first: Index,
    },
    /// There is no room for the next batch, for this reason. It is tried again until there is.
    Blocked(LogError),
    /// There is room again: the batch is written.
    Resumed,
    /// The log has stopped. The last event.
    Failed(LogError),
}

/// What the log has done since it was opened. Each is exact; read together they may be a batch apart.
#[derive(Debug, Default)]
pub struct LogCounters {
    syncs: AtomicU64,
    entries: AtomicU64,
    bytes: AtomicU64,
    busy_ns: AtomicU64,
}

impl LogCounters {
    /// Batches of entries written, each with one sync.
    pub fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::Relaxed)
    }

    /// Entries written.
    pub fn entries(&self) -> u64 {
        self.entries.load(Ordering::Relaxed)
    }

    /// Bytes of these entries.
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Time spent with writes and syncs.
    pub fn busy(&self) -> Duration {
        Duration::from_nanos(self.busy_ns.load(Ordering::Relaxed))
    }
}

/// Appends that become one batch.
struct Batch {
    generation: u64,
    first: Index,
    last: Index,
    commit: Index,
    bytes: usize,
    oldest: Instant,
    runs: Vec<Bytes>,
}

/// A log and what it is asked to do.
pub struct LogWorker {
    log: Log,
    /// Bytes of entries after which a batch is written, although more is queued; a single append may have more.
    batch_bytes_max: usize,
    counters: Arc<LogCounters>,
    queue: VecDeque<(Instant, LogCommand)>,
    drop_before: Option<Index>,
    /// What was dropped last, as far as it was asked for.
    dropped_before: Index,
    owes_mark: bool,
    /// The batch that is written next, and never changed any more.
    batch: Option<Batch>,
    is_blocked: bool,
    /// To be reported by the next step.
    reported_next: Option<LogEvent>,
    /// Kept for their memory.
    runs: Vec<Bytes>,
}

impl LogWorker {
    /// A worker for an open log; `batch_bytes_max` as in [`LogThreadSettings`](super::LogThreadSettings).
    pub fn new(log: Log, batch_bytes_max: usize) -> Self {
        Self {
            // Recovery may have found no room for it.
            owes_mark: log.needs_mark(),
            log,
            batch_bytes_max,
            counters: Arc::default(),
            queue: VecDeque::new(),
            drop_before: None,
            dropped_before: 0,
            batch: None,
            is_blocked: false,
            reported_next: None,
            runs: Vec::new(),
        }
    }

    /// Asks for something, at a time.
    pub fn push(&mut self, at: Instant, command: LogCommand) {
        match command {
            LogCommand::DropBefore(index) => self.drop_before = self.drop_before.max(Some(index)),
            LogCommand::Restart { .. } => {
                self.queue.clear();
                self.batch = None;
                self.queue.push_back((at, command));
            }
            command => self.queue.push_back((at, command)),
        }
    }

    /// Does the next thing, and says what came of it; `None` if nothing is left to do, or there is no room for it.
    /// `clock` is read before and after a batch is written; what it says is compared with what [`push`](Self::push)
    /// was told.
    pub fn step(&mut self, clock: impl Fn() -> Instant) -> Result<Option<LogEvent>, LogError> {
        if let Some(event) = self.reported_next.take() {
            return Ok(Some(event));
        }
        if let Some(index) = self.due_to_drop() {
            self.log.drop_before(index)?;
            return Ok(Some(LogEvent::Dropped { first: self.log.reader().first() }));
        }
        match self.write_next(&clock) {
            Ok(event) if std::mem::take(&mut self.is_blocked) => {
                self.reported_next = event;
                Ok(Some(LogEvent::Resumed))
            }
            Err(error) if error.is_no_room() => {
                let was_blocked = std::mem::replace(&mut self.is_blocked, true);
                Ok((!was_blocked).then_some(LogEvent::Blocked(error)))
            }
            other => other,
        }
    }

    /// Entries are dropped before all else, as that makes room; but not those that are still to be cut: the log would
    /// take them for committed.
    fn due_to_drop(&mut self) -> Option<Index> {
        let wanted = self.drop_before?;
        let cut = self.queue.iter().filter_map(|(_, command)| match command {
            LogCommand::Truncate { after, .. } => Some(after + 1),
            _ => None,
        });
        let due = cut.min().unwrap_or(wanted).min(wanted);
        if due == wanted {
            self.drop_before = None;
        } else if due <= self.dropped_before {
            return None;
        }
        self.dropped_before = due;
        Some(due)
    }

    /// What found no room the last time comes first, and is the same as then.
    fn write_next(&mut self, clock: &impl Fn() -> Instant) -> Result<Option<LogEvent>, LogError> {
        if self.owes_mark {
            self.log.mark(0)?;
            self.owes_mark = false;
        }
        if let Some(batch) = self.batch.take().or_else(|| self.gather()) {
            return self.write(batch, clock).map(Some);
        }
        let (generation, after) = match self.queue.front() {
            Some((_, LogCommand::Truncate { generation, after })) => {
                let (generation, after) = (*generation, *after);
                self.log.truncate(after)?;
                (generation, after)
            }
            Some((_, LogCommand::Restart { generation, after })) => {
                let (generation, after) = (*generation, *after);
                self.log.restart(after)?;
                (generation, after)
            }
            _ => return Ok(None),
        };
        self.queue.pop_front();
        Ok(Some(LogEvent::Truncated { generation, after }))
    }

    /// Makes everything durable and marks it, for the end. False if there is no room for what is left to do: it
    /// stays undone.
    pub fn finish(&mut self) -> Result<bool, LogError> {
        if self.is_blocked {
            return Ok(false);
        }
        match self.log.finish() {
            Err(error) if error.is_no_room() => Ok(false),
            done => done.map(|()| true),
        }
    }

    /// Whether the next thing waits for room.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Whether a mark is to be written when nothing is asked for a while.
    pub fn needs_mark(&self) -> bool {
        !self.is_blocked && self.log.needs_mark()
    }

    /// Asks for what is durable to be written down.
    pub fn push_mark(&mut self) {
        self.owes_mark = true;
    }

    /// A reader, for any thread.
    pub fn reader(&self) -> LogReader {
        self.log.reader()
    }

    /// What was done so far.
    pub fn counters(&self) -> &Arc<LogCounters> {
        &self.counters
    }

    /// Takes the appends at the front that can be one batch.
    fn gather(&mut self) -> Option<Batch> {
        let mut gathered: Option<Batch> = None;
        while let Some((_, LogCommand::Append { generation, first, entries, .. })) = self.queue.front() {
            if gathered.as_ref().is_some_and(|batch| {
                batch.generation != *generation
                    || batch.last + 1 != *first
                    || batch.bytes + entries.len() > self.batch_bytes_max
            }) {
                break;
            }
            let Some((at, LogCommand::Append { generation, first, last, commit, entries })) =
                self.queue.pop_front()
            else {
                break;
            };
            let batch = gathered.get_or_insert_with(|| Batch {
                generation,
                first,
                last,
                commit,
                bytes: 0,
                oldest: at,
                runs: std::mem::take(&mut self.runs),
            });
            batch.last = last;
            batch.commit = batch.commit.max(commit);
            batch.bytes += entries.len();
            batch.runs.push(entries);
        }
        gathered
    }

    fn write(&mut self, mut batch: Batch, clock: &impl Fn() -> Instant) -> Result<LogEvent, LogError> {
        let Batch { generation, first, last, commit, bytes, oldest, .. } = batch;
        let start = clock();
        if let Err(error) = self.log.append(&batch.runs, first, last, commit) {
            self.batch = Some(batch);
            return Err(error);
        }
        batch.runs.clear();
        self.runs = batch.runs;
        let now = clock();
        let sync = now - start;
        let (entries, bytes) = (last - first + 1, bytes as u64);
        let counters = &self.counters;
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        counters.entries.fetch_add(entries, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        counters.busy_ns.fetch_add(sync.as_nanos() as u64, Ordering::Relaxed);
        Ok(LogEvent::Durable { generation, index: last, queued: now - oldest, sync, entries, bytes })
    }
}
