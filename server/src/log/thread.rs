//! The log behind a queue: group commit.
//!
//! The event loop [submits](LogThread::submit) and never waits. The thread takes everything that is queued,
//! merges the appends of one generation that follow each other, writes them with one write and one sync, and
//! reports once. So the batch is whatever arrived during the last sync.
//!
//! After a failure it reports that once, and refuses everything further: the node stops.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_protocol::Index;

use super::{Log, LogError};

/// How the log thread works.
#[derive(Clone, Copy, Debug)]
pub struct LogThreadSettings {
    /// Rest after which a mark is written, so that the last batch is known to be durable.
    pub mark_after: Duration,
    /// Bytes of entries after which a batch is written, although more is queued; a single append may have more.
    pub batch_bytes_max: usize,
}

impl Default for LogThreadSettings {
    fn default() -> Self {
        Self { mark_after: Duration::from_millis(10), batch_bytes_max: 8 << 20 }
    }
}

/// What the log thread is asked to do. Commands are done in the order in which they were submitted.
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
}

/// What the log thread reports.
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
    /// The log has stopped. The last event.
    Failed(LogError),
}

/// What the log thread has done since it started. Each is exact; read together they may be a batch apart.
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

/// The running log thread. Dropping it stops it.
pub struct LogThread {
    queue: Arc<Queue>,
    counters: Arc<LogCounters>,
    thread: Option<JoinHandle<()>>,
}

impl LogThread {
    /// Starts the thread, which prepares segments ahead from now on. `report` is called in it, once per event
    /// and in the order of the commands, and should only hand the event on.
    pub fn start(
        mut log: Log,
        settings: LogThreadSettings,
        report: impl Fn(LogEvent) + Send + 'static,
    ) -> Result<Self, LogError> {
        log.prepare_ahead()?;
        let queue = Arc::new(Queue::default());
        let counters = Arc::new(LogCounters::default());
        let spawn_error = LogError::io("start a thread for", &log.directory);
        let mut worker = Worker {
            log,
            settings,
            report,
            queue: Arc::clone(&queue),
            counters: Arc::clone(&counters),
            batch: Vec::new(),
        };
        let thread = thread::Builder::new().name("log".to_owned()).spawn(move || worker.run());
        Ok(Self { queue, counters, thread: Some(thread.map_err(spawn_error)?) })
    }

    /// Queues a command and returns. The queue has no bound of its own: who submits bounds the entries that
    /// are not durable yet. After [`LogEvent::Failed`] commands are dropped.
    pub fn submit(&self, command: LogCommand) {
        let mut state = self.queue.lock();
        if state.stopping {
            return;
        }
        state.commands.push((Instant::now(), command));
        // Waking costs a system call, so only who sleeps is woken, and once.
        if std::mem::take(&mut state.asleep) {
            drop(state);
            self.queue.submitted.notify_one();
        }
    }

    /// What was done so far.
    pub fn counters(&self) -> &Arc<LogCounters> {
        &self.counters
    }

    /// Does what is queued, syncs and marks everything, and ends the thread. Returns whether that is done; if not,
    /// it has been reported why.
    pub fn stop(&mut self) -> bool {
        self.end();
        self.queue.lock().is_finished
    }

    fn end(&mut self) {
        self.queue.lock().stopping = true;
        self.queue.submitted.notify_one();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the log thread panicked");
        }
    }
}

impl Drop for LogThread {
    fn drop(&mut self) {
        self.end();
    }
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    submitted: Condvar,
}

#[derive(Default)]
struct QueueState {
    commands: Vec<(Instant, LogCommand)>,
    /// The thread waits and nobody has woken it.
    asleep: bool,
    /// Nothing more is taken in.
    stopping: bool,
    /// Everything is done, durable and marked, and the thread has ended.
    is_finished: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

/// Appends that become one batch.
struct Merged {
    generation: u64,
    first: Index,
    last: Index,
    commit: Index,
    bytes: usize,
    oldest: Instant,
}

struct Worker<R> {
    log: Log,
    settings: LogThreadSettings,
    report: R,
    queue: Arc<Queue>,
    counters: Arc<LogCounters>,
    /// The runs of the batch that is being gathered; kept for their memory.
    batch: Vec<Bytes>,
}

impl<R: Fn(LogEvent)> Worker<R> {
    fn run(&mut self) {
        let mut commands = Vec::new();
        let end = loop {
            match self.take(&mut commands) {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break self.log.finish(),
                Err(error) => break Err(error),
            }
            if let Err(error) = self.perform(&mut commands) {
                break Err(error);
            }
        };
        let mut state = self.queue.lock();
        match end {
            Ok(()) => state.is_finished = true,
            Err(error) => {
                state.stopping = true;
                state.commands.clear();
                drop(state);
                (self.report)(LogEvent::Failed(error));
            }
        }
    }

    /// Waits for commands and takes all there are; breaks when there will be no more. Marks what is durable
    /// when nothing comes for a while.
    fn take(&mut self, commands: &mut Vec<(Instant, LogCommand)>) -> Result<ControlFlow<()>, LogError> {
        loop {
            let mut state = self.queue.lock();
            let idle = |state: &mut QueueState| {
                state.asleep = state.commands.is_empty() && !state.stopping;
                state.asleep
            };
            let poisoned = "nothing panics while it holds this lock";
            if self.log.needs_mark() {
                let wait = self.queue.submitted.wait_timeout_while(state, self.settings.mark_after, idle);
                state = wait.expect(poisoned).0;
            } else {
                state = self.queue.submitted.wait_while(state, idle).expect(poisoned);
            }
            state.asleep = false;
            std::mem::swap(&mut state.commands, commands);
            if !commands.is_empty() {
                return Ok(ControlFlow::Continue(()));
            }
            if state.stopping {
                return Ok(ControlFlow::Break(()));
            }
            drop(state);
            self.log.mark(0)?;
        }
    }

    fn perform(&mut self, commands: &mut Vec<(Instant, LogCommand)>) -> Result<(), LogError> {
        let mut merged: Option<Merged> = None;
        for (submitted, command) in commands.drain(..) {
            match command {
                LogCommand::Append { generation, first, last, commit, entries } => {
                    match &mut merged {
                        Some(batch)
                            if batch.generation == generation
                                && batch.last + 1 == first
                                && batch.bytes + entries.len() <= self.settings.batch_bytes_max =>
                        {
                            batch.last = last;
                            batch.commit = batch.commit.max(commit);
                            batch.bytes += entries.len();
                        }
                        _ => {
                            self.write(merged.take())?;
                            let (bytes, oldest) = (entries.len(), submitted);
                            merged = Some(Merged { generation, first, last, commit, bytes, oldest });
                        }
                    }
                    self.batch.push(entries);
                }
                LogCommand::Truncate { generation, after } => {
                    self.write(merged.take())?;
                    self.log.truncate(after)?;
                    (self.report)(LogEvent::Truncated { generation, after });
                }
                LogCommand::DropBefore(index) => {
                    self.write(merged.take())?;
                    self.log.drop_before(index)?;
                    (self.report)(LogEvent::Dropped { first: self.log.reader().first() });
                }
            }
        }
        self.write(merged)
    }

    fn write(&mut self, merged: Option<Merged>) -> Result<(), LogError> {
        let Some(Merged { generation, first, last, commit, bytes, oldest }) = merged else { return Ok(()) };
        let start = Instant::now();
        self.log.append(&self.batch, first, last, commit)?;
        self.batch.clear();
        let now = Instant::now();
        let sync = now - start;
        let (entries, bytes) = (last - first + 1, bytes as u64);
        let counters = &self.counters;
        counters.syncs.fetch_add(1, Ordering::Relaxed);
        counters.entries.fetch_add(entries, Ordering::Relaxed);
        counters.bytes.fetch_add(bytes, Ordering::Relaxed);
        counters.busy_ns.fetch_add(sync.as_nanos() as u64, Ordering::Relaxed);
        let queued = now - oldest;
        (self.report)(LogEvent::Durable { generation, index: last, queued, sync, entries, bytes });
        Ok(())
    }
}
