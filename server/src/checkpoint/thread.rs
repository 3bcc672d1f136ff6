//! The thread that writes one checkpoint while the node goes on.
//!
//! The event loop owns the state and produces blocks from it; this thread writes them. Between them is a
//! hand-over of [`BLOCKS_WAITING_MAX`] blocks: the loop makes a block only when
//! [`wants_block`](CheckpointThread::wants_block) says so, and asks again at each
//! [`WantsBlock`](CheckpointEvent::WantsBlock), so neither ever waits for the other.
//!
//! So that the log's syncs stay fast, the thread keeps to a rate, and syncs often: dirty pages never pile up
//! beyond [`SYNC_BYTES`].

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use std::{fmt, io};

use tracing::warn;

use crate::disk::Disk;

use super::{Block, CheckpointError, CheckpointHeader, CheckpointInfo, CheckpointWriter, KEPT, remove_older};

/// The rate bound unless another is set, in bytes per second.
pub const DEFAULT_BYTES_PER_SECOND: u64 = 16 << 20;

/// Blocks that were handed over and are not taken yet.
const BLOCKS_WAITING_MAX: usize = 2;

/// Bytes of blocks after which the file is synced.
const SYNC_BYTES: usize = 1 << 20;

/// What the thread reports.
#[derive(Debug)]
pub enum CheckpointEvent {
    /// There is room for a block. [`CheckpointThread::wants_block`] has the last word.
    WantsBlock,
    /// The checkpoint is durable, and older ones than the newest two are gone. The last event.
    Written(CheckpointInfo),
    /// There will be no checkpoint. The last event.
    Failed(CheckpointError),
}

/// A checkpoint that is being written by a thread of its own. Dropped before its last event, it is given up
/// and its temporary file removed; that waits for at most the disk operation under way, or for the end if all
/// blocks are written, never for the rate. No event comes once it is dropped.
pub struct CheckpointThread {
    shared: Arc<Shared>,
    handle: Option<JoinHandle<()>>,
}

struct Shared {
    handover: Mutex<Handover>,
    changed: Condvar,
}

#[derive(Default)]
struct Handover {
    blocks: VecDeque<Block>,
    /// No further block will come.
    complete: bool,
    /// The thread takes no further block.
    ended: bool,
    /// The thread is done with the disk.
    left: bool,
}

/// Says that the thread is done with the disk, also if it panicked.
struct Leaving<'a>(&'a Shared);

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.lock().left = true;
        self.0.changed.notify_all();
    }
}

impl CheckpointThread {
    /// Starts the thread. `bytes_per_second` bounds the rate, 0 means no bound. `on_event` is called in the
    /// thread and must not block.
    pub fn start(
        disk: Arc<dyn Disk>,
        directory: PathBuf,
        header: CheckpointHeader,
        bytes_per_second: u64,
        on_event: impl Fn(CheckpointEvent) + Send + 'static,
    ) -> io::Result<Self> {
        let shared = Arc::new(Shared { handover: Mutex::default(), changed: Condvar::new() });
        let task = Task { disk, directory, header, bytes_per_second, on_event, shared: Arc::clone(&shared) };
        let handle = thread::Builder::new().name("checkpoint".into()).spawn(move || task.run())?;
        Ok(Self { shared, handle: Some(handle) })
    }

    /// Whether [`block`](Self::block) may be called now.
    pub fn wants_block(&self) -> bool {
        self.shared.lock().wants_block()
    }

    /// Hands over the next block. Dropped if the thread has ended meanwhile: an event says why.
    ///
    /// # Panics
    ///
    /// If there is no room, or [`complete`](Self::complete) was called: ask
    /// [`wants_block`](Self::wants_block) first.
    pub fn block(&self, block: Block) {
        let mut handover = self.shared.lock();
        if handover.ended {
            return;
        }
        assert!(handover.wants_block(), "a block that nobody asked for");
        handover.blocks.push_back(block);
        self.shared.changed.notify_one();
    }

    /// Says that the last block was handed over: the checkpoint is finished once they are written.
    pub fn complete(&self) {
        self.shared.lock().complete = true;
        self.shared.changed.notify_one();
    }

    /// Gives the checkpoint up as dropping does, but waits for that at most `patience`. False if the disk does not
    /// answer: the thread is left to itself, and the directory is not to be used again by this process.
    pub fn give_up(mut self, patience: Duration) -> bool {
        self.shared.end();
        let has_left = self.shared.wait_left(patience);
        if !has_left {
            drop(self.handle.take());
        }
        has_left
    }
}

impl Drop for CheckpointThread {
    fn drop(&mut self) {
        self.shared.end();
        if let Some(handle) = self.handle.take() {
            // Joined, so that a next checkpoint never meets this one's temporary file. If the thread
            // panicked, its message is already out, and the checkpoint is given up in any case.
            let _ = handle.join();
        }
    }
}

impl fmt::Debug for CheckpointThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CheckpointThread").finish_non_exhaustive()
    }
}

impl Handover {
    fn wants_block(&self) -> bool {
        !self.complete && !self.ended && self.blocks.len() < BLOCKS_WAITING_MAX
    }
}

/// What the thread does next.
enum Next {
    Block(Block),
    Finish,
    GiveUp,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Handover> {
        // A poisoned hand-over is still a queue and two flags, each whole at any time.
        self.handover.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn end(&self) {
        self.lock().ended = true;
        self.changed.notify_one();
    }

    fn next(&self) -> Next {
        let idle =
            |handover: &mut Handover| handover.blocks.is_empty() && !handover.complete && !handover.ended;
        let mut handover = match self.changed.wait_while(self.lock(), idle) {
            Ok(handover) => handover,
            Err(poisoned) => poisoned.into_inner(),
        };
        if handover.ended {
            return Next::GiveUp;
        }
        handover.blocks.pop_front().map_or(Next::Finish, Next::Block)
    }

    /// Waits until the thread is done with the disk; false if it is not within `patience`.
    fn wait_left(&self, patience: Duration) -> bool {
        match self.changed.wait_timeout_while(self.lock(), patience, |handover| !handover.left) {
            Ok((handover, _)) => handover.left,
            Err(poisoned) => poisoned.into_inner().0.left,
        }
    }

    /// Waits until `due`, or until the checkpoint is given up.
    fn wait_until(&self, due: Instant) {
        let wait = due.saturating_duration_since(Instant::now());
        if !wait.is_zero() {
            // Whoever wakes up asks `next`, so the outcome does not matter here.
            let _ = self.changed.wait_timeout_while(self.lock(), wait, |handover| !handover.ended);
        }
    }
}

/// When the next block may be written.
struct Pace {
    bytes_per_second: u64,
    due: Instant,
}

impl Pace {
    /// Notes `bytes` written at `now`, and returns when to go on. Time that went by unused is no credit:
    /// bursts are what the bound is against.
    fn after(&mut self, bytes: usize, now: Instant) -> Instant {
        if self.bytes_per_second > 0 {
            let seconds = bytes as f64 / self.bytes_per_second as f64;
            self.due = self.due.max(now) + Duration::from_secs_f64(seconds);
        }
        self.due
    }
}

struct Task<F> {
    disk: Arc<dyn Disk>,
    directory: PathBuf,
    header: CheckpointHeader,
    bytes_per_second: u64,
    on_event: F,
    shared: Arc<Shared>,
}

impl<F: Fn(CheckpointEvent)> Task<F> {
    fn run(&self) {
        let outcome = self.write_and_leave();
        match outcome {
            Ok(Some(info)) => (self.on_event)(CheckpointEvent::Written(info)),
            Ok(None) => {}
            Err(error) => (self.on_event)(CheckpointEvent::Failed(error)),
        }
    }

    fn write_and_leave(&self) -> Result<Option<CheckpointInfo>, CheckpointError> {
        let _leaving = Leaving(&self.shared);
        let outcome = self.write();
        self.shared.end();
        outcome
    }

    /// `None` if the checkpoint was given up.
    fn write(&self) -> Result<Option<CheckpointInfo>, CheckpointError> {
        let mut writer = CheckpointWriter::create(Arc::clone(&self.disk), &self.directory, &self.header)?;
        let filled = self.fill(&mut writer);
        if !matches!(filled, Ok(true)) {
            if let Err(error) = writer.discard() {
                warn!("{error}; the next start removes it");
            }
            return filled.map(|_| None);
        }
        let info = writer.finish()?;
        if let Err(error) = remove_older(&*self.disk, &self.directory, KEPT) {
            warn!("{error}; the next checkpoint tries again");
        }
        Ok(Some(info))
    }

    /// Writes blocks as they come; false if the checkpoint was given up.
    fn fill(&self, writer: &mut CheckpointWriter) -> Result<bool, CheckpointError> {
        let mut pace = Pace { bytes_per_second: self.bytes_per_second, due: Instant::now() };
        let mut unsynced_bytes = 0;
        loop {
            let block = match self.shared.next() {
                Next::Block(block) => block,
                Next::Finish => return Ok(true),
                Next::GiveUp => return Ok(false),
            };
            (self.on_event)(CheckpointEvent::WantsBlock);
            writer.block(&block)?;
            unsynced_bytes += block.bytes();
            if unsynced_bytes >= SYNC_BYTES {
                writer.sync()?;
                unsynced_bytes = 0;
            }
            self.shared.wait_until(pace.after(block.bytes(), Instant::now()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pace_keeps_to_its_rate_and_gives_no_credit_for_idle_time() {
        let start = Instant::now();
        let mut pace = Pace { bytes_per_second: 1000, due: start };
        assert_eq!(pace.after(500, start), start + Duration::from_millis(500));
        assert_eq!(pace.after(500, start), start + Duration::from_secs(1));
        let late = start + Duration::from_secs(60);
        assert_eq!(pace.after(1000, late), late + Duration::from_secs(1));
    }

    #[test]
    fn a_rate_of_zero_is_no_bound() {
        let start = Instant::now();
        let mut pace = Pace { bytes_per_second: 0, due: start };
        assert_eq!(pace.after(usize::MAX, start), start);
    }
}
