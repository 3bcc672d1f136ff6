//! The log in a thread of its own.
//!
//! The event loop [submits](LogThread::submit) and never waits. The thread takes everything that is queued and
//! has the [worker](LogWorker) do it, so a batch is whatever arrived during the last sync.
//!
//! After a failure it reports that once, and refuses everything further: the node stops. Without room it tries
//! again every [`RETRY`] until there is some.

use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use super::worker::{LogCommand, LogCounters, LogEvent, LogWorker};
use super::{Log, LogError};

/// How long whoever drops a thread waits for its end.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// How long nothing is tried when there was no room.
const RETRY: Duration = Duration::from_millis(100);

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
        let spawn_error = LogError::io("start a thread for", &log.directory);
        let worker = LogWorker::new(log, settings.batch_bytes_max);
        let counters = Arc::clone(worker.counters());
        let mark_after = settings.mark_after;
        let shell = Shell { worker, mark_after, report, queue: Arc::clone(&queue), taken: Vec::new() };
        let ended = Ended(Arc::clone(&queue));
        let thread = thread::Builder::new().name("log".to_owned()).spawn(move || {
            let _ended = ended;
            // Dropped before that is said: the log waits for the thread that prepares segments.
            let mut shell = shell;
            shell.run();
        });
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

    /// Does what is queued, syncs and marks everything, and ends the thread, and with it the one that prepares
    /// segments; waits for that at most `patience`.
    pub fn stop(&mut self, patience: Duration) -> Stopped {
        let mut state = self.queue.lock();
        state.stopping = true;
        self.queue.submitted.notify_one();
        if self.thread.is_some() {
            let ended = self.queue.ended.wait_timeout_while(state, patience, |state| !state.has_ended);
            state = ended.expect("nothing panics while it holds this lock").0;
        }
        let (has_ended, is_finished) = (state.has_ended, state.is_finished);
        drop(state);
        if let Some(thread) = self.thread.take() {
            if !has_ended {
                return Stopped::Hung;
            }
            if thread.join().is_err() {
                tracing::error!("the log thread panicked");
            }
        }
        if is_finished { Stopped::Finished } else { Stopped::Unfinished }
    }

    /// Leaves the thread to itself: a call to the disk that never returns cannot be waited for. The directory is
    /// not to be used again by this process.
    pub fn abandon(&mut self) {
        drop(self.thread.take());
    }
}

/// How a log thread has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// Everything is on the disk, and marked.
    Finished,
    /// It failed, which it has reported, or there was no room.
    Unfinished,
    /// The disk does not answer; the thread is left to itself.
    Hung,
}

impl Drop for LogThread {
    fn drop(&mut self) {
        if self.thread.is_some() && self.stop(STOP_PATIENCE) == Stopped::Hung {
            tracing::error!("the log's disk does not answer: its thread is left to itself");
        }
    }
}

/// Says that a thread has ended, also if it panicked.
struct Ended(Arc<Queue>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.lock().has_ended = true;
        self.0.ended.notify_all();
    }
}

#[derive(Default)]
struct Queue {
    state: Mutex<QueueState>,
    submitted: Condvar,
    ended: Condvar,
}

#[derive(Default)]
struct QueueState {
    commands: Vec<(Instant, LogCommand)>,
    /// The thread waits and nobody has woken it.
    asleep: bool,
    /// Nothing more is taken in.
    stopping: bool,
    /// Everything is done, durable and marked.
    is_finished: bool,
    /// The thread has ended, whatever it has done.
    has_ended: bool,
}

impl Queue {
    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().expect("nothing panics while it holds this lock")
    }
}

struct Shell<R> {
    worker: LogWorker,
    mark_after: Duration,
    report: R,
    queue: Arc<Queue>,
    /// Kept for its memory.
    taken: Vec<(Instant, LogCommand)>,
}

impl<R: Fn(LogEvent)> Shell<R> {
    fn run(&mut self) {
        let end = loop {
            match self.take() {
                Ok(ControlFlow::Continue(())) => {}
                Ok(ControlFlow::Break(())) => break self.worker.finish(),
                Err(error) => break Err(error),
            }
            if let Err(error) = self.work() {
                break Err(error);
            }
        };
        let mut state = self.queue.lock();
        match end {
            Ok(is_finished) => state.is_finished = is_finished,
            Err(error) => {
                state.stopping = true;
                state.commands.clear();
                drop(state);
                (self.report)(LogEvent::Failed(error));
            }
        }
    }

    fn work(&mut self) -> Result<(), LogError> {
        while let Some(event) = self.worker.step(Instant::now)? {
            (self.report)(event);
        }
        Ok(())
    }

    fn mark(&mut self) -> Result<(), LogError> {
        self.worker.push_mark();
        self.work()
    }

    /// Waits for commands and takes all there are, or until it is time to try again; breaks when there will be no
    /// more. Marks what is durable when nothing comes for a while.
    fn take(&mut self) -> Result<ControlFlow<()>, LogError> {
        loop {
            let mut state = self.queue.lock();
            let idle = |state: &mut QueueState| {
                state.asleep = state.commands.is_empty() && !state.stopping;
                state.asleep
            };
            let poisoned = "nothing panics while it holds this lock";
            let patience = match () {
                () if self.worker.is_blocked() => Some(RETRY),
                () if self.worker.needs_mark() => Some(self.mark_after),
                () => None,
            };
            state = match patience {
                Some(patience) => {
                    self.queue.submitted.wait_timeout_while(state, patience, idle).expect(poisoned).0
                }
                None => self.queue.submitted.wait_while(state, idle).expect(poisoned),
            };
            state.asleep = false;
            let stopping = state.stopping;
            std::mem::swap(&mut state.commands, &mut self.taken);
            drop(state);
            let came = !self.taken.is_empty();
            for (at, command) in self.taken.drain(..) {
                self.worker.push(at, command);
            }
            if came || self.worker.is_blocked() && !stopping {
                return Ok(ControlFlow::Continue(()));
            }
            if stopping {
                return Ok(ControlFlow::Break(()));
            }
            self.mark()?;
        }
    }
}
